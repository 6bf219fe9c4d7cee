//! The AAP client against a controller: preflight, fenced and direct launches, following, cancelling, results.

use std::time::Duration;

use fettle::{
    api::shared::NameOrId,
    clients::{
        aap::{
            Aap, Cancel, CreateSchedule, Credentials, ErrorKind, Flavour, Gate, Job, JobKind, JobStatus, LaunchRequest, Needs, RUN_KEY,
            Schedule, ScheduleRequest, Secret, Settings, preflight,
        },
        http::UrlPolicy,
    },
};
use fettle_standins::aap::{Action, Config, Fault, HostResult, Running, Script, Standin};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

const KEY: &str = "v1-7p3k0aaaaaaaaaaaaaaa-apply";

fn client(controller: &Running, token: &str) -> Aap {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Aap::new(Settings {
        url: controller.url.clone(),
        api_prefix: None,
        credentials: Credentials::Token(Secret::new(token)),
        policy: UrlPolicy { allow_plain_http: true, allow_loopback: true, ..UrlPolicy::default() },
        ca_bundle: None,
        gate: Gate::default(),
        observer: None,
    })
    .expect("client")
}

async fn controller() -> Running {
    Standin::builder().config(Config::example()).start().await.expect("controller")
}

async fn template(aap: &Aap, name: &str) -> i64 {
    aap.template(&NameOrId::Name(name.into())).await.expect("template").value.id
}

fn variables() -> Map<String, Value> {
    Map::from_iter([(RUN_KEY.to_owned(), KEY.into()), ("fettle_hosts".to_owned(), json!(["web-1", "web-2"]))])
}

fn schedule(dtstart: Timestamp) -> ScheduleRequest {
    ScheduleRequest {
        name: format!("fettle-{KEY}"),
        description: "PatchRun patching/web".into(),
        dtstart,
        limit: "web-1,web-2".into(),
        extra_data: variables(),
    }
}

fn launch() -> LaunchRequest {
    LaunchRequest { limit: "web-1,web-2".into(), extra_vars: variables() }
}

/// Asks until the answer is as wanted.
async fn until<T, F: Future<Output = T>>(ask: impl Fn() -> F, wanted: impl Fn(&T) -> bool) -> T {
    for _ in 0..1200 {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it never came to be");
}

async fn over(aap: &Aap, id: i64) -> Job {
    let ask = || async { aap.job(id).await.expect("job").value };
    until(ask, |job| job.status.is_over() && job.event_processing_finished == Some(true)).await
}

async fn fenced(aap: &Aap, template: i64) -> Schedule {
    let soon = aap.discover().await.unwrap().date.unwrap() + SignedDuration::from_secs(3);
    match aap.create_schedule(template, &schedule(soon)).await.unwrap().value {
        CreateSchedule::Created(schedule) => *schedule,
        CreateSchedule::AlreadyExists => panic!("it exists"),
    }
}

#[tokio::test]
async fn a_controller_is_recognised() {
    let controller = controller().await;
    let aap = client(&controller, "read-token");
    let found = aap.discover().await.unwrap();
    assert!(found.value.api_prefix.ends_with("/v2") && !found.value.install_uuid.is_empty());
    assert!(matches!(found.value.flavour, Flavour::Aap | Flavour::Awx));
    let skew = found.date.unwrap().duration_since(controller.now()).abs();
    assert!(skew < SignedDuration::from_secs(20), "{skew}");
    assert_eq!(aap.me().await.unwrap().value.username, "read");

    let stranger = client(&controller, "no-such-token");
    assert_eq!(stranger.me().await.expect_err("401").kind, ErrorKind::Unauthorized);
    assert!(stranger.discover().await.is_ok(), "discovery needs no credentials");
}

#[tokio::test]
async fn preflight_finds_what_a_team_forgot() {
    let controller = controller().await;
    let aap = client(&controller, "execute-token");
    let apply = NameOrId::Name("apply".into());
    let inventory = aap.inventory(&NameOrId::Name("fleet".into())).await.unwrap().value;
    assert_eq!((inventory.name.as_str(), inventory.organization.as_deref()), ("fleet", Some("Ops")));
    let needs = Needs { inventory: inventory.id, launches: true };
    let blocking = async |aap: &Aap| -> Vec<String> {
        let template = aap.template(&apply).await.unwrap().value;
        assert_eq!(aap.template(&NameOrId::Id(template.id)).await.unwrap().value, template, "by number as by name");
        preflight(&template, &needs).into_iter().filter(|p| p.blocks).map(|p| p.message).collect()
    };
    assert_eq!(blocking(&aap).await, Vec::<String>::new());

    // a reader sees the template but may not launch it
    let found = blocking(&client(&controller, "read-token")).await;
    assert!(found.len() == 1 && found[0].contains("Execute"), "{found:?}");

    for (forget, text) in [(0, "Limit"), (1, "Variables"), (2, "Job slicing"), (3, "Check")] {
        controller.edit(|catalog| {
            let template = catalog.templates.values_mut().find(|t| t.config.name == "apply").unwrap();
            template.config.ask = vec!["limit".into(), "variables".into()];
            match forget {
                0 => template.config.ask = vec!["variables".into()],
                1 => template.config.ask = vec!["limit".into()],
                2 => template.config.job_slice_count = 2,
                _ => {
                    template.config.job_slice_count = 1;
                    template.config.job_type = "check".into();
                }
            }
        });
        let found = blocking(&aap).await;
        assert!(found.len() == 1 && found[0].contains(text), "{text}: {found:?}");
    }
    let missing = aap.template(&NameOrId::Name("nothing".into())).await.expect_err("no such template");
    assert!(missing.is_not_found() && missing.to_string().contains("\"nothing\""), "{missing}");
    assert!(aap.template(&NameOrId::Id(4711)).await.expect_err("no such template").is_not_found());
}

#[tokio::test]
async fn hosts_come_with_groups_and_merged_variables() {
    let controller = controller().await;
    let aap = client(&controller, "read-token");
    let id = aap.inventory(&NameOrId::Name("fleet".into())).await.unwrap().value.id;
    controller.edit(|catalog| {
        let fleet = catalog.inventories.values_mut().find(|i| i.name == "fleet").unwrap();
        fleet.hosts.values_mut().find(|h| h.name == "db-1").unwrap().enabled = false;
        fleet.groups.values_mut().find(|g| g.name == "web").unwrap().variables =
            Map::from_iter([("fettle_services".to_owned(), json!(["nginx"])), ("patch_group".to_owned(), json!("9"))]);
    });
    let hosts = aap.inventory_hosts(id).await.unwrap().value;
    let names: Vec<_> = hosts.iter().map(|h| (h.name.as_str(), h.enabled)).collect();
    assert_eq!(names, [("db-1", false), ("web-1", true), ("web-2", true)]);
    let web = &hosts[1];
    assert_eq!(web.groups.iter().map(String::as_str).collect::<Vec<_>>(), ["patch_5", "web"]);
    assert_eq!(web.variables["fettle_services"], json!(["nginx"]));
    assert_eq!(web.variables["patch_group"], "5", "the host's own value wins over its group's");
    assert!(!web.variables.keys().any(|k| k.starts_with("remote_")));
}

#[tokio::test]
async fn a_fenced_launch_gives_one_job_however_often_it_is_asked_for() {
    let controller = controller().await;
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    let created = fenced(&aap, apply).await;
    assert_eq!((created.limit.as_deref(), created.extra_data[RUN_KEY].as_str()), (Some("web-1,web-2"), Some(KEY)));
    assert!(created.enabled && created.next_run.is_some());
    for _ in 0..3 {
        assert_eq!(
            aap.create_schedule(apply, &schedule(Timestamp::MAX - SignedDuration::from_hours(48))).await.unwrap().value,
            CreateSchedule::AlreadyExists
        );
    }
    let named = aap.schedules_named(&created.name).await.unwrap().value;
    assert_eq!(named.iter().map(|s| s.id).collect::<Vec<_>>(), [created.id]);

    let ask = || async { aap.jobs_of_schedule(&created.name).await.unwrap().value };
    let jobs = until(ask, |jobs| !jobs.is_empty()).await;
    let job = over(&aap, jobs[0].id).await;
    assert_eq!((job.launch_type.as_str(), job.schedule, &job.status), ("scheduled", Some(created.id), &JobStatus::Successful));
    assert_eq!((job.limit.as_str(), job.extra_vars[RUN_KEY].as_str()), ("web-1,web-2", Some(KEY)));
    assert!(aap.disable_schedule(created.id).await.is_ok_and(|a| !a.value.enabled));
    assert_eq!(aap.schedule(created.id).await.unwrap().value.next_run, None);
    assert_eq!(controller.jobs().len(), 1);

    let summaries = aap.host_summaries(job.id).await.unwrap().value;
    let mut hosts: Vec<_> = summaries.iter().map(|h| (h.host_name.as_str(), h.changed > 0, h.failed)).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, [("web-1", true, false), ("web-2", true, false)]);
    assert_eq!(job.reports().unwrap()["web-1"]["guard"], "executed");
}

#[tokio::test]
async fn a_lost_answer_to_a_fenced_launch_is_mended_by_asking_again() {
    let losses =
        [Action::DropResponse, Action::Truncate { bytes: 10 }, Action::Reset, Action::Status { code: 504, body: None, retry_after: None }];
    futures::future::join_all(losses.map(async |action| {
        let controller = controller().await;
        let aap = client(&controller, "execute-token");
        let apply = template(&aap, "apply").await;
        controller.fault(Fault::on("POST", "/schedules/", action.clone()));
        let soon = controller.now() + SignedDuration::from_secs(4);
        let error = aap.create_schedule(apply, &schedule(soon)).await.expect_err("lost");
        assert!(error.is_ambiguous(), "{action:?}: {error:?}");
        // made by the lost request, or by this one
        aap.create_schedule(apply, &schedule(soon)).await.unwrap();
        assert_eq!(controller.schedules().len(), 1, "{action:?}");
        let ask = || async { aap.jobs_of_schedule(&schedule(soon).name).await.unwrap().value };
        until(ask, |jobs| jobs.len() == 1).await;
        assert_eq!(controller.jobs().len(), 1, "{action:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_schedule_is_refused_where_a_launch_would_drop_the_limit() {
    let controller = controller().await;
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    controller.edit(|catalog| catalog.templates.values_mut().for_each(|t| t.config.ask = vec!["variables".into()]));
    let error = aap.create_schedule(apply, &schedule(controller.now())).await.expect_err("not promptable");
    assert!(error.is_definite() && error.to_string().contains("limit"), "{error}");
    let launched = aap.launch(apply, &launch()).await.unwrap().value;
    assert_eq!(launched.ignored_fields["limit"], "web-1,web-2");
    let reader = client(&controller, "read-token");
    assert!(matches!(reader.create_schedule(apply, &schedule(controller.now())).await.expect_err("403").kind, ErrorKind::Forbidden { .. }));
    assert!(matches!(reader.launch(apply, &launch()).await.expect_err("403").kind, ErrorKind::Forbidden { .. }));
}

#[tokio::test]
async fn a_time_that_is_over_never_launches() {
    let controller = controller().await;
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    let past = controller.now() - SignedDuration::from_mins(5);
    let CreateSchedule::Created(created) = aap.create_schedule(apply, &schedule(past)).await.unwrap().value else { panic!("it exists") };
    assert_eq!(created.next_run, None);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(aap.jobs_of_schedule(&created.name).await.unwrap().value.is_empty());
}

#[tokio::test]
async fn a_direct_launch_is_found_again_after_a_lost_answer() {
    let controller = controller().await;
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    assert_eq!(aap.baseline(apply).await.unwrap().value, 0);
    controller.launch_by_hand("apply", &json!({"extra_vars": {RUN_KEY: KEY}})).unwrap();
    let baseline = aap.baseline(apply).await.unwrap().value;
    assert!(baseline > 0);

    controller.fault(Fault::on("POST", "/job_templates/*/launch/", Action::DropResponse));
    let error = aap.launch(apply, &launch()).await.expect_err("lost");
    assert!(error.is_ambiguous(), "{error:?}");
    assert_eq!(controller.count("POST", "/job_templates/{}/launch/"), 1);
    let found = aap.find_marked(apply, baseline, KEY).await.unwrap().value;
    assert_eq!(found.len(), 1, "the job by hand is older than the baseline");
    assert!(found[0].id > baseline && found[0].limit == "web-1,web-2");
    assert!(aap.find_marked(apply, baseline, "v1-other").await.unwrap().value.is_empty());

    // the connection breaks before anything is handled: in doubt, and nothing to find
    let before = aap.baseline(apply).await.unwrap().value;
    controller.fault(Fault::on("POST", "/job_templates/*/launch/", Action::Reset));
    assert!(aap.launch(apply, &launch()).await.expect_err("lost").is_ambiguous());
    assert!(aap.find_marked(apply, before, KEY).await.unwrap().value.is_empty());
    assert_eq!(controller.count("POST", "/job_templates/{}/launch/"), 2);
}

#[tokio::test]
async fn a_sliced_template_gives_a_workflow_that_can_be_cancelled() {
    let controller = Standin::builder().config(Config::example()).script(|job| Script::new(job).held()).start().await.unwrap();
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    controller.edit(|catalog| catalog.templates.values_mut().for_each(|t| t.config.job_slice_count = 2));
    let launched = aap.launch(apply, &launch()).await.unwrap().value;
    assert!(!launched.is_one_job());
    assert_eq!(aap.job(launched.id).await.unwrap().value.kind, JobKind::WorkflowJob);
    assert_eq!(aap.cancel(launched.id).await.unwrap().value, Cancel::Requested);
    let ask = || async { aap.job(launched.id).await.unwrap().value };
    until(ask, |job| job.status == JobStatus::Canceled).await;
}

#[tokio::test]
async fn a_cancel_is_a_request_and_its_loss_shows() {
    let controller = Standin::builder().config(Config::example()).script(|job| Script::new(job).held()).start().await.unwrap();
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    let id = aap.launch(apply, &launch()).await.unwrap().value.id;
    let ask = || async { aap.job(id).await.unwrap().value };
    until(ask, |job| job.status == JobStatus::Running).await;
    controller.fault(Action::LoseCancel);
    assert_eq!(aap.cancel(id).await.unwrap().value, Cancel::Requested);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(aap.job(id).await.unwrap().value.status, JobStatus::Running);
    assert_eq!(aap.cancel(id).await.unwrap().value, Cancel::Requested);
    let job = until(ask, |job| job.status.is_over()).await;
    assert_eq!((&job.status, job.failed), (&JobStatus::Canceled, true));
    assert_eq!(aap.cancel(id).await.unwrap().value, Cancel::AlreadyOver);
    assert!(aap.host_summaries(id).await.unwrap().value.is_empty());
    assert!(aap.cancel(4711).await.expect_err("no such job").is_not_found());
}

#[tokio::test]
async fn hosts_that_did_not_end_well_are_told() {
    let controller = Standin::builder()
        .config(Config::example())
        .script(|job| {
            Script::new(job).host("web-1", HostResult::Failed("disk full".into())).host("web-2", HostResult::Unreachable("no route".into()))
        })
        .start()
        .await
        .unwrap();
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    let id = aap.launch(apply, &launch()).await.unwrap().value.id;
    let job = over(&aap, id).await;
    assert_eq!(job.status, JobStatus::Failed);
    let summaries = aap.host_summaries(id).await.unwrap().value;
    let of = |name: &str| summaries.iter().find(|h| h.host_name == name).unwrap();
    assert!(of("web-1").failures > 0 && of("web-1").failed && of("web-2").dark > 0);
    let events = aap.host_events(id).await.unwrap().value;
    assert!(events.complete && events.hosts["web-1"].failed && events.hosts["web-2"].unreachable && !events.hosts["web-2"].failed);
}

#[tokio::test]
async fn many_jobs_are_read_at_once_and_gone_ones_are_missing() {
    let controller = controller().await;
    let aap = client(&controller, "execute-token");
    let ids: Vec<i64> = (0..60).map(|_| controller.launch_by_hand("apply", &json!({"limit": "web-1"})).unwrap()).collect();
    assert!(controller.settled(Duration::from_secs(20)).await);
    controller.fault(Action::Purge { job: Some(ids[7]) });
    controller.forget_requests();
    let jobs = aap.jobs(&ids).await.unwrap().value;
    assert_eq!(jobs.len(), 59);
    assert!(!jobs.contains_key(&ids[7]) && jobs.values().all(|j| j.status.is_over()));
    assert_eq!(controller.count("GET", "/unified_jobs/"), 2);
    assert!(aap.job(ids[7]).await.expect_err("purged").is_not_found());
    assert_eq!(aap.baseline(jobs[&ids[0]].job_template.unwrap()).await.unwrap().value, ids[59]);
}

#[tokio::test]
async fn words_nobody_knows_are_kept_and_are_no_end() {
    let controller = Standin::builder().config(Config::example()).script(|job| Script::new(job).held()).start().await.unwrap();
    controller.fault(Action::UnknownStatus { status: "hibernating".into(), seconds: None });
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    let id = aap.launch(apply, &launch()).await.unwrap().value.id;
    let ask = || async { aap.job(id).await.unwrap().value };
    let job = until(ask, |job| matches!(job.status, JobStatus::Unknown(_))).await;
    assert_eq!(job.status.to_string(), "hibernating");
    assert!(!job.status.is_over());
    controller.release(id);
}

#[tokio::test]
async fn output_is_complete_beyond_what_the_controller_displays() {
    let line = "x".repeat(1000);
    let controller = Standin::builder()
        .config(Config::example())
        .script(move |job| (0..1500).fold(Script::new(job), |script, n| script.printing(&format!("line {n} {line}"))))
        .start()
        .await
        .unwrap();
    let aap = client(&controller, "execute-token");
    let apply = template(&aap, "apply").await;
    let id = aap.launch(apply, &launch()).await.unwrap().value.id;
    over(&aap, id).await;
    let stdout = aap.stdout(id, u64::MAX).await.unwrap().value;
    let bytes: Vec<u8> = stdout.map_ok(|b| b.to_vec()).try_concat().await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.len() > 1_500_000 && text.contains("line 0 ") && text.contains("line 1499 "), "{}", text.len());
    let mut short = aap.stdout(id, 5000).await.unwrap().value;
    let mut size = 0;
    while let Some(chunk) = short.next().await {
        size += chunk.unwrap().len();
    }
    assert!(size == 5000 && short.is_truncated());
    assert!(aap.stdout(4711, 10).await.is_err_and(|e| e.is_not_found()));
}

#[tokio::test]
async fn a_controller_in_trouble_is_not_a_failed_job() {
    let controller = controller().await;
    let aap = client(&controller, "execute-token");
    aap.discover().await.unwrap();
    for (action, retry_after) in [
        (Action::Status { code: 500, body: None, retry_after: None }, None),
        (Action::Status { code: 503, body: None, retry_after: Some(3) }, Some(Duration::from_secs(3))),
        (Action::Status { code: 429, body: None, retry_after: Some(2) }, Some(Duration::from_secs(2))),
        (Action::DropResponse, None),
        (Action::Truncate { bytes: 5 }, None),
    ] {
        controller.fault(Fault::on("GET", "/me/", action.clone()).times(1));
        let error = aap.me().await.expect_err("trouble");
        assert!(error.is_temporary(), "{action:?}: {error:?}");
        assert_eq!(error.retry_after, retry_after, "{action:?}");
        controller.clear_faults();
    }
    controller.fault(Action::RevokeTokens { user: "execute".into() });
    assert_eq!(aap.me().await.expect_err("revoked").kind, ErrorKind::Unauthorized);
}
