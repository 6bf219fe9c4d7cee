//! Looks after a `Runbook`: whether it finds its examples and nothing else, and how often it explained a failure. Writes status only.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{Config, Controller, controller::Action, watcher},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    drive::{drive, never},
};
use crate::{
    api::runbook::Runbook,
    clock,
    status::{self, Commit},
};

pub mod decide;

use decide::Hits;

/// Time between two counts of what it explained. They come from the cache of the runs.
const COUNTED: Duration = Duration::from_mins(1);

/// Why a reconcile stopped; every variant is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The decision could not be recorded.
    #[error("recording the decision")]
    Commit(#[source] kube::Error),
    /// The object is not namespaced, which the CRD forbids.
    #[error("object has no namespace")]
    NoNamespace,
}

/// Reconciles one Runbook, once.
pub async fn reconcile(runbook: &Runbook, ctx: &Context) -> Result<Action, Error> {
    let namespace = runbook.namespace().ok_or(Error::NoNamespace)?;
    let hits = hits(ctx, &namespace, runbook);
    let status = decide::decide(runbook, hits, clock::now());
    let api = Api::<Runbook>::namespaced(ctx.client.clone(), &namespace);
    match status::commit(&api, runbook, status).await.map_err(Error::Commit)? {
        Commit::Stale => return Ok(Action::requeue(Duration::from_secs(1))),
        Commit::Written(_) => {
            ctx.metrics.status_writes.inc();
        }
        Commit::Unchanged => {}
    }
    Ok(Action::requeue(COUNTED))
}

/// What it explained among the runs that exist: those of its namespace, or, in the operator's, all.
fn hits(ctx: &Context, namespace: &str, runbook: &Runbook) -> Hits {
    let mut hits = Hits::default();
    for run in ctx.runs.state() {
        let Ok(run) = &run.0 else { continue };
        if namespace != ctx.namespace && run.metadata.namespace.as_deref() != Some(namespace) {
            continue;
        }
        for phase in run.status.iter().flat_map(|status| &status.phases) {
            if phase.classification.as_ref().is_some_and(|cause| cause.error_code == runbook.spec.error_code) {
                hits.number += 1;
                hits.last = hits.last.max(phase.finished_at);
            }
        }
    }
    hits
}

/// Runs the controller until `stop`.
pub async fn run(client: Client, ctx: Arc<Context>, stop: CancellationToken) {
    let api = Api::<DeserializeGuard<Runbook>>::all(client);
    Controller::new(api, watcher::Config::default())
        .with_config(Config::default().concurrency(2))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(|runbook, ctx| drive(runbook, ctx, |runbook, ctx| async move { reconcile(&runbook, &ctx).await }), never, ctx)
        .for_each(|_| async {})
        .await;
}
