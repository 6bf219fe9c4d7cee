//! The only place that writes a status subresource.

use std::fmt::Debug;

use kube::{Api, Resource, ResourceExt as _, api::PostParams, core::object::HasStatus};
use serde::{Serialize, de::DeserializeOwned};

use crate::names;

/// How everything of ours is written: in our name.
pub fn params() -> PostParams {
    PostParams { field_manager: Some(names::MANAGER.into()), ..PostParams::default() }
}

/// Whether a decision may be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The status on record was the decided one already.
    Unchanged,
    /// The decided status is now on record, with this `resourceVersion`.
    Written(String),
    /// Someone wrote since the object was read, or it is gone: look again, do nothing.
    Stale,
}

/// Records `new`, provided nobody wrote the object since `obj` was read (compare and swap by `resourceVersion`).
///
/// A status equal to the one on record is not written, so that a settled object costs no write.
pub async fn commit<K>(api: &Api<K>, obj: &K, new: K::Status) -> kube::Result<Commit>
where
    K: Resource<DynamicType = ()> + HasStatus + Serialize + DeserializeOwned + Clone + Debug,
    K::Status: PartialEq,
{
    if obj.status() == Some(&new) {
        return Ok(Commit::Unchanged);
    }
    let mut next = obj.clone();
    next.meta_mut().managed_fields = None;
    *next.status_mut() = Some(new);
    match api.replace_status(&obj.name_any(), &params(), &next).await {
        Ok(written) => Ok(Commit::Written(written.resource_version().unwrap_or_default())),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(Commit::Stale),
        Err(other) => Err(other),
    }
}
