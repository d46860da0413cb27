//! Idempotency keys within their window: each key's id and payload fingerprint.
//!
//! The window is the newest [`KEYS_MAX`] keyed writes. It is a constant, because every coordinator
//! must forget a key at the same entry. Age is no criterion: a leader's clock that jumps ahead
//! would empty the window.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use pghc_api::chain::{Digest, payload_digest};
use pghc_api::id::WriteId;
use pghc_api::limits::KEYS_MAX;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// First half of a SHA-256. Two keys or payloads that share it count as equal; a collision needs
/// about 2^64 tries.
pub(super) type Fingerprint = [u8; 16];

/// Returns the fingerprint of a payload's digest; absent payloads have their own.
pub(super) fn fingerprint(digest: Option<Digest>) -> Fingerprint {
    digest.map_or([0; 16], |digest| first_half(&digest))
}

fn first_half(digest: &Digest) -> Fingerprint {
    let mut half = [0; 16];
    half.copy_from_slice(&digest.0[..16]);
    half
}

/// Initial capacity in records.
const KEYS_FIRST: usize = 64;

/// Record of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) key: Fingerprint,
    pub(super) payload: Fingerprint,
    pub(super) id: WriteId,
}

/// Keys of the window, oldest first.
///
/// A full window takes about 86 MB, half of it for the lookup. The lookup maps a key to its place
/// in the order, so that no record is stored twice.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    /// Number of each key's record, counted from the first ever, without the high bits.
    places: HashMap<Fingerprint, u32>,
    in_order: VecDeque<KeyRecord>,
    /// Number of the oldest record.
    first: u32,
}

impl Keys {
    /// Returns the id and payload fingerprint recorded for `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<(Fingerprint, WriteId)> {
        let place = self.places.get(&key_fingerprint(key))?.wrapping_sub(self.first);
        let record = self.in_order.get(usize::try_from(place).ok()?)?;
        Some((record.payload, record.id))
    }

    /// Records a key that [`Keys::get`] did not find; evicts the oldest above the limit.
    pub(super) fn insert(&mut self, key: &[u8], payload: Fingerprint, id: WriteId) {
        if self.in_order.len() >= KEYS_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.places.remove(&oldest.key);
            self.first = self.first.wrapping_add(1);
        }
        let (held, room) = (self.in_order.len(), self.in_order.capacity());
        if held == room {
            // Doubles the capacity, but never beyond a window.
            self.in_order.reserve_exact(held.max(KEYS_FIRST).min(KEYS_MAX - held));
        }
        if self.places.len() == self.places.capacity() && self.places.len() > KEYS_MAX / 2 {
            // Removals have used up the table's slots: by itself it would double its size.
            let mut places = HashMap::with_capacity(KEYS_MAX);
            places.extend(self.places.drain());
            self.places = places;
        }
        self.push(KeyRecord { key: key_fingerprint(key), payload, id });
    }

    fn push(&mut self, record: KeyRecord) {
        let place = self.first.wrapping_add(number(self.in_order.len()));
        let before = self.places.insert(record.key, place);
        assert!(before.is_none(), "a key in the window was recorded twice");
        self.in_order.push_back(record);
    }

    pub(super) fn records(&self) -> impl ExactSizeIterator<Item = &KeyRecord> {
        self.in_order.iter()
    }

    /// Returns the bytes allocated for the window.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        // A table has a seventh more slots than it fills, and a byte beside each.
        let places = self.places.capacity() / 7 * 8;
        places * (size_of::<(Fingerprint, u32)>() + 1)
            + self.in_order.capacity() * size_of::<KeyRecord>()
    }
}

/// Restores the window from its records in order, as [`Keys::records`] returns them. Nothing is
/// held twice and nothing grows in steps, so that a restore needs no extra memory.
impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Window;
        impl<'de> Visitor<'de> for Window {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {KEYS_MAX} records, no key twice")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<Keys, A::Error> {
                let count = records.size_hint().unwrap_or_default();
                if count > KEYS_MAX {
                    return Err(de::Error::invalid_length(count, &self));
                }
                let mut places = HashMap::with_capacity(count);
                let mut in_order = VecDeque::with_capacity(count);
                while let Some(record) = records.next_element::<KeyRecord>()? {
                    let place = in_order.len();
                    if place == KEYS_MAX || places.insert(record.key, number(place)).is_some() {
                        return Err(de::Error::custom("no window can be so"));
                    }
                    in_order.push_back(record);
                }
                Ok(Keys { places, in_order, first: 0 })
            }
        }
        from.deserialize_seq(Window)
    }
}

fn number(place: usize) -> u32 {
    u32::try_from(place).expect("a window is smaller")
}

fn key_fingerprint(key: &[u8]) -> Fingerprint {
    first_half(&payload_digest(key))
}

#[cfg(test)]
mod tests {
    use pghc_api::id::WriteId;
    use pghc_api::limits::KEYS_MAX;

    use super::{KeyRecord, Keys};

    fn restore(records: &[KeyRecord]) -> Option<Keys> {
        postcard::from_bytes(&postcard::to_allocvec(records).expect("plain values")).ok()
    }

    #[test]
    fn window_with_a_repeated_key_is_refused() {
        let record = |key| KeyRecord { key: [key; 16], payload: [0; 16], id: WriteId::FIRST };
        let restored = restore(&[record(1), record(2)]).expect("two keys");
        assert_eq!(restored.records().len(), 2);
        assert!(restore(&[record(1), record(2), record(1)]).is_none());
    }

    #[test]
    fn oldest_key_is_evicted_above_the_limit() {
        let mut keys = Keys::default();
        for number in 0..=KEYS_MAX {
            keys.insert(&number.to_be_bytes(), [0; 16], WriteId::FIRST);
        }
        assert!(keys.bytes() < 92 << 20, "{} bytes", keys.bytes());
        assert_eq!(keys.get(&0_usize.to_be_bytes()), None);
        assert!(keys.get(&1_usize.to_be_bytes()).is_some());
        assert_eq!(keys.records().len(), KEYS_MAX);
        let mut records: Vec<KeyRecord> = keys.records().copied().collect();
        let mut again = restore(&records).expect("a window");
        assert!(again.bytes() < 92 << 20, "{} bytes", again.bytes());
        records.push(KeyRecord { key: [7; 16], ..records[0] });
        assert!(restore(&records).is_none(), "one more than a window");
        again.insert(b"one more", [1; 16], WriteId::FIRST);
        assert!(again.bytes() < 92 << 20, "{} bytes", again.bytes());
        assert_eq!(again.get(&1_usize.to_be_bytes()), None);
        assert_eq!(again.get(b"one more"), Some(([1; 16], WriteId::FIRST)));
    }
}
