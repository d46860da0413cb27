//! Measures the checker: `cargo run --release -p pghc-history --example sweep -- 10000000 [SEED]`.

use std::time::Instant;

use pghc_history::synthetic::{Settings, cluster};
use pghc_history::{Options, Verdict, check};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let operations = number(1_000_000);
    let seed = number(1);
    let operations = usize::try_from(operations).expect("as many as fit into memory");
    let made = Instant::now();
    let run = Settings { operations, clients: 64, zones: 3 }.run(seed);
    println!(
        "seed {seed}: {} operations made in {:.1?}",
        run.history.operations.len(),
        made.elapsed()
    );
    let started = Instant::now();
    let report = check(&run.history, &run.zones, &Options::new(cluster()));
    let took = started.elapsed();
    print!("{}", report.render(&run.history));
    let rate = run.history.operations.len() as f64 / took.as_secs_f64() / 1e6;
    println!("checked with 3 zones in {took:.2?}: {rate:.1} million operations a second");
    assert_eq!(report.verdict(), Verdict::Sound);
}
