//! What is said about a connection: a pure function of what was seen.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api::{
        automation_connection::{AutomationConnection, AutomationConnectionStatus, TemplateStatus},
        patch_run::Phase,
        reason::Reason,
    },
    clients::aap::Controller,
    conditions::{self, Conditions, State, types},
};

/// How often a healthy connection is looked at.
const CALM: Duration = Duration::from_mins(1);
/// How often one with a problem is.
const EAGER: Duration = Duration::from_secs(15);

/// What was seen. `None`: not looked.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The connection cannot be used as it is.
    pub invalid: Option<(Reason, String)>,
    /// Who answers, or why nobody does.
    pub controller: Option<Result<Controller, String>>,
    /// Whether the read credentials are accepted.
    pub authenticated: Option<Result<(), (Reason, String)>>,
    /// Id of the inventory, or why there is none.
    pub inventory: Option<Result<i64, String>>,
    /// The configured templates.
    pub templates: Vec<(Phase, TemplateFact)>,
}

/// What was found about a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateFact {
    /// Numeric id.
    pub id: Option<i64>,
    /// Name.
    pub name: Option<String>,
    /// Whether it must not be launched.
    pub blocked: bool,
    /// Problems and notices, in words.
    pub problems: Vec<String>,
}

/// What to record, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The status.
    pub status: AutomationConnectionStatus,
    /// When to look again.
    pub requeue: Duration,
}

/// Decides.
pub fn decide(connection: &AutomationConnection, seen: &Seen, now: Timestamp) -> Decision {
    let mut status = connection.status.clone().unwrap_or_default();
    let generation = connection.metadata.generation;
    status.observed_generation = generation;
    if let Some(Ok(controller)) = &seen.controller {
        status.flavour = Some(controller.flavour.to_string());
        status.version = Some(controller.version.clone());
        status.api_prefix = Some(controller.api_prefix.clone());
        status.install_uuid = Some(controller.install_uuid.clone());
    }
    if let Some(Ok(inventory)) = seen.inventory {
        status.inventory_id = Some(inventory);
    }
    if !seen.templates.is_empty() {
        status.templates = seen
            .templates
            .iter()
            .map(|(phase, fact)| TemplateStatus {
                phase: *phase,
                id: fact.id,
                name: fact.name.clone(),
                ready: !fact.blocked,
                problems: fact.problems.iter().take(16).cloned().collect(),
            })
            .collect();
    }
    let reachable = reachable(seen);
    let authenticated = authenticated(seen);
    let templates = templates(seen);
    let ready = [&reachable, &authenticated, &templates].into_iter().find(|c| c.state == State::False).cloned();
    let ready = ready.unwrap_or_else(|| {
        if authenticated.state == State::Unknown {
            Claim::new(State::True, "ReachableOnly", "the controller answers; without readCredentials templates are checked at launch")
        } else {
            Claim::new(State::True, "Ready", "the controller answers, the read credentials are accepted and the templates fit")
        }
    });
    let mut list = Conditions::of(&mut status.conditions, generation, now);
    for (type_, claim) in [
        (types::READY, &ready),
        (types::REACHABLE, &reachable),
        (types::AUTHENTICATED, &authenticated),
        (types::TEMPLATES_READY, &templates),
    ] {
        list.set(type_, claim.state, claim.reason, &claim.message);
    }
    // kstatus: what mends itself is in progress, what waits for a person is stalled
    let (reconciling, stalled) = match ready.state {
        State::True | State::Unknown => (false, false),
        State::False => (ready.reason == Reason::ControllerUnreachable.as_str(), ready.reason != Reason::ControllerUnreachable.as_str()),
    };
    for (type_, on) in [(types::RECONCILING, reconciling), (types::STALLED, stalled)] {
        if on {
            list.set(type_, State::True, ready.reason, &ready.message);
        } else {
            list.clear(type_);
        }
    }
    let requeue = if conditions::is_true(&status.conditions, types::READY) { CALM } else { EAGER };
    Decision { status, requeue }
}

#[derive(Clone)]
struct Claim {
    state: State,
    reason: &'static str,
    message: String,
}

impl Claim {
    fn new(state: State, reason: &'static str, message: impl Into<String>) -> Self {
        Self { state, reason, message: message.into() }
    }
}

fn reachable(seen: &Seen) -> Claim {
    match (&seen.invalid, &seen.controller) {
        (Some((reason, why)), _) => Claim::new(State::False, reason.as_str(), why),
        (None, Some(Ok(_))) => Claim::new(State::True, "Reachable", "the controller answers"),
        (None, Some(Err(why))) => Claim::new(State::False, Reason::ControllerUnreachable.as_str(), why),
        (None, None) => Claim::new(State::Unknown, "NotLooked", "not looked at yet"),
    }
}

fn authenticated(seen: &Seen) -> Claim {
    match (&seen.authenticated, &seen.controller) {
        (Some(Ok(())), _) => Claim::new(State::True, "Authenticated", "the controller accepts the read credentials"),
        (Some(Err((reason, why))), _) => Claim::new(State::False, reason.as_str(), why),
        (None, Some(Ok(_))) => Claim::new(State::Unknown, "NoReadCredentials", "the connection names no readCredentials"),
        (None, Some(Err(_)) | None) => Claim::new(State::Unknown, "NotLooked", "the controller does not answer"),
    }
}

fn templates(seen: &Seen) -> Claim {
    if let Some(Err(why)) = &seen.inventory {
        return Claim::new(State::False, Reason::InventoryUnavailable.as_str(), why);
    }
    if !matches!(seen.authenticated, Some(Ok(()))) {
        return Claim::new(State::Unknown, "NotLooked", "templates are checked at launch");
    }
    let wrong: Vec<String> = seen
        .templates
        .iter()
        .filter(|(_, fact)| fact.blocked)
        .map(|(phase, fact)| format!("{phase}: {}", fact.problems.join("; ")))
        .collect();
    if wrong.is_empty() {
        return Claim::new(State::True, "TemplatesReady", "every configured template prompts for what Fettle sends");
    }
    let message: String = wrong.join(". ").chars().take(1000).collect();
    Claim::new(State::False, Reason::TemplateNotReady.as_str(), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::aap::Flavour;

    fn connection() -> AutomationConnection {
        let spec = crate::yaml::from_str("{url: https://aap.example.com, inventory: prod}").unwrap();
        AutomationConnection::new("prod", spec)
    }

    fn healthy() -> Seen {
        Seen {
            invalid: None,
            controller: Some(Ok(Controller {
                api_prefix: "/api/v2".into(),
                flavour: Flavour::Awx,
                version: "24.6.1".into(),
                install_uuid: "u".into(),
                capacity: 10,
                heartbeat: None,
            })),
            authenticated: Some(Ok(())),
            inventory: Some(Ok(2)),
            templates: vec![(Phase::Apply, TemplateFact { id: Some(7), name: Some("apply".into()), blocked: false, problems: vec![] })],
        }
    }

    #[test]
    fn a_settled_connection_is_not_written_again() {
        let mut object = connection();
        let first = decide(&object, &healthy(), Timestamp::UNIX_EPOCH);
        assert!(conditions::is_true(&first.status.conditions, types::READY));
        object.status = Some(first.status.clone());
        assert_eq!(decide(&object, &healthy(), Timestamp::MAX).status, first.status);
    }

    #[test]
    fn the_first_problem_is_the_reason() {
        let reason = |seen: &Seen| {
            let status = decide(&connection(), seen, Timestamp::UNIX_EPOCH).status;
            conditions::find(&status.conditions, types::READY).map(|c| (c.status.clone(), c.reason.clone())).unwrap()
        };
        let unreachable =
            Seen { controller: Some(Err("no route".into())), authenticated: None, inventory: None, templates: vec![], invalid: None };
        assert_eq!(reason(&unreachable), ("False".into(), "ControllerUnreachable".into()));
        let mut blocked = healthy();
        blocked.templates[0].1.blocked = true;
        assert_eq!(reason(&blocked), ("False".into(), "TemplateNotReady".into()));
        let anonymous = Seen { authenticated: None, inventory: None, templates: vec![], ..healthy() };
        assert_eq!(reason(&anonymous), ("True".into(), "ReachableOnly".into()));
    }
}
