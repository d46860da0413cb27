//! The zone's database: what SQL itself refuses, what the applier can and cannot do, what
//! `pghc.verify` finds. Each test has its own database on one server.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which may unwrap too")]

mod plans;
mod role_rights;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use futures::{StreamExt as _, TryStreamExt as _};
use pghc_api::chain::{Head, Link, payload_digest};
use pghc_api::id::{ClusterId, WriteId};
use pghc_api::time::Micros;
use pghc_dev::postgres::{Server, ServerOptions};
use pghc_dev::scratch::Scratch;
use pghc_postgres::raw::RawChain;
use pghc_postgres::{
    Acquired, Applier, ApplyError, Batch, Commit, Dsn, Evidence, Finding, Keep, MigrateError,
    Reader, Role, listen, migrate, preflight,
};
use pghc_runtime::task::Tasks;
use tokio::sync::Mutex;
use tokio_postgres::Client;

const CLUSTER: &str = "00000000-0000-4000-8000-000000000001";

/// The server of the tests that run at the moment; the last of them stops it.
static SERVER: Mutex<Weak<Shared>> = Mutex::const_new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Fields are dropped in this order: the server before its directory.
struct Shared {
    server: Server,
    _scratch: Scratch,
}

/// A database of its own with its tasks.
struct Database {
    name: String,
    dsn: Dsn,
    tasks: Tasks,
    admin: Client,
    shared: Arc<Shared>,
}

async fn shared_server() -> Arc<Shared> {
    let mut running = SERVER.lock().await;
    if let Some(shared) = running.upgrade() {
        return shared;
    }
    let scratch = Scratch::new("pg").expect("a temporary directory");
    let options = ServerOptions::new(scratch.path().join("data"), crate::harness::free_port());
    let options = ServerOptions { temporary: true, ..options };
    let server = Server::start(options).await.expect("PostgreSQL is installed");
    let shared = Arc::new(Shared { server, _scratch: scratch });
    *running = Arc::downgrade(&shared);
    shared
}

pub(crate) fn cluster() -> ClusterId {
    CLUSTER.parse().unwrap()
}

impl Database {
    async fn empty() -> Self {
        let shared = shared_server().await;
        let server = &shared.server;
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let tasks = Tasks::default();
        let dsn: Dsn = server.dsn().parse().unwrap();
        let client = dsn.connect(Role::Login, "test", &tasks).await.unwrap();
        client.batch_execute(&format!("create database {name}")).await.unwrap();
        let dsn: Dsn = server.dsn_of(&name).parse().unwrap();
        let admin = dsn.connect(Role::Login, "test", &tasks).await.unwrap();
        Self { name, dsn, tasks, admin, shared }
    }

    async fn migrated() -> Self {
        let database = Self::empty().await;
        database.migrate().await.expect("an empty database can be migrated");
        database
    }

    async fn migrate(&self) -> Result<Vec<Finding>, MigrateError> {
        migrate(&self.dsn, &cluster(), &"eu".parse().unwrap(), &self.tasks).await
    }

    async fn applier(&self, commit: Commit) -> Applier {
        Applier::connect(&self.dsn, commit, &self.tasks).await.expect("it is migrated")
    }

    async fn with_links(count: u64) -> (Self, Vec<Link>) {
        let database = Self::migrated().await;
        let applier = database.applier(Commit::OnDisk).await;
        let (epoch, head) = acquire(&applier, None).await;
        let links = links(head.as_ref(), count);
        applier.apply(epoch, &Batch::new(None, links.clone())).await.expect("it holds the epoch");
        (database, links)
    }

    /// Lets the lease of the newest epoch have run out long ago.
    async fn age(&self) {
        let sql = "set pghc.door = 'open'; \
                   update pghc.frontier set renewed_at = renewed_at - interval '1 hour'; \
                   reset pghc.door";
        self.admin.batch_execute(sql).await.unwrap();
    }

    async fn verify(&self) -> Vec<(Option<i64>, String)> {
        let rows = self.admin.query("select id, what from pghc.verify()", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// The error that a statement of a role ends in: SQLSTATE and message.
    async fn refused(&self, role: &str, sql: &str) -> String {
        let client = self.dsn.connect(Role::Login, "test", &self.tasks).await.unwrap();
        let error = client
            .batch_execute(&format!("set role {role}; {sql}"))
            .await
            .expect_err(&format!("{role} must not: {sql}"));
        let error = error.as_db_error().expect("the server answered");
        format!("{} {}", error.code().code(), error.message())
    }
}

pub(crate) async fn acquire(applier: &Applier, expired: Option<u64>) -> (u64, Option<Head>) {
    match applier.acquire(&"api-1".parse().unwrap(), expired).await.expect("it is answered") {
        Acquired::Granted { epoch, head } => (epoch, head),
        held @ Acquired::Held { .. } => panic!("{held:?}"),
    }
}

/// Some of `all` links of a chain.
fn part(all: &[Link], range: std::ops::Range<usize>) -> Batch {
    let before = range.start.checked_sub(1).map(|place| all[place].digest);
    Batch::new(before, all[range].to_vec())
}

/// Links behind `head`; every third has no payload, the others need every byte kept.
pub(crate) fn links(head: Option<&Head>, count: u64) -> Vec<Link> {
    let mut head = head.copied();
    let node = "api-1".parse().unwrap();
    let link = |number: u64| {
        let payload = (!number.is_multiple_of(3))
            .then(|| format!("{{ \"b\" : 1.50,\"a\":[ ] , \"b\":\"\\u00e9 é\" , \"n\":{number}}}"));
        let written_after = head.map_or(1_700_000_000_123_456, |head| head.written_at.0);
        let at = Micros(written_after + number.cast_signed());
        let digest = payload.as_ref().map(|text| payload_digest(text.as_bytes()));
        let new = Head::extend(head.as_ref(), &cluster(), &node, at, digest);
        head = Some(new);
        let Head { id, hash, digest, written_at } = new;
        Link { id, node: node.clone(), hash, digest, written_at, payload: payload.map(Into::into) }
    };
    (0..count).map(link).collect()
}

#[tokio::test]
async fn links_come_back_as_they_were_applied_byte_for_byte() {
    let (database, links) = Database::with_links(10).await;
    let reader = Reader::new(&database.dsn, 2);
    let page = reader.page(0, 100).await.unwrap();
    assert_eq!((page.links.as_slice(), page.frontier), (links.as_slice(), 10));
    let page = reader.page(3, 2).await.unwrap();
    assert_eq!((page.links.as_slice(), page.frontier), (&links[3..5], 10));
    assert!(reader.page(10, 5).await.unwrap().links.is_empty());
    let (link, frontier) = reader.link(links[6].id).await.unwrap();
    assert_eq!((link.as_ref(), frontier), (Some(&links[6]), 10));
    assert_eq!(reader.link(WriteId::MAX).await.unwrap(), (None, 10));
    let (recent, frontier) = reader.recent(3).await.unwrap();
    assert_eq!(frontier, 10);
    assert_eq!(reader.newest().await.unwrap(), (Some(links[9].clone()), 10));
    assert_eq!(reader.evidence().await.unwrap(), None);
    assert_eq!(recent.iter().map(|link| link.0.get()).collect::<Vec<_>>(), [10, 9, 8]);
    assert_eq!(recent[0].1, links[9].hash);
    assert_eq!(reader.head().await.unwrap(), Some(part(&links, 0..10).head()));

    let raw = RawChain::connect(&database.dsn, &database.tasks).await.unwrap();
    let head = raw.head().await.unwrap();
    assert_eq!((head.cluster.as_deref(), head.last_id), (Some(CLUSTER), Some(10)));
    let rows: Vec<_> = raw.links(2, 9).try_collect().await.unwrap();
    assert_eq!(rows.len(), 8);
    for (row, link) in rows.iter().zip(&links[1..]) {
        assert_eq!(row.id(), link.id.as_i64());
        assert_eq!(row.hash(), Some(link.hash.to_string().as_bytes()));
        assert_eq!(row.digest(), Some(link.digest.0.as_slice()));
        assert_eq!(row.written_at(), Some(link.written_at));
        assert_eq!(row.payload(), link.payload.as_ref().map(|text| text.as_bytes()));
    }
    let view = database.admin.query_one("select max(zk_id) from public.chain", &[]).await.unwrap();
    assert_eq!(view.get::<_, i64>(0), 10);
    assert_eq!(database.verify().await, []);
}

/// A node may still look for the first bad link when `pghc zone reseed` puts an empty chain in place.
#[tokio::test]
async fn finding_in_a_replaced_chain_fences_nothing() {
    let (database, links) = Database::with_links(10).await;
    let reader = Reader::new(&database.dsn, 1);
    let fork = |id: i64, expected: String| {
        let (what, found, node) = ("fork".to_owned(), "none".to_owned(), "api-1".to_owned());
        Evidence { id, what, expected, found, node }
    };
    let another = "0".repeat(64);
    let is_past_the_end = fork(12, another.clone());
    let is_right_by_now = fork(5, links[4].digest.to_string());
    for evidence in [is_past_the_end, is_right_by_now] {
        let kept = evidence.keep(Keep::Fence, &database.dsn, &database.tasks).await.unwrap();
        assert_eq!((kept, reader.evidence().await.unwrap()), (false, None), "{evidence}");
    }
    let wrong = fork(5, another);
    assert!(wrong.keep(Keep::Fence, &database.dsn, &database.tasks).await.unwrap());
    assert_eq!(reader.evidence().await.unwrap(), Some(wrong));
}

#[tokio::test]
async fn an_empty_chain_reads_as_empty() {
    let database = Database::migrated().await;
    let reader = Reader::new(&database.dsn, 1);
    assert_eq!(reader.head().await.unwrap(), None);
    assert_eq!(reader.frontier().await.unwrap(), 0);
    assert!(reader.page(0, 5).await.unwrap().links.is_empty());
    assert_eq!(reader.recent(10).await.unwrap(), (vec![], 0));
    assert_eq!(reader.newest().await.unwrap(), (None, 0));
    assert_eq!(database.verify().await, []);
}

#[tokio::test]
async fn applier_of_old_epoch_is_fenced() {
    let database = Database::migrated().await;
    let old = database.applier(Commit::OnDisk).await;
    let (old_epoch, _) = acquire(&old, None).await;
    let all = links(None, 4);
    old.apply(old_epoch, &part(&all, 0..2)).await.unwrap();

    let new = database.applier(Commit::OnDisk).await;
    let node = "api-2".parse().unwrap();
    let held = new.acquire(&node, None).await.unwrap();
    assert_eq!(held, Acquired::Held { epoch: old_epoch, applier: Some("api-1".into()) });
    let stale = new.acquire(&node, Some(old_epoch - 1)).await.unwrap();
    assert!(matches!(stale, Acquired::Held { .. }), "an older epoch's lease says nothing");
    let early = new.acquire(&node, Some(old_epoch)).await.unwrap();
    assert!(matches!(early, Acquired::Held { .. }), "the server knows that the lease runs");
    database.age().await;
    let unwatched = new.acquire(&node, None).await.unwrap();
    assert!(matches!(unwatched, Acquired::Held { .. }), "who has not watched it may not say so");
    let (epoch, head) = acquire(&new, Some(old_epoch)).await;
    assert_eq!((epoch, head), (old_epoch + 1, Some(part(&all, 0..2).head())));

    let late = part(&all, 2..4);
    let fenced = |result| matches!(result, Err(ApplyError::Fenced { epoch: newest, applied_id: 2 }) if newest == epoch);
    assert!(fenced(old.apply(old_epoch, &late).await));
    assert!(fenced(old.apply(epoch, &late).await), "knowing the epoch is not holding it");
    assert!(fenced(old.renew(old_epoch).await.map(|_| ())));
    assert_eq!(new.renew(epoch).await.unwrap(), 2);
    new.apply(epoch, &late).await.unwrap();
    assert_eq!(database.verify().await, []);
    assert!(fenced_at(new.apply(epoch, &late).await, 4), "a batch cannot be applied twice");

    drop(new);
    // The newest epoch is vacant once the server has noticed that its session ended.
    loop {
        match old.acquire(&node, None).await.unwrap() {
            Acquired::Granted { epoch: newest, .. } => break assert_eq!(newest, epoch + 1),
            Acquired::Held { .. } => tokio::task::yield_now().await,
        }
    }
}

fn fenced_at(result: Result<(), ApplyError>, id: u64) -> bool {
    matches!(result, Err(ApplyError::Fenced { applied_id, .. }) if applied_id == id)
}

#[tokio::test]
async fn concurrent_batches_are_applied_in_order() {
    let database = Database::migrated().await;
    let mut listener = listen(&database.dsn).await.unwrap();
    assert_eq!(listener.next().await.unwrap().unwrap(), 0);
    let applier = database.applier(Commit::InMemory).await;
    let (epoch, _) = acquire(&applier, None).await;
    let all = links(None, 60);
    let starts = (0..60).step_by(7);
    let batches: Vec<Batch> = starts.map(|at| part(&all, at..(at + 7).min(60))).collect();
    let results = futures::future::join_all(batches.iter().map(|b| applier.apply(epoch, b))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let mut heard = 0;
    while heard < 60 {
        let id = listener.next().await.expect("it listens").unwrap();
        assert!(id > heard);
        heard = id;
    }
    assert_eq!(applier.flushed(), 0, "nothing has waited for the disk yet");
    assert_eq!(applier.renew(epoch).await.unwrap(), 60);
    assert_eq!(database.verify().await, []);
}

#[tokio::test]
async fn refused_batch_leaves_database_unchanged() {
    let database = Database::migrated().await;
    let applier = database.applier(Commit::OnDisk).await;
    let (epoch, _) = acquire(&applier, None).await;
    let all = links(None, 3);
    let mut bad = all.clone();
    bad[2].payload = Some("{not json".into());
    let refused = applier.apply(epoch, &Batch::new(None, bad)).await;
    assert!(matches!(&refused, Err(ApplyError::Refused { sqlstate, .. }) if sqlstate == "22P02"));
    let mut other = all.clone();
    other[0].hash = other[1].hash;
    let refused = applier.apply(epoch, &Batch::new(None, other)).await;
    assert!(matches!(&refused, Err(ApplyError::Refused { sqlstate, .. }) if sqlstate == "PH002"));
    assert_eq!(Reader::new(&database.dsn, 1).frontier().await.unwrap(), 0);
    // A link in the middle that does not continue the one before it.
    let mut torn = all.clone();
    torn[1].hash = torn[0].hash;
    let refused = applier.apply(epoch, &Batch::new(None, torn)).await;
    assert!(matches!(&refused, Err(ApplyError::Refused { sqlstate, .. }) if sqlstate == "PH002"));
    let mut late = all.clone();
    late[2].written_at = Micros(late[1].written_at.0 - 1);
    let refused = applier.apply(epoch, &Batch::new(None, late)).await;
    assert!(matches!(&refused, Err(ApplyError::Refused { sqlstate, .. }) if sqlstate == "PH002"));
    assert_eq!(Reader::new(&database.dsn, 1).frontier().await.unwrap(), 0);
    applier.apply(epoch, &Batch::new(None, all)).await.unwrap();
    assert_eq!(database.verify().await, []);
}

#[tokio::test]
async fn verify_finds_every_kind_of_tampering_at_the_right_link() {
    let other = "00000000-0000-4000-8000-000000000002";
    let cases: [(&str, i64, &[&str]); 18] = [
        ("update pghc.chain set payload = '{}' where id = 5", 5, &["digest"]),
        ("update pghc.chain set payload = null where id = 5", 5, &["digest"]),
        // The same JSON value in other bytes.
        ("update pghc.chain set payload = payload::jsonb::json where id = 5", 5, &["digest"]),
        ("update pghc.chain set node_id = 'api-2' where id = 5", 5, &["hash", "digest"]),
        ("update pghc.chain set hash = md5('x') where id = 5", 5, &["hash"]),
        ("update pghc.chain set digest = sha256('x') where id = 5", 5, &["digest"]),
        (
            "update pghc.chain set written_at = written_at + interval '1 us' where id = 10",
            10,
            &["digest", "frontier"],
        ),
        (
            "update pghc.chain set written_at = written_at - interval '1 h' where id = 5",
            5,
            &["written_at", "digest"],
        ),
        ("delete from pghc.chain where id = 5", 6, &["id", "hash", "digest"]),
        ("delete from pghc.chain where id = 1", 2, &["id", "hash", "digest"]),
        ("delete from pghc.chain where id = 10", 10, &["link"]),
        ("delete from pghc.chain", 1, &["link"]),
        (
            "insert into pghc.chain select 11, node_id, md5('11' || node_id || hash), digest, \
             written_at from pghc.chain where id = 10",
            11,
            &["digest", "frontier"],
        ),
        (
            "insert into pghc.chain select 0, node_id, hash, digest, written_at from pghc.chain \
             where id = 1",
            0,
            &["id", "hash", "digest"],
        ),
        (
            "update pghc.chain set id = -5 where id = 5; update pghc.chain set id = 5 where id = 6; \
             update pghc.chain set id = 6 where id = -5",
            5,
            &["hash", "digest"],
        ),
        ("update pghc.frontier set applied_id = 9", 10, &["frontier"]),
        ("update pghc.frontier set hash = md5('x')", 10, &["frontier"]),
        (
            "update pghc.cluster set cluster_id = '00000000-0000-4000-8000-000000000002'",
            1,
            &["digest"],
        ),
    ];
    assert!(cases[17].0.contains(other));
    let (database, _) = Database::with_links(10).await;
    for (sql, id, what) in cases {
        database
            .admin
            .batch_execute(&format!("begin; set local session_replication_role = replica; {sql}"))
            .await
            .unwrap();
        let found = database.verify().await;
        database.admin.batch_execute("rollback").await.unwrap();
        let first: Vec<&str> =
            found.iter().filter(|row| row.0 == Some(id)).map(|row| row.1.as_str()).collect();
        assert_eq!(found.first().and_then(|row| row.0), Some(id), "{sql}: {found:?}");
        assert_eq!(first, what, "{sql}: {found:?}");
    }
    assert_eq!(database.verify().await, []);
}

#[tokio::test]
async fn verify_of_a_range_proves_that_range_only() {
    let (database, _) = Database::with_links(10).await;
    database
        .admin
        .batch_execute(
            "set session_replication_role = replica; update pghc.chain set payload = '1' \
             where id = 5; set session_replication_role = origin",
        )
        .await
        .unwrap();
    for (range, want) in
        [("1, 4", 0), ("6, 10", 0), ("5, 5", 1), ("6, null", 0), ("null, 5", 1), ("8, 11", 1)]
    {
        let sql = format!("select * from pghc.verify({range})");
        assert_eq!(database.admin.query(&sql, &[]).await.unwrap().len(), want, "{range}");
    }
    for range in ["0, 4", "5, 4", "null, 0"] {
        let sql = format!("select * from pghc.verify({range})");
        assert!(database.admin.query(&sql, &[]).await.is_err(), "{range}");
    }
}

#[tokio::test]
async fn concurrent_migrations_are_safe_to_repeat() {
    let database = Database::empty().await;
    let nodes = (0..4).map(|_| database.migrate());
    for outcome in futures::future::join_all(nodes).await {
        assert_eq!(outcome.unwrap(), []);
    }
    assert_eq!(database.migrate().await.unwrap(), []);
    let count = "select count(*) from pghc.migration";
    let row = database.admin.query_one(count, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
    // Two databases of one server share its roles.
    let (one, two) = (Database::empty().await, Database::empty().await);
    let (one, two) = tokio::join!(one.migrate(), two.migrate());
    assert_eq!((one.unwrap(), two.unwrap()), (vec![], vec![]));
}

#[tokio::test]
async fn a_database_of_another_cluster_or_zone_is_refused_untouched() {
    let database = Database::migrated().await;
    let zone = "eu".parse().unwrap();
    for (cluster, zone) in [
        ("00000000-0000-4000-8000-000000000002".parse().unwrap(), zone),
        (cluster(), "us".parse().unwrap()),
    ] {
        for result in [
            migrate(&database.dsn, &cluster, &zone, &database.tasks).await,
            preflight(&database.dsn, &cluster, &zone, &database.tasks).await,
        ] {
            assert!(matches!(result, Err(MigrateError::Foreign { .. })), "{result:?}");
        }
    }
    assert_eq!(database.migrate().await.unwrap(), []);
}

#[tokio::test]
async fn a_changed_schema_is_reported_with_every_difference() {
    let database = Database::migrated().await;
    database
        .admin
        .batch_execute(
            "drop view public.chain; grant delete on pghc.chain to public;
             alter table pghc.chain add column extra int, alter column node_id type varchar(64),
               disable trigger chain_insert;
             create trigger mine before insert on pghc.chain for each row
               execute function pghc.refuse_change()",
        )
        .await
        .unwrap();
    let result =
        preflight(&database.dsn, &cluster(), &"eu".parse().unwrap(), &database.tasks).await;
    let Err(MigrateError::Unfit(findings)) = result else { panic!("{result:?}") };
    let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
    for want in [
        "not ours: column pghc.chain.extra integer",
        "lacks: column pghc.chain.node_id text not null",
        "not ours: column pghc.chain.node_id character varying(64) not null",
        "pghc.refuse_change() disabled",
        "not ours: trigger CREATE TRIGGER mine",
        "lacks: table public.chain of pghc_owner",
        "not ours: grant DELETE on pghc.chain to public",
    ] {
        assert!(text.iter().any(|line| line.contains(want)), "{want}\n{text:#?}");
    }
}
