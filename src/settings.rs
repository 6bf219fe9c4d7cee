//! The operator's configuration: the ConfigMap `fettle-config` in its namespace, read live.

pub mod run_defaults;

use std::collections::BTreeMap;

/// Name of the ConfigMap.
pub const NAME: &str = "fettle-config";

/// Its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `INSTALLATION`: name of this installation, part of every run key, so that two clusters on one controller never adopt each other's jobs.
    pub installation: String,
    /// `SERVER_URL`: where people reach `fettle server`; log addresses are made of it. No trailing slash.
    pub server_url: String,
    /// `CHECKS_IMAGE`: image of the checks' steps.
    pub checks_image: String,
    /// `INVENTORY_GROUP_FIELD`: group variable of connections that name none.
    pub group_variable: String,
    /// `AAP_URL`: origins that connections may point at, separated by commas. Empty: any.
    pub controllers: Vec<String>,
    /// Why no run launches anything; `None`: they may. From `PAUSE`, or because the ConfigMap that followed this one cannot be used.
    pub pause: Option<String>,
}

/// A key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{NAME}: {key} {problem}")]
pub struct Invalid {
    /// The key.
    pub key: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Settings {
    /// These, after the ConfigMap was made unusable: what runs is followed to its end, and nothing is launched.
    #[must_use]
    pub fn braked(&self, invalid: &Invalid) -> Self {
        Self { pause: Some(format!("nothing is launched before this is mended: {invalid}")), ..self.clone() }
    }

    /// Reads the ConfigMap's data. Unknown keys belong to other parts of Fettle.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let get = |key: &str| data.get(key).map(|v| v.trim()).filter(|v| !v.is_empty());
        let required = |key: &'static str, what: &str| {
            get(key).map(str::to_owned).ok_or_else(|| Invalid { key, problem: format!("is required: {what}") })
        };
        let installation =
            required("INSTALLATION", "a name for this installation that no other cluster on the same controller has; never change it")?;
        if installation.len() > 63 {
            return Err(Invalid { key: "INSTALLATION", problem: "must be at most 63 characters".into() });
        }
        let pause = match get("PAUSE").unwrap_or("false") {
            "true" => Some(format!("launches are paused for the whole operator (PAUSE in {NAME})")),
            "false" => None,
            // an unreadable brake is a brake
            other => return Err(Invalid { key: "PAUSE", problem: format!("must be \"true\" or \"false\", not {other:?}") }),
        };
        Ok(Self {
            installation,
            server_url: required("SERVER_URL", "the address of fettle server as people reach it")?.trim_end_matches('/').to_owned(),
            checks_image: required("CHECKS_IMAGE", "the image of the checks")?,
            group_variable: get("INVENTORY_GROUP_FIELD").unwrap_or("patch_group").to_owned(),
            controllers: get("AAP_URL")
                .unwrap_or_default()
                .split(',')
                .map(|url| url.trim().trim_end_matches('/').to_owned())
                .filter(|url| !url.is_empty())
                .collect(),
            pause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let needed = [("INSTALLATION", "east"), ("SERVER_URL", "https://fettle.example.com/"), ("CHECKS_IMAGE", "checks:1")];
        needed.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_unreadable_pause_is_an_error_not_a_go() {
        assert_eq!(Settings::parse(&data(&[])).unwrap().pause, None);
        assert!(Settings::parse(&data(&[("PAUSE", "true")])).unwrap().pause.is_some());
        assert_eq!(Settings::parse(&data(&[("PAUSE", "yes")])).unwrap_err().key, "PAUSE");
    }

    #[test]
    fn the_installation_must_be_named() {
        let mut without = data(&[]);
        without.remove("INSTALLATION");
        assert_eq!(Settings::parse(&without).unwrap_err().key, "INSTALLATION");
        assert_eq!(Settings::parse(&data(&[])).unwrap().server_url, "https://fettle.example.com");
    }
}
