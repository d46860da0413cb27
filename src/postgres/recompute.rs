//! Recomputes links that are read from the link before them, so that a row that was changed by hand is
//! refused instead of served.
//!
//! This finds a link that does not follow from the one before it. A chain whose links were all computed anew
//! behind a change follows; against that stand the coordinators' digests (`src/server/zone/audit/guard.rs`).

use pghc_api::chain::{Head, Link, LinkHash, link_hash, payload_digest};
use pghc_api::id::{ClusterId, NodeName, WriteId};

use super::read_error::ReadError;

/// Recomputes `links`, ascending and dense, from the chain values of the link before the first of them.
///
/// # Errors
/// [`ReadError::Missing`] without that link, [`ReadError::Altered`] with the first link that does not follow.
pub(super) fn recompute(
    cluster: &ClusterId,
    mut before: Option<Head>,
    links: &[Link],
) -> Result<(), ReadError> {
    for link in links {
        follows_on(link.id, before.map(|head| head.id))?;
        let digest = link.payload.as_deref().map(|text| payload_digest(text.as_bytes()));
        let due = Head::extend(before.as_ref(), cluster, &link.node, link.written_at, digest);
        let goes_back = before.is_some_and(|head| link.written_at < head.written_at);
        if goes_back || (due.hash, due.digest) != (link.hash, link.digest) {
            return Err(ReadError::Altered { id: link.id.get() });
        }
        before = Some(due);
    }
    Ok(())
}

/// Recomputes the hash of one link, which covers its id, its node and the hash before.
///
/// # Errors
/// As [`recompute`].
pub(super) fn recompute_hash(
    id: WriteId,
    node: &NodeName,
    before: Option<LinkHash>,
    hash: LinkHash,
) -> Result<(), ReadError> {
    follows_on(id, before.and(WriteId::try_from(id.get() - 1).ok()))?;
    let is_sound = link_hash(id, node, before) == hash;
    is_sound.then_some(()).ok_or(ReadError::Altered { id: id.get() })
}

/// Whether the link before `id` is the one that was found: none for the first.
fn follows_on(id: WriteId, before: Option<WriteId>) -> Result<(), ReadError> {
    let due = id.get() - 1;
    let is_there = before.map_or(0, WriteId::get) == due;
    is_there.then_some(()).ok_or(ReadError::Missing { id: due })
}

#[cfg(test)]
mod tests {
    use pghc_api::chain::{Head, Link, payload_digest};
    use pghc_api::id::ClusterId;
    use pghc_api::time::Micros;

    use super::{ReadError, recompute, recompute_hash};

    fn cluster() -> ClusterId {
        "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
    }

    /// Three links, and the head after each.
    fn chain() -> (Vec<Link>, Vec<Head>) {
        let (mut links, mut heads) = (Vec::new(), Vec::<Head>::new());
        for payload in ["1", "2", "3"] {
            let (node, at) = ("eu-1".parse().expect("a name"), Micros(7));
            let digest = Some(payload_digest(payload.as_bytes()));
            let head = Head::extend(heads.last(), &cluster(), &node, at, digest);
            let Head { id, hash, digest, written_at } = head;
            links.push(Link { id, node, hash, digest, written_at, payload: Some(payload.into()) });
            heads.push(head);
        }
        (links, heads)
    }

    #[test]
    fn links_that_follow_are_served() {
        let (links, heads) = chain();
        assert!(recompute(&cluster(), None, &links).is_ok());
        assert!(recompute(&cluster(), Some(heads[0]), &links[1..]).is_ok());
        assert!(recompute(&cluster(), Some(heads[2]), &[]).is_ok());
    }

    #[test]
    fn a_changed_link_is_refused_by_its_id() {
        type Change = fn(&mut Link);
        let changes: [Change; 5] = [
            |link| link.payload = Some("9".into()),
            |link| link.payload = None,
            |link| link.node = "eu-2".parse().expect("a name"),
            |link| link.written_at = Micros(6),
            |link| link.digest.0[0] ^= 1,
        ];
        for change in changes {
            let (mut links, _) = chain();
            change(&mut links[1]);
            let refused = recompute(&cluster(), None, &links);
            assert!(matches!(refused, Err(ReadError::Altered { id: 2 })), "{refused:?}");
        }
    }

    #[test]
    fn a_link_without_the_one_before_it_is_refused() {
        let (links, heads) = chain();
        for before in [None, Some(heads[1])] {
            let refused = recompute(&cluster(), before, &links[1..]);
            assert!(matches!(refused, Err(ReadError::Missing { id: 1 })), "{refused:?}");
        }
    }

    #[test]
    fn a_hash_is_recomputed_from_the_one_before() {
        let (links, _) = chain();
        let check = |at: usize, before: Option<usize>| {
            let before = before.map(|before| links[before].hash);
            recompute_hash(links[at].id, &links[at].node, before, links[at].hash)
        };
        assert!(check(0, None).is_ok() && check(1, Some(0)).is_ok());
        assert!(matches!(check(2, Some(0)), Err(ReadError::Altered { id: 3 })));
        assert!(matches!(check(1, None), Err(ReadError::Missing { id: 1 })));
    }
}
