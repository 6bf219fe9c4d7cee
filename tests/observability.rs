//! What the alerts and the dashboard ask for is what manager and server tell, and each alert is explained.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use fettle::metrics::{CallLabels, FailureLabels, LaunchLabels, Metrics, PhaseLabel, PhaseLabels, ReconcileLabels, WaitingLabels};
use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every metric's name, with what Prometheus makes of it.
fn told() -> BTreeSet<String> {
    let manager = Metrics::default();
    let server = fettle::http::metrics::Metrics::default();
    // what has labels is told from its first use on
    manager.reconciles.get_or_create(&ReconcileLabels { controller: "patchrun".into(), result: "error" }).inc();
    manager.launches.get_or_create(&LaunchLabels { phase: "apply", mode: "Fenced" }).inc();
    manager.phases.get_or_create(&PhaseLabels { phase: "apply", result: "OK", reason: "Succeeded".into() }).inc();
    manager.phase_seconds.get_or_create(&PhaseLabel { phase: "apply" }).observe(1.0);
    manager.failures.get_or_create(&FailureLabels { phase: "apply", error_code: "E-OTHER".into() }).inc();
    manager.unfinished.get_or_create(&WaitingLabels { reason: "Running" }).set(1);
    manager.aap_calls.get_or_create(&CallLabels { method: "GET".into(), route: "ping/".into(), code: "2xx".into() }).inc();
    server.request(&http::Method::GET, "/health", 200, Duration::ZERO);
    let texts = [manager.render(), server.text().unwrap()];
    let mut names = BTreeSet::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let ends: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            names.extend(ends.iter().map(|end| format!("{name}{end}")));
        }
    }
    names
}

/// The names of ours in an expression.
fn asked(expression: &str) -> Vec<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    expression.split(word).filter(|name| name.starts_with("fettle_")).collect()
}

/// Every `expr` below.
fn expressions(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(map) => {
            let own = map.get("expr").and_then(Value::as_str);
            own.into_iter().chain(map.values().flat_map(expressions)).collect()
        }
        Value::Array(list) => list.iter().flat_map(expressions).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    }
}

fn rules() -> Value {
    fettle::yaml::from_str(&read("config/prometheus/rules.yaml")).unwrap()
}

#[test]
fn alerts_and_dashboard_ask_for_what_is_told() {
    let told = told();
    let dashboard: Value = serde_json::from_str(&read("config/grafana/fettle.json")).unwrap();
    for (what, of) in [("alerts", rules()), ("dashboard", dashboard)] {
        let expressions = expressions(&of);
        assert!(expressions.len() >= 9, "{what}: {expressions:?}");
        for expression in expressions {
            for name in asked(expression) {
                assert!(told.contains(name), "{what}: {name} in {expression}; there are {told:#?}");
            }
        }
    }
}

#[test]
fn every_alert_is_explained() {
    let page = read("docs/alerts.md");
    let rules = rules();
    let alerts: Vec<&Value> =
        rules["spec"]["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(alerts.len() >= 9);
    for alert in alerts {
        let name = alert["alert"].as_str().unwrap();
        assert!(page.contains(&format!("\n## {name}\n")), "docs/alerts.md does not explain {name}");
        let link = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert!(link.ends_with(&format!("docs/alerts.md#{}", name.to_lowercase())), "{name}: {link}");
    }
}
