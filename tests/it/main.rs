//! Integration tests against real processes and real PostgreSQL servers.

mod coordinators;
mod dev;
mod lab;
mod wan;
