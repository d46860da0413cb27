//! `geo-load`: see `geo-load --help`.

fn main() {}
