//! The way out of what PostgreSQL refuses: one for each cause, not one for all.

use std::fmt;

use tokio_postgres::error::DbError;

/// Remedy for a server whose files were replaced under it.
pub(super) const REPLACED: &str = "the files of the PostgreSQL server were replaced while it runs \
    (an upgrade in place), and only a restart of the PostgreSQL server helps; nothing is lost, and \
    this node goes on by itself then";

/// Whether a server that was started before its files were replaced says so: it cannot load a
/// library any more, or one of another version.
pub(super) fn is_replaced(db: &DbError) -> bool {
    is_replaced_text(db.code().code(), db.message())
}

fn is_replaced_text(code: &str, message: &str) -> bool {
    let of_library =
        ["$libdir", "access file", "load library", "incompatible library", ".so\"", ".so:"];
    matches!(code, "58P01" | "XX000" | "42883" | "F0000")
        && of_library.iter().any(|words| message.contains(words))
}

/// A server whose files were replaced, with its own words.
#[derive(Debug, thiserror::Error)]
#[error("{REPLACED}")]
pub struct Replaced(#[source] tokio_postgres::Error);

impl Replaced {
    /// The error again when it says that.
    pub(super) fn of(error: tokio_postgres::Error) -> Result<Self, tokio_postgres::Error> {
        if error.as_db_error().is_some_and(is_replaced) { Ok(Self(error)) } else { Err(error) }
    }
}

/// PostgreSQL's refusal of a step of the migration, with the remedy.
pub(super) struct Refusal {
    words: String,
    way_out: &'static str,
}

impl Refusal {
    pub(super) fn of(db: &DbError) -> Self {
        let foreign = db.where_().and_then(foreign_function);
        let words = match foreign {
            Some(function) => format!("{} (raised in {function})", db.message()),
            None => db.message().to_owned(),
        };
        Self { words, way_out: way_out(db.code().code(), foreign.is_some()) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.words, self.way_out)
    }
}

/// The function outside our schema in which an error was raised, from PostgreSQL's context.
fn foreign_function(context: &str) -> Option<&str> {
    let first = context.lines().next()?;
    let function = first.split("function ").nth(1)?.split(" line ").next()?;
    let is_ours = function.starts_with("pghc.") || function.starts_with("inline_code_block");
    (!is_ours).then_some(function)
}

fn way_out(code: &str, is_foreign: bool) -> &'static str {
    match code {
        _ if is_foreign => {
            "a trigger or event trigger of the application refuses the step: disable it for the \
             time of the migration (alter event trigger … disable), then restart this node"
        }
        "42501" => {
            "migrate as a login that is a member of the four roles of pghc and may create schemas in \
             this database (pghc_setup of setup.sql, which owns it), or as a superuser; a node's own \
             login is enough afterwards"
        }
        "42P07" | "42710" | "42723" | "42P06" | "42P16" | "42809" => {
            "something of that name that is not pghc's is in the way: rename it or move it to \
             another schema, then restart this node"
        }
        _ => "nothing of that step was kept: remove the cause, then restart this node",
    }
}

#[cfg(test)]
mod tests {
    use super::{foreign_function, is_replaced_text, way_out};

    #[test]
    fn a_replaced_server_is_told_from_a_missing_file_of_data() {
        for (code, message) in [
            ("58P01", "could not access file \"$libdir/plpgsql\": No such file or directory"),
            ("58P01", "could not load library \"/usr/lib/plpgsql.so\": undefined symbol: X"),
            ("XX000", "incompatible library \"/usr/lib/plpgsql.so\": version mismatch"),
        ] {
            assert!(is_replaced_text(code, message), "{message}");
        }
        assert!(!is_replaced_text("58P01", "could not open file \"base/5/1259\""));
        assert!(!is_replaced_text("53300", "could not load library \"x.so\""));
    }

    #[test]
    fn the_way_out_fits_the_cause() {
        let context = "PL/pgSQL function app.no_ddl() line 3 at RAISE\nSQL statement";
        assert_eq!(foreign_function(context), Some("app.no_ddl()"));
        assert_eq!(foreign_function("PL/pgSQL function pghc.acquire(text) line 3"), None);
        assert_eq!(foreign_function("PL/pgSQL function inline_code_block line 3"), None);
        assert_eq!(foreign_function("SQL statement"), None);
        assert!(way_out("P0001", true).contains("alter event trigger"));
        assert!(way_out("42P07", false).contains("in the way"));
        assert!(way_out("42501", false).contains("superuser"));
        assert!(!way_out("54000", false).contains("superuser"));
    }
}
