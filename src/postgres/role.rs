//! The roles that sessions take, with their settings and the longest time of their statements.

use std::time::Duration;

/// Longest time a statement of an applier or reader may run in the server.
pub const STATEMENT_MAX: Duration = Duration::from_secs(10);
/// Longest time a statement waits for a lock.
pub const LOCK_MAX: Duration = Duration::from_secs(5);

/// Purpose of a session, which decides its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Migrates and inspects; keeps the login role.
    Login,
    /// Adds links and moves the frontier.
    Applier,
    /// Reads.
    Reader,
    /// Reads and verifies. Keeps the login role where that is no member of `pghc_auditor`, so that
    /// a database whose roles were lost can still be looked at; never writes.
    Auditor,
}

impl Role {
    /// The statement that a session runs right after login.
    pub(super) const fn set_role(self) -> &'static str {
        match self {
            Self::Login => "",
            Self::Applier => "set role pghc_applier",
            Self::Reader => "set role pghc_reader; set default_transaction_read_only = on",
            Self::Auditor => {
                "select set_config('role', rolname, false) from pg_catalog.pg_roles \
                 where rolname = 'pghc_auditor' and pg_has_role(oid, 'member'); \
                 set default_transaction_read_only = on"
            }
        }
    }

    /// More start-up options.
    pub(super) const fn options(self) -> &'static str {
        match self {
            Self::Login | Self::Auditor => "",
            // These sessions live long and look links up by id only. A plan made while the chain
            // was short must not scan all of it when it is long, and planning the apply statement
            // anew for each batch, as PostgreSQL would, costs more than the guards.
            Self::Applier | Self::Reader => {
                " -c plan_cache_mode=force_generic_plan -c enable_seqscan=off \
                 -c enable_bitmapscan=off"
            }
        }
    }

    /// A verifier's statements are long by nature; it is bounded by its own deadline.
    pub(super) const fn statement_max(self) -> Duration {
        match self {
            Self::Applier | Self::Reader => STATEMENT_MAX,
            Self::Auditor | Self::Login => Duration::from_secs(3600),
        }
    }
}
