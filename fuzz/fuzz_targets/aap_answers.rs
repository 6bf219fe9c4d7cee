//! Answers of a controller, through the real client: which call, which status, and the body.
//!
//! Whatever it says, the client does not panic, its errors are one bounded line without the token, and what it returns was asked for.
#![no_main]

use std::sync::LazyLock;

use fettle::{
    api::shared::NameOrId,
    clients::aap::{Aap, CreateSchedule, Error, Job, LaunchRequest, ScheduleRequest},
};
use fettle_fuzz::{Loopback, TOKEN};
use futures::StreamExt as _;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Map;

thread_local!(static CONTROLLER: Loopback = Loopback::start());
static STATUS: LazyLock<Vec<u16>> =
    LazyLock::new(|| vec![200, 201, 202, 204, 206, 301, 302, 400, 401, 403, 404, 405, 409, 410, 429, 500, 503, 599]);

fuzz_target!(|data: &[u8]| -> Corpus {
    let [which, status, body @ ..] = data else { return Corpus::Reject };
    let (status, body) = (STATUS[usize::from(*status) % STATUS.len()], body.to_vec());
    let which = *which % 22;
    // what is known to be silent about the body need not be tried with many of them
    if status == 204 && !body.is_empty() {
        return Corpus::Reject;
    }
    CONTROLLER.with(|controller| controller.call(move |_| (status, body.clone()), |aap| ask(aap, which)));
    Corpus::Keep
});

async fn ask(aap: Aap, which: u8) {
    let name = NameOrId::Name("apply".into());
    let failed = match which {
        0 => aap.discover().await.err(),
        1 => aap.me().await.err(),
        2 => aap.template(&name).await.err(),
        3 => aap.template(&NameOrId::Id(7)).await.err(),
        4 => aap.inventory(&name).await.err(),
        5 => match aap.inventory_hosts(2).await {
            Ok(hosts) => {
                assert!(hosts.value.is_sorted_by(|a, b| a.name < b.name), "a host is there twice");
                None
            }
            Err(error) => Some(error),
        },
        6 => aap.baseline(7).await.err(),
        7 => aap.launch(7, &LaunchRequest { limit: "web-1".into(), extra_vars: Map::new() }).await.err(),
        8 => match aap.find_marked(7, 1, "v1-k-apply").await {
            Ok(jobs) => {
                assert!(jobs.value.iter().all(|job| job.variable("fettle_run_key") == Some("v1-k-apply")));
                jobs.value.iter().for_each(job);
                None
            }
            Err(error) => Some(error),
        },
        9 => aap.jobs(&[1, 2]).await.map(|jobs| jobs.value.values().for_each(job)).err(),
        10 => aap.job(1).await.map(|answer| job(&answer.value)).err(),
        11 => aap.host_summaries(1).await.err(),
        12 => aap.host_events(1).await.err(),
        13 => aap.cancel(1).await.err(),
        14 => match aap.schedules_named("fettle-v1-k-apply").await {
            Ok(schedules) => {
                assert!(schedules.value.iter().all(|schedule| schedule.name == "fettle-v1-k-apply"));
                None
            }
            Err(error) => Some(error),
        },
        15 => {
            let request = ScheduleRequest {
                name: "fettle-v1-k-apply".into(),
                description: String::new(),
                dtstart: jiff::Timestamp::UNIX_EPOCH,
                limit: "web-1".into(),
                extra_data: Map::new(),
            };
            match aap.create_schedule(7, &request).await {
                Ok(answer) => {
                    let _: CreateSchedule = answer.value;
                    None
                }
                Err(error) => Some(error),
            }
        }
        16 => match aap.disable_schedule(1).await {
            Ok(schedule) => {
                assert!(!schedule.value.enabled);
                None
            }
            Err(error) => Some(error),
        },
        17 => aap.oldest_schedules("fettle-").await.err(),
        18 => aap.delete_schedule(1).await.err(),
        19 => aap.jobs_of_schedule("fettle-v1-k-apply").await.map(|jobs| jobs.value.iter().for_each(job)).err(),
        20 => aap.schedule(1).await.err(),
        _ => match aap.stdout(1, 100).await {
            Ok(answer) => {
                let mut stdout = answer.value;
                let mut size = 0;
                while let Some(chunk) = stdout.next().await {
                    size += chunk.map_or(0, |chunk| chunk.len());
                }
                assert!(size <= 100);
                None
            }
            Err(error) => Some(error),
        },
    };
    if let Some(error) = failed {
        error_is_fit_to_print(&error);
    }
}

fn error_is_fit_to_print(error: &Error) {
    let text = error.to_string();
    assert!(text.len() < 1400 && !text.chars().any(char::is_control) && !text.contains(TOKEN), "{text:?}");
    assert!(!format!("{error:?}").contains(TOKEN));
    assert_ne!(error.is_ambiguous(), error.is_definite());
}

fn job(job: &Job) {
    assert!(job.explanation.len() < 410 && !job.explanation.chars().any(char::is_control), "{:?}", job.explanation);
    let _ = (job.reports(), job.status.is_over());
}
