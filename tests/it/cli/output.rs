//! Output of commands: a closed reader is no failure, a full device is one.

use crate::harness::console::{into_closed_pipe, prints};
use crate::zones::cluster::{CLUSTER, SmallCluster};
use crate::zones::query;
use crate::zones::tamper::edit_with_digest;

#[test]
fn output_ends_quietly_on_a_closed_pipe_not_on_a_full_disk() {
    for line in ["pghc --help", "pghc dev --help", "pghc --version", "pghc place --matrix aws9"] {
        prints(line, 0, 1);
    }
    prints("chain-verify --help", 0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_about_a_cluster_print_as_all_do() {
    let mut cluster = SmallCluster::start().await;
    cluster.zone("eu", &[]).await;
    cluster.write("eu", 1_000).await;
    let (dsn, api, coordinator) = (cluster.dsn("eu"), cluster.url("eu"), cluster.coordinator_url());
    let group = format!("--cluster-id {CLUSTER} --coordinator {coordinator}");
    for source in [format!("--database {dsn} --to 2"), format!("--api {api}")] {
        prints(&format!("pghc export {source}"), 0, 2);
        let output = into_closed_pipe(&format!("pghc export {source}"));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{source}");
    }
    prints(&format!("pghc status --api {api}"), 0, 1);
    prints(&format!("pghc status --api {api} --format json"), 0, 1);
    for act in ["members list", "zone list", "leader show"] {
        prints(&format!("pghc {act} {group}"), 0, 1);
    }
    prints(&format!("pghc zone audit --database {dsn} --coordinator {coordinator}"), 0, 2);
    for format in ["text", "json"] {
        let line = format!("--zone eu={dsn} --coordinator {coordinator} --format {format}");
        prints(&format!("chain-verify {line}"), 0, 2);
    }
    // Evidence counts more than an output that is lost.
    cluster.leave("eu").await;
    query(&dsn, &edit_with_digest(22)).await;
    prints(&format!("pghc export --database {dsn}"), 1, 1);
    prints(&format!("chain-verify --zone eu={dsn}"), 1, 1);
    prints(&format!("pghc zone audit --database {dsn} --coordinator {coordinator}"), 1, 1);
    cluster.stop().await;
}
