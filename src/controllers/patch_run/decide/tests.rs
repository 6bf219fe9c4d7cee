//! What the model (`tests/model`) does not tell apart, because a tick of its clock is longer than every patience: how long each thing is
//! waited for, and what people read meanwhile.

use serde_json::json;

use super::{
    super::verdict::{Report, Summary},
    *,
};

const HOST: &str = "web-1";

/// So many seconds after the run was first looked at.
fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 50) + SignedDuration::from_secs(seconds)
}

/// A run of one phase that nobody launched yet; it may start for an hour, and gets half an hour.
fn run(phase: Phase) -> PatchRun {
    let spec = json!({
        "connection": {"name": "prod"}, "hosts": [HOST], "desiredKernel": "6.1.0-53-cloud-amd64", "phases": [phase],
        "startBy": at(3600), "timeouts": {"precheck": "30m", "apply": "30m"},
    });
    let mut run = PatchRun::new("web", serde_json::from_value(spec).unwrap());
    run.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
    run
}

/// Its host is known and entered for it; nothing is archived.
fn seen(work: Work) -> Observed {
    let scope = ScopeStatus { config_map: "scope".into(), hosts: 1, digest: "d".into(), ledger: "uuid".into(), excluded: vec![] };
    Observed {
        record: RecordFact::Absent,
        log: LogFact::Absent,
        scope: ScopeFact::Fixed(scope, [HOST.to_owned()].into()),
        locks: LockFact::Seen { ours: 1, free: 0, busy: None },
        work,
        ..Observed::nothing("v1-a".into(), "https://fettle".into())
    }
}

fn aap() -> Aap {
    Aap {
        pins: Pinned { install_uuid: "uuid".into(), inventory: 1, stage: None, apply: Some(7), reboot: None },
        schedule: Schedule::Absent,
        job: Job::NotFound,
        baseline: None,
        started: false,
    }
}

fn seen_aap(aap: Aap) -> Observed {
    seen(Work::Aap(Box::new(aap)))
}

fn schedule(enabled: bool, due: bool) -> Observed {
    seen_aap(Aap { schedule: Schedule::Ours { id: 31, try_: 1, enabled, due }, ..aap() })
}

/// A job that works since `started`.
fn job(started: Option<i64>) -> Job {
    Job::Found { id: 4711, url: None, started: started.map(at), mismatch: None, over: None, ending: false, surplus: None }
}

fn seen_job(job: Job) -> Observed {
    seen_aap(Aap { job, ..aap() })
}

/// Looks, and puts on record what was decided.
fn look(run: &mut PatchRun, seen: &Observed, seconds: i64) -> Step {
    let decision = decide(run, seen, at(seconds));
    run.status = Some(decision.status);
    decision.step
}

/// A run whose phase is announced at second 0.
fn announced(phase: Phase, seen: &Observed) -> PatchRun {
    let mut run = run(phase);
    look(&mut run, seen, 0);
    assert!(launch(&run).is_some());
    run
}

fn launch(run: &PatchRun) -> Option<&Launch> {
    run.status.as_ref()?.phases.first()?.launch.as_ref()
}

/// What people read of a run: reason and message.
fn told(run: &PatchRun) -> (&str, &str) {
    let succeeded = conditions::find(&run.status.as_ref().unwrap().conditions, types::SUCCEEDED).unwrap();
    (&succeeded.reason, &succeeded.message)
}

/// How a phase ends, by the record that is written.
fn ended(step: &Step) -> (&str, &str) {
    let Step::PutRecord(record) = step else { panic!("no record is written: {step:?}") };
    (&record.reason, &record.message)
}

fn archived(seen: Observed) -> Observed {
    Observed { log: LogFact::Found(LogRef { id: "log".into(), size: 1, sha256: "s".into() }, None), ..seen }
}

fn good() -> Evidence {
    Evidence {
        end: End::Succeeded,
        summaries: [(HOST.into(), Summary { ok: 1, ..Summary::default() })].into(),
        reports: [(HOST.into(), Report { guard: Some("executed".into()), ok: Some(true), ..Report::default() })].into(),
    }
}

fn job_over(evidence: Evidence, mismatch: Option<&str>) -> Job {
    Job::Found {
        id: 4711,
        url: None,
        started: Some(at(5)),
        mismatch: mismatch.map(String::from),
        over: Some(Box::new(Over { finished: Some(at(100)), evidence })),
        ending: false,
        surplus: None,
    }
}

#[test]
fn nothing_starts_before_its_window_and_everything_in_it() {
    let mut early = run(Phase::Apply);
    early.spec.start_after = Some(at(90));
    let decision = decide(&early, &seen_aap(aap()), at(0));
    assert_eq!((decision.status.state, decision.requeue), (State::AwaitingWindow, Some(SignedDuration::from_secs(60))));
    let decision = decide(&early, &seen_aap(aap()), at(89));
    assert_eq!((decision.status.state, decision.requeue), (State::AwaitingWindow, Some(SignedDuration::from_secs(1))));
    assert_eq!(decide(&early, &seen_aap(aap()), at(90)).status.state, State::Running);
}

#[test]
fn no_change_starts_at_start_by() {
    let mut run = run(Phase::Apply);
    assert!(matches!(decide(&run, &seen_aap(aap()), at(3599)).step, Step::CreateSchedule { enabled: true, .. }));
    assert_eq!(ended(&look(&mut run, &seen_aap(aap()), 3600)).0, "StartByPassed");
}

#[test]
fn a_schedule_has_a_minute_to_launch_before_it_is_disabled() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    assert_eq!(look(&mut run, &schedule(true, true), 30), Step::Nothing);
    assert_eq!(look(&mut run, &schedule(true, false), 40), Step::Nothing);
    assert_eq!(look(&mut run, &schedule(true, false), 99), Step::Nothing);
    assert_eq!(look(&mut run, &schedule(true, false), 100), Step::DisableSchedule { id: 31 });
}

#[test]
fn a_schedule_that_launched_nothing_is_issued_again_after_two_looks() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    look(&mut run, &schedule(true, false), 40);
    assert_eq!(look(&mut run, &schedule(false, false), 100), Step::Nothing);
    assert_eq!(look(&mut run, &schedule(false, false), 109), Step::Nothing);
    let before = launch(&run).cloned().unwrap();
    assert_eq!((before.schedule, before.missed_at, before.disabled_at), (Some(31), Some(at(40)), Some(at(100))));
    let again = Step::CreateSchedule { phase: Phase::Apply, name: names::work("v1-a-apply", 2), enabled: true };
    assert_eq!(look(&mut run, &schedule(false, false), 110), again);
    let fresh = Launch { try_: 2, intended_at: at(110), schedule: None, missed_at: None, disabled_at: None, ..before };
    assert_eq!(launch(&run), Some(&fresh));
}

#[test]
fn what_is_found_of_a_later_try_is_followed_from_its_beginning() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    look(&mut run, &schedule(true, false), 40);
    look(&mut run, &schedule(false, false), 100);
    let later = seen_aap(Aap { schedule: Schedule::Ours { id: 32, try_: 2, enabled: true, due: true }, ..aap() });
    assert_eq!(look(&mut run, &later, 200), Step::Nothing);
    let launch = launch(&run).unwrap();
    assert_eq!((launch.try_, launch.schedule, launch.missed_at, launch.disabled_at), (2, Some(32), None, None));
    let later = seen_aap(Aap { schedule: Schedule::Ours { id: 32, try_: 2, enabled: false, due: false }, ..aap() });
    assert_eq!(look(&mut run, &later, 300), Step::Nothing, "its own two looks are still to come");
}

#[test]
fn a_direct_launch_whose_job_is_not_found_is_left_to_a_person_after_ten_minutes() {
    let mut run = announced(Phase::Apply, &seen_aap(Aap { baseline: Some(9), ..aap() }));
    assert_eq!(look(&mut run, &seen_aap(aap()), 599), Step::Nothing);
    assert_eq!(told(&run).0, "Launching");
    assert_eq!(look(&mut run, &seen_aap(aap()), 600), Step::Nothing);
    assert_eq!(told(&run).0, "LaunchUnknown");
}

#[test]
fn a_job_that_vanished_counts_as_lost_after_ten_minutes() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    look(&mut run, &seen_job(job(Some(5))), 10);
    let gone = archived(seen_job(Job::Gone));
    assert_eq!(look(&mut run, &gone, 20), Step::Nothing);
    assert_eq!(look(&mut run, &gone, 619), Step::Nothing);
    assert_eq!(ended(&look(&mut run, &gone, 620)).0, "JobLost");
}

#[test]
fn a_job_that_came_back_is_not_lost() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    look(&mut run, &seen_job(job(Some(5))), 10);
    look(&mut run, &seen_job(Job::Gone), 20);
    look(&mut run, &seen_job(job(Some(5))), 600);
    assert_eq!(look(&mut run, &archived(seen_job(Job::Gone)), 700), Step::Nothing);
}

#[test]
fn a_job_is_stopped_when_its_time_is_over() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    assert_eq!(look(&mut run, &seen_job(job(Some(5))), 5 + 1799), Step::Nothing);
    assert_eq!(look(&mut run, &seen_job(job(Some(5))), 5 + 1800), Step::CancelJob { id: 4711 });
    assert_eq!(told(&run).0, "TimingOut");
}

#[test]
fn a_job_that_did_not_start_by_then_is_stopped_and_one_that_did_is_not() {
    let run = announced(Phase::Apply, &seen_aap(aap()));
    assert_eq!(look(&mut run.clone(), &seen_job(job(None)), 3599), Step::Nothing);
    assert_eq!(look(&mut run.clone(), &seen_job(job(None)), 3600), Step::CancelJob { id: 4711 });
    assert_eq!(look(&mut run.clone(), &seen_job(job(Some(3590))), 3600), Step::Nothing);
}

#[test]
fn a_job_that_does_something_else_is_stopped_and_ends_so_whatever_it_says() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    let other = Job::Found {
        id: 4711,
        url: None,
        started: Some(at(5)),
        mismatch: Some("limit is all".into()),
        over: None,
        ending: false,
        surplus: None,
    };
    assert_eq!(look(&mut run, &seen_job(other), 10), Step::CancelJob { id: 4711 });
    let over = archived(seen_job(job_over(good(), Some("limit is all"))));
    assert_eq!(ended(&look(&mut run, &over, 101)), ("LaunchMismatch", "limit is all"));
}

#[test]
fn a_job_that_is_almost_over_is_waited_for_and_a_second_one_is_stopped() {
    let run = announced(Phase::Apply, &seen_aap(aap()));
    let found = |ending, surplus| Job::Found { id: 4711, url: None, started: Some(at(5)), mismatch: None, over: None, ending, surplus };
    assert_eq!(look(&mut run.clone(), &seen_job(found(true, None)), 5 + 1800), Step::Nothing);
    assert_eq!(look(&mut run.clone(), &seen_job(found(false, Some(4712))), 10), Step::CancelJob { id: 4712 });
}

#[test]
fn a_check_that_is_not_there_is_created_for_a_minute_and_then_tried_again() {
    let absent = seen(Work::Tekton(Pipeline::Absent));
    let mut run = announced(Phase::Precheck, &absent);
    let create = |try_| Step::CreatePipelineRun { phase: Phase::Precheck, name: names::work("v1-a-precheck", try_) };
    assert_eq!(look(&mut run, &absent, 59), create(1));
    assert_eq!(look(&mut run, &absent, 60), create(2));
    let second = launch(&run).unwrap();
    assert_eq!((second.try_, second.intended_at), (2, at(60)));
    assert_eq!(look(&mut run, &absent, 119), create(2));
    assert_eq!(look(&mut run, &absent, 120), create(3));
    assert_eq!(ended(&look(&mut run, &archived(absent), 180)), ("CheckLost", "the PipelineRun vanished; tried 3 times"));
}

#[test]
fn a_check_has_five_minutes_beyond_its_time() {
    let mut run = announced(Phase::Precheck, &seen(Work::Tekton(Pipeline::Absent)));
    let active = seen(Work::Tekton(Pipeline::Active { started: Some(at(10)) }));
    assert_eq!(look(&mut run, &active, 10 + 2099), Step::Nothing);
    assert_eq!(look(&mut run, &active, 10 + 2100), Step::ArchiveLog { phase: Phase::Precheck }, "its log goes with its pod");
    let cancel = Step::CancelPipelineRun { name: names::work("v1-a-precheck", 1) };
    assert_eq!(look(&mut run, &archived(active), 10 + 2101), cancel);
}

#[test]
fn that_the_archive_is_slow_is_told_after_a_minute_and_waited_for_fifteen() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    look(&mut run, &seen_job(job(Some(5))), 10);
    let over = seen_job(job_over(good(), None));
    let again = Step::ArchiveLog { phase: Phase::Apply };
    assert_eq!(look(&mut run, &over, 159), again);
    assert_eq!((told(&run).0, launch(&run).unwrap().archiving_since), ("Running", None));
    assert_eq!(look(&mut run, &over, 160), again);
    assert_eq!((told(&run).0, launch(&run).unwrap().archiving_since), ("Archiving", Some(at(160))));
    assert_eq!(look(&mut run, &over, 160 + 899), again);
    let (reason, message) = ("Succeeded", "1 of 1 hosts ended well; the log was not archived: it could not be read in fifteen minutes");
    assert_eq!(ended(&look(&mut run.clone(), &over, 160 + 900)), (reason, message));

    let away = Observed { log: LogFact::Unavailable("no bucket".into()), record: RecordFact::Unavailable("no bucket".into()), ..over };
    assert_eq!(look(&mut run, &away, 160 + 899), again);
    assert_eq!(told(&run), ("Archiving", "the log cannot be archived yet: no bucket"));
    assert_eq!(look(&mut run, &archived(away.clone()), 160 + 899), Step::Nothing);
    assert_eq!(told(&run), ("Archiving", "the record cannot be written yet: no bucket"));
    assert_eq!(look(&mut run, &away, 160 + 900), Step::Nothing);
    assert_eq!(told(&run), ("Succeeded", "apply: 1 of 1 hosts ended well; the log was not archived: no bucket"));
}

#[test]
fn only_what_does_not_work_any_more_is_idle() {
    let schedule = |enabled| Schedule::Ours { id: 31, try_: 1, enabled, due: false };
    let over = |infrastructure: Option<&str>| Pipeline::Over {
        started: None,
        finished: None,
        evidence: Box::new(good()),
        infrastructure: infrastructure.map(String::from),
    };
    let tekton = |pipeline| Work::Tekton(pipeline).is_idle();
    assert!(tekton(Pipeline::Absent) && tekton(over(Some("image pull"))));
    assert!(!tekton(over(None)) && !tekton(Pipeline::Active { started: None }));
    let controller = |schedule, job| Work::Aap(Box::new(Aap { schedule, job, ..aap() })).is_idle();
    assert!(controller(Schedule::Absent, Job::NotFound) && controller(schedule(false), Job::NotFound));
    assert!(!controller(schedule(true), Job::NotFound) && !controller(schedule(false), job(None)));
    assert!(!Work::NotLooked.is_idle() && !Work::Unavailable(Reason::ControllerUnreachable, String::new()).is_idle());
}

#[test]
fn a_run_that_is_over_gives_back_what_it_holds_and_then_rests() {
    let mut run = run(Phase::Apply);
    run.status = Some(PatchRunStatus { state: State::Completed, attempt: Some(1), ..PatchRunStatus::default() });
    let settled = |run: &PatchRun, locks| {
        let decision = decide(run, &Observed { locks, ..Observed::nothing("v1-a".into(), String::new()) }, at(0));
        (decision.step, decision.requeue)
    };
    let entered = |ours| LockFact::Seen { ours, free: 0, busy: None };
    assert_eq!(settled(&run, entered(1)), (Step::Unlock, Some(SOON)));
    assert_eq!(settled(&run, entered(0)), (Step::Finalizer(false), Some(SOON)));
    assert_eq!(settled(&run, LockFact::NotLooked), (Step::Nothing, Some(WAIT)), "it is looked again");
    run.metadata.finalizers = None;
    for locks in [entered(1), entered(0), LockFact::NotLooked] {
        assert_eq!(settled(&run, locks), (Step::Nothing, None));
    }
}

#[test]
fn a_higher_attempt_begins_when_the_last_one_is_over_and_holds_nothing() {
    let mut next = run(Phase::Apply);
    look(&mut next, &seen_aap(aap()), 0);
    next.spec.attempt = Some(2);
    assert_eq!(attempt(&next), 1, "it runs");
    next.status.as_mut().unwrap().state = State::Completed;
    assert_eq!(attempt(&next), 1, "it holds its hosts");
    next.metadata.finalizers = None;
    assert_eq!(attempt(&next), 2);
    let (before, fresh) = (next.status.clone().unwrap(), current(&next));
    assert_eq!(fresh, PatchRunStatus { conditions: before.conditions, ..PatchRunStatus::default() }, "since when is kept");
    next.spec.attempt = None;
    assert_eq!((attempt(&next), current(&next).phases.len()), (1, 1));
}

#[test]
fn a_record_that_was_there_is_adopted_and_that_of_an_own_refusal_is_not() {
    let mut refused = run(Phase::Apply);
    refused.spec.cancel = Some(true);
    let Step::PutRecord(record) = look(&mut refused, &seen_aap(aap()), 0) else { panic!("cancelled before it was launched") };
    let there = Observed { record: RecordFact::Found(record), ..seen_aap(aap()) };
    let adopted = |mut run: PatchRun| {
        look(&mut run, &there, 1);
        let status = run.status.unwrap();
        (status.state, status.phases[0].adopted)
    };
    assert_eq!(adopted(refused), (State::Completed, None));
    assert_eq!(adopted(run(Phase::Apply)), (State::Completed, Some(true)));
}

#[test]
fn a_scope_that_is_gone_is_written_again_only_with_the_same_hosts() {
    let mut run = run(Phase::Apply);
    look(&mut run, &Observed { locks: LockFact::Seen { ours: 0, free: 1, busy: None }, ..seen_aap(aap()) }, 0);
    let status = run.status.as_ref().and_then(|s| s.scope.clone()).unwrap();
    let plan =
        |digest: &str| Box::new(ScopePlan { status: ScopeStatus { digest: digest.into(), ..status.clone() }, hosts: BTreeMap::new() });
    let lost = |digest| Observed { scope: ScopeFact::Resolved(plan(digest)), ..seen_aap(aap()) };
    assert_eq!(look(&mut run, &lost("d"), 1), Step::CreateScope(plan("d")));
    assert_eq!(look(&mut run, &lost("e"), 1), Step::Nothing);
    assert_eq!(told(&run).0, "InventoryUnavailable");
}

#[test]
fn start_by_says_what_the_run_waited_for_and_does_not_hold_for_checks() {
    let mut late = run(Phase::Apply);
    late.spec.suspend = Some(true);
    let decision = decide(&late, &seen_aap(aap()), at(3590));
    assert_eq!(decision.requeue, Some(SignedDuration::from_secs(10)), "then its time is over");
    assert_eq!(decide(&late, &seen_aap(aap()), at(0)).requeue, Some(REST));
    look(&mut late, &seen_aap(aap()), 3590);
    let waited = told(&late).1.to_owned();
    let why = format!("startBy passed before apply started; before that: {waited}");
    for second in [3600, 3601] {
        assert_eq!(ended(&look(&mut late, &seen_aap(aap()), second)), ("StartByPassed", why.as_str()));
        assert_eq!(told(&late), ("StartByPassed", why.as_str()));
    }

    // what needs no remedy is not told again
    let mut early = run(Phase::Apply);
    early.spec.start_after = Some(at(90));
    look(&mut early, &seen_aap(aap()), 0);
    assert_eq!(ended(&look(&mut early, &seen_aap(aap()), 3600)).1, "startBy passed before apply started");
    assert_eq!(ended(&look(&mut run(Phase::Apply), &seen_aap(aap()), 3600)).1, "startBy passed before apply started");

    let absent = seen(Work::Tekton(Pipeline::Absent));
    assert!(matches!(look(&mut run(Phase::Precheck), &absent, 3600), Step::CreatePipelineRun { .. }));
    let mut suspended = run(Phase::Precheck);
    suspended.spec.suspend = Some(true);
    assert_eq!(decide(&suspended, &absent, at(3600)).requeue, Some(REST));
}

#[test]
fn a_refusal_says_once_that_the_controller_could_not_be_asked() {
    let refusal = |phase, work: Work| {
        let mut run = run(phase);
        run.spec.cancel = Some(true);
        ended(&look(&mut run, &seen(work), 0)).1.to_owned()
    };
    let cancelled = "cancelled before the phase was launched";
    assert_eq!(refusal(Phase::Apply, Work::Aap(Box::new(aap()))), cancelled);
    for work in [Work::NotLooked, Work::Unavailable(Reason::ControllerUnreachable, "no answer".into())] {
        assert_eq!(refusal(Phase::Apply, work.clone()), format!("{cancelled}{NOT_ASKED}"));
        assert_eq!(refusal(Phase::Precheck, work), cancelled);
    }
    let mut run = run(Phase::Apply);
    for second in [3600, 3601] {
        let why = format!("startBy passed before apply started{NOT_ASKED}");
        assert_eq!(ended(&look(&mut run, &seen(Work::NotLooked), second)), ("StartByPassed", why.as_str()));
    }
}

#[test]
fn a_launch_is_pinned_and_another_one_than_that_is_not_made() {
    let mut run = run(Phase::Apply);
    run.spec.phases = vec![Phase::Stage, Phase::Apply];
    let stage = Pinned { stage: Some(6), ..aap().pins };
    look(&mut run, &seen_aap(Aap { pins: Pinned { apply: None, ..stage.clone() }, baseline: Some(9), ..aap() }), 0);
    assert_eq!((launch(&run).unwrap().mode, launch(&run).unwrap().baseline), (Mode::Direct, Some(9)));
    let mut told_of = |pins: Pinned| {
        look(&mut run, &seen_aap(Aap { pins, ..aap() }), 1);
        let (reason, message) = told(&run);
        (reason == "ConnectionChanged").then(|| message.to_owned())
    };
    let other = |change: fn(&mut Pinned)| {
        let mut pins = stage.clone();
        change(&mut pins);
        pins
    };
    let message = told_of(other(|p| p.install_uuid = "other".into())).unwrap();
    assert!(message.contains("another controller"), "{message}");
    let message = told_of(other(|p| p.inventory = 2)).unwrap();
    assert!(message.contains("inventory is 2 now; this run was launched with 1"), "{message}");
    let message = told_of(other(|p| p.stage = Some(5))).unwrap();
    assert!(message.contains("the template of stage is 5 now; this run was launched with 6"), "{message}");
    assert_eq!(told_of(stage.clone()), None);
    assert_eq!(told_of(other(|p| p.apply = Some(8))), None, "it was not launched yet");
}

#[test]
fn hosts_that_were_entered_are_given_back_when_another_one_is_busy() {
    for (ours, step) in [(1, Step::Unlock), (0, Step::Nothing)] {
        let mut run = run(Phase::Apply);
        let busy = Observed { locks: LockFact::Seen { ours, free: 0, busy: Some("web-1 is busy".into()) }, ..seen_aap(aap()) };
        assert_eq!(look(&mut run, &busy, 0), step);
        assert_eq!(told(&run), ("HostsBusy", "web-1 is busy"));
    }
}

#[test]
fn what_is_cancelled_before_it_is_issued_occupies_its_name_and_then_ends() {
    for suspend in [false, true] {
        let mut run = announced(Phase::Apply, &seen_aap(aap()));
        run.spec.suspend = Some(suspend);
        if suspend {
            assert_eq!(look(&mut run, &seen_aap(aap()), 1), Step::Nothing);
            assert_eq!(told(&run).0, "Suspended");
        }
        run.spec.cancel = Some(true);
        assert!(matches!(look(&mut run, &seen_aap(aap()), 2), Step::CreateSchedule { enabled: false, .. }));
        assert_eq!(look(&mut run, &schedule(true, true), 3), Step::DisableSchedule { id: 31 }, "an earlier request arrived");
        look(&mut run, &schedule(false, false), 4);
        assert_eq!(ended(&look(&mut run, &schedule(false, false), 14)), ("Cancelled", "cancelled before apply started"));
    }
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    look(&mut run, &schedule(false, false), 3600);
    assert_eq!(ended(&look(&mut run, &schedule(false, false), 3610)), ("StartByPassed", "startBy passed before apply started"));
}

#[test]
fn nothing_that_never_ran_is_named_as_what_carried_the_phase_out() {
    let absent = seen(Work::Tekton(Pipeline::Absent));
    let mut run = announced(Phase::Precheck, &absent);
    assert!(run.status.as_ref().unwrap().phases[0].executor.is_some());
    run.spec.cancel = Some(true);
    let Step::PutRecord(record) = look(&mut run, &absent, 1) else { panic!("it ends") };
    assert_eq!((record.reason.as_str(), record.executor), ("Cancelled", None));

    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    assert_eq!(run.status.as_ref().unwrap().phases[0].executor, None);
    look(&mut run, &seen_job(job(Some(5))), 10);
    let Step::PutRecord(record) = look(&mut run, &archived(seen_job(job_over(good(), None))), 101) else { panic!("it ends") };
    assert_eq!((record.executor.map(|e| e.id).as_deref(), record.finished_at), (Some("4711"), Some(at(100))));
}

#[test]
fn the_end_names_the_hosts_that_did_not_end_well_and_where_the_log_is() {
    let mut failed = good();
    failed.summaries.get_mut(HOST).unwrap().failures = 1;
    for (evidence, hosts, names) in [(good(), "1/1", vec![]), (failed, "0/1", vec![HOST])] {
        let mut run = announced(Phase::Apply, &seen_aap(aap()));
        let over = archived(seen_job(job_over(evidence, None)));
        let Step::PutRecord(record) = look(&mut run, &over, 101) else { panic!("it ends") };
        look(&mut run, &Observed { record: RecordFact::Found(record), ..over }, 102);
        let status = run.status.unwrap();
        assert_eq!((status.state, status.hosts.as_deref()), (State::Completed, Some(hosts)));
        assert_eq!(status.log_url.as_deref(), Some("https://fettle/api/logs/log"));
        assert_eq!(status.phases[0].failed_hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(conditions::is_true(&status.conditions, types::STALLED), !names.is_empty());
        assert!(
            conditions::is_true(&status.conditions, types::COMPLETED) && conditions::find(&status.conditions, types::RECONCILING).is_none()
        );
    }
}

#[test]
fn a_run_that_is_being_stopped_says_so_until_its_end() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    look(&mut run, &seen_job(job(Some(5))), 10);
    run.spec.cancel = Some(true);
    assert_eq!(look(&mut run, &seen_job(job(Some(5))), 11), Step::CancelJob { id: 4711 });
    assert_eq!((told(&run).0, run.status.as_ref().unwrap().state), ("Cancelling", State::Cancelling));
    look(&mut run, &seen(Work::Unavailable(Reason::ControllerUnreachable, "no answer".into())), 12);
    assert_eq!((told(&run).0, run.status.as_ref().unwrap().state), ("ControllerUnreachable", State::Cancelling));
    run.spec.cancel = None;
    assert_eq!(look(&mut run, &seen_job(job(Some(5))), 13), Step::CancelJob { id: 4711 }, "taking it back has no effect");
    let stopped = Evidence { end: End::Failed("was canceled".into()), ..good() };
    assert_eq!(ended(&look(&mut run.clone(), &archived(seen_job(job_over(stopped, None))), 101)).0, "Cancelled");
    assert_eq!(ended(&look(&mut run, &archived(seen_job(job_over(good(), None))), 101)).0, "Succeeded", "it was faster");
}

#[test]
fn the_first_look_says_that_the_run_is_known_and_later_ones_keep_what_was_said() {
    let mut new = run(Phase::Apply);
    new.metadata.finalizers = None;
    assert_eq!(look(&mut new, &seen_aap(aap()), 0), Step::Finalizer(true));
    assert_eq!(told(&new).0, "Starting");
    new.spec.suspend = Some(true);
    look(&mut new, &seen_aap(aap()), 1);
    new.spec.suspend = None;
    assert_eq!(look(&mut new, &seen_aap(aap()), 2), Step::Finalizer(true));
    assert_eq!(told(&new).0, "Suspended", "a step of preparation is not worth a word");
}

#[test]
fn what_a_direct_launch_came_to_is_on_record_where_it_is_known() {
    let direct = seen_aap(Aap { baseline: Some(9), ..aap() });
    let run = announced(Phase::Apply, &direct);
    let after = |outcome: &LaunchOutcome| after_launch(&run, Phase::Apply, run.status.clone().unwrap(), outcome);
    let created = |ignored: &[&str]| LaunchOutcome::Created { id: 4711, ignored: ignored.iter().map(|i| (*i).to_owned()).collect() };
    let job = |status: &PatchRunStatus| {
        let entry = status.of(Phase::Apply).unwrap();
        (entry.executor.clone().unwrap().id, entry.launch.clone().unwrap().stopping, status.state)
    };
    assert_eq!(job(&after(&created(&[])).unwrap()), ("4711".into(), None, State::Running));
    let dropped = after(&created(&["limit"])).unwrap();
    assert_eq!(job(&dropped), ("4711".into(), Some("LaunchMismatch".into()), State::Cancelling));
    let refused = after(&LaunchOutcome::Refused(Reason::CredentialsRejected, "wrong password".into())).unwrap();
    assert_eq!((refused.state, refused.phases.len()), (State::Pending, 0));
    let said: Vec<_> = refused.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect();
    let rejected = |type_, status| (type_, status, "CredentialsRejected");
    assert_eq!(said, [rejected("Succeeded", "Unknown"), rejected("Completed", "False"), rejected("Reconciling", "True")]);
    assert_eq!(after(&LaunchOutcome::Unknown("no answer".into())), None);
}

#[test]
fn a_run_that_is_deleted_forgets_what_was_not_launched_and_stops_what_might_be() {
    let delete = |run: &mut PatchRun| run.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    let absent = seen(Work::Tekton(Pipeline::Absent));
    let mut check = announced(Phase::Precheck, &absent);
    delete(&mut check);
    assert_eq!(look(&mut check, &absent, 2), Step::Nothing);
    assert_eq!((check.status.as_ref().unwrap().phases.len(), told(&check).0), (0, "Starting"));

    let mut change = announced(Phase::Apply, &seen_aap(aap()));
    delete(&mut change);
    assert_eq!(look(&mut change, &schedule(true, false), 2), Step::DisableSchedule { id: 31 }, "before its minute is over");
    look(&mut change, &schedule(false, false), 3);
    assert_eq!(look(&mut change, &schedule(false, false), 13), Step::Nothing);
    assert_eq!(change.status.as_ref().unwrap().phases.len(), 0);
}

#[test]
fn what_can_never_be_looked_at_again_ends_with_its_namespace() {
    let away = seen(Work::Unavailable(Reason::ConnectionNotFound, "it is gone".into()));
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    assert_eq!(look(&mut run, &away, 1), Step::Nothing);
    assert_eq!(told(&run), ("ConnectionNotFound", "it is gone"));
    assert_eq!(ended(&look(&mut run, &Observed { namespace_going: true, ..away }, 2)).0, "Detached");
}

#[test]
fn a_launch_that_was_announced_is_not_sent_before_its_hosts_are_entered() {
    let locks = |locks| Observed { locks, ..seen_aap(aap()) };
    let free = locks(LockFact::Seen { ours: 0, free: 1, busy: None });
    let run = announced(Phase::Apply, &seen_aap(aap()));
    assert_eq!(look(&mut run.clone(), &free, 1), Step::Lock);
    assert_eq!(look(&mut run.clone(), &locks(LockFact::NotLooked), 1), Step::Nothing);
    let mut cancelled = run;
    cancelled.spec.cancel = Some(true);
    for seen in [free, locks(LockFact::NotLooked)] {
        assert!(matches!(look(&mut cancelled.clone(), &seen, 1), Step::CreateSchedule { enabled: false, .. }), "it needs no hosts");
    }
}

#[test]
fn that_the_record_cannot_be_written_is_told_at_once() {
    let mut run = announced(Phase::Apply, &seen_aap(aap()));
    look(&mut run, &seen_job(job(Some(5))), 10);
    let over = archived(seen_job(job_over(good(), None)));
    let away = Observed { record: RecordFact::Unavailable("no bucket".into()), ..over.clone() };
    assert_eq!(look(&mut run, &away, 101), Step::Nothing);
    assert_eq!((told(&run).0, launch(&run).unwrap().archiving_since), ("Archiving", Some(at(101))));
    assert_eq!(ended(&look(&mut run, &over, 102)).0, "Succeeded");
    assert_eq!(told(&run), ("Archiving", "the record is being written"));
}
