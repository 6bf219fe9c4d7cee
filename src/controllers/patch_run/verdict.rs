//! What became of every host of the scope, and what that makes of the phase. Pure.
//!
//! `OK` is proven here and nowhere else: every expected host accounted for, by the executor's summary and by its own report.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    api::{
        automation_connection::GuardPolicy,
        classification::{Classification, Findings, OTHER, Tier},
        patch_run::{HostCounts, Outcome, Phase, RunResult},
        reason::Reason,
    },
    archive::record::{HostFacts, HostRecord},
};

/// Longest message kept of a host, in characters.
const MESSAGE: usize = 256;
/// Longest piece of the log in the message of a phase, in characters.
const QUOTED: usize = 200;
/// Directories whose free space is kept.
const DIRECTORIES: usize = 16;
/// Repositories kept of a host, and the longest name of one, in characters.
const REPOSITORIES: (usize, usize) = (32, 96);

/// The executor's counts of one host. Source: AAP `job_host_summaries`, or the `report` callback of `fettle.patching`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tasks that changed something.
    pub changed: u64,
    /// Tasks that failed.
    pub failures: u64,
    /// Times the host could not be reached.
    pub unreachable: u64,
    /// Tasks that ended well.
    pub ok: u64,
}

/// What a host says of itself, through `set_stats`. Hostile: every field is optional and bounded where it is used.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Report {
    /// `executed`, `already-claimed` or `refused`.
    pub guard: Option<String>,
    /// Whether the host ended well, in its own view.
    pub ok: Option<bool>,
    /// One sentence for people.
    pub message: Option<String>,
    /// `uname -r` before.
    pub kernel_before: Option<String>,
    /// `uname -r` after.
    pub kernel_after: Option<String>,
    /// Boot id before.
    pub boot_id_before: Option<String>,
    /// Boot id after.
    pub boot_id_after: Option<String>,
    /// Free bytes, by directory.
    pub free_bytes: BTreeMap<String, u64>,
    /// Enabled package repositories.
    pub repositories: Vec<String>,
}

impl Report {
    /// What is kept of the host beside what was done to it, bounded; `None` when it says nothing.
    fn facts(&self) -> Option<HostFacts> {
        let (most, longest) = REPOSITORIES;
        let free_bytes = self.free_bytes.iter().take(DIRECTORIES).map(|(path, bytes)| (clip(path), *bytes)).collect();
        let repositories = self.repositories.iter().take(most).map(|name| clip(name).chars().take(longest).collect()).collect();
        let facts = HostFacts { free_bytes, repositories };
        (facts != HostFacts::default()).then_some(facts)
    }
}

/// How the executor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// There never was one: nothing was launched, and nothing will be.
    NotLaunched(Reason, String),
    /// It says that it succeeded.
    Succeeded,
    /// It says that the playbook failed, or that hosts did.
    Failed(String),
    /// It could not do its work.
    Broken(Reason, String),
    /// It was stopped, for this reason.
    Stopped(Reason, String),
}

/// What the executor left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// How it ended.
    pub end: End,
    /// Its counts, by host.
    pub summaries: BTreeMap<String, Summary>,
    /// What hosts say of themselves, by host.
    pub reports: BTreeMap<String, Report>,
}

/// What became of a phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `OK` or `ERROR`.
    pub result: RunResult,
    /// Why.
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
    /// Hosts by outcome.
    pub counts: HostCounts,
    /// Every host of the scope, sorted by name.
    pub hosts: Vec<HostRecord>,
}

impl Verdict {
    /// Why it failed, as the log shows it: says so in the message, and names the cause of each host that did not end well. `None` when it did not
    /// fail on the hosts or in the job, or when nobody read the log.
    pub fn explain(&mut self, findings: Option<&Findings>) -> Option<Classification> {
        let findings = findings?;
        let unexplained = || Classification { error_code: OTHER.into(), also: vec![], tier: Tier::Weak, evidence: None };
        let cause = if matches!(self.reason, Reason::HostsFailed | Reason::HostsUnreachable | Reason::JobError | Reason::CheckFailed) {
            findings.cause.clone().unwrap_or_else(unexplained)
        } else if matches!(self.reason, Reason::HostsMissing | Reason::HostsUnproven | Reason::TimedOut) {
            findings.cause.clone()?
        } else {
            // the reason says all of it, or nothing failed
            return None;
        };
        for host in self.hosts.iter_mut().filter(|host| !host.outcome.is_good()) {
            host.error_code = findings.hosts.get(&host.name).cloned();
        }
        if let Some(evidence) = &cause.evidence {
            let excerpt: String = clip(evidence.excerpt.trim()).chars().take(QUOTED).collect();
            self.message = format!("{}; {}, line {} of the log: {excerpt}", self.message, cause.error_code, evidence.line);
        }
        Some(cause)
    }
}

/// Weighs the evidence against the scope.
pub fn weigh(phase: Phase, scope: &BTreeSet<String>, guard: GuardPolicy, evidence: &Evidence) -> Verdict {
    // the guard fences changes only
    let guard = if phase.is_change() { guard } else { GuardPolicy::Required };
    let hosts: Vec<HostRecord> = scope
        .iter()
        .map(|name| {
            let summary = evidence.summaries.get(name);
            let report = evidence.reports.get(name);
            let (outcome, message) = outcome(phase, guard, &evidence.end, summary, report);
            let report = report.cloned().unwrap_or_default();
            let facts = report.facts();
            HostRecord {
                name: name.clone(),
                outcome,
                message: message.or_else(|| report.message.clone()).map(|m| clip(&m)),
                error_code: None,
                guard: report.guard.map(|g| clip(&g)),
                kernel_before: report.kernel_before.map(|t| clip(&t)),
                kernel_after: report.kernel_after.map(|t| clip(&t)),
                boot_id_before: report.boot_id_before.map(|t| clip(&t)),
                boot_id_after: report.boot_id_after.map(|t| clip(&t)),
                facts,
            }
        })
        .collect();
    let counts = count(&hosts);
    let strangers: Vec<&String> = evidence.summaries.keys().filter(|name| !scope.contains(*name)).collect();
    let (result, reason, message) = conclude(guard, evidence, &hosts, counts, &strangers);
    Verdict { result, reason, message, counts, hosts }
}

fn outcome(phase: Phase, guard: GuardPolicy, end: &End, summary: Option<&Summary>, report: Option<&Report>) -> (Outcome, Option<String>) {
    let Some(summary) = summary else {
        return match end {
            End::Stopped(..) | End::Broken(..) => (Outcome::Unknown, Some("cut off: what happened on this host is not known".into())),
            End::NotLaunched(..) => (Outcome::Missing, Some("nothing was launched".into())),
            End::Succeeded | End::Failed(_) => (Outcome::Missing, Some("nothing was reported about this host".into())),
        };
    };
    if summary.unreachable > 0 {
        return (Outcome::Unreachable, report.and_then(|r| r.message.clone()).or_else(|| Some("could not be reached".into())));
    }
    if summary.failures > 0 {
        return (Outcome::Failed, None);
    }
    let good = if summary.changed > 0 { Outcome::Changed } else { Outcome::Ok };
    let proof = match (phase.is_change(), guard) {
        (true, GuardPolicy::Required) => report.map(|r| r.guard.as_deref()),
        (true, GuardPolicy::Optional) => match report {
            None => return (good, None),
            Some(r) => Some(r.guard.as_deref().or(Some("executed"))),
        },
        (false, _) => report.map(|_| Some("executed")),
    };
    match (proof, report.and_then(|r| r.ok)) {
        (Some(Some("executed")), Some(false)) | (Some(Some("refused")), _) => (Outcome::Failed, None),
        (Some(Some("executed")), _) => (good, None),
        (Some(Some("already-claimed")), _) => {
            (Outcome::Failed, Some("did nothing: this run was already claimed on this host by another job".into()))
        }
        (Some(Some(_) | None) | None, _) => {
            let what = if phase.is_change() { "guard" } else { "check" };
            (Outcome::Unknown, Some(format!("no report of the {what} came from this host")))
        }
    }
}

fn count(hosts: &[HostRecord]) -> HostCounts {
    let mut counts = HostCounts { total: i32::try_from(hosts.len()).unwrap_or(i32::MAX), ..HostCounts::default() };
    for host in hosts {
        match host.outcome {
            Outcome::Ok => counts.ok += 1,
            Outcome::Changed => counts.changed += 1,
            Outcome::Failed => counts.failed += 1,
            Outcome::Unreachable => counts.unreachable += 1,
            Outcome::Unknown => counts.unknown += 1,
            Outcome::Missing => counts.missing += 1,
        }
    }
    counts
}

fn conclude(
    guard: GuardPolicy,
    evidence: &Evidence,
    hosts: &[HostRecord],
    counts: HostCounts,
    strangers: &[&String],
) -> (RunResult, Reason, String) {
    let error = |reason, message: String| (RunResult::Error, reason, message);
    if let Some(first) = strangers.first() {
        return error(Reason::OutOfScope, format!("{} host(s) outside the scope were touched, first {}", strangers.len(), clip(first)));
    }
    if let End::Stopped(reason, message) | End::Broken(reason, message) | End::NotLaunched(reason, message) = &evidence.end {
        return error(*reason, message.clone());
    }
    let bad = |outcome: Outcome| {
        let names: Vec<&str> = hosts.iter().filter(|h| h.outcome == outcome).map(|h| h.name.as_str()).collect();
        listed(&names)
    };
    if hosts.is_empty() {
        return error(Reason::ScopeEmpty, "the scope has no host".into());
    }
    if counts.failed > 0 {
        return error(Reason::HostsFailed, format!("{} of {} hosts failed: {}", counts.failed, counts.total, bad(Outcome::Failed)));
    }
    if counts.unreachable > 0 {
        return error(
            Reason::HostsUnreachable,
            format!("{} of {} hosts could not be reached: {}", counts.unreachable, counts.total, bad(Outcome::Unreachable)),
        );
    }
    if counts.missing > 0 {
        return error(
            Reason::HostsMissing,
            format!("nothing was reported about {} of {} hosts: {}", counts.missing, counts.total, bad(Outcome::Missing)),
        );
    }
    if counts.unknown > 0 {
        return error(
            Reason::HostsUnproven,
            format!("{} of {} hosts did not prove what happened: {}", counts.unknown, counts.total, bad(Outcome::Unknown)),
        );
    }
    match &evidence.end {
        End::Failed(message) => error(Reason::JobError, format!("every host ended well, but the executor failed: {message}")),
        End::Succeeded | End::Stopped(..) | End::Broken(..) | End::NotLaunched(..) => {
            let reported = hosts.iter().all(|h| h.guard.is_some() || guard == GuardPolicy::Required);
            let reason = if reported { Reason::Succeeded } else { Reason::SucceededUnguarded };
            (RunResult::Ok, reason, format!("{} of {} hosts ended well", counts.ok + counts.changed, counts.total))
        }
    }
}

/// The first few names, and how many more.
pub fn listed(names: &[&str]) -> String {
    let first = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{first} and {} more", names.len() - 5) } else { first }
}

/// Bounds hostile text: at most 256 characters, control characters replaced.
pub fn clip(text: &str) -> String {
    text.chars().take(MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope() -> BTreeSet<String> {
        ["db-1", "web-1", "web-2"].map(String::from).into()
    }

    fn good(name: &str) -> (String, Summary) {
        (name.into(), Summary { ok: 3, changed: 1, ..Summary::default() })
    }

    fn executed(name: &str) -> (String, Report) {
        (name.into(), Report { guard: Some("executed".into()), ok: Some(true), ..Report::default() })
    }

    fn all_good() -> Evidence {
        Evidence {
            end: End::Succeeded,
            summaries: ["db-1", "web-1", "web-2"].map(good).into(),
            reports: ["db-1", "web-1", "web-2"].map(executed).into(),
        }
    }

    fn weighed(evidence: &Evidence) -> (RunResult, Reason) {
        let verdict = weigh(Phase::Apply, &scope(), GuardPolicy::Required, evidence);
        (verdict.result, verdict.reason)
    }

    #[test]
    fn ok_needs_every_host_with_summary_and_report() {
        assert_eq!(weighed(&all_good()), (RunResult::Ok, Reason::Succeeded));
        let mut e = all_good();
        e.summaries.remove("db-1");
        assert_eq!(weighed(&e), (RunResult::Error, Reason::HostsMissing));
        let mut e = all_good();
        e.reports.remove("db-1");
        assert_eq!(weighed(&e), (RunResult::Error, Reason::HostsUnproven));
        let mut e = all_good();
        e.summaries.get_mut("db-1").unwrap().unreachable = 1;
        assert_eq!(weighed(&e), (RunResult::Error, Reason::HostsUnreachable));
        let mut e = all_good();
        e.summaries.get_mut("db-1").unwrap().failures = 1;
        assert_eq!(weighed(&e), (RunResult::Error, Reason::HostsFailed));
    }

    #[test]
    fn a_job_that_did_nothing_is_not_success() {
        let mut e = all_good();
        for report in e.reports.values_mut() {
            report.guard = Some("already-claimed".into());
        }
        assert_eq!(weighed(&e), (RunResult::Error, Reason::HostsFailed));
        let e = Evidence { summaries: BTreeMap::new(), reports: BTreeMap::new(), ..all_good() };
        assert_eq!(weighed(&e), (RunResult::Error, Reason::HostsMissing));
    }

    #[test]
    fn a_host_outside_the_scope_is_an_error_whatever_else_is_right() {
        let mut e = all_good();
        e.summaries.extend([good("mail-1")]);
        assert_eq!(weighed(&e), (RunResult::Error, Reason::OutOfScope));
    }

    #[test]
    fn every_host_counts_once_as_what_became_of_it() {
        let mut e = all_good();
        e.summaries.get_mut("db-1").unwrap().changed = 0;
        let counts = |e: &Evidence| weigh(Phase::Apply, &scope(), GuardPolicy::Required, e).counts;
        assert_eq!(counts(&e), HostCounts { total: 3, ok: 1, changed: 2, ..HostCounts::default() });
        e.summaries.get_mut("web-1").unwrap().unreachable = 1;
        e.reports.remove("web-2");
        assert_eq!(counts(&e), HostCounts { total: 3, ok: 1, unreachable: 1, unknown: 1, ..HostCounts::default() });
        e.summaries.get_mut("db-1").unwrap().failures = 1;
        e.summaries.remove("web-2");
        assert_eq!(counts(&e), HostCounts { total: 3, failed: 1, unreachable: 1, missing: 1, ..HostCounts::default() });
    }

    #[test]
    fn facts_of_a_host_are_bounded() {
        let mut e = all_good();
        assert_eq!(weigh(Phase::Precheck, &scope(), GuardPolicy::Required, &e).hosts[0].facts, None);
        let report = e.reports.get_mut("db-1").unwrap();
        report.free_bytes = (0..99).map(|n| (format!("/{n}\n{}", "x".repeat(999)), n)).collect();
        report.repositories = vec!["r\u{1b}".repeat(999); 99];
        let facts = weigh(Phase::Precheck, &scope(), GuardPolicy::Required, &e).hosts[0].facts.clone().unwrap();
        assert_eq!((facts.free_bytes.len(), facts.repositories.len()), (16, 32));
        assert!(facts.free_bytes.keys().all(|path| path.chars().count() <= 256 && !path.contains('\n')));
        assert!(facts.repositories.iter().all(|name| name.chars().count() == 96 && !name.contains('\u{1b}')));
    }

    #[test]
    fn hosts_cut_off_are_unknown() {
        let e = Evidence {
            end: End::Stopped(Reason::Cancelled, "a person asked for it".into()),
            summaries: BTreeMap::new(),
            reports: BTreeMap::new(),
        };
        let verdict = weigh(Phase::Apply, &scope(), GuardPolicy::Required, &e);
        assert_eq!((verdict.reason, verdict.counts.unknown), (Reason::Cancelled, 3));
    }

    #[test]
    fn without_the_guard_the_reason_says_so() {
        let e = Evidence { reports: BTreeMap::new(), ..all_good() };
        let verdict = weigh(Phase::Apply, &scope(), GuardPolicy::Optional, &e);
        assert_eq!((verdict.result, verdict.reason), (RunResult::Ok, Reason::SucceededUnguarded));
        let verdict = weigh(Phase::Apply, &scope(), GuardPolicy::Optional, &all_good());
        assert_eq!((verdict.result, verdict.reason), (RunResult::Ok, Reason::Succeeded), "every host reported all the same");
        let mut check = all_good();
        check.reports.values_mut().for_each(|report| report.guard = None);
        let verdict = weigh(Phase::Postcheck, &scope(), GuardPolicy::Optional, &check);
        assert_eq!((verdict.result, verdict.reason), (RunResult::Ok, Reason::Succeeded), "nothing guards a check");
    }

    #[test]
    fn the_message_names_the_hosts_it_is_about_and_no_more_than_five() {
        let message = |e: &Evidence, scope: &BTreeSet<String>| weigh(Phase::Apply, scope, GuardPolicy::Required, e).message;
        let mut e = all_good();
        e.summaries.get_mut("web-1").unwrap().failures = 1;
        assert_eq!(message(&e, &scope()), "1 of 3 hosts failed: web-1");
        let nobody = Evidence { summaries: BTreeMap::new(), reports: BTreeMap::new(), ..all_good() };
        for (hosts, told) in [(5, "h1, h2, h3, h4, h5"), (6, "h1, h2, h3, h4, h5 and 1 more"), (8, "h1, h2, h3, h4, h5 and 3 more")] {
            let scope = (1..=hosts).map(|n| format!("h{n}")).collect();
            assert_eq!(message(&nobody, &scope), format!("nothing was reported about {hosts} of {hosts} hosts: {told}"));
        }
    }

    #[test]
    fn what_hosts_say_is_bounded_and_clean() {
        let mut e = all_good();
        e.reports.get_mut("db-1").unwrap().message = Some(format!("a\u{1b}[31m\n{}", "é".repeat(1000)));
        let verdict = weigh(Phase::Apply, &scope(), GuardPolicy::Required, &e);
        let message = verdict.hosts[0].message.clone().unwrap();
        assert!(message.starts_with("a [31m é") && message.chars().count() == MESSAGE, "{message}");
    }

    fn findings() -> Findings {
        let evidence = crate::api::classification::Evidence { line: 7, excerpt: "no space left".into(), captures: BTreeMap::new() };
        Findings {
            cause: Some(Classification { error_code: "E-DISK-BOOT".into(), also: vec![], tier: Tier::Decisive, evidence: Some(evidence) }),
            hosts: [("web-1", "E-DISK-BOOT"), ("web-2", "E-LOCK-DNF")].map(|(host, code)| (host.into(), code.into())).into(),
        }
    }

    /// As [`all_good`], with `web-1` failed.
    fn one_failed() -> Evidence {
        let mut e = all_good();
        e.summaries.get_mut("web-1").unwrap().failures = 1;
        e
    }

    fn explained(e: &Evidence, findings: Option<&Findings>) -> (Verdict, Option<String>) {
        let mut verdict = weigh(Phase::Apply, &scope(), GuardPolicy::Required, e);
        let cause = verdict.explain(findings).map(|cause| cause.error_code);
        (verdict, cause)
    }

    #[test]
    fn a_failure_is_explained_by_its_log_and_so_is_each_host_that_failed() {
        let (verdict, cause) = explained(&one_failed(), Some(&findings()));
        assert_eq!(cause.as_deref(), Some("E-DISK-BOOT"));
        assert_eq!(verdict.message, "1 of 3 hosts failed: web-1; E-DISK-BOOT, line 7 of the log: no space left");
        let codes: Vec<_> = verdict.hosts.iter().map(|host| host.error_code.as_deref()).collect();
        assert_eq!(codes, [None, Some("E-DISK-BOOT"), None], "web-2 ended well, whatever its log holds");
    }

    #[test]
    fn a_failure_that_nothing_explains_is_told_so() {
        assert_eq!(explained(&one_failed(), Some(&Findings::default())).1.as_deref(), Some(OTHER));
        assert_eq!(explained(&one_failed(), None).1, None, "nobody read the log");
    }

    #[test]
    fn what_did_not_fail_on_a_host_needs_no_explanation() {
        assert_eq!(explained(&all_good(), Some(&findings())).1, None);
        let cancelled = Evidence { end: End::Stopped(Reason::Cancelled, "a person asked for it".into()), ..all_good() };
        assert_eq!(explained(&cancelled, Some(&findings())).1, None);
        let mut unreported = all_good();
        unreported.summaries.remove("db-1");
        assert_eq!(explained(&unreported, Some(&Findings::default())).1, None);
        assert_eq!(explained(&unreported, Some(&findings())).1.as_deref(), Some("E-DISK-BOOT"));
    }

    fn any_evidence() -> impl Strategy<Value = Evidence> {
        let name = prop::sample::select(vec!["db-1", "web-1", "web-2", "mail-1"]).prop_map(String::from);
        let summary = (0u64..2, 0u64..2, 0u64..2, 0u64..2).prop_map(|(ok, changed, failures, unreachable)| Summary {
            changed,
            failures,
            unreachable,
            ok,
        });
        let guard = prop::option::of(prop::sample::select(vec!["executed", "already-claimed", "refused", "?"]));
        let report = (guard, prop::option::of(any::<bool>())).prop_map(|(guard, ok)| Report {
            guard: guard.map(String::from),
            ok,
            ..Report::default()
        });
        let end = prop_oneof![
            3 => Just(End::Succeeded),
            1 => Just(End::Failed("x".into())),
            1 => Just(End::Broken(Reason::JobError, "x".into())),
            1 => Just(End::Stopped(Reason::Cancelled, "x".into())),
        ];
        (end, prop::collection::btree_map(name.clone(), summary, 0..4), prop::collection::btree_map(name, report, 0..4))
            .prop_map(|(end, summaries, reports)| Evidence { end, summaries, reports })
    }

    proptest! {
        /// The promise: `OK` only with `executed` and a good summary from every host of the scope, and from no other.
        #[test]
        fn ok_is_proven(e in any_evidence()) {
            let verdict = weigh(Phase::Apply, &scope(), GuardPolicy::Required, &e);
            let proven = e.end == End::Succeeded
                && e.summaries.keys().all(|name| scope().contains(name))
                && scope().iter().all(|name| {
                    e.summaries.get(name).is_some_and(|s| s.failures == 0 && s.unreachable == 0)
                        && e.reports.get(name).is_some_and(|r| r.guard.as_deref() == Some("executed") && r.ok != Some(false))
                });
            prop_assert_eq!(verdict.result == RunResult::Ok, proven);
            let c = verdict.counts;
            prop_assert_eq!(c.ok + c.changed + c.failed + c.unreachable + c.unknown + c.missing, c.total);
        }
    }
}
