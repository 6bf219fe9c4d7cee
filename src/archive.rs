//! Logs and records of finished phases, kept in an object store.

pub mod record;
