//! How fast the machine itself is at the moment: the same work on every core, and the disk's
//! answer to a flush. Measured before each turn, so that a report can tell a slow benchmark case from a
//! machine that was busy elsewhere.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

/// Steps of the work for each core: about 20 ms in a release build.
const STEPS: u64 = 10_000_000;
/// Flushes of which the median is taken.
const FLUSHES: usize = 31;
/// Bytes written before each flush: a page of PostgreSQL.
const PAGE_BYTES: usize = 8 << 10;

/// Result of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Probe {
    /// Time until all cores had done the same fixed work, in milliseconds.
    pub cpu_ms: f64,
    /// Median time of writing 8 KiB and waiting for the disk, in milliseconds.
    pub flush_ms: f64,
}

impl Probe {
    /// Probes cores, and the disk that holds `directory`. Takes some 30 ms of all cores.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(super) async fn take(directory: &Path) -> anyhow::Result<Self> {
        let file = directory.join("flush-probe");
        let probing = tokio::task::spawn_blocking(move || {
            let flush_ms = flush_ms(&file).context("cannot probe the disk")?;
            Ok(Self { cpu_ms: cpu_ms(), flush_ms })
        });
        probing.await.context("the probe panicked")?
    }
}

fn cpu_ms() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for core in 0..cores {
            scope.spawn(move || {
                // Each step needs the one before, so nothing can be left out or done at once.
                let mut state = black_box(core as u64 + 1);
                for _ in 0..STEPS {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                }
                black_box(state)
            });
        }
    });
    ms(begun.elapsed())
}

fn flush_ms(file: &Path) -> std::io::Result<f64> {
    let file = File::options().create(true).truncate(false).write(true).open(file)?;
    let page = [1; PAGE_BYTES];
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        let begun = Instant::now();
        file.write_all_at(&page, 0)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(ms(times[FLUSHES / 2]))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// CPU time of this process since its start, all threads together; `None` where the system does not
/// report it. A generator that uses much of the machine makes pghc look slower.
pub(super) fn own_cpu() -> Option<Duration> {
    cpu_of(std::process::id())
}

/// As [`own_cpu`], of another process; `None` when the process has ended.
pub(super) fn cpu_of(pid: u32) -> Option<Duration> {
    /// Ticks a second of `/proc`: fixed by Linux's interface, whatever the kernel's own clock does.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in parentheses and may contain spaces; the state is the first field
    // after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) / TICKS))
}

#[cfg(test)]
mod tests {
    use super::{Probe, own_cpu};

    #[tokio::test]
    async fn probe_measures_cores_with_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let probe = Probe::take(directory.path()).await.expect("it is ours");
        assert!(probe.cpu_ms > 0.0 && probe.flush_ms > 0.0, "{probe:?}");
        if cfg!(target_os = "linux") {
            assert!(own_cpu().expect("/proc is there").as_millis() > 0);
        }
    }
}
