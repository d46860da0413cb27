//! The simulation's network: the one of virtual parades, on roads whose delays come from the seed
//! and which are cut and mended one direction at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc::task::process::Process;
use pghc::virtual_parade::net::{self, Dialer, Lane, Passage};
pub(crate) use pghc::virtual_parade::net::{unowned, url};
use tokio::time::Instant;
use tonic::service::Routes;

use super::dice::Dice;

/// Retransmission after a cut ends, at most, in milliseconds.
const RETRANSMIT_MS: u64 = 200;

#[derive(Clone)]
struct Road {
    is_cut: bool,
    /// Retransmissions after a cut reach the other side from here on.
    open_at: Instant,
    delay_us: (u64, u64),
}

/// Clones are the same roads.
#[derive(Clone)]
struct Roads {
    roads: Arc<Mutex<BTreeMap<(usize, usize), Road>>>,
    delay_us: (u64, u64),
    dice: Dice,
}

impl Roads {
    fn road(&self, from: usize, to: usize) -> Road {
        self.roads.lock().get(&(from, to)).cloned().unwrap_or_else(|| self.new_road())
    }

    fn new_road(&self) -> Road {
        Road { is_cut: false, open_at: Instant::now(), delay_us: self.delay_us }
    }
}

impl net::Roads for Roads {
    fn lane(&self, from: usize, to: usize) -> Box<dyn Lane> {
        Box::new(Thrown { roads: self.clone(), from, to })
    }

    fn passage(&self, from: usize, to: usize) -> Passage {
        let road = self.road(from, to);
        if road.is_cut { Passage::Stalled } else { Passage::Open(road.open_at) }
    }
}

/// A lane on which every message's delay is thrown anew.
struct Thrown {
    roads: Roads,
    from: usize,
    to: usize,
}

impl Lane for Thrown {
    fn send(&self, _bytes: usize) -> Instant {
        let (low, high) = self.roads.road(self.from, self.to).delay_us;
        Instant::now() + Duration::from_micros(self.roads.dice.between(low, high))
    }
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Net {
    net: net::Net,
    roads: Roads,
}

impl Net {
    pub(crate) fn new(hosts: usize, delay_us: (u64, u64), dice: Dice) -> Self {
        let roads = Roads { roads: Arc::default(), delay_us, dice };
        Self { net: net::Net::new(hosts, Arc::new(roads.clone())), roads }
    }

    fn with_road<T>(&self, from: usize, to: usize, act: impl FnOnce(&mut Road) -> T) -> T {
        let new = || self.roads.new_road();
        let result = act(self.roads.roads.lock().entry((from, to)).or_insert_with(new));
        self.net.note();
        result
    }

    /// Cuts one direction of a road.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.with_road(from, to, |road| road.is_cut = true);
    }

    /// Mends one direction of a road.
    pub(crate) fn mend(&self, from: usize, to: usize) {
        let retransmit = self.roads.dice.millis(0, RETRANSMIT_MS);
        self.with_road(from, to, |road| {
            if std::mem::replace(&mut road.is_cut, false) {
                road.open_at = Instant::now() + retransmit;
            }
        });
    }

    /// Sets the delay of one direction, in microseconds.
    pub(crate) fn set_delay(&self, from: usize, to: usize, delay_us: (u64, u64)) {
        self.with_road(from, to, |road| road.delay_us = delay_us);
    }

    /// Mends everything.
    pub(crate) fn mend_all(&self) {
        let roads: Vec<_> = self.roads.roads.lock().keys().copied().collect();
        for (from, to) in roads {
            self.mend(from, to);
            self.set_delay(from, to, self.roads.delay_us);
        }
    }

    /// A process begins on a host.
    pub(crate) fn up(&self, host: usize, process: &Process) {
        self.net.up(host, process);
    }

    /// It listens.
    pub(crate) fn listen(&self, host: usize, routes: Routes) {
        self.net.listen(host, routes);
    }

    /// The process of a host has ended, or the power of the host.
    pub(crate) fn down(&self, host: usize, is_powered: bool) {
        self.net.down(host, is_powered);
    }

    /// A process was paused or resumed.
    pub(crate) fn note(&self) {
        self.net.note();
    }

    /// The dialer of a host.
    pub(crate) fn dialer(&self, from: usize) -> Dialer {
        self.net.dialer(from)
    }
}
