//! Names of hosts and groups, as a tenant's inventory has them, up to the scope that is fixed. The first line is how groups are found (`V` by the
//! variable, `G` as a group of the inventory) and the group that is asked for; the rest is the inventory.
//!
//! Every host of a scope means exactly one host in a limit, has the group that was asked for, and is read back as it was written.
#![no_main]

use std::collections::BTreeSet;

use fettle::{
    api::{automation_connection::GroupBy, patch_run::PatchRunSpec},
    controllers::patch_run::scope,
    names,
};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|data: &str| {
    let Some((asked, text)) = data.split_once('\n') else { return };
    let (by_group, group) = match asked.strip_prefix('G') {
        Some(group) => (true, group),
        None => (false, asked.trim_start_matches('V')),
    };
    let label = names::label_value(group);
    assert!(label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
    let Ok(hosts) = scope::parse_inventory(text, "patch_group") else { return };
    let by = if by_group { GroupBy::InventoryGroup } else { GroupBy::Variable };
    let Ok(spec) = serde_json::from_value::<PatchRunSpec>(json!({"connection": {"name": "c"}, "group": group, "phases": ["precheck"]}))
    else {
        return;
    };
    let own = BTreeSet::from(["10.0.0.9".to_owned()]);
    let Ok(plan) = scope::resolve(&spec, by, "patch_group", &hosts, ("scope", "uuid"), &own) else { return };
    assert!((1..=1000).contains(&plan.hosts.len()));
    let limit = plan.hosts.keys().map(String::as_str).collect::<Vec<_>>().join(",");
    assert_eq!(limit.split([',', ':', ';', ' ', '&', '!', '~', '[', '*', '@']).count(), plan.hosts.len(), "{limit}");
    for (name, variables) in &plan.hosts {
        assert!(!["all", "ungrouped", "localhost"].contains(&name.as_str()) && !name.starts_with('-'));
        assert!(hosts.iter().any(|host| host.name == *name && host.enabled), "{name} is not of this inventory");
        assert!(variables.keys().all(|key| key.starts_with("fettle_") || key.starts_with("ansible_")));
        assert!(!variables.keys().any(|key| key.contains("pass")) || variables.keys().all(|key| !key.starts_with("ansible_pass")));
    }
    let map = scope::config_map("ns", "run", "v1-k", &plan);
    assert_eq!(scope::read(&map, "v1-k").expect("what was written").1, plan.hosts.keys().cloned().collect());
    assert!(scope::read(&map, "v1-other").is_none());
});
