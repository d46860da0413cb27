//! The scanner behind [`super::write_body`]: one pass over bytes that are known to be UTF-8.
//!
//! Recursion is bounded by [`JSON_DEPTH_MAX`]. Time is linear in the body, except for the keys of
//! each object, which are sorted. The scanner builds no values.

use std::borrow::Cow;
use std::ops::Range;

use super::fault::Fault;
use super::number::Parts;
use crate::error::ErrorCode;
use crate::limits::JSON_DEPTH_MAX;

/// Up to this many keys are compared pair by pair; more are sorted first.
const PAIRWISE_KEYS_MAX: usize = 16;

/// Reads the value of a member; the arguments are the position of its key and the key.
type Member<'f, 'a> = dyn FnMut(&mut Scanner<'a>, usize, &[u8]) -> Result<(), Fault> + 'f;

pub(super) struct Scanner<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    /// How many more brackets may be open.
    depth_left: usize,
    /// Keys of all open objects, the innermost last, unescaped, each with its position.
    keys: Vec<(Cow<'a, [u8]>, usize)>,
    /// The first thing that is JSON but not allowed; reported when the rest turned out to be JSON.
    refused: Option<Fault>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth_left: JSON_DEPTH_MAX, keys: Vec::new(), refused: None }
    }

    /// Reads the object of a write and returns the range of its payload.
    pub(super) fn request(&mut self) -> Result<Option<Range<usize>>, Fault> {
        self.space();
        if self.peek() != Some(b'{') {
            // The body must be valid JSON before its fields are checked.
            self.any()?;
            self.finish()?;
            return Err(Fault {
                code: ErrorCode::BadJson,
                at: 0,
                what: "a value that is not an object of the form {\"payload\": ...}",
            });
        }
        // The object around it is ours: the whole depth is the payload's.
        self.depth_left += 1;
        let mut payload = None;
        self.object(&mut |scanner, at, key| {
            let is_payload = key == b"payload";
            if !is_payload {
                scanner.refuse(ErrorCode::UnknownField, at, "a field other than \"payload\"");
            }
            let start = scanner.at;
            scanner.any_here()?;
            if is_payload {
                payload = Some(start..scanner.at);
            }
            Ok(())
        })?;
        Ok(payload)
    }

    /// Ends the scan: only white space may follow.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.space();
        if self.at < self.bytes.len() {
            return Err(self.bad("something after the end of the value"));
        }
        self.refused.map_or(Ok(()), Err)
    }

    /// Reads any value, white space before it allowed.
    pub(super) fn any(&mut self) -> Result<(), Fault> {
        self.space();
        self.any_here()
    }

    fn any_here(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.object(&mut |scanner, _, _| scanner.any_here()),
            Some(b'[') => self.array(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(_) => Err(self.bad("something that is no JSON value")),
            None => Err(self.bad("the end, where a value was expected")),
        }
    }

    /// Reads an object; `member` is called where the value of a key starts and must read it.
    fn object(&mut self, member: &mut Member<'_, 'a>) -> Result<(), Fault> {
        self.enter()?;
        let first_key = self.keys.len();
        self.space();
        if !self.take(b'}') {
            loop {
                let key_at = self.at;
                if self.peek() != Some(b'"') {
                    return Err(self.bad("something where a key in quotes was expected"));
                }
                let key = self.string()?;
                self.space();
                if !self.take(b':') {
                    return Err(self.bad("something where a colon was expected"));
                }
                self.space();
                member(self, key_at, &key)?;
                self.keys.push((key, key_at));
                self.space();
                if self.take(b',') {
                    self.space();
                } else if self.take(b'}') {
                    break;
                } else {
                    return Err(self.bad("something where a comma or } was expected"));
                }
            }
        }
        if let Some(at) = repeated(&mut self.keys[first_key..]) {
            self.refuse(ErrorCode::DuplicateKey, at, "a key that the object already has");
        }
        self.keys.truncate(first_key);
        self.depth_left += 1;
        Ok(())
    }

    fn array(&mut self) -> Result<(), Fault> {
        self.enter()?;
        self.space();
        if !self.take(b']') {
            loop {
                self.any()?;
                self.space();
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.bad("something where a comma or ] was expected"));
                }
            }
        }
        self.depth_left += 1;
        Ok(())
    }

    /// Steps over an opening bracket.
    fn enter(&mut self) -> Result<(), Fault> {
        if self.depth_left == 0 {
            return Err(self.bad("nesting deeper than 64"));
        }
        self.depth_left -= 1;
        self.at += 1;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        let start = self.at;
        self.take(b'-');
        let whole = self.digits()?;
        if whole.len() > 1 && whole[0] == b'0' {
            self.at = start;
            return Err(self.bad("a number with a leading zero"));
        }
        let fraction = if self.take(b'.') { self.digits()? } else { &[] };
        let mut exponent: &[u8] = &[];
        let mut exponent_is_negative = false;
        if self.take(b'e') || self.take(b'E') {
            exponent_is_negative = self.take(b'-');
            if !exponent_is_negative {
                self.take(b'+');
            }
            exponent = self.digits()?;
        }
        if !(Parts { whole, fraction, exponent, exponent_is_negative }).is_numeric() {
            self.unstorable(start, "a number beyond PostgreSQL's numeric");
        }
        Ok(())
    }

    /// Reads one digit or more.
    fn digits(&mut self) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return Err(self.bad("something where a digit was expected"));
        }
        self.at += length;
        Ok(&rest[..length])
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), Fault> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.bad("something that is no JSON value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    pub(super) fn bad(&self, what: &'static str) -> Fault {
        Fault { code: ErrorCode::BadJson, at: self.at, what }
    }

    pub(super) fn unstorable(&mut self, at: usize, what: &'static str) {
        self.refuse(ErrorCode::UnstorablePayload, at, what);
    }

    fn refuse(&mut self, code: ErrorCode, at: usize, what: &'static str) {
        self.refused.get_or_insert(Fault { code, at, what });
    }
}

/// Position of the first repetition among the keys of one object. May reorder them.
fn repeated(keys: &mut [(Cow<'_, [u8]>, usize)]) -> Option<usize> {
    if keys.len() <= PAIRWISE_KEYS_MAX {
        let seen = |index: usize| keys[..index].iter().any(|(key, _)| *key == keys[index].0);
        return (1..keys.len()).find(|index| seen(*index)).map(|index| keys[index].1);
    }
    keys.sort_unstable();
    let pairs = keys.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    pairs.map(|pair| pair[1].1).min()
}
