//! Clears away what is not needed any more.
//!
//! PipelineRuns of checks, a day after they ended and only when their record is in the archive. They have no owner on purpose: deleting a
//! PatchRun must not delete the evidence before it is archived.
//!
//! Schedules, when the records of their runs are forgotten too. Until then they are the fence that keeps a phase from being launched twice.
//! The credentials of changes are for change phases only, so schedules are looked at when a launch has just been made.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Preconditions},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Context, brief};
use crate::{
    clients::{
        aap::{Aap, Schedule},
        tekton::PipelineRun,
    },
    clock, names,
};

/// How often to look.
const EVERY: Duration = Duration::from_mins(10);
/// How long an ended PipelineRun is kept.
const KEEP: SignedDuration = SignedDuration::from_hours(24);

/// How long a schedule is kept after the last moment at which its job could have run: as long as records are.
const KEEP_SCHEDULE: SignedDuration = SignedDuration::from_hours(24 * 366);

/// Looks at PipelineRuns every ten minutes, and at the schedules of each controller that `launching` names, until `stop`.
pub async fn run(ctx: Arc<Context>, mut launching: mpsc::Receiver<Aap>, stop: CancellationToken) {
    let mut due = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    loop {
        tokio::select! {
            _ = due.tick() => {
                for run in ctx.tekton.all() {
                    if let Some(key) = overdue(&run, clock::now()) {
                        remove(&ctx, &run, &key).await;
                    }
                }
            }
            Some(aap) = launching.recv() => remove_schedules(&aap, clock::now()).await,
            () = stop.cancelled() => return,
        }
    }
}

/// Deletes the schedules of the controller that are of no use any more, oldest first.
pub async fn remove_schedules(aap: &Aap, now: Timestamp) {
    let oldest = match aap.oldest_schedules(names::WORK_PREFIX).await {
        Ok(oldest) => oldest.value,
        Err(error) => return tracing::warn!(%error, "looking for old schedules"),
    };
    for schedule in oldest.iter().filter(|schedule| is_forgotten(schedule, now)) {
        match aap.delete_schedule(schedule.id).await {
            Ok(_) => tracing::info!(schedule = schedule.name, "removed a schedule whose time is long over"),
            Err(error) => tracing::warn!(%error, schedule = schedule.name, "removing a schedule"),
        }
    }
}

/// Whether nothing could be launched by it any more, nor be found by it.
fn is_forgotten(schedule: &Schedule, now: Timestamp) -> bool {
    let not_after = schedule.extra_data.get("fettle_not_after").and_then(serde_json::Value::as_i64);
    let long_over = not_after.and_then(|at| Timestamp::from_second(at).ok()).is_some_and(|at| now > at + KEEP_SCHEDULE);
    long_over && schedule.next_run.is_none()
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
