//! Breadth-first search over the world, and what must hold in it.

use std::{collections::HashSet, rc::Rc};

use fettle::{
    api::{
        patch_run::{PatchRunStatus, Phase, RunResult, State},
        reason::Reason,
    },
    controllers::patch_run::decide::{self, LaunchOutcome, Step},
};

use crate::world::{
    Choice, Entry, Facts, How, Numbers, Object, Paused, Plan, Request, Sched, Task, World, arrive, at, carry_out, is_settled, look,
    new_job, observed, of_slot, patch_run, results, slot,
};

#[expect(clippy::disallowed_types, reason = "looked up only, never iterated")]
type Index<K, V> = std::collections::HashMap<K, V>;

/// What a search came to.
pub struct Explored {
    pub states: usize,
    pub transitions: usize,
    /// States from which every fair continuation was followed to its end.
    pub ended: usize,
    /// States in which the run ended `OK`.
    pub good_ends: usize,
}

/// A way to go on, and where it leads; or what went wrong on it.
pub type Moves = Vec<(String, Result<World, String>)>;

pub struct Search {
    pub plan: Plan,
    pub numbers: Numbers,
    decisions: Index<(Object, Facts, u8), Result<Choice, String>>,
}

impl Search {
    pub fn new(plan: Plan) -> Self {
        Self { plan, numbers: Numbers::new(), decisions: Index::new() }
    }

    /// Searches everything. An error is the shortest way to something that must not be.
    pub fn run(mut self) -> Result<Explored, String> {
        let first = Rc::new(World::new(&self.plan));
        let mut states = vec![first.clone()];
        let mut index = Index::from([(first, 0_usize)]);
        let mut parents: Vec<(usize, String)> = vec![(0, "start".into())];
        let mut transitions = 0;
        let mut next = 0;
        while next < states.len() {
            let world = states[next].clone();
            for (label, result) in self.moves(&world) {
                transitions += 1;
                match result {
                    Ok(new) if index.contains_key(&new) => {}
                    Ok(new) => {
                        let new = Rc::new(new);
                        index.insert(new.clone(), states.len());
                        states.push(new);
                        parents.push((next, label));
                    }
                    Err(why) => return Err(self.story(&states, &parents, next, &label, &why)),
                }
            }
            next += 1;
        }
        let mut good = HashSet::new();
        for (number, world) in states.iter().enumerate() {
            if let Err((trail, why)) = self.ends(world, &mut good) {
                let trail = trail.join("\n  then ");
                return Err(self.story(&states, &parents, number, &format!("fairly on\n  then {trail}"), &why));
            }
        }
        let ended_well =
            |world: &&Rc<World>| world.object.is_some_and(|object| self.numbers.statuses[&object.status].result == Some(RunResult::Ok));
        let good_ends = good.iter().filter(ended_well).count();
        Ok(Explored { states: states.len(), transitions, ended: good.len(), good_ends })
    }

    fn story(&self, states: &[Rc<World>], parents: &[(usize, String)], mut at: usize, last: &str, why: &str) -> String {
        let mut lines = vec![format!("{why}"), format!("  {last}"), format!("  in {:?}", states[at])];
        if let Some(object) = states[at].object {
            lines.push(format!("  with {:?}", self.numbers.statuses[&object.status]));
        }
        while at != 0 {
            lines.push(format!("  {}", parents[at].1));
            at = parents[at].0;
        }
        lines.push(format!("plan {}", self.plan.name));
        lines.reverse();
        lines.join("\n")
    }

    /// Goes on fairly until the run is over: what is away comes back, what runs ends, time goes by, reads are fresh.
    fn ends(&mut self, from: &Rc<World>, good: &mut HashSet<Rc<World>>) -> Result<(), (Vec<String>, String)> {
        let mut world = from.clone();
        let mut way = vec![];
        let mut trail = vec![];
        for _ in 0..200 {
            if good.contains(&world) {
                break;
            }
            way.push(world.clone());
            if self.is_over(&world) {
                self.check_settled(&world).map_err(|why| (trail.clone(), why))?;
                break;
            }
            let (label, next) = self.fair(&world, true).map_err(|why| (trail.clone(), why))?;
            trail.push(label);
            world = Rc::new(next);
            if trail.len() == 199 {
                return Err((trail, "the run does not end although everything goes on fairly".into()));
            }
        }
        good.extend(way);
        Ok(())
    }

    /// Whether nothing is left that could go on.
    pub fn is_over(&self, world: &World) -> bool {
        is_settled(world, &self.numbers, true) && world.paused.is_none() && world.flight.is_none()
    }

    /// What must hold of a run that is over: every job of it was awaited, and is on record.
    pub fn check_settled(&self, world: &World) -> Result<(), String> {
        let Some(object) = world.object else { return Ok(()) };
        if self.plan.may_be_direct() || self.plan.budget.force > 0 || self.plan.budget.namespace > 0 {
            return Ok(());
        }
        for (at, work) in world.work.iter().enumerate() {
            let (attempt, phase) = of_slot(&self.plan, at);
            let Some(id) = work.jobs.iter().position(Option::is_some) else { continue };
            let on_record = self.numbers.statuses[&object.status].attempt.unwrap_or(0);
            if i32::from(attempt) > on_record || (i32::from(attempt) < on_record && self.plan.budget.restore > 0) {
                // the cluster forgot that somebody asked for it, or that it began before somebody asked for the next one
                continue;
            }
            if world.executing(at).next().is_some() {
                return Err(format!("the run is over while a job of {phase} runs"));
            }
            let on_record = match self.numbers.records.get(&work.record) {
                // without an answer of the controller it says so, instead of that nothing was launched
                Some(record) if record.message.contains("could not be asked") && self.plan.budget.outage > 0 => continue,
                Some(record) => record.executor.clone(),
                // its end was given up on while the archive was away
                None if self.plan.budget.outage > 0 => continue,
                None => None,
            };
            if on_record.is_none_or(|executor| executor.id != (id + 1).to_string()) {
                return Err(format!("a job of {phase} is not on record"));
            }
        }
        Ok(())
    }

    /// The one fair way to go on. `alone`: the other run of the ledger is nobody that goes on by itself.
    pub fn fair(&mut self, world: &World, alone: bool) -> Result<(String, World), String> {
        let mut next = world.clone();
        (next.credentials, next.controller, next.archive, next.halted) = (true, true, true, false);
        for i in 0..2 {
            if next.ledger[i] == Entry::Rival && alone {
                next.enter(i, Entry::Free);
            }
        }
        if next.going {
            next.sweep();
        }
        if let Some(object) = &mut next.object
            && object.suspend
        {
            object.suspend = false;
            object.generation += 1;
        }
        if next != *world {
            return Ok(("what was away is back".into(), next));
        }
        if let Some(request) = next.flight.take() {
            arrive(&mut next, request, false);
            return Ok((format!("{request:?} arrives"), next));
        }
        if let Some(paused) = next.paused.take() {
            let (label, result) = self.resume(&next, paused).remove(0);
            return result.map(|world| (label, world));
        }
        if let Some(object) = world.object {
            match self.reconciled(world, &object) {
                Some((_, Ok(next))) if next == *world => {}
                Some((label, Ok(next))) => return Ok((label, next)),
                Some((label, Err(why))) => return Err(format!("{label}: {why}")),
                None => {}
            }
        }
        if let Some((label, result)) = self.progress(world).into_iter().next() {
            return result.map(|next| (label, next));
        }
        if let (true, true, Some(object)) = (self.plan.may_be_direct(), world.tick > 10, &mut next.object)
            && !object.cancel
        {
            // a direct launch whose answer was lost waits for a person
            (object.cancel, object.generation) = (true, object.generation + 1);
            return Ok(("a person cancels".into(), next));
        }
        next.wait();
        Ok(("time goes by".into(), next))
    }

    pub fn moves(&mut self, world: &World) -> Moves {
        let mut moves = self.processes(world);
        moves.extend(self.progress(world));
        moves.extend(self.mishaps(world));
        moves.extend(self.people(world));
        if world.tick < self.plan.horizon {
            let mut next = world.clone();
            next.wait();
            moves.push(("time goes by".into(), Ok(next)));
        }
        moves
    }

    /// What the manager does, also one that was paused, and what its requests come to; an undisturbed reconcile first.
    pub fn processes(&mut self, world: &World) -> Moves {
        let mut moves = vec![];
        if let Some(object) = world.object {
            moves.extend(self.reconcile(world, &object, true));
            if world.paused.is_none() && world.budget.pause > 0 {
                let mut next = world.clone();
                next.budget.pause -= 1;
                next.paused = Some(Paused::Read(object));
                moves.push(("a process reads the object and is paused".into(), Ok(next)));
            }
        }
        if let Some(paused) = world.paused {
            let mut next = world.clone();
            next.paused = None;
            moves.extend(self.resume(&next, paused));
        }
        if let Some(request) = world.flight {
            for late in [false, true] {
                let mut next = world.clone();
                next.flight = None;
                let result = check_arrival(&self.plan, &mut next, request, late).map(|_| next);
                moves.push((format!("{request:?} arrives{}", if late { " too late" } else { "" }), result));
            }
        }
        moves
    }

    /// What goes wrong in the world.
    pub fn mishaps(&self, world: &World) -> Moves {
        mishaps(&self.plan, world, self.launching(world))
    }

    /// What people do.
    pub fn people(&self, world: &World) -> Moves {
        people(world, self.launching(world))
    }

    /// The slot whose launch is on record without its job being known.
    fn launching(&self, world: &World) -> Launching {
        let Some(object) = world.object else { return Launching::No };
        match self.numbers.statuses[&object.status].phases.iter().find(|p| p.result.is_none()) {
            None => Launching::No,
            Some(entry) if entry.executor.is_none() => Launching::Blind,
            Some(_) => Launching::Known,
        }
    }

    /// A reconcile of `read`; the undisturbed one first.
    fn reconcile(&mut self, world: &World, read: &Object, disturbed: bool) -> Moves {
        let facts = look(&self.plan, world, read, &self.numbers);
        let mut choice = match self.decide(read, facts, world.tick) {
            Ok(choice) => choice,
            Err(why) => return vec![("decide".into(), Err(why))],
        };
        if self.numbers.steps[&choice.step] == Step::Unlock {
            choice.entries = world.entries(facts.attempt);
        }
        choice.is_lock = self.numbers.steps[&choice.step] == Step::Lock;
        if world.object == Some(*read)
            && let Err(why) = self.repeats(world, read, choice)
        {
            return vec![(format!("reconcile: {:?}", self.numbers.steps[&choice.step]), Err(why))];
        }
        let mut moves = self.commit(world, read, choice, disturbed);
        if disturbed && world.paused.is_none() && world.budget.pause > 0 {
            let mut next = world.clone();
            next.budget.pause -= 1;
            next.paused = Some(Paused::Decided(*read, choice));
            moves.push(("a process decides and is paused".into(), Ok(next)));
        }
        moves
    }

    /// What a process does undisturbed.
    pub fn reconciled(&mut self, world: &World, read: &Object) -> Option<(String, Result<World, String>)> {
        self.reconcile(world, read, false).into_iter().next()
    }

    fn resume(&mut self, world: &World, paused: Paused) -> Moves {
        let mut moves = match paused {
            Paused::Read(read) => self.reconcile(world, &read, false),
            Paused::Decided(read, choice) => self.commit(world, &read, choice, false),
            Paused::Committed(read, choice) => self.act(world, &read, choice, false),
            Paused::Answer(read, choice) => {
                let mut next = world.clone();
                let outcome = LaunchOutcome::Created { id: 1, ignored: vec![] };
                let result = self.hear(&mut next, &read, choice, &outcome).map(|()| next);
                vec![("the answer is read".into(), result)]
            }
        };
        for (label, _) in &mut moves {
            *label = format!("the paused process goes on: {label}");
        }
        moves.push(("the paused process dies".into(), Ok(world.clone())));
        moves
    }

    /// The real decision, and what must hold of it alone.
    fn decide(&mut self, object: &Object, facts: Facts, tick: u8) -> Result<Choice, String> {
        if let Some(known) = self.decisions.get(&(*object, facts, tick)) {
            return known.clone();
        }
        let run = patch_run(&self.plan, object, &self.numbers);
        let decision = decide::decide(&run, &observed(&facts, &self.numbers, &self.plan), at(tick));
        let old = run.status.clone().unwrap_or_default();
        let over = decision.status.state == State::Completed;
        let same_attempt = old.attempt == decision.status.attempt;
        let launches =
            matches!(decision.step, Step::CreateSchedule { enabled: true, .. } | Step::Launch { .. } | Step::CreatePipelineRun { .. });
        let changes = launches && !matches!(decision.step, Step::CreatePipelineRun { .. });
        let announced = same_attempt && old.phases.iter().any(|phase| phase.result.is_none());
        let cancelled = announced && decision.status.cancel_requested_at.is_some() && facts.finds_work();
        let stops = matches!(decision.step, Step::CancelJob { .. });
        let checks = [
            (cancelled && !stops, "a cancel that is not carried out"),
            (
                matches!(decision.step, Step::CancelPipelineRun { .. }) && !facts.has_log(),
                "a check is stopped, and its pod deleted, before its log is archived",
            ),
            (
                !announced && matches!(&decision.step, Step::PutRecord(r) if r.executor.is_none()) && facts.finds_launch(),
                "on record as never launched, although it may have been",
            ),
            (launches && facts.halted, "a launch while the operator is paused"),
            (decision.requeue.is_none() && !(over || object.deleting) || decision.requeue.is_none() && object.finalizer, "no next look"),
            (launches && over, "a launch by a run that is over"),
            (launches && object.suspend, "a launch while suspended"),
            (launches && object.deleting, "a launch while being deleted"),
            (launches && (object.cancel || decision.status.cancel_requested_at.is_some()), "a launch after a cancel"),
            (launches && !facts.can_launch(), "a launch without looking"),
            (changes && tick >= self.plan.start_by, "a launch after startBy"),
            (
                old.state == State::Completed
                    && same_attempt
                    && (!over || old.result != decision.status.result || old.phases != decision.status.phases),
                "the end was changed",
            ),
            (over != decision.status.result.is_some(), "a result without an end, or an end without one"),
        ];
        let wrong = checks.into_iter().find(|(bad, _)| *bad).map(|(_, why)| format!("{why}: {:?}", decision.step));
        let choice = Choice {
            status: self.numbers.status(decision.status),
            step: self.numbers.step(decision.step),
            requeue: decision.requeue.is_some(),
            entries: [None; 2],
            is_lock: false,
            stale: [false; 2],
        };
        let result = wrong.map_or(Ok(choice), Err);
        self.decisions.insert((*object, facts, tick), result.clone());
        result
    }

    /// Once its status is on record and nothing else happened, the same step is decided again: a crash costs nothing.
    fn repeats(&mut self, world: &World, read: &Object, choice: Choice) -> Result<(), String> {
        let step = self.numbers.steps[&choice.step].clone();
        // a direct launch is not repeated, and the end of an attempt is where the next one begins
        if matches!(step, Step::Launch { .. }) || self.numbers.statuses[&choice.status].state == State::Completed {
            return Ok(());
        }
        let again = Object { status: choice.status, ..*read };
        let new = &self.numbers.statuses[&choice.status];
        // of another attempt nothing is on record yet
        let nothing = PatchRunStatus { attempt: new.attempt, ..PatchRunStatus::default() };
        let old = Some(&self.numbers.statuses[&read.status]).filter(|old| old.attempt == new.attempt).unwrap_or(&nothing);
        // where a phase ends, is left, or is found launched already, the next look is about something else
        let tries = |status: &PatchRunStatus| status.phases.iter().filter_map(|p| Some(p.launch.as_ref()?.try_)).sum::<i32>();
        // what is stopped from now on is looked at more closely
        let stopping =
            |status: &PatchRunStatus| status.phases.iter().filter(|p| p.launch.as_ref().is_some_and(|l| l.stopping.is_some())).count();
        if stopping(new) != stopping(old) {
            return Ok(());
        }
        // an earlier life may have made the next try already
        let another_try = self.plan.budget.force + self.plan.budget.restore > 0 && tries(new) != tries(old);
        let adopted = new.phases.len() > old.phases.len() && step == Step::Nothing;
        if results(new).count() != results(old).count() || new.phases.len() < old.phases.len() || adopted || another_try {
            return Ok(());
        }
        let facts = look(&self.plan, world, &again, &self.numbers);
        // a check of an earlier life is adopted
        if matches!(step, Step::CreatePipelineRun { .. }) && facts.finds_check() {
            return Ok(());
        }
        let second = self.decide(&again, facts, world.tick)?;
        if second.step == choice.step {
            Ok(())
        } else {
            Err(format!("decided again on the same facts: {:?}", self.numbers.steps[&second.step]))
        }
    }

    fn commit(&mut self, world: &World, read: &Object, choice: Choice, disturbed: bool) -> Moves {
        let mut next = world.clone();
        let written = choice.status != read.status;
        if written {
            if next.object != Some(*read) {
                return vec![("commit: stale".into(), Ok(next))];
            }
            if let Err(why) = self.put(&mut next, choice.status) {
                return vec![("commit".into(), Err(why))];
            }
        }
        let step = &self.numbers.steps[&choice.step];
        if !written && matches!(step, Step::Launch { .. }) {
            return vec![("a launch that is not announced just now is not made".into(), Ok(next))];
        }
        let idle = *step == Step::Nothing;
        let mut moves = self.act(&next, read, choice, disturbed);
        if disturbed && !idle {
            if world.budget.crash > 0 {
                let mut dead = next.clone();
                dead.budget.crash -= 1;
                moves.push((format!("commit, crash before {:?}", self.brief(choice)), Ok(dead)));
            }
            if world.paused.is_none() && world.budget.pause > 0 {
                next.budget.pause -= 1;
                next.paused = Some(Paused::Committed(*read, choice));
                moves.push((format!("commit, paused before {:?}", self.brief(choice)), Ok(next)));
            }
        }
        moves
    }

    fn brief(&self, choice: Choice) -> String {
        format!("{:?}", self.numbers.steps[&choice.step]).chars().take(60).collect()
    }

    /// Carries the step out; the undisturbed way first.
    fn act(&mut self, world: &World, read: &Object, choice: Choice, disturbed: bool) -> Moves {
        let attempt = u8::try_from(self.numbers.statuses[&choice.status].attempt.unwrap()).unwrap();
        let mut done = world.clone();
        let had_object = done.object;
        let request = carry_out(&self.plan, &mut done, read, choice, attempt, &mut self.numbers);
        let label = format!("reconcile: {}", self.brief(choice));
        let Some(request) = request else {
            let lost = had_object.is_some() && done.object.is_none();
            let detached = lost && is_detached(&self.numbers.statuses[&choice.status]);
            return vec![(label, if lost && !detached { check_gone(&self.plan, &done).map(|()| done) } else { Ok(done) })];
        };
        let mut moves = vec![];
        let reaches = match request {
            Request::Check { .. } => !world.going,
            Request::Schedule { .. } | Request::Launch { .. } => world.controller && world.credentials,
        };
        if let Request::Launch { at } = request {
            // `Act::launch`: a quorum read, the mark, and only then the request
            let announced = done.object.is_some_and(|there| there.life == read.life && there.status == choice.status);
            let refused = match done.object {
                _ if !announced || (world.archive && done.work[at].started) => return vec![(format!("{label}, not sent"), Ok(done))],
                Some(there) if there.deleting || there.suspend || there.cancel => true,
                Some(_) | None => !world.archive || !reaches,
            };
            if refused {
                let outcome = LaunchOutcome::Refused(Reason::TemplateNotReady, "provably not launched".into());
                return vec![(format!("{label}, refused"), self.hear(&mut done, read, choice, &outcome).map(|()| done))];
            }
            done.work[at].started = true;
        }
        if !reaches {
            return vec![(format!("{label}, not reached"), Ok(done))];
        }
        let mut arrived = done.clone();
        let result = match check_arrival(&self.plan, &mut arrived, request, false) {
            Ok(Some(outcome)) => {
                if disturbed && world.budget.crash > 0 {
                    let mut unheard = arrived.clone();
                    unheard.budget.crash -= 1;
                    let again = self.plan.planted.repeats_launch;
                    let result = if again { check_arrival(&self.plan, &mut unheard, request, false).map(|_| unheard) } else { Ok(unheard) };
                    moves.push((format!("{label}, answer lost"), result));
                }
                if disturbed && world.paused.is_none() && world.budget.pause > 0 {
                    let mut slow = arrived.clone();
                    slow.budget.pause -= 1;
                    slow.paused = Some(Paused::Answer(*read, choice));
                    moves.push((format!("{label}, paused before its answer"), Ok(slow)));
                }
                self.hear(&mut arrived, read, choice, &outcome).map(|()| arrived)
            }
            Ok(None) => Ok(arrived),
            Err(why) => Err(why),
        };
        moves.insert(0, (label.clone(), result));
        if disturbed && world.budget.crash > 0 {
            let mut lost = done.clone();
            lost.budget.crash -= 1;
            moves.push((format!("{label}, not delivered"), Ok(lost)));
        }
        if disturbed && world.budget.late > 0 && done.flight.is_none() {
            done.budget.late -= 1;
            done.flight = Some(request);
            moves.push((format!("{label}, under way"), Ok(done)));
        }
        moves
    }

    /// What the shell does with the answer to a direct launch.
    fn hear(&mut self, world: &mut World, read: &Object, choice: Choice, outcome: &LaunchOutcome) -> Result<(), String> {
        let Some(current) = world.object else { return Ok(()) };
        let run = patch_run(&self.plan, read, &self.numbers);
        let Step::Launch { phase } = self.numbers.steps[&choice.step].clone() else { return Ok(()) };
        // only onto the very status that announced the launch
        if current.life != read.life || current.status != choice.status {
            return Ok(());
        }
        let status = self.numbers.statuses[&choice.status].clone();
        let Some(known) = decide::after_launch(&run, phase, status, outcome) else { return Ok(()) };
        let known = self.numbers.status(known);
        self.put(world, known)
    }

    /// Writes a status, and checks what must hold of the transition in this world.
    fn put(&self, world: &mut World, status: u64) -> Result<(), String> {
        let Some(object) = &mut world.object else { return Ok(()) };
        let (old, new) = (&self.numbers.statuses[&object.status], &self.numbers.statuses[&status]);
        object.status = status;
        if old.attempt == new.attempt && old.state == State::Completed && (new.state != State::Completed || new.result != old.result) {
            return Err("a run that was over goes on".into());
        }
        let attempt = u8::try_from(new.attempt.unwrap()).unwrap();
        for (phase, result, _) in results(new) {
            if old.attempt == new.attempt && old.of(phase).is_some_and(|p| p.result.is_some()) {
                continue;
            }
            let at = slot(&self.plan, attempt, phase);
            let reason = new.of(phase).and_then(|p| p.reason.as_deref());
            self.check_end(world, at, phase, result, reason == Some(Reason::Detached.as_str()))
                .map_err(|why| format!("{phase} ended {result:?}, but {why}"))?;
        }
        Ok(())
    }

    fn check_end(&self, world: &World, at: usize, phase: Phase, result: RunResult, detached: bool) -> Result<(), String> {
        let work = &world.work[at];
        if work.record == 0 && world.archive {
            return Err("no record was written".into());
        }
        let good = if phase.is_change() { work.jobs.iter().flatten().any(|job| job.how == How::Good) } else { work.checked };
        if result == RunResult::Ok && !good {
            return Err("nothing ended well".into());
        }
        if phase.is_change() && !self.plan.may_be_direct() && !detached {
            if world.executing(at).next().is_some() {
                return Err("a job of it may still touch a host".into());
            }
            if work.schedules.iter().flatten().any(|s| s.enabled && s.due) {
                return Err("a schedule of it may still fire".into());
            }
            if let Some(Request::Schedule { at: slot, try_, enabled: true }) = world.flight
                && slot == at
                && work.schedules[usize::from(try_ - 1)].is_none()
            {
                return Err("a request that is under way may still launch it".into());
            }
        }
        Ok(())
    }

    /// What the executors do by themselves.
    pub fn progress(&self, world: &World) -> Moves {
        let mut moves = vec![];
        for (at, work) in world.work.iter().enumerate() {
            let what = what(&self.plan, at);
            for (i, schedule) in work.schedules.iter().enumerate() {
                if schedule.is_some_and(|s| s.enabled && s.due) {
                    let mut next = world.clone();
                    next.work[at].schedules[i] = Some(Sched { enabled: true, due: false });
                    let try_ = u8::try_from(i + 1).unwrap();
                    let result = launched(&self.plan, &mut next, at, try_).map(|_| next);
                    moves.push((format!("{what}: the schedule of try {try_} fires"), result));
                }
            }
            for (i, job) in work.jobs.iter().enumerate() {
                for (label, task) in job.iter().flat_map(|job| onwards(job, world.tick)) {
                    let mut next = world.clone();
                    next.work[at].jobs[i] = Some(task);
                    moves.push((format!("{what}: job {} {label}", i + 1), Ok(next)));
                }
            }
            for (i, check) in work.checks.iter().enumerate() {
                for (label, task) in check.iter().flat_map(|check| onwards(check, world.tick)) {
                    let mut next = world.clone();
                    next.work[at].checks[i] = Some(task);
                    next.work[at].checked |= task.how == How::Good;
                    moves.push((format!("{what}: check {} {label}", i + 1), Ok(next)));
                }
            }
        }
        moves
    }
}

/// What a task does next by itself.
fn onwards(task: &Task, tick: u8) -> Vec<(&'static str, Task)> {
    if task.gone {
        return vec![];
    }
    let over = |how| Task { how, finished: tick, ..*task };
    match task.how {
        How::Pending if task.cancel => vec![("is cancelled", over(How::Cancelled))],
        How::Pending => vec![("starts", Task { how: How::Running, started: Some(tick), ..*task })],
        How::Running if task.cancel => vec![("is cancelled", over(How::Cancelled)), ("beats the cancel", over(How::Good))],
        How::Running => vec![("ends well", over(How::Good))],
        How::Good | How::Bad | How::Cancelled => vec![],
    }
}

/// What the status knows of a launch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Launching {
    No,
    /// It is announced; what came of it is not on record.
    Blind,
    Known,
}

/// Phase and attempt of a slot, for people.
fn what(plan: &Plan, at: usize) -> String {
    let (attempt, phase) = of_slot(plan, at);
    if attempt == 1 { phase.to_string() } else { format!("{phase}, attempt {attempt}") }
}

fn is_detached(status: &PatchRunStatus) -> bool {
    status.phases.iter().any(|phase| phase.reason.as_deref() == Some(Reason::Detached.as_str()))
}

fn mishaps(plan: &Plan, world: &World, launching: Launching) -> Moves {
    let mut moves = vec![];
    let mut push = |label: &str, change: &dyn Fn(&mut World)| {
        let mut next = world.clone();
        change(&mut next);
        moves.push((label.to_owned(), Ok(next)));
    };
    for at in 0..world.work.len() {
        let what = what(plan, at);
        for i in 0..3 {
            if world.budget.miss > 0 && world.work[at].schedules[i].is_some_and(|s| s.enabled && s.due) {
                push(&format!("{what}: the time of schedule {} is missed", i + 1), &|w| {
                    w.budget.miss -= 1;
                    w.work[at].schedules[i] = Some(Sched { enabled: true, due: false });
                });
            }
            if world.budget.bad == 0 {
                continue;
            }
            if world.work[at].jobs[i].is_some_and(|job| job.how == How::Running && !job.gone) {
                for how in [How::Bad, How::Cancelled] {
                    push(&format!("{what}: job {} ends {how:?}", i + 1), &|w| {
                        w.budget.bad -= 1;
                        let tick = w.tick;
                        let job = w.work[at].jobs[i].as_mut().unwrap();
                        (job.how, job.finished) = (how, tick);
                    });
                }
            }
            // controllers keep jobs for months: none is purged before it was ever seen, or is forgotten
            if launching != Launching::Blind
                && plan.budget.restore + plan.budget.force + plan.budget.recreate == 0
                && world.work[at].jobs[i].is_some_and(|job| job.is_over() && !job.gone)
            {
                push(&format!("{what}: job {} is purged", i + 1), &|w| {
                    w.budget.bad -= 1;
                    w.work[at].jobs[i].as_mut().unwrap().gone = true;
                });
            }
            if world.work[at].checks[i].is_some_and(|check| check.how == How::Running && !check.gone) {
                push(&format!("{what}: the platform fails check {}", i + 1), &|w| {
                    w.budget.bad -= 1;
                    let tick = w.tick;
                    let check = w.work[at].checks[i].as_mut().unwrap();
                    (check.how, check.finished) = (How::Bad, tick);
                });
            }
            if world.work[at].checks[i].is_some_and(|check| !check.gone) {
                push(&format!("{what}: the PipelineRun of check {} is deleted", i + 1), &|w| {
                    w.budget.bad -= 1;
                    w.work[at].checks[i].as_mut().unwrap().gone = true;
                });
            }
        }
    }
    if world.budget.outage > 0 {
        let away: [(&str, fn(&mut World) -> &mut bool); 4] = [
            ("the credentials", |w| &mut w.credentials),
            ("the controller", |w| &mut w.controller),
            ("the archive", |w| &mut w.archive),
            ("the output of jobs", |w| &mut w.output),
        ];
        for (what, which) in away {
            if *which(&mut world.clone()) {
                push(&format!("{what} goes away"), &|w| {
                    w.budget.outage -= 1;
                    *which(w) = false;
                });
            }
        }
    }
    for (what, which) in [
        ("the credentials", (|w| &mut w.credentials) as fn(&mut World) -> &mut bool),
        ("the controller", |w| &mut w.controller),
        ("the archive", |w| &mut w.archive),
    ] {
        if !*which(&mut world.clone()) {
            push(&format!("{what} is back"), &|w| *which(w) = true);
        }
    }
    memory(world, &mut push);
    for i in 0..2 {
        match world.ledger[i] {
            Entry::Free if world.budget.rival > 0 => push(&format!("another run takes host {}", i + 1), &|w| {
                w.budget.rival -= 1;
                w.enter(i, Entry::Rival);
            }),
            Entry::Rival => push(&format!("the other run gives host {} back", i + 1), &|w| w.enter(i, Entry::Free)),
            Entry::Free | Entry::Ours(..) => {}
        }
    }
    moves
}

/// What the cluster forgets, and what the operator's people change.
fn memory(world: &World, push: &mut impl FnMut(&str, &dyn Fn(&mut World))) {
    if world.budget.restore > 0 && world.backup.is_none() && world.object.is_some() {
        push("a backup of the cluster is taken", &|w| w.backup = Some(Rc::new(w.memory())));
    }
    if world.budget.restore > 0 && world.backup.as_ref().is_some_and(|backup| **backup != world.memory()) {
        push("the cluster is restored from its backup", &|w| {
            w.budget.restore -= 1;
            w.restore();
        });
    }
    if world.budget.namespace > 0 && !world.going && world.object.is_some_and(|object| object.finalizer) {
        push("the namespace is deleted", &|w| {
            w.budget.namespace -= 1;
            w.going = true;
            if let Some(object) = &mut w.object {
                object.deleting = true;
            }
        });
    }
    if world.going {
        let mut swept = world.clone();
        swept.sweep();
        if swept != *world {
            push("the namespace's controller deletes what has no finalizer", &World::sweep);
        }
    }
    for attempt in 0..2 {
        if world.budget.lose > 0 && world.scope[attempt] {
            push(&format!("the scope of attempt {} is deleted", attempt + 1), &|w| {
                w.budget.lose -= 1;
                w.scope[attempt] = false;
            });
        }
    }
    if world.budget.halt > 0 && !world.halted {
        push("launches are paused for the whole operator", &|w| {
            w.budget.halt -= 1;
            w.halted = true;
        });
    }
    if world.halted {
        push("launches go on for the whole operator", &|w| w.halted = false);
    }
    if world.budget.switch > 0 {
        push("the connection's launch mode is changed", &|w| {
            w.budget.switch -= 1;
            w.direct = !w.direct;
        });
    }
}

fn people(world: &World, launching: Launching) -> Moves {
    let mut moves = vec![];
    let Some(object) = world.object else {
        if world.budget.recreate > 0 {
            let mut next = world.clone();
            next.budget.recreate -= 1;
            next.lives += 1;
            (next.going, next.connection) = (false, true);
            next.object = Some(Object {
                life: next.lives,
                generation: 1,
                suspend: false,
                cancel: false,
                attempt: 1,
                finalizer: false,
                deleting: false,
                status: 0,
            });
            moves.push(("the object is created again".into(), Ok(next)));
        }
        return moves;
    };
    let mut push = |label: &str, change: &dyn Fn(&mut World, &mut Object)| {
        let mut next = world.clone();
        let mut new = object;
        new.generation += 1;
        change(&mut next, &mut new);
        next.object = Some(new);
        moves.push((label.to_owned(), Ok(next)));
    };
    if object.deleting {
        if world.budget.force > 0 {
            let mut next = world.clone();
            next.budget.force -= 1;
            next.object = None;
            moves.push(("the finalizer is taken off by force".into(), Ok(next)));
        }
        return moves;
    }
    if world.budget.cancel > 0 && !object.cancel {
        push("cancel", &|w, o| {
            w.budget.cancel -= 1;
            o.cancel = true;
        });
    }
    if world.budget.suspend > 0 && !object.suspend {
        push("suspend", &|w, o| {
            w.budget.suspend -= 1;
            o.suspend = true;
        });
    }
    if object.suspend {
        push("resume", &|_, o| o.suspend = false);
    }
    if world.budget.attempt > 0 && object.attempt == 1 {
        push("attempt 2", &|w, o| {
            w.budget.attempt -= 1;
            o.attempt = 2;
        });
    }
    if world.budget.delete > 0 {
        let mut next = world.clone();
        next.budget.delete -= 1;
        if object.finalizer {
            next.object = Some(Object { deleting: true, ..object });
            moves.push(("delete".into(), Ok(next)));
        } else {
            next.object = None;
            let busy = launching != Launching::No && (0..world.work.len()).any(|at| world.executing(at).next().is_some());
            let result = if busy { Err("the object went away while a job of it runs".into()) } else { Ok(next) };
            moves.push(("delete".into(), result));
        }
    }
    moves
}

/// A job row comes to be; what must hold then.
fn launched(plan: &Plan, world: &mut World, at: usize, try_: u8) -> Result<u8, String> {
    let (attempt, phase) = of_slot(plan, at);
    let earlier = world.work[at].jobs.iter().flatten().count();
    let id = new_job(world, at, try_).ok_or("more jobs than the model can hold")?;
    if earlier > 0 {
        return Err(format!("{} jobs of {phase}", earlier + 1));
    }
    let held = world.entries(attempt).iter().all(Option::is_some);
    if !plan.may_lose_hold() && !held {
        return Err(format!("a job of {phase} while its hosts are not entered in the ledger: {:?}", world.ledger));
    }
    Ok(id)
}

fn check_arrival(plan: &Plan, world: &mut World, request: Request, late: bool) -> Result<Option<LaunchOutcome>, String> {
    match request {
        Request::Launch { at } => {
            launched(plan, world, at, 0).map(|id| Some(LaunchOutcome::Created { id: i64::from(id), ignored: vec![] }))
        }
        Request::Schedule { .. } | Request::Check { .. } => Ok(arrive(world, request, late)),
    }
}

/// The object is gone because its finalizer was taken off by us: nothing of it may be at work.
fn check_gone(plan: &Plan, world: &World) -> Result<(), String> {
    if plan.budget.force + plan.budget.restore > 0 {
        // what an earlier life left behind by force, or the cluster forgot, this one may never have seen
        return Ok(());
    }
    // the request of a direct launch may arrive after a person gave it up
    for at in (0..world.work.len()).filter(|_| !plan.may_be_direct()) {
        let (_, phase) = of_slot(plan, at);
        if world.executing(at).next().is_some() {
            return Err(format!("the object went away while a job of {phase} runs"));
        }
        if world.work[at].schedules.iter().flatten().any(|s| s.enabled && s.due) {
            return Err(format!("the object went away while a schedule of {phase} may fire"));
        }
    }
    if world.ledger.iter().any(|entry| matches!(entry, Entry::Ours(..))) {
        return Err("the object went away with hosts in the ledger".into());
    }
    Ok(())
}
