//! [`Classification`]: why a phase failed, as the Runbooks read it from its log.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A failure that no Runbook explains.
pub const OTHER: &str = "E-OTHER";

/// Why a phase failed: the cause that has to be mended first, and the lines of the log that show it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Classification {
    /// The cause: a code such as `E-DISK-BOOT`; `E-OTHER` for a failure that no Runbook explains.
    #[schemars(length(max = 63))]
    pub error_code: String,
    /// What is true as well, and not what to mend first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub also: Vec<String>,
    /// How sure it is.
    pub tier: Tier,
    /// Where the log shows it; absent when nothing in it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// How sure a classification is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The text fits, and could mean something else. Never the ground for a remediation.
    Weak,
    /// The text fits, and more of the log says the same.
    Corroborated,
    /// The message of the tool means this and nothing else.
    Decisive,
}

/// Lines of a log.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Number of the line, from 1.
    #[schemars(range(min = 1))]
    pub line: i64,
    /// The line, without escape sequences; at most 1 KiB.
    #[schemars(length(max = 1024))]
    pub excerpt: String,
    /// What the Runbook's pattern took out of it, by name: file system, package, unit, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub captures: BTreeMap<String, String>,
}

/// What the Runbooks read in one log, whatever became of the phase.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// The cause over all hosts; absent when the log shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Classification>,
    /// The cause of each host that has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, String>,
}
