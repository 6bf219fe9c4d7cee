//! [`Store`]: the archive as the manager sees it, which is a client of the server's intake or the archive itself.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{Archive, Error, Key, LogMeta, LogStream, Owner, record::Record, started::Started};
use crate::{
    api::{classification::Findings, patch_run::LogRef},
    telemetry,
};

/// Token and certificate files are read again after this: both are projected and change under the process.
const REREAD: Duration = Duration::from_mins(1);
/// Answers to everything but a log come sooner than this, or count as lost.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest text of a server that is shown, in characters.
const MESSAGE: usize = 400;

/// Where the manager sends logs and records, and reads them back.
#[derive(Clone, Debug)]
pub enum Store {
    /// `fettle server` owns the archive.
    Server(Arc<Remote>),
    /// The archive is S3 and the manager writes itself.
    Direct(Archive),
}

impl Store {
    /// The archive behind the server at `url`, for example `https://fettle-server.fettle-system.svc:8443`.
    ///
    /// `ca_file` holds the certificates (PEM) the server's must descend from; absent, the system's are trusted. `token_file` holds a
    /// projected ServiceAccount token of audience `fettle`. Neither needs to exist yet.
    pub fn server(url: &str, ca_file: Option<PathBuf>, token_file: PathBuf) -> Result<Self, Error> {
        let url = reqwest::Url::parse(url).map_err(|e| Error::Rejected(format!("{url:?} is not the address of a server: {e}")))?;
        if url.scheme() != "https" {
            return Err(Error::Rejected(format!("{url} is not an https address: the token goes nowhere else")));
        }
        Ok(Self::Server(Arc::new(Remote { url, ca_file, token_file, session: Mutex::new(None) })))
    }

    /// The record of a phase; `None` when it has none. `key` is a phase key.
    pub async fn record(&self, key: &str) -> Result<Option<Record>, Error> {
        let key = Key::parse(key)?;
        match self {
            Self::Server(remote) => remote.get(&format!("internal/records/{key}")).await,
            Self::Direct(archive) => archive.record(&key).await,
        }
    }

    /// Writes the record of a phase, once; see [`Archive::put_record`]. May be repeated after any error but [`Error::Conflict`] and
    /// [`Error::Rejected`].
    pub async fn put_record(&self, record: &Record) -> Result<(), Error> {
        let key = Key::parse(&record.run_key)?;
        match self {
            Self::Server(remote) => remote.put_json(&format!("internal/records/{key}"), record).await,
            Self::Direct(archive) => archive.put_record(record).await,
        }
    }

    /// Marks a direct launch as begun; see [`Archive::create_started`]. Only `Ok` allows the launch.
    pub async fn create_started(&self, started: &Started) -> Result<(), Error> {
        let key = Key::parse(&started.run_key)?;
        match self {
            Self::Server(remote) => remote.put_json(&format!("internal/started/{key}"), started).await,
            Self::Direct(archive) => archive.create_started(started).await,
        }
    }

    /// The mark of a direct launch; `None` when none was begun. `key` is a phase key.
    pub async fn started(&self, key: &str) -> Result<Option<Started>, Error> {
        let key = Key::parse(key)?;
        match self {
            Self::Server(remote) => remote.get(&format!("internal/started/{key}")).await,
            Self::Direct(archive) => archive.started(&key).await,
        }
    }

    /// Removes the mark of a direct launch that the controller provably refused.
    pub async fn remove_started(&self, key: &str) -> Result<(), Error> {
        let key = Key::parse(key)?;
        match self {
            Self::Server(remote) => remote.delete(&format!("internal/started/{key}")).await,
            Self::Direct(archive) => archive.remove_started(&key).await,
        }
    }

    /// The archived log of a phase, and what the Runbooks read in it; `None` when it has none.
    pub async fn log_meta(&self, key: &str) -> Result<Option<(LogRef, Option<Findings>)>, Error> {
        let key = Key::parse(key)?;
        let meta: Option<LogMeta> = match self {
            Self::Server(remote) => remote.get(&format!("internal/logs/{key}")).await?,
            Self::Direct(archive) => archive.log_meta(&key).await?,
        };
        Ok(meta.map(|meta| (meta.reference(&key), meta.findings)))
    }

    /// Archives the log of a phase; see [`Archive::put_log`]. `source` says where it was taken from, for people: `Job 4711`.
    ///
    /// Takes as long as `stream` does: bound it from outside. Dropping the future leaves no log. After an error the log may or may not be
    /// archived ([`Store::log_meta`] tells); putting it again is safe.
    pub async fn put_log(&self, key: &str, owner: &Owner, source: &str, stream: LogStream) -> Result<LogRef, Error> {
        let key = Key::parse(key)?;
        match self {
            Self::Server(remote) => remote.put_log(&key, owner, source, stream).await,
            Self::Direct(archive) => archive.put_log(&key, owner, source, stream).await,
        }
    }
}

/// The client of the server's intake.
pub struct Remote {
    url: reqwest::Url,
    ca_file: Option<PathBuf>,
    token_file: PathBuf,
    session: Mutex<Option<Session>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.url)
    }
}

/// A client and the token it sends, until they are read again.
#[derive(Clone)]
struct Session {
    client: reqwest::Client,
    authorization: header::HeaderValue,
    ca: Option<Vec<u8>>,
    read_at: Instant,
}

/// What the server says went wrong (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    detail: String,
}

impl Remote {
    /// A client with a token that is at most a minute old.
    async fn session(&self) -> Result<Session, Error> {
        let held = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(session) = held.as_ref().filter(|s| s.read_at.elapsed() < REREAD) {
            return Ok(session.clone());
        }
        let unreadable = |file: &PathBuf, e: io::Error| Error::Unavailable(format!("{} cannot be read: {e}", file.display()));
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(|e| unreadable(&self.token_file, e))?;
        let mut authorization = header::HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| Error::Unavailable(format!("{} holds no token", self.token_file.display())))?;
        authorization.set_sensitive(true);
        let ca = match &self.ca_file {
            Some(file) => Some(tokio::fs::read(file).await.map_err(|e| unreadable(file, e))?),
            None => None,
        };
        // connections are kept as long as the trust they were made with holds
        let client = match held {
            Some(held) if held.ca == ca => held.client,
            Some(_) | None => client(ca.as_deref())?,
        };
        let session = Session { client, authorization, ca, read_at: Instant::now() };
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        Ok(session)
    }

    fn address(&self, path: &str) -> Result<reqwest::Url, Error> {
        self.url.join(path).map_err(|e| Error::Rejected(e.to_string()))
    }

    async fn request(&self, method: Method, url: reqwest::Url) -> Result<RequestBuilder, Error> {
        let session = self.session().await?;
        let mut headers = header::HeaderMap::from_iter([(header::AUTHORIZATION, session.authorization)]);
        telemetry::inject(&mut headers);
        Ok(session.client.request(method, url).headers(headers))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|e| Error::Unavailable(causes(&e)))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // perhaps the token was replaced a moment ago
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(response)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        let response = self.send(self.request(Method::GET, self.address(path)?).await?.timeout(TIMEOUT)).await?;
        match response.status() {
            StatusCode::OK => response.json().await.map(Some).map_err(|e| self.unreadable(&e)),
            // anybody can say 404; only our server says it as a problem
            StatusCode::NOT_FOUND if is_problem(&response) => Ok(None),
            _ => Err(self.refusal(response).await),
        }
    }

    async fn put_json<T: Serialize + Sync>(&self, path: &str, value: &T) -> Result<(), Error> {
        let request = self.request(Method::PUT, self.address(path)?).await?.timeout(TIMEOUT).json(value);
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(response).await) }
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        let response = self.send(self.request(Method::DELETE, self.address(path)?).await?.timeout(TIMEOUT)).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(response).await) }
    }

    async fn put_log(&self, key: &Key, owner: &Owner, source: &str, stream: LogStream) -> Result<LogRef, Error> {
        let broken = Arc::new(Mutex::new(None::<String>));
        let sent = Arc::new(Mutex::new((0u64, Sha256::new())));
        let body = {
            let (broken, sent) = (Arc::clone(&broken), Arc::clone(&sent));
            stream.inspect(move |chunk| match chunk {
                Ok(bytes) => {
                    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                    sent.0 += bytes.len() as u64;
                    sent.1.update(bytes);
                }
                Err(error) => *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string()),
            })
        };
        let mut url = self.address(&format!("internal/logs/{key}"))?;
        url.query_pairs_mut().extend_pairs([("namespace", owner.namespace.as_str()), ("name", &owner.name), ("source", source)]);
        let request = self
            .request(Method::PUT, url)
            .await?
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(reqwest::Body::wrap_stream(body));
        let answer = self.send(request).await;
        if let Some(error) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Error::Source(error));
        }
        let response = answer?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let log: LogRef = response.json().await.map_err(|e| self.unreadable(&e))?;
        let (size, sha256) = {
            let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            (sent.0, data_encoding::HEXLOWER.encode(&sent.1.clone().finalize()))
        };
        if log.id == key.as_str() && u64::try_from(log.size) == Ok(size) && log.sha256 == sha256 {
            Ok(log)
        } else {
            let archived = self.redact(&log.sha256);
            Err(Error::Unavailable(format!(
                "the server archived {} bytes with SHA-256 {archived}, sent were {size} with SHA-256 {sha256}",
                log.size
            )))
        }
    }

    /// An answer that is not what it should be.
    fn unreadable(&self, error: &reqwest::Error) -> Error {
        Error::Unavailable(self.redact(&causes(error)))
    }

    /// Turns an answer that is not a success into an error. What a person must mend outside the call (rights, token) is `Unavailable`.
    async fn refusal(&self, response: Response) -> Error {
        let status = response.status();
        let ours = is_problem(&response);
        let problem = if ours { response.json::<Problem>().await.ok() } else { None };
        let detail = format!("the server answers {status}: {}", self.redact(&problem.map(|p| p.detail).unwrap_or_default()));
        match status {
            StatusCode::CONFLICT if ours => Error::Conflict(detail),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY if ours => Error::Rejected(detail),
            _ => Error::Unavailable(detail),
        }
    }

    /// Takes the token out of a text that came from outside, whoever is there, and bounds it. Without a token there is nothing to tell.
    fn redact(&self, text: &str) -> String {
        let held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let authorization = held.as_ref().and_then(|session| session.authorization.to_str().ok());
        let token = authorization.and_then(|text| text.strip_prefix("Bearer ")).filter(|token| !token.is_empty());
        token.map(|token| text.replace(token, "…").chars().take(MESSAGE).collect()).unwrap_or_default()
    }
}

fn client(ca: Option<&[u8]>) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        // a log may stream for long; a peer that is gone must not
        .tcp_keepalive(Duration::from_secs(30))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(20));
    if let Some(pem) = ca {
        let roots =
            Certificate::from_pem_bundle(pem).map_err(|e| Error::Unavailable(format!("the server's CA cannot be read: {}", causes(&e))))?;
        builder = builder.tls_certs_only(roots);
    }
    builder.build().map_err(|e| Error::Unavailable(causes(&e)))
}

fn is_problem(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/problem+json"))
}

/// An error with its causes, and without the address (the caller knows it).
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
