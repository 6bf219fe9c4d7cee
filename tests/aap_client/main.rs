//! The AAP client: single calls on the wire, a real controller's recorded answers, and stories with a stand-in controller.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod calls;
mod recorded;
mod stories;
mod wire;
