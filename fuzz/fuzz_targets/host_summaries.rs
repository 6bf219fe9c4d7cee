//! The end of a job as a controller tells it, through the real client up to the verdict: the job, its host summaries and its events, separated by
//! a zero byte.
//!
//! A change is `OK` only if every row that names a host is good, and every host of the scope has a row and says that it executed.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use fettle::{
    api::{
        automation_connection::GuardPolicy,
        patch_run::{Phase, RunResult},
    },
    clients::aap::{Aap, Error},
    controllers::patch_run::{
        decide, jobs,
        verdict::{self, Verdict},
    },
};
use fettle_fuzz::Loopback;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Map, Value};

thread_local!(static CONTROLLER: Loopback = Loopback::start());

const HOSTS: [&str; 2] = ["a", "b"];

fuzz_target!(|data: &[u8]| -> Corpus {
    let parts: Vec<&[u8]> = data.splitn(3, |byte| *byte == 0).collect();
    let [job, summaries, events] = parts[..] else { return Corpus::Reject };
    // a job that is not over says nothing of its hosts
    if serde_json::from_slice::<Value>(job).is_err() {
        return Corpus::Reject;
    }
    let (told, rows, more) = (job.to_vec(), summaries.to_vec(), events.to_vec());
    let script = move |path: &str| {
        let body = if path.ends_with("/job_host_summaries/") {
            &rows
        } else if path.ends_with("/job_events/") {
            &more
        } else {
            &told
        };
        (200, body.clone())
    };
    let Ok(Some(verdict)) = CONTROLLER.with(|controller| controller.call(script, weighed)) else { return Corpus::Keep };
    let counts = verdict.counts;
    assert_eq!(counts.ok + counts.changed + counts.failed + counts.unreachable + counts.unknown + counts.missing, counts.total);
    assert_eq!(verdict.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), HOSTS);
    if verdict.result == RunResult::Ok {
        assert!(is_proven(job, summaries), "{verdict:?}");
    }
    Corpus::Keep
});

async fn weighed(aap: Aap) -> Result<Option<Verdict>, Error> {
    let scope: BTreeSet<String> = HOSTS.map(String::from).into();
    let asked = jobs::Asked { limit: "a,b".into(), variables: Map::new(), template: Some(7), inventory: 2 };
    let row = aap.job(1).await?.value;
    let looked = jobs::look(&aap, &row, &asked, None, jiff::Timestamp::UNIX_EPOCH).await?;
    Ok(match looked {
        decide::Job::Found { over: Some(over), .. } => Some(verdict::weigh(Phase::Apply, &scope, GuardPolicy::Required, &over.evidence)),
        _ => None,
    })
}

/// The same question, asked of the bytes themselves.
fn is_proven(job: &[u8], summaries: &[u8]) -> bool {
    // the client skips a field it does not know without looking whether it is text
    let (job, summaries) = (String::from_utf8_lossy(job), String::from_utf8_lossy(summaries));
    let (Ok(job), Ok(page)) = (serde_json::from_str::<Value>(&job), serde_json::from_str::<Value>(&summaries)) else { return false };
    let good = |row: &Value| {
        let none = |key: &str| matches!(&row[key], Value::Null) || row[key].as_i64() == Some(0);
        none("failures") && none("dark") && row["failed"] != true && row["host_name"].as_str().is_some_and(|name| HOSTS.contains(&name))
    };
    let rows = page["results"].as_array().cloned().unwrap_or_default();
    let named: BTreeMap<&str, &Value> = rows.iter().filter_map(|row| Some((row["host_name"].as_str()?, row))).collect();
    let executed = |host: &str| {
        job["artifacts"]["fettle_report"][host]["guard"] == "executed" && job["artifacts"]["fettle_report"][host]["ok"] != false
    };
    job["status"] == "successful" && rows.iter().all(good) && HOSTS.iter().all(|host| named.contains_key(host) && executed(host))
}
