//! `geo-load run`, `sweep`, `compare` and `report`.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use pghc_lab::report::{self, Step};
use pghc_lab::run::compare::{FailIf, compare};
use pghc_lab::run::outcome::Outcome;
use pghc_lab::run::scenario::Scenario;
use pghc_lab::run::sweep::{self, Search, Until};
use pghc_lab::run::{self, Finished, files};
use pghc_lab::site::Site;
use pghc_runtime::output;
use pghc_runtime::telemetry::say;
use tokio_util::sync::CancellationToken;

use crate::interrupt::interruptible;
use crate::site_args::SiteArgs;
use crate::virtual_run;

/// Arguments of `geo-load run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// near, aws3, aws5, aws9, azure48, hub-partition, leader-loss, follow-the-traffic, saturation, original, or a
    /// TOML file
    scenario: String,
    /// Directory for what is found [default: geo-load-NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Other values of keys, such as duration=10s or clients.0.rate=20; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Another seed
    #[arg(long)]
    seed: Option<u64>,
    /// How often; each run has a directory of its own in --out
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    repeat: u8,
    /// A word for the report
    #[arg(long)]
    label: Option<String>,
    /// In virtual time: real coordinators and API nodes in one thread, on a network, disks, databases
    /// and a clock in memory. Processors, disks, PostgreSQL and HTTP cost nothing; the same seed gives
    /// the same bytes
    #[arg(long = "virtual", conflicts_with_all = ["against", "target", "data", "base_port"])]
    is_virtual: bool,
    #[command(flatten)]
    site: SiteArgs,
}

/// Arguments of `geo-load sweep`.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// A built-in scenario or a TOML file
    scenario: String,
    /// Rates to try, in each zone
    #[arg(
        long,
        value_delimiter = ',',
        conflicts_with = "until",
        required_unless_present = "until"
    )]
    rates: Vec<f64>,
    /// Instead of rates: find the highest that keeps this, such as 'p99<250ms,err<0.1%'
    #[arg(long)]
    until: Option<Until>,
    /// Where a search begins
    #[arg(long, default_value_t = 100.0)]
    from: f64,
    /// Directory for what is found [default: geo-load-sweep-NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Other values of keys; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// In virtual time, as `run --virtual`
    #[arg(long = "virtual", conflicts_with_all = ["against", "target", "data", "base_port"])]
    is_virtual: bool,
    #[command(flatten)]
    site: SiteArgs,
}

/// Arguments of `geo-load compare`.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Directory of a run
    first: PathBuf,
    /// Directory of another
    second: PathBuf,
    /// End with 1 if the second is surely worse, such as 'p50>5%,p99>20%'
    #[arg(long)]
    fail_if: Option<FailIf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `geo-load report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Directory of a run
    directory: PathBuf,
}

/// Where a scenario is run, and what ends that early.
#[derive(Debug)]
pub(crate) struct On<'a> {
    /// `None`: in virtual time.
    site: Option<&'a Site>,
    pub(crate) stop: CancellationToken,
}

impl<'a> On<'a> {
    pub(crate) fn new(site: Option<&'a Site>) -> Self {
        Self { site, stop: CancellationToken::new() }
    }

    async fn run(&self, scenario: &Scenario) -> anyhow::Result<Finished> {
        match self.site {
            Some(site) => run::run(scenario, site, &self.stop).await,
            None => virtual_run::run(scenario, &self.stop).await,
        }
    }
}

/// Opens the site, does `work` there until it is done or interrupted, and closes the site whatever
/// happened.
pub(crate) async fn with_site<T>(
    arguments: &SiteArgs,
    open: impl AsyncFnOnce() -> anyhow::Result<Site>,
    work: impl AsyncFnOnce(&On<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if arguments.against.is_none() && arguments.target.is_empty() {
        say("starting a deployment");
    }
    let site = interruptible(None, open()).await?;
    let on = On::new(Some(&site));
    let outcome = interruptible(Some(&on.stop), work(&on)).await;
    site.close().await;
    outcome
}

/// Runs a scenario, writes its directory and prints its report; returns whether it passed.
pub(crate) async fn once(
    scenario: &Scenario,
    on: &On<'_>,
    at: &Path,
    label: Option<&str>,
    print: &SiteArgs,
) -> anyhow::Result<bool> {
    let mut finished = on.run(scenario).await?;
    finished.outcome.label = label.map(str::to_owned);
    files::write(at, scenario, &finished)?;
    print.print(&finished.outcome)?;
    let page = at.join(files::REPORT);
    output::complain(&format!("written to {}; look at {}", at.display(), page.display()));
    Ok(finished.outcome.passed)
}

impl Run {
    pub(crate) async fn run(&self) -> anyhow::Result<bool> {
        let scenario = self.scenario()?;
        self.site.refuse_shape()?;
        let directory = self
            .out
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("geo-load-{}", scenario.name)));
        if self.is_virtual {
            let on = On::new(None);
            return interruptible(Some(&on.stop), self.often(&scenario, &on, &directory)).await;
        }
        let open = async || run::open(&scenario, &self.site.options()).await;
        let work = async |on: &On<'_>| self.often(&scenario, on, &directory).await;
        with_site(&self.site, open, work).await
    }

    async fn often(&self, scenario: &Scenario, on: &On<'_>, at: &Path) -> anyhow::Result<bool> {
        let mut passed = true;
        for number in 1..=self.repeat {
            if on.stop.is_cancelled() {
                return Ok(false);
            }
            let directory = match self.repeat {
                1 => at.to_owned(),
                _ => at.join(number.to_string()),
            };
            passed &= self.once(scenario, on, &directory).await?;
        }
        Ok(passed)
    }

    fn scenario(&self) -> anyhow::Result<Scenario> {
        let mut changes = self.set.clone();
        changes.extend(self.seed.map(|seed| format!("seed={seed}")));
        Scenario::find(&self.scenario, &changes)
    }

    async fn once(&self, scenario: &Scenario, on: &On<'_>, at: &Path) -> anyhow::Result<bool> {
        once(scenario, on, at, self.label.as_deref(), &self.site).await
    }
}

impl Sweep {
    pub(crate) async fn run(&self) -> anyhow::Result<bool> {
        let scenario = Scenario::find(&self.scenario, &self.set)?;
        self.site.refuse_shape()?;
        for rate in self.rates.iter().chain([&self.from]) {
            ensure!(*rate > 0.0 && *rate <= 100_000.0, "a rate of {rate} is not possible");
        }
        let name = format!("geo-load-sweep-{}", scenario.name);
        let directory = self.out.clone().unwrap_or_else(|| PathBuf::from(name));
        let (steps, interrupted) = if self.is_virtual {
            let on = On::new(None);
            interruptible(Some(&on.stop), self.steps(&scenario, &on, &directory)).await?
        } else {
            let open = async || run::open(&scenario, &self.site.options()).await;
            let work = async |on: &On<'_>| self.steps(&scenario, on, &directory).await;
            with_site(&self.site, open, work).await?
        };
        let mut text = "offered,done,p50_ms,p99_ms,errors,ok\n".to_owned();
        for Step { offered, done, p50_ms, p99_ms, errors, ok } in &steps {
            text.push_str(&format!(
                "{offered:.1},{done:.1},{p50_ms:.3},{p99_ms:.3},{errors:.6},{ok}\n"
            ));
        }
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("sweep.csv"), &text)?;
        let name = match interrupted {
            true => format!("INTERRUPTED: {}", scenario.name),
            false => scenario.name.clone(),
        };
        let page = report::sweep_page(&name, &scenario.about, &steps);
        std::fs::write(directory.join(files::REPORT), page)?;
        if interrupted {
            output::print("INTERRUPTED: these are the rates that were finished");
        }
        output::put(&text);
        let best = steps.iter().filter(|step| step.ok).map(|step| step.done).fold(0.0, f64::max);
        output::print(&format!(
            "most that kept what was hoped: {best:.0} writes/s, all zones together"
        ));
        output::print(&format!("look at {}", directory.join(files::REPORT).display()));
        Ok(best > 0.0 && !interrupted)
    }

    /// The rates that were tried, and whether that was ended early.
    async fn steps(
        &self,
        scenario: &Scenario,
        on: &On<'_>,
        at: &Path,
    ) -> anyhow::Result<(Vec<Step>, bool)> {
        let until = self.until.clone().unwrap_or_default();
        let mut steps = Vec::new();
        let mut one = async |rate: f64| {
            let scenario = sweep::at_rate(scenario, rate).map_err(anyhow::Error::msg)?;
            let finished = on.run(&scenario).await?;
            if finished.outcome.interrupted {
                return anyhow::Ok(None);
            }
            files::write(&at.join(format!("{rate}")), &scenario, &finished)?;
            let step = sweep::step_of(&scenario, &finished.outcome, &until);
            let Step { done, p99_ms, ok, .. } = step;
            output::complain(&format!(
                "{rate} a zone: {done:.0} writes/s, p99 {p99_ms:.1} ms, {ok}"
            ));
            ensure!(finished.outcome.audit.agrees(), "books and chain disagree at {rate}");
            ensure!(finished.outcome.verify.passed, "the chain is not proved at {rate}");
            steps.push(step);
            anyhow::Ok(Some(ok))
        };
        let mut interrupted = false;
        if self.until.is_some() {
            let mut search = Search::new(self.from);
            while let Some(rate) = search.next() {
                let Some(ok) = one(rate).await? else {
                    interrupted = true;
                    break;
                };
                search.note(ok);
            }
        } else {
            for rate in &self.rates {
                interrupted = one(*rate).await?.is_none();
                if interrupted {
                    break;
                }
            }
        }
        steps.sort_by(|a, b| a.offered.total_cmp(&b.offered));
        Ok((steps, interrupted))
    }
}

impl Compare {
    pub(crate) fn run(&self) -> anyhow::Result<bool> {
        let (first, second) = (files::read(&self.first)?, files::read(&self.second)?);
        let comparison = compare(&first, &second, &self.fail_if.clone().unwrap_or_default());
        if self.json {
            output::print(&serde_json::to_string_pretty(&comparison)?);
        } else {
            output::print(&comparison.to_string());
        }
        Ok(comparison.passed())
    }
}

impl Report {
    /// Writes the page again and prints the table.
    pub(crate) fn run(&self) -> anyhow::Result<bool> {
        let outcome: Outcome = files::read(&self.directory)?;
        std::fs::write(self.directory.join(files::REPORT), report::page(&outcome))?;
        output::print(&outcome.to_string());
        Ok(outcome.passed)
    }
}
