//! Decides what a verification came to. Pure: sources in, report out.
//!
//! The order is: a violation anywhere is a violation; else anything unread, behind or without a
//! second witness is incomplete; only what is left is proved.

use std::time::Duration;

use pghc_api::verify::{Violation, ViolationKind};

use super::coordinator::NEVER_ORDERED;
use super::fork;
use super::plan::{Plan, WITNESS, Zone};
use super::reading::ReadError;
use super::report::{Comparison, Conclusion, Newest, Report, ZoneReport};
use super::request::{Range, Request};

/// Makes the report of a verification that has ended.
pub(crate) fn report(
    plan: &Plan,
    zones: &[Zone],
    mut comparison: Comparison,
    elapsed: Duration,
) -> Report {
    let zone_reports: Vec<ZoneReport> = zones.iter().map(|zone| zone_report(plan, zone)).collect();
    let witnesses = Witnesses::count(plan, zones, &comparison);
    let fork = comparison.difference.as_mut().map(|difference| {
        let judged = fork::judge(plan, zones, difference);
        difference.odd = judged.odd;
        (difference.id, judged.summary, judged.advice)
    });
    let violation = first_violation(zones, &zone_reports, fork).or_else(|| halted(zones));
    let unread = unread(plan, zones, &zone_reports, &comparison);
    let proved_to = witnesses.proved_to.filter(|_| violation.is_none());
    let (conclusion, summary, advice) = if let Some((summary, advice)) = violation {
        (Conclusion::Violation, summary, Some(advice))
    } else if let Some((summary, advice)) = unread {
        (Conclusion::Incomplete, summary, Some(advice.to_owned()))
    } else if proved_to.is_none_or(|to| to < plan.target) {
        (Conclusion::Incomplete, witnesses.missing(plan), Some(witnesses.advice(plan)))
    } else {
        (Conclusion::Proved, witnesses.proof(plan), None)
    };
    Report {
        conclusion,
        exit_code: conclusion.exit_code(),
        summary,
        advice,
        cluster_id: plan.cluster.as_ref().map(ToString::to_string),
        from: plan.from,
        target: plan.target,
        proved_to,
        notes: notes(plan, zones, &witnesses),
        zones: zone_reports,
        comparison,
        seconds: elapsed.as_secs_f64(),
    }
}

fn zone_report(plan: &Plan, zone: &Zone) -> ZoneReport {
    let sound = zone.sound();
    let head = zone.checked.as_ref().and_then(|checked| checked.head);
    let (own, incomplete) = match &zone.trouble {
        Some(ReadError::Violation(violation)) => (Some(violation.clone()), None),
        Some(
            ReadError::Unreadable(reason) | ReadError::Halted(reason) | ReadError::NoExport(reason),
        ) => (None, Some(format!("not read: {reason}"))),
        None => (wrong_token(&plan.request, zone), None),
    };
    let found = zone.contradicted.iter().cloned().chain(own);
    let violation = found.min_by_key(|violation| violation.id);
    ZoneReport {
        zone: zone.name.clone(),
        source: zone.kind,
        frontier: zone.standing.as_ref().map(|standing| standing.end),
        sound,
        links: sound.map_or(0, |(from, to)| to + 1 - from),
        seconds: zone.checked.as_ref().map_or(0.0, |checked| checked.elapsed.as_secs_f64()),
        newest: head.map(|head| Newest { id: head.id.get(), hash: head.hash, digest: head.digest }),
        violation,
        incomplete,
    }
}

/// A token whose link has another digest here: this zone was rewritten since the token was issued.
fn wrong_token(request: &Request, zone: &Zone) -> Option<Violation> {
    let marks = &zone.checked.as_ref()?.marks;
    let tokens = request.tokens.iter().filter_map(|token| {
        let mark = marks.iter().find(|mark| mark.id == token.id().get())?;
        (!token.matches(mark.digest)).then(|| {
            let expected = format!("the link that token {token} names");
            let found = format!("digest {}", mark.digest);
            Violation::new(token.id().as_i64(), ViolationKind::WrongToken, expected, found)
        })
    });
    tokens.min_by_key(|violation| violation.id)
}

/// The witnesses for each part of the range.
struct Witnesses {
    /// The source that is sound furthest from the first id on, and how far.
    furthest: Option<(String, u64)>,
    /// Last id for which the coordinators vouch, if any were given; else a second source or a
    /// token.
    proved_to: Option<u64>,
    /// How many sources hold all of that.
    sources: usize,
    /// An export of newer links only that vouches for the end.
    export: Option<String>,
}

impl Witnesses {
    fn count(plan: &Plan, zones: &[Zone], comparison: &Comparison) -> Self {
        let mut sound: Vec<(u64, &str)> = zones
            .iter()
            .filter_map(|zone| Some((zone.sound()?, zone.name.as_str())))
            .filter(|((from, _), _)| *from == plan.from)
            .map(|((_, to), name)| (to, name))
            .collect();
        sound.sort_by(|one, other| other.cmp(one));
        let furthest = sound.first().map(|(to, name)| ((*name).to_owned(), *to));
        let second = sound.get(1).map(|(to, _)| *to);
        let reach = furthest.as_ref().map_or(0, |(_, to)| *to);
        let tokens = plan.request.tokens.iter().map(|token| token.id().get());
        let token = tokens.filter(|id| (plan.from..=reach).contains(id)).max();
        // Where the newer links are the same, the older ones are too: a digest covers them.
        let is_full = |name: &str| sound.iter().any(|(_, full)| *full == name);
        let newer = comparison.equal.iter().filter(|(name, _, _)| !is_full(name));
        let newer = newer.max_by_key(|(_, _, to)| *to);
        let proved_to = match &plan.heard {
            Some(heard) if plan.from <= reach => {
                heard.links.range(plan.from..=reach).next_back().map(|(id, _)| *id)
            }
            Some(_) => None,
            None => second.max(token).max(newer.map(|(_, _, to)| *to)),
        };
        let export =
            newer.filter(|(_, _, to)| proved_to == Some(*to)).map(|(name, ..)| name.clone());
        let sources = sound.iter().filter(|(to, _)| proved_to.is_some_and(|end| *to >= end));
        Self { furthest, proved_to, sources: sources.count(), export }
    }

    fn proof(&self, plan: &Plan) -> String {
        let (from, to) = (plan.from, self.proved_to.unwrap_or(0));
        if plan.heard.is_some() {
            let same = match self.sources {
                1 => String::new(),
                count => format!(", the same in {count} sources,"),
            };
            return format!(
                "links {from} to {to} are sound{same} and end as a majority of the coordinators has \
                 confirmed"
            );
        }
        match (self.sources, &self.export) {
            (1, Some(export)) => {
                format!("links {from} to {to} are sound and end as the export {export} does")
            }
            (1, None) => {
                format!("links {from} to {to} are sound and end at a link a token vouches for")
            }
            (count, _) => format!("links {from} to {to} are sound and the same in {count} sources"),
        }
    }

    fn missing(&self, plan: &Plan) -> String {
        if plan.target == 0 {
            return "the chain is empty: there is nothing to prove".to_owned();
        }
        let Some((name, to)) = &self.furthest else {
            let (from, target) = (plan.from, plan.target);
            return format!(
                "the range is empty: no link from {from} on, the chain ends at {target}"
            );
        };
        let first = self.proved_to.map_or(plan.from, |to| to + 1);
        if first > *to {
            let (from, target) = (plan.from, plan.target);
            return format!(
                "links {from} to {to} are proved, but the chain is known to go on to {target}, and no \
                 source that begins at link {from} holds that"
            );
        }
        let before = self.proved_to.map_or(String::new(), |proved| {
            format!("links {} to {proved} are proved, but ", plan.from)
        });
        if plan.heard.is_some() {
            return format!(
                "{before}links {first} to {to} are sound in themselves only: the coordinators \
                 remember the digest of none of them"
            );
        }
        format!(
            "tail not provable: {before}links {first} to {to} are sound in {name} alone; had its \
             newest links been cut off or all rewritten, it would look the same"
        )
    }

    /// Advice on missing witnesses.
    fn advice(&self, plan: &Plan) -> String {
        if plan.heard.is_none() {
            return "ask the coordinators (--coordinator), or give another zone (--zone), an export \
                    (--file) or a token of the newest link that a client was given (--token)"
                .to_owned();
        }
        let reach = self.furthest.as_ref().map_or(0, |(_, to)| *to);
        match self.proved_to {
            Some(proved) if proved == reach => format!(
                "give a source that goes on to link {}, or say that less is to be verified (--to {proved})",
                plan.target
            ),
            Some(proved) => format!(
                "verify to a link that the coordinators remember: to the end, or --to {proved} (they \
                 keep the digest of each of the newest 65,536 links, of one in 256 of the newest 16 \
                 million, and of one in 65,536 for ever)"
            ),
            None => {
                "verify a longer range, up to the end of the chain: the coordinators remember the \
                     digest of each of the newest 65,536 links"
                    .to_owned()
            }
        }
    }
}

fn first_violation(
    zones: &[Zone],
    reports: &[ZoneReport],
    fork: Option<(u64, String, String)>,
) -> Option<(String, String)> {
    let own = zones.iter().zip(reports).filter_map(|(zone, report)| {
        let violation = report.violation.as_ref()?;
        let advice = match &zone.contradicted {
            Some(contradicted) if contradicted == violation => unordered(zones, zone, violation),
            _ => advice(zone, violation),
        };
        Some((violation.id, (format!("{}: {violation}", zone.name), advice)))
    });
    let fork = fork
        .map(|(id, summary, advice)| (i64::try_from(id).unwrap_or(i64::MAX), (summary, advice)));
    // Of two findings at one link, the comparison says more: it comes first.
    fork.into_iter().chain(own).min_by_key(|(id, _)| *id).map(|(_, found)| found)
}

/// A zone whose own node has found its chain not to be the ordered one, where no link of it could be read.
fn halted(zones: &[Zone]) -> Option<(String, String)> {
    zones.iter().find_map(|zone| {
        let Some(ReadError::Halted(reason)) = &zone.trouble else { return None };
        let name = &zone.name;
        let advice = format!(
            "trust nothing in {name} until its zone is filled anew; to see which links differ, verify \
             again with the connection string of its database"
        );
        Some((format!("{name} was not read: {reason}"), advice))
    })
}

/// Advice on a source that is not sound in itself, or that a token contradicts.
fn advice(zone: &Zone, violation: &Violation) -> String {
    let (name, id) = (&zone.name, violation.id);
    if !zone.is_live {
        return format!("{name} was altered or damaged after it was exported: export it again");
    }
    let since = match violation.kind {
        ViolationKind::WrongToken if zone.trouble.is_none() => format!(
            "the token was issued before {name} was rewritten, at link {id} or below; if other \
             zones hold the same as {name}, they were rewritten with it, or the token was; "
        ),
        _ => String::new(),
    };
    format!(
        "{since}trust nothing in {name} from link {id} on: stop its API nodes, keep its database as \
         evidence, seed the zone again, and verify again"
    )
}

/// Advice on a source with links that were never ordered.
fn unordered(zones: &[Zone], zone: &Zone, violation: &Violation) -> String {
    if !zone.is_live {
        return advice(zone, violation);
    }
    let (id, name) = (violation.id, &zone.name);
    if violation.found == NEVER_ORDERED {
        return format!(
            "a link was added to {name} behind the coordinators' backs, or the coordinators have lost a \
             part of their log: stop the API nodes of {name}, keep its database and every other zone as \
             they are, and find out which before anything is seeded again"
        );
    }
    let same = zones.iter().filter(|other| {
        other.is_live && other.contradicted.as_ref().is_some_and(|other| other.id == id)
    });
    let names: Vec<&str> = same.map(|zone| zone.name.as_str()).collect();
    let names = names.join(" and ");
    format!(
        "trust nothing in {names} from link {id} on, whichever zones hold the same: stop the API nodes, \
         keep the databases as evidence, seed the zones again, and verify again"
    )
}

/// Why not everything was read or answered and what to do, or `None` when all was.
fn unread(
    plan: &Plan,
    zones: &[Zone],
    reports: &[ZoneReport],
    comparison: &Comparison,
) -> Option<(String, &'static str)> {
    let wait = plan.request.wait.as_secs_f64();
    let target = plan.target;
    let reasons = zones.iter().zip(reports).filter_map(|(zone, report)| {
        let name = &zone.name;
        if let Some(reason) = &report.incomplete {
            return Some(format!("{name} was {reason}"));
        }
        let behind = zone.is_live && zone.source.is_some() && zone.frontier() < target;
        behind.then(|| {
            let at = zone.frontier();
            format!("{name} stands at {at} and did not reach {target} within {wait} s")
        })
    });
    let mut reasons: Vec<String> = reasons.chain(comparison.failed.iter().cloned()).collect();
    let sources = "see to it that every source can be read and goes on, then verify again";
    let coordinators = "see to it that each coordinator that is given answers, then verify again; one \
                        that is away may be left out: any that answers speaks for a majority";
    let advice = if reasons.is_empty() { coordinators } else { sources };
    reasons.extend(plan.heard.iter().flat_map(|heard| heard.troubles.iter().cloned()));
    (!reasons.is_empty()).then(|| (reasons.join("; "), advice))
}

fn notes(plan: &Plan, zones: &[Zone], witnesses: &Witnesses) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(head) = plan.heard.as_ref().and_then(|heard| heard.head) {
        notes.push(format!("the coordinators' newest link is {head}, as a majority has confirmed"));
    }
    for zone in zones {
        let Some(standing) = &zone.standing else { continue };
        if zone.kind == WITNESS {
            let head = standing.head.unwrap_or(0);
            notes.push(format!("{}: the coordinators' newest link is {head}", zone.name));
        } else if let Some(own) = standing.zone.as_ref().filter(|own| **own != zone.name) {
            notes.push(format!("{} says of itself that it is zone {own}", zone.name));
        }
        if standing.first > plan.from {
            let (name, first) = (&zone.name, standing.first);
            let below = plan.from;
            notes.push(format!(
                "{name} begins at link {first}, which was taken as it stands: it says nothing of \
                 links {below} to {first} by itself"
            ));
        }
    }
    // Where a zone was not read to its end, it is not known what it holds.
    let all_read = zones.iter().all(|zone| zone.trouble.is_none());
    if let (Some((name, to)), Some(proved)) = (&witnesses.furthest, witnesses.proved_to)
        && *to > proved
        && all_read
        && plan.heard.is_none()
    {
        notes.push(format!("links {} to {to} are in {name} only so far", proved + 1));
    }
    let last = match plan.request.range {
        Range::Between(_, Some(to)) => to,
        _ => u64::MAX,
    };
    for token in &plan.request.tokens {
        if !(plan.from..=last).contains(&token.id().get()) {
            notes.push(format!("token {token} lies outside the range and was not used"));
        }
    }
    notes
}
