//! `GET /api/history` and `GET /api/host/{hostname}` over records that the manager sent.

use fettle::{
    api::{
        classification::{Classification, Tier},
        patch_run::{Outcome, Phase, RunResult},
        shared::NameOrId,
    },
    archive::record::{HostRecord, Record},
};
use serde_json::{Value, json};

use crate::{
    bed::{Bed, host, record, until},
    cluster::run_path,
};

/// Key of the n-th run.
fn run_key(n: u8) -> String {
    format!("v1-aaaaaaaaaaaaaaaaaaa{}", char::from(b'a' + n))
}

fn phase(n: u8, phase: Phase, end: &str) -> Record {
    let end = end.parse().unwrap();
    Record { finished_at: Some(end), ..record(&format!("{}-{phase}", run_key(n)), phase, None, vec![host("web-1", Outcome::Ok)]) }
}

fn failed(record: Record, code: &str) -> Record {
    let classification = Classification { error_code: code.into(), also: vec![], tier: Tier::Decisive, evidence: None };
    let hosts = vec![HostRecord { error_code: Some(code.into()), ..host("web-1", Outcome::Failed) }];
    Record { result: RunResult::Error, reason: "HostsFailed".into(), hosts, classification: Some(classification), ..record }
}

async fn json(bed: &Bed, path: &str, token: &str) -> Value {
    let answer = bed.get(path, token).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}: {}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

async fn names(bed: &Bed, path: &str, token: &str) -> Vec<String> {
    let page = json(bed, path, token).await;
    let name = |item: &Value| format!("{}/{}/{}", item["namespace"].as_str().unwrap(), item["name"].as_str().unwrap(), item["phase"]);
    page["items"].as_array().unwrap().iter().map(|item| name(item).replace('"', "")).collect()
}

/// A server that has these records in its history.
async fn with(records: &[Record]) -> Bed {
    let bed = Bed::new().await;
    for record in records {
        bed.store().put_record(record).await.unwrap();
    }
    let wanted = records.len();
    until(async || {
        let answer = bed.get("/api/history?limit=200", "admin-token").send().await.unwrap();
        answer.status() == 200 && answer.json::<Value>().await.unwrap()["items"].as_array().unwrap().len() == wanted
    })
    .await;
    bed
}

#[tokio::test]
async fn what_the_manager_records_is_in_the_history() {
    let key = format!("{}-apply", run_key(0));
    let bed = Bed::new().await;
    let log = bed.put_log(&key, b"the log").await;
    let apply = failed(Record { log: Some(log), ..phase(0, Phase::Apply, "2026-11-21T10:02:05Z") }, "E-DISK-BOOT");
    bed.store().put_record(&apply).await.unwrap();
    until(async || !names(&bed, "/api/history", "alice-token").await.is_empty()).await;
    let page = json(&bed, "/api/history?group=5", "alice-token").await;
    assert_eq!(
        page,
        json!({"items": [{
            "namespace": "patching", "name": "web", "runKey": run_key(0), "attempt": 1, "connection": "prod", "group": 5,
            "desiredKernel": "6.1.0-53-cloud-amd64", "phase": "apply", "result": "ERROR", "errorCode": "E-DISK-BOOT",
            "reason": "HostsFailed", "message": "every host is proven", "startedAt": "2026-11-21T10:00:00Z",
            "finishedAt": "2026-11-21T10:02:05Z",
            "counts": {"total": 1, "ok": 1, "changed": 0, "failed": 0, "unreachable": 0, "unknown": 0, "missing": 0},
            "logURL": format!("/api/logs/{key}"),
        }]})
    );
    let log = bed.get(page["items"][0]["logURL"].as_str().unwrap(), "alice-token").send().await.unwrap();
    assert_eq!(log.text().await.unwrap(), "the log");
}

#[tokio::test]
async fn a_page_has_what_was_asked_for_newest_first() {
    let named = |record: Record, name: &str| Record { name: name.into(), ..record };
    let bed = with(&[
        named(phase(0, Phase::Precheck, "2026-11-20T10:00:00Z"), "one"),
        named(failed(phase(0, Phase::Apply, "2026-11-20T11:00:00Z"), "E-DNS"), "one"),
        Record { group: Some(NameOrId::Name("six".into())), ..named(phase(1, Phase::Precheck, "2026-11-21T10:00:00Z"), "two") },
        Record { connection: "test".into(), ..named(phase(2, Phase::Precheck, "2026-11-21T11:00:00Z"), "three") },
        Record { hosts: vec![host("db-1", Outcome::Ok)], ..named(phase(3, Phase::Stage, "2026-11-21T12:00:00Z"), "four") },
    ])
    .await;
    let [one, failed, two, three, four] =
        ["one/precheck", "one/apply", "two/precheck", "three/precheck", "four/stage"].map(|name| format!("patching/{name}"));
    for (query, expected) in [
        ("", vec![&four, &three, &two, &failed, &one]),
        ("?group=5", vec![&four, &three, &failed, &one]),
        ("?group=six", vec![&two]),
        ("?group=7", vec![]),
        ("?phase=precheck&limit=2", vec![&three, &two]),
        ("?result=ERROR", vec![&failed]),
        ("?error_code=E-DNS", vec![&failed]),
        ("?error_code=E-DISK-BOOT", vec![]),
        ("?since=2026-11-21T11:00:00Z", vec![&four, &three]),
        ("?connection=test", vec![&three]),
        ("?host=db-1", vec![&four]),
        ("?namespace=patching&phase=apply&group=5", vec![&failed]),
    ] {
        let found = names(&bed, &format!("/api/history{query}"), "alice-token").await;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    // page by page, the same
    let mut pages = vec![];
    let mut path = "/api/history?limit=2".to_owned();
    loop {
        pages.extend(names(&bed, &path, "alice-token").await);
        match json(&bed, &path, "alice-token").await["next"].as_str() {
            Some(next) => path = format!("/api/history?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(pages, [four, three, two, failed, one]);
}

#[tokio::test]
async fn bad_questions_are_told_what_is_allowed() {
    let bed = Bed::new().await;
    for (query, hint) in [
        ("grup=5", "expected one of `group`"),
        ("phase=reboots", "expected one of `precheck`"),
        ("result=ok", "expected `OK` or `ERROR`"),
        ("limit=0", "1 to 200"),
        ("limit=201", "1 to 200"),
        ("limit=-1", "limit"),
        ("limit=99999999999", "limit"),
        ("since=yesterday", "2026-11-01T00:00:00Z"),
        ("since=-5h", "2026-11-01T00:00:00Z"),
        ("cursor=x", "next"),
        ("error_code=DISK", "E-DISK-BOOT"),
        ("group=", "group"),
        ("group=5&group=6", "duplicate field `group`"),
    ] {
        let answer = bed.get(&format!("/api/history?{query}"), "alice-token").send().await.unwrap();
        assert_eq!(answer.status(), 400, "{query}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(hint), "{query}: {problem}");
    }
    assert_eq!(bed.status("/api/host/web-1?grup=5", "alice-token").await, 400);
    assert_eq!(bed.status("/api/history?group=%00", "alice-token").await, 200, "nothing has that name");
}

#[tokio::test]
async fn nobody_sees_what_belongs_to_others() {
    let elsewhere = |n, end| Record { namespace: "elsewhere".into(), name: "secret".into(), ..phase(n, Phase::Precheck, end) };
    let bed = with(&[
        phase(0, Phase::Precheck, "2026-11-20T10:00:00Z"),
        elsewhere(1, "2026-11-20T11:00:00Z"),
        elsewhere(2, "2026-11-20T12:00:00Z"),
        elsewhere(3, "2026-11-20T13:00:00Z"),
    ])
    .await;
    let mine = "patching/web/precheck";
    assert_eq!(names(&bed, "/api/history", "alice-token").await, [mine]);
    assert_eq!(names(&bed, "/api/history?limit=1", "alice-token").await, [mine], "a page is full of what may be seen");
    assert_eq!(names(&bed, "/api/history", "admin-token").await.len(), 4);
    let theirs = json(&bed, "/api/history?limit=1", "mallory-token").await;
    let cursor = theirs["next"].as_str().unwrap();
    assert_eq!(names(&bed, &format!("/api/history?cursor={cursor}"), "alice-token").await, [mine], "a cursor is no permission");
    bed.world.lock().unwrap().person("nobody", "nobody-token");
    assert!(names(&bed, "/api/history", "nobody-token").await.is_empty());
    for (path, token, expected) in [
        ("/api/history", "", 401),
        ("/api/history?namespace=elsewhere", "alice-token", 403),
        ("/api/history?namespace=nothing", "alice-token", 403),
        ("/api/host/web-1", "", 401),
        ("/api/host/web-1", "nobody-token", 404),
        ("/api/host/web-2", "alice-token", 404),
        ("/api/host/web-1?namespace=elsewhere", "alice-token", 403),
    ] {
        assert_eq!(bed.status(path, token).await, expected, "{path} {token}");
    }
    let host = json(&bed, "/api/host/web-1", "alice-token").await;
    assert_eq!(host["known"].as_array().unwrap().len(), 1);
    assert_eq!(host["known"][0]["namespace"], "patching");
    assert_eq!(json(&bed, "/api/host/web-1", "admin-token").await["known"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_host_is_shown_with_its_facts_and_the_run_it_is_in() {
    let seen = |record: Record, before: Option<&str>, after: Option<&str>| {
        let hosts = vec![HostRecord {
            kernel_before: before.map(str::to_owned),
            kernel_after: after.map(str::to_owned),
            boot_id_after: after.map(|_| "second".to_owned()),
            ..host("web-1", Outcome::Changed)
        }];
        Record { hosts, ..record }
    };
    let lost = |record: Record| Record { hosts: vec![host("web-1", Outcome::Unreachable)], ..record };
    let bed = with(&[
        seen(phase(0, Phase::Precheck, "2026-11-20T10:00:00Z"), Some("6.1.0-52"), None),
        seen(phase(0, Phase::Reboot, "2026-11-20T11:00:00Z"), Some("6.1.0-52"), Some("6.1.0-53")),
        lost(phase(1, Phase::Precheck, "2026-11-20T12:00:00Z")),
    ])
    .await;
    let found = json(&bed, "/api/host/web-1", "alice-token").await;
    let known = &found["known"][0];
    assert_eq!((&found["hostname"], &known["connection"], &known["state"]), (&json!("web-1"), &json!("prod"), &json!("Idle")));
    assert_eq!(known["facts"], json!({"kernel": "6.1.0-53", "bootId": "second", "lastSeen": "2026-11-20T11:00:00Z"}));
    let results: Vec<_> = known["results"].as_array().unwrap().iter().map(|r| (r["phase"].as_str(), r["outcome"].as_str())).collect();
    assert_eq!(results, [(Some("precheck"), Some("unreachable")), (Some("reboot"), Some("changed"))]);
    // the run of its last result is not over
    let object = |state: &str, key: String| {
        json!({
            "apiVersion": "fettle.dev/v1alpha1", "kind": "PatchRun", "metadata": {"namespace": "patching", "name": "web"},
            "spec": {"connection": {"name": "prod"}, "group": 5, "phases": ["precheck"]},
            "status": {"state": state, "phase": "stage", "runKey": key},
        })
    };
    let put = |run| bed.cluster.put(&run_path("patching", "web"), run);
    put(object("Running", run_key(1)));
    let known = &json(&bed, "/api/host/web-1", "alice-token").await["known"][0];
    assert_eq!((&known["state"], &known["active"]), (&json!("Running"), &json!({"name": "web", "runKey": run_key(1), "phase": "stage"})));
    for (state, key) in [("Completed", run_key(1)), ("Running", run_key(7))] {
        put(object(state, key));
        let known = &json(&bed, "/api/host/web-1", "alice-token").await["known"][0];
        assert_eq!((&known["state"], known.get("active")), (&json!("Idle"), None), "{state}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_takes_nothing_else_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("history");
    std::fs::write(&blocked, "in the way").unwrap();
    let bed = Bed::resume(directory, &["--history-catch-up", "100ms"]).await;
    bed.store().put_record(&phase(0, Phase::Precheck, "2026-11-20T10:00:00Z")).await.unwrap();
    until(async || bed.get("/ready", "").send().await.unwrap().text().await.unwrap().contains("degraded")).await;
    assert_eq!(bed.status("/ready", "").await, 200);
    assert!((bed.metric("fettle_server_history_degraded").await - 1.0).abs() < 0.1);
    let answer = bed.get("/api/history", "alice-token").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true));
    let text = answer.text().await.unwrap();
    assert!(!text.contains("history.db"), "{text}");
    assert_eq!(bed.status("/api/runs/patching/web", "alice-token").await, 200);
    // the way is free again
    std::fs::remove_file(blocked).unwrap();
    until(async || bed.status("/api/history", "alice-token").await == 200).await;
    assert_eq!(names(&bed, "/api/history", "alice-token").await, ["patching/web/precheck"]);
    assert_eq!(bed.get("/ready", "").send().await.unwrap().text().await.unwrap(), "ok\n");
    until(async || (bed.metric("fettle_server_history_phases").await - 1.0).abs() < 0.1).await;
}

#[tokio::test]
async fn records_that_came_past_the_server_are_found_and_a_lost_history_is_made_again() {
    let bed = Bed::with(&["--history-catch-up", "100ms"]).await;
    // as the manager does with S3
    let archive = fettle::archive::Archive::directory(bed.directory.path().join("archive")).unwrap();
    for (n, end) in [(0, "2026-11-20T10:00:00Z"), (1, "2026-11-21T10:00:00Z")] {
        archive.put_record(&phase(n, Phase::Precheck, end)).await.unwrap();
    }
    until(async || names(&bed, "/api/history", "alice-token").await.len() == 2).await;
    let before = json(&bed, "/api/history", "alice-token").await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::rename(bed.directory.path().join("archive"), directory.path().join("archive")).unwrap();
    let bed = Bed::resume(directory, &[]).await;
    assert_eq!(json(&bed, "/api/history", "alice-token").await, before);
}
