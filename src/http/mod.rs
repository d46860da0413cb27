//! The HTTP interface of an API node. Only this module names axum.
