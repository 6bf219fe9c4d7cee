//! Everything that is read, and the few objects besides jobs and schedules that are made: labels and tokens.

use serde_json::{Value, json};

use super::{
    Answer, Api, Reply,
    query::{List, Row},
    views::inventory_script,
};
use crate::aap::{
    Flavour,
    config::{GroupConfig, HostConfig, Inventory, Role, User},
    state::{Job, Label, Token},
};

/// Creating and changing configured objects is not offered: they are in the configuration file.
fn not_offered() -> Reply {
    Reply::detail(501, "the stand-in takes these objects from its configuration")
}

fn read_only(api: &Api<'_>) -> Result<(), Reply> {
    if matches!(api.call.method.as_str(), "GET" | "HEAD") { Ok(()) } else { Err(not_offered()) }
}

pub(super) fn config(api: &mut Api<'_>, _: &str) -> Answer {
    read_only(api)?;
    let (product, license) = match api.shared.flavour {
        Flavour::Awx | Flavour::AwxPrefixed => ("AWX", "open"),
        Flavour::Aap => ("Red Hat Ansible Automation Platform", "enterprise"),
    };
    Ok(Reply::json(
        200,
        json!({
            "time_zone": "UTC",
            "license_info": {"license_type": license, "valid_key": true, "subscription_name": "OPEN", "product_name": product},
            "version": api.shared.version, "eula": "", "analytics_status": "off", "analytics_collectors": {},
            "become_methods": [["sudo", "Sudo"], ["su", "Su"]], "ui_next": true,
            "project_base_dir": "/var/lib/awx/projects/",
            "project_local_paths": api.world.catalog.projects.values().map(|project| project.name.clone()).collect::<Vec<_>>(),
            "custom_virtualenvs": [],
        }),
    ))
}

#[expect(clippy::unnecessary_wraps, reason = "every handler has this form")]
pub(super) fn me(api: &mut Api<'_>, _: &str) -> Answer {
    let me = api.view().account(&api.user);
    Ok(Reply::json(200, json!({"count": 1, "next": null, "previous": null, "results": [me]})))
}

#[expect(clippy::unnecessary_wraps, reason = "every handler has this form")]
pub(super) fn metrics(api: &mut Api<'_>, _: &str) -> Answer {
    let gauge = |text: &str, value: usize| json!({"help_text": text, "type": "gauge", "samples": [{"labels": {}, "value": value}]});
    Ok(Reply::json(
        200,
        json!({
            "awx_organizations_total": gauge("Number of organizations", api.world.catalog.organizations.len()),
            "awx_users_total": gauge("Number of users", api.world.catalog.users.len()),
            "awx_inventories_total": gauge("Number of inventories", api.world.catalog.inventories.len()),
            "awx_job_templates_total": gauge("Number of job templates", api.world.catalog.templates.len()),
            "awx_schedules_total": gauge("Number of schedules", api.world.tables.schedules.len()),
        }),
    ))
}

pub(super) fn settings(api: &mut Api<'_>, _: &str) -> Answer {
    if !api.admin() {
        return Err(Reply::forbidden());
    }
    Ok(Reply::json(
        200,
        json!({
            "ALLOW_JINJA_IN_EXTRA_VARS": "template", "STDOUT_MAX_BYTES_DISPLAY": super::output::DISPLAY_LIMIT,
            "EVENT_STDOUT_MAX_BYTES_DISPLAY": super::views::EVENT_STDOUT_LIMIT, "SCHEDULE_MAX_JOBS": 10,
            "DEFAULT_JOB_TIMEOUT": 0, "MAX_FORKS": 200,
        }),
    ))
}

pub(super) fn instance_groups(api: &mut Api<'_>, _: &str) -> Answer {
    read_only(api)?;
    let rows = ["controlplane", "default"].iter().zip(1..).map(|(name, id)| {
        let url = format!("{}/instance_groups/{id}/", api.call.base);
        let jobs = if id == 2 { api.world.tables.jobs.values().filter(|job| job.started.is_some()).count() } else { 0 };
        Row::plain(json!({
            "id": id, "type": "instance_group", "url": url,
            "related": {
                "jobs": format!("{url}jobs/"), "instances": format!("{url}instances/"),
                "access_list": format!("{url}access_list/"), "object_roles": format!("{url}object_roles/"),
            },
            "name": name, "created": "2026-11-01T00:00:00.000001Z", "modified": "2026-11-01T00:00:00.000001Z",
            "capacity": 220, "consumed_capacity": 0, "percent_capacity_remaining": 100.0,
            "jobs_running": api.world.live.len(), "max_concurrent_jobs": 0, "max_forks": 0, "jobs_total": jobs,
            "instances": 1, "is_container_group": false, "credential": null, "policy_instance_percentage": 100,
            "policy_instance_minimum": 0, "policy_instance_list": [], "pod_spec_override": "",
            "summary_fields": {
                "object_roles": {
                    "admin_role": {"description": "Can manage all aspects of the instance group", "name": "Admin", "id": id * 10},
                    "use_role": {"description": "Can use the instance group in a job template", "name": "Use", "id": id * 10 + 1},
                    "read_role": {"description": "May view settings for the instance group", "name": "Read", "id": id * 10 + 2},
                },
                "user_capabilities": {"edit": api.admin(), "delete": false},
            },
        }))
    });
    api.list(List::of("InstanceGroup", "id"), rows.collect())
}

// ---- users and tokens

pub(super) fn users(api: &mut Api<'_>, _: &str) -> Answer {
    read_only(api)?;
    let view = api.view();
    let visible = |user: &&User| api.admin() || user.id == api.user.id;
    let rows = api.world.catalog.users.values().filter(visible).map(|user| Row::plain(view.account(user))).collect();
    api.list(List::of("User", "id"), rows)
}

fn find_user(api: &Api<'_>, key: &str) -> Result<User, Reply> {
    let users = &api.world.catalog.users;
    let found = key.parse().ok().and_then(|id| users.get(&id));
    found.or_else(|| users.values().find(|user| user.config.username == key)).cloned().ok_or_else(|| Reply::not_found("User"))
}

pub(super) fn user(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let user = find_user(api, key)?;
    let mut shown = api.view().account(&user);
    shown["related"]["named_url"] = json!(format!("{}/users/{}/", api.call.base, user.config.username));
    Ok(Reply::json(200, shown))
}

pub(super) fn tokens(api: &mut Api<'_>, _: &str) -> Answer {
    if api.is_post() {
        let owner = api.user.id;
        return create_token(api, owner);
    }
    let view = api.view();
    let mine = |token: &&Token| api.admin() || token.user == api.user.id;
    let rows = api.world.tables.tokens.values().filter(mine).map(|token| Row::plain(view.token(token, false))).collect();
    api.list(List::of("OAuth2AccessToken", "id"), rows)
}

pub(super) fn personal_tokens(api: &mut Api<'_>, key: &str) -> Answer {
    let owner = find_user(api, key)?;
    if owner.id != api.user.id && !api.admin() {
        return Err(Reply::forbidden());
    }
    if api.is_post() {
        return create_token(api, owner.id);
    }
    let view = api.view();
    let tokens = api.world.tables.tokens.values().filter(|token| token.user == owner.id);
    let rows = tokens.map(|token| Row::plain(view.token(token, false))).collect();
    api.list(List::of("OAuth2AccessToken", "id"), rows)
}

fn create_token(api: &mut Api<'_>, user: i64) -> Answer {
    let body = api.body()?;
    let text = |name: &str, default: &str| body.get(name).and_then(Value::as_str).unwrap_or(default).to_owned();
    let token = Token {
        id: api.world.tables.next("token"),
        token: uuid::Uuid::new_v4().simple().to_string()[..30].to_owned(),
        user,
        scope: text("scope", "write"),
        description: text("description", ""),
        created: api.now,
    };
    api.world.tables.tokens.insert(token.id, token.clone());
    api.world.commit();
    Ok(Reply::created(api.view().token(&token, true)))
}

pub(super) fn token(api: &mut Api<'_>, key: &str) -> Answer {
    let token = key
        .parse()
        .ok()
        .and_then(|id| api.world.tables.tokens.get(&id))
        .filter(|token| api.admin() || token.user == api.user.id)
        .cloned()
        .ok_or_else(|| Reply::not_found("OAuth2AccessToken"))?;
    if api.call.method == "DELETE" {
        api.world.tables.tokens.remove(&token.id);
        api.world.commit();
        return Ok(Reply::empty(204));
    }
    read_only(api)?;
    Ok(Reply::json(200, api.view().token(&token, false)))
}

// ---- organizations, labels

pub(super) fn organizations(api: &mut Api<'_>, _: &str) -> Answer {
    read_only(api)?;
    let view = api.view();
    let rows = api.world.catalog.organizations.values();
    api.list(List::of("Organization", "name"), rows.map(|row| Row::plain(view.organization(row.id, &row.name))).collect())
}

pub(super) fn organization(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let organizations = &api.world.catalog.organizations;
    let found = key.parse().ok().and_then(|id| organizations.get(&id));
    let found = found
        .or_else(|| organizations.values().find(|organization| organization.name == key))
        .ok_or_else(|| Reply::not_found("Organization"))?;
    Ok(Reply::json(200, api.view().organization(found.id, &found.name)))
}

fn sees_labels(api: &Api<'_>) -> bool {
    api.admin() || api.user.config.member
}

pub(super) fn labels(api: &mut Api<'_>, _: &str) -> Answer {
    if api.is_post() {
        return create_label(api);
    }
    let view = api.view();
    let visible = sees_labels(api);
    let rows = api.world.tables.labels.values().filter(|_| visible).map(|label| Row {
        shown: view.label(label, false),
        related: json!({"organization": {
            "id": label.organization,
            "name": api.world.catalog.organizations.get(&label.organization).map(|organization| organization.name.clone()),
        }}),
    });
    api.list(List::of("Label", "name"), rows.collect())
}

fn create_label(api: &mut Api<'_>) -> Answer {
    let body = api.body()?;
    if !sees_labels(api) {
        return Err(Reply::forbidden());
    }
    let required = |field: &str| Reply::json(400, json!({field: ["This field is required."]}));
    let name = body.get("name").and_then(Value::as_str).ok_or_else(|| required("name"))?.to_owned();
    let organization = body.get("organization").and_then(Value::as_i64).ok_or_else(|| required("organization"))?;
    if !api.world.catalog.organizations.contains_key(&organization) {
        let message = format!("Invalid pk \"{organization}\" - object does not exist.");
        return Err(Reply::json(400, json!({"organization": [message]})));
    }
    if api.world.tables.labels.values().any(|label| label.name == name && label.organization == organization) {
        return Err(Reply::json(400, json!({"__all__": ["Label with this Name and Organization already exists."]})));
    }
    let label = Label { id: api.world.tables.next("label"), name, organization, created_by: api.user.id, created: api.now };
    api.world.tables.labels.insert(label.id, label.clone());
    api.world.commit();
    Ok(Reply::created(api.view().label(&label, true)))
}

pub(super) fn label(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let label = key.parse().ok().and_then(|id| api.world.tables.labels.get(&id)).ok_or_else(|| Reply::not_found("Label"))?;
    if !sees_labels(api) {
        return Err(Reply::forbidden());
    }
    Ok(Reply::json(200, api.view().label(label, true)))
}

// ---- inventories, hosts, groups

impl Api<'_> {
    fn find_inventory(&self, key: &str) -> Result<Inventory, Reply> {
        let inventories = &self.world.catalog.inventories;
        let found = match key.parse::<i64>() {
            Ok(id) => inventories.get(&id),
            Err(_) => {
                let (name, organization) = key.split_once("++").map_or((key, None), |(name, rest)| (name, Some(rest)));
                inventories.values().find(|inventory| {
                    inventory.name == name
                        && organization.is_none_or(|organization| {
                            let own = self.world.catalog.organizations.get(&inventory.organization);
                            own.is_some_and(|own| own.name == organization)
                        })
                })
            }
        };
        let inventory = found.ok_or_else(|| Reply::not_found("Inventory"))?;
        if self.may_read_inventory(inventory.id) { Ok(inventory.clone()) } else { Err(Reply::forbidden()) }
    }

    fn find_host(&self, key: &str) -> Result<(Inventory, i64, HostConfig), Reply> {
        let parts: Vec<&str> = key.split("++").collect();
        let id = key.parse::<i64>().ok();
        for inventory in self.world.catalog.inventories.values() {
            let found = inventory
                .hosts
                .iter()
                .find(|(number, host)| id == Some(**number) || (parts.len() > 1 && host.name == parts[0] && inventory.name == parts[1]));
            if let Some((number, host)) = found {
                if !self.may_read_inventory(inventory.id) {
                    return Err(Reply::forbidden());
                }
                return Ok((inventory.clone(), *number, host.clone()));
            }
        }
        Err(Reply::not_found("Host"))
    }

    fn find_group(&self, key: &str) -> Result<(Inventory, i64, GroupConfig), Reply> {
        let parts: Vec<&str> = key.split("++").collect();
        let id = key.parse::<i64>().ok();
        for inventory in self.world.catalog.inventories.values() {
            let found = inventory
                .groups
                .iter()
                .find(|(number, group)| id == Some(**number) || (parts.len() > 1 && group.name == parts[0] && inventory.name == parts[1]));
            if let Some((number, group)) = found {
                if !self.may_read_inventory(inventory.id) {
                    return Err(Reply::forbidden());
                }
                return Ok((inventory.clone(), *number, group.clone()));
            }
        }
        Err(Reply::not_found("Group"))
    }

    fn host_rows(&self, inventory: &Inventory, only: Option<&[&str]>) -> Vec<Row> {
        let view = self.view();
        inventory
            .hosts
            .iter()
            .filter(|(_, host)| only.is_none_or(|only| only.contains(&host.name.as_str())))
            .map(|(id, host)| view.host_row(inventory, *id, host))
            .collect()
    }

    fn group_rows(&self, inventory: &Inventory, keep: impl Fn(&GroupConfig) -> bool) -> Vec<Row> {
        let view = self.view();
        let groups = inventory.groups.iter().filter(|(_, group)| keep(group));
        groups.map(|(id, group)| view.group_row(inventory, *id, group)).collect()
    }

    fn visible_inventories(&self) -> Vec<&Inventory> {
        self.world.catalog.inventories.values().filter(|inventory| self.may_read_inventory(inventory.id)).collect()
    }
}

pub(super) fn inventories(api: &mut Api<'_>, _: &str) -> Answer {
    read_only(api)?;
    let view = api.view();
    let rows = api.visible_inventories().into_iter().map(|inventory| view.inventory_row(inventory)).collect();
    api.list(List::of("Inventory", "name"), rows)
}

pub(super) fn inventory(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let inventory = api.find_inventory(key)?;
    Ok(Reply::json(200, api.view().inventory(&inventory, true)))
}

pub(super) fn inventory_hosts(api: &mut Api<'_>, key: &str) -> Answer {
    let inventory = api.find_inventory(key)?;
    if api.is_post() {
        let body = api.body()?;
        let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
        if inventory.host_id(name).is_some() {
            return Err(Reply::json(400, json!({"__all__": ["Host with this Name and Inventory already exists."]})));
        }
        return Err(not_offered());
    }
    api.list(List::of("Host", "name"), api.host_rows(&inventory, None))
}

pub(super) fn inventory_groups(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let inventory = api.find_inventory(key)?;
    api.list(List::of("Group", "name"), api.group_rows(&inventory, |_| true))
}

pub(super) fn script(api: &mut Api<'_>, key: &str) -> Answer {
    let inventory = api.find_inventory(key)?;
    let flag = |name: &str| api.call.parameter(name).is_some_and(|value| value == "1" || value == "true");
    if let Some(name) = api.call.parameter("host") {
        let host = inventory.hosts.values().find(|host| host.name == name).ok_or_else(|| Reply::not_found("Host"))?;
        return Ok(Reply::json(200, json!(host.variables)));
    }
    let mut names: Vec<String> = inventory.hosts.values().map(|host| host.name.clone()).collect();
    names.sort();
    let only = flag("all").then_some(names.as_slice());
    Ok(Reply::json(200, inventory_script(&inventory, only, flag("hostvars"), flag("towervars"))))
}

pub(super) fn hosts(api: &mut Api<'_>, _: &str) -> Answer {
    read_only(api)?;
    let mut rows: Vec<Row> = api.visible_inventories().into_iter().flat_map(|inventory| api.host_rows(inventory, None)).collect();
    if let Some(text) = api.call.parameter("host_filter").map(str::to_owned) {
        rows = host_filter(api, rows, &text)?;
    }
    api.list(List::of("Host", "name"), rows)
}

/// The plainest form of `host_filter`: `field=value and field=value`.
fn host_filter(api: &Api<'_>, rows: Vec<Row>, text: &str) -> Result<Vec<Row>, Reply> {
    let mut call = api.call.clone();
    call.query = text
        .split(" and ")
        .map(|pair| pair.trim().split_once('='))
        .map(|pair| pair.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Reply::detail(400, &format!("Invalid query {text}")))?;
    super::query::filter(List::of("Host", "name"), rows, &call.query)
}

pub(super) fn host(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let (inventory, id, host) = api.find_host(key)?;
    Ok(Reply::json(200, api.view().host(&inventory, id, &host, true)))
}

pub(super) fn host_variables(api: &mut Api<'_>, key: &str) -> Answer {
    let (_, _, host) = api.find_host(key)?;
    Ok(Reply::json(200, json!(host.variables)))
}

pub(super) fn host_groups(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let (inventory, _, host) = api.find_host(key)?;
    let rows = api.group_rows(&inventory, |group| group.hosts.contains(&host.name));
    api.list(List::of("Group", "name"), rows)
}

pub(super) fn groups(api: &mut Api<'_>, _: &str) -> Answer {
    read_only(api)?;
    let rows = api.visible_inventories().into_iter().flat_map(|inventory| api.group_rows(inventory, |_| true)).collect();
    api.list(List::of("Group", "name"), rows)
}

pub(super) fn group(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let (inventory, id, group) = api.find_group(key)?;
    Ok(Reply::json(200, api.view().group(&inventory, id, &group, true)))
}

pub(super) fn group_variables(api: &mut Api<'_>, key: &str) -> Answer {
    let (_, _, group) = api.find_group(key)?;
    Ok(Reply::json(200, json!(group.variables)))
}

pub(super) fn group_hosts(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let (inventory, _, group) = api.find_group(key)?;
    let names: Vec<&str> = group.hosts.iter().map(String::as_str).collect();
    api.list(List::of("Host", "name"), api.host_rows(&inventory, Some(&names)))
}

pub(super) fn group_all_hosts(api: &mut Api<'_>, key: &str) -> Answer {
    let (inventory, _, group) = api.find_group(key)?;
    let names = inventory.members(&group.name);
    api.list(List::of("Host", "name"), api.host_rows(&inventory, Some(&names)))
}

pub(super) fn group_children(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let (inventory, _, group) = api.find_group(key)?;
    let rows = api.group_rows(&inventory, |other| group.children.contains(&other.name));
    api.list(List::of("Group", "name"), rows)
}

// ---- templates

pub(super) fn templates(api: &mut Api<'_>, _: &str) -> Answer {
    read_only(api)?;
    let view = api.view();
    let visible = api.world.catalog.templates.values().filter(|template| api.may_read(template));
    let rows = visible.map(|template| view.template_row(template)).collect();
    api.list(List::of("JobTemplate", "name"), rows)
}

pub(super) fn template(api: &mut Api<'_>, key: &str) -> Answer {
    let template = api.find_template(key)?;
    if api.call.method == "DELETE" {
        if !api.admin() {
            return Err(Reply::forbidden());
        }
        let jobs = api.world.tables.jobs.values();
        let active: Vec<Value> = jobs
            .filter(|job| job.template == template.id && !job.status.is_terminal())
            .map(|job| json!({"id": job.id, "type": job.kind()}))
            .collect();
        if !active.is_empty() {
            let body = json!({"error": "Resource is being used by running jobs.", "active_jobs": active});
            return Err(Reply::json(409, body));
        }
    }
    read_only(api)?;
    Ok(Reply::json(200, api.view().template(&template, true)))
}

pub(super) fn survey(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    let template = api.find_template(key)?;
    let mut shown = match &template.config.survey {
        Some(survey) => json!(survey),
        None => json!({}),
    };
    // Defaults of passwords are not shown.
    for question in shown.get_mut("spec").and_then(Value::as_array_mut).into_iter().flatten() {
        if question["type"] == json!("password") && question["default"] != json!("") && !question["default"].is_null() {
            question["default"] = json!("$encrypted$");
        }
    }
    Ok(Reply::json(200, shown))
}

pub(super) fn template_labels(api: &mut Api<'_>, key: &str) -> Answer {
    read_only(api)?;
    api.find_template(key)?;
    api.list(List::of("Label", "name"), Vec::new())
}

// ---- jobs

impl Api<'_> {
    fn job_list(&self, list: List, keep: impl Fn(&Job) -> bool) -> Answer {
        let view = self.view();
        let schedule = |job: &Job| job.schedule.and_then(|id| self.world.tables.schedules.get(&id)).map_or("", |found| found.name.as_str());
        let asked = |job: &Job| self.may_ask_for("id", &job.id.to_string()) && self.may_ask_for("schedule__name", schedule(job));
        let jobs = self.world.tables.jobs.values().filter(|job| keep(job) && asked(job) && self.may_read_job(job));
        self.list(list, jobs.map(|job| view.job_list_row(job)).collect())
    }
}

pub(super) fn jobs(api: &mut Api<'_>, _: &str) -> Answer {
    api.job_list(List::of("Job", "id"), |job| !job.workflow)
}

pub(super) fn unified_jobs(api: &mut Api<'_>, _: &str) -> Answer {
    api.job_list(List::of("UnifiedJob", "id"), |_| true)
}

pub(super) fn workflow_jobs(api: &mut Api<'_>, _: &str) -> Answer {
    api.job_list(List::of("WorkflowJob", "id"), |job| job.workflow)
}

pub(super) fn template_jobs(api: &mut Api<'_>, key: &str) -> Answer {
    let template = api.find_template(key)?;
    api.job_list(List::of("Job", "id"), |job| !job.workflow && job.template == template.id)
}

pub(super) fn schedule_jobs(api: &mut Api<'_>, key: &str) -> Answer {
    let id = super::launch::find_schedule(api, key)?.id;
    api.job_list(List::of("UnifiedJob", "id"), |job| job.schedule == Some(id))
}

fn delete_job(api: &mut Api<'_>, job: &Job) -> Answer {
    if !api.admin() {
        return Err(Reply::forbidden());
    }
    if !job.status.is_terminal() {
        return Err(Reply::detail(403, "Cannot delete running job resource."));
    }
    api.world.purge(job.id);
    api.world.commit();
    Ok(Reply::empty(204))
}

pub(super) fn job(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, false)?;
    if api.call.method == "DELETE" {
        return delete_job(api, &job);
    }
    Ok(Reply::json(200, api.view().job_detail(&job)))
}

pub(super) fn workflow_job(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, true)?;
    if api.call.method == "DELETE" {
        return delete_job(api, &job);
    }
    Ok(Reply::json(200, api.view().job_detail(&job)))
}

pub(super) fn workflow_nodes(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, true)?;
    let view = api.view();
    let nodes = api.world.tables.nodes.values().filter(|node| node.workflow_job == job.id);
    api.list(List::of("WorkflowJobNode", "id"), nodes.map(|node| Row::plain(view.node(node))).collect())
}

pub(super) fn job_labels(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, false)?;
    let view = api.view();
    let labels = job.labels.iter().filter_map(|id| api.world.tables.labels.get(id));
    api.list(List::of("Label", "name"), labels.map(|label| Row::plain(view.label(label, false))).collect())
}

pub(super) fn job_credentials(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, false)?;
    let view = api.view();
    api.list(List::of("Credential", "name"), job.credentials.iter().filter_map(|id| view.credential(*id)).map(Row::plain).collect())
}

pub(super) fn nothing(api: &mut Api<'_>, key: &str) -> Answer {
    api.find_job(key, false)?;
    api.list(List::of("Notification", "id"), Vec::new())
}

pub(super) fn activity_stream(api: &mut Api<'_>, _: &str) -> Answer {
    let view = api.view();
    let jobs = api.world.tables.jobs.values().filter(|job| api.may_read_job(job));
    let rows = jobs
        .map(|job| {
            let shown = view.activity(job);
            let related = json!({"changes": shown["changes"].to_string()});
            Row { shown, related }
        })
        .collect();
    api.list(List::of("ActivityStream", "id"), rows)
}

/// Whether the user may use inventories and credentials of their own choice in a launch.
pub(super) fn may_use(api: &Api<'_>) -> bool {
    api.user.config.role == Role::Admin
}

/// Whether the user may attach this label.
pub(super) fn may_label(api: &Api<'_>) -> bool {
    sees_labels(api)
}
