//! Writing a log into the archive and reading it back, beside the least that any program does for it and beside what a shell does.

use std::{
    fs::File,
    hint::black_box,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use fettle::archive::{Archive, Key, LogStream, Owner};
use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};

const SIZE: usize = 64 << 20;
/// As much as one read of a socket gives.
const CHUNK: usize = 64 << 10;
/// What somebody who looks at the end of a log asks for.
const END: usize = 64 << 10;

/// Lines as a playbook prints them.
fn log() -> Bytes {
    let mut text = Vec::with_capacity(SIZE + 128);
    for n in 0u64.. {
        writeln!(text, "{n:08} changed: [web-{:04}.example.com] => {{\"rc\": 0, \"elapsed\": {}}}", n % 1000, n * 7919 % 1000).unwrap();
        if text.len() >= SIZE {
            break;
        }
    }
    text.truncate(SIZE);
    text.into()
}

fn stream(log: &Bytes) -> LogStream {
    let log = log.clone();
    futures::stream::iter((0..SIZE).step_by(CHUNK).map(move |at| Ok(log.slice(at..at + CHUNK)))).boxed()
}

/// The least: hash, write, sync.
fn hash_and_write(log: &[u8], path: &Path) -> [u8; 32] {
    let (mut hash, mut file) = (Sha256::new(), File::create(path).unwrap());
    for chunk in log.chunks(CHUNK) {
        hash.update(chunk);
        file.write_all(chunk).unwrap();
    }
    file.sync_all().unwrap();
    hash.finalize().into()
}

fn shell(script: &str, log: &[u8], path: &Path) {
    let mut child = Command::new("sh").args(["-c", script, "sh"]).arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(log).unwrap();
    assert!(child.wait().unwrap().success());
}

fn write(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::directory(directory.path().join("archive")).unwrap();
    let key = Key::parse("v1-abcdefghijklmnopq234-apply").unwrap();
    let owner = Owner::new("patching", "web").unwrap();
    let (log, file) = (log(), directory.path().join("log"));
    let mut group = c.benchmark_group("archive: a log of 64 MiB is written");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE as u64));
    // each replaces the one before
    group.bench_function("fettle", |b| {
        b.to_async(&runtime).iter_batched(
            || stream(&log),
            async |stream| archive.put_log(&key, &owner, "Job 4711", stream).await.unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("the same hash and one synced file", |b| b.iter(|| hash_and_write(black_box(&log), &file)));
    group.bench_function("tee | sha256sum; sync", |b| b.iter(|| shell(r#"tee "$1" | sha256sum && sync "$1""#, &log, &file)));
    group.bench_function("tee | gzip | sha256sum", |b| b.iter(|| shell(r#"gzip -c | tee "$1" | sha256sum"#, &log, &file)));
}

fn read(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::directory(directory.path().join("archive")).unwrap();
    let key = Key::parse("v1-abcdefghijklmnopq234-apply").unwrap();
    let owner = Owner::new("patching", "web").unwrap();
    let (log, file) = (log(), directory.path().join("log"));
    runtime.block_on(archive.put_log(&key, &owner, "Job 4711", stream(&log))).unwrap();
    std::fs::write(&file, &log).unwrap();
    for (what, part) in [("all 64 MiB", SIZE), ("the last 64 KiB", END)] {
        let from = (SIZE - part) as u64;
        let mut group = c.benchmark_group(format!("archive: {what} of a log are read"));
        group.throughput(Throughput::Bytes(part as u64));
        if part == SIZE {
            group.sample_size(20);
        }
        group.bench_function("fettle", |b| {
            b.to_async(&runtime).iter(async || {
                let open = archive.open_log(&key, Some(from..SIZE as u64)).await.unwrap().unwrap();
                let read = open.stream.try_fold(0, async |sum, chunk| Ok(sum + chunk.len())).await.unwrap();
                assert_eq!(read, part);
            });
        });
        group.bench_function("seek and read", |b| {
            let mut buffer = vec![0; CHUNK];
            b.iter(|| {
                let mut file = File::open(&file).unwrap();
                file.seek(SeekFrom::Start(from)).unwrap();
                let mut sum = 0;
                while let n @ 1.. = file.read(&mut buffer).unwrap() {
                    sum += black_box(&buffer[..n]).len();
                }
                assert_eq!(sum, part);
            });
        });
    }
}

criterion_group!(benches, write, read);
