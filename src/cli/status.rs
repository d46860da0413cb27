//! `pghc status`: how a running deployment is doing, as a table or as JSON.
//!
//! Exit codes: 0 healthy, 1 something is wrong, 2 nothing answers or the question is not clear.
//! Which cluster is meant where no flag says so: `found`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use pghc_api::id::ZoneName;
use pghc_dev::observe::{Node, Observer, Overview};
use pghc_dev::postgres::socket_of;
use pghc_dev::record::DeploymentRecord;
use pghc_runtime::program::url;
use serde::Serialize;

use super::deployments::deployment;
use super::found::{Cluster, Found};
use super::view::{self, Format};
use super::zone;

/// Arguments of `pghc status`.
#[derive(Debug, Args)]
#[command(after_help = FOUND)]
pub struct Arguments {
    /// Data directory of a deployment on this machine
    #[arg(long, env = "PGHC_DATA", value_name = "DIR", conflicts_with = "api")]
    data: Option<PathBuf>,
    /// Base URL of an API node, for example http://127.0.0.1:8080; may be repeated
    #[arg(long, env = "PGHC_API", value_name = "URL", value_delimiter = ',', value_parser = url)]
    api: Vec<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    found: Found,
}

const FOUND: &str = "Commands that are not told which cluster is meant take the first of: the file of \
--config or PGHC_CONFIG, ./parade.json, the context of ~/.config/pghc/config.toml, \
/etc/pghc/coordinator.toml with /etc/pghc/api.toml, the only deployment that runs in a temporary directory.";

/// The JSON form.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    overview: &'a Overview,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "parade")]
    deployment: Option<&'a DeploymentRecord>,
}

/// Asks and prints.
pub async fn run(arguments: Arguments) -> ExitCode {
    let (nodes, record) = match find(&arguments).await {
        Ok(found) => found,
        Err(message) => {
            view::complain(&format!("pghc: {message}"));
            return ExitCode::from(2);
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
            let answer = Answer { overview: &overview, deployment: record.as_ref() };
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

fn print_table(overview: &Overview, record: Option<&DeploymentRecord>) {
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

/// The API nodes to query, and their deployment when it is on this machine.
async fn find(arguments: &Arguments) -> Result<(Vec<Node>, Option<DeploymentRecord>), String> {
    let named = |urls: &[String]| {
        urls.iter().map(|url| Node { zone: None, url: url.clone() }).collect::<Vec<_>>()
    };
    if !arguments.api.is_empty() {
        return Ok((named(&arguments.api), None));
    }
    let found = match &arguments.data {
        Some(data) => Cluster::of_deployment(deployment(data)?),
        None => arguments.found.cluster()?,
    };
    if let Some(record) = found.deployment {
        return Ok((Node::of_record(&record), Some(record)));
    }
    if !found.nodes.is_empty() {
        return Ok((named(&found.nodes), None));
    }
    let (cluster, coordinators) = found.reach()?;
    let nodes = named(&zone::nodes(cluster, coordinators).await?);
    if nodes.is_empty() {
        return Err("no zone has told where its API nodes are; say --api URL".to_owned());
    }
    Ok((nodes, None))
}

/// Nodes that have halted and why, in full: an operator must act on it.
fn halted_nodes(overview: &Overview) -> Vec<String> {
    let status = overview.nodes.iter().filter_map(|node| node.status.as_ref());
    let halted = status.filter_map(|status| Some((&status.node_id, status.halted.as_ref()?)));
    halted.map(|(node, why)| format!("API node {node} halted: {why}")).collect()
}

/// Databases and coordinators that take no connection: an API node may not have noticed yet.
async fn unreachable_parts(record: &DeploymentRecord) -> Vec<String> {
    let tries = record.zones.iter().flat_map(|zone| {
        let coordinator = zone.coordinator.trim_start_matches("http://").to_owned();
        let server = zone.dsn.rsplit_once('@').map(|(_, rest)| rest).unwrap_or_default();
        let server = server.split('/').next().unwrap_or_default().to_owned();
        let socket = socket_of(&zone.dsn);
        [
            takes_connection("coordinator", &zone.name, coordinator, None),
            takes_connection("PostgreSQL", &zone.name, server, socket),
        ]
    });
    futures::future::join_all(tries).await.into_iter().flatten().collect()
}

async fn takes_connection(
    what: &str,
    zone: &ZoneName,
    address: String,
    socket: Option<PathBuf>,
) -> Option<String> {
    let attempt = async {
        match &socket {
            Some(socket) => tokio::net::UnixStream::connect(socket).await.is_ok(),
            None => tokio::net::TcpStream::connect(&address).await.is_ok(),
        }
    };
    let limit = std::time::Duration::from_secs(2);
    let is_taken = tokio::time::timeout(limit, attempt).await.unwrap_or(false);
    let at = socket.map_or(address, |socket| socket.display().to_string());
    (!is_taken).then(|| format!("the {what} of zone {zone} takes no connection at {at}"))
}
