//! Checks the links of one source from first to last and keeps marks of it for comparison.
//!
//! Memory is constant: one link, at most [`super::compare::MARKS_MAX`] marks, and the newest links that
//! all sources share ([`Known`]).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pghc_api::chain::Head;
use pghc_api::id::{ClusterId, WriteId};
use pghc_api::verify::{Known, RawLink, Verifier, Violation};
use pghc_runtime::mutation::{self, Mutant};

use super::compare::{Grid, Mark};
use super::progress::Lane;
use super::reading::ReadError;
use super::source::Source;

/// Links between two updates of the progress.
const PROGRESS_LINKS: u64 = 1024;

/// Task of a check.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) cluster: ClusterId,
    /// State shared with the checks of other sources; `None` for a single source.
    pub(crate) known: Option<Arc<Known>>,
    /// First id to check; above 1, the link before it is read as the anchor.
    pub(crate) from: u64,
    /// Last id to check: the frozen end of the source, or the end of the requested range.
    pub(crate) to: u64,
    /// Whether the rows outside the range matter too: the range ends where the source does.
    pub(crate) whole_tail: bool,
    /// Which links to keep marks of.
    pub(crate) grid: Grid,
}

/// Result of a check.
#[derive(Debug)]
pub(crate) struct Checked {
    /// Last sound link at or above `from`, in an unbroken run from it.
    pub(crate) head: Option<Head>,
    pub(crate) marks: Vec<Mark>,
    /// Why it ended before `to`, or what is wrong beside the links.
    pub(crate) trouble: Option<ReadError>,
    pub(crate) elapsed: Duration,
}

/// Checks a frozen source.
pub(crate) async fn check(source: &mut Source, task: &Task, lane: &Lane) -> Checked {
    let started = Instant::now();
    lane.total.store((task.to + 1).saturating_sub(task.from), Ordering::Relaxed);
    let mut marks = Vec::new();
    let mut head = None;
    let mut trouble = links(source, task, lane, &mut marks, &mut head).await.err();
    if trouble.is_none() && task.whole_tail {
        trouble = source.strays(task.from, head.as_ref()).err();
    }
    Checked { head, marks, trouble, elapsed: started.elapsed() }
}

async fn links(
    source: &mut Source,
    task: &Task,
    lane: &Lane,
    marks: &mut Vec<Mark>,
    head: &mut Option<Head>,
) -> Result<(), ReadError> {
    let from = WriteId::try_from(task.from).expect("a range starts at 1 or later");
    let mut verifier = match &task.known {
        Some(known) => Verifier::sharing(Arc::clone(known), from),
        None => Verifier::new(task.cluster.clone(), from),
    };
    let mut violation: Option<Violation> = None;
    let mut checked = 0;
    let start = verifier.next_id();
    let sink = &mut |link: &RawLink<'_>| match verifier.check(link) {
        Ok(sound) if sound.id < from => ControlFlow::Continue(()),
        Ok(sound) => {
            if task.grid.holds(sound.id.get()) {
                marks.push(Mark::of(&sound));
            }
            *head = Some(sound);
            checked += 1;
            if checked % PROGRESS_LINKS == 0 {
                lane.checked.store(checked, Ordering::Relaxed);
            }
            ControlFlow::Continue(())
        }
        Err(found) => {
            violation = Some(found);
            ControlFlow::Break(())
        }
    };
    let to = task.to - u64::from(mutation::is_active(Mutant::VerifySkipsLast));
    let read = source.read(start, to, sink).await;
    lane.checked.store(checked, Ordering::Relaxed);
    match violation {
        Some(violation) => Err(violation.into()),
        None => {
            read?;
            Ok(verifier.finish(to)?)
        }
    }
}
