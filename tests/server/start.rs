//! `POST /api/run/{phase}`: one run however often and by how many it is asked for, and two answers.

use std::time::Duration;

use http::header;
use serde_json::{Value, json};

use crate::{
    bed::{Bed, until},
    cluster::{Mood, run_path},
};

const KERNEL: &str = "6.1.0-53-cloud-amd64";
const LOG: &str = "https://fettle.example.com/api/logs/x";

fn precheck() -> Value {
    json!({"group": 5, "namespace": "patching", "connection": "prod"})
}

fn apply() -> Value {
    json!({"group": 5, "namespace": "patching", "connection": "prod", "desired_kernel": KERNEL})
}

/// The status of a run that is over.
fn over(result: &str) -> Value {
    json!({"state": "Completed", "result": result, "logURL": LOG})
}

/// Ends the run that is there as soon as there are so many.
async fn end(bed: &Bed, runs: usize, result: &str) -> String {
    until(async || bed.cluster.runs().len() == runs).await;
    let name = bed.cluster.runs().pop().unwrap();
    bed.cluster.status("patching", &name, &over(result));
    name
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn it_waits_and_says_ok_or_error_with_the_log() {
    let bed = Bed::new().await;
    let (ok, first) = tokio::join!(bed.ask("precheck", &precheck()).send(), end(&bed, 1, "OK"));
    let ok = ok.unwrap();
    assert_eq!((ok.status().as_u16(), ok.text().await.unwrap().as_str()), (200, r#"{"status":"OK"}"#));
    let run = bed.cluster.run("patching", &first);
    assert_eq!(run["spec"], json!({"connection": {"name": "prod"}, "group": 5, "phases": ["precheck"]}));
    assert_eq!(run["metadata"]["annotations"]["fettle.dev/requested-by"], "alice");
    // the next is another run, of the next number
    let (error, second) = tokio::join!(bed.ask("precheck", &precheck()).send(), end(&bed, 2, "ERROR"));
    let error = error.unwrap();
    assert_eq!(error.status(), 200);
    assert_eq!(error.text().await.unwrap(), format!(r#"{{"status":"ERROR","log_url":"{LOG}"}}"#));
    assert_eq!(second, format!("{first}-2"));
}

#[tokio::test]
async fn an_error_without_a_log_leads_to_the_run() {
    let bed = Bed::new().await;
    let settings = json!({"data": {"SERVER_URL": "https://fettle.example.com/"}});
    bed.cluster.put("api/v1/namespaces/fettle-system/configmaps/fettle-config", settings);
    let ended = async {
        until(async || bed.cluster.runs().len() == 1).await;
        let name = bed.cluster.runs().pop().unwrap();
        bed.cluster.status("patching", &name, &json!({"state": "Completed", "result": "ERROR"}));
        name
    };
    let ((code, body), name) = tokio::join!(answer(bed.ask("precheck", &precheck())), ended);
    let run = format!("https://fettle.example.com/api/runs/patching/{name}");
    assert_eq!((code, body), (200, json!({"status": "ERROR", "log_url": run})));
}

#[tokio::test]
async fn a_retry_joins_the_run_that_is_not_over() {
    let bed = Bed::new().await;
    let async_ask = || bed.ask("apply", &apply()).header("prefer", "respond-async");
    let first = async_ask().send().await.unwrap();
    assert_eq!((first.status().as_u16(), &first.headers()["preference-applied"]), (202, &"respond-async".parse().unwrap()));
    let location = first.headers()[header::LOCATION].to_str().unwrap().to_owned();
    // the group as text, and another time, are the same content
    let mut again = apply();
    again["group"] = json!("5");
    again["start_by"] = json!("2099-01-01T00:00:00Z");
    let second = bed.ask("apply?wait=0", &again).send().await.unwrap();
    assert_eq!((second.status().as_u16(), second.headers()[header::LOCATION].to_str().unwrap()), (202, location.as_str()));
    assert_eq!(bed.cluster.runs().len(), 1);
    assert_eq!(bed.status(&location, "alice-token").await, 200, "the location is the run");
    // one that is being cancelled is not joined
    let name = bed.cluster.runs().pop().unwrap();
    let mut run = bed.cluster.run("patching", &name);
    run["spec"]["cancel"] = json!(true);
    bed.cluster.put(&run_path("patching", &name), run);
    let third = async_ask().send().await.unwrap();
    assert_eq!(third.headers()[header::LOCATION], format!("{location}-2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_one_run() {
    let bed = Bed::new().await;
    let asks = (0..12).map(|_| bed.ask("precheck?wait=0", &precheck()).send());
    let mut locations: Vec<String> = vec![];
    for answer in futures::future::join_all(asks).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 202);
        locations.push(answer.headers()[header::LOCATION].to_str().unwrap().to_owned());
    }
    locations.dedup();
    assert_eq!((locations.len(), bed.cluster.runs().len()), (1, 1));
}

#[tokio::test]
async fn one_who_was_beaten_by_another_server_joins() {
    let bed = Bed::new().await;
    bed.cluster.next_creation(Mood::Beaten);
    let answer = bed.ask("precheck?wait=0", &precheck()).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(bed.cluster.runs().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_and_a_restart_leave_one_run() {
    let bed = Bed::new().await;
    let cluster = bed.cluster.clone();
    bed.cluster.next_creation(Mood::AnswerLost);
    let ask = |bed: &Bed| bed.ask("precheck?wait=0", &precheck()).header("idempotency-key", "key-1");
    let (code, problem) = answer(ask(&bed)).await;
    assert_eq!(code, 503);
    assert!(problem["detail"].as_str().unwrap().contains("repeat the request"), "{problem}");
    drop(bed);
    // another server, which knows nothing but the cluster; the run ended meanwhile
    let name = cluster.runs().pop().unwrap();
    cluster.status("patching", &name, &over("OK"));
    let bed = Bed::within(tempfile::tempdir().unwrap(), cluster.clone(), &[]).await;
    assert_eq!(answer(ask(&bed)).await, (200, json!({"status": "OK"})));
    assert_eq!(cluster.runs(), std::slice::from_ref(&name));
    // without the key it would be the next
    assert_eq!(answer(bed.ask("precheck?wait=0", &precheck())).await.1["name"], format!("{name}-2"));
}

#[tokio::test]
async fn a_key_is_of_one_user_one_request_and_one_day() {
    let bed = Bed::new().await;
    let ask = |body: &Value, key: &str| bed.ask("precheck?wait=0", body).header("idempotency-key", key);
    let (_, first) = answer(ask(&precheck(), "one")).await;
    let name = first["name"].as_str().unwrap().to_owned();
    let other = json!({"group": 6, "namespace": "patching", "connection": "prod"});
    let (code, problem) = answer(ask(&other, "one")).await;
    assert_eq!(code, 422);
    assert!(problem["detail"].as_str().unwrap().contains("another request"), "{problem}");
    bed.cluster.status("patching", &name, &over("OK"));
    assert_eq!(answer(ask(&precheck(), "one")).await.0, 200, "over, and still the one of this key");
    // the same key of somebody else is another
    bed.world.lock().unwrap().grants.insert(("mallory".into(), "patching".into(), "*".into()));
    bed.world.lock().unwrap().verbs.insert(("mallory".into(), "create".into()));
    let theirs = ask(&precheck(), "one").bearer_auth("mallory-token");
    // two headers are no identity
    assert_eq!(theirs.send().await.unwrap().status(), 401);
    let theirs = bed.http.post(bed.url("/api/run/precheck?wait=0")).bearer_auth("mallory-token").header("idempotency-key", "one");
    assert_eq!(answer(theirs.json(&precheck())).await.1["name"], format!("{name}-2"));
    // a day later the key is free
    let mut run = bed.cluster.run("patching", &name);
    run["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    bed.cluster.put(&run_path("patching", &name), run);
    assert_eq!(answer(ask(&other, "one")).await.0, 202);
    for bad in ["", &"k".repeat(256)] {
        assert_eq!(ask(&precheck(), bad).send().await.unwrap().status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn the_name_of_a_run_that_is_gone_is_not_used_again() {
    let bed = Bed::new().await;
    let (_, first) = answer(bed.ask("precheck?wait=0", &precheck())).await;
    let name = first["name"].as_str().unwrap();
    let mut record = crate::bed::record("v1-abcdefghijklmnopq234-precheck", fettle::api::patch_run::Phase::Precheck, None, vec![]);
    name.clone_into(&mut record.name);
    bed.store().put_record(&record).await.unwrap();
    bed.cluster.delete(&run_path("patching", name));
    let (_, second) = answer(bed.ask("precheck?wait=0", &precheck())).await;
    assert_eq!(second["name"], format!("{name}-2"), "the old name has a result already");
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_in_its_words() {
    let bed = Bed::new().await;
    let mut body = apply();
    body["desired_kernel"] = json!("latest");
    let (code, problem) = answer(bed.ask("apply", &body)).await;
    assert_eq!((code, &problem["status"]), (422, &json!(422)));
    assert!(problem["detail"].as_str().unwrap().contains("desiredKernel must be exactly what `uname -r` will say"), "{problem}");
    bed.cluster.next_creation(Mood::Refused);
    let (code, problem) = answer(bed.ask("apply", &apply())).await;
    assert_eq!(code, 422);
    assert!(problem["detail"].as_str().unwrap().contains("exceeded quota"), "{problem}");
    assert!(problem["requestId"].is_string());
    assert_eq!(bed.cluster.runs(), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_and_nothing_is_created() {
    let bed = Bed::new().await;
    for (phase, body, code, said) in [
        ("sweep", precheck(), 404, "no such phase"),
        ("apply", precheck(), 422, "desired_kernel is missing"),
        ("precheck", json!({"group": 5}), 422, "namespace is missing"),
        ("precheck", json!({"group": "all", "namespace": "patching", "connection": "prod"}), 422, "group must be"),
        ("precheck", json!({"group": 5, "namespace": "../x", "connection": "prod"}), 422, "namespace is not"),
        ("precheck", json!({"group": 5, "limit": "*"}), 422, "unknown field `limit`"),
        (
            "precheck",
            json!({"group": 5, "namespace": "elsewhere", "connection": "prod"}),
            403,
            "you may not create PatchRuns in the namespace elsewhere",
        ),
        (
            "apply",
            json!({"group": 5, "namespace": "patching", "connection": "prod", "desired_kernel": KERNEL, "start_by": "2020-01-01T00:00:00Z"}),
            422,
            "start_by is over",
        ),
    ] {
        let (status, problem) = answer(bed.ask(phase, &body)).await;
        assert_eq!(status, code, "{phase} {body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{phase} {body}: {problem}");
    }
    assert_eq!(answer(bed.ask("precheck?wait=soon", &precheck())).await.0, 422);
    let nobody = bed.http.post(bed.url("/api/run/precheck")).json(&precheck()).send().await.unwrap();
    assert_eq!(nobody.status(), 401);
    // who may look may not start
    let robot = bed.http.post(bed.url("/api/run/precheck")).bearer_auth("robot-token").json(&precheck()).send().await.unwrap();
    assert_eq!(robot.status(), 403);
    assert_eq!(bed.cluster.runs(), [""; 0]);
    assert!(!bed.cluster.asked().iter().any(|call| call.starts_with("POST")), "{:?}", bed.cluster.asked());
}

#[tokio::test]
async fn missing_credentials_are_told_with_the_command_when_the_time_is_up() {
    let bed = Bed::new().await;
    let message = "Secret aap is not there; create it: kubectl -n patching create secret generic aap --from-literal=token=…";
    let waiting = async {
        until(async || bed.cluster.runs().len() == 1).await;
        let name = bed.cluster.runs().pop().unwrap();
        let conditions = json!([{"type": "Succeeded", "status": "Unknown", "reason": "AwaitingCredentials", "message": message, "lastTransitionTime": "2026-11-21T10:00:00Z"}]);
        bed.cluster.status("patching", &name, &json!({"state": "AwaitingCredentials", "conditions": conditions}));
        name
    };
    let ((code, body), name) = tokio::join!(answer(bed.ask("stage?wait=2s", &apply())), waiting);
    assert_eq!(code, 202);
    assert_eq!(
        (&body["namespace"], &body["name"], &body["state"], &body["reason"], &body["message"]),
        (&json!("patching"), &json!(name), &json!("AwaitingCredentials"), &json!("AwaitingCredentials"), &json!(message))
    );
    assert!(body["next"].as_str().unwrap().contains("Create the Secret that the message names"), "{body}");
    assert_eq!(body["url"], format!("/api/runs/patching/{name}"));
    // the wait of a later request ends with the run
    let (ended, ()) = tokio::join!(answer(bed.ask("stage", &apply())), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bed.cluster.status("patching", &name, &over("OK"));
    });
    assert_eq!(ended, (200, json!({"status": "OK"})));
}

#[tokio::test]
async fn one_who_goes_away_changes_nothing() {
    let bed = Bed::new().await;
    let gone = bed.ask("precheck", &precheck()).timeout(Duration::from_secs(1)).send().await;
    assert!(gone.unwrap_err().is_timeout());
    let name = bed.cluster.runs().pop().unwrap();
    assert!(bed.cluster.run("patching", &name)["spec"]["cancel"].is_null());
    until(async || bed.metric("fettle_server_waiting").await < 0.5).await;
    bed.cluster.status("patching", &name, &over("OK"));
    assert_eq!(bed.cluster.runs(), [name]);
}

#[tokio::test]
async fn an_object_that_is_deleted_proves_nothing() {
    let bed = Bed::new().await;
    let ((code, body), name) = tokio::join!(answer(bed.ask("precheck", &precheck())), async {
        until(async || bed.cluster.runs().len() == 1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let name = bed.cluster.runs().pop().unwrap();
        bed.cluster.delete(&run_path("patching", &name));
        name
    });
    assert_eq!((code, body), (200, json!({"status": "ERROR", "log_url": format!("/api/runs/patching/{name}")})));
}

#[tokio::test]
async fn defaults_come_from_the_configuration_as_it_stands() {
    let bed = Bed::new().await;
    let path = "api/v1/namespaces/fettle-system/configmaps/fettle-config";
    let configure =
        |defaults: &str| bed.cluster.put(path, json!({"data": {"RUN_DEFAULTS": defaults, "SERVER_URL": "https://fettle.example.com"}}));
    let ask = async || answer(bed.ask("precheck?wait=0", &json!({"group": 5}))).await;
    assert_eq!(ask().await.0, 422);
    configure("- {groups: [team], namespace: patching, connection: prod}");
    until(async || ask().await.0 == 202).await;
    let run = bed.cluster.run("patching", &bed.cluster.runs()[0]);
    assert_eq!(run["spec"]["connection"]["name"], "prod");
    // a change phase gets its time from there
    configure("- {groups: [team], namespace: patching, connection: prod, startWithin: 30m}");
    let stage = json!({"group": 6, "desired_kernel": KERNEL});
    assert_eq!(answer(bed.ask("stage?wait=0", &stage)).await.0, 202);
    assert!(bed.cluster.run("patching", &bed.cluster.runs()[1])["spec"]["startBy"].is_string());
    configure("- {groups: [team], namespace: patching, connection: prod, startWithin: soon}");
    until(async || ask().await.0 == 503).await;
    let (_, problem) = ask().await;
    assert!(problem["detail"].as_str().unwrap().contains("RUN_DEFAULTS entry 1: startWithin"), "{problem}");
    bed.cluster.delete(path);
    until(async || ask().await.0 == 422).await;
}

#[tokio::test]
async fn each_user_may_write_so_often_and_read_so_often() {
    let bed = Bed::with(&["--reads-per-minute", "6", "--writes-per-minute", "2"]).await;
    let ask = async || bed.ask("precheck?wait=0", &precheck()).send().await.unwrap();
    assert_eq!([ask().await.status().as_u16(), ask().await.status().as_u16()], [202, 202]);
    let refused = ask().await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["content-type"]), (429, &"application/problem+json".parse().unwrap()));
    let seconds: u64 = refused.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=31).contains(&seconds), "{seconds}");
    // reads are counted apart, users too, and the manager sends what it has
    let path = "/api/runs/patching/nothing";
    let mut codes = vec![];
    for _ in 0..4 {
        codes.push(bed.status(path, "alice-token").await);
    }
    assert_eq!(codes, [404, 404, 404, 429]);
    assert_eq!(bed.status(path, "admin-token").await, 404);
    for _ in 0..8 {
        assert_eq!(bed.status("/internal/records/v1-abcdefghijklmnopq234-apply", "manager-token").await, 404);
    }
}
