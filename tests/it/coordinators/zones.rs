//! Zones come and go: registered, held for, left behind, removed; and no foreign chain is fed.

use pghc_runtime::rpc::v1::change_zone_request::Act;
use pghc_runtime::rpc::v1::zone_view::State;
use pghc_runtime::rpc::v1::zones_client::ZonesClient;
use pghc_runtime::rpc::v1::{AwaitRequest, ChangeZoneRequest, ListZonesReply, ListZonesRequest};
use pghc_server::coordinator::Retention;
use tonic::{Code, Status};

use super::*;

const MIB: u64 = 1 << 20;

/// A group that purges at short intervals and takes a snapshot only when a purge needs one.
async fn group(log_bytes: u64, log_bytes_max: u64) -> Group {
    let (period, snapshot_entries) = (Duration::from_millis(50), u64::MAX);
    let retention =
        Retention { log_bytes, log_bytes_max, snapshot_entries, period, ..Retention::default() };
    Group::keeping(retention).await
}

fn zones_client(group: &Group, id: u64) -> ZonesClient<Caller> {
    let url = format!("http://{}", group.running[&id].address());
    ZonesClient::new(rpc::connect(&url, &group.cluster, Duration::from_secs(10)).expect("a URL"))
}

pub(super) async fn list(group: &Group, id: u64) -> ListZonesReply {
    let list = zones_client(group, id).list(ListZonesRequest {}).await;
    list.expect("a list").into_inner()
}

pub(super) async fn change(group: &Group, id: u64, act: Act, zone: &str) -> Result<bool, Status> {
    let request = ChangeZoneRequest { act: act.into(), zone: zone.to_owned() };
    Ok(zones_client(group, id).change(request).await?.into_inner().changed)
}

pub(super) fn state_of(list: &ListZonesReply, zone: &str) -> Option<(State, bool)> {
    let view = list.zones.iter().find(|view| view.zone == zone)?;
    Some((view.state(), view.registered))
}

/// Reports to every coordinator that the applier of `zone` has kept everything up to `id`.
pub(super) async fn report_at(group: &Group, zone: &str, id: u64) -> Result<(), Status> {
    for coordinator in group.running.keys() {
        let (zone, node) = (zone.to_owned(), format!("{zone}-1"));
        let (frontier, flushed) = (id, id);
        let report =
            ZoneReport { zone, node, is_applier: true, frontier, flushed, ..Default::default() };
        group.client(*coordinator).report(report).await?;
    }
    Ok(())
}

/// Orders a batch of about 100 KiB; returns its last id.
async fn write_much(group: &Group, sequence: u64) -> u64 {
    let payload = format!("\"{}\"", "x".repeat(25 << 10));
    let write = || Write { key: None, payload: Some(payload.clone().into()) };
    let node = "eu-1".parse().expect("a plain name");
    let writes = (0..4).map(|_| write()).collect();
    let batch = Batch { session: [9; 16], sequence, node, writes }.encode();
    let request = SubmitRequest { batch, max_wait_ms: 20_000, ..SubmitRequest::default() };
    let outcomes = submit(&mut group.client(sequence % 3 + 1), request).await;
    outcomes.last().expect("four").id
}

/// Bytes of a coordinator's log on its disk.
fn log_bytes(group: &Group, id: u64) -> u64 {
    let files = std::fs::read_dir(group.data(id).join("log")).expect("its log");
    // A file may be removed meanwhile.
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

/// Writes `batches` of them while eu and ap keep up and us does not.
async fn write_while_us_is_away(group: &Group, from: u64, batches: u64) -> u64 {
    let mut head = 0;
    for sequence in from..from + batches {
        head = write_much(group, sequence).await;
        for zone in ["eu", "ap"] {
            report_at(group, zone, head).await.expect("taken");
        }
    }
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_zone_is_detached_when_log_passes_its_cap() {
    let group = group(2 * MIB, 6 * MIB).await;
    group.leader().await;
    write_while_us_is_away(&group, 1, 1).await;
    report_at(&group, "us", 4).await.expect("taken");
    // 4 MiB: above the limit and below the cap.
    write_while_us_is_away(&group, 2, 40).await;
    for id in 1..=3 {
        let held = list(&group, id).await;
        assert_eq!((held.log_first_id, held.removed.len()), (1, 0), "us holds it");
        wait_for("us to lag", async || {
            (state_of(&list(&group, id).await, "us")? == (State::Lagging, true)).then_some(())
        })
        .await;
    }
    // One more MiB after the part above the cap is purged: the purge may be late, but it must
    // happen.
    let mut sequence = 42;
    let mut write_on = async || {
        wait_for("the log to be below twice its cap", async || {
            (1..=3).all(|id| log_bytes(&group, id) < 11 * MIB).then_some(())
        })
        .await;
        write_while_us_is_away(&group, sequence, 10).await;
        sequence += 10;
    };
    for id in 1..=3 {
        wait_for("us to be detached", async || {
            write_on().await;
            (state_of(&list(&group, id).await, "us")?.0 == State::Detached).then_some(())
        })
        .await;
    }
    for _ in 0..10 {
        write_on().await;
    }
    let head = group.client(1).report(ZoneReport::default()).await.expect("it answers");
    let head = head.into_inner().head;
    for id in 1..=3 {
        wait_for("the log to be back below its limit, and eu to have reported", async || {
            for zone in ["eu", "ap"] {
                report_at(&group, zone, head).await.expect("taken");
            }
            (log_bytes(&group, id) < 3 * MIB).then_some(())
        })
        .await;
        let list = list(&group, id).await;
        assert_eq!(state_of(&list, "eu"), Some((State::Live, true)));
        assert_eq!(state_of(&list, "us"), Some((State::Detached, true)));
    }
    // No zone waits for the removed zone, and its requests are refused with the reason.
    let everywhere = group.client(1).await_everywhere(AwaitRequest { id: 40 }).await;
    assert!(everywhere.expect("an answer").into_inner().everywhere);
    let request = TailRequest { after_id: 4, ..TailRequest::default() };
    let mut stream = group.client(1).tail(request).await.expect("a tail").into_inner();
    assert_eq!(stream.message().await.expect_err("purged").code(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_zone_holds_no_log_until_added_again() {
    let mut group = group(MIB, 1 << 40).await;
    let leader = group.leader().await;
    let follower = leader % 3 + 1;
    report_at(&group, "us", 0).await.expect("taken");
    let head = write_while_us_is_away(&group, 1, 40).await;
    assert_eq!(list(&group, leader).await.log_first_id, 1, "us holds it");
    let mut waiter = group.client(1);
    let waiting = waiter.await_everywhere(AwaitRequest { id: head });
    let (waited, removed) = tokio::join!(waiting, change(&group, follower, Act::Remove, "us"));
    assert!(removed.expect("removed"), "it was registered");
    assert!(waited.expect("an answer").into_inner().everywhere, "a removed zone is not waited for");
    for id in 1..=3 {
        wait_for("the purge", async || (list(&group, id).await.log_first_id > 1).then_some(()))
            .await;
    }
    assert!(!change(&group, leader, Act::Remove, "us").await.expect("it is so already"));
    for id in 1..=3 {
        group.stop(id).await;
    }
    for id in 1..=3 {
        group.run(id).await;
    }
    let leader = group.leader().await;
    for id in 1..=3 {
        let replayed = async || (list(&group, id).await.head == head).then_some(());
        wait_for("the log to be replayed", replayed).await;
        let refused = wait_for("the registry", async || {
            let refused = report_at(&group, "us", 0).await.err()?;
            (refused.code() == Code::FailedPrecondition).then_some(refused)
        });
        let refused = refused.await;
        assert!(refused.message().contains("pghc zone add us"), "{refused:?}");
        let list = list(&group, id).await;
        assert_eq!((state_of(&list, "us"), list.removed), (None, vec!["us".to_owned()]));
    }
    assert!(change(&group, leader % 3 + 1, Act::Add, "us").await.expect("added"));
    wait_for("every coordinator to know", async || report_at(&group, "us", 0).await.ok()).await;
    let us = state_of(&list(&group, leader).await, "us");
    assert_eq!(us, Some((State::Detached, true)), "what it needs is gone");
    let unknown = change(&group, leader, Act::Remove, "nowhere").await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound, "{unknown:?}");
    let bad = change(&group, leader, Act::Add, "no name").await.expect_err("not a name");
    assert_eq!(bad.code(), Code::InvalidArgument, "{bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_report_learns_of_waiting_clients() {
    let group = Group::start().await;
    let leader = group.leader().await;
    let follower = leader % 3 + 1;
    let head = *ids(&submit(&mut group.client(leader), batch(1, 2)).await).last().expect("two");
    report_at(&group, "eu", 0).await.expect("taken");
    let awaited = async |id| {
        let cluster = group.client(id).report(ZoneReport::default()).await.expect("it answers");
        cluster.into_inner().has_waiters
    };
    assert!(!awaited(leader).await && !awaited(follower).await);
    let mut waiter = group.client(leader);
    let waiting = waiter.await_everywhere(AwaitRequest { id: head });
    let told = async {
        wait_for("it to be told", async || awaited(leader).await.then_some(())).await;
        assert!(!awaited(follower).await, "nobody waits there");
        for zone in ["eu", "us", "ap"] {
            report_at(&group, zone, head).await.expect("taken");
        }
    };
    let (waited, ()) = tokio::join!(waiting, told);
    assert!(waited.expect("an answer").into_inner().everywhere);
    wait_for("nobody to wait", async || (!awaited(leader).await).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_is_known_only_after_it_was_added() {
    let mut group = Group::start().await;
    let leader = group.leader().await;
    let refused = wait_for("the members' zones to be registered", async || {
        report_at(&group, "sa", 0).await.err()
    });
    let refused = refused.await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("pghc zone add sa"), "{refused:?}");
    wait_for("every coordinator to refuse it", async || {
        for id in 1..=3 {
            let report = ZoneReport { zone: "sa".to_owned(), ..ZoneReport::default() };
            group.client(id).report(report).await.err()?;
        }
        Some(())
    })
    .await;
    assert_eq!(state_of(&list(&group, leader).await, "sa").map(|it| it.1), Some(false));
    assert!(change(&group, leader, Act::Add, "sa").await.expect("added"));
    wait_for("every coordinator to know", async || report_at(&group, "sa", 0).await.ok()).await;
    let registered = async |group: &Group| {
        for id in 1..=3 {
            wait_for("sa to be registered", async || {
                state_of(&list(group, id).await, "sa").filter(|(_, registered)| *registered)
            })
            .await;
        }
    };
    registered(&group).await;
    // A refused change takes no id and disturbs no tail.
    assert_eq!(ids(&submit(&mut group.client(leader), batch(1, 2)).await), [1, 2]);
    for id in 1..=3 {
        group.stop(id).await;
    }
    for id in 1..=3 {
        group.run(id).await;
    }
    registered(&group).await;
    assert_eq!(ids(&submit(&mut group.client(1), batch(2, 1)).await), [3]);
    assert_eq!(tail(&mut group.client(2), 3).await.len(), 2);
    // No member is there, so its name is forgotten when it is removed.
    assert!(change(&group, leader % 3 + 1, Act::Remove, "sa").await.expect("removed"));
    for id in 1..=3 {
        wait_for("sa to be forgotten", async || {
            let list = list(&group, id).await;
            (list.removed.is_empty() && state_of(&list, "sa").is_none_or(|it| !it.1)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_of_foreign_chain_or_future_id_is_refused() {
    let mut group = Group::start().await;
    let mut all = Vec::new();
    for sequence in 1..=300 {
        let mut client = group.client(sequence % 3 + 1);
        all.extend(submit(&mut client, batch(sequence, 3)).await);
    }
    let opens = async |group: &Group, after_id: u64, after_digest: Vec<u8>| {
        let after_digest = after_digest.into();
        let request = TailRequest { after_id, after_digest, ..TailRequest::default() };
        // A leader confirms the reader's position.
        wait_for("an answer", async || {
            let answer = async {
                let mut stream = group.client(1).tail(request.clone()).await?.into_inner();
                stream.message().await.map(|batch| batch.expect("no end").first_id)
            };
            let answer: Result<u64, Status> = answer.await;
            let is_late = |status: &Status| status.code() == Code::Unavailable;
            (!answer.as_ref().is_err_and(is_late)).then_some(answer)
        })
        .await
    };
    for restarted in [false, true] {
        if restarted {
            // Then nothing of it is in memory.
            for id in 1..=3 {
                group.stop(id).await;
            }
            for id in 1..=3 {
                group.run(id).await;
            }
            group.leader().await;
            submit(&mut group.client(1), batch(301, 3)).await;
        }
        for at in [0, 1, 2, 400, 700, 768, 890] {
            let link = &all[at];
            opens(&group, link.id, link.digest.to_vec()).await.expect("its own chain");
            let mut bad = link.digest.to_vec();
            bad[5] ^= 1;
            let refused = opens(&group, link.id, bad).await.expect_err("another chain");
            assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
            let said = format!("another chain from at or before id {}", link.id);
            assert!(refused.message().contains(&said), "{refused:?}");
        }
    }
    for hash in [Vec::new(), vec![1; 32]] {
        let refused = opens(&group, 904, hash).await.expect_err("nobody has it");
        assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
        assert!(refused.message().contains("ahead of the log: it has id 904"), "{refused:?}");
    }
    let refused = opens(&group, 3, vec![1; 7]).await.expect_err("7 bytes are no digest");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}
