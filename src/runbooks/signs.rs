//! Signs that something failed, whatever it was: with them and nothing better the answer is `E-OTHER`, without them `none`.

use crate::api::{
    classification::{OTHER, Tier},
    runbook::{Match, RunbookSpec, Severity},
};

/// Messages with which tools say that they failed.
const SIGNS: &[&str] = &[
    r"FAILED! =>",
    r"^\S+ \| FAILED",
    r"^failed: \[",
    r"^fatal: ",
    r"^ERROR! ",
    r"^\[ERROR\]:? ",
    r"(?i)^error: ",
    r"^E: ",
    r"^(?:dpkg|rpm|dnf|yum|apt|apt-get|dracut|grubby): error",
    r"^error\b.*: ",
    r"^Traceback \(most recent call last\)",
    r"non-zero return code",
    r"^\**\s*(?:FATAL|CRITICAL|FAILED)\b",
    r"(?i)\bexit(?:ed)? (?:code|status|with status|with code)[:= ]+[1-9]",
    r"^(?:Job|Task|Step|Command|Process) .*\b(?:failed|terminated)",
    r"^failed: true$",
    r"\bfailed=[1-9]",
    r"(?i)^(?:status|result): (?:failed|error)",
    r"\bFailed to \w+",
    r"^make: \*\*\*",
    r"(?i)\bsegmentation fault|core dumped",
    r"(?i)^kernel panic|Kernel panic - not syncing",
    r"(?i)^error running|^error opening|^errors? (?:occurred|were encountered)",
    r"^Error in |^Error opening |^Error unpacking|^Error connecting ",
    r"^Errors during ",
    r"^There was a problem ",
    r"^No module named |ModuleNotFoundError",
    r"^(?:\S+: )*(?:line \d+: )?\S+: command not found",
    r"^Transaction (?:failed|test error)",
    r"^\w*(?:Error|Exception): ",
];

/// The signs, in the form of a Runbook. Lines that only sound like one are left out.
pub(super) fn signs() -> RunbookSpec {
    let sign = |pattern: &&str| Match { pattern: (*pattern).to_owned(), tier: Tier::Weak, place: None, with: None, persists: None };
    RunbookSpec {
        error_code: OTHER.into(),
        title: String::new(),
        severity: Severity::Warning,
        phases: vec![],
        os_families: vec![],
        matches: SIGNS.iter().map(sign).collect(),
        excludes: [r"(?i)\b0 (?:errors|failed)", r"(?i)\bwarning\b"].map(String::from).into(),
        clears: [r"^Complete!\s*$"].map(String::from).into(),
        explains: vec![],
        examples: vec![],
        counter_examples: vec![],
        explanation: String::new(),
        procedure: String::new(),
        remediation: None,
    }
}
