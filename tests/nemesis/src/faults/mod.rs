//! The faults. Each class is a function that injects, holds, heals, and returns evidence that the
//! fault occurred; without evidence the run fails.
//!
//! A class names the resources it needs for itself (no two faults share one) and the vote it takes
//! away, so a schedule keeps a quorum unless a class is about losing it.

pub mod clock;
mod database;
mod disk;
mod extra_clients;
mod forgery;
mod load;
mod members;
mod network;
pub mod power;
mod process;
mod replica;
mod resources;
pub mod versions;
mod whole;

use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;

use crate::cluster::{Cluster, Sql, View, Zone};
use crate::load::Load;

/// Longest time until a database is back from an earlier fault.
const DATABASE_MAX: Duration = Duration::from_secs(40);

/// Handles that a fault acts on.
#[derive(Clone)]
pub struct Scene {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// State polled from the cluster.
    pub view: Arc<View>,
    /// The clients.
    pub load: Arc<Load>,
    /// The zone that was chosen.
    pub zone: usize,
    /// How long the fault lasts.
    pub hold: Duration,
    /// A random number for choices of its own.
    pub seed: u64,
}

impl Scene {
    /// The zone that was chosen.
    pub fn zone(&self) -> &Zone {
        &self.cluster.zones[self.zone]
    }

    /// A connection to the zone's database, once it answers.
    ///
    /// # Errors
    /// When it does not for long: then something else is wrong.
    pub async fn database(&self) -> anyhow::Result<Sql> {
        until("the database answers", DATABASE_MAX, async || self.cluster.sql(self.zone).await.ok())
            .await
    }

    /// Lasts.
    pub async fn hold(&self) {
        tokio::time::sleep(self.hold).await;
    }
}

/// Evidence that it happened, or why it did not.
pub type Outcome = anyhow::Result<String>;

/// Which zone a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The leader's.
    Leader,
    /// A coordinator that does not lead.
    Follower,
    /// The leader's half of the time.
    Biased,
    /// Any.
    Any,
    /// The one with two API nodes.
    Pair,
}

/// Resources of the chosen zone that a fault needs for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The coordinator's process or disk; its vote is lost.
    Coordinator,
    /// The database's process or disk.
    Database,
    /// The API nodes.
    Api,
    /// The network between coordinators; the zone's vote is lost.
    Network,
    /// All of a zone.
    Zone,
    /// Nothing but the load.
    Load,
    /// Everything: no other fault runs.
    Everything,
}

/// A class of faults.
pub struct Class {
    /// Its name.
    pub name: &'static str,
    /// Its number in the matrix of faults.
    pub number: &'static str,
    /// Whether it works without a sandbox.
    pub reduced: bool,
    /// How long it lasts, in milliseconds.
    pub hold_ms: (u64, u64),
    /// Which zone.
    pub aim: Aim,
    /// The needed resources.
    pub needs: Needs,
    /// How often it comes, compared with others.
    pub weight: u32,
    /// Injects, holds, heals.
    pub run: fn(Scene) -> LocalBoxFuture<'static, Outcome>,
}

/// Every class; those of mixed versions only where there is another build.
pub fn catalogue(has_old: bool) -> Vec<Class> {
    let families: [Vec<Class>; 13] = [
        process::classes(),
        database::classes(),
        network::classes(),
        disk::classes(),
        clock::classes(),
        resources::classes(),
        forgery::classes(),
        whole::classes(),
        extra_clients::classes(),
        replica::classes(),
        load::classes(),
        members::classes(),
        if has_old { versions::classes() } else { Vec::new() },
    ];
    families.into_iter().flatten().collect()
}

/// Waits until `found` answers something.
///
/// # Errors
/// After `longest`: it did not happen.
pub async fn until<T>(
    what: &str,
    longest: Duration,
    mut found: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + longest;
    loop {
        if let Some(found) = found().await {
            return Ok(found);
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{what}: not within {longest:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
