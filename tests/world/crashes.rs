//! The manager dies at every call it makes, before it is sent and after it was carried out: same end, same launches.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fettle::api::patch_run::{HostCounts, Phase, RunResult, State};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    bed::{Bed, NAMESPACE},
    calls::{Call, Calls, Fatal, Point},
};

/// Everything a crash must not change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    state: State,
    result: Option<RunResult>,
    phases: Vec<(Phase, Option<RunResult>, Option<String>, Option<HostCounts>, bool)>,
    /// Jobs by template.
    jobs: BTreeMap<String, usize>,
    /// PipelineRuns, and how often each was started.
    checks: Vec<u32>,
    locked: usize,
    finalizers: usize,
}

/// A run over `phases`; the calls of the manager that saw its end, and whether one died.
async fn run(phases: &[&str], death: Option<Fatal>) -> (End, Vec<Call>, bool) {
    let mut bed = Bed::new().await;
    bed.poll = Duration::from_millis(250);
    bed.apply("web", json!({"phases": phases}));
    bed.start(death.map_or_else(Calls::default, Calls::dying_at)).await;
    bed.drive("web", 500, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    let end = End {
        state: status.state,
        result: status.result,
        phases: status
            .phases
            .iter()
            .map(|p| (p.name, p.result, p.reason.clone(), p.hosts, p.log.as_ref().is_some_and(|log| log.size > 0)))
            .collect(),
        jobs: bed.launched(),
        checks: bed.api.tekton.started.lock().unwrap().values().copied().collect(),
        locked: bed.locked(),
        finalizers: bed.run_in(NAMESPACE, "web").map_or(0, |run| run.metadata.finalizers.unwrap_or_default().len()),
    };
    (end, bed.calls(), bed.deaths > 0)
}

/// Every numbered call, twice: before and after.
fn plans(calls: &[Call]) -> Vec<Fatal> {
    let at = |call: &Call| [Point::Before, Point::After].map(|point| Fatal { call: call.clone(), point });
    calls.iter().flat_map(at).collect()
}

async fn everywhere(phases: &'static [&'static str], at_once: usize) {
    let (undisturbed, calls, _) = run(phases, None).await;
    assert_eq!(undisturbed.result, Some(RunResult::Ok), "{undisturbed:#?}");
    let slots = Arc::new(Semaphore::new(at_once));
    let mut cases = JoinSet::new();
    let plans = plans(&calls);
    let planned = plans.len();
    for fatal in plans {
        let slots = slots.clone();
        cases.spawn(async move {
            let _slot = slots.acquire_owned().await.unwrap();
            (fatal.clone(), run(phases, Some(fatal)).await)
        });
    }
    let (mut deaths, mut wrong) = (0, vec![]);
    while let Some(case) = cases.join_next().await {
        let (fatal, (end, _, died)) = case.expect("a case ended");
        deaths += usize::from(died);
        if end != undisturbed {
            wrong.push(format!("{fatal:?}: {end:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} ended otherwise: {}", wrong.len(), planned, wrong.join("\n"));
    eprintln!("{phases:?}: {planned} crash plans, {deaths} deaths, every end as undisturbed");
    // what is seen of a job that is quick depends on the moment of the look, so that a few calls are not made every time
    assert!(deaths * 10 >= planned * 9, "{deaths} of {planned}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_call_changes_nothing() {
    everywhere(&["precheck", "stage", "apply", "reboot", "postcheck"], 40).await;
}
