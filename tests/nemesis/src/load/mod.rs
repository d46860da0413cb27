//! The load: writes and reads at a planned rate, whatever became of the ones before, by sessions that
//! hand their token on from zone to zone. Every attempt goes into the history.

mod attempt;
mod book;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pghc_lab::client::Connection;
use pghc_runtime::task::Tasks;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

pub use book::{Ack, Book, Tally};

/// Grain of the plan.
const TICK: Duration = Duration::from_millis(4);
/// Most sessions with a request under way; what comes above is counted as shed.
const SESSIONS_MAX: u32 = 3_000;
/// Share of reads that ask for the newest committed state, in percent.
const LINEARIZABLE_PERCENT: u32 = 20;

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Writes per second.
    pub writes: f64,
    /// Reads per second.
    pub reads: f64,
}

/// A client's own order of requests, and what it has seen.
#[derive(Debug)]
struct Session {
    number: u32,
    token: Option<(u64, String)>,
    random: StdRng,
}

impl Session {
    /// Ends it and begins another one, of another number.
    fn begin_anew(&mut self) {
        self.number += SESSIONS_MAX;
        self.token = None;
    }
}

/// The clients.
pub struct Load {
    /// Record of the clients.
    pub book: Arc<Book>,
    nodes: Vec<(usize, SocketAddr)>,
    connections: Vec<Mutex<Vec<Connection>>>,
    idle: Mutex<Vec<Session>>,
    sessions: AtomicU64,
    planned: AtomicU64,
    writes: AtomicU64,
    under_way: AtomicU64,
    paused: AtomicBool,
    /// The planned rates are multiplied by this.
    burst: AtomicU64,
    /// Zones that get no new requests.
    avoided: Mutex<Vec<usize>>,
    rates: Rates,
    seed: u64,
}

impl Load {
    /// Clients of these nodes, given with their zones. They do nothing before [`Load::run`].
    pub fn new(nodes: Vec<(usize, SocketAddr)>, rates: Rates, seed: u64) -> Arc<Self> {
        let connections = nodes.iter().map(|_| Mutex::default()).collect();
        Arc::new(Self {
            book: Arc::default(),
            nodes,
            connections,
            idle: Mutex::default(),
            sessions: AtomicU64::new(0),
            planned: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            paused: AtomicBool::new(true),
            burst: AtomicU64::new(1),
            avoided: Mutex::default(),
            rates,
            seed,
        })
    }

    /// Starts or continues the load.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    /// Stops and waits until every request under way has its end; false if some have none by then.
    pub async fn pause(&self, longest: Duration) -> bool {
        self.paused.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + longest;
        while self.under_way.load(Ordering::SeqCst) > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(TICK).await;
        }
        true
    }

    /// Multiplies the rates; 1 is normal.
    pub fn burst(&self, factor: u64) {
        self.burst.store(factor, Ordering::SeqCst);
    }

    /// Number of planned requests.
    pub fn planned(&self) -> u64 {
        self.planned.load(Ordering::Relaxed)
    }

    /// Requests planned in this time without a burst.
    pub fn usual(&self, during: Duration) -> u64 {
        let requests = (self.rates.writes + self.rates.reads) * during.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "thousands")]
        let requests = requests as u64;
        requests
    }

    /// Sends no new requests to these zones.
    pub fn avoid(&self, zones: &[usize]) {
        zones.clone_into(&mut self.avoided.lock());
    }

    /// Issues requests until the task is dropped.
    pub async fn run(self: Arc<Self>) {
        let tasks = Tasks::default();
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut last, mut due) = (Instant::now(), 0.0);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let passed = (now - last).min(Duration::from_millis(200)).as_secs_f64();
            last = now;
            if self.paused.load(Ordering::SeqCst) {
                continue;
            }
            let burst = self.burst.load(Ordering::SeqCst);
            let total = self.rates.writes + self.rates.reads;
            due += passed * total * f64::from(u32::try_from(burst).unwrap_or(1));
            while due >= 1.0 {
                due -= 1.0;
                let is_write = random.random_bool(self.rates.writes / total);
                self.issue(&tasks, is_write, burst > 1);
            }
        }
    }

    /// Starts one request by an idle session, or by a new one.
    fn issue(self: &Arc<Self>, tasks: &Tasks, is_write: bool, is_burst: bool) {
        self.planned.fetch_add(1, Ordering::Relaxed);
        let idle = self.idle.lock().pop();
        let Some(mut session) = idle.or_else(|| self.new_session()) else {
            self.book.shed();
            return;
        };
        let load = Arc::clone(self);
        self.under_way.fetch_add(1, Ordering::SeqCst);
        tasks.spawn("request", async move {
            if is_write {
                load.write(&mut session, is_burst).await;
            } else {
                let linearizable = session.random.random_range(0..100) < LINEARIZABLE_PERCENT;
                load.read(&mut session, linearizable).await;
            }
            load.idle.lock().push(session);
            load.under_way.fetch_sub(1, Ordering::SeqCst);
        });
    }

    fn new_session(&self) -> Option<Session> {
        let number = self.sessions.load(Ordering::SeqCst);
        if number >= u64::from(SESSIONS_MAX) {
            return None;
        }
        self.sessions.store(number + 1, Ordering::SeqCst);
        let random = StdRng::seed_from_u64(self.seed ^ (number + 1).wrapping_mul(0x9e37_79b9));
        Some(Session { number: u32::try_from(number).ok()?, token: None, random })
    }
}
