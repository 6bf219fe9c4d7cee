//! Logs and records of finished phases, kept in an object store: a local directory, or S3.
//!
//! | object | what | written |
//! |---|---|---|
//! | `phases/<key>/log.<random>` | the bytes of a log | streamed under a name nobody knows yet |
//! | `phases/<key>/log.json` | which bytes are the log, size, SHA-256, when, whose | last: this makes the log visible |
//! | `phases/<key>/record.json` | the [`Record`] of the phase | once |
//! | `phases/<key>/started.json` | the [`Started`] of a direct launch | once, before the request |
//! | `runs/<namespace>/<name>/<key>` | empty; finds the phases of a PatchRun | before what it points to |
//!
//! `<key>` is the phase key ([`Key`]). Every object appears whole or not at all, and each function orders its writes so that a crash at
//! any point leaves an archive in which each log and each record is either complete or absent; what is left over is removed by
//! [`Archive::sweep`].

pub mod key;
mod reader;
pub mod record;
pub mod remote;
mod seal;
pub mod settings;
pub mod started;
mod sweep;
mod upload;

use std::{fmt, io, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use jiff::Timestamp;
use object_store::{
    GetOptions, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, path::Path,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub(crate) use self::upload::random_name;
pub use self::{key::Key, remote::Store, sweep::Swept};
use self::{reader::Reader, record::Record, seal::Seals, started::Started, upload::Sizes};
use crate::{
    api::{classification::Findings, patch_run::LogRef},
    shelf::Shelf,
};

/// The bytes of a log on their way. An error ends the log: nothing of it becomes visible.
pub type LogStream = BoxStream<'static, io::Result<Bytes>>;

/// Largest log by default, in bytes.
pub const MAX_LOG_BYTES: u64 = 2 << 30;

/// Why the archive did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive cannot be reached or cannot write now; the same call may succeed later.
    #[error("the archive is not available: {0}")]
    Unavailable(String),
    /// Something else is on record under that key, and what is on record stays.
    #[error("the archive holds something else: {0}")]
    Conflict(String),
    /// The call can never succeed as it is.
    #[error("the archive refuses it: {0}")]
    Rejected(String),
    /// The stream that was to be archived broke off; the archive itself is well.
    #[error("the log broke off: {0}")]
    Source(String),
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The PatchRun a log or a record belongs to. Who may `get` it may read them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Namespace of the PatchRun.
    pub namespace: String,
    /// Name of the PatchRun.
    pub name: String,
}

impl Owner {
    /// The owner of that name, when both are names that Kubernetes accepts (so neither can lead out of its folder).
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, Error> {
        let owner = Self { namespace: namespace.into(), name: name.into() };
        if key::is_label(&owner.namespace) && key::is_subdomain(&owner.name) {
            Ok(owner)
        } else {
            Err(Error::Rejected(format!("{owner:?} does not name a PatchRun")))
        }
    }

    fn folder(&self) -> Path {
        Path::from_iter(["runs", &self.namespace, &self.name])
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `log.json`: which object holds the log of a phase, and what it is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LogMeta {
    /// Whose log it is.
    #[serde(flatten)]
    pub owner: Owner,
    /// Last part of the name of the object with the bytes.
    object: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, hexadecimal.
    pub sha256: String,
    /// When the last byte was archived.
    pub archived_at: Timestamp,
    /// Where the log was taken from, for people; for example `Job 4711`.
    pub source: String,
    /// What the Runbooks read in it; absent when it was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<Findings>,
}

impl LogMeta {
    /// The log as statuses and records refer to it.
    pub fn reference(&self, key: &Key) -> LogRef {
        LogRef { id: key.to_string(), size: i64::try_from(self.size).unwrap_or(i64::MAX), sha256: self.sha256.clone() }
    }
}

/// An archived log that is being read.
pub struct OpenLog {
    /// What it is.
    pub meta: LogMeta,
    /// The bytes that follow, as offsets into the log.
    pub range: Range<u64>,
    /// The bytes.
    pub stream: LogStream,
}

/// The archive. Cheap to clone; clones are one archive.
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    /// The directory, when the archive is one.
    directory: Option<PathBuf>,
    seals: Arc<Seals>,
    sizes: Sizes,
    runbooks: Option<Arc<Shelf>>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive({})", self.store)
    }
}

impl Archive {
    /// An archive over any object store that has `PutMode::Create` and read-after-write consistency.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, directory: None, seals: Arc::default(), sizes: Sizes { part: upload::PART, log: MAX_LOG_BYTES }, runbooks: None }
    }

    /// Reads every log with the Runbooks of that shelf while it is archived. Default: logs are not read.
    #[must_use]
    pub fn with_runbooks(mut self, runbooks: Arc<Shelf>) -> Self {
        self.runbooks = Some(runbooks);
        self
    }

    /// Refuses logs of more bytes than that. Default: [`MAX_LOG_BYTES`].
    #[must_use]
    pub fn with_max_log_bytes(mut self, bytes: u64) -> Self {
        self.sizes.log = bytes;
        self
    }

    /// Cuts logs into parts of that many bytes (at least 1). Default: 8 MiB. S3 wants 5 MiB or more.
    #[must_use]
    pub fn with_part_bytes(mut self, bytes: usize) -> Self {
        self.sizes.part = bytes.max(1);
        self
    }

    /// Archives a log, streaming: one part and one chunk of `stream` are held in memory.
    ///
    /// The log is visible, as a whole, when this returns `Ok`. Called again it replaces the log, until the phase's record is written, which
    /// seals it ([`Error::Conflict`]).
    pub async fn put_log(&self, key: &Key, owner: &Owner, source: &str, stream: LogStream) -> Result<LogRef, Error> {
        let before = self.replaceable(key, owner).await?;
        let mut reader = match &self.runbooks {
            Some(runbooks) => Some(Reader::new(runbooks.library(&owner.namespace).await, key.phase())),
            None => None,
        };
        let read = stream.inspect_ok(|chunk| {
            if let Some(reader) = &mut reader {
                reader.push(chunk);
            }
        });
        let uploaded = upload::upload(&*self.store, key, read.boxed(), self.sizes).await?;
        let new = LogMeta {
            owner: owner.clone(),
            object: uploaded.object,
            size: uploaded.size,
            sha256: uploaded.sha256,
            archived_at: crate::clock::now(),
            source: source.chars().filter(|c| !c.is_control()).take(256).collect(),
            findings: reader.and_then(Reader::finish),
        };
        let committed = self.commit_log(key, &new, before).await;
        // after any other error the answer may be lost and the log visible: then the sweep decides
        if matches!(committed, Err(Error::Conflict(_))) {
            self.remove(&key.object(&new.object)).await;
        }
        committed.map(|()| new.reference(key))
    }

    /// Makes an uploaded log the log of `key`, unless it was sealed in the meantime.
    async fn commit_log(&self, key: &Key, new: &LogMeta, before: Option<LogMeta>) -> Result<(), Error> {
        let _sealed = self.seals.hold(key).await;
        let now_there = self.replaceable(key, &new.owner).await?;
        self.index(&new.owner, key).await?;
        self.put_json(&key.object("log.json"), new, PutMode::Overwrite).await?;
        for old in before.into_iter().chain(now_there).filter(|old| old.object != new.object) {
            self.remove(&key.object(&old.object)).await;
        }
        Ok(())
    }

    /// The log on record, provided `owner` may still replace it.
    async fn replaceable(&self, key: &Key, owner: &Owner) -> Result<Option<LogMeta>, Error> {
        if self.record(key).await?.is_some() {
            return Err(Error::Conflict(format!("the log of {key} is sealed by its record")));
        }
        let meta = self.log_meta(key).await?;
        match &meta {
            Some(meta) if meta.owner != *owner => Err(Error::Conflict(format!("{key} belongs to another PatchRun"))),
            Some(_) | None => Ok(meta),
        }
    }

    /// What the log of `key` is; `None` when there is none.
    pub async fn log_meta(&self, key: &Key) -> Result<Option<LogMeta>, Error> {
        self.get_json(&key.object("log.json")).await
    }

    /// Opens the log of `key`; `None` when there is none. `range` is clipped to the log; absent, all of it is read.
    pub async fn open_log(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<OpenLog>, Error> {
        // a log that is replaced in the very moment is looked up once more
        for _ in 0..2 {
            let Some(meta) = self.log_meta(key).await? else { return Ok(None) };
            let range = range.as_ref().map_or(0..meta.size, |r| r.start.min(meta.size)..r.end.min(meta.size));
            if range.is_empty() {
                return Ok(Some(OpenLog { meta, range, stream: futures::stream::empty().boxed() }));
            }
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            match self.store.get_opts(&key.object(&meta.object), options).await {
                Ok(found) => return Ok(Some(OpenLog { meta, range, stream: read(found) })),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(Error::Unavailable(format!("the bytes of the log of {key} are gone")))
    }

    /// Writes the record of a phase, once. The same content again is `Ok`; other content is [`Error::Conflict`] and changes nothing.
    ///
    /// A record that names a log other than the archived one is refused: it would vouch for bytes that nobody can read.
    pub async fn put_record(&self, record: &Record) -> Result<(), Error> {
        let key = Key::parse(&record.run_key)?;
        if key.phase() != record.phase {
            return Err(Error::Rejected(format!("{key} is not a key of phase {}", record.phase)));
        }
        let owner = Owner::new(&record.namespace, &record.name)?;
        let _sealed = self.seals.hold(&key).await;
        if let Some(there) = self.record(&key).await? {
            self.index(&owner, &key).await?;
            return same(&there, record);
        }
        let meta = self.log_meta(&key).await?;
        match (&record.log, meta.as_ref()) {
            (_, Some(meta)) if meta.owner != owner => return Err(Error::Conflict(format!("{key} belongs to another PatchRun"))),
            (Some(log), meta) if meta.map(|m| m.reference(&key)).as_ref() != Some(log) => {
                return Err(Error::Rejected(format!("the record of {key} names a log that is not the archived one")));
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        self.index(&owner, &key).await?;
        match self.put_json(&key.object("record.json"), record, PutMode::Create).await {
            // another process was faster, or the answer to our own first try was lost
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => match self.record(&key).await? {
                Some(there) => same(&there, record),
                None => Err(Error::Unavailable(format!("the record of {key} changes under our hands"))),
            },
            written => Ok(written?),
        }
    }

    /// The record of a phase; `None` when it has none.
    pub async fn record(&self, key: &Key) -> Result<Option<Record>, Error> {
        self.get_json(&key.object("record.json")).await
    }

    /// The bytes of the record of a phase, whether they can be understood or not, and when they were written; `None` when it has none.
    pub async fn record_bytes(&self, key: &Key) -> Result<Option<(Bytes, Timestamp)>, Error> {
        let Some(found) = self.get(&key.object("record.json")).await? else { return Ok(None) };
        let written = Timestamp::from_second(found.meta.last_modified.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Some((found.bytes().await?, written)))
    }

    /// Marks a direct launch as begun. `Ok` only for the one who created the mark: everybody else gets [`Error::Conflict`], and so does a
    /// repetition, because its answer may be the only thing that was lost.
    pub async fn create_started(&self, started: &Started) -> Result<(), Error> {
        let key = Key::parse(&started.run_key)?;
        match self.put_json(&key.object("started.json"), started, PutMode::Create).await {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Err(Error::Conflict(format!("a direct launch of {key} was begun before")))
            }
            written => Ok(written?),
        }
    }

    /// The mark of a direct launch; `None` when none was begun.
    pub async fn started(&self, key: &Key) -> Result<Option<Started>, Error> {
        self.get_json(&key.object("started.json")).await
    }

    /// Removes the mark of a direct launch that the controller provably refused.
    pub async fn remove_started(&self, key: &Key) -> Result<(), Error> {
        match self.store.delete(&key.object("started.json")).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// The owner of whatever is kept under `key`; `None` when nothing is.
    pub async fn owner(&self, key: &Key) -> Result<Option<Owner>, Error> {
        let (record, meta) = futures::try_join!(self.record(key), self.log_meta(key))?;
        Ok(record.map(|r| Owner { namespace: r.namespace, name: r.name }).or(meta.map(|m| m.owner)))
    }

    /// The records of every attempt of a PatchRun, sorted by attempt, run key and phase.
    pub async fn records_of(&self, owner: &Owner) -> Result<Vec<Record>, Error> {
        let folder = owner.folder();
        let keys: Vec<Key> = self
            .store
            .list(Some(&folder))
            .try_filter_map(async |object| Ok(object.location.filename().and_then(|name| Key::parse(name).ok())))
            .try_collect()
            .await?;
        let mut records: Vec<Record> = futures::stream::iter(keys)
            .map(async |key| self.record(&key).await)
            .buffer_unordered(8)
            .try_filter_map(async |record| Ok(record))
            .try_collect()
            .await?;
        let run = |record: &Record| record.run_key.rsplit_once('-').map(|(run, _)| run.to_owned());
        records.sort_by_cached_key(|record| (record.attempt, run(record), record.phase));
        Ok(records)
    }

    /// Names of the PatchRuns of a namespace of which anything is kept, also of those that are gone. `namespace` must be one ([`Owner`]).
    pub async fn runs_of(&self, namespace: &str) -> Result<Vec<String>, Error> {
        let folder = Path::from_iter(["runs", namespace]);
        let found = self.store.list_with_delimiter(Some(&folder)).await?;
        Ok(found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Writes and removes a small object: `Ok` proves that the archive can be written to.
    pub async fn probe(&self) -> Result<(), Error> {
        let path = Path::from_iter(["probe", &random_name()]);
        self.store.put(&path, PutPayload::from_static(b"fettle")).await?;
        Ok(self.store.delete(&path).await?)
    }

    async fn index(&self, owner: &Owner, key: &Key) -> Result<(), Error> {
        let path = owner.folder().join(key.as_str());
        self.store.put(&path, PutPayload::default()).await?;
        Ok(())
    }

    async fn put_json<T: Serialize + Sync>(&self, path: &Path, value: &T, mode: PutMode) -> Result<(), object_store::Error> {
        let bytes = serde_json::to_vec(value).map_err(|e| object_store::Error::Generic { store: "archive", source: e.into() })?;
        self.store.put_opts(path, bytes.into(), PutOptions::from(mode)).await.map(drop)
    }

    async fn get(&self, path: &Path) -> Result<Option<GetResult>, Error> {
        match self.store.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, Error> {
        let Some(found) = self.get(path).await? else { return Ok(None) };
        let bytes = found.bytes().await?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::Unavailable(format!("{path} cannot be read: {e}")))
    }

    /// Removes what nothing refers to any more. Failing is harmless: the sweep comes by.
    async fn remove(&self, path: &Path) {
        if let Err(error) = self.store.delete(path).await {
            tracing::warn!(%path, %error, "left for the sweep");
        }
    }
}

/// Whether writing `new` over `there` would be a repetition.
fn same(there: &Record, new: &Record) -> Result<(), Error> {
    if there == new { Ok(()) } else { Err(Error::Conflict(format!("{} has another record", new.run_key))) }
}

/// The bytes of an object, in chunks of at most 64 KiB when it is a file.
fn read(found: GetResult) -> LogStream {
    let length = found.range.end - found.range.start;
    match found.payload {
        GetResultPayload::File(file, _) => {
            let start = found.range.start;
            futures::stream::once(async move {
                use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
                let mut file = tokio::fs::File::from_std(file);
                file.seek(io::SeekFrom::Start(start)).await?;
                Ok::<_, io::Error>(tokio_util::io::ReaderStream::with_capacity(file.take(length), 64 << 10))
            })
            .try_flatten()
            .boxed()
        }
        GetResultPayload::Stream(stream) => stream.map_err(io::Error::other).boxed(),
    }
}
