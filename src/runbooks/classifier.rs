//! [`Classifier`]: reads one log.

use std::{collections::BTreeMap, sync::Arc};

use super::Library;
use crate::api::{classification::Classification, patch_run::Phase, runbook::OsFamily};

/// What is known of a log before it is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// The phase whose log it is.
    pub phase: Option<Phase>,
    /// The family of the hosts' operating systems.
    pub os_family: Option<OsFamily>,
}

/// Reads one log, in chunks of any size.
#[derive(Debug)]
pub struct Classifier {
    _library: Arc<Library>,
}

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The cause over all hosts. `None`: nothing has to be mended. `E-OTHER`: it failed, and no Runbook says why.
    pub classification: Option<Classification>,
    /// Hosts that failed, at most 1000.
    pub hosts: BTreeMap<String, HostVerdict>,
}

/// What a log says about one host.
pub type HostVerdict = Classification;

impl Classifier {
    /// A classifier of one log.
    pub fn new(library: Arc<Library>, _context: Context) -> Self {
        Self { _library: library }
    }

    /// The next bytes of the log.
    pub fn push(&mut self, _bytes: &[u8]) {}

    /// The verdict over what was pushed.
    pub fn finish(self) -> Verdict {
        Verdict::default()
    }
}
