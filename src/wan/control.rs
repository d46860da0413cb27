//! Changing a running emulator over HTTP, and asking it how it is. On loopback only; it knows no
//! users, so another one of this machine may change the distances. Pages of browsers may not.
//!
//! | request | does |
//! |---|---|
//! | `GET /v1/net` | answers a [`Net`] |
//! | `PATCH /v1/links/{from}/{to}` with a [`Change`] | changes lines; `*` stands for all zones |
//! | `POST /v1/cuts` with a [`Cut`] | cuts; answers `{"cut": number}` |
//! | `DELETE /v1/cuts/{number}`, `DELETE /v1/cuts` | heals one, or all; answers `{"healed": count}` |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::check::SelfCheck;
use super::conditions::Change;
use super::emulator::Wan;
use super::line::LineView;
use super::lines::Cut;
use super::proxy::ACCEPT_PAUSE;
use super::stats::Stats;

/// Most bytes of a request's body.
const BODY_BYTES_MAX: usize = 16 << 10;

/// Everything about a running emulator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Net {
    /// Every direction between two zones.
    pub links: Vec<LineView>,
    /// The cuts over them, by number.
    pub cuts: BTreeMap<u64, Cut>,
    /// Traffic of the line, and its lateness.
    pub stats: Stats,
    /// How late it was in its check at the start.
    pub check: Option<SelfCheck>,
}

impl Wan {
    /// Everything about it at this moment.
    #[must_use]
    pub fn net(&self) -> Net {
        Net {
            links: self.lines.view(),
            cuts: self.lines.cuts(),
            stats: self.stats(),
            check: self.checked(),
        }
    }

    /// Begins to take orders over HTTP on a loopback port of the system's choice; returns where.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn serve(&self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let wan = self.clone();
        wan.tasks.clone().spawn("wan control", async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let wan = wan.clone();
                wan.tasks.clone().spawn("wan control connection", async move {
                    let service = service_fn(move |request| answer(wan.clone(), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "wan control connection broke");
                    }
                });
            }
        });
        Ok(address)
    }
}

async fn answer(wan: Wan, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let is_of_a_page = head.headers.contains_key(hyper::header::ORIGIN);
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let outcome = match body {
        Ok(_) if is_of_a_page => {
            Err((StatusCode::FORBIDDEN, "pages of browsers are refused".to_owned()))
        }
        Ok(body) => act(&wan, &head.method, head.uri.path(), &body.to_bytes()),
        Err(error) => Err((StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))),
    };
    let (status, value) = match outcome {
        Ok(value) => (StatusCode::OK, value),
        Err((status, error)) => (status, json!({ "error": error })),
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    Ok(response)
}

fn act(wan: &Wan, method: &Method, path: &str, body: &[u8]) -> Result<Value, (StatusCode, String)> {
    let bad = |error: String| (StatusCode::BAD_REQUEST, error);
    let path = path.replace("%2A", "*");
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match (method, &*parts) {
        (&Method::GET, ["v1", "net"]) => {
            serde_json::to_value(wan.net()).map_err(|error| bad(error.to_string()))
        }
        (&Method::PATCH, ["v1", "links", from, to]) => {
            let change: Change = read(body).map_err(bad)?;
            wan.set(from, to, &change).map_err(bad)?;
            Ok(json!({}))
        }
        (&Method::POST, ["v1", "cuts"]) => {
            let number = wan.cut(read(body).map_err(bad)?).map_err(bad)?;
            Ok(json!({ "cut": number }))
        }
        (&Method::DELETE, ["v1", "cuts"]) => Ok(json!({ "healed": wan.heal(None) })),
        (&Method::DELETE, ["v1", "cuts", number]) => {
            let number = number.parse().map_err(|_| bad(format!("{number:?} is no cut")))?;
            Ok(json!({ "healed": wan.heal(Some(number)) }))
        }
        _ => Err((StatusCode::NOT_FOUND, format!("there is no {method} {path}"))),
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body is not understood: {error}"))
}
