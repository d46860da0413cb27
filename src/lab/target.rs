//! What a run is aimed at: the zones of a parade and where their API nodes are.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use pghc_api::wire;
use serde::Deserialize;

use super::client::{Connection, get};

/// Where an API node listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddr,
    /// The `Host` header: what the URL said.
    pub host: String,
}

/// One zone of a parade, as a client sees it.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Connection string of its database.
    pub dsn: String,
    /// Its API nodes, at least one.
    pub nodes: Vec<Endpoint>,
}

/// A parade, as a client sees it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its zones, at least one.
    pub zones: Vec<Zone>,
}

/// The part of `parade.json` a client needs.
#[derive(Debug, Deserialize)]
struct Record {
    zones: Vec<RecordZone>,
}

#[derive(Debug, Deserialize)]
struct RecordZone {
    name: String,
    dsn: String,
    api: Vec<String>,
}

impl Target {
    /// Reads where a running parade is: `path` is its `parade.json` or the directory that holds it.
    ///
    /// # Errors
    /// When the file cannot be read or names no zone with an API node.
    pub async fn read(path: &Path) -> anyhow::Result<Self> {
        let file = if path.is_dir() { path.join("parade.json") } else { PathBuf::from(path) };
        let text = tokio::fs::read_to_string(&file).await.with_context(|| {
            format!("cannot read {}; is a parade running there?", file.display())
        })?;
        Self::parse(&text).await.with_context(|| format!("{} is no parade", file.display()))
    }

    /// Reads the text of a `parade.json`.
    ///
    /// # Errors
    /// When it is no such text or names no zone with an API node.
    pub async fn parse(text: &str) -> anyhow::Result<Self> {
        let record: Record = serde_json::from_str(text)?;
        let mut zones = Vec::with_capacity(record.zones.len());
        for zone in record.zones {
            if zone.api.is_empty() {
                bail!("zone {} has no API node", zone.name);
            }
            let mut nodes = Vec::with_capacity(zone.api.len());
            for url in &zone.api {
                nodes.push(Endpoint::resolve(url).await?);
            }
            zones.push(Zone { name: zone.name, dsn: zone.dsn, nodes });
        }
        if zones.is_empty() {
            bail!("it names no zone");
        }
        Ok(Self { zones })
    }

    /// What the first node that answers says of the cluster.
    ///
    /// # Errors
    /// When no node answers with a status.
    pub async fn status(&self) -> anyhow::Result<wire::Status> {
        let mut newest = anyhow::anyhow!("there are no nodes to ask");
        for node in self.zones.iter().flat_map(|zone| &zone.nodes) {
            match node.fetch("/v1/status").await {
                Ok(body) => return serde_json::from_slice(&body).context("status is not ours"),
                Err(error) => newest = error,
            }
        }
        Err(newest.context("no API node tells the cluster's status"))
    }
}

impl Endpoint {
    /// Finds the address behind `http://host:port`.
    ///
    /// # Errors
    /// When it is another kind of URL or its host is not known.
    pub async fn resolve(url: &str) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("{url} is not an http:// URL");
        };
        let host = rest.trim_end_matches('/').to_owned();
        let found = tokio::net::lookup_host(&host)
            .await
            .with_context(|| format!("{url} does not name a host and a port"))?
            .next();
        let address = found.with_context(|| format!("{url} leads nowhere"))?;
        Ok(Self { address, host })
    }

    /// Gets `path` and answers its body, within [`FETCH_MAX`].
    ///
    /// # Errors
    /// When there is no answer or its status is not 200.
    pub async fn fetch(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let fetching = async {
            let mut connection = Connection::open(self.address).await?;
            let answer = connection.exchange(&get(&self.host, path)).await?;
            if answer.status != 200 {
                bail!("it answered {}: {}", answer.status, String::from_utf8_lossy(answer.body));
            }
            Ok(answer.body.to_vec())
        };
        let fetched = tokio::time::timeout(FETCH_MAX, fetching).await;
        fetched
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {FETCH_MAX:?}")))
            .with_context(|| format!("failed to get {path} from http://{}", self.host))
    }
}

/// Longest wait for the answer to a read.
pub const FETCH_MAX: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::Target;

    #[tokio::test]
    async fn a_parade_is_read_from_its_record() {
        let text = r#"{"cluster_id": "x", "zones": [{"name": "eu", "dsn": "postgres://d",
            "api": ["http://127.0.0.1:25001", "http://127.0.0.1:25002/"],
            "coordinator": "http://127.0.0.1:25003", "pids": {}}]}"#;
        let target = Target::parse(text).await.expect("a good record");
        assert_eq!(target.zones[0].nodes[1].host, "127.0.0.1:25002");
        assert_eq!(target.zones[0].nodes[1].address, ([127, 0, 0, 1], 25002).into());
    }

    #[tokio::test]
    async fn a_record_without_a_node_to_talk_to_is_refused() {
        for (text, says) in [
            (r#"{"zones": []}"#, "no zone"),
            (r#"{"zones": [{"name": "eu", "dsn": "", "api": []}]}"#, "no API node"),
            (r#"{"zones": [{"name": "eu", "dsn": "", "api": ["ftp://x"]}]}"#, "http://"),
            (r#"{"zones": [{"name": "eu", "dsn": "", "api": ["http://x"]}]}"#, "port"),
        ] {
            let error = Target::parse(text).await.expect_err(text);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
