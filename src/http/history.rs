//! `GET /api/history` and `GET /api/host/{hostname}`: what was done, also after the objects are gone.
//!
//! A caller sees what belongs to namespaces in which they may get PatchRuns, and nothing of any other.

#![allow(unused_qualifications, reason = "in what the description of the parameters expands to")]

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use serde::{Deserialize, Serialize};

use super::{App, auth::Identity, problem::Problem, rates::Kind};
use crate::{
    api::patch_run::{PatchRun, Phase, RunResult, State as RunState},
    archive::Owner,
    history::{self, Condition, Facts, Filter, HostResult, HostView, Item, Position, Visible},
};

/// Phases of one page, unless told.
const LIMIT: u16 = 20;
/// Phases of one page at most.
const MOST: u16 = 200;
/// Questions to the API server at a time.
const REVIEWS: usize = 8;

/// Which phases are asked for; what is absent does not matter.
#[derive(Deserialize, utoipa::IntoParams, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// The group: a number or a name.
    #[param(example = "5", min_length = 1, max_length = 253)]
    pub group: Option<String>,
    /// `precheck`, `stage`, `apply`, `reboot` or `postcheck`.
    #[param(inline)]
    pub phase: Option<Phase>,
    /// `OK` or `ERROR`.
    #[param(inline)]
    pub result: Option<RunResult>,
    /// The code of a Runbook.
    #[param(example = "E-DISK-BOOT", pattern = "^E-", max_length = 63)]
    pub error_code: Option<String>,
    /// Ended then or later: a time (RFC 3339), or how long ago (`36h`).
    #[param(example = "2026-11-01T00:00:00Z")]
    pub since: Option<String>,
    /// Phases of one page, from 1 to 200; 20 unless told.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub cursor: Option<String>,
    /// Namespace of the PatchRun.
    pub namespace: Option<String>,
    /// Name of the connection.
    pub connection: Option<String>,
    /// A host of the scope.
    pub host: Option<String>,
}

/// A page of the history: phases that are over, newest first.
#[derive(Serialize, utoipa::ToSchema, Clone, Debug)]
pub struct HistoryPage {
    /// One for each phase of each run.
    pub items: Vec<Item>,
    /// `cursor` of the next page; absent after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Shows phases that are over, newest first
///
/// An item is one phase of one run, so that `?group=5&phase=precheck&limit=10` are the last ten prechecks of group 5, and
/// `result`, `error_code` and `since` say something of the phase itself.
#[utoipa::path(
    get,
    path = "/api/history",
    params(HistoryQuery),
    responses((status = 200, description = "A page of the history.", body = HistoryPage)),
)]
pub async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<HistoryPage>, Problem> {
    let who = app.caller(&headers, Kind::Read).await?;
    let Query(query) = query.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(bad("limit must be a number from 1 to 200"));
    }
    let after = match &query.cursor {
        Some(cursor) => Some(Position::parse(cursor).ok_or_else(|| bad("cursor must be what `next` of the page before says"))?),
        None => None,
    };
    let filter = filter(query, crate::clock::now())?;
    let visible = visible(&app, &who, filter.namespace.as_deref()).await?;
    let page = app.history.page(&visible, &filter, limit, after.as_ref()).await?;
    Ok(Json(HistoryPage { items: page.items, next: page.next.map(|next| next.cursor()) }))
}

fn bad(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn filter(query: HistoryQuery, now: Timestamp) -> Result<Filter, Problem> {
    let since = query.since.map(|text| since(&text, now)).transpose()?;
    for (name, value, longest) in [
        ("group", &query.group, 253),
        ("error_code", &query.error_code, 63),
        ("namespace", &query.namespace, 63),
        ("connection", &query.connection, 253),
        ("host", &query.host, 253),
    ] {
        if value.as_ref().is_some_and(|text| text.is_empty() || text.len() > longest) {
            return Err(bad(&format!("{name} must have from 1 to {longest} bytes")));
        }
    }
    if query.error_code.as_ref().is_some_and(|code| !code.starts_with("E-")) {
        return Err(bad("error_code must be the code of a Runbook, such as E-DISK-BOOT"));
    }
    Ok(Filter {
        namespace: query.namespace,
        connection: query.connection,
        group: query.group,
        phase: query.phase,
        result: query.result,
        error_code: query.error_code,
        host: query.host,
        since,
    })
}

fn since(text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    let ago = || text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative()).and_then(|ago| now.checked_sub(ago).ok());
    text.parse().ok().or_else(ago).ok_or_else(|| bad("since must be a time such as 2026-11-01T00:00:00Z, or how long ago, such as 36h"))
}

/// What the caller may see; 403 when that is asked for one namespace and it is not theirs. 503 while the history lacks records: half of an
/// answer would be taken for all of it.
async fn visible(app: &App, who: &Identity, namespace: Option<&str>) -> Result<Visible, Problem> {
    if app.auth.may(who, "get", None, None).await? {
        complete(app)?;
        return Ok(Visible::All);
    }
    if let Some(namespace) = namespace {
        if !app.auth.may(who, "get", Some(namespace), None).await? {
            return Err(Problem::forbidden());
        }
        complete(app)?;
        return Ok(Visible::Namespaces([namespace.to_owned()].into()));
    }
    complete(app)?;
    let allowed: BTreeSet<String> = futures::stream::iter(app.history.namespaces().await?)
        .map(|namespace| async move { Ok::<_, Problem>(app.auth.may(who, "get", Some(&namespace), None).await?.then_some(namespace)) })
        .buffer_unordered(REVIEWS)
        .try_filter_map(async |allowed| Ok(allowed))
        .try_collect()
        .await?;
    Ok(Visible::Namespaces(allowed))
}

pub(super) fn complete(app: &App) -> Result<(), Problem> {
    match app.history.condition() {
        Condition::Complete => Ok(()),
        Condition::Starting => Err(Problem::unavailable("the history is being compared with the archive")),
        Condition::Degraded(_) => Err(Problem::unavailable("the history is not available; runs and logs are")),
    }
}

impl From<history::Error> for Problem {
    fn from(error: history::Error) -> Self {
        // causes name files and addresses: they are for our log only
        tracing::error!(%error, "the history cannot be read");
        Self::unavailable("the history is not available; runs and logs are")
    }
}

/// Which of the places that know the host.
#[derive(Deserialize, utoipa::IntoParams, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HostQuery {
    /// Namespace of the PatchRuns.
    pub namespace: Option<String>,
    /// Name of the connection.
    pub connection: Option<String>,
}

/// A host, in every namespace and connection that knows it, the one that heard of it last first.
#[derive(Serialize, utoipa::ToSchema, Clone, Debug)]
pub struct Host {
    /// Name in the inventory.
    pub hostname: String,
    /// Where it is known.
    pub known: Vec<KnownHost>,
}

/// A host as one connection in one namespace knows it.
#[derive(Serialize, utoipa::ToSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct KnownHost {
    /// Namespace of the PatchRuns.
    pub namespace: String,
    /// Name of the connection.
    pub connection: String,
    /// `Idle`, or the state of the run that holds the host, as far as one of its phases is over.
    #[schema(example = "Idle")]
    pub state: String,
    /// The run that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveRun>,
    /// What is known last.
    pub facts: Facts,
    /// The last result of each phase, newest first.
    pub results: Vec<HostResult>,
}

/// A run that is not over.
#[derive(Serialize, utoipa::ToSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ActiveRun {
    /// Name of the PatchRun.
    pub name: String,
    /// The key that all its phases share.
    pub run_key: String,
    /// The phase that runs or waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub phase: Option<Phase>,
}

/// Shows a host: where it stands, its last results, and what is known of it
///
/// 404 when it is in none of the caller's namespaces, whether it is in others or not.
#[utoipa::path(
    get,
    path = "/api/host/{hostname}",
    params(("hostname" = String, Path, description = "Name in the inventory", example = "web-1"), HostQuery),
    responses((status = 200, description = "The host.", body = Host)),
)]
pub async fn host(
    State(app): State<Arc<App>>,
    Path(hostname): Path<String>,
    query: Result<Query<HostQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Host>, Problem> {
    let who = app.caller(&headers, Kind::Read).await?;
    let Query(query) = query.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let visible = visible(&app, &who, query.namespace.as_deref()).await?;
    let views = app.history.host(&visible, &hostname, query.namespace.as_deref(), query.connection.as_deref()).await?;
    if views.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no phase of a PatchRun that you may get had that host in its scope"));
    }
    let known = futures::stream::iter(views).map(|view| known(&app, view)).buffered(REVIEWS).try_collect().await?;
    Ok(Json(Host { hostname, known }))
}

/// Adds the run that the host is in: the one of its last result, if that is not over.
async fn known(app: &App, view: HostView) -> Result<KnownHost, Problem> {
    let HostView { namespace, connection, facts, results } = view;
    let last = results.first().and_then(|last| Some((Owner::new(namespace.as_str(), last.name.as_str()).ok()?, last.run_key.clone())));
    let mut active = None;
    let mut state = "Idle".to_owned();
    if let Some((owner, run_key)) = last {
        let api = Api::<PatchRun>::namespaced(app.client.clone(), &owner.namespace);
        let run = api.get_opt(&owner.name).await.map_err(|error| {
            tracing::error!(%error, %owner, "the PatchRun cannot be read");
            Problem::unavailable("the Kubernetes API server does not answer")
        })?;
        let status = run.and_then(|run| run.status).filter(|status| status.run_key.as_ref() == Some(&run_key));
        if let Some(status) = status.filter(|status| status.state != RunState::Completed) {
            state = serde_json::to_value(status.state).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default();
            active = Some(ActiveRun { name: owner.name, run_key, phase: status.phase });
        }
    }
    Ok(KnownHost { namespace, connection, state, active, facts, results })
}
