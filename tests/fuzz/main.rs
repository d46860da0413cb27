//! Bounded fuzzing of every parser of outside bytes, by seed, with the tool chain of the project:
//! `cargo test --test fuzz`. No input may panic, take long or break a property.
//!
//! `PGHC_FUZZ_EXECUTIONS=1000000` makes it longer, `PGHC_SEED=7` repeats a run, and
//! `PGHC_FUZZ_TARGET=log` picks a target. A failure prints the input; put it into
//! `tests/fuzz/regressions/<target>-<what>` with the mend, and every run tries it first.

#![cfg(debug_assertions)]

mod mutate;
mod targets;

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mutate::Random;
use targets::{TARGETS, Target};

/// Default number of inputs of each target.
const EXECUTIONS: u64 = 50_000;

/// Time limit for one input, on a busy machine.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);

/// Most memory that one target, and those beside it, may add to the process, in KiB: inputs are at most
/// 4 KiB long.
const MEMORY_KIB_MAX: u64 = 128 << 10;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Most memory that this process ever had, in KiB.
fn memory_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Inputs that once broke something.
fn regressions(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/regressions");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let name = format!("{}-", target.name);
    let ours = |path: &Path| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name))
    };
    paths
        .iter()
        .filter(|path| ours(path))
        .map(|path| std::fs::read(path).expect("readable"))
        .collect()
}

/// Runs one input; a panic is reported with its input.
fn execute(target: &Target, input: &[u8], seed: u64) {
    let started = Instant::now();
    let panicked = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err();
    let shown = input.escape_ascii();
    assert!(!panicked, "target {} of seed {seed} panicked on b\"{shown}\"", target.name);
    let took = started.elapsed();
    assert!(took < INPUT_TIME_MAX, "target {} took {took:?} on b\"{shown}\"", target.name);
}

fn run(target: &Target, seed: u64, executions: u64) {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has no input to start from", target.name);
    let known = regressions(target);
    for input in seeds.iter().chain(&known) {
        execute(target, input, seed);
    }
    let corpus = [seeds, known].concat();
    let memory = memory_peak_kib();
    let mut random = Random(seed);
    for _ in 0..executions {
        let input = random.input(&corpus, target.words);
        execute(target, &input, seed);
    }
    let grown = memory_peak_kib().saturating_sub(memory);
    assert!(grown < MEMORY_KIB_MAX, "{} took {grown} KiB of memory", target.name);
}

#[test]
fn no_input_panics_hangs_or_breaks_a_property() {
    let seed = setting("PGHC_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs()
    });
    println!("run again with PGHC_SEED={seed}");
    let executions = setting("PGHC_FUZZ_EXECUTIONS").unwrap_or(EXECUTIONS);
    let wanted = std::env::var("PGHC_FUZZ_TARGET").unwrap_or_default();
    let is_wanted = |target: &&Target| wanted.is_empty() || target.name == wanted;
    let left = Mutex::new(TARGETS.iter().filter(is_wanted));
    let next = || left.lock().expect("no panic while it is held").next();
    let work = || {
        while let Some(target) = next() {
            let started = Instant::now();
            run(target, seed, executions);
            println!("{}: {executions} inputs in {:.1?}", target.name, started.elapsed());
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });
}

#[test]
fn the_same_seed_makes_the_same_inputs() {
    let inputs = |seed| {
        let corpus = [b"{}".to_vec(), b"[1,2]".to_vec()];
        let mut random = Random(seed);
        (0..100).map(|_| random.input(&corpus, &["word"])).collect::<Vec<_>>()
    };
    assert_eq!(inputs(7), inputs(7));
    assert_ne!(inputs(7), inputs(8));
}
