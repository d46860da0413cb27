//! How a command finds the cluster without being told each time.
//!
//! Values without a flag come from the first of these that exists:
//!
//! 1. the file of `--config` or `PGHC_CONFIG`: settings of a coordinator or an API node, or a client file;
//! 2. `parade.json` in the current directory;
//! 3. the client file `~/.config/pghc/config.toml`;
//! 4. `/etc/pghc/coordinator.toml` and `/etc/pghc/api.toml`, the processes of this machine;
//! 5. the only deployment that runs in a temporary directory.
//!
//! ```toml
//! context = "prod"                    # the one that is meant without --context
//! [contexts.prod]
//! cluster-id = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7"
//! coordinator = ["http://127.0.0.1:7101"]
//! api = ["http://127.0.0.1:8080"]
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use pghc_api::id::ClusterId;
use pghc_dev::record::{self, DeploymentRecord};
use pghc_runtime::program::url;
use toml::{Table, Value};

use super::coordinator::MemberArg;
use super::deployments::only_deployment;

/// Where the settings of this machine's processes are.
const ETC: &str = "/etc/pghc";

/// The client file, below the user's directory of settings.
const CLIENT_FILE: &str = "pghc/config.toml";

/// Flags of every command that asks a cluster.
#[derive(Debug, Args, Default)]
pub(super) struct Found {
    /// File that says which cluster is meant: settings of a coordinator or an API node, a client file, or
    /// parade.json [default: see pghc status --help]
    #[arg(long, env = "PGHC_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Context of the client file [default: the one that it names]
    #[arg(long, env = "PGHC_CONTEXT", value_name = "NAME", global = true)]
    context: Option<String>,
}

/// A cluster as commands reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cluster {
    /// Cluster id; `None` where only API nodes are named.
    pub(super) id: Option<ClusterId>,
    /// Base URLs of coordinators, in the order of the attempts.
    pub(super) coordinators: Vec<String>,
    /// Base URLs of API nodes.
    pub(super) nodes: Vec<String>,
    /// The deployment of this machine that it is.
    pub(super) deployment: Option<DeploymentRecord>,
}

/// Where is looked.
struct Places<'a> {
    here: &'a Path,
    client_file: Option<PathBuf>,
    etc: &'a Path,
}

impl Found {
    /// Values from the environment, for a command without these flags.
    pub(super) fn of_variables() -> Self {
        let said = |name| std::env::var_os(name).filter(|text| !text.is_empty());
        let context = said("PGHC_CONTEXT").map(|text| text.to_string_lossy().into_owned());
        Self { config: said("PGHC_CONFIG").map(PathBuf::from), context }
    }

    /// Whether a flag or a variable names the cluster.
    pub(super) fn is_named(&self) -> bool {
        self.config.is_some() || self.context.is_some()
    }

    /// The cluster that is meant.
    ///
    /// # Errors
    /// A sentence for people: none was found, or what was found cannot be used.
    pub(super) fn cluster(&self) -> Result<Cluster, String> {
        if let Some(found) = self.configured()? {
            return Ok(found);
        }
        only_deployment().map(Cluster::of_deployment).map_err(|why| {
            format!(
                "{why}; looked for --config, ./parade.json, ~/.config/pghc/config.toml and {ETC}/*.toml; \
                 say which cluster: PGHC_CONFIG=FILE, --config FILE, or see --help"
            )
        })
    }

    /// The cluster that a file names; `None` where there is no file.
    ///
    /// # Errors
    /// A sentence for people: a file that is named is missing, or a file cannot be used.
    pub(super) fn configured(&self) -> Result<Option<Cluster>, String> {
        let base = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
        let client_file = base.map(|base| base.join(CLIENT_FILE));
        let places = Places { here: Path::new("."), client_file, etc: Path::new(ETC) };
        self.look(&places)
    }

    fn look(&self, places: &Places<'_>) -> Result<Option<Cluster>, String> {
        let context = self.context.as_deref();
        if let Some(file) = &self.config {
            return read(file, context)?
                .map(Some)
                .ok_or_else(|| format!("there is no {}", file.display()));
        }
        if context.is_none()
            && let Some(found) = read(&places.here.join(record::FILE), None)?
        {
            return Ok(Some(found));
        }
        if let Some(file) = &places.client_file {
            match read(file, context)? {
                None if context.is_some() => return Err(format!("there is no {}", file.display())),
                None => {}
                found => return Ok(found),
            }
        }
        let files = ["coordinator.toml", "api.toml"].map(|name| places.etc.join(name));
        let mut found: Option<Cluster> = None;
        for file in &files {
            let Some(more) = read(file, None)? else { continue };
            found = Some(match found {
                None => more,
                Some(found) => Cluster { nodes: more.nodes, ..found },
            });
        }
        Ok(found)
    }
}

impl Cluster {
    /// A deployment of this machine.
    pub(super) fn of_deployment(record: DeploymentRecord) -> Self {
        Self {
            id: Some(record.cluster_id.clone()),
            coordinators: record.zones.iter().map(|zone| zone.coordinator.clone()).collect(),
            nodes: record.zones.iter().flat_map(|zone| zone.api.clone()).collect(),
            deployment: Some(record),
        }
    }

    /// Id and coordinators, where both are configured.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn reach(self) -> Result<(ClusterId, Vec<String>), String> {
        match self.id {
            Some(id) if !self.coordinators.is_empty() => Ok((id, self.coordinators)),
            _ => Err("no coordinator is named; say --cluster-id UUID --coordinator URL".to_owned()),
        }
    }
}

/// Content of a file; `None` when the file does not exist.
fn read(file: &Path, context: Option<&str>) -> Result<Option<Cluster>, String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
    };
    let said = if file.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(&text)
            .map(Cluster::of_deployment)
            .map_err(|error| format!("it is not the record of a deployment: {error}"))
    } else {
        // The parser quotes the line of a fault, which may hold a password.
        text.parse::<Table>()
            .map_err(|_| "it is not TOML".to_owned())
            .and_then(|it| of(&it, context))
    };
    said.map(Some).map_err(|why| format!("{}: {why}", file.display()))
}

fn of(table: &Table, context: Option<&str>) -> Result<Cluster, String> {
    let Some(contexts) = table.get("contexts") else {
        if let Some(context) = context {
            return Err(format!("it has no context {context}: it is no client file"));
        }
        return of_process(table);
    };
    let name = context.or_else(|| table.get("context")?.as_str());
    let known = contexts.as_table().map(|all| all.keys().cloned().collect::<Vec<_>>());
    let known = known.unwrap_or_default().join(", ");
    let Some(name) = name else {
        return Err(format!("it names no context; say --context NAME, one of {known}"));
    };
    let chosen = contexts.get(name).and_then(Value::as_table);
    of_process(chosen.ok_or_else(|| format!("it has no context {name}, only {known}"))?)
}

/// The cluster by the settings of one process. Keys that say nothing of it are left alone.
fn of_process(table: &Table) -> Result<Cluster, String> {
    let texts = |key: &str| -> Vec<String> {
        let value = table.get(key).or_else(|| table.get(&key.replace('-', "_")));
        match value {
            Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
            Some(Value::Array(items)) => {
                items.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        }
    };
    let urls = |key: &str| texts(key).iter().map(|text| url(text)).collect::<Result<Vec<_>, _>>();
    let is_node = table.contains_key("node");
    let own: Vec<String> = texts("listen").iter().map(|at| format!("http://{at}")).collect();
    let mut coordinators = if is_node { Vec::new() } else { own.clone() };
    coordinators.extend(urls("coordinator")?);
    for member in texts("member") {
        coordinators.push(member.parse::<MemberArg>()?.url);
    }
    let mut seen = std::collections::BTreeSet::new();
    coordinators.retain(|url| seen.insert(url.clone()));
    let mut nodes = if is_node { own } else { Vec::new() };
    nodes.extend(urls("api")?);
    let id = texts("cluster-id").first().map(|text| text.parse::<ClusterId>()).transpose();
    let id = id.map_err(|error| error.to_string())?;
    if coordinators.is_empty() && nodes.is_empty() {
        return Err("it names neither a coordinator nor an API node".to_owned());
    }
    Ok(Cluster { id, coordinators, nodes, deployment: None })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Cluster, Found, Places};

    const ID: &str = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7";

    fn found(dir: &Path, context: Option<&str>) -> Result<Option<Cluster>, String> {
        let found = Found { config: None, context: context.map(str::to_owned) };
        let client_file = Some(dir.join("client.toml"));
        found.look(&Places { here: dir, client_file, etc: &dir.join("etc") })
    }

    #[test]
    fn the_settings_of_this_machines_processes_name_the_cluster() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(found(dir.path(), None), Ok(None));
        std::fs::create_dir(dir.path().join("etc")).expect("made");
        for (name, example) in [
            ("coordinator.toml", include_str!("../../deploy/config/coordinator.toml")),
            ("api.toml", include_str!("../../deploy/config/api.toml")),
        ] {
            std::fs::write(dir.path().join("etc").join(name), example).expect("written");
        }
        let cluster = found(dir.path(), None).expect("usable").expect("there");
        assert_eq!(cluster.id.expect("named").to_string(), ID);
        assert_eq!(cluster.coordinators[0], "http://127.0.0.1:7101", "the own one is asked first");
        assert_eq!((cluster.coordinators.len(), cluster.nodes.len()), (4, 1));
        std::fs::remove_file(dir.path().join("etc/coordinator.toml")).expect("removed");
        let cluster = found(dir.path(), None).expect("usable").expect("there");
        assert_eq!(
            (cluster.coordinators.len(), cluster.nodes.len()),
            (3, 1),
            "the API node's words"
        );
    }

    #[test]
    fn a_client_file_names_clusters_by_context() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = format!(
            "context = 'a'\n[contexts.a]\ncluster-id = '{ID}'\ncoordinator = 'http://a:1'\n\
             [contexts.b]\napi = ['http://b:1/']\n"
        );
        std::fs::write(dir.path().join("client.toml"), text).expect("written");
        let of = |context| found(dir.path(), context).map(|found| found.expect("there"));
        assert_eq!(of(None).expect("a").coordinators, ["http://a:1"]);
        assert_eq!(of(Some("b")).expect("b").nodes, ["http://b:1"]);
        assert!(of(Some("b")).expect("b").reach().is_err(), "it names API nodes only");
        assert!(of(Some("c")).expect_err("none").contains("no context c, only a, b"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_without_its_text() {
        let dir = tempfile::tempdir().expect("a directory");
        for text in ["database = 'postgres://a:secret@b/c", "database = 'secret'"] {
            std::fs::write(dir.path().join("client.toml"), text).expect("written");
            let why = found(dir.path(), None).expect_err(text);
            assert!(why.contains("client.toml: it ") && !why.contains("secret"), "{why}");
        }
    }
}
