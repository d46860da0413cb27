//! Sessions: a client that passes its token never sees less, and its writes follow all links it has
//! seen.

use std::collections::HashMap;

use crate::check::Subject;
use crate::history::{Operation, What};
use crate::report::{Kind, Report};
use crate::writes::Written;

/// Links that a session has seen.
#[derive(Default)]
struct Seen {
    /// Newest id, by any answer.
    id: u64,
    /// The operation that showed it.
    by: usize,
    /// End of that operation.
    at: u64,
    /// End of the newest operation.
    ended: u64,
}

/// I6. Only reads that carry a token are bound by what their session saw: without one, a read asks
/// for whatever its zone has.
pub(crate) fn sessions(subject: &Subject<'_>, written: &Written, report: &mut Report) {
    // Only looked up, never walked: its order enters nothing.
    let mut sessions: HashMap<(u32, u32), Seen> = HashMap::new();
    for (at, operation) in subject.history.operations.iter().enumerate() {
        let seen = sessions.entry((operation.client, operation.session)).or_default();
        if operation.started < seen.ended {
            report.gaps.push(format!(
                "the record is faulty: operation #{at} starts before its session's last one ended"
            ));
            break;
        }
        let own = written.links_of[at];
        match operation.what {
            What::Read { at_least: Some(at_least), .. } => {
                if let Some(frontier) = operation.proves()
                    && (at_least..seen.id).contains(&frontier)
                {
                    let sentence = format!("a read showed {frontier}, its session had {}", seen.id);
                    report.add(Kind::SessionWentBack, seen.id, &[seen.by, at], sentence);
                }
            }
            What::Write { .. } if own > 0 && own <= seen.id => {
                below(operation, at, own, seen, written, report);
            }
            _ => {}
        }
        let shown = match operation.what {
            What::Read { .. } => operation.proves(),
            // An unknown write that the chain explains has shown its client nothing.
            What::Write { .. } => operation.answered_id().filter(|_| own > 0),
        };
        seen.ended = operation.ended;
        if let Some(id) = shown.filter(|id| *id > seen.id && *id <= subject.newest()) {
            *seen = Seen { id, by: at, at: operation.ended, ended: operation.ended };
        }
    }
    report.counts.sessions = sessions.len() as u64;
}

/// Reports a write with an id that its session had already seen. A retry may have one, because its
/// first attempt came before; a case that time alone decides is reported as reordered.
fn below(
    operation: &Operation,
    at: usize,
    own: u64,
    seen: &Seen,
    written: &Written,
    report: &mut Report,
) {
    let position = usize::try_from(own - 1).unwrap_or_default();
    let first_attempt = written.first_sent[position] == operation.started;
    if first_attempt && seen.at == operation.started {
        let sentence = format!("a write got id {own}, its session had seen {}", seen.id);
        report.add(Kind::SessionReordered, own, &[seen.by, at], sentence);
    }
}
