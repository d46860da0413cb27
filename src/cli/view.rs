//! A deployment in words: tables, one-line summaries and errors with their causes.

use clap::ValueEnum;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use pghc_api::wire::{ZoneReading, ZoneState};
use pghc_dev::observe::Overview;
use pghc_dev::record::DeploymentRecord;
pub(super) use pghc_runtime::output::print;
use pghc_runtime::program::with_causes;
use pghc_runtime::rpc::v1::MemberList;

/// Age of the data from which on the age is shown.
const AGE_SHOWN_MS: u64 = 5_000;

/// Form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs: one object.
    Json,
}

/// An empty table.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// Prints a line for people to standard error.
pub(super) fn complain(text: &str) {
    pghc_runtime::program::remark(text);
}

/// Where everything of a deployment is.
pub(super) fn endpoints(record: &DeploymentRecord) -> Table {
    let mut table = table(&["zone", "API nodes", "PostgreSQL", "coordinator"]);
    for zone in &record.zones {
        let row = [zone.name.to_string(), zone.api.join("\n"), zone.dsn.clone()];
        table.add_row(row.into_iter().chain([zone.coordinator.clone()]));
    }
    table
}

/// How the zones are doing.
pub(super) fn zones(overview: &Overview) -> Table {
    let mut table = table(&["zone", "state", "frontier", "behind", "applier", "coordinator"]);
    for zone in &overview.zones {
        let leads = overview.leader_zone.as_deref() == Some(&zone.zone);
        table.add_row([
            zone.zone.clone(),
            state(zone.state).to_owned(),
            zone.frontier.to_string(),
            zone.lag_ids.to_string(),
            zone.applier.clone().unwrap_or_else(|| "none".to_owned()),
            if leads { "leads" } else { "follows" }.to_owned(),
        ]);
    }
    table
}

/// The coordinators of a group.
pub(super) fn members(list: &MemberList) -> Table {
    let mut table = table(&["id", "zone", "role", "state", "acknowledged", "URL", "incarnation"]);
    for member in &list.members {
        let role = match (member.voter, member.coordinator_id == list.leader) {
            (true, true) => "leader",
            (true, false) => "voter",
            (false, _) => "learner",
        };
        table.add_row([
            member.coordinator_id.to_string(),
            member.zone.clone(),
            role.to_owned(),
            if member.reachable { "answers" } else { "silent" }.to_owned(),
            format!("{} of {}", member.acknowledged_next, list.committed_next),
            member.url.clone(),
            member.incarnation.chars().take(8).collect(),
        ]);
    }
    table
}

/// How the API nodes are doing.
pub(super) fn nodes(overview: &Overview) -> Table {
    let mut table = table(&["API node", "zone", "URL", "ready", "reads zones"]);
    for node in &overview.nodes {
        table.add_row([
            node.node_id.clone().unwrap_or_else(|| "?".to_owned()),
            node.zone.clone().unwrap_or_else(|| "?".to_owned()),
            node.url.clone(),
            if node.ready { "yes" } else { "no" }.to_owned(),
            readable(&node.readings),
        ]);
    }
    table
}

/// Zones that a node can read, and those that it cannot.
fn readable(readings: &[ZoneReading]) -> String {
    let names = |reads| {
        let named = readings.iter().filter(move |it| it.reads == reads).map(|it| it.zone.as_str());
        named.collect::<Vec<_>>().join(", ")
    };
    match (names(true), names(false)) {
        (none, fails) if none.is_empty() && fails.is_empty() => "not tried yet".to_owned(),
        (reads, fails) if fails.is_empty() => reads,
        (reads, fails) if reads.is_empty() => format!("not {fails}"),
        (reads, fails) => format!("{reads}; not {fails}"),
    }
}

/// The whole in one line.
pub(super) fn line(overview: &Overview) -> String {
    let leader = match (overview.leader, &overview.leader_zone) {
        (Some(id), Some(zone)) => format!("leader {id} in {zone}, term {}", overview.term),
        (Some(id), None) => format!("leader {id}, term {}", overview.term),
        (None, _) => "no leader".to_owned(),
    };
    let zone = |zone: &pghc_dev::observe::ZoneView| {
        let state = match zone.state {
            ZoneState::Live => String::new(),
            other => format!(" {}", state(other)),
        };
        format!("{} {} (-{}){state}", zone.zone, zone.frontier, zone.lag_ids)
    };
    let zones: Vec<String> = overview.zones.iter().map(zone).collect();
    let not_ready = overview.nodes.iter().filter(|node| !node.ready).count();
    let nodes = match not_ready {
        0 => String::new(),
        count => format!(" | {count} API node(s) not ready"),
    };
    let age = match overview.heard_ms {
        Some(ms) if ms >= AGE_SHOWN_MS => format!(" | as of {} s ago", ms / 1_000),
        _ => String::new(),
    };
    format!("head {} | {} | {leader}{nodes}{age}", overview.head, zones.join("  "))
}

const fn state(state: ZoneState) -> &'static str {
    match state {
        ZoneState::Live => "live",
        ZoneState::Lagging => "lagging",
        ZoneState::Detached => "detached",
        ZoneState::Reseeding => "reseeding",
        ZoneState::Halted => "halted",
        ZoneState::Stalled => "stalled",
        ZoneState::Silent => "silent",
    }
}

/// An error and what caused it, in one line.
pub(super) fn error(error: &dyn std::error::Error) -> String {
    format!("pghc: {}", with_causes(error))
}
