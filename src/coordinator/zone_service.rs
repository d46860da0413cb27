//! The part of the gRPC server through which people look at the registry of zones and change it.

use std::collections::BTreeSet;
use std::sync::Arc;

use pghc_api::id::ZoneName;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::log_store::LogStore;
use super::registrar::{ChangeError, Registrar};
use super::sequencing::Sequencing;
use super::zone_state::Feed;
use super::zones::{Inhabited, Zones};
use crate::rpc::v1::change_zone_request::Act;
use crate::rpc::v1::zones_server;
use crate::rpc::v1::{
    ChangeZoneReply, ChangeZoneRequest, ListZonesReply, ListZonesRequest, ZoneView,
};
use crate::sequencer::{Registration, ZoneAct, ZoneChange};

/// What this coordinator tells of the zones.
#[derive(Clone)]
pub(super) struct Outlook {
    pub(super) sequencing: Arc<Sequencing>,
    pub(super) zones: Arc<Zones>,
    pub(super) log: LogStore,
}

impl Outlook {
    /// `expected` are the zones that have a coordinator when the group is founded.
    pub(super) fn new(
        sequencing: &Arc<Sequencing>,
        log: &LogStore,
        expected: Vec<ZoneName>,
    ) -> Self {
        let applied = Arc::clone(sequencing);
        let inhabited = move || -> BTreeSet<ZoneName> {
            let (_, membership) = applied.applied();
            membership.nodes().filter_map(|(_, member)| member.zone.parse().ok()).collect()
        };
        let known = (expected, Box::new(inhabited) as Inhabited);
        let zones = Arc::new(Zones::new(sequencing.zones(), known, Instant::now()));
        Self { sequencing: Arc::clone(sequencing), zones, log: log.clone() }
    }

    /// What it can feed zones with.
    pub(super) fn feed(&self) -> Feed {
        let head = *self.sequencing.head_id().borrow();
        let (first_id, log_first_id) = self.sequencing.first_ids(self.log.first());
        let earlier_head = self.zones.earlier_head(head, Instant::now());
        Feed { first_id, log_first_id, earlier_head }
    }

    /// All zones but the removed ones.
    pub(super) fn views(&self, feed: Feed) -> Vec<ZoneView> {
        self.zones.views(feed, Instant::now())
    }
}

pub(super) struct ZoneService {
    pub(super) registrar: Registrar,
    pub(super) outlook: Outlook,
}

#[tonic::async_trait]
impl zones_server::Zones for ZoneService {
    async fn list(&self, _: Request<ListZonesRequest>) -> Result<Response<ListZonesReply>, Status> {
        let feed = self.outlook.feed();
        let registry = self.outlook.zones.registry();
        let removed =
            registry.borrow().that_are(Registration::Removed).map(ToString::to_string).collect();
        Ok(Response::new(ListZonesReply {
            head: *self.outlook.sequencing.head_id().borrow(),
            log_first_id: feed.first_id,
            zones: self.outlook.views(feed),
            removed,
        }))
    }

    async fn change(
        &self,
        request: Request<ChangeZoneRequest>,
    ) -> Result<Response<ChangeZoneReply>, Status> {
        let request = request.into_inner();
        let zone: ZoneName = request
            .zone
            .parse()
            .map_err(|error: pghc_api::id::BadId| Status::invalid_argument(error.to_string()))?;
        let act = match request.act() {
            Act::Add => ZoneAct::Add,
            Act::Remove => ZoneAct::Remove,
        };
        let changed = self.registrar.change(ZoneChange { act, zone: zone.clone() }).await;
        let changed = changed.map_err(|error| match error {
            ChangeError::Unknown(_) => Status::not_found(error.to_string()),
            ChangeError::Full(_) => Status::resource_exhausted(error.to_string()),
            ChangeError::NotConfirmed | ChangeError::NotReadable => {
                Status::unavailable(error.to_string())
            }
        })?;
        tracing::info!(%zone, ?act, changed, "zone changed on request");
        Ok(Response::new(ChangeZoneReply { changed }))
    }
}
