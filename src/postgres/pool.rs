//! A bounded pool of reading sessions.
//!
//! Invariant: a session that is open stays open, and a read waits for one of these where the server
//! has no room for another: strangers that take all its slots slow reads down and do not stop them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Statement};

use super::connect::{CONNECT_MAX, ConnectError, Dsn, Role, drive};
use super::read_error::ReadError;

/// Cheap to clone; connects when first used.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dsn: Dsn,
    role: Role,
    turns: Arc<Semaphore>,
    free: Mutex<Vec<Session>>,
    /// One holder more than there are sessions.
    sessions: Arc<()>,
    returned: Notify,
}

/// A session with what it has prepared, as many statements as there are texts of reads.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    statements: HashMap<&'static str, Statement>,
    driver: JoinHandle<()>,
    _counted: Arc<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// The statement of a text, prepared once.
    pub(super) async fn prepare(
        &mut self,
        sql: &'static str,
    ) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.statements.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}

/// A session for one read; goes back to the pool when it is dropped.
#[derive(Debug)]
pub(super) struct Leased {
    session: Option<Session>,
    shared: Arc<Shared>,
    _turn: OwnedSemaphorePermit,
}

impl Leased {
    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("it is taken only when this is dropped")
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let session = self.session.take().filter(|session| !session.client.is_closed());
        self.shared.free.lock().extend(session);
        self.shared.returned.notify_one();
    }
}

impl Pool {
    /// A pool of at most `sessions` (at least 1).
    pub(super) fn new(dsn: &Dsn, role: Role, sessions: usize) -> Self {
        let shared = Shared {
            dsn: dsn.clone(),
            role,
            turns: Arc::new(Semaphore::new(sessions.max(1))),
            free: Mutex::default(),
            sessions: Arc::default(),
            returned: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A session, once it is this read's turn: a free one, a new one, or, where the server has no
    /// room for a new one, the next that is free.
    pub(super) async fn get(&self) -> Result<Leased, ReadError> {
        let deadline = Instant::now() + CONNECT_MAX;
        let turn = timeout_at(deadline, Arc::clone(&self.shared.turns).acquire_owned()).await;
        let busy = "all reading sessions were busy";
        let turn = turn.map_err(|_| ReadError::Unavailable(Some(busy.into())))?;
        let turn = turn.expect("the semaphore is never closed");
        let session = self.session(deadline).await?;
        Ok(Leased { session: Some(session), shared: Arc::clone(&self.shared), _turn: turn })
    }

    async fn session(&self, deadline: Instant) -> Result<Session, ConnectError> {
        loop {
            let mut returned = std::pin::pin!(self.shared.returned.notified());
            returned.as_mut().enable();
            if let Some(free) = self.free() {
                return Ok(free);
            }
            match self.shared.dsn.open(self.shared.role, "reader").await {
                Ok((client, driver)) => {
                    let driver = pghc_runtime::task::spawn(drive(driver, "reader".to_owned()));
                    let counted = Arc::clone(&self.shared.sessions);
                    let statements = HashMap::new();
                    return Ok(Session { client, statements, driver, _counted: counted });
                }
                Err(full) if full.is_full() && Arc::strong_count(&self.shared.sessions) > 1 => {
                    if timeout_at(deadline, returned).await.is_err() {
                        return Err(full);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn free(&self) -> Option<Session> {
        let mut free = self.shared.free.lock();
        free.retain(|session| !session.client.is_closed());
        free.pop()
    }

    /// Ends the sessions without a reader: they are of a server that has gone.
    pub(super) fn clear(&self) {
        self.shared.free.lock().clear();
    }
}
