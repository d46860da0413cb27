//! Crashes at chosen steps, to prove that none of them costs anything.
//!
//! Fail points exist only in a build with `debug_assertions`, and are active only while
//! `PGHC_FAILPOINTS` names a directory. A file there with the name of a point arms it for the first
//! process that passes: the file is renamed to `NAME.hit` and the process aborts, as by SIGKILL.
//! The file holds two numbers: how often the point is passed before that, and, for a point within a
//! statement, its duration in milliseconds by then. A release contains no fail points.

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A step at which a process may be made to crash.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($(#[$doc])* $point,)* }

        impl Point {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$point,)*];

            /// The name of the file that arms it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

points! {
    /// The right to migrate is held, nothing is changed yet.
    MigrateBegun = "migrate-begun",
    /// Roles are there, no migration is.
    MigrateRoles = "migrate-roles",
    /// Migrations are being run.
    MigrateRunning = "migrate-running",
    /// The schema is there and belongs to no cluster yet.
    MigrateUnclaimed = "migrate-unclaimed",
    /// The database is claimed and not looked at.
    MigrateClaimed = "migrate-claimed",
    /// The right to apply is being asked for.
    AcquireSent = "acquire-sent",
    /// The epoch is raised; no applier has begun in it.
    AcquireAnswered = "acquire-answered",
    /// Links are planned and not queued.
    Planned = "planned",
    /// A batch is built and nothing of it sent.
    ApplyBefore = "apply-before",
    /// The statement is at the server: before, within or after its commit.
    ApplySent = "apply-sent",
    /// The transaction is committed; the process has not seen the reply.
    ApplyAnswered = "apply-answered",
    /// The waiters are woken; no client has its reply.
    FrontierMoved = "frontier-moved",
    /// The lease is about to be renewed.
    RenewBefore = "renew-before",
    /// The statement is at the server.
    RenewSent = "renew-sent",
    /// The lease is renewed; the flushed frontier is not reported.
    RenewAnswered = "renew-answered",
    /// A page of another zone is checked and not passed on.
    FillChecked = "fill-checked",
    /// The batch is passed on and may not be applied.
    FillPassed = "fill-passed",
    /// A violation is known and not recorded.
    EvidenceBefore = "evidence-before",
    /// The evidence is being kept.
    EvidenceSent = "evidence-sent",
    /// The evidence is kept; the zone continues unchanged.
    EvidenceKept = "evidence-kept",
    /// A chain is about to be set aside.
    ReseedBefore = "reseed-before",
    /// The chain is being set aside.
    ReseedSent = "reseed-sent",
    /// The chain is set aside; the operator has no reply.
    ReseedDone = "reseed-done",
    /// A halted zone has seen that its database was replaced.
    ReplacedSeen = "replaced-seen",
}

#[cfg(debug_assertions)]
mod armed {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::Point;

    /// How often each armed point was passed.
    static PASSED: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

    fn file(point: Point) -> Option<PathBuf> {
        std::env::var_os("PGHC_FAILPOINTS")
            .map(|directory| PathBuf::from(directory).join(point.name()))
    }

    /// For how long the statement shall be under way when the process crashes, if it is its turn.
    fn due(point: Point) -> Option<Duration> {
        let text = std::fs::read_to_string(file(point)?).ok()?;
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
        let (to_pass, millis) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let mut passed = PASSED.lock();
        let count = passed.entry(point.name()).or_insert(0);
        *count += 1;
        (*count > to_pass).then(|| Duration::from_millis(millis))
    }

    fn crash(point: Point) {
        let Some(file) = file(point) else { return };
        // Another process may have been faster: then that one crashes.
        if std::fs::rename(&file, file.with_extension("hit")).is_ok() {
            crate::telemetry::say(&format!("failpoint {}: this process aborts", point.name()));
            std::process::abort();
        }
    }

    /// Crashes here if the point is armed.
    pub fn pass(point: Point) {
        if due(point).is_some() {
            crash(point);
        }
    }

    /// Does `work`, and crashes within or right after it if the point is armed.
    pub async fn within<T>(point: Point, work: impl Future<Output = T>) -> T {
        let Some(after) = due(point) else { return work.await };
        let done = tokio::select! {
            biased;
            done = work => Some(done),
            () = tokio::time::sleep(after) => None,
        };
        crash(point);
        match done {
            Some(done) => done,
            // The work is cancelled, as by a crash; a caller that still lives must not take it for done.
            None => std::future::pending().await,
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::{pass, within};

/// Does nothing: this build knows no fail points.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn pass(_: Point) {}

/// Does `work`: this build knows no fail points.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn within<T, F: Future<Output = T>>(_: Point, work: F) -> F {
    work
}
