//! Dependencies of a coordinator: disks, network, wall clock.
//!
//! Deployments use the machine; `tests/sim` injects simulated ones.

use std::io;
use std::path::Path;
use std::sync::Arc;

use pghc_api::time::Micros;
use pghc_runtime::rpc::{self, Dial, Tcp, doors};
use pghc_runtime::task::Tasks;
use tokio::net::TcpListener;
use tonic::service::Routes;

use super::log::disk::{Directory, Disk};

/// Reads the wall clock. Only the leader's clock counts, as the proposed commit time.
pub type Clock = Arc<dyn Fn() -> Micros + Send + Sync>;

/// Serves the gRPC services until the tasks are cancelled.
pub type Serve = Box<dyn FnOnce(Routes, &Tasks) + Send>;

/// Dependencies of a coordinator.
pub struct Environment {
    /// Directory of the log.
    pub log: Arc<dyn Disk>,
    /// Directory of the snapshot.
    pub snapshots: Arc<dyn Disk>,
    /// Dials the other coordinators.
    pub dial: Arc<dyn Dial>,
    /// Serves incoming calls.
    pub serve: Serve,
    /// The wall clock.
    pub clock: Clock,
}

impl Environment {
    /// Uses this machine: files below `data`, TCP, the system's clock.
    ///
    /// # Errors
    /// If `data` cannot be created.
    pub fn machine(data: &Path, listener: TcpListener) -> io::Result<Self> {
        Self::machine_with(data, listener, doors::CONNECTIONS_MAX)
    }

    /// Same as [`Self::machine`], with at most `connections` connections.
    ///
    /// # Errors
    /// If `data` cannot be created.
    pub fn machine_with(
        data: &Path,
        listener: TcpListener,
        connections: usize,
    ) -> io::Result<Self> {
        Ok(Self {
            log: Arc::new(Directory::open(&data.join("log"))?),
            snapshots: Arc::new(Directory::open(data)?),
            dial: Arc::new(Tcp),
            serve: Box::new(move |routes, tasks| serve(listener, connections, routes, tasks)),
            clock: Arc::new(|| Micros(jiff::Timestamp::now().as_microsecond())),
        })
    }
}

fn serve(listener: TcpListener, connections: usize, routes: Routes, tasks: &Tasks) {
    let server = rpc::server().add_routes(routes);
    // Open connections get the signal too, else they would outlive the server.
    let end = tasks.signal().cancelled_owned();
    tasks.spawn("grpc server", async move {
        let incoming = Box::pin(doors::incoming(listener, connections, doors::PATIENCE));
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, end).await {
            tracing::error!(%error, "gRPC server failed");
        }
    });
}
