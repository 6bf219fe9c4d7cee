//! Comparing the history with the archive, and following it.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Condition, Error, History,
    write::{dated, ended_at},
};
use crate::archive::{self, Archive, Key, record::Record};

/// Keys that are looked up at a time.
const KEYS: usize = 500;
/// Records that are written in one transaction.
const RECORDS: usize = 50;
/// How soon a degraded history tries again.
const AGAIN: Duration = Duration::from_secs(15);
/// Incidents that were resolved longer ago are not in the mean time to repair.
const REPAIRED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How often the retention is applied.
const PRUNE: Duration = Duration::from_hours(24);

/// What a comparison with the archive found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caught {
    /// Records that were added.
    pub added: u64,
    /// Records that cannot be read or stored, and are left out.
    pub skipped: u64,
    /// Phases that the history has.
    pub phases: i64,
    /// Incidents that are not resolved.
    pub open_incidents: i64,
    /// Mean time from the first failure to the next good end, of the incidents of the last 30 days, in seconds; 0 without one.
    pub repair_seconds: i64,
    /// When, Unix time in seconds.
    pub at: i64,
}

impl History {
    /// Adds the records that the archive has and the history has not, but for those that ended before `cutoff`. Afterwards the history is
    /// complete, or degraded if this failed.
    pub async fn catch_up(&self, archive: &Archive, cutoff: Timestamp) -> Result<Caught, Error> {
        let done = self.compare(archive, cutoff).await;
        self.stands(match &done {
            Ok(_) => Condition::Complete,
            Err(error) => Condition::Degraded(error.to_string()),
        });
        done
    }

    async fn compare(&self, archive: &Archive, cutoff: Timestamp) -> Result<Caught, Error> {
        // before the archive is read for nothing
        self.pool().await?;
        let now = crate::clock::now();
        let mut caught = Caught { at: now.as_second(), ..Caught::default() };
        for keys in archive.keys().await?.chunks(KEYS) {
            let known = self.known(keys).await?;
            let missing: Vec<&Key> = keys.iter().filter(|key| !known.contains(key.as_str())).collect();
            for some in missing.chunks(RECORDS) {
                let reads: Vec<_> = some.iter().map(|key| read(archive.clone(), (*key).clone())).collect();
                let found: Vec<Option<Result<Record, String>>> = futures::stream::iter(reads).buffered(8).try_collect().await?;
                let mut records = vec![];
                for found in found.into_iter().flatten() {
                    match found {
                        Ok(record) if ended_at(&record) < cutoff => {}
                        Ok(record) => records.push(record),
                        Err(why) => {
                            tracing::warn!(why, "a record is left out of the history");
                            caught.skipped += 1;
                        }
                    }
                }
                let (added, refused) = self.index_each(&records).await?;
                caught.added += added;
                caught.skipped += refused;
            }
        }
        (caught.phases, caught.open_incidents, caught.repair_seconds) = self.counts(now - REPAIRED).await?;
        Ok(caught)
    }

    /// Writes records together, or, when one of them cannot be stored, the others. Returns how many were written and how many refused.
    async fn index_each(&self, records: &[Record]) -> Result<(u64, u64), Error> {
        match self.index(records).await {
            Ok(()) => return Ok((records.len() as u64, 0)),
            Err(Error::Rejected(_)) => {}
            Err(other) => return Err(other),
        }
        let (mut added, mut refused) = (0, 0);
        for record in records {
            match self.index(std::slice::from_ref(record)).await {
                Ok(()) => added += 1,
                Err(Error::Rejected(why)) => {
                    tracing::warn!(key = record.run_key, why, "a record is left out of the history");
                    refused += 1;
                }
                Err(other) => return Err(other),
            }
        }
        Ok((added, refused))
    }

    /// Keeps the history up to date, for ever: takes `arriving` records, compares with the archive every so often (and soon while degraded),
    /// and removes what is older than `retention`. `caught` is told about each comparison that ended well.
    pub async fn follow(
        &self,
        archive: &Archive,
        mut arriving: mpsc::Receiver<Record>,
        every: Duration,
        retention: SignedDuration,
        caught: impl Fn(Caught),
    ) {
        let soon = AGAIN.min(every);
        let mut pruned: Option<Instant> = None;
        let mut next = Instant::now();
        loop {
            let mut records = vec![];
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    let cutoff = crate::clock::now().checked_sub(retention).unwrap_or(Timestamp::MIN);
                    let degraded = matches!(self.condition(), Condition::Degraded(_));
                    // also when it is degraded: what is old may be what fills the disk
                    if (degraded || pruned.is_none_or(|at| at.elapsed() > PRUNE)) && self.prune(cutoff).await.is_ok() {
                        pruned = Some(Instant::now());
                    }
                    let done = self.catch_up(archive, cutoff).await;
                    next = Instant::now() + if done.is_ok() { every } else { soon };
                    done.into_iter().for_each(&caught);
                }
                1.. = arriving.recv_many(&mut records, RECORDS) => {
                    // a degraded one finds them in the archive later
                    if self.condition() == Condition::Complete && let Err(error) = self.index_each(&records).await {
                        self.stands(Condition::Degraded(error.to_string()));
                        next = next.min(Instant::now() + soon);
                    }
                }
            }
        }
    }
}

/// A record; `None` when the phase has none, the reason when it cannot be understood.
async fn read(archive: Archive, key: Key) -> Result<Option<Result<Record, String>>, archive::Error> {
    let Some((bytes, written)) = archive.record_bytes(&key).await? else { return Ok(None) };
    Ok(Some(match serde_json::from_slice::<Record>(&bytes) {
        Ok(record) if record.run_key == key.as_str() => Ok(dated(record, written)),
        Ok(_) => Err(format!("the record of {key} is of another key")),
        Err(error) => Err(format!("the record of {key} cannot be read: {error}")),
    }))
}
