//! Decides what is checked where: which cluster, up to which id, from which one, with which marks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pghc_api::id::ClusterId;
use pghc_api::verify::{Known, Violation};
use pghc_runtime::task::Tasks;

use super::check::{Checked, Task, check};
use super::compare::{Grid, Seen, Side, first_difference, see};
use super::coordinator::{Coordinators, Heard, contradiction};
use super::progress::Lane;
use super::reading::{ReadError, Standing};
use super::request::{Range, Request, UsageError};
use super::source::{Place, Source};

/// A source on its way through a verification.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) is_live: bool,
    /// None when it could not be opened.
    pub(crate) source: Option<Source>,
    pub(crate) standing: Option<Standing>,
    /// First id that was checked.
    pub(crate) from: u64,
    pub(crate) checked: Option<Checked>,
    /// Why it was not read to its end.
    pub(crate) trouble: Option<ReadError>,
    /// Violation found by comparison with the coordinators.
    pub(crate) contradicted: Option<Violation>,
}

impl Zone {
    pub(crate) async fn open(name: Option<String>, place: &Place, tasks: &Tasks) -> Self {
        let mut zone = Self {
            name: String::new(),
            kind: place.kind(),
            is_live: !matches!(place, Place::File(_)),
            source: None,
            standing: None,
            from: 1,
            checked: None,
            trouble: None,
            contradicted: None,
        };
        let own = match Source::open(place, tasks).await {
            Ok((source, standing)) => {
                let own = standing.zone.clone();
                (zone.source, zone.standing) = (Some(source), Some(standing));
                own
            }
            Err(error) => {
                zone.trouble = Some(error);
                None
            }
        };
        let place = match place {
            Place::Database(_) => "database".to_owned(),
            Place::Api(url) => url.clone(),
            Place::File(path) => path.display().to_string(),
        };
        zone.name = name.or(own).unwrap_or(place);
        zone
    }

    pub(crate) async fn freeze(mut self, target: u64, wait: Duration) -> Self {
        if let Some(source) = &mut self.source {
            match source.freeze(target, wait).await {
                Ok(standing) => self.standing = Some(standing),
                Err(error) => self.fail(error),
            }
        }
        self
    }

    pub(crate) async fn check(mut self, task: Option<Task>, lane: &Lane) -> Self {
        if let (Some(source), Some(task)) = (&mut self.source, task) {
            self.from = task.from;
            let mut checked = check(source, &task, lane).await;
            self.trouble = checked.trouble.take();
            self.checked = Some(checked);
        }
        self
    }

    /// Compares the links that were found sound with the coordinators' answers.
    pub(crate) async fn confront(mut self, coordinators: &Coordinators, heard: &Heard) -> Self {
        let sound = self.sound();
        if let (Some(source), Some(checked), Some(sound)) = (&mut self.source, &self.checked, sound)
        {
            let marks = &checked.marks;
            self.contradicted = contradiction(coordinators, heard, source, sound, marks).await;
        }
        self
    }

    fn fail(&mut self, error: ReadError) {
        self.source = None;
        self.trouble = Some(error);
    }

    /// First and last id of the unbroken run of links that were found sound.
    pub(crate) fn sound(&self) -> Option<(u64, u64)> {
        self.source.as_ref()?;
        let head = self.checked.as_ref()?.head.as_ref()?;
        Some((self.from, head.id.get()))
    }

    /// Newest id the source said it holds when it was frozen.
    pub(crate) fn frontier(&self) -> u64 {
        self.standing.as_ref().map_or(0, |standing| standing.end)
    }

    /// See [`first_difference`]. Both were checked.
    pub(crate) async fn first_difference(
        &mut self,
        other: &mut Self,
        after: u64,
        to: u64,
    ) -> Result<Option<u64>, ReadError> {
        let (Some(left), Some(right)) = (self.side(), other.side()) else { return Ok(None) };
        first_difference(left, right, after, to).await
    }

    fn side(&mut self) -> Option<Side<'_>> {
        let marks = &self.checked.as_ref()?.marks;
        Some(Side { source: self.source.as_mut()?, marks })
    }

    /// The id of the first link that does not follow from the link before it here.
    pub(crate) fn broken_at(&self) -> Option<u64> {
        match self.trouble.as_ref()? {
            ReadError::Violation(violation) => u64::try_from(violation.id).ok(),
            ReadError::Unreadable(_) | ReadError::Halted(_) | ReadError::NoExport(_) => None,
        }
    }

    /// The link of this id in this source, sound or not.
    pub(crate) async fn see_raw(&mut self, id: u64) -> Option<Seen> {
        see(self.source.as_mut()?, &self.name, id).await.ok()
    }

    /// The link of this id in this source, if it was found sound.
    pub(crate) async fn see(&mut self, id: u64) -> Option<Seen> {
        self.sound().filter(|(from, to)| (*from..=*to).contains(&id))?;
        see(self.source.as_mut()?, &self.name, id).await.ok()
    }
}

/// Determines the one cluster of all sources, and lets each zone count once. An API node of a zone
/// that is also given by its database stays as a witness of the head only.
pub(crate) fn agree(
    zones: Vec<Zone>,
    request: &Request,
) -> Result<(Vec<Zone>, Option<ClusterId>), UsageError> {
    let mut cluster = request.cluster.clone().map(|id| ("--cluster-id".to_owned(), id));
    let mut kept: Vec<Zone> = Vec::new();
    for mut zone in zones {
        if let Some(ReadError::NoExport(what)) = &zone.trouble {
            return Err(UsageError::NoExport { file: zone.name, what: what.clone() });
        }
        let own = zone.standing.as_ref().and_then(|standing| standing.cluster.clone());
        match (&cluster, own) {
            (Some((one, one_id)), Some(other_id)) if *one_id != other_id => {
                let (one, one_id) = (one.clone(), one_id.clone());
                return Err(UsageError::OtherCluster { one, one_id, other: zone.name, other_id });
            }
            (None, Some(id)) => cluster = Some((zone.name.clone(), id)),
            _ => {}
        }
        let of = zone.standing.as_ref().and_then(|standing| standing.zone.clone());
        let same = kept.iter().find(|other| {
            of.is_some() && other.standing.as_ref().and_then(|s| s.zone.clone()) == of
        });
        if let (Some(same), Some(of)) = (same, of) {
            if zone.kind != "api" {
                return Err(UsageError::SameZone {
                    one: same.name.clone(),
                    other: zone.name,
                    zone: of,
                });
            }
            zone.kind = WITNESS;
            zone.source = None;
        }
        kept.push(zone);
    }
    let cluster = cluster.map(|(_, id)| id);
    if let Some(cluster) = &cluster
        && let Some(foreign) = request.tokens.iter().find(|token| !token.is_from(cluster))
    {
        return Err(UsageError::ForeignToken(foreign.clone()));
    }
    Ok((kept, cluster))
}

/// Kind of an API node whose zone is also read in another way.
pub(crate) const WITNESS: &str = "witness";

/// The id that every zone must reach: the highest known frontier at the start; `ordered` is the
/// coordinators' newest id.
pub(crate) fn target(zones: &[Zone], request: &Request, ordered: Option<u64>) -> u64 {
    if let Range::Between(_, Some(to)) = request.range {
        return to;
    }
    let standings = zones.iter().filter_map(|zone| zone.standing.as_ref());
    let known = standings.map(|standing| standing.end.max(standing.head.unwrap_or(0)));
    let tokens = request.tokens.iter().map(|token| token.id().get());
    known.chain(tokens).chain(ordered).max().unwrap_or(0)
}

/// Range to check in each source.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) request: Request,
    pub(crate) target: u64,
    pub(crate) cluster: Option<ClusterId>,
    /// First id to check.
    pub(crate) from: u64,
    pub(crate) grid: Option<Grid>,
    /// Results shared between the sources; `None` for a single source.
    pub(crate) known: Option<Arc<Known>>,
    /// Answers of the coordinators; `None` when none was given.
    pub(crate) heard: Option<Heard>,
}

impl Plan {
    /// Where the sources that were opened end, within the range.
    pub(crate) fn ends(&self, zones: &[Zone]) -> Vec<u64> {
        let open = zones.iter().filter(|zone| zone.source.is_some());
        let ends: BTreeSet<u64> = open.map(|zone| self.end(zone)).filter(|id| *id > 0).collect();
        ends.into_iter().collect()
    }

    /// Sets what depends on where the sources were frozen.
    pub(crate) fn settle(&mut self, zones: &[Zone]) {
        let ends = self.ends(zones);
        let furthest = ends.iter().copied().max().unwrap_or(0);
        self.from = match self.request.range {
            Range::Last(count) => (furthest + 1).saturating_sub(count).max(1),
            Range::Between(from, _) => from,
        };
        let tokens = self.request.tokens.iter().map(|token| token.id().get());
        let vouched = self.heard.iter().flat_map(|heard| heard.links.keys().copied());
        let pins: BTreeSet<u64> = ends.into_iter().chain(tokens).chain(vouched).collect();
        self.grid = Some(Grid::over(self.from - 1, furthest, pins.into_iter().collect()));
        let open = zones.iter().filter(|zone| zone.source.is_some()).count();
        self.known =
            self.cluster.clone().filter(|_| open > 1).map(|cluster| Arc::new(Known::new(cluster)));
    }

    /// The last id to check in a source.
    fn end(&self, zone: &Zone) -> u64 {
        match self.request.range {
            Range::Between(_, Some(to)) => zone.frontier().min(to),
            _ => zone.frontier(),
        }
    }

    /// The range to check in a source; `None` when the source holds nothing of it.
    pub(crate) fn task(&self, zone: &Zone) -> Option<Task> {
        let standing = zone.standing.as_ref()?;
        let to = self.end(zone);
        // An export that begins later needs its own first link as the anchor.
        let from = if standing.first > 1 { self.from.max(standing.first + 1) } else { self.from };
        let is_empty_zone = to == 0 && self.from == 1 && zone.is_live;
        (to >= from || is_empty_zone).then(|| Task {
            cluster: self.cluster.clone().expect("a source that is open has a cluster"),
            known: self.known.clone(),
            from,
            to,
            whole_tail: to == zone.frontier(),
            grid: self.grid.clone().expect("settled before"),
        })
    }
}
