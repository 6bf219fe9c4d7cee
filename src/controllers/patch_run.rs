//! Drives a PatchRun: observe → decide → commit → act → events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use kube::{
    Api, Resource as _, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{Config, Controller, controller::Action, reflector::Store, watcher},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    drive::{drive, never},
};
use crate::{
    api::{
        patch_run::{PatchRun, PatchRunStatus},
        reason::Reason,
    },
    archive,
    clients::aap,
    clock, conditions, events,
    metrics::{FailureLabels, PhaseLabel, PhaseLabels, RunLabels, WaitingLabels},
    runbooks,
    settings::Invalid,
    status::{self, Commit},
};

mod act;
pub mod checks;
pub mod decide;
pub mod follow;
pub mod jobs;
pub mod ledger;
mod observe;
pub mod scope;
pub mod verdict;

use decide::{Decision, Step};

/// Reconciles at the same time.
const CONCURRENCY: u16 = 16;
/// Time between two counts of the runs that are not over.
const COUNTED: Duration = Duration::from_secs(15);

/// Why a reconcile stopped; every variant is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read failed.
    #[error("reading {what}")]
    Observe {
        /// What was read.
        what: &'static str,
        /// What went wrong.
        source: kube::Error,
    },
    /// A step failed in the cluster.
    #[error("{step}")]
    Act {
        /// The step.
        step: &'static str,
        /// What went wrong.
        source: kube::Error,
    },
    /// A step failed in the controller.
    #[error("{step}")]
    Controller {
        /// The step.
        step: &'static str,
        /// What went wrong.
        source: Box<aap::Error>,
    },
    /// A step failed in the archive.
    #[error("{step}")]
    Archive {
        /// The step.
        step: &'static str,
        /// What went wrong.
        source: archive::Error,
    },
    /// The decision could not be recorded.
    #[error("recording the decision")]
    Commit(#[source] kube::Error),
    /// The operator's configuration cannot be used.
    #[error("reading the configuration")]
    Settings(#[source] Invalid),
    /// A step needs a session that the last look did not give.
    #[error("no session with the controller")]
    NoSession,
    /// The object is not namespaced, which the CRD forbids.
    #[error("object has no namespace")]
    NoNamespace,
}

/// Reconciles one run, once.
pub async fn reconcile(run: &PatchRun, ctx: &Context) -> Result<Action, Error> {
    let namespace = run.namespace().ok_or(Error::NoNamespace)?;
    let now = clock::now();
    let seen = observe::observe(ctx, run, now).await?;
    let Decision { status, step, requeue } = decide::decide(run, &seen.facts, now);
    // the record comes first: a step that is not on record is never taken
    let runs = Api::<PatchRun>::namespaced(ctx.client.clone(), &namespace);
    let before = run.status.clone().unwrap_or_default();
    let version = match status::commit(&runs, run, status.clone()).await.map_err(Error::Commit)? {
        Commit::Stale => return Ok(Action::requeue(Duration::from_millis(500))),
        Commit::Written(version) => {
            report(ctx, run, &before, &status).await;
            version
        }
        // a direct launch is the one step that is not repeatable: only who recorded its intent just now may take it
        Commit::Unchanged if matches!(step, Step::Launch { .. }) => return Ok(Action::requeue(Duration::from_secs(2))),
        Commit::Unchanged => run.resource_version().unwrap_or_default(),
    };
    if step != Step::Nothing {
        tracing::info!(?step, "acting");
    }
    if let Some(outcome) = act::act(ctx, run, &seen, (&status, &version), &step, now).await?
        && let Step::Launch { phase } = step
        && let Some(known) = decide::after_launch(run, phase, status.clone(), &outcome)
    {
        // an answer that comes late changes nothing: whoever went on meanwhile finds the job by its run key
        let current = runs.get_status(&run.name_any()).await.map_err(Error::Commit)?;
        if current.status.as_ref() == Some(&status) {
            status::commit(&runs, &current, known).await.map_err(Error::Commit)?;
        }
    }
    Ok(match requeue.and_then(|after| Duration::try_from(after).ok()) {
        Some(after) => Action::requeue(after),
        None => Action::await_change(),
    })
}

/// Tells the world of a transition: log line, metrics, events.
async fn report(ctx: &Context, run: &PatchRun, before: &PatchRunStatus, after: &PatchRunStatus) {
    ctx.metrics.status_writes.inc();
    let reason = conditions::find(&after.conditions, conditions::types::SUCCEEDED);
    tracing::info!(
        state = ?after.state,
        phase = after.phase.map(super::super::api::patch_run::Phase::as_str),
        reason = reason.map(|c| c.reason.as_str()),
        detail = reason.map(|c| c.message.as_str()),
        "transition"
    );
    for phase in &after.phases {
        if before.of(phase.name).and_then(|p| p.result).is_none()
            && let Some(result) = phase.result
        {
            let labels =
                PhaseLabels { phase: phase.name.as_str(), result: result.as_str(), reason: phase.reason.clone().unwrap_or_default() };
            ctx.metrics.phases.get_or_create(&labels).inc();
            if phase.adopted == Some(true) {
                ctx.metrics.adoptions.inc();
                continue;
            }
            let name = phase.name.as_str();
            if let (Some(started), Some(finished)) = (phase.started_at, phase.finished_at) {
                let seconds = (finished - started).total(jiff::Unit::Second).unwrap_or_default();
                ctx.metrics.phase_seconds.get_or_create(&PhaseLabel { phase: name }).observe(seconds);
            }
            if let Some(cause) = &phase.classification {
                let labels = FailureLabels { phase: name, error_code: runbooks::shipped_code(&cause.error_code).to_owned() };
                ctx.metrics.failures.get_or_create(&labels).inc();
            }
        }
    }
    if before.result.is_none()
        && let Some(result) = after.result
    {
        ctx.metrics.runs.get_or_create(&RunLabels { result: result.as_str() }).inc();
    }
    for event in events::of_patch_run(before, after) {
        if let Err(error) = ctx.recorder.publish(&event, &run.object_ref(&())).await {
            tracing::warn!(error = %super::brief(&error), "publishing an event");
        }
    }
}

/// The controller, and the cache of all runs.
pub fn start(client: &kube::Client) -> (Controller<DeserializeGuard<PatchRun>>, Store<DeserializeGuard<PatchRun>>) {
    let controller = Controller::new(Api::<DeserializeGuard<PatchRun>>::all(client.clone()), watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY));
    let store = controller.store();
    (controller, store)
}

/// Drives the controller of [`start`] until `stop`; what is under way is ended first.
pub async fn run(controller: Controller<DeserializeGuard<PatchRun>>, ctx: Arc<Context>, stop: CancellationToken) {
    // a pause, or its end, concerns them all
    let settings = stream::unfold(ctx.settings.clone(), |mut settings| async move {
        settings.changed().await.ok()?;
        Some(((), settings))
    });
    let counting = count_unfinished(&ctx);
    let driving = controller
        .reconcile_all_on(settings)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(|run, ctx| drive(run, ctx, |run, ctx| async move { reconcile(&run, &ctx).await }), never, ctx.clone())
        .for_each(|_| async {});
    tokio::select! {
        () = driving => {}
        () = counting => {}
    }
}

/// Counts the runs that are not over, for ever. From the cache: what is counted by transitions is wrong after a restart.
async fn count_unfinished(ctx: &Context) {
    let mut shown = BTreeSet::new();
    loop {
        let mut counts: BTreeMap<&str, i64> = shown.iter().map(|reason| (*reason, 0)).collect();
        for run in ctx.runs.state() {
            let Ok(PatchRun { status: Some(status), .. }) = &run.0 else { continue };
            let reason = conditions::find(&status.conditions, conditions::types::SUCCEEDED).and_then(|c| Reason::parse(&c.reason));
            if let (None, Some(reason)) = (status.result, reason) {
                *counts.entry(reason.as_str()).or_default() += 1;
            }
        }
        for (reason, count) in counts {
            shown.insert(reason);
            ctx.metrics.unfinished.get_or_create(&WaitingLabels { reason }).set(count);
        }
        tokio::time::sleep(COUNTED).await;
    }
}
