//! The applier's process crashes at every fail point, one after the other, under load. Its zone
//! recovers each time, and at the end no acknowledged write is lost or repeated.
//!
//! A point that is never hit fails the test, and so does one that no step below schedules.
//! `cargo test --test it failpoints`; `PGHC_SEED` and `PGHC_ROUNDS` as printed.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;

use pghc_runtime::failpoint::Point;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::{ClientPool, PATIENCE, check_zone, wait_for};
use crate::zones::cluster::{SmallCluster, query};
use crate::zones::tamper::rewrite_from;

/// The zone whose processes crash.
const VICTIM: &str = "us";

/// Points that a serving applier passes without a trigger.
const SERVING: [Point; 8] = [
    Point::Planned,
    Point::ApplyBefore,
    Point::ApplySent,
    Point::ApplyAnswered,
    Point::FrontierMoved,
    Point::RenewBefore,
    Point::RenewSent,
    Point::RenewAnswered,
];

/// Points that every start passes.
const STARTING: [Point; 3] = [Point::MigrateBegun, Point::AcquireSent, Point::AcquireAnswered];

/// Points that a start on an empty database passes.
const PREPARING: [Point; 4] =
    [Point::MigrateRoles, Point::MigrateRunning, Point::MigrateUnclaimed, Point::MigrateClaimed];

/// Points that a zone passes which no log reaches.
const FILLING: [Point; 2] = [Point::FillChecked, Point::FillPassed];

/// Points that `pghc zone reseed` passes.
const RESEEDING: [Point; 3] = [Point::ReseedBefore, Point::ReseedSent, Point::ReseedDone];

/// Points that a zone with a wrong chain passes.
const FENCING: [Point; 3] = [Point::EvidenceBefore, Point::EvidenceSent, Point::EvidenceKept];

struct Ruin {
    cluster: SmallCluster,
    clients: ClientPool,
    random: StdRng,
    hit: BTreeSet<&'static str>,
}

impl Ruin {
    async fn start(seed: u64) -> Self {
        let mut cluster = SmallCluster::start_as_superuser().await;
        std::fs::create_dir(cluster.failpoints(VICTIM)).expect("a new directory");
        for zone in ["eu", VICTIM] {
            cluster.zone(zone, &["--audit-rows", "0"]).await;
        }
        let clients = ClientPool::over(vec![cluster.url("eu"), cluster.url(VICTIM)], 2);
        Self { cluster, clients, random: StdRng::seed_from_u64(seed), hit: BTreeSet::new() }
    }

    /// Crashes the next process that passes `point`, after `to_pass` others have passed it.
    fn arm(&mut self, point: Point, to_pass: u32) {
        let millis: u32 = self.random.random_range(0..6);
        let directory = self.cluster.failpoints(VICTIM);
        let unnamed = directory.join("unnamed");
        std::fs::write(&unnamed, format!("{to_pass} {millis}")).expect("written");
        std::fs::rename(unnamed, directory.join(point.name())).expect("armed");
        println!("{}: after {to_pass}, {millis} ms", point.name());
    }

    /// Notes that a process has crashed at `point`, and there.
    fn note(&mut self, point: Point) {
        let mark = self.cluster.failpoints(VICTIM).join(format!("{}.hit", point.name()));
        std::fs::remove_file(mark).unwrap_or_else(|e| panic!("{} not hit: {e}", point.name()));
        self.hit.insert(point.name());
    }

    /// Waits until the victim has crashed at `point`, and starts it again.
    async fn crashed(&mut self, point: Point) {
        let process = &mut self.cluster.node_of(VICTIM).process;
        let Ok(status) = tokio::time::timeout(PATIENCE, process.exited()).await else {
            let said = self.cluster.node_of(VICTIM).logged();
            let from = said.char_indices().rev().nth(4_000).map_or(0, |(at, _)| at);
            panic!("no crash at {}; the node said: {}", point.name(), &said[from..]);
        };
        let status = status.expect("our child").expect("it ran");
        assert_eq!(status.signal(), Some(6), "{}: {status}", point.name());
        self.note(point);
        self.cluster.node_of(VICTIM).run();
    }

    /// The zone is there again with all that was written meanwhile, and the writers get on.
    async fn recovered(&self) {
        self.cluster.ready(VICTIM).await;
        self.clients.progress(12).await;
        let cluster = &self.cluster;
        let head =
            wait_for("the head", async || cluster.head("eu", "?linearizable=true").await).await;
        let caught_up = format!("?at_least={}&timeout=2s", head.frontier);
        wait_for("the zone at the head", async || cluster.head(VICTIM, &caught_up).await).await;
    }

    async fn empty_database(&mut self) {
        self.cluster.node_of(VICTIM).stop().await;
        let admin = self.cluster.server.dsn();
        query(&admin, &format!("drop database {VICTIM} with (force)")).await;
        query(&admin, &format!("create database {VICTIM}")).await;
    }

    async fn serve(&mut self) {
        for point in SERVING {
            let to_pass = self.random.random_range(0..3);
            self.arm(point, to_pass);
            self.crashed(point).await;
            self.recovered().await;
        }
    }

    async fn begin(&mut self) {
        for point in STARTING {
            self.cluster.node_of(VICTIM).stop().await;
            self.arm(point, 0);
            self.cluster.node_of(VICTIM).run();
            self.crashed(point).await;
            self.recovered().await;
        }
    }

    /// Starts on an empty database; `points` are passed on the way.
    async fn fill(&mut self, points: &[Point], to_pass: u32) {
        for point in points {
            self.empty_database().await;
            self.arm(*point, to_pass);
            self.cluster.node_of(VICTIM).run();
            self.crashed(*point).await;
            self.recovered().await;
        }
    }

    async fn reseed(&mut self) {
        for point in RESEEDING {
            self.arm(point, 0);
            let (code, words) = self.cluster.operate(VICTIM, &["reseed", "--force"]).await;
            assert_eq!(code, None, "{}: {words}", point.name());
            self.note(point);
            self.recovered().await;
        }
        // The node is killed here, after an undisturbed reseed.
        self.fence(Point::EvidenceKept).await;
        self.arm(Point::ReplacedSeen, 0);
        let (code, words) = self.cluster.operate(VICTIM, &["reseed"]).await;
        assert_eq!(code, Some(0), "{words}");
        self.crashed(Point::ReplacedSeen).await;
        self.recovered().await;
    }

    /// Rewrites the victim's chain while it is down, and crashes it at `point` of what follows.
    async fn fence(&mut self, point: Point) {
        self.cluster.node_of(VICTIM).stop().await;
        query(&self.cluster.dsn(VICTIM), &rewrite_from(7)).await;
        self.arm(point, 0);
        self.cluster.node_of(VICTIM).run();
        self.crashed(point).await;
        self.cluster.not_ready(VICTIM, "the first bad id is 7").await;
    }

    async fn fall(&mut self) {
        for point in FENCING {
            self.fence(point).await;
            let (code, words) = self.cluster.operate(VICTIM, &["reseed"]).await;
            assert_eq!(code, Some(0), "{words}");
            self.recovered().await;
        }
    }

    async fn finish(self) {
        let Self { cluster, clients, hit, .. } = self;
        let acked_writes = clients.finish().await;
        let every: BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(hit, every, "points that were hit, and those that there are");
        cluster.prove(VICTIM).await;
        let head = cluster.head("eu", "?linearizable=true").await.expect("eu answers").frontier;
        for zone in ["eu", VICTIM] {
            check_zone(zone, &cluster.dsn(zone), head, &acked_writes).await;
        }
        println!("{} points hit, {} promises kept", hit.len(), acked_writes.len());
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn applier_crash_at_any_step_applies_links_exactly_once() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = number("PGHC_SEED").unwrap_or_else(rand::random);
    let rounds = number("PGHC_ROUNDS").unwrap_or(1);
    println!("seed {seed}, {rounds} rounds");
    let mut ruin = Ruin::start(seed).await;
    for _ in 0..rounds {
        ruin.serve().await;
        ruin.begin().await;
        ruin.fill(&PREPARING, 0).await;
        ruin.fall().await;
        ruin.reseed().await;
    }
    ruin.cluster.write("eu", 3_000).await;
    ruin.cluster.forget().await;
    for _ in 0..rounds {
        // The second page: some of the first may be applied by then.
        ruin.fill(&FILLING, 1).await;
    }
    ruin.finish().await;
}
