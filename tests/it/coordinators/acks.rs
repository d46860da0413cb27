//! Acks of all to all, with real distances between three coordinators.

use std::time::{Duration, Instant};

use pghc_runtime::rpc::v1::change_request::Kind as ChangeKind;
use pghc_runtime::rpc::v1::members_client::MembersClient;
use pghc_runtime::rpc::v1::{ChangeRequest, ReadIndexRequest};
use pghc_runtime::task::Tasks;
use pghc_wan::{Matrix, Wan};

use super::{
    Acks, Arc, BTreeMap, Coordinator, CoordinatorClient, Metrics, Retention, Timing, ZONES,
    ZoneName, ZoneReport, batch, cluster, free_addresses, ids, rpc, submit, wait_for,
};

/// The leader is in eu, 100 ms from both others, which are 200 ms apart: a write of ap takes at
/// least one round trip to eu, and two until eu's commit reaches ap.
const MATRIX: &str = "zone,eu,us,ap\neu,0,100,100\nus,100,0,200\nap,100,200,0\n";
const ROUND_TRIP: Duration = Duration::from_millis(100);
const LEADER: u64 = 1;
const WRITER: u64 = 3;
const WRITES: u64 = 20;

/// A group whose messages take their time.
struct Far {
    cluster: pghc_api::id::ClusterId,
    coordinators: Vec<Coordinator>,
    metrics: Vec<Arc<Metrics>>,
    tasks: Tasks,
    _wan: Wan,
    _dir: tempfile::TempDir,
}

impl Far {
    async fn start(acks: Acks) -> Self {
        let (dir, tasks) = (tempfile::tempdir().expect("a directory"), Tasks::default());
        let matrix: Matrix = MATRIX.parse().expect("a good matrix");
        let wan = Wan::start(matrix, 7, &tasks).expect("a thread");
        let addresses = free_addresses(3);
        let zone = |place: usize| -> ZoneName { ZONES[place].parse().expect("a plain name") };
        let (cluster, mut coordinators, mut metrics) = (cluster(), Vec::new(), Vec::new());
        for here in 0..3 {
            let mut members = BTreeMap::new();
            for (there, address) in addresses.iter().enumerate() {
                let reached = match here == there {
                    true => *address,
                    false => wan.route(&zone(here), &zone(there), *address).await.expect("a port"),
                };
                members.insert(there as u64 + 1, (zone(there), format!("http://{reached}")));
            }
            metrics.push(Metrics::for_coordinator());
            let settings = super::Settings {
                cluster: cluster.clone(),
                id: here as u64 + 1,
                data: dir.path().join(here.to_string()),
                listen: addresses[here],
                members,
                join: false,
                zones: Vec::new(),
                // A pause of the machine moves no lead.
                timing: Timing::bearing(1_000),
                geo: super::Geo::default(),
                retention: Retention::default(),
                acks,
                metrics: Arc::clone(&metrics[here]),
            };
            coordinators.push(Coordinator::start(settings).await.expect("started"));
        }
        let far = Self { cluster, coordinators, metrics, tasks, _wan: wan, _dir: dir };
        far.lead().await;
        far
    }

    fn caller(&self, id: u64) -> rpc::Caller {
        let place = usize::try_from(id).expect("small") - 1;
        let url = format!("http://{}", self.coordinators[place].address());
        rpc::connect(&url, &self.cluster, Duration::from_secs(10)).expect("a URL")
    }

    fn client(&self, id: u64) -> CoordinatorClient<rpc::Caller> {
        CoordinatorClient::new(self.caller(id))
    }

    /// Has [`LEADER`] lead, as [`WRITER`] knows too.
    async fn lead(&self) {
        let lead = ChangeRequest {
            kind: ChangeKind::Lead.into(),
            coordinator_id: LEADER,
            ..ChangeRequest::default()
        };
        wait_for("the leader that is wanted", async || {
            let view = self.client(WRITER).report(ZoneReport::default()).await.ok()?.into_inner();
            if view.leader == LEADER {
                return Some(());
            }
            let mut members = MembersClient::new(self.caller(WRITER));
            let mut lines = members.change(lead.clone()).await.ok()?.into_inner();
            while let Ok(Some(_)) = lines.message().await {}
            None
        })
        .await;
    }

    /// Writes through [`WRITER`], one after the other; the quickest of them.
    async fn write(&self) -> Duration {
        let mut client = self.client(WRITER);
        let mut quickest = Duration::MAX;
        for sequence in 1..=WRITES {
            let begun = Instant::now();
            assert_eq!(ids(&submit(&mut client, batch(sequence, 1)).await), [sequence]);
            quickest = quickest.min(begun.elapsed());
        }
        quickest
    }

    /// Batches sequenced at [`WRITER`] by acks and by the leader, once all are counted; one that
    /// was sent again is counted again.
    async fn sequenced(&self) -> (u64, u64) {
        let metrics = &self.metrics[usize::try_from(WRITER).expect("small") - 1].coordinator;
        wait_for("all to be counted", async || {
            let counted = (metrics.commits_from_acks().get(), metrics.commits_from_leader().get());
            (counted.0 + counted.1 >= WRITES).then_some(counted)
        })
        .await
    }

    async fn stop(self) {
        for coordinator in self.coordinators {
            coordinator.stop().await;
        }
        self.tasks.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_counts_acks_does_not_wait_for_the_leaders_word() {
    let far = Far::start(Acks::AllToAll).await;
    let quickest = far.write().await;
    let (by_acks, by_leader) = far.sequenced().await;
    println!("quickest {quickest:?}, {by_acks} by acks, {by_leader} by the leader's word");
    assert!(by_acks > WRITES / 2, "{by_acks} by acks, {by_leader} by the leader's word");
    assert!(quickest >= ROUND_TRIP, "nothing is quicker than the way there and back");
    assert!(quickest < ROUND_TRIP * 2, "{quickest:?}: the leader's word is not waited for");
    // The leader may not know yet that the last write is committed, but must include it.
    let reply = far.client(LEADER).read_index(ReadIndexRequest { forwarded: false }).await;
    assert_eq!(reply.expect("it leads").into_inner().id, WRITES);
    far.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_acks_it_does() {
    let far = Far::start(Acks::Leader).await;
    let quickest = far.write().await;
    assert_eq!(far.sequenced().await.0, 0);
    assert!(quickest >= ROUND_TRIP * 2, "{quickest:?}: nobody but the leader knows");
    far.stop().await;
}
