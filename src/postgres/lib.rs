//! All SQL of pghc and nothing else: connections, migrations, the one apply statement, reads.
//!
//! Invariant: rows and frontier of a zone move together, in id order, in the one session that holds
//! the newest epoch; `sql/migrations` makes anything else impossible, this module does it fast.
//! It knows neither Raft nor HTTP, and nothing outside it and `sql/` holds SQL text.

pub mod apply;
mod column;
pub mod connect;
mod connect_error;
mod dsn;
pub mod evidence;
pub mod face;
mod finding;
pub mod listen;
pub mod migrate;
mod migrate_error;
mod options;
mod pool;
pub mod preflight;
pub mod raw;
pub mod read;
mod read_error;
mod recompute;
pub mod remedy;
pub mod reseed;
mod role;
mod secret;
mod service;
mod session;
pub mod shape;
mod steps;

pub use apply::{Acquired, Applier, ApplyError, Batch, CHAIN_DAMAGED, Commit};
pub use column::WrongColumn;
pub use connect::{ConnectError, Dsn, Role};
pub use evidence::{Evidence, Keep, KeepError};
pub use face::Face;
pub use listen::listen;
pub use migrate::{MigrateError, migrate};
pub use preflight::{Finding, preflight};
pub use raw::{RawChain, RawHead, RawLink};
pub use read::{Lease, Page, ReadError, Reader};
