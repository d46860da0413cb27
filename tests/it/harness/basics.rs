//! Ports, a client of HTTP, and waiting for a state; shared with tests/lab.

#![expect(clippy::disallowed_methods, reason = "a test's own client")]

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Longest wait for any state: a loaded two-core machine keeps it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(25)).no_proxy();
    client.build().expect("a client")
}

/// A free port of loopback that is given out once: neither again by this process, nor by the system
/// as an ephemeral port, nor to a deployment.
pub(crate) fn free_port() -> u16 {
    free_ports_in_a_row(1)
}

/// The first of `count` ports in a row as [`free_port`] gives one, for `pghc dev --base-port`.
pub(crate) fn free_ports_in_a_row(count: u16) -> u16 {
    /// Ports below 9948; deployments begin at 10000.
    const LAST: u16 = 9_947;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random()));
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let first = 2_048 + NEXT.fetch_add(count, Ordering::Relaxed) % 7_900;
        if first + count - 1 <= LAST && (first..first + count).all(is_free) {
            return first;
        }
    }
}

/// `count` addresses with a [`free_port`] each.
pub(crate) fn free_addresses(count: usize) -> Vec<SocketAddr> {
    (0..count).map(|_| ([127, 0, 0, 1], free_port()).into()).collect()
}

/// Waits for a state, at most [`PATIENCE`].
pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
