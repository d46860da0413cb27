//! Encodes the sequencer's state: a format byte, a CRC-32 of the rest, postcard.

use pghc_api::chain::Head;
use pghc_api::id::ClusterId;
use pghc_runtime::mutation::{self, Mutant};
use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};

use super::entry::SessionId;
use super::keys::{KeyRecord, Keys};
use super::marks::Marks;
use super::positions::Positions;
use super::sessions::{Session, Sessions};
use super::state::Sequencer;
use super::zones::Zones;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 4;

/// Why this build cannot restore a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a newer pghc.
    #[error("snapshot format {0} is not known to this version of pghc")]
    Unknown(u8),
    /// Cut or flipped.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// Of another cluster.
    #[error("the snapshot is of cluster {0}, not of this one")]
    Foreign(ClusterId),
}

/// Encoded with the window's records and decoded as the window itself: the same bytes.
#[derive(Debug, Serialize, Deserialize)]
struct State<K> {
    cluster: ClusterId,
    head: Option<Head>,
    keys: K,
    sessions: Vec<(SessionId, Session)>,
    positions: Positions,
    marks: Marks,
    zones: Zones,
}

/// State at one moment, to be encoded later on another thread. It holds only the encoded data:
/// about 42 MB for a full window of keys.
#[derive(Debug)]
pub struct View(State<Vec<KeyRecord>>);

impl View {
    /// Encodes the view into one allocation of exactly its size. Equal states give equal bytes.
    ///
    /// # Panics
    /// Never: plain values are always encoded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + encoded_bytes(&self.0));
        bytes.extend([FORMAT, 0, 0, 0, 0]);
        let mut bytes = postcard::to_extend(&self.0, bytes).expect("the state holds plain values");
        let sum = crc32fast::hash(&bytes[HEADER_BYTES..]);
        bytes[1..HEADER_BYTES].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

fn encoded_bytes(value: &impl Serialize) -> usize {
    postcard::serialize_with_flavor(value, Size::default()).expect("plain values")
}

impl Sequencer {
    /// Encodes the whole state. Equal states give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        self.view().encode()
    }

    /// Returns a view of the present state.
    #[must_use]
    pub fn view(&self) -> View {
        View(State {
            cluster: self.cluster.clone(),
            head: self.head,
            keys: if mutation::is_active(Mutant::KeysNotInSnapshot) {
                Vec::new()
            } else {
                self.keys.records().copied().collect()
            },
            sessions: self.sessions.in_order(),
            positions: self.positions.clone(),
            marks: self.marks.clone(),
            zones: self.zones.clone(),
        })
    }

    /// Restores the state of `cluster`.
    ///
    /// # Errors
    /// If the bytes are damaged, of another cluster or of a newer format. Nothing is restored then.
    pub fn restore(cluster: &ClusterId, bytes: &[u8]) -> Result<Self, SnapshotError> {
        let damaged = |what: &str| SnapshotError::Damaged(what.to_owned());
        let (header, body) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| damaged("it is too short"))?;
        if header[0] != FORMAT {
            return Err(SnapshotError::Unknown(header[0]));
        }
        if header[1..] != crc32fast::hash(body).to_be_bytes() {
            return Err(damaged("its checksum does not match"));
        }
        let state: State<Keys> =
            postcard::from_bytes(body).map_err(|error| damaged(&error.to_string()))?;
        if !state.zones.is_possible() {
            return Err(damaged("its zones cannot be so"));
        }
        if !state.marks.is_possible(state.head.map_or(0, |head| head.id.get())) {
            return Err(damaged("its digests cannot be so"));
        }
        if state.cluster != *cluster {
            return Err(SnapshotError::Foreign(state.cluster));
        }
        Ok(Self {
            cluster: state.cluster,
            head: state.head,
            keys: state.keys,
            sessions: Sessions::restore(state.sessions)
                .ok_or_else(|| damaged("its sessions cannot be so"))?,
            positions: state.positions,
            marks: state.marks,
            zones: state.zones,
        })
    }
}
