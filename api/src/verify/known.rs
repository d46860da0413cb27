//! Results of checks in one copy of a chain, reused for the next copy.
//!
//! Invariant: a step is in the cache only if its hash and digest were computed from exactly the
//! looked-up bytes: the link before, id, node name, commit time, payload. Equal bytes have equal
//! hashes, so a copy that differs in one byte is computed itself. Memory is bounded by
//! [`STEPS_MAX`] and [`PAYLOAD_BYTES_KEPT_MAX`], each counted twice.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::chain::Head;
use crate::id::{ClusterId, NodeName};

/// Most steps in one half of what is kept. A copy that is further behind the first one than that is
/// computed as if it were alone.
const STEPS_MAX: usize = 16_384;

/// Payload bytes in one half of what is kept, beside its last payload.
const PAYLOAD_BYTES_KEPT_MAX: usize = 4 << 20;

/// The newest steps that were found right in any copy of the chain of one cluster.
#[derive(Debug)]
pub struct Known {
    cluster: ClusterId,
    halves: Mutex<Halves>,
}

/// One link with all inputs of its hash and digest, except the cluster id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) before: Option<&'a Head>,
    pub(super) node: &'a NodeName,
    pub(super) payload: Option<&'a [u8]>,
    /// As it is stored.
    pub(super) found: &'a Head,
}

/// When the newer half is full it becomes the older one, and what was older is forgotten.
#[derive(Debug, Default)]
struct Halves {
    newer: Half,
    older: Half,
}

/// Steps of links that follow each other.
#[derive(Debug, Default)]
struct Half {
    steps: Vec<Kept>,
    payloads: Vec<u8>,
}

#[derive(Debug)]
struct Kept {
    before: Option<Head>,
    node: NodeName,
    /// Where in the half's `payloads`.
    payload: Option<Range<usize>>,
    found: Head,
}

impl Known {
    /// Creates an empty cache for the chain of `cluster`.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self { cluster, halves: Mutex::default() }
    }

    pub(super) fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Whether exactly this step was found right.
    pub(super) fn holds(&self, step: &Step<'_>) -> bool {
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.newer.holds(step) || halves.older.holds(step)
    }

    /// Keeps a step that was found right, if it is newer than all that are kept.
    pub(super) fn keep(&self, step: &Step<'_>) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let Halves { newer, older } = &mut *halves;
        let id = step.found.id;
        match newer.steps.last().map(|last| last.found.id) {
            Some(last) if id <= last => return,
            Some(last) if id == last.next() => {}
            _ => {
                newer.clear();
                older.clear();
            }
        }
        if newer.steps.len() >= STEPS_MAX || newer.payloads.len() >= PAYLOAD_BYTES_KEPT_MAX {
            std::mem::swap(newer, older);
            newer.clear();
        }
        newer.push(step);
    }
}

impl Half {
    fn holds(&self, step: &Step<'_>) -> bool {
        let Some(first) = self.steps.first() else { return false };
        let place = step.found.id.get().checked_sub(first.found.id.get());
        let place = place.and_then(|place| usize::try_from(place).ok());
        let Some(kept) = place.and_then(|place| self.steps.get(place)) else { return false };
        let payload = kept.payload.clone().map(|range| &self.payloads[range]);
        kept.found == *step.found
            && kept.before.as_ref() == step.before
            && kept.node == *step.node
            && payload == step.payload
    }

    fn push(&mut self, step: &Step<'_>) {
        let start = self.payloads.len();
        self.payloads.extend_from_slice(step.payload.unwrap_or_default());
        self.steps.push(Kept {
            before: step.before.copied(),
            node: step.node.clone(),
            payload: step.payload.map(|_| start..self.payloads.len()),
            found: *step.found,
        });
    }

    fn clear(&mut self) {
        self.steps.clear();
        self.payloads.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Known, PAYLOAD_BYTES_KEPT_MAX, STEPS_MAX, Step};
    use crate::chain::{Digest, Head, LinkHash};
    use crate::id::{NodeName, WriteId};
    use crate::time::Micros;

    fn known() -> Known {
        Known::new("00000000-0000-4000-8000-000000000001".parse().expect("a UUID"))
    }

    fn node(name: &str) -> NodeName {
        name.parse().expect("a plain name")
    }

    fn head(id: u64) -> Head {
        let id = WriteId::try_from(id).expect("above 0");
        Head { id, hash: LinkHash([1; 16]), digest: Digest([2; 32]), written_at: Micros(3) }
    }

    #[test]
    fn a_step_is_known_only_if_no_byte_of_it_differs() {
        let (known, node, other) = (known(), node("a"), self::node("b"));
        let (before, found) = (head(6), head(7));
        let step = Step { before: Some(&before), node: &node, payload: Some(b"{}"), found: &found };
        assert!(!known.holds(&step));
        known.keep(&step);
        assert!(known.holds(&step));
        let heads = [
            Head { id: WriteId::FIRST, ..found },
            Head { hash: LinkHash([9; 16]), ..found },
            Head { digest: Digest([9; 32]), ..found },
            Head { written_at: Micros(9), ..found },
        ];
        for changed in &heads {
            assert!(!known.holds(&Step { found: changed, ..step }), "{changed:?}");
            assert!(!known.holds(&Step { before: Some(changed), ..step }), "before: {changed:?}");
        }
        for changed in [
            Step { before: None, ..step },
            Step { node: &other, ..step },
            Step { payload: None, ..step },
            Step { payload: Some(b""), ..step },
            Step { payload: Some(b"{} "), ..step },
        ] {
            assert!(!known.holds(&changed), "{changed:?}");
        }
    }

    #[test]
    fn link_cache_keeps_newest_links_up_to_bound() {
        let (known, node) = (known(), node("a"));
        let payload = vec![b' '; 1 << 10];
        let last = 5 * STEPS_MAX as u64;
        for id in 2..=last {
            let payload = Some(if id % 2 == 0 { &payload[..] } else { &[] });
            known.keep(&Step {
                before: Some(&head(id - 1)),
                node: &node,
                payload,
                found: &head(id),
            });
        }
        let old = Step { before: None, node: &node, payload: None, found: &head(1) };
        known.keep(&old);
        assert!(!known.holds(&old), "an older one is not kept");
        let halves = known.halves.lock().expect("nobody panicked");
        for half in [&halves.newer, &halves.older] {
            assert!(half.steps.len() <= STEPS_MAX);
            assert!(half.payloads.len() < PAYLOAD_BYTES_KEPT_MAX + (1 << 10));
        }
        let ids =
            halves.older.steps.iter().chain(&halves.newer.steps).map(|kept| kept.found.id.get());
        assert!(
            ids.rev()
                .eq((0..=last).rev().take(halves.older.steps.len() + halves.newer.steps.len()))
        );
    }

    #[test]
    fn link_cache_drops_links_before_a_gap() {
        let (known, node) = (known(), node("a"));
        let (one, far) = (head(1), head(9));
        let step = |found| Step { before: None, node: &node, payload: None, found };
        known.keep(&step(&one));
        known.keep(&step(&far));
        assert!(known.holds(&step(&far)) && !known.holds(&step(&one)));
    }
}
