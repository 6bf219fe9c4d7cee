//! One module per reconciled kind: observe → decide → commit → act.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{
    Client,
    core::DeserializeGuard,
    runtime::{events::Recorder, reflector::Store},
};
use tokio::sync::{mpsc, watch};

use crate::{
    api::{automation_connection::AutomationConnection, patch_run::PatchRun},
    archive::remote,
    clients::aap::Aap,
    metrics::Metrics,
    settings::{Invalid, Settings},
};

pub mod api_addresses;
pub mod automation_connection;
pub mod drive;
pub mod janitor;
pub mod patch_run;
pub mod reference_watch;
pub mod runbook;
pub mod sessions;
pub mod settings_watch;
pub mod tekton_watch;

/// Everything a reconcile may touch.
pub struct Context {
    /// The cluster. Repeats nothing by itself.
    pub client: Client,
    /// The operator's namespace.
    pub namespace: String,
    /// The operator's configuration, live.
    pub settings: watch::Receiver<Result<Arc<Settings>, Invalid>>,
    /// Where logs and records go.
    pub store: remote::Store,
    /// What Tekton does.
    pub tekton: tekton_watch::TektonWatch,
    /// The runs, cached.
    pub runs: Store<DeserializeGuard<PatchRun>>,
    /// The connections, cached.
    pub connections: Store<DeserializeGuard<AutomationConnection>>,
    /// Sessions with controllers.
    pub sessions: sessions::Sessions,
    /// Notices when what connections refer to changes.
    pub references: reference_watch::ReferenceWatch,
    /// Events.
    pub recorder: Recorder,
    /// Metrics.
    pub metrics: Metrics,
    /// Names and addresses of the node this process runs on, in lower case.
    pub own_nodes: BTreeSet<String>,
    /// Scopes that were read, by run key.
    pub scopes: patch_run::scope::Cache,
    /// Controllers that a change phase is talking to: what is long over there is cleared away with the same session.
    pub tidy: mpsc::Sender<Aap>,
    /// Logs of checks that run.
    pub followed: patch_run::follow::Followed,
    /// Failures in a row, by object; for the waits between tries.
    pub backoff: backoff::Backoff,
}

impl Context {
    /// The configuration now.
    pub fn settings(&self) -> Result<Arc<Settings>, Invalid> {
        self.settings.borrow().clone()
    }
}

/// A Kubernetes error for people: reason and message, never a dump.
pub fn brief(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{}: {}", status.reason, status.message).chars().take(400).collect();
    }
    let name: String = format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect();
    format!("the API server could not be asked ({name})")
}

/// Waits that grow with failures in a row.
pub mod backoff {
    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    use super::Duration;

    const FIRST: Duration = Duration::from_secs(2);
    const LONGEST: Duration = Duration::from_mins(5);

    /// Failures in a row, by object.
    #[derive(Default)]
    pub struct Backoff(Mutex<BTreeMap<String, u32>>);

    impl Backoff {
        /// Counts a failure of the object and says how long to wait: 2 s, doubled up to 5 min.
        pub fn failed(&self, uid: &str) -> Duration {
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(uid.to_owned()).or_default();
            *count += 1;
            FIRST.saturating_mul(1 << (*count - 1).min(10)).min(LONGEST)
        }

        /// Forgets the failures of the object.
        pub fn succeeded(&self, uid: &str) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn waits_grow_to_a_bound_and_start_over_after_a_success() {
            let backoff = Backoff::default();
            let waits: Vec<u64> = (0..12).map(|_| backoff.failed("a").as_secs()).collect();
            assert_eq!(waits[..4], [2, 4, 8, 16]);
            assert_eq!(waits[11], 300);
            backoff.succeeded("a");
            assert_eq!(backoff.failed("a").as_secs(), 2);
        }
    }
}
