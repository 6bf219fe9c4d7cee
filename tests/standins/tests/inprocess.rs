//! The stand-in as tests in one process use it: each trap and fault, seen from a plain HTTP client.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use fettle_standins::aap::{Action, Config, Fault, Flavour, HostConfig, HostResult, Outcome, Running, Script, Standin, Status, Timing};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

struct Client {
    http: reqwest::Client,
    url: String,
    token: &'static str,
}

impl Client {
    fn new(aap: &Running, token: &'static str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { http, url: aap.url.clone(), token }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<(StatusCode, Value)> {
        let path = if path.starts_with("/api") { path.to_owned() } else { format!("/api/v2{path}") };
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.send(Method::GET, path, None).await.unwrap();
        (status.as_u16(), body)
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, body) = self.send(Method::POST, path, Some(body)).await.unwrap();
        (status.as_u16(), body)
    }

    async fn template(&self, name: &str) -> i64 {
        self.get(&format!("/job_templates/?name={name}")).await.1["results"][0]["id"].as_i64().unwrap()
    }

    async fn launch(&self, name: &str, body: Value) -> i64 {
        let id = self.template(name).await;
        let (status, body) = self.post(&format!("/job_templates/{id}/launch/"), body).await;
        assert_eq!(status, 201, "{body}");
        body["job"].as_i64().unwrap()
    }

    async fn until(&self, job: i64, wanted: &[&str]) -> Value {
        for _ in 0..400 {
            let (status, body) = self.get(&format!("/jobs/{job}/")).await;
            assert_eq!(status, 200, "{body}");
            if wanted.contains(&body["status"].as_str().unwrap()) {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("job {job} never became {wanted:?}");
    }

    async fn complete(&self, job: i64) -> Value {
        for _ in 0..400 {
            let (_, body) = self.get(&format!("/jobs/{job}/")).await;
            if body["event_processing_finished"] == json!(true) {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the events of job {job} never came");
    }
}

const OVER: &[&str] = &["successful", "failed", "error", "canceled"];

async fn started() -> Running {
    Standin::builder().config(Config::example()).start().await.unwrap()
}

async fn held() -> Running {
    Standin::builder().config(Config::example()).script(|job| Script::new(job).held()).start().await.unwrap()
}

fn one_shot(aap: &Running, seconds: i64) -> String {
    let start = aap.now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
    format!("DTSTART:{} RRULE:FREQ=MINUTELY;INTERVAL=1;COUNT=1", start.strftime("%Y%m%dT%H%M%SZ"))
}

#[tokio::test]
async fn a_launch_runs_and_tells_what_happened() {
    let aap = Standin::builder()
        .config(Config::example())
        .script(|job| {
            Script::new(job)
                .host("web-2", HostResult::Unreachable("no route".into()))
                .host("db-1", HostResult::Failed("disk full".into()))
                .printing(r"C:\temp")
        })
        .start()
        .await
        .unwrap();
    let client = Client::new(&aap, "execute-token");
    let vars = json!({"fettle_run_key": "k", "fettle_phase": "apply"});
    let job = client.launch("apply", json!({"extra_vars": vars, "limit": "web-1,web-2,db-1"})).await;
    client.until(job, OVER).await;
    let body = client.complete(job).await;
    assert_eq!(body["status"], "failed");
    assert_eq!(body["host_status_counts"], json!({"changed": 1, "dark": 1, "failures": 1}));
    assert_eq!(body["artifacts"]["fettle_report"]["web-1"]["guard"], "executed");
    assert_eq!(body["artifacts"]["fettle_report"]["db-1"]["ok"], false);
    assert_eq!(body["artifacts"]["fettle_report"].get("web-2"), None);
    assert_eq!(body["extra_vars"], r#"{"fettle_phase": "apply", "fettle_run_key": "k"}"#);
    let (_, hosts) = client.get(&format!("/jobs/{job}/job_host_summaries/")).await;
    assert_eq!(hosts["count"], 3);
    let dark: Vec<_> = hosts["results"].as_array().unwrap().iter().filter(|row| row["dark"] == 1).collect();
    assert_eq!(dark[0]["host_name"], "web-2");
    let (_, text) = client.get(&format!("/jobs/{job}/stdout/?format=txt_download")).await;
    let text = text.as_str().unwrap();
    assert!(text.contains("fatal: [db-1]: FAILED!") && text.contains("PLAY RECAP"), "{text}");
    assert!(text.contains(r"C:\\temp") && !text.contains('\u{1b}'), "backslashes doubled, no colours: {text}");
    let (_, events) = client.get(&format!("/jobs/{job}/job_events/?order_by=counter&page_size=200")).await;
    let ids: Vec<i64> = events["results"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
    assert!(!ids.is_sorted(), "ids do not follow counters: {ids:?}");
}

#[tokio::test]
async fn what_is_not_prompted_for_is_dropped_by_a_launch_and_refused_by_a_schedule() {
    let mut config = Config::example();
    config.job_templates[1].ask.clear();
    let aap = Standin::builder().config(config).start().await.unwrap();
    let client = Client::new(&aap, "execute-token");
    let id = client.template("apply").await;
    let asked = json!({"limit": "web-1", "extra_vars": {"a": 1}, "bogus": 2});
    let (status, body) = client.post(&format!("/job_templates/{id}/launch/"), asked).await;
    assert_eq!((status, &body["ignored_fields"]), (201, &json!({"limit": "web-1", "extra_vars": {"a": 1}})));
    assert_eq!(body["limit"], "");
    let schedule = json!({
        "name": "s", "unified_job_template": id, "limit": "web-1", "extra_data": {"a": 1},
        "rrule": "DTSTART:20990101T000000Z RRULE:FREQ=DAILY;INTERVAL=1;COUNT=1",
    });
    let (status, body) = client.post("/schedules/", schedule).await;
    assert_eq!(status, 400);
    assert_eq!(body["limit"], json!(["Field is not configured to prompt on launch."]));
    assert!(body["extra_data"][0].as_str().unwrap().starts_with("Variables a are not allowed on launch."), "{body}");
    assert!(aap.schedules().is_empty());
}

#[tokio::test]
async fn a_schedule_runs_once_under_its_name() {
    let aap = started().await;
    let client = Client::new(&aap, "execute-token");
    let id = client.template("apply").await;
    let body = json!({
        "name": "fettle-k-apply", "unified_job_template": id, "rrule": one_shot(&aap, 5), "limit": "web-1",
        "extra_data": {"fettle_run_key": "k"},
    });
    let answers = futures::future::join_all((0..20).map(|_| client.post("/schedules/", body.clone()))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|(status, _)| *status == 400).count(), 19);
    let (_, late) = client.post("/schedules/", body.clone()).await;
    assert_eq!(late, json!({"__all__": ["Schedule with this Unified job template and Name already exists."]}));
    tokio::time::sleep(Duration::from_millis(6500)).await;
    let (_, jobs) = client.get("/unified_jobs/?schedule__name=fettle-k-apply").await;
    assert_eq!(jobs["count"], 1, "{jobs}");
    let job = &jobs["results"][0];
    assert_eq!((&job["launch_type"], &job["limit"]), (&json!("scheduled"), &json!("web-1")));
    assert_eq!(job["launched_by"]["name"], "fettle-k-apply");
    assert_eq!(client.get("/schedules/?name=fettle-k-apply").await.1["results"][0]["next_run"], Value::Null);
    assert_eq!(client.get("/unified_jobs/?schedule__name=other").await.1["count"], 0);
    assert_eq!(client.post("/schedules/", body).await.0, 400, "the name stays taken after the run");
}

#[tokio::test]
async fn requests_under_way_together_meet_at_the_constraint() {
    let aap = started().await;
    let client = Client::new(&aap, "execute-token");
    // The first is held up before its commit, so the second arrives before and commits first.
    aap.fault(Fault::on("POST", "/schedules/", Action::LateCommit { seconds: 1.0 }));
    let body = json!({"name": "s", "unified_job_template": 3, "rrule": one_shot(&aap, 3600)});
    let late = client.post("/schedules/", body.clone());
    let early = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.post("/schedules/", body.clone()).await
    };
    let ((late, message), (early, _)) = tokio::join!(late, early);
    assert_eq!((early, late), (201, 400));
    assert!(message["detail"].as_str().unwrap().starts_with("duplicate key value violates unique constraint"));
}

#[tokio::test]
async fn past_and_disabled_schedules_never_run() {
    let aap = started().await;
    let client = Client::new(&aap, "execute-token");
    let id = client.template("apply").await;
    let body = |name: &str, rrule: String| json!({"name": name, "unified_job_template": id, "rrule": rrule});
    let (status, past) = client.post("/schedules/", body("past", one_shot(&aap, -60))).await;
    assert_eq!((status, &past["next_run"]), (201, &Value::Null));
    let (_, soon) = client.post("/schedules/", body("soon", one_shot(&aap, 5))).await;
    assert_ne!(soon["next_run"], Value::Null);
    let path = format!("/schedules/{}/", soon["id"]);
    let (status, off) = client.send(Method::PATCH, &path, Some(json!({"enabled": false}))).await.unwrap();
    assert_eq!((status.as_u16(), &off["enabled"], &off["next_run"]), (200, &json!(false), &Value::Null));
    let (_, other) = client.send(Method::PATCH, &path, Some(json!({"limit": "db-1"}))).await.unwrap();
    assert_eq!((&other["limit"], &other["enabled"]), (&json!("db-1"), &json!(false)));
    let (status, _) = client.send(Method::PATCH, &path, Some(json!({"forks": 3}))).await.unwrap();
    assert_eq!(status.as_u16(), 400, "not prompted for");
    tokio::time::sleep(Duration::from_millis(6200)).await;
    assert!(aap.jobs().is_empty());
}

#[tokio::test]
async fn roles_are_kept_apart() {
    let mut config = Config::example();
    config.users[1].inventories.clear();
    config.users[1].templates = vec!["apply".to_owned()];
    let aap = Standin::builder().config(config).start().await.unwrap();
    let execute = Client::new(&aap, "execute-token");
    let read = Client::new(&aap, "read-token");
    let nobody = Client::new(&aap, "wrong");
    let admin = Client::new(&aap, "admin-token");
    let (apply, reboot) = (admin.template("apply").await, admin.template("reboot").await);
    assert_eq!(nobody.get("/me/").await.0, 401);
    assert_eq!(execute.get("/inventories/1/hosts/").await.0, 403);
    assert_eq!(read.get("/inventories/1/hosts/").await.0, 200);
    assert_eq!(execute.get(&format!("/job_templates/{reboot}/")).await.0, 403);
    assert_eq!(execute.post(&format!("/job_templates/{reboot}/launch/"), json!({})).await.0, 403);
    assert_eq!(read.post(&format!("/job_templates/{apply}/launch/"), json!({})).await.0, 403);
    assert_eq!(execute.post("/job_templates/999/launch/", json!({})).await.0, 404);
    let schedule = json!({"name": "s", "unified_job_template": apply, "rrule": one_shot(&aap, 60)});
    assert_eq!(read.post("/schedules/", schedule.clone()).await.0, 403);
    assert_eq!(execute.post("/schedules/", schedule).await.0, 201);
    let job = execute.launch("apply", json!({})).await;
    assert_eq!(read.post(&format!("/jobs/{job}/cancel/"), json!({})).await.0, 403);
    aap.fault(Action::RevokeTokens { user: "execute".into() });
    assert_eq!(execute.get("/me/").await.0, 401);
}

#[tokio::test]
async fn cancels_are_requests() {
    let aap = held().await;
    let client = Client::new(&aap, "execute-token");
    let cancel = |job: i64| format!("/jobs/{job}/cancel/");

    let plain = client.launch("stage", json!({})).await;
    client.until(plain, &["running"]).await;
    assert_eq!(client.get(&cancel(plain)).await.1, json!({"can_cancel": true}));
    assert_eq!(client.post(&cancel(plain), json!({})).await.0, 202);
    let over = client.until(plain, OVER).await;
    assert_eq!((&over["status"], &over["failed"]), (&json!("canceled"), &json!(true)));
    assert_eq!(client.post(&cancel(plain), json!({})).await.0, 405);
    assert_eq!(client.get(&format!("/jobs/{plain}/job_host_summaries/")).await.1["count"], 0);

    aap.fault(Action::LoseCancel);
    let lost = client.launch("apply", json!({})).await;
    client.until(lost, &["running"]).await;
    assert_eq!(client.post(&cancel(lost), json!({})).await.0, 202);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client.get(&format!("/jobs/{lost}/")).await.1["status"], "running");
    assert_eq!(client.post(&cancel(lost), json!({})).await.0, 202);
    assert_eq!(client.until(lost, OVER).await["status"], "canceled");

    aap.fault(Action::Resurrect { seconds: 1.0 });
    let back = client.launch("reboot", json!({})).await;
    client.until(back, &["running"]).await;
    client.post(&cancel(back), json!({})).await;
    assert_eq!(client.get(&format!("/jobs/{back}/")).await.1["status"], "canceled");
    client.until(back, &["running"]).await;
    aap.release(back);
    assert_eq!(client.until(back, OVER).await["status"], "successful");
}

#[tokio::test]
async fn answers_can_be_lost_broken_late_and_wrong() {
    let aap = started().await;
    let client = Client::new(&aap, "execute-token");
    let id = client.template("apply").await;
    let path = format!("/job_templates/{id}/launch/");
    let launch = || client.send(Method::POST, &path, Some(json!({})));

    aap.fault(Fault::on("POST", "/job_templates/*/launch/", Action::DropResponse));
    assert!(launch().await.is_err());
    assert_eq!(aap.jobs().len(), 1, "committed though unanswered");
    assert_eq!(aap.requests().last().unwrap().status, None);

    aap.fault(Fault::on("POST", "/job_templates/*/launch/", Action::Reset));
    assert!(launch().await.is_err());
    assert_eq!(aap.jobs().len(), 1, "a reset before commits nothing");

    aap.fault(Fault::on("POST", "/job_templates/*/launch/", Action::LateCommit { seconds: 1.0 }));
    let short = reqwest::Client::builder().timeout(Duration::from_millis(50)).build().unwrap();
    let url = format!("{}/api/v2{path}", aap.url);
    assert!(short.post(&url).bearer_auth(client.token).json(&json!({})).send().await.unwrap_err().is_timeout());
    assert_eq!(aap.jobs().len(), 1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(aap.jobs().len(), 2, "committed after the caller left");

    aap.fault(Fault::on("POST", "/job_templates/*/launch/", Action::GatewayTimeout { answer: 0.1, commit: 1.0 }));
    assert_eq!(client.post(&path, json!({})).await.0, 504);
    assert_eq!(aap.jobs().len(), 2);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(aap.jobs().len(), 3, "committed behind the gateway's back");

    aap.fault(Fault::on("GET", "/me/", Action::Status { code: 429, body: None, retry_after: Some(2) }));
    let answer = client.http.get(format!("{}/api/v2/me/", aap.url)).bearer_auth(client.token).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "2"));
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/html"));

    aap.fault(Fault::on("GET", "/me/", Action::Truncate { bytes: 20 }));
    assert!(client.send(Method::GET, "/me/", None).await.is_err());
    assert_eq!(client.get("/me/").await.0, 200);

    aap.fault(Action::Down { seconds: 1.5 });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(client.send(Method::GET, "/ping/", None).await.unwrap_err().is_connect());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(client.get("/ping/").await.0, 200);
    assert_eq!(aap.count("POST", "/job_templates/{}/launch/"), 4);
}

#[tokio::test]
async fn jobs_can_end_in_every_misleading_way() {
    let aap = started().await;
    let client = Client::new(&aap, "execute-token");

    aap.fault(Action::ZeroHosts);
    let none = client.launch("apply", json!({"limit": "web-1"})).await;
    client.until(none, OVER).await;
    let none = client.complete(none).await;
    assert_eq!((&none["status"], &none["host_status_counts"]), (&json!("successful"), &json!({})));
    assert_eq!(none["limit"], "web-1");

    aap.fault(Action::PartialHosts { without: vec!["web-2".into()] });
    let part = client.launch("apply", json!({})).await;
    client.until(part, OVER).await;
    assert_eq!(client.complete(part).await["host_status_counts"], json!({"changed": 2}));

    let ghost = client.launch("apply", json!({"limit": "ghost"})).await;
    let ghost = client.until(ghost, OVER).await;
    assert_eq!((&ghost["status"], &ghost["host_status_counts"]), (&json!("failed"), &Value::Null));

    aap.fault(Action::EventsNeverFinish);
    let silent = client.launch("apply", json!({})).await;
    client.until(silent, OVER).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client.get(&format!("/jobs/{silent}/")).await.1["event_processing_finished"], false);

    aap.fault(Action::FinishedWhileRunning { seconds: 0.6 });
    let early = client.launch("apply", json!({})).await;
    let mut seen = false;
    for _ in 0..200 {
        let (_, body) = client.get(&format!("/jobs/{early}/")).await;
        seen |= body["status"] == "running" && !body["finished"].is_null();
        if OVER.contains(&body["status"].as_str().unwrap()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen);

    aap.fault(Action::EventLag { seconds: 1.0 });
    let late = client.launch("apply", json!({})).await;
    client.until(late, OVER).await;
    assert_eq!(client.get(&format!("/jobs/{late}/job_host_summaries/")).await.1["count"], 0);
    client.complete(late).await;
    assert_eq!(client.get(&format!("/jobs/{late}/job_host_summaries/")).await.1["count"], 3);

    aap.fault(Action::UnknownStatus { status: "hibernating".into(), seconds: None });
    let odd = client.launch("apply", json!({})).await;
    client.until(odd, &["hibernating"]).await;

    aap.fault(Action::Purge { job: Some(late) });
    assert_eq!(client.get(&format!("/jobs/{late}/")).await.0, 404);
}

#[tokio::test]
async fn a_dead_dispatcher_accepts_and_starts_nothing() {
    let aap = started().await;
    let client = Client::new(&aap, "execute-token");
    aap.fault(Action::DispatcherDead);
    let job = client.launch("apply", json!({})).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(client.get(&format!("/jobs/{job}/")).await.1["status"], "pending");
    assert_eq!(client.get("/ping/").await.0, 200);
    aap.clear_faults();
    assert_eq!(client.until(job, OVER).await["status"], "successful");
}

#[tokio::test]
async fn jobs_of_one_template_wait_for_each_other() {
    let aap = held().await;
    let client = Client::new(&aap, "execute-token");
    let (first, second) = (client.launch("apply", json!({})).await, client.launch("apply", json!({})).await);
    client.until(first, &["running"]).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let (_, blocked) = client.get(&format!("/jobs/{second}/")).await;
    assert_eq!(blocked["status"], "pending");
    assert_eq!(blocked["job_explanation"], format!("waiting for job-{first} to finish"));
    aap.release(first);
    client.until(first, &["successful"]).await;
    client.until(second, &["running"]).await;
    aap.release(second);
    assert!(aap.settled(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn sliced_launches_are_workflows() {
    let mut config = Config::example();
    config.job_templates[1].job_slice_count = 2;
    let aap = Standin::builder().config(config).start().await.unwrap();
    let client = Client::new(&aap, "execute-token");
    let id = client.template("apply").await;
    let (status, body) = client.post(&format!("/job_templates/{id}/launch/"), json!({"limit": "all"})).await;
    assert_eq!((status, &body["type"]), (201, &json!("workflow_job")));
    assert_eq!(body.get("job"), None);
    let workflow = body["workflow_job"].as_i64().unwrap();
    assert!(aap.settled(Duration::from_secs(5)).await);
    let (_, over) = client.get(&format!("/workflow_jobs/{workflow}/")).await;
    assert_eq!(over["status"], "successful");
    let (_, nodes) = client.get(&format!("/workflow_jobs/{workflow}/workflow_nodes/")).await;
    assert_eq!(nodes["count"], 2);
    let hosts: usize = aap.jobs().iter().filter(|job| !job.workflow).map(|job| aap.summaries(job.id).len()).sum();
    assert_eq!(hosts, 3);
}

#[tokio::test]
async fn lists_filter_page_and_trap() {
    let aap = started().await;
    let client = Client::new(&aap, "execute-token");
    assert_eq!(client.get("/jobs/?schedule__name=x").await.1["count"], 0);
    assert_eq!(client.get("/jobs/?nope=1").await.0, 400, "an empty list refuses too");
    for limit in ["web-1", "web-2", "web-1"] {
        let job = client.launch("apply", json!({"limit": limit})).await;
        client.until(job, OVER).await;
    }
    assert_eq!(client.get("/jobs/?limit=web-1").await.1["count"], 3, "limit is reserved");
    assert_eq!(client.get("/jobs/?limit__exact=web-1").await.1["count"], 2);
    assert_eq!(client.get("/unified_jobs/?id__in=1,3").await.1["count"], 2);
    assert_eq!(client.get("/jobs/?nope=1").await.1, json!({"detail": "Job has no field named 'nope'"}));
    assert_eq!(client.get("/jobs/?extra_vars__icontains=x").await.0, 403);
    let (_, first) = client.get("/jobs/?page_size=2&order_by=-id").await;
    assert_eq!((&first["results"][0]["id"], &first["count"]), (&json!(3), &json!(3)));
    let next = first["next"].as_str().unwrap();
    assert_eq!(client.get(next).await.1["results"][0]["id"], 1);
    assert_eq!(client.get("/jobs/?page=9").await.0, 404);
    assert_eq!(client.get("/hosts/?inventory=1&groups__name=web").await.1["count"], 2);
    assert_eq!(client.get("/hosts/?name__in=web-1,db-1&enabled=true").await.1["count"], 2);
    assert_eq!(client.get("/groups/3/all_hosts/").await.1["count"], 3);
    assert_eq!(client.get("/job_templates/apply++Ops/").await.1["name"], "apply");
    let row = &client.get("/jobs/").await.1["results"][0];
    assert!(row.get("event_processing_finished").is_none() && row.get("host_status_counts").is_none());
    let since = format!("/unified_jobs/?unified_job_template={}&created__gte=2000-01-01T00:00:00Z", row["job_template"]);
    assert_eq!(client.get(&since).await.1["count"], 3);
}

#[tokio::test]
async fn prefixes_and_flavours_differ() {
    let aap = started().await;
    let client = Client::new(&aap, "admin-token");
    assert_eq!(client.get("/api/").await.1["available_versions"]["v2"], "/api/v2/");
    assert_eq!(client.get("/api/controller/").await.0, 404);
    let config = Config { flavour: Flavour::Aap, ..Config::example() };
    let aap = Standin::builder().config(config).start().await.unwrap();
    let client = Client::new(&aap, "admin-token");
    assert!(client.get("/api/").await.1["available_versions"].is_null());
    assert_eq!(client.get("/api/controller/").await.1["current_version"], "/api/controller/v2/");
    let (_, template) = client.get("/api/controller/v2/job_templates/apply++Ops/").await;
    assert!(template["url"].as_str().unwrap().starts_with("/api/controller/v2/job_templates/"), "{template}");
}

#[tokio::test]
async fn a_killed_controller_forgets_nothing() {
    let data = tempfile::tempdir().unwrap();
    let begin = || {
        Standin::builder()
            .config(Config::example())
            .data(data.path())
            .script(|job| if job.limit == "web-1" { Script::new(job).held() } else { Script::new(job) })
            .start()
    };
    let aap = begin().await.unwrap();
    let client = Client::new(&aap, "execute-token");
    let done = client.launch("stage", json!({})).await;
    client.until(done, OVER).await;
    client.complete(done).await;
    let running = client.launch("apply", json!({"limit": "web-1"})).await;
    client.until(running, &["running"]).await;
    let body = json!({"name": "s", "unified_job_template": 2, "rrule": one_shot(&aap, 3600)});
    assert_eq!(client.post("/schedules/", body.clone()).await.0, 201);
    let (_, ping) = client.get("/ping/").await;
    aap.stop().await;

    let aap = begin().await.unwrap();
    let client = Client::new(&aap, "execute-token");
    assert_eq!(client.get("/ping/").await.1["install_uuid"], ping["install_uuid"]);
    assert_eq!(client.get(&format!("/jobs/{done}/job_host_summaries/")).await.1["count"], 3);
    assert_eq!(client.post("/schedules/", body).await.0, 400, "the name is still taken");
    aap.release(running);
    assert_eq!(client.until(running, OVER).await["status"], "successful");
    assert_eq!(aap.jobs_of("apply")[0].status, Status::Successful);
    assert_eq!(client.launch("apply", json!({})).await, running + 1, "numbers go on");
}

#[tokio::test]
async fn infrastructure_errors_and_timeouts_have_their_own_status() {
    let aap = Standin::builder()
        .config(Config::example())
        .script(|job| match job.template.as_str() {
            "stage" => Script::new(job).ending(Outcome::Error { traceback: "receptor is down".into() }),
            _ => Script::new(job).held(),
        })
        .start()
        .await
        .unwrap();
    aap.edit(|catalog| {
        for template in catalog.templates.values_mut() {
            template.config.timeout = 1;
        }
    });
    let client = Client::new(&aap, "execute-token");
    let broken = client.launch("stage", json!({})).await;
    let broken = client.until(broken, OVER).await;
    assert_eq!((&broken["status"], &broken["result_traceback"]), (&json!("error"), &json!("receptor is down")));
    let slow = client.launch("apply", json!({})).await;
    let slow = client.until(slow, OVER).await;
    assert_eq!((&slow["status"], &slow["job_explanation"]), (&json!("failed"), &json!("Job terminated due to timeout")));
}

#[tokio::test]
async fn the_example_file_is_a_configuration() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("example.yaml");
    let config = Config::load(&path).unwrap();
    let aap = Standin::builder().config(config).start().await.unwrap();
    let client = Client::new(&aap, "execute-token");
    assert_eq!(client.get("/job_templates/apply++Ops/launch/").await.1["ask_limit_on_launch"], true);
    let read = Client::new(&aap, "read-token");
    let (_, script) = read.get("/inventories/fleet++Ops/script/?hostvars=1&all=1").await;
    assert_eq!(script["_meta"]["hostvars"]["web-1"]["patch_group"], "5");
    assert_eq!(script["web"]["vars"]["fettle_role"], "web");
}

#[tokio::test]
async fn events_come_with_gaps_while_a_job_runs() {
    let aap = held().await;
    aap.fault(Action::EventLag { seconds: 0.4 });
    let client = Client::new(&aap, "execute-token");
    let job = client.launch("apply", json!({})).await;
    let counters = async || -> Vec<i64> {
        let (_, events) = client.get(&format!("/jobs/{job}/job_events/?order_by=counter&page_size=200")).await;
        events["results"].as_array().unwrap().iter().map(|row| row["counter"].as_i64().unwrap()).collect()
    };
    let mut gaps = false;
    for _ in 0..100 {
        let seen = counters().await;
        gaps |= seen.iter().zip(1..).any(|(counter, expected)| *counter != expected);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gaps, "every look showed all counters up to the last");
    aap.release(job);
    client.complete(job).await;
    let seen = counters().await;
    assert!(seen.iter().zip(1..).all(|(counter, expected)| *counter == expected), "{seen:?}");
}

#[tokio::test]
async fn answers_carry_the_controllers_time_and_the_callers_request() {
    let origin = "2030-05-06T07:08:09Z".parse().unwrap();
    let aap = Standin::builder().config(Config::example()).clock(origin).start().await.unwrap();
    let client = Client::new(&aap, "read-token");
    let send = async |id: &str| {
        let request = client.http.get(format!("{}/api/v2/me/", aap.url)).bearer_auth(client.token);
        request.header("X-API-Request-Id", id).send().await.unwrap()
    };
    let id = "0f5b1a4e-6a0e-4b0b-9c57-3b1f0a1c2d3e";
    let answer = send(id).await;
    assert_eq!(answer.headers()["x-api-request-id"].to_str().unwrap(), id);
    assert!(answer.headers()["date"].to_str().unwrap().starts_with("Mon, 06 May 2030 07:08:"), "{:?}", answer.headers());
    assert_ne!(send("not-a-uuid").await.headers()["x-api-request-id"].to_str().unwrap(), "not-a-uuid");
    aap.set_install_uuid("another");
    assert_eq!(client.get("/ping/").await.1["install_uuid"], "another");
}

#[tokio::test(start_paused = true)]
async fn hours_pass_at_once_where_time_is_paused() {
    let config = Config { timing: Timing::default(), ..Config::example() };
    let aap = Standin::builder().config(config).script(|job| Script::new(job).taking(Duration::from_hours(2))).start().await.unwrap();
    let began = aap.now();
    let job = aap.launch_by_hand("apply", &json!({})).unwrap();
    assert!(aap.settled(Duration::from_hours(3)).await);
    let job = aap.jobs().into_iter().find(|other| other.id == job).unwrap();
    assert_eq!(job.status, Status::Successful);
    assert!(aap.now().duration_since(began) >= jiff::SignedDuration::from_hours(2));
    assert!(job.finished.unwrap().duration_since(job.started.unwrap()) >= jiff::SignedDuration::from_hours(2));
}

#[tokio::test]
async fn a_large_inventory_comes_in_pages() {
    let mut config = Config::example();
    let host = config.inventories[0].hosts[0].clone();
    config.inventories[0].hosts.extend((0..997).map(|number| HostConfig { name: format!("x-{number:03}"), ..host.clone() }));
    let aap = Standin::builder().config(config).start().await.unwrap();
    let client = Client::new(&aap, "execute-token");
    let job = client.launch("apply", json!({})).await;
    client.until(job, OVER).await;
    client.complete(job).await;
    for path in ["/inventories/1/hosts/", &format!("/jobs/{job}/job_host_summaries/")] {
        let began = std::time::Instant::now();
        let (_, first) = client.get(&format!("{path}?page_size=5000&order_by=id")).await;
        assert_eq!((first["results"].as_array().unwrap().len(), &first["count"]), (200, &json!(1000)));
        let (_, last) = client.get(&format!("{path}?page_size=5000&order_by=id&page=5")).await;
        assert_eq!((last["results"].as_array().unwrap().len(), &last["next"]), (200, &Value::Null));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_dead_dispatcher_cancels_in_name_only() {
    let aap = held().await;
    let client = Client::new(&aap, "execute-token");
    let job = client.launch("apply", json!({})).await;
    client.until(job, &["running"]).await;
    aap.fault(Action::DispatcherDead);
    let began = std::time::Instant::now();
    assert_eq!(client.post(&format!("/jobs/{job}/cancel/"), json!({})).await.0, 202);
    assert!(began.elapsed() >= Duration::from_millis(300), "slow");
    assert_eq!(client.until(job, OVER).await["status"], "canceled");
    aap.clear_faults();
    aap.release(job);
    assert!(aap.settled(Duration::from_secs(5)).await);
    let (_, body) = client.get(&format!("/jobs/{job}/")).await;
    assert_eq!((&body["status"], &body["event_processing_finished"]), (&json!("canceled"), &json!(false)));
    assert!(aap.summaries(job).is_empty(), "what the playbook still did is not known");
}

#[tokio::test]
async fn a_restarted_dispatcher_gives_jobs_up() {
    let aap = held().await;
    let client = Client::new(&aap, "execute-token");
    let job = client.launch("apply", json!({})).await;
    client.until(job, &["running"]).await;
    aap.fault(Action::Reap);
    let over = client.until(job, OVER).await;
    assert_eq!(over["status"], "failed");
    assert!(over["job_explanation"].as_str().unwrap().starts_with("Task was marked as running at system start up."));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client.get(&format!("/jobs/{job}/")).await.1["event_processing_finished"], false);
}

#[tokio::test]
async fn tokens_are_made_shown_once_and_revoked() {
    let aap = started().await;
    let admin = Client::new(&aap, "admin-token");
    let (status, made) = admin.post("/users/execute/personal_tokens/", json!({"scope": "read"})).await;
    assert_eq!((status, &made["scope"]), (201, &json!("read")));
    let secret: &'static str = made["token"].as_str().unwrap().to_owned().leak();
    let reader = Client::new(&aap, secret);
    assert_eq!(reader.get("/me/").await.1["results"][0]["username"], "execute");
    let id = admin.template("apply").await;
    assert_eq!(reader.post(&format!("/job_templates/{id}/launch/"), json!({})).await.0, 403, "the token only reads");
    assert_eq!(admin.get("/tokens/").await.1["results"][0]["token"], "************");
    let (status, _) = admin.send(Method::DELETE, &format!("/tokens/{}/", made["id"]), None).await.unwrap();
    assert_eq!(status.as_u16(), 204);
    assert_eq!(reader.get("/me/").await.0, 401);
}
