//! How this node stands in its zone: what the applier knows and reports and HTTP tell.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::frontier::Frontier;

/// Shared between the applier (which writes it), the reports and the service (which read it).
pub(super) struct Standing {
    /// The zone's frontier as this node knows it.
    pub(super) frontier: Frontier,
    is_applier: AtomicBool,
    /// Newest id that survives a crash of the database.
    flushed: AtomicU64,
    /// Why the database cannot be used at the moment; `None` while it can.
    database: Mutex<Option<String>>,
    /// Why no coordinator can feed this zone; `None` while one can.
    feed: Mutex<Option<String>>,
}

impl Standing {
    pub(super) fn new() -> Self {
        Self {
            frontier: Frontier::new(),
            is_applier: AtomicBool::new(false),
            flushed: AtomicU64::new(0),
            database: Mutex::new(Some("the database was not reached yet".to_owned())),
            feed: Mutex::new(None),
        }
    }

    pub(super) fn is_applier(&self) -> bool {
        self.is_applier.load(Ordering::Relaxed)
    }

    pub(super) fn set_applier(&self, is_applier: bool) {
        self.is_applier.store(is_applier, Ordering::Relaxed);
    }

    pub(super) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Relaxed)
    }

    pub(super) fn set_flushed(&self, id: u64) {
        self.flushed.store(id, Ordering::Relaxed);
    }

    /// Why the database cannot be used at the moment.
    pub(super) fn database_trouble(&self) -> Option<String> {
        self.database.lock().clone()
    }

    /// What keeps this zone from getting on, though it tries: its database, or its feed.
    pub(super) fn trouble(&self) -> Option<String> {
        self.database_trouble().or_else(|| self.feed.lock().clone())
    }

    /// Whether and why no coordinator can feed this zone.
    pub(super) fn feed_fails(&self, why: Option<String>) {
        let mut known = self.feed.lock();
        if *known == why {
            return;
        }
        if let Some(why) = &why {
            tracing::error!(why, "this zone cannot catch up by itself");
        }
        *known = why;
    }

    /// The database answers.
    pub(super) fn database_is_well(&self) {
        if self.database.lock().take().is_some() {
            tracing::info!("the zone's database answers");
        }
    }

    /// The database does not answer; logged when it is news.
    pub(super) fn database_fails(&self, why: &dyn std::fmt::Display) {
        let why = why.to_string();
        let mut known = self.database.lock();
        if known.as_ref() != Some(&why) {
            tracing::warn!(error = why, "the zone's database does not answer; trying again");
            *known = Some(why);
        }
    }
}
