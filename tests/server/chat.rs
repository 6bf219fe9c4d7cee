//! Sentences, and what becomes of them.

use fettle::{
    api::{
        classification::{Classification, Evidence, Tier},
        patch_run::{Outcome, Phase, RunResult},
    },
    archive::record::{HostRecord, Record},
};
use serde_json::{Value, json};

use crate::{
    bed::{Bed, host, record, until},
    cluster::run_path,
};

const KERNEL: &str = "6.1.0-53-cloud-amd64";
const RUN: &str = "v1-abcdefghijklmnopq234";

/// A server whose users have defaults.
async fn bed() -> Bed {
    let bed = Bed::new().await;
    let defaults = "- {groups: [team], namespace: patching, connection: prod}";
    let path = "api/v1/namespaces/fettle-system/configmaps/fettle-config";
    bed.cluster.put(path, json!({"data": {"RUN_DEFAULTS": defaults, "SERVER_URL": "https://fettle.example.com"}}));
    until(async || !say(&bed, "status of group 5").await["reply"].as_str().unwrap().contains("which namespace")).await;
    bed
}

async fn say_as(bed: &Bed, token: &str, message: &str) -> (u16, Value) {
    let answer = bed.http.post(bed.url("/api/chat")).bearer_auth(token).json(&json!({"message": message})).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn say(bed: &Bed, message: &str) -> Value {
    let (code, reply) = say_as(bed, "alice-token", message).await;
    assert_eq!(code, 200, "{message}: {reply}");
    reply
}

fn has(reply: &Value, parts: &[&str]) {
    let text = reply["reply"].as_str().unwrap();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

fn change(kernel: &str, created: &str, state: &str) -> Value {
    json!({
        "metadata": {"creationTimestamp": created},
        "spec": {"connection": {"name": "prod"}, "group": 5, "desiredKernel": kernel, "phases": ["stage"], "startBy": "2099-01-01T00:00:00Z"},
        "status": {"state": state},
    })
}

#[tokio::test]
async fn what_is_not_understood_does_nothing_and_lists_what_is() {
    let bed = bed().await;
    for sentence in ["reboot everything", "precheck group 5 and reboot group 6", "", "how are you"] {
        let reply = say(&bed, sentence).await;
        assert_eq!((&reply["understood"], reply.get("intent")), (&json!(false), None), "{sentence}");
        has(&reply, &["did nothing", "Precheck group 5", "why did group 5 fail"]);
    }
    has(&say(&bed, "help").await, &["Stage patch to group 5"]);
    assert_eq!(bed.cluster.runs(), [""; 0]);
    let (code, _) = say_as(&bed, "nobody", "Precheck group 5").await;
    assert_eq!(code, 401);
}

#[tokio::test]
async fn a_phase_is_started_and_the_run_is_named() {
    let bed = bed().await;
    let reply = say(&bed, "Precheck group 5").await;
    let name = bed.cluster.runs().pop().unwrap();
    assert_eq!((&reply["understood"], &reply["intent"]), (&json!(true), &json!("run")));
    assert_eq!(reply["run"], json!({"namespace": "patching", "name": name}));
    has(&reply, &["precheck of group 5 waits", &format!("patching/{name}")]);
    let run = bed.cluster.run("patching", &name);
    assert_eq!(
        (&run["spec"]["phases"], &run["metadata"]["annotations"]["fettle.dev/requested-by"]),
        (&json!(["precheck"]), &json!("alice"))
    );
    // a retry joins, also one over the other address
    say(&bed, "please precheck the group 5!").await;
    let ask = bed.ask("precheck?wait=0", &json!({"group": "5"})).send().await.unwrap();
    assert_eq!(ask.status(), 202);
    assert_eq!(bed.cluster.runs().len(), 1);
}

#[tokio::test]
async fn a_change_says_which_credentials_are_missing_and_how_to_give_them() {
    let bed = bed().await;
    let message = "Secret aap is not there; create it: kubectl -n patching create secret generic aap --from-literal=token=…";
    let waits = async {
        until(async || bed.cluster.runs().len() == 1).await;
        let conditions = json!([{"type": "Succeeded", "status": "Unknown", "reason": "AwaitingCredentials", "message": message, "lastTransitionTime": "2026-11-21T10:00:00Z"}]);
        bed.cluster.status("patching", &bed.cluster.runs()[0], &json!({"state": "AwaitingCredentials", "conditions": conditions}));
    };
    let sentence = format!("Stage patch to group 5 kernel {KERNEL}");
    let (reply, ()) = tokio::join!(say(&bed, &sentence), waits);
    has(&reply, &["waits for credentials", message, "starts by itself when they are there"]);
    assert_eq!(bed.cluster.run("patching", &bed.cluster.runs()[0])["spec"]["desiredKernel"], KERNEL);
}

#[tokio::test]
async fn a_kernel_that_is_not_named_is_that_of_the_last_run_or_asked_for() {
    let bed = bed().await;
    let reply = say(&bed, "Reboot group 5").await;
    has(&reply, &["Which kernel?", "reboot group 5 kernel"]);
    assert_eq!(bed.cluster.runs(), [""; 0]);
    bed.cluster.put(&run_path("patching", "old"), change("6.1.0-49-cloud-amd64", "2026-11-01T00:00:00Z", "Completed"));
    bed.cluster.put(&run_path("patching", "new"), change(KERNEL, "2026-11-20T00:00:00Z", "Completed"));
    until(async || say(&bed, "status of group 5").await["run"]["name"] == "new").await;
    has(&say(&bed, "Apply patch to group 5").await, &[&format!("With kernel {KERNEL}, as in the last run of group 5.")]);
    let name = bed.cluster.runs().into_iter().find(|name| name.starts_with("apply-5-")).unwrap();
    assert_eq!(bed.cluster.run("patching", &name)["spec"]["desiredKernel"], KERNEL);
    // two that are under way differ: nobody chooses
    bed.cluster.put(&run_path("patching", "other"), change("6.1.0-54-cloud-amd64", "2026-11-02T00:00:00Z", "Running"));
    until(async || say(&bed, "status of run other").await["reply"].as_str().unwrap().contains("Running")).await;
    has(&say(&bed, "Postcheck group 5").await, &["Which kernel?"]);
}

#[tokio::test]
async fn why_it_failed_is_told_with_hosts_evidence_and_code() {
    let bed = bed().await;
    let key = format!("{RUN}-precheck");
    let log = bed.put_log(&key, "TASK [space]\nfatal: [web-1]: no space left on /boot\u{1b}[2J\n".as_bytes()).await;
    let failed = Record {
        result: RunResult::Error,
        reason: "HostsFailed".into(),
        message: "1 of 2 hosts did not end well".into(),
        name: "web".into(),
        classification: Some(Classification {
            error_code: "E-DISK-BOOT".into(),
            also: vec![],
            tier: Tier::Decisive,
            evidence: Some(Evidence { line: 2, excerpt: "no space left on /boot".into(), captures: std::collections::BTreeMap::default() }),
        }),
        ..record(
            &key,
            Phase::Precheck,
            Some(log.clone()),
            vec![HostRecord { error_code: Some("E-DISK-BOOT".into()), ..host("web-1", Outcome::Failed) }],
        )
    };
    bed.store().put_record(&failed).await.unwrap();
    let phase = json!({"name": "precheck", "runKey": key, "result": "ERROR", "log": log, "failedHosts": [{"name": "web-1", "outcome": "failed", "message": "no space"}]});
    let status = json!({"state": "Completed", "result": "ERROR", "errorCode": "E-DISK-BOOT", "logURL": "https://fettle.example.com/api/logs/x", "phases": [phase],
        "conditions": [{"type": "Succeeded", "status": "False", "reason": "HostsFailed", "message": "1 of 2 hosts did not end well", "lastTransitionTime": "2026-11-21T10:00:00Z"}]});
    let run = json!({"spec": {"connection": {"name": "prod"}, "group": 5, "phases": ["precheck"]}, "status": status});
    bed.cluster.put(&run_path("patching", "web"), run);
    until(async || say(&bed, "status of group 5").await["run"]["name"] == "web").await;
    let reply = say(&bed, "why did group 5 fail?").await;
    has(
        &reply,
        &[
            "HostsFailed",
            "1 of 2 hosts did not end well",
            "- web-1 failed: no space",
            "Line 2 of the log shows it: no space left on /boot",
            "E-DISK-BOOT",
        ],
    );
    assert_eq!(reply["log_url"], "https://fettle.example.com/api/logs/x");
    has(&say(&bed, "status of run web").await, &["precheck of group 5: ERROR. E-DISK-BOOT."]);
    let log = say(&bed, "show log of group 5").await;
    has(&log, &["no space left on /boot"]);
    assert!(!log["reply"].as_str().unwrap().contains('\u{1b}'), "a terminal is not told what to do");
    until(async || say(&bed, "history of group 5").await["reply"].as_str().unwrap().contains("newest first")).await;
    has(&say(&bed, "history of group 5").await, &["precheck ERROR", "1 of 2 hosts did not end well (run patching/web)"]);
    has(&say(&bed, "history of host web-1").await, &["precheck failed E-DISK-BOOT", "(run patching/web)"]);
    has(&say(&bed, "history of host web-9").await, &["Nothing is on record of host web-9."]);
}

#[tokio::test]
async fn cancelling_needs_the_right_and_ends_the_one_run_that_is_under_way() {
    let bed = bed().await;
    has(&say(&bed, "cancel group 5").await, &["nothing to cancel"]);
    bed.cluster.put(&run_path("patching", "one"), change(KERNEL, "2026-11-01T00:00:00Z", "Running"));
    bed.cluster.put(&run_path("patching", "two"), change(KERNEL, "2026-11-02T00:00:00Z", "Running"));
    until(async || say(&bed, "cancel group 5").await["reply"].as_str().unwrap().contains("Several runs")).await;
    assert!(bed.cluster.run("patching", "two")["spec"]["cancel"].is_null());
    // who may look may not cancel
    let (code, problem) = say_as(&bed, "robot-token", "cancel run patching/two").await;
    assert_eq!((code, problem["detail"].as_str().unwrap().contains("you may not change")), (403, true), "{problem}");
    let (code, _) = say_as(&bed, "mallory-token", "cancel run patching/two").await;
    assert_eq!(code, 403);
    let reply = say(&bed, "cancel run two").await;
    has(&reply, &["patching/two of group 5 is being cancelled"]);
    assert_eq!(bed.cluster.run("patching", "two")["spec"]["cancel"], true);
    bed.cluster.status("patching", "two", &json!({"state": "Completed", "result": "ERROR"}));
    has(&say(&bed, "cancel run two").await, &["over already"]);
}

#[tokio::test]
async fn what_may_not_be_seen_or_done_is_refused() {
    let bed = bed().await;
    bed.cluster.put(&run_path("patching", "web"), change(KERNEL, "2026-11-01T00:00:00Z", "Running"));
    for sentence in [
        "status of run patching/web",
        "status of run patching/nothing",
        "status of group 5",
        "why did group 5 fail",
        "Precheck group 5",
        "history of host web-1",
    ] {
        assert_eq!(say_as(&bed, "mallory-token", sentence).await.0, 403, "{sentence}");
    }
    // without defaults nothing is guessed either
    bed.world.lock().unwrap().account("stranger", "stranger-token", "fettle");
    let (code, reply) = say_as(&bed, "stranger-token", "Precheck group 5").await;
    assert_eq!(code, 200);
    has(&reply, &["namespace is missing"]);
    assert_eq!(bed.cluster.runs(), ["web"]);
}
