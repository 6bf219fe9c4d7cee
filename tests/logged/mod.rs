//! Tests that read what they log. That is a matter of a whole process, so each has one of its own.

use std::{fs::File, path::Path, process::Command, sync::Arc};

use fettle::telemetry::{LogFormat, subscriber};
use tempfile::NamedTempFile;

const LOG: &str = "FETTLE_TEST_LOG";

/// Carries out `test`, the test of that name, and tells it where its log is.
pub fn alone(name: &str, test: impl AsyncFnOnce(&Path)) {
    if let Some(path) = std::env::var_os(LOG) {
        let file = File::options().append(true).open(&path).unwrap();
        tracing::subscriber::set_global_default(subscriber(LogFormat::Json, "info,kube=warn", Arc::new(file))).unwrap();
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test(Path::new(&path)));
        return;
    }
    let log = NamedTempFile::new().unwrap();
    let ran = Command::new(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(LOG, log.path()).output().unwrap();
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}
