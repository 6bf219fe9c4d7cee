//! The network side: connections, TLS, and the faults that break them.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Shared, StartError,
    api::{self, Body, Call, Effect, Reply},
    control,
    faults::Action,
    seconds_of,
    world::SeenRequest,
};

/// Largest request body, as the operator's nginx allows.
const BODY_LIMIT: usize = 5 * 1024 * 1024;

/// Certificate chain and key.
#[derive(Clone)]
pub struct Tls {
    certificates: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

impl Tls {
    /// From PEM texts.
    ///
    /// # Errors
    /// When there is no certificate or no private key in them.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, StartError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| StartError::Tls(format!("certificate: {error}")))?;
        if certificates.is_empty() {
            return Err(StartError::Tls("no certificate found".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| StartError::Tls(format!("private key: {error}")))?;
        Ok(Self { certificates, key: Arc::new(key) })
    }

    /// From PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or holds no certificate or key.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, StartError> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| StartError::Tls(format!("{}: {error}", path.display())));
        Self::from_pem(&read(certificate)?, &read(key)?)
    }

    fn acceptor(&self) -> Result<TlsAcceptor, StartError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(self.certificates.clone(), self.key.clone_key()))
            .map_err(|error| StartError::Tls(error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Turns the server off for a while.
#[derive(Debug)]
pub(super) struct Switchboard {
    down: watch::Sender<Option<Instant>>,
}

impl Default for Switchboard {
    fn default() -> Self {
        Self { down: watch::channel(None).0 }
    }
}

impl Switchboard {
    /// Refuses connections, and resets those there are, for so long.
    pub(super) fn down_for(&self, time: Duration) {
        let _ = self.down.send_replace(Some(Instant::now() + time));
    }
}

/// Listens and serves; gives the address and the task.
pub(super) async fn start(shared: Arc<Shared>, listen: SocketAddr, tls: Option<&Tls>) -> Result<(SocketAddr, JoinHandle<()>), StartError> {
    let acceptor = tls.map(Tls::acceptor).transpose()?;
    let failed = |source| StartError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((address, tokio::spawn(serve(shared, listener, address, acceptor))))
}

async fn serve(shared: Arc<Shared>, listener: TcpListener, address: SocketAddr, acceptor: Option<TlsAcceptor>) {
    let mut down = shared.switchboard.down.subscribe();
    let mut listener = Some(listener);
    loop {
        let Some(open) = &listener else {
            // Connections are refused by the kernel while nobody listens.
            let until = *down.borrow_and_update();
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            match TcpListener::bind(address).await {
                Ok(open) => listener = Some(open),
                Err(error) => {
                    tracing::warn!(%error, "the address is still taken");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(connection(Arc::clone(&shared), stream, acceptor.clone()));
                }
            }
            Ok(()) = down.changed() => listener = None,
            () = shared.stopped() => return,
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
    let mut down = shared.switchboard.down.subscribe();
    let reset = Arc::new(AtomicBool::new(false));
    let stream = Resettable { stream, reset: Arc::clone(&reset) };
    let work = async {
        match acceptor {
            None => converse(Arc::clone(&shared), stream, Arc::clone(&reset)).await,
            Some(acceptor) => match acceptor.accept(stream).await {
                Ok(stream) => converse(Arc::clone(&shared), stream, Arc::clone(&reset)).await,
                Err(error) => tracing::debug!(%error, "TLS handshake"),
            },
        }
    };
    tokio::select! {
        () = work => {}
        _ = down.changed() => reset.store(true, Ordering::Relaxed),
        () = shared.stopped() => reset.store(true, Ordering::Relaxed),
    }
}

async fn converse(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, reset: Arc<AtomicBool>) {
    let service = service_fn(move |request| answer(Arc::clone(&shared), request, Arc::clone(&reset)));
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "connection");
    }
}

/// A connection that is reset, not closed in order, once someone says so.
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // With no time to linger, closing sends RST.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped by a fault")]
struct Dropped;

type Content = BoxBody<Bytes, Dropped>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>, reset: Arc<AtomicBool>) -> Result<Response<Content>, Dropped> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            let reply = Reply::html(413, "<html><head><title>413 Request Entity Too Large</title></head></html>");
            return Ok(render(&shared, reply, None));
        }
    };
    let call = Call::new(&head, body, shared.clock.now());
    if let Some(path) = call.path.strip_prefix("/_standin") {
        return Ok(render(&shared, control::answer(&shared, path, &call), None));
    }
    let fault = shared.lock().faults.on_request(&call.method, &call.short_path());
    let index = {
        let mut world = shared.lock();
        let user = api::signed_in(&world, &call).map(|signed| signed.user.config.username);
        world.requests.push(SeenRequest {
            time: super::clock::stamp(call.arrived),
            method: call.method.clone(),
            path: call.path.clone(),
            query: call.query_text.clone(),
            route: call.route(),
            user,
            status: None,
            body: serde_json::from_slice(&call.body).ok(),
            fault: fault.clone(),
        });
        world.requests.len() - 1
    };
    let seen = |status: u16| {
        if let Some(seen) = shared.lock().requests.get_mut(index) {
            seen.status = Some(status);
        }
    };
    let mut delay = Duration::ZERO;
    let mut wait = Duration::ZERO;
    let mut cut = None;
    let mut patience = None;
    match &fault {
        Some(Action::Status { code, body, retry_after }) => {
            let mut reply = match body {
                Some(text) => Reply::html(*code, text),
                None => Reply::html(*code, &api::error_page(*code)),
            };
            if let Some(seconds) = retry_after {
                reply.headers.push(("retry-after", seconds.to_string()));
            }
            seen(*code);
            return Ok(render(&shared, reply, None));
        }
        Some(Action::Reset) => {
            reset.store(true, Ordering::Relaxed);
            return Err(Dropped);
        }
        Some(Action::Hang) => std::future::pending().await,
        Some(Action::Delay { seconds }) => delay = seconds_of(*seconds),
        Some(Action::LateCommit { seconds }) => wait = seconds_of(*seconds),
        Some(Action::GatewayTimeout { answer, commit }) => (patience, wait) = (Some(seconds_of(*answer)), seconds_of(*commit)),
        Some(Action::Truncate { bytes }) => cut = Some(*bytes),
        _ => {}
    }
    // A task of its own: a caller that hangs up does not undo what it asked for.
    let (worker, id) = (Arc::clone(&shared), call.request_id.clone());
    let handled = tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        carry_out(&worker, &call).await
    });
    if let Some(patience) = patience {
        tokio::time::sleep(patience).await;
        seen(504);
        return Ok(render(&shared, Reply::html(504, &api::error_page(504)), None));
    }
    let Ok(reply) = handled.await else {
        seen(500);
        return Ok(render(&shared, Reply::html(500, &api::error_page(500)), None));
    };
    if fault == Some(Action::DropResponse) {
        reset.store(true, Ordering::Relaxed);
        return Err(Dropped);
    }
    tokio::time::sleep(delay).await;
    seen(reply.status);
    let mut response = render(&shared, reply, cut);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-api-request-id", id);
    }
    Ok(response)
}

/// What the call asks for, with what follows from it.
async fn carry_out(shared: &Arc<Shared>, call: &Call) -> Reply {
    let mut reply = api::respond(shared, call);
    let effects = std::mem::take(&mut reply.effects);
    for effect in &effects {
        if let Effect::Slow(time) = effect {
            tokio::time::sleep(*time).await;
        }
    }
    for effect in effects {
        match effect {
            Effect::Wake => shared.wake.notify_one(),
            Effect::Cancel(job, fault) => shared.cancel_running(job, fault.as_ref()),
            Effect::Slow(_) => {}
        }
    }
    reply
}

fn render(shared: &Shared, reply: Reply, cut: Option<usize>) -> Response<Content> {
    let (content_type, bytes) = match reply.body {
        Body::Empty => (None, Bytes::new()),
        Body::Json(value) => (Some("application/json"), Bytes::from(value.to_string())),
        Body::Text(content_type, text) => (Some(content_type), Bytes::from(text)),
    };
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let product = match shared.flavour {
        super::Flavour::Awx | super::Flavour::AwxPrefixed => "AWX",
        super::Flavour::Aap => "Red Hat Ansible Automation Platform",
    };
    let date = shared.clock.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let mut headers: Vec<(&str, String)> = vec![
        ("date", date),
        ("x-api-product-name", product.to_owned()),
        ("x-api-product-version", shared.version.clone()),
        ("x-api-node", api::NODE.to_owned()),
        ("vary", "Accept, Accept-Language, origin".to_owned()),
        ("access-control-expose-headers", "X-API-Request-Id".to_owned()),
        ("content-language", "en".to_owned()),
    ];
    headers.extend(content_type.map(|content_type| ("content-type", content_type.to_owned())));
    headers.extend(reply.headers);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            response.headers_mut().insert(name, value);
        }
    }
    let body = match cut {
        Some(length) if length < bytes.len() => {
            // Content-Length promises the whole body.
            if let Ok(length) = HeaderValue::from_str(&bytes.len().to_string()) {
                response.headers_mut().insert("content-length", length);
            }
            let sent = Frame::data(bytes.slice(..length));
            let pause = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(Dropped)
            };
            BoxBody::new(StreamBody::new(stream::iter([Ok(sent)]).chain(stream::once(Box::pin(pause)))))
        }
        _ => Full::new(bytes).map_err(|never: Infallible| match never {}).boxed(),
    };
    response.map(|()| body)
}
