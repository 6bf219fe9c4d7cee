//! Looks at everything a decision about a run needs, and at nothing else. Reads only.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{ConfigMap, Namespace, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{LogParams, PostParams},
    runtime::reflector::ObjectRef,
};

use super::{
    Error, checks,
    decide::{self, Gate, Job, LockFact, LogFact, Observed, Pipeline, RecordFact, Schedule, ScopeFact, Work},
    jobs,
    ledger::{Entries, Holder, Ledger},
    scope::{self, Host},
};
use crate::{
    api::{
        automation_connection::{AutomationConnection, LaunchMode},
        patch_run::{ExecutorKind, Mode, PatchRun, PatchRunStatus, Phase, PhaseStatus, Pinned},
        reason::Reason,
        shared::NameOrId,
    },
    archive::started::Started,
    clients::{
        aap::{self, Needs},
        tekton::{PipelineRun, TaskRun},
    },
    controllers::{
        Context,
        sessions::{NoSession, Purpose, Session},
    },
    names,
};

/// Facts, and what acting on a decision needs besides.
pub struct Seen {
    /// What is decided on.
    pub facts: Observed,
    /// The connection, when it was needed.
    pub connection: Option<AutomationConnection>,
    /// A session with the controller, when there is one.
    pub session: Option<Session>,
    /// The controller's time, when it was asked.
    pub controller_time: Option<Timestamp>,
    /// The TaskRuns of the current check.
    pub tasks: Vec<TaskRun>,
    /// What the ledger holds for the run.
    pub entries: Entries,
}

/// Looks.
pub async fn observe(ctx: &Context, run: &PatchRun, now: Timestamp) -> Result<Seen, Error> {
    let settings = ctx.settings().map_err(Error::Settings)?;
    let status = decide::current(run);
    let run_key = status.run_key.clone().unwrap_or_else(|| names::run_key(&settings.installation, run, decide::attempt(run)));
    let facts = Observed {
        run_key,
        server_url: settings.server_url.clone(),
        paused: settings.pause,
        gate: Gate::Open,
        record: RecordFact::NotLooked,
        log: LogFact::NotLooked,
        scope: ScopeFact::NotLooked,
        locks: LockFact::NotLooked,
        work: Work::NotLooked,
        guard: crate::api::automation_connection::GuardPolicy::default(),
        namespace_going: false,
    };
    let mut seen = Seen { facts, connection: None, session: None, controller_time: None, tasks: vec![], entries: Entries::default() };
    let look = Look {
        ctx,
        run,
        now,
        namespace: run.namespace().ok_or(Error::NoNamespace)?,
        allowed: settings.controllers.clone(),
        group_variable: settings.group_variable.clone(),
    };
    let phase = decide::phase_in_question(run, &status);
    let entry = phase.and_then(|p| status.of(p));
    let leaving = phase.is_none() || (entry.is_none() && run.metadata.deletion_timestamp.is_some());
    match (phase, entry) {
        _ if leaving => {
            if decide::has_finalizer(run) {
                look.scope(&mut seen, &status).await?;
                look.locks(&mut seen, &status).await?;
            }
        }
        (Some(phase), None) => look.before(&mut seen, &status, phase).await?,
        (Some(phase), Some(entry)) => look.during(&mut seen, &status, phase, entry).await?,
        (None, _) => {}
    }
    Ok(seen)
}

struct Look<'a> {
    ctx: &'a Context,
    run: &'a PatchRun,
    now: Timestamp,
    namespace: String,
    allowed: Vec<String>,
    group_variable: String,
}

impl Look<'_> {
    /// Nothing of `phase` is on record.
    async fn before(&self, seen: &mut Seen, status: &PatchRunStatus, phase: Phase) -> Result<(), Error> {
        let key = names::phase_key(&seen.facts.run_key, phase);
        seen.facts.record = self.record(&key).await;
        if !matches!(seen.facts.record, RecordFact::Absent) {
            return Ok(());
        }
        let spec = &self.run.spec;
        let waits = spec.start_after.is_some_and(|after| self.now < after) || spec.suspend() || seen.facts.paused;
        let may_have_run = phase.is_change();
        if waits && !may_have_run {
            return Ok(());
        }
        let connection = match self.connection() {
            Ok(connection) => connection,
            Err(gate) => {
                seen.facts.gate = gate;
                return Ok(());
            }
        };
        seen.facts.guard = connection.spec.guard();
        self.scope(seen, status).await?;
        // what to run comes first; who may run it now comes after
        if phase.is_change() {
            self.aap_before(seen, status, phase, &key, &connection).await?;
        } else {
            self.tekton_before(seen, &connection).await?;
        }
        seen.connection = Some(connection);
        if waits {
            return Ok(());
        }
        if matches!(seen.facts.scope, ScopeFact::NotLooked) && seen.facts.gate == Gate::Open {
            self.resolve(seen).await?;
        }
        if matches!(seen.facts.scope, ScopeFact::Fixed(..)) {
            self.locks(seen, status).await?;
        }
        Ok(())
    }

    /// `phase` is on record and not over.
    async fn during(&self, seen: &mut Seen, status: &PatchRunStatus, phase: Phase, entry: &PhaseStatus) -> Result<(), Error> {
        // it is immutable: what was read once is not read again while the phase goes on
        match self.ctx.scopes.get(&seen.facts.run_key) {
            Some((status, hosts)) => seen.facts.scope = ScopeFact::Fixed(status, hosts),
            None => self.scope(seen, status).await?,
        }
        if !matches!(seen.facts.scope, ScopeFact::Fixed(..)) {
            self.scope_of_ledger(seen, status).await?;
        }
        if self.run.metadata.deletion_timestamp.is_some() {
            seen.facts.namespace_going = self.namespace_going().await?;
        }
        if seen.facts.namespace_going {
            seen.facts.record = self.record(&entry.run_key).await;
        }
        if !matches!(seen.facts.scope, ScopeFact::Fixed(..)) {
            let why =
                "the ConfigMap with the hosts of this run is gone or was replaced; the phase goes on, its end cannot be proven without it";
            seen.facts.work = Work::Unavailable(Reason::InventoryUnavailable, why.into());
            return Ok(());
        }
        let Some(launch) = &entry.launch else { return Ok(()) };
        let connection = self.connection();
        if let Ok(connection) = &connection {
            seen.facts.guard = connection.spec.guard();
        }
        let ended = match launch.mode {
            Mode::Tekton => self.tekton_during(seen, entry).await?,
            Mode::Fenced | Mode::Direct => match &connection {
                Ok(connection) => self.aap_during(seen, status, phase, entry, connection).await?,
                Err(gate) => {
                    let (Gate::Wait(reason, why) | Gate::Refuse(reason, why)) = gate.clone() else { return Ok(()) };
                    seen.facts.work = Work::Unavailable(reason, why);
                    false
                }
            },
        };
        seen.connection = connection.ok();
        if ended {
            seen.facts.log = self.log(&entry.run_key).await;
            seen.facts.record = self.record(&entry.run_key).await;
        }
        Ok(())
    }

    fn connection(&self) -> Result<AutomationConnection, Gate> {
        let name = &self.run.spec.connection.name;
        let found = self.ctx.connections.get(&ObjectRef::new(name).within(&self.namespace));
        match found.as_deref().map(|guard| &guard.0) {
            Some(Ok(connection)) => Ok(connection.clone()),
            Some(Err(_)) => Err(Gate::Wait(
                Reason::ConnectionInvalid,
                format!("AutomationConnection {name} cannot be read: it does not fit its schema"),
            )),
            None => Err(Gate::Wait(
                Reason::ConnectionNotFound,
                format!("there is no AutomationConnection {name} in namespace {}", self.namespace),
            )),
        }
    }

    async fn record(&self, key: &str) -> RecordFact {
        match self.ctx.store.record(key).await {
            Ok(Some(record)) if record.namespace == self.namespace && record.name == self.run.name_any() => {
                RecordFact::Found(Box::new(record))
            }
            Ok(Some(record)) => RecordFact::Unavailable(format!("the record of {key} belongs to {}/{}", record.namespace, record.name)),
            Ok(None) => RecordFact::Absent,
            Err(error) => RecordFact::Unavailable(error.to_string()),
        }
    }

    async fn log(&self, key: &str) -> LogFact {
        match self.ctx.store.log_meta(key).await {
            Ok(Some(log)) => LogFact::Found(log),
            Ok(None) => LogFact::Absent,
            Err(error) => LogFact::Unavailable(error.to_string()),
        }
    }

    /// The hosts that are entered in the ledger, when they are those of the scope: its ConfigMap is gone.
    async fn scope_of_ledger(&self, seen: &mut Seen, status: &PatchRunStatus) -> Result<(), Error> {
        self.locks(seen, status).await?;
        let hosts = seen.entries.hosts();
        if let Some(scope) = status.scope.as_ref().filter(|scope| scope.digest == scope::digest(&hosts)) {
            self.ctx.scopes.put(&seen.facts.run_key, scope, &hosts);
            seen.facts.scope = ScopeFact::Fixed(scope.clone(), hosts);
        }
        Ok(())
    }

    /// Whether the namespace is being deleted, and the run with it.
    async fn namespace_going(&self) -> Result<bool, Error> {
        match Api::<Namespace>::all(self.ctx.client.clone()).get_opt(&self.namespace).await {
            Ok(namespace) => Ok(namespace.is_none_or(|n| n.metadata.deletion_timestamp.is_some())),
            Err(source) => Err(Error::Observe { what: "the namespace", source }),
        }
    }

    /// The scope as it was fixed, if it was.
    async fn scope(&self, seen: &mut Seen, status: &PatchRunStatus) -> Result<(), Error> {
        let name = names::scope(&seen.facts.run_key);
        let maps = Api::<ConfigMap>::namespaced(self.ctx.client.clone(), &self.namespace);
        match maps.get_opt(&name).await {
            Ok(None) => {}
            Ok(Some(map)) => {
                let on_record = status.scope.as_ref();
                let read = scope::read(&map, &seen.facts.run_key);
                if let Some((status, hosts)) = read.filter(|(read, _)| on_record.is_none_or(|fixed| fixed.digest == read.digest)) {
                    self.ctx.scopes.put(&seen.facts.run_key, &status, &hosts);
                    seen.facts.scope = ScopeFact::Fixed(status, hosts);
                } else {
                    let why = format!("ConfigMap {name} exists and was not written by Fettle for this run; delete it");
                    seen.facts.gate = Gate::Wait(Reason::InventoryUnavailable, why);
                }
            }
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                let no = self.ctx.sessions.missing_right(&self.namespace, None);
                seen.facts.gate = Gate::Wait(no.reason, no.message);
            }
            Err(source) => return Err(Error::Observe { what: "the scope", source }),
        }
        Ok(())
    }

    /// Looks the hosts up for the first time.
    async fn resolve(&self, seen: &mut Seen) -> Result<(), Error> {
        let Some(connection) = seen.connection.clone() else { return Ok(()) };
        let Some(ledger) = connection.status.as_ref().and_then(|s| s.install_uuid.clone()) else {
            seen.facts.gate = Gate::Wait(Reason::ControllerUnreachable, "the controller of the connection has not answered yet".into());
            return Ok(());
        };
        let inventory = match self.inventory(seen, &connection).await? {
            Ok(inventory) => inventory,
            Err(no) => {
                seen.facts.gate = Gate::Wait(no.reason, no.message);
                return Ok(());
            }
        };
        let name = names::scope(&seen.facts.run_key);
        let variable = connection.spec.group_variable.as_deref().unwrap_or(&self.group_variable);
        match scope::resolve(&self.run.spec, connection.spec.group_by(), variable, &inventory, (&name, &ledger), &self.ctx.own_nodes) {
            Ok(plan) => seen.facts.scope = ScopeFact::Resolved(Box::new(plan)),
            Err(gate) => seen.facts.gate = gate,
        }
        Ok(())
    }

    /// All hosts of the connection: from the controller, else from the checks' own inventory.
    async fn inventory(&self, seen: &mut Seen, connection: &AutomationConnection) -> Result<Result<Vec<Host>, NoSession>, Error> {
        let spec = &connection.spec;
        let session = if let Some(session) = &seen.session {
            Some(session.clone())
        } else if spec.read_credentials.is_some() {
            match self.ctx.sessions.open(connection, Purpose::Read, &self.allowed).await {
                Ok(session) => Some(session),
                Err(no) => return Ok(Err(no)),
            }
        } else {
            None
        };
        if let Some(session) = session {
            return Ok(match session_inventory(&session, &spec.inventory).await {
                Ok(hosts) => Ok(hosts),
                Err(error) => Err(waiting(&error, Purpose::Read, connection)),
            });
        }
        let Some(own) = spec.checks.as_ref().and_then(|c| c.inventory.as_ref()) else {
            return Ok(Err(NoSession {
                reason: Reason::InventoryUnavailable,
                message: "hosts cannot be looked up: set readCredentials or checks.inventory in the connection".into(),
            }));
        };
        let maps = Api::<ConfigMap>::namespaced(self.ctx.client.clone(), &self.namespace);
        let map = match maps.get_opt(&own.name).await {
            Ok(map) => map,
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                return Ok(Err(self.ctx.sessions.missing_right(&self.namespace, None)));
            }
            Err(source) => return Err(Error::Observe { what: "the inventory", source }),
        };
        let text = map.and_then(|m| m.data).and_then(|data| data.get("inventory").cloned());
        let variable = spec.group_variable.as_deref().unwrap_or(&self.group_variable);
        Ok(match text.map(|text| scope::parse_inventory(&text, variable)) {
            Some(Ok(hosts)) => Ok(hosts),
            Some(Err(why)) => {
                Err(NoSession { reason: Reason::InventoryUnavailable, message: format!("ConfigMap {}: key inventory: {why}", own.name) })
            }
            None => {
                Err(NoSession { reason: Reason::InventoryUnavailable, message: format!("ConfigMap {} has no key inventory", own.name) })
            }
        })
    }

    async fn locks(&self, seen: &mut Seen, status: &PatchRunStatus) -> Result<(), Error> {
        let me = holder(self.run, &self.namespace, &seen.facts.run_key);
        let looked = match (&seen.facts.scope, &status.scope) {
            (ScopeFact::Fixed(scope, hosts), _) => ledger(self.ctx, &scope.ledger).look(hosts, &me).await,
            (ScopeFact::NotLooked | ScopeFact::Resolved(_), Some(scope)) => ledger(self.ctx, &scope.ledger).entries(&me).await,
            // without a scope nothing was ever entered
            (ScopeFact::NotLooked | ScopeFact::Resolved(_), None) => {
                Ok((LockFact::Seen { ours: 0, free: 0, busy: None }, Entries::default()))
            }
        };
        (seen.facts.locks, seen.entries) = looked.map_err(|source| Error::Observe { what: "the ledger", source })?;
        Ok(())
    }

    async fn tekton_before(&self, seen: &mut Seen, connection: &AutomationConnection) -> Result<(), Error> {
        if seen.facts.gate != Gate::Open {
            return Ok(());
        }
        let Some(checks) = &connection.spec.checks else {
            let why = "read phases need spec.checks in the connection (SSH key and known hosts)";
            seen.facts.gate = Gate::Wait(Reason::ConnectionInvalid, why.into());
            return Ok(());
        };
        if !self.ctx.tekton.is_installed() {
            let why = "Tekton Pipelines is not installed in this cluster; read phases wait for it";
            seen.facts.gate = Gate::Wait(Reason::TektonNotInstalled, why.into());
        } else if !self.may_create_pipeline_runs().await? {
            let no = self.ctx.sessions.missing_right(&self.namespace, None);
            seen.facts.gate = Gate::Wait(no.reason, no.message);
        } else if let Some(own) = &checks.pipeline_ref
            && let Some(no) = self.unfit(&own.name).await?
        {
            seen.facts.gate = Gate::Wait(no.reason, no.message);
        } else {
            seen.facts.work = Work::Tekton(Pipeline::Absent);
        }
        Ok(())
    }

    /// Why the team's own Pipeline is not used for checks: only one that is labelled for it gets the SSH key.
    async fn unfit(&self, name: &str) -> Result<Option<NoSession>, Error> {
        let (namespace, label) = (&self.namespace, names::CHECKS);
        let invalid = |message| Some(NoSession { reason: Reason::ConnectionInvalid, message });
        let pipelines = Api::<crate::clients::tekton::Pipeline>::namespaced(self.ctx.client.clone(), namespace);
        match pipelines.get_metadata_opt(name).await {
            Ok(Some(pipeline)) if pipeline.labels().get(label).is_some_and(|value| value == "true") => Ok(None),
            Ok(Some(_)) => Ok(invalid(format!(
                "Pipeline {name} does not say that it may carry out checks; when it may: kubectl -n {namespace} label --overwrite \
                 pipelines.tekton.dev {name} {label}=true"
            ))),
            Ok(None) => Ok(invalid(format!(
                "Pipeline {name} is not there; create it in namespace {namespace} with the label {label}: \"true\", or take \
                 spec.checks.pipelineRef out of the connection"
            ))),
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Some(self.ctx.sessions.missing_right(namespace, None))),
            Err(source) => Err(Error::Observe { what: "the Pipeline of the checks", source }),
        }
    }

    async fn may_create_pipeline_runs(&self) -> Result<bool, Error> {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some("tekton.dev".into()),
                    resource: Some("pipelineruns".into()),
                    verb: Some("create".into()),
                    namespace: Some(self.namespace.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = Api::<SelfSubjectAccessReview>::all(self.ctx.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|source| Error::Observe { what: "own rights", source })?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }

    /// Looks at a check. `true` when it is over, or will never be.
    async fn tekton_during(&self, seen: &mut Seen, entry: &PhaseStatus) -> Result<bool, Error> {
        let try_ = entry.launch.as_ref().map_or(1, |l| l.try_);
        let name = names::work(&entry.run_key, try_);
        let run = match self.ctx.tekton.run(&self.namespace, &name) {
            Some(run) => Some(run),
            // the cache may lag; what is missing is asked for
            None => match Api::<PipelineRun>::namespaced(self.ctx.client.clone(), &self.namespace).get_opt(&name).await {
                Ok(run) => run,
                Err(source) => return Err(Error::Observe { what: "the PipelineRun", source }),
            },
        };
        let Some(run) = run else {
            seen.facts.work = Work::Tekton(Pipeline::Absent);
            return Ok(true);
        };
        let digest = match &seen.facts.scope {
            ScopeFact::Fixed(status, _) => status.digest.clone(),
            ScopeFact::NotLooked | ScopeFact::Resolved(_) => String::new(),
        };
        let ours = checks::digest(entry.name, &entry.run_key, self.run.spec.desired_kernel.as_deref(), &digest);
        let annotation = |name: &str| run.annotations().get(name).cloned().unwrap_or_default();
        if annotation(names::RUN_KEY) != entry.run_key || annotation(names::DIGEST) != ours {
            seen.facts.work = Work::Tekton(Pipeline::Foreign(format!("PipelineRun {name} exists and is not of this run")));
            return Ok(true);
        }
        let status = run.status.clone().unwrap_or_default();
        let tasks = self.ctx.tekton.tasks(&self.namespace, &run);
        let started = status.start_time.as_ref().map(|t| t.0);
        let complete = tasks.len() == status.child_references.len();
        let over = status.succeeded().is_some_and(crate::clients::tekton::TektonCondition::is_over)
            && complete
            && tasks_over(&tasks)
            && self.pods_over(&tasks).await?;
        seen.tasks = tasks;
        if !over {
            if let Some(of_run) = container(&seen.tasks, checks::RUN_STEP) {
                let pods = Api::<Pod>::namespaced(self.ctx.client.clone(), &self.namespace);
                self.ctx.followed.follow((self.namespace.clone(), name), pods, of_run);
            }
            seen.facts.work = Work::Tekton(Pipeline::Active { started });
            // a check that must be stopped has its log saved first
            return Ok(entry.launch.as_ref().is_some_and(|l| l.stopping.is_some()) || self.run.spec.cancel());
        }
        let report = self.report(&seen.tasks).await?;
        let infrastructure = checks::infrastructure(&status, &seen.tasks).filter(|_| report.is_empty());
        let evidence = Box::new(checks::evidence(&status, &seen.tasks, &report));
        let finished = status.completion_time.as_ref().map(|t| t.0);
        seen.facts.work = Work::Tekton(Pipeline::Over { started, finished, evidence, infrastructure });
        Ok(true)
    }

    /// A PipelineRun was seen failed while a pod of it still worked.
    async fn pods_over(&self, tasks: &[TaskRun]) -> Result<bool, Error> {
        let pods = Api::<Pod>::namespaced(self.ctx.client.clone(), &self.namespace);
        for name in tasks.iter().filter_map(|t| t.status.as_ref()?.pod_name.as_deref()) {
            let pod = pods.get_opt(name).await.map_err(|source| Error::Observe { what: "the check's pod", source })?;
            let phase = pod.and_then(|p| p.status).and_then(|s| s.phase);
            if matches!(phase.as_deref(), Some("Pending" | "Running" | "Unknown")) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the report step printed; empty when there is none.
    async fn report(&self, tasks: &[TaskRun]) -> Result<String, Error> {
        let Some((pod, container)) = container(tasks, checks::REPORT_STEP) else { return Ok(String::new()) };
        let pods = Api::<Pod>::namespaced(self.ctx.client.clone(), &self.namespace);
        let limit = i64::try_from(checks::REPORT_LIMIT).unwrap_or(i64::MAX);
        let params = LogParams { container: Some(container), limit_bytes: Some(limit), ..LogParams::default() };
        match pods.logs(&pod, &params).await {
            // `cat` says on its standard error that there is no report
            Ok(text) => Ok(text.lines().filter(|l| !l.starts_with("cat: ")).fold(String::new(), |text, line| text + line + "\n")),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.code == 400 => Ok(String::new()),
            Err(source) => Err(Error::Observe { what: "the check's report", source }),
        }
    }

    /// Looks at the controller before anything of a change phase is on record: is it launched already, may it be launched?
    async fn aap_before(
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
            let controller = session.aap.discover().await?;
            seen.controller_time = controller.date;
            let inventory = session.aap.inventory(&connection.spec.inventory).await?.value;
            let template = session.aap.template(template).await?.value;
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
            let (schedule, job) = self.launched(&session, key, 1, &asked, controller.date.unwrap_or(self.now)).await?;
            let direct = connection.spec.launch_mode() == LaunchMode::Direct;
            let baseline = match &started {
                Some(started) => Some(started.baseline),
                None if direct => Some(session.aap.baseline(template.id).await?.value),
                None => None,
            };
            Ok::<_, aap::Error>((decide::Aap { pins, schedule, job, baseline, started: started.is_some() }, problems))
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
            Err(error) => {
                let no = waiting(&error, Purpose::Change, connection);
                seen.facts.gate = Gate::Wait(no.reason, no.message);
            }
        }
        Ok(())
    }

    /// Looks at a launch or a job. `true` when it is over, or will never be.
    async fn aap_during(
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
                let no = waiting(&error, Purpose::Change, connection);
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

    /// The schedule of a try, searched by name over all templates, and its job.
    async fn launched(
        &self,
        session: &Session,
        key: &str,
        try_: i32,
        asked: &jobs::Asked,
        now: Timestamp,
    ) -> Result<(Schedule, Job), aap::Error> {
        let name = names::work(key, try_);
        let schedules = session.aap.schedules_named(&name).await?.value;
        let schedule = match schedules.as_slice() {
            [] => Schedule::Absent,
            [one] => match jobs::schedule_differs(one, asked) {
                // before the scope is fixed there is nothing to compare with
                Some(why) if !asked.limit.is_empty() => Schedule::Foreign(why),
                _ => Schedule::Ours { id: one.id, enabled: one.enabled, due: one.next_run.is_some() },
            },
            many => Schedule::Foreign(format!("{} schedules are named {name}, of different templates", many.len())),
        };
        if schedule == Schedule::Absent {
            return Ok((schedule, Job::NotFound));
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
        Ok((schedule, job))
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

/// Everything in an inventory of the controller.
async fn session_inventory(session: &Session, which: &NameOrId) -> Result<Vec<Host>, aap::Error> {
    let inventory = session.aap.inventory(which).await?.value;
    let hosts = session.aap.inventory_hosts(inventory.id).await?.value;
    Ok(hosts
        .into_iter()
        .map(|host| Host { name: host.name, enabled: host.enabled, variables: host.variables.into_iter().collect(), groups: host.groups })
        .collect())
}

/// What an error of the controller means for a run that waits.
fn waiting(error: &aap::Error, purpose: Purpose, connection: &AutomationConnection) -> NoSession {
    let secret = match purpose {
        Purpose::Change => connection.spec.credentials.as_ref(),
        Purpose::Read | Purpose::Ping => connection.spec.read_credentials.as_ref(),
    };
    let secret = secret.map(|s| format!(" (Secret {})", s.secret_ref.name)).unwrap_or_default();
    let reason = match &error.kind {
        aap::ErrorKind::Unauthorized => Reason::CredentialsRejected,
        aap::ErrorKind::Unreachable(_) | aap::ErrorKind::Ambiguous(_) => Reason::ControllerUnreachable,
        aap::ErrorKind::Forbidden { .. }
        | aap::ErrorKind::NotFound { .. }
        | aap::ErrorKind::Refused { .. }
        | aap::ErrorKind::NotUnique { .. } => Reason::TemplateNotReady,
    };
    let message = if reason == Reason::CredentialsRejected { format!("{error}{secret}") } else { error.to_string() };
    NoSession { reason, message }
}

fn tasks_over(tasks: &[TaskRun]) -> bool {
    tasks.iter().all(|t| t.status.as_ref().and_then(|s| s.succeeded()).is_some_and(crate::clients::tekton::TektonCondition::is_over))
}

/// Pod and container of a step, wherever it is.
pub fn container(tasks: &[TaskRun], step: &str) -> Option<(String, String)> {
    tasks.iter().filter_map(|t| t.status.as_ref()).find_map(|status| {
        let state = status.steps.iter().find(|s| s.name.as_deref() == Some(step))?;
        Some((status.pod_name.clone()?, state.container.clone()?))
    })
}

/// The run as the ledger names it.
pub fn holder(run: &PatchRun, namespace: &str, run_key: &str) -> Holder {
    Holder { namespace: namespace.to_owned(), name: run.name_any(), run_key: run_key.to_owned() }
}

/// The ledger of a controller.
pub fn ledger(ctx: &Context, install_uuid: &str) -> Ledger {
    Ledger::new(Api::namespaced(ctx.client.clone(), &ctx.namespace), install_uuid)
}
