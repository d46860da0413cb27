//! Replicated setting of automatic placement, carried by the pings: a last-writer-wins register.
//!
//! Each change increments a counter and the larger counter wins. Between equal counters "off" wins,
//! so that a tie moves no leader. All coordinators converge in any order of merges.

use std::io;

use serde::{Deserialize, Serialize};

use crate::coordinator::log::disk::Disk;
use crate::coordinator::small_file;

const FILE: &str = "placement.json";

/// Largest accepted counter: a larger one would block every later change.
const SWITCHED_MAX: u64 = 1 << 40;

/// Value and counter; counter 0 means that the coordinator's own setting counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AutoPlacement {
    pub(crate) auto: bool,
    pub(crate) switched: u64,
}

impl AutoPlacement {
    /// Loads the value from `disk`, else uses `auto`. An unreadable file is set aside.
    pub(crate) fn load(disk: &dyn Disk, auto: bool) -> Self {
        let without = "the setting decides on automatic placement until another coordinator reports its \
                       was switched, or pghc leader auto switches it again";
        small_file::read_or_set_aside(disk, FILE, without).unwrap_or(Self { auto, switched: 0 })
    }

    /// Writes the value; durable on return.
    pub(crate) fn write(self, disk: &dyn Disk) -> io::Result<()> {
        small_file::write(disk, FILE, &serde_json::to_vec(&self)?)
    }

    /// Sets the value; returns whether it changed.
    pub(crate) fn set(&mut self, auto: bool) -> bool {
        let changes = self.auto != auto || self.switched == 0;
        if changes {
            *self = Self { auto, switched: self.switched + 1 };
        }
        changes
    }

    /// Merges another coordinator's value.
    pub(crate) fn merge(&mut self, other: Self) {
        let order = |it: &Self| (it.switched, !it.auto);
        if other.switched > 0 && other.switched < SWITCHED_MAX && order(&other) > order(self) {
            *self = other;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{AutoPlacement, FILE, SWITCHED_MAX};
    use crate::coordinator::log::disk::Directory;

    #[test]
    fn concurrent_changes_converge_in_any_merge_order() {
        let (mut on, mut off, mut third) = (
            AutoPlacement::default(),
            AutoPlacement { auto: true, switched: 0 },
            AutoPlacement::default(),
        );
        assert!(on.set(true) && off.set(false));
        let (told_on, told_off) = (on, off);
        on.merge(told_off);
        off.merge(told_on);
        third.merge(told_off);
        third.merge(told_on);
        let agreed = AutoPlacement { auto: false, switched: 1 };
        assert_eq!((on, off, third), (agreed, agreed, agreed), "off wins");
        assert!(on.set(true) && !on.set(true));
        off.merge(on);
        assert_eq!(off, AutoPlacement { auto: true, switched: 2 }, "the later one wins");
    }

    #[test]
    fn merge_ignores_unset_or_excessive_counters() {
        let mut auto_placement = AutoPlacement { auto: true, switched: 0 };
        auto_placement.merge(AutoPlacement { auto: false, switched: 0 });
        auto_placement.merge(AutoPlacement { auto: false, switched: SWITCHED_MAX });
        auto_placement.merge(AutoPlacement { auto: false, switched: u64::MAX });
        assert_eq!(auto_placement, AutoPlacement { auto: true, switched: 0 });
    }

    #[test]
    fn unreadable_file_is_set_aside_for_the_setting() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Directory::open(dir.path()).expect("a directory");
        let kept = AutoPlacement { auto: true, switched: 3 };
        assert_eq!(AutoPlacement::load(&disk, false), AutoPlacement::default(), "none yet");
        kept.write(&disk).expect("written");
        assert_eq!(AutoPlacement::load(&disk, false), kept);
        let path = |name: &str| Path::new(dir.path()).join(name);
        for damaged in ["", "{\"auto\":tr", "{\"auto\":true,\"switched\":-1}"] {
            std::fs::write(path(FILE), damaged).expect("written");
            assert_eq!(AutoPlacement::load(&disk, false), AutoPlacement::default());
            assert!(!path(FILE).exists());
            let aside = std::fs::read(path(&format!("{FILE}.unreadable"))).expect("set aside");
            assert_eq!(aside, damaged.as_bytes());
        }
        kept.write(&disk).expect("written");
        assert_eq!(AutoPlacement::load(&disk, false), kept);
    }
}
