//! The sequencer's state as bytes: a format byte, a CRC-32 of the rest, postcard.

use pghc_api::chain::Head;
use pghc_api::id::ClusterId;
use serde::{Deserialize, Serialize};

use super::entry::SessionId;
use super::keys::{KeyRecord, Keys};
use super::positions::Positions;
use super::sessions::{Session, Sessions};
use super::state::Sequencer;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 4;

/// Why bytes are not a snapshot this build can restore.
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

#[derive(Serialize, Deserialize)]
struct State {
    cluster: ClusterId,
    head: Option<Head>,
    keys: Vec<KeyRecord>,
    sessions: Vec<(SessionId, Session)>,
    positions: Positions,
}

impl Sequencer {
    /// The whole state as bytes. Equal states give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let state = State {
            cluster: self.cluster.clone(),
            head: self.head,
            keys: self.keys.records().copied().collect(),
            sessions: self.sessions.in_order(),
            positions: self.positions.clone(),
        };
        let bytes = vec![FORMAT, 0, 0, 0, 0];
        let mut bytes = postcard::to_extend(&state, bytes).expect("the state holds plain values");
        let sum = crc32fast::hash(&bytes[HEADER_BYTES..]);
        bytes[1..HEADER_BYTES].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Restores the state of `cluster`.
    ///
    /// # Errors
    /// If the bytes are damaged, of another cluster or of a newer format; nothing is restored then.
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
        let state: State =
            postcard::from_bytes(body).map_err(|error| damaged(&error.to_string()))?;
        if state.cluster != *cluster {
            return Err(SnapshotError::Foreign(state.cluster));
        }
        Ok(Self {
            cluster: state.cluster,
            head: state.head,
            keys: Keys::restore(state.keys),
            sessions: Sessions::restore(state.sessions),
            positions: state.positions,
        })
    }
}
