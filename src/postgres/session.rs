//! Settings and role of every session of pghc, whatever server, database and login set.
//!
//! Invariant: no statement of ours runs in a session whose settings are another's. They travel as
//! start-up options, which win over those of database and login and hold from the first moment on.
//! A mark among them shows that they arrived: a pooler in between drops them, or shares sessions.

use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect_error::ConnectError;
use super::role::{LOCK_MAX, Role};

/// Settings that change how text is read, printed, compared or timed out, for every session. They
/// exist since PostgreSQL 14 and any login may set them. `row_security=off` makes a read fail from
/// which a policy would hide rows.
const PINS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog"),
    ("lock_timeout", ""),
    ("statement_timeout", ""),
    ("idle_in_transaction_session_timeout", "10000"),
    ("idle_session_timeout", "0"),
    ("client_connection_check_interval", "0"),
    ("timezone", "utc"),
    ("datestyle", "iso,mdy"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("backslash_quote", "safe_encoding"),
    ("escape_string_warning", "off"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("client_min_messages", "notice"),
    ("exit_on_error", "off"),
    ("check_function_bodies", "on"),
    ("row_security", "off"),
    ("synchronous_commit", "on"),
    ("default_transaction_isolation", "read\\ committed"),
    ("default_transaction_deferrable", "off"),
    // Sessions become read-only after log-in: `target_session_attrs=read-write` would take
    // one that is born so for a replica's.
    ("default_transaction_read_only", "off"),
    ("default_tablespace", ""),
    ("temp_tablespaces", ""),
    ("default_table_access_method", "heap"),
    ("plan_cache_mode", "auto"),
    ("enable_indexscan", "on"),
    ("enable_indexonlyscan", "on"),
    // A plan that was made while a table was small is kept for long.
    ("enable_seqscan", "off"),
    ("jit", "off"),
];

/// The same for settings that came later, with the major version that brought them.
const LATER: &[(i32, &str, &str)] = &[(17, "transaction_timeout", "0")];

/// The mark.
const MARK: &str = "pghc.session";

/// Start-up options of a session, behind those that the connection string gives.
pub(super) fn options(role: Role, version: i32) -> String {
    let mut words = format!("-c {MARK}=own");
    for (name, value) in PINS {
        let value = match *name {
            "statement_timeout" => role.statement_max().as_millis().to_string(),
            "lock_timeout" => LOCK_MAX.as_millis().to_string(),
            _ => (*value).to_owned(),
        };
        words.push_str(&format!(" -c {name}={value}"));
    }
    for (_, name, value) in LATER.iter().filter(|(since, ..)| *since <= version) {
        words.push_str(&format!(" -c {name}={value}"));
    }
    words + role.options()
}

/// Why a session that was opened cannot be used.
pub(super) enum Unusable {
    /// As the driver says.
    Driver(tokio_postgres::Error),
    /// It could not even be asked for.
    Refused(ConnectError),
    /// A pooler drops what makes a session ours, or hands it to others.
    Pooled,
    /// The login's triggers do not fire.
    Replicating,
}

impl From<tokio_postgres::Error> for Unusable {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Driver(error)
    }
}

/// Looks whether a session is ours, and takes its role. `known` is the version whose settings it was
/// born with, `version` that of the server.
pub(super) async fn begin(
    client: &Client,
    role: Role,
    known: i32,
    version: i32,
) -> Result<(), Unusable> {
    let sql = format!(
        "select pg_catalog.current_setting('{MARK}', true), \
         pg_catalog.current_setting('session_replication_role')"
    );
    let answer = client.simple_query(&sql).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0), row.get(1))),
        _ => None,
    });
    match row {
        Some((Some("own"), Some("replica"))) if matches!(role, Role::Applier | Role::Login) => {
            return Err(Unusable::Replicating);
        }
        Some((Some("own"), _)) => {}
        _ => return Err(Unusable::Pooled),
    }
    let mut sql = String::new();
    for (_, name, value) in LATER.iter().filter(|(since, ..)| known < *since && *since <= version) {
        sql.push_str(&format!("set {name} = '{value}'; "));
    }
    sql.push_str(role.set_role());
    if !sql.is_empty() {
        client.batch_execute(&sql).await?;
    }
    Ok(())
}

/// Whether a refusal is that of a pooler that does not take the settings of a session.
pub(super) fn is_poolers(error: &DbError) -> bool {
    *error.code() == SqlState::PROTOCOL_VIOLATION && error.message().contains("startup parameter")
}

/// The major version in a server's own words, 0 when it says none.
pub(super) fn major(words: Option<&str>) -> i32 {
    let digits = words.unwrap_or_default();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{major, options};
    use crate::Role;

    #[test]
    fn session_starts_with_the_settings_of_its_version() {
        assert!(!options(Role::Reader, 16).contains("transaction_timeout="));
        assert!(options(Role::Reader, 17).contains(" -c transaction_timeout=0"));
        assert!(options(Role::Reader, 0).contains(" -c statement_timeout=10000"));
        assert!(options(Role::Login, 0).contains(" -c statement_timeout=3600000"));
    }

    #[test]
    fn the_major_version_is_read_from_a_servers_words() {
        for (words, want) in
            [(Some("15.18 (Debian)"), 15), (Some("19beta1"), 19), (Some("x"), 0), (None, 0)]
        {
            assert_eq!(major(words), want);
        }
    }
}
