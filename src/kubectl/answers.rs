//! What fettle-server answers, as far as it is shown here. What is missing or new is no error.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::{
    api::{
        classification::Classification,
        patch_run::{HostCounts, LogRef, Outcome, Phase, RunResult, State},
        shared::NameOrId,
    },
    archive::record::HostRecord,
};

/// `GET /api/runs/{namespace}/{name}`.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct RunAnswer {
    /// Where it stands; absent when the object is gone.
    pub state: Option<State>,
    /// How it ended, as far as that is known.
    pub result: Option<RunResult>,
    /// Why.
    pub reason: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// The connection.
    pub connection: Option<String>,
    /// The group.
    pub group: Option<NameOrId>,
    /// The kernel.
    pub desired_kernel: Option<String>,
    /// The latest attempt.
    pub attempt: i32,
    /// Its identity.
    pub run_key: String,
    /// Its phases.
    pub phases: Vec<PhaseAnswer>,
}

/// A phase of a run.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct PhaseAnswer {
    /// The phase.
    pub name: Phase,
    /// How it ended.
    #[serde(default)]
    pub result: Option<RunResult>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Hosts by outcome.
    #[serde(default)]
    pub counts: Option<HostCounts>,
    /// The log.
    #[serde(default)]
    pub log: Option<LogRef>,
    /// Every host.
    #[serde(default)]
    pub hosts: Vec<HostRecord>,
    /// Why it failed, as its log shows.
    #[serde(default)]
    pub classification: Option<Classification>,
}

impl RunAnswer {
    /// Hosts that did not end well in a phase, each once, sorted.
    pub fn failed_hosts(&self) -> Vec<String> {
        let bad = self.phases.iter().flat_map(|phase| &phase.hosts).filter(|host| !Outcome::is_good(host.outcome));
        let names: BTreeSet<String> = bad.map(|host| host.name.clone()).collect();
        names.into_iter().collect()
    }
}

/// `GET /api/history`.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub struct HistoryAnswer {
    /// Phases that are over, newest first.
    pub items: Vec<HistoryItem>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// A phase that is over.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryItem {
    /// Namespace of the PatchRun.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its attempt.
    pub attempt: i64,
    /// The connection.
    pub connection: String,
    /// The group.
    pub group: Option<NameOrId>,
    /// The kernel.
    pub desired_kernel: Option<String>,
    /// The phase.
    pub phase: String,
    /// How it ended.
    pub result: String,
    /// Why, as a code of a Runbook.
    pub error_code: Option<String>,
    /// Why.
    pub reason: String,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Hosts by outcome.
    pub counts: Option<HostCounts>,
    /// Where its log is.
    #[serde(rename = "logURL")]
    pub log_url: Option<String>,
}

impl HistoryItem {
    /// How long it took.
    pub fn took(&self) -> Option<SignedDuration> {
        Some(self.finished_at?.duration_since(self.started_at?))
    }
}

/// `GET /api/host/{hostname}`.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub struct HostAnswer {
    /// Where the host is known.
    pub known: Vec<KnownHost>,
}

/// A host as one connection in one namespace knows it.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct KnownHost {
    /// Namespace of the PatchRuns.
    pub namespace: String,
    /// Name of the connection.
    pub connection: String,
    /// `Idle`, or the state of the run that holds it.
    pub state: String,
    /// The run that holds it.
    pub active: Option<ActiveRun>,
    /// What is known last.
    pub facts: Facts,
    /// The last result of each phase.
    pub results: Vec<HostResult>,
}

/// A run that is not over.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub struct ActiveRun {
    /// Name of the PatchRun.
    pub name: String,
}

/// What is known of a host.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Facts {
    /// The kernel.
    pub kernel: Option<String>,
    /// The boot id.
    pub boot_id: Option<String>,
    /// Free bytes by file system.
    pub free_bytes: Option<BTreeMap<String, u64>>,
    /// Enabled repositories.
    pub repositories: Option<Vec<String>>,
    /// When that was seen.
    pub last_seen: Option<Timestamp>,
}

/// What became of a host in a phase.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct HostResult {
    /// Name of the PatchRun.
    pub name: String,
    /// The phase.
    pub phase: String,
    /// What became of it.
    pub outcome: String,
    /// One sentence for people.
    pub message: Option<String>,
    /// Why, as a code of a Runbook.
    pub error_code: Option<String>,
    /// When the phase ended.
    pub finished_at: Option<Timestamp>,
}
