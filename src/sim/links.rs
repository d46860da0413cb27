//! A zone's chain as a list with its read operations: the common part of in-memory databases of
//! virtual parades and of the simulation. The callers model availability and delay.

use std::ops::{Deref, DerefMut};

use futures::StreamExt as _;
use pghc_api::chain::{Head, Link};
use pghc_api::id::WriteId;
use pghc_postgres::{Face, Page};
use pghc_runtime::task::fair_watch;
use pghc_server::zone::database::Heard;
use pghc_server::zone::{Identity, Recent};

/// Links from the first on, without a gap.
#[derive(Debug, Clone, Default)]
pub struct Links(Vec<Link>);

impl Deref for Links {
    type Target = Vec<Link>;
    fn deref(&self) -> &Vec<Link> {
        &self.0
    }
}

impl DerefMut for Links {
    fn deref_mut(&mut self) -> &mut Vec<Link> {
        &mut self.0
    }
}

impl Links {
    /// The newest link's head.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        let Link { id, hash, digest, written_at, .. } = *self.0.last()?;
        Some(Head { id, hash, digest, written_at })
    }

    /// Report of a database of `identity` with this chain.
    #[must_use]
    pub fn face(&self, identity: &Identity) -> Face {
        let digest = self.0.last().map(|link| link.digest);
        Face {
            cluster: identity.cluster.to_string(),
            zone: identity.zone.to_string(),
            system: String::new(),
            id: self.frontier(),
            digest,
            link: digest,
            is_replica: false,
            above: None,
            evidence: None,
        }
    }

    /// The newest id; 0 of none.
    #[must_use]
    pub fn frontier(&self) -> u64 {
        self.0.len() as u64
    }

    /// One link and the frontier.
    #[must_use]
    pub fn link(&self, id: WriteId) -> (Option<Link>, u64) {
        let place = usize::try_from(id.get() - 1).unwrap_or(usize::MAX);
        (self.0.get(place).cloned(), self.frontier())
    }

    /// At most `limit` links above an id.
    #[must_use]
    pub fn page(&self, after: u64, limit: usize) -> Page {
        let after = usize::try_from(after).unwrap_or(usize::MAX).min(self.0.len());
        let links = self.0[after..].iter().take(limit).cloned().collect();
        Page { links, frontier: self.frontier() }
    }

    /// The newest link and the frontier.
    #[must_use]
    pub fn newest(&self) -> (Option<Link>, u64) {
        (self.0.last().cloned(), self.frontier())
    }

    /// At most `count` of the newest links, newest first, and the frontier.
    #[must_use]
    pub fn recent(&self, count: usize) -> (Vec<Recent>, u64) {
        let newest = self.0.iter().rev().take(count);
        let newest = newest.map(|link| (link.id, link.hash, link.node.clone())).collect();
        (newest, self.frontier())
    }
}

/// The frontier from `first` on, as `told` of it together with the number of the server's start, until
/// that is another than `run`.
#[must_use]
pub fn heard(told: fair_watch::Receiver<(u64, u64)>, run: u64, first: u64) -> Heard {
    let later = futures::stream::unfold((told, first), move |(mut told, newest)| async move {
        loop {
            told.changed().await.ok()?;
            let (now, id) = *told.borrow_and_update();
            if now != run {
                return None;
            }
            if id > newest {
                return Some((Ok(id), (told, id)));
            }
        }
    });
    futures::stream::once(async move { Ok(first) }).chain(later).boxed()
}
