//! Stories told on a real cluster.
