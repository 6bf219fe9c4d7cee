//! What users see.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use fettle::{
    api::{
        patch_run::{Outcome, Phase, RunResult, State},
        shared::NameOrId,
    },
    clients::aap::ScheduleRequest,
    controllers::janitor,
};
use fettle_standins::aap::{Action, Assignment, Config, Fault, HostResult, Script, Standin, Status};
use serde_json::json;

use crate::{
    bed::{Bed, NAMESPACE, OPERATOR, connection_path, run_path},
    calls::Calls,
    tekton::{Found, Tekton},
};

const CHANGES: [&str; 3] = ["apply", "reboot", "stage"];

fn one_each() -> BTreeMap<String, usize> {
    CHANGES.map(|name| (name.to_owned(), 1)).into()
}

/// A controller whose jobs of one template run until they are released or cancelled.
pub async fn holding(template: &'static str) -> Bed {
    Bed::with(Tekton::default(), Config::example(), move |job: &Assignment| {
        let script = Script::new(job);
        if job.template == template { script.held() } else { script }
    })
    .await
}

pub fn is_running(bed: &Bed, template: &str) -> bool {
    bed.aap.jobs_of(template).first().is_some_and(|job| job.status == Status::Running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_phases_end_ok_with_one_launch_each() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({}));
    bed.drive("web", 90, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!(status.result, Some(RunResult::Ok), "{status:#?}");
    assert_eq!(bed.launched(), one_each());
    assert_eq!(bed.aap.schedules().len(), 3);
    assert_eq!(status.hosts.as_deref(), Some("3/3"));
    assert_eq!(bed.locked(), 0);
    for phase in Phase::ALL {
        let entry = status.of(phase).unwrap();
        let (log, counts) = (entry.log.as_ref().unwrap(), entry.hosts.unwrap());
        assert_eq!((entry.result, counts.ok + counts.changed, counts.total), (Some(RunResult::Ok), 3, 3));
        assert!(log.size > 0 && status.log_url.is_some());
    }
    // intent, PipelineRun, end of a check; intent, schedule seen, job found, end of a change; the first look; the connection's own status
    let writes = bed.writes();
    let count = |method: &str, part: &str| writes.iter().filter(|w| w.method == method && w.path.contains(part)).count();
    assert_eq!(count("POST", "pipelineruns"), 2);
    assert_eq!(count("PUT", "automationconnections"), 1);
    let statuses = bed.statuses_written("web");
    assert!(statuses.len() <= 2 * 2 + 3 * 4 + 1, "{}: {statuses:#?}", statuses.len());
    assert_eq!(
        (count("POST", "-scope") + count("POST", "configmaps"), count("PUT", "configmaps"), count("PATCH", "patchruns")),
        (1 + 3, 3, 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_run_costs_nothing() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({"phases": ["precheck"], "startBy": null}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    bed.api.forget();
    for _ in 0..20 {
        bed.reconcile(NAMESPACE, "web").await;
    }
    assert_eq!(bed.api.asked(), [], "a settled run asks the API server for nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_be_reached_is_named() {
    let mut bed = Bed::with(Tekton::default(), Config::example(), |job: &Assignment| {
        let script = Script::new(job);
        if job.template == "apply" { script.host("web-2", HostResult::Unreachable("no route".into())) } else { script }
    })
    .await;
    bed.apply("web", json!({}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    let apply = status.of(Phase::Apply).unwrap();
    assert_eq!((status.result, bed.reason("web").as_str()), (Some(RunResult::Error), "HostsUnreachable"));
    assert_eq!(apply.failed_hosts.iter().map(|h| (h.name.as_str(), h.outcome)).collect::<Vec<_>>(), [("web-2", Outcome::Unreachable)]);
    assert_eq!((apply.hosts.unwrap().changed, status.of(Phase::Reboot)), (2, None));
    assert!(apply.log.is_some());
    assert_eq!(bed.launched(), [("apply".into(), 1), ("stage".into(), 1)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_precheck_launches_nothing() {
    let full = Found { exit: 2, failed: [("db-1".into(), "/boot is full".into())].into(), ..Found::default() };
    let mut bed = Bed::with(Tekton::default().with("precheck", full), Config::example(), Script::new).await;
    bed.apply("web", json!({}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!(bed.reason("web"), "HostsFailed");
    assert_eq!(bed.status("web").of(Phase::Precheck).unwrap().failed_hosts[0].message.as_deref(), Some("/boot is full"));
    assert_eq!((bed.aap.schedules().len(), bed.aap.jobs().len(), bed.locked()), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_waits_for_the_credentials_of_its_changes() {
    let mut bed = Bed::new().await;
    let secret = format!("api/v1/namespaces/{NAMESPACE}/secrets/aap-change");
    bed.api.delete(&secret);
    bed.apply("web", json!({"phases": ["precheck", "apply"]}));
    let checked = |bed: &Bed| bed.status("web").of(Phase::Precheck).is_some_and(|p| p.result.is_some());
    bed.drive("web", 60, checked).await;
    assert!(!bed.api.asked().iter().any(|asked| asked.path == secret), "a read phase touched the secret of the changes");
    bed.drive("web", 60, |bed| bed.status("web").state == State::AwaitingCredentials).await;
    assert!(bed.message("web").contains("Secret aap-change is not there"), "{}", bed.message("web"));
    bed.secret(NAMESPACE, "aap-change", "execute-token");
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.launched()), (Some(RunResult::Ok), [("apply".into(), 1)].into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_named_with_the_account_that_needs_it() {
    let mut bed = Bed::new().await;
    bed.api.forbid(&format!("api/v1/namespaces/{NAMESPACE}/secrets/aap-change"), true);
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| bed.reason("web") == "RightsMissing").await;
    assert!(bed.message("web").contains(&format!("--serviceaccount={OPERATOR}:fettle-manager")), "{}", bed.message("web"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_of_the_team_is_used_only_when_it_is_labelled_for_checks() {
    let mut bed = Bed::new().await;
    let pipeline = format!("apis/tekton.dev/v1/namespaces/{NAMESPACE}/pipelines/theirs");
    bed.api.edit(&connection_path(NAMESPACE), |c| c["spec"]["checks"]["pipelineRef"] = json!({"name": "theirs"}));
    bed.apply("web", json!({"phases": ["precheck"], "startBy": null}));
    let refused = |why: &'static str| move |bed: &Bed| bed.reason("web") == "ConnectionInvalid" && bed.message("web").contains(why);
    bed.drive("web", 60, refused("Pipeline theirs is not there")).await;
    bed.api.put(&pipeline, json!({"spec": {}}));
    let command = "kubectl -n patching label --overwrite pipelines.tekton.dev theirs fettle.dev/checks=true";
    bed.drive("web", 60, refused(command)).await;
    bed.api.edit(&pipeline, |pipeline| pipeline["metadata"]["labels"] = json!({"fettle.dev/checks": "false"}));
    for _ in 0..5 {
        bed.reconcile(NAMESPACE, "web").await;
    }
    assert!(refused(command)(&bed) && bed.api.paths("/pipelineruns/").is_empty(), "{}", bed.message("web"));
    bed.api.forbid(&pipeline, true);
    bed.drive("web", 60, |bed| bed.reason("web") == "RightsMissing").await;
    bed.api.forbid(&pipeline, false);
    bed.api.edit(&pipeline, |pipeline| pipeline["metadata"]["labels"]["fettle.dev/checks"] = json!("true"));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let run = bed.api.get(&bed.api.paths("/pipelineruns/")[0]).unwrap();
    assert_eq!((&run["spec"]["pipelineRef"]["name"], bed.status("web").result), (&json!("theirs"), Some(RunResult::Ok)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_that_would_do_something_else_are_not_launched() {
    let mut bed = Bed::new().await;
    let edit = |bed: &Bed, ask: &[&str], slices: i64| {
        bed.aap.edit(|catalog| {
            for template in catalog.templates.values_mut() {
                template.config.ask = ask.iter().map(|word| (*word).to_owned()).collect();
                template.config.job_slice_count = slices;
            }
        });
    };
    edit(&bed, &["variables"], 1);
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| bed.reason("web") == "TemplateNotReady" && bed.message("web").to_lowercase().contains("limit")).await;
    edit(&bed, &["limit", "variables"], 3);
    bed.drive("web", 60, |bed| bed.message("web").to_lowercase().contains("slic")).await;
    assert_eq!((bed.aap.schedules().len(), bed.aap.jobs().len()), (0, 0));
    edit(&bed, &["limit", "variables"], 1);
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!(bed.status("web").result, Some(RunResult::Ok));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_group_is_refused_once_and_for_all() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({"group": 7, "phases": ["apply"]}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.reason("web").as_str()), (Some(RunResult::Error), "ScopeEmpty"));
    assert_eq!(bed.status("web").of(Phase::Apply).unwrap().adopted, None, "its own refusal is no adoption");
    assert_eq!((bed.aap.schedules().len(), bed.aap.jobs().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_by_that_passed_is_the_end() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({"startBy": "2026-01-01T00:00:00Z", "phases": ["precheck", "apply"]}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.reason("web").as_str()), (Some(RunResult::Error), "StartByPassed"));
    assert_eq!(bed.message("web").matches("startBy passed").count(), 1, "{}", bed.message("web"));
    assert_eq!((bed.aap.schedules().len(), bed.aap.jobs().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_whose_answer_is_lost_is_found_again() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.aap.fault(Fault::on("POST", "/schedules/", Action::DropResponse));
    let lost = |bed: &Bed| bed.aap.requests().iter().any(|request| request.fault.is_some());
    bed.drive("web", 60, lost).await;
    bed.kill();
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.launched()), (Some(RunResult::Ok), [("apply".into(), 1)].into()));
    assert_eq!(bed.aap.schedules().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_git_creates_again_takes_its_past_over() {
    let mut bed = Bed::new().await;
    let by = fettle::clock::now() + jiff::SignedDuration::from_hours(1);
    bed.apply("web", json!({"startBy": by}));
    bed.drive("web", 90, |bed| bed.settled("web")).await;
    let first = bed.status("web");
    bed.api.delete(&run_path(NAMESPACE, "web"));
    assert!(bed.run("web").is_none());
    bed.apply("web", json!({"startBy": by}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let again = bed.status("web");
    assert_eq!((again.result, &again.run_key), (Some(RunResult::Ok), &first.run_key));
    assert!(again.phases.iter().all(|p| p.adopted == Some(true)), "{again:#?}");
    assert_eq!((bed.launched(), bed.aap.schedules().len()), (one_each(), 3));
    assert!(bed.api.tekton.started.lock().unwrap().values().all(|count| *count == 1));

    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["spec"]["attempt"] = json!(2));
    bed.drive("web", 90, |bed| bed.settled("web") && bed.status("web").attempt == Some(2)).await;
    let second = bed.status("web");
    assert_eq!((second.result, second.phases.iter().any(|p| p.adopted.is_some())), (Some(RunResult::Ok), false));
    assert_ne!(second.run_key, first.run_key);
    assert_eq!(bed.launched(), CHANGES.map(|name| (name.to_owned(), 2)).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_is_asked_for_early_starts_when_the_run_is_over() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| is_running(bed, "apply")).await;
    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["spec"]["attempt"] = json!(2));
    bed.drive("web", 60, |bed| bed.run("web").unwrap().metadata.generation == bed.status("web").observed_generation).await;
    assert_eq!((bed.status("web").attempt, bed.aap.jobs().len()), (Some(1), 1));
    let first = bed.job("apply").id;
    bed.aap.release(first);
    bed.drive("web", 60, |bed| bed.aap.jobs().len() == 2).await;
    bed.aap.release(first + 1);
    bed.aap.jobs().iter().for_each(|job| bed.aap.release(job.id));
    bed.drive("web", 60, |bed| bed.settled("web") && bed.status("web").attempt == Some(2)).await;
    assert_eq!((bed.status("web").result, bed.locked()), (Some(RunResult::Ok), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_deleted_while_it_works_ends_its_phase_and_goes() {
    let mut bed = holding("apply").await;
    let by = fettle::clock::now() + jiff::SignedDuration::from_hours(1);
    bed.apply("web", json!({"startBy": by, "phases": ["stage", "apply", "reboot"]}));
    bed.drive("web", 60, |bed| is_running(bed, "apply")).await;
    bed.api.delete(&run_path(NAMESPACE, "web"));
    for _ in 0..10 {
        bed.reconcile(NAMESPACE, "web").await;
    }
    assert!(bed.run("web").is_some(), "the object stays while its job runs");
    bed.aap.release(bed.job("apply").id);
    bed.drive("web", 60, |bed| bed.run("web").is_none()).await;
    assert_eq!((bed.launched(), bed.locked()), ([("apply".into(), 1), ("stage".into(), 1)].into(), 0));
    bed.apply("web", json!({"startBy": by, "phases": ["stage", "apply", "reboot"]}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.result, bed.launched()), (Some(RunResult::Ok), one_each()));
    assert_eq!(status.phases.iter().map(|p| p.adopted).collect::<Vec<_>>(), [Some(true), Some(true), None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_ends_the_job_for_real() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply", "reboot"]}));
    bed.drive("web", 60, |bed| is_running(bed, "apply")).await;
    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["spec"]["cancel"] = json!(true));
    bed.drive("web", 90, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.result, bed.reason("web").as_str()), (Some(RunResult::Error), "Cancelled"));
    assert_eq!((bed.job("apply").status, bed.launched()), (Status::Canceled, [("apply".into(), 1)].into()));
    assert!(status.of(Phase::Apply).unwrap().log.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_outlives_controller_and_manager() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| bed.status("web").of(Phase::Apply).is_some_and(|p| p.executor.is_some())).await;
    bed.aap.fault(Action::Down { seconds: 2.0 });
    bed.kill();
    bed.drive("web", 60, |bed| bed.reason("web") == "ControllerUnreachable").await;
    assert_eq!(bed.status("web").state, State::Running);
    bed.aap.release(bed.job("apply").id);
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.launched()), (Some(RunResult::Ok), [("apply".into(), 1)].into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_with_a_host_in_common_take_turns() {
    let busy = Arc::new(Mutex::new((0_usize, 0_usize)));
    let mut bed =
        Bed::with(Tekton::default(), Config::example(), |job: &Assignment| Script::new(job).taking(Duration::from_millis(500))).await;
    bed.tenant("other");
    bed.apply_in(NAMESPACE, "web", json!({"phases": ["apply"], "group": null, "hosts": ["web-1", "web-2"]}));
    bed.apply_in("other", "web", json!({"phases": ["apply"], "group": null, "hosts": ["web-2", "db-1"]}));
    let seen = busy.clone();
    bed.drive_all(&[(NAMESPACE, "web"), ("other", "web")], 90, |bed| {
        let running = bed.aap.jobs().iter().filter(|job| !job.status.is_terminal()).count();
        let waits = [NAMESPACE, "other"].into_iter().filter_map(|ns| bed.run_in(ns, "web")?.status).any(|status| {
            status.conditions.iter().any(|c| c.reason == "HostsBusy" && c.message.contains("web-2") && !c.message.contains("PatchRun web"))
        });
        let mut seen = seen.lock().unwrap();
        *seen = (seen.0.max(running), seen.1 + usize::from(waits));
        bed.settled_in(NAMESPACE, "web") && bed.settled_in("other", "web")
    })
    .await;
    let (most, waited) = *busy.lock().unwrap();
    assert_eq!(most, 1, "two jobs at once on one host");
    assert!(waited > 0, "nobody waited");
    assert_eq!((bed.aap.jobs().len(), bed.locked()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_of_an_earlier_life_is_made_again_when_its_hosts_are_free_and_found_by_the_next() {
    let mut bed = holding("apply").await;
    let by = fettle::clock::now() + jiff::SignedDuration::from_hours(1);
    let change = |hosts: [&str; 2]| json!({"startBy": by, "phases": ["apply"], "group": null, "hosts": hosts});
    bed.apply("web", change(["web-1", "web-2"]));
    bed.aap.fault(Fault::on("POST", "/schedules/", Action::Reset));
    bed.drive("web", 60, |bed| bed.aap.requests().iter().any(|request| request.fault.is_some())).await;
    bed.kill();
    bed.api.delete(&run_path(NAMESPACE, "web"));
    bed.drive("web", 60, |bed| bed.run("web").is_none()).await;
    assert_eq!((bed.aap.schedules().len(), bed.aap.jobs().len(), bed.locked()), (1, 0, 0), "its name is taken and launches nothing");

    bed.apply("other", change(["web-2", "db-1"]));
    bed.drive("other", 60, |bed| is_running(bed, "apply")).await;
    bed.apply("web", change(["web-1", "web-2"]));
    bed.drive("web", 60, |bed| bed.reason("web") == "HostsBusy").await;
    assert!(bed.message("web").contains("web-2 is in PatchRun other"), "{}", bed.message("web"));
    for _ in 0..5 {
        bed.reconcile(NAMESPACE, "web").await;
    }
    assert_eq!((bed.aap.jobs().len(), bed.locked()), (1, 2));
    bed.aap.release(bed.job("apply").id);
    bed.drive_all(&[(NAMESPACE, "other"), (NAMESPACE, "web")], 90, |bed| {
        bed.settled("other") && bed.aap.jobs().iter().filter(|job| job.status == Status::Running).count() == 1
    })
    .await;
    assert_eq!(bed.aap.schedules().len(), 3, "the second try of web");

    // its next life finds the later try, and stops its job
    bed.kill();
    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["metadata"]["finalizers"] = json!([]));
    bed.api.delete(&run_path(NAMESPACE, "web"));
    let mut cancelled = change(["web-1", "web-2"]);
    cancelled["cancel"] = json!(true);
    bed.apply("web", cancelled);
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!(
        (status.result, bed.reason("web").as_str(), bed.launched()),
        (Some(RunResult::Error), "Cancelled", [("apply".into(), 2)].into())
    );
    let job = bed.aap.jobs().pop().unwrap();
    assert_eq!((job.status, bed.locked()), (Status::Canceled, 0));
    let phase = status.of(Phase::Apply).unwrap();
    assert_eq!((phase.executor.as_ref().unwrap().id.as_str(), phase.launch.as_ref().unwrap().try_), (job.id.to_string().as_str(), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_another_job_claimed_are_no_success() {
    let mut bed =
        Bed::with(Tekton::default(), Config::example(), |job: &Assignment| Script::new(job).guard("web-1", "already-claimed")).await;
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.result, bed.reason("web").as_str()), (Some(RunResult::Error), "HostsFailed"));
    assert_eq!(status.of(Phase::Apply).unwrap().failed_hosts[0].name, "web-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_another_controller_is_left_alone() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| bed.status("web").of(Phase::Apply).is_some_and(|p| p.executor.is_some())).await;
    let other = Standin::builder().config(Config::example()).script(|job| Script::new(job).held()).start().await.unwrap();
    let id = bed.job("apply").id;
    while other.jobs().last().is_none_or(|job| job.id < id) {
        other.launch_by_hand("reboot", &json!({})).unwrap();
    }
    bed.proxy.lead_to(&other.url);
    bed.kill();
    bed.drive("web", 60, |bed| bed.reason("web") == "ConnectionChanged").await;
    for _ in 0..10 {
        bed.reconcile(NAMESPACE, "web").await;
    }
    assert!(other.jobs().iter().all(|job| !job.status.is_terminal()), "somebody else's job was cancelled");
    assert_eq!(other.count("POST", "/jobs/{}/cancel/"), 0);
    bed.proxy.lead_to(&bed.aap.url);
    bed.aap.release(id);
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.launched()), (Some(RunResult::Ok), [("apply".into(), 1)].into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_is_away_delays_the_end_only() {
    let mut bed = holding("apply").await;
    bed.apply("web", json!({"phases": ["apply"]}));
    bed.drive("web", 60, |bed| bed.status("web").of(Phase::Apply).is_some_and(|p| p.executor.is_some())).await;
    let (folder, away) = (bed.directory.path().join("phases"), bed.directory.path().join("away"));
    let existed = std::fs::rename(&folder, &away).is_ok();
    std::fs::write(&folder, "in the way").unwrap();
    bed.aap.release(bed.job("apply").id);
    assert!(bed.aap.settled(Duration::from_secs(20)).await);
    for _ in 0..20 {
        bed.reconcile(NAMESPACE, "web").await;
    }
    assert_eq!(bed.status("web").result, None, "no end without its record");
    std::fs::remove_file(&folder).unwrap();
    if existed {
        std::fs::rename(&away, &folder).unwrap();
    }
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!((bed.status("web").result, bed.launched()), (Some(RunResult::Ok), [("apply".into(), 1)].into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_while_suspended_or_paused() {
    let mut bed = Bed::new().await;
    bed.pause = true;
    bed.apply("web", json!({"phases": ["apply"], "suspend": true}));
    bed.drive("web", 60, |bed| bed.reason("web") == "Suspended").await;
    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["spec"]["suspend"] = json!(false));
    bed.drive("web", 60, |bed| bed.reason("web") == "Paused").await;
    assert_eq!((bed.aap.schedules().len(), bed.aap.jobs().len(), bed.locked()), (0, 0, 0));
    bed.pause = false;
    bed.start(Calls::default()).await;
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!(bed.status("web").result, Some(RunResult::Ok));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_waits_asks_nobody() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({"suspend": true}));
    bed.drive("web", 60, |bed| bed.reason("web") == "Suspended").await;
    // who asked the archive now would be told that it is away
    let (folder, away) = (bed.directory.path().join("phases"), bed.directory.path().join("away"));
    let existed = std::fs::rename(&folder, &away).is_ok();
    std::fs::write(&folder, "in the way").unwrap();
    bed.api.forget();
    for _ in 0..20 {
        bed.reconcile(NAMESPACE, "web").await;
    }
    assert_eq!((bed.reason("web").as_str(), bed.api.asked()), ("Suspended", vec![]));
    std::fs::remove_file(&folder).unwrap();
    if existed {
        std::fs::rename(&away, &folder).unwrap();
    }
    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["spec"]["cancel"] = json!(true));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    assert_eq!(bed.reason("web"), "Cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_check_outlives_its_cancel() {
    let held = Found { held: true, ..Found::default() };
    let mut bed = Bed::with(Tekton::default().with("precheck", held), Config::example(), Script::new).await;
    bed.apply("web", json!({}));
    bed.drive("web", 60, |bed| !bed.api.paths("/pods/").is_empty()).await;
    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["spec"]["cancel"] = json!(true));
    bed.drive("web", 60, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.result, bed.reason("web").as_str()), (Some(RunResult::Error), "Cancelled"));
    assert!(status.of(Phase::Precheck).unwrap().log.as_ref().is_some_and(|log| log.size == 13), "{status:#?}");
    assert_eq!(bed.aap.schedules().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_of_others_stay() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({"phases": ["precheck"], "startBy": null}));
    bed.api.edit(&run_path(NAMESPACE, "web"), |run| run["metadata"]["finalizers"] = json!(["example.com/theirs"]));
    bed.drive("web", 60, |bed| {
        let ours = bed.run("web").unwrap().metadata.finalizers.unwrap_or_default().iter().any(|f| f.starts_with("fettle.dev"));
        bed.status("web").state == State::Completed && !ours
    })
    .await;
    assert_eq!(bed.run("web").unwrap().metadata.finalizers.unwrap(), ["example.com/theirs"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_go_a_year_after_their_time() {
    let mut bed = Bed::new().await;
    let session = bed.controller().await;
    let template = session.template(&NameOrId::Name("apply".into())).await.unwrap().value.id;
    let now = fettle::clock::now();
    for (name, days) in [("fettle-v1-old-apply", 367), ("fettle-v1-young-apply", 365), ("theirs-v1-old-apply", 367)] {
        let not_after = (now - jiff::SignedDuration::from_hours(24 * days)).as_second();
        let extra_data = json!({"fettle_not_after": not_after}).as_object().unwrap().clone();
        let dtstart = now - jiff::SignedDuration::from_hours(1);
        let request = ScheduleRequest { name: name.into(), description: String::new(), dtstart, limit: "web-1".into(), extra_data };
        session.create_schedule(template, &request).await.unwrap();
    }
    janitor::remove_schedules(&session, now).await;
    let left: Vec<String> = bed.aap.schedules().into_iter().map(|schedule| schedule.name).collect();
    assert_eq!(left, ["fettle-v1-young-apply", "theirs-v1-old-apply"]);
}
