//! The clients' books against the chain: every acknowledged write stands there once, under the id
//! it was answered, and what was refused does not. This is also where the unknown are resolved.

use std::collections::HashMap;

use anyhow::Context as _;
use pghc_api::wire::{HeadBody, Page};
use serde::{Deserialize, Serialize};

use super::load::{Fate, Mark};
use super::target::Endpoint;

/// Links asked for at a time.
const PAGE_LINKS: usize = 1_000;

/// One client's book: what became of each of its writes, in the order of its numbers.
#[derive(Debug, Clone, Copy)]
pub struct Book<'a> {
    /// Whose: the `zone` in its payloads.
    pub name: &'a str,
    /// What became of each.
    pub fates: &'a [Fate],
}

/// What the comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balance {
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

impl Balance {
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
/// When the chain cannot be read to its end; nothing is known then.
pub async fn settle(
    node: &Endpoint,
    after: u64,
    run: &str,
    books: &[Book<'_>],
) -> anyhow::Result<Balance> {
    let mut books = Books::new(run, books);
    let mut after = after;
    loop {
        let path = format!("/v1/chain?after={after}&limit={PAGE_LINKS}&linearizable=true");
        let body = node.fetch(&path).await?;
        let page: Page = serde_json::from_slice(&body).context("the page is not one of pghc")?;
        for link in &page.links {
            let payload = link.payload.as_ref().map_or("", |payload| payload.get());
            books.see(link.id, payload);
        }
        match page.next_after {
            Some(next) if next > after => after = next,
            Some(_) => anyhow::bail!("the page after link {after} leads nowhere"),
            None => return Ok(books.close()),
        }
    }
}

/// Compares books with a chain that is at hand: ids and payloads.
pub(super) fn compare<'a>(
    run: &str,
    books: &[Book<'_>],
    chain: impl Iterator<Item = (u64, &'a str)>,
) -> Balance {
    let mut books = Books::new(run, books);
    chain.for_each(|(id, payload)| books.see(id, payload));
    books.close()
}

/// The books of a run while the chain is read.
struct Books<'a> {
    run: &'a str,
    zones: HashMap<&'a str, (&'a [Fate], Vec<bool>)>,
    balance: Balance,
}

impl<'a> Books<'a> {
    fn new(run: &'a str, books: &[Book<'a>]) -> Self {
        let zones =
            books.iter().map(|book| (book.name, (book.fates, vec![false; book.fates.len()])));
        Self { run, zones: zones.collect(), balance: Balance::default() }
    }

    /// Books a link; one of another run is none of ours.
    fn see(&mut self, id: u64, payload: &str) {
        let Ok(mark) = serde_json::from_str::<Mark>(payload) else { return };
        if mark.run != self.run {
            return;
        }
        let balance = &mut self.balance;
        balance.found += 1;
        let place = usize::try_from(mark.n).unwrap_or(usize::MAX);
        let entry = self.zones.get_mut(mark.zone.as_str());
        let Some((fates, seen)) = entry.filter(|(fates, _)| place < fates.len()) else {
            balance.unwanted += 1;
            return;
        };
        if std::mem::replace(&mut seen[place], true) {
            balance.repeated += 1;
            return;
        }
        match fates[place] {
            Fate::Written(answered) => balance.misnumbered += u64::from(answered != id),
            Fate::Refused | Fate::Dropped => balance.unwanted += 1,
            Fate::Unknown => balance.unknown_written += 1,
        }
    }

    fn close(mut self) -> Balance {
        for (fates, seen) in self.zones.values() {
            for (fate, _) in fates.iter().zip(seen).filter(|(_, seen)| !**seen) {
                match fate {
                    Fate::Written(_) => self.balance.lost += 1,
                    Fate::Unknown => self.balance.unknown_absent += 1,
                    Fate::Refused | Fate::Dropped => {}
                }
            }
        }
        self.balance
    }
}

#[cfg(test)]
mod tests {
    use super::{Balance, Book, Books};
    use crate::lab::load::Fate;

    fn check(fates: &[Fate], chain: &[(u64, &str, u64)], wanted: Balance) {
        let mut books = Books::new("r", &[Book { name: "eu", fates }]);
        for (id, run, n) in chain {
            books.see(*id, &format!(r#"{{"run":"{run}","zone":"eu","n":{n},"pad":"x"}}"#));
        }
        books.see(9, "");
        assert_eq!(books.close(), wanted, "{fates:?} against {chain:?}");
    }

    #[test]
    fn write_audit_finds_every_disagreement_with_chain() {
        let none = Balance::default();
        let one = Balance { found: 1, ..none };
        check(&[Fate::Written(5)], &[(5, "r", 0)], one);
        check(&[Fate::Written(5)], &[(5, "other", 0)], Balance { lost: 1, ..none });
        check(&[Fate::Written(5)], &[(6, "r", 0)], Balance { misnumbered: 1, ..one });
        let twice = [(5, "r", 0), (6, "r", 0)];
        check(&[Fate::Written(5)], &twice, Balance { found: 2, repeated: 1, ..none });
        check(&[Fate::Refused], &[(5, "r", 0)], Balance { unwanted: 1, ..one });
        check(&[Fate::Refused, Fate::Dropped], &[], none);
        check(&[], &[(5, "r", 0)], Balance { unwanted: 1, ..one });
        check(&[Fate::Unknown], &[(5, "r", 0)], Balance { unknown_written: 1, ..one });
        check(&[Fate::Unknown], &[], Balance { unknown_absent: 1, ..none });
        assert!(
            !Balance { lost: 1, ..none }.agrees() && Balance { unknown_absent: 1, ..one }.agrees()
        );
    }
}
