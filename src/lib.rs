//! Fettle: patches, watches and heals fleets from Git.

pub mod api;
pub mod archive;
pub mod clients;
pub mod http;
