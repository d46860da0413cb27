//! Random tampering: whatever a superuser does to one zone's chain, the audit names the first link it
//! was done to. Long form: `PGHC_TAMPERINGS=10000 cargo test --test it tamper`.

use std::sync::Arc;

use futures::future::BoxFuture;
use pghc_api::chain::{Digest, Head, Link, payload_digest};
use pghc_api::id::{ClusterId, WriteId};
use pghc_api::time::Micros;
use pghc_api::verify::{Violation, ViolationKind};
use pghc_dev::postgres::{Server, ServerOptions};
use pghc_dev::scratch::Scratch;
use pghc_postgres::{Acquired, Applier, Batch, Commit, Dsn, RawChain, migrate};
use pghc_runtime::task::Tasks;
use pghc_server::zone::audit::walk::{Checked, Rate, Reference, check, locate};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_postgres::{Client, NoTls};

use super::cluster::CLUSTER;

/// Links in the chain that is tampered with.
const LINKS: u64 = 240;

/// Links between two whose digests are known without asking a zone.
const SPACING: u64 = 16;

/// Edits the payload of a link and makes its digest fit.
pub(crate) fn edit_with_digest(id: u64) -> String {
    format!(
        "set session_replication_role = replica;
        update pghc.chain c set payload = '\"forged\"', digest = pghc.link_digest(
            (select cluster_id from pghc.cluster), c.id, c.node_id, c.written_at, '\"forged\"',
            (select digest from pghc.chain where id = {id} - 1)) where c.id = {id};"
    )
}

/// Rewrites everything from a link on, so that it is sound in itself, the frontier too.
pub(crate) fn rewrite_from(id: u64) -> String {
    include_str!("../../rewrite.sql").replace(":first", &id.to_string())
}

/// Appends `count` links that follow from the newest one and that no coordinator ordered, and moves the
/// frontier to the last of them.
pub(crate) fn append_unordered(count: u64) -> String {
    format!(
        "set session_replication_role = replica;
        do $$
        declare before pghc.chain; link pghc.chain; cluster uuid;
        begin
            select cluster_id into cluster from pghc.cluster;
            select * into before from pghc.chain order by id desc limit 1;
            for number in 1..{count} loop
                link := before;
                link.id := before.id + 1;
                link.payload := '\"forged\"';
                link.hash := md5(link.id::text || link.node_id || before.hash);
                link.digest := pghc.link_digest(cluster, link.id, link.node_id, link.written_at,
                    link.payload, before.digest);
                insert into pghc.chain select link.*;
                before := link;
            end loop;
            update pghc.frontier set applied_id = before.id, hash = before.hash,
                digest = before.digest, written_at = before.written_at;
        end $$;"
    )
}

/// As [`rewrite_from`], but only the payload of link `id` is another one: every MD5 hash stays.
pub(crate) fn forge_payload_from(id: u64) -> String {
    let sql = rewrite_from(id);
    let forged = sql.replace("link.node_id := 'forged'", "link.payload := '\"forged\"'");
    assert_ne!(forged, sql, "tests/rewrite.sql names the change otherwise");
    forged
}

/// The chain as it was ordered.
struct Truth(Vec<Digest>);

impl Truth {
    fn newest_known(&self, id: u64) -> Option<(u64, Digest)> {
        // Marks that lie apart, and what a zone shows between them.
        let known = id.min(self.0.len() as u64) / SPACING * SPACING;
        let place = usize::try_from(known).expect("small").checked_sub(1)?;
        Some((known, self.0[place]))
    }
}

impl Reference for Truth {
    fn known(&self, id: u64) -> BoxFuture<'_, Option<(u64, Digest)>> {
        Box::pin(std::future::ready(self.newest_known(id)))
    }

    fn between(&self, from: Option<Head>, _: u64) -> BoxFuture<'_, Option<Vec<Digest>>> {
        let place = usize::try_from(from.map_or(0, |head| head.id.get())).expect("small");
        Box::pin(std::future::ready(Some(self.0[place..].to_vec())))
    }
}

struct Victim {
    admin: Client,
    chain: RawChain,
    cluster: ClusterId,
    head: Head,
    truth: Truth,
    _tasks: Arc<Tasks>,
    _server: Server,
    _scratch: Scratch,
}

impl Victim {
    async fn start() -> Self {
        let scratch = Scratch::new("tamper").expect("a temporary directory");
        let mut options =
            ServerOptions::new(scratch.path().join("pg"), crate::harness::free_port());
        options.temporary = true;
        options.settings.push(("synchronous_commit".to_owned(), "off".to_owned()));
        let server = Server::start(options).await.expect("PostgreSQL is installed");
        let tasks = Arc::new(Tasks::default());
        let dsn: Dsn = server.dsn().parse().expect("a DSN");
        let cluster: ClusterId = CLUSTER.parse().expect("a UUID");
        migrate(&dsn, &cluster, &"eu".parse().expect("a name"), &tasks).await.expect("fresh");
        let applier = Applier::connect(&dsn, Commit::OnDisk, &tasks).await.expect("migrated");
        let node = "eu-1".parse().expect("a name");
        let granted = applier.acquire(&node, None).await.expect("answered");
        let Acquired::Granted { epoch, head: None } = granted else { panic!("{granted:?}") };
        let mut links: Vec<Link> = Vec::new();
        let mut head: Option<Head> = None;
        for number in 1..=LINKS {
            let payload = (number % 4 != 0).then(|| format!("{{\"n\": {number},  \"é\":\"ž\"}}"));
            let digest = payload.as_ref().map(|text| payload_digest(text.as_bytes()));
            let at = Micros(1_700_000_000_000_000 + number.cast_signed() / 3);
            let node = format!("eu-{}", number % 3).parse().expect("a name");
            let next = Head::extend(head.as_ref(), &cluster, &node, at, digest);
            let Head { id, hash, digest, written_at } = next;
            let payload = payload.map(Into::into);
            links.push(Link { id, node, hash, digest, written_at, payload });
            head = Some(next);
        }
        let truth = Truth(links.iter().map(|link| link.digest).collect());
        applier.apply(epoch, &Batch::new(None, links)).await.expect("applied");
        let (admin, connection) =
            tokio_postgres::connect(&server.dsn(), NoTls).await.expect("it listens");
        tasks.spawn("admin", async move { drop(connection.await) });
        let chain = RawChain::connect(&dsn, &tasks).await.expect("it answers");
        let head = head.expect("there are links");
        Self {
            admin,
            chain,
            cluster,
            head,
            truth,
            _tasks: tasks,
            _server: server,
            _scratch: scratch,
        }
    }

    /// Tampers, asks for the first bad id, and takes the tampering back.
    async fn first_bad(&self, sql: &str) -> (Option<i64>, Option<i64>) {
        self.admin
            .batch_execute(
                "create temporary table kept as table pghc.chain;
            create temporary table kept_frontier as table pghc.frontier",
            )
            .await
            .expect("kept");
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let checked = check(&self.chain, &self.cluster, WriteId::FIRST, Rate::UNBOUNDED).await;
        let violation = match checked.expect("it is readable") {
            Checked::Bad(violation) => violation,
            // Sound in itself: its end is not the one that was ordered.
            Checked::Sound(Some(head)) if head != self.head => {
                let (due, at) = (self.head.digest, head.id.as_i64());
                Violation::new(at, ViolationKind::Fork, due, head.digest)
            }
            other => panic!("{other:?} after {sql}"),
        };
        let found = locate(&self.chain, &self.cluster, violation, &self.truth).await;
        let found = found.expect("it is readable");
        assert!(found.is_first, "the truth answers everything");
        let audit = Some(found.violation.id);
        // The check in pure SQL shares no code with the verifier. It knows no other zone, so it
        // reports where the rows stop following from each other: at the changed link or right
        // behind it.
        let row = self.admin.query_opt("select min(id) from pghc.verify()", &[]).await;
        let sql_check = row.expect("it runs").and_then(|row| row.get(0));
        self.admin
            .batch_execute(
                "set session_replication_role = replica;
                delete from pghc.chain; insert into pghc.chain table kept;
                update pghc.frontier set (applied_id, hash, digest, written_at) =
                    (select applied_id, hash, digest, written_at from kept_frontier);
                drop table kept, kept_frontier;
                set session_replication_role = origin;",
            )
            .await
            .expect("taken back");
        (audit, sql_check)
    }
}

/// A tampering, and the first id it touches. The last link's content has nothing behind it, so what
/// is changed there shows in itself.
fn tampering(random: &mut StdRng) -> (String, u64) {
    let id = random.random_range(1..=LINKS);
    let other = random.random_range(1..=LINKS);
    let change = |set: &str| format!("update pghc.chain set {set} where id = {id};");
    let sql = match random.random_range(0..14) {
        0 => change("payload = '{\"forged\":1}'"),
        1 => change("payload = case when payload is null then 'null'::json end"),
        2 => change("payload = (payload::text || ' ')::json, node_id = node_id || 'x'"),
        3 => change("node_id = 'forged'"),
        4 => change("node_id = ''"),
        5 => change("hash = md5(hash)"),
        6 => change("digest = sha256(digest)"),
        7 => change("digest = '\\x00'"),
        8 => change("written_at = written_at + interval '1 microsecond'"),
        9 => change("written_at = '-infinity'"),
        10 => format!("delete from pghc.chain where id = {id};"),
        11 => {
            let (low, high) = (id.min(other), id.max(other));
            let swap = "set node_id = o.node_id, hash = o.hash, digest = o.digest,
                written_at = o.written_at, payload = o.payload from kept o";
            if low == high {
                return (format!("{GUARDS_OFF} {}", change("hash = md5('x')")), id);
            }
            let swap = format!(
                "update pghc.chain c {swap} where c.id in ({low}, {high})
                and o.id = {low} + {high} - c.id;"
            );
            return (format!("{GUARDS_OFF} {swap}"), low);
        }
        12 => return (format!("{GUARDS_OFF} {}", edit_with_digest(id)), id),
        _ => return (rewrite_from(id), id),
    };
    (format!("{GUARDS_OFF} {sql}"), id)
}

/// Rights of a superuser: no trigger fires, no constraint but the primary key is left.
const GUARDS_OFF: &str = "set session_replication_role = replica;";

#[tokio::test(flavor = "multi_thread")]
async fn audit_names_first_tampered_link() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let count: u64 = number("PGHC_TAMPERINGS").unwrap_or(300);
    let seed: u64 = number("PGHC_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let victim = Victim::start().await;
    victim
        .admin
        .batch_execute("alter table pghc.chain drop constraint chain_form")
        .await
        .expect("a superuser may");
    let mut random = StdRng::seed_from_u64(seed);
    let mut silent = 0;
    for step in 0..count {
        let (sql, first) = tampering(&mut random);
        let (audit, check) = victim.first_bad(&sql).await;
        assert_eq!(audit, Some(first.cast_signed()), "seed {seed}, step {step}: {sql}");
        let late =
            check.is_none_or(|id| id != first.cast_signed() && id != first.cast_signed() + 1);
        let is_rewritten = sql.contains("for link in");
        assert!(!late || is_rewritten, "seed {seed}, step {step}: SQL says {check:?}: {sql}");
        silent += u64::from(check.is_none());
    }
    let intact = check(&victim.chain, &victim.cluster, WriteId::FIRST, Rate::UNBOUNDED).await;
    assert_eq!(intact.expect("readable"), Checked::Sound(Some(victim.head)), "seed {seed}");
    println!("{count} tamperings, all reported with the right first id; SQL alone missed {silent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_not_matching_frontier_are_found() {
    let victim = Victim::start().await;
    let insert = format!(
        "{GUARDS_OFF} insert into pghc.chain select {LINKS} + 1, node_id, hash, digest, written_at,
            payload from pghc.chain where id = 1"
    );
    assert_eq!(victim.first_bad(&insert).await.0, Some(LINKS.cast_signed() + 1));
    let below = format!(
        "{GUARDS_OFF} insert into pghc.chain select -3, node_id, hash, digest, written_at, payload
            from pghc.chain where id = 1"
    );
    assert_eq!(victim.first_bad(&below).await.0, Some(-3));
    let frontier = format!("{GUARDS_OFF} update pghc.frontier set hash = md5('x')");
    assert_eq!(victim.first_bad(&frontier).await.0, Some(LINKS.cast_signed()));
    let cut = format!("{GUARDS_OFF} delete from pghc.chain where id > 200");
    assert_eq!(victim.first_bad(&cut).await.0, Some(201));
}
