//! Reads and snapshots one by one: what they saw is a prefix of the chain, and what they asked for.

use crate::check::Subject;
use crate::history::{ReadOutcome, What};
use crate::order::Windows;
use crate::report::{Kind, Report};

/// Checks I2, I4 and I6 for each read.
pub(crate) fn reads(subject: &Subject<'_>, report: &mut Report) {
    for (at, operation) in subject.history.operations.iter().enumerate() {
        let What::Read { at_least, outcome, .. } = operation.what else { continue };
        let (frontier, digest) = match outcome {
            ReadOutcome::Seen { frontier, digest } => (frontier, digest),
            ReadOutcome::Fork => {
                let id = at_least.unwrap_or_default();
                let sentence = format!("the token of id {id} was taken for one of another chain");
                report.add(Kind::TokenRefused, id, &[at], sentence);
                report.counts.reads_failed += 1;
                continue;
            }
            ReadOutcome::Failed => {
                report.counts.reads_failed += 1;
                continue;
            }
        };
        report.counts.reads += 1;
        if let Some(at_least) = at_least.filter(|at_least| frontier < *at_least) {
            let sentence = format!("a read at least {at_least} showed {frontier}");
            report.add(Kind::TokenIgnored, at_least, &[at], sentence);
        }
        if frontier == 0 {
            continue;
        }
        match subject.link(frontier) {
            None => {
                let newest = subject.newest();
                let sentence = format!("a read showed id {frontier}, the chain ends at {newest}");
                report.add(Kind::LostSight, frontier, &[at], sentence);
            }
            Some(link) => {
                if let Some(digest) = digest.filter(|digest| *digest != link.digest) {
                    let there = link.digest;
                    let sentence = format!("a read showed {digest}, the chain has {there}");
                    report.add(Kind::LostSight, frontier, &[at], sentence);
                }
            }
        }
    }
}

/// I1 and I4: a snapshot holds exactly the links up to its largest id. A database that is just being
/// filled, or was tampered with on purpose and not yet healed, promises nothing.
pub(crate) fn snapshots(subject: &Subject<'_>, report: &mut Report) {
    let windows = Windows::new(&subject.history.resets);
    for (at, shot) in subject.history.snapshots.iter().enumerate() {
        report.counts.snapshots += 1;
        if windows.of(shot.zone, shot.started, shot.ended).is_none() {
            continue;
        }
        let (zone, max) = (shot.zone, shot.max_id);
        let wrong = if shot.count != max {
            format!("it held {} links", shot.count)
        } else if max > subject.newest() {
            format!("the chain ends at {}", subject.newest())
        } else {
            let there = subject.link(max).map(|link| link.digest);
            match shot.digest {
                Some(digest) if Some(digest) != there => {
                    format!("its newest digest was {digest}, the chain has {there:?}")
                }
                _ => continue,
            }
        };
        let sentence = format!("snapshot {at} of zone {zone} went up to {max}, but {wrong}");
        report.add(Kind::TornSnapshot, max, &[], sentence);
    }
}
