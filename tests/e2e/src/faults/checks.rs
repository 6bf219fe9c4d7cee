//! Checks: Tekton and the way to the API server.

use std::time::Duration;

use fettle::api::patch_run::{Phase, RunResult, State};
use serde_json::{Value, json};

use super::{assert_nothing_done, assert_once, change, result, runs_as};
use crate::{
    relay::Relay,
    world::{Tenant, World, eventually, phase, reason},
};

const TEKTON: &str = "tekton-pipelines";
const CONTROLLER: &str = "tekton-pipelines-controller";

/// A check and a change of one host.
fn check_and_change(host: &str) -> Value {
    json!({"phases": ["precheck", "apply"], "hosts": [host]})
}

impl Tenant<'_> {
    async fn pipeline_runs(&self) -> Vec<Value> {
        let found = self.world.kubectl(&["-n", &self.namespace, "get", "pipelineruns"]).await;
        found["items"].as_array().cloned().unwrap_or_default()
    }

    /// The PipelineRun of a run's precheck, and its pod, when the step that does the work runs.
    async fn check_at_work(&self, run: &str) -> (String, String) {
        eventually("the check is at work", Duration::from_mins(2), async || {
            let name = runs_as(&self.get(run).await, Phase::Precheck)?;
            let pods = self.world.kubectl(&["-n", &self.namespace, "get", "pods", "-l", &format!("tekton.dev/pipelineRun={name}")]).await;
            let pod = pods["items"].as_array()?.iter().find(|pod| {
                let containers = pod["status"]["containerStatuses"].as_array();
                containers.is_some_and(|all| all.iter().any(|c| c["name"] == "step-run" && c["state"].get("running").is_some()))
            })?;
            Some((name, pod["metadata"]["name"].as_str()?.to_owned()))
        })
        .await
    }
}

pub async fn create_unanswered(world: &World) {
    let tenant = world.fault_tenant("f37").await;
    let manager = world.leader().await.expect("a leader");
    let relay = Relay::start(world, &manager.pod).await;
    relay.lose_answer(&["POST ", "/pipelineruns"]);
    world.signal(manager.pid, "KILL").await;
    tenant.apply("run", check_and_change("web-1")).await;
    let run = tenant.completed("run", 300).await;
    assert_once(world, &run).await;
    assert_eq!(relay.struck().len(), 1, "{:?}", relay.struck());
    let checks = tenant.pipeline_runs().await;
    assert_eq!(checks.len(), 1, "{checks:#?}");
    assert_eq!(checks[0]["metadata"]["name"].as_str(), phase(&run, Phase::Precheck).executor.as_ref().map(|e| e.id.as_str()));
    assert_eq!(phase(&run, Phase::Precheck).launch.map(|launch| launch.try_), Some(1));
}

pub async fn pruned(world: &World) {
    let tenant = world.fault_tenant("f38").await;
    let delete = async |name: &str| world.run("kubectl", &["-n", &tenant.namespace, "delete", "pipelinerun", name, "--timeout=60s"]).await;
    tenant.apply("run", check_and_change("web-1")).await;
    let (name, _) = tenant.check_at_work("run").await;
    delete(&name).await;
    let run = tenant.completed("run", 300).await;
    // whether its end was seen before it was gone decides: then it is an ERROR, else it is made again; no change follows without a report
    if result(&run) == Some(RunResult::Ok) {
        assert_once(world, &run).await;
    } else {
        assert!(["CheckFailed", "JobError"].contains(&reason(&run).0.as_str()), "{:?}", reason(&run));
        assert_nothing_done(world, &run).await;
    }
    for check in tenant.pipeline_runs().await {
        delete(check["metadata"]["name"].as_str().unwrap()).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(tenant.pipeline_runs().await.is_empty(), "a check of a run that is over was made again");
    assert_eq!(tenant.get("run").await.status, run.status);
}

pub async fn pod_deleted(world: &World) {
    let tenant = world.fault_tenant("f39").await;
    tenant.apply("run", check_and_change("web-1")).await;
    let (name, pod) = tenant.check_at_work("run").await;
    world.run("kubectl", &["-n", &tenant.namespace, "delete", "pod", &pod, "--wait=false"]).await;
    let run = tenant.completed("run", 300).await;
    // a pod that is stopped from outside is the platform's failure: the check is made again, under another name
    assert_once(world, &run).await;
    assert_eq!(phase(&run, Phase::Precheck).launch.map(|launch| launch.try_), Some(2));
    let mut checks: Vec<Value> = tenant.pipeline_runs().await.iter().map(|check| check["metadata"]["name"].clone()).collect();
    checks.sort_by_key(Value::to_string);
    assert_eq!(checks, [json!(name), json!(format!("{name}-try2"))]);
}

pub async fn tekton_down(world: &World) {
    let tenant = world.fault_tenant("f42").await;
    let scale = async |replicas: &str| {
        world.run("kubectl", &["-n", TEKTON, "scale", "deployment", CONTROLLER, &format!("--replicas={replicas}")]).await;
        world.rolled_out(TEKTON, CONTROLLER).await;
    };
    scale("0").await;
    for (name, host) in [("goes-on", "web-1"), ("cancelled", "db-1")] {
        tenant.apply(name, check_and_change(host)).await;
        let run = tenant.until(name, "the check is created", 60, |run| runs_as(run, Phase::Precheck).is_some()).await;
        assert_eq!((run.status.as_ref().map(|s| s.state), reason(&run).0.as_str()), (Some(State::Running), "Running"));
    }
    tenant.change("cancelled", json!({"cancel": true})).await;
    let stopped = async |name: &str| {
        let id = runs_as(&tenant.get(name).await, Phase::Precheck)?;
        let checks = tenant.pipeline_runs().await;
        let check = checks.iter().find(|check| check["metadata"]["name"] == id.as_str())?;
        assert!(check.get("status").is_none_or(|status| status.get("conditions").is_none()), "Tekton works: {check:#?}");
        (check["spec"]["status"] == "Cancelled").then_some(())
    };
    eventually("the check is stopped", Duration::from_mins(2), async || stopped("cancelled").await).await;
    assert_eq!(stopped("goes-on").await, None);
    assert_eq!(tenant.get("cancelled").await.status.map(|s| s.state), Some(State::Cancelling), "it is not over before it is");
    scale("1").await;
    let cancelled = tenant.completed("cancelled", 180).await;
    assert_eq!((result(&cancelled), reason(&cancelled).0.as_str()), (Some(RunResult::Error), "Cancelled"));
    assert_nothing_done(world, &cancelled).await;
    assert_once(world, &tenant.completed("goes-on", 300).await).await;
}

pub async fn half_open(world: &World) {
    let tenant = world.fault_tenant("f66").await;
    let manager = world.leader().await.expect("a leader");
    let relay = Relay::start(world, &manager.pod).await;
    world.signal(manager.pid, "KILL").await;
    tenant.apply("checked", check_and_change("web-1")).await;
    tenant.check_at_work("checked").await;
    let pid = world.leader().await.expect("a leader").pid;
    relay.half_open(&[&["watch=true", "/pipelineruns"], &["watch=true", "/taskruns"], &["watch=true", "/patchruns"]]);
    tenant.apply("unseen", change("db-1")).await;
    let (checked, unseen) = tokio::join!(tenant.completed("checked", 400), tenant.completed("unseen", 400));
    assert_once(world, &checked).await;
    assert_once(world, &unseen).await;
    let struck = relay.struck();
    assert!(
        struck.iter().any(|line| line.contains("/patchruns")) && struck.iter().any(|line| line.contains("/pipelineruns")),
        "{struck:?}"
    );
    assert_eq!(world.leader().await.map(|leader| leader.pid), Some(pid), "it recovered by a restart only");
}
