//! The world around a run, as small as it can be: the object, AAP, Tekton, archive, ledger, and one process that was paused.
//!
//! `look` is `observe.rs`, `carry_out` is `act.rs`, over this world; `decide` is the real one.

use std::collections::BTreeSet;

use fettle::{
    api::{
        automation_connection::GuardPolicy,
        patch_run::{PatchRun, PatchRunStatus, Phase, Pinned, RunResult, ScopeStatus, State},
        reason::Reason,
    },
    archive::record::Record,
    controllers::patch_run::{
        decide::{self, Gate, LaunchOutcome, LockFact, LogFact, Observed, Pipeline, RecordFact, ScopeFact, ScopePlan, Step, Work},
        verdict::{End, Evidence, Report, Summary},
    },
    names,
};
use jiff::{SignedDuration, Timestamp};

/// One step of time: longer than every patience of a decision.
const TICK: SignedDuration = SignedDuration::from_mins(16);
const HOST: &str = "web-1";

/// The time at a tick.
pub fn at(tick: u8) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 50) + TICK * i32::from(tick)
}

/// What a family of searches has in common.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: &'static str,
    pub phases: &'static [Phase],
    /// No change starts from this tick on.
    pub start_by: u8,
    /// Time stands still from this tick on.
    pub horizon: u8,
    pub direct: bool,
    pub budget: Budget,
}

/// How often each disturbance may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The process dies between commit and act, or a step is not delivered.
    pub crash: u8,
    /// A request that creates something is under way for any length of time.
    pub late: u8,
    /// A process is paused: after reading, after deciding, after committing, before it hears the answer.
    pub pause: u8,
    pub cancel: u8,
    pub suspend: u8,
    pub delete: u8,
    /// Somebody takes the finalizer off by force.
    pub force: u8,
    pub recreate: u8,
    pub attempt: u8,
    /// Credentials, controller, archive, log of the job: gone and back.
    pub outage: u8,
    /// Another run takes a host.
    pub rival: u8,
    /// The controller's scheduler misses a schedule's time.
    pub miss: u8,
    /// A job or check ends badly, is cancelled by somebody else, or vanishes.
    pub bad: u8,
}

/// The PatchRun as the API server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Which life it is in: the uid.
    pub life: u8,
    pub generation: u8,
    pub suspend: bool,
    pub cancel: bool,
    pub attempt: u8,
    pub finalizer: bool,
    pub deleting: bool,
    /// Number of the status; 0 is none.
    pub status: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sched {
    pub enabled: bool,
    pub due: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    Pending,
    Running,
    Good,
    Bad,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// Which try launched it; 0 is a direct launch.
    pub try_: u8,
    pub how: How,
    pub started: Option<u8>,
    pub finished: u8,
    /// A cancel was accepted.
    pub cancel: bool,
    /// It was deleted since.
    pub gone: bool,
}

impl Task {
    pub fn is_over(&self) -> bool {
        self.gone || !matches!(self.how, How::Pending | How::Running)
    }
}

/// What exists of one phase of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Work1 {
    pub schedules: [Option<Sched>; 3],
    pub jobs: [Option<Task>; 3],
    /// PipelineRuns by try.
    pub checks: [Option<Task>; 3],
    pub log: bool,
    /// Number of the record; 0 is none.
    pub record: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Free,
    Ours(u8),
    Rival,
}

/// A request that creates something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Schedule { at: usize, try_: u8, enabled: bool },
    Launch { at: usize },
    Check { at: usize, try_: u8 },
}

/// What a process that was paused holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Paused {
    Read(Object),
    Decided(Object, Choice),
    Committed(Object, Choice),
    /// The answer to a direct launch is not read yet.
    Answer(Object, Choice),
}

/// A decision by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    pub status: u32,
    pub step: u32,
    pub requeue: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub tick: u8,
    pub object: Option<Object>,
    pub lives: u8,
    pub work: Vec<Work1>,
    pub scope: [bool; 2],
    pub ledger: [Entry; 2],
    pub credentials: bool,
    pub controller: bool,
    pub archive: bool,
    /// Whether the output of jobs can be read.
    pub output: bool,
    pub flight: Option<Request>,
    pub paused: Option<Paused>,
    pub budget: Budget,
}

/// What was seen, by numbers: the key of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    attempt: u8,
    gate: u8,
    /// 0 not looked, 1 absent, 2 unavailable, 3… found.
    record: u32,
    /// 0 not looked, 1 absent, 2 unavailable, 3 found.
    log: u8,
    /// 0 not looked, 1 resolved, 2 fixed.
    scope: u8,
    locks: Option<(u8, u8, bool)>,
    work: WorkFact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum WorkFact {
    NotLooked,
    Unavailable,
    Check(Option<Task>),
    Aap { schedule: Option<(u8, Sched)>, job: JobFact, baseline: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum JobFact {
    NotFound,
    Gone,
    Found(u8, Task),
}

impl World {
    pub fn new(plan: &Plan) -> Self {
        Self {
            tick: 0,
            object: Some(Object {
                life: 1,
                generation: 1,
                suspend: false,
                cancel: false,
                attempt: 1,
                finalizer: false,
                deleting: false,
                status: 0,
            }),
            lives: 1,
            work: vec![Work1::default(); plan.phases.len() * 2],
            scope: [false; 2],
            ledger: [Entry::Free; 2],
            credentials: true,
            controller: true,
            archive: true,
            output: true,
            flight: None,
            paused: None,
            budget: plan.budget,
        }
    }

    /// Jobs of a phase that were created and may touch a host, over all tries.
    pub fn executing(&self, at: usize) -> impl Iterator<Item = &Task> {
        self.work[at].jobs.iter().flatten().filter(|job| !job.is_over())
    }
}

/// Statuses, steps and records by number.
pub struct Numbers {
    pub statuses: Vec<PatchRunStatus>,
    pub steps: Vec<Step>,
    pub records: Vec<Record>,
    ids: std::collections::BTreeMap<String, u32>,
    #[expect(clippy::disallowed_types, reason = "looked up only, never iterated")]
    briefs: std::cell::RefCell<std::collections::HashMap<Object, Brief>>,
}

impl Numbers {
    pub fn new() -> Self {
        Self {
            statuses: vec![PatchRunStatus::default()],
            steps: vec![Step::Nothing],
            records: vec![],
            ids: std::collections::BTreeMap::new(),
            briefs: std::cell::RefCell::default(),
        }
    }

    pub fn status(&mut self, status: PatchRunStatus) -> u32 {
        let text = format!("{status:?}");
        if let Some(id) = self.ids.get(&text) {
            return *id;
        }
        self.statuses.push(status);
        self.keep(text, self.statuses.len() - 1)
    }

    pub fn step(&mut self, step: Step) -> u32 {
        let text = format!("step {step:?}");
        if let Some(id) = self.ids.get(&text) {
            return *id;
        }
        self.steps.push(step);
        self.keep(text, self.steps.len() - 1)
    }

    /// Records count from 3, so that they fit beside the other answers of the archive.
    pub fn record(&mut self, record: &Record) -> u32 {
        let text = format!("{record:?}");
        if let Some(id) = self.ids.get(&text) {
            return *id;
        }
        self.records.push(record.clone());
        self.keep(text, self.records.len() + 2)
    }

    fn keep(&mut self, text: String, id: usize) -> u32 {
        let id = u32::try_from(id).unwrap();
        self.ids.insert(text, id);
        id
    }
}

/// The PatchRun an object stands for.
pub fn patch_run(plan: &Plan, object: &Object, numbers: &Numbers) -> PatchRun {
    let spec = serde_json::json!({
        "connection": {"name": "prod"}, "hosts": [HOST], "desiredKernel": "6.1.0-53-cloud-amd64", "phases": plan.phases,
        "startBy": at(plan.start_by), "timeouts": {"precheck": "15m", "stage": "30m", "apply": "30m", "reboot": "30m", "postcheck": "15m"},
        "suspend": object.suspend, "cancel": object.cancel, "attempt": object.attempt,
    });
    let mut run = PatchRun::new("web", serde_json::from_value(spec).unwrap());
    run.metadata.namespace = Some("patching".into());
    run.metadata.uid = Some(format!("uid-{}", object.life));
    run.metadata.generation = Some(object.generation.into());
    if object.finalizer {
        run.metadata.finalizers = Some(vec![names::FINALIZER.into()]);
    }
    if object.deleting {
        run.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    }
    if object.status > 0 {
        run.status = Some(numbers.statuses[object.status as usize].clone());
    }
    run
}

/// Where the phase in question stands in `World::work`.
pub fn slot(plan: &Plan, attempt: u8, phase: Phase) -> usize {
    usize::from(attempt - 1) * plan.phases.len() + plan.phases.iter().position(|p| *p == phase).unwrap()
}

/// Attempt and phase of a slot.
pub fn of_slot(plan: &Plan, at: usize) -> (u8, Phase) {
    (u8::try_from(at / plan.phases.len()).unwrap() + 1, plan.phases[at % plan.phases.len()])
}

fn run_key(attempt: u8) -> String {
    format!("v1-aaaaaaaaaaaaaaaaaaa{}", char::from(b'a' + attempt))
}

fn try_of(name: &str) -> u8 {
    name.rsplit_once("-try").map_or(1, |(_, try_)| try_.parse().unwrap())
}

/// What a look needs to know of an object.
#[derive(Clone, Copy)]
pub struct Brief {
    attempt: u8,
    phase: Option<Phase>,
    launch: Option<BriefLaunch>,
    has_entry: bool,
}

#[derive(Clone, Copy)]
struct BriefLaunch {
    try_: u8,
    baseline: bool,
    stopping: bool,
    job: Option<usize>,
}

pub fn brief(plan: &Plan, object: &Object, numbers: &Numbers) -> Brief {
    if let Some(brief) = numbers.briefs.borrow().get(object) {
        return *brief;
    }
    let run = patch_run(plan, object, numbers);
    let status = decide::current(&run);
    let phase = decide::phase_in_question(&run, &status);
    let entry = phase.and_then(|p| status.of(p));
    let launch = entry.and_then(|e| {
        let launch = e.launch.as_ref()?;
        Some(BriefLaunch {
            try_: u8::try_from(launch.try_).unwrap(),
            baseline: launch.baseline.is_some(),
            stopping: launch.stopping.is_some(),
            job: e.executor.as_ref().and_then(|e| e.id.parse().ok()),
        })
    });
    let brief = Brief { attempt: u8::try_from(decide::attempt(&run)).unwrap(), phase, launch, has_entry: entry.is_some() };
    numbers.briefs.borrow_mut().insert(*object, brief);
    brief
}

/// `observe.rs` over this world.
pub fn look(plan: &Plan, world: &World, object: &Object, numbers: &Numbers) -> Facts {
    let Brief { attempt, phase, launch, has_entry } = brief(plan, object, numbers);
    let mut facts = Facts { attempt, gate: 0, record: 0, log: 0, scope: 0, locks: None, work: WorkFact::NotLooked };
    let scope = world.scope[usize::from(attempt - 1)];
    let locks = || {
        let count = |wanted: Entry| u8::try_from(world.ledger.iter().filter(|e| **e == wanted).count()).unwrap();
        let (ours, free) = (count(Entry::Ours(attempt)), count(Entry::Free));
        Some((ours, free, ours + free < 2))
    };
    let Some(phase) = phase else {
        if object.finalizer {
            facts.scope = if scope { 2 } else { 0 };
            facts.locks = if scope { locks() } else { Some((0, 0, false)) };
        }
        return facts;
    };
    let work = &world.work[slot(plan, attempt, phase)];
    let record = if world.archive { if work.record == 0 { 1 } else { work.record } } else { 2 };
    match has_entry {
        false if object.deleting => {
            if object.finalizer {
                facts.scope = if scope { 2 } else { 0 };
                facts.locks = if scope { locks() } else { Some((0, 0, false)) };
            }
        }
        false => {
            facts.record = record;
            if record != 1 || (object.suspend && !phase.is_change()) {
                return facts;
            }
            facts.scope = if scope { 2 } else { 0 };
            if !phase.is_change() {
                facts.work = WorkFact::Check(None);
            } else if !world.credentials {
                facts.gate = 1;
            } else if !world.controller {
                facts.gate = 2;
            } else {
                facts.work = by_schedule(work, 1, plan.direct);
            }
            if object.suspend {
                return facts;
            }
            if facts.scope == 0 && facts.gate == 0 {
                facts.scope = 1;
            }
            if facts.scope == 2 {
                facts.locks = locks();
            }
        }
        true => {
            let Some(launch) = launch else { return facts };
            facts.scope = 2;
            let try_ = launch.try_;
            let ended = if phase.is_change() {
                facts.work = match launch.job {
                    _ if !world.controller => WorkFact::Unavailable,
                    None if !world.credentials => WorkFact::Unavailable,
                    Some(id) => {
                        let job = work.jobs[id - 1].unwrap();
                        let job = if job.gone { JobFact::Gone } else { found(id, job) };
                        WorkFact::Aap { schedule: None, job, baseline: false }
                    }
                    None if launch.baseline => {
                        let job = work.jobs[0].filter(|j| !j.gone).map_or(JobFact::NotFound, |job| found(1, job));
                        WorkFact::Aap { schedule: None, job, baseline: false }
                    }
                    None => by_schedule(work, try_, false),
                };
                match facts.work {
                    WorkFact::Aap { job: JobFact::Found(_, job), .. } => job.is_over(),
                    WorkFact::Aap { .. } => true,
                    WorkFact::NotLooked | WorkFact::Unavailable | WorkFact::Check(_) => false,
                }
            } else {
                let check = work.checks[usize::from(try_ - 1)].filter(|c| !c.gone);
                facts.work = WorkFact::Check(check);
                check.is_none_or(|c| c.is_over()) || launch.stopping || object.cancel
            };
            if ended {
                facts.log = if world.archive { if work.log { 3 } else { 1 } } else { 2 };
                facts.record = record;
            }
        }
    }
    facts
}

fn found(id: usize, job: Task) -> JobFact {
    JobFact::Found(u8::try_from(id).unwrap(), job)
}

fn by_schedule(work: &Work1, try_: u8, baseline: bool) -> WorkFact {
    let schedule = work.schedules[usize::from(try_ - 1)];
    let job = work
        .jobs
        .iter()
        .enumerate()
        .find_map(|(i, job)| job.filter(|j| schedule.is_some() && j.try_ == try_ && !j.gone).map(|j| found(i + 1, j)));
    WorkFact::Aap { schedule: schedule.map(|s| (try_, s)), job: job.unwrap_or(JobFact::NotFound), baseline }
}

/// The facts as `decide` takes them.
pub fn observed(facts: &Facts, numbers: &Numbers, plan: &Plan) -> Observed {
    let key = run_key(facts.attempt);
    let scope = ScopeStatus { config_map: names::scope(&key), hosts: 1, digest: "d".into(), ledger: "uuid".into(), excluded: vec![] };
    let pins = Pinned { install_uuid: "uuid".into(), inventory: 1, stage: None, apply: None, reboot: None };
    Observed {
        run_key: key.clone(),
        server_url: "https://fettle".into(),
        paused: false,
        namespace_going: false,
        gate: match facts.gate {
            0 => Gate::Open,
            1 => Gate::Wait(Reason::AwaitingCredentials, "no secret".into()),
            _ => Gate::Wait(Reason::ControllerUnreachable, "no answer".into()),
        },
        record: match facts.record {
            0 => RecordFact::NotLooked,
            1 => RecordFact::Absent,
            2 => RecordFact::Unavailable("down".into()),
            id => RecordFact::Found(Box::new(numbers.records[id as usize - 3].clone())),
        },
        log: match facts.log {
            0 => LogFact::NotLooked,
            1 => LogFact::Absent,
            2 => LogFact::Unavailable("down".into()),
            _ => LogFact::Found(fettle::api::patch_run::LogRef { id: "log".into(), size: 1, sha256: "s".into() }),
        },
        scope: match facts.scope {
            0 => ScopeFact::NotLooked,
            1 => ScopeFact::Resolved(Box::new(ScopePlan { status: scope, hosts: std::collections::BTreeMap::new() })),
            _ => ScopeFact::Fixed(scope, BTreeSet::from([HOST.to_owned()])),
        },
        locks: match facts.locks {
            None => LockFact::NotLooked,
            Some((ours, free, busy)) => {
                LockFact::Seen { ours: ours.into(), free: free.into(), busy: busy.then(|| "a host is busy".to_owned()) }
            }
        },
        work: match facts.work {
            WorkFact::NotLooked => Work::NotLooked,
            WorkFact::Unavailable => Work::Unavailable(Reason::ControllerUnreachable, "no answer".into()),
            WorkFact::Check(None) => Work::Tekton(Pipeline::Absent),
            WorkFact::Check(Some(check)) if !check.is_over() => Work::Tekton(Pipeline::Active { started: check.started.map(at) }),
            WorkFact::Check(Some(check)) => Work::Tekton(Pipeline::Over {
                started: check.started.map(at),
                finished: Some(at(check.finished)),
                evidence: Box::new(evidence(check.how)),
                // "bad" is the platform's failure for a check
                infrastructure: (check.how == How::Bad).then(|| "image pull".to_owned()),
            }),
            WorkFact::Aap { schedule, job, baseline } => Work::Aap(Box::new(decide::Aap {
                pins: Pinned { apply: plan.phases.contains(&Phase::Apply).then_some(7), ..pins },
                started: false,
                schedule: schedule.map_or(decide::Schedule::Absent, |(try_, s)| decide::Schedule::Ours {
                    id: try_.into(),
                    enabled: s.enabled,
                    due: s.enabled && s.due,
                }),
                job: match job {
                    JobFact::NotFound => decide::Job::NotFound,
                    JobFact::Gone => decide::Job::Gone,
                    JobFact::Found(id, job) => decide::Job::Found {
                        id: id.into(),
                        url: None,
                        started: job.started.map(at),
                        mismatch: None,
                        over: job
                            .is_over()
                            .then(|| Box::new(decide::Over { finished: Some(at(job.finished)), evidence: evidence(job.how) })),
                        ending: false,
                        surplus: None,
                    },
                },
                baseline: baseline.then_some(0),
            })),
        },
        guard: GuardPolicy::Required,
    }
}

/// Whether the facts let a change phase be launched at all.
pub fn can_launch(facts: &Facts) -> bool {
    facts.gate == 0 && matches!(facts.work, WorkFact::Aap { .. } | WorkFact::Check(_))
}

fn evidence(how: How) -> Evidence {
    let summary = |failures| (HOST.to_owned(), Summary { ok: 1, failures, ..Summary::default() });
    let report = (HOST.to_owned(), Report { guard: Some("executed".into()), ok: Some(true), ..Report::default() });
    let (end, summaries) = match how {
        How::Good => (End::Succeeded, vec![summary(0)]),
        How::Bad => (End::Failed("failed".into()), vec![summary(1)]),
        How::Cancelled | How::Pending | How::Running => (End::Stopped(Reason::CancelledElsewhere, "cancelled".into()), vec![]),
    };
    Evidence { end, summaries: summaries.into_iter().collect(), reports: [report].into() }
}

/// `act.rs` over this world. A request that creates something is returned instead of carried out: its fate is a move of its own.
pub fn carry_out(
    plan: &Plan,
    world: &mut World,
    object: &Object,
    step: &Step,
    facts_attempt: u8,
    numbers: &mut Numbers,
) -> Option<Request> {
    let me = usize::from(facts_attempt - 1);
    match step {
        Step::Nothing => {}
        Step::Finalizer(on) => {
            if let Some(there) = &mut world.object
                && there.life == object.life
                && (!*on || !there.deleting)
            {
                there.finalizer = *on;
                if there.deleting && !there.finalizer {
                    world.object = None;
                }
            }
        }
        Step::CreateScope(_) => world.scope[me] = true,
        Step::Lock => {
            // shard by shard, up to the first that is taken
            for entry in &mut world.ledger {
                match *entry {
                    Entry::Free => *entry = Entry::Ours(facts_attempt),
                    Entry::Ours(attempt) if attempt == facts_attempt => {}
                    Entry::Ours(_) | Entry::Rival => break,
                }
            }
        }
        Step::Unlock => {
            for entry in &mut world.ledger {
                if *entry == Entry::Ours(facts_attempt) {
                    *entry = Entry::Free;
                }
            }
        }
        Step::CreatePipelineRun { phase, name } => {
            return Some(Request::Check { at: slot(plan, facts_attempt, *phase), try_: try_of(name) });
        }
        Step::CreateSchedule { phase, name, enabled } => {
            return Some(Request::Schedule { at: slot(plan, facts_attempt, *phase), try_: try_of(name), enabled: *enabled });
        }
        Step::Launch { phase } => return Some(Request::Launch { at: slot(plan, facts_attempt, *phase) }),
        Step::CancelPipelineRun { name } => {
            let try_ = usize::from(try_of(name));
            for (at, work) in world.work.iter_mut().enumerate() {
                let (attempt, phase) = of_slot(plan, at);
                if name.contains(&names::phase_key(&run_key(attempt), phase))
                    && let Some(check) = &mut work.checks[try_ - 1]
                {
                    check.cancel |= !check.is_over();
                }
            }
        }
        Step::DisableSchedule { id } => {
            let at = current_change(plan, object, numbers);
            if let (Some(at), true, true) = (at, world.controller, world.credentials)
                && let Some(schedule) = &mut world.work[at].schedules[usize::try_from(*id).unwrap() - 1]
            {
                schedule.enabled = false;
            }
        }
        Step::CancelJob { id } => {
            let at = current_change(plan, object, numbers);
            if let (Some(at), true, true) = (at, world.controller, world.credentials)
                && let Some(job) = &mut world.work[at].jobs[usize::try_from(*id).unwrap() - 1]
            {
                job.cancel |= !job.is_over();
            }
        }
        Step::ArchiveLog { phase } => {
            let work = &mut world.work[slot(plan, facts_attempt, *phase)];
            work.log |= world.archive && (world.output || !phase.is_change()) && work.record == 0;
        }
        Step::PutRecord(record) => {
            let work = &mut world.work[slot(plan, facts_attempt, record.phase)];
            if world.archive && work.record == 0 && (record.log.is_none() || work.log) {
                work.record = numbers.record(record);
            }
        }
    }
    None
}

fn current_change(plan: &Plan, object: &Object, numbers: &Numbers) -> Option<usize> {
    let brief = brief(plan, object, numbers);
    Some(slot(plan, brief.attempt, brief.phase?))
}

/// A request reaches its server. `late`: after the moment it was meant for.
pub fn arrive(world: &mut World, request: Request, late: bool) -> Option<LaunchOutcome> {
    match request {
        Request::Schedule { at, try_, enabled } => {
            // a name is taken once
            world.work[at].schedules[usize::from(try_ - 1)].get_or_insert(Sched { enabled: true, due: enabled && !late });
            None
        }
        Request::Check { at, try_ } => {
            let fresh = Task { try_, how: How::Running, started: Some(world.tick), finished: 0, cancel: false, gone: false };
            world.work[at].checks[usize::from(try_ - 1)].get_or_insert(fresh);
            None
        }
        Request::Launch { at } => new_job(world, at, 0).map(|id| LaunchOutcome::Created { id: i64::from(id), ignored: vec![] }),
    }
}

/// A job row is created; its number, from 1.
pub fn new_job(world: &mut World, at: usize, try_: u8) -> Option<u8> {
    let jobs = &mut world.work[at].jobs;
    let free = jobs.iter().position(Option::is_none)?;
    jobs[free] = Some(Task { try_, how: How::Pending, started: None, finished: 0, cancel: false, gone: false });
    Some(u8::try_from(free).unwrap() + 1)
}

/// Whether the object's run is over and holds nothing any more.
pub fn is_settled(world: &World, numbers: &Numbers, wanted_too: bool) -> bool {
    world.object.is_none_or(|object| {
        let status = &numbers.statuses[object.status as usize];
        let attempt = status.attempt.unwrap_or(0);
        status.state == State::Completed && !object.finalizer && (!wanted_too || attempt >= i32::from(object.attempt))
    })
}

/// Whether a status says that a phase is over.
pub fn results(status: &PatchRunStatus) -> impl Iterator<Item = (Phase, RunResult, Option<&str>)> {
    status.phases.iter().filter_map(|p| Some((p.name, p.result?, p.message.as_deref())))
}
