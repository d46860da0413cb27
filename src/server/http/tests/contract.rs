//! The contract in the repository is the contract of the code.

use super::Server;
use crate::http::openapi_json;

/// After a change that is meant: `PGHC_REGENERATE=1 cargo test -p pghc-server openapi`.
#[test]
fn openapi_json_matches_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/openapi.json");
    let generated = openapi_json();
    if std::env::var_os("PGHC_REGENERATE").is_some() {
        std::fs::write(path, &generated).expect("the repository can be written");
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    let differs = stored.lines().zip(generated.lines()).find(|(stored, new)| stored != new);
    assert!(
        stored == generated,
        "api/openapi.json is out of date, first at {differs:?}; \
         regenerate it: PGHC_REGENERATE=1 cargo test -p pghc-server openapi"
    );
}

#[tokio::test]
async fn the_node_serves_the_same_openapi_document() {
    let server = Server::start().await;
    let got = server.get("/openapi.json").await;
    assert_eq!((got.status, got.header("content-type")), (200, "application/json"));
    assert_eq!(got.text, openapi_json());
}
