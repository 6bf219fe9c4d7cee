//! The stand-in against answers recorded from AWX 24.6.1: status, allowed methods, content type, key sets and JSON types; for
//! refusals the very words.
//!
//! The recordings are data beside the repository (`../shared/reference/aap-samples`), or where `FETTLE_SAMPLES` says.
//! `FETTLE_SKIP_SAMPLES=1` passes without them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use fettle_standins::aap::{
    Action, Catalog, Config, CredentialConfig, Fault, Flavour, GroupConfig, HostConfig, HostResult, InventoryConfig, Named, Outcome,
    ProjectConfig, Question, Role, Running, Script, Standin, Survey, TemplateConfig, Timing, TokenConfig, UserConfig,
};
use serde_json::{Map, Value, json};

/// One thing to do, in order. Numbers of jobs are those of the recording.
enum Step {
    /// Send the recorded request and compare the answer.
    Play(&'static str),
    /// Launch by hand: the recording of this launch is missing, its results are there.
    Hand(i64, &'static str, Value),
    /// Wait until a job has this status.
    Until(i64, &'static str),
    /// Wait until a job's events are in.
    Done(i64),
    /// Let a held job go on.
    Release(i64),
    /// Switch a fault on.
    Fault(Fault),
    /// Switch all faults off.
    Clear,
    /// Change the configuration.
    Edit(fn(&mut Catalog)),
    /// Wait until a schedule has fired.
    Fired,
}

use Step::{Clear, Done, Edit, Fired, Hand, Play, Release, Until};

/// What is not served, and why.
const OUT_OF_SCOPE: &[(&[&str], &str)] = &[
    (
        &[
            "credential_create",
            "group_add_host_existing",
            "group_add_host_existing2",
            "group_create",
            "host_create_db1",
            "host_create_web1",
            "host_create_web2",
            "inventory_create",
            "inventory_create2",
            "jt_create_fails",
            "jt_create_no-inv",
            "jt_create_ok-ask",
            "jt_create_ok-plain",
            "jt_create_ok-survey",
            "jt_create_slow",
            "jt_create_unreachable",
            "jt_patch_survey_enabled",
            "org_create",
            "project_create_manual",
            "survey_post",
            "user_create",
            "user_create_ro",
            "grant_execute_204",
            "grant_read_204",
            "credential_types",
            "credential_types_machine",
        ],
        "these objects come from the configuration file; nobody makes them through the API",
    ),
    (
        &["bulk_bad_400", "bulk_bad_op", "bulk_job_launch_201", "bulk_nodes", "bulk_search_by_name"],
        "bulk launches are not used: their names are not unique",
    ),
    (
        &[
            "wf_approval_get",
            "wf_approvals_pending",
            "wf_approve_204",
            "wf_approve_again_400",
            "wf_cancel",
            "wf_cancel_nodes",
            "wf_cancel_second_202",
            "wf_cancel_state",
            "wf_canceled_final",
            "wf_job_final",
            "wf_job_nodes_final",
            "wf_job_nodes_running",
            "wf_job_running",
            "wf_relaunch",
            "wfjt_create",
            "wfjt_launch_201",
            "wfjt_launch_get",
            "wfjt_link1",
            "wfjt_link2",
            "wfjt_node1",
            "wfjt_node3",
            "wfjt_node_approval",
            "wfjt_node_create_approval",
        ],
        "workflow templates are not launched; workflows exist as the answer to a sliced launch only",
    ),
    (
        &["jt_webhook_enable", "webhook_badsig_403", "webhook_dup_202", "webhook_first_202", "webhook_key_post", "webhook_search_guid"],
        "webhook launches cannot carry a limit",
    ),
    (
        &["notif_attach_204", "notif_template_create", "notification_webhook_received", "job_notifications"],
        "notifications are not used: they are unauthenticated",
    ),
    (&["metrics", "settings_jobs"], "read by people, not by the operator"),
];

fn vars(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn template(id: i64, name: &str, inventory: Option<&str>, playbook: &str, ask: &[&str]) -> TemplateConfig {
    TemplateConfig {
        id: Some(id),
        name: name.into(),
        inventory: inventory.map(str::to_owned),
        project: Some("demo".into()),
        playbook: playbook.into(),
        ask: ask.iter().map(|word| (*word).to_owned()).collect(),
        ..TemplateConfig::default()
    }
}

/// The recorded controller's objects under their recorded numbers, with the recorded tokens.
#[expect(clippy::too_many_lines, reason = "a list")]
fn config(samples: &Samples) -> Config {
    let host = |id: i64, name: &str| HostConfig { id: Some(id), name: name.into(), ..HostConfig::default() };
    let user = |id: i64, name: &str, role: Role, tokens: &[(&str, &str)], templates: &[&str]| UserConfig {
        id: Some(id),
        username: name.into(),
        password: Some("password".into()),
        role,
        templates: templates.iter().map(|name| (*name).to_owned()).collect(),
        tokens: tokens.iter().map(|(sample, scope)| TokenConfig { token: samples.bearer(sample), scope: (*scope).into() }).collect(),
        ..UserConfig::default()
    };
    let question = |name: &str, kind: &str, variable: &str, required: bool| Question {
        question_name: name.into(),
        kind: kind.into(),
        variable: variable.into(),
        required,
        default: json!(""),
        ..Question::default()
    };
    let most = [
        "variables",
        "tags",
        "diff_mode",
        "skip_tags",
        "job_type",
        "limit",
        "verbosity",
        "inventory",
        "credential",
        "execution_environment",
        "labels",
        "forks",
        "job_slice_count",
        "timeout",
        "instance_groups",
    ];
    let mut ok_ask = template(15, "ok-ask", Some("fleet"), "ok.yml", &most);
    ok_ask.allow_simultaneous = true;
    let mut survey = template(12, "ok-survey", Some("fleet"), "ok.yml", &["limit"]);
    survey.survey = Some(Survey {
        name: "sv".into(),
        description: String::new(),
        spec: vec![
            Question { choices: Some(json!(["low", "high"])), ..question("Severity?", "multiplechoice", "severity", true) },
            Question { min: Some(1), max: Some(64), ..question("Run", "text", "run_id", true) },
            Question { min: Some(0), max: Some(10), default: json!(3), ..question("N", "integer", "n", false) },
            question("Secret", "password", "secret", false),
        ],
    });
    Config {
        flavour: Flavour::AwxPrefixed,
        timing: Timing { explanation: 0.0, cancel: 0.3, ..Timing::fast() },
        organizations: vec![Named { id: Some(1), name: "Default".into() }, Named { id: Some(2), name: "Ops".into() }],
        users: vec![
            user(1, "admin", Role::Admin, &[("me_token", "write"), ("launch_ro_token_403", "read")], &[]),
            user(2, "op", Role::Execute, &[("me_op", "write")], &["ok-ask"]),
            user(3, "viewer", Role::Read, &[("rbac_viewer_get_job", "write")], &["ok-ask"]),
        ],
        inventories: vec![
            InventoryConfig {
                id: Some(2),
                name: "fleet".into(),
                organization: Some("Ops".into()),
                variables: vars(&json!({"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"})),
                groups: vec![GroupConfig {
                    id: Some(1),
                    name: "web".into(),
                    hosts: vec!["web1".into(), "web2".into()],
                    ..GroupConfig::default()
                }],
                hosts: vec![host(2, "web1"), host(3, "web2"), host(4, "db1")],
            },
            InventoryConfig {
                id: Some(3),
                name: "dead".into(),
                organization: Some("Ops".into()),
                hosts: vec![host(5, "dead1")],
                ..InventoryConfig::default()
            },
        ],
        projects: vec![
            ProjectConfig { id: Some(6), name: "Demo Project".into(), organization: Some("Default".into()), ..ProjectConfig::default() },
            ProjectConfig { id: Some(8), name: "demo".into(), organization: Some("Ops".into()), ..ProjectConfig::default() },
        ],
        credentials: vec![CredentialConfig {
            id: Some(3),
            name: "machine".into(),
            organization: Some("Ops".into()),
            ..CredentialConfig::default()
        }],
        job_templates: vec![
            template(9, "ok-plain", Some("fleet"), "ok.yml", &[]),
            template(10, "fails", Some("fleet"), "fail.yml", &["variables"]),
            template(11, "slow", Some("fleet"), "slow.yml", &["variables", "limit"]),
            survey,
            template(13, "no-inv", None, "ok.yml", &["inventory"]),
            template(14, "unreachable", Some("dead"), "unreach.yml", &[]),
            ok_ask,
            template(18, "nomatch", Some("fleet"), "nomatch.yml", &[]),
            template(19, "ignored", Some("fleet"), "ignored.yml", &[]),
            template(20, "broken", Some("fleet"), "ok.yml", &[]),
        ],
        ..Config::default()
    }
}

fn script(job: &fettle_standins::aap::Assignment) -> Script {
    let script = Script::new(job).without_reports();
    match job.template.as_str() {
        "fails" => script.host("db1", HostResult::Ok).host("web1", HostResult::Ok).host("web2", HostResult::Failed("no".into())),
        "slow" => script.printing("TASK [sleep]").held(),
        "unreachable" => script.host("dead1", HostResult::Unreachable("Connection refused".into())),
        "nomatch" => script.nobody(),
        "ignored" => script.host("web1", HostResult::Ignored("never mind".into())),
        "broken" => script.ending(Outcome::Error { traceback: "receptor".into() }),
        _ => {
            let script = script.artifact("result_key", json!("value-x")).artifact("per", json!({"a": 1})).printing("line");
            // Looked at while it runs.
            let seen = ["rb", "lblmark"].iter().any(|id| job.extra_vars.get("run_id") == Some(&json!(id)));
            if seen { script.held() } else { script }
        }
    }
}

fn request(method: &str, path: &str, action: Action) -> Step {
    Step::Fault(Fault::on(method, path, action).always())
}

/// The recording, played again in an order in which its objects come to be.
#[expect(clippy::too_many_lines, reason = "a list")]
fn steps() -> Vec<Step> {
    let broken = || Action::Status { code: 500, body: None, retry_after: None };
    let dead = || Step::Fault(Action::DispatcherDead.into());
    vec![
        // Roots, accounts, tokens.
        Play("api_root"),
        Play("api_v2_root"),
        Play("prefix_api"),
        Play("prefix_root"),
        Play("prefix_ping"),
        Play("ping"),
        Play("config"),
        Play("prefix_v2_still_works"),
        Play("me"),
        Play("me_token"),
        Play("me_op"),
        Play("me_401"),
        Play("me_401_badpw"),
        Play("me_bad_token_401"),
        Play("instance_groups"),
        Play("token_create_pat"),
        Play("token_create_pat_via_user"),
        Play("token_list"),
        Play("op_token"),
        Play("viewer_token"),
        // Labels, inventory.
        Play("label_create"),
        Play("label_create_dup_400"),
        Play("rbac_label_create_403"),
        Play("inv_by_name"),
        Play("inv_get"),
        Play("inv_named"),
        Play("inv_script"),
        Play("inv_script_host"),
        Play("host_create_dup_400"),
        Play("jt_list"),
        // A template that has run, before any schedule.
        Play("launch_full_201"),
        Until(3, "successful"),
        Done(3),
        Play("jt_get"),
        Play("job_template_by_name"),
        Play("unified_job_templates_by_name"),
        // Launch forms and refusals.
        Play("launch_get_ask"),
        Play("launch_get_plain"),
        Play("launch_get_survey"),
        Play("options_launch"),
        Play("launch_named_url"),
        Play("launch_named_url_404"),
        Play("prefix_named"),
        Play("survey_get"),
        Play("launch_404"),
        Play("launch_bad_inventory_400"),
        Play("launch_bad_json_400"),
        Play("launch_bad_types_400"),
        Play("launch_extra_vars_null"),
        Play("launch_method_405"),
        Play("launch_noinv_400"),
        Play("launch_ro_token_403"),
        Play("launch_survey_badchoice_400"),
        Play("launch_survey_missing_400"),
        Play("launch_unauth_401"),
        Play("launch_wrong_ct_415"),
        Play("job_404"),
        Play("rbac_get_invisible"),
        Play("rbac_launch_invisible"),
        Play("rbac_launch_readonly_403"),
        Play("rbac_launch_label_403"),
        Play("rbac_launch_cred_no_use_403"),
        Play("rbac_launch_inventory_no_use_403"),
        Play("rbac_op_hosts"),
        // A plain job.
        Play("launch_post_plain_201_ignored"),
        Until(1, "successful"),
        Done(1),
        Play("job_get_final_plain"),
        Play("job_host_summaries"),
        Play("job_events"),
        Play("job_events_counter_gt"),
        Play("job_events_limit"),
        Play("job_events_failed"),
        Play("job_labels"),
        Play("job_credentials"),
        Play("job_cancel_get"),
        Play("job_cancel_finished_405"),
        Play("stdout_txt"),
        Play("stdout_ansi"),
        Play("stdout_json"),
        Play("stdout_json_base64"),
        Play("stdout_json_past_end"),
        Play("stdout_json_start2_end5"),
        Play("stdout_html"),
        Play("stdout_noformat"),
        Play("stdout_accept_text"),
        Play("stdout_bad_format"),
        Play("stdout_txt_download"),
        Play("stdout_ansi_download"),
        Play("stdout_txt_start_line"),
        // A job with everything prompted; seen before its start.
        dead(),
        Play("launch_full_201"),
        Play("job_get_pending"),
        Clear,
        Until(3, "successful"),
        Done(3),
        Play("job_get_full_final"),
        Play("job_hs_full"),
        Play("job_labels_full"),
        Play("job_relaunch_zero_failed_400"),
        Play("launch_extra_vars_yaml_string"),
        Until(4, "successful"),
        Play("launch_survey_201"),
        Until(5, "successful"),
        Done(5),
        Play("job_survey_final"),
        // Failures and a relaunch.
        Play("launch_fail_201"),
        Until(6, "failed"),
        Done(6),
        Play("job_failed_final"),
        Play("job_failed_hs"),
        Play("job_failed_hs_only"),
        Play("job_failed_events"),
        Play("job_relaunch_get"),
        Play("job_relaunch_failed_201"),
        Until(7, "failed"),
        Done(7),
        Play("job_relaunch_result"),
        Play("launch_limit_nohosts"),
        Until(8, "failed"),
        Done(8),
        Play("job_limit_nohosts_final"),
        Play("job_limit_nohosts_hs"),
        Play("job_limit_nohosts_stdout"),
        Play("launch_unreachable"),
        Until(9, "failed"),
        Done(9),
        Play("job_unreachable_final"),
        Play("job_unreachable_hs"),
        Play("job_unreachable_events"),
        // Two of one template, and cancels.
        Play("conc_launch_a"),
        Until(10, "running"),
        Play("conc_launch_b"),
        Play("conc_a_running"),
        Play("hs_running"),
        Play("stdout_running"),
        Play("stdout_pending"),
        Play("stdout_pending_json"),
        Play("conc_b_blocked"),
        Play("job_delete_running_403"),
        Play("jt_delete_running_409"),
        Play("cancel_pending_202"),
        Play("cancel_again_405"),
        Done(11),
        Play("job_canceled_pending"),
        Play("search_status_in"),
        Release(10),
        Until(10, "successful"),
        Play("cancelrun_launch"),
        Until(12, "running"),
        Play("cancel_get_running"),
        Play("cancel_ro_token_403"),
        Play("cancel_running_202"),
        Play("job_after_cancel_immediate"),
        Until(12, "canceled"),
        Done(12),
        Play("cancel_running_second"),
        Play("job_canceled_running_final"),
        Play("job_canceled_hs"),
        Play("job_canceled_stdout"),
        Edit(|catalog| catalog.templates.get_mut(&11).unwrap().config.timeout = 1),
        Play("timeout_launch"),
        Until(13, "failed"),
        Done(13),
        Play("job_timeout_final"),
        Edit(|catalog| catalog.templates.get_mut(&11).unwrap().config.timeout = 0),
        Step::Fault(Action::LoseCancel.into()),
        Hand(33, "slow", json!({"limit": "web1", "extra_vars": {"secs": 8}})),
        Until(33, "running"),
        Release(33),
        Until(33, "successful"),
        Done(33),
        Play("cancel_lost_job33"),
        Clear,
        Hand(76, "slow", json!({"limit": "web1"})),
        Until(76, "running"),
        Hand(77, "slow", json!({"limit": "web1"})),
        Play("job_blocked_explained"),
        Release(76),
        Until(77, "running"),
        Release(77),
        Until(77, "successful"),
        // Markers and searches.
        Play("label_marker_create"),
        Play("launch_with_marker_label"),
        Until(14, "running"),
        Play("search_marker_label_now"),
        Release(14),
        Until(14, "successful"),
        Done(14),
        Play("search_label"),
        Play("search_label_named_marker"),
        Play("filter_bad_field_400"),
        Play("filter_extra_vars_403"),
        Play("search_page_404"),
        Play("search_page_size_cap"),
        Play("count_disabled"),
        Play("search_created_by"),
        Play("search_job_tags"),
        Play("search_jt_jobs_recent"),
        Play("search_limit__exact"),
        Play("search_limit_exact"),
        Play("search_or_not"),
        Play("search_text"),
        Play("search_extra_vars_activity"),
        // The user who may execute, and the one who may read.
        Play("rbac_launch_execute_201"),
        Until(27, "running"),
        Play("rbac_viewer_get_job"),
        Play("rbac_viewer_stdout"),
        Play("rbac_viewer_cancel_403"),
        Release(27),
        Until(27, "successful"),
        Done(27),
        Play("rbac_op_job"),
        Play("rbac_op_hs"),
        Play("rbac_op_jt_jobs"),
        Play("rbac_op_activity"),
        Play("host_job_summaries"),
        Play("host_get"),
        Play("host_filter"),
        Play("inv_hosts"),
        Play("inv_hosts_group"),
        Play("inv_hosts_name"),
        Play("inv_hosts_name_in"),
        Play("inv_group_all_hosts"),
        // A schedule.
        Play("schedule_create_201"),
        Play("schedule_create_dup_400"),
        Play("rbac_schedule_create_op"),
        Fired,
        Done(18),
        Play("schedule_get_after"),
        Play("schedule_jobs"),
        // Odd launches.
        Play("launch_no_slash"),
        Play("launch_extra_vars_edge"),
        Play("prefix_launch"),
        Play("launch_sliced"),
        Until(74, "successful"),
        Play("sliced_nodes"),
        Hand(69, "nomatch", json!({})),
        Until(69, "successful"),
        Done(69),
        Play("job_nomatch_final"),
        Play("job_nomatch_hs"),
        Hand(70, "ignored", json!({})),
        Until(70, "successful"),
        Done(70),
        Play("job_ignored_final"),
        Play("job_ignored_hs"),
        Hand(71, "ok-ask", json!({"limit": "web1,ghost"})),
        Until(71, "successful"),
        Done(71),
        Play("job_limit_partial_final"),
        // Parts of the controller are down.
        request("*", "/*", broken()),
        request("GET", "/*", broken()),
        request("POST", "/*", broken()),
        Play("fault_pg_down_get"),
        Play("fault_pg_down_launch"),
        Play("fault_pg_down_ping"),
        Clear,
        Play("pg_back_launch"),
        Play("pg_back_me"),
        dead(),
        Play("fault_redis_down_launch"),
        Play("fault_redis_down_get"),
        Play("fault_redis_down_ping"),
        Clear,
        Play("fault_receptor_down_launch"),
        Hand(51, "broken", json!({})),
        Until(51, "error"),
        Done(51),
        Play("fault_receptor_down_job"),
        Hand(52, "slow", json!({"limit": "web1"})),
        Until(52, "running"),
        dead(),
        Play("ping_dispatcher_dead"),
        Play("fault_dispatcher_dead_job"),
        Play("fault_dispatcher_dead_cancel_running"),
        Play("fault_dispatcher_dead_launch"),
        Clear,
        Release(52),
        Until(53, "successful"),
        Done(53),
        Play("fault_dispatcher_restart_job"),
        Play("fault_dispatcher_restart_launched"),
        Hand(54, "slow", json!({"limit": "web1"})),
        Until(54, "running"),
        Step::Fault(Action::Reap.into()),
        Until(54, "failed"),
        Play("fault_dispatcher_reaped_job"),
    ]
}

/// Answers whose shape differs on purpose: sample and path of the difference.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("launch_bad_json_400", "/detail", "the parser's own words"),
    ("launch_bad_types_400", "/extra_vars", "the parser's own words"),
    ("launch_extra_vars_null", "/extra_vars", "the parser's own words"),
    ("prefix_v2_still_works", "/results/*/modified", "there are no sessions"),
    ("prefix_v2_still_works", "/results/*/last_login", "there are no sessions"),
    ("pg_back_me", "/results/*/modified", "there are no sessions"),
    ("pg_back_me", "/results/*/last_login", "there are no sessions"),
    ("fault_redis_down_get", "/results/*/modified", "there are no sessions"),
    ("fault_redis_down_get", "/results/*/last_login", "there are no sessions"),
    ("search_marker_label_now", "/results/*/work_unit_id", "recorded in the moment before the unit is known"),
];

/// Objects whose keys are data.
const FREE: &[&str] = &[
    "artifacts",
    "job_env",
    "host_status_counts",
    "analytics_collectors",
    "changes",
    "event_data",
    "hostvars",
    "ignored_fields",
    "extra_data",
];

struct Samples(BTreeMap<String, Value>);

impl Samples {
    fn load() -> Option<Self> {
        let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/aap-samples");
        let directory = std::env::var_os("FETTLE_SAMPLES").map_or(beside, PathBuf::from);
        let Ok(entries) = std::fs::read_dir(&directory) else {
            assert!(
                std::env::var_os("FETTLE_SKIP_SAMPLES").is_some_and(|value| value == "1"),
                "no recorded answers in {}: set FETTLE_SAMPLES to their directory, or FETTLE_SKIP_SAMPLES=1 to pass without them",
                directory.display()
            );
            return None;
        };
        let mut samples = BTreeMap::new();
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().unwrap();
            if let Some(name) = name.strip_suffix(".json") {
                samples.insert(name.to_owned(), serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap());
            }
        }
        Some(Self(samples))
    }

    fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or_else(|| panic!("there is no recording {name}"))
    }

    fn bearer(&self, name: &str) -> String {
        let header = self.get(name)["request"]["headers"]["Authorization"].as_str().unwrap();
        header.strip_prefix("Bearer ").unwrap().to_owned()
    }
}

struct Answer {
    status: u64,
    headers: BTreeMap<String, String>,
    body: Value,
}

struct Player<'a> {
    aap: &'a Running,
    http: reqwest::Client,
    samples: &'a Samples,
    /// Recorded numbers of jobs to those here.
    jobs: BTreeMap<i64, i64>,
}

impl Player<'_> {
    fn job(&self, recorded: i64) -> i64 {
        *self.jobs.get(&recorded).unwrap_or_else(|| panic!("job {recorded} has not been launched yet"))
    }

    /// The recorded path with the numbers of jobs as they are here.
    fn path(&self, recorded: &str) -> String {
        let mut parts: Vec<String> = recorded.split('/').map(str::to_owned).collect();
        if let Some(at) = parts.iter().position(|part| part == "jobs" || part == "workflow_jobs")
            && let Some(id) = parts.get(at + 1).and_then(|part| part.parse::<i64>().ok())
            && id < 900_000
        {
            parts[at + 1] = self.job(id).to_string();
        }
        if recorded.starts_with("/api/v2/schedules/6/") {
            "1".clone_into(&mut parts[4]);
        }
        parts.join("/").replace(' ', "%20")
    }

    async fn play(&mut self, name: &str) -> Vec<String> {
        let sample = self.samples.get(name);
        let recorded = &sample["request"];
        let method = recorded["method"].as_str().unwrap().parse().unwrap();
        let url = format!("{}{}", self.aap.url, self.path(recorded["path"].as_str().unwrap()));
        let mut request = self.http.request(method, url);
        for (header, value) in recorded["headers"].as_object().unwrap() {
            request = request.header(header, value.as_str().unwrap());
        }
        let signed = recorded["headers"].get("Authorization").is_some();
        if !signed && (sample["status"] != 401 || name == "me_401_badpw") {
            // The recording leaves out passwords.
            let user = name.split('_').next().filter(|user| ["op", "viewer"].contains(user)).unwrap_or("admin");
            let password = if name == "me_401_badpw" { "wrong" } else { "password" };
            request = request.header("Authorization", format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        }
        let body = &recorded["body"];
        if let Some(text) = body.as_str() {
            request = request.body(text.to_owned());
        } else if !body.is_null() {
            // The recorded moment is past: soon instead.
            let soon = self.aap.now().checked_add(jiff::SignedDuration::from_secs(2)).unwrap();
            let soon = soon.strftime("%Y%m%dT%H%M%SZ").to_string();
            let body = body.to_string().replace("20261121T074747Z", &soon);
            request = request.header("Content-Type", "application/json").body(body);
        }
        let response = request.send().await.unwrap();
        let status = u64::from(response.status().as_u16());
        let headers =
            response.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned())).collect();
        let text = response.text().await.unwrap();
        let answer = Answer { status, headers, body: serde_json::from_str(&text).unwrap_or_else(|_| json!({"_text": text})) };
        if let (Some(recorded), Some(here)) = (launched(&sample["body"]), launched(&answer.body)) {
            self.jobs.insert(recorded, here);
            if answer.body["type"] == "workflow_job" {
                self.jobs.insert(recorded + 1, here + 1);
            }
        }
        compare(name, sample, &answer)
    }

    async fn wait(&self, what: String, mut holds: impl FnMut() -> bool) {
        for _ in 0..1500 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    async fn step(&mut self, step: Step) -> Option<(&'static str, Vec<String>)> {
        let find = |id: i64| self.aap.jobs().into_iter().find(|job| job.id == id).unwrap();
        match step {
            Play(name) => return Some((name, self.play(name).await)),
            Hand(recorded, template, prompts) => {
                let id = self.aap.launch_by_hand(template, &prompts).unwrap();
                self.jobs.insert(recorded, id);
            }
            Until(recorded, status) => {
                let id = self.job(recorded);
                self.wait(format!("job {recorded} {status}"), || find(id).status.as_str() == status).await;
            }
            Done(recorded) => {
                let id = self.job(recorded);
                self.wait(format!("job {recorded} complete"), || find(id).event_processing_finished).await;
            }
            Release(recorded) => self.aap.release(self.job(recorded)),
            Step::Fault(fault) => drop(self.aap.fault(fault)),
            Clear => self.aap.clear_faults(),
            Edit(change) => self.aap.edit(change),
            Fired => {
                let fired = || self.aap.jobs().into_iter().find(|job| job.launch_type == "scheduled");
                self.wait("the schedule fires".to_owned(), || fired().is_some()).await;
                self.jobs.insert(18, fired().unwrap().id);
            }
        }
        None
    }
}

/// The number of the job that an answer to a launch names.
fn launched(body: &Value) -> Option<i64> {
    let launch = body.get("job").is_some_and(Value::is_number) && body.get("playbook").is_some();
    let relaunch = body.get("launch_type") == Some(&json!("relaunch")) && body.get("status") == Some(&json!("pending"));
    (launch || relaunch || body.get("workflow_job").is_some_and(Value::is_number)).then(|| body["id"].as_i64())?
}

/// What differs between a recorded answer and one of ours.
fn compare(name: &str, sample: &Value, answer: &Answer) -> Vec<String> {
    let mut problems = Vec::new();
    if sample["status"].as_u64() != Some(answer.status) {
        problems.push(format!("status {} is {}: {}", sample["status"], answer.status, answer.body));
        return problems;
    }
    let header = |name: &str| sample["headers"].get(name).and_then(Value::as_str).unwrap_or("");
    for name in ["Content-Type", "Allow", "WWW-Authenticate"] {
        let here = answer.headers.get(&name.to_lowercase()).map_or("", String::as_str);
        if !header(name).is_empty() && header(name) != here {
            problems.push(format!("header {name} {:?} is {here:?}", header(name)));
        }
    }
    for name in ["location", "content-disposition"] {
        let recorded = sample["headers"].as_object().unwrap().keys().any(|key| key.eq_ignore_ascii_case(name));
        if recorded != answer.headers.contains_key(name) {
            problems.push(format!("header {name} is {}", if recorded { "missing" } else { "too much" }));
        }
    }
    let body = &sample["body"];
    match (body.get("_text").and_then(Value::as_str), answer.body.get("_text").and_then(Value::as_str)) {
        (Some(recorded), Some(here)) => {
            if recorded.is_empty() != here.is_empty() {
                problems.push(format!("text {recorded:?} is {here:?}"));
            }
        }
        (None, None) => {
            shapes(name, body, &answer.body, "", &mut problems);
            // Refusals are read by people and matched by clients: the very words count.
            if answer.status >= 400 && problems.is_empty() && answer.status != 409 {
                words(name, body, &answer.body, "", &mut problems);
            }
        }
        _ => problems.push(format!("text or JSON: {}", answer.body)),
    }
    problems
}

fn excused(name: &str, path: &str) -> bool {
    DIFFERENT.iter().any(|(sample, other, _)| *sample == name && path.starts_with(other))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn shapes(name: &str, recorded: &Value, here: &Value, path: &str, problems: &mut Vec<String>) {
    if excused(name, path) {
        return;
    }
    match (recorded, here) {
        (Value::Object(recorded), Value::Object(here)) => {
            if FREE.iter().any(|free| path.ends_with(&format!("/{free}"))) {
                return;
            }
            let keys = |object: &Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            for key in keys(recorded).difference(&keys(here)) {
                problems.push(format!("{path}/{key} is missing"));
            }
            for key in keys(here).difference(&keys(recorded)) {
                problems.push(format!("{path}/{key} is too much"));
            }
            for (key, value) in recorded {
                if let Some(here) = here.get(key) {
                    shapes(name, value, here, &format!("{path}/{key}"), problems);
                }
            }
        }
        (Value::Array(recorded), Value::Array(here)) => {
            if !recorded.is_empty() && here.is_empty() {
                problems.push(format!("{path} is empty"));
            }
            // Rows of one list differ (jobs that have started and not): each of ours must be like one of theirs.
            for row in here {
                let mut best: Option<Vec<String>> = None;
                for other in recorded {
                    let mut found = Vec::new();
                    shapes(name, other, row, &format!("{path}/*"), &mut found);
                    if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                        best = Some(found);
                    }
                }
                problems.extend(best.unwrap_or_default());
            }
        }
        (recorded, here) if kind(recorded) != kind(here) => {
            problems.push(format!("{path} {} is {}: {here}", kind(recorded), kind(here)));
        }
        _ => {}
    }
}

fn words(name: &str, recorded: &Value, here: &Value, path: &str, problems: &mut Vec<String>) {
    if excused(name, path) {
        return;
    }
    match (recorded, here) {
        (Value::Object(recorded), Value::Object(here)) => {
            for (key, value) in recorded {
                words(name, value, &here[key], &format!("{path}/{key}"), problems);
            }
        }
        (recorded, here) if recorded != here => problems.push(format!("{path}: {recorded} is {here}")),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_recorded() {
    let Some(samples) = Samples::load() else {
        println!("FETTLE_SKIP_SAMPLES=1: no recorded answers, nothing compared");
        return;
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let aap = Standin::builder().config(config(&samples)).script(script).start().await.unwrap();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut player = Player { aap: &aap, http, samples: &samples, jobs: BTreeMap::new() };
    let (mut compared, mut different) = (BTreeSet::new(), Vec::new());
    for step in steps() {
        if let Some((name, problems)) = player.step(step).await {
            compared.insert(name.to_owned());
            different.extend(problems.into_iter().map(|problem| format!("{name}: {problem}")));
        }
    }
    let out: BTreeSet<String> = OUT_OF_SCOPE.iter().flat_map(|(names, _)| names.iter().map(|name| (*name).to_owned())).collect();
    let known: BTreeSet<String> = compared.union(&out).cloned().collect();
    let all: BTreeSet<String> = samples.0.keys().cloned().collect();
    println!("{} of {} recorded answers compared, {} out of scope:", compared.len(), all.len(), out.len());
    for (names, reason) in OUT_OF_SCOPE {
        println!("  {} ({reason}): {}", names.len(), names.join(" "));
    }
    for (sample, path, reason) in DIFFERENT {
        println!("  {sample}{path} may differ: {reason}");
    }
    assert!(compared.is_disjoint(&out), "both: {:?}", compared.intersection(&out));
    assert_eq!(all.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "neither compared nor out of scope");
    assert!(different.is_empty(), "{} differences:\n{}", different.len(), different.join("\n"));
}
