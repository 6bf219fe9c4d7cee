//! [`AutomationConnection`]: how to reach one AAP or AWX controller.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::{KeyRef, LocalRef, NameOrId, SecretSource};

/// How to reach one Ansible Automation Platform (AAP) or AWX controller, which templates carry out the change phases, and how checks reach the hosts.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "fettle.dev",
    version = "v1alpha1",
    kind = "AutomationConnection",
    namespaced,
    doc = "How to reach one Ansible Automation Platform (AAP) or AWX controller, which templates carry out the change phases, and how checks reach the hosts.",
    status = "AutomationConnectionStatus",
    derive = "PartialEq",
    shortname = "aconn",
    category = "fettle",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Flavour", type_ = "string", json_path = ".status.flavour"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be at most 63 characters: it becomes a label value")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.url.startsWith('https://') || (has(self.allowPlainHTTP) && self.allowPlainHTTP && self.url.startsWith('http://'))")
        .message("url must start with https:// (or with http:// when allowPlainHTTP is true, which sends credentials unencrypted)").field_path(".url"),
    validation = Rule::new("isURL(self.url) && url(self.url).getHost() != '' && url(self.url).getQuery().size() == 0 && !self.url.contains('@') && !self.url.contains('#')")
        .message("url must be scheme and host, with an optional port and path, for example https://aap.example.com; no user, query or fragment").field_path(".url"),
    validation = Rule::new("!has(self.apiPrefix) || self.apiPrefix.matches('^(/[A-Za-z0-9_-]+)+$')")
        .message("apiPrefix must be a path such as /api/v2 or /api/controller/v2, without a trailing slash; leave it out to have it found").field_path(".apiPrefix"),
    validation = Rule::new("!has(self.groupVariable) || self.groupVariable.matches('^[A-Za-z_][A-Za-z0-9_]*$')")
        .message("groupVariable must be the name of an Ansible variable: letters, digits and underscores").field_path(".groupVariable"),
    validation = Rule::new("!has(self.caBundle) || (has(self.caBundle.configMapKeyRef) != has(self.caBundle.secretKeyRef))")
        .message("caBundle names exactly one of configMapKeyRef and secretKeyRef").field_path(".caBundle")
)]
pub struct AutomationConnectionSpec {
    /// Address of the controller: scheme, host and optional port, for example `https://aap.example.com`. Never a loopback or link-local address, the cluster's own API server or a Service of Fettle.
    #[schemars(length(min = 8, max = 512))]
    pub url: String,

    /// Path of the controller API. Default: found by asking, `/api/controller/v2` behind the AAP 2.5 (or newer) gateway, `/api/v2` otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 128))]
    pub api_prefix: Option<String>,

    /// Credentials of the change phases (stage, apply, reboot). Read only while such a phase runs or waits for them; the Secret may be absent until then. Keys: `token`, or `username` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretSource>,

    /// Read-only credentials for health, template preflight and host lookup. Default: none; then only reachability is known, templates are checked at launch, and a `group` in read phases needs `checks.inventory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_credentials: Option<SecretSource>,

    /// Additional certificate authorities to trust for this controller, PEM. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<CaBundle>,

    /// Inventory of the hosts in the controller: its name, or its numeric id.
    pub inventory: NameOrId,

    /// How a `group` of a PatchRun selects hosts: `Variable` (default) compares the group variable of each host, `InventoryGroup` takes the members of the inventory group of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<GroupBy>,

    /// Host variable that holds the patch group. Compared as text. Default: `patch_group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub group_variable: Option<String>,

    /// The job template of each change phase. A phase without a template cannot run over this connection.
    #[serde(default)]
    pub templates: Templates,

    /// How jobs are launched: `Fenced` (default) through a one-shot schedule that the controller accepts at most once, about ten seconds slower; `Direct` through the launch call, where a lost answer needs a person's decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_mode: Option<LaunchMode>,

    /// Whether every host must report that the guard of `fettle.patching` ran: `Required` (default), or `Optional` for other playbooks, whose runs then say that the proof is weaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardPolicy>,

    /// Accept an `http://` url. Credentials then travel unencrypted. Default: false.
    #[serde(default, rename = "allowPlainHTTP", skip_serializing_if = "Option::is_none")]
    pub allow_plain_http: Option<bool>,

    /// How the read phases (precheck, postcheck) reach the hosts. Default: none; then a PatchRun cannot have read phases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Checks>,
}

impl AutomationConnectionSpec {
    /// How groups select hosts, with the default applied.
    pub fn group_by(&self) -> GroupBy {
        self.group_by.unwrap_or_default()
    }

    /// The group variable, with the default applied.
    pub fn group_variable(&self) -> &str {
        self.group_variable.as_deref().unwrap_or("patch_group")
    }

    /// The launch mode, with the default applied.
    pub fn launch_mode(&self) -> LaunchMode {
        self.launch_mode.unwrap_or_default()
    }

    /// The guard policy, with the default applied.
    pub fn guard(&self) -> GuardPolicy {
        self.guard.unwrap_or_default()
    }

    /// Whether plain HTTP is accepted.
    pub fn allow_plain_http(&self) -> bool {
        self.allow_plain_http.unwrap_or(false)
    }
}

/// A PEM bundle in a ConfigMap or Secret of the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaBundle {
    /// The key of a ConfigMap that holds the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
    /// The key of a Secret that holds the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
}

/// How a `group` of a PatchRun selects hosts: `Variable` (default) compares the group variable of each host, `InventoryGroup` takes the members of the inventory group of that name.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GroupBy {
    /// By the value of the group variable of each host (group variables count).
    #[default]
    Variable,
    /// By membership in the inventory group of that name.
    InventoryGroup,
}

/// How jobs are launched: `Fenced` (default) through a one-shot schedule that the controller accepts at most once, about ten seconds slower; `Direct` through the launch call, where a lost answer needs a person's decision.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum LaunchMode {
    /// By a one-shot schedule with a unique name: at most one job, whatever is lost on the way.
    #[default]
    Fenced,
    /// By the launch call, once; a lost answer is `LaunchUnknown` until the job is found.
    Direct,
}

/// Whether every host must report that the guard of `fettle.patching` ran: `Required` (default), or `Optional` for other playbooks, whose runs then say that the proof is weaker.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GuardPolicy {
    /// Every host must report `executed`.
    #[default]
    Required,
    /// Host summaries alone decide.
    Optional,
}

/// The job template of each change phase.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Templates {
    /// Template that downloads the kernel: its name, or its numeric id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<NameOrId>,
    /// Template that installs the kernel: its name, or its numeric id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<NameOrId>,
    /// Template that reboots the hosts: its name, or its numeric id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<NameOrId>,
}

/// How read phases reach the hosts.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    /// Secret with the SSH key of the checks (key `ssh-privatekey`), in the same namespace. It is mounted into the pod of the check; Fettle does not read it.
    pub ssh_key_secret_ref: LocalRef,

    /// ConfigMap with the SSH host keys of all hosts (key `known_hosts`), in the same namespace. Host keys are always checked.
    pub known_hosts_ref: LocalRef,

    /// ConfigMap with an Ansible inventory in JSON or YAML (key `inventory`), in the same namespace. Used to look up hosts when there are no `readCredentials`. Default: the controller's inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<LocalRef>,

    /// A Pipeline of your own, in the same namespace, with the label `fettle.dev/checks: "true"`. It gets the same parameters and workspaces as the built-in one, which `config/tekton` has to start from. Default: the built-in checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_ref: Option<LocalRef>,
}

/// What is known about the controller.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutomationConnectionStatus {
    /// The `metadata.generation` this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `AAP` or `AWX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavour: Option<String>,

    /// Version the controller says it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Path of the API, given or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_prefix: Option<String>,

    /// Identity of the installation. A run that has launched something never continues on another one.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "installUUID")]
    pub install_uuid: Option<String>,

    /// Numeric id of the inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory_id: Option<i64>,

    /// Findings of each template, in the order stage, apply, reboot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["phase".into()]))]
    #[schemars(length(max = 3))]
    pub templates: Vec<TemplateStatus>,

    /// `Ready`, `Reachable`, `Authenticated`, `TemplatesReady`, and, only while true, `Reconciling` or `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What preflight found about one template.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateStatus {
    /// The change phase the template carries out.
    pub phase: super::patch_run::Phase,
    /// Numeric id, once found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Name in the controller, once found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub name: Option<String>,
    /// Whether a run may launch it.
    pub ready: bool,
    /// What is wrong and how to mend it; notices when it is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub problems: Vec<String>,
}
