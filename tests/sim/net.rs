//! The network links of the seeds: delays from the seed, cut and mended one direction at a time.
//!
//! Invariant: after each change the network must be notified ([`pghc_sim::net::Net::note`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pghc_sim::SeededRng;
use pghc_sim::net::{Channel, LinkModel, LinkState};
use tokio::time::Instant;

/// Retransmission after a cut ends, at most, in milliseconds.
const RETRANSMIT_MS: u64 = 200;

#[derive(Clone)]
struct Route {
    is_cut: bool,
    /// Retransmissions after a cut reach the other side from here on.
    open_at: Instant,
    delay_us: (u64, u64),
}

/// Clones are the same network links.
#[derive(Clone)]
pub(crate) struct SeededLinks {
    routes: Arc<Mutex<BTreeMap<(usize, usize), Route>>>,
    delay_us: (u64, u64),
    rng: SeededRng,
}

impl SeededLinks {
    /// Links whose delays are drawn from `delay_us`, in microseconds.
    pub(crate) fn new(delay_us: (u64, u64), rng: SeededRng) -> Self {
        Self { routes: Arc::default(), delay_us, rng }
    }

    fn route(&self, from: usize, to: usize) -> Route {
        self.routes.lock().get(&(from, to)).cloned().unwrap_or_else(|| self.new_route())
    }

    fn new_route(&self) -> Route {
        Route { is_cut: false, open_at: Instant::now(), delay_us: self.delay_us }
    }

    fn change(&self, from: usize, to: usize, act: impl FnOnce(&mut Route)) {
        act(self.routes.lock().entry((from, to)).or_insert_with(|| self.new_route()));
    }

    /// Cuts one direction of a network link.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.change(from, to, |route| route.is_cut = true);
    }

    /// Mends one direction of a network link.
    pub(crate) fn mend(&self, from: usize, to: usize) {
        let retransmit = self.rng.millis(0, RETRANSMIT_MS);
        self.change(from, to, |route| {
            if std::mem::replace(&mut route.is_cut, false) {
                route.open_at = Instant::now() + retransmit;
            }
        });
    }

    /// Sets the delay of one direction, in microseconds.
    pub(crate) fn set_delay(&self, from: usize, to: usize, delay_us: (u64, u64)) {
        self.change(from, to, |route| route.delay_us = delay_us);
    }

    /// Mends everything.
    pub(crate) fn mend_all(&self) {
        let routes: Vec<_> = self.routes.lock().keys().copied().collect();
        for (from, to) in routes {
            self.mend(from, to);
            self.set_delay(from, to, self.delay_us);
        }
    }
}

impl LinkModel for SeededLinks {
    fn channel(&self, from: usize, to: usize) -> Box<dyn Channel> {
        Box::new(SeededChannel { routes: self.clone(), from, to })
    }

    fn link_state(&self, from: usize, to: usize) -> LinkState {
        let route = self.route(from, to);
        if route.is_cut { LinkState::Stalled } else { LinkState::Open(route.open_at) }
    }
}

/// A channel on which every message's delay is drawn anew.
struct SeededChannel {
    routes: SeededLinks,
    from: usize,
    to: usize,
}

impl Channel for SeededChannel {
    fn send(&self, _bytes: usize) -> Instant {
        let delay_us = self.routes.route(self.from, self.to).delay_us;
        Instant::now() + self.routes.rng.micros(delay_us)
    }
}
