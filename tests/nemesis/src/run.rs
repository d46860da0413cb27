//! A run: a cluster, its load, its keeper, and epochs of faults with a check at the end of each.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pghc_runtime::task::Tasks;
use tokio::time::Instant;

use crate::check::{Checker, Evidence};
use crate::cluster::{Build, Cluster, Ground, Unit, View};
use crate::faults::{Class, Needs, Scene, clock, versions};
use crate::load::{Load, Rates};
use crate::report::{EpochReport, Happening, RunReport};
use crate::schedule::{Board, LANES, fault_schedule};

/// Pause between two polls of the processes.
const TEND: Duration = Duration::from_millis(50);
/// Longest time until a new cluster is whole.
const START_MAX: Duration = Duration::from_secs(60);
/// After an epoch's faults: longest time until all writes have their answer, and until all zones are
/// equal.
const CALM_MAX: Duration = Duration::from_secs(100);
/// Longest time until all zones are equal once the load has stopped; unoptimised programs, on a machine
/// that builds beside them, get more.
pub const CONVERGE_MAX: Duration =
    Duration::from_secs(if cfg!(debug_assertions) { 90 } else { 30 });
/// Longest pause between two faults of a lane, in milliseconds.
const GAP_MS: u64 = 500;
/// How often the fault schedule holds the classes of a run that has only some.
const ROUNDS_OF_SOME: u32 = 8;
/// How long after a fault a stall is still counted as its own.
const TAIL: Duration = Duration::from_secs(2);

/// A running cluster under load.
pub struct Run {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// State polled from the cluster.
    pub view: Arc<View>,
    /// The clients.
    pub load: Arc<Load>,
    /// Chains and results until now.
    pub checker: Checker,
    /// Peak memory of any pghc process, in bytes, with its name.
    pub peak: Arc<Mutex<(u64, String)>>,
    classes: Vec<Class>,
    tasks: Tasks,
}

impl Run {
    /// Starts everything and waits until the cluster is whole. The load waits for
    /// [`Load::resume`].
    ///
    /// # Errors
    /// When it does not become whole.
    pub async fn start(ground: Ground, rates: Rates, seed: u64) -> anyhow::Result<Self> {
        let classes: Vec<Class> = crate::faults::catalogue(ground.old.is_some())
            .into_iter()
            .filter(|class| ground.sandbox || class.reduced)
            .filter(|class| class.number != clock::NUMBER || clock::is_available())
            .filter(|class| ground.only.is_empty() || ground.only.iter().any(|it| it == class.name))
            .collect();
        anyhow::ensure!(!classes.is_empty(), "no class has one of these names: {:?}", ground.only);
        let cluster = Cluster::start(ground).await?;
        let (view, tasks) = (Arc::new(View::default()), Tasks::default());
        let load = Load::new(cluster.nodes(), rates, seed);
        let peak = Arc::new(Mutex::default());
        tasks.spawn("keeper", keep(Arc::clone(&cluster), Arc::clone(&load), Arc::clone(&peak)));
        tasks.spawn("view", Arc::clone(&view).watch(Arc::clone(&cluster)));
        let checker = Checker::new(&cluster)?;
        tasks.spawn("poller", crate::check::poll(Arc::clone(&cluster), Arc::clone(&load.book)));
        let run = Self { cluster, view, load, checker, peak, classes, tasks };
        run.converged(START_MAX).await?;
        run.tasks.spawn("load", Arc::clone(&run.load).run());
        Ok(run)
    }

    /// Waits until every node is ready and every zone is at the head; returns how long it took. The
    /// load must be paused.
    ///
    /// # Errors
    /// After `longest`, with what was missing.
    pub async fn converged(&self, longest: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        loop {
            let troubles = View::ready(&self.cluster).await;
            if troubles.is_empty() {
                return Ok(started.elapsed());
            }
            anyhow::ensure!(
                started.elapsed() < longest,
                "not whole within {longest:?} after healing: {}",
                troubles.join("; ")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One epoch: faults for `length`, then calm, convergence and checks.
    pub async fn epoch(&mut self, seed: u64, length: Duration) -> EpochReport {
        let started = self.load.book.now();
        self.load.resume();
        let rounds = if self.cluster.ground.only.is_empty() { 1 } else { ROUNDS_OF_SOME };
        let faults = Mutex::new(fault_schedule(&self.classes, rounds, seed));
        let (board, end) = (Board::default(), Instant::now() + length);
        let lanes = (0..LANES).map(|_| self.lane(&board, &faults, end));
        let mut happenings: Vec<Happening> =
            futures::future::join_all(lanes).await.into_iter().flatten().collect();
        happenings.extend(self.one_build(seed).await);
        let mut report = EpochReport::new(seed, happenings);
        self.settle(&mut report).await;
        self.account(&mut report, started);
        report
    }

    /// Stops the load, waits until all zones are equal, and checks.
    pub async fn settle(&mut self, report: &mut EpochReport) {
        let healed = Instant::now();
        if !self.load.pause(CALM_MAX).await {
            report.failures.push(format!("writes without an answer {CALM_MAX:?} after healing"));
        }
        match self.converged(CONVERGE_MAX).await {
            Ok(_) => report.converged_seconds = healed.elapsed().as_secs_f64(),
            Err(error) => report.failures.push(format!("{error:#}")),
        }
        report.failures.extend(self.load.book.findings());
        let checked = Instant::now();
        match self.checker.check(&self.cluster, &self.load.book).await {
            Ok(verdict) => report.failures.extend(verdict),
            Err(error) => report.failures.push(format!("the check was not possible: {error:#}")),
        }
        report.check_seconds = checked.elapsed().as_secs_f64();
    }

    async fn lane(
        &self,
        board: &Board,
        faults: &Mutex<std::collections::VecDeque<crate::schedule::PlannedFault>>,
        end: Instant,
    ) -> Vec<Happening> {
        let mut happenings = Vec::new();
        while Instant::now() < end {
            let scheduled =
                board.schedule_next(&mut faults.lock(), &self.classes, &self.view.look());
            let Some((fault, taken)) = scheduled else {
                if faults.lock().is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let class = &self.classes[fault.class];
            let scene = self.scene(taken.zone, fault.hold, fault.seed);
            let happening = perform(class, scene).await;
            drop(taken);
            happenings.push(happening);
            tokio::time::sleep(Duration::from_millis(fault.seed % GAP_MS)).await;
        }
        happenings
    }

    /// Brings every process back to the build under test, one after the other, as the end of an
    /// upgrade does.
    async fn one_build(&self, seed: u64) -> Vec<Happening> {
        let mut happenings = Vec::new();
        for (zone, units) in self.cluster.zones.iter().enumerate() {
            for unit in units.units().filter(|unit| unit.build() == Build::Old) {
                let name = versions::return_of(&unit.name);
                let Some(class) = self.class(name) else { continue };
                happenings.push(perform(class, self.scene(zone, Duration::ZERO, seed)).await);
            }
        }
        happenings
    }

    /// A scene for a fault.
    pub fn scene(&self, zone: usize, hold: Duration, seed: u64) -> Scene {
        let (cluster, view) = (Arc::clone(&self.cluster), Arc::clone(&self.view));
        Scene { cluster, view, load: Arc::clone(&self.load), zone, hold, seed }
    }

    /// The class of this name.
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.iter().find(|class| class.name == name)
    }

    /// The report of the run, with a last check of everything if there was no failure.
    ///
    /// # Errors
    /// When the last check is not possible.
    pub async fn report(
        &mut self,
        command: String,
        seed: u64,
        started: Instant,
        epochs: Vec<EpochReport>,
    ) -> anyhow::Result<RunReport> {
        let flags = self.cluster.ground.flags();
        let mut failures = Vec::new();
        if epochs.iter().all(|epoch| epoch.failures.is_empty()) {
            failures = self.checker.check_whole(&self.cluster, &self.load.book).await?;
        }
        Ok(RunReport {
            command: command + &flags,
            one_epoch: Some(format!("epoch{flags}")),
            seed,
            reduced: !self.cluster.ground.sandbox,
            seconds: started.elapsed().as_secs_f64(),
            epochs,
            tally: self.load.book.tally(),
            links: self.checker.chains[0].links.len() as u64,
            proofs: self.checker.proofs,
            peak_memory: self.peak.lock().clone(),
            failures,
            gaps: Vec::new(),
        })
    }

    /// Fills in what happened since `begun`.
    pub fn account(&self, report: &mut EpochReport, begun: u64) {
        let (book, now) = (&self.load.book, self.load.book.now());
        report.stalls(book, TAIL);
        report.seconds = Duration::from_nanos(now - begun).as_secs_f64();
        report.acknowledged = book.acks_between(begun, now).len() as u64;
    }

    /// Kills everything and answers what was seen.
    pub async fn end(self) -> Evidence {
        self.tasks.shut_down().await;
        self.cluster.put_down().await;
        let history = self.load.book.with_history(std::mem::take);
        self.checker.evidence(history)
    }
}

/// Runs one fault and writes down what became of it.
pub async fn perform(class: &Class, scene: Scene) -> Happening {
    let (zone, book, cluster) =
        (scene.zone, Arc::clone(&scene.load.book), Arc::clone(&scene.cluster));
    let touched = touched(&cluster, zone, class.needs);
    touched.iter().for_each(|unit| unit.excuse());
    let started = book.now();
    let outcome = (class.run)(scene).await;
    let ended = book.now();
    touched.iter().for_each(|unit| unit.no_excuse());
    let happened = outcome.is_ok();
    let evidence = outcome.unwrap_or_else(|error| format!("{error:#}"));
    let (class, number) = (class.name, class.number);
    Happening { class, number, zone, started, ended, happened, evidence, stall: 0 }
}

/// The processes whose end such a fault excuses.
fn touched(cluster: &Cluster, zone: usize, needs: Needs) -> Vec<&Unit> {
    let here = &cluster.zones[zone];
    match needs {
        Needs::Coordinator => vec![&here.coordinator],
        Needs::Database => vec![&here.postgres],
        Needs::Api => here.api.iter().collect(),
        Needs::Zone => here.units().collect(),
        Needs::Network | Needs::Load => Vec::new(),
        Needs::Everything => cluster.units().collect(),
    }
}

/// Starts again what ended, tells of what ended without an excuse, and watches memory.
async fn keep(cluster: Arc<Cluster>, load: Arc<Load>, peak: Arc<Mutex<(u64, String)>>) {
    loop {
        for unit in cluster.units() {
            match unit.tend() {
                Ok(None) => {}
                Ok(Some(finding)) => load.book.finding(finding),
                Err(error) => load.book.finding(format!("{error:#}")),
            }
            let Some(pid) = unit.peek() else { continue };
            let bytes = resident_peak(pid).unwrap_or(0);
            let mut peak = peak.lock();
            if bytes > peak.0 && !unit.name.ends_with("postgres") {
                // Which build it was tells the path: a run may mix two.
                let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                *peak = (bytes, format!("{}, {}", unit.name, program.display()));
            }
        }
        tokio::time::sleep(TEND).await;
    }
}

/// Peak resident memory of a process, in bytes.
fn resident_peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
