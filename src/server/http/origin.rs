//! Which pages may use this node from a browser. A browser sends requests on behalf of any page, from
//! machines that may reach this node; its headers say whose page it is.
//!
//! Invariant: a request that a page of another origin makes is refused before anything is read or
//! written, unless the node's settings name the origin. Requests of other programs carry none of
//! these headers.

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use pghc_api::error::ErrorCode;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::response::{ApiError, FRONTIER, REQUEST_ID, TOKEN};
use super::server::limits::{Cors, LOCALHOST};

/// Headers by which a browser says how a request came about.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const DESTINATION: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Refuses what a page makes that is neither of this node nor allowed.
pub(crate) fn check(cors: &Cors, method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(origin) = headers.get(ORIGIN) {
        let text = origin.to_str().unwrap_or_default();
        if allows(cors, text) || is_own(text, headers.get(HOST)) {
            return Ok(());
        }
        let shown: String = text.chars().take(80).collect();
        return Err(foreign(format!(
            "pages of {shown:?} may not use this node; its setting cors-origin names those that may"
        )));
    }
    let is = |name: &HeaderName, value: &str| headers.get(name).is_some_and(|found| found == value);
    // A link that a person follows is no page's doing.
    let is_visit = method == Method::GET && is(&MODE, "navigate") && is(&DESTINATION, "document");
    if (is(&SITE, "cross-site") || is(&SITE, "same-site")) && !is_visit {
        return Err(foreign("a page of another site may not use this node".to_owned()));
    }
    Ok(())
}

fn foreign(detail: String) -> ApiError {
    ApiError::new(ErrorCode::ForeignOrigin, detail)
}

/// Answers browsers what they ask before they let an allowed page in.
pub(crate) fn layer(cors: &Cors) -> Option<CorsLayer> {
    if *cors == Cors::Closed {
        return None;
    }
    let cors = cors.clone();
    let allowed = AllowOrigin::predicate(move |origin: &HeaderValue, _| {
        origin.to_str().is_ok_and(|origin| allows(&cors, origin))
    });
    let key = HeaderName::from_static("idempotency-key");
    let content_type = axum::http::header::CONTENT_TYPE;
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([content_type, key, REQUEST_ID])
        .expose_headers([FRONTIER, TOKEN, REQUEST_ID, axum::http::header::RETRY_AFTER])
        .max_age(std::time::Duration::from_secs(3600));
    Some(layer)
}

fn allows(cors: &Cors, origin: &str) -> bool {
    let Cors::Origins(origins) = cors else { return false };
    origins.iter().any(|allowed| match allowed.as_str() {
        LOCALHOST => authority(origin).is_some_and(|(host, _)| is_local(host)),
        allowed => allowed == origin,
    })
}

/// Whether a page is of this node itself, reached by an address. A name proves nothing: the owner
/// of a domain can point it at this machine after the page has loaded.
fn is_own(origin: &str, host: Option<&HeaderValue>) -> bool {
    let Some((name, whole)) = authority(origin) else { return false };
    let is_address = bare(name).parse::<std::net::IpAddr>().is_ok() || name == "localhost";
    is_address && host.is_some_and(|host| host == whole)
}

/// Host, and host with port, of an origin.
fn authority(origin: &str) -> Option<(&str, &str)> {
    let whole = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?;
    let end = whole.find(']').map_or(0, |at| at + 1);
    let Some(colon) = whole[end..].find(':') else { return Some((whole, whole)) };
    let port = &whole[end + colon + 1..];
    port.parse::<u16>().ok().map(|_| (&whole[..end + colon], whole))
}

fn bare(name: &str) -> &str {
    name.trim_start_matches('[').trim_end_matches(']')
}

fn is_local(name: &str) -> bool {
    name == "localhost"
        || bare(name).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, Method};

    use super::check;
    use crate::http::server::limits::{Cors, LOCALHOST};

    fn passes(cors: &Cors, method: &Method, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), value.parse().expect("plain"));
        }
        check(cors, method, &map).is_ok()
    }

    #[test]
    fn page_of_another_origin_is_refused() {
        let (closed, post, get) = (Cors::Closed, Method::POST, Method::GET);
        let host = ("host", "127.0.0.1:8080");
        assert!(passes(&closed, &post, &[host]), "a program");
        assert!(
            passes(&closed, &post, &[host, ("origin", "http://127.0.0.1:8080")]),
            "its own page"
        );
        for origin in
            ["http://evil.example", "http://127.0.0.1:9", "http://localhost:8080", "null", ""]
        {
            assert!(!passes(&closed, &post, &[host, ("origin", origin)]), "{origin}");
            assert!(!passes(&closed, &get, &[host, ("origin", origin)]), "{origin}");
        }
        let rebound = [("host", "evil.example:8080"), ("origin", "http://evil.example:8080")];
        assert!(!passes(&closed, &post, &rebound), "a name that came to mean this machine");
        for site in ["cross-site", "same-site"] {
            assert!(!passes(&closed, &post, &[host, ("sec-fetch-site", site)]));
            assert!(!passes(&closed, &get, &[host, ("sec-fetch-site", site)]), "an image");
        }
        let visit = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        let document = ("sec-fetch-dest", "document");
        assert!(passes(&closed, &get, &[visit[0], visit[1], document]), "a link that was followed");
        assert!(!passes(&closed, &post, &[visit[0], visit[1], document]), "a form");
        assert!(passes(&closed, &get, &[("sec-fetch-site", "none")]), "an address that was typed");
    }

    #[test]
    fn origins_that_are_named_are_let_in() {
        let named = Cors::Origins(vec!["https://a.example".to_owned()]);
        assert!(passes(&named, &Method::POST, &[("origin", "https://a.example")]));
        assert!(!passes(&named, &Method::POST, &[("origin", "https://b.example")]));
        let local = Cors::Origins(vec![LOCALHOST.to_owned()]);
        for origin in ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:5173"] {
            assert!(passes(&local, &Method::POST, &[("origin", origin)]), "{origin}");
        }
        for origin in ["http://localhost.evil.example", "http://127.0.0.1.evil.example:1", "null"] {
            assert!(!passes(&local, &Method::POST, &[("origin", origin)]), "{origin}");
        }
    }
}
