//! `POST /api/run/{phase}`: asks for a phase of a group, and waits for its end.
//!
//! The PatchRun is created with the server's own account, after a SubjectAccessReview said that the caller may create PatchRuns in that
//! namespace. Its name comes from its content ([`Wanted`]), so that a retry, of one who lost the answer or of two at once, joins the run
//! that is not over instead of starting a second one. When all of that content are over it is the next number. With an `Idempotency-Key`
//! the same run answers for a day, also when it is over. A caller who goes away changes nothing: the run is an object of the cluster.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{App, auth::Identity, body, follow::Waited, problem::Problem, rates::Kind};
use crate::{
    api::{
        patch_run::{PatchRun, Phase, RunResult, State as RunState},
        reason::Reason,
        shared::Span,
    },
    archive::Owner,
    clock, names,
    run_request::{Key, RunRequest, Wanted, next_number},
};

/// How long an `Idempotency-Key` stands for its run.
const KEY_TTL: SignedDuration = SignedDuration::from_hours(24);
/// How often the creation is tried when others create the same at the same time.
const TRIES: usize = 8;
/// How long the API server and the archive may take for a creation.
const CREATION: Duration = Duration::from_secs(25);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How long to wait.
#[derive(Deserialize)]
pub struct Patience {
    /// Seconds, or a length of time such as `15m`.
    wait: Option<String>,
}

/// The end of a run: exactly `{"status":"OK"}`, or `{"status":"ERROR","log_url":"…"}`.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "status")]
pub enum Ended {
    /// Every host is proven to have ended well.
    #[serde(rename = "OK")]
    Ok,
    /// Any other end.
    #[serde(rename = "ERROR")]
    Error {
        /// The log; when there is none, the run, which says why.
        log_url: String,
    },
}

/// A run that is not over.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct Pending {
    /// Namespace of the PatchRun.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: RunState,
    /// Why it stands there, as a word of the documented set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people. Of missing credentials: which, and the command that creates them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do next.
    pub next: String,
    /// The run, as `GET` shows it.
    pub url: String,
}

/// Runs a phase for a group of hosts
///
/// Creates a PatchRun, or joins the one of the same content that is not over, waits for its end and answers in one of two forms.
#[utoipa::path(
    post,
    path = "/api/run/{phase}",
    params(
        ("phase" = Phase, Path, description = "The phase"),
        ("wait" = Option<String>, Query, description = "How long to wait for the end: seconds, or a length of time such as `90s` or `15m`; at most, and without it, 15 minutes unless the server is configured otherwise", pattern = "^([0-9]{1,9}|([0-9]{1,4}[hms]){1,3})$", example = "60"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key of the same user stands for the same run for a day, also when it is over", min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
        ("Prefer" = Option<String>, Header, description = "`respond-async`: answer 202 at once", example = "respond-async"),
    ),
    request_body = RunRequest,
    responses(
        (status = 200, description = "The run is over.", body = Ended),
        (status = 202, description = "The run is not over.", body = Pending, headers(
            ("Location" = String, description = "The run"),
            ("Preference-Applied" = String, description = "`respond-async`, when that was why"),
        )),
    ),
)]
pub async fn post(
    State(app): State<Arc<App>>,
    Path(phase): Path<String>,
    patience: Result<Query<Patience>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let who = app.caller(&headers, Kind::Write).await?;
    let Query(patience) = patience.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let Some(phase) = Phase::ALL.into_iter().find(|p| p.as_str() == phase) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is no such phase: precheck, stage, apply, reboot, postcheck"));
    };
    let wait = wait(patience.wait.as_deref(), app.max_wait)?;
    let key = idempotency_key(&headers)?;
    let request: RunRequest = body::json(&headers, body, app.idle).await?;
    let run = start(&app, &who, phase, request, key.as_deref()).await?;
    let owner = owner(&run)?;
    let hurry = prefers_async(&headers);
    // without a place to wait in the answer is that it is not over
    let place = app.waiting.enter(&who.username).ok().filter(|_| !hurry);
    let wait = if place.is_some() { wait } else { Duration::ZERO };
    let known = Arc::new(run.clone());
    let waited = tokio::select! {
        waited = app.runs.wait(&owner, run, Instant::now() + wait, is_over) => waited,
        () = app.stopping.cancelled() => Waited::Late(app.runs.get(&owner).unwrap_or(known)),
    };
    let mut response = match waited {
        Waited::Reached(run) => Json(ended(&app, &owner, Some(&run))).into_response(),
        Waited::Gone => Json(ended(&app, &owner, None)).into_response(),
        Waited::Late(run) => {
            let pending = pending(&owner, &run);
            let location = HeaderValue::from_str(&pending.url).unwrap_or(HeaderValue::from_static("/"));
            (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(pending)).into_response()
        }
    };
    if hurry && response.status() == StatusCode::ACCEPTED {
        response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    }
    Ok(response)
}

/// Finds or creates the run that `who` asks for.
pub async fn start(app: &App, who: &Identity, phase: Phase, request: RunRequest, key: Option<&str>) -> Result<PatchRun, Problem> {
    let now = clock::now();
    let key = key.map(|key| Key::new(&who.username, key, request.digest(phase)));
    let configuration = app
        .configuration
        .borrow()
        .clone()
        .map_err(|invalid| Problem::unavailable(&format!("an administrator must correct the configuration: {invalid}")))?;
    let wanted = request.resolve(phase, configuration.defaults.of(&who.username, who.groups()), now);
    let wanted = wanted.map_err(|refused| Problem::unprocessable(refused.0))?;
    let Ok(_) = Owner::new(&wanted.namespace, wanted.base()) else {
        return Err(Problem::unprocessable("namespace is not the name of a namespace: lower-case letters, digits and dashes"));
    };
    if !app.auth.may(who, "create", Some(&wanted.namespace), None).await? {
        let namespace = &wanted.namespace;
        return Err(Problem::new(StatusCode::FORBIDDEN, format!("you may not create PatchRuns in the namespace {namespace}")));
    }
    match tokio::time::timeout(CREATION, create(app, who, &wanted, key.as_ref(), now)).await {
        Ok(created) => created,
        Err(_) => Err(Problem::unavailable("that took too long; repeat the request: it joins the run when that was created")),
    }
}

async fn create(app: &App, who: &Identity, wanted: &Wanted, key: Option<&Key>, now: Timestamp) -> Result<PatchRun, Problem> {
    let api = Api::<PatchRun>::namespaced(app.client.clone(), &wanted.namespace);
    // two requests with one key must not pass each other; everything else is settled by the names of objects
    let _alone = app.starting.lock().await;
    if let Some(key) = key
        && let Some(run) = of_key(&api, key, now).await?
    {
        return Ok(run);
    }
    if wanted.start_by.is_some_and(|start_by| start_by <= now) {
        return Err(Problem::unprocessable("start_by is over: nothing would be started"));
    }
    let base = wanted.base();
    let mut taken = BTreeSet::new();
    for _ in 0..TRIES {
        let listed = labelled(&api, names::REQUEST, &wanted.content()).await?;
        if let Some(run) = listed.iter().rev().find(|run| wanted.is_joined_by(run)) {
            tracing::info!(user = %who.username, namespace = %wanted.namespace, name = %run.name_any(), "run joined");
            return Ok(run.clone());
        }
        // a name whose object is gone would give what it did back, and do nothing
        let archived = app.archive.runs_of(&wanted.namespace).await?;
        let names = listed.iter().filter_map(|run| run.metadata.name.as_deref()).chain(archived.iter().map(String::as_str));
        let number = next_number(&base, names.chain(taken.iter().map(String::as_str)));
        let object = wanted.object(number, &who.username, key);
        match api.create(&PostParams::default(), &object).await {
            Ok(run) => {
                tracing::info!(user = %who.username, namespace = %wanted.namespace, name = %run.name_any(), "run created");
                return Ok(run);
            }
            // somebody was faster: the next look finds it by its label, or passes its name by
            Err(kube::Error::Api(status)) if status.code == 409 => drop(taken.insert(object.name_any())),
            Err(error) => return Err(refused(&wanted.namespace, &error)),
        }
    }
    Err(Problem::unavailable("others create the same run in this moment; try again"))
}

/// The run that this key stands for.
async fn of_key(api: &Api<PatchRun>, key: &Key, now: Timestamp) -> Result<Option<PatchRun>, Problem> {
    let young = |run: &PatchRun| run.metadata.creation_timestamp.as_ref().is_none_or(|at| now.duration_since(at.0) < KEY_TTL);
    let Some(run) = labelled(api, names::IDEMPOTENCY_KEY, &key.hash).await?.into_iter().rfind(young) else { return Ok(None) };
    if run.labels().get(names::IDEMPOTENT_REQUEST) == Some(&key.request) {
        return Ok(Some(run));
    }
    Err(Problem::unprocessable("this Idempotency-Key was sent with another request: use a new key for a new request"))
}

/// The runs with that label, oldest first; from the API server itself, which has no old answers.
async fn labelled(api: &Api<PatchRun>, label: &str, value: &str) -> Result<Vec<PatchRun>, Problem> {
    let mut found = api.list(&ListParams::default().labels(&format!("{label}={value}"))).await.map_err(|error| {
        tracing::error!(%error, "PatchRuns cannot be listed");
        Problem::unavailable("the Kubernetes API server does not answer")
    })?;
    found.items.sort_by_key(|run| (run.metadata.creation_timestamp.as_ref().map(|at| at.0), run.name_any().len(), run.name_any()));
    Ok(found.items)
}

/// Why the API server did not create it, in its own words.
fn refused(namespace: &str, error: &kube::Error) -> Problem {
    const MESSAGE: usize = 2000;
    if let kube::Error::Api(status) = error
        && matches!(status.code, 400 | 403 | 404 | 422)
    {
        let said: String = status.message.chars().filter(|c| !c.is_control()).take(MESSAGE).collect();
        tracing::warn!(namespace, code = status.code, said, "the API server refuses a PatchRun");
        return Problem::unprocessable(format!("the API server refuses it: {said}"));
    }
    tracing::error!(namespace, %error, "a PatchRun cannot be created");
    Problem::unavailable("the Kubernetes API server does not answer; repeat the request: it joins the run when that was created")
}

/// The name of a run that exists.
pub(super) fn owner(run: &PatchRun) -> Result<Owner, Problem> {
    Ok(Owner::new(run.namespace().unwrap_or_default(), run.name_any())?)
}

/// Whether it came to its end.
pub(super) fn is_over(run: &PatchRun) -> bool {
    run.status.as_ref().is_some_and(|status| status.state == RunState::Completed)
}

/// The end of a run; of an object that is gone nothing is proven.
pub(super) fn ended(app: &App, owner: &Owner, run: Option<&PatchRun>) -> Ended {
    let status = run.and_then(|run| run.status.as_ref());
    if status.is_some_and(|status| status.result == Some(RunResult::Ok)) {
        return Ended::Ok;
    }
    let log_url = status.and_then(|status| status.log_url.clone()).unwrap_or_else(|| {
        let server = app.configuration.borrow().as_ref().map(|c| c.server_url.clone()).unwrap_or_default();
        format!("{server}{}", path(owner))
    });
    Ended::Error { log_url }
}

fn path(owner: &Owner) -> String {
    format!("/api/runs/{}/{}", owner.namespace, owner.name)
}

/// How a run that is not over stands, and what to do.
pub(super) fn pending(owner: &Owner, run: &PatchRun) -> Pending {
    let status = run.status.clone().unwrap_or_default();
    let condition = status.conditions.into_iter().find(|c| c.type_ == "Succeeded");
    let url = path(owner);
    let remedy = condition.as_ref().and_then(|c| Reason::parse(&c.reason)).map(Reason::remedy).unwrap_or_default();
    let follow = format!("Follow it at {url} or {url}/events, or repeat this request: it waits on.");
    Pending {
        namespace: owner.namespace.clone(),
        name: owner.name.clone(),
        state: status.state,
        reason: condition.as_ref().map(|c| c.reason.clone()),
        message: condition.map(|c| c.message),
        next: format!("{remedy} {follow}").trim_start().to_owned(),
        url,
    }
}

/// How long to wait: as asked for, and no longer than it may be.
fn wait(given: Option<&str>, most: Duration) -> Result<Duration, Problem> {
    let Some(given) = given else { return Ok(most) };
    let seconds = Some(given).filter(|text| text.bytes().all(|b| b.is_ascii_digit())).and_then(|text| text.parse().ok());
    let span =
        || Some(given).filter(|text| text.len() <= 16).and_then(|text| Span(text.to_owned()).get()).map(SignedDuration::unsigned_abs);
    let wait = seconds.map(Duration::from_secs).or_else(span);
    wait.map(|wait| wait.min(most)).ok_or_else(|| Problem::unprocessable("wait must be seconds, or a length of time such as 90s or 15m"))
}

fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all(PREFER).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case("respond-async"))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Ok(None) };
    let key =
        value.to_str().ok().filter(|key| more.is_none() && (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
    key.map(|key| Some(key.to_owned()))
        .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "Idempotency-Key must be given once, with 1 to 255 visible ASCII characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_answers_are_exactly_these() {
        assert_eq!(serde_json::to_string(&Ended::Ok).unwrap(), r#"{"status":"OK"}"#);
        let error = Ended::Error { log_url: "https://x/y".into() };
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"status":"ERROR","log_url":"https://x/y"}"#);
    }

    #[test]
    fn waiting_is_seconds_or_a_span() {
        let most = Duration::from_mins(15);
        for (given, seconds) in
            [(None, 900), (Some("0"), 0), (Some("30"), 30), (Some("1m30s"), 90), (Some("15m"), 900), (Some("901"), 900), (Some("2h"), 900)]
        {
            assert_eq!(wait(given, most).unwrap(), Duration::from_secs(seconds), "{given:?}");
        }
        for bad in ["", "soon", "-1", "-5m", "99999999999999999999", "1.5"] {
            assert_eq!(wait(Some(bad), most).unwrap_err().status(), StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        }
    }

    #[test]
    fn a_preference_is_found_among_others() {
        let headers = |value: &str| [(PREFER, value.parse().unwrap())].into_iter().collect::<HeaderMap>();
        assert!(prefers_async(&headers("wait=5, Respond-Async")));
        assert!(!prefers_async(&headers("respond-asynchronously")) && !prefers_async(&HeaderMap::new()));
    }
}
