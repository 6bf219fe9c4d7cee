//! What a controller remembers: jobs, schedules, labels, tokens. Written to disk after each commit.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::Vars;

/// Status of a job, as the API spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Created, not yet in the queue.
    New,
    /// In the queue.
    Pending,
    /// Chosen, about to start.
    Waiting,
    /// Running.
    Running,
    /// Over: the playbook ended with 0.
    Successful,
    /// Over: the playbook or a host failed, or the timeout struck.
    Failed,
    /// Over: the controller itself failed.
    Error,
    /// Over: someone canceled it.
    Canceled,
}

impl Status {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Error => "error",
            Self::Canceled => "canceled",
        }
    }

    /// Whether a job in this status is over.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Successful | Self::Failed | Self::Error | Self::Canceled => true,
            Self::New | Self::Pending | Self::Waiting | Self::Running => false,
        }
    }
}

/// One job, or the workflow of a sliced launch.
#[expect(clippy::struct_excessive_bools, reason = "the columns of a table")]
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Job {
    /// Number, shared by jobs and workflow jobs.
    pub id: i64,
    /// Whether this is the workflow of a sliced launch.
    pub workflow: bool,
    /// Template's number.
    pub template: i64,
    /// Name of the template at launch.
    pub name: String,
    /// Inventory's number.
    pub inventory: Option<i64>,
    /// Project's number.
    pub project: i64,
    /// Organization's number.
    pub organization: i64,
    /// Playbook.
    pub playbook: String,
    /// The fields a launch can set, with their final values: `limit`, `job_tags`, `forks`, …
    pub options: Map<String, Value>,
    /// Variables, merged.
    pub extra_vars: Vars,
    /// Names of variables whose values are not shown (survey passwords).
    pub hidden_vars: Vec<String>,
    /// Labels' numbers.
    pub labels: Vec<i64>,
    /// Credentials' numbers.
    pub credentials: Vec<i64>,
    /// `manual`, `scheduled`, `relaunch`, `workflow`.
    pub launch_type: String,
    /// Schedule that created it.
    pub schedule: Option<i64>,
    /// User who created it.
    pub created_by: Option<i64>,
    /// Workflow it is a slice of.
    pub workflow_job: Option<i64>,
    /// Status.
    pub status: Status,
    /// A status the API shows instead (fault).
    pub shown_status: Option<String>,
    /// Whether the template lets jobs overlap.
    pub allow_simultaneous: bool,
    /// Number of this slice, from 1; 0 = not a slice.
    pub slice_number: i64,
    /// Number of slices.
    pub slice_count: i64,
    /// `job_explanation`.
    pub explanation: String,
    /// `result_traceback`.
    pub traceback: String,
    /// Creation.
    pub created: Timestamp,
    /// Last change.
    pub modified: Timestamp,
    /// Start.
    pub started: Option<Timestamp>,
    /// End.
    pub finished: Option<Timestamp>,
    /// When a cancel took effect.
    pub canceled_on: Option<Timestamp>,
    /// Whether someone asked for a cancel.
    pub cancel_flag: bool,
    /// Whether all events are in.
    pub event_processing_finished: bool,
    /// `set_stats` data.
    pub artifacts: Map<String, Value>,
    /// Hosts by outcome; `None` without stats.
    pub host_status_counts: Option<BTreeMap<String, i64>>,
    /// Plays seen.
    pub play_count: i64,
    /// Tasks seen.
    pub task_count: i64,
    /// Command line.
    pub job_args: String,
    /// Working directory.
    pub job_cwd: String,
    /// Environment.
    pub job_env: Map<String, Value>,
    /// Receptor work unit.
    pub work_unit_id: Option<String>,
    /// Whether nobody listens to its playbook any more: what it still does is not recorded.
    pub orphaned: bool,
}

impl Job {
    /// A text option (`limit`, `job_type`, …); empty when not set.
    pub fn text(&self, option: &str) -> &str {
        self.options.get(option).and_then(Value::as_str).unwrap_or("")
    }

    /// A number option (`forks`, `timeout`, …); 0 when not set.
    pub fn number(&self, option: &str) -> i64 {
        self.options.get(option).and_then(Value::as_i64).unwrap_or(0)
    }

    /// The status the API shows.
    pub fn shown(&self) -> &str {
        self.shown_status.as_deref().unwrap_or(self.status.as_str())
    }

    /// `workflow_job` or `job`.
    pub fn kind(&self) -> &'static str {
        if self.workflow { "workflow_job" } else { "job" }
    }
}

/// One row of `job_host_summaries`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct Summary {
    /// Number.
    pub id: i64,
    /// Host's name.
    pub host: String,
    /// Tasks that were fine.
    pub ok: i64,
    /// Tasks that changed something.
    pub changed: i64,
    /// Failed tasks.
    pub failures: i64,
    /// Unreachable.
    pub dark: i64,
    /// Skipped tasks.
    pub skipped: i64,
    /// 1 when the host took part.
    pub processed: i64,
    /// Rescued failures.
    pub rescued: i64,
    /// Ignored failures.
    pub ignored: i64,
}

impl Summary {
    /// Whether the host counts as failed.
    pub fn failed(&self) -> bool {
        self.failures > 0 || self.dark > 0
    }
}

/// One row of `job_events`: the runner's event and what the controller adds.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct EventRow {
    /// Number; not in the order of the counters.
    pub id: i64,
    /// When the row was written.
    pub modified: Timestamp,
    /// The event as the runner wrote it: `uuid`, `counter`, `stdout`, `start_line`, `end_line`, `event`, `event_data`, ….
    pub raw: Value,
}

/// What a job wrote.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct Output {
    /// Events by counter.
    pub events: BTreeMap<i64, EventRow>,
    /// Per host, from `playbook_on_stats`.
    pub summaries: Vec<Summary>,
}

/// One schedule.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Schedule {
    /// Number.
    pub id: i64,
    /// Name, unique per template.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Template's number.
    pub template: i64,
    /// The rule as given.
    pub rrule: String,
    /// The rule, understood.
    pub rule: super::schedules::Rule,
    /// Whether it runs.
    pub enabled: bool,
    /// Prompted values by field; `extra_vars` is shown as `extra_data`.
    pub prompts: Map<String, Value>,
    /// User who created it.
    pub created_by: i64,
    /// Creation.
    pub created: Timestamp,
    /// Last change.
    pub modified: Timestamp,
    /// Next run, as computed at the last change or run.
    pub next_run: Option<Timestamp>,
}

/// A token made through the API.
#[expect(clippy::struct_field_names, reason = "the words of the API")]
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Token {
    /// Number.
    pub id: i64,
    /// The secret.
    pub token: String,
    /// Owner.
    pub user: i64,
    /// `read` or `write`.
    pub scope: String,
    /// Free text.
    pub description: String,
    /// Creation.
    pub created: Timestamp,
}

/// A label.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Label {
    /// Number.
    pub id: i64,
    /// Name, unique per organization.
    pub name: String,
    /// Organization's number.
    pub organization: i64,
    /// User who created it.
    pub created_by: i64,
    /// Creation.
    pub created: Timestamp,
}

/// A node of a workflow job.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Node {
    /// Number.
    pub id: i64,
    /// The workflow.
    pub workflow_job: i64,
    /// The job it runs.
    pub job: Option<i64>,
    /// Template.
    pub template: i64,
    /// Creation.
    pub created: Timestamp,
}

/// The tables.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Tables {
    /// Identity of the installation.
    pub install_uuid: String,
    /// Jobs and workflow jobs.
    pub jobs: BTreeMap<i64, Job>,
    /// Workflow nodes.
    pub nodes: BTreeMap<i64, Node>,
    /// Schedules.
    pub schedules: BTreeMap<i64, Schedule>,
    /// Labels.
    pub labels: BTreeMap<i64, Label>,
    /// Tokens made through the API.
    pub tokens: BTreeMap<i64, Token>,
    /// Tokens that are no longer valid, by secret (configured ones too).
    pub revoked: Vec<String>,
    /// Last number given, by sequence.
    pub sequences: BTreeMap<String, i64>,
    /// When schedules were last looked at.
    pub last_tick: Option<Timestamp>,
}

impl Tables {
    /// The next number of a sequence.
    pub fn next(&mut self, sequence: &str) -> i64 {
        let last = self.sequences.entry(sequence.to_owned()).or_default();
        *last += 1;
        *last
    }
}

/// The data directory could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct StoreError {
    /// File or directory.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

/// Where the tables are kept between two lives of a controller; nowhere without a directory.
#[derive(Debug, Clone, Default)]
pub struct Store {
    directory: Option<PathBuf>,
}

impl Store {
    /// A store in a directory, which is made if needed.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: Option<PathBuf>) -> Result<Self, StoreError> {
        if let Some(path) = &directory {
            std::fs::create_dir_all(path.join("jobs")).map_err(|source| StoreError { path: path.clone(), source })?;
        }
        Ok(Self { directory })
    }

    /// The directory.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The tables and the jobs' output of an earlier life.
    ///
    /// # Errors
    /// When a file exists and cannot be read or understood.
    pub fn load(&self) -> Result<(Tables, BTreeMap<i64, Output>), StoreError> {
        let Some(directory) = &self.directory else { return Ok(Default::default()) };
        let tables: Tables = read(&directory.join("state.json"))?.unwrap_or_default();
        let mut outputs = BTreeMap::new();
        for id in tables.jobs.keys() {
            if let Some(output) = read(&directory.join(format!("jobs/{id}.json")))? {
                outputs.insert(*id, output);
            }
        }
        Ok((tables, outputs))
    }

    /// Writes the tables: after this the commit survives a kill.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, tables: &Tables) -> Result<(), StoreError> {
        match &self.directory {
            Some(directory) => write(&directory.join("state.json"), tables),
            None => Ok(()),
        }
    }

    /// Writes what a job wrote.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_output(&self, job: i64, output: &Output) -> Result<(), StoreError> {
        match &self.directory {
            Some(directory) => write(&directory.join(format!("jobs/{job}.json")), output),
            None => Ok(()),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| StoreError { path: path.to_owned(), source: error.into() })
}

/// Replaces a file as a whole, so that a kill leaves the old or the new one.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let failed = |source: std::io::Error| StoreError { path: path.to_owned(), source };
    let text = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let next = path.with_extension("json.next");
    std::fs::write(&next, text).map_err(failed)?;
    std::fs::rename(&next, path).map_err(failed)
}
