//! Whether the lead is placed automatically: one switch of all coordinators, told with the pings.
//!
//! Who switches counts one up, and the higher number wins; of two with the same number, set at two
//! coordinators in the same moment, "off" does. So all agree as soon as they have heard of each other,
//! in whatever order, and the one that loses a tie is the one that would have moved the lead.

use std::io;

use serde::{Deserialize, Serialize};

use crate::coordinator::log::disk::Disk;
use crate::coordinator::small_file;

const FILE: &str = "placement.json";

/// No switch was set so often: a higher number is nonsense, and would be the last one.
const SWITCHED_MAX: u64 = 1 << 40;

/// Its place and how often it was set; 0: never, then it is the coordinator's own setting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AutoPlacement {
    pub(crate) auto: bool,
    pub(crate) switched: u64,
}

impl AutoPlacement {
    /// As it was kept on `disk`; `auto` when it never was set. A file that cannot be read is set
    /// aside.
    pub(crate) fn load(disk: &dyn Disk, auto: bool) -> Self {
        let without = "the lead is placed as the setting says until another coordinator tells how it \
                       was switched, or pghc leader auto switches it again";
        small_file::read_or_set_aside(disk, FILE, without).unwrap_or(Self { auto, switched: 0 })
    }

    /// Durable when it returns.
    pub(crate) fn write(self, disk: &dyn Disk) -> io::Result<()> {
        small_file::write(disk, FILE, &serde_json::to_vec(&self)?)
    }

    /// Sets it here; whether that changes anything.
    pub(crate) fn set(&mut self, auto: bool) -> bool {
        let changes = self.auto != auto || self.switched == 0;
        if changes {
            *self = Self { auto, switched: self.switched + 1 };
        }
        changes
    }

    /// Takes in what another coordinator has.
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
    fn two_that_are_set_in_the_same_moment_agree_whoever_hears_first() {
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
    fn what_was_never_set_and_nonsense_change_nothing() {
        let mut auto_placement = AutoPlacement { auto: true, switched: 0 };
        auto_placement.merge(AutoPlacement { auto: false, switched: 0 });
        auto_placement.merge(AutoPlacement { auto: false, switched: SWITCHED_MAX });
        auto_placement.merge(AutoPlacement { auto: false, switched: u64::MAX });
        assert_eq!(auto_placement, AutoPlacement { auto: true, switched: 0 });
    }

    #[test]
    fn a_file_that_cannot_be_read_is_set_aside_and_the_setting_counts() {
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
