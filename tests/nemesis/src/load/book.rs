//! The clients' book: the history, the times of acknowledgements, and what is odd.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pghc_history::{History, Operation, OrderResult, ReadOutcome, Reset, What};
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
    forgiving: Mutex<Forgiving>,
}

/// A zone whose newest links were rewritten, from then until it noticed.
#[derive(Debug)]
struct Lie {
    zone: u16,
    from: u64,
    to: u64,
}

/// Operations that are not judged because a zone's links were rewritten.
#[derive(Debug, Default)]
struct Forgiving {
    lies: Vec<Lie>,
    /// Sessions whose token names a rewritten link.
    deceived: BTreeSet<u32>,
}

impl Forgiving {
    /// Whether an operation is judged. Operations of a session must be passed in their order.
    fn judges(&mut self, it: &Operation) -> bool {
        let covers =
            |lie: &Lie| lie.zone == it.zone && it.ended >= lie.from && it.started <= lie.to;
        let is_lie = self.lies.iter().any(covers);
        match it.what {
            What::Read { outcome: ReadOutcome::Seen { .. }, .. }
            // The answer comes from the chain's row.
            | What::Write { outcome: OrderResult::Acknowledged { repeated: true, .. }, .. }
                if is_lie =>
            {
                self.deceived.insert(it.session);
                false
            }
            // The token is of another chain than the rewritten one, or the reverse.
            What::Read { outcome: ReadOutcome::Fork, .. } => {
                !is_lie && !self.deceived.contains(&it.session)
            }
            What::Read { outcome: ReadOutcome::Seen { .. }, .. }
            | What::Write { outcome: OrderResult::Acknowledged { .. }, .. } => {
                // From here on it has another token.
                self.deceived.remove(&it.session);
                true
            }
            _ => true,
        }
    }
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
            forgiving: Mutex::default(),
        }
    }
}

impl Book {
    /// Nanoseconds since the book was opened.
    pub fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).expect("a run takes less than 584 years")
    }

    pub(super) fn add(&self, operation: Operation) {
        if let What::Write { outcome: OrderResult::Acknowledged { .. }, .. } = operation.what {
            let (at, took) = (operation.ended, operation.ended - operation.started);
            self.acks.lock().push(Ack { at, took, zone: operation.zone });
        }
        let mut forgiving = self.forgiving.lock();
        if forgiving.judges(&operation) {
            self.history.lock().operations.push(operation);
        }
    }

    /// A zone's links were rewritten on purpose, and the zone detected it at `fenced`. Its earlier
    /// answers are not judged: only from then on it promises to refuse.
    pub fn forgive(&self, reset: Reset, fenced: u64) {
        let mut forgiving = self.forgiving.lock();
        forgiving.lies.push(Lie { zone: reset.zone, from: reset.started, to: fenced });
        let mut history = self.history.lock();
        history.operations.retain(|it| it.ended < reset.started || forgiving.judges(it));
        history.resets.push(reset);
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

    /// Findings until now.
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
                    OrderResult::Acknowledged { .. } => &mut tally.acknowledged,
                    OrderResult::Committed { .. } => &mut tally.committed,
                    OrderResult::Refused => &mut tally.refused,
                    OrderResult::Unknown => &mut tally.unknown,
                },
                What::Read { outcome: ReadOutcome::Seen { .. }, .. } => &mut tally.reads,
                What::Read { .. } => &mut tally.reads_failed,
            };
            *count += 1;
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use pghc_history::{Operation, OrderResult, ReadOutcome, Reset, What};

    use super::Book;

    const SEEN: ReadOutcome = ReadOutcome::Seen { frontier: 7, digest: None };

    fn read(
        session: u32,
        zone: u16,
        (started, ended): (u64, u64),
        outcome: ReadOutcome,
    ) -> Operation {
        let what = What::Read { at_least: None, linearizable: false, outcome };
        Operation { client: session, session, zone, started, ended, what }
    }

    fn sessions(book: &Book) -> Vec<(u32, u64)> {
        book.with_history(|history| {
            history.operations.iter().map(|it| (it.session, it.started)).collect()
        })
    }

    /// Zone 1 lied from 10 to 20 and was whole again at 30.
    fn forgiven(operations: Vec<Operation>) -> Book {
        let book = Book::default();
        operations.into_iter().for_each(|it| book.add(it));
        book.forgive(Reset { zone: 1, started: 10, ended: 30 }, 20);
        book
    }

    #[test]
    fn reads_of_undetected_rewrite_are_not_judged() {
        let repeated = |session| {
            let digest = pghc_api::chain::Digest([0; 32]);
            let outcome =
                OrderResult::Acknowledged { id: 7, digest, repeated: true, applied: true };
            let what = What::Write { key: None, payload: None, outcome };
            Operation { client: session, session, zone: 1, started: 14, ended: 15, what }
        };
        let book = forgiven(vec![
            read(1, 1, (12, 13), SEEN),
            repeated(2),
            read(1, 0, (16, 17), ReadOutcome::Fork),
            read(3, 1, (18, 19), ReadOutcome::Fork),
        ]);
        assert_eq!(sessions(&book), []);
        book.add(read(2, 2, (40, 41), ReadOutcome::Fork));
        assert_eq!(sessions(&book), [], "its token is still the false one");
        // A read that was in flight when the zone was whole again.
        book.add(read(4, 1, (19, 44), SEEN));
        assert_eq!(sessions(&book), []);
    }

    #[test]
    fn everything_else_is_judged_as_ever() {
        let all = vec![
            read(1, 0, (1, 2), ReadOutcome::Fork),
            read(2, 1, (5, 9), SEEN),
            read(3, 0, (12, 13), SEEN),
            read(3, 0, (14, 15), ReadOutcome::Fork),
            read(4, 1, (12, 13), ReadOutcome::Failed),
            read(4, 0, (16, 17), ReadOutcome::Fork),
            read(5, 1, (21, 22), SEEN),
            read(5, 1, (23, 24), ReadOutcome::Fork),
        ];
        let started: Vec<_> = all.iter().map(|it| (it.session, it.started)).collect();
        assert_eq!(sessions(&forgiven(all)), started);
        let renewed = forgiven(vec![
            read(6, 1, (12, 13), SEEN),
            read(6, 0, (16, 17), SEEN),
            read(6, 0, (18, 19), ReadOutcome::Fork),
        ]);
        assert_eq!(sessions(&renewed), [(6, 16), (6, 18)], "it had a true token again");
    }
}
