//! Micro-benchmarks of what runs for every link or write: hash and digest, the codec of batches and
//! entries, the check of payloads. Pure functions, one thread.
//!
//! `cargo bench --bench pure`, or one of them: `cargo bench --bench pure -- digest`.

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use pghc_api::chain::{Digest, Head, LinkHash, link_digest, link_hash, payload_digest};
use pghc_api::id::{ClusterId, NodeName, WriteId};
use pghc_api::payload;
use pghc_api::time::Micros;
use pghc_server::sequencer::{Batch, Entry, Write};

/// Sizes of payloads in bytes.
const SIZES: [usize; 3] = [200, 4_096, 65_536];

/// Writes of a batch: one alone, what queues up under load, the most there can be.
const WRITES: [usize; 3] = [1, 64, 1_000];

fn main() {
    divan::main();
}

fn cluster() -> ClusterId {
    "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a hyphenated UUID")
}

fn node() -> NodeName {
    "eu-1".parse().expect("a plain name")
}

fn id() -> WriteId {
    WriteId::try_from(1_234_567).expect("above 0")
}

/// A JSON object of so many bytes that looks like what applications send.
fn json(bytes: usize) -> String {
    let mut text = String::from(r#"{"order":"4711","amount":12.50,"lines":[0"#);
    while text.len() + 40 < bytes {
        text.push_str(r#",{"sku":"A-1","count":2}"#);
    }
    let rest = bytes - text.len() - r#"],"pad":""}"#.len();
    format!(r#"{text}],"pad":"{}"}}"#, "x".repeat(rest))
}

fn batch(writes: usize) -> Batch {
    let write = |_| Write { key: None, payload: Some(Bytes::from(json(200))) };
    Batch { session: [7; 16], sequence: 1, node: node(), writes: (0..writes).map(write).collect() }
}

/// MD5 of one link.
#[divan::bench]
fn hash(bencher: Bencher<'_, '_>) {
    let node = node();
    let previous = LinkHash([7; 16]);
    bencher.bench(|| link_hash(black_box(id()), black_box(&node), Some(black_box(previous))));
}

/// SHA-256 of one link whose payload's SHA-256 is known.
#[divan::bench]
fn digest(bencher: Bencher<'_, '_>) {
    let (cluster, node) = (cluster(), node());
    let (payload, previous) = (Digest([1; 32]), Digest([2; 32]));
    bencher.bench(|| {
        let time = black_box(Micros(1_700_000_000_000_000));
        link_digest(&cluster, black_box(id()), &node, time, Some(payload), Some(previous))
    });
}

/// SHA-256 of a payload.
#[divan::bench(args = SIZES)]
fn digest_of_payload(bencher: Bencher<'_, '_>, bytes: usize) {
    let text = json(bytes);
    let counted = bencher.counter(BytesCount::new(bytes));
    counted.bench(|| payload_digest(black_box(text.as_bytes())));
}

/// All that a process computes for one link of 200 bytes.
#[divan::bench]
fn extend(bencher: Bencher<'_, '_>) {
    let (cluster, node, text) = (cluster(), node(), json(200));
    let head = Head {
        id: id(),
        hash: LinkHash([7; 16]),
        digest: Digest([2; 32]),
        written_at: Micros(1_700_000_000_000_000),
    };
    bencher.bench(|| {
        let payload = payload_digest(black_box(text.as_bytes()));
        Head::extend(Some(black_box(&head)), &cluster, &node, head.written_at, Some(payload))
    });
}

/// Batch to bytes, once in the life of a write.
#[divan::bench(args = WRITES)]
fn encode_batch(bencher: Bencher<'_, '_>, writes: usize) {
    let batch = batch(writes);
    bencher.counter(ItemsCount::new(writes)).bench(|| black_box(&batch).encode());
}

/// Bytes to batch: payloads are not copied.
#[divan::bench(args = WRITES)]
fn decode_batch(bencher: Bencher<'_, '_>, writes: usize) {
    let bytes = batch(writes).encode();
    bencher
        .counter(ItemsCount::new(writes))
        .with_inputs(|| bytes.clone())
        .bench_values(|bytes| Batch::decode(bytes).expect("just encoded"));
}

/// Header of the leader before a batch.
#[divan::bench(args = WRITES)]
fn encode_entry(bencher: Bencher<'_, '_>, writes: usize) {
    let entry = Entry { proposed_at: Micros(1_700_000_000_000_000), batch: batch(writes).encode() };
    bencher.counter(ItemsCount::new(writes)).bench(|| black_box(&entry).encode());
}

/// The body of a write, checked whole, payload found.
#[divan::bench(args = SIZES)]
fn check_body(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = format!(r#"{{"payload":{}}}"#, json(bytes));
    assert!(payload::write_body(body.as_bytes()).is_ok(), "the benchmark's own body is refused");
    let counted = bencher.counter(BytesCount::new(body.len()));
    counted.bench(|| payload::write_body(black_box(body.as_bytes())));
}

/// What any reader of JSON takes for the same, for comparison.
#[divan::bench(args = SIZES)]
fn check_by_serde(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = format!(r#"{{"payload":{}}}"#, json(bytes));
    let counted = bencher.counter(BytesCount::new(body.len()));
    counted.bench(|| serde_json::from_slice::<serde::de::IgnoredAny>(black_box(body.as_bytes())));
}
