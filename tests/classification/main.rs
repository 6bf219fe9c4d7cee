//! Failures that no Runbook was written from, each in the forms in which logs hold it: what share is told right, by code.
//!
//! `FETTLE_LOG_SAMPLES=FILE cargo test --test classification -- --ignored --nocapture` prints the figures of labelled logs, {"id", "code", "text", …} one a line.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    clippy::print_stdout,
    clippy::format_collect,
    clippy::type_complexity,
    clippy::large_stack_arrays,
    reason = "a test fails by panicking"
)]

use std::{collections::BTreeMap, env, fs, sync::Arc};

use fettle::{
    api::classification::{OTHER, Tier},
    runbooks::{Classifier, Context, Library, Verdict},
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Blocks of a code and what a tool prints.
const CAUSES: &str = include_str!("causes.txt");
/// What is in logs of all kinds and means nothing.
const NOISE: &[&str] = &[
    "Updating Subscription Management repositories.",
    "perl: warning: Setting locale failed.",
    "Paketlisten werden gelesen...",
    "Lecture des listes de paquets...",
    "[DEPRECATION WARNING]: The 'warn' parameter will be removed. This feature will be removed in version 2.19.",
    "[WARNING]: Platform linux on host h1 is using the discovered Python interpreter at /usr/bin/python3.9",
];
/// Forms in which a log can hold a message.
const FORMS: &[&str] =
    &["raw", "default", "yaml", "json", "cut", "ansible.log", "syslog", "tekton", "crlf", "colour", "hosts", "noise", "ignored"];

fn classify(text: &str) -> Verdict {
    let mut classifier = Classifier::new(Library::shipped(), Context::default());
    classifier.push(text.as_bytes());
    classifier.finish()
}

fn code(verdict: &Verdict) -> &str {
    verdict.classification.as_ref().map_or("none", |cause| &cause.error_code)
}

fn causes() -> Vec<(&'static str, &'static str)> {
    let blocks = CAUSES.split("== ").skip(1);
    blocks.map(|block| block.split_once('\n').map(|(code, text)| (code, text.trim_end())).unwrap()).collect()
}

/// Each line with something in front of it.
fn prefixed(text: &str, prefix: &str) -> String {
    text.lines().map(|line| format!("{prefix}{line}\n")).collect()
}

fn failed(text: &str) -> String {
    let result = json!({"changed": false, "cmd": "true", "delta": "0:00:01", "msg": "non-zero return code", "rc": 1, "stderr": text, "stderr_lines": text.lines().collect::<Vec<_>>(), "stdout": ""});
    format!("TASK [patch : update] *****\nfatal: [h1]: FAILED! => {result}\n")
}

const RECAP: &str = "\nPLAY RECAP *****\nh1    : ok=3    changed=1    unreachable=0    failed=1    skipped=0    rescued=0    ignored=0\n";

/// A message in one form; nothing where it has none.
fn shaped(form: &str, text: &str) -> Option<String> {
    let own =
        ["fatal: [", "ERROR! ", " | UNREACHABLE!", "job_explanation", "...ignoring", "FAILED - "].iter().any(|mark| text.contains(mark));
    let inside = || (!own).then_some(text);
    Some(match form {
        "raw" => format!("{text}\n"),
        "default" => failed(inside()?) + RECAP,
        "yaml" => format!(
            "TASK [patch : update] *****\nfatal: [h1]: FAILED! => changed=false \n  cmd: [/usr/bin/tool]\n  msg: |-\n{}{RECAP}",
            prefixed(inside()?, "    ")
        ),
        "json" => {
            let result = json!({"plays": [{"tasks": [{"hosts": {"h1": {"failed": true, "msg": "tool failed", "rc": 1, "stderr": inside()?}}}]}], "stats": {"h1": {"failures": 1, "ok": 2, "unreachable": 0}}});
            serde_json::to_string_pretty(&result).unwrap()
        }
        // the end of the line is lost, not the message
        "cut" => failed(inside()?).split(", \"stderr_lines\"").next().map(|line| format!("{line}, \"stderr_li\n")).unwrap(),
        "ansible.log" => {
            prefixed(&if own { text.to_owned() } else { failed(text) + RECAP }, "2026-03-02 04:00:01,123 p=991 u=awx n=ansible | ")
        }
        "syslog" => prefixed(inside()?, "Mar  2 04:00:01 h1 tool[4711]: "),
        "tekton" => prefixed(text, "[apply : run] "),
        "crlf" => prefixed(text, "").replace('\n', "\r\n"),
        "colour" => text.lines().map(|line| format!("\u{1b}[0;31m{line}\u{1b}[0m\n")).collect(),
        "hosts" => format!("ok: [h0]\nchanged: [h2]\n{}h0 : ok=3 changed=0 unreachable=0 failed=0 skipped=0\n", failed(inside()?) + RECAP),
        "noise" => format!("{}\n{text}\n{}\n", NOISE[..3].join("\n"), NOISE[3..].join("\n")),
        // a failure that was let pass comes first
        "ignored" => {
            let let_pass = "TASK [look] ***\nfatal: [h1]: FAILED! => {\"changed\": false, \"msg\": \"Unit frob.service could not be found.\", \"rc\": 4}\n...ignoring\n";
            format!("{let_pass}{}{RECAP}", failed(inside()?))
        }
        _ => return None,
    })
}

#[test]
fn failures_are_told_in_every_form() {
    let (mut of_code, mut of_form): (BTreeMap<&str, (u32, u32)>, BTreeMap<&str, (u32, u32)>) = (BTreeMap::new(), BTreeMap::new());
    let (mut offered, mut wrong_offers, mut alarms, mut wrong) = (0_u32, 0_u32, 0_u32, vec![]);
    for (wanted, text) in causes() {
        for form in FORMS {
            // what went well is not shown as the result of a failure
            if wanted == "none" && ["default", "yaml", "json", "cut", "ansible.log", "hosts", "ignored"].contains(form) {
                continue;
            }
            // of a failure that says nothing, what was let pass before it is the best that is known
            if wanted == OTHER && *form == "ignored" {
                continue;
            }
            let Some(log) = shaped(form, text) else { continue };
            let verdict = classify(&log);
            let right = code(&verdict) == wanted;
            for figures in [of_code.entry(wanted).or_default(), of_form.entry(form).or_default()] {
                figures.0 += 1;
                figures.1 += u32::from(right);
            }
            if let Some(cause) = verdict.classification.as_ref().filter(|cause| cause.tier == Tier::Decisive) {
                offered += 1;
                wrong_offers += u32::from(!right && cause.error_code != OTHER);
            }
            alarms += u32::from(wanted == "none" && !right);
            if !right {
                let line =
                    verdict.classification.as_ref().and_then(|cause| cause.evidence.as_ref()).map(|evidence| evidence.excerpt.as_str());
                wrong.push(format!("{wanted} as {form} is told as {}: {} <- {line:?}", code(&verdict), text.lines().next().unwrap()));
            }
        }
    }
    for line in &wrong {
        println!("{line}");
    }
    for (name, (all, right)) in of_code.iter().chain(&of_form) {
        println!("{name:<20} {right:>4} of {all}");
    }
    let (all, right) = of_code.values().fold((0, 0), |sum, figures| (sum.0 + figures.0, sum.1 + figures.1));
    println!("together             {right:>4} of {all}; decisive {offered}, of these wrong {wrong_offers}; false alarms {alarms}");
    assert!(f64::from(right) >= 0.95 * f64::from(all), "{right} of {all}");
    assert!(f64::from(wrong_offers) <= 0.005 * f64::from(offered), "{wrong_offers} of {offered}");
    assert_eq!(alarms, 0);
    for (code, (all, right)) in of_code {
        assert!(f64::from(right) >= 0.85 * f64::from(all), "{code}: {right} of {all}");
    }
}

#[test]
fn the_cause_of_most_hosts_comes_first() {
    let failure = |host: &str, text: &str| format!("fatal: [{host}]: FAILED! => {{\"changed\": false, \"msg\": \"{text}\"}}\n");
    let full = "installing package kernel-core-6.0 needs 9MB on the /boot filesystem";
    let missing = "No package matching 'frobnicate' found available, installed or updated";
    let log = failure("a", missing) + &failure("b", full) + &failure("c", full) + "ok: [d]\n";
    let verdict = classify(&log);
    assert_eq!((code(&verdict), verdict.hosts.len()), ("E-DISK-BOOT", 3));
    assert_eq!(verdict.classification.unwrap().also, ["E-PKG-MISSING"]);
    assert_eq!(verdict.hosts["a"].error_code, "E-PKG-MISSING");
}

#[test]
#[ignore = "needs labelled logs: FETTLE_LOG_SAMPLES"]
fn labelled_logs() {
    let Ok(file) = env::var("FETTLE_LOG_SAMPLES") else {
        println!("FETTLE_LOG_SAMPLES names no file: nothing to look at");
        return;
    };
    let mut figures: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for line in fs::read_to_string(file).unwrap().lines() {
        let log: Value = serde_json::from_str(line).unwrap();
        let wanted = log["code"].as_str().unwrap();
        let verdict = classify(log["text"].as_str().unwrap());
        let right = code(&verdict) == wanted;
        let tier = verdict.classification.as_ref().map_or("tier none".into(), |cause| format!("tier {:?}", cause.tier));
        let hard = log["hard"].as_bool().unwrap_or_default().then(|| "hard".to_owned());
        for name in [Some("all".to_owned()), hard, Some(wanted.to_owned()), Some(tier)].into_iter().flatten() {
            let (all, told) = figures.entry(name).or_default();
            *all += 1;
            *told += u32::from(right);
        }
        if !right {
            let evidence = verdict.classification.as_ref().and_then(|cause| cause.evidence.as_ref());
            println!(
                "{}: {wanted}, told as {}: {:?}",
                log["id"],
                code(&verdict),
                evidence.map(|evidence| (evidence.line, &evidence.excerpt))
            );
        }
    }
    for (name, (all, right)) in figures {
        println!("{name:<20} {right:>4} of {all}");
    }
}

#[test]
fn the_shipped_runbooks_know_their_examples() {
    let (_, problems) = Library::new(Library::shipped_runbooks());
    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(
        Library::shipped_runbooks().len(),
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/runbooks")).unwrap().count() - 1
    );
    let _: Arc<Library> = Library::shipped();
}

/// Reads a log in pieces of the given lengths, over and over.
fn in_pieces(bytes: &[u8], lengths: &[usize]) -> Verdict {
    let mut classifier = Classifier::new(Library::shipped(), Context::default());
    let mut rest = bytes;
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*length).min(rest.len()));
        classifier.push(piece);
        rest = after;
    }
    classifier.finish()
}

/// Lines from what tools print, in any order, some broken.
fn logs() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<String> =
        causes().iter().flat_map(|(_, text)| failed(text).lines().chain(text.lines()).map(String::from).collect::<Vec<_>>()).collect();
    let line = prop_oneof![
        6 => proptest::sample::select(lines).prop_map(String::into_bytes),
        1 => proptest::sample::select(NOISE).prop_map(|noise| noise.as_bytes().to_vec()),
        1 => proptest::sample::select(vec!["...ignoring", "ok: [h1]", "TASK [x] ***", RECAP, "\u{1b}[", "{\"msg\": \"", "{'a': u'", "\\u12", "[", "\r"]).prop_map(|mark| mark.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..80),
    ];
    proptest::collection::vec((line, 0_usize..400), 0..24).prop_map(|lines| {
        let cut = |(mut line, length): (Vec<u8>, usize)| {
            // one of four is cut
            line.truncate(if length < 100 { length } else { line.len() });
            line
        };
        lines.into_iter().map(cut).collect::<Vec<_>>().join(&b'\n')
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn pieces_do_not_matter(log in logs(), lengths in proptest::collection::vec(1_usize..200, 1..5)) {
        prop_assert_eq!(in_pieces(&log, &lengths), in_pieces(&log, &[log.len().max(1)]));
    }

    #[test]
    fn noise_does_not_matter(at in proptest::sample::select(causes()), noise in proptest::collection::vec(proptest::sample::select(NOISE), 0..20)) {
        let (_, text) = at;
        let among = format!("{}\n{text}\n{}\n", noise.join("\n"), noise.iter().rev().copied().collect::<Vec<_>>().join("\n"));
        prop_assert_eq!(code(&classify(&among)).to_owned(), code(&classify(&format!("{text}\n"))).to_owned());
    }

    #[test]
    fn evidence_is_a_line_of_the_log(log in logs()) {
        let verdict = in_pieces(&log, &[64]);
        let lines = i64::try_from(log.split(|b| *b == b'\n').count()).unwrap();
        for cause in verdict.classification.iter().chain(verdict.hosts.values()) {
            let evidence = cause.evidence.as_ref().unwrap();
            prop_assert!((1..=lines).contains(&evidence.line) && evidence.excerpt.len() <= 1024 && cause.also.len() <= 16);
        }
    }
}

#[test]
fn long_lines_and_many_hosts_are_read_to_the_end() {
    let mut classifier = Classifier::new(Library::shipped(), Context::default());
    // a line of 8 MiB, with the message across a seam of its parts
    for _ in 0..128 {
        classifier.push(&[b'x'; 65_521]);
        classifier.push(b" ");
    }
    classifier.push(b"installing package kernel-core-6.0 needs 9MB on the /boot filesystem\n");
    assert_eq!(code(&classifier.finish()), "E-DISK-BOOT");

    let mut classifier = Classifier::new(Library::shipped(), Context::default());
    for host in 0..5000 {
        classifier.push(format!("fatal: [h{host}]: FAILED! => {{\"msg\": \"Missing sudo password\"}}\n").as_bytes());
    }
    let verdict = classifier.finish();
    assert_eq!((code(&verdict), verdict.hosts.len()), ("E-AUTH", 1000));
}
