//! `kubectl fettle` as people and scripts run it: the real program against an API server and a fettle server on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::format_push_string,
    clippy::needless_pass_by_value,
    clippy::unused_self,
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
mod records;
#[allow(dead_code, reason = "shared with the stories of the server")]
#[path = "../server/bed.rs"]
mod server;
mod shows;
#[allow(dead_code, reason = "shared with the stories of runs")]
#[path = "../world/tekton.rs"]
mod tekton;
