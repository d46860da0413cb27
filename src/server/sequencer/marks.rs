//! Digests of the whole chain, sparse for old links and dense for new ones.
//!
//! With them a coordinator can always compare a zone's chain with the ordered one, whatever its log
//! still holds. Invariant: a kept digest is that of the link with its id. Pure: the same links give
//! the same marks.

use std::collections::VecDeque;

use pghc_api::chain::{Digest, Head};
use serde::{Deserialize, Serialize};

/// Ids between two marks of the coarsest level, which is kept for ever: 32 bytes per 65,536 links.
pub const COARSEST: u64 = 1 << 16;

/// Ids between two marks of the middle level.
pub const MIDDLE: u64 = 1 << 8;

/// Marks kept by each finer level, 2 MiB of them: every id of the newest 65,536, and one in 256 of
/// the newest 16 million.
const KEPT: usize = 1 << 16;

/// Spacing and capacity of each level.
const LEVELS: [(u64, usize); 3] = [(1, KEPT), (MIDDLE, KEPT), (COARSEST, usize::MAX)];

/// Kept digests of the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks([Level; LEVELS.len()]);

/// Digests of consecutive multiples of a level's spacing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Level {
    /// Id of the newest mark; 0 for none.
    newest: u64,
    /// Encoded as one run of bytes, since a snapshot holds up to 131,072 digests, and more for a
    /// long chain.
    #[serde(with = "run")]
    digests: VecDeque<[u8; 32]>,
}

/// Serialises digests as consecutive bytes.
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
    fn record(&mut self, id: u64, digest: Digest, (spacing, kept): (u64, usize)) {
        if !id.is_multiple_of(spacing) {
            return;
        }
        if id != self.newest + spacing {
            // Ids are dense; a gap would break the lookup by counting.
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
    /// Records the newest link.
    pub(super) fn record(&mut self, head: &Head) {
        for (level, form) in self.0.iter_mut().zip(LEVELS) {
            level.record(head.id.get(), head.digest, form);
        }
    }

    /// Returns the newest link at or below `id` with a kept digest, and that digest.
    #[must_use]
    pub fn at_or_below(&self, id: u64) -> Option<(u64, Digest)> {
        let levels = self.0.iter().zip(LEVELS);
        levels
            .filter_map(|(level, (spacing, _))| level.at_or_below(id, spacing))
            .max_by_key(|m| m.0)
    }

    /// Returns the digest of link `id`; `None` if it is not kept.
    #[must_use]
    pub fn at(&self, id: u64) -> Option<Digest> {
        self.at_or_below(id).filter(|(at, _)| *at == id && id != 0).map(|(_, digest)| digest)
    }

    /// Whether restored marks can belong to a chain whose newest id is `head`.
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
            marks.record(&head);
        }
        marks
    }

    #[test]
    fn short_chain_keeps_every_id() {
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
    fn old_ids_are_kept_sparsely_for_ever() {
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
    fn inconsistent_marks_are_refused() {
        let mut marks = marks(600);
        assert!(marks.is_possible(600));
        assert!(!marks.is_possible(599));
        marks.0[1].newest += 1;
        assert!(!marks.is_possible(1_000));
    }
}
