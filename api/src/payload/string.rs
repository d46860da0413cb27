//! Strings within the scanner: plain runs eight bytes at a time, escapes one by one.
//!
//! A string's content is borrowed from the body, and copied only where it has escapes.

use std::borrow::Cow;

use super::fault::Fault;
use super::scan::Scanner;

impl<'a> Scanner<'a> {
    /// Reads a string from its opening quote; returns its content, unescaped if it had escapes.
    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, Fault> {
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

    /// Reads one escape and appends its character.
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
}

/// Marks, by its high bit, every byte of the word that ends a plain run. Exact for the lowest mark,
/// the only one that is used.
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
