//! The custom resources, and nothing that can reach a cluster.
