//! Reading the tables. Whoever reads says which namespaces may be seen; nothing else is ever in an answer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use sqlx::{
    Any, AnyPool, AssertSqlSafe, Row as _,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use super::{Error, History, write::Failure};
use crate::{
    api::{
        patch_run::{HostCounts, Phase, RunResult},
        shared::NameOrId,
    },
    archive::Key,
};

/// Places where one host is known of, in one answer.
const PLACES: i64 = 50;

/// What a caller may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    /// Everything.
    All,
    /// What belongs to these namespaces.
    Namespaces(BTreeSet<String>),
}

/// Which phases are asked for; what is absent does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Namespace of the PatchRun.
    pub namespace: Option<String>,
    /// Name of the connection.
    pub connection: Option<String>,
    /// The group, as text.
    pub group: Option<String>,
    /// The phase.
    pub phase: Option<Phase>,
    /// How it ended.
    pub result: Option<RunResult>,
    /// The code of the cause.
    pub error_code: Option<String>,
    /// A host of its scope.
    pub host: Option<String>,
    /// Ended then or later.
    pub since: Option<Timestamp>,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    ended_at: i64,
    phase_key: String,
}

impl Position {
    /// As clients carry it. It holds nothing but the place, and is no permission.
    pub fn cursor(&self) -> String {
        data_encoding::BASE64URL_NOPAD.encode(format!("{}.{}", self.ended_at, self.phase_key).as_bytes())
    }

    /// Reads [`Position::cursor`]; `None` when it is not one.
    pub fn parse(cursor: &str) -> Option<Self> {
        let text = String::from_utf8(data_encoding::BASE64URL_NOPAD.decode(cursor.as_bytes()).ok()?).ok()?;
        let (ended_at, key) = text.split_once('.')?;
        Some(Self { ended_at: ended_at.parse().ok()?, phase_key: Key::parse(key).ok()?.to_string() })
    }
}

/// A page of phases, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The phases.
    pub items: Vec<Item>,
    /// Where the next page begins; absent after the last.
    pub next: Option<Position>,
}

/// One phase that is over, of one run.
#[derive(Serialize, utoipa::ToSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schema(as = HistoryItem)]
pub struct Item {
    /// Namespace of the PatchRun.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key that all phases of the run share.
    pub run_key: String,
    /// Attempt of the PatchRun.
    pub attempt: i64,
    /// Name of the connection.
    pub connection: String,
    /// The group, as the PatchRun has it: a number or a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<NameOrId>,
    /// The kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_kernel: Option<String>,
    /// The phase.
    #[schema(example = "precheck")]
    pub phase: String,
    /// `OK` or `ERROR`.
    #[schema(example = "ERROR")]
    pub result: String,
    /// The cause, as a code of a Runbook.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "E-DISK-BOOT")]
    pub error_code: Option<String>,
    /// Why it ended so, from the documented set of reasons.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// When the executor started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub finished_at: Timestamp,
    /// Hosts by outcome.
    pub counts: HostCounts,
    /// Path of its log on this server; absent when none was archived. Logs are removed before the history is.
    #[serde(rename = "logURL", skip_serializing_if = "Option::is_none")]
    pub log_url: Option<String>,
}

/// A host as one connection in one namespace knows it.
#[derive(Serialize, utoipa::ToSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostView {
    /// Namespace of the PatchRuns.
    pub namespace: String,
    /// Name of the connection.
    pub connection: String,
    /// What is known last.
    pub facts: Facts,
    /// The last result of each phase, newest first.
    pub results: Vec<HostResult>,
}

/// What is known last of a host.
#[derive(Serialize, utoipa::ToSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// `uname -r`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Changes with every boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Free bytes, by directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<BTreeMap<String, u64>>,
    /// Enabled package repositories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repositories: Option<Vec<String>>,
    /// When the host last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
}

/// What became of a host in one phase.
#[derive(Serialize, utoipa::ToSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostResult {
    /// Name of the PatchRun.
    pub name: String,
    /// The key that all phases of the run share.
    pub run_key: String,
    /// The phase.
    pub phase: String,
    /// `ok`, `changed`, `failed`, `unreachable`, `unknown` or `missing`.
    pub outcome: String,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The cause, as a code of a Runbook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// When the phase ended.
    #[schema(value_type = String, format = DateTime)]
    pub finished_at: Timestamp,
    /// Path of the phase's log on this server; absent when none was archived.
    #[serde(rename = "logURL", skip_serializing_if = "Option::is_none")]
    pub log_url: Option<String>,
}

/// A statement that grows, and the values of its `$n`.
struct Statement {
    sql: String,
    values: Vec<Value>,
}

enum Value {
    Text(String),
    Number(i64),
}

impl Statement {
    fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), values: vec![] }
    }

    fn value(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    fn text(&mut self, text: impl Into<String>) -> String {
        self.value(Value::Text(text.into()))
    }

    fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    /// Adds a condition: `AND column = value`, when there is a value.
    fn equal(&mut self, column: &str, value: Option<&str>) {
        if let Some(value) = value {
            let place = self.text(value);
            self.push(&format!(" AND {column} = {place}"));
        }
    }

    /// Adds the condition that only this may be seen.
    fn visible(&mut self, column: &str, visible: &Visible) {
        let Visible::Namespaces(namespaces) = visible else { return };
        let places: Vec<String> = namespaces.iter().map(|namespace| self.text(namespace)).collect();
        // an empty list is not SQL
        if places.is_empty() {
            self.push(" AND 1 = 0");
        } else {
            self.push(&format!(" AND {column} IN ({})", places.join(", ")));
        }
    }

    async fn rows(self, pool: &AnyPool) -> Result<Vec<AnyRow>, sqlx::Error> {
        let mut query: Query<'_, Any, AnyArguments> = sqlx::query(AssertSqlSafe(self.sql));
        for value in self.values {
            query = match value {
                Value::Text(text) => query.bind(text.replace('\0', "\u{fffd}")),
                Value::Number(number) => query.bind(number),
            };
        }
        // statements differ in their number of namespaces: keeping them prepared would keep many
        query.persistent(false).fetch_all(pool).await
    }
}

impl History {
    /// The namespaces that have a history.
    pub async fn namespaces(&self) -> Result<BTreeSet<String>, Error> {
        let read = async {
            let found = Statement::new("SELECT DISTINCT namespace FROM runs").rows(&self.pool().await?).await?;
            Ok(found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
        };
        self.outcome(read.await).await
    }

    /// At most `limit` phases that are over, newest first, after `after`.
    pub async fn page(&self, visible: &Visible, filter: &Filter, limit: u16, after: Option<&Position>) -> Result<Page, Error> {
        let mut statement = Statement::new(
            "SELECT p.namespace, r.name, p.run_key, r.attempt, p.connection, r.group_name, r.group_is_id, r.desired_kernel, p.phase,
                    p.result, p.error_code, p.reason, p.message, p.started_at, p.ended_at, p.counts, p.has_log, p.phase_key
             FROM phases p JOIN runs r ON r.run_key = p.run_key WHERE 1 = 1",
        );
        statement.visible("p.namespace", visible);
        statement.equal("p.namespace", filter.namespace.as_deref());
        statement.equal("p.connection", filter.connection.as_deref());
        statement.equal("r.group_name", filter.group.as_deref());
        statement.equal("p.phase", filter.phase.map(Phase::as_str));
        statement.equal("p.result", filter.result.map(super::write::word));
        statement.equal("p.error_code", filter.error_code.as_deref());
        if let Some(host) = &filter.host {
            let host = statement.text(host);
            statement.push(&format!(" AND EXISTS (SELECT 1 FROM host_results h WHERE h.phase_key = p.phase_key AND h.host = {host})"));
        }
        if let Some(since) = filter.since {
            let since = statement.value(Value::Number(since.as_microsecond()));
            statement.push(&format!(" AND p.ended_at >= {since}"));
        }
        if let Some(after) = after {
            let (ended_at, key) = (statement.value(Value::Number(after.ended_at)), statement.text(&after.phase_key));
            statement.push(&format!(" AND (p.ended_at, p.phase_key) < ({ended_at}, {key})"));
        }
        // one more tells whether there is a next page
        let limit = usize::from(limit);
        statement.push(&format!(" ORDER BY p.ended_at DESC, p.phase_key DESC LIMIT {}", limit + 1));
        let read = async {
            let rows = statement.rows(&self.pool().await?).await?;
            let last = rows.get(limit.saturating_sub(1)).filter(|_| rows.len() > limit);
            let next = last.map(|row| Ok::<_, sqlx::Error>(Position { ended_at: row.try_get(14)?, phase_key: row.try_get(17)? }));
            let items = rows.iter().take(limit).map(item).collect::<Result<_, _>>()?;
            Ok(Page { items, next: next.transpose()? })
        };
        self.outcome(read.await).await
    }

    /// A host wherever it is known, by namespace and connection; empty when it is not.
    pub async fn host(
        &self,
        visible: &Visible,
        host: &str,
        namespace: Option<&str>,
        connection: Option<&str>,
    ) -> Result<Vec<HostView>, Error> {
        let narrow = |statement: &mut Statement, table: &str| {
            statement.visible(&format!("{table}.namespace"), visible);
            statement.equal(&format!("{table}.namespace"), namespace);
            statement.equal(&format!("{table}.connection"), connection);
        };
        let mut facts = Statement::new(
            "SELECT f.namespace, f.connection, f.kernel, f.boot_id, f.free, f.repositories, f.seen_at FROM facts f WHERE 1 = 1",
        );
        facts.equal("f.host", Some(host));
        narrow(&mut facts, "f");
        facts.push(&format!(" ORDER BY f.updated_at DESC, f.namespace, f.connection LIMIT {PLACES}"));
        let mut results = Statement::new(
            "SELECT namespace, connection, name, run_key, phase, outcome, message, error_code, ended_at, has_log, phase_key FROM (
                SELECT p.namespace, p.connection, r.name, p.run_key, p.phase, h.outcome, h.message, h.error_code, p.ended_at, p.has_log,
                       p.phase_key, ROW_NUMBER() OVER (PARTITION BY p.namespace, p.connection, p.phase
                                                       ORDER BY p.ended_at DESC, p.phase_key DESC) AS place
                FROM host_results h JOIN phases p ON p.phase_key = h.phase_key JOIN runs r ON r.run_key = p.run_key WHERE 1 = 1",
        );
        results.equal("h.host", Some(host));
        narrow(&mut results, "p");
        results.push(") AS results WHERE place = 1 ORDER BY ended_at DESC, phase_key DESC");
        let read = async {
            let pool = self.pool().await?;
            let mut views = facts.rows(&pool).await?.iter().map(view).collect::<Result<Vec<_>, _>>()?;
            for row in results.rows(&pool).await? {
                let (namespace, connection): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                if let Some(view) = views.iter_mut().find(|view| view.namespace == namespace && view.connection == connection) {
                    view.results.push(host_result(&row)?);
                }
            }
            Ok(views)
        };
        self.outcome(read.await).await
    }

    /// Which of these phases are there.
    pub(super) async fn known(&self, keys: &[Key]) -> Result<BTreeSet<String>, Error> {
        let mut statement = Statement::new("SELECT phase_key FROM phases WHERE phase_key IN (");
        let places: Vec<String> = keys.iter().map(|key| statement.text(key.as_str())).collect();
        statement.push(&format!("{})", places.join(", ")));
        let read = async {
            let found = statement.rows(&self.pool().await?).await?;
            Ok(found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
        };
        self.outcome(read.await).await
    }

    /// Phases, incidents that are not resolved, and the mean time to repair of those resolved after `since`, in seconds.
    pub(super) async fn counts(&self, since: Timestamp) -> Result<(i64, i64, i64), Error> {
        let read = async {
            let pool = self.pool().await?;
            let phases = sqlx::query_scalar("SELECT COUNT(*) FROM phases").fetch_one(&pool).await?;
            let open = sqlx::query_scalar("SELECT COUNT(*) FROM incidents WHERE resolved_at IS NULL").fetch_one(&pool).await?;
            let mean = "SELECT CAST(COALESCE(AVG(resolved_at - opened_at), 0) AS BIGINT) FROM incidents WHERE resolved_at > $1";
            let mean: i64 = sqlx::query_scalar(mean).bind(since.as_microsecond()).fetch_one(&pool).await?;
            Ok::<_, Failure>((phases, open, mean / 1_000_000))
        };
        self.outcome(read.await).await
    }
}

fn item(row: &AnyRow) -> Result<Item, sqlx::Error> {
    let group: Option<String> = row.try_get(5)?;
    let is_id = row.try_get::<i64, _>(6)? != 0;
    Ok(Item {
        namespace: row.try_get(0)?,
        name: row.try_get(1)?,
        run_key: row.try_get(2)?,
        attempt: row.try_get(3)?,
        connection: row.try_get(4)?,
        group: group.map(|text| match text.parse() {
            Ok(id) if is_id => NameOrId::Id(id),
            Ok(_) | Err(_) => NameOrId::Name(text),
        }),
        desired_kernel: row.try_get(7)?,
        phase: row.try_get(8)?,
        result: row.try_get(9)?,
        error_code: row.try_get(10)?,
        reason: row.try_get(11)?,
        message: row.try_get(12)?,
        started_at: row.try_get::<Option<i64>, _>(13)?.and_then(time),
        finished_at: time(row.try_get(14)?).unwrap_or_default(),
        counts: serde_json::from_str(row.try_get::<&str, _>(15)?).unwrap_or_default(),
        log_url: log_url(row, 16, 17)?,
    })
}

fn view(row: &AnyRow) -> Result<HostView, sqlx::Error> {
    let [free, repositories] = [4, 5].map(|column| row.try_get::<Option<String>, _>(column));
    Ok(HostView {
        namespace: row.try_get(0)?,
        connection: row.try_get(1)?,
        facts: Facts {
            kernel: row.try_get(2)?,
            boot_id: row.try_get(3)?,
            free_bytes: free?.and_then(|text| serde_json::from_str(&text).ok()),
            repositories: repositories?.and_then(|text| serde_json::from_str(&text).ok()),
            last_seen: Some(row.try_get::<i64, _>(6)?).filter(|at| *at != 0).and_then(time),
        },
        results: vec![],
    })
}

fn host_result(row: &AnyRow) -> Result<HostResult, sqlx::Error> {
    Ok(HostResult {
        name: row.try_get(2)?,
        run_key: row.try_get(3)?,
        phase: row.try_get(4)?,
        outcome: row.try_get(5)?,
        message: row.try_get(6)?,
        error_code: row.try_get(7)?,
        finished_at: time(row.try_get(8)?).unwrap_or_default(),
        log_url: log_url(row, 9, 10)?,
    })
}

fn log_url(row: &AnyRow, has_log: usize, phase_key: usize) -> Result<Option<String>, sqlx::Error> {
    let key: &str = row.try_get(phase_key)?;
    Ok((row.try_get::<i64, _>(has_log)? != 0).then(|| format!("/api/logs/{key}")))
}

fn time(microseconds: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(microseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_place_and_nothing_else() {
        let place = Position { ended_at: -5, phase_key: "v1-abcdefghijklmnopq234-apply".into() };
        assert_eq!(Position::parse(&place.cursor()), Some(place));
        let encoded = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
        for bad in ["", "x", "!", &encoded("5"), &encoded("x.v1-abcdefghijklmnopq234-apply"), &encoded("5.' OR 1=1"), &encoded("5.")] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
