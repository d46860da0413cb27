//! The checker of histories: what clients and zones saw, against what pghc promises.
//!
//! A run under faults records every request with its times and its answer ([`Operation`]), direct
//! reads of the databases ([`Snapshot`]), and at the end the chain of every zone ([`Chain`]).
//! [`check`] then reports violated promises with the operations that show them. The simulation and
//! the nemesis share this check.
//!
//! Ids are the version order, so no search is needed as for a general linearizability checker:
//! every check is one sweep over operations or links. The crate is pure: it reads no clock, and its
//! only I/O is [`jsonl`] on a reader or writer that the caller opened. The same history always
//! gives the same report.
//!
//! ```
//! use pghc_history::{Options, Verdict, check, synthetic};
//!
//! let run = synthetic::Settings { operations: 1_000, ..Default::default() }.run(7);
//! let report = check(&run.history, &run.zones, &Options::new(synthetic::cluster()));
//! assert_eq!(report.verdict(), Verdict::Sound, "{}", report.render(&run.history));
//! ```

mod answers;
mod chains;
mod check;
mod coverage;
mod history;
pub mod jsonl;
mod order;
mod report;
mod sessions;
pub mod synthetic;
mod writes;

pub use check::{Options, check};
pub use coverage::Coverage;
pub use history::{
    Chain, Fingerprint, History, Link, Operation, OrderResult, ReadOutcome, Reset, Snapshot, What,
};
pub use report::{Counts, Kind, Report, Verdict, Violation};
