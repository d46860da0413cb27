//! [`crate::task::watch`] as openraft wants it: those who wait are woken in the order of asking.

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};

use crate::task::watch::{Receiver, Ref, Sender, channel};

/// See the module.
#[derive(Debug)]
pub(crate) struct Ordered;

/// Sets the value.
#[derive(Debug)]
pub(crate) struct OrderedSender<T>(Sender<T>);

/// Watches the value.
#[derive(Debug)]
pub(crate) struct OrderedReceiver<T>(Receiver<T>);

impl<T> Clone for OrderedSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for OrderedReceiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Watch for Ordered {
    type Sender<T: OptionalSend + OptionalSync> = OrderedSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = OrderedReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        let (sender, receiver) = channel(init);
        (OrderedSender(sender), OrderedReceiver(receiver))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<Ordered, T> for OrderedSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.0.send(value).map_err(|error| SendError(error.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> OrderedReceiver<T> {
        OrderedReceiver(self.0.subscribe())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<Ordered, T> for OrderedReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await.map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.0.borrow_and_update()
    }
}
