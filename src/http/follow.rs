//! What the server follows of the cluster: every PatchRun, with one watch for all who wait, and its own configuration.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use tokio::{sync::watch, time::Instant};

use super::problem::Problem;
use crate::{
    api::patch_run::PatchRun,
    archive::Owner,
    settings::{self, Invalid, run_defaults::RunDefaults},
};

/// After this long without news the object itself is read: a watch may have broken off.
const LOOK: Duration = Duration::from_secs(30);
/// How long the first list may take.
const READY: Duration = Duration::from_secs(10);

/// The PatchRuns as the one watch last saw them.
#[derive(Clone)]
pub struct Runs {
    client: Client,
    store: Store<PatchRun>,
    changed: watch::Receiver<u64>,
}

/// How waiting for a run ended.
#[derive(Debug)]
pub enum Waited {
    /// What was waited for is there.
    Reached(Arc<PatchRun>),
    /// The time is up; this is how the run stands.
    Late(Arc<PatchRun>),
    /// The object is gone.
    Gone,
}

impl Runs {
    /// The runs, and what must be polled to keep them current: it never ends.
    pub fn follow(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let writer = reflector::store::Writer::<PatchRun>::default();
        let (announce, changed) = watch::channel(0);
        let runs = Self { client: client.clone(), store: writer.as_reader(), changed };
        let following = async move {
            let events = watcher(Api::<PatchRun>::all(client), watcher::Config::default()).default_backoff();
            // nobody asks for what takes most of the room
            let events = events.modify(|run: &mut PatchRun| run.metadata.managed_fields = None).reflect(writer);
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Ok(_) => announce.send_modify(|version| *version += 1),
                    Err(error) => tracing::warn!(%error, "watching PatchRuns"),
                }
            }
        };
        (runs, following)
    }

    /// Tells when any run changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// A run as last seen.
    pub fn get(&self, owner: &Owner) -> Option<Arc<PatchRun>> {
        self.store.get(&ObjectRef::new(&owner.name).within(&owner.namespace))
    }

    /// The runs of a namespace that fit, newest first, as last seen. 503 when none were seen yet.
    pub async fn of(&self, namespace: &str, fits: impl Fn(&PatchRun) -> bool + Send) -> Result<Vec<Arc<PatchRun>>, Problem> {
        let ready = tokio::time::timeout(READY, self.store.wait_until_ready()).await;
        if !matches!(ready, Ok(Ok(()))) {
            return Err(Problem::unavailable("the Kubernetes API server does not tell which runs there are"));
        }
        let mut found = self.store.state();
        found.retain(|run| run.metadata.namespace.as_deref() == Some(namespace) && fits(run));
        found.sort_by_key(|run| Reverse((run.metadata.creation_timestamp.as_ref().map(|at| at.0), run.metadata.name.clone())));
        Ok(found)
    }

    /// Waits until `reached` or `until`. Follows the name: an object that Git creates again is the same run.
    pub async fn wait(&self, owner: &Owner, run: PatchRun, until: Instant, reached: impl Fn(&PatchRun) -> bool) -> Waited {
        let mut changed = self.changes();
        let mut known = Arc::new(run);
        let mut seen = false;
        loop {
            if reached(&known) {
                return Waited::Reached(known);
            }
            changed.mark_unchanged();
            let current = self.get(owner);
            let vanished = seen && current.is_none();
            if let Some(current) = current {
                seen = true;
                known = current;
                if reached(&known) {
                    return Waited::Reached(known);
                }
            }
            let now = Instant::now();
            if now >= until {
                return Waited::Late(known);
            }
            let news = changed.changed();
            let quiet = vanished || tokio::time::timeout_at(until.min(now + LOOK), news).await.is_err();
            if quiet && Instant::now() < until {
                match Api::<PatchRun>::namespaced(self.client.clone(), &owner.namespace).get_opt(&owner.name).await {
                    Ok(Some(run)) => {
                        seen = false;
                        known = Arc::new(run);
                    }
                    Ok(None) => return Waited::Gone,
                    Err(error) => tracing::warn!(%error, %owner, "the PatchRun cannot be read"),
                }
                if vanished {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// What the server needs of `fettle-config`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Where people reach the server, without a trailing slash; empty when it is not configured.
    pub server_url: String,
    /// Defaults of requests.
    pub defaults: RunDefaults,
}

impl Configuration {
    fn parse(data: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let server_url = data.get("SERVER_URL").map(|url| url.trim().trim_end_matches('/').to_owned()).unwrap_or_default();
        Ok(Self { server_url, defaults: RunDefaults::parse(data)? })
    }
}

/// The configuration as it stands, or what is wrong with it.
pub type Configured = watch::Receiver<Result<Arc<Configuration>, Invalid>>;

/// The configuration, and what must be polled to keep it current: it never ends. Without the ConfigMap there are no defaults.
pub fn configuration(client: Client, namespace: &str) -> (Configured, impl Future<Output = ()> + Send + use<>) {
    let (announce, configured) = watch::channel(Ok(Arc::default()));
    let api = Api::<ConfigMap>::namespaced(client, namespace);
    let following = async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", settings::NAME));
        let mut events = watcher(api, config).default_backoff().boxed();
        let mut seen = false;
        while let Some(event) = events.next().await {
            let next = match event {
                Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) => {
                    seen = true;
                    Configuration::parse(&map.data.unwrap_or_default()).map(Arc::new)
                }
                Ok(watcher::Event::Init) => {
                    seen = false;
                    continue;
                }
                Ok(watcher::Event::InitDone) if seen => continue,
                Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => Ok(Arc::default()),
                Err(error) => {
                    tracing::warn!(%error, "watching {}", settings::NAME);
                    continue;
                }
            };
            if let Err(invalid) = &next {
                tracing::error!(error = %invalid, "no run is created by request with this configuration");
            }
            drop(announce.send_replace(next));
        }
    };
    (configured, following)
}
