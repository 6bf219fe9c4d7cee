//! [`Shelf`]: the Runbooks in force. Those of the operator's namespace are for everybody, those of another namespace for its own runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher},
};

use crate::{api::runbook::Runbook, runbooks::Library};

/// Runbooks of one namespace that are used, in the order of their names: what a team writes must not slow others down.
const PER_NAMESPACE: usize = 200;

/// The Runbooks of the cluster, and the libraries made of them.
pub struct Shelf {
    operator: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By namespace and name.
    runbooks: BTreeMap<String, BTreeMap<String, Runbook>>,
    /// By namespace; made when first asked for.
    libraries: BTreeMap<String, Arc<Library>>,
    /// Grows with every change.
    version: u64,
}

impl Shelf {
    /// An empty shelf: the shipped Runbooks are in force. `operator` is the operator's namespace.
    pub fn new(operator: &str) -> Arc<Self> {
        Arc::new(Self { operator: operator.to_owned(), state: Mutex::default() })
    }

    /// What reads the logs of runs in `namespace`. Runbooks with a mistake are left out; their status says which.
    pub async fn library(self: &Arc<Self>, namespace: &str) -> Arc<Library> {
        let (wanted, version, runbooks) = {
            let state = self.state();
            let of = |namespace: &str| state.runbooks.get(namespace).filter(|runbooks| !runbooks.is_empty());
            let own = of(namespace).filter(|_| namespace != self.operator);
            let wanted = if own.is_some() { namespace } else { &self.operator };
            if let Some(library) = state.libraries.get(wanted) {
                return library.clone();
            }
            let all = [own, of(&self.operator)];
            (wanted.to_owned(), state.version, all.map(|some| some.map(|r| r.values().take(PER_NAMESPACE).cloned().collect::<Vec<_>>())))
        };
        // many patterns take a while
        let made = tokio::task::spawn_blocking(move || match runbooks {
            [None, None] => Library::shipped(),
            [own, base] => {
                let base = base.unwrap_or_else(|| Library::shipped_runbooks().to_vec());
                Arc::new(Library::new(own.into_iter().flatten().chain(base)).0)
            }
        });
        let library = made.await.unwrap_or_else(|_| Library::shipped());
        let mut state = self.state();
        if state.version == version {
            state.libraries.insert(wanted, library.clone());
        }
        library
    }

    /// Keeps the shelf as the cluster has it, for ever. Without the right to watch, or without the definition, it stays as it is.
    pub async fn follow(self: Arc<Self>, client: Client) {
        let api = Api::<DeserializeGuard<Runbook>>::all(client);
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        let mut listed = BTreeMap::<String, BTreeMap<String, Runbook>>::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(runbook)) => {
                    if let Ok(runbook) = runbook.0 {
                        listed.entry(runbook.namespace().unwrap_or_default()).or_default().insert(runbook.name_any(), runbook);
                    }
                }
                Ok(watcher::Event::InitDone) => self.change(|runbooks| *runbooks = std::mem::take(&mut listed)),
                Ok(watcher::Event::Apply(runbook)) => {
                    let (namespace, name) = (runbook.namespace().unwrap_or_default(), runbook.name_any());
                    self.change(|runbooks| match runbook.0 {
                        Ok(runbook) => drop(runbooks.entry(namespace).or_default().insert(name, runbook)),
                        Err(_) => drop(runbooks.get_mut(&namespace).and_then(|of| of.remove(&name))),
                    });
                }
                Ok(watcher::Event::Delete(runbook)) => {
                    let (namespace, name) = (runbook.namespace().unwrap_or_default(), runbook.name_any());
                    self.change(|runbooks| drop(runbooks.get_mut(&namespace).and_then(|of| of.remove(&name))));
                }
                Err(error) => tracing::warn!(%error, "watching Runbooks"),
            }
        }
    }

    fn change(&self, how: impl FnOnce(&mut BTreeMap<String, BTreeMap<String, Runbook>>)) {
        let mut state = self.state();
        let before = specs(&state.runbooks);
        how(&mut state.runbooks);
        // a new status is no new Runbook
        if specs(&state.runbooks) != before {
            state.libraries.clear();
            state.version += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which generation of which Runbooks.
fn specs(runbooks: &BTreeMap<String, BTreeMap<String, Runbook>>) -> Vec<(Option<String>, Option<i64>)> {
    runbooks.values().flat_map(BTreeMap::values).map(|runbook| (runbook.metadata.uid.clone(), runbook.metadata.generation)).collect()
}
