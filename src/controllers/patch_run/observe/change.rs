//! Looks at the launch and the job of a change: at the controller.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    super::{
        Error,
        decide::{self, Gate, Job, RecordFact, Schedule, ScopeFact, Work},
        jobs,
    },
    Look, Seen, waiting,
};
use crate::{
    api::{
        automation_connection::{AutomationConnection, LaunchMode},
        patch_run::{ExecutorKind, PatchRunStatus, Phase, PhaseStatus, Pinned},
        reason::Reason,
    },
    archive::started::Started,
    clients::aap::{self, Needs},
    controllers::sessions::{Purpose, Session},
    names,
};

impl Look<'_> {
    /// Looks at the controller before anything of a change phase is on record: is it launched already, may it be launched?
    pub(super) async fn aap_before(
        &self,
        seen: &mut Seen,
        status: &PatchRunStatus,
        phase: Phase,
        key: &str,
        connection: &AutomationConnection,
    ) -> Result<(), Error> {
        let session = match self.ctx.sessions.open(connection, Purpose::Change, &self.allowed).await {
            Ok(session) => session,
            Err(no) => {
                seen.facts.gate = Gate::Wait(no.reason, no.message);
                return Ok(());
            }
        };
        seen.session = Some(session.clone());
        let template = match phase {
            Phase::Stage => &connection.spec.templates.stage,
            Phase::Apply => &connection.spec.templates.apply,
            Phase::Reboot => &connection.spec.templates.reboot,
            Phase::Precheck | Phase::Postcheck => return Ok(()),
        };
        let Some(template) = template else {
            seen.facts.gate =
                Gate::Wait(Reason::TemplateNotReady, format!("the connection names no template for {phase}: set spec.templates.{phase}"));
            return Ok(());
        };
        let started = match self.ctx.store.started(key).await {
            Ok(started) => started,
            Err(error) => {
                seen.facts.record = RecordFact::Unavailable(error.to_string());
                return Ok(());
            }
        };
        let found = async {
            let of = |asked_for| move |error| (asked_for, error);
            let controller = session.aap.discover().await.map_err(of(Reason::ControllerUnreachable))?;
            seen.controller_time = controller.date;
            let inventory = session.aap.inventory(&connection.spec.inventory).await.map_err(of(Reason::InventoryUnavailable))?.value;
            let of = of(Reason::TemplateNotReady);
            let template = session.aap.template(template).await.map_err(of)?.value;
            let mut pins =
                Pinned { install_uuid: controller.value.install_uuid, inventory: inventory.id, stage: None, apply: None, reboot: None };
            match phase {
                Phase::Stage => pins.stage = Some(template.id),
                Phase::Apply => pins.apply = Some(template.id),
                Phase::Reboot => pins.reboot = Some(template.id),
                Phase::Precheck | Phase::Postcheck => {}
            }
            let problems: Vec<String> = aap::preflight(&template, &Needs { inventory: inventory.id, launches: true })
                .into_iter()
                .filter(|p| p.blocks)
                .map(|p| p.message)
                .collect();
            let hosts = match &seen.facts.scope {
                ScopeFact::Fixed(_, hosts) => hosts.clone(),
                ScopeFact::NotLooked | ScopeFact::Resolved(_) => BTreeSet::new(),
            };
            let pinned = status.pinned.clone().unwrap_or_else(|| pins.clone());
            let asked =
                jobs::asked(self.run, phase, key, &hosts, &Pinned { stage: pins.stage, apply: pins.apply, reboot: pins.reboot, ..pinned });
            let (schedule, job) = self.launched(&session, key, 1, &asked, controller.date.unwrap_or(self.now)).await.map_err(of)?;
            let direct = connection.spec.launch_mode() == LaunchMode::Direct;
            let baseline = match &started {
                Some(started) => Some(started.baseline),
                None if direct => Some(session.aap.baseline(template.id).await.map_err(of)?.value),
                None => None,
            };
            Ok::<_, (Reason, aap::Error)>((decide::Aap { pins, schedule, job, baseline, started: started.is_some() }, problems))
        }
        .await;
        match found {
            Ok((aap, _)) if started.as_ref().is_some_and(|s| differs_from(s, &aap.pins, phase)) => {
                let why = format!("{phase} was begun by a direct launch on another controller or template than the connection names now");
                seen.facts.gate = Gate::Wait(Reason::ConnectionChanged, why);
            }
            Ok((aap, problems)) => {
                if !problems.is_empty() && seen.facts.gate == Gate::Open {
                    seen.facts.gate = Gate::Wait(Reason::TemplateNotReady, problems.join("; "));
                }
                seen.facts.work = Work::Aap(Box::new(aap));
            }
            Err((asked_for, error)) => {
                let no = waiting(&error, asked_for, Purpose::Change, connection);
                seen.facts.gate = Gate::Wait(no.reason, no.message);
            }
        }
        Ok(())
    }

    /// Looks at a launch or a job. `true` when it is over, or will never be.
    pub(super) async fn aap_during(
        &self,
        seen: &mut Seen,
        status: &PatchRunStatus,
        phase: Phase,
        entry: &PhaseStatus,
        connection: &AutomationConnection,
    ) -> Result<bool, Error> {
        let session = match self.ctx.sessions.open(connection, Purpose::Change, &self.allowed).await {
            Ok(session) => session,
            // a job that runs is followed with what is left; nothing is launched with it
            Err(no) => match self.ctx.sessions.open(connection, Purpose::Read, &self.allowed).await {
                Ok(session) if entry.executor.is_some() => session,
                _ => {
                    let reason = if no.reason == Reason::AwaitingCredentials { Reason::CredentialsMissing } else { no.reason };
                    seen.facts.work = Work::Unavailable(reason, no.message);
                    return Ok(false);
                }
            },
        };
        seen.session = Some(session.clone());
        let (Some(pins), Some(launch)) = (status.pinned.clone(), &entry.launch) else { return Ok(false) };
        let ScopeFact::Fixed(_, hosts) = &seen.facts.scope else { return Ok(false) };
        let asked = jobs::asked(self.run, phase, &entry.run_key, hosts, &pins);
        let known = entry.executor.as_ref().filter(|e| e.kind == ExecutorKind::Job).and_then(|e| e.id.parse::<i64>().ok());
        let found = async {
            let (schedule, job) = if let Some(id) = known {
                let row = session.board.job(&session.aap, id).await?;
                let job = match row {
                    Some(row) => jobs::look(&session.aap, &row, &asked, None, self.now).await?,
                    None => match session.aap.job(id).await {
                        Ok(detail) => jobs::look(&session.aap, &detail.value, &asked, None, self.now).await?,
                        Err(error) if error.is_not_found() => Job::Gone,
                        Err(error) => return Err(error),
                    },
                };
                // another controller has jobs of these numbers too: what ends or stops something must come from the one that was launched on
                let ordinary = matches!(&job, Job::Found { mismatch: None, over: None, .. });
                if !ordinary && let Some(pins) = self.other_controller(&session, &pins).await? {
                    return Ok(decide::Aap { pins, schedule: Schedule::Absent, job: Job::NotFound, baseline: None, started: false });
                }
                (Schedule::Absent, job)
            } else {
                let controller = session.aap.discover().await?;
                seen.controller_time = controller.date;
                if controller.value.install_uuid != pins.install_uuid {
                    let pins = Pinned { install_uuid: controller.value.install_uuid, ..pins.clone() };
                    return Ok(decide::Aap { pins, schedule: Schedule::Absent, job: Job::NotFound, baseline: None, started: false });
                }
                match launch.baseline {
                    Some(after) => (Schedule::Absent, self.marked(&session, &entry.run_key, after, &asked).await?),
                    None => self.launched(&session, &entry.run_key, launch.try_, &asked, controller.date.unwrap_or(self.now)).await?,
                }
            };
            Ok::<_, aap::Error>(decide::Aap { pins: pins.clone(), schedule, job, baseline: None, started: false })
        }
        .await;
        Ok(match found {
            Ok(aap) => {
                let ended = matches!(aap.job, Job::Found { over: Some(_), .. } | Job::Gone | Job::NotFound);
                seen.facts.work = Work::Aap(Box::new(aap));
                ended
            }
            Err(error) => {
                let no = waiting(&error, Reason::ControllerUnreachable, Purpose::Change, connection);
                seen.facts.work = Work::Unavailable(no.reason, no.message);
                false
            }
        })
    }

    /// The pins a launch would get now, when the session leads to another controller than the pinned one.
    async fn other_controller(&self, session: &Session, pins: &Pinned) -> Result<Option<Pinned>, aap::Error> {
        let install_uuid = session.aap.discover().await?.value.install_uuid;
        Ok((install_uuid != pins.install_uuid).then(|| Pinned { install_uuid, ..pins.clone() }))
    }

    /// The schedule of a try, searched by name over all templates, and its job. When that try came to nothing and there is a later one, as for a
    /// cluster that was restored since, it is the later one's.
    async fn launched(
        &self,
        session: &Session,
        key: &str,
        mut try_: i32,
        asked: &jobs::Asked,
        now: Timestamp,
    ) -> Result<(Schedule, Job), aap::Error> {
        let mut latest = None;
        loop {
            let name = names::work(key, try_);
            let schedules = session.aap.schedules_named(&name).await?.value;
            let schedule = match schedules.as_slice() {
                [] => Schedule::Absent,
                [one] => match jobs::schedule_differs(one, asked) {
                    // before the scope is fixed there is nothing to compare with
                    Some(why) if !asked.limit.is_empty() => Schedule::Foreign(why),
                    _ => Schedule::Ours { id: one.id, try_, enabled: one.enabled, due: one.next_run.is_some() },
                },
                many => Schedule::Foreign(format!("{} schedules are named {name}, of different templates", many.len())),
            };
            if schedule == Schedule::Absent {
                return Ok(latest.unwrap_or((schedule, Job::NotFound)));
            }
            let mut rows = session.aap.jobs_of_schedule(&name).await?.value;
            rows.sort_by_key(|job| job.id);
            let surplus = rows.iter().skip(1).find(|job| !job.status.is_over()).map(|job| job.id);
            let job = match rows.first() {
                Some(row) => {
                    let detail = session.aap.job(row.id).await?;
                    jobs::look(&session.aap, &detail.value, asked, surplus, detail.date.unwrap_or(now)).await?
                }
                None => Job::NotFound,
            };
            if !matches!((&schedule, &job), (Schedule::Ours { enabled: false, .. }, Job::NotFound)) {
                return Ok((schedule, job));
            }
            latest = Some((schedule, job));
            try_ += 1;
        }
    }

    /// The job of a direct launch, by the run key among its variables.
    async fn marked(&self, session: &Session, key: &str, after: i64, asked: &jobs::Asked) -> Result<Job, aap::Error> {
        let Some(template) = asked.template else { return Ok(Job::NotFound) };
        let mut rows = session.aap.find_marked(template, after, key).await?.value;
        rows.sort_by_key(|job| job.id);
        let surplus = rows.iter().skip(1).find(|job| !job.status.is_over()).map(|job| job.id);
        match rows.first() {
            Some(row) => jobs::look(&session.aap, row, asked, surplus, self.now).await,
            None => Ok(Job::NotFound),
        }
    }
}

/// Whether a direct launch was begun somewhere else than a launch now would be made.
fn differs_from(started: &Started, pins: &Pinned, phase: Phase) -> bool {
    started.install_uuid != pins.install_uuid || decide::template(pins, phase) != Some(started.template)
}
