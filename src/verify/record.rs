//! Links as JSON: the records of an NDJSON export and of an API page, read without trusting them.
//!
//! Records are split by counting braces and not by lines, because a payload is kept byte for byte
//! and may hold line breaks between its tokens. Memory is bounded by [`RECORD_BYTES_MAX`].

use pghc_api::limits::PAYLOAD_BYTES_MAX;
use pghc_api::verify::{RawDigest, RawLink, RawTime};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest record in bytes: the largest payload and generous room for the other fields.
pub(crate) const RECORD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (64 << 10);

/// One link as JSON; absent fields are `None`, unknown fields are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct Record<'a> {
    id: i64,
    #[serde(borrow, default)]
    node_id: Option<&'a str>,
    #[serde(borrow, default)]
    hash: Option<&'a str>,
    #[serde(borrow, default)]
    digest: Option<&'a str>,
    #[serde(borrow, default)]
    written_at: Option<&'a str>,
    #[serde(borrow, default)]
    token: Option<&'a str>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

impl<'a> Record<'a> {
    /// The link in it.
    pub(crate) fn raw(&self) -> RawLink<'a> {
        RawLink {
            id: self.id,
            node: self.node_id,
            hash: self.hash,
            digest: self.digest.map(RawDigest::Hex),
            written_at: self.written_at.map(RawTime::Text),
            payload: self.payload.map(|json| json.get().as_bytes()),
            token: self.token,
        }
    }
}

/// Splits a stream of bytes into its JSON objects.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    record: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Splitter {
    /// Takes bytes of `chunk` up to the end of a record and answers how many were taken and whether
    /// [`Splitter::record`] is complete now. Call [`Splitter::clear`] before going on after one.
    ///
    /// A text that cannot be an object, such as a stray word or an unclosed string, ends at its
    /// line.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> (usize, bool) {
        for (index, &byte) in chunk.iter().enumerate() {
            if self.record.is_empty() && self.depth == 0 && byte.is_ascii_whitespace() && index == 0
            {
                let blank = chunk.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                return (blank, false);
            }
            if self.ends_with(byte) || self.record.len() + index >= RECORD_BYTES_MAX {
                self.record.extend_from_slice(&chunk[..=index]);
                return (index + 1, true);
            }
        }
        self.record.extend_from_slice(chunk);
        (chunk.len(), false)
    }

    fn ends_with(&mut self, byte: u8) -> bool {
        if byte == b'\n' && (self.in_string || self.depth == 0) {
            return true;
        }
        if self.in_string {
            let closes = byte == b'"' && !self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            self.in_string = !closes;
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// The bytes of the record received until now.
    pub(crate) fn record(&self) -> &[u8] {
        &self.record
    }

    /// Forgets the record.
    pub(crate) fn clear(&mut self) {
        self.record.clear();
        (self.depth, self.in_string, self.escaped) = (0, false, false);
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, Splitter};

    fn split(text: &str, piece: usize) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut records = Vec::new();
        for mut chunk in text.as_bytes().chunks(piece) {
            while !chunk.is_empty() {
                let (taken, complete) = splitter.take(chunk);
                chunk = &chunk[taken..];
                if complete {
                    records.push(String::from_utf8_lossy(splitter.record()).trim().to_owned());
                    splitter.clear();
                }
            }
        }
        records.push(String::from_utf8_lossy(splitter.record()).trim().to_owned());
        records
    }

    #[test]
    fn records_are_split_by_braces() {
        let table: &[(&str, &[&str])] = &[
            ("", &[""]),
            ("{\"a\":1}\n{\"b\":2}\n", &["{\"a\":1}", "{\"b\":2}", ""]),
            ("{\"a\":\n[1,\n2]}\n\n {}", &["{\"a\":\n[1,\n2]}", "{}", ""]),
            (r#"{"a":"}\"\\"}{"b":"{"}"#, &[r#"{"a":"}\"\\"}"#, r#"{"b":"{"}"#, ""]),
            ("{\"a\":\"cut\n{\"b\":2}", &["{\"a\":\"cut", "{\"b\":2}", ""]),
            ("word\n{}\n{\"half", &["word", "{}", "{\"half"]),
        ];
        for (text, records) in table {
            for piece in [1, 2, 3, 100] {
                assert_eq!(&split(text, piece), records, "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn payload_keeps_its_bytes_in_record() {
        let text = "{\"id\":1,\"payload\": {\"b\" : 1.50,\n\"a\":\"\\u0041\"} ,\"more\":[]}";
        let record: Record<'_> = serde_json::from_str(text).expect("a record");
        assert_eq!(record.raw().payload, Some(&b"{\"b\" : 1.50,\n\"a\":\"\\u0041\"}"[..]));
        let record: Record<'_> = serde_json::from_str(r#"{"id":1,"payload":null}"#).expect("one");
        assert_eq!(record.raw().payload, None);
    }
}
