//! Which zone can read which: found by trying, before a zone has to be filled.

use pghc_api::wire::{Status, ZoneReading};

use super::cluster::SmallCluster;
use crate::harness::wait_for;

/// Waits until `zone` says of `other` what `wanted` accepts.
async fn reading(
    cluster: &SmallCluster,
    zone: &str,
    other: &str,
    wanted: fn(&ZoneReading) -> bool,
) -> ZoneReading {
    wait_for(&format!("what zone {zone} says of {other}"), async || {
        let answer =
            cluster.http.get(format!("{}/v1/status", cluster.url(zone))).send().await.ok()?;
        let status: Status = answer.json().await.ok()?;
        status.readings.into_iter().find(|it| it.zone == other && wanted(it))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_say_which_zones_they_can_read() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    // Error of a copied api.toml: the advertised URL is another zone's.
    let wrong = cluster.url("eu");
    cluster.zone("us", &["--advertise", &wrong]).await;
    reading(&cluster, "us", "eu", |it| it.reads).await;
    let us = reading(&cluster, "eu", "us", |it| !it.reads).await;
    let why = us.message.expect("a reason");
    assert!(why.contains("a node of zone eu answers there"), "{why}");
    let metrics = cluster.http.get(format!("{}/metrics", cluster.url("eu"))).send().await;
    let metrics = metrics.expect("answered").text().await.expect("a body");
    assert!(metrics.contains("pghc_zone_can_read{of_zone=\"us\"} 0"), "{metrics}");

    // Without the setting, loopback is no address for others.
    let us = cluster.node_of("us");
    us.stop().await;
    us.arguments.retain(|word| *word != wrong && word != "--advertise");
    us.run();
    assert!(us.arguments.iter().all(|word| !word.starts_with("--advertise")));
    let silent = reading(&cluster, "eu", "us", |it| it.url.is_none()).await;
    assert!(silent.message.is_some_and(|why| why.contains("advertises no URL")));
    assert!(cluster.node_of("us").logged().contains("no URL advertised"));

    let right = format!("--advertise={}", cluster.url("us"));
    let us = cluster.node_of("us");
    us.stop().await;
    us.arguments.push(right);
    us.run();
    reading(&cluster, "eu", "us", |it| it.reads).await;
    cluster.stop().await;
}
