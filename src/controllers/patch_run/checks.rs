//! Read phases as Tekton PipelineRuns: what is created, and what the end of one says. Pure.

use std::collections::BTreeMap;

use kube::api::ObjectMeta;
use serde::Deserialize;
use serde_json::{Value, json};

use super::verdict::{End, Evidence, Report, Summary, clip};
use crate::{
    api::{
        automation_connection::Checks,
        patch_run::{PatchRun, Phase},
        reason::Reason,
    },
    clients::tekton::{PipelineRun, PipelineRunSpec, PipelineRunStatus, TaskRun},
    names,
};

/// Step that does the work; its log is the phase's log.
pub const RUN_STEP: &str = "run";
/// Step that prints the report, one JSON line per host, and nothing else.
pub const REPORT_STEP: &str = "report";
/// Largest report that is read, bytes.
pub const REPORT_LIMIT: usize = 8 << 20;

/// What a check is made of.
pub struct CheckPlan<'a> {
    /// The run.
    pub run: &'a PatchRun,
    /// Read phase.
    pub phase: Phase,
    /// Identity of the phase.
    pub key: &'a str,
    /// Fixed name of the PipelineRun.
    pub name: &'a str,
    /// How hosts are reached.
    pub checks: &'a Checks,
    /// ConfigMap with inventory and hosts.
    pub scope: &'a str,
    /// Digest of the host list.
    pub scope_digest: &'a str,
    /// Identity of the reboot phase before, for postcheck.
    pub reboot_key: Option<&'a str>,
    /// Image of the steps.
    pub image: &'a str,
}

/// What makes two checks the same; a PipelineRun of our name with another digest is not ours.
pub fn digest(phase: Phase, key: &str, kernel: Option<&str>, scope_digest: &str) -> String {
    names::sha256_hex(json!([key, kernel, phase.as_str(), scope_digest]).to_string().as_bytes())
}

/// The PipelineRun of a check.
pub fn pipeline_run(plan: &CheckPlan<'_>) -> PipelineRun {
    let spec = &plan.run.spec;
    let timeout = spec.timeout(plan.phase).as_secs();
    let kernel = spec.desired_kernel.as_deref();
    let labels = BTreeMap::from([
        ("app.kubernetes.io/managed-by".to_owned(), names::MANAGER.to_owned()),
        (names::PHASE.to_owned(), plan.phase.to_string()),
        (names::PATCH_RUN.to_owned(), names::label_value(plan.run.metadata.name.as_deref().unwrap_or_default())),
        (names::GROUP.to_owned(), names::label_value(&spec.group.as_ref().map(ToString::to_string).unwrap_or_default())),
        (names::KERNEL.to_owned(), names::label_value(kernel.unwrap_or_default())),
    ]);
    let annotations = BTreeMap::from([
        (names::RUN_KEY.to_owned(), plan.key.to_owned()),
        (names::DIGEST.to_owned(), digest(plan.phase, plan.key, kernel, plan.scope_digest)),
    ]);
    let parameters = [
        ("phase", plan.phase.to_string()),
        ("run-key", plan.key.to_owned()),
        ("desired-kernel", kernel.unwrap_or_default().to_owned()),
        ("reboot-key", plan.reboot_key.unwrap_or_default().to_owned()),
        ("timeout", timeout.to_string()),
    ];
    let own = plan.checks.pipeline_ref.as_ref();
    PipelineRun {
        metadata: ObjectMeta {
            name: Some(plan.name.to_owned()),
            namespace: plan.run.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: PipelineRunSpec {
            pipeline_ref: own.map(|pipeline| json!({"name": pipeline.name})),
            pipeline_spec: own.is_none().then(|| pipeline_spec(plan.image)),
            params: parameters.iter().map(|(name, value)| json!({"name": name, "value": value})).collect(),
            workspaces: vec![
                json!({"name": "scope", "configMap": {"name": plan.scope}}),
                json!({"name": "ssh", "secret": {"secretName": plan.checks.ssh_key_secret_ref.name}}),
                json!({"name": "known-hosts", "configMap": {"name": plan.checks.known_hosts_ref.name}}),
            ],
            // behind our own stop, which first saves the log
            timeouts: Some(json!({"pipeline": format!("{}s", timeout + 600)})),
            task_run_template: Some(json!({
                "serviceAccountName": names::CHECKS_ACCOUNT,
                "podTemplate": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                },
            })),
            status: None,
        },
        status: None,
    }
}

/// The built-in checks as a Pipeline to start one's own from; `config/tekton` ships it.
pub fn pipeline(image: &str) -> Value {
    json!({
        "apiVersion": "tekton.dev/v1",
        "kind": "Pipeline",
        "metadata": {"name": "fettle-checks", "labels": {names::CHECKS: "true"}},
        "spec": pipeline_spec(image),
    })
}

/// The built-in checks. Values reach the steps through their environment only.
fn pipeline_spec(image: &str) -> Value {
    let names = ["phase", "run-key", "desired-kernel", "reboot-key", "timeout"];
    let declared: Vec<Value> = names.iter().map(|name| json!({"name": name, "type": "string"})).collect();
    let passed: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": format!("$(params.{name})")})).collect();
    let spaces = ["scope", "ssh", "known-hosts"];
    let secured = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let mounts = json!([{"name": "work", "mountPath": "/check"}, {"name": "tmp", "mountPath": "/tmp"}]);
    json!({
        "params": declared,
        "workspaces": spaces.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
        "tasks": [{
            "name": "check",
            "params": passed,
            "workspaces": spaces.iter().map(|name| json!({"name": name, "workspace": name})).collect::<Vec<_>>(),
            "taskSpec": {
                "params": declared,
                "workspaces": [
                    {"name": "scope", "readOnly": true},
                    {"name": "ssh", "readOnly": true},
                    {"name": "known-hosts", "readOnly": true},
                ],
                "volumes": [{"name": "work", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
                "steps": [
                    {
                        "name": RUN_STEP,
                        "image": image,
                        // the report is printed whatever the hosts say
                        "onError": "continue",
                        // ends before anybody has to stop it, so that pod and log stay
                        "command": ["timeout", "--kill-after=20", "$(params.timeout)", "/usr/local/bin/fettle-check"],
                        "env": [
                            {"name": "FETTLE_PHASE", "value": "$(params.phase)"},
                            {"name": "FETTLE_RUN_KEY", "value": "$(params.run-key)"},
                            {"name": "FETTLE_DESIRED_KERNEL", "value": "$(params.desired-kernel)"},
                            {"name": "FETTLE_REBOOT_KEY", "value": "$(params.reboot-key)"},
                            {"name": "FETTLE_INVENTORY", "value": "$(workspaces.scope.path)/inventory.json"},
                            {"name": "FETTLE_SSH_DIR", "value": "$(workspaces.ssh.path)"},
                            {"name": "FETTLE_KNOWN_HOSTS", "value": "$(workspaces.known-hosts.path)/known_hosts"},
                            {"name": "FETTLE_REPORT_FILE", "value": "/check/report.jsonl"},
                            {"name": "HOME", "value": "/check"},
                        ],
                        "securityContext": secured,
                        "volumeMounts": mounts,
                        "computeResources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
                    },
                    {
                        "name": REPORT_STEP,
                        "image": image,
                        "onError": "continue",
                        "command": ["cat", "/check/report.jsonl"],
                        "securityContext": secured,
                        "volumeMounts": mounts,
                        "computeResources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                    },
                ],
            },
        }],
    })
}

/// Reasons of a TaskRun or PipelineRun that say that the platform failed, not the check. Source: Tekton v1.15 `pkg/apis/pipeline/v1`.
const INFRASTRUCTURE: &[&str] = &[
    "TaskRunImagePullFailed",
    "PullImageFailed",
    "PodCreationFailed",
    "PodAdmissionFailed",
    "PodEvicted",
    "ExceededNodeResources",
    "CreateRunFailed",
    "InitContainerOOM",
];

/// Exit code of a step that was ended by SIGTERM (128 + 15). Its own timeout ends with 124.
const TERMINATED: i64 = 143;

/// The platform's part in a failure, if it had one.
pub fn infrastructure(run: &PipelineRunStatus, tasks: &[TaskRun]) -> Option<String> {
    let conditions = tasks.iter().filter_map(|t| t.status.as_ref()?.succeeded()).chain(run.succeeded());
    let named = conditions
        .filter(|c| c.status == "False")
        .find(|c| c.reason.as_deref().is_some_and(|r| INFRASTRUCTURE.contains(&r)))
        .map(|c| format!("{}: {}", c.reason.as_deref().unwrap_or_default(), clip(c.message.as_deref().unwrap_or_default())));
    let terminated =
        || (exit_code(tasks) == Some(TERMINATED)).then(|| "its pod was stopped from outside, as when a node is drained".to_owned());
    named.or_else(terminated)
}

/// One line of the report. Source: callback `fettle.patching.report`. Hostile: it comes from hosts.
#[derive(Deserialize)]
struct Line {
    host: String,
    #[serde(default)]
    ok: u64,
    #[serde(default)]
    changed: u64,
    #[serde(default)]
    failures: u64,
    #[serde(default)]
    unreachable: u64,
    #[serde(default)]
    report: Option<Report>,
}

/// What the check left behind. `report` is what the report step printed.
pub fn evidence(run: &PipelineRunStatus, tasks: &[TaskRun], report: &str) -> Evidence {
    let mut summaries = BTreeMap::new();
    let mut reports = BTreeMap::new();
    let mut unreadable = 0;
    for line in report.lines().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str::<Line>(line) {
            Ok(line) => {
                let summary = Summary { ok: line.ok, changed: line.changed, failures: line.failures, unreachable: line.unreachable };
                // the callback prints each host once
                if summaries.insert(line.host.clone(), summary).is_some() {
                    unreadable += 1;
                }
                if let Some(report) = line.report {
                    reports.insert(line.host, report);
                }
            }
            Err(_) => unreadable += 1,
        }
    }
    let end = end(run, tasks, summaries.is_empty(), unreadable);
    Evidence { end, summaries, reports }
}

fn end(run: &PipelineRunStatus, tasks: &[TaskRun], nothing: bool, unreadable: u32) -> End {
    let condition = run.succeeded();
    let message = condition.and_then(|c| c.message.as_deref()).map(clip).unwrap_or_default();
    let exit = exit_code(tasks);
    if tasks.is_empty() || !run.skipped_tasks.is_empty() && exit.is_none() {
        return End::Broken(Reason::CheckFailed, format!("no task ran: {message}"));
    }
    if unreadable > 0 {
        return End::Broken(Reason::CheckFailed, format!("{unreadable} line(s) of the report cannot be read"));
    }
    match exit {
        Some(124 | 137) if nothing => End::Stopped(Reason::TimedOut, "the check took longer than its timeout".into()),
        Some(0) if condition.is_some_and(|c| c.status == "True") => End::Succeeded,
        Some(code) if nothing => {
            End::Broken(Reason::CheckFailed, format!("the check ended with exit code {code} and no report; read the log"))
        }
        Some(0) => {
            let said = condition.and_then(|c| c.reason.as_deref()).unwrap_or("nothing");
            End::Failed(format!("its steps ended well, but not the PipelineRun, of which Tekton says {said}: {message}"))
        }
        Some(code) => End::Failed(format!("exit code {code}")),
        None => End::Broken(Reason::CheckFailed, message),
    }
}

/// Exit code of the run step.
fn exit_code(tasks: &[TaskRun]) -> Option<i64> {
    tasks
        .iter()
        .filter_map(|t| t.status.as_ref())
        .flat_map(|s| &s.steps)
        .find(|step| step.name.as_deref() == Some(RUN_STEP))
        .and_then(|step| step.terminated.as_ref())
        .and_then(|t| t.get("exitCode"))
        .and_then(Value::as_i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: &str, reason: &str) -> PipelineRunStatus {
        serde_json::from_value(json!({"conditions": [{"type": "Succeeded", "status": status, "reason": reason, "message": "m"}]})).unwrap()
    }

    fn task(exit: i64) -> TaskRun {
        serde_json::from_value(json!({
            "apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": "t"}, "spec": {},
            "status": {"conditions": [{"type": "Succeeded", "status": "True"}],
                "steps": [{"name": "run", "container": "step-run", "terminated": {"exitCode": exit}}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_run_whose_tasks_were_all_skipped_is_no_success() {
        let e = evidence(&status("True", "Completed"), &[], "");
        assert!(matches!(e.end, End::Broken(Reason::CheckFailed, _)), "{e:?}");
    }

    #[test]
    fn the_exit_code_decides_whether_the_check_succeeded() {
        let line = r#"{"host":"web-1","ok":3,"changed":0,"failures":0,"unreachable":0,"report":{"ok":true}}"#;
        assert_eq!(evidence(&status("True", "Succeeded"), &[task(0)], line).end, End::Succeeded);
        assert_eq!(evidence(&status("True", "Succeeded"), &[task(2)], line).end, End::Failed("exit code 2".into()));
        assert!(matches!(evidence(&status("True", "Succeeded"), &[task(1)], "").end, End::Broken(..)));
        let deleted = evidence(&status("Unknown", "Running"), &[task(0)], line).end;
        assert!(matches!(deleted, End::Failed(ref why) if why.contains("Tekton says Running")), "{deleted:?}");
        assert!(matches!(evidence(&status("True", "Succeeded"), &[task(124)], "").end, End::Stopped(Reason::TimedOut, _)));
    }

    #[test]
    fn a_check_that_was_stopped_from_outside_is_the_platforms_failure() {
        let failed = status("False", "Failed");
        assert!(infrastructure(&failed, &[task(143)]).is_some_and(|why| why.contains("drained")));
        for own in [0, 1, 124, 137] {
            assert_eq!(infrastructure(&failed, &[task(own)]), None, "{own}");
        }
    }

    #[test]
    fn a_host_that_is_reported_twice_is_not_believed() {
        let line = |failures: u8| format!("{{\"host\":\"a\",\"failures\":{failures},\"report\":{{\"ok\":true}}}}\n");
        let e = evidence(&status("True", "Succeeded"), &[task(0)], &(line(1) + &line(0)));
        assert!(matches!(e.end, End::Broken(Reason::CheckFailed, _)), "{e:?}");
        assert_eq!(evidence(&status("True", "Succeeded"), &[task(0)], &line(0)).end, End::Succeeded);
    }

    #[test]
    fn a_report_that_cannot_be_read_is_no_success() {
        let e = evidence(&status("True", "Succeeded"), &[task(0)], "{\"host\":\"a\"}\nTASK [x]\n");
        assert!(matches!(e.end, End::Broken(..)));
    }

    #[test]
    fn a_check_runs_under_the_account_without_rights() {
        let spec = crate::yaml::from_str("{connection: {name: c}, group: 5, phases: [precheck]}").unwrap();
        let checks: Checks =
            crate::yaml::from_str("{sshKeySecretRef: {name: ssh}, knownHostsRef: {name: k}, pipelineRef: {name: p}}").unwrap();
        let run = PatchRun::new("web", spec);
        let (key, name) = ("v1-k-precheck", "fettle-v1-k-precheck");
        let plan = CheckPlan {
            run: &run,
            phase: Phase::Precheck,
            key,
            name,
            checks: &checks,
            scope: "scope",
            scope_digest: "d",
            reboot_key: None,
            image: "checks:1",
        };
        let template = pipeline_run(&plan).spec.task_run_template.unwrap();
        assert_eq!(
            (&template["serviceAccountName"], &template["podTemplate"]["automountServiceAccountToken"]),
            (&json!("fettle-checks"), &json!(false))
        );
    }

    #[test]
    fn values_never_enter_a_script() {
        let text = pipeline_spec("image").to_string();
        assert!(!text.contains("\"script\""), "{text}");
    }
}
