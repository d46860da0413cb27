//! Measures the emulator's precision on this machine before it is used: pings through the real
//! proxy, timer and sockets, over a line of a known delay.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pghc_runtime::task::Tasks;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::lines::Lane;
use super::proxy::{self, Route};
use super::stats::Counters;
use super::timer::Timer;

/// Pings of one check.
const PINGS: u32 = 200;

/// Time between two pings.
const GAP: Duration = Duration::from_millis(3);

/// One-way delay of the measured line.
const DELAY: Duration = Duration::from_millis(20);

/// Longest time the check may take.
const CHECK_MAX: Duration = Duration::from_secs(10);

/// Result of a check, in microseconds for one way: half of the excess of a round trip. The value
/// includes the wake-up of both ends, so it is an upper bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelfCheck {
    /// Half of the pings were at most this late.
    pub late_p50_us: u64,
    /// 99 of 100 were.
    pub late_p99_us: u64,
}

/// Measures, within a second on a machine with nothing else to do.
///
/// # Errors
/// When the loopback interface does not work, or nothing comes back in time.
pub(super) async fn run(timer: &Timer) -> io::Result<SelfCheck> {
    let tasks = Tasks::default();
    let checked = tokio::time::timeout(CHECK_MAX, measure(timer, &tasks)).await;
    tasks.shut_down().await;
    checked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn measure(timer: &Timer, tasks: &Tasks) -> io::Result<SelfCheck> {
    let route = Route {
        upstream: echo(tasks).await?,
        to_server: Lane::alone(DELAY),
        to_client: Lane::alone(DELAY),
        timer: timer.clone(),
        counters: Arc::new(Counters::new()),
        tasks: tasks.clone(),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tasks.spawn("wan check", proxy::serve(listener, route));
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.into_split();
    // The first ping pays for the handshake.
    write.write_all(&[0]).await?;
    read.read_exact(&mut [0]).await?;
    let begin = Instant::now() + GAP;
    let send = async {
        let mut sent = Vec::with_capacity(PINGS as usize);
        for ping in 0..PINGS {
            timer.sleep_until(begin + ping * GAP).await;
            sent.push(Instant::now());
            write.write_all(&[1]).await?;
        }
        Ok::<_, io::Error>(sent)
    };
    let receive = async {
        let mut received = Vec::with_capacity(PINGS as usize);
        let mut bytes = [0; 64];
        while received.len() < PINGS as usize {
            let count = read.read(&mut bytes).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            received.extend(std::iter::repeat_n(Instant::now(), count));
        }
        Ok(received)
    };
    let (sent, received) = tokio::try_join!(send, receive)?;
    let late =
        |(sent, received): (Instant, Instant)| (received - sent).saturating_sub(2 * DELAY) / 2;
    let mut late: Vec<Duration> = sent.into_iter().zip(received).map(late).collect();
    late.sort();
    let at = |share: usize| {
        u64::try_from(late[(late.len() * share / 100).min(late.len() - 1)].as_micros())
    };
    let (p50, p99) = (at(50).unwrap_or(u64::MAX), at(99).unwrap_or(u64::MAX));
    Ok(SelfCheck { late_p50_us: p50, late_p99_us: p99 })
}

async fn echo(tasks: &Tasks) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tasks.spawn("wan check echo", async move {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        // Without it the answers would be gathered; a failure shows as lateness.
        let _: io::Result<()> = stream.set_nodelay(true);
        let (mut read, mut write) = stream.split();
        let _: io::Result<u64> = tokio::io::copy(&mut read, &mut write).await;
    });
    Ok(address)
}
