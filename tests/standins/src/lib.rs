//! Stand-ins that the tests talk to over HTTP.
//!
//! [`aap`] speaks the part of the Ansible Automation Platform controller API (AWX) that a client which launches and follows
//! jobs needs. One code base serves tests in the same process (`aap::Standin::builder()` with a scripted executor) and the
//! cluster (`aap-standin`, which runs real playbooks with `ansible-runner`).

#![allow(clippy::wildcard_enum_match_arm, reason = "most matches are on JSON values and on the one or two faults that matter somewhere")]
#![allow(clippy::format_push_string, reason = "`write!` to a text has an error that cannot happen")]
#![allow(clippy::single_match_else, reason = "`match` reads better where both arms are long")]

pub mod aap;
