//! Real-time order: links known before a request was sent are ordered before it.
//!
//! A client that is answered id `m`, or reads it, knows that every id up to `m` is taken. So one
//! number for each id decides the order: the time at which it, or a larger id, was first known. A
//! write first sent after that time must have a larger id; a linearizable read sent after that time
//! must see the id. These minima of a suffix are found in one pass without sorting. Only *before*
//! counts: equal times are concurrent.

use std::collections::BTreeMap;

use crate::check::Subject;
use crate::history::{OrderResult, Reset, What};
use crate::report::{Kind, Report};
use crate::writes::{NEVER, Written};

/// For each id, when it or a larger one was first known.
pub(crate) struct Known(Vec<u64>);

impl Known {
    /// From pairs of an id that was shown and the end of the answer that showed it.
    fn new(newest: u64, shown: impl Iterator<Item = (u64, u64)>) -> Self {
        let length = usize::try_from(newest).expect("a chain in memory");
        let mut times = vec![NEVER; length];
        for (id, ended) in shown {
            let place = usize::try_from(id).ok().and_then(|id| times.get_mut(id.checked_sub(1)?));
            if let Some(time) = place {
                *time = ended.min(*time);
            }
        }
        let mut earliest = NEVER;
        for time in times.iter_mut().rev() {
            earliest = earliest.min(*time);
            *time = earliest;
        }
        Self(times)
    }

    /// When `id` or a larger one was first known; [`NEVER`] if it was not.
    fn at(&self, id: u64) -> u64 {
        let place = usize::try_from(id).ok().and_then(|id| self.0.get(id.checked_sub(1)?));
        place.copied().unwrap_or(NEVER)
    }

    /// The largest id that was known before `time`, or 0.
    fn before(&self, time: u64) -> u64 {
        self.0.partition_point(|known| *known < time) as u64
    }
}

/// Times at which ids were first known. Answers that contradict the chain are reported elsewhere
/// and left out.
pub(crate) fn known(subject: &Subject<'_>, written: &Written) -> Known {
    let operations = subject.history.operations.iter().zip(&written.links_of);
    let answers = operations.filter_map(|(operation, id)| {
        let shown = match operation.what {
            What::Write { outcome: OrderResult::Unknown | OrderResult::Refused, .. } => None,
            What::Write { .. } => Some(*id),
            What::Read { .. } => operation.proves(),
        };
        Some((shown?, operation.ended))
    });
    let shots = subject.history.snapshots.iter();
    let windows = Windows::new(&subject.history.resets);
    let shots = shots.filter(|shot| {
        shot.count == shot.max_id && windows.of(shot.zone, shot.started, shot.ended).is_some()
    });
    Known::new(subject.newest(), answers.chain(shots.map(|shot| (shot.max_id, shot.ended))))
}

/// The operation that showed `id` or a larger one before anybody else; for the report only.
fn witness(subject: &Subject<'_>, id: u64) -> Option<usize> {
    let operations = subject.history.operations.iter().enumerate();
    let shows = operations.filter(|(_, op)| op.proves().is_some_and(|shown| shown >= id));
    shows.min_by_key(|(_, op)| op.ended).map(|(at, _)| at)
}

/// Checks I7: a write first sent while an id is known gets a larger id.
pub(crate) fn writes(subject: &Subject<'_>, written: &Written, known: &Known, report: &mut Report) {
    for (id, sent) in (1..).zip(&written.first_sent) {
        let before = known.at(id);
        if *sent == NEVER || *sent <= before {
            continue;
        }
        let mut operations: Vec<usize> = Vec::new();
        if report.keeps(Kind::Reordered) {
            operations.extend(witness(subject, id));
            operations.extend(written.links_of.iter().position(|other| *other == id));
        }
        let sentence = format!(
            "link {id} was first sent at {sent}, when id {} was known since {before}",
            known.before(*sent)
        );
        report.add(Kind::Reordered, id, &operations, sentence);
    }
}

/// Checks I7: a linearizable read shows all links known when it was sent.
pub(crate) fn linearizable_reads(subject: &Subject<'_>, known: &Known, report: &mut Report) {
    for (at, operation) in subject.history.operations.iter().enumerate() {
        let What::Read { linearizable: true, .. } = operation.what else { continue };
        let Some(frontier) = operation.proves() else { continue };
        if known.at(frontier + 1) >= operation.started {
            continue;
        }
        let newest = known.before(operation.started);
        let mut operations = vec![at];
        if report.keeps(Kind::StaleRead) {
            operations.extend(witness(subject, newest));
        }
        let sentence = format!("a linearizable read showed {frontier} when {newest} was known");
        report.add(Kind::StaleRead, newest, &operations, sentence);
    }
}

/// I4 and I8: a zone's own database holds what the zone answered as applied, and what an earlier
/// snapshot held, unless the database was replaced in between.
pub(crate) fn zone_snapshots(subject: &Subject<'_>, written: &Written, report: &mut Report) {
    let history = subject.history;
    let windows = Windows::new(&history.resets);
    let mut shown: BTreeMap<(u16, usize), Vec<(u64, u64)>> = BTreeMap::new();
    let shots = || history.snapshots.iter().enumerate().filter(|(_, shot)| !shot.replica);
    for (_, shot) in shots() {
        if let Some(window) = windows.of(shot.zone, shot.started, shot.ended) {
            shown.entry((shot.zone, window)).or_default().push((shot.max_id, shot.ended));
        }
    }
    for (operation, id) in history.operations.iter().zip(&written.links_of) {
        let What::Write { outcome: OrderResult::Acknowledged { applied: true, .. }, .. } =
            operation.what
        else {
            continue;
        };
        if let Some(window) = windows.of(operation.zone, operation.started, operation.ended)
            && let Some(shown) = shown.get_mut(&(operation.zone, window))
        {
            shown.push((*id, operation.ended));
        }
    }
    let known = |(place, shown): ((u16, usize), Vec<(u64, u64)>)| {
        (place, Known::new(subject.newest(), shown.into_iter()))
    };
    let mut place: Option<((u16, usize), Known)> = None;
    let mut ordered: Vec<_> = shots()
        .filter_map(|(at, shot)| {
            let window = windows.of(shot.zone, shot.started, shot.ended)?;
            Some(((shot.zone, window), at, shot))
        })
        .collect();
    ordered.sort_by_key(|(place, at, _)| (*place, *at));
    for (here, at, shot) in ordered {
        if place.as_ref().is_none_or(|(place, _)| *place != here) {
            place = shown.remove_entry(&here).map(known);
        }
        let Some((_, known)) = &place else { continue };
        if known.at(shot.max_id + 1) < shot.started {
            let newest = known.before(shot.started);
            let sentence = format!(
                "snapshot {at} of zone {} at {} went up to {}, when its zone had {newest} applied",
                shot.zone, shot.started, shot.max_id
            );
            report.add(Kind::StaleSnapshot, newest, &[], sentence);
        }
    }
}

/// The times during which a zone's database was one and the same.
pub(crate) struct Windows(BTreeMap<u16, Vec<(u64, u64)>>);

impl Windows {
    pub(crate) fn new(resets: &[Reset]) -> Self {
        let mut by_zone: BTreeMap<u16, Vec<(u64, u64)>> = BTreeMap::new();
        for reset in resets {
            by_zone.entry(reset.zone).or_default().push((reset.started, reset.ended));
        }
        for resets in by_zone.values_mut() {
            resets.sort_unstable();
            resets.dedup_by(|later, earlier| {
                let touches = later.0 <= earlier.1;
                if touches {
                    earlier.1 = earlier.1.max(later.1);
                }
                touches
            });
        }
        Self(by_zone)
    }

    /// Number of the window that an act lies in as a whole; `None` if a reset may overlap it.
    pub(crate) fn of(&self, zone: u16, started: u64, ended: u64) -> Option<usize> {
        let Some(resets) = self.0.get(&zone) else { return Some(0) };
        let passed = resets.partition_point(|(_, over)| *over < started);
        let clear = resets.get(passed).is_none_or(|(begins, _)| ended < *begins);
        clear.then_some(passed)
    }
}
