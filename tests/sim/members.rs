//! Faults that change the members: a wiped disk, which must be refused and is replaced, and changes
//! by operators. Each ends with the same number of voters as before.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pghc_runtime::rpc::Dial as _;
use pghc_runtime::rpc::v1::ChangeRequest;
use pghc_runtime::rpc::v1::change_request::Kind;
use pghc_sim::cluster_id;
use pghc_sim::members::{ANSWER_MAX, give, is_done, order};
use pghc_sim::net::url;
use tokio::time::{Instant, sleep};

use super::cluster::{Owner, Standing};
use super::faults::Trouble;

/// Time until a wiped disk is refused, or a command is done, after faults have ended.
const DONE_MAX: Duration = Duration::from_secs(120);

impl Trouble {
    /// A coordinator's disks are replaced by empty ones without its knowledge. The coordinator must
    /// be refused, and a new one takes its place.
    pub(crate) async fn disk_wiped(self) {
        let place = self.rng.below(self.cluster.founders);
        let Owner { id: old, .. } = self.cluster.owner(place).expect("a member's machine");
        self.zones_follow().await;
        self.cluster.stands(place, Standing::Wiped);
        self.cluster.wipe(place);
        self.last(1, 2000).await;
        self.cluster.start_owner(place);
        let mut calm_since = None;
        while self.cluster.owner(place).map(|owner| owner.standing) != Some(Standing::Refused) {
            let what = format!("coordinator {old} is not refused although its disks were wiped");
            self.wait(&mut calm_since, &what).await;
        }
        self.last(1, self.long_ms()).await;
        self.bring(place, Kind::Replace, old, false).await;
        self.done();
    }

    /// Something that operators do, and back.
    pub(crate) async fn members_changed(self) {
        let place = self.rng.below(self.cluster.founders);
        let Owner { id, .. } = self.cluster.owner(place).expect("a member's machine");
        let about = |kind: Kind| order(kind, id);
        match self.rng.below(4) {
            0 => drop(self.command(&about(Kind::Lead)).await),
            1 => {
                self.insist(&about(Kind::Demote)).await;
                self.last(1, self.long_ms()).await;
                self.insist(&about(Kind::Promote)).await;
            }
            2 => {
                self.zones_follow().await;
                // From here on, a start of the coordinator may be refused.
                self.cluster.stands(place, Standing::Removed);
                self.insist(&about(Kind::Remove)).await;
                self.last(1, self.long_ms()).await;
                self.bring(place, Kind::Add, 0, false).await;
            }
            _ => {
                let spare = self.cluster.machines.len() - 1;
                let learner = self.rng.per_mille(500);
                let id = self.bring(spare, Kind::Add, 0, learner).await;
                self.last(1, self.long_ms()).await;
                self.cluster.stands(spare, Standing::Removed);
                self.insist(&order(Kind::Remove, id)).await;
                self.cluster.pass_on(spare, false);
            }
        }
        self.done();
    }

    /// Waits until every zone has applied the newest id of all zones. The log of a coordinator that
    /// joined last begins there, and model databases cannot be backfilled from each other: the last
    /// log that reaches back to an absent zone must be kept.
    async fn zones_follow(&self) {
        let (_, frontiers) = self.cluster.frontiers();
        let newest = frontiers.into_iter().max().unwrap_or_default();
        let mut calm_since = None;
        while self.cluster.frontiers().1.iter().any(|frontier| *frontier < newest) {
            self.wait(&mut calm_since, &format!("a zone does not follow to {newest}")).await;
        }
    }

    pub(crate) fn done(&self) {
        self.cluster.is_changing.store(false, Ordering::Relaxed);
    }

    /// Has a new coordinator on machine `place` take part, in the place of `old` or beside the
    /// others; returns its id.
    async fn bring(&self, place: usize, kind: Kind, old: u64, learner: bool) -> u64 {
        let new_id = self.cluster.pass_on(place, true);
        self.cluster.start_owner(place);
        let (zone, url) = (self.cluster.zone_at(place).to_string(), url(place));
        let request = ChangeRequest { new_id, zone, url, learner, ..order(kind, old) };
        self.insist(&request).await;
        new_id
    }

    /// Repeats a command until it is done.
    async fn insist(&self, request: &ChangeRequest) {
        let mut calm_since = None;
        loop {
            let said = match self.command(request).await {
                Ok(last) if is_done(&last) => return,
                Ok(said) | Err(said) => said,
            };
            self.wait(&mut calm_since, &format!("{request:?} is not done: {said}")).await;
        }
    }

    /// Gives a command once, to any coordinator; the last line.
    async fn command(&self, request: &ChangeRequest) -> Result<String, String> {
        let from = self.cluster.machines.len() + self.rng.below(self.cluster.places.len());
        let to = url(self.rng.below(self.cluster.founders));
        let caller = self.cluster.net.dialer(from).caller(&to, &cluster_id(), ANSWER_MAX / 4);
        let ended = give(caller.expect("a URL of this network"), request).await;
        tracing::info!(?request, ?ended, "members");
        ended
    }

    /// Waits a little; ends the run when it was calm for too long.
    pub(crate) async fn wait(&self, calm_since: &mut Option<Instant>, what: &str) {
        if self.calm.is_cancelled() {
            let since = *calm_since.get_or_insert_with(Instant::now);
            if since.elapsed() > DONE_MAX {
                self.cluster.fail(what);
            }
        }
        sleep(self.rng.millis(50, 500)).await;
    }
}
