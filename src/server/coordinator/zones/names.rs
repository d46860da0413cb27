//! Assigns each API node name to one process.
//!
//! The first process to report under a name owns it, until it is silent for [`SILENT_AFTER`] or
//! another process listens at its address.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pghc_runtime::rpc::v1::ZoneReport;
use tokio::time::Instant;

use super::state::SILENT_AFTER;

/// Most names kept. At the limit silent ones are dropped; if none is silent, a new name gets no
/// owner.
const NAMES_MAX: usize = 4096;

/// Another process owns the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the node name {node} is in use by another process, of zone {zone}, last report {} ms ago: two nodes of \
     one name cannot be told apart; nothing is lost; give one of them another --node",
    silent.as_millis()
)]
pub(crate) struct NameTaken {
    node: String,
    zone: String,
    silent: Duration,
}

struct Owner {
    session: Bytes,
    place: String,
    zone: String,
    reported: Instant,
}

/// Owners by name.
#[derive(Default)]
pub(crate) struct Names {
    owners: BTreeMap<String, Owner>,
}

impl Names {
    /// Records that the process of `report` owns its name. A report without a process claims
    /// nothing.
    ///
    /// # Errors
    /// If another process owns the name.
    pub(crate) fn claim(&mut self, report: &ZoneReport, now: Instant) -> Result<(), NameTaken> {
        if report.session.is_empty() {
            return Ok(());
        }
        let is_free = |owner: &Owner| {
            owner.session == report.session
                || owner.place == report.place
                || now - owner.reported >= SILENT_AFTER
        };
        match self.owners.get(&report.node) {
            Some(owner) if !is_free(owner) => {
                let (node, zone) = (report.node.clone(), owner.zone.clone());
                return Err(NameTaken { node, zone, silent: now - owner.reported });
            }
            Some(_) => {}
            None if self.owners.len() >= NAMES_MAX => {
                self.owners.retain(|_, owner| now - owner.reported < SILENT_AFTER);
                if self.owners.len() >= NAMES_MAX {
                    return Ok(());
                }
            }
            None => {}
        }
        let owner = Owner {
            session: report.session.clone(),
            place: report.place.clone(),
            zone: report.zone.clone(),
            reported: now,
        };
        self.owners.insert(report.node.clone(), owner);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{NAMES_MAX, Names, SILENT_AFTER, ZoneReport};

    fn report(node: &str, session: u8, place: &str) -> ZoneReport {
        let (zone, node, place) = ("eu".to_owned(), node.to_owned(), place.to_owned());
        ZoneReport { zone, node, session: vec![session; 16].into(), place, ..Default::default() }
    }

    #[test]
    fn name_belongs_to_its_first_process_until_silent() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.claim(&report("eu-1", 1, "a:8080"), now).expect("the name is free");
        names.claim(&report("eu-2", 2, "b:8080"), now).expect("another name");
        let almost = now + SILENT_AFTER / 2;
        let taken = names.claim(&report("eu-1", 3, "b:8080"), almost).expect_err("it is taken");
        let said = taken.to_string();
        assert!(said.contains("eu-1 is in use") && said.contains("2500 ms ago"), "{said}");
        names.claim(&report("eu-1", 1, "a:8080"), almost).expect("its owner");
        names
            .claim(&report("eu-1", 3, "b:8080"), now + SILENT_AFTER)
            .expect_err("the owner has reported");
        let later = almost + SILENT_AFTER;
        names.claim(&report("eu-1", 3, "b:8080"), later).expect("its owner is silent");
        names.claim(&report("eu-1", 1, "a:8080"), later).expect_err("it has another owner now");
    }

    #[test]
    fn restarted_process_takes_its_name_over() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.claim(&report("eu-1", 1, "a:8080"), now).expect("the name is free");
        names.claim(&report("eu-1", 2, "a:8080"), now).expect("it listens at the same place");
    }

    #[test]
    fn names_are_bounded() {
        let (mut names, now) = (Names::default(), Instant::now());
        for number in 0..NAMES_MAX + 9 {
            names.claim(&report(&format!("n{number}"), 1, "a"), now).expect("the name is free");
        }
        assert_eq!(names.owners.len(), NAMES_MAX);
        names.claim(&report("new", 1, "a"), now + SILENT_AFTER).expect("the name is free");
        assert_eq!(names.owners.len(), 1);
    }
}
