//! Claims about whole verifications, over export files: for every kind of tampering with one copy
//! of a chain, the first changed link is named, and no link with a single witness is proved. Every
//! test with a random place prints its seed when it fails.

use std::sync::Arc;
use std::time::Duration;

use pghc_api::chain::{Head, payload_digest};
use pghc_api::id::{ClusterId, WriteId};
use pghc_api::time::Micros;
use pghc_api::token::Token;
use pghc_api::verify::ViolationKind;
use pghc_runtime::task::Tasks;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::header::Header;
use super::{Conclusion, Place, Progress, Range, Report, Request, UsageError, run};

fn cluster(last: u8) -> ClusterId {
    format!("0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6{last:02x}").parse().expect("a UUID")
}

/// Extends a row of links that ends with `head` to `count` links.
fn extend(
    rows: &mut Vec<Value>,
    mut head: Option<Head>,
    cluster: &ClusterId,
    count: usize,
    salt: u64,
) {
    while rows.len() < count {
        let number = rows.len() as u64 + salt;
        let payload = match number % 4 {
            0 => Value::Null,
            _ => json!({"b": number, "a": "x"}),
        };
        let text = payload.to_string();
        let digest = (!payload.is_null()).then(|| payload_digest(text.as_bytes()));
        let node = format!("api-{}", number % 3).parse().expect("a plain name");
        let at = Micros(1_700_000_000_000_000 + rows.len() as i64 / 2 * 1000);
        let link = Head::extend(head.as_ref(), cluster, &node, at, digest);
        rows.push(json!({
            "id": link.id, "node_id": node, "hash": link.hash, "digest": link.digest,
            "written_at": at, "token": Token::of(cluster, &link), "payload": payload,
        }));
        head = Some(link);
    }
}

fn chain(count: usize) -> Vec<Value> {
    let mut rows = Vec::new();
    extend(&mut rows, None, &cluster(1), count, 1);
    rows
}

/// The same links up to `at`, other ones behind it.
fn rewritten(rows: &[Value], at: usize) -> Vec<Value> {
    let head = at.checked_sub(1).map(|before| head_of(&rows[before]));
    let mut forged = rows[..at].to_vec();
    extend(&mut forged, head, &cluster(1), rows.len(), 1_000_001);
    forged
}

fn head_of(row: &Value) -> Head {
    let fields =
        ["id", "hash", "digest", "written_at"].map(|key| (key.to_owned(), row[key].clone()));
    serde_json::from_value(fields.into_iter().collect()).expect("a sound row")
}

/// The header of an export of these links.
fn header(rows: &[Value]) -> String {
    let id = |row: &Value| WriteId::try_from(row["id"].as_u64().expect("an id")).expect("an id");
    let (from, to) = (id(&rows[0]), id(&rows[rows.len() - 1]));
    Header { cluster: cluster(1), from, to }.to_string()
}

struct Files {
    directory: tempfile::TempDir,
    request: Request,
}

fn files(copies: &[(&str, &[Value])]) -> Files {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut sources = Vec::new();
    for (name, rows) in copies {
        let path = directory.path().join(name);
        let lines: Vec<String> = rows.iter().map(|row| row.to_string() + "\n").collect();
        std::fs::write(&path, header(rows) + &lines.concat()).expect("a file that can be written");
        sources.push((Some((*name).to_owned()), Place::File(path)));
    }
    let request = Request {
        sources,
        cluster: Some(cluster(1)),
        range: Range::Between(1, None),
        tokens: Vec::new(),
        coordinators: Vec::new(),
        wait: Duration::ZERO,
    };
    Files { directory, request }
}

fn try_verify(files: &Files) -> Result<Report, UsageError> {
    assert!(files.directory.path().exists());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let tasks = Tasks::default();
    runtime.expect("a runtime").block_on(async {
        let report = run(files.request.clone(), Arc::new(Progress::default()), &tasks).await;
        tasks.shut_down().await;
        report
    })
}

fn verify(files: &Files) -> Report {
    try_verify(files).expect("a request that makes sense")
}

/// Id and kind of the first violation of the copy named `us`.
fn violation(report: &Report) -> Option<(i64, ViolationKind)> {
    let zone = report.zones.iter().find(|zone| zone.zone == "us")?;
    zone.violation.as_ref().map(|violation| (violation.id, violation.kind))
}

/// Ways to damage one copy so that it is no longer sound in itself.
const WAYS: u32 = 17;

/// Damages the rows at `at` in one of [`WAYS`]; returns the first bad id and what is wrong there.
fn damage(rows: &mut Vec<Value>, at: usize, way: u32) -> (u64, ViolationKind) {
    let id = at as u64 + 1;
    let next_token = rows[at + 1]["token"].clone();
    let row = &mut rows[at];
    match way {
        0 => row["hash"] = json!("00".repeat(16)),
        1 => row["digest"] = json!("00".repeat(32)),
        2 => row["node_id"] = json!("intruder"),
        3 => row["written_at"] = json!(Micros(head_of(row).written_at.0 + 1)),
        4 => row["payload"] = json!({"b": 0, "a": "forged"}),
        5 if !row["payload"].is_null() => row["payload"] = Value::Null,
        6 if !row["payload"].is_null() => {
            // serde_json's map is ordered by key, so the text as built has "a" first.
            let text = row.to_string().replace("\"a\":\"x\",", "").replace("},", ",\"a\":\"x\"},");
            *row = Value::Null;
            rows[at] = Value::String(text);
        }
        5 | 6 => row["payload"] = json!(false),
        7 => drop(rows.remove(at)),
        8 => rows.insert(at, rows[at].clone()),
        9 => {
            let forged = rewritten(rows, at).swap_remove(at);
            rows.insert(at, forged);
        }
        10 => {
            let other = (at + 1) % rows.len();
            let (one_id, other_id) = (rows[at]["id"].clone(), rows[other]["id"].clone());
            rows.swap(at, other);
            (rows[at]["id"], rows[other]["id"]) = (one_id, other_id);
        }
        11 => rows.swap(at, at + 1),
        12 => row["id"] = json!(id + 1_000_000),
        13 => row["hash"] = json!(head_of(row).hash.to_string().to_uppercase() + "A"),
        14 => row["digest"] = Value::Null,
        15 => row["token"] = next_token,
        _ => rows[at] = Value::String("{\"id\":".to_owned()),
    }
    let kind = match way {
        0 | 2 | 10 => ViolationKind::WrongHash,
        7 | 11 | 12 => ViolationKind::Gap,
        8 | 9 => ViolationKind::Duplicate,
        13 | 14 => ViolationKind::Malformed,
        15 => ViolationKind::WrongToken,
        16 => ViolationKind::NotALink,
        _ => ViolationKind::WrongDigest,
    };
    (id, kind)
}

#[test]
fn tampered_copy_is_reported_by_first_changed_link() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..3 * WAYS {
        let way = round % WAYS;
        let rows = chain(random.random_range(3..80));
        let at = random.random_range(0..rows.len() - 1);
        let mut damaged = rows.clone();
        let (id, kind) = damage(&mut damaged, at, way);
        let mut files = files(&[("eu", &rows), ("us", &rows)]);
        // Rows with broken or reordered text were kept as JSON strings; write them bare.
        let path = files.directory.path().join("us");
        let text: Vec<String> = damaged
            .iter()
            .map(|row| row.as_str().map_or(row.to_string(), str::to_owned) + "\n")
            .collect();
        std::fs::write(path, header(&rows) + &text.concat()).expect("a file that can be written");
        for alone in [false, true] {
            if alone {
                files.request.sources.remove(0);
            }
            let report = verify(&files);
            let what = format!("seed {seed} way {way} at {at} of {}: {report}", rows.len());
            assert_eq!(report.conclusion, Conclusion::Violation, "{what}");
            assert_eq!(violation(&report), Some((id as i64, kind)), "{what}");
            assert!(report.summary.contains(&format!("link {id} ")), "{what}");
        }
    }
}

#[test]
fn rewritten_suffix_is_found_against_another_copy() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for count in [2, 50, 1500, 5000] {
        let rows = chain(count);
        let at = random.random_range(0..count);
        let forged = rewritten(&rows, at);
        let report = verify(&files(&[("eu", &rows), ("us", &forged), ("ap", &rows[..count - 1])]));
        let what = format!("seed {seed} at {at} of {count}: {report}");
        assert_eq!(report.conclusion, Conclusion::Violation, "{what}");
        let difference = report.comparison.difference.as_ref().expect("a difference");
        assert_eq!(difference.id, at as u64 + 1, "{what}");
        let advice = report.advice.as_deref().unwrap_or_default();
        assert!(advice.contains("no source is proved from link"), "{what}");
        assert!(!advice.contains("trust nothing"), "{what}");
        assert_eq!(report.proved_to, None, "{what}");
    }
}

/// The sources that the report says the evidence speaks against.
fn odd(report: &Report) -> Vec<&str> {
    let difference = report.comparison.difference.as_ref().expect("a difference");
    difference.odd.iter().map(String::as_str).collect()
}

#[test]
fn majority_of_forged_copies_accuses_no_zone() {
    let rows = chain(60);
    let forged = rewritten(&rows, 40);
    let mut files = files(&[("eu", &rows), ("us", &forged), ("ap", &forged)]);
    let report = verify(&files);
    assert_eq!(report.conclusion, Conclusion::Violation, "{report}");
    assert_eq!(odd(&report), [""; 0], "{report}");
    assert!(report.summary.contains("link 41 is not the same everywhere"), "{report}");

    let token = |row: &Value| serde_json::from_value(row["token"].clone()).expect("a token");
    for (at, honest) in [(59, &rows), (40, &rows), (59, &forged)] {
        files.request.tokens = vec![token(&honest[at])];
        let report = verify(&files);
        let wrong = if honest == &rows { vec!["us", "ap"] } else { vec!["eu"] };
        assert_eq!(odd(&report), wrong, "{report}");
        assert!(
            report.advice.as_deref().is_some_and(|advice| advice.contains("the token of link"))
        );
    }
    // A token from below the difference says nothing, and two that contradict each other neither.
    for tokens in [vec![token(&rows[39])], vec![token(&rows[59]), token(&forged[59])]] {
        files.request.tokens = tokens;
        assert_eq!(odd(&verify(&files)), [""; 0]);
    }
}

#[test]
fn a_copy_that_goes_on_with_the_links_of_another_is_the_odd_one() {
    let rows = chain(60);
    let mut patched = rewritten(&rows, 40)[..50].to_vec();
    patched.extend_from_slice(&rows[50..]);
    let report = verify(&files(&[("eu", &rows), ("us", &patched)]));
    assert_eq!(report.conclusion, Conclusion::Violation, "{report}");
    assert!(report.summary.contains("link 41 is not the same everywhere"), "{report}");
    assert_eq!(odd(&report), ["us"], "{report}");
    assert_eq!(violation(&report).map(|(id, _)| id), Some(51), "{report}");
}

#[test]
fn damage_further_up_accuses_no_honest_copy_of_a_fork() {
    let rows = chain(60);
    let mut damaged = rows.clone();
    damaged[49]["payload"] = json!({"forged": true});
    let copies = [("eu", &damaged[..]), ("ap", &rows), ("us", &rewritten(&rows, 40))];
    for copies in [&copies[..], &[copies[2], copies[0], copies[1]]] {
        let report = verify(&files(copies));
        assert!(report.summary.contains("link 41 is not the same everywhere"), "{report}");
        assert!(odd(&report).is_empty(), "{report}");
    }
}

#[test]
fn a_payload_changed_under_its_hash_is_found_by_a_token() {
    let rows = chain(10);
    let mut forged: Vec<Value> = Vec::new();
    let mut head: Option<Head> = None;
    for (index, row) in rows.iter().enumerate() {
        let (mut row, was) = (row.clone(), head_of(row));
        if index == 4 {
            row["payload"] = json!({"forged": true});
        }
        let payload = &row["payload"];
        let text = payload.to_string();
        let digest = (!payload.is_null()).then(|| payload_digest(text.as_bytes()));
        let node = serde_json::from_value(row["node_id"].clone()).expect("a name");
        let link = Head::extend(head.as_ref(), &cluster(1), &node, was.written_at, digest);
        assert_eq!(link.hash, was.hash, "the hash covers no payload");
        row["digest"] = json!(link.digest);
        row["token"] = json!(Token::of(&cluster(1), &link));
        forged.push(row);
        head = Some(link);
    }
    let mut files = files(&[("us", &forged)]);
    files.request.tokens = vec![Token::of(&cluster(1), &head_of(&rows[9]))];
    let report = verify(&files);
    assert_eq!(report.conclusion, Conclusion::Violation, "{report}");
    assert_eq!(violation(&report), Some((10, ViolationKind::WrongToken)), "{report}");
}

#[test]
fn another_chain_is_found_at_its_first_link() {
    let rows = chain(40);
    let report = verify(&files(&[("eu", &rows), ("us", &rewritten(&rows, 0))]));
    let difference = report.comparison.difference.as_ref().expect("a difference");
    assert_eq!((report.conclusion, difference.id), (Conclusion::Violation, 1), "{report}");

    let mut foreign = Vec::new();
    extend(&mut foreign, None, &cluster(2), 40, 1);
    let report = verify(&files(&[("eu", &rows), ("us", &foreign)]));
    assert_eq!(violation(&report), Some((1, ViolationKind::WrongDigest)), "{report}");
}

#[test]
fn equal_copies_are_proved() {
    let rows = chain(1300);
    let report = verify(&files(&[("eu", &rows), ("us", &rows)]));
    assert_eq!((report.conclusion, report.proved_to), (Conclusion::Proved, Some(1300)), "{report}");
    assert!(report.summary.contains("links 1 to 1300"), "{report}");

    let report = verify(&files(&[("us", &rows)]));
    assert_eq!(report.conclusion, Conclusion::Incomplete, "{report}");
    assert!(report.summary.contains("tail not provable"), "{report}");
    assert!(!report.to_string().to_lowercase().contains("proved"), "{report}");
}

#[test]
fn a_tail_that_was_cut_is_not_proved_against_another_copy() {
    let rows = chain(100);
    let mut files = files(&[("eu", &rows), ("us", &rows[..90])]);
    let report = verify(&files);
    assert_eq!(
        (report.conclusion, report.proved_to),
        (Conclusion::Incomplete, Some(90)),
        "{report}"
    );
    assert!(report.summary.contains("links 91 to 100 are sound in eu alone"), "{report}");
    files.request.range = Range::Between(1, Some(90));
    assert_eq!(verify(&files).conclusion, Conclusion::Proved);
}

#[test]
fn a_token_is_a_witness_of_the_chain_up_to_its_link() {
    let rows = chain(60);
    let token =
        |row: &Value| -> Token { serde_json::from_value(row["token"].clone()).expect("one") };
    let mut good = files(&[("us", &rows)]);
    good.request.tokens = vec![token(&rows[30]), token(&rows[59])];
    let report = verify(&good);
    assert_eq!((report.conclusion, report.proved_to), (Conclusion::Proved, Some(60)), "{report}");

    let mut forged = files(&[("us", &rewritten(&rows, 40))]);
    forged.request.tokens = good.request.tokens.clone();
    let report = verify(&forged);
    assert_eq!(violation(&report), Some((60, ViolationKind::WrongToken)), "{report}");

    let mut cut = files(&[("us", &rows[..59])]);
    cut.request.tokens = good.request.tokens.clone();
    assert_eq!(verify(&cut).conclusion, Conclusion::Incomplete);

    let foreign = Token::new(&cluster(2), WriteId::FIRST, head_of(&rows[0]).digest);
    // Tokens carry eight digits of the cluster, and those of our two clusters are the same.
    assert!(foreign.is_from(&cluster(1)));
    let other: ClusterId = "aaaaaaaa-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
    good.request.tokens = vec![Token::new(&other, WriteId::FIRST, head_of(&rows[0]).digest)];
    assert!(matches!(try_verify(&good), Err(UsageError::ForeignToken(_))));
}

#[test]
fn range_is_checked_from_its_anchor_only() {
    let rows = chain(300);
    let mut damaged = rows.clone();
    damage(&mut damaged, 99, 4);
    let mut files = files(&[("eu", &rows), ("us", &damaged)]);
    for (range, conclusion) in [
        (Range::Last(200), Conclusion::Proved),
        (Range::Last(201), Conclusion::Violation),
        (Range::Last(1_000), Conclusion::Violation),
        (Range::Between(101, Some(200)), Conclusion::Proved),
        (Range::Between(100, Some(100)), Conclusion::Violation),
        (Range::Between(1, Some(99)), Conclusion::Proved),
        (Range::Between(1, Some(301)), Conclusion::Violation),
        (Range::Between(101, Some(301)), Conclusion::Incomplete),
        (Range::Between(301, None), Conclusion::Incomplete),
    ] {
        files.request.range = range;
        let report = verify(&files);
        assert_eq!(report.conclusion, conclusion, "{range:?}: {report}");
    }
}

#[test]
fn empty_or_missing_copy_is_incomplete() {
    let rows = chain(5);
    let files = files(&[("eu", &rows), ("us", &rows), ("ap", &rows)]);
    std::fs::remove_file(files.directory.path().join("ap")).expect("it was written");
    let report = verify(&files);
    assert_eq!(report.conclusion, Conclusion::Incomplete, "{report}");
    assert!(report.summary.contains("ap was not read: there is no such file"), "{report}");
}

#[test]
fn a_file_that_is_no_export_is_a_mistake_of_the_request() {
    let rows = chain(5);
    let page = json!({"links": rows, "frontier": 5}).to_string();
    let lines: Vec<String> = rows.iter().map(|row| row.to_string() + "\n").collect();
    let plain = lines.concat();
    let reversed: String = lines.iter().rev().cloned().collect();
    let utf16: Vec<u8> = header(&rows).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let table: &[(&[u8], &str)] = &[
        (b"", "is empty"),
        (page.as_bytes(), "a page of the API"),
        (plain.as_bytes(), "curl and jq"),
        (reversed.as_bytes(), "descending order"),
        (b"\x1f\x8b\x08", "gzip"),
        (&utf16, "UTF-16"),
        (b"id,hash\n1,00", "CSV"),
    ];
    for (bytes, words) in table {
        let files = files(&[("eu", &rows), ("us", &rows)]);
        std::fs::write(files.directory.path().join("us"), bytes).expect("written");
        match try_verify(&files) {
            Err(UsageError::NoExport { file, what }) => {
                assert!(file == "us" && what.contains(words), "{words:?} is not in {what:?}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }
    let mut device = files(&[("eu", &rows)]);
    device.request.sources.push((None, Place::File("/dev/zero".into())));
    let error = try_verify(&device).expect_err("it has no end").to_string();
    assert!(error.contains("no regular file"), "{error}");
}

#[test]
fn an_export_that_was_cut_off_is_incomplete() {
    let rows = chain(20);
    let whole = header(&rows) + &rows.iter().map(|row| row.to_string() + "\n").collect::<String>();
    let begin = whole.rfind("{\"digest").or(whole.rfind("\n{")).expect("a last link");
    for end in [begin, begin + 20, whole.len() - 3] {
        let files = files(&[("eu", &rows), ("us", &rows)]);
        std::fs::write(files.directory.path().join("us"), &whole[..end]).expect("written");
        let report = verify(&files);
        assert_eq!(report.conclusion, Conclusion::Incomplete, "{end}: {report}");
        assert!(report.summary.contains("links up to 19 of 20: it was cut off"), "{report}");
    }
}

#[test]
fn an_export_of_the_newest_links_vouches_for_the_end() {
    let rows = chain(100);
    let report = verify(&files(&[("eu", &rows), ("us", &rows[80..])]));
    assert_eq!((report.conclusion, report.proved_to), (Conclusion::Proved, Some(100)), "{report}");
    assert!(report.summary.contains("end as the export us does"), "{report}");
    assert!(report.notes.iter().any(|note| note.contains("us begins at link 81")), "{report}");

    // The copy vouches only for links that it holds, and not when the other copy was cut below it.
    let report = verify(&files(&[("eu", &rows), ("us", &rows[80..95])]));
    assert_eq!(
        (report.conclusion, report.proved_to),
        (Conclusion::Incomplete, Some(95)),
        "{report}"
    );
    let report = verify(&files(&[("eu", &rows[..70]), ("us", &rows[80..])]));
    assert_eq!((report.conclusion, report.proved_to), (Conclusion::Incomplete, None), "{report}");
    let report = verify(&files(&[("eu", &rewritten(&rows, 40)), ("us", &rows[80..])]));
    assert_eq!(report.conclusion, Conclusion::Violation, "{report}");
}

#[test]
fn an_export_that_begins_later_is_compared_where_it_has_links() {
    let rows = chain(2_000);
    let part = &rows[1_500..];
    let report = verify(&files(&[("eu", &rows), ("us", part)]));
    assert_eq!(report.conclusion, Conclusion::Proved, "{report}");
    assert_eq!(report.comparison.equal, [("us".to_owned(), 1502, 2000)], "{report}");
    let mut files = files(&[("eu", &rows), ("us", part)]);
    files.request.range = Range::Between(1502, None);
    assert_eq!(verify(&files).conclusion, Conclusion::Proved);

    let forged = rewritten(&rows, 1_700);
    let report = verify(&self::files(&[("eu", &rows), ("us", &forged[1_500..])]));
    let difference = report.comparison.difference.as_ref().expect("a difference");
    assert_eq!(difference.id, 1_701, "{report}");
}
