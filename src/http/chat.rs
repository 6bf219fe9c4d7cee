//! `POST /api/chat`: the sentences of [`crate::chat`], carried out with the caller's rights and answered in words.
//!
//! A run is started exactly as by `POST /api/run/{phase}`. The answer comes at once, or after the few seconds it takes to see what a run
//! waits for.

use std::{cmp::Reverse, fmt::Write as _, sync::Arc, time::Duration};

use axum::{Json, body::Body, extract::State};
use futures::StreamExt as _;
use http::{HeaderMap, StatusCode};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    App,
    auth::Identity,
    body,
    follow::Waited,
    history,
    problem::Problem,
    rates::Kind,
    start::{self, Ended, ended, is_over, owner},
};
use crate::{
    api::{
        patch_run::{FailedHost, Outcome, PatchRun, Phase, RunResult, State as RunState},
        shared::NameOrId,
    },
    archive::{Key, Owner, record::Record},
    chat::{Intent, LONGEST, SENTENCES, Target, understand},
    clock,
    history::{Filter, HostResult, Item, Question, Visible},
    run_request::RunRequest,
    runbooks::Library,
};

/// How long it is looked what a run that was just started waits for.
const LOOK: Duration = Duration::from_secs(3);
/// Phases that a history in words has at most.
const HISTORY: u16 = 10;
/// How long the history may take to keep a question.
const KEEPING: Duration = Duration::from_secs(2);
/// Bytes of a log that are quoted at most.
const TAIL: u64 = 2 << 10;
/// Characters of a procedure that are quoted at most.
const PROCEDURE: usize = 4000;

/// What somebody says.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// One sentence, for example `Precheck group 5`; `help` lists what is understood.
    #[schema(max_length = 1000, example = "Precheck group 5")]
    message: String,
}

/// The answer.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Whether the sentence was understood. When it was not, nothing was done.
    pub understood: bool,
    /// What it means: `run`, `status`, `why`, `log`, `history`, `cancel` or `help`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub intent: Option<&'static str>,
    /// The answer, for people.
    pub reply: String,
    /// The run it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<RunName>,
    /// Where its log can be downloaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_url: Option<String>,
}

/// Names a PatchRun.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct RunName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Understands one sentence, and carries it out
///
/// A sentence that is not understood does nothing: the answer lists those that are.
#[utoipa::path(post, path = "/api/chat", request_body = Message, responses((status = 200, description = "The answer.", body = Reply)))]
pub async fn post(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Json<Reply>, Problem> {
    let who = app.caller(&headers, Kind::Read).await?;
    let Message { message } = body::json(&headers, body, app.idle).await?;
    if message.chars().count() > LONGEST {
        return Err(Problem::unprocessable(format!("message may have at most {LONGEST} characters")));
    }
    let Some(intent) = understand(&message) else {
        let reply = format!("That I do not understand, and did nothing. I understand sentences like these:\n{}", sentences());
        keep(&app, &who, message, &reply).await;
        return Ok(Json(Reply { understood: false, intent: None, reply, run: None, log_url: None }));
    };
    let word = intent.word();
    let answered = Conversation { app: &app, who: &who }.answer(intent).await;
    let said = match answered {
        // what cannot be done is an answer too
        Err(problem) if matches!(problem.status(), StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_FOUND) => {
            Said::words(problem.detail())
        }
        answered => answered?,
    };
    let run = said.run.map(|owner| RunName { namespace: owner.namespace, name: owner.name });
    let reply = Reply { understood: true, intent: Some(word), reply: plain(&said.words), run, log_url: said.log_url };
    keep(&app, &who, message, &reply.reply).await;
    Ok(Json(reply))
}

/// Keeps question and answer in the history. That it cannot is a matter of the history, and not of who asks.
async fn keep(app: &App, who: &Identity, question: String, answer: &str) {
    let question = Question { asked_at: clock::now(), username: who.username.clone(), question, answer: answer.to_owned() };
    if !matches!(tokio::time::timeout(KEEPING, app.history.record_question(&question)).await, Ok(Ok(()))) {
        tracing::warn!(user = %who.username, "a question is not kept");
    }
}

fn sentences() -> String {
    SENTENCES.iter().map(|sentence| format!("- {sentence}\n")).collect::<Vec<_>>().concat()
}

/// Messages and logs quote hosts: nothing in them moves a cursor.
fn plain(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

/// An answer in words, and what it is about.
struct Said {
    words: String,
    run: Option<Owner>,
    log_url: Option<String>,
}

impl Said {
    fn words(words: impl Into<String>) -> Self {
        Self { words: words.into(), run: None, log_url: None }
    }
}

struct Conversation<'a> {
    app: &'a App,
    who: &'a Identity,
}

impl Conversation<'_> {
    async fn answer(&self, intent: Intent) -> Result<Said, Problem> {
        match intent {
            Intent::Help => Ok(Said::words(format!("I understand sentences like these:\n{}", sentences()))),
            Intent::Run { phase, group, kernel } => self.start(phase, group, kernel).await,
            Intent::Cancel(target) => self.cancel(target).await,
            Intent::Status(target) => {
                let (owner, run) = self.find(target).await?;
                Ok(Said { words: self.stands(&owner, &run), log_url: log_url(&run), run: Some(owner) })
            }
            Intent::Why(target) => {
                let (owner, run) = self.find(target).await?;
                let records = self.app.archive.records_of(&owner).await?;
                let runbooks = self.app.shelf.library(&owner.namespace).await;
                Ok(Said { words: why(&owner, &run, &records, &runbooks), log_url: log_url(&run), run: Some(owner) })
            }
            Intent::Log(target) => {
                let (owner, run) = self.find(target).await?;
                let words = self.tail(&owner, &run).await?;
                Ok(Said { words, log_url: log_url(&run), run: Some(owner) })
            }
            Intent::GroupHistory(group) => self.group_history(&group).await,
            Intent::HostHistory(host) => self.host_history(&host).await,
        }
    }

    /// The caller's namespace and connection, as far as they have defaults.
    fn defaults(&self) -> Option<(Option<String>, Option<String>)> {
        let configuration = self.app.configuration.borrow();
        let default = configuration.as_ref().ok()?.defaults.of(&self.who.username, self.who.groups())?;
        Some((default.namespace.clone(), default.connection.clone()))
    }

    /// The caller's namespace, when they may get the runs in it.
    async fn namespace(&self) -> Result<String, Problem> {
        let namespace = self.defaults().and_then(|(namespace, _)| namespace).ok_or_else(|| {
            Problem::unprocessable(
                "I do not know in which namespace: an administrator can set yours in RUN_DEFAULTS of the ConfigMap fettle-config. A run can be named \
                 with its namespace: status of run NAMESPACE/NAME.",
            )
        })?;
        if self.app.auth.may(self.who, "get", Some(&namespace), None).await? {
            Ok(namespace)
        } else {
            Err(Problem::new(StatusCode::FORBIDDEN, format!("you may not get PatchRuns in the namespace {namespace}")))
        }
    }

    /// The runs of a group in the caller's namespace, newest first.
    async fn of_group(&self, group: &NameOrId) -> Result<Vec<Arc<PatchRun>>, Problem> {
        let (namespace, group) = (self.namespace().await?, group.to_string());
        self.app.runs.of(&namespace, |run| run.spec.group.as_ref().is_some_and(|of| of.to_string() == group)).await
    }

    async fn find(&self, target: Target) -> Result<(Owner, Arc<PatchRun>), Problem> {
        match target {
            Target::Group(group) => {
                let run = self.of_group(&group).await?.into_iter().next();
                let run = run.ok_or_else(|| Problem::unprocessable(format!("There is no run of group {group}.")))?;
                Ok((owner(&run)?, run))
            }
            Target::Run { namespace, name } => {
                let namespace = match namespace {
                    Some(namespace) => namespace,
                    None => self.namespace().await?,
                };
                let owner = Owner::new(namespace, name).map_err(|_| Problem::not_found())?;
                if !self.app.auth.may_get(self.who, Some(&owner)).await? {
                    return Err(Problem::forbidden());
                }
                let run =
                    Api::<PatchRun>::namespaced(self.app.client.clone(), &owner.namespace).get_opt(&owner.name).await.map_err(|error| {
                        tracing::error!(%error, %owner, "the PatchRun cannot be read");
                        Problem::unavailable("the Kubernetes API server does not answer")
                    })?;
                let run = run.ok_or_else(|| Problem::unprocessable(format!("There is no run {owner}.")))?;
                Ok((owner, Arc::new(run)))
            }
        }
    }

    async fn start(&self, phase: Phase, group: NameOrId, kernel: Option<String>) -> Result<Said, Problem> {
        self.app.rates.admit(&self.who.username, Kind::Write)?;
        let mut words = String::new();
        let kernel = match kernel {
            None if phase != Phase::Precheck => {
                let known = self.last_kernel(&group).await?;
                let Some(known) = known else {
                    return Ok(Said::words(format!(
                        "Which kernel? {phase} needs one, and the last runs of group {group} do not tell. Say it with exactly what `uname -r` will say: \
                         {phase} group {group} kernel 6.1.0-53-cloud-amd64"
                    )));
                };
                words = format!("With kernel {known}, as in the last run of group {group}. ");
                Some(known)
            }
            kernel => kernel,
        };
        let request = RunRequest { group: group.clone(), desired_kernel: kernel, namespace: None, connection: None, start_by: None };
        let run = start::start(self.app, self.who, phase, request, None).await?;
        let owner = owner(&run)?;
        let tells = |run: &PatchRun| is_over(run) || run.status.as_ref().is_some_and(|status| status.state != RunState::Pending);
        let run = match self.app.runs.wait(&owner, run, Instant::now() + LOOK, tells).await {
            Waited::Reached(run) | Waited::Late(run) => run,
            Waited::Gone => return Ok(Said { words: format!("{words}The run {owner} was deleted."), run: Some(owner), log_url: None }),
        };
        words += &self.stands(&owner, &run);
        if !is_over(&run) {
            let _ = write!(words, " Ask again with: status of run {owner}");
        }
        Ok(Said { words, log_url: log_url(&run), run: Some(owner) })
    }

    /// The kernel of the last run of a group that has one, provided there is one answer.
    async fn last_kernel(&self, group: &NameOrId) -> Result<Option<String>, Problem> {
        let connection = self.defaults().and_then(|(_, connection)| connection);
        let mut runs = self.of_group(group).await?;
        runs.retain(|run| run.spec.desired_kernel.is_some() && connection.as_ref().is_none_or(|name| *name == run.spec.connection.name));
        let newest = runs.first().and_then(|run| run.metadata.creation_timestamp.as_ref().map(|at| at.0));
        let mut kernels: Vec<_> = runs
            .iter()
            .filter(|run| run.metadata.creation_timestamp.as_ref().map(|at| at.0) == newest || !is_over(run))
            .filter_map(|run| run.spec.desired_kernel.clone())
            .collect();
        kernels.sort();
        kernels.dedup();
        Ok(if kernels.len() == 1 { kernels.pop() } else { None })
    }

    /// How a run stands, in a sentence or two.
    fn stands(&self, owner: &Owner, run: &PatchRun) -> String {
        let status = run.status.clone().unwrap_or_default();
        let phases: Vec<&str> = run.spec.phases.iter().map(|phase| phase.as_str()).collect();
        let what = format!("{} of {}", phases.join(", "), about(run));
        let message = status.conditions.iter().find(|c| c.type_ == "Succeeded").map(|c| c.message.clone()).unwrap_or_default();
        let end = |text: &str| if text.is_empty() || text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") };
        let hosts = status.hosts.as_ref().map(|hosts| format!(" Hosts that ended well: {hosts}.")).unwrap_or_default();
        match (status.state, ended(self.app, owner, Some(run))) {
            (RunState::Completed, Ended::Ok) => format!("{what}: OK.{hosts} Run {owner}."),
            (RunState::Completed, Ended::Error { log_url }) => {
                let code = status.error_code.map(|code| format!(" {code}.")).unwrap_or_default();
                format!("{what}: ERROR.{code} {}{hosts} Log: {log_url} Run {owner}.", end(&message))
            }
            (RunState::AwaitingCredentials, _) => {
                format!("{what} waits for credentials, and starts by itself when they are there. {} Run {owner}.", end(&message))
            }
            (RunState::Pending, _) => format!("{what} waits. {} Run {owner}.", end(&message)),
            (state, _) => format!("{what}: {state:?}. {}{hosts} Run {owner}.", end(&message)),
        }
    }

    /// Ends a run that is not over, for who may change it.
    async fn cancel(&self, target: Target) -> Result<Said, Problem> {
        self.app.rates.admit(&self.who.username, Kind::Write)?;
        let (owner, run) = match target {
            Target::Group(group) => {
                let mut active = self.of_group(&group).await?;
                active.retain(|run| !is_over(run));
                match &active[..] {
                    [] => return Ok(Said::words(format!("There is nothing to cancel: no run of group {group} is under way."))),
                    [run] => (owner(run)?, Arc::clone(run)),
                    several => {
                        let names: Vec<String> = several.iter().map(|run| format!("cancel run {}", run.name_any())).collect();
                        return Ok(Said::words(format!("Several runs of group {group} are under way. Say which:\n{}", names.join("\n"))));
                    }
                }
            }
            target @ Target::Run { .. } => self.find(target).await?,
        };
        if !self.app.auth.may(self.who, "patch", Some(&owner.namespace), Some(&owner.name)).await? {
            return Err(Problem::new(StatusCode::FORBIDDEN, format!("you may not change the PatchRun {owner}")));
        }
        if is_over(&run) {
            return Ok(Said { words: format!("The run {owner} is over already."), run: Some(owner), log_url: log_url(&run) });
        }
        let steps = serde_json::json!([
            {"op": "test", "path": "/metadata/uid", "value": run.metadata.uid},
            {"op": "add", "path": "/spec/cancel", "value": true},
        ]);
        let patch =
            serde_json::from_value(steps).map(Patch::<PatchRun>::Json).map_err(|_| Problem::unavailable("the change cannot be written"))?;
        let api = Api::<PatchRun>::namespaced(self.app.client.clone(), &owner.namespace);
        match api.patch(&owner.name, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                return Ok(Said::words(format!("The run {owner} changed in this moment; nothing was cancelled. Say it again.")));
            }
            Err(error) => {
                tracing::error!(%error, %owner, "the PatchRun cannot be cancelled");
                return Err(Problem::unavailable("the Kubernetes API server does not answer; say it again"));
            }
        }
        tracing::info!(user = %self.who.username, %owner, "run cancelled");
        let words = format!(
            "The run {owner} of {} is being cancelled. What runs is stopped; a host that is cut off is reported as unknown.",
            about(&run)
        );
        Ok(Said { words, run: Some(owner), log_url: None })
    }

    /// The end of the latest log of a run.
    async fn tail(&self, owner: &Owner, run: &PatchRun) -> Result<String, Problem> {
        let status = run.status.clone().unwrap_or_default();
        let Some((phase, log)) = status.phases.iter().rev().find_map(|phase| Some((phase.name, phase.log.as_ref()?))) else {
            return Ok(format!("The run {owner} has no log yet. {}", self.stands(owner, run)));
        };
        let (Ok(key), Ok(size)) = (Key::parse(&log.id), u64::try_from(log.size)) else { return Err(Problem::not_found()) };
        let Some(opened) = self.app.archive.open_log(&key, Some(size.saturating_sub(TAIL)..size)).await? else {
            return Ok(format!("The log of {phase} of the run {owner} is not kept any more."));
        };
        let mut bytes = vec![];
        let mut stream = opened.stream;
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|_| Problem::unavailable("the archive is not available"))?);
        }
        let text = String::from_utf8_lossy(&bytes);
        // the first line is cut, unless it is the first of the log
        let lines = if size > TAIL { text.split_once('\n').map_or(&*text, |(_, rest)| rest) } else { &text };
        Ok(format!("The end of the log of {phase} of the run {owner} ({size} bytes; all of it is at the address of the log):\n{lines}"))
    }

    /// The caller's namespace, as the history knows it. 503 while it lacks records.
    async fn remembered(&self) -> Result<(String, Visible), Problem> {
        let namespace = self.namespace().await?;
        history::complete(self.app)?;
        Ok((namespace.clone(), Visible::Namespaces([namespace].into())))
    }

    async fn group_history(&self, group: &NameOrId) -> Result<Said, Problem> {
        let (namespace, visible) = self.remembered().await?;
        let filter = Filter { namespace: Some(namespace), group: Some(group.to_string()), ..Filter::default() };
        let page = self.app.history.page(&visible, &filter, HISTORY, None).await?;
        let line = |item: &Item| {
            let code = item.error_code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
            format!("- {} {} {}{code}: {} (run {}/{})", item.finished_at, item.phase, item.result, item.message, item.namespace, item.name)
        };
        Ok(Said::words(told(&format!("group {group}"), page.items.iter().map(line))))
    }

    async fn host_history(&self, host: &str) -> Result<Said, Problem> {
        let (namespace, visible) = self.remembered().await?;
        let views = self.app.history.host(&visible, host, Some(&namespace), None).await?;
        let mut results: Vec<_> = views.iter().flat_map(|view| &view.results).collect();
        results.sort_by_key(|result| Reverse(result.finished_at));
        let line = |result: &&HostResult| {
            let code = result.error_code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
            let message = result.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
            format!("- {} {} {}{code}{message} (run {namespace}/{})", result.finished_at, result.phase, result.outcome, result.name)
        };
        let mut words = told(&format!("host {host}"), results.iter().take(usize::from(HISTORY)).map(line));
        if let Some(kernel) = views.first().and_then(|view| view.facts.kernel.as_ref()) {
            let _ = write!(words, "\nIts kernel, as last seen: {kernel}");
        }
        Ok(Said::words(words))
    }
}

/// Where the log of a run is.
fn log_url(run: &PatchRun) -> Option<String> {
    run.status.as_ref().and_then(|status| status.log_url.clone())
}

/// What a run is about.
fn about(run: &PatchRun) -> String {
    match (&run.spec.group, &run.spec.hosts) {
        (Some(group), _) => format!("group {group}"),
        (None, hosts) => format!("{} hosts", hosts.as_ref().map_or(0, Vec::len)),
    }
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Changed => "changed",
        Outcome::Failed => "failed",
        Outcome::Unreachable => "unreachable",
        Outcome::Unknown => "unknown",
        Outcome::Missing => "missing",
    }
}

fn told(of: &str, lines: impl Iterator<Item = String>) -> String {
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        format!("Nothing is on record of {of}.")
    } else {
        format!("The last of {of}, newest first:\n{}", lines.join("\n"))
    }
}

/// Why a run failed: its phase, its hosts, the cause that a Runbook recognised, and what to do about it.
fn why(owner: &Owner, run: &PatchRun, records: &[Record], runbooks: &Library) -> String {
    let status = run.status.clone().unwrap_or_default();
    if status.result != Some(RunResult::Error) {
        let stands = if status.result.is_some() { "it ended with OK" } else { "it is not over" };
        return format!("The run {owner} of {} did not fail: {stands}.", about(run));
    }
    let condition = status.conditions.iter().find(|c| c.type_ == "Succeeded");
    let mut words = match condition {
        Some(condition) => format!("The run {owner} of {} failed ({}): {}", about(run), condition.reason, condition.message),
        None => format!("The run {owner} of {} failed.", about(run)),
    };
    let failed = status.phases.iter().find(|phase| phase.result == Some(RunResult::Error));
    if let Some(phase) = failed {
        let host = |host: &FailedHost| {
            let message = host.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
            format!("\n- {} {}{message}", host.name, outcome_word(host.outcome))
        };
        let hosts: String = phase.failed_hosts.iter().take(usize::from(HISTORY)).map(host).collect();
        if !hosts.is_empty() {
            let _ = write!(words, "\nHosts of {} that did not end well:{hosts}", phase.name);
        }
    }
    let classified = records
        .iter()
        .filter(|record| failed.is_some_and(|phase| phase.run_key == record.run_key))
        .find_map(|record| record.classification.as_ref());
    if let Some(evidence) = classified.and_then(|classified| classified.evidence.as_ref()) {
        let _ = write!(words, "\nLine {} of the log shows it: {}", evidence.line, evidence.excerpt);
    }
    if let Some(code) = classified.map(|classified| &classified.error_code).or(status.error_code.as_ref()) {
        let _ = write!(words, "\nError code: {code}.");
        if let Some(runbook) = runbooks.runbook(code) {
            let procedure: String = runbook.procedure.chars().take(PROCEDURE).collect();
            let _ = write!(words, " {}\n{}\nWhat to do:\n{procedure}", runbook.title, runbook.explanation);
        }
    }
    words
}
