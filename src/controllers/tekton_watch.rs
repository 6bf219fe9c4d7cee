//! What Tekton does with the PipelineRuns Fettle made: a cache of them and of their TaskRuns, filled as soon as Tekton is installed.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    clients::tekton::{PipelineRun, TaskRun},
    names,
};

/// How often to ask whether Tekton was installed meanwhile.
const ASK: Duration = Duration::from_secs(30);

/// The cache; cheap to clone.
#[derive(Clone)]
pub struct TektonWatch {
    runs: Store<DeserializeGuard<PipelineRun>>,
    tasks: Store<DeserializeGuard<TaskRun>>,
    installed: watch::Receiver<bool>,
}

impl TektonWatch {
    /// Starts the watches. They live until `stop`.
    pub fn start(client: Client, stop: CancellationToken) -> Self {
        let (runs, run_writer) = reflector::store();
        let (tasks, task_writer) = reflector::store();
        let (announce, installed) = watch::channel(false);
        tokio::spawn(async move {
            let work = async {
                loop {
                    match kube::discovery::pinned_kind(&client, &kube::core::GroupVersionKind::gvk("tekton.dev", "v1", "PipelineRun")).await
                    {
                        Ok(_) => break,
                        Err(error) => tracing::debug!(%error, "Tekton is not installed"),
                    }
                    tokio::time::sleep(ASK).await;
                }
                let config = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={}", names::MANAGER));
                let run_api = Api::<DeserializeGuard<PipelineRun>>::all(client.clone());
                let task_api = Api::<DeserializeGuard<TaskRun>>::all(client.clone());
                let runs = reflector::reflector(run_writer, watcher(run_api, config.clone())).default_backoff();
                let tasks = reflector::reflector(task_writer, watcher(task_api, config)).default_backoff();
                announce.send_replace(true);
                tracing::info!("watching PipelineRuns");
                let runs = runs.for_each(|event| async move {
                    if let Err(error) = event {
                        tracing::warn!(%error, "watching PipelineRuns");
                    }
                });
                let tasks = tasks.for_each(|event| async move {
                    if let Err(error) = event {
                        tracing::warn!(%error, "watching TaskRuns");
                    }
                });
                futures::join!(runs, tasks);
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
        Self { runs, tasks, installed }
    }

    /// Whether Tekton is installed.
    pub fn is_installed(&self) -> bool {
        *self.installed.borrow()
    }

    /// The PipelineRun of that name, as far as the cache knows.
    pub fn run(&self, namespace: &str, name: &str) -> Option<PipelineRun> {
        let found: Arc<DeserializeGuard<PipelineRun>> = self.runs.get(&ObjectRef::new(name).within(namespace))?;
        found.0.as_ref().ok().cloned()
    }

    /// The TaskRuns of a PipelineRun, as far as the cache knows.
    pub fn tasks(&self, namespace: &str, run: &PipelineRun) -> Vec<TaskRun> {
        let children = run.status.iter().flat_map(|s| &s.child_references);
        children
            .filter_map(|child| self.tasks.get(&ObjectRef::new(&child.name).within(namespace)))
            .filter_map(|guard| guard.0.as_ref().ok().cloned())
            .collect()
    }

    /// Every PipelineRun in the cache.
    pub fn all(&self) -> Vec<PipelineRun> {
        self.runs.state().iter().filter_map(|guard| guard.0.as_ref().ok().cloned()).collect()
    }
}
