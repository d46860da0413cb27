//! The scanner behind [`super::write_body`]: one pass over bytes that are known to be UTF-8.
//!
//! Recursion is bounded by [`JSON_DEPTH_MAX`]; time is linear in the body but for the keys of one
//! large object, which are sorted. It must not build values.

use std::borrow::Cow;
use std::ops::Range;

use super::Fault;
use super::number::Parts;
use crate::error::ErrorCode;
use crate::limits::JSON_DEPTH_MAX;

/// Up to this many keys are compared pair by pair; more are sorted first.
const PAIRWISE_KEYS_MAX: usize = 16;

pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Keys of all open objects, the innermost last, unescaped, each with where it stands.
    keys: Vec<(Cow<'a, [u8]>, usize)>,
    /// The first thing that is JSON but not allowed; reported when the rest turned out to be JSON.
    refused: Option<Fault>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0, keys: Vec::new(), refused: None }
    }

    /// Reads the object of a write and answers where its payload stands.
    pub(super) fn request(&mut self) -> Result<Option<Range<usize>>, Fault> {
        self.space();
        if self.peek() != Some(b'{') {
            // Whatever else it is, it must be JSON before we speak about its fields.
            self.any()?;
            self.finish()?;
            return Err(Fault {
                code: ErrorCode::BadJson,
                at: 0,
                what: "a value that is not an object of the form {\"payload\": ...}",
            });
        }
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
    fn object(
        &mut self,
        member: &mut dyn FnMut(&mut Self, usize, &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
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
        self.depth -= 1;
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
        self.depth -= 1;
        Ok(())
    }

    /// Steps over an opening bracket.
    fn enter(&mut self) -> Result<(), Fault> {
        if self.depth == JSON_DEPTH_MAX {
            return Err(self.bad("nesting deeper than 64"));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Reads a string from its opening quote; answers its content, unescaped if it had escapes.
    fn string(&mut self) -> Result<Cow<'a, [u8]>, Fault> {
        let bytes = self.bytes;
        self.at += 1;
        let start = self.at;
        self.plain_run();
        if self.take(b'"') {
            return Ok(Cow::Borrowed(&bytes[start..self.at - 1]));
        }
        let mut text = bytes[start..self.at].to_vec();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => self.escape(&mut text)?,
                Some(_) => return Err(self.bad("a control character in a string")),
                None => return Err(self.bad("the end, inside a string")),
            }
            let run = self.at;
            self.plain_run();
            text.extend_from_slice(&bytes[run..self.at]);
        }
    }

    /// Steps over string content up to a quote, a backslash, a control character or the end.
    fn plain_run(&mut self) {
        let rest = &self.bytes[self.at..];
        let mut length = 0;
        for chunk in rest.as_chunks::<8>().0 {
            let special = special_bytes(u64::from_le_bytes(*chunk));
            if special != 0 {
                self.at += length + special.trailing_zeros() as usize / 8;
                return;
            }
            length += 8;
        }
        let tail = rest[length..].iter();
        let plain = tail.take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)).count();
        self.at += length + plain;
    }

    /// Reads one escape and appends what it stands for.
    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), Fault> {
        let at = self.at;
        self.at += 1;
        let Some(kind) = self.peek() else { return Err(self.bad("the end, inside a string")) };
        let plain = match kind {
            b'"' | b'\\' | b'/' => kind,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.at += 1;
                return self.unicode_escape(at, text);
            }
            _ => return Err(self.bad("a character that cannot follow a backslash")),
        };
        self.at += 1;
        text.push(plain);
        Ok(())
    }

    fn unicode_escape(&mut self, at: usize, text: &mut Vec<u8>) -> Result<(), Fault> {
        let unit = self.hex_4()?;
        let code = if (0xd800..0xdc00).contains(&unit) && self.bytes[self.at..].starts_with(b"\\u")
        {
            let after_high = self.at;
            self.at += 2;
            let low = self.hex_4()?;
            if (0xdc00..0xe000).contains(&low) {
                0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            } else {
                // Not a pair: the second escape is read again for itself.
                self.at = after_high;
                unit
            }
        } else {
            unit
        };
        match char::from_u32(code) {
            Some('\0') => self.unstorable(at, "the escape \\u0000, which no PostgreSQL text holds"),
            Some(character) => {
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            None => self.unstorable(at, "half of a surrogate pair"),
        }
        Ok(())
    }

    fn hex_4(&mut self) -> Result<u32, Fault> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return Err(self.bad("something where a hex digit was expected"));
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
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

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn bad(&self, what: &'static str) -> Fault {
        Fault { code: ErrorCode::BadJson, at: self.at, what }
    }

    fn unstorable(&mut self, at: usize, what: &'static str) {
        self.refuse(ErrorCode::UnstorablePayload, at, what);
    }

    fn refuse(&mut self, code: ErrorCode, at: usize, what: &'static str) {
        self.refused.get_or_insert(Fault { code, at, what });
    }
}

/// Marks, by its high bit, every byte of the word that ends a plain run; exact for the lowest one
/// marked, which is all that is looked at.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 0x80;
    let below = |limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    let equal = |byte: u8| {
        let difference = word ^ (ONES * u64::from(byte));
        difference.wrapping_sub(ONES) & !difference & HIGHS
    };
    below(0x20) | equal(b'"') | equal(b'\\')
}

/// Where the first repetition among the keys of one object stands. May reorder them.
fn repeated(keys: &mut [(Cow<'_, [u8]>, usize)]) -> Option<usize> {
    if keys.len() <= PAIRWISE_KEYS_MAX {
        let seen = |index: usize| keys[..index].iter().any(|(key, _)| *key == keys[index].0);
        return (1..keys.len()).find(|index| seen(*index)).map(|index| keys[index].1);
    }
    keys.sort_unstable();
    let pairs = keys.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    pairs.map(|pair| pair[1].1).min()
}
