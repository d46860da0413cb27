//! Runs and sweeps as one self-contained page: no script, no font, no download. The page can be
//! stored beside its figures and read anywhere, also on a phone.

mod charts;
mod map;
mod svg;

use std::fmt::Write as _;

pub use self::charts::Step;
use self::svg::escape;
use super::run::outcome::{Outcome, VIRTUAL, ZoneOutcome};

const STYLE: &str = include_str!("style.css");

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style><main>\n{body}</main></html>\n",
        escape(title)
    )
}

/// The page of a run.
#[must_use]
pub fn page(outcome: &Outcome) -> String {
    let mut body = head(outcome);
    body.push_str("<div class=charts>\n");
    body.push_str(&charts::distribution(outcome));
    body.push_str(&charts::split(outcome));
    body.push_str(&map::world(outcome));
    body.push_str(&charts::timeline(outcome));
    body.push_str(&charts::rates(outcome));
    body.push_str(&charts::server_time(outcome));
    body.push_str(&charts::visibility(outcome));
    body.push_str("</div>\n<h2>Figures</h2>\n");
    body.push_str(&figures(outcome));
    let _ = write!(body, "<h2>As printed</h2><pre>{}</pre>", escape(&outcome.to_string()));
    document(&format!("{} · geo-load", outcome.name), &body)
}

/// The page of a sweep.
#[must_use]
pub fn sweep_page(name: &str, about: &str, steps: &[Step]) -> String {
    let (title, about) = (escape(name), escape(about));
    let mut body = format!("<h1>{title}: rates</h1><p>{about}</p><div class=charts>\n");
    body.push_str(&charts::throughput(steps));
    body.push_str("</div><h2>Figures</h2><div class=scroll><table><tr><th>asked for /s");
    for name in ["done /s", "p50 ms", "p99 ms", "not acknowledged", "hopes"] {
        let _ = write!(body, "<th>{name}");
    }
    for step in steps {
        let Step { offered, done, p50_ms, p99_ms, errors, ok } = step;
        let (class, word) = if *ok { ("good", "met") } else { ("bad", "missed") };
        let _ = write!(
            body,
            "<tr><td>{offered:.0}<td>{done:.0}<td>{p50_ms:.1}<td>{p99_ms:.1}<td>{:.3} %<td class={class}>{word}",
            errors * 100.0
        );
    }
    body.push_str("</table></div>");
    document(&format!("{name}: rates · geo-load"), &body)
}

/// The summary at the top of the report.
fn head(outcome: &Outcome) -> String {
    let all = &outcome.all;
    let mut text = format!("<h1>{}</h1><p>{}</p>", escape(&outcome.name), escape(&outcome.about));
    let leader = outcome.leader.as_deref().unwrap_or("nobody known");
    let build = if outcome.optimised { "" } else { ", DEBUG BUILD" };
    let label = outcome.label.as_ref().map(|label| format!("; {label}")).unwrap_or_default();
    let line = format!(
        "{}; {} s after {} s of warm-up; seed {}; led by {leader}; pghc {}{build}{label}",
        outcome.started, outcome.seconds, outcome.warmup_s, outcome.seed, outcome.program
    );
    let _ = write!(text, "<p>{}</p>", escape(&line));
    if outcome.is_virtual {
        let _ = write!(text, "<p><b>{}.</b></p>", escape(VIRTUAL));
    }
    if outcome.voters.len() < outcome.zones.len() {
        let _ = write!(text, "<p>Voters: {}.</p>", escape(&outcome.voters.join(", ")));
    }
    text.push_str("<ul class=verdict>");
    let mut item = |class: &str, value: String, name: &str| {
        let _ = write!(text, "<li><b class={class}>{}</b>{}</li>", escape(&value), escape(name));
    };
    let class = |good: bool| if good { "good" } else { "bad" };
    let word = if outcome.passed { "passed" } else { "FAILED" };
    item(class(outcome.passed), word.to_owned(), "books, proof and hopes");
    let valid = outcome.invalid.is_empty();
    item(class(valid), if valid { "VALID" } else { "INVALID" }.to_owned(), "as a measurement");
    item("", format!("{:.1} ms", outcome.mean_p50_ms()), "mean of the zones' medians");
    if let Some(limit) = outcome.mean_limit_ms().filter(|limit| *limit > 0.0) {
        item("", format!("{:.2}", outcome.mean_p50_ms() / limit), "times the limit");
    }
    item("", format!("{:.1} ms", all.latency.p99_ms), "p99 of all");
    item("", all.ok.to_string(), "writes acknowledged");
    let failed = all.refused + all.unknown + all.dropped;
    item(class(failed == 0), failed.to_string(), "not acknowledged");
    let longest = outcome.events.iter().map(|event| event.unavailable_s).fold(0.0, f64::max);
    if !outcome.events.is_empty() {
        item("", format!("{longest:.2} s"), "longest silence after a fault");
    }
    text.push_str("</ul>");
    if !valid {
        text.push_str("<div class=warn><b>Do not trust the latencies of this run.</b><ul>");
        for reason in &outcome.invalid {
            let _ = write!(text, "<li>{}</li>", escape(reason));
        }
        text.push_str("</ul></div>");
    }
    text
}

fn figures(outcome: &Outcome) -> String {
    let mut text = "<div class=scroll><table><tr><th>zone".to_owned();
    for name in [
        "sent", "ok", "refused", "unknown", "p50", "p90", "p99", "p99.9", "max", "limit",
        "x limit", "model", "x model",
    ] {
        let _ = write!(text, "<th>{name}");
    }
    for zone in outcome.zones.iter().filter(|zone| zone.sent > 0).chain([&outcome.all]) {
        text.push_str(&row(outcome, zone));
    }
    text.push_str("</table></div>");
    text
}

fn row(outcome: &Outcome, zone: &ZoneOutcome) -> String {
    let ZoneOutcome { sent, ok, refused, unknown, latency: l, .. } = zone;
    let times = [l.p50_ms, l.p90_ms, l.p99_ms, zone.p999_ms, l.max_ms];
    let mut text =
        format!("<tr><td>{}<td>{sent}<td>{ok}<td>{refused}<td>{unknown}", escape(&zone.zone));
    for ms in times {
        let _ = write!(text, "<td>{ms:.1}");
    }
    let optional = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let held = outcome.held(zone).into_iter().zip([1, 2, 1, 2]);
    held.map(|(value, digits)| optional(value, digits))
        .for_each(|value| text.push_str(&format!("<td>{value}")));
    text
}
