//! The archive against an object store that fails, loses answers, stops and waits wherever it can.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fettle::{
    api::patch_run::{HostCounts, LogRef, Phase, RunResult},
    archive::{Archive, Error, Key, LogStream, Owner, record::Record},
    clock,
};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use jiff::SignedDuration;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, UploadPart, memory::InMemory, path::Path,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

const KEY: &str = "v1-abcdefghijklmnopq234-apply";
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn key() -> Key {
    Key::parse(KEY).unwrap()
}

fn owner() -> Owner {
    Owner::new("patching", "web").unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// `bytes`, in chunks of 1000.
fn stream(bytes: &[u8]) -> LogStream {
    let chunks: Vec<io::Result<Bytes>> = bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    futures::stream::iter(chunks).boxed()
}

async fn read(archive: &Archive) -> Option<Vec<u8>> {
    let open = archive.open_log(&key(), None).await.unwrap()?;
    let meta = open.meta.clone();
    let bytes = open.stream.try_collect::<Vec<_>>().await.unwrap().concat();
    assert_eq!((meta.size, meta.sha256.as_str()), (bytes.len() as u64, sha256(&bytes).as_str()), "a visible log is whole");
    Some(bytes)
}

fn record(log: Option<LogRef>, message: &str) -> Record {
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
        message: message.into(),
        executor: None,
        started_at: None,
        finished_at: None,
        counts: HostCounts::default(),
        hosts: vec![],
        log,
        classification: None,
    }
}

/// What goes wrong at the chosen call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Nothing is done and an error comes back.
    Refused,
    /// It is done and the answer is lost.
    AnswerLost,
    /// The process ends before it.
    KilledBefore,
    /// The process ends right after it.
    KilledAfter,
}

const FAULTS: [Fault; 4] = [Fault::Refused, Fault::AnswerLost, Fault::KilledBefore, Fault::KilledAfter];

/// Passes calls on, and does the fault at one of them.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    at: usize,
    fault: Fault,
    calls: AtomicUsize,
    killed: AtomicBool,
}

impl Plan {
    async fn call<T>(&self, work: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        let lost = || Err(object_store::Error::Generic { store: "test", source: "lost".into() });
        if self.killed.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        if self.calls.fetch_add(1, Ordering::SeqCst) != self.at {
            return work.await;
        }
        match self.fault {
            Fault::Refused => lost(),
            Fault::AnswerLost => {
                work.await?;
                lost()
            }
            Fault::KilledBefore | Fault::KilledAfter => {
                if self.fault == Fault::KilledAfter {
                    work.await?;
                }
                self.killed.store(true, Ordering::SeqCst);
                std::future::pending().await
            }
        }
    }

    fn reached(&self) -> bool {
        self.calls.load(Ordering::SeqCst) > self.at
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.plan.call(self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        let inner = self.plan.call(self.inner.put_multipart_opts(location, options)).await?;
        Ok(Box::new(FaultyUpload { inner, plan: Arc::clone(&self.plan) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.plan.call(self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        let (inner, plan) = (Arc::clone(&self.inner), Arc::clone(&self.plan));
        locations
            .then(move |location| {
                let (inner, plan) = (Arc::clone(&inner), Arc::clone(&plan));
                async move {
                    let location = location?;
                    plan.call(async { object_store::ObjectStoreExt::delete(&*inner, &location).await.map(|()| location.clone()) }).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.plan.call(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.plan.call(self.inner.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    plan: Arc<Plan>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (plan, part) = (Arc::clone(&self.plan), self.inner.put_part(data));
        Box::pin(async move { plan.call(part).await })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.plan.call(self.inner.complete()).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.plan.call(self.inner.abort()).await
    }
}

/// Does `work` over a store that faults at every call in turn, and looks at what is left with `check`, which is told whether
/// the work claims to have succeeded.
async fn at_every_call<W: Future<Output = bool>, C: Future<Output = ()>>(
    prepare: impl AsyncFn(&Archive),
    work: impl Fn(Archive) -> W,
    check: impl Fn(Archive, Arc<dyn ObjectStore>, bool) -> C,
) -> usize {
    let mut tried = 0;
    for fault in FAULTS {
        for at in 0.. {
            let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            prepare(&Archive::new(Arc::clone(&inner)).with_part_bytes(4000)).await;
            let plan = Arc::new(Plan { at, fault, calls: AtomicUsize::new(0), killed: AtomicBool::new(false) });
            let faulty = Archive::new(Arc::new(Faulty { inner: Arc::clone(&inner), plan: Arc::clone(&plan) })).with_part_bytes(4000);
            // time is paused: this ends at once when nothing can move any more
            let ended = tokio::time::timeout(Duration::from_mins(1), work(faulty)).await;
            if !plan.reached() {
                assert!(ended.expect("without a fault it ends"), "without a fault it succeeds");
                break;
            }
            eprintln!("{fault:?} at call {at}");
            check(Archive::new(Arc::clone(&inner)).with_part_bytes(4000), inner, ended.unwrap_or(false)).await;
            tried += 1;
        }
    }
    tried
}

async fn objects(store: &Arc<dyn ObjectStore>) -> Vec<String> {
    let mut names: Vec<String> = store.list(None).map_ok(|o| o.location.to_string()).try_collect().await.unwrap();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn a_log_is_old_or_new_and_whole_whatever_happens_to_an_upload() {
    static OLD: [u8; 9500] = [b'o'; 9500];
    static NEW: [u8; 10_500] = [b'n'; 10_500];
    let tried = at_every_call(
        async |archive| {
            archive.put_log(&key(), &owner(), "Job 1", stream(&OLD)).await.unwrap();
        },
        |archive| async move { archive.put_log(&key(), &owner(), "Job 1", stream(&NEW)).await.is_ok() },
        |archive, store, done| async move {
            let seen = read(&archive).await.expect("a log that was there stays there");
            assert!(seen == OLD || seen == NEW, "neither the old nor the new log: {} bytes", seen.len());
            assert!(!done || seen == NEW, "Ok means visible");
            archive.put_log(&key(), &owner(), "Job 1", stream(&NEW)).await.expect("once more is safe");
            assert_eq!(read(&archive).await.as_deref(), Some(&NEW[..]));
            archive.sweep(clock::now() + DAY * 2, DAY * 30, DAY * 365).await.unwrap();
            assert_eq!(read(&archive).await.as_deref(), Some(&NEW[..]), "the sweep takes leftovers only");
            let left = objects(&store).await;
            assert_eq!(left.len(), 3, "log, log.json and marker, nothing else: {left:?}");
        },
    )
    .await;
    assert!(tried >= 40, "only {tried} faults were tried");
}

#[tokio::test(start_paused = true)]
async fn a_record_is_absent_or_final_and_found_whatever_happens_to_its_writing() {
    let tried = at_every_call(
        async |archive| {
            archive.put_log(&key(), &owner(), "Job 1", stream(b"log")).await.unwrap();
        },
        |archive| async move {
            let log = LogRef { id: KEY.into(), size: 3, sha256: sha256(b"log") };
            archive.put_record(&record(Some(log), "first")).await.is_ok()
        },
        |archive, _, done| async move {
            let first = record(Some(LogRef { id: KEY.into(), size: 3, sha256: sha256(b"log") }), "first");
            let seen = archive.record(&key()).await.unwrap();
            assert!(seen.as_ref() == Some(&first) || seen.is_none() && !done);
            let other = Record { message: "second".into(), ..first.clone() };
            if seen.is_some() {
                assert!(matches!(archive.put_record(&other).await, Err(Error::Conflict(_))), "a record is never replaced");
            }
            archive.put_record(&first).await.expect("once more is safe");
            assert_eq!(archive.records_of(&owner()).await.unwrap(), [first], "a record can be found by its owner");
        },
    )
    .await;
    assert!(tried >= 12, "only {tried} faults were tried");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_may_be_interrupted_anywhere() {
    at_every_call(
        async |archive| {
            let log = archive.put_log(&key(), &owner(), "Job 1", stream(b"log")).await.unwrap();
            archive.put_record(&record(Some(log), "m")).await.unwrap();
        },
        |archive| async move { archive.sweep(clock::now() + DAY * 31, DAY * 30, DAY * 365).await.is_ok() },
        |archive, store, _| async move {
            let _ = read(&archive).await;
            assert!(archive.record(&key()).await.unwrap().is_some());
            archive.sweep(clock::now() + DAY * 31, DAY * 30, DAY * 365).await.unwrap();
            assert!(archive.log_meta(&key()).await.unwrap().is_none());
            archive.sweep(clock::now() + DAY * 366, DAY * 30, DAY * 365).await.unwrap();
            assert_eq!(objects(&store).await, [""; 0], "after a year nothing is left");
        },
    )
    .await;
}

#[tokio::test]
async fn a_record_seals_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::directory(directory.path().into()).unwrap();
    let log = archive.put_log(&key(), &owner(), "Job 1", stream(b"first")).await.unwrap();
    let log2 = archive.put_log(&key(), &owner(), "Job 1", stream(b"second")).await.unwrap();
    assert!(matches!(archive.put_record(&record(Some(log), "m")).await, Err(Error::Rejected(_))), "it vouches for bytes that are gone");
    archive.put_record(&record(Some(log2), "m")).await.unwrap();
    assert!(matches!(archive.put_log(&key(), &owner(), "Job 1", stream(b"third")).await, Err(Error::Conflict(_))));
    assert_eq!(read(&archive).await.unwrap(), b"second");
}

#[tokio::test]
async fn a_log_that_streams_while_the_record_is_written_does_not_replace_the_sealed_one() {
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::directory(directory.path().into()).unwrap();
    let log = archive.put_log(&key(), &owner(), "Job 1", stream(b"first")).await.unwrap();
    let gate = Arc::new(Notify::new());
    let waiting = {
        let gate = Arc::clone(&gate);
        stream(b"late").chain(futures::stream::once(async move {
            gate.notified().await;
            Ok(Bytes::from_static(b" end"))
        }))
    };
    let late = tokio::spawn({
        let archive = archive.clone();
        async move { archive.put_log(&key(), &owner(), "Job 1", waiting.boxed()).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    archive.put_record(&record(Some(log), "m")).await.unwrap();
    gate.notify_one();
    assert!(matches!(late.await.unwrap(), Err(Error::Conflict(_))));
    assert_eq!(read(&archive).await.unwrap(), b"first");
    let files = std::fs::read_dir(directory.path().join("phases").join(KEY)).unwrap().count();
    assert_eq!(files, 3, "log, log.json, record.json: the late upload left nothing");
}

#[tokio::test]
async fn a_broken_or_abandoned_or_oversized_upload_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::directory(directory.path().into()).unwrap().with_part_bytes(4000).with_max_log_bytes(50_000);
    let files = || {
        let phase = directory.path().join("phases").join(KEY);
        std::fs::read_dir(phase).map_or(0, Iterator::count)
    };
    let broken = stream(&[0; 9000]).chain(futures::stream::once(async { Err(io::Error::other("AAP went away")) })).boxed();
    assert!(matches!(archive.put_log(&key(), &owner(), "", broken).await, Err(Error::Source(m)) if m.contains("AAP went away")));
    let endless = stream(&[0; 9000]).chain(futures::stream::pending()).boxed();
    assert!(tokio::time::timeout(Duration::from_millis(200), archive.put_log(&key(), &owner(), "", endless)).await.is_err());
    assert!(matches!(archive.put_log(&key(), &owner(), "", stream(&vec![0; 50_001])).await, Err(Error::Rejected(_))));
    // removal of an abandoned upload happens behind our back
    for _ in 0..100 {
        if files() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(files(), 0);
    assert!(archive.log_meta(&key()).await.unwrap().is_none());
    archive.put_log(&key(), &owner(), "", stream(&vec![0; 50_000])).await.expect("the limit itself is allowed");
}

#[tokio::test]
async fn leftovers_of_a_killed_process_are_swept_from_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let archive = Archive::directory(directory.path().into()).unwrap();
    archive.put_log(&key(), &owner(), "", stream(b"log")).await.unwrap();
    let staged = directory.path().join("phases").join(KEY).join("log.00#1");
    std::fs::write(&staged, b"half").unwrap();
    archive.sweep(clock::now(), DAY * 30, DAY * 365).await.unwrap();
    assert!(staged.exists(), "it may still be written");
    let file = std::fs::File::options().write(true).open(&staged).unwrap();
    let before = file.metadata().unwrap().modified().unwrap() - Duration::from_hours(25);
    file.set_modified(before).unwrap();
    archive.sweep(clock::now(), DAY * 30, DAY * 365).await.unwrap();
    assert!(!staged.exists());
    std::fs::create_dir_all(directory.path().join("probe")).unwrap();
    let probe = directory.path().join("probe/00");
    std::fs::write(&probe, b"fettle").unwrap();
    let swept = archive.sweep(clock::now() + DAY * 2, DAY * 30, DAY * 365).await.unwrap();
    assert_eq!((swept.leftovers, probe.exists()), (1, false), "what a killed probe left");
    assert_eq!(read(&archive).await.unwrap(), b"log");
}

#[tokio::test]
async fn nobody_takes_over_the_key_of_another_run() {
    let archive = Archive::new(Arc::new(InMemory::new()));
    let log = archive.put_log(&key(), &owner(), "", stream(b"log")).await.unwrap();
    let other = Owner::new("elsewhere", "web").unwrap();
    assert!(matches!(archive.put_log(&key(), &other, "", stream(b"x")).await, Err(Error::Conflict(_))));
    let foreign = Record { namespace: "elsewhere".into(), ..record(Some(log), "m") };
    assert!(matches!(archive.put_record(&foreign).await, Err(Error::Conflict(_))));
    assert!(Owner::new("..", "web").is_err() && Owner::new("patching", "../../x").is_err());
}

#[tokio::test]
async fn a_record_belongs_to_its_key() {
    let archive = Archive::new(Arc::new(InMemory::new()));
    let wrong_phase = Record { phase: Phase::Reboot, ..record(None, "m") };
    assert!(matches!(archive.put_record(&wrong_phase).await, Err(Error::Rejected(_))));
    let traversal = Record { run_key: "../../v1-x".into(), ..record(None, "m") };
    assert!(matches!(archive.put_record(&traversal).await, Err(Error::Rejected(_))));
    archive.put_record(&record(None, "the log could not be had")).await.expect("a record may be without a log");
}

#[tokio::test]
async fn ranges_and_empty_logs_are_read() {
    for archive in [Archive::new(Arc::new(InMemory::new())), Archive::directory(tempfile::tempdir().unwrap().keep()).unwrap()] {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(200_000).collect();
        archive.put_log(&key(), &owner(), "", stream(&bytes)).await.unwrap();
        for range in [0..1, 0..200_000, 65_536..131_073, 199_999..500_000, 10..10, 300_000..400_000] {
            let open = archive.open_log(&key(), Some(range.clone())).await.unwrap().unwrap();
            let read = open.stream.try_collect::<Vec<_>>().await.unwrap().concat();
            let end = usize::try_from(range.end).unwrap().min(bytes.len());
            let start = usize::try_from(range.start).unwrap().min(end);
            assert_eq!(read, bytes[start..end], "{range:?}");
        }
        archive.put_log(&key(), &owner(), "", stream(b"")).await.unwrap();
        assert_eq!(read(&archive).await.unwrap(), b"");
    }
}

/// A store whose parts wait at a gate.
#[derive(Debug)]
struct Gated {
    upload: Box<dyn MultipartUpload>,
    gate: Arc<Notify>,
}

#[async_trait]
impl MultipartUpload for Gated {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (gate, part) = (Arc::clone(&self.gate), self.upload.put_part(data));
        Box::pin(async move {
            gate.notified().await;
            part.await
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.upload.complete().await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.upload.abort().await
    }
}

#[derive(Debug)]
struct GatedStore(InMemory, Arc<Notify>);

impl fmt::Display for GatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatedStore")
    }
}

#[async_trait]
impl ObjectStore for GatedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Gated { upload: self.0.put_multipart_opts(location, options).await?, gate: Arc::clone(&self.1) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_holds_the_source_back() {
    let gate = Arc::new(Notify::new());
    let archive = Archive::new(Arc::new(GatedStore(InMemory::new(), Arc::clone(&gate)))).with_part_bytes(4000);
    let pulled = Arc::new(AtomicU64::new(0));
    let counted = {
        let pulled = Arc::clone(&pulled);
        stream(&vec![7; 100_000]).inspect_ok(move |chunk| {
            pulled.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        })
    };
    let put = tokio::spawn(async move { archive.put_log(&key(), &owner(), "", counted.boxed()).await });
    for parts in 1..=25u64 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(pulled.load(Ordering::SeqCst), parts * 4000, "no more than the part that waits");
        gate.notify_one();
    }
    assert_eq!(put.await.unwrap().unwrap().size, 100_000);
}

/// Counts the bytes of parts and keeps none of them.
#[derive(Debug)]
struct Counting {
    inner: InMemory,
    stored: Arc<AtomicU64>,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(CountingUpload(Arc::clone(&self.stored))))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct CountingUpload(Arc<AtomicU64>);

#[async_trait]
impl MultipartUpload for CountingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let stored = Arc::clone(&self.0);
        Box::pin(async move {
            stored.fetch_add(data.content_length() as u64, Ordering::SeqCst);
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        Ok(PutResult { e_tag: None, version: None, extensions: object_store::Extensions::default() })
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        Ok(())
    }
}

/// A GiB comes from nowhere, in chunks as a socket gives them, and goes nowhere: between the two there is never more than a part and a chunk.
#[tokio::test]
async fn a_gibibyte_of_output_is_archived_a_part_at_a_time() {
    const SIZE: u64 = 1 << 30;
    const CHUNK: usize = 64 << 10;
    const PART: u64 = 8 << 20;
    let stored = Arc::new(AtomicU64::new(0));
    let archive = Archive::new(Arc::new(Counting { inner: InMemory::new(), stored: Arc::clone(&stored) }));
    let (given, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = (0..SIZE / CHUNK as u64).map({
        let (given, most, stored) = (Arc::clone(&given), Arc::clone(&most), Arc::clone(&stored));
        move |_| {
            let held = given.fetch_add(CHUNK as u64, Ordering::SeqCst) + CHUNK as u64 - stored.load(Ordering::SeqCst);
            most.fetch_max(held, Ordering::SeqCst);
            Ok(chunk.clone())
        }
    });
    let log = archive.put_log(&key(), &owner(), "Job 1", futures::stream::iter(chunks).boxed()).await.unwrap();
    assert_eq!((log.size, stored.load(Ordering::SeqCst)), (1 << 30, SIZE));
    let most = most.load(Ordering::SeqCst);
    assert!(most <= PART + CHUNK as u64, "{most} bytes were held");
}
