//! Clears away what is not needed any more: PipelineRuns of checks, a day after they ended and only when their record is in the archive.
//!
//! They have no owner on purpose: deleting a PatchRun must not delete the evidence before it is archived.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Preconditions},
};
use tokio_util::sync::CancellationToken;

use super::{Context, brief};
use crate::{clients::tekton::PipelineRun, clock, names};

/// How often to look.
const EVERY: Duration = Duration::from_mins(10);
/// How long an ended PipelineRun is kept.
const KEEP: SignedDuration = SignedDuration::from_hours(24);

/// Looks every ten minutes until `stop`.
pub async fn run(ctx: Arc<Context>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        for run in ctx.tekton.all() {
            if let Some(key) = overdue(&run, clock::now()) {
                remove(&ctx, &run, &key).await;
            }
        }
    }
}

/// The phase key of a PipelineRun that ended long ago.
fn overdue(run: &PipelineRun, now: Timestamp) -> Option<String> {
    let ended = run.status.as_ref()?.completion_time.as_ref()?.0;
    (now >= ended + KEEP).then(|| run.annotations().get(names::RUN_KEY).cloned())?
}

async fn remove(ctx: &Context, run: &PipelineRun, key: &str) {
    match ctx.store.record(key).await {
        Ok(Some(_)) => {}
        // without a record it is the only evidence
        Ok(None) | Err(_) => return,
    }
    let api = Api::<PipelineRun>::namespaced(ctx.client.clone(), &run.namespace().unwrap_or_default());
    // this very object, not one of the same name
    let preconditions = Some(Preconditions { uid: run.uid(), resource_version: None });
    match api.delete(&run.name_any(), &DeleteParams { preconditions, ..DeleteParams::default() }).await {
        Ok(_) => tracing::info!(namespace = run.namespace(), pipeline_run = run.name_any(), "removed a PipelineRun that is archived"),
        Err(error) => tracing::warn!(error = brief(&error), pipeline_run = run.name_any(), "removing a PipelineRun"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ended_a_day_ago_and_is_ours_is_overdue() {
        let run = |completed: Option<&str>, key: Option<&str>| -> PipelineRun {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "spec": {},
                "metadata": {"name": "a", "annotations": key.map(|k| serde_json::json!({names::RUN_KEY: k}))},
                "status": {"completionTime": completed},
            }))
            .expect("a PipelineRun")
        };
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        assert_eq!(overdue(&run(Some("2026-11-21T12:00:00Z"), Some("k")), now), Some("k".into()));
        assert_eq!(overdue(&run(Some("2026-11-21T12:00:01Z"), Some("k")), now), None);
        assert_eq!(overdue(&run(None, Some("k")), now), None);
        assert_eq!(overdue(&run(Some("2026-11-20T12:00:00Z"), None), now), None);
    }
}
