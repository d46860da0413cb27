//! The types that openraft is instantiated with: runtime, proposals, members, and how they are encoded.

pub(crate) mod codec;
pub(crate) mod fair_watch;
pub(crate) mod runtime;
pub(crate) mod type_config;
