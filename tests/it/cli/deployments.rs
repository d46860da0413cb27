//! The command lines against running deployments: foreign databases, and the life of `pghc dev`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use pghc_dev::deployment::Part;
use pghc_dev::process::{command_line, signal};
use pghc_dev::record::{DeploymentRecord, FILE};
use pghc_dev::scratch::Scratch;
use serde_json::Value;

use super::OTHER_CLUSTER;
use crate::api_contract::Got;
use crate::harness::console::{command, refuses, run};
use crate::harness::free_port;
use crate::harness::{PATIENCE, Site, binary, client, wait_for};

/// An API node beside those of a deployment, killed when dropped.
struct Stray {
    child: Child,
    url: String,
}

impl Stray {
    fn start(cluster: &str, zone: &str, dsn: &str, coordinators: &[String]) -> Self {
        Self::named("stray-1", cluster, zone, dsn, coordinators)
    }

    fn named(node: &str, cluster: &str, zone: &str, dsn: &str, coordinators: &[String]) -> Self {
        let port = free_port();
        let mut command = Command::new(binary());
        command.args(["api", "--cluster-id", cluster, "--zone", zone, "--node", node]);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--database", dsn]);
        command.args(coordinators.iter().flat_map(|url| ["--coordinator", url]));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        Self { child: child.expect("it was built"), url: format!("http://127.0.0.1:{port}") }
    }
}

impl Stray {
    /// Waits until its `/readyz` says something with `words` in it.
    async fn says(&self, words: &str) {
        wait_for(&format!("{words:?}"), async || {
            let ready = client().get(format!("{}/readyz", self.url)).send().await.ok()?;
            ready.text().await.ok()?.contains(words).then_some(())
        })
        .await;
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that a node could have changed in a database that is not its own.
async fn contents(dsn: &str) -> String {
    let connected = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await;
    let (client, connection) = connected.expect("the zone's database answers");
    let select = "select concat_ws(' ', (select string_agg(c::text, ',') from pghc.cluster c),
        (select concat_ws(',', applied_id, hash, epoch, applier) from pghc.frontier),
        (select count(*) from pghc.chain),
        (select string_agg(relname, ',' order by oid) from pg_class where relnamespace > 16383),
        (select string_agg(rolname, ',' order by oid) from pg_roles))";
    tokio::select! {
        row = client.query_one(select, &[]) => row.expect("readable").get(0),
        _ = connection => panic!("the connection ended"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_halts_on_database_of_another_cluster() {
    let site = Site::start(1).await;
    let link = site.http.post(format!("{}/chain?wait=everywhere", site.api(1)));
    Got::of(link).await.is(200);
    site.settle().await;
    let record = site.record();
    let cluster = record.cluster_id.to_string();
    let dsn = &record.zones[1].dsn;
    let coordinators: Vec<String> = record.zones.iter().map(|z| z.coordinator.clone()).collect();
    for (own_cluster, own_zone) in [(OTHER_CLUSTER, "us"), (cluster.as_str(), "ap")] {
        let before = contents(dsn).await;
        let stray = Stray::start(own_cluster, own_zone, dsn, &coordinators);
        let ready = wait_for("the node to halt", async || {
            let ready = client().get(format!("{}/readyz", stray.url));
            ready.try_clone()?.send().await.ok()?;
            let got = Got::of(ready).await;
            got.text.contains("halted").then_some(got)
        });
        let ready = ready.await.is_problem(503, "zone_halted");
        let detail = ready["detail"].as_str().expect("a detail");
        let belongs = format!("belongs to zone us of cluster {cluster}");
        assert!(detail.contains(&belongs) && detail.contains("nothing was changed"), "{detail}");
        let get = |path: &str| Got::of(client().get(format!("{}{path}", stray.url)));
        let status = get("/v1/status").await.is(200);
        assert!(status["halted"].as_str().is_some_and(|halted| halted.contains(&belongs)));
        assert_eq!(get("/v1/chain/1").await.status, 503, "not a word of the other's chain");
        let shown = run("pghc", &format!("status --api {}", stray.url));
        let said = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.status.code() == Some(1) && said.contains(&belongs), "{said}");
        assert_eq!(contents(dsn).await, before);
    }
    site.settle().await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_of_one_name_is_refused_with_words() {
    let site = Site::start(1).await;
    let record = site.record();
    let cluster = record.cluster_id.to_string();
    let coordinators: Vec<String> = record.zones.iter().map(|z| z.coordinator.clone()).collect();
    let stray = Stray::named("eu-1", &cluster, "eu", &record.zones[0].dsn, &coordinators);
    stray.says("the node name eu-1 is in use by another process, of zone eu").await;
    let write = site.http.post(format!("{}/chain?timeout=500ms", stray.url)).send().await;
    let write = write.expect("an answer").status();
    assert!(!write.is_success(), "a node that does not own its name took a write: {write}");
    site.deployment.ready(PATIENCE).await.expect("the first one stays ready");
    // A process that is started in the place of another takes its name over.
    site.kill("eu", Part::Api(0)).await;
    site.settle().await;
    stray.says("is in use by another process").await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistyped_zone_is_refused_without_a_wait() {
    let site = Site::start(1).await;
    let record = site.record();
    let cluster = record.cluster_id.to_string();
    let coordinators: Vec<String> = record.zones.iter().map(|z| z.coordinator.clone()).collect();
    let nowhere = format!("postgres://postgres@127.0.0.1:{}/pghc", free_port());
    let stray = Stray::start(&cluster, "europe", &nowhere, &coordinators);
    let place = format!("--data {}", site.deployment.data().display());
    let list = wait_for("the zone to be shown", async || {
        let list = run("pghc", &format!("zone list {place}"));
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        list.contains("europe").then_some(list)
    });
    let list = list.await;
    assert!(list.contains("unknown, not registered"), "{list}");
    let write = site.http.post(format!("{}/chain?wait=everywhere", site.api(1)));
    Got::of(write).await.is(200);
    let dry = run("pghc", &format!("zone add europe --dry-run {place}"));
    let dry = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(dry.contains("nothing was changed") && dry.contains("would be registered"), "{dry}");
    let shown = run("pghc", &format!("status {place}"));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("healthy") && !shown.contains("europe"), "{shown}");
    drop(stray);
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_node_reports_while_coordinators_are_down() {
    let site = Site::start(1).await;
    let write = site.http.post(format!("{}/chain?wait=everywhere", site.api(1)));
    Got::of(write).await.is(200);
    let head = site.settle().await;
    for zone in ["eu", "us", "ap"] {
        site.deployment.pause_supervision(zone, Part::Coordinator).await.expect("a child");
        site.kill(zone, Part::Coordinator).await;
    }
    // The node has reached no coordinator since its start.
    site.kill("us", Part::Api(0)).await;
    let line = format!("status --format json --data {}", site.deployment.data().display());
    wait_for("what the nodes know", async || {
        let status = run("pghc", &line);
        let status: Value = serde_json::from_slice(&status.stdout).ok()?;
        let at = |zone: &Value| zone["frontier"] == head && zone["state"] != "silent";
        let zones = status["zones"].as_array()?.iter().filter(|zone| at(zone)).count();
        let problems = status["problems"].to_string();
        let is_told = problems.contains("no coordinator answers") && problems.contains("s old");
        (zones == 3 && status["head"] == head && is_told).then_some(())
    })
    .await;
    site.deployment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_finds_the_cluster_by_the_settings_of_its_processes() {
    let site = Site::start(1).await;
    let record = site.record();
    let dir = Scratch::new("found").expect("a directory");
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let zone = &record.zones[0];
    let cluster = format!("cluster-id = \"{}\"\nzone = \"eu\"\n", record.cluster_id);
    let listen = |url: &str| format!("listen = \"{}\"\n", url.trim_start_matches("http://"));
    let coordinator = listen(&zone.coordinator) + "id = 1\ndata = \"/nowhere\"\nmember = []\n";
    let node = listen(&zone.api[0])
        + &format!("node = \"eu-1\"\ncoordinator = [\"{}\"]\n", zone.coordinator);
    let coordinator = file("coordinator.toml", cluster.clone() + &coordinator);
    let node = file("api.toml", cluster + &node);
    let deployment = site.deployment.data().join(FILE).display().to_string();
    for config in [coordinator, node, deployment] {
        for command in ["members list", "zone list", "leader show", "status"] {
            let said = run("pghc", &format!("{command} --config {config}"));
            let error = String::from_utf8_lossy(&said.stderr).into_owned();
            assert_eq!(said.status.code(), Some(0), "{command} --config {config}: {error}");
            let shown = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(shown.contains("us"), "{command} --config {config}: {shown}");
        }
        // An empty chain is sound only where coordinators were found that say so.
        let audit = format!("zone audit --database {} --config {config}", zone.dsn);
        let said = run("pghc", &audit);
        let shown = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert_eq!(said.status.code(), Some(0), "{audit}: {shown}");
        assert!(shown.contains("SOUND"), "{audit}: {shown}");
    }
    refuses("pghc", "members list --config /no/such.toml", 2, &["there is no /no/such.toml"]);
    site.deployment.stop().await;
}

/// A running `pghc dev`; killed when dropped, and its children end by themselves.
struct Dev(Child);

impl Dev {
    fn kill(&mut self) {
        self.0.kill().expect("ours");
        self.0.wait().expect("ours");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dev(data: &Path) -> Dev {
    let mut command = Command::new(binary());
    command.args(["dev", "--data"]).arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Dev(command.spawn().expect("it was built"))
}

/// The record and the head of a deployment that is ready, as `pghc status` tells them.
async fn when_healthy(data: &Path) -> (DeploymentRecord, Value) {
    wait_for("a healthy deployment", async || {
        let status = run("pghc", &format!("status --format json --data {}", data.display()));
        let said: Value = serde_json::from_slice(&status.stdout).ok()?;
        assert_eq!(status.status.success(), said["healthy"] == true, "{said}");
        let record = DeploymentRecord::read(data).ok()?;
        let zones = said["zones"].as_array()?;
        let applied = zones.len() == 3 && zones.iter().all(|zone| zone["applier"].is_string());
        (said["healthy"] == true && applied).then_some((record, said))
    })
    .await
}

fn pids(record: &DeploymentRecord) -> Vec<u32> {
    let of = |zone: &pghc_dev::record::ZoneRecord| {
        let mut pids = vec![zone.pids.postgres, zone.pids.coordinator];
        pids.extend(&zone.pids.api);
        pids
    };
    record.zones.iter().flat_map(of).collect()
}

fn is_complete(status: &Value, record: &DeploymentRecord, head: u64) {
    assert_eq!(status["cluster_id"], record.cluster_id.as_str());
    assert_eq!((&status["head"], &status["problems"]), (&head.into(), &Value::Array(Vec::new())));
    assert!(
        status["leader"].is_u64() && status["leader_zone"].is_string() && status["term"].is_u64()
    );
    for zone in status["zones"].as_array().expect("zones") {
        let name = zone["zone"].as_str().expect("a name");
        assert_eq!(
            (&zone["state"], &zone["applier"]),
            (&"live".into(), &format!("{name}-1").into())
        );
        assert!(zone["frontier"].is_u64() && zone["lag_ids"].is_u64());
    }
    let nodes = status["nodes"].as_array().expect("nodes");
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node["ready"] == true), "{status}");
    let deployment = serde_json::to_value(record).expect("plain data");
    assert_eq!(status["parade"], deployment);
}

#[tokio::test(flavor = "multi_thread")]
async fn pghc_dev_resumes_after_sigkill() {
    let scratch = Scratch::new("cli").expect("a directory");
    let data = scratch.path().join("pghc-dev-it");
    // A person who has started `pghc dev` without --data asks so.
    let status_of_only_deployment = || {
        let mut status = command("pghc status");
        status.current_dir(scratch.path()).env("TMPDIR", scratch.path());
        status.env("HOME", scratch.path()).env_remove("XDG_CONFIG_HOME");
        status.output().expect("it was built")
    };
    let mut supervisor = dev(&data);
    let (first, status) = when_healthy(&data).await;
    is_complete(&status, &first, 0);
    let write = async |record: &DeploymentRecord, zone: usize| {
        let url = format!("{}/chain?wait=everywhere", record.zones[zone].api[0]);
        Got::of(client().post(url)).await.is(200)
    };
    let before = write(&first, 1).await;
    assert!(status_of_only_deployment().status.success());
    supervisor.kill();
    let unfound = status_of_only_deployment();
    let said = String::from_utf8_lossy(&unfound.stderr).into_owned();
    assert!(unfound.status.code() == Some(2) && said.contains("no cluster was found"), "{said}");
    let mut supervisor = dev(&data);
    let gone = async || pids(&first).iter().all(|pid| command_line(*pid).is_none()).then_some(());
    wait_for("the children of the first to end", gone).await;
    let (second, status) = when_healthy(&data).await;
    is_complete(&status, &second, 1);
    assert_eq!(second.cluster_id, first.cluster_id);
    let after = write(&second, 2).await;
    assert_eq!(after["zk_id"], 2, "the same chain");
    let recent = format!("{}/chain/recent", second.zones[0].api[0]);
    assert_eq!(Got::of(client().get(recent)).await.is(200), Value::Array(vec![after, before]));
    signal(supervisor.0.id(), Signal::SIGTERM);
    assert!(supervisor.0.wait().expect("ours").success());
    let left: Vec<u32> =
        pids(&second).into_iter().filter(|pid| command_line(*pid).is_some()).collect();
    assert!(left.is_empty() && !data.join(FILE).exists(), "left: {left:?}");
    refuses("pghc", &format!("status --data {}", data.display()), 2, &["no deployment runs"]);
}
