//! Virtual time: a runtime of one thread whose clock stands still while any task can run, and then
//! jumps to the next timer.
//!
//! tokio's paused clock does the same, but its timers have whole milliseconds, rounded up, and a
//! message that crosses the world five times would be 5 ms late. Messages therefore wait for
//! [`sleep_until`], which is exact: when no task can run, a conductor moves the clock to the next
//! exact time or to the next whole millisecond, whichever is first.
//!
//! Invariant: timers fire in order of their time; timers of the same time fire in the order in
//! which they were set.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// tokio's grain.
const TICK: Duration = Duration::from_millis(1);

thread_local! {
    static CURRENT: RefCell<Option<Arc<Conductor>>> = const { RefCell::new(None) };
}

/// Timers with an exact time.
#[derive(Default)]
struct Wait {
    waker: Mutex<Option<Waker>>,
}

/// See the module.
#[derive(Default)]
struct Conductor {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waits: BinaryHeap<Reverse<(Instant, u64, Entry)>>,
    asked: u64,
    /// The conductor's own task, while it waits until nothing is left to do.
    idle: Option<Waker>,
    is_idle: bool,
}

/// Ordered by the time and number before it alone.
struct Entry(Arc<Wait>);

impl PartialEq for Entry {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// Runs `work` to its end in virtual time, in a thread of its own; what it spawned ends with it.
///
/// # Errors
/// If the system gives no thread.
///
/// # Panics
/// If `work` does.
pub fn run<T, F>(work: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let thread = std::thread::Builder::new().name("virtual time".to_owned());
    let thread = thread.spawn(move || {
        let conductor = Arc::new(Conductor::default());
        let told = Arc::clone(&conductor);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_park(move || told.nothing_to_do())
            .build()?;
        CURRENT.set(Some(Arc::clone(&conductor)));
        let done = runtime.block_on(async {
            let origin = Instant::now();
            let work = work();
            tokio::pin!(work);
            tokio::select! {
                biased;
                () = conductor.conduct(origin) => unreachable!("it has no end"),
                done = &mut work => done,
            }
        });
        // Tasks that are still running may hold the clock.
        drop(runtime);
        CURRENT.set(None);
        Ok(done)
    })?;
    match thread.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Resolves at `at`, to the nanosecond; outside of [`run`] as tokio's timers do.
pub async fn sleep_until(at: Instant) {
    match CURRENT.with_borrow(Clone::clone) {
        Some(conductor) => Sleep { conductor, at, wait: None }.await,
        None => tokio::time::sleep_until(at).await,
    }
}

struct Sleep {
    conductor: Arc<Conductor>,
    at: Instant,
    wait: Option<Arc<Wait>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        match &self.wait {
            Some(wait) => *wait.waker.lock() = Some(waker),
            None => self.wait = Some(self.conductor.wait(self.at, waker)),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(wait) = &self.wait {
            *wait.waker.lock() = None;
        }
    }
}

impl Conductor {
    fn wait(&self, at: Instant, waker: Waker) -> Arc<Wait> {
        let wait = Arc::new(Wait { waker: Mutex::new(Some(waker)) });
        let mut state = self.state.lock();
        state.asked += 1;
        let entry = (at, state.asked, Entry(Arc::clone(&wait)));
        state.waits.push(Reverse(entry));
        wait
    }

    /// Called by the runtime before it would sleep.
    fn nothing_to_do(&self) {
        let waker = {
            let mut state = self.state.lock();
            let waker = state.idle.take();
            state.is_idle |= waker.is_some();
            waker
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves the clock whenever nothing is left to do.
    async fn conduct(&self, origin: Instant) {
        loop {
            self.idle().await;
            let now = Instant::now();
            let since = now - origin;
            let into_tick = Duration::from_nanos(u64::from(since.subsec_nanos() % 1_000_000));
            let boundary = now + (TICK - into_tick);
            match self.next() {
                Some(at) if at <= now => self.wake(now),
                Some(at) if at < boundary => {
                    tokio::time::advance(at - now).await;
                    self.wake(at);
                }
                // tokio's own clock advances in whole ticks only from a whole tick.
                _ if !into_tick.is_zero() => tokio::time::advance(boundary - now).await,
                _ => tokio::time::sleep_until(boundary).await,
            }
        }
    }

    /// Resolves when nothing is left to do.
    async fn idle(&self) {
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if std::mem::take(&mut state.is_idle) {
                return Poll::Ready(());
            }
            state.idle = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn next(&self) -> Option<Instant> {
        self.state.lock().waits.peek().map(|Reverse((at, ..))| *at)
    }

    /// Wakes the timers of `now` or earlier.
    fn wake(&self, now: Instant) {
        loop {
            let wait = {
                let mut state = self.state.lock();
                match state.waits.peek() {
                    Some(Reverse((at, ..))) if *at <= now => state.waits.pop(),
                    _ => return,
                }
            };
            let waker = wait.and_then(|Reverse((.., Entry(wait)))| wait.waker.lock().take());
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{run, sleep_until};

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn exact_times_are_met() {
        let woken = run(|| async {
            let start = Instant::now();
            let exact = |us: u32| async move {
                sleep_until(start + us * US).await;
                start.elapsed()
            };
            let coarse = |ms: u64| async move {
                tokio::time::sleep_until(start + Duration::from_millis(ms)).await;
                start.elapsed()
            };
            let twice = async {
                exact(1_700).await;
                exact(74_630).await
            };
            tokio::join!(exact(300), exact(301), coarse(1), twice, coarse(60), exact(3_000))
        });
        let woken = woken.expect("a thread");
        let micros =
            [woken.0, woken.1, woken.2, woken.3, woken.4, woken.5].map(|at| at.as_micros());
        assert_eq!(micros, [300, 301, 1_000, 74_630, 60_000, 3_000]);
    }

    #[test]
    fn an_hour_passes_in_no_time() {
        let passed = run(|| async {
            let start = Instant::now();
            for second in 1..=60_u32 {
                sleep_until(start + second * 60 * Duration::from_millis(1_000) + 7 * US).await;
            }
            start.elapsed()
        });
        assert_eq!(passed.expect("a thread"), Duration::from_secs(3_600) + 7 * US);
    }
}
