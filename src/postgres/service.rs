//! `service=NAME`: options that stand in a `pg_service.conf`, found where PostgreSQL's own clients
//! find it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::options::{BadDsn, check_service};
use super::secret::{Surroundings, read};

/// Where packages have the file of the whole machine.
const USUAL_PLACES: &[&str] = &[
    "/etc/postgresql-common/pg_service.conf",
    "/etc/pg_service.conf",
    "/etc/sysconfig/pgsql/pg_service.conf",
];

/// The options of service `name`: of the file that is named, by `servicefile=` or PGSERVICEFILE,
/// else of the first of the usual files that has it.
pub(super) fn find(
    name: &str,
    file: Option<&str>,
    surroundings: &Surroundings,
) -> Result<BTreeMap<String, String>, BadDsn> {
    let named = file.map(PathBuf::from).or_else(|| surroundings.path("PGSERVICEFILE"));
    let files: Vec<PathBuf> = if let Some(path) = named {
        let text = read(&path).map_err(|why| BadDsn(format!("service: {why}")))?.text;
        return match section(&text, name, &path)? {
            Some(options) => Ok(options),
            None => Err(BadDsn(format!("service: {} has no such service", path.display()))),
        };
    } else {
        let home = surroundings.at_home(".pg_service.conf");
        let system = surroundings.path("PGSYSCONFDIR").map(|at| at.join("pg_service.conf"));
        home.into_iter().chain(system).chain(USUAL_PLACES.iter().map(PathBuf::from)).collect()
    };
    for path in files.iter().filter(|path| path.exists()) {
        let text = read(path).map_err(|why| BadDsn(format!("service: {why}")))?.text;
        if let Some(options) = section(&text, name, path)? {
            return Ok(options);
        }
    }
    Err(BadDsn(
        "service: no pg_service.conf has it; name the file with PGSERVICEFILE, or write host, port, \
         dbname and user into the connection string"
            .to_owned(),
    ))
}

/// The options below `[name]`.
fn section(
    text: &str,
    name: &str,
    path: &Path,
) -> Result<Option<BTreeMap<String, String>>, BadDsn> {
    let at = |line: usize, why: &str| BadDsn(format!("{} line {line}: {why}", path.display()));
    let (mut found, mut is_inside) = (None, false);
    for (place, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            is_inside = title == name;
            found = is_inside.then(Vec::new);
            continue;
        }
        if !is_inside {
            continue;
        }
        if line.starts_with("ldap") {
            return Err(at(place + 1, "ldap is not supported; write the options themselves"));
        }
        let (key, value) =
            line.split_once('=').ok_or_else(|| at(place + 1, "want option=value"))?;
        found.get_or_insert_default().push((key.trim().to_owned(), value.trim().to_owned()));
    }
    let Some(pairs) = found else { return Ok(None) };
    match check_service(pairs) {
        Ok(options) => Ok(Some(options)),
        Err(BadDsn(why)) => Err(BadDsn(format!("{}: {why}", path.display()))),
    }
}
