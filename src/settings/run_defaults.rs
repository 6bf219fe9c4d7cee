//! `RUN_DEFAULTS` in `fettle-config`: namespace, connection and time of what people ask for over HTTP without naming them.
//!
//! ```yaml
//! RUN_DEFAULTS: |
//!   - groups: [web-team]          # or users: [alice]; without both: everybody
//!     namespace: patching
//!     connection: prod
//!     startWithin: 4h             # startBy of change phases: so long after the request
//! ```
//!
//! The first entry that fits the caller counts.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::Deserialize;

use super::Invalid;
use crate::{api::shared::Span, yaml};

/// The key.
const KEY: &str = "RUN_DEFAULTS";
/// Entries at most.
const ENTRIES: usize = 500;
/// Names of users and groups in one entry at most.
const NAMES: usize = 1000;
/// Longest span: a request is about a change that is near.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The defaults of some callers.
#[derive(Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunDefault {
    /// Users it is for, as TokenReview names them.
    #[serde(default)]
    pub users: Vec<String>,
    /// Groups of users it is for. Without users and groups: for everybody.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Namespace of the PatchRun.
    pub namespace: Option<String>,
    /// Its connection, in that namespace.
    pub connection: Option<String>,
    /// `startBy` of a change phase, counted from the request. Default: 4h.
    pub start_within: Option<Span>,
}

impl RunDefault {
    /// How long after the request a change phase may start.
    pub fn start_within(&self) -> SignedDuration {
        self.start_within.as_ref().and_then(Span::get).unwrap_or(SignedDuration::from_hours(4))
    }

    fn fits(&self, user: &str, groups: &[String]) -> bool {
        let everybody = self.users.is_empty() && self.groups.is_empty();
        everybody || self.users.iter().any(|name| name == user) || self.groups.iter().any(|group| groups.contains(group))
    }

    fn check(&self) -> Result<(), String> {
        let named = |name: &Option<String>| name.as_deref().is_none_or(|name| (1..=63).contains(&name.len()));
        if !named(&self.namespace) || !named(&self.connection) {
            return Err("namespace and connection must be names of 1 to 63 characters".into());
        }
        if self.users.len() + self.groups.len() > NAMES {
            return Err(format!("names more than {NAMES} users and groups: use a group"));
        }
        let span = self.start_within.as_ref().map(Span::get);
        if span.is_some_and(|span| span.is_none_or(|span| span > LONGEST)) {
            return Err("startWithin must be a length of time such as 30m or 4h, at most 168h".into());
        }
        Ok(())
    }
}

/// The defaults of everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunDefaults(Vec<RunDefault>);

impl RunDefaults {
    /// Reads the ConfigMap's data; without the key there are no defaults.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let Some(text) = data.get(KEY).filter(|text| !text.trim().is_empty()) else { return Ok(Self::default()) };
        let invalid = |problem: String| Invalid { key: KEY, problem };
        let entries: Vec<RunDefault> = yaml::from_str(text).map_err(|error| {
            invalid(format!("must be a list of entries with users, groups, namespace, connection and startWithin: {error}"))
        })?;
        if entries.len() > ENTRIES {
            return Err(invalid(format!("has more than {ENTRIES} entries: use groups")));
        }
        for (entry, number) in entries.iter().zip(1..) {
            entry.check().map_err(|problem| invalid(format!("entry {number}: {problem}")))?;
        }
        Ok(Self(entries))
    }

    /// The defaults of a user in these groups; the first entry that fits.
    pub fn of(&self, user: &str, groups: &[String]) -> Option<&RunDefault> {
        self.0.iter().find(|entry| entry.fits(user, groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RunDefaults, String> {
        RunDefaults::parse(&BTreeMap::from([(KEY.to_owned(), text.to_owned())])).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn the_first_entry_that_fits_counts() {
        let defaults = parse(
            "- {users: [alice], namespace: hers}\n- {groups: [web], namespace: web, connection: prod, startWithin: 30m}\n- {namespace: all}\n",
        )
        .unwrap();
        let of = |user: &str, groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|&g| g.to_owned()).collect();
            defaults.of(user, &groups).unwrap().clone()
        };
        assert_eq!(of("alice", &["web"]).namespace.as_deref(), Some("hers"));
        assert_eq!(of("bob", &["db", "web"]).namespace.as_deref(), Some("web"));
        assert_eq!(of("bob", &["web"]).start_within(), SignedDuration::from_mins(30));
        assert_eq!(of("bob", &[]).namespace.as_deref(), Some("all"));
        assert_eq!(of("bob", &[]).start_within(), SignedDuration::from_hours(4));
        assert_eq!(RunDefaults::parse(&BTreeMap::new()).unwrap().of("bob", &[]), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_key_and_entry_and_without_the_value() {
        for (text, said) in [
            ("hunter2", "must be a list of entries"),
            ("- {namespce: hunter2}", "must be a list of entries"),
            ("- {namespace: web}\n- {startWithin: hunter2}", "entry 2: startWithin must be"),
            ("- {startWithin: 999h}", "entry 1: startWithin must be"),
            ("- {namespace: ''}", "entry 1: namespace and connection must be names"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("RUN_DEFAULTS") && error.contains(said) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
