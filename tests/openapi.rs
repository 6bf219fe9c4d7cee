//! `docs/openapi.json` is the API as the server describes it.
#![allow(clippy::unwrap_used, missing_docs)]

mod generated;

use fettle::http::openapi::document;
use serde_json::Value;

#[test]
fn the_document_is_current() {
    generated::check("docs/openapi.json", &document());
}

#[test]
fn everything_is_explained_and_nothing_internal_is_told() {
    let document: Value = serde_json::from_str(&document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, operations) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/api/"), "{path}");
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            assert!(operation["responses"]["401"].is_object(), "{method} {path}");
        }
    }
    let mut refs = vec![];
    collect(&document, &mut refs);
    for target in refs {
        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} leads nowhere");
    }
}

fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            into.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|child| collect(child, into));
        }
        Value::Array(list) => list.iter().for_each(|child| collect(child, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
