//! The AAP client against the recorded answers of a real AWX 24.6.1, served word for word, where the recordings are at hand.

use std::path::PathBuf;

use fettle::{
    api::shared::NameOrId,
    clients::{
        aap::{
            Aap, Cancel, CreateSchedule, Credentials, ErrorKind, Flavour, Gate, JobKind, JobStatus, LaunchRequest, Needs, ScheduleRequest,
            Secret, Settings, preflight,
        },
        http::UrlPolicy,
    },
};
use futures::TryStreamExt as _;
use serde_json::{Map, Value};

use crate::wire::{self, Do, Wire};

/// The recorded answers: the directory named by `FETTLE_SAMPLES`, else the one beside the sources; `None` when there are none.
fn directory() -> Option<PathBuf> {
    let given = std::env::var_os("FETTLE_SAMPLES").map(PathBuf::from);
    assert!(given.as_ref().is_none_or(|d| d.is_dir()), "FETTLE_SAMPLES is no directory");
    let directory = given.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/aap-samples"));
    if !directory.is_dir() {
        eprintln!("no recorded answers at hand: nothing is compared");
        return None;
    }
    Some(directory)
}

#[derive(Clone)]
struct Sample {
    name: String,
    method: String,
    path: String,
    status: u16,
    answer: Do,
}

/// All recordings, by name.
fn samples() -> Option<Vec<Sample>> {
    let mut samples = vec![];
    for entry in std::fs::read_dir(directory()?).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|e| e == "json")) {
        let sample: Value = serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap();
        let (Some(method), Some(status)) = (sample["request"]["method"].as_str(), sample["status"].as_u64()) else { continue };
        // what was not JSON is kept as text
        let body = sample["body"]["_text"].as_str().map_or_else(|| sample["body"].to_string(), str::to_owned);
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in sample["headers"].as_object().into_iter().flatten() {
            if !["content-length", "connection", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
                head.extend([name, ": ", value.as_str().unwrap_or_default(), "\r\n"]);
            }
        }
        samples.push(Sample {
            name: entry.path().file_stem().unwrap().to_string_lossy().into_owned(),
            method: method.to_owned(),
            path: sample["request"]["path"].as_str().unwrap_or_default().to_owned(),
            status: u16::try_from(status).unwrap(),
            answer: Do::Bytes([head.as_bytes(), b"\r\n", body.as_bytes()].concat()),
        });
    }
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    Some(samples)
}

/// A server that answers with these recordings, each for the method and path it was recorded for. Anything else is 404.
async fn replay(samples: &[Sample], names: &[&str]) -> Wire {
    let chosen: Vec<Sample> = names
        .iter()
        .map(|name| samples.iter().find(|s| s.name == *name).unwrap_or_else(|| panic!("{name} is not recorded")).clone())
        .collect();
    Wire::start(move |request| {
        let path = |target: &str| target.split('?').next().unwrap_or_default().to_owned();
        chosen
            .iter()
            .find(|s| s.method == request.method && path(&s.path) == path(&request.target))
            .map_or_else(|| wire::answer(404, "application/json", "{\"detail\": \"Not found.\"}"), |s| s.answer.clone())
    })
    .await
}

fn client(wire: &Wire, api_prefix: Option<&str>) -> Aap {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Aap::new(Settings {
        url: wire.url(),
        api_prefix: api_prefix.map(str::to_owned),
        credentials: Credentials::Token(Secret::new("recorded")),
        policy: UrlPolicy { allow_plain_http: true, allow_loopback: true, ..UrlPolicy::default() },
        ca_bundle: None,
        gate: Gate::default(),
        observer: None,
    })
    .unwrap()
}

#[tokio::test]
async fn awx_is_found_with_and_without_a_prefix() {
    let Some(samples) = samples() else { return };
    for (names, prefix) in [(["api_root", "ping"], "/api/v2"), (["prefix_api", "prefix_ping"], "/api/controller/v2")] {
        let wire = replay(&samples, &names).await;
        let controller = client(&wire, None).discover().await.unwrap().value;
        assert_eq!((controller.api_prefix.as_str(), controller.flavour, controller.version.as_str()), (prefix, Flavour::Awx, "24.6.1"));
        assert_eq!((controller.install_uuid.as_str(), controller.capacity), ("a90e5c06-94df-4720-bec0-41ad261aac12", 220));
        assert!(controller.heartbeat.is_some());
    }
    let wire = replay(&samples, &["fault_pg_down_ping"]).await;
    let error = client(&wire, Some("/api/v2")).discover().await.expect_err("its database is down");
    assert!(error.is_temporary() && error.is_answer(), "{error:?}");
}

#[tokio::test]
async fn templates_and_inventories_are_read() {
    let Some(samples) = samples() else { return };
    let wire = replay(&samples, &["jt_get", "launch_get_ask", "job_template_by_name", "inv_by_name", "inv_script", "me_op"]).await;
    let aap = client(&wire, Some("/api/v2"));
    assert_eq!(aap.me().await.unwrap().value.username, "op");
    let template = aap.template(&NameOrId::Name("ok-ask".into())).await.unwrap().value;
    assert_eq!(aap.template(&NameOrId::Id(15)).await.unwrap().value, template);
    assert_eq!((template.id, template.name.as_str(), template.organization.as_deref()), (15, "ok-ask", Some("Ops")));
    assert!(template.ask_limit && template.ask_variables && template.can_launch && !template.survey_enabled);
    let needs = |inventory| Needs { inventory, launches: true };
    assert!(preflight(&template, &needs(2)).iter().all(|p| !p.blocks));
    assert!(preflight(&template, &needs(3)).iter().any(|p| p.blocks && p.message.contains("fleet")));

    let inventory = aap.inventory(&NameOrId::Name("fleet".into())).await.unwrap().value;
    assert_eq!((inventory.id, inventory.organization.as_deref(), inventory.kind.as_str()), (2, Some("Ops"), ""));
    let hosts = aap.inventory_hosts(2).await.unwrap().value;
    let found: Vec<_> = hosts.iter().map(|h| (h.name.as_str(), h.enabled, h.groups.contains("web"))).collect();
    assert_eq!(found, [("db1", true, false), ("web1", true, true), ("web2", true, true)]);
    assert_eq!(hosts[0].variables["ansible_connection"], "local");
    assert_eq!(hosts[0].variables.len(), 2, "{:?}", hosts[0].variables);
}

#[tokio::test]
async fn templates_that_cannot_be_launched_are_told() {
    let Some(samples) = samples() else { return };
    for (launch, detail, text) in [("launch_get_survey", "jt_patch_survey_enabled", "severity"), ("launch_get_plain", "", "Limit")] {
        let id = if detail.is_empty() { 9 } else { 12 };
        // no recording of the plain template's detail: that of another one under its number does
        let mut samples = samples.clone();
        let source = if detail.is_empty() { "jt_create_ok-plain" } else { detail };
        let mut sample = samples.iter().find(|s| s.name == source).unwrap().clone();
        (sample.name, sample.method, sample.path) = ("detail".into(), "GET".into(), format!("/api/v2/job_templates/{id}/"));
        samples.push(sample);
        let Do::Bytes(bytes) = &mut samples.last_mut().unwrap().answer else { panic!("bytes") };
        *bytes = String::from_utf8_lossy(bytes).replace("201 X", "200 X").into_bytes();
        let wire = replay(&samples, &["detail", launch]).await;
        let template = client(&wire, Some("/api/v2")).template(&NameOrId::Id(id)).await.unwrap().value;
        let problems = preflight(&template, &Needs { inventory: 2, launches: true });
        assert!(problems.iter().any(|p| p.blocks && p.message.contains(text)), "{launch}: {problems:?}");
    }
}

/// Every recorded answer to a launch means what it did on the real controller: a job for 201, certainly none for 4xx, doubt for 500.
#[tokio::test]
async fn every_recorded_launch_is_understood() {
    let Some(samples) = samples() else { return };
    let request = LaunchRequest { limit: "web1".into(), extra_vars: Map::new() };
    let launches: Vec<&Sample> =
        samples.iter().filter(|s| s.method == "POST" && s.path.contains("/job_templates/") && s.path.ends_with("/launch/")).collect();
    assert!(launches.len() > 25, "{}", launches.len());
    for sample in launches {
        let served = sample.answer.clone();
        let wire = Wire::start(move |_| served.clone()).await;
        let outcome = client(&wire, Some("/api/v2")).launch(15, &request).await;
        match (sample.status, outcome) {
            (201, Ok(answer)) => {
                let sliced = sample.name == "launch_sliced";
                assert_eq!(answer.value.kind == JobKind::WorkflowJob, sliced, "{}", sample.name);
                assert!(answer.value.id > 0 && answer.value.url.ends_with(&format!("/{}/", answer.value.id)), "{}", sample.name);
                let dropped = sample.name == "launch_post_plain_201_ignored";
                assert!(!dropped || answer.value.ignored_fields.contains_key("limit"), "{}", sample.name);
            }
            (400..=499, Err(error)) => {
                assert!(error.is_definite() && !error.is_temporary(), "{}: {error}", sample.name);
                assert_eq!(error.kind == ErrorKind::Unauthorized, sample.status == 401, "{}", sample.name);
                assert_eq!(matches!(error.kind, ErrorKind::Forbidden { .. }), sample.status == 403, "{}", sample.name);
                assert!(error.to_string().len() < 1000, "{error}");
            }
            (500, Err(error)) => assert!(error.is_ambiguous() && !error.to_string().contains('<'), "{}: {error}", sample.name),
            (status, outcome) => panic!("{}: {status} {outcome:?}", sample.name),
        }
        assert_eq!((wire.connections(), wire.requests().len()), (1, 1), "{}", sample.name);
    }
}

#[tokio::test]
async fn schedules_and_their_jobs_are_read() {
    let Some(samples) = samples() else { return };
    let request = ScheduleRequest {
        name: "rr-uid-1".into(),
        description: String::new(),
        dtstart: "2026-11-21T07:47:47Z".parse().unwrap(),
        limit: "web1".into(),
        extra_data: Map::new(),
    };
    let wire = replay(&samples, &["schedule_create_201"]).await;
    let created = client(&wire, Some("/api/v2")).create_schedule(15, &request).await.unwrap().value;
    assert!(matches!(created, CreateSchedule::Created(s) if s.name == "rr-uid-1" && s.enabled && s.unified_job_template == 15));
    let wire = replay(&samples, &["schedule_create_dup_400", "schedule_get_after"]).await;
    let aap = client(&wire, Some("/api/v2"));
    assert_eq!(aap.create_schedule(15, &request).await.unwrap().value, CreateSchedule::AlreadyExists);
    let schedule = aap.schedule(6).await.unwrap().value;
    assert_eq!((schedule.limit.as_deref(), schedule.next_run), (Some("web1"), None));
}

#[tokio::test]
async fn jobs_hosts_and_output_are_read() {
    let Some(samples) = samples() else { return };
    let names = [
        "job_get_full_final",
        "job_hs_full",
        "job_unreachable_events",
        "stdout_txt_download",
        "cancel_running_202",
        "job_cancel_finished_405",
        "wf_job_final",
        "wf_cancel",
    ];
    let wire = replay(&samples, &names).await;
    let aap = client(&wire, Some("/api/v2"));
    let job = aap.job(3).await.unwrap().value;
    assert_eq!((&job.status, job.variable("run_id")), (&JobStatus::Successful, Some("marker-42")));
    let hosts = aap.host_summaries(3).await.unwrap().value;
    assert_eq!(hosts.iter().map(|h| (h.host_name.as_str(), h.changed)).collect::<Vec<_>>(), [("db1", 1), ("web1", 1)]);
    let events = aap.host_events(9).await.unwrap().value;
    assert!(events.complete && events.hosts["dead1"].unreachable);
    let text: Vec<u8> = aap.stdout(1, 1 << 20).await.unwrap().value.map_ok(|b| b.to_vec()).try_concat().await.unwrap();
    assert_eq!(text.len(), 1310);
    assert_eq!(aap.cancel(12).await.unwrap().value, Cancel::Requested);
    assert_eq!(aap.cancel(1).await.unwrap().value, Cancel::AlreadyOver);
    let workflow = samples.iter().find(|s| s.name == "wf_job_final").unwrap();
    let id: i64 = workflow.path.trim_end_matches('/').rsplit('/').next().unwrap().parse().unwrap();
    assert_eq!(aap.job(id).await.unwrap().value.kind, JobKind::WorkflowJob);
    assert_eq!(aap.cancel(21).await.unwrap().value, Cancel::Requested);
    assert!(aap.job(4711).await.expect_err("no such job").is_not_found());
}
