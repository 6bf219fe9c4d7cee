//! What somebody asks the server for: the id of a log, a range of it, a tag they know, an owner. The first line is the size of the log, the second
//! one a namespace, and the rest is all of the others.
//!
//! An id is one path segment, a part lies inside the log, an owner cannot leave its folder.
#![no_main]

use fettle::{
    archive::{Key, Owner},
    http::range::{self, Wanted},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    let mut parts = data.splitn(3, '\n');
    let (Some(size), Some(namespace), Some(text)) = (parts.next(), parts.next(), parts.next()) else { return };
    let Ok(size) = size.parse::<u64>() else { return };
    if let Ok(key) = Key::parse(text) {
        assert_eq!(key.as_str(), text);
        assert!(text.len() <= 33 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{text:?}");
        assert!(text.ends_with(key.phase().as_str()) && text.starts_with(key.run_key()));
    }
    if let Ok(owner) = Owner::new(namespace, text) {
        for part in [&owner.namespace, &owner.name] {
            assert!(!part.is_empty() && !part.contains(['/', '\\', '\0', '%']) && !part.split('.').any(str::is_empty), "{owner:?}");
        }
    }
    if let Wanted::Part(part) = range::wanted(Some(text), size) {
        assert!(part.start < part.end && part.end <= size && text.starts_with("bytes="), "{text:?}");
    }
    assert!(range::wanted(None, size) == Wanted::All);
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    if range::names(text, hash) {
        assert!(text.contains(hash) || text.contains('*'), "{text:?}");
    }
});
