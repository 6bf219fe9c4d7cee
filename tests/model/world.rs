//! The world around a run, as small as it can be: the object, AAP, Tekton, archive, ledger, a backup, and one process that was paused.
//!
//! `look` is `observe.rs`, `carry_out` is `act.rs`, over this world; `decide` is the real one.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher as _},
    rc::Rc,
};

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

use crate::simulate::Planted;

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
    pub planted: Planted,
}

impl Plan {
    /// Whether a launch may be direct.
    pub fn may_be_direct(&self) -> bool {
        self.direct || self.budget.switch > 0
    }

    /// Whether a job may start, or work on, after its run was made to let go of its hosts.
    pub fn may_lose_hold(&self) -> bool {
        self.may_be_direct() || self.budget.force > 0 || self.budget.restore > 0 || self.budget.namespace > 0
    }
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
    /// The cluster's memory goes back to a backup.
    pub restore: u8,
    /// The namespace is deleted.
    pub namespace: u8,
    /// The scope is deleted.
    pub lose: u8,
    /// Launches are paused for the whole operator.
    pub halt: u8,
    /// The connection's launch mode is changed.
    pub switch: u8,
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
    pub status: u64,
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
    /// A check ended well, whatever became of its PipelineRun.
    pub checked: bool,
    /// The mark of a direct launch.
    pub started: bool,
    pub log: bool,
    /// Number of the record; 0 is none.
    pub record: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Free,
    /// Attempt, and what tells an entry from a later one of the same run.
    Ours(u8, u8),
    Rival,
}

/// A request that creates something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Schedule {
        at: usize,
        try_: u8,
        /// Whether it may fire when it arrives: it is asked for, and its time is not over.
        enabled: bool,
    },
    Launch {
        at: usize,
    },
    Check {
        at: usize,
        try_: u8,
    },
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
    pub status: u64,
    pub step: u64,
    pub requeue: bool,
    /// What of the ledger an unlock was decided for.
    pub entries: [Option<u8>; 2],
    /// Whether it is a lock.
    pub is_lock: bool,
    /// Whether a lock was decided for an entry that was changed since.
    pub stale: [bool; 2],
}

/// What a cluster remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    pub object: Option<Object>,
    pub checks: Vec<[Option<Task>; 3]>,
    pub scope: [bool; 2],
    pub ledger: [Entry; 2],
    pub connection: bool,
    pub going: bool,
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
    /// Launches are paused for the whole operator.
    pub halted: bool,
    /// The connection asks for direct launches.
    pub direct: bool,
    /// The namespace is being deleted.
    pub going: bool,
    /// The connection exists.
    pub connection: bool,
    pub backup: Option<Rc<Memory>>,
    pub flight: Option<Request>,
    pub paused: Option<Paused>,
    pub budget: Budget,
}

/// What was seen, by numbers: the key of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    pub attempt: u8,
    pub halted: bool,
    going: bool,
    gate: u8,
    /// 0 not looked, 1 absent, 2 unavailable, else found.
    record: u64,
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
    Aap { schedule: Option<(u8, Sched)>, job: JobFact, baseline: Option<u8>, started: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum JobFact {
    NotFound,
    Gone,
    Found(u8, Task),
}

impl Facts {
    /// Whether they let a phase be launched at all.
    pub fn can_launch(&self) -> bool {
        self.gate == 0 && matches!(self.work, WorkFact::Aap { .. } | WorkFact::Check(_))
    }

    /// Whether the phase was launched, or may have been.
    pub fn finds_launch(&self) -> bool {
        matches!(self.work, WorkFact::Aap { schedule, job, started, .. } if started || schedule.is_some() || job != JobFact::NotFound)
    }

    /// Whether a job of the phase works on, and can be stopped.
    pub fn finds_work(&self) -> bool {
        !self.going && matches!(self.work, WorkFact::Aap { job: JobFact::Found(_, job), .. } if !job.is_over())
    }

    /// Whether the PipelineRun of the phase is there.
    pub fn finds_check(&self) -> bool {
        matches!(self.work, WorkFact::Check(Some(_)))
    }

    /// Whether the log of the phase is archived, or cannot be had.
    pub fn has_log(&self) -> bool {
        self.log > 1
    }
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
            halted: false,
            direct: plan.direct,
            going: false,
            connection: true,
            backup: None,
            flight: None,
            paused: None,
            budget: plan.budget,
        }
    }

    /// Jobs of a phase that were created and may touch a host, over all tries.
    pub fn executing(&self, at: usize) -> impl Iterator<Item = &Task> {
        self.work[at].jobs.iter().flatten().filter(|job| !job.is_over())
    }

    /// What a backup of the cluster holds.
    pub fn memory(&self) -> Memory {
        Memory {
            object: self.object,
            checks: self.work.iter().map(|work| work.checks).collect(),
            scope: self.scope,
            ledger: self.ledger,
            connection: self.connection,
            going: self.going,
        }
    }

    /// A tick goes by.
    pub fn wait(&mut self) {
        self.tick += 1;
        self.outlast();
    }

    /// What takes longer than a schedule is set ahead goes by.
    fn outlast(&mut self) {
        if let Some(Request::Schedule { enabled, .. }) = &mut self.flight {
            *enabled = false;
        }
    }

    /// The cluster is restored from its backup. Controller, archive and processes stay what they are.
    pub fn restore(&mut self) {
        let Some(memory) = self.backup.take() else { return };
        self.outlast();
        (self.object, self.scope, self.connection) = (memory.object, memory.scope, memory.connection);
        for i in 0..2 {
            self.enter(i, memory.ledger[i]);
        }
        self.going = memory.going;
        for (work, checks) in self.work.iter_mut().zip(&memory.checks) {
            work.checks = *checks;
        }
    }

    /// The namespace's controller deletes what has no finalizer.
    pub fn sweep(&mut self) {
        self.connection = false;
        self.scope = [false; 2];
        for check in self.work.iter_mut().flat_map(|work| work.checks.iter_mut()) {
            *check = None;
        }
    }

    /// Changes an entry of the ledger.
    pub fn enter(&mut self, i: usize, entry: Entry) {
        self.ledger[i] = entry;
        if let Some(Paused::Decided(_, choice) | Paused::Committed(_, choice)) = &mut self.paused
            && choice.is_lock
        {
            choice.stale[i] = true;
        }
    }

    /// A stamp for new entries of the ledger: the smallest that nobody knows.
    fn stamp(&self) -> u8 {
        let of = |ledger: &[Entry; 2]| {
            ledger.map(|entry| match entry {
                Entry::Ours(_, stamp) => Some(stamp),
                Entry::Free | Entry::Rival => None,
            })
        };
        let seen = match self.paused {
            Some(Paused::Decided(_, choice) | Paused::Committed(_, choice) | Paused::Answer(_, choice)) => choice.entries,
            Some(Paused::Read(_)) | None => [None; 2],
        };
        let saved = self.backup.as_ref().map_or([None; 2], |memory| of(&memory.ledger));
        let known = [of(&self.ledger), seen, saved].concat();
        (0..=u8::MAX).find(|stamp| !known.contains(&Some(*stamp))).unwrap()
    }

    /// What of the ledger is entered for an attempt.
    pub fn entries(&self, attempt: u8) -> [Option<u8>; 2] {
        self.ledger.map(|entry| match entry {
            Entry::Ours(of, stamp) if of == attempt => Some(stamp),
            Entry::Ours(..) | Entry::Free | Entry::Rival => None,
        })
    }
}

#[expect(clippy::disallowed_types, reason = "looked up only, never iterated")]
type Index<K, V> = std::collections::HashMap<K, V>;

/// Statuses, steps and records by number. A number is a hash of the content, so that it means the same in every search.
pub struct Numbers {
    pub statuses: Index<u64, PatchRunStatus>,
    pub steps: Index<u64, Step>,
    pub records: Index<u64, Record>,
    briefs: RefCell<Index<Object, Brief>>,
}

impl Numbers {
    pub fn new() -> Self {
        Self { statuses: [(0, PatchRunStatus::default())].into(), steps: Index::new(), records: Index::new(), briefs: RefCell::default() }
    }

    pub fn status(&mut self, status: PatchRunStatus) -> u64 {
        let number = number(&status);
        self.statuses.entry(number).or_insert(status);
        number
    }

    pub fn step(&mut self, step: Step) -> u64 {
        let number = number(&step);
        self.steps.entry(number).or_insert(step);
        number
    }

    pub fn record(&mut self, record: &Record) -> u64 {
        let number = number(record);
        self.records.entry(number).or_insert_with(|| record.clone());
        number
    }
}

/// Never below 3, so that it fits beside the other answers of the archive.
fn number(content: &impl std::fmt::Debug) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{content:?}").hash(&mut hasher);
    hasher.finish().max(3)
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
        run.status = Some(numbers.statuses[&object.status].clone());
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
    /// The scope is on record.
    has_scope: bool,
    /// The run was looked at before.
    is_known: bool,
}

#[derive(Clone, Copy)]
struct BriefLaunch {
    try_: u8,
    baseline: Option<u8>,
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
            baseline: launch.baseline.map(|id| u8::try_from(id).unwrap()),
            stopping: launch.stopping.is_some(),
            job: e.executor.as_ref().and_then(|e| e.id.parse().ok()),
        })
    });
    let brief = Brief {
        attempt: u8::try_from(decide::attempt(&run)).unwrap(),
        phase,
        launch,
        has_entry: entry.is_some(),
        has_scope: status.scope.is_some(),
        is_known: !status.conditions.is_empty(),
    };
    numbers.briefs.borrow_mut().insert(*object, brief);
    brief
}

/// `observe.rs` over this world.
pub fn look(plan: &Plan, world: &World, object: &Object, numbers: &Numbers) -> Facts {
    let Brief { attempt, phase, launch, has_entry, has_scope, is_known } = brief(plan, object, numbers);
    let mut facts =
        Facts { attempt, halted: world.halted, going: false, gate: 0, record: 0, log: 0, scope: 0, locks: None, work: WorkFact::NotLooked };
    let scope = world.scope[usize::from(attempt - 1)];
    let ours = u8::try_from(world.entries(attempt).into_iter().flatten().count()).unwrap();
    let free = u8::try_from(world.ledger.iter().filter(|e| **e == Entry::Free).count()).unwrap();
    let of_hosts = Some((ours, free, ours + free < 2));
    let locks = || match (scope, has_scope) {
        (true, _) => of_hosts,
        (false, true) => Some((ours, 0, false)),
        (false, false) => Some((0, 0, false)),
    };
    let Some(phase) = phase.filter(|_| has_entry || !object.deleting) else {
        if object.finalizer {
            facts.scope = if scope { 2 } else { 0 };
            facts.locks = locks();
        }
        return facts;
    };
    let work = &world.work[slot(plan, attempt, phase)];
    let record = if world.archive { if work.record == 0 { 1 } else { work.record } } else { 2 };
    if has_entry {
        facts.scope = if scope { 2 } else { 0 };
        if !scope {
            // the hosts are known to the ledger, or to the inventory
            facts.locks = locks();
            let inventory = world.connection && world.controller && world.credentials;
            facts.scope = if has_scope && (ours == 2 || inventory) { 2 } else { 0 };
        }
        facts.going = object.deleting && world.going;
        if facts.going {
            facts.record = record;
        }
        if facts.scope == 0 {
            facts.work = WorkFact::Unavailable;
            return facts;
        }
        let Some(launch) = launch else { return facts };
        during(world, work, phase, launch, &mut facts);
        if launch.baseline.is_none() && observed(&facts, numbers, plan).work.is_idle() {
            facts.locks = of_hosts;
        }
        let ended = match facts.work {
            WorkFact::Aap { job: JobFact::Found(_, job), .. } => job.is_over(),
            WorkFact::Aap { .. } => true,
            WorkFact::NotLooked | WorkFact::Unavailable => false,
            WorkFact::Check(check) => check.is_none_or(|c| c.is_over()) || launch.stopping || object.cancel,
        };
        if ended {
            facts.log = if world.archive { if work.log { 3 } else { 1 } } else { 2 };
            facts.record = record;
        }
        return facts;
    }
    let waits = object.suspend || world.halted;
    if waits && !phase.is_change() && !object.cancel && is_known {
        return facts;
    }
    facts.record = record;
    if record != 1 || (waits && !phase.is_change()) {
        return facts;
    }
    if !world.connection {
        facts.gate = 3;
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
        let jobs = u8::try_from(work.jobs.iter().flatten().count()).unwrap();
        let baseline = if work.started { Some(0) } else { world.direct.then_some(jobs) };
        facts.work = by_schedule(work, 1, baseline, work.started);
    }
    let exists = facts.finds_launch();
    if waits && !exists {
        return facts;
    }
    if facts.scope == 0 && facts.gate == 0 {
        facts.scope = 1;
    }
    if facts.scope == 2 {
        facts.locks = locks();
    }
    facts
}

/// A phase that is on record and not over, its hosts being known.
fn during(world: &World, work: &Work1, phase: Phase, launch: BriefLaunch, facts: &mut Facts) {
    if !phase.is_change() {
        facts.work = WorkFact::Check(work.checks[usize::from(launch.try_ - 1)].filter(|c| !c.gone));
        return;
    }
    let alone = |job| WorkFact::Aap { schedule: None, job, baseline: None, started: false };
    facts.work = match launch.job {
        _ if !world.connection || !world.controller => WorkFact::Unavailable,
        None if !world.credentials => WorkFact::Unavailable,
        Some(id) => {
            let job = work.jobs[id - 1].unwrap();
            alone(if job.gone { JobFact::Gone } else { found(id, job) })
        }
        None => match launch.baseline {
            Some(after) => {
                // found by its mark, whoever launched it
                let after = usize::from(after);
                let job = work.jobs.iter().enumerate().skip(after).find_map(|(i, job)| job.filter(|j| !j.gone).map(|j| found(i + 1, j)));
                alone(job.unwrap_or(JobFact::NotFound))
            }
            None => by_schedule(work, launch.try_, None, false),
        },
    };
}

fn found(id: usize, job: Task) -> JobFact {
    JobFact::Found(u8::try_from(id).unwrap(), job)
}

fn by_schedule(work: &Work1, mut try_: u8, baseline: Option<u8>, started: bool) -> WorkFact {
    let schedule = |try_: u8| work.schedules.get(usize::from(try_ - 1)).copied().flatten();
    let job = |try_: u8| {
        work.jobs
            .iter()
            .enumerate()
            .find_map(|(i, job)| job.filter(|j| schedule(try_).is_some() && j.try_ == try_ && !j.gone).map(|j| found(i + 1, j)))
    };
    while schedule(try_).is_some_and(|s| !s.enabled) && job(try_).is_none() && schedule(try_ + 1).is_some() {
        try_ += 1;
    }
    WorkFact::Aap { schedule: schedule(try_).map(|s| (try_, s)), job: job(try_).unwrap_or(JobFact::NotFound), baseline, started }
}

/// The facts as `decide` takes them.
pub fn observed(facts: &Facts, numbers: &Numbers, plan: &Plan) -> Observed {
    let key = run_key(facts.attempt);
    let scope = ScopeStatus { config_map: names::scope(&key), hosts: 1, digest: "d".into(), ledger: "uuid".into(), excluded: vec![] };
    let pin = |phase, id| plan.phases.contains(&phase).then_some(id);
    let pins = Pinned {
        install_uuid: "uuid".into(),
        inventory: 1,
        stage: pin(Phase::Stage, 6),
        apply: pin(Phase::Apply, 7),
        reboot: pin(Phase::Reboot, 8),
    };
    Observed {
        run_key: key.clone(),
        server_url: "https://fettle".into(),
        paused: facts.halted.then(|| "launches are paused".to_owned()),
        namespace_going: facts.going,
        gate: match facts.gate {
            0 => Gate::Open,
            1 => Gate::Wait(Reason::AwaitingCredentials, "no secret".into()),
            3 => Gate::Wait(Reason::ConnectionNotFound, "no connection".into()),
            _ => Gate::Wait(Reason::ControllerUnreachable, "no answer".into()),
        },
        record: match facts.record {
            0 => RecordFact::NotLooked,
            1 => RecordFact::Absent,
            2 => RecordFact::Unavailable("down".into()),
            id => RecordFact::Found(Box::new(numbers.records[&id].clone())),
        },
        log: match facts.log {
            0 => LogFact::NotLooked,
            1 => LogFact::Absent,
            2 => LogFact::Unavailable("down".into()),
            _ => LogFact::Found(fettle::api::patch_run::LogRef { id: "log".into(), size: 1, sha256: "s".into() }, None),
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
            WorkFact::Aap { schedule, job, baseline, started } => Work::Aap(Box::new(decide::Aap {
                pins,
                started,
                schedule: schedule.map_or(decide::Schedule::Absent, |(try_, s)| decide::Schedule::Ours {
                    id: try_.into(),
                    try_: try_.into(),
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
                baseline: baseline.map(i64::from),
            })),
        },
        guard: GuardPolicy::Required,
    }
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
    choice: Choice,
    facts_attempt: u8,
    numbers: &mut Numbers,
) -> Option<Request> {
    let me = usize::from(facts_attempt - 1);
    let step = numbers.steps[&choice.step].clone();
    match &step {
        Step::Nothing => {}
        Step::Finalizer(on) => {
            // nobody changed it since
            if let Some(there) = &mut world.object
                && *there == (Object { status: choice.status, ..*object })
                && (!*on || !there.deleting)
            {
                there.finalizer = *on;
                if there.deleting && !there.finalizer {
                    world.object = None;
                }
            }
        }
        Step::CreateScope(_) => world.scope[me] |= !world.going,
        Step::Lock => {
            // shard by shard, up to the first that is taken
            let stamp = world.stamp();
            for (i, stale) in choice.stale.into_iter().enumerate() {
                match world.ledger[i] {
                    _ if stale => break,
                    Entry::Free => world.enter(i, Entry::Ours(facts_attempt, stamp)),
                    Entry::Ours(attempt, _) if attempt == facts_attempt => {}
                    Entry::Ours(..) | Entry::Rival => break,
                }
            }
        }
        Step::Unlock => {
            let on_record = numbers.statuses[&choice.status].scope.is_some();
            for (i, seen) in choice.entries.into_iter().enumerate() {
                let fixed = on_record || world.scope[me];
                if fixed && seen.is_some() && world.entries(facts_attempt)[i] == seen {
                    world.enter(i, Entry::Free);
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
            let check = &mut world.work[at].checks[usize::from(try_ - 1)];
            if check.is_none_or(|check| check.gone) {
                *check = Some(fresh);
            }
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
        let status = &numbers.statuses[&object.status];
        let attempt = status.attempt.unwrap_or(0);
        status.state == State::Completed && !object.finalizer && (!wanted_too || attempt >= i32::from(object.attempt))
    })
}

/// Whether a status says that a phase is over.
pub fn results(status: &PatchRunStatus) -> impl Iterator<Item = (Phase, RunResult, Option<&str>)> {
    status.phases.iter().filter_map(|p| Some((p.name, p.result?, p.message.as_deref())))
}
