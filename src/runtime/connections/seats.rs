//! Slots for a bounded number of connections. When all are taken, the connection that has been idle
//! longest is closed for the next; without an idle one, the next connection is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Longest wait for a connection that was asked to close.
const GOING_MAX: Duration = Duration::from_secs(1);

/// A connection that holds a place.
pub trait Guest: Send + Sync + 'static {
    /// Since when it could go without a loss; `None` while it is at work or on its way out.
    fn idle_since(&self) -> Option<Instant>;

    /// Asks the connection to close. It closes at its next poll, unless a request has arrived
    /// meanwhile.
    fn dismiss(&self);
}

/// The places.
#[derive(Debug)]
pub struct Seats<G> {
    most: usize,
    guests: Mutex<Guests<G>>,
    freed: Notify,
}

#[derive(Debug)]
struct Guests<G> {
    next: u64,
    seated: BTreeMap<u64, Arc<G>>,
}

/// A place that is taken; free again when this is dropped.
#[derive(Debug)]
pub struct Seat<G: Guest> {
    seats: Arc<Seats<G>>,
    number: u64,
}

impl<G: Guest> Seats<G> {
    /// `most` free places.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        let guests = Mutex::new(Guests { next: 0, seated: BTreeMap::new() });
        Arc::new(Self { most, guests, freed: Notify::new() })
    }

    /// Places taken now.
    pub fn taken(&self) -> usize {
        self.guests.lock().seated.len()
    }

    /// A place for `guest`, for which the guest that has been idle longest may have to go; `None` when
    /// all are at work. Takes a second at most.
    pub async fn admit(self: &Arc<Self>, guest: &Arc<G>) -> Option<Seat<G>> {
        if let Some(seat) = self.sit(guest) {
            return Some(seat);
        }
        let idlest = self.idlest()?;
        idlest.dismiss();
        drop(idlest);
        let until = Instant::now() + GOING_MAX;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(seat) = self.sit(guest) {
                return Some(seat);
            }
            timeout_at(until, freed).await.ok()?;
        }
    }

    /// Resolves when no place is taken.
    pub async fn empty(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.taken() == 0 {
                return;
            }
            freed.await;
        }
    }

    fn sit(self: &Arc<Self>, guest: &Arc<G>) -> Option<Seat<G>> {
        let mut guests = self.guests.lock();
        if guests.seated.len() >= self.most {
            return None;
        }
        let number = guests.next;
        guests.next += 1;
        guests.seated.insert(number, Arc::clone(guest));
        Some(Seat { seats: Arc::clone(self), number })
    }

    fn idlest(&self) -> Option<Arc<G>> {
        let guests = self.guests.lock();
        let idle = guests.seated.values().filter_map(|guest| Some((guest.idle_since()?, guest)));
        idle.min_by_key(|(since, _)| *since).map(|(_, guest)| Arc::clone(guest))
    }
}

impl<G: Guest> Drop for Seat<G> {
    fn drop(&mut self) {
        self.seats.guests.lock().seated.remove(&self.number);
        self.seats.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::{Guest, Seat, Seats};

    /// Closes at once when asked.
    struct Visitor {
        idle_since: Option<Instant>,
        seat: Mutex<Option<Seat<Self>>>,
    }

    impl Guest for Visitor {
        fn idle_since(&self) -> Option<Instant> {
            self.idle_since
        }
        fn dismiss(&self) {
            drop(self.seat.lock().take());
        }
    }

    async fn enter(
        seats: &Arc<Seats<Visitor>>,
        idle_since: Option<Instant>,
    ) -> Option<Arc<Visitor>> {
        let visitor = Arc::new(Visitor { idle_since, seat: Mutex::new(None) });
        let seat = seats.admit(&visitor).await?;
        *visitor.seat.lock() = Some(seat);
        Some(visitor)
    }

    #[tokio::test(start_paused = true)]
    async fn idlest_connection_is_closed_when_full() {
        let (seats, now) = (Seats::new(2), Instant::now());
        let later = enter(&seats, Some(now + super::GOING_MAX)).await.expect("a place");
        let sooner = enter(&seats, Some(now)).await.expect("a place");
        let busy = enter(&seats, None).await.expect("the place of the idlest");
        assert!(sooner.seat.lock().is_none() && later.seat.lock().is_some());
        let another = enter(&seats, None).await.expect("the last idle one's place");
        assert!(later.seat.lock().is_none());
        assert!(enter(&seats, None).await.is_none(), "nobody idles");
        drop((busy.seat.lock().take(), another.seat.lock().take()));
        seats.empty().await;
    }
}
