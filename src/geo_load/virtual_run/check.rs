//! The final check of a run in virtual time: dense ids, recomputed hashes and digests, one chain in
//! every zone; the in-memory counterpart of `chain-verify`.

use pghc_api::chain::{Head, Link, payload_digest};
use pghc_lab::chain_check::CheckResult;
use pghc_sim::{Deployment, cluster_id};

/// Checks `links`, the chain of the first zone, and that every other zone has the same.
pub(super) fn verify(deployment: &Deployment, zones: &[String], links: &[Link]) -> CheckResult {
    let found = sound(links).and_then(|head| same(deployment, zones, links).map(|()| head));
    let (passed, report) = match found {
        Ok(head) => {
            let digest = head.map_or("none".to_owned(), |head| head.digest.to_string());
            let (count, zones) = (links.len(), zones.len());
            (true, format!("Proved in memory: {count} links in {zones} zones, digest {digest}."))
        }
        Err(why) => (false, format!("NOT PROVED: {why}.")),
    };
    CheckResult { passed, exit_code: None, report }
}

/// Recomputes a chain from its first link on.
fn sound(links: &[Link]) -> Result<Option<Head>, String> {
    let cluster = cluster_id();
    let mut head: Option<Head> = None;
    for link in links {
        if head.is_some_and(|head| link.written_at < head.written_at) {
            return Err(format!("the time goes back at link {}", link.id));
        }
        let payload = link.payload.as_ref().map(|payload| payload_digest(payload.as_bytes()));
        let next = Head::extend(head.as_ref(), &cluster, &link.node, link.written_at, payload);
        if (next.id, next.hash, next.digest) != (link.id, link.hash, link.digest) {
            return Err(format!("link {} does not follow from the one before it", link.id));
        }
        head = Some(next);
    }
    Ok(head)
}

fn same(deployment: &Deployment, zones: &[String], links: &[Link]) -> Result<(), String> {
    for (place, zone) in zones.iter().enumerate().skip(1) {
        let others = deployment.database(place).links();
        if let Some((ours, _)) = links.iter().zip(&others).find(|(ours, other)| ours != other) {
            return Err(format!("{zone} has another link {}", ours.id));
        }
        if others.len() != links.len() {
            let (other, count) = (others.len(), links.len());
            return Err(format!("{zone} has {other} links and {} {count}", zones[0]));
        }
    }
    Ok(())
}
