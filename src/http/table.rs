//! The table of hosts, for people. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use super::runs::{AttemptView, PhaseView, RunView};
use crate::{
    api::patch_run::{Outcome, RunResult, State},
    archive::record::HostRecord,
};

/// The run as text: a few lines about it, then one row for each host.
pub fn text(run: &RunView) -> String {
    let mut out = String::new();
    let attempt = &run.attempt;
    let _ = write!(out, "PatchRun {}/{}", run.namespace, run.name);
    if let Some(group) = &run.group {
        let _ = write!(out, ", group {group}");
    }
    if let Some(kernel) = &run.desired_kernel {
        let _ = write!(out, ", kernel {kernel}");
    }
    let _ = writeln!(out, ", attempt {}", attempt.attempt);
    let state = match run.state {
        Some(state) => state_word(state),
        None => "the object is gone; from the records",
    };
    let _ = writeln!(out, "{state}{}{}", run.result.map(|r| format!(", {}", r.as_str())).unwrap_or_default(), colon(run.reason.as_deref()));
    if let Some(message) = run.message.as_deref().filter(|m| !m.is_empty()) {
        let _ = writeln!(out, "{}", plain(message));
    }
    for phase in &attempt.phases {
        let result = phase.result.map_or("…", RunResult::as_str);
        let _ = write!(out, "  {:<10} {result:<5}", phase.name.as_str());
        if let (Some(start), Some(end)) = (phase.started_at, phase.finished_at) {
            let _ = write!(out, " {start:.0} took {}", duration(end.duration_since(start).as_secs()));
        }
        let _ = writeln!(
            out,
            "{}{}",
            colon(phase.reason.as_deref())
                + &phase.classification.as_ref().map(|c| format!(" {}", plain(&c.error_code))).unwrap_or_default(),
            phase.log.as_ref().map(|l| format!("  /api/logs/{}", l.id)).unwrap_or_default()
        );
    }
    let rows = rows(attempt);
    if rows.len() > 1 {
        out.push('\n');
        out.push_str(&align(&rows));
    }
    out
}

fn rows(attempt: &AttemptView) -> Vec<Vec<String>> {
    let mut hosts = BTreeMap::<&str, Vec<(&PhaseView, &HostRecord)>>::new();
    for phase in &attempt.phases {
        for host in &phase.hosts {
            hosts.entry(&host.name).or_default().push((phase, host));
        }
    }
    let mut head: Vec<String> = vec!["HOST".into()];
    head.extend(attempt.phases.iter().map(|p| p.name.as_str().to_uppercase()));
    head.extend(["KERNEL".into(), "REBOOTED".into()]);
    let causes = hosts.values().flatten().any(|(_, host)| host.error_code.is_some());
    if causes {
        head.push("ERROR".into());
    }
    let mut rows = vec![head];
    for (name, seen) in hosts {
        let mut row = vec![plain(name)];
        for phase in &attempt.phases {
            let outcome = seen.iter().find(|(p, _)| p.name == phase.name).map(|(_, host)| outcome_word(host.outcome));
            row.push(outcome.unwrap_or("-").into());
        }
        let before = first(&seen, |h| h.kernel_before.as_deref().or(h.kernel_after.as_deref()));
        let after = last(&seen, |h| h.kernel_after.as_deref().or(h.kernel_before.as_deref()));
        row.push(match (before, after) {
            (Some(before), Some(after)) if before != after => format!("{} -> {}", plain(before), plain(after)),
            (Some(same), _) => plain(same),
            (None, _) => "-".into(),
        });
        let before = first(&seen, |h| h.boot_id_before.as_deref().or(h.boot_id_after.as_deref()));
        let after = last(&seen, |h| h.boot_id_after.as_deref().or(h.boot_id_before.as_deref()));
        row.push(match (before, after) {
            (Some(before), Some(after)) => if before == after { "no" } else { "yes" }.into(),
            (None, _) | (_, None) => "-".into(),
        });
        if causes {
            row.push(last(&seen, |h| h.error_code.as_deref()).map_or_else(|| "-".into(), plain));
        }
        rows.push(row);
    }
    rows
}

fn first<'h>(seen: &[(&PhaseView, &'h HostRecord)], of: impl Fn(&'h HostRecord) -> Option<&'h str>) -> Option<&'h str> {
    seen.iter().find_map(|(_, host)| of(host))
}

fn last<'h>(seen: &[(&PhaseView, &'h HostRecord)], of: impl Fn(&'h HostRecord) -> Option<&'h str>) -> Option<&'h str> {
    seen.iter().rev().find_map(|(_, host)| of(host))
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", line.join("  ").trim_end());
    }
    out
}

fn colon(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).map(|t| format!(" ({})", plain(t))).unwrap_or_default()
}

/// Text of hosts without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Changed => "changed",
        Outcome::Failed => "failed",
        Outcome::Unreachable => "unreachable",
        Outcome::Unknown => "unknown",
        Outcome::Missing => "missing",
    }
}

const fn state_word(state: State) -> &'static str {
    match state {
        State::Pending => "Pending",
        State::AwaitingWindow => "AwaitingWindow",
        State::AwaitingCredentials => "AwaitingCredentials",
        State::Running => "Running",
        State::Cancelling => "Cancelling",
        State::Completed => "Completed",
    }
}
