//! Claims about runs in virtual time.

use std::collections::BTreeMap;
use std::path::Path;

use geo_load::virtual_run;
use pghc_lab::run::files;
use pghc_lab::run::outcome::{Outcome, Point};
use pghc_lab::run::scenario::Scenario;
use tokio_util::sync::CancellationToken;

async fn run(name: &str, changes: &[&str], to: &Path) -> Outcome {
    let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
    let scenario = Scenario::find(name, &changes).expect("a scenario");
    let finished = virtual_run::run(&scenario, &CancellationToken::new()).await;
    let finished = finished.expect("it runs to its end");
    files::write(to, &scenario, &finished).expect("the directory can be written");
    let outcome = finished.outcome;
    assert!(outcome.passed && outcome.is_virtual, "{outcome}");
    outcome
}

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(directory).expect("it was written");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("readable");
        let bytes = std::fs::read(entry.path()).expect("readable");
        (entry.file_name().into_string().expect("our names"), bytes)
    };
    files.map(read).collect()
}

/// Measured medians against the formula: within 3 %, zone by zone.
fn as_predicted(outcome: &Outcome) {
    for zone in &outcome.zones {
        let ratio = zone.model_ratio().expect("distances and a leader");
        assert!((0.97..1.03).contains(&ratio), "{}: {ratio}\n{outcome}", zone.zone);
    }
}

#[tokio::test]
async fn virtual_run_repeats_byte_by_byte_as_predicted() {
    let directory = tempfile::tempdir().expect("a directory");
    let changes =
        ["duration=6s", "warmup=2s", "clients.0.rate=25", "matrix.jitter=uniform 0.5ms", "seed=7"];
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let outcome = run("aws3", &changes, &one).await;
    as_predicted(&outcome);
    assert!(outcome.invalid.is_empty(), "{outcome}");
    run("aws3", &changes, &two).await;
    let (one, two) = (contents(&one), contents(&two));
    assert!(one.len() >= 9, "{:?}", one.keys());
    for (name, bytes) in &one {
        assert!(two.get(name) == Some(bytes), "{name} differs");
    }
}

#[tokio::test]
async fn learner_zones_serve_local_traffic() {
    let directory = tempfile::tempdir().expect("a directory");
    let changes = ["duration=3s", "warmup=2s", "clients.0.rate=5"];
    let outcome = run("aws9", &changes, directory.path()).await;
    as_predicted(&outcome);
    assert_eq!((outcome.voters.len(), outcome.zones.len()), (5, 9));
}

#[tokio::test]
async fn virtual_leader_crash_during_cut_loses_no_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let faults = "fault=[{at='3s', for='4s', cut={from=['leader']}}, \
                  {at='12s', for='4s', kill='coordinator@leader'}, \
                  {at='20s', for='2s', kill='api@eu-west-1'}, \
                  {at='23s', for='2s', kill='postgres@eu-west-1'}]";
    let changes =
        ["duration=30s", "warmup=2s", "clients.0.rate=5", "clients.0.timeout=20s", faults];
    let outcome = run("aws3", &changes, directory.path()).await;
    assert_eq!(outcome.events.len(), 4);
    let leaders: Vec<_> =
        outcome.leader_terms.iter().filter_map(|leader_term| leader_term.zone.clone()).collect();
    assert!(leaders.windows(2).any(|two| two[0] != two[1]), "{leaders:?}");
}

/// Told by the leader, so that its place matters; nine of ten writes come from elsewhere after a while.
#[tokio::test]
async fn the_lead_follows_the_writes_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let changes = [
        "duration=190s",
        "clients.0.rate=9",
        "clients.1.rate=0.5",
        "clients.2.rate=0.5",
        "phase=[{at='30s', zone='us-east-1', step=0.5}, {at='30s', zone='eu-west-1', step=9}]",
    ];
    let outcome = run("follow-the-traffic", &changes, directory.path()).await;
    let leader_terms: Vec<_> =
        outcome.leader_terms.iter().filter(|leader_term| leader_term.p50_ms.is_some()).collect();
    let zones: Vec<_> =
        leader_terms.iter().filter_map(|leader_term| leader_term.zone.as_deref()).collect();
    assert_eq!(zones, ["us-east-1", "eu-west-1"], "{outcome}");
    let moved_s = leader_terms[1].from_s;
    assert!((90.0..180.0).contains(&moved_s), "after three windows that agree: {moved_s}");
    let p50 = |second: i64| {
        let ours = |point: &&Point| point.second == second && point.zone == "eu-west-1";
        outcome.timeline.iter().find(ours).map(|point| point.p50_ms)
    };
    // By the formula 139.2 ms before and 69.6 ms after.
    let (before, after) = (p50(80).expect("writes"), p50(188).expect("writes"));
    assert!(before > 135.0 && after < 75.0, "{before} {after}");
}
