//! HTTP as Fettle speaks it to systems it does not trust.
//!
//! A [`Client`] belongs to one origin. Its address is vetted when the client is made, and again each time a connection is opened: names are resolved
//! anew, and the connection goes to an address that [`UrlPolicy`] accepted. There are no redirects, no proxies (a proxy would resolve the name itself,
//! out of reach of the policy; `HTTPS_PROXY` is ignored), no retries and no transparent decompression. Bodies are bounded, deadlines explicit.
//!
//! Requests that change something go out on a connection of their own which is closed afterwards: a pooled connection that the server closed in the
//! meantime would fail in a way that does not tell whether the request was read. What went wrong is reported as a [`Failure`], which says whether the
//! request can have been seen by the server.

use std::{error::Error as StdError, io, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use rustls::{CertificateError, pki_types::UnixTime};

use crate::telemetry;

mod policy;
mod resolver;

pub use policy::{AddressRefused, Denied, DenyList, UrlPolicy, UrlRefused, origin_of};
pub use reqwest::Url;
use resolver::{Resolver, Unresolved};

/// Opening a connection: name, TCP and TLS together.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A request that reads, whole answer included.
pub const READ_DEADLINE: Duration = Duration::from_secs(30);
/// A request that changes something, whole answer included. Beyond the 120 s after which a controller's web server kills a request and the 125 s of
/// its proxy: a shorter deadline would turn answers into doubt.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(130);
/// A streamed answer, from the request to its last byte.
pub const STREAM_DEADLINE: Duration = Duration::from_mins(10);
/// The longest silence inside a streamed answer.
pub const STREAM_SILENCE: Duration = Duration::from_secs(30);

/// How to make a [`Client`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Scheme, host, optional port and optional path.
    pub base: String,
    /// What the address may be.
    pub policy: UrlPolicy,
    /// PEM certificates to trust besides the system's.
    pub ca_bundle: Option<Vec<u8>>,
}

/// A client could not be made. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address is not acceptable.
    #[error("{0}")]
    Url(#[source] UrlRefused),
    /// The CA bundle holds no usable certificate.
    #[error("the CA bundle is not usable: {0}")]
    CaBundle(String),
    /// The TLS library could not be set up, for example because the system has no certificate authorities.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// An HTTP client of one origin.
#[derive(Clone, Debug)]
pub struct Client {
    base: Url,
    reading: reqwest::Client,
    writing: reqwest::Client,
}

/// One request. `GET` and `HEAD` may use a pooled connection; everything else gets its own.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Absolute address; must have the origin of the client.
    pub url: Url,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Option<Bytes>,
    /// From now to the last byte of the answer.
    pub deadline: Duration,
    /// The most bytes an answer may have.
    pub limit: usize,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, at most as long as the request allowed.
    pub body: Bytes,
}

/// An answer whose body is still to be read, chunk by chunk.
#[derive(Debug)]
pub struct Streamed {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    body: reqwest::Response,
}

impl Streamed {
    /// The next piece of the body; `None` after the last one. Fails after [`STREAM_SILENCE`] without a byte.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(STREAM_SILENCE, self.body.chunk()).await {
            Ok(chunk) => chunk.map_err(|e| Failure::of(&e, Some(self.status))),
            Err(_) => Err(Failure::NoAnswer {
                loss: Loss::Timeout,
                status: Some(self.status),
                detail: format!("silent for {} s in the middle of the answer", STREAM_SILENCE.as_secs()),
            }),
        }
    }

    /// The rest of the body, at most `limit` bytes.
    pub async fn rest(mut self, limit: usize) -> Result<Response, Failure> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(Failure::NoAnswer {
                    loss: Loss::TooLarge,
                    status: Some(self.status),
                    detail: format!("the answer is larger than {limit} bytes"),
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status: self.status, headers: self.headers, body: body.freeze() })
    }
}

/// Why there is no usable answer, and what that says about the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not a byte of the request was sent.
    #[error("{detail}")]
    NotSent {
        /// How far it came.
        stage: Stage,
        /// What happened, for people.
        detail: String,
    },
    /// The request may have been read and carried out.
    #[error("{detail}")]
    NoAnswer {
        /// How the answer was lost.
        loss: Loss,
        /// The status, when that much of the answer arrived.
        status: Option<StatusCode>,
        /// What happened, for people.
        detail: String,
    },
}

/// Where a request ended that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The address is not one this program may talk to.
    Address,
    /// The name has no address.
    Dns,
    /// No TCP connection.
    Connect,
    /// No TLS session, mostly because the certificate is not trusted.
    Tls,
    /// The request could not be made.
    Request,
}

/// How an answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The deadline passed.
    Timeout,
    /// The connection broke.
    Broken,
    /// The answer is larger than allowed.
    TooLarge,
}

impl Client {
    /// Makes a client of the origin of `settings.base`.
    ///
    /// A CA bundle is trusted in addition to the system's authorities. The process must have installed a TLS provider.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let base = settings.policy.check_url(&settings.base).map_err(SetupError::Url)?;
        let authorities = match &settings.ca_bundle {
            Some(pem) => authorities(pem)?,
            None => vec![],
        };
        let build = |builder: reqwest::ClientBuilder| {
            let builder = builder
                .user_agent(concat!("fettle/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .no_proxy()
                .no_gzip()
                .no_brotli()
                .no_deflate()
                .no_zstd()
                .http1_only()
                .tcp_nodelay(true)
                .connect_timeout(CONNECT_DEADLINE)
                .dns_resolver(Resolver::new(settings.policy.clone(), port_of(&base)));
            let builder = if base.scheme() == "https" {
                builder.https_only(true).tls_certs_merge(authorities.iter().cloned())
            } else {
                // no authority is needed, and there may be none in the image
                builder.tls_certs_only([])
            };
            builder.build().map_err(|e| SetupError::Tls(innermost(&e)))
        };
        Ok(Self {
            reading: build(reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(30)))?,
            writing: build(reqwest::Client::builder().pool_max_idle_per_host(0))?,
            base,
        })
    }

    /// The vetted base address, without a trailing slash in its path.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub async fn send(&self, request: Request) -> Result<Response, Failure> {
        let limit = request.limit;
        self.open(request).await?.rest(limit).await
    }

    /// Sends a request and returns as soon as the status is there.
    pub async fn open(&self, request: Request) -> Result<Streamed, Failure> {
        if request.url.origin() != self.base.origin() {
            return Err(Failure::NotSent { stage: Stage::Address, detail: "the address has another origin than this client".into() });
        }
        let client = if request.method.is_safe() { &self.reading } else { &self.writing };
        let mut headers = request.headers;
        telemetry::inject(&mut headers);
        let mut builder = client.request(request.method, request.url).headers(headers).timeout(request.deadline);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let mut body = builder.send().await.map_err(|e| Failure::of(&e, None))?;
        let headers = std::mem::take(body.headers_mut());
        Ok(Streamed { status: body.status(), headers, body })
    }
}

/// The port a connection to `url` goes to.
fn port_of(url: &Url) -> u16 {
    url.port_or_known_default().unwrap_or_default()
}

fn authorities(pem: &[u8]) -> Result<Vec<reqwest::Certificate>, SetupError> {
    let unusable = |e: &(dyn StdError + 'static)| SetupError::CaBundle(innermost(e));
    let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| unusable(&e))?;
    if certificates.is_empty() {
        return Err(SetupError::CaBundle("it holds no PEM certificate".into()));
    }
    Ok(certificates)
}

impl Failure {
    /// Sorts an error of the HTTP library by what it says about the request.
    fn of(error: &reqwest::Error, status: Option<StatusCode>) -> Self {
        let status = status.or_else(|| error.status());
        if let Some(unresolved) = find::<Unresolved>(error) {
            let stage = match unresolved {
                Unresolved::Lookup { .. } => Stage::Dns,
                Unresolved::Refused { .. } => Stage::Address,
            };
            return Self::NotSent { stage, detail: unresolved.to_string() };
        }
        if error.is_connect() {
            return match find::<rustls::Error>(error) {
                Some(tls) => Self::NotSent { stage: Stage::Tls, detail: explain(tls) },
                None if error.is_timeout() => {
                    Self::NotSent { stage: Stage::Connect, detail: format!("no connection within {} s", CONNECT_DEADLINE.as_secs()) }
                }
                None => Self::NotSent { stage: Stage::Connect, detail: innermost(error) },
            };
        }
        if error.is_builder() {
            return Self::NotSent { stage: Stage::Request, detail: innermost(error) };
        }
        if error.is_timeout() {
            return Self::NoAnswer { loss: Loss::Timeout, status, detail: "no answer in time".into() };
        }
        Self::NoAnswer { loss: Loss::Broken, status, detail: innermost(error) }
    }
}

/// The first error of type `E` in the chain of causes. An `io::Error` hides the error it wraps from `source`, so that one is looked into.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = cause(error);
    }
    None
}

fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The text of the root cause: it names neither addresses nor headers.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = cause(last) {
        last = next;
    }
    last.to_string()
}

/// What a TLS error means and what mends it.
fn explain(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return format!("no TLS session: {error}");
    };
    // in words that are the same at the next look: they stand in statuses
    let at = |limit: &UnixTime| Timestamp::from_second(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
    if let CertificateError::ExpiredContext { not_after, .. } = certificate {
        return format!("the certificate of the server expired at {}; renew it at the controller", at(not_after));
    }
    if let CertificateError::NotValidYetContext { not_before, .. } = certificate {
        return format!(
            "the certificate of the server is valid from {} only; compare the clocks of controller and cluster",
            at(not_before)
        );
    }
    let advice = if matches!(certificate, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        "; put the certificate of its authority into caBundle"
    } else if matches!(certificate, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) {
        "; the name must be among the subject alternative names, a common name does not count"
    } else if certificate_is_authority(certificate) {
        "; the server presents the certificate of an authority (CA:TRUE) as its own, it needs one issued for a server"
    } else {
        ""
    };
    format!("the certificate of the server is not accepted: {certificate}{advice}")
}

fn certificate_is_authority(error: &CertificateError) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What the TLS library's verifier calls it.
    #[derive(Debug, thiserror::Error)]
    #[error("an authority")]
    struct CaUsedAsEndEntity;

    #[test]
    fn errors_are_found_inside_io_errors() {
        let inner = io::Error::other(Unresolved::Lookup { name: "a".into(), cause: "b".into() });
        let outer = io::Error::other(inner);
        assert!(find::<Unresolved>(&outer).is_some());
        assert!(find::<rustls::Error>(&outer).is_none());
    }

    #[test]
    fn certificate_errors_say_what_mends_them() {
        let text = explain(&rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(text.contains("caBundle"), "{text}");
        let text = explain(&rustls::Error::InvalidCertificate(CertificateError::NotValidForName));
        assert!(text.contains("subject alternative"), "{text}");
        let text = explain(&rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(CaUsedAsEndEntity)))));
        assert!(text.contains("(CA:TRUE)"), "{text}");
        let text = explain(&rustls::Error::InvalidCertificate(CertificateError::BadEncoding));
        assert!(!text.contains(';'), "nobody knows what mends it: {text}");
    }
}
