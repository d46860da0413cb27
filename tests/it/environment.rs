//! Environments of a zone's database: settings, collations, poolers, full servers, changed schemas,
//! restores. Each is overridden, or refused by name with advice.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which may unwrap too")]

mod columns;
mod restore;
mod sessions;
mod settings;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use pghc_api::chain::Link;
use pghc_dev::postgres::{Server, ServerOptions};
use pghc_dev::scratch::Scratch;
use pghc_postgres::{Applier, Batch, Commit, Dsn, Finding, MigrateError, Role, migrate};
use pghc_runtime::task::Tasks;
use pghc_runtime::telemetry::describe;
use tokio::sync::Mutex;
use tokio_postgres::Client;

use crate::postgres::{acquire, cluster, links};

/// The server of the tests that run at the moment; the last of them stops it.
static SERVER: Mutex<Weak<Shared>> = Mutex::const_new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Fields are dropped in this order: the server before its directory.
struct Shared {
    server: Server,
    _scratch: Scratch,
}

async fn start(settings: &[(&str, &str)]) -> Shared {
    let scratch = Scratch::new("env").expect("a temporary directory");
    let options = ServerOptions::new(scratch.path().join("data"), crate::harness::free_port());
    let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let options = ServerOptions { temporary: true, settings, ..options };
    let server = Server::start(options).await.expect("PostgreSQL is installed");
    Shared { server, _scratch: scratch }
}

/// A database of its own, the superuser's session in it, and a superuser with a password.
struct Place {
    name: String,
    tasks: Tasks,
    admin: Client,
    shared: Arc<Shared>,
}

impl Place {
    /// On the shared server.
    async fn new() -> Self {
        Self::with("").await.expect("a database is created")
    }

    /// On the shared server, created with more words; `None` when the server refuses these.
    async fn with(words: &str) -> Option<Self> {
        let mut running = SERVER.lock().await;
        let shared = match running.upgrade() {
            Some(shared) => shared,
            None => Arc::new(start(&[]).await),
        };
        *running = Arc::downgrade(&shared);
        drop(running);
        Self::on(shared, words).await
    }

    async fn on(shared: Arc<Shared>, words: &str) -> Option<Self> {
        let name = format!("env{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let tasks = Tasks::default();
        let first: Dsn = shared.server.dsn().parse().unwrap();
        let client = first.connect(Role::Login, "test", &tasks).await.unwrap();
        let role = format!("create role {name} superuser login password 'sesame'");
        client.batch_execute(&role).await.unwrap();
        client.batch_execute(&format!("create database {name} {words}")).await.ok()?;
        let admin: Dsn = dsn_of(&shared.server, &name).parse().unwrap();
        let admin = admin.connect(Role::Login, "test", &tasks).await.unwrap();
        Some(Self { name, tasks, admin, shared })
    }

    /// Where its superuser logs in with a password.
    fn text(&self) -> String {
        let Self { name, shared, .. } = self;
        format!("postgres://{name}:sesame@127.0.0.1:{}/{name}", shared.server.port())
    }

    fn dsn(&self) -> Dsn {
        self.text().parse().unwrap()
    }

    async fn sql(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| {
            panic!("{sql}: {}", describe(&error));
        });
    }

    async fn migrate(&self, dsn: &Dsn) -> Result<Vec<Finding>, MigrateError> {
        migrate(dsn, &cluster(), &"eu".parse().unwrap(), &self.tasks).await
    }

    /// Why it cannot be migrated, in the words that an operator sees.
    async fn unfit(&self) -> String {
        describe(&self.migrate(&self.dsn()).await.expect_err("it is not fit"))
    }

    /// Migrates and applies some links.
    async fn fill(&self, dsn: &Dsn, count: u64) -> Vec<Link> {
        let findings = self.migrate(dsn).await.expect("it is migrated");
        assert!(findings.iter().all(|it| matches!(it, Finding::Setting(_))), "{findings:?}");
        let applier = Applier::connect(dsn, Commit::OnDisk, &self.tasks).await.expect("migrated");
        let (epoch, head) = acquire(&applier, None).await;
        let links = links(head.as_ref(), count);
        let before = head.map(|head| head.digest);
        applier.apply(epoch, &Batch::new(before, links.clone())).await.expect("it holds the epoch");
        links
    }
}

/// Connection string of the server's superuser to a database.
fn dsn_of(server: &Server, database: &str) -> String {
    let dsn = server.dsn();
    let (before, _) = dsn.rsplit_once('/').expect("a URL with a database");
    format!("{before}/{database}")
}
