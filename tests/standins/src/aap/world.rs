//! The controller's inside: tables, running jobs, faults, and every change to them. One lock around it makes each change atomic.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{
    config::{Catalog, Config, PROMPTS, Template, Timing, Vars},
    executor::{Assignment, Outcome},
    faults::{Action, Faults},
    state::{EventRow, Job, Label, Node, Output, Status, Store, Summary, Tables},
};

/// `job_explanation` of a job that the controller found running when it started.
pub const REAPED: &str =
    "Task was marked as running at system start up. The system must have not shut down properly, so it has been marked as failed.";

/// A request as it was seen.
#[derive(Debug, Clone, Serialize)]
pub struct SeenRequest {
    /// When it arrived.
    pub time: String,
    /// Method.
    pub method: String,
    /// Path with the API prefix.
    pub path: String,
    /// Query.
    pub query: String,
    /// Path with numbers and names replaced: `/job_templates/{}/launch/`.
    pub route: String,
    /// Who signed in.
    pub user: Option<String>,
    /// Status of the answer; `None` when none was sent.
    pub status: Option<u16>,
    /// Body, when it was JSON.
    pub body: Option<Value>,
    /// Fault that struck.
    pub fault: Option<Action>,
}

/// The strings to a running job.
#[derive(Debug)]
pub struct Live {
    /// Ends the run.
    pub cancel: watch::Sender<bool>,
    /// Lets a held job go on.
    pub release: watch::Sender<bool>,
}

/// Where a job comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A launch by a user.
    User(i64),
    /// A schedule.
    Schedule(i64),
    /// A relaunch by a user.
    Relaunch(i64),
}

/// Everything behind the lock.
#[derive(Debug)]
pub struct World {
    /// What is configured.
    pub catalog: Catalog,
    /// Speed.
    pub timing: Timing,
    /// What happened.
    pub tables: Tables,
    /// What jobs wrote.
    pub outputs: BTreeMap<i64, Output>,
    /// What goes wrong.
    pub faults: Faults,
    /// Who asked what.
    pub requests: Vec<SeenRequest>,
    /// Running jobs.
    pub live: BTreeMap<i64, Live>,
    /// Held jobs that were released before they started.
    pub released: BTreeSet<i64>,
    /// Since when the heartbeat is silent.
    pub silent_since: Option<Timestamp>,
    store: Store,
}

impl World {
    /// The inside of a controller that starts: tables of an earlier life, if any.
    ///
    /// # Errors
    /// When the configuration or the data directory cannot be used.
    pub fn new(config: &Config, store: Store) -> Result<Self, super::StartError> {
        let catalog = Catalog::new(config)?;
        let (mut tables, outputs) = store.load()?;
        if let Some(uuid) = &config.install_uuid {
            tables.install_uuid.clone_from(uuid);
        } else if tables.install_uuid.is_empty() {
            tables.install_uuid = uuid::Uuid::new_v4().to_string();
        }
        for (id, (name, organization)) in &catalog.labels {
            tables.labels.entry(*id).or_insert_with(|| Label {
                id: *id,
                name: name.clone(),
                organization: *organization,
                created_by: 1,
                created: Timestamp::UNIX_EPOCH,
            });
            let last = tables.sequences.entry("label".to_owned()).or_default();
            *last = (*last).max(*id);
        }
        Ok(Self {
            catalog,
            timing: config.timing.clone(),
            tables,
            outputs,
            faults: Faults::default(),
            requests: Vec::new(),
            live: BTreeMap::new(),
            released: BTreeSet::new(),
            silent_since: None,
            store,
        })
    }

    /// Makes the tables durable. A controller that cannot do so must not go on as if it had.
    pub fn commit(&self) {
        if let Err(error) = self.store.save(&self.tables) {
            tracing::error!(%error, "the commit is not on disk");
        }
    }

    fn commit_output(&self, job: i64) {
        if let Some(output) = self.outputs.get(&job)
            && let Err(error) = self.store.save_output(job, output)
        {
            tracing::error!(%error, job, "the events are not on disk");
        }
    }

    /// Creates the job of a launch (or the workflow and its jobs, when it is sliced). `prompts` are accepted values by field.
    pub fn create_job(&mut self, template: &Template, prompts: &Map<String, Value>, origin: Origin, now: Timestamp) -> i64 {
        let slices = prompts.get("job_slice_count").and_then(Value::as_i64).unwrap_or(template.config.job_slice_count).max(1);
        let mut job = self.blank_job(template, prompts, origin, now);
        let hosts = job.inventory.and_then(|id| self.catalog.inventories.get(&id)).map_or(0, |inventory| inventory.hosts.len());
        let slices = slices.min(i64::try_from(hosts).unwrap_or(i64::MAX)).max(1);
        if slices == 1 {
            let id = job.id;
            self.tables.jobs.insert(id, job);
            return id;
        }
        let workflow = job.id;
        for number in 1..=slices {
            let mut slice = self.blank_job(template, prompts, origin, now);
            "workflow".clone_into(&mut slice.launch_type);
            slice.workflow_job = Some(workflow);
            slice.allow_simultaneous = true;
            slice.slice_number = number;
            slice.slice_count = slices;
            let node = self.tables.next("node");
            let row = Node { id: node, workflow_job: workflow, job: Some(slice.id), template: template.id, created: now };
            self.tables.nodes.insert(node, row);
            self.tables.jobs.insert(slice.id, slice);
        }
        job.workflow = true;
        self.tables.jobs.insert(workflow, job);
        workflow
    }

    fn blank_job(&mut self, template: &Template, prompts: &Map<String, Value>, origin: Origin, now: Timestamp) -> Job {
        let config = &template.config;
        let mut options = Map::new();
        for (field, value) in [
            ("limit", json!(config.limit)),
            ("job_type", json!(config.job_type)),
            ("job_tags", json!("")),
            ("skip_tags", json!("")),
            ("scm_branch", json!("")),
            ("verbosity", json!(config.verbosity)),
            ("forks", json!(config.forks)),
            ("timeout", json!(config.timeout)),
            ("diff_mode", json!(config.diff_mode)),
        ] {
            options.insert(field.to_owned(), prompts.get(field).cloned().unwrap_or(value));
        }
        let mut extra_vars = config.extra_vars.clone();
        let mut hidden_vars = Vec::new();
        for question in config.survey.iter().flat_map(|survey| &survey.spec) {
            if !matches!(&question.default, Value::Null) && question.default != json!("") {
                extra_vars.insert(question.variable.clone(), question.default.clone());
            }
            if question.kind == "password" {
                hidden_vars.push(question.variable.clone());
            }
        }
        if let Some(Value::Object(given)) = prompts.get("extra_vars") {
            extra_vars.extend(given.clone());
        }
        let numbers = |field: &str| -> Option<Vec<i64>> {
            prompts.get(field).and_then(Value::as_array).map(|list| list.iter().filter_map(Value::as_i64).collect())
        };
        let (launch_type, created_by, schedule) = match origin {
            Origin::User(user) => ("manual", Some(user), None),
            Origin::Schedule(schedule) => ("scheduled", None, Some(schedule)),
            Origin::Relaunch(user) => ("relaunch", Some(user), None),
        };
        Job {
            id: self.tables.next("job"),
            workflow: false,
            template: template.id,
            name: config.name.clone(),
            inventory: prompts.get("inventory").and_then(Value::as_i64).or(template.inventory),
            project: template.project,
            organization: template.organization,
            playbook: config.playbook.clone(),
            options,
            extra_vars,
            hidden_vars,
            labels: numbers("labels").unwrap_or_default(),
            credentials: numbers("credentials").unwrap_or_else(|| template.credentials.clone()),
            launch_type: launch_type.to_owned(),
            schedule,
            created_by,
            workflow_job: None,
            status: Status::Pending,
            shown_status: None,
            allow_simultaneous: config.allow_simultaneous,
            slice_number: 0,
            slice_count: 1,
            explanation: String::new(),
            traceback: String::new(),
            created: now,
            modified: now,
            started: None,
            finished: None,
            canceled_on: None,
            cancel_flag: false,
            event_processing_finished: false,
            artifacts: Map::new(),
            host_status_counts: None,
            play_count: 0,
            task_count: 0,
            job_args: String::new(),
            job_cwd: String::new(),
            job_env: Map::new(),
            work_unit_id: None,
            orphaned: false,
        }
    }

    /// The fields of a job that differ from its template, as prompts: what a relaunch repeats.
    pub fn prompts_of(job: &Job) -> Map<String, Value> {
        let mut prompts = job.options.clone();
        prompts.insert("extra_vars".to_owned(), Value::Object(job.extra_vars.clone()));
        prompts.insert("labels".to_owned(), json!(job.labels));
        prompts.insert("credentials".to_owned(), json!(job.credentials));
        if let Some(inventory) = job.inventory {
            prompts.insert("inventory".to_owned(), json!(inventory));
        }
        prompts.retain(|field, _| PROMPTS.iter().any(|(name, ..)| name == field));
        prompts
    }

    /// Moves the queue: which jobs become `waiting` and are to be started now.
    pub fn queue(&mut self, now: Timestamp) -> Vec<i64> {
        if self.faults.dispatcher_dead() {
            return Vec::new();
        }
        let age = |job: &Job| now.duration_since(job.created).as_secs_f64();
        let pending: Vec<i64> = self.tables.jobs.values().filter(|job| job.status == Status::Pending).map(|job| job.id).collect();
        let mut chosen = Vec::new();
        let mut changed = false;
        for id in pending {
            let Some(job) = self.tables.jobs.get(&id) else { continue };
            let (template, alone, old) = (job.template, !job.allow_simultaneous && job.workflow_job.is_none(), age(job));
            let parent_waits =
                job.workflow_job.and_then(|parent| self.tables.jobs.get(&parent)).is_some_and(|parent| parent.status != Status::Running);
            if old < self.timing.pending || parent_waits {
                continue;
            }
            let blocker = alone
                .then(|| {
                    self.tables.jobs.values().find(|other| {
                        other.template == template
                            && other.id != id
                            && other.workflow_job != Some(id)
                            && (matches!(other.status, Status::Waiting | Status::Running)
                                || (other.id < id && other.status == Status::Pending))
                    })
                })
                .flatten()
                .map(|other| format!("waiting for {}-{} to finish", other.kind(), other.id));
            let explanation = self.timing.explanation;
            let Some(job) = self.tables.jobs.get_mut(&id) else { continue };
            if let Some(blocker) = blocker {
                if old >= explanation && job.explanation != blocker {
                    job.explanation = blocker;
                    changed = true;
                }
                continue;
            }
            job.explanation.clear();
            job.modified = now;
            changed = true;
            if job.workflow {
                job.status = Status::Running;
                job.started = Some(now);
                // Its slices may go at once; the loop has passed none of them: their numbers are higher.
            } else {
                job.status = Status::Waiting;
                chosen.push(id);
            }
        }
        changed |= self.end_workflows(now);
        if changed {
            self.commit();
        }
        chosen
    }

    /// Ends workflows whose jobs are all over.
    fn end_workflows(&mut self, now: Timestamp) -> bool {
        let mut ended = Vec::new();
        for workflow in self.tables.jobs.values().filter(|job| job.workflow && job.status == Status::Running) {
            let slices: Vec<&Job> = self.tables.jobs.values().filter(|job| job.workflow_job == Some(workflow.id)).collect();
            if slices.iter().all(|slice| slice.status.is_terminal()) {
                let status = if workflow.cancel_flag {
                    Status::Canceled
                } else if slices.iter().all(|slice| slice.status == Status::Successful) {
                    Status::Successful
                } else {
                    Status::Failed
                };
                ended.push((workflow.id, status));
            }
        }
        for (id, status) in &ended {
            if let Some(job) = self.tables.jobs.get_mut(id) {
                job.status = *status;
                job.finished = Some(now);
                job.event_processing_finished = true;
                if *status == Status::Failed {
                    "No error handling paths found, marking workflow as failed".clone_into(&mut job.explanation);
                }
            }
        }
        !ended.is_empty()
    }

    /// Creates the jobs of schedules that are due.
    pub fn fire_schedules(&mut self, now: Timestamp) {
        if self.faults.dispatcher_dead() {
            return;
        }
        let due: Vec<i64> = self
            .tables
            .schedules
            .values()
            .filter(|schedule| schedule.enabled && schedule.next_run.is_some_and(|run| run <= now))
            .map(|schedule| schedule.id)
            .collect();
        for id in &due {
            let Some(schedule) = self.tables.schedules.get_mut(id) else { continue };
            schedule.next_run = schedule.rule.next_after(now);
            schedule.modified = now;
            let (template, prompts) = (schedule.template, schedule.prompts.clone());
            if let Some(template) = self.catalog.templates.get(&template).cloned() {
                self.create_job(&template, &prompts, Origin::Schedule(*id), now);
            }
        }
        self.tables.last_tick = Some(now);
        if !due.is_empty() {
            self.commit();
        }
    }

    /// What an executor needs to run a job.
    pub fn assignment(&self, job: &Job, faults: &[Action]) -> Assignment {
        let mut assignment = Assignment {
            job: job.id,
            template: job.name.clone(),
            playbook: job.playbook.clone(),
            project: self.catalog.projects.get(&job.project).map(|project| project.path.clone()).unwrap_or_default(),
            directory: self.store.directory().map(|directory| directory.join(format!("runs/{}", job.id))),
            limit: job.text("limit").to_owned(),
            extra_vars: job.extra_vars.clone(),
            meta_vars: self.meta_vars(job),
            job_type: job.text("job_type").to_owned(),
            options: job.options.clone(),
            become_enabled: self.catalog.templates.get(&job.template).is_some_and(|template| template.config.become_enabled),
            credential: job.credentials.iter().find_map(|id| self.catalog.credentials.get(id)).cloned(),
            ..Assignment::default()
        };
        let mut left_out: Vec<String> = Vec::new();
        for fault in faults {
            if let Action::PartialHosts { without } = fault {
                left_out.extend(without.iter().cloned());
            }
        }
        let nobody = faults.contains(&Action::ZeroHosts);
        if nobody {
            assignment.limit.clear();
        }
        if let Some(inventory) = job.inventory.and_then(|id| self.catalog.inventories.get(&id)) {
            let mut names: Vec<String> = inventory
                .hosts
                .values()
                .filter(|host| host.enabled && !nobody && !left_out.contains(&host.name))
                .map(|host| host.name.clone())
                .collect();
            names.sort();
            if job.slice_number > 0 {
                let step = usize::try_from(job.slice_count.max(1)).unwrap_or(1);
                let first = usize::try_from(job.slice_number - 1).unwrap_or(0);
                names = names.into_iter().skip(first).step_by(step).collect();
            }
            for group in inventory.groups.values() {
                let members = inventory.members(&group.name).into_iter().map(str::to_owned);
                assignment.groups.insert(group.name.clone(), members.filter(|name| names.contains(name)).collect());
            }
            assignment.inventory = super::api::inventory_script(inventory, Some(&names), true, true);
            assignment.hosts = names;
        }
        assignment
    }

    /// Variables that a controller adds to every job, under both of its names.
    fn meta_vars(&self, job: &Job) -> Vars {
        let mut facts: Vec<(&str, Value)> = vec![
            ("job_id", json!(job.id)),
            ("job_launch_type", json!(job.launch_type)),
            ("job_template_id", json!(job.template)),
            ("job_template_name", json!(job.name)),
            ("project_revision", json!("")),
            ("project_scm_branch", json!("")),
        ];
        if let Some(user) = job.created_by.and_then(|id| self.catalog.users.get(&id)) {
            facts.push(("user_id", json!(user.id)));
            facts.push(("user_name", json!(user.config.username)));
            facts.push(("user_email", json!("")));
            facts.push(("user_first_name", json!("")));
            facts.push(("user_last_name", json!("")));
        } else if let Some(schedule) = job.schedule.and_then(|id| self.tables.schedules.get(&id)) {
            facts.push(("schedule_id", json!(schedule.id)));
            facts.push(("schedule_name", json!(schedule.name)));
        }
        if let Some(workflow) = job.workflow_job {
            facts.push(("workflow_job_id", json!(workflow)));
            facts.push(("workflow_job_name", json!(job.name)));
        }
        if let Some(inventory) = job.inventory.and_then(|id| self.catalog.inventories.get(&id)) {
            facts.push(("inventory_id", json!(inventory.id)));
            facts.push(("inventory_name", json!(inventory.name)));
        }
        let mut vars = Vars::new();
        for (name, value) in facts {
            for prefix in ["awx", "tower"] {
                vars.insert(format!("{prefix}_{name}"), value.clone());
            }
        }
        vars
    }

    /// A chosen job starts to run. False when it was canceled meanwhile.
    pub fn start(&mut self, job: i64, faults: &[Action], now: Timestamp) -> bool {
        let Some(job) = self.tables.jobs.get_mut(&job) else { return false };
        if job.status != Status::Waiting {
            return false;
        }
        job.status = Status::Running;
        job.started = Some(now);
        for fault in faults {
            if let Action::UnknownStatus { status, .. } = fault {
                job.shown_status = Some(status.clone());
            }
        }
        self.commit();
        true
    }

    /// An event's row is written.
    pub fn record_event(&mut self, job: i64, raw: Value, now: Timestamp) {
        if self.tables.jobs.get(&job).is_none_or(|job| job.orphaned) {
            return;
        }
        let Some(counter) = raw.get("counter").and_then(Value::as_i64) else { return };
        let output = self.outputs.entry(job).or_default();
        if output.events.contains_key(&counter) {
            return;
        }
        // Four writers share the work, so numbers do not follow counters: blocks of four, each filled backwards.
        let block = (counter - 1) / 4;
        let others = output.events.range(block * 4 + 1..=block * 4 + 4).next();
        let first = others.map(|(other, row)| row.id - (3 - (other - 1) % 4));
        let first = first.unwrap_or_else(|| {
            let last = self.tables.sequences.entry("event".to_owned()).or_default();
            *last += 4;
            *last - 3
        });
        let kind = raw.get("event").and_then(Value::as_str).unwrap_or("").to_owned();
        let data = raw.get("event_data").cloned().unwrap_or_default();
        output.events.insert(counter, EventRow { id: first + 3 - (counter - 1) % 4, modified: now, raw });
        let mut summaries = Vec::new();
        if let Some(job) = self.tables.jobs.get_mut(&job) {
            match kind.as_str() {
                "playbook_on_play_start" => job.play_count += 1,
                "playbook_on_task_start" => job.task_count += 1,
                "playbook_on_stats" => {
                    summaries = stats(&data);
                    job.host_status_counts = Some(status_counts(&summaries));
                }
                _ => {}
            }
        }
        for summary in &mut summaries {
            summary.id = self.tables.next("summary");
        }
        if let Some(output) = self.outputs.get_mut(&job)
            && !summaries.is_empty()
        {
            output.summaries = summaries;
        }
    }

    /// Makes the events of a job durable.
    pub fn commit_events(&self, job: i64) {
        self.commit_output(job);
        self.commit();
    }

    /// A run is over. Nothing happens to a job that is already over.
    pub fn finish(&mut self, job: i64, outcome: &Outcome, timed_out: bool, now: Timestamp) {
        self.live.remove(&job);
        let Some(job) = self.tables.jobs.get_mut(&job) else { return };
        if job.status.is_terminal() {
            return;
        }
        job.finished.get_or_insert(now);
        match outcome {
            Outcome::Successful => job.status = Status::Successful,
            Outcome::Canceled if timed_out => {
                job.status = Status::Failed;
                "Job terminated due to timeout".clone_into(&mut job.explanation);
            }
            Outcome::Failed { explanation } => {
                job.status = Status::Failed;
                job.explanation.clone_from(explanation);
            }
            Outcome::Error { traceback } => {
                job.status = Status::Error;
                job.traceback.clone_from(traceback);
            }
            Outcome::Canceled => {
                job.status = Status::Canceled;
                job.canceled_on.get_or_insert(now);
            }
        }
        self.commit();
    }

    /// Ends a job that has not started: `canceled` at once.
    pub fn cancel_unstarted(&mut self, job: i64, now: Timestamp) {
        if let Some(job) = self.tables.jobs.get_mut(&job) {
            job.cancel_flag = true;
            job.status = Status::Canceled;
            job.canceled_on = Some(now);
            job.finished = Some(now);
            job.event_processing_finished = true;
        }
    }

    /// Marks a job that was running as failed, as a dispatcher does when it starts; its events are never complete.
    pub fn reap(&mut self, job: i64, now: Timestamp) {
        if let Some(live) = self.live.remove(&job) {
            let _ = live.cancel.send(true);
        }
        if let Some(job) = self.tables.jobs.get_mut(&job) {
            job.status = Status::Failed;
            job.finished = Some(now);
            job.event_processing_finished = false;
            job.orphaned = true;
            REAPED.clone_into(&mut job.explanation);
        }
    }

    /// Forgets a finished job.
    pub fn purge(&mut self, job: i64) {
        if self.tables.jobs.get(&job).is_some_and(|job| job.status.is_terminal()) {
            self.tables.jobs.remove(&job);
            self.outputs.remove(&job);
        }
    }
}

/// The host rows of `playbook_on_stats`.
fn stats(data: &Value) -> Vec<Summary> {
    let count = |kind: &str, host: &str| data.get(kind).and_then(|hosts| hosts.get(host)).and_then(Value::as_i64).unwrap_or(0);
    let mut hosts = BTreeSet::new();
    for kind in ["changed", "dark", "failures", "ignored", "ok", "processed", "rescued", "skipped"] {
        hosts.extend(data.get(kind).and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned());
    }
    hosts
        .into_iter()
        .rev()
        .map(|host| Summary {
            id: 0,
            ok: count("ok", &host),
            changed: count("changed", &host),
            failures: count("failures", &host),
            dark: count("dark", &host),
            skipped: count("skipped", &host),
            processed: count("processed", &host),
            rescued: count("rescued", &host),
            ignored: count("ignored", &host),
            host,
        })
        .collect()
}

/// One bucket per host.
fn status_counts(summaries: &[Summary]) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for summary in summaries {
        let bucket = [
            ("dark", summary.dark),
            ("failures", summary.failures),
            ("changed", summary.changed),
            ("ok", summary.ok),
            ("skipped", summary.skipped),
        ]
        .into_iter()
        .find(|(_, count)| *count > 0)
        .map_or("processed", |(bucket, _)| bucket);
        *counts.entry(bucket.to_owned()).or_default() += 1;
    }
    counts
}
