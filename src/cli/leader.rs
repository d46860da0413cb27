//! `pghc leader`: shows the leader, predicts better ones, and transfers leadership.
//!
//! Exit codes: 0 done (or so already), 1 refused or not finished, 2 wrong usage or nothing answers.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use pghc_runtime::geo::model::Commit;
use pghc_runtime::geo::topology::{Prediction, Topology};
use pghc_runtime::program::USAGE;
use pghc_runtime::rpc::v1::change_request::Kind;
use pghc_runtime::rpc::v1::{ChangeRequest, PlacementView, SwitchPlacementRequest};
use pghc_server::coordinator::topology;

use super::reach::{Client, Failure, Reach, refused, view};
use super::view;

/// Time measured after a move: the recent window, and one period for the reports to arrive.
const MEASURE: Duration = Duration::from_secs(8);

/// Leaders shown beside the present one, the best first.
const LEADERS_SHOWN: usize = 6;

/// Arguments of `pghc leader`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the leader, the measured round trips, the origin of writes, and their latency there
    /// under every possible leader.
    Show,
    /// Say what writes will take in each zone, move leadership, then say what they do take.
    Move {
        /// Id of a coordinator, or a zone.
        to: String,
        /// Only say what would happen.
        #[arg(long)]
        dry_run: bool,
    },
    /// Turn automatic leader placement on or off, or show its last decision.
    Auto {
        /// The action.
        #[arg(default_value = "show")]
        what: Auto,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Auto {
    /// The leader transfers leadership to where the writes are.
    On,
    /// Only an operator or a failure moves the leadership.
    Off,
    /// Which of both, and what it thought last.
    Show,
}

/// Executes the command.
pub async fn run(arguments: Arguments) -> ExitCode {
    let (why, code) = match act(arguments).await {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Refused(why)) => (why, 1),
        Err(Failure::Unreached(why)) => (why, USAGE),
    };
    view::complain(&format!("pghc: {why}"));
    ExitCode::from(code)
}

async fn act(arguments: Arguments) -> Result<(), Failure> {
    let (mut client, seen) = arguments.reach.view().await?;
    match arguments.command {
        Command::Show => show(&seen),
        Command::Move { to, dry_run } => return lead(&mut client, &seen, &to, dry_run).await,
        Command::Auto { what: Auto::Show } => view::print(&auto(&seen)),
        Command::Auto { what } => {
            let request = SwitchPlacementRequest { auto: what == Auto::On };
            let reply = client.switch_placement(request).await;
            let changed = reply.map_err(|status| refused(&status))?.into_inner().changed;
            let word = if what == Auto::On { "on" } else { "off" };
            let already = if changed { "" } else { " already" };
            view::print(&format!("automatic placement of the lead is {word}{already}"));
        }
    }
    Ok(())
}

fn auto(seen: &PlacementView) -> String {
    let word = if seen.auto { "on" } else { "off" };
    let says = if seen.says.is_empty() { "no window has ended yet" } else { &seen.says };
    format!("automatic placement of the lead is {word}; last window: {says}")
}

fn show(seen: &PlacementView) {
    let (topology, commit) = topology(seen);
    let leader = leader(seen);
    let all = topology.predictions(commit);
    let zone =
        topology.sites().iter().find(|site| site.id == leader).map(|site| site.zone.as_str());
    let term = seen.group.as_ref().map_or(0, |group| group.term);
    view::print(&format!(
        "coordinator {leader} in {} leads in term {term}; zones learn of commits from {}",
        zone.unwrap_or("no known zone"),
        told_by(commit)
    ));
    view::print(&format!("\nround trips in ms, as measured\n{}", round_trips(&topology)));
    view::print(&format!("\n{}", figures(&topology, &all, leader)));
    view::print(
        "measured: from taking a batch to having it ordered, median of 30 s; predicted: ms of network \
         alone; > leads, * best",
    );
    if !topology.is_weighted() {
        view::print("there are too few writes to weigh zones by: all count alike");
    }
    let other = if seen.acks { Commit::LeaderPush } else { Commit::AcksToAll };
    if let (Some(now), Some(then)) =
        (mean(&all, leader), mean(&topology.predictions(other), leader))
    {
        let other = told_by(other);
        view::print(&format!("predicted mean {now:.1} ms; if told by {other} {then:.1} ms"));
    }
    view::print(&auto(seen));
}

fn told_by(commit: Commit) -> &'static str {
    match commit {
        Commit::LeaderPush => "the leader",
        Commit::AcksToAll => "all voters",
    }
}

fn leader(seen: &PlacementView) -> u64 {
    seen.group.as_ref().map_or(0, |group| group.leader)
}

fn mean(all: &[Prediction], leader: u64) -> Option<f64> {
    all.iter().find(|it| it.leader == leader).map(|it| it.mean_ms)
}

fn ms(value: Option<f64>) -> String {
    value.filter(|ms| ms.is_finite()).map_or("-".to_owned(), |ms| format!("{ms:.1}"))
}

fn round_trips(topology: &Topology) -> Table {
    let name =
        |site: &pghc_runtime::geo::topology::TopologyNode| format!("{} {}", site.id, site.zone);
    let heads: Vec<String> =
        std::iter::once(String::new()).chain(topology.sites().iter().map(name)).collect();
    let mut table = view::table(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    for (place, site) in topology.sites().iter().enumerate() {
        let cells = (0..topology.sites().len()).map(|other| match other == place {
            true => String::new(),
            false => ms(topology.round_trip_ms(place, other)),
        });
        table.add_row(std::iter::once(name(site)).chain(cells));
    }
    table
}

/// Zones down, leaders across: what is measured, and what is predicted under each.
fn figures(topology: &Topology, all: &[Prediction], leader: u64) -> Table {
    let best = all.first().map(|it| it.leader);
    let shown = all.iter().filter(|it| it.leader == leader);
    let others = all.iter().filter(|it| it.leader != leader).take(LEADERS_SHOWN);
    let shown: Vec<&Prediction> = shown.chain(others).collect();
    let head = |it: &&Prediction| {
        let (leads, is_best) = (it.leader == leader, Some(it.leader) == best);
        let zone = &topology.sites()[it.place].zone;
        let (before, after) = (if leads { ">" } else { "" }, if is_best { " *" } else { "" });
        format!("{before}{} {zone}{after}", it.leader)
    };
    let fixed = ["id", "zone", "role", "writes/s", "measured"].map(str::to_owned);
    let heads: Vec<String> = fixed.into_iter().chain(shown.iter().map(head)).collect();
    let mut table = view::table(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    for (place, site) in topology.sites().iter().enumerate() {
        let role = match (site.id == leader, site.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let row = [
            site.id.to_string(),
            site.zone.clone(),
            role.to_owned(),
            format!("{:.1}", site.writes_per_s),
            ms(site.p50_ms),
        ];
        let predicted = shown.iter().map(|it| ms(Some(it.sites_ms[place])));
        table.add_row(row.into_iter().chain(predicted));
    }
    let total = format!("{:.1}", topology.rate());
    let means = shown.iter().map(|it| ms(Some(it.mean_ms)));
    let row = ["", "mean by writes", "", &total, &ms(measured_mean(topology))].map(str::to_owned);
    table.add_row(row.into_iter().chain(means));
    table
}

/// The mean of the measured medians by writes; `None` when nothing was written.
fn measured_mean(topology: &Topology) -> Option<f64> {
    let known =
        || topology.sites().iter().filter_map(|site| Some((site.p50_ms?, site.writes_per_s)));
    let weight: f64 = known().map(|(_, rate)| rate).sum();
    (weight > 0.0).then(|| known().map(|(ms, rate)| ms * rate).sum::<f64>() / weight)
}

/// The voter that `to` names: an id, or the best of a zone.
fn find(topology: &Topology, all: &[Prediction], to: &str) -> Result<u64, Failure> {
    if let Ok(id) = to.parse() {
        return Ok(id);
    }
    let in_zone = |it: &&Prediction| topology.sites()[it.place].zone == to;
    if let Some(it) = all.iter().find(in_zone) {
        return Ok(it.leader);
    }
    let mut sites = topology.sites().iter().filter(|site| site.zone == to);
    let site = sites.clone().find(|site| site.voter).or_else(|| sites.next());
    site.map(|site| site.id)
        .ok_or_else(|| Failure::Refused(format!("no coordinator is in zone {to:?}")))
}

async fn lead(
    client: &mut Client,
    before: &PlacementView,
    to: &str,
    dry_run: bool,
) -> Result<(), Failure> {
    let (survey_before, commit) = topology(before);
    let all = survey_before.predictions(commit);
    let (now, to) = (leader(before), find(&survey_before, &all, to)?);
    let of = |leader: u64| all.iter().find(|it| it.leader == leader);
    let mut table = view::table(&["zone", "writes/s", "measured now", "predicted now", "then"]);
    for (place, site) in survey_before.sites().iter().enumerate() {
        let predicted = |leader| ms(of(leader).map(|it| it.sites_ms[place]));
        let rate = format!("{:.1}", site.writes_per_s);
        table.add_row([site.zone.clone(), rate, ms(site.p50_ms), predicted(now), predicted(to)]);
    }
    let mean = |leader| ms(of(leader).map(|it| it.mean_ms));
    let total = format!("{:.1}", survey_before.rate());
    let measured = ms(measured_mean(&survey_before));
    table.add_row(["mean by writes".to_owned(), total, measured, mean(now), mean(to)]);
    view::print(&format!("from coordinator {now} to coordinator {to}, in ms\n{table}"));
    change(client, to, dry_run).await?;
    if dry_run || to == now {
        return Ok(());
    }
    if !survey_before.is_weighted() {
        view::print("there are too few writes to measure anything");
        return Ok(());
    }
    view::print(&format!("measuring for {} s", MEASURE.as_secs()));
    tokio::time::sleep(MEASURE).await;
    let after = view(client).await.map_err(|status| refused(&status))?;
    let survey_after = topology(&after).0;
    let mut table = view::table(&["zone", "measured before", "predicted", "measured after"]);
    for site in survey_after.sites() {
        let old = survey_before.sites().iter().position(|old| old.id == site.id);
        let was = old.and_then(|place| survey_before.sites()[place].p50_ms);
        let said = old.and_then(|place| of(to).map(|it| it.sites_ms[place]));
        table.add_row([site.zone.clone(), ms(was), ms(said), ms(site.recent_p50_ms)]);
    }
    view::print(&format!("coordinator {} leads\n{table}", leader(&after)));
    Ok(())
}

async fn change(client: &mut Client, to: u64, dry_run: bool) -> Result<(), Failure> {
    let request = ChangeRequest {
        kind: Kind::Lead.into(),
        coordinator_id: to,
        dry_run,
        ..ChangeRequest::default()
    };
    let answers = client.change(request).await.map_err(|status| refused(&status))?;
    let mut lines = answers.into_inner();
    while let Some(progress) = lines.message().await.map_err(|status| refused(&status))? {
        view::print(&progress.line);
    }
    Ok(())
}
