//! Handle to a running openraft core.

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::coordinator::consensus::type_config::TypeConfig;
use crate::coordinator::replica::state_machine::StateMachine;

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Returns the leader's id, as far as this coordinator knows.
pub(crate) fn leader(raft: &Raft) -> Option<u64> {
    raft.server_metrics().borrow_watched().current_leader
}
