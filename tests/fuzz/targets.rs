//! Every parser of bytes from outside, as a function that panics when it breaks a property, with
//! inputs to start from and words to mix in. The bounded runs of CI and libFuzzer share this table.

use bytes::Bytes;
use pghc::cli;
use pghc_api::chain::{Digest, Head, LinkHash};
use pghc_api::id::{ClusterId, NodeName, WriteId, ZoneName};
use pghc_api::time::Micros;
use pghc_api::token::Token;
use pghc_server::sequencer::{Batch, Entry, Sequencer, Write, ZoneAct, ZoneChange};
use pghc_server::{coordinator, http};

/// A parser under test.
pub(crate) struct Target {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// Panics when a property is broken.
    pub(crate) run: fn(&[u8]),
    /// Inputs that it accepts, to change.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces of inputs, to put in.
    pub(crate) words: &'static [&'static str],
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0000",
    "\\ud83d\\ude00",
    "\\ud83d",
    "null",
    "true",
    "-0",
    "1e400000",
    "1e131071",
    "0.0000001",
    "9223372036854775808",
    "\u{7f}",
    "\u{e9}",
    "{\"payload\":",
    "\"a\":1",
    "\n",
    "\r\n",
    "[[[[[[[[",
];

/// The table.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "http_body", run: http::fuzzing::body, seeds: bodies, words: JSON },
    Target { name: "http_lines", run: http::fuzzing::lines, seeds: lines, words: JSON },
    Target {
        name: "http_headers",
        run: http::fuzzing::headers,
        seeds: || texts(&["order-1\0application/json", "k\0application/x-ndjson; charset=utf-8"]),
        words: &["application/json", ";", " ", "\0", "\u{7f}"],
    },
    Target {
        name: "http_query",
        run: http::fuzzing::query,
        seeds: || {
            texts(&[
                "/v1/chain/7?at_least=p1-00000000-9-4d3bca022be8a6521c2845021debfe9a&timeout=5s",
                "/v1/chain?after=1&limit=20&linearizable=true&at_least=12",
            ])
        },
        words: &["&", "=", "%00", "%ff", "+", "at_least=", "limit=", "18446744073709551616", "ms"],
    },
    Target {
        name: "identifiers",
        run: identifiers,
        seeds: || {
            texts(&[
                "p1-00000000-9-4d3bca022be8a6521c2845021debfe9a",
                "00000000-0000-4000-8000-000000000001",
                "eu-1",
                "2026-11-20T20:54:56.422953Z",
                "-009999-01-02T01:59:59Z",
                "4d3bca022be8a6521c2845021debfe9a",
            ])
        },
        words: &["-", "p1-", "+", "T", "Z", "[UTC]", "9999", "+01:00", ".999999999", "60"],
    },
    Target {
        name: "consensus",
        run: coordinator::fuzzing::consensus,
        seeds: coordinator::fuzzing::consensus_seeds,
        words: &["\u{1}", "\0", "\u{ff}"],
    },
    Target { name: "batch", run: batch, seeds: batches, words: &["\0", "eu-1", "{}"] },
    Target { name: "sequence", run: sequence, seeds: sequences, words: &["\0", "eu-1", "{}"] },
    Target { name: "sequencer_snapshot", run: snapshot, seeds: snapshots, words: &["\0", "\u{1}"] },
    Target {
        name: "snapshot_file",
        run: coordinator::fuzzing::snapshot_file,
        seeds: coordinator::fuzzing::snapshot_file_seeds,
        words: &["pghcsnp1", "\0"],
    },
    Target {
        name: "log",
        run: coordinator::fuzzing::log,
        seeds: coordinator::fuzzing::log_seeds,
        words: &["pghc-log", "\0", "\u{1}\0\0\0"],
    },
    Target {
        name: "config",
        run: config,
        seeds: || texts(&["zone = 'eu'\ncoordinator = ['x', 'y']\nlifeline = true\nid = 1\n"]),
        words: &["[", "]", "=", "\"\"\"", "{", "}", "'", "\n", "1979-05-27", "0x", "a.b", "\\u"],
    },
    Target {
        name: "arguments",
        run: cli::fuzzing::arguments,
        seeds: || {
            texts(&[
                "coordinator\n--id=1\n--zone=eu\n--data=d\n--member=1=eu=http://127.0.0.1:7101",
                "api\n--zone=eu\n--node-id=eu-1\n--database=postgres://u:p@h/d\n--coordinator=http://h:1",
            ])
        },
        words: &["--", "=", "\n", "http://", "[::1]", "1=eu=", "postgres://", "host=", "%", "-1"],
    },
    Target {
        name: "distances",
        run: distances,
        seeds: || texts(&[include_str!("../../deploy/wan/aws3.csv")]),
        words: &[",", "\n", "-1", "1e99", "NaN", "0"],
    },
    Target { name: "export", run: pghc_verify::fuzzing::export, seeds: exports, words: JSON },
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn cluster() -> ClusterId {
    "00000000-0000-4000-8000-000000000001".parse().expect("a UUID")
}

fn bodies() -> Vec<Vec<u8>> {
    texts(&[
        "{}",
        r#"{"payload":{"a":[1,-2.50e+3,"\u00e9 \" \\"],"b":{"c":null,"d":false}}}"#,
        " {\t\"payload\" : [ ] }\r\n",
    ])
}

fn lines() -> Vec<Vec<u8>> {
    texts(&["\u{5}{\"payload\":1}\n{\"payload\":[2]}\n{\"bad\":3}\n\n{}", "?{}\n{}\n{}\n{}\n"])
}

fn exports() -> Vec<Vec<u8>> {
    let mut head: Option<Head> = None;
    let mut text = "\u{7}{ \"pghc_export\": 1, \"cluster_id\": \"".to_owned();
    text += &format!("{}\", \"from\": 1, \"to\": 3 }}\n", cluster());
    for id in 1..=3 {
        let node: NodeName = "eu-1".parse().expect("a plain name");
        let payload = format!("{{\"n\":\n{id}}}");
        let digest = pghc_api::chain::payload_digest(payload.as_bytes());
        let next = Head::extend(head.as_ref(), &cluster(), &node, Micros(id), Some(digest));
        let Head { hash, digest, written_at, .. } = next;
        let token = Token::of(&cluster(), &next);
        text += &format!(
            "{{\"id\":{id},\"node_id\":\"{node}\",\"hash\":\"{hash}\",\"digest\":\"{digest}\",\
             \"written_at\":\"{written_at}\",\"token\":\"{token}\",\"payload\":{payload}}}\n"
        );
        head = Some(next);
    }
    texts(&[&text])
}

/// A parsed identifier is written as a text that parses to the same identifier.
fn identifiers(input: &[u8]) {
    fn survives<T: std::str::FromStr + ToString + PartialEq>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value), "{text:?}");
        }
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    survives::<Token>(text);
    survives::<ClusterId>(text);
    survives::<NodeName>(text);
    survives::<ZoneName>(text);
    survives::<WriteId>(text);
    survives::<LinkHash>(text);
    survives::<Digest>(text);
    survives::<Micros>(text);
}

fn sample(sequence: u64, key: Option<&'static str>) -> Entry {
    let writes = vec![
        Write { key: key.map(Bytes::from), payload: Some(Bytes::from_static(b"{}")) },
        Write { key: None, payload: None },
    ];
    let node = "eu-1".parse().expect("a plain name");
    let batch = Batch { session: [7; 16], sequence, node, writes };
    Entry { proposed_at: Micros(1_700_000_000_000_000), batch: batch.encode() }
}

fn batches() -> Vec<Vec<u8>> {
    let entry = sample(1, Some("order-1"));
    vec![entry.batch.to_vec(), entry.encode().to_vec(), change().encode().to_vec()]
}

/// A change of the registry of zones.
fn change() -> ZoneChange {
    ZoneChange { act: ZoneAct::Register, zone: "eu".parse().expect("a plain name") }
}

/// Bytes have one meaning, and each meaning one form.
fn batch(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(batch) = Batch::decode(bytes.clone()) {
        assert_eq!(batch.encode(), bytes);
    }
    if let Ok(entry) = Entry::decode(bytes.clone()) {
        assert_eq!(entry.encode(), bytes);
    }
    if let Ok(change) = ZoneChange::decode(bytes.clone()) {
        assert_eq!(change.encode(), bytes);
    }
}

/// Entries one after the other, each behind its length as two bytes.
fn sequences() -> Vec<Vec<u8>> {
    let entries =
        [sample(1, Some("a")), sample(2, None), sample(1, Some("a")), sample(3, Some("a"))];
    let framed = entries.map(|entry| {
        let entry = entry.encode();
        let length = u16::try_from(entry.len()).expect("a short entry");
        [&length.to_be_bytes()[..], &entry].concat()
    });
    vec![framed.concat()]
}

/// The sequencer takes whatever is readable, ids are dense, and its state survives a snapshot.
fn sequence(input: &[u8]) {
    let mut sequencer = Sequencer::new(cluster());
    let mut rest = input;
    for index in 1_u64.. {
        let Some((length, more)) = rest.split_first_chunk::<2>() else { break };
        let (entry, more) = more.split_at(usize::from(u16::from_be_bytes(*length)).min(more.len()));
        rest = more;
        let before = sequencer.head().map_or(0, |head| head.id.get());
        let Ok(sequenced) = sequencer.advance(index, Bytes::copy_from_slice(entry)) else { break };
        let after = sequencer.head().map_or(0, |head| head.id.get());
        let new = sequenced.map_or(0, |it| it.batch.writes.len() - it.skipped_positions.len());
        assert_eq!(after - before, new as u64);
    }
    let bytes = sequencer.snapshot();
    let again = Sequencer::restore(&cluster(), &bytes).expect("a snapshot made here");
    assert_eq!(again.snapshot(), bytes);
}

/// The first byte says whether the checksum is made right.
fn snapshots() -> Vec<Vec<u8>> {
    let mut sequencer = Sequencer::new(cluster());
    for (index, entry) in [sample(1, Some("a")), sample(2, Some("b"))].into_iter().enumerate() {
        sequencer.advance(index as u64 + 1, entry.encode()).expect("a good entry");
    }
    sequencer.advance(3, change().encode()).expect("a good entry");
    let bytes = sequencer.snapshot();
    [0, 1].map(|fix| [&[fix], &bytes[..]].concat()).into()
}

/// A restored snapshot can be saved and restored again, and accepts further entries.
fn snapshot(input: &[u8]) {
    let Some((&fix, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if fix % 2 == 1 && bytes.len() >= 5 {
        let sum = crc32fast::hash(&bytes[5..]);
        bytes[1..5].copy_from_slice(&sum.to_be_bytes());
    }
    let Ok(mut sequencer) = Sequencer::restore(&cluster(), &bytes) else { return };
    let again = Sequencer::restore(&cluster(), &sequencer.snapshot()).expect("made here");
    assert_eq!(again.snapshot(), sequencer.snapshot());
    sequencer.advance(u64::MAX, sample(9, Some("c")).encode()).expect("a good entry");
    sequencer.forget_below(3);
    drop(sequencer.snapshot());
}

/// A configuration file.
fn config(input: &[u8]) {
    let path = std::env::temp_dir().join(format!("pghc-fuzz-{}.toml", std::process::id()));
    std::fs::write(&path, input).expect("written");
    let args = ["pghc", "api", "--zone=eu", "--config"].map(Into::into);
    let args = args.into_iter().chain([path.clone().into_os_string()]).collect();
    match pghc_runtime::config::with_file(args, &pghc_runtime::config::Keys::All, |_| false) {
        Ok(words) => assert_eq!(words.origin("--zone"), None, "the command line gave it"),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
    std::fs::remove_file(&path).expect("removed");
}

/// A table of distances between zones.
fn distances(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = text.parse::<pghc_wan::Matrix>();
}
