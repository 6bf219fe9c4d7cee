//! What runs a job's playbook.

pub mod runner;
pub mod scripted;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};

use super::config::{Credential, Vars};

/// Everything an executor may know of a job that starts.
#[derive(Debug, Clone, Default)]
pub struct Assignment {
    /// Job's number.
    pub job: i64,
    /// Template's name.
    pub template: String,
    /// Playbook: a file of the project or the full name of a collection's playbook.
    pub playbook: String,
    /// Directory of the project.
    pub project: PathBuf,
    /// Directory for the run's files; `None` without a data directory.
    pub directory: Option<PathBuf>,
    /// Inventory as `ansible-inventory --list` prints it: enabled hosts (of the slice) only, with host variables.
    pub inventory: Value,
    /// Names of the enabled hosts (of the slice), sorted.
    pub hosts: Vec<String>,
    /// Groups and their members, for limits that name groups.
    pub groups: BTreeMap<String, Vec<String>>,
    /// The limit; empty = all.
    pub limit: String,
    /// Variables of the launch, merged.
    pub extra_vars: Vars,
    /// Variables the controller adds: `awx_job_id`, `awx_schedule_name`, ….
    pub meta_vars: Vars,
    /// `run` or `check`.
    pub job_type: String,
    /// Remaining launch options: `job_tags`, `skip_tags`, `forks`, `verbosity`, `diff_mode`, ….
    pub options: Map<String, Value>,
    /// Whether plays become root.
    pub become_enabled: bool,
    /// Machine credential.
    pub credential: Option<Credential>,
}

impl Assignment {
    /// The hosts the limit leaves, sorted. Understands names, groups, `*` patterns, and `!`/`&` parts.
    pub fn targets(&self) -> Vec<String> {
        let limit = self.limit.trim();
        if limit.is_empty() {
            return self.hosts.clone();
        }
        let parts: Vec<&str> = limit.split([',', ':']).map(str::trim).filter(|part| !part.is_empty()).collect();
        let matches = |pattern: &str| -> Vec<&String> {
            let members = self.groups.get(pattern);
            let chosen = |host: &String| pattern == "all" || members.is_some_and(|members| members.contains(host)) || glob(pattern, host);
            self.hosts.iter().filter(|host| chosen(host)).collect()
        };
        let plain: Vec<&str> = parts.iter().copied().filter(|part| !part.starts_with(['!', '&'])).collect();
        let mut kept: Vec<&String> =
            if plain.is_empty() { self.hosts.iter().collect() } else { plain.iter().flat_map(|part| matches(part)).collect() };
        for part in &parts {
            if let Some(pattern) = part.strip_prefix('!') {
                let out = matches(pattern);
                kept.retain(|host| !out.contains(host));
            } else if let Some(pattern) = part.strip_prefix('&') {
                let only = matches(pattern);
                kept.retain(|host| only.contains(host));
            }
        }
        let mut kept: Vec<String> = kept.into_iter().cloned().collect();
        kept.sort();
        kept.dedup();
        kept
    }
}

/// Whether a name matches a pattern with `*`.
fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| glob(rest, &tail[at..]))),
    }
}

/// News from a running job.
#[derive(Debug, Clone)]
pub enum News {
    /// An event as `ansible-runner` writes it.
    Event(Value),
    /// The command line, working directory and environment, once known.
    Command {
        /// Program and arguments.
        args: Vec<String>,
        /// Working directory.
        cwd: String,
        /// Environment.
        env: Map<String, Value>,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The playbook ended with 0.
    Successful,
    /// The playbook did not end with 0.
    Failed {
        /// `job_explanation`.
        explanation: String,
    },
    /// It could not be run.
    Error {
        /// `result_traceback`.
        traceback: String,
    },
    /// It was ended because of a cancel or the job's timeout.
    Canceled,
}

/// The channel from an executor to the controller.
#[derive(Debug, Clone)]
pub struct Feed {
    pub(super) news: mpsc::UnboundedSender<News>,
    pub(super) cancel: watch::Receiver<bool>,
    pub(super) release: watch::Receiver<bool>,
}

impl Feed {
    /// Reports something. Reports after the job's end are dropped.
    pub fn send(&self, news: News) {
        // The receiver is gone only when the whole stand-in is.
        let _ = self.news.send(news);
    }

    /// Ready when the run is to be ended.
    pub async fn canceled(&self) {
        let mut cancel = self.cancel.clone();
        if cancel.wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ready when a test lets a held job go on.
    pub async fn released(&self) {
        let mut release = self.release.clone();
        if release.wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sleeps, but not past a cancel; whether the time passed.
    pub async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.canceled() => false,
        }
    }
}

/// Runs jobs.
pub trait Executor: Send + Sync + 'static {
    /// Runs one job to its end.
    fn run(&self, assignment: Assignment, feed: Feed) -> BoxFuture<'static, Outcome>;

    /// Takes up a job that was running when the controller died. `None` when it cannot: the job is then marked failed, as
    /// a controller does at start-up.
    fn resume(&self, _assignment: Assignment, _feed: Feed) -> Option<BoxFuture<'static, Outcome>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_choose_hosts_as_ansible_does() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let assignment = |limit: &str| Assignment {
            hosts: names(&["db-1", "web-1", "web-2"]),
            groups: BTreeMap::from([("web".to_owned(), names(&["web-1", "web-2"]))]),
            limit: limit.to_owned(),
            ..Assignment::default()
        };
        for (limit, expected) in [
            ("", &["db-1", "web-1", "web-2"][..]),
            ("web-1,db-1", &["db-1", "web-1"]),
            ("web", &["web-1", "web-2"]),
            ("web*", &["web-1", "web-2"]),
            ("all:!web-1", &["db-1", "web-2"]),
            ("web:&web-2", &["web-2"]),
            ("!web", &["db-1"]),
            ("ghost,web-1", &["web-1"]),
            ("ghost", &[]),
        ] {
            assert_eq!(assignment(limit).targets(), names(expected), "limit {limit:?}");
        }
    }
}
