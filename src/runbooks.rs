//! Why a phase failed: reads its log with the [`Runbook`](crate::api::runbook::Runbook)s. Pure: no client, no clock, no waiting.
//!
//! ```text
//! bytes ─ classifier ─ text (prefixes, JSON) ─ ansible (results, recap) ─ library (patterns) ─> events of hosts ─ decide ─> Verdict
//! ```

mod ansible;
pub mod classifier;
mod decide;
pub mod library;
mod pattern;
pub mod report;
mod signs;
mod text;

pub use self::{
    classifier::{Classifier, Context, HostVerdict, Verdict},
    library::{Library, Offer, Problem},
};

/// The code, if a shipped Runbook has it, and `custom` otherwise: a bounded set of labels for metrics.
pub fn shipped_code(code: &str) -> &'static str {
    Library::shipped_runbooks().iter().map(|runbook| runbook.spec.error_code.as_str()).find(|shipped| *shipped == code).unwrap_or("custom")
}
