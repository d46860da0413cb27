//! `pghc recover`: shows what remains when a majority of the coordinators is lost for good, and
//! restarts the group from it. Exit code 0: shown or written, 1: refused, 2: usage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use pghc_api::chain::{Head, Link};
use pghc_api::id::{WriteId, ZoneName};
use pghc_postgres::{Dsn, ReadError, Reader};
use pghc_runtime::output;
use pghc_runtime::program::{USAGE, complain};
use pghc_server::coordinator::recover::{Obstacle, Plan, Survivor, ZoneChain, write};

use super::view;

/// Exit code when something is in the way.
const REFUSED: u8 = 1;

/// Go on after a majority of the coordinators was lost for good.
///
/// Reads the directories of the coordinators that are left, stopped, and says what they hold, what
/// would be kept and what may be lost. Starts nothing and changes nothing without --write.
///
/// With --write, the survivor with the newest entry becomes the only member of the group, with every
/// entry it has. Never do this while a majority can still come back: start that instead.
#[derive(Debug, Args)]
#[command(after_long_help = ALL_LOST)]
pub struct Arguments {
    /// Data directory of a stopped coordinator that is left; give every one there is.
    #[arg(long = "data", value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// A zone's database, to prove that it holds nothing that would be lost; give every zone. A login that
    /// may only read is enough (pghc_check of setup.sql).
    #[arg(long = "zone", value_name = "NAME=DSN", value_parser = zone)]
    zones: Vec<(ZoneName, Dsn)>,
    /// Make the survivor the only member of the group.
    #[arg(long)]
    write: bool,
    /// Write without asking the zones for their frontiers; nothing then proves what is lost.
    #[arg(long, requires = "write", conflicts_with = "zones")]
    without_zones: bool,
    /// Give up exactly this number of ids that zones have and the survivor has not. Those zones
    /// must be backfilled afterwards.
    #[arg(long, value_name = "COUNT", requires = "write")]
    give_up_ids: Option<u64>,
}

const ALL_LOST: &str = "When every coordinator is lost, the zones still hold every id they have \
applied, with payloads and hashes: stop all API nodes, verify the zones (chain-verify) and keep the \
database of the zone with the newest id. Ids that no zone has applied are lost. This version cannot \
make a new group go on from a zone's database; nothing in it needs to be changed until one can.";

fn zone(text: &str) -> Result<(ZoneName, Dsn), String> {
    let (name, dsn) = text.split_once('=').ok_or("want NAME=postgres://…")?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    // The connection string itself is not repeated: it may hold a password.
    Ok((name, dsn.parse::<Dsn>().map_err(|error| error.to_string())?))
}

/// Shows, and with `--write` does, the recovery.
pub async fn run(args: Arguments) -> ExitCode {
    let mut zones = match heads(&args.zones).await {
        Ok(zones) => zones,
        Err(unread) => return unread.complain(),
    };
    let wanted = zones.iter().filter_map(|it| it.head.map(|head| head.id.get())).collect();
    let survivors: Result<Vec<_>, _> =
        args.dirs.iter().map(|dir| Survivor::read(dir, &wanted)).collect();
    let survivors = match survivors {
        Ok(survivors) => survivors,
        Err(error) => return complain(&error, USAGE),
    };
    let compared = survivors.iter().flat_map(Survivor::ids_to_compare).collect();
    if let Err(unread) = links(&args.zones, &mut zones, &compared).await {
        return unread.complain();
    }
    match Plan::new(survivors, &zones) {
        Ok(plan) => show(&plan, &zones, &args),
        Err(error) => complain(&error, USAGE),
    }
}

/// Shows the plan, and executes it if requested and possible.
fn show(plan: &Plan, zones: &[ZoneChain], args: &Arguments) -> ExitCode {
    output::put(&describe(plan, zones));
    let refusals = refusals(plan, args);
    if !refusals.is_empty() {
        refusals.iter().for_each(|text| output::print(&format!("refused: {text}")));
        return ExitCode::from(REFUSED);
    }
    if !args.write {
        output::print("nothing was changed; --write does it");
        return ExitCode::SUCCESS;
    }
    match write(plan) {
        Ok(recovered) => {
            output::put(&written(plan, recovered.index, recovered.term));
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error, REFUSED),
    }
}

/// A zone that does not answer.
struct Unread(ZoneName, ReadError);

impl Unread {
    fn complain(&self) -> ExitCode {
        view::complain(&format!(
            "zone {} cannot be read, so what it holds is unknown; nothing was changed",
            self.0
        ));
        complain(&self.1, REFUSED)
    }
}

/// How far each zone is.
async fn heads(zones: &[(ZoneName, Dsn)]) -> Result<Vec<ZoneChain>, Unread> {
    let mut chains = Vec::new();
    for (zone, dsn) in zones {
        let head = Reader::auditing(dsn, 1).head().await.map_err(|e| Unread(zone.clone(), e))?;
        chains.push(ZoneChain { zone: zone.to_string(), head, links: BTreeMap::new() });
    }
    Ok(chains)
}

/// Asks each zone for its links under the ids in `compared` that it has.
async fn links(
    zones: &[(ZoneName, Dsn)],
    chains: &mut [ZoneChain],
    compared: &BTreeSet<u64>,
) -> Result<(), Unread> {
    for ((zone, dsn), chain) in zones.iter().zip(chains) {
        let reader = Reader::auditing(dsn, 1);
        let newest = chain.head.map_or(0, |head| head.id.get());
        for at in compared.range(..=newest) {
            let Ok(id) = WriteId::try_from(*at) else { continue };
            let (link, _) = reader.link(id).await.map_err(|e| Unread(zone.clone(), e))?;
            let head =
                |Link { id, hash, digest, written_at, .. }| Head { id, hash, digest, written_at };
            chain.links.insert(*at, link.map(head));
        }
    }
    Ok(())
}

/// Reasons for a refusal; empty when the request can be executed.
fn refusals(plan: &Plan, args: &Arguments) -> Vec<String> {
    let mut refusals = Vec::new();
    let lost = plan.lost_ids();
    for obstacle in &plan.obstacles {
        match obstacle {
            Obstacle::QuorumIsThere => refusals.push(
                "the directories given are a majority, so nothing is lost: start these \
                 coordinators, and replace the missing ones then"
                    .to_owned(),
            ),
            Obstacle::ZoneDiffers { .. } => refusals.extend(another_history(&plan.keep, obstacle)),
            Obstacle::ZoneAhead { .. } if args.give_up_ids == Some(lost) => {}
            Obstacle::ZoneAhead { zone, from, to } => refusals.push(format!(
                "zone {zone} has ids {from} to {to}, which the survivor does not hold: they were \
                 acknowledged and would be lost. Look for another coordinator's directory; if there \
                 is none, --give-up-ids {lost} goes on without them, and zone {zone} must then be \
                 filled anew"
            )),
            Obstacle::NoZoneAsked if args.write && !args.without_zones => refusals.push(
                "no zone was asked, so nothing proves what would be lost: give every zone with \
                 --zone NAME=DSN, or --without-zones when none can be read"
                    .to_owned(),
            ),
            Obstacle::NoZoneAsked => {}
        }
    }
    if let Some(count) = args.give_up_ids.filter(|count| *count != lost) {
        refusals.push(format!("--give-up-ids {count}, but {lost} would be given up"));
    }
    refusals
}

/// Explains that a zone has another history than the survivor, with advice.
fn another_history(keep: &Survivor, obstacle: &Obstacle) -> Option<String> {
    let Obstacle::ZoneDiffers { zone, id, agrees_to, to, backed_by } = obstacle else {
        return None;
    };
    let committed = keep.committed_head.map_or(0, |head| head.id.get());
    let what = format!(
        "zone {zone} has another history: the same link {agrees_to} as the survivor (0: none that was \
         compared), and another link {id}. "
    );
    let why = if !backed_by.is_empty() {
        format!(
            "The survivor's link {id} is that of zones {}, so zone {zone} is the odd one: its rows \
             were edited, or it is the database of another cluster. chain-verify says where it begins",
            backed_by.join(", ")
        )
    } else if committed > 0 && *agrees_to >= committed {
        format!(
            "Coordinator {} never knew its own writes after id {committed} to be committed; what the \
             zone holds in their place was ordered by a later leader and may have been acknowledged. \
             Going on from here would give ids {} to {to} to other writes. Look for the directory of \
             another coordinator; if there is none, those ids of zone {zone} are lost",
            keep.id,
            agrees_to + 1
        )
    } else {
        "It is the database of another cluster, or its rows were edited, or the directory is that of \
         another history: run chain-verify on the zones to find out which is the odd one, and look for \
         the directory of another coordinator"
            .to_owned()
    };
    let then = format!(
        "Once zone {zone} is to be given up, go on without --zone {zone}, and have it filled anew then \
         (pghc zone reseed --force)"
    );
    Some(format!("{what}{why}. {then}"))
}

fn head(head: Option<Head>) -> String {
    head.map_or_else(
        || "no id".to_owned(),
        |head| format!("id {} with hash {} of {}", head.id, head.hash, head.written_at),
    )
}

fn list(ids: impl IntoIterator<Item = u64>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

/// The report, for people.
fn describe(plan: &Plan, zones: &[ZoneChain]) -> String {
    let mut out = String::new();
    for survivor in std::iter::once(&plan.keep).chain(&plan.others) {
        describe_survivor(&mut out, survivor);
    }
    for zone in zones {
        let _ = writeln!(out, "zone {}\n  newest         {}", zone.zone, head(zone.head));
    }
    let keep = &plan.keep;
    let missing = plan.missing_voters();
    let _ = writeln!(
        out,
        "kept: everything in {}, up to {}, with the entries that were not known to be committed: \
         any of them may have been acknowledged",
        keep.dir.display(),
        head(keep.head)
    );
    if !plan.obstacles.contains(&Obstacle::QuorumIsThere) {
        let _ = writeln!(
            out,
            "may be lost: writes after id {} that coordinators {} acknowledged without any of the \
             directories above; the zones show {} such ids",
            keep.newest_id(),
            list(missing),
            if zones.is_empty() {
                "an unknown number of".to_owned()
            } else {
                plan.lost_ids().to_string()
            },
        );
    }
    for zone in &plan.unchecked {
        let _ = writeln!(
            out,
            "zone {zone} is older than the entries that are left, so its newest link was not \
             compared; chain-verify does that later"
        );
    }
    out
}

fn describe_survivor(out: &mut String, it: &Survivor) {
    let vote = it.vote.map_or("none".to_owned(), |(term, node, confirmed)| {
        format!("term {term} for coordinator {node}{}", if confirmed { ", elected" } else { "" })
    });
    let entries =
        it.entries.map_or("none".to_owned(), |(first, last)| format!("{first} to {last}"));
    let newest =
        it.last.map_or("none".to_owned(), |(index, term)| format!("{index} of term {term}"));
    let committed = it.committed.map_or("none".to_owned(), |index| index.to_string());
    let members: Vec<String> =
        it.members.iter().map(|(id, zone)| format!("{id} in {zone}")).collect();
    let _ = writeln!(
        out,
        "coordinator {} in {}\n  cluster        {}\n  members        {}\n  newest vote    {vote}\n  \
         log entries    {entries}\n  newest entry   {newest}\n  known committed {committed}, {}\n  \
         newest         {}",
        it.id,
        it.dir.display(),
        it.cluster,
        members.join(", "),
        head(it.committed_head),
        head(it.head),
    );
}

fn written(plan: &Plan, index: u64, term: u64) -> String {
    let keep = &plan.keep;
    let zone = keep.members.get(&keep.id).map(String::as_str).unwrap_or_default();
    format!(
        "written: entry {index} of term {term} makes coordinator {id} the only member\n\
         next:\n  \
         1. see to it that coordinators {missing} never start again: together they would still be a \
         majority of the old group, and order other writes under the same ids\n  \
         2. start coordinator {id} on {dir} with --member {id}={zone}=URL alone\n  \
         3. point the API nodes at it; zones that gave ids up have to be filled anew\n  \
         4. add new coordinators, with ids that were never used and empty directories (pghc members add)\n",
        id = keep.id,
        dir = keep.dir.display(),
        missing = list(plan.missing.iter().copied().chain(plan.others.iter().map(|it| it.id))),
    )
}
