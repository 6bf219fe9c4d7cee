//! What starts, schedules and ends jobs.

use serde_json::{Map, Value, json};

use super::{
    Answer, Api, Effect, Reply,
    objects::{may_label, may_use},
    query::{List, Row},
};
use crate::aap::{
    config::{PROMPTS, Question, Template},
    schedules::Rule,
    seconds_of,
    state::{Job, Schedule, Status},
    world::{Origin, World},
};

// ---- launching

pub(super) fn launch(api: &mut Api<'_>, key: &str) -> Answer {
    let template = api.find_template(key)?;
    if !api.is_post() {
        return Ok(Reply::json(200, api.view().launch_form(&template)));
    }
    let body = api.body()?;
    if !api.may_execute(&template) {
        return Err(Reply::forbidden());
    }
    let given = check_types(api, &body)?;
    let (accepted, ignored) = split(&template, given);
    refuse_foreign(api, &accepted)?;
    let mut errors = Map::new();
    let problems = survey_problems(&template, &accepted);
    if !problems.is_empty() {
        errors.insert("variables_needed_to_start".to_owned(), json!(problems));
    }
    if template.inventory.is_none() && !accepted.contains_key("inventory") {
        let message = "Job Template inventory is missing or undefined.";
        errors.insert("resources_needed_to_start".to_owned(), json!([message]));
    }
    if !errors.is_empty() {
        return Err(Reply::json(400, Value::Object(errors)));
    }
    let id = api.world.create_job(&template, &accepted, Origin::User(api.user.id), api.now);
    api.world.commit();
    let job = api.world.tables.jobs.get(&id).ok_or_else(|| Reply::not_found("Job"))?;
    let mut shown = api.view().launched(job);
    shown[job.kind()] = json!(id);
    shown["ignored_fields"] = Value::Object(ignored);
    Ok(Reply::created(shown).with(Effect::Wake))
}

/// Checks the form of every prompted field; unknown fields are left out without a word.
fn check_types(api: &Api<'_>, body: &Map<String, Value>) -> Result<Map<String, Value>, Reply> {
    let mut given = Map::new();
    let mut errors = Map::new();
    for (field, ..) in PROMPTS {
        let Some(value) = body.get(*field).filter(|value| !value.is_null()) else { continue };
        match check_type(api, field, value) {
            Ok(value) => {
                given.insert((*field).to_owned(), value);
            }
            Err(message) => {
                errors.insert((*field).to_owned(), json!([message]));
            }
        }
    }
    if errors.is_empty() { Ok(given) } else { Err(Reply::json(400, Value::Object(errors))) }
}

fn check_type(api: &Api<'_>, field: &str, value: &Value) -> Result<Value, String> {
    let catalog = &api.world.catalog;
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    let key = |value: &Value, exists: &dyn Fn(i64) -> bool| match number(value) {
        Some(id) if exists(id) => Ok(json!(id)),
        Some(id) => Err(format!("Invalid pk \"{id}\" - object does not exist.")),
        None => Err("Incorrect type. Expected pk value, received str.".to_owned()),
    };
    let keys = |exists: &dyn Fn(i64) -> bool| -> Result<Value, String> {
        let items = value.as_array().ok_or("Expected a list of items but got type \"str\".")?;
        items.iter().map(|item| key(item, exists)).collect()
    };
    match field {
        "extra_vars" => variables(value),
        "limit" | "job_tags" | "skip_tags" | "scm_branch" => match value {
            Value::String(_) => Ok(value.clone()),
            Value::Number(number) => Ok(json!(number.to_string())),
            _ => Err("Not a valid string.".to_owned()),
        },
        "job_type" => match value.as_str() {
            Some("run" | "check") => Ok(value.clone()),
            _ => Err(format!("\"{}\" is not a valid choice.", value.as_str().map_or_else(|| value.to_string(), str::to_owned))),
        },
        "diff_mode" => match value {
            Value::Bool(_) => Ok(value.clone()),
            Value::String(text) if matches!(text.as_str(), "true" | "True" | "1") => Ok(json!(true)),
            Value::String(text) if matches!(text.as_str(), "false" | "False" | "0") => Ok(json!(false)),
            _ => Err("Must be a valid boolean.".to_owned()),
        },
        "verbosity" => match number(value) {
            Some(level @ 0..=5) => Ok(json!(level)),
            _ => Err(format!("\"{value}\" is not a valid choice.")),
        },
        "forks" | "job_slice_count" | "timeout" => match number(value) {
            Some(count) if count >= 0 || field == "timeout" => Ok(json!(count)),
            Some(_) => Err("Ensure this value is greater than or equal to 0.".to_owned()),
            None => Err("A valid integer is required.".to_owned()),
        },
        "inventory" => key(value, &|id| catalog.inventories.contains_key(&id)),
        "execution_environment" => key(value, &|id| id == 1),
        "credentials" => keys(&|id| catalog.credentials.contains_key(&id)),
        "labels" => keys(&|id| api.world.tables.labels.contains_key(&id)),
        "instance_groups" => keys(&|id| id == 1 || id == 2),
        _ => Ok(value.clone()),
    }
}

/// Variables: an object, or a JSON or YAML text of one.
fn variables(value: &Value) -> Result<Value, String> {
    let text = match value {
        Value::Object(_) => return Ok(value.clone()),
        Value::String(text) if text.trim().is_empty() => return Ok(json!({})),
        Value::String(text) => text,
        _ => return Err("Expected an object.".to_owned()),
    };
    let json_error = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => return Ok(Value::Object(object)),
        Ok(_) => "Expecting value: line 1 column 1 (char 0)".to_owned(),
        Err(error) => error.to_string(),
    };
    match serde_yaml::from_str::<Value>(text) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(Value::Null) => Ok(json!({})),
        Ok(_) => Err(format!("Cannot parse as JSON (error: {json_error}) or YAML (error: not a mapping).")),
        Err(error) => Err(format!("Cannot parse as JSON (error: {json_error}) or YAML (error: {error}).")),
    }
}

/// Splits given values into accepted and ignored: what the template does not prompt for is ignored, with 201.
/// What equals the template's own value is neither.
fn split(template: &Template, given: Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let (mut accepted, mut ignored) = (Map::new(), Map::new());
    for (field, value) in given {
        if field == "extra_vars" {
            let (kept, dropped) = split_variables(template, value);
            if !kept.is_empty() {
                accepted.insert(field.clone(), Value::Object(kept));
            }
            if !dropped.is_empty() {
                ignored.insert(field, Value::Object(dropped));
            }
        } else if own_value(template, &field).as_ref() == Some(&value) {
        } else if template.asks(&field) {
            accepted.insert(field, value);
        } else {
            ignored.insert(field, value);
        }
    }
    (accepted, ignored)
}

/// Splits variables: survey answers are accepted without the prompt, the rest only with it.
fn split_variables(template: &Template, value: Value) -> (Map<String, Value>, Map<String, Value>) {
    let Value::Object(variables) = value else { return Default::default() };
    let asks = template.asks("extra_vars");
    let survey: Vec<&str> =
        template.config.survey.iter().flat_map(|survey| &survey.spec).map(|question| question.variable.as_str()).collect();
    variables.into_iter().partition(|(name, _)| asks || survey.contains(&name.as_str()))
}

fn own_value(template: &Template, field: &str) -> Option<Value> {
    let config = &template.config;
    Some(match field {
        "limit" => json!(config.limit),
        "job_tags" | "skip_tags" | "scm_branch" => json!(""),
        "job_type" => json!(config.job_type),
        "diff_mode" => json!(config.diff_mode),
        "verbosity" => json!(config.verbosity),
        "forks" => json!(config.forks),
        "timeout" => json!(config.timeout),
        "job_slice_count" => json!(config.job_slice_count),
        "inventory" => json!(template.inventory?),
        "credentials" => json!(template.credentials),
        "labels" | "instance_groups" => json!([]),
        _ => return None,
    })
}

/// Inventories, credentials and labels of the caller's own choice need rights on them.
fn refuse_foreign(api: &Api<'_>, accepted: &Map<String, Value>) -> Result<(), Reply> {
    let uses = accepted.contains_key("inventory") || accepted.contains_key("credentials");
    if (uses && !may_use(api)) || (accepted.contains_key("labels") && !may_label(api)) {
        return Err(Reply::forbidden());
    }
    Ok(())
}

/// What is wrong with the answers to the survey, in the controller's words.
fn survey_problems(template: &Template, accepted: &Map<String, Value>) -> Vec<String> {
    let answers = accepted.get("extra_vars").and_then(Value::as_object);
    let questions = template.config.survey.iter().flat_map(|survey| &survey.spec);
    questions.filter_map(|question| answer_problem(question, answers.and_then(|all| all.get(&question.variable)))).collect()
}

fn answer_problem(question: &Question, answer: Option<&Value>) -> Option<String> {
    let name = &question.variable;
    let Some(answer) = answer else {
        let default = !question.default.is_null() && question.default != json!("");
        return (question.required && !default).then(|| format!("'{name}' value missing"));
    };
    let shown = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
    match question.kind.as_str() {
        "text" | "textarea" | "password" => {
            let Some(text) = answer.as_str() else {
                return Some(format!("Value {shown} for '{name}' expected to be a string."));
            };
            let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
            if question.min.is_some_and(|min| length < min) {
                let min = question.min.unwrap_or_default();
                return Some(format!("'{name}' value {text} is too small (length is {length} must be at least {min})."));
            }
            if question.max.is_some_and(|max| length > max) {
                let max = question.max.unwrap_or_default();
                return Some(format!("'{name}' value {text} is too large (must be no more than {max})."));
            }
            None
        }
        "integer" => {
            let Some(number) = answer.as_i64() else {
                return Some(format!("Value {shown} for '{name}' expected to be an integer."));
            };
            if let Some(min) = question.min.filter(|min| number < *min) {
                return Some(format!("'{name}' value {number} is too small (must be at least {min})."));
            }
            if let Some(max) = question.max.filter(|max| number > *max) {
                return Some(format!("'{name}' value {number} is too large (must be no more than {max})."));
            }
            None
        }
        "float" if answer.as_f64().is_none() => Some(format!("Value {shown} for '{name}' expected to be a numeric type.")),
        "multiplechoice" => {
            let choices = choices(question);
            let listed = || choices.iter().map(|choice| format!("'{choice}'")).collect::<Vec<_>>().join(", ");
            (!choices.contains(&shown)).then(|| format!("Value {shown} for '{name}' expected to be one of [{}].", listed()))
        }
        _ => None,
    }
}

fn choices(question: &Question) -> Vec<String> {
    match &question.choices {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(lines)) => lines.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

// ---- ending and repeating

pub(super) fn cancel(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, false)?;
    cancel_job(api, &job)
}

pub(super) fn cancel_workflow(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, true)?;
    let reply = cancel_job(api, &job)?;
    if !api.is_post() {
        return Ok(reply);
    }
    let slices: Vec<Job> = api.world.tables.jobs.values().filter(|slice| slice.workflow_job == Some(job.id)).cloned().collect();
    let mut reply = reply;
    for slice in slices.iter().filter(|slice| !slice.status.is_terminal()) {
        reply.effects.extend(cancel_job(api, slice)?.effects);
    }
    Ok(reply)
}

fn cancel_job(api: &mut Api<'_>, job: &Job) -> Answer {
    let over = job.status.is_terminal() || job.shown() == "canceled";
    if !api.is_post() {
        return Ok(Reply::json(200, json!({"can_cancel": !over})));
    }
    if !api.may_cancel(job) {
        return Err(Reply::forbidden());
    }
    if over {
        return Err(Reply::detail(405, "Method \"POST\" not allowed."));
    }
    let fault = api.world.faults.on_cancel(&job.name);
    let slow = api.world.faults.dispatcher_dead();
    let mut reply = Reply::empty(202);
    if job.workflow {
        if let Some(workflow) = api.world.tables.jobs.get_mut(&job.id) {
            workflow.cancel_flag = true;
            if workflow.status == Status::Pending {
                api.world.cancel_unstarted(job.id, api.now);
            }
        }
        api.world.commit();
    } else if api.world.live.contains_key(&job.id) {
        reply = reply.with(Effect::Cancel(job.id, fault));
    } else if fault.is_none() {
        api.world.cancel_unstarted(job.id, api.now);
        api.world.commit();
    }
    if slow {
        reply = reply.with(Effect::Slow(seconds_of(api.world.timing.dead_cancel)));
    }
    Ok(reply.with(Effect::Wake))
}

pub(super) fn relaunch(api: &mut Api<'_>, key: &str) -> Answer {
    let job = api.find_job(key, false)?;
    let summaries = api.world.outputs.get(&job.id).map(|output| output.summaries.clone()).unwrap_or_default();
    let failed: Vec<&str> = summaries.iter().filter(|summary| summary.failed()).map(|summary| summary.host.as_str()).collect();
    if !api.is_post() {
        let counts = json!({"all": summaries.len(), "failed": failed.len()});
        return Ok(Reply::json(200, json!({"passwords_needed_to_start": [], "retry_counts": counts})));
    }
    let body = api.body()?;
    let template = api.find_template(&job.template.to_string())?;
    if !api.may_execute(&template) {
        return Err(Reply::forbidden());
    }
    let mut prompts = World::prompts_of(&job);
    match body.get("hosts").and_then(Value::as_str).unwrap_or("all") {
        "all" => {}
        "failed" if failed.is_empty() => {
            let message = "Cannot relaunch because previous job had 0 failed hosts.";
            return Err(Reply::json(400, json!({"hosts": message})));
        }
        "failed" => {
            prompts.insert("limit".to_owned(), json!(failed.join(",")));
        }
        other => return Err(Reply::json(400, json!({"hosts": [format!("\"{other}\" is not a valid choice.")]}))),
    }
    let id = api.world.create_job(&template, &prompts, Origin::Relaunch(api.user.id), api.now);
    api.world.commit();
    let job = api.world.tables.jobs.get(&id).ok_or_else(|| Reply::not_found("Job"))?;
    let mut shown = api.view().launched(job);
    shown[job.kind()] = json!(id);
    Ok(Reply::created(shown).with(Effect::Wake))
}

// ---- schedules

pub(super) fn find_schedule(api: &Api<'_>, key: &str) -> Result<Schedule, Reply> {
    let schedule = key.parse().ok().and_then(|id| api.world.tables.schedules.get(&id));
    let schedule = schedule.ok_or_else(|| Reply::not_found("Schedule"))?;
    let template = api.world.catalog.templates.get(&schedule.template);
    if template.is_none_or(|template| api.may_read(template)) { Ok(schedule.clone()) } else { Err(Reply::forbidden()) }
}

fn schedule_rows(api: &Api<'_>, template: Option<i64>) -> Vec<Row> {
    let view = api.view();
    api.world
        .tables
        .schedules
        .values()
        .filter(|schedule| template.is_none_or(|id| id == schedule.template))
        .filter(|schedule| api.may_ask_for("name", &schedule.name))
        .filter(|schedule| api.world.catalog.templates.get(&schedule.template).is_none_or(|template| api.may_read(template)))
        .map(|schedule| view.schedule_row(schedule))
        .collect()
}

pub(super) fn schedules(api: &mut Api<'_>, _: &str) -> Answer {
    if api.is_post() {
        let body = api.body()?;
        return create_schedule(api, body);
    }
    api.list(List::of("Schedule", "-next_run"), schedule_rows(api, None))
}

pub(super) fn template_schedules(api: &mut Api<'_>, key: &str) -> Answer {
    let template = api.find_template(key)?;
    if api.is_post() {
        let mut body = api.body()?;
        body.insert("unified_job_template".to_owned(), json!(template.id));
        return create_schedule(api, body);
    }
    api.list(List::of("Schedule", "-next_run"), schedule_rows(api, Some(template.id)))
}

fn create_schedule(api: &mut Api<'_>, mut body: Map<String, Value>) -> Answer {
    // A schedule calls its variables extra_data.
    body.remove("extra_vars");
    if let Some(data) = body.remove("extra_data") {
        body.insert("extra_vars".to_owned(), data);
    }
    let mut errors = Map::new();
    for field in ["name", "rrule", "unified_job_template"] {
        match body.get(field) {
            None => drop(errors.insert(field.to_owned(), json!(["This field is required."]))),
            Some(Value::String(text)) if text.is_empty() => {
                errors.insert(field.to_owned(), json!(["This field may not be blank."]));
            }
            Some(_) => {}
        }
    }
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.chars().count() > 512 {
        errors.insert("name".to_owned(), json!(["Ensure this field has no more than 512 characters."]));
    }
    let text = body.get("rrule").and_then(Value::as_str).unwrap_or_default().to_owned();
    let rule = Rule::parse(&text);
    if let Err(message) = &rule
        && !errors.contains_key("rrule")
    {
        errors.insert("rrule".to_owned(), json!([message]));
    }
    let template = body.get("unified_job_template").and_then(Value::as_i64);
    let template = template.and_then(|id| api.world.catalog.templates.get(&id)).cloned();
    if template.is_none() && !errors.contains_key("unified_job_template") {
        let shown = body.get("unified_job_template").cloned().unwrap_or_default();
        let message = format!("Invalid pk \"{shown}\" - object does not exist.");
        errors.insert("unified_job_template".to_owned(), json!([message]));
    }
    let (Ok(rule), Some(template), true) = (rule, template, errors.is_empty()) else {
        return Err(Reply::json(400, Value::Object(errors)));
    };
    if !api.may_execute(&template) {
        return Err(Reply::forbidden());
    }
    let prompts = schedule_prompts(api, &template, &body)?;
    let taken = api.world.tables.schedules.values().find(|other| other.template == template.id && other.name == name);
    if let Some(taken) = taken {
        // Two requests that were under way together meet at the database's constraint, a later one at the validation.
        if taken.created >= api.call.arrived {
            let message = format!(
                "duplicate key value violates unique constraint \"main_schedule_unified_job_template_id_name_uniq\"\nDETAIL:  Key (unified_job_template_id, name)=({}, {name}) already exists.\n",
                template.id
            );
            return Err(Reply::detail(400, &message));
        }
        let message = "Schedule with this Unified job template and Name already exists.";
        return Err(Reply::json(400, json!({"__all__": [message]})));
    }
    let enabled = body.get("enabled").and_then(Value::as_bool).unwrap_or(true);
    let schedule = Schedule {
        id: api.world.tables.next("schedule"),
        name,
        description: body.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
        template: template.id,
        next_run: rule.next_after(api.now).filter(|_| enabled),
        rule,
        rrule: text,
        enabled,
        prompts,
        created_by: api.user.id,
        created: api.now,
        modified: api.now,
    };
    api.world.tables.schedules.insert(schedule.id, schedule.clone());
    api.world.commit();
    Ok(Reply::created(api.view().schedule(&schedule)))
}

/// The prompted values of a schedule. Unlike a launch, what the template does not prompt for is refused.
fn schedule_prompts(api: &Api<'_>, template: &Template, body: &Map<String, Value>) -> Result<Map<String, Value>, Reply> {
    let rename = |error: Reply| match error.body {
        super::Body::Json(Value::Object(mut errors)) => {
            if let Some(message) = errors.remove("extra_vars") {
                errors.insert("extra_data".to_owned(), message);
            }
            Reply::json(400, Value::Object(errors))
        }
        _ => error,
    };
    let given = check_types(api, body).map_err(rename)?;
    let (accepted, ignored) = split(template, given);
    let mut errors = Map::new();
    for (field, value) in &ignored {
        if field == "extra_vars" {
            let names: Vec<&str> = value.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
            let message = format!(
                "Variables {} are not allowed on launch. Check the Prompt on Launch setting on the Job Template to include Extra Variables.",
                names.join(", ")
            );
            errors.insert("extra_data".to_owned(), json!([message]));
        } else {
            errors.insert(field.clone(), json!(["Field is not configured to prompt on launch."]));
        }
    }
    let problems = survey_problems(template, &accepted);
    if !problems.is_empty() {
        errors.insert("variables_needed_to_start".to_owned(), json!(problems));
    }
    if template.inventory.is_none() && !accepted.contains_key("inventory") {
        let message = "Job Template inventory is missing or undefined.";
        errors.insert("inventory".to_owned(), json!([message]));
    }
    if !errors.is_empty() {
        return Err(Reply::json(400, Value::Object(errors)));
    }
    refuse_foreign(api, &accepted)?;
    Ok(accepted)
}

pub(super) fn schedule(api: &mut Api<'_>, key: &str) -> Answer {
    let schedule = find_schedule(api, key)?;
    let mine = api.admin() || schedule.created_by == api.user.id;
    match api.call.method.as_str() {
        "DELETE" => {
            if !mine {
                return Err(Reply::forbidden());
            }
            api.world.tables.schedules.remove(&schedule.id);
            api.world.commit();
            Ok(Reply::empty(204))
        }
        "PATCH" | "PUT" => {
            let body = api.body()?;
            if !mine {
                return Err(Reply::forbidden());
            }
            change_schedule(api, schedule, &body)
        }
        _ => Ok(Reply::json(200, api.view().schedule(&schedule))),
    }
}

fn change_schedule(api: &mut Api<'_>, mut schedule: Schedule, body: &Map<String, Value>) -> Answer {
    if let Some(enabled) = body.get("enabled") {
        let Some(enabled) = enabled.as_bool() else {
            return Err(Reply::json(400, json!({"enabled": ["Must be a valid boolean."]})));
        };
        schedule.enabled = enabled;
    }
    if let Some(description) = body.get("description").and_then(Value::as_str) {
        description.clone_into(&mut schedule.description);
    }
    if let Some(rrule) = body.get("rrule").and_then(Value::as_str) {
        schedule.rule = Rule::parse(rrule).map_err(|message| Reply::json(400, json!({"rrule": [message]})))?;
        rrule.clone_into(&mut schedule.rrule);
    }
    if let Some(name) = body.get("name").and_then(Value::as_str) {
        let taken = api
            .world
            .tables
            .schedules
            .values()
            .any(|other| other.id != schedule.id && other.template == schedule.template && other.name == name);
        if taken {
            let message = "Schedule with this Unified job template and Name already exists.";
            return Err(Reply::json(400, json!({"__all__": [message]})));
        }
        name.clone_into(&mut schedule.name);
    }
    let mut prompted = body.clone();
    prompted.remove("extra_vars");
    if let Some(data) = prompted.remove("extra_data") {
        prompted.insert("extra_vars".to_owned(), data);
    }
    if PROMPTS.iter().any(|(field, ..)| prompted.contains_key(*field))
        && let Some(template) = api.world.catalog.templates.get(&schedule.template).cloned()
    {
        schedule.prompts.extend(schedule_prompts(api, &template, &prompted)?);
    }
    schedule.next_run = if schedule.enabled { schedule.rule.next_after(api.now) } else { None };
    schedule.modified = api.now;
    api.world.tables.schedules.insert(schedule.id, schedule.clone());
    api.world.commit();
    Ok(Reply::json(200, api.view().schedule(&schedule)))
}
