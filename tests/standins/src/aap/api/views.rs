//! Objects as the API shows them. Key sets and types follow recorded answers of AWX 24.6.1.

use std::{cell::OnceCell, collections::BTreeMap};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{NODE, query::Row};
use crate::aap::{
    clock::{stamp, stamp_or_null},
    config::{GroupConfig, HostConfig, Inventory, PROMPTS, Role, Template, User, Vars},
    state::{EventRow, Job, Label, Node, Schedule, Status, Summary, Token},
    world::World,
};

/// How large a stdout may be for the formats that are shown, not downloaded.
pub(super) const EVENT_STDOUT_LIMIT: usize = 1024;

/// What an object is rendered with.
pub(super) struct View<'a> {
    pub(super) world: &'a World,
    pub(super) base: &'a str,
    pub(super) user: &'a User,
    pub(super) now: Timestamp,
    history: OnceCell<History<'a>>,
    failing: OnceCell<BTreeMap<i64, usize>>,
}

/// What each host (inventory, name) went through, oldest first.
type History<'a> = BTreeMap<i64, BTreeMap<&'a str, Vec<(&'a Job, &'a Summary)>>>;

impl<'a> View<'a> {
    /// What `user` sees of the world through the API below `base`.
    pub(super) fn new(world: &'a World, base: &'a str, user: &'a User, now: Timestamp) -> Self {
        Self { world, base, user, now, history: OnceCell::new(), failing: OnceCell::new() }
    }
}

/// When the configured objects were made: the controller keeps no other time for them.
const MADE: &str = "2026-11-01T00:00:00.000001Z";

/// JSON as Python writes it: `, ` and `: ` between parts, ASCII only.
pub(in crate::aap) fn python_json(value: &Value) -> String {
    let mut text = String::new();
    write_python(value, &mut text);
    text
}

fn write_python(value: &Value, text: &mut String) {
    let quote = |string: &str, text: &mut String| {
        for character in Value::from(string).to_string().chars() {
            if character.is_ascii() {
                text.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    *text += &format!("\\u{unit:04x}");
                }
            }
        }
    };
    match value {
        Value::String(string) => quote(string, text),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                write_python(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (index, (key, item)) in fields.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                quote(key, text);
                text.push_str(": ");
                write_python(item, text);
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// The resource map of `/api/v2/`. Names that the stand-in does not serve are there as on a controller.
pub(super) fn resources(base: &str) -> Value {
    let mut map = Map::new();
    for name in [
        "ping",
        "instances",
        "instance_groups",
        "receptor_addresses",
        "config",
        "settings",
        "me",
        "dashboard",
        "organizations",
        "users",
        "execution_environments",
        "projects",
        "project_updates",
        "teams",
        "credentials",
        "credential_types",
        "credential_input_sources",
        "applications",
        "tokens",
        "metrics",
        "inventory_sources",
        "inventory_updates",
        "groups",
        "hosts",
        "host_metrics",
        "host_metric_summary_monthly",
        "job_templates",
        "jobs",
        "ad_hoc_commands",
        "system_job_templates",
        "system_jobs",
        "schedules",
        "roles",
        "notification_templates",
        "notifications",
        "labels",
        "unified_job_templates",
        "unified_jobs",
        "activity_stream",
        "workflow_job_templates",
        "workflow_jobs",
        "workflow_approvals",
        "workflow_job_template_nodes",
        "workflow_job_nodes",
        "mesh_visualizer",
        "bulk",
        "analytics",
        "service_index",
        "role_definitions",
        "role_user_assignments",
        "role_team_assignments",
    ] {
        map.insert(name.to_owned(), json!(format!("{base}/{name}/")));
    }
    map.insert("inventory".to_owned(), json!(format!("{base}/inventories/")));
    map.insert("constructed_inventory".to_owned(), json!(format!("{base}/constructed_inventories/")));
    map.insert("mesh_visualizer".to_owned(), json!(format!("{base}/mesh_visualizer/")));
    Value::Object(map)
}

/// `ping/`.
pub(super) fn ping(world: &World, version: &str, now: Timestamp) -> Value {
    // The heartbeat moves once a minute, and no more when the dispatcher is dead.
    let alive = if world.faults.dispatcher_dead() { world.silent_since.unwrap_or(now) } else { now };
    let beat = Timestamp::from_second(alive.as_second() - alive.as_second().rem_euclid(60)).unwrap_or(alive);
    let heartbeat = beat.checked_add(jiff::SignedDuration::from_micros(280_742)).unwrap_or(beat);
    json!({
        "ha": false,
        "version": version,
        "active_node": NODE,
        "install_uuid": world.tables.install_uuid,
        "instances": [{
            "node": NODE, "node_type": "hybrid", "uuid": "22e9f715-0000-4000-8000-000000000001",
            "heartbeat": stamp(heartbeat), "capacity": 220, "version": version,
        }],
        "instance_groups": [
            {"name": "controlplane", "capacity": 220, "instances": [NODE]},
            {"name": "default", "capacity": 220, "instances": [NODE]},
        ],
    })
}

/// Links below an object: `{"jobs": "<url>jobs/", …}`.
fn below(url: &str, names: &[&str]) -> Map<String, Value> {
    names.iter().map(|name| ((*name).to_owned(), json!(format!("{url}{name}/")))).collect()
}

fn variables_text(variables: &Vars) -> String {
    if variables.is_empty() { String::new() } else { python_json(&Value::Object(variables.clone())) }
}

impl View<'_> {
    fn url(&self, resource: &str, id: i64) -> String {
        format!("{}/{resource}/{id}/", self.base)
    }

    fn admin(&self) -> bool {
        self.user.config.role == Role::Admin
    }

    fn organization_summary(&self, id: i64) -> Value {
        let name = self.world.catalog.organizations.get(&id).map_or("", |organization| &organization.name);
        json!({"id": id, "name": name, "description": ""})
    }

    fn organization_name(&self, id: i64) -> &str {
        self.world.catalog.organizations.get(&id).map_or("", |organization| organization.name.as_str())
    }

    pub(super) fn user_summary(&self, id: i64) -> Value {
        let name = self.world.catalog.users.get(&id).map_or("", |user| user.config.username.as_str());
        json!({"id": id, "username": name, "first_name": "", "last_name": ""})
    }

    fn inventory_summary(&self, inventory: &Inventory) -> Value {
        let failing = self.failing_hosts(inventory);
        json!({
            "id": inventory.id, "name": inventory.name, "description": "", "has_active_failures": failing > 0,
            "total_hosts": inventory.hosts.len(), "hosts_with_active_failures": failing,
            "total_groups": inventory.groups.len(), "has_inventory_sources": false, "total_inventory_sources": 0,
            "inventory_sources_with_failures": 0, "organization_id": inventory.organization, "kind": "",
        })
    }

    fn failing_hosts(&self, inventory: &Inventory) -> usize {
        let count = |inventory: &Inventory| {
            let last = inventory.hosts.values().filter_map(|host| self.past(inventory.id, &host.name).last());
            last.filter(|(_, summary)| summary.failed()).count()
        };
        let all = || self.world.catalog.inventories.iter().map(|(id, inventory)| (*id, count(inventory))).collect();
        self.failing.get_or_init(all).get(&inventory.id).copied().unwrap_or(0)
    }

    /// The summaries of a host with their jobs, oldest first.
    fn past(&self, inventory: i64, host: &str) -> &[(&Job, &Summary)] {
        let history = self.history.get_or_init(|| {
            let mut history = History::new();
            for (job, output) in &self.world.outputs {
                let Some(job) = self.world.tables.jobs.get(job) else { continue };
                for summary in &output.summaries {
                    let hosts = history.entry(job.inventory.unwrap_or(0)).or_default();
                    hosts.entry(summary.host.as_str()).or_default().push((job, summary));
                }
            }
            history
        });
        history.get(&inventory).and_then(|hosts| hosts.get(host)).map_or(&[], Vec::as_slice)
    }

    fn project_summary(&self, id: i64) -> Value {
        let name = self.world.catalog.projects.get(&id).map_or("", |project| project.name.as_str());
        json!({"id": id, "name": name, "description": "", "status": "ok", "scm_type": "", "allow_override": false})
    }

    fn template_summary(&self, id: i64) -> Value {
        let name = self.world.catalog.templates.get(&id).map_or("", |template| template.config.name.as_str());
        json!({"id": id, "name": name, "description": ""})
    }

    fn unified_template_summary(&self, id: i64) -> Value {
        let mut summary = self.template_summary(id);
        summary["unified_job_type"] = json!("job");
        summary
    }

    fn labels_summary(&self, labels: &[i64]) -> Value {
        let results: Vec<Value> = labels
            .iter()
            .filter_map(|id| self.world.tables.labels.get(id))
            .map(|label| json!({"id": label.id, "name": label.name}))
            .collect();
        json!({"count": results.len(), "results": results})
    }

    fn credentials_summary(&self, credentials: &[i64]) -> Value {
        credentials
            .iter()
            .filter_map(|id| self.world.catalog.credentials.get(id))
            .map(|credential| {
                json!({
                    "id": credential.id, "name": credential.config.name, "description": "", "kind": "ssh", "cloud": false,
                })
            })
            .collect()
    }

    fn elapsed(&self, job: &Job) -> f64 {
        let Some(started) = job.started else { return 0.0 };
        let end = job.finished.unwrap_or(self.now);
        (end.duration_since(started).as_secs_f64().max(0.0) * 1000.0).round() / 1000.0
    }

    fn failed(job: &Job) -> bool {
        matches!(job.status, Status::Failed | Status::Error | Status::Canceled) || job.shown() == "canceled"
    }

    fn extra_vars(job: &Job) -> String {
        let mut shown = job.extra_vars.clone();
        for (name, value) in &mut shown {
            if job.hidden_vars.contains(name) && *value != json!("") {
                *value = json!("$encrypted$");
            }
        }
        python_json(&Value::Object(shown))
    }

    /// `summary_fields.job` of events and summaries.
    fn job_summary(&self, job: &Job) -> Value {
        json!({
            "id": job.id, "name": job.name, "description": "", "status": job.shown(), "failed": Self::failed(job),
            "elapsed": self.elapsed(job), "type": job.kind(), "job_template_id": job.template,
            "job_template_name": job.name,
        })
    }

    /// A job as lists show it.
    pub(super) fn job_row(&self, job: &Job) -> Value {
        if job.workflow { self.workflow_row(job) } else { self.plain_job_row(job) }
    }

    fn launched_by(&self, job: &Job) -> Value {
        if let Some(user) = job.created_by {
            let name = self.world.catalog.users.get(&user).map_or("", |user| user.config.username.as_str());
            json!({"id": user, "name": name, "type": "user", "url": self.url("users", user)})
        } else if let Some(schedule) = job.schedule {
            let name = self.world.tables.schedules.get(&schedule).map_or("", |schedule| schedule.name.as_str());
            json!({"id": schedule, "name": name, "type": "schedule", "url": self.url("schedules", schedule)})
        } else if let Some(workflow) = job.workflow_job {
            json!({"id": workflow, "name": job.name, "type": "workflow_job", "url": self.url("workflow_jobs", workflow)})
        } else {
            json!({})
        }
    }

    /// Links and summaries that jobs and workflow jobs share.
    fn origin(&self, job: &Job, related: &mut Map<String, Value>, summary: &mut Map<String, Value>) {
        if let Some(user) = job.created_by {
            related.insert("created_by".to_owned(), json!(self.url("users", user)));
            summary.insert("created_by".to_owned(), self.user_summary(user));
            if job.started.is_none() || job.workflow {
                related.insert("modified_by".to_owned(), json!(self.url("users", user)));
                summary.insert("modified_by".to_owned(), self.user_summary(user));
            }
        }
        if let Some(schedule) = job.schedule.and_then(|id| self.world.tables.schedules.get(&id)) {
            related.insert("schedule".to_owned(), json!(self.url("schedules", schedule.id)));
            let shown = json!({"id": schedule.id, "name": schedule.name, "description": schedule.description});
            summary.insert("schedule".to_owned(), shown);
        }
        if let Some(workflow) = job.workflow_job {
            related.insert("source_workflow_job".to_owned(), json!(self.url("workflow_jobs", workflow)));
            if let Some(parent) = self.world.tables.jobs.get(&workflow) {
                summary.insert(
                    "source_workflow_job".to_owned(),
                    json!({
                        "id": workflow, "name": parent.name, "description": "", "status": parent.shown(),
                        "failed": Self::failed(parent), "elapsed": self.elapsed(parent),
                    }),
                );
            }
        }
        summary.insert("organization".to_owned(), self.organization_summary(job.organization));
        if let Some(inventory) = job.inventory.and_then(|id| self.world.catalog.inventories.get(&id)) {
            summary.insert("inventory".to_owned(), self.inventory_summary(inventory));
        }
        if self.world.catalog.templates.contains_key(&job.template) {
            related.insert("unified_job_template".to_owned(), json!(self.url("job_templates", job.template)));
            related.insert("job_template".to_owned(), json!(self.url("job_templates", job.template)));
            summary.insert("job_template".to_owned(), self.template_summary(job.template));
            summary.insert("unified_job_template".to_owned(), self.unified_template_summary(job.template));
        }
        summary.insert("user_capabilities".to_owned(), json!({"delete": self.admin(), "start": self.user.config.role != Role::Read}));
        summary.insert("labels".to_owned(), self.labels_summary(&job.labels));
    }

    fn plain_job_row(&self, job: &Job) -> Value {
        let url = self.url("jobs", job.id);
        let mut related = below(
            &url,
            &[
                "labels",
                "credentials",
                "stdout",
                "job_events",
                "job_host_summaries",
                "activity_stream",
                "notifications",
                "create_schedule",
                "cancel",
                "relaunch",
            ],
        );
        let mut summary = Map::new();
        self.origin(job, &mut related, &mut summary);
        related.insert("project".to_owned(), json!(self.url("projects", job.project)));
        related.insert("organization".to_owned(), json!(self.url("organizations", job.organization)));
        if let Some(inventory) = job.inventory {
            related.insert("inventory".to_owned(), json!(self.url("inventories", inventory)));
        }
        summary.insert("project".to_owned(), self.project_summary(job.project));
        summary.insert("credentials".to_owned(), self.credentials_summary(&job.credentials));
        let started = job.started.is_some();
        if started {
            related.insert("execution_environment".to_owned(), json!(self.url("execution_environments", 1)));
            summary.insert(
                "execution_environment".to_owned(),
                json!({"id": 1, "name": "AWX EE (latest)", "description": "", "image": "quay.io/ansible/awx-ee:latest"}),
            );
            summary.insert("instance_group".to_owned(), json!({"id": 2, "name": "default", "is_container_group": false}));
        }
        let node = if started { NODE } else { "" };
        let mut row = json!({
            "id": job.id, "type": "job", "url": url, "related": related, "summary_fields": summary,
            "created": stamp(job.created), "modified": stamp(job.modified), "name": job.name, "description": "",
            "unified_job_template": job.template, "launch_type": job.launch_type, "status": job.shown(),
            "execution_environment": if started { json!(1) } else { Value::Null }, "failed": Self::failed(job),
            "started": stamp_or_null(job.started), "finished": stamp_or_null(job.finished),
            "canceled_on": stamp_or_null(job.canceled_on), "elapsed": self.elapsed(job),
            "job_explanation": job.explanation, "execution_node": node, "controller_node": node,
            "launched_by": self.launched_by(job), "work_unit_id": job.work_unit_id,
        });
        merge(
            &mut row,
            json!({
                "job_type": job.text("job_type"), "inventory": job.inventory, "project": job.project,
                "playbook": job.playbook, "scm_branch": job.text("scm_branch"), "forks": job.number("forks"),
                "limit": job.text("limit"), "verbosity": job.number("verbosity"), "extra_vars": Self::extra_vars(job),
                "job_tags": job.text("job_tags"), "force_handlers": false, "skip_tags": job.text("skip_tags"),
                "start_at_task": "", "timeout": job.number("timeout"), "use_fact_cache": false,
                "organization": job.organization, "job_template": job.template, "passwords_needed_to_start": [],
                "allow_simultaneous": job.allow_simultaneous, "artifacts": job.artifacts, "scm_revision": "",
                "instance_group": if started { json!(2) } else { Value::Null },
                "diff_mode": job.options.get("diff_mode").and_then(Value::as_bool).unwrap_or(false),
                "job_slice_number": job.slice_number, "job_slice_count": job.slice_count, "webhook_service": "",
                "webhook_credential": null, "webhook_guid": "",
            }),
        );
        row
    }

    fn workflow_row(&self, job: &Job) -> Value {
        let url = self.url("workflow_jobs", job.id);
        let mut related = below(&url, &["workflow_nodes", "labels", "activity_stream", "relaunch", "cancel"]);
        let mut summary = Map::new();
        self.origin(job, &mut related, &mut summary);
        json!({
            "id": job.id, "type": "workflow_job", "url": url, "related": related, "summary_fields": summary,
            "created": stamp(job.created), "modified": stamp(job.modified), "name": job.name, "description": "",
            "unified_job_template": job.template, "launch_type": job.launch_type, "status": job.shown(),
            "failed": Self::failed(job), "started": stamp_or_null(job.started), "finished": stamp_or_null(job.finished),
            "canceled_on": stamp_or_null(job.canceled_on), "elapsed": self.elapsed(job),
            "job_explanation": job.explanation, "launched_by": self.launched_by(job), "work_unit_id": null,
            "workflow_job_template": null, "extra_vars": Self::extra_vars(job),
            "allow_simultaneous": job.allow_simultaneous, "job_template": job.template, "is_sliced_job": true,
            "inventory": job.inventory, "limit": job.text("limit"), "scm_branch": job.text("scm_branch"),
            "webhook_service": "", "webhook_credential": null, "webhook_guid": "", "skip_tags": job.text("skip_tags"),
            "job_tags": job.text("job_tags"),
        })
    }

    /// A job as the answer to its launch shows it.
    pub(super) fn launched(&self, job: &Job) -> Value {
        let mut row = self.job_row(job);
        merge(
            &mut row,
            json!({
                "job_args": job.job_args, "job_cwd": job.job_cwd, "job_env": job.job_env,
                "result_traceback": job.traceback,
            }),
        );
        if !job.workflow {
            merge(&mut row, json!({"event_processing_finished": job.event_processing_finished}));
        }
        row
    }

    /// A job as its own page shows it.
    pub(super) fn job_detail(&self, job: &Job) -> Value {
        let mut row = self.launched(job);
        if !job.workflow {
            merge(
                &mut row,
                json!({
                    "host_status_counts": job.host_status_counts,
                    "playbook_counts": {"play_count": job.play_count, "task_count": job.task_count},
                    "custom_virtualenv": null,
                }),
            );
        }
        row
    }

    /// A job in a list, with what filters can reach.
    pub(super) fn job_list_row(&self, job: &Job) -> Row {
        let organization = self.organization_summary(job.organization);
        let labels: Vec<Value> = job
            .labels
            .iter()
            .filter_map(|id| self.world.tables.labels.get(id))
            .map(|label| json!({"id": label.id, "name": label.name, "organization": label.organization}))
            .collect();
        let mut template = self.unified_template_summary(job.template);
        template["organization"] = organization.clone();
        let schedule = job.schedule.and_then(|id| self.world.tables.schedules.get(&id));
        let inventory = job.inventory.and_then(|id| self.world.catalog.inventories.get(&id));
        Row {
            shown: self.job_row(job),
            related: json!({
                "unified_job_template": template, "job_template": template, "organization": organization,
                "labels": labels, "created_by": job.created_by.map(|id| self.user_summary(id)),
                "schedule": schedule.map(|schedule| json!({
                    "id": schedule.id, "name": schedule.name, "enabled": schedule.enabled,
                })),
                "inventory": inventory.map(|inventory| self.inventory_summary(inventory)),
                "unified_job_node": job.workflow_job.map(|id| json!({"id": id, "workflow_job": id})),
            }),
        }
    }

    /// A job template; `detail` adds what only its own page shows.
    #[expect(clippy::too_many_lines, reason = "a list of fields")]
    pub(super) fn template(&self, template: &Template, detail: bool) -> Value {
        let (url, config) = (self.url("job_templates", template.id), &template.config);
        let mut related = below(
            &url,
            &[
                "labels",
                "credentials",
                "jobs",
                "schedules",
                "activity_stream",
                "launch",
                "webhook_key",
                "notification_templates_started",
                "notification_templates_success",
                "notification_templates_error",
                "access_list",
                "survey_spec",
                "object_roles",
                "instance_groups",
                "slice_workflow_jobs",
                "copy",
            ],
        );
        related.insert("created_by".to_owned(), json!(self.url("users", 1)));
        related.insert("modified_by".to_owned(), json!(self.url("users", 1)));
        related.insert("project".to_owned(), json!(self.url("projects", template.project)));
        related.insert("organization".to_owned(), json!(self.url("organizations", template.organization)));
        related.insert("webhook_receiver".to_owned(), json!(""));
        let mut summary = Map::new();
        summary.insert("organization".to_owned(), self.organization_summary(template.organization));
        summary.insert("project".to_owned(), self.project_summary(template.project));
        summary.insert("created_by".to_owned(), self.user_summary(1));
        summary.insert("modified_by".to_owned(), self.user_summary(1));
        summary.insert(
            "object_roles".to_owned(),
            json!({
                "admin_role": {"description": "Can manage all aspects of the job template", "name": "Admin", "id": template.id * 10},
                "execute_role": {"description": "May run the job template", "name": "Execute", "id": template.id * 10 + 1},
                "read_role": {"description": "May view settings for the job template", "name": "Read", "id": template.id * 10 + 2},
            }),
        );
        let (admin, runs) = (self.admin(), self.user.config.role != Role::Read);
        summary.insert(
            "user_capabilities".to_owned(),
            json!({"edit": admin, "delete": admin, "start": runs, "schedule": runs, "copy": admin}),
        );
        summary.insert("labels".to_owned(), json!({"count": 0, "results": []}));
        summary.insert("credentials".to_owned(), self.credentials_summary(&template.credentials));
        if let Some(inventory) = template.inventory.and_then(|id| self.world.catalog.inventories.get(&id)) {
            related.insert("inventory".to_owned(), json!(self.url("inventories", inventory.id)));
            summary.insert("inventory".to_owned(), self.inventory_summary(inventory));
        }
        if detail {
            let name = format!("{}/job_templates/{}++{}/", self.base, config.name, self.organization_name(template.organization));
            related.insert("named_url".to_owned(), json!(name));
            summary.insert(
                "resolved_environment".to_owned(),
                json!({"id": 1, "name": "AWX EE (latest)", "description": "", "image": "quay.io/ansible/awx-ee:latest"}),
            );
        }
        let jobs: Vec<&Job> = self.world.tables.jobs.values().rev().filter(|job| job.template == template.id).collect();
        let recent: Vec<Value> = jobs
            .iter()
            .take(10)
            .map(|job| {
                json!({
                    "id": job.id, "status": job.shown(), "finished": stamp_or_null(job.finished),
                    "canceled_on": stamp_or_null(job.canceled_on), "type": job.kind(),
                })
            })
            .collect();
        summary.insert("recent_jobs".to_owned(), json!(recent));
        let last = jobs.iter().find(|job| job.finished.is_some());
        if let Some(last) = last {
            let mut shown = json!({
                "id": last.id, "name": last.name, "description": "", "status": last.shown(), "failed": Self::failed(last),
            });
            summary.insert("last_update".to_owned(), shown.clone());
            shown["finished"] = stamp_or_null(last.finished);
            summary.insert("last_job".to_owned(), shown);
            related.insert("last_job".to_owned(), json!(self.job_url(last)));
        }
        let next = self
            .world
            .tables
            .schedules
            .values()
            .filter(|schedule| schedule.template == template.id && schedule.enabled)
            .filter_map(|schedule| schedule.next_run)
            .min();
        if next.is_some() {
            let schedule = self.world.tables.schedules.values().find(|schedule| schedule.next_run == next);
            if let Some(schedule) = schedule {
                related.insert("next_schedule".to_owned(), json!(self.url("schedules", schedule.id)));
                summary.insert(
                    "next_schedule".to_owned(),
                    json!({"id": schedule.id, "name": schedule.name, "description": "", "next_run": stamp_or_null(next)}),
                );
            }
        }
        let mut row = json!({
            "id": template.id, "type": "job_template", "url": url, "related": related, "summary_fields": summary,
            "created": MADE, "modified": MADE, "name": config.name, "description": config.description,
            "job_type": config.job_type, "inventory": template.inventory, "project": template.project,
            "playbook": config.playbook, "scm_branch": "", "forks": config.forks, "limit": config.limit,
            "verbosity": config.verbosity, "extra_vars": variables_text(&config.extra_vars), "job_tags": "",
            "force_handlers": false, "skip_tags": "", "start_at_task": "", "timeout": config.timeout,
            "use_fact_cache": false, "organization": template.organization,
            "last_job_run": last.map_or(Value::Null, |job| stamp_or_null(job.finished)),
            "last_job_failed": last.is_some_and(|job| Self::failed(job)), "next_job_run": stamp_or_null(next),
            "status": jobs.first().map_or("never updated", |job| job.shown()), "execution_environment": null,
            "host_config_key": "", "survey_enabled": config.survey.is_some(), "become_enabled": config.become_enabled,
            "diff_mode": config.diff_mode, "allow_simultaneous": config.allow_simultaneous, "custom_virtualenv": null,
            "job_slice_count": config.job_slice_count, "webhook_service": "", "webhook_credential": null,
            "prevent_instance_group_fallback": false,
        });
        for (field, _, flag) in PROMPTS {
            row[*flag] = json!(template.asks(field));
        }
        row
    }

    fn job_url(&self, job: &Job) -> String {
        self.url(if job.workflow { "workflow_jobs" } else { "jobs" }, job.id)
    }

    /// A template in a list, with what filters can reach.
    pub(super) fn template_row(&self, template: &Template) -> Row {
        Row {
            shown: self.template(template, false),
            related: json!({
                "organization": self.organization_summary(template.organization),
                "project": self.project_summary(template.project),
                "inventory": template.inventory.and_then(|id| self.world.catalog.inventories.get(&id))
                    .map(|inventory| self.inventory_summary(inventory)),
            }),
        }
    }

    /// `job_templates/N/launch/`.
    pub(super) fn launch_form(&self, template: &Template) -> Value {
        let config = &template.config;
        let needed: Vec<&str> = config
            .survey
            .iter()
            .flat_map(|survey| &survey.spec)
            .filter(|question| question.required)
            .map(|question| question.variable.as_str())
            .collect();
        let inventory = template.inventory.and_then(|id| self.world.catalog.inventories.get(&id));
        let asks_anything = PROMPTS.iter().any(|(field, ..)| template.asks(field));
        let mut form = json!({
            "can_start_without_user_input": !asks_anything && needed.is_empty() && inventory.is_some(),
            "passwords_needed_to_start": [], "survey_enabled": config.survey.is_some(),
            "variables_needed_to_start": needed, "credential_needed_to_start": false,
            "inventory_needed_to_start": inventory.is_none(),
            "job_template_data": {"name": config.name, "id": template.id, "description": config.description},
            "defaults": {
                "inventory": inventory.map_or(json!({}), |inventory| json!({"name": inventory.name, "id": inventory.id})),
                "limit": config.limit, "scm_branch": "", "job_tags": "", "skip_tags": "",
                "extra_vars": variables_text(&config.extra_vars), "diff_mode": config.diff_mode,
                "job_type": config.job_type, "verbosity": config.verbosity, "execution_environment": {},
                "forks": config.forks, "job_slice_count": config.job_slice_count, "timeout": config.timeout,
                "instance_groups": [],
            },
        });
        for (field, _, flag) in PROMPTS {
            form[*flag] = json!(template.asks(field));
        }
        if !template.credentials.is_empty() {
            let credentials: Vec<Value> = template
                .credentials
                .iter()
                .filter_map(|id| self.world.catalog.credentials.get(id))
                .map(
                    |credential| json!({"id": credential.id, "name": credential.config.name, "credential_type": 1, "passwords_needed": []}),
                )
                .collect();
            form["defaults"]["credentials"] = json!(credentials);
        }
        form
    }

    /// A schedule.
    pub(super) fn schedule(&self, schedule: &Schedule) -> Value {
        let url = self.url("schedules", schedule.id);
        let mut related = below(&url, &["labels", "credentials", "instance_groups"]);
        related.insert("unified_jobs".to_owned(), json!(format!("{url}jobs/")));
        related.insert("created_by".to_owned(), json!(self.url("users", schedule.created_by)));
        related.insert("modified_by".to_owned(), json!(self.url("users", schedule.created_by)));
        related.insert("unified_job_template".to_owned(), json!(self.url("job_templates", schedule.template)));
        let mine = self.admin() || schedule.created_by == self.user.id;
        let mut summary = Map::new();
        summary.insert("unified_job_template".to_owned(), self.unified_template_summary(schedule.template));
        summary.insert("created_by".to_owned(), self.user_summary(schedule.created_by));
        summary.insert("modified_by".to_owned(), self.user_summary(schedule.created_by));
        summary.insert("user_capabilities".to_owned(), json!({"edit": mine, "delete": mine}));
        if let Some(template) = self.world.catalog.templates.get(&schedule.template) {
            related.insert("project".to_owned(), json!(self.url("projects", template.project)));
            if let Some(inventory) = template.inventory.and_then(|id| self.world.catalog.inventories.get(&id)) {
                related.insert("inventory".to_owned(), json!(self.url("inventories", inventory.id)));
                summary.insert("inventory".to_owned(), self.inventory_summary(inventory));
            }
        }
        let prompt = |field: &str| schedule.prompts.get(field).cloned().unwrap_or(Value::Null);
        json!({
            "rrule": schedule.rrule, "id": schedule.id, "type": "schedule", "url": url, "related": related,
            "summary_fields": summary, "created": stamp(schedule.created), "modified": stamp(schedule.modified),
            "name": schedule.name, "description": schedule.description,
            "extra_data": schedule.prompts.get("extra_vars").cloned().unwrap_or_else(|| json!({})),
            "inventory": prompt("inventory"), "scm_branch": prompt("scm_branch"), "job_type": prompt("job_type"),
            "job_tags": prompt("job_tags"), "skip_tags": prompt("skip_tags"), "limit": prompt("limit"),
            "diff_mode": prompt("diff_mode"), "verbosity": prompt("verbosity"),
            "execution_environment": prompt("execution_environment"), "forks": prompt("forks"),
            "job_slice_count": prompt("job_slice_count"), "timeout": prompt("timeout"),
            "unified_job_template": schedule.template, "enabled": schedule.enabled,
            "dtstart": stamp(schedule.rule.start), "dtend": stamp_or_null(schedule.rule.end()),
            "next_run": stamp_or_null(schedule.next_run), "timezone": schedule.rule.timezone,
            "until": schedule.rule.until.map_or_else(String::new, |until| until.strftime("%Y-%m-%dT%H:%M:%S").to_string()),
        })
    }

    /// A schedule in a list, with what filters can reach.
    pub(super) fn schedule_row(&self, schedule: &Schedule) -> Row {
        Row {
            shown: self.schedule(schedule),
            related: json!({
                "unified_job_template": self.unified_template_summary(schedule.template),
                "created_by": self.user_summary(schedule.created_by),
            }),
        }
    }

    /// A user.
    pub(super) fn account(&self, user: &User) -> Value {
        let url = self.url("users", user.id);
        let related = below(
            &url,
            &[
                "teams",
                "organizations",
                "admin_of_organizations",
                "projects",
                "credentials",
                "roles",
                "activity_stream",
                "access_list",
                "tokens",
                "authorized_tokens",
                "personal_tokens",
            ],
        );
        let ansible_id = uuid::Uuid::from_u128(0x0300_0000_0000_4000_8000_0000_0000_0000 + u128::from(user.id.unsigned_abs()));
        json!({
            "id": user.id, "type": "user", "url": url, "related": related,
            "summary_fields": {
                "resource": {"ansible_id": ansible_id.to_string(), "resource_type": "shared.user"},
                "user_capabilities": {"edit": true, "delete": false},
            },
            "created": MADE, "modified": null, "username": user.config.username, "first_name": "", "last_name": "",
            "email": "", "is_superuser": user.config.role == Role::Admin, "is_system_auditor": false,
            "password": "$encrypted$", "ldap_dn": "", "last_login": null, "external_account": null, "auth": [],
        })
    }

    /// A token; the secret is shown once.
    pub(super) fn token(&self, token: &Token, secret: bool) -> Value {
        let url = self.url("tokens", token.id);
        json!({
            "id": token.id, "type": "o_auth2_access_token", "url": url,
            "related": {"user": self.url("users", token.user), "activity_stream": format!("{url}activity_stream/")},
            "summary_fields": {"user": self.user_summary(token.user)},
            "created": stamp(token.created), "modified": stamp(token.created), "description": token.description,
            "user": token.user, "token": if secret { token.token.as_str() } else { "************" },
            "refresh_token": null, "application": null, "expires": "3026-03-24T07:42:16.047709Z", "scope": token.scope,
        })
    }

    /// An organization.
    pub(super) fn organization(&self, id: i64, name: &str) -> Value {
        let url = self.url("organizations", id);
        let related = below(
            &url,
            &[
                "execution_environments",
                "projects",
                "inventories",
                "job_templates",
                "workflow_job_templates",
                "users",
                "admins",
                "teams",
                "credentials",
                "applications",
                "activity_stream",
                "notification_templates",
                "object_roles",
                "access_list",
                "instance_groups",
                "galaxy_credentials",
            ],
        );
        json!({
            "id": id, "type": "organization", "url": url, "related": related,
            "summary_fields": {"user_capabilities": {"edit": self.admin(), "delete": self.admin()}},
            "created": MADE, "modified": MADE, "name": name, "description": "", "max_hosts": 0,
            "custom_virtualenv": null, "default_environment": null,
        })
    }

    /// An inventory; `detail` adds what only its own page shows.
    pub(super) fn inventory(&self, inventory: &Inventory, detail: bool) -> Value {
        let url = self.url("inventories", inventory.id);
        let mut related = below(
            &url,
            &[
                "hosts",
                "variable_data",
                "script",
                "activity_stream",
                "job_templates",
                "ad_hoc_commands",
                "access_list",
                "object_roles",
                "instance_groups",
                "copy",
                "labels",
                "groups",
                "root_groups",
                "update_inventory_sources",
                "inventory_sources",
                "tree",
            ],
        );
        related.insert("organization".to_owned(), json!(self.url("organizations", inventory.organization)));
        related.insert("created_by".to_owned(), json!(self.url("users", 1)));
        related.insert("modified_by".to_owned(), json!(self.url("users", 1)));
        if detail {
            let name = format!("{}/inventories/{}++{}/", self.base, inventory.name, self.organization_name(inventory.organization));
            related.insert("named_url".to_owned(), json!(name));
        }
        let admin = self.admin();
        let role = |name: &str, title: &str, text: &str, offset: i64| {
            (name.to_owned(), json!({"description": text, "name": title, "id": inventory.id * 10 + offset}))
        };
        let roles: Map<String, Value> = [
            role("admin_role", "Admin", "Can manage all aspects of the inventory", 1),
            role("update_role", "Update", "May update the inventory", 2),
            role("adhoc_role", "Ad Hoc", "May run ad hoc commands on the inventory", 3),
            role("use_role", "Use", "Can use the inventory in a job template", 4),
            role("read_role", "Read", "May view settings for the inventory", 5),
        ]
        .into_iter()
        .collect();
        let failing = self.failing_hosts(inventory);
        json!({
            "id": inventory.id, "type": "inventory", "url": url, "related": related,
            "summary_fields": {
                "organization": self.organization_summary(inventory.organization),
                "created_by": self.user_summary(1), "modified_by": self.user_summary(1), "object_roles": roles,
                "user_capabilities": {"edit": admin, "delete": admin, "copy": admin, "adhoc": admin},
                "labels": {"count": 0, "results": []},
            },
            "created": MADE, "modified": MADE, "name": inventory.name, "description": "",
            "organization": inventory.organization, "kind": "", "host_filter": null,
            "variables": variables_text(&inventory.variables), "has_active_failures": failing > 0,
            "total_hosts": inventory.hosts.len(), "hosts_with_active_failures": failing,
            "total_groups": inventory.groups.len(), "has_inventory_sources": false, "total_inventory_sources": 0,
            "inventory_sources_with_failures": 0, "pending_deletion": false, "prevent_instance_group_fallback": false,
        })
    }

    /// An inventory in a list.
    pub(super) fn inventory_row(&self, inventory: &Inventory) -> Row {
        Row { shown: self.inventory(inventory, false), related: json!({"organization": self.organization_summary(inventory.organization)}) }
    }

    /// A host; `detail` adds what only its own page shows.
    pub(super) fn host(&self, inventory: &Inventory, id: i64, host: &HostConfig, detail: bool) -> Value {
        let url = self.url("hosts", id);
        let mut related = below(
            &url,
            &[
                "variable_data",
                "groups",
                "all_groups",
                "job_events",
                "job_host_summaries",
                "activity_stream",
                "inventory_sources",
                "smart_inventories",
                "ad_hoc_commands",
                "ad_hoc_command_events",
                "ansible_facts",
            ],
        );
        related.insert("created_by".to_owned(), json!(self.url("users", 1)));
        related.insert("modified_by".to_owned(), json!(self.url("users", 1)));
        related.insert("inventory".to_owned(), json!(self.url("inventories", inventory.id)));
        if detail {
            let organization = self.organization_name(inventory.organization);
            let name = format!("{}/hosts/{}++{}++{organization}/", self.base, host.name, inventory.name);
            related.insert("named_url".to_owned(), json!(name));
        }
        let groups: Vec<Value> = inventory
            .groups
            .iter()
            .filter(|(_, group)| group.hosts.contains(&host.name))
            .map(|(id, group)| json!({"id": id, "name": group.name}))
            .collect();
        let past = self.past(inventory.id, &host.name);
        let recent: Vec<Value> = past
            .iter()
            .rev()
            .take(5)
            .map(|(job, _)| {
                json!({
                    "id": job.id, "name": job.name, "type": "job", "status": job.shown(),
                    "finished": stamp_or_null(job.finished),
                })
            })
            .collect();
        let mut summary = json!({
            "inventory": self.inventory_summary(inventory), "created_by": self.user_summary(1),
            "modified_by": self.user_summary(1),
            "user_capabilities": {"edit": self.admin(), "delete": self.admin()},
            "groups": {"count": groups.len(), "results": groups}, "recent_jobs": recent,
        });
        let last = past.last();
        if let Some((job, last)) = last {
            related.insert("last_job".to_owned(), json!(self.url("jobs", job.id)));
            related.insert("last_job_host_summary".to_owned(), json!(self.url("job_host_summaries", last.id)));
            summary["last_job"] = json!({
                "id": job.id, "name": job.name, "description": "", "finished": stamp_or_null(job.finished),
                "status": job.shown(), "failed": Self::failed(job), "job_template_id": job.template,
                "job_template_name": job.name,
            });
            summary["last_job_host_summary"] = json!({"id": last.id, "failed": last.failed()});
        }
        json!({
            "id": id, "type": "host", "url": url, "related": related, "summary_fields": summary, "created": MADE,
            "modified": MADE, "name": host.name, "description": "", "inventory": inventory.id, "enabled": host.enabled,
            "instance_id": "", "variables": variables_text(&host.variables),
            "has_active_failures": last.is_some_and(|(_, summary)| summary.failed()), "has_inventory_sources": false,
            "last_job": last.map(|(job, _)| job.id), "last_job_host_summary": last.map(|(_, summary)| summary.id),
            "ansible_facts_modified": null,
        })
    }

    /// A host in a list, with what filters can reach.
    pub(super) fn host_row(&self, inventory: &Inventory, id: i64, host: &HostConfig) -> Row {
        let groups: Vec<Value> = inventory
            .groups
            .iter()
            .filter(|(_, group)| group.hosts.contains(&host.name))
            .map(|(id, group)| json!({"id": id, "name": group.name}))
            .collect();
        let mut parent = self.inventory_summary(inventory);
        parent["organization"] = self.organization_summary(inventory.organization);
        Row { shown: self.host(inventory, id, host, false), related: json!({"inventory": parent, "groups": groups}) }
    }

    /// A group; `detail` adds what only its own page shows.
    pub(super) fn group(&self, inventory: &Inventory, id: i64, group: &GroupConfig, detail: bool) -> Value {
        let url = self.url("groups", id);
        let mut related = below(
            &url,
            &[
                "variable_data",
                "hosts",
                "potential_children",
                "children",
                "all_hosts",
                "job_events",
                "job_host_summaries",
                "activity_stream",
                "inventory_sources",
                "ad_hoc_commands",
            ],
        );
        related.insert("created_by".to_owned(), json!(self.url("users", 1)));
        related.insert("modified_by".to_owned(), json!(self.url("users", 1)));
        related.insert("inventory".to_owned(), json!(self.url("inventories", inventory.id)));
        if detail {
            let organization = self.organization_name(inventory.organization);
            let name = format!("{}/groups/{}++{}++{organization}/", self.base, group.name, inventory.name);
            related.insert("named_url".to_owned(), json!(name));
        }
        let admin = self.admin();
        json!({
            "id": id, "type": "group", "url": url, "related": related,
            "summary_fields": {
                "inventory": self.inventory_summary(inventory), "created_by": self.user_summary(1),
                "modified_by": self.user_summary(1),
                "user_capabilities": {"edit": admin, "delete": admin, "copy": admin},
            },
            "created": MADE, "modified": MADE, "name": group.name, "description": "", "inventory": inventory.id,
            "variables": variables_text(&group.variables),
        })
    }

    /// A group in a list, with what filters can reach.
    pub(super) fn group_row(&self, inventory: &Inventory, id: i64, group: &GroupConfig) -> Row {
        let mut parent = self.inventory_summary(inventory);
        parent["organization"] = self.organization_summary(inventory.organization);
        Row { shown: self.group(inventory, id, group, false), related: json!({"inventory": parent}) }
    }

    /// A label; `detail` adds what only its own page shows.
    pub(super) fn label(&self, label: &Label, detail: bool) -> Value {
        let mut related = json!({
            "created_by": self.url("users", label.created_by), "modified_by": self.url("users", label.created_by),
            "organization": self.url("organizations", label.organization),
        });
        if detail {
            let name = format!("{}/labels/{}++{}/", self.base, label.name, self.organization_name(label.organization));
            related["named_url"] = json!(name);
        }
        json!({
            "id": label.id, "type": "label", "url": self.url("labels", label.id), "related": related,
            "summary_fields": {
                "organization": self.organization_summary(label.organization),
                "created_by": self.user_summary(label.created_by), "modified_by": self.user_summary(label.created_by),
            },
            "created": stamp(label.created), "modified": stamp(label.created), "name": label.name,
            "organization": label.organization,
        })
    }

    /// A machine credential.
    pub(super) fn credential(&self, id: i64) -> Option<Value> {
        let credential = self.world.catalog.credentials.get(&id)?;
        Some(json!({
            "id": id, "type": "credential", "url": self.url("credentials", id), "related": {},
            "summary_fields": {"organization": self.organization_summary(credential.organization)}, "created": MADE,
            "modified": MADE, "name": credential.config.name, "description": "",
            "organization": credential.organization, "credential_type": 1, "managed": false,
            "inputs": {"username": credential.config.username, "ssh_key_data": "$encrypted$"}, "kind": "ssh",
            "cloud": false, "kubernetes": false,
        }))
    }

    /// A host's row of a job.
    pub(super) fn summary(&self, job: &Job, summary: &Summary) -> Value {
        let host =
            job.inventory.and_then(|id| self.world.catalog.inventories.get(&id)).and_then(|inventory| inventory.host_id(&summary.host));
        let mut related = json!({"job": self.url("jobs", job.id)});
        let mut fields = json!({"job": self.job_summary(job)});
        if let Some(host) = host {
            related["host"] = json!(self.url("hosts", host));
            fields["host"] = json!({"id": host, "name": summary.host, "description": ""});
        }
        let time = stamp(job.finished.unwrap_or(self.now));
        json!({
            "id": summary.id, "type": "job_host_summary", "url": self.url("job_host_summaries", summary.id),
            "related": related, "summary_fields": fields, "created": time, "modified": time, "job": job.id,
            "host": host, "constructed_host": null, "host_name": summary.host, "changed": summary.changed,
            "dark": summary.dark, "failures": summary.failures, "ok": summary.ok, "processed": summary.processed,
            "skipped": summary.skipped, "failed": summary.failed(), "ignored": summary.ignored,
            "rescued": summary.rescued,
        })
    }

    /// An event of a job.
    pub(super) fn event(&self, job: &Job, event: &EventRow, full: bool) -> Value {
        let raw = &event.raw;
        let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or("");
        let data = raw.get("event_data").cloned().unwrap_or_else(|| json!({}));
        let part = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        let kind = text("event");
        let host_name = part("host");
        let host = job.inventory.and_then(|id| self.world.catalog.inventories.get(&id)).and_then(|inventory| inventory.host_id(&host_name));
        let url = self.url("job_events", event.id);
        let mut related = json!({"job": self.url("jobs", job.id), "children": format!("{url}children/")});
        let mut summary = json!({"job": self.job_summary(job), "role": {}});
        if let Some(host) = host {
            related["host"] = json!(self.url("hosts", host));
            summary["host"] = json!({"id": host, "name": host_name, "description": ""});
        }
        let (level, display, failed) = event_kind(kind);
        let counted = |name: &str| data.get(name).and_then(Value::as_object).is_some_and(|hosts| !hosts.is_empty());
        let (failed, changed) = if kind == "playbook_on_stats" {
            (counted("failures") || counted("dark"), counted("changed"))
        } else {
            (failed, data.pointer("/res/changed").and_then(Value::as_bool).unwrap_or(false))
        };
        let mut stdout = text("stdout").to_owned();
        if !full && stdout.len() > EVENT_STDOUT_LIMIT {
            let mut end = EVENT_STDOUT_LIMIT;
            while !stdout.is_char_boundary(end) {
                end -= 1;
            }
            stdout.truncate(end);
            stdout.push('\u{2026}');
        }
        let display = if matches!(kind, "playbook_on_play_start" | "playbook_on_task_start") {
            format!("{display} ({})", part("name"))
        } else {
            display.to_owned()
        };
        json!({
            "id": event.id, "type": "job_event", "url": url, "related": related, "summary_fields": summary,
            "created": raw.get("created").and_then(Value::as_str).map_or_else(|| stamp(event.modified), created),
            "modified": stamp(event.modified), "job": job.id, "event": kind, "counter": raw.get("counter"),
            "event_display": display, "event_level": level, "failed": failed, "changed": changed,
            "uuid": text("uuid"), "parent_uuid": text("parent_uuid"), "host": host, "host_name": host_name,
            "playbook": part("playbook"), "play": part("play"), "task": part("task"), "role": part("role"),
            "stdout": stdout, "start_line": raw.get("start_line").and_then(Value::as_i64).unwrap_or(0),
            "end_line": raw.get("end_line").and_then(Value::as_i64).unwrap_or(0), "verbosity": 0, "event_data": data,
        })
    }

    /// A node of a sliced launch.
    pub(super) fn node(&self, node: &Node) -> Value {
        let url = self.url("workflow_job_nodes", node.id);
        let mut related = below(&url, &["labels", "credentials", "instance_groups", "success_nodes", "failure_nodes", "always_nodes"]);
        related.insert("unified_job_template".to_owned(), json!(self.url("job_templates", node.template)));
        related.insert("workflow_job".to_owned(), json!(self.url("workflow_jobs", node.workflow_job)));
        let mut summary = json!({
            "workflow_job": self.template_summary(node.template),
            "unified_job_template": self.unified_template_summary(node.template),
        });
        summary["workflow_job"]["id"] = json!(node.workflow_job);
        if let Some(job) = node.job.and_then(|id| self.world.tables.jobs.get(&id)) {
            related.insert("job".to_owned(), json!(self.url("jobs", job.id)));
            summary["job"] = json!({
                "id": job.id, "name": job.name, "description": "", "status": job.shown(), "failed": Self::failed(job),
                "elapsed": self.elapsed(job), "type": "job",
            });
        }
        let mut row = json!({
            "id": node.id, "type": "workflow_job_node", "url": url, "related": related, "summary_fields": summary,
            "created": stamp(node.created), "modified": stamp(node.created), "extra_data": {}, "job": node.job,
            "workflow_job": node.workflow_job, "unified_job_template": node.template, "success_nodes": [],
            "failure_nodes": [], "always_nodes": [], "all_parents_must_converge": false, "do_not_run": false,
            "identifier": "",
        });
        for field in [
            "inventory",
            "scm_branch",
            "job_type",
            "job_tags",
            "skip_tags",
            "limit",
            "diff_mode",
            "verbosity",
            "execution_environment",
            "forks",
            "job_slice_count",
            "timeout",
        ] {
            row[field] = Value::Null;
        }
        row
    }

    /// The creation of a job in the activity stream.
    pub(super) fn activity(&self, job: &Job) -> Value {
        let row = self.job_row(job);
        let mut changes = Map::new();
        for field in [
            "name",
            "description",
            "job_type",
            "playbook",
            "scm_branch",
            "forks",
            "limit",
            "verbosity",
            "extra_vars",
            "job_tags",
            "force_handlers",
            "skip_tags",
            "start_at_task",
            "timeout",
            "use_fact_cache",
            "allow_simultaneous",
            "diff_mode",
            "job_slice_number",
            "job_slice_count",
            "webhook_service",
            "webhook_credential",
            "webhook_guid",
            "id",
        ] {
            changes.insert(field.to_owned(), row.get(field).cloned().unwrap_or_default());
        }
        let inventory = job.inventory.and_then(|id| self.world.catalog.inventories.get(&id));
        let named = |name: &str, id: i64| json!(format!("{name}-{id}"));
        changes.insert("inventory".to_owned(), inventory.map_or(Value::Null, |inventory| named(&inventory.name, inventory.id)));
        let project = self.world.catalog.projects.get(&job.project);
        changes.insert("project".to_owned(), project.map_or(Value::Null, |project| named(&project.name, project.id)));
        changes.insert("job_template".to_owned(), named(&job.name, job.template));
        changes.insert("execution_environment".to_owned(), Value::Null);
        changes.insert("instance_group".to_owned(), Value::Null);
        let credentials: Vec<String> = job
            .credentials
            .iter()
            .filter_map(|id| self.world.catalog.credentials.get(id))
            .map(|credential| format!("{} ({})", credential.config.name, credential.id))
            .collect();
        changes.insert("credentials".to_owned(), json!(credentials));
        let labels: Vec<&str> =
            job.labels.iter().filter_map(|id| self.world.tables.labels.get(id)).map(|label| label.name.as_str()).collect();
        changes.insert("labels".to_owned(), json!(labels));
        let mut related = json!({"job": [self.job_url(job)]});
        let mut summary = json!({
            "job": [{
                "id": job.id, "name": job.name, "description": "", "status": job.shown(), "failed": Self::failed(job),
                "elapsed": self.elapsed(job),
            }],
            "job_template": [self.template_summary(job.template)],
        });
        if let Some(user) = job.created_by {
            related["actor"] = json!(self.url("users", user));
            summary["actor"] = self.user_summary(user);
        }
        json!({
            "id": job.id, "type": "activity_stream", "url": self.url("activity_stream", job.id), "related": related,
            "summary_fields": summary, "timestamp": stamp(job.created), "operation": "create", "changes": changes,
            "object1": job.kind(), "object2": "", "object_association": "", "action_node": NODE, "object_type": "",
        })
    }
}

/// An inventory as `ansible-inventory --list` prints it: only the named hosts, or all enabled ones; `controller_vars` adds
/// what the controller knows of each host.
pub(in crate::aap) fn inventory_script(inventory: &Inventory, only: Option<&[String]>, host_vars: bool, controller_vars: bool) -> Value {
    let chosen = |name: &str| {
        inventory.hosts.values().any(|host| host.name == name && (only.is_some() || host.enabled))
            && only.is_none_or(|only| only.iter().any(|other| other == name))
    };
    let mut script = Map::new();
    let mut grouped: Vec<&str> = Vec::new();
    let mut roots: Vec<&str> = inventory.groups.values().map(|group| group.name.as_str()).collect();
    for group in inventory.groups.values() {
        roots.retain(|name| !group.children.iter().any(|child| child == name));
        let hosts: Vec<&str> = group.hosts.iter().map(String::as_str).filter(|name| chosen(name)).collect();
        grouped.extend(&hosts);
        let mut shown = Map::new();
        if !hosts.is_empty() {
            shown.insert("hosts".to_owned(), json!(hosts));
        }
        if !group.children.is_empty() {
            shown.insert("children".to_owned(), json!(group.children));
        }
        if !group.variables.is_empty() {
            shown.insert("vars".to_owned(), json!(group.variables));
        }
        if !shown.is_empty() {
            script.insert(group.name.clone(), Value::Object(shown));
        }
    }
    roots.retain(|name| script.contains_key(*name));
    let loose: Vec<&str> =
        inventory.hosts.values().map(|host| host.name.as_str()).filter(|name| chosen(name) && !grouped.contains(name)).collect();
    let mut all = Map::new();
    if !inventory.variables.is_empty() {
        all.insert("vars".to_owned(), json!(inventory.variables));
    }
    if !loose.is_empty() {
        all.insert("hosts".to_owned(), json!(loose));
    }
    if !roots.is_empty() {
        all.insert("children".to_owned(), json!(roots));
    }
    script.insert("all".to_owned(), Value::Object(all));
    if host_vars {
        let mut vars = Map::new();
        for (id, host) in inventory.hosts.iter().filter(|(_, host)| chosen(&host.name)) {
            let mut own = host.variables.clone();
            if controller_vars {
                for prefix in ["remote_host", "remote_tower"] {
                    own.insert(format!("{prefix}_enabled"), json!(host.enabled.to_string()));
                    own.insert(format!("{prefix}_id"), json!(id));
                }
            }
            vars.insert(host.name.clone(), Value::Object(own));
        }
        script.insert("_meta".to_owned(), json!({"hostvars": vars}));
    }
    Value::Object(script)
}

/// Level, display name, and whether the kind counts as a failure.
fn event_kind(kind: &str) -> (i64, &str, bool) {
    match kind {
        "playbook_on_start" => (0, "Playbook Started", false),
        "playbook_on_play_start" => (1, "Play Started", false),
        "playbook_on_stats" => (1, "Playbook Complete", false),
        "playbook_on_task_start" => (2, "Task Started", false),
        "playbook_on_handler_task_start" => (2, "Handler Started", false),
        "playbook_on_no_hosts_matched" => (1, "No Hosts Matched", false),
        "playbook_on_no_hosts_remaining" => (1, "No Hosts Remaining", true),
        "playbook_on_include" => (2, "Including File", false),
        "playbook_on_notify" => (2, "Handler Notified", false),
        "playbook_on_vars_prompt" => (2, "Variable Prompted", false),
        "runner_on_start" => (3, "Host Started", false),
        "runner_on_ok" => (3, "Host OK", false),
        "runner_on_failed" => (3, "Host Failed", true),
        "runner_on_unreachable" => (3, "Host Unreachable", true),
        "runner_on_skipped" => (3, "Host Skipped", false),
        "runner_retry" => (3, "Host Retry", false),
        "runner_item_on_ok" => (3, "Item OK", false),
        "runner_item_on_failed" => (3, "Item Failed", true),
        "runner_item_on_skipped" => (3, "Item Skipped", false),
        "runner_on_async_poll" => (3, "Host Polling", false),
        "runner_on_async_ok" => (3, "Host Async OK", false),
        "runner_on_async_failed" => (3, "Host Async Failure", true),
        "verbose" => (0, "Verbose", false),
        "warning" => (0, "Warning", false),
        "deprecated" => (0, "Deprecated", false),
        "error" => (0, "Error", false),
        other => (0, other, false),
    }
}

/// A runner's time in the API's form.
fn created(text: &str) -> String {
    let zoned = if text.ends_with('Z') || text.contains('+') { text.to_owned() } else { format!("{text}Z") };
    zoned.parse::<Timestamp>().map_or(zoned, stamp)
}

fn merge(row: &mut Value, more: Value) {
    if let (Value::Object(row), Value::Object(more)) = (row, more) {
        row.extend(more);
    }
}
