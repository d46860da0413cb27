//! Logs and metrics of a process: how logging is set up, and every metric with its name and help.
//!
//! Knows nothing of what a zone or a coordinator does: they hold [`Metrics`] and set its fields.

mod http;
mod instruments;
mod logging;
mod metrics;

pub use http::{Http, Route, WriteEnd};
pub use instruments::IdGauge;
pub use logging::{BadLogging, Format, describe, logs_json, say, set_up_logging};
pub use metrics::{Coordinator, EXPOSITION_TYPE, Metrics, Submit, ZONE_STATES, Zone};
