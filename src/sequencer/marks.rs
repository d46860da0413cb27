//! Digests of the whole chain, kept sparsely for ever and densely at its end, so that a coordinator can
//! always tell whether a zone's chain is the one that was ordered, whatever its log still holds.
//!
//! Invariant: a digest that is kept is the one of the link with that id. Pure: the same links give the
//! same marks.

use std::collections::VecDeque;

use pghc_api::chain::{Digest, Head};
use serde::{Deserialize, Serialize};

/// Ids between two marks of the coarsest level, which keeps them for ever: 32 bytes for so many links.
pub const COARSEST: u64 = 1 << 16;

/// Ids between two marks of the middle level.
pub const MIDDLE: u64 = 1 << 8;

/// Marks that a level but the coarsest keeps, 2 MiB of them: every id of the newest 65,536, and one in
/// 256 of the newest 16 million.
const KEPT: usize = 1 << 16;

/// Ids between two marks of each level, and how many marks it keeps.
const LEVELS: [(u64, usize); 3] = [(1, KEPT), (MIDDLE, KEPT), (COARSEST, usize::MAX)];

/// What is kept of the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks([Level; LEVELS.len()]);

/// Digests of consecutive multiples of a level's spacing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Level {
    /// Id of the newest; 0 when there is none.
    newest: u64,
    /// Written as one run of bytes: a snapshot holds up to 131,072 of them, and more of a long chain.
    #[serde(with = "run")]
    digests: VecDeque<[u8; 32]>,
}

/// Digests one behind the other.
mod run {
    use std::collections::VecDeque;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        digests: &VecDeque<[u8; 32]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let (front, back) = digests.as_slices();
        serializer.serialize_bytes(&[front.as_flattened(), back.as_flattened()].concat())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<VecDeque<[u8; 32]>, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        let (digests, rest) = bytes.as_chunks::<32>();
        if rest.is_empty() {
            Ok(digests.iter().copied().collect())
        } else {
            Err(D::Error::custom("digests that are not of 32 bytes"))
        }
    }
}

impl Level {
    fn note(&mut self, id: u64, digest: Digest, (spacing, kept): (u64, usize)) {
        if !id.is_multiple_of(spacing) {
            return;
        }
        if id != self.newest + spacing {
            // Ids are dense; were they not, nothing could be found by counting.
            self.digests.clear();
        }
        self.newest = id;
        self.digests.push_back(digest.0);
        if self.digests.len() > kept {
            self.digests.pop_front();
        }
    }

    fn at_or_below(&self, id: u64, spacing: u64) -> Option<(u64, Digest)> {
        let at = id.min(self.newest) / spacing * spacing;
        let back = usize::try_from((self.newest - at) / spacing).ok()?;
        let place = self.digests.len().checked_sub(1)?.checked_sub(back)?;
        Some((at, Digest(*self.digests.get(place)?)))
    }

    fn is_possible(&self, head: u64, (spacing, kept): (u64, usize)) -> bool {
        let count = self.digests.len();
        let reaches = (count as u64).checked_mul(spacing).is_some_and(|ids| ids <= self.newest);
        let is_empty = count == 0;
        self.newest <= head
            && self.newest.is_multiple_of(spacing)
            && is_empty == (self.newest == 0)
            && reaches
            && count <= kept
    }
}

impl Marks {
    /// Notes the newest link.
    pub(super) fn note(&mut self, head: &Head) {
        for (level, form) in self.0.iter_mut().zip(LEVELS) {
            level.note(head.id.get(), head.digest, form);
        }
    }

    /// The newest link at or below `id` whose digest is kept, and that digest; `None` when none is.
    #[must_use]
    pub fn at_or_below(&self, id: u64) -> Option<(u64, Digest)> {
        let levels = self.0.iter().zip(LEVELS);
        levels
            .filter_map(|(level, (spacing, _))| level.at_or_below(id, spacing))
            .max_by_key(|m| m.0)
    }

    /// The digest of link `id`; `None` when it is not kept.
    #[must_use]
    pub fn at(&self, id: u64) -> Option<Digest> {
        self.at_or_below(id).filter(|(at, _)| *at == id && id != 0).map(|(_, digest)| digest)
    }

    /// Whether marks that were read can be those of a chain whose newest id is `head`.
    pub(super) fn is_possible(&self, head: u64) -> bool {
        self.0.iter().zip(LEVELS).all(|(level, form)| level.is_possible(head, form))
    }
}

#[cfg(test)]
mod tests {
    use pghc_api::chain::{Digest, Head, LinkHash};
    use pghc_api::id::WriteId;
    use pghc_api::time::Micros;

    use super::{COARSEST, KEPT, MIDDLE, Marks};

    fn digest(id: u64) -> Digest {
        let mut digest = Digest::default();
        digest.0[..8].copy_from_slice(&id.to_be_bytes());
        digest
    }

    fn marks(upto: u64) -> Marks {
        let mut marks = Marks::default();
        for id in 1..=upto {
            let (hash, written_at) = (LinkHash::default(), Micros(0));
            let head = Head {
                id: WriteId::try_from(id).expect("not 0"),
                hash,
                digest: digest(id),
                written_at,
            };
            marks.note(&head);
        }
        marks
    }

    #[test]
    fn every_id_of_a_short_chain_is_kept() {
        let marks = marks(1_000);
        assert_eq!(marks.at_or_below(0), None);
        assert_eq!(marks.at(0), None);
        for id in [1, 2, 255, 256, 257, 999, 1_000] {
            assert_eq!(marks.at(id), Some(digest(id)), "{id}");
        }
        assert_eq!(marks.at(1_001), None);
        assert_eq!(marks.at_or_below(5_000), Some((1_000, digest(1_000))), "the head");
        assert_eq!(Marks::default().at_or_below(7), None);
    }

    #[test]
    fn old_ids_are_kept_more_sparsely_but_for_ever() {
        let fine = KEPT as u64;
        let coarse = MIDDLE * KEPT as u64;
        let head = coarse + 2 * COARSEST + 77;
        let marks = marks(head);
        assert!(marks.is_possible(head) && !marks.is_possible(COARSEST));
        assert_eq!(marks.at(head - fine + 1), Some(digest(head - fine + 1)));
        let old = head - fine;
        assert_eq!(marks.at(old), None);
        let below = old / MIDDLE * MIDDLE;
        assert_eq!(marks.at_or_below(old), Some((below, digest(below))));
        for id in [COARSEST, COARSEST + 1, 2 * COARSEST - 1] {
            assert_eq!(marks.at_or_below(id), Some((COARSEST, digest(COARSEST))), "{id}");
        }
        assert_eq!(marks.at_or_below(COARSEST - 1), None, "link 1 is where all chains begin");
    }

    #[test]
    fn marks_that_cannot_be_counted_are_not_restored() {
        let mut marks = marks(600);
        assert!(marks.is_possible(600));
        assert!(!marks.is_possible(599));
        marks.0[1].newest += 1;
        assert!(!marks.is_possible(1_000));
    }
}
