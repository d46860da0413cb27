//! Checks a database before its zone applies anything to it.
//!
//! All findings are reported together. Nothing here writes.

use std::collections::BTreeSet;

use pghc_api::id::{ClusterId, ZoneName};
use tokio_postgres::{Client, GenericClient, Row};

use super::column::get;
use super::connect::{Dsn, Role};
pub use super::finding::Finding;
use pghc_runtime::mutation::{self, Mutant};
use pghc_runtime::task::Tasks;

use super::migrate_error::MigrateError;

/// Oldest PostgreSQL that will do, as `server_version_num`.
const VERSION_MIN: i32 = 140_000;

/// Whose all of it must be.
const OWNER: &str = "pghc_owner";

/// The expected answer of `sql/queries/schema.sql`.
const SCHEMA: &str = include_str!("../../sql/schema.txt");

/// The first words about a server.
pub(super) struct Server {
    pub(super) findings: Vec<Finding>,
    pub(super) is_replica: bool,
    pub(super) has_history: bool,
}

/// Looks at the server, before anything of ours is in it.
pub(super) async fn server(client: &Client) -> Result<Server, tokio_postgres::Error> {
    let row = client.query_one(include_str!("../../sql/queries/server.sql"), &[]).await?;
    Ok(Server { findings: server_findings(&row), is_replica: row.get(1), has_history: row.get(6) })
}

fn server_findings(row: &Row) -> Vec<Finding> {
    let version: i32 = row.get(0);
    let encoding: String = row.get(4);
    let mut findings = Vec::new();
    if version < VERSION_MIN {
        findings.push(Finding::TooOld(version));
    }
    if !row.get::<_, bool>(2) {
        findings.push(Finding::Unsafe("fsync"));
    }
    if !row.get::<_, bool>(3) {
        findings.push(Finding::Unsafe("full_page_writes"));
    }
    if encoding != "UTF8" {
        findings.push(Finding::Encoding(encoding));
    }
    if !row.get::<_, bool>(5) {
        findings.push(Finding::NoChecksums);
    }
    findings
}

/// Compares the schema with the one that the migrations make.
pub(super) async fn schema(client: &Client) -> Result<Vec<Finding>, tokio_postgres::Error> {
    if mutation::is_active(Mutant::NoEpoch) {
        return Ok(Vec::new());
    }
    let rows = client.query(include_str!("../../sql/queries/schema.sql"), &[]).await?;
    let is = lines(&rows);
    let mut findings = compare(&is);
    let settings = client.query(include_str!("../../sql/queries/settings.sql"), &[]).await?;
    findings.extend(lines(&settings).into_iter().map(Finding::Setting));
    if !findings.iter().any(Finding::is_fatal) {
        return Ok(findings);
    }
    let roles = client.query(include_str!("../../sql/queries/missing_roles.sql"), &[]).await?;
    let roles: Vec<String> = roles.iter().filter_map(|row| row.try_get(0).ok()).collect();
    Ok(cause(&is, &roles).unwrap_or(findings))
}

fn lines(rows: &[Row]) -> BTreeSet<String> {
    let line = |row: &Row| row.try_get(0).unwrap_or_else(|_| "a line that is null".to_owned());
    rows.iter().map(line).collect()
}

/// Every line of what `sql/queries/schema.sql` answered that is missing or not ours.
pub(super) fn compare_rows(rows: &[Row]) -> Vec<Finding> {
    if mutation::is_active(Mutant::NoEpoch) { Vec::new() } else { compare(&lines(rows)) }
}

/// Every line that is missing or not ours.
fn compare(is: &BTreeSet<String>) -> Vec<Finding> {
    let due: BTreeSet<String> = SCHEMA.lines().map(str::to_owned).collect();
    let missing = due.difference(is).cloned().map(Finding::Missing);
    let foreign = is.difference(&due).cloned().map(Finding::Foreign);
    missing.chain(foreign).collect()
}

/// The one cause of all differences, if it is one: roles, owner or grants that a restore left out.
fn cause(is: &BTreeSet<String>, missing_roles: &[String]) -> Option<Vec<Finding>> {
    let mut owner = None;
    let mut owned = BTreeSet::new();
    for line in is {
        let has_owner =
            ["table ", "function ", "schema "].iter().any(|kind| line.starts_with(kind));
        let parts = line.split_once(" of ").filter(|_| has_owner);
        let Some((thing, rest)) = parts else {
            owned.insert(line.clone());
            continue;
        };
        let (of, rest) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
        owner = owner.or((of != OWNER).then(|| of.to_owned()));
        owned.insert(format!("{thing} of {OWNER}{rest}"));
    }
    let is_grant = |finding: &Finding| match finding {
        Finding::Missing(line) | Finding::Foreign(line) => line.starts_with("grant "),
        _ => false,
    };
    let others = compare(&owned);
    let has_grants =
        owned.iter().any(|line| line.starts_with("grant ") && line.contains(" to pghc_"));
    if !others.iter().all(is_grant) {
        return None;
    }
    if !missing_roles.is_empty() {
        return Some(vec![Finding::NoRoles(missing_roles.to_vec())]);
    }
    match owner {
        Some(owner) => Some(vec![Finding::Owner(owner)]),
        None if !has_grants => Some(vec![Finding::NoGrants]),
        None => None,
    }
}

/// Refuses a database that belongs to another cluster or zone. `Ok(false)`: it belongs to none.
pub(super) async fn owner(
    client: &impl GenericClient,
    cluster: &ClusterId,
    zone: &ZoneName,
) -> Result<bool, MigrateError> {
    let rows = client.query(include_str!("../../sql/queries/owner.sql"), &[]).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let found_cluster: String = get(row, 0, "pghc.cluster.cluster_id")?;
    let found_zone: String = get(row, 1, "pghc.cluster.zone")?;
    if found_cluster == cluster.as_str() && found_zone == zone.as_str() {
        return Ok(true);
    }
    Err(MigrateError::Foreign {
        cluster: cluster.to_string(),
        zone: zone.to_string(),
        found_cluster,
        found_zone,
    })
}

/// Looks whether a migrated database is fit to be applied to by this cluster's zone. Answers the
/// findings that are not fatal.
///
/// # Errors
/// [`MigrateError::Unfit`] lists everything that is wrong; the others as they say.
pub async fn preflight(
    dsn: &Dsn,
    cluster: &ClusterId,
    zone: &ZoneName,
    tasks: &Tasks,
) -> Result<Vec<Finding>, MigrateError> {
    let client = dsn.connect(Role::Login, "preflight", tasks).await?;
    let server = server(&client).await?;
    if server.is_replica {
        return Err(MigrateError::Replica);
    }
    let mut findings = server.findings;
    if server.has_history {
        owner(&client, cluster, zone).await?;
    }
    findings.extend(schema(&client).await?);
    sort(findings)
}

/// Separates what is fatal from what is not.
pub(super) fn sort(findings: Vec<Finding>) -> Result<Vec<Finding>, MigrateError> {
    if findings.iter().any(Finding::is_fatal) {
        return Err(MigrateError::Unfit(findings));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Finding, SCHEMA, cause, compare};

    fn schema(change: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
        SCHEMA.lines().filter_map(change).collect()
    }

    #[test]
    fn a_restore_without_roles_is_one_finding() {
        let no_grants = |line: &str| (!line.starts_with("grant ")).then(|| line.to_owned());
        let of_me =
            |line: &str| no_grants(line).map(|line| line.replace(" of pghc_owner", " of me"));
        let roles = ["pghc_owner".to_owned()];
        let found = |is: &BTreeSet<String>, roles: &[String]| cause(is, roles);
        assert_eq!(found(&schema(of_me), &[]), Some(vec![Finding::Owner("me".to_owned())]));
        assert_eq!(found(&schema(no_grants), &[]), Some(vec![Finding::NoGrants]));
        let no_roles = Some(vec![Finding::NoRoles(roles.to_vec())]);
        assert_eq!(found(&schema(of_me), &roles), no_roles);
        let no_column = |line: &str| of_me(line).filter(|line| !line.contains("chain.payload"));
        assert_eq!(found(&schema(no_column), &roles), None, "there is more than one cause");
        let few = |line: &str| (!line.contains("to pghc_reader")).then(|| line.to_owned());
        assert_eq!(found(&schema(few), &[]), None, "some grants are there");
        assert!(compare(&schema(|line| Some(line.to_owned()))).is_empty());
    }
}
