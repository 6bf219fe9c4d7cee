//! What the manager refuses: runs and connections that the API server accepts, all in one world, beside a run that must not notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fettle::{
    api::patch_run::{PatchRun, Phase, RunResult},
    clients::{
        aap::{self, Aap, Credentials},
        http::UrlPolicy,
    },
    clock, names,
};
use fettle_standins::aap::{
    Action, Assignment, Config, Fault, HostConfig, InventoryConfig, Question, Script, Survey, TemplateConfig, UserConfig,
};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    By, Row,
    bed::{Bed, KERNEL, NAMESPACE, OPERATOR, connection_path, run_path},
    odd, server,
    tekton::{Found, Tekton},
    wire,
};

/// Longest time until every run is where it belongs.
const LIMIT: Duration = Duration::from_mins(2);

/// One wrong run, with a host, and if it needs one a template and a connection, of its own name.
struct Wrong {
    id: &'static str,
    name: &'static str,
    sent: &'static str,
    by: By,
    /// Reason of the condition `Succeeded` that it comes to.
    reason: &'static str,
    /// Laid over a good connection; null: that of everybody.
    connection: Value,
    template: Option<fn(&mut TemplateConfig)>,
    /// Laid over a good run.
    spec: Value,
    /// What is there before the run is.
    prepare: fn(&Bed, &PatchRun),
    /// Jobs that it starts.
    jobs: usize,
}

fn wrong(id: &'static str, name: &'static str, by: By, reason: &'static str, sent: &'static str) -> Wrong {
    Wrong { id, name, sent, by, reason, connection: Value::Null, template: None, spec: json!({}), prepare: |_, _| {}, jobs: 0 }
}

impl Wrong {
    fn connection(self, connection: Value) -> Self {
        Self { connection, ..self }
    }

    fn template(self, template: fn(&mut TemplateConfig)) -> Self {
        Self { template: Some(template), connection: json!({"templates": {"apply": self.name}}), ..self }
    }

    fn spec(self, spec: Value) -> Self {
        Self { spec, ..self }
    }

    fn prepare(self, prepare: fn(&Bed, &PatchRun)) -> Self {
        Self { prepare, ..self }
    }

    fn jobs(self, jobs: usize) -> Self {
        Self { jobs, ..self }
    }
}

fn path(kind: &str, name: &str) -> String {
    format!("api/v1/namespaces/{NAMESPACE}/{kind}/{name}")
}

fn put(bed: &Bed, kind: &str, name: &str, data: Value) {
    bed.api.put(&path(kind, name), json!({"data": data}));
}

fn phase_key(run: &PatchRun, phase: Phase) -> String {
    names::phase_key(&names::run_key("east", run, 1), phase)
}

/// Checks whose inventory is the ConfigMap `name`, and nothing to look hosts up with but that.
fn own_inventory(name: &str) -> Value {
    json!({"readCredentials": null,
        "checks": {"sshKeySecretRef": {"name": "ssh"}, "knownHostsRef": {"name": "known-hosts"}, "inventory": {"name": name}}})
}

fn of_template(template: &Value) -> Value {
    json!({"templates": {"apply": template}})
}

const CHECK: [&str; 1] = ["precheck"];

fn all() -> Vec<Wrong> {
    use By::{Nobody, Preflight, Runtime};
    let check = || json!({"phases": CHECK, "startBy": null});
    vec![
        wrong("B01", "group-without-hosts", Preflight, "ScopeEmpty", "a `group` that no host is in").spec(json!({"group": 7, "hosts": null})),
        wrong("B04", "misspelt-hosts", Preflight, "HostsNotFound", "`hosts: [web-1, wbe-2, bd-1]`")
            .spec(json!({"hosts": ["web-1", "wbe-2", "bd-1"]})),
        wrong("B05", "other-spelling", Preflight, "HostsNotFound", "`hosts: [WEB-1, web-1.example.com]`")
            .spec(json!({"hosts": ["WEB-1", "web-1.example.com"]})),
        wrong("B05", "twins", Preflight, "HostsAmbiguous", "a group with `twin-1` and `Twin-1`").spec(json!({"group": 12, "hosts": null})),
        wrong("B06", "large-group", Preflight, "ScopeTooLarge", "a group of 1,001 hosts")
            .template(|template| template.inventory = Some("large".into()))
            .connection(json!({"inventory": "large", "templates": {"apply": "large-group"}}))
            .spec(json!({"group": 9, "hosts": null})),
        wrong("B07", "strange-host", Preflight, "HostsNotFound", "a group with a host whose name reads backwards")
            .spec(json!({"group": 8, "hosts": null})),
        wrong("B08", "too-late", Preflight, "StartByPassed", "`startBy` of last year").spec(json!({"startBy": "2025-01-01T00:00:00Z"})),
        wrong("B12", "large-batch", Nobody, "Succeeded", "`reboot: {serial: 500}` for one host")
            .template(|_| {})
            .connection(json!({"templates": {"reboot": "large-batch"}}))
            .spec(json!({"phases": ["reboot"], "reboot": {"serial": 500}}))
            .jobs(1),
        wrong("B13", "no-such-template", Preflight, "TemplateNotReady", "`templates: {apply: no-such}`").connection(of_template(&json!("no-such"))),
        wrong("B13", "template-0", Preflight, "TemplateNotReady", "`templates: {apply: 0}`").connection(of_template(&json!(0))),
        wrong("B13", "template-minus-1", Preflight, "TemplateNotReady", "`templates: {apply: -1}`").connection(of_template(&json!(-1))),
        wrong("B13", "template-2147483648", Preflight, "TemplateNotReady", "`templates: {apply: 2147483648}`")
            .connection(of_template(&json!(2_147_483_648_u64))),
        wrong("B13", "no-such-inventory", Preflight, "InventoryUnavailable", "`inventory: no-such`").connection(json!({"inventory": "no-such"})),
        wrong("B13", "no-template", Preflight, "TemplateNotReady", "no template for a phase of the run").connection(json!({"templates": {}})),
        wrong("B14", "not-ours", Preflight, "TemplateNotReady", "a template that the user of the credentials may not see")
            .template(|_| {})
            .connection(json!({"credentials": {"secretRef": {"name": "aap-other-team"}}, "templates": {"apply": "not-ours"}}))
            .prepare(|bed, _| bed.secret(NAMESPACE, "aap-other-team", "other-team-token")),
        wrong("B14", "may-not-execute", Preflight, "TemplateNotReady", "a template that the user may see, not launch")
            .template(|_| {})
            .connection(json!({"credentials": {"secretRef": {"name": "aap-read"}}, "templates": {"apply": "may-not-execute"}})),
        wrong("B15", "sliced", Preflight, "TemplateNotReady", "a template with three slices").template(|template| template.job_slice_count = 3),
        wrong("B15", "check-mode", Preflight, "TemplateNotReady", "a template of type Check").template(|template| template.job_type = "check".into()),
        wrong("B15", "other-inventory", Preflight, "TemplateNotReady", "a template with another inventory")
            .template(|template| template.inventory = Some("large".into())),
        wrong("B16", "no-limit", Preflight, "TemplateNotReady", "a template that does not prompt for a limit")
            .template(|template| template.ask.retain(|what| what != "limit")),
        wrong("B16", "no-variables", Preflight, "TemplateNotReady", "a template that does not prompt for variables")
            .template(|template| template.ask.retain(|what| what != "variables")),
        wrong("B17", "survey", Preflight, "TemplateNotReady", "a template whose survey requires an answer").template(|template| {
            let question = Question { variable: "severity".into(), required: true, kind: "text".into(), default: json!(""), ..Question::default() };
            template.survey = Some(Survey { spec: vec![question], ..Survey::default() });
        }),
        wrong("B18", "yaml-bomb", Preflight, "InventoryUnavailable", "an inventory whose aliases multiply")
            .connection(own_inventory("yaml-bomb"))
            .spec(check())
            .prepare(|bed, _| {
                let level = |n: usize| format!("    a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
                let text = format!("all:\n  vars:\n    a0: &a0 [x]\n{}", (1..12).map(level).collect::<String>());
                put(bed, "configmaps", "yaml-bomb", json!({"inventory": text}));
            }),
        wrong("B18", "duplicate-keys", Preflight, "InventoryUnavailable", "an inventory with a key twice")
            .connection(own_inventory("duplicate-keys"))
            .spec(check())
            .prepare(|bed, _| put(bed, "configmaps", "duplicate-keys", json!({"inventory": "all: {hosts: {}}\nall: {hosts: {}}\n"}))),
        wrong("B18", "deep-yaml", Preflight, "InventoryUnavailable", "an inventory 200 levels deep")
            .connection(own_inventory("deep-yaml"))
            .spec(check())
            .prepare(|bed, _| put(bed, "configmaps", "deep-yaml", json!({"inventory": format!("{}{}", "{a: ".repeat(200), "}".repeat(200))}))),
        wrong("B24", "hostile-report", Runtime, "HostsFailed", "a check that reports 4 KiB with line breaks and escapes").spec(check()),
        wrong("B25", "no-pipeline", Preflight, "ConnectionInvalid", "`pipelineRef` of a Pipeline that is not there")
            .connection(json!({"checks": {"sshKeySecretRef": {"name": "ssh"}, "knownHostsRef": {"name": "known-hosts"}, "pipelineRef": {"name": "theirs"}}}))
            .spec(check()),
        wrong("B25", "unlabelled-pipeline", Preflight, "ConnectionInvalid", "`pipelineRef` of a Pipeline without the label")
            .connection(json!({"checks": {"sshKeySecretRef": {"name": "ssh"}, "knownHostsRef": {"name": "known-hosts"}, "pipelineRef": {"name": "build"}}}))
            .spec(check())
            .prepare(|bed, _| bed.api.put(&format!("apis/tekton.dev/v1/namespaces/{NAMESPACE}/pipelines/build"), json!({"spec": {}}))),
        wrong("B28", "foreign-pipeline-run", Runtime, "LaunchConflict", "a PipelineRun of the run's name that somebody else made").spec(check()).prepare(
            |bed, run| {
                let key = phase_key(run, Phase::Precheck);
                let over = json!({"conditions": [{"type": "Succeeded", "status": "True", "reason": "Succeeded"}], "completionTime": "2026-11-21T00:00:00Z"});
                let path = format!("apis/tekton.dev/v1/namespaces/{NAMESPACE}/pipelineruns/{}", names::work(&key, 1));
                bed.api.put(&path, json!({"metadata": {"annotations": {names::RUN_KEY: key}}, "spec": {}, "status": over}));
            },
        ),
        wrong("B28", "foreign-record", Preflight, "RecordUnavailable", "a record of the run's key that belongs to another run").prepare(|bed, run| {
            let record = server::record(&phase_key(run, Phase::Apply), Phase::Apply, None, vec![]);
            let archive = bed.archive.clone();
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(archive.put_record(&record))).unwrap();
        }),
        wrong("B30", "busy-host", Preflight, "HostsBusy", "a run of a host that another run is busy with").spec(json!({"hosts": ["web-1", "busy-host"]})),
        wrong("B32", "no-origin", Preflight, "AwaitingCredentials", "a Secret without the annotation")
            .connection(json!({"credentials": {"secretRef": {"name": "no-origin"}}}))
            .prepare(|bed, _| put(bed, "secrets", "no-origin", json!({"token": "ZXhlY3V0ZS10b2tlbg=="}))),
        wrong("B32", "other-origin", Preflight, "AwaitingCredentials", "a Secret of another controller")
            .connection(json!({"credentials": {"secretRef": {"name": "other-origin"}}}))
            .prepare(|bed, _| {
                let annotations = json!({"fettle.dev/origin": "https://other.example.com"});
                bed.api.put(
                    &path("secrets", "other-origin"),
                    json!({"metadata": {"annotations": annotations}, "data": {"token": "ZXhlY3V0ZS10b2tlbg=="}}),
                );
            }),
        wrong("B32", "other-keys", Preflight, "AwaitingCredentials", "a Secret with neither token nor password")
            .connection(json!({"credentials": {"secretRef": {"name": "other-keys"}}}))
            .prepare(|bed, _| {
                bed.secret(NAMESPACE, "other-keys", "execute-token");
                bed.api.edit(&path("secrets", "other-keys"), |secret| secret["data"] = json!({"tls.key": "c2VjcmV0"}));
            }),
        wrong("B39", "metadata-service", Preflight, "ConnectionInvalid", "`url: https://169.254.169.254`")
            .connection(json!({"url": "https://169.254.169.254"})),
        wrong("B39", "decimal-address", Preflight, "ConnectionInvalid", "`url: https://2852039166`").connection(json!({"url": "https://2852039166"})),
        wrong("B39", "mapped-address", Preflight, "ConnectionInvalid", "`url: https://[::ffff:127.0.0.1]`")
            .connection(json!({"url": "https://[::ffff:127.0.0.1]"})),
        wrong("B41", "redirect", Preflight, "ControllerUnreachable", "a controller that redirects").connection(json!({"apiPrefix": "/api/v2"})),
        wrong("B41", "login-page", Preflight, "ControllerUnreachable", "a page to sign in instead of a controller").connection(json!({})),
        wrong("B42", "unknown-authority", Preflight, "ControllerUnreachable", "a certificate of an authority that is not in `caBundle`").connection(json!({})),
        wrong("B42", "other-name", Preflight, "ControllerUnreachable", "a certificate for another name").connection(json!({})),
        wrong("B42", "expired", Preflight, "ControllerUnreachable", "a certificate that has expired").connection(json!({})),
        wrong("B42", "rubbish-bundle", Preflight, "ConnectionInvalid", "a `caBundle` without a certificate")
            .connection(json!({"caBundle": {"configMapKeyRef": {"name": "rubbish-bundle", "key": "ca.crt"}}}))
            .prepare(|bed, _| put(bed, "configmaps", "rubbish-bundle", json!({"ca.crt": "rubbish"}))),
        wrong("B43", "next-page", Preflight, "ControllerUnreachable", "a list that goes on at another address").connection(json!({})),
        wrong("B51", "number-as-text", Preflight, "ControllerUnreachable", "a number as text").connection(json!({})),
        wrong("B51", "not-a-number", Preflight, "ControllerUnreachable", "`NaN`").connection(json!({})),
        wrong("B51", "large-inventory-number", Preflight, "ControllerUnreachable", "the number `1e300`").connection(json!({})),
        wrong("B51", "deep-answer", Preflight, "ControllerUnreachable", "an answer 200 levels deep").connection(json!({})),
        wrong("B51", "large-answer", Preflight, "ControllerUnreachable", "an answer of 17 MiB").connection(json!({})),
        wrong("B51", "endless-list", Preflight, "ControllerUnreachable", "a list without end").connection(json!({})),
        wrong("B51", "limit-is-null", Runtime, "LaunchMismatch", "a job whose limit is null").template(|_| {}).jobs(1),
        wrong("B51", "unknown-status", Runtime, "Running", "a job in a status nobody knows").template(|_| {}).jobs(1),
        wrong("B52", "hostile-output", Nobody, "Succeeded", "output with escapes and NUL").template(|_| {}).jobs(1),
        wrong("B53", "large-output", Nobody, "Succeeded", "output of a megabyte and a half").template(|_| {}).jobs(1),
        wrong("B54", "forged-status", Nobody, "Running", "a status set back to nothing while its job runs").template(|_| {}).jobs(1),
        wrong("B55", "large-annotations", Nobody, "Succeeded", "annotations of 200 KiB, labels of others").template(|_| {}).jobs(1),
        wrong("B58", "own-node", Preflight, "ScopeSelf", "`hosts` with the node the operator runs on"),
        wrong("B62", "moved-controller", Runtime, "ConnectionChanged", "a controller that is another one after the launch").template(|_| {}).jobs(1),
    ]
}

/// Those whose connection leads to an odd controller of their name.
const ODD: [&str; 10] = [
    "redirect",
    "login-page",
    "next-page",
    "number-as-text",
    "not-a-number",
    "large-inventory-number",
    "deep-answer",
    "large-answer",
    "endless-list",
    "limit-is-null",
];

fn config(all: &[Wrong]) -> Config {
    let mut config = Config::example();
    let host = |name: &str, group: &str| HostConfig {
        name: name.to_owned(),
        variables: json!({"patch_group": group}).as_object().unwrap().clone(),
        ..HostConfig::default()
    };
    let good = config.job_templates[0].clone();
    for wrong in all {
        config.inventories[0].hosts.push(host(wrong.name, "rows"));
        if let Some(change) = wrong.template {
            let mut template = TemplateConfig { name: wrong.name.into(), ..good.clone() };
            change(&mut template);
            config.job_templates.push(template);
        }
    }
    config.inventories[0].hosts.extend([host("twin-1", "12"), host("Twin-1", "12"), host("db\u{202e}1", "8")]);
    let large = (0..1001).map(|n| host(&format!("host-{n}"), "9")).collect();
    config.inventories.push(InventoryConfig { name: "large".into(), hosts: large, ..InventoryConfig::default() });
    let mut other = config.users.iter().find(|user| user.username == "execute").unwrap().clone();
    other.templates = vec!["stage".into()];
    other.tokens[0].token = "other-team-token".into();
    config.users.push(UserConfig { username: "other-team".into(), ..other });
    config
}

fn script(job: &Assignment) -> Script {
    let script = Script::new(job);
    match job.template.as_str() {
        // the run beside them works all the time
        "apply" | "forged-status" => script.held(),
        "hostile-output" => script.printing("\u{1b}]52;c;ZXZpbA==\u{7}\u{1b}[2J\u{0}"),
        "large-output" => script.printing(&"x".repeat(3 << 19)),
        _ => script,
    }
}

fn reason_and_message(bed: &Bed, name: &str) -> (String, String) {
    (bed.reason(name), bed.message(name))
}

async fn until(what: &str, bed: &Bed, holds: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let missing = holds();
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: {}",
            missing.iter().map(|name| format!("{name}: {:?}; ", reason_and_message(bed, name))).collect::<String>()
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// Sends all of them at once; one row each.
pub async fn rows() -> Vec<Row> {
    let all = all();
    let found =
        Found { failed: [("hostile-report".to_owned(), format!("one\ntwo\u{1b}[2J{}", "x".repeat(4096)))].into(), ..Found::default() };
    let mut bed = Bed::with(Tekton::default().with("precheck", found), config(&all), script).await;
    bed.nodes.insert("own-node".into());
    bed.aap.fault(Fault::from(Action::UnknownStatus { status: "quantum".into(), seconds: None }).of_template("unknown-status"));
    let odd = odd::start(&bed.aap.url).await;
    let authority = wire::Authority::new();
    let other = wire::Authority::new();
    put(&bed, "configmaps", "authority", json!({"ca.crt": authority.pem()}));
    let mut servers = vec![];
    for (name, certificate) in [
        ("unknown-authority", other.issue("localhost", 4096)),
        ("other-name", authority.issue("elsewhere.example", 4096)),
        ("expired", authority.issue("localhost", 2020)),
    ] {
        let (server, address) = wire::tls_server(certificate).await;
        servers.push((name, server, format!("https://localhost:{}", address.port())));
    }

    let by = clock::now() + SignedDuration::from_hours(1);
    let good = bed.api.get(&connection_path(NAMESPACE)).unwrap()["spec"].clone();
    let mut runs = BTreeMap::new();
    for wrong in &all {
        let mut connection = "prod";
        if !wrong.connection.is_null() {
            connection = wrong.name;
            let mut spec = good.clone();
            if ODD.contains(&wrong.name) || wrong.name == "moved-controller" {
                origin_secrets(&bed, &odd);
                spec["url"] = json!(format!("{odd}/{}", wrong.name));
                spec["credentials"] = json!({"secretRef": {"name": "odd-change"}});
                spec["readCredentials"] = json!({"secretRef": {"name": "odd-read"}});
            }
            if let Some((_, _, url)) = servers.iter().find(|(name, ..)| *name == wrong.name) {
                spec["url"] = json!(url);
                spec["caBundle"] = json!({"configMapKeyRef": {"name": "authority", "key": "ca.crt"}});
                let secret = |name: &str| {
                    let annotations = json!({"fettle.dev/origin": url});
                    bed.api.put(&path("secrets", name), json!({"metadata": {"annotations": annotations}, "data": {"token": "c2VjcmV0"}}));
                };
                secret(wrong.name);
                spec["credentials"] = json!({"secretRef": {"name": wrong.name}});
                spec["readCredentials"] = Value::Null;
            }
            lay_over(&mut spec, &wrong.connection);
            bed.api.put(&connection_path(NAMESPACE).replace("prod", wrong.name), json!({"spec": spec}));
        }
        let mut spec =
            json!({"connection": {"name": connection}, "hosts": [wrong.name], "desiredKernel": KERNEL, "phases": ["apply"], "startBy": by});
        lay_over(&mut spec, &wrong.spec);
        let mut run: PatchRun =
            serde_json::from_value(json!({"metadata": {"name": wrong.name, "namespace": NAMESPACE}, "spec": spec})).unwrap();
        if wrong.name == "large-annotations" {
            run.metadata.annotations = Some([("example.com/notes".to_owned(), "x".repeat(200 << 10))].into());
            run.metadata.labels = Some([("fettle.dev/patchrun".to_owned(), "beside".to_owned())].into());
        }
        (wrong.prepare)(&bed, &run);
        runs.insert(wrong.name, run);
    }
    let _manager = bed.controllers();
    let waiting = || {
        let names = bed.api.paths("/automationconnections/").into_iter();
        names.filter(|path| bed.api.get(path).unwrap()["status"]["conditions"].is_null()).collect()
    };
    until("connections without a status", &bed, waiting).await;
    // what is there before any of them is
    let before: BTreeMap<String, Value> = bed.api.paths("").into_iter().map(|path| (path.clone(), bed.api.get(&path).unwrap())).collect();
    bed.apply("beside", json!({"phases": ["precheck", "apply"]}));
    until("the run beside them", &bed, || if bed.aap.jobs_of("apply").is_empty() { vec!["beside".to_owned()] } else { vec![] }).await;
    // those that are launched come first: all at once they would take so long that schedules miss their time
    let send = |launched: bool| {
        for wrong in all.iter().filter(|wrong| (wrong.jobs > 0) == launched) {
            bed.api.put(&run_path(NAMESPACE, wrong.name), serde_json::to_value(&runs[wrong.name]).unwrap());
        }
    };
    send(true);
    let limits = || bed.aap.jobs().iter().map(|job| job.options["limit"].clone()).collect::<Vec<Value>>();
    let not_launched = || {
        let limits = limits();
        let missing = all.iter().filter(|wrong| wrong.jobs > 0 && !limits.contains(&json!(wrong.name)));
        missing.map(|wrong| wrong.name.to_owned()).collect()
    };
    until("not launched", &bed, not_launched).await;
    send(false);
    let forged = || {
        let status = bed.status("forged-status");
        status.of(Phase::Apply).is_some_and(|phase| phase.executor.is_some())
    };
    until("a status to forge", &bed, || if forged() { vec![] } else { vec!["forged-status".to_owned()] }).await;
    bed.api.edit(&run_path(NAMESPACE, "forged-status"), |run| run["status"] = json!({"state": "Pending"}));
    let astray = || {
        let astray = all.iter().filter(|wrong| {
            bed.reason(wrong.name) != wrong.reason || (wrong.reason == "Running" && bed.status(wrong.name).phases.is_empty())
        });
        astray.map(|wrong| wrong.name.to_owned()).collect()
    };
    until("not refused as expected", &bed, astray).await;

    let mut rows: Vec<Row> = all
        .iter()
        .map(|wrong| {
            let says = format!("`{}`: {}", wrong.reason, plain(&bed, &odd, &bed.message(wrong.name)));
            Row { id: wrong.id, sent: wrong.sent.into(), by: wrong.by, says }
        })
        .collect();
    rows.extend(directly().await);
    nothing_is_written_again(&bed, &all).await;
    nothing_else_happened(&bed, &all, &before).await;
    rows.extend(configurations(&bed).await);
    for (_, server, _) in servers {
        server.shutdown();
    }
    rows
}

fn origin_secrets(bed: &Bed, origin: &str) {
    for (name, token) in [("odd-change", "execute-token"), ("odd-read", "read-token")] {
        bed.secret(NAMESPACE, name, token);
        bed.api.edit(&path("secrets", name), |secret| secret["metadata"]["annotations"]["fettle.dev/origin"] = json!(origin));
    }
}

fn lay_over(spec: &mut Value, over: &Value) {
    for (key, value) in over.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
}

/// A message as it would be on any machine.
fn plain(bed: &Bed, odd: &str, message: &str) -> String {
    // where an answer is wrong depends on how long the times in it are
    let message = message.split_once(" (line 1, column").map_or(message, |(head, _)| head);
    let message = message.replace(&bed.proxy.url, "https://aap.example.com").replace(odd, "https://aap.example.com");
    let mut text = String::new();
    let mut last = "";
    for word in message.split_inclusive(' ') {
        let counted = ["job ", "schedule "].contains(&last);
        let digits = word.chars().take_while(char::is_ascii_digit).count();
        text += &if counted && digits > 0 { format!("N{}", &word[digits..]) } else { word.to_owned() };
        last = word;
    }
    text
}

/// What is wrong stays so, and is looked at again and again; it is told once.
async fn nothing_is_written_again(bed: &Bed, all: &[Wrong]) {
    let statuses = || -> BTreeMap<String, Value> {
        let runs = all.iter().map(|wrong| run_path(NAMESPACE, wrong.name));
        // what it says changes once, after the launch
        let connections = bed.api.paths("/automationconnections/").into_iter().filter(|path| !path.ends_with("/moved-controller"));
        let all = runs.chain(connections);
        all.map(|path| (path.clone(), bed.api.get(&path).unwrap()["status"].clone())).collect()
    };
    let (first, calls) = (statuses(), bed.aap.requests().len());
    sleep(Duration::from_secs(20)).await;
    assert!(bed.aap.requests().len() > calls + 20, "nothing was looked at again");
    let again = statuses();
    let changed: Vec<_> =
        again.iter().filter(|(path, status)| first[*path] != **status).map(|(path, status)| (path, &first[path], status)).collect();
    assert!(changed.is_empty(), "written again: {changed:#?}");
}

/// Nothing was launched for any of them but what its line says, nothing that was there before was changed, and the run beside them ends well.
async fn nothing_else_happened(bed: &Bed, all: &[Wrong], before: &BTreeMap<String, Value>) {
    let mut expected: BTreeMap<String, usize> =
        all.iter().filter(|wrong| wrong.jobs > 0).map(|wrong| (wrong.name.to_owned(), wrong.jobs)).collect();
    expected.insert("db-1,web-1,web-2".into(), 1);
    let mut jobs = BTreeMap::new();
    for job in bed.aap.jobs() {
        *jobs.entry(job.options["limit"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    assert_eq!(jobs, expected, "jobs by limit");
    // one that missed its time and launched nothing is followed by another
    let schedules: BTreeSet<String> = bed.aap.schedules().into_iter().map(|schedule| schedule.name.replace("-try2", "")).collect();
    assert_eq!(schedules.len(), expected.len(), "schedules: {schedules:?}");
    let checked: Vec<Value> = bed
        .api
        .paths("/pipelineruns/")
        .iter()
        .map(|path| bed.api.get(path).unwrap()["metadata"]["labels"]["fettle.dev/patchrun"].clone())
        .collect();
    for checked in &checked {
        assert!(["beside", "hostile-report"].iter().any(|name| checked == name) || checked.is_null(), "a check of {checked}");
    }
    for (path, was) in before {
        let is = bed.api.get(path).unwrap_or_else(|| panic!("{path} is gone"));
        assert_eq!((&is["spec"], &is["data"]), (&was["spec"], &was["data"]), "{path} was changed");
    }
    let report = bed.status("hostile-report").of(Phase::Precheck).unwrap().failed_hosts[0].message.clone().unwrap();
    assert!(report.len() == 256 && !report.chars().any(char::is_control), "{report:?}");
    let output = bed.status("hostile-output");
    assert!(!serde_json::to_string(&output).unwrap().contains("\\u001b"));
    let log = bed.status("large-output").of(Phase::Apply).unwrap().log.clone().unwrap();
    let kept = std::fs::read_dir(bed.directory.path().join("phases").join(&log.id))
        .unwrap()
        .map(|file| std::fs::read(file.unwrap().path()).unwrap());
    assert!(kept.into_iter().any(|bytes| bytes.len() > 3 << 19), "the log is not what was printed");
    assert_eq!(bed.status("beside").result, None);
    // else its turn would come
    bed.api.edit(&run_path(NAMESPACE, "busy-host"), |run| run["spec"]["cancel"] = json!(true));
    until("cancelled", bed, || if bed.settled("busy-host") { vec![] } else { vec!["busy-host".into()] }).await;
    bed.aap.release(bed.job("apply").id);
    until("the run beside them", bed, || if bed.settled("beside") { vec![] } else { vec!["beside".into()] }).await;
    assert_eq!((bed.status("beside").result, bed.status("beside").hosts.as_deref()), (Some(RunResult::Ok), Some("3/3")));
}

/// What a client itself refuses, under the rules of production.
async fn directly() -> Vec<Row> {
    let ask = async |id, url: &str, sent: &str| {
        let made = Aap::new(aap::Settings {
            url: url.to_owned(),
            api_prefix: Some("/api/v2".into()),
            credentials: Credentials::Anonymous,
            policy: UrlPolicy::default(),
            ca_bundle: None,
            gate: aap::Gate::default(),
            observer: None,
        });
        let says = match made {
            Ok(aap) => aap.discover().await.expect_err("it was asked").to_string(),
            Err(refused) => refused.to_string(),
        };
        // which of its addresses comes first is the machine's choice
        Row { id, sent: sent.to_owned(), by: By::Preflight, says: says.replace("::1", "127.0.0.1") }
    };
    vec![
        ask("B39", "https://127.0.0.1", "`url: https://127.0.0.1`").await,
        ask("B39", "https://0x7f.1", "`url: https://0x7f.1`").await,
        ask("B40", "https://localhost:9", "a name that resolves to this machine").await,
    ]
}

/// Configurations of the operator: every run that waits says what is wrong.
async fn configurations(bed: &Bed) -> Vec<Row> {
    let jobs = bed.aap.jobs().len();
    let long = "x".repeat(64);
    let mut rows = vec![];
    for (n, (sent, key, value)) in [
        ("`PAUSE: \"yes\"`", "PAUSE", "yes"),
        ("no `INSTALLATION`", "INSTALLATION", ""),
        ("an `INSTALLATION` of 64 characters", "INSTALLATION", &long),
    ]
    .into_iter()
    .enumerate()
    {
        bed.configure(&[(key, value)]);
        let name = format!("configured-{n}");
        bed.apply(&name, json!({"group": null, "hosts": ["web-2"], "phases": ["apply"]}));
        let told = || if bed.reason(&name) == "Paused" && bed.message(&name).contains(key) { vec![] } else { vec![name.clone()] };
        until("a configuration that is refused", bed, told).await;
        rows.push(Row { id: "—", sent: sent.into(), by: By::Preflight, says: format!("`Paused`: {}", bed.message(&name)) });
    }
    bed.api.delete(&format!("api/v1/namespaces/{OPERATOR}/configmaps/fettle-config"));
    bed.apply("unconfigured", json!({"group": null, "hosts": ["web-2"], "phases": ["apply"]}));
    until("no configuration", bed, || {
        if bed.message("unconfigured").contains("does not exist") { vec![] } else { vec!["unconfigured".into()] }
    })
    .await;
    rows.push(Row {
        id: "—", sent: "no ConfigMap".into(), by: By::Preflight, says: format!("`Paused`: {}", bed.message("unconfigured"))
    });
    assert_eq!(bed.aap.jobs().len(), jobs, "nothing is launched by an operator that is configured wrongly");
    rows
}
