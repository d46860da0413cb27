//! The clock of the emulator: one thread that hands payloads over when they are due.
//!
//! A separate thread, because tokio's timers have a grain of 1 ms and the emulator needs 0.1 ms.
//! Invariant: entries due at the same time leave in order of insertion. The thread never blocks on
//! a receiver. The windows of the links bound the waiting entries.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, oneshot};

/// An item that travels in one direction of a connection.
#[derive(Debug)]
pub(super) enum Frame {
    /// Bytes to pass on, and when they were due.
    Bytes(Bytes, Instant),
    /// The sender has closed its side.
    End,
    /// The sender's side broke: the receiver's is broken too.
    Reset,
}

/// Action of a due entry.
#[derive(Debug)]
enum Due {
    Frame(mpsc::Sender<Frame>, Frame),
    Wake(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Entry {
    deadline: Instant,
    /// Breaks ties in the order of arrival.
    turn: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.turn == other.turn
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// Reversed, so that the earliest entry is the heap's greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.deadline, other.turn).cmp(&(self.deadline, self.turn))
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: BinaryHeap<Entry>,
    turns: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Ends the thread when the last [`Timer`] goes.
#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_one();
    }
}

/// The way to the timer thread. The thread ends with the last clone of it.
#[derive(Debug, Clone)]
pub(super) struct Timer(Arc<Owner>);

impl Timer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("wan-timer".to_owned()).spawn(move || run(&of_thread))?;
        Ok(Self(Arc::new(Owner(shared))))
    }

    /// Sends `frame` into `to` at `deadline`. A frame that finds no room or no receiver is dropped;
    /// a link's window makes the first impossible.
    pub(super) fn send_at(&self, deadline: Instant, to: mpsc::Sender<Frame>, frame: Frame) {
        self.push(deadline, Due::Frame(to, frame));
    }

    /// Resolves at `deadline`, or at once when the thread has ended.
    pub(super) async fn sleep_until(&self, deadline: Instant) {
        let (wake, woken) = oneshot::channel();
        self.push(deadline, Due::Wake(wake));
        let _: Result<(), _> = woken.await;
    }

    fn push(&self, deadline: Instant, due: Due) {
        let shared = &self.0.0;
        let mut state = shared.state.lock();
        let turn = state.turns;
        state.turns += 1;
        let is_next = state.waiting.peek().is_none_or(|next| deadline < next.deadline);
        state.waiting.push(Entry { deadline, turn, due });
        drop(state);
        if is_next {
            shared.changed.notify_one();
        }
    }
}

fn run(shared: &Shared) {
    wake_on_time();
    let mut state = shared.state.lock();
    while !state.closed {
        let Some(next) = state.waiting.peek() else {
            shared.changed.wait(&mut state);
            continue;
        };
        let deadline = next.deadline;
        if Instant::now() < deadline {
            // Woken early by a nearer deadline or the end, or late by the system: check again.
            let _ = shared.changed.wait_until(&mut state, deadline);
            continue;
        }
        let Some(entry) = state.waiting.pop() else { continue };
        parking_lot::MutexGuard::unlocked(&mut state, || release(entry.due));
    }
}

fn release(due: Due) {
    match due {
        Due::Frame(to, frame) => match to.try_send(frame) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                // Unreachable while the channel is as long as the window; bytes would be missing.
                tracing::error!("wan payload lost: channel full");
            }
        },
        Due::Wake(wake) => {
            let _: Result<(), ()> = wake.send(());
        }
    }
}

/// Asks the kernel to wake the calling thread on time instead of gathering wake-ups within 50 us.
/// Without kernel support, sleeps are up to 50 us longer.
pub fn wake_on_time() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::debug!(%error, "timer slack not set");
    }
}
