//! Stories of whole runs: the real reconcile against a Kubernetes API, an AAP controller, a Tekton and an archive in this process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::format_push_string,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::needless_pass_by_value,
    clippy::type_complexity,
    clippy::large_futures,
    clippy::unused_self,
    reason = "a test fails by panicking"
)]

mod addresses;
mod apiserver;
mod bed;
mod calls;
mod canaries;
mod foreign;
#[path = "../logged/mod.rs"]
mod logged;
mod losses;
mod plans;
mod poison;
mod proxy;
mod quiet;
mod references;
mod stories;
mod tekton;
mod traces;
mod workloads;
