//! Idempotency keys inside their window: which id a key was given, and for which payload.
//!
//! The window is the newest [`KEYS_MAX`] keyed writes: a constant, because every coordinator must
//! forget at the same entry. There is no age in it, because a leader's clock that jumps ahead would
//! make everybody forget.

use std::collections::{HashMap, VecDeque};

use pghc_api::chain::{Digest, payload_digest};
use pghc_api::id::WriteId;
use pghc_api::limits::KEYS_MAX;
use serde::{Deserialize, Serialize};

/// First half of a SHA-256: two keys or payloads that meet in it are taken for the same, which
/// needs some 2^64 tries to bring about.
pub(super) type Fingerprint = [u8; 16];

/// Fingerprint of a payload's digest; absent payloads have their own.
pub(super) fn fingerprint(digest: Option<Digest>) -> Fingerprint {
    digest.map_or([0; 16], |digest| first_half(&digest))
}

fn first_half(digest: &Digest) -> Fingerprint {
    let mut half = [0; 16];
    half.copy_from_slice(&digest.0[..16]);
    half
}

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) key: Fingerprint,
    pub(super) payload: Fingerprint,
    pub(super) id: WriteId,
}

/// The window, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    newest: HashMap<Fingerprint, (Fingerprint, WriteId)>,
    in_order: VecDeque<KeyRecord>,
}

impl Keys {
    /// The id and payload fingerprint recorded for `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<(Fingerprint, WriteId)> {
        self.newest.get(&key_fingerprint(key)).copied()
    }

    /// Records a key that [`Keys::get`] did not know, and forgets the oldest of too many.
    pub(super) fn insert(&mut self, key: &[u8], payload: Fingerprint, id: WriteId) {
        self.push(KeyRecord { key: key_fingerprint(key), payload, id });
        if self.in_order.len() > KEYS_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.newest.remove(&oldest.key);
        }
    }

    fn push(&mut self, record: KeyRecord) {
        let before = self.newest.insert(record.key, (record.payload, record.id));
        assert!(before.is_none(), "a key in the window was recorded twice");
        self.in_order.push_back(record);
    }

    pub(super) fn records(&self) -> impl ExactSizeIterator<Item = &KeyRecord> {
        self.in_order.iter()
    }

    /// The window of these records; `None` if no window can be so: too many, or a key twice.
    pub(super) fn restore(records: Vec<KeyRecord>) -> Option<Self> {
        let by_key = |record: &KeyRecord| (record.key, (record.payload, record.id));
        let newest: HashMap<_, _> = records.iter().map(by_key).collect();
        let is_window = records.len() <= KEYS_MAX && newest.len() == records.len();
        is_window.then(|| Self { newest, in_order: records.into() })
    }
}

fn key_fingerprint(key: &[u8]) -> Fingerprint {
    first_half(&payload_digest(key))
}

#[cfg(test)]
mod tests {
    use pghc_api::id::WriteId;
    use pghc_api::limits::KEYS_MAX;

    use super::{KeyRecord, Keys};

    #[test]
    fn a_window_with_a_key_twice_is_not_restored() {
        let record = |key| KeyRecord { key: [key; 16], payload: [0; 16], id: WriteId::FIRST };
        let restored = Keys::restore(vec![record(1), record(2)]).expect("two keys");
        assert_eq!(restored.records().len(), 2);
        assert!(Keys::restore(vec![record(1), record(2), record(1)]).is_none());
    }

    #[test]
    fn the_oldest_key_is_forgotten_when_there_are_too_many() {
        let mut keys = Keys::default();
        for number in 0..=KEYS_MAX {
            keys.insert(&number.to_be_bytes(), [0; 16], WriteId::FIRST);
        }
        assert_eq!(keys.get(&0_usize.to_be_bytes()), None);
        assert!(keys.get(&1_usize.to_be_bytes()).is_some());
        assert_eq!(keys.records().len(), KEYS_MAX);
    }
}
