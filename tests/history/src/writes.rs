//! Maps links to the writes that made them: an acknowledged write is in the chain once, as
//! answered; a refused write never; every link has a sender. Writes of unknown outcome are looked
//! up in the chain by payload; none is assumed absent.

use std::collections::BTreeSet;

use crate::check::Subject;
use crate::history::{Fingerprint, Operation, OrderResult, What};
use crate::report::{Kind, Report};

/// Bits of the filter for each write that is looked up.
const FILTER_BITS_PER_ENTRY: usize = 16;

/// Result of the mapping.
pub(crate) struct Written {
    /// For each operation, the id of the link it wrote; 0 if none is known.
    pub(crate) links_of: Vec<u64>,
    /// For link `id` at `id - 1`: when it was first sent, in an attempt that was not refused.
    pub(crate) first_sent: Vec<u64>,
}

/// `first_sent` of a link that no operation wrote.
pub(crate) const NEVER: u64 = u64::MAX;

/// I2, I5, I13 and I14.
pub(crate) fn resolve(subject: &Subject<'_>, report: &mut Report) -> Written {
    let links = subject.chain.len();
    let mut found = Written {
        links_of: vec![0; subject.history.operations.len()],
        first_sent: vec![NEVER; links],
    };
    let mut keys = vec![None; links];
    answered(subject, &mut found, &mut keys, report);
    let refused = loose(subject, &mut found, &mut keys, report);
    let twice = written_twice(subject, report);
    key_twice(&keys, &twice, report);
    unexplained(subject, &found, &refused, &twice, report);
    count(subject, &found, report);
    found
}

type Keys = [Option<u64>];

/// Notes that operation `at` wrote link `id`.
fn claim(
    (at, operation): (usize, &Operation),
    id: u64,
    found: &mut Written,
    keys: &mut Keys,
    report: &mut Report,
) {
    let What::Write { key, .. } = operation.what else { return };
    let position = position(id);
    found.links_of[at] = id;
    let first = found.first_sent[position] == NEVER;
    found.first_sent[position] = found.first_sent[position].min(operation.started);
    if first {
        keys[position] = key;
    } else if keys[position] != key {
        let known = keys[position];
        let sentence = format!("id {id} was answered to key {key:?} and to key {known:?}");
        report.add(Kind::KeysMixed, id, &[at], sentence);
    }
}

/// Position of a link that is known to be in the chain.
fn position(id: u64) -> usize {
    usize::try_from(id - 1).expect("the link is in memory, at this position")
}

/// I2: every answered id is in the chain, with the digest and the payload of the answer.
fn answered(subject: &Subject<'_>, found: &mut Written, keys: &mut Keys, report: &mut Report) {
    for (at, operation) in subject.history.operations.iter().enumerate() {
        let Some(id) = operation.answered_id() else { continue };
        let What::Write { payload, outcome, .. } = operation.what else { continue };
        let Some(link) = subject.link(id) else {
            let newest = subject.newest();
            let sentence = format!("id {id} was answered, but the chain ends at {newest}");
            report.add(Kind::LostWrite, id, &[at], sentence);
            continue;
        };
        if let OrderResult::Acknowledged { digest, .. } = outcome
            && digest != link.digest
        {
            let there = link.digest;
            let sentence =
                format!("id {id} was answered with digest {digest}, the chain has {there}");
            report.add(Kind::ReplacedWrite, id, &[at], sentence);
        } else if payload != link.fingerprint() {
            let there = link.fingerprint();
            let sentence = format!("id {id} was answered to {payload:?}, the chain has {there:?}");
            report.add(Kind::ReplacedWrite, id, &[at], sentence);
        } else {
            claim((at, operation), id, found, keys, report);
        }
    }
}

/// Looks writes without an id up in the chain; returns the links that refused ones would have written.
fn loose(
    subject: &Subject<'_>,
    found: &mut Written,
    keys: &mut Keys,
    report: &mut Report,
) -> Vec<(u64, usize)> {
    let mut wanted: Vec<(Fingerprint, usize)> = Vec::new();
    for (at, operation) in subject.history.operations.iter().enumerate() {
        let outcome = match operation.what {
            What::Write { payload: Some(payload), outcome, .. } => (payload, outcome),
            _ => continue,
        };
        if let (payload, OrderResult::Refused | OrderResult::Unknown) = outcome {
            wanted.push((payload, at));
        }
    }
    wanted.sort_unstable();
    let filter = Filter::new(wanted.iter().map(|(payload, _)| *payload));
    let mut refused = Vec::new();
    for link in subject.chain {
        let Some(payload) = link.fingerprint().filter(|payload| filter.may_hold(*payload)) else {
            continue;
        };
        let from = wanted.partition_point(|(other, _)| *other < payload);
        for (_, at) in wanted[from..].iter().take_while(|(other, _)| *other == payload) {
            let operation = &subject.history.operations[*at];
            match operation.what {
                What::Write { outcome: OrderResult::Refused, .. } => refused.push((link.id, *at)),
                _ => claim((*at, operation), link.id, found, keys, report),
            }
        }
    }
    refused
}

/// Checks I5: no payload has two ids. Returns the later ids of repeated payloads.
fn written_twice(subject: &Subject<'_>, report: &mut Report) -> BTreeSet<u64> {
    let payloads = subject.chain.iter().filter_map(|link| link.fingerprint());
    let doubled = duplicates(payloads.map(Fingerprint::short).collect());
    if doubled.is_empty() {
        return BTreeSet::new();
    }
    let suspects = subject.chain.iter().filter_map(|link| {
        let payload = link.fingerprint()?;
        doubled.binary_search(&payload.short()).is_ok().then_some((payload, link.id))
    });
    let mut suspects: Vec<(Fingerprint, u64)> = suspects.collect();
    suspects.sort_unstable();
    let mut later = BTreeSet::new();
    for pair in suspects.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let [(payload, first), (_, second)] = [pair[0], pair[1]];
        let sentence = format!("payload {payload} stands under {first} and under {second}");
        report.add(Kind::WrittenTwice, first, &[], sentence);
        later.insert(second);
    }
    later
}

/// I5: no key has two ids.
fn key_twice(keys: &Keys, twice: &BTreeSet<u64>, report: &mut Report) {
    let doubled = duplicates(keys.iter().filter_map(|key| *key).collect());
    if doubled.is_empty() {
        return;
    }
    let suspects = keys.iter().zip(1..).filter_map(|(key, id)| {
        let key = (*key)?;
        (doubled.binary_search(&key).is_ok() && !twice.contains(&id)).then_some((key, id))
    });
    let mut suspects: Vec<(u64, u64)> = suspects.collect();
    suspects.sort_unstable();
    for pair in suspects.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let [(key, first), (_, second)] = [pair[0], pair[1]];
        let sentence = format!("key {key} has id {first} and id {second}");
        report.add(Kind::KeyTwice, first, &[], sentence);
    }
}

/// The numbers that are there more than once, sorted.
fn duplicates(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    let pairs = numbers.windows(2).filter(|pair| pair[0] == pair[1]);
    let mut doubled: Vec<u64> = pairs.map(|pair| pair[0]).collect();
    doubled.dedup();
    doubled
}

/// I13 and I14: links that only refused writes, or no writes at all, account for.
fn unexplained(
    subject: &Subject<'_>,
    found: &Written,
    refused: &[(u64, usize)],
    twice: &BTreeSet<u64>,
    report: &mut Report,
) {
    for (id, at) in refused {
        if found.first_sent[position(*id)] == NEVER {
            let sentence = format!("a write that was refused stands under {id}");
            report.add(Kind::RefusedWritten, *id, &[*at], sentence);
        }
    }
    let mut anonymous = Vec::new();
    let unsent = |(_, first): &(_, &u64)| **first == NEVER;
    for (link, _) in subject.chain.iter().zip(&found.first_sent).filter(unsent) {
        let by_refused = refused.binary_search_by_key(&link.id, |(id, _)| *id).is_ok();
        if link.payload.is_none() {
            anonymous.push(link.id);
        } else if !by_refused && !twice.contains(&link.id) {
            report.add(Kind::Phantom, link.id, &[], format!("nobody sent link {}", link.id));
        }
    }
    let unknown = subject.history.operations.iter().filter(|operation| {
        let What::Write { payload, outcome, .. } = operation.what else { return false };
        payload.is_none() && outcome == OrderResult::Unknown
    });
    let unknown = unknown.count();
    for id in anonymous.iter().skip(unknown) {
        let sentence = format!(
            "{} links without payload are nobody's, but only {unknown} such writes are unknown; \
             link {id} is one too many",
            anonymous.len()
        );
        report.add(Kind::Phantom, *id, &[], sentence);
    }
}

fn count(subject: &Subject<'_>, found: &Written, report: &mut Report) {
    let counts = &mut report.counts;
    for (operation, id) in subject.history.operations.iter().zip(&found.links_of) {
        let What::Write { payload, outcome, .. } = operation.what else { continue };
        counts.writes += 1;
        match outcome {
            OrderResult::Acknowledged { repeated, .. } => {
                counts.acknowledged += 1;
                counts.repeated += u64::from(repeated);
                *counts.acknowledged_by_zone.entry(operation.zone).or_insert(0) += 1;
            }
            OrderResult::Committed { .. } => counts.committed += 1,
            OrderResult::Refused => counts.refused += 1,
            OrderResult::Unknown if payload.is_none() => counts.unknown_anonymous += 1,
            OrderResult::Unknown if *id > 0 => counts.unknown_written += 1,
            OrderResult::Unknown => counts.unknown_absent += 1,
        }
    }
}

/// Answers fast that most payloads are not among a few.
struct Filter {
    words: Vec<u64>,
    /// Number of bits less one; a power of two less one.
    mask: u64,
}

impl Filter {
    fn new(payloads: impl ExactSizeIterator<Item = Fingerprint>) -> Self {
        let bits = (payloads.len() * FILTER_BITS_PER_ENTRY).next_power_of_two().max(64);
        let mut filter = Self { words: vec![0; bits / 64], mask: bits as u64 - 1 };
        for payload in payloads {
            let (word, bit) = filter.place(payload);
            filter.words[word] |= bit;
        }
        filter
    }

    fn may_hold(&self, payload: Fingerprint) -> bool {
        let (word, bit) = self.place(payload);
        self.words[word] & bit != 0
    }

    fn place(&self, payload: Fingerprint) -> (usize, u64) {
        let bit = payload.short() & self.mask;
        (usize::try_from(bit / 64).unwrap_or_default(), 1 << (bit % 64))
    }
}
