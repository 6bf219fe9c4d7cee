//! Change phases as AAP jobs: what is asked for, and what the controller's answers say. The wire is `clients::aap`'s.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{
    decide::{self, Over},
    verdict::{End, Evidence, Report, Summary, clip},
};
use crate::{
    api::{
        patch_run::{PatchRun, Phase, Pinned},
        reason::Reason,
    },
    clients::aap::{self, Aap, HostSummary, Job, JobKind, JobStatus, Schedule},
};

/// A cancelled job must still be so after this long: it was seen to come back to life.
const STABLE: SignedDuration = SignedDuration::from_secs(10);
/// How long the controller may take to have all events of a job; after some of its failures it never has.
const EVENTS: SignedDuration = SignedDuration::from_secs(60);

/// What is asked of the controller.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Hosts, as a limit.
    pub limit: String,
    /// Variables.
    pub variables: Map<String, Value>,
    /// Template.
    pub template: Option<i64>,
    /// Inventory.
    pub inventory: i64,
}

/// What a launch of `phase` asks for: exactly the hosts of the scope, and the variables the guard checks on each of them.
pub fn asked(run: &PatchRun, phase: Phase, key: &str, hosts: &BTreeSet<String>, pins: &Pinned) -> Asked {
    let spec = &run.spec;
    // a job that starts at the last moment may still use its time
    let not_after = spec.start_by.map(|by| by.checked_add(spec.timeout(phase)).unwrap_or(Timestamp::MAX).as_second());
    let mut variables = Map::new();
    variables.insert("fettle_run_key".into(), key.into());
    variables.insert("fettle_phase".into(), phase.as_str().into());
    variables.insert("fettle_not_after".into(), json!(not_after.unwrap_or_default()));
    variables.insert("fettle_hosts".into(), json!(hosts));
    variables.insert("fettle_desired_kernel".into(), json!(spec.desired_kernel));
    if phase == Phase::Reboot {
        let reboot = spec.reboot.clone().unwrap_or_default();
        let serial = reboot.serial.map_or_else(|| "1".to_owned(), |s| s.to_string());
        variables.insert("fettle_reboot_serial".into(), serial.into());
        variables.insert("fettle_reboot_max_fail_percentage".into(), json!(reboot.max_fail_percentage.unwrap_or(0)));
    }
    Asked {
        limit: hosts.iter().map(String::as_str).collect::<Vec<_>>().join(","),
        variables,
        template: decide::template(pins, phase),
        inventory: pins.inventory,
    }
}

/// How a schedule differs from what was asked, if it does.
pub fn schedule_differs(schedule: &Schedule, asked: &Asked) -> Option<String> {
    if asked.template.is_some_and(|t| t != schedule.unified_job_template) {
        return Some(format!("schedule {} is of template {}", schedule.id, schedule.unified_job_template));
    }
    if schedule.limit.as_deref().unwrap_or_default() != asked.limit {
        return Some(format!("schedule {} has another limit", schedule.id));
    }
    differing(&schedule.extra_data, &asked.variables).map(|name| format!("schedule {} has another value of {name}", schedule.id))
}

/// How a job differs from what was asked, if it does.
pub fn job_differs(job: &Job, asked: &Asked) -> Option<String> {
    if job.kind != JobKind::Job {
        return Some(format!("{} was created sliced: its parts run independently of each other", job.id));
    }
    if job.limit != asked.limit {
        let shown = if job.limit.is_empty() {
            "no limit, which means the whole inventory".to_owned()
        } else {
            format!("limit {}", clip(&job.limit))
        };
        return Some(format!("job {} was created with {shown}", job.id));
    }
    if job.inventory.is_some_and(|i| i != asked.inventory) {
        return Some(format!("job {} was created with another inventory", job.id));
    }
    if asked.template.is_some() && job.job_template.is_some() && job.job_template != asked.template {
        return Some(format!("job {} was created from another template", job.id));
    }
    differing(&job.extra_vars, &asked.variables).map(|name| format!("job {} was created with another value of {name}", job.id))
}

/// The first asked variable that is not there as asked. Additional ones are the template's own.
fn differing<'a>(given: &Map<String, Value>, asked: &'a Map<String, Value>) -> Option<&'a str> {
    asked.iter().find(|(name, value)| given.get(*name) != Some(*value)).map(|(name, _)| name.as_str())
}

/// What a job is, for the decision. Reads summaries and reports once it is over for good. `now` is the controller's time.
pub async fn look(aap: &Aap, row: &Job, asked: &Asked, surplus: Option<i64>, now: Timestamp) -> Result<decide::Job, aap::Error> {
    let mut job = row.clone();
    let mut over = None;
    let mut ending = false;
    if row.status.is_over() {
        let detail = aap.job(row.id).await?;
        let now = detail.date.unwrap_or(now);
        job = detail.value;
        if is_settled(&job, now) {
            over = Some(Box::new(Over { finished: job.finished, evidence: evidence(aap, &job).await? }));
        } else {
            ending = job.status.is_over();
        }
    }
    Ok(decide::Job::Found {
        id: job.id,
        url: Some(aap.job_page(&job.kind, job.id)),
        started: job.started,
        mismatch: job_differs(&job, asked),
        over,
        ending,
        surplus,
    })
}

/// Whether a job is over for good, with all it left.
fn is_settled(job: &Job, now: Timestamp) -> bool {
    let Some(finished) = job.finished else { return false };
    let stable = job.status != JobStatus::Canceled || now >= finished + STABLE;
    let complete = job.event_processing_finished == Some(true) || now >= finished + EVENTS;
    job.status.is_over() && stable && complete
}

async fn evidence(aap: &Aap, job: &Job) -> Result<Evidence, aap::Error> {
    let mut summaries = counted(aap.host_summaries(job.id).await?.value);
    if summaries.is_empty() && job.status == JobStatus::Canceled {
        // a cancelled job has no summaries; its events say at least who could not be reached
        for (name, host) in aap.host_events(job.id).await?.value.hosts {
            if host.unreachable {
                summaries.insert(name, Summary { unreachable: 1, ..Summary::default() });
            }
        }
    }
    let reports = job
        .reports()
        .into_iter()
        .flatten()
        .filter_map(|(host, report)| Some((host.clone(), serde_json::from_value::<Report>(report.clone()).ok()?)))
        .collect();
    Ok(Evidence { end: end(job), summaries, reports })
}

/// Summaries by host. Rows about one host count together, and a count below zero, which means nothing, counts as one.
fn counted(rows: Vec<HostSummary>) -> BTreeMap<String, Summary> {
    let mut summaries = BTreeMap::<String, Summary>::new();
    for row in rows {
        let count = |n: i64| u64::try_from(n).unwrap_or(1);
        let failures = count(row.failures).max(u64::from(row.failed && row.dark == 0));
        let all = summaries.entry(row.host_name).or_default();
        all.ok = all.ok.saturating_add(count(row.ok));
        all.changed = all.changed.saturating_add(count(row.changed));
        all.failures = all.failures.saturating_add(failures);
        all.unreachable = all.unreachable.saturating_add(count(row.dark));
    }
    summaries
}

fn end(job: &Job) -> End {
    let why = clip(&job.explanation);
    match &job.status {
        JobStatus::Successful => End::Succeeded,
        JobStatus::Failed if why.contains("timeout") => {
            End::Stopped(Reason::TimedOut, "the controller stopped the job: it took longer than the template allows".into())
        }
        JobStatus::Failed => End::Failed(if why.is_empty() { format!("job {} failed", job.id) } else { why }),
        JobStatus::Error => End::Broken(Reason::JobError, if why.is_empty() { format!("job {} ended in error", job.id) } else { why }),
        JobStatus::Canceled => End::Stopped(Reason::CancelledElsewhere, format!("job {} was cancelled in the controller", job.id)),
        JobStatus::New | JobStatus::Pending | JobStatus::Waiting | JobStatus::Running | JobStatus::Unknown(_) => {
            End::Broken(Reason::JobError, format!("job {} is in state {}", job.id, job.status))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> PatchRun {
        let spec = crate::yaml::from_str(
            "{connection: {name: c}, group: 5, desiredKernel: 6.1.0-53-cloud-amd64, phases: [apply, reboot], startBy: 2026-11-22T04:00:00Z, reboot: {serial: 25%}}",
        )
        .unwrap();
        PatchRun::new("web", spec)
    }

    fn pins() -> Pinned {
        Pinned { install_uuid: "u".into(), inventory: 2, stage: None, apply: Some(7), reboot: Some(8) }
    }

    #[test]
    fn rows_about_one_host_count_together_and_nonsense_is_no_good_sign() {
        let row = |failures, dark| HostSummary { host_name: "a".into(), ok: 3, failures, dark, ..HostSummary::default() };
        for rows in [[row(1, 0), row(0, 0)], [row(0, 0), row(1, 0)], [row(-1, 0), row(0, 0)]] {
            assert!(counted(rows.to_vec())["a"].failures > 0, "{rows:?}");
        }
        for rows in [[row(0, 1), row(0, 0)], [row(0, 0), row(0, -7)], [row(0, i64::MAX), row(0, i64::MAX)]] {
            assert!(counted(rows.to_vec())["a"].unreachable > 0, "{rows:?}");
        }
        assert_eq!(counted(vec![row(0, 0)])["a"], Summary { ok: 3, ..Summary::default() });
    }

    #[test]
    fn a_job_that_does_something_else_is_told() {
        let hosts: BTreeSet<String> = ["b", "a"].map(String::from).into();
        let asked = asked(&run(), Phase::Apply, "v1-k-apply", &hosts, &pins());
        let job = Job {
            id: 1,
            kind: JobKind::Job,
            name: "apply".into(),
            status: JobStatus::Running,
            failed: false,
            created: None,
            started: None,
            finished: None,
            launch_type: "scheduled".into(),
            schedule: Some(1),
            schedule_name: None,
            job_template: Some(7),
            inventory: Some(2),
            limit: "a,b".into(),
            extra_vars: asked.variables.clone(),
            explanation: String::new(),
            artifacts: Map::new(),
            event_processing_finished: None,
            host_status_counts: None,
        };
        assert_eq!(job_differs(&job, &asked), None);
        let differs = |change: &dyn Fn(&mut Job)| {
            let mut other = job.clone();
            change(&mut other);
            job_differs(&other, &asked).unwrap_or_default()
        };
        assert!(differs(&|job| job.limit.clear()).contains("the whole inventory"));
        assert!(differs(&|job| job.limit = "a,b,c".into()).contains("limit a,b,c"));
        assert!(differs(&|job| job.inventory = Some(3)).contains("inventory"));
        assert!(differs(&|job| job.job_template = Some(8)).contains("template"));
        assert!(differs(&|job| job.kind = JobKind::WorkflowJob).contains("sliced"));
        assert!(differs(&|job| drop(job.extra_vars.remove("fettle_hosts"))).contains("fettle_hosts"));
    }

    #[test]
    fn a_launch_names_every_host_and_a_last_moment() {
        let hosts: BTreeSet<String> = ["b", "a"].map(String::from).into();
        let apply = asked(&run(), Phase::Apply, "v1-k-apply", &hosts, &pins());
        assert_eq!((apply.limit.as_str(), apply.template), ("a,b", Some(7)));
        assert_eq!(apply.variables["fettle_hosts"], json!(["a", "b"]));
        let by: Timestamp = "2026-11-22T06:00:00Z".parse().unwrap();
        assert_eq!(apply.variables["fettle_not_after"], json!(by.as_second()));
        assert!(!apply.variables.contains_key("fettle_reboot_serial"));
        let reboot = asked(&run(), Phase::Reboot, "v1-k-reboot", &hosts, &pins());
        assert_eq!(reboot.variables["fettle_reboot_serial"], json!("25%"));
    }
}
