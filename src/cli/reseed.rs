//! `pghc zone reseed` and `pghc zone adopt`: sets a zone's chain aside so that it is backfilled,
//! and gives a copy of one zone's database to another zone.
//!
//! Exit codes: 0 done (or shown, with `--dry-run`), 1 refused, 2 wrong usage.

use std::process::ExitCode;

use clap::Args;
use pghc_api::id::ZoneName;
use pghc_postgres::Dsn;
use pghc_postgres::reseed::{Operator, ReseedError, Standing};
use pghc_runtime::task::Tasks;

use super::view;

/// Set the chain of a zone's database aside unchanged, and put an empty one in its place, which the
/// zone's API nodes backfill: from the coordinators' log, or from another zone where the log does
/// not reach back. The nodes may be running or not; running nodes notice it within about a second.
#[derive(Debug, Args)]
pub struct Reseed {
    /// The zone's PostgreSQL, with the login that set it up (pghc_setup of setup.sql) or a superuser.
    #[arg(long, env = "PGHC_DATABASE", hide_env_values = true)]
    database: Dsn,
    /// Show what would be done and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Also where nothing says that the chain is wrong.
    #[arg(long)]
    force: bool,
}

/// Gives the chain in a database to another zone: after a physical copy of one zone's server became
/// the beginning of another's. No API node may run on it yet.
#[derive(Debug, Args)]
pub struct Adopt {
    /// The copy's PostgreSQL, with the login that set it up (pghc_setup of setup.sql) or a superuser.
    #[arg(long, env = "PGHC_DATABASE", hide_env_values = true)]
    database: Dsn,
    /// The zone it shall be of.
    #[arg(long)]
    zone: ZoneName,
    /// Show what would be done and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Database(#[from] ReseedError),
    #[error("there is no chain in this database; an API node that is started on it fills it")]
    NoChain,
    #[error("this server is a replica: name the primary")]
    Replica,
    #[error(
        "nothing says that this chain is wrong: zone {zone} stands at id {applied_id} and has no \
         evidence against it; --force if it shall be replaced all the same"
    )]
    Healthy { zone: String, applied_id: u64 },
    #[error(
        "API node {node} applies to this database ({idle_s:.0} s ago): this is no copy, or a copy in \
         use; stop that node first"
    )]
    InUse { node: String, idle_s: f64 },
}

/// A node that renewed its right to apply so lately may be alive.
const IDLE_S_MIN: f64 = 10.0;

/// Runs `pghc zone reseed`.
pub async fn reseed(arguments: Reseed) -> ExitCode {
    let tasks = Tasks::default();
    end(do_reseed(&arguments, &tasks).await, &tasks).await
}

/// Runs `pghc zone adopt`.
pub async fn adopt(arguments: Adopt) -> ExitCode {
    let tasks = Tasks::default();
    end(do_adopt(&arguments, &tasks).await, &tasks).await
}

async fn end(done: Result<(), Refusal>, tasks: &Tasks) -> ExitCode {
    tasks.shut_down().await;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            view::complain(&view::error(&refusal));
            ExitCode::FAILURE
        }
    }
}

async fn look(operator: &Operator) -> Result<Standing, Refusal> {
    let standing = operator.standing().await?.ok_or(Refusal::NoChain)?;
    let Standing { cluster, zone, applied_id, .. } = &standing;
    view::print(&format!("zone {zone} of cluster {cluster} stands at id {applied_id}"));
    match &standing.evidence {
        Some(evidence) => view::print(&format!("it is fenced: {evidence}")),
        None => view::print("there is no evidence against its chain"),
    }
    if standing.is_replica {
        return Err(Refusal::Replica);
    }
    operator.check_rights().await?;
    Ok(standing)
}

async fn do_reseed(arguments: &Reseed, tasks: &Tasks) -> Result<(), Refusal> {
    let mut operator = Operator::connect(&arguments.database, tasks).await?;
    let Standing { cluster, zone, applied_id, evidence, .. } = look(&operator).await?;
    if evidence.is_none() && !arguments.force {
        return Err(Refusal::Healthy { zone, applied_id });
    }
    // Microseconds, so an immediate second reseed does not meet the name of the first.
    let aside = format!("pghc_evidence_{}", jiff::Timestamp::now().strftime("%Y%m%dt%H%M%S%6f"));
    if arguments.dry_run {
        view::print(&format!("would set the schema pghc aside as {aside}; nothing was changed"));
        return Ok(());
    }
    // A claim that was changed by hand cannot be kept: then the next node that may claims it.
    let claim = cluster.parse().ok().zip(zone.parse().ok());
    operator.replace(&aside, claim.as_ref().map(|(cluster, zone)| (cluster, zone))).await?;
    view::print(&format!(
        "the chain was set aside as schema {aside}; drop it when it is no longer needed"
    ));
    view::print(
        "an empty chain stands in its place, and the zone's API nodes fill it; `pghc status` shows how \
         far they are. If none runs, start one.",
    );
    Ok(())
}

async fn do_adopt(arguments: &Adopt, tasks: &Tasks) -> Result<(), Refusal> {
    let operator = Operator::connect(&arguments.database, tasks).await?;
    let standing = look(&operator).await?;
    let (idle_s, zone) = (standing.idle_s, &arguments.zone);
    if let Some(node) = standing.applier.filter(|_| idle_s < IDLE_S_MIN) {
        return Err(Refusal::InUse { node, idle_s });
    }
    if arguments.dry_run {
        view::print(&format!("would give it to zone {zone}; nothing was changed"));
        return Ok(());
    }
    operator.adopt(zone).await?;
    view::print(&format!("it is of zone {zone} now; start an API node of that zone on it"));
    Ok(())
}
