//! The run with its host table.

use fettle::{
    api::patch_run::{Outcome, Phase},
    archive::record::{HostRecord, Record},
};
use serde_json::{Value, json};

use crate::{
    bed::{Bed, host, record},
    cluster::run_path,
};

const RUN: &str = "v1-abcdefghijklmnopq234";
const OLD: &str = "6.1.0-49-cloud-amd64";
const NEW: &str = "6.1.0-53-cloud-amd64";

fn object(state: &str, phases: &Value) -> Value {
    json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "PatchRun",
        "metadata": {"name": "web", "namespace": "patching"},
        "spec": {"connection": {"name": "prod"}, "group": 5, "desiredKernel": NEW, "phases": ["precheck", "apply", "reboot", "postcheck"], "startBy": "2026-11-22T04:00:00Z"},
        "status": {
            "state": state, "phase": "reboot", "attempt": 1, "runKey": RUN, "logURL": "https://fettle.example.com/api/logs/x", "phases": phases,
            "conditions": [{"type": "Succeeded", "status": "Unknown", "reason": "Running", "message": "reboot runs", "lastTransitionTime": "2026-11-21T10:00:00Z"}],
        },
    })
}

async fn records(bed: &Bed) {
    let store = bed.store();
    let before = |name: &str, outcome| HostRecord {
        kernel_before: Some(OLD.into()),
        boot_id_before: Some(format!("{name}-1")),
        ..host(name, outcome)
    };
    let after = |name: &str, outcome| HostRecord {
        kernel_after: Some(NEW.into()),
        boot_id_after: Some(format!("{name}-2")),
        ..host(name, outcome)
    };
    for (phase, hosts) in [
        (Phase::Precheck, vec![before("web-1", Outcome::Ok), before("web-2", Outcome::Ok)]),
        (Phase::Apply, vec![before("web-1", Outcome::Changed), before("web-2", Outcome::Changed)]),
        (
            Phase::Reboot,
            vec![
                after("web-1", Outcome::Changed),
                HostRecord { message: Some("\u{1b}[2Jgone".into()), ..host("web-2", Outcome::Unreachable) },
            ],
        ),
    ] {
        let key = format!("{RUN}-{phase}");
        let log = bed.put_log(&key, phase.as_str().as_bytes()).await;
        store.put_record(&record(&key, phase, Some(log), hosts)).await.unwrap();
    }
}

#[tokio::test]
async fn a_run_is_shown_with_its_hosts_while_it_exists_and_after() {
    let bed = Bed::new().await;
    records(&bed).await;
    let status = json!([
        {"name": "precheck", "runKey": format!("{RUN}-precheck"), "result": "OK", "adopted": true},
        {"name": "apply", "runKey": format!("{RUN}-apply"), "result": "OK"},
        {"name": "postcheck", "runKey": format!("{RUN}-postcheck")},
    ]);
    bed.cluster.put(&run_path("patching", "web"), object("Running", &status));
    let view: Value = bed.get("/api/runs/patching/web", "alice-token").send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&view["exists"], &view["state"], &view["phase"], &view["reason"], &view["attempt"]),
        (&json!(true), &json!("Running"), &json!("reboot"), &json!("Running"), &json!(1))
    );
    assert_eq!(
        (&view["group"], &view["desiredKernel"], &view["logURL"]),
        (&json!(5), &json!(NEW), &json!("https://fettle.example.com/api/logs/x"))
    );
    assert!(view.get("result").is_none(), "it is not over");
    let names: Vec<_> = view["phases"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["precheck", "apply", "reboot", "postcheck"], "of the status and of the records, in order");
    assert_eq!(view["phases"][0]["adopted"], true);
    assert_eq!(view["phases"][2]["hosts"][1]["outcome"], "unreachable");
    assert_eq!(view["phases"][0]["log"]["id"], format!("{RUN}-precheck"));

    bed.cluster.delete(&run_path("patching", "web"));
    let gone: Value = bed.get("/api/runs/patching/web", "alice-token").send().await.unwrap().json().await.unwrap();
    assert_eq!((&gone["exists"], &gone["phase"], &gone["runKey"]), (&json!(false), &json!("reboot"), &json!(RUN)));
    assert!(gone.get("result").is_none(), "that all wanted phases were done is not on record");
    assert_eq!(gone["phases"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn people_get_a_table() {
    let bed = Bed::new().await;
    records(&bed).await;
    bed.cluster.put(&run_path("patching", "web"), object("Running", &json!([])));
    let by_query = bed.get("/api/runs/patching/web?format=table", "alice-token").send().await.unwrap();
    assert_eq!(by_query.headers()["content-type"], "text/plain; charset=utf-8");
    let table = by_query.text().await.unwrap();
    let by_accept =
        bed.get("/api/runs/patching/web", "alice-token").header("accept", "text/plain, */*").send().await.unwrap().text().await.unwrap();
    assert_eq!(table, by_accept);
    let rows: Vec<Vec<&str>> =
        table.lines().skip_while(|line| !line.starts_with("HOST")).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["HOST", "PRECHECK", "APPLY", "REBOOT", "KERNEL", "REBOOTED"], "{table}");
    assert_eq!(rows[1], ["web-1", "ok", "changed", "changed", OLD, "->", NEW, "yes"], "{table}");
    assert_eq!(rows[2], ["web-2", "ok", "changed", "unreachable", OLD, "no"], "{table}");
    assert!(!table.contains('\u{1b}'), "a terminal is not told what to do");
    let json = bed.get("/api/runs/patching/web", "alice-token").header("accept", "*/*").send().await.unwrap();
    assert_eq!(json.headers()["content-type"], "application/json");
}

#[tokio::test]
async fn a_run_is_shown_to_those_who_may_get_it() {
    let bed = Bed::new().await;
    records(&bed).await;
    for (path, token, expected) in [
        ("/api/runs/patching/web", "", 401),
        ("/api/runs/patching/web", "mallory-token", 403),
        ("/api/runs/patching/nothing", "mallory-token", 403),
        ("/api/runs/patching/nothing", "alice-token", 404),
        ("/api/runs/elsewhere/web", "alice-token", 403),
        ("/api/runs/elsewhere/web", "mallory-token", 404),
        ("/api/runs/patching/web", "alice-token", 200),
    ] {
        assert_eq!(bed.status(path, token).await, expected, "{path} {token}");
    }
}

#[tokio::test]
async fn earlier_attempts_are_kept_apart() {
    let bed = Bed::new().await;
    let store = bed.store();
    let second = "v1-bbbbbbbbbbbbbbbbbbbb";
    for (run, attempt, end) in [(RUN, 1, "2026-11-20T10:00:00Z"), (second, 2, "2026-11-21T10:00:00Z")] {
        let key = format!("{run}-precheck");
        let record = Record {
            attempt,
            finished_at: Some(end.parse().unwrap()),
            ..record(&key, Phase::Precheck, None, vec![host("web-1", Outcome::Failed)])
        };
        store.put_record(&record).await.unwrap();
    }
    let view: Value = bed.get("/api/runs/patching/web", "alice-token").send().await.unwrap().json().await.unwrap();
    assert_eq!((&view["attempt"], &view["runKey"]), (&json!(2), &json!(second)));
    assert_eq!(view["earlier"].as_array().unwrap().len(), 1);
    assert_eq!((&view["earlier"][0]["attempt"], &view["earlier"][0]["runKey"]), (&json!(1), &json!(RUN)));
    // a new object of the same name that has not begun is not described by what was before it
    let mut fresh = object("Pending", &json!([]));
    fresh["status"] = json!({"state": "Pending"});
    bed.cluster.put(&run_path("patching", "web"), fresh);
    let view: Value = bed.get("/api/runs/patching/web", "alice-token").send().await.unwrap().json().await.unwrap();
    assert_eq!((view["phases"].as_array().unwrap().len(), view["earlier"].as_array().unwrap().len()), (0, 2));
    assert!(view.get("result").is_none());
}
