//! What stands between the manager and the controller: counts calls, and hurries schedules.

use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822};

use crate::calls::{Calls, Outcome};

/// A proxy on a port of its own; ends with its runtime.
#[derive(Clone)]
pub struct Proxy {
    pub url: String,
    state: Shared,
}

type Shared = Arc<Mutex<Inside>>;

/// Answers a request in the controller's place, or lets it pass.
pub type Stranger = Arc<dyn Fn(&Parts) -> Option<Response> + Send + Sync>;

struct Inside {
    target: String,
    calls: Arc<Calls>,
    client: reqwest::Client,
    traceparents: Vec<(String, String)>,
    stranger: Option<Stranger>,
}

impl Proxy {
    pub async fn start(target: &str) -> Self {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        let state = Inside { target: target.to_owned(), calls: Arc::default(), client, traceparents: vec![], stranger: None };
        let state = Arc::new(Mutex::new(state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    /// From now on calls are those of this manager.
    pub fn count_for(&self, calls: Arc<Calls>) {
        self.state.lock().unwrap().calls = calls;
    }

    /// From now on calls go there.
    pub fn lead_to(&self, target: &str) {
        target.clone_into(&mut self.state.lock().unwrap().target);
    }

    /// From now on somebody else may answer first, or nobody.
    pub fn intercept(&self, stranger: Option<Stranger>) {
        self.state.lock().unwrap().stranger = stranger;
    }

    /// Every call so far, with the trace it said it belongs to; empty when it said nothing.
    pub fn traceparents(&self) -> Vec<(String, String)> {
        self.state.lock().unwrap().traceparents.clone()
    }
}

async fn forward(State(state): State<Shared>, request: Request) -> Response {
    let (target, calls, client, stranger) = {
        let inside = state.lock().unwrap();
        (inside.target.clone(), inside.calls.clone(), inside.client.clone(), inside.stranger.clone())
    };
    let (parts, body) = request.into_parts();
    if let Some(answer) = stranger.and_then(|stranger| stranger(&parts)) {
        return answer;
    }
    let body = to_bytes(body, 16 << 20).await.unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let what = format!("AAP {} {}", parts.method, parts.uri.path());
    let traceparent = parts.headers.get("traceparent").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    state.lock().unwrap().traceparents.push((what.clone(), traceparent));
    let call = async move {
        let mut out = client.request(parts.method.clone(), format!("{target}{path}")).body(body);
        for (name, value) in parts.headers.iter().filter(|(name, _)| **name != header::HOST && **name != header::CONTENT_LENGTH) {
            out = out.header(name, value);
        }
        let Ok(answer) = out.send().await else {
            return Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).unwrap();
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut response = Response::new(Body::from(answer.bytes().await.unwrap_or_default()));
        *response.status_mut() = status;
        for (name, value) in headers.iter().filter(|(name, _)| **name != header::TRANSFER_ENCODING && **name != header::CONNECTION) {
            response.headers_mut().append(name, value.clone());
        }
        hurry(&mut response);
        response
    };
    match calls.pass(&what, call).await {
        Outcome::Answer(response) => response,
        Outcome::Half(response) => broken_off(response).await,
        Outcome::Status(code) => Response::builder().status(code).body(Body::from("<h1>somebody between answers</h1>")).unwrap(),
        Outcome::Broken => broken_off(Response::new(Body::empty())).await,
    }
}

/// The answer up to its middle; then the connection breaks.
async fn broken_off(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let mut bytes = to_bytes(body, 64 << 20).await.unwrap_or_default();
    bytes.truncate(bytes.len() / 2);
    parts.headers.remove(header::CONTENT_LENGTH);
    let rest = futures::stream::iter([Ok(bytes), Err(io::Error::from(io::ErrorKind::ConnectionReset))]);
    Response::from_parts(parts, Body::from_stream(rest))
}

/// Sets the date back by two seconds, so that a schedule that is set five ahead of it fires in three.
fn hurry(response: &mut Response) {
    let date = response
        .headers()
        .get(header::DATE)
        .and_then(|v| v.to_str().ok())
        .and_then(|text| rfc2822::DateTimeParser::new().parse_timestamp(text).ok());
    if let Some(early) = date.and_then(|date: Timestamp| date.checked_sub(SignedDuration::from_secs(2)).ok())
        && let Ok(text) = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&early)
        && let Ok(value) = HeaderValue::from_str(&text)
    {
        response.headers_mut().insert(header::DATE, value);
    }
}
