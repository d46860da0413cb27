//! Integration tests against real processes and real PostgreSQL servers.

mod api_contract;
mod cli;
mod coordinators;
mod dev;
mod harness;
mod lab;
mod original;
mod postgres;
mod survive;
mod verify;
mod wan;
