//! The charts of a run: what is drawn, not how.

use std::fmt::Write as _;

use super::svg::{Plot, colour, escape, number};
use crate::run::outcome::{Outcome, Point, ZoneOutcome};

/// The distribution is drawn up to this multiple of the slowest zone's median.
const FAR_MAX: f64 = 4.0;

/// A table with at most this number of zones fits into half of the page.
const VISIBILITY_NARROW: usize = 4;

/// Names and colours.
pub(super) fn legend<'a>(names: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = "<ul class=legend>".to_owned();
    for (name, colour) in names {
        // Writing to a string cannot fail.
        let _ = write!(text, "<li style=\"--c:{colour}\">{}</li>", escape(name));
    }
    text.push_str("</ul>");
    text
}

fn zones(outcome: &Outcome) -> Vec<&str> {
    outcome.zones.iter().map(|zone| zone.zone.as_str()).collect()
}

/// Names of the zones that wrote, and their colours.
fn zone_legend(outcome: &Outcome) -> String {
    let wrote = outcome.zones.iter().enumerate().filter(|(_, zone)| zone.ok > 0);
    legend(wrote.map(|(place, zone)| (zone.zone.as_str(), colour(place))))
}

pub(super) fn card(title: &str, about: &str, class: &str, inside: &str) -> String {
    format!(
        "<figure class=\"{class}\"><figcaption><b>{}</b> {}</figcaption>{inside}</figure>\n",
        escape(title),
        escape(about)
    )
}

/// Share of writes that were not slower, per zone, with limit and prediction.
pub(super) fn distribution(outcome: &Outcome) -> String {
    let wrote = || outcome.zones.iter().enumerate().filter(|(_, zone)| zone.ok > 0);
    // The slowest half per cent would squeeze all others together.
    let last = |zone: &ZoneOutcome| {
        let place = zone.cdf.len().saturating_sub(2);
        zone.cdf.get(place).map_or(0.0, |point| point.0)
    };
    let whole = wrote().map(|(_, zone)| last(zone)).fold(0.0, f64::max);
    // Nor shall the victims of a fault, where most were quick.
    let usual = wrote().map(|(_, zone)| {
        zone.latency.p50_ms.max(zone.model_ms.unwrap_or(0.0)).max(zone.limit_ms.unwrap_or(0.0))
    });
    let far = whole.min(usual.fold(0.0, f64::max) * FAR_MAX) * 1.05;
    let mut plot = Plot::new(false, 280.0, (0.0, far), (0.0, 1.0));
    plot.axes("ms until applied in the writer's zone", "share of writes");
    for (place, zone) in wrote() {
        if let Some(limit) = zone.limit_ms {
            plot.vertical(limit, colour(place), "dash");
        }
        if let Some(model) = zone.model_ms {
            plot.vertical(model, colour(place), "dots");
        }
        let mut points = vec![(zone.cdf.first().map_or(0.0, |point| point.0), 0.0)];
        points.extend(zone.cdf.iter().filter(|(ms, _)| *ms <= far));
        plot.line(&points, colour(place), "l");
    }
    let says: Vec<String> = wrote()
        .map(|(_, z)| format!("{}: half within {:.0} ms", z.zone, z.latency.p50_ms))
        .collect();
    let about = if outcome.round_trips_ms.is_some() {
        "dashed: the limit of the distances; dotted: the prediction for this leader"
    } else {
        "no distances, so no limit"
    };
    let inside = plot.finish(&says.join(", ")) + &zone_legend(outcome);
    let beyond = if whole > far { "; the slowest lie beyond the edge" } else { "" };
    card("Latency of writes.", &format!("{about}{beyond}"), "", &inside)
}

/// Latency second by second, with faults and leaders.
pub(super) fn timeline(outcome: &Outcome) -> String {
    let from = -outcome.warmup_s;
    let mut highest: Vec<f64> =
        outcome.timeline.iter().filter(|point| point.second >= 0).map(|p| p.p99_ms).collect();
    highest.sort_by(f64::total_cmp);
    // Without the worst of a fault, or it would flatten all others; what is above is cut off.
    let place = highest.len() * 97 / 100;
    let top = highest.get(place).or(highest.last()).copied().unwrap_or(1.0) * 1.15;
    let mut plot = Plot::new(true, 300.0, (from, outcome.seconds), (0.0, top));
    plot.axes("s from the end of the warm-up", "ms");
    faults(&mut plot, outcome);
    for (place, name) in zones(outcome).into_iter().enumerate() {
        let series = |value: fn(&Point) -> f64| {
            let ours = outcome.timeline.iter().filter(|point| point.zone == name && point.ok > 0);
            ours.map(|p| (second(p), value(p))).collect::<Vec<_>>()
        };
        plot.line(&series(|point| point.p99_ms), colour(place), "thin");
        plot.line(&series(|point| point.p50_ms), colour(place), "l");
    }
    for leader_term in &outcome.leader_terms {
        let name = leader_term.zone.as_deref().unwrap_or("nobody");
        let place = zones(outcome).iter().position(|zone| *zone == name);
        let says = format!("{name} leads, term {}", leader_term.term);
        plot.strip(
            leader_term.from_s.max(from),
            leader_term.to_s,
            place.map_or("#000", colour),
            &says,
        );
    }
    let inside = plot.finish("latency over time") + &zone_legend(outcome);
    let about = "p50 thick, p99 thin; the strip at the bottom has the colour of the leader's zone";
    card("Second by second.", about, "wide", &format!("<div class=scroll>{inside}</div>"))
}

/// The middle of its second.
fn second(point: &Point) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "hours at most")]
    let second = point.second as f64;
    second + 0.5
}

fn faults(plot: &mut Plot, outcome: &Outcome) {
    for event in &outcome.events {
        plot.span(event.from_s, event.to_s, &event.what);
    }
}

/// Acknowledged writes a second, and those that were not.
pub(super) fn rates(outcome: &Outcome) -> String {
    let from = -outcome.warmup_s;
    let count = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let most = outcome.timeline.iter().map(|point| count(point.ok.max(point.failed)));
    let mut plot =
        Plot::new(true, 200.0, (from, outcome.seconds), (0.0, most.fold(1.0, f64::max) * 1.1));
    plot.axes("s from the end of the warm-up", "writes/s");
    faults(&mut plot, outcome);
    for (place, name) in zones(outcome).into_iter().enumerate() {
        let of = || outcome.timeline.iter().filter(|point| point.zone == name);
        let ok: Vec<_> = of().map(|point| (second(point), count(point.ok))).collect();
        plot.line(&ok, colour(place), "l");
        for point in of().filter(|point| point.failed > 0) {
            let says = format!("{name}: {} not acknowledged", point.failed);
            plot.dot(second(point), count(point.failed), colour(place), &says);
        }
    }
    let inside = plot.finish("acknowledged writes a second over time") + &zone_legend(outcome);
    let about = "planned in this second and acknowledged; dots: not acknowledged";
    card("Rate.", about, "wide", &format!("<div class=scroll>{inside}</div>"))
}

/// Components of the median.
pub(super) fn split(outcome: &Outcome) -> String {
    const PARTS: [(&str, &str); 3] = [
        ("least that the distances allow", "#0072b2"),
        ("protocol and leader's place", "#e69f00"),
        ("everything else: disks, PostgreSQL, HTTP, queues", "#009e73"),
    ];
    let wrote = || outcome.zones.iter().filter(|zone| zone.ok > 0);
    let far = wrote().map(|zone| zone.latency.p50_ms.max(zone.model_ms.unwrap_or(0.0)));
    let far = far.fold(1e-9, f64::max);
    let mut inside = String::new();
    for zone in wrote() {
        let (limit, p50) = (zone.limit_ms.unwrap_or(0.0), zone.latency.p50_ms);
        let model = zone.model_ms.unwrap_or(limit);
        let parts = [limit.min(p50), (model.min(p50) - limit).max(0.0), (p50 - model).max(0.0)];
        let _ = write!(
            inside,
            "<div class=bar><span>{}</span><b>{p50:.1} ms</b><div class=track>",
            escape(&zone.zone)
        );
        for ((name, colour), ms) in PARTS.iter().zip(parts) {
            let (width, name) = (100.0 * ms / far, escape(name));
            let _ = write!(
                inside,
                "<i style=\"width:{width:.2}%;background:{colour}\" title=\"{name}: {ms:.1} ms\"></i>"
            );
        }
        inside.push_str("</div></div>");
    }
    inside.push_str(&legend(PARTS.iter().copied()));
    card("What the median is made of.", "by the formulae of `geo-load predict`", "", &inside)
}

/// Server time, as reported by the API nodes.
pub(super) fn server_time(outcome: &Outcome) -> String {
    const PARTS: [(&str, &str, &str); 2] = [
        ("order", "until ordered: queue, way to the leader, quorum, way back", "#0072b2"),
        ("apply", "until applied in the zone", "#e69f00"),
    ];
    let told = || outcome.zones.iter().filter(|zone| !zone.timing_ms.is_empty());
    // In virtual time only distances take any, and those are in the chart before.
    if outcome.is_virtual || told().count() == 0 {
        return String::new();
    }
    let sum = |zone: &ZoneOutcome| zone.timing_ms.values().sum::<f64>();
    let far = told().map(sum).fold(1e-9, f64::max);
    let mut inside = String::new();
    for zone in told() {
        let (name, all) = (escape(&zone.zone), sum(zone));
        let _ =
            write!(inside, "<div class=bar><span>{name}</span><b>{all:.1} ms</b><div class=track>");
        for (part, says, colour) in PARTS {
            let ms = zone.timing_ms.get(part).copied().unwrap_or_default();
            let (width, says) = (100.0 * ms / far, escape(says));
            let _ = write!(
                inside,
                "<i style=\"width:{width:.2}%;background:{colour}\" title=\"{says}: {ms:.2} ms\"></i>"
            );
        }
        inside.push_str("</div></div>");
    }
    inside.push_str(&legend(PARTS.iter().map(|(_, says, colour)| (*says, *colour))));
    card("What the API nodes say.", "means of their `Server-Timing`", "", &inside)
}

/// Median ms from zone to zone.
pub(super) fn visibility(outcome: &Outcome) -> String {
    if outcome.visibility.is_empty() {
        return String::new();
    }
    let names = zones(outcome);
    let most = outcome.visibility.iter().map(|cell| cell.latency.p50_ms).fold(1e-9, f64::max);
    let mut inside =
        "<div class=scroll><table class=heat><tr><th>written in \\ seen in</th>".to_owned();
    for name in &names {
        let _ = write!(inside, "<th>{}</th>", escape(name));
    }
    for from in &names {
        let _ = write!(inside, "</tr><tr><th>{}</th>", escape(from));
        for to in &names {
            let cell = outcome.visibility.iter().find(|cell| cell.from == *from && cell.to == *to);
            let Some(cell) = cell else {
                inside.push_str("<td>-</td>");
                continue;
            };
            let (p50, p99) = (cell.latency.p50_ms, cell.latency.p99_ms);
            let share = 8.0 + 47.0 * p50 / most;
            let _ = write!(
                inside,
                "<td style=\"--h:{share:.0}%\" title=\"{} writes\">{p50:.0}<small>p99 {p99:.0}</small></td>",
                cell.count
            );
        }
    }
    inside.push_str("</tr></table></div>");
    let class = if names.len() > VISIBILITY_NARROW { "wide" } else { "" };
    card("When other zones see it.", "median ms from the planned sending", class, &inside)
}

/// One step of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// Writes a second that were planned, all zones together.
    pub offered: f64,
    /// Writes a second that were acknowledged.
    pub done: f64,
    /// Half were not slower.
    pub p50_ms: f64,
    /// 99 of 100 were not slower.
    pub p99_ms: f64,
    /// Share of writes that were not acknowledged.
    pub errors: f64,
    /// Whether the hopes came true at this rate.
    pub ok: bool,
}

/// Latency against throughput.
pub(super) fn throughput(steps: &[Step]) -> String {
    let most = |of: fn(&Step) -> f64| steps.iter().map(of).fold(1.0, f64::max) * 1.08;
    let mut plot =
        Plot::new(true, 320.0, (0.0, most(|step| step.done)), (0.0, most(|step| step.p99_ms)));
    plot.axes("acknowledged writes/s, all zones", "ms");
    let names = [("p50", colour(0)), ("p99", colour(4))];
    let values: [fn(&Step) -> f64; 2] = [|step| step.p50_ms, |step| step.p99_ms];
    for ((name, colour), of) in names.into_iter().zip(values) {
        let points: Vec<_> = steps.iter().map(|step| (step.done, of(step))).collect();
        plot.line(&points, colour, "l");
        for step in steps {
            let says =
                format!("{name} {} ms at {} asked for", number(of(step)), number(step.offered));
            plot.dot(step.done, of(step), colour, &says);
        }
    }
    let inside = plot.finish("latency against throughput") + &legend(names.into_iter());
    let about = "a dot for each rate; where the curve turns up or back, more was asked than done";
    card("Latency and throughput.", about, "wide", &format!("<div class=scroll>{inside}</div>"))
}
