//! Fettle: patches, watches and heals fleets from Git.
pub mod api;
