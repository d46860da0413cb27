//! `pghc-nemesis`: real processes, real PostgreSQL and real disks under a seeded schedule of faults,
//! with load, and the whole history checked.
//!
//! Everything runs in a sandbox of namespaces and file system images and dies with it. A run passes
//! only if everything was checked, nothing was wrong, every scheduled fault really happened, and
//! enough was seen.

mod check;
mod cluster;
mod command;
mod cuts;
mod ext4;
mod faults;
mod load;
mod measure;
mod report;
mod run;
mod sandbox;
mod schedule;
mod soak;

use std::process::ExitCode;

use clap::Parser as _;
use sandbox::Stage;

fn main() -> ExitCode {
    let arguments = command::Arguments::parse();
    let ended = match Stage::current() {
        Stage::Init => sandbox::init(),
        stage => runtime().and_then(|runtime| runtime.block_on(command::run(arguments, stage))),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pghc-nemesis: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
