//! The phases of a run and the matrix of its hosts, as `describe` and `watch` show them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    answers::RunAnswer,
    output::{Screen, Tone, cell, moment, on_lines, outcome_word, result_word, span},
    show::{is_over, reason},
};
use crate::api::patch_run::{ExecutorKind, HostCounts, Outcome, PatchRun, Phase, PhaseStatus, RunResult, State};

/// How long each phase took before, the middle of several.
pub type Usual = BTreeMap<Phase, SignedDuration>;

/// One row for each phase that is wanted.
pub fn phases(run: &PatchRun, usual: &Usual, now: Timestamp, screen: &Screen) -> String {
    let status = run.status.clone().unwrap_or_default();
    let rows = run.spec.phases.iter().map(|phase| {
        let known = status.of(*phase);
        let result = match (known.and_then(|p| p.result), known) {
            (Some(result), _) => (Tone::of(Some(result), State::Completed), result_word(result).to_owned()),
            (None, Some(_)) if !is_over(run) => (Tone::Busy, "running".into()),
            (None, _) => (Tone::Dim, "-".into()),
        };
        let why = known.and_then(|p| p.reason.clone()).or_else(|| {
            let waits = status.phase == Some(*phase) && !is_over(run);
            reason(&status).filter(|_| waits).map(|(word, _)| word.to_owned())
        });
        vec![
            cell(phase.as_str()),
            result,
            cell(known.and_then(|p| p.started_at).map(moment).unwrap_or_default()),
            cell(took(known, usual.get(phase).copied(), now)),
            cell(known.and_then(|p| p.hosts).map(|counts| good(&counts)).unwrap_or_default()),
            cell(why.unwrap_or_default()),
            (Tone::Dim, executor(known)),
        ]
    });
    screen.table(&["PHASE", "RESULT", "STARTED", "TOOK", "HOSTS", "REASON", "JOB"], rows.collect())
}

/// Hosts that ended well, of all.
pub fn good(counts: &HostCounts) -> String {
    format!("{}/{}", counts.ok + counts.changed, counts.total)
}

fn took(phase: Option<&PhaseStatus>, usual: Option<SignedDuration>, now: Timestamp) -> String {
    let Some(phase) = phase else {
        return usual.map(|usual| format!("(about {})", span(usual))).unwrap_or_default();
    };
    match (phase.started_at, phase.finished_at, usual) {
        (Some(start), Some(end), _) => span(end.duration_since(start)),
        (Some(start), None, Some(usual)) if phase.result.is_none() => {
            let so_far = now.duration_since(start);
            format!("{} (of about {})", span(so_far), span(usual))
        }
        (Some(start), None, _) if phase.result.is_none() => span(now.duration_since(start)),
        (Some(_) | None, ..) => String::new(),
    }
}

fn executor(phase: Option<&PhaseStatus>) -> String {
    let adopted = if phase.is_some_and(|p| p.adopted == Some(true)) { " (from the records)" } else { "" };
    let job = phase.and_then(|p| p.executor.as_ref()).map(|executor| match executor.kind {
        ExecutorKind::Job => format!("Job {}", executor.id),
        ExecutorKind::PipelineRun => format!("PipelineRun {}", executor.id),
    });
    format!("{}{adopted}", job.unwrap_or_default())
}

/// When the run will probably be over: what is usual for the phase that runs and for those that come; `None` when a phase is new.
pub fn remaining(run: &PatchRun, usual: &Usual, now: Timestamp) -> Option<SignedDuration> {
    let status = run.status.clone().unwrap_or_default();
    let mut left = SignedDuration::ZERO;
    for phase in &run.spec.phases {
        let known = status.of(*phase);
        if known.is_some_and(|p| p.result.is_some()) {
            continue;
        }
        let whole = *usual.get(phase)?;
        let so_far = known.and_then(|p| p.started_at).map_or(SignedDuration::ZERO, |start| now.duration_since(start));
        left += (whole - so_far).max(SignedDuration::ZERO);
    }
    Some(left).filter(|left| !left.is_zero())
}

/// What became of a host, by phase, and why.
#[derive(Default)]
struct Row {
    outcomes: BTreeMap<Phase, Outcome>,
    code: Option<String>,
    message: Option<String>,
    kernel: Option<String>,
}

/// One row for each host, those that did not end well first; at most `most`, and then how many more there are. Every host is known from the
/// server's answer; without it the object names those that did not end well.
pub fn hosts(run: Option<&PatchRun>, answer: Option<&RunAnswer>, most: usize, screen: &Screen) -> Option<String> {
    let mut rows = BTreeMap::<&str, Row>::new();
    let status = run.and_then(|run| run.status.as_ref());
    for phase in status.into_iter().flat_map(|status| &status.phases) {
        for host in &phase.failed_hosts {
            let row = rows.entry(&host.name).or_default();
            row.outcomes.insert(phase.name, host.outcome);
            row.message.clone_from(&host.message);
            row.code = host.error_code.clone().or(row.code.take());
        }
    }
    for phase in answer.into_iter().flat_map(|answer| &answer.phases) {
        for host in &phase.hosts {
            let row = rows.entry(&host.name).or_default();
            row.outcomes.insert(phase.name, host.outcome);
            row.code = host.error_code.clone().or(row.code.take());
            row.kernel = host.kernel_after.clone().or(host.kernel_before.clone()).or(row.kernel.take());
            if !host.outcome.is_good() {
                row.message = host.message.clone().or(row.message.take());
            }
        }
    }
    let mut columns: Vec<Phase> = rows.values().flat_map(|row| row.outcomes.keys().copied()).collect();
    columns.sort_unstable();
    columns.dedup();
    if columns.is_empty() {
        return None;
    }
    let bad = |row: &Row| row.outcomes.values().any(|outcome| !outcome.is_good());
    let mut sorted: Vec<(&str, Row)> = rows.into_iter().collect();
    sorted.sort_by_key(|(name, row)| (!bad(row), *name));
    let more = sorted.len().saturating_sub(most);
    let kernels = sorted.iter().any(|(_, row)| row.kernel.is_some());
    let mut head = vec!["HOST".to_owned()];
    head.extend(columns.iter().map(|phase| phase.as_str().to_uppercase()));
    if kernels {
        head.push("KERNEL".into());
    }
    head.extend(["ERROR".into(), "MESSAGE".into()]);
    let lines = sorted.into_iter().take(most).map(|(name, row)| {
        let mut line = vec![cell(name)];
        for phase in &columns {
            line.push(match row.outcomes.get(phase) {
                Some(outcome) => (Tone::of_outcome(*outcome), outcome_word(*outcome).to_owned()),
                None => (Tone::Dim, "-".into()),
            });
        }
        if kernels {
            line.push(cell(row.kernel.unwrap_or_default()));
        }
        line.extend([(Tone::Bad, row.code.unwrap_or_default()), cell(row.message.unwrap_or_default())]);
        line
    });
    let mut text = screen.table(&head.iter().map(String::as_str).collect::<Vec<_>>(), lines.collect());
    if more > 0 {
        text.push_str(&on_lines("", [format!("… and {more} more")]));
    }
    Some(text)
}

/// The phase that failed.
pub fn failed(run: &PatchRun) -> Option<Phase> {
    let status = run.status.as_ref()?;
    status.phases.iter().rev().find(|phase| phase.result == Some(RunResult::Error)).map(|phase| phase.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> PatchRun {
        crate::yaml::from_str(text).unwrap()
    }

    const RUNNING: &str = "
apiVersion: fettle.dev/v1alpha1
kind: PatchRun
metadata: {name: web}
spec: {connection: {name: prod}, group: 5, desiredKernel: '6.1', phases: [precheck, stage, apply], startBy: 2026-11-22T04:00:00Z}
status:
  state: Running
  phase: stage
  phases:
    - {name: precheck, runKey: k, result: OK, startedAt: 2026-11-21T10:00:00Z, finishedAt: 2026-11-21T10:02:05Z}
    - {name: stage, runKey: k, startedAt: 2026-11-21T10:03:00Z}
";

    #[test]
    fn what_is_left_is_what_was_usual() {
        let usual: Usual = [(Phase::Stage, SignedDuration::from_mins(5)), (Phase::Apply, SignedDuration::from_mins(10))].into();
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(remaining(&run(RUNNING), &usual, at("2026-11-21T10:04:00Z")), Some(SignedDuration::from_mins(14)));
        assert_eq!(remaining(&run(RUNNING), &usual, at("2026-11-21T11:00:00Z")), Some(SignedDuration::from_mins(10)), "stage takes longer");
        assert_eq!(remaining(&run(RUNNING), &Usual::new(), at("2026-11-21T10:04:00Z")), None, "nothing is known");
    }
}
