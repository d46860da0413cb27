//! The file form of a history: golden lines, and the way back.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use pghc_api::chain::{Digest, LinkHash};
use pghc_api::time::Micros;
use pghc_history::jsonl::{Error, Record, Recorder, Run, ZoneLink};
use pghc_history::synthetic::{Settings, cluster};
use pghc_history::{Fingerprint, Link, Operation, OrderResult, ReadOutcome, Reset, Snapshot, What};

const HEADER: &str = r#"{"pghc_history":1,"cluster":"00000000-0000-4000-8000-000000000001"}"#;

/// Every kind of record with every field, as the format has them. A change here is a new format.
const GOLDEN: &str = r#"{"operation":{"client":1,"session":2,"zone":0,"started":10,"ended":20,"write":{"key":7,"payload":"000102030405060708090a0b0c0d0e0f","outcome":{"acknowledged":{"id":3,"digest":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","repeated":true,"applied":true}}}}}
{"operation":{"client":1,"session":2,"zone":0,"started":21,"ended":22,"write":{"outcome":{"committed":{"id":4}}}}}
{"operation":{"client":1,"session":2,"zone":0,"started":23,"ended":24,"write":{"outcome":"refused"}}}
{"operation":{"client":1,"session":2,"zone":0,"started":25,"ended":26,"write":{"outcome":"unknown"}}}
{"operation":{"client":1,"session":2,"zone":1,"started":27,"ended":28,"read":{"at_least":3,"linearizable":true,"outcome":{"seen":{"frontier":4,"digest":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"}}}}}
{"operation":{"client":1,"session":2,"zone":1,"started":29,"ended":30,"read":{"outcome":"fork"}}}
{"operation":{"client":1,"session":2,"zone":1,"started":31,"ended":32,"read":{"outcome":"failed"}}}
{"snapshot":{"zone":1,"replica":true,"started":33,"ended":34,"max_id":4,"count":4,"digest":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"}}
{"reset":{"zone":1,"started":35,"ended":36}}
{"fault":"leader_kill"}
{"zone":2}
{"link":{"zone":1,"id":1,"node":"eu-1","written_at":"2023-11-14T22:13:20.000000Z","payload":"1111111111111111111111111111111111111111111111111111111111111111","hash":"abababababababababababababababab","digest":"2222222222222222222222222222222222222222222222222222222222222222"}}
"#;

fn records() -> Vec<Record> {
    let digest = Digest([0xcd; 32]);
    let mut payload = Fingerprint([0; 16]);
    (0..16).for_each(|at| payload.0[usize::from(at)] = at);
    let write = |key, payload, outcome| What::Write { key, payload, outcome };
    let read = |at_least, linearizable, outcome| What::Read { at_least, linearizable, outcome };
    let seen = ReadOutcome::Seen { frontier: 4, digest: Some(digest) };
    let ack = OrderResult::Acknowledged { id: 3, digest, repeated: true, applied: true };
    let operation = |zone, started, ended, what| {
        Record::Operation(Operation { client: 1, session: 2, zone, started, ended, what })
    };
    let link = Link {
        id: 1,
        node: "eu-1".parse().unwrap(),
        written_at: Micros(1_700_000_000_000_000),
        payload: Some(Digest([0x11; 32])),
        hash: LinkHash([0xab; 16]),
        digest: Digest([0x22; 32]),
    };
    vec![
        operation(0, 10, 20, write(Some(7), Some(payload), ack)),
        operation(0, 21, 22, write(None, None, OrderResult::Committed { id: 4 })),
        operation(0, 23, 24, write(None, None, OrderResult::Refused)),
        operation(0, 25, 26, write(None, None, OrderResult::Unknown)),
        operation(1, 27, 28, read(Some(3), true, seen)),
        operation(1, 29, 30, read(None, false, ReadOutcome::Fork)),
        operation(1, 31, 32, read(None, false, ReadOutcome::Failed)),
        Record::Snapshot(Snapshot {
            zone: 1,
            replica: true,
            started: 33,
            ended: 34,
            max_id: 4,
            count: 4,
            digest: Some(digest),
        }),
        Record::Reset(Reset { zone: 1, started: 35, ended: 36 }),
        Record::Fault("leader_kill".to_owned()),
        Record::Zone(2),
        Record::Link(ZoneLink { zone: 1, link }),
    ]
}

#[test]
fn records_match_golden_lines() {
    let mut recorder = Recorder::new(Vec::new(), &cluster()).unwrap();
    records().iter().for_each(|record| recorder.record(record).unwrap());
    let text = String::from_utf8(recorder.writer().clone()).unwrap();
    assert_eq!(text, format!("{HEADER}\n{GOLDEN}"));
    let lines: Vec<Record> =
        GOLDEN.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, records());
}

#[test]
fn history_round_trips_through_split_files() {
    let run = Settings { operations: 300, ..Default::default() }.run(3);
    let mut file = Vec::new();
    run.write(&mut file, &cluster()).unwrap();
    let mut again = Run::default();
    again.read(file.as_slice()).unwrap();
    assert_eq!(again, run);

    let text = String::from_utf8(file).unwrap();
    let (first, second) =
        text.split_at(text.len() / 2 + text[text.len() / 2..].find('\n').unwrap() + 1);
    let mut parts = Run::default();
    parts.read(first.as_bytes()).unwrap();
    parts.read(format!("{HEADER}\n{second}").as_bytes()).unwrap();
    assert_eq!(parts, run);
}

#[test]
fn invalid_history_is_refused_with_line_number() {
    let read = |text: &str| Run::default().read(text.as_bytes());
    let torn = format!("{HEADER}\n{}", &GOLDEN[..40]);
    assert!(matches!(read(&torn), Err(Error::Line { line: 2, .. })));
    let unknown = format!("{HEADER}\n{{\"rumour\":1}}\n");
    assert!(matches!(read(&unknown), Err(Error::Line { line: 2, .. })));
    assert!(matches!(read(GOLDEN), Err(Error::Line { line: 1, .. })));
    let newer = HEADER.replace(":1,", ":2,");
    assert!(matches!(read(&newer), Err(Error::Format { got: 2 })));
    let mut run = Run::default();
    run.read(HEADER.as_bytes()).unwrap();
    let other = HEADER.replace("0001\"", "0002\"");
    assert!(matches!(run.read(other.as_bytes()), Err(Error::Cluster { .. })));
}
