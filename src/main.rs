//! `pghc`: see `pghc --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pghc::cli;
use pghc::cli::process::{USAGE, complain, parse};

/// A consensus-ordered write layer over plain PostgreSQL with a verifiable hash chain.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole parade on this machine: databases, coordinators and API nodes in every zone.
    Dev(cli::dev::Arguments),
    /// Show how a running parade is doing. Exit code 0: healthy, 1: something is wrong, 2: nothing
    /// answers.
    Status(cli::status::Arguments),
    /// Show or change the members of the Raft group. Exit code 0: done, 1: refused, 2: nothing
    /// answers.
    Members(cli::members::Arguments),
    Zone(cli::zone::Arguments),
    Coordinator(Box<cli::coordinator::Arguments>),
    Api(Box<cli::api::Arguments>),
    Recover(cli::recover::Arguments),
}

fn main() -> ExitCode {
    let is_set = |variable: &str| std::env::var_os(variable).is_some();
    let words = match pghc::config::with_file(std::env::args_os().collect(), is_set) {
        Ok(words) => words,
        Err(error) => return complain(&error, USAGE),
    };
    let arguments: Arguments = match parse("pghc", words.words.clone(), |flag| words.origin(flag)) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut logging = (variable("PGHC_LOG"), variable("PGHC_LOG_FORMAT"));
    if logging.0.is_empty()
        && matches!(
            arguments.command,
            Command::Dev(_)
                | Command::Status(_)
                | Command::Members(_)
                | Command::Zone(_)
                | Command::Recover(_)
        )
    {
        // These talk to a person; what they log is only what is odd.
        "warn".clone_into(&mut logging.0);
    }
    if let Err(error) = pghc::telemetry::set_up_logging(&logging.0, &logging.1) {
        return complain(&error, USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, 1),
    };
    runtime.block_on(async {
        match arguments.command {
            Command::Dev(arguments) => cli::dev::run(arguments).await,
            Command::Status(arguments) => cli::status::run(arguments).await,
            Command::Members(arguments) => cli::members::run(arguments).await,
            Command::Zone(arguments) => cli::zone::run(arguments).await,
            Command::Coordinator(arguments) => cli::coordinator::run(*arguments).await,
            Command::Api(arguments) => cli::api::run(*arguments).await,
            Command::Recover(arguments) => cli::recover::run(arguments).await,
        }
    })
}
