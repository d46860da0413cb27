//! Single writes: fields, keys, bytes, limits and waits.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Got, PROMPT, id_of, token_of};
use crate::harness::{Site, wait_for};

pub(super) async fn write_response_has_exactly_the_named_fields(site: &Site) {
    let got = site.post(0, "", r#"{"payload":{"a":1}}"#).await;
    let link = got.is(201);
    let fields: Vec<&String> = link.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["digest", "hash", "id", "node_id", "token", "written_at"]);
    assert_eq!(
        (&link["node_id"], &link["token"]),
        (&json!("eu-1"), &json!(got.header("pghc-token")))
    );
    assert_eq!(got.header("content-type"), "application/json");
    assert!(got.frontier() >= id_of(&link), "{got:?}");
    assert!(!got.header("x-request-id").is_empty() && got.header("retry-after").is_empty());
    for zone in 0..3 {
        let at = token_of(&link);
        let read =
            site.get(zone, &format!("/v1/chain/{}?at_least={at}", id_of(&link))).await.is(200);
        let mut expected = link.clone();
        expected["payload"] = json!({"a": 1});
        assert_eq!(read, expected, "zone {zone}");
    }
    let second = site.post(0, "", r#"{"payload":{"a":1}}"#).await.is(201);
    assert!(id_of(&second) > id_of(&link), "without a key every write is its own");
}

pub(super) async fn a_key_means_one_write_in_every_zone(site: &Site) {
    let body = r#"{"payload": {"amount":7}}"#;
    let first = site.post_with_key(0, "contract/1:a", body).await.is(201);
    for zone in [0, 1, 2] {
        let again = site.post_with_key(zone, "contract/1:a", body).await;
        assert_eq!(again.is(200), first, "zone {zone}");
        assert!(again.frontier() >= id_of(&first));
        let other = site.post_with_key(zone, "contract/1:a", r#"{"payload":{"amount":8}}"#).await;
        assert_eq!(other.is_problem(422, "key_reused")["id"], first["id"]);
        let none = site.post_with_key(zone, "contract/1:a", "{}").await;
        none.is_problem(422, "key_reused");
    }
    // Space outside the payload is not of the payload; within it, it is.
    let spaced = " { \"payload\" :  {\"amount\":7} } ";
    assert_eq!(site.post_with_key(1, "contract/1:a", spaced).await.is(200), first);
    let inside = r#"{"payload":{"amount": 7}}"#;
    site.post_with_key(1, "contract/1:a", inside).await.is_problem(422, "key_reused");
    let original = site.http.post(format!("{}/chain", site.api(1)));
    let original = Got::of(original.header("idempotency-key", "contract/1:a")).await;
    original.is_problem(422, "key_reused");
    assert_eq!(site.head().await, id_of(&first), "one key, one write");
}

pub(super) async fn a_payload_stays_byte_exact(site: &Site) {
    let deepest = format!("{}{}", "[".repeat(64), "]".repeat(64));
    let payloads = [
        r#"{"b":1,"a":2,"":{"z":[],"y":{}}}"#,
        r#"{ "spaces" :	[ 1 , 2 ]  , "x":"a  b" }"#,
        r#""žluťoučký кот 猫 🐈‍⬛ \u017elu\ud83d\ude00 \/ \" ""#,
        "1e3",
        "1000",
        "1E+3",
        "1.000",
        "-0",
        "-0.0e-10",
        "123456789012345678901234567890.123456789012345678901234567890",
        "9007199254740993",
        "1e-1000",
        "true",
        "\"\"",
        "[]",
        "{}",
        deepest.as_str(),
    ];
    let mut links = Vec::new();
    for (number, payload) in payloads.iter().enumerate() {
        let body = format!("{{\"payload\":{payload}}}");
        links.push(site.post(number % 3, "?wait=everywhere", body).await.is(201));
    }
    for zone in 0..3 {
        let database = site.database(zone).await;
        for (link, payload) in links.iter().zip(payloads) {
            let read = site.get(zone, &format!("/v1/chain/{}", id_of(link))).await;
            let end = format!(",\"payload\":{payload}}}");
            assert!(read.status == 200 && read.text.ends_with(&end), "{payload}: {read:?}");
            assert_eq!(stored(&database, link).await.as_deref(), Some(payload));
        }
    }
    let too_deep = format!("{{\"payload\":{}{}}}", "[".repeat(65), "]".repeat(65));
    site.post(0, "", too_deep).await.is_problem(400, "bad_json");
    // Absent and null are the same: no payload.
    let absent = site.post_with_key(0, "absent", "{}").await.is(201);
    let null = site.post_with_key(1, "absent", r#"{"payload":null}"#).await.is(200);
    assert_eq!(absent, null);
    let at_least = token_of(&absent);
    for zone in 0..3 {
        let path = format!("/v1/chain/{}?at_least={at_least}", id_of(&absent));
        assert_eq!(site.get(zone, &path).await.is(200).get("payload"), Some(&Value::Null));
        assert_eq!(stored(&site.database(zone).await, &absent).await, None);
    }
}

async fn stored(database: &tokio_postgres::Client, link: &Value) -> Option<String> {
    let select = "select payload::text from pghc.chain where id = $1";
    let id = id_of(link).cast_signed();
    database.query_one(select, &[&id]).await.expect("the link is there").get(0)
}

pub(super) async fn body_is_limited_to_one_mebibyte(site: &Site) {
    let body = |length: usize| format!("{{\"payload\":\"{}\"}}", "x".repeat(length - 14));
    let link = site.post(2, "?wait=everywhere", body(1 << 20)).await.is(201);
    for zone in 0..3 {
        let read = site.get(zone, &format!("/v1/chain/{}", id_of(&link))).await.is(200);
        assert_eq!(read["payload"].as_str().map(str::len), Some((1 << 20) - 14));
    }
    let problem = site.post(2, "", body((1 << 20) + 1)).await.is_problem(413, "payload_too_large");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("1048576 bytes")));
    // Sent without its length, in pieces.
    let pieces = (0..17).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10]));
    let stream = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    site.post(2, "", stream).await.is_problem(413, "payload_too_large");
    assert_eq!(site.head().await, id_of(&link));
}

pub(super) async fn a_write_waits_as_it_was_asked(site: &Site) {
    let ordered = site.post(0, "?wait=ordered", "{}").await.is(201);
    let seen = wait_for("the ordered write", async || {
        let read = site.get(0, &format!("/v1/chain/{}", id_of(&ordered))).await;
        (read.status == 200).then(|| read.json())
    });
    assert_eq!(seen.await["hash"], ordered["hash"]);
    let applied = site.post(1, "?wait=applied&timeout=20s", "{}").await;
    let id = id_of(&applied.is(201));
    site.get(1, &format!("/v1/chain/{id}")).await.is(200);
    for zone in 0..3 {
        let everywhere = site.post(zone, "?wait=everywhere", "{}").await;
        let id = id_of(&everywhere.is(201));
        for reader in 0..3 {
            let read = site.get(reader, &format!("/v1/chain/{id}")).await;
            assert!(read.status == 200 && read.frontier() >= id, "{zone} {reader}: {read:?}");
        }
    }
}

/// Waits for `claim` while zone eu (0) applies nothing. The applier may give up its lock after a
/// while on a busy machine; then the claim is tried again with a new hold.
async fn held<T>(site: &Site, claim: impl AsyncFn() -> Option<T>) -> T {
    wait_for("what is claimed, while zone eu applies nothing", async || {
        site.settle().await;
        let hold = site.hold_applying(0).await;
        let found = claim().await;
        drop(hold);
        found
    })
    .await
}

/// Zone eu (0) applies nothing for a while.
pub(super) async fn zone_not_applying_delays_only_its_waiters(site: &Site) {
    let before = site.settle().await;
    let late = held(site, async || {
        let start = Instant::now();
        let late = site.post(0, "?timeout=400ms", r#"{"payload":"late"}"#).await;
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let late = id_of(&late.problem_unless_busy(504, "committed_not_applied")?);
        assert!(late > before);
        let ordered = id_of(&site.post(0, "?wait=ordered", "{}").await.is(201));
        let elsewhere = id_of(&site.post(1, "", "{}").await.is(201));
        assert!(late < ordered && ordered < elsewhere);
        site.get(0, &format!("/v1/chain/{late}")).await.problem_unless_busy(404, "not_found")?;
        (site.get(0, "/v1/chain/1").await.status == 200).then_some(late)
    })
    .await;
    let everywhere = held(site, async || {
        let everywhere = site.post(1, "?wait=everywhere&timeout=400ms", "{}").await;
        let problem = everywhere.problem_unless_busy(504, "committed_not_applied")?;
        // On a busy machine its own zone may not have applied it either.
        problem["detail"].as_str()?.contains("eu").then(|| id_of(&problem))
    })
    .await;
    for condition in ["at_least", "linearizable"] {
        for path in ["/v1/chain/1", "/v1/chain", "/v1/chain/head", "/chain/recent"] {
            held(site, async || {
                let elsewhere = site.post(1, "", "{}").await.is(201);
                let condition = match condition {
                    "at_least" => format!("at_least={}", token_of(&elsewhere)),
                    _ => "linearizable=true".to_owned(),
                };
                let start = Instant::now();
                let stale = site.get(0, &format!("{path}?timeout=200ms&{condition}")).await;
                assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
                let problem = stale.problem_unless_busy(504, "not_applied_yet")?;
                assert_eq!(problem["frontier"], stale.frontier());
                assert!(stale.frontier() < id_of(&elsewhere));
                Some(())
            })
            .await;
        }
    }
    let read = site.get(0, &format!("/v1/chain/{late}?at_least={everywhere}")).await;
    assert_eq!(read.is(200)["payload"], "late");
}

/// A leader leads all the while: nothing may say that none does.
pub(super) async fn a_time_limit_that_passes_is_named(site: &Site) {
    let mut named = 0;
    for _ in 0..40 {
        let written = site.post(0, "?timeout=1ms", "{}").await;
        let read = site.get(0, "/v1/chain/head?linearizable=true&timeout=1ms").await;
        for got in [written, read] {
            let code = got.json()["code"].as_str().unwrap_or_default().to_owned();
            assert_ne!(code, "no_leader", "{got:?}");
            named += usize::from(code == "time_limit");
        }
    }
    assert!(named > 0, "a millisecond is too short now and then");
}
