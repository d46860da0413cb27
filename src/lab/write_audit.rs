//! Compares the clients' records with the chain: every acknowledged write is in the chain once,
//! under its acknowledged id, and no refused write is. Also resolves writes of unknown result.

use std::collections::HashMap;

use anyhow::Context as _;
use pghc_api::wire::{HeadBody, Page};
use serde::{Deserialize, Serialize};

use super::load::{Log, Write, WriteResult, WriteTag};
use super::target::Endpoint;

/// Links asked for at a time.
const PAGE_LINKS: usize = 1_000;

/// Result of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WriteAudit {
    /// Links of this run in the chain.
    pub found: u64,
    /// Acknowledged, but not in the chain. Always a bug.
    pub lost: u64,
    /// In the chain more than once. Always a bug.
    pub repeated: u64,
    /// Acknowledged under another id than the one it has. Always a bug.
    pub misnumbered: u64,
    /// Refused or never sent, yet in the chain. Always a bug.
    pub unwanted: u64,
    /// Unknown to the client, and in the chain.
    pub unknown_written: u64,
    /// Unknown to the client, and not in the chain when it was read.
    pub unknown_absent: u64,
}

impl WriteAudit {
    /// Whether books and chain agree.
    #[must_use]
    pub fn agrees(&self) -> bool {
        [self.lost, self.repeated, self.misnumbered, self.unwanted].iter().all(|bugs| *bugs == 0)
    }
}

/// Newest id `node` has applied: where a run begins.
///
/// # Errors
/// When the node does not say.
pub async fn frontier(node: &Endpoint) -> anyhow::Result<u64> {
    let body = node.fetch("/v1/chain/head").await?;
    let head: HeadBody = serde_json::from_slice(&body).context("the head is not one of pghc")?;
    Ok(head.frontier)
}

/// Reads the chain above `after` from `node`, as far as it is committed, and compares.
///
/// # Errors
/// When the chain cannot be read to its end; there is no result then.
pub async fn read_chain(
    node: &Endpoint,
    after: u64,
    run: &str,
    logs: &[Log],
) -> anyhow::Result<WriteAudit> {
    let mut scan = ChainScan::new(run, logs);
    let mut after = after;
    loop {
        let path = format!("/v1/chain?after={after}&limit={PAGE_LINKS}&linearizable=true");
        let body = node.fetch(&path).await?;
        let page: Page = serde_json::from_slice(&body).context("the page is not one of pghc")?;
        for link in &page.links {
            let payload = link.payload.as_ref().map_or("", |payload| payload.get());
            scan.see(link.id, payload);
        }
        match page.next_after {
            Some(next) if next > after => after = next,
            Some(_) => anyhow::bail!("the page after link {after} leads nowhere"),
            None => return Ok(scan.close()),
        }
    }
}

/// Compares books with a chain that is at hand: ids and payloads.
pub fn compare<'a>(
    run: &str,
    logs: &[Log],
    chain: impl Iterator<Item = (u64, &'a str)>,
) -> WriteAudit {
    let mut scan = ChainScan::new(run, logs);
    chain.for_each(|(id, payload)| scan.see(id, payload));
    scan.close()
}

/// The books of a run while the chain is read.
struct ChainScan<'a> {
    run: &'a str,
    zones: HashMap<&'a str, (&'a [Write], Vec<bool>)>,
    audit: WriteAudit,
}

impl<'a> ChainScan<'a> {
    fn new(run: &'a str, logs: &'a [Log]) -> Self {
        let writes = |log: &'a Log| (log.writes.as_slice(), vec![false; log.writes.len()]);
        let zones = logs.iter().map(|log| (log.name.as_str(), writes(log)));
        Self { run, zones: zones.collect(), audit: WriteAudit::default() }
    }

    /// Books a link; one of another run is none of ours.
    fn see(&mut self, id: u64, payload: &str) {
        let Ok(tag) = serde_json::from_str::<WriteTag>(payload) else { return };
        if tag.run != self.run {
            return;
        }
        let audit = &mut self.audit;
        audit.found += 1;
        let place = usize::try_from(tag.n).unwrap_or(usize::MAX);
        let entry = self.zones.get_mut(tag.zone.as_str());
        let Some((writes, seen)) = entry.filter(|(writes, _)| place < writes.len()) else {
            audit.unwanted += 1;
            return;
        };
        if std::mem::replace(&mut seen[place], true) {
            audit.repeated += 1;
            return;
        }
        match writes[place].result {
            WriteResult::Written(answered) => audit.misnumbered += u64::from(answered != id),
            WriteResult::Refused => audit.unwanted += 1,
            WriteResult::Unknown => audit.unknown_written += 1,
        }
    }

    fn close(mut self) -> WriteAudit {
        for (writes, seen) in self.zones.values() {
            for (write, _) in writes.iter().zip(seen).filter(|(_, seen)| !**seen) {
                match write.result {
                    WriteResult::Written(_) => self.audit.lost += 1,
                    WriteResult::Unknown => self.audit.unknown_absent += 1,
                    WriteResult::Refused => {}
                }
            }
        }
        self.audit
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{WriteAudit, compare};
    use crate::load::{Log, Write, WriteResult};

    fn check(results: &[WriteResult], chain: &[(u64, &str, u64)], wanted: WriteAudit) {
        let write = |result: &WriteResult| Write { planned: Duration::ZERO, result: *result };
        let writes = results.iter().map(write).collect();
        let log = Log { name: "eu".to_owned(), writes, ..Log::default() };
        let payload = |(id, run, n): &(u64, &str, u64)| {
            (*id, format!(r#"{{"run":"{run}","zone":"eu","n":{n},"pad":"x"}}"#))
        };
        let links: Vec<_> = chain.iter().map(payload).chain([(9, String::new())]).collect();
        let links = links.iter().map(|(id, payload)| (*id, payload.as_str()));
        assert_eq!(compare("r", &[log], links), wanted, "{results:?} against {chain:?}");
    }

    #[test]
    fn write_audit_finds_every_disagreement_with_chain() {
        let none = WriteAudit::default();
        let one = WriteAudit { found: 1, ..none };
        check(&[WriteResult::Written(5)], &[(5, "r", 0)], one);
        check(&[WriteResult::Written(5)], &[(5, "other", 0)], WriteAudit { lost: 1, ..none });
        check(&[WriteResult::Written(5)], &[(6, "r", 0)], WriteAudit { misnumbered: 1, ..one });
        let twice = [(5, "r", 0), (6, "r", 0)];
        check(&[WriteResult::Written(5)], &twice, WriteAudit { found: 2, repeated: 1, ..none });
        check(&[WriteResult::Refused], &[(5, "r", 0)], WriteAudit { unwanted: 1, ..one });
        check(&[WriteResult::Refused], &[], none);
        check(&[], &[(5, "r", 0)], WriteAudit { unwanted: 1, ..one });
        check(&[WriteResult::Unknown], &[(5, "r", 0)], WriteAudit { unknown_written: 1, ..one });
        check(&[WriteResult::Unknown], &[], WriteAudit { unknown_absent: 1, ..none });
        assert!(
            !WriteAudit { lost: 1, ..none }.agrees()
                && WriteAudit { unknown_absent: 1, ..one }.agrees()
        );
    }
}
