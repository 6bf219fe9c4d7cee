//! What somebody else did under a run's names, or to it, in the very moment.

use fettle::{
    api::patch_run::{Phase, RunResult},
    names,
};
use serde_json::json;

use crate::{
    bed::{Bed, NAMESPACE, connection_path, run_path},
    calls::Calls,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_pipeline_run_is_not_adopted() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({"phases": ["precheck", "apply"]}));
    let key = names::phase_key(&names::run_key("east", &bed.run("web").unwrap(), 1), Phase::Precheck);
    let over = json!({"conditions": [{"type": "Succeeded", "status": "True", "reason": "Succeeded"}]});
    let path = format!("apis/tekton.dev/v1/namespaces/{NAMESPACE}/pipelineruns/{}", names::work(&key, 1));
    bed.api.put(&path, json!({"metadata": {"annotations": {names::RUN_KEY: key}}, "spec": {}, "status": over}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.reason("web").as_str()), (Some(RunResult::Error), "LaunchConflict"));
    assert_eq!((bed.aap.jobs().len(), bed.locked()), (0, 0));
}

// on one thread, so that nothing happens between two polls
#[tokio::test]
async fn a_direct_launch_is_not_made_for_a_run_that_was_suspended_meanwhile() {
    let mut bed = Bed::new().await;
    bed.api.edit(&connection_path(NAMESPACE), |connection| connection["spec"]["launchMode"] = json!("Direct"));
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.start(Calls::default()).await;
    let (api, path) = (bed.api.clone(), run_path(NAMESPACE, "web"));
    let intended = || api.get(&path).is_some_and(|run| run["status"]["phases"].as_array().is_some_and(|phases| !phases.is_empty()));
    // polled first: the manager does not hear that its intent is on record before somebody suspends the run
    let suspend = async {
        while !intended() {
            tokio::task::yield_now().await;
        }
        api.edit(&path, |run| run["spec"]["suspend"] = json!(true));
    };
    futures::join!(suspend, bed.drive("web", 60, |bed| bed.reason("web") == "Suspended"));
    assert_eq!((bed.aap.jobs().len(), bed.status("web").phases.len()), (0, 0));
    bed.api.edit(&path, |run| run["spec"]["suspend"] = json!(false));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.aap.jobs().len()), (Some(RunResult::Ok), 1));
}
