//! Encodes openraft's types for the disk and the network: a version byte, then postcard.

use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Changes when openraft's types change their serde form.
const VERSION: u8 = 1;

/// Encodes a value of an openraft type.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    let bytes = postcard::to_extend(value, vec![VERSION]).expect("plain values always encode");
    bytes.into()
}

/// Decodes a value of an openraft type.
///
/// # Errors
/// `InvalidData` if the bytes have another version or are malformed.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    match bytes.split_first() {
        Some((&VERSION, body)) => {
            postcard::from_bytes(body).map_err(|error| invalid(error.to_string()))
        }
        Some((version, _)) => Err(invalid(format!(
            "consensus encoding version {version} is unknown to this pghc; run the same version everywhere"
        ))),
        None => Err(invalid("the message is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::entry::RaftEntry;
    use openraft::{EntryPayload, Vote, vote::RaftLeaderId};

    use super::{decode, encode};
    use crate::coordinator::consensus::type_config::{Entry, LogId, Member, Proposal};

    /// An openraft upgrade that changes these bytes must change `VERSION` and still read them.
    #[test]
    fn entry_and_vote_bytes_are_pinned() {
        let leader = openraft::impls::leader_id_adv::LeaderId::new(3, 2);
        let log_id = LogId::new(leader.to_committed(), 9);
        let payload = EntryPayload::Normal(Proposal(Bytes::from_static(b"abc")));
        let entry = Entry::new(log_id, payload);
        assert_eq!(&encode(&entry)[..], b"\x01\x03\x02\x09\x01\x03abc");
        assert_eq!(decode::<Entry>(&encode(&entry)).expect("an entry"), entry);
        let vote: crate::coordinator::consensus::type_config::Vote = Vote::new_committed(3, 2);
        assert_eq!(&encode(&vote)[..], b"\x01\x03\x02\x01");
        assert!(decode::<Entry>(b"\x02\x03").is_err() && decode::<Entry>(b"").is_err());
    }
    /// A member without an address keeps the bytes of the first version.
    #[test]
    fn member_bytes_round_trip_with_or_without_address() {
        let old = Member { zone: "eu".to_owned(), ..Member::default() };
        assert_eq!(&encode(&old)[..], b"\x01\x02eu");
        assert_eq!(decode::<Member>(b"\x01\x02eu").expect("a member"), old);
        let new = Member { url: "http://x:1".to_owned(), incarnation: "u".to_owned(), ..old };
        assert_eq!(&encode(&new)[..], b"\x01\x0feu\nhttp://x:1\nu");
        assert_eq!(decode::<Member>(&encode(&new)).expect("a member"), new);
    }
}
