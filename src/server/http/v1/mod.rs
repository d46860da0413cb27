//! Handlers of `/v1/chain`: single writes, bulk writes, reads.

pub(crate) mod bulk;
pub(crate) mod outcome;
pub(crate) mod read;
pub(crate) mod write;
