//! Kubernetes events: a pure function of the transition, published once.

use kube::runtime::events::{Event, EventType};

use crate::api::patch_run::{PatchRunStatus, RunResult};

/// The events of a PatchRun's transition. Notes are constant per reason: events of one kind are counted, not piled up; details are in the status.
pub fn of_patch_run(before: &PatchRunStatus, after: &PatchRunStatus) -> Vec<Event> {
    let mut events = vec![];
    for phase in &after.phases {
        let old = before.of(phase.name);
        if old.is_none() && phase.result.is_none() {
            events.push(event(EventType::Normal, "PhaseStarted", phase.name.as_str(), format!("{} was launched", phase.name)));
        }
        match (old.and_then(|p| p.result), phase.result) {
            (None, Some(RunResult::Ok)) => {
                events.push(event(EventType::Normal, "PhaseSucceeded", phase.name.as_str(), format!("{} ended OK", phase.name)));
            }
            (None, Some(RunResult::Error)) => {
                let mut reason = phase.reason.clone().unwrap_or_default();
                if let Some(cause) = &phase.classification {
                    reason = format!("{reason}, {}", cause.error_code);
                }
                events.push(event(
                    EventType::Warning,
                    "PhaseFailed",
                    phase.name.as_str(),
                    format!("{} ended with ERROR: {reason}", phase.name),
                ));
            }
            (Some(_), _) | (None, None) => {}
        }
    }
    let reason = |status: &PatchRunStatus| status.conditions.iter().find(|c| c.type_ == "Succeeded").map(|c| c.reason.clone());
    let (old, new) = (reason(before), reason(after));
    if old != new
        && after.result.is_none()
        && let Some(reason) = new.and_then(|word| crate::api::reason::Reason::parse(&word))
        && !reason.remedy().is_empty()
    {
        events.push(event(EventType::Warning, reason.as_str(), "Waiting", reason.meaning().to_owned()));
    }
    if before.result.is_none() {
        match after.result {
            Some(RunResult::Ok) => events.push(event(EventType::Normal, "Completed", "Complete", "the run ended OK".into())),
            Some(RunResult::Error) => events.push(event(EventType::Warning, "Completed", "Complete", "the run ended with ERROR".into())),
            None => {}
        }
    }
    events
}

fn event(type_: EventType, reason: &str, action: &str, note: String) -> Event {
    Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None }
}
