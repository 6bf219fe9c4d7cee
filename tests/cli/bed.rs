//! A cluster on loopback, a kubeconfig for it, and the program.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{apiserver::ApiServer, calls::Calls, tekton::Tekton};

pub const RUNS: &str = "apis/fettle.dev/v1alpha1/namespaces/patching/patchruns";
pub const CONNECTIONS: &str = "apis/fettle.dev/v1alpha1/namespaces/patching/automationconnections";

/// Path of a PatchRun.
pub fn run_path(name: &str) -> String {
    format!("{RUNS}/{name}")
}

/// What came to the API server: method, path with query, header `Authorization`, body.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub authorization: String,
    pub body: Value,
}

#[derive(Clone)]
struct Door {
    client: kube::Client,
    /// Answers that are given instead of the truth, by method and path.
    instead: Arc<Mutex<BTreeMap<String, (u16, Value)>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A cluster and a kubeconfig.
pub struct Bed {
    pub api: ApiServer,
    pub directory: tempfile::TempDir,
    pub address: SocketAddr,
    door: Door,
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Everything it said, for messages of tests.
    pub fn all(&self) -> String {
        format!("exit code {}\n{}\n{}", self.code, self.out, self.err)
    }

    /// Fails unless it ended with that exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.all());
        self
    }
}

async fn pass(State(door): State<Door>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let authorization = parts.headers.get("authorization").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    door.seen.lock().unwrap().push(Seen { method: parts.method.to_string(), path: parts.uri.to_string(), authorization, body });
    let instead = door.instead.lock().unwrap().get(&format!("{} {path}", parts.method)).cloned();
    if let Some((code, answer)) = instead {
        if code == 0 {
            return std::future::pending().await;
        }
        return (StatusCode::from_u16(code).unwrap(), axum::Json(answer)).into_response();
    }
    if parts.uri.query().is_some_and(|query| query.contains("dryRun=All")) {
        return (StatusCode::CREATED, axum::Json(serde_json::from_slice::<Value>(&bytes).unwrap())).into_response();
    }
    parts.headers.remove("host");
    let answer = door.client.send(http::Request::from_parts(parts, kube::client::Body::from(bytes.to_vec()))).await.unwrap();
    let (parts, body) = answer.into_parts();
    Response::from_parts(parts, Body::new(body))
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(Tekton::default()).await
    }

    pub async fn with(tekton: Tekton) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let api = ApiServer::new(tekton);
        let door = Door { client: api.client(Arc::new(Calls::default())), instead: Arc::default(), seen: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(pass).with_state(door.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let bed = Self { api, directory: tempfile::tempdir().unwrap(), address, door };
        bed.kubeconfig(&format!("http://{address}"), json!({"token": "alice-token"}));
        bed.api
            .put(&format!("{CONNECTIONS}/prod"), json!({"spec": {"url": "https://aap.example.com", "inventory": "all", "templates": {}}}));
        bed
    }

    /// Writes the kubeconfig anew.
    pub fn kubeconfig(&self, server: &str, user: Value) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "alice", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "alice", "namespace": "patching"}}],
        });
        std::fs::write(self.file("config"), config.to_string()).unwrap();
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// From now on that is answered, instead of the truth; the code 0 answers nothing, ever.
    pub fn instead(&self, method: &str, path: &str, code: u16, answer: Value) {
        self.door.instead.lock().unwrap().insert(format!("{method} {path}"), (code, answer));
    }

    /// From now on that is refused.
    pub fn forbid(&self, method: &str, path: &str) {
        let message = format!("\"{path}\" is forbidden: User \"alice\" cannot do that");
        self.instead(
            method,
            path,
            403,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": message}),
        );
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.door.seen.lock().unwrap().clone()
    }

    /// Whatever changed something, method and path.
    pub fn writes(&self) -> Vec<String> {
        self.seen().iter().filter(|seen| seen.method != "GET").map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    pub fn command(&self, line: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_kubectl-fettle"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FETTLE_")) {
            command.env_remove(name);
        }
        command
            .args(line.split(' ').filter(|word| !word.is_empty()))
            .env("KUBECONFIG", self.file("config"))
            .env("HOME", self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs `kubectl-fettle` with that command line, its words parted by blanks.
    pub async fn fettle(&self, line: &str) -> Said {
        let output = tokio::time::timeout(Duration::from_mins(1), self.command(line).output()).await.expect("it ends").unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Stores a PatchRun.
    pub fn put_run(&self, name: &str, spec: Value, status: Value) {
        self.api.put(&run_path(name), json!({"spec": spec, "status": status}));
    }
}

/// A run of all phases of group 5.
pub fn spec() -> Value {
    json!({"connection": {"name": "prod"}, "group": 5, "desiredKernel": "6.1.0-53-cloud-amd64",
        "phases": ["precheck", "stage"], "startBy": "2126-11-22T04:00:00Z"})
}

/// The condition that says where a run stands.
pub fn succeeded(status: &str, reason: &str, message: &str) -> Value {
    json!([{"type": "Succeeded", "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-21T10:00:00Z"}])
}

/// Nothing has begun.
pub fn pending() -> Value {
    json!({"state": "Pending", "attempt": 1, "runKey": "v1-abcdefghijklmnopq234", "phase": "precheck", "conditions": succeeded("Unknown", "HostsBusy", "web-1 is in another run")})
}

/// A check that runs.
pub fn running() -> Value {
    json!({"state": "Running", "attempt": 1, "runKey": "v1-abcdefghijklmnopq234", "phase": "precheck", "hosts": "0/3", "conditions": succeeded("Unknown", "Running", "it runs"),
        "phases": [{"name": "precheck", "runKey": "v1-abcdefghijklmnopq234-precheck", "startedAt": "2026-11-21T10:00:00Z",
            "executor": {"kind": "PipelineRun", "id": "fettle-v1-abcdefghijklmnopq234-precheck"}}]})
}

/// A change phase that runs.
pub fn staging() -> Value {
    json!({"state": "Running", "attempt": 1, "runKey": "v1-abcdefghijklmnopq234", "phase": "stage", "hosts": "0/3", "conditions": succeeded("Unknown", "Running", "job 7 runs"),
        "phases": [{"name": "stage", "runKey": "v1-abcdefghijklmnopq234-stage", "startedAt": "2026-11-21T10:00:00Z",
            "executor": {"kind": "Job", "id": "7", "url": "https://aap.example.com/#/jobs/7"}}]})
}

/// All is well.
pub fn ok() -> Value {
    json!({"state": "Completed", "attempt": 1, "runKey": "v1-abcdefghijklmnopq234", "phase": "precheck", "result": "OK", "hosts": "3/3", "conditions": succeeded("True", "Succeeded", "every host is proven"),
        "phases": [{"name": "precheck", "runKey": "v1-abcdefghijklmnopq234-precheck", "result": "OK", "reason": "Succeeded",
            "startedAt": "2026-11-21T10:00:00Z", "finishedAt": "2026-11-21T10:02:05Z",
            "hosts": {"total": 3, "ok": 3, "changed": 0, "failed": 0, "unreachable": 0, "unknown": 0, "missing": 0}}]})
}

/// One host of three has failed.
pub fn failed() -> Value {
    json!({"state": "Completed", "attempt": 1, "runKey": "v1-abcdefghijklmnopq234", "phase": "stage", "result": "ERROR", "hosts": "2/3", "errorCode": "E-DISK-BOOT",
        "conditions": succeeded("False", "HostsFailed", "stage: 1 of 3 hosts failed"),
        "phases": [{"name": "stage", "runKey": "v1-abcdefghijklmnopq234-stage", "result": "ERROR", "reason": "HostsFailed",
            "startedAt": "2026-11-21T10:00:00Z", "finishedAt": "2026-11-21T10:02:05Z",
            "executor": {"kind": "Job", "id": "7"},
            "failedHosts": [{"name": "web-2", "outcome": "failed", "message": "No space left on device"}],
            "log": {"id": "v1-abcdefghijklmnopq234-stage", "size": 10, "sha256": "00"},
            "hosts": {"total": 3, "ok": 1, "changed": 1, "failed": 1, "unreachable": 0, "unknown": 0, "missing": 0}}]})
}
