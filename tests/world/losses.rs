//! What is taken away while a run works: its scope, its namespace, its pod, the cluster's memory.

use std::collections::BTreeSet;

use fettle::{
    api::patch_run::{Outcome, Phase, RunResult, State},
    archive::Key,
    controllers::patch_run::ledger::{Holder, Ledger},
};
use fettle_standins::aap::{Action, Config, Fault, Script, Status};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::json;

use crate::{
    bed::{Bed, NAMESPACE, connection_path, run_path},
    calls::Calls,
    stories::{holding, is_running},
    tekton::{Found, Tekton},
};

fn scope_path(bed: &Bed) -> String {
    bed.api.paths("-scope").into_iter().next().expect("a scope")
}

/// Launches are direct from now on.
fn direct(bed: &Bed) {
    bed.api.edit(&connection_path(NAMESPACE), |connection| connection["spec"]["launchMode"] = json!("Direct"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_whose_scope_was_deleted_are_known_to_the_ledger() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply", "postcheck"]}));
    bed.drive("web", 60, |bed| is_running(bed, "apply")).await;
    bed.api.delete(&scope_path(&bed));
    bed.kill();
    bed.aap.release(bed.job("apply").id);
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.result, status.hosts.as_deref()), (Some(RunResult::Ok), Some("3/3")), "{status:#?}");
    assert_eq!((bed.launched(), bed.locked()), ([("apply".into(), 1)].into(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_whose_scope_and_entries_are_gone_are_those_of_the_inventory_when_that_is_the_same() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| is_running(bed, "apply")).await;
    for path in bed.api.paths("fettle-ledger-").into_iter().chain([scope_path(&bed)]) {
        bed.api.delete(&path);
    }
    bed.kill();
    bed.aap.release(bed.job("apply").id);
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.result, status.hosts.as_deref()), (Some(RunResult::Ok), Some("3/3")), "{status:#?}");
    assert_eq!(bed.launched(), [("apply".into(), 1)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_that_was_replaced_is_not_believed() {
    let mut bed = holding("stage").await;
    bed.apply("web", json!({"phases": ["stage", "apply"], "group": null, "hosts": ["web-1"]}));
    bed.drive("web", 60, |bed| is_running(bed, "stage")).await;
    let hosts: BTreeSet<String> = ["web-1", "web-2"].map(String::from).into();
    let digest = fettle::controllers::patch_run::scope::digest(&hosts);
    bed.api.edit(&scope_path(&bed), |map| {
        let mut scope: serde_json::Value = serde_json::from_str(map["data"]["scope.json"].as_str().unwrap()).unwrap();
        (scope["hosts"], scope["digest"]) = (json!(hosts), json!(digest));
        map["data"]["scope.json"] = json!(scope.to_string());
    });
    bed.kill();
    bed.aap.release(bed.job("stage").id);
    bed.drive("web", 60, |bed| bed.reason("web") == "InventoryUnavailable").await;
    assert!(bed.message("web").contains("delete it"), "{}", bed.message("web"));
    let stage = bed.status("web").of(Phase::Stage).unwrap().clone();
    assert_eq!((stage.result, stage.hosts.unwrap().total, bed.aap.jobs().len()), (Some(RunResult::Ok), 1, 1));
    // as the message says
    bed.api.delete(&scope_path(&bed));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.job("apply").text("limit").to_owned()), (Some(RunResult::Ok), "web-1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_namespace_goes_is_detached() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| bed.status("web").of(Phase::Apply).is_some_and(|p| p.executor.is_some())).await;
    let key = Key::parse(&bed.status("web").of(Phase::Apply).unwrap().run_key).unwrap();
    bed.api.edit(&format!("api/v1/namespaces/{NAMESPACE}"), |namespace| {
        namespace["metadata"]["finalizers"] = json!(["kubernetes"]);
        namespace["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
    });
    // the namespace's controller deletes in no particular order
    for path in bed.api.paths(&format!("namespaces/{NAMESPACE}/")) {
        if !path.contains("automationconnections") {
            bed.api.delete(&path);
        }
    }
    bed.kill();
    bed.drive("web", 60, |bed| bed.run("web").is_none()).await;
    let record = bed.archive.record(&key).await.unwrap().expect("a record");
    assert_eq!((record.result, record.reason.as_str()), (RunResult::Error, "Detached"));
    assert_eq!(record.hosts.iter().map(|h| h.outcome).collect::<Vec<_>>(), [Outcome::Unknown; 3]);
    assert_eq!((bed.locked(), bed.aap.jobs().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_or_unlock_that_comes_late_changes_nothing() {
    let bed = Bed::new().await;
    let api = || Api::<ConfigMap>::namespaced(bed.api.client(Calls::default().into()), "fettle-system");
    let ledger = Ledger::new(api(), "uuid");
    let hosts: BTreeSet<String> = ["Web-1", "web-2"].map(String::from).into();
    let me = Holder { namespace: NAMESPACE.into(), name: "web".into(), run_key: "v1-a".into() };
    let at = |text: &str| text.parse().unwrap();
    let (_, before) = ledger.look(&hosts, &me).await.unwrap();
    ledger.lock(&hosts, &me, &before, at("2026-11-21T10:00:00Z")).await.unwrap();
    let (_, seen) = ledger.look(&hosts, &me).await.unwrap();
    assert_eq!(seen.hosts(), hosts);
    ledger.unlock(&seen).await.unwrap();
    assert_eq!(bed.locked(), 0);
    // a process that slept since the very first look
    ledger.lock(&hosts, &me, &before, at("2026-11-21T10:00:01Z")).await.unwrap();
    assert_eq!(bed.locked(), 0);
    let (_, now) = ledger.look(&hosts, &me).await.unwrap();
    ledger.lock(&hosts, &me, &now, at("2026-11-21T10:00:01Z")).await.unwrap();
    // and one that slept since the run held its hosts
    ledger.unlock(&seen).await.unwrap();
    assert_eq!(bed.locked(), 2);
    assert_eq!(ledger.entries(&me).await.unwrap().1.hosts(), hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finalizer_that_comes_meanwhile_stays() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({"phases": ["precheck"], "startBy": null}));
    bed.drive("web", 60, |bed| bed.status("web").state == State::Completed).await;
    let stale = bed.run("web").unwrap();
    assert!(stale.metadata.finalizers.is_some(), "it still holds something");
    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["metadata"]["finalizers"].as_array_mut().unwrap().push(json!("example.com/new")));
    for _ in 0..5 {
        bed.reconcile_as_read(&stale).await;
    }
    assert!(bed.run("web").unwrap().metadata.finalizers.unwrap().contains(&"example.com/new".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_check_outlives_its_pod() {
    let held = Found { held: true, ..Found::default() };
    let mut bed = Bed::with(Tekton::default().with("precheck", held), Config::example(), Script::new).await;
    bed.apply("web", json!({}));
    bed.drive("web", 60, |bed| bed.api.asked().iter().any(|asked| asked.path.ends_with("/log"))).await;
    for _ in 0..5 {
        bed.reconcile(NAMESPACE, "web").await;
    }
    let over = json!([{"type": "Succeeded", "status": "False", "reason": "Failed", "message": "the pod is gone"}]);
    for path in bed.api.paths("/taskruns/") {
        bed.api.edit(&path, |task| task["status"]["conditions"] = over.clone());
    }
    for path in bed.api.paths("/pods/") {
        bed.api.lose_pod(&path);
    }
    for path in bed.api.paths("/pipelineruns/") {
        bed.api.edit(&path, |run| {
            run["status"]["conditions"] = over.clone();
            run["status"]["completionTime"] = json!("2026-11-21T00:00:00Z");
        });
    }
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let log = bed.status("web").of(Phase::Precheck).unwrap().log.clone().expect("a log");
    let open = bed.archive.open_log(&Key::parse(&log.id).unwrap(), None).await.unwrap().unwrap();
    let bytes: Vec<bytes::Bytes> = futures::TryStreamExt::try_collect(open.stream).await.unwrap();
    let text = String::from_utf8(bytes.concat()).unwrap();
    assert!(text.starts_with("PLAY [check]\n") && text.contains("the log was read so far"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_launch_is_marked_and_ends_ok() {
    let mut bed = Bed::new().await;
    direct(&bed);
    bed.apply("web", json!({"phases": ["stage", "apply"]}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.result, bed.aap.schedules().len()), (Some(RunResult::Ok), 0));
    assert_eq!(bed.launched(), [("apply".into(), 1), ("stage".into(), 1)].into());
    for phase in [Phase::Stage, Phase::Apply] {
        let key = Key::parse(&status.of(phase).unwrap().run_key).unwrap();
        assert!(bed.archive.started(&key).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_launch_whose_answer_is_lost_is_found_by_its_key() {
    let mut bed = Bed::new().await;
    direct(&bed);
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.aap.fault(Fault::on("POST", "/job_templates/*/launch/", Action::DropResponse));
    bed.drive("web", 60, |bed| bed.aap.requests().iter().any(|request| request.fault.is_some())).await;
    bed.kill();
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.launched()), (Some(RunResult::Ok), [("apply".into(), 1)].into()));
}

/// The cluster is restored from a backup of before the launch of `web`, and its spec is changed before it is looked at.
fn forget_launch(bed: &mut Bed, spec: serde_json::Value) {
    bed.kill();
    for path in bed.api.paths("configmaps") {
        bed.api.delete(&path);
    }
    bed.api.put(&run_path(NAMESPACE, "web"), json!({"spec": spec}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_a_job_that_the_cluster_forgot() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply"]}));
    let mut spec = bed.api.get(&run_path(NAMESPACE, "web")).unwrap()["spec"].clone();
    bed.drive("web", 60, |bed| is_running(bed, "apply")).await;
    spec["cancel"] = json!(true);
    forget_launch(&mut bed, spec);
    bed.drive("web", 90, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.result, bed.reason("web").as_str()), (Some(RunResult::Error), "Cancelled"));
    assert_eq!(bed.job("apply").status, Status::Canceled);
    assert!(status.of(Phase::Apply).unwrap().executor.is_some(), "{status:#?}");
    assert_eq!((bed.aap.jobs().len(), bed.locked()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_the_cluster_forgot_is_followed_by_a_suspended_run() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply"]}));
    let mut spec = bed.api.get(&run_path(NAMESPACE, "web")).unwrap()["spec"].clone();
    bed.drive("web", 60, |bed| is_running(bed, "apply")).await;
    spec["suspend"] = json!(true);
    forget_launch(&mut bed, spec);
    // the mode of the next launches is not how this one was made
    direct(&bed);
    bed.drive("web", 60, |bed| bed.status("web").of(Phase::Apply).is_some_and(|p| p.executor.is_some())).await;
    bed.aap.release(bed.job("apply").id);
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.aap.jobs().len(), bed.locked()), (Some(RunResult::Ok), 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_forgot_a_direct_launch_does_not_repeat_it() {
    let mut bed = holding("apply").await;
    direct(&bed);
    bed.apply("web", json!({"phases": ["apply"]}));
    let before = bed.api.get(&run_path(NAMESPACE, "web")).unwrap();
    bed.drive("web", 60, |bed| bed.status("web").of(Phase::Apply).is_some_and(|p| p.executor.is_some())).await;
    bed.kill();
    // the cluster is restored from a backup of before the launch
    for path in bed.api.paths("configmaps") {
        bed.api.delete(&path);
    }
    bed.api.put(&run_path(NAMESPACE, "web"), json!({"spec": before["spec"]}));
    bed.drive("web", 60, |bed| bed.status("web").of(Phase::Apply).is_some_and(|p| p.executor.is_some())).await;
    assert_eq!(bed.aap.jobs().len(), 1);
    bed.aap.release(bed.job("apply").id);
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.launched(), bed.locked()), (Some(RunResult::Ok), [("apply".into(), 1)].into(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_launch_that_is_refused_leaves_no_mark() {
    let mut bed = Bed::new().await;
    direct(&bed);
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.aap.fault(Fault::on("POST", "/job_templates/*/launch/", Action::Status { code: 403, body: None, retry_after: None }));
    bed.drive("web", 60, |bed| bed.reason("web") == "TemplateNotReady").await;
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.launched()), (Some(RunResult::Ok), [("apply".into(), 1)].into()));
}
