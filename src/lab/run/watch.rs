//! Polls a run in progress: the frontier of each zone, and the leader.

use std::time::{Duration, Instant};

use pghc_api::wire::Status;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::client::{Connection, get};
use crate::target::{Endpoint, Target};

/// Longest wait of one request for the next link.
const WAIT_MS: u64 = 2_000;
/// Time between two polls of a zone; the maximum delay with which an applied link is noticed.
/// Without a pause every batch costs a request in every zone, which on one machine multiplies write
/// latency.
const STEP_EVERY: Duration = Duration::from_millis(10);
/// Pause after a zone that did not answer.
const PAUSE: Duration = Duration::from_millis(100);
/// Time between two polls of the leader.
const LEADER_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for a status.
const STATUS_MAX: Duration = Duration::from_secs(1);
/// Most steps that are kept of one zone; later ones are not seen.
const STEPS_MAX: usize = 5_000_000;

/// The frontier of one zone over time: ids are applied at the first step that reaches them.
#[derive(Debug, Clone, Default)]
pub struct Steps(pub Vec<(Duration, u64)>);

impl Steps {
    /// When `id` was seen to be applied.
    #[must_use]
    pub fn reached(&self, id: u64) -> Option<Duration> {
        let place = self.0.partition_point(|(_, frontier)| *frontier < id);
        self.0.get(place).map(|(at, _)| *at)
    }
}

/// A stretch of time with one leader.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaderTerm {
    /// Seconds after the end of the warm-up; below 0 inside it.
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// Zone of the leader; `None`: no node knew of a leader.
    pub zone: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Medians of the zones, by their writes, of what was planned in it after the warm-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// Predicted medians; absent without distances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_ms: Option<f64>,
}

/// Follows the frontier of a zone until `done`.
pub async fn frontier(
    node: &Endpoint,
    start: Instant,
    from: u64,
    done: &CancellationToken,
) -> Steps {
    let mut steps = Steps::default();
    let following = async {
        let (mut newest, mut connection) = (from, Connection::to(node.address));
        while steps.0.len() < STEPS_MAX {
            match next(node, newest, &mut connection).await {
                Ok(Some(frontier)) => {
                    newest = frontier;
                    steps.0.push((start.elapsed(), frontier));
                    tokio::time::sleep(STEP_EVERY).await;
                }
                Ok(None) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = done.cancelled() => {}
    }
    steps
}

/// Waits until the zone has more than `newest`; returns how far it is, or `None` after the wait.
async fn next(
    node: &Endpoint,
    newest: u64,
    connection: &mut Connection,
) -> anyhow::Result<Option<u64>> {
    #[derive(Deserialize)]
    struct Head {
        frontier: u64,
    }
    let path = format!("/v1/chain/head?at_least={}&timeout={WAIT_MS}", newest + 1);
    let request = get(&node.host, &path);
    let limit = Duration::from_millis(2 * WAIT_MS);
    let answer = tokio::time::timeout(limit, connection.exchange(&request)).await??;
    let frontier = match answer.status {
        200 => Some(serde_json::from_slice::<Head>(answer.body)?.frontier),
        504 => None,
        status => anyhow::bail!("unexpected status {status}"),
    };
    Ok(frontier.filter(|frontier| *frontier > newest))
}

/// Zone of the leader and its term, as the best informed node of `target` knows them; `None`
/// without any answer.
pub(super) async fn leader(target: &Target) -> Option<(Option<String>, u64)> {
    let statuses = target.zones.iter().map(|zone| status(&zone.nodes[0]));
    let statuses = futures::future::join_all(statuses).await;
    let newest = statuses.into_iter().flatten().max_by_key(|status| {
        // Within one term, a node that knows a leader is better informed.
        (status.term, status.leader_zone.is_some())
    });
    newest.map(|status| (status.leader_zone, status.term))
}

/// Asks `poll` for the leader zone and term until `done`; seconds count from `zero`.
pub async fn leaders(
    zero: Instant,
    done: &CancellationToken,
    poll: impl AsyncFn() -> Option<(Option<String>, u64)>,
) -> Vec<LeaderTerm> {
    let mut leader_terms: Vec<LeaderTerm> = Vec::new();
    loop {
        let known = poll().await;
        note_leader_term(&mut leader_terms, seconds_from(zero, now()), known);
        tokio::select! {
            biased;
            () = done.cancelled() => return leader_terms,
            () = tokio::time::sleep(LEADER_EVERY) => {}
        }
    }
}

/// The time, which may be virtual.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Records the `known` leader zone and term at `at` seconds. Without any answer, the last term is
/// extended.
fn note_leader_term(
    leader_terms: &mut Vec<LeaderTerm>,
    at: f64,
    known: Option<(Option<String>, u64)>,
) {
    let Some(last) = leader_terms.last_mut() else {
        let (zone, term) = known.unwrap_or((None, 0));
        return leader_terms.push(LeaderTerm {
            from_s: at,
            to_s: at,
            zone,
            term,
            ..LeaderTerm::default()
        });
    };
    last.to_s = at;
    if let Some((zone, term)) =
        known.filter(|(zone, term)| (zone, *term) != (&last.zone, last.term))
    {
        leader_terms.push(LeaderTerm { from_s: at, to_s: at, zone, term, ..LeaderTerm::default() });
    }
}

/// Seconds from `zero` to `now`, below 0 before it.
#[must_use]
pub(super) fn seconds_from(zero: Instant, now: Instant) -> f64 {
    match now.checked_duration_since(zero) {
        Some(since) => since.as_secs_f64(),
        None => -(zero - now).as_secs_f64(),
    }
}

async fn status(node: &Endpoint) -> Option<Status> {
    let body = tokio::time::timeout(STATUS_MAX, node.fetch("/v1/status")).await.ok()?.ok()?;
    serde_json::from_slice(&body).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LeaderTerm, Steps, note_leader_term};

    #[test]
    fn a_reign_lasts_until_another_is_known() {
        let mut leader_terms = Vec::new();
        let eu = || Some(Some("eu".to_owned()));
        let seen = [None, eu().zip(Some(1)), None, eu().zip(Some(1)), eu().zip(Some(2))];
        for (at, known) in [0.0, 1.0, 2.0, 3.0, 4.0].into_iter().zip(seen) {
            note_leader_term(&mut leader_terms, at, known);
        }
        let leader_term = |from_s, to_s, zone, term| LeaderTerm {
            from_s,
            to_s,
            zone,
            term,
            ..LeaderTerm::default()
        };
        let (zone, nobody) = (eu().flatten(), None);
        let wanted = [
            leader_term(0.0, 1.0, nobody, 0),
            leader_term(1.0, 4.0, zone.clone(), 1),
            leader_term(4.0, 4.0, zone, 2),
        ];
        assert_eq!(leader_terms, wanted);
    }

    #[test]
    fn an_id_is_visible_from_the_first_step_that_reaches_it() {
        let at = Duration::from_secs;
        let steps = Steps(vec![(at(1), 5), (at(2), 9)]);
        assert_eq!([1, 5, 6, 9].map(|id| steps.reached(id)), [1, 1, 2, 2].map(|s| Some(at(s))));
        assert_eq!(steps.reached(10), None);
    }
}
