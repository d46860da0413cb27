//! The other coordinators of the group: their addresses, connections, and which traffic is theirs.

pub(crate) mod directory;
pub(crate) mod traffic_guard;
