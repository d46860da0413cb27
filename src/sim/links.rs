//! A zone's chain as a list with its read operations. The database models availability and delay.

use futures::StreamExt as _;
use pghc_api::chain::{Head, Link};
use pghc_api::id::WriteId;
use pghc_postgres::{Face, Page};
use pghc_runtime::task::fair_watch;
use pghc_server::zone::database::Heard;
use pghc_server::zone::{Identity, Recent};

/// Links from the first on, without a gap.
#[derive(Default)]
pub(super) struct Links(pub(super) Vec<Link>);

impl Links {
    /// The newest link's head.
    pub(super) fn head(&self) -> Option<Head> {
        self.0.last().map(head_of)
    }

    /// Report of a database of `identity` with this chain.
    pub(super) fn face(&self, identity: &Identity) -> Face {
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
    pub(super) fn frontier(&self) -> u64 {
        self.0.len() as u64
    }

    /// One link and the frontier.
    pub(super) fn link(&self, id: WriteId) -> (Option<Link>, u64) {
        let place = usize::try_from(id.get() - 1).unwrap_or(usize::MAX);
        (self.0.get(place).cloned(), self.frontier())
    }

    /// At most `limit` links above an id.
    pub(super) fn page(&self, after: u64, limit: usize) -> Page {
        let after = usize::try_from(after).unwrap_or(usize::MAX).min(self.0.len());
        let links = self.0[after..].iter().take(limit).cloned().collect();
        Page { links, frontier: self.frontier() }
    }

    /// The newest link and the frontier.
    pub(super) fn newest(&self) -> (Option<Link>, u64) {
        (self.0.last().cloned(), self.frontier())
    }

    /// At most `count` of the newest links, newest first, and the frontier.
    pub(super) fn recent(&self, count: usize) -> (Vec<Recent>, u64) {
        let newest = self.0.iter().rev().take(count);
        let newest = newest.map(|link| (link.id, link.hash, link.node.clone())).collect();
        (newest, self.frontier())
    }
}

/// The head of a chain that ends with `link`.
#[must_use]
pub fn head_of(link: &Link) -> Head {
    let Link { id, hash, digest, written_at, .. } = *link;
    Head { id, hash, digest, written_at }
}

/// The frontier from `first` on, as `told` of it together with the number of the server's start, until
/// that is another than `run`.
pub(super) fn heard(told: fair_watch::Receiver<(u64, u64)>, run: u64, first: u64) -> Heard {
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
