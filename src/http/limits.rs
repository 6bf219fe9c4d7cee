//! What keeps one caller from taking everything: places for downloads, and connections that must move.

use std::{
    collections::BTreeMap,
    future::Future as _,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{self, Context, Poll},
    time::Duration,
};

use axum::body::Body;
use axum_server::accept::Accept;
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use http::{HeaderValue, StatusCode, header};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep, timeout},
};

use super::{metrics::Metrics, problem::Problem};
use crate::archive::LogStream;

/// How long one download may take.
const DOWNLOAD: Duration = Duration::from_mins(15);
/// Connections at a time.
const CONNECTIONS: usize = 512;

/// Places that users take while something of theirs goes on. Clones are the same places.
#[derive(Clone)]
pub struct Places {
    /// Places at a time.
    all: usize,
    /// Places at a time of one user.
    each: usize,
    /// What somebody with a place does, for people.
    doing: &'static str,
    taken: Arc<Mutex<BTreeMap<String, usize>>>,
    gauge: Gauge,
}

/// A place; given back when dropped.
pub struct Place {
    places: Places,
    user: String,
}

impl Places {
    /// So many places, and so many of one user, counted by `gauge`.
    pub fn new(all: usize, each: usize, doing: &'static str, gauge: Gauge) -> Self {
        Self { all, each, doing, taken: Arc::default(), gauge }
    }

    /// Takes a place for `user`; 429 when all, or all of that user, are taken.
    pub fn enter(&self, user: &str) -> Result<Place, Problem> {
        let mut users = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let busy =
            |detail: String| Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with(header::RETRY_AFTER, HeaderValue::from_static("10"));
        if users.values().sum::<usize>() >= self.all {
            return Err(busy(format!("too many are {} now", self.doing)));
        }
        let own = users.entry(user.to_owned()).or_default();
        if *own >= self.each {
            return Err(busy(format!("you are {} {} times already", self.doing, self.each)));
        }
        *own += 1;
        self.gauge.inc();
        Ok(Place { places: self.clone(), user: user.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.gauge.dec();
        let mut users = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = users.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                users.remove(&self.user);
            }
        }
    }
}

/// One chunk on its way to a connection.
struct InFlight {
    bytes: Bytes,
    metrics: Metrics,
}

impl InFlight {
    fn new(bytes: Bytes, metrics: &Metrics) -> Self {
        metrics.log_bytes_in_flight.inc_by(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        metrics.log_bytes_read.inc_by(bytes.len() as u64);
        Self { bytes, metrics: metrics.clone() }
    }

    fn take(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.log_bytes_in_flight.dec_by(i64::try_from(self.bytes.len()).unwrap_or(i64::MAX));
    }
}

/// A body that ends as a failure when its reader takes nothing for `idle`, or is not done after [`DOWNLOAD`]; then `place` is free again,
/// whether or not the connection notices. At most two chunks wait for the reader.
pub fn body(mut stream: LogStream, place: Place, idle: Duration, metrics: &Metrics) -> Body {
    let (sender, receiver) = mpsc::channel::<Option<InFlight>>(1);
    let metrics = metrics.clone();
    tokio::spawn(timeout(DOWNLOAD, async move {
        let _place = place;
        while let Some(chunk) = stream.next().await {
            let Ok(chunk) = chunk else { return };
            let sent = timeout(idle, sender.send(Some(InFlight::new(chunk, &metrics)))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
        // only this makes the end an end and not a failure
        let _ = timeout(idle, sender.send(None)).await;
    }));
    let chunks = futures::stream::unfold(Some(receiver), async |receiver| {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(chunk)) => Some((Ok(chunk.take()), Some(receiver))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the log was cut off")), None)),
        }
    });
    // the compression asks once more after the end
    Body::from_stream(chunks.fuse())
}

/// A request body that fails when nothing arrives for `idle`.
pub fn arriving(body: Body, idle: Duration, metrics: Metrics) -> LogStream {
    let stream = body.into_data_stream();
    futures::stream::unfold(Some(stream), move |stream| {
        let metrics = metrics.clone();
        async move {
            let mut stream = stream?;
            match timeout(idle, stream.next()).await {
                Ok(Some(Ok(bytes))) => {
                    metrics.log_bytes_received.inc_by(bytes.len() as u64);
                    Some((Ok(bytes), Some(stream)))
                }
                Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
                Ok(None) => None,
                Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
            }
        }
    })
    .boxed()
}

/// Gives each accepted connection a place and watches that it moves.
#[derive(Clone)]
pub struct Gate<A> {
    inner: A,
    places: Arc<Semaphore>,
    idle: Duration,
}

impl<A> Gate<A> {
    /// Wraps an acceptor. A connection that says nothing for `idle` at first, or takes nothing for `idle` while something is to be written,
    /// is closed.
    pub fn new(inner: A, idle: Duration) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(CONNECTIONS)), idle }
    }
}

impl<A, I, S> Accept<I, S> for Gate<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = Moving<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, A::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let accepting = place.map(|place| (place, self.inner.accept(stream, service)));
        let idle = self.idle;
        Box::pin(async move {
            let (place, accepting) = accepting.ok_or_else(|| io::Error::other("too many connections"))?;
            let (stream, service) = accepting.await?;
            Ok((Moving::new(stream, place, idle), service))
        })
    }
}

/// Bytes after which the server knows which version of HTTP is spoken, and its own limits of time take over.
const PREFACE: usize = 24;

/// A connection that fails when its peer does not move for a while.
pub struct Moving<I> {
    inner: I,
    idle: Duration,
    /// Bytes to come until the version is known, and until when.
    beginning: Option<(usize, Pin<Box<Sleep>>)>,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl<I> Moving<I> {
    fn new(inner: I, place: OwnedSemaphorePermit, idle: Duration) -> Self {
        Self { inner, idle, beginning: Some((PREFACE, Box::pin(sleep(idle)))), waiting: None, _place: place }
    }

    fn moved<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let idle = self.idle;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(idle)));
        task::ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Moving<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Some((missing, until)) = &mut self.beginning {
            *missing = missing.saturating_sub(buf.filled().len() - before);
            if *missing == 0 {
                self.beginning = None;
            } else if polled.is_pending() {
                task::ready!(until.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Moving<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.moved(cx, polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.moved(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.moved(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.moved(cx, polled)
    }
}
