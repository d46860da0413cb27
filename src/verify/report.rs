//! Result of a verification, as text for people and as JSON for scripts, with the same content.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement, Table};
use pghc_api::chain::{Digest, LinkHash};
use pghc_api::verify::Violation;
use serde::Serialize;

use super::compare::Seen;

/// Conclusion of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// Every link of the range was read, is sound, and has a second witness: the coordinators, if
    /// any were given.
    Proved,
    /// Something is there that a sound chain never holds.
    Violation,
    /// Nothing wrong was found, but not everything was read or has a second witness.
    Incomplete,
}

impl Conclusion {
    /// Exit code of the program; 3 is a request that makes no sense.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Proved => 0,
            Self::Violation => 1,
            Self::Incomplete => 2,
        }
    }
}

impl fmt::Display for Conclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proved => "proved",
            Self::Violation => "violation",
            Self::Incomplete => "incomplete",
        })
    }
}

/// The whole result.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The conclusion.
    #[serde(rename = "verdict")]
    pub conclusion: Conclusion,
    /// The same as a number.
    pub exit_code: u8,
    /// The verdict in one sentence, with the first bad id if there is one.
    pub summary: String,
    /// Advice; `None` when proved.
    pub advice: Option<String>,
    /// The cluster whose chain was verified; none when no source was reachable.
    pub cluster_id: Option<String>,
    /// First id that was to be checked.
    pub from: u64,
    /// Id that every zone had to reach: the highest known frontier at the start.
    pub target: u64,
    /// Last id up to which the links from `from` on are proved.
    pub proved_to: Option<u64>,
    /// The sources, in the order given.
    pub zones: Vec<ZoneReport>,
    /// How the sources compare.
    pub comparison: Comparison,
    /// Further notes.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// One source.
#[derive(Debug, Clone, Serialize)]
pub struct ZoneReport {
    /// Its name.
    pub zone: String,
    /// `postgres`, `api`, `file`, or `witness` for an API node of a zone that is read otherwise.
    pub source: &'static str,
    /// Newest id it says it holds.
    pub frontier: Option<u64>,
    /// First and last id of the links found sound, if any were.
    pub sound: Option<(u64, u64)>,
    /// How many that are.
    pub links: u64,
    /// Time spent on checking.
    pub seconds: f64,
    /// Newest link found sound.
    pub newest: Option<Newest>,
    /// The first thing found wrong.
    pub violation: Option<Violation>,
    /// Why it was not read to the end.
    pub incomplete: Option<String>,
}

impl ZoneReport {
    /// Links checked a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.links as f64 / self.seconds } else { 0.0 }
    }
}

/// The newest sound link of a source.
#[derive(Debug, Clone, Serialize)]
pub struct Newest {
    /// Its id.
    pub id: u64,
    /// MD5 chain value.
    pub hash: LinkHash,
    /// SHA-256 chain value.
    pub digest: Digest,
}

/// How the sources compare with the one that is furthest.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Comparison {
    /// The one that is furthest; none when there was nothing to compare.
    pub reference: Option<String>,
    /// Sources that hold the same links as the reference, and between which ids.
    pub equal: Vec<(String, u64, u64)>,
    /// The first id under which two of them differ.
    pub difference: Option<Difference>,
    /// Comparisons that could not be finished.
    pub failed: Vec<String>,
}

/// An id under which sources hold different links.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Difference {
    /// The id.
    pub id: u64,
    /// The link of each source at that id.
    pub seen: Vec<Seen>,
    /// Sources that break in themselves further up and go on there with another source's link.
    pub rejoined: Vec<Rejoined>,
    /// The sources that the coordinators, a token, an export or their own later links speak against;
    /// empty when no source is proved.
    pub odd: Vec<String>,
}

/// A source that breaks in itself and continues with a link of another source.
#[derive(Debug, Clone, Serialize)]
pub struct Rejoined {
    /// The source.
    pub zone: String,
    /// The link with which it continues.
    pub id: u64,
    /// The source that holds that link and is sound up to it.
    pub other: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cluster) = &self.cluster_id {
            writeln!(f, "chain of cluster {cluster}, from link {}\n", self.from)?;
        }
        writeln!(f, "{}\n", zone_table(&self.zones))?;
        for ZoneReport { zone, violation, incomplete, .. } in &self.zones {
            let violation = violation.as_ref().map(|violation| format!("{zone}: {violation}"));
            let reason = incomplete.as_ref().map(|reason| format!("{zone} was {reason}"));
            // The last line says the one that matters most.
            for line in violation.into_iter().chain(reason) {
                if !self.summary.contains(&line) {
                    writeln!(f, "{line}")?;
                }
            }
        }
        if let Some(reference) = &self.comparison.reference {
            for (zone, from, to) in &self.comparison.equal {
                writeln!(f, "links {from} to {to} are the same in {reference} and {zone}")?;
            }
        }
        for line in self.comparison.failed.iter().chain(&self.notes) {
            writeln!(f, "{line}")?;
        }
        if let Some(difference) = &self.comparison.difference {
            writeln!(f, "link {} differs:\n{}", difference.id, seen_table(&difference.seen))?;
        }
        writeln!(f, "{}: {}", self.conclusion.to_string().to_uppercase(), self.summary)?;
        if let Some(advice) = &self.advice {
            writeln!(f, "what to do: {advice}")?;
        }
        Ok(())
    }
}

fn plain_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

fn zone_table(zones: &[ZoneReport]) -> Table {
    let header = ["zone", "source", "frontier", "sound links", "links/s", "newest", "hash"];
    let mut table = plain_table(header);
    for zone in zones {
        let dash = || "-".to_owned();
        table.add_row([
            zone.zone.clone(),
            zone.source.to_owned(),
            zone.frontier.map_or_else(dash, |id| id.to_string()),
            zone.sound.map_or_else(dash, |(from, to)| format!("{from} to {to}")),
            if zone.links == 0 { dash() } else { format!("{:.0}", zone.rate()) },
            zone.newest.as_ref().map_or_else(dash, |newest| newest.id.to_string()),
            zone.newest.as_ref().map_or_else(dash, |newest| newest.hash.to_string()),
        ]);
    }
    for index in [2, 4, 5] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn seen_table(seen: &[Seen]) -> Table {
    let mut table = plain_table(["zone", "node", "written at", "hash", "digest"]);
    for link in seen {
        let Seen { zone, node_id, hash, digest, written_at } = link;
        table.add_row([zone, node_id, written_at, hash, digest]);
    }
    table
}
