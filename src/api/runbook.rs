//! [`Runbook`]: how a failure is recognised in a log, what it means, and what to do about it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{classification::Tier, patch_run::Phase};

/// How one failure is recognised in the log of a phase, what it means, and what to do about it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fettle.dev",
    version = "v1alpha1",
    kind = "Runbook",
    namespaced,
    doc = "How one failure is recognised in the log of a phase, what it means, and what to do about it.",
    status = "RunbookStatus",
    derive = "PartialEq",
    shortname = "rb",
    category = "fettle",
    printcolumn(name = "Code", type_ = "string", json_path = ".spec.errorCode"),
    printcolumn(name = "Title", type_ = "string", json_path = ".spec.title"),
    printcolumn(name = "Severity", type_ = "string", json_path = ".spec.severity"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Hits", type_ = "integer", json_path = ".status.hits"),
    printcolumn(name = "Last-Hit", type_ = "date", json_path = ".status.lastHit"),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be at most 63 characters: it becomes a label value")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.errorCode.matches('^E-[A-Z0-9]+(-[A-Z0-9]+)*$')")
        .message("errorCode must be E- and words of capital letters and digits, joined by dashes, for example E-DISK-BOOT").field_path(".errorCode"),
    validation = Rule::new("self.errorCode == 'E-OTHER' || (has(self.match) && size(self.match) > 0)")
        .message("match must hold at least one pattern: without one nothing is recognised (only E-OTHER, the failure that nothing explains, has none)"),
    validation = Rule::new("!has(self.explains) || self.explains.all(code, code.matches('^E-[A-Z0-9]+(-[A-Z0-9]+)*$') && code != self.errorCode)")
        .message("each of explains must be the code of another failure, for example E-REPO-EMPTY").field_path(".explains"),
    validation = Rule::new("!has(self.remediation) || !has(self.remediation.variables) || self.remediation.variables.all(v, v.name.matches('^[A-Za-z_][A-Za-z0-9_]*$'))")
        .message("each name of remediation.variables must be the name of an Ansible variable: letters, digits and underscores").field_path(".remediation")
)]
pub struct RunbookSpec {
    /// The code that runs, events, metrics and history carry, for example `E-DISK-BOOT`. Several Runbooks may share one.
    #[schemars(length(min = 3, max = 63))]
    pub error_code: String,

    /// What failed, in a few words.
    #[schemars(length(min = 1, max = 120))]
    pub title: String,

    /// How bad it is: `info`, `warning` or `critical`.
    pub severity: Severity,

    /// Phases in whose logs it is looked for. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub phases: Vec<Phase>,

    /// Families of operating systems it is looked for on, where the family is known. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub os_families: Vec<OsFamily>,

    /// Messages that show it; one is enough. Tried on every line of the log and on every line inside an Ansible result, without timestamps and escape sequences.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub matches: Vec<Match>,

    /// Lines that one of these regular expressions fits are no evidence, whatever `match` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 1024)))]
    pub excludes: Vec<String>,

    /// Regular expressions of messages after which earlier evidence no longer counts: a later success. A group that `match` names too, for example `unit`, must have the same text in both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 1024)))]
    pub clears: Vec<String>,

    /// Codes of the failures that follow from this one. Seen on the same host, they are reported as contributing and not as the cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 3, max = 63)))]
    pub explains: Vec<String>,

    /// Excerpts of logs that show it. The Runbook is used only if it recognises every one.
    #[schemars(length(min = 1, max = 50), inner(length(min = 1, max = 4096)))]
    pub examples: Vec<String>,

    /// Excerpts of logs that look like it and are something else, or nothing. The Runbook is used only if it recognises none.
    #[schemars(length(min = 1, max = 50), inner(length(min = 1, max = 4096)))]
    pub counter_examples: Vec<String>,

    /// What it means and where it comes from, for people.
    #[schemars(length(min = 1, max = 4096))]
    pub explanation: String,

    /// What a person does about it, step by step, in Markdown: how to look, how to mend, how to verify.
    #[schemars(length(min = 1, max = 16384))]
    pub procedure: String,

    /// What can be launched to mend it. Offered for a `decisive` classification only, for the failed hosts only, and only to be approved. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<Remediation>,
}

/// One message that shows the failure.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// Regular expression, Rust's syntax (linear time: no look-around, no back-references). It needs fixed text of at least three characters. Named groups are captures:
    /// `fileSystem`, `size`, `repository`, `package`, `version`, `unit`, `status`, `host`, `user`, `pid`, `path`, `url`, `file`, `key`, `parameter`.
    #[schemars(length(min = 3, max = 1024))]
    pub pattern: String,

    /// How sure this message is.
    pub tier: Tier,

    /// Where it counts. Default: `Anywhere`.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,

    /// It counts only if this regular expression fits a line of the same host too, before or after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 1024))]
    pub with: Option<String>,

    /// It counts whatever comes after it: `clears`, an ignored failure and a good end do not cancel it. For damage that a tool reports and goes on. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persists: Option<bool>,
}

/// Where a message counts.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Place {
    /// On every line.
    #[default]
    Anywhere,
    /// In the result of an Ansible task that failed, or of a host that could not be reached.
    FailedTask,
}

/// How bad a failure is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// The host is not patched, and works.
    Warning,
    /// The host or its services may be down.
    Critical,
}

/// A family of operating systems, as Ansible's `os_family` has it.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum OsFamily {
    /// RHEL, `CentOS` Stream, Fedora, Rocky, Alma, Oracle, Amazon.
    RedHat,
    /// Debian, Ubuntu.
    Debian,
    /// SLES, openSUSE.
    Suse,
}

/// What can be launched to mend a failure.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remediation {
    /// Name of the approved job template in the controller. It is launched for the failed hosts only.
    #[schemars(length(min = 1, max = 256))]
    pub template: String,

    /// Variables of the launch, taken from what a pattern captured. Without a capture, or with one that is no plain word, nothing is offered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub variables: Vec<RemediationVariable>,

    /// Who says yes. Default: `Required`, the only one: a person.
    #[serde(default)]
    pub approval: Approval,
}

/// A variable of a launch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemediationVariable {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The capture that is its value.
    pub capture: Capture,
}

/// What a named group of a pattern holds.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Capture {
    /// A mount point or its device.
    FileSystem,
    /// An amount, with its unit.
    Size,
    /// The id of a package repository.
    Repository,
    /// A package.
    Package,
    /// A version of a package or kernel.
    Version,
    /// A systemd unit.
    Unit,
    /// A status: of HTTP, or of a process.
    Status,
    /// A host.
    Host,
    /// A user.
    User,
    /// The number of a process.
    Pid,
    /// A path.
    Path,
    /// A URL.
    Url,
    /// A file.
    File,
    /// The id of a key.
    Key,
    /// A parameter or variable of the automation.
    Parameter,
}

impl Capture {
    /// All captures.
    pub const ALL: [Self; 15] = [
        Self::FileSystem,
        Self::Size,
        Self::Repository,
        Self::Package,
        Self::Version,
        Self::Unit,
        Self::Status,
        Self::Host,
        Self::User,
        Self::Pid,
        Self::Path,
        Self::Url,
        Self::File,
        Self::Key,
        Self::Parameter,
    ];

    /// The name of the group in a pattern.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FileSystem => "fileSystem",
            Self::Size => "size",
            Self::Repository => "repository",
            Self::Package => "package",
            Self::Version => "version",
            Self::Unit => "unit",
            Self::Status => "status",
            Self::Host => "host",
            Self::User => "user",
            Self::Pid => "pid",
            Self::Path => "path",
            Self::Url => "url",
            Self::File => "file",
            Self::Key => "key",
            Self::Parameter => "parameter",
        }
    }
}

/// Who agrees to a remediation.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Approval {
    /// A person, each time.
    #[default]
    Required,
}

/// Whether the Runbook is used, and how often it explained a failure. Written by Fettle only.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunbookStatus {
    /// The `metadata.generation` this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// How many examples and counter-examples it told right; absent when one was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples_checked: Option<i32>,

    /// Phases of existing runs whose failure has this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<i64>,

    /// When the last of them ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_hit: Option<Timestamp>,

    /// `Ready`: False with the line that it tells wrong, and then it is not used; and, only while true, `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
