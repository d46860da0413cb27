//! Replaced processes of a zone during a run: the id of its coordinator, and the data directory
//! that its PostgreSQL serves.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::ground::{Ground, NAMES, ZONES};

/// Replacements in all zones.
#[derive(Debug)]
pub struct Replacements {
    /// Id of the coordinator of each zone. Its remainder by [`ZONES`] says the zone, see [`zone_of`].
    coordinators: [AtomicU64; ZONES],
    /// How often each zone's PostgreSQL was replaced by a copy of itself.
    servers: [AtomicUsize; ZONES],
}

/// The zone of a coordinator: the founders are 1, 2 and 3, and a replacement has an id that is
/// larger by three.
pub fn zone_of(id: u64) -> Option<usize> {
    let before = usize::try_from(id).ok()?.checked_sub(1)?;
    Some(before % ZONES)
}

impl Default for Replacements {
    fn default() -> Self {
        let founder = |zone| AtomicU64::new(u64::try_from(zone).unwrap_or(0) + 1);
        Self { coordinators: std::array::from_fn(founder), servers: Default::default() }
    }
}

impl Replacements {
    /// Id of a zone's coordinator.
    pub fn coordinator(&self, zone: usize) -> u64 {
        self.coordinators[zone].load(Ordering::SeqCst)
    }

    /// Whether it founded the group; the others joined it.
    pub fn is_founder(&self, zone: usize) -> bool {
        self.coordinator(zone) <= ZONES as u64
    }

    /// From its next start on the zone's coordinator has a new id, which is answered.
    pub fn succeed(&self, zone: usize) -> u64 {
        let step = ZONES as u64;
        self.coordinators[zone].fetch_add(step, Ordering::SeqCst) + step
    }

    /// A coordinator as `ID=ZONE=URL`.
    pub fn member(&self, ground: &Ground, zone: usize) -> String {
        let (id, address) = (self.coordinator(zone), ground.coordinator(zone));
        format!("{id}={}=http://{address}", NAMES[zone])
    }

    /// Number of a zone's server: 0 for the first, one more for each copy that took its place.
    pub fn server(&self, zone: usize) -> usize {
        self.servers[zone].load(Ordering::SeqCst)
    }

    /// From now on the zone's server is the next one.
    pub fn promote(&self, zone: usize) {
        self.servers[zone].fetch_add(1, Ordering::SeqCst);
    }

    /// Data directory of a server on its zone's disk. A number is never used again, so an old
    /// directory restored by a power cut has no effect.
    pub fn data(disk: &Path, server: usize) -> PathBuf {
        disk.join(format!("pg-{server}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Replacements, zone_of};

    #[test]
    fn replacement_member_is_found_by_zone() {
        let replacements = Replacements::default();
        assert_eq!([0, 1, 2].map(|zone| replacements.coordinator(zone)), [1, 2, 3]);
        assert_eq!(
            (replacements.succeed(1), replacements.succeed(1), replacements.succeed(0)),
            (5, 8, 4)
        );
        let ids = [0, 1, 2].map(|zone| replacements.coordinator(zone));
        assert_eq!(ids.map(zone_of), [Some(0), Some(1), Some(2)]);
        assert_eq!(
            (zone_of(0), replacements.is_founder(2), replacements.is_founder(1)),
            (None, true, false)
        );
    }
}
