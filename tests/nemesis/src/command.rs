//! The command line, and what each command runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Parser, Subcommand};

use crate::check::Evidence;
use crate::cluster::{Ground, ZONES};
use crate::load::Rates;
use crate::measure::{self, Measure};
use crate::report::RunReport;
use crate::sandbox::{self, Stage};
use crate::{cuts, soak};

/// Exit code of a run that found something wrong, or too little.
const FAILED: u8 = 1;

/// Hurts a whole cluster in a sandbox, over and over, and checks everything that clients and zones saw.
///
/// Exit code 0: everything was checked, nothing was wrong, enough was seen. 1: not so. 2: it could not
/// run.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// Directory of `pghc` and `chain-verify`; that of this program when not given.
    #[arg(long, global = true)]
    bin: Option<PathBuf>,
    /// Directory of another build of `pghc`: some processes run it for a while, then that under test
    /// again. Without it versions are not mixed.
    #[arg(long, global = true, value_name = "DIR")]
    old_binaries: Option<PathBuf>,
    /// Only faults of these classes, without a required minimum of classes and acknowledgements
    #[arg(long, global = true, value_name = "CLASS", value_delimiter = ',')]
    only: Vec<String>,
    /// Where images, logs and the report go; a new directory below /tmp when not given. Removed after
    /// a run that passed, but for the report.
    #[arg(long, global = true)]
    work: Option<PathBuf>,
    /// Writes per second.
    #[arg(long, global = true, default_value_t = 400.0)]
    writes: f64,
    /// Reads per second.
    #[arg(long, global = true, default_value_t = 150.0)]
    reads: f64,
    /// Without a sandbox, as without root: kills and pauses only.
    #[arg(long, global = true)]
    reduced: bool,
    /// File for the report as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Epochs of a minute for hours.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 1.0)]
        hours: f64,
        /// Every fault follows from it.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// One epoch: repeats a finding of a soak.
    Epoch {
        /// The epoch's seed, as the soak printed it.
        #[arg(long)]
        seed: u64,
    },
    /// Two epochs, or up to five until enough was seen, for every commit.
    Smoke {
        /// Every fault follows from it.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Power cuts only, one every few seconds.
    Cuts {
        /// How many.
        #[arg(long, default_value_t = 200)]
        count: u32,
        /// How many of them cut everything at once.
        #[arg(long, default_value_t = 50)]
        everything: u32,
        /// Every choice follows from it.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// How long clients wait when something happens in peace.
    Measure {
        /// The action.
        #[arg(value_enum)]
        what: Measure,
        /// How often.
        #[arg(long, default_value_t = 30)]
        count: u32,
        /// How long a zone is frozen.
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
    },
}

/// Runs the command, in this process or inside a new sandbox.
///
/// # Errors
/// When it could not run.
pub async fn run(arguments: Arguments, stage: Stage) -> anyhow::Result<ExitCode> {
    let options = arguments.options;
    // Inside a sandbox the question is settled.
    let refusal = match (options.reduced, stage) {
        (true, _) => Some("it was told so".to_owned()),
        (false, Stage::Outer) => sandbox::refusal(),
        (false, _) => None,
    };
    let sandboxed = refusal.is_none();
    let work = match &options.work {
        Some(work) => std::path::absolute(work)?,
        None => std::env::temp_dir().join(format!("pghc-nemesis-{:08x}", rand::random::<u32>())),
    };
    if stage == Stage::Outer && sandboxed {
        let more = ["--work".to_owned(), work.display().to_string()];
        let code = sandbox::enter(if options.work.is_some() { &[] } else { &more }).await?;
        if code != FAILED {
            clear(&work)?;
        }
        return Ok(ExitCode::from(code));
    }
    match refusal {
        None => sandbox::build_network(ZONES)?,
        Some(why) => println!("reduced, without a sandbox, to kills and pauses: {why}"),
    }
    let ground = ground(&options, work, sandboxed)?;
    eprintln!("work in {}", ground.work.display());
    let code = start(arguments.command, &options, &ground).await?;
    if !sandboxed && code == 0 {
        clear(&ground.work)?;
    }
    Ok(ExitCode::from(code))
}

/// Removes what a run made; the directory itself too, if nothing else is in it.
fn clear(work: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(work).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = ["mnt", "template", "log"].contains(&&*name)
            || name.starts_with("clock-")
            || name.ends_with(".img");
        match (ours, path.is_dir()) {
            (false, _) => {}
            (true, true) => std::fs::remove_dir_all(path)?,
            (true, false) => std::fs::remove_file(path)?,
        }
    }
    // Other files are in it, or it does not exist.
    let _ = std::fs::remove_dir(work);
    Ok(())
}

async fn start(command: Command, options: &Options, ground: &Ground) -> anyhow::Result<u8> {
    let rates = Rates { writes: options.writes, reads: options.reads };
    let stand = (ground.clone(), rates);
    let has_epochs = !matches!(command, Command::Cuts { .. } | Command::Measure { .. });
    ensure!(has_epochs || options.only.is_empty(), "--only is for soak, epoch and smoke");
    let (report, history) = match command {
        Command::Soak { hours, seed } => {
            let plan = soak::Plan::hours(hours, seed.unwrap_or_else(rand::random));
            soak::run(stand, plan).await?
        }
        Command::Epoch { seed } => soak::run(stand, soak::Plan::epoch(seed)).await?,
        Command::Smoke { seed } => {
            let plan = soak::Plan::smoke(seed.unwrap_or_else(rand::random));
            soak::run(stand, plan).await?
        }
        Command::Cuts { count, everything, seed } => {
            let seed = seed.unwrap_or_else(rand::random);
            ensure!(ground.sandbox, "power cuts need a sandbox, and that root");
            ensure!(everything <= count, "--everything is part of --count");
            cuts::run(stand, cuts::Plan { count, everything, seed }).await?
        }
        Command::Measure { what, count, minutes } => {
            return measure::run(stand, what, count, minutes)
                .await
                .map(|passed| if passed { 0 } else { FAILED });
        }
    };
    finish(ground, options, &report, &history)
}
fn ground(options: &Options, work: PathBuf, sandbox: bool) -> anyhow::Result<Ground> {
    let bin = match &options.bin {
        Some(bin) => bin.clone(),
        None => std::env::current_exe()?.parent().context("a directory")?.to_owned(),
    };
    for name in ["pghc", "chain-verify"] {
        let path = bin.join(name);
        ensure!(path.is_file(), "{} is missing; give --bin, or build it", path.display());
    }
    let bin = bin.canonicalize()?;
    let old = options.old_binaries.as_ref().map(|old| {
        ensure!(old.join("pghc").is_file(), "no pghc in {}", old.display());
        Ok(old.canonicalize()?)
    });
    let (old, only) = (old.transpose()?, options.only.clone());
    std::fs::create_dir_all(&work)?;
    std::fs::set_permissions(&work, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    let group = sandbox::group_name();
    let base = rand::random_range(20_000..30_000);
    Ok(Ground { sandbox, work, bin, old, only, group, base })
}

/// Prints and writes the report. After a failure the history is kept beside disks and logs; else
/// nothing is.
fn finish(
    ground: &Ground,
    options: &Options,
    report: &RunReport,
    history: &Evidence,
) -> anyhow::Result<u8> {
    println!("{report}");
    let json = serde_json::to_string_pretty(report)?;
    if let Some(path) = &options.json {
        std::fs::write(path, &json).with_context(|| format!("write {}", path.display()))?;
    }
    if report.passed() {
        return Ok(0);
    }
    std::fs::write(ground.work.join("report.json"), &json)?;
    let file = std::fs::File::create(ground.work.join("history.jsonl"))?;
    history.write(std::io::BufWriter::new(file))?;
    println!("logs, data images, history and report are kept in {}", ground.work.display());
    Ok(FAILED)
}
