//! [`PatchRun`]: one group of hosts, one desired kernel, one or more phases.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    classification::Classification,
    shared::{LocalRef, NameOrId, Span},
};

/// Brings one group of hosts to one kernel, phase by phase. Immutable but for `attempt` (may grow), `suspend` and `cancel`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fettle.dev",
    version = "v1alpha1",
    kind = "PatchRun",
    namespaced,
    doc = "Brings one group of hosts to one kernel, phase by phase. Immutable but for `attempt` (may grow), `suspend` and `cancel`.",
    status = "PatchRunStatus",
    derive = "PartialEq",
    shortname = "prun",
    category = "fettle",
    printcolumn(name = "Group", type_ = "string", json_path = ".spec.group"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Hosts", type_ = "string", json_path = ".status.hosts"),
    printcolumn(name = "Result", type_ = "string", json_path = ".status.result"),
    printcolumn(name = "Error", type_ = "string", json_path = ".status.errorCode"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Succeeded")].reason"#, priority = 1),
    printcolumn(name = "Kernel", type_ = "string", json_path = ".spec.desiredKernel", priority = 1),
    printcolumn(name = "Connection", type_ = "string", json_path = ".spec.connection.name", priority = 1),
    printcolumn(name = "Log", type_ = "string", json_path = ".status.logURL", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be at most 63 characters: it becomes a label value")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.group) != has(self.hosts)")
        .message("give either group (a patch group of the inventory) or hosts (a list of host names), not both and not neither"),
    validation = Rule::new("!has(self.group) || type(self.group) == int || string(self.group).matches('^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$')")
        .message("group must be a number or a name of letters, digits, dot, dash and underscore, starting and ending with a letter or digit").field_path(".group"),
    validation = Rule::new("!has(self.group) || type(self.group) != int || int(self.group) >= 0")
        .message("group must not be negative").field_path(".group"),
    validation = Rule::new("!has(self.group) || !(string(self.group) in ['all', 'ungrouped', 'localhost'])")
        .message("group must not be one of Ansible's own groups (all, ungrouped, localhost): name a patch group").field_path(".group"),
    validation = Rule::new("!has(self.group) || size(string(self.group)) <= 63")
        .message("group must be at most 63 characters: it becomes a label value").field_path(".group"),
    validation = Rule::new("!has(self.hosts) || self.hosts.all(h, h.matches('^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$'))")
        .message("each of hosts must be a host name as the inventory has it: letters, digits, dot, dash and underscore; no patterns").field_path(".hosts"),
    validation = Rule::new("!has(self.hosts) || self.hosts.all(h, !(h in ['all', 'ungrouped', 'localhost']))")
        .message("hosts must name hosts: all, ungrouped and localhost are Ansible's own words").field_path(".hosts"),
    validation = Rule::new("self.phases.all(p, self.phases.exists_one(q, q == p))")
        .message("phases must not repeat: a run goes through each phase once").field_path(".phases"),
    validation = Rule::new("['precheck', 'stage', 'apply', 'reboot', 'postcheck'].filter(p, p in self.phases) == self.phases || !self.phases.all(p, self.phases.exists_one(q, q == p))")
        .message("phases run in the order precheck, stage, apply, reboot, postcheck: list them in that order").field_path(".phases"),
    validation = Rule::new("has(self.desiredKernel) || self.phases == ['precheck']")
        .message("desiredKernel is required unless precheck is the only phase: give exactly what `uname -r` will say").field_path(".phases"),
    validation = Rule::new("!has(self.desiredKernel) || self.desiredKernel.matches('^[0-9][A-Za-z0-9._+~-]*$')")
        .message("desiredKernel must be exactly what `uname -r` will say, for example 6.1.0-53-cloud-amd64 or 5.14.0-427.13.1.el9_4.x86_64").field_path(".desiredKernel"),
    validation = Rule::new("has(self.startBy) || self.phases.all(p, p in ['precheck', 'postcheck'])")
        .message("startBy is required with stage, apply or reboot: no change starts later, however long this manifest stays in Git").field_path(".phases"),
    validation = Rule::new("!has(self.startBy) || !has(self.startAfter) || self.startAfter < self.startBy")
        .message("startAfter must be before startBy").field_path(".startAfter"),
    validation = Rule::new("(!has(self.startBy) || self.startBy.getFullYear() < 9999) && (!has(self.startAfter) || self.startAfter.getFullYear() < 9999)")
        .message("startBy and startAfter must lie before the year 9999"),
    validation = Rule::new("has(self.connection) && self.connection == oldSelf.connection")
        .message("connection is immutable: create a new PatchRun to use another connection").field_path(".connection"),
    validation = Rule::new("has(self.group) == has(oldSelf.group) && (!has(self.group) || self.group == oldSelf.group)")
        .message("group is immutable: create a new PatchRun for another group"),
    validation = Rule::new("has(self.hosts) == has(oldSelf.hosts) && (!has(self.hosts) || self.hosts == oldSelf.hosts)")
        .message("hosts is immutable: create a new PatchRun for other hosts, for example the failed ones only"),
    validation = Rule::new("has(self.desiredKernel) == has(oldSelf.desiredKernel) && (!has(self.desiredKernel) || self.desiredKernel == oldSelf.desiredKernel)")
        .message("desiredKernel is immutable: create a new PatchRun for another kernel"),
    validation = Rule::new("self.phases == oldSelf.phases")
        .message("phases is immutable: create a new PatchRun for other phases").field_path(".phases"),
    validation = Rule::new("has(self.startBy) == has(oldSelf.startBy) && (!has(self.startBy) || self.startBy == oldSelf.startBy)")
        .message("startBy is immutable: create a new PatchRun, or give this one a higher attempt while it is still valid"),
    validation = Rule::new("has(self.startAfter) == has(oldSelf.startAfter) && (!has(self.startAfter) || self.startAfter == oldSelf.startAfter)")
        .message("startAfter is immutable: create a new PatchRun for another time"),
    validation = Rule::new("has(self.timeouts) == has(oldSelf.timeouts) && (!has(self.timeouts) || self.timeouts == oldSelf.timeouts)")
        .message("timeouts is immutable: create a new PatchRun with other timeouts"),
    validation = Rule::new("has(self.reboot) == has(oldSelf.reboot) && (!has(self.reboot) || self.reboot == oldSelf.reboot)")
        .message("reboot is immutable: create a new PatchRun with other reboot settings"),
    validation = Rule::new("has(self.allowSelf) == has(oldSelf.allowSelf) && (!has(self.allowSelf) || self.allowSelf == oldSelf.allowSelf)")
        .message("allowSelf is immutable: create a new PatchRun to allow it"),
    validation = Rule::new("(has(self.attempt) ? self.attempt : 1) >= (has(oldSelf.attempt) ? oldSelf.attempt : 1)")
        .message("attempt may only grow: a higher number runs everything once more, a lower one means nothing")
)]
pub struct PatchRunSpec {
    /// The `AutomationConnection` to use, in the same namespace. Immutable.
    pub connection: LocalRef,

    /// The patch group, a number or a name, as the inventory's group variable has it (or an inventory group, see `groupBy` of the connection). Give this or `hosts`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<NameOrId>,

    /// Host names as the inventory has them; no patterns; at most 1000. Give this or `group`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 253)))]
    pub hosts: Option<Vec<String>>,

    /// The kernel every host shall run, exactly what `uname -r` will say, for example `6.1.0-53-cloud-amd64`. Required unless `precheck` is the only phase. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub desired_kernel: Option<String>,

    /// What to do, in this order: `precheck`, `stage`, `apply`, `reboot`, `postcheck`. The run stops at the first phase that ends in `ERROR`. Immutable.
    #[schemars(length(min = 1, max = 5), inner(length(max = 9)))]
    pub phases: Vec<Phase>,

    /// No change phase (stage, apply, reboot) starts after this time (RFC 3339). Required with a change phase. A postcheck still follows a change that was made. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by: Option<Timestamp>,

    /// No phase starts before this time (RFC 3339). Default: at once. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_after: Option<Timestamp>,

    /// How long each phase may take, from the start of its job. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// How hosts are rebooted. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Reboot>,

    /// Accept a scope that holds the node this operator runs on. Default: false; such a scope is refused. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_self: Option<bool>,

    /// The attempt. Default: 1. Raise it to run everything once more after the run is over; it is the only way. May only grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub attempt: Option<i32>,

    /// Start no further phase while true; what runs is left alone. Default: false. May change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,

    /// Stop what runs and end the run with `ERROR`, reason `Cancelled`. Taking it back has no effect. Default: false. May change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
}

impl PatchRunSpec {
    /// The wanted attempt, with the default applied.
    pub fn attempt(&self) -> i32 {
        self.attempt.unwrap_or(1)
    }

    /// Whether no further phase may start.
    pub fn suspend(&self) -> bool {
        self.suspend.unwrap_or(false)
    }

    /// Whether a person asked for the end.
    pub fn cancel(&self) -> bool {
        self.cancel.unwrap_or(false)
    }

    /// How long `phase` may take, with the default applied (checks 15 min, stage and apply 2 h, reboot 1 h).
    pub fn timeout(&self, phase: Phase) -> SignedDuration {
        let given = self.timeouts.as_ref().and_then(|t| match phase {
            Phase::Precheck => t.precheck.as_ref(),
            Phase::Stage => t.stage.as_ref(),
            Phase::Apply => t.apply.as_ref(),
            Phase::Reboot => t.reboot.as_ref(),
            Phase::Postcheck => t.postcheck.as_ref(),
        });
        given.and_then(Span::get).unwrap_or(match phase {
            Phase::Precheck | Phase::Postcheck => SignedDuration::from_mins(15),
            Phase::Stage | Phase::Apply => SignedDuration::from_hours(2),
            Phase::Reboot => SignedDuration::from_hours(1),
        })
    }
}

/// A patch step: `precheck` (are the hosts fit?), `stage` (download the kernel), `apply` (install it, without reboot), `reboot`, `postcheck` (right kernel, services up). In `status.phase`: the one that runs or waits, or the last one.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Are the hosts fit to be patched? Changes nothing, needs no AAP credentials.
    Precheck,
    /// Download the kernel.
    Stage,
    /// Install the kernel, without reboot.
    Apply,
    /// Reboot the hosts.
    Reboot,
    /// Do the hosts run the kernel, and their services? Changes nothing, needs no AAP credentials.
    Postcheck,
}

impl Phase {
    /// All phases in the order in which they run.
    pub const ALL: [Self; 5] = [Self::Precheck, Self::Stage, Self::Apply, Self::Reboot, Self::Postcheck];

    /// Whether the phase changes hosts (and so needs AAP credentials).
    pub const fn is_change(self) -> bool {
        matches!(self, Self::Stage | Self::Apply | Self::Reboot)
    }

    /// The word users write.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Precheck => "precheck",
            Self::Stage => "stage",
            Self::Apply => "apply",
            Self::Reboot => "reboot",
            Self::Postcheck => "postcheck",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long each phase may take, for example `90s`, `15m`, `1h30m`; one minute to seven days.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.precheck) ? self.precheck : '1m', has(self.stage) ? self.stage : '1m', has(self.apply) ? self.apply : '1m', \
     has(self.reboot) ? self.reboot : '1m', has(self.postcheck) ? self.postcheck : '1m']\
     .all(t, t.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && duration(t) >= duration('1m') && duration(t) <= duration('168h'))")
    .message("each of timeouts must be a length of time such as 90s, 15m or 1h30m, from one minute to seven days (168h)"))]
pub struct Timeouts {
    /// Default: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precheck: Option<Span>,
    /// Default: 2h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Span>,
    /// Default: 2h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<Span>,
    /// Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Span>,
    /// Default: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postcheck: Option<Span>,
}

/// How hosts are rebooted.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.serial) || (type(self.serial) == int ? int(self.serial) >= 1 : string(self.serial).matches('^([1-9][0-9]?|100)%$'))")
    .message("serial must be a number of hosts (1 or more) or a percentage such as 25%"))]
pub struct Reboot {
    /// How many hosts are rebooted at a time: a number, or a percentage such as `25%`. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<NameOrId>,
    /// Stop when more than this percentage of a batch failed. Default: 0, the first failure stops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_fail_percentage: Option<i32>,
}

/// Where the run stands. Written by Fettle only.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchRunStatus {
    /// The `metadata.generation` this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Where the run stands.
    #[serde(default)]
    pub state: State,

    /// The phase that runs or waits, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// `OK` when every phase ended so, `ERROR` otherwise; absent until the run is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,

    /// What has to be mended first, as a code of a Runbook (`kubectl fettle explain CODE`); `E-OTHER` when no Runbook explains the failure. Absent until the run is over, after `OK`, and when nothing failed on a host, for example after a cancel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub error_code: Option<String>,

    /// Where the log of the current or last finished phase can be downloaded. Needs a token; holds no secret.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "logURL")]
    pub log_url: Option<String>,

    /// Hosts that ended well in the current phase, of all hosts of the run, for example `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<String>,

    /// The attempt this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,

    /// Identity of this disruption: equal for a run that Git creates again. Names the logs and records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_key: Option<String>,

    /// The hosts of the run, resolved once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeStatus>,

    /// The controller, templates and inventory the first launch was made with. They never change within an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Pinned>,

    /// When the end was first asked for. Latches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<Timestamp>,

    /// What became of each phase, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 5))]
    pub phases: Vec<PhaseStatus>,

    /// `Succeeded` (Unknown, then True or False), `Completed` (True at any end), and, only while true, `Reconciling` or `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl PatchRunStatus {
    /// What is on record about `phase`.
    pub fn of(&self, phase: Phase) -> Option<&PhaseStatus> {
        self.phases.iter().find(|p| p.name == phase)
    }

    /// What is on record about `phase`, to be changed.
    pub fn of_mut(&mut self, phase: Phase) -> Option<&mut PhaseStatus> {
        self.phases.iter_mut().find(|p| p.name == phase)
    }
}

/// Where a run stands.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema, ToSchema)]
pub enum State {
    /// Nothing of the current phase has started; the reason says what it waits for.
    #[default]
    Pending,
    /// Waits for `startAfter`.
    AwaitingWindow,
    /// Waits for a change phase's credentials.
    AwaitingCredentials,
    /// A phase is launched or runs.
    Running,
    /// The end was asked for; the phase that runs is being stopped.
    Cancelling,
    /// Over.
    Completed,
}

/// `OK` when it is proven of every host of the scope, `ERROR` for any other end; absent until the run, or the phase, is over.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema, ToSchema)]
pub enum RunResult {
    /// Proven: every host of the scope is accounted for.
    #[serde(rename = "OK")]
    Ok,
    /// Anything else.
    #[serde(rename = "ERROR")]
    Error,
}

impl RunResult {
    /// The word users read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Error => "ERROR",
        }
    }
}

/// The resolved hosts.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScopeStatus {
    /// ConfigMap with the host list and the inventory of the checks, in this namespace.
    #[schemars(length(max = 63))]
    pub config_map: String,
    /// Number of hosts.
    #[schemars(range(min = 0, max = 1000))]
    pub hosts: i32,
    /// SHA-256 of the sorted host names, one per line.
    #[schemars(length(max = 64))]
    pub digest: String,
    /// Identity of the controller in whose ledger the hosts are entered while the run is active.
    #[schemars(length(max = 128))]
    pub ledger: String,
    /// Hosts of the group that are disabled in the inventory and so are left out (the first ten).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub excluded: Vec<String>,
}

/// What must not change between the launches of one attempt.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pinned {
    /// Identity of the controller.
    #[serde(rename = "installUUID")]
    pub install_uuid: String,
    /// Numeric id of the inventory.
    pub inventory: i64,
    /// Numeric ids of the templates, by phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<i64>,
    /// See `stage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<i64>,
    /// See `stage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<i64>,
}

/// What became of one phase.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseStatus {
    /// The phase.
    pub name: Phase,
    /// Identity of this phase of this disruption.
    #[schemars(length(max = 63))]
    pub run_key: String,
    /// How the phase ended; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// Why it ended so, from the documented set of reasons; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub reason: Option<String>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// How the phase was launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
    /// What carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<Executor>,
    /// When the executor started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the executor ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Hosts by outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<HostCounts>,
    /// The hosts that did not end well (the first twenty).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub failed_hosts: Vec<FailedHost>,
    /// The archived log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogRef>,
    /// Why it failed, as far as its log shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
    /// The result was found in the records: an earlier object of the same identity did the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<bool>,
}

/// The launch of a phase.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Launch {
    /// How it is launched.
    pub mode: Mode,
    /// Counts re-issues of a launch that provably did not happen, and retries of checks after infrastructure failures; starts at 1.
    #[serde(rename = "try")]
    #[schemars(range(min = 1, max = 100))]
    pub try_: i32,
    /// When the intent to launch was recorded, before anything was sent.
    pub intended_at: Timestamp,
    /// Numeric id of the AAP schedule, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<i64>,
    /// Highest job id of the controller before a direct launch; the search for the job starts there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<i64>,
    /// When the launch was first seen to have missed its time; a second look decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_at: Option<Timestamp>,
    /// When the schedule was first seen disabled without a job; a last look decides that it never launched anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<Timestamp>,
    /// When log or record could first not be written at once; the archive gets fifteen minutes from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archiving_since: Option<Timestamp>,
    /// Why the executor is being stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub stopping: Option<String>,
}

/// How a phase is launched.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Mode {
    /// AAP, by a one-shot schedule.
    Fenced,
    /// AAP, by the launch call.
    Direct,
    /// A Tekton PipelineRun of a fixed name.
    Tekton,
}

/// What carries a phase out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Executor {
    /// `Job` (AAP) or `PipelineRun` (Tekton).
    pub kind: ExecutorKind,
    /// Numeric id of the job, or name of the PipelineRun.
    #[schemars(length(max = 253))]
    pub id: String,
    /// Where people can look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub url: Option<String>,
}

/// What carries a phase out.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema, ToSchema)]
pub enum ExecutorKind {
    /// An AAP job.
    Job,
    /// A Tekton PipelineRun.
    PipelineRun,
}

/// Hosts by outcome; the numbers add up to `total`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostCounts {
    /// All hosts of the scope.
    pub total: i32,
    /// Ended well, nothing changed.
    pub ok: i32,
    /// Ended well, something changed.
    pub changed: i32,
    /// A task failed, or the host's report says that it did not end well.
    pub failed: i32,
    /// Could not be reached.
    pub unreachable: i32,
    /// Cut off: what happened on it is not known.
    pub unknown: i32,
    /// Nothing was reported about it.
    pub missing: i32,
}

/// A host that did not end well.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedHost {
    /// Name in the inventory.
    #[schemars(length(max = 253))]
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub message: Option<String>,
    /// Why, as a code of a Runbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub error_code: Option<String>,
}

/// What became of one host in one phase.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Ended well, nothing changed.
    Ok,
    /// Ended well, something changed.
    Changed,
    /// A task failed, or the host's report says that it did not end well.
    Failed,
    /// Could not be reached.
    Unreachable,
    /// Cut off: what happened on it is not known.
    Unknown,
    /// Nothing was reported about it.
    Missing,
}

impl Outcome {
    /// Whether the host ended well.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Ok | Self::Changed)
    }
}

/// An archived log.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogRef {
    /// Id in the archive: the last part of its address.
    #[schemars(length(max = 63))]
    pub id: String,
    /// Bytes.
    #[schemars(range(min = 0))]
    pub size: i64,
    /// SHA-256 of the bytes, hexadecimal.
    #[schemars(length(max = 64))]
    pub sha256: String,
}
