//! A deployment of the real binaries for one test, and a client pool of clients that remember what they were
//! promised.

#![expect(clippy::disallowed_methods, reason = "a test's tasks end with the test")]

mod basics;
mod clients;
pub(crate) mod console;

use std::path::{Path, PathBuf};

use pghc_api::wire::Status;
use pghc_dev::deployment::{Deployment, DeploymentOptions, Part};
use pghc_dev::record::DeploymentRecord;
use pghc_server::coordinator::StartError;

pub(crate) use basics::{
    PATIENCE, client, free_addresses, free_port, free_ports_in_a_row, wait_for,
};
pub(crate) use clients::{AckedWrite, ClientPool};

/// A running deployment in a directory of its own.
pub(crate) struct Site {
    pub(crate) deployment: Deployment,
    pub(crate) http: reqwest::Client,
}

impl Site {
    /// Starts three zones with `api_nodes` each and waits until they serve.
    pub(crate) async fn start(api_nodes: usize) -> Self {
        let site = Self::launch(api_nodes).await;
        site.deployment.ready(PATIENCE).await.expect("the deployment gets ready");
        site
    }

    /// Starts the processes and does not wait until they serve.
    pub(crate) async fn launch(api_nodes: usize) -> Self {
        let options =
            DeploymentOptions { api_nodes, binary: Some(binary()), ..DeploymentOptions::default() };
        let deployment = Deployment::start(options).await.expect("the deployment starts");
        Self { deployment, http: client() }
    }

    pub(crate) fn record(&self) -> DeploymentRecord {
        self.deployment.record()
    }

    /// URL of the first API node of zone number `zone`.
    pub(crate) fn api(&self, zone: usize) -> String {
        self.record().zones[zone].api[0].clone()
    }

    pub(crate) async fn status(&self, zone: usize) -> Option<Status> {
        let url = format!("{}/v1/status", self.api(zone));
        self.http.get(url).send().await.ok()?.json().await.ok()
    }

    /// Name of the zone whose coordinator leads.
    pub(crate) async fn leader_zone(&self) -> String {
        wait_for("a leader", async || {
            for zone in 0..3 {
                if let Some(leader) = self.status(zone).await.and_then(|s| s.leader_zone) {
                    return Some(leader);
                }
            }
            None
        })
        .await
    }

    /// Kills a child without ceremony; supervision starts it again.
    pub(crate) async fn kill(&self, zone: &str, part: Part) {
        let by = nix::sys::signal::Signal::SIGKILL;
        self.deployment.kill(zone, part, by).await.expect("a child of this deployment");
    }

    /// Waits until every zone has applied everything that is committed; returns the head id.
    pub(crate) async fn settle(&self) -> u64 {
        self.deployment.ready(PATIENCE).await.expect("every node is ready again");
        wait_for("equal frontiers", async || {
            let mut ids = Vec::new();
            for zone in 0..3 {
                let url = format!("{}/v1/chain/head?linearizable=true", self.api(zone));
                let answer = self.http.get(url).send().await.ok()?.error_for_status().ok()?;
                let head: pghc_api::wire::HeadBody = answer.json().await.ok()?;
                ids.push(head.frontier);
            }
            ids.iter().all(|id| *id == ids[0]).then(|| ids[0])
        })
        .await
    }

    /// Runs `chain-verify` over all zones.
    pub(crate) async fn verify(&self) -> std::process::Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_chain-verify"));
        for zone in self.record().zones {
            command.arg("--zone").arg(format!("{}={}", zone.name, zone.dsn));
        }
        command.output().await.expect("chain-verify runs")
    }

    /// Checks the final state: all zones equal, the chain proved, and each of `acked_writes` in
    /// every zone under its acknowledged id and digest, with no write repeated.
    pub(crate) async fn check(&self, acked_writes: &[AckedWrite]) {
        let head = self.settle().await;
        let proof = self.verify().await;
        let text = String::from_utf8_lossy(&proof.stdout).into_owned();
        assert_eq!(proof.status.code(), Some(0), "chain-verify:\n{text}");
        for zone in self.record().zones {
            check_zone(zone.name.as_str(), &zone.dsn, head, acked_writes).await;
        }
    }
}

/// Checks that a zone's database holds ids 1 to `head`, that `acked_writes` are kept in it, and that
/// nothing that a client pool wrote is there twice.
pub(crate) async fn check_zone(zone: &str, dsn: &str, head: u64, acked_writes: &[AckedWrite]) {
    let rows = rows(dsn).await;
    assert_eq!(rows.len() as u64, head, "zone {zone} holds ids 1 to {head}");
    for acked_write in acked_writes {
        let (id, digest, payload) = &rows[usize::try_from(acked_write.id).expect("small") - 1];
        assert_eq!((*id, digest), (acked_write.id, &acked_write.digest), "zone {zone}");
        assert_eq!(payload, &acked_write.payload, "link {id} in zone {zone}");
    }
    let of_the_clients = |payload: &&String| payload.starts_with("{\"key\":");
    let payloads = rows.iter().map(|(_, _, payload)| payload);
    let mut payloads: Vec<&String> = payloads.filter(of_the_clients).collect();
    payloads.sort();
    let twice: Vec<_> = payloads.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "written twice in zone {zone}: {twice:?}");
}

/// All links of a zone: id, digest, payload.
async fn rows(dsn: &str) -> Vec<(u64, String, String)> {
    let connected = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await;
    let (client, connection) = connected.expect("the zone's database answers");
    let driver = tokio::task::spawn(connection);
    let select = "select id, encode(digest, 'hex'), payload::text from pghc.chain order by id";
    let rows = client.query(select, &[]).await.expect("readable");
    drop(client);
    driver.await.expect("no panic").expect("closed cleanly");
    let text = |row: &tokio_postgres::Row, at| row.get::<_, Option<String>>(at).unwrap_or_default();
    let row = |row: &tokio_postgres::Row| {
        (row.get::<_, i64>(0).cast_unsigned(), text(row, 1), text(row, 2))
    };
    rows.iter().map(row).collect()
}

/// Password of every login that [`set_up`] makes.
pub(crate) const PASSWORD: &str = "sesame";

/// Runs `deploy/postgres/setup.sql` for `database` as a DBA would, and gives its logins a [`PASSWORD`].
pub(crate) async fn set_up(superuser: &str, database: &str) {
    let install = pghc_dev::postgres::Install::find().expect("PostgreSQL is installed");
    let mut psql = tokio::process::Command::new(install.bin.join("psql"));
    let logins = ["pghc_setup", "pghc_node", "pghc_check"];
    let password =
        logins.map(|login| format!("alter role {login} password '{PASSWORD}';")).concat();
    psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-v", &format!("database={database}")]);
    psql.args(["-f", "deploy/postgres/setup.sql", "-c", &password, superuser]);
    let output = psql.output().await.expect("psql runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Connection string of login pghc_check, with the rights that `setup.sql` gives it, for the database
/// that a superuser reaches with `dsn`.
pub(crate) async fn checker(dsn: &str) -> String {
    let connected = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await;
    let (client, connection) = connected.expect("the zone's database answers");
    let driver = tokio::task::spawn(connection);
    let login = format!(
        "create role pghc_check login password '{PASSWORD}'; grant pghc_auditor to pghc_check"
    );
    client.batch_execute(&login).await.expect("a superuser may");
    let place = "select current_setting('port') || '/' || current_database()";
    let place: String = client.query_one(place, &[]).await.expect("it answers").get(0);
    drop(client);
    driver.await.expect("no panic").expect("closed cleanly");
    format!("postgres://pghc_check:{PASSWORD}@127.0.0.1:{place}")
}

/// The `pghc` under test.
pub(crate) fn binary() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_pghc")).to_owned()
}

/// Result of a start; `None` while another process has the port or the log. A child started by
/// another test may briefly hold what this process has just released.
pub(crate) fn unless_held<T>(started: Result<T, StartError>) -> Option<Result<T, StartError>> {
    // `AddrInUse` of the port or `InUse` of the log.
    let is_held = |error: &StartError| format!("{error:?}").contains("InUse");
    (!started.as_ref().is_err_and(is_held)).then_some(started)
}

/// Newest id in a zone's database; 0 when it has none.
pub(crate) async fn head(dsn: &str) -> u64 {
    rows(dsn).await.last().map_or(0, |(id, _, _)| *id)
}
