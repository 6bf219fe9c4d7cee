//! What to do next about a run: a pure function of the object, of what was seen, and of the time.
//!
//! Order of everything: record, then act. A step is taken only after the status that announces it is on record; what it produced is
//! learned by looking, so a crash after it costs nothing. The end of a phase always comes from its record in the archive, which is also
//! what a run that Git creates again adopts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::verdict::{self, End, Evidence};
use crate::{
    api::{
        automation_connection::GuardPolicy,
        classification::Findings,
        patch_run::{
            Executor, ExecutorKind, FailedHost, Launch, LogRef, Mode, PatchRun, PatchRunStatus, Phase, PhaseStatus, Pinned, RunResult,
            ScopeStatus, State,
        },
        reason::Reason,
    },
    archive::record::Record,
    conditions::{self, Conditions, types},
    names,
};

/// How long a launch by schedule may take before it counts as missed: the controller looks every 30 seconds.
const MISSED: SignedDuration = SignedDuration::from_secs(60);
/// How far apart two looks are that must both find no job.
const SECOND_LOOK: SignedDuration = SignedDuration::from_secs(10);
/// How long a PipelineRun may be absent after the intent before it counts as lost.
const CREATE_GRACE: SignedDuration = SignedDuration::from_secs(60);
/// How long Tekton may take beyond the phase's timeout (image pull, scheduling) before it is stopped.
const TEKTON_GRACE: SignedDuration = SignedDuration::from_mins(5);
/// How long log and record may take before the status speaks of it.
const ARCHIVE_SOON: SignedDuration = SignedDuration::from_mins(1);
/// How long the archive may be away before a phase ends without its log.
const ARCHIVE_GRACE: SignedDuration = SignedDuration::from_mins(15);
/// How long a direct launch's job may stay unfound before a person is asked to decide.
const SETTLE: SignedDuration = SignedDuration::from_mins(10);
/// How long a known job may be gone from the controller before it counts as lost.
const GONE: SignedDuration = SignedDuration::from_mins(10);
/// Tries of a read phase: the first and two more, after infrastructure failures only.
const CHECK_TRIES: i32 = 3;
/// Failed hosts named in the status.
const NAMED: usize = 20;
/// What the end of a phase says that was not launched, when the controller gave no answer.
const NOT_ASKED: &str = "; the controller could not be asked whether an earlier PatchRun of this name launched it";

const SOON: SignedDuration = SignedDuration::from_millis(200);
const POLL: SignedDuration = SignedDuration::from_secs(2);
const WAIT: SignedDuration = SignedDuration::from_secs(15);
/// What waits by somebody's will is looked at when that changes.
const REST: SignedDuration = SignedDuration::from_mins(5);

/// One outside effect. At most one is taken in a reconcile.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// None.
    Nothing,
    /// Put the finalizer on (true) or take it off.
    Finalizer(bool),
    /// Write the immutable ConfigMap with the resolved hosts.
    CreateScope(Box<ScopePlan>),
    /// Enter the hosts of the scope in the ledger.
    Lock,
    /// Take this run's hosts out of the ledger.
    Unlock,
    /// Create the PipelineRun of this name.
    CreatePipelineRun {
        /// Read phase.
        phase: Phase,
        /// Its fixed name.
        name: String,
    },
    /// Stop a PipelineRun.
    CancelPipelineRun {
        /// Its name.
        name: String,
    },
    /// Create the one-shot schedule of this name; a repeated call changes nothing.
    CreateSchedule {
        /// Change phase.
        phase: Phase,
        /// Its unique name.
        name: String,
        /// False: only occupy the name, so that no late request can launch any more.
        enabled: bool,
    },
    /// Disable a schedule.
    DisableSchedule {
        /// Numeric id.
        id: i64,
    },
    /// Launch directly: the one step that must not be repeated. Taken only when its intent was written just now.
    Launch {
        /// Change phase.
        phase: Phase,
    },
    /// Ask the controller to cancel a job; asked again until it is over.
    CancelJob {
        /// Numeric id.
        id: i64,
    },
    /// Copy the log of the current phase into the archive.
    ArchiveLog {
        /// The phase.
        phase: Phase,
    },
    /// Write the record of the current phase.
    PutRecord(Box<Record>),
}

/// What to record, and what to do then.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The status to be on record before the step is taken.
    pub status: PatchRunStatus,
    /// The step.
    pub step: Step,
    /// When to look again; `None` only for a settled run.
    pub requeue: Option<SignedDuration>,
}

/// What was seen. Facts that were not needed stay `NotLooked`.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Key of the attempt in question (the run key of `wanted_attempt`).
    pub run_key: String,
    /// Where the server is reached by people; log addresses are made of it.
    pub server_url: String,
    /// Why launches are paused in the operator's configuration, if they are.
    pub paused: Option<String>,
    /// Whether what the phase needs is there.
    pub gate: Gate,
    /// The record of the phase in question.
    pub record: RecordFact,
    /// The archived log of the phase in question.
    pub log: LogFact,
    /// The hosts.
    pub scope: ScopeFact,
    /// The ledger.
    pub locks: LockFact,
    /// The executor of the phase in question.
    pub work: Work,
    /// Whether the guard's proof is needed.
    pub guard: GuardPolicy,
    /// Whether the run is being deleted with its whole namespace.
    pub namespace_going: bool,
}

impl Observed {
    /// Nothing was looked at yet, and nothing stands in the way.
    pub fn nothing(run_key: String, server_url: String) -> Self {
        Self {
            run_key,
            server_url,
            paused: None,
            gate: Gate::Open,
            record: RecordFact::NotLooked,
            log: LogFact::NotLooked,
            scope: ScopeFact::NotLooked,
            locks: LockFact::NotLooked,
            work: Work::NotLooked,
            guard: GuardPolicy::default(),
            namespace_going: false,
        }
    }
}

/// Whether something keeps the phase from going on that is no fact about the run itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// No.
    Open,
    /// Something is not there yet.
    Wait(Reason, String),
    /// It never can.
    Refuse(Reason, String),
}

/// The record of a phase.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordFact {
    /// Not needed.
    NotLooked,
    /// There is none.
    Absent,
    /// The phase ended.
    Found(Box<Record>),
    /// It cannot be known now.
    Unavailable(String),
}

/// The archived log of a phase.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFact {
    /// Not needed.
    NotLooked,
    /// There is none.
    Absent,
    /// It is archived; what the Runbooks read in it.
    Found(LogRef, Option<Findings>),
    /// It cannot be known, or cannot be had: why.
    Unavailable(String),
}

/// The hosts of the run.
#[derive(Clone, Debug, PartialEq)]
pub enum ScopeFact {
    /// Not needed.
    NotLooked,
    /// Looked up, not yet written.
    Resolved(Box<ScopePlan>),
    /// Written; the sorted names.
    Fixed(ScopeStatus, BTreeSet<String>),
}

/// What the scope ConfigMap will hold.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopePlan {
    /// What the status will say.
    pub status: ScopeStatus,
    /// Names and allow-listed variables, by host.
    pub hosts: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
}

/// The ledger's view of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockFact {
    /// Not needed.
    NotLooked,
    /// What the ledger says of the hosts of the scope.
    Seen {
        /// Hosts entered for this run.
        ours: usize,
        /// Hosts entered for nobody.
        free: usize,
        /// A host is entered for another run: which, in words this tenant may read.
        busy: Option<String>,
    },
}

/// The executor of a phase.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Not needed.
    NotLooked,
    /// It could not be looked at.
    Unavailable(Reason, String),
    /// A PipelineRun.
    Tekton(Pipeline),
    /// An AAP job.
    Aap(Box<Aap>),
}

impl Work {
    /// Whether nothing of a phase that is on record works, so that it may have to be launched, or launched again.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::NotLooked | Self::Unavailable(..) => false,
            Self::Tekton(pipeline) => matches!(pipeline, Pipeline::Absent | Pipeline::Over { infrastructure: Some(_), .. }),
            Self::Aap(aap) => {
                matches!((&aap.job, &aap.schedule), (Job::NotFound, Schedule::Absent | Schedule::Ours { enabled: false, .. }))
            }
        }
    }
}

/// A PipelineRun of the fixed name.
#[derive(Clone, Debug, PartialEq)]
pub enum Pipeline {
    /// There is none.
    Absent,
    /// There is one that is not ours: why.
    Foreign(String),
    /// It works.
    Active {
        /// When it started.
        started: Option<Timestamp>,
    },
    /// It, its TaskRuns and pods are over.
    Over {
        /// When it started.
        started: Option<Timestamp>,
        /// When it ended.
        finished: Option<Timestamp>,
        /// What it left.
        evidence: Box<Evidence>,
        /// The failure was the platform's, not the hosts': try again.
        infrastructure: Option<String>,
    },
}

/// What the controller says about a phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Aap {
    /// What a launch now would be pinned to.
    pub pins: Pinned,
    /// The one-shot schedule of the current try, or of a later one.
    pub schedule: Schedule,
    /// The job.
    pub job: Job,
    /// Highest job id, for a direct launch.
    pub baseline: Option<i64>,
    /// Whether a direct launch of this phase was begun once, by whatever object.
    pub started: bool,
}

impl Aap {
    /// Whether the phase was launched, or may have been, by whatever object.
    pub fn exists(&self) -> bool {
        self.started || !matches!((&self.schedule, &self.job), (Schedule::Absent, Job::NotFound))
    }
}

/// The schedule of the fixed name of the latest try, over all templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// There is none.
    Absent,
    /// It is what was asked for.
    Ours {
        /// Numeric id.
        id: i64,
        /// Which try it is of: a later one than the current when there is one, as after a restore of the cluster.
        try_: i32,
        /// Whether it may still fire.
        enabled: bool,
        /// Whether the controller has a time for it.
        due: bool,
    },
    /// It is not what was asked for: why.
    Foreign(String),
}

/// The job of a phase.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// None was found.
    NotFound,
    /// The known job is gone from the controller.
    Gone,
    /// It is there.
    Found {
        /// Numeric id.
        id: i64,
        /// Page for people.
        url: Option<String>,
        /// When it started.
        started: Option<Timestamp>,
        /// How it differs from what was asked, if it does.
        mismatch: Option<String>,
        /// Set when it is over, for good, and all it left is read.
        over: Option<Box<Over>>,
        /// Whether the controller calls it over, though not yet for good.
        ending: bool,
        /// Another job of the same key that must be stopped.
        surplus: Option<i64>,
    },
}

/// A job that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Over {
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// What it left.
    pub evidence: Evidence,
}

/// What a direct launch came to, when it is known at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchOutcome {
    /// The controller created this job.
    Created {
        /// Numeric id.
        id: i64,
        /// What of the request it dropped: when there is something, the job does something else than was asked for.
        ignored: Vec<String>,
    },
    /// It provably created none: what the run waits for, and the words for it.
    Refused(Reason, String),
    /// It is not known.
    Unknown(String),
}

/// The attempt a decision is about: the one on record until that is over and holds nothing any more, then the wanted one.
pub fn attempt(run: &PatchRun) -> i32 {
    let wanted = run.spec.attempt();
    match &run.status {
        Some(status) if status.state != State::Completed || has_finalizer(run) => status.attempt.unwrap_or(wanted),
        Some(status) => wanted.max(status.attempt.unwrap_or(1)),
        None => wanted,
    }
}

/// The status a decision starts from: the one on record, or a fresh one when a new attempt begins.
pub fn current(run: &PatchRun) -> PatchRunStatus {
    let status = run.status.clone().unwrap_or_default();
    if status.attempt.is_some_and(|on_record| on_record < attempt(run)) {
        PatchRunStatus { conditions: status.conditions, ..PatchRunStatus::default() }
    } else {
        status
    }
}

/// The phase a decision is about: the first one without a result. `None` when the run is over.
pub fn phase_in_question(run: &PatchRun, status: &PatchRunStatus) -> Option<Phase> {
    if status.state == State::Completed {
        return None;
    }
    run.spec.phases.iter().copied().find(|phase| status.of(*phase).is_none_or(|p| p.result.is_none()))
}

/// Whether the run has a finalizer of ours.
pub fn has_finalizer(run: &PatchRun) -> bool {
    run.metadata.finalizers.iter().flatten().any(|f| f == names::FINALIZER)
}

/// Decides.
pub fn decide(run: &PatchRun, seen: &Observed, now: Timestamp) -> Decision {
    let mut status = current(run);
    status.attempt.get_or_insert(attempt(run));
    status.run_key.get_or_insert_with(|| seen.run_key.clone());
    status.observed_generation = run.metadata.generation;
    if run.spec.cancel() && status.state != State::Completed {
        status.cancel_requested_at.get_or_insert(now);
    }
    let draft = Draft { run, seen, now, status };
    let phase = phase_in_question(run, &draft.status);
    let Some(phase) = phase else { return draft.settle() };
    match draft.status.of(phase).cloned() {
        Some(entry) => draft.drive(&entry),
        None => draft.begin(phase),
    }
}

/// A decision in the making.
struct Draft<'a> {
    run: &'a PatchRun,
    seen: &'a Observed,
    now: Timestamp,
    status: PatchRunStatus,
}

impl Draft<'_> {
    /// The run is over: give back what it holds, then rest.
    fn settle(self) -> Decision {
        let held = has_finalizer(self.run);
        let step = match &self.seen.locks {
            _ if !held => Step::Nothing,
            LockFact::NotLooked => Step::Nothing,
            LockFact::Seen { ours: 0, .. } => Step::Finalizer(false),
            LockFact::Seen { .. } => Step::Unlock,
        };
        let requeue = held.then_some(if step == Step::Nothing { WAIT } else { SOON });
        Decision { status: self.status, step, requeue }
    }

    /// Nothing of `phase` is on record: may it begin?
    fn begin(mut self, phase: Phase) -> Decision {
        if self.run.metadata.deletion_timestamp.is_some() {
            // deleting launches nothing more
            return self.settle();
        }
        match &self.seen.record {
            RecordFact::Found(record) => {
                let record = record.clone();
                // the record of a refusal that is announced below is this object's own
                let announced = conditions::find(&self.status.conditions, types::SUCCEEDED).is_some_and(|c| c.reason == record.reason);
                return self.end(&record, !announced);
            }
            RecordFact::Unavailable(why) => {
                let why = why.clone();
                return self.wait(Reason::RecordUnavailable, &why, WAIT);
            }
            RecordFact::NotLooked | RecordFact::Absent => {}
        }
        if let (ScopeFact::Fixed(scope, _), None) = (&self.seen.scope, &self.status.scope) {
            self.status.hosts = Some(format!("0/{}", scope.hosts));
            self.status.scope = Some(scope.clone());
        }
        // what exists is found again before anything else is asked: an earlier object, or an earlier life of this one, may have launched it
        if let Work::Aap(aap) = &self.seen.work
            && aap.exists()
        {
            let mode = if matches!(aap.schedule, Schedule::Absent) { Mode::Direct } else { Mode::Fenced };
            return self.take_up(phase, mode);
        }
        if self.status.cancel_requested_at.is_some() {
            return self.refuse(phase, Reason::Cancelled, "cancelled before the phase was launched");
        }
        self.start(phase)
    }

    /// `phase` was launched although nothing of it is on record: it is followed from here on, whatever was asked for since.
    fn take_up(self, phase: Phase, mode: Mode) -> Decision {
        if !has_finalizer(self.run) {
            return self.going_on(Step::Finalizer(true));
        }
        match (&self.seen.scope, &self.seen.locks, self.seen.gate.clone()) {
            (ScopeFact::Fixed(..), LockFact::Seen { free: 1.., busy: None, .. }, _) => self.going_on(Step::Lock),
            (ScopeFact::Fixed(..), _, _) => self.intend(phase, mode, Step::Nothing),
            (ScopeFact::Resolved(_), _, _) => self.fix_scope(),
            (ScopeFact::NotLooked, _, Gate::Wait(reason, why) | Gate::Refuse(reason, why)) => self.wait(reason, &why, WAIT),
            (ScopeFact::NotLooked, _, Gate::Open) => self.going_on(Step::Nothing),
        }
    }

    /// Writes down what the hosts are; they never change within an attempt.
    fn fix_scope(self) -> Decision {
        let ScopeFact::Resolved(plan) = &self.seen.scope else { return self.going_on(Step::Nothing) };
        if self.status.scope.as_ref().is_some_and(|fixed| fixed.digest != plan.status.digest) {
            let why = format!(
                "ConfigMap {} with the hosts of this run is gone, and its hosts are others now; apply a new PatchRun for them",
                plan.status.config_map
            );
            return self.wait(Reason::InventoryUnavailable, &why, WAIT);
        }
        let plan = plan.clone();
        self.going_on(Step::CreateScope(plan))
    }

    /// Nothing of `phase` was launched, and nobody asked for the end: do time, people and the world let it start?
    fn start(mut self, phase: Phase) -> Decision {
        if let Some(after) = self.run.spec.start_after.filter(|after| self.now < *after) {
            self.status.state = State::AwaitingWindow;
            let requeue = after.duration_since(self.now).min(SignedDuration::from_mins(1));
            return self.report(Reason::TooEarly, &format!("starts after {after}"), Step::Nothing, Some(requeue));
        }
        if phase.is_change() && self.start_by_passed() {
            let last = conditions::find(&self.status.conditions, types::SUCCEEDED).filter(|c| c.status == "Unknown");
            let why = match last {
                Some(last) if last.reason == Reason::StartByPassed.as_str() => last.message.clone(),
                Some(last) if Reason::parse(&last.reason).is_some_and(|r| !r.remedy().is_empty()) => {
                    format!("startBy passed before {phase} started; before that: {}", last.message)
                }
                Some(_) | None => format!("startBy passed before {phase} started"),
            };
            return self.refuse(phase, Reason::StartByPassed, &why);
        }
        let left = self.run.spec.start_by.map_or(REST, |by| by.duration_since(self.now));
        let rest = if left.is_positive() { left.min(REST) } else { REST };
        if let Some(Held::Wait(reason, why)) = self.held() {
            return self.wait(reason, &why, rest);
        }
        match self.seen.gate.clone() {
            Gate::Wait(reason, why) => return self.wait(reason, &why, WAIT),
            Gate::Refuse(reason, why) => return self.refuse(phase, reason, &why),
            Gate::Open => {}
        }
        if !has_finalizer(self.run) {
            return self.going_on(Step::Finalizer(true));
        }
        match &self.seen.scope {
            ScopeFact::Resolved(_) => return self.fix_scope(),
            ScopeFact::NotLooked => return self.going_on(Step::Nothing),
            ScopeFact::Fixed(..) => {}
        }
        match self.hosts() {
            Some(Held::Busy(who, step)) => {
                let mut waiting = self.wait(Reason::HostsBusy, &who, WAIT);
                waiting.step = step;
                return waiting;
            }
            Some(Held::Prepare(step)) => return self.going_on(step),
            Some(Held::Wait(..) | Held::Leave) | None => {}
        }
        match &self.seen.work {
            Work::NotLooked => self.going_on(Step::Nothing),
            Work::Unavailable(reason, why) => {
                let (reason, why) = (*reason, why.clone());
                self.wait(reason, &why, WAIT)
            }
            Work::Tekton(_) => {
                let step = Step::CreatePipelineRun { phase, name: names::work(&self.key(phase), 1) };
                self.intend(phase, Mode::Tekton, step)
            }
            Work::Aap(aap) => {
                if let Some(changed) = self.pins_differ(phase, &aap.pins) {
                    return self.wait(Reason::ConnectionChanged, &changed, WAIT);
                }
                if aap.baseline.is_some() {
                    self.intend(phase, Mode::Direct, Step::Launch { phase })
                } else {
                    let step = Step::CreateSchedule { phase, name: names::work(&self.key(phase), 1), enabled: true };
                    self.intend(phase, Mode::Fenced, step)
                }
            }
        }
    }

    /// Records that `phase` is about to be launched.
    fn intend(mut self, phase: Phase, mode: Mode, step: Step) -> Decision {
        let mut baseline = None;
        if let Work::Aap(aap) = &self.seen.work {
            // what a schedule launched is found by the schedule
            baseline = aap.baseline.filter(|_| mode == Mode::Direct);
            let pins = aap.pins.clone();
            match &mut self.status.pinned {
                None => self.status.pinned = Some(pins),
                Some(pinned) => {
                    pinned.stage = pinned.stage.or(pins.stage);
                    pinned.apply = pinned.apply.or(pins.apply);
                    pinned.reboot = pinned.reboot.or(pins.reboot);
                }
            }
        }
        let launch = Launch {
            mode,
            try_: 1,
            intended_at: self.now,
            schedule: None,
            baseline,
            missed_at: None,
            disabled_at: None,
            archiving_since: None,
            stopping: None,
        };
        let run_key = self.key(phase);
        let executor = (mode == Mode::Tekton).then(|| pipeline_run(&run_key, 1));
        self.status.phases.push(PhaseStatus {
            name: phase,
            run_key,
            result: None,
            reason: None,
            message: None,
            launch: Some(launch),
            executor,
            started_at: None,
            finished_at: None,
            hosts: None,
            failed_hosts: vec![],
            log: None,
            classification: None,
            adopted: None,
        });
        self.status.phase = Some(phase);
        self.status.state = State::Running;
        if let Some(scope) = &self.status.scope {
            self.status.hosts = Some(format!("0/{}", scope.hosts));
        }
        // a check is as good as running: telling the two apart would be a write that nobody needs
        let (reason, message) = match mode {
            Mode::Tekton => (Reason::Running, format!("{phase} runs")),
            Mode::Fenced | Mode::Direct => (Reason::Launching, format!("{phase} is being launched")),
        };
        self.report(reason, &message, step, Some(POLL))
    }

    /// A phase is on record and not over.
    fn drive(self, entry: &PhaseStatus) -> Decision {
        if let RecordFact::Found(record) = &self.seen.record {
            let record = record.clone();
            return self.end(&record, false);
        }
        let Some(launch) = entry.launch.clone() else { return self.going_on(Step::Nothing) };
        match &self.seen.work {
            // nothing of it can be looked at ever again
            Work::Unavailable(..) | Work::Tekton(Pipeline::Absent) if self.seen.namespace_going => {
                let end = End::Broken(Reason::Detached, Reason::Detached.meaning().to_owned());
                let evidence = Evidence { end, summaries: BTreeMap::new(), reports: BTreeMap::new() };
                self.finish(entry, entry.started_at, None, &evidence, LogNeed::None)
            }
            Work::NotLooked => self.going_on(Step::Nothing),
            Work::Unavailable(reason, why) => {
                let (reason, why) = (*reason, why.clone());
                self.keep(reason, &why, Step::Nothing, WAIT)
            }
            Work::Tekton(pipeline) => {
                let pipeline = pipeline.clone();
                self.drive_check(entry, &launch, &pipeline)
            }
            Work::Aap(aap) => {
                let aap = aap.clone();
                if let Some(changed) = self.pins_differ(entry.name, &aap.pins) {
                    return self.keep(Reason::ConnectionChanged, &changed, Step::Nothing, WAIT);
                }
                match aap.job {
                    Job::NotFound => match launch.mode {
                        Mode::Direct => self.drive_direct_launch(entry, &launch),
                        Mode::Fenced | Mode::Tekton => self.drive_fenced_launch(entry, &launch, &aap.schedule),
                    },
                    Job::Gone => self.drive_gone(entry, &launch),
                    Job::Found { .. } => self.drive_job(entry, &launch, &aap),
                }
            }
        }
    }

    fn drive_check(mut self, entry: &PhaseStatus, launch: &Launch, pipeline: &Pipeline) -> Decision {
        let phase = entry.name;
        let name = names::work(&entry.run_key, launch.try_);
        match pipeline {
            Pipeline::Foreign(why) => self.finish(entry, None, None, &not_launched(Reason::LaunchConflict, why), LogNeed::None),
            Pipeline::Absent => {
                if self.stop_reason(entry, None).is_some() {
                    return self.finish(
                        entry,
                        None,
                        None,
                        &not_launched(Reason::Cancelled, "cancelled before the check was created"),
                        LogNeed::None,
                    );
                }
                if let Some(held) = self.held_again() {
                    return self.hold(phase, held);
                }
                if self.now < launch.intended_at + CREATE_GRACE {
                    return self.keep(Reason::Running, &format!("{phase} runs"), Step::CreatePipelineRun { phase, name }, POLL);
                }
                self.retry_check(entry, launch, "the PipelineRun vanished")
            }
            Pipeline::Active { started } => {
                let since = started.unwrap_or(launch.intended_at);
                let limit = self.run.spec.timeout(phase) + TEKTON_GRACE;
                let stopping = self.stop_reason(entry, Some((since, limit)));
                let Some(reason) = stopping else {
                    return self.keep(Reason::Running, &format!("{phase} runs"), Step::Nothing, POLL);
                };
                self.mark_stopping(phase, reason);
                // the log goes first: Tekton deletes the pod when it cancels
                let step = match &self.seen.log {
                    LogFact::Found(..) | LogFact::Unavailable(_) => Step::CancelPipelineRun { name },
                    LogFact::Absent | LogFact::NotLooked => Step::ArchiveLog { phase },
                };
                self.stopping(reason, step)
            }
            Pipeline::Over { started, finished, evidence, infrastructure } => {
                if let (Some(why), None) = (infrastructure, &launch.stopping) {
                    return self.retry_check(entry, launch, why);
                }
                let evidence = stopped_evidence((**evidence).clone(), launch);
                self.finish(entry, *started, *finished, &evidence, LogNeed::Needed)
            }
        }
    }

    fn retry_check(mut self, entry: &PhaseStatus, launch: &Launch, why: &str) -> Decision {
        if launch.try_ >= CHECK_TRIES || self.status.cancel_requested_at.is_some() {
            let end = End::Broken(Reason::CheckLost, format!("{why}; tried {} times", launch.try_));
            let evidence = Evidence { end, summaries: BTreeMap::new(), reports: BTreeMap::new() };
            return self.finish(entry, None, None, &evidence, LogNeed::Needed);
        }
        let (phase, now) = (entry.name, self.now);
        if let Some(held) = self.held_again() {
            return self.hold(phase, held);
        }
        let try_ = launch.try_ + 1;
        if let Some(entry) = self.status.of_mut(phase) {
            entry.executor = Some(pipeline_run(&entry.run_key, try_));
            entry.launch = Some(Launch { try_, intended_at: now, ..launch.clone() });
        }
        let name = names::work(&entry.run_key, try_);
        self.keep(Reason::Launching, &format!("{phase} is tried again: {why}"), Step::CreatePipelineRun { phase, name }, POLL)
    }

    fn drive_fenced_launch(mut self, entry: &PhaseStatus, launch: &Launch, schedule: &Schedule) -> Decision {
        let phase = entry.name;
        if let Schedule::Ours { try_, .. } = schedule
            && *try_ > launch.try_
        {
            let later = Launch { try_: *try_, schedule: None, missed_at: None, disabled_at: None, ..launch.clone() };
            self.change_launch(phase, |l| *l = later.clone());
            return self.drive_fenced_launch(entry, &later, schedule);
        }
        let name = names::work(&entry.run_key, launch.try_);
        let over = self.stop_reason(entry, None).or_else(|| self.start_by_passed().then_some(Reason::StartByPassed));
        match schedule {
            Schedule::Foreign(why) => self.finish(entry, None, None, &not_launched(Reason::LaunchConflict, why), LogNeed::None),
            // the name is occupied either way: a request that is still on its way cannot launch any more
            Schedule::Absent => match self.held_again() {
                Some(Held::Wait(reason, why)) if over.is_none() => self.keep(reason, &why, Step::Nothing, WAIT),
                Some(Held::Prepare(step)) if over.is_none() => self.going_on(step),
                held => {
                    let step = Step::CreateSchedule { phase, name, enabled: over.is_none() && held.is_none() };
                    self.keep(Reason::Launching, &format!("{phase} is being launched"), step, POLL)
                }
            },
            Schedule::Ours { id, enabled: true, due, .. } => {
                let (id, now) = (*id, self.now);
                self.change_launch(phase, |l| l.schedule = Some(id));
                if *due && over.is_none() {
                    return self.keep(Reason::Launching, &format!("{phase} is launched by schedule {id}"), Step::Nothing, POLL);
                }
                self.change_launch(phase, |l| {
                    l.missed_at.get_or_insert(now);
                });
                let missed = launch.missed_at.is_some_and(|at| now >= at + MISSED);
                let unwanted = over.is_some() || self.run.metadata.deletion_timestamp.is_some();
                let step = if missed || unwanted { Step::DisableSchedule { id } } else { Step::Nothing };
                let message = format!("schedule {id} has no job; looking again before anything else is done");
                self.keep(Reason::Launching, &message, step, POLL)
            }
            // it never fires; a job of a firing just before shows by the last look
            Schedule::Ours { id, enabled: false, .. } => {
                let (id, now) = (*id, self.now);
                self.change_launch(phase, |l| {
                    l.schedule = Some(id);
                    l.disabled_at.get_or_insert(now);
                });
                if launch.disabled_at.is_none_or(|at| now < at + SECOND_LOOK) {
                    let message = format!("schedule {id} is disabled and has no job; looking once more");
                    return self.keep(Reason::Launching, &message, Step::Nothing, POLL);
                }
                if let Some(reason) = over {
                    let what = if reason == Reason::StartByPassed { "startBy passed" } else { "cancelled" };
                    let why = format!("{what} before {phase} started");
                    return self.finish(entry, None, None, &not_launched(reason, &why), LogNeed::None);
                }
                if let Some(held) = self.held_again() {
                    return self.hold(phase, held);
                }
                let try_ = launch.try_ + 1;
                self.change_launch(phase, |l| {
                    *l = Launch { try_, intended_at: now, schedule: None, missed_at: None, disabled_at: None, ..l.clone() };
                });
                let step = Step::CreateSchedule { phase, name: names::work(&entry.run_key, try_), enabled: true };
                self.keep(
                    Reason::Launching,
                    &format!("schedule {id} missed its time and launched nothing; {phase} is issued again"),
                    step,
                    POLL,
                )
            }
        }
    }

    fn drive_direct_launch(self, entry: &PhaseStatus, launch: &Launch) -> Decision {
        let phase = entry.name;
        if self.now < launch.intended_at + SETTLE {
            return self.keep(Reason::Launching, &format!("looking for the job of {phase}"), Step::Nothing, POLL);
        }
        if self.status.cancel_requested_at.is_some() {
            let why = "the answer to the launch was lost, no job was found in ten minutes, and a person cancelled the run";
            let end = End::Stopped(Reason::Cancelled, why.into());
            let evidence = Evidence { end, summaries: BTreeMap::new(), reports: BTreeMap::new() };
            return self.finish(entry, None, None, &evidence, LogNeed::None);
        }
        let why = format!("the answer to the launch of {phase} was lost and no job was found; it is not launched again");
        self.keep(Reason::LaunchUnknown, &why, Step::Nothing, WAIT)
    }

    fn drive_gone(mut self, entry: &PhaseStatus, launch: &Launch) -> Decision {
        let now = self.now;
        self.change_launch(entry.name, |l| {
            l.missed_at.get_or_insert(now);
        });
        if launch.missed_at.is_some_and(|at| now >= at + GONE) {
            let end = End::Broken(Reason::JobLost, "the job vanished from the controller before its end was read".into());
            let evidence = Evidence { end, summaries: BTreeMap::new(), reports: BTreeMap::new() };
            return self.finish(entry, entry.started_at, None, &evidence, LogNeed::Needed);
        }
        self.keep(Reason::Running, "the controller does not know the job any more; looking again", Step::Nothing, WAIT)
    }

    fn drive_job(mut self, entry: &PhaseStatus, launch: &Launch, aap: &Aap) -> Decision {
        let Job::Found { id, url, started, mismatch, over, ending, surplus } = &aap.job else { return self.going_on(Step::Nothing) };
        let phase = entry.name;
        let schedule = match &aap.schedule {
            Schedule::Ours { id, try_, .. } => Some((*id, *try_)),
            Schedule::Absent | Schedule::Foreign(_) => None,
        };
        if let Some(entry) = self.status.of_mut(phase) {
            entry.executor = Some(Executor { kind: ExecutorKind::Job, id: id.to_string(), url: url.clone() });
            if let Some(launch) = &mut entry.launch {
                if let Some((id, try_)) = schedule {
                    (launch.schedule, launch.try_) = (Some(id), try_);
                }
                (launch.missed_at, launch.disabled_at) = (None, None);
            }
        }
        if let Some(surplus) = surplus {
            return self.keep(
                Reason::Running,
                "more than one job carries this run key; the later one is cancelled",
                Step::CancelJob { id: *surplus },
                POLL,
            );
        }
        if let Some(over) = over {
            let mut evidence = over.evidence.clone();
            if let Some(why) = mismatch {
                evidence.end = End::Stopped(Reason::LaunchMismatch, why.clone());
            } else {
                evidence = stopped_evidence(evidence, launch);
            }
            return self.finish(entry, *started, over.finished, &evidence, LogNeed::Needed);
        }
        if *ending {
            // the controller has not all of it yet; a moment later it has
            return self.keep(Reason::Running, &format!("{phase} runs as job {id}"), Step::Nothing, POLL);
        }
        let limit = started.map(|since| (since, self.run.spec.timeout(phase)));
        let stopping = if mismatch.is_some() {
            Some(Reason::LaunchMismatch)
        } else if started.is_none() && self.start_by_passed() {
            Some(Reason::StartByPassed)
        } else {
            self.stop_reason(entry, limit)
        };
        if let Some(reason) = stopping {
            self.mark_stopping(phase, reason);
            return self.stopping(reason, Step::CancelJob { id: *id });
        }
        self.keep(Reason::Running, &format!("{phase} runs as job {id}"), Step::Nothing, POLL)
    }

    /// Why what is on record must not be launched, or launched again, now. Its hosts may be another run's by now: what an earlier object
    /// of the run announced was taken up without them, because it may have been launched.
    fn held_again(&self) -> Option<Held> {
        self.held().or_else(|| self.hosts())
    }

    /// What of the ledger keeps the hosts from being worked on.
    fn hosts(&self) -> Option<Held> {
        match &self.seen.locks {
            LockFact::NotLooked => Some(Held::Prepare(Step::Nothing)),
            // what was entered before the busy host was met is given back, so that two runs never wait for each other
            LockFact::Seen { busy: Some(who), ours, .. } => {
                Some(Held::Busy(who.clone(), if *ours > 0 { Step::Unlock } else { Step::Nothing }))
            }
            LockFact::Seen { free: 1.., .. } => Some(Held::Prepare(Step::Lock)),
            LockFact::Seen { .. } => None,
        }
    }

    /// Why nothing may be launched now, whether or not its intent is on record.
    fn held(&self) -> Option<Held> {
        if self.run.metadata.deletion_timestamp.is_some() {
            Some(Held::Leave)
        } else if self.run.spec.suspend() {
            Some(Held::Wait(Reason::Suspended, "suspended; nothing is launched until spec.suspend is false".into()))
        } else {
            self.seen.paused.clone().map(|why| Held::Wait(Reason::Paused, why))
        }
    }

    /// Nothing of `phase` runs and nothing will: a run that is being deleted forgets it, so that one created again may go on from there.
    fn hold(mut self, phase: Phase, held: Held) -> Decision {
        match held {
            Held::Wait(reason, why) => self.keep(reason, &why, Step::Nothing, WAIT),
            Held::Busy(who, step) => self.keep(Reason::HostsBusy, &who, step, WAIT),
            Held::Prepare(step) => self.going_on(step),
            Held::Leave => {
                self.status.phases.retain(|p| p.name != phase);
                self.wait(Reason::Starting, &format!("{phase} was not launched; the run is being deleted"), SOON)
            }
        }
    }

    /// Why what runs must be stopped, if it must.
    fn stop_reason(&self, entry: &PhaseStatus, limit: Option<(Timestamp, SignedDuration)>) -> Option<Reason> {
        let on_record = entry.launch.as_ref().and_then(|l| l.stopping.as_deref()).and_then(Reason::parse);
        on_record
            .or_else(|| self.status.cancel_requested_at.map(|_| Reason::Cancelled))
            .or_else(|| limit.filter(|(since, length)| self.now >= *since + *length).map(|_| Reason::TimedOut))
    }

    fn mark_stopping(&mut self, phase: Phase, reason: Reason) {
        self.change_launch(phase, |l| {
            l.stopping.get_or_insert_with(|| reason.as_str().to_owned());
        });
    }

    fn stopping(mut self, reason: Reason, step: Step) -> Decision {
        self.status.state = State::Cancelling;
        let shown = if reason == Reason::TimedOut { Reason::TimingOut } else { Reason::Cancelling };
        let why = format!("being stopped: {}", reason.meaning());
        self.report(shown, &why, step, Some(POLL))
    }

    /// The executor is over, or never was: log, then record, then end.
    fn finish(
        self,
        entry: &PhaseStatus,
        started: Option<Timestamp>,
        finished: Option<Timestamp>,
        evidence: &Evidence,
        need: LogNeed,
    ) -> Decision {
        let phase = entry.name;
        let given_up = entry.launch.as_ref().and_then(|l| l.archiving_since).is_some_and(|at| self.now >= at + ARCHIVE_GRACE);
        let ended = finished.or(started).or(entry.launch.as_ref().map(|l| l.intended_at)).unwrap_or(self.now);
        let mut findings = None;
        let (log, note) = match (&self.seen.log, need) {
            (LogFact::Found(log, found), LogNeed::Needed) => {
                findings.clone_from(found);
                (Some(log.clone()), None)
            }
            (LogFact::Absent | LogFact::NotLooked, LogNeed::Needed) if !given_up => {
                return self.archiving(entry, ended, "the log is being archived", Step::ArchiveLog { phase }, SOON);
            }
            (LogFact::Unavailable(why), LogNeed::Needed) if !given_up => {
                let why = format!("the log cannot be archived yet: {why}");
                return self.archiving(entry, ended, &why, Step::ArchiveLog { phase }, WAIT);
            }
            (LogFact::Unavailable(why), LogNeed::Needed) => (None, Some(format!("; the log was not archived: {why}"))),
            (LogFact::Absent | LogFact::NotLooked, LogNeed::Needed) => {
                (None, Some("; the log was not archived: it could not be read in fifteen minutes".to_owned()))
            }
            (_, LogNeed::None) => (None, None),
        };
        let scope = match &self.seen.scope {
            ScopeFact::Fixed(_, hosts) => hosts.clone(),
            ScopeFact::NotLooked | ScopeFact::Resolved(_) => BTreeSet::new(),
        };
        let mut verdict = verdict::weigh(entry.name, &scope, self.seen.guard, evidence);
        let classification = verdict.explain(findings.as_ref());
        let message = format!("{}{}", verdict.message, note.unwrap_or_default());
        let executor = self.status.of(entry.name).and_then(|p| p.executor.clone());
        let mut record = self.blank_record(entry.name, &entry.run_key, verdict.result, verdict.reason, &message);
        record.executor = executor.filter(|_| !matches!(evidence.end, End::NotLaunched(..)));
        (record.started_at, record.finished_at) = (started, finished);
        (record.counts, record.hosts, record.log) = (verdict.counts, verdict.hosts, log);
        record.classification = classification;
        match &self.seen.record {
            RecordFact::Unavailable(_) if given_up => self.end(&record, false),
            RecordFact::Unavailable(why) => {
                let why = format!("the record cannot be written yet: {why}");
                self.archiving(entry, ended, &why, Step::Nothing, WAIT)
            }
            RecordFact::NotLooked | RecordFact::Absent | RecordFact::Found(_) => {
                self.archiving(entry, ended, "the record is being written", Step::PutRecord(Box::new(record)), SOON)
            }
        }
    }

    /// Log and record are on their way. Said only when it lasts: as a rule the end is written a moment later.
    fn archiving(mut self, entry: &PhaseStatus, ended: Timestamp, why: &str, step: Step, requeue: SignedDuration) -> Decision {
        let since = entry.launch.as_ref().and_then(|l| l.archiving_since);
        if since.is_none() && step != Step::Nothing && self.now < ended + ARCHIVE_SOON {
            return Decision { status: self.status, step, requeue: Some(requeue) };
        }
        let now = self.now;
        self.change_launch(entry.name, |l| {
            l.archiving_since.get_or_insert(now);
        });
        self.keep(Reason::Archiving, why, step, requeue)
    }

    /// This object launched nothing of `phase` and will not: record it, so that a run that Git creates again ends the same way. Without an
    /// answer of the controller nobody knows what an earlier object may have launched, and the record says so.
    fn refuse(self, phase: Phase, reason: Reason, why: &str) -> Decision {
        let hosts = match &self.seen.scope {
            ScopeFact::Fixed(_, hosts) => hosts.clone(),
            ScopeFact::NotLooked | ScopeFact::Resolved(_) => BTreeSet::new(),
        };
        let asked = !phase.is_change() || !matches!(self.seen.work, Work::NotLooked | Work::Unavailable(..));
        let why = if asked || why.ends_with(NOT_ASKED) { why.to_owned() } else { format!("{why}{NOT_ASKED}") };
        let verdict = verdict::weigh(phase, &hosts, self.seen.guard, &not_launched(reason, &why));
        let mut record = self.blank_record(phase, &self.key(phase), RunResult::Error, reason, &why);
        (record.counts, record.hosts) = (verdict.counts, verdict.hosts);
        record.finished_at = Some(self.now);
        match &self.seen.record {
            // announced first: a process that was about to launch can then record no intent any more
            RecordFact::Absent => Decision { step: Step::PutRecord(Box::new(record)), ..self.wait(reason, &why, SOON) },
            RecordFact::NotLooked | RecordFact::Found(_) | RecordFact::Unavailable(_) => self.going_on(Step::Nothing),
        }
    }

    fn blank_record(&self, phase: Phase, run_key: &str, result: RunResult, reason: Reason, message: &str) -> Record {
        let spec = &self.run.spec;
        Record {
            run_key: run_key.to_owned(),
            namespace: self.run.metadata.namespace.clone().unwrap_or_default(),
            name: self.run.metadata.name.clone().unwrap_or_default(),
            attempt: self.status.attempt.unwrap_or(1),
            connection: spec.connection.name.clone(),
            group: spec.group.clone(),
            desired_kernel: spec.desired_kernel.clone(),
            phase,
            result,
            reason: reason.as_str().to_owned(),
            message: message.to_owned(),
            executor: None,
            started_at: None,
            finished_at: None,
            counts: crate::api::patch_run::HostCounts::default(),
            hosts: vec![],
            log: None,
            classification: None,
        }
    }

    /// The phase is over, as its record says.
    fn end(mut self, record: &Record, adopted: bool) -> Decision {
        let phase = record.phase;
        let failed_hosts = record
            .hosts
            .iter()
            .filter(|h| !h.outcome.is_good())
            .take(NAMED)
            .map(|h| FailedHost { name: h.name.clone(), outcome: h.outcome, message: h.message.clone(), error_code: h.error_code.clone() })
            .collect();
        let launch = self.status.of(phase).and_then(|p| p.launch.clone());
        let entry = PhaseStatus {
            name: phase,
            run_key: record.run_key.clone(),
            result: Some(record.result),
            reason: Some(record.reason.clone()),
            message: Some(record.message.clone()),
            launch,
            executor: record.executor.clone(),
            started_at: record.started_at,
            finished_at: record.finished_at,
            hosts: Some(record.counts),
            failed_hosts,
            log: record.log.clone(),
            classification: record.classification.clone(),
            adopted: adopted.then_some(true),
        };
        match self.status.of_mut(phase) {
            Some(old) => *old = entry,
            None => self.status.phases.push(entry),
        }
        self.status.phase = Some(phase);
        let good = record.hosts.iter().filter(|h| h.outcome.is_good()).count();
        self.status.hosts = Some(format!("{good}/{}", record.hosts.len()));
        if let Some(log) = &record.log {
            self.status.log_url = Some(format!("{}/api/logs/{}", self.seen.server_url, log.id));
        }
        let last = self.run.spec.phases.last() == Some(&phase);
        let reason = Reason::parse(&record.reason).unwrap_or(Reason::JobError);
        match (record.result, last) {
            (RunResult::Ok, false) => {
                self.status.state = State::Running;
                self.report(Reason::Running, &format!("{phase} ended OK"), Step::Nothing, Some(SOON))
            }
            (result, _) => {
                self.status.state = State::Completed;
                self.status.result = Some(result);
                self.status.error_code = record.classification.as_ref().map(|c| c.error_code.clone());
                let message = format!("{phase}: {}", record.message);
                self.report(reason, &message, Step::Nothing, Some(SOON))
            }
        }
    }

    /// Nothing of the phase is launched; it waits.
    fn wait(mut self, reason: Reason, why: &str, requeue: SignedDuration) -> Decision {
        let for_credentials = matches!(reason, Reason::AwaitingCredentials | Reason::CredentialsRejected);
        self.status.state = if for_credentials { State::AwaitingCredentials } else { State::Pending };
        if let Some(phase) = phase_in_question(self.run, &self.status) {
            self.status.phase = Some(phase);
        }
        self.report(reason, why, Step::Nothing, Some(requeue))
    }

    /// A phase is under way; `reason` says how.
    fn keep(mut self, reason: Reason, why: &str, step: Step, requeue: SignedDuration) -> Decision {
        if self.status.state != State::Cancelling {
            self.status.state = State::Running;
        }
        self.report(reason, why, step, Some(requeue))
    }

    /// A preparatory step: nothing to tell yet.
    fn going_on(mut self, step: Step) -> Decision {
        if conditions::find(&self.status.conditions, types::SUCCEEDED).is_none_or(|c| c.status != "Unknown") {
            return self.report(Reason::Starting, "what the run needs is being looked up", step, Some(SOON));
        }
        self.status.observed_generation = self.run.metadata.generation;
        Decision { status: self.status, step, requeue: Some(SOON) }
    }

    fn report(mut self, reason: Reason, message: &str, step: Step, requeue: Option<SignedDuration>) -> Decision {
        let message = verdict_clip(message);
        let result = self.status.result;
        let mut list = Conditions::of(&mut self.status.conditions, self.run.metadata.generation, self.now);
        let succeeded = match result {
            None => conditions::State::Unknown,
            Some(RunResult::Ok) => conditions::State::True,
            Some(RunResult::Error) => conditions::State::False,
        };
        list.set(types::SUCCEEDED, succeeded, reason.as_str(), &message);
        list.set(types::COMPLETED, result.is_some().into(), reason.as_str(), &message);
        if result.is_some() {
            list.clear(types::RECONCILING);
        } else {
            list.set(types::RECONCILING, conditions::State::True, reason.as_str(), &message);
        }
        if result == Some(RunResult::Error) {
            list.set(types::STALLED, conditions::State::True, reason.as_str(), &message);
        } else {
            list.clear(types::STALLED);
        }
        Decision { status: self.status, step, requeue }
    }

    fn key(&self, phase: Phase) -> String {
        names::phase_key(self.status.run_key.as_deref().unwrap_or(&self.seen.run_key), phase)
    }

    fn start_by_passed(&self) -> bool {
        self.run.spec.start_by.is_some_and(|by| self.now >= by)
    }

    fn change_launch(&mut self, phase: Phase, change: impl FnOnce(&mut Launch)) {
        if let Some(launch) = self.status.of_mut(phase).and_then(|p| p.launch.as_mut()) {
            change(launch);
        }
    }

    /// What differs between the pins on record and those a launch now would get.
    fn pins_differ(&self, phase: Phase, pins: &Pinned) -> Option<String> {
        let pinned = self.status.pinned.as_ref()?;
        if pinned.install_uuid != pins.install_uuid {
            return Some("the connection leads to another controller than the one this run was launched on".into());
        }
        if pinned.inventory != pins.inventory {
            return Some(format!("the connection's inventory is {} now; this run was launched with {}", pins.inventory, pinned.inventory));
        }
        let (old, new) = (template(pinned, phase), template(pins, phase));
        match (old, new) {
            (Some(old), Some(new)) if old != new => Some(format!("the template of {phase} is {new} now; this run was launched with {old}")),
            _ => None,
        }
    }
}

/// What keeps a launch from being made.
enum Held {
    /// Something that passes.
    Wait(Reason, String),
    /// A host is in another run: which, and what to give back meanwhile.
    Busy(String, Step),
    /// The hosts are not looked at or not entered yet: the step towards that.
    Prepare(Step),
    /// The object is being deleted.
    Leave,
}

/// Whether a phase's end needs its log.
#[derive(Clone, Copy)]
enum LogNeed {
    /// Nothing ran.
    None,
    /// Something ran.
    Needed,
}

/// The pinned template of a phase.
pub fn template(pins: &Pinned, phase: Phase) -> Option<i64> {
    match phase {
        Phase::Stage => pins.stage,
        Phase::Apply => pins.apply,
        Phase::Reboot => pins.reboot,
        Phase::Precheck | Phase::Postcheck => None,
    }
}

fn not_launched(reason: Reason, why: &str) -> Evidence {
    Evidence { end: End::NotLaunched(reason, why.to_owned()), summaries: BTreeMap::new(), reports: BTreeMap::new() }
}

/// What was stopped by us says why, whatever the executor calls it. A job that beat the stop keeps its true end.
fn stopped_evidence(mut evidence: Evidence, launch: &Launch) -> Evidence {
    let reason = launch.stopping.as_deref().and_then(Reason::parse);
    if let (Some(reason), true) = (reason, matches!(evidence.end, End::Stopped(..) | End::Failed(_) | End::Broken(..))) {
        evidence.end = End::Stopped(reason, reason.meaning().to_owned());
    }
    evidence
}

fn pipeline_run(run_key: &str, try_: i32) -> Executor {
    Executor { kind: ExecutorKind::PipelineRun, id: names::work(run_key, try_), url: None }
}

/// Bounds a condition's message.
fn verdict_clip(message: &str) -> String {
    message.chars().take(1000).collect()
}

/// The outcome of a direct launch, where it is known at once, as the status will say it.
pub fn after_launch(run: &PatchRun, phase: Phase, mut status: PatchRunStatus, outcome: &LaunchOutcome) -> Option<PatchRunStatus> {
    let entry = status.of_mut(phase)?;
    match outcome {
        LaunchOutcome::Created { id, ignored } => {
            entry.executor = Some(Executor { kind: ExecutorKind::Job, id: id.to_string(), url: None });
            if !ignored.is_empty() {
                // what the job does is not what was asked for: it is stopped whatever it looks like
                if let Some(launch) = &mut entry.launch {
                    launch.stopping = Some(Reason::LaunchMismatch.as_str().to_owned());
                }
                status.state = State::Cancelling;
            }
            Some(status)
        }
        // provably nothing was launched: as if the phase had not begun, with what the controller said on record
        LaunchOutcome::Refused(reason, why) => {
            let waiting = verdict_clip(why);
            status.phases.retain(|p| p.name != phase);
            status.state = State::Pending;
            let now = conditions::find(&status.conditions, types::SUCCEEDED).map_or(Timestamp::UNIX_EPOCH, |c| c.last_transition_time.0);
            let mut list = Conditions::of(&mut status.conditions, run.metadata.generation, now);
            for type_ in [types::SUCCEEDED, types::COMPLETED, types::RECONCILING] {
                let state = match type_ {
                    types::SUCCEEDED => conditions::State::Unknown,
                    types::COMPLETED => conditions::State::False,
                    _ => conditions::State::True,
                };
                list.set(type_, state, reason.as_str(), &waiting);
            }
            Some(status)
        }
        LaunchOutcome::Unknown(_) => None,
    }
}

#[cfg(test)]
mod tests;
