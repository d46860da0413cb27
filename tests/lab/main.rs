//! `geo-load`: its command line, and the laboratory against real processes and in virtual time.
//!
//! Tests of what it measures, not of the product: `tests/it` has those.

mod bench;
mod command_line;
mod harness;
mod reference;
mod run;
mod virtual_time;
mod wan;

/// Where the program under test was built. `pghc`, which it starts, must lie beside:
/// `cargo test --workspace` builds both.
fn path_of(program: &str) -> &'static str {
    assert_eq!(program, "geo-load");
    env!("CARGO_BIN_EXE_geo-load")
}
