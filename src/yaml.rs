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

/// Reads text that may be hostile (YAML or JSON). The error says where, and not what is there: that may be a password.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_saphyr::from_str(text).map_err(|e| {
        let place = e.location().map(|at| format!(" at line {}, column {}", at.line(), at.column())).unwrap_or_default();
        Error(format!("not valid YAML, or not what belongs there{place}"))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn errors_say_where_and_not_what() {
        for text in
            ["a:\n  b: [hunter2\n", "a:\n  b: hunter2\n", "a:\n  hunter2\n", "a: {b: 1}\n? hunter2\n", "{\"a\": {\"b\": \"hunter2\"}}"]
        {
            let error = from_str::<BTreeMap<String, BTreeMap<String, i64>>>(text).unwrap_err().to_string();
            assert!(error.contains(" at line ") && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
