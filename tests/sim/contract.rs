//! The contract of a zone's database: one random script of statements gets the same answers from
//! the model and from a real PostgreSQL, which validates the model.

use std::sync::Arc;
use std::time::Duration;

use pghc_api::chain::{Digest, Head, Link, payload_digest};
use pghc_api::id::WriteId;
use pghc_api::time::Micros;
use pghc_dev::postgres::{Server, ServerOptions};
use pghc_dev::scratch::Scratch;
use pghc_postgres::{Acquired, ApplyError, Batch, Commit, Dsn, Role};
use pghc_runtime::task::Tasks;
use pghc_server::zone::Identity;
use pghc_server::zone::database::{Database, Postgres, Session};
use pghc_sim::database::Faults;
use pghc_sim::{SeededRng, SimDatabase, cluster_id, head_of};
use tokio_postgres::Client;

/// Sessions at a time.
const SESSIONS: usize = 3;
/// Lets the lease of the newest epoch have run out long ago.
const AGE: &str = "set pghc.door = 'open'; \
    update pghc.frontier set renewed_at = renewed_at - interval '1 hour'; reset pghc.door";
/// Most attempts to connect.
const ATTEMPTS: usize = 10;

/// One of the two sides, with its sessions.
struct Side {
    database: Arc<dyn Database>,
    sessions: Vec<Arc<dyn Session>>,
    /// Expires leases; the model has no clock and accepts an expiry as reported.
    admin: Option<Client>,
}

impl Side {
    async fn new(database: Arc<dyn Database>, identity: &Identity, admin: Option<Client>) -> Self {
        database.migrate(identity).await.expect("it is well");
        let mut side = Self { database, sessions: Vec::new(), admin };
        for _ in 0..SESSIONS {
            side.connect().await;
        }
        side
    }

    async fn connect(&mut self) {
        let mut connected = self.database.connect().await;
        // A busy machine may take longer than one attempt has.
        for _ in 1..ATTEMPTS {
            if connected.is_err() {
                connected = self.database.connect().await;
            }
        }
        self.sessions.push(connected.expect("it is well"));
    }

    /// Carries out a step; returns what can be compared.
    async fn carry_out(&mut self, step: &Step) -> String {
        match step {
            Step::Acquire { session, expired } => {
                let node = format!("n{session}").parse().expect("a plain name");
                if let Some(admin) = self.admin.as_ref().filter(|_| expired.is_some()) {
                    admin.batch_execute(AGE).await.expect("a superuser may");
                }
                shown(self.sessions[*session].acquire(&node, *expired).await)
            }
            Step::Apply { session, epoch, before, links } => {
                let batch = Batch::new(*before, links.clone());
                shown(self.sessions[*session].apply(*epoch, &batch).await)
            }
            Step::Renew { session, epoch } => shown(self.sessions[*session].renew(*epoch).await),
            Step::Flushed { session } => format!("{}", self.sessions[*session].flushed()),
            Step::Lease => {
                let lease = self.database.lease().await.expect("it is well");
                format!("{} {} {:?}", lease.epoch, lease.applied_id, lease.applier)
            }
            Step::Page { after, limit } => {
                format!("{:?}", self.database.page(*after, *limit).await.ok())
            }
            Step::Link { id } => {
                let id = WriteId::try_from(*id).expect("an id");
                format!("{:?}", self.database.link(id).await.ok())
            }
            Step::Recent { count } => format!("{:?}", self.database.recent(*count).await.ok()),
            Step::Leave { session } => {
                drop(self.sessions.remove(*session));
                self.connect().await;
                self.take_over().await
            }
        }
    }

    /// Waits until the last session is admitted: the former holder of the lock has ended.
    async fn take_over(&self) -> String {
        let node = "heir".parse().expect("a plain name");
        for _ in 0..2000 {
            let acquired = self.sessions[SESSIONS - 1].acquire(&node, None).await;
            if !matches!(acquired, Ok(Acquired::Held { .. })) {
                return shown(acquired);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        "never let in".to_owned()
    }
}

#[derive(Debug)]
enum Step {
    Acquire {
        session: usize,
        expired: Option<u64>,
    },
    Apply {
        session: usize,
        epoch: u64,
        before: Option<Digest>,
        links: Vec<Link>,
    },
    Renew {
        session: usize,
        epoch: u64,
    },
    Flushed {
        session: usize,
    },
    Lease,
    Page {
        after: u64,
        limit: usize,
    },
    Link {
        id: u64,
    },
    Recent {
        count: usize,
    },
    /// A session ends, another connects, and the last one is admitted if no other holds the lock.
    Leave {
        session: usize,
    },
}

fn shown<T: std::fmt::Debug>(result: Result<T, ApplyError>) -> String {
    match result {
        Ok(done) => format!("{done:?}"),
        Err(ApplyError::Fenced { epoch, applied_id }) => format!("fenced {epoch} {applied_id}"),
        Err(ApplyError::Forked { applied_id }) => format!("forked {applied_id}"),
        Err(ApplyError::Lost(_)) => "lost".to_owned(),
        Err(ApplyError::Refused { sqlstate, .. }) => format!("refused {sqlstate}"),
        Err(error) => format!("{error:?}"),
    }
}

/// Expectation of the script's author, which makes many steps succeed.
struct Author {
    rng: SeededRng,
    head: Option<Head>,
    epoch: u64,
    leader: usize,
}

impl Author {
    fn links(&self) -> Vec<Link> {
        let node = "n1".parse().expect("a plain name");
        let (mut head, mut links) = (self.head, Vec::new());
        for _ in 0..self.rng.between(1, 5) {
            let payload = format!("{{\"n\":{}}}", self.rng.below(1000));
            let at = Micros(head.map_or(1_000_000, |head| head.written_at.0 + 1));
            let digest = payload_digest(payload.as_bytes());
            let next = Head::extend(head.as_ref(), &cluster_id(), &node, at, Some(digest));
            let Head { id, hash, digest, written_at } = next;
            let payload = Some(payload.into());
            links.push(Link { id, node: node.clone(), hash, digest, written_at, payload });
            head = Some(next);
        }
        links
    }

    fn epoch(&self) -> u64 {
        if self.rng.per_mille(800) { self.epoch } else { self.rng.between(0, self.epoch + 1) }
    }

    fn step(&self) -> Step {
        let any = self.rng.below(SESSIONS);
        let session = if self.rng.per_mille(800) { self.leader } else { any };
        let newest = self.head.map_or(0, |head| head.id.get());
        match self.rng.below(16) {
            0..=1 => Step::Acquire {
                session: any,
                expired: self.rng.per_mille(400).then(|| self.epoch()),
            },
            2..=7 => {
                let before = self.head.map(|head| match self.rng.per_mille(100) {
                    true => Digest([7; 32]),
                    false => head.digest,
                });
                Step::Apply { session, epoch: self.epoch(), before, links: self.links() }
            }
            8..=9 => Step::Renew { session, epoch: self.epoch() },
            10 => Step::Flushed { session },
            11 => Step::Lease,
            12 => Step::Page { after: self.rng.between(0, newest + 2), limit: self.rng.below(7) },
            13 => Step::Link { id: self.rng.between(1, newest + 2) },
            14 => Step::Recent { count: self.rng.below(5) },
            // Only the holder of the lock leaves: then the last session can be admitted.
            _ => Step::Leave { session: self.leader },
        }
    }

    fn learn(&mut self, step: &Step, answer: &str, frontier: (u64, Option<Link>)) {
        self.head = frontier.1.as_ref().map(head_of);
        self.epoch = frontier.0;
        if answer.starts_with("Granted") {
            self.leader = match step {
                Step::Acquire { session, .. } => *session,
                _ => SESSIONS - 1,
            };
        }
    }
}

/// Runs a script of `steps` against both.
///
/// # Panics
/// Where they differ.
pub(crate) async fn run(seed: u64, steps: usize) {
    let scratch = Scratch::new("sim-pg").expect("a temporary directory");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let port = port.expect("loopback has free ports").port();
    let options =
        ServerOptions { temporary: true, ..ServerOptions::new(scratch.path().join("data"), port) };
    let server = Server::start(options).await.expect("PostgreSQL is installed");
    let tasks = Tasks::default();
    let dsn: Dsn = server.dsn().parse().expect("our own");
    let admin = dsn.connect(Role::Login, "contract", &tasks).await.expect("it listens");
    let rng = SeededRng::new(seed);
    let identity = Identity {
        cluster: cluster_id(),
        zone: "eu".parse().expect("a plain name"),
        node: "eu-1".parse().expect("a plain name"),
        api_url: String::new(),
        place: String::new(),
    };
    let postgres =
        Arc::new(Postgres::new(dsn, Commit::OnDisk, 2, &tasks).recomputing(&cluster_id()));
    let model = SimDatabase::faulty(Faults {
        rng: rng.fork(),
        on_disk: true,
        committed: Arc::new(|_, _| {}),
    });
    let mut model = Side::new(Arc::new(model), &identity, None).await;
    let mut postgres = Side::new(postgres, &identity, Some(admin)).await;
    let mut author = Author { rng, head: None, epoch: 0, leader: 0 };
    for number in 0..steps {
        let step =
            if number == 0 { Step::Acquire { session: 0, expired: None } } else { author.step() };
        let (real, models) = (postgres.carry_out(&step).await, model.carry_out(&step).await);
        assert_eq!(real, models, "seed {seed}, step {number}: {step:?}: PostgreSQL and the model");
        let lease = postgres.database.lease().await.expect("it is well");
        let newest = WriteId::try_from(lease.applied_id).ok();
        let link = match newest {
            Some(id) => postgres.database.link(id).await.expect("it is well").0,
            None => None,
        };
        author.learn(&step, &real, (lease.epoch, link));
    }
    println!(
        "seed {seed}: PostgreSQL and the model agree in {steps} steps, up to id {}",
        author.head.map_or(0, |head| head.id.get())
    );
    tasks.shut_down().await;
}
