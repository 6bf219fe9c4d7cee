//! What is said about a Runbook: a pure function of the object and of what it explained.

use jiff::Timestamp;

use crate::{
    api::runbook::{Runbook, RunbookStatus},
    conditions::{self, Conditions, State, types},
    runbooks::Library,
};

/// What a Runbook explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Phases.
    pub number: i64,
    /// When the last of them ended.
    pub last: Option<Timestamp>,
}

/// Decides. What was checked once is not checked again before the Runbook changes.
pub fn decide(runbook: &Runbook, hits: Hits, now: Timestamp) -> RunbookStatus {
    let mut status = runbook.status.clone().unwrap_or_default();
    let generation = runbook.metadata.generation;
    (status.hits, status.last_hit) = (Some(hits.number), hits.last);
    let checked = conditions::find(&status.conditions, types::READY).is_some_and(|c| c.observed_generation == generation);
    if checked && status.observed_generation == generation {
        return status;
    }
    status.observed_generation = generation;
    let examples = runbook.spec.examples.len() + runbook.spec.counter_examples.len();
    let (_, problems) = Library::new(std::slice::from_ref(runbook));
    let mut list = Conditions::of(&mut status.conditions, generation, now);
    match problems.into_values().next() {
        None => {
            let message = format!("all {examples} examples and counter-examples were told right");
            list.set(types::READY, State::True, "ExamplesPass", &message);
            list.clear(types::STALLED);
            status.examples_checked = i32::try_from(examples).ok();
        }
        Some(problem) => {
            let message = format!("it is not used: {problem}");
            for (type_, state) in [(types::READY, State::False), (types::STALLED, State::True)] {
                list.set(type_, state, "Invalid", &message);
            }
            status.examples_checked = None;
        }
    }
    status
}
