//! Judges recorded runs again: `cargo run -p pghc-history --example check -- FILE...`.
//! Ends with 0 if the history is sound, with 1 if not, with 2 if it cannot be read.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use pghc_history::jsonl::{Error, Run};
use pghc_history::{Options, Verdict, check};

fn main() -> ExitCode {
    let mut run = Run::default();
    for path in std::env::args().skip(1) {
        let read = File::open(&path).map_err(Error::from);
        if let Err(error) = read.and_then(|file| run.read(BufReader::new(file))) {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            eprintln!("{path}: {error}{}", cause.unwrap_or_default());
            return ExitCode::from(2);
        }
    }
    let Some(cluster) = run.cluster.clone() else {
        eprintln!("usage: check FILE... (JSON lines as pghc_history::jsonl describes them)");
        return ExitCode::from(2);
    };
    let report = check(&run.history, &run.zones, &Options::new(cluster));
    print!("{}", report.render(&run.history));
    ExitCode::from(u8::from(report.verdict() != Verdict::Sound))
}
