//! gRPC channels between pghc's processes: one HTTP/2 connection each.
//!
//! Windows suit a wide-area link, and every call carries the cluster id.

use std::time::Duration;

use pghc_api::id::ClusterId;
use tonic::body::Body;
use tonic::codegen::{StdError, http};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Status};
use tower::util::{BoxCloneSyncService, ServiceExt as _};

use super::doors::CallerInfo;

/// Largest message of a service that carries batches: several times the largest write or a batch
/// full of keys.
pub const BATCH_MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Largest message that either side accepts: many times a full append of several batches.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Flow-control windows: window / round trip bounds a stream's throughput.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Least time without a frame before a connection is pinged.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(1);

/// Metadata key that carries the cluster id.
const CLUSTER_KEY: &str = "pghc-cluster";

/// Carries calls to one process. Clones share a connection.
pub type Carrier = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, CarryError>;

/// A call failed in transit; the server may have executed it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CarryError(#[from] pub StdError);

/// Carrier that stamps the cluster id on every call.
pub type Caller = InterceptedService<Carrier, ClusterCheck>;

/// Creates carriers: the seam for the simulated network.
pub trait Dial: Send + Sync + 'static {
    /// Creates a carrier to `url` (`http://host:port`) that connects on first use and again after a
    /// failure. `rpc_timeout` bounds a connection attempt and the reply to a ping, which is sent
    /// after the same time of silence, one second at least.
    ///
    /// # Errors
    /// If `url` is not a URL.
    fn dial(&self, url: &str, patience: Duration) -> Result<Carrier, tonic::transport::Error>;

    /// Creates a caller to `url` for `cluster`.
    ///
    /// # Errors
    /// As [`Dial::dial`].
    fn caller(
        &self,
        url: &str,
        cluster: &ClusterId,
        patience: Duration,
    ) -> Result<Caller, tonic::transport::Error> {
        let carrier = self.dial(url, patience)?;
        Ok(InterceptedService::new(carrier, ClusterCheck::new(cluster, false)))
    }
}

/// HTTP/2 over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

/// Client side: adds the cluster id. Server side: rejects calls with another id or none.
#[derive(Debug, Clone)]
pub struct ClusterCheck {
    cluster: MetadataValue<Ascii>,
    serving: bool,
}

impl ClusterCheck {
    fn new(cluster: &ClusterId, serving: bool) -> Self {
        let cluster = cluster.as_str().parse().expect("a UUID is visible ASCII");
        Self { cluster, serving }
    }

    /// Returns the check for a server.
    #[must_use]
    pub fn serving(cluster: &ClusterId) -> Self {
        Self::new(cluster, true)
    }
}

impl Interceptor for ClusterCheck {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.serving {
            request.metadata_mut().insert(CLUSTER_KEY, self.cluster.clone());
            return Ok(request);
        }
        match request.metadata().get(CLUSTER_KEY) {
            Some(cluster) if *cluster == self.cluster => {
                if let Some(caller) = request.extensions().get::<CallerInfo>() {
                    caller.is_ours();
                }
                Ok(request)
            }
            Some(_) => Err(Status::failed_precondition("the caller belongs to another cluster")),
            None => Err(Status::failed_precondition("the call carries no cluster id")),
        }
    }
}

impl Dial for Tcp {
    fn dial(&self, url: &str, patience: Duration) -> Result<Carrier, tonic::transport::Error> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(patience)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(patience.max(KEEP_ALIVE_MIN))
            .keep_alive_timeout(patience)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_lazy();
        Ok(BoxCloneSyncService::new(channel.map_err(|error| CarryError(error.into()))))
    }
}

/// Creates a caller over TCP; see [`Dial`].
///
/// # Errors
/// If `url` is not a URL.
pub fn connect(
    url: &str,
    cluster: &ClusterId,
    patience: Duration,
) -> Result<Caller, tonic::transport::Error> {
    Tcp.caller(url, cluster, patience)
}

/// Creates a server with the same windows.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}
