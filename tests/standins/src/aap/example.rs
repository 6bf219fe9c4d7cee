//! A small configuration that tests and demonstrations can start from.

use serde_json::json;

use super::config::{
    Config, GroupConfig, HostConfig, InventoryConfig, Named, ProjectConfig, Role, TemplateConfig, Timing, TokenConfig, UserConfig, Vars,
};

impl Config {
    /// Organization `Ops`; users `admin`, `execute`, `read` with the tokens `admin-token`, `execute-token`, `read-token`
    /// (`execute` and `read` may also read the inventory); inventory `fleet` with `web-1`, `web-2`, `db-1` (variable
    /// `patch_group: "5"`, groups `web`, `db` and `patch_5`); templates `stage`, `apply`, `reboot` that prompt for limit and
    /// variables; [`Timing::fast`].
    pub fn example() -> Self {
        let user = |name: &str, role: Role| UserConfig {
            username: name.to_owned(),
            password: Some(format!("{name}-password")),
            role,
            inventories: vec!["*".to_owned()],
            tokens: vec![TokenConfig { token: format!("{name}-token"), scope: "write".to_owned() }],
            ..UserConfig::default()
        };
        let host = |name: &str, role: &str| HostConfig {
            name: name.to_owned(),
            variables: vars(&json!({"patch_group": "5", "fettle_role": role, "ansible_host": format!("{name}.bed.test")})),
            ..HostConfig::default()
        };
        let group = |name: &str, hosts: &[&str]| GroupConfig {
            name: name.to_owned(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..GroupConfig::default()
        };
        let template = |name: &str| TemplateConfig {
            name: name.to_owned(),
            inventory: Some("fleet".to_owned()),
            playbook: format!("{name}.yml"),
            ask: vec!["limit".to_owned(), "variables".to_owned()],
            ..TemplateConfig::default()
        };
        Self {
            timing: Timing::fast(),
            organizations: vec![Named { id: None, name: "Ops".to_owned() }],
            users: vec![user("admin", Role::Admin), user("execute", Role::Execute), user("read", Role::Read)],
            inventories: vec![InventoryConfig {
                name: "fleet".to_owned(),
                groups: vec![group("web", &["web-1", "web-2"]), group("db", &["db-1"]), group("patch_5", &["web-1", "web-2", "db-1"])],
                hosts: vec![host("web-1", "web"), host("web-2", "web"), host("db-1", "db")],
                ..InventoryConfig::default()
            }],
            projects: vec![ProjectConfig { name: "fettle".to_owned(), ..ProjectConfig::default() }],
            job_templates: ["stage", "apply", "reboot"].map(template).to_vec(),
            ..Self::default()
        }
    }
}

fn vars(value: &serde_json::Value) -> Vars {
    value.as_object().cloned().unwrap_or_default()
}
