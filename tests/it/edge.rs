//! Edge cases of real processes: silent, slow and greedy clients, a log without a reader, exit
//! reasons. No database runs: a node and a coordinator serve without one.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pghc_api::id::ClusterId;
use pghc_runtime::rpc;
use pghc_runtime::rpc::v1::SubmitRequest;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_server::sequencer::{Batch, Write};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{binary, client, free_addresses, wait_for};

const CLUSTER: &str = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7";
const MIB: usize = 1 << 20;

/// A process of ours under test; killed when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
    _data: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn limit(files: Option<u32>) -> String {
    files.map(|files| format!("ulimit -n {files} && ")).unwrap_or_default()
}

impl Running {
    /// Starts `pghc` with these arguments under a limit of open files in the shell's syntax, if
    /// given.
    fn start(
        limit: &str,
        words: impl FnOnce(SocketAddr, &str) -> String,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let address = free_addresses(1)[0];
        let words = words(address, data.path().to_str().expect("a plain path"));
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{limit}exec {} {words}", binary().display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        change(&mut command);
        let child = command.spawn().expect("sh is there");
        Self { child, address, _data: data }
    }

    /// An API node whose database and coordinators are not there.
    fn node(files: Option<u32>, more: &str, change: impl FnOnce(&mut Command)) -> Self {
        Self::node_behind(&limit(files), more, change)
    }

    fn node_behind(limit: &str, more: &str, change: impl FnOnce(&mut Command)) -> Self {
        let nowhere = free_addresses(2);
        let words = move |address: SocketAddr, _: &str| {
            format!(
                "api --cluster-id {CLUSTER} --zone eu --node eu-1 --listen {address} \
                 --database postgres://nobody@{}/none --coordinator http://{} {more}",
                nowhere[0], nowhere[1]
            )
        };
        Self::start(limit, words, change)
    }

    fn coordinator(files: u32, metrics: SocketAddr) -> Self {
        let words = |address: SocketAddr, data: &str| {
            format!(
                "coordinator --cluster-id {CLUSTER} --id 1 --zone eu --data {data}/c --listen {address} \
                 --member 1=eu=http://{address} --log-bytes {} --profile lan --metrics {metrics}",
                2 * MIB
            )
        };
        Self::start(&limit(Some(files)), words, |_| {})
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = client().get(format!("http://{}{path}", self.address)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn serves(&self) {
        wait_for("an answer", async || self.get("/ping").await).await;
    }

    fn signal(&self, by: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), by).expect("it runs");
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("its end", async || child.try_wait().expect("a child of ours")).await
    }

    fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        let kib = line.trim().trim_end_matches("kB").trim();
        kib.parse::<usize>().expect("a number") << 10
    }
}

/// Connections that say nothing.
async fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.expect("it listens"));
    }
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_take_no_descriptor_of_the_log() {
    let metrics = free_addresses(1)[0];
    let mut coordinator = Running::coordinator(128, metrics);
    let url = format!("http://{}", coordinator.address);
    let cluster: ClusterId = CLUSTER.parse().expect("a UUID");
    let write = async |sequence: u64| {
        let write = Write { key: None, payload: Some(vec![b'1'; 64 << 10].into()) };
        let node = "eu-1".parse().expect("a plain name");
        let batch = Batch { session: [1; 16], sequence, node, writes: vec![write] }.encode();
        let request = SubmitRequest { batch, max_wait_ms: 2_000, ..SubmitRequest::default() };
        let caller = rpc::connect(&url, &cluster, Duration::from_secs(5)).expect("a URL");
        let reply = CoordinatorClient::new(caller).submit(request).await.ok()?;
        Some(reply.into_inner().outcomes[0].id)
    };
    wait_for("the first write", async || write(1).await).await;
    let mut strangers = silent(coordinator.address, 200).await;
    strangers.extend(silent(metrics, 40).await);
    // 128 KiB a segment: a new one for every other write.
    for sequence in 2..=60 {
        let id = wait_for("a write", async || write(sequence).await).await;
        assert_eq!(id, sequence);
        assert_eq!(coordinator.child.try_wait().expect("ours"), None, "it lives");
    }
    wait_for("its metrics", async || {
        let exposed = client().get(format!("http://{metrics}/metrics")).send().await.ok()?;
        exposed.text().await.ok()?.contains("pghc_coordinator_head_id 60").then_some(())
    })
    .await;
    drop(strangers);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_client_from_a_node() {
    let node = Running::node(Some(128), "", |_| {});
    node.serves().await;
    let strangers = silent(node.address, 300).await;
    assert_eq!(node.get("/ping").await.expect("it is served").1, "pong");
    drop(strangers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_limit_of_descriptors_is_raised_at_start() {
    let soft = Running::node_behind("ulimit -Sn 32 && ", "", |_| {});
    soft.serves().await;
    assert_eq!(soft.get("/ping").await.expect("it is served").1, "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_take_no_more_memory_than_their_budget() {
    let node = Running::node(None, &format!("--request-bytes {}", 32 * MIB), |_| {});
    node.serves().await;
    let before = node.resident_bytes();
    let mut slow = Vec::new();
    let part = [b"{\"payload\":\"".as_slice(), &vec![b'x'; 900 << 10]].concat();
    for number in 0..300 {
        let kind = if number % 2 == 0 { "json" } else { "x-ndjson" };
        let head = format!(
            "POST /v1/chain HTTP/1.1\r\nhost: a\r\ncontent-type: application/{kind}\r\n\
             content-length: {MIB}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(node.address).await.expect("it listens");
        // A refused connection is closed, and a connection without a free slot is not read.
        let send = async {
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&part).await;
        };
        let _ = tokio::time::timeout(Duration::from_millis(50), send).await;
        slow.push(stream);
    }
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 80 * MIB, "it has grown by {grown} bytes");
    let mut refused = 0;
    for mut stream in slow {
        let mut answer = [0; 12];
        let read = tokio::time::timeout(Duration::from_millis(5), stream.read_exact(&mut answer));
        refused +=
            usize::from(read.await.is_ok_and(|read| read.is_ok()) && answer.ends_with(b" 503"));
    }
    assert!(refused > 100, "{refused} of 300 were refused");
    assert_eq!(node.get("/ping").await.expect("it is served").1, "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn process_survives_closed_log_pipe() {
    for full in [false, true] {
        let mut node = Running::node(None, "", |command| {
            command.env("PGHC_LOG", "debug");
            if full {
                let device = std::fs::File::options().write(true).open("/dev/full");
                command.stderr(device.expect("it is there"));
            } else {
                command.stderr(Stdio::piped());
            }
        });
        node.serves().await;
        drop(node.child.stderr.take());
        // Each of them is logged.
        for _ in 0..20 {
            let (status, _) = node.get("/nothing/here").await.expect("it lives");
            assert_eq!(status, 404);
        }
        node.signal(Signal::SIGINT);
        assert_eq!(node.ended().await.code(), Some(0), "full: {full}");
    }
}

/// The lines of a log, each of which must be JSON.
fn events(stderr: ChildStderr) -> Vec<Value> {
    let lines = BufReader::new(stderr).lines();
    let event = |line: String| serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
    lines.map(|line| event(line.expect("text"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_told_to_end_serves_until_balancers_know() {
    let mut node = Running::node(None, "--drain-s 3600", |command| {
        command.env("PGHC_LOG_FORMAT", "json").stderr(Stdio::piped());
    });
    node.serves().await;
    let log = node.child.stderr.take().expect("piped");
    node.signal(Signal::SIGTERM);
    wait_for("its notice", async || {
        let (status, text) = node.get("/readyz").await.expect("it takes connections");
        (status == 503 && text.contains("draining")).then_some(())
    })
    .await;
    assert_eq!(node.get("/ping").await.expect("it serves still").1, "pong");
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await.code(), Some(0));
    let last = events(log).pop().expect("a log");
    assert_eq!((&last["message"], &last["exit_code"]), (&"process ended".into(), &0.into()));
}

#[test]
fn the_last_event_of_a_json_log_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let api = format!(
        "api --cluster-id {CLUSTER} --zone eu --node eu-1 --database postgres://a@127.0.0.1:1/b \
         --coordinator http://127.0.0.1:1 --listen {address}"
    );
    let data = tempfile::tempdir().expect("a directory");
    let member = format!("--member 1=eu=http://{address}");
    let coordinator =
        format!("coordinator --cluster-id {CLUSTER} --id 1 --zone eu --listen {address} {member}");
    let damaged = data.path().join("damaged");
    std::fs::create_dir(&damaged).expect("made");
    std::fs::write(damaged.join("identity.json"), "nonsense").expect("written");
    let damaged = format!("{coordinator} --data {}", damaged.display());
    let pghc = env!("CARGO_BIN_EXE_pghc");
    for (program, words, code, why) in [
        (pghc, api.as_str(), 2, "cannot listen on"),
        (
            pghc,
            &format!("{coordinator} --data {}", data.path().join("c").display()),
            2,
            "cannot listen on",
        ),
        (pghc, damaged.as_str(), 1, "identity.json is not readable"),
        (pghc, "coordinator --nonsense", 2, "--nonsense"),
        (pghc, "api --config /no/such.toml", 2, "/no/such.toml"),
        (pghc, "status --data /no/such", 2, "/no/such"),
        (env!("CARGO_BIN_EXE_chain-verify"), "--file a --last 0", 3, "--last"),
    ] {
        let mut child = Command::new(program)
            .args(words.split_whitespace())
            .env("PGHC_LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it was built");
        let log = child.stderr.take().expect("piped");
        let last = events(log).pop().expect("a log");
        assert_eq!(child.wait().expect("ours").code(), Some(code), "{words}: {last}");
        assert_eq!((&last["message"], &last["exit_code"]), (&"process ended".into(), &code.into()));
        let error = last["error"].as_str().expect("a reason");
        assert!(error.contains(why), "{words}: {error}");
    }
}

#[test]
fn a_server_with_too_few_files_refuses_to_start() {
    let mut node = Running::node(Some(64), "", |command| {
        command.stderr(Stdio::piped());
    });
    let mut said = String::new();
    let log = node.child.stderr.as_mut().expect("piped");
    log.read_to_string(&mut said).expect("text");
    assert_eq!(node.child.wait().expect("ours").code(), Some(2), "{said}");
    assert!(said.contains("64 open files are allowed") && said.contains("allow 80"), "{said}");
}
