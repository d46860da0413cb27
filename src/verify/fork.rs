//! Judges sources that hold different links under one id. Pure.
//!
//! Sources that are sound in themselves accuse no zone, however many agree: a forged zone may have
//! been the backfill source of others. Only evidence from outside names the odd source: the
//! coordinators, a token, an older export, or a source that contradicts itself.

use super::compare::Mark;
use super::plan::{Plan, Zone};
use super::report::Difference;

/// The outcome: a sentence, what to do, and which sources the evidence speaks against.
pub(crate) struct Judged {
    pub(crate) summary: String,
    pub(crate) advice: String,
    pub(crate) odd: Vec<String>,
}

/// Sources that hold the same link.
struct Camp<'a> {
    zones: Vec<&'a Zone>,
    held: String,
    /// The evidence for this link.
    evidence: Vec<String>,
}

impl Camp<'_> {
    fn names(&self) -> String {
        names(&self.zones)
    }
}

fn names(zones: &[&Zone]) -> String {
    zones.iter().map(|zone| zone.name.as_str()).collect::<Vec<_>>().join(" and ")
}

/// Says which sources are wrong from the differing id on, or that the evidence does not tell.
pub(crate) fn judge(plan: &Plan, zones: &[Zone], difference: &Difference) -> Judged {
    let id = difference.id;
    let mut camps = camps(zones, difference);
    collect_evidence(plan, zones, id, &mut camps);
    let held: Vec<&str> = camps.iter().map(|camp| camp.held.as_str()).collect();
    let summary = format!("link {id} is not the same everywhere: {}", held.join("; "));
    let vouched: Vec<&Camp<'_>> = camps.iter().filter(|camp| !camp.evidence.is_empty()).collect();
    let doubt = |why: &str| {
        format!(
            "{why}, so no source is proved from link {id} on, however many hold the same; the \
             coordinators (--coordinator), a token of that link or a later one (--token) or an export \
             from before (--file) say which"
        )
    };
    match vouched.as_slice() {
        [good] => {
            let others = camps.iter().filter(|camp| camp.held != good.held);
            let odd: Vec<&Zone> = others.flat_map(|camp| camp.zones.iter().copied()).collect();
            let reasons = good.evidence.join(" and ");
            let vouch = if good.evidence.len() == 1 { "vouches" } else { "vouch" };
            let why = format!("{reasons} {vouch} for {}", good.names());
            Judged { summary, advice: distrust(&why, &odd, id), odd: owned(&odd) }
        }
        [] => {
            let broken = self_contradicting(zones, &camps, difference);
            if broken.is_empty() {
                let advice = doubt("each is sound in itself");
                return Judged { summary, advice, odd: Vec::new() };
            }
            let names = names(&broken);
            let why = format!("{names} goes on with links of the others further up");
            let mut advice = distrust(&why, &broken, id);
            let left = camps.iter().filter(|camp| {
                camp.zones.iter().any(|zone| !broken.iter().any(|b| b.name == zone.name))
            });
            if left.count() > 1 {
                advice = format!("{advice}; {}", doubt("the others are sound in themselves"));
            }
            Judged { summary, advice, odd: owned(&broken) }
        }
        several => {
            let each = several
                .iter()
                .map(|camp| format!("{} for {}", camp.evidence.join(" and "), camp.names()));
            let each = each.collect::<Vec<_>>().join(", ");
            let advice = doubt(&format!("the evidence contradicts itself ({each})"));
            Judged { summary, advice, odd: Vec::new() }
        }
    }
}

fn owned(zones: &[&Zone]) -> Vec<String> {
    zones.iter().map(|zone| zone.name.clone()).collect()
}

/// Advice on sources contradicted by evidence.
fn distrust(why: &str, odd: &[&Zone], id: u64) -> String {
    let (live, files): (Vec<&Zone>, Vec<&Zone>) = odd.iter().partition(|zone| zone.is_live);
    let mut advice = why.to_owned();
    if !live.is_empty() {
        let live = names(&live);
        advice = format!(
            "{advice}; trust nothing in {live} from link {id} on: stop its API nodes, keep its \
             database as evidence, seed it again, and verify again"
        );
    }
    if !files.is_empty() {
        let files = names(&files);
        advice = format!("{advice}; {files} was altered after it was exported: export it again");
    }
    advice
}

fn camps<'a>(zones: &'a [Zone], difference: &Difference) -> Vec<Camp<'a>> {
    let mut camps: Vec<(&super::Seen, Camp<'a>)> = Vec::new();
    for seen in &difference.seen {
        let Some(zone) = zones.iter().find(|zone| zone.name == seen.zone) else { continue };
        let same = |first: &super::Seen| first.hash == seen.hash && first.digest == seen.digest;
        match camps.iter_mut().find(|(first, _)| same(first)) {
            Some((_, camp)) => camp.zones.push(zone),
            None => {
                let camp = Camp { zones: vec![zone], held: String::new(), evidence: Vec::new() };
                camps.push((seen, camp));
            }
        }
    }
    camps
        .into_iter()
        .map(|(seen, mut camp)| {
            camp.held = format!("{} hash {} digest {}", camp.names(), seen.hash, seen.digest);
            camp
        })
        .collect()
}

fn collect_evidence(plan: &Plan, zones: &[Zone], id: u64, camps: &mut [Camp<'_>]) {
    // A file among databases is an export that was kept apart; among files alone none is special.
    let any_live = zones.iter().any(|zone| zone.is_live);
    for camp in camps.iter_mut() {
        let mut marks =
            camp.zones.iter().filter_map(|zone| zone.checked.as_ref()).flat_map(|it| &it.marks);
        let is_ordered = |mark: &Mark| {
            let heard = plan.heard.as_ref().and_then(|heard| heard.links.get(&mark.id));
            mark.id >= id && heard == Some(&mark.digest)
        };
        if marks.any(is_ordered) {
            camp.evidence.push("the majority of the coordinators".to_owned());
        }
        for token in plan.request.tokens.iter().filter(|token| token.id().get() >= id) {
            let holds = |zone: &&Zone| {
                let marks = zone.checked.iter().flat_map(|checked| &checked.marks);
                let mut at = marks.filter(|mark| mark.id == token.id().get());
                at.any(|mark| token.matches(mark.digest))
            };
            if camp.zones.iter().any(holds) {
                camp.evidence.push(format!("the token of link {}", token.id()));
            }
        }
    }
    // An export proves what a zone held, forged or not: it counts where nothing else speaks.
    if any_live && camps.iter().all(|camp| camp.evidence.is_empty()) {
        for camp in camps {
            for file in camp.zones.iter().filter(|zone| !zone.is_live) {
                camp.evidence.push(format!("the export {}", file.name));
            }
        }
    }
}

/// Sources whose links stop following from each other above the differing id, and that continue
/// with a link held by a source of another camp. That link commits to the other camp's link, so
/// such sources contradict themselves. A source that continues with a link of its own camp was
/// changed further up and proves nothing about the differing id.
fn self_contradicting<'a>(
    zones: &'a [Zone],
    camps: &[Camp<'_>],
    difference: &Difference,
) -> Vec<&'a Zone> {
    let holds = |camp: &Camp<'_>, name: &str| camp.zones.iter().any(|zone| zone.name == name);
    let contradicts = |zone: &&Zone| {
        let own = camps.iter().find(|camp| holds(camp, &zone.name));
        let rejoined = difference.rejoined.iter().filter(|it| it.zone == zone.name);
        let mut others = rejoined.map(|it| it.other.as_str());
        own.is_some_and(|camp| others.any(|other| !holds(camp, other)))
    };
    zones.iter().filter(contradicts).collect()
}
