//! `GET /api/runs/{namespace}/{name}`: a PatchRun with the table of its hosts, also after the object is gone.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use kube::Api;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{App, problem::Problem, rates::Kind, table};
use crate::{
    api::{
        classification::Classification,
        patch_run::{Executor, HostCounts, LogRef, PatchRun, Phase, PhaseStatus, RunResult, State as RunState},
        shared::NameOrId,
    },
    archive::{
        Owner,
        record::{HostRecord, Record},
    },
};

/// How the answer shall look.
#[derive(Deserialize)]
pub struct Form {
    format: Option<Format>,
}

/// The forms of a run.
#[derive(Deserialize, ToSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON.
    Json,
    /// A table in text.
    Table,
}

/// Shows a run with its hosts
///
/// Also after the object is gone, from what is on record. As a table for people with `?format=table`, or when `text/plain` is accepted before
/// JSON.
#[utoipa::path(
    get,
    path = "/api/runs/{namespace}/{name}",
    params(
        ("namespace" = String, Path, description = "Namespace of the PatchRun", example = "patching"),
        ("name" = String, Path, description = "Its name", example = "web"),
        ("format" = inline(Option<Format>), Query, description = "As JSON, or as a table for people; without it, as the header `Accept` says"),
    ),
    responses((status = 200, description = "The run.", content((RunView = "application/json"), (String = "text/plain")))),
)]
pub async fn get(
    State(app): State<Arc<App>>,
    Path((namespace, name)): Path<(String, String)>,
    form: Result<Query<Form>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let who = app.caller(&headers, Kind::Read).await?;
    let Query(form) = form.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let owner = Owner::new(namespace, name).map_err(|_| Problem::not_found())?;
    if !app.auth.may_get(&who, Some(&owner)).await? {
        return Err(Problem::forbidden());
    }
    let api = Api::<PatchRun>::namespaced(app.client.clone(), &owner.namespace);
    let object = async {
        api.get_opt(&owner.name).await.map_err(|error| {
            tracing::error!(%error, %owner, "the PatchRun cannot be read");
            Problem::unavailable("the Kubernetes API server does not answer")
        })
    };
    let records = async { app.archive.records_of(&owner).await.map_err(Problem::from) };
    let (object, records) = futures::try_join!(object, records)?;
    let view = view(&owner, object.as_ref(), records).ok_or_else(Problem::not_found)?;
    Ok(if wants_table(&form, &headers) {
        ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], table::text(&view)).into_response()
    } else {
        Json(view).into_response()
    })
}

fn wants_table(form: &Form, headers: &HeaderMap) -> bool {
    if let Some(format) = form.format {
        return format == Format::Table;
    }
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut kinds = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.find(|kind| matches!(*kind, "text/plain" | "application/json" | "*/*")) == Some("text/plain")
}

/// A run as the API shows it.
#[derive(Serialize, Clone, Debug, PartialEq, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    /// Namespace of the PatchRun.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether the object still exists.
    pub exists: bool,
    /// Where it stands; absent when the object is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<RunState>,
    /// The phase that runs or waits, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// `OK` or `ERROR`; absent until the run is over. When the object is gone: of what is on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// Why it stands or ended so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What has to be mended first, as a code of a Runbook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// The connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<NameOrId>,
    /// The kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_kernel: Option<String>,
    /// Where the log can be downloaded.
    #[serde(rename = "logURL", skip_serializing_if = "Option::is_none")]
    pub log_url: Option<String>,
    /// The latest attempt.
    #[serde(flatten)]
    pub attempt: AttemptView,
    /// Earlier attempts, and earlier runs of the same name, newest first; from the records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<AttemptView>,
}

/// One attempt.
#[derive(Serialize, Clone, Debug, Default, PartialEq, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptView {
    /// Its number.
    pub attempt: i32,
    /// Its identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub run_key: String,
    /// Its phases, in order.
    pub phases: Vec<PhaseView>,
}

/// One phase.
#[derive(Serialize, Clone, Debug, PartialEq, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseView {
    /// The phase.
    pub name: Phase,
    /// Its identity: the id of its log.
    pub run_key: String,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What carried it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<Executor>,
    /// When it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// Hosts by outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<HostCounts>,
    /// The log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogRef>,
    /// Why it failed, as far as its log shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
    /// The result was found in the records: an earlier object of the same identity did the work.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// Every host, from the record; empty until there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostRecord>,
}

impl From<Record> for PhaseView {
    fn from(record: Record) -> Self {
        Self {
            name: record.phase,
            run_key: record.run_key,
            result: Some(record.result),
            reason: Some(record.reason),
            message: Some(record.message),
            executor: record.executor,
            started_at: record.started_at,
            finished_at: record.finished_at,
            counts: Some(record.counts),
            log: record.log,
            classification: record.classification,
            adopted: false,
            hosts: record.hosts,
        }
    }
}

impl From<&PhaseStatus> for PhaseView {
    fn from(status: &PhaseStatus) -> Self {
        Self {
            name: status.name,
            run_key: status.run_key.clone(),
            result: status.result,
            reason: status.reason.clone(),
            message: status.message.clone(),
            executor: status.executor.clone(),
            started_at: status.started_at,
            finished_at: status.finished_at,
            counts: status.hosts,
            log: status.log.clone(),
            classification: status.classification.clone(),
            adopted: status.adopted.unwrap_or(false),
            hosts: Vec::new(),
        }
    }
}

/// Joins the object, if it still exists, with the records; `None` when there is neither.
pub fn view(owner: &Owner, object: Option<&PatchRun>, records: Vec<Record>) -> Option<RunView> {
    let newest = records.iter().max_by_key(|record| (record.attempt, record.finished_at)).cloned();
    if object.is_none() && newest.is_none() {
        return None;
    }
    let status = object.and_then(|object| object.status.clone()).unwrap_or_default();
    let newest_key = newest.as_ref().map(|record| run_key(&record.run_key).to_owned());
    // an object that has not begun is not described by what an earlier one of its name did
    let current_key = if object.is_some() { status.run_key.clone() } else { newest_key };

    let mut attempts = Vec::<AttemptView>::new();
    for record in records {
        let key = run_key(&record.run_key).to_owned();
        let at = attempts.iter().position(|a| a.run_key == key).unwrap_or_else(|| {
            attempts.push(AttemptView { attempt: record.attempt, run_key: key, phases: Vec::new() });
            attempts.len() - 1
        });
        attempts[at].phases.push(record.into());
    }
    attempts.sort_by_key(|attempt| (attempt.attempt, attempt.phases.iter().filter_map(|p| p.finished_at).max()));
    let current = attempts.iter().position(|a| Some(&a.run_key) == current_key.as_ref()).map(|at| attempts.remove(at));
    attempts.reverse();

    let mut current = current.unwrap_or_default();
    if let Some(object) = object {
        current.attempt = status.attempt.unwrap_or_else(|| object.spec.attempt());
        current.run_key = current_key.unwrap_or_default();
        for phase in &status.phases {
            match current.phases.iter_mut().find(|p| p.name == phase.name) {
                // the record is the end; the status knows how it came here
                Some(recorded) => recorded.adopted = phase.adopted.unwrap_or(false),
                None => current.phases.push(phase.into()),
            }
        }
        current.phases.sort_by_key(|phase| phase.name);
    }
    let last = current.phases.last();
    let succeeded = status.conditions.iter().find(|c| c.type_ == "Succeeded");
    let error_code = if object.is_some() {
        status.error_code
    } else {
        current.phases.iter().find_map(|p| p.classification.as_ref()).map(|c| c.error_code.clone())
    };
    Some(RunView {
        namespace: owner.namespace.clone(),
        name: owner.name.clone(),
        exists: object.is_some(),
        state: object.map(|_| status.state),
        phase: status.phase.or(last.map(|p| p.name)),
        result: if object.is_some() { status.result } else { on_record(&current) },
        reason: if object.is_some() { succeeded.map(|c| c.reason.clone()) } else { last.and_then(|p| p.reason.clone()) },
        message: if object.is_some() { succeeded.map(|c| c.message.clone()) } else { last.and_then(|p| p.message.clone()) },
        error_code,
        connection: object.map(|o| o.spec.connection.name.clone()).or(newest.as_ref().map(|r| r.connection.clone())),
        group: object.map_or_else(|| newest.as_ref().and_then(|r| r.group.clone()), |o| o.spec.group.clone()),
        desired_kernel: object.map_or_else(|| newest.as_ref().and_then(|r| r.desired_kernel.clone()), |o| o.spec.desired_kernel.clone()),
        log_url: status.log_url,
        attempt: current,
        earlier: attempts,
    })
}

/// What the records alone prove: an error is an error; that every wanted phase was done is known to the object only, so never `OK`.
fn on_record(attempt: &AttemptView) -> Option<RunResult> {
    attempt.phases.iter().any(|p| p.result == Some(RunResult::Error)).then_some(RunResult::Error)
}

/// The part of a phase key that all phases of a run share.
fn run_key(phase_key: &str) -> &str {
    phase_key.rsplit_once('-').map_or(phase_key, |(key, _)| key)
}
