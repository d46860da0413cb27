//! The deterministic simulation: the whole write path on a virtual network, disk and clock, by seed.
//!
//! Real coordinators, logs, sequencers, tails, API nodes and appliers run in one thread on
//! simulated time. Network, disks, wall clocks and the zones' databases are simulated and fail as
//! the seed has it. The same seed gives the same run, byte by byte: `sim meta` proves it.

#![allow(clippy::disallowed_methods, reason = "clients and cables belong to no process")]

mod clients;
mod cluster;
mod contract;
mod faults;
mod forgery;
mod many;
mod members;
mod mutants;
mod net;
mod run;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Instant;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Simulates whole clusters under faults, by seed")]
struct Arguments {
    #[command(subcommand)]
    command: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Runs one seed.
    Run {
        #[arg(long)]
        seed: u64,
        /// Simulated seconds, two thirds of them under faults.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Writes what happened, with simulated times, to this file.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Traces every operation too.
        #[arg(long)]
        debug: bool,
        /// Says what it was in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Runs many seeds, a process each, and demands that they met every class of faults.
    Many {
        #[arg(long, default_value_t = 1)]
        from: u64,
        #[arg(long, default_value_t = 100)]
        count: u64,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Processes at a time; 0: one for each core.
        #[arg(long, default_value_t = 0)]
        jobs: usize,
        /// After this number of seconds no further seed is begun.
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Runs mutants (`--features pghc-runtime/mutation`), each in one seed after the other until caught.
    Mutants {
        /// Names of mutants; none: all that a simulation can meet.
        only: Vec<String>,
        #[arg(long, default_value_t = 1)]
        from: u64,
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Holds the model of the zone's database to what a real PostgreSQL answers.
    Contract {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 400)]
        steps: usize,
    },
    /// Runs a seed twice and compares the traces byte by byte.
    Meta {
        #[arg(long)]
        seed: u64,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    // Arguments that `cargo test` passes to every test binary are ignored.
    let is_a_flag = std::env::args().nth(1).is_some_and(|first| first.starts_with("--"));
    let arguments = Arguments::try_parse().unwrap_or_else(|error| match error.kind() {
        clap::error::ErrorKind::UnknownArgument if is_a_flag => Arguments { command: None },
        _ => error.exit(),
    });
    let default = What::Many { from: 1, count: 10, seconds: 30, jobs: 0, limit: None };
    match arguments.command.unwrap_or(default) {
        What::Run { seed, seconds, trace, debug, json } => one(seed, seconds, trace, debug, json),
        What::Many { from, count, seconds, jobs, limit } => {
            let cores = || std::thread::available_parallelism().map_or(1, usize::from);
            let jobs = if jobs == 0 { cores() } else { jobs };
            with_io(many::run(many::Plan { from, count, seconds, jobs, limit }))
        }
        What::Mutants { only, from, seeds, seconds } => {
            with_io(mutants::run(&only, from, seeds, seconds))
        }
        What::Meta { seed, seconds } => meta(seed, seconds),
        What::Contract { seed, steps } => {
            with_io(contract::run(seed, steps));
            ExitCode::SUCCESS
        }
    }
}

fn with_io<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(work)
}

/// Simulated time since the beginning, for the trace.
struct SimulatedTime(std::sync::OnceLock<tokio::time::Instant>);

impl tracing_subscriber::fmt::time::FormatTime for SimulatedTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        if tokio::runtime::Handle::try_current().is_err() {
            return write!(w, "-");
        }
        let now = tokio::time::Instant::now();
        let since = *self.0.get_or_init(|| now);
        write!(w, "{:10.4}", (now - since).as_secs_f64())?;
        match pghc_runtime::task::process::Process::current() {
            Some(process) => write!(w, " [{}]", process.name()),
            None => Ok(()),
        }
    }
}

fn one(seed: u64, seconds: u64, trace: Option<PathBuf>, debug: bool, json: bool) -> ExitCode {
    if let Some(path) = trace {
        let file = std::fs::File::create(&path).expect("the trace can be written");
        let level = if debug { tracing::Level::DEBUG } else { tracing::Level::INFO };
        // openraft writes real clock readings into its messages.
        let filter = tracing_subscriber::EnvFilter::new(format!("{level},openraft=off"));
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter(filter)
            .with_timer(SimulatedTime(std::sync::OnceLock::new()))
            .with_writer(Mutex::new(std::io::LineWriter::new(file)))
            .init();
    }
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        println!("seed {seed}: a panic: {panic}");
        println!("replay: {} --seed {seed} --seconds {seconds}", cluster::REPLAY);
        std::process::exit(1);
    }));
    assert!(pghc_entropy::remove(), "the operating system's randomness is still there");
    let (directory, started) = (tempfile::tempdir().expect("a directory"), Instant::now());
    // The same names in every run: they are in messages.
    std::env::set_current_dir(directory.path()).expect("it was just made");
    // A thread of its own has hash maps that nothing before it has touched.
    let run = move || run::run(seed, seconds);
    let summary = std::thread::spawn(run).join().expect("a panic has ended the process");
    let took = started.elapsed().as_secs_f64();
    if json {
        println!("{}", serde_json::to_string(&summary).expect("plain numbers"));
        return ExitCode::SUCCESS;
    }
    let many::Summary { links, operations, faults, converged_ms, .. } = summary;
    let faults: u64 = faults.values().sum();
    println!(
        "seed {seed}: sound: {links} links, {operations} operations, {faults} faults, converged in \
         {converged_ms} ms; took {took:.1} s"
    );
    ExitCode::SUCCESS
}

fn meta(seed: u64, seconds: u64) -> ExitCode {
    let directory = tempfile::tempdir().expect("a directory");
    let trace = |name: &str| {
        let path = directory.path().join(name);
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["run", "--seed", &seed.to_string(), "--seconds", &seconds.to_string()]);
        let status = command.arg("--debug").arg("--trace").arg(&path).status();
        status.expect("this program starts");
        std::fs::read(path).expect("a trace")
    };
    let (one, two) = (trace("one"), trace("two"));
    if one == two {
        println!("seed {seed}: two runs, one trace of {} bytes", one.len());
        return ExitCode::SUCCESS;
    }
    let lines = one.split(|byte| *byte == b'\n').zip(two.split(|byte| *byte == b'\n'));
    if let Some((a, b)) = { lines }.find(|(a, b)| a != b) {
        println!(
            "seed {seed}: runs differ:\n{}\n{}",
            String::from_utf8_lossy(a),
            String::from_utf8_lossy(b)
        );
    }
    ExitCode::FAILURE
}
