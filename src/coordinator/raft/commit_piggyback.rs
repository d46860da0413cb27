//! When a follower is told what is committed: with the next entries, where acks tell it sooner.
//!
//! openraft's stream yields a request for new entries and, if nothing new has come, one without entries
//! for every commit that no request has carried yet. To each follower that is a message and an answer
//! more for every entry. Where the acks of all to all are counted it knows by then, so the next request
//! is not asked for until there is an entry for it, or until [`LINGER`] is over.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use openraft::raft::AppendEntriesRequest;
use tokio_util::sync::CancellationToken;

use crate::coordinator::consensus::type_config::TypeConfig;
use crate::task::watch;

/// Longest that a follower is left to know by acks alone what is committed. A coordinator that counts
/// none, of an older build or set so, is told so much later at a leader that sends them.
const LINGER: Duration = Duration::from_millis(10);

type Request = AppendEntriesRequest<TypeConfig>;

/// The requests of `input`, in their order and unchanged. `appended` is the index of the newest entry
/// that was given to the log; `None`: every commit is told at once. When `gone` says that nobody takes the
/// answers any more, nothing more is asked for: what `input` yields may belong to another stream by then.
///
/// Only what follows a request with entries is waited for: heartbeats, which have none, and the end of
/// their streams are never late. The stream of a probe that reached the end of the log ends so much later.
pub(crate) fn piggyback_commits<S>(
    input: S,
    appended: Option<watch::Receiver<u64>>,
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
    appended: watch::Receiver<u64>,
    gone: CancellationToken,
    /// Index of the last entry of the last request, if it had any.
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
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::{LINGER, Request, piggyback_commits};
    use crate::coordinator::consensus::type_config::{Entry, LogId, Vote};
    use crate::task::watch;

    /// With an entry of this index, or without any.
    fn request(index: Option<u64>) -> Request {
        let vote = Vote::new_committed(1, 1);
        let leader = openraft::impls::leader_id_adv::LeaderId::new(1, 1).to_committed();
        let entry = |index| Entry::new(LogId::new(leader, index), EntryPayload::Blank);
        let entries = index.map(entry).into_iter().collect();
        Request { vote, prev_log_id: None, entries, leader_commit: None }
    }

    /// How long it takes until a second request is asked for after `first`, when entry `appended` is
    /// there already.
    async fn waited(first: Request, appended: Option<u64>) -> std::time::Duration {
        let sender = watch::Sender::new(appended.unwrap_or_default());
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
    async fn what_is_committed_is_told_with_the_next_entry_or_a_little_later() {
        assert_eq!(waited(request(Some(7)), Some(7)).await, LINGER);
        assert!(
            waited(request(Some(7)), Some(8)).await.is_zero(),
            "there is an entry to go with it"
        );
        let (sender, appended) = watch::channel(7);
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
    async fn it_is_told_at_once_after_a_heartbeat_and_where_no_acks_are_counted() {
        assert!(waited(request(None), Some(7)).await.is_zero());
        assert!(waited(request(Some(7)), None).await.is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_for_when_nobody_takes_the_answers_any_more() {
        let (_sender, appended) = watch::channel(7);
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
