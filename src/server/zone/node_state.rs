//! The state of this node in its zone: written by applier, guard and reporters, read by reports and by HTTP.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pghc_api::id::WriteId;
use pghc_postgres::{Finding, MigrateError};
use pghc_runtime::task::fair_watch;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::audit::witness::Mark;
use super::conditions::{Change, Condition, Conditions};
use super::read::frontier::Frontier;

/// Most links that are remembered to be what was ordered: those of the newest batches.
const KNOWN_MAX: usize = 256;

/// How far the backfill of a zone from another one is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BackfillProgress {
    /// The zone it is filled from.
    pub(crate) zone: String,
    /// Newest id that was read.
    pub(crate) at: u64,
    /// Newest committed id.
    pub(crate) target: u64,
    /// Ids a second.
    pub(crate) rate: f64,
}

impl std::fmt::Display for BackfillProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { zone, at, target, rate } = self;
        write!(f, "backfilling from zone {zone}: at id {at} of {target}, {rate:.0} ids/s")
    }
}

/// Shared between the applier (which writes it), the reports and the service (which read it).
pub(crate) struct NodeState {
    /// The zone's frontier as this node knows it.
    pub(crate) frontier: Frontier,
    is_applier: AtomicBool,
    /// Newest id that survives a crash of the database.
    flushed: AtomicU64,
    conditions: Mutex<Conditions>,
    /// Findings about the schema of the database, and whether a node that starts would halt for them.
    schema: Mutex<Option<(String, bool)>>,
    /// How far the backfill from another zone is; `None` while there is none.
    backfill: Mutex<Option<BackfillProgress>>,
    /// Why this zone must be fenced, as the guard or the auditor found it.
    fenced: fair_watch::Sender<Option<String>>,
    /// The answer of each coordinator to the last report: the reason of a refusal, if it refused.
    said: Mutex<BTreeMap<usize, Option<String>>>,
    /// Why a node of this zone would not start, as it was logged last.
    unfit: Mutex<Vec<Finding>>,
    /// Links of the chain that was ordered, as this node applied them or the coordinators vouched for
    /// them: the newest [`KNOWN_MAX`].
    known: Mutex<VecDeque<Mark>>,
    /// The newest of them.
    known_id: AtomicU64,
    /// Asks the guard to look now.
    recheck: Notify,
    /// First link that a read found changed and that was not looked into yet.
    changed: Mutex<Option<WriteId>>,
    /// System identifier of the database's server, as last seen; empty while it is not known.
    system: Mutex<String>,
    /// Reason for which the chain is unproven; `None` while it is proven.
    doubt: fair_watch::Sender<Option<String>>,
}

impl NodeState {
    pub(crate) fn new() -> Self {
        let mut conditions = Conditions::default();
        let unreached = "the database was not reached yet".to_owned();
        conditions.set(Condition::DatabaseUnreachable, Some(unreached));
        Self {
            frontier: Frontier::new(),
            is_applier: AtomicBool::new(false),
            flushed: AtomicU64::new(0),
            conditions: Mutex::new(conditions),
            schema: Mutex::new(None),
            backfill: Mutex::new(None),
            fenced: fair_watch::Sender::new(None),
            said: Mutex::default(),
            unfit: Mutex::default(),
            known: Mutex::default(),
            known_id: AtomicU64::new(0),
            recheck: Notify::new(),
            changed: Mutex::default(),
            system: Mutex::default(),
            doubt: fair_watch::Sender::new(Some("the chain was not compared yet".to_owned())),
        }
    }

    /// Link `at`, and with its digest all before it, is what was ordered: this node planned and applied it,
    /// or the coordinators vouched for it.
    pub(crate) fn know(&self, at: Mark) {
        self.known_id.fetch_max(at.0, Ordering::AcqRel);
        let mut known = self.known.lock();
        if known.back() != Some(&at) {
            known.push_back(at);
            if known.len() > KNOWN_MAX {
                known.pop_front();
            }
        }
    }

    /// Whether link `at` is known to be what was ordered.
    pub(crate) fn knows(&self, at: Mark) -> bool {
        self.known.lock().iter().rev().any(|known| *known == at)
    }

    /// Returns the newest id up to which this zone is known to hold the ordered chain; the frontier while
    /// this node knows no link.
    pub(crate) fn known_frontier(&self) -> u64 {
        match self.known_id.load(Ordering::Acquire) {
            0 => self.frontier.id(),
            newest => newest.min(self.frontier.id()),
        }
    }

    /// Begins to apply to a database that ends with link `at`, which is compared before it is served.
    pub(crate) fn takes_over(&self, at: Option<Mark>) {
        if at.is_some_and(|at| !self.knows(at)) {
            self.doubt("this node took over; the newest link was not compared yet");
            self.recheck.notify_one();
        }
    }

    /// Resolves when the guard should look, at the latest after `pause`.
    pub(crate) async fn recheck_within(&self, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.recheck.notified()).await;
    }

    /// A read found link `id` changed, removed or hidden.
    pub(crate) fn found_changed(&self, id: WriteId) {
        let mut known = self.changed.lock();
        *known = Some(known.map_or(id, |known| known.min(id)));
    }

    /// The first link that reads found changed since this was asked last.
    pub(crate) fn take_changed(&self) -> Option<WriteId> {
        self.changed.lock().take()
    }

    /// System identifier of the server that the zone's database is on; empty while it is not known.
    pub(crate) fn system(&self) -> String {
        self.system.lock().clone()
    }

    pub(crate) fn set_system(&self, system: &str) {
        let mut known = self.system.lock();
        if !system.is_empty() && *known != system {
            system.clone_into(&mut known);
        }
    }

    /// The chain is the one that was ordered.
    pub(crate) fn prove(&self) {
        let proven = self.doubt.send_if_modified(|doubt| doubt.take().is_some());
        if proven {
            tracing::info!("chain proven by the coordinators");
        }
    }

    /// Marks the chain unproven for `why`; reads are refused.
    pub(crate) fn doubt(&self, why: &str) {
        self.doubt.send_if_modified(|doubt| {
            let is_news = doubt.as_deref() != Some(why);
            if is_news {
                tracing::warn!(why, "chain unproven, reads refused");
                *doubt = Some(why.to_owned());
            }
            is_news
        });
    }

    /// Returns the reason for which the chain is unproven; `None` while it is proven.
    pub(crate) fn doubted(&self) -> Option<String> {
        self.doubt.borrow().clone()
    }

    /// Whether the chain is proven.
    pub(crate) fn is_proven(&self) -> bool {
        self.doubt.borrow().is_none()
    }

    /// Waits until the chain is proven or `deadline` passes; returns whether it is proven.
    pub(crate) async fn proven(&self, deadline: Instant) -> bool {
        let mut doubt = self.doubt.subscribe();
        timeout_at(deadline, doubt.wait_for(Option::is_none)).await.is_ok()
    }

    pub(crate) fn is_applier(&self) -> bool {
        self.is_applier.load(Ordering::Relaxed)
    }

    pub(crate) fn set_applier(&self, is_applier: bool) {
        self.is_applier.store(is_applier, Ordering::Relaxed);
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_flushed(&self, id: u64) {
        self.flushed.store(id, Ordering::Relaxed);
    }

    /// Why the database cannot be used at the moment.
    pub(crate) fn database_error(&self) -> Option<String> {
        self.reason(Condition::DatabaseUnreachable)
    }

    /// Returns why this zone does not advance: its database, the coordinators, its schema, or its
    /// feed.
    pub(crate) fn degraded_reason(&self) -> Option<String> {
        let condition = self.conditions.lock().first().map(str::to_owned);
        condition.or_else(|| self.schema_error()).or_else(|| self.doubted())
    }

    /// Why most coordinators refuse this node's reports; `None` while they take them. A node that is refused takes no
    /// writes: their links would bear a name that is not its own.
    pub(crate) fn refused(&self) -> Option<String> {
        self.reason(Condition::ReportsRefused)
    }

    /// How far the backfill from another zone is; `None` while there is none.
    pub(crate) fn backfill(&self) -> Option<String> {
        self.backfill.lock().as_ref().map(ToString::to_string)
    }

    pub(crate) fn set_backfill(&self, backfill: Option<BackfillProgress>) {
        let ends = backfill.is_none();
        let before = std::mem::replace(&mut *self.backfill.lock(), backfill);
        if let Some(before) = before.filter(|_| ends) {
            tracing::info!(last = %before, "backfill ended");
        }
    }

    /// Has the applier halt for this reason.
    pub(crate) fn fence(&self, why: String) {
        self.fenced.send_replace(Some(why));
    }

    /// Returns whether the zone must be fenced and the applier has not halted and resumed since.
    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.borrow().is_some()
    }

    /// Clears the fence, after the database was replaced.
    pub(crate) fn unfence(&self) {
        self.fenced.send_replace(None);
    }

    /// Resolves when the zone must be fenced, with the reason.
    pub(crate) async fn fenced(&self) -> String {
        let mut fenced = self.fenced.subscribe();
        let why = fenced.wait_for(Option::is_some).await.map(|why| why.clone());
        why.ok().flatten().expect("the sender is ours and lives, and there is a reason")
    }

    /// Sets why no batch is applied although the database answers other sessions; `None` while batches are applied.
    pub(crate) fn apply_stalls(&self, why: Option<String>) {
        self.set(Condition::ApplyStalled, why);
    }

    /// Records the answer of the coordinator in place `place` to a report: none, taken, or refused with a reason.
    /// The report counts as refused when more coordinators refuse than take it: one that has just started does
    /// not know all zones yet. Logged when it is news.
    pub(crate) fn report_answered(&self, place: usize, said: Option<Result<(), &str>>) {
        let why = {
            let mut all = self.said.lock();
            match said {
                None => drop(all.remove(&place)),
                Some(said) => drop(all.insert(place, said.err().map(ToOwned::to_owned))),
            }
            let refusals: Vec<&String> = all.values().flatten().collect();
            let is_refused = refusals.len() * 2 > all.len();
            refusals.first().filter(|_| is_refused).map(ToString::to_string)
        };
        self.set(Condition::ReportsRefused, why);
    }

    /// Sets why no coordinator's tail reaches this zone; `None` while one does.
    pub(crate) fn feed_fails(&self, why: Option<String>) {
        self.set(Condition::TailUnavailable, why);
    }

    /// Sets why the database answers no read; `None` while it does.
    pub(crate) fn reads_fail(&self, why: Option<String>) {
        self.set(Condition::ReadsFailing, why);
    }

    fn reason(&self, condition: Condition) -> Option<String> {
        self.conditions.lock().reason(condition).map(str::to_owned)
    }

    /// Sets or ends a condition, and logs its beginning, its end, and another reason for it.
    fn set(&self, condition: Condition, reason: Option<String>) {
        let change = self.conditions.lock().set(condition, reason.clone());
        log_change(condition, change, &reason.unwrap_or_default());
    }

    /// Sets the findings about the schema; a change is logged.
    pub(crate) fn schema_differs(&self, findings: &[Finding]) {
        let is_fatal = findings.iter().any(Finding::is_fatal);
        let why = MigrateError::Unfit(findings.to_vec()).to_string();
        let now = (!findings.is_empty()).then_some((why, is_fatal));
        let mut known = self.schema.lock();
        if *known == now {
            return;
        }
        for finding in findings {
            tracing::warn!(%finding, "schema changed while the node runs");
        }
        if now.is_none() {
            tracing::info!("schema correct again");
        }
        *known = now;
    }

    /// The database is unfit for `findings`; answers whether that was so when this was called last.
    pub(crate) fn is_unfit(&self, findings: &[Finding]) -> bool {
        let mut known = self.unfit.lock();
        let is_known = *known == findings;
        *known = findings.to_vec();
        is_known
    }

    /// Returns the findings about the schema for which a node that starts would halt.
    pub(crate) fn schema_error(&self) -> Option<String> {
        self.schema.lock().clone().filter(|(_, is_fatal)| *is_fatal).map(|(why, _)| why)
    }

    /// Returns all findings about the schema.
    pub(crate) fn schema_warning(&self) -> Option<String> {
        self.schema.lock().as_ref().map(|(why, _)| why.clone())
    }

    /// Ends the condition that the database is unreachable.
    pub(crate) fn database_is_well(&self) {
        self.set(Condition::DatabaseUnreachable, None);
    }

    /// Sets why the database is unreachable.
    pub(crate) fn database_fails(&self, why: &dyn std::fmt::Display) {
        self.set(Condition::DatabaseUnreachable, Some(why.to_string()));
    }
}

/// ERROR where an operator must act, WARN where the node goes on by itself.
fn log_change(condition: Condition, change: Change, why: &str) {
    match (condition, change) {
        (_, Change::Unchanged)
        | (Condition::ReportsRefused, Change::Reworded)
        | (Condition::TailUnavailable, Change::Ended) => {}
        (Condition::DatabaseUnreachable, Change::Ended) => {
            tracing::info!("database reachable");
        }
        (Condition::DatabaseUnreachable, _) => {
            tracing::warn!(error = why, "database unreachable, retrying");
        }
        (Condition::ReadsFailing, Change::Ended) => tracing::info!("reads answered again"),
        (Condition::ReadsFailing, _) => tracing::warn!(why, "reads failing"),
        (Condition::ApplyStalled, Change::Ended) => tracing::info!("applying resumed"),
        (Condition::ApplyStalled, _) => tracing::warn!(why, "applying stalled"),
        (Condition::ReportsRefused, Change::Ended) => {
            tracing::info!("reports accepted again");
        }
        (Condition::ReportsRefused, _) => {
            tracing::error!(why, "reports refused by most coordinators");
        }
        (Condition::TailUnavailable, _) => {
            tracing::error!(why, "zone cannot catch up by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn a_report_is_refused_when_most_coordinators_refuse_it() {
        let node_state = NodeState::new();
        node_state.database_is_well();
        node_state.prove();
        let refused = |place, said| {
            node_state.report_answered(place, said);
            node_state.degraded_reason()
        };
        assert_eq!(refused(0, Some(Ok(()))), None);
        assert_eq!(refused(1, Some(Err("not known"))), None, "one of two");
        assert_eq!(refused(2, Some(Err("not known"))).as_deref(), Some("not known"));
        assert_eq!(refused(2, None), None, "it no longer answers");
        assert_eq!(refused(0, None).as_deref(), Some("not known"));
        assert_eq!(refused(1, Some(Ok(()))), None);
    }

    use tokio::time::Instant;

    use super::{Finding, NodeState};

    #[test]
    fn changed_schema_is_trouble_only_if_a_start_would_halt() {
        let node_state = NodeState::new();
        node_state.database_is_well();
        node_state.prove();
        let after = "trigger after CREATE TRIGGER audit AFTER INSERT ON pghc.chain";
        node_state.schema_differs(&[Finding::Foreign(after.to_owned())]);
        assert_eq!(node_state.degraded_reason(), None);
        assert!(node_state.schema_warning().is_some_and(|why| why.contains(after)));
        let hidden = Finding::Foreign("policy pghc.chain hide".to_owned());
        node_state.schema_differs(&[hidden]);
        assert!(node_state.degraded_reason().is_some_and(|why| why.contains("hide")));
        node_state.schema_differs(&[]);
        assert_eq!((node_state.degraded_reason(), node_state.schema_warning()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn reads_wait_until_the_chain_is_proven() {
        let (node_state, begun) = (NodeState::new(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(!node_state.proven(begun + second).await, "nobody had vouched for it in time");
        assert_eq!(begun.elapsed(), second);
        let later = Instant::now() + 60 * second;
        let (may, ()) = tokio::join!(node_state.proven(later), async { node_state.prove() });
        assert!(may && begun.elapsed() == second);
        node_state.doubt("it was changed");
        assert!(!node_state.is_proven());
        assert_eq!(
            node_state.degraded_reason().as_deref(),
            Some("the database was not reached yet")
        );
        node_state.database_is_well();
        assert_eq!(node_state.degraded_reason().as_deref(), Some("it was changed"));
    }
}
