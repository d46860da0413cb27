//! The zones' databases as they are measured: how far each has applied.
//!
//! Asked by SQL and not by HTTP, so that an API node that is away or busy does not matter.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use pghc_runtime::task::Tasks;
use tokio_postgres::Client;

use super::closed::Window;
use super::servers::connect_to;
use crate::target::{Target, Zone};

const FRONTIER: &str = "select applied_id from pghc.frontier";

/// Longest wait until all zones have applied everything.
pub(super) const SETTLED_MAX: Duration = Duration::from_secs(120);
/// Time between two polls of a frontier.
const POLL: Duration = Duration::from_millis(10);
/// Longest wait for the answer of a database that is not frozen.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A connection to each zone's database.
pub(super) struct Zones {
    zones: Vec<(String, Client)>,
}

impl Zones {
    /// Connects to all zones of `target`.
    ///
    /// # Errors
    /// When one database takes no connection.
    pub(super) async fn connect(target: &Target, tasks: &Tasks) -> anyhow::Result<Self> {
        let one = async |zone: &Zone| {
            let client = connect_to(&zone.dsn, tasks).await;
            let client =
                client.with_context(|| format!("cannot reach zone {}'s database", zone.name))?;
            anyhow::Ok((zone.name.clone(), client))
        };
        Ok(Self { zones: try_join_all(target.zones.iter().map(one)).await? })
    }

    /// The databases' clients, in the order of the target.
    pub(super) fn clients(&self) -> impl Iterator<Item = &Client> {
        self.zones.iter().map(|(_, client)| client)
    }

    /// Newest id applied in each zone.
    ///
    /// # Errors
    /// When a database does not answer.
    pub(super) async fn frontiers(&self) -> anyhow::Result<Vec<u64>> {
        try_join_all(self.zones.iter().map(|(zone, client)| frontier(zone, client))).await
    }

    /// Newest id applied in the zone of this number.
    ///
    /// # Errors
    /// When its database does not answer.
    pub(super) async fn frontier(&self, place: usize) -> anyhow::Result<u64> {
        let (zone, client) = &self.zones[place];
        frontier(zone, client).await
    }

    /// Newest id that every zone has applied.
    ///
    /// # Errors
    /// When a database does not answer.
    pub(super) async fn everywhere(&self) -> anyhow::Result<u64> {
        Ok(self.frontiers().await?.into_iter().min().unwrap_or_default())
    }

    /// Links a second that became applied in *every* zone within the window.
    ///
    /// # Errors
    /// When a database does not answer.
    pub(super) async fn applied_in(&self, window: Window) -> anyhow::Result<f64> {
        tokio::time::sleep_until(window.begin().into()).await;
        let (from, begun) = (self.everywhere().await?, Instant::now());
        tokio::time::sleep_until(window.end().into()).await;
        let (to, ended) = (self.everywhere().await?, Instant::now());
        Ok(per_second(to.saturating_sub(from), ended - begun))
    }

    /// Waits until all zones have applied the same id, which happens after the last write; returns
    /// the id.
    ///
    /// # Errors
    /// When they are not after [`SETTLED_MAX`], or a database does not answer.
    pub(super) async fn settled(&self) -> anyhow::Result<u64> {
        let deadline = Instant::now() + SETTLED_MAX;
        let mut before = None;
        loop {
            let now = self.frontiers().await?;
            let equal = now.iter().all(|id| *id == now[0]);
            // Twice, since what is still in the log may reach all of them at the same pace.
            if equal && before.as_ref() == Some(&now) {
                return Ok(now[0]);
            }
            if Instant::now() >= deadline {
                let places: Vec<_> = self.zones.iter().map(|(zone, _)| zone.as_str()).collect();
                bail!("zones {} are at {now:?} after {SETTLED_MAX:?}", places.join(", "));
            }
            before = Some(now);
            tokio::time::sleep(POLL * 5).await;
        }
    }

    /// Waits until the zone of this number has passed `id`; returns where it then is, and when.
    ///
    /// # Errors
    /// When it has not after `patience`, or its database does not answer.
    pub(super) async fn passed(
        &self,
        place: usize,
        id: u64,
        patience: Duration,
    ) -> anyhow::Result<(u64, Instant)> {
        let deadline = Instant::now() + patience;
        loop {
            let at = self.frontier(place).await?;
            let now = Instant::now();
            if at > id {
                return Ok((at, now));
            }
            if now >= deadline {
                bail!("zone {} is still at {at} after {patience:?}", self.zones[place].0);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn frontier(zone: &str, client: &Client) -> anyhow::Result<u64> {
    let asked = tokio::time::timeout(ANSWER_MAX, client.query_one(FRONTIER, &[])).await;
    let row = asked
        .with_context(|| format!("zone {zone}'s database did not answer within {ANSWER_MAX:?}"))?
        .with_context(|| format!("zone {zone}'s database does not tell its frontier"))?;
    let id: i64 = row.try_get(0)?;
    Ok(u64::try_from(id).unwrap_or_default())
}

/// A rate; 0 when no time passed.
#[expect(clippy::cast_precision_loss, reason = "a bench counts far below 2^52")]
pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}
