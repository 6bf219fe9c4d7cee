//! What was done to which host, for as long as records are kept: a database that outlives the PatchRuns.
//!
//! It is an index over the records of the [`Archive`](crate::archive::Archive), which stay the truth: a record is written there first, and
//! whatever the database missed (a crash, a full disk, a server that was away) is found and added by [`History::catch_up`]. A lost or
//! damaged file is made again the same way. Only questions and answers are nowhere else.
//!
//! One schema and one set of statements serve SQLite and PostgreSQL: text and 64-bit integers, `$n`, `ON CONFLICT`. What a table holds is
//! a function of the set of records, not of their order: phases are written once, facts are the newest, incidents are computed again
//! where a record falls between others.

mod catch_up;
mod read;
pub mod settings;
mod write;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    AnyConnection, AnyPool, AssertSqlSafe, Connection as _, SqlSafeStr as _,
    any::AnyPoolOptions,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use self::settings::{Database, HistoryArgs};
pub use self::{
    catch_up::Caught,
    read::{Facts, Filter, HostResult, HostView, Item, Page, Position, Visible},
    write::{Question, dated},
};
use crate::archive;

/// Connections to the database.
const CONNECTIONS: u32 = 4;
/// How long opening a database may take: a large file is read as a whole.
const OPENING: Duration = Duration::from_mins(1);
/// How long a connection may be waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the history did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, cannot write, or does not have every record yet.
    #[error("the history is not available: {0}")]
    Unavailable(String),
    /// That record, or that address, can never be used.
    #[error("the history refuses it: {0}")]
    Rejected(String),
    /// The records cannot be listed.
    #[error(transparent)]
    Archive(#[from] archive::Error),
}

/// How the history stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The records were not compared with it yet.
    Starting,
    /// It has every record that can be read.
    Complete,
    /// It lacks records, for this reason.
    Degraded(String),
}

/// The history. Cheap to clone; clones are one history.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    database: Database,
    max_pages: Option<u32>,
    /// Absent until the database was reached and is known to have our tables.
    pool: tokio::sync::Mutex<Option<AnyPool>>,
    condition: Mutex<Condition>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.database {
            Database::Sqlite(path) => write!(f, "History({})", path.display()),
            Database::Postgres { .. } => f.write_str("History(PostgreSQL)"),
        }
    }
}

impl History {
    /// The history at an address, which is checked; nothing is opened yet, because a database that is away must not keep the server from
    /// starting.
    pub fn new(args: &HistoryArgs) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        Ok(Self(Arc::new(Inner {
            database: Database::new(&args.database_url)?,
            max_pages: args.history_max_pages,
            pool: tokio::sync::Mutex::default(),
            condition: Mutex::new(Condition::Starting),
        })))
    }

    /// How it stands.
    pub fn condition(&self) -> Condition {
        self.0.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how it stands, and says so once when that changes.
    fn stands(&self, now: Condition) {
        let before = std::mem::replace(&mut *self.0.condition.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
        match (before, now) {
            (Condition::Degraded(_), Condition::Degraded(_)) | (_, Condition::Starting) | (Condition::Complete, Condition::Complete) => {}
            (_, Condition::Degraded(why)) => tracing::error!(why, "the history is degraded; the archive goes on without it"),
            (_, Condition::Complete) => tracing::info!("the history has every record"),
        }
    }

    /// The connections; opens the database and brings its tables up to date when that was not done yet.
    async fn pool(&self) -> Result<AnyPool, Error> {
        let mut held = self.0.pool.lock().await;
        if let Database::Sqlite(path) = &self.0.database
            && held.is_some()
            && !path.exists()
            && let Some(pool) = held.take()
        {
            tracing::error!(file = %path.display(), "the history's file is gone; it is made again from the records");
            pool.close().await;
        }
        if let Some(pool) = held.as_ref() {
            return Ok(pool.clone());
        }
        let pool = match self.open().await {
            Err(error) if self.is_damaged(&error) => {
                self.set_aside()?;
                self.open().await
            }
            opened => opened,
        };
        let pool = pool.map_err(|error| self.unavailable(&error))?;
        *held = Some(pool.clone());
        Ok(pool)
    }

    async fn open(&self) -> Result<AnyPool, sqlx::Error> {
        let (url, pragmas) = match &self.0.database {
            Database::Sqlite(path) => {
                private(path)?;
                let pragmas = "PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON; PRAGMA journal_mode = WAL; \
                     PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 16777216;";
                let limit = self.0.max_pages.map(|pages| format!("PRAGMA max_page_count = {pages};")).unwrap_or_default();
                (format!("sqlite://{}", path.display()), format!("{pragmas} {limit}"))
            }
            Database::Postgres { url, .. } => (url.clone(), "SET statement_timeout = 20000; SET lock_timeout = 10000;".to_owned()),
        };
        // a pool takes a refusal for "not yet", so the first connection is made by hand
        tokio::time::timeout(OPENING, self.check(&url, &pragmas)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .after_connect(move |connection, _| {
                let pragmas = AssertSqlSafe(pragmas.clone());
                Box::pin(async move { sqlx::raw_sql(pragmas).execute(connection).await.map(drop) })
            })
            .connect_lazy(&url)?;
        let schema = Migration::new(1, "history".into(), MigrationType::Simple, include_str!("history/schema.sql").into_sql_str(), false);
        match Migrator::with_migrations(vec![schema]).run(&pool).await {
            Ok(()) => Ok(pool),
            Err(MigrateError::VersionMissing(version)) => Err(sqlx::Error::Configuration(
                format!("its tables are of version {version}, newer than this program knows: use a newer program, or another database")
                    .into(),
            )),
            Err(other) => Err(other.into()),
        }
    }

    /// Whether the database answers, and, of a file, whether it is whole.
    async fn check(&self, url: &str, pragmas: &str) -> Result<(), sqlx::Error> {
        let mut connection = AnyConnection::connect(url).await?;
        sqlx::raw_sql(AssertSqlSafe(pragmas.to_owned())).execute(&mut connection).await?;
        if matches!(self.0.database, Database::Sqlite(_)) {
            let found: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut connection).await?;
            if found != "ok" {
                return Err(sqlx::Error::Protocol(format!("{DAMAGED}: {found}")));
            }
        }
        connection.close().await
    }

    /// Turns an error of the database into one of ours, without secrets. A damaged file is set aside, to be made again.
    async fn failed(&self, error: sqlx::Error) -> Error {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            // opened anew the next time, which tells why
            self.0.pool.lock().await.take();
        }
        if self.is_damaged(&error)
            && let Some(pool) = self.0.pool.lock().await.take()
        {
            pool.close().await;
            if let Err(error) = self.set_aside() {
                return error;
            }
        }
        if self.is_unfit(&error) { Error::Rejected(self.0.database.redact(&error.to_string())) } else { self.unavailable(&error) }
    }

    fn unavailable(&self, error: &sqlx::Error) -> Error {
        let why = match (error, &self.0.database) {
            (sqlx::Error::PoolTimedOut, _) => "the database does not answer".to_owned(),
            (error, Database::Sqlite(path)) => format!("{}: {error}", path.display()),
            (error, Database::Postgres { .. }) => self.0.database.redact(&error.to_string()),
        };
        Error::Unavailable(why)
    }

    /// Whether the file is not a database, or not a whole one. Source: <https://sqlite.org/rescode.html>.
    fn is_damaged(&self, error: &sqlx::Error) -> bool {
        let found = matches!(error, sqlx::Error::Protocol(text) if text.starts_with(DAMAGED));
        (found || matches!(sqlite_code(error), Some(11 | 26))) && matches!(self.0.database, Database::Sqlite(_))
    }

    /// Whether a value cannot be stored: the next try would end the same way. Source: PostgreSQL's class 22, and as above.
    fn is_unfit(&self, error: &sqlx::Error) -> bool {
        match &self.0.database {
            Database::Sqlite(_) => matches!(sqlite_code(error), Some(18 | 20)),
            Database::Postgres { .. } => error.as_database_error().and_then(|e| e.code().map(|code| code.starts_with("22"))) == Some(true),
        }
    }

    /// Moves a damaged file away, over an earlier one.
    fn set_aside(&self) -> Result<(), Error> {
        let Database::Sqlite(path) = &self.0.database else { return Ok(()) };
        let aside = with_suffix(path, ".damaged");
        tracing::error!(file = %path.display(), kept = %aside.display(), "the history's file is damaged; it is made again from the records");
        let moved = std::fs::rename(path, &aside);
        for part in ["-wal", "-shm"] {
            match std::fs::remove_file(with_suffix(path, part)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::Unavailable(error.to_string())),
                Ok(()) | Err(_) => {}
            }
        }
        moved.map_err(|error| Error::Unavailable(format!("{} cannot be moved: {error}", path.display())))
    }
}

/// What our own check of a file says.
const DAMAGED: &str = "the file is damaged";

/// SQLite's primary result code of an error.
fn sqlite_code(error: &sqlx::Error) -> Option<i64> {
    error.as_database_error()?.code()?.parse::<i64>().ok().map(|code| code & 0xff)
}

/// Makes the file, and its directory, when they are not there. Only we may read it: it holds what was asked, and by whom.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
