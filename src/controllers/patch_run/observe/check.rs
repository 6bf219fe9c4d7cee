//! Looks at a check: at Tekton, its pods, and the report they left.

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt as _,
    api::{LogParams, PostParams},
};

use super::{
    super::{
        Error, checks,
        decide::{Gate, Pipeline, ScopeFact, Work},
    },
    Look, Seen,
};
use crate::{
    api::{automation_connection::AutomationConnection, patch_run::PhaseStatus, reason::Reason},
    clients::tekton::{PipelineRun, TaskRun},
    controllers::sessions::NoSession,
    names,
};

impl Look<'_> {
    pub(super) async fn tekton_before(&self, seen: &mut Seen, connection: &AutomationConnection) -> Result<(), Error> {
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
    pub(super) async fn tekton_during(&self, seen: &mut Seen, entry: &PhaseStatus) -> Result<bool, Error> {
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
