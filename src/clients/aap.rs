//! The API of an Ansible Automation Platform (AAP) or AWX controller.
//!
//! [`Aap`] talks to one controller with one credential. Every call makes a bounded number of requests, none is repeated, and every answer carries the
//! controller's own time. Errors say whether a request can have had an effect ([`Error::is_ambiguous`]). One [`Gate`] per controller, shared by all
//! its clients, bounds the requests under way and their rate.
//!
//! ```no_run
//! use fettle::api::shared::NameOrId;
//! use fettle::clients::{aap::{self, Aap, Credentials, Needs, Settings}, http::UrlPolicy};
//!
//! # async fn example(now: jiff::Timestamp) -> Result<(), Box<dyn std::error::Error>> {
//! let aap = Aap::new(Settings {
//!     url: "https://aap.example.com".into(),
//!     api_prefix: None, // found by asking
//!     credentials: Credentials::from_secret(|key| (key == "token").then(|| b"s3cret".to_vec()))?,
//!     policy: UrlPolicy::default(),
//!     ca_bundle: None,
//!     gate: aap::Gate::default(), // in the operator: one per controller
//!     observer: None,
//! })?;
//! let controller = aap.discover().await?;
//! println!("{} {}", controller.value.flavour, controller.value.version);
//! let template = aap.template(&NameOrId::Name("fettle-apply".into())).await?.value;
//! let problems = aap::preflight(&template, &Needs { inventory: 2, launches: true });
//! assert!(problems.iter().all(|p| !p.blocks));
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use reqwest::Url;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::{OnceCell, OwnedSemaphorePermit};
use uuid::Uuid;

use super::http::{self as wire, Client, SetupError, UrlPolicy};

mod error;
mod gate;
mod inventory;
mod jobs;
mod preflight;
mod schedules;
mod stdout;
mod templates;
mod types;

pub use error::{Doubt, DoubtCause, Error, ErrorKind, NotSent, NotSentStage};
pub use gate::Gate;
pub use preflight::{Needs, Problem, preflight};
pub use stdout::Stdout;
pub use types::{
    Answer, Cancel, Controller, CreateSchedule, Flavour, HostEvents, HostSummary, Inventory, InventoryHost, Job, JobHosts, JobKind,
    JobStatus, LaunchRequest, Launched, Schedule, ScheduleRequest, Template, User,
};

/// Name of the variable that carries the phase key: by it a job is found again.
pub const RUN_KEY: &str = "fettle_run_key";

/// The result of a call.
pub type Result<T> = std::result::Result<Answer<T>, Error>;

/// The most bytes of an ordinary answer.
const LIMIT: usize = 16 << 20;
/// The most bytes of an answer that grows with the inventory or with the output of tasks.
const LARGE: usize = 64 << 20;
/// The most pages that are read of one list.
const PAGES: usize = 60;
/// How long a request that changes something waits for others to end before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Text that is never shown: not by `Debug`, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody: only `discover` works.
    Anonymous,
    /// A token of a user. A hundred times cheaper for the controller than a password.
    Token(Secret),
    /// A user and password.
    Basic {
        /// Login name.
        username: String,
        /// Password.
        password: Secret,
    },
}

/// The keys of a Secret do not make credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Keys are missing.
    #[error("the Secret must hold the key token, or the keys username and password")]
    Keys,
    /// A value cannot be sent.
    #[error("the key {0} of the Secret must be printable ASCII text")]
    Text(&'static str),
}

impl Credentials {
    /// Reads the keys `token`, or `username` and `password`, of a Secret. White space around a value is dropped: files end in line breaks.
    pub fn from_secret(get: impl Fn(&str) -> Option<Vec<u8>>) -> std::result::Result<Self, CredentialsError> {
        let text = |key: &'static str| match get(key) {
            None => Ok(None),
            Some(bytes) => match String::from_utf8(bytes).map(|t| t.trim().to_owned()) {
                Ok(text) if text.is_empty() => Ok(None),
                Ok(text) if text.chars().all(|c| !c.is_control()) && (key != "token" || text.is_ascii()) => Ok(Some(text)),
                _ => Err(CredentialsError::Text(key)),
            },
        };
        if let Some(token) = text("token")? {
            return Ok(Self::Token(Secret(token)));
        }
        match (text("username")?, text("password")?) {
            (Some(username), Some(password)) => Ok(Self::Basic { username, password: Secret(password) }),
            _ => Err(CredentialsError::Keys),
        }
    }

    /// Tells credentials apart without showing them: a digest.
    pub fn fingerprint(&self) -> String {
        let header = self.header();
        crate::names::sha256_hex(header.as_ref().map_or(&[][..], HeaderValue::as_bytes))
    }

    fn header(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::Anonymous => return None,
            Self::Token(token) => format!("Bearer {}", token.0),
            Self::Basic { username, password } => {
                format!("Basic {}", BASE64.encode(format!("{username}:{}", password.0).as_bytes()))
            }
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Takes the secret out of a text that a server made: one that is hostile may send back what it was sent.
    fn redact(&self, text: &str) -> String {
        let hide = |secret: &str| {
            if secret.len() < 4 { text.to_owned() } else { text.replace(secret, "…") }
        };
        match self {
            Self::Anonymous => text.to_owned(),
            Self::Token(token) => hide(&token.0),
            Self::Basic { username, password } => {
                let encoded = BASE64.encode(format!("{username}:{}", password.0).as_bytes());
                hide(&password.0).replace(&encoded, "…")
            }
        }
    }
}

/// One request, for metrics. All words are from small closed sets.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// HTTP method.
    pub method: &'static str,
    /// Path with `{id}` for numbers, for example `job_templates/{id}/launch/`.
    pub route: &'static str,
    /// `2xx` … `5xx`, `not_sent` or `no_answer`.
    pub code: &'static str,
    /// From the wish to the end of the answer (for a stream: to its status).
    pub elapsed: Duration,
}

/// Hears of every request.
pub type Observer = Arc<dyn Fn(&Observation) + Send + Sync>;

/// How to make an [`Aap`].
pub struct Settings {
    /// Scheme, host, optional port and optional path.
    pub url: String,
    /// Path of the API, for example `/api/controller/v2`. Default: found by asking, once.
    pub api_prefix: Option<String>,
    /// Who asks.
    pub credentials: Credentials,
    /// What the address may be.
    pub policy: UrlPolicy,
    /// PEM certificates to trust besides the system's.
    pub ca_bundle: Option<Vec<u8>>,
    /// Shared by all clients of this controller.
    pub gate: Gate,
    /// Hears of every request.
    pub observer: Option<Observer>,
}

/// A controller, and the credentials to talk to it. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Aap {
    inner: Arc<Inner>,
}

struct Inner {
    http: Client,
    authorization: Option<HeaderValue>,
    credentials: Credentials,
    prefix: OnceCell<String>,
    gate: Gate,
    observer: Option<Observer>,
}

impl fmt::Debug for Aap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aap").field("base", &self.inner.http.base().as_str()).finish_non_exhaustive()
    }
}

/// A request to be made.
struct Call {
    method: Method,
    /// Path below the API prefix, with `{id}` for the number.
    route: &'static str,
    id: Option<i64>,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    limit: usize,
    /// From the first byte to the last one of the answer.
    deadline: Duration,
    accept: &'static str,
    /// What it is for, as errors tell it.
    action: String,
}

impl Call {
    fn get(route: &'static str, action: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            route,
            id: None,
            query: vec![],
            body: None,
            limit: LIMIT,
            deadline: wire::READ_DEADLINE,
            accept: "application/json",
            action: action.into(),
        }
    }

    fn write(method: Method, route: &'static str, body: Option<Value>, action: impl Into<String>) -> Self {
        Self { method, body, deadline: wire::WRITE_DEADLINE, ..Self::get(route, action) }
    }

    fn id(mut self, id: i64) -> Self {
        self.id = Some(id);
        self
    }

    fn query(mut self, key: &'static str, value: impl Into<Param>) -> Self {
        self.query.push((key, value.into().0));
        self
    }

    fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// An answer with a status of the 200s.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    meta: Meta,
}

/// What every error about an answer needs.
#[derive(Clone, Default)]
struct Meta {
    action: String,
    request_id: Option<Uuid>,
    retry_after: Option<Duration>,
    date: Option<Timestamp>,
}

impl Meta {
    fn error(self, kind: ErrorKind) -> Error {
        Error {
            action: error::one_line(&self.action).into(),
            kind,
            request_id: self.request_id,
            retry_after: self.retry_after,
            date: self.date,
        }
    }
}

impl Reply {
    /// Reads the body. What it holds never reaches the error: it may be a password of a host.
    fn json<T: DeserializeOwned>(self) -> Result<T> {
        match serde_json::from_slice(&self.body) {
            Ok(value) => Ok(Answer { value, date: self.meta.date }),
            Err(e) => {
                let what = match e.classify() {
                    serde_json::error::Category::Data => "lacks a field, or has one of another kind than documented",
                    serde_json::error::Category::Syntax | serde_json::error::Category::Io => "is not JSON",
                    serde_json::error::Category::Eof => "ends too early",
                };
                let detail = format!("the answer {what} (line {}, column {})", e.line(), e.column());
                Err(self.meta.error(ErrorKind::malformed(detail)))
            }
        }
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    results: Vec<T>,
    #[serde(default)]
    next: Option<String>,
}

/// What the root of an API says.
#[derive(Deserialize)]
struct Root {
    available_versions: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Ping {
    version: String,
    install_uuid: String,
    #[serde(default, deserialize_with = "types::or_default")]
    instances: Vec<Instance>,
}

#[derive(Deserialize)]
struct Instance {
    #[serde(default)]
    heartbeat: Option<Timestamp>,
    #[serde(default, deserialize_with = "types::or_default")]
    capacity: i64,
}

impl Aap {
    /// Makes a client. Nothing is sent yet.
    pub fn new(settings: Settings) -> std::result::Result<Self, SetupError> {
        let http = Client::new(&wire::Settings { base: settings.url, policy: settings.policy, ca_bundle: settings.ca_bundle })?;
        let prefix = settings.api_prefix.map(|p| format!("/{}", p.trim_matches('/')));
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                authorization: settings.credentials.header(),
                credentials: settings.credentials,
                prefix: OnceCell::new_with(prefix),
                gate: settings.gate,
                observer: settings.observer,
            }),
        })
    }

    /// Finds the API and asks who answers there. Works without credentials.
    pub async fn discover(&self) -> Result<Controller> {
        let api_prefix = self.prefix().await?.to_owned();
        let reply = self.call(Call::get("ping/", "asking the controller for its version")).await?;
        let product = reply.headers.get("X-API-Product-Name").and_then(|v| v.to_str().ok()).map(str::to_ascii_lowercase);
        let flavour = match product.as_deref() {
            Some("awx") => Flavour::Awx,
            Some(_) => Flavour::Aap,
            None if api_prefix.ends_with("/api/controller/v2") => Flavour::Aap,
            None => Flavour::Awx,
        };
        Ok(reply.json::<Ping>()?.map(|ping| Controller {
            api_prefix,
            flavour,
            version: ping.version,
            install_uuid: ping.install_uuid,
            capacity: ping.instances.iter().map(|i| i.capacity.max(0)).sum(),
            heartbeat: ping.instances.iter().filter_map(|i| i.heartbeat).max(),
        }))
    }

    /// The user of the credentials: the cheap way to see whether they are accepted.
    pub async fn me(&self) -> Result<User> {
        let reply = self.call(Call::get("me/", "asking who the credentials belong to")).await?;
        let meta = reply.meta.clone();
        let page = reply.json::<Page<User>>()?;
        match page.value.results.into_iter().next() {
            Some(value) => Ok(Answer { value, date: page.date }),
            None => Err(meta.error(ErrorKind::malformed("the answer names no user"))),
        }
    }

    /// Address of a job's page for people.
    pub fn job_page(&self, kind: &JobKind, id: i64) -> String {
        let behind_gateway = self.inner.prefix.get().is_some_and(|p| p.contains("/controller/"));
        let kind = match kind {
            JobKind::Job | JobKind::Other(_) => "playbook",
            JobKind::WorkflowJob => "workflow",
        };
        let base = self.inner.http.base().as_str().trim_end_matches('/');
        let ui = if behind_gateway { "execution" } else { "#" };
        format!("{base}/{ui}/jobs/{kind}/{id}/output")
    }

    /// Path of the API: the given one, else the one the controller names, asked for once.
    async fn prefix(&self) -> std::result::Result<&str, Error> {
        self.inner.prefix.get_or_try_init(|| self.find_prefix()).await.map(String::as_str)
    }

    async fn find_prefix(&self) -> std::result::Result<String, Error> {
        const ACTION: &str = "looking for the API of the controller";
        let mut meta = Meta { action: ACTION.into(), ..Meta::default() };
        let mut rejected = None;
        for (root, route) in [("/api/controller", "/api/controller/"), ("/api", "/api/")] {
            let found = async { self.call_below("", Call::get(route, ACTION)).await?.json::<Root>() }.await;
            match found {
                Ok(answer) if answer.value.available_versions.contains_key("v2") => {
                    return Ok(format!("{root}/v2"));
                }
                Ok(answer) => meta.date = answer.date,
                Err(e) => match e.kind {
                    ErrorKind::Unauthorized | ErrorKind::Forbidden { .. } => rejected = Some(e),
                    ErrorKind::Ambiguous(Doubt { cause: DoubtCause::Malformed | DoubtCause::Status(300..=399), .. })
                    | ErrorKind::NotFound { .. }
                    | ErrorKind::NotUnique { .. }
                    | ErrorKind::Refused { .. } => {
                        // another path, or a page of something else in its place
                        meta.date = e.date;
                        meta.request_id = e.request_id;
                    }
                    ErrorKind::Unreachable(_) | ErrorKind::Ambiguous(_) => return Err(e),
                },
            }
        }
        if let Some(e) = rejected {
            return Err(e);
        }
        let message = "there is no AAP or AWX controller at this address: neither /api/controller/ nor /api/ names version v2; set apiPrefix if it lies elsewhere";
        Err(meta.error(ErrorKind::NotFound { message: message.into() }))
    }

    /// Makes a request below the API prefix and returns answers of the 200s.
    async fn call(&self, call: Call) -> std::result::Result<Reply, Error> {
        let prefix = match self.prefix().await {
            Ok(prefix) => prefix.to_owned(),
            Err(e) if call.method.is_safe() || e.is_definite() => return Err(e),
            // the doubt is about another request: this one was never made
            Err(e) => {
                let not_sent = NotSent { stage: NotSentStage::Discovery, detail: format!("{}: {}", e.action, e.kind) };
                return Err(Error { action: call.action.into(), kind: ErrorKind::Unreachable(not_sent), ..e });
            }
        };
        self.call_below(&prefix, call).await
    }

    async fn call_below(&self, prefix: &str, call: Call) -> std::result::Result<Reply, Error> {
        let url = self.url(prefix, &call);
        self.call_url(url, call).await
    }

    async fn call_url(&self, url: Url, call: Call) -> std::result::Result<Reply, Error> {
        let limit = call.limit;
        let (streamed, meta, _permit) = self.open(url, call).await?;
        let status = streamed.status;
        if !status.is_success() {
            return Err(self.refusal(streamed, meta, limit).await);
        }
        match streamed.rest(limit).await {
            Ok(response) => Ok(Reply { status, headers: response.headers, body: response.body, meta }),
            Err(failure) => Err(meta.error(failure.into())),
        }
    }

    /// What an answer outside the 200s means. The status counts even when the body is lost.
    async fn refusal(&self, streamed: wire::Streamed, mut meta: Meta, limit: usize) -> Error {
        let status = streamed.status;
        meta.retry_after = retry_after(&streamed.headers);
        let location = streamed.headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
        let text = match location.filter(|_| status.is_redirection()) {
            Some(location) => format!("redirects are not followed (to {})", self.destination(location)),
            None => match streamed.rest(limit).await {
                Ok(response) => error::message_of(&response.body),
                Err(failure) => failure.to_string(),
            },
        };
        let message = error::one_line(&self.inner.credentials.redact(&text));
        meta.error(ErrorKind::of_status(status.as_u16(), message))
    }

    /// Where a redirect leads, without what else it may carry: user, query and fragment.
    fn destination(&self, location: &str) -> String {
        let Ok(mut url) = self.inner.http.base().join(location) else { return "something that is no address".into() };
        url.set_query(None);
        url.set_fragment(None);
        // they fail where there can be no user
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.into()
    }

    /// Sends a request and returns as soon as its status is there.
    async fn open(&self, url: Url, call: Call) -> std::result::Result<(wire::Streamed, Meta, OwnedSemaphorePermit), Error> {
        let since = Instant::now();
        let method: &'static str = match call.method {
            Method::GET => "GET",
            Method::PATCH => "PATCH",
            _ => "POST",
        };
        let (route, reads) = (call.route, call.method.is_safe());
        let observe = |code| {
            if let Some(observer) = &self.inner.observer {
                observer(&Observation { method, route, code, elapsed: since.elapsed() });
            }
        };
        let request_id = Uuid::new_v4();
        let mut meta = Meta { action: call.action, request_id: Some(request_id), ..Meta::default() };

        let patience = if reads { wire::READ_DEADLINE } else { PATIENCE };
        let Ok(Ok(permit)) = tokio::time::timeout(patience, self.inner.gate.enter()).await else {
            observe("not_sent");
            let detail = "too many requests to it are under way".into();
            return Err(meta.error(ErrorKind::Unreachable(NotSent { stage: NotSentStage::Busy, detail })));
        };

        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(call.accept));
        // the texts of refusals are compared
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
        if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
            headers.insert(HeaderName::from_static("x-api-request-id"), value);
        }
        if let Some(value) = &self.inner.authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        let body = call.body.map(|body| {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Bytes::from(body.to_string())
        });
        let request = wire::Request { method: call.method, url, headers, body, deadline: call.deadline, limit: call.limit };

        let opened = self.inner.http.open(request).await;
        observe(match &opened {
            Ok(streamed) => match streamed.status.as_u16() {
                ..=299 => "2xx",
                300..=399 => "3xx",
                400..=499 => "4xx",
                500.. => "5xx",
            },
            Err(wire::Failure::NotSent { .. }) => "not_sent",
            Err(wire::Failure::NoAnswer { .. }) => "no_answer",
        });
        match opened {
            Ok(streamed) => {
                meta.date = date(&streamed.headers);
                Ok((streamed, meta, permit))
            }
            Err(failure) => Err(meta.error(failure.into())),
        }
    }

    fn url(&self, prefix: &str, call: &Call) -> Url {
        let mut url = self.inner.http.base().clone();
        let route = match call.id {
            Some(id) => call.route.replace("{id}", &id.to_string()),
            None => call.route.to_owned(),
        };
        let path = format!("{}{prefix}/{}", url.path().trim_end_matches('/'), route.trim_start_matches('/'));
        url.set_path(&path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        url
    }

    /// Reads one object.
    async fn read<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.call(call).await?.json()
    }

    /// Reads a list to its end, or to the bound on pages or on the bytes of all of them. Says whether the end was reached.
    async fn read_some<T: DeserializeOwned>(&self, call: Call, pages: usize) -> Result<(Vec<T>, bool)> {
        let prefix = self.prefix().await?.to_owned();
        let mut url = self.url(&prefix, &call);
        let mut rows = vec![];
        let mut date = None;
        let mut read = 0;
        for _ in 0..pages {
            let again = Call { limit: call.limit, deadline: call.deadline, ..Call::get(call.route, call.action.clone()) };
            let reply = self.call_url(url.clone(), again).await?;
            let meta = reply.meta.clone();
            read += reply.body.len();
            let page = reply.json::<Page<T>>()?;
            date = page.date.or(date);
            rows.extend(page.value.results);
            let Some(next) = page.value.next else {
                return Ok(Answer { value: (rows, true), date });
            };
            if read > call.limit {
                break;
            }
            url = next_page(&url, &next).map_err(|detail| meta.error(ErrorKind::malformed(detail)))?;
        }
        Ok(Answer { value: (rows, false), date })
    }

    /// Reads a list to its end; one that is longer than any Fettle has a use for is an error.
    async fn read_all<T: DeserializeOwned>(&self, call: Call) -> Result<Vec<T>> {
        let action = call.action.clone();
        let answer = self.read_some(call, PAGES).await?;
        let date = answer.date;
        let (value, complete) = answer.value;
        if complete {
            return Ok(Answer { value, date });
        }
        let doubt = Doubt { cause: DoubtCause::TooLarge, detail: format!("the list has more than {PAGES} pages, or too many bytes") };
        Err(Meta { action, date, ..Meta::default() }.error(ErrorKind::Ambiguous(doubt)))
    }
}

/// The value of a parameter.
struct Param(String);

impl From<&str> for Param {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Param {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<i64> for Param {
    fn from(number: i64) -> Self {
        Self(number.to_string())
    }
}

/// The address of the next page: the query of the link on the path that was asked. A link never leads anywhere else.
fn next_page(current: &Url, link: &str) -> std::result::Result<Url, &'static str> {
    let next = current.join(link).map_err(|_| "the link to the next page is not a link")?;
    if next.origin() != current.origin() {
        return Err("the link to the next page leaves the controller");
    }
    let mut url = current.clone();
    url.set_query(next.query());
    if url == *current {
        return Err("the link to the next page leads to the same page");
    }
    Ok(url)
}

/// The `Date` header.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// The `Retry-After` header, in seconds; at most an hour.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

#[cfg(test)]
mod tests;
