//! Tests of the payload rules: by table, and by comparison with serde_json on random texts.

use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::{Fault, value, write_body};
use crate::error::ErrorCode;
use crate::error::ErrorCode::{BadJson, DuplicateKey, UnknownField, UnstorablePayload};

#[track_caller]
fn refuses(body: impl AsRef<[u8]>, code: ErrorCode, at: usize) {
    let body = body.as_ref();
    let shown = String::from_utf8_lossy(&body[..body.len().min(80)]);
    match write_body(body) {
        Err(fault) => assert_eq!((fault.code, fault.at), (code, at), "{shown}: {fault}"),
        Ok(_) => panic!("accepted {shown}"),
    }
}

#[track_caller]
fn finds(body: &str, payload: Option<&str>) {
    let found = write_body(body.as_bytes()).unwrap_or_else(|fault| panic!("{body}: {fault}"));
    assert_eq!(found.map(|range| &body[range]), payload, "{body}");
}

#[test]
fn the_payload_is_found_byte_for_byte() {
    finds("{}", None);
    finds(" { } \n", None);
    finds(r#"{"payload":null}"#, None);
    finds(r#"{"payload": 1.50e+3 }"#, Some("1.50e+3"));
    finds(r#"{ "payload" : {"b":1, "a" :[ ]} }"#, Some(r#"{"b":1, "a" :[ ]}"#));
    finds("{\"\\u0070ayload\":\t\"\\ud83d\\ude00 \u{e9}\"}", Some("\"\\ud83d\\ude00 \u{e9}\""));
    finds(r#"{"payload":{"payload":{"payload":null}}}"#, Some(r#"{"payload":{"payload":null}}"#));
}

#[test]
fn invalid_json_is_refused_with_its_position() {
    refuses("", BadJson, 0);
    refuses("  ", BadJson, 2);
    refuses("1", BadJson, 0);
    refuses("[]", BadJson, 0);
    refuses(r#"{"payload":1"#, BadJson, 12);
    refuses(r#"{"payload":1} x"#, BadJson, 14);
    refuses(r#"{"payload":1}{}"#, BadJson, 13);
    refuses(r#"{"payload":1,}"#, BadJson, 13);
    refuses(r#"{payload:1}"#, BadJson, 1);
    for word in ["NaN", "Infinity", "-Infinity", "nul", "+1", "01", ".5", "'a'", "\u{feff}1"] {
        let at = 11 + usize::from(word.starts_with("-I"));
        refuses(format!("{{\"payload\":{word}}}"), BadJson, at);
    }
    refuses(r#"{"payload":1.}"#, BadJson, 13);
    refuses(r#"{"payload":1e}"#, BadJson, 13);
    refuses("{\"payload\":\"a\nb\"}", BadJson, 13);
    refuses("{\"payload\":\"1234567890123456789\u{1}\"}", BadJson, 31);
    refuses(r#"{"payload":"\x"}"#, BadJson, 13);
    refuses(r#"{"payload":"\u00g0"}"#, BadJson, 16);
    refuses(b"{\"payload\":\"\xff\"}", BadJson, 12);
    refuses(b"{\"payload\":\"\xed\xa0\x80\"}", BadJson, 12);
}

#[test]
fn payload_nesting_is_limited_to_64_below_outer_object() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(value(nested(64).as_bytes()), Ok(()));
    let too_deep = Fault { code: BadJson, at: 64, what: "nesting deeper than 64" };
    assert_eq!(value(nested(65).as_bytes()), Err(too_deep));
    assert!(write_body(format!("{{\"payload\":{}}}", nested(64)).as_bytes()).is_ok());
    refuses(format!("{{\"payload\":{}}}", nested(65)), BadJson, 11 + 64);
    refuses("[".repeat(1 << 20), BadJson, 64);
}

#[test]
fn a_key_is_the_same_key_after_unescaping() {
    refuses(r#"{"payload":1,"payload":2}"#, DuplicateKey, 13);
    refuses(r#"{"payload":{"a":1,"\u0061":2}}"#, DuplicateKey, 18);
    refuses(r#"{"payload":[{"a":{"b":0,"b":0}}]}"#, DuplicateKey, 24);
    refuses(r#"{"payload":{"\ud83d\ude00":1,"😀":2}}"#, DuplicateKey, 29);
    finds(
        r#"{"payload":{"a":{"a":1},"b":{"a":1},"A":1}}"#,
        Some(r#"{"a":{"a":1},"b":{"a":1},"A":1}"#),
    );
    let many: Vec<String> = (0..50_000).map(|n| format!("\"k{n}\":0")).collect();
    let large = format!("{{{}}}", many.join(","));
    assert_eq!(value(large.as_bytes()), Ok(()));
    let repeated = large.replace("\"k49999\"", "\"k7\"");
    assert_eq!(value(repeated.as_bytes()).map_err(|fault| fault.code), Err(DuplicateKey));
}

#[test]
fn an_unknown_field_is_named_only_when_the_rest_is_json() {
    refuses(r#"{"payload":1,"paylaod":2}"#, UnknownField, 13);
    refuses(r#"{"key":{"a":[1,{}]}}"#, UnknownField, 1);
    refuses(r#"{"key":1"#, BadJson, 8);
}

#[test]
fn payload_is_refused_if_postgresql_cannot_store_it() {
    for (text, at) in [
        (r#""\u0000""#, 1),
        (r#"{"a\u0000b":1}"#, 3),
        (r#""\ud800""#, 1),
        (r#""\udc00""#, 1),
        (r#""\ud800\u0061""#, 1),
        (r#""\ud800\ud800\udc00""#, 1),
        (r#"[0,1e400000]"#, 3),
        ("1e131072", 0),
        ("1e-16384", 0),
        ("-0.1e131073", 0),
        ("0e99999999999999999999", 0),
        ("1E+99999999999999999999", 0),
    ] {
        assert_eq!(
            value(text.as_bytes()).map_err(|f| (f.code, f.at)),
            Err((UnstorablePayload, at))
        );
    }
    assert!(value(format!("1{}", "0".repeat(131_072)).as_bytes()).is_err());
    assert!(value(format!("0.{}1", "0".repeat(16_383)).as_bytes()).is_err());
    for text in ["1e131071", "1e-16383", "0.0001e131075", "9.9E+131071", "-0", "1e0000001"] {
        assert_eq!(value(text.as_bytes()), Ok(()), "{text}");
    }
    assert!(value(format!("1{}", "0".repeat(131_071)).as_bytes()).is_ok());
}

/// Text that is often almost JSON, as a mutation produces it.
fn nearly_json() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[\\[\\]{},: ]",
        2 => "\"[a-c\\\\\"]{0,9}\"",
        1 => "\"(\\\\u[0-9a-fA-F]{4}|\\\\[\"\\\\/bfnrtx]|[ -~é]){0,12}\"",
        2 => "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,2})?([eE][+-]?[0-9]{1,2})?",
        1 => "true|false|null|nul|NaN|[ -~]",
        1 => "\"[a-z]\":1",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// JSON values as text with every kind of token.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        let key = any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string"));
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8)
                .prop_map(|items| format!("[{}]", items.join(" , "))),
            proptest::collection::vec((key, inner), 0..8).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(k, v)| format!("{k} :{v}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// Whether another parser takes the text, by syntax alone.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn syntax_is_judged_as_serde_json_judges_it(text in prop_oneof![nearly_json(), json()]) {
        match value(text.as_bytes()) {
            Ok(()) => prop_assert!(is_json(&text), "only we accept {text}"),
            Err(fault) if fault.code == BadJson => {
                prop_assert!(!is_json(&text), "only we refuse {text}: {fault}");
            }
            Err(_) => prop_assert!(is_json(&text), "refused for its meaning: {text}"),
        }
    }

    #[test]
    fn any_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let accepted = value(&bytes).is_ok();
        prop_assert!(!accepted || std::str::from_utf8(&bytes).is_ok_and(is_json));
        let _ = write_body(&bytes);
    }

    #[test]
    fn the_payload_found_is_the_one_serde_json_finds(text in json()) {
        let body = format!("\r\n{{\t\"payload\" : {text}\n}} ");
        if let Ok(range) = write_body(body.as_bytes()) {
            let payload = range.map(|range| &body[range]);
            prop_assert_eq!(payload, Some(text.as_str()).filter(|text| *text != "null"));
            let other: crate::wire::WriteRequest = serde_json::from_str(&body).expect("accepted");
            prop_assert_eq!(payload, other.payload.as_ref().map(|raw| raw.get()).filter(|t| *t != "null"));
        }
    }
}

/// Not part of the suite: `cargo test --release -p pghc-api speed -- --ignored --nocapture`.
#[test]
#[ignore = "measures: cargo test --release -p pghc-api speed -- --ignored --nocapture"]
fn speed_of_the_scan_in_megabytes_a_second() {
    let record = r#"{"order":"7f9c1e","lines":[{"sku":"AB-1234","count":3,"price":12.50},{"sku":"é\n","count":1,"price":-0.5e3}],"paid":true,"note":null}"#;
    let text = "all of this is plain text, as in a comment or a page; ".repeat(400);
    for (name, body) in [
        ("200 bytes", format!("{{\"payload\":{record}}}")),
        ("records", format!("{{\"payload\":[{}]}}", vec![record; 2000].join(","))),
        ("plain text", format!("{{\"payload\":\"{text}\"}}")),
    ] {
        let rounds = 200_000_000 / body.len();
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            assert!(write_body(std::hint::black_box(body.as_bytes())).is_ok());
        }
        let ours = start.elapsed().as_secs_f64();
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            let body = std::hint::black_box(body.as_str());
            assert!(serde_json::from_str::<crate::wire::WriteRequest>(body).is_ok());
        }
        let serde = start.elapsed().as_secs_f64();
        let megabytes = (rounds * body.len()) as f64 / 1e6;
        println!("{name}: {:.0} MB/s, serde_json {:.0} MB/s", megabytes / ours, megabytes / serde);
    }
}
