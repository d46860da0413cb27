//! The gRPC services of a coordinator: thin shells over the other rooms.

pub(crate) mod coordinator_service;
pub(crate) mod raft_service;
pub(crate) mod zones_service;
