//! Hosts of an inventory, with their variables merged as Ansible merges them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Aap, Call, InventoryHost, LARGE, Result, error::ErrorKind, types::or_default, wire};

/// A group, as an Ansible inventory script gives it.
#[derive(Debug, Default, Deserialize)]
struct Group {
    #[serde(default, deserialize_with = "or_default")]
    hosts: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    children: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    vars: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Meta {
    #[serde(default, deserialize_with = "or_default")]
    hostvars: BTreeMap<String, Map<String, Value>>,
}

/// The answer of `inventories/{id}/script/`.
#[derive(Debug, Deserialize)]
struct Script {
    #[serde(default, rename = "_meta")]
    meta: Meta,
    #[serde(flatten)]
    groups: BTreeMap<String, Group>,
}

/// What the controller adds to the variables of a host when asked: whether it is enabled, under the new and the old name.
const ENABLED: [&str; 2] = ["remote_host_enabled", "remote_tower_enabled"];
const ADDED: [&str; 4] = ["remote_host_enabled", "remote_tower_enabled", "remote_host_id", "remote_tower_id"];

impl Aap {
    /// All hosts of an inventory, disabled ones included, sorted by name.
    pub async fn inventory_hosts(&self, id: i64) -> Result<Vec<InventoryHost>> {
        let call = Call::get("inventories/{id}/script/", format!("reading the hosts of inventory {id}"))
            .id(id)
            .query("hostvars", 1)
            .query("towervars", 1)
            .query("all", 1)
            .limit(LARGE)
            // thousands of hosts take the controller a while
            .deadline(wire::WRITE_DEADLINE);
        let reply = self.call(call).await?;
        let meta = reply.meta.clone();
        let script = reply.json::<Script>()?;
        let date = script.date;
        match script.value.hosts() {
            Ok(value) => Ok(super::Answer { value, date }),
            Err(detail) => Err(meta.error(ErrorKind::malformed(detail))),
        }
    }
}

impl Script {
    fn hosts(mut self) -> std::result::Result<Vec<InventoryHost>, String> {
        let depths = self.depths();
        let mut members: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for name in self.meta.hostvars.keys() {
            members.entry(name).or_default();
        }
        for name in self.groups.keys() {
            for host in self.hosts_below(name) {
                members.entry(host).or_default().insert(name);
            }
        }
        let everywhere = self.groups.get("all").map(|g| &g.vars);
        let mut hosts = vec![];
        for (name, groups) in &members {
            let mut order: Vec<(usize, i64, &str)> = groups
                .iter()
                .filter(|group| **group != "all")
                .map(|group| (depths.get(group).copied().unwrap_or(1), self.priority(group), *group))
                .collect();
            order.sort_unstable();
            let mut variables = everywhere.cloned().unwrap_or_default();
            for (_, _, group) in order {
                if let Some(group) = self.groups.get(group) {
                    variables.extend(group.vars.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
            }
            hosts.push(InventoryHost {
                name: (*name).to_owned(),
                enabled: true,
                variables,
                groups: groups.iter().filter(|g| !matches!(**g, "all" | "ungrouped")).map(|g| (*g).to_owned()).collect(),
            });
        }
        for host in &mut hosts {
            let mut own = self.meta.hostvars.remove(&host.name).unwrap_or_default();
            host.enabled = match ENABLED.iter().find_map(|key| own.get(*key)) {
                Some(Value::Bool(enabled)) => *enabled,
                Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
                _ => {
                    return Err(format!("the answer does not say whether host \"{}\" is enabled", host.name));
                }
            };
            for key in ADDED {
                own.remove(key);
            }
            host.variables.extend(own);
        }
        Ok(hosts)
    }

    /// Hosts of a group and of the groups below it.
    fn hosts_below<'a>(&'a self, name: &'a str) -> BTreeSet<&'a str> {
        let (mut hosts, mut seen, mut next) = (BTreeSet::new(), BTreeSet::new(), vec![name]);
        while let Some(name) = next.pop() {
            if !seen.insert(name) {
                continue;
            }
            if let Some(group) = self.groups.get(name) {
                hosts.extend(group.hosts.iter().map(String::as_str));
                next.extend(group.children.iter().map(String::as_str));
            }
        }
        hosts
    }

    /// How far each group is below `all`, by the longest way. Variables of deeper groups win.
    fn depths(&self) -> BTreeMap<&str, usize> {
        let mut depths: BTreeMap<&str, usize> = self.groups.keys().map(|name| (name.as_str(), usize::from(name != "all"))).collect();
        // a longest way visits each group once, so more rounds than groups change nothing unless there is a cycle
        for _ in 0..self.groups.len() {
            let mut changed = false;
            for (name, group) in self.groups.iter().filter(|(name, _)| *name != "all") {
                let below = depths.get(name.as_str()).copied().unwrap_or(1) + 1;
                for child in &group.children {
                    if let Some(depth) = depths.get_mut(child.as_str()).filter(|depth| **depth < below) {
                        *depth = below;
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        depths
    }

    /// `ansible_group_priority`: among groups of one depth the higher one wins.
    fn priority(&self, group: &str) -> i64 {
        let value = self.groups.get(group).and_then(|g| g.vars.get("ansible_group_priority"));
        match value {
            Some(Value::Number(n)) => n.as_i64().unwrap_or(1),
            Some(Value::String(s)) => s.trim().parse().unwrap_or(1),
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hosts(script: Value) -> std::result::Result<Vec<InventoryHost>, String> {
        serde_json::from_value::<Script>(script).unwrap().hosts()
    }

    #[test]
    fn variables_are_merged_as_ansible_does() {
        let hosts = hosts(json!({
            "all": {"vars": {"a": "all", "b": "all", "c": "all", "d": "all"}, "hosts": ["lonely"], "children": ["parent", "zebra"]},
            "parent": {"children": ["child"], "vars": {"b": "parent", "c": "parent", "d": "parent", "p": 1}},
            "child": {"hosts": ["web1", "web2"], "vars": {"c": "child", "d": "child"}},
            "zebra": {"hosts": ["web1"], "vars": {"c": "zebra", "patch_group": 5}},
            "apple": {"hosts": ["web1"], "vars": {"patch_group": 4, "x": "apple", "ansible_group_priority": 10}},
            "_meta": {"hostvars": {
                "web1": {"d": "host", "remote_host_enabled": "true", "remote_host_id": 2, "remote_tower_enabled": "true", "remote_tower_id": 2},
                "web2": {"remote_tower_enabled": "false"},
                "lonely": {"remote_host_enabled": "True"},
            }},
        }))
        .unwrap();
        let names: Vec<_> = hosts.iter().map(|h| (h.name.as_str(), h.enabled)).collect();
        assert_eq!(names, [("lonely", true), ("web1", true), ("web2", false)]);
        assert_eq!(Value::from(hosts[0].variables.clone()), json!({"a": "all", "b": "all", "c": "all", "d": "all"}));
        assert!(hosts[0].groups.is_empty());
        // child is deeper than zebra; apple has the higher priority at the depth of zebra
        let web1 = Value::from(hosts[1].variables.clone());
        let expected = json!({"a": "all", "b": "parent", "c": "child", "d": "host", "p": 1, "patch_group": 4, "x": "apple", "ansible_group_priority": 10});
        assert_eq!(web1, expected);
        assert_eq!(hosts[1].groups.iter().map(String::as_str).collect::<Vec<_>>(), ["apple", "child", "parent", "zebra"]);
        assert_eq!(hosts[2].groups.iter().map(String::as_str).collect::<Vec<_>>(), ["child", "parent"]);
    }

    #[test]
    fn the_deepest_group_wins_and_among_equals_the_higher_priority() {
        let hosts = hosts(json!({
            "a_deep": {"hosts": ["h"], "vars": {"k": "deep"}},
            "b_middle": {"children": ["a_deep"], "vars": {"k": "middle"}},
            "c_top": {"children": ["b_middle"], "vars": {"k": "top"}},
            "first": {"hosts": ["h"], "vars": {"p": "first", "ansible_group_priority": "10"}},
            "second": {"hosts": ["h"], "vars": {"p": "second"}},
            "_meta": {"hostvars": {"h": {"remote_host_enabled": true}}},
        }))
        .unwrap();
        assert_eq!((&hosts[0].variables["k"], &hosts[0].variables["p"]), (&json!("deep"), &json!("first")));
    }

    #[test]
    fn cycles_end() {
        let hosts = hosts(json!({
            "a": {"children": ["b"], "hosts": ["h"]}, "b": {"children": ["a"]},
            "_meta": {"hostvars": {"h": {"remote_host_enabled": true}}},
        }))
        .unwrap();
        assert_eq!(hosts[0].groups.len(), 2);
    }

    #[test]
    fn a_host_is_never_taken_for_enabled_without_being_told() {
        assert!(hosts(json!({"all": {"hosts": ["h"]}})).is_err());
        assert!(hosts(json!({"_meta": {"hostvars": {"h": {"x": 1}}}})).is_err());
    }

    #[test]
    fn an_empty_inventory_has_no_hosts() {
        assert_eq!(hosts(json!({"_meta": {"hostvars": {}}})), Ok(vec![]));
    }
}
