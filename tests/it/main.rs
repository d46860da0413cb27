//! Integration tests against real processes and real PostgreSQL servers.

mod coordinators;
mod dev;
mod harness;
mod lab;
mod postgres;
mod survive;
mod verify;
mod wan;
