//! gRPC service that lists and changes the registry of zones.

use pghc_api::id::ZoneName;
use pghc_runtime::rpc::v1::change_zone_request::Act;
use pghc_runtime::rpc::v1::zones_server;
use pghc_runtime::rpc::v1::{ChangeZoneReply, ChangeZoneRequest, ListZonesReply, ListZonesRequest};
use tonic::{Request, Response, Status};

use crate::coordinator::zones::progress_view::ZoneProgressView;
use crate::coordinator::zones::registration::{ChangeError, Registrar};
use crate::sequencer::{Registration, ZoneAct, ZoneChange};

pub(crate) struct ZoneService {
    pub(crate) registrar: Registrar,
    pub(crate) zone_progress: ZoneProgressView,
}

#[tonic::async_trait]
impl zones_server::Zones for ZoneService {
    async fn list(&self, _: Request<ListZonesRequest>) -> Result<Response<ListZonesReply>, Status> {
        let feed = self.zone_progress.feed();
        let registry = self.zone_progress.zones.registry();
        let removed =
            registry.borrow().that_are(Registration::Removed).map(ToString::to_string).collect();
        Ok(Response::new(ListZonesReply {
            head: *self.zone_progress.driver.head_id().borrow(),
            log_first_id: feed.first_id,
            zones: self.zone_progress.views(feed),
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
        tracing::info!(%zone, ?act, changed, "zone registry changed");
        Ok(Response::new(ChangeZoneReply { changed }))
    }
}
