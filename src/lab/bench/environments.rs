//! The environments of benchmark cases. Each is set up once; one environment is up at a time, and
//! the others are stopped, because even an idle server wakes up, checkpoints and cleans tables.

use std::path::Path;

use anyhow::Context as _;
use pghc_dev::deployment::Deployment;
use pghc_dev::scratch::Scratch;
use pghc_runtime::task::Tasks;

use super::bulk_over_wan;
use super::case::BenchEnvironment;
use super::servers::Servers;
use super::zones::Zones;
use crate::net::Remote;
use crate::site::{Site, SiteOptions};
use crate::target::Target;

/// The environments of a run. The owner must close the value, also after an error; a dropped value
/// stops its servers without a checkpoint and kills its deployment.
#[derive(Debug)]
pub struct BenchEnvironments {
    // Before the directory that holds their data, which is removed last.
    bare: Option<Servers>,
    replicas: Option<Servers>,
    site: Option<Site>,
    up: Option<BenchEnvironment>,
    options: SiteOptions,
    own_deployment: bool,
    tasks: Tasks,
    scratch: Scratch,
}

impl BenchEnvironments {
    /// Prepares a directory; nothing is started.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn new(options: &SiteOptions) -> anyhow::Result<Self> {
        let scratch = Scratch::new("bench").context("cannot make a temporary directory")?;
        let own_deployment = options.against.is_none();
        let mut options = options.clone();
        if own_deployment && options.data.is_none() {
            // A directory of ours, so that the deployment finds its chain again in each round.
            options.data = Some(scratch.path().join("deployment"));
        }
        Ok(Self {
            bare: None,
            replicas: None,
            site: None,
            up: None,
            options,
            own_deployment,
            tasks: Tasks::default(),
            scratch,
        })
    }

    /// Whether the deployment is one that this run starts and may stop.
    pub(super) fn has_own_deployment(&self) -> bool {
        self.own_deployment
    }

    /// Where probes may write.
    pub(super) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Tasks of connections.
    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Makes `wanted` the one that runs.
    ///
    /// # Errors
    /// When something of it does not start, or something else does not stop.
    pub(super) async fn bring(&mut self, wanted: BenchEnvironment) -> anyhow::Result<()> {
        if self.up == Some(wanted) {
            return Ok(());
        }
        self.rest().await?;
        let (directory, tasks) = (self.scratch.path(), &self.tasks);
        match wanted {
            BenchEnvironment::Servers => match &mut self.bare {
                Some(servers) => servers.wake(tasks).await?,
                None => self.bare = Some(Servers::bare(directory, tasks).await?),
            },
            BenchEnvironment::Replicas => match &mut self.replicas {
                Some(servers) => servers.wake(tasks).await?,
                None => self.replicas = Some(Servers::replicated(directory, tasks).await?),
            },
            BenchEnvironment::Deployment => self.site = Some(Site::open(&self.options).await?),
            BenchEnvironment::Continents => {
                let options = SiteOptions {
                    wan: Some(bulk_over_wan::MATRIX.to_owned()),
                    data: Some(directory.join("continents")),
                    ..SiteOptions::default()
                };
                self.site = Some(Site::open(&options).await?);
            }
        }
        self.up = Some(wanted);
        Ok(())
    }

    /// Stops what runs. A deployment that is not ours is left alone.
    async fn rest(&mut self) -> anyhow::Result<()> {
        match self.up.take() {
            Some(BenchEnvironment::Servers) => {
                self.bare.as_mut().context("bare servers were up")?.rest().await?;
            }
            Some(BenchEnvironment::Replicas) => {
                self.replicas.as_mut().context("replicas were up")?.rest().await?;
            }
            Some(BenchEnvironment::Deployment | BenchEnvironment::Continents) | None => {}
        }
        if let Some(site) = self.site.take() {
            site.close().await;
        }
        Ok(())
    }

    /// The servers that are up.
    ///
    /// # Errors
    /// When none are: a bug of the caller.
    pub(super) fn servers(&self) -> anyhow::Result<&Servers> {
        let servers = match self.up {
            Some(BenchEnvironment::Servers) => self.bare.as_ref(),
            Some(BenchEnvironment::Replicas) => self.replicas.as_ref(),
            _ => None,
        };
        servers.context("no servers are up")
    }

    /// The endpoints of the deployment that is up.
    ///
    /// # Errors
    /// When none is: a bug of the caller.
    pub(super) fn target(&self) -> anyhow::Result<&Target> {
        Ok(self.site.as_ref().context("no deployment is up")?.target())
    }

    /// Control of the distances in the deployment that is up.
    ///
    /// # Errors
    /// When there are none: a bug of the caller.
    pub(super) fn net(&self) -> anyhow::Result<Remote> {
        self.site.as_ref().and_then(Site::net).context("the deployment that is up has no distances")
    }

    /// The processes of the deployment that is up.
    ///
    /// # Errors
    /// When there is none, or when it is not ours to stop.
    pub(super) fn deployment(&self) -> anyhow::Result<&Deployment> {
        let deployment = self.site.as_ref().and_then(Site::deployment);
        deployment.context("only a deployment of our own may be stopped; leave out --against")
    }

    /// Connections to the databases of the deployment that is up.
    ///
    /// # Errors
    /// When one cannot be reached.
    pub(super) async fn zones(&self) -> anyhow::Result<Zones> {
        Zones::connect(self.target()?, &self.tasks).await
    }

    /// Stops everything that this run started.
    pub async fn close(mut self) {
        if let Err(error) = self.rest().await {
            tracing::warn!(error = format!("{error:#}"), "bench server stop failed");
        }
        self.tasks.shut_down().await;
    }
}
