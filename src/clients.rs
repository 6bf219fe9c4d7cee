//! Clients of the systems Fettle talks to. They know wire formats and certainty of outcomes, never kinds of ours.

pub mod aap;
pub mod http;
pub mod kubernetes;
pub mod tekton;
