//! What the API server refuses: the samples of `tests/e2e/invalid`, and more that break the same rules.

use std::{collections::BTreeSet, fs};

use fettle::{api, yaml};
use serde_json::{Value, json};

use crate::{By, Row, generated, rules};

/// Class, file, what is sent.
const SAMPLES: &[(&str, &str, &str)] = &[
    ("B01", "no-hosts", "`hosts: []`"),
    ("B02", "all-hosts", "`hosts: [all]`"),
    ("B02", "all-as-group", "`group: all`"),
    ("B03", "pattern-in-host", "`hosts: [\"web-*\"]`"),
    ("B05", "duplicate-host", "`hosts: [web-1, web-1]`"),
    ("B05", "dot-at-the-end-of-host", "`hosts: [web-1.example.com.]`"),
    ("B06", "too-many-hosts", "`hosts` of 1,001 names"),
    ("B07", "long-host", "a host name of 254 characters"),
    ("B07", "empty-host", "`hosts: [\"\"]`"),
    ("B07", "hidden-character-in-host", "a host name with a character of no width"),
    ("B07", "control-character-in-group", "`group: \"5\\u0000\"`"),
    ("B07", "long-group", "a group name of 300 characters"),
    ("B07", "negative-group", "`group: -5`"),
    ("B07", "large-number-as-group", "`group: 99999999999999999999`"),
    ("B08", "change-without-start-by", "`phases: [apply]` without `startBy`"),
    ("B08", "start-after-start-by", "`startAfter` later than `startBy`"),
    ("B08", "time-without-zone", "`startBy: \"2027-01-01T00:00:00\"`"),
    ("B08", "no-such-day", "`startBy: \"2027-02-29T00:00:00Z\"`"),
    ("B08", "end-of-time", "`startBy: 9999-12-31T23:59:59Z`"),
    ("B09", "timeout-without-unit", "`timeouts: {precheck: \"15\"}`"),
    ("B11", "serial-zero", "`reboot: {serial: 0}`"),
    ("B11", "max-fail-percentage", "`reboot: {maxFailPercentage: 101}`"),
    ("B13", "half-a-template", "`templates: {apply: 1.5}`"),
    ("B18", "unknown-field", "`extraVars: {…}`"),
    ("B19", "unknown-field", "`extraVars: {…}`"),
    ("B20", "shell-in-group", "`group: \"5; reboot\"`"),
    ("B20", "shell-in-host", "``hosts: [\"web-1`reboot`\"]``"),
    ("B20", "shell-in-kernel", "`desiredKernel: \"6.1.0$(reboot)\"`"),
    ("B20", "newline-in-kernel", "`desiredKernel: \"6.1.0\\nreboot\"`"),
    ("B23", "list-for-text", "`desiredKernel: [6.1.0]`"),
    ("B25", "resolver-for-checks", "`pipelineRef: {resolver: git, …}`"),
    ("B26", "unknown-field", "`serviceAccountName: admin`"),
    ("B27", "edit-group", "another `group`"),
    ("B27", "edit-kernel", "another `desiredKernel`"),
    ("B27", "edit-phases", "other `phases`"),
    ("B27", "lower-attempt", "a lower `attempt`"),
    ("B29", "long-name", "a name of 64 characters"),
    ("B29", "very-long-name", "a name of more than 253 characters"),
    ("B31", "namespace-in-reference", "`secretRef: {name: aap, namespace: other}`"),
    ("B31", "path-in-reference", "`secretRef: {name: other/aap}`"),
    ("B39", "plain-http", "`url: http://aap.example.com`"),
    ("B39", "other-protocol", "`url: ftp://aap.example.com`"),
    ("B39", "user-in-url", "`url: https://x@169.254.169.254`"),
    ("B39", "fragment-in-url", "`url: \"https://aap.example.com/#\"`"),
    ("B59", "unknown-field", "fields that do not exist"),
    ("B59", "wrong-version", "`apiVersion: fettle.dev/v1`"),
    ("B59", "no-spec", "no `spec`"),
    ("B59", "spec-is-null", "`spec: null`"),
    ("B59", "text-for-number", "`attempt: \"2\"`"),
    ("B59", "group-and-hosts", "`group` and `hosts`"),
    ("B59", "neither-group-nor-hosts", "neither `group` nor `hosts`"),
    ("B59", "no-phase", "`phases: []`"),
    ("B59", "unknown-phase", "`phases: [upgrade]`"),
    ("B59", "repeated-phase", "`phases: [precheck, precheck]`"),
    ("B59", "phases-out-of-order", "`phases: [postcheck, precheck]`"),
    ("B59", "change-without-kernel", "`phases: [apply]` without `desiredKernel`"),
    ("B60", "long-group", "a text longer than its bound"),
    ("B60", "too-many-hosts", "a list longer than its bound"),
];

/// More of the same, refused by the same rules: class, field, values.
fn more() -> Vec<(&'static str, &'static str, Vec<Value>)> {
    let hosts = |names: &[&str]| names.iter().map(|name| json!([name])).collect();
    vec![
        ("B02", "hosts", hosts(&["ungrouped", "localhost", "*"])),
        ("B03", "hosts", hosts(&["a,b", "a:b", "!a", "&a", "~a", "@a", "web[1:50]"])),
        ("B07", "hosts", hosts(&[" ", "web 1", "web\u{0}", "\u{202e}bew", "wéb-1", "münchen"])),
        ("B09", "timeouts", ["0s", "-5m", "1ns", "999999h", "1e9", "P1D"].iter().map(|span| json!({"apply": span})).collect()),
        ("B21", "desiredKernel", vec![json!("{{ lookup('pipe','id') }}"), json!("6.1{% raw %}")]),
    ]
}

/// One row a sample.
pub fn rows() -> Vec<Row> {
    let folder = generated::path("tests/e2e/invalid");
    let there: BTreeSet<String> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let listed: BTreeSet<String> = SAMPLES.iter().map(|(_, file, _)| (*file).to_owned()).collect();
    assert_eq!(listed, there, "every sample has its line");
    let mut rows: Vec<Row> = SAMPLES
        .iter()
        .map(|(id, file, sent)| {
            let text = fs::read_to_string(folder.join(format!("{file}.yaml"))).unwrap();
            let (by, says) = refusal(file, &text);
            Row { id, sent: (*sent).to_owned(), by, says }
        })
        .collect();
    for (id, field, values) in more() {
        let mut told = BTreeSet::new();
        for value in &values {
            let refused = rules::refusals("PatchRun", &run(field, value), None);
            assert!(!refused.is_empty(), "{field}: {value} is accepted");
            told.extend(refused);
        }
        let sent: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        let says = told.into_iter().collect::<Vec<_>>().join("; ");
        rows.push(Row { id, sent: format!("`{field}`: {}", sent.join(", ")), by: By::Rule, says });
    }
    rows
}

/// A good run but for one field.
fn run(field: &str, value: &Value) -> Value {
    let mut spec = json!({"connection": {"name": "prod"}, "group": 5, "desiredKernel": "6.1.0", "phases": ["precheck"]});
    if field == "hosts" {
        spec.as_object_mut().unwrap().remove("group");
    }
    spec[field] = value.clone();
    json!({"apiVersion": "fettle.dev/v1alpha1", "kind": "PatchRun", "metadata": {"name": "web"}, "spec": spec})
}

/// Who refuses a sample, and the words that its head says a real API server has: of a rule, the whole message.
fn refusal(file: &str, text: &str) -> (By, String) {
    let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# refused: ")).collect();
    assert!(!expected.is_empty(), "{file} does not say how it is refused");
    let objects: Vec<Value> = text.split("\n---\n").map(|document| yaml::from_str(document).unwrap()).collect();
    let object = objects.last().unwrap();
    let kind = object["kind"].as_str().unwrap();
    let known = api::all().into_iter().any(|crd| crd.spec.names.kind == kind);
    assert!(known, "{file}: {kind}");
    let mut all = BTreeSet::new();
    rules::messages(&rules::full(kind), &mut all);
    let fits = |message: &&String| expected.iter().all(|part| message.contains(part));
    let Some(rule) = all.iter().find(fits) else { return (By::Schema, expected.join("; ")) };
    let mut here = BTreeSet::new();
    rules::messages(&rules::schema(kind), &mut here);
    if here.contains(rule) {
        let old = (objects.len() > 1).then(|| &objects[0]);
        let refused = rules::refusals(kind, object, old);
        assert!(refused.contains(rule), "{file} is not refused with {rule:?} but {refused:?}");
    }
    (By::Rule, rule.clone())
}
