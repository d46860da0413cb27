//! From a committed batch to the zone's database: the tail, the backfill in its place, the plan, the applier.

pub(crate) mod applier;
pub(crate) mod backfill;
pub(crate) mod halt;
pub(crate) mod peer;
pub(crate) mod plan;
pub(crate) mod tail;
pub(crate) mod tail_event;
