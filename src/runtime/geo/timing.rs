//! The one rule for Raft's timing: everything follows from the largest round trip between
//! coordinators. Pure.
//!
//! A heartbeat without an answer within its own interval is given up, and a heartbeat over a new
//! connection takes two round trips: so the interval is two round trips. openraft's election
//! timeout has two parts: the leader's lease, and a random part. With two heartbeats and a margin
//! in each part, a follower tolerates more than four heartbeats of silence, which is eight round
//! trips, in which TCP retransmits a lost segment twice. The random part spreads by at least one
//! round trip, so the second candidate receives the first one's request before its own election.

use std::time::Duration;

/// Raft timing in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Interval of heartbeats; a heartbeat without an answer within it is given up.
    pub heartbeat_ms: u64,
    /// Least of what a follower draws, to wait when the leader's lease is over.
    pub draw_min_ms: u64,
    /// The leader's lease; also the most that is drawn. Close to the least: a follower waits for both.
    pub lease_ms: u64,
}

/// Shortest heartbeat: below it a scheduler's pause would count as a lost leader.
const HEARTBEAT_MS_MIN: u64 = 50;

/// Margin beyond two heartbeats for the election timeout, and its least spread: a slow fsync.
const SLACK_MS: u64 = 40;

/// Least that is drawn: short distances leave a busy machine no other slack.
const DRAW_MS_MIN: u64 = 190;

/// Shortest heartbeat of an idle leader: what an idle coordinator costs hangs on it.
const IDLE_HEARTBEAT_MS_MIN: u64 = 139;

/// Longest round trip that is reckoned with; a leader is then missed for half a minute.
pub const ROUND_TRIP_MS_MAX: u64 = 3_000;

impl Timing {
    /// For coordinators in one region: round trips up to 25 ms.
    pub const LAN: Self = Self::bearing(25);
    /// For coordinators on different continents when nothing was measured: round trips up to 200 ms.
    pub const WAN: Self = Self::bearing(200);

    /// The timing that bears round trips of up to `round_trip_ms`, [`ROUND_TRIP_MS_MAX`] at most.
    #[must_use]
    pub const fn bearing(round_trip_ms: u64) -> Self {
        let round_trip_ms =
            if round_trip_ms > ROUND_TRIP_MS_MAX { ROUND_TRIP_MS_MAX } else { round_trip_ms };
        let doubled = round_trip_ms * 2;
        let heartbeat_ms = if doubled > HEARTBEAT_MS_MIN { doubled } else { HEARTBEAT_MS_MIN };
        let half = heartbeat_ms / 2;
        let two = 2 * heartbeat_ms + SLACK_MS;
        let draw_min_ms = if two > DRAW_MS_MIN { two } else { DRAW_MS_MIN };
        let spread_ms = if half > SLACK_MS { half } else { SLACK_MS };
        Self { heartbeat_ms, draw_min_ms, lease_ms: draw_min_ms + spread_ms }
    }

    /// The largest round trip this timing bears, in ms.
    #[must_use]
    pub const fn bears_ms(&self) -> u64 {
        self.heartbeat_ms / 2
    }

    /// Least silence of a leader before a follower with this timing starts an election, in ms: the
    /// lease plus the minimum of the random part.
    #[must_use]
    pub const fn silence_ms(&self) -> u64 {
        self.lease_ms + self.draw_min_ms
    }

    /// Interval of heartbeats of an idle leader, in ms. The tolerated silence exceeds four
    /// intervals, or over short distances three intervals and one TCP retransmission.
    #[must_use]
    pub const fn idle_heartbeat_ms(&self) -> u64 {
        let quarter = (self.silence_ms() - 1) / 4;
        if quarter > IDLE_HEARTBEAT_MS_MIN { quarter } else { IDLE_HEARTBEAT_MS_MIN }
    }

    /// The longest election timeout: the most silence before a follower starts an election.
    #[must_use]
    pub const fn election_timeout(&self) -> Duration {
        Duration::from_millis(2 * self.lease_ms)
    }

    /// The leader's lease, and how long a coordinator waits for another one's answer.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::{IDLE_HEARTBEAT_MS_MIN, ROUND_TRIP_MS_MAX, Timing};

    /// After which Linux sends a lost segment again, at least.
    const TCP_RETRANSMITS_AFTER_MS: u64 = 200;

    #[test]
    fn heartbeat_interval_is_two_round_trips() {
        for round_trip_ms in 0..=ROUND_TRIP_MS_MAX + 10 {
            let timing = Timing::bearing(round_trip_ms);
            assert!(timing.bears_ms() >= round_trip_ms.min(ROUND_TRIP_MS_MAX), "{timing:?}");
            let idle_ms = timing.idle_heartbeat_ms();
            let borne = if idle_ms > IDLE_HEARTBEAT_MS_MIN { 4 } else { 3 };
            assert!(
                timing.silence_ms() > borne * idle_ms && idle_ms >= timing.heartbeat_ms,
                "{timing:?}"
            );
            assert!(timing.silence_ms() > idle_ms + TCP_RETRANSMITS_AFTER_MS, "{timing:?}");
            assert!(timing.lease_ms > idle_ms + timing.bears_ms(), "one keeps it: {timing:?}");
            let spread = timing.lease_ms - timing.draw_min_ms;
            assert!(spread >= timing.bears_ms() && spread < timing.heartbeat_ms, "{timing:?}");
        }
        let lan = Timing { heartbeat_ms: 50, draw_min_ms: 190, lease_ms: 230 };
        assert_eq!((Timing::LAN, Timing::bearing(0)), (lan, lan));
        assert_eq!(Timing::LAN.election_timeout().as_millis(), 460);
        assert_eq!(Timing::LAN.idle_heartbeat_ms(), 139);
        let wan = Timing { heartbeat_ms: 400, draw_min_ms: 840, lease_ms: 1040 };
        assert_eq!((Timing::WAN, Timing::bearing(300).heartbeat_ms), (wan, 600));
    }
}
