//! The stand-in as a program: TLS, the control door, and what a kill leaves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

/// A program that is killed (SIGKILL) when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Bed {
    directory: tempfile::TempDir,
    http: reqwest::Client,
    port: u16,
}

impl Bed {
    fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = made.cert.pem();
        std::fs::write(directory.path().join("tls.crt"), &certificate).unwrap();
        std::fs::write(directory.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
        let root = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { directory, http, port }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn start(&self) -> Program {
        let child = Command::new(env!("CARGO_BIN_EXE_aap-standin"))
            .arg("--config")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("example.yaml"))
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .arg("--tls-cert")
            .arg(self.file("tls.crt"))
            .arg("--tls-key")
            .arg(self.file("tls.key"))
            .arg("--data")
            .arg(self.file("data"))
            .args(["--scripted", "--scripted-seconds", "3"])
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let program = Program(child);
        for _ in 0..200 {
            if self.http.get(self.url("/_standin/health")).send().await.is_ok_and(|answer| answer.status() == 200) {
                return program;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the program does not serve");
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(self.url(path)).bearer_auth("execute-token").send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> reqwest::Result<(u16, Value)> {
        let answer = self.http.post(self.url(path)).bearer_auth("execute-token").json(&body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }
}

#[tokio::test]
async fn a_kill_loses_no_commit() {
    let bed = Bed::new();
    let program = bed.start().await;
    let template = bed.get("/api/v2/job_templates/?name=apply").await["results"][0]["id"].clone();
    let launch = format!("/api/v2/job_templates/{template}/launch/");

    // The answer is lost: the commit is not, though the program is killed right then.
    let fault = json!({"action": "drop_response", "method": "POST", "path": "/job_templates/*/launch/"});
    assert_eq!(bed.post("/_standin/faults", fault).await.unwrap().0, 201);
    assert!(bed.post(&launch, json!({"limit": "web-1", "extra_vars": {"fettle_run_key": "k"}})).await.is_err());
    drop(program);

    let program = bed.start().await;
    let state = bed.get("/_standin/state").await;
    assert_eq!(state["templates"]["apply"]["total"], 1, "{state}");
    let jobs = bed.get("/api/v2/jobs/").await;
    assert_eq!(jobs["results"][0]["extra_vars"], r#"{"fettle_run_key": "k"}"#);
    for _ in 0..400 {
        if bed.get("/api/v2/jobs/1/").await["event_processing_finished"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let summaries = bed.get("/api/v2/jobs/1/job_host_summaries/").await;
    assert_eq!((&summaries["count"], &summaries["results"][0]["host_name"]), (&json!(1), &json!("web-1")));

    // Every request is on record, with who asked and what came back.
    let seen = bed.get("/_standin/requests").await;
    let last = seen["requests"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["path"], &last["status"]), (&json!("/api/v2/jobs/1/job_host_summaries/"), &json!(200)));
    assert_eq!(last["user"], "fettle");
    assert_eq!(seen["counts"]["GET /jobs/{}/job_host_summaries/"], 1);
    assert!(seen["counts"].get("GET /_standin/state").is_none());
    drop(program);
}

#[tokio::test]
async fn the_controller_can_be_down_for_a_while() {
    let bed = Bed::new();
    let _program = bed.start().await;
    let launched = bed.post("/_standin/launch", json!({"template": "apply", "prompts": {"limit": "db-1"}})).await.unwrap();
    assert_eq!(launched, (201, json!({"job": 1})));
    bed.post("/_standin/faults", json!({"action": "down", "seconds": 3.0})).await.ok();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = bed.http.get(bed.url("/api/v2/ping/")).send().await.unwrap_err();
    assert!(refused.is_connect(), "{refused:?}");
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!(bed.get("/api/v2/ping/").await["version"], "24.6.1");
}
