//! Reading a log for its cause, beside a plain search for as many fixed texts.

use std::{fmt::Write as _, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group};
use fettle::runbooks::{Classifier, Context, Library};

/// A log of about 16 MiB, as an update of many hosts writes it: what a package manager and Ansible print when all goes well, and one failure.
fn log() -> Vec<u8> {
    let mut log = String::new();
    for host in 0..64 {
        let _ = writeln!(log, "2026-03-02 04:00:01,123 p=991 u=awx n=ansible | TASK [patch : update] *********************************");
        for package in 0..1200 {
            let _ = writeln!(log, "  Installing       : python3-lib{package}-3.9.{package}-1.el9.noarch                    {package}/1200");
            let _ = writeln!(
                log,
                "Mar  2 04:00:01 host{host} dnf[4711]: (7/1200): openssl-libs-3.2.{package}-1.el9.x86_64.rpm  2.1 MB/s | 2.0 MB  00:00"
            );
            let _ = writeln!(log, "[apply : run] ok: [host{host}.corp.invalid] => (item=package{package})");
        }
    }
    log += "fatal: [host1]: FAILED! => {\"changed\": false, \"msg\": \"installing package kernel-core-6.0 needs 9MB on the /boot filesystem\"}\n";
    log.into_bytes()
}

fn read(criterion: &mut Criterion) {
    let log = log();
    let library = Library::shipped();
    let mut group = criterion.benchmark_group(format!("read a log of {} MB for its cause", log.len() / 1_000_000));
    group.throughput(Throughput::Bytes(log.len() as u64)).sample_size(20);
    group.bench_function("fettle", |bencher| {
        bencher.iter(|| {
            let mut classifier = Classifier::new(Arc::clone(&library), Context::default());
            log.chunks(64 << 10).for_each(|chunk| classifier.push(chunk));
            classifier.finish()
        });
    });
    let peer = regex::bytes::RegexSetBuilder::new(
        Library::shipped_runbooks().iter().flat_map(|runbook| &runbook.spec.matches).map(|m| &m.pattern),
    )
    .size_limit(1 << 30)
    .build()
    .unwrap();
    group.bench_function("all patterns as one RegexSet, line by line", |bencher| {
        bencher.iter(|| log.split(|b| *b == b'\n').filter(|line| peer.is_match(line)).count());
    });
    group.finish();
}

criterion_group!(benches, read);
