//! Follows the log of a check while it runs, so that a pod that vanishes (a lost node, an eviction, a PipelineRun deleted by hand) does not take
//! all of it along. What is kept here is only used when the pod is gone: a pod that is there is read again, from its beginning.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use tokio_util::task::AbortOnDropHandle;

use crate::names;

/// Bytes kept of one log: its beginning.
const KEPT: usize = 1 << 20;
/// Logs followed at the same time; the checks beyond are read at their end only.
const MOST: usize = 256;
/// Wait before a stream that broke is taken up again.
const AGAIN: Duration = Duration::from_secs(5);

/// The logs that are being followed.
#[derive(Default)]
pub struct Followed(Mutex<BTreeMap<Check, Log>>);

/// Namespace and name of a PipelineRun.
type Check = (String, String);

struct Log {
    kept: Arc<Mutex<Vec<u8>>>,
    /// Ends with the entry.
    _reader: AbortOnDropHandle<()>,
}

impl Followed {
    /// Follows the log of a container of a check's pod, unless it is followed already. `pods` is the API of the check's namespace.
    pub fn follow(&self, check: Check, pods: Api<Pod>, (pod, container): (String, String)) {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logs.contains_key(&check) || logs.len() >= MOST {
            return;
        }
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let reader = tokio::spawn(read(pods, pod, container, kept.clone()));
        logs.insert(check, Log { kept, _reader: AbortOnDropHandle::new(reader) });
    }

    /// What was read of the log of a check, which may be its beginning only; `None` when nothing was.
    pub fn kept(&self, check: &Check) -> Option<Bytes> {
        let logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = logs.get(check)?.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (!kept.is_empty()).then(|| Bytes::copy_from_slice(&kept))
    }

    /// Ends following a phase: all tries of its check. An earlier try left behind would take the place of a later check for ever.
    pub fn forget(&self, namespace: &str, run_key: &str) {
        let first = names::work(run_key, 1);
        let of_phase = |(there, name): &Check| there == namespace && name.starts_with(&first);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|check, _| !of_phase(check));
    }
}

/// Reads until the log ends or the pod is gone.
async fn read(pods: Api<Pod>, pod: String, container: String, kept: Arc<Mutex<Vec<u8>>>) {
    let params = LogParams { container: Some(container), follow: true, ..LogParams::default() };
    loop {
        match pods.log_stream(&pod, &params).await {
            Ok(mut stream) => {
                let (mut read, mut chunk) = (0, vec![0; 16 << 10]);
                let ended = loop {
                    match stream.read(&mut chunk).await {
                        Ok(0) => break true,
                        Ok(n) => {
                            // a stream taken up again starts from the beginning: what is known is not kept twice
                            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                            let known = kept.len().saturating_sub(read).min(n);
                            let room = KEPT - kept.len();
                            kept.extend(&chunk[known..n][..room.min(n - known)]);
                            read += n;
                        }
                        Err(_) => break false,
                    }
                };
                if ended {
                    return;
                }
            }
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_forbidden() => return,
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_try_of_a_phase_is_forgotten_and_no_other() {
        let (phase, other) = ("v1-a-precheck", "v1-b-precheck");
        let checks =
            [("x", names::work(phase, 1)), ("x", names::work(phase, 2)), ("x", names::work(other, 1)), ("y", names::work(phase, 1))];
        let followed = Followed::default();
        for (namespace, name) in &checks {
            let log = Log { kept: Arc::default(), _reader: AbortOnDropHandle::new(tokio::spawn(async {})) };
            followed.0.lock().unwrap().insert(((*namespace).to_owned(), name.clone()), log);
        }
        followed.forget("x", phase);
        let left: Vec<Check> = followed.0.lock().unwrap().keys().cloned().collect();
        assert_eq!(left, [("x".to_owned(), checks[2].1.clone()), ("y".to_owned(), checks[3].1.clone())]);
    }
}
