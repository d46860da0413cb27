//! Reads of the zone and waits for its frontier, from its primary or its replicas.

pub(crate) mod frontier;
pub(crate) mod reachable_zones;
pub(crate) mod read_check;
pub(crate) mod reads;
pub(crate) mod replica;
