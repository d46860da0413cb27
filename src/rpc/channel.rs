//! Channels between pghc's processes: one HTTP/2 connection each, with windows wide enough for a
//! wide-area link and the cluster id on every call.

use std::time::Duration;

use pghc_api::id::ClusterId;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

/// Largest message either side accepts: a full append of several batches fits many times over.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Flow-control windows: window / round trip bounds a stream's throughput.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Metadata key that carries the cluster id.
const CLUSTER_KEY: &str = "pghc-cluster";

/// A channel that stamps the cluster id on every call.
pub type Caller = InterceptedService<Channel, ClusterCheck>;

/// Client side: adds the cluster id. Server side: refuses calls that carry another or none.
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

    /// The check a server puts before a service.
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
            Some(cluster) if *cluster == self.cluster => Ok(request),
            Some(_) => Err(Status::failed_precondition("the caller belongs to another cluster")),
            None => Err(Status::failed_precondition("the call carries no cluster id")),
        }
    }
}

/// Makes a channel to `url` (`http://host:port`) that connects when first used and again after a
/// failure. `patience` bounds a connection attempt and the silence after which a connection
/// counts as dead.
///
/// # Errors
/// If `url` is not a URL.
pub fn connect(
    url: &str,
    cluster: &ClusterId,
    patience: Duration,
) -> Result<Caller, tonic::transport::Error> {
    let channel = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(patience)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(patience)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_lazy();
    Ok(InterceptedService::new(channel, ClusterCheck::new(cluster, false)))
}

/// A server with the same windows.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
}
