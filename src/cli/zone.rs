//! `pghc zone`: lists the zones of the cluster with their positions in the log, and changes them.
//!
//! Exit codes: 0 done, 1 no coordinator answered or a majority did not confirm it, 2 the question
//! cannot be right. A subcommand is a variant of `Act`, its arguments, and an arm of [`run`].

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use pghc_api::id::{ClusterId, ZoneName};
use pghc_runtime::program::USAGE;
use pghc_runtime::rpc::v1::change_zone_request;
use pghc_runtime::rpc::v1::zone_view::State;
use pghc_runtime::rpc::v1::zones_client::ZonesClient;
use pghc_runtime::rpc::v1::{ChangeZoneRequest, ListZonesReply, ListZonesRequest, ZoneView};
use pghc_runtime::rpc::{self, Caller};
use serde::Serialize;
use tonic::{Code, Request, Status};

use super::audit::{self, Audit};
use super::deployments::deployment;
use super::found::Cluster;
use super::reach::Reach;
use super::reseed::{self, Adopt, Reseed};
use super::view::{self, Format};

/// Longest time one coordinator may take to be reached.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longest time an answer may take: a coordinator waits 10 s for a majority.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// A zone that reported within this number of milliseconds counts as running.
const RUNNING_MS: u64 = 5_000;

/// Show, add or remove zones, which hold back the purge of the log; audit or replace a zone's chain.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Show all zones and their positions in the log of the coordinator that answers.
    List(ListArguments),
    /// Let a new zone, or one that was removed, be part of the cluster. The zones of coordinators need no
    /// command.
    Add(AddArguments),
    /// Take out a zone that no longer exists: it holds back nothing, and its reports are refused.
    Remove(RemoveArguments),
    Audit(Audit),
    Reseed(Reseed),
    Adopt(Adopt),
}

/// The coordinators to use: those of a deployment on this machine, the named ones, or the configured
/// ones.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Data directory of a deployment on this machine
    #[arg(long, env = "PGHC_DATA", value_name = "DIR", conflicts_with = "coordinator")]
    data: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
struct ListArguments {
    #[command(flatten)]
    place: Place,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Args)]
struct AddArguments {
    /// Name of the zone
    zone: ZoneName,
    #[command(flatten)]
    place: Place,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct RemoveArguments {
    /// Name of the zone
    zone: ZoneName,
    #[command(flatten)]
    place: Place,
    /// Remove it although its API nodes report
    #[arg(long)]
    force: bool,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Asks, and prints what came of it.
pub async fn run(arguments: Arguments) -> ExitCode {
    let done = match arguments.act {
        Act::List(arguments) => list(arguments).await,
        Act::Add(arguments) => add(arguments).await,
        Act::Remove(arguments) => remove(arguments).await,
        Act::Audit(arguments) => return audit::audit(arguments).await,
        Act::Reseed(arguments) => return reseed::reseed(arguments).await,
        Act::Adopt(arguments) => return reseed::adopt(arguments).await,
    };
    match done {
        Ok(said) => {
            view::print(&said);
            ExitCode::SUCCESS
        }
        Err(Failure { code, message }) => {
            view::complain(&format!("pghc: {message}"));
            ExitCode::from(code)
        }
    }
}

/// Why nothing was done, and the exit code.
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn usage(message: String) -> Self {
        Self { code: USAGE, message }
    }

    fn of(url: &str, status: &Status) -> Self {
        let code = match status.code() {
            Code::NotFound
            | Code::InvalidArgument
            | Code::ResourceExhausted
            | Code::FailedPrecondition => USAGE,
            _ => 1,
        };
        Self { code, message: format!("the coordinator at {url} answered: {}", status.message()) }
    }
}

/// The usable coordinators, in order.
struct Coordinators {
    cluster: ClusterId,
    urls: Vec<String>,
}

impl Place {
    fn coordinators(self) -> Result<Coordinators, Failure> {
        let named = match &self.data {
            Some(data) => deployment(data).and_then(|it| Cluster::of_deployment(it).reach()),
            None => self.reach.named(),
        };
        let (cluster, urls) = named.map_err(Failure::usage)?;
        Ok(Coordinators { cluster, urls })
    }
}

impl Coordinators {
    /// Puts a question to the first that can be reached.
    async fn ask<T>(
        &self,
        question: impl AsyncFn(ZonesClient<Caller>) -> Result<T, Status>,
    ) -> Result<T, Failure> {
        for url in &self.urls {
            let caller = rpc::connect(url, &self.cluster, CONNECT_MAX)
                .map_err(|error| Failure::usage(format!("{url}: {error}")))?;
            match question(ZonesClient::new(caller)).await {
                Ok(answer) => return Ok(answer),
                Err(status) if rpc::is_connection_refused(&status) => {}
                Err(status) => return Err(Failure::of(url, &status)),
            }
        }
        Err(Failure {
            code: 1,
            message: format!("no coordinator answers at {}", self.urls.join(", ")),
        })
    }

    async fn list(&self) -> Result<ListZonesReply, Failure> {
        let list = async |mut client: ZonesClient<Caller>| {
            client.list(timed(ListZonesRequest {})).await.map(tonic::Response::into_inner)
        };
        self.ask(list).await
    }

    async fn change(
        &self,
        act: change_zone_request::Act,
        zone: &ZoneName,
    ) -> Result<bool, Failure> {
        let change = async |mut client: ZonesClient<Caller>| {
            let request = ChangeZoneRequest { act: act.into(), zone: zone.to_string() };
            client.change(timed(request)).await.map(|reply| reply.into_inner().changed)
        };
        self.ask(change).await
    }
}

/// HTTP addresses of the zones of a cluster, as far as the zones have reported them.
///
/// # Errors
/// A sentence for people.
pub(super) async fn nodes(cluster: ClusterId, urls: Vec<String>) -> Result<Vec<String>, String> {
    let reply = Coordinators { cluster, urls }.list().await.map_err(|failure| failure.message)?;
    let told = reply.zones.into_iter().map(|zone| zone.api_url);
    Ok(told.filter(|url| !url.is_empty()).collect())
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_MAX);
    request
}

async fn list(arguments: ListArguments) -> Result<String, Failure> {
    let reply = arguments.place.coordinators()?.list().await?;
    let zones: Vec<Row> = reply.zones.iter().map(|zone| Row::of(zone, reply.head)).collect();
    Ok(match arguments.format {
        Format::Table => table(&zones, &reply),
        Format::Json => {
            let answer = Answer {
                head: reply.head,
                log_first_id: reply.log_first_id,
                zones,
                removed: &reply.removed,
            };
            serde_json::to_string_pretty(&answer).expect("these structures are plain JSON")
        }
    })
}

async fn add(arguments: AddArguments) -> Result<String, Failure> {
    let (zone, coordinators) = (arguments.zone, arguments.place.coordinators()?);
    if arguments.dry_run {
        let reply = coordinators.list().await?;
        let view = reply.zones.iter().find(|view| view.zone == zone.as_str());
        let says = match view {
            Some(view) if view.registered => "it is registered already".to_owned(),
            Some(view) => format!("its nodes reported {} ms ago; it would be registered", view.silent_ms),
            None => "none of its nodes has reported; it would be registered, and hold back the purge of \
                     the log until one does"
                .to_owned(),
        };
        return Ok(format!("dry run: nothing was changed; zone {zone}: {says}"));
    }
    let changed = coordinators.change(change_zone_request::Act::Add, &zone).await?;
    Ok(if changed {
        format!(
            "zone {zone} is registered: it holds back the purge of the log for as long as the log \
                 reaches back to its frontier"
        )
    } else {
        format!("zone {zone} was registered already; nothing has changed")
    })
}

async fn remove(arguments: RemoveArguments) -> Result<String, Failure> {
    let (zone, coordinators) = (arguments.zone, arguments.place.coordinators()?);
    let reply = coordinators.list().await?;
    let running = |view: &&ZoneView| view.zone == zone.as_str() && !view.applier.is_empty();
    if let Some(view) = reply.zones.iter().find(running)
        && view.silent_ms < RUNNING_MS
        && !arguments.force
    {
        return Err(Failure::usage(format!(
            "zone {zone} runs: it reported {} ms ago; stop its API nodes first, or say --force",
            view.silent_ms
        )));
    }
    if arguments.dry_run {
        return Ok(format!("dry run: nothing was changed; zone {zone} would be removed"));
    }
    let changed = coordinators.change(change_zone_request::Act::Remove, &zone).await?;
    let now = if changed { "is removed" } else { "was removed already" };
    Ok(format!(
        "zone {zone} {now}: it holds back nothing and its reports are refused; to undo this: \
         pghc zone add {zone}"
    ))
}

/// The JSON form of the list.
#[derive(Serialize)]
struct Answer<'a> {
    head: u64,
    log_first_id: u64,
    zones: Vec<Row>,
    removed: &'a [String],
}

/// One zone in a list.
#[derive(Serialize)]
struct Row {
    zone: String,
    state: &'static str,
    registered: bool,
    frontier: u64,
    lag_ids: u64,
    applier: Option<String>,
    silent_ms: u64,
    message: Option<String>,
}

impl Row {
    fn of(zone: &ZoneView, head: u64) -> Self {
        let state = match zone.state() {
            _ if !zone.halted.is_empty() => "halted",
            State::Live => "live",
            State::Lagging => "lagging",
            State::Detached => "detached",
            State::Reseeding => "reseeding",
        };
        let message = [&zone.halted, &zone.degraded_reason].into_iter().find(|why| !why.is_empty());
        Self {
            zone: zone.zone.clone(),
            state,
            registered: zone.registered,
            frontier: zone.frontier,
            lag_ids: head.saturating_sub(zone.frontier),
            applier: Some(zone.applier.clone()).filter(|applier| !applier.is_empty()),
            silent_ms: zone.silent_ms,
            message: message.cloned(),
        }
    }
}

fn table(zones: &[Row], reply: &ListZonesReply) -> String {
    let mut table =
        view::table(&["zone", "state", "frontier", "behind", "applier", "last heard", "message"]);
    for zone in zones {
        let heard = match zone.silent_ms {
            ms if ms < RUNNING_MS => "now".to_owned(),
            ms => format!("{} s ago", ms / 1_000),
        };
        let state = if zone.registered { zone.state } else { "unknown, not registered" };
        table.add_row([
            zone.zone.clone(),
            state.to_owned(),
            zone.frontier.to_string(),
            zone.lag_ids.to_string(),
            zone.applier.clone().unwrap_or_else(|| "none".to_owned()),
            heard,
            zone.message.clone().unwrap_or_default(),
        ]);
    }
    for zone in &reply.removed {
        table.add_row([zone, "removed", "", "", "", "", ""]);
    }
    format!("head {} | the log begins at id {}\n{table}", reply.head, reply.log_first_id)
}
