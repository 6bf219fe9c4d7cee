//! [`Record`]: what is kept about a finished phase, beside its log, under the run key.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{
    classification::Classification,
    patch_run::{Executor, HostCounts, LogRef, Outcome, Phase, RunResult},
    shared::NameOrId,
};

/// The end of one phase of one disruption. Written once, before the end stands in any status; a re-created PatchRun adopts it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Identity of the phase, `v1-…-<phase>`; the name of the record.
    pub run_key: String,
    /// Namespace of the PatchRun that owns it (authorisation asks about that object).
    pub namespace: String,
    /// Name of the PatchRun that owns it.
    pub name: String,
    /// Attempt of the PatchRun.
    pub attempt: i32,
    /// Name of the `AutomationConnection`.
    pub connection: String,
    /// The group, as the PatchRun has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<NameOrId>,
    /// The kernel, as the PatchRun has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_kernel: Option<String>,
    /// The phase.
    pub phase: Phase,
    /// How it ended.
    pub result: RunResult,
    /// Why it ended so, from the documented set of reasons.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// What carried it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<Executor>,
    /// When the executor started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the executor ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Hosts by outcome.
    pub counts: HostCounts,
    /// Every host of the scope, sorted by name.
    pub hosts: Vec<HostRecord>,
    /// The archived log; absent when it could not be had, and then `message` says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogRef>,
    /// Why it failed, as far as its log shows; absent after `OK`, and without a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
}

/// What became of one host.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostRecord {
    /// Name in the inventory.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// One sentence for people; at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Why it did not end well, as a code of a Runbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// What the guard said: `executed`, `already-claimed` or `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// `uname -r` before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_before: Option<String>,
    /// `uname -r` after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_after: Option<String>,
    /// Boot id before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id_before: Option<String>,
    /// Boot id after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id_after: Option<String>,
    /// What a precheck found out about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<HostFacts>,
}

/// What a host says of itself, beside what was done to it.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostFacts {
    /// Free bytes, by directory; at most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub free_bytes: BTreeMap<String, u64>,
    /// Enabled package repositories; at most 32, of 96 characters each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
}
