//! `pghc zone` against a running deployment: what an operator sees and does.

use nix::sys::signal::Signal;
use pghc_dev::deployment::Part;
use serde_json::Value;

use crate::harness::console::{refuses, run};
use crate::harness::{Site, wait_for};

/// Runs `pghc zone` and answers what it printed, which must succeed.
#[track_caller]
fn says(line: &str) -> String {
    let output = run("pghc", line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn zone_is_removed_then_added_again() {
    let site = Site::start(1).await;
    let record = site.record();
    let urls: Vec<String> = record.zones.iter().map(|zone| zone.coordinator.clone()).collect();
    let place = format!("--cluster-id {} --coordinator {}", record.cluster_id, urls.join(","));
    let list = || {
        let text = says(&format!("zone list --format json {place}"));
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    let all = wait_for("all zones to be live", async || {
        let list = list();
        let zones = list["zones"].as_array()?;
        let live = |zone: &&Value| zone["state"] == "live" && zone["registered"] == true;
        (zones.iter().filter(live).count() == 3).then_some(list.clone())
    });
    assert_eq!(all.await["removed"], Value::Array(Vec::new()));
    let table = says(&format!("zone list {place}"));
    assert!(table.contains("head 0 | the log begins at id 1"), "{table}");
    refuses("pghc", &format!("zone remove us {place}"), 2, &["zone us runs", "--force"]);
    refuses("pghc", &format!("zone remove nowhere {place}"), 2, &["nowhere is not known"]);
    site.deployment.pause_supervision("us", Part::Api(0)).await.expect("a child");
    site.deployment.kill("us", Part::Api(0), Signal::SIGKILL).await.expect("a child");
    wait_for("us to be silent", async || {
        let output = run("pghc", &format!("zone remove us {place}"));
        output.status.success().then_some(())
    })
    .await;
    let list_after = list();
    assert_eq!(list_after["removed"], serde_json::json!(["us"]), "{list_after}");
    assert_eq!(list_after["zones"].as_array().expect("a list").len(), 2);
    assert!(says(&format!("zone remove us {place}")).contains("was removed already"));
    site.deployment.resume_supervision("us", Part::Api(0)).await.expect("a child");
    let why = wait_for("the node to say why it is not ready", async || {
        let ready = site.http.get(format!("{}/readyz/write", site.api(1))).send().await.ok()?;
        let text = ready.text().await.ok()?;
        text.contains("pghc zone add us").then_some(text)
    });
    assert!(why.await.contains("was removed from this cluster"));
    assert!(says(&format!("zone add us {place}")).contains("zone us is registered"));
    assert!(says(&format!("zone add us {place}")).contains("registered already"));
    site.settle().await;
    site.deployment.stop().await;
}

#[test]
fn zone_command_refuses_invalid_input_in_one_line() {
    let cluster = super::CLUSTER;
    refuses("pghc", "zone list --data /no/such", 2, &["no deployment runs on /no/such"]);
    refuses("pghc", "zone list --coordinator http://x:1", 2, &["--cluster-id"]);
    refuses("pghc", "zone add", 2, &["<ZONE>"]);
    refuses("pghc", "zone add 9", 2, &["ZONE", "letter"]);
    refuses("pghc", "zone drop eu", 2, &["'drop'"]);
    let port = crate::harness::free_port();
    let nobody = format!("--cluster-id {cluster} --coordinator http://127.0.0.1:{port}");
    refuses("pghc", &format!("zone list {nobody}"), 1, &["no coordinator answers"]);
}
