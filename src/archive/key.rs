//! [`Key`]: the checked name under which a phase is archived.

use std::fmt;

use object_store::path::Path;

use super::Error;
use crate::api::patch_run::Phase;

/// A phase key that was checked: `v1-`, 20 characters of base 32, `-`, a phase. Only such a name ever becomes part of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    text: String,
    phase: Phase,
}

impl Key {
    /// Checks a phase key: `^v1-[a-z2-7]{20}-(precheck|stage|apply|reboot|postcheck)$`. Anything else is [`Error::Rejected`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let phase = || {
            let (hash, phase) = text.strip_prefix("v1-")?.split_once('-')?;
            let base32 = hash.len() == 20 && hash.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
            Phase::ALL.into_iter().find(|p| base32 && p.as_str() == phase)
        };
        match phase() {
            Some(phase) => Ok(Self { text: text.to_owned(), phase }),
            None => Err(Error::Rejected("that is not a phase key (v1-, 20 characters of base 32, -, the phase)".into())),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The phase it is the key of.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The part of the key that all phases of a run share.
    pub fn run_key(&self) -> &str {
        &self.text[..23]
    }

    /// The object of that name among those of this phase.
    pub(super) fn object(&self, name: &str) -> Path {
        Path::from_iter(["phases", self.as_str(), name])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// RFC 1123 label: what Kubernetes accepts as the name of a namespace.
pub(super) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-') && !text.is_empty() && text.bytes().all(inner)
}

/// RFC 1123 subdomain: what Kubernetes accepts as the name of an object.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "v1-abcdefghijklmnopq234-apply";

    #[test]
    fn keys_are_taken_apart() {
        let key = Key::parse(GOOD).unwrap();
        assert_eq!((key.phase(), key.run_key(), key.as_str()), (Phase::Apply, "v1-abcdefghijklmnopq234", GOOD));
    }

    #[test]
    fn nothing_else_is_a_key() {
        for bad in [
            "",
            "..",
            "../x",
            "v1-abcdefghijklmnopq234",
            "v1-abcdefghijklmnopq234-",
            "v1-abcdefghijklmnopq234-sweep",
            "v1-abcdefghijklmnopq23-apply",
            "v1-abcdefghijklmnopq2345-apply",
            "v2-abcdefghijklmnopq234-apply",
            "v1-ABCDEFGHIJKLMNOPQ234-apply",
            "v1-abcdefghijklmnopq189-apply",
            "v1-abcdefghijklmnopq234-apply/../x",
            "v1-abcdefghijklmnopq234-apply\0",
            "v1-abcdefghijklmnopq234-apply\n",
            " v1-abcdefghijklmnopq234-apply",
            "v1-abcdefghijklmno/q234-apply",
            "v1-../../../../../../-apply",
            "V1-abcdefghijklmnopq234-apply",
        ] {
            assert!(matches!(Key::parse(bad), Err(Error::Rejected(_))), "{bad:?}");
        }
    }

    #[test]
    fn namespaces_and_names_cannot_leave_their_folder() {
        for bad in ["", ".", "..", "a/b", "-a", "a-", "A", "a\0", "a..b", &"a".repeat(64)] {
            assert!(!is_label(bad), "{bad:?}");
        }
        assert!(is_subdomain("web-kernel-2026.11") && !is_subdomain("a..b") && !is_subdomain(".") && !is_subdomain("a/b"));
    }

    proptest! {
        #[test]
        fn whatever_is_a_key_is_one_path_segment(text in "v1-[a-z2-7/.%]{18,22}-(apply|precheck|x)|.{0,60}") {
            if let Ok(key) = Key::parse(&text) {
                prop_assert_eq!(key.object("log.json").parts().count(), 3);
                prop_assert!(text.len() <= 33 && !text.contains(['/', '.', '%']));
            }
        }
    }
}
