//! Bulk writes between continents against the same writes without distances: measures the
//! throughput lost to round trips.

use anyhow::Context as _;
use pghc_wan::conditions::Change;

use super::closed::Tally;
use super::load::{self, Bulk};
use super::measure::Measure;
use super::sample::Sample;
use super::zones::Zones;
use crate::net::Remote;

/// The regions: a matrix that comes with the program.
pub(super) const MATRIX: &str = "aws3";

/// Many clients with short requests, so that what is under way covers the longest round trip.
const BULK: Bulk = Bulk { streams_per_zone: 64, lines_max: 100 };

/// Measures with the matrix's distances, then without any distance, in the same processes and
/// databases (so write-back of the first run may slow the second). Rate and latency are those of
/// the first run. Figures: `applied_per_second`, and without distances `near_applied_per_second`.
/// Restores the distances on success.
///
/// # Errors
/// When a node cannot be reached, or the distances cannot be changed.
pub(super) async fn measure(
    measure: &Measure<'_>,
    net: &Remote,
    zones: &Zones,
) -> anyhow::Result<Sample> {
    let (far, applied) = bulk(measure, zones).await?;
    let distances = net.show().await.context("cannot learn the distances")?.links;
    let none = Change { delay_ms: Some(0.0), ..Change::default() };
    net.set("*", "*", &none).await.context("cannot take the distances away")?;
    let (_, near_applied) = bulk(measure, zones).await?;
    for line in &distances {
        let back = net.set(line.from.as_str(), line.to.as_str(), &Change::from(line)).await;
        back.context("cannot bring the distances back")?;
    }
    let mut sample = Sample::of(far);
    sample.figure("applied_per_second", applied);
    sample.figure("near_applied_per_second", near_applied);
    Ok(sample)
}

/// Runs one window of load; returns the links per second that every zone applied in it.
async fn bulk(measure: &Measure<'_>, zones: &Zones) -> anyhow::Result<(Tally, f64)> {
    let window = measure.window();
    let load = load::bulk_of(measure.target, BULK, measure.payload_bytes, window);
    let measured = tokio::try_join!(load, zones.applied_in(window))?;
    zones.settled().await?;
    Ok(measured)
}
