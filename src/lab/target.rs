//! Target of a run: the zones of a deployment and the addresses of their API nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pghc_api::wire;
use pghc_dev::record::DeploymentRecord;

use super::client::{Connection, get};

/// Longest wait for the answer to a read.
pub const FETCH_MAX: Duration = Duration::from_secs(10);

/// Where an API node listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddr,
    /// The `Host` header: what the URL said.
    pub host: String,
}

/// One zone of a deployment, as a client sees it.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Where its chain is read: connection string of its database, else URL of an API node.
    pub dsn: String,
    /// Its API nodes, at least one.
    pub nodes: Vec<Endpoint>,
}

/// A deployment, as a client sees it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its zones, at least one.
    pub zones: Vec<Zone>,
}

impl Target {
    /// Reads where a running deployment is: `path` is its `parade.json` or the directory that holds it.
    ///
    /// # Errors
    /// When the file cannot be read or names no zone with an API node.
    pub async fn read(path: &Path) -> anyhow::Result<Self> {
        let damaged = || format!("{} is not the record of a deployment", path.display());
        Self::of(&DeploymentRecord::find(path)?).await.with_context(damaged)
    }

    /// The deployment of a record.
    ///
    /// # Errors
    /// When it names no zone with an API node.
    pub async fn of(deployment: &DeploymentRecord) -> anyhow::Result<Self> {
        let mut zones = Vec::with_capacity(deployment.zones.len());
        for zone in &deployment.zones {
            ensure!(!zone.api.is_empty(), "zone {} has no API node", zone.name);
            let mut nodes = Vec::with_capacity(zone.api.len());
            for url in &zone.api {
                nodes.push(Endpoint::resolve(url).await?);
            }
            zones.push(Zone { name: zone.name.to_string(), dsn: zone.dsn.clone(), nodes });
        }
        ensure!(!zones.is_empty(), "the record names no zone");
        Ok(Self { zones })
    }

    /// A deployment known by the URLs of its API nodes: zone and URL, a zone once for each node.
    /// `chain-verify` reads it through the first node of each zone.
    ///
    /// # Errors
    /// When a URL leads nowhere.
    pub async fn of_urls(nodes: &[(String, String)]) -> anyhow::Result<Self> {
        let mut zones: Vec<Zone> = Vec::new();
        for (name, url) in nodes {
            let node = Endpoint::resolve(url).await?;
            match zones.iter_mut().find(|zone| zone.name == *name) {
                Some(zone) => zone.nodes.push(node),
                None => {
                    let (name, dsn) = (name.clone(), url.clone());
                    zones.push(Zone { name, dsn, nodes: vec![node] });
                }
            }
        }
        ensure!(!zones.is_empty(), "no zone is named");
        Ok(Self { zones })
    }

    /// Cluster status from the first node that answers.
    ///
    /// # Errors
    /// When no node answers with a status.
    pub async fn status(&self) -> anyhow::Result<wire::Status> {
        let mut newest = anyhow::anyhow!("the target has no API nodes");
        for node in self.zones.iter().flat_map(|zone| &zone.nodes) {
            match node.fetch("/v1/status").await {
                Ok(body) => {
                    return serde_json::from_slice(&body).context("the status is not one of pghc");
                }
                Err(error) => newest = error,
            }
        }
        Err(newest.context("no API node reports the cluster's status"))
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
        let address = found.with_context(|| format!("{url} has no address"))?;
        Ok(Self { address, host })
    }

    /// Gets `path` and answers its body, within [`FETCH_MAX`].
    ///
    /// # Errors
    /// When there is no answer or its status is not 200.
    pub async fn fetch(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let fetching = async {
            let mut connection = Connection::to(self.address);
            let answer = connection.exchange(&get(&self.host, path)).await?;
            if answer.status != 200 {
                bail!("status {}: {}", answer.status, String::from_utf8_lossy(answer.body));
            }
            Ok(answer.body.to_vec())
        };
        let fetched = tokio::time::timeout(FETCH_MAX, fetching).await;
        fetched
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {FETCH_MAX:?}")))
            .with_context(|| format!("failed to get {path} from http://{}", self.host))
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    async fn check(zones: &str) -> anyhow::Result<Target> {
        let cluster = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7";
        let text = format!(r#"{{"cluster_id": "{cluster}", "zones": [{zones}]}}"#);
        Target::of(&serde_json::from_str(&text)?).await
    }

    fn zone(api: &str) -> String {
        let pids = r#"{"postgres": 1, "coordinator": 2, "api": []}"#;
        format!(r#"{{"name": "eu", "dsn": "", "api": [{api}], "coordinator": "", "pids": {pids}}}"#)
    }

    #[tokio::test]
    async fn a_target_is_read_from_the_record_of_a_deployment() {
        let text = zone(r#""http://127.0.0.1:25001", "http://127.0.0.1:25002/""#);
        let target = check(&text).await.expect("a good record");
        assert_eq!(target.zones[0].nodes[1].host, "127.0.0.1:25002");
        assert_eq!(target.zones[0].nodes[1].address, ([127, 0, 0, 1], 25002).into());
    }

    #[tokio::test]
    async fn a_record_without_a_node_to_talk_to_is_refused() {
        for (zones, says) in [
            (String::new(), "no zone"),
            (zone(""), "no API node"),
            (zone(r#""ftp://x""#), "http://"),
            (zone(r#""http://x""#), "port"),
        ] {
            let error = check(&zones).await.expect_err(&zones);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
