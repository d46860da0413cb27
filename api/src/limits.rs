//! Every bound of pghc, with the behaviour at the bound.

/// Largest payload of one write in bytes, and the default limit of a single-write request body.
/// A larger body is refused with 413 `payload_too_large` before anything is logged.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Largest NDJSON request in bytes; its lines are bounded by [`PAYLOAD_BYTES_MAX`] each. Lines are
/// consumed as they arrive, so this bounds one request, not memory.
pub const BULK_BYTES_MAX: usize = 64 << 20;

/// Deepest nesting of a JSON payload; a deeper one is refused with 400 `bad_json`.
pub const JSON_DEPTH_MAX: usize = 64;

/// Longest node, zone or coordinator name in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest `Idempotency-Key` in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// Most writes in one batch (one Raft entry). Further writes go into the next batch.
pub const BATCH_WRITES_MAX: usize = 1_000;

/// Most payload bytes in one batch; a single larger write travels alone.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// Most batches an API node has under way to its coordinator at a time.
pub const BATCHES_IN_FLIGHT_MAX: usize = 32;

/// Most writes waiting in one API node for a batch; more are answered 429 `overloaded`.
pub const SUBMIT_QUEUE_MAX: usize = 16_384;

/// Most payload bytes waiting in one API node for a batch; more are answered 429 `overloaded`.
pub const SUBMIT_QUEUE_BYTES_MAX: usize = 64 << 20;

/// Most links in one apply transaction: the knee of rows/s against latency.
pub const APPLY_LINKS_MAX: usize = 1_000;

/// Most payload bytes in one apply transaction; a single larger link travels alone.
pub const APPLY_BYTES_MAX: usize = 4 << 20;

/// Most bytes of committed batches a coordinator keeps in memory for its tails; no more than its log
/// may take on disk.
pub const TAIL_RING_BYTES_MAX: usize = 32 << 20;

/// Largest page of `GET /v1/chain`; also the default is [`PAGE_LINKS_DEFAULT`].
pub const PAGE_LINKS_MAX: usize = 1_000;

/// Page size of `GET /v1/chain` when `limit` is not given.
pub const PAGE_LINKS_DEFAULT: usize = 100;

/// Keyed writes the sequencer remembers: a key is deduplicated while it is among this many newest
/// ones. After that it counts as new.
pub const KEYS_MAX: usize = 1 << 20;

/// API-node sessions the sequencer remembers; the one unused longest is forgotten first.
pub const SESSIONS_MAX: usize = 4_096;

/// Newest batches remembered per session, so that a resend is not ordered twice. Must not be
/// smaller than [`BATCHES_IN_FLIGHT_MAX`].
pub const SESSION_BATCHES_MAX: usize = 128;

/// Zones a cluster knows, with the removed ones it remembers. A further one is not registered, and
/// its reports are refused.
pub const ZONES_MAX: usize = 256;

/// Bytes of batches on their way to one reader of a tail; the coordinator fetches no more for it
/// until it has read some.
pub const TAIL_QUEUE_BYTES_MAX: usize = 1 << 20;

/// Longest time in milliseconds a request may ask to wait (`timeout=`).
pub const TIMEOUT_MS_MAX: u64 = 60_000;

/// Time in milliseconds a request waits when it does not say.
pub const TIMEOUT_MS_DEFAULT: u64 = 10_000;
