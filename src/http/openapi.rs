//! The OpenAPI document, generated from the handlers. `api/openapi.json` is a copy of it that a
//! test keeps equal, so that a change of the contract shows in review.

use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::Shared;
use super::{original, probe, read, write};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "pghc",
        description = "A consensus-ordered write layer over plain PostgreSQL.\n\nWhat an answer means for the caller's data: 2xx is committed and applied as asked; 4xx is not in the log and never will be; anything else is open, and the same request may be sent again with the same Idempotency-Key.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "chain", description = "Writing and reading the chain, version 1"),
        (name = "original", description = "The interface of the original PGHC"),
        (name = "operation", description = "Running a node"),
    ),
)]
struct Document;

/// The routes of a node and, from the same text, their description.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(write::write, read::page))
        .routes(routes!(read::head))
        .routes(routes!(read::link))
        .routes(routes!(original::add_link))
        .routes(routes!(original::recent))
        .routes(routes!(original::cluster_config))
        .routes(routes!(original::ping))
        .routes(routes!(probe::status))
        .routes(routes!(probe::healthz))
        .routes(routes!(probe::readyz))
        .routes(routes!(probe::readyz_write))
        .routes(routes!(probe::metrics))
        .routes(routes!(probe::openapi))
}

pub(super) fn document() -> OpenApi {
    routes().into_openapi()
}

/// The OpenAPI document as JSON, with a line end.
///
/// # Panics
/// If the document cannot be written as JSON, which would be a bug of the handlers' descriptions.
#[must_use]
pub fn openapi_json() -> String {
    let mut text = document().to_pretty_json().expect("the document is plain data");
    text.push('\n');
    text
}
