//! Measures the coordinator's log against a plain loop of write and fdatasync, on one disk in one
//! run: `cargo run --release --example log-bench [DIRECTORY]`.
//!
//! Latency is from the call to its callback. The plain loops show what the disk can do: a growing
//! file is what most logs write, a file full of zeros is what this one writes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use pghc_server::coordinator::log::{Log, Options, Record};

const SECONDS: u64 = 3;
const CONCURRENT: usize = 64;

/// Appends and their latencies in nanoseconds.
struct Figures {
    elapsed: Duration,
    latency: Histogram<u64>,
}

impl Figures {
    fn measure(
        run: impl FnOnce(&mut dyn FnMut(Instant), Instant) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
        let begun = Instant::now();
        let mut note = |at: Instant| latency.saturating_record(nanos(at.elapsed()));
        run(&mut note, begun + Duration::from_secs(SECONDS))?;
        Ok(Self { elapsed: begun.elapsed(), latency })
    }

    fn print(&self, what: &str, bytes: usize) {
        let micros = |quantile| self.latency.value_at_quantile(quantile) / 1000;
        let rate = u128::from(self.latency.len()) * 1000 / self.elapsed.as_millis().max(1);
        println!(
            "{what:<28} {bytes:>6} B {rate:>8}/s   p50 {:>6} us   p99 {:>6} us   max {:>7} us",
            micros(0.5),
            micros(0.99),
            self.latency.max() / 1000
        );
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes that no file system compresses.
fn body(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    noise.flatten().take(bytes).collect()
}

/// Write and fdatasync at the end of a file, after `zeros` bytes of zeros were put there.
fn plain(dir: &Path, bytes: usize, zeros: usize) -> anyhow::Result<Figures> {
    let file = File::create(dir.join("plain"))?;
    file.write_all_at(&vec![0; zeros], 0)?;
    file.sync_all()?;
    let body = body(bytes);
    let room = zeros.checked_sub(bytes).filter(|room| *room > 0);
    Figures::measure(|note, end| {
        let mut offset = 0_u64;
        while Instant::now() < end {
            let at = Instant::now();
            file.write_all_at(&body, offset)?;
            file.sync_data()?;
            note(at);
            offset += bytes as u64;
            offset = room.map_or(offset, |room| offset % room as u64);
        }
        Ok(())
    })
}

/// Appends with `writers` under way at any time.
fn log(dir: &Path, bytes: usize, writers: usize) -> anyhow::Result<Figures> {
    let log = Log::open(&dir.join(format!("log-{bytes}-{writers}")), Options::default())?;
    let body = body(bytes);
    let (sender, receiver) = mpsc::sync_channel(writers);
    let append = |index: u64| {
        let (sender, at) = (sender.clone(), Instant::now());
        let record = Record { index, body: body.clone() };
        log.append(vec![record], Box::new(move |result| drop(sender.send(result.map(|()| at)))))
    };
    let figures = Figures::measure(|note, end| {
        let mut next = 0;
        for _ in 0..writers {
            append(next)?;
            next += 1;
        }
        for answered in 0.. {
            note(receiver.recv()??);
            if Instant::now() < end {
                append(next)?;
                next += 1;
                // Purging as a coordinator does, so that segments are used again.
                if next % 10_000 == 0 {
                    log.purge_to(next - 5_000, Bytes::new())?;
                }
            } else if answered + 1 == next {
                break;
            }
        }
        Ok(())
    })?;
    log.close()?;
    Ok(figures)
}

fn main() -> anyhow::Result<()> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = parent.join(format!("log-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    println!("{SECONDS} s each in {}", dir.display());
    let run = || -> anyhow::Result<()> {
        for bytes in [200, 13_000] {
            plain(&dir, bytes, 0)?.print("plain, growing file", bytes);
            plain(&dir, bytes, 64 << 20)?.print("plain, file of zeros", bytes);
            log(&dir, bytes, 1)?.print("log, one writer", bytes);
            log(&dir, bytes, CONCURRENT)?.print("log, 64 concurrent", bytes);
        }
        Ok(())
    };
    let result = run();
    std::fs::remove_dir_all(&dir)?;
    result
}
