//! The order of the checks, and what they share: one chain to hold everything against.

use pghc_api::id::ClusterId;

use crate::coverage::{self, Coverage};
use crate::history::{Chain, History, Link};
use crate::report::{Counts, Report};
use crate::{answers, chains, order, sessions, writes};

/// How to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// Id of the cluster that owns the chain; part of every digest.
    pub cluster: ClusterId,
    /// Whether every zone given must have reached the same id, as after healing.
    pub converged: bool,
    /// Least coverage of the run.
    pub coverage: Coverage,
}

impl Options {
    /// Zones have converged; nothing is demanded of the coverage.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self { cluster, converged: true, coverage: Coverage::default() }
    }
}

/// Input of every check.
pub(crate) struct Subject<'a> {
    pub(crate) history: &'a History,
    /// The longest gapless chain of any zone: link `id` is at index `id - 1`.
    pub(crate) chain: &'a [Link],
}

impl Subject<'_> {
    pub(crate) fn link(&self, id: u64) -> Option<&Link> {
        self.chain.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    /// Newest id.
    pub(crate) fn newest(&self) -> u64 {
        self.chain.len() as u64
    }
}

/// Checks a history against the chains that the zones hold at its end.
///
/// Takes seconds for ten million operations, and about 100 bytes for each beside the history.
/// A zone that was lost for good is left out of `zones`; at least one must be given.
///
/// # Panics
/// If the history has 2^32 operations or more.
#[must_use]
pub fn check(history: &History, zones: &[Chain], options: &Options) -> Report {
    assert!(u32::try_from(history.operations.len()).is_ok(), "at most 2^32-1 operations");
    let chain = chains::longest(zones);
    let subject = Subject { history, chain };
    let mut report = std::thread::scope(|scope| {
        let formulae = scope.spawn(|| chains::formulae(chain, &options.cluster));
        let mut report = Report {
            counts: Counts { links: subject.newest(), ..Counts::default() },
            ..Report::default()
        };
        well_formed(history, &mut report);
        chains::dense(zones, &mut report);
        chains::agree(zones, chain, &mut report);
        if options.converged {
            chains::converged(zones, &mut report);
        }
        let written = writes::resolve(&subject, &mut report);
        answers::reads(&subject, &mut report);
        answers::snapshots(&subject, &mut report);
        let known = order::known(&subject, &written);
        order::writes(&subject, &written, &known, &mut report);
        order::linearizable_reads(&subject, &known, &mut report);
        order::zone_snapshots(&subject, &written, &mut report);
        sessions::sessions(&subject, &written, &mut report);
        report.links_of = written.links_of;
        // The thread only computes; a panic in it is a bug here, and is passed on.
        report.merge(formulae.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        report
    });
    coverage::demand(history, zones, &options.coverage, &mut report);
    report.sort();
    report
}

/// A record that contradicts itself proves nothing.
fn well_formed(history: &History, report: &mut Report) {
    let backward = history.operations.iter().position(|op| op.ended < op.started);
    if let Some(at) = backward {
        report.gaps.push(format!("the record is faulty: operation #{at} ends before it starts"));
    }
    if let Some(at) = history.snapshots.iter().position(|shot| shot.ended < shot.started) {
        report.gaps.push(format!("the record is faulty: snapshot {at} ends before it starts"));
    }
    if let Some(at) = history.resets.iter().position(|reset| reset.ended < reset.started) {
        report.gaps.push(format!("the record is faulty: reset {at} ends before it starts"));
    }
}
