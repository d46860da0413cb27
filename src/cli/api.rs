//! `pghc api`: one API node of a zone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pghc_api::id::{ClusterId, NodeName, ZoneName};
use pghc_api::limits::PAYLOAD_BYTES_MAX;
use pghc_postgres::{Commit, Dsn};
use pghc_runtime::connections::{TooFew, room_for};
use pghc_runtime::program::{Ends, SIGTERM, USAGE, complain, serves, url};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use pghc_server::http::{Api, Cors, LOCALHOST, Limits, REQUEST_BYTES_DEFAULT, serve};
use pghc_server::zone::audit::walk::Rate;
use pghc_server::zone::{Audit, Identity, Node, Settings};
use tokio::net::TcpListener;

/// Serves HTTP in a zone and applies the ordered writes to its PostgreSQL.
///
/// Exit code 0: told to end; 2: wrong usage or settings, nothing was started; 134 (SIGABRT): a panic, a bug
/// of pghc. The last event of a JSON log has the reason.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Cluster id, a UUID: the same for every process of the cluster.
    #[arg(long, env = "PGHC_CLUSTER_ID")]
    cluster_id: ClusterId,
    /// Zone it serves.
    #[arg(long, env = "PGHC_ZONE")]
    zone: ZoneName,
    /// Name of the node, `node_id` of the writes it accepts; no two nodes share one.
    #[arg(long, env = "PGHC_NODE")]
    node: NodeName,
    /// The zone's PostgreSQL, postgres://user@host:port/database. May come from the environment, so
    /// that a password is in no process list. Where it fails over, name all its servers:
    /// postgres://user@a,b/database?target_session_attrs=read-write.
    #[arg(long, env = "PGHC_DATABASE", hide_env_values = true)]
    database: Dsn,
    /// File whose first line is the password of `database` and of every replica; only its owner may
    /// read it. The file is read at every login. Without it, passfile=, PGPASSFILE and ~/.pgpass
    /// are used, as by PostgreSQL's own clients.
    #[arg(long, env = "PGHC_DATABASE_PASSWORD_FILE")]
    database_password_file: Option<PathBuf>,
    /// A physical replica of that PostgreSQL, in the same form; may be repeated. It serves reads
    /// that name a minimum id, and all reads while the primary is unreachable.
    #[arg(long = "replica", env = "PGHC_REPLICA", value_delimiter = '|', hide_env_values = true)]
    replicas: Vec<Dsn>,
    /// Address to serve HTTP on; loopback only, since this version speaks no TLS.
    #[arg(long, env = "PGHC_LISTEN")]
    listen: SocketAddr,
    /// Serve on an address that is not loopback, without encryption and without authentication:
    /// only for a network that no one else can reach.
    #[arg(long)]
    insecure_network: bool,
    /// URL of a coordinator; give all of them, nearest first.
    #[arg(long = "coordinator", env = "PGHC_COORDINATOR", value_delimiter = ',', required = true,
          value_parser = url)]
    coordinators: Vec<String>,
    /// Origin whose pages may call from a browser; `localhost` for pages of this machine, on any port. None
    /// when not given.
    #[arg(long = "cors-origin", env = "PGHC_CORS_ORIGIN", value_delimiter = ',', value_parser = origin)]
    cors_origins: Vec<String>,
    /// Largest body of one write in bytes, 1024 to 1048576.
    #[arg(long, env = "PGHC_PAYLOAD_BYTES_MAX", default_value_t = PAYLOAD_BYTES_MAX,
          value_parser = payload_bytes_max)]
    payload_bytes_max: usize,
    /// Bytes that all requests together may hold in memory: one half bodies on their way in, the other
    /// answers on their way out. A request that finds no room is answered 503. 33554432 at least.
    #[arg(long, env = "PGHC_REQUEST_BYTES", default_value_t = REQUEST_BYTES_DEFAULT,
          value_parser = request_bytes)]
    request_bytes: usize,
    /// Seconds for which a node keeps serving after SIGTERM while `/readyz` reports not ready, so
    /// that balancers send requests elsewhere before connections are refused. A second signal ends
    /// it.
    #[arg(long, env = "PGHC_DRAIN_S", default_value_t = 5,
          value_parser = clap::value_parser!(u16).range(..=3600))]
    drain_s: u16,
    /// Whether the applier's commits wait for the zone's disk. `off` is faster and loses nothing
    /// that was acknowledged: what a crash of the zone's database loses is applied again.
    #[arg(long, env = "PGHC_SYNCHRONOUS_COMMIT", default_value = "on")]
    synchronous_commit: OnOff,
    /// URL under which API nodes of other zones reach this one, to read missing links. Defaults to
    /// the URL of `listen`, unless that is a loopback address, which is useless on other machines:
    /// then no URL is advertised, and no zone can be backfilled from this node.
    #[arg(long, env = "PGHC_ADVERTISE", value_parser = url)]
    advertise: Option<String>,
    /// Rows a second at which the applier's node checks its zone's chain in the background; 0: never.
    #[arg(long, env = "PGHC_AUDIT_ROWS", default_value_t = 10_000)]
    audit_rows: u32,
    /// Payload bytes a second at which that check reads at most.
    #[arg(long, env = "PGHC_AUDIT_BYTES", default_value_t = 16 << 20,
          value_parser = clap::value_parser!(u32).range(1..))]
    audit_bytes: u32,
    /// Seconds from the beginning of one such check to that of the next, 1 at least.
    #[arg(long, env = "PGHC_AUDIT_PERIOD_S", default_value_t = 3600,
          value_parser = clap::value_parser!(u32).range(1..))]
    audit_period_s: u32,
    /// End when standard input ends (set by `pghc dev`).
    #[arg(long)]
    lifeline: bool,
    /// TOML file with any of these settings.
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

/// Files and connections that a node needs for itself: its sessions, coordinators and peers, its log.
const OWN_FILES: usize = 64;

/// Sessions of one replica, about.
const FILES_A_REPLICA: usize = 10;

/// Least that a node may take of one write.
const PAYLOAD_BYTES_MIN: usize = 1024;

/// A larger payload would fit no message between our processes.
fn payload_bytes_max(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|n| (PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(n));
    bytes.ok_or_else(|| format!("{text:?} is not {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX}"))
}

/// Least that all requests together may hold: a page and an answer of each half must fit.
const REQUEST_BYTES_MIN: usize = 32 << 20;

fn request_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| *bytes >= REQUEST_BYTES_MIN);
    bytes.ok_or_else(|| format!("{text:?} is not a number from {REQUEST_BYTES_MIN} on"))
}

/// Parses an origin as browsers send it. Any other form would never match, without a message.
fn origin(text: &str) -> Result<String, String> {
    let is_origin = |url: reqwest::Url| url.origin().ascii_serialization() == text;
    if text == LOCALHOST || text.parse().is_ok_and(is_origin) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not {LOCALHOST} and not an origin such as https://example.org"))
}

/// Whether an address means the same process when another machine uses it.
fn is_unique(at: SocketAddr) -> bool {
    !at.ip().is_loopback() && !at.ip().is_unspecified()
}

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(
        "--listen {0} is not a loopback address; this version speaks no TLS, so put a proxy that \
         does before it, or say --insecure-network if nobody else can reach that network"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {0}; is another process using the port?")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error(transparent)]
    TooFew(#[from] TooFew),
    #[error("a --coordinator is not a URL such as http://127.0.0.1:7101")]
    Coordinator(#[source] tonic::transport::Error),
}

impl Arguments {
    fn cors(&self) -> Cors {
        match self.cors_origins.as_slice() {
            [] => Cors::Closed,
            origins => Cors::Origins(origins.to_vec()),
        }
    }

    fn with_password(&self, dsn: &Dsn) -> Dsn {
        match &self.database_password_file {
            Some(path) => dsn.clone().with_password_file(path),
            None => dsn.clone(),
        }
    }

    async fn start(&self, tasks: &Tasks) -> Result<(TcpListener, Arc<Api>), StartError> {
        if !self.listen.ip().is_loopback() && !self.insecure_network {
            return Err(StartError::NotLoopback(self.listen));
        }
        let own = OWN_FILES + self.replicas.len() * FILES_A_REPLICA;
        let connections = room_for(own, Limits::default().connections)?;
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener.map_err(|error| StartError::Listen(self.listen, error))?;
        let metrics = Metrics::for_api_node(Api::routes());
        let (cluster, zone, node) = (self.cluster_id.clone(), self.zone.clone(), self.node.clone());
        let bound = listener.local_addr();
        let place = place(*bound.as_ref().unwrap_or(&self.listen));
        let api_url = match (&self.advertise, bound) {
            (Some(url), _) => url.clone(),
            // The bound address: port 0 means any free port.
            (None, Ok(at)) if is_unique(at) => format!("http://{at}"),
            _ => String::new(),
        };
        if api_url.is_empty() {
            tracing::warn!(
                listen = %self.listen,
                "no URL advertised: other zones cannot be filled from this one; set advertise to the URL under which \
                 they reach this node"
            );
        }
        let settings = Settings {
            identity: Identity { cluster, zone, node, api_url, place },
            database: self.with_password(&self.database),
            replicas: self.replicas.iter().map(|dsn| self.with_password(dsn)).collect(),
            commit: match self.synchronous_commit {
                OnOff::On => Commit::OnDisk,
                OnOff::Off => Commit::InMemory,
            },
            coordinators: self.coordinators.clone(),
            audit: (self.audit_rows > 0).then(|| Audit {
                rate: Rate { rows: self.audit_rows, bytes: self.audit_bytes },
                period: Duration::from_secs(self.audit_period_s.into()),
            }),
            metrics: Arc::clone(&metrics),
        };
        let node = Node::start(settings, tasks).map_err(StartError::Coordinator)?;
        let limits = Limits {
            body_bytes: self.payload_bytes_max,
            request_bytes: self.request_bytes,
            connections,
            ..Limits::default()
        };
        let shutdown = tokio_util::sync::CancellationToken::new();
        Ok((listener, Arc::new(Api::new(Arc::new(node), metrics, limits, shutdown))))
    }
}

/// Identifies a listening address among all machines: by the machine's boot and the process's
/// network, because the addresses of two containers may be equal.
fn place(bound: SocketAddr) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let network = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    format!("{} {} {bound}", boot.trim(), network.display())
}

/// Runs an API node until an end signal; requests in flight are finished first.
pub async fn run(args: Arguments) -> ExitCode {
    let tasks = Tasks::default();
    let (listener, api) = match args.start(&tasks).await {
        Ok(started) => started,
        Err(error) => return complain(&error, USAGE),
    };
    tracing::info!(zone = %args.zone, node = %args.node, listen = %args.listen, "API node started");
    serves();
    let (leaving, shutdown) = (api.leaving_signal(), api.shutdown_signal());
    let (lifeline, drain) = (args.lifeline, Duration::from_secs(args.drain_s.into()));
    tasks.spawn("signals", async move {
        let mut end = Ends::new(lifeline);
        let why = end.told().await;
        tracing::info!(why, "API node drain started");
        leaving.cancel();
        // Ctrl-C and the loss of the supervisor end the process without draining.
        if why == SIGTERM {
            tokio::select! {
                _ = end.told() => {}
                () = tokio::time::sleep(drain) => {}
            }
        }
        shutdown.cancel();
    });
    serve(listener, api, &args.cors()).await;
    tasks.shut_down().await;
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::{origin, payload_bytes_max};

    #[test]
    fn an_origin_is_as_browsers_send_it() {
        for good in ["localhost", "https://example.org", "http://localhost:3000"] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "example.org", "https://example.org/", "https://EXAMPLE.org", "null"] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_takes_no_more_than_its_messages_carry() {
        assert_eq!(payload_bytes_max("1048576"), Ok(1 << 20));
        for bad in ["0", "1048577", "-1", "1MiB"] {
            assert!(payload_bytes_max(bad).is_err(), "{bad}");
        }
    }
}
