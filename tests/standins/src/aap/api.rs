//! The REST API: who may call what, and what comes back. Every answer is computed under one lock.

mod launch;
mod metadata;
mod objects;
mod output;
mod query;
mod views;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::request::Parts;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use self::views::View;
pub(super) use self::views::{inventory_script, python_json};
use super::{
    Flavour, Shared,
    config::{Role, Template, User},
    faults::Action,
    state::Job,
    world::World,
};

/// Name of the one node.
pub(super) const NODE: &str = "awx-1";

const UNAUTHENTICATED: &str = "Authentication credentials were not provided. To establish a login session, visit /api/login/.";
const FORBIDDEN: &str = "You do not have permission to perform this action.";

/// One request, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: String,
    /// Decoded path.
    pub(super) path: String,
    /// Query as sent.
    pub(super) query_text: String,
    /// Query, decoded.
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Bytes,
    pub(super) authorization: String,
    pub(super) content_type: String,
    pub(super) accept: String,
    /// The caller's `X-API-Request-Id` when it is a UUID, else a new one.
    pub(super) request_id: String,
    pub(super) arrived: Timestamp,
    /// `/api/v2` or `/api/controller/v2`, as the caller used it.
    pub(super) base: &'static str,
    segments: Vec<String>,
}

impl Call {
    pub(super) fn new(head: &Parts, body: Bytes, arrived: Timestamp) -> Self {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let raw = head.uri.path();
        let (base, rest) = if let Some(rest) = raw.strip_prefix("/api/controller/v2") {
            ("/api/controller/v2", rest)
        } else if let Some(rest) = raw.strip_prefix("/api/v2") {
            ("/api/v2", rest)
        } else {
            ("", raw)
        };
        let query_text = head.uri.query().unwrap_or_default().to_owned();
        let request_id = header("x-api-request-id");
        let request_id = uuid::Uuid::parse_str(&request_id).map_or_else(|_| uuid::Uuid::new_v4().simple().to_string(), |_| request_id);
        Self {
            method: head.method.as_str().to_owned(),
            path: decode(raw),
            query: form_urlencoded::parse(query_text.as_bytes()).into_owned().collect(),
            query_text,
            body,
            authorization: header("authorization"),
            content_type: header("content-type"),
            accept: header("accept"),
            request_id,
            arrived,
            base,
            segments: rest.split('/').filter(|part| !part.is_empty()).map(decode).collect(),
        }
    }

    /// The path without the API prefix, with a slash at the end.
    pub(super) fn short_path(&self) -> String {
        self.segments.iter().fold("/".to_owned(), |path, segment| path + segment + "/")
    }

    /// [`short_path`](Self::short_path) with numbers and names of objects replaced by `{}`.
    pub(super) fn route(&self) -> String {
        let mut path = "/".to_owned();
        for (index, segment) in self.segments.iter().enumerate() {
            path.push_str(if index % 2 == 1 && !self.base.is_empty() { "{}" } else { segment });
            path.push('/');
        }
        path
    }

    /// A parameter of the query.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What an answer carries.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Empty,
    Json(Value),
    /// Content type and text.
    Text(&'static str, String),
}

/// What happens after the answer is computed, outside the lock.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    /// The queue is looked at.
    Wake,
    /// A running job is to be canceled, as this fault has it.
    Cancel(i64, Option<Action>),
    /// Answer and other effects are this late.
    Slow(Duration),
}

/// One answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
    pub(super) effects: Vec<Effect>,
}

impl Reply {
    fn new(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body, effects: Vec::new() }
    }

    pub(super) fn json(status: u16, value: Value) -> Self {
        Self::new(status, Body::Json(value))
    }

    pub(super) fn empty(status: u16) -> Self {
        Self::new(status, Body::Empty)
    }

    pub(super) fn html(status: u16, text: &str) -> Self {
        Self::new(status, Body::Text("text/html; charset=utf-8", text.to_owned()))
    }

    fn detail(status: u16, text: &str) -> Self {
        Self::json(status, json!({"detail": text}))
    }

    fn forbidden() -> Self {
        Self::detail(403, FORBIDDEN)
    }

    fn not_found(model: &str) -> Self {
        Self::detail(404, &format!("No {model} matches the given query."))
    }

    fn created(value: Value) -> Self {
        let location = value.get("url").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut reply = Self::json(201, value);
        reply.headers.push(("location", location));
        reply
    }

    fn with(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }
}

/// The HTML page of a status, as Django's or a proxy's.
pub(super) fn error_page(code: u16) -> String {
    match code {
        500 => "\n<!doctype html>\n<html lang=\"en\">\n<head>\n  <title>Server Error (500)</title>\n</head>\n<body>\n  <h1>Server Error (500)</h1><p></p>\n</body>\n</html>\n".to_owned(),
        _ => {
            let reason = http::StatusCode::from_u16(code).ok().and_then(|code| code.canonical_reason()).unwrap_or("Error");
            format!("<html>\r\n<head><title>{code} {reason}</title></head>\r\n<body>\r\n<center><h1>{code} {reason}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n")
        }
    }
}

/// Who signed in, and whether the token only reads.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    pub(super) user: User,
    read_only: bool,
}

/// The user behind the credentials of a request.
pub(super) fn signed_in(world: &World, call: &Call) -> Option<Signed> {
    if let Some(secret) = call.authorization.strip_prefix("Bearer ") {
        if world.tables.revoked.iter().any(|revoked| revoked == secret) {
            return None;
        }
        let configured = world.catalog.users.values().find_map(|user| {
            let token = user.config.tokens.iter().find(|token| token.token == secret)?;
            Some(Signed { user: user.clone(), read_only: token.scope == "read" })
        });
        return configured.or_else(|| {
            let token = world.tables.tokens.values().find(|token| token.token == secret)?;
            let user = world.catalog.users.get(&token.user)?.clone();
            Some(Signed { user, read_only: token.scope == "read" })
        });
    }
    let encoded = call.authorization.strip_prefix("Basic ")?;
    let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = pair.split_once(':')?;
    let user =
        world.catalog.users.values().find(|user| user.config.username == name && user.config.password.as_deref() == Some(password))?;
    Some(Signed { user: user.clone(), read_only: false })
}

/// One request being answered.
struct Api<'a> {
    shared: &'a Shared,
    world: &'a mut World,
    call: &'a Call,
    user: User,
    now: Timestamp,
}

type Answer = Result<Reply, Reply>;
type Handler = fn(&mut Api<'_>, &str) -> Answer;

const GET: &[&str] = &["GET", "HEAD", "OPTIONS"];
const GET_POST: &[&str] = &["GET", "POST", "HEAD", "OPTIONS"];
const GET_DELETE: &[&str] = &["GET", "DELETE", "HEAD", "OPTIONS"];
const DETAIL: &[&str] = &["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
const GET_POST_DELETE: &[&str] = &["GET", "POST", "DELETE", "HEAD", "OPTIONS"];

/// The table of resources: allowed methods, handler, key of the object.
fn resource<'s>(segments: &[&'s str]) -> Option<(&'static [&'static str], Handler, &'s str)> {
    let found: (&'static [&'static str], Handler, &'s str) = match *segments {
        ["config"] => (GET_POST_DELETE, objects::config, ""),
        ["me"] => (GET, objects::me, ""),
        ["metrics"] => (GET, objects::metrics, ""),
        ["settings", "jobs"] => (GET, objects::settings, ""),
        ["tokens"] => (GET_POST, objects::tokens, ""),
        ["tokens", id] => (DETAIL, objects::token, id),
        ["users"] => (GET_POST, objects::users, ""),
        ["users", id, "personal_tokens" | "tokens"] => (GET_POST, objects::personal_tokens, id),
        ["users", id] => (DETAIL, objects::user, id),
        ["organizations"] => (GET_POST, objects::organizations, ""),
        ["organizations", id] => (DETAIL, objects::organization, id),
        ["instance_groups"] => (GET_POST, objects::instance_groups, ""),
        ["inventories"] => (GET_POST, objects::inventories, ""),
        ["inventories", id] => (DETAIL, objects::inventory, id),
        ["inventories", id, "hosts"] => (GET_POST, objects::inventory_hosts, id),
        ["inventories", id, "groups"] => (GET_POST, objects::inventory_groups, id),
        ["inventories", id, "script"] => (GET, objects::script, id),
        ["hosts"] => (GET_POST, objects::hosts, ""),
        ["hosts", id] => (DETAIL, objects::host, id),
        ["hosts", id, "variable_data"] => (GET, objects::host_variables, id),
        ["hosts", id, "groups" | "all_groups"] => (GET_POST, objects::host_groups, id),
        ["hosts", id, "job_host_summaries"] => (GET, output::host_summaries, id),
        ["groups"] => (GET_POST, objects::groups, ""),
        ["groups", id] => (DETAIL, objects::group, id),
        ["groups", id, "hosts"] => (GET_POST, objects::group_hosts, id),
        ["groups", id, "all_hosts"] => (GET, objects::group_all_hosts, id),
        ["groups", id, "children"] => (GET_POST, objects::group_children, id),
        ["groups", id, "variable_data"] => (GET, objects::group_variables, id),
        ["labels"] => (GET_POST, objects::labels, ""),
        ["labels", id] => (DETAIL, objects::label, id),
        ["job_templates"] => (GET_POST, objects::templates, ""),
        ["job_templates", id] => (DETAIL, objects::template, id),
        ["job_templates", id, "launch"] => (GET_POST, launch::launch, id),
        ["job_templates", id, "survey_spec"] => (GET_POST_DELETE, objects::survey, id),
        ["job_templates", id, "jobs"] => (GET, objects::template_jobs, id),
        ["job_templates", id, "schedules"] => (GET_POST, launch::template_schedules, id),
        ["job_templates", id, "labels"] => (GET_POST, objects::template_labels, id),
        ["unified_job_templates"] => (GET, objects::templates, ""),
        ["schedules"] => (GET_POST, launch::schedules, ""),
        ["schedules", id] => (DETAIL, launch::schedule, id),
        ["schedules", id, "jobs"] => (GET, objects::schedule_jobs, id),
        ["jobs"] => (GET, objects::jobs, ""),
        ["jobs", id] => (GET_DELETE, objects::job, id),
        ["jobs", id, "cancel"] => (GET_POST, launch::cancel, id),
        ["jobs", id, "relaunch"] => (GET_POST, launch::relaunch, id),
        ["jobs", id, "stdout"] => (GET, output::stdout, id),
        ["jobs", id, "job_events"] => (GET, output::events, id),
        ["jobs", id, "job_host_summaries"] => (GET, output::summaries, id),
        ["jobs", id, "labels"] => (GET, objects::job_labels, id),
        ["jobs", id, "credentials"] => (GET, objects::job_credentials, id),
        ["jobs", id, "notifications"] => (GET, objects::nothing, id),
        ["unified_jobs"] => (GET, objects::unified_jobs, ""),
        ["workflow_jobs"] => (GET, objects::workflow_jobs, ""),
        ["workflow_jobs", id] => (GET_DELETE, objects::workflow_job, id),
        ["workflow_jobs", id, "cancel"] => (GET_POST, launch::cancel_workflow, id),
        ["workflow_jobs", id, "workflow_nodes"] => (GET, objects::workflow_nodes, id),
        ["activity_stream"] => (GET, objects::activity_stream, ""),
        _ => return None,
    };
    Some(found)
}

/// Answers a request.
pub(super) fn respond(shared: &Arc<Shared>, call: &Call) -> Reply {
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    if call.base.is_empty() || (shared.flavour == Flavour::Awx && call.base == "/api/controller/v2") {
        return roots(shared, call, &segments);
    }
    let now = shared.clock.now();
    let mut world = shared.lock();
    if segments.is_empty() {
        return open(call, Reply::json(200, views::resources(call.base)));
    }
    if segments == ["ping"] {
        return open(call, Reply::json(200, views::ping(&world, &shared.version, now)));
    }
    let Some((allowed, handler, key)) = resource(&segments) else {
        return Reply::html(404, "<h1>Not Found</h1><p>The requested resource was not found on this server.</p>");
    };
    let signed = signed_in(&world, call);
    let mut reply = match signed {
        None => {
            let mut reply = Reply::detail(401, UNAUTHENTICATED);
            reply.headers.push(("www-authenticate", "Bearer realm=api authorization_url=/api/o/authorize/".to_owned()));
            reply
        }
        Some(signed) if signed.read_only && !matches!(call.method.as_str(), "GET" | "HEAD" | "OPTIONS") => Reply::forbidden(),
        Some(_) if !allowed.contains(&call.method.as_str()) => Reply::detail(405, &format!("Method \"{}\" not allowed.", call.method)),
        Some(_) if call.method == "OPTIONS" => Reply::json(200, metadata::describe(&segments)),
        Some(signed) => {
            let mut api = Api { shared, world: &mut world, call, user: signed.user, now };
            handler(&mut api, key).unwrap_or_else(|refusal| refusal)
        }
    };
    reply.headers.push(("allow", allowed.join(", ")));
    reply
}

fn open(call: &Call, mut reply: Reply) -> Reply {
    if !GET.contains(&call.method.as_str()) {
        reply = Reply::detail(405, &format!("Method \"{}\" not allowed.", call.method));
    }
    reply.headers.push(("allow", GET.join(", ")));
    reply
}

/// `/api/` and what lies beside the versioned API.
fn roots(shared: &Shared, call: &Call, segments: &[&str]) -> Reply {
    let root = |base: &str, plain: bool| {
        let mut value = json!({
            "description": "AWX REST API",
            "current_version": format!("{base}v2/"),
            "available_versions": {"v2": format!("{base}v2/")},
            "custom_logo": "",
            "custom_login_info": "",
            "login_redirect_override": "",
        });
        if plain {
            value["oauth2"] = json!("/api/o/");
        }
        value
    };
    match (segments, shared.flavour) {
        (["api"], Flavour::Aap) => open(
            call,
            Reply::json(
                200,
                json!({
                    "description": "AAP gateway REST API",
                    "apis": {"gateway": "/api/gateway/", "controller": "/api/controller/"},
                }),
            ),
        ),
        (["api"], Flavour::Awx | Flavour::AwxPrefixed) => open(call, Reply::json(200, root("/api/", true))),
        (["api", "controller"], Flavour::AwxPrefixed | Flavour::Aap) => open(call, Reply::json(200, root("/api/controller/", false))),
        _ => Reply::html(404, "<h1>Not Found</h1><p>The requested resource was not found on this server.</p>"),
    }
}

impl Api<'_> {
    fn view(&self) -> View<'_> {
        View::new(self.world, self.call.base, &self.user, self.now)
    }

    fn is_post(&self) -> bool {
        self.call.method == "POST"
    }

    fn admin(&self) -> bool {
        self.user.config.role == Role::Admin
    }

    /// The JSON object of a request.
    fn body(&self) -> Result<Map<String, Value>, Reply> {
        if self.call.body.is_empty() {
            return Ok(Map::new());
        }
        if !self.call.content_type.starts_with("application/json") {
            return Err(Reply::detail(
                415,
                "You did not use correct Content-Type in your HTTP request. If you are using our REST API, the Content-Type must be application/json",
            ));
        }
        match serde_json::from_slice(&self.call.body) {
            Ok(Value::Object(body)) => Ok(body),
            Ok(other) => Err(Reply::detail(400, &format!("JSON parse error - not a JSON object\nPossible cause: {other}"))),
            Err(error) => Err(Reply::detail(400, &format!("JSON parse error - {error}\nPossible cause: trailing comma."))),
        }
    }

    fn has_role_on(&self, template: &Template, roles: &[Role]) -> bool {
        let listed = &self.user.config.templates;
        roles.contains(&self.user.config.role) && (self.admin() || listed.is_empty() || listed.contains(&template.config.name))
    }

    fn may_execute(&self, template: &Template) -> bool {
        self.has_role_on(template, &[Role::Admin, Role::Execute])
    }

    fn may_read(&self, template: &Template) -> bool {
        self.has_role_on(template, &[Role::Admin, Role::Execute, Role::Read])
    }

    fn may_read_inventory(&self, id: i64) -> bool {
        let listed = &self.user.config.inventories;
        self.admin()
            || self
                .world
                .catalog
                .inventories
                .get(&id)
                .is_some_and(|inventory| listed.iter().any(|name| name == "*" || *name == inventory.name))
    }

    fn may_read_job(&self, job: &Job) -> bool {
        self.admin()
            || job.created_by == Some(self.user.id)
            || self.world.catalog.templates.get(&job.template).is_some_and(|template| self.may_read(template))
    }

    fn may_cancel(&self, job: &Job) -> bool {
        self.admin() || job.created_by == Some(self.user.id) || {
            // A schedule's job is its maker's as well.
            let maker = job.schedule.and_then(|id| self.world.tables.schedules.get(&id)).map(|schedule| schedule.created_by);
            maker == Some(self.user.id)
        }
    }

    /// A template by number, named URL or bare name.
    fn find_template(&self, key: &str) -> Result<Template, Reply> {
        let templates = &self.world.catalog.templates;
        let found = match key.parse::<i64>() {
            Ok(id) => templates.get(&id),
            Err(_) => {
                let (name, organization) = key.split_once("++").map_or((key, None), |(name, rest)| (name, Some(rest)));
                templates.values().find(|template| {
                    template.config.name == name
                        && organization.is_none_or(|organization| {
                            self.world.catalog.organizations.get(&template.organization).is_some_and(|own| own.name == organization)
                        })
                })
            }
        };
        let template = found.ok_or_else(|| Reply::not_found("JobTemplate"))?;
        if self.may_read(template) { Ok(template.clone()) } else { Err(Reply::forbidden()) }
    }

    fn find_job(&self, key: &str, workflow: bool) -> Result<Job, Reply> {
        let model = if workflow { "WorkflowJob" } else { "Job" };
        let job = key
            .parse::<i64>()
            .ok()
            .and_then(|id| self.world.tables.jobs.get(&id))
            .filter(|job| job.workflow == workflow)
            .ok_or_else(|| Reply::not_found(model))?;
        if self.may_read_job(job) { Ok(job.clone()) } else { Err(Reply::forbidden()) }
    }
}
