//! A deployment: one PostgreSQL server, one coordinator and some API nodes in each zone, as real
//! processes on loopback, kept alive.
//!
//! Invariant: one supervisor at a time owns a data directory, and all its processes end with it: on
//! [`Deployment::stop`], or through their lifelines when the supervisor is killed.

mod child_supervisor;
mod error;
mod launch;
mod options;
mod plan;
mod process_table;
mod program;
mod routes;
mod stale_processes;
mod stop;
mod supervisor;
mod voters;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use pghc_api::error::ErrorCode;
use pghc_api::id::ZoneName;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::child_supervisor::Command;
pub use self::error::Error;
use self::launch::LaunchPlan;
pub use self::options::{
    API_NODES_MAX, Acks, DeploymentOptions, Profile, ZONES_MAX, default_zones,
};
use self::plan::Plan;
use self::process_table::ProcessTable;
pub use self::process_table::{Change, Event, Member, Part};
use self::program::Body;
use self::routes::Routes;
pub use self::stop::stop;
use self::supervisor::Taken;
pub use self::supervisor::{Supervisor, prepare};
use pghc_runtime::task::Tasks;
use pghc_wan::Wan;

use self::voters::Voters;
use super::observe::{Node, Observer};
use super::postgres::tail;
use super::record::DeploymentRecord;
use super::scratch::Scratch;

/// A child that ended this often in a row, each time soon after its start, will not get better.
const SHORT_LIVES_MAX: u32 = 6;
/// Orders waiting for one child supervisor; more make the caller wait.
const ORDERS_MAX: usize = 8;
const POLL: Duration = Duration::from_millis(50);

/// A running deployment. Stop it by [`Deployment::stop`]; one that is merely dropped has its children killed.
#[derive(Debug)]
pub struct Deployment {
    data: PathBuf,
    process_table: Arc<ProcessTable>,
    child_supervisors: BTreeMap<Member, mpsc::Sender<Command>>,
    abort: CancellationToken,
    wan: Option<Wan>,
    voters: Option<Voters>,
    tasks: Tasks,
    /// The last owner, child supervisor or deployment, frees the directory.
    hold: Arc<Hold>,
}

/// Outlives every child: the lock on the directory, and the directory if it is temporary.
#[derive(Debug)]
struct Hold {
    taken: Taken,
    _scratch: Option<Scratch>,
}

/// The zones of the deployment whose data is in `data`; `None` when there is none.
///
/// # Errors
/// [`Error::BadPlan`] when the directory is damaged.
pub fn zones_of(data: &Path) -> Result<Option<Vec<ZoneName>>, Error> {
    let plan = Plan::read(data)?;
    Ok(plan.map(|plan| plan.zones.into_iter().map(|zone| zone.name).collect()))
}

impl Deployment {
    /// Starts a deployment. Existing data continues the same chain, on the same ports where they are
    /// free. Processes left by a killed supervisor are ended first. Returns when every process
    /// runs; [`Deployment::ready`] waits until they serve.
    ///
    /// # Errors
    /// See [`Error`]; nothing runs then.
    pub async fn start(options: DeploymentOptions) -> Result<Self, Error> {
        options.check()?;
        let binary = options.find_binary()?;
        let (data, scratch) = match &options.data {
            Some(data) => (data.clone(), None),
            None => {
                let scratch = Scratch::new("dev").map_err(Error::io("create", "a directory"))?;
                (scratch.path().to_owned(), Some(scratch))
            }
        };
        let taken = supervisor::take(&data).await?;
        let data = taken.data().to_owned();
        let hold = Arc::new(Hold { taken, _scratch: scratch });
        let before = Plan::read(&data)?;
        if let Some(before) = &before {
            before.check_zones(&data, &options.zones)?;
            stale_processes::clear(&data, before).await?;
        }
        let ports = (options.api_nodes, options.base_port);
        let plan = Plan::with_ports(before.as_ref(), &options.zones, ports.0, ports.1)?;
        plan.write(&data)?;
        let tasks = Tasks::default();
        let round_trip_ms = options.round_trip_ms();
        let routes = Routes::open(&plan.zones, options.wan, options.wan_seed, &tasks).await?;
        let (routes, profile, settings) = (&routes, options.profile, &options.settings);
        let temporary = options.data.is_none();
        let launch_plan = LaunchPlan {
            data: &data,
            binary: &binary,
            plan: &plan,
            routes,
            profile,
            round_trip_ms,
            acks: options.acks,
            settings,
            temporary,
        };
        let mut children = launch_plan.start_servers().await?;
        let dsns = launch::dsns(&children);
        let mut programs = launch_plan.programs(&dsns);
        for (_, program) in &mut programs {
            program.launch().await?;
        }
        children.append(&mut programs);
        let record = launch::record(&plan, &dsns, routes.control());
        let process_table = Arc::new(ProcessTable::new(data.clone(), record));
        let child_supervisors = BTreeMap::new();
        let abort = CancellationToken::new();
        let wan = routes.emulator().cloned();
        let voters = options.voters.map(|zones| Voters::new(binary, zones));
        let mut deployment =
            Self { data, process_table, child_supervisors, abort, wan, voters, tasks, hold };
        children.into_iter().for_each(|(member, body)| deployment.supervise(member, body));
        deployment.process_table.publish();
        Ok(deployment)
    }

    fn supervise(&mut self, member: Member, body: Body) {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let pid = body.pid().expect("it was just started");
        self.process_table.report(&member, Change::Started(pid));
        let (process_table, abort) = (Arc::clone(&self.process_table), self.abort.clone());
        let child_supervisor =
            child_supervisor::supervise(body, member.clone(), orders, process_table, abort);
        let hold = Arc::clone(&self.hold);
        self.tasks.spawn("child-supervisor", async move {
            let _hold = hold;
            child_supervisor.await;
        });
        self.child_supervisors.insert(member, sender);
    }

    /// Waits until every API node is ready for reads and writes and the voters are those asked for.
    ///
    /// # Errors
    /// [`Error::KeepsEnding`] when a child never stays up, [`Error::NotReady`] after `timeout`. The
    /// deployment keeps running in both cases.
    pub async fn ready(&self, timeout: Duration) -> Result<(), Error> {
        let observer = Observer::new(Node::of_record(&self.record()));
        let deadline = Instant::now() + timeout;
        loop {
            let mut missing = observer.not_ready().await;
            if missing.is_empty() {
                let settled = match &self.voters {
                    None => Ok(()),
                    Some(voters) => voters.settle(&self.record()).await,
                };
                match settled {
                    Ok(()) => return self.hold.taken.tell_ready(),
                    Err(said) => missing.push(format!("the voters: {said}")),
                }
            }
            if let Some((member, lives)) = self.process_table.most_short_lived()
                && lives >= SHORT_LIVES_MAX
            {
                let log = launch::log_of(&self.data, &member);
                let log_tail = tail(&log).unwrap_or_else(|error| format!("(unreadable: {error})"));
                return Err(Error::KeepsEnding { member: member.to_string(), log, log_tail });
            }
            if Instant::now() >= deadline {
                let (logs, log) = (launch::logs(&self.data), self.log_of(&missing[0]));
                if missing.iter().all(|why| why.contains(ErrorCode::ZoneHalted.as_str())) {
                    self.hold.taken.tell_halted(&missing.join("; "))?;
                }
                return Err(Error::NotReady { timeout, missing: missing.join("; "), logs, log });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether only halted zones kept the deployment from being ready at the last poll.
    #[must_use]
    pub fn has_halted(&self) -> bool {
        self.hold.taken.has_halted()
    }

    /// The log of the API node whose URL is a prefix of `missing`.
    fn log_of(&self, missing: &str) -> Option<PathBuf> {
        self.record().zones.into_iter().find_map(|zone| {
            let is_meant = |url: &String| missing.starts_with(&format!("{url}/"));
            let part = Part::Api(zone.api.iter().position(is_meant)?);
            Some(launch::log_of(&self.data, &Member { zone: zone.name, part }))
        })
    }

    /// Where everything is now.
    #[must_use]
    pub fn record(&self) -> DeploymentRecord {
        self.process_table.record()
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The emulator between the zones, if they have distances.
    #[must_use]
    pub fn wan(&self) -> Option<&Wan> {
        self.wan.as_ref()
    }

    /// Changes of the children from now on; a slow reader misses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.process_table.events()
    }

    /// Process id of a child; `None` while it does not run.
    #[must_use]
    pub fn pid(&self, zone: &str, part: Part) -> Option<u32> {
        zone.parse().ok().and_then(|zone| self.process_table.pid(&Member { zone, part }))
    }

    /// Sends a signal to a child; returns its process id, `None` when it does not run.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`]; [`Error::Stopping`] once the deployment stops.
    pub async fn kill(&self, zone: &str, part: Part, by: Signal) -> Result<Option<u32>, Error> {
        self.order(zone, part, |answer| Command::Signal(by, answer)).await
    }

    /// From now on this child is not started again when it ends.
    ///
    /// # Errors
    /// As [`Deployment::kill`].
    pub async fn pause_supervision(&self, zone: &str, part: Part) -> Result<(), Error> {
        self.order(zone, part, |answer| Command::Supervise(false, answer)).await
    }

    /// From now on this child is started again when it ends; at once when it does not run.
    ///
    /// # Errors
    /// As [`Deployment::kill`].
    pub async fn resume_supervision(&self, zone: &str, part: Part) -> Result<(), Error> {
        self.order(zone, part, |answer| Command::Supervise(true, answer)).await
    }

    async fn order<T>(
        &self,
        zone: &str,
        part: Part,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        let named = zone.parse().ok().map(|zone| Member { zone, part });
        let child_supervisor = named.and_then(|member| self.child_supervisors.get(&member));
        let child_supervisor =
            child_supervisor.ok_or_else(|| Error::NoSuchMember(format!("{part:?} in {zone}")))?;
        let (sender, answer) = oneshot::channel();
        child_supervisor.send(command(sender)).await.map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)
    }

    /// Stops and reaps all children: API nodes, then coordinators, then databases, each by request
    /// first and by SIGKILL some seconds later. Removes `parade.json`.
    pub async fn stop(&self) {
        let phase = |part: Part| match part {
            Part::Api(_) => 0,
            Part::Coordinator => 1,
            Part::Postgres => 2,
        };
        for now in 0..=2 {
            let members = self.child_supervisors.keys().filter(|member| phase(member.part) == now);
            let stops = members.map(|m| self.order(m.zone.as_str(), m.part, Command::Stop));
            // An error says that it has stopped already.
            futures::future::join_all(stops).await;
        }
        self.process_table.withdraw();
        self.tasks.shut_down().await;
    }

    /// Makes a [`Deployment::stop`] that is under way kill instead of ask.
    pub fn abort(&self) {
        self.abort.cancel();
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.tasks.signal().cancel();
    }
}
