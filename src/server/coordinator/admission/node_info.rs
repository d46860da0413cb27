//! Describes this coordinator at startup and warns where its settings contradict its log.

use std::collections::BTreeMap;

use pghc_api::id::ZoneName;
use pghc_runtime::rpc::v1::NodeInfo;

use super::identity::{DataDirIdentity, new_uuid};
use crate::coordinator::consensus::type_config::StoredMembership;
use crate::coordinator::peers::directory::PeerDirectory;
use crate::coordinator::raft::handle::Raft;
use crate::coordinator::settings::{Settings, StartError};
use crate::sequencer::ENTRY_FORMAT;

/// Builds this coordinator's description from its settings and its disk.
pub(crate) async fn node_info(
    settings: &Settings,
    identity: &DataDirIdentity,
    raft: &Raft,
    peers: &PeerDirectory,
) -> Result<NodeInfo, StartError> {
    let read = raft.with_raft_state(|state| {
        let newest = state.log_ids.last().cloned().max(state.snapshot_meta.last_log_id);
        let effective = state.membership_state.effective();
        let membership = StoredMembership::new(*effective.log_id(), effective.membership().clone());
        (state.vote_ref().leader_id.term, newest, membership)
    });
    let (term, newest, membership) =
        read.await.map_err(|error| StartError::Raft(error.to_string()))?;
    peers.update(&membership);
    warn_of_differences(settings, peers);
    let founder = |(id, (zone, _)): (&u64, &(ZoneName, String))| format!("{id}={zone}");
    let founders: Vec<String> = settings.members.iter().map(founder).collect();
    let (zone, url) = settings.members.get(&settings.id).cloned().ok_or_else(|| {
        StartError::Settings(format!("coordinator {} is not among the members", settings.id))
    })?;
    let membership_next = peers.members().1;
    Ok(NodeInfo {
        coordinator_id: settings.id,
        incarnation: identity.incarnation().to_owned(),
        starts: identity.starts(),
        boot: new_uuid(),
        zone: zone.to_string(),
        url,
        founders: if settings.join { String::new() } else { founders.join(",") },
        founded: membership_next > 0,
        term,
        next_index: newest.map_or(0, |log_id| log_id.index() + 1),
        membership_next,
        entry_format: ENTRY_FORMAT,
    })
}

/// Warns when the settings name other members than the log. The log counts.
fn warn_of_differences(settings: &Settings, peers: &PeerDirectory) {
    let (members, next) = peers.members();
    if next == 0 {
        return;
    }
    for (id, (zone, _)) in &settings.members {
        if let Some(member) = members.get(id).filter(|member| member.zone != zone.as_str()) {
            tracing::warn!(
                id,
                "--member {id}={zone}=… but the stored group has coordinator {id} in zone {}; only \
                 the address is used",
                member.zone
            );
        }
    }
    // `pghc members` changes the members later; the founding settings stay valid.
    let gone: Vec<&u64> = settings.members.keys().filter(|id| !members.contains_key(id)).collect();
    let come = members.iter().filter(|(id, _)| !settings.members.contains_key(id));
    let come: BTreeMap<&u64, &str> = come.map(|(id, member)| (id, member.url.as_str())).collect();
    if !gone.is_empty() || !come.is_empty() {
        tracing::info!(
            ?gone,
            ?come,
            "--member differs from the stored group, which counts; added members keep their \
             recorded address"
        );
    }
}
