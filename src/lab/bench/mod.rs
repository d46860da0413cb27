//! `geo-load bench`: pghc and plain PostgreSQL on the same machine, in one run, so that their
//! ratios mean something where the absolute figures of a small machine do not.
//!
//! Each phase has the machine to itself: the raw servers are stopped before a parade is driven. All
//! rows are alike: 200 bytes of payload, the columns of a link.

mod closed;
mod parade;
mod postgres;
mod report;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use self::closed::Tally;
pub use self::report::{Mark, Measured, Report};
use super::target::Target;
use super::verdict::{self, Verdict};
use crate::task::Tasks;

/// Bytes of every payload.
const PAYLOAD_BYTES: usize = 200;

/// Time before each measured window.
const WARM_UP: Duration = Duration::from_secs(2);

macro_rules! phases {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $title:literal;)*) => {
        /// One measurement.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Phase {
            $($(#[$doc])* $name,)*
        }

        impl Phase {
            /// All, in the order in which they run.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line and in JSON.
            #[must_use]
            pub fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }
        }

        impl fmt::Display for Phase {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $title,)* })
            }
        }
    };
}

phases! {
    /// Batches of 1000 rows into three servers at once.
    Raw = "raw", "raw limit: 3 servers, batches of 1000";
    /// Single inserts into one server.
    Plain = "plain", "plain PostgreSQL: 1 server, single inserts, 32 connections";
    /// `POST /chain`.
    Original = "original", "pghc POST /chain, 64 connections";
    /// `POST /v1/chain`, one write a request.
    Single = "single", "pghc POST /v1/chain, 64 connections";
    /// `POST /v1/chain`, NDJSON.
    Bulk = "bulk", "pghc bulk NDJSON, 4 streams a zone";
    /// One client, one write at a time.
    Alone = "alone", "pghc single write, one client";
}

impl Phase {
    /// Whether it needs a parade.
    #[must_use]
    pub fn is_of_pghc(self) -> bool {
        !matches!(self, Self::Raw | Self::Plain)
    }
}

impl FromStr for Phase {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.iter().map(|phase| phase.key()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|phase| phase.key() == text);
        found.copied().ok_or_else(|| format!("{text:?} is none of {}", known()))
    }
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

/// A JSON value of exactly [`PAYLOAD_BYTES`].
fn payload(number: usize) -> String {
    let start = format!(r#"{{"n":{number},"pad":""#);
    let pad = "x".repeat(PAYLOAD_BYTES - start.len() - 2);
    format!(r#"{start}{pad}"}}"#)
}

/// Runs the phases that need PostgreSQL alone.
///
/// # Errors
/// When a server cannot be started or a statement fails: nothing was measured then.
pub async fn run_postgres(
    phases: &[Phase],
    length: Duration,
    tasks: &Tasks,
) -> anyhow::Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for phase in phases.iter().copied().filter(|phase| !phase.is_of_pghc()) {
        announce(phase);
        let tally = match phase {
            Phase::Raw => postgres::raw_limit(WARM_UP, length, tasks).await?,
            _ => postgres::single_inserts(WARM_UP, length, tasks).await?,
        };
        measured.push(Measured::new(phase, tally, None));
    }
    Ok(measured)
}

/// Runs the phases that need a parade against `target`, and lets `chain-verify` look at what they
/// wrote.
///
/// # Errors
/// When a node cannot be reached, or refuses most of what is sent; when chain-verify cannot be run.
pub async fn run_pghc(
    phases: &[Phase],
    length: Duration,
    target: &Target,
) -> anyhow::Result<(Vec<Measured>, Verdict)> {
    let mut measured = Vec::new();
    for phase in phases.iter().copied().filter(|phase| phase.is_of_pghc()) {
        announce(phase);
        let tally = match phase {
            Phase::Original => parade::original(target, WARM_UP, length).await?,
            Phase::Bulk => parade::bulk(target, WARM_UP, length).await?,
            Phase::Alone => parade::version_1(target, Some(1), WARM_UP, length).await?,
            _ => parade::version_1(target, None, WARM_UP, length).await?,
        };
        let status = target.status().await?;
        let behind = status.zones.iter().map(|zone| zone.lag_ids).max();
        measured.push(Measured::new(phase, tally, behind));
    }
    eprintln!("verifying the chain");
    Ok((measured, verdict::verify(target).await?))
}

/// Puts the figures together.
///
/// # Errors
/// When PostgreSQL does not tell its version.
pub async fn report(
    phases: Vec<Measured>,
    length: Duration,
    verify: Option<Verdict>,
    tasks: &Tasks,
) -> anyhow::Result<Report> {
    Ok(Report {
        cores: std::thread::available_parallelism()?.get(),
        postgres: postgres::version(tasks).await?,
        seconds: length.as_secs_f64(),
        marks: report::marks(&phases),
        phases,
        verify,
    })
}

/// Says on stderr what runs now, since a phase is silent for seconds.
fn announce(phase: Phase) {
    eprintln!("measuring {phase}");
}

#[cfg(test)]
mod tests {
    use super::{PAYLOAD_BYTES, Phase, payload};

    #[test]
    fn a_payload_is_json_of_200_bytes() {
        for number in [0, 7, 999, 1_234_567] {
            let text = payload(number);
            assert_eq!(text.len(), PAYLOAD_BYTES);
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_phase_is_known_by_its_key() {
        for phase in Phase::ALL {
            assert_eq!(phase.key().parse(), Ok(*phase));
        }
        assert!("fast".parse::<Phase>().expect_err("no phase").contains("raw, plain"));
    }
}
