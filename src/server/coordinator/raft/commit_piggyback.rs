//! Sends the commit index with the next append instead of a message of its own.
//!
//! openraft's stream yields a request for new entries and, without new entries, an empty request
//! for every unsent commit. The empty one costs each follower a message and a reply per entry. With
//! quorum acks followers know the commit by then, so the next request is pulled only when an entry
//! is there or after [`LINGER`].

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use openraft::raft::AppendEntriesRequest;
use pghc_runtime::task::fair_watch;
use tokio_util::sync::CancellationToken;

use crate::coordinator::consensus::type_config::TypeConfig;

/// Longest delay of a commit index. A follower that counts no acks learns of commits this much
/// later.
const LINGER: Duration = Duration::from_millis(10);

type Request = AppendEntriesRequest<TypeConfig>;

/// Passes on the requests of `input`, in order and unchanged.
///
/// `appended` is the index of the newest entry given to the log; `None` sends every commit at once.
/// Once `gone` reports that the replies have no reader, nothing more is pulled: later requests may
/// belong to another stream. Only requests behind entries wait; heartbeats and the end of a stream
/// are never late. A probe's stream at the end of the log ends [`LINGER`] later.
pub(crate) fn piggyback_commits<S>(
    input: S,
    appended: Option<fair_watch::Receiver<u64>>,
    gone: CancellationToken,
) -> impl Stream<Item = Request> + Send
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    let Some(appended) = appended else { return input.left_stream() };
    let start = CommitPiggyback { input, appended, gone, sent: None };
    futures::stream::unfold(start, CommitPiggyback::next).right_stream()
}

struct CommitPiggyback<S> {
    input: S,
    appended: fair_watch::Receiver<u64>,
    gone: CancellationToken,
    /// Index of the last entry of the last request, if it has entries.
    sent: Option<u64>,
}

impl<S: Stream<Item = Request> + Unpin> CommitPiggyback<S> {
    async fn next(mut self) -> Option<(Request, Self)> {
        if let Some(sent) = self.sent {
            let more = self.appended.wait_for(|newest| *newest > sent);
            tokio::select! {
                biased;
                () = self.gone.cancelled() => return None,
                _ = tokio::time::timeout(LINGER, more) => {}
            }
        }
        let request = self.input.next().await?;
        self.sent = request.entries.last().map(|entry| entry.log_id.index);
        Some((request, self))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use futures::channel::mpsc;
    use openraft::EntryPayload;
    use openraft::entry::RaftEntry as _;
    use openraft::vote::RaftLeaderId as _;
    use pghc_runtime::task::fair_watch;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::{LINGER, Request, piggyback_commits};
    use crate::coordinator::consensus::type_config::{Entry, LogId, Vote};

    /// Returns a request with an entry of this index, or without entries.
    fn request(index: Option<u64>) -> Request {
        let vote = Vote::new_committed(1, 1);
        let leader = openraft::impls::leader_id_adv::LeaderId::new(1, 1).to_committed();
        let entry = |index| Entry::new(LogId::new(leader, index), EntryPayload::Blank);
        let entries = index.map(entry).into_iter().collect();
        Request { vote, prev_log_id: None, entries, leader_commit: None }
    }

    /// Returns the delay of a second request after `first`, when entry `appended` already exists.
    async fn waited(first: Request, appended: Option<u64>) -> std::time::Duration {
        let sender = fair_watch::Sender::new(appended.unwrap_or_default());
        let (mut input, output) = mpsc::channel(2);
        let appended = appended.map(|_| sender.subscribe());
        let mut piggyback_commits =
            Box::pin(piggyback_commits(output, appended, CancellationToken::new()));
        input.start_send(first).expect("open");
        assert!(piggyback_commits.next().await.is_some());
        input.start_send(request(None)).expect("open");
        let begun = Instant::now();
        assert!(piggyback_commits.next().await.is_some_and(|second| second.entries.is_empty()));
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn commit_travels_with_the_next_entry_or_after_linger() {
        assert_eq!(waited(request(Some(7)), Some(7)).await, LINGER);
        assert!(
            waited(request(Some(7)), Some(8)).await.is_zero(),
            "there is an entry to go with it"
        );
        let (sender, appended) = fair_watch::channel(7);
        let (mut input, output) = mpsc::channel(2);
        let mut piggyback_commits =
            Box::pin(piggyback_commits(output, Some(appended), CancellationToken::new()));
        input.start_send(request(Some(7))).expect("open");
        assert!(piggyback_commits.next().await.is_some());
        let begun = Instant::now();
        let append = async {
            tokio::time::sleep(LINGER / 2).await;
            sender.send_replace(8);
            input.start_send(request(Some(8))).expect("open");
        };
        let (second, ()) = tokio::join!(piggyback_commits.next(), append);
        assert_eq!((second.map(|it| it.entries.len()), begun.elapsed()), (Some(1), LINGER / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn commit_is_sent_at_once_without_quorum_acks() {
        assert!(waited(request(None), Some(7)).await.is_zero());
        assert!(waited(request(Some(7)), None).await.is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_is_pulled_after_the_replies_are_dropped() {
        let (_sender, appended) = fair_watch::channel(7);
        let (mut input, output) = mpsc::channel(2);
        let gone = CancellationToken::new();
        let mut piggyback_commits =
            Box::pin(piggyback_commits(output, Some(appended), gone.clone()));
        input.start_send(request(Some(7))).expect("open");
        assert!(piggyback_commits.next().await.is_some());
        input.start_send(request(Some(8))).expect("open");
        let begun = Instant::now();
        let leave = async {
            tokio::time::sleep(LINGER / 2).await;
            gone.cancel();
        };
        let (next, ()) = tokio::join!(piggyback_commits.next(), leave);
        assert!(next.is_none(), "it is another stream's");
        assert_eq!(begun.elapsed(), LINGER / 2);
    }
}
