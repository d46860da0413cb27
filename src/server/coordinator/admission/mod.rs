//! Decides whether a data directory may join its group, from its identity and its peers' records.

pub(crate) mod identity;
pub(crate) mod node_info;
pub(crate) mod peer_history;
pub(crate) mod responder;
pub(crate) mod rules;
pub(crate) mod startup;
