//! The first line of an export: cluster and range of the links.
//!
//! The header has exactly one form, which no JSON tool writes by itself. A file without this form
//! went through such a tool, which may have changed the bytes of its payloads.

use std::fmt;

use pghc_api::id::{ClusterId, WriteId};

/// Longest header in bytes, its line break included.
pub(crate) const HEADER_BYTES_MAX: usize = 256;

/// Content of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cluster: ClusterId,
    /// Its first id.
    pub(crate) from: WriteId,
    /// Its last id.
    pub(crate) to: WriteId,
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, from, to } = self;
        writeln!(
            f,
            r#"{{ "pghc_export": 1, "cluster_id": "{cluster}", "from": {from}, "to": {to} }}"#
        )
    }
}

impl Header {
    /// The header that a file begins with, and its length in bytes.
    pub(crate) fn read(beginning: &[u8]) -> Option<(Self, usize)> {
        let end = beginning.iter().take(HEADER_BYTES_MAX).position(|byte| *byte == b'\n')? + 1;
        let line = std::str::from_utf8(&beginning[..end]).ok()?;
        let mut words = line.split_ascii_whitespace();
        let mut after = |key: &str| (words.by_ref().find(|word| *word == key)).map(drop);
        after("\"cluster_id\":")?;
        let cluster = words.next()?.trim_matches(|c| c == '"' || c == ',').parse().ok()?;
        let mut number = |key: &str| {
            words.by_ref().find(|word| *word == key)?;
            words.next()?.trim_end_matches(',').parse::<WriteId>().ok()
        };
        let (from, to) = (number("\"from\":")?, number("\"to\":")?);
        let header = Self { cluster, from, to };
        (header.to_string() == line && from <= to).then_some((header, end))
    }
}

#[cfg(test)]
mod tests {
    use super::Header;

    #[test]
    fn a_header_is_read_in_its_own_form_only() {
        let text = "{ \"pghc_export\": 1, \"cluster_id\": \"0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7\", \
                    \"from\": 7, \"to\": 9 }\n";
        let (header, length) = Header::read(format!("{text}{{\"id\":7}}").as_bytes()).expect("one");
        assert_eq!((header.from.get(), header.to.get(), length), (7, 9, text.len()));
        assert_eq!(header.to_string(), text);
        for other in [
            text.replace("{ ", "{").replace(" }", "}"),
            text.replace(": ", ":"),
            text.replace("\"from\": 7", "\"from\": 10"),
            text.replace("\"from\": 7", "\"from\": 0"),
            text.replace("\"to\": 9", "\"to\": 18446744073709551615"),
            text.replace("1, ", "2, "),
            text.trim_end().to_owned(),
            String::new(),
        ] {
            assert_eq!(Header::read(other.as_bytes()), None, "{other:?}");
        }
    }
}
