//! The scope: the exact host set of a run, resolved once, and the ConfigMap that fixes it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    decide::{Gate, ScopePlan},
    verdict,
};
use crate::{
    api::{
        automation_connection::GroupBy,
        patch_run::{PatchRunSpec, ScopeStatus},
        reason::Reason,
    },
    names,
};

/// Most hosts of one run.
const MOST_HOSTS: usize = 1000;
/// Longest limit of one launch, bytes.
const LONGEST_LIMIT: usize = 100 << 10;
/// Most bytes of an inventory of the checks: a ConfigMap holds one MiB.
const LARGEST_INVENTORY: usize = 800 << 10;
/// Excluded hosts named in the status.
const NAMED: usize = 10;

/// Most bytes that reading an inventory may copy from groups to hosts.
const MOST_COPIED: usize = 32 << 20;
/// Bytes that a variable takes besides name and value, about.
const OVERHEAD: usize = 64;

/// Host variables that are copied for the checks, besides `fettle_…`. Anything else may hold a password, or run a command on the pod.
const ALLOWED: &[&str] = &[
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "ansible_become",
    "ansible_become_method",
    "ansible_become_user",
    "ansible_python_interpreter",
];

/// One host of an inventory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Whether jobs may touch it.
    pub enabled: bool,
    /// Its variables, those of its groups included.
    pub variables: BTreeMap<String, Value>,
    /// The groups it is in, at any depth.
    pub groups: BTreeSet<String>,
}

/// Scopes that were read, by run key. They are immutable, so nothing in here can be out of date.
#[derive(Default)]
pub struct Cache(Mutex<BTreeMap<String, (ScopeStatus, BTreeSet<String>)>>);

impl Cache {
    /// Most scopes kept; with more, all are read again.
    const MOST: usize = 512;

    /// The scope of that run key.
    pub fn get(&self, run_key: &str) -> Option<(ScopeStatus, BTreeSet<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(run_key).cloned()
    }

    /// Keeps a scope.
    pub fn put(&self, run_key: &str, status: &ScopeStatus, hosts: &BTreeSet<String>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= Self::MOST {
            kept.clear();
        }
        kept.insert(run_key.to_owned(), (status.clone(), hosts.clone()));
    }
}

/// Selects the hosts of a run from an inventory. `ledger` is the identity of the controller; `own_nodes` are names and addresses of the node the operator runs on.
pub fn resolve(
    spec: &PatchRunSpec,
    group_by: GroupBy,
    group_variable: &str,
    inventory: &[Host],
    (config_map, ledger): (&str, &str),
    own_nodes: &BTreeSet<String>,
) -> Result<ScopePlan, Gate> {
    let refuse = |reason, why: String| Err(Gate::Refuse(reason, why));
    let chosen: Vec<&Host> = match (&spec.group, &spec.hosts) {
        (Some(group), _) => {
            let group = group.to_string();
            inventory.iter().filter(|host| is_member(host, &group, group_by, group_variable)).collect()
        }
        (None, Some(wanted)) => {
            let by_name: BTreeMap<&str, &Host> = inventory.iter().map(|h| (h.name.as_str(), h)).collect();
            let unknown: Vec<&str> =
                wanted.iter().map(String::as_str).filter(|name| by_name.get(name).is_none_or(|h| !h.enabled)).collect();
            if !unknown.is_empty() {
                return refuse(Reason::HostsNotFound, format!("not in the inventory, or disabled there: {}", verdict::listed(&unknown)));
            }
            wanted.iter().filter_map(|name| by_name.get(name.as_str()).copied()).collect()
        }
        (None, None) => vec![],
    };
    let (enabled, disabled): (Vec<&Host>, Vec<&Host>) = chosen.into_iter().partition(|host| host.enabled);
    if enabled.is_empty() {
        let what = spec.group.as_ref().map_or_else(|| "hosts".to_owned(), |g| format!("group {g}"));
        let how = match group_by {
            GroupBy::Variable => format!("by the variable {group_variable}"),
            GroupBy::InventoryGroup => "as a group of the inventory".to_owned(),
        };
        let left_out = if disabled.is_empty() { String::new() } else { format!(" ({} are disabled)", disabled.len()) };
        return refuse(Reason::ScopeEmpty, format!("{what}, looked up {how}, has no enabled host in the inventory{left_out}"));
    }
    let invalid = enabled.iter().find(|host| !is_plain(&host.name));
    if let Some(host) = invalid {
        let shown: String = host.name.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect();
        return refuse(Reason::HostsNotFound, format!("the inventory has a host whose name cannot be a limit: {shown:?}"));
    }
    let names: BTreeSet<String> = enabled.iter().map(|h| h.name.clone()).collect();
    let mut known = BTreeMap::new();
    if let Some((name, other)) = names.iter().find_map(|name| Some((name, known.insert(name.to_lowercase(), name)?))) {
        return refuse(Reason::HostsAmbiguous, format!("{other} and {name} differ in nothing but letter case: they are one host"));
    }
    let limit: usize = names.iter().map(|n| n.len() + 1).sum();
    if names.len() > MOST_HOSTS || limit > LONGEST_LIMIT {
        return refuse(
            Reason::ScopeTooLarge,
            format!("{} hosts; a run takes at most {MOST_HOSTS} and 100 KiB of names: split the group", names.len()),
        );
    }
    if !spec.allow_self.unwrap_or(false)
        && let Some(own) = enabled.iter().find(|host| is_one_of(host, own_nodes))
    {
        return refuse(
            Reason::ScopeSelf,
            format!("{} is the node this operator runs on: rebooting it would stop the operator that reboots it", own.name),
        );
    }
    let mut excluded: Vec<String> = disabled.iter().map(|h| h.name.clone()).collect();
    excluded.sort_unstable();
    excluded.truncate(NAMED);
    let hosts = enabled.iter().map(|host| (host.name.clone(), allowed(&host.variables))).collect();
    let size = inventory_of(&hosts).len();
    if size > LARGEST_INVENTORY {
        return refuse(
            Reason::ScopeTooLarge,
            format!(
                "its hosts and those of their variables that checks use take {} KiB; a run takes at most {} KiB: split the group",
                size >> 10,
                LARGEST_INVENTORY >> 10
            ),
        );
    }
    let status = ScopeStatus {
        config_map: config_map.to_owned(),
        hosts: i32::try_from(names.len()).unwrap_or(i32::MAX),
        digest: digest(&names),
        ledger: ledger.to_owned(),
        excluded,
    };
    Ok(ScopePlan { status, hosts })
}

fn is_member(host: &Host, group: &str, group_by: GroupBy, variable: &str) -> bool {
    match group_by {
        GroupBy::InventoryGroup => host.groups.contains(group),
        GroupBy::Variable => host.variables.get(variable).is_some_and(|value| match value {
            Value::String(text) => text == group,
            Value::Number(number) => number.to_string() == group,
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
        }),
    }
}

/// Whether a name means exactly one host in a limit: no pattern characters, none of Ansible's own words.
pub fn is_plain(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=253).contains(&name.len())
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && !matches!(name, "all" | "ungrouped" | "localhost")
}

fn is_one_of(host: &Host, nodes: &BTreeSet<String>) -> bool {
    let address = host.variables.get("ansible_host").and_then(Value::as_str);
    [Some(host.name.as_str()), address].into_iter().flatten().any(|name| nodes.contains(&name.to_lowercase()))
}

fn is_for_checks(variable: &str) -> bool {
    ALLOWED.contains(&variable) || variable.starts_with("fettle_")
}

fn allowed(variables: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    variables
        .iter()
        .filter(|(name, _)| is_for_checks(name))
        // a template in a variable would be evaluated inside the check's pod
        .filter(|(_, value)| !value.to_string().contains("{{") && !value.to_string().contains("{%"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// SHA-256 over the sorted names, one per line.
pub fn digest(names: &BTreeSet<String>) -> String {
    let text: String = names.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
    names::sha256_hex(text.as_bytes())
}

/// The inventory of the checks.
fn inventory_of(hosts: &BTreeMap<String, BTreeMap<String, Value>>) -> String {
    format!("{:#}\n", json!({"all": {"hosts": hosts}}))
}

/// The ConfigMap that fixes the scope: `scope.json` for Fettle, `inventory.json` for the checks.
pub fn config_map(namespace: &str, run: &str, run_key: &str, plan: &ScopePlan) -> ConfigMap {
    let scope = json!({"hosts": plan.hosts.keys().collect::<Vec<_>>(), "digest": plan.status.digest, "ledger": plan.status.ledger, "excluded": plan.status.excluded});
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(plan.status.config_map.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([
                ("app.kubernetes.io/managed-by".into(), names::MANAGER.into()),
                (names::PATCH_RUN.into(), names::label_value(run)),
            ])),
            annotations: Some(BTreeMap::from([(names::RUN_KEY.into(), run_key.to_owned())])),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some(BTreeMap::from([("inventory.json".into(), inventory_of(&plan.hosts)), ("scope.json".into(), format!("{scope:#}\n"))])),
        ..ConfigMap::default()
    }
}

/// Reads a scope back. `None` when the ConfigMap is not the one Fettle wrote for `run_key`.
pub fn read(map: &ConfigMap, run_key: &str) -> Option<(ScopeStatus, BTreeSet<String>)> {
    #[derive(Deserialize)]
    struct Scope {
        hosts: BTreeSet<String>,
        digest: String,
        ledger: String,
        excluded: Vec<String>,
    }
    let annotations = map.metadata.annotations.as_ref()?;
    if annotations.get(names::RUN_KEY)? != run_key || map.immutable != Some(true) {
        return None;
    }
    let scope: Scope = serde_json::from_str(map.data.as_ref()?.get("scope.json")?).ok()?;
    if scope.digest != digest(&scope.hosts) || scope.hosts.is_empty() || !scope.hosts.iter().all(|h| is_plain(h)) {
        return None;
    }
    let status = ScopeStatus {
        config_map: map.metadata.name.clone()?,
        hosts: i32::try_from(scope.hosts.len()).ok()?,
        digest: scope.digest,
        ledger: scope.ledger,
        excluded: scope.excluded,
    };
    Some((status, scope.hosts))
}

/// An Ansible inventory in YAML or JSON, as far as it lists hosts: `all` and other groups with `hosts`, `vars` and `children`. Of the variables
/// those that a scope can use. A tenant wrote it: what a group says is multiplied by its hosts, and that is bounded.
pub fn parse_inventory(text: &str, group_variable: &str) -> Result<Vec<Host>, String> {
    let top: BTreeMap<String, Option<Group>> = crate::yaml::from_str(text).map_err(|e| e.to_string())?;
    let mut reading = Reading { group_variable, left: MOST_COPIED, hosts: BTreeMap::new() };
    for (name, group) in top {
        reading.group(name, group.unwrap_or_default(), &BTreeSet::new(), &BTreeMap::new())?;
    }
    Ok(reading.hosts.into_values().collect())
}

type Variables = BTreeMap<String, Value>;

/// A group as an inventory has it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Group {
    hosts: Option<BTreeMap<String, Option<Variables>>>,
    vars: Option<Variables>,
    children: Option<BTreeMap<String, Option<Self>>>,
}

/// An inventory that is being read.
struct Reading<'a> {
    group_variable: &'a str,
    /// Bytes that may still be copied.
    left: usize,
    hosts: BTreeMap<String, Host>,
}

impl Reading<'_> {
    /// Reads a group that lies below those of `path` and inherits `vars`.
    fn group(&mut self, name: String, group: Group, path: &BTreeSet<String>, vars: &Variables) -> Result<(), String> {
        let mut path = path.clone();
        path.insert(name);
        let mut vars = vars.clone();
        vars.extend(self.used(group.vars));
        let weight = path.iter().map(|group| group.len() + OVERHEAD).sum::<usize>()
            + vars.iter().map(|(name, value)| name.len() + value.to_string().len() + OVERHEAD).sum::<usize>();
        let hosts = group.hosts.unwrap_or_default();
        let children = group.children.unwrap_or_default();
        self.left = weight.checked_mul(hosts.len() + children.len()).and_then(|copied| self.left.checked_sub(copied)).ok_or_else(|| {
            format!(
                "the variables of its groups, counted for every host and group below, are more than {} MiB: split it",
                MOST_COPIED >> 20
            )
        })?;
        for (host, own) in hosts {
            let own = self.used(own);
            let entry = self.hosts.entry(host.clone()).or_insert_with(|| Host { name: host, enabled: true, ..Host::default() });
            entry.groups.extend(path.iter().cloned());
            for (key, value) in &vars {
                entry.variables.entry(key.clone()).or_insert_with(|| value.clone());
            }
            entry.variables.extend(own);
        }
        for (child, group) in children {
            self.group(child, group.unwrap_or_default(), &path, &vars)?;
        }
        Ok(())
    }

    fn used(&self, vars: Option<Variables>) -> Variables {
        vars.into_iter().flatten().filter(|(name, _)| name == self.group_variable || is_for_checks(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(yaml: &str) -> PatchRunSpec {
        crate::yaml::from_str(yaml).unwrap()
    }

    fn inventory() -> Vec<Host> {
        parse_inventory(
            "
all:
  children:
    web:
      vars: {patch_group: 5, fettle_role: web}
      hosts:
        web-1: {ansible_host: 10.0.0.1, ansible_password: hunter2}
        web-2: {patch_group: '5', fettle_note: '{{ lookup(\"pipe\", \"id\") }}'}
    db:
      hosts: {db-1: {patch_group: 6}}
",
            "patch_group",
        )
        .unwrap()
    }

    fn resolved(yaml: &str) -> Result<ScopePlan, Gate> {
        resolve(&spec(yaml), GroupBy::Variable, "patch_group", &inventory(), ("cm", "uuid"), &["10.0.0.9".to_owned()].into())
    }

    #[test]
    fn groups_are_compared_as_text_and_group_variables_count() {
        let plan = resolved("{connection: {name: c}, group: 5, phases: [precheck]}").unwrap();
        assert_eq!(plan.hosts.keys().collect::<Vec<_>>(), ["web-1", "web-2"]);
    }

    #[test]
    fn little_text_cannot_become_much() {
        let lines = |line: &str| (0..2000).map(|n| line.replace('#', &n.to_string())).collect::<String>();
        let hosts = |name: &str, length: usize| {
            let text = format!("all:\n  vars: {{{name}: {}}}\n  hosts:\n{}", "x".repeat(length), lines("    host-#:\n"));
            parse_inventory(&text, "patch_group")
        };
        let refused = hosts("fettle_note", 64 << 10).unwrap_err();
        assert!(refused.contains("32 MiB"), "{refused}");
        assert_eq!(hosts("fettle_note", 1 << 10).map(|hosts| hosts.len()), Ok(2000));
        // what nobody asks for is not multiplied
        assert!(hosts("banner", 64 << 10).is_ok_and(|hosts| hosts[0].variables.is_empty()));
        let long = "x".repeat(64 << 10);
        let groups = format!("all:\n  vars: {{fettle_note: {long}}}\n  children:\n{}", lines("    group-#:\n"));
        assert!(parse_inventory(&groups, "patch_group").is_err());
        let aliases = format!("all:\n  vars: {{long: &long {long}}}\n  hosts:\n{}", lines("    host-#: {fettle_note: *long}\n"));
        assert!(parse_inventory(&aliases, "patch_group").is_err());
    }

    #[test]
    fn passwords_and_templates_are_not_copied() {
        let plan = resolved("{connection: {name: c}, group: 5, phases: [precheck]}").unwrap();
        let text = format!("{:?}", config_map("ns", "run", "v1-x", &plan));
        assert!(!text.contains("hunter2") && !text.contains("lookup"), "{text}");
        assert!(text.contains("10.0.0.1"));
    }

    #[test]
    fn an_empty_group_is_refused() {
        let refused = resolved("{connection: {name: c}, group: 7, phases: [precheck]}").unwrap_err();
        assert!(matches!(refused, Gate::Refuse(Reason::ScopeEmpty, _)));
        let refused = resolved("{connection: {name: c}, hosts: [web-1, ghost, wbe-2], phases: [precheck]}").unwrap_err();
        assert!(matches!(refused, Gate::Refuse(Reason::HostsNotFound, ref why) if why.ends_with(": ghost, wbe-2")), "{refused:?}");
    }

    #[test]
    fn a_scope_that_no_config_map_can_hold_is_refused() {
        let large = |n: usize, note: usize| {
            let variables = [("patch_group".into(), json!(5)), ("fettle_note".into(), json!("x".repeat(note)))].into();
            Host { name: format!("host-{n}"), enabled: true, variables, ..Host::default() }
        };
        let of = |note: usize| {
            let inventory: Vec<Host> = (0..1000).map(|n| large(n, note)).collect();
            let spec = spec("{connection: {name: c}, group: 5, phases: [precheck]}");
            resolve(&spec, GroupBy::Variable, "patch_group", &inventory, ("cm", "uuid"), &BTreeSet::new())
        };
        let refused = of(1000).unwrap_err();
        assert!(matches!(refused, Gate::Refuse(Reason::ScopeTooLarge, ref why) if why.contains("800 KiB")), "{refused:?}");
        let map = config_map("ns", "run", "v1-x", &of(600).unwrap());
        assert!(map.data.unwrap().values().map(String::len).sum::<usize>() < 1 << 20);
    }

    #[test]
    fn names_that_differ_in_letter_case_only_are_refused() {
        let twins = parse_inventory("all: {hosts: {web-1: {patch_group: 5}, Web-1: {patch_group: 5}}}", "patch_group").unwrap();
        let of = |yaml: &str| resolve(&spec(yaml), GroupBy::Variable, "patch_group", &twins, ("cm", "uuid"), &BTreeSet::new());
        let refused = of("{connection: {name: c}, group: 5, phases: [precheck]}").unwrap_err();
        assert!(matches!(refused, Gate::Refuse(Reason::HostsAmbiguous, ref why) if why.starts_with("Web-1 and web-1 ")), "{refused:?}");
        assert!(of("{connection: {name: c}, hosts: [web-1], phases: [precheck]}").is_ok(), "one of them alone");
    }

    #[test]
    fn the_operators_own_node_is_refused_unless_allowed() {
        let own = ["10.0.0.1".to_owned()].into();
        let of = |yaml: &str| resolve(&spec(yaml), GroupBy::Variable, "patch_group", &inventory(), ("cm", "uuid"), &own);
        assert!(matches!(of("{connection: {name: c}, group: 5, phases: [precheck]}"), Err(Gate::Refuse(Reason::ScopeSelf, _))));
        assert!(of("{connection: {name: c}, group: 5, phases: [precheck], allowSelf: true}").is_ok());
    }

    #[test]
    fn a_scope_reads_back_and_a_forged_one_does_not() {
        let plan = resolved("{connection: {name: c}, group: 5, phases: [precheck]}").unwrap();
        let map = config_map("ns", "run", "v1-x", &plan);
        let (status, hosts) = read(&map, "v1-x").unwrap();
        assert_eq!((status, hosts.len()), (plan.status, 2));
        assert_eq!(read(&map, "v1-y"), None);
        let mut forged = map.clone();
        forged.data.as_mut().unwrap().insert("scope.json".into(), r#"{"hosts":["db-1"],"digest":"0","excluded":[]}"#.into());
        assert_eq!(read(&forged, "v1-x"), None);
    }

    #[test]
    fn names_that_mean_more_than_one_host_are_not_plain() {
        for bad in ["", "all", "web*", "a,b", "a:b", "!a", "&a", "~a", "@a", "web[1:3]", "-a", "a.", "a b", "ä"] {
            assert!(!is_plain(bad), "{bad}");
        }
        assert!(is_plain("web-1.example.com"));
    }
}
