//! Shows each zone's progress beside the ids that this coordinator can still feed it.

use std::collections::BTreeSet;
use std::sync::Arc;

use pghc_api::id::ZoneName;
use pghc_runtime::rpc::v1::ZoneView;
use tokio::time::Instant;

use super::registry::{MemberZones, Zones};
use super::state::Feed;
use crate::coordinator::raft::log_store::LogStore;
use crate::coordinator::replica::driver::SequencerDriver;

/// View of the zones' progress.
#[derive(Clone)]
pub(crate) struct ZoneProgressView {
    pub(crate) driver: Arc<SequencerDriver>,
    pub(crate) zones: Arc<Zones>,
    pub(crate) log: LogStore,
}

impl ZoneProgressView {
    /// `expected` are the zones with a coordinator at founding.
    pub(crate) fn new(
        driver: &Arc<SequencerDriver>,
        log: &LogStore,
        expected: Vec<ZoneName>,
    ) -> Self {
        let applied = Arc::clone(driver);
        let member_zones = move || -> BTreeSet<ZoneName> {
            let (_, membership) = applied.applied();
            membership.nodes().filter_map(|(_, member)| member.zone.parse().ok()).collect()
        };
        let known = (expected, Box::new(member_zones) as MemberZones);
        let zones = Arc::new(Zones::new(driver.zones(), known, Instant::now()));
        Self { driver: Arc::clone(driver), zones, log: log.clone() }
    }

    /// Returns the ids that this coordinator can feed.
    pub(crate) fn feed(&self) -> Feed {
        let head = *self.driver.head_id().borrow();
        let (first_id, log_first_id) = self.driver.first_ids(self.log.first());
        let earlier_head = self.zones.earlier_head(head, Instant::now());
        Feed { first_id, log_first_id, earlier_head }
    }

    /// Returns the views of all zones that were not removed.
    pub(crate) fn views(&self, feed: Feed) -> Vec<ZoneView> {
        self.zones.views(feed, Instant::now())
    }
}
