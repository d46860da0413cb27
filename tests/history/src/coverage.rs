//! Whether enough was seen: a run that did too little has proved nothing.

use std::collections::BTreeMap;

use crate::history::{Chain, History};
use crate::report::Report;

/// Least coverage of a run. The default demands nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Acknowledged writes in every zone that is given to the check.
    pub acknowledged_per_zone: u64,
    /// Attempts to write whose outcome the client did not learn.
    pub unknown: u64,
    /// Answered reads.
    pub reads: u64,
    /// Snapshots of databases.
    pub snapshots: u64,
    /// For each class of fault that was scheduled, how often it must really have happened.
    pub faults: BTreeMap<String, u64>,
}

pub(crate) fn demand(history: &History, zones: &[Chain], wanted: &Coverage, report: &mut Report) {
    let counts = &report.counts;
    let unknown = counts.unknown_written + counts.unknown_absent + counts.unknown_anonymous;
    let mut demands = vec![
        ("writes of unknown outcome".to_owned(), unknown, wanted.unknown),
        ("answered reads".to_owned(), counts.reads, wanted.reads),
        ("snapshots".to_owned(), counts.snapshots, wanted.snapshots),
        ("zones".to_owned(), zones.len() as u64, 1),
    ];
    for zone in zones {
        let acknowledged = counts.acknowledged_by_zone.get(&zone.zone).copied().unwrap_or(0);
        let what = format!("acknowledged writes in zone {}", zone.zone);
        demands.push((what, acknowledged, wanted.acknowledged_per_zone));
    }
    for (class, least) in &wanted.faults {
        let happened = history.faults.get(class).copied().unwrap_or(0);
        demands.push((format!("faults of class {class}"), happened, *least));
    }
    for (what, got, least) in demands {
        if got < least {
            report.gaps.push(format!("too little was seen: {got} {what}, {least} wanted"));
        }
    }
}
