//! Bounds of the HTTP face: what one client may take of the node, in bytes, seconds and connections.

use std::time::Duration;

use pghc_api::limits::{BULK_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Bounds of the server; the defaults are those of production, tests shorten the times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest body of one write, and largest line of NDJSON, in bytes; over it 413.
    pub body_bytes: usize,
    /// Largest NDJSON body in bytes; over it 413, mid-way as the last line of the answer.
    pub bulk_bytes: usize,
    /// Largest request line and headers together in bytes; over it 431.
    pub head_bytes: usize,
    /// Longest time from a request's first byte to the end of its headers; over it the connection
    /// is closed. Also how long a new connection may stay silent.
    pub head_read: Duration,
    /// Longest time the body of one write may take, and longest silence within an NDJSON body
    /// while no answer is due; over it 408.
    pub body_read: Duration,
    /// Longest time an NDJSON body may take as a whole; over it 408 as the last line.
    pub bulk_read: Duration,
    /// How long a connection may stay open between requests.
    pub keep_alive: Duration,
    /// How long a client may leave an answer untaken; over it the connection is closed.
    pub write_stall: Duration,
    /// How long a closed connection still swallows what the client sends, so that the client gets
    /// to read its answer instead of a reset.
    pub linger: Duration,
    /// Most connections open at a time. For a further one the idlest is closed; when none is idle, it is
    /// closed itself.
    pub connections: usize,
    /// Most bytes that all requests hold at a time: one half bodies on their way in, the other answers
    /// on their way out. Over it 503 `busy`, before a body is read.
    pub request_bytes: usize,
    /// How long requests under way may still take after shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: PAYLOAD_BYTES_MAX,
            bulk_bytes: BULK_BYTES_MAX,
            head_bytes: 16 << 10,
            head_read: Duration::from_secs(10),
            body_read: Duration::from_secs(30),
            bulk_read: Duration::from_secs(600),
            keep_alive: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            connections: 10_000,
            request_bytes: REQUEST_BYTES_DEFAULT,
            drain: Duration::from_secs(10),
        }
    }
}

/// Bytes that all requests of a node may hold when its settings do not say.
pub const REQUEST_BYTES_DEFAULT: usize = 256 << 20;

/// The word that stands for pages of this machine, on any port, among [`Cors::Origins`].
pub const LOCALHOST: &str = "localhost";

/// Which pages of other origins may call this node from a browser.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cors {
    /// None.
    #[default]
    Closed,
    /// These, each as `scheme://host[:port]`, or [`LOCALHOST`].
    Origins(Vec<String>),
}
