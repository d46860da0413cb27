//! NDJSON through a real node: a line out for each line in.

use serde_json::Value;

use super::{Got, id_of};
use crate::harness::Site;

const LINES: usize = 2_500;
/// Number of the line, from 0, that is no write.
const BAD: usize = 1_234;

async fn bulk(site: &Site, zone: usize, key: Option<&str>, body: String) -> (Got, Vec<Value>) {
    let request = site.http.post(format!("{}/v1/chain", site.api(zone)));
    let mut request = request.header("content-type", "application/x-ndjson").body(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let got = Got::of(request).await;
    assert_eq!((got.status, got.header("content-type")), (200, "application/x-ndjson"));
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let lines = got.text.lines().map(parse).collect();
    (got, lines)
}

fn body(bad: &str) -> String {
    let line = |number| match number {
        BAD => format!("{bad}\n"),
        _ => format!("{{\"payload\":{{\"line\":{number},\"x\":1e3}}}}\n"),
    };
    (0..LINES).map(line).collect()
}

pub(super) async fn bulk_of_2500_lines_is_answered_line_by_line(site: &Site) {
    for (zone, bad, status, code) in [
        (0, "{\"payload\":1,}", 400, "bad_json"),
        (1, "{\"payload\":\"\\u0000\"}", 422, "unstorable_payload"),
    ] {
        let before = site.head().await;
        let applied = site.get(zone, "/v1/chain/head").await.frontier();
        let (got, answers) = bulk(site, zone, None, body(bad)).await;
        assert_eq!(answers.len(), LINES);
        let mut ids = Vec::with_capacity(LINES);
        for (number, answer) in answers.iter().enumerate() {
            if number == BAD {
                assert_eq!((&answer["status"], &answer["code"]), (&status.into(), &code.into()));
                continue;
            }
            assert_eq!(answer["status"], 201, "line {number}: {answer}");
            ids.push(id_of(answer));
        }
        let head = site.head().await;
        assert_eq!(head, before + LINES as u64 - 1, "the bad line is nowhere");
        // Pieces may have changed places where several were under way, as on a slow machine.
        ids.sort_unstable();
        assert!(ids.into_iter().eq(before + 1..=head), "each line has one id");
        let middle = id_of(&answers[2_000]);
        let read = site.get(zone, &format!("/v1/chain/{middle}")).await;
        assert!(read.text.ends_with(",\"payload\":{\"line\":2000,\"x\":1e3}}"), "{read:?}");
        assert_eq!(read.json()["hash"], answers[2_000]["hash"]);
        assert!(got.frontier() >= applied);
    }
}

pub(super) async fn a_bulk_write_with_a_key_may_be_repeated_elsewhere(site: &Site) {
    let body = body("{\"payload\":null}");
    let (_, first) = bulk(site, 0, Some("import-7"), body.clone()).await;
    assert!(first.iter().all(|line| line["status"] == 201), "all are new");
    let head = site.head().await;
    for zone in [1, 2, 0] {
        let (_, again) = bulk(site, zone, Some("import-7"), body.clone()).await;
        assert_eq!(again.len(), first.len());
        for (number, (again, first)) in again.iter().zip(&first).enumerate() {
            let mut expected = first.clone();
            expected["status"] = 200.into();
            assert_eq!(*again, expected, "line {number} in zone {zone}");
        }
    }
    let changed = body.replace("\"line\":5,", "\"line\":-5,");
    let (_, again) = bulk(site, 1, Some("import-7"), changed).await;
    assert_eq!((&again[5]["status"], &again[5]["code"]), (&422.into(), &"key_reused".into()));
    assert_eq!((&again[4]["status"], &again[6]["status"]), (&200.into(), &200.into()));
    assert_eq!(site.head().await, head, "nothing was written twice");
    // Empty lines are lines; a last line needs no end.
    let (_, odd) = bulk(site, 2, None, "\n{}\r\n{\"payload\":1}".to_owned()).await;
    let statuses: Vec<_> =
        odd.iter().map(|line| line["status"].as_u64().expect("a status")).collect();
    assert_eq!(statuses, [400, 201, 201]);
}
