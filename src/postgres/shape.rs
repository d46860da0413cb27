//! Whether the relations that hold a chain are still the tables that the migrations made.
//!
//! A verifier that reads by id sees what its own session is shown. Row-level security, a view in a
//! table's place, another column type or a row without an id make readers see something else, so
//! they are findings of their own. The decision is pure; the query reads the catalogue only.

use tokio_postgres::Row;

use super::raw::RawChain;
use super::read::ReadError;

/// Columns that each relation must have; more are borne.
const COLUMNS: &[(&str, &[&str])] = &[
    (
        "pghc.chain",
        &[
            "id bigint",
            "node_id text",
            "hash character(32)",
            "digest bytea",
            "written_at timestamp with time zone",
            "payload json",
        ],
    ),
    (
        "pghc.frontier",
        &[
            "applied_id bigint",
            "hash character(32)",
            "digest bytea",
            "written_at timestamp with time zone",
        ],
    ),
    ("pghc.cluster", &["cluster_id uuid", "zone text"]),
];

/// The view of the original interface, as each version of PostgreSQL prints it without quotes, line
/// breaks and the table's name before its columns.
const VIEW: &str = "SELECT id AS zk_id, hash, node_id FROM pghc.chain;";

/// One relation, as the catalogue describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Schema and name.
    pub name: String,
    /// `pg_class.relkind`: `r` for a table, `v` for a view.
    pub kind: String,
    /// Whether row-level security is on.
    pub has_row_security: bool,
    /// Name and type of each column.
    pub columns: Vec<String>,
    /// Whether a valid unique index on `id` alone forbids two rows under one id, and null.
    pub has_unique_id: bool,
    /// The query of a view.
    pub view: Option<String>,
    /// Whether other tables inherit from it, whose rows a reader then sees among its own.
    pub has_children: bool,
}

/// A difference from the migrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// The kind that the migrations make.
    pub expected: String,
    /// The kind that is there.
    pub found: String,
    /// Whether rows can still be read by id as a reader reads them, so that a check of the links says
    /// more than this finding does.
    pub is_readable: bool,
}

impl RawChain {
    /// The catalogue's account of the chain's relations.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn shape(&self) -> Result<Vec<Relation>, ReadError> {
        let sql = include_str!("../../sql/queries/raw_shape.sql");
        let rows = self.client.query(sql, &[]).await.map_err(ReadError::sort)?;
        rows.iter().map(|row| relation(row).map_err(ReadError::sort)).collect()
    }

    /// Rows of the chain that have no id, at most 1000.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn rows_without_id(&self) -> Result<u64, ReadError> {
        let sql = include_str!("../../sql/queries/raw_nulls.sql");
        let row = self.client.query_one(sql, &[]).await.map_err(ReadError::sort)?;
        let count: i64 = row.try_get(0).map_err(ReadError::sort)?;
        Ok(count.unsigned_abs())
    }
}

fn relation(row: &Row) -> Result<Relation, tokio_postgres::Error> {
    Ok(Relation {
        name: row.try_get(0)?,
        kind: row.try_get(1)?,
        has_row_security: row.try_get(2)?,
        columns: row.try_get(3)?,
        has_unique_id: row.try_get(4)?,
        view: row.try_get(5)?,
        has_children: row.try_get(6)?,
    })
}

/// Returns the differences of `relations` from the migrations, the worst first. A relation of `pghc` that
/// is not there at all is no finding of this: the reading of it says so.
#[must_use]
pub fn altered(relations: &[Relation]) -> Vec<Altered> {
    let ours = relations.iter().filter(|relation| relation.name.starts_with("pghc."));
    let mut found: Vec<Altered> = ours.flat_map(altered_table).collect();
    found.extend(relations.iter().find(|r| r.name == "public.chain").and_then(altered_view));
    found.sort_by_key(|altered| altered.is_readable);
    found
}

fn altered_table(relation: &Relation) -> Vec<Altered> {
    let Relation { name, kind, columns, .. } = relation;
    if kind != "r" {
        let found = match kind.as_str() {
            "v" | "m" => format!("{name} is a view: readers are shown what its query makes up"),
            _ => format!("{name} is a relation of kind {kind}"),
        };
        let expected = format!("{name} to be a table");
        return vec![Altered { expected, found, is_readable: false }];
    }
    let mut altered = Vec::new();
    if relation.has_row_security {
        altered.push(Altered {
            expected: format!("no row-level security on {name}"),
            found: format!(
                "it is on: readers may be shown other rows than a check reads; as the \
                owner, alter table {name} disable row level security"
            ),
            is_readable: false,
        });
    }
    let wanted = COLUMNS.iter().find(|(table, _)| table == name).map_or(&[][..], |(_, all)| all);
    for column in wanted {
        if columns.iter().any(|there| there == column) {
            continue;
        }
        let called = column.split(' ').next().unwrap_or_default();
        let there = columns.iter().find(|there| there.split(' ').next() == Some(called));
        altered.push(Altered {
            expected: format!("column {name}.{column}"),
            found: there.map_or("no such column".to_owned(), Clone::clone),
            is_readable: false,
        });
    }
    if relation.has_children {
        altered.push(Altered {
            expected: format!("no table that inherits from {name}"),
            found: "one whose rows are read among the chain's own".to_owned(),
            is_readable: true,
        });
    }
    if name == "pghc.chain" && !relation.has_unique_id {
        altered.push(Altered {
            expected: format!("a primary key on {name} (id)"),
            found: "none: two rows may have one id, or a row none".to_owned(),
            is_readable: true,
        });
    }
    altered
}

/// The view of the original interface. A database without it, or with an application's own table of
/// that name, has lost that interface and nothing else.
fn altered_view(relation: &Relation) -> Option<Altered> {
    let is_ours = relation.columns.iter().any(|column| column.starts_with("zk_id "));
    let query = relation.view.as_deref().map(plain);
    (is_ours && query.as_deref() != Some(VIEW)).then(|| Altered {
        expected: "the view public.chain to show pghc.chain as it is".to_owned(),
        found: query.unwrap_or_else(|| "a relation with rows of its own".to_owned()),
        is_readable: true,
    })
}

/// A query as [`VIEW`] writes it.
fn plain(query: &str) -> String {
    let words: Vec<&str> = query.split_whitespace().collect();
    words.join(" ").replace('"', "").replace(" chain.", " ")
}

#[cfg(test)]
mod tests {
    use super::{Altered, COLUMNS, Relation, altered};

    fn relations() -> Vec<Relation> {
        let mut all: Vec<Relation> = COLUMNS
            .iter()
            .map(|(name, columns)| Relation {
                name: (*name).to_owned(),
                kind: "r".to_owned(),
                has_row_security: false,
                columns: columns.iter().map(|column| (*column).to_owned()).collect(),
                has_unique_id: *name == "pghc.chain",
                view: None,
                has_children: false,
            })
            .collect();
        let query =
            " SELECT chain.id AS zk_id,\n    chain.hash,\n    chain.node_id\n   FROM pghc.chain;";
        all.push(Relation {
            name: "public.chain".to_owned(),
            kind: "v".to_owned(),
            columns: ["zk_id bigint", "hash character(32)", "node_id text"]
                .map(String::from)
                .into(),
            has_unique_id: false,
            view: Some(query.to_owned()),
            ..all[0].clone()
        });
        all
    }

    fn first(change: impl FnOnce(&mut [Relation])) -> Option<Altered> {
        let mut all = relations();
        change(&mut all);
        altered(&all).into_iter().next()
    }

    #[test]
    fn the_tables_of_the_migrations_are_no_finding() {
        assert_eq!(first(|_| {}), None);
        let newer = " SELECT id AS zk_id,\n    hash,\n    node_id\n   FROM pghc.chain;";
        assert_eq!(first(|all| all[3].view = Some(newer.to_owned())), None);
        let quoted = newer.replace("zk_id", "\"zk_id\"").replace("FROM pghc", "FROM \"pghc\"");
        assert_eq!(first(|all| all[3].view = Some(quoted)), None);
        assert_eq!(first(|all| all[0].columns.push("tenant text".to_owned())), None);
        assert_eq!(first(|all| all[3].columns = vec!["mine integer".to_owned()]), None);
    }

    #[test]
    fn each_change_of_a_relation_is_said_in_words() {
        let is = |altered: Option<Altered>, words: &str, is_readable: bool| {
            let altered = altered.unwrap_or_else(|| panic!("nothing was found for {words:?}"));
            let text = format!("{}, {}", altered.expected, altered.found);
            assert!(text.contains(words), "{text}");
            assert_eq!(altered.is_readable, is_readable, "{text}");
        };
        is(first(|all| all[0].kind = "v".to_owned()), "pghc.chain is a view", false);
        is(
            first(|all| all[0].has_row_security = true),
            "no row-level security on pghc.chain",
            false,
        );
        is(
            first(|all| all[2].columns[1] = "zone bytea".to_owned()),
            "zone text, zone bytea",
            false,
        );
        is(first(|all| drop(all[1].columns.remove(2))), "digest bytea, no such column", false);
        is(first(|all| all[0].has_children = true), "inherits from pghc.chain", true);
        is(first(|all| all[0].has_unique_id = false), "a primary key on pghc.chain", true);
        let forged = "SELECT 1 AS zk_id, hash, node_id FROM pghc.chain;";
        is(first(|all| all[3].view = Some(forged.to_owned())), "SELECT 1 AS zk_id", true);
        is(first(|all| all[3].view = None), "a relation with rows of its own", true);
    }
}
