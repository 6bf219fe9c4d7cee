//! What a controller holds before anybody calls it: users, inventories, projects, templates.
//!
//! A [`Config`] is written by a person (YAML file or Rust value) and refers to things by name; [`Catalog::new`] checks it
//! and gives every object its number, as the controller's database would.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Variables of a host, group, inventory or template.
pub type Vars = Map<String, Value>;

/// The whole configuration of a stand-in.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How the API presents itself.
    pub flavour: Flavour,
    /// Product version in `ping/` and the headers; by default the one the flavour was recorded with.
    pub version: Option<String>,
    /// Identity of the installation in `ping/`; made up once and kept in the data directory when absent.
    pub install_uuid: Option<String>,
    /// How fast things happen.
    pub timing: Timing,
    /// People and robots that may sign in.
    pub users: Vec<UserConfig>,
    /// Organizations.
    pub organizations: Vec<Named>,
    /// Inventories with groups and hosts.
    pub inventories: Vec<InventoryConfig>,
    /// Projects: directories of playbooks.
    pub projects: Vec<ProjectConfig>,
    /// Machine credentials.
    pub credentials: Vec<CredentialConfig>,
    /// Job templates.
    pub job_templates: Vec<TemplateConfig>,
    /// Labels that exist from the start.
    pub labels: Vec<LabelConfig>,
    /// Ansible collections that every job can use (real executor).
    pub collections: Vec<CollectionConfig>,
}

/// How the API presents itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// AWX and AAP up to 2.4: everything under `/api/v2/`, nothing under `/api/controller/`.
    #[default]
    Awx,
    /// AWX with an optional URL prefix: `/api/controller/` answers too, with prefixed links.
    AwxPrefixed,
    /// AAP 2.5 and later: `/api/` is the gateway's and names the components, the controller is under `/api/controller/`.
    /// (The gateway's own answers are documented, not recorded.)
    Aap,
}

/// How fast things happen, in seconds. The defaults are those of the recorded controller.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// How often schedules are looked at.
    pub schedule_tick: f64,
    /// From a job's creation to `waiting`.
    pub pending: f64,
    /// From `waiting` to `running`.
    pub waiting: f64,
    /// From an event's happening to its row; also from the terminal status to `event_processing_finished`.
    pub event_lag: f64,
    /// From a blocked job's creation to its `job_explanation`.
    pub explanation: f64,
    /// From an accepted cancel of a running job to the signal.
    pub cancel: f64,
    /// How long the request of a cancel takes when the dispatcher is dead.
    pub dead_cancel: f64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { schedule_tick: 30.0, pending: 0.5, waiting: 0.3, event_lag: 0.4, explanation: 40.0, cancel: 0.5, dead_cancel: 10.7 }
    }
}

impl Timing {
    /// Everything as soon as possible, schedules looked at every 50 ms: for tests in the same process.
    pub fn fast() -> Self {
        Self { schedule_tick: 0.05, pending: 0.0, waiting: 0.0, event_lag: 0.0, explanation: 0.1, cancel: 0.0, dead_cancel: 0.3 }
    }
}

/// An object with nothing but a name.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Number; the next free one when absent.
    #[serde(default)]
    pub id: Option<i64>,
    /// Unique name.
    pub name: String,
}

/// What a user may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Superuser.
    Admin,
    /// `execute` on templates: launches, schedules, and the jobs of these templates. No inventories unless listed.
    Execute,
    /// `read` on templates and their jobs: sees, launches nothing.
    #[default]
    Read,
}

/// One user.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// Number; the next free one when absent.
    pub id: Option<i64>,
    /// Sign-in name.
    pub username: String,
    /// Password for Basic authentication; none = tokens only.
    pub password: Option<String>,
    /// What the user may do.
    pub role: Role,
    /// Templates the role holds for, by name; empty = all.
    pub templates: Vec<String>,
    /// Inventories the user may read, by name (`*` = all). Superusers read all.
    pub inventories: Vec<String>,
    /// Whether the user belongs to every organization (needed to see and create labels).
    pub member: bool,
    /// Bearer tokens.
    pub tokens: Vec<TokenConfig>,
}

/// One token of a user.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The secret itself.
    pub token: String,
    /// `write` (default) or `read`.
    #[serde(default = "write_scope")]
    pub scope: String,
}

fn write_scope() -> String {
    "write".to_owned()
}

/// One inventory.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct InventoryConfig {
    /// Number; the next free one when absent.
    pub id: Option<i64>,
    /// Name, unique in its organization.
    pub name: String,
    /// Organization's name; the first one when absent.
    pub organization: Option<String>,
    /// Variables of the inventory.
    pub variables: Vars,
    /// Groups.
    pub groups: Vec<GroupConfig>,
    /// Hosts.
    pub hosts: Vec<HostConfig>,
}

/// One group of an inventory.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupConfig {
    /// Number; the next free one when absent.
    pub id: Option<i64>,
    /// Name, unique in the inventory.
    pub name: String,
    /// Variables of the group.
    pub variables: Vars,
    /// Names of child groups.
    pub children: Vec<String>,
    /// Names of hosts that belong to the group directly.
    pub hosts: Vec<String>,
}

/// One host of an inventory.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Number; the next free one when absent.
    pub id: Option<i64>,
    /// Name, unique in the inventory.
    pub name: String,
    /// Disabled hosts take no part in jobs.
    pub enabled: bool,
    /// Variables of the host.
    pub variables: Vars,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { id: None, name: String::new(), enabled: true, variables: Vars::new() }
    }
}

/// One project: a directory of playbooks, as a manual project on a controller.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectConfig {
    /// Number (shared with templates); the next free one when absent.
    pub id: Option<i64>,
    /// Name.
    pub name: String,
    /// Organization's name; the first one when absent.
    pub organization: Option<String>,
    /// Directory of the playbooks; relative to the configuration file.
    pub path: PathBuf,
}

/// One machine credential.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialConfig {
    /// Number; the next free one when absent.
    pub id: Option<i64>,
    /// Name.
    pub name: String,
    /// Organization's name; the first one when absent.
    pub organization: Option<String>,
    /// Remote user.
    pub username: Option<String>,
    /// Private key file; relative to the configuration file.
    pub ssh_key_file: Option<PathBuf>,
    /// Known hosts file; host key checking is on when it is given, off (as on a controller) when not.
    pub known_hosts_file: Option<PathBuf>,
}

/// One job template.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TemplateConfig {
    /// Number (shared with projects); the next free one when absent.
    pub id: Option<i64>,
    /// Name, unique in the organization.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Inventory's name; a template without one cannot be launched unless it asks for it.
    pub inventory: Option<String>,
    /// Project's name; the first one when absent.
    pub project: Option<String>,
    /// Playbook: a file of the project, or the full name of a collection's playbook.
    pub playbook: String,
    /// Names of machine credentials.
    pub credentials: Vec<String>,
    /// What the template prompts for on launch: `limit`, `variables`, `inventory`, `credential`, `labels`, `tags`,
    /// `skip_tags`, `job_type`, `verbosity`, `diff_mode`, `forks`, `timeout`, `job_slice_count`, `scm_branch`,
    /// `execution_environment`, `instance_groups`; or `all`.
    pub ask: Vec<String>,
    /// Whether jobs of this template may overlap.
    pub allow_simultaneous: bool,
    /// Number of slices; more than 1 makes every launch a workflow.
    pub job_slice_count: i64,
    /// The template's own limit.
    pub limit: String,
    /// The template's own variables.
    pub extra_vars: Vars,
    /// `run` or `check`.
    pub job_type: String,
    /// 0–5.
    pub verbosity: i64,
    /// 0 = Ansible's own default.
    pub forks: i64,
    /// Seconds until the controller ends a job; 0 = never.
    pub timeout: i64,
    /// Whether changes are shown.
    pub diff_mode: bool,
    /// Whether plays become root.
    pub become_enabled: bool,
    /// Survey; enabled when given.
    pub survey: Option<Survey>,
}

impl Default for TemplateConfig {
    fn default() -> Self {
        Self {
            id: None,
            name: String::new(),
            description: String::new(),
            inventory: None,
            project: None,
            playbook: String::new(),
            credentials: Vec::new(),
            ask: Vec::new(),
            allow_simultaneous: false,
            job_slice_count: 1,
            limit: String::new(),
            extra_vars: Vars::new(),
            job_type: "run".to_owned(),
            verbosity: 0,
            forks: 0,
            timeout: 0,
            diff_mode: false,
            become_enabled: false,
            survey: None,
        }
    }
}

/// A template's survey, in the controller's own form.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Survey {
    /// Title.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Questions.
    pub spec: Vec<Question>,
}

/// One question of a survey.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Question {
    /// What a person reads.
    pub question_name: String,
    /// More to read.
    pub question_description: String,
    /// Whether an answer is needed.
    pub required: bool,
    /// `text`, `textarea`, `password`, `multiplechoice`, `multiselect`, `integer`, `float`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Variable that receives the answer.
    pub variable: String,
    /// Lower bound (length for texts).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// Upper bound (length for texts).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// Choices: a list, or one text with a choice a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<Value>,
    /// Answer when none is given; the empty text means none.
    pub default: Value,
}

/// A label.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LabelConfig {
    /// Number; the next free one when absent.
    #[serde(default)]
    pub id: Option<i64>,
    /// Name.
    pub name: String,
    /// Organization's name; the first one when absent.
    #[serde(default)]
    pub organization: Option<String>,
}

/// A collection for the real executor.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
pub enum CollectionConfig {
    /// A directory that holds `ansible_collections/`.
    Root(PathBuf),
    /// The source directory of one collection (with `galaxy.yml`).
    Source {
        /// `namespace.name`.
        name: String,
        /// Directory; relative to the configuration file.
        path: PathBuf,
    },
}

/// A configuration that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_yaml::Error,
    },
    /// A name refers to nothing.
    #[error("{what} {name:?} of {owner} is not configured")]
    Unknown {
        /// Kind of the missing object.
        what: &'static str,
        /// Its name.
        name: String,
        /// Who refers to it.
        owner: String,
    },
    /// Two objects share a number or a name.
    #[error("two objects of kind {what} have the same {key}")]
    Duplicate {
        /// Kind of the objects.
        what: &'static str,
        /// The shared number or name.
        key: String,
    },
    /// A template asks for something that does not exist.
    #[error("template {template:?}: there is no prompt {prompt:?}; known are {known}")]
    Prompt {
        /// The template.
        template: String,
        /// The word.
        prompt: String,
        /// All words.
        known: String,
    },
}

impl Config {
    /// Reads a configuration file; relative paths in it are taken from its directory.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Parse`].
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config: Self = serde_yaml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        let here = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = here.parent().unwrap_or(std::path::Path::new("/"));
        for project in &mut config.projects {
            project.path = base.join(&project.path);
        }
        for credential in &mut config.credentials {
            for file in [&mut credential.ssh_key_file, &mut credential.known_hosts_file].into_iter().flatten() {
                *file = base.join(&file);
            }
        }
        for collection in &mut config.collections {
            match collection {
                CollectionConfig::Root(path) | CollectionConfig::Source { path, .. } => *path = base.join(&path),
            }
        }
        Ok(config)
    }
}

/// The prompts of a job template: (field of a launch or schedule, word in `ask`, name of the flag in the API).
pub const PROMPTS: &[(&str, &str, &str)] = &[
    ("scm_branch", "scm_branch", "ask_scm_branch_on_launch"),
    ("diff_mode", "diff_mode", "ask_diff_mode_on_launch"),
    ("extra_vars", "variables", "ask_variables_on_launch"),
    ("limit", "limit", "ask_limit_on_launch"),
    ("job_tags", "tags", "ask_tags_on_launch"),
    ("skip_tags", "skip_tags", "ask_skip_tags_on_launch"),
    ("job_type", "job_type", "ask_job_type_on_launch"),
    ("verbosity", "verbosity", "ask_verbosity_on_launch"),
    ("inventory", "inventory", "ask_inventory_on_launch"),
    ("credentials", "credential", "ask_credential_on_launch"),
    ("execution_environment", "execution_environment", "ask_execution_environment_on_launch"),
    ("labels", "labels", "ask_labels_on_launch"),
    ("forks", "forks", "ask_forks_on_launch"),
    ("job_slice_count", "job_slice_count", "ask_job_slice_count_on_launch"),
    ("timeout", "timeout", "ask_timeout_on_launch"),
    ("instance_groups", "instance_groups", "ask_instance_groups_on_launch"),
];

/// An organization, numbered.
#[derive(Debug, Clone)]
pub struct Organization {
    /// Number.
    pub id: i64,
    /// Name.
    pub name: String,
}

/// A user, numbered.
#[derive(Debug, Clone)]
pub struct User {
    /// Number.
    pub id: i64,
    /// As configured.
    pub config: UserConfig,
}

/// An inventory, numbered.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// Number.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Organization's number.
    pub organization: i64,
    /// Variables.
    pub variables: Vars,
    /// Groups by number.
    pub groups: BTreeMap<i64, GroupConfig>,
    /// Hosts by number.
    pub hosts: BTreeMap<i64, HostConfig>,
}

impl Inventory {
    /// Names of the hosts of a group, those of its descendants included.
    pub fn members(&self, group: &str) -> Vec<&str> {
        let mut seen = Vec::new();
        let mut queue = vec![group];
        let mut hosts = Vec::new();
        while let Some(name) = queue.pop() {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            if let Some(group) = self.groups.values().find(|group| group.name == name) {
                hosts.extend(group.hosts.iter().map(String::as_str));
                queue.extend(group.children.iter().map(String::as_str));
            }
        }
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// Number of a host by its name.
    pub fn host_id(&self, name: &str) -> Option<i64> {
        self.hosts.iter().find_map(|(id, host)| (host.name == name).then_some(*id))
    }
}

/// A project, numbered.
#[derive(Debug, Clone)]
pub struct Project {
    /// Number.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Organization's number.
    pub organization: i64,
    /// Directory of playbooks.
    pub path: PathBuf,
}

/// A machine credential, numbered.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Number.
    pub id: i64,
    /// Organization's number.
    pub organization: i64,
    /// As configured.
    pub config: CredentialConfig,
}

/// A job template, numbered.
#[derive(Debug, Clone)]
pub struct Template {
    /// Number.
    pub id: i64,
    /// Organization's number (that of its project).
    pub organization: i64,
    /// Project's number.
    pub project: i64,
    /// Inventory's number.
    pub inventory: Option<i64>,
    /// Credentials' numbers.
    pub credentials: Vec<i64>,
    /// As configured.
    pub config: TemplateConfig,
}

impl Template {
    /// Whether the template prompts for a field of a launch (`limit`, `extra_vars`, …).
    pub fn asks(&self, field: &str) -> bool {
        PROMPTS
            .iter()
            .find(|(name, ..)| *name == field)
            .is_some_and(|(_, word, _)| self.config.ask.iter().any(|asked| asked == word || asked == "all"))
    }
}

/// Everything configured, numbered: what the controller's database would hold before the first call.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Organizations.
    pub organizations: BTreeMap<i64, Organization>,
    /// Users.
    pub users: BTreeMap<i64, User>,
    /// Inventories.
    pub inventories: BTreeMap<i64, Inventory>,
    /// Projects.
    pub projects: BTreeMap<i64, Project>,
    /// Credentials.
    pub credentials: BTreeMap<i64, Credential>,
    /// Job templates.
    pub templates: BTreeMap<i64, Template>,
    /// Labels that exist from the start: number to (name, organization).
    pub labels: BTreeMap<i64, (String, i64)>,
}

impl Catalog {
    /// Checks a configuration and numbers its objects.
    ///
    /// # Errors
    /// When a name refers to nothing, is used twice, or a prompt does not exist.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let mut catalog = Self::default();
        let mut organizations = config.organizations.clone();
        if organizations.is_empty() {
            organizations.push(Named { id: None, name: "Default".to_owned() });
        }
        for (id, item) in numbered("organization", &organizations, |item| item.id, 1)? {
            catalog.organizations.insert(id, Organization { id, name: item.name });
        }
        for (id, config) in numbered("user", &config.users, |item| item.id, 1)? {
            catalog.users.insert(id, User { id, config });
        }
        catalog.add_inventories(config)?;
        catalog.add_templates(config)?;
        for (id, item) in numbered("label", &config.labels, |item| item.id, 1)? {
            let organization = catalog.organization(item.organization.as_deref(), &item.name)?;
            catalog.labels.insert(id, (item.name, organization));
        }
        Ok(catalog)
    }

    fn add_inventories(&mut self, config: &Config) -> Result<(), ConfigError> {
        let groups: Vec<_> = config.inventories.iter().flat_map(|item| item.groups.clone()).collect();
        let hosts: Vec<_> = config.inventories.iter().flat_map(|item| item.hosts.clone()).collect();
        let mut groups = numbered("group", &groups, |item| item.id, 1)?.into_iter();
        let mut hosts = numbered("host", &hosts, |item| item.id, 1)?.into_iter();
        for (id, item) in numbered("inventory", &config.inventories, |item| item.id, 1)? {
            let organization = self.organization(item.organization.as_deref(), &item.name)?;
            let inventory = Inventory {
                id,
                name: item.name,
                organization,
                variables: item.variables,
                groups: groups.by_ref().take(item.groups.len()).collect(),
                hosts: hosts.by_ref().take(item.hosts.len()).collect(),
            };
            for group in inventory.groups.values() {
                for name in &group.hosts {
                    if inventory.host_id(name).is_none() {
                        return Err(unknown("host", name, &format!("group {}", group.name)));
                    }
                }
                for name in &group.children {
                    if !inventory.groups.values().any(|other| other.name == *name) {
                        return Err(unknown("group", name, &format!("group {}", group.name)));
                    }
                }
            }
            self.inventories.insert(id, inventory);
        }
        Ok(())
    }

    fn add_templates(&mut self, config: &Config) -> Result<(), ConfigError> {
        // Projects and templates share one sequence on a controller (unified job templates).
        let mut projects = config.projects.clone();
        if projects.is_empty() {
            projects.push(ProjectConfig { name: "playbooks".to_owned(), ..ProjectConfig::default() });
        }
        for (id, item) in numbered("project", &projects, |item| item.id, 1)? {
            let organization = self.organization(item.organization.as_deref(), &item.name)?;
            self.projects.insert(id, Project { id, name: item.name, organization, path: item.path });
        }
        for (id, item) in numbered("credential", &config.credentials, |item| item.id, 1)? {
            let organization = self.organization(item.organization.as_deref(), &item.name)?;
            self.credentials.insert(id, Credential { id, organization, config: item });
        }
        let first = self.projects.keys().max().copied().unwrap_or(0) + 1;
        for (id, item) in numbered("job template", &config.job_templates, |item| item.id, first)? {
            if self.projects.contains_key(&id) {
                return Err(ConfigError::Duplicate { what: "project and job template", key: format!("number {id}") });
            }
            let owner = format!("job template {:?}", item.name);
            let project = match &item.project {
                Some(name) => self.projects.values().find(|project| project.name == *name),
                None => self.projects.values().next(),
            }
            .ok_or_else(|| unknown("project", item.project.as_deref().unwrap_or(""), &owner))?;
            let inventory = match &item.inventory {
                Some(name) => Some(
                    self.inventories
                        .values()
                        .find(|inventory| inventory.name == *name)
                        .map(|inventory| inventory.id)
                        .ok_or_else(|| unknown("inventory", name, &owner))?,
                ),
                None => None,
            };
            let mut credentials = Vec::new();
            for name in &item.credentials {
                let credential = self.credentials.values().find(|credential| credential.config.name == *name);
                credentials.push(credential.ok_or_else(|| unknown("credential", name, &owner))?.id);
            }
            for word in &item.ask {
                if word != "all" && !PROMPTS.iter().any(|(_, known, _)| known == word) {
                    let known = PROMPTS.iter().map(|(_, word, _)| *word).collect::<Vec<_>>().join(", ");
                    return Err(ConfigError::Prompt { template: item.name, prompt: word.clone(), known });
                }
            }
            let (organization, project) = (project.organization, project.id);
            self.templates.insert(id, Template { id, organization, project, inventory, credentials, config: item });
        }
        Ok(())
    }

    fn organization(&self, name: Option<&str>, owner: &str) -> Result<i64, ConfigError> {
        let found = match name {
            Some(name) => self.organizations.values().find(|organization| organization.name == name),
            None => self.organizations.values().next(),
        };
        found.map(|organization| organization.id).ok_or_else(|| unknown("organization", name.unwrap_or(""), owner))
    }
}

fn unknown(what: &'static str, name: &str, owner: &str) -> ConfigError {
    ConfigError::Unknown { what, name: name.to_owned(), owner: owner.to_owned() }
}

/// Gives every item a number: its own, or the next free one from `first`. Keeps the order of the items.
fn numbered<T: Clone>(what: &'static str, items: &[T], own: impl Fn(&T) -> Option<i64>, first: i64) -> Result<Vec<(i64, T)>, ConfigError> {
    let mut taken: Vec<i64> = Vec::new();
    for id in items.iter().filter_map(&own) {
        if taken.contains(&id) {
            return Err(ConfigError::Duplicate { what, key: format!("number {id}") });
        }
        taken.push(id);
    }
    let mut next = first;
    Ok(items
        .iter()
        .map(|item| {
            let id = own(item).unwrap_or_else(|| {
                while taken.contains(&next) {
                    next += 1;
                }
                taken.push(next);
                next
            });
            (id, item.clone())
        })
        .collect())
}
