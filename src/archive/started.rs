//! [`Started`]: the mark of a direct launch.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A direct launch that is about to be sent. It is created before the request and at most once, so that whoever finds it, also after the
/// cluster lost its memory, looks for the job and never sends another request.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Started {
    /// Key of the phase.
    pub run_key: String,
    /// Namespace of the PatchRun.
    pub namespace: String,
    /// Name of the PatchRun.
    pub name: String,
    /// Identity of the controller.
    pub install_uuid: String,
    /// Numeric id of the template.
    pub template: i64,
    /// Highest job id before the launch: the job has a higher one.
    pub baseline: i64,
    /// When it was written.
    pub at: Timestamp,
}
