//! Drives a PatchRun.

pub mod decide;
pub mod verdict;
