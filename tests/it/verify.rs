//! `chain-verify` against real PostgreSQL: a superuser disables every guard, changes one zone, and
//! is detected. The chains are computed by PostgreSQL's own functions, so Rust and SQL check each
//! other. Every test with a random place prints its seed.

use std::process::Command;

use pghc_dev::postgres::{Server, ServerOptions};
use pghc_dev::scratch::Scratch;
use pghc_postgres::migrate;
use pghc_runtime::task::Tasks;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_postgres::NoTls;

const CLUSTER: &str = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7";

/// Links in each zone before it is tampered with.
const LINKS: u64 = 150;

async fn execute(dsn: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("it listens");
    tokio::select! {
        done = client.batch_execute(sql) => done.unwrap_or_else(|error| panic!("{sql}: {error:?}")),
        _ = connection => panic!("the connection ended"),
    }
}

/// Switches the guards off and adds links from the newest one on up to `to`, then sets the frontier.
pub(crate) fn fill(to: u64, salt: &str) -> String {
    format!(
        "set session_replication_role = replica;
        do $$
        declare
            before pghc.chain; link pghc.chain; cluster uuid;
        begin
            select cluster_id into cluster from pghc.cluster;
            select * into before from pghc.chain order by id desc limit 1;
            for number in coalesce(before.id, 0) + 1 .. {to} loop
                link.id := number;
                link.node_id := 'api-' || number % 3 || '{salt}';
                link.hash := md5(number::text || link.node_id || coalesce(before.hash, ''));
                link.written_at := '2026-01-01'::timestamptz + number / 2 * interval '1 ms';
                link.payload := format('{{\"a\": %s,  \"b\":\"ž\"}}', number)::json;
                link.digest := pghc.link_digest(cluster, number, link.node_id, link.written_at,
                    link.payload, before.digest);
                insert into pghc.chain select link.*;
                before := link;
            end loop;
            update pghc.frontier set (applied_id, hash, digest, written_at) =
                (select before.id, before.hash, before.digest, before.written_at);
        end $$;"
    )
}

/// Two zones of one cluster, in two databases of one server.
struct Zones {
    server: Server,
    _scratch: Scratch,
    tasks: Tasks,
}

impl Zones {
    async fn start() -> Self {
        let scratch = Scratch::new("verify").expect("a temporary directory");
        let port = crate::harness::free_port();
        let options = ServerOptions {
            temporary: true,
            ..ServerOptions::new(scratch.path().join("pg"), port)
        };
        let server = Server::start(options).await.expect("PostgreSQL is installed");
        let zones = Self { server, _scratch: scratch, tasks: Tasks::default() };
        for zone in ["eu", "us"] {
            execute(&zones.server.dsn(), &format!("create database {zone}")).await;
            let dsn = zones.dsn(zone).parse().expect("a DSN");
            let cluster = CLUSTER.parse().expect("a UUID");
            let name = zone.parse().expect("a name");
            migrate(&dsn, &cluster, &name, &zones.tasks).await.expect("a fresh database");
            execute(&zones.dsn(zone), &fill(LINKS, "")).await;
        }
        zones
    }

    fn dsn(&self, database: &str) -> String {
        self.server.dsn_of(database)
    }

    /// Makes `bad` a copy of zone us.
    async fn copy(&self) {
        let dsn = self.server.dsn();
        execute(&dsn, "drop database if exists bad with (force)").await;
        // The template may have a session that has not ended yet.
        let other = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'us'";
        execute(&dsn, other).await;
        execute(&dsn, "create database bad template us").await;
    }

    /// Runs the program on eu and on the database given as us; returns its exit code and output.
    fn verify(&self, us: &str, more: &[&str]) -> (i32, String) {
        let zones = [format!("eu={}", self.dsn("eu")), format!("us={}", self.dsn(us))];
        run(&[&["--zone", &zones[0], "--zone", &zones[1], "--wait", "0.3"], more].concat())
    }
}

fn run(arguments: &[&str]) -> (i32, String) {
    run_program(env!("CARGO_BIN_EXE_chain-verify"), arguments)
}

/// Runs `pghc export` with some more arguments.
fn export(arguments: &[&str]) -> (i32, String) {
    run_program(env!("CARGO_BIN_EXE_pghc"), &[&["export"], arguments].concat())
}

fn run_program(program: &str, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program).args(arguments).output().expect("it was built");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().expect("no signal"), String::from_utf8(text).expect("text"))
}

/// Ways of tampering at link `k`: SQL, exit code, and expected output, with placeholders `{k}` and
/// `{next}` for the ids.
const WAYS: &[(&str, i32, &str)] = &[
    ("update pghc.chain set hash = md5('x') where id = {k}", 1, "us: link {k} has a hash"),
    ("update pghc.chain set digest = sha256('x') where id = {k}", 1, "us: link {k} has a digest"),
    ("update pghc.chain set node_id = 'intruder' where id = {k}", 1, "us: link {k} has a hash"),
    (
        "update pghc.chain set written_at = written_at + interval '1 us' where id = {k}",
        1,
        "us: link {k} has a digest",
    ),
    ("update pghc.chain set payload = '{\"a\":0}' where id = {k}", 1, "us: link {k} has a digest"),
    ("update pghc.chain set payload = null where id = {k}", 1, "us: link {k} has a digest"),
    (
        "update pghc.chain set payload = format('{\"b\":\"ž\",  \"a\": %s}', id)::json where id = {k}",
        1,
        "us: link {k} has a digest",
    ),
    (
        "update pghc.chain set payload = payload::jsonb::json where id = {k}",
        1,
        "us: link {k} has a digest",
    ),
    ("delete from pghc.chain where id = {k}", 1, "us: link {k} is missing"),
    (
        "alter table pghc.chain drop constraint chain_pkey;
         insert into pghc.chain select * from pghc.chain where id = {k}",
        1,
        "us: link {k} is there twice",
    ),
    (
        "alter table pghc.chain drop constraint chain_pkey;
         update pghc.chain set id = {k} + {next} - id where id in ({k}, {next})",
        1,
        "us: link {k} has a hash",
    ),
    ("update pghc.chain set id = id + 1000000 where id = {k}", 1, "us: link {k} is missing"),
    (
        "alter table pghc.chain drop constraint chain_form;
         insert into pghc.chain select -id, node_id, hash, digest, written_at from pghc.chain
         where id = {k}",
        1,
        "us: link -{k} has an id that no link can have",
    ),
    (
        "insert into pghc.chain select 151, node_id, md5('151' || node_id || hash), digest, written_at
         from pghc.chain where id = 150",
        1,
        "us: link 151 lies above the frontier",
    ),
    (
        "alter table pghc.chain alter hash drop not null;
         update pghc.chain set hash = null where id = {k}",
        1,
        "us: link {k} has a malformed column: expected a hash, found null",
    ),
    ("update pghc.chain set hash = upper(hash) where id = {k}", 1, "us: link {k} has a malformed"),
    ("update pghc.frontier set hash = md5('x')", 1, "us: link 150 is not the one the frontier row"),
    ("delete from pghc.frontier", 1, "expected one row in pghc.frontier"),
    ("delete from pghc.chain where id > {k}", 1, "us: link {next} is missing"),
    ("update pghc.frontier set applied_id = 200", 1, "us: link 151 is missing"),
    (
        "delete from pghc.chain where id > {k}; {fill}",
        2,
        "us stands at {k} and did not reach 150 within 0.3 s",
    ),
    ("delete from pghc.chain where id > {k}; {refill}", 1, "link {next} is not the same everywhere"),
    ("delete from pghc.chain; {refill}", 1, "link 1 is not the same everywhere"),
    ("update pghc.cluster set cluster_id = 'ffffffff-ffff-4fff-bfff-ffffffffffff'", 3, "us of cluster"),
    (
        "update pghc.cluster set cluster_id = 'ffffffff-ffff-4fff-bfff-ffffffffffff';
         delete from pghc.chain; {refill}
         update pghc.cluster set cluster_id = '0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7'",
        1,
        "us: link 1 has a digest",
    ),
    (
        "alter table pghc.cluster alter zone type bytea using convert_to(zone, 'UTF8')",
        1,
        "us: the chain's tables were altered: expected column pghc.cluster.zone text, found zone bytea",
    ),
    (
        "drop view public.chain; alter table pghc.chain alter id type numeric",
        1,
        "us: the chain's tables were altered: expected column pghc.chain.id bigint, found id numeric",
    ),
    (
        "alter table pghc.chain enable row level security;
         create policy hide on pghc.chain using (id <> {k})",
        1,
        "us: the chain's tables were altered: expected no row-level security on pghc.chain",
    ),
    (
        "alter table pghc.chain rename to links;
         create view pghc.chain as select * from pghc.links where id <> {k}",
        1,
        "us: the chain's tables were altered: expected pghc.chain to be a table, found pghc.chain is a view",
    ),
    (
        "alter table pghc.chain drop constraint chain_pkey;
         alter table pghc.chain alter id drop not null;
         insert into pghc.chain select null, node_id, hash, digest, written_at from pghc.chain
         where id = {k}",
        1,
        "expected no row without an id in pghc.chain, found 1 of them",
    ),
    (
        "alter table pghc.chain drop constraint chain_pkey",
        1,
        "us: the chain's tables were altered: expected a primary key on pghc.chain (id)",
    ),
    (
        "create or replace view public.chain (zk_id, hash, node_id) as
         select id, md5('x')::char(32), node_id from pghc.chain",
        1,
        "us: the chain's tables were altered: expected the view public.chain to show pghc.chain",
    ),
    (
        "alter table pghc.frontier drop constraint frontier_head;
         update pghc.frontier set applied_id = -7",
        1,
        "us: the frontier is none: expected an id from 0 on in pghc.frontier, found applied_id -7",
    ),
    ("update pghc.frontier set applied_id = 9223372036854775807", 1, "us: link 151 is missing"),
    ("drop table pghc.chain cascade", 2, "us was not read: relation \"pghc.chain\" does not exist"),
    ("update pghc.cluster set zone = 'eu'", 3, "us are both zone eu"),
];

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_every_superuser_change() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let zones = Zones::start().await;
    let (code, text) = zones.verify("us", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("PROVED: links 1 to 150 are sound and the same in 2 sources"), "{text}");
    for (sql, code, said) in WAYS {
        let k: u64 = random.random_range(1..LINKS);
        let put = |text: &str| {
            text.replace("{fill}", &fill(k, ""))
                .replace("{refill}", &fill(LINKS, "-forged"))
                .replace("{k}", &k.to_string())
                .replace("{next}", &(k + 1).to_string())
        };
        zones.copy().await;
        execute(
            &zones.dsn("bad"),
            &format!("set session_replication_role = replica; {}", put(sql)),
        )
        .await;
        let (exit, text) = zones.verify("bad", &[]);
        let what = format!("seed {seed}, link {k}, {sql}\n{text}");
        assert_eq!(exit, *code, "{what}");
        assert!(text.contains(&put(said)), "wanted {:?}: {what}", put(said));
        assert!(!text.contains("PROVED"), "{what}");
    }
    zones.tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_or_empty_zone_is_never_proved() {
    let zones = Zones::start().await;
    let (code, text) = run(&["--zone", &format!("us={}", zones.dsn("us"))]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("INCOMPLETE: tail not provable: links 1 to 150 are sound in us alone"));

    let (code, text) = zones.verify("us", &["--last", "20", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON and nothing else");
    assert_eq!((code, &report["verdict"]), (0, &serde_json::json!("proved")));
    assert_eq!((&report["from"], &report["proved_to"]), (&131.into(), &150.into()));
    assert_eq!(report["zones"][0]["links"], 20);

    zones.copy().await;
    let empty = "set session_replication_role = replica; delete from pghc.chain; update pghc.frontier \
                 set applied_id = 0, hash = null, digest = null, written_at = null";
    execute(&zones.dsn("bad"), empty).await;
    let (code, text) = run(&["--zone", &format!("us={}", zones.dsn("bad"))]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("the chain is empty: there is nothing to prove"), "{text}");
    zones.tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_grows_meanwhile_gives_no_false_alarm() {
    let zones = Zones::start().await;
    let writer = |zone: &str, steps: u64| {
        let dsn = zones.dsn(zone);
        async move {
            for step in 1..=steps {
                execute(&dsn, &fill(LINKS + step * 600 / steps, "")).await;
            }
        }
    };
    let writers = async { futures::join!(writer("eu", 60), writer("us", 25)) };
    let (eu, us) = (format!("eu={}", zones.dsn("eu")), format!("us={}", zones.dsn("us")));
    let verifier = tokio::task::spawn_blocking(move || {
        (0..12).map(|_| run(&["--zone", &eu, "--zone", &us])).collect::<Vec<_>>()
    });
    let (verified, _) = futures::join!(verifier, writers);
    let mut proofs = 0;
    for (code, text) in verified.expect("no panic") {
        assert!(code == 0 || code == 2 && text.contains("did not reach"), "{code} {text}");
        proofs += usize::from(code == 0);
    }
    assert!(proofs > 0, "some of twelve runs prove something");
    assert_eq!(zones.verify("us", &[]).0, 0);
    zones.tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_a_witness_even_of_the_newest_links_alone() {
    let zones = Zones::start().await;
    let directory = Scratch::new("export").expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (us, whole, tail) = (zones.dsn("us"), path("whole"), path("tail"));
    let (code, text) = export(&["--database", &us, "--output", &whole]);
    assert_eq!(
        (code, text.trim()),
        (0, &*format!("links 1 to 150 of cluster {CLUSTER} were exported"))
    );
    let (code, text) = export(&["--database", &us, "--from", "120", "--output", &tail]);
    assert_eq!(code, 0, "{text}");
    let eu = format!("eu={}", zones.dsn("eu"));
    for file in [&whole, &tail] {
        let (code, text) = run(&["--zone", &eu, "--file", file]);
        assert!(code == 0 && text.contains("PROVED: links 1 to 150 are sound"), "{text}");
    }
    // A file is not overwritten, and a truncated file is continued.
    let (code, text) = export(&["--database", &us, "--output", &whole]);
    assert!(code == 2 && text.contains("is there already: --resume goes on"), "{code} {text}");
    let bytes = std::fs::read(&whole).expect("written");
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let header = bytes.iter().position(|byte| *byte == b'\n').expect("a header") + 1;
    for end in [header, bytes.len() - 1, random.random_range(header..bytes.len())] {
        std::fs::write(&whole, &bytes[..end]).expect("written");
        let (code, text) = export(&["--database", &us, "--output", &whole, "--resume"]);
        assert_eq!(code, 0, "seed {seed}, cut at {end}: {text}");
        let again = std::fs::read(&whole).expect("written");
        let same = again.trim_ascii_end() == bytes.trim_ascii_end();
        assert!(same, "seed {seed}, cut at {end}");
    }
    // A link that does not follow is not written.
    zones.copy().await;
    let change = "set session_replication_role = replica;
        update pghc.chain set payload = '1' where id = 40";
    execute(&zones.dsn("bad"), change).await;
    let (code, text) = export(&["--database", &zones.dsn("bad"), "--output", &path("bad")]);
    assert!(code == 1 && text.contains("link 40 has a digest"), "{code} {text}");
    zones.tasks.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_forged_zones_do_not_accuse_the_honest_one() {
    let zones = Zones::start().await;
    let directory = Scratch::new("export").expect("a temporary directory");
    let kept = directory.path().join("kept").display().to_string();
    let (code, text) = export(&["--database", &zones.dsn("eu"), "--output", &kept]);
    assert_eq!(code, 0, "{text}");
    zones.copy().await;
    execute(&zones.dsn("bad"), &crate::zones::tamper::forge_payload_from(77)).await;
    execute(&zones.server.dsn(), "create database worse template bad").await;
    let other = "set session_replication_role = replica; update pghc.cluster set zone = 'ap'";
    execute(&zones.dsn("worse"), other).await;
    let given: Vec<String> = [("eu", "eu"), ("us", "bad"), ("ap", "worse")]
        .iter()
        .flat_map(|(zone, name)| ["--zone".to_owned(), format!("{zone}={}", zones.dsn(name))])
        .collect();
    let mut given: Vec<&str> = given.iter().map(String::as_str).collect();
    let (code, text) = run(&given);
    assert!(code == 1 && text.contains("link 77 is not the same everywhere"), "{code} {text}");
    assert!(text.contains("no source is proved from link 77 on"), "{text}");
    assert!(!text.contains("trust nothing"), "{text}");
    given.extend(["--file", &kept]);
    let (code, text) = run(&given);
    assert!(
        code == 1 && text.contains("trust nothing in us and ap from link 77 on"),
        "{code} {text}"
    );
    zones.tasks.shut_down().await;
}
