//! `geo-load`: arguments in, exit code out.
//!
//! Exit 0: the run passed. 1: it ran and did not pass, or was interrupted. 2: it could not run, or the
//! arguments are wrong. A deployment that was started for the run is stopped in every case, also on Ctrl-C.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use pghc_lab::pacer::Arrival;
use pghc_lab::run::scenario::Scenario;
use pghc_lab::site::Site;
use pghc_runtime::program::{complain_of, conclude, finish, parse, set_up_plain, with_causes};

use super::bench::Bench;
use super::experiments::{Compare, Net, On, Predict, Report, Run, Sweep, once, with_site};
use super::interrupt::interruptible;
use super::site_args::SiteArgs;

/// Drives a deployment with writes and reports how long they took.
#[derive(Debug, Parser)]
#[command(name = "geo-load", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes in every zone for some seconds, with nothing to set up; figures, charts and a verdict
    Quick(Quick),
    /// A scenario: distances, clients, faults; figures, charts and a verdict
    Run(Run),
    /// The same scenario at many rates, or the highest rate that keeps what is hoped
    Sweep(Sweep),
    /// Whether two runs differ by more than chance
    Compare(Compare),
    /// Write the page of a run again and print its table
    Report(Report),
    /// Limits and predictions for the distances of a matrix; nothing is started
    Predict(Predict),
    /// Show and change the distances of a running deployment
    Net(Net),
    /// pghc and PostgreSQL side by side, in rounds: rates, ratios and marks
    Bench(Bench),
}

#[derive(Debug, Args)]
struct Quick {
    #[command(flatten)]
    site: SiteArgs,
    /// Writes a second in each zone, above 0 and at most 100000
    #[arg(long, default_value_t = 50.0, value_parser = parse_rate, env = "PGHC_LOAD_RATE")]
    rate: f64,
    /// Measured seconds, 1 to 86400
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400),
          env = "PGHC_LOAD_SECONDS")]
    seconds: u32,
    /// How writes are spread over time: poisson or uniform
    #[arg(long, default_value = "poisson", env = "PGHC_LOAD_ARRIVAL")]
    arrival: Arrival,
    /// Makes the plan; the same seed makes the same one [default: a new one, which is reported]
    #[arg(long, env = "PGHC_LOAD_SEED")]
    seed: Option<u64>,
    /// Seconds without an answer after which a write is unknown, 1 to 600
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600),
          env = "PGHC_LOAD_TIMEOUT")]
    timeout: u32,
    /// Most writes under way in each zone, 1 to 4096
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=4096),
          env = "PGHC_LOAD_CONNECTIONS")]
    connections: u16,
    /// Bytes of a payload, 150 to 1000000
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(150..=1_000_000),
          env = "PGHC_LOAD_PAYLOAD_BYTES")]
    payload_bytes: u32,
    /// Directory for what is found
    #[arg(long, value_name = "DIR", default_value = "geo-load-quick")]
    out: PathBuf,
    /// In virtual time, as `run --virtual`; without --wan between the zones of aws3
    #[arg(long = "virtual", conflicts_with_all = ["against", "target", "data", "base_port"])]
    is_virtual: bool,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    let allowed = rate > 0.0 && rate <= 100_000.0;
    allowed.then_some(rate).ok_or_else(|| "it must be above 0 and at most 100000".to_owned())
}

impl Quick {
    fn scenario(&self) -> anyhow::Result<Scenario> {
        // A real deployment without --wan has no distances; in virtual time nothing would be left to see.
        let file = self.site.wan.as_deref().or(self.is_virtual.then_some("aws3"));
        let file = file.map(|file| format!("file = {}\n", toml::Value::from(file)));
        let zones = self.site.zones.map(|zones| format!("zones = {zones}\n"));
        let text = format!(
            "name = 'quick'\nabout = 'Writes in every zone.'\nseed = {}\nduration = '{}s'\n\
             warmup = '2s'\n[matrix]\n{}{}[[clients]]\nzone = '*'\nrate = {:?}\narrival = '{}'\n\
             timeout = '{}s'\nconnections = {}\nvalue = '{}B'\n",
            // TOML has no larger numbers.
            self.seed.unwrap_or_else(rand::random) & (u64::MAX >> 1),
            self.seconds,
            file.unwrap_or_default(),
            zones.unwrap_or_default(),
            self.rate,
            match self.arrival {
                Arrival::Poisson => "poisson",
                Arrival::Uniform => "uniform",
            },
            self.timeout,
            self.connections,
            self.payload_bytes
        );
        Scenario::parse(&text, &[])
    }

    async fn run(&self) -> anyhow::Result<bool> {
        let scenario = self.scenario()?;
        if self.is_virtual {
            let on = On::new(None);
            let work = once(&scenario, &on, &self.out, None, &self.site);
            return interruptible(Some(&on.stop), work).await;
        }
        let open = async || Site::open(&self.site.options()).await;
        with_site(&self.site, open, async |on: &On<'_>| {
            once(&scenario, on, &self.out, None, &self.site).await
        })
        .await
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    set_up_plain();
    conclude(finish("geo-load", run(), 2))
}

fn run() -> ExitCode {
    let cli: Cli = match parse("geo-load", std::env::args_os().collect(), |_| None) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            return complain_of("geo-load", &format!("cannot start: {error}"), 2);
        }
    };
    let outcome = runtime.block_on(async {
        match &cli.command {
            Command::Quick(quick) => quick.run().await,
            Command::Run(run) => run.run().await,
            Command::Sweep(sweep) => sweep.run().await,
            Command::Compare(compare) => compare.run(),
            Command::Report(report) => report.run(),
            Command::Predict(predict) => predict.run(),
            Command::Net(net) => net.run().await,
            Command::Bench(bench) => bench.run().await,
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => complain_of("geo-load", &with_causes(error.as_ref()), 2),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::Cli;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
        for good in [
            "geo-load quick",
            "geo-load quick --zones 3 --wan m.csv --rate 0.5 --seconds 1 --format json",
            "geo-load quick --against parade.json --arrival uniform --seed 7",
            "geo-load bench --only raw,plain --seconds 3 --rounds 1 --json x --html y",
            "geo-load bench scale --zones 1,3 --payloads none --links 0 --html y",
            "geo-load run aws3 --set duration=10s --set clients.0.rate=20 --out /tmp/x",
            "geo-load run my.toml --target eu=http://h:1 --target us=http://h:2",
            "geo-load sweep near --rates 50,100 --set duration=5s",
            "geo-load run azure48 --virtual --seed 3",
            "geo-load quick --virtual --wan aws5 --seconds 5",
            "geo-load sweep aws9 --virtual --rates 5,10",
            "geo-load sweep saturation --until p99<1s,err<1% --from 200",
            "geo-load compare a b --fail-if p50>5%",
            "geo-load report /tmp/x",
            "geo-load predict aws5 --voters 3 --weights us-east-1=8,eu-west-1=1",
            "geo-load net show --against parade.json",
            "geo-load net cut us-east-1,eu-west-1 --way out --how reset --for 5s --url http://h:1",
            "geo-load net set * eu --loss 0.01 --bandwidth 1Gbit --url http://h:1",
        ] {
            assert!(Cli::try_parse_from(good.split(' ')).is_ok(), "{good}");
        }
        for bad in [
            "geo-load",
            "geo-load quick --rate 0",
            "geo-load quick --rate NaN",
            "geo-load quick --zones 10",
            "geo-load quick --against parade.json --zones 3",
            "geo-load sweep near",
            "geo-load sweep near --rates 1 --until p99<1s",
            "geo-load run aws3 --virtual --against parade.json",
            "geo-load compare a",
            "geo-load bench --only fast",
            "geo-load bench --rounds 0",
            "geo-load bench --synchronous-commit local",
            "geo-load bench --only raw scale",
            "geo-load bench scale --zones 0",
            "geo-load bench scale --only raw",
        ] {
            assert!(Cli::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
    }
}
