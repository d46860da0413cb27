//! The verdict on a history, and how a person reads it: the first violation first, with the
//! operations around it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::history::{History, Operation, OrderResult, ReadOutcome, What};

/// Most violations of one kind that are kept with their details; all are counted.
const KEPT_PER_KIND_MAX: u64 = 20;

/// Operations shown on either side of those that break a promise, by id.
const NEIGHBOURS: u64 = 2;

/// Most operations shown with one violation.
const SHOWN_MAX: usize = 24;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $invariant:literal, $text:literal;)*) => {
        /// Kind of a violation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind, worst first.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Stable name: scripts may branch on it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The invariant it breaks, by the number that RELIABILITY.md uses for it.
            #[must_use]
            pub const fn invariant(self) -> &'static str {
                match self { $(Self::$name => $invariant,)* }
            }
        }
    };
}

kinds! {
    /// An acknowledged or committed id is not in the chain.
    LostWrite = "I2", "lost_write";
    /// The acknowledged id holds another link.
    ReplacedWrite = "I2", "replaced_write";
    /// A reader saw an id that is not in the chain, or saw it with another digest.
    LostSight = "I2", "lost_sight";
    /// The same payload has two ids.
    WrittenTwice = "I5", "written_twice";
    /// Writes under the same key have two ids.
    KeyTwice = "I5", "key_twice";
    /// One id was answered to two keys.
    KeysMixed = "I5", "keys_mixed";
    /// A zone's ids are not 1, 2, 3, … .
    NotDense = "I1", "not_dense";
    /// Two zones hold different links under one id.
    Fork = "I3", "fork";
    /// A link's hash does not follow from the link before it.
    WrongHash = "I3", "wrong_hash";
    /// A link's digest does not follow from its content and the link before it.
    WrongDigest = "I3", "wrong_digest";
    /// A link's commit time is before that of the link before it.
    TimeWentBack = "I3", "time_went_back";
    /// A zone is shorter than another although the run claims convergence.
    NotConverged = "I3", "not_converged";
    /// A write was sent after a larger id was known.
    Reordered = "I7", "reordered";
    /// A linearizable read missed a link that was known when it was sent.
    StaleRead = "I7", "stale_read";
    /// A read showed less than its token.
    TokenIgnored = "I6", "token_ignored";
    /// A read with a token showed less than its session had seen.
    SessionWentBack = "I6", "session_went_back";
    /// A write got an id below what its session had seen.
    SessionReordered = "I6", "session_reordered";
    /// A zone took a token for one of another chain.
    TokenRefused = "I6", "token_refused";
    /// A write that was only ever refused is in the chain.
    RefusedWritten = "I13", "refused_written";
    /// A link without a sender.
    Phantom = "I14", "phantom";
    /// A snapshot of a database was no prefix of the chain.
    TornSnapshot = "I4", "torn_snapshot";
    /// A zone's database did not hold what its zone had answered before.
    StaleSnapshot = "I8", "stale_snapshot";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} ({}): {sentence}", kind.invariant())]
pub struct Violation {
    /// Kind of the violation.
    pub kind: Kind,
    /// The id it is about.
    pub id: u64,
    /// Operations that show it, as positions in [`History::operations`].
    pub operations: Vec<usize>,
    /// The case in words.
    pub sentence: String,
}

/// The whole judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No promise was broken, and enough was seen to say so.
    Sound,
    /// A promise was broken.
    Violated,
    /// Nothing was found broken, but the record is faulty or too thin: counts as a failure.
    Inconclusive,
}

/// Counts of the check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Links of the longest zone.
    pub links: u64,
    /// Writes, every attempt.
    pub writes: u64,
    /// Of these, acknowledged.
    pub acknowledged: u64,
    /// Of these, answered as known already.
    pub repeated: u64,
    /// Writes answered as committed but late.
    pub committed: u64,
    /// Writes refused.
    pub refused: u64,
    /// Attempts of unknown outcome that the chain shows to be written, by them or by a retry.
    pub unknown_written: u64,
    /// Attempts of unknown outcome that are not in the chain.
    pub unknown_absent: u64,
    /// Attempts of unknown outcome without payload, which cannot be told apart.
    pub unknown_anonymous: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// Snapshots of databases.
    pub snapshots: u64,
    /// Sessions.
    pub sessions: u64,
    /// Acknowledgements by zone.
    pub acknowledged_by_zone: BTreeMap<u16, u64>,
}

/// Result of [`check`](crate::check).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Violations, worst kind first, then by id; at most 20 of a kind.
    pub violations: Vec<Violation>,
    /// How many there are of each kind, those not kept included.
    pub totals: BTreeMap<Kind, u64>,
    /// Why the record cannot prove enough: faults of the record itself, and coverage it lacks.
    pub gaps: Vec<String>,
    /// Figures.
    pub counts: Counts,
    /// For each operation, the id of the link it wrote, as far as the chain shows it; 0 if none.
    pub links_of: Vec<u64>,
}

impl Report {
    /// The judgement.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.totals.is_empty() {
            Verdict::Violated
        } else if !self.gaps.is_empty() {
            Verdict::Inconclusive
        } else {
            Verdict::Sound
        }
    }

    /// Counts a violation, and keeps it while there are few of its kind.
    pub(crate) fn add(&mut self, kind: Kind, id: u64, operations: &[usize], sentence: String) {
        if self.keeps(kind) {
            let operations = operations.to_vec();
            self.violations.push(Violation { kind, id, operations, sentence });
        }
        *self.totals.entry(kind).or_insert(0) += 1;
    }

    /// Whether one more of this kind would be kept with its details.
    pub(crate) fn keeps(&self, kind: Kind) -> bool {
        self.totals.get(&kind).is_none_or(|total| *total < KEPT_PER_KIND_MAX)
    }

    /// Adds what another part of the check found.
    pub(crate) fn merge(&mut self, other: Self) {
        self.violations.extend(other.violations);
        for (kind, total) in other.totals {
            *self.totals.entry(kind).or_insert(0) += total;
        }
        self.gaps.extend(other.gaps);
    }

    pub(crate) fn sort(&mut self) {
        self.violations.sort_by_key(|violation| (violation.kind, violation.id));
    }

    /// The report for people: verdict, figures, and each violation with the operations around it.
    /// `history` must be the one that was checked.
    #[must_use]
    pub fn render(&self, history: &History) -> String {
        let mut text = format!("verdict: {}\n", format!("{:?}", self.verdict()).to_lowercase());
        let counts = &self.counts;
        let _ = writeln!(
            text,
            "{} links, {} attempts to write: {} acknowledged ({} as repeats), {} committed late, {} refused, \
             unknown {} written, {} absent, {} anonymous; {} reads ({} failed) in {} sessions; {} snapshots",
            counts.links,
            counts.writes,
            counts.acknowledged,
            counts.repeated,
            counts.committed,
            counts.refused,
            counts.unknown_written,
            counts.unknown_absent,
            counts.unknown_anonymous,
            counts.reads,
            counts.reads_failed,
            counts.sessions,
            counts.snapshots,
        );
        for (kind, total) in &self.totals {
            let _ = writeln!(text, "{total} x {kind} (breaks {})", kind.invariant());
        }
        for gap in &self.gaps {
            let _ = writeln!(text, "gap: {gap}");
        }
        for violation in &self.violations {
            let _ = writeln!(text, "\n{violation}");
            self.render_operations(&mut text, history, violation);
        }
        text
    }

    fn render_operations(&self, text: &mut String, history: &History, violation: &Violation) {
        let near = violation.id.saturating_sub(NEIGHBOURS).max(1)..=violation.id + NEIGHBOURS;
        let close = |id: &u64| *id != 0 && near.contains(id);
        let by_id = self.links_of.iter().enumerate().filter(|(_, id)| close(id));
        let mut shown: Vec<usize> = violation.operations.clone();
        shown.extend(by_id.map(|(at, _)| at).filter(|at| !violation.operations.contains(at)));
        shown.truncate(SHOWN_MAX);
        shown.sort_unstable_by_key(|at| history.operations.get(*at).map(|op| op.started));
        for at in shown {
            let Some(operation) = history.operations.get(at) else { continue };
            let mark = if violation.operations.contains(&at) { '>' } else { ' ' };
            let _ = writeln!(text, "{mark} #{at} {}", Line(operation));
        }
    }
}

/// An operation on one line.
struct Line<'a>(&'a Operation);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, session, zone, started, ended, what } = self.0;
        write!(f, "{started}..{ended} ns, client {client} session {session}, zone {zone}: ")?;
        match what {
            What::Write { key, payload, outcome } => {
                f.write_str("write")?;
                key.iter().try_for_each(|key| write!(f, " key {key}"))?;
                payload.iter().try_for_each(|payload| write!(f, " payload {payload}"))?;
                match outcome {
                    OrderResult::Acknowledged { id, digest, repeated, applied } => {
                        let repeated = if *repeated { ", repeated" } else { "" };
                        let applied = if *applied { "" } else { ", not yet applied" };
                        write!(f, " -> id {id} digest {digest}{repeated}{applied}")
                    }
                    OrderResult::Committed { id } => write!(f, " -> id {id}, committed and late"),
                    OrderResult::Refused => f.write_str(" -> refused"),
                    OrderResult::Unknown => f.write_str(" -> unknown"),
                }
            }
            What::Read { at_least, linearizable, outcome } => {
                f.write_str(if *linearizable { "linearizable read" } else { "read" })?;
                at_least.iter().try_for_each(|id| write!(f, " at least {id}"))?;
                match outcome {
                    ReadOutcome::Seen { frontier, digest } => {
                        write!(f, " -> {frontier}")?;
                        digest.iter().try_for_each(|digest| write!(f, " digest {digest}"))
                    }
                    ReadOutcome::Fork => f.write_str(" -> chain_fork"),
                    ReadOutcome::Failed => f.write_str(" -> failed"),
                }
            }
        }
    }
}
