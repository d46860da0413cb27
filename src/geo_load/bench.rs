//! Arguments of `geo-load bench`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use pghc_lab::bench::{self, BenchEnvironments, BenchmarkCase, scale};
use tokio_util::sync::CancellationToken;

use super::interrupt::interruptible;
use super::site_args::{Format, SiteArgs};

/// Most links a chain is grown to: more would not fit on the disks of test machines.
const LINKS_MAX: u64 = 100_000_000;

/// Options of `geo-load bench`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Marks that are missed are printed and fail nothing. Exit 1: the chain that was \
                  written could not be proved. Exit 2: nothing was measured."
)]
pub(super) struct Bench {
    #[command(subcommand)]
    table: Option<Table>,
    #[command(flatten)]
    site: SiteArgs,
    /// Turns of each benchmark case, 1 to 100; medians need at least 5
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100),
          env = "PGHC_BENCH_ROUNDS")]
    rounds: u8,
    /// Measured seconds of each turn, 1 to 600
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600),
          env = "PGHC_LOAD_SECONDS")]
    seconds: u32,
    /// Only these benchmark cases, with commas between: raw, raw-one, plain, replicas, replicas-alone,
    /// original, single, bulk, alone, catch-up, verify, slow-zone, overload, far, idle, memory
    /// [default: all but far, idle and memory; with --against, those that need no deployment of their
    /// own; far always starts one with three regions of AWS]
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PGHC_LOAD_ONLY")]
    only: Vec<BenchmarkCase>,
    /// Minutes for which benchmark case `memory` loads everything, 1 to 1440
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1440),
          env = "PGHC_BENCH_MINUTES")]
    minutes: u32,
    /// Setting synchronous_commit of the raw limit. Set the variable instead of the flag to change
    /// it for pghc's API nodes as well
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"],
          env = "PGHC_SYNCHRONOUS_COMMIT")]
    synchronous_commit: String,
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, Subcommand)]
enum Table {
    /// Throughput and latency as zones, payloads and the chain grow
    Scale(Scale),
}

#[derive(Debug, Args)]
struct Scale {
    /// Numbers of zones, 1 to 9 each; `none` for no such table
    #[arg(long, default_value = "1,3,5", value_parser = parse_zones, env = "PGHC_BENCH_ZONES")]
    zones: Sizes,
    /// Bytes of a payload, 0 (null) to 1000000 each; `none` for no such table
    #[arg(long, default_value = "0,256,4096,65536", value_parser = parse_payloads,
          env = "PGHC_BENCH_PAYLOADS")]
    payloads: Sizes,
    /// Links of the longest chain, up to 100000000, measured at a tenth, half and all; 0 for no
    /// such table
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(..=LINKS_MAX),
          env = "PGHC_BENCH_LINKS")]
    links: u64,
    /// Turns of each number of zones and each payload, 1 to 100
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100),
          env = "PGHC_BENCH_ROUNDS")]
    rounds: u8,
    /// Measured seconds of each turn, 1 to 600
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600),
          env = "PGHC_LOAD_SECONDS")]
    seconds: u32,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Format::Table, env = "PGHC_LOAD_FORMAT")]
    format: Format,
    #[command(flatten)]
    files: Files,
}

/// Where the report goes beside the screen.
#[derive(Debug, Args)]
struct Files {
    /// Write the report as JSON into this file, every turn of every round in it
    #[arg(long, value_name = "FILE", env = "PGHC_BENCH_JSON")]
    json: Option<PathBuf>,
    /// Write the report as one self-contained HTML page with charts into this file
    #[arg(long, value_name = "FILE", env = "PGHC_BENCH_HTML")]
    html: Option<PathBuf>,
}

/// Sizes between commas.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sizes(Vec<usize>);

fn parse_zones(text: &str) -> Result<Sizes, String> {
    parse_sizes(text, 1..=9)
}

fn parse_payloads(text: &str) -> Result<Sizes, String> {
    parse_sizes(text, 0..=1_000_000)
}

fn parse_sizes(text: &str, allowed: std::ops::RangeInclusive<usize>) -> Result<Sizes, String> {
    if text == "none" {
        return Ok(Sizes(Vec::new()));
    }
    let (first, last) = (allowed.start(), allowed.end());
    let size = |word: &str| {
        let size = word.trim().parse().ok().filter(|size| allowed.contains(size));
        size.ok_or_else(|| format!("{word:?} is not a number from {first} to {last}"))
    };
    text.split(',').map(size).collect::<Result<_, _>>().map(Sizes)
}

impl Files {
    /// Refuses what could not be written later: a run takes minutes.
    fn check(&self) -> anyhow::Result<()> {
        for file in [&self.json, &self.html].into_iter().flatten() {
            let opened = std::fs::File::options().create(true).append(true).open(file);
            opened.with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    fn write(&self, json: &impl serde::Serialize, html: impl Fn() -> String) -> anyhow::Result<()> {
        let write = |file: &Path, text: String| {
            let written = std::fs::write(file, text);
            written.with_context(|| format!("the report was not written to {}", file.display()))
        };
        if let Some(file) = &self.json {
            write(file, serde_json::to_string_pretty(json)? + "\n")?;
        }
        if let Some(file) = &self.html {
            write(file, html())?;
        }
        Ok(())
    }
}

impl Bench {
    /// The default cases; without cases that would stop processes of others.
    fn usual(&self) -> Vec<BenchmarkCase> {
        let is_ours = self.site.options().against.is_none();
        let usual = BenchmarkCase::ALL.iter().copied().filter(|one| one.is_usual());
        usual.filter(|one| is_ours || !one.needs_own_deployment()).collect()
    }

    /// A missed target is printed and fails nothing; a chain that does not verify does.
    pub(super) async fn run(&self) -> anyhow::Result<bool> {
        if let Some(Table::Scale(scale)) = &self.table {
            return scale.run().await;
        }
        self.files.check()?;
        let options = bench::Options {
            cases: if self.only.is_empty() { self.usual() } else { self.only.clone() },
            rounds: self.rounds.into(),
            length: Duration::from_secs(self.seconds.into()),
            memory_length: Duration::from_secs(u64::from(self.minutes) * 60),
            raw_is_synchronous: self.synchronous_commit == "on",
            stop: CancellationToken::new(),
        };
        let mut environments = BenchEnvironments::new(&self.site.options())?;
        let outcome =
            interruptible(Some(&options.stop), bench::run(&mut environments, &options)).await;
        environments.close().await;
        let report = outcome?;
        self.site.print(&report)?;
        self.files.write(&report, || report.html())?;
        Ok(!report.interrupted && report.verify.is_none_or(|check| check.passed))
    }
}

impl Scale {
    async fn run(&self) -> anyhow::Result<bool> {
        self.files.check()?;
        let options = scale::Options {
            zones: self.zones.0.clone(),
            payloads: self.payloads.0.clone(),
            links: self.links,
            rounds: self.rounds.into(),
            length: Duration::from_secs(self.seconds.into()),
            stop: CancellationToken::new(),
        };
        let mut stage = scale::Stage::default();
        let outcome = interruptible(Some(&options.stop), scale::run(&mut stage, &options)).await;
        stage.close().await;
        let report = outcome?;
        self.format.print(&report)?;
        self.files.write(&report, || report.html())?;
        Ok(report.passed())
    }
}

#[cfg(test)]
mod tests {
    use super::{Sizes, parse_payloads, parse_zones};

    #[test]
    fn sizes_are_numbers_between_commas_within_their_bounds() {
        assert_eq!(parse_zones("1,3, 5"), Ok(Sizes(vec![1, 3, 5])));
        assert_eq!(parse_zones("none"), Ok(Sizes(Vec::new())));
        assert_eq!(parse_payloads("0"), Ok(Sizes(vec![0])));
        for bad in ["", "0", "10", "x", "1,,3", "-1"] {
            let error = parse_zones(bad).expect_err(bad);
            assert!(error.contains("from 1 to 9"), "{error}");
        }
    }
}
