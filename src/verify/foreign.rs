//! Names a file that is no export, so that its owner learns what to do instead. Pure.
//!
//! A file in another format proves nothing about the chain: it is a mistake in the request and no
//! violation. The usual mistakes are recognised by their first bytes.

use serde_json::Value;

use super::record::Splitter;

/// Bytes at the beginning of a file that are inspected.
pub(crate) const LOOKED_AT_BYTES: usize = 64 << 10;

/// Advice for a user without an export.
const WAY_OUT: &str = "make an export with `pghc export`: it keeps the bytes of payloads, which \
                       every digest covers and which jq, psql and spreadsheets change";

/// First bytes of files that hold something else, and the words for it.
const SIGNATURES: &[(&[u8], &str)] = &[
    (b"\x1f\x8b", "is compressed with gzip: unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it first (unzstd)"),
    (b"\xfd7zXZ\0", "is compressed with xz: unpack it first (unxz)"),
    (b"BZh", "is compressed with bzip2: unpack it first (bunzip2)"),
    (b"PK\x03\x04", "is a zip archive: unpack it first (unzip)"),
    (b"\xff\xfe", "is UTF-16: write it as UTF-8 (iconv -f utf-16 -t utf-8)"),
    (b"\xfe\xff", "is UTF-16: write it as UTF-8 (iconv -f utf-16 -t utf-8)"),
    (b"{\0", "is UTF-16: write it as UTF-8 (iconv -f utf-16le -t utf-8)"),
    (b"\0{", "is UTF-16: write it as UTF-8 (iconv -f utf-16be -t utf-8)"),
    (b"\xef\xbb\xbf", "begins with a byte order mark: take it off (tail -c +4)"),
    (b"PGDMP", "is a dump of pg_dump: restore it and name the database (--zone)"),
    (b"PGCOPY\n", "is a binary COPY of PostgreSQL"),
    (b"--\n-- PostgreSQL", "is a dump of pg_dump: restore it and name the database (--zone)"),
    (b"<", "is HTML or XML"),
];

/// Name of the file's format by its first bytes, with advice, as the end of a sentence.
pub(crate) fn name(beginning: &[u8]) -> String {
    let signature = SIGNATURES.iter().find(|(bytes, _)| beginning.starts_with(bytes));
    let what = match signature {
        Some((_, words)) => (*words).to_owned(),
        None => text(beginning),
    };
    format!("{what}; {WAY_OUT}")
}

fn text(beginning: &[u8]) -> String {
    let start = beginning.trim_ascii_start();
    match start.first() {
        None => "is empty".to_owned(),
        Some(b'[') => "is one JSON array, not an export".to_owned(),
        Some(b'{') => objects(start),
        _ => {
            let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let is_table = line.iter().any(|byte| b",\t;|".contains(byte));
            let words = if is_table { "is a table (CSV or such)" } else { "is not JSON" };
            format!("{words}, not an export")
        }
    }
}

fn objects(text: &[u8]) -> String {
    let mut records = records(text);
    let Some(first) = records.next().flatten() else {
        return "is JSON of another kind than an export, or breaks off".to_owned();
    };
    let has = |key: &str| first.get(key).is_some();
    if has("pghc_export") {
        return match first["pghc_export"].as_u64() {
            Some(1) => "is an export that another program has written anew".to_owned(),
            _ => "is an export of another version of pghc".to_owned(),
        };
    }
    if has("links") {
        return "is a page of the API, not an export".to_owned();
    }
    if has("head") {
        return "is the newest link as the API answers it, not an export".to_owned();
    }
    if has("code") && has("status") {
        return "is an answer of the API that says why it refused, not an export".to_owned();
    }
    if has("zk_id") {
        return "holds links as the original interface shows them, without digests".to_owned();
    }
    let is_bytea = first["digest"].as_str().is_some_and(|digest| digest.starts_with("\\x"));
    if is_bytea {
        return "holds rows as PostgreSQL writes them as JSON (row_to_json), not an export"
            .to_owned();
    }
    if !(has("id") && has("hash")) {
        return "is JSON of another kind than an export".to_owned();
    }
    let second = records.next().flatten();
    let ids = second.and_then(|second| Some((first["id"].as_i64()?, second["id"].as_i64()?)));
    if ids.is_some_and(|(first, second)| second < first) {
        return "holds links in descending order, and an export ascends".to_owned();
    }
    "holds links without the first line of an export, as curl and jq leave them".to_owned()
}

/// The first records, each as JSON if it is.
fn records(mut text: &[u8]) -> impl Iterator<Item = Option<Value>> {
    std::iter::from_fn(move || {
        let mut splitter = Splitter::default();
        while !text.is_empty() {
            let (taken, complete) = splitter.take(text);
            text = &text[taken..];
            if complete {
                return Some(serde_json::from_slice(splitter.record()).ok());
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn each_usual_mistake_is_named() {
        let utf16: Vec<u8> = "{\"id\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let link = r#"{"id":2,"node_id":"eu-1","hash":"00","digest":"00"}"#;
        let row = r#"{"id":2,"node_id":"eu-1","hash":"00","digest":"\\x00"}"#;
        let table: &[(&[u8], &str)] = &[
            (b"\x1f\x8b\x08\0", "gunzip"),
            (&utf16, "UTF-16"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"\xef\xbb\xbf{\"id\":1}", "byte order mark"),
            (b"{\"links\":[],\"frontier\":0}", "a page of the API"),
            (b"{\"head\":null,\"frontier\":0}", "the newest link"),
            (b"{\"status\":503,\"code\":\"no_leader\"}", "why it refused"),
            (b" [\n{\"id\":1}]", "one JSON array"),
            (row.as_bytes(), "row_to_json"),
            (link.as_bytes(), "curl and jq"),
            (b"{\"id\":2,\"hash\":\"\"}\n{\"id\":1,\"hash\":\"\"}", "descending order"),
            (b"{\"zk_id\":1,\"hash\":\"\"}", "original interface"),
            (b"{\"pghc_export\":1,\"from\":1}", "written anew"),
            (b"{\"pghc_export\":2,\"from\":1}", "another version"),
            (b"{\"a\":1}", "another kind"),
            (b"{\"id\":", "another kind"),
            (b"id,node_id,hash\n1,eu,00", "CSV"),
            (b"1\teu\t00", "CSV"),
            (b"hello", "is not JSON"),
            (b"PGDMP\x01", "pg_dump"),
            (b"<html>", "HTML"),
        ];
        for (beginning, words) in table {
            let said = name(beginning);
            assert!(said.contains(words), "{words:?} is not in {said:?}");
            assert!(said.contains("`pghc export`"), "{said:?}");
        }
    }
}
