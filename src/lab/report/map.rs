//! World map of a run's zones: distance of each zone from its limit, the leader, and the latencies
//! from there.
//!
//! The outlines are coarse and our own: they say "about there", no more.

use std::fmt::Write as _;

use super::charts::{card, legend};
use super::svg::escape;
use crate::run::outcome::{Outcome, ZoneOutcome};

/// Places of regions.
const REGIONS: &str = include_str!("../../../deploy/wan/regions.csv");

/// With more zones than this their names appear only when they are pointed at.
const NAMES_MAX: usize = 12;

/// Units per degree.
const SCALE: f64 = 960.0 / 360.0;
/// Northern and southern edge in degrees.
const NORTH: f64 = 78.0;
const SOUTH: f64 = -58.0;

/// Colours by how many times the limit the median is.
const STEPS: [(f64, &str, &str); 4] = [
    (1.1, "#0072b2", "up to 1.1 times the limit"),
    (1.5, "#56b4e9", "up to 1.5"),
    (2.0, "#e69f00", "up to 2"),
    (f64::INFINITY, "#d55e00", "more"),
];

/// Coasts: degrees east and north.
const LANDS: [&str; 15] = [
    // North America
    "-168,66 -156,71 -128,70 -95,72 -82,68 -94,59 -80,52 -78,62 -65,59 -56,52 -65,46 -70,42 \
     -76,35 -81,31 -80,25 -83,29 -97,28 -97,20 -91,18 -87,21 -88,16 -83,14 -82,9 -78,8 -86,11 \
     -95,16 -105,20 -113,31 -117,33 -124,40 -124,48 -134,57 -150,60 -164,56 -165,62",
    // Greenland
    "-55,70 -70,77 -40,83 -20,80 -22,70 -42,60 -52,64",
    // South America
    "-78,8 -72,12 -60,9 -50,1 -35,-6 -39,-15 -41,-22 -48,-26 -54,-34 -62,-39 -66,-46 -69,-54 \
     -74,-50 -73,-38 -70,-20 -76,-14 -81,-5 -80,1",
    // Africa
    "-6,35 10,37 11,33 20,31 32,31 35,27 43,12 51,12 40,-3 40,-15 35,-24 31,-30 26,-34 18,-34 \
     12,-17 13,-6 9,4 -8,4 -17,14 -16,21 -10,29",
    // Europe and Asia
    "-9,43 -9,37 -5,36 0,39 3,43 9,44 16,38 18,40 13,45 20,40 23,36 27,37 36,36 35,32 35,28 \
     43,13 52,17 59,22 51,25 48,30 57,26 67,25 73,20 77,8 80,14 90,22 98,16 99,8 104,1 101,13 \
     106,9 109,12 106,20 114,22 122,30 119,38 126,37 129,36 128,40 140,50 141,53 135,55 \
     155,60 157,51 165,60 180,65 180,69 140,73 105,77 75,72 60,69 40,67 28,71 15,69 5,61 6,58 \
     11,59 14,56 18,60 22,65 25,65 22,60 30,60 21,55 12,54 9,57 8,54 2,51 -2,48",
    // Britain, Ireland, Iceland
    "-5,50 1,51 0,53 -2,57 -5,58 -3,54",
    "-10,52 -6,52 -6,55 -10,54",
    "-22,64 -14,64 -15,66 -23,66",
    // Japan
    "130,32 136,34 140,35 142,40 141,43 145,44 141,45 139,38 133,35",
    // Sumatra, Borneo, New Guinea
    "95,5 104,-2 105,-6 100,0",
    "109,1 117,6 117,-3 110,-3",
    "131,-1 141,-3 150,-10 138,-8",
    // Australia, New Zealand, Madagascar
    "114,-22 122,-18 130,-12 136,-12 137,-17 142,-11 146,-19 153,-27 150,-37 144,-38 137,-34 \
     129,-32 118,-35 115,-34",
    "173,-35 178,-38 174,-41 168,-46 172,-41",
    "44,-17 50,-15 47,-25 43,-23",
];

/// A zone that was found on the map.
struct Spot<'a> {
    zone: &'a ZoneOutcome,
    /// Place among the zones.
    place: usize,
    city: &'static str,
    x: f64,
    y: f64,
}

/// City, and units east and south of the map's corner.
fn find(zone: &str) -> Option<(&'static str, f64, f64)> {
    let line = REGIONS.lines().find(|line| line.split(',').next() == Some(zone))?;
    let mut cells = line.split(',').skip(1);
    let city = cells.next()?;
    let mut degrees = cells.map(str::parse::<f64>);
    let (north, east) = (degrees.next()?.ok()?, degrees.next()?.ok()?);
    Some((city, east_of(east), south_of(north)))
}

fn east_of(degrees: f64) -> f64 {
    (degrees + 180.0) * SCALE
}

fn south_of(degrees: f64) -> f64 {
    (NORTH - degrees.clamp(SOUTH, NORTH)) * SCALE
}

fn colour(zone: &ZoneOutcome) -> &'static str {
    let ratio = zone.ratio().unwrap_or(0.0);
    STEPS.iter().find(|(most, ..)| ratio <= *most).map_or(STEPS[3].1, |(_, colour, _)| colour)
}

/// The map; empty when fewer than two zones are on it.
pub(super) fn world(outcome: &Outcome) -> String {
    let zones = outcome.zones.iter().enumerate();
    let spots: Vec<Spot<'_>> = zones
        .filter_map(|(place, zone)| {
            let (city, x, y) = find(&zone.zone)?;
            Some(Spot { zone, place, city, x, y })
        })
        .collect();
    if spots.len() < 2 {
        return String::new();
    }
    let mut body = lands();
    links(&mut body, outcome, &spots);
    for spot in &spots {
        mark(&mut body, outcome, spot, spots.len() <= NAMES_MAX);
    }
    let height = (NORTH - SOUTH) * SCALE;
    let says: Vec<String> = spots
        .iter()
        .map(|spot| format!("{} {:.0} ms", spot.zone.zone, spot.zone.latency.p50_ms))
        .collect();
    let says = escape(&format!("map of the zones, medians of writes: {}", says.join(", ")));
    let picture = format!(
        r#"<svg role="img" aria-label="{says}" viewBox="0 0 960 {height:.0}">{body}</svg>"#
    );
    let steps = STEPS.iter().map(|(_, colour, name)| (*name, *colour));
    let about =
        "star: the leader; rings: learners; lines: round trips to the leader, thinner the longer";
    let inside = format!("<div class=scroll>{picture}</div>{}", legend(steps));
    card("Where they are.", about, "wide", &inside)
}

/// Coasts, and a line for every 30 degrees.
fn lands() -> String {
    let mut body = String::new();
    let height = (NORTH - SOUTH) * SCALE;
    for degrees in (-150..180).step_by(30) {
        let x = east_of(f64::from(degrees));
        let _ = write!(body, r#"<path class="g" d="M{x:.0} 0V{height:.0}"/>"#);
    }
    for degrees in (-30..=60).step_by(30) {
        let y = south_of(f64::from(degrees));
        let _ = write!(body, r#"<path class="g" d="M0 {y:.0}H960"/>"#);
    }
    for land in LANDS {
        let mut path = String::new();
        for (place, corner) in land.split(' ').enumerate() {
            let command = if place == 0 { 'M' } else { 'L' };
            let (east, north) = corner.split_once(',').unwrap_or_default();
            let degrees = |text: &str| text.parse::<f64>().unwrap_or_default();
            let (x, y) = (east_of(degrees(east)), south_of(degrees(north)));
            let _ = write!(path, "{command}{x:.0} {y:.0}");
        }
        let _ = write!(body, r#"<path class="land" d="{path}Z"/>"#);
    }
    body
}

/// Lines from the leader to every other zone.
fn links(body: &mut String, outcome: &Outcome, spots: &[Spot<'_>]) {
    let leader = spots.iter().find(|spot| Some(&spot.zone.zone) == outcome.leader.as_ref());
    let Some((leader, trips)) = leader.zip(outcome.round_trips_ms.as_ref()) else { return };
    for spot in spots.iter().filter(|spot| spot.place != leader.place) {
        let ms = trips[leader.place][spot.place];
        let width = (120.0 / (ms + 30.0)).clamp(0.4, 3.0);
        let (a, b) = (&leader.zone.zone, &spot.zone.zone);
        let says = escape(&format!("{a} and {b}: {ms:.0} ms there and back"));
        let _ = write!(
            body,
            r#"<path class="link" stroke-width="{width:.1}" d="M{:.1} {:.1}L{:.1} {:.1}"><title>{says}</title></path>"#,
            leader.x, leader.y, spot.x, spot.y
        );
    }
}

/// A zone; its figures appear on hover.
fn mark(body: &mut String, outcome: &Outcome, spot: &Spot<'_>, with_name: bool) {
    let Spot { zone, city, x, y, .. } = spot;
    let ratio = zone.ratio().map_or(String::new(), |ratio| format!(", {ratio:.2} times the limit"));
    let says = format!("{} ({city}): median {:.1} ms{ratio}", zone.zone, zone.latency.p50_ms);
    let (says, colour) = (escape(&says), colour(zone));
    let is_leader = outcome.leader.as_ref() == Some(&zone.zone);
    let shape = if is_leader {
        star(*x, *y)
    } else if outcome.voters.is_empty() || outcome.voters.contains(&zone.zone) {
        format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="6" fill="{colour}""#)
    } else {
        format!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="5" style="fill:var(--card);stroke:{colour};stroke-width:3""#
        )
    };
    let fill = if is_leader { format!(r#" fill="{colour}""#) } else { String::new() };
    let close = if is_leader { "path" } else { "circle" };
    let _ = write!(body, r#"{shape}{fill} class="spot"><title>{says}</title></{close}>"#);
    if with_name {
        // At the right edge the name is left of its spot.
        let (at, class) = if *x > 820.0 { (x - 9.0, "e") } else { (x + 9.0, "s") };
        let name = escape(&zone.zone);
        let _ = write!(
            body,
            r#"<text class="{class} name" x="{at:.0}" y="{:.0}">{name}</text>"#,
            y - 5.0
        );
    }
}

/// Five points around a place, as an open tag.
fn star(x: f64, y: f64) -> String {
    let mut path = String::new();
    for corner in 0..10 {
        let radius = if corner % 2 == 0 { 11.0 } else { 4.6 };
        let (sine, cosine) = (f64::from(corner) * std::f64::consts::PI / 5.0).sin_cos();
        let command = if corner == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{command}{:.1} {:.1}", x + radius * sine, y - radius * cosine);
    }
    format!(r#"<path d="{path}Z""#)
}

#[cfg(test)]
mod tests {
    use pghc_wan::Matrix;

    use super::{find, star};

    #[test]
    fn every_zone_of_the_built_in_matrices_is_on_the_map() {
        for (name, _) in Matrix::built_in() {
            for zone in Matrix::find(name).expect(name).zones() {
                let (city, x, y) = find(zone.as_str()).expect("a region of the table");
                assert!(!city.is_empty() && (0.0..960.0).contains(&x), "{zone}: {x}");
                assert!((0.0..370.0).contains(&y), "{zone}: {y}");
            }
        }
        assert!(find("mars").is_none() && find("# Places of cloud regions").is_none());
    }

    #[test]
    fn a_star_has_its_first_point_above_its_place() {
        assert!(star(10.0, 20.0).starts_with("<path d=\"M10.0 9.0L"), "{}", star(10.0, 20.0));
    }
}
