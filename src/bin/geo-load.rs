//! `geo-load`: see `geo-load --help`.

fn main() -> std::process::ExitCode {
    pghc::cli::load::main()
}
