//! The record of clients: what a group sent, and how each request ended, from the clients' view.
//!
//! Invariant: every sent write has exactly one entry, whose result is unknown until it is decided.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram::Latencies;

/// Most kinds of failure told apart by one group.
const KINDS_MAX: usize = 16;

/// Most parts of a server's time told apart by one group.
const PARTS_MAX: usize = 16;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// A write, applied in the zone that answers.
    Write,
    /// The newest link that the zone holds.
    ReadLocal,
    /// No older than what these clients wrote.
    ReadSession,
    /// The newest anywhere.
    ReadLinear,
}

impl Op {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Write, Self::ReadLocal, Self::ReadSession, Self::ReadLinear];

    /// As in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::ReadLocal => "read-local",
            Self::ReadSession => "read-session",
            Self::ReadLinear => "read-linear",
        }
    }
}

/// Result of one write, from its client's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteResult {
    /// Answered with this id.
    Written(u64),
    /// Answered that it is not written, or never handed over.
    Refused,
    /// No answer, or one that does not say.
    Unknown,
}

/// Fields of a payload that identify its write.
#[derive(Debug, Deserialize)]
pub(super) struct WriteTag {
    pub(super) run: String,
    pub(super) zone: String,
    pub(super) n: u64,
}

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Result of the write, as far as it is known.
    pub result: WriteResult,
    /// Kind of the failure, as reports group them.
    pub kind: String,
}

impl Failure {
    /// A failure that leaves the result open.
    #[must_use]
    pub const fn unknown(kind: String) -> Self {
        Self { result: WriteResult::Unknown, kind }
    }
}

/// Classifies a response: 2xx is written, 4xx is refused, any other status leaves the result
/// unknown.
pub(super) fn classify(status: u16, body: &[u8]) -> Result<u64, Failure> {
    #[derive(Deserialize)]
    struct Written {
        id: u64,
    }
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    if matches!(status, 200 | 201)
        && let Ok(Written { id }) = serde_json::from_slice(body)
    {
        return Ok(id);
    }
    let code = serde_json::from_slice::<Problem>(body).map(|problem| problem.code);
    let code = code.unwrap_or_else(|_| "not an answer of pghc".to_owned());
    let result =
        if (400..500).contains(&status) { WriteResult::Refused } else { WriteResult::Unknown };
    Err(Failure { result, kind: format!("{status} {code}") })
}

/// One finished request.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Kind of the request.
    pub op: Op,
    /// Planned time after the start.
    pub planned: Duration,
    /// From the planned time to the answer.
    pub latency: Duration,
    /// From the first sending to the answer.
    pub service: Duration,
    /// Whether it was answered as asked.
    pub ok: bool,
}

/// A write that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Planned time after the start.
    pub planned: Duration,
    /// Its result.
    pub result: WriteResult,
}

/// How a request ended.
#[derive(Debug)]
pub struct End {
    /// The id of a write, any number for a read; or the failure of the last attempt.
    pub outcome: Result<u64, Failure>,
    /// How often it was sent, from 1.
    pub attempts: u64,
    /// The server's own time, as `Server-Timing` has it.
    pub timing: Option<String>,
}

/// Record of one client group in one zone.
#[derive(Debug, Default)]
pub struct Log {
    /// Its name in keys and payloads: zone and number of the group.
    pub name: String,
    /// Place of its zone in the target.
    pub zone: usize,
    /// The writes, in the order of their numbers.
    pub writes: Vec<Write>,
    /// Every request that ended.
    pub samples: Vec<Sample>,
    /// How late requests of open clients left.
    pub slip: Latencies,
    /// Requests planned and never sent.
    pub dropped: u64,
    /// Attempts beyond the first.
    pub retries: u64,
    /// Number of failures, by kind.
    pub failures: BTreeMap<String, u64>,
    /// Parts of the servers' own time: sum in ms and count.
    pub timing: BTreeMap<String, (f64, u64)>,
}

impl Log {
    /// Enters a write that is about to be sent; returns its number. Its result is unknown until
    /// [`Self::close`], and stays so when the run ends before.
    pub fn enter(&mut self, planned: Duration) -> usize {
        self.writes.push(Write { planned, result: WriteResult::Unknown });
        self.writes.len() - 1
    }

    /// Enters the end of a request; `number` is that of a write.
    ///
    /// # Panics
    /// If that write was never entered.
    pub fn close(&mut self, number: usize, sample: Sample, end: End) {
        self.samples.push(sample);
        self.retries += end.attempts - 1;
        let result = match end.outcome {
            Ok(id) => {
                self.add_timing(end.timing.as_deref().unwrap_or_default());
                WriteResult::Written(id)
            }
            Err(Failure { result, mut kind }) => {
                if self.failures.len() >= KINDS_MAX && !self.failures.contains_key(&kind) {
                    "other".clone_into(&mut kind);
                }
                *self.failures.entry(kind).or_default() += 1;
                result
            }
        };
        if sample.op == Op::Write {
            self.writes[number].result = result;
        }
    }

    fn add_timing(&mut self, text: &str) {
        for (part, ms) in parse_timing(text) {
            if self.timing.contains_key(part) || self.timing.len() < PARTS_MAX {
                let entry = self.timing.entry(part.to_owned()).or_default();
                *entry = (entry.0 + ms, entry.1 + 1);
            }
        }
    }
}

/// Parts of a `Server-Timing` value, in ms.
fn parse_timing(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.split(',').filter_map(|part| {
        let mut words = part.split(';').map(str::trim);
        let name = words.next().filter(|name| !name.is_empty())?;
        let ms = words.find_map(|word| word.strip_prefix("dur="))?.parse().ok()?;
        Some((name, ms))
    })
}

/// Live counters for the progress display.
#[derive(Debug, Default)]
pub struct Progress {
    ok: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    /// How many requests were answered as asked, and how many ended otherwise.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.ok.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Counts a request that ended.
    pub(super) fn count(&self, ok: bool) {
        let counter = if ok { &self.ok } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::parse_timing;

    #[test]
    fn the_servers_own_times_are_read_part_by_part() {
        let parts: Vec<_> =
            parse_timing("queue;dur=0.2, quorum;desc=\"x\";dur=69.8, odd").collect();
        assert_eq!(parts, [("queue", 0.2), ("quorum", 69.8)]);
        assert_eq!(parse_timing("").count(), 0);
    }
}
