//! Waiting for the frontier: what `LISTEN pghc_frontier` hears, for the nodes that stand by.
//!
//! Notifications arrive after the commit that moved the frontier, so an id heard here may be read.
//! They may be folded together and are not a record of batches: only the newest counts.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio_postgres::{AsyncMessage, Client};

use super::apply::unsigned;
use super::connect::{ConnectError, Driver, Dsn, Role, polling};
use super::read::ReadError;

/// A listening session: a stream of ids, each newer than the one before. The first is where the
/// frontier was once the session listened, so nothing is missed in between. It ends with the
/// connection; then connect again.
pub struct Listener {
    // Dropping the client would end the session.
    _client: Client,
    driver: Driver,
    first: Option<u64>,
    newest: u64,
}

impl Listener {
    /// Connects and listens.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(dsn: &Dsn) -> Result<Self, ConnectError> {
        let (client, mut driver) = dsn.open(Role::Reader, "listener").await?;
        let listening = async {
            client.batch_execute("listen pghc_frontier").await?;
            client.query_one(include_str!("../../sql/queries/head.sql"), &[]).await
        };
        let row = polling(&mut driver, listening).await.map_err(|error| dsn.failure(error))?;
        let first = unsigned(row.get(0));
        Ok(Self { _client: client, driver, first: Some(first), newest: first })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("newest", &self.newest).finish_non_exhaustive()
    }
}

impl Stream for Listener {
    type Item = Result<u64, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        loop {
            match self.driver.poll_message(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(ReadError::sort(error))));
                }
                Poll::Ready(Some(Ok(AsyncMessage::Notification(heard)))) => {
                    match heard.payload().parse() {
                        Ok(id) if id > self.newest => {
                            self.newest = id;
                            return Poll::Ready(Some(Ok(id)));
                        }
                        // Anybody may notify the channel: what is no news is not passed on.
                        _ => {}
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
            }
        }
    }
}
