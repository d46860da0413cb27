//! Claims about the verifier: it agrees with PostgreSQL's own functions, accepts every chain that
//! `Head::extend` builds, and finds the first link that was touched. proptest prints the failing case
//! and its seed.

use std::sync::Arc;

use pghc_api::chain::{Digest, Head, payload_digest};
use pghc_api::id::{ClusterId, NodeName, WriteId};
use pghc_api::time::Micros;
use pghc_api::token::Token;
use pghc_api::verify::{Known, RawDigest, RawLink, RawTime, Verifier, Violation, ViolationKind};
use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

#[derive(Debug, Clone)]
struct Row {
    id: i64,
    node: Option<String>,
    hash: Option<String>,
    digest: Option<Vec<u8>>,
    micros: Option<i64>,
    payload: Option<String>,
}

impl Row {
    fn raw(&self) -> RawLink<'_> {
        RawLink {
            id: self.id,
            node: self.node.as_deref(),
            hash: self.hash.as_deref(),
            digest: self.digest.as_deref().map(RawDigest::Bytes),
            written_at: self.micros.map(RawTime::Micros),
            payload: self.payload.as_deref().map(str::as_bytes),
            token: None,
        }
    }
}

fn cluster() -> ClusterId {
    "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID")
}

fn verify(rows: &[Row], from: u64, end: u64) -> Result<u64, Violation> {
    let from = WriteId::try_from(from).expect("from 1 on");
    verify_with(Verifier::new(cluster(), from), rows, end)
}

fn verify_beside(known: &Arc<Known>, rows: &[Row], end: u64) -> Result<u64, Violation> {
    verify_with(Verifier::sharing(Arc::clone(known), WriteId::FIRST), rows, end)
}

fn verify_with(mut verifier: Verifier, rows: &[Row], end: u64) -> Result<u64, Violation> {
    for row in rows {
        verifier.check(&row.raw())?;
    }
    verifier.finish(end)?;
    Ok(verifier.next_id() - 1)
}

fn build(writes: &[(u8, u16, Option<String>)]) -> Vec<Row> {
    let mut head: Option<Head> = None;
    let mut rows = Vec::new();
    for (node, step, payload) in writes {
        let node: NodeName = format!("api-{node}").parse().expect("a plain name");
        let at = Micros(head.map_or(0, |head| head.written_at.0) + i64::from(*step));
        let digest = payload.as_ref().map(|text| payload_digest(text.as_bytes()));
        let new = Head::extend(head.as_ref(), &cluster(), &node, at, digest);
        rows.push(Row {
            id: new.id.as_i64(),
            node: Some(node.to_string()),
            hash: Some(new.hash.to_string()),
            digest: Some(new.digest.0.to_vec()),
            micros: Some(at.0),
            payload: payload.clone(),
        });
        head = Some(new);
    }
    rows
}

fn writes() -> impl Strategy<Value = Vec<(u8, u16, Option<String>)>> {
    let payload = proptest::option::of("\"[a-z ]{0,20}\"");
    proptest::collection::vec((any::<u8>(), any::<u16>(), payload), 2..60)
}

#[derive(serde::Deserialize)]
struct Vector {
    cluster_id: ClusterId,
    id: u64,
    node_id: String,
    hash: String,
    digest: String,
    micros: i64,
    payload: Option<String>,
}

#[test]
fn the_golden_vectors_of_postgresql_verify() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../vectors/chain.json")).expect("the generated file");
    assert_eq!(vectors.len(), 14);
    let mut verifier: Option<Verifier> = None;
    for vector in &vectors {
        let id = WriteId::try_from(vector.id).expect("a bigint");
        let goes_on = verifier.as_ref().is_some_and(|verifier| verifier.next_id() == vector.id);
        if !goes_on {
            let from = if id == WriteId::FIRST { id } else { id.next() };
            verifier = Some(Verifier::new(vector.cluster_id.clone(), from));
        }
        let link = RawLink {
            id: id.as_i64(),
            node: Some(&vector.node_id),
            hash: Some(&vector.hash),
            digest: Some(RawDigest::Hex(&vector.digest)),
            written_at: Some(RawTime::Micros(vector.micros)),
            payload: vector.payload.as_deref().map(str::as_bytes),
            token: None,
        };
        verifier.as_mut().expect("set above").check(&link).expect("a sound link");
    }
}

proptest! {
    #[test]
    fn every_chain_that_extend_builds_verifies_from_anywhere(writes in writes(), at in any::<usize>()) {
        let rows = build(&writes);
        let end = rows.len() as u64;
        prop_assert_eq!(verify(&rows, 1, end), Ok(end));
        let anchor = at % rows.len();
        prop_assert_eq!(verify(&rows[anchor..], anchor as u64 + 2, end), Ok(end));
    }

    #[test]
    fn the_first_link_that_was_touched_is_named(writes in writes(), at in any::<usize>(), how in 0..14_u8) {
        let mut rows = build(&writes);
        let end = rows.len() as u64;
        let at = at % rows.len();
        let first = tamper(&mut rows, at, how);
        let found = verify(&rows, 1, end).map_err(|violation| (violation.id, violation.kind));
        prop_assert_eq!(found, Err(first), "way {} at row {}", how, at);
    }

    #[test]
    fn a_copy_is_judged_beside_others_as_it_is_alone(writes in writes(), at in any::<usize>(), how in 0..14_u8) {
        let sound = build(&writes);
        let end = sound.len() as u64;
        let mut touched = sound.clone();
        tamper(&mut touched, at % sound.len(), how);
        let alone = verify(&touched, 1, end);
        let known = Arc::new(Known::new(cluster()));
        for _ in 0..2 {
            prop_assert_eq!(verify_beside(&known, &touched, end), alone.clone());
            prop_assert_eq!(verify_beside(&known, &sound, end), Ok(end));
        }
    }
}

/// Touches row `at` in one of fourteen ways; returns the first bad id and what is wrong with it.
fn tamper(rows: &mut Vec<Row>, at: usize, how: u8) -> (i64, ViolationKind) {
    let id = rows[at].id;
    let row = &mut rows[at];
    let malformed = (id, ViolationKind::Malformed);
    match how {
        0 => row.hash = Some("0".repeat(32)),
        1 => row.digest.as_mut().expect("built so")[7] ^= 1,
        2 => row.node = Some("other".to_owned()),
        3 => row.micros = row.micros.map(|micros| micros + 1),
        4 => row.payload = Some("{\"forged\":1}".to_owned()),
        5 => row.hash = None,
        6 => row.digest = Some(vec![0; 31]),
        7 => row.node = Some("1digit".to_owned()),
        8 => row.hash = row.hash.as_ref().map(|hash| hash.to_uppercase() + "0"),
        9 => row.micros = None,
        10 => row.id = -row.id,
        11 => drop(rows.remove(at)),
        12 => rows.insert(at + 1, rows[at].clone()),
        _ => rows.truncate(at),
    }
    let last = at == rows.len();
    match how {
        0 | 2 => (id, ViolationKind::WrongHash),
        5..=9 => malformed,
        10 => (-id, ViolationKind::BadId),
        11 if !last => (id, ViolationKind::Gap),
        11 | 13 => (id, ViolationKind::RowsMissing),
        12 => (id, ViolationKind::Duplicate),
        _ => (id, ViolationKind::WrongDigest),
    }
}

#[test]
fn decreasing_time_is_found_in_recomputed_chain() {
    let node: NodeName = "pghc".parse().expect("a plain name");
    let first = Head::extend(None, &cluster(), &node, Micros(10), None);
    let second = Head::extend(Some(&first), &cluster(), &node, Micros(9), None);
    let rows: Vec<Row> = [first, second]
        .iter()
        .map(|head| Row {
            id: head.id.as_i64(),
            node: Some("pghc".to_owned()),
            hash: Some(head.hash.to_string()),
            digest: Some(head.digest.0.to_vec()),
            micros: Some(head.written_at.0),
            payload: None,
        })
        .collect();
    let violation = verify(&rows, 1, 2).expect_err("the time goes back");
    assert_eq!((violation.id, violation.kind), (2, ViolationKind::TimeWentBack));
    assert_eq!(
        violation.to_string(),
        "link 2 was written before the link before it: expected 1970-01-01T00:00:00.000010Z or \
         later, found 1970-01-01T00:00:00.000009Z"
    );
}

#[test]
fn a_token_of_another_link_or_cluster_is_found() {
    let rows = build(&[(1, 1, None)]);
    let other: ClusterId = "0290a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID");
    let digest = Digest(rows[0].digest.clone().expect("built so").try_into().expect("32 bytes"));
    let tokens = [
        (Token::new(&cluster(), WriteId::FIRST, digest).to_string(), true),
        (Token::new(&other, WriteId::FIRST, digest).to_string(), false),
        (Token::new(&cluster(), WriteId::FIRST.next(), digest).to_string(), false),
        ("none".to_owned(), false),
    ];
    for (token, right) in tokens {
        let mut verifier = Verifier::new(cluster(), WriteId::FIRST);
        let link = RawLink { token: Some(&token), ..rows[0].raw() };
        assert_eq!(verifier.check(&link).is_ok(), right, "{token}");
    }
}

#[test]
fn verification_requires_well_formed_anchor() {
    let rows = build(&[(1, 1, None), (2, 1, None), (3, 1, None)]);
    let missing = verify(&rows[2..], 3, 3).expect_err("link 2 was not fed");
    assert_eq!((missing.id, missing.kind), (2, ViolationKind::Gap));
    let mut bad = rows.clone();
    bad[1].hash = None;
    let malformed = verify(&bad[1..], 3, 3).expect_err("the anchor has no hash");
    assert_eq!((malformed.id, malformed.kind), (2, ViolationKind::Malformed));
}

/// Not a claim but a figure: `cargo test -p pghc-api --release --test verify -- --ignored --nocapture`.
#[test]
#[ignore = "measures: cargo test --release -p pghc-api --test verify -- --ignored --nocapture"]
fn rate_from_memory() {
    const LINKS: usize = 200_000;
    let payload = format!("\"{}\"", "x".repeat(198));
    let node = |number: usize| u8::try_from(number % 3).expect("below 3");
    let writes: Vec<_> = (0..LINKS).map(|n| (node(n), 1, Some(payload.clone()))).collect();
    let rows = build(&writes);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let started = std::time::Instant::now();
        assert_eq!(verify(&rows, 1, LINKS as u64), Ok(LINKS as u64));
        best = best.min(started.elapsed().as_secs_f64());
    }
    println!("{:.0} links/s", LINKS as f64 / best);
}
