//! `chain-verify`: see `chain-verify --help`.

fn main() {}
