//! Reproduces the original's clients and test workers: creators that post without a body, and
//! validators that read the newest ten links of every zone and recompute each hash from the one
//! before.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use pghc_api::chain::link_hash;
use pghc_api::id::NodeName;
use pghc_api::wire::OriginalLink;
use reqwest::Method;

use crate::harness::{Site, wait_for};

/// Creators at once, over all zones.
const CREATORS: usize = 64;
/// Links each of them creates.
const EACH: usize = 5;

/// Links whose hash is not what PostgreSQL itself computes, as the original did.
const WRONG: &str = "select count(*) from (
    select hash, md5(zk_id::text || node_id || coalesce(lag(hash) over (order by zk_id), '')) as ours
      from public.chain) link where hash <> ours";

/// Creates a link as clients of the original do: a POST without body and content type.
async fn create(site: &Site, zone: usize) -> OriginalLink {
    let answer = site.http.post(format!("{}/chain", site.api(zone))).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    assert!(answer.headers()["content-type"].to_str().is_ok_and(|kind| kind == "application/json"));
    let text = answer.text().await.expect("a body");
    let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["hash", "node_id", "zk_id"], "{text}");
    assert!(
        fields["zk_id"].is_u64() && fields["hash"].is_string() && fields["node_id"].is_string()
    );
    serde_json::from_str(&text).expect("a link")
}

async fn recent(site: &Site, zone: usize) -> Vec<OriginalLink> {
    let answer = site.http.get(format!("{}/chain/recent", site.api(zone))).send().await;
    let answer = answer.expect("an answer").error_for_status().expect("200");
    answer.json().await.expect("an array of links")
}

/// The original's validator: newest first, ids one apart, each hash the MD5 of id, node and the
/// hash before.
fn validate(links: &[OriginalLink]) {
    assert!(links.len() <= 10, "the newest ten: {}", links.len());
    for pair in links.windows(2) {
        let (newer, older) = (&pair[0], &pair[1]);
        assert_eq!(newer.zk_id, older.zk_id + 1, "dense, newest first");
        assert_eq!(newer.hash.to_string(), md5_of(newer, &older.hash.to_string()));
    }
    if let Some(first) = links.last().filter(|link| link.zk_id == 1) {
        assert_eq!(first.hash.to_string(), md5_of(first, ""));
    }
}

/// `md5(zk_id || node_id || previous hash)`.
fn md5_of(link: &OriginalLink, previous: &str) -> String {
    let node: NodeName = link.node_id.parse().expect("a node name");
    let previous = (!previous.is_empty()).then(|| previous.parse().expect("a hash"));
    link_hash(link.zk_id.try_into().expect("an id"), &node, previous).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_clients_run_unchanged() {
    let site = Site::start(1).await;
    assert_eq!(recent(&site, 0).await, [], "an empty chain is an empty array");
    let first = create(&site, 0).await;
    assert_eq!((first.zk_id, first.node_id.as_str()), (1, "eu-1"));
    let created = create_while_validating(&site).await;
    every_zone_has_acknowledged_links(&site, created).await;
    configuration_and_ping(&site).await;
    no_page_of_another_origin_may_call(&site).await;
    site.settle().await;
    let proof = site.verify().await;
    assert_eq!(proof.status.code(), Some(0), "{proof:?}");
    site.deployment.stop().await;
}

/// Creators in all zones, and in each zone a validator as long as they create.
async fn create_while_validating(site: &Site) -> Vec<OriginalLink> {
    let creators = (0..CREATORS).map(async |creator| {
        let mut links = Vec::new();
        for _ in 0..EACH {
            let link = create(site, creator % 3).await;
            assert!(links.last().is_none_or(|last: &OriginalLink| last.zk_id < link.zk_id));
            links.push(link);
        }
        links
    });
    let validators = join_all((0..3).map(async |zone| {
        loop {
            validate(&recent(site, zone).await);
        }
    }));
    let created = tokio::select! {
        created = join_all(creators) => created,
        _ = validators => unreachable!("validators go on"),
    };
    created.into_iter().flatten().collect()
}

async fn every_zone_has_acknowledged_links(site: &Site, created: Vec<OriginalLink>) {
    let ids: BTreeSet<u64> = created.iter().map(|link| link.zk_id).collect();
    let all = CREATORS * EACH + 1;
    assert!(ids.into_iter().eq(2..=all as u64), "dense, none twice");
    let newest = (all - 9..=all).rev().map(|id| id as u64).collect::<Vec<_>>();
    let select = "select zk_id, hash::text, node_id from public.chain order by zk_id";
    for (zone, record) in site.record().zones.iter().enumerate() {
        let last = wait_for("the newest link", async || {
            let links = recent(site, zone).await;
            (links.first()?.zk_id == newest[0]).then_some(links)
        });
        let last = last.await;
        assert_eq!(last.iter().map(|link| link.zk_id).collect::<Vec<_>>(), newest);
        validate(&last);
        let connected = tokio_postgres::connect(&record.dsn, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("the zone's database answers");
        let (rows, wrong) = tokio::select! {
            rows = async { tokio::join!(client.query(select, &[]), client.query_one(WRONG, &[])) } => rows,
            _ = connection => panic!("the connection ended"),
        };
        assert_eq!(wrong.expect("readable").get::<_, i64>(0), 0, "PostgreSQL's own md5() agrees");
        let rows = rows.expect("readable");
        let row = |row: &tokio_postgres::Row| {
            (
                row.get::<_, i64>(0).cast_unsigned(),
                (row.get::<_, String>(1), row.get::<_, String>(2)),
            )
        };
        let stored: BTreeMap<u64, (String, String)> = rows.iter().map(row).collect();
        assert_eq!(stored.len(), all, "zone {}", record.name);
        for link in &created {
            let (hash, node) = &stored[&link.zk_id];
            assert_eq!((hash, node), (&link.hash.to_string(), &link.node_id), "{}", record.name);
        }
    }
}

async fn configuration_and_ping(site: &Site) {
    for zone in 0..3 {
        let url = site.api(zone);
        let config =
            site.http.get(format!("{url}/cluster/config")).send().await.expect("an answer");
        let config: serde_json::Value = config.json().await.expect("JSON");
        // The original's clients take the number of API nodes from these two.
        assert_eq!(
            (&config["num_bdr_groups"], &config["num_total_pg_nodes"]),
            (&3.into(), &6.into())
        );
        assert_eq!(config["zones"].as_array().map(Vec::len), Some(3));
        let ping = site.http.get(format!("{url}/ping")).send().await.expect("an answer");
        assert_eq!(ping.status().as_u16(), 200);
        assert_eq!(ping.text().await.expect("a body"), "pong");
    }
}

/// The original let any page of the web write through a person's browser. A development deployment lets in
/// pages of this machine only.
async fn no_page_of_another_origin_may_call(site: &Site) {
    let ask = async |method: &Method, path: &str, origin: &str| {
        let url = format!("{}{path}", site.api(2));
        let request = site.http.request(method.clone(), &url).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let answer = request.send().await.expect("an answer");
        let allowed = answer.headers().get("access-control-allow-origin");
        let allowed = allowed.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        (answer.status().as_u16(), allowed)
    };
    let (foreign, own) = ("https://dashboard.example", "http://localhost:3000");
    for (method, path) in [
        (Method::POST, "/chain"),
        (Method::POST, "/v1/chain"),
        (Method::GET, "/chain/recent"),
        (Method::OPTIONS, "/chain"),
    ] {
        assert_eq!(ask(&method, path, foreign).await, (403, String::new()), "{method} {path}");
    }
    assert_eq!(ask(&Method::OPTIONS, "/chain", own).await, (200, own.to_owned()));
    assert_eq!(ask(&Method::POST, "/chain", own).await, (200, own.to_owned()));
    let plain = site.http.post(format!("{}/chain", site.api(2)));
    let plain = plain.header("content-type", "text/plain").body("{}").send().await;
    assert_eq!(plain.expect("an answer").status().as_u16(), 415);
}
