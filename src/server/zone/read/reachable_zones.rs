//! Which other zones this node can read from, found by trying.
//!
//! A zone that no log reaches is filled by reading another zone at the URL that its applier advertises. A wrong URL
//! would show only then, when it is needed. So every node asks each advertised URL for `/v1/status`: [`RETRY`] after
//! a failure, [`PERIOD`] after a success, at most [`AT_ONCE`] at a time. The findings stand in `/v1/status` and in
//! the metric `pghc_zone_can_read`. They decide nothing: the backfill tries each source anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use pghc_api::wire::ZoneReading;
use pghc_runtime::http_client::HttpClient;
use pghc_runtime::telemetry::Metrics;
use tokio::time::{Instant, timeout};

use crate::zone::Identity;
use crate::zone::apply::peer::Peer;
use crate::zone::reports::views::{Source, Views};

/// Pause before a URL is tried again, after a success and after a failure.
const PERIOD: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(5);

/// Pause between two looks at which zones there are.
const TICK: Duration = Duration::from_secs(1);

/// Longest one attempt may take.
const ANSWER_MAX: Duration = Duration::from_secs(4);

/// Most attempts at a time.
const AT_ONCE: usize = 8;

/// The newest finding for each other zone, by name.
#[derive(Debug, Default)]
pub(crate) struct Readings(Mutex<BTreeMap<String, Finding>>);

#[derive(Debug, Clone)]
struct Finding {
    url: String,
    /// Why the zone cannot be read; `None`: it can.
    error: Option<String>,
    due: Instant,
}

impl Readings {
    /// The findings, by zone.
    pub(crate) fn all(&self) -> Vec<ZoneReading> {
        let reading = |(zone, finding): (&String, &Finding)| ZoneReading {
            zone: zone.clone(),
            url: Some(finding.url.clone()).filter(|url| !url.is_empty()),
            reads: finding.error.is_none(),
            message: finding.error.clone(),
        };
        self.0.lock().iter().map(reading).collect()
    }

    /// Forgets zones that are not among `sources`; answers those whose turn it is.
    fn due(&self, sources: Vec<Source>, now: Instant) -> (Vec<Source>, Vec<String>) {
        let mut findings = self.0.lock();
        let gone = findings.keys().filter(|zone| sources.iter().all(|it| it.zone != **zone));
        let gone: Vec<String> = gone.cloned().collect();
        gone.iter().for_each(|zone| drop(findings.remove(zone)));
        let is_due = |source: &Source| {
            let known = findings.get(&source.zone).filter(|known| known.url == source.url);
            known.is_none_or(|known| known.due <= now)
        };
        (sources.into_iter().filter(is_due).collect(), gone)
    }

    /// Takes in what an attempt found; logs it where it is new.
    fn note(&self, source: Source, error: Option<String>, now: Instant) {
        let Source { zone, url, .. } = source;
        let due = now + if error.is_none() { PERIOD } else { RETRY };
        let finding = Finding { url: url.clone(), error: error.clone(), due };
        let before = self.0.lock().insert(zone.clone(), finding);
        let before = before.filter(|before| before.url == url).map(|before| before.error);
        match (before, error) {
            (Some(before), now) if before.is_none() == now.is_none() => {}
            (_, Some(error)) => {
                tracing::warn!(zone, url, error, "zone not readable by this node");
            }
            (_, None) => tracing::info!(zone, url, "zone readable"),
        }
    }
}

/// The dependencies of the task.
pub(crate) struct Trying {
    pub(crate) identity: Identity,
    pub(crate) views: Arc<Views>,
    pub(crate) http: HttpClient,
    pub(crate) readings: Arc<Readings>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Trying {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        loop {
            tokio::time::sleep(TICK).await;
            let sources = self.views.advertised(&self.identity.zone);
            let (due, gone) = self.readings.due(sources, Instant::now());
            for zone in gone {
                self.metrics.zone.can_read.remove(&[("of_zone", zone)]);
            }
            let attempts = futures::stream::iter(due).map(async |source| {
                let error = self.attempt(&source).await.err();
                (source, error)
            });
            let mut attempts = std::pin::pin!(attempts.buffer_unordered(AT_ONCE));
            while let Some((source, error)) = attempts.next().await {
                let gauge = self.metrics.zone.can_read_of(&source.zone);
                gauge.set(u64::from(error.is_none()));
                self.readings.note(source, error, Instant::now());
            }
        }
    }

    async fn attempt(&self, source: &Source) -> Result<(), String> {
        if source.url.is_empty() {
            return Err("its applier advertises no URL: set `advertise` in its api.toml to the \
                        URL under which the other zones reach it"
                .to_owned());
        }
        let peer = Peer::new(self.http.clone(), &source.url);
        let answer = timeout(ANSWER_MAX, peer.identity()).await;
        let answer = answer.map_err(|_| format!("no answer within {ANSWER_MAX:?}"))?;
        let (cluster, zone) = answer.map_err(|error| error.to_string())?;
        verdict(&self.identity, source, &cluster, &zone)
    }
}

/// Whether the node that answered is one of the zone that advertises the URL.
fn verdict(own: &Identity, source: &Source, cluster: &str, zone: &str) -> Result<(), String> {
    if cluster != own.cluster.as_str() {
        return Err(format!("a node of another cluster answers there: {cluster}"));
    }
    if zone != source.zone {
        return Err(format!(
            "a node of zone {zone} answers there: the `advertise` of zone {} is not its URL as seen \
             from zone {}",
            source.zone, own.zone
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{PERIOD, RETRY, Readings, verdict};
    use crate::zone::Identity;
    use crate::zone::reports::views::Source;

    fn source(zone: &str, url: &str) -> Source {
        Source { zone: zone.to_owned(), url: url.to_owned(), frontier: 1 }
    }

    #[test]
    fn an_answer_of_another_zone_or_cluster_is_no_reading() {
        let cluster = "0190a1b2-c3d4-7e5f-8091-a2b3c4d5e6f7";
        let own = Identity {
            cluster: cluster.parse().expect("a UUID"),
            zone: "eu".parse().expect("a name"),
            node: "eu-1".parse().expect("a name"),
            api_url: String::new(),
            place: String::new(),
        };
        let us = source("us", "http://127.0.0.1:8080");
        assert_eq!(verdict(&own, &us, cluster, "us"), Ok(()));
        let other = verdict(&own, &us, cluster, "eu").expect_err("it is the own node");
        assert!(other.contains("node of zone eu") && other.contains("advertise"), "{other}");
        assert!(verdict(&own, &us, "another", "us").is_err());
    }

    #[test]
    fn a_url_is_tried_anew_when_due_or_changed() {
        let (readings, start) = (Readings::default(), Instant::now());
        let due = |sources: Vec<Source>, now| {
            let (due, gone) = readings.due(sources, now);
            (due.into_iter().map(|source| source.zone).collect::<Vec<_>>(), gone)
        };
        let (us, ap) = (source("us", "http://us"), source("ap", ""));
        assert_eq!(due(vec![us.clone(), ap.clone()], start).0, ["us", "ap"]);
        readings.note(us.clone(), None, start);
        readings.note(ap.clone(), Some("no URL".to_owned()), start);
        assert!(due(vec![us.clone(), ap.clone()], start).0.is_empty());
        assert_eq!(due(vec![us.clone(), ap.clone()], start + RETRY).0, ["ap"]);
        assert_eq!(due(vec![us.clone(), ap.clone()], start + PERIOD).0, ["us", "ap"]);
        assert_eq!(
            due(vec![source("us", "http://new")], start),
            (vec!["us".into()], vec!["ap".into()])
        );
        let all = readings.all();
        assert_eq!(all.len(), 1);
        assert!(all[0].reads && all[0].url.as_deref() == Some("http://us"));
    }
}
