//! A follower whose timing is shorter than its leader's takes the leader's for its own: it supports no
//! election before one who has the leader's timing would stand.
//!
//! Coordinators may differ in timing: one that measured nothing at its first start, one that was set
//! otherwise. The heartbeats of a slow leader are too far apart for a quick follower, and two quick
//! ones of three would elect another though nothing is wrong. So every stream of appends says how long
//! its leader may be silent, and whoever is asked whether it would vote refuses for so long. Where all
//! have the same timing nothing is told that openraft does not do by itself.
//!
//! A founder that starts first can measure nothing: its timing is provisional until its next start, and the
//! others take it without a warning.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use crate::coordinator::peers::traffic_guard::RaftTrafficGuard;
use crate::geo::timing::{ROUND_TRIP_MS_MAX, Timing};

/// How long the sender of appends may be silent, in ms.
const SILENCE: &str = "pghc-silence-ms";

/// Says that the sender has measured nothing yet.
const PROVISIONAL: &str = "pghc-silence-provisional";

/// Longest that is believed; no rule of ours asks for more.
const SILENCE_MS_MAX: u64 = Timing::bearing(ROUND_TRIP_MS_MAX).silence_ms();

/// Time between two warnings of the same leader's timing.
const WARN_AGAIN: Duration = Duration::from_secs(600);

/// What a leader asks of this coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaderSilence {
    leader: u64,
    silence: Duration,
}

/// Clones are the same.
#[derive(Clone)]
pub(crate) struct VoteWithholding {
    own_ms: u64,
    is_provisional: bool,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Whom it waits for, and until when.
    waits: Option<(u64, Instant)>,
    /// Whose timing was warned of, what it was, and when.
    warned: Option<(u64, u64, Instant)>,
}

impl VoteWithholding {
    /// Nothing was heard of any leader; `timing` is the own one, `is_provisional` when nothing was measured.
    pub(crate) fn new(timing: Timing, is_provisional: bool) -> Self {
        Self { own_ms: timing.silence_ms(), is_provisional, inner: Arc::default() }
    }

    /// Says to a follower how long this coordinator may be silent.
    pub(crate) fn tell<T>(&self, request: &mut tonic::Request<T>) {
        if let Ok(value) = AsciiMetadataValue::try_from(self.own_ms.to_string()) {
            request.metadata_mut().insert(SILENCE, value);
        }
        if self.is_provisional {
            request.metadata_mut().insert(PROVISIONAL, AsciiMetadataValue::from_static("1"));
        }
    }

    /// What a stream of appends asks for; `None` when that is no more than openraft does here by
    /// itself, or nothing is said. An operator is told of a timing that differs.
    pub(crate) fn asked(&self, metadata: &MetadataMap, now: Instant) -> Option<LeaderSilence> {
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

    /// Something of that leader was taken.
    pub(crate) fn heard(&self, ask: LeaderSilence, now: Instant) {
        self.inner.lock().waits = Some((ask.leader, now + ask.silence));
    }

    /// Whether `leader`, whom this coordinator follows, may just be silent by its own timing.
    pub(crate) fn withholds_vote(&self, leader: Option<u64>, now: Instant) -> bool {
        let waits = self.inner.lock().waits;
        waits.is_some_and(|(whom, until)| leader == Some(whom) && now < until)
    }

    fn warn(&self, leader: u64, silence_ms: u64, now: Instant) {
        let mut inner = self.inner.lock();
        let is_known = |(whom, what, at): (u64, u64, Instant)| {
            (whom, what) == (leader, silence_ms) && now - at < WARN_AGAIN
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
            "the leader's timing is not this coordinator's: the longer of both counts before an \
             election. With profile = \"auto\" a restart of the one that is off measures anew; else \
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

    /// An append of coordinator 2, which has this timing.
    fn append(timing: Timing) -> Request<()> {
        let mut request = Request::new(());
        request.metadata_mut().insert("pghc-from", "2 a".parse().expect("ASCII"));
        VoteWithholding::new(timing, false).tell(&mut request);
        request
    }

    #[test]
    fn a_quick_follower_waits_as_long_as_its_slow_leader_asks_and_for_no_other() {
        let (quick, now) = (VoteWithholding::new(Timing::LAN, false), Instant::now());
        assert!(!quick.withholds_vote(Some(2), now), "nothing was heard");
        let ask = quick.asked(append(Timing::WAN).metadata(), now).expect("it asks for more");
        assert!(!quick.withholds_vote(Some(2), now), "asking is not enough, it may lead no more");
        quick.heard(ask, now);
        let almost = now + Duration::from_millis(Timing::WAN.silence_ms() - 1);
        assert!(quick.withholds_vote(Some(2), almost));
        assert!(!quick.withholds_vote(Some(2), almost + Duration::from_millis(1)));
        assert!(!quick.withholds_vote(Some(3), now), "another was elected");
        assert!(!quick.withholds_vote(None, now), "an election is under way");
    }

    #[test]
    fn nothing_changes_where_the_leader_is_as_quick_or_says_nothing() {
        let now = Instant::now();
        for own in [Timing::LAN, Timing::WAN] {
            assert_eq!(
                VoteWithholding::new(own, false).asked(append(Timing::LAN).metadata(), now),
                None
            );
        }
        let mut silent = append(Timing::WAN);
        silent.metadata_mut().remove(SILENCE);
        let quick = VoteWithholding::new(Timing::LAN, false);
        assert_eq!(quick.asked(silent.metadata(), now), None, "of an older build");
    }

    #[test]
    fn timing_of_a_founder_that_measured_nothing_warns_of_nothing() {
        let (quick, now) = (VoteWithholding::new(Timing::LAN, false), Instant::now());
        let mut request = append(Timing::WAN);
        VoteWithholding::new(Timing::WAN, true).tell(&mut request);
        assert!(quick.asked(request.metadata(), now).is_some(), "it is waited for all the same");
        let first = VoteWithholding::new(Timing::WAN, true);
        first.asked(append(Timing::LAN).metadata(), now);
        assert!(quick.inner.lock().warned.is_none() && first.inner.lock().warned.is_none());
        quick.asked(append(Timing::WAN).metadata(), now);
        assert!(quick.inner.lock().warned.is_some(), "a timing that was chosen is told of");
    }

    #[test]
    fn nonsense_is_bounded() {
        let (quick, now) = (VoteWithholding::new(Timing::LAN, false), Instant::now());
        let mut request = append(Timing::WAN);
        request.metadata_mut().insert(SILENCE, u64::MAX.to_string().parse().expect("ASCII"));
        let ask = quick.asked(request.metadata(), now).expect("more than its own");
        assert_eq!(ask.silence, Duration::from_millis(SILENCE_MS_MAX));
        request.metadata_mut().insert(SILENCE, "-1".parse().expect("ASCII"));
        assert_eq!(quick.asked(request.metadata(), now), None);
    }

    #[test]
    fn an_operator_is_told_of_each_timing_that_differs_and_not_with_every_heartbeat() {
        let (quick, mut now) = (VoteWithholding::new(Timing::LAN, false), Instant::now());
        let mut told = |timing, after| {
            now += after;
            let before = quick.inner.lock().warned;
            quick.asked(append(timing).metadata(), now);
            quick.inner.lock().warned != before
        };
        let second = Duration::from_secs(1);
        assert!(!told(Timing::LAN, second));
        assert!(told(Timing::WAN, second));
        assert!(!told(Timing::WAN, second));
        assert!(told(Timing::bearing(300), second));
        assert!(told(Timing::bearing(300), WARN_AGAIN));
    }
}
