//! The manager dies at every call it makes, before it is sent and after it was carried out: same end, same launches.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fettle::api::patch_run::{HostCounts, Phase, RunResult, State};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    bed::{Bed, NAMESPACE},
    calls::{Calls, Point},
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

/// A run over `phases`; the calls of the manager that did not die, and whether one did.
async fn run(phases: &[&str], death: Option<(usize, Point)>) -> (End, usize, bool) {
    let mut bed = Bed::new().await;
    bed.poll = Duration::from_millis(250);
    bed.apply("web", json!({"phases": phases}));
    bed.start(death.map_or_else(Calls::default, |(index, point)| Calls::dying_at(index, point))).await;
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
    (end, bed.calls().len(), bed.deaths > 0)
}

async fn everywhere(phases: &'static [&'static str], at_once: usize) {
    let (undisturbed, calls, _) = run(phases, None).await;
    assert_eq!(undisturbed.result, Some(RunResult::Ok), "{undisturbed:#?}");
    let slots = Arc::new(Semaphore::new(at_once));
    let mut cases = JoinSet::new();
    for index in 0..calls {
        for point in [Point::Before, Point::After] {
            let slots = slots.clone();
            cases.spawn(async move {
                let _slot = slots.acquire_owned().await.unwrap();
                (index, point, run(phases, Some((index, point))).await)
            });
        }
    }
    let (mut deaths, mut wrong) = (0, vec![]);
    while let Some(case) = cases.join_next().await {
        let (index, point, (end, _, died)) = case.expect("a case ended");
        deaths += usize::from(died);
        if end != undisturbed {
            wrong.push(format!("call {index}, {point:?}: {end:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} ended otherwise: {}", wrong.len(), calls * 2, wrong.join("\n"));
    eprintln!("{phases:?}: {} crash plans, {deaths} deaths, every end as undisturbed", calls * 2);
    // polls differ in number from run to run; nearly every planned call is made
    assert!(deaths * 10 >= calls * 2 * 8, "{deaths} of {}", calls * 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_call_changes_nothing() {
    everywhere(&["precheck", "stage", "apply", "reboot", "postcheck"], 40).await;
}
