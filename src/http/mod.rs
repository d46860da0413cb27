//! The HTTP interface of an API node. Only this module names axum.
//!
//! It turns requests into calls of [`zone::Service`](crate::zone::Service) and outcomes into
//! answers, and holds the server those answers leave by. Invariant: a 2xx is committed and applied
//! as asked, a 4xx is not in the log and never will be, anything else says that the outcome is open.
//! It must hold no SQL and no consensus, and keep nothing of a request once it is answered.

mod answer;
mod ask;
mod body;
mod bulk;
mod connection;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod metrics;
mod openapi;
mod origin;
mod original;
mod outcome;
mod probe;
mod read;
mod room;
mod router;
mod serve;
mod state;
mod write;

pub use limits::{Cors, LOCALHOST, Limits, REQUEST_BYTES_DEFAULT};
pub use metrics::{METRICS_CONNECTIONS_MAX, serve_metrics};
pub use openapi::openapi_json;
pub use router::serve;
pub use state::Api;

#[cfg(test)]
mod tests;
