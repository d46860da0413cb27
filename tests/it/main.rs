//! Integration tests against real processes and real PostgreSQL servers.

mod api_contract;
mod bench;
mod cli;
mod coordinators;
mod damage;
mod dev;
mod disk;
mod distances;
mod edge;
mod environment;
#[cfg(debug_assertions)]
mod failpoints;
mod harness;
mod lab;
mod members;
mod original;
mod pages;
mod postgres;
mod recover;
mod survive;
mod verify;
mod virtual_time;
mod wan;
mod zones;
