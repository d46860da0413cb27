//! Cut, lossy, slow and flapping links between zones: F5 to F8.
//!
//! Packet filters are on the bridge, in the path between zones and not between the test and the
//! zones: clients reach both sides of a partition, as I7 requires. Each fault has its own table,
//! whose counters are the evidence.

use std::time::Duration;

use anyhow::ensure;
use futures::FutureExt as _;

use super::{Aim, Class, Needs, Outcome, Scene, until};
use crate::cluster::ZONES;
use crate::sandbox::{script, tool};

pub(super) fn classes() -> Vec<Class> {
    let class = |name, number, aim, hold_ms, weight, run| Class {
        name,
        number,
        reduced: false,
        hold_ms,
        aim,
        needs: Needs::Network,
        weight,
        run,
    };
    vec![
        class("leader-isolated", "F5", Aim::Leader, (500, 5_000), 3, |s| isolated(s).boxed_local()),
        class("one-way-cut", "F6", Aim::Biased, (500, 4_000), 2, |s| one_way(s).boxed_local()),
        class("non-transitive-cut", "F6", Aim::Biased, (500, 4_000), 2, |s| pair(s).boxed_local()),
        class("packet-loss", "F7", Aim::Biased, (2_000, 5_000), 2, |s| loss(s).boxed_local()),
        class("flapping-link", "F7", Aim::Biased, (3_000, 6_000), 1, |s| flapping(s).boxed_local()),
        class("slow-link", "F8", Aim::Biased, (2_000, 6_000), 1, |s| slow(s).boxed_local()),
    ]
}

/// Zones other than `zone`.
fn others(zone: usize) -> impl Iterator<Item = usize> {
    (1..ZONES).map(move |step| (zone + step) % ZONES)
}

/// Drops what comes from one zone for another, `verdict` of it.
fn rule(from: usize, to: usize, verdict: &str) -> String {
    format!("iifname \"v{}\" oifname \"v{}\" {verdict}\n", from + 1, to + 1)
}

/// Longest time until a packet meets an active fault: other faults may have silenced its zones for
/// a while.
const MET_MAX: Duration = Duration::from_secs(30);

/// Pause between two reads of a counter.
const LOOK: Duration = Duration::from_millis(200);

/// Lasts, and then until `count` is not 0.
async fn met(
    scene: &Scene,
    what: &str,
    mut count: impl AsyncFnMut() -> Option<u64>,
) -> anyhow::Result<u64> {
    scene.hold().await;
    let found = until(what, MET_MAX, async || {
        let found = count().await.filter(|count| *count > 0);
        if found.is_none() {
            tokio::time::sleep(LOOK).await;
        }
        found
    });
    found.await
}

/// Puts the rules on the bridge for a while; they must have dropped something.
async fn filtered(scene: &Scene, rules: String) -> Outcome {
    let table = format!("fault{}", scene.seed);
    let text = format!(
        "table bridge {table} {{\nchain between {{\ntype filter hook forward priority 0;\n{rules}}}\n}}\n"
    );
    script(&["nft", "-f", "-"], &text)?;
    let listed = || tool(&["nft", "list", "table", "bridge", &table]).ok();
    let dropped = met(scene, "a packet meets the filter", async || Some(counted(&listed()?))).await;
    tool(&["nft", "delete", "table", "bridge", &table])?;
    let dropped = dropped?;
    Ok(format!("{dropped} packets dropped on the bridge in {:?}", scene.hold))
}

/// Sum of the packet counters of a listed table.
fn counted(listing: &str) -> u64 {
    let counters = listing.split("counter packets ").skip(1);
    counters.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
}

async fn isolated(scene: Scene) -> Outcome {
    let zone = scene.zone;
    let cut = |other| rule(zone, other, "counter drop") + &rule(other, zone, "counter drop");
    filtered(&scene, others(zone).map(cut).collect()).await
}

/// Blocks one direction of the zone's traffic.
async fn one_way(scene: Scene) -> Outcome {
    let zone = scene.zone;
    let deaf = scene.seed.is_multiple_of(2);
    let cut = |other| match deaf {
        true => rule(other, zone, "counter drop"),
        false => rule(zone, other, "counter drop"),
    };
    let evidence = filtered(&scene, others(zone).map(cut).collect()).await?;
    Ok(format!("zone {} {}: {evidence}", zone + 1, if deaf { "deaf" } else { "mute" }))
}

/// Two zones do not reach each other; the third reaches both.
async fn pair(scene: Scene) -> Outcome {
    let zone = scene.zone;
    let step = 1 + usize::try_from(scene.seed % 2)?;
    let other = (zone + step) % ZONES;
    let rules = rule(zone, other, "counter drop") + &rule(other, zone, "counter drop");
    filtered(&scene, rules).await
}

async fn loss(scene: Scene) -> Outcome {
    const LOSS: &str = "numgen random mod 100 < 30 counter drop";
    let zone = scene.zone;
    let cut = |other| rule(zone, other, LOSS) + &rule(other, zone, LOSS);
    filtered(&scene, others(zone).map(cut).collect()).await
}

/// The zone's cable is pulled and put back; clients lose it too.
async fn flapping(scene: Scene) -> Outcome {
    let link = format!("v{}", scene.zone + 1);
    let downs = || -> anyhow::Result<u64> {
        let path = format!("/sys/class/net/{link}/carrier_down_count");
        Ok(std::fs::read_to_string(path)?.trim().parse()?)
    };
    let end = tokio::time::Instant::now() + scene.hold;
    let (mut pulled, before) = (0, downs().unwrap_or(0));
    let mut flapped = Ok(String::new());
    while flapped.is_ok() && tokio::time::Instant::now() < end {
        flapped = tool(&["ip", "link", "set", &link, "down"]);
        pulled += u64::from(is_down(&link));
        tokio::time::sleep(Duration::from_millis(400)).await;
        flapped = flapped.and(tool(&["ip", "link", "set", &link, "up"]));
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    flapped?;
    ensure!(pulled > 0, "the link never went down");
    let counted = downs().unwrap_or(before).saturating_sub(before);
    Ok(format!("{link} went down {pulled} times (carrier lost {counted} times)"))
}

fn is_down(link: &str) -> bool {
    tool(&["ip", "-o", "link", "show", link]).is_ok_and(|text| text.contains("state DOWN"))
}

/// Traffic that leaves the zone is limited to 256 kbit/s.
async fn slow(scene: Scene) -> Outcome {
    let netns = format!("z{}", scene.zone + 1);
    let tc = |words: &str| {
        let line = format!("-n {netns} {words}");
        let words: Vec<&str> = ["tc"].into_iter().chain(line.split(' ')).collect();
        tool(&words)
    };
    tc("qdisc add dev e0 root tbf rate 256kbit burst 2kb latency 200ms")?;
    let over = async || {
        let met = || overlimits(&tc("-s qdisc show dev e0").ok()?);
        if met()? == 0 {
            // A zone that another fault has silenced sends too little: an answer of its database is enough.
            let sql = scene.cluster.sql(scene.zone).await.ok()?;
            let _ = sql.query("select repeat('x', 20000)").await;
        }
        met()
    };
    let over = met(&scene, "a packet meets the limit", over).await;
    tc("qdisc del dev e0 root")?;
    Ok(format!("{} packets met the limit of 256 kbit/s", over?))
}

/// Packets that had to wait, in what `tc -s` shows of a queue.
fn overlimits(shown: &str) -> Option<u64> {
    let (_, rest) = shown.split_once("overlimits ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{counted, overlimits};

    #[test]
    fn counters_of_a_listing_are_summed() {
        let listing =
            "iifname \"v1\" counter packets 12 bytes 600 drop\ncounter packets 3 bytes 9 drop";
        assert_eq!(counted(listing), 15);
        assert_eq!(counted("table bridge x { }"), 0);
    }

    #[test]
    fn queued_bytes_are_read() {
        let shown = "qdisc tbf 8090: root rate 256Kbit burst 2Kb lat 200ms \n Sent 1730 bytes 18 pkt \
                     (dropped 0, overlimits 7 requeues 0)";
        assert_eq!(overlimits(shown), Some(7));
        assert_eq!(overlimits("qdisc noqueue 0: root"), None);
    }
}
