//! Checks the schema of the zone's database while the node runs, so that a change is reported before the
//! next start.

use std::sync::Arc;
use std::time::Duration;

use pghc_postgres::Reader;
use pghc_runtime::telemetry::describe;

use crate::zone::node_state::NodeState;

/// Pause between two looks; one costs the server about 10 ms.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks again and again. Runs until it is dropped.
pub(crate) async fn run(reader: Reader, node_state: Arc<NodeState>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        match reader.findings().await {
            Ok(findings) => node_state.schema_differs(&findings),
            // The database is away, or being restored: others tell.
            Err(error) => tracing::debug!(error = describe(&error), "schema check failed"),
        }
    }
}
