//! Whether Raft's timing fits the round trips. openraft takes its timing at the start and keeps it, so
//! what is measured now is kept for the next start, and an operator is told when it is not enough.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::files;
use super::log::disk::{Directory, Disk};
use super::node::Settings;
use crate::geo::timing::Timing;
use crate::rpc::v1::PingRequest;
use crate::rpc::v1::raft_client::RaftClient;
use crate::rpc::{Caller, connect};

const FILE: &str = "round-trips.json";

/// How long the others are asked at a start, and how often each: the first opens a connection.
const MEASURE_MAX: Duration = Duration::from_secs(2);
const MEASURES: usize = 6;

/// Time between two warnings of the same.
const WARN_AGAIN: Duration = Duration::from_secs(600);

/// The largest round trip of the last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    largest_ms: u64,
}

impl Kept {
    pub(super) fn write(self, disk: &dyn Disk) -> io::Result<()> {
        files::write(disk, FILE, &serde_json::to_vec(&self)?)
    }

    /// What is there and readable; a damaged file is as good as none.
    fn read(data: &Path) -> Option<Self> {
        // Opening it would make it.
        let disk = data.exists().then(|| Directory::open(data).ok())??;
        serde_json::from_slice(&files::read(&disk, FILE).ok()??).ok()
    }
}

/// Watches the round trips.
#[derive(Debug)]
pub(super) struct Pace {
    timing: Timing,
    /// Whether the timing follows what was measured; then it is kept.
    adapts: bool,
    kept: Option<u64>,
    /// What was warned of, and when.
    warned: Option<(u64, Instant)>,
}

impl Pace {
    pub(super) fn new(timing: Timing, adapts: bool) -> Self {
        Self { timing, adapts, kept: None, warned: None }
    }

    /// Takes in the largest round trip, to coordinator `id`; answers what to keep for the next start.
    pub(super) fn look(&mut self, largest_ms: u64, id: u64, now: Instant) -> Option<Kept> {
        let bears_ms = self.timing.bears_ms();
        let is_news = self.warned.is_none_or(|(warned_ms, at)| {
            largest_ms > warned_ms + warned_ms / 4 || now - at >= WARN_AGAIN
        });
        if largest_ms > bears_ms && is_news {
            self.warned = Some((largest_ms, now));
            let Timing { heartbeat_ms, election_min_ms, election_max_ms } =
                Timing::bearing(largest_ms);
            let what_to_do = if self.adapts {
                "restart the coordinators one by one: each adapts when it starts".to_owned()
            } else {
                format!(
                    "set round-trip-ms = {largest_ms} (heartbeat {heartbeat_ms} ms, election \
                     {election_min_ms} to {election_max_ms} ms), or profile = \"auto\", on every \
                     coordinator and restart them one by one"
                )
            };
            tracing::warn!(
                coordinator = id,
                round_trip_ms = largest_ms,
                bears_ms,
                "round trips are longer than the timing bears, which may cost elections without \
                 need: {what_to_do}"
            );
        }
        let differs = self.kept.is_none_or(|kept| kept.abs_diff(largest_ms) > kept / 5 + 2);
        if !self.adapts || !differs {
            return None;
        }
        self.kept = Some(largest_ms);
        Some(Kept { largest_ms })
    }
}

/// The timing for a coordinator that is about to start: from the round trips to those that run
/// already, and from those of its last run; the larger counts. When nothing is known, the timing of
/// coordinators on different continents: too slow a timing costs a second when a leader is lost, too
/// fast a one costs leaders. Takes two seconds at most.
pub async fn measured(settings: &Settings) -> Timing {
    let kept = Kept::read(&settings.data).map(|kept| kept.largest_ms);
    let others = settings.members.iter().filter(|(id, _)| **id != settings.id);
    let callers = others
        .filter_map(|(_, (_, url))| connect(url, &settings.cluster, MEASURE_MAX).ok())
        .map(round_trip_ms);
    let now = join_all(callers).await.into_iter().flatten().max();
    tracing::debug!(measured_ms = now, kept_ms = kept, "largest round trips");
    now.max(kept).map_or(Timing::WAN, Timing::bearing)
}

/// The largest of some round trips in milliseconds, rounded up; `None` when nobody answers.
async fn round_trip_ms(caller: Caller) -> Option<u64> {
    let mut client = RaftClient::new(caller);
    let mut largest = None;
    let ask = async {
        for place in 0..MEASURES {
            let asked = Instant::now();
            if client.ping(PingRequest { from: None }).await.is_err() {
                return;
            }
            if place > 0 {
                largest = largest.max(Some(asked.elapsed()));
            }
        }
    };
    // Whatever was measured by then counts.
    let _ = timeout(MEASURE_MAX, ask).await;
    let largest: Option<Duration> = largest;
    largest.map(|largest| u64::try_from(largest.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::log::disk::Directory;
    use super::{Kept, Pace, Timing, WARN_AGAIN};

    #[test]
    fn what_is_kept_follows_what_is_measured_and_only_when_the_timing_adapts() {
        let now = Instant::now();
        assert_eq!(Pace::new(Timing::LAN, false).look(20, 2, now), None);
        let mut pace = Pace::new(Timing::LAN, true);
        assert_eq!(pace.look(20, 2, now), Some(Kept { largest_ms: 20 }));
        assert_eq!(pace.look(25, 2, now), None, "nearly the same");
        let kept = pace.look(120, 2, now).expect("quite different");
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Kept::read(dir.path()), None);
        kept.write(&Directory::open(dir.path()).expect("a directory")).expect("written");
        assert_eq!(Kept::read(dir.path()), Some(Kept { largest_ms: 120 }));
    }

    #[test]
    fn an_operator_is_told_once_and_again_when_it_gets_worse_or_stays() {
        let (mut pace, mut now) = (Pace::new(Timing::bearing(100), false), Instant::now());
        let mut told = |largest_ms, after| {
            now += after;
            let before = pace.warned;
            pace.look(largest_ms, 2, now);
            pace.warned != before
        };
        let second = Duration::from_secs(1);
        assert!(!told(100, second), "just borne");
        assert!(told(101, second));
        assert!(!told(110, second));
        assert!(told(150, second));
        assert!(told(150, WARN_AGAIN));
    }
}
