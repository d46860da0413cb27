//! Waiting for the frontier: what nodes that stand by follow.
//!
//! A notification on channel `pghc_frontier` is a bell and nothing else: any login may send one, with
//! any text, so its payload is never read. The frontier is read from its table, after every bell and
//! without one every `LOOK_PERIOD`, since a bell may also be missing.

use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::poll_fn;
use futures::stream::{self, BoxStream};
use pghc_runtime::mutation::{self, Mutant};
use tokio_postgres::{AsyncMessage, Client};

use super::apply::unsigned;
use super::column::get;
use super::connect::{ConnectError, Driver, Dsn, Role, STATEMENT_MAX, polling};
use super::read::ReadError;

/// Longest time between two looks at the frontier.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Longest wait for an answer of the server.
const ANSWER_MAX: Duration = Duration::from_secs(STATEMENT_MAX.as_secs() + 5);

/// So many bells in a row may be without news before the next ones are answered more slowly.
const IDLE_BELLS: u32 = 3;

/// A session that listens.
struct Listener {
    client: Client,
    connection: Connection,
    /// Bells without news, in a row.
    idle_bells: u32,
    /// The last answer.
    frontier: Option<u64>,
}

/// Its connection.
struct Connection {
    driver: Driver,
    /// Whether it has ended; it must not be polled again then.
    has_ended: bool,
    /// Why it has, as far as the driver says.
    error: Option<tokio_postgres::Error>,
    /// Whether the bell rang since the last look.
    rang: bool,
    /// Payload of the notification; `None` but for a mutant.
    believed: Option<u64>,
}

/// Connects, and answers a stream of newest applied ids: the one that was there once the session
/// listened, so that nothing is missed in between, and then each that differs from the one before. It
/// goes back when another chain took the place of this one. It ends with an error; then connect again.
///
/// # Errors
/// See [`ConnectError`].
pub async fn listen(dsn: &Dsn) -> Result<BoxStream<'static, Result<u64, ReadError>>, ConnectError> {
    let (client, mut driver) = dsn.open(Role::Reader, "listener").await?;
    let listening = client.batch_execute("listen pghc_frontier");
    polling(&mut driver, listening).await.map_err(|error| dsn.failure(error))?;
    let connection =
        Connection { driver, has_ended: false, error: None, rang: true, believed: None };
    let listener = Listener { client, connection, idle_bells: 0, frontier: None };
    let ids = stream::unfold(Some(listener), |listener| async {
        let mut listener = listener?;
        match listener.next().await {
            Ok(id) => Some((Ok(id), Some(listener))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(ids.boxed())
}

impl Listener {
    /// The next id that is not the one that was answered last.
    async fn next(&mut self) -> Result<u64, ReadError> {
        loop {
            self.bell().await?;
            let frontier = self.look().await?;
            self.idle_bells = self.idle_bells.saturating_add(1);
            if self.frontier.replace(frontier) != Some(frontier) {
                self.idle_bells = 0;
                return Ok(frontier);
            }
        }
    }

    /// Waits until the bell rings, or it is time to look anyway.
    async fn bell(&mut self) -> Result<(), ReadError> {
        if let Some(doublings) = self.idle_bells.checked_sub(IDLE_BELLS) {
            // Notifications of other logins must not keep this session busy.
            tokio::time::sleep(Duration::from_millis(1 << doublings.min(6))).await;
        }
        let connection = &mut self.connection;
        let rings = poll_fn(|context| {
            connection.drive(context);
            if connection.rang || connection.has_ended { Poll::Ready(()) } else { Poll::Pending }
        });
        if tokio::time::timeout(LOOK_PERIOD, rings).await.is_err() {
            // Time to look anyway; the next notification may carry a newer frontier.
            self.idle_bells = 0;
        }
        if !self.connection.has_ended {
            return Ok(());
        }
        let error = self.connection.error.take();
        Err(error.map_or(ReadError::Unavailable(None), ReadError::sort))
    }

    /// Reads the frontier.
    async fn look(&mut self) -> Result<u64, ReadError> {
        self.connection.rang = false;
        if let Some(said) = self.connection.believed.take() {
            return Ok(said);
        }
        let sql = include_str!("../../sql/queries/frontier.sql");
        let mut asked = pin!(self.client.query_one(sql, &[]));
        let connection = &mut self.connection;
        let answered = poll_fn(|context| {
            connection.drive(context);
            asked.as_mut().poll(context)
        });
        let answered = tokio::time::timeout(ANSWER_MAX, answered).await;
        let row = answered.map_err(|_| ReadError::Unavailable(None))?.map_err(ReadError::sort)?;
        Ok(unsigned(get(&row, 0, "pghc.frontier.applied_id")?))
    }
}

impl Connection {
    /// Lets it work, and notes when the bell rang.
    fn drive(&mut self, context: &mut Context<'_>) {
        while !self.has_ended {
            match self.driver.poll_message(context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(AsyncMessage::Notification(bell)))) => {
                    self.rang = true;
                    if mutation::is_active(Mutant::BellBelieved) {
                        self.believed = bell.payload().parse().ok().or(self.believed);
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => {
                    (self.has_ended, self.error) = (true, Some(error));
                }
                Poll::Ready(None) => self.has_ended = true,
            }
        }
    }
}
