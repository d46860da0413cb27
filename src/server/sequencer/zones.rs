//! Registry of zones: registered zones hold back the purge of the log.
//!
//! It is replicated, because every coordinator must agree on it, also after a restart. Pure. A
//! change is an entry of its own, beside batches, and takes no write id:
//!
//! ```text
//! entry   format u8 = 2 | group u16 = 0 | act u8 | zone: length u8, bytes
//! act     0 register | 1 add | 2 remove | 3 forget
//! ```

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pghc_api::id::ZoneName;
use pghc_api::limits::ZONES_MAX;
use serde::{Deserialize, Serialize};

use super::entry::{EntryError, GROUP, put_short, take, take_short};

/// Format byte of an entry that changes the registry.
const FORMAT: u8 = 2;

/// Newest entry format that this build reads. A build stops at an unknown format, so a format is
/// proposed only once every member has confirmed it.
pub const ENTRY_FORMAT: u32 = FORMAT as u32;

/// Action on a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneAct {
    /// Registers an unknown zone; a removed one stays removed. A leader does this by itself for its
    /// members' zones.
    Register,
    /// Registers a zone, also a removed one. Only operators do this.
    Add,
    /// Removes a registered zone until it is added again.
    Remove,
    /// Forgets the name of a removed zone. A leader does this by itself if no member is in that
    /// zone, because no leader would register it again.
    Forget,
}

impl ZoneAct {
    const ALL: [Self; 4] = [Self::Register, Self::Add, Self::Remove, Self::Forget];
}

/// A change of the registry, as the log stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneChange {
    /// Action.
    pub act: ZoneAct,
    /// Zone that is changed.
    pub zone: ZoneName,
}

impl ZoneChange {
    /// Whether an entry is a change of the registry instead of a batch.
    #[must_use]
    pub fn is(entry: &[u8]) -> bool {
        entry.first() == Some(&FORMAT)
    }

    /// Encodes the entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let zone = self.zone.as_str().as_bytes();
        let mut out = BytesMut::with_capacity(5 + zone.len());
        out.put_u8(FORMAT);
        out.put_u16(GROUP);
        out.put_u8(match self.act {
            ZoneAct::Register => 0,
            ZoneAct::Add => 1,
            ZoneAct::Remove => 2,
            ZoneAct::Forget => 3,
        });
        put_short(&mut out, zone);
        out.freeze()
    }

    /// Decodes an entry for which [`ZoneChange::is`] is true.
    ///
    /// # Errors
    /// If the bytes are not exactly one change that this build reads.
    pub fn decode(mut bytes: Bytes) -> Result<Self, EntryError> {
        let mut header = take(&mut bytes, 4)?;
        let format = header.get_u8();
        if format != FORMAT {
            return Err(EntryError::Unknown { what: "entry format", got: u16::from(format) });
        }
        let group = header.get_u16();
        if group != GROUP {
            return Err(EntryError::Unknown { what: "group", got: group });
        }
        let act = header.get_u8();
        let known = ZoneAct::ALL.get(usize::from(act)).copied();
        let act = known.ok_or(EntryError::Unknown { what: "zone act", got: u16::from(act) })?;
        let zone = take_short(&mut bytes)?;
        let zone = std::str::from_utf8(&zone).ok().and_then(|name| name.parse().ok());
        let zone = zone.ok_or(EntryError::Malformed("its zone name is not allowed"))?;
        if !bytes.is_empty() {
            return Err(EntryError::Malformed("bytes follow its zone name"));
        }
        Ok(Self { act, zone })
    }
}

/// State of a zone in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Registration {
    /// Registered.
    Registered,
    /// Removed by an operator; a leader does not register it by itself.
    Removed,
}

/// All zones by name, at most [`ZONES_MAX`], removed ones included. A new zone in a full registry
/// replaces the zone that was removed longest ago; without removed zones the new one is rejected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zones {
    /// State, and the Raft index of the last change.
    zones: BTreeMap<ZoneName, (Registration, u64)>,
}

impl Zones {
    /// Returns the state of `zone`; `None` if it is unknown.
    #[must_use]
    pub fn get(&self, zone: &ZoneName) -> Option<Registration> {
        self.zones.get(zone).map(|(registration, _)| *registration)
    }

    /// Whether no zone is registered or removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }

    /// Returns the names of the zones in a state, ascending.
    pub fn that_are(&self, wanted: Registration) -> impl Iterator<Item = &ZoneName> {
        self.zones.iter().filter(move |(_, (is, _))| *is == wanted).map(|(name, _)| name)
    }

    /// Whether changes can have led to this registry.
    pub(super) fn is_possible(&self) -> bool {
        self.zones.len() <= ZONES_MAX
    }

    /// Whether an unknown zone would be rejected.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.zones.len() >= ZONES_MAX && self.that_are(Registration::Removed).next().is_none()
    }

    /// Applies the change at Raft index `index`; returns whether it changed the registry.
    pub(super) fn apply(&mut self, index: u64, change: ZoneChange) -> bool {
        let ZoneChange { act, zone } = change;
        if act == ZoneAct::Forget && self.get(&zone) == Some(Registration::Removed) {
            return self.zones.remove(&zone).is_some();
        }
        let becomes = match (act, self.get(&zone)) {
            (ZoneAct::Register | ZoneAct::Add, None) if self.is_full() => return false,
            (ZoneAct::Register | ZoneAct::Add, None)
            | (ZoneAct::Add, Some(Registration::Removed)) => Registration::Registered,
            (ZoneAct::Remove, Some(Registration::Registered)) => Registration::Removed,
            _ => return false,
        };
        if self.zones.len() >= ZONES_MAX && !self.zones.contains_key(&zone) {
            self.forget_one();
        }
        self.zones.insert(zone, (becomes, index));
        true
    }

    /// Drops the zone that was removed longest ago.
    fn forget_one(&mut self) {
        let removed = self.zones.iter().filter(|(_, (is, _))| *is == Registration::Removed);
        let oldest = removed.min_by_key(|(_, (_, index))| *index).map(|(name, _)| name.clone());
        if let Some(oldest) = oldest {
            self.zones.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use pghc_api::id::ZoneName;
    use pghc_api::limits::ZONES_MAX;
    use proptest::prelude::*;

    use super::{EntryError, Registration, ZoneAct, ZoneChange, Zones};

    fn change(act: ZoneAct, zone: &str) -> ZoneChange {
        ZoneChange { act, zone: zone.parse().expect("a plain name") }
    }

    fn names(zones: &Zones, wanted: Registration) -> Vec<&str> {
        zones.that_are(wanted).map(ZoneName::as_str).collect()
    }

    #[test]
    fn change_bytes_are_pinned() {
        for (byte, act) in (0..).zip(ZoneAct::ALL) {
            let bytes = change(act, "eu").encode();
            assert_eq!(&bytes[..], [2, 0, 0, byte, 2, b'e', b'u']);
            assert!(ZoneChange::is(&bytes));
            assert_eq!(ZoneChange::decode(bytes).expect("a change"), change(act, "eu"));
        }
    }

    #[test]
    fn newer_format_is_refused_by_name() {
        for (at, what) in [(0, "entry format"), (2, "group"), (3, "zone act")] {
            let mut bytes = change(ZoneAct::Add, "eu").encode().to_vec();
            bytes[at] = 7;
            let error = ZoneChange::decode(bytes.into()).expect_err("not known");
            assert_eq!(error, EntryError::Unknown { what, got: 7 });
        }
    }

    #[test]
    fn removed_zone_returns_only_by_add() {
        let mut zones = Zones::default();
        assert!(zones.apply(1, change(ZoneAct::Register, "eu")));
        assert!(zones.apply(2, change(ZoneAct::Remove, "eu")));
        assert!(!zones.apply(3, change(ZoneAct::Register, "eu")));
        assert_eq!(names(&zones, Registration::Removed), ["eu"]);
        assert!(zones.apply(4, change(ZoneAct::Add, "eu")));
        assert_eq!(names(&zones, Registration::Registered), ["eu"]);
        assert!(!zones.apply(5, change(ZoneAct::Remove, "us")), "the zone is unknown");
    }

    #[test]
    fn only_removed_zone_is_forgotten() {
        let mut zones = Zones::default();
        assert!(zones.apply(1, change(ZoneAct::Register, "eu")));
        assert!(!zones.apply(2, change(ZoneAct::Forget, "eu")));
        assert!(zones.apply(3, change(ZoneAct::Remove, "eu")));
        assert!(zones.apply(4, change(ZoneAct::Forget, "eu")));
        assert_eq!(zones.get(&"eu".parse().expect("a plain name")), None);
        assert!(!zones.apply(5, change(ZoneAct::Forget, "eu")));
    }

    #[test]
    fn full_registry_replaces_the_oldest_removed_zone() {
        let mut zones = Zones::default();
        for number in 0..ZONES_MAX as u64 {
            assert!(zones.apply(number, change(ZoneAct::Register, &format!("z{number}"))));
        }
        assert!(zones.is_full() && !zones.apply(300, change(ZoneAct::Add, "new")));
        assert!(zones.apply(301, change(ZoneAct::Remove, "z9")));
        assert!(zones.apply(302, change(ZoneAct::Remove, "z3")));
        assert!(zones.apply(303, change(ZoneAct::Add, "new")));
        assert_eq!(names(&zones, Registration::Removed), ["z3"]);
        assert_eq!(zones.zones.len(), ZONES_MAX);
    }

    proptest! {
        #[test]
        fn registry_matches_the_model(
            acts in proptest::collection::vec((0_usize..4, 0_u8..5), 0..60))
        {
            let (mut zones, mut registered, mut removed) =
                (Zones::default(), BTreeSet::new(), BTreeSet::new());
            for (index, (act, zone)) in (1..).zip(acts) {
                let (act, zone) = (ZoneAct::ALL[act], format!("z{zone}"));
                let before = zones.clone();
                let changed = zones.apply(index, change(act, &zone));
                prop_assert_eq!(changed, zones != before);
                match act {
                    ZoneAct::Register if removed.contains(&zone) => {}
                    ZoneAct::Register | ZoneAct::Add => {
                        removed.remove(&zone);
                        registered.insert(zone);
                    }
                    ZoneAct::Remove if registered.remove(&zone) => {
                        removed.insert(zone);
                    }
                    ZoneAct::Remove => {}
                    ZoneAct::Forget => drop(removed.remove(&zone)),
                }
                let sorted = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
                prop_assert_eq!(names(&zones, Registration::Registered), sorted(&registered));
                prop_assert_eq!(names(&zones, Registration::Removed), sorted(&removed));
            }
        }

        #[test]
        fn foreign_bytes_are_refused_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..80))
        {
            let mut bytes = bytes;
            bytes.insert(0, 2);
            let _ = ZoneChange::decode(Bytes::from(bytes));
        }
    }
}
