//! Leadership by a `Lease`: one manager works, the others stand by. For efficiency only: what is launched at most once is fenced elsewhere.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::Api;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{clock, status};

/// Name of the Lease in the operator's namespace.
pub const NAME: &str = "fettle-manager";
/// After that long without renewal the lease is free.
const DURATION: Duration = Duration::from_secs(30);
/// How often it is renewed, or looked at by those who stand by.
const RENEW: Duration = Duration::from_secs(8);
/// Without a renewal for that long the leader stops working: well before others may begin.
const GIVE_UP: Duration = Duration::from_secs(20);

/// Competes for the lease until `stop`; the receiver says whether this process leads.
pub fn compete(api: Api<Lease>, identity: Arc<str>, stop: CancellationToken) -> (watch::Receiver<bool>, tokio::task::JoinHandle<()>) {
    let (announce, leads) = watch::channel(false);
    let task = tokio::spawn(async move {
        let mut seen: Option<(String, Instant)> = None;
        let mut renewed: Option<Instant> = None;
        loop {
            let round = tokio::time::timeout(RENEW, turn(&api, &identity, &mut seen)).await;
            match round {
                Ok(Ok(true)) => {
                    renewed = Some(Instant::now());
                    announce.send_if_modified(|leads| !std::mem::replace(leads, true));
                }
                Ok(Ok(false)) => {
                    renewed = None;
                    announce.send_if_modified(|leads| std::mem::replace(leads, false));
                }
                Ok(Err(error)) => tracing::warn!(%error, "renewing the lease"),
                Err(_) => tracing::warn!("renewing the lease took too long"),
            }
            if renewed.is_some_and(|at| at.elapsed() >= GIVE_UP) {
                tracing::error!("leadership lost: the lease could not be renewed");
                renewed = None;
                announce.send_if_modified(|leads| std::mem::replace(leads, false));
            }
            tokio::select! {
                () = tokio::time::sleep(RENEW) => {}
                () = stop.cancelled() => break,
            }
        }
        if renewed.is_some()
            && let Err(error) = release(&api, &identity).await
        {
            tracing::warn!(%error, "releasing the lease");
        }
    });
    (leads, task)
}

/// One look: renews the lease if it is ours, takes it if it is free. `seen` is the last foreign version and when it was first seen, by this
/// process's own monotonic clock: clocks of different machines are never compared.
async fn turn(api: &Api<Lease>, identity: &str, seen: &mut Option<(String, Instant)>) -> kube::Result<bool> {
    let now = MicroTime(clock::now());
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(claim(identity, &now, &now, 0)) };
        return taken(api.create(&status::params(), &lease).await);
    };
    let spec = lease.spec.take().unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let transitions = spec.lease_transitions.unwrap_or_default();
    let next = if holder == identity {
        claim(identity, spec.acquire_time.as_ref().unwrap_or(&now), &now, transitions)
    } else {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let fresh = !matches!(seen, Some((v, _)) if *v == version);
        if fresh {
            *seen = Some((version, Instant::now()));
        }
        let expired = seen.as_ref().is_some_and(|(_, at)| at.elapsed() >= DURATION);
        if !holder.is_empty() && !expired {
            return Ok(false);
        }
        claim(identity, &now, &now, transitions + 1)
    };
    lease.spec = Some(next);
    lease.metadata.managed_fields = None;
    taken(api.replace(NAME, &status::params(), &lease).await)
}

async fn release(api: &Api<Lease>, identity: &str) -> kube::Result<()> {
    let Some(mut lease) = api.get_opt(NAME).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(identity)) else { return Ok(()) };
    spec.holder_identity = None;
    lease.metadata.managed_fields = None;
    taken(api.replace(NAME, &status::params(), &lease).await).map(|_| ())
}

fn taken(answer: kube::Result<Lease>) -> kube::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(other) => Err(other),
    }
}

fn claim(identity: &str, acquired: &MicroTime, renewed: &MicroTime, transitions: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(micro(acquired.0)),
        renew_time: Some(micro(renewed.0)),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

fn micro(time: Timestamp) -> MicroTime {
    MicroTime(time)
}
