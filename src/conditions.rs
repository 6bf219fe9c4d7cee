//! `metav1.Condition` discipline: transition times move only when the status does.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types.
pub mod types {
    /// The object is fully reconciled. Long-lived kinds only.
    pub const READY: &str = "Ready";
    /// The work is done. Run-to-completion kinds only; `Unknown` while it runs.
    pub const SUCCEEDED: &str = "Succeeded";
    /// The work is over, whatever its end. Run-to-completion kinds only.
    pub const COMPLETED: &str = "Completed";
    /// Present, and true, only while work is under way (kstatus: `InProgress`).
    pub const RECONCILING: &str = "Reconciling";
    /// Present, and true, only when no retry will help (kstatus: `Failed`).
    pub const STALLED: &str = "Stalled";
    /// The controller answers. `AutomationConnection` only.
    pub const REACHABLE: &str = "Reachable";
    /// The controller accepts the read credentials. `AutomationConnection` only.
    pub const AUTHENTICATED: &str = "Authenticated";
    /// Every configured template can be launched as it must be. `AutomationConnection` only.
    pub const TEMPLATES_READY: &str = "TemplatesReady";
}

/// Tri-state of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `"True"`
    True,
    /// `"False"`
    False,
    /// `"Unknown"`
    Unknown,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for State {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// The conditions of one object, as of one generation and one time.
pub struct Conditions<'a> {
    list: &'a mut Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl<'a> Conditions<'a> {
    /// Changes `list`; what is set says `generation`, and `now` where its state changes.
    pub fn of(list: &'a mut Vec<Condition>, generation: Option<i64>, now: Timestamp) -> Self {
        Self { list, generation, now }
    }

    /// Sets one condition, keeping `lastTransitionTime` unless the state changed.
    pub fn set(&mut self, type_: &str, state: State, reason: &str, message: &str) {
        let old = self.list.iter().position(|c| c.type_ == type_);
        let since =
            old.map(|i| &self.list[i]).filter(|c| c.status == state.as_str()).map_or(Time(self.now), |c| c.last_transition_time.clone());
        let new = Condition {
            type_: type_.to_owned(),
            status: state.as_str().to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: self.generation,
            last_transition_time: since,
        };
        match old {
            Some(i) => self.list[i] = new,
            None => self.list.push(new),
        }
    }

    /// Removes a condition whose absence means "not so".
    pub fn clear(&mut self, type_: &str) {
        self.list.retain(|c| c.type_ != type_);
    }
}

/// Finds a condition.
pub fn find<'a>(list: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    list.iter().find(|c| c.type_ == type_)
}

/// Whether a condition is there and `True`.
pub fn is_true(list: &[Condition], type_: &str) -> bool {
    find(list, type_).is_some_and(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_is_kept_while_the_state_holds() {
        let (t0, t1) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let mut list = vec![];
        Conditions::of(&mut list, Some(1), t0).set(types::READY, State::False, "A", "a");
        Conditions::of(&mut list, Some(2), t1).set(types::READY, State::False, "B", "b");
        assert_eq!(list[0].last_transition_time, Time(t0));
        Conditions::of(&mut list, Some(2), t1).set(types::READY, State::True, "C", "c");
        assert_eq!(list[0].last_transition_time, Time(t1));
    }
}
