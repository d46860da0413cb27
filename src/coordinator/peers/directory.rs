//! Who the other coordinators are and where: the replicated membership, overridden by this
//! coordinator's own settings, and one connection to each for everything but Raft's own messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::ClusterId;

use crate::coordinator::consensus::type_config::{Member, StoredMembership};
use crate::rpc::{Caller, Dial};

/// Shared by everything in a coordinator that calls another; clones are the same roster.
#[derive(Clone)]
pub(crate) struct PeerDirectory {
    dial: Arc<dyn Dial>,
    cluster: ClusterId,
    /// Addresses as reached from here, from the settings.
    overrides: Arc<BTreeMap<u64, String>>,
    patience: Duration,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    members: BTreeMap<u64, Member>,
    voters: BTreeSet<u64>,
    /// The index after the membership's entry.
    next: u64,
    callers: BTreeMap<u64, (String, Caller)>,
    /// Addresses that a leader has told, for as long as no membership is known here.
    learnt: BTreeMap<u64, String>,
}

/// Addresses that are taken from a leader.
const LEARNT_MAX: usize = 64;

impl PeerDirectory {
    /// `patience` bounds a connection attempt and how long a silent connection is kept.
    pub(crate) fn new(
        dial: Arc<dyn Dial>,
        cluster: ClusterId,
        overrides: BTreeMap<u64, String>,
        patience: Duration,
    ) -> Self {
        Self { dial, cluster, overrides: Arc::new(overrides), patience, inner: Arc::default() }
    }

    /// Takes in the newest membership known here. Connections to who left are closed.
    pub(crate) fn update(&self, membership: &StoredMembership) {
        let next = membership.log_id().as_ref().map_or(0, |log_id| log_id.index() + 1);
        let mut inner = self.inner.lock();
        if next == 0 && inner.next > 0 {
            // openraft has not told what is in the log yet.
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

    /// Takes in where members are, as a leader tells it, while no membership is known here.
    pub(crate) fn learn(&self, urls: impl Iterator<Item = (u64, String)>) {
        let mut inner = self.inner.lock();
        if inner.next == 0 {
            inner.learnt = urls.take(LEARNT_MAX).collect();
        }
    }

    /// The members, and the index after the entry that says so; none and 0 before there is one.
    pub(crate) fn members(&self) -> (BTreeMap<u64, Member>, u64) {
        let inner = self.inner.lock();
        (inner.members.clone(), inner.next)
    }

    /// One member.
    pub(crate) fn member(&self, id: u64) -> Option<Member> {
        self.inner.lock().members.get(&id).cloned()
    }

    /// The members that vote.
    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        self.inner.lock().voters.clone()
    }

    /// Whether a member votes.
    pub(crate) fn votes(&self, id: u64) -> bool {
        self.inner.lock().voters.contains(&id)
    }

    /// Ids of all members; before there is a membership, of all in the settings and all that were learnt.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let inner = self.inner.lock();
        if inner.next == 0 {
            let known: BTreeSet<u64> =
                self.overrides.keys().chain(inner.learnt.keys()).copied().collect();
            return known.into_iter().collect();
        }
        inner.members.keys().copied().collect()
    }

    /// Where a member is reached from here: the setting, or else what the membership says.
    pub(crate) fn url(&self, id: u64, member: Option<&Member>) -> Option<String> {
        let set = self.overrides.get(&id).cloned();
        let set = set.or_else(|| member.map(|member| member.url.clone()));
        let set = set.or_else(|| self.inner.lock().learnt.get(&id).cloned());
        set.filter(|url| !url.is_empty())
    }

    /// A connection to a member; `None` when its address is not known.
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

    /// A new connection; `None` when `url` is not a URL.
    pub(crate) fn connect(&self, url: &str) -> Option<Caller> {
        self.connect_within(url, self.patience)
    }

    /// As [`PeerDirectory::connect`], with another patience.
    pub(crate) fn connect_within(&self, url: &str, patience: Duration) -> Option<Caller> {
        let connection = self.dial.caller(url, &self.cluster, patience);
        connection.inspect_err(|error| tracing::warn!(url, %error, "not a coordinator's URL")).ok()
    }

    /// Bound of one call that asks nobody further.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }
}
