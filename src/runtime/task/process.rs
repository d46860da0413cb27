//! Simulated processes: many in one thread, each of which can be killed, paused and continued as a
//! whole, and draws its randomness from a seed.
//!
//! A task spawned while a task of a process is polled belongs to that process. A killed process is
//! never polled again; its memory and its unsent messages are lost. A paused process keeps its
//! state and gets no time, as under SIGSTOP.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

thread_local! {
    static CURRENT: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// A simulated process. Clones are the same one.
#[derive(Clone)]
pub struct Process(Arc<Inner>);

struct Inner {
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    randomness: u64,
    next_task: u64,
    is_killed: bool,
    is_paused: bool,
    tasks: BTreeMap<u64, AbortHandle>,
    /// Tasks that were woken during a pause.
    held: BTreeMap<u64, Waker>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Process").field(&self.0.name).finish()
    }
}

impl Process {
    /// A running process without tasks whose randomness grows from `seed`.
    #[must_use]
    pub fn new(name: &str, seed: u64) -> Self {
        let state = State { randomness: seed, ..State::default() };
        Self(Arc::new(Inner { name: name.to_owned(), state: Mutex::new(state) }))
    }

    /// The process whose task is being polled; `None` outside of all, as in every real process.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The next number of the process's randomness (splitmix64).
    #[must_use]
    pub fn random(&self) -> u64 {
        let mut state = self.0.state.lock();
        state.randomness = state.randomness.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed =
            (state.randomness ^ (state.randomness >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Spawns a task of this process. In a killed one it never runs.
    #[expect(clippy::disallowed_methods, reason = "what tasks are made of")]
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let mut state = self.0.state.lock();
        let number = state.next_task;
        state.next_task += 1;
        let process = Arc::downgrade(&self.0);
        let task = tokio::spawn(Member { process, number, work: Some(Box::pin(work)) });
        if state.is_killed {
            task.abort();
        } else {
            state.tasks.insert(number, task.abort_handle());
        }
        task
    }

    /// Ends it at this instant: no task of it does another step.
    pub fn kill(&self) {
        let tasks = {
            let mut state = self.0.state.lock();
            (state.is_killed, state.is_paused) = (true, false);
            state.held.clear();
            std::mem::take(&mut state.tasks)
        };
        tasks.into_values().for_each(|task| task.abort());
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.0.state.lock().is_killed
    }

    /// Gives it no time until [`Self::resume`].
    pub fn pause(&self) {
        self.0.state.lock().is_paused = true;
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.state.lock().is_paused
    }

    /// Ends a pause.
    pub fn resume(&self) {
        let held = {
            let mut state = self.0.state.lock();
            state.is_paused = false;
            std::mem::take(&mut state.held)
        };
        held.into_values().for_each(Waker::wake);
    }
}

/// One task of a process.
struct Member<F> {
    process: Weak<Inner>,
    number: u64,
    work: Option<Pin<Box<F>>>,
}

/// Puts the process before back when a poll ends, however it ends.
struct Before(Option<Process>);

impl Before {
    fn enter(process: &Process) -> Self {
        Self(CURRENT.with_borrow_mut(|current| current.replace(process.clone())))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| *current = self.0.take());
    }
}

impl<F: Future> Future for Member<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(process) = self.process.upgrade().map(Process) else { return Poll::Pending };
        {
            let mut state = process.0.state.lock();
            if state.is_killed {
                return Poll::Pending;
            }
            if state.is_paused {
                state.held.insert(self.number, context.waker().clone());
                return Poll::Pending;
            }
        }
        let _before = Before::enter(&process);
        let Some(work) = self.work.as_mut() else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
            process.0.state.lock().tasks.remove(&self.number);
        }
        polled
    }
}

impl<F> Drop for Member<F> {
    fn drop(&mut self) {
        // Tasks spawned by the destructors of an ended task belong to the process too.
        let Some(process) = self.process.upgrade().map(Process) else { return };
        process.0.state.lock().tasks.remove(&self.number);
        let _before = Before::enter(&process);
        self.work = None;
    }
}
