//! The custom resources, and nothing that can reach a cluster.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

// clippy counts `type_ = "string"` in two printcolumns as one attribute given twice
#[allow(clippy::duplicated_attributes)]
pub mod automation_connection;
pub mod classification;
#[allow(clippy::duplicated_attributes)]
pub mod patch_run;
pub mod reason;
#[allow(clippy::duplicated_attributes)]
pub mod runbook;
pub mod shared;

/// The API group every kind lives in.
pub const GROUP: &str = "fettle.dev";

/// Every definition this operator serves, in the order they are written to `crds/`.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![automation_connection::AutomationConnection::crd(), patch_run::PatchRun::crd(), runbook::Runbook::crd()]
}
