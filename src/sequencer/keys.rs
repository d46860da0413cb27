//! Idempotency keys inside their window: which id a key was given, and for which payload.
//!
//! The window is by count ([`KEYS_MAX`]) and by commit time ([`KEY_AGE_MICROS_MAX`]), whichever
//! forgets first; both are constants because every coordinator must forget at the same entry.

use std::collections::{HashMap, VecDeque};

use pghc_api::chain::{Digest, payload_digest};
use pghc_api::id::WriteId;
use pghc_api::limits::{KEY_AGE_MICROS_MAX, KEYS_MAX};
use pghc_api::time::Micros;
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
    pub(super) written_at: Micros,
}

/// The window, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    newest: HashMap<Fingerprint, (Fingerprint, WriteId)>,
    in_order: VecDeque<KeyRecord>,
}

impl Keys {
    /// Forgets what the window has left behind at commit time `now`.
    pub(super) fn expire(&mut self, now: Micros) {
        while let Some(oldest) = self.in_order.front() {
            let aged = now.0.saturating_sub(oldest.written_at.0) > KEY_AGE_MICROS_MAX;
            if !aged && self.in_order.len() <= KEYS_MAX {
                return;
            }
            self.newest.remove(&oldest.key);
            self.in_order.pop_front();
        }
    }

    /// The id and payload fingerprint recorded for `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<(Fingerprint, WriteId)> {
        self.newest.get(&key_fingerprint(key)).copied()
    }

    /// Records a key that [`Keys::get`] did not know.
    pub(super) fn insert(&mut self, key: &[u8], payload: Fingerprint, id: WriteId, at: Micros) {
        self.push(KeyRecord { key: key_fingerprint(key), payload, id, written_at: at });
    }

    fn push(&mut self, record: KeyRecord) {
        let before = self.newest.insert(record.key, (record.payload, record.id));
        assert!(before.is_none(), "a key in the window was recorded twice");
        self.in_order.push_back(record);
    }

    pub(super) fn records(&self) -> impl ExactSizeIterator<Item = &KeyRecord> {
        self.in_order.iter()
    }

    pub(super) fn restore(records: Vec<KeyRecord>) -> Self {
        let mut keys = Self::default();
        for record in records {
            keys.push(record);
        }
        keys
    }
}

fn key_fingerprint(key: &[u8]) -> Fingerprint {
    first_half(&payload_digest(key))
}

#[cfg(test)]
mod tests {
    use pghc_api::id::WriteId;
    use pghc_api::limits::{KEY_AGE_MICROS_MAX, KEYS_MAX};
    use pghc_api::time::Micros;

    use super::Keys;

    #[test]
    fn a_key_is_forgotten_when_it_is_too_old_in_commit_time() {
        let mut keys = Keys::default();
        keys.insert(b"a", [1; 16], WriteId::FIRST, Micros(5));
        keys.expire(Micros(5 + KEY_AGE_MICROS_MAX));
        assert_eq!(keys.get(b"a"), Some(([1; 16], WriteId::FIRST)));
        keys.expire(Micros(6 + KEY_AGE_MICROS_MAX));
        assert_eq!(keys.get(b"a"), None);
    }

    #[test]
    fn the_oldest_key_is_forgotten_when_there_are_too_many() {
        let mut keys = Keys::default();
        for number in 0..=KEYS_MAX {
            keys.insert(&number.to_be_bytes(), [0; 16], WriteId::FIRST, Micros(0));
        }
        keys.expire(Micros(0));
        assert_eq!(keys.get(&0_usize.to_be_bytes()), None);
        assert!(keys.get(&1_usize.to_be_bytes()).is_some());
        assert_eq!(keys.records().len(), KEYS_MAX);
    }
}
