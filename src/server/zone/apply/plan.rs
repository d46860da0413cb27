//! Pure: what of the tail to apply next, recomputed and compared link by link.

use pghc_api::chain::{Digest, Head, Link, LinkHash, payload_digest};
use pghc_api::id::ClusterId;
use pghc_api::time::Micros;
use pghc_api::verify::{Violation, ViolationKind};
use pghc_api::wire::LinkBody;
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::rpc::v1::TailBatch;

use crate::sequencer::{Batch, EntryError};

/// Why nothing may be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// An id is missing: the tail must be opened anew.
    #[error("the tail goes on with id {found} where id {expected} was due")]
    Gap {
        /// The id that was due.
        expected: u64,
        /// The id that came.
        found: u64,
    },
    /// This build cannot read the batch: the zone must halt.
    #[error("the batch with id {0} cannot be read: {1}")]
    Unreadable(u64, #[source] EntryError),
    /// The chain here is not the sequencer's: the zone must halt.
    #[error(
        "at id {id} this zone computes hash {computed} and digest {computed_digest}, but the \
         sequencer hash {sequenced} and digest {sequenced_digest}; the chain in this zone's \
         database is not the one that was ordered"
    )]
    Diverged {
        /// Last id of the batch.
        id: u64,
        /// Hash computed from this zone's last link.
        computed: LinkHash,
        /// Digest computed from this zone's last link.
        computed_digest: Digest,
        /// Hash the sequencer computed.
        sequenced: LinkHash,
        /// Digest the sequencer computed.
        sequenced_digest: Digest,
    },
}

/// Plans the links of `batch` that lie above `head`, the zone's newest planned link.
///
/// Writes at or below the head are dropped, since a tail that reconnects may repeat them.
///
/// # Errors
/// See [`PlanError`]; nothing of the batch may be applied then.
pub(crate) fn plan(
    cluster: &ClusterId,
    head: Option<Head>,
    batch: TailBatch,
) -> Result<Vec<Link>, PlanError> {
    let applied = head.map_or(0, |head| head.id.get());
    if batch.last_id <= applied {
        return Ok(Vec::new());
    }
    if batch.first_id > applied + 1 {
        return Err(PlanError::Gap { expected: applied + 1, found: batch.first_id });
    }
    let decoded =
        Batch::decode(batch.batch).map_err(|error| PlanError::Unreadable(batch.first_id, error))?;
    let mut planned = Vec::with_capacity(decoded.writes.len());
    let with_id = (0_u32..)
        .zip(decoded.writes)
        .filter(|(position, _)| batch.skipped_positions.binary_search(position).is_err());
    let mut newest = head;
    for (id, (_, write)) in (batch.first_id..).zip(with_id) {
        if id <= applied {
            continue;
        }
        let payload = write.payload.as_deref().map(payload_digest);
        let at = Micros(batch.written_at);
        let link = Head::extend(newest.as_ref(), cluster, &decoded.node, at, payload);
        newest = Some(link);
        let payload = write.payload.map(|bytes| std::str::from_utf8(&bytes).map(Box::from));
        let payload = payload.transpose().map_err(|_| {
            PlanError::Unreadable(id, EntryError::Malformed("a payload is not UTF-8"))
        })?;
        let (node, Head { id, hash, digest, written_at }) = (decoded.node.clone(), link);
        planned.push(Link { id, node, hash, digest, written_at, payload });
    }
    match newest {
        Some(newest) if newest.id.get() == batch.last_id => {
            let (hash, digest) = (newest.hash.0, newest.digest.0);
            let is_equal = batch.hash[..] == hash && batch.digest[..] == digest;
            if is_equal || mutation::is_active(Mutant::HashNotCompared) {
                return Ok(planned);
            }
            Err(PlanError::Diverged {
                id: batch.last_id,
                computed: newest.hash,
                computed_digest: newest.digest,
                sequenced: LinkHash(batch.hash[..].try_into().unwrap_or_default()),
                sequenced_digest: Digest(batch.digest[..].try_into().unwrap_or_default()),
            })
        }
        _ => Err(PlanError::Unreadable(
            batch.first_id,
            EntryError::Malformed("its ids do not fit its writes"),
        )),
    }
}

/// Turns links that another zone holds behind `head` into links of ours, recomputing each from the
/// one before.
///
/// # Errors
/// The first link that does not follow; nothing of the page may be applied then.
pub(crate) fn follow(
    cluster: &ClusterId,
    head: Option<Head>,
    page: Vec<LinkBody>,
) -> Result<Vec<Link>, Violation> {
    let mut newest = head;
    let mut links = Vec::with_capacity(page.len());
    for body in page {
        let due = newest.map_or(1, |head| head.id.get() + 1);
        let at = due.cast_signed();
        if body.id != due {
            let found = format!("id {}", body.id);
            return Err(Violation::new(at, ViolationKind::Gap, format!("id {due}"), found));
        }
        let node = body
            .node_id
            .parse()
            .map_err(|error| Violation::new(at, ViolationKind::Malformed, "a node name", error))?;
        let payload: Option<Box<str>> = body.payload.map(|json| json.get().into());
        let digest = payload.as_deref().map(|text| payload_digest(text.as_bytes()));
        if let Some(before) = newest.filter(|before| body.written_at < before.written_at) {
            let (kind, expected) = (ViolationKind::TimeWentBack, before.written_at);
            return Err(Violation::new(at, kind, expected, body.written_at));
        }
        let link = Head::extend(newest.as_ref(), cluster, &node, body.written_at, digest);
        if link.hash != body.hash {
            return Err(Violation::new(at, ViolationKind::WrongHash, link.hash, body.hash));
        }
        if link.digest != body.digest {
            return Err(Violation::new(at, ViolationKind::WrongDigest, link.digest, body.digest));
        }
        newest = Some(link);
        let Head { id, hash, digest, written_at } = link;
        links.push(Link { id, node, hash, digest, written_at, payload });
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use pghc_api::chain::{Head, Link};
    use pghc_api::id::ClusterId;
    use pghc_api::time::Micros;
    use pghc_api::wire::LinkBody;
    use pghc_runtime::rpc::v1::TailBatch;

    use super::{PlanError, follow, plan};
    use crate::sequencer::{Batch, Entry, Sequencer, Write};

    fn cluster() -> ClusterId {
        "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
    }

    /// Two batches as a coordinator sends them: ids 1 to 3 (with one repeat), then 4.
    fn tail() -> Vec<TailBatch> {
        let mut sequencer = Sequencer::new(cluster());
        let write = |key: &str| Write {
            key: Some(key.to_owned().into()),
            payload: Some(format!("\"{key}\"").into()),
        };
        let batches = [vec![write("a"), write("b"), write("a"), write("c")], vec![write("d")]];
        let send = |(index, writes)| {
            let node = "eu-1".parse().expect("a plain name");
            let batch = Batch { session: [0; 16], sequence: index, node, writes }.encode();
            let entry = Entry { proposed_at: Micros(7), batch };
            let done = sequencer.advance(index, entry.encode()).expect("a good entry");
            let done = done.expect("a batch");
            let head = done.head.expect("links were made");
            TailBatch {
                index,
                first_id: done.first_id.map_or(0, u64::from),
                last_id: head.id.get(),
                written_at: head.written_at.0,
                batch: done.bytes,
                skipped_positions: done.skipped_positions,
                hash: head.hash.0.to_vec().into(),
                digest: head.digest.0.to_vec().into(),
            }
        };
        (1_u64..).zip(batches).map(send).collect()
    }

    fn head(link: &Link) -> Head {
        let Link { id, hash, digest, written_at, .. } = *link;
        Head { id, hash, digest, written_at }
    }

    fn ids(head: Option<Head>, batch: TailBatch) -> Result<Vec<u64>, PlanError> {
        let planned = plan(&cluster(), head, batch)?;
        Ok(planned.iter().map(|link| link.id.get()).collect())
    }

    #[test]
    fn repeated_batches_are_planned_once_in_order() {
        let tail = tail();
        let first = plan(&cluster(), None, tail[0].clone()).expect("planned");
        assert_eq!(first[2].payload.as_deref(), Some("\"c\""));
        let head_at = |id: usize| Some(head(&first[id - 1]));
        assert_eq!(ids(None, tail[0].clone()), Ok(vec![1, 2, 3]));
        assert_eq!(ids(head_at(1), tail[0].clone()), Ok(vec![2, 3]));
        assert_eq!(ids(head_at(3), tail[0].clone()), Ok(vec![]));
        assert_eq!(ids(head_at(3), tail[1].clone()), Ok(vec![4]));
        let gap = PlanError::Gap { expected: 3, found: 4 };
        assert_eq!(ids(head_at(2), tail[1].clone()), Err(gap));
    }

    #[test]
    fn any_difference_from_the_sequencer_is_a_divergence() {
        let tail = tail();
        let third = plan(&cluster(), None, tail[0].clone()).expect("planned")[2].clone();
        let mut changed = head(&third);
        changed.hash.0[0] ^= 1;
        let error = ids(Some(changed), tail[1].clone()).expect_err("another hash before");
        assert!(matches!(error, PlanError::Diverged { id: 4, .. }), "{error}");
        let mut later = tail[1].clone();
        later.written_at += 1;
        let error = ids(Some(head(&third)), later).expect_err("another time");
        assert!(matches!(error, PlanError::Diverged { id: 4, .. }), "{error}");
    }

    #[test]
    fn foreign_links_are_taken_only_if_they_follow_from_our_head() {
        let links = plan(&cluster(), None, tail()[0].clone()).expect("planned");
        let bodies = || -> Vec<LinkBody> {
            links.iter().map(|l| LinkBody::new(&cluster(), l.clone()).expect("JSON")).collect()
        };
        assert_eq!(follow(&cluster(), None, bodies()), Ok(links.clone()));
        let behind_first = bodies().split_off(1);
        assert_eq!(
            follow(&cluster(), Some(head(&links[0])), behind_first.clone()),
            Ok(links[1..].to_vec())
        );
        let found = |change: fn(&mut Vec<LinkBody>)| {
            let mut page = bodies();
            change(&mut page);
            let violation = follow(&cluster(), None, page).expect_err("it was tampered with");
            (violation.id, violation.kind)
        };
        use pghc_api::verify::ViolationKind::{
            Gap, Malformed, TimeWentBack, WrongDigest, WrongHash,
        };
        assert_eq!(found(|page| drop(page.remove(1))), (2, Gap));
        assert_eq!(found(|page| page.swap(0, 1)), (1, Gap));
        assert_eq!(found(|page| page[1].node_id.clear()), (2, Malformed));
        assert_eq!(found(|page| page[1].node_id.push('x')), (2, WrongHash));
        assert_eq!(found(|page| page[1].hash.0[3] ^= 1), (2, WrongHash));
        assert_eq!(found(|page| page[2].payload = None), (3, WrongDigest));
        assert_eq!(found(|page| page[1].written_at.0 += 1), (2, WrongDigest));
        assert_eq!(found(|page| page[1].written_at.0 -= 9), (2, TimeWentBack));
        let mut other = head(&links[0]);
        other.digest.0[0] ^= 1;
        let violation = follow(&cluster(), Some(other), behind_first).expect_err("another head");
        assert_eq!((violation.id, violation.kind), (2, WrongDigest));
    }

    #[test]
    fn ids_that_do_not_fit_the_writes_are_refused() {
        let mut batch = tail()[0].clone();
        batch.skipped_positions.clear();
        assert!(matches!(ids(None, batch), Err(PlanError::Unreadable(..))));
    }
}
