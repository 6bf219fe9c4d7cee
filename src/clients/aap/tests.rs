//! Recorded answers of a real AWX 24.6.1 are read as the API types, where the recordings are at hand.

use std::path::PathBuf;

use super::*;

/// The recorded answers: the directory named by `FETTLE_SAMPLES`, else the one beside the sources; `None` when there are none.
fn samples() -> Option<PathBuf> {
    let directory = std::env::var_os("FETTLE_SAMPLES").map(PathBuf::from);
    let given = directory.is_some();
    let directory = directory.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/aap-samples"));
    assert!(!given || directory.is_dir(), "FETTLE_SAMPLES is no directory");
    if !directory.is_dir() {
        eprintln!("no recorded answers at hand: nothing is compared");
        return None;
    }
    Some(directory)
}

/// The body of a recorded answer.
fn body(directory: &std::path::Path, name: &str) -> Value {
    let text = std::fs::read(directory.join(format!("{name}.json"))).expect(name);
    let mut sample: Value = serde_json::from_slice(&text).expect(name);
    sample["body"].take()
}

fn read<T: DeserializeOwned>(directory: &std::path::Path, name: &str) -> T {
    serde_json::from_value(body(directory, name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn rows<T: DeserializeOwned>(directory: &std::path::Path, name: &str) -> Vec<T> {
    read::<Page<T>>(directory, name).results
}

#[test]
fn recorded_jobs_are_read() {
    let Some(dir) = samples() else { return };
    let job = Job::from(read::<types::RawJob>(&dir, "job_get_full_final"));
    assert_eq!((job.id, &job.kind, &job.status), (3, &JobKind::Job, &JobStatus::Successful));
    assert_eq!((job.limit.as_str(), job.inventory, job.job_template), ("web1,db1", Some(2), Some(15)));
    assert_eq!(job.variable("run_id"), Some("marker-42"));
    assert_eq!(job.event_processing_finished, Some(true));
    assert_eq!(job.host_status_counts.unwrap()["changed"], 2);
    assert_eq!(job.artifacts["result_key"], "value-marker-42");

    let scheduled = rows::<types::RawJob>(&dir, "schedule_jobs").into_iter().map(Job::from).next().unwrap();
    assert_eq!(
        (scheduled.launch_type.as_str(), scheduled.schedule, scheduled.schedule_name.as_deref()),
        ("scheduled", Some(6), Some("rr-uid-1"))
    );
    assert_eq!((scheduled.event_processing_finished, scheduled.host_status_counts), (None, None));

    for (name, status) in [
        ("job_get_pending", JobStatus::Pending),
        ("job_failed_final", JobStatus::Failed),
        ("job_canceled_running_final", JobStatus::Canceled),
        ("job_limit_nohosts_final", JobStatus::Failed),
        ("job_nomatch_final", JobStatus::Successful),
        ("fault_dispatcher_reaped_job", JobStatus::Failed),
        ("wf_job_final", JobStatus::Failed),
    ] {
        let job = Job::from(read::<types::RawJob>(&dir, name));
        assert_eq!(job.status, status, "{name}");
    }
}

#[test]
fn every_recorded_list_of_jobs_is_read() {
    let Some(dir) = samples() else { return };
    let mut read_ = 0;
    for entry in std::fs::read_dir(&dir).unwrap().flatten().filter(|e| e.path().is_file()) {
        let sample: Value = serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap();
        let Some(results) = sample["body"]["results"].as_array() else {
            continue;
        };
        for row in results {
            let kind = row["type"].as_str().unwrap_or_default();
            let result = match kind {
                "job" | "workflow_job" => serde_json::from_value::<types::RawJob>(row.clone()).map(drop),
                "job_host_summary" => serde_json::from_value::<HostSummary>(row.clone()).map(drop),
                "schedule" => serde_json::from_value::<Schedule>(row.clone()).map(drop),
                "user" => serde_json::from_value::<User>(row.clone()).map(drop),
                _ => continue,
            };
            assert!(result.is_ok(), "{}: {result:?}", entry.path().display());
            read_ += 1;
        }
    }
    assert!(read_ > 50, "{read_}");
}

#[test]
fn recorded_schedules_are_read() {
    let Some(dir) = samples() else { return };
    let fresh = read::<Schedule>(&dir, "rbac_schedule_create_op");
    assert_eq!((fresh.id, fresh.unified_job_template, fresh.enabled, fresh.limit), (7, 15, true, None));
    assert_eq!(fresh.next_run, Some("2030-01-01T00:00:00Z".parse().unwrap()));
    let over = read::<Schedule>(&dir, "schedule_get_after");
    assert_eq!((over.next_run, over.limit.as_deref()), (None, Some("web1")));
    assert_eq!(over.extra_data["run_id"], "via-schedule");
}

#[test]
fn recorded_refusals_become_sentences() {
    let Some(dir) = samples() else { return };
    let text = |name: &str| error::message_of(body(&dir, name).to_string().as_bytes());
    assert_eq!(text("schedule_create_dup_400"), "Schedule with this Unified job template and Name already exists.");
    assert_eq!(text("launch_ro_token_403"), "You do not have permission to perform this action.");
    assert!(text("launch_survey_missing_400").starts_with("variables_needed_to_start: "), "{}", text("launch_survey_missing_400"));
}

#[test]
fn recorded_summaries_and_pings_are_read() {
    let Some(dir) = samples() else { return };
    let ping = read::<Ping>(&dir, "ping");
    assert_eq!((ping.version.as_str(), ping.instances.len()), ("24.6.1", 1));
    assert!(ping.instances[0].heartbeat.is_some() && ping.instances[0].capacity == 220);
    assert_eq!(read::<Root>(&dir, "prefix_api").available_versions["v2"], "/api/controller/v2/");
    let unreachable = rows::<HostSummary>(&dir, "job_unreachable_hs");
    assert!(unreachable.iter().any(|h| h.dark > 0 && h.failed), "{unreachable:?}");
}

#[test]
fn pages_are_followed_on_the_same_path_only() {
    let current: Url = "https://aap.example.com/aap/api/v2/jobs/?id__in=1,2&page_size=50".parse().unwrap();
    let next = |link| next_page(&current, link).map(|u| u.to_string());
    let second = "https://aap.example.com/aap/api/v2/jobs/?id__in=1,2&page=2";
    assert_eq!(next("/api/v2/jobs/?id__in=1,2&page=2").as_deref(), Ok(second));
    assert_eq!(next("https://aap.example.com/api/v2/jobs/?id__in=1,2&page=2").as_deref(), Ok(second));
    // a link cannot choose another path
    assert_eq!(next("/api/v2/users/?id__in=1,2&page=2").as_deref(), Ok(second));
    for away in [
        "https://evil.example/api/v2/jobs/?page=2",
        "//evil.example/?page=2",
        "http://aap.example.com/?page=2",
        "https://aap.example.com:444/?page=2",
        "javascript:x",
    ] {
        assert!(next(away).is_err(), "{away}");
    }
    assert!(next("?id__in=1,2&page_size=50").is_err(), "a loop");
}

#[test]
fn dates_and_waits_are_read_from_headers() {
    let mut headers = HeaderMap::new();
    assert_eq!((date(&headers), retry_after(&headers)), (None, None));
    headers.insert(header::DATE, HeaderValue::from_static("Sat, 21 Nov 2026 07:55:01 GMT"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("17"));
    assert_eq!(date(&headers), Some("2026-11-21T07:55:01Z".parse().unwrap()));
    assert_eq!(retry_after(&headers), Some(Duration::from_secs(17)));
    headers.insert(header::DATE, HeaderValue::from_static("yesterday"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("-1"));
    assert_eq!((date(&headers), retry_after(&headers)), (None, None));
}

#[test]
fn credentials_come_from_secrets_and_are_never_shown() {
    let from = |keys: &[(&str, &str)]| {
        let keys: Vec<(String, String)> = keys.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Credentials::from_secret(move |key| keys.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone().into_bytes()))
    };
    let token = from(&[("token", "abcdef\n")]).unwrap();
    assert_eq!(token, Credentials::Token(Secret::new("abcdef")));
    let basic = from(&[("username", "op"), ("password", "pass word ü")]).unwrap();
    assert_eq!(basic.header().unwrap().to_str().unwrap(), "Basic b3A6cGFzcyB3b3JkIMO8");
    for shown in [format!("{token:?}{:?}", token.header()), format!("{basic:?}{:?}", basic.header())] {
        assert!(!shown.contains("abcdef") && !shown.contains("pass word") && !shown.contains("b3A6"), "{shown}");
    }
    assert_eq!(format!("{:?}", Secret::new("abcdef")), "…");
    assert_eq!(token.redact("you sent Bearer abcdef to me"), "you sent Bearer … to me");
    assert_eq!(basic.redact("Basic b3A6cGFzcyB3b3JkIMO8, pass word ü"), "Basic …, …");
    for (bad, why) in [
        (from(&[]), CredentialsError::Keys),
        (from(&[("username", "op")]), CredentialsError::Keys),
        (from(&[("token", "")]), CredentialsError::Keys),
        (from(&[("token", "a\nb")]), CredentialsError::Text("token")),
        (from(&[("token", "ä")]), CredentialsError::Text("token")),
    ] {
        assert_eq!(bad, Err(why));
    }
}

#[test]
fn a_secret_too_short_to_be_one_does_not_garble_texts() {
    let redacted = |token: &str| Credentials::Token(Secret::new(token)).redact("table of abcd");
    assert_eq!(
        (redacted("abcd").as_str(), redacted("abc").as_str(), redacted("").as_str()),
        ("table of …", "table of abcd", "table of abcd")
    );
}

#[test]
fn a_fingerprint_tells_credentials_apart_and_does_not_show_them() {
    let token = Credentials::Token(Secret::new("abcdef"));
    let basic = |password: &str| Credentials::Basic { username: "op".into(), password: Secret::new(password) };
    let all = [Credentials::Anonymous, token.clone(), Credentials::Token(Secret::new("abcdeg")), basic("abcdef"), basic("abcdeg")];
    let distinct: std::collections::BTreeSet<String> = all.iter().map(Credentials::fingerprint).collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(token.fingerprint(), Credentials::Token(Secret::new("abcdef")).fingerprint());
    assert!(distinct.iter().all(|fingerprint| !fingerprint.contains("abcdef")));
}
