//! A small cluster whose log forgets soon: one coordinator in this process, and zones that are real
//! API nodes over databases of one real server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pghc_api::id::{ClusterId, ZoneName};
use pghc_api::wire::HeadBody;
use pghc_dev::postgres::{Server, ServerOptions};
use pghc_dev::process::Process;
use pghc_dev::scratch::Scratch;
use pghc_postgres::migrate;
use pghc_runtime::rpc;
use pghc_runtime::rpc::v1::change_zone_request::Act;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::v1::zones_client::ZonesClient;
use pghc_runtime::rpc::v1::{ChangeZoneRequest, TailRequest};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::Metrics;
use pghc_server::coordinator::{Acks, Coordinator, Geo, Retention, Settings, Timing};
use tokio_postgres::NoTls;

use crate::harness::free_port;
use crate::harness::{PASSWORD, binary, client, set_up, wait_for};

/// One API node.
pub(crate) struct Node {
    pub(crate) url: String,
    pub(crate) process: Process,
    log: PathBuf,
    pub(crate) arguments: Vec<String>,
    failpoints: PathBuf,
}

impl Node {
    /// Starts it, again if it ran before.
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        let log = log.expect("a log file");
        let mut command = tokio::process::Command::new(binary());
        command.args(&self.arguments).env("PGHC_FAILPOINTS", &self.failpoints);
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        self.process.spawn(&mut command).expect("it starts");
    }

    /// Ends it.
    pub(crate) async fn stop(&mut self) {
        let by = nix::sys::signal::Signal::SIGTERM;
        self.process.stop(by, Duration::from_secs(10)).await.expect("it ends");
    }

    /// Log output of the process.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The cluster.
pub(crate) struct SmallCluster {
    pub(crate) http: reqwest::Client,
    pub(crate) server: Server,
    pub(crate) nodes: BTreeMap<String, Node>,
    /// A second server, of a zone that has one of its own.
    pub(crate) other: Option<Server>,
    /// Whether nodes and operators log in with the roles of `setup.sql`, as in a real deployment.
    has_roles: bool,
    /// Zones whose nodes were stopped, and are left alone when all others are restarted.
    away: BTreeSet<String>,
    coordinator: Option<Coordinator>,
    listen: SocketAddr,
    scratch: Scratch,
}

/// As many bytes as the smallest segment of a coordinator's log holds.
const SEGMENT_BYTES: usize = 64 << 10;

pub(crate) const CLUSTER: &str = "00000000-0000-4000-8000-000000000001";

fn cluster_id() -> ClusterId {
    CLUSTER.parse().expect("a UUID")
}

impl SmallCluster {
    /// A coordinator that purges whatever zone eu has kept, and a server without zones.
    pub(crate) async fn start() -> Self {
        Self::start_with(true).await
    }

    /// As [`Self::start`]; nodes log in as a superuser, which may migrate.
    pub(crate) async fn start_as_superuser() -> Self {
        Self::start_with(false).await
    }

    async fn start_with(has_roles: bool) -> Self {
        let scratch = Scratch::new("town").expect("a temporary directory");
        let mut options = ServerOptions::new(scratch.path().join("pg"), free_port());
        options.temporary = true;
        let server = Server::start(options).await.expect("PostgreSQL is installed");
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (http, nodes, away) = (client(), BTreeMap::new(), BTreeSet::new());
        let mut cluster = Self {
            http,
            server,
            nodes,
            other: None,
            has_roles,
            away,
            coordinator: None,
            listen,
            scratch,
        };
        cluster.start_coordinator().await;
        cluster
    }

    async fn start_coordinator(&mut self) {
        let period = Duration::from_millis(50);
        let eu: ZoneName = "eu".parse().expect("a name");
        let settings = Settings {
            cluster: cluster_id(),
            id: 1,
            data: self.scratch.path().join("coordinator"),
            listen: self.listen,
            members: [(1, (eu.clone(), format!("http://{}", self.listen)))].into(),
            zones: vec![eu],
            timing: Timing::LAN,
            geo: Geo::default(),
            join: false,
            retention: Retention {
                log_bytes: 0,
                // Links that an absent zone still needs are purged, too.
                log_bytes_max: if self.away.is_empty() { u64::MAX } else { 0 },
                snapshot_entries: 10,
                period,
                ..Retention::default()
            },
            acks: Acks::AllToAll,
            metrics: Metrics::for_coordinator(),
        };
        // A coordinator that was just stopped in this process releases its log a moment later.
        let started = wait_for("the coordinator to start", async || {
            Coordinator::start(settings.clone()).await.ok()
        });
        self.coordinator = Some(started.await);
    }

    /// Starts an API node of `zone` on a database of that name, which is made if it is not there.
    pub(crate) async fn zone(&mut self, zone: &str, more: &[&str]) {
        self.prepare(zone).await;
        let dsn = self.login("pghc_node", zone);
        self.add(zone).await;
        self.node(zone, &dsn, more);
        self.ready(zone).await;
    }

    /// Makes the database of `zone` as `deploy/README.md` says, unless it is there: `setup.sql`, and a
    /// first start as pghc_setup, which migrates.
    pub(crate) async fn prepare(&self, zone: &str) {
        let known = format!("select 1 from pg_database where datname = '{zone}'");
        if !query(&self.server.dsn(), &known).await.is_empty() {
            return;
        }
        if !self.has_roles {
            query(&self.server.dsn(), &format!("create database {zone}")).await;
            return;
        }
        set_up(&self.server.dsn(), zone).await;
        let tasks = Tasks::default();
        let dsn = self.login("pghc_setup", zone).parse().expect("a DSN");
        let done = migrate(&dsn, &cluster_id(), &zone.parse().expect("a name"), &tasks).await;
        done.expect("setup.sql gives all rights that it takes");
        tasks.shut_down().await;
    }

    /// Connection string of a login of `setup.sql` to the database `name`; the superuser's without roles.
    pub(crate) fn login(&self, login: &str, name: &str) -> String {
        if !self.has_roles {
            return self.dsn(name);
        }
        format!("postgres://{login}:{PASSWORD}@127.0.0.1:{}/{name}", self.server.port())
    }

    /// Makes a zone known, as an operator does.
    pub(crate) async fn add(&self, zone: &str) {
        let url = format!("http://{}", self.listen);
        let caller = rpc::connect(&url, &cluster_id(), Duration::from_secs(10)).expect("a URL");
        wait_for(&format!("zone {zone} to be added"), async || {
            let request = ChangeZoneRequest { act: Act::Add.into(), zone: zone.to_owned() };
            ZonesClient::new(caller.clone()).change(request).await.ok()
        })
        .await;
    }

    /// Starts an API node of `zone` on `dsn` and does not wait for it.
    pub(crate) fn node(&mut self, zone: &str, dsn: &str, more: &[&str]) {
        let node = self.node_process(zone, &format!("{zone}-1"), dsn, more);
        self.nodes.insert(zone.to_owned(), node);
    }

    /// Starts one more API node of `zone`, which is found by its own name.
    pub(crate) fn node_named(&mut self, zone: &str, name: &str, dsn: &str, more: &[&str]) {
        let node = self.node_process(zone, name, dsn, more);
        self.nodes.insert(name.to_owned(), node);
    }

    fn node_process(&self, zone: &str, name: &str, dsn: &str, more: &[&str]) -> Node {
        let listen = format!("127.0.0.1:{}", free_port());
        let coordinator = format!("http://{}", self.listen);
        let fixed = [
            "api",
            "--cluster-id",
            CLUSTER,
            "--zone",
            zone,
            "--node",
            name,
            "--database",
            dsn,
            "--listen",
            &listen,
            "--coordinator",
            &coordinator,
            "--lifeline",
        ];
        let mut node = Node {
            url: format!("http://{listen}"),
            process: Process::default(),
            log: self.scratch.path().join(format!("{name}.log")),
            failpoints: self.failpoints(zone),
            arguments: fixed.iter().chain(more).map(|word| (*word).to_owned()).collect(),
        };
        if !more.contains(&"--advertise") {
            node.arguments.push(format!("--advertise=http://{listen}"));
        }
        node.run();
        node
    }

    /// Stops the node of `zone` until [`SmallCluster::back`].
    pub(crate) async fn leave(&mut self, zone: &str) {
        self.node_of(zone).stop().await;
        self.away.insert(zone.to_owned());
        // A lease of a session that still ends would not be checked again.
        let sessions = format!(
            "select count(*) from pg_stat_activity where datname = '{zone}' and application_name = \
             'pghc applier'"
        );
        wait_for("the end of its last session", async || {
            (query(&self.dsn(zone), &sessions).await == ["0"]).then_some(())
        })
        .await;
    }

    /// Starts it again.
    pub(crate) fn back(&mut self, zone: &str) {
        self.away.remove(zone);
        self.node_of(zone).run();
    }

    /// Waits until `zone` is fenced because of link `id`, and never shows link `bad` meanwhile.
    pub(crate) async fn fenced_unseen(&self, zone: &str, id: u64, bad: u64) -> String {
        let url = format!("{}/v1/chain/{bad}?timeout=2s", self.url(zone));
        let shown = async {
            loop {
                if let Ok(answer) = self.http.get(&url).send().await {
                    assert_ne!(answer.status().as_u16(), 200, "a rewritten link was shown");
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let due = format!("the first bad id is {id} ");
        tokio::select! {
            biased;
            words = self.not_ready(zone, &due) => words,
            () = shown => unreachable!("it goes on"),
        }
    }

    pub(crate) fn node_of(&mut self, zone: &str) -> &mut Node {
        self.nodes.get_mut(zone).expect("it was started")
    }

    pub(crate) fn coordinator_url(&self) -> String {
        format!("http://{}", self.listen)
    }

    pub(crate) fn url(&self, zone: &str) -> String {
        self.nodes[zone].url.clone()
    }

    /// Connection string of the superuser to the database `name`.
    pub(crate) fn dsn(&self, name: &str) -> String {
        self.server.dsn_of(name)
    }

    /// Directory of the armed fail points of a zone's processes; see `pghc_runtime::failpoint`.
    pub(crate) fn failpoints(&self, zone: &str) -> PathBuf {
        self.scratch.path().join(format!("{zone}-failpoints"))
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    pub(crate) async fn ready(&self, zone: &str) {
        wait_for(&format!("zone {zone} ready"), async || {
            let answer =
                self.http.get(format!("{}/readyz/write", self.url(zone))).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Waits until `/readyz/write` of a zone says something with `words` in it; returns what it says.
    pub(crate) async fn not_ready(&self, zone: &str, words: &str) -> String {
        wait_for(&format!("{words:?} from zone {zone}"), async || {
            let answer =
                self.http.get(format!("{}/readyz/write", self.url(zone))).send().await.ok()?;
            let text = answer.text().await.ok()?;
            text.contains(words).then_some(text)
        })
        .await
    }

    /// Writes `count` links through `zone`, one request of many lines at a time.
    pub(crate) async fn write(&self, zone: &str, count: usize) {
        let mut left = count;
        while left > 0 {
            let lines = left.min(200);
            let body: String = (0..lines)
                .map(|line| format!("{{\"payload\":{{\"n\": {}, \"é\":\"ž\"}}}}\n", left - line))
                .collect();
            let request = self.http.post(format!("{}/v1/chain?timeout=30s", self.url(zone)));
            let request = request.header("content-type", "application/x-ndjson").body(body);
            let answer = request.send().await.expect("an answer");
            let status = answer.status();
            let text = answer.text().await.expect("a body");
            assert!(status.is_success(), "{status}: {text}");
            left -= lines;
        }
    }

    /// Writes one link with a payload of about `bytes` bytes.
    async fn write_bytes(&self, zone: &str, bytes: usize) {
        let body = format!("{{\"payload\": \"{}\"}}", "x".repeat(bytes));
        let request = self.http.post(format!("{}/v1/chain?timeout=30s", self.url(zone)));
        let request = request.header("content-type", "application/json").body(body);
        let status = request.send().await.expect("an answer").status();
        assert!(status.is_success(), "{status}");
    }

    pub(crate) async fn head(&self, zone: &str, query: &str) -> Option<HeadBody> {
        let url = format!("{}/v1/chain/head{query}", self.url(zone));
        self.http.get(url).send().await.ok()?.error_for_status().ok()?.json().await.ok()
    }

    /// Has the coordinator forget all that zone eu has kept: what its log held is purged, and the
    /// newest batches in its memory go with a restart.
    pub(crate) async fn forget(&mut self) {
        for _ in 0..20 {
            // Snapshots and purges follow writes, and whole segments are purged.
            self.write_bytes("eu", SEGMENT_BYTES).await;
            for _ in 0..15 {
                self.write("eu", 1).await;
            }
            // A coordinator in this process leaves connections behind that a real one takes with it.
            let here = |zone: &&String| !self.away.contains(*zone);
            let zones: Vec<String> = self.nodes.keys().filter(here).cloned().collect();
            for zone in &zones {
                self.node_of(zone).stop().await;
            }
            self.coordinator.take().expect("it runs").stop().await;
            self.start_coordinator().await;
            for zone in zones {
                self.node_of(&zone).run();
                self.ready(&zone).await;
            }
            if self.has_forgotten().await {
                return;
            }
        }
        panic!("the log was not purged");
    }

    /// Ends the coordinator for good.
    pub(crate) async fn stop_coordinator(&mut self) {
        self.coordinator.take().expect("it runs").stop().await;
    }

    /// Has the coordinator lose everything it ever knew.
    pub(crate) async fn lose(&mut self) {
        for node in self.nodes.values_mut() {
            node.stop().await;
        }
        self.coordinator.take().expect("it runs").stop().await;
        let data = self.scratch.path().join("coordinator");
        std::fs::remove_dir_all(data).expect("it was there");
        self.start_coordinator().await;
        for node in self.nodes.values_mut() {
            node.run();
        }
    }

    async fn has_forgotten(&self) -> bool {
        let url = format!("http://{}", self.listen);
        let caller = rpc::connect(&url, &cluster_id(), Duration::from_secs(10)).expect("a URL");
        let mut stream = CoordinatorClient::new(caller)
            .tail(TailRequest { after_id: 0, ..TailRequest::default() })
            .await
            .expect("a tail")
            .into_inner();
        matches!(stream.message().await, Err(status) if status.code() == tonic::Code::OutOfRange)
    }

    /// Waits until `zone` has everything that `eu` has, then proves both chains.
    pub(crate) async fn prove(&self, zone: &str) {
        let eu = self.head("eu", "?linearizable=true").await.expect("eu answers").frontier;
        wait_for(&format!("zone {zone} at {eu}"), async || {
            let head = self.head(zone, "?timeout=1s").await?;
            (head.frontier >= eu).then_some(())
        })
        .await;
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_chain-verify"));
        for name in ["eu", zone] {
            command.arg("--zone").arg(format!("{name}={}", self.url(name)));
        }
        // A proxy for the outside world knows nothing of zones.
        command.env("http_proxy", "http://127.0.0.1:9");
        let proof = command.output().await.expect("chain-verify runs");
        let text = String::from_utf8_lossy(&proof.stdout).into_owned();
        assert_eq!(proof.status.code(), Some(0), "chain-verify:\n{text}");
    }

    /// Runs `pghc zone …` on the database of `zone`; returns exit code and all it printed.
    pub(crate) async fn operate(&self, zone: &str, words: &[&str]) -> (Option<i32>, String) {
        self.operate_on(&self.login("pghc_setup", zone), zone, words).await
    }

    /// As [`Self::operate`], with any login.
    pub(crate) async fn operate_on(
        &self,
        dsn: &str,
        zone: &str,
        words: &[&str],
    ) -> (Option<i32>, String) {
        let mut command = tokio::process::Command::new(binary());
        command.arg("zone").args(words).args(["--database", dsn]);
        command.env("PGHC_FAILPOINTS", self.failpoints(zone));
        let output = command.output().await.expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    pub(crate) async fn stop(mut self) {
        for node in self.nodes.values_mut() {
            node.stop().await;
        }
        if let Some(coordinator) = self.coordinator.take() {
            coordinator.stop().await;
        }
    }
}

/// First column of what `sql` answers.
pub(crate) async fn query(dsn: &str, sql: &str) -> Vec<String> {
    try_query(dsn, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

async fn try_query(dsn: &str, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    let messages = tokio::select! {
        messages = client.simple_query(sql) => messages?,
        ended = connection => return ended.map(|()| Vec::new()),
    };
    let row = |message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}
