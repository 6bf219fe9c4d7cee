//! One reconcile that cannot stop its controller: not by a panic, not by hanging, not by an object that cannot be read.

use std::{convert::Infallible, error::Error, sync::Arc, time::Duration};

use kube::{Resource, ResourceExt as _, core::DeserializeGuard, runtime::controller::Action};
use tracing::Instrument as _;

use super::{Context, brief};
use crate::metrics::ReconcileLabels;

/// Longest time one reconcile may take: longer than the longest request.
const DEADLINE: Duration = Duration::from_mins(5);
/// Wait before an object that cannot be read is looked at again, unless it changes.
const UNREADABLE: Duration = Duration::from_mins(10);

/// Runs `reconcile` on the object, counts it, and says when to look again. An error is logged and waited out, longer each time.
///
/// What `reconcile` does is never cut in half: it goes on when the controller stops, and also beyond the deadline.
pub async fn drive<K, F, E>(
    object: Arc<DeserializeGuard<K>>,
    ctx: Arc<Context>,
    reconcile: impl FnOnce(K, Arc<Context>) -> F,
) -> Result<Action, Infallible>
where
    K: Resource<DynamicType = ()> + Clone + Send + 'static,
    F: Future<Output = Result<Action, E>> + Send + 'static,
    E: Error + Send + 'static,
{
    let kind = K::kind(&()).to_lowercase();
    let object = match &object.0 {
        Ok(object) => object.clone(),
        Err(invalid) => {
            let (namespace, name) = (&invalid.metadata.namespace, &invalid.metadata.name);
            tracing::error!(controller = kind, namespace, object = name, error = %invalid.error, "an object cannot be read");
            return Ok(Action::requeue(UNREADABLE));
        }
    };
    let (namespace, name, uid) = (object.namespace(), object.name_any(), object.uid().unwrap_or_default());
    let span = tracing::info_span!("reconcile", controller = kind, namespace, object = name, uid);
    let started = tokio::time::Instant::now();
    let work = tokio::spawn(reconcile(object, ctx.clone()).instrument(span.clone()));
    let result = match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(Ok(action))) => Ok(action),
        Ok(Ok(Err(error))) => Err((error.to_string(), causes(&error))),
        Ok(Err(_)) => Err(("the reconcile panicked".into(), String::new())),
        Err(_) => Err(("the reconcile takes too long".into(), String::new())),
    };
    ctx.metrics.reconcile_seconds.observe(started.elapsed().as_secs_f64());
    let labels = ReconcileLabels { controller: kind, result: if result.is_ok() { "success" } else { "error" } };
    ctx.metrics.reconciles.get_or_create(&labels).inc();
    Ok(match result {
        Ok(action) => {
            ctx.backoff.succeeded(&uid);
            action
        }
        Err((error, cause)) => {
            let wait = ctx.backoff.failed(&uid);
            span.in_scope(|| tracing::warn!(error, cause, retry_in = ?wait, "reconcile failed"));
            Action::requeue(wait)
        }
    })
}

/// What lies behind an error, for people.
fn causes(error: &dyn Error) -> String {
    let mut texts = vec![];
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(kube) = cause.downcast_ref::<kube::Error>() {
            // it may hold whole objects
            texts.push(brief(kube));
            break;
        }
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts.join(": ")
}

/// There is no error left for a controller to have a policy for.
pub fn never<K>(_: Arc<K>, error: &Infallible, _: Arc<Context>) -> Action {
    match *error {}
}
