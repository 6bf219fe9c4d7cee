//! Files that are generated and committed.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file of the repository.
pub fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// Compares a generated file with the committed one, or writes it when `UPDATE_MANIFESTS` is set.
pub fn check(file: &str, fresh: &str) {
    let path = path(file);
    if std::env::var_os("UPDATE_MANIFESTS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, fresh).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == fresh, "{} is stale: run `make gen`", path.display());
}
