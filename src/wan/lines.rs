//! The lines between all zones of a running emulator, the cuts that lie over them, and how tasks
//! wait for a cut to end.
//!
//! Invariant: a line is cut while any cut covers it, by the harshest of them, and open otherwise.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use pghc_api::id::ZoneName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::conditions::{Change, Conditions};
use super::line::{How, Line, LineView};
use super::matrix::Matrix;
use super::timer::Timer;

/// Most cuts at a time.
const CUTS_MAX: usize = 64;

/// Which way a cut stops what travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Both ways.
    #[default]
    Both,
    /// Only what the first group sends to the second.
    Out,
    /// Only what the second group sends to the first.
    In,
}

/// The two sides of a cut: all traffic between two groups of zones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// The first group.
    pub from: Vec<String>,
    /// The second group; `*` means all zones outside the first.
    #[serde(default = "everyone")]
    pub to: Vec<String>,
    /// Which way.
    #[serde(default)]
    pub way: Way,
    /// Silence or reset.
    #[serde(default = "silence")]
    pub how: How,
}

fn everyone() -> Vec<String> {
    vec!["*".to_owned()]
}

fn silence() -> How {
    How::Silence
}

/// Handle of one line, shared by its connections.
#[derive(Debug, Clone)]
pub struct Lane {
    line: Arc<Mutex<Line>>,
    /// Told whenever a cut comes or goes.
    changes: watch::Receiver<()>,
}

impl Lane {
    /// Creates a line outside of a matrix, whose conditions never change.
    pub(super) fn alone(delay: Duration) -> Self {
        let line = Line::new(Conditions { delay, ..Conditions::default() }, 0);
        Self { line: Arc::new(Mutex::new(line)), changes: watch::channel(()).1 }
    }

    /// Locks the line, to send on it or to read it.
    pub fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock()
    }

    pub(super) fn delay(&self) -> Duration {
        self.line().conditions().delay
    }

    /// Waits while the line is silent, and then as long as TCP would take to notice; returns whether
    /// it had to.
    ///
    /// # Errors
    /// `ConnectionReset` when the line breaks connections.
    pub(super) async fn open(&self, timer: &Timer) -> io::Result<bool> {
        let mut waited = false;
        loop {
            let (cut, pause) = {
                let line = self.line();
                (line.cut(), line.retransmission())
            };
            match cut {
                None => return Ok(waited),
                Some(How::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
                Some(How::Silence) => {
                    self.changed(|cut| cut != Some(How::Silence)).await;
                    timer.sleep_until(Instant::now() + pause).await;
                    waited = true;
                }
            }
        }
    }

    /// Resolves when the line breaks connections.
    pub(super) async fn reset(&self) {
        self.changed(|cut| cut == Some(How::Reset)).await;
    }

    async fn changed(&self, is: impl Fn(Option<How>) -> bool) {
        let mut changes = self.changes.clone();
        while !is(self.line().cut()) {
            if changes.changed().await.is_err() {
                // All owners that could change the line are gone.
                return std::future::pending().await;
            }
        }
    }
}

/// All lines of an emulator.
#[derive(Debug)]
pub struct Lines {
    zones: Vec<ZoneName>,
    /// Row-major: from, to.
    lanes: Vec<Lane>,
    cuts: Mutex<(u64, BTreeMap<u64, Cut>)>,
    changes: watch::Sender<()>,
}

impl Lines {
    /// The lines of `matrix`; each throws its own dice from `seed`.
    #[must_use]
    pub fn new(matrix: &Matrix, seed: u64) -> Self {
        let (sender, changes) = watch::channel(());
        let zones = matrix.zones().to_vec();
        let mut lanes = Vec::with_capacity(zones.len() * zones.len());
        for from in &zones {
            for to in &zones {
                let conditions =
                    Conditions { delay: matrix.one_way(from, to), ..Conditions::default() };
                let own = (lanes.len() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let line = Arc::new(Mutex::new(Line::new(conditions, seed ^ own)));
                lanes.push(Lane { line, changes: changes.clone() });
            }
        }
        Self { zones, lanes, cuts: Mutex::default(), changes: sender }
    }

    /// The line between two zones of the matrix; `None` when one is not in it.
    #[must_use]
    pub fn lane(&self, from: &ZoneName, to: &ZoneName) -> Option<Lane> {
        let place = |zone: &ZoneName| self.zones.iter().position(|other| other == zone);
        Some(self.lanes[place(from)? * self.zones.len() + place(to)?].clone())
    }

    /// Changes every line from one of `from` to one of `to`; `*` means all.
    ///
    /// # Errors
    /// A sentence, when a zone is not known or a value is impossible; nothing is changed then.
    pub fn set(&self, from: &str, to: &str, change: &Change) -> Result<(), String> {
        change.check()?;
        let (from, to) = (self.group(&[from.to_owned()])?, self.group(&[to.to_owned()])?);
        for (a, b) in pairs(&from, &to) {
            let mut line = self.lanes[a * self.zones.len() + b].line();
            let new = change.applied_to(line.conditions());
            line.set(new);
        }
        Ok(())
    }

    /// Makes a cut and answers its number.
    ///
    /// # Errors
    /// A sentence, when it separates nothing or there are too many.
    pub fn cut(&self, cut: Cut) -> Result<u64, String> {
        self.covered(&cut)?;
        let mut cuts = self.cuts.lock();
        if cuts.1.len() >= CUTS_MAX {
            return Err(format!("there are {CUTS_MAX} cuts already; heal some first"));
        }
        cuts.0 += 1;
        let number = cuts.0;
        cuts.1.insert(number, cut);
        self.refresh(&cuts.1);
        Ok(number)
    }

    /// Heals a cut, or all; returns how many.
    pub fn heal(&self, number: Option<u64>) -> usize {
        let mut cuts = self.cuts.lock();
        let before = cuts.1.len();
        match number {
            Some(number) => drop(cuts.1.remove(&number)),
            None => cuts.1.clear(),
        }
        self.refresh(&cuts.1);
        before - cuts.1.len()
    }

    /// The cuts, by number.
    #[must_use]
    pub fn cuts(&self) -> BTreeMap<u64, Cut> {
        self.cuts.lock().1.clone()
    }

    /// Every line between different zones as it is now.
    #[must_use]
    pub fn view(&self) -> Vec<LineView> {
        let all: Vec<usize> = (0..self.zones.len()).collect();
        let view = |(a, b): (usize, usize)| {
            let line = self.lanes[a * self.zones.len() + b].line();
            let Conditions { delay, jitter, loss, bandwidth } = line.conditions();
            LineView {
                from: self.zones[a].clone(),
                to: self.zones[b].clone(),
                delay_ms: delay.as_secs_f64() * 1e3,
                jitter,
                loss,
                bandwidth,
                cut: line.cut(),
            }
        };
        pairs(&all, &all).map(view).collect()
    }

    fn refresh(&self, cuts: &BTreeMap<u64, Cut>) {
        let mut state = vec![None; self.lanes.len()];
        for cut in cuts.values() {
            for place in self.covered(cut).unwrap_or_default() {
                state[place] = state[place].max(Some(cut.how));
            }
        }
        for (lane, cut) in self.lanes.iter().zip(state) {
            lane.line().set_cut(cut);
        }
        self.changes.send_replace(());
    }

    /// Places of the lines that a cut covers.
    fn covered(&self, cut: &Cut) -> Result<Vec<usize>, String> {
        let from = self.group(&cut.from)?;
        let to = if cut.to.iter().any(|zone| zone == "*") {
            (0..self.zones.len()).filter(|zone| !from.contains(zone)).collect()
        } else {
            self.group(&cut.to)?
        };
        let count = self.zones.len();
        let out = pairs(&from, &to).map(|(a, b)| a * count + b);
        let back = pairs(&to, &from).map(|(a, b)| a * count + b);
        let covered: Vec<usize> = match cut.way {
            Way::Out => out.collect(),
            Way::In => back.collect(),
            Way::Both => out.chain(back).collect(),
        };
        if covered.is_empty() {
            return Err("the cut separates no two zones".to_owned());
        }
        Ok(covered)
    }

    fn group(&self, names: &[String]) -> Result<Vec<usize>, String> {
        if names.iter().any(|name| name == "*") {
            return Ok((0..self.zones.len()).collect());
        }
        let place = |name: &String| {
            let found = self.zones.iter().position(|zone| zone.as_str() == name);
            found.ok_or_else(|| format!("zone {name:?} is not in the latency matrix"))
        };
        names.iter().map(place).collect()
    }
}

/// All ordered pairs of different zones of two groups.
fn pairs<'a>(from: &'a [usize], to: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + 'a {
    let pair = move |a: &usize| {
        let a = *a;
        to.iter().map(move |b| (a, *b))
    };
    from.iter().flat_map(pair).filter(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use super::{Cut, Lines, Way};
    use crate::conditions::{Bandwidth, Change};
    use crate::line::How;
    use crate::matrix::Matrix;

    fn lines() -> Lines {
        let matrix: Matrix =
            "zone,a,b,c\na,0,10,20\nb,10,0,30\nc,20,30,0".parse().expect("a good matrix");
        Lines::new(&matrix, 7)
    }

    fn cut(from: &str, to: &str, way: Way, how: How) -> Cut {
        let group = |text: &str| text.split(',').map(str::to_owned).collect();
        Cut { from: group(from), to: group(to), way, how }
    }

    fn state(lines: &Lines) -> String {
        let letter = |cut| match cut {
            None => "-",
            Some(How::Silence) => "s",
            Some(How::Reset) => "r",
        };
        lines.view().iter().map(|line| letter(line.cut)).collect()
    }

    #[test]
    fn harshest_of_overlapping_cuts_applies() {
        // Order of the lines: ab ac ba bc ca cb.
        let lines = lines();
        let one = lines.cut(cut("a", "*", Way::Both, How::Silence)).expect("a cut");
        assert_eq!(state(&lines), "sss-s-");
        let two = lines.cut(cut("a,b", "c", Way::Out, How::Reset)).expect("a cut");
        assert_eq!(state(&lines), "srsrs-");
        assert_eq!(lines.heal(Some(one)), 1);
        assert_eq!(state(&lines), "-r-r--");
        assert_eq!((lines.heal(Some(one)), lines.heal(Some(two))), (0, 1));
        lines.cut(cut("a", "b", Way::In, How::Silence)).expect("a cut");
        assert_eq!(state(&lines), "--s---");
        assert_eq!(lines.heal(None), 1);
        assert_eq!(state(&lines), "------");
        assert!(lines.cut(cut("x", "*", Way::Both, How::Reset)).is_err());
        assert!(lines.cut(cut("a", "a", Way::Both, How::Reset)).is_err());
    }

    #[test]
    fn lines_are_changed_one_by_one_or_all_at_once() {
        let lines = lines();
        let slow = Change { delay_ms: Some(99.0), ..Change::default() };
        lines.set("a", "b", &slow).expect("zones of the matrix");
        let narrow = "1Mbit".parse().expect("a rate");
        lines.set("*", "*", &Change { bandwidth: Some(narrow), ..Change::default() }).expect("all");
        let view = lines.view();
        let delays: Vec<f64> = view.iter().map(|line| line.delay_ms).collect();
        assert_eq!(delays, [99.0, 10.0, 5.0, 15.0, 10.0, 15.0]);
        assert!(view.iter().all(|line| line.bandwidth == Bandwidth::BitsPerSecond(1_000_000)));
        assert!(lines.set("a", "x", &slow).is_err());
    }
}
