//! The coordinators as a witness from outside of the zones: digests of links as they were ordered.
//!
//! Every given coordinator must answer, and answers only with links that a majority has confirmed.
//! A digest counts only if no coordinator reports another one for its link; so zones that were all
//! forged alike are still found.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use futures::future::join_all;
use pghc_api::chain::Digest;
use pghc_api::id::ClusterId;
use pghc_api::verify::{RawLink, Violation, ViolationKind};
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::v1::{VouchReply, VouchRequest};
use pghc_runtime::rpc::{self, Caller};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Request, Status};

use super::compare::Mark;
use super::reading::ID_MAX;
use super::source::Source;

/// Longest wait for all that one coordinator answers to one question, elections included.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Longest connection attempt, and the pause before a coordinator without a leader is tried again.
const CONNECT_MAX: Duration = Duration::from_secs(3);
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The digest of a link, as a coordinator told it.
type Told = (u64, Digest);

/// Ids in one request, as the contract allows.
const IDS_MAX: usize = 64;

/// Rounds of the search for the first bad link; each divides what is left by [`IDS_MAX`].
const ROUNDS_MAX: usize = 16;

/// Found value at an id for which the coordinators confirmed that no link exists.
pub(crate) const NEVER_ORDERED: &str = "a link that was never ordered";

/// The given coordinators.
pub(crate) struct Coordinators {
    cluster: ClusterId,
    urls: Vec<String>,
}

/// Answers of the coordinators.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The newest id that was ordered; `None` when no coordinator answered.
    pub(crate) head: Option<u64>,
    /// Digests that count, by id.
    pub(crate) links: BTreeMap<u64, Digest>,
    /// Missing answers; each text names the coordinator and gives advice.
    pub(crate) troubles: Vec<String>,
}

impl Heard {
    /// An empty result, for this reason.
    pub(crate) fn nothing(why: &str) -> Self {
        Self { troubles: vec![why.to_owned()], ..Self::default() }
    }

    /// Adds troubles from an earlier question.
    pub(crate) fn after(mut self, earlier: Self) -> Self {
        for trouble in earlier.troubles {
            if !self.troubles.contains(&trouble) {
                self.troubles.push(trouble);
            }
        }
        self
    }
}

impl Coordinators {
    pub(crate) fn new(cluster: &ClusterId, urls: &[String]) -> Self {
        Self { cluster: cluster.clone(), urls: urls.to_vec() }
    }

    /// Asks all coordinators for the newest links at or below `ids` whose digests they remember.
    pub(crate) async fn ask(&self, ids: &[u64]) -> Heard {
        let asked = self.urls.iter().map(async |url| (url, self.ask_one(url, ids).await));
        let mut heard = Heard::default();
        let mut contradicted = BTreeSet::new();
        for (url, answer) in join_all(asked).await {
            let (head, links) = match answer {
                Ok(answer) => answer,
                Err(why) => {
                    heard.troubles.push(format!("coordinator {url} {why}"));
                    continue;
                }
            };
            heard.head = heard.head.max(Some(head));
            for (id, digest) in links {
                if *heard.links.entry(id).or_insert(digest) != digest {
                    contradicted.insert(id);
                }
            }
        }
        for id in contradicted {
            heard.links.remove(&id);
            heard.troubles.push(format!(
                "the coordinators contradict each other about link {id}: one of them lies or is \
                 damaged; find out which by its log, replace it (pghc members replace)"
            ));
        }
        heard
    }

    async fn ask_one(&self, url: &str, ids: &[u64]) -> Result<(u64, Vec<Told>), String> {
        let caller = rpc::connect(url, &self.cluster, CONNECT_MAX)
            .map_err(|error| format!("has no URL that can be asked: {error}"))?;
        let mut client = CoordinatorClient::new(caller);
        let until = Instant::now() + ANSWER_MAX;
        let (mut head, mut links, mut left) = (0, Vec::new(), ids);
        loop {
            let (now, later) = left.split_at(left.len().min(IDS_MAX));
            let reply = call(&mut client, now, until).await.map_err(|status| self.why(&status))?;
            head = reply.head.max(head);
            links.extend(read(&reply, now)?);
            if later.is_empty() {
                return Ok((head, links));
            }
            left = later;
        }
    }

    /// Why a coordinator gave no answer, and what to do, as the end of a sentence about it.
    fn why(&self, status: &Status) -> String {
        let cluster = &self.cluster;
        match status.code() {
            _ if rpc::is_connection_refused(status) => {
                "does not answer: no process listens there; start it, or leave it out".to_owned()
            }
            Code::DeadlineExceeded | Code::Cancelled => {
                let seconds = ANSWER_MAX.as_secs();
                format!("did not answer within {seconds} s: start it, or leave it out")
            }
            Code::FailedPrecondition => format!(
                "is of another cluster than the sources, which are of {cluster}: name a coordinator \
                 of that cluster"
            ),
            Code::Unimplemented => {
                "runs a pghc that cannot vouch: upgrade it, or leave it out".to_owned()
            }
            _ => {
                let why = status.message();
                format!("cannot vouch: {why}; try again, or ask one that can")
            }
        }
    }
}

/// Sends one request, again while no majority can confirm anything, until `until`.
async fn call(
    client: &mut CoordinatorClient<Caller>,
    ids: &[u64],
    until: Instant,
) -> Result<VouchReply, Status> {
    loop {
        let mut request = Request::new(VouchRequest { ids: ids.to_vec(), confirmed: true });
        request.set_timeout(until.saturating_duration_since(Instant::now()));
        let late = || Status::deadline_exceeded("no answer in time");
        let answer = timeout_at(until, client.vouch(request)).await;
        match answer.unwrap_or_else(|_| Err(late())) {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) => {
                let is_passing =
                    status.code() == Code::Unavailable && !rpc::is_connection_refused(&status);
                if !is_passing || Instant::now() + RETRY_PAUSE >= until {
                    return Err(status);
                }
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// The digests in an answer to a question about `ids`.
fn read(reply: &VouchReply, ids: &[u64]) -> Result<Vec<Told>, String> {
    let odd =
        |what: &str| format!("does not answer as pghc does: {what}; replace it, or leave it out");
    if reply.head > ID_MAX || reply.links.len() != ids.len() {
        return Err(odd("the newest id or the number of links cannot be"));
    }
    let mut told = Vec::new();
    for (link, asked) in reply.links.iter().zip(ids).filter(|(link, _)| link.id != 0) {
        let digest = link.digest[..].try_into().map_err(|_| odd("a digest is none"))?;
        if link.id > *asked || link.id > reply.head {
            return Err(odd("a link was not asked for"));
        }
        told.push((link.id, Digest(digest)));
    }
    Ok(told)
}

/// Violation of a source whose links from `from` to `to` are sound in themselves: the first link
/// that differs from the ordered one, as far as the coordinators remember.
pub(crate) async fn contradiction(
    coordinators: &Coordinators,
    heard: &Heard,
    source: &mut Source,
    (from, to): (u64, u64),
    marks: &[Mark],
) -> Option<Violation> {
    let differs = marks.iter().find_map(|mark| {
        let due = heard.links.get(&mark.id).filter(|due| **due != mark.digest)?;
        Some((mark.id, *due, mark.digest))
    });
    if let Some(bad) = differs {
        return Some(first_bad(coordinators, source, from, bad).await);
    }
    // The source was frozen before the coordinators were asked, so its links must be ordered by
    // then.
    let head = heard.head.filter(|head| to > *head)?;
    let first = (head + 1).max(from);
    let expected = format!(
        "none, since a majority of the coordinators has confirmed that link {head} is the newest"
    );
    let id = i64::try_from(first).unwrap_or(i64::MAX);
    Some(Violation::new(id, ViolationKind::Fork, expected, NEVER_ORDERED))
}

/// Narrows down where a source begins to differ: at `bad` (id, digest due, digest found) at the latest.
async fn first_bad(
    coordinators: &Coordinators,
    source: &mut Source,
    from: u64,
    mut bad: (u64, Digest, Digest),
) -> Violation {
    // The newest link below it that is known to match, or the last one outside of the search.
    let mut low = from - 1;
    let mut is_good = low == 0;
    for _ in 0..ROUNDS_MAX {
        let span = bad.0 - low - 1;
        let step = span.div_ceil(IDS_MAX as u64).max(1);
        let spread = (1..IDS_MAX as u64).map(|count| low + count * step).filter(|id| *id < bad.0);
        let asked: BTreeSet<u64> = spread.chain((span > 0).then(|| bad.0 - 1)).collect();
        if asked.is_empty() {
            break;
        }
        let asked: Vec<u64> = asked.into_iter().collect();
        let mut known = coordinators.ask(&asked).await.links;
        known.retain(|id, _| (low + 1..bad.0).contains(id));
        let found = digests(source, &known.keys().copied().collect::<Vec<_>>()).await;
        let before = (low, bad.0);
        for (id, due) in known {
            match found.get(&id) {
                Some(is) if *is == due => (low, is_good) = (id, true),
                Some(is) => {
                    bad = (id, due, *is);
                    break;
                }
                None => {}
            }
        }
        if (low, bad.0) == before {
            break;
        }
    }
    let (id, due, is) = bad;
    let doubt = match (is_good, id - low) {
        (true, 1) => String::new(),
        (true, _) => format!(" (they remember none between, the first bad link is above {low})"),
        (false, _) => format!(" (the first bad link may lie below link {from}, the first checked)"),
    };
    let expected = format!("digest {due}, as a majority of the coordinators has confirmed{doubt}");
    let found = format!("digest {is}");
    Violation::new(i64::try_from(id).unwrap_or(i64::MAX), ViolationKind::Fork, expected, found)
}

/// The digests of these links in a source, ascending; without those that cannot be read.
async fn digests(source: &mut Source, ids: &[u64]) -> BTreeMap<u64, Digest> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return BTreeMap::new() };
    // A file is read from its beginning each time, a zone link by link.
    let spans: Vec<(u64, u64)> = match source {
        Source::File(..) => vec![(*first, *last)],
        Source::Database(_) | Source::Api(_) => ids.iter().map(|id| (*id, *id)).collect(),
    };
    let mut digests = BTreeMap::new();
    for (from, to) in spans {
        let sink = &mut |link: &RawLink<'_>| {
            let mark = Mark::of_raw(link).filter(|mark| ids.binary_search(&mark.id).is_ok());
            digests.extend(mark.map(|mark| (mark.id, mark.digest)));
            ControlFlow::Continue(())
        };
        // An unreadable range narrows the search no further.
        if source.read(from, to, sink).await.is_err() {
            break;
        }
    }
    digests
}
