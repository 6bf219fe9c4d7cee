//! The real executor, and the `awx` command line (awxkit from `PyPI`) against it: real playbooks on local hosts.
//!
//! Needs Python 3.11 and `PyPI` once; the environments are kept under `~/.cache/fettle/venv`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use fettle_standins::aap::{
    Action, CollectionConfig, Config, Fault, HostConfig, ProjectConfig, Runner, Running, Standin, Status, TemplateConfig, Timing,
};
use serde_json::{Value, json};

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A Python environment made from pinned requirements.
fn environment(requirements: &Path) -> PathBuf {
    let output = Command::new(here().join("../../ansible/venv.sh")).arg(requirements).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn config() -> Config {
    let mut config = Config::example();
    config.timing =
        Timing { schedule_tick: 0.2, pending: 0.1, waiting: 0.1, event_lag: 0.2, explanation: 5.0, cancel: 0.1, dead_cancel: 1.0 };
    config.projects = vec![ProjectConfig { name: "tests".into(), path: here().join("playbooks"), ..Default::default() }];
    let local = json!({"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"});
    config.inventories[0].variables.clone_from(local.as_object().unwrap());
    config.inventories[0].hosts.push(HostConfig { name: "old-1".into(), enabled: false, ..Default::default() });
    config.job_templates = ["hello", "sleep", "fail", "nomatch"]
        .map(|name| TemplateConfig {
            name: name.into(),
            inventory: Some("fleet".into()),
            playbook: format!("{name}.yml"),
            ask: vec!["limit".into(), "variables".into()],
            allow_simultaneous: true,
            ..Default::default()
        })
        .to_vec();
    config.job_templates.push(TemplateConfig {
        name: "collection".into(),
        inventory: Some("fleet".into()),
        playbook: "fettle.patching.apply".into(),
        ..Default::default()
    });
    config.collections = vec![CollectionConfig::Source { name: "fettle.patching".into(), path: here().join("../../ansible") }];
    config
}

fn runner(config: &Config) -> Runner {
    let venv = environment(&here().join("../../ansible/requirements.txt"));
    Runner::new(&venv.join("bin/ansible-runner"), &config.collections).unwrap()
}

async fn start(data: &Path) -> Running {
    let config = config();
    let runner = runner(&config);
    Standin::builder().config(config).executor(runner).data(data).start().await.unwrap()
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::new()
}

async fn get(aap: &Running, path: &str) -> Value {
    let url = format!("{}/api/v2{path}", aap.url);
    let text = client().get(url).bearer_auth("admin-token").send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

async fn post(aap: &Running, path: &str, body: Value) -> (u16, Value) {
    let url = format!("{}/api/v2{path}", aap.url);
    let answer = client().post(url).bearer_auth("execute-token").json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn until(limit: u64, what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..limit * 10 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within {limit} s: {what}");
}

fn status(aap: &Running, job: i64) -> Status {
    aap.jobs().into_iter().find(|other| other.id == job).unwrap().status
}

/// Processes whose command line holds a word.
fn processes(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).replace('\0', " ").contains(word)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_awx_command_line_launches_lists_and_reads() {
    let data = tempfile::tempdir().unwrap();
    let aap = start(data.path()).await;
    let awx = environment(&here().join("awxkit.txt")).join("bin/awx");
    let run = async |arguments: &[&str]| -> Output {
        let mut command = tokio::process::Command::new(&awx);
        command
            .args(arguments)
            .env("CONTROLLER_HOST", &aap.url)
            .env("CONTROLLER_OAUTH_TOKEN", "admin-token")
            .env("PYTHONWARNINGS", "ignore")
            .stdin(std::process::Stdio::null());
        command.output().await.unwrap()
    };
    let text = |output: &Output| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{out}\n{err}")
    };

    let launch = ["job_templates", "launch", "hello", "--limit", "web", "--extra_vars", "{\"word\": \"{{ 7*7 }}\"}", "--monitor"];
    let launched = run(&launch).await;
    let shown = text(&launched);
    assert!(launched.status.success(), "{shown}");
    assert!(shown.contains("hello web-1 word={{ 7*7 }} job=1 launch=manual"), "variables are data, not templates: {shown}");
    assert!(shown.contains("PLAY RECAP") && !shown.contains("db-1"), "{shown}");
    let job = get(&aap, "/jobs/1/").await;
    assert_eq!(job["status"], "successful", "{job}");
    assert_eq!(job["host_status_counts"], json!({"changed": 2}));
    assert_eq!(job["artifacts"]["fettle_report"]["web-2"], json!({"guard": "executed", "ok": true}));
    assert!(job["job_args"].as_str().unwrap().contains("\"-l\", \"web\""), "{job}");

    let failed = run(&["job_templates", "launch", "fail", "--wait"]).await;
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert_eq!(get(&aap, "/jobs/2/").await["host_status_counts"], json!({"failures": 1, "ok": 2}));

    let listed = run(&["jobs", "list", "--status", "failed", "-f", "human", "--filter", "id,name,status"]).await;
    assert!(text(&listed).contains("2  fail failed") && !text(&listed).contains("hello"), "{}", text(&listed));
    let one = run(&["job_templates", "get", "hello", "-f", "human"]).await;
    assert!(one.status.success() && text(&one).contains("hello"), "{}", text(&one));
    let missing = run(&["jobs", "get", "99999"]).await;
    assert!(!missing.status.success() && text(&missing).contains("No Job matches the given query."), "{}", text(&missing));
    let output = run(&["jobs", "stdout", "1"]).await;
    assert!(text(&output).contains("hello web-2"), "{}", text(&output));
    let hosts = run(&["hosts", "list", "--inventory", "1", "-f", "human", "--filter", "name"]).await;
    assert!(text(&hosts).contains("web-1"), "{}", text(&hosts));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_processes() {
    let data = tempfile::tempdir().unwrap();
    let aap = start(data.path()).await;
    let vars = json!({"limit": "db-1", "extra_vars": {"seconds": 31_557.5}});
    let job = aap.launch_by_hand("sleep", &vars).unwrap();
    until(60, "the sleep runs", || processes("sleep 31557.5") > 0).await;
    assert_eq!(status(&aap, job), Status::Running);
    let url = format!("{}/api/v2/jobs/{job}/cancel/", aap.url);
    let answer = client().post(&url).bearer_auth("admin-token").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    until(30, "the job is over", || status(&aap, job) == Status::Canceled).await;
    until(10, "no process is left", || processes("sleep 31557.5") == 0).await;
    assert!(aap.summaries(job).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_takes_its_playbooks_up_again() {
    let data = tempfile::tempdir().unwrap();
    let aap = start(data.path()).await;
    let job = aap.launch_by_hand("sleep", &json!({"limit": "web", "extra_vars": {"seconds": 6.25}})).unwrap();
    until(60, "the sleep runs", || processes("sleep 6.25") > 0).await;
    aap.stop().await;
    assert!(processes("sleep 6.25") > 0, "the playbook outlives the controller");
    let aap = start(data.path()).await;
    assert_eq!(status(&aap, job), Status::Running);
    until(60, "the job is over", || status(&aap, job) == Status::Successful).await;
    until(10, "the summaries are in", || aap.summaries(job).len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_empty_plays_and_limits_as_ansible_has_them() {
    let data = tempfile::tempdir().unwrap();
    let aap = start(data.path()).await;
    let start = aap.now().checked_add(jiff::SignedDuration::from_secs(2)).unwrap().strftime("%Y%m%dT%H%M%SZ").to_string();
    let body = json!({
        "name": "fettle-k-apply", "unified_job_template": 4, "limit": "db-1",
        "rrule": format!("DTSTART:{start} RRULE:FREQ=MINUTELY;INTERVAL=1;COUNT=1"),
    });
    assert_eq!(get(&aap, "/job_templates/4/").await["name"], "fail");
    let (code, body) = post(&aap, "/schedules/", body).await;
    assert_eq!(code, 201, "{body}");
    let empty = aap.launch_by_hand("nomatch", &json!({})).unwrap();
    let ghost = aap.launch_by_hand("hello", &json!({"limit": "ghost"})).unwrap();
    aap.fault(Fault::from(Action::ZeroHosts).of_template("collection"));
    let collection = aap.launch_by_hand("collection", &json!({})).unwrap();
    let disabled = aap.launch_by_hand("hello", &json!({"limit": "old-1,web-1"})).unwrap();
    until(10, "the schedule has fired", || aap.jobs().len() == 5).await;
    assert!(aap.settled(Duration::from_mins(2)).await);
    tokio::time::sleep(Duration::from_secs(1)).await;

    assert_eq!((status(&aap, empty), aap.summaries(empty).len()), (Status::Successful, 0));
    assert_eq!(get(&aap, &format!("/jobs/{empty}/")).await["host_status_counts"], json!({}));
    let body = get(&aap, &format!("/jobs/{ghost}/")).await;
    assert_eq!((&body["status"], &body["host_status_counts"]), (&json!("failed"), &Value::Null), "{body}");
    assert_eq!((status(&aap, disabled), aap.summaries(disabled).len()), (Status::Successful, 1));
    // A collection's playbook is found by its full name; nobody is there to run it on.
    let body = get(&aap, &format!("/jobs/{collection}/")).await;
    assert_eq!((&body["status"], &body["host_status_counts"]), (&json!("successful"), &json!({})), "{body}");
    assert_ne!(body["playbook_counts"]["play_count"], 0, "{body}");
    let fired = aap.jobs().into_iter().find(|job| job.launch_type == "scheduled").unwrap();
    let text = get(&aap, &format!("/jobs/{}/stdout/?format=txt_download", fired.id)).await;
    assert!(text.as_str().unwrap().contains("schedule fettle-k-apply"), "{text}");
    assert_eq!(aap.summaries(fired.id)[0].ignored, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_asked_to_leave_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    // JSON is YAML.
    std::fs::write(&file, serde_json::to_vec(&config()).unwrap()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let venv = environment(&here().join("../../ansible/requirements.txt"));
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_aap-standin"))
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .arg("--config")
        .arg(&file)
        .arg("--data")
        .arg(directory.path().join("data"))
        .arg("--ansible-runner")
        .arg(venv.join("bin/ansible-runner"))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let http = client();
    let launch = format!("http://127.0.0.1:{port}/_standin/launch");
    let body = json!({"template": "sleep", "prompts": {"limit": "web-1", "extra_vars": {"seconds": 28_811.5}}});
    for _ in 0..100 {
        if http.post(&launch).json(&body).send().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until(60, "the sleep runs", || processes("sleep 28811.5") > 0).await;
    let pid = program.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let left = tokio::time::timeout(Duration::from_secs(30), program.wait()).await.unwrap().unwrap();
    assert!(left.success(), "{left:?}");
    assert_eq!(processes("sleep 28811.5"), 0);
    let state = std::fs::read(directory.path().join("data/state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert_eq!(state["jobs"]["1"]["status"], "canceled");
}
