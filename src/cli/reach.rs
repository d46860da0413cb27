//! How commands reach a running group: named by its coordinators, by the deployment it is of, or found.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pghc_api::id::ClusterId;
use pghc_dev::record::DeploymentRecord;
use pghc_runtime::program::{url, with_causes};
use pghc_runtime::rpc;
use pghc_runtime::rpc::v1::members_client::MembersClient;
use pghc_runtime::rpc::v1::{PlacementRequest, PlacementView};

use super::found::{Cluster, Found};

/// Longest a coordinator may take to answer, a round trip to the leader and an election included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which group.
#[derive(Debug, Args)]
pub(super) struct Reach {
    /// Cluster id, a UUID: the same for every process of the cluster.
    #[arg(long, env = "PGHC_CLUSTER_ID", global = true)]
    cluster_id: Option<ClusterId>,
    /// Base URL of a coordinator; may be repeated: the first that answers is used.
    #[arg(long, env = "PGHC_COORDINATOR", value_name = "URL", value_delimiter = ',', value_parser = url, global = true)]
    coordinator: Vec<String>,
    /// Instead of both: a running deployment of this machine, its data directory or `parade.json`.
    #[arg(long, value_name = "DIR", global = true)]
    against: Option<PathBuf>,
    #[command(flatten)]
    found: Found,
}

/// Reason for a missing answer.
pub(super) enum Failure {
    /// No coordinator is configured, or none was reached.
    Unreached(String),
    /// The group refused, or cannot answer now.
    Refused(String),
}

/// A client of the coordinator that answered.
pub(super) type Client = MembersClient<rpc::Caller>;

impl Reach {
    /// Whether a group is named.
    pub(super) fn is_named(&self) -> bool {
        self.against.is_some() || !self.coordinator.is_empty() || self.found.is_named()
    }

    /// The group's id, and its coordinators in the order of the attempts.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn named(&self) -> Result<(ClusterId, Vec<String>), String> {
        if let Some(path) = &self.against {
            let record = DeploymentRecord::find(path).map_err(|error| with_causes(&error))?;
            return Cluster::of_deployment(record).reach();
        }
        match (&self.cluster_id, self.coordinator.is_empty()) {
            (Some(cluster), false) => return Ok((cluster.clone(), self.coordinator.clone())),
            (None, true) => return self.found.cluster()?.reach(),
            _ => {}
        }
        if !self.found.is_named() {
            return Err("say both or none: --cluster-id UUID --coordinator URL".to_owned());
        }
        let found = self.found.cluster()?;
        let id = self.cluster_id.clone().or(found.id.clone());
        let coordinators = if self.coordinator.is_empty() {
            found.coordinators.clone()
        } else {
            self.coordinator.clone()
        };
        Cluster { id, coordinators, ..found }.reach()
    }

    /// The view of the first coordinator that answers, and a client of it for more.
    pub(super) async fn view(&self) -> Result<(Client, PlacementView), Failure> {
        let (cluster, urls) = self.named().map_err(Failure::Unreached)?;
        let mut unreached = Vec::new();
        for url in urls {
            let caller = match rpc::connect(&url, &cluster, PATIENCE) {
                Ok(caller) => caller,
                Err(error) => {
                    unreached.push(format!("{url}: {error}"));
                    continue;
                }
            };
            let mut client = MembersClient::new(caller);
            match view(&mut client).await {
                Ok(view) => return Ok((client, view)),
                Err(status) if rpc::is_connection_refused(&status) => {
                    unreached.push(format!("{url}: no answer"));
                }
                Err(status) => return Err(refused(&status)),
            }
        }
        let all = unreached.join("; ");
        Err(Failure::Unreached(format!("no coordinator was reached ({all})")))
    }
}

/// The leader's current view.
pub(super) async fn view(client: &mut Client) -> Result<PlacementView, tonic::Status> {
    let mut request = tonic::Request::new(PlacementRequest {});
    request.set_timeout(PATIENCE);
    Ok(client.placement(request).await?.into_inner())
}

/// A refusal in words.
pub(super) fn refused(status: &tonic::Status) -> Failure {
    Failure::Refused(match status.code() {
        tonic::Code::Unimplemented => {
            "the leader runs an older pghc, which measures no distances".to_owned()
        }
        _ => status.message().to_owned(),
    })
}
