//! Carries a step out: one outside effect. What it came to is learned by the next look.

use std::io;

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{LogParams, Patch, PatchParams},
};
use serde_json::json;
use tokio_util::io::ReaderStream;

use super::{
    Error, checks,
    decide::{LaunchOutcome, ScopeFact, Step},
    jobs,
    observe::{self, Seen, container, holder},
    scope,
};
use crate::{
    api::{
        patch_run::{ExecutorKind, Mode, PatchRun, PatchRunStatus, Phase},
        reason::Reason,
    },
    archive::{self, Owner, started::Started},
    clients::{
        aap::{self, LaunchRequest, ScheduleRequest},
        tekton::PipelineRun,
    },
    controllers::Context,
    metrics::LaunchLabels,
    names, status,
};

/// How far ahead a one-shot schedule is set: the controller takes it at its next look, every 30 seconds.
const AHEAD: SignedDuration = SignedDuration::from_secs(5);
/// So often is that doubled, at most.
const DOUBLINGS: u32 = 6;

/// Carries `step` out. `status` is what was just committed, `version` the `resourceVersion` it has. The outcome of a direct launch, when it is known at once, is returned.
pub async fn act(
    ctx: &Context,
    run: &PatchRun,
    seen: &Seen,
    (status, version): (&PatchRunStatus, &str),
    step: &Step,
    now: Timestamp,
) -> Result<Option<LaunchOutcome>, Error> {
    let act = Act { ctx, run, seen, status, version, namespace: run.namespace().ok_or(Error::NoNamespace)?, now };
    match step {
        Step::Nothing => {}
        Step::Finalizer(on) => act.finalizer(*on).await?,
        Step::CreateScope(plan) => {
            let map = scope::config_map(&act.namespace, &run.name_any(), &seen.facts.run_key, plan);
            let maps = Api::<ConfigMap>::namespaced(ctx.client.clone(), &act.namespace);
            adopt(maps.create(&status::params(), &map).await, "creating the scope")?;
        }
        Step::Lock => {
            let ScopeFact::Fixed(scope, hosts) = &seen.facts.scope else { return Ok(None) };
            let (ledger, me) = (observe::ledger(ctx, &scope.ledger), holder(run, &act.namespace, &seen.facts.run_key));
            ledger
                .lock(hosts, &me, &seen.entries, now)
                .await
                .map_err(|source| Error::Act { step: "entering the hosts in the ledger", source })?;
        }
        Step::Unlock => {
            let fixed = match &seen.facts.scope {
                ScopeFact::Fixed(scope, _) => Some(scope),
                ScopeFact::NotLooked | ScopeFact::Resolved(_) => status.scope.as_ref(),
            };
            let Some(scope) = fixed else { return Ok(None) };
            let ledger = observe::ledger(ctx, &scope.ledger);
            ledger.unlock(&seen.entries).await.map_err(|source| Error::Act { step: "taking the hosts out of the ledger", source })?;
        }
        Step::CreatePipelineRun { phase, name } => act.create_pipeline_run(*phase, name).await?,
        Step::CancelPipelineRun { name } => act.cancel_pipeline_run(name).await?,
        Step::CreateSchedule { phase, name, enabled } => act.create_schedule(*phase, name, *enabled).await?,
        Step::DisableSchedule { id } => {
            act.aap()?
                .disable_schedule(*id)
                .await
                .map_err(|source| Error::Controller { step: "disabling the schedule", source: Box::new(source) })?;
        }
        Step::Launch { phase } => return act.launch(*phase).await.map(Some),
        Step::CancelJob { id } => {
            act.aap()?.cancel(*id).await.map_err(|source| Error::Controller { step: "cancelling the job", source: Box::new(source) })?;
        }
        Step::ArchiveLog { phase } => act.archive_log(*phase).await?,
        Step::PutRecord(record) => {
            ctx.store.put_record(record).await.map_err(|source| Error::Archive { step: "writing the record", source })?;
        }
    }
    Ok(None)
}

struct Act<'a> {
    ctx: &'a Context,
    run: &'a PatchRun,
    seen: &'a Seen,
    status: &'a PatchRunStatus,
    version: &'a str,
    namespace: String,
    now: Timestamp,
}

impl Act<'_> {
    fn aap(&self) -> Result<&aap::Aap, Error> {
        self.seen.session.as_ref().map(|s| &s.aap).ok_or(Error::NoSession)
    }

    /// Puts the finalizer on or off, provided nobody changed the object since it was read.
    async fn finalizer(&self, on: bool) -> Result<(), Error> {
        let mut finalizers: Vec<String> = self.run.finalizers().iter().filter(|f| *f != names::FINALIZER).cloned().collect();
        if on {
            finalizers.push(names::FINALIZER.to_owned());
        }
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": self.run.uid()},
            {"op": "test", "path": "/metadata/resourceVersion", "value": self.version},
            {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
        ]);
        let patch: Patch<()> = Patch::Json(
            serde_json::from_value(patch).map_err(|e| Error::Act { step: "changing the finalizer", source: kube::Error::SerdeError(e) })?,
        );
        let runs = Api::<PatchRun>::namespaced(self.ctx.client.clone(), &self.namespace);
        match runs.patch(&self.run.name_any(), &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            // gone, changed, or another object of that name: the next look tells
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_invalid() || status.is_conflict() => Ok(()),
            Err(source) => Err(Error::Act { step: "changing the finalizer", source }),
        }
    }

    async fn create_pipeline_run(&self, phase: Phase, name: &str) -> Result<(), Error> {
        let Some(connection) = self.connection() else { return Ok(()) };
        let (Some(checks), ScopeFact::Fixed(scope, _)) = (&connection.spec.checks, &self.seen.facts.scope) else { return Ok(()) };
        let key = names::phase_key(&self.seen.facts.run_key, phase);
        let reboot_key = (phase == Phase::Postcheck && self.run.spec.phases.contains(&Phase::Reboot))
            .then(|| names::phase_key(&self.seen.facts.run_key, Phase::Reboot));
        let settings = self.ctx.settings().map_err(Error::Settings)?;
        let made = checks::pipeline_run(&checks::CheckPlan {
            run: self.run,
            phase,
            key: &key,
            name,
            checks,
            scope: &scope.config_map,
            scope_digest: &scope.digest,
            reboot_key: reboot_key.as_deref(),
            image: &settings.checks_image,
        });
        self.count_launch(phase, Mode::Tekton);
        let runs = Api::<PipelineRun>::namespaced(self.ctx.client.clone(), &self.namespace);
        adopt(runs.create(&status::params(), &made).await, "creating the PipelineRun")
    }

    fn connection(&self) -> Option<crate::api::automation_connection::AutomationConnection> {
        if let Some(connection) = &self.seen.connection {
            return Some(connection.clone());
        }
        let reference = kube::runtime::reflector::ObjectRef::new(&self.run.spec.connection.name).within(&self.namespace);
        self.ctx.connections.get(&reference)?.0.as_ref().ok().cloned()
    }

    async fn cancel_pipeline_run(&self, name: &str) -> Result<(), Error> {
        let runs = Api::<PipelineRun>::namespaced(self.ctx.client.clone(), &self.namespace);
        let patch = Patch::Merge(json!({"spec": {"status": "Cancelled"}}));
        match runs.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            // gone or over already
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_invalid() || status.code == 400 => Ok(()),
            Err(source) => Err(Error::Act { step: "cancelling the PipelineRun", source }),
        }
    }

    /// Creates the one-shot schedule; "it is there" is as good as created. A schedule that must not fire is set in the past.
    async fn create_schedule(&self, phase: Phase, name: &str, enabled: bool) -> Result<(), Error> {
        let (asked, template) = self.asked(phase)?;
        let controller_now = self.seen.controller_time.unwrap_or(self.now);
        let try_ = self.status.of(phase).and_then(|entry| entry.launch.as_ref()).map_or(1, |launch| launch.try_);
        let request = ScheduleRequest {
            name: name.to_owned(),
            description: format!("Fettle PatchRun {}/{}: {phase}", self.namespace, self.run.name_any()),
            dtstart: if enabled { controller_now + ahead(try_) } else { controller_now - SignedDuration::from_hours(1) },
            limit: asked.limit,
            extra_data: asked.variables,
        };
        if enabled {
            self.count_launch(phase, Mode::Fenced);
        }
        match self.aap()?.create_schedule(template, &request).await {
            Ok(_) => {
                // its turn comes with the next launch, if it is busy
                let _ = self.ctx.tidy.try_send(self.aap()?.clone());
                Ok(())
            }
            Err(source) => Err(Error::Controller { step: "creating the schedule", source: Box::new(source) }),
        }
    }

    /// The one request that must not be repeated: sent only while the intent is what a quorum read gives, and only by who created the mark
    /// of this launch in the archive.
    async fn launch(&self, phase: Phase) -> Result<LaunchOutcome, Error> {
        let (asked, template) = self.asked(phase)?;
        let (Some(pins), Some(entry)) = (&self.status.pinned, self.status.of(phase)) else { return Err(Error::NoSession) };
        let Some(baseline) = entry.launch.as_ref().and_then(|l| l.baseline) else { return Err(Error::NoSession) };
        let runs = Api::<PatchRun>::namespaced(self.ctx.client.clone(), &self.namespace);
        let current = runs.get(&self.run.name_any()).await.map_err(|source| Error::Act { step: "reading the intent back", source })?;
        if current.uid() != self.run.uid() || current.status.as_ref() != Some(self.status) {
            return Ok(LaunchOutcome::Unknown("somebody else went on with the run".into()));
        }
        if current.metadata.deletion_timestamp.is_some() || current.spec.suspend() || current.spec.cancel() {
            let why = "deleted, suspended or cancelled in the very moment of the launch".into();
            return Ok(LaunchOutcome::Refused(Reason::Suspended, why));
        }
        let started = Started {
            run_key: entry.run_key.clone(),
            namespace: self.namespace.clone(),
            name: self.run.name_any(),
            install_uuid: pins.install_uuid.clone(),
            template,
            baseline,
            at: self.now,
        };
        match self.ctx.store.create_started(&started).await {
            Ok(()) => {}
            Err(archive::Error::Conflict(why)) => return Ok(LaunchOutcome::Unknown(why)),
            // nothing was sent; should the mark be there all the same, the next look takes it for a launch
            Err(error) => {
                let why = format!("the launch could not be marked as begun: {error}");
                return Ok(LaunchOutcome::Refused(Reason::RecordUnavailable, why));
            }
        }
        self.count_launch(phase, Mode::Direct);
        let request = LaunchRequest { limit: asked.limit, extra_vars: asked.variables };
        Ok(match self.aap()?.launch(template, &request).await {
            Ok(launched) => {
                let ignored = launched.value.ignored_fields.keys().cloned().collect();
                LaunchOutcome::Created { id: launched.value.id, ignored }
            }
            Err(error) if error.is_definite() => match self.ctx.store.remove_started(&entry.run_key).await {
                Ok(()) => LaunchOutcome::Refused(Reason::TemplateNotReady, error.to_string()),
                Err(archive) => LaunchOutcome::Unknown(format!("{error}; {archive}")),
            },
            Err(error) => LaunchOutcome::Unknown(error.to_string()),
        })
    }

    /// What is asked of the controller, and of which template.
    fn asked(&self, phase: Phase) -> Result<(jobs::Asked, i64), Error> {
        let pins = self.status.pinned.as_ref().ok_or(Error::NoSession)?;
        let ScopeFact::Fixed(_, hosts) = &self.seen.facts.scope else { return Err(Error::NoSession) };
        let key = names::phase_key(&self.seen.facts.run_key, phase);
        let asked = jobs::asked(self.run, phase, &key, hosts, pins);
        let template = asked.template.ok_or(Error::NoSession)?;
        // never send what means "all hosts"
        if asked.limit.is_empty() {
            return Err(Error::NoSession);
        }
        Ok((asked, template))
    }

    async fn archive_log(&self, phase: Phase) -> Result<(), Error> {
        let Some(entry) = self.status.of(phase) else { return Ok(()) };
        let Some(stream) = self.log_stream(entry.executor.as_ref().map(|e| (e.kind, e.id.as_str()))).await? else { return Ok(()) };
        let owner = Owner { namespace: self.namespace.clone(), name: self.run.name_any() };
        let source = entry.executor.as_ref().map_or_else(String::new, |e| format!("{:?} {}", e.kind, e.id));
        let put = self.ctx.store.put_log(&entry.run_key, &owner, &source, stream).await;
        put.map_err(|source| Error::Archive { step: "archiving the log", source })?;
        self.ctx.followed.forget(&self.namespace, &entry.run_key);
        Ok(())
    }

    /// The log of the executor; an empty one when it left none.
    async fn log_stream(
        &self,
        executor: Option<(ExecutorKind, &str)>,
    ) -> Result<Option<BoxStream<'static, io::Result<bytes::Bytes>>>, Error> {
        let note = |text: String| futures::stream::once(async move { Ok(bytes::Bytes::from(text)) }).boxed();
        match executor {
            None => Ok(Some(note("(nothing ran)\n".into()))),
            Some((ExecutorKind::Job, id)) => {
                let Ok(id) = id.parse::<i64>() else { return Ok(None) };
                match self.aap()?.stdout(id, archive::MAX_LOG_BYTES).await {
                    Ok(stdout) => Ok(Some(stdout.value.into_stream().map_err(io::Error::other).boxed())),
                    Err(error) if error.is_not_found() => Ok(Some(note(format!("(the controller has no output of job {id} any more)\n")))),
                    Err(source) => Err(Error::Controller { step: "reading the job's output", source: Box::new(source) }),
                }
            }
            Some((ExecutorKind::PipelineRun, name)) => {
                let without_pod = |why: &str| {
                    let kept = self.ctx.followed.kept(&(self.namespace.clone(), name.to_owned()));
                    let text = if kept.is_some() { format!("\n({why}; the log was read so far)\n") } else { format!("({why})\n") };
                    futures::stream::iter(kept.into_iter().chain([bytes::Bytes::from(text)]).map(Ok)).boxed()
                };
                let Some((pod, container)) = container(&self.seen.tasks, checks::RUN_STEP) else {
                    return Ok(Some(without_pod(&format!("PipelineRun {name} is gone, or its step never ran"))));
                };
                let pods = Api::<Pod>::namespaced(self.ctx.client.clone(), &self.namespace);
                let params = LogParams { container: Some(container), ..LogParams::default() };
                match pods.log_stream(&pod, &params).await {
                    Ok(reader) => Ok(Some(ReaderStream::new(tokio_util::compat::FuturesAsyncReadCompatExt::compat(reader)).boxed())),
                    Err(kube::Error::Api(status)) if status.is_not_found() || status.code == 400 => {
                        Ok(Some(without_pod(&format!("the pod {pod} of PipelineRun {name} is gone: {}", status.message))))
                    }
                    Err(source) => Err(Error::Act { step: "reading the check's log", source }),
                }
            }
        }
    }

    fn count_launch(&self, phase: Phase, mode: Mode) {
        let mode = match mode {
            Mode::Fenced => "Fenced",
            Mode::Direct => "Direct",
            Mode::Tekton => "Tekton",
        };
        self.ctx.metrics.launches.get_or_create(&LaunchLabels { phase: phase.as_str(), mode }).inc();
    }
}

/// How far ahead the schedule of a try is set. One that reached the controller too late launched nothing, so the next has twice the time.
fn ahead(try_: i32) -> SignedDuration {
    AHEAD * 2_i32.pow(u32::try_from(try_ - 1).unwrap_or_default().min(DOUBLINGS))
}

/// What exists already is as good as created: the next look tells whose it is.
fn adopt<K>(created: kube::Result<K>, step: &'static str) -> Result<(), Error> {
    match created {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => Err(Error::Act { step, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_that_missed_its_time_is_issued_again_with_more() {
        let seconds: Vec<i64> = (1..=4).map(|try_| ahead(try_).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40]);
        assert_eq!((ahead(7), ahead(100)), (ahead(100), SignedDuration::from_secs(320)));
    }
}
