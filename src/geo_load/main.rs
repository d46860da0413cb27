//! `geo-load`: see `geo-load --help`.

fn main() -> std::process::ExitCode {
    geo_load::load::main()
}
