//! The rules of the schema: what each accepts, what it refuses, and the very message people get.

#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test fails by panicking")]

mod rules;

use std::{collections::BTreeSet, fs, path::Path};

use fettle::{api, yaml};
use rules::{messages, refusals, schema};
use serde_json::{Value, json};

/// An object with this spec laid over a valid one; null takes a field out.
fn object(kind: &str, over: &Value) -> Value {
    let mut spec = match kind {
        "PatchRun" => json!({"connection": {"name": "prod"}, "group": 5, "desiredKernel": "6.1.0-53-cloud-amd64",
            "phases": ["precheck", "stage", "apply", "reboot", "postcheck"], "startBy": "2026-11-22T04:00:00Z"}),
        _ => json!({"url": "https://aap.example.com", "inventory": "fleet"}),
    };
    let mut name = "web".to_owned();
    for (key, value) in over.as_object().unwrap() {
        match key.as_str() {
            "name" => value.as_str().unwrap().clone_into(&mut name),
            _ => spec[key] = value.clone(),
        }
    }
    spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    json!({"apiVersion": "fettle.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "patching"}, "spec": spec})
}

/// Every rule has a refused example among `cases`, each case is refused by exactly the rule it names, and nothing in `good` is refused.
fn check(kind: &str, good: &[Value], cases: &[(Value, &str)], updates: &[(Value, Value, &str)], kept: &[(Value, Value)]) {
    let mut wrong = vec![];
    for spec in good {
        let refused = refusals(kind, &object(kind, spec), None);
        if !refused.is_empty() {
            wrong.push(format!("{spec} is refused: {refused:?}"));
        }
    }
    let mut told = BTreeSet::new();
    let mut expect = |what: String, refused: BTreeSet<String>, start: &str| {
        if !refused.iter().any(|message| message.starts_with(start)) {
            wrong.push(format!("{what} is not refused with {start:?} but {refused:?}"));
        }
        told.extend(refused);
    };
    for (spec, start) in cases {
        expect(spec.to_string(), refusals(kind, &object(kind, spec), None), start);
    }
    for (old, new, start) in updates {
        expect(format!("{old} → {new}"), refusals(kind, &object(kind, new), Some(&object(kind, old))), start);
    }
    for (old, new) in kept {
        let refused = refusals(kind, &object(kind, new), Some(&object(kind, old)));
        if !refused.is_empty() {
            wrong.push(format!("{old} → {new} is refused: {refused:?}"));
        }
    }
    let mut all = BTreeSet::new();
    messages(&schema(kind), &mut all);
    wrong.extend(all.difference(&told).map(|message| format!("no example is refused with {message:?}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn patch_runs_are_refused_with_words_that_help() {
    let check_only = json!({"phases": ["precheck"], "startBy": null, "desiredKernel": null});
    let good = [
        json!({}),
        check_only.clone(),
        json!({"group": "web.prod-1"}),
        json!({"group": 0}),
        json!({"group": null, "hosts": ["web-1", "web_2.example.com"]}),
        json!({"phases": ["apply", "postcheck"], "startAfter": "2026-11-22T03:00:00Z"}),
        json!({"desiredKernel": "5.14.0-427.13.1.el9_4.x86_64"}),
        json!({"timeouts": {"precheck": "90s", "apply": "1h30m", "reboot": "168h"}}),
        json!({"reboot": {"serial": 2}}),
        json!({"reboot": {"serial": "25%", "maxFailPercentage": 10}}),
        json!({"reboot": {"serial": "100%"}}),
        json!({"name": "a".repeat(63)}),
    ];
    let cases = [
        (json!({"name": "a".repeat(64)}), "metadata.name must be at most 63"),
        (json!({"hosts": ["web-1"]}), "give either group"),
        (json!({"group": null}), "give either group"),
        (json!({"group": "all"}), "group must not be one of Ansible's own"),
        (json!({"group": "a".repeat(64)}), "group must be at most 63"),
        (json!({"group": null, "hosts": ["web*"]}), "each of hosts must be a host name"),
        (json!({"group": null, "hosts": ["web-1", "!db-1"]}), "each of hosts must be a host name"),
        (json!({"group": null, "hosts": ["web[1:3]"]}), "each of hosts must be a host name"),
        (json!({"group": null, "hosts": ["localhost"]}), "hosts must name hosts"),
        (json!({"phases": ["precheck", "precheck"]}), "phases must not repeat"),
        (json!({"phases": ["apply", "stage"]}), "phases run in the order"),
        (json!({"phases": ["postcheck", "precheck"]}), "phases run in the order"),
        (json!({"desiredKernel": null}), "desiredKernel is required"),
        (json!({"desiredKernel": null, "phases": ["precheck", "postcheck"], "startBy": null}), "desiredKernel is required"),
        (json!({"desiredKernel": "latest"}), "desiredKernel must be exactly"),
        (json!({"desiredKernel": "6.1; reboot"}), "desiredKernel must be exactly"),
        (json!({"desiredKernel": "6.1{{ x }}"}), "desiredKernel must be exactly"),
        (json!({"startBy": null}), "startBy is required"),
        (json!({"startAfter": "2026-11-22T05:00:00Z"}), "startAfter must be before startBy"),
        (json!({"startBy": "9999-12-31T00:00:00Z"}), "startBy and startAfter must lie before"),
        (json!({"startAfter": "9999-01-01T00:00:00Z", "startBy": null, "phases": ["precheck"]}), "startBy and startAfter must lie before"),
        (json!({"connection": {"name": "other/prod"}}), "name must be the name of an object in the same namespace"),
        (json!({"timeouts": {"apply": "30s"}}), "each of timeouts"),
        (json!({"timeouts": {"reboot": "169h"}}), "each of timeouts"),
        (json!({"timeouts": {"stage": "soon"}}), "each of timeouts"),
        (json!({"timeouts": {"stage": "-5m"}}), "each of timeouts"),
    ];
    let hosts = json!({"group": null, "hosts": ["web-1"]});
    let updates = [
        (json!({}), json!({"connection": {"name": "other"}}), "connection is immutable"),
        (json!({}), json!({"group": 6}), "group is immutable"),
        (json!({}), hosts.clone(), "group is immutable"),
        (hosts.clone(), json!({"group": null, "hosts": ["web-2"]}), "hosts is immutable"),
        (json!({}), json!({"desiredKernel": "6.1.0-54-cloud-amd64"}), "desiredKernel is immutable"),
        (json!({}), json!({"phases": ["apply"]}), "phases is immutable"),
        (json!({}), json!({"startBy": "2027-11-22T04:00:00Z"}), "startBy is immutable"),
        (json!({"phases": ["precheck"]}), json!({"phases": ["precheck"], "startBy": null}), "startBy is immutable"),
        (json!({}), json!({"startAfter": "2026-11-22T03:00:00Z"}), "startAfter is immutable"),
        (json!({}), json!({"timeouts": {"apply": "3h"}}), "timeouts is immutable"),
        (json!({}), json!({"reboot": {"serial": 3}}), "reboot is immutable"),
        (json!({}), json!({"allowSelf": true}), "allowSelf is immutable"),
        (json!({"attempt": 2}), json!({"attempt": 1}), "attempt may only grow"),
        (json!({"attempt": 2}), json!({}), "attempt may only grow"),
    ];
    let kept = [
        (json!({}), json!({"suspend": true})),
        (json!({"suspend": true}), json!({"cancel": true})),
        (json!({}), json!({"attempt": 2})),
        (check_only.clone(), check_only),
    ];
    check("PatchRun", &good, &cases, &updates, &kept);
}

#[test]
fn connections_are_refused_with_words_that_help() {
    let good = [
        json!({}),
        json!({"url": "https://aap.example.com:8443/hub"}),
        json!({"url": "http://aap.example.com", "allowPlainHTTP": true}),
        json!({"inventory": 3, "apiPrefix": "/api/controller/v2", "groupVariable": "patch_group"}),
        json!({"caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}}),
    ];
    let both = json!({"configMapKeyRef": {"name": "a", "key": "b"}, "secretKeyRef": {"name": "a", "key": "b"}});
    let cases = [
        (json!({"name": "a".repeat(64)}), "metadata.name must be at most 63"),
        (json!({"url": "http://aap.example.com"}), "url must start with https://"),
        (json!({"url": "http://aap.example.com", "allowPlainHTTP": false}), "url must start with https://"),
        (json!({"url": "ftp://aap.example.com", "allowPlainHTTP": true}), "url must start with https://"),
        (json!({"url": "https://user:pass@aap.example.com"}), "url must be scheme and host"),
        (json!({"url": "https://aap.example.com/?a=b"}), "url must be scheme and host"),
        (json!({"url": "https://aap.example.com/#x"}), "url must be scheme and host"),
        (json!({"apiPrefix": "api/v2"}), "apiPrefix must be a path"),
        (json!({"apiPrefix": "/api/v2/"}), "apiPrefix must be a path"),
        (json!({"apiPrefix": "/../x"}), "apiPrefix must be a path"),
        (json!({"groupVariable": "a-b"}), "groupVariable must be the name"),
        (json!({"caBundle": both}), "caBundle names exactly one"),
        (json!({"caBundle": {}}), "caBundle names exactly one"),
        (json!({"caBundle": {"secretKeyRef": {"name": "other/ca", "key": "ca.crt"}}}), "name must be the name of an object"),
        (json!({"credentials": {"secretRef": {"name": "../other/secrets/aap"}}}), "name must be the name of an object"),
    ];
    check("AutomationConnection", &good, &cases, &[], &[]);
}

#[test]
fn samples_are_valid() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut seen = 0;
    for entry in ["samples", "runbooks"].iter().flat_map(|of| fs::read_dir(config.join(of)).unwrap()) {
        let path = entry.unwrap().path();
        let sample: Value = yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let Some(kind) = sample["kind"].as_str().filter(|kind| api::all().iter().any(|crd| crd.spec.names.kind == *kind)) else { continue };
        seen += 1;
        assert_eq!(refusals(kind, &sample, None), BTreeSet::new(), "{}", path.display());
    }
    assert!(seen >= 17 + api::all().len(), "a sample of each kind, and the Runbooks that are shipped");
}
