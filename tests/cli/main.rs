//! `kubectl fettle` as people and scripts run it: the real program against an API server and a fettle server on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::unused_self,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with the stories of runs")]
#[path = "../world/apiserver.rs"]
mod apiserver;
mod bed;
#[allow(dead_code, reason = "shared with the stories of runs")]
#[path = "../world/calls.rs"]
mod calls;
mod changes;
#[allow(dead_code, reason = "shared with the stories of the server")]
#[path = "../server/cluster.rs"]
mod cluster;
mod doctor;
mod records;
#[allow(dead_code, reason = "another test asks for the messages")]
#[path = "../rules/mod.rs"]
mod rules;
mod runbooks;
#[allow(dead_code, reason = "shared with the stories of the server")]
#[path = "../server/bed.rs"]
mod server;
mod shows;
#[allow(dead_code, reason = "shared with the stories of runs")]
#[path = "../world/tekton.rs"]
mod tekton;
