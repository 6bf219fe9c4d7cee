//! Tests that read what they log. That is a matter of a whole process, so each has one of its own.

use std::{fs::File, path::Path, process::Command, sync::Arc};

use fettle::telemetry::{LogFormat, subscriber};
use tempfile::NamedTempFile;

const LOG: &str = "FETTLE_TEST_LOG";

/// Carries out `test`, the test of that name, and tells it where its log is.
#[allow(dead_code, reason = "not every test that reads its log is content with this filter")]
pub fn alone(name: &str, test: impl AsyncFnOnce(&Path)) {
    alone_at("info,kube=warn", name, test);
}

/// As [`alone`], with another filter.
pub fn alone_at(filter: &str, name: &str, test: impl AsyncFnOnce(&Path)) {
    if let Some(path) = std::env::var_os(LOG) {
        let file = File::options().append(true).open(&path).unwrap();
        tracing::subscriber::set_global_default(subscriber(LogFormat::Json, filter, Arc::new(file))).unwrap();
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test(Path::new(&path)));
        return;
    }
    let log = NamedTempFile::new().unwrap();
    let ran = Command::new(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(LOG, log.path()).output().unwrap();
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

/// Secrets that were planted, and the search for them.
#[allow(dead_code, reason = "not every test that reads its log plants some")]
pub mod canaries {
    use std::path::Path;

    /// Every file below a directory: where, and what.
    pub fn files(directory: &Path) -> Vec<(String, String)> {
        let mut found = vec![];
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                found.push((path.display().to_string(), String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()));
            }
        }
        found
    }

    /// Fails when any of the outputs (where, and what) holds a secret that begins with `mark`, be it plain, in Base64 or as a list of bytes.
    pub fn none_in(mark: &str, outputs: &[(String, String)]) {
        let forms = forms(mark);
        let leaks: Vec<String> = outputs
            .iter()
            .flat_map(|(place, text)| forms.iter().filter_map(move |form| around(text, form).map(|found| format!("{place}: {found}"))))
            .collect();
        assert!(leaks.is_empty(), "{} outputs hold a secret, among them\n{}", leaks.len(), leaks[..leaks.len().min(8)].join("\n"));
    }

    fn forms(mark: &str) -> Vec<String> {
        let mut forms = vec![mark.to_owned()];
        for before in 0..3_usize {
            let bytes = [&vec![b'x'; before][..], mark.as_bytes()].concat();
            let encoded = data_encoding::BASE64_NOPAD.encode(&bytes);
            // the characters at the ends depend on what is beside it
            let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
            forms.push(encoded[from..to].to_owned());
        }
        forms.push(mark.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", "));
        forms
    }

    /// The form where it stands in the text.
    fn around(text: &str, form: &str) -> Option<String> {
        let at = text.find(form)?;
        let (from, to) = (text.floor_char_boundary(at.saturating_sub(150)), text.ceil_char_boundary((at + 150).min(text.len())));
        Some(text[from..to].to_owned())
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        for text in [
            "a c4n4ry-x b".to_owned(),
            data_encoding::BASE64.encode(b"user:c4n4ry-x"),
            data_encoding::BASE64.encode(b"c4n4ry-x"),
            format!("{:?}", b"---c4n4ry-x"),
        ] {
            let found = std::panic::catch_unwind(|| none_in("c4n4ry-", &[("here".to_owned(), text.clone())]));
            assert!(found.is_err(), "{text}");
        }
        none_in("c4n4ry-", &[("here".to_owned(), "canary".to_owned())]);
    }
}
