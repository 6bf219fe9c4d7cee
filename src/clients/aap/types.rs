//! What the controller answers, as far as Fettle reads it. Unknown fields are ignored, unknown words kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// An answer, and when the controller gave it by its own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// The `Date` header, to the second; absent when the server sent none.
    pub date: Option<Timestamp>,
}

impl<T> Answer<T> {
    /// The same answer with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { value: f(self.value), date: self.date }
    }
}

/// Which product answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Red Hat Ansible Automation Platform.
    Aap,
    /// Its upstream.
    Awx,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aap => "AAP",
            Self::Awx => "AWX",
        })
    }
}

/// What `discover` learns, without credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct Controller {
    /// Path of the API without a trailing slash, for example `/api/v2`.
    pub api_prefix: String,
    /// Product.
    pub flavour: Flavour,
    /// Version the controller says it has.
    pub version: String,
    /// Identity of the installation.
    pub install_uuid: String,
    /// Capacity of all nodes together; 0 means that nothing can run.
    pub capacity: i64,
    /// The latest sign of life of any node: an old one means that jobs will stay pending.
    pub heartbeat: Option<Timestamp>,
}

/// The user of the credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct User {
    /// Numeric id.
    pub id: i64,
    /// Login name.
    pub username: String,
    /// May do everything.
    #[serde(default, deserialize_with = "or_default")]
    pub is_superuser: bool,
}

/// A job template, as far as launching it is concerned: its detail and the answer of its launch page.
#[expect(clippy::struct_excessive_bools, reason = "they are independent switches of the template")]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Template {
    /// Numeric id.
    pub id: i64,
    /// Name; unique in its organization only.
    pub name: String,
    /// Name of its organization.
    pub organization: Option<String>,
    /// Numeric id of its inventory.
    pub inventory: Option<i64>,
    /// Name of its inventory.
    pub inventory_name: Option<String>,
    /// Numeric id of its project.
    pub project: Option<i64>,
    /// Path of the playbook in the project.
    pub playbook: String,
    /// `run`, or `check` for a dry run.
    pub job_type: String,
    /// A limit can be given at launch.
    pub ask_limit: bool,
    /// Variables can be given at launch.
    pub ask_variables: bool,
    /// An inventory can be given at launch.
    pub ask_inventory: bool,
    /// The type of job can be given at launch.
    pub ask_job_type: bool,
    /// A survey asks for variables.
    pub survey_enabled: bool,
    /// Variables the survey requires.
    pub survey_required: Vec<String>,
    /// Passwords a person would have to type.
    pub passwords_needed: Vec<String>,
    /// Into how many jobs a launch is cut; 1 is none.
    pub job_slice_count: i64,
    /// Several jobs of it may run at the same time.
    pub allow_simultaneous: bool,
    /// Tags it runs with, comma separated.
    pub job_tags: String,
    /// Tags it skips, comma separated.
    pub skip_tags: String,
    /// Seconds after which its jobs are ended; 0 is never.
    pub timeout: i64,
    /// The user of the credentials may launch it.
    pub can_launch: bool,
}

/// An inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Numeric id.
    pub id: i64,
    /// Name; unique in its organization only.
    pub name: String,
    /// Name of its organization.
    pub organization: Option<String>,
    /// Empty for an ordinary one, else `smart` or `constructed`.
    pub kind: String,
    /// Number of hosts.
    pub total_hosts: i64,
}

/// A host of an inventory.
#[derive(Clone, Debug, PartialEq)]
pub struct InventoryHost {
    /// Name in the inventory.
    pub name: String,
    /// Disabled hosts are left out of jobs by the controller.
    pub enabled: bool,
    /// Its variables, those of its groups and of the inventory included, merged as Ansible does.
    pub variables: Map<String, Value>,
    /// Every group it is in, also by a child group; without `all` and `ungrouped`.
    pub groups: BTreeSet<String>,
}

/// What to create a schedule of.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRequest {
    /// Name: with the template, the identity of the launch.
    pub name: String,
    /// Text for people.
    pub description: String,
    /// When it fires, once. To the second.
    pub dtstart: Timestamp,
    /// Hosts.
    pub limit: String,
    /// Variables.
    pub extra_data: Map<String, Value>,
}

/// What became of the creation of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum CreateSchedule {
    /// It is there now, made by this call. `next_run` is absent when its time is already over: it will never launch anything.
    Created(Box<Schedule>),
    /// The template has a schedule of this name; whether it is the same one is for the caller to see.
    AlreadyExists,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Schedule {
    /// Numeric id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Text for people.
    #[serde(default, deserialize_with = "or_default")]
    pub description: String,
    /// The template (or project, inventory source, workflow) it launches.
    pub unified_job_template: i64,
    /// A disabled schedule launches nothing.
    pub enabled: bool,
    /// Recurrence rule.
    #[serde(default, deserialize_with = "or_default")]
    pub rrule: String,
    /// First time.
    #[serde(default)]
    pub dtstart: Option<Timestamp>,
    /// Next time; absent when there is none.
    #[serde(default)]
    pub next_run: Option<Timestamp>,
    /// Hosts.
    #[serde(default)]
    pub limit: Option<String>,
    /// Inventory, where it differs from the template's.
    #[serde(default)]
    pub inventory: Option<i64>,
    /// Variables.
    #[serde(default, deserialize_with = "or_default")]
    pub extra_data: Map<String, Value>,
    /// When it was made.
    #[serde(default)]
    pub created: Option<Timestamp>,
}

/// What to launch a template with, directly.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaunchRequest {
    /// Hosts.
    pub limit: String,
    /// Variables.
    pub extra_vars: Map<String, Value>,
}

/// A job was launched.
#[derive(Clone, Debug, PartialEq)]
pub struct Launched {
    /// Numeric id.
    pub id: i64,
    /// A sliced template gives a workflow job.
    pub kind: JobKind,
    /// Path of the job in the API.
    pub url: String,
    /// What was sent and dropped: when it is not empty, the job does something else than was asked for.
    pub ignored_fields: Map<String, Value>,
}

/// What a unified job is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// A run of a playbook.
    Job,
    /// A workflow; also a sliced template.
    WorkflowJob,
    /// Something else, by the controller's word for it.
    Other(String),
}

impl From<String> for JobKind {
    fn from(text: String) -> Self {
        match text.as_str() {
            "job" => Self::Job,
            "workflow_job" => Self::WorkflowJob,
            _ => Self::Other(text),
        }
    }
}

/// Status of a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobStatus {
    /// Just made.
    New,
    /// Waits for capacity, for another job, or for the dispatcher.
    Pending,
    /// About to run.
    Waiting,
    /// Runs.
    Running,
    /// Over; every host that ran ended well.
    Successful,
    /// Over; a host failed, or it ran too long.
    Failed,
    /// Over; the controller failed.
    Error,
    /// Over; somebody cancelled it.
    Canceled,
    /// A word this version does not know.
    Unknown(String),
}

impl JobStatus {
    /// Whether this status is an end. Unknown ones are not.
    pub const fn is_over(&self) -> bool {
        match self {
            Self::Successful | Self::Failed | Self::Error | Self::Canceled => true,
            Self::New | Self::Pending | Self::Waiting | Self::Running | Self::Unknown(_) => false,
        }
    }
}

impl From<String> for JobStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "new" => Self::New,
            "pending" => Self::Pending,
            "waiting" => Self::Waiting,
            "running" => Self::Running,
            "successful" => Self::Successful,
            "failed" => Self::Failed,
            "error" => Self::Error,
            "canceled" => Self::Canceled,
            _ => Self::Unknown(text),
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Error => "error",
            Self::Canceled => "canceled",
            Self::Unknown(text) => text,
        })
    }
}

/// A job. Rows of lists lack what is marked "detail only".
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Numeric id.
    pub id: i64,
    /// What it is.
    pub kind: JobKind,
    /// Name, mostly that of its template.
    pub name: String,
    /// Status. Not an end for good: a canceled job was seen to come back to life.
    pub status: JobStatus,
    /// True for failed, error and canceled.
    pub failed: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it started.
    pub started: Option<Timestamp>,
    /// When it ended. A running job was seen with it.
    pub finished: Option<Timestamp>,
    /// `manual`, `scheduled`, `relaunch`, …
    pub launch_type: String,
    /// The schedule that launched it.
    pub schedule: Option<i64>,
    /// Name of that schedule.
    pub schedule_name: Option<String>,
    /// Template of it.
    pub job_template: Option<i64>,
    /// Inventory it runs on.
    pub inventory: Option<i64>,
    /// Hosts it is limited to; empty means all.
    pub limit: String,
    /// Variables it was launched with, those of the template included; empty when they could not be read.
    pub extra_vars: Map<String, Value>,
    /// Why it waits or ended, in the controller's words, on one line of at most some 400 bytes; often empty.
    pub explanation: String,
    /// What the playbook reported with `set_stats`.
    pub artifacts: Map<String, Value>,
    /// Whether events, summaries and output are complete. Detail only; false for ever after some failures of the controller.
    pub event_processing_finished: Option<bool>,
    /// Hosts by outcome. Detail only.
    pub host_status_counts: Option<BTreeMap<String, i64>>,
}

impl Job {
    /// The value of a text variable it was launched with.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.extra_vars.get(name).and_then(Value::as_str)
    }

    /// What the playbook reported for each host: `artifacts.fettle_report`.
    pub fn reports(&self) -> Option<&Map<String, Value>> {
        self.artifacts.get("fettle_report").and_then(Value::as_object)
    }
}

/// What a job did on one host, counted in tasks. Written at the end of the playbook: none for a canceled job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HostSummary {
    /// Name in the inventory.
    pub host_name: String,
    /// Ended well.
    #[serde(default, deserialize_with = "or_default")]
    pub ok: i64,
    /// Changed something.
    #[serde(default, deserialize_with = "or_default")]
    pub changed: i64,
    /// Failed.
    #[serde(default, deserialize_with = "or_default")]
    pub failures: i64,
    /// Could not reach the host.
    #[serde(default, deserialize_with = "or_default")]
    pub dark: i64,
    /// Skipped.
    #[serde(default, deserialize_with = "or_default")]
    pub skipped: i64,
    /// Failed and were rescued.
    #[serde(default, deserialize_with = "or_default")]
    pub rescued: i64,
    /// Failed and were ignored.
    #[serde(default, deserialize_with = "or_default")]
    pub ignored: i64,
    /// The host failed or could not be reached.
    #[serde(default, deserialize_with = "or_default")]
    pub failed: bool,
}

/// What events tell about one host of a job without summaries: a task has at least begun on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostEvents {
    /// Tasks that ended on it.
    pub tasks: i64,
    /// A task changed something.
    pub changed: bool,
    /// A task failed, ignored failures not counted.
    pub failed: bool,
    /// It could not be reached.
    pub unreachable: bool,
}

/// What events tell about a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobHosts {
    /// By name in the inventory, every host on which a task began. One that is not here was not touched, if `complete`.
    pub hosts: BTreeMap<String, HostEvents>,
    /// Whether all events were read.
    pub complete: bool,
}

/// What became of a cancel request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Accepted. Not a fact: the controller can lose it, so it is sent again until the job is over.
    Requested,
    /// The job was over.
    AlreadyOver,
}

/// `null` as the default of the type.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// `{id, name}` as found in `summary_fields`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Named {
    #[serde(default)]
    pub id: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

/// The parts of `summary_fields` that are read.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Summary {
    #[serde(default)]
    pub organization: Option<Named>,
    #[serde(default)]
    pub inventory: Option<Named>,
    #[serde(default)]
    pub schedule: Option<Named>,
    #[serde(default, deserialize_with = "or_default")]
    pub user_capabilities: Capabilities,
}

/// What the user may do with an object.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Capabilities {
    #[serde(default, deserialize_with = "or_default")]
    pub start: bool,
}

/// A job as it is sent.
#[derive(Deserialize)]
pub(super) struct RawJob {
    id: i64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    status: String,
    #[serde(default, deserialize_with = "or_default")]
    failed: bool,
    #[serde(default)]
    created: Option<Timestamp>,
    #[serde(default)]
    started: Option<Timestamp>,
    #[serde(default)]
    finished: Option<Timestamp>,
    #[serde(default, deserialize_with = "or_default")]
    launch_type: String,
    #[serde(default)]
    schedule: Option<i64>,
    #[serde(default)]
    unified_job_template: Option<i64>,
    #[serde(default)]
    inventory: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    limit: String,
    #[serde(default)]
    extra_vars: Value,
    #[serde(default, deserialize_with = "or_default")]
    job_explanation: String,
    #[serde(default)]
    artifacts: Value,
    #[serde(default)]
    event_processing_finished: Option<bool>,
    #[serde(default)]
    host_status_counts: Option<BTreeMap<String, i64>>,
    #[serde(default, deserialize_with = "or_default")]
    summary_fields: Summary,
}

impl From<RawJob> for Job {
    fn from(raw: RawJob) -> Self {
        let schedule = raw.summary_fields.schedule.unwrap_or_default();
        Self {
            id: raw.id,
            kind: raw.kind.into(),
            name: raw.name,
            status: raw.status.into(),
            failed: raw.failed,
            created: raw.created,
            started: raw.started,
            finished: raw.finished,
            launch_type: raw.launch_type,
            schedule: raw.schedule.or(schedule.id),
            schedule_name: schedule.id.is_some().then_some(schedule.name),
            job_template: raw.unified_job_template,
            inventory: raw.inventory,
            limit: raw.limit,
            extra_vars: variables(raw.extra_vars),
            explanation: super::error::one_line(&raw.job_explanation),
            artifacts: match raw.artifacts {
                Value::Object(map) => map,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
            },
            event_processing_finished: raw.event_processing_finished,
            host_status_counts: raw.host_status_counts,
        }
    }
}

/// Variables, which jobs carry as text (JSON; YAML when a template says so) and schedules as an object.
fn variables(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::String(text) => serde_json::from_str(&text).ok().or_else(|| crate::yaml::from_str(&text).ok()).unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_from_text_and_object() {
        for text in [r#""{\"a\": 1}""#, r#"{"a": 1}"#, r#""a: 1""#] {
            let value = serde_json::from_str(text).unwrap();
            assert_eq!(variables(value).get("a"), Some(&Value::from(1)), "{text}");
        }
        for text in ["null", "\"\"", "[]", "\"[1]\"", "\"{\"", "3"] {
            assert!(variables(serde_json::from_str(text).unwrap()).is_empty(), "{text}");
        }
    }

    #[test]
    fn only_the_four_ends_are_ends() {
        for (word, over) in [
            ("new", false),
            ("pending", false),
            ("waiting", false),
            ("running", false),
            ("successful", true),
            ("failed", true),
            ("error", true),
            ("canceled", true),
            ("never updated", false),
        ] {
            let status = JobStatus::from(word.to_owned());
            assert_eq!((status.is_over(), status.to_string().as_str()), (over, word));
            assert_eq!(matches!(status, JobStatus::Unknown(_)), word == "never updated", "{word}");
        }
    }
}
