//! YAML, behind one door: manifests are written with one library, text from outside is read with another that has budgets against alias bombs.

use serde::{Serialize, de::DeserializeOwned};

/// YAML could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Renders one of our own manifests.
pub fn to_string(value: &impl Serialize) -> Result<String, Error> {
    serde_yaml::to_string(value).map_err(|e| Error(e.to_string()))
}

/// Reads text that may be hostile (YAML or JSON).
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_saphyr::from_str(text).map_err(|e| Error(e.to_string()))
}
