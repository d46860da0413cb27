//! The network links of a [`Matrix`]: delays, jitter, losses, bandwidth and cuts come from the engine that
//! the emulator of real deployments has ([`pghc_wan`]), message by message.

use std::collections::VecDeque;

use parking_lot::Mutex;
use pghc_wan::conditions::Change;
use pghc_wan::line::How;
use pghc_wan::link::{Link, PAYLOAD_COST_MIN};
use pghc_wan::{Cut, Lane, LineView, Lines, Matrix};
use tokio::time::Instant;

use super::net::{Channel, LinkModel, LinkState};

/// See the module. Each host is in a zone of the matrix.
pub struct WanLinkModel {
    lines: Lines,
    /// By zones, from and to.
    lanes: Vec<Lane>,
    /// The same: when the network link opened after its newest cut.
    opened: Mutex<Vec<Instant>>,
    /// Zone of each host, as a place in the matrix.
    zone_of: Vec<usize>,
    zones: usize,
}

impl WanLinkModel {
    /// Network links between hosts in these zones of `matrix`; `seed` throws the dice of jitter and losses.
    ///
    /// # Panics
    /// If a host is in no zone of the matrix.
    #[must_use]
    pub fn new(matrix: &Matrix, zone_of: Vec<usize>, seed: u64) -> Self {
        let zones = matrix.zones();
        assert!(zone_of.iter().all(|zone| *zone < zones.len()), "a host in no zone");
        let lines = Lines::new(matrix, seed);
        let lane = |(from, to)| lines.lane(from, to).expect("zones of the matrix");
        let pairs = zones.iter().flat_map(|from| zones.iter().map(move |to| (from, to)));
        let lanes: Vec<Lane> = pairs.map(lane).collect();
        let opened = Mutex::new(vec![Instant::now(); lanes.len()]);
        Self { lines, lanes, opened, zone_of, zones: zones.len() }
    }

    fn place(&self, from: usize, to: usize) -> usize {
        self.zone_of[from] * self.zones + self.zone_of[to]
    }

    /// Changes the conditions from one zone to another; `*` means all zones.
    ///
    /// # Errors
    /// A sentence, when a zone is not known or a value is impossible; nothing is changed then.
    pub fn set(&self, from: &str, to: &str, change: &Change) -> Result<(), String> {
        self.lines.set(from, to, change)
    }

    /// Every line between two zones as it is now.
    #[must_use]
    pub fn view(&self) -> Vec<LineView> {
        self.lines.view()
    }

    /// Cuts network links; returns the cut's number. The network must be notified
    /// ([`super::net::Net::note`]).
    ///
    /// # Errors
    /// A sentence, when the cut separates nothing or there are too many.
    pub fn cut(&self, cut: Cut) -> Result<u64, String> {
        self.lines.cut(cut)
    }

    /// Heals a cut. Held messages arrive when TCP would retransmit them. The network must be
    /// notified.
    pub fn heal(&self, number: u64) {
        let was_cut: Vec<bool> =
            self.lanes.iter().map(|lane| lane.line().cut().is_some()).collect();
        self.lines.heal(Some(number));
        let mut opened = self.opened.lock();
        for (place, lane) in self.lanes.iter().enumerate().filter(|(place, _)| was_cut[*place]) {
            let line = lane.line();
            if line.cut().is_none() {
                opened[place] = Instant::now() + line.retransmission();
            }
        }
    }
}

impl LinkModel for WanLinkModel {
    fn channel(&self, from: usize, to: usize) -> Box<dyn Channel> {
        let link = Link::new(Instant::now().into_std());
        let lane = self.lanes[self.place(from, to)].clone();
        Box::new(WanChannel { state: Mutex::new((link, VecDeque::new())), lane })
    }

    fn link_state(&self, from: usize, to: usize) -> LinkState {
        let place = self.place(from, to);
        match self.lanes[place].line().cut() {
            Some(How::Silence) => LinkState::Stalled,
            Some(How::Reset) => LinkState::Broken,
            None => LinkState::Open(self.opened.lock()[place]),
        }
    }
}

/// One direction of one connection.
struct WanChannel {
    /// With what is under way: when it arrives, and its bytes.
    state: Mutex<(Link, VecDeque<(std::time::Instant, usize)>)>,
    lane: Lane,
}

impl Channel for WanChannel {
    fn send(&self, bytes: usize) -> Instant {
        let now = Instant::now().into_std();
        let (mut state, mut line) = (self.state.lock(), self.lane.line());
        let (link, under_way) = &mut *state;
        while let Some((_, bytes)) = under_way.pop_front_if(|(at, _)| *at <= now) {
            link.delivered(bytes);
        }
        // Beyond a full window a sender would wait; here the queue of the stream holds the sender.
        let bytes = bytes.min(link.room_bytes());
        if bytes < PAYLOAD_COST_MIN && link.room_bytes() < PAYLOAD_COST_MIN {
            let at = line.carry(now, bytes, true);
            return Instant::from_std(under_way.back().map_or(at, |(last, _)| at.max(*last)));
        }
        let at = link.send(&mut line, now, bytes);
        under_way.push_back((at, bytes));
        Instant::from_std(at)
    }
}
