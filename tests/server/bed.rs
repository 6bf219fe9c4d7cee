//! A running server, a Kubernetes API for it, and clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::post,
};
use clap::Parser;
use fettle::{
    api::patch_run::{HostCounts, LogRef, Outcome, Phase, RunResult},
    archive::{
        Owner, Store,
        record::{HostRecord, Record},
    },
    http::{Server, ServerArgs},
};
use futures::StreamExt as _;
use http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::cluster::{self, Cluster};

pub const KEY: &str = "v1-abcdefghijklmnopq234-apply";
pub const UNKNOWN: &str = "v1-zzzzzzzzzzzzzzzzzzzz-apply";
pub const MANAGER: &str = "system:serviceaccount:fettle-system:fettle-manager";

pub fn owner() -> Owner {
    Owner::new("patching", "web").unwrap()
}

pub fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// Bytes that differ from place to place: each block of 251 bytes begins with its number.
pub fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (number, block) in bytes.chunks_mut(251).enumerate() {
        let head = number.to_le_bytes();
        let size = block.len().min(8);
        block[..size].copy_from_slice(&head[..size]);
    }
    bytes
}

pub fn stream(bytes: Vec<u8>) -> fettle::archive::LogStream {
    let bytes = Bytes::from(bytes);
    let chunks: Vec<_> = (0..bytes.len()).step_by(60_000).map(|at| Ok(bytes.slice(at..bytes.len().min(at + 60_000)))).collect();
    futures::stream::iter(chunks).boxed()
}

/// Somebody, as TokenReview describes them.
#[derive(Clone)]
pub struct Account {
    pub user: Value,
    pub audiences: Vec<String>,
}

/// What the Kubernetes API knows, and what it was asked.
#[derive(Default)]
pub struct World {
    pub tokens: BTreeMap<String, Account>,
    /// User, namespace, name; `*` for all.
    pub grants: BTreeSet<(String, String, String)>,
    /// User and verb, for verbs other than get.
    pub verbs: BTreeSet<(String, String)>,
    pub down: bool,
    /// The authenticator ignores audiences, as some webhooks do.
    pub no_audiences: bool,
    pub token_reviews: Vec<Value>,
    pub access_reviews: Vec<Value>,
    /// What is answered to a TokenReview of that token, instead of the truth.
    pub nonsense: Option<fn(&str) -> Response>,
}

pub type Shared = Arc<Mutex<World>>;

impl World {
    pub fn person(&mut self, name: &str, token: &str) {
        let user = json!({"username": name, "uid": format!("uid-{name}"), "groups": ["system:authenticated", "team"], "extra": {"scopes": ["user:full"]}});
        self.tokens.insert(token.into(), Account { user, audiences: vec!["https://kubernetes.default.svc".into()] });
    }

    pub fn account(&mut self, name: &str, token: &str, audience: &str) {
        let user = json!({"username": name, "groups": ["system:serviceaccounts"]});
        self.tokens.insert(token.into(), Account { user, audiences: vec![audience.into()] });
    }
}

async fn token_review(State(world): State<Shared>, Json(mut review): Json<Value>) -> Response {
    let mut world = world.lock().unwrap();
    world.token_reviews.push(review["spec"].clone());
    if let Some(nonsense) = world.nonsense {
        return nonsense(review["spec"]["token"].as_str().unwrap());
    }
    let asked: Vec<String> = match review["spec"]["audiences"].as_array() {
        Some(asked) if !asked.is_empty() => asked.iter().map(|a| a.as_str().unwrap().to_owned()).collect(),
        _ => vec!["https://kubernetes.default.svc".into()],
    };
    let account = world.tokens.get(review["spec"]["token"].as_str().unwrap());
    review["status"] = match account {
        Some(account) if world.no_audiences => json!({"authenticated": true, "user": account.user}),
        Some(account) => {
            let common: Vec<&String> = account.audiences.iter().filter(|a| asked.contains(a)).collect();
            if common.is_empty() {
                json!({"authenticated": false, "error": "token audiences do not match"})
            } else {
                json!({"authenticated": true, "user": account.user, "audiences": common})
            }
        }
        None => json!({"authenticated": false}),
    };
    Json(review).into_response()
}

async fn access_review(State(world): State<Shared>, Json(mut review): Json<Value>) -> Json<Value> {
    let mut world = world.lock().unwrap();
    let spec = review["spec"].clone();
    world.access_reviews.push(spec.clone());
    let what = &spec["resourceAttributes"];
    assert_eq!((&what["group"], &what["resource"]), (&json!("fettle.dev"), &json!("patchruns")));
    let text = |value: &Value| value.as_str().unwrap_or("*").to_owned();
    let (user, namespace, name) = (text(&spec["user"]), text(&what["namespace"]), text(&what["name"]));
    let allowed = [(&namespace, &name), (&namespace, &"*".to_owned()), (&"*".to_owned(), &"*".to_owned())]
        .into_iter()
        .any(|(namespace, name)| world.grants.contains(&(user.clone(), namespace.clone(), name.clone())));
    let verb = text(&what["verb"]);
    let allowed = allowed && (verb == "get" || world.verbs.contains(&(user, verb)));
    review["status"] = json!({"allowed": allowed});
    Json(review)
}

async fn may_be_down(State(world): State<Shared>, request: Request, next: Next) -> Response {
    if world.lock().unwrap().down {
        return (StatusCode::INTERNAL_SERVER_ERROR, "etcd is gone").into_response();
    }
    next.run(request).await
}

async fn kubernetes(world: Shared, cluster: Cluster) -> SocketAddr {
    let app = Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(token_review))
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(access_review))
        .with_state(Arc::clone(&world))
        .merge(Router::new().fallback(cluster::serve).with_state(cluster))
        .layer(middleware::from_fn_with_state(world, may_be_down));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ServerArgs,
}

/// A running server.
pub struct Bed {
    pub world: Shared,
    pub cluster: Cluster,
    pub address: SocketAddr,
    pub directory: tempfile::TempDir,
    pub http: reqwest::Client,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<Result<(), fettle::http::Error>>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A server with more arguments than the usual.
    pub async fn with(more: &[&str]) -> Self {
        Self::resume(tempfile::tempdir().unwrap(), more).await
    }

    /// A server over what an earlier one left.
    pub async fn resume(directory: tempfile::TempDir, more: &[&str]) -> Self {
        Self::within(directory, Cluster::default(), more).await
    }

    /// A server over what an earlier one left, in a cluster.
    pub async fn within(directory: tempfile::TempDir, cluster: Cluster, more: &[&str]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let world = Shared::default();
        {
            let mut world = world.lock().unwrap();
            world.person("alice", "alice-token");
            world.person("mallory", "mallory-token");
            world.person("admin", "admin-token");
            world.account(MANAGER, "manager-token", "fettle");
            world.account("system:serviceaccount:patching:robot", "robot-token", "fettle");
            world.account("system:serviceaccount:patching:robot", "robot-api-token", "https://kubernetes.default.svc");
            world.account(MANAGER, "manager-api-token", "https://kubernetes.default.svc");
            for user in ["alice", "system:serviceaccount:patching:robot"] {
                world.grants.insert((user.into(), "patching".into(), "*".into()));
            }
            world.grants.insert(("mallory".into(), "elsewhere".into(), "*".into()));
            world.grants.insert(("admin".into(), "*".into(), "*".into()));
            for user in ["alice", "admin"] {
                world.verbs.extend(["create", "patch"].map(|verb| (user.to_owned(), verb.to_owned())));
            }
        }
        let kubernetes = kubernetes(Arc::clone(&world), cluster.clone()).await;
        let client = kube::Client::try_from(kube::Config::new(format!("http://{kubernetes}").parse().unwrap())).unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (archive, tls, database) = (path("archive"), path("tls"), format!("sqlite://{}", path("history/history.db")));
        let mut line = vec!["server", "--listen", "127.0.0.1:0", "--archive-dir", &archive, "--tls-dir", &tls, "--tls-reload", "50ms"];
        if !more.contains(&"--database-url") {
            line.extend(["--database-url", &database]);
        }
        if !more.contains(&"--reads-per-minute") {
            line.extend(["--reads-per-minute", "1000000", "--writes-per-minute", "1000000"]);
        }
        line.extend(more);
        let server = Server::bind(Line::parse_from(line).args, client).await.unwrap();
        let address = server.address();
        let mut builder = reqwest::Client::builder().https_only(true);
        if let Some(ca) = server.ca() {
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&std::fs::read(ca).unwrap()).unwrap());
        }
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self { world, cluster, address, directory, http: builder.build().unwrap(), stop: Some(stop), task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn get(&self, path: &str, token: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(self.url(path));
        if token.is_empty() { request } else { request.bearer_auth(token) }
    }

    /// Asks for a phase of group 5 as alice.
    pub fn ask(&self, phase: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http.post(self.url(&format!("/api/run/{phase}"))).bearer_auth("alice-token").json(body)
    }

    pub async fn status(&self, path: &str, token: &str) -> u16 {
        self.get(path, token).send().await.unwrap().status().as_u16()
    }

    /// The manager's client, with a token file that may be changed.
    pub fn store(&self) -> Store {
        let token = self.directory.path().join("token");
        if !token.exists() {
            std::fs::write(&token, "manager-token\n").unwrap();
        }
        Store::server(&self.url("/"), Some(self.directory.path().join("tls/ca.crt")), token).unwrap()
    }

    pub async fn put_log(&self, key: &str, bytes: &[u8]) -> LogRef {
        self.store().put_log(key, &owner(), "Job 1", stream(bytes.to_vec())).await.unwrap()
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics", "").send().await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn phase_files(&self, key: &str) -> Vec<String> {
        let Ok(found) = std::fs::read_dir(self.directory.path().join("archive/phases").join(key)) else { return vec![] };
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Sends bytes as they are over TLS (HTTP/1.1) and returns what comes back until the server closes or `patience` is over.
    pub async fn raw(&self, bytes: &[u8], patience: Duration) -> Vec<u8> {
        let (address, bytes, ca) = (self.address, bytes.to_vec(), self.directory.path().join("tls/ca.crt"));
        tokio::task::spawn_blocking(move || {
            let mut connection = tls(address, &ca, patience);
            connection.write_all(&bytes).unwrap();
            let mut answer = Vec::new();
            let _ = connection.read_to_end(&mut answer);
            answer
        })
        .await
        .unwrap()
    }
}

pub type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A TLS connection; reading from it fails after `patience`.
pub fn tls(address: SocketAddr, ca: &PathBuf, patience: Duration) -> Tls {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(cert.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connection = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    rustls::StreamOwned::new(connection, socket)
}

pub fn host(name: &str, outcome: Outcome) -> HostRecord {
    HostRecord {
        name: name.into(),
        outcome,
        message: None,
        error_code: None,
        guard: None,
        kernel_before: None,
        kernel_after: None,
        boot_id_before: None,
        boot_id_after: None,
        facts: None,
    }
}

pub fn record(key: &str, phase: Phase, log: Option<LogRef>, hosts: Vec<HostRecord>) -> Record {
    let total = i32::try_from(hosts.len()).unwrap();
    Record {
        run_key: key.into(),
        namespace: "patching".into(),
        name: "web".into(),
        attempt: 1,
        connection: "prod".into(),
        group: Some(fettle::api::shared::NameOrId::Id(5)),
        desired_kernel: Some("6.1.0-53-cloud-amd64".into()),
        phase,
        result: RunResult::Ok,
        reason: "Succeeded".into(),
        message: "every host is proven".into(),
        executor: None,
        started_at: Some("2026-11-21T10:00:00Z".parse().unwrap()),
        finished_at: Some("2026-11-21T10:02:05Z".parse().unwrap()),
        counts: HostCounts { total, ok: total, ..HostCounts::default() },
        hosts,
        log,
        classification: None,
    }
}

/// Waits until `what` is true; fails after a minute.
pub async fn until(what: impl AsyncFn() -> bool) {
    for _ in 0..1200 {
        if what().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it did not come true in a minute");
}
