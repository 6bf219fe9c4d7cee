//! The layers of the source, as `src/lib.rs` draws them: who may use whom, and what appears nowhere.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Longest file, in lines of product code (tests inside it not counted).
const LONGEST: usize = 700;
/// The state machine of a run may be longer: its cases read best in one place.
const LONGER: &[(&str, usize)] = &[("controllers/patch_run/decide.rs", 1250)];

/// Module, as a file under `src` without `.rs`, and the only modules of this crate it may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("api", &["api"]),
    ("conditions", &[]),
    ("names", &["api"]),
    ("events", &["api"]),
    ("chat", &["api", "run_request"]),
    ("run_request", &["api", "names", "settings::run_defaults"]),
    ("settings", &[]),
    ("settings/run_defaults", &["api", "yaml"]),
    ("status", &["names"]),
    ("clock", &[]),
    ("yaml", &[]),
    ("metrics", &[]),
    ("telemetry", &[]),
    ("archive/record", &["api"]),
    ("archive/key", &["api"]),
    ("archive", &["api", "archive", "clock", "runbooks", "shelf", "telemetry"]),
    ("runbooks", &["api", "runbooks", "yaml"]),
    ("shelf", &["api", "runbooks"]),
    ("history", &["api", "archive", "clock", "history", "names"]),
    ("clients", &["api", "clients", "names", "telemetry", "yaml"]),
    ("clients/kubernetes", &["clients", "metrics"]),
    ("kubectl", &["api", "archive::record", "clients::tekton", "clock", "http::auth", "kubectl", "names", "runbooks", "yaml"]),
    ("controllers/patch_run/decide", &["api", "archive::record", "conditions", "names"]),
    ("controllers/patch_run/verdict", &["api", "archive::record"]),
    ("controllers/patch_run/scope", &["api", "names", "yaml"]),
    ("controllers/patch_run/checks", &["api", "clients::tekton", "names"]),
    ("controllers/automation_connection/decide", &["api", "clients::aap", "conditions"]),
    ("controllers/runbook/decide", &["api", "conditions", "runbooks"]),
];

/// Modules that decide: no IO, no waiting, no clock.
const PURE: &[&str] = &[
    "api",
    "conditions",
    "names",
    "events",
    "chat",
    "run_request",
    "settings/run_defaults",
    "archive/record",
    "controllers/patch_run/decide",
    "controllers/patch_run/verdict",
    "controllers/patch_run/scope",
    "controllers/patch_run/checks",
    "controllers/automation_connection/decide",
    "controllers/runbook/decide",
    "runbooks",
];

/// Every file of Rust or Python under a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs" || e == "py") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let paths = files(&root);
    let read =
        |path: &PathBuf| (path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), product(&fs::read_to_string(path).unwrap()));
    paths.iter().map(read).collect()
}

/// The text up to the tests of the file, without comments.
fn product(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Modules of this crate that a file uses: `crate::a::b` and `crate::{a, b::c}`, each as far as its modules (lower case) go.
fn used(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        // not the end of another word, and not the `crate` of a macro or of `pub(crate)`
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let mut tree = String::new();
        let mut depth = 0;
        for c in text[at + "crate::".len()..].chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                c if depth == 0 && !(c.is_alphanumeric() || c == '_' || c == ':') => break,
                _ => {}
            }
            tree.extend(Some(c).filter(|c| !c.is_whitespace()));
        }
        flatten("", &tree, &mut found);
    }
    found
}

fn flatten(head: &str, tree: &str, into: &mut BTreeSet<String>) {
    let mut parts = vec![];
    let (mut depth, mut start) = (0, 0);
    for (i, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts.into_iter().filter(|p| !p.is_empty()) {
        if let Some((path, rest)) = part.split_once('{') {
            flatten(&format!("{head}{path}"), rest.strip_suffix('}').unwrap_or(rest), into);
        } else {
            let full = format!("{head}{part}");
            let modules: Vec<&str> = full.split("::").take_while(|s| s.starts_with(|c: char| c.is_lowercase())).collect();
            into.insert(modules.join("::"));
        }
    }
}

fn is_of(file: &str, module: &str) -> bool {
    file.strip_suffix(".rs").is_some_and(|file| file == module || file.strip_prefix(module).is_some_and(|rest| rest.starts_with('/')))
}

#[test]
fn paths_in_uses_are_understood() {
    let text = "use crate::{\n    api::{patch_run::{Phase, State}, reason::Reason},\n    names,\n};\nlet x = crate::yaml::from_str(y); pub(crate) fn f() {}";
    assert_eq!(used(text), ["api::patch_run", "api::reason", "names", "yaml::from_str"].map(String::from).into());
}

#[test]
fn every_module_uses_only_what_is_below_it() {
    let sources = sources();
    let mut wrong = vec![];
    for (file, text) in &sources {
        // the most specific layer counts
        let Some((_, allowed)) = LAYERS.iter().filter(|(module, _)| is_of(file, module)).max_by_key(|(module, _)| module.len()) else {
            continue;
        };
        for used in used(text) {
            let fits = |layer: &&str| used == **layer || used.starts_with(&format!("{layer}::"));
            if !allowed.iter().any(fits) {
                wrong.push(format!("{file} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (module, _) in LAYERS {
        assert!(sources.iter().any(|(file, _)| is_of(file, module)), "there is no {module}");
    }
}

#[test]
fn what_decides_does_nothing() {
    let words = [
        "async fn",
        ".await",
        "kube::Client",
        "Client,",
        "Api<",
        "Api::<",
        "reqwest",
        "tokio::",
        "object_store",
        "std::fs",
        "std::net",
        "Instant",
        "::now()",
    ];
    let mut wrong = vec![];
    for (file, text) in sources() {
        if PURE.iter().any(|module| is_of(&file, module)) {
            wrong.extend(words.iter().filter(|word| text.contains(**word)).map(|word| format!("{file} has {word}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn controllers_are_used_by_the_shell_only() {
    for (file, text) in sources() {
        let shell = ["controllers/", "controllers.rs", "manager.rs", "main.rs", "cli.rs"].iter().any(|part| file.starts_with(part));
        let uses = used(&text).into_iter().any(|used| used.starts_with("controllers"));
        assert!(shell || !uses, "{file} uses controllers");
    }
}

#[test]
fn files_are_short_and_named_after_their_module() {
    for (file, text) in sources() {
        assert!(!file.ends_with("mod.rs"), "{file}: a module foo is src/foo.rs");
        let longest = LONGER.iter().find(|(longer, _)| *longer == file).map_or(LONGEST, |(_, lines)| *lines);
        let lines = text.lines().count();
        assert!(lines <= longest, "{file} has {lines} lines of code, at most {longest} are wanted");
    }
}

#[test]
fn what_must_appear_nowhere() {
    for (file, text) in sources() {
        for (word, why) in [
            ("HashMap", "its order must not reach a decision: BTreeMap"),
            ("generateName", "a repeated request would make a second object"),
            ("generate_name", "a repeated request would make a second object"),
            ("danger_accept_invalid", "certificates are checked"),
            ("unsafe ", "is forbidden"),
        ] {
            assert!(!text.contains(word), "{file} has {word}: {why}");
        }
        assert!(!(file.starts_with("controllers") && text.contains("Patch::Apply")), "{file}: apply makes again what was deleted");
        // a check's values reach its script through the environment
        assert!(!text.lines().any(|line| line.contains("\"script\"") && line.contains("$(params")), "{file}: a parameter in a script");
    }
}

#[test]
fn mutants_fit_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut patches: Vec<PathBuf> = fs::read_dir(root.join("tests/mutants")).unwrap().map(|entry| entry.unwrap().path()).collect();
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    assert!(patches.len() >= 25, "{} mutants", patches.len());
    for patch in &patches {
        let text = fs::read_to_string(patch).unwrap();
        let caught_by = text.lines().nth(1).unwrap_or_default();
        assert!(caught_by.starts_with("Caught by: "), "{}: its second line says which tests see it", patch.display());
        let check = std::process::Command::new("git").args(["apply", "--check"]).arg(patch).current_dir(root).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    }
}

/// Every annotation that is read: the origin of a Secret, and the marks on what Fettle itself made.
#[test]
fn annotations_decide_nothing() {
    let known =
        ["controllers/sessions.rs", "controllers/patch_run/observe/check.rs", "controllers/patch_run/scope.rs", "controllers/janitor.rs"];
    for (file, text) in sources() {
        let reads = text.lines().any(|line| line.contains(".annotations") || line.contains("annotations()"));
        assert!(!reads || known.contains(&file.as_str()), "{file} reads annotations: what people decide stands in a spec");
    }
}

/// The tests that a document names: as `file::name`, or as `a_name_of_some_words` alone.
fn tests_named(text: &str) -> Vec<(Option<&str>, &str)> {
    let of_some_words =
        |code: &&str| code.matches('_').count() > 1 && code.bytes().all(|b| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit());
    let named = |code| match str::split_once(code, "::") {
        Some((file, name)) if file.contains('.') => Some((Some(file), name)),
        _ => Some(code).filter(of_some_words).map(|name| (None, name)),
    };
    text.split('`').skip(1).step_by(2).filter_map(named).collect()
}

#[test]
fn tests_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let mut every = String::new();
    for file in ["src", "tests", "ansible/tests"].iter().flat_map(|part| files(&root.join(part))) {
        every += &fs::read_to_string(file).unwrap_or_default();
    }
    let (threats, guarantees) = (read("docs/threats.md"), read("docs/guarantees.md"));
    for (file, name) in [tests_named(&threats), tests_named(&guarantees)].concat() {
        let source = file.map_or_else(|| every.clone(), read);
        assert!(
            [format!("fn {name}("), format!("def {name}(")].iter().any(|head| source.contains(head)),
            "there is no test {name} in {}",
            file.unwrap_or("the tree")
        );
    }
    let rows: Vec<&str> = threats.lines().filter(|line| line.starts_with("| T")).collect();
    for (row, number) in rows.iter().zip(1..) {
        assert!(row.starts_with(&format!("| T{number} |")), "{row}");
        assert!(!tests_named(row).is_empty() || row.contains("| open: "), "neither tested nor open: {row}");
    }
    assert_eq!(rows.len(), 30);
}
