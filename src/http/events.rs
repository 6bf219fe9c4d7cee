//! `GET /api/runs/{namespace}/{name}/events`: a run as it goes on, as server-sent events.
//!
//! | event | data | when |
//! |---|---|---|
//! | `state` | [`StateEvent`] | at once, and on every change |
//! | `hosts` | [`HostsEvent`] | when the hosts of a phase are known, and on every change |
//! | `log` | [`LogEvent`] | in pieces, when the log of a phase is archived |
//! | `end` | [`EndEvent`] | last |
//!
//! Pieces of logs carry an id (phase key and offset); a client that comes back with `Last-Event-ID` gets what follows, nothing twice. After
//! `end` it gets 204, which ends its tries. A comment goes out every 15 seconds. A reader who takes nothing is cut off.

use std::{convert::Infallible, ops::ControlFlow, sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, StatusCode};
use kube::Api;
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use utoipa::ToSchema;

use super::{App, auth::Identity, problem::Problem, rates::Kind, start::is_over};
use crate::{
    api::patch_run::{FailedHost, HostCounts, PatchRun, PatchRunStatus, Phase, RunResult, State as RunState},
    archive::{Key, Owner},
};

/// Bytes of a log in one event at most.
const PIECE: usize = 16 << 10;
/// Events that wait for the reader at most.
const WAITING: usize = 4;
/// How often it is asked whether the reader still may see this.
const REVIEW: Duration = Duration::from_mins(1);
/// How long a client shall wait before it comes back.
const RETRY: Duration = Duration::from_secs(3);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Where the run stands.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StateEvent {
    /// Where it stands.
    pub state: RunState,
    /// The phase that runs or waits, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it stands there, from the documented set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `OK` or `ERROR`; absent until the run is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// Hosts that ended well in the current phase, of all hosts of the run, for example `3/3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<String>,
}

impl From<&PatchRunStatus> for StateEvent {
    fn from(status: &PatchRunStatus) -> Self {
        let succeeded = status.conditions.iter().find(|c| c.type_ == "Succeeded");
        Self {
            state: status.state,
            phase: status.phase,
            reason: succeeded.map(|c| c.reason.clone()),
            message: succeeded.map(|c| c.message.clone()),
            result: status.result,
            hosts: status.hosts.clone(),
        }
    }
}

/// The hosts of a phase.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HostsEvent {
    /// The phase.
    pub phase: Phase,
    /// Hosts by outcome.
    pub counts: HostCounts,
    /// The hosts that did not end well (the first twenty).
    pub failed: Vec<FailedHost>,
}

/// A piece of a log.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LogEvent {
    /// The phase.
    pub phase: Phase,
    /// Id of the log.
    pub log: String,
    /// Bytes of the log before this piece.
    pub offset: u64,
    /// Whole lines, unless one is longer than 16 KiB. Bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Nothing follows.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndEvent {
    /// `OK` or `ERROR`; absent when the object is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// Where the log can be downloaded.
    #[serde(rename = "logURL", skip_serializing_if = "Option::is_none")]
    pub log_url: Option<String>,
    /// The object was deleted.
    pub gone: bool,
}

/// One event, as it is described; [`Event`] is how it is sent.
#[derive(ToSchema)]
#[schema(as = ServerSentEvent)]
pub struct Described {
    /// `state`, `hosts`, `log` or `end`.
    #[schema(pattern = "^(state|hosts|log|end)$")]
    pub event: String,
    /// JSON: a `StateEvent`, `HostsEvent`, `LogEvent` or `EndEvent`.
    pub data: String,
    /// Of pieces of logs and of the end: what `Last-Event-ID` may say.
    pub id: Option<String>,
    /// Milliseconds after which a client that was cut off shall come back.
    pub retry: Option<u64>,
}

/// What a client says it got last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Last {
    /// A log up to that offset.
    Log(Key, u64),
    /// The end of the run of that key.
    End(String),
}

impl Last {
    /// Reads `Last-Event-ID`; what we did not send counts as nothing.
    fn parse(text: &str) -> Option<Self> {
        let (key, at) = text.split_once(':')?;
        match at {
            "end" => Some(Self::End(key.to_owned())),
            offset => Some(Self::Log(Key::parse(key).ok()?, offset.parse().ok()?)),
        }
    }
}

/// Follows a run
///
/// Server-sent events: `state` (`StateEvent`) at once and on every change, `hosts` (`HostsEvent`), `log` (`LogEvent`) when the log of a phase is
/// archived, and `end` (`EndEvent`). A comment comes every 15 seconds.
#[utoipa::path(
    get,
    path = "/api/runs/{namespace}/{name}/events",
    params(
        ("namespace" = String, Path, description = "Namespace of the PatchRun", example = "patching"),
        ("name" = String, Path, description = "Its name", example = "web"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was received: the log goes on after it"),
    ),
    responses(
        (status = 200, description = "The events, until the run is over.", body = Described, content_type = "text/event-stream"),
        (status = 204, description = "The client has heard the end."),
    ),
)]
pub async fn get(
    State(app): State<Arc<App>>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let who = app.caller(&headers, Kind::Read).await?;
    let owner = Owner::new(namespace, name).map_err(|_| Problem::not_found())?;
    if !app.auth.may_get(&who, Some(&owner)).await? {
        return Err(Problem::forbidden());
    }
    let run = Api::<PatchRun>::namespaced(app.client.clone(), &owner.namespace).get_opt(&owner.name).await.map_err(|error| {
        tracing::error!(%error, %owner, "the PatchRun cannot be read");
        Problem::unavailable("the Kubernetes API server does not answer")
    })?;
    let run = run.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no such PatchRun now; what is on record is at /api/runs"))?;
    let last = headers.get(LAST_EVENT_ID).and_then(|v| v.to_str().ok()).and_then(Last::parse);
    if let Some(Last::End(key)) = &last
        && is_over(&run)
        && run.status.as_ref().and_then(|status| status.run_key.as_ref()) == Some(key)
    {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let place = app.followers.enter(&who.username)?;
    let (send, events) = mpsc::channel(WAITING);
    let heartbeat = KeepAlive::new().interval(app.heartbeat);
    tokio::spawn(async move {
        let _place = place;
        let (stopping, reader) = (app.stopping.clone(), send.clone());
        let teller = Teller { app, who, owner, send, state: None, hosts: vec![], last };
        tokio::select! {
            () = teller.tell(Arc::new(run)) => {}
            () = reader.closed() => {}
            () = stopping.cancelled() => {}
        }
    });
    let events = futures::stream::unfold(events, async |mut events| events.recv().await.map(|event| (Ok::<_, Infallible>(event), events)));
    Ok(Sse::new(events).keep_alive(heartbeat).into_response())
}

/// Tells one reader about one run.
struct Teller {
    app: Arc<App>,
    who: Identity,
    owner: Owner,
    send: mpsc::Sender<Event>,
    state: Option<StateEvent>,
    hosts: Vec<HostsEvent>,
    last: Option<Last>,
}

/// Whether the reader is still there.
type Goes = ControlFlow<()>;

impl Teller {
    async fn tell(mut self, mut run: Arc<PatchRun>) {
        let mut changes = self.app.runs.changes();
        let mut review = Instant::now() + REVIEW;
        let mut seen = false;
        loop {
            changes.mark_unchanged();
            match self.app.runs.get(&self.owner) {
                Some(current) => (run, seen) = (current, true),
                None if seen => {
                    let _ = self.event("end", None, &EndEvent { result: None, log_url: None, gone: true }).await;
                    return;
                }
                None => {}
            }
            if self.all_of(&run).await.is_break() {
                return;
            }
            if timeout_at(review, changes.changed()).await.is_err() {
                if !matches!(self.app.auth.may_get(&self.who, Some(&self.owner)).await, Ok(true)) {
                    return;
                }
                review = Instant::now() + REVIEW;
            }
        }
    }

    /// Tells what is new; breaks after the end.
    async fn all_of(&mut self, run: &PatchRun) -> Goes {
        let status = run.status.clone().unwrap_or_default();
        let state = StateEvent::from(&status);
        if self.state.as_ref() != Some(&state) {
            self.event("state", None, &state).await?;
            self.state = Some(state);
        }
        for phase in &status.phases {
            if let Some(counts) = phase.hosts {
                let hosts = HostsEvent { phase: phase.name, counts, failed: phase.failed_hosts.clone() };
                if !self.hosts.contains(&hosts) {
                    self.event("hosts", None, &hosts).await?;
                    self.hosts.retain(|told| told.phase != hosts.phase);
                    self.hosts.push(hosts);
                }
            }
            if let Some(log) = &phase.log {
                self.log(&log.id).await?;
            }
        }
        if is_over(run) {
            let id = format!("{}:end", status.run_key.unwrap_or_default());
            self.event("end", Some(id), &EndEvent { result: status.result, log_url: status.log_url, gone: false }).await?;
            return Goes::Break(());
        }
        Goes::Continue(())
    }

    /// Tells what follows of a log. A log that a status names is sealed.
    ///
    /// Lines of a phase that still runs would be told here too, from where the manager puts them.
    async fn log(&mut self, id: &str) -> Goes {
        let Ok(key) = Key::parse(id) else { return Goes::Continue(()) };
        let mut offset = match &self.last {
            Some(Last::Log(told, _)) if told.run_key() == key.run_key() && told.phase() > key.phase() => return Goes::Continue(()),
            Some(Last::Log(told, offset)) if *told == key => *offset,
            Some(_) | None => 0,
        };
        let opened = match self.app.archive.open_log(&key, Some(offset..u64::MAX)).await {
            Ok(Some(opened)) => opened,
            // its retention is over
            Ok(None) => return Goes::Continue(()),
            Err(error) => {
                tracing::warn!(%error, %key, "a log cannot be told");
                return Goes::Break(());
            }
        };
        let (mut stream, mut buffer) = (opened.stream, BytesMut::new());
        loop {
            let more = stream.next().await;
            let ended = more.is_none();
            match more {
                Some(Ok(bytes)) => buffer.extend_from_slice(&bytes),
                // the reader comes back and goes on where this breaks off
                Some(Err(_)) => return Goes::Break(()),
                None => {}
            }
            while let Some(piece) = piece(&mut buffer, ended) {
                let text = String::from_utf8_lossy(&piece).into_owned();
                let event = LogEvent { phase: key.phase(), log: key.to_string(), offset, text };
                offset += piece.len() as u64;
                self.event("log", Some(format!("{key}:{offset}")), &event).await?;
                self.last = Some(Last::Log(key.clone(), offset));
            }
            if ended {
                self.last = Some(Last::Log(key, offset));
                return Goes::Continue(());
            }
        }
    }

    async fn event(&self, name: &str, id: Option<String>, data: &(impl Serialize + Sync)) -> Goes {
        let Ok(mut event) = Event::default().event(name).retry(RETRY).json_data(data) else { return Goes::Break(()) };
        if let Some(id) = id {
            event = event.id(id);
        }
        match timeout(self.app.idle, self.send.send(event)).await {
            Ok(Ok(())) => Goes::Continue(()),
            Ok(Err(_)) | Err(_) => Goes::Break(()),
        }
    }
}

/// Takes the next piece: whole lines, or, of a line that is too long, whole characters. `None` when more must be read first.
fn piece(buffer: &mut BytesMut, ended: bool) -> Option<Bytes> {
    let most = buffer.len().min(PIECE);
    if most == 0 || (buffer.len() < PIECE && !ended) {
        return None;
    }
    let whole = most == buffer.len() && ended;
    let line = || buffer[..most].iter().rposition(|b| *b == b'\n').map(|at| at + 1);
    // a character has at most four bytes; what is no character is cut anywhere
    let character =
        || (most.saturating_sub(3)..=most).rev().find(|at| buffer.get(*at).is_none_or(|b| b & 0xC0 != 0x80)).filter(|at| *at > 0);
    let length = if whole { most } else { line().or_else(character).unwrap_or(most) };
    Some(buffer.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_we_sent_is_gone_on_from() {
        let key = "v1-abcdefghijklmnopq234-apply";
        assert_eq!(Last::parse(&format!("{key}:17")), Some(Last::Log(Key::parse(key).unwrap(), 17)));
        assert_eq!(Last::parse("v1-abc:end"), Some(Last::End("v1-abc".into())));
        for bad in ["", "17", "x:17", &format!("{key}:-1"), &format!("{key}:"), &format!("{key}:1:2")] {
            assert_eq!(Last::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_the_log_in_order_and_small(lines in prop::collection::vec("[a-zäß€😀]{0,9000}", 0..12), step in 1..40_000usize) {
            let log = lines.join("\n").into_bytes();
            let (mut buffer, mut got, mut text) = (BytesMut::new(), Vec::new(), String::new());
            let mut take = |buffer: &mut BytesMut, ended| {
                while let Some(piece) = piece(buffer, ended) {
                    assert!(!piece.is_empty() && piece.len() <= PIECE);
                    text.push_str(&String::from_utf8_lossy(&piece));
                    got.extend_from_slice(&piece);
                }
            };
            for chunk in log.chunks(step) {
                buffer.extend_from_slice(chunk);
                take(&mut buffer, false);
            }
            take(&mut buffer, true);
            prop_assert_eq!(&got, &log);
            prop_assert_eq!(text.into_bytes(), log, "no character is cut");
        }
    }
}
