//! The archive in S3: an S3 server of its own (versitygw over a directory), with credentials from the environment as in production.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{self, Child, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use fettle::{
    api::patch_run::{HostCounts, LogRef, Phase, RunResult},
    archive::{Archive, Error, Key, LogStream, Owner, Store, record::Record, settings::ArchiveArgs},
    cli::{Cli, Command},
    clock,
    shelf::Shelf,
};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::SignedDuration;
use sha2::{Digest as _, Sha256};

const KEY: &str = "v1-abcdefghijklmnopq234-apply";
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A running S3 server with one bucket, `fettle`.
struct Gateway {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Gateway {
    fn start() -> Self {
        let built =
            process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/gateway")).stderr(Stdio::inherit()).output().unwrap();
        assert!(built.status.success(), "the S3 server could not be built");
        let program = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim());
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("fettle")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = process::Command::new(program)
            .args(["--access", "archivist", "--secret", "archivist-secret", "--port", &format!("127.0.0.1:{port}"), "posix"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "the S3 server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { process, port, directory }
    }
}

/// Carries out `test`, the test of that name, in a process whose environment is that of a pod that has S3.
fn in_s3(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os("BUCKET_DIRECTORY").is_some() {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test);
        return;
    }
    let gateway = Gateway::start();
    let ran = process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("S3_BUCKET", "fettle")
        .env("S3_ENDPOINT", format!("http://127.0.0.1:{}", gateway.port))
        .env("S3_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "archivist")
        .env("AWS_SECRET_ACCESS_KEY", "archivist-secret")
        .env("BUCKET_DIRECTORY", gateway.directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    archive: ArchiveArgs,
}

fn archive() -> Archive {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let args = Line::parse_from(["fettle"]).archive;
    assert!(args.is_shared(), "S3_BUCKET makes it S3");
    args.open().unwrap()
}

fn key() -> Key {
    Key::parse(KEY).unwrap()
}

fn owner() -> Owner {
    Owner::new("patching", "web").unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

fn stream(bytes: &[u8]) -> LogStream {
    let chunks: Vec<_> = bytes.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    futures::stream::iter(chunks).boxed()
}

fn record(log: Option<LogRef>) -> Record {
    Record {
        run_key: KEY.into(),
        namespace: "patching".into(),
        name: "web".into(),
        attempt: 1,
        connection: "prod".into(),
        group: None,
        desired_kernel: None,
        phase: Phase::Apply,
        result: RunResult::Ok,
        reason: "Succeeded".into(),
        message: "every host is proven".into(),
        executor: None,
        started_at: None,
        finished_at: None,
        counts: HostCounts::default(),
        hosts: vec![],
        log,
        classification: None,
    }
}

/// Every file below, without what the gateway keeps for itself.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn logs_and_records_are_kept_in_s3() {
    in_s3("logs_and_records_are_kept_in_s3", logs_and_records());
}

async fn logs_and_records() {
    let archive = archive();
    archive.probe().await.unwrap();
    let store = Store::Direct(archive.clone());
    assert_eq!((store.record(KEY).await.unwrap(), store.log_meta(KEY).await.unwrap()), (None, None));
    // three parts
    let bytes: Vec<u8> = (0..20u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let log = store.put_log(KEY, &owner(), "Job 1", stream(&bytes)).await.unwrap();
    assert_eq!((u64::try_from(log.size).unwrap(), &log.sha256), (20 << 20, &sha256(&bytes)));
    for range in [0..20 << 20, 8_388_607..8_388_610, (20 << 20) - 1..20 << 20] {
        let open = archive.open_log(&key(), Some(range.clone())).await.unwrap().unwrap();
        let read = open.stream.try_collect::<Vec<_>>().await.unwrap().concat();
        assert!(read == bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()], "{range:?}");
    }
    let small = store.put_log(KEY, &owner(), "Job 1", stream(b"small")).await.unwrap();
    store.put_record(&record(Some(small.clone()))).await.unwrap();
    store.put_record(&record(Some(small.clone()))).await.expect("the same again");
    let other = Record { message: "other".into(), ..record(Some(small)) };
    assert!(matches!(store.put_record(&other).await, Err(Error::Conflict(_))));
    assert!(matches!(store.put_log(KEY, &owner(), "Job 1", stream(b"late")).await, Err(Error::Conflict(_))));
    assert_eq!(archive.records_of(&owner()).await.unwrap().len(), 1);
}

/// What the manager archives, the server finds, and the other way round.
#[test]
fn the_manager_writes_to_s3_by_itself() {
    in_s3("the_manager_writes_to_s3_by_itself", by_itself());
}

async fn by_itself() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Command::Manager(manager) = Cli::parse_from(["fettle", "manager"]).command else { panic!("another command") };
    let store = manager.store(Shelf::new("fettle-system")).unwrap();
    assert!(matches!(store, Store::Direct(_)), "{store:?}");
    let log = store.put_log(KEY, &owner(), "Job 1", stream(b"small")).await.unwrap();
    store.put_record(&record(Some(log.clone()))).await.unwrap();
    let Command::Server(server) = Cli::parse_from(["fettle", "server"]).command else { panic!("another command") };
    let archive = server.archive.open().unwrap();
    assert_eq!(archive.record(&key()).await.unwrap(), Some(record(Some(log))));
    let read = archive.open_log(&key(), None).await.unwrap().unwrap().stream.try_collect::<Vec<_>>().await.unwrap().concat();
    assert_eq!(read, b"small");
}

#[test]
fn a_broken_upload_leaves_nothing_in_s3() {
    in_s3("a_broken_upload_leaves_nothing_in_s3", nothing_half());
}

async fn nothing_half() {
    let archive = archive();
    let directory = PathBuf::from(std::env::var("BUCKET_DIRECTORY").unwrap());
    let before = files(&directory);
    let other = "v1-zzzzzzzzzzzzzzzzzzzz-apply";
    let bytes = vec![7u8; 20 << 20];
    let broken = stream(&bytes).chain(futures::stream::once(async { Err(std::io::Error::other("gone")) })).boxed();
    let put = archive.put_log(&Key::parse(other).unwrap(), &owner(), "", broken).await;
    assert!(matches!(put, Err(Error::Source(_))), "{put:?}");
    let endless = stream(&bytes).chain(futures::stream::pending()).boxed();
    let key = Key::parse(other).unwrap();
    let whose = owner();
    let put = archive.put_log(&key, &whose, "", endless);
    assert!(tokio::time::timeout(Duration::from_secs(3), put).await.is_err());
    for _ in 0..100 {
        if files(&directory) == before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("broken uploads left {:?}", files(&directory));
}

/// Two processes write a record at the same time: one wins, the other is told.
#[test]
fn two_writers_and_the_retention_in_s3() {
    in_s3("two_writers_and_the_retention_in_s3", races_and_retention());
}

async fn races_and_retention() {
    // two archives do not share locks, as two processes do not
    let (one, two) = (archive(), archive());
    let key = "v1-yyyyyyyyyyyyyyyyyyyy-apply";
    let a = Record { run_key: key.into(), ..record(None) };
    let b = Record { message: "other".into(), ..a.clone() };
    let (first, second) = tokio::join!(one.put_record(&a), two.put_record(&b));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    assert!(matches!(first.and(second), Err(Error::Conflict(_))));
    one.put_log(&self::key(), &owner(), "Job 1", stream(b"log")).await.unwrap();
    let swept = one.sweep(clock::now() + DAY * 31, DAY * 30, DAY * 365).await.unwrap();
    assert_eq!((swept.logs, swept.records, swept.leftovers), (1, 0, 1), "the log and its marker");
    let swept = one.sweep(clock::now() + DAY * 366, DAY * 30, DAY * 365).await.unwrap();
    assert_eq!((swept.logs, swept.records, swept.leftovers), (0, 1, 1), "the record and its marker");
    assert_eq!(one.records_of(&owner()).await.unwrap(), []);
}
