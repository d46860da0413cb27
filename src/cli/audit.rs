//! `pghc zone audit`: the chain of a zone's database audited now, at the word of a person.
//!
//! Exit codes, as those of `chain-verify`: 0 sound, 1 violation (the zone is fenced), 2 incomplete,
//! 3 usage.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use pghc_api::id::WriteId;
use pghc_postgres::Dsn;
use pghc_runtime::program::url;
use pghc_runtime::task::Tasks;
use pghc_server::zone::audit::inspect::{InspectError, Inspected, inspect};

use super::deployments::{deployment, only_deployment};
use super::found::{Cluster, Found};
use super::view;

/// The question cannot be right.
pub(super) const USAGE: u8 = 3;

const VIOLATION: u8 = 1;
const INCOMPLETE: u8 = 2;

/// Recomputes the chain of a zone's database now, and compares it with what the coordinators have
/// confirmed. A violation is kept as evidence and fences the zone at once: within about a second its
/// API nodes serve and apply nothing. Exit code 0: sound, 1: violation, 2: incomplete, 3: wrong usage.
#[derive(Debug, Args)]
pub struct Audit {
    /// The zone's PostgreSQL, with the login of its API nodes or of the schema's owner.
    #[arg(long, env = "PGHC_DATABASE", hide_env_values = true)]
    database: Dsn,
    /// URL of a coordinator that vouches for the chain, for example http://127.0.0.1:7101; may be
    /// repeated [default: those of the cluster that is found, see pghc status --help]. Without one a
    /// sound chain is called incomplete.
    #[arg(long, env = "PGHC_COORDINATOR", value_name = "URL", value_delimiter = ',',
          value_parser = url)]
    coordinator: Vec<String>,
    /// Data directory of a deployment on this machine, whose coordinators are asked
    #[arg(long, env = "PGHC_DATA", value_name = "DIR", conflicts_with = "coordinator")]
    data: Option<PathBuf>,
    #[command(flatten)]
    found: Found,
    /// First link to recompute; the end of the chain is compared in any case
    #[arg(long, value_name = "ID", default_value = "1")]
    from: WriteId,
}

/// Runs `pghc zone audit`.
pub async fn audit(arguments: Audit) -> ExitCode {
    let coordinators = match coordinators(&arguments) {
        Ok(coordinators) => coordinators,
        Err(message) => {
            view::complain(&format!("pghc: {message}"));
            return ExitCode::from(USAGE);
        }
    };
    let tasks = Tasks::default();
    let inspected = inspect(&arguments.database, &coordinators, arguments.from, &tasks).await;
    tasks.shut_down().await;
    match inspected {
        Ok(inspected) => {
            let (words, code) = tell(&inspected, arguments.from);
            view::print(&words);
            ExitCode::from(code)
        }
        Err(error) => {
            view::complain(&view::error(&error));
            ExitCode::from(match error {
                InspectError::Database(_) | InspectError::NoChain => INCOMPLETE,
                InspectError::Above { .. } | InspectError::Url(_) => USAGE,
            })
        }
    }
}

fn coordinators(arguments: &Audit) -> Result<Vec<String>, String> {
    if !arguments.coordinator.is_empty() {
        return Ok(arguments.coordinator.clone());
    }
    if let Some(data) = &arguments.data {
        return Ok(Cluster::of_deployment(deployment(data)?).coordinators);
    }
    // Without any, a sound chain is called incomplete.
    let found = arguments
        .found
        .configured()?
        .or_else(|| only_deployment().ok().map(Cluster::of_deployment));
    Ok(found.map(|found| found.coordinators).unwrap_or_default())
}

fn tell(inspected: &Inspected, from: WriteId) -> (String, u8) {
    match inspected {
        Inspected::Sound(None) => ("SOUND: the chain is empty".to_owned(), 0),
        Inspected::Sound(Some(head)) => {
            let words = format!(
                "SOUND: links {from} to {} were recomputed, and the coordinators vouch for the last \
                 one, digest {}",
                head.id, head.digest
            );
            (words, 0)
        }
        Inspected::Fenced(evidence) => (format!("VIOLATION: {evidence}"), VIOLATION),
        Inspected::Unfenced(evidence) => {
            let words = format!(
                "VIOLATION: {evidence}\nThe evidence could not be kept (see above), so the zone is \
                 not fenced: stop its API nodes"
            );
            (words, VIOLATION)
        }
        Inspected::Unproved(why) => {
            let words = format!(
                "INCOMPLETE: the chain is sound in itself, but no majority of coordinators has \
                 confirmed that it is the one that was ordered: {why}. Name coordinators that answer \
                 (--coordinator URL) and repeat it; links that no coordinator knows though a majority \
                 answers are forged, unless the coordinators were set back"
            );
            (words, INCOMPLETE)
        }
        Inspected::Moved => {
            let words = "INCOMPLETE: the database was replaced meanwhile; repeat it".to_owned();
            (words, INCOMPLETE)
        }
    }
}
