//! `pghc coordinator`: one member of the Raft group.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use pghc_api::id::{ClusterId, ZoneName};
use pghc_runtime::geo::timing::ROUND_TRIP_MS_MAX;
use pghc_runtime::program::{USAGE, complain, complain_of, serves, told_to_end, url};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::{
    Acks, Coordinator, Geo, Retention, Settings, StartError, Timing, measured,
};
use pghc_server::http::serve_metrics;
use tokio::net::TcpListener;

/// Orders writes: one member of the Raft group.
///
/// Exit code 0: told to end; 1: it cannot go on, or its data is not its own; 2: wrong usage or settings,
/// nothing was started; 134 (SIGABRT): a panic, a bug of pghc. The last event of a JSON log has the reason.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Cluster id, a UUID: the same for every process of the cluster.
    #[arg(long, env = "PGHC_CLUSTER_ID")]
    cluster_id: ClusterId,
    /// This coordinator's id; never one that another coordinator has had.
    #[arg(long, env = "PGHC_ID", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Zone it stands in.
    #[arg(long, env = "PGHC_ZONE")]
    zone: ZoneName,
    /// Directory of its log and snapshot.
    #[arg(long, env = "PGHC_DATA")]
    data: PathBuf,
    /// Address to serve on; loopback only, since this version speaks no TLS.
    #[arg(long, env = "PGHC_LISTEN")]
    listen: SocketAddr,
    /// Serve on an address that is not loopback, without encryption and without authentication:
    /// only for a network that no one else can reach.
    #[arg(long)]
    insecure_network: bool,
    /// Every coordinator, this one too, as ID=ZONE=URL with the URL as reached from here. They found
    /// the group together; once it is founded these are addresses only, see `pghc members`.
    #[arg(long = "member", env = "PGHC_MEMBER", value_delimiter = ',', required = true)]
    members: Vec<MemberArg>,
    /// Wait to be added by `pghc members add` or `replace` instead of founding a group.
    #[arg(long, env = "PGHC_JOIN")]
    join: bool,
    /// Raft timing: `auto` uses the round trips measured at the start and in the last run, `lan` is
    /// for round trips up to 25 ms, `wan` for up to 200.
    #[arg(long, env = "PGHC_PROFILE", default_value = "auto")]
    profile: Profile,
    /// Raft timing for coordinators with at most this round trip in milliseconds between them;
    /// instead of `--profile`.
    #[arg(long, env = "PGHC_ROUND_TRIP_MS", value_parser = clap::value_parser!(u64).range(1..=ROUND_TRIP_MS_MAX))]
    round_trip_ms: Option<u64>,
    /// Whether the leader transfers leadership to where the writes are, until `pghc leader auto`
    /// changes it.
    #[arg(long, env = "PGHC_PLACEMENT", default_value = "manual")]
    placement: PlacementWord,
    /// Source of commits: `all-to-all`, each coordinator reports its durable position to all
    /// others, which count; `leader`, only the leader reports, half a round trip later.
    #[arg(long, env = "PGHC_ACKS", default_value = "all-to-all")]
    acks: AcksArg,
    /// Purging of the log starts when it takes more bytes than this and every registered zone has
    /// kept what is purged.
    #[arg(long, env = "PGHC_LOG_BYTES", default_value_t = Retention::default().log_bytes)]
    log_bytes: u64,
    /// Bytes of the log's disk to keep free: below, writes are refused until there is room again.
    #[arg(long, env = "PGHC_DISK_RESERVE", default_value_t = Retention::default().reserve_bytes)]
    disk_reserve: u64,
    /// Above this number of bytes the log is purged even if a zone still needs it: that zone is
    /// detached and must be backfilled from another one. Four times `--log-bytes` when not given.
    #[arg(long, env = "PGHC_LOG_BYTES_MAX")]
    log_bytes_max: Option<u64>,
    /// Loopback address to serve `/metrics` on, in Prometheus form; none when not given.
    #[arg(long, env = "PGHC_METRICS")]
    metrics: Option<SocketAddr>,
    /// End when standard input ends (set by `pghc dev`).
    #[arg(long)]
    lifeline: bool,
    /// TOML file with any of these settings.
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Raft timing profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// By the round trips to the coordinators that run at the start, and those of the last run;
    /// `wan` when none are known.
    Auto,
    /// Heartbeat 50 ms, election timeout up to 460 ms.
    Lan,
    /// Heartbeat 400 ms, election timeout up to 2080 ms.
    Wan,
}

impl From<AcksArg> for Acks {
    fn from(argument: AcksArg) -> Self {
        match argument {
            AcksArg::AllToAll => Self::AllToAll,
            AcksArg::Leader => Self::Leader,
        }
    }
}

/// Source of leader placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlacementWord {
    /// The leader, where a large gain lasts.
    Auto,
    /// Operators, and elections.
    Manual,
}

/// Source from which a coordinator learns of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AcksArg {
    /// Everyone tells everyone.
    AllToAll,
    /// The leader tells.
    Leader,
}

#[derive(Debug, Clone)]
pub(super) struct MemberArg {
    pub(super) id: u64,
    pub(super) zone: ZoneName,
    pub(super) url: String,
}

impl FromStr for MemberArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} is not ID=ZONE=URL, such as 1=eu=http://10.0.0.1:7101");
        let mut parts = text.splitn(3, '=');
        let mut part = || parts.next().ok_or_else(wanted);
        let id = part()?.parse().ok().filter(|id| *id > 0).ok_or_else(wanted)?;
        let zone = part()?.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { id, zone, url: url(part()?)? })
    }
}

impl Arguments {
    fn settings(self, metrics: Arc<Metrics>) -> Result<Settings, StartError> {
        let refuse = |why: String| Err(StartError::Settings(why));
        for (flag, address) in [("--listen", Some(self.listen)), ("--metrics", self.metrics)] {
            let open = address.filter(|address| !address.ip().is_loopback());
            if let Some(address) = open.filter(|_| !self.insecure_network) {
                return refuse(format!(
                    "{flag} {address} is not a loopback address; this version speaks no TLS, so put an \
                     encrypting proxy before it, or say --insecure-network if nobody else can reach \
                     that network"
                ));
            }
        }
        let mut members = BTreeMap::new();
        for MemberArg { id, zone, url } in self.members {
            if members.insert(id, (zone, url)).is_some() {
                return refuse(format!("coordinator {id} is given twice as --member"));
            }
        }
        match members.get(&self.id) {
            None => return refuse(format!("--member {}=… is missing: name this one too", self.id)),
            Some((zone, _)) if *zone != self.zone => {
                return refuse(format!("--zone {} but --member {}={zone}", self.zone, self.id));
            }
            Some(_) => {}
        }
        if members.len() % 2 == 0 && !self.join {
            tracing::warn!(
                members = members.len(),
                "an even number of coordinators survives no more failures than one fewer"
            );
        }
        let log_bytes_max = self.log_bytes_max.unwrap_or(self.log_bytes.saturating_mul(4));
        if log_bytes_max < self.log_bytes {
            return refuse(format!(
                "--log-bytes-max {log_bytes_max} is below --log-bytes {}: the log would be purged \
                 before the zones have kept it",
                self.log_bytes
            ));
        }
        let retention = Retention {
            log_bytes: self.log_bytes,
            log_bytes_max,
            reserve_bytes: self.disk_reserve,
            ..Retention::default()
        };
        let mut zones: Vec<ZoneName> = members.values().map(|(zone, _)| zone.clone()).collect();
        zones.sort();
        zones.dedup();
        let adapts = self.round_trip_ms.is_none() && self.profile == Profile::Auto;
        let timing = match (self.round_trip_ms, self.profile) {
            (Some(round_trip_ms), _) => Timing::bearing(round_trip_ms),
            (None, Profile::Lan) => Timing::LAN,
            // Measured before the start.
            (None, Profile::Wan | Profile::Auto) => Timing::WAN,
        };
        let auto = self.placement == PlacementWord::Auto;
        Ok(Settings {
            cluster: self.cluster_id,
            id: self.id,
            data: self.data,
            listen: self.listen,
            members,
            join: self.join,
            zones,
            timing,
            geo: Geo { auto, adapts, provisional: false },
            retention,
            acks: self.acks.into(),
            metrics,
        })
    }
}

/// Runs a coordinator until an end signal.
pub async fn run(args: Arguments) -> ExitCode {
    let (lifeline, metrics_address) = (args.lifeline, args.metrics);
    let (metrics, tasks) = (Metrics::for_coordinator(), Tasks::default());
    let mut adapted = None;
    let started = match args.settings(Arc::clone(&metrics)) {
        Ok(mut settings) => {
            if settings.geo.adapts {
                let measured = measured(&settings).await;
                settings.geo.provisional = measured.is_none();
                settings.timing = measured.unwrap_or(Timing::WAN);
                adapted = Some(settings.timing);
            }
            Coordinator::start(settings).await
        }
        Err(error) => Err(error),
    };
    let coordinator = match started {
        Ok(coordinator) => coordinator,
        Err(error @ StartError::Identity(..)) => return complain(&error, 1),
        Err(error) => return complain(&error, USAGE),
    };
    serves();
    if let Some(timing) = adapted {
        tracing::info!(?timing, "Raft timing set from round trips");
    }
    if let Some(address) = metrics_address {
        match TcpListener::bind(address).await {
            Ok(listener) => tasks.spawn("metrics server", serve_metrics(listener, metrics)),
            Err(error) => return complain(&StartError::Listen(address, error), USAGE),
        }
    }
    tokio::select! {
        why = told_to_end(lifeline) => {
            tracing::info!(why, "coordinator stop started");
            coordinator.retire().await;
            tasks.shut_down().await;
            ExitCode::SUCCESS
        }
        why = coordinator.stopped() => {
            coordinator.stop().await;
            complain_of("pghc", &why, 1)
        }
    }
}
