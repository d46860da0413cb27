//! The clients' book: the history, the times of acknowledgements, and what is odd.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pghc_history::{History, Operation, ReadOutcome, Reset, What, WriteOutcome};
use serde::Serialize;
use tokio::time::Instant;

/// Most findings that are kept; more would say nothing new.
const FINDINGS_MAX: usize = 100;

/// The book. Its times are nanoseconds since it was opened.
#[derive(Debug)]
pub struct Book {
    opened: Instant,
    history: Mutex<History>,
    acks: Mutex<Vec<Ack>>,
    findings: Mutex<Vec<String>>,
    shed: AtomicU64,
    given_up: AtomicU64,
    /// Sessions that were shown links which somebody had rewritten.
    deceived: Mutex<BTreeSet<u32>>,
}

/// When a write was acknowledged, and how long it took with all its attempts' last one.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    /// When, in nanoseconds.
    pub at: u64,
    /// How long the last attempt took, in nanoseconds.
    pub took: u64,
    /// Zone that answered.
    pub zone: u16,
}

/// Numbers of a book.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Attempts that ended without a clear answer; each was sent again.
    pub unknown: u64,
    /// Attempts answered with the id but before this zone had applied it.
    pub committed: u64,
    /// Attempts refused (429 at overload).
    pub refused: u64,
    /// Reads that showed something.
    pub reads: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// Requests that were not made because too many were under way.
    pub shed: u64,
    /// Writes whose client lost patience.
    pub given_up: u64,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            history: Mutex::default(),
            acks: Mutex::default(),
            findings: Mutex::default(),
            shed: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            deceived: Mutex::default(),
        }
    }
}

impl Book {
    /// Nanoseconds since the book was opened.
    pub fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).expect("a run takes less than 584 years")
    }

    pub(super) fn add(&self, operation: Operation) {
        if let What::Write { outcome: WriteOutcome::Acknowledged { .. }, .. } = operation.what {
            let (at, took) = (operation.ended, operation.ended - operation.started);
            self.acks.lock().push(Ack { at, took, zone: operation.zone });
        }
        let mut deceived = self.deceived.lock();
        if !deceived.is_empty() {
            match operation.what {
                What::Read { outcome: ReadOutcome::Fork, .. }
                    if deceived.contains(&operation.session) =>
                {
                    return;
                }
                // From here on it has another token.
                What::Read { outcome: ReadOutcome::Seen { .. }, .. }
                | What::Write { outcome: WriteOutcome::Acknowledged { .. }, .. } => {
                    deceived.remove(&operation.session);
                }
                _ => {}
            }
        }
        drop(deceived);
        self.history.lock().operations.push(operation);
    }

    /// A zone's links were rewritten on purpose. Until it has noticed, it shows what it was made to, and
    /// only then it promises to refuse: what was read there is not judged, nor that a token from there
    /// is taken for one of another chain, which it is.
    pub fn forgive(&self, reset: Reset) {
        let was_shown = |it: &Operation| {
            let is_read = matches!(it.what, What::Read { .. });
            is_read && it.zone == reset.zone && it.ended >= reset.started
        };
        let mut deceived = self.deceived.lock();
        let mut history = self.history.lock();
        let shown = history.operations.iter().filter(|it| was_shown(it));
        deceived.extend(shown.map(|it| it.session));
        history.operations.retain(|it| {
            let is_fork = matches!(it.what, What::Read { outcome: ReadOutcome::Fork, .. });
            !was_shown(it) && !(is_fork && deceived.contains(&it.session))
        });
        history.resets.push(reset);
    }

    /// Attempts so far, and requests that were shed.
    pub fn requests(&self) -> u64 {
        self.history.lock().operations.len() as u64 + self.shed.load(Ordering::Relaxed)
    }

    pub(super) fn shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn given_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Something that no promise allows.
    pub fn finding(&self, text: String) {
        let mut findings = self.findings.lock();
        if findings.len() < FINDINGS_MAX && !findings.contains(&text) {
            eprintln!("FINDING: {text}");
            findings.push(text);
        }
    }

    /// What was found so far.
    pub fn findings(&self) -> Vec<String> {
        self.findings.lock().clone()
    }

    /// Works on the history; clients wait meanwhile.
    pub fn with_history<T>(&self, work: impl FnOnce(&mut History) -> T) -> T {
        work(&mut self.history.lock())
    }

    /// Acknowledgements between two times.
    pub fn acks_between(&self, from: u64, to: u64) -> Vec<Ack> {
        let acks = self.acks.lock();
        // Nearly sorted: each is added just after its time was taken.
        let start = acks.partition_point(|ack| ack.at + 1_000_000_000 < from);
        let in_time = |ack: &&Ack| (from..=to).contains(&ack.at);
        let near = acks[start..].iter().take_while(|ack| ack.at <= to + 1_000_000_000);
        near.filter(in_time).copied().collect()
    }

    /// Longest time without any acknowledgement between two times, in nanoseconds.
    pub fn stall(&self, from: u64, to: u64) -> u64 {
        let mut times: Vec<u64> = self.acks_between(from, to).iter().map(|ack| ack.at).collect();
        times.sort_unstable();
        let ends = [from].into_iter().chain(times.iter().copied());
        let gaps = ends.zip(times.iter().copied().chain([to]));
        gaps.map(|(before, after)| after.saturating_sub(before)).max().unwrap_or(0)
    }

    /// The numbers.
    pub fn tally(&self) -> Tally {
        let history = self.history.lock();
        let mut tally = Tally {
            shed: self.shed.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
            ..Tally::default()
        };
        for operation in &history.operations {
            let count = match operation.what {
                What::Write { outcome, .. } => match outcome {
                    WriteOutcome::Acknowledged { .. } => &mut tally.acknowledged,
                    WriteOutcome::Committed { .. } => &mut tally.committed,
                    WriteOutcome::Refused => &mut tally.refused,
                    WriteOutcome::Unknown => &mut tally.unknown,
                },
                What::Read { outcome: ReadOutcome::Seen { .. }, .. } => &mut tally.reads,
                What::Read { .. } => &mut tally.reads_failed,
            };
            *count += 1;
        }
        tally
    }
}
