//! Why figures may be worth less than they look: pure.

use super::contestant::Contestant;
use super::marks::Mark;
use super::sample::{Round, Turn};
use super::spread::Spread;

/// Rounds below which a median says little.
const ROUNDS_MIN: usize = 5;
/// Widest spread of the probes of cores, as a share of their median.
const CPU_WIDTH_MAX: f64 = 0.35;
/// Widest spread of the probes of the disk.
const FLUSH_WIDTH_MAX: f64 = 1.0;
/// Widest spread of a mark's ratio.
const RATIO_WIDTH_MAX: f64 = 0.4;
/// Share of the turns' operations that may have failed.
const FAILED_MAX: f64 = 0.01;

/// Everything that speaks against the figures of `rounds` and the `marks` made of them.
pub(super) fn doubts(rounds: &[Round], marks: &[Mark]) -> Vec<String> {
    let turns = || rounds.iter().flat_map(|round| &round.turns);
    let mut doubts = Vec::new();
    if rounds.len() < ROUNDS_MIN {
        let count = match rounds.len() {
            1 => "one round".to_owned(),
            count => format!("{count} rounds"),
        };
        doubts.push(format!("{count}: a median needs {ROUNDS_MIN} to be worth the name"));
    }
    let cpu = Spread::of(turns().map(|turn| turn.machine.cpu_ms));
    if let Some(cpu) = cpu.filter(|cpu| cpu.width() > CPU_WIDTH_MAX) {
        doubts.push(format!(
            "the same work on all cores took {:.0} to {:.0} ms: something else uses this machine",
            cpu.min, cpu.max
        ));
    }
    let flush = Spread::of(turns().map(|turn| turn.machine.flush_ms));
    if let Some(flush) = flush.filter(|flush| flush.width() > FLUSH_WIDTH_MAX) {
        doubts.push(format!(
            "a flush to disk took {:.2} to {:.2} ms: something else uses this disk",
            flush.min, flush.max
        ));
    }
    for mark in marks.iter().filter(|mark| is_wide(mark)) {
        let Spread { min, max, .. } = mark.value;
        doubts.push(format!("{}: {min:.2} to {max:.2} from round to round", mark.name));
    }
    for contestant in Contestant::ALL.iter().filter(|one| **one != Contestant::Overload) {
        let of = turns().filter(|turn| turn.contestant == *contestant);
        let failed = of.filter(|turn| has_failed(turn)).count();
        if failed > 0 {
            doubts.push(format!(
                "{contestant}: over 1 % of the operations failed, in {failed} of the rounds"
            ));
        }
    }
    doubts
}

/// Whether rounds differ so much that their median is chance. What is far on the right side of its
/// mark in all rounds may differ as it likes.
fn is_wide(mark: &Mark) -> bool {
    mark.value.width() > RATIO_WIDTH_MAX && !(mark.met && mark.certain)
}

#[expect(clippy::cast_precision_loss, reason = "counts of one turn are far below 2^52")]
fn has_failed(turn: &Turn) -> bool {
    let done = turn.sample.per_second * turn.seconds;
    turn.sample.failures as f64 > FAILED_MAX * done
}

#[cfg(test)]
mod tests {
    use super::doubts;
    use crate::lab::bench::contestant::Contestant;
    use crate::lab::bench::marks::marks;
    use crate::lab::bench::probe::Probe;
    use crate::lab::bench::sample::{Round, Sample, Turn};

    fn round(single: f64, cpu_ms: f64, failures: u64) -> Round {
        let machine = Probe { cpu_ms, flush_ms: 0.1 };
        let turn = |contestant, sample| Turn {
            contestant,
            machine,
            client_cores: None,
            seconds: 2.0,
            sample,
        };
        let single = Sample { failures, ..Sample::new(single) };
        let plain = turn(Contestant::Plain, Sample::new(100.0));
        Round { turns: vec![turn(Contestant::Single, single), plain] }
    }

    fn check(rounds: [(f64, f64, u64); 5]) -> Vec<String> {
        let rounds = rounds.map(|(single, cpu, failures)| round(single, cpu, failures));
        doubts(&rounds, &marks(&rounds))
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
        assert!(doubts(&few, &marks(&few))[0].contains("one round"));
    }
}
