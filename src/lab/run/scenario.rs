//! A scenario: what is started, what is sent, what is broken and what is hoped for, as a TOML file.
//!
//! Unknown keys are errors. A scenario that was read is checked: everything in it can be done.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pghc_api::id::ZoneName;
use pghc_dev::deployment::Acks;
use pghc_wan::conditions::{Bandwidth, Change, Jitter};
use pghc_wan::{Cut, Matrix};
use serde::{Deserialize, Serialize};

use super::scenario_values::{Draw, ProcessName, Sizes, Time};
use crate::pacer::Arrival;
use crate::predict::model::Commit;

/// Longest run, warm-up included.
const RUN_MAX: Duration = Duration::from_secs(6 * 3600);
/// Most groups of clients, phases and faults.
const ITEMS_MAX: usize = 64;
/// Most users or connections of one group in one zone.
const CONNECTIONS_MAX: usize = 4_096;
/// Highest rate of one group in one zone.
const RATE_MAX: f64 = 100_000.0;

/// A scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name: letters, digits and hyphens.
    pub name: String,
    /// Purpose, for the report.
    #[serde(default)]
    pub about: String,
    /// Makes plans and dice.
    #[serde(default)]
    pub seed: u64,
    /// Measured time.
    pub duration: Time,
    /// Length of the warm-up, whose requests are sent but not measured.
    #[serde(default = "five_seconds")]
    pub warmup: Time,
    /// Distances.
    #[serde(default)]
    pub matrix: MatrixPart,
    /// The deployment.
    #[serde(default)]
    pub cluster: ClusterPart,
    /// The client groups.
    pub clients: Vec<Clients>,
    /// How rates change.
    #[serde(default, rename = "phase")]
    pub phases: Vec<Phase>,
    /// Faults to inject.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    /// Targets; a run that misses one does not pass.
    #[serde(default)]
    pub slo: Slo,
}

/// Distances between the zones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixPart {
    /// aws3, aws5, aws9, azure48, or a CSV file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Number of zones; with a file: use only its first zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zones: Option<usize>,
    /// Instead of a file: the round trip between every two zones; absent: no distances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<Time>,
    /// Added to every delay.
    #[serde(default)]
    pub jitter: Jitter,
    /// Share of lost segments.
    #[serde(default)]
    pub loss: f64,
    /// Between two zones, each way.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// The deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPart {
    /// Zones that vote, the others being learners; none: all vote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<String>,
    /// Zone that is made leader before the start; absent: the elected one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// API nodes in each zone.
    #[serde(default = "one")]
    pub api_nodes: usize,
    /// How coordinators know that writes are committed.
    #[serde(default)]
    pub acks: Acks,
    /// Which formula the measured times are held against; absent: that of `acks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
    /// Whether automatic placement is on.
    #[serde(default)]
    pub placement: Placement,
    /// Whether each zone's frontier is followed, which costs a read for every step of it.
    #[serde(default = "yes")]
    pub visibility: bool,
}

/// Source of leadership transfers during a run, beside faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// No transfers.
    #[default]
    Manual,
    /// The leader, to where the writes are.
    Auto,
}

/// Clients, the same in each of their zones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// A zone, or `*` for each.
    pub zone: String,
    /// Open loop, or closed.
    #[serde(default = "poisson")]
    pub arrival: ArrivalWord,
    /// Requests a second in each zone, of an open loop.
    #[serde(default)]
    pub rate: f64,
    /// Users in each zone, of a closed loop.
    #[serde(default)]
    pub users: usize,
    /// Mean of a user's pause between answer and next request; drawn exponentially.
    #[serde(default)]
    pub think: Time,
    /// Most requests under way in each zone, of an open loop.
    #[serde(default = "many")]
    pub connections: usize,
    /// Time after which a request is given up, retries included.
    #[serde(default = "five_seconds")]
    pub timeout: Time,
    /// Mix of requests.
    #[serde(default)]
    pub mix: Mix,
    /// Which keys are written, and how far behind the newest link is read.
    #[serde(default)]
    pub keys: Keys,
    /// Sizes of payloads.
    #[serde(default = "usual_size")]
    pub value: Sizes,
}

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArrivalWord {
    /// Open loop, exponential gaps.
    Poisson,
    /// Open loop, equal gaps.
    Uniform,
    /// Each user waits for the answer.
    Closed,
}

/// Shares of the kinds of requests; only their proportion counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mix {
    /// Writes, acknowledged when the zone has applied them.
    #[serde(default)]
    pub write: f64,
    /// Reads of what the zone has.
    #[serde(default)]
    pub read_local: f64,
    /// Reads no older than what these clients wrote and saw.
    #[serde(default)]
    pub read_session: f64,
    /// Reads of the newest that is committed anywhere.
    #[serde(default)]
    pub read_linear: f64,
}

/// Keys.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// How many.
    pub space: u64,
    /// How they are drawn.
    pub dist: Draw,
}

/// A change of the rates of open loops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// When it begins, after the warm-up.
    pub at: Time,
    /// Which zone's clients; `*`: all.
    #[serde(default = "star")]
    pub zone: String,
    /// The new rate at once, and from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// From one rate evenly to another, and that from then on; needs `over`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<[f64; 2]>,
    /// This rate, and then what it was before; needs `over`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<f64>,
    /// Up and down between two rates, as a sine that begins in the middle and rises; needs `over`, its
    /// period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sine: Option<[f64; 2]>,
    /// How long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Time>,
}

/// Something that is broken or changed: exactly one of its acts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, after the warm-up.
    pub at: Time,
    /// How long; required of cuts, kills, stops and pauses.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Time>,
    /// Cut these zones off. `leader` means the leader's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// SIGKILL; started again at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill: Option<ProcessName>,
    /// SIGTERM; started again at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<ProcessName>,
    /// SIGSTOP; SIGCONT at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<ProcessName>,
    /// Other conditions of lines; back at the end, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<LineChange>,
    /// Move leadership to this zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead: Option<String>,
}

/// A change of lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineChange {
    /// Zone, or `*`.
    pub from: String,
    /// Zone, or `*`.
    pub to: String,
    /// The new conditions.
    #[serde(flatten)]
    pub change: Change,
}

/// Targets of a run. Absent targets are not judged.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Of writes, over all zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<Time>,
    /// Share of writes that may be refused, dropped or unknown; 0 when absent and nothing is broken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<f64>,
    /// Mean p50 against the mean of the limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_limit: Option<f64>,
    /// Longest time without an acknowledgement after a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Time>,
}

fn five_seconds() -> Time {
    Time(Duration::from_secs(5))
}
fn one() -> usize {
    1
}
fn many() -> usize {
    512
}
fn yes() -> bool {
    true
}
fn poisson() -> ArrivalWord {
    ArrivalWord::Poisson
}
fn usual_size() -> Sizes {
    Sizes { least: 256, most: 256 }
}
fn star() -> String {
    "*".to_owned()
}

impl ClusterPart {
    /// The formula that measured times are held against.
    #[must_use]
    pub fn formula(&self) -> Commit {
        self.commit.unwrap_or(match self.acks {
            Acks::AllToAll => Commit::AcksToAll,
            Acks::Leader => Commit::LeaderPush,
        })
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self { write: 1.0, read_local: 0.0, read_session: 0.0, read_linear: 0.0 }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self { space: 100_000, dist: Draw::Zipf(0.99) }
    }
}

/// Scenarios that come with the program: name and text.
const BUILT_IN: [(&str, &str); 10] = [
    ("near", include_str!("../../../deploy/scenarios/near.toml")),
    ("aws3", include_str!("../../../deploy/scenarios/aws3.toml")),
    ("aws5", include_str!("../../../deploy/scenarios/aws5.toml")),
    ("aws9", include_str!("../../../deploy/scenarios/aws9.toml")),
    ("azure48", include_str!("../../../deploy/scenarios/azure48.toml")),
    ("hub-partition", include_str!("../../../deploy/scenarios/hub-partition.toml")),
    ("leader-loss", include_str!("../../../deploy/scenarios/leader-loss.toml")),
    ("follow-the-traffic", include_str!("../../../deploy/scenarios/follow-the-traffic.toml")),
    ("saturation", include_str!("../../../deploy/scenarios/saturation.toml")),
    ("original", include_str!("../../../deploy/scenarios/original.toml")),
];

impl Scenario {
    /// Names of the scenarios that come with the program.
    pub fn built_in() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The built-in scenario of this name, else the one in the file of this name, with `changes`
    /// such as `duration=30s` or `cluster.leader=eu` made first.
    ///
    /// # Errors
    /// When there is none, it is not understood, or it asks for what cannot be done.
    pub fn find(name: &str, changes: &[String]) -> anyhow::Result<Self> {
        let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None => std::fs::read_to_string(Path::new(name)).with_context(|| {
                let known: Vec<_> = Self::built_in().collect();
                format!("cannot read the scenario {name}; built in are {}", known.join(", "))
            })?,
        };
        Self::parse(&text, changes).with_context(|| format!("the scenario {name} cannot be run"))
    }

    /// Reads a scenario.
    ///
    /// # Errors
    /// When it is not understood, or asks for what cannot be done.
    pub fn parse(text: &str, changes: &[String]) -> anyhow::Result<Self> {
        let mut table: toml::Table = text.parse()?;
        for change in changes {
            let (path, value) =
                change.split_once('=').with_context(|| format!("{change:?} is not KEY=VALUE"))?;
            set(&mut table, path, value)?;
        }
        let scenario: Self = table.try_into()?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Distances and zones; no matrix when there are no distances.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn distances(&self) -> anyhow::Result<(Vec<ZoneName>, Option<Matrix>)> {
        let MatrixPart { file, zones, round_trip, .. } = &self.matrix;
        if let Some(file) = file {
            let matrix = Matrix::find(file)?;
            let matrix = matrix.first(zones.unwrap_or(usize::MAX));
            return Ok((matrix.zones().to_vec(), Some(matrix)));
        }
        let names = pghc_dev::deployment::default_zones(zones.unwrap_or(3));
        let matrix = round_trip.map(|time| Matrix::even(names.clone(), time.0));
        Ok((names, matrix))
    }

    /// Conditions of every line besides its delay.
    #[must_use]
    pub fn conditions(&self) -> Change {
        let MatrixPart { jitter, loss, bandwidth, .. } = self.matrix;
        let (jitter, bandwidth) = (Some(jitter), Some(bandwidth));
        Change { delay_ms: None, jitter, loss: Some(loss), bandwidth }
    }

    /// Everything together.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.warmup.0 + self.duration.0
    }

    /// The same, as if it had been planned to end at this time from the start of the warm-up.
    #[must_use]
    pub fn cut(&self, at: Duration) -> Self {
        let mut cut = self.clone();
        cut.duration.0 = at.saturating_sub(self.warmup.0).min(self.duration.0);
        cut
    }

    fn check(&self) -> anyhow::Result<()> {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        ensure!(
            (1..=64).contains(&self.name.len()) && self.name.chars().all(is_name),
            "a name is 1 to 64 letters, digits and hyphens, not {:?}",
            self.name
        );
        ensure!(!self.duration.0.is_zero(), "duration must be above 0");
        ensure!(self.length() <= RUN_MAX, "a run takes {RUN_MAX:?} at most");
        ensure!(!self.clients.is_empty(), "the scenario has no [[clients]]; add at least one");
        let items = [self.clients.len(), self.phases.len(), self.faults.len()];
        ensure!(items.iter().all(|count| *count <= ITEMS_MAX), "at most {ITEMS_MAX} of a kind");
        self.conditions().check().map_err(anyhow::Error::msg)?;
        let (zones, matrix) = self.distances()?;
        let known = |zone: &str| zone == "*" || zones.iter().any(|name| name.as_str() == zone);
        let leader =
            self.cluster.leader.iter().chain(self.faults.iter().filter_map(|f| f.lead.as_ref()));
        let named = self.clients.iter().map(|clients| &clients.zone);
        let named = named.chain(self.phases.iter().map(|phase| &phase.zone)).chain(leader);
        for zone in named {
            ensure!(known(zone), "there is no zone {zone:?}");
        }
        self.cluster.check(&zones)?;
        self.clients.iter().try_for_each(Clients::check)?;
        self.phases.iter().try_for_each(Phase::check)?;
        for fault in &self.faults {
            let of_net = fault.cut.is_some() || fault.change.is_some();
            ensure!(matrix.is_some() || !of_net, "there are no distances to cut or change");
            fault.check(self.duration.0)?;
        }
        Ok(())
    }
}

impl Clients {
    fn check(&self) -> anyhow::Result<()> {
        if self.arrival == ArrivalWord::Closed {
            ensure!(
                (1..=CONNECTIONS_MAX).contains(&self.users),
                "closed clients need users, 1 to {CONNECTIONS_MAX}"
            );
            ensure!(self.rate == 0.0, "closed clients have no rate");
        } else {
            let allowed = self.rate > 0.0 && self.rate <= RATE_MAX;
            ensure!(allowed, "open clients need a rate above 0 and at most {RATE_MAX}");
            ensure!(self.users == 0, "open clients have no users");
            ensure!((1..=CONNECTIONS_MAX).contains(&self.connections), "connections out of range");
        }
        ensure!(!self.timeout.0.is_zero(), "timeout must be above 0");
        ensure!(self.keys.space > 0, "keys.space must be above 0");
        let Mix { write, read_local, read_session, read_linear } = self.mix;
        let shares = [write, read_local, read_session, read_linear];
        ensure!(shares.iter().all(|share| share.is_finite() && *share >= 0.0), "a bad mix");
        ensure!(shares.iter().sum::<f64>() > 0.0, "the mix is empty");
        Ok(())
    }

    /// As the plan needs it; `None` of closed clients.
    #[must_use]
    pub fn open(&self) -> Option<Arrival> {
        match self.arrival {
            ArrivalWord::Poisson => Some(Arrival::Poisson),
            ArrivalWord::Uniform => Some(Arrival::Uniform),
            ArrivalWord::Closed => None,
        }
    }
}

impl Phase {
    fn check(&self) -> anyhow::Result<()> {
        let over = self.over.is_some_and(|over| !over.0.is_zero());
        let rates = match (self.step, self.ramp, self.burst, self.sine) {
            (Some(rate), None, None, None) if self.over.is_none() => vec![rate],
            (None, Some(rates), None, None) | (None, None, None, Some(rates)) if over => {
                rates.to_vec()
            }
            (None, None, Some(rate), None) if over => vec![rate],
            _ => bail!("a phase is one of `step`, or `ramp`, `burst` or `sine` with `over`"),
        };
        ensure!(
            rates.iter().all(|rate| (0.0..=RATE_MAX).contains(rate)),
            "rates of a phase lie between 0 and {RATE_MAX}"
        );
        Ok(())
    }
}

impl Fault {
    fn check(&self, duration: Duration) -> anyhow::Result<()> {
        let acts = [
            self.cut.is_some(),
            self.kill.is_some(),
            self.stop.is_some(),
            self.pause.is_some(),
            self.change.is_some(),
            self.lead.is_some(),
        ];
        ensure!(
            acts.iter().filter(|act| **act).count() == 1,
            "a fault is exactly one of cut, kill, stop, pause, change, lead"
        );
        let needs_end = acts[..4].contains(&true);
        ensure!(!needs_end || self.lasting.is_some(), "a fault needs an end: `for`");
        let end = self.at.0 + self.lasting.unwrap_or_default().0;
        ensure!(end <= duration, "a fault ends after the run");
        if let Some(change) = &self.change {
            change.change.check().map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// In words, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        if let Some(cut) = &self.cut {
            let (way, how) = (format!("{:?}", cut.way), format!("{:?}", cut.how));
            return format!("cut {} | {} ({way}, {how})", cut.from.join(","), cut.to.join(","));
        }
        if let Some(change) = &self.change {
            return format!("change {} to {}", change.from, change.to);
        }
        let acts = [("kill", &self.kill), ("stop", &self.stop), ("pause", &self.pause)];
        match (acts.iter().find_map(|(act, process)| Some((act, process.as_ref()?))), &self.lead) {
            (Some((act, process)), _) => format!("{act} {process}"),
            (None, Some(zone)) => format!("move the lead to {zone}"),
            (None, None) => "nothing".to_owned(),
        }
    }
}

/// Sets `a.b=value` in a table; a number in the path is a place in a list.
fn set(table: &mut toml::Table, path: &str, value: &str) -> anyhow::Result<()> {
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
    // A value that is not valid TOML is taken as text, so --set duration=30s works without quotes.
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let (inner, last) = match path.rsplit_once('.') {
        Some((before, last)) => (Some(before), last),
        None => (None, path),
    };
    let mut at = table;
    let mut names = inner.into_iter().flat_map(|inner| inner.split('.')).peekable();
    while let Some(name) = names.next() {
        let entry = at.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let entry = match (entry, names.peek().and_then(|place| place.parse::<usize>().ok())) {
            (toml::Value::Array(list), Some(place)) => {
                names.next();
                list.get_mut(place).with_context(|| format!("{path}: there is no item {place}"))?
            }
            (entry, _) => entry,
        };
        at = entry.as_table_mut().with_context(|| format!("{path}: {name} holds no keys"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests;
