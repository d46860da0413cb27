//! Compares Raft's timing with the measured round trips.
//!
//! openraft keeps its timing until a restart, so the round trips are saved for the next start, and
//! a warning is logged when the timing is too short.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use pghc_runtime::geo::timing::Timing;
use pghc_runtime::rpc::v1::PingRequest;
use pghc_runtime::rpc::v1::raft_client::RaftClient;
use pghc_runtime::rpc::{Caller, connect};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use crate::coordinator::log::disk::{Directory, Disk};
use crate::coordinator::settings::Settings;
use crate::coordinator::small_file;

const FILE: &str = "round-trips.json";

/// Duration of the measurement at startup; the first of several calls opens the connection.
const MEASURE_MAX: Duration = Duration::from_secs(2);
const MEASURES: usize = 6;

/// Least time between two writes of the saved round trip.
const SAVE_PERIOD: Duration = Duration::from_secs(300);

/// Time between two equal warnings.
const WARN_AGAIN: Duration = Duration::from_secs(600);

/// Largest round trip of the last run: the quartile of the most distant coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedRtt {
    largest_ms: u64,
}

impl SavedRtt {
    pub(crate) fn write(self, disk: &dyn Disk) -> io::Result<()> {
        small_file::write(disk, FILE, &serde_json::to_vec(&self)?)
    }

    /// Reads the saved value; a damaged file counts as absent and is reported at startup.
    fn read(data: &Path) -> Option<Self> {
        // Opening the directory would create it.
        let disk = data.exists().then(|| Directory::open(data).ok())??;
        serde_json::from_slice(&small_file::read(&disk, FILE).ok()??).ok()
    }
}

/// Largest measured round trips.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxRtt {
    /// Lower quartile of the most distant coordinator.
    usual_ms: u64,
    /// 90th percentile of the slowest coordinator, and its id.
    slow_ms: u64,
    id: u64,
}

impl MaxRtt {
    /// Computes the maxima from each coordinator's quartile and 90th percentile in microseconds.
    pub(crate) fn of(measured: impl Iterator<Item = (u64, (u32, u32))>) -> Option<Self> {
        let ms = |us: u32| u64::from(us).div_ceil(1_000);
        measured.fold(None, |slowest, (id, (usual_us, slow_us))| {
            let it = Self { usual_ms: ms(usual_us), slow_ms: ms(slow_us), id };
            let Some(known) = slowest else { return Some(it) };
            let usual_ms = it.usual_ms.max(known.usual_ms);
            let slower = if it.slow_ms > known.slow_ms { it } else { known };
            Some(Self { usual_ms, ..slower })
        })
    }
}

/// Watches the round trips.
#[derive(Debug)]
pub(crate) struct TimingAdvisor {
    timing: Timing,
    /// Whether the timing follows the measurements; they are saved only then.
    adapts: bool,
    /// Value on disk.
    kept_ms: Option<u64>,
    /// Least quartile of the present period, and the period's end. A shorter peak, such as an
    /// overload, is not saved.
    least_ms: u64,
    due: Option<Instant>,
    /// Round trip and time of the last warning.
    warned: Option<(u64, Instant)>,
}

impl TimingAdvisor {
    /// Loads the saved value from `disk`; an unreadable file is set aside.
    pub(crate) fn load(timing: Timing, adapts: bool, disk: &dyn Disk) -> Self {
        let without = "this start's timing stays, and new measurements are saved";
        let kept: Option<SavedRtt> = small_file::read_or_set_aside(disk, FILE, without);
        let kept_ms = kept.map(|kept| kept.largest_ms);
        Self { timing, adapts, kept_ms, least_ms: u64::MAX, due: None, warned: None }
    }

    /// Records the largest round trips; returns the value to save for the next start.
    pub(crate) fn record(&mut self, slowest: MaxRtt, now: Instant) -> Option<SavedRtt> {
        self.warn(slowest, now);
        self.least_ms = self.least_ms.min(slowest.usual_ms);
        // The first value is saved at once.
        let first = if self.kept_ms.is_some() { now + SAVE_PERIOD } else { now };
        let due = *self.due.get_or_insert(first);
        if !self.adapts || now < due {
            return None;
        }
        self.due = Some(now + SAVE_PERIOD);
        let largest_ms = std::mem::replace(&mut self.least_ms, u64::MAX);
        let differs = self.kept_ms.is_none_or(|kept_ms| is_another_timing(kept_ms, largest_ms));
        differs.then_some(SavedRtt { largest_ms })
    }

    /// Records that a value was saved.
    pub(crate) fn saved(&mut self, kept: SavedRtt) {
        self.kept_ms = Some(kept.largest_ms);
    }

    fn warn(&mut self, MaxRtt { usual_ms, slow_ms, id }: MaxRtt, now: Instant) {
        let bears_ms = self.timing.bears_ms();
        let is_news = self.warned.is_none_or(|(warned_ms, at)| {
            slow_ms > warned_ms + warned_ms / 4 || now - at >= WARN_AGAIN
        });
        if slow_ms <= bears_ms || !is_news {
            return;
        }
        self.warned = Some((slow_ms, now));
        let fit = Timing::bearing(slow_ms);
        let (heartbeat_ms, election_ms) = (fit.heartbeat_ms, fit.election_timeout().as_millis());
        let what_to_do = if !self.adapts {
            format!(
                "set round-trip-ms = {slow_ms} (heartbeat {heartbeat_ms} ms, election timeout up to \
                 {election_ms} ms), or profile = \"auto\", on every coordinator and restart them \
                 one by one"
            )
        } else if usual_ms > bears_ms {
            "restart the coordinators one by one: each adapts when it starts".to_owned()
        } else {
            "most are not, so the machines or the network may be overloaded; if that is to stay, \
             set round-trip-ms instead of profile = \"auto\""
                .to_owned()
        };
        tracing::warn!(
            coordinator = id,
            round_trip_ms = slow_ms,
            usual_ms,
            bears_ms,
            "round trips exceed the timing, which may cause elections without \
             need: {what_to_do}"
        );
    }
}

/// Whether two round trips imply timings that differ by more than a fifth.
fn is_another_timing(kept_ms: u64, now_ms: u64) -> bool {
    let [kept, now] = [kept_ms, now_ms].map(|ms| Timing::bearing(ms).heartbeat_ms);
    kept.abs_diff(now) > kept / 5
}

/// Returns the timing for a coordinator that is about to start; `None` if nothing is known.
///
/// The larger of two round trips counts: measured to the running coordinators, or saved by the last
/// run. Without either the caller uses the timing of distant continents: a slow timing costs a
/// second at a failover, a fast one costs leaders. Takes 2 s at most.
pub async fn measured(settings: &Settings) -> Option<Timing> {
    let kept = SavedRtt::read(&settings.data).map(|kept| kept.largest_ms);
    let others = settings.members.iter().filter(|(id, _)| **id != settings.id);
    let callers = others
        .filter_map(|(_, (_, url))| connect(url, &settings.cluster, MEASURE_MAX).ok())
        .map(round_trip_ms);
    let now = join_all(callers).await.into_iter().flatten().max();
    tracing::debug!(measured_ms = now, kept_ms = kept, "largest round trips");
    now.max(kept).map(Timing::bearing)
}

/// Measures the largest round trip in milliseconds, rounded up; `None` without a reply.
async fn round_trip_ms(connection: Caller) -> Option<u64> {
    let mut client = RaftClient::new(connection);
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
    // Every reply until the timeout counts.
    let _ = timeout(MEASURE_MAX, ask).await;
    let largest: Option<Duration> = largest;
    largest.map(|largest| u64::try_from(largest.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{FILE, MaxRtt, SAVE_PERIOD, SavedRtt, Timing, TimingAdvisor, WARN_AGAIN};
    use crate::coordinator::log::disk::Directory;

    fn slowest(usual_ms: u64, slow_ms: u64) -> MaxRtt {
        MaxRtt { usual_ms, slow_ms, id: 2 }
    }

    #[test]
    fn saved_round_trip_follows_lasting_changes_only() {
        let (dir, mut now) = (tempfile::tempdir().expect("a directory"), Instant::now());
        let disk = Directory::open(dir.path()).expect("a directory");
        let mut advisor = TimingAdvisor::load(Timing::LAN, true, &disk);
        let first = advisor.record(slowest(30, 90), now).expect("nothing is kept yet");
        assert_eq!(first, SavedRtt { largest_ms: 30 }, "the quartile");
        advisor.saved(first);
        let mut written = Vec::new();
        for second in 0..3_600_u64 {
            now += Duration::from_secs(1);
            // Minutes of overload first, then a lasting change.
            let usual_ms = match second {
                600..840 => 400,
                2_400.. => 120 + second % 7,
                _ => 30 + second % 4,
            };
            written.extend(
                advisor.record(slowest(usual_ms, 500), now).inspect(|it| advisor.saved(*it)),
            );
        }
        assert_eq!(written, [SavedRtt { largest_ms: 120 }]);
        assert_eq!(SavedRtt::read(dir.path()), None);
        written[0].write(&disk).expect("written");
        assert_eq!(SavedRtt::read(dir.path()), Some(SavedRtt { largest_ms: 120 }));
        let mut next = TimingAdvisor::load(Timing::LAN, true, &disk);
        assert_eq!(next.record(slowest(500, 500), now), None, "a start is a busy time");
        assert_eq!(
            next.record(slowest(500, 500), now + SAVE_PERIOD),
            Some(SavedRtt { largest_ms: 500 })
        );
    }

    #[test]
    fn fixed_timing_saves_nothing() {
        let (dir, now) = (tempfile::tempdir().expect("a directory"), Instant::now());
        let disk = Directory::open(dir.path()).expect("a directory");
        assert_eq!(
            TimingAdvisor::load(Timing::LAN, false, &disk).record(slowest(20, 20), now),
            None
        );
        let mut advisor = TimingAdvisor::load(Timing::LAN, true, &disk);
        advisor.saved(SavedRtt { largest_ms: 1 });
        assert_eq!(advisor.record(slowest(1, 1), now), None);
        assert_eq!(
            advisor.record(slowest(25, 30), now + SAVE_PERIOD),
            None,
            "the timing is the same"
        );
    }

    #[test]
    fn unreadable_round_trips_are_set_aside() {
        let (dir, now) = (tempfile::tempdir().expect("a directory"), Instant::now());
        let disk = Directory::open(dir.path()).expect("a directory");
        std::fs::write(dir.path().join(FILE), "{").expect("written");
        assert_eq!(SavedRtt::read(dir.path()), None);
        let mut advisor = TimingAdvisor::load(Timing::LAN, true, &disk);
        assert!(!dir.path().join(FILE).exists());
        assert_eq!(advisor.record(slowest(60, 60), now), Some(SavedRtt { largest_ms: 60 }));
    }

    #[test]
    fn maxima_are_taken_over_all_peers() {
        let measured = [(2, (90_001, 95_000)), (3, (20_000, 300_000)), (4, (1, 2))];
        let slowest = MaxRtt::of(measured.into_iter()).expect("three");
        assert_eq!((slowest.usual_ms, slowest.slow_ms, slowest.id), (91, 300, 3));
        assert!(MaxRtt::of(std::iter::empty()).is_none());
    }

    #[test]
    fn warning_repeats_when_worse_or_lasting() {
        let (dir, mut now) = (tempfile::tempdir().expect("a directory"), Instant::now());
        let disk = Directory::open(dir.path()).expect("a directory");
        let mut advisor = TimingAdvisor::load(Timing::bearing(100), false, &disk);
        let mut warned = |slow_ms, after| {
            now += after;
            let before = advisor.warned;
            advisor.record(slowest(slow_ms, slow_ms), now);
            advisor.warned != before
        };
        let second = Duration::from_secs(1);
        assert!(!warned(100, second), "just borne");
        assert!(warned(101, second));
        assert!(!warned(110, second));
        assert!(warned(150, second));
        assert!(warned(150, WARN_AGAIN));
    }
}
