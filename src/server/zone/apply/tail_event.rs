//! The messages from a tail, or from the backfill in its place, to the applier.

use pghc_api::chain::Link;
use pghc_runtime::rpc::v1::TailBatch;

/// One message from the tail to the applier, in id order.
#[derive(Debug)]
pub(crate) enum TailEvent {
    /// A committed batch, not yet recomputed.
    Batch(TailBatch),
    /// Links of another zone, recomputed.
    Links { links: Vec<Link>, is_vouched: bool },
    /// The coordinators refuse this zone's chain for this reason; nothing follows.
    Refused(String),
}
