//! What a coordinator stands on: disks, network, wall clock. A machine in every deployment, a
//! simulated one in `tests/sim`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use pghc_api::time::Micros;
use tokio::net::TcpListener;
use tonic::service::Routes;

use super::log::disk::{Directory, Disk};
use crate::rpc::{self, Dial, Tcp, doors};
use crate::task::Tasks;

/// Reads the wall clock. Only the leader's counts, and only as the proposed commit time.
pub type Clock = Arc<dyn Fn() -> Micros + Send + Sync>;

/// Serves the coordinator's gRPC services until the tasks are told to end.
pub type Serve = Box<dyn FnOnce(Routes, &Tasks) + Send>;

/// What a coordinator stands on.
pub struct Host {
    /// Directory of the log.
    pub log: Arc<dyn Disk>,
    /// Directory of the snapshot.
    pub snapshots: Arc<dyn Disk>,
    /// Reaches the other coordinators.
    pub dial: Arc<dyn Dial>,
    /// Is reached by others.
    pub serve: Serve,
    /// The wall clock.
    pub clock: Clock,
}

impl Host {
    /// This machine: files below `data`, TCP, the system's clock.
    ///
    /// # Errors
    /// If `data` cannot be made.
    pub fn machine(data: &Path, listener: TcpListener) -> io::Result<Self> {
        Self::machine_with(data, listener, doors::CONNECTIONS_MAX)
    }

    /// As [`Self::machine`], with so many connections at a time.
    ///
    /// # Errors
    /// If `data` cannot be made.
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
    // Open connections are told of the end too, else they would outlive it.
    let end = tasks.signal().cancelled_owned();
    tasks.spawn("grpc server", async move {
        let incoming = Box::pin(doors::incoming(listener, connections, doors::PATIENCE));
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, end).await {
            tracing::error!(%error, "the gRPC server ended");
        }
    });
}
