//! A server that does on the wire what a test says, and counts connections and requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, http::StatusCode, routing::post};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Do {
    /// Reads the request and closes.
    Close,
    /// Reads the request and resets.
    Reset,
    /// Sends these bytes; closes unless they are a complete answer.
    Bytes(Vec<u8>),
    /// Waits, then does that.
    Later(Duration, Box<Self>),
    /// Sends a body without an end.
    Endless,
}

/// A complete answer.
pub fn answer(status: u16, kind: &str, body: &str) -> Do {
    let head = format!(
        "HTTP/1.1 {status} X\r\nDate: Sat, 21 Nov 2026 08:00:00 GMT\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Do::Bytes([head.as_bytes(), body.as_bytes()].concat())
}

/// A complete answer of JSON.
pub fn json_answer(status: u16, body: &Value) -> Do {
    answer(status, "application/json", &body.to_string())
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// A parameter, decoded; empty when it is not there.
    pub fn query(&self, name: &str) -> String {
        let url = fettle::clients::http::Url::parse(&format!("http://x{}", self.target)).expect("a target");
        url.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned()).unwrap_or_default()
    }
}

type Script = dyn Fn(&Request) -> Do + Send + Sync;

/// A server on a free port; it ends with the runtime of the test.
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Box<Script>,
    hangs_up: Option<bool>,
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Wire {
    /// Does with each request what `script` says.
    pub async fn start(script: impl Fn(&Request) -> Do + Send + Sync + 'static) -> Self {
        Self::listen(Box::new(script), None).await
    }

    /// Ends each connection before reading anything, by a reset or by closing it.
    pub async fn hang_up(reset: bool) -> Self {
        Self::listen(Box::new(|_| Do::Close), Some(reset)).await
    }

    async fn listen(script: Box<Script>, hangs_up: Option<bool>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            script,
            hangs_up,
            connections: AtomicUsize::new(0),
            requests: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Arc::clone(&shared).serve(stream));
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// TCP connections so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Requests read so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().expect("no panic").clone()
    }

    /// The most requests that were under way at the same time.
    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

impl State {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        if let Some(reset) = self.hangs_up {
            if reset {
                let _ = stream.set_zero_linger();
            }
            return;
        }
        let mut buffer = vec![];
        while let Some(request) = read(&mut stream, &mut buffer).await {
            self.requests.lock().expect("no panic").push(request.clone());
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let mut action = (self.script)(&request);
            while let Do::Later(delay, then) = action {
                tokio::time::sleep(delay).await;
                action = *then;
            }
            self.now.fetch_sub(1, Ordering::SeqCst);
            match action {
                Do::Bytes(bytes) => {
                    if stream.write_all(&bytes).await.is_err() || !is_complete(&bytes) {
                        return;
                    }
                }
                Do::Reset => {
                    let _ = stream.set_zero_linger();
                    return;
                }
                Do::Endless => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                    let chunk = format!("10000\r\n{}\r\n", "1".repeat(0x1_0000));
                    while stream.write_all(chunk.as_bytes()).await.is_ok() {}
                    return;
                }
                Do::Close | Do::Later(..) => return,
            }
        }
    }
}

/// Whether an answer is whole: then the connection stays open, as with any server.
fn is_complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).and_then(|l| l.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let mut lines = head.lines();
            let mut first = lines.next()?.split(' ');
            let headers: Vec<(String, String)> =
                lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
            let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some(Request { method: first.next()?.to_owned(), target: first.next()?.to_owned(), headers, body });
            }
        }
        let mut part = [0; 8192];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&part[..n]),
        }
    }
}

/// A certificate authority of its own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// Certificate and key of a server, as PEM; it is valid until the first day of that year.
    pub fn issue(&self, name: &str, year: i32) -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        (params.signed_by(&key, &self.issuer).expect("certificate").pem(), key.serialize_pem())
    }
}

/// A TLS server that launches job 7 on any launch.
pub async fn tls_server((certificate, key): (String, String)) -> (Handle<SocketAddr>, SocketAddr) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = RustlsConfig::from_pem(certificate.into_bytes(), key.into_bytes()).await.expect("certificate");
    let launched = || async { (StatusCode::CREATED, Json(json!({"job": 7, "id": 7, "type": "job", "url": "/api/v2/jobs/7/"}))) };
    let router = Router::new().route("/api/v2/job_templates/{id}/launch/", post(launched));
    let handle = Handle::new();
    let server = axum_server::bind_rustls("127.0.0.1:0".parse().expect("address"), config).handle(handle.clone());
    tokio::spawn(server.serve(router.into_make_service()));
    let address = handle.listening().await.expect("listening");
    (handle, address)
}
