//! Integration tests against real processes and real PostgreSQL servers.

mod api_contract;
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
mod members;
mod original;
mod pages;
mod postgres;
mod recover;
mod survive;
mod verify;
mod zones;

/// Where a program of ours was built.
fn path_of(program: &str) -> &'static str {
    match program {
        "pghc" => env!("CARGO_BIN_EXE_pghc"),
        "chain-verify" => env!("CARGO_BIN_EXE_chain-verify"),
        other => panic!("{other} has its tests in tests/lab"),
    }
}
