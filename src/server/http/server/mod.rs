//! The HTTP server below the handlers: connections, their limits, and the memory that requests may take.

pub(crate) mod connection;
pub(crate) mod limits;
pub(crate) mod memory_budget;
pub(crate) mod metrics;
pub(crate) mod serve;
