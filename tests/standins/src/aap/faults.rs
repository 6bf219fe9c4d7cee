//! Faults that a test switches on: what a controller, its proxies and its network were seen to do wrong.

use serde::{Deserialize, Serialize};

/// One fault: what strikes, when, how often.
///
/// As JSON (`POST /_standin/faults`): `{"action": "drop_response", "method": "POST", "path": "/schedules/", "nth": 1, "count": 1}`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Fault {
    /// Method of the requests it strikes; any when absent. Requests only.
    #[serde(default)]
    pub method: Option<String>,
    /// Path of the requests it strikes, with `*` for anything, without the API prefix: `/job_templates/*/launch/`; any when
    /// absent. Requests only.
    #[serde(default)]
    pub path: Option<String>,
    /// Template's name of the jobs it strikes; any when absent. Jobs only.
    #[serde(default)]
    pub template: Option<String>,
    /// The first match it strikes, from 1.
    #[serde(default = "one")]
    pub nth: u64,
    /// How many matches in a row it strikes; 0 = all from then on.
    #[serde(default = "one")]
    pub count: u64,
    /// What it does.
    #[serde(flatten)]
    pub action: Action,
}

fn one() -> u64 {
    1
}

/// What a fault does.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Requests: answers with this status and changes nothing. The body is HTML, as a proxy's or Django's, unless given.
    Status {
        /// Status code.
        code: u16,
        /// Body instead of the HTML page.
        #[serde(default)]
        body: Option<String>,
        /// `Retry-After` in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Requests: handled and answered late.
    Delay {
        /// How late.
        seconds: f64,
    },
    /// Requests: handled, committed; then the connection is reset before a byte of the answer.
    DropResponse,
    /// Requests: the connection is reset, nothing is handled.
    Reset,
    /// Requests: the answer breaks off after so many bytes of the body.
    Truncate {
        /// Bytes sent.
        bytes: usize,
    },
    /// Requests: nothing happens for so long; then it is committed, whether or not the caller still waits.
    LateCommit {
        /// When.
        seconds: f64,
    },
    /// Requests: a gateway answers 504; the controller commits later all the same.
    GatewayTimeout {
        /// When the gateway loses patience.
        answer: f64,
        /// When it is committed.
        commit: f64,
    },
    /// Requests: never answered, nothing handled.
    Hang,
    /// Cancels: answered 202 and forgotten.
    LoseCancel,
    /// Cancels: the job reads `canceled` at once, but goes on, and reads `running` again later.
    Resurrect {
        /// When it comes back.
        seconds: f64,
    },
    /// Controller: no job starts, no schedule fires, `ping/` shows an old heartbeat, cancels are slow and reach nothing.
    DispatcherDead,
    /// Jobs: `event_processing_finished` stays false.
    EventsNeverFinish,
    /// Jobs: `finished` is set this long before the status is terminal.
    FinishedWhileRunning {
        /// How long.
        seconds: f64,
    },
    /// Jobs: events are this late.
    EventLag {
        /// How late.
        seconds: f64,
    },
    /// Jobs: the play matches no host and ends `successful`.
    ZeroHosts,
    /// Jobs: these hosts take no part, the others do.
    PartialHosts {
        /// Names of the hosts left out.
        without: Vec<String>,
    },
    /// Jobs: shows a status nobody knows.
    UnknownStatus {
        /// The word.
        status: String,
        /// How long after the start; for ever when absent.
        #[serde(default)]
        seconds: Option<f64>,
    },
    /// At once: finished jobs vanish, as after a cleanup.
    Purge {
        /// This job; all finished ones when absent.
        #[serde(default)]
        job: Option<i64>,
    },
    /// At once: tokens of this user are not valid any more.
    RevokeTokens {
        /// The user's name.
        user: String,
    },
    /// At once: running jobs are marked failed as after a restart of the dispatcher, their playbooks ended.
    Reap,
    /// At once: the server refuses connections for a while; jobs go on.
    Down {
        /// How long.
        seconds: f64,
    },
}

/// What a fault applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Requests by method and path.
    Request,
    /// Accepted cancels.
    Cancel,
    /// Jobs at their start.
    Job,
    /// The controller, as long as the fault is there.
    Controller,
    /// Done once, when the fault is added.
    Now,
}

impl Action {
    /// What the action applies to.
    pub fn target(&self) -> Target {
        match self {
            Self::Status { .. }
            | Self::Delay { .. }
            | Self::DropResponse
            | Self::Reset
            | Self::Truncate { .. }
            | Self::LateCommit { .. }
            | Self::GatewayTimeout { .. }
            | Self::Hang => Target::Request,
            Self::LoseCancel | Self::Resurrect { .. } => Target::Cancel,
            Self::DispatcherDead => Target::Controller,
            Self::EventsNeverFinish
            | Self::FinishedWhileRunning { .. }
            | Self::EventLag { .. }
            | Self::ZeroHosts
            | Self::PartialHosts { .. }
            | Self::UnknownStatus { .. } => Target::Job,
            Self::Purge { .. } | Self::RevokeTokens { .. } | Self::Reap | Self::Down { .. } => Target::Now,
        }
    }
}

impl From<Action> for Fault {
    /// A fault that strikes the first match, once.
    fn from(action: Action) -> Self {
        Self { method: None, path: None, template: None, nth: 1, count: 1, action }
    }
}

impl Fault {
    /// Reads a fault; a key that no fault has is an error, because a misspelt condition would strike everything.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let given: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let fault: Self = serde_json::from_value(given.clone().into()).map_err(|error| error.to_string())?;
        let known = serde_json::to_value(&fault).map_err(|error| error.to_string())?;
        match given.keys().find(|key| known.get(key.as_str()).is_none()) {
            Some(key) => Err(format!("the fault has no {key:?}")),
            None => Ok(fault),
        }
    }

    /// A fault on requests: strikes the first match, once.
    pub fn on(method: &str, path: &str, action: Action) -> Self {
        Self { method: Some(method.to_owned()), path: Some(path.to_owned()), ..action.into() }
    }

    /// From the `nth` match on (from 1).
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.nth = nth;
        self
    }

    /// So many matches in a row.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Every match from the `nth` on.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.count = 0;
        self
    }

    /// Only jobs of this template.
    #[must_use]
    pub fn of_template(mut self, name: &str) -> Self {
        self.template = Some(name.to_owned());
        self
    }
}

/// The faults that are switched on, with what each has seen.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    active: Vec<(u64, Fault, u64)>,
    last: u64,
}

impl Faults {
    /// Switches a fault on; its number.
    pub fn add(&mut self, fault: Fault) -> u64 {
        self.last += 1;
        self.active.push((self.last, fault, 0));
        self.last
    }

    /// Switches faults off: one, or all.
    pub fn clear(&mut self, id: Option<u64>) {
        self.active.retain(|(other, ..)| id.is_some_and(|id| id != *other));
    }

    /// The faults with their numbers and how many matches each has seen.
    pub fn list(&self) -> &[(u64, Fault, u64)] {
        &self.active
    }

    /// Whether the dispatcher is dead.
    pub fn dispatcher_dead(&self) -> bool {
        self.active.iter().any(|(_, fault, _)| fault.action == Action::DispatcherDead)
    }

    /// What strikes this request; the path is without the API prefix.
    pub fn on_request(&mut self, method: &str, path: &str) -> Option<Action> {
        self.strike(Target::Request, |fault| {
            fault.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
                && fault.path.as_deref().is_none_or(|pattern| matches(short(pattern), path))
        })
        .into_iter()
        .next()
    }

    /// What strikes this cancel.
    pub fn on_cancel(&mut self, template: &str) -> Option<Action> {
        self.strike(Target::Cancel, |fault| fault.template.as_deref().is_none_or(|name| name == template)).into_iter().next()
    }

    /// Everything that strikes this job.
    pub fn on_job(&mut self, template: &str) -> Vec<Action> {
        self.strike(Target::Job, |fault| fault.template.as_deref().is_none_or(|name| name == template))
    }

    fn strike(&mut self, target: Target, matches: impl Fn(&Fault) -> bool) -> Vec<Action> {
        let mut struck = Vec::new();
        for (_, fault, seen) in &mut self.active {
            if fault.action.target() == target && matches(fault) {
                *seen += 1;
                let first = fault.nth.max(1);
                if *seen >= first && (fault.count == 0 || *seen < first + fault.count) {
                    struck.push(fault.action.clone());
                }
            }
        }
        struck
    }
}

/// A pattern without the API prefix, which people write from habit.
fn short(pattern: &str) -> &str {
    ["/api/controller/v2", "/api/v2"].iter().find_map(|prefix| pattern.strip_prefix(prefix)).unwrap_or(pattern)
}

/// Whether a path matches a pattern with `*`.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((head, rest)) => path
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_its_matches_only() {
        let mut faults = Faults::default();
        faults.add(Fault::on("POST", "/job_templates/*/launch/", Action::DropResponse).nth(2).times(2));
        let mut struck = Vec::new();
        for (method, path) in [
            ("POST", "/job_templates/7/launch/"),
            ("GET", "/job_templates/7/launch/"),
            ("POST", "/schedules/"),
            ("POST", "/job_templates/7/launch/"),
            ("POST", "/job_templates/8/launch/"),
            ("POST", "/job_templates/7/launch/"),
        ] {
            struck.push(faults.on_request(method, path).is_some());
        }
        assert_eq!(struck, [false, false, false, true, true, false]);
    }

    #[test]
    fn a_misspelt_condition_is_refused() {
        assert!(Fault::from_json(br#"{"action": "reset", "paths": "/me/"}"#).unwrap_err().contains("paths"));
        let fault = Fault::from_json(br#"{"action": "reset", "path": "/api/v2/me/", "method": "GET"}"#).unwrap();
        let mut faults = Faults::default();
        faults.add(fault);
        assert_eq!(faults.on_request("GET", "/jobs/"), None);
        assert_eq!(faults.on_request("GET", "/me/"), Some(Action::Reset));
    }

    #[test]
    fn faults_are_read_from_json() {
        let fault: Fault =
            serde_json::from_str(r#"{"action": "status", "code": 429, "retry_after": 2, "path": "/jobs/*", "count": 0}"#).unwrap();
        assert_eq!(fault.action, Action::Status { code: 429, body: None, retry_after: Some(2) });
        assert_eq!((fault.nth, fault.count), (1, 0));
    }
}
