//! A rolling upgrade: what a build of before would stop at is written when all members read it.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use pghc_runtime::rpc::v1::change_zone_request::Act;
use pghc_runtime::rpc::{Carrier, CarryError, Dial, Tcp};
use tower::Service as _;
use tower::util::BoxCloneSyncService;

use super::zones::{change, list, report_at, state_of};
use super::*;

/// TCP, but some coordinators answer as an earlier build does: without node information.
#[derive(Clone, Default)]
pub(super) struct Mixed {
    older: Arc<Mutex<BTreeSet<String>>>,
    /// Number of requests to such a coordinator.
    asked: Arc<AtomicU64>,
}

impl Dial for Mixed {
    fn dial(&self, url: &str, patience: Duration) -> Result<Carrier, tonic::transport::Error> {
        let (mixed, url, carrier) = (self.clone(), url.to_owned(), Tcp.dial(url, patience)?);
        Ok(BoxCloneSyncService::new(tower::service_fn(
            move |request: tonic::codegen::http::Request<_>| {
                let (mixed, url, mut carrier) = (mixed.clone(), url.clone(), carrier.clone());
                async move {
                    let (is_asked, is_told) = {
                        let path = request.uri().path();
                        (path.ends_with("/GetNodeInfo"), path.ends_with("/Acks"))
                    };
                    if (is_asked || is_told) && mixed.older.lock().contains(&url) {
                        mixed.asked.fetch_add(u64::from(is_asked), Ordering::Relaxed);
                        return Ok(tonic::Status::unimplemented("of before").into_http());
                    }
                    std::future::poll_fn(|context| carrier.poll_ready(context)).await?;
                    let answer: Result<_, CarryError> = carrier.call(request).await;
                    answer
                }
            },
        )))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_zone_is_registered_before_every_member_can_read_it() {
    let mixed = Mixed::default();
    let mut group = Group::dialing(Arc::new(mixed.clone())).await;
    // A joining coordinator could never be admitted, because it gives no node information. A
    // follower is admitted.
    for id in 1..=3 {
        wait_for("a leader that all follow", async || {
            let view = group.client(id).report(ZoneReport::default()).await.ok()?;
            (view.get_ref().leader != 0).then_some(())
        })
        .await;
    }
    let leader = group.leader().await;
    let older = leader % 3 + 1;
    // The leader too: after a transfer, another coordinator still runs the earlier build.
    let url = |id: u64| format!("http://{}", group.running[&id].address());
    mixed.older.lock().extend([url(leader), url(older)]);
    report_at(&group, "eu", 0).await.expect("zones work without");
    submit(&mut group.client(1), batch(1, 3)).await;
    wait_for("a leader that refuses to add one", async || {
        let refusal = change(&group, 1, Act::Add, "eu").await.expect_err("nobody may");
        refusal.message().contains("nothing was changed").then_some(())
    })
    .await;
    assert!(mixed.asked.load(Ordering::Relaxed) >= 2, "it was tried again");
    for id in 1..=3 {
        let zones = list(&group, id).await;
        assert_eq!(state_of(&zones, "eu").map(|(_, registered)| registered), Some(false));
    }
    mixed.older.lock().clear();
    wait_for("the registration", async || {
        change(&group, older, Act::Add, "eu").await.ok()?;
        let (_, registered) = state_of(&list(&group, older).await, "eu")?;
        registered.then_some(())
    })
    .await;
    // Once one is, a member that does not answer holds nothing up.
    group.stop(older).await;
    for id in group.running.keys().copied().collect::<Vec<_>>() {
        change(&group, id, Act::Add, "us").await.expect("a majority is enough");
    }
}
