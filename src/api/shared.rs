//! Small types that several kinds use.

use std::{fmt, str::FromStr as _};

use jiff::SignedDuration;
use kube::{KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The rule of what refers to an object by its `name`.
fn names_an_object() -> Rule {
    Rule::new("self.name.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')")
        .message("name must be the name of an object in the same namespace: lower-case letters, digits, dots and dashes")
        .field_path(".name")
}

/// Names an object in the same namespace. References never cross namespaces.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = names_an_object())]
pub struct LocalRef {
    /// Name of the object, in the namespace of the object that refers to it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Names a Secret in the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// The Secret, in the same namespace. It must carry the annotation `fettle.dev/origin` with the scheme and host of the controller it is for,
    /// for example `https://aap.example.com`: it is sent nowhere else.
    pub secret_ref: LocalRef,
}

/// One key of a ConfigMap or of a Secret in the same namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = names_an_object())]
pub struct KeyRef {
    /// Name of the object, in the same namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Key inside it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A group, template or inventory as teams write it: a number or a name.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, utoipa::ToSchema)]
#[serde(untagged)]
pub enum NameOrId {
    /// A number.
    Id(i64),
    /// A name.
    Name(String),
}

impl fmt::Display for NameOrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl JsonSchema for NameOrId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NameOrId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 253,
        })
    }
}

/// A length of time as users write it: `90s`, `15m`, `2h`, `1h30m`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(transparent)]
pub struct Span(#[schemars(length(min = 2, max = 16))] pub String);

impl Span {
    /// The length of time; `None` for text the schema would have refused.
    pub fn get(&self) -> Option<SignedDuration> {
        SignedDuration::from_str(&self.0).ok().filter(SignedDuration::is_positive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_users_write_them() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400)] {
            assert_eq!(Span(text.into()).get(), Some(SignedDuration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "soon", "-5m", "0s", "5"] {
            assert_eq!(Span(bad.into()).get(), None, "{bad}");
        }
    }
}
