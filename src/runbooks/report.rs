//! A verdict, for people and for programs.

use std::io::{self, Write};

use super::{Library, Verdict};

/// Writes a verdict for people: the cause, where the log shows it, each host, and what to do next.
///
/// # Errors
/// What the writer answers.
pub fn table(_library: &Library, verdict: &Verdict, out: &mut impl Write) -> io::Result<()> {
    let code = verdict.classification.as_ref().map_or("none", |cause| cause.error_code.as_str());
    writeln!(out, "{code}")
}
