//! `env.json` of a run: what it ran on, so that figures of different machines are not compared by
//! mistake. Nothing in it names a person or a host.

use std::fs;

use pghc_wan::SelfCheck;
use serde::Serialize;

use super::outcome::Outcome;

/// Machine and program of a run. Values that the system does not report are absent.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// Version of this program.
    pub program: &'static str,
    /// Commit it was built from: `PGHC_COMMIT` at the time of building.
    pub commit: Option<&'static str>,
    /// Whether it was built with optimisations.
    pub optimised: bool,
    /// Operating system and architecture.
    pub system: String,
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// Model of the processor.
    pub processor: Option<String>,
    /// How many processors this program may use.
    pub processors: Option<usize>,
    /// Memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Whether the run was in virtual time, where the machine decides nothing but its own patience.
    pub is_virtual: bool,
    /// How exact the emulator of the distances was before the run.
    pub matrix_check: Option<SelfCheck>,
}

impl Environment {
    /// Of this machine, for a run.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let kernel = read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        let kilobytes = meminfo.and_then(|text| {
            field(&text, "MemTotal")?.strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        Self {
            program: env!("CARGO_PKG_VERSION"),
            commit: option_env!("PGHC_COMMIT"),
            optimised: !cfg!(debug_assertions),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            kernel,
            processor: cpuinfo.and_then(|text| field(&text, "model name").map(str::to_owned)),
            processors: std::thread::available_parallelism().ok().map(usize::from),
            memory_bytes: kilobytes.map(|kilobytes| kilobytes * 1024),
            is_virtual: outcome.is_virtual,
            matrix_check: outcome.emulator_check,
        }
    }
}

/// The value of the first line `name: value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn the_first_line_of_a_name_counts() {
        let text = "processor\t: 0\nmodel name\t: A: B\nmodel name\t: C\n";
        assert_eq!(field(text, "model name"), Some("A: B"));
        assert_eq!(field(text, "flags"), None);
    }
}
