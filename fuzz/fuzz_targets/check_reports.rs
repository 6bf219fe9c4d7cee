//! What the report step of a check printed, up to the verdict.
//!
//! A check is `OK` only if every line can be read and is good, and every host of the scope has one with a report.
#![no_main]

use std::{collections::BTreeSet, sync::LazyLock};

use fettle::{
    api::{
        automation_connection::GuardPolicy,
        patch_run::{Phase, RunResult},
    },
    clients::tekton::{PipelineRunStatus, TaskRun},
    controllers::patch_run::{checks, verdict},
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const HOSTS: [&str; 2] = ["a", "b"];
static STATUS: LazyLock<PipelineRunStatus> = LazyLock::new(|| {
    serde_json::from_value(json!({"conditions": [{"type": "Succeeded", "status": "True", "reason": "Succeeded"}]})).expect("a status")
});
static TASKS: LazyLock<Vec<TaskRun>> = LazyLock::new(|| {
    serde_json::from_value(json!([{"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": "t"}, "spec": {},
        "status": {"steps": [{"name": "run", "container": "step-run", "terminated": {"exitCode": 0}}]}}]))
    .expect("a task")
});

fuzz_target!(|text: &str| {
    let scope: BTreeSet<String> = HOSTS.map(String::from).into();
    let evidence = checks::evidence(&STATUS, &TASKS, text);
    let verdict = verdict::weigh(Phase::Precheck, &scope, GuardPolicy::Required, &evidence);
    for host in &verdict.hosts {
        for shown in [&host.message, &host.guard, &host.kernel_before, &host.kernel_after, &host.boot_id_before, &host.boot_id_after] {
            assert!(shown.iter().all(|text| text.chars().count() <= 256 && !text.chars().any(char::is_control)), "{host:?}");
        }
    }
    if verdict.result == RunResult::Ok {
        assert!(is_proven(text), "{verdict:?}");
    }
});

/// The same question, asked of the text itself.
fn is_proven(text: &str) -> bool {
    let lines: Vec<Value> =
        text.lines().filter(|line| !line.trim().is_empty()).map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
    let good = |line: &Value| {
        let none = |key: &str| line[key].is_null() || line[key].as_u64() == Some(0);
        none("failures")
            && none("unreachable")
            && line["report"]["ok"] != false
            && line["host"].as_str().is_some_and(|host| HOSTS.contains(&host))
    };
    let reported = |host: &&str| lines.iter().any(|line| line["host"] == **host && line["report"].is_object());
    lines.iter().all(good) && HOSTS.iter().all(reported)
}
