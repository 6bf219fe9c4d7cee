//! Launching directly, finding, watching and cancelling jobs, and what they did on each host.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Aap, Answer, Call, Cancel, Error, HostSummary, Job, JobHosts, JobKind, LARGE, LaunchRequest, Launched, RUN_KEY, Result,
    error::{Doubt, DoubtCause, ErrorKind},
    types::{RawJob, or_default},
};

/// Rows of jobs carry what their playbooks reported, so pages of them are small.
const JOBS: usize = 50;
/// The most pages of events that are read of one job.
const EVENT_PAGES: usize = 100;

#[derive(Deserialize)]
struct RawLaunch {
    id: i64,
    #[serde(rename = "type")]
    kind: String,
    url: String,
    #[serde(default)]
    job: Option<i64>,
    #[serde(default)]
    workflow_job: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    ignored_fields: Map<String, Value>,
}

#[derive(Deserialize)]
struct Row {
    id: i64,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "event")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    host_name: String,
    #[serde(default, deserialize_with = "or_default")]
    failed: bool,
    #[serde(default, deserialize_with = "or_default")]
    changed: bool,
    #[serde(default, rename = "event_data", deserialize_with = "or_default")]
    data: EventData,
}

#[derive(Default, Deserialize)]
struct EventData {
    #[serde(default)]
    ignore_errors: Option<bool>,
}

impl Aap {
    /// The highest id of the template's jobs, 0 when it has none: a job launched later has a higher one, whatever clocks say.
    pub async fn baseline(&self, template: i64) -> Result<i64> {
        let call = Call::get("unified_jobs/", format!("looking for the latest job of template {template}"))
            .query("unified_job_template", template)
            .query("order_by", "-id")
            .query("page_size", 1);
        // the first page is all that is wanted
        let rows = self.read_some::<Row>(call, 1).await?;
        Ok(rows.map(|(rows, _)| rows.first().map_or(0, |row| row.id)))
    }

    /// Launches a template: one request, on a connection of its own, never repeated.
    ///
    /// After an ambiguous error the job may exist, or come to exist: look with [`Self::find_marked`]. When `ignored_fields` of the answer is not empty
    /// the job does something else than was asked for, and must be cancelled.
    pub async fn launch(&self, template: i64, request: &LaunchRequest) -> Result<Launched> {
        let body = serde_json::json!({"limit": request.limit, "extra_vars": request.extra_vars});
        let action = format!("launching job template {template}");
        let call = Call::write(Method::POST, "job_templates/{id}/launch/", Some(body), action).id(template);
        let reply = self.call(call).await?;
        let meta = reply.meta.clone();
        if reply.status != StatusCode::CREATED {
            let doubt =
                Doubt { cause: DoubtCause::Status(reply.status.as_u16()), detail: format!("status {} instead of 201", reply.status) };
            return Err(meta.error(ErrorKind::Ambiguous(doubt)));
        }
        let raw = reply.json::<RawLaunch>()?;
        if raw.value.job.or(raw.value.workflow_job).is_some_and(|id| id != raw.value.id) {
            return Err(meta.error(ErrorKind::malformed("the answer names two jobs")));
        }
        Ok(raw.map(|raw| Launched { id: raw.id, kind: raw.kind.into(), url: raw.url, ignored_fields: raw.ignored_fields }))
    }

    /// Jobs of the template above the id `after` that were launched with `marker` in the variable `fettle_run_key`, oldest first.
    ///
    /// The controller does not filter by variables, so all of these jobs are looked at.
    pub async fn find_marked(&self, template: i64, after: i64, marker: &str) -> Result<Vec<Job>> {
        let call = Call::get("unified_jobs/", format!("looking for the job of {marker}"))
            .query("unified_job_template", template)
            .query("id__gt", after)
            .query("order_by", "id")
            .query("page_size", JOBS.to_string())
            .limit(LARGE);
        let rows = self.read_all::<RawJob>(call).await?;
        Ok(rows.map(|rows| rows.into_iter().map(Job::from).filter(|job| job.variable(RUN_KEY) == Some(marker)).collect()))
    }

    /// Many jobs by id, as rows. Those that are gone (history is cleaned up) or may not be seen are missing in the answer.
    pub async fn jobs(&self, ids: &[i64]) -> Result<BTreeMap<i64, Job>> {
        let mut answer = Answer { value: BTreeMap::new(), date: None };
        for chunk in ids.chunks(JOBS) {
            let list = chunk.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
            let call = Call::get("unified_jobs/", format!("reading {} jobs", chunk.len()))
                .query("id__in", list)
                .query("order_by", "id")
                .query("page_size", JOBS.to_string())
                .limit(LARGE);
            let rows = self.read_all::<RawJob>(call).await?;
            answer.date = rows.date.or(answer.date);
            answer.value.extend(rows.value.into_iter().map(|raw| {
                let job = Job::from(raw);
                (job.id, job)
            }));
        }
        Ok(answer)
    }

    /// A job in detail; the workflow job of that id when there is no job.
    pub async fn job(&self, id: i64) -> Result<Job> {
        let action = format!("reading job {id}");
        let call = |route| Call::get(route, action.clone()).id(id).limit(LARGE);
        let raw = match self.read::<RawJob>(call("jobs/{id}/")).await {
            Err(e) if e.is_not_found() => self.read(call("workflow_jobs/{id}/")).await.map_err(|other| clearer(e, other))?,
            other => other?,
        };
        Ok(raw.map(Job::from))
    }

    /// What a job did on each host. Empty while it runs, when it was cancelled, and when no host matched.
    pub async fn host_summaries(&self, id: i64) -> Result<Vec<HostSummary>> {
        let call = Call::get("jobs/{id}/job_host_summaries/", format!("reading the hosts of job {id}"))
            .id(id)
            .query("order_by", "id")
            .query("page_size", 200);
        self.read_all(call).await
    }

    /// What the events of a job without summaries tell about its hosts.
    pub async fn host_events(&self, id: i64) -> Result<JobHosts> {
        let call = Call::get("jobs/{id}/job_events/", format!("reading the events of job {id}"))
            .id(id)
            .query("event__in", "runner_on_start,runner_on_ok,runner_on_failed,runner_on_unreachable")
            .query("order_by", "counter")
            .query("page_size", 200)
            .limit(LARGE);
        let events = self.read_some::<Event>(call, EVENT_PAGES).await?;
        Ok(events.map(|(events, complete)| JobHosts { hosts: hosts_of(events), complete }))
    }

    /// Asks for a job to be cancelled. An accepted request is no fact: ask again until the job is over.
    pub async fn cancel(&self, id: i64) -> Result<Cancel> {
        let action = format!("cancelling job {id}");
        match self.cancel_at("jobs/{id}/cancel/", id, action.clone()).await {
            Err(e) if e.is_not_found() => self.cancel_at("workflow_jobs/{id}/cancel/", id, action).await.map_err(|other| clearer(e, other)),
            other => other,
        }
    }

    async fn cancel_at(&self, route: &'static str, id: i64, action: String) -> Result<Cancel> {
        match self.call(Call::write(Method::POST, route, None, action).id(id)).await {
            Ok(reply) => Ok(Answer { value: Cancel::Requested, date: reply.meta.date }),
            // 409 where a proxy or a later version says it that way
            Err(Error {
                kind: ErrorKind::Refused { status: 405, .. } | ErrorKind::Ambiguous(Doubt { cause: DoubtCause::Status(409), .. }),
                date,
                ..
            }) => Ok(Answer { value: Cancel::AlreadyOver, date }),
            Err(e) => Err(e),
        }
    }
}

/// Of two failures to find a thing in two places: that it is in neither, or else why the second one could not be asked.
fn clearer(first: Error, second: Error) -> Error {
    if second.is_not_found() { first } else { second }
}

fn hosts_of(events: Vec<Event>) -> BTreeMap<String, super::HostEvents> {
    let mut hosts: BTreeMap<String, super::HostEvents> = BTreeMap::new();
    for event in events.into_iter().filter(|e| !e.host_name.is_empty()) {
        let host = hosts.entry(event.host_name).or_default();
        let ignored = event.data.ignore_errors.unwrap_or(false);
        match event.kind.as_str() {
            "runner_on_ok" => host.tasks += 1,
            "runner_on_failed" => {
                host.tasks += 1;
                host.failed |= event.failed && !ignored;
            }
            "runner_on_unreachable" => host.unreachable = true,
            _ => {}
        }
        host.changed |= event.changed;
    }
    hosts
}

impl Launched {
    /// Whether the launch gave one job, as it must.
    pub fn is_one_job(&self) -> bool {
        self.kind == JobKind::Job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_tell_which_hosts_were_touched() {
        let events = serde_json::from_value::<Vec<Event>>(serde_json::json!([
            {"event": "runner_on_ok", "host_name": "a", "changed": true, "event_data": {}},
            {"event": "runner_on_failed", "host_name": "a", "failed": true, "event_data": {"ignore_errors": true}},
            {"event": "runner_on_failed", "host_name": "b", "failed": true},
            {"event": "runner_on_unreachable", "host_name": "c", "failed": true, "event_data": null},
            {"event": "runner_on_ok", "host_name": ""},
            {"event": "runner_on_start", "host_name": "d", "later": {"x": 1}},
        ]))
        .unwrap();
        let hosts = hosts_of(events);
        assert_eq!(hosts.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(hosts["a"].changed && !hosts["a"].failed && hosts["a"].tasks == 2);
        assert!(hosts["b"].failed && !hosts["b"].unreachable);
        assert!(hosts["c"].unreachable && hosts["c"].tasks == 0);
        assert_eq!(hosts["d"], crate::clients::aap::HostEvents::default());
    }
}
