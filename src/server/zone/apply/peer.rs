//! Another zone's API node, as this zone reads the chain from it: pages and single links over HTTP.
//!
//! The caller recomputes every link: a peer is not trusted. Answers, waits and retries are bounded.

use std::time::Duration;

use pghc_api::chain::Digest;
use pghc_api::error::Problem;
use pghc_api::limits::PAGE_LINKS_MAX;
use pghc_api::wire::{LinkBody, Page, Status};
use pghc_runtime::http_client::{Bounds, Failure, HttpClient};
use pghc_runtime::telemetry::describe;

/// Limits of an answer. Zones reach each other directly, over distances of continents.
const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(2),
    silence: Duration::from_secs(8),
    whole: Duration::from_secs(300),
    answer_bytes: ANSWER_BYTES_MAX,
};

/// How long a zone may take to have a link that it is asked for, in seconds; with a long round trip
/// still less than the silence that is borne.
const DIGEST_WAIT_S: u64 = 4;

/// Largest answer taken; a page that is larger is asked for again in smaller pieces.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A node of another zone.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    client: HttpClient,
    /// Its base URL, without a slash at the end.
    url: String,
}

/// Why a peer gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// It does not answer, or not as an API node does.
    #[error("{0}")]
    Unusable(String),
    /// The answer was over the limit.
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
}

/// The client that all peers share.
pub(crate) fn client() -> HttpClient {
    HttpClient::new(BOUNDS)
}

impl Peer {
    pub(crate) fn new(client: HttpClient, url: &str) -> Self {
        Self { client, url: url.trim_end_matches('/').to_owned() }
    }

    /// Links above `after`, ascending; none at its frontier.
    pub(crate) async fn page(&self, after: u64) -> Result<Vec<LinkBody>, PeerError> {
        let mut limit = PAGE_LINKS_MAX;
        loop {
            let path = format!("/v1/chain?after={after}&limit={limit}");
            match self.get(&path).await {
                Ok(body) => {
                    let page: Page = serde_json::from_slice(&body).map_err(|error| {
                        PeerError::Unusable(format!("GET {path} is no page of links: {error}"))
                    })?;
                    return Ok(page.links);
                }
                Err(PeerError::TooLarge) if limit > 1 => limit = (limit / 8).max(1),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the digest of the peer's link `id`, and waits for it while the peer is behind: under load
    /// every zone lags, so repeated requests for the newest link without a wait would all fail.
    pub(crate) async fn digest(&self, id: u64) -> Result<Digest, PeerError> {
        let path = format!("/v1/chain/{id}?at_least={id}&timeout={DIGEST_WAIT_S}s");
        let link: LinkBody = serde_json::from_slice(&self.get(&path).await?)
            .map_err(|error| PeerError::Unusable(format!("GET {path} is no link: {error}")))?;
        if link.id == id {
            return Ok(link.digest);
        }
        Err(PeerError::Unusable(format!("GET {path} answers link {}", link.id)))
    }

    /// Cluster and zone of the node that answers at this URL, in its own words.
    pub(crate) async fn identity(&self) -> Result<(String, String), PeerError> {
        let path = "/v1/status";
        let status: Status = serde_json::from_slice(&self.get(path).await?)
            .map_err(|error| PeerError::Unusable(format!("GET {path} is no status: {error}")))?;
        Ok((status.cluster_id, status.zone))
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, PeerError> {
        let request = self.client.get(&format!("{}{path}", self.url));
        let answer = self.client.send(request).await.map_err(|failure| match failure {
            Failure::TooLarge(_) => PeerError::TooLarge,
            other => PeerError::Unusable(describe(&other)),
        })?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let detail = serde_json::from_slice(&answer.body).map(|problem: Problem| problem.detail);
        let (status, detail) = (answer.status, detail.unwrap_or_default());
        Err(PeerError::Unusable(format!("GET {path} is answered {status}: {detail}")))
    }
}
