//! One direction of one connection over a wide-area [`Line`], as a pure engine: the input is a
//! payload and a time, the output is the time of its arrival.
//!
//! Invariants: deadlines never go back, so order is kept; at most one window is in flight. The
//! engine does no I/O and reads no clock: a proxy of real sockets or a simulation drives it.

use std::time::{Duration, Instant};

use super::line::Line;

/// Bytes one direction of one connection holds under way. When they are, the shell stops reading,
/// which is the back-pressure a sender of a full TCP window feels. At 150 ms one way the window
/// passes 100 MB/s.
pub const WINDOW_BYTES: usize = 16 << 20;

/// Least charge of a payload against the window, which bounds the number of small payloads as well.
pub const PAYLOAD_COST_MIN: usize = 512;

/// Most payloads under way in one direction of one connection.
pub const PAYLOADS_MAX: usize = WINDOW_BYTES / PAYLOAD_COST_MIN;

/// One direction of one connection.
#[derive(Debug)]
pub struct Link {
    /// Nothing sent earlier leaves before: the connection is not established yet.
    established: Instant,
    /// Deadline of the newest payload.
    newest: Instant,
    used_bytes: usize,
}

/// When the two directions of a connection begin to carry bytes, for a client that connects at one
/// time over links of known delays.
///
/// The client's first byte leaves one round trip later (SYN, SYN-ACK), and the server learns of the
/// connection with the following ACK; so the first byte of a server that speaks first arrives after
/// two round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// The SYN reaches the server, which refuses it or not.
    pub syn_at_server: Instant,
    /// The client knows that it is connected, or refused.
    pub client: Instant,
    /// The server knows that it is connected.
    pub server: Instant,
}

impl Handshake {
    /// The handshake of a connection that began at `at`.
    #[must_use]
    pub fn begin(at: Instant, to_server: Duration, to_client: Duration) -> Self {
        let client = at + to_server + to_client;
        Self { syn_at_server: at + to_server, client, server: client + to_server }
    }
}

impl Link {
    /// A link on which nothing leaves before `established`.
    #[must_use]
    pub fn new(established: Instant) -> Self {
        Self { established, newest: established, used_bytes: 0 }
    }

    /// Bytes the link takes now; 0 means: read nothing until something was [delivered](Self::delivered).
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        let free = WINDOW_BYTES - self.used_bytes;
        if free < PAYLOAD_COST_MIN { 0 } else { free }
    }

    /// Takes a payload of `bytes` at `now` onto `line` and answers when it is to be delivered.
    ///
    /// # Panics
    /// If it is larger than the [room](Self::room_bytes).
    pub fn send(&mut self, line: &mut Line, now: Instant, bytes: usize) -> Instant {
        let cost = bytes.max(PAYLOAD_COST_MIN);
        assert!(cost <= self.room_bytes(), "{bytes} bytes were sent into a full link");
        let follows = self.used_bytes > 0;
        self.used_bytes += cost;
        self.next_deadline(line, now, bytes, follows)
    }

    /// Takes the end of the stream, which costs no room, and answers when it is to be delivered.
    pub fn close(&mut self, line: &mut Line, now: Instant) -> Instant {
        self.next_deadline(line, now, 0, self.used_bytes > 0)
    }

    fn next_deadline(
        &mut self,
        line: &mut Line,
        now: Instant,
        bytes: usize,
        follows: bool,
    ) -> Instant {
        let arrival = line.carry(now.max(self.established), bytes, follows);
        self.newest = self.newest.max(arrival);
        self.newest
    }

    /// A payload of `bytes` has left the link.
    ///
    /// # Panics
    /// If more leaves than was sent.
    pub fn delivered(&mut self, bytes: usize) {
        let cost = bytes.max(PAYLOAD_COST_MIN);
        assert!(cost <= self.used_bytes, "{bytes} bytes left a link that did not hold them");
        self.used_bytes -= cost;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Handshake, Link, PAYLOAD_COST_MIN, PAYLOADS_MAX, WINDOW_BYTES};
    use crate::conditions::{Conditions, Jitter};
    use crate::line::Line;

    const MS: Duration = Duration::from_millis(1);

    fn line(delay: Duration) -> Line {
        Line::new(Conditions { delay, ..Conditions::default() }, 1)
    }

    #[test]
    fn payload_is_delayed_in_order() {
        let start = Instant::now();
        let (mut line, mut link) = (line(10 * MS), Link::new(start));
        assert_eq!(link.send(&mut line, start, 1), start + 10 * MS);
        assert_eq!(link.send(&mut line, start + 3 * MS, 1), start + 13 * MS);
        assert_eq!(link.send(&mut line, start + MS, 1), start + 13 * MS, "a clock that went back");
        assert_eq!(link.close(&mut line, start + 4 * MS), start + 14 * MS);
    }

    #[test]
    fn order_is_kept_when_delay_shrinks() {
        let start = Instant::now();
        let jitter = Jitter::Uniform(20 * MS);
        let conditions = Conditions { delay: 10 * MS, jitter, ..Conditions::default() };
        let (mut line, mut link) = (Line::new(conditions, 7), Link::new(start));
        let mut newest = start;
        for step in 0..1_000 {
            let deadline = link.send(&mut line, start + step * MS, 1);
            assert!(deadline >= newest);
            newest = deadline;
        }
        line.set(Conditions::default());
        assert_eq!(link.close(&mut line, start + 1_000 * MS), newest.max(start + 1_000 * MS));
    }

    #[test]
    fn a_connection_costs_one_round_trip_before_its_first_byte() {
        let start = Instant::now();
        let shake = Handshake::begin(start, 10 * MS, 30 * MS);
        assert_eq!(shake.syn_at_server, start + 10 * MS);
        let (mut there, mut here) = (line(10 * MS), line(30 * MS));
        let mut forth = Link::new(shake.client);
        let mut back = Link::new(shake.server);
        assert_eq!(forth.send(&mut there, start, 1), start + 50 * MS);
        assert_eq!(back.send(&mut here, start + 10 * MS, 1), start + 80 * MS);
        let later = forth.send(&mut there, start + 60 * MS, 1);
        assert_eq!(later, start + 70 * MS, "later ones pay no more");
    }

    #[test]
    fn a_full_link_has_no_room_until_something_is_delivered() {
        let start = Instant::now();
        let (mut line, mut link) = (line(MS), Link::new(start));
        link.send(&mut line, start, WINDOW_BYTES - 1);
        assert_eq!(link.room_bytes(), 0);
        link.delivered(WINDOW_BYTES - 1);
        for _ in 0..PAYLOADS_MAX {
            link.send(&mut line, start, 1);
        }
        assert_eq!(link.room_bytes(), 0, "small payloads are bounded in number");
        link.delivered(1);
        assert_eq!(link.room_bytes(), PAYLOAD_COST_MIN);
    }
}
