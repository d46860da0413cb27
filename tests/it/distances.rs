//! Coordinators and zones that are far apart: measured, borne, and written to from learners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::wire::{HeadBody, Status};
use pghc_dev::deployment::{Deployment, DeploymentOptions, Profile};
use pghc_runtime::rpc::v1::change_request::Kind as ChangeKind;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::v1::members_client::MembersClient;
use pghc_runtime::rpc::v1::{
    ChangeRequest, PlacementRequest, PlacementView, SubmitRequest, ZoneReport,
};
use pghc_runtime::rpc::{self, Caller};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::{
    Acks, Coordinator, Geo, Retention, Settings, Timing, measured, topology,
};
use pghc_server::sequencer::{Batch, Write};
use pghc_wan::conditions::Change;
use pghc_wan::{Matrix, Wan};

use crate::harness::{PATIENCE, binary, check_zone, free_addresses, unless_held, wait_for};

/// Three coordinators in one process, each two of them as far apart as a matrix says.
struct Group {
    cluster: ClusterId,
    running: BTreeMap<u64, Coordinator>,
    settings: BTreeMap<u64, Settings>,
    _wan: Wan,
    tasks: Tasks,
    dir: tempfile::TempDir,
}

impl Group {
    async fn start(matrix: Matrix, timing: Timing, adapts: bool, change: &Change) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let tasks = Tasks::default();
        let zones: Vec<ZoneName> = matrix.zones().to_vec();
        let wan = Wan::start(matrix, 11, &tasks).expect("a thread");
        wan.set("*", "*", change).expect("possible conditions");
        let addresses = free_addresses(zones.len());
        let cluster: ClusterId = "00000000-0000-4000-8000-00000000000d".parse().expect("a UUID");
        let mut settings = BTreeMap::new();
        for (place, from) in zones.iter().enumerate() {
            let mut members = BTreeMap::new();
            for (other, to) in zones.iter().enumerate() {
                let direct = addresses[other];
                let address = match other == place {
                    true => direct,
                    false => wan.route(from, to, direct).await.expect("a route"),
                };
                members.insert(other as u64 + 1, (to.clone(), format!("http://{address}")));
            }
            let id = place as u64 + 1;
            settings.insert(
                id,
                Settings {
                    cluster: cluster.clone(),
                    id,
                    data: dir.path().join(id.to_string()),
                    listen: addresses[place],
                    members,
                    join: false,
                    zones: zones.clone(),
                    timing,
                    geo: Geo { adapts, ..Geo::default() },
                    retention: Retention::default(),
                    acks: Acks::AllToAll,
                    metrics: Metrics::for_coordinator(),
                },
            );
        }
        let running = BTreeMap::new();
        let mut group = Self { cluster, running, settings, _wan: wan, tasks, dir };
        for id in 1..=zones.len() as u64 {
            group.run(id).await;
        }
        group
    }

    async fn run(&mut self, id: u64) {
        let coordinator = wait_for("the coordinator to start", async || {
            unless_held(Coordinator::start(self.settings[&id].clone()).await)
        });
        let coordinator = coordinator.await.expect("started");
        self.running.insert(id, coordinator);
    }

    fn caller(&self, id: u64) -> Caller {
        let url = format!("http://{}", self.running[&id].address());
        rpc::connect(&url, &self.cluster, Duration::from_secs(2)).expect("a URL")
    }

    /// The leader and its term, once all agree.
    async fn leader(&self) -> (u64, u64) {
        wait_for("a leader that all know", async || {
            let mut known = Vec::new();
            for id in self.running.keys() {
                let mut client = CoordinatorClient::new(self.caller(*id));
                let view = client.report(ZoneReport::default()).await.ok()?.into_inner();
                known.push((view.leader, view.term));
            }
            (known[0].0 > 0 && known.iter().all(|it| *it == known[0])).then_some(known[0])
        })
        .await
    }

    async fn write(&self, through: u64, sequence: u64) {
        let write = Write { key: None, payload: Some("1".into()) };
        let node = "a-1".parse().expect("a plain name");
        let batch = Batch { session: [3; 16], sequence, node, writes: vec![write] }.encode();
        let request = SubmitRequest { batch, max_wait_ms: 20_000, ..SubmitRequest::default() };
        wait_for("an acknowledgement", async || {
            let mut client = CoordinatorClient::new(self.caller(through));
            client.submit(request.clone()).await.ok()
        })
        .await;
    }

    /// Makes `id` the leader, known to all; returns the leader and its term.
    async fn lead(&self, id: u64) -> (u64, u64) {
        wait_for("the leader that is wanted", async || {
            let now = self.leader().await;
            if now.0 == id {
                return Some(now);
            }
            let lead = ChangeKind::Lead.into();
            let lead = ChangeRequest { kind: lead, coordinator_id: id, ..ChangeRequest::default() };
            let mut members = MembersClient::new(self.caller(now.0));
            let mut lines = members.change(lead).await.ok()?.into_inner();
            while let Ok(Some(_)) = lines.message().await {}
            None
        })
        .await
    }

    async fn view(&self, id: u64) -> Option<PlacementView> {
        let mut client = MembersClient::new(self.caller(id));
        Some(client.placement(PlacementRequest {}).await.ok()?.into_inner())
    }

    /// Stops everything; returns where the data is.
    async fn stop(self) -> tempfile::TempDir {
        for coordinator in self.running.into_values() {
            coordinator.stop().await;
        }
        self.tasks.shut_down().await;
        self.dir
    }
}

/// Watches how long the machine lets a thread wait that is due.
struct Pauses {
    over: Arc<AtomicBool>,
    watcher: std::thread::JoinHandle<Duration>,
}

impl Pauses {
    fn watch() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let watcher = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let slept = Instant::now();
                std::thread::sleep(Duration::from_millis(50));
                longest = longest.max(slept.elapsed());
            }
            longest
        });
        Self { over, watcher }
    }

    fn longest(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.watcher.join().expect("it only sleeps")
    }
}

fn even(round_trip_ms: u64) -> Matrix {
    let zones = ["a", "b", "c"].map(|name| name.parse().expect("a plain name"));
    Matrix::even(zones.to_vec(), Duration::from_millis(round_trip_ms))
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_is_kept_at_300_ms_with_jitter_plus_loss() {
    let jitter = "lognormal 20ms".parse().expect("a jitter");
    let change = Change { jitter: Some(jitter), loss: Some(0.005), ..Change::default() };
    let group = Group::start(even(300), Timing::bearing(300), false, &change).await;
    // At least 300 ms each, about ten election timeouts in total, half of them idle. Repeated where
    // the machine paused for longer than the timing tolerates beside the round trips.
    let mut sequence = 0;
    for attempt in 1.. {
        let (before, pauses) = (group.leader().await, Pauses::watch());
        for _ in 0..60 {
            sequence += 1;
            group.write(sequence % 3 + 1, sequence).await;
        }
        let (after, longest) = (group.leader().await, pauses.longest());
        if after == before {
            break;
        }
        let excused = attempt < 4 && longest > Duration::from_secs(1);
        assert!(excused, "somebody stood for election; longest pause {longest:?}");
    }
    wait_for("the whole matrix, by any coordinator", async || {
        let (topology, _) = topology(&group.view(2).await?);
        let pairs = [(0, 1), (0, 2), (1, 2)];
        let known = pairs.map(|(a, b)| topology.round_trip_ms(a, b));
        println!("{known:?}");
        known.iter().all(|ms| ms.is_some_and(|ms| (300.0..450.0).contains(&ms))).then_some(())
    })
    .await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_leader_of_quick_followers_keeps_leadership() {
    let mut group = Group::start(even(1), Timing::LAN, false, &Change::default()).await;
    group.leader().await;
    group.running.remove(&1).expect("running").stop().await;
    // A heartbeat every 1.2 s, where the others start an election after 0.4 s of silence.
    group.settings.get_mut(&1).expect("there").timing = Timing::bearing(600);
    group.run(1).await;
    let before = group.lead(1).await;
    let refused = |group: &Group| -> u64 {
        let of = |id| group.settings[&id].metrics.coordinator.elections_deferred.get();
        [2, 3].map(of).into_iter().sum()
    };
    wait_for("ten elections that nobody supports", async || (refused(&group) >= 10).then_some(()))
        .await;
    assert_eq!(group.leader().await, before, "nobody was elected in its place");
    group.running.remove(&1).expect("running").stop().await;
    wait_for("another leader", async || (group.leader().await.1 > before.1).then_some(())).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_starts_with_unreadable_placement_file() {
    let mut group = Group::start(even(1), Timing::LAN, true, &Change::default()).await;
    group.leader().await;
    group.running.remove(&1).expect("running").stop().await;
    let data = group.settings[&1].data.clone();
    for file in ["placement.json", "round-trips.json"] {
        std::fs::write(data.join(file), "{").expect("written");
    }
    measured(&group.settings[&1]).await;
    group.run(1).await;
    group.leader().await;
    for file in ["placement.json", "round-trips.json"] {
        assert!(data.join(format!("{file}.unreadable")).exists(), "{file}");
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adaptive_timing_starts_from_saved_round_trips() {
    let mut group = Group::start(even(80), Timing::WAN, true, &Change::default()).await;
    group.leader().await;
    let settings = group.settings[&1].clone();
    // The others run: they are measured.
    group.running.remove(&1).expect("running").stop().await;
    let timing = wait_for("a measure in time", async || {
        let timing = measured(&settings).await?;
        // A busy machine adds to it, and the largest counts: then once more.
        (timing != Timing::WAN && timing.bears_ms() < 200).then_some(timing)
    });
    let timing = timing.await;
    assert!(timing.bears_ms() >= 80, "{timing:?}");
    assert_eq!(timing, Timing::bearing(timing.bears_ms()));
    group.run(1).await;
    let file = settings.data.join("round-trips.json");
    let kept = wait_for("what was measured, on disk", async || std::fs::read_to_string(&file).ok());
    let kept: serde_json::Value = serde_json::from_str(&kept.await).expect("JSON");
    let kept_ms = kept["largest_ms"].as_u64().expect("a number");
    assert!((80..200).contains(&kept_ms), "what most take: {kept}");
    // No coordinator runs: the saved round trips count.
    let _dir = group.stop().await;
    assert_eq!(measured(&settings).await, Some(Timing::bearing(kept_ms)));
    let elsewhere = Settings { data: settings.data.join("nowhere"), ..settings };
    assert_eq!(measured(&elsewhere).await, None, "nothing is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_of_a_learner_reads_its_own_writes() {
    let zones: Vec<ZoneName> = ["eu", "us"].map(|name| name.parse().expect("a name")).to_vec();
    let matrix = Matrix::even(zones.clone(), Duration::from_millis(40));
    let deployment = Deployment::start(DeploymentOptions {
        zones: zones.clone(),
        voters: Some(zones[..1].to_vec()),
        wan: Some(matrix),
        profile: Profile::Wan,
        binary: Some(binary()),
        ..DeploymentOptions::default()
    });
    let deployment = deployment.await.expect("the deployment starts");
    deployment.ready(PATIENCE).await.expect("the deployment gets ready");
    let (record, http) = (deployment.record(), crate::harness::client());
    let us = &record.zones[1];
    let status = wait_for("one voter", async || {
        let url = format!("{}/v1/status", us.api[0]);
        let status: Status = http.get(url).send().await.ok()?.json().await.ok()?;
        let voters = status.coordinators.iter().filter(|it| it.voter).count();
        (voters == 1).then_some(status)
    });
    assert_eq!(status.await.leader_zone.as_deref(), Some("eu"));
    for number in 1..=5_u64 {
        let body = serde_json::json!({ "payload": number });
        let write = http.post(format!("{}/v1/chain", us.api[0])).json(&body).send();
        let write = write.await.expect("an answer");
        assert!(write.status().is_success(), "{write:?}");
        // The zone's own database has the write by now.
        let head =
            http.get(format!("{}/v1/chain/head", us.api[0])).send().await.expect("an answer");
        let head: HeadBody = head.json().await.expect("a head");
        assert!(head.frontier >= number, "{} after {number}", head.frontier);
    }
    for zone in &record.zones {
        wait_for("the writes in both zones", async || {
            let url = format!("{}/v1/chain/head", zone.api[0]);
            let head: HeadBody = http.get(url).send().await.ok()?.json().await.ok()?;
            (head.frontier == 5).then_some(())
        })
        .await;
        check_zone(zone.name.as_str(), &zone.dsn, 5, &[]).await;
    }
    deployment.stop().await;
}
