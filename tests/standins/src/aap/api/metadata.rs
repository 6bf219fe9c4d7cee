//! `OPTIONS`: what a generic client (the `awx` command line) learns of a resource.

use serde_json::{Map, Value, json};

/// Names and types of fields.
type Table = &'static [(&'static str, &'static str)];

/// Fields of a launch, as `OPTIONS …/launch/` describes them.
const LAUNCH: Table = &[
    ("extra_vars", "json"),
    ("inventory", "id"),
    ("scm_branch", "string"),
    ("limit", "string"),
    ("job_tags", "string"),
    ("skip_tags", "string"),
    ("job_type", "choice"),
    ("verbosity", "choice"),
    ("diff_mode", "boolean"),
    ("credentials", "list_of_ids"),
    ("credential_passwords", "json"),
    ("execution_environment", "id"),
    ("labels", "field"),
    ("forks", "integer"),
    ("job_slice_count", "integer"),
    ("timeout", "integer"),
    ("instance_groups", "field"),
];

const LAUNCH_FORM: Table = &[
    ("can_start_without_user_input", "boolean"),
    ("passwords_needed_to_start", "field"),
    ("ask_scm_branch_on_launch", "boolean"),
    ("ask_variables_on_launch", "boolean"),
    ("ask_tags_on_launch", "boolean"),
    ("ask_diff_mode_on_launch", "boolean"),
    ("ask_skip_tags_on_launch", "boolean"),
    ("ask_job_type_on_launch", "boolean"),
    ("ask_limit_on_launch", "boolean"),
    ("ask_verbosity_on_launch", "boolean"),
    ("ask_inventory_on_launch", "boolean"),
    ("ask_credential_on_launch", "boolean"),
    ("ask_execution_environment_on_launch", "boolean"),
    ("ask_labels_on_launch", "boolean"),
    ("ask_forks_on_launch", "boolean"),
    ("ask_job_slice_count_on_launch", "boolean"),
    ("ask_timeout_on_launch", "boolean"),
    ("ask_instance_groups_on_launch", "boolean"),
    ("survey_enabled", "boolean"),
    ("variables_needed_to_start", "field"),
    ("credential_needed_to_start", "field"),
    ("inventory_needed_to_start", "field"),
    ("job_template_data", "field"),
    ("defaults", "field"),
];

/// Fields that lists can be filtered by, for resources without a table of their own.
const COMMON: Table = &[("id", "integer"), ("type", "choice"), ("url", "string"), ("name", "string"), ("description", "string")];

const JOB: Table = &[
    ("id", "integer"),
    ("type", "choice"),
    ("url", "string"),
    ("name", "string"),
    ("description", "string"),
    ("status", "choice"),
    ("failed", "boolean"),
    ("launch_type", "choice"),
    ("started", "datetime"),
    ("finished", "datetime"),
    ("limit", "string"),
    ("job_template", "id"),
    ("inventory", "id"),
    ("project", "id"),
];

/// What `OPTIONS` says of a resource.
pub(super) fn describe(segments: &[&str]) -> Value {
    let launch = segments.len() == 3 && segments[2] == "launch";
    let (get, post): (Table, Table) = match segments {
        ["job_templates", _, "launch"] => (LAUNCH_FORM, LAUNCH),
        ["jobs" | "unified_jobs" | "workflow_jobs"] => (JOB, &[]),
        _ => (COMMON, &[]),
    };
    let resource = segments.first().copied().unwrap_or_default();
    let name = if launch { "Job Template Launch".to_owned() } else { title(resource) };
    let mut actions = Map::new();
    actions.insert("GET".to_owned(), fields(get, false));
    if !post.is_empty() {
        actions.insert("POST".to_owned(), fields(post, true));
    }
    let mut description = json!({
        "name": name, "description": format!("{name}."), "renders": ["application/json", "text/html"],
        "parses": ["application/json"], "actions": actions, "types": [resource.trim_end_matches('s')],
    });
    if launch {
        description["object_roles"] = json!(["admin_role", "execute_role", "read_role"]);
    }
    description
}

fn fields(table: Table, write: bool) -> Value {
    let mut fields = Map::new();
    for (name, kind) in table {
        let mut field = json!({
            "type": kind, "hidden": false, "label": title(name),
            "filterable": !matches!(*kind, "field" | "list_of_ids"),
        });
        if write {
            field["required"] = json!(false);
            field["write_only"] = json!(true);
        }
        match (*name, *kind) {
            ("job_type", "choice") => field["choices"] = json!([["run", "Run"], ["check", "Check"]]),
            ("verbosity", "choice") => {
                field["choices"] = json!([
                    [0, "0 (Normal)"],
                    [1, "1 (Verbose)"],
                    [2, "2 (More Verbose)"],
                    [3, "3 (Debug)"],
                    [4, "4 (Connection Debug)"],
                    [5, "5 (WinRM Debug)"],
                ]);
            }
            ("status", "choice") => {
                let words = ["new", "pending", "waiting", "running", "successful", "failed", "error", "canceled"];
                field["choices"] = words.map(|word| json!([word, title(word)])).into_iter().collect();
            }
            (_, "choice") => field["choices"] = json!([]),
            ("forks" | "job_slice_count", "integer") if write => field["min_value"] = json!(0),
            _ => {}
        }
        fields.insert((*name).to_owned(), field);
    }
    Value::Object(fields)
}

fn title(name: &str) -> String {
    let mut text = name.replace('_', " ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}
