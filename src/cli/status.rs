//! `pghc status`: how a running parade is doing, as a table or as JSON.
//!
//! Exit codes: 0 healthy, 1 something is wrong, 2 nothing answers or the question is not clear.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use pghc_api::id::ZoneName;
use serde::Serialize;

use super::process::url;
use super::view;
use crate::dev::observe::{Node, Observer, Overview};
use crate::dev::record::ParadeRecord;

/// Arguments of `pghc status`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Data directory of a parade on this machine
    #[arg(long, env = "PGHC_DATA", value_name = "DIR", conflicts_with = "api")]
    data: Option<PathBuf>,
    /// Base URL of an API node, for example http://127.0.0.1:8080; may be repeated
    #[arg(long, env = "PGHC_API", value_name = "URL", value_delimiter = ',', value_parser = url)]
    api: Vec<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs: one object.
    Json,
}

/// The JSON form.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    overview: &'a Overview,
    #[serde(skip_serializing_if = "Option::is_none")]
    parade: Option<&'a ParadeRecord>,
}

/// Asks and prints.
pub async fn run(arguments: Arguments) -> ExitCode {
    let record = match find(&arguments) {
        Ok(record) => record,
        Err(message) => {
            view::complain(&format!("pghc: {message}"));
            return ExitCode::from(2);
        }
    };
    let nodes = match &record {
        Some(record) => Node::of_record(record),
        None => {
            let node = |url: &String| Node { zone: None, url: url.clone() };
            arguments.api.iter().map(node).collect()
        }
    };
    let mut overview = Observer::new(nodes).look().await;
    let mut more = halted_nodes(&overview);
    if let Some(record) = &record {
        more.extend(unreachable_parts(record).await);
    }
    overview.healthy &= more.is_empty();
    overview.problems.extend(more);
    match arguments.format {
        Format::Table => print_table(&overview, record.as_ref()),
        Format::Json => {
            let answer = Answer { overview: &overview, parade: record.as_ref() };
            let text = serde_json::to_string_pretty(&answer);
            view::print(&text.expect("these structures are plain JSON"));
        }
    }
    if overview.nodes.iter().all(|node| node.node_id.is_none()) {
        ExitCode::from(2)
    } else if overview.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_table(overview: &Overview, record: Option<&ParadeRecord>) {
    if let Some(cluster) = &overview.cluster_id {
        view::print(&format!("cluster {cluster}"));
        view::print(&view::line(overview));
        view::print(&view::zones(overview).to_string());
    }
    match record {
        Some(record) => view::print(&view::endpoints(record).to_string()),
        None => view::print(&view::nodes(overview).to_string()),
    }
    for problem in &overview.problems {
        view::print(&format!("problem: {problem}"));
    }
    if overview.healthy {
        view::print("healthy");
    }
}

/// The parade that is meant; `None` when nodes were named instead.
fn find(arguments: &Arguments) -> Result<Option<ParadeRecord>, String> {
    if !arguments.api.is_empty() {
        return Ok(None);
    }
    parade(arguments.data.as_deref(), "--api URL").map(Some)
}

/// The record of the parade on `data`, or of the only one that runs in a temporary directory.
///
/// # Errors
/// A sentence for people that tells of `--data` and of the `other` way to say what is meant.
pub(super) fn parade(data: Option<&Path>, other: &str) -> Result<ParadeRecord, String> {
    if let Some(data) = data {
        return read(data);
    }
    let mut running: Vec<PathBuf> = temporary_parades();
    match (running.pop(), running.is_empty()) {
        (Some(data), true) => read(&data),
        (None, _) => Err(format!("no parade was found; say where: --data DIR or {other}")),
        (Some(_), false) => {
            Err(format!("several parades are running; say which: --data DIR or {other}"))
        }
    }
}

fn read(data: &Path) -> Result<ParadeRecord, String> {
    ParadeRecord::read(data).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let data = data.display();
            format!("no parade runs on {data}; start one: pghc dev --data {data}")
        }
        _ => format!("{}/parade.json is not readable: {error}", data.display()),
    })
}

/// Temporary directories in which `pghc dev` runs without `--data`.
fn temporary_parades() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return Vec::new() };
    let is_parade = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| name.starts_with("pghc-dev-")) && ParadeRecord::read(path).is_ok()
    };
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_parade).collect()
}

/// Nodes that have halted and why, in full: an operator must act on it.
fn halted_nodes(overview: &Overview) -> Vec<String> {
    let status = overview.nodes.iter().filter_map(|node| node.status.as_ref());
    let halted = status.filter_map(|status| Some((&status.node_id, status.halted.as_ref()?)));
    halted.map(|(node, why)| format!("API node {node} halted: {why}")).collect()
}

/// Databases and coordinators that take no connection: an API node may not have noticed yet.
async fn unreachable_parts(record: &ParadeRecord) -> Vec<String> {
    let tries = record.zones.iter().flat_map(|zone| {
        let coordinator = zone.coordinator.trim_start_matches("http://").to_owned();
        let database = zone.dsn.rsplit_once('@').map(|(_, rest)| rest).unwrap_or_default();
        let database = database.split('/').next().unwrap_or_default().to_owned();
        [
            takes_connection("coordinator", &zone.name, coordinator),
            takes_connection("PostgreSQL", &zone.name, database),
        ]
    });
    futures::future::join_all(tries).await.into_iter().flatten().collect()
}

async fn takes_connection(what: &str, zone: &ZoneName, address: String) -> Option<String> {
    let attempt = tokio::net::TcpStream::connect(&address);
    let limit = std::time::Duration::from_secs(2);
    match tokio::time::timeout(limit, attempt).await {
        Ok(Ok(_)) => None,
        _ => Some(format!("the {what} of zone {zone} takes no connection at {address}")),
    }
}
