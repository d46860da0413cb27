//! Claims about the load generator, against a small stand-in for an API node whose failures are
//! chosen by the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, body::Bytes};
use parking_lot::Mutex;
use pghc_api::chain::{Digest, LinkHash};
use pghc_api::id::{ClusterId, WriteId};
use pghc_api::time::Micros;
use pghc_api::token::Token;
use pghc_api::wire::{HeadBody, LinkBody, Page, Status, WriteRequest};
use pghc_lab::load::{Log, Op, Progress, Sample, WriteResult};
use pghc_lab::run::drive::{LEAD, RunContext, drive};
use pghc_lab::run::{outcome, run, scenario::Scenario};
use pghc_lab::site::Site;
use pghc_lab::target::{Endpoint, Target, Zone};
use pghc_lab::transport::Http;
use pghc_lab::write_audit::{self, WriteAudit};
use pghc_runtime::task::Tasks;
use tokio_util::sync::CancellationToken;

use crate::harness::wait_for;

/// Treatment of a write by the stand-in, by its number in the order of arrival.
type Treatment = fn(u64) -> Treat;

enum Treat {
    Write,
    /// Written, but the answer comes after this long.
    Late(Duration),
    /// 429, not written.
    Refuse,
    /// Acknowledged, not written: what pghc must never do.
    Lose,
}

#[derive(Clone)]
struct Standin {
    links: Arc<Mutex<Vec<LinkBody>>>,
    arrived: Arc<Mutex<u64>>,
    treatment: Treatment,
}

async fn write(State(standin): State<Standin>, body: Bytes) -> (StatusCode, String) {
    let request: WriteRequest = serde_json::from_slice(&body).expect("the generator sends JSON");
    let number = {
        let mut arrived = standin.arrived.lock();
        *arrived += 1;
        *arrived - 1
    };
    let treat = (standin.treatment)(number);
    if matches!(treat, Treat::Refuse) {
        return (StatusCode::TOO_MANY_REQUESTS, r#"{"code":"overloaded"}"#.to_owned());
    }
    let id = {
        let mut links = standin.links.lock();
        let id = links.len() as u64 + 1;
        if !matches!(treat, Treat::Lose) {
            let cluster: ClusterId = "00000000-0000-4000-8000-000000000001".parse().expect("uuid");
            let digest = Digest::default();
            links.push(LinkBody {
                id,
                node_id: "eu-1".to_owned(),
                hash: LinkHash::default(),
                digest,
                written_at: Micros(0),
                token: Token::new(&cluster, WriteId::try_from(id).expect("an id"), digest),
                payload: request.payload,
            });
        }
        id
    };
    if let Treat::Late(by) = treat {
        tokio::time::sleep(by).await;
    }
    (StatusCode::CREATED, format!(r#"{{"id":{id}}}"#))
}

#[derive(serde::Deserialize)]
struct PageQuery {
    after: u64,
    limit: usize,
}

async fn page(State(standin): State<Standin>, Query(query): Query<PageQuery>) -> Json<Page> {
    let links = standin.links.lock();
    let frontier = links.len() as u64;
    let page: Vec<_> =
        links.iter().filter(|link| link.id > query.after).take(query.limit).cloned().collect();
    let last = page.last().map_or(frontier, |link| link.id);
    Json(Page { links: page, next_after: (last < frontier).then_some(last), frontier })
}

async fn head(State(standin): State<Standin>) -> Json<HeadBody> {
    Json(HeadBody { head: None, frontier: standin.links.lock().len() as u64 })
}

const TIMING: [(&str, &str); 1] = [("server-timing", "apply;dur=1.5")];

async fn status() -> Json<Status> {
    Json(Status {
        cluster_id: "00000000-0000-4000-8000-000000000001".to_owned(),
        zone: "eu".to_owned(),
        node_id: "eu-1".to_owned(),
        is_applier: true,
        frontier: 0,
        head: 0,
        leader: Some(1),
        leader_zone: Some("eu".to_owned()),
        term: 3,
        coordinators: Vec::new(),
        zones: Vec::new(),
        halted: None,
        readings: Vec::new(),
        heard_ms: Some(0),
    })
}

/// A zone whose only node treats writes this way.
async fn target(treatment: Treatment, tasks: &Tasks) -> Target {
    let standin = Standin { links: Arc::default(), arrived: Arc::default(), treatment };
    let router = Router::new()
        .route("/v1/chain", post(write))
        .route("/v1/chain", get(page))
        .route("/v1/chain/head", get(head))
        .route("/v1/chain/{id}", get(async || (TIMING, "{}")))
        .route("/v1/status", get(status))
        .with_state(standin);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    tasks.spawn("stand-in", async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let io = hyper_util::rt::TokioIo::new(stream);
            // The test's runtime ends them.
            Tasks::default().spawn("stand-in connection", async move {
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service);
                let _: Result<(), hyper::Error> = serving.await;
            });
        }
    });
    let nodes = vec![Endpoint { address, host: address.to_string() }];
    Target { zones: vec![Zone { name: "eu".to_owned(), dsn: String::new(), nodes }] }
}

/// Drives a scenario of half a second of warm-up and a second, and answers its logs and the books.
async fn run_scenario(
    treatment: Treatment,
    clients: &str,
    tasks: &Tasks,
) -> (Vec<Log>, WriteAudit) {
    let text = format!(
        "name = 'x'\nseed = 7\nduration = '1s'\nwarmup = '500ms'\n[[clients]]\nzone = 'eu'\n{clients}"
    );
    let scenario = Scenario::parse(&text, &[]).expect(&text);
    let target = target(treatment, tasks).await;
    let (progress, start) = (Progress::default(), Instant::now() + LEAD);
    let context = RunContext {
        zones: &["eu".to_owned()],
        scenario: &scenario,
        run: "run2",
        newest: 0,
        start,
        progress: &progress,
        stop: &CancellationToken::new(),
    };
    let (logs, _) = drive(context, &Http::new(&target)).await;
    let audit = write_audit::read_chain(&target.zones[0].nodes[0], 0, "run2", &logs).await;
    (logs, audit.expect("the stand-in answers"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_loop_writes_match_their_audit() {
    let tasks = Tasks::default();
    let clients = "rate = 300\nmix = { write = 2, read-local = 1, read-session = 1 }";
    let (logs, audit) = run_scenario(|_| Treat::Write, clients, &tasks).await;
    let log = &logs[0];
    assert_eq!((logs.len(), log.dropped), (1, 0));
    // 450 expected; six standard deviations.
    assert!(log.samples.len().abs_diff(450) < 130, "{}", log.samples.len());
    assert!(log.samples.iter().all(|sample| sample.ok), "{:?}", log.failures);
    let writes = log.samples.iter().filter(|sample| sample.op == Op::Write).count();
    assert!(writes.abs_diff(log.samples.len() / 2) < 80, "{writes}");
    assert_eq!(log.writes.len(), writes);
    assert_eq!(audit, WriteAudit { found: writes as u64, ..WriteAudit::default() });
    let (sum, count) = log.timing["apply"];
    assert!((sum / count as f64 - 1.5).abs() < 1e-9, "what the server tells is kept");
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_loop_audit_records_refused_writes() {
    let tasks = Tasks::default();
    let clients = "arrival = 'closed'\nusers = 4\nthink = '5ms'";
    let treat = |number| match number % 10 {
        3 => Treat::Refuse,
        7 => Treat::Lose,
        _ => Treat::Write,
    };
    let (logs, audit) = run_scenario(treat, clients, &tasks).await;
    let log = &logs[0];
    let refused = count(log, |result| *result == WriteResult::Refused);
    let written = count(log, is_written);
    assert!(written > 0 && refused > 0, "{written} {refused}");
    assert_eq!(written + refused, log.writes.len());
    assert_eq!(audit.found + audit.lost, written as u64, "{audit:?}");
    assert!(audit.lost > 0 && !audit.agrees(), "{audit:?}");
    assert_eq!(log.failures["429 overloaded"], refused as u64);
    tasks.shut_down().await;
}

fn count(log: &Log, wanted: impl Fn(&WriteResult) -> bool) -> usize {
    log.writes.iter().filter(|write| wanted(&write.result)).count()
}

fn is_written(result: &WriteResult) -> bool {
    matches!(result, WriteResult::Written(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_shows_in_every_write_that_was_planned_meanwhile() {
    let tasks = Tasks::default();
    // One connection, and the first answer takes half a second: the writes planned behind it wait.
    let one = "rate = 500\narrival = 'uniform'\nconnections = 1";
    let stall = |number| match number {
        0 => Treat::Late(Duration::from_millis(500)),
        _ => Treat::Write,
    };
    let (logs, audit) = run_scenario(stall, one, &tasks).await;
    let log = &logs[0];
    assert!(log.writes.len().abs_diff(750) < 3, "a second and a half: {}", log.writes.len());
    assert_eq!(count(log, is_written), log.writes.len(), "{:?}", log.failures);
    assert_eq!(audit.found, log.writes.len() as u64);
    let p90_ms = |of: fn(&Sample) -> Duration| {
        let micros = log.samples.iter().map(|it| u64::try_from(of(it).as_micros()));
        let mut micros: Vec<u64> = micros.map(|us| us.expect("short")).collect();
        outcome::summary_of(&mut micros).p90_ms
    };
    let (latency, service) = (p90_ms(|it| it.latency), p90_ms(|it| it.service));
    assert!(latency > 250.0, "a tenth waited for half of the stall: {latency}");
    assert!(service < 100.0, "the server was slow only once: {service}");
    assert!(log.slip.summary().max_ms > 450.0, "late sends are recorded");
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_writes_are_looked_up_in_chain() {
    let tasks = Tasks::default();
    let short = "rate = 500\narrival = 'uniform'\nconnections = 64\ntimeout = '5s'";
    let mixed = |number| match number {
        10..20 => Treat::Refuse,
        20..25 => Treat::Late(Duration::from_secs(60)),
        _ => Treat::Write,
    };
    let (logs, audit) = run_scenario(mixed, short, &tasks).await;
    let log = &logs[0];
    let undecided = (
        count(log, |it| *it == WriteResult::Refused),
        count(log, |it| *it == WriteResult::Unknown),
    );
    assert_eq!(undecided, (10, 5), "{:?}", log.failures);
    assert_eq!(log.failures.get("429 overloaded"), Some(&10));
    let found = log.writes.len() as u64 - 10;
    assert_eq!(audit, WriteAudit { found, unknown_written: 5, ..WriteAudit::default() });
    assert!(audit.agrees());
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_fails_when_its_zones_cannot_be_verified() {
    let tasks = Tasks::default();
    let mut target = target(|_| Treat::Write, &tasks).await;
    // No server listens on the discard port, so the database is unreachable.
    target.zones[0].dsn = "postgres://postgres@127.0.0.1:9/pghc".to_owned();
    let text = "name = 'x'\nseed = 7\nduration = '1s'\nwarmup = '500ms'\n[cluster]\n\
                visibility = false\n[[clients]]\nzone = '*'\nrate = 100\narrival = 'uniform'";
    let scenario = Scenario::parse(text, &[]).expect("a good scenario");
    let finished = run(&scenario, &Site::of(target), &CancellationToken::new()).await;
    let finished = finished.expect("the stand-in answers");
    let outcome = finished.outcome;
    println!("{outcome}");
    assert_eq!((outcome.all.ok, outcome.zones.len()), (outcome.all.sent, 1));
    assert_eq!((outcome.leader.as_deref(), outcome.warm_up_failures), (Some("eu"), 0));
    assert!(outcome.audit.agrees(), "{:?}", outcome.audit);
    assert!(outcome.audit.found.abs_diff(150) < 3, "{:?}", outcome.audit);
    assert_eq!(outcome.verify.exit_code, Some(2));
    assert!(!outcome.verify.passed && !outcome.passed, "{}", outcome.verify.report);
    tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_stopped_early_reports_sent_writes() {
    static ARRIVED: AtomicU64 = AtomicU64::new(0);
    let count = |number| {
        ARRIVED.store(number, Ordering::Relaxed);
        // The last answers come after the run has stopped waiting for them.
        if number < 200 { Treat::Write } else { Treat::Late(Duration::from_secs(60)) }
    };
    let tasks = Tasks::default();
    let target = target(count, &tasks).await;
    let text = "name = 'x'\nseed = 7\nduration = '1h'\nwarmup = '100ms'\n[cluster]\n\
                visibility = false\n[[clients]]\nzone = '*'\nrate = 100\ntimeout = '10m'\n\
                [[clients]]\nzone = '*'\narrival = 'closed'\nusers = 2\nthink = '1s'\ntimeout = '10m'";
    let scenario = Scenario::parse(text, &[]).expect("a good scenario");
    let (stop, site) = (CancellationToken::new(), Site::of(target));
    let stopping = async {
        wait_for("writes", async || (ARRIVED.load(Ordering::Relaxed) > 210).then_some(())).await;
        stop.cancel();
    };
    let (finished, ()) = tokio::join!(run(&scenario, &site, &stop), stopping);
    let outcome = finished.expect("the stand-in answers").outcome;
    assert!(outcome.interrupted && !outcome.passed);
    assert!(outcome.audit.agrees(), "{:?}", outcome.audit);
    assert!(outcome.all.ok >= 150 && outcome.all.unknown > 0, "{outcome}");
    assert!(outcome.seconds > 1.0 && outcome.seconds < 600.0, "{outcome}");
    let printed = outcome.to_string();
    assert!(printed.contains("INTERRUPTED: what follows"), "{printed}");
    assert!(printed.contains("result     INTERRUPTED, FAILED"), "{printed}");
    tasks.shut_down().await;
}
