//! Every derived name: deterministic, DNS-safe, at most 63 characters.

use data_encoding::BASE32_NOPAD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::api::{
    patch_run::{PatchRun, Phase},
    shared::NameOrId,
};

/// Annotation on a Secret: scheme, host and port of the only controller it may be sent to.
pub const ORIGIN: &str = "fettle.dev/origin";
/// Annotation on what Fettle creates: the phase key it was created for.
pub const RUN_KEY: &str = "fettle.dev/run-key";
/// Annotation on what Fettle creates: digest of what was asked for.
pub const DIGEST: &str = "fettle.dev/spec-digest";
/// Label on what Fettle creates: the phase.
pub const PHASE: &str = "fettle.dev/phase";
/// Label on what Fettle creates: the group.
pub const GROUP: &str = "fettle.dev/group";
/// Label on what Fettle creates: the desired kernel.
pub const KERNEL: &str = "fettle.dev/kernel";
/// Label on what Fettle creates: the PatchRun.
pub const PATCH_RUN: &str = "fettle.dev/patchrun";
/// Label on a Pipeline that may carry out checks.
pub const CHECKS: &str = "fettle.dev/checks";
/// Finalizer of a run with an active launch.
pub const FINALIZER: &str = "fettle.dev/active-launch";
/// Annotation on a PatchRun that was asked for over HTTP: the user who asked.
pub const REQUESTED_BY: &str = "fettle.dev/requested-by";
/// Label on a PatchRun that was asked for over HTTP: hash of what was asked for, equal for a repetition.
pub const REQUEST: &str = "fettle.dev/request";
/// Label on a PatchRun that was asked for over HTTP: hash of the user and their `Idempotency-Key`.
pub const IDEMPOTENCY_KEY: &str = "fettle.dev/idempotency-key";
/// Label on a PatchRun that was asked for over HTTP: hash of the request its `Idempotency-Key` came with.
pub const IDEMPOTENT_REQUEST: &str = "fettle.dev/idempotent-request";
/// ServiceAccount, in the tenant's namespace, under which checks run.
pub const CHECKS_ACCOUNT: &str = "fettle-checks";
/// Value of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "fettle";

/// What makes two disruptions the same one. Fields in alphabetical order: the serialised form is the canonical JSON that is hashed.
///
/// No uid is in it: a run that Git creates again is the same disruption.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    attempt: i32,
    connection: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    desired_kernel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<Vec<&'a str>>,
    installation: &'a str,
    name: &'a str,
    namespace: &'a str,
    phases: &'a [Phase],
}

/// The run key: `v1-` and 20 characters of base 32 (100 bits of SHA-256 over canonical JSON).
pub fn run_key(installation: &str, run: &PatchRun, attempt: i32) -> String {
    let hosts = run.spec.hosts.as_ref().map(|hosts| {
        let mut hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        hosts.sort_unstable();
        hosts
    });
    let identity = Identity {
        attempt,
        connection: &run.spec.connection.name,
        desired_kernel: run.spec.desired_kernel.as_deref(),
        group: run.spec.group.as_ref().map(NameOrId::to_string),
        hosts,
        installation,
        name: run.metadata.name.as_deref().unwrap_or_default(),
        namespace: run.metadata.namespace.as_deref().unwrap_or_default(),
        phases: &run.spec.phases,
    };
    let canonical = serde_json::to_vec(&identity).unwrap_or_default();
    format!("v1-{}", short_hash(&canonical))
}

/// The identity of one phase of a run, for example `v1-…-apply`: names log, record and claim on the hosts.
pub fn phase_key(run_key: &str, phase: Phase) -> String {
    format!("{run_key}-{phase}")
}

/// How every name of [`work`] begins.
pub const WORK_PREFIX: &str = "fettle-";

/// Name of the AAP schedule or the PipelineRun that carries out a phase. `try_` counts from 1.
pub fn work(phase_key: &str, try_: i32) -> String {
    match try_ {
        ..=1 => format!("{WORK_PREFIX}{phase_key}"),
        _ => format!("{WORK_PREFIX}{phase_key}-try{try_}"),
    }
}

/// Name of the ConfigMap with the resolved hosts of a run.
pub fn scope(run_key: &str) -> String {
    format!("fettle-{run_key}-scope")
}

/// A value that is allowed in a label: what is not becomes `_`, at most 63 characters, alphanumeric at both ends.
pub fn label_value(text: &str) -> String {
    let mapped: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).take(63).collect();
    mapped.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// 20 lower-case base-32 characters (100 bits) of the SHA-256 of `bytes`.
pub fn short_hash(bytes: &[u8]) -> String {
    let mut text = BASE32_NOPAD.encode(&Sha256::digest(bytes)).to_ascii_lowercase();
    text.truncate(20);
    text
}

/// SHA-256 of `bytes`, hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(yaml: &str) -> PatchRun {
        let spec = crate::yaml::from_str(yaml).expect("fixture");
        let mut run = PatchRun::new("web-kernel-2026-11", spec);
        run.metadata.namespace = Some("patching".into());
        run
    }

    /// Golden vectors: a change of any of these makes every finished run of every user run again.
    #[test]
    fn run_keys_never_change() {
        let by_group = run(
            "{connection: {name: prod}, group: 5, desiredKernel: 6.1.0-53-cloud-amd64, phases: [precheck, stage, apply, reboot, postcheck]}",
        );
        let by_hosts = run("{connection: {name: prod}, hosts: [b, a], phases: [precheck]}");
        assert_eq!(run_key("east", &by_group, 1), "v1-v7owsh5xuoohwbqevckf");
        assert_eq!(run_key("east", &by_group, 2), "v1-mrm6vbidjl3ctyrnejn6");
        assert_eq!(run_key("east", &by_hosts, 1), "v1-rhqp6ejjrqwoaekvhhdm");
    }

    #[test]
    fn a_group_is_the_same_as_number_and_as_text_and_hosts_in_any_order() {
        let key = |yaml: &str| run_key("east", &run(yaml), 1);
        assert_eq!(
            key("{connection: {name: c}, group: 5, phases: [precheck]}"),
            key("{connection: {name: c}, group: \"5\", phases: [precheck]}")
        );
        assert_eq!(
            key("{connection: {name: c}, hosts: [a, b], phases: [precheck]}"),
            key("{connection: {name: c}, hosts: [b, a], phases: [precheck]}")
        );
    }

    #[test]
    fn names_fit_where_they_are_used() {
        let key = phase_key(&run_key("east", &run("{connection: {name: c}, group: 5, phases: [precheck]}"), 1), Phase::Postcheck);
        // Tekton appends the task's and the pod's name; children stay below 63
        assert!(work(&key, 100).len() <= 50, "{}", work(&key, 100));
    }

    proptest! {
        #[test]
        fn label_values_are_valid(text in ".{0,200}") {
            let label = label_value(&text);
            prop_assert!(label.len() <= 63);
            prop_assert!(label.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
            prop_assert!(label.is_empty() || label.starts_with(|c: char| c.is_ascii_alphanumeric()) && label.ends_with(|c: char| c.is_ascii_alphanumeric()));
        }
    }
}
