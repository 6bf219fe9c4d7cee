//! The rules of the schema, evaluated in this process.

use std::collections::BTreeSet;

use fettle::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::Validator;
use serde_json::Value;

fn definition(kind: &str) -> CustomResourceDefinition {
    api::all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap()
}

/// The schema of a kind as the API server has it.
pub fn full(kind: &str) -> Value {
    let crd = definition(kind);
    serde_json::to_value(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap()).unwrap()
}

/// The schema of a kind without the rules that only the API server evaluates.
pub fn schema(kind: &str) -> Value {
    let mut schema = full(kind);
    let mut stripped = BTreeSet::new();
    strip(&mut schema, &mut stripped);
    for message in stripped {
        assert!(SERVER_ONLY.iter().any(|start| message.starts_with(start)), "evaluated by nobody here: {message}");
    }
    schema
}

/// Rules that ask for the type of an int-or-string: evaluated by the API server only (the cluster tests send it `tests/e2e/invalid`).
const SERVER_ONLY: [&str; 3] = ["group must be a number or a name", "group must not be negative", "serial must be a number"];

/// Takes the rules out that only the API server evaluates; their messages.
fn strip(schema: &mut Value, stripped: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(rules)) = map.get_mut("x-kubernetes-validations") {
                rules.retain(|rule| {
                    let here = !rule["rule"].as_str().unwrap().contains("type(");
                    if !here {
                        stripped.insert(rule["message"].as_str().unwrap().to_owned());
                    }
                    here
                });
            }
            map.values_mut().for_each(|child| strip(child, stripped));
        }
        Value::Array(list) => list.iter_mut().for_each(|child| strip(child, stripped)),
        _ => {}
    }
}

/// The messages with which an object is refused; `old` makes it an update.
pub fn refusals(kind: &str, object: &Value, old: Option<&Value>) -> BTreeSet<String> {
    match Validator::new().validate(&schema(kind), object, old) {
        Ok(()) => BTreeSet::new(),
        Err(errors) => errors.iter().map(|e| e.message.clone()).collect(),
    }
}

/// The messages of all rules of a schema.
pub fn messages(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                into.insert(rule["message"].as_str().unwrap_or_else(|| panic!("no message: {rule}")).to_owned());
            }
            map.values().for_each(|child| messages(child, into));
        }
        Value::Array(list) => list.iter().for_each(|child| messages(child, into)),
        _ => {}
    }
}
