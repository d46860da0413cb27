//! The other coordinators of the group: addresses, connections, and the guard of Raft traffic.

pub(crate) mod directory;
pub(crate) mod traffic_guard;
