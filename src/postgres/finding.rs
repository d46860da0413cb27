//! Findings about a database, and whether its zone may still apply.

use std::fmt;

use super::column::WrongColumn;

/// Something about a database that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The server is older than 14.
    TooOld(i32),
    /// The setting would lose or mix up what was committed.
    Unsafe(&'static str),
    /// The database's encoding is not UTF8, so payloads would not be kept byte for byte.
    Encoding(String),
    /// The schema lacks this line of `sql/schema.txt`.
    Missing(String),
    /// The schema has this, which is not ours.
    Foreign(String),
    /// A column that pghc reads was changed.
    Column(WrongColumn),
    /// The server does not have these roles, and so none of their rights.
    NoRoles(Vec<String>),
    /// All of it belongs to this role instead of `pghc_owner`.
    Owner(String),
    /// No role of ours has any right.
    NoGrants,
    /// A setting that misleads sessions that are not ours; not fatal.
    Setting(String),
    /// Disk errors would go unnoticed; not fatal.
    NoChecksums,
}

impl Finding {
    /// Whether the zone must not apply because of it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            // These run behind our statements: they can refuse them, but not change what is kept.
            Self::Foreign(line) => {
                !(line.starts_with("trigger after ") || line.starts_with("replica identity "))
            }
            Self::Setting(_) | Self::NoChecksums => false,
            _ => true,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld(version) => {
                write!(f, "PostgreSQL {} is too old, want 14 or newer", version / 10_000)
            }
            Self::Unsafe(setting) => write!(f, "{setting} is off and must be on"),
            Self::Encoding(encoding) => write!(f, "the encoding is {encoding}, want UTF8"),
            Self::Missing(line) => write!(f, "the schema lacks: {line}"),
            Self::Foreign(line) => write!(f, "the schema has what is not ours: {line}"),
            Self::Column(wrong) => write!(f, "{wrong}"),
            Self::NoRoles(names) => {
                let names = names.join(", ");
                write!(f, "this server has no {names}; {RESTORE}")
            }
            Self::Owner(owner) => {
                write!(f, "all of schema pghc belongs to {owner}, not to pghc_owner; {RESTORE}")
            }
            Self::NoGrants => write!(f, "no role of pghc has any right here; {RESTORE}"),
            Self::Setting(setting) => write!(
                f,
                "{setting} is set: it does not reach what pghc does, but people who read the chain may be \
                 shown other objects or write without guards"
            ),
            Self::NoChecksums => write!(f, "data checksums are off (initdb -k)"),
        }
    }
}

/// The way out of a database that was restored without the roles, owners or grants.
const RESTORE: &str = "this is how a database looks that was restored before the roles were there, \
    or with --no-owner or --no-acl: run setup.sql on the server first, then restore with owners and \
    grants into an empty database, then restart this node";
