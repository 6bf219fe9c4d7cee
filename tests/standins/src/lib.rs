//! Stand-ins that the tests talk to over HTTP.
//!
//! [`aap`] speaks the part of the Ansible Automation Platform controller API (AWX) that a client which launches and follows
//! jobs needs. One code base serves tests in the same process (`aap::Standin::builder()` with a scripted executor) and the
//! cluster (`aap-standin`, which runs real playbooks with `ansible-runner`).

pub mod aap;
