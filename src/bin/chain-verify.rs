//! `chain-verify`: see `chain-verify --help`.

fn main() -> std::process::ExitCode {
    pghc::cli::verify::main()
}
