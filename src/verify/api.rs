//! A zone's API node as a source: pages of `GET /v1/chain`.
//!
//! Links never change once served, so the range needs no snapshot; it is bounded by the frontier
//! of the node's own status. Answers and retries are bounded.

use std::time::Duration;

use pghc_api::error::{ErrorCode, Problem};
use pghc_api::limits::PAGE_LINKS_MAX;
use pghc_api::wire::Status;
use pghc_runtime::http_client::{self, Bounds, HttpClient};
use pghc_runtime::telemetry::describe;
use serde::Deserialize;

use super::reading::{ID_MAX, ReadError, Sink, Standing};
use super::record::{RECORD_BYTES_MAX, Record};

/// Requested size of a page; an answer over the limit of [`BOUNDS`] is refused.
const PAGE_BYTES: usize = 4 << 20;

/// Times a request is sent before the zone counts as unreadable, and the pause between them.
const ATTEMPTS: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(250);

const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(10),
    silence: Duration::from_secs(30),
    whole: Duration::from_secs(60),
    answer_bytes: 64 << 20,
};

/// An API node that answered its status.
#[derive(Debug)]
pub(crate) struct Api {
    client: HttpClient,
    base: String,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    links: Vec<Record<'a>>,
    frontier: u64,
}

/// Failure of a request.
enum Failure {
    /// Worth another attempt.
    Passing(String),
    /// The answer was over the limit.
    TooLarge,
    /// The node has halted: another attempt gets the same answer.
    Halted(String),
}

impl Api {
    /// Asks the node for its status.
    pub(crate) async fn open(url: &str) -> Result<(Self, Standing), ReadError> {
        let client = HttpClient::new(BOUNDS);
        let api = Self { client, base: url.trim_end_matches('/').to_owned() };
        let standing = api.standing().await?;
        Ok((api, standing))
    }

    pub(crate) async fn standing(&self) -> Result<Standing, ReadError> {
        let body = self.get("/v1/status", &[]).await?;
        let not_ours = |what: &str| {
            ReadError::Unreadable(format!("GET /v1/status does not answer as pghc does: {what}"))
        };
        let body = body.ok_or_else(|| not_ours("the answer is too large"))?;
        let status: Status =
            serde_json::from_slice(&body).map_err(|error| not_ours(&error.to_string()))?;
        let cluster = status.cluster_id.parse().map_err(|_| not_ours("bad cluster id"))?;
        for (what, id) in [("zone", status.frontier), ("coordinators", status.head)] {
            if id > ID_MAX {
                return Err(not_ours(&format!(
                    "its {what} would be at {id}, which no link can be"
                )));
            }
        }
        Ok(Standing {
            cluster: Some(cluster),
            zone: Some(status.zone),
            first: 1,
            end: status.frontier,
            head: Some(status.head),
        })
    }

    /// Feeds the links from `from` to `to`.
    pub(crate) async fn read(&self, from: u64, to: u64, sink: Sink<'_>) -> Result<(), ReadError> {
        let mut after = from.saturating_sub(1);
        let mut limit = PAGE_LINKS_MAX.min(PAGE_BYTES / RECORD_BYTES_MAX + 60);
        while after < to {
            let wanted = limit.min(usize::try_from(to - after).unwrap_or(limit)).max(1);
            let query = [("after", after.to_string()), ("limit", wanted.to_string())];
            let Some(body) = self.get("/v1/chain", &query).await? else {
                if wanted == 1 {
                    return Err(unreadable("one link is larger than any link can be"));
                }
                limit = (wanted / 8).max(1);
                continue;
            };
            let page: RawPage<'_> = serde_json::from_slice(&body).map_err(|error| {
                unreadable(&format!("the page after link {after} is no page of links: {error}"))
            })?;
            let Some(last) = page.links.last().map(|link| link.raw().id) else {
                if page.frontier >= to {
                    return Ok(());
                }
                // A database that crashed without its last commits is backfilled automatically.
                let (at, what) = (page.frontier, "the zone went back");
                return Err(unreadable(&format!("{what} to link {at}, wait until it is at {to}")));
            };
            for link in &page.links {
                if sink(&link.raw()).is_break() {
                    return Ok(());
                }
            }
            after = match u64::try_from(last) {
                Ok(last) if last > after => last,
                _ => return Err(unreadable("pages do not go forward")),
            };
            limit = (PAGE_BYTES * page.links.len() / body.len().max(1)).clamp(1, PAGE_LINKS_MAX);
        }
        Ok(())
    }

    /// The body of an answer; `None` when it is over the limit of [`BOUNDS`].
    async fn get(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            match self.get_once(path, query).await {
                Ok(body) => return Ok(Some(body)),
                Err(Failure::TooLarge) => return Ok(None),
                Err(Failure::Halted(text)) => return Err(ReadError::Halted(text)),
                Err(Failure::Passing(text)) => last = text,
            }
        }
        Err(unreadable(&format!("GET {path} failed {ATTEMPTS} times: {last}")))
    }

    async fn get_once(&self, path: &str, query: &[(&str, String)]) -> Result<Vec<u8>, Failure> {
        let request = self.client.get(&format!("{}{path}", self.base)).query(query);
        let answer = self.client.send(request).await.map_err(|failure| match failure {
            http_client::Failure::TooLarge(_) => Failure::TooLarge,
            other => Failure::Passing(describe(&other)),
        })?;
        if !answer.status.is_success() {
            let status = answer.status.as_u16();
            return Err(match serde_json::from_slice::<Problem>(&answer.body) {
                Ok(Problem { code: ErrorCode::ZoneHalted, detail, .. }) => Failure::Halted(detail),
                Ok(Problem { detail, .. }) => Failure::Passing(format!("status {status} {detail}")),
                Err(_) => Failure::Passing(format!("status {status}")),
            });
        }
        Ok(answer.body)
    }
}

fn unreadable(text: &str) -> ReadError {
    ReadError::Unreadable(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use axum::extract::{Query, State};
    use axum::routing::get;
    use axum::{Json, Router};
    use pghc_runtime::task::Tasks;
    use serde_json::{Value, json};

    use super::super::reading::ReadError;
    use super::Api;

    type Parameters = std::collections::HashMap<String, u64>;

    /// A node that claims to be at `end` and serves `links` in pages as large as asked for.
    async fn node(links: Vec<Value>, end: u64, tasks: &Tasks) -> String {
        let status = json!({
            "cluster_id": "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7", "zone": "eu", "node_id": "eu-1",
            "is_applier": true, "frontier": end, "head": end + 7, "term": 1, "coordinators": [],
            "zones": [],
        });
        let page = |State(links): State<Arc<Vec<Value>>>, Query(query): Query<Parameters>| async move {
            let after = |link: &&Value| link["id"].as_u64() > Some(query["after"]);
            let limit = usize::try_from(query["limit"]).expect("a small number");
            let page: Vec<Value> = links.iter().filter(after).take(limit).cloned().collect();
            Json(json!({"links": page, "frontier": links.len()}))
        };
        let router = Router::new()
            .route("/v1/status", get(move || async move { Json(status) }))
            .route("/v1/chain", get(page))
            .with_state(Arc::new(links));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tasks.spawn("node", async move { axum::serve(listener, router).await.expect("it serves") });
        format!("http://{address}/")
    }

    async fn ids(api: &Api, from: u64, to: u64) -> Result<Vec<i64>, ReadError> {
        let mut ids = Vec::new();
        let sink = &mut |link: &pghc_api::verify::RawLink<'_>| {
            ids.push(link.id);
            ControlFlow::Continue(())
        };
        api.read(from, to, sink).await.map(|()| ids)
    }

    #[tokio::test]
    async fn api_pages_are_read_to_end_of_range() {
        let tasks = Tasks::default();
        let links: Vec<Value> = (1..=2_500_u64).map(|id| json!({"id": id, "hash": "x"})).collect();
        let url = node(links, 2_600, &tasks).await;
        let (api, standing) = Api::open(&url).await.expect("it answers");
        assert_eq!(
            (standing.end, standing.head, standing.zone.as_deref()),
            (2_600, Some(2_607), Some("eu"))
        );
        for (from, to) in [(1, 2_500), (1, 1), (700, 2_400), (2_500, 2_500)] {
            let wanted: Vec<i64> =
                (i64::try_from(from).expect("small")..=i64::try_from(to).expect("small")).collect();
            assert_eq!(ids(&api, from, to).await, Ok(wanted), "{from} to {to}");
        }
        let back = ids(&api, 1, 2_600).await.expect_err("it has not got them");
        assert!(back.to_string().contains("went back to link 2500"), "{back}");
        tasks.shut_down().await;
        assert!(matches!(Api::open(&url).await, Err(ReadError::Unreadable(_))));
    }

    /// Error of a verifier against a server that gives every request this answer, followed by
    /// `more` without end.
    async fn said_of(answer: &'static str, more: &'static str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let tasks = Tasks::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        tasks.spawn("server", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                while !more.is_empty() && stream.write_all(more.as_bytes()).await.is_ok() {}
            }
        });
        let error = Api::open(&url).await.expect_err("it is no node");
        tasks.shut_down().await;
        assert!(matches!(error, ReadError::Unreadable(_)), "{error:?}");
        error.to_string()
    }

    #[tokio::test]
    async fn a_server_that_redirects_or_never_ends_is_unreadable() {
        let redirect = "HTTP/1.1 307 No\r\nlocation: /v1/status\r\ncontent-length: 0\r\n\r\n";
        let said = said_of(redirect, "").await;
        assert!(said.contains("is a redirect (status 307) and is not followed"), "{said}");
        let blanks: &'static str = Box::leak(" ".repeat(1 << 16).into_boxed_str());
        let said = said_of("HTTP/1.1 200 OK\r\n\r\n", blanks).await;
        assert!(said.contains("the answer is too large"), "{said}");
    }

    #[tokio::test]
    async fn a_node_at_an_id_that_no_link_can_have_is_unreadable() {
        let tasks = Tasks::default();
        let url = node(Vec::new(), u64::MAX - 7, &tasks).await;
        let error = Api::open(&url).await.expect_err("a lie").to_string();
        assert!(error.contains("at 18446744073709551608, which no link can be"), "{error}");
        tasks.shut_down().await;
    }
}
