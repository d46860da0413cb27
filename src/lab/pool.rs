//! Connections to one address for requests that overlap.
//!
//! Invariant: a connection is used by one request at a time, and only an open one is kept.

use std::io;
use std::net::SocketAddr;

use futures::future::try_join_all;
use parking_lot::Mutex;

use super::client::{Answer, Connection};

/// The idle connections to one address. The callers bound how many there are: as many as ever had
/// a request under way at once.
#[derive(Debug)]
pub struct Pool {
    address: SocketAddr,
    idle: Mutex<Vec<Connection>>,
}

/// A request without an answer.
#[derive(Debug)]
pub struct Broken {
    /// The cause.
    pub error: io::Error,
    /// Whether the connection was idle before. The server may then have closed it meanwhile, and
    /// another attempt has a better chance.
    pub was_kept: bool,
}

impl Pool {
    /// A pool without any connection; requests open them.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::new(Vec::new()) }
    }

    /// Opens `count` connections in advance.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn fill(&self, count: usize) -> io::Result<()> {
        let opened = try_join_all((0..count).map(|_| Connection::open(self.address))).await?;
        self.idle.lock().extend(opened);
        Ok(())
    }

    /// Sends one whole request and returns what `read` makes of its answer. The caller bounds the
    /// wait.
    ///
    /// # Errors
    /// As [`Connection::exchange`].
    pub async fn exchange<T>(
        &self,
        request: &[u8],
        read: impl FnOnce(Answer<'_>) -> T,
    ) -> Result<T, Broken> {
        let kept = self.idle.lock().pop();
        let was_kept = kept.is_some();
        let mut connection = kept.unwrap_or_else(|| Connection::to(self.address));
        let answer = connection.exchange(request).await;
        let read = answer.map(read).map_err(|error| Broken { error, was_kept })?;
        if connection.is_open() {
            self.idle.lock().push(connection);
        }
        Ok(read)
    }
}
