//! Stopping the deployment of another process, and whatever one that was killed left behind.
//!
//! Invariant: when this answers without an error, no process of the deployment is left.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::plan::Plan;
use super::supervisor::{Supervisor, forget, try_lock};
use super::{Error, stale_processes};
use crate::process::signal;

/// Signals to the supervisor, with the wait after each: stop the children one after another, kill
/// them, die.
const ORDERS: [(Signal, Duration); 3] = [
    (Signal::SIGTERM, Duration::from_secs(60)),
    (Signal::SIGTERM, Duration::from_secs(30)),
    (Signal::SIGKILL, Duration::from_secs(10)),
];
const POLL: Duration = Duration::from_millis(25);

/// Stops the deployment that runs on `data`; returns whether there was anything to stop.
///
/// # Errors
/// [`Error::NoDeployment`] when none was ever started there; others when something is left.
pub async fn stop(data: &Path) -> Result<bool, Error> {
    let data = data.canonicalize().map_err(|_| Error::NoDeployment { data: data.to_owned() })?;
    if Plan::read(&data)?.is_none() && Supervisor::read(&data)?.is_none() {
        return Err(Error::NoDeployment { data });
    }
    let mut was_running = false;
    let mut lock = try_lock(&data)?;
    for (by, patience) in ORDERS {
        let deadline = Instant::now() + patience;
        let mut is_asked = false;
        while lock.is_none() && Instant::now() < deadline {
            was_running = true;
            if let Some(holder) = Supervisor::read(&data)?.filter(|it| !is_asked && it.runs()) {
                signal(holder.pid, by);
                is_asked = true;
            }
            tokio::time::sleep(POLL).await;
            lock = try_lock(&data)?;
        }
    }
    let Some(_lock) = lock else {
        let supervisor = Supervisor::read(&data)?.map(|holder| holder.pid);
        return Err(Error::DoesNotStop { data, supervisor });
    };
    // As the supervisor wrote it last.
    if let Some(plan) = Plan::read(&data)? {
        was_running |= stale_processes::clear(&data, &plan).await?;
    }
    // A supervisor that was killed left its name.
    forget(&data)?;
    Ok(was_running)
}
