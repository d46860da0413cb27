//! Logging set-up and the metrics registry: every metric name, unit and help text.
