//! Streaming a log into the object store.

use std::io;

use futures::{StreamExt as _, stream::BoxStream};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload, PutPayloadMut, path::Path};
use sha2::{Digest as _, Sha256};

use super::{Error, key::Key};

/// Bytes of one part. S3 wants at least 5 MiB and at most 10,000 parts.
pub(super) const PART: usize = 8 << 20;

/// How a log is cut and how long it may be.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes of one part.
    pub(super) part: usize,
    /// Bytes of a log at most.
    pub(super) log: u64,
}

/// A log whose bytes are stored and which nothing refers to yet.
pub(super) struct Uploaded {
    /// Last part of the object's name.
    pub(super) object: String,
    /// Bytes.
    pub(super) size: u64,
    /// SHA-256, hexadecimal.
    pub(super) sha256: String,
}

/// A name that no other upload has.
pub(crate) fn random_name() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // two independent 64-bit values; only uniqueness is asked for
    let [a, b] = [(); 2].map(|()| RandomState::new().hash_one(std::process::id()));
    format!("{a:016x}{b:016x}")
}

/// Stores the bytes of `stream` under a new name. Whatever fails, and also when the future is dropped, nothing is left but, after a crash,
/// an object that nothing refers to.
pub(super) async fn upload(
    store: &dyn ObjectStore,
    key: &Key,
    mut stream: BoxStream<'_, io::Result<bytes::Bytes>>,
    sizes: Sizes,
) -> Result<Uploaded, Error> {
    let object = format!("log.{}", random_name());
    let path = key.object(&object);
    let mut hash = Sha256::new();
    let mut size = 0u64;
    let mut parts = Parts::new(store, path, sizes.part);
    while let Some(chunk) = stream.next().await {
        let mut chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                parts.abort().await;
                return Err(Error::Source(error.to_string()));
            }
        };
        size += chunk.len() as u64;
        if size > sizes.log {
            parts.abort().await;
            return Err(Error::Rejected(format!("the log of {key} has more than {} bytes", sizes.log)));
        }
        hash.update(&chunk);
        while !chunk.is_empty() {
            let part = chunk.split_to(chunk.len().min(parts.room()));
            parts.push(part).await?;
        }
    }
    parts.finish().await?;
    Ok(Uploaded { object, size, sha256: data_encoding::HEXLOWER.encode(&hash.finalize()) })
}

/// Collects parts and sends each when it is full; an object of less than one part is written in one go.
struct Parts<'s> {
    store: &'s dyn ObjectStore,
    path: Path,
    part: usize,
    buffer: PutPayloadMut,
    started: Option<Started>,
}

impl<'s> Parts<'s> {
    fn new(store: &'s dyn ObjectStore, path: Path, part: usize) -> Self {
        Self { store, path, part, buffer: PutPayloadMut::new(), started: None }
    }

    /// Bytes until the part is full; never 0.
    fn room(&self) -> usize {
        self.part - self.buffer.content_length()
    }

    async fn push(&mut self, bytes: bytes::Bytes) -> Result<(), Error> {
        // copied, so that a chunk of few bytes does not keep a large buffer alive
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.content_length() < self.part {
            return Ok(());
        }
        let part = std::mem::take(&mut self.buffer).freeze();
        self.send(part).await
    }

    async fn send(&mut self, part: PutPayload) -> Result<(), Error> {
        let started = match &mut self.started {
            Some(started) => started,
            empty => empty.insert(Started(Some(self.store.put_multipart(&self.path).await?))),
        };
        if let Some(upload) = &mut started.0
            && let Err(error) = upload.put_part(part).await
        {
            self.abort().await;
            return Err(error.into());
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(), Error> {
        let rest = std::mem::take(&mut self.buffer).freeze();
        if self.started.is_none() {
            self.store.put(&self.path, rest).await?;
            return Ok(());
        }
        if rest.content_length() > 0 {
            self.send(rest).await?;
        }
        if let Some(started) = &mut self.started
            && let Some(upload) = &mut started.0
        {
            upload.complete().await?;
            // complete: nothing to abort
            started.0 = None;
        }
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some(mut upload) = self.started.as_mut().and_then(|started| started.0.take())
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(path = %self.path, %error, "an upload could not be aborted");
        }
    }
}

/// A multipart upload that is aborted when it is dropped unfinished, for example because the sender went away.
struct Started(Option<Box<dyn MultipartUpload>>);

impl Drop for Started {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}
