//! [`Reader`]: reads a log with the Runbooks while it is archived. Whatever the log holds, it is archived.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    api::{classification::Findings, patch_run::Phase},
    runbooks::{Classifier, Context, Library},
};

/// Reads one log.
pub(super) struct Reader(Option<Classifier>);

impl Reader {
    pub(super) fn new(library: std::sync::Arc<Library>, phase: Phase) -> Self {
        Self(Some(Classifier::new(library, Context { phase: Some(phase), ..Context::default() })))
    }

    /// The next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(mut classifier) = self.0.take() {
            // logs are hostile: a fault in reading one must not keep its run from ending
            self.0 = guarded(move || {
                classifier.push(bytes);
                classifier
            });
        }
    }

    /// What was found; `None` when the log could not be read.
    pub(super) fn finish(self) -> Option<Findings> {
        let verdict = guarded(move || self.0.map(Classifier::finish))??;
        Some(Findings {
            cause: verdict.classification,
            hosts: verdict.hosts.into_iter().map(|(host, verdict)| (host, verdict.error_code)).collect(),
        })
    }
}

fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(read)).ok();
    if done.is_none() {
        tracing::error!("reading a log failed: it is archived without a cause");
    }
    done
}
