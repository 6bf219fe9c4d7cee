//! Notices changes of what connections refer to, so that a rotated Secret or certificate authority is looked at without a timer.
//!
//! One watch for each object, by name and of its metadata only: contents are neither asked for nor held, and the one right it takes is `watch`, which
//! a Role can give for a single name. Where the right is missing, the timer of the connection does. What `spec.credentials` names is never watched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    StreamExt as _, TryStreamExt as _,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource,
    api::{WatchEvent, WatchParams},
    core::DeserializeGuard,
    runtime::reflector::ObjectRef,
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::automation_connection::AutomationConnection;

/// How long to wait after a refusal: a right is given by a person.
const REFUSED: Duration = Duration::from_mins(10);
/// How long to wait before a watch that ended or broke is begun again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long one watch lasts, seconds; the API server ends it.
const LASTS: u32 = 290;
/// The longest a watch may stay open: a connection that is dead does not end by itself.
const DEAD: Duration = Duration::from_secs(310);
/// Time between two announcements of one object: whoever writes it all the time must not have the controller asked all the time.
const PACE: Duration = Duration::from_secs(2);

/// What a connection may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// An object that a connection refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What to watch for a connection: the Secret of `readCredentials`, the CA bundle, and what the checks are given. Never the Secret of `credentials`,
/// whatever else it is used for.
pub fn references(connection: &AutomationConnection) -> BTreeSet<Reference> {
    let spec = &connection.spec;
    let namespace = connection.metadata.namespace.clone().unwrap_or_default();
    let bundle = spec.ca_bundle.iter();
    let checks = spec.checks.iter();
    let config_maps = bundle
        .clone()
        .filter_map(|b| b.config_map_key_ref.as_ref().map(|key| &key.name))
        .chain(checks.flat_map(|c| c.inventory.iter().chain([&c.known_hosts_ref]).map(|map| &map.name)));
    let never = spec.credentials.as_ref().map(|source| &source.secret_ref.name);
    let secrets = bundle
        .filter_map(|b| b.secret_key_ref.as_ref().map(|key| &key.name))
        .chain(spec.read_credentials.iter().map(|source| &source.secret_ref.name))
        .filter(|name| Some(*name) != never);
    let reference = |kind| {
        let namespace = namespace.clone();
        move |name: &String| Reference { kind, namespace: namespace.clone(), name: name.clone() }
    };
    config_maps.map(reference(Kind::ConfigMap)).chain(secrets.map(reference(Kind::Secret))).collect()
}

/// The watches of this process.
pub struct ReferenceWatch {
    client: Client,
    announce: UnboundedSender<Reference>,
    followed: Mutex<BTreeMap<Reference, Followed>>,
}

/// One watch: it lasts as long as a connection wants it.
struct Followed {
    by: BTreeSet<String>,
    _stop: DropGuard,
}

impl ReferenceWatch {
    /// No watch yet, and where changes are announced. The first sight of an object is one: it may be newer than what was read.
    pub fn new(client: Client) -> (Self, UnboundedReceiver<Reference>) {
        let (announce, changes) = unbounded();
        (Self { client, announce, followed: Mutex::default() }, changes)
    }

    /// From now on watches what this connection refers to, and no longer what it alone referred to before.
    pub fn follow(&self, connection: &AutomationConnection) {
        let name = connection.metadata.name.clone().unwrap_or_default();
        let namespace = connection.metadata.namespace.clone().unwrap_or_default();
        self.set(&namespace, &name, references(connection));
    }

    /// The connection is gone.
    pub fn leave(&self, namespace: &str, name: &str) {
        self.set(namespace, name, BTreeSet::new());
    }

    /// The connections that refer to the object.
    pub fn connections(&self, reference: &Reference) -> Vec<ObjectRef<DeserializeGuard<AutomationConnection>>> {
        let followed = self.followed();
        let by = followed.get(reference).map(|f| &f.by);
        by.into_iter().flatten().map(|name| ObjectRef::new(name).within(&reference.namespace)).collect()
    }

    fn set(&self, namespace: &str, connection: &str, wanted: BTreeSet<Reference>) {
        let mut followed = self.followed();
        followed.retain(|reference, watch| {
            if reference.namespace == namespace && !wanted.contains(reference) {
                watch.by.remove(connection);
            }
            !watch.by.is_empty()
        });
        for reference in wanted {
            let watch = followed.entry(reference.clone()).or_insert_with(|| self.start(reference));
            watch.by.insert(connection.to_owned());
        }
    }

    fn start(&self, reference: Reference) -> Followed {
        let stop = CancellationToken::new();
        let (client, announce, until) = (self.client.clone(), self.announce.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = run(client, reference, announce) => {}
                () = until.cancelled() => {}
            }
        });
        Followed { by: BTreeSet::new(), _stop: stop.drop_guard() }
    }

    fn followed(&self) -> MutexGuard<'_, BTreeMap<Reference, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The version of an object that was seen last; `None` while it is not there.
type Version = Option<String>;

async fn run(client: Client, reference: Reference, announce: UnboundedSender<Reference>) {
    let (seen, mut changes) = watch::channel(Version::None);
    let watching = async {
        match reference.kind {
            Kind::ConfigMap => look(Api::<ConfigMap>::namespaced(client, &reference.namespace), &reference.name, &seen).await,
            Kind::Secret => look(Api::<Secret>::namespaced(client, &reference.namespace), &reference.name, &seen).await,
        }
    };
    let announcing = async {
        while changes.changed().await.is_ok() && announce.unbounded_send(reference.clone()).is_ok() {
            tokio::time::sleep(PACE).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = announcing => {}
    }
}

/// Watches one object for ever. The library's watcher lists before it watches, which takes another right.
async fn look<K>(api: Api<K>, name: &str, seen: &watch::Sender<Version>)
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    loop {
        let wait = match tokio::time::timeout(DEAD, look_once(&api, name, seen)).await {
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => REFUSED,
            Ok(Err(error)) => {
                tracing::debug!(%error, name, "watching what a connection refers to");
                AGAIN
            }
            Ok(Ok(())) | Err(_) => AGAIN,
        };
        tokio::time::sleep(wait).await;
    }
}

async fn look_once<K>(api: &Api<K>, name: &str, seen: &watch::Sender<Version>) -> kube::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let params = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(LASTS);
    // from 0: what is there comes first, so that a change between two watches is seen
    let mut events = api.watch_metadata(&params, "0").await?.boxed();
    while let Some(event) = events.try_next().await? {
        let now = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => object.metadata.resource_version,
            WatchEvent::Deleted(_) => None,
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        };
        seen.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }
    Ok(())
}
