//! Asks this zone's database as reads do, so that readiness says what a read would meet, and so that
//! one reading session is open before strangers take all the server's slots.

use std::sync::Arc;
use std::time::Duration;

use pghc_runtime::telemetry::describe;

use crate::zone::database::Database;
use crate::zone::node_state::NodeState;

/// From one question to the next, and to the next after one that failed.
const PERIOD: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(200);

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(6);

/// Runs until it is dropped.
pub(crate) async fn run(database: Arc<dyn Database>, node_state: Arc<NodeState>) {
    loop {
        let why = match tokio::time::timeout(ANSWER_MAX, database.lease()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(format!("reads fail: {}", describe(&error))),
            Err(_) => Some(format!("a read was not answered for {} s", ANSWER_MAX.as_secs())),
        };
        let pause = if why.is_none() { PERIOD } else { RETRY };
        node_state.reads_fail(why);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::future::BoxFuture;
    use pghc_api::chain::Link;
    use pghc_api::id::WriteId;
    use pghc_postgres::{ConnectError, Face, Finding, Lease, MigrateError, Page, ReadError};
    use tokio::time::Duration;

    use super::run;
    use crate::zone::database::{Database, Heard, Session};
    use crate::zone::node_state::NodeState;
    use crate::zone::{Identity, Recent};

    /// Answers whether it has room, and nothing else.
    #[derive(Default)]
    struct Full(AtomicBool);

    fn full<T: Send>() -> BoxFuture<'static, Result<T, ReadError>> {
        Box::pin(async { Err(ReadError::Unavailable(Some("too many clients".into()))) })
    }

    fn away() -> ConnectError {
        ConnectError::Unavailable { dsn: "nowhere".to_owned(), source: None }
    }

    impl Database for Full {
        fn migrate<'a>(
            &'a self,
            _: &'a Identity,
        ) -> BoxFuture<'a, Result<Vec<Finding>, MigrateError>> {
            Box::pin(async { Err(away().into()) })
        }

        fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Session>, ConnectError>> {
            Box::pin(async { Err(away()) })
        }

        fn listen(&self) -> BoxFuture<'_, Result<Heard, ConnectError>> {
            Box::pin(async { Err(away()) })
        }

        fn lease(&self) -> BoxFuture<'_, Result<Lease, ReadError>> {
            if self.0.load(Ordering::Relaxed) {
                return full();
            }
            let lease = Lease { epoch: 1, applied_id: 1, applier: None, renewed_at: 1 };
            Box::pin(async move { Ok(lease) })
        }

        fn face(&self) -> BoxFuture<'_, Result<Face, ReadError>> {
            full()
        }

        fn link(&self, _: WriteId) -> BoxFuture<'_, Result<(Option<Link>, u64), ReadError>> {
            full()
        }

        fn page(&self, _: u64, _: usize) -> BoxFuture<'_, Result<Page, ReadError>> {
            full()
        }

        fn newest(&self) -> BoxFuture<'_, Result<(Option<Link>, u64), ReadError>> {
            full()
        }

        fn recent(&self, _: usize) -> BoxFuture<'_, Result<(Vec<Recent>, u64), ReadError>> {
            full()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_in_trouble_while_its_reads_fail() {
        let (database, node_state) = (Arc::new(Full::default()), Arc::new(NodeState::new()));
        node_state.database_is_well();
        node_state.prove();
        let checking = run(Arc::<Full>::clone(&database), Arc::clone(&node_state));
        let changing = async {
            let look = async || {
                tokio::time::sleep(Duration::from_secs(2)).await;
                node_state.degraded_reason()
            };
            assert_eq!(look().await, None);
            database.0.store(true, Ordering::Relaxed);
            let why = look().await.expect("its reads fail");
            assert!(why.contains("too many clients"), "{why}");
            database.0.store(false, Ordering::Relaxed);
            assert_eq!(look().await, None);
        };
        tokio::select! {
            biased;
            () = checking => {}
            () = changing => {}
        }
    }
}
