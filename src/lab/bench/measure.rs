//! The measure of a turn: against what, with which payloads, and when its window begins.

use std::time::Duration;

use super::closed::Window;
use crate::client::post;
use crate::target::{Endpoint, Target};

/// Bytes of every payload, but where a table is of payload sizes.
pub(super) const PAYLOAD_BYTES: usize = 200;

/// Time before each measured window.
pub(super) const WARM_UP: Duration = Duration::from_secs(1);

/// How one turn is measured.
pub(super) struct Measure<'a> {
    pub(super) target: &'a Target,
    pub(super) payload_bytes: usize,
    pub(super) warm_up: Duration,
    pub(super) length: Duration,
}

impl<'a> Measure<'a> {
    pub(super) fn new(target: &'a Target, length: Duration) -> Self {
        Self { target, payload_bytes: PAYLOAD_BYTES, warm_up: WARM_UP, length }
    }

    /// A window that begins after the warm-up, counted from now.
    pub(super) fn window(&self) -> Window {
        Window::after(self.warm_up, self.length)
    }
}

/// A JSON value of exactly `bytes` bytes, or a few more if its number needs them; `null` for 0.
pub(super) fn payload(number: usize, bytes: usize) -> String {
    if bytes == 0 {
        return "null".to_owned();
    }
    let start = format!(r#"{{"n":{number},"pad":""#);
    let pad = "x".repeat(bytes.saturating_sub(start.len() + 2));
    format!(r#"{start}{pad}"}}"#)
}

/// Bytes of a write of a payload of this size.
pub(super) fn single_request(node: &Endpoint, payload_bytes: usize) -> Vec<u8> {
    let body = format!(r#"{{"payload":{}}}"#, payload(0, payload_bytes));
    post(&node.host, "/v1/chain", "application/json", None, body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::payload;

    #[test]
    fn a_payload_is_json_of_the_size_that_was_asked_for() {
        for number in [0, 7, 999, 1_234_567] {
            for bytes in [0, 200, 256, 4_096] {
                let text = payload(number, bytes);
                assert_eq!(text.len(), if bytes == 0 { 4 } else { bytes });
                assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
            }
        }
    }
}
