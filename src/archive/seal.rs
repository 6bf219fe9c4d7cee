//! [`Seals`]: inside this process, the end of an upload and the writing of a record exclude each other.

use tokio::sync::{Mutex, MutexGuard};

use super::key::Key;

/// One lock for each of 64 classes of keys. Held for a few small writes, never while a log streams.
pub(super) struct Seals([Mutex<()>; 64]);

impl Default for Seals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Seals {
    /// Keeps everybody else from committing a log or a record under `key`.
    pub(super) async fn hold(&self, key: &Key) -> MutexGuard<'_, ()> {
        let class = key.as_str().bytes().fold(0usize, |acc, b| acc.wrapping_mul(31).wrapping_add(b.into()));
        self.0[class % self.0.len()].lock().await
    }
}
