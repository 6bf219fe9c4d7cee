//! `/internal/…`: where the manager puts logs and records, and reads them back. For its ServiceAccount only, with a token of audience `fettle`.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use serde::Deserialize;

use super::{App, limits, problem::Problem};
use crate::{
    api::patch_run::LogRef,
    archive::{Key, LogMeta, Owner, record::Record, started::Started},
    history,
};

/// Whose log it is, and where it was taken from.
#[derive(Deserialize)]
pub struct Origin {
    namespace: String,
    name: String,
    #[serde(default)]
    source: String,
}

/// Lets the manager pass, and nobody else; before anything of the body is read.
pub async fn manager_only(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Problem> {
    let who = app.auth.authenticate(request.headers()).await?;
    if who.for_fettle && who.username == app.manager_account {
        Ok(next.run(request).await)
    } else {
        tracing::warn!(user = %who.username, "refused at the intake");
        Err(Problem::new(StatusCode::FORBIDDEN, "only the manager may do that"))
    }
}

/// `PUT /internal/logs/{key}?namespace=&name=&source=`: the body is the log, of any length up to the maximum. Answers with the [`LogRef`].
pub async fn put_log(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(origin): Query<Origin>,
    body: Body,
) -> Result<Json<LogRef>, Problem> {
    let key = Key::parse(&key)?;
    let owner = Owner::new(origin.namespace, origin.name)?;
    let stream = limits::arriving(body, app.idle, app.metrics.clone());
    let log = app.archive.put_log(&key, &owner, &origin.source, stream).await?;
    tracing::info!(key = %key, size = log.size, sha256 = %log.sha256, owner = %owner, "log archived");
    Ok(Json(log))
}

/// `GET /internal/logs/{key}`: what the log is.
pub async fn log_meta(State(app): State<Arc<App>>, Path(key): Path<String>) -> Result<Json<LogMeta>, Problem> {
    let meta = app.archive.log_meta(&Key::parse(&key)?).await?;
    meta.map(Json).ok_or_else(Problem::not_found)
}

/// `PUT /internal/records/{key}`: once; the same again is 204, other content 409.
pub async fn put_record(State(app): State<Arc<App>>, Path(key): Path<String>, Json(record): Json<Record>) -> Result<Response, Problem> {
    let key = Key::parse(&key)?;
    if record.run_key != key.as_str() {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the record is of another key"));
    }
    app.archive.put_record(&record).await?;
    tracing::info!(key = %key, namespace = %record.namespace, name = %record.name, reason = %record.reason, "record archived");
    // when it is full, or we die here, the history finds the record in the archive
    let _ = app.records.try_send(history::dated(record, crate::clock::now()));
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /internal/records/{key}`.
pub async fn record(State(app): State<Arc<App>>, Path(key): Path<String>) -> Result<Response, Problem> {
    let record = app.archive.record(&Key::parse(&key)?).await?.ok_or_else(Problem::not_found)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(record)).into_response())
}

/// `PUT /internal/started/{key}`: 204 for the one who creates the mark, 409 for everybody else.
pub async fn create_started(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Json(started): Json<Started>,
) -> Result<Response, Problem> {
    let key = Key::parse(&key)?;
    if started.run_key != key.as_str() {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the mark is of another key"));
    }
    app.archive.create_started(&started).await?;
    tracing::info!(key = %key, namespace = %started.namespace, name = %started.name, "direct launch begun");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /internal/started/{key}`.
pub async fn started(State(app): State<Arc<App>>, Path(key): Path<String>) -> Result<Response, Problem> {
    let started = app.archive.started(&Key::parse(&key)?).await?.ok_or_else(Problem::not_found)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(started)).into_response())
}

/// `DELETE /internal/started/{key}`: 204 also when there is none.
pub async fn remove_started(State(app): State<Arc<App>>, Path(key): Path<String>) -> Result<Response, Problem> {
    app.archive.remove_started(&Key::parse(&key)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
