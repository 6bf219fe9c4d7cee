//! Log lines of the manager, and the traces they belong to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    bed::{Bed, NAMESPACE, connection_path},
    logged::alone,
};

/// A line; reading it fails when a key is there twice.
#[derive(Deserialize, Debug)]
struct Line {
    message: String,
    trace_id: Option<String>,
    span_id: Option<String>,
    span: Option<InSpan>,
}

#[derive(Deserialize, Debug)]
struct InSpan {
    name: String,
    controller: Option<String>,
}

async fn until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to be");
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_reconcile_is_one_trace_that_goes_on_in_the_controller() {
    alone("traces::a_reconcile_is_one_trace_that_goes_on_in_the_controller", one_trace);
}

async fn one_trace(log: &Path) {
    let bed = Bed::new().await;
    let _manager = bed.controllers();
    until(|| bed.api.get(&connection_path(NAMESPACE)).unwrap()["status"].is_object()).await;
    bed.apply("web", json!({"phases": ["apply"]}));
    until(|| bed.settled("web")).await;
    let text = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let mut reconciles = BTreeMap::<&str, Vec<&Line>>::new();
    for line in &lines {
        if let Some(InSpan { name, controller: Some(controller) }) = &line.span {
            assert_eq!((name.as_str(), controller.as_str()), ("reconcile", "patchrun"));
            reconciles.entry(line.span_id.as_ref().unwrap()).or_default().push(line);
        }
    }
    let launched = |lines: &&Vec<&Line>| lines.iter().map(|line| line.message.as_str()).eq(["transition", "acting"]);
    assert!(reconciles.values().any(|lines| launched(&lines)), "{text}");
    let mut traces = BTreeSet::new();
    for lines in reconciles.values() {
        let ids: BTreeSet<&str> = lines.iter().map(|line| line.trace_id.as_deref().unwrap()).collect();
        assert_eq!(ids.len(), 1, "{lines:?}");
        assert!(traces.insert(ids.into_iter().next().unwrap()), "two reconciles are one trace: {lines:?}");
    }
    let calls = bed.proxy.traceparents();
    assert!(calls.iter().all(|(_, parent)| parent.len() == 55), "{calls:?}");
    let (_, launch) = calls.iter().find(|(what, _)| what.contains("POST") && what.contains("schedules")).unwrap();
    assert!(traces.contains(&launch[3..35]), "{launch} {traces:?}");
}
