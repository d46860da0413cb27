//! `pghc`: see `pghc --help`.

fn main() -> std::process::ExitCode {
    pghc::cli::pghc::main()
}
