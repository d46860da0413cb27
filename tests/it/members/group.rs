//! A group of real `pghc coordinator` processes without databases, and a client that submits to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pghc_api::id::ClusterId;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::v1::members_client::MembersClient;
use pghc_runtime::rpc::v1::{
    ListMembersRequest, MemberList, SubmitRequest, TailRequest, ZoneReport,
};
use pghc_runtime::rpc::{self, Caller};
use pghc_server::sequencer::{Batch, Write};

use crate::harness::{binary, free_port, wait_for};

const CLUSTER: &str = "00000000-0000-4000-8000-00000000000a";
const ZONES: [&str; 3] = ["eu", "us", "ap"];

/// Coordinators 1 to 9 have a port each.
pub(super) struct Group {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    children: BTreeMap<u64, Child>,
    sequence: u64,
    only: u64,
    timing: [&'static str; 2],
    /// Ids that were acknowledged, in order.
    pub(super) acknowledged: u64,
}

impl Drop for Group {
    fn drop(&mut self) {
        for (id, child) in &mut self.children {
            if std::thread::panicking() {
                let said = fs::read_to_string(self.dir.path().join(format!("{id}.stderr")));
                println!("coordinator {id} said: {}", said.unwrap_or_default());
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(super) fn zone(id: u64) -> &'static str {
    ZONES[usize::try_from(id - 1).expect("small") % 3]
}

impl Group {
    /// Founds a group of 1, 2 and 3.
    pub(super) async fn start() -> Self {
        Self::found(Self::empty()).await
    }

    /// As [`Self::start`], for claims about the leader or answers in time: pauses of the machine of
    /// up to 3 s cause no election.
    pub(super) async fn start_unhurried() -> Self {
        let mut group = Self::empty();
        group.timing = ["--round-trip-ms", "500"];
        Self::found(group).await
    }

    async fn found(mut group: Self) -> Self {
        for id in 1..=3 {
            group.run(id);
        }
        for id in 1..=3 {
            wait_for("everyone's knowledge of the leader", async || {
                let view = group.client(id).report(ZoneReport::default()).await.ok()?;
                (view.into_inner().leader > 0).then_some(())
            })
            .await;
        }
        group
    }

    pub(super) fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ports = (0..9).map(|_| free_port()).collect();
        Self {
            dir,
            ports,
            children: BTreeMap::new(),
            sequence: 0,
            only: 0,
            timing: ["--profile", "lan"],
            acknowledged: 0,
        }
    }

    pub(super) fn url(&self, id: u64) -> String {
        format!("http://127.0.0.1:{}", self.ports[usize::try_from(id).expect("small") - 1])
    }

    /// `ID=ZONE=URL`.
    pub(super) fn member(&self, id: u64) -> String {
        format!("{id}={}={}", zone(id), self.url(id))
    }

    pub(super) fn data(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn errors(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id}.stderr"))
    }

    pub(super) fn run(&mut self, id: u64) {
        let data = self.data(id);
        self.run_on(id, id, &data, &[]);
    }

    /// As [`Self::run`], with its own entry among the members too.
    pub(super) fn run_with_own_member(&mut self, id: u64) {
        let (data, own) = (self.data(id), self.member(id));
        let more = if id > 3 { vec!["--member", &own] } else { vec![] };
        self.run_on(id, id, &data, &more);
    }

    /// Starts a coordinator that waits to be added.
    pub(super) async fn join(&mut self, id: u64) {
        let (data, own) = (self.data(id), self.member(id));
        self.run_on(id, id, &data, &["--join", "--member", &own]);
        wait_for("an answer of the new one", async || {
            self.client(id).report(ZoneReport::default()).await.ok()
        })
        .await;
    }

    /// Starts coordinator `id` on `data` and the port of `place`, under which it is kept here.
    pub(super) fn run_on(&mut self, place: u64, id: u64, data: &Path, more: &[&str]) {
        let mut command = Command::new(binary());
        command.args(["coordinator", "--cluster-id", CLUSTER, "--zone", zone(id)]);
        command.args(self.timing);
        command.arg("--id").arg(id.to_string()).arg("--data").arg(data);
        command.arg("--listen").arg(self.url(place).trim_start_matches("http://"));
        // A joining coordinator names itself only: the leader sends it the addresses of the others.
        let names_itself = more.contains(&"--join") && more.contains(&"--member");
        let founders = if names_itself { 0 } else { 3 };
        for founder in 1..=founders {
            command.arg("--member").arg(self.member(founder));
        }
        let errors = fs::File::create(self.errors(place)).expect("a file");
        command.args(more).env("PGHC_LOG", "info").stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().expect("started");
        assert!(self.children.insert(place, child).is_none(), "{place} runs already");
    }

    /// Kills with -9.
    pub(super) fn kill(&mut self, id: u64) {
        let mut child = self.children.remove(&id).expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    /// Stops with SIGTERM and waits.
    pub(super) async fn term(&mut self, id: u64) -> ExitStatus {
        let pid = self.children[&id].id().cast_signed();
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
        self.ended(id).await.0
    }

    /// Waits until a process has ended; returns its exit status and output.
    pub(super) async fn ended(&mut self, id: u64) -> (ExitStatus, String) {
        let mut child = self.children.remove(&id).expect("it ran");
        let status =
            wait_for("the end of a process", async || child.try_wait().expect("a child of ours"))
                .await;
        (status, fs::read_to_string(self.errors(id)).expect("readable"))
    }

    /// Waits until coordinator `id` has refused to go on, and checks that it says what to do.
    pub(super) async fn refuses(&mut self, id: u64, words: &str) {
        let (status, said) = self.ended(id).await;
        assert_eq!(status.code(), Some(1), "{said}");
        let error = said.lines().rfind(|line| line.starts_with("pghc: ")).unwrap_or_default();
        assert!(error.contains(words), "{words:?} in {said}");
    }

    /// Waits until a coordinator has logged that it waits for admission.
    pub(super) async fn waits(&self, id: u64) {
        wait_for("a coordinator that is not admitted", async || {
            self.said(id).contains("waiting for admission").then_some(())
        })
        .await;
    }

    /// Output of a process.
    pub(super) fn said(&self, id: u64) -> String {
        fs::read_to_string(self.errors(id)).expect("readable")
    }

    pub(super) fn pid(&self, id: u64) -> Pid {
        Pid::from_raw(self.children[&id].id().cast_signed())
    }

    /// Writes go to this one only; 0: to any.
    pub(super) fn only(&mut self, id: u64) {
        self.only = id;
    }

    pub(super) fn is_running(&mut self, id: u64) -> bool {
        let child = self.children.get_mut(&id).expect("it was started");
        child.try_wait().expect("a child of ours").is_none()
    }

    fn caller(&self, id: u64) -> Caller {
        let cluster: ClusterId = CLUSTER.parse().expect("a UUID");
        rpc::connect(&self.url(id), &cluster, Duration::from_secs(10)).expect("a URL")
    }

    pub(super) fn client(&self, id: u64) -> CoordinatorClient<Caller> {
        CoordinatorClient::new(self.caller(id))
    }

    /// Waits until some running coordinator knows of a running leader.
    pub(super) async fn leader(&self) -> u64 {
        wait_for("a leader", async || {
            for id in self.children.keys() {
                let mut client = self.client(*id);
                let view = client.report(ZoneReport::default()).await;
                let Ok(view) = view else { continue };
                let leader = view.into_inner().leader;
                if self.children.contains_key(&leader) {
                    return Some(leader);
                }
            }
            None
        })
        .await
    }

    pub(super) async fn list(&self) -> MemberList {
        wait_for("a list", async || {
            for id in self.children.keys() {
                let mut client = MembersClient::new(self.caller(*id));
                if let Ok(list) = client.list(ListMembersRequest {}).await {
                    return Some(list.into_inner());
                }
            }
            None
        })
        .await
    }

    pub(super) async fn voters(&self) -> Vec<u64> {
        let list = self.list().await;
        list.members.iter().filter(|it| it.voter).map(|it| it.coordinator_id).collect()
    }

    /// Runs `pghc` with this command, asking all that were ever started.
    fn ask(&self, what: &str, line: &str) -> Output {
        let mut command = Command::new(binary());
        command.args([what, "--cluster-id", CLUSTER]);
        // The newest first: one that waits to be added answers, and knows no leader.
        for id in self.children.keys().rev() {
            command.arg("--coordinator").arg(self.url(*id));
        }
        command.args(line.split_whitespace()).output().expect("it runs")
    }

    /// Runs `pghc members` and checks the exit code; what it said.
    pub(super) fn says(&self, line: &str, code: i32) -> String {
        self.said_by("members", line, code)
    }

    /// Runs `pghc leader` and checks the exit code; what it said.
    pub(super) fn leader_says(&self, line: &str, code: i32) -> String {
        self.said_by("leader", line, code)
    }

    fn said_by(&self, what: &str, line: &str, code: i32) -> String {
        let output = self.ask(what, line);
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(code), "pghc {what} {line}: {said}");
        said
    }

    /// Has one write acknowledged by any of the running, resent as API nodes do.
    pub(super) async fn write(&mut self) {
        self.sequence += 1;
        let write = Write { key: None, payload: Some(self.sequence.to_string().into()) };
        let node = "eu-1".parse().expect("a plain name");
        let batch = Batch { session: [7; 16], sequence: self.sequence, node, writes: vec![write] };
        let request =
            SubmitRequest { batch: batch.encode(), max_wait_ms: 1_000, ..SubmitRequest::default() };
        let id = wait_for("an acknowledgement", async || {
            let only = |id: &&u64| self.only == 0 || self.only == **id;
            for id in self.children.keys().filter(only) {
                let mut call = tonic::Request::new(request.clone());
                call.set_timeout(Duration::from_secs(2));
                if let Ok(reply) = self.client(*id).submit(call).await {
                    return Some(reply.into_inner().outcomes[0].id);
                }
            }
            None
        })
        .await;
        assert_eq!(id, self.acknowledged + 1, "ids are dense and nothing is lost");
        self.acknowledged = id;
    }

    /// Every running coordinator serves every acknowledged write, in the same order.
    pub(super) async fn check(&mut self) {
        let running: Vec<u64> = self.children.keys().copied().collect();
        for id in running {
            assert!(self.is_running(id), "coordinator {id} ended: {}", self.said(id));
            let tail = wait_for("a tail", async || {
                self.client(id).tail(TailRequest::default()).await.ok()
            });
            let mut stream = tail.await.into_inner();
            for wanted in 1..=self.acknowledged {
                let next = tokio::time::timeout(Duration::from_secs(30), stream.message());
                let batch = next.await.expect("in time").expect("a batch").expect("no end");
                assert_eq!(batch.last_id, wanted, "coordinator {id}");
                let batch = Batch::decode(batch.batch).expect("a batch");
                assert_eq!(batch.sequence, wanted, "coordinator {id}");
            }
        }
    }
}

/// Copies a directory.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let (from, name) = entry.map(|it| (it.path(), it.file_name())).expect("readable");
        if from.is_dir() {
            copy(&from, &to.join(name));
        } else {
            fs::copy(&from, to.join(name)).expect("copied");
        }
    }
}
