//! `GET /api/logs/{id}`: the archived log of a phase. The id is the phase key.
//!
//! Order of the checks: token (401), permission on the PatchRun that owns the log (403), existence (404), limits (429). An id is a hash over
//! names that can be guessed, so that it exists must not leak: for an id without an owner the question is whether the caller may get every
//! PatchRun. Whoever may learns that it does not exist (404); everybody else gets the same 403 as for a log of somebody else.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    App, limits,
    problem::{Details, Problem},
    range::{self, Wanted},
    rates::Kind,
};
use crate::archive::Key;

/// Downloads the log of a phase
///
/// Text, compressed and in parts on request.
#[utoipa::path(
    get,
    path = "/api/logs/{id}",
    params(
        ("id" = String, Path, description = "Id of the log: the key of its phase", example = "v1-abcdefghijklmnopq234-apply"),
        ("Range" = Option<String>, Header, description = "A part of it", example = "bytes=0-1023"),
    ),
    responses(
        (status = 200, description = "The log.", body = String, content_type = "text/plain"),
        (status = 206, description = "A part of the log.", body = String, content_type = "text/plain"),
        (status = 304, description = "It is the one the client has."),
        (status = 416, description = "It has no such part.", body = Details, content_type = "application/problem+json"),
    ),
)]
pub async fn get(State(app): State<Arc<App>>, Path(id): Path<String>, method: Method, headers: HeaderMap) -> Result<Response, Problem> {
    let who = app.caller(&headers, Kind::Read).await?;
    // what cannot be an id tells nobody anything
    let key = Key::parse(&id).map_err(|_| Problem::not_found())?;
    let owner = app.archive.owner(&key).await?;
    if !app.auth.may_get(&who, owner.as_ref()).await? {
        return Err(Problem::forbidden());
    }
    let Some(meta) = app.archive.log_meta(&key).await? else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is no log of that id: it was never archived, or its retention is over"));
    };
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let tag = format!("\"{}\"", meta.sha256);
    if text(header::IF_NONE_MATCH).is_some_and(|given| range::names(given, &meta.sha256)) {
        return Ok(describe(StatusCode::NOT_MODIFIED.into_response(), &key, &tag));
    }
    let unchanged = text(header::IF_RANGE).is_none_or(|given| given == tag);
    let wanted = range::wanted(text(header::RANGE).filter(|_| unchanged), meta.size);
    let (status, part, content_range) = match wanted {
        Wanted::All => (StatusCode::OK, 0..meta.size, None),
        Wanted::Part(part) => {
            let content_range = format!("bytes {}-{}/{}", part.start, part.end - 1, meta.size);
            (StatusCode::PARTIAL_CONTENT, part, Some(content_range))
        }
        Wanted::Nothing => {
            let content_range = format!("bytes */{}", meta.size);
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the log has {} bytes", meta.size));
            return Err(problem.with(header::CONTENT_RANGE, ascii(&content_range)));
        }
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let place = app.downloads.enter(&who.username)?;
        let log = app.archive.open_log(&key, Some(part.clone())).await?.ok_or_else(Problem::not_found)?;
        if log.meta.sha256 != meta.sha256 {
            return Err(Problem::unavailable("the log was replaced in this moment; try again"));
        }
        limits::body(log.stream, place, app.idle, &app.metrics)
    };
    let mut response = describe((status, body).into_response(), &key, &tag);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    if let Some(content_range) = content_range {
        headers.insert(header::CONTENT_RANGE, ascii(&content_range));
    }
    Ok(response)
}

/// Headers of every answer about a log. Logs hold what hosts printed: no browser may take them for more than text.
fn describe(mut response: Response, key: &Key, tag: &str) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
        (header::VARY, "Authorization"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ETAG, ascii(tag));
    headers.insert(header::CONTENT_DISPOSITION, ascii(&format!("attachment; filename=\"{key}.log\"")));
    response
}

/// A compressed answer is the same log in other bytes: its tag is weak.
pub async fn weaken_tag(mut response: Response) -> Response {
    let weak = response
        .headers()
        .get(header::ETAG)
        .filter(|_| response.headers().contains_key(header::CONTENT_ENCODING))
        .and_then(|tag| HeaderValue::try_from([b"W/", tag.as_bytes()].concat()).ok());
    if let Some(weak) = weak {
        response.headers_mut().insert(header::ETAG, weak);
    }
    response
}

/// A value we made of digits, hashes and checked names.
fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
