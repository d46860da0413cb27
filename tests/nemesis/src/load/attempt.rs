//! Requests and what their answers mean. A write without a clear answer is sent again under its key,
//! to any zone, until it has one.

use std::time::Duration;

use pghc_api::chain::Digest;
use pghc_api::wire::HeadBody;
use pghc_history::{Fingerprint, Operation, OrderResult, ReadOutcome, What};
use pghc_lab::client::{Connection, get, post};
use rand::RngExt as _;
use serde::Deserialize;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

use super::{Load, Session};

/// Longest time a client waits for an answer.
const ANSWER_MAX: Duration = Duration::from_millis(2_500);
/// Longest time a node may take by the request's own word; the answer then is an honest 504.
const TIMEOUT: &str = "2s";
/// Longest time until a client gives its write up.
const PATIENCE: Duration = Duration::from_secs(90);
/// Pauses between two attempts, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 20..120;

/// The parts of a write's answer that we use.
#[derive(Deserialize)]
struct Written {
    id: u64,
    digest: Digest,
    token: String,
}

/// The parts of an error's body that we use.
#[derive(Deserialize)]
struct Problem {
    code: String,
    id: Option<u64>,
}

/// Result of one attempt to write.
enum Attempt {
    Done(OrderResult, String),
    Committed(u64),
    Refused(String),
    Open,
}

impl Load {
    /// Writes until it is acknowledged. In a burst a refusal is the end of it.
    pub(super) async fn write(&self, session: &mut Session, is_burst: bool) {
        let number = self.writes.fetch_add(1, Ordering::SeqCst);
        let payload = format!("{{\"n\":{number},\"s\":{}}}", session.number);
        let fingerprint = Fingerprint::of(payload.as_bytes());
        let (body, key) = (format!("{{\"payload\":{payload}}}"), format!("n{number}"));
        let path = format!("/v1/chain?timeout={TIMEOUT}");
        let end = Instant::now() + PATIENCE;
        loop {
            let place = self.choose(session);
            let request = post("nemesis", &path, "application/json", Some(&key), body.as_bytes());
            let started = self.book.now();
            let answer = self.ask(place, &request).await;
            let attempt = answer.map_or(Attempt::Open, |(status, body)| judge(status, &body));
            let outcome = match &attempt {
                Attempt::Done(outcome, _) => *outcome,
                Attempt::Committed(id) => OrderResult::Committed { id: *id },
                Attempt::Refused(_) => OrderResult::Refused,
                Attempt::Open => OrderResult::Unknown,
            };
            let what = What::Write { key: Some(number), payload: Some(fingerprint), outcome };
            self.record(session, place, started, what);
            match attempt {
                Attempt::Done(OrderResult::Acknowledged { id, .. }, token) => {
                    session.token = Some((id, token));
                    return;
                }
                Attempt::Refused(code) if code != "overloaded" => {
                    self.book.finding(format!("write {number} was refused: {code}"));
                    return;
                }
                Attempt::Refused(_) if is_burst => return,
                _ if Instant::now() >= end => {
                    // The session may know an id without a token, which its next reads could not
                    // use.
                    session.begin_anew();
                    return self.book.given_up();
                }
                _ => {
                    let pause = session.random.random_range(PAUSE_MS);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        }
    }

    /// Reads the head once, not older than the session's token.
    pub(super) async fn read(&self, session: &mut Session, linearizable: bool) {
        let mut path = format!("/v1/chain/head?timeout={TIMEOUT}");
        if let Some((_, token)) = &session.token {
            path.push_str(&format!("&at_least={token}"));
        }
        if linearizable {
            path.push_str("&linearizable=true");
        }
        let place = self.choose(session);
        let started = self.book.now();
        let answer = self.ask(place, &get("nemesis", &path)).await;
        let outcome = match answer {
            Some((200, body)) => match serde_json::from_slice::<HeadBody>(&body) {
                Ok(head) => {
                    let digest = head.head.as_ref().map(|link| link.digest);
                    let seen = head.head.as_ref().map_or(0, |link| link.id);
                    let at_least = session.token.take();
                    session.token = head.head.map(|link| (link.id, link.token.to_string()));
                    let outcome = ReadOutcome::Seen { frontier: seen, digest };
                    let at_least = at_least.map(|(id, _)| id);
                    return self.record(
                        session,
                        place,
                        started,
                        What::Read { at_least, linearizable, outcome },
                    );
                }
                Err(error) => {
                    self.book.finding(format!("a head that is not one: {error}"));
                    ReadOutcome::Failed
                }
            },
            Some((409, _)) => ReadOutcome::Fork,
            Some((status @ 400..=499, body)) if status != 429 => {
                let body = String::from_utf8_lossy(&body).into_owned();
                self.book.finding(format!("a read of {path} was refused: {status} {body}"));
                ReadOutcome::Failed
            }
            _ => ReadOutcome::Failed,
        };
        let at_least = session.token.as_ref().map(|(id, _)| *id);
        self.record(session, place, started, What::Read { at_least, linearizable, outcome });
    }

    fn choose(&self, session: &mut Session) -> usize {
        let avoided = self.avoided.lock();
        let fit = |place: &usize| !avoided.contains(&self.nodes[*place].0);
        let places: Vec<usize> = (0..self.nodes.len()).filter(fit).collect();
        drop(avoided);
        if places.is_empty() {
            return session.random.random_range(0..self.nodes.len());
        }
        places[session.random.random_range(0..places.len())]
    }

    fn record(&self, session: &Session, place: usize, started: u64, what: What) {
        let zone = u16::try_from(self.nodes[place].0).expect("zones are few");
        let ended = self.book.now();
        let (client, session) = (session.number, session.number);
        self.book.add(Operation { client, session, zone, started, ended, what });
    }

    /// One exchange on a kept connection; `None` without a complete answer in time.
    async fn ask(&self, place: usize, request: &[u8]) -> Option<(u16, Vec<u8>)> {
        let kept = self.connections[place].lock().pop();
        let mut connection = kept.unwrap_or_else(|| Connection::to(self.nodes[place].1));
        let answer =
            tokio::time::timeout(ANSWER_MAX, connection.exchange(request)).await.ok()?.ok()?;
        let answer = (answer.status, answer.body.to_vec());
        if connection.is_open() {
            self.connections[place].lock().push(connection);
        }
        Some(answer)
    }
}

fn judge(status: u16, body: &[u8]) -> Attempt {
    if let (200 | 201, Ok(written)) = (status, serde_json::from_slice::<Written>(body)) {
        let Written { id, digest, token } = written;
        let outcome =
            OrderResult::Acknowledged { id, digest, repeated: status == 200, applied: true };
        return Attempt::Done(outcome, token);
    }
    let problem = serde_json::from_slice::<Problem>(body);
    match (status, problem) {
        (400..=499, Ok(problem)) => Attempt::Refused(problem.code),
        (_, Ok(Problem { code, id: Some(id) })) if code == "committed_not_applied" => {
            Attempt::Committed(id)
        }
        _ => Attempt::Open,
    }
}
