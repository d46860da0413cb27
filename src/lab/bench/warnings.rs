//! Warnings that limit the value of the figures. Pure.

use super::case::BenchmarkCase;
use super::sample::{Round, Turn};
use super::spread::Spread;
use super::targets::PerformanceTarget;

/// Rounds below which a median says little.
const ROUNDS_MIN: usize = 5;
/// Widest spread of the probes of cores, as a share of their median.
const CPU_WIDTH_MAX: f64 = 0.35;
/// Widest spread of the probes of the disk.
const FLUSH_WIDTH_MAX: f64 = 1.0;
/// Widest spread of a target's ratio.
const RATIO_WIDTH_MAX: f64 = 0.4;
/// Share of the turns' operations that may have failed.
const FAILED_MAX: f64 = 0.01;

/// Everything that speaks against the figures of `rounds` and the `targets` made of them.
pub(super) fn warnings(rounds: &[Round], targets: &[PerformanceTarget]) -> Vec<String> {
    let turns = || rounds.iter().flat_map(|round| &round.turns);
    let mut warnings = Vec::new();
    if rounds.len() < ROUNDS_MIN {
        let count = match rounds.len() {
            1 => "one round".to_owned(),
            count => format!("{count} rounds"),
        };
        warnings.push(format!("{count}: a median needs {ROUNDS_MIN} to be worth the name"));
    }
    let cpu = Spread::of(turns().map(|turn| turn.machine.cpu_ms));
    if let Some(cpu) = cpu.filter(|cpu| cpu.width() > CPU_WIDTH_MAX) {
        warnings.push(format!(
            "the same work on all cores took {:.0} to {:.0} ms: something else uses this machine",
            cpu.min, cpu.max
        ));
    }
    let flush = Spread::of(turns().map(|turn| turn.machine.flush_ms));
    if let Some(flush) = flush.filter(|flush| flush.width() > FLUSH_WIDTH_MAX) {
        warnings.push(format!(
            "a flush to disk took {:.2} to {:.2} ms: something else uses this disk",
            flush.min, flush.max
        ));
    }
    for target in targets.iter().filter(|target| is_wide(target)) {
        let Spread { min, max, .. } = target.value;
        warnings.push(format!("{}: {min:.2} to {max:.2} from round to round", target.name));
    }
    for case in BenchmarkCase::ALL.iter().filter(|one| **one != BenchmarkCase::Overload) {
        let of = turns().filter(|turn| turn.case == *case);
        let failed = of.filter(|turn| has_failed(turn)).count();
        if failed > 0 {
            warnings.push(format!(
                "{case}: over 1 % of the operations failed, in {failed} of the rounds"
            ));
        }
    }
    warnings
}

/// Whether the rounds differ so widely that their median is chance. A target met in every round may
/// vary.
fn is_wide(target: &PerformanceTarget) -> bool {
    target.value.width() > RATIO_WIDTH_MAX && !(target.met && target.certain)
}

#[expect(clippy::cast_precision_loss, reason = "counts of one turn are far below 2^52")]
fn has_failed(turn: &Turn) -> bool {
    let done = turn.sample.per_second * turn.seconds;
    turn.sample.failures as f64 > FAILED_MAX * done
}

#[cfg(test)]
mod tests {
    use super::warnings;
    use crate::bench::case::BenchmarkCase;
    use crate::bench::probe::Probe;
    use crate::bench::sample::{Round, Sample, Turn};
    use crate::bench::targets::targets;

    fn round(single: f64, cpu_ms: f64, failures: u64) -> Round {
        let machine = Probe { cpu_ms, flush_ms: 0.1 };
        let turn = |case, sample| Turn { case, machine, client_cores: None, seconds: 2.0, sample };
        let single = Sample { failures, ..Sample::new(single) };
        let plain = turn(BenchmarkCase::Plain, Sample::new(100.0));
        Round { turns: vec![turn(BenchmarkCase::Single, single), plain] }
    }

    fn check(rounds: [(f64, f64, u64); 5]) -> Vec<String> {
        let rounds = rounds.map(|(single, cpu, failures)| round(single, cpu, failures));
        warnings(&rounds, &targets(&rounds))
    }

    #[test]
    fn a_quiet_machine_raises_no_doubt() {
        assert_eq!(check([(50.0, 20.0, 0); 5]), Vec::<String>::new());
    }

    #[test]
    fn busy_machine_gives_warnings() {
        let mut rounds = [(50.0, 20.0, 0); 5];
        rounds[2].1 = 40.0;
        assert!(check(rounds)[0].contains("20 to 40 ms"));
        rounds = [(50.0, 20.0, 0); 5];
        rounds[2].0 = 20.0;
        assert!(check(rounds)[0].contains("0.20 to 0.50"));
        rounds = [(50.0, 20.0, 0); 5];
        rounds[2].2 = 10;
        assert!(check(rounds)[0].contains("in 1 of the rounds"));
        let few = [round(50.0, 20.0, 0)];
        assert!(warnings(&few, &targets(&few))[0].contains("one round"));
    }
}
