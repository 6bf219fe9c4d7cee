//! Stories of the server over a loopback TLS listener and a Kubernetes API that answers what the server asks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and shows what a tool said"
)]

mod logged;
#[allow(dead_code, reason = "another test asks for the messages")]
mod rules;

#[path = "server/bed.rs"]
mod bed;
#[path = "server/canaries.rs"]
mod canaries;
#[path = "server/certificates.rs"]
mod certificates;
#[path = "server/chat.rs"]
mod chat;
#[path = "server/cluster.rs"]
mod cluster;
#[path = "server/conformance.rs"]
mod conformance;
#[path = "server/documents.rs"]
mod documents;
#[path = "server/events.rs"]
mod events;
#[path = "server/history.rs"]
mod history;
#[path = "server/identity.rs"]
mod identity;
#[path = "server/intake.rs"]
mod intake;
#[path = "server/limits.rs"]
mod limits;
#[path = "server/logs.rs"]
mod logs;
#[path = "server/runs.rs"]
mod runs;
#[path = "server/start.rs"]
mod start;
#[path = "server/traces.rs"]
mod traces;
