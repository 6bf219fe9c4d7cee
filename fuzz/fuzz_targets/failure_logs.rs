//! Logs of phases, as hostile as they come: whatever they hold, reading them ends, in pieces as at once, and evidence is a line of the log.
#![no_main]

use fettle::runbooks::{Classifier, Context, Library, Verdict};
use libfuzzer_sys::fuzz_target;

fn read(log: &[u8], piece: usize) -> Verdict {
    let mut classifier = Classifier::new(Library::shipped(), Context::default());
    log.chunks(piece).for_each(|bytes| classifier.push(bytes));
    classifier.finish()
}

fuzz_target!(|log: &[u8]| {
    let verdict = read(log, 7);
    assert_eq!(verdict, read(log, usize::MAX));
    let lines = log.split(|b| *b == b'\n').count() as i64;
    for evidence in verdict.classification.iter().chain(verdict.hosts.values()).filter_map(|cause| cause.evidence.as_ref()) {
        assert!((1..=lines).contains(&evidence.line) && evidence.excerpt.len() <= 1024);
    }
});
