//! Replacing a zone's chain, and giving a copy of one zone's database to another: what an operator
//! does on purpose, with a login that owns the schema.
//!
//! Invariant: nothing is deleted, and nothing is half done. A chain that is replaced stays in the same
//! database under another schema name, evidence and all, and the empty one that takes its place is there
//! in the same moment, so that nodes go on whose login may not create one.

use pghc_api::id::{ClusterId, ZoneName};
use pghc_runtime::failpoint::{self, Point};
use pghc_runtime::task::Tasks;
use tokio_postgres::{Client, Row};

use super::column::{WrongColumn, get};
use super::connect::{ConnectError, Dsn, Role, is_gone};
use super::evidence::Evidence;
use super::migrate::{MigrateError, prepare};
use super::read::ReadError;

/// How a zone's database stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The cluster it belongs to; empty while no cluster has claimed it.
    pub cluster: String,
    /// The zone it belongs to; empty while no cluster has claimed it.
    pub zone: String,
    /// Newest applied id.
    pub applied_id: u64,
    /// Node that applied last.
    pub applier: Option<String>,
    /// Seconds since the right to apply was renewed.
    pub idle_s: f64,
    /// Whether the server is a replica.
    pub is_replica: bool,
    /// Why the zone is fenced.
    pub evidence: Option<Evidence>,
}

impl Standing {
    fn from_row(row: &Row, evidence: Option<Evidence>) -> Result<Self, WrongColumn> {
        let applied_id: Option<i64> = get(row, 2, "pghc.frontier.applied_id")?;
        let idle_s: Option<f64> = get(row, 4, "pghc.frontier.renewed_at")?;
        Ok(Self {
            cluster: get::<Option<_>>(row, 0, "pghc.cluster.cluster_id")?.unwrap_or_default(),
            zone: get::<Option<_>>(row, 1, "pghc.cluster.zone")?.unwrap_or_default(),
            applied_id: applied_id.unwrap_or_default().cast_unsigned(),
            applier: get(row, 3, "pghc.frontier.applier")?,
            idle_s: idle_s.unwrap_or(f64::INFINITY),
            is_replica: get(row, 5, "pg_is_in_recovery()")?,
            evidence,
        })
    }
}

/// Why nothing was replaced or adopted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReseedError {
    /// There is no session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The login may not do it.
    #[error(
        "login {login} may not replace or adopt the chain in database {database}: it must be a member of \
         {owner}, which owns it, and may create schemas there: log in as the role that set the database \
         up (pghc_setup of setup.sql) or as a superuser; nothing was changed"
    )]
    NotOwner {
        /// The login.
        login: String,
        /// Owner of the schema.
        owner: String,
        /// The database.
        database: String,
    },
    /// PostgreSQL refuses: most likely other objects of the database stand on the view `public.chain`.
    #[error("PostgreSQL refuses, and nothing was changed")]
    Refused(#[from] ReadError),
    /// The new chain could not be made.
    #[error("the chain was not set aside, and nothing was changed")]
    Prepare(#[from] MigrateError),
}

/// An operator's session.
#[derive(Debug)]
pub struct Operator {
    client: Client,
}

impl Operator {
    /// Connects with the login role.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(dsn: &Dsn, tasks: &Tasks) -> Result<Self, ReseedError> {
        Ok(Self { client: dsn.connect(Role::Login, "operator", tasks).await? })
    }

    /// How the database stands; `None` when there is no chain in it.
    ///
    /// # Errors
    /// [`ReseedError::Refused`].
    pub async fn standing(&self) -> Result<Option<Standing>, ReseedError> {
        let row = match self
            .client
            .query_one(include_str!("../../sql/queries/standing.sql"), &[])
            .await
        {
            Ok(row) => row,
            Err(error) if error.code().is_some_and(is_gone) => return Ok(None),
            Err(error) => return Err(ReadError::sort(error).into()),
        };
        let sql = include_str!("../../sql/queries/evidence.sql");
        let evidence = match self.client.query_opt(sql, &[]).await {
            Ok(row) => row.as_ref().map(Evidence::from_row).transpose().map_err(ReadError::from)?,
            // A database of an older binary has no such table.
            Err(error) if error.code().is_some_and(is_gone) => None,
            Err(error) => return Err(ReadError::sort(error).into()),
        };
        Ok(Some(Standing::from_row(&row, evidence).map_err(ReadError::from)?))
    }

    /// Which server, schema and chain this is, as text that only equality is asked of. It stays the
    /// same while nothing is applied and the server is not started again.
    ///
    /// # Errors
    /// [`ReseedError::Refused`].
    pub async fn identify(&self) -> Result<String, ReseedError> {
        let sql = include_str!("../../sql/queries/identify.sql");
        let row = self.client.query_one(sql, &[]).await.map_err(ReadError::sort)?;
        let text = |at| row.try_get::<_, Option<String>>(at).ok().flatten();
        let standing = self.standing().await?.map(|s| (s.cluster, s.zone, s.applied_id));
        Ok(format!("{:?}", (text(0), text(1), standing)))
    }

    /// Refuses a login that may neither replace nor adopt the chain.
    ///
    /// # Errors
    /// [`ReseedError::NotOwner`]; [`ReseedError::Refused`] when that cannot be found out.
    pub async fn check_rights(&self) -> Result<(), ReseedError> {
        let sql = include_str!("../../sql/queries/may_replace.sql");
        let row = self.client.query_opt(sql, &[]).await.map_err(ReadError::sort)?;
        let Some(row) = row else { return Ok(()) };
        let text = |at| row.try_get::<_, String>(at).unwrap_or_default();
        let may = |at| row.try_get::<_, bool>(at).unwrap_or_default();
        if may(3) && may(4) {
            return Ok(());
        }
        Err(ReseedError::NotOwner { login: text(0), owner: text(1), database: text(2) })
    }

    /// Sets the chain aside under the schema name `aside`, and puts an empty one in its place, of the
    /// cluster and zone in `claim`; of no cluster without one.
    ///
    /// # Errors
    /// [`ReseedError::Prepare`]; all of it happened, or nothing.
    pub async fn replace(
        &mut self,
        aside: &str,
        claim: Option<(&ClusterId, &ZoneName)>,
    ) -> Result<(), ReseedError> {
        failpoint::pass(Point::ReseedBefore);
        let replacing = prepare(&mut self.client, Some(aside), claim);
        failpoint::within(Point::ReseedSent, replacing).await?;
        failpoint::pass(Point::ReseedDone);
        Ok(())
    }

    /// Gives the chain to `zone`.
    ///
    /// # Errors
    /// [`ReseedError::Refused`]; all of it happened, or nothing.
    pub async fn adopt(&self, zone: &ZoneName) -> Result<(), ReseedError> {
        let name = "select set_config('pghc.zone', $1, false)";
        self.client.execute(name, &[&zone.as_str()]).await.map_err(ReadError::sort)?;
        let sql = include_str!("../../sql/queries/adopt.sql");
        Ok(self.client.batch_execute(sql).await.map_err(ReadError::sort)?)
    }
}
