//! The simulation's network: the one of virtual parades, with delays from the seed, cut and healed
//! one direction at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_runtime::task::process::Process;
use pghc_sim::SeededRng;
use pghc_sim::net::{self, Channel, Dialer, LinkState};
pub(crate) use pghc_sim::net::{unowned, url};
use tokio::time::Instant;
use tonic::service::Routes;

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
struct SeededLinks {
    routes: Arc<Mutex<BTreeMap<(usize, usize), Route>>>,
    delay_us: (u64, u64),
    rng: SeededRng,
}

impl SeededLinks {
    fn route(&self, from: usize, to: usize) -> Route {
        self.routes.lock().get(&(from, to)).cloned().unwrap_or_else(|| self.new_route())
    }

    fn new_route(&self) -> Route {
        Route { is_cut: false, open_at: Instant::now(), delay_us: self.delay_us }
    }
}

impl net::LinkModel for SeededLinks {
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
        let (low, high) = self.routes.route(self.from, self.to).delay_us;
        Instant::now() + Duration::from_micros(self.routes.rng.between(low, high))
    }
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Net {
    net: net::Net,
    routes: SeededLinks,
}

impl Net {
    pub(crate) fn new(hosts: usize, delay_us: (u64, u64), rng: SeededRng) -> Self {
        let routes = SeededLinks { routes: Arc::default(), delay_us, rng };
        Self { net: net::Net::new(hosts, Arc::new(routes.clone())), routes }
    }

    fn with_route<T>(&self, from: usize, to: usize, act: impl FnOnce(&mut Route) -> T) -> T {
        let new = || self.routes.new_route();
        let result = act(self.routes.routes.lock().entry((from, to)).or_insert_with(new));
        self.net.note();
        result
    }

    /// Cuts one direction of a network link.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.with_route(from, to, |route| route.is_cut = true);
    }

    /// Mends one direction of a network link.
    pub(crate) fn mend(&self, from: usize, to: usize) {
        let retransmit = self.routes.rng.millis(0, RETRANSMIT_MS);
        self.with_route(from, to, |route| {
            if std::mem::replace(&mut route.is_cut, false) {
                route.open_at = Instant::now() + retransmit;
            }
        });
    }

    /// Sets the delay of one direction, in microseconds.
    pub(crate) fn set_delay(&self, from: usize, to: usize, delay_us: (u64, u64)) {
        self.with_route(from, to, |route| route.delay_us = delay_us);
    }

    /// Mends everything.
    pub(crate) fn mend_all(&self) {
        let routes: Vec<_> = self.routes.routes.lock().keys().copied().collect();
        for (from, to) in routes {
            self.mend(from, to);
            self.set_delay(from, to, self.routes.delay_us);
        }
    }

    /// A process begins on a host.
    pub(crate) fn up(&self, host: usize, process: &Process) {
        self.net.up(host, process);
    }

    /// Makes the host listen.
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
