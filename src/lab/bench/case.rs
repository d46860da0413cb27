//! The benchmark cases, the environment of each, and their order. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Processes that a benchmark case needs. Only one environment is up at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BenchEnvironment {
    /// Three PostgreSQL servers that know nothing of each other.
    Servers,
    /// A primary and two synchronous replicas.
    Replicas,
    /// A deployment.
    Deployment,
    /// A deployment whose zones are continents apart.
    Continents,
}

impl BenchEnvironment {
    /// Whether pghc runs on it.
    pub(super) fn is_of_pghc(self) -> bool {
        matches!(self, Self::Deployment | Self::Continents)
    }
}

macro_rules! cases {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $environment:ident, $title:literal;)*) => {
        /// A measured system under one kind of load.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum BenchmarkCase {
            $($(#[$doc])* $name,)*
        }

        impl BenchmarkCase {
            /// All, in the order of a report.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line and in JSON.
            #[must_use]
            pub fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }

            /// The environment of the case.
            pub(super) fn environment(self) -> BenchEnvironment {
                match self { $(Self::$name => BenchEnvironment::$environment,)* }
            }
        }

        impl fmt::Display for BenchmarkCase {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $title,)* })
            }
        }
    };
}

cases! {
    /// Batches of 1000 rows into three servers at once.
    Raw = "raw", Servers, "raw limit: 3 servers, batches of 1000";
    /// The same into one server while the others rest.
    RawOne = "raw-one", Servers, "raw limit of one server alone";
    /// Single inserts into one server.
    Plain = "plain", Servers, "plain PostgreSQL: 1 server, single inserts, 32 connections";
    /// Single inserts into a primary with two synchronous replicas.
    Replicas = "replicas", Replicas, "synchronous replicas: single inserts, 64 connections";
    /// The same with one client.
    ReplicasAlone = "replicas-alone", Replicas, "synchronous replicas: one client";
    /// `POST /chain`.
    Original = "original", Deployment, "pghc POST /chain, 64 connections";
    /// `POST /v1/chain`, one write a request.
    Single = "single", Deployment, "pghc POST /v1/chain, 64 connections";
    /// `POST /v1/chain`, NDJSON.
    Bulk = "bulk", Deployment, "pghc bulk NDJSON, 4 streams a zone";
    /// One client, one write at a time.
    Alone = "alone", Deployment, "pghc single write, one client";
    /// A zone that was away.
    CatchUp = "catch-up", Deployment, "pghc catch-up of a zone that was away";
    /// `chain-verify` against `COPY` of the same rows.
    Verify = "verify", Deployment, "chain-verify, links a zone";
    /// Single writes in two zones while the database of another is frozen.
    SlowZone = "slow-zone", Deployment, "pghc single writes, another zone's database frozen";
    /// Ten times the peak.
    Overload = "overload", Deployment, "pghc goodput at ten times the peak";
    /// Bulk writes as far apart as continents, and the same side by side.
    Far = "far", Continents, "pghc bulk NDJSON between continents, 64 streams a zone";
    /// Processor time of all idle processes, measured once for 30 s.
    Idle = "idle", Deployment, "pghc idle: processor time";
    /// Memory of all processes under full load, once and for minutes.
    Memory = "memory", Deployment, "pghc full load for minutes: memory";
}

impl BenchmarkCase {
    /// Whether it runs unless `--only` says otherwise: all but those that take long, and the one that needs a
    /// deployment of its own.
    #[must_use]
    pub fn is_usual(self) -> bool {
        !matches!(self, Self::Idle | Self::Memory | Self::Far)
    }

    /// Whether it runs once after all rounds instead of in each.
    pub(super) fn runs_once(self) -> bool {
        matches!(self, Self::Idle | Self::Memory)
    }

    /// Whether it stops, freezes or counts processes or changes distances, and so needs a deployment of our own.
    #[must_use]
    pub fn needs_own_deployment(self) -> bool {
        matches!(self, Self::CatchUp | Self::SlowZone | Self::Idle | Self::Memory | Self::Far)
    }
}

impl FromStr for BenchmarkCase {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.iter().map(|one| one.key()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|one| one.key() == text);
        found.copied().ok_or_else(|| format!("{text:?} is none of {}", known()))
    }
}

impl Serialize for BenchmarkCase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.key())
    }
}

/// Order of the cases in round `round` of `rounds`, from 0. Each case has one turn a round, at
/// rotating positions, so that a drifting machine affects all cases alike. Neighbours stay
/// neighbours, because each change of environment costs seconds.
pub(super) fn order(cases: &[BenchmarkCase], round: usize, rounds: usize) -> Vec<BenchmarkCase> {
    let mut order: Vec<_> = cases.iter().copied().filter(|one| !one.runs_once()).collect();
    if !order.is_empty() {
        let by = order.len() * round / rounds.max(1) % order.len();
        order.rotate_left(by);
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{BenchmarkCase, order};

    #[test]
    fn a_contestant_is_known_by_its_key() {
        for case in BenchmarkCase::ALL {
            assert_eq!(case.key().parse(), Ok(*case));
        }
        assert!(
            "fast".parse::<BenchmarkCase>().expect_err("nobody").contains("raw, raw-one, plain")
        );
    }

    #[test]
    fn round_has_each_case_once_in_rotated_order() {
        let wanted: Vec<_> =
            BenchmarkCase::ALL.iter().copied().filter(|one| one.is_usual()).collect();
        let rounds: Vec<_> = (0..5).map(|round| order(&wanted, round, 5)).collect();
        for round in &rounds {
            let all: BTreeSet<_> = round.iter().collect();
            assert_eq!((all.len(), round.len()), (wanted.len(), wanted.len()));
        }
        let first: BTreeSet<_> = rounds.iter().map(|round| round[0]).collect();
        assert_eq!(first.len(), 5);
        assert!(order(&[BenchmarkCase::Memory], 0, 5).is_empty(), "it runs once, not in rounds");
    }
}
