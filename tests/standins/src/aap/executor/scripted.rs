//! An executor that plays a script: per-host results, artifacts, duration, all decided by the test.

use std::{collections::BTreeMap, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use serde_json::{Map, Value, json};

use super::{Assignment, Executor, Feed, News, Outcome};

/// What happens on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostResult {
    /// Fine, nothing changed.
    Ok,
    /// Fine, something changed.
    Changed,
    /// A task failed, with this message.
    Failed(String),
    /// The host could not be reached, for this reason.
    Unreachable(String),
    /// A task failed and the playbook ignored it.
    Ignored(String),
    /// Every task was skipped.
    Skipped,
}

/// How a job goes.
#[derive(Debug, Clone)]
pub struct Script {
    hosts: BTreeMap<String, HostResult>,
    reports: BTreeMap<String, Value>,
    artifacts: Map<String, Value>,
    text: Vec<String>,
    duration: Duration,
    held: bool,
    outcome: Option<Outcome>,
    no_hosts: bool,
}

impl Script {
    /// Every host that the limit leaves is changed and reports `executed`, at once.
    pub fn new(assignment: &Assignment) -> Self {
        let targets = assignment.targets();
        let phase = assignment.extra_vars.get("fettle_phase").cloned().unwrap_or(Value::Null);
        let report = json!({"guard": "executed", "phase": phase, "ok": true, "message": "done"});
        Self {
            no_hosts: targets.is_empty() && !assignment.limit.trim().is_empty(),
            reports: targets.iter().map(|host| (host.clone(), report.clone())).collect(),
            hosts: targets.into_iter().map(|host| (host, HostResult::Changed)).collect(),
            artifacts: Map::new(),
            text: Vec::new(),
            duration: Duration::ZERO,
            held: false,
            outcome: None,
        }
    }

    /// Sets what happens on a host; adds the host when the limit left it out. A host that is not reached, or skipped,
    /// reports nothing.
    #[must_use]
    pub fn host(mut self, name: &str, result: HostResult) -> Self {
        match &result {
            HostResult::Unreachable(_) | HostResult::Skipped => {
                self.reports.remove(name);
            }
            HostResult::Failed(message) => {
                if let Some(Value::Object(report)) = self.reports.get_mut(name) {
                    report.insert("ok".to_owned(), json!(false));
                    report.insert("message".to_owned(), json!(message));
                }
            }
            HostResult::Ok | HostResult::Changed | HostResult::Ignored(_) => {}
        }
        self.hosts.insert(name.to_owned(), result);
        self
    }

    /// Leaves a host out, as if the playbook had never met it.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.hosts.remove(name);
        self.reports.remove(name);
        self
    }

    /// Leaves every host out: a play whose pattern matches nothing, which ends `successful`.
    #[must_use]
    pub fn nobody(mut self) -> Self {
        self.hosts.clear();
        self.reports.clear();
        self
    }

    /// Sets a host's entry of the artifact `fettle_report`; null removes it.
    #[must_use]
    pub fn report(mut self, name: &str, report: Value) -> Self {
        if report.is_null() {
            self.reports.remove(name);
        } else {
            self.reports.insert(name.to_owned(), report);
        }
        self
    }

    /// Changes the guard's word in a host's report (`executed`, `already-claimed`, `refused`).
    #[must_use]
    pub fn guard(mut self, name: &str, word: &str) -> Self {
        if let Some(Value::Object(report)) = self.reports.get_mut(name) {
            report.insert("guard".to_owned(), json!(word));
        }
        self
    }

    /// No host reports anything: a foreign playbook.
    #[must_use]
    pub fn without_reports(mut self) -> Self {
        self.reports.clear();
        self
    }

    /// Adds an artifact.
    #[must_use]
    pub fn artifact(mut self, name: &str, value: Value) -> Self {
        self.artifacts.insert(name.to_owned(), value);
        self
    }

    /// Adds a line to the output.
    #[must_use]
    pub fn printing(mut self, line: &str) -> Self {
        self.text.push(line.to_owned());
        self
    }

    /// The time between the job's start and its results.
    #[must_use]
    pub fn taking(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// The job runs until [`Running::release`](crate::aap::Running::release) or a cancel.
    #[must_use]
    pub fn held(mut self) -> Self {
        self.held = true;
        self
    }

    /// Ends the job this way, whatever its hosts did. `Error` ends it without results.
    #[must_use]
    pub fn ending(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }
}

/// An executor that asks a closure for the script of each job.
pub struct Scripted<F>(F);

impl<F> Scripted<F>
where
    F: Fn(&Assignment) -> Script + Send + Sync + 'static,
{
    /// An executor around a closure.
    pub fn new(script: F) -> Self {
        Self(script)
    }
}

impl<F> std::fmt::Debug for Scripted<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl<F> Executor for Scripted<F>
where
    F: Fn(&Assignment) -> Script + Send + Sync + 'static,
{
    fn run(&self, assignment: Assignment, feed: Feed) -> BoxFuture<'static, Outcome> {
        let script = (self.0)(&assignment);
        play(script, assignment, feed).boxed()
    }

    fn resume(&self, assignment: Assignment, feed: Feed) -> Option<BoxFuture<'static, Outcome>> {
        Some(self.run(assignment, feed))
    }
}

async fn play(script: Script, assignment: Assignment, feed: Feed) -> Outcome {
    if let Some(Outcome::Error { traceback }) = script.outcome {
        return Outcome::Error { traceback };
    }
    let mut args = vec!["ansible-playbook".to_owned(), "-u".to_owned(), "root".to_owned()];
    if !assignment.limit.is_empty() {
        args.extend(["-l".to_owned(), assignment.limit.clone()]);
    }
    args.push(assignment.playbook.clone());
    feed.send(News::Command { args, cwd: "/runner/project".to_owned(), env: Map::new() });

    let mut writer = Writer { feed: &feed, playbook: assignment.playbook.clone(), counter: 0, line: 0 };
    if script.no_hosts {
        let warning = format!("[WARNING]: Could not match supplied host pattern, ignoring: {}", assignment.limit);
        writer.event("verbose", "", json!({}), &warning);
        let error = "ERROR! Specified inventory, host pattern and/or --limit leaves us with no hosts to target.";
        writer.event("verbose", "", json!({}), error);
        return Outcome::Failed { explanation: String::new() };
    }
    writer.event("playbook_on_start", "", json!({}), "");
    let play = json!({"play": "all", "play_pattern": "all", "name": "all", "pattern": "all"});
    writer.event("playbook_on_play_start", "", play, &heading("PLAY", "all"));
    for line in &script.text {
        writer.event("verbose", "", json!({}), line);
    }
    if !script.hosts.is_empty() {
        writer.event("playbook_on_task_start", "", task(json!({"name": "work"})), &heading("TASK", "work"));
    }
    for host in script.hosts.keys() {
        writer.event("runner_on_start", host, task(json!({})), "");
    }
    if !feed.sleep(script.duration).await {
        return Outcome::Canceled;
    }
    if script.held {
        tokio::select! {
            () = feed.released() => {}
            () = feed.canceled() => return Outcome::Canceled,
        }
    }
    let mut stats = BTreeMap::<&str, BTreeMap<&str, i64>>::new();
    for kind in ["changed", "dark", "failures", "ignored", "ok", "processed", "rescued", "skipped"] {
        stats.insert(kind, BTreeMap::new());
    }
    let mut any_failed = false;
    for (host, result) in &script.hosts {
        let counted = writer.host(host, result);
        any_failed |= matches!(result, HostResult::Failed(_) | HostResult::Unreachable(_));
        for kind in counted.iter().chain(&["processed"]) {
            *stats.entry(kind).or_default().entry(host).or_default() += 1;
        }
    }
    let mut artifacts = script.artifacts;
    if !script.reports.is_empty() {
        artifacts.insert("fettle_report".to_owned(), json!(script.reports));
    }
    let mut data = json!(stats);
    data["artifact_data"] = Value::Object(artifacts);
    let recap = recap(&script.hosts, &stats);
    writer.event("playbook_on_stats", "", data, &recap);
    script.outcome.unwrap_or(if any_failed { Outcome::Failed { explanation: String::new() } } else { Outcome::Successful })
}

fn heading(word: &str, name: &str) -> String {
    format!("\r\n{:*<79}", format!("{word} [{name}] "))
}

fn task(more: Value) -> Value {
    let mut data = json!({"play": "all", "play_pattern": "all", "task": "work", "task_action": "ansible.builtin.debug"});
    if let (Value::Object(data), Value::Object(more)) = (&mut data, more) {
        data.extend(more);
    }
    data
}

fn recap(hosts: &BTreeMap<String, HostResult>, stats: &BTreeMap<&str, BTreeMap<&str, i64>>) -> String {
    let mut text = format!("\r\n{:*<79}", "PLAY RECAP ");
    for host in hosts.keys() {
        let count = |kind: &str| stats.get(kind).and_then(|counts| counts.get(host.as_str())).copied().unwrap_or(0);
        let numbers = [
            ("ok", "ok"),
            ("changed", "changed"),
            ("unreachable", "dark"),
            ("failed", "failures"),
            ("skipped", "skipped"),
            ("rescued", "rescued"),
            ("ignored", "ignored"),
        ]
        .map(|(word, kind)| format!("{:<width$}", format!("{word}={}", count(kind)), width = word.len() + 5));
        text += &format!("\r\n{host:<26} : {}", numbers.concat());
    }
    text.push_str("\r\n");
    text
}

struct Writer<'a> {
    feed: &'a Feed,
    playbook: String,
    counter: i64,
    line: i64,
}

impl Writer<'_> {
    fn event(&mut self, kind: &str, host: &str, mut data: Value, stdout: &str) {
        self.counter += 1;
        let lines = if stdout.is_empty() { 0 } else { i64::try_from(stdout.matches("\r\n").count()).unwrap_or(0) + 1 };
        let uuid = uuid::Uuid::new_v4().to_string();
        if kind != "verbose"
            && let Value::Object(data) = &mut data
        {
            data.insert("playbook".to_owned(), json!(self.playbook));
            data.insert("uuid".to_owned(), json!(uuid));
            if !host.is_empty() {
                data.insert("host".to_owned(), json!(host));
                data.insert("remote_addr".to_owned(), json!(host));
            }
        }
        self.feed.send(News::Event(json!({
            "uuid": uuid, "counter": self.counter, "stdout": stdout, "start_line": self.line,
            "end_line": self.line + lines, "event": kind, "event_data": data, "parent_uuid": "",
        })));
        self.line += lines;
    }

    /// Writes a host's result and says which counters of the recap it moves.
    fn host(&mut self, host: &str, result: &HostResult) -> &'static [&'static str] {
        let res = |message: &str, more: Value| {
            let mut res = json!({"msg": message, "changed": false});
            if let (Value::Object(res), Value::Object(more)) = (&mut res, more) {
                res.extend(more);
            }
            task(json!({"res": res}))
        };
        match result {
            HostResult::Ok => {
                self.event("runner_on_ok", host, res("", json!({})), &format!("\u{1b}[0;32mok: [{host}]\u{1b}[0m"));
                &["ok"]
            }
            HostResult::Changed => {
                let text = format!("\u{1b}[0;33mchanged: [{host}]\u{1b}[0m");
                self.event("runner_on_ok", host, res("", json!({"changed": true})), &text);
                &["ok", "changed"]
            }
            HostResult::Failed(message) => {
                let shown = json!({"changed": false, "msg": message});
                let text = format!("\u{1b}[0;31mfatal: [{host}]: FAILED! => {shown}\u{1b}[0m");
                self.event("runner_on_failed", host, res(message, json!({"failed": true})), &text);
                &["failures"]
            }
            HostResult::Unreachable(message) => {
                let shown = json!({"changed": false, "msg": message, "unreachable": true});
                let text = format!("\u{1b}[1;31mfatal: [{host}]: UNREACHABLE! => {shown}\u{1b}[0m");
                self.event("runner_on_unreachable", host, res(message, json!({"unreachable": true})), &text);
                &["dark"]
            }
            HostResult::Ignored(message) => {
                let shown = json!({"changed": false, "msg": message});
                let text = format!("\u{1b}[0;31mfatal: [{host}]: FAILED! => {shown}\u{1b}[0m\r\n\u{1b}[0;36m...ignoring\u{1b}[0m");
                let mut data = res(message, json!({"failed": true}));
                data["ignore_errors"] = json!(true);
                self.event("runner_on_failed", host, data, &text);
                &["ok", "ignored"]
            }
            HostResult::Skipped => {
                let text = format!("\u{1b}[0;36mskipping: [{host}]\u{1b}[0m");
                self.event("runner_on_skipped", host, res("", json!({})), &text);
                &["skipped"]
            }
        }
    }
}
