//! What a manager is disturbed at: runs, what people do meanwhile, and the end that no disturbance may change.

use std::{collections::BTreeMap, time::Duration};

use fettle::api::patch_run::{HostCounts, Phase, RunResult, State};
use fettle_standins::aap::{Assignment, Config, HostResult, Script};
use serde_json::{Value, json};

use crate::{
    bed::{Bed, NAMESPACE, run_path},
    calls::Calls,
    stories::is_running,
    tekton::Tekton,
};

/// Longest time of one workload, seconds: many run at once.
const LIMIT: u64 = 500;

/// One workload. The people in it react to what they see, so that they do the same in whatever order things happen.
#[derive(Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    script: fn(&Assignment) -> Script,
    /// Runs: namespace, name, what their specs have beside the usual.
    runs: fn() -> Vec<(&'static str, &'static str, Value)>,
    prepare: fn(&Bed),
    /// What people do, looked at before every reconcile.
    people: fn(&Bed),
}

fn nobody(_: &Bed) {}

fn one(spec: Value) -> Vec<(&'static str, &'static str, Value)> {
    vec![(NAMESPACE, "web", spec)]
}

fn change_secret() -> String {
    format!("api/v1/namespaces/{NAMESPACE}/secrets/aap-change")
}

fn edit(bed: &Bed, field: &str, value: bool) {
    let path = run_path(NAMESPACE, "web");
    if bed.run("web").is_some_and(|run| serde_json::to_value(&run.spec).unwrap()[field] != json!(value)) {
        bed.api.edit(&path, |run| run["spec"][field] = json!(value));
    }
}

/// All of them.
pub const ALL: [Workload; 8] = [
    Workload { name: "five phases end OK", script: Script::new, runs: || one(json!({})), prepare: nobody, people: nobody },
    Workload {
        name: "a host fails",
        script: |job| {
            let script = Script::new(job);
            if job.template == "apply" { script.host("web-2", HostResult::Unreachable("no route".into())) } else { script }
        },
        runs: || one(json!({"phases": ["precheck", "apply", "reboot"]})),
        prepare: nobody,
        people: nobody,
    },
    Workload {
        name: "cancelled while a job runs",
        script: |job| Script::new(job).held(),
        runs: || one(json!({"phases": ["apply", "reboot"]})),
        prepare: nobody,
        people: |bed| {
            if is_running(bed, "apply") {
                edit(bed, "cancel", true);
            }
        },
    },
    Workload {
        name: "suspended between phases",
        script: Script::new,
        runs: || one(json!({"phases": ["stage", "apply"], "suspend": false})),
        prepare: nobody,
        people: |bed| {
            let waits = bed.reason("web") == "Suspended";
            let began = !bed.aap.jobs().is_empty();
            let apply = bed.status("web").of(Phase::Apply).is_some();
            // once, while stage works; resumed when it is seen to hold
            if waits || apply {
                edit(bed, "suspend", false);
            } else if began && bed.api.versions(&run_path(NAMESPACE, "web")).iter().all(|run| run["spec"]["suspend"] != json!(true)) {
                edit(bed, "suspend", true);
            }
        },
    },
    Workload {
        name: "credentials come late",
        script: Script::new,
        runs: || one(json!({"phases": ["precheck", "apply"]})),
        prepare: |bed| bed.api.delete(&change_secret()),
        people: |bed| {
            if bed.status("web").state == State::AwaitingCredentials && bed.api.get(&change_secret()).is_none() {
                bed.secret(NAMESPACE, "aap-change", "execute-token");
            }
        },
    },
    Workload {
        name: "two runs share a host",
        script: Script::new,
        runs: || {
            vec![
                (NAMESPACE, "web", json!({"phases": ["apply"], "group": null, "hosts": ["web-1", "web-2"]})),
                ("other", "web", json!({"phases": ["apply"], "group": null, "hosts": ["web-2", "db-1"]})),
            ]
        },
        prepare: |bed| bed.tenant("other"),
        people: nobody,
    },
    Workload {
        name: "created again by Git while a job runs",
        script: |job| Script::new(job).taking(Duration::from_secs(2)),
        runs: || one(json!({"phases": ["apply", "postcheck"], "startBy": "2036-11-22T04:00:00Z"})),
        prepare: nobody,
        people: |bed| {
            let deleted = bed.api.was_deleted(&run_path(NAMESPACE, "web"));
            match bed.run("web") {
                Some(run) if !deleted && run.metadata.deletion_timestamp.is_none() && is_running(bed, "apply") => {
                    bed.api.delete(&run_path(NAMESPACE, "web"));
                }
                None if deleted => bed.apply("web", json!({"phases": ["apply", "postcheck"], "startBy": "2036-11-22T04:00:00Z"})),
                Some(_) | None => {}
            }
        },
    },
    Workload {
        name: "launched directly",
        script: Script::new,
        runs: || one(json!({"phases": ["apply"]})),
        prepare: |bed| {
            let connection = crate::bed::connection_path(NAMESPACE);
            bed.api.edit(&connection, |connection| connection["spec"]["launchMode"] = json!("Direct"));
        },
        people: nobody,
    },
];

/// Those whose end nothing may change. A direct launch that was begun and whose job is not found is left to a person.
pub const FENCED: [Workload; 7] = [ALL[0], ALL[1], ALL[2], ALL[3], ALL[4], ALL[5], ALL[6]];

/// Everything a disturbance must not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    runs: Vec<RunEnd>,
    /// Jobs by template.
    jobs: BTreeMap<String, usize>,
    /// How often each PipelineRun was started.
    checks: Vec<u32>,
    locked: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RunEnd {
    state: State,
    result: Option<RunResult>,
    reason: String,
    phases: Vec<(Phase, Option<RunResult>, Option<String>, Option<HostCounts>, bool)>,
    finalizers: usize,
}

impl Workload {
    /// A world in which the workload is about to begin.
    pub async fn bed(&self) -> Bed {
        let mut bed = Bed::with(Tekton::default(), Config::example(), self.script).await;
        bed.slowest = Duration::from_secs(1);
        (self.prepare)(&bed);
        for (namespace, name, spec) in (self.runs)() {
            bed.apply_in(namespace, name, spec);
        }
        bed
    }

    /// Carries the workload on until `until`, or its end.
    pub async fn drive(&self, bed: &mut Bed, until: impl Fn(&Bed) -> bool) {
        let runs = (self.runs)();
        let names: Vec<(&str, &str)> = runs.iter().map(|(namespace, name, _)| (*namespace, *name)).collect();
        bed.drive_all(&names, LIMIT, |bed| {
            (self.people)(bed);
            until(bed) || self.is_over(bed)
        })
        .await;
    }

    fn is_over(&self, bed: &Bed) -> bool {
        (self.runs)().iter().all(|(namespace, name, _)| bed.settled_in(namespace, name))
            && bed.aap.jobs().iter().all(|job| job.status.is_terminal())
    }

    /// Lets the workload run to its end under managers whose first one has `calls`.
    pub async fn run(&self, calls: Calls) -> (End, Bed) {
        let mut bed = self.bed().await;
        bed.start(calls).await;
        self.drive(&mut bed, |_| false).await;
        (self.end(&bed), bed)
    }

    /// The end as it is now.
    pub fn end(&self, bed: &Bed) -> End {
        let runs = (self.runs)().iter().map(|(namespace, name, _)| run_end(bed, namespace, name)).collect();
        let checks = bed.api.tekton.started.lock().unwrap().values().copied().collect();
        End { runs, jobs: bed.launched(), checks, locked: bed.locked() }
    }
}

fn run_end(bed: &Bed, namespace: &str, name: &str) -> RunEnd {
    let run = bed.run_in(namespace, name).expect("the run is there");
    let status = run.status.unwrap_or_default();
    RunEnd {
        state: status.state,
        result: status.result,
        reason: status.conditions.iter().find(|c| c.type_ == "Succeeded").map(|c| c.reason.clone()).unwrap_or_default(),
        phases: status
            .phases
            .iter()
            .map(|p| (p.name, p.result, p.reason.clone(), p.hosts, p.log.as_ref().is_some_and(|log| log.size > 0)))
            .collect(),
        finalizers: run.metadata.finalizers.unwrap_or_default().len(),
    }
}
