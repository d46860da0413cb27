//! The coordinators as this node reaches them, nearest first, and which of them answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pghc_api::id::ClusterId;
use pghc_runtime::rpc::v1::coordinator_client::CoordinatorClient;
use pghc_runtime::rpc::{Caller, Dial, MESSAGE_BYTES_MAX};

/// Longest a connection attempt, or the silence of a connection that was pinged, may last.
const PATIENCE: Duration = Duration::from_secs(1);

/// A client of one coordinator.
pub(crate) type Client = CoordinatorClient<Caller>;

struct Coordinator {
    client: Client,
    answers: AtomicBool,
}

/// All coordinators; clones share what is known of them.
#[derive(Clone)]
pub(crate) struct Coordinators {
    nearest_first: Arc<Vec<Coordinator>>,
    turns: Arc<AtomicU64>,
}

impl Coordinators {
    /// # Errors
    /// If one of `urls` is not a URL.
    pub(crate) fn new(
        dial: &dyn Dial,
        cluster: &ClusterId,
        urls: &[String],
    ) -> Result<Self, tonic::transport::Error> {
        let coordinator = |url: &String| {
            let caller = dial.caller(url, cluster, PATIENCE)?;
            let client = CoordinatorClient::new(caller)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            Ok(Coordinator { client, answers: AtomicBool::new(true) })
        };
        let nearest_first = urls.iter().map(coordinator).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { nearest_first: Arc::new(nearest_first), turns: Arc::default() })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.nearest_first.len()
    }

    /// The client of the coordinator in place `place`.
    pub(crate) fn client(&self, place: usize) -> Client {
        self.nearest_first[place].client.clone()
    }

    /// All places: those that answer first, the nearest first among them.
    pub(crate) fn in_order(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.count()).collect();
        places.sort_by_key(|place| !self.nearest_first[*place].answers.load(Ordering::Relaxed));
        places
    }

    /// The nearest that answers. When none does, each in turn: one of them may be back.
    pub(crate) fn nearest(&self) -> (usize, Client) {
        self.nearest_but(|_| false)
    }

    /// As [`Coordinators::nearest`], but none that is `unfit`, unless all are.
    pub(crate) fn nearest_but(&self, unfit: impl Fn(usize) -> bool) -> (usize, Client) {
        let answers = |(_, c): &(usize, &Coordinator)| c.answers.load(Ordering::Relaxed);
        let mut answering = self.nearest_first.iter().enumerate().filter(answers);
        let fit = answering.find(|(place, _)| !unfit(*place)).map(|(place, _)| place);
        let place = fit.unwrap_or_else(|| {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            usize::try_from(turn % self.count() as u64).unwrap_or_default()
        });
        (place, self.client(place))
    }

    /// Notes whether the coordinator in place `place` answered.
    pub(crate) fn note(&self, place: usize, answers: bool) {
        let before = self.nearest_first[place].answers.swap(answers, Ordering::Relaxed);
        if before != answers {
            tracing::info!(place, answers, "tail moved to another coordinator");
        }
    }

    /// Whether any answered when last asked.
    pub(crate) fn any_answers(&self) -> bool {
        self.nearest_first.iter().any(|c| c.answers.load(Ordering::Relaxed))
    }
}
