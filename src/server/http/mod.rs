//! The HTTP interface of an API node. Only this module names axum.
//!
//! It turns requests into calls of [`zone::Service`](crate::zone::Service) and outcomes into
//! answers, and holds the server those answers leave by. Invariant: a 2xx is committed and applied
//! as asked, a 4xx is not in the log and never will be, anything else says that the outcome is open.
//! It must hold no SQL and no consensus, and keep nothing of a request once it is answered.

mod body;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod legacy;
mod openapi;
mod origin;
mod params;
mod probes;
mod response;
mod router;
mod server;
mod state;
mod v1;

pub use openapi::openapi_json;
pub use router::serve;
pub use server::limits::{Cors, LOCALHOST, Limits, REQUEST_BYTES_DEFAULT};
pub use server::metrics::{METRICS_CONNECTIONS_MAX, serve_metrics};
pub use state::Api;

#[cfg(test)]
mod tests;
