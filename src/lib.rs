//! Fettle: patches, watches and heals fleets from Git.
//!
//! ```text
//! main ─ cli, manager
//!   └─ controllers (shell) ─ http
//!        ├─ */observe, */act ──> clients, archive ─> shelf, status, events, names
//!        └─ */decide, verdict, scope, checks ──> api, conditions, names, runbooks      no client, no async, no clock
//! kubectl (the command line of people) ──> api, runbooks, names
//! clients ─> own types only          history ─> archive          api ─> kube's derives, schemars, serde
//! ```

pub mod api;
pub mod archive;
pub mod chat;
pub mod classify;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod conditions;
pub mod controllers;
pub mod events;
pub mod history;
pub mod http;
pub mod kubectl;
pub mod lease;
pub mod manager;
pub mod metrics;
pub mod names;
pub mod run_request;
pub mod runbooks;
pub mod settings;
pub mod shelf;
pub mod status;
pub mod telemetry;
pub mod yaml;
