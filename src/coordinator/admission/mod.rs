//! Whether a data directory may take part in its group: its identity, and what the other members have seen of it.

pub(crate) mod identity;
pub(crate) mod node_info;
pub(crate) mod peer_history;
pub(crate) mod responder;
pub(crate) mod rules;
pub(crate) mod startup;
