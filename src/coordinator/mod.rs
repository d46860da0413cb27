//! A member of the Raft group: openraft glue, the durable log, the tail. Only this module names openraft.

pub mod log;
