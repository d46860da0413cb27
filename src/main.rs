//! `pghc`: see `pghc --help`.

fn main() {}
