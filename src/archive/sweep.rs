//! Retention: logs, then records, then what points to them.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, future::ready};
use jiff::{SignedDuration, Timestamp};
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _, path::Path};

use super::{Archive, Error, key::Key};

/// What nothing refers to is removed when it is older than this: an upload in progress is younger.
const LEFTOVER: SignedDuration = SignedDuration::from_hours(24);

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Logs past their retention.
    pub logs: u64,
    /// Records past their retention.
    pub records: u64,
    /// Index markers that led nowhere, and leftovers of broken uploads.
    pub leftovers: u64,
}

/// The objects of one phase.
#[derive(Default)]
struct Folder {
    meta: Option<ObjectMeta>,
    record: Option<ObjectMeta>,
    started: Option<ObjectMeta>,
    bytes: Vec<ObjectMeta>,
}

impl Archive {
    /// Removes logs older than `log_retention`, records older than `record_retention` (by the time they were written), and leftovers older
    /// than a day. May be interrupted at any point and run again.
    pub async fn sweep(&self, now: Timestamp, log_retention: SignedDuration, record_retention: SignedDuration) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let expired = |object: &ObjectMeta, retention: SignedDuration| age(object, now) > retention;
        let mut live = BTreeSet::new();
        for key in self.keys().await? {
            let mut folder = self.folder(&key).await?;
            if let Some(meta) = folder.meta.take_if(|meta| expired(meta, log_retention)) {
                let _sealed = self.seals.hold(&key).await;
                // first what makes it visible, then the bytes
                self.store.delete(&meta.location).await?;
                for bytes in folder.bytes.drain(..) {
                    self.store.delete(&bytes.location).await?;
                }
                swept.logs += 1;
            }
            if folder.bytes.iter().any(|bytes| expired(bytes, LEFTOVER)) {
                let referred = self.log_meta(&key).await?.map(|meta| key.object(&meta.object));
                for bytes in folder.bytes.iter().filter(|b| expired(b, LEFTOVER) && Some(&b.location) != referred.as_ref()) {
                    self.store.delete(&bytes.location).await?;
                    swept.leftovers += 1;
                }
            }
            if let Some(record) = folder.record.take_if(|record| expired(record, record_retention)) {
                self.store.delete(&record.location).await?;
                swept.records += 1;
            }
            // the run that it belongs to cannot launch any more: its record is, or would be, as old
            if let Some(started) = folder.started.take_if(|started| expired(started, record_retention)) {
                self.store.delete(&started.location).await?;
            }
            if folder.meta.is_some() || folder.record.is_some() {
                live.insert(key);
            }
        }
        swept.leftovers += self.sweep_index(now, &live).await?;
        swept.leftovers += self.sweep_staged().await?;
        Ok(swept)
    }

    /// Every phase that has an object, which need not be a record. Takes one listing: 60 bytes of memory a phase, and, in S3, one request
    /// for a thousand.
    pub async fn keys(&self) -> Result<Vec<Key>, Error> {
        let phases = self.store.list_with_delimiter(Some(&Path::from("phases"))).await?;
        Ok(phases.common_prefixes.iter().filter_map(|prefix| Key::parse(prefix.filename()?).ok()).collect())
    }

    async fn folder(&self, key: &Key) -> Result<Folder, Error> {
        let listed = self.store.list_with_delimiter(Some(&Path::from_iter(["phases", key.as_str()]))).await?;
        let mut folder = Folder::default();
        for object in listed.objects {
            match object.location.filename() {
                Some("log.json") => folder.meta = Some(object),
                Some("record.json") => folder.record = Some(object),
                Some("started.json") => folder.started = Some(object),
                Some(name) if name.starts_with("log.") => folder.bytes.push(object),
                Some(_) | None => {}
            }
        }
        Ok(folder)
    }

    /// Markers that lead nowhere, and what killed probes left.
    async fn sweep_index(&self, now: Timestamp, live: &BTreeSet<Key>) -> Result<u64, Error> {
        let old = |object: &ObjectMeta| age(object, now) > LEFTOVER;
        let leads_nowhere = |object: &ObjectMeta| {
            let key = object.location.filename().and_then(|name| Key::parse(name).ok());
            key.is_some_and(|key| !live.contains(&key))
        };
        let markers = self.store.list(Some(&Path::from("runs"))).try_filter(|object| ready(old(object) && leads_nowhere(object)));
        let probes = self.store.list(Some(&Path::from("probe"))).try_filter(|object| ready(old(object)));
        let stale: Vec<Path> = markers.chain(probes).map_ok(|object| object.location).try_collect().await?;
        for object in &stale {
            self.store.delete(object).await?;
        }
        Ok(stale.len() as u64)
    }

    /// Files that a killed process was writing (`name#1`): the object store hides them and never removes them.
    async fn sweep_staged(&self) -> Result<u64, Error> {
        let Some(directory) = self.directory.clone() else { return Ok(0) };
        tokio::task::spawn_blocking(move || remove_staged(vec![directory]))
            .await
            .map_err(|e| Error::Unavailable(e.to_string()))?
            .map_err(|e| Error::Unavailable(format!("leftovers cannot be removed: {e}")))
    }
}

fn remove_staged(mut folders: Vec<PathBuf>) -> std::io::Result<u64> {
    let mut removed = 0;
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(folder) {
            // emptied and removed in the meantime
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = entry.file_name();
            let staged = name.to_str().and_then(|n| n.rsplit_once('#')).is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
            if kind.is_dir() {
                folders.push(entry.path());
            } else if staged && entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > Duration::from_hours(24)) {
                std::fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// How long ago an object was written.
fn age(object: &ObjectMeta, now: Timestamp) -> SignedDuration {
    SignedDuration::from_secs(now.as_second() - object.last_modified.timestamp())
}
