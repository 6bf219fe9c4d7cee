//! Fettle: patches, watches and heals fleets from Git.

pub mod api;
pub mod archive;
pub mod clients;
pub mod http;
pub mod clock;
pub mod conditions;
pub mod controllers;
pub mod names;
pub mod status;
pub mod yaml;
