//! Physical replicas of a server.

use pghc_runtime::private;

use super::directory::prepare_parent;
use super::error::Error;
use super::options::{SUPERUSER, ServerOptions};
use super::server::Server;
use crate::process::Process;

impl Server {
    /// Copies this server by `pg_basebackup` and starts the copy as a streaming replica that calls
    /// itself `name`, the way `synchronous_standby_names` knows it. The copy takes a checkpoint at
    /// once.
    ///
    /// # Errors
    /// See [`Error`]; no replica runs then, and this server is as before.
    pub async fn replica(&self, name: &str, options: ServerOptions) -> Result<Self, Error> {
        let mut options = options;
        options.data_dir = prepare_parent(&options.data_dir, self.directory.owner)?;
        // The backup makes its own directory only where its user may write.
        let made = private::create_dir(&options.data_dir);
        made.map_err(Error::io("create the data directory"))?;
        if let Some(owner) = self.directory.owner {
            owner.open_path(&options.data_dir)?;
            owner
                .take(&options.data_dir)
                .map_err(Error::io("give the data directory to its user"))?;
        }
        let mut backup = self.directory.command("pg_basebackup", &options.data_dir)?;
        let from = format!(
            "host='{}' port={} user={SUPERUSER} application_name={name}",
            self.directory.socket_dir.path().display(),
            self.directory.options.port
        );
        backup.args(["-R", "-X", "stream", "-c", "fast", "-d", &from]);
        if options.temporary {
            backup.arg("--no-sync");
        }
        backup.arg("-D").arg(&options.data_dir);
        let mut process = Process::default();
        process.spawn(&mut backup).map_err(Error::io("run pg_basebackup"))?;
        let status = process.exited().await.map_err(Error::io("run pg_basebackup"))?;
        let status = status.expect("it was just started");
        if !status.success() {
            return Err(Error::exited(status, &self.directory.options.log, self.log_start));
        }
        Self::start(options).await
    }
}
