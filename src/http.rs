//! The HTTP server: health, metrics, logs, runs, and the intake of logs and records.
