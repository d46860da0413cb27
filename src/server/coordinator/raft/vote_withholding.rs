//! A follower with shorter timeouts than its leader withholds pre-votes until the leader's own
//! timeout has passed.
//!
//! Coordinators may differ in timing, by a first start without measurements or by settings. A slow
//! leader's heartbeats are too rare for a quick follower, and two quick followers of three would
//! elect another leader without a fault. So every append stream carries the leader's longest
//! silence, and a follower rejects pre-votes for that long (leader stickiness, Raft thesis 4.2.3).
//! With equal timing this adds nothing to openraft.
//!
//! The timing of a founder that started first is provisional until its next start: it is accepted
//! without a warning.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_runtime::geo::timing::{ROUND_TRIP_MS_MAX, Timing};
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;

/// Metadata key: longest silence of the sender of appends, in ms.
const SILENCE: &str = "pghc-silence-ms";

/// Metadata key: the sender has no measurements yet.
const PROVISIONAL: &str = "pghc-silence-provisional";

/// Largest accepted silence; no timing rule needs more.
const SILENCE_MS_MAX: u64 = Timing::bearing(ROUND_TRIP_MS_MAX).silence_ms();

/// Time between two warnings about the same leader's timing.
const WARN_AGAIN: Duration = Duration::from_secs(600);

/// Longest silence of a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaderSilence {
    leader: u64,
    silence: Duration,
}

/// Clones share the state.
#[derive(Clone)]
pub(crate) struct VoteWithholding {
    own_ms: u64,
    is_provisional: bool,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Leader whose silence is accepted, and until when.
    waits: Option<(u64, Instant)>,
    /// Leader, its silence and the time of the last warning.
    warned: Option<(u64, u64, Instant)>,
}

impl VoteWithholding {
    /// `timing` is this coordinator's timing, `is_provisional` if nothing was measured.
    pub(crate) fn new(timing: Timing, is_provisional: bool) -> Self {
        Self { own_ms: timing.silence_ms(), is_provisional, inner: Arc::default() }
    }

    /// Adds this coordinator's longest silence to a request.
    pub(crate) fn stamp<T>(&self, request: &mut tonic::Request<T>) {
        if let Ok(value) = AsciiMetadataValue::try_from(self.own_ms.to_string()) {
            request.metadata_mut().insert(SILENCE, value);
        }
        if self.is_provisional {
            request.metadata_mut().insert(PROVISIONAL, AsciiMetadataValue::from_static("1"));
        }
    }

    /// Returns the silence that a stream of appends asks for; `None` if openraft's own wait covers
    /// it, or without the metadata. Warns if the timings differ.
    pub(crate) fn requested_silence(
        &self,
        metadata: &MetadataMap,
        now: Instant,
    ) -> Option<LeaderSilence> {
        let leader = RaftTrafficGuard::sender(metadata)?;
        let silence_ms: u64 = metadata.get(SILENCE)?.to_str().ok()?.parse().ok()?;
        let silence_ms = silence_ms.min(SILENCE_MS_MAX);
        let is_provisional = self.is_provisional || metadata.contains_key(PROVISIONAL);
        if silence_ms.abs_diff(self.own_ms) > self.own_ms / 5 && !is_provisional {
            self.warn(leader, silence_ms, now);
        }
        let silence = Duration::from_millis(silence_ms);
        (silence_ms > self.own_ms).then_some(LeaderSilence { leader, silence })
    }

    /// Records an accepted message of the leader.
    pub(crate) fn record(&self, silence: LeaderSilence, now: Instant) {
        self.inner.lock().waits = Some((silence.leader, now + silence.silence));
    }

    /// Whether `leader`, which this coordinator follows, may still be silent by its own timing.
    pub(crate) fn withholds_vote(&self, leader: Option<u64>, now: Instant) -> bool {
        let waits = self.inner.lock().waits;
        waits.is_some_and(|(known, until)| leader == Some(known) && now < until)
    }

    fn warn(&self, leader: u64, silence_ms: u64, now: Instant) {
        let mut inner = self.inner.lock();
        let is_known = |(known, known_ms, at): (u64, u64, Instant)| {
            (known, known_ms) == (leader, silence_ms) && now - at < WARN_AGAIN
        };
        if inner.warned.is_some_and(is_known) {
            return;
        }
        inner.warned = Some((leader, silence_ms, now));
        drop(inner);
        tracing::warn!(
            leader,
            leader_silence_ms = silence_ms,
            own_silence_ms = self.own_ms,
            "leader timing differs: the longer one counts before an \
             election. With profile = \"auto\" a restart measures again; else \
             set the same timing everywhere"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;
    use tonic::Request;

    use super::{SILENCE, SILENCE_MS_MAX, Timing, VoteWithholding, WARN_AGAIN};

    /// Returns an append of coordinator 2 with this timing.
    fn append(timing: Timing) -> Request<()> {
        let mut request = Request::new(());
        request.metadata_mut().insert("pghc-from", "2 a".parse().expect("ASCII"));
        VoteWithholding::new(timing, false).stamp(&mut request);
        request
    }

    #[test]
    fn quick_follower_waits_for_its_slow_leader_only() {
        let (quick, now) = (VoteWithholding::new(Timing::LAN, false), Instant::now());
        assert!(!quick.withholds_vote(Some(2), now), "no append was accepted");
        let silence =
            quick.requested_silence(append(Timing::WAN).metadata(), now).expect("it asks for more");
        assert!(!quick.withholds_vote(Some(2), now), "the request alone is not sufficient");
        quick.record(silence, now);
        let almost = now + Duration::from_millis(Timing::WAN.silence_ms() - 1);
        assert!(quick.withholds_vote(Some(2), almost));
        assert!(!quick.withholds_vote(Some(2), almost + Duration::from_millis(1)));
        assert!(!quick.withholds_vote(Some(3), now), "another was elected");
        assert!(!quick.withholds_vote(None, now), "an election is under way");
    }

    #[test]
    fn equal_or_unstated_timing_changes_nothing() {
        let now = Instant::now();
        for own in [Timing::LAN, Timing::WAN] {
            assert_eq!(
                VoteWithholding::new(own, false)
                    .requested_silence(append(Timing::LAN).metadata(), now),
                None
            );
        }
        let mut silent = append(Timing::WAN);
        silent.metadata_mut().remove(SILENCE);
        let quick = VoteWithholding::new(Timing::LAN, false);
        assert_eq!(quick.requested_silence(silent.metadata(), now), None, "of an older build");
    }

    #[test]
    fn provisional_timing_causes_no_warning() {
        let (quick, now) = (VoteWithholding::new(Timing::LAN, false), Instant::now());
        let mut request = append(Timing::WAN);
        VoteWithholding::new(Timing::WAN, true).stamp(&mut request);
        assert!(
            quick.requested_silence(request.metadata(), now).is_some(),
            "it is waited for all the same"
        );
        let first = VoteWithholding::new(Timing::WAN, true);
        first.requested_silence(append(Timing::LAN).metadata(), now);
        assert!(quick.inner.lock().warned.is_none() && first.inner.lock().warned.is_none());
        quick.requested_silence(append(Timing::WAN).metadata(), now);
        assert!(quick.inner.lock().warned.is_some(), "a chosen timing is warned of");
    }

    #[test]
    fn excessive_silence_is_bounded() {
        let (quick, now) = (VoteWithholding::new(Timing::LAN, false), Instant::now());
        let mut request = append(Timing::WAN);
        request.metadata_mut().insert(SILENCE, u64::MAX.to_string().parse().expect("ASCII"));
        let silence = quick.requested_silence(request.metadata(), now).expect("more than its own");
        assert_eq!(silence.silence, Duration::from_millis(SILENCE_MS_MAX));
        request.metadata_mut().insert(SILENCE, "-1".parse().expect("ASCII"));
        assert_eq!(quick.requested_silence(request.metadata(), now), None);
    }

    #[test]
    fn differing_timing_is_warned_of_once() {
        let (quick, mut now) = (VoteWithholding::new(Timing::LAN, false), Instant::now());
        let mut warns = |timing, after| {
            now += after;
            let before = quick.inner.lock().warned;
            quick.requested_silence(append(timing).metadata(), now);
            quick.inner.lock().warned != before
        };
        let second = Duration::from_secs(1);
        assert!(!warns(Timing::LAN, second));
        assert!(warns(Timing::WAN, second));
        assert!(!warns(Timing::WAN, second));
        assert!(warns(Timing::bearing(300), second));
        assert!(warns(Timing::bearing(300), WARN_AGAIN));
    }
}
