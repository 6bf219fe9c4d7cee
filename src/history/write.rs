//! Writing records into the tables: once each, in any order, many at a time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::{Any, AssertSqlSafe, Row as _, Transaction, any::AnyArguments, query::Query};

use super::{Error, History};
use crate::{
    api::patch_run::{Outcome, RunResult},
    archive::{
        Key,
        record::{HostRecord, Record},
    },
};

/// Rows of one statement: each has at most 13 values, and SQLite takes 32,766.
const ROWS: usize = 50;

/// A question that somebody asked, and what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// When.
    pub asked_at: Timestamp,
    /// By whom.
    pub username: String,
    /// The question; at most 4,096 characters are kept.
    pub question: String,
    /// The answer; at most 4,096 characters are kept.
    pub answer: String,
}

type Tx = Transaction<'static, Any>;

/// Where a phase stands among those of its target.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    ended_at: i64,
    phase_key: String,
}

/// The same phase of the same hosts, again and again.
struct Series<'r> {
    namespace: &'r str,
    connection: &'r str,
    target: &'r str,
    phase: &'r str,
}

impl History {
    /// Writes records that are in the archive and [`dated`], all or none. What is there already stays. [`Error::Rejected`] when one of them can never be
    /// written.
    pub async fn index(&self, records: &[Record]) -> Result<(), Error> {
        let checked: Vec<(Key, &Record)> = records
            .iter()
            .map(|record| Ok((Key::parse(&record.run_key)?, record)))
            .collect::<Result<_, crate::archive::Error>>()
            .map_err(|error| Error::Rejected(error.to_string()))?;
        let written = async {
            let mut tx = begin(&self.pool().await?).await?;
            for (key, record) in &checked {
                write(&mut tx, key, record).await?;
            }
            Ok(tx.commit().await?)
        };
        self.outcome(written.await).await
    }

    /// Keeps a question and its answer.
    pub async fn record_question(&self, question: &Question) -> Result<(), Error> {
        let written = async {
            let mut tx = begin(&self.pool().await?).await?;
            sqlx::query("INSERT INTO questions (id, asked_at, username, question, answer) VALUES ($1, $2, $3, $4, $5)")
                .bind(crate::archive::random_name())
                .bind(question.asked_at.as_microsecond())
                .bind(clean(&question.username))
                .bind(clean(&question.question).chars().take(4096).collect::<String>())
                .bind(clean(&question.answer).chars().take(4096).collect::<String>())
                .execute(&mut *tx)
                .await?;
            Ok(tx.commit().await?)
        };
        self.outcome(written.await).await
    }

    /// Removes everything that ended before `cutoff`; returns how many phases that were.
    pub async fn prune(&self, cutoff: Timestamp) -> Result<u64, Error> {
        let written = async {
            let mut tx = begin(&self.pool().await?).await?;
            let mut removed = 0;
            for (statement, counts) in [
                ("DELETE FROM host_results WHERE phase_key IN (SELECT phase_key FROM phases WHERE ended_at < $1)", false),
                ("DELETE FROM phases WHERE ended_at < $1", true),
                ("DELETE FROM facts WHERE updated_at < $1", false),
                ("DELETE FROM questions WHERE asked_at < $1", false),
            ] {
                let done = sqlx::query(statement).bind(cutoff.as_microsecond()).execute(&mut *tx).await?;
                removed += if counts { done.rows_affected() } else { 0 };
            }
            prune_incidents(&mut tx, cutoff.as_microsecond()).await?;
            let left = "DELETE FROM runs WHERE NOT EXISTS (SELECT 1 FROM phases WHERE phases.run_key = runs.run_key)";
            sqlx::query(left).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(removed)
        };
        self.outcome(written.await).await
    }

    pub(super) async fn outcome<T>(&self, done: Result<T, Failure>) -> Result<T, Error> {
        match done {
            Ok(done) => Ok(done),
            Err(Failure::Ours(error)) => Err(error),
            Err(Failure::Database(error)) => Err(self.failed(error).await),
        }
    }
}

/// An error on the way through the database.
pub(super) enum Failure {
    Ours(Error),
    Database(sqlx::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Begins to write, as the only one who does.
async fn begin(pool: &sqlx::AnyPool) -> Result<Tx, sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("UPDATE writer SET turn = turn + 1").execute(&mut *tx).await?;
    Ok(tx)
}

/// Gives a record without an end one: a phase that never began ended when its record was written.
pub fn dated(record: Record, written: Timestamp) -> Record {
    Record { finished_at: record.finished_at.or(record.started_at).or(Some(written)), ..record }
}

/// When a phase ended.
pub(super) fn ended_at(record: &Record) -> Timestamp {
    record.finished_at.unwrap_or(Timestamp::UNIX_EPOCH)
}

async fn write(tx: &mut Tx, key: &Key, record: &Record) -> Result<(), Failure> {
    let place = Place { ended_at: ended_at(record).as_microsecond(), phase_key: key.to_string() };
    let target = target(record);
    let (namespace, connection) = (clean(&record.namespace), clean(&record.connection));
    let code = record.classification.as_ref().map(|found| clean(&found.error_code));
    sqlx::query(
        "INSERT INTO runs (run_key, namespace, name, attempt, connection, group_name, group_is_id, desired_kernel)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (run_key) DO NOTHING",
    )
    .bind(key.run_key().to_owned())
    .bind(namespace.clone())
    .bind(clean(&record.name))
    .bind(i64::from(record.attempt))
    .bind(connection.clone())
    .bind(record.group.as_ref().map(|group| clean(&group.to_string())))
    .bind(i64::from(matches!(record.group, Some(crate::api::shared::NameOrId::Id(_)))))
    .bind(record.desired_kernel.as_deref().map(clean))
    .execute(&mut **tx)
    .await?;
    let new = sqlx::query(
        "INSERT INTO phases (phase_key, run_key, namespace, connection, target, phase, result, reason, message, error_code, started_at,
                             ended_at, counts, has_log)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (phase_key) DO NOTHING",
    )
    .bind(place.phase_key.clone())
    .bind(key.run_key().to_owned())
    .bind(namespace.clone())
    .bind(connection.clone())
    .bind(target.clone())
    .bind(key.phase().as_str())
    .bind(word(record.result))
    .bind(clean(&record.reason))
    .bind(clean(&record.message))
    .bind(code)
    .bind(record.started_at.map(Timestamp::as_microsecond))
    .bind(place.ended_at)
    .bind(serde_json::to_string(&record.counts).unwrap_or_default())
    .bind(i64::from(record.log.is_some()))
    .execute(&mut **tx)
    .await?;
    if new.rows_affected() == 0 {
        return Ok(());
    }
    if record.result == RunResult::Error {
        sqlx::query(
            "UPDATE runs SET result = 'ERROR', error_code = (SELECT error_code FROM phases WHERE run_key = $1 AND result = 'ERROR'
             ORDER BY ended_at, phase_key LIMIT 1) WHERE run_key = $1",
        )
        .bind(key.run_key().to_owned())
        .execute(&mut **tx)
        .await?;
    }
    // a statement must not touch a row twice
    let hosts: BTreeMap<&str, &HostRecord> = record.hosts.iter().map(|host| (host.name.as_str(), host)).collect();
    let hosts: Vec<&HostRecord> = hosts.into_values().collect();
    for some in hosts.chunks(ROWS) {
        write_results(tx, &place.phase_key, some).await?;
        write_facts(tx, &namespace, &connection, place.ended_at, some).await?;
    }
    let series = Series { namespace: &namespace, connection: &connection, target: &target, phase: key.phase().as_str() };
    write_incidents(tx, &series, &place, record.result).await?;
    Ok(())
}

async fn write_results(tx: &mut Tx, phase_key: &str, hosts: &[&HostRecord]) -> Result<(), sqlx::Error> {
    let sql = format!(
        "INSERT INTO host_results (phase_key, host, outcome, message, error_code, guard, kernel_before, kernel_after, boot_id_before,
                                   boot_id_after) VALUES {}",
        rows(hosts.len(), 10)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for host in hosts {
        query = query.bind(phase_key.to_owned()).bind(clean(&host.name)).bind(outcome_word(host.outcome));
        for text in [
            &host.message,
            &host.error_code,
            &host.guard,
            &host.kernel_before,
            &host.kernel_after,
            &host.boot_id_before,
            &host.boot_id_after,
        ] {
            query = query.bind(text.as_deref().map(clean));
        }
    }
    query.execute(&mut **tx).await.map(drop)
}

/// The newest of each fact wins; of two of the same time the greater, so that the order of arrival does not matter.
async fn write_facts(tx: &mut Tx, namespace: &str, connection: &str, at: i64, hosts: &[&HostRecord]) -> Result<(), sqlx::Error> {
    let newest = |fact: &str| {
        format!(
            "{fact} = CASE WHEN (excluded.{fact}_at, excluded.{fact}) > (facts.{fact}_at, facts.{fact}) THEN excluded.{fact} \
             ELSE facts.{fact} END, {}",
            later(&format!("{fact}_at"))
        )
    };
    let sql = format!(
        "INSERT INTO facts (namespace, connection, host, kernel, kernel_at, boot_id, boot_id_at, free, free_at, repositories,
                            repositories_at, seen_at, updated_at)
         VALUES {} ON CONFLICT (namespace, connection, host) DO UPDATE SET {}, {}, {}, {}, {}, {}",
        rows(hosts.len(), 13),
        newest("kernel"),
        newest("boot_id"),
        newest("free"),
        newest("repositories"),
        later("seen_at"),
        later("updated_at"),
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for host in hosts {
        query = query.bind(namespace.to_owned()).bind(connection.to_owned()).bind(clean(&host.name));
        query = fact(query, host.kernel_after.as_ref().or(host.kernel_before.as_ref()).map(|text| clean(text)), at);
        query = fact(query, host.boot_id_after.as_ref().or(host.boot_id_before.as_ref()).map(|text| clean(text)), at);
        let facts = host.facts.as_ref();
        query = fact(query, facts.filter(|f| !f.free_bytes.is_empty()).and_then(|f| json(&f.free_bytes)), at);
        query = fact(query, facts.filter(|f| !f.repositories.is_empty()).and_then(|f| json(&f.repositories)), at);
        let seen = matches!(host.outcome, Outcome::Ok | Outcome::Changed | Outcome::Failed);
        query = query.bind(if seen { at } else { 0 }).bind(at);
    }
    query.execute(&mut **tx).await.map(drop)
}

fn fact(query: Query<'_, Any, AnyArguments>, value: Option<String>, at: i64) -> Query<'_, Any, AnyArguments> {
    let at = if value.is_some() { at } else { 0 };
    query.bind(value).bind(at)
}

fn json(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

/// Sets a time to the later one.
fn later(column: &str) -> String {
    format!("{column} = CASE WHEN excluded.{column} > facts.{column} THEN excluded.{column} ELSE facts.{column} END")
}

/// Computes the incidents anew between the `OK` before a phase and the `OK` after it: nothing else can depend on it.
async fn write_incidents(tx: &mut Tx, series: &Series<'_>, place: &Place, result: RunResult) -> Result<(), sqlx::Error> {
    let first = Place { ended_at: i64::MIN, phase_key: String::new() };
    let before = neighbour(tx, series, place, "<", "DESC").await?.unwrap_or(first);
    let after = neighbour(tx, series, place, ">", "ASC").await?;
    let end = after.clone().unwrap_or(Place { ended_at: i64::MAX, phase_key: String::new() });
    let sql = "DELETE FROM incidents WHERE namespace = $1 AND connection = $2 AND target = $3 AND phase = $4
               AND (opened_at, opened_by) > ($5, $6) AND (opened_at, opened_by) < ($7, $8)";
    between(sql, series, &before, &end).execute(&mut **tx).await?;
    match result {
        RunResult::Ok => {
            write_incident(tx, series, &before, Some(place)).await?;
            write_incident(tx, series, place, after.as_ref()).await
        }
        RunResult::Error => write_incident(tx, series, &before, after.as_ref()).await,
    }
}

/// The nearest `OK` on one side of a phase.
async fn neighbour(tx: &mut Tx, series: &Series<'_>, place: &Place, side: &str, order: &str) -> Result<Option<Place>, sqlx::Error> {
    let sql = format!(
        "SELECT ended_at, phase_key FROM phases WHERE namespace = $1 AND connection = $2 AND target = $3 AND phase = $4 AND result = 'OK'
         AND (ended_at, phase_key) {side} ($5, $6) ORDER BY ended_at {order}, phase_key {order} LIMIT 1"
    );
    let found = bind(sqlx::query(AssertSqlSafe(sql)), series).bind(place.ended_at).bind(place.phase_key.clone());
    let found = found.fetch_optional(&mut **tx).await?;
    found.map(|row| Ok(Place { ended_at: row.try_get(0)?, phase_key: row.try_get(1)? })).transpose()
}

/// The incident between two `OK`s, when a phase failed there.
async fn write_incident(tx: &mut Tx, series: &Series<'_>, before: &Place, after: Option<&Place>) -> Result<(), sqlx::Error> {
    let end = after.cloned().unwrap_or(Place { ended_at: i64::MAX, phase_key: String::new() });
    let sql = "SELECT phase_key, ended_at, error_code, COUNT(*) OVER () FROM phases
               WHERE namespace = $1 AND connection = $2 AND target = $3 AND phase = $4 AND result = 'ERROR'
               AND (ended_at, phase_key) > ($5, $6) AND (ended_at, phase_key) < ($7, $8) ORDER BY ended_at, phase_key LIMIT 1";
    let Some(first) = between(sql, series, before, &end).fetch_optional(&mut **tx).await? else { return Ok(()) };
    let sql = "INSERT INTO incidents (namespace, connection, target, phase, opened_by, opened_at, error_code, failures, resolved_by,
                                      resolved_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    bind(sqlx::query(sql), series)
        .bind(first.try_get::<String, _>(0)?)
        .bind(first.try_get::<i64, _>(1)?)
        .bind(first.try_get::<Option<String>, _>(2)?)
        .bind(first.try_get::<i64, _>(3)?)
        .bind(after.map(|place| place.phase_key.clone()))
        .bind(after.map(|place| place.ended_at))
        .execute(&mut **tx)
        .await
        .map(drop)
}

/// Removes incidents whose first phase is gone. What is left of one is opened by the next.
async fn prune_incidents(tx: &mut Tx, cutoff: i64) -> Result<(), sqlx::Error> {
    let old = sqlx::query("SELECT namespace, connection, target, phase, resolved_at, resolved_by FROM incidents WHERE opened_at < $1");
    let old = old.bind(cutoff).fetch_all(&mut **tx).await?;
    sqlx::query("DELETE FROM incidents WHERE opened_at < $1").bind(cutoff).execute(&mut **tx).await?;
    let first = Place { ended_at: i64::MIN, phase_key: String::new() };
    for row in old {
        let [namespace, connection, target, phase] = [0, 1, 2, 3].map(|column| row.try_get::<String, _>(column));
        let (namespace, connection, target, phase) = (namespace?, connection?, target?, phase?);
        let resolved = (row.try_get::<Option<i64>, _>(4)?, row.try_get::<Option<String>, _>(5)?);
        let after = if let (Some(ended_at), Some(phase_key)) = resolved { Some(Place { ended_at, phase_key }) } else { None };
        let series = Series { namespace: &namespace, connection: &connection, target: &target, phase: &phase };
        write_incident(tx, &series, &first, after.as_ref()).await?;
    }
    Ok(())
}

fn bind<'q>(query: Query<'q, Any, AnyArguments>, series: &Series<'_>) -> Query<'q, Any, AnyArguments> {
    query.bind(series.namespace.to_owned()).bind(series.connection.to_owned()).bind(series.target.to_owned()).bind(series.phase.to_owned())
}

fn between(sql: &'static str, series: &Series<'_>, from: &Place, to: &Place) -> Query<'static, Any, AnyArguments> {
    let query = bind(sqlx::query(sql), series);
    query.bind(from.ended_at).bind(from.phase_key.clone()).bind(to.ended_at).bind(to.phase_key.clone())
}

/// Placeholders of some rows: `($1, $2), ($3, $4)`.
fn rows(rows: usize, columns: usize) -> String {
    let row = |row: usize| (1..=columns).map(|column| format!("${}", row * columns + column)).collect::<Vec<_>>().join(", ");
    (0..rows).map(|number| format!("({})", row(number))).collect::<Vec<_>>().join(", ")
}

/// What was patched, so that the next run of the same can be recognised.
fn target(record: &Record) -> String {
    match &record.group {
        Some(group) => clean(&format!("group:{group}")),
        None if record.hosts.is_empty() => clean(&format!("run:{}", record.name)),
        None => {
            let names: Vec<&str> = record.hosts.iter().map(|host| host.name.as_str()).collect();
            format!("hosts:{}", crate::names::sha256_hex(names.join("\n").as_bytes()))
        }
    }
}

/// Text without the character that PostgreSQL does not store.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(super) const fn word(result: RunResult) -> &'static str {
    match result {
        RunResult::Ok => "OK",
        RunResult::Error => "ERROR",
    }
}

const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Changed => "changed",
        Outcome::Failed => "failed",
        Outcome::Unreachable => "unreachable",
        Outcome::Unknown => "unknown",
        Outcome::Missing => "missing",
    }
}
