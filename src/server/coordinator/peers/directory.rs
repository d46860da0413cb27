//! Directory of the other coordinators: replicated membership, addresses, and one shared connection
//! each.
//!
//! This coordinator's settings override the membership's addresses. Raft messages use connections
//! of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::ClusterId;
use pghc_runtime::rpc::{Caller, Dial};

use crate::coordinator::consensus::type_config::{Member, StoredMembership};

/// Shared by all callers of other coordinators; clones are the same directory.
#[derive(Clone)]
pub(crate) struct PeerDirectory {
    dial: Arc<dyn Dial>,
    cluster: ClusterId,
    /// Addresses from this coordinator's settings.
    overrides: Arc<BTreeMap<u64, String>>,
    rpc_timeout: Duration,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<u64, Member>,
    voters: BTreeSet<u64>,
    /// Index after the membership's entry.
    next: u64,
    callers: BTreeMap<u64, (String, Caller)>,
    /// Addresses received from a leader, until a membership is known.
    learnt: BTreeMap<u64, String>,
}

/// Most addresses accepted from a leader.
const LEARNT_MAX: usize = 64;

impl PeerDirectory {
    /// `rpc_timeout` bounds a connection attempt and the silence of a connection.
    pub(crate) fn new(
        dial: Arc<dyn Dial>,
        cluster: ClusterId,
        overrides: BTreeMap<u64, String>,
        rpc_timeout: Duration,
    ) -> Self {
        Self { dial, cluster, overrides: Arc::new(overrides), rpc_timeout, inner: Arc::default() }
    }

    /// Replaces the membership by a newer one. Connections to removed members are closed.
    pub(crate) fn update(&self, membership: &StoredMembership) {
        let next = membership.log_id().as_ref().map_or(0, |log_id| log_id.index() + 1);
        let mut inner = self.inner.lock();
        if next == 0 && inner.next > 0 {
            // openraft has not reported the log's membership yet.
            return;
        }
        inner.members = membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        inner.voters = membership.voter_ids().collect();
        inner.next = next;
        let Inner { members, callers, learnt, .. } = &mut *inner;
        if next > 0 {
            learnt.clear();
            callers.retain(|id, _| members.contains_key(id));
        }
    }

    /// Records member addresses from a leader while no membership is known.
    pub(crate) fn learn(&self, urls: impl Iterator<Item = (u64, String)>) {
        let mut inner = self.inner.lock();
        if inner.next == 0 {
            inner.learnt = urls.take(LEARNT_MAX).collect();
        }
    }

    /// Returns the members and the index after their entry; none and 0 before the first.
    pub(crate) fn members(&self) -> (BTreeMap<u64, Member>, u64) {
        let inner = self.inner.lock();
        (inner.members.clone(), inner.next)
    }

    /// Returns one member.
    pub(crate) fn member(&self, id: u64) -> Option<Member> {
        self.inner.lock().members.get(&id).cloned()
    }

    /// Returns the ids of the voters.
    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        self.inner.lock().voters.clone()
    }

    /// Whether a member is a voter.
    pub(crate) fn votes(&self, id: u64) -> bool {
        self.inner.lock().voters.contains(&id)
    }

    /// Returns the ids of all members; before the first membership, those of settings and leader.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let inner = self.inner.lock();
        if inner.next == 0 {
            let known: BTreeSet<u64> =
                self.overrides.keys().chain(inner.learnt.keys()).copied().collect();
            return known.into_iter().collect();
        }
        inner.members.keys().copied().collect()
    }

    /// Returns a member's address: the setting, else the membership's, else the leader's.
    pub(crate) fn url(&self, id: u64, member: Option<&Member>) -> Option<String> {
        let set = self.overrides.get(&id).cloned();
        let set = set.or_else(|| member.map(|member| member.url.clone()));
        let set = set.or_else(|| self.inner.lock().learnt.get(&id).cloned());
        set.filter(|url| !url.is_empty())
    }

    /// Returns the shared connection to a member; `None` if its address is unknown.
    pub(crate) fn connection(&self, id: u64) -> Option<Caller> {
        let url = self.url(id, self.member(id).as_ref())?;
        let mut inner = self.inner.lock();
        if let Some((known, connection)) = inner.callers.get(&id)
            && *known == url
        {
            return Some(connection.clone());
        }
        let connection = self.connect(&url)?;
        inner.callers.insert(id, (url, connection.clone()));
        Some(connection)
    }

    /// Opens a new connection; `None` if `url` is not a URL.
    pub(crate) fn connect(&self, url: &str) -> Option<Caller> {
        self.connect_within(url, self.rpc_timeout)
    }

    /// Same as [`PeerDirectory::connect`], with another timeout.
    pub(crate) fn connect_within(&self, url: &str, rpc_timeout: Duration) -> Option<Caller> {
        let connection = self.dial.caller(url, &self.cluster, rpc_timeout);
        connection.inspect_err(|error| tracing::warn!(url, %error, "invalid coordinator URL")).ok()
    }

    /// Deadline of one call that is not forwarded.
    pub(crate) fn rpc_timeout(&self) -> Duration {
        self.rpc_timeout
    }
}
