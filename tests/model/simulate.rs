//! Random schedules over the moves of the search: longer, with more disturbances at once and with two runs, which no search can exhaust.
//!
//! A schedule follows from its seed alone. One that fails is shrunk to the fewest moves that still fail, and told.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use fastrand::Rng;
use fettle::api::{
    patch_run::{PatchRunStatus, Phase, State},
    reason::Reason,
};

use crate::{
    search::{Moves, Search},
    world::{Budget, Entry, Plan, World},
};

/// Time stands still from here on until a schedule is followed to its end.
const HORIZON: u8 = 6;
/// Statuses kept of a kind of run before its memory is cleared.
const KEPT: usize = 60_000;

/// The kinds of runs: phases, tick of `startBy`, whether launches are direct.
const KINDS: [(&[Phase], u8, bool); 7] = [
    (&[Phase::Apply], 250, false),
    (&[Phase::Apply], 250, true),
    (&[Phase::Precheck, Phase::Apply, Phase::Postcheck], 250, false),
    (&Phase::ALL, 250, false),
    (&Phase::ALL, 3, false),
    (&[Phase::Stage, Phase::Apply, Phase::Reboot], 2, true),
    (&[Phase::Precheck, Phase::Apply], 2, true),
];

/// A mistake made on purpose, which the schedules must find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// A direct launch whose answer was lost is sent again.
    pub repeats_launch: bool,
}

/// What schedules came to.
#[derive(Default)]
pub struct Walked {
    pub schedules: u64,
    pub moves: u64,
    /// Changes of the spec or of what the run depends on, each of them made on what the earlier ones of the schedule left.
    pub edits: u64,
    /// Different ones: by what was changed, and state, phase and reason of the run before.
    pub transitions: BTreeSet<u64>,
    /// Different transitions into a waiting or erroneous state whose cause was mended, upon which the run went to its end.
    pub rolled_back: BTreeSet<u64>,
    /// Different states of a run with its world.
    pub states: BTreeSet<u64>,
}

impl Walked {
    fn add(&mut self, mut other: Self) {
        self.schedules += other.schedules;
        self.moves += other.moves;
        self.edits += other.edits;
        self.transitions.append(&mut other.transitions);
        self.rolled_back.append(&mut other.rolled_back);
        self.states.append(&mut other.states);
    }
}

/// Who moves, and how.
type Move = (Mover, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mover {
    /// The run of this number, or something around it.
    Run(usize),
    /// What all runs have in common: time and the memory of the cluster.
    Cluster,
}

/// One or two runs on the same two hosts, in one cluster.
#[derive(Clone)]
struct Cluster {
    worlds: Vec<World>,
    restores: u8,
}

impl Cluster {
    /// What run `number` did to the ledger, the others see.
    fn share(&mut self, number: usize) {
        let (ledger, tick) = (self.worlds[number].ledger, self.worlds[number].tick);
        for (_, other) in self.worlds.iter_mut().enumerate().filter(|(i, _)| *i != number) {
            other.tick = tick;
            for (i, entry) in ledger.into_iter().enumerate() {
                match (entry, other.ledger[i]) {
                    (Entry::Ours(..), Entry::Free) => other.enter(i, Entry::Rival),
                    (Entry::Free, Entry::Rival) => other.enter(i, Entry::Free),
                    _ => {}
                }
            }
        }
    }

    fn moves(&self) -> Vec<(String, Self)> {
        let mut moves = vec![];
        let mut push = |label: &str, change: &dyn Fn(&mut Self)| {
            let mut next = self.clone();
            change(&mut next);
            moves.push((label.to_owned(), next));
        };
        if self.worlds[0].tick < HORIZON {
            push("time goes by", &|c| c.worlds.iter_mut().for_each(World::wait));
        }
        if self.restores > 0 && self.worlds[0].backup.is_none() {
            push("a backup of the cluster is taken", &|c| c.worlds.iter_mut().for_each(|w| w.backup = Some(w.memory().into())));
        }
        if self.worlds[0].backup.is_some() {
            push("the cluster is restored from its backup", &|c| {
                c.restores -= 1;
                c.worlds.iter_mut().for_each(World::restore);
            });
        }
        moves
    }
}

/// What a seed stands for.
struct Setting {
    kinds: Vec<usize>,
    budget: Budget,
    length: usize,
}

impl Setting {
    fn new(rng: &mut Rng) -> Self {
        let kinds: Vec<usize> = (0..rng.usize(1..=2)).map(|_| rng.usize(..KINDS.len())).collect();
        let mut often = |most: u8| if rng.u8(..3) == 0 { rng.u8(1..=most) } else { 0 };
        let mut budget = Budget {
            crash: often(3),
            pause: often(2),
            late: often(1),
            miss: often(1),
            cancel: often(1),
            suspend: often(2),
            delete: often(2),
            recreate: often(2),
            attempt: often(1),
            outage: often(4),
            bad: often(2),
            lose: often(1),
            halt: often(1),
            rival: if kinds.len() == 1 { often(2) } else { 0 },
            ..Budget::default()
        };
        // where one of these is possible, less can be promised
        let mut seldom = |most: u8| if rng.u8(..8) == 0 { rng.u8(1..=most) } else { 0 };
        (budget.force, budget.restore, budget.namespace, budget.switch) = (seldom(1), seldom(2), seldom(1), seldom(2));
        // hosts stay entered for a run that was taken away by force, or that went away while a process slept that had read it before and
        // enters them now: who comes next waits until a person clears them
        if budget.force > 0 || (budget.pause > 0 && budget.recreate > 0) {
            budget.attempt = 0;
        }
        if kinds.len() > 1 {
            (budget.force, budget.pause) = (0, 0);
        }
        if budget.restore > 0 {
            // a run that is cancelled while the controller cannot be asked ends without knowing of a launch that the cluster forgot
            budget.outage = 0;
            // hosts that the ledger forgot, too, are known to nobody when the scope is deleted
            budget.lose = 0;
        }
        Self { kinds, budget, length: rng.usize(20..=140) }
    }
}

/// Goes through schedules.
pub struct Simulator {
    searches: Vec<Search>,
    planted: Planted,
    walked: Walked,
}

impl Simulator {
    pub fn new(planted: Planted) -> Self {
        let searches = (0..KINDS.len()).map(|kind| Search::new(plan(kind, planted))).collect();
        Self { searches, planted, walked: Walked::default() }
    }

    /// Goes through the schedule of a seed; an error is its shrunk story.
    pub fn run(&mut self, seed: u64) -> Result<Vec<String>, String> {
        let mut rng = Rng::with_seed(seed);
        let setting = Setting::new(&mut rng);
        for (kind, search) in self.searches.iter_mut().enumerate() {
            if search.numbers.statuses.len() > KEPT {
                *search = Search::new(plan(kind, self.planted));
            }
            search.plan.budget = setting.budget;
        }
        let (mut cluster, mut done) = (self.start(&setting), vec![]);
        self.walked.schedules += 1;
        let outcome = self.walk(&setting, &mut rng, &mut cluster, &mut done).and_then(|()| self.end(&setting, cluster));
        match outcome {
            Ok(()) => Ok(told(&done)),
            Err(why) => Err(self.story(seed, &setting, done, &why)),
        }
    }

    fn start(&self, setting: &Setting) -> Cluster {
        let world = |kind: &usize| {
            let mut world = World::new(&self.searches[*kind].plan);
            // the whole cluster is restored at once
            world.budget.restore = 0;
            world
        };
        Cluster { worlds: setting.kinds.iter().map(world).collect(), restores: setting.budget.restore }
    }

    fn walk(&mut self, setting: &Setting, rng: &mut Rng, cluster: &mut Cluster, done: &mut Vec<Move>) -> Result<(), String> {
        for _ in 0..setting.length {
            let number = rng.usize(..cluster.worlds.len());
            let (world, search) = (cluster.worlds[number].clone(), &mut self.searches[setting.kinds[number]]);
            let draw = rng.u8(..100);
            let mut moves: Moves = match draw {
                0..50 => search.processes(&world),
                50..75 => search.progress(&world),
                75..83 => search.mishaps(&world),
                83..90 => search.people(&world),
                _ => {
                    let mut moves = cluster.moves();
                    if !moves.is_empty() {
                        let (label, next) = moves.swap_remove(rng.usize(..moves.len()));
                        *cluster = next;
                        done.push((Mover::Cluster, label));
                    }
                    continue;
                }
            };
            moves.retain(|(label, _)| cluster.worlds.len() == 1 || !is_of_rival(label));
            if moves.is_empty() {
                continue;
            }
            // the first thing a process may do is what it does undisturbed
            let first = draw < 50 && rng.u8(..10) < 6;
            let (label, result) = moves.swap_remove(if first { 0 } else { rng.usize(..moves.len()) });
            done.push((Mover::Run(number), label.clone()));
            self.walked.moves += 1;
            let next = result?;
            let mut hasher = DefaultHasher::new();
            next.hash(&mut hasher);
            self.walked.states.insert(hasher.finish());
            cluster.worlds[number] = next;
            cluster.share(number);
            check_exclusive(setting, cluster, &self.searches)?;
            if (75..90).contains(&draw) {
                self.edited(setting, cluster, number, &world, &label)?;
            }
        }
        Ok(())
    }

    /// Something was changed around a run: counts it, and sees the run recover from wherever that led.
    fn edited(&mut self, setting: &Setting, cluster: &Cluster, number: usize, before: &World, label: &str) -> Result<(), String> {
        self.walked.edits += 1;
        let search = &self.searches[setting.kinds[number]];
        let mut hasher = DefaultHasher::new();
        format!("{} {label} {:?}", setting.kinds[number], class(search, before)).hash(&mut hasher);
        let transition = hasher.finish();
        self.walked.transitions.insert(transition);
        // what the run makes of it
        let mut after = cluster.clone();
        let search = &mut self.searches[setting.kinds[number]];
        if let Some(object) = after.worlds[number].object
            && let Some((_, Ok(next))) = search.reconciled(&after.worlds[number], &object)
        {
            after.worlds[number] = next;
            after.share(number);
        }
        let search = &self.searches[setting.kinds[number]];
        let waits = class(search, &after.worlds[number]).is_some_and(|(_, _, reason)| reason.is_some_and(|r| !r.remedy().is_empty()));
        if waits && self.walked.rolled_back.insert(transition) {
            self.end(setting, after).map_err(|why| format!("once the cause was mended: {why}"))?;
        }
        Ok(())
    }

    /// Goes on fairly until every run is over.
    fn end(&mut self, setting: &Setting, mut cluster: Cluster) -> Result<(), String> {
        let alone = cluster.worlds.len() == 1;
        let mut trail = vec![];
        loop {
            let mut over = true;
            for (number, kind) in setting.kinds.iter().enumerate() {
                let search = &mut self.searches[*kind];
                let world = cluster.worlds[number].clone();
                if search.is_over(&world) {
                    search.check_settled(&world)?;
                    continue;
                }
                over = false;
                let (label, next) = search.fair(&world, alone).map_err(|why| format!("{why}\n  (fairly on: {})", trail.join("; ")))?;
                trail.push(label);
                cluster.worlds[number] = next;
                cluster.share(number);
                check_exclusive(setting, &cluster, &self.searches)?;
            }
            if over {
                return Ok(());
            }
            if cluster.worlds[0].tick > 200 || trail.len() > 1500 {
                let last = trail.split_off(trail.len().saturating_sub(20));
                return Err(format!("a run does not end although everything goes on fairly\n  (at last: {})", last.join("; ")));
            }
        }
    }

    /// Goes through `moves`, leaving out those that are not possible any more. An error is what went wrong.
    fn replay(&mut self, setting: &Setting, moves: &[Move]) -> Result<(), String> {
        let mut cluster = self.start(setting);
        for (mover, wanted) in moves {
            match mover {
                Mover::Cluster => {
                    if let Some((_, next)) = cluster.moves().into_iter().find(|(label, _)| label == wanted) {
                        cluster = next;
                    }
                }
                Mover::Run(number) => {
                    let (world, search) = (cluster.worlds[*number].clone(), &mut self.searches[setting.kinds[*number]]);
                    let mut all = search.processes(&world);
                    all.extend(search.progress(&world));
                    all.extend(search.mishaps(&world));
                    all.extend(search.people(&world));
                    if let Some((_, result)) = all.into_iter().find(|(label, _)| label == wanted) {
                        cluster.worlds[*number] = result?;
                        cluster.share(*number);
                        check_exclusive(setting, &cluster, &self.searches)?;
                    }
                }
            }
        }
        self.end(setting, cluster)
    }

    /// The fewest of `moves` that still fail, as a story.
    fn story(&mut self, seed: u64, setting: &Setting, mut moves: Vec<Move>, why: &str) -> String {
        let mut why = why.to_owned();
        // what went wrong after a rollback only, does so without it, too
        if let Err(again) = self.replay(setting, &moves) {
            why = again;
            let mut chunk = moves.len().div_ceil(2);
            while chunk > 0 {
                let mut from = 0;
                while from < moves.len() {
                    let mut fewer = moves.clone();
                    fewer.drain(from..(from + chunk).min(fewer.len()));
                    if let Err(again) = self.replay(setting, &fewer) {
                        (moves, why) = (fewer, again);
                    } else {
                        from += chunk;
                    }
                }
                chunk /= 2;
            }
        }
        let kinds: Vec<_> = setting.kinds.iter().map(|kind| KINDS[*kind]).collect();
        format!("{why}\nmake simulate SEED={seed} COUNT=1\n{kinds:?}\n  {}", told(&moves).join("\n  "))
    }
}

fn plan(kind: usize, planted: Planted) -> Plan {
    let (phases, start_by, direct) = KINDS[kind];
    Plan { name: "random", phases, start_by, horizon: HORIZON, direct, budget: Budget::default(), planted }
}

fn told(moves: &[Move]) -> Vec<String> {
    let line = |(mover, label): &Move| match mover {
        Mover::Run(number) => format!("run {}: {label}", number + 1),
        Mover::Cluster => label.clone(),
    };
    moves.iter().map(line).collect()
}

fn is_of_rival(label: &str) -> bool {
    label.starts_with("the other run gives")
}

/// State, phase and reason of a run.
fn class(search: &Search, world: &World) -> Option<(State, Option<Phase>, Option<Reason>)> {
    let status: &PatchRunStatus = &search.numbers.statuses[&world.object?.status];
    let reason = status.conditions.iter().find(|c| c.type_ == "Succeeded").and_then(|c| Reason::parse(&c.reason));
    Some((status.state, status.phase, reason))
}

/// No two runs work on a host at the same time.
fn check_exclusive(setting: &Setting, cluster: &Cluster, searches: &[Search]) -> Result<(), String> {
    let working = |number: &usize| {
        let world = &cluster.worlds[*number];
        (0..world.work.len()).any(|at| world.executing(at).next().is_some())
    };
    let strict = setting.kinds.iter().all(|kind| !searches[*kind].plan.may_lose_hold());
    if strict && (0..cluster.worlds.len()).filter(working).count() > 1 {
        return Err("two runs work on the same hosts".into());
    }
    Ok(())
}

/// Goes through `count` schedules from seed `first` on, with every processor. An error is the story of the first seed that failed.
pub fn simulate(first: u64, count: u64) -> Result<Walked, String> {
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let worker = || {
        let mut simulator = Simulator::new(Planted::default());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count || failed.load(Ordering::Relaxed) {
                return Ok(simulator.walked);
            }
            match simulator.run(seed) {
                Ok(story) if count == 1 => eprintln!("{}", story.join("\n")),
                Ok(_) => {}
                Err(story) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(story);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut all = Walked::default();
        for worker in workers {
            all.add(worker.join().unwrap()?);
        }
        Ok(all)
    })
}
