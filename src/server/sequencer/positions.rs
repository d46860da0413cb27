//! Maps ids to log positions, so that a tail can be served from disk.
//!
//! The log alone does not tell which writes were repeats without an id, so their positions are kept
//! by index. Every [`SPACING`] entries or [`SPACING_BYTES`] the preceding head is kept, from which
//! the chain can be recomputed. Positions of purged entries are dropped.

use std::collections::BTreeMap;

use pghc_api::chain::Head;
use serde::{Deserialize, Serialize};

/// Entries between two kept heads.
const SPACING: u64 = 256;

/// Bytes of entries after which a head is kept although fewer entries have passed. Finding an id
/// then reads about 1 MiB at most, and the log can be purged in such steps.
const SPACING_BYTES: u64 = 1 << 20;

/// Position in the log from which the chain can be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Raft index of an entry.
    pub index: u64,
    /// The chain's head before it; `None` before link 1.
    pub head: Option<Head>,
}

/// Kept positions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Positions {
    /// Entries below this index are dropped.
    kept_from: u64,
    heads: BTreeMap<u64, Option<Head>>,
    skipped_positions: BTreeMap<u64, Vec<u32>>,
    /// Bytes of entries since the newest kept head.
    bytes_since: u64,
}

impl Positions {
    /// Records an entry of `bytes` bytes at `index`, sequenced on top of `head`, and its writes
    /// without an id.
    pub(super) fn record(
        &mut self,
        index: u64,
        bytes: usize,
        head: Option<Head>,
        skipped_positions: &[u32],
    ) {
        let due = self.heads.last_key_value().is_none_or(|(last, _)| index - last >= SPACING);
        if due || self.bytes_since >= SPACING_BYTES {
            self.heads.insert(index, head);
            self.bytes_since = 0;
        }
        self.bytes_since = self.bytes_since.saturating_add(bytes as u64);
        if !skipped_positions.is_empty() {
            self.skipped_positions.insert(index, skipped_positions.to_vec());
        }
    }

    /// Returns the position to read from for the links above `after_id`; `None` if they were
    /// purged.
    #[must_use]
    pub fn before(&self, after_id: u64) -> Option<Position> {
        let covers = |head: &Option<Head>| head.map_or(0, |head| head.id.get()) <= after_id;
        let (index, head) = self.heads.iter().rev().find(|(_, head)| covers(head))?;
        Some(Position { index: *index, head: *head })
    }

    /// Returns the first position at or behind `index`: the oldest from which a log that begins
    /// there can serve.
    #[must_use]
    pub fn first_from(&self, index: u64) -> Option<Position> {
        let (index, head) = self.heads.range(index..).next()?;
        Some(Position { index: *index, head: *head })
    }

    /// Returns the last position at or before `index`.
    #[must_use]
    pub fn last_upto(&self, index: u64) -> Option<Position> {
        let (index, head) = self.heads.range(..=index).next_back()?;
        Some(Position { index: *index, head: *head })
    }

    /// Returns the positions of the writes without an id in the entry at `index`, ascending; `None`
    /// if the entry was dropped, so that "unknown" differs from "none".
    #[must_use]
    pub fn skipped_positions(&self, index: u64) -> Option<&[u32]> {
        let known = || self.skipped_positions.get(&index).map_or(&[][..], Vec::as_slice);
        (index >= self.kept_from).then(known)
    }

    /// Returns the head before the entry at `index`, if it is kept.
    #[must_use]
    pub fn head_before(&self, index: u64) -> Option<Option<Head>> {
        self.heads.get(&index).copied()
    }

    /// Drops everything below `index`, except the data needed to read from `index` on.
    pub(super) fn forget_below(&mut self, index: u64) {
        self.kept_from = self.kept_from.max(index);
        self.heads = self.heads.split_off(&index);
        self.skipped_positions = self.skipped_positions.split_off(&index);
    }
}
