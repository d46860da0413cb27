//! Integration tests against real processes and real PostgreSQL servers.

mod dev;
mod postgres;
mod wan;
