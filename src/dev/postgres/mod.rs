//! A real PostgreSQL server under our care, as a direct child: it can be killed and started again.
//!
//! Invariant: at most one postmaster runs on a data directory, and it is reaped when it ends; an
//! unreaped postmaster would keep its lock file alive and block the next start. `fsync` stays on,
//! so tests cover real durability.
//!
//! No connection is trusted. The superuser has no password and logs in through a Unix socket in a
//! private directory, as the operating system's own user. Over TCP, on loopback, only logins with a
//! password are accepted.
//!
//! PostgreSQL refuses to run as root; as root the server is dropped to the owner of the data
//! directory, else `postgres`, else `nobody`. Every directory above the data directory must let
//! that user pass. Created directories, and root's own ones below the system's temporary directory,
//! let its group pass and show nothing; any other closed directory is reported and left as it is.

mod directory;
mod error;
mod install;
mod lock;
mod options;
mod server;
mod socket;
mod standby;
mod template;

pub(super) use directory::make_directory;
pub use error::Error;
pub(super) use error::tail;
pub use install::Install;
pub use options::{DATABASE, SUPERUSER, ServerOptions, VERSION_MIN};
pub use server::{READY_MAX, Server, clear_stale_server};
pub use socket::socket_of;
