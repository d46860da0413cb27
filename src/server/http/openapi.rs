//! The OpenAPI document, generated from the handlers. `api/openapi.json` is a copy of it that a
//! test keeps equal, so that a change of the contract shows in review.

use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::Shared;
use super::v1::{read, write};
use super::{legacy, probes};

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
pub(crate) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(write::write, read::page))
        .routes(routes!(read::head))
        .routes(routes!(read::link))
        .routes(routes!(legacy::add_link))
        .routes(routes!(legacy::recent))
        .routes(routes!(legacy::cluster_config))
        .routes(routes!(legacy::ping))
        .routes(routes!(probes::status))
        .routes(routes!(probes::healthz))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::readyz_write))
        .routes(routes!(probes::metrics))
        .routes(routes!(probes::openapi))
}

pub(crate) fn document() -> OpenApi {
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
