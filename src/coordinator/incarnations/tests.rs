//! Groups of before incarnations: they get them, and are protected from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openraft::entry::RaftEntry as _;
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, Membership};
use pghc_api::id::ClusterId;

use super::super::codec::encode;
use super::super::log::{Log, Options, Record};
use super::super::type_config::{Entry, LogId};
use super::{Answer, Introduction, Member, named};
use crate::coordinator::{Acks, Coordinator, Geo, Retention, Settings, Timing};
use crate::rpc::v1::ListMembersRequest;
use crate::rpc::v1::members_client::MembersClient;
use crate::telemetry::Metrics;

const CLUSTER: &str = "00000000-0000-4000-8000-0000000000ab";

fn cluster() -> ClusterId {
    CLUSTER.parse().expect("a UUID")
}

/// What a build of before left: a log with a membership of zones alone, and an identity without a
/// name.
fn of_before(dir: &Path, id: u64) {
    let plain = || Member { zone: "eu".to_owned(), ..Member::default() };
    let nodes: BTreeMap<u64, Member> = (1..=3).map(|id| (id, plain())).collect();
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    let membership = Membership::new(vec![voters], nodes).expect("voters are members");
    let leader = openraft::impls::leader_id_adv::LeaderId::new(0, 0).to_committed();
    let entry = Entry::new(LogId::new(leader, 0), EntryPayload::Membership(membership));
    let log = Log::open(&dir.join("log"), Options::default()).expect("a new log");
    let record = Record { index: 0, body: encode(&entry) };
    log.append(vec![record], Box::new(drop)).expect("appended");
    log.close().expect("durable");
    let identity = format!("{{\"cluster_id\": \"{CLUSTER}\", \"coordinator_id\": {id}}}");
    std::fs::write(dir.join("identity.json"), identity).expect("written");
}

async fn start(data: PathBuf, id: u64, addresses: &[SocketAddr]) -> Coordinator {
    let member = |(id, address): (u64, &SocketAddr)| {
        (id, ("eu".parse().expect("a plain name"), format!("http://{address}")))
    };
    let settings = Settings {
        cluster: cluster(),
        id,
        data,
        listen: addresses[usize::try_from(id).expect("small") - 1],
        members: (1..).zip(addresses).map(member).collect(),
        join: false,
        zones: Vec::new(),
        timing: Timing::LAN,
        geo: Geo::default(),
        retention: Retention::default(),
        acks: Acks::AllToAll,
        metrics: Metrics::for_coordinator(),
    };
    Coordinator::start(settings).await.expect("started")
}

/// The incarnations that the leader, asked through `address`, has for the members.
async fn recorded(address: SocketAddr) -> Option<Vec<String>> {
    let url = format!("http://{address}");
    let caller = crate::rpc::connect(&url, &cluster(), Duration::from_secs(1)).expect("a URL");
    let list = MembersClient::new(caller).list(ListMembersRequest {}).await.ok()?;
    let members = list.into_inner().members;
    let names: BTreeSet<String> = members.into_iter().map(|it| it.incarnation).collect();
    (names.len() == 3 && !names.contains("")).then(|| names.into_iter().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_before_gets_incarnations_and_then_refuses_a_wiped_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    // No other test uses this address: the ports stay free.
    let listeners: Vec<_> =
        (0..3).map(|_| std::net::TcpListener::bind("127.0.0.2:0").expect("a port")).collect();
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(|it| it.local_addr().expect("bound")).collect();
    drop(listeners);
    let data = |id: u64| dir.path().join(id.to_string());
    let mut running = BTreeMap::new();
    for id in 1..=3 {
        std::fs::create_dir(data(id)).expect("made");
        of_before(&data(id), id);
        running.insert(id, start(data(id), id, &addresses).await);
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while recorded(addresses[0]).await.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "no incarnations within 60 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.remove(&3).expect("it runs").stop().await;
    std::fs::remove_dir_all(data(3)).expect("removed");
    let wiped = start(data(3), 3, &addresses).await;
    let why = tokio::time::timeout(Duration::from_secs(60), wiped.stopped()).await;
    let why = why.expect("refused in time");
    assert!(why.contains("must not vote") && why.contains("pghc members replace"), "{why}");
    for coordinator in running.into_values().chain([wiped]) {
        coordinator.stop().await;
    }
}

#[test]
fn only_members_that_have_a_log_and_say_who_they_are_are_named() {
    let it = |id: u64, founded| Introduction {
        coordinator_id: id,
        incarnation: format!("directory {id}"),
        url: format!("http://{id}"),
        founded,
        ..Introduction::default()
    };
    let plain = Member { zone: "eu".to_owned(), ..Member::default() };
    let nameless: BTreeMap<u64, Member> = (1..=4).map(|id| (id, plain.clone())).collect();
    let introduced = |id, founded| (id, Answer::Introduced(Box::new(it(id, founded))));
    let mut answers =
        BTreeMap::from([introduced(2, true), introduced(3, false), (4, Answer::Silent)]);
    let known = named(&nameless, &it(1, false), &answers);
    let names: Vec<_> = known.iter().map(|(id, it)| (*id, it.incarnation.as_str())).collect();
    assert_eq!(names, [(1, "directory 1"), (2, "directory 2")]);
    assert_eq!((known[&2].zone.as_str(), known[&2].url.as_str()), ("eu", "http://2"));
    answers.insert(4, Answer::Older);
    assert!(named(&nameless, &it(1, true), &answers).is_empty());
}
