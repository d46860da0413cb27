//! A node in memory: a real chain, with every way a node can fail at hand.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use pghc_api::chain::{Digest, Head, Link, LinkHash, payload_digest};
use pghc_api::id::{NodeName, WriteId};
use pghc_api::time::Micros;
use pghc_api::wire::{Status, ZoneState, ZoneStatus};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::zone::{
    Identity, NewWrite, OrderResult, ReadError, ReadRequirement, ReadResult, Service, SubmitError,
    Unready,
};

/// How the double behaves; the default is well.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behaviour {
    /// Refuses this many submits, with this error.
    pub(crate) submit: Option<(usize, SubmitError)>,
    /// Orders writes but applies nothing.
    pub(crate) applies_nothing: bool,
    /// Fails every read.
    pub(crate) read: Option<ReadError>,
    /// Newest id that reads show, whatever the frontier is said to be.
    pub(crate) goes_back_to: Option<usize>,
    /// Fails `read_index`.
    pub(crate) read_index: Option<ReadError>,
    /// Zones that never apply.
    pub(crate) slow_zones: Vec<String>,
    /// Why it takes no writes.
    pub(crate) not_ready: Option<String>,
    /// Why no reads should be sent to it.
    pub(crate) not_reading: Option<String>,
    pub(crate) may_not_read: Option<ReadError>,
    /// Most links in a page, as if they were large; 0: as many as asked for.
    pub(crate) page_links: usize,
}

#[derive(Debug)]
pub(crate) struct Double {
    identity: Identity,
    pub(crate) behaviour: Mutex<Behaviour>,
    chain: Mutex<Chain>,
    frontier: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Chain {
    links: Vec<Link>,
    head: Option<Head>,
    keys: HashMap<String, (WriteId, Option<Digest>)>,
}

impl Double {
    pub(crate) fn new() -> Arc<Self> {
        let identity = Identity {
            cluster: "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7".parse().expect("a UUID"),
            zone: "eu".parse().expect("a name"),
            node: "eu-api-1".parse().expect("a name"),
            api_url: String::new(),
            place: String::new(),
        };
        Arc::new(Self {
            identity,
            behaviour: Mutex::default(),
            chain: Mutex::default(),
            frontier: watch::Sender::new(0),
        })
    }

    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock());
    }

    /// Applies everything that is ordered.
    pub(crate) fn catch_up(&self) {
        let ordered = self.ordered();
        self.frontier.send_replace(ordered);
    }

    pub(crate) fn ordered(&self) -> u64 {
        self.chain.lock().links.len() as u64
    }

    pub(crate) fn payloads(&self) -> Vec<Option<String>> {
        let chain = self.chain.lock();
        chain.links.iter().map(|link| link.payload.as_deref().map(str::to_owned)).collect()
    }

    fn order(&self, write: &NewWrite) -> OrderResult {
        let mut chain = self.chain.lock();
        let digest = write.payload.as_deref().map(payload_digest);
        if let Some(key) = &write.key
            && let Some((id, first)) = chain.keys.get(key.as_str())
        {
            return if *first == digest {
                OrderResult::Repeated(*id)
            } else {
                OrderResult::KeyReused(*id)
            };
        }
        let Identity { cluster, node, .. } = &self.identity;
        let at = Micros(1_700_000_000_000_000);
        let head = Head::extend(chain.head.as_ref(), cluster, node, at, digest);
        chain.head = Some(head);
        let payload = write
            .payload
            .as_deref()
            .map(|payload| std::str::from_utf8(payload).expect("checked before").into());
        let Head { id, hash, digest: link_digest, written_at } = head;
        let link = Link { id, node: node.clone(), hash, digest: link_digest, written_at, payload };
        chain.links.push(link);
        if let Some(key) = &write.key {
            chain.keys.insert(key.as_str().to_owned(), (id, digest));
        }
        OrderResult::Ordered(head)
    }

    fn applied(&self) -> Vec<Link> {
        let frontier = usize::try_from(self.frontier()).expect("small");
        self.chain.lock().links[..frontier].to_vec()
    }

    fn read<T>(
        &self,
        need: ReadRequirement,
        read: impl FnOnce(Vec<Link>) -> T,
    ) -> Result<ReadResult<T>, ReadError> {
        if let Some(error) = self.behaviour.lock().read.clone() {
            return Err(error);
        }
        let mut links = self.applied();
        // The database may have gone back to here since its frontier was told.
        links.truncate(self.behaviour.lock().goes_back_to.unwrap_or(usize::MAX));
        let frontier = links.len() as u64;
        if frontier < need.at_least {
            return Err(ReadError::Behind { frontier });
        }
        Ok(ReadResult { value: read(links), frontier })
    }
}

impl Service for Double {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn seen(&self) -> u64 {
        self.frontier()
    }

    fn known(&self) -> u64 {
        self.frontier()
    }

    fn frontier(&self) -> u64 {
        *self.frontier.borrow()
    }

    fn may_read(&self) -> Result<(), ReadError> {
        self.behaviour.lock().may_not_read.clone().map_or(Ok(()), Err)
    }

    fn ready_to_read(&self) -> Result<(), Unready> {
        self.behaviour.lock().not_reading.clone().map_or(Ok(()), |why| Err(why.into()))
    }

    fn ready_to_write(&self) -> Result<(), Unready> {
        self.behaviour.lock().not_ready.clone().map_or(Ok(()), |why| Err(why.into()))
    }

    fn submit(
        &self,
        writes: Vec<NewWrite>,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Vec<OrderResult>, SubmitError>> {
        Box::pin(async move {
            let behaviour = self.behaviour.lock().clone();
            if let Some((times, error)) = behaviour.submit.filter(|(times, _)| *times > 0) {
                self.behaviour.lock().submit = Some((times - 1, error.clone()));
                return Err(error);
            }
            let outcomes = writes.iter().map(|write| self.order(write)).collect();
            if !behaviour.applies_nothing {
                self.catch_up();
            }
            Ok(outcomes)
        })
    }

    fn wait_applied(&self, id: u64, deadline: Instant) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(async move {
            let mut frontier = self.frontier.subscribe();
            let reached = timeout_at(deadline, frontier.wait_for(|frontier| *frontier >= id)).await;
            match reached {
                Ok(Ok(frontier)) => Ok(*frontier),
                _ => Err(ReadError::Behind { frontier: self.frontier() }),
            }
        })
    }

    fn wait_everywhere(&self, _: u64, _: Instant) -> BoxFuture<'_, Result<(), ReadError>> {
        let slow = self.behaviour.lock().slow_zones.clone();
        let result = if slow.is_empty() { Ok(()) } else { Err(ReadError::NotEverywhere(slow)) };
        Box::pin(std::future::ready(result))
    }

    fn read_index(&self, _: Instant) -> BoxFuture<'_, Result<u64, ReadError>> {
        let result = self.behaviour.lock().read_index.clone().map_or(Ok(self.ordered()), Err);
        Box::pin(std::future::ready(result))
    }

    fn link(
        &self,
        id: WriteId,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Option<Link>>, ReadError>> {
        let find = |links: Vec<Link>| links.into_iter().find(|link| link.id == id);
        Box::pin(std::future::ready(self.read(need, find)))
    }

    fn newest(
        &self,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Option<Link>>, ReadError>> {
        let last = |links: Vec<Link>| links.into_iter().next_back();
        Box::pin(std::future::ready(self.read(need, last)))
    }

    fn page(
        &self,
        after: u64,
        limit: usize,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Vec<Link>>, ReadError>> {
        let most = self.behaviour.lock().page_links;
        let limit = if most == 0 { limit } else { limit.min(most) };
        let above = |links: Vec<Link>| {
            links.into_iter().filter(|link| link.id.get() > after).take(limit).collect()
        };
        Box::pin(std::future::ready(self.read(need, above)))
    }

    fn recent(
        &self,
        count: usize,
        need: ReadRequirement,
    ) -> BoxFuture<'_, Result<ReadResult<Vec<(WriteId, LinkHash, NodeName)>>, ReadError>> {
        let newest = |links: Vec<Link>| {
            links.into_iter().rev().take(count).map(|l| (l.id, l.hash, l.node)).collect()
        };
        Box::pin(std::future::ready(self.read(need, newest)))
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        let zone = |name: &str| ZoneStatus {
            zone: name.to_owned(),
            state: ZoneState::Live,
            frontier: self.frontier(),
            lag_ids: 0,
            applier: Some(format!("{name}-api-1")),
            message: None,
        };
        let status = Status {
            cluster_id: self.identity.cluster.to_string(),
            zone: self.identity.zone.to_string(),
            node_id: self.identity.node.to_string(),
            is_applier: true,
            frontier: self.frontier(),
            head: self.ordered(),
            leader: Some(1),
            leader_zone: Some("eu".to_owned()),
            term: 1,
            coordinators: Vec::new(),
            zones: vec![zone("eu"), zone("us"), zone("asia")],
            halted: None,
            readings: Vec::new(),
            heard_ms: Some(0),
        };
        Box::pin(std::future::ready(status))
    }
}
