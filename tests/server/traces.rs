//! Log lines of the server, and the traces they belong to.

use std::path::Path;

use fettle::api::patch_run::Phase;
use serde_json::Value;
use tracing::Instrument as _;

use crate::{
    bed::{Bed, KEY, record},
    logged::alone,
};

/// The last line with that message.
fn line(log: &Path, message: &str) -> Value {
    let text = std::fs::read_to_string(log).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.rfind(|line| line["message"] == message).unwrap_or_else(|| panic!("no {message} in {text}"))
}

fn is_id(id: &Value, length: usize) -> bool {
    id.as_str().is_some_and(|id| id.len() == length && id.bytes().all(|b| b.is_ascii_hexdigit()) && id.bytes().any(|b| b != b'0'))
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

#[test]
fn a_request_goes_on_with_the_trace_of_its_caller() {
    alone("traces::a_request_goes_on_with_the_trace_of_its_caller", goes_on);
}

async fn goes_on(log: &Path) {
    let bed = Bed::new().await;
    let answered = async |traceparent: &str| {
        bed.get("/api/runs/patching/web", "alice-token").header("traceparent", traceparent).send().await.unwrap();
        let line = line(log, "answered");
        assert!(is_id(&line["trace_id"], 32) && is_id(&line["span_id"], 16), "{line}");
        line
    };
    for flags in ["00", "01"] {
        let line = answered(&format!("00-{TRACE}-{PARENT}-{flags}")).await;
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert_ne!(line["span_id"], PARENT, "{line}");
    }
    for bad in [
        String::new(),
        format!("00-{TRACE}-{PARENT}"),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("00-{}-{PARENT}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{PARENT}-01-more"),
        format!("00-{}-{PARENT}-01", &TRACE[..31]),
    ] {
        let line = answered(&bad).await;
        assert!(!line["trace_id"].as_str().unwrap().starts_with(&TRACE[..31]), "{bad}: {line}");
    }
}

#[test]
fn what_the_manager_sends_is_logged_in_its_trace() {
    alone("traces::what_the_manager_sends_is_logged_in_its_trace", manager_sends);
}

async fn manager_sends(log: &Path) {
    let bed = Bed::new().await;
    let store = bed.store();
    let work = async {
        tracing::info!("working");
        store.put_record(&record(KEY, Phase::Apply, None, vec![])).await.unwrap();
    };
    work.instrument(tracing::info_span!("reconcile")).await;
    let (there, here) = (line(log, "record archived"), line(log, "working"));
    assert!(is_id(&here["trace_id"], 32), "{here}");
    assert_eq!(there["trace_id"], here["trace_id"]);
    assert_ne!(there["span_id"], here["span_id"]);
}
