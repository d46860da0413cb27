//! `chain-verify`: arguments in, report out, exit code 0 proved, 1 violation, 2 incomplete, 3 usage.
//!
//! The report goes to standard output, everything else to standard error. Connection strings may hold
//! passwords and are never printed.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pghc_api::id::{ClusterId, WriteId, ZoneName};
use pghc_api::token::Token;
use pghc_runtime::output;
use pghc_runtime::program::{complain_of, conclude, finish, help, one_line, set_up_plain, url};
use pghc_runtime::task::Tasks;
use pghc_verify::{Conclusion, Place, Progress, Range, Report, Request};

use super::found::{Cluster, Found};

/// Exit code of a request that makes no sense.
const USAGE: u8 = 3;

/// Most sources in one run.
const SOURCES_MAX: usize = 64;

/// Most coordinators in one run.
const COORDINATORS_MAX: usize = 64;

/// Longest wait for a zone, in seconds.
const WAIT_SECONDS_MAX: f64 = 86_400.0;

/// Pause between two updates of the progress bars.
const TICK: Duration = Duration::from_millis(200);

/// Recomputes the hash chain of every zone, compares the zones, and says which link is the first bad
/// one.
///
/// Zones alone cannot tell that all of them were forged alike: ask the coordinators too (--coordinator).
///
/// Exit code: 0 proved, 1 violation (or a zone whose node has halted), 2 incomplete (a zone not readable or
/// behind, a coordinator that does not answer, or a tail that only one source holds), 3 usage.
#[derive(Debug, Parser)]
#[command(name = "chain-verify", version)]
pub struct Args {
    /// A zone and where to read it: its PostgreSQL or one of its API nodes.
    #[arg(long = "zone", value_name = "NAME=postgres://…|http://…", value_parser = zone)]
    zones: Vec<(String, Place)>,

    /// An API node; its zone is the one it says. Beside its zone's database it vouches for the
    /// coordinators' newest id only.
    #[arg(long = "api", value_name = "URL", value_parser = api)]
    apis: Vec<Place>,

    /// An export, as `pghc export` writes it. It vouches for its own links; an export of the newest
    /// links also for the end of the chain.
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<std::path::PathBuf>,

    /// Verify the newest N links only.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to"])]
    last: Option<WriteId>,

    /// First id to verify.
    #[arg(long, value_name = "ID", default_value = "1")]
    from: WriteId,

    /// Last id to verify.
    #[arg(long, value_name = "ID")]
    to: Option<WriteId>,

    /// A token that a client received: it vouches for the chain up to its link.
    #[arg(long = "token", value_name = "TOKEN")]
    tokens: Vec<Token>,

    /// A coordinator, http://host:port, or `found`: those of the cluster that commands find by
    /// themselves (see pghc status --help). A chain confirmed by a majority of their group is a
    /// witness of all links, so zones that were all forged alike are found too. Each given
    /// coordinator must answer.
    #[arg(long = "coordinator", value_name = "URL|found", value_delimiter = ',', value_parser = asked)]
    coordinators: Vec<Asked>,

    /// The cluster that every source must be of.
    #[arg(long, value_name = "UUID")]
    cluster_id: Option<ClusterId>,

    /// Longest time to wait for a zone that is behind the others.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    wait: Duration,

    /// Form of the report.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Coordinators to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Url(String),
    Found,
}

fn asked(text: &str) -> Result<Asked, String> {
    if text == "found" { Ok(Asked::Found) } else { url(text).map(Asked::Url) }
}

/// Base URLs of all given coordinators, each once.
fn coordinators(given: Vec<Asked>) -> Result<Vec<String>, String> {
    let mut urls: Vec<String> = Vec::new();
    for asked in given {
        let more = match asked {
            Asked::Url(url) => vec![url],
            Asked::Found => {
                let found = Found::of_variables().cluster().and_then(Cluster::reach);
                let (_, urls) = found.map_err(|why| {
                    format!("--coordinator found: {why}; or name a coordinator by its URL")
                })?;
                urls
            }
        };
        for url in more {
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    if urls.len() > COORDINATORS_MAX {
        return Err(format!("{} coordinators; want at most {COORDINATORS_MAX}", urls.len()));
    }
    Ok(urls)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn zone(text: &str) -> Result<(String, Place), String> {
    let (name, url) = text.split_once('=').ok_or("want NAME=URL")?;
    let name: ZoneName = name.parse().map_err(|error| format!("{error}"))?;
    Ok((name.to_string(), place(url)?))
}

fn api(url: &str) -> Result<Place, String> {
    match place(url)? {
        Place::Api(url) => Ok(Place::Api(url)),
        _ => Err("want http://host:port".to_owned()),
    }
}

/// Where a zone is read: its PostgreSQL or one of its API nodes.
///
/// # Errors
/// The error, for people; the connection string is not repeated.
pub(super) fn place(url: &str) -> Result<Place, String> {
    if url.starts_with("http://") {
        let url: reqwest::Url = url.parse().map_err(|error| format!("{error}"))?;
        return Ok(Place::Api(url.to_string()));
    }
    if url.starts_with("https://") {
        return Err("https is not spoken yet; want http://host:port".to_owned());
    }
    // The connection string itself is not repeated: it may hold a password.
    url.parse::<pghc_postgres::Dsn>().map_err(|error| error.to_string())?;
    Ok(Place::Database(url.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=WAIT_SECONDS_MAX).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!("want seconds from 0 to {WAIT_SECONDS_MAX}")),
    }
}

impl Args {
    fn request(self) -> Result<Request, String> {
        let zones = self.zones.into_iter().map(|(name, place)| (Some(name), place));
        let apis = self.apis.into_iter().map(|place| (None, place));
        let files = self.files.into_iter().map(|path| (None, Place::File(path)));
        let sources: Vec<_> = zones.chain(apis).chain(files).collect();
        if sources.is_empty() {
            return Err("nothing to verify: give --zone, --api or --file".to_owned());
        }
        if sources.len() > SOURCES_MAX {
            return Err(format!("{} sources; want at most {SOURCES_MAX}", sources.len()));
        }
        for (index, (name, place)) in sources.iter().enumerate() {
            let before = &sources[..index];
            let twice =
                before.iter().any(|(other, at)| name.is_some() && other == name || at == place);
            if twice {
                let name = name.clone().unwrap_or_else(|| format!("a {}", place.kind()));
                return Err(format!("{name} is given twice; a source is no witness for itself"));
            }
        }
        let to = self.to.map(WriteId::get);
        if to.is_some_and(|to| to < self.from.get()) {
            return Err(format!("--from {} is above --to {}", self.from, to.unwrap_or(0)));
        }
        let range = match self.last {
            Some(count) => Range::Last(count.get()),
            None => Range::Between(self.from.get(), to),
        };
        let coordinators = coordinators(self.coordinators)?;
        let (cluster, tokens, wait) = (self.cluster_id, self.tokens, self.wait);
        Ok(Request { sources, cluster, range, tokens, coordinators, wait })
    }
}

/// Runs `chain-verify` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    set_up_plain();
    conclude(run())
}

fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            let incomplete = Conclusion::Incomplete.exit_code();
            return finish("chain-verify", help(&error), incomplete);
        }
        Err(error) => return usage(&one_line(&error)),
    };
    let format = args.format;
    let request = match args.request() {
        Ok(request) => request,
        Err(text) => return usage(&text),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refused(&format!("cannot start: {error}")),
    };
    match runtime.block_on(verify_and_show(request)) {
        Ok(report) => print(&report, format),
        Err(error) => usage(&error.to_string()),
    }
}

async fn verify_and_show(request: Request) -> Result<Report, pghc_verify::UsageError> {
    let tasks = Tasks::default();
    let progress = Arc::new(Progress::default());
    let mut bars = Bars::new(Arc::clone(&progress));
    let mut run = std::pin::pin!(pghc_verify::run(request, progress, &tasks));
    let result = loop {
        tokio::select! {
            result = &mut run => break result,
            () = tokio::time::sleep(TICK) => bars.tick(),
        }
    };
    bars.clear();
    tasks.shut_down().await;
    result
}

fn print(report: &Report, format: Format) -> ExitCode {
    let text = match format {
        Format::Text => report.to_string(),
        Format::Json => {
            let json = serde_json::to_string_pretty(report);
            json.expect("a report has only string keys") + "\n"
        }
    };
    output::put(&text);
    // A reader that closed our output still gets the verdict by the exit code.
    let unheard = match report.exit_code {
        0 => Conclusion::Incomplete.exit_code(),
        code => code,
    };
    finish("chain-verify", ExitCode::from(report.exit_code), unheard)
}

fn usage(text: &str) -> ExitCode {
    complain_of("chain-verify", &format!("{text} (see chain-verify --help)"), USAGE)
}

fn refused(text: &str) -> ExitCode {
    let code = Conclusion::Incomplete.exit_code();
    complain_of("chain-verify", &format!("{text}; nothing was checked"), code)
}

/// Progress bars on a terminal; nothing elsewhere.
struct Bars {
    progress: Arc<Progress>,
    screen: Option<MultiProgress>,
    bars: Vec<ProgressBar>,
}

impl Bars {
    fn new(progress: Arc<Progress>) -> Self {
        let screen = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { progress, screen, bars: Vec::new() }
    }

    fn tick(&mut self) {
        let Some(screen) = &self.screen else { return };
        for (index, lane) in self.progress.lanes().iter().enumerate() {
            if index == self.bars.len() {
                let style =
                    "{prefix:<12} {bar:30} {human_pos}/{human_len} links {per_sec} eta {eta}";
                let style = ProgressStyle::with_template(style).expect("a fixed template");
                let bar = ProgressBar::new(0).with_style(style).with_prefix(lane.name.clone());
                self.bars.push(screen.add(bar));
            }
            let bar = &self.bars[index];
            bar.set_length(lane.total.load(Ordering::Relaxed));
            bar.set_position(lane.checked.load(Ordering::Relaxed));
        }
    }

    fn clear(&mut self) {
        for bar in self.bars.drain(..) {
            bar.finish_and_clear();
        }
    }
}
