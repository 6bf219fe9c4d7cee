//! Answers of the controller that are lost or late, and a scheduler that stalls.

use std::time::Duration;

use fettle::api::patch_run::{Phase, RunResult};
use serde_json::json;

use super::{assert_nothing_done, assert_once, change, result, run_key, runs_as};
use crate::world::{World, eventually, reason};

const SCHEDULES: &str = "/schedules/";
const LAUNCH: &str = "/job_templates/*/launch/";

pub async fn before_intent(world: &World) {
    let tenant = world.fault_tenant("f01").await;
    // the looks before the one that leads to the intent lead to finalizer, scope and ledger
    world.fault(json!({"action": "hang", "method": "GET", "path": "/schedules/", "nth": 4, "count": 1})).await;
    tenant.apply("run", change("web-1")).await;
    eventually("the operator waits for an answer", Duration::from_mins(2), async || {
        world.requests().await.iter().any(|request| request["fault"]["action"] == "hang" && request["method"] == "GET").then_some(())
    })
    .await;
    let run = tenant.get("run").await;
    assert!(run.status.as_ref().is_some_and(|status| status.phases.is_empty()), "the intent is on record: {run:#?}");
    let key = run_key(&run);
    world.kill_manager().await;
    assert!(world.posts_of(&key).await.is_empty(), "it was sent before its intent");
    world.no_faults().await;
    assert_once(world, &tenant.completed("run", 180).await).await;
    assert_eq!(world.posts_of(&key).await.len(), 1);
}

pub async fn answer_dropped(world: &World) {
    let tenant = world.fault_tenant("f07").await;
    world.fault(json!({"action": "drop_response", "method": "POST", "path": SCHEDULES, "count": 1})).await;
    tenant.apply("run", change("web-1")).await;
    let run = tenant.completed("run", 180).await;
    assert_once(world, &run).await;
    let posts = world.posts_of(&run_key(&run)).await;
    assert_eq!(posts[0]["fault"]["action"], "drop_response", "{posts:#?}");
    assert!(posts[1..].iter().all(|post| post["status"] == 400), "another one was accepted: {posts:#?}");
}

pub async fn gateway_timeout(world: &World) {
    let tenant = world.fault_tenant("f08").await;
    tenant.another_connection("direct", json!({"launchMode": "Direct"})).await;
    for path in [SCHEDULES, LAUNCH] {
        world.fault(json!({"action": "gateway_timeout", "answer": 5, "commit": 45, "method": "POST", "path": path, "count": 1})).await;
    }
    tenant.apply("fenced", change("web-1")).await;
    tenant.apply("direct", json!({"phases": ["apply"], "hosts": ["db-1"], "connection": {"name": "direct"}})).await;
    let (fenced, direct) = tokio::join!(tenant.completed("fenced", 300), tenant.completed("direct", 300));
    // the request behind the gateway's back was carried out by now, the direct one's job is its doing
    assert_once(world, &direct).await;
    assert_once(world, &fenced).await;
    let posts = world.posts_of(&run_key(&direct)).await;
    assert_eq!(posts.len(), 1, "a direct launch was repeated: {posts:#?}");
    let posts = world.posts_of(&run_key(&fenced)).await;
    assert_eq!(posts[0]["status"], 504, "{posts:#?}");
    assert_eq!(posts.iter().filter(|post| post["status"] == 201).count(), 1, "{posts:#?}");
}

pub async fn killed_before_answer(world: &World) {
    let tenant = world.fault_tenant("f10").await;
    tenant.another_connection("direct", json!({"launchMode": "Direct"})).await;
    for path in [SCHEDULES, LAUNCH] {
        world.fault(json!({"action": "delay", "seconds": 60, "method": "POST", "path": path, "count": 1})).await;
    }
    tenant.apply("fenced", change("web-1")).await;
    tenant.apply("direct", json!({"phases": ["apply"], "hosts": ["db-1"], "connection": {"name": "direct"}})).await;
    eventually("both are committed", Duration::from_mins(2), async || {
        let keys = [tenant.get("fenced").await, tenant.get("direct").await].map(|run| run.status.and_then(|status| status.run_key));
        let [Some(fenced), Some(direct)] = keys else { return None };
        let committed = world.aap().await["schedules"].to_string().contains(&fenced);
        (committed && !world.jobs_of(&direct).await.is_empty()).then_some(())
    })
    .await;
    for name in ["fenced", "direct"] {
        let run = tenant.get(name).await;
        assert!(run.status.as_ref().and_then(|s| s.of(Phase::Apply)).is_some(), "{name}: no intent on record");
        assert_eq!(runs_as(&run, Phase::Apply), None, "{name}: its answer was read");
    }
    world.kill_manager().await;
    let (fenced, direct) = tokio::join!(tenant.completed("fenced", 300), tenant.completed("direct", 300));
    assert_once(world, &fenced).await;
    assert_once(world, &direct).await;
    assert_eq!(world.posts_of(&run_key(&direct)).await.len(), 1, "a direct launch was repeated");
}

pub async fn scheduler_stalled(world: &World) {
    let tenant = world.fault_tenant("f18").await;
    let start_by = fettle::clock::now() + jiff::SignedDuration::from_secs(40);
    tenant.apply("run", json!({"phases": ["apply"], "hosts": ["web-1"], "startBy": start_by})).await;
    let schedule = async || {
        let key = tenant.get("run").await.status?.run_key?;
        let state = world.aap().await;
        state["schedules"].as_array()?.iter().find(|schedule| schedule["name"].as_str().is_some_and(|name| name.contains(&key))).cloned()
    };
    eventually("the schedule is committed", Duration::from_mins(1), &schedule).await;
    world.fault(json!({"action": "dispatcher_dead", "count": 0})).await;
    let run = tenant.get("run").await;
    assert!(world.jobs_of(&run_key(&run)).await.is_empty(), "the scheduler was faster than the fault");
    eventually("the schedule is disabled", Duration::from_mins(3), async || {
        schedule().await.is_some_and(|schedule| schedule["enabled"] == false).then_some(())
    })
    .await;
    assert!(fettle::clock::now() >= start_by, "disabled before startBy");
    world.no_faults().await;
    let run = tenant.completed("run", 120).await;
    assert_eq!((result(&run), reason(&run).0.as_str()), (Some(RunResult::Error), "StartByPassed"));
    // several looks of a scheduler that is well again
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_nothing_done(world, &run).await;
}
