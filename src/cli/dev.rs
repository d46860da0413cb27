//! `pghc dev`: a deployment in the foreground until Ctrl-C, or behind a supervisor in the background.
//!
//! Invariant: whichever way this command ends, no process of the deployment is left, unless `--detach` says
//! that it runs. Exit codes: 0 done as asked, 1 a part does not stay up or does not stop, 2 it could not
//! be started or there is none.

mod detach;
mod screen;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use pghc_api::id::ZoneName;
use pghc_dev::deployment::{
    self, Acks, Change, Deployment, DeploymentOptions, Error, Event, Profile, ZONES_MAX,
    default_zones, zones_of,
};
use pghc_dev::observe::{Node, Observer};
use pghc_wan::{Matrix, Wan};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;

use self::screen::Screen;
use super::view;

/// Wait for readiness before the missing processes are printed.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for the readiness of a deployment in the background.
const READY_MAX: Duration = Duration::from_secs(300);

/// Arguments of `pghc dev`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Number of zones, 1 to 9 [default: those of --data, else 3]
    #[arg(long, env = "PGHC_ZONES", value_name = "N")]
    zones: Option<usize>,
    /// Directory that keeps the chain for the next start [default: a temporary one]
    #[arg(long, env = "PGHC_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// First of the ports, which then follow each other [default: those of the last start, or any]
    #[arg(long, env = "PGHC_BASE_PORT", value_name = "PORT")]
    base_port: Option<u16>,
    /// API nodes in each zone, 1 to 8
    #[arg(long, env = "PGHC_API_NODES", value_name = "N", default_value_t = 1)]
    api_nodes: usize,
    /// Delay traffic between zones by this matrix of round trips, and use its zones: aws3, aws5,
    /// aws9, or a CSV file in milliseconds
    #[arg(long, env = "PGHC_WAN", value_name = "MATRIX")]
    wan: Option<String>,
    /// Zones whose coordinators vote, with commas; the others are learners, which read and write
    /// locally and do not vote [default: unchanged, all at first]
    #[arg(long, env = "PGHC_VOTERS", value_name = "ZONES", value_delimiter = ',')]
    voters: Vec<ZoneName>,
    /// How coordinators know that writes are committed
    #[arg(long, env = "PGHC_ACKS", value_name = "HOW", default_value = "all-to-all")]
    acks: Acks,
    /// Return when every node takes writes, and leave the deployment to a supervisor in the background
    /// with the log DIR/log/supervisor.log
    #[arg(long, requires = "data")]
    detach: bool,
    /// Stop the deployment that runs on DIR, and return when nothing of it is left
    #[arg(long, value_name = "DIR", conflicts_with = "detach")]
    stop: Option<PathBuf>,
    /// Be the supervisor of --detach
    #[arg(long, requires = "data", hide = true)]
    supervise: bool,
    /// Program to run as coordinators and API nodes [default: this one]
    #[arg(long, value_name = "FILE", hide = true)]
    binary: Option<PathBuf>,
}

/// Runs a deployment until an end signal, or starts it in the background, or stops it.
pub async fn run(arguments: Arguments) -> ExitCode {
    match (&arguments.stop, &arguments.data) {
        (Some(data), _) => stop(data).await,
        (None, Some(data)) if arguments.detach => detach::run(data).await,
        _ => supervise(arguments).await,
    }
}

/// Stops the deployment of another process.
async fn stop(data: &Path) -> ExitCode {
    match deployment::stop(data).await {
        Ok(true) => view::print("stopped, nothing is left running"),
        Ok(false) => view::print(&format!("nothing was running on {}", data.display())),
        Err(error) => {
            view::complain(&view::error(&error));
            return ExitCode::from(if matches!(error, Error::NoDeployment { .. }) { 2 } else { 1 });
        }
    }
    ExitCode::SUCCESS
}

/// Runs a deployment until an end signal.
async fn supervise(arguments: Arguments) -> ExitCode {
    let is_detached = arguments.supervise;
    if is_detached {
        // No signal of the terminal that it was started from; it leads a group already if this fails.
        let _ = nix::unistd::setsid();
    }
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(interrupt), Ok(terminate)) = (interrupt, terminate) else {
        view::complain("pghc: the system takes no signal handlers; nothing was started");
        return ExitCode::from(2);
    };
    let mut stop = Stop { interrupt, terminate };
    let options = match options(arguments) {
        Ok(options) => options,
        Err(message) => {
            view::complain(&message);
            return ExitCode::from(2);
        }
    };
    let count = options.zones.len();
    view::print(&format!("starting {count} zones: {}", names(&options.zones)));
    let started = Instant::now();
    let deployment = tokio::select! {
        deployment = Deployment::start(options) => deployment,
        () = stop.asked() => {
            view::print("stopped while starting");
            return ExitCode::SUCCESS;
        }
    };
    let deployment = match deployment {
        Ok(deployment) => deployment,
        Err(error) => {
            view::complain(&view::error(&error));
            return ExitCode::from(2);
        }
    };
    get_node_info(&deployment, count);
    let screen = if is_detached { Screen::log() } else { Screen::new() };
    let code = tokio::select! {
        error = attend(&deployment, &screen, started) => {
            screen.say(&view::error(&error));
            if let Some(end) = error.log_end() {
                screen.say(&end);
            }
            ExitCode::FAILURE
        }
        () = stop.asked() => ExitCode::SUCCESS,
    };
    screen.clear();
    view::print(if is_detached {
        "stopping"
    } else {
        "stopping; press Ctrl-C again to stop at once"
    });
    tokio::select! {
        () = deployment.stop() => view::print("stopped, nothing is left running"),
        () = stop.asked() => {
            deployment.abort();
            deployment.stop().await;
            view::print("killed, nothing is left running");
        }
    }
    code
}

/// Says what runs where.
fn get_node_info(deployment: &Deployment, count: usize) {
    if count.is_multiple_of(2) {
        let less = count - 1;
        view::complain(&format!(
            "pghc: warning: {count} coordinators survive no more losses than {less}"
        ));
    }
    view::print(&view::endpoints(&deployment.record()).to_string());
    view::print(&format!("data: {}", deployment.data().display()));
    if let (Some(url), Some(check)) =
        (deployment.record().wan, deployment.wan().and_then(Wan::checked))
    {
        let late = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
        let (p50, p99) = (late(check.late_p50_us), late(check.late_p99_us));
        view::print(&format!(
            "distances: changed by `geo-load net` at {url}; one way late by p50 {p50:.2} p99 {p99:.2} ms"
        ));
    }
}

/// Converts the arguments to options of the library; errors are for people.
fn options(arguments: Arguments) -> Result<DeploymentOptions, String> {
    let matrix = arguments.wan.as_deref().map(Matrix::find).transpose();
    let matrix = matrix.map_err(|error| view::error(&error))?;
    let held = arguments.data.as_deref().map(zones_of).transpose();
    let held = held.map_err(|error| view::error(&error))?.flatten();
    let zones = match (&matrix, arguments.zones, held) {
        (Some(matrix), count, held) => {
            let names = matrix.zones();
            let count =
                count.or(held.map(|zones| zones.len())).unwrap_or(names.len().min(ZONES_MAX));
            if count > names.len() {
                let text = format!("the matrix has {} zones, not {count}", names.len());
                return Err(format!("pghc: {text}; nothing was started"));
            }
            names[..count].to_vec()
        }
        (None, None, Some(held)) => held,
        (None, Some(count), Some(held)) if count == held.len() => held,
        (None, count, _) => default_zones(count.unwrap_or(3).min(usize::from(u8::MAX))),
    };
    Ok(DeploymentOptions {
        zones,
        voters: (!arguments.voters.is_empty()).then_some(arguments.voters),
        data: arguments.data,
        base_port: arguments.base_port,
        api_nodes: arguments.api_nodes,
        binary: arguments.binary,
        profile: if matrix.is_some() { Profile::Wan } else { Profile::Lan },
        acks: arguments.acks,
        wan: matrix,
        wan_seed: rand::random(),
        settings: Vec::new(),
    })
}

fn names(zones: &[ZoneName]) -> String {
    zones.iter().map(ZoneName::as_str).collect::<Vec<_>>().join(", ")
}

/// Waits for readiness and then shows the status; ends only when a part does not stay up.
async fn attend(deployment: &Deployment, screen: &Screen, started: Instant) -> Error {
    let tell = async {
        let mut events = deployment.events();
        loop {
            match events.recv().await {
                Ok(event) => screen.say(&sentence(&event)),
                Err(RecvError::Lagged(missed)) => screen.say(&format!("({missed} changes more)")),
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    let show = async {
        loop {
            match deployment.ready(READY_PATIENCE).await {
                Ok(()) => break,
                Err(error @ Error::NotReady { .. })
                    if screen.pause().is_some()
                        || deployment.has_halted()
                        || started.elapsed() < READY_MAX =>
                {
                    screen.say(&view::error(&error));
                }
                Err(error) => return error,
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let Some(pause) = screen.pause() else {
            let data = deployment.data().display();
            screen.say(&format!("ready after {seconds:.1} s; stop with: pghc dev --stop {data}"));
            return std::future::pending().await;
        };
        screen.say(&format!("ready after {seconds:.1} s; stop with Ctrl-C"));
        let observer = Observer::new(Node::of_record(&deployment.record()));
        loop {
            screen.show(&view::line(&observer.look().await));
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        never = tell => never,
        error = show => error,
    }
}

fn sentence(event: &Event) -> String {
    let member = &event.member;
    match &event.change {
        Change::Started(pid) => format!("{member} runs again as process {pid}"),
        Change::Ended { status: Some(status), .. } => {
            format!("{member} ended ({status}); starting it again")
        }
        Change::Ended { status: None, .. } => format!("{member} ended; starting it again"),
        Change::Failed(reason) => format!("{member} could not be started: {reason}; trying again"),
    }
}

/// Either signal that asks us to stop.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
