//! Verdicts, for people and for programs.

use std::{
    io::{self, BufRead, Read as _, Write},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Classifier, Context, Library, Verdict};
use crate::api::classification::{Classification, OTHER, Tier};

/// Longest record that is read.
const LONGEST: u64 = 64 << 20;
/// Most hosts in a table.
const HOSTS: usize = 50;

/// Writes a verdict for people: the cause, where the log shows it, each host, and what to do next.
///
/// # Errors
/// What the writer answers.
pub fn table(library: &Library, verdict: &Verdict, out: &mut impl Write) -> io::Result<()> {
    let Some(cause) = &verdict.classification else {
        return writeln!(out, "none: the log shows nothing that has to be mended");
    };
    let runbook = library.runbook(&cause.error_code);
    let title = runbook.map_or(if cause.error_code == OTHER { "A failure that no Runbook explains" } else { "" }, |spec| &spec.title);
    writeln!(out, "{}  {}  ({})", cause.error_code, title, word(cause.tier))?;
    if let Some(evidence) = &cause.evidence {
        writeln!(out, "  line {}: {}", evidence.line, plain(&evidence.excerpt))?;
        for (name, value) in &evidence.captures {
            writeln!(out, "  {name}: {}", plain(value))?;
        }
    }
    if !cause.also.is_empty() {
        writeln!(out, "  also: {}", cause.also.join(", "))?;
    }
    let width = verdict.hosts.keys().map(|host| host.chars().count()).max().unwrap_or(0).min(60);
    for (host, cause) in verdict.hosts.iter().filter(|(host, _)| !host.is_empty()).take(HOSTS) {
        let line =
            cause.evidence.as_ref().map(|evidence| format!("line {}: {}", evidence.line, plain(&evidence.excerpt))).unwrap_or_default();
        writeln!(out, "  {:width$}  {:18}  {}", plain(host), cause.error_code, line)?;
    }
    if verdict.hosts.len() > HOSTS {
        writeln!(out, "  and {} more hosts", verdict.hosts.len() - HOSTS)?;
    }
    if let Some(spec) = runbook {
        writeln!(out, "\n{}\n\n{}", spec.explanation.trim(), spec.procedure.trim())?;
    }
    if let Some(offer) = library.offer(cause) {
        writeln!(out, "\nRemediation, once a person approves it, on the failed hosts only: {}", offer.template)?;
        for (name, value) in &offer.variables {
            writeln!(out, "  {name}: {value}")?;
        }
    }
    Ok(())
}

/// One log to classify.
#[derive(Deserialize)]
struct Given {
    id: String,
    text: String,
}

/// The answer to one log.
#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    code: &'a str,
    also: &'a [String],
    tier: Option<Tier>,
    evidence: Option<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    line: i64,
    excerpt: &'a str,
}

/// Reads records `{"id", "text"}`, one a line, and writes `{"id", "code", "also", "tier", "evidence"}` for each: `code` is the code, or `none`.
///
/// # Errors
/// A record that is not one, by its number; what reading and writing answer.
pub fn records(library: &Arc<Library>, context: Context, mut input: impl BufRead, out: &mut impl Write) -> io::Result<()> {
    let mut line = vec![];
    for number in 1_u64.. {
        line.clear();
        if (&mut input).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.len() as u64 == LONGEST {
            return Err(invalid(format!("record {number} is longer than {} MiB", LONGEST >> 20)));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let given: Given = serde_json::from_slice(&line).map_err(|error| {
            invalid(format!("record {number} is not {{\"id\": \"…\", \"text\": \"…\"}} on one line: column {}", error.column()))
        })?;
        let mut classifier = Classifier::new(library.clone(), context);
        classifier.push(given.text.as_bytes());
        let verdict = classifier.finish();
        serde_json::to_writer(&mut *out, &answer(&given.id, verdict.classification.as_ref()))?;
        writeln!(out)?;
    }
    out.flush()
}

fn answer<'a>(id: &'a str, cause: Option<&'a Classification>) -> Answer<'a> {
    let evidence = cause.and_then(|cause| cause.evidence.as_ref()).map(|evidence| Line { line: evidence.line, excerpt: &evidence.excerpt });
    Answer {
        id,
        code: cause.map_or("none", |cause| &cause.error_code),
        also: cause.map_or(&[], |cause| &cause.also),
        tier: cause.map(|cause| cause.tier),
        evidence,
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

const fn word(tier: Tier) -> &'static str {
    match tier {
        Tier::Weak => "weak",
        Tier::Corroborated => "corroborated",
        Tier::Decisive => "decisive",
    }
}

/// A text of a log, without what a terminal would act on.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(text: &str) -> Verdict {
        let mut classifier = Classifier::new(Library::shipped(), Context::default());
        classifier.push(text.as_bytes());
        classifier.finish()
    }

    #[test]
    fn people_read_what_where_and_what_next() {
        let mut out = vec![];
        let log = "fatal: [n1]: FAILED! => {\"msg\": \"installing package kernel-core-6.1 needs 30MB on the /boot filesystem\"}\n";
        table(&Library::shipped(), &classify(log), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in ["E-DISK-BOOT", "(decisive)", "line 1: ", "/boot", "n1", "**Look**", "**Mend**", "**Verify**"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut out = vec![];
        table(&Library::shipped(), &classify("all is well\n"), &mut out).unwrap();
        assert_eq!(out, b"none: the log shows nothing that has to be mended\n");
        let mut out = vec![];
        table(&Library::shipped(), &classify("Error: \u{9b}31m odd\n"), &mut out).unwrap();
        assert!(!String::from_utf8(out).unwrap().contains('\u{9b}'));
    }

    #[test]
    fn programs_read_one_answer_a_record() {
        let mut out = vec![];
        let input = "{\"id\": \"a\", \"text\": \"fine\"}\n\n{\"id\": \"b\", \"text\": \"x\\nError: odd\"}\n";
        records(&Library::shipped(), Context::default(), input.as_bytes(), &mut out).unwrap();
        let answers: Vec<serde_json::Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers[0], serde_json::json!({"id": "a", "code": "none", "also": [], "tier": null, "evidence": null}));
        let evidence = serde_json::json!({"line": 2, "excerpt": "Error: odd"});
        assert_eq!(answers[1], serde_json::json!({"id": "b", "code": "E-OTHER", "also": [], "tier": "weak", "evidence": evidence}));
        let error = records(&Library::shipped(), Context::default(), &b"{\"id\": 1}\n"[..], &mut vec![]).unwrap_err();
        assert!(error.to_string().starts_with("record 1 is not "), "{error}");
    }
}
