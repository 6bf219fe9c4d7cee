//! Objects that hold nonsense, of every kind that is watched or read: those that are well do not notice.

use std::time::Duration;

use fettle::{
    api::patch_run::{PatchRun, Phase, RunResult},
    names,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::bed::{Bed, NAMESPACE, OPERATOR, connection_path, run_path};

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(30);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to be: {what}");
        sleep(Duration::from_millis(500)).await;
    }
}

fn tekton(plural: &str, name: &str) -> String {
    format!("apis/tekton.dev/v1/namespaces/{NAMESPACE}/{plural}/{name}")
}

fn core(namespace: &str, plural: &str, name: &str) -> String {
    format!("api/v1/namespaces/{namespace}/{plural}/{name}")
}

/// What no schema would let in, and what one would.
fn poison() -> Vec<(String, Value)> {
    let ours = json!({"labels": {"app.kubernetes.io/managed-by": names::MANAGER}});
    let spec = json!({"connection": {"name": "prod"}, "hosts": ["lonely"], "phases": ["apply"], "desiredKernel": "6", "startBy": "2036-11-22T04:00:00Z"});
    let run = |name: &str, object: Value| (run_path(NAMESPACE, name), object);
    let connection = |name: &str, object: Value| (connection_path(NAMESPACE).replace("prod", name), object);
    let phase = json!({"name": "apply", "runKey": "nonsense", "launch": {"mode": "Fenced", "try": 99, "intendedAt": "1970-01-01T00:00:00Z", "schedule": -1},
        "executor": {"kind": "Job", "id": "'; drop"}});
    vec![
        run("no-spec", json!({})),
        run("null-spec", json!({"spec": null})),
        run("text-for-list", json!({"spec": {"connection": {"name": "prod"}, "phases": "all"}})),
        run("unknown-phase", json!({"spec": {"connection": {"name": "prod"}, "group": 5, "phases": ["upgrade"]}})),
        run(
            "end-of-time",
            json!({"spec": {"connection": {"name": "prod"}, "group": 5, "phases": ["precheck"], "startBy": "9999-12-31T23:59:59Z"}}),
        ),
        run(
            "nearly-the-end",
            json!({"spec": {"connection": {"name": "prod"}, "hosts": ["web-1"], "phases": ["apply"], "startBy": "9999-12-30T22:00:00Z"}}),
        ),
        run("unknown-state", json!({"spec": spec, "status": {"state": "Flying"}})),
        run("text-for-status", json!({"spec": spec, "status": "well"})),
        run("strange-status", json!({"spec": spec, "status": {"state": "Running", "attempt": -5, "runKey": "../..", "phases": [phase]}})),
        run("no-phases", json!({"spec": {"connection": {"name": "prod"}, "group": 5, "phases": []}})),
        connection("no-spec", json!({})),
        connection("number-for-text", json!({"spec": {"url": 5, "inventory": "fleet"}})),
        connection("no-url", json!({"spec": {"url": "\u{0}::", "inventory": "fleet"}})),
        connection("strange-status", json!({"spec": {"url": "https://aap.invalid", "inventory": "fleet"}, "status": {"conditions": 7}})),
        connection("strange-secret", {
            let reference = json!({"secretRef": {"name": "strange"}});
            json!({"spec": {"url": "https://aap.invalid", "inventory": "fleet", "readCredentials": reference}})
        }),
        (core(NAMESPACE, "secrets", "strange"), json!({"metadata": {"annotations": 5, "labels": ["x"]}, "data": {"token": "%%%"}})),
        (
            tekton("pipelineruns", "no-status"),
            json!({"metadata": ours, "spec": 5, "status": {"completionTime": "never", "conditions": "none"}}),
        ),
        (tekton("pipelineruns", "strange-labels"), json!({"metadata": {"labels": 7}, "spec": {}, "status": {"completionTime": "never"}})),
        (tekton("taskruns", "no-status"), json!({"metadata": ours, "status": {"steps": "none", "podName": 5}})),
        (core(OPERATOR, "configmaps", "fettle-ledger-nobody-00"), json!({"data": {"web-1": "{"}})),
    ]
}

#[tokio::test(start_paused = true)]
async fn objects_that_cannot_be_read_do_not_stop_the_others() {
    let bed = Bed::new().await;
    let (before, meanwhile): (Vec<_>, Vec<_>) = poison().into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    for (_, (path, object)) in before {
        bed.api.put(&path, object);
    }
    let _manager = bed.controllers();
    bed.apply("web", json!({"startBy": "2036-11-22T04:00:00Z"}));
    until("the first launch", || !bed.aap.schedules().is_empty()).await;
    for (_, (path, object)) in meanwhile {
        bed.api.put(&path, object);
    }
    bed.apply("unreadable", json!({"connection": {"name": "number-for-text"}, "phases": ["apply"]}));
    until("the end of a run among them", || bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.status("web").hosts.as_deref()), (Some(RunResult::Ok), Some("3/3")));
    assert!(bed.aap.jobs().iter().all(|job| job.options["limit"] == "db-1,web-1,web-2"), "something else was launched");
    assert_eq!(bed.launched(), ["apply", "reboot", "stage"].map(|name| (name.to_owned(), 1)).into());
    until("a run says that its connection cannot be read", || bed.reason("unreadable") == "ConnectionInvalid").await;
    assert!(bed.message("unreadable").contains("does not fit its schema"), "{}", bed.message("unreadable"));
    // mended, it goes on
    let good = bed.api.get(&connection_path(NAMESPACE)).unwrap()["spec"].clone();
    bed.api.edit(&connection_path(NAMESPACE).replace("prod", "number-for-text"), |connection| connection["spec"] = good);
    until("a connection that was mended is used", || bed.settled("unreadable")).await;
    assert_eq!(bed.status("unreadable").result, Some(RunResult::Ok));
}

#[tokio::test(start_paused = true)]
async fn nonsense_under_a_runs_own_names_stops_nobody_else() {
    let bed = Bed::new().await;
    let run: PatchRun = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"connection": {"name": "prod"}, "hosts": ["web-1"], "desiredKernel": "6", "phases": ["precheck"]}}))
    .unwrap();
    let key = names::run_key("east", &run, 1);
    bed.api.put(&core(NAMESPACE, "configmaps", &names::scope(&key)), json!({"data": {"scope.json": "{\"hosts\": 5"}, "immutable": true}));
    bed.api.put(&run_path(NAMESPACE, "web"), serde_json::to_value(&run).unwrap());
    let _manager = bed.controllers();
    bed.apply("db", json!({"group": null, "hosts": ["db-1"], "phases": ["precheck", "apply"]}));
    until("the end of a run beside it", || bed.settled("db")).await;
    assert_eq!(bed.status("db").result, Some(RunResult::Ok));
    until("it says what to do", || bed.reason("web") == "InventoryUnavailable").await;
    assert!(bed.message("web").contains(&names::scope(&key)) && bed.message("web").ends_with("delete it"), "{}", bed.message("web"));

    // an entry of the ledger that nobody understands keeps its host, and no other
    let uuid = bed.api.get(&connection_path(NAMESPACE)).unwrap()["status"]["installUUID"].as_str().unwrap().to_owned();
    for shard in 0..16 {
        let path = core(OPERATOR, "configmaps", &format!("fettle-ledger-{}-{shard:02}", names::short_hash(uuid.as_bytes())));
        let entry = json!({"web-2": "{\"namespace\": 5"});
        if bed.api.get(&path).is_some() {
            bed.api.edit(&path, |map| map["data"]["web-2"] = entry["web-2"].clone());
        } else {
            bed.api.put(&path, json!({"data": entry}));
        }
    }
    bed.apply("held", json!({"group": null, "hosts": ["web-2"], "phases": ["apply"]}));
    bed.apply("free", json!({"group": null, "hosts": ["web-1"], "phases": ["apply"]}));
    until("the end of a run of another host", || bed.settled("free")).await;
    until("the run of that host waits", || bed.reason("held") == "HostsBusy").await;
    assert_eq!((bed.status("free").result, bed.status("held").of(Phase::Apply)), (Some(RunResult::Ok), None));
}
