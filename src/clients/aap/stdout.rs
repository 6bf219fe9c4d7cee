//! The output of a job, streamed.

use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use super::{Aap, Answer, Call, Error, Result, wire};

/// The output of a job: UTF-8 text with backslashes doubled (the controller's doing), in pieces.
///
/// It ends at the byte cap or at the end of the output; [`Self::is_truncated`] says which.
pub struct Stdout {
    chunks: BoxStream<'static, std::result::Result<Bytes, Error>>,
    truncated: Arc<AtomicBool>,
}

impl Stdout {
    /// Whether the output was cut off at the cap; known when the stream has ended.
    pub fn is_truncated(&self) -> bool {
        self.truncated.load(Ordering::Acquire)
    }

    /// [`Self::is_truncated`] for those who give the stream away.
    pub fn truncation(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.truncated)
    }
}

impl Stream for Stdout {
    type Item = std::result::Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.as_mut().poll_next(cx)
    }
}

impl Aap {
    /// The whole output of a job, at most `cap` bytes of it. Empty for a job that has not started.
    ///
    /// Uses the download form: the others replace an output of more than 1 MiB by a sentence, with status 200.
    pub async fn stdout(&self, id: i64, cap: u64) -> Result<Stdout> {
        let call = Call {
            // the controller would refuse to call its text JSON
            accept: "text/plain, */*",
            deadline: wire::STREAM_DEADLINE,
            ..Call::get("jobs/{id}/stdout/", format!("reading the output of job {id}")).id(id).query("format", "txt_download")
        };
        let prefix = self.prefix().await?.to_owned();
        let url = self.url(&prefix, &call);
        let (streamed, meta) = self.open_ok(url, call).await?;
        let date = meta.date;
        let truncated = Arc::new(AtomicBool::new(false));
        let state = (streamed, cap, meta, Arc::clone(&truncated), false);
        let chunks = futures::stream::unfold(state, |(mut streamed, left, meta, truncated, over)| async move {
            if over {
                return None;
            }
            match streamed.chunk().await {
                Ok(None) => None,
                Ok(Some(chunk)) => {
                    let size = chunk.len() as u64;
                    let (chunk, over) = match usize::try_from(left) {
                        Ok(room) if size > left => {
                            truncated.store(true, Ordering::Release);
                            (chunk.slice(..room), true)
                        }
                        _ => (chunk, false),
                    };
                    Some((Ok(chunk), (streamed, left.saturating_sub(size), meta, truncated, over)))
                }
                Err(failure) => {
                    let error = meta.clone().error(failure.into());
                    Some((Err(error), (streamed, 0, meta, truncated, true)))
                }
            }
        });
        let chunks: BoxStream<'static, _> = Box::pin(chunks);
        Ok(Answer { value: Stdout { chunks, truncated }, date })
    }

    /// Opens a stream; the gate is free again as soon as the status is there, so that slow readers hold nobody up.
    async fn open_ok(&self, url: wire::Url, call: Call) -> std::result::Result<(wire::Streamed, super::Meta), Error> {
        let limit = call.limit;
        let (streamed, meta, _permit) = self.open(url, call).await?;
        if streamed.status.is_success() {
            return Ok((streamed, meta));
        }
        Err(self.refusal(streamed, meta, limit).await)
    }
}
