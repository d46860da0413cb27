//! Bit rot: bits of a stopped coordinator's files are flipped, blocks blanked, ends cut off. The
//! coordinator must refuse to start, or hold its former content. Prints its seed and a table;
//! `PGHC_SEED` repeats a run, `PGHC_FLIPS` sets the number of flipped bits (200; a tenth as many
//! cuts and blanks each).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pghc_api::id::ClusterId;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::v1::{SubmitRequest, ZoneReport};
use pghc_runtime::rpc::{self, Caller};
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::recover::Survivor;
use pghc_server::coordinator::{Acks, Coordinator, Geo, Retention, Settings, Timing};
use pghc_server::sequencer::{Batch, Write};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::{free_addresses, unless_held, wait_for};

fn cluster() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

fn number(variable: &str, default: impl FnOnce() -> u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or_else(default, |text| text.parse().expect("a number"))
}

/// A group of one, so that its directory alone decides.
async fn start(data: &Path) -> Result<Coordinator, String> {
    let listen = free_addresses(1)[0];
    let zone = || "eu".parse().expect("a plain name");
    let settings = Settings {
        cluster: cluster(),
        id: 1,
        data: data.to_owned(),
        listen,
        members: BTreeMap::from([(1, (zone(), format!("http://{listen}")))]),
        join: false,
        zones: vec![zone()],
        timing: Timing::LAN,
        geo: Geo::default(),
        retention: Retention {
            log_bytes: 0,
            snapshot_entries: 20,
            period: Duration::from_millis(50),
            ..Retention::default()
        },
        acks: Acks::AllToAll,
        metrics: Metrics::for_coordinator(),
    };
    let started = wait_for("the coordinator to start or to refuse", async || {
        unless_held(Coordinator::start(settings.clone()).await)
    });
    started.await.map_err(|error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    })
}

fn client(coordinator: &Coordinator) -> CoordinatorClient<Caller> {
    let url = format!("http://{}", coordinator.address());
    let caller = rpc::connect(&url, &cluster(), Duration::from_secs(5)).expect("a URL");
    CoordinatorClient::new(caller)
}

async fn submit(coordinator: &Coordinator, sequence: u64) {
    let payload =
        format!("\"{}\"", "x".repeat(usize::try_from(sequence * 7).expect("small") % 400));
    let write = Write { key: Some(format!("k{sequence}").into()), payload: Some(payload.into()) };
    let node = "eu-1".parse().expect("a plain name");
    let batch = Batch { session: [1; 16], sequence, node, writes: vec![write] }.encode();
    let request = SubmitRequest { batch, max_wait_ms: 20_000, ..SubmitRequest::default() };
    wait_for("a leader that takes it", async || {
        let mut call = tonic::Request::new(request.clone());
        call.set_timeout(Duration::from_secs(20));
        match client(coordinator).submit(call).await {
            Ok(_) => Some(()),
            Err(status) if status.metadata().contains_key(rpc::NOT_PROPOSED) => None,
            Err(status) => panic!("not ordered: {status:?}"),
        }
    })
    .await;
}

/// Fills `data` with a log, a snapshot and, if it is to be `purged`, a log that begins later.
async fn fill(data: &Path, purged: bool) {
    let mut coordinator = start(data).await.expect("started");
    // Only every 256th entry can become the first.
    let writes = if purged { 600 } else { 60 };
    for sequence in 1..=writes {
        submit(&coordinator, sequence).await;
    }
    wait_for("a snapshot", async || data.join("snapshot").exists().then_some(())).await;
    if purged {
        // The tail's memory forgets only with a restart, so that the log alone can serve it.
        coordinator.stop().await;
        coordinator = start(data).await.expect("started");
        let report = ZoneReport {
            zone: "eu".to_owned(),
            node: "eu-1".to_owned(),
            is_applier: true,
            frontier: 500,
            flushed: 500,
            ..ZoneReport::default()
        };
        client(&coordinator).report(report).await.expect("reported");
        wait_for("a purge", async || {
            let request = pghc_runtime::rpc::v1::TailRequest::default();
            let mut stream = client(&coordinator).tail(request).await.ok()?.into_inner();
            stream.message().await.err().map(|_| ())
        })
        .await;
    }
    for sequence in writes + 1..=writes + 10 {
        submit(&coordinator, sequence).await;
    }
    coordinator.stop().await;
}

/// All files below `dir`, but locks.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("lock") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).expect("below it"));
        fs::create_dir_all(copy.parent().expect("it is in a directory")).expect("made");
        fs::copy(file, copy).expect("copied");
    }
}

fn read(data: &Path) -> Survivor {
    Survivor::read(data, &BTreeSet::new()).expect("whole")
}

/// Starts on `data`; returns whether it was refused. Otherwise it must hold what `whole` holds; a
/// group of one adds entries of its own, which carry no writes.
async fn is_refused(data: &Path, whole: &Survivor, how: &str) -> bool {
    match start(data).await {
        Ok(coordinator) => coordinator.stop().await,
        Err(text) => {
            let names = data.to_str().expect("text");
            assert!(text.contains(names), "{how}: which file? {text}");
            return true;
        }
    }
    let now = read(data);
    let head = |it: &Survivor| it.head.map(|head| (head.id, head.hash, head.digest));
    assert_eq!(head(&now), head(whole), "{how}");
    assert!(
        now.last >= whole.last && now.vote.map(|it| it.0) >= whole.vote.map(|it| it.0),
        "{how}"
    );
    assert_eq!(now.members, whole.members, "{how}");
    false
}

/// Damages the used part of a file, which ends at `used`.
fn damage(bytes: &mut Vec<u8>, used: usize, kind: &str, rng: &mut StdRng) -> usize {
    let at = rng.random_range(0..used.max(1));
    match kind {
        "flipped bit" => bytes[at] ^= 1 << rng.random_range(0..8_u32),
        "cut off" => bytes.truncate(at),
        "cut at a frame" => bytes.truncate(at / 8 * 8),
        _ => {
            let from = at / 512 * 512;
            let to = bytes.len().min(from + 4096);
            bytes[from..to].fill(0);
        }
    }
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_file_is_refused_or_keeps_its_content() {
    let seed = number("PGHC_SEED", rand::random::<u64>);
    let flips = number("PGHC_FLIPS", || 200);
    println!("seed {seed}, {flips} flipped bits");
    let mut rng = StdRng::seed_from_u64(seed);
    let scratch = tempfile::tempdir().expect("a directory");
    let mut table: BTreeMap<(String, &str), (u64, u64)> = BTreeMap::new();
    for purged in [false, true] {
        let data = scratch.path().join(format!("purged-{purged}"));
        fill(&data, purged).await;
        let whole = read(&data);
        let all = files(&data);
        for (kind, count) in [
            ("flipped bit", flips / 2),
            ("cut off", flips / 20),
            ("cut at a frame", flips / 20),
            ("blanked block", flips / 20),
        ] {
            for _ in 0..count {
                let file = &all[rng.random_range(0..all.len())];
                let name = file.strip_prefix(&data).expect("below it");
                let mut bytes = fs::read(file).expect("readable");
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
                let at = damage(&mut bytes, used, kind, &mut rng);
                let hurt = scratch.path().join("hurt");
                copy(&data, &hurt);
                fs::write(hurt.join(name), &bytes).expect("written");
                let how = format!("seed {seed}: {kind} at {at} of {}", name.display());
                let refused = is_refused(&hurt, &whole, &how).await;
                let name = format!("{}{}", name.display(), if purged { ", purged" } else { "" });
                let cell = table.entry((name, kind)).or_default();
                *(if refused { &mut cell.0 } else { &mut cell.1 }) += 1;
            }
        }
    }
    println!("{:<32} {:<16} {:>8} {:>9}", "file", "damage", "refused", "harmless");
    for ((name, kind), (refused, harmless)) in &table {
        println!("{name:<32} {kind:<16} {refused:>8} {harmless:>9}");
    }
    assert!(table.values().any(|(refused, _)| *refused > 0));
}

/// `identity.json` is replaced by writing a file beside it, syncing and renaming: a power cut
/// leaves any part of that file, with the old file, the new one or none in its place.
#[tokio::test(flavor = "multi_thread")]
async fn start_succeeds_after_power_cut_during_identity_write() {
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("whole");
    fill(&data, false).await;
    let whole = read(&data);
    let text = fs::read(data.join("identity.json")).expect("readable");
    let mut states = 0;
    for cut in [0, 1, text.len() / 2, text.len() - 1, text.len()] {
        for is_fresh in [true, false] {
            let hurt = scratch.path().join("hurt");
            let _ = fs::remove_dir_all(&hurt);
            fs::create_dir_all(&hurt).expect("made");
            if !is_fresh {
                copy(&data, &hurt);
            }
            fs::write(hurt.join("identity.json.new"), &text[..cut]).expect("written");
            let how = format!("{cut} bytes of a new identity, fresh: {is_fresh}");
            states += 1;
            if is_fresh {
                start(&hurt).await.expect("a directory that never had a log").stop().await;
            } else {
                assert!(!is_refused(&hurt, &whole, &how).await, "{how}");
            }
        }
    }
    println!("{states} states");
}
