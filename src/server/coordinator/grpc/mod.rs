//! gRPC services of a coordinator: thin adapters over the other rooms.

pub(crate) mod coordinator_service;
pub(crate) mod raft_service;
pub(crate) mod zones_service;
