//! [`RunRequest`]: a phase for a group as people ask for it over HTTP, and the PatchRun that it becomes.
//!
//! The name of the PatchRun comes from its content, so that two who ask for the same at the same time create one object: a base (phase,
//! group, hash) and, from the second run of that content on, a number.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use utoipa::{
    ToSchema,
    openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, Type},
};

use crate::{
    api::{
        patch_run::{PatchRun, PatchRunSpec, Phase, State},
        shared::{LocalRef, NameOrId},
    },
    names,
    settings::run_defaults::RunDefault,
};

/// Body of `POST /api/run/{phase}`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The patch group, a number or a name.
    #[serde(deserialize_with = "group")]
    #[schema(schema_with = group_schema)]
    pub group: NameOrId,
    /// The kernel every host shall run, exactly what `uname -r` will say. Required for every phase but precheck.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 128, pattern = r"^[0-9][A-Za-z0-9._+~-]*$")]
    pub desired_kernel: Option<String>,
    /// Namespace of the PatchRun. Default: that of the caller in `RUN_DEFAULTS`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    pub namespace: Option<String>,
    /// The `AutomationConnection`, in that namespace. Default: that of the caller in `RUN_DEFAULTS`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
    pub connection: Option<String>,
    /// No change phase starts after this time (RFC 3339). Default: `startWithin` of the caller in `RUN_DEFAULTS` from now, else four hours.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub start_by: Option<Timestamp>,
}

/// Reads a group, and says in its own words what one is.
fn group<'de, D: Deserializer<'de>>(from: D) -> Result<NameOrId, D::Error> {
    NameOrId::deserialize(from).map_err(|_| D::Error::custom(GROUP))
}

const GROUP: &str = "group must be a number (0 or more) or the name of a patch group: at most 63 letters, digits, dots, dashes and \
                     underscores, starting and ending with a letter or digit, and none of all, ungrouped and localhost";

fn group_schema() -> Schema {
    let number: Object = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(i64::MAX)).build();
    let pattern = Some("^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$");
    let name: Object = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(63)).pattern(pattern).build();
    OneOfBuilder::new().item(number).item(name).build().into()
}

/// What cannot become a PatchRun: why, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl RunRequest {
    /// Hash of the request as it was sent: equal for a repetition of it.
    pub fn digest(&self, phase: Phase) -> String {
        let text = (phase, self.group.to_string(), &self.desired_kernel, &self.namespace, &self.connection, &self.start_by);
        names::short_hash(&serde_json::to_vec(&text).unwrap_or_default())
    }

    /// What is asked for, with the caller's defaults.
    pub fn resolve(self, phase: Phase, default: Option<&RunDefault>, now: Timestamp) -> Result<Wanted, Refused> {
        if !is_group(&self.group) {
            return Err(Refused(GROUP.into()));
        }
        let missing = |field: &str| {
            Refused(format!(
                "{field} is missing: give it, or let an administrator set it for you in RUN_DEFAULTS of the ConfigMap fettle-config"
            ))
        };
        let namespace = self.namespace.or_else(|| default?.namespace.clone()).ok_or_else(|| missing("namespace"))?;
        let connection = self.connection.or_else(|| default?.connection.clone()).ok_or_else(|| missing("connection"))?;
        if self.desired_kernel.is_none() && phase != Phase::Precheck {
            return Err(Refused(format!("desired_kernel is missing: {phase} needs it, exactly what `uname -r` will say")));
        }
        let within = default.map_or_else(|| RunDefault::default().start_within(), RunDefault::start_within);
        let start_by = self.start_by.or_else(|| phase.is_change().then(|| now.saturating_add(within).unwrap_or(now)));
        Ok(Wanted { namespace, connection, phase, group: self.group, desired_kernel: self.desired_kernel, start_by })
    }
}

/// Whether that can be a group.
pub fn is_group(group: &NameOrId) -> bool {
    let name = match group {
        NameOrId::Id(id) => return *id >= 0,
        NameOrId::Name(name) => name,
    };
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && ends(name.chars().next())
        && ends(name.chars().last())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        && !matches!(name.as_str(), "all" | "ungrouped" | "localhost")
}

/// One phase for one group, with everything that is needed to create it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Namespace of the PatchRun.
    pub namespace: String,
    /// Its connection.
    pub connection: String,
    /// Its only phase.
    pub phase: Phase,
    /// Its group.
    pub group: NameOrId,
    /// Its kernel.
    pub desired_kernel: Option<String>,
    /// When a change phase must have started. Not part of the content: a retry a minute later wants the same.
    pub start_by: Option<Timestamp>,
}

impl Wanted {
    /// Hash of the content: namespace, connection, group as text, phase and kernel.
    pub fn content(&self) -> String {
        let text = (&self.namespace, &self.connection, self.group.to_string(), self.phase, &self.desired_kernel);
        names::short_hash(&serde_json::to_vec(&text).unwrap_or_default())
    }

    /// How every name of this content begins: `precheck-5-` and 12 characters of the hash; at most 44 characters.
    pub fn base(&self) -> String {
        let slug: String =
            self.group.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(20).collect();
        let hash = self.content();
        format!("{}-{}-{}", self.phase, slug.trim_matches('-'), &hash[..12])
    }

    /// The PatchRun with that number among those of this content. `key` is the caller's `Idempotency-Key`.
    pub fn object(&self, number: u32, requester: &str, key: Option<&Key>) -> PatchRun {
        let spec = PatchRunSpec {
            connection: LocalRef { name: self.connection.clone() },
            group: Some(self.group.clone()),
            hosts: None,
            desired_kernel: self.desired_kernel.clone(),
            phases: vec![self.phase],
            start_by: self.start_by,
            start_after: None,
            timeouts: None,
            reboot: None,
            allow_self: None,
            attempt: None,
            suspend: None,
            cancel: None,
        };
        let requester: String = requester.chars().filter(|c| !c.is_control()).take(1024).collect();
        let mut labels = BTreeMap::from([(names::REQUEST.to_owned(), self.content())]);
        if let Some(key) = key {
            labels.insert(names::IDEMPOTENCY_KEY.into(), key.hash.clone());
            labels.insert(names::IDEMPOTENT_REQUEST.into(), key.request.clone());
        }
        let metadata = ObjectMeta {
            name: Some(name(&self.base(), number)),
            namespace: Some(self.namespace.clone()),
            annotations: Some([(names::REQUESTED_BY.to_owned(), requester)].into()),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        PatchRun { metadata, spec, status: None }
    }

    /// Whether `run` is of this content and not over, so that a request for it joins it.
    pub fn is_joined_by(&self, run: &PatchRun) -> bool {
        let over = run.status.as_ref().is_some_and(|status| status.state == State::Completed);
        let same = run.spec.connection.name == self.connection
            && run.spec.group.as_ref().map(NameOrId::to_string) == Some(self.group.to_string())
            && run.spec.desired_kernel == self.desired_kernel
            && run.spec.phases == [self.phase];
        same && !over && !run.spec.cancel()
    }
}

/// An `Idempotency-Key` with the request it came with, as hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Of user and key.
    pub hash: String,
    /// Of the request.
    pub request: String,
}

impl Key {
    /// The key of a user for a request.
    pub fn new(user: &str, key: &str, request: String) -> Self {
        Self { hash: names::short_hash(&serde_json::to_vec(&(user, key)).unwrap_or_default()), request }
    }
}

/// The name with that number; the first has none.
fn name(base: &str, number: u32) -> String {
    if number <= 1 { base.to_owned() } else { format!("{base}-{number}") }
}

/// The number after the highest that one of `names` has, or 1.
pub fn next_number<'n>(base: &str, names: impl IntoIterator<Item = &'n str>) -> u32 {
    let number = |name: &str| match name.strip_prefix(base)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse::<u32>().ok().filter(|number| *number > 1),
    };
    names.into_iter().filter_map(number).max().unwrap_or(0).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn request(group: NameOrId) -> RunRequest {
        RunRequest {
            group,
            desired_kernel: Some("6.1.0-53-cloud-amd64".into()),
            namespace: Some("patching".into()),
            connection: Some("prod".into()),
            start_by: None,
        }
    }

    fn wanted(group: NameOrId, phase: Phase) -> Wanted {
        request(group).resolve(phase, None, NOW).unwrap()
    }

    #[test]
    fn a_group_is_the_same_as_number_and_as_text() {
        let (number, text) = (NameOrId::Id(5), NameOrId::Name("5".into()));
        assert_eq!(wanted(number.clone(), Phase::Apply).base(), wanted(text.clone(), Phase::Apply).base());
        assert_eq!(request(number).digest(Phase::Apply), request(text).digest(Phase::Apply));
    }

    #[test]
    fn every_part_of_the_content_makes_another_name_and_the_time_does_not() {
        let one = wanted(NameOrId::Id(5), Phase::Apply);
        let others = [
            Wanted { namespace: "other".into(), ..one.clone() },
            Wanted { connection: "other".into(), ..one.clone() },
            Wanted { group: NameOrId::Id(6), ..one.clone() },
            Wanted { phase: Phase::Stage, ..one.clone() },
            Wanted { desired_kernel: Some("6.1.0-54-cloud-amd64".into()), ..one.clone() },
        ];
        for other in &others {
            assert_ne!(other.base(), one.base(), "{other:?}");
        }
        assert_eq!(Wanted { start_by: None, ..one.clone() }.base(), one.base());
    }

    #[test]
    fn what_is_missing_is_named() {
        let refused = |over: fn(&mut RunRequest), phase: Phase| {
            let mut request = request(NameOrId::Id(5));
            over(&mut request);
            request.resolve(phase, None, NOW).unwrap_err().0
        };
        assert!(refused(|r| r.desired_kernel = None, Phase::Postcheck).starts_with("desired_kernel is missing"));
        assert!(refused(|r| r.namespace = None, Phase::Precheck).starts_with("namespace is missing"));
        assert!(refused(|r| r.connection = None, Phase::Precheck).starts_with("connection is missing"));
        for bad in ["", "a b", "../x", "-5", "all", "a\n", &"a".repeat(64)] {
            let request = request(NameOrId::Name(bad.into()));
            assert!(request.resolve(Phase::Precheck, None, NOW).is_err(), "{bad:?}");
        }
        assert!(request(NameOrId::Id(-5)).resolve(Phase::Precheck, None, NOW).is_err());
        let mut precheck = request(NameOrId::Id(5));
        precheck.desired_kernel = None;
        assert!(precheck.resolve(Phase::Precheck, None, NOW).is_ok(), "a precheck needs no kernel");
    }

    #[test]
    fn defaults_fill_in_and_give_changes_a_time() {
        let default = RunDefault {
            namespace: Some("web".into()),
            connection: Some("prod".into()),
            start_within: Some(crate::api::shared::Span("30m".into())),
            ..RunDefault::default()
        };
        let bare = RunRequest { namespace: None, connection: None, ..request(NameOrId::Id(5)) };
        let wanted = bare.clone().resolve(Phase::Apply, Some(&default), NOW).unwrap();
        assert_eq!((wanted.namespace.as_str(), wanted.connection.as_str()), ("web", "prod"));
        assert_eq!(wanted.start_by, Some("1970-01-01T00:30:00Z".parse().unwrap()));
        assert_eq!(bare.resolve(Phase::Postcheck, Some(&default), NOW).unwrap().start_by, None);
        let own = request(NameOrId::Id(5)).resolve(Phase::Apply, Some(&default), NOW).unwrap();
        assert_eq!(own.namespace, "patching", "what is given counts");
    }

    #[test]
    fn numbers_go_on_after_the_highest() {
        assert_eq!(next_number("a", []), 1);
        assert_eq!(next_number("a", ["a"]), 2);
        assert_eq!(next_number("a", ["a", "a-7", "a-x", "ab-9", "b-9", "a-0", "a-1"]), 8);
    }

    proptest! {
        #[test]
        fn names_are_labels(group in "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", number in 1..u32::MAX) {
            prop_assume!(!["all", "ungrouped", "localhost"].contains(&group.as_str()));
            for phase in Phase::ALL {
                let run = wanted(NameOrId::Name(group.clone()), phase).object(number, "alice", None);
                let name = run.metadata.name.unwrap();
                prop_assert!(name.len() <= 63 && !name.starts_with('-') && !name.ends_with('-'), "{}", name);
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{}", name);
                let base = wanted(NameOrId::Name(group.clone()), phase).base();
                prop_assert_eq!(next_number(&base, [name.as_str()]), number + 1);
            }
        }
    }
}
