//! The command `pghc`: arguments in, exit code out.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pghc_runtime::config::Keys;
use pghc_runtime::private;
use pghc_runtime::program::{USAGE, complain, conclude, finish, parse};

use super::{api, audit, coordinator, dev, export, leader, members, place, recover, status, zone};

/// A consensus-ordered write layer over plain PostgreSQL with a verifiable hash chain.
#[derive(Debug, Parser)]
#[command(name = "pghc", version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole deployment on this machine: databases, coordinators and API nodes in every zone.
    Dev(dev::Arguments),
    /// Show how a running deployment is doing. Exit code 0: healthy, 1: something is wrong, 2: nothing
    /// answers.
    Status(status::Arguments),
    /// Show or change the members of the Raft group. Exit code 0: done, 1: refused, 2: nothing
    /// answers.
    Members(members::Arguments),
    /// Show the leader and write latency per zone, transfer leadership, or turn automatic placement
    /// on or off. Exit code 0: done, 1: refused, 2: no answer.
    Leader(leader::Arguments),
    /// Propose which zones vote and which leads, for a matrix or for what a running group measures.
    Place(place::Arguments),
    Zone(Box<zone::Arguments>),
    Coordinator(Box<coordinator::Arguments>),
    Api(Box<api::Arguments>),
    Recover(recover::Arguments),
    Export(export::Arguments),
}

/// Keys of the `--config` file that a command reads. A server reads all keys and refuses unknown
/// ones; a command on a server's data reads only the data directory; the others use the file to
/// find the cluster.
fn keys(args: &[std::ffi::OsString]) -> Keys {
    let word = |place: usize| args.get(place).and_then(|word| word.to_str());
    match (word(1), word(2)) {
        (Some("coordinator" | "api"), _) => Keys::All,
        (Some("recover"), _) => Keys::Only(&["data"]),
        // The record of a deployment says where coordinators are, and has no keys.
        (Some("zone"), Some("audit")) if pghc_runtime::config::is_record(args) => Keys::None,
        (Some("zone"), Some("audit")) => Keys::Only(&["database", "coordinator"]),
        (Some("zone"), Some("reseed" | "adopt")) => Keys::Only(&["database"]),
        _ => Keys::None,
    }
}

fn is_audit(words: &[std::ffi::OsString]) -> bool {
    words.get(1).is_some_and(|word| word == "zone") && words.get(2).is_some_and(|w| w == "audit")
}

/// Runs the program. Compiled in the library: `async` functions are compiled where they are run,
/// which would be again in each binary.
#[must_use]
pub fn main() -> ExitCode {
    private::set_umask();
    let code = run();
    conclude(finish("pghc", code, unheard(code)))
}

/// Exit code of a command that would end with `code` but whose output was lost: exit code 1 of an
/// export or audit would mean a bad chain.
fn unheard(code: ExitCode) -> u8 {
    let words: Vec<_> = std::env::args_os().collect();
    if !is_audit(&words) && words.get(1).is_none_or(|word| word != "export") {
        return 1;
    }
    (1..=u8::MAX).find(|number| ExitCode::from(*number) == code).unwrap_or(USAGE)
}

fn run() -> ExitCode {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut filter = variable("PGHC_LOG");
    // The others talk to a person; what they log is only what is odd.
    let serves =
        std::env::args_os().nth(1).is_some_and(|word| word == "coordinator" || word == "api");
    if filter.is_empty() && !serves {
        "warn".clone_into(&mut filter);
    }
    if let Err(error) =
        pghc_runtime::telemetry::set_up_logging(&filter, &variable("PGHC_LOG_FORMAT"))
    {
        return complain(&error, USAGE);
    }
    pghc_runtime::task::end_on_panic();
    pghc_runtime::connections::raise_limit();
    let is_set = |variable: &str| std::env::var_os(variable).is_some();
    let args: Vec<_> = std::env::args_os().collect();
    let keys = keys(&args);
    let words = match pghc_runtime::config::with_file(args, &keys, is_set) {
        Ok(words) => words,
        Err(error) => return complain(&error, USAGE),
    };
    let arguments: Arguments = match parse("pghc", words.words.clone(), |flag| words.origin(flag)) {
        Ok(arguments) => arguments,
        // Wrong usage of `zone audit` ends with the usage code of chain-verify.
        Err(code) if code == ExitCode::from(USAGE) && is_audit(&words.words) => {
            return ExitCode::from(audit::USAGE);
        }
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, 1),
    };
    runtime.block_on(async {
        match arguments.command {
            Command::Dev(arguments) => dev::run(arguments).await,
            Command::Status(arguments) => status::run(arguments).await,
            Command::Members(arguments) => members::run(arguments).await,
            Command::Leader(arguments) => leader::run(arguments).await,
            Command::Place(arguments) => place::run(arguments).await,
            Command::Zone(arguments) => zone::run(*arguments).await,
            Command::Coordinator(arguments) => coordinator::run(*arguments).await,
            Command::Api(arguments) => api::run(*arguments).await,
            Command::Recover(arguments) => recover::run(arguments).await,
            Command::Export(arguments) => export::run(arguments).await,
        }
    })
}
