//! A watched value, as `tokio::sync::watch`, except that waiters are woken in order of arrival.
//! tokio wakes them in an order that no seed decides, so a run in virtual time could not be
//! repeated.
//!
//! Semantics are tokio's: a receiver sees the newest value, not each; with the last sender the channel
//! closes.

use std::sync::Arc;

use futures::FutureExt as _;
use tokio::sync::Notify;
use tokio::sync::watch as inner;
pub use tokio::sync::watch::Ref;
pub use tokio::sync::watch::error::{RecvError, SendError};
use tokio::task::unconstrained;

/// Wakes all waiters, and once more when the last sender is dropped.
#[derive(Debug, Default)]
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// Sets the value. Clones set the same one.
#[derive(Debug)]
pub struct Sender<T> {
    // Dropped before the bell, so the waiter woken last finds the channel closed.
    value: inner::Sender<T>,
    bell: Arc<Bell>,
}

/// Watches the value.
#[derive(Debug)]
pub struct Receiver<T> {
    value: inner::Receiver<T>,
    bell: Arc<Notify>,
}

/// Creates a watched value with one receiver.
#[must_use]
pub fn channel<T>(initial: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(initial);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Sender<T> {
    /// Creates a watched value without receivers.
    #[must_use]
    pub fn new(initial: T) -> Self {
        Self { value: inner::Sender::new(initial), bell: Arc::default() }
    }

    /// Sets it.
    ///
    /// # Errors
    /// When the value has no receivers; the value is given back.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value.send(value)?;
        self.bell.0.notify_waiters();
        Ok(())
    }

    /// Sets it, watched or not; returns what it was.
    pub fn send_replace(&self, value: T) -> T {
        let before = self.value.send_replace(value);
        self.bell.0.notify_waiters();
        before
    }

    /// Changes the value in place; wakes receivers only if `change` returns true. Returns that
    /// result.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let changed = self.value.send_if_modified(change);
        if changed {
            self.bell.0.notify_waiters();
        }
        changed
    }

    /// The value. No value can be set while the answer lives.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.value.borrow()
    }

    /// Whether a receiver watches it now.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.value.receiver_count() > 0
    }

    /// Watches from now on: the value as it is counts as seen.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value.subscribe(), bell: Arc::clone(&self.bell.0) }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Receiver<T> {
    /// Makes the value count as not seen yet.
    pub fn mark_changed(&mut self) {
        self.value.mark_changed();
    }

    /// The newest value. No value can be set while the answer lives.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.value.borrow()
    }

    /// The newest value, which counts as seen from now on.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.value.borrow_and_update()
    }

    /// Whether there is a value that was not seen.
    ///
    /// # Errors
    /// When all senders are dropped.
    pub fn has_changed(&self) -> Result<bool, RecvError> {
        self.value.has_changed()
    }

    /// Resolves when there is a value that was not seen, which then counts as seen.
    ///
    /// # Errors
    /// When there is no new value and all senders are dropped.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // A task without budget gets "pending" from every poll and could not be woken from the
            // check below. The budget is therefore consumed here.
            tokio::task::consume_budget().await;
            let rung = self.bell.notified();
            tokio::pin!(rung);
            // From here on no ringing is missed.
            rung.as_mut().enable();
            if let Some(seen) = unconstrained(self.value.changed()).now_or_never() {
                return seen;
            }
            rung.await;
        }
    }

    /// Resolves when the value is as `wanted`, with it; it counts as seen.
    ///
    /// # Errors
    /// When the value does not match and all senders are dropped.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        loop {
            if wanted(&self.value.borrow_and_update()) {
                break;
            }
            self.changed().await?;
        }
        // Ready at once, unless another thread has just set something else.
        self.value.wait_for(wanted).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;
    use parking_lot::Mutex;

    use super::channel;
    use crate::task::Tasks;

    #[tokio::test]
    async fn waiters_are_woken_in_order_of_arrival() {
        let ((sender, receiver), tasks) = (channel(0), Tasks::default());
        let (woken, ready) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        for number in 0..40 {
            let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
            let ready = Arc::clone(&ready);
            tasks.spawn("waits", async move {
                *ready.lock() += 1;
                receiver.changed().await.expect("the sender lives");
                woken.lock().push(number);
            });
        }
        while *ready.lock() < 40 {
            tokio::task::yield_now().await;
        }
        sender.send_replace(1);
        while woken.lock().len() < 40 {
            tokio::task::yield_now().await;
        }
        assert!(woken.lock().is_sorted(), "{:?}", woken.lock());
    }

    #[tokio::test]
    async fn a_value_that_was_set_before_the_end_is_still_seen() {
        let (sender, mut receiver) = channel(0);
        assert!(receiver.changed().now_or_never().is_none(), "the first value counts as seen");
        sender.send_replace(1);
        drop(sender);
        assert!(receiver.changed().await.is_ok());
        assert!(receiver.changed().await.is_err());
        assert_eq!(*receiver.wait_for(|value| *value == 1).await.expect("it is so"), 1);
        assert!(receiver.wait_for(|value| *value == 2).await.is_err());
    }

    #[tokio::test]
    async fn waiters_are_woken_when_last_sender_drops() {
        let (sender, mut receiver) = channel(());
        let tasks = Tasks::default();
        let other = sender.clone();
        tasks.spawn("ends", async move {
            tokio::task::yield_now().await;
            drop(sender);
            drop(other);
        });
        assert!(receiver.changed().await.is_err());
    }

    #[tokio::test]
    async fn a_task_that_has_used_up_its_budget_misses_no_change() {
        let (sender, mut receiver) = channel(0);
        let (queue, mut queued) = tokio::sync::mpsc::channel(256);
        for n in 0..256 {
            queue.try_send(n).expect("there is room");
        }
        let spend = async {
            // Ready until the budget of this poll is used up.
            while queued.recv().now_or_never().flatten().is_some() {}
            sender.send_replace(1);
            receiver.changed().await
        };
        let changed = tokio::time::timeout(std::time::Duration::from_secs(20), spend).await;
        assert!(changed.is_ok_and(|changed| changed.is_ok()));
    }
}
