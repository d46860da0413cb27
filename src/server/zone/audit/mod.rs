//! Whether the zone's chain is the one that was ordered: witnesses, the guard of each node, the audit of old links.

pub(crate) mod background;
pub(crate) mod guard;
pub mod inspect;
pub(crate) mod schema_check;
pub mod walk;
pub(crate) mod witness;
