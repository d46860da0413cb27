//! Progress of a verification: written by the checks, read by the display.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

/// One source's progress, in links.
#[derive(Debug)]
pub struct Lane {
    /// Name of the source.
    pub name: String,
    /// Links to check.
    pub total: AtomicU64,
    /// Number of checked links.
    pub checked: AtomicU64,
}

/// The progress of every source that is being checked.
#[derive(Debug, Default)]
pub struct Progress {
    lanes: Mutex<Vec<Arc<Lane>>>,
}

impl Progress {
    pub(crate) fn lane(&self, name: &str) -> Arc<Lane> {
        let (total, checked) = (AtomicU64::new(0), AtomicU64::new(0));
        let lane = Arc::new(Lane { name: name.to_owned(), total, checked });
        self.lanes.lock().push(Arc::clone(&lane));
        lane
    }

    /// The sources under check.
    #[must_use]
    pub fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().clone()
    }
}
