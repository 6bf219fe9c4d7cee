//! Looks after an `AutomationConnection`: reachable, authenticated, templates fit. Reads the controller, writes status only.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{
        Config, Controller,
        controller::{self, Action},
        reflector::Store,
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    drive::{drive, never},
    reference_watch::Reference,
    sessions::{Purpose, Session},
};
use crate::{
    api::{automation_connection::AutomationConnection, patch_run::Phase, shared::NameOrId},
    clients::aap::{self, ErrorKind, Needs},
    clock,
    settings::Invalid,
    status::{self, Commit},
};

pub mod decide;

use decide::{Seen, TemplateFact};

/// Why a reconcile stopped; every variant is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The decision could not be recorded.
    #[error("recording the decision")]
    Commit(#[source] kube::Error),
    /// The operator's configuration cannot be used.
    #[error("reading the configuration")]
    Settings(#[source] Invalid),
    /// The object is not namespaced, which the CRD forbids.
    #[error("object has no namespace")]
    NoNamespace,
}

/// Reconciles one connection, once.
pub async fn reconcile(connection: &AutomationConnection, ctx: &Context) -> Result<Action, Error> {
    let namespace = connection.namespace().ok_or(Error::NoNamespace)?;
    let allowed = ctx.settings().map_err(Error::Settings)?.controllers.clone();
    ctx.references.follow(connection);
    let seen = observe(ctx, connection, &allowed).await;
    let decision = decide::decide(connection, &seen, clock::now());
    let api = Api::<AutomationConnection>::namespaced(ctx.client.clone(), &namespace);
    match status::commit(&api, connection, decision.status).await.map_err(Error::Commit)? {
        Commit::Stale => return Ok(Action::requeue(Duration::from_secs(1))),
        Commit::Written(_) => {
            ctx.metrics.status_writes.inc();
        }
        Commit::Unchanged => {}
    }
    Ok(Action::requeue(decision.requeue))
}

async fn observe(ctx: &Context, connection: &AutomationConnection, allowed: &[String]) -> Seen {
    let mut seen = Seen::default();
    let ping = match ctx.sessions.open(connection, Purpose::Ping, allowed).await {
        Ok(session) => session,
        Err(no) => {
            seen.invalid = Some((no.reason, no.message));
            return seen;
        }
    };
    match ping.aap.discover().await {
        Ok(controller) => seen.controller = Some(Ok(controller.value)),
        Err(error) => {
            seen.controller = Some(Err(error.to_string()));
            return seen;
        }
    }
    if connection.spec.read_credentials.is_none() {
        return seen;
    }
    match ctx.sessions.open(connection, Purpose::Read, allowed).await {
        Ok(session) => look_around(&session, connection, &mut seen).await,
        Err(no) => seen.authenticated = Some(Err((no.reason, no.message))),
    }
    seen
}

async fn look_around(session: &Session, connection: &AutomationConnection, seen: &mut Seen) {
    use crate::api::reason::Reason;
    if let Err(error) = session.aap.me().await {
        let reason = match &error.kind {
            ErrorKind::Unauthorized | ErrorKind::Forbidden { .. } => Reason::CredentialsRejected,
            ErrorKind::Unreachable(_)
            | ErrorKind::Ambiguous(_)
            | ErrorKind::NotFound { .. }
            | ErrorKind::Refused { .. }
            | ErrorKind::NotUnique { .. } => Reason::ControllerUnreachable,
        };
        seen.authenticated = Some(Err((reason, error.to_string())));
        return;
    }
    seen.authenticated = Some(Ok(()));
    match session.aap.inventory(&connection.spec.inventory).await {
        Ok(inventory) => seen.inventory = Some(Ok(inventory.value.id)),
        Err(error) => {
            seen.inventory = Some(Err(error.to_string()));
            return;
        }
    }
    let Some(Ok(inventory)) = seen.inventory else { return };
    let templates = &connection.spec.templates;
    for (phase, which) in [(Phase::Stage, &templates.stage), (Phase::Apply, &templates.apply), (Phase::Reboot, &templates.reboot)] {
        let Some(which) = which else { continue };
        seen.templates.push((phase, template(session, which, inventory).await));
    }
}

async fn template(session: &Session, which: &NameOrId, inventory: i64) -> TemplateFact {
    match session.aap.template(which).await {
        Ok(answer) => {
            let template = answer.value;
            // whoever reads here need not be who launches
            let problems = aap::preflight(&template, &Needs { inventory, launches: false });
            TemplateFact {
                id: Some(template.id),
                name: Some(template.name.clone()),
                blocked: problems.iter().any(|p| p.blocks),
                problems: problems.into_iter().map(|p| p.message).collect(),
            }
        }
        Err(error) => TemplateFact { id: None, name: None, blocked: true, problems: vec![error.to_string()] },
    }
}

/// Runs the controller until `stop`. The returned store is the cache of all connections.
pub fn start(client: &kube::Client) -> (Controller<DeserializeGuard<AutomationConnection>>, Store<DeserializeGuard<AutomationConnection>>) {
    let api = Api::<DeserializeGuard<AutomationConnection>>::all(client.clone());
    let controller = Controller::new(api, watcher::Config::default()).with_config(Config::default().concurrency(4));
    let store = controller.store();
    (controller, store)
}

/// Drives the controller of [`start`] until `stop`. A connection is also looked at when something it refers to is among `changes`.
pub async fn run(
    controller: Controller<DeserializeGuard<AutomationConnection>>,
    changes: impl Stream<Item = Reference> + Send + 'static,
    ctx: Arc<Context>,
    stop: CancellationToken,
) {
    let concerned = {
        let ctx = ctx.clone();
        changes.flat_map(move |reference| {
            ctx.sessions.forget(&reference);
            stream::iter(ctx.references.connections(&reference))
        })
    };
    controller
        .reconcile_on(concerned)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            |connection, ctx| drive(connection, ctx, |connection, ctx| async move { reconcile(&connection, &ctx).await }),
            never,
            ctx.clone(),
        )
        .for_each(|done| {
            // every connection is looked at again some time: so its end is noticed
            if let Err(controller::Error::ObjectNotFound(gone)) = done {
                ctx.references.leave(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
            }
            async {}
        })
        .await;
}
