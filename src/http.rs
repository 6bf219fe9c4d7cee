//! The HTTP server: health, metrics, logs, runs, and the intake of logs and records.
//!
//! Open to everybody: `/health`, `/ready`, `/metrics`, `/openapi.json`; they hold no names. Everything else needs a token. See [`auth`] for who is who and
//! [`logs`] for what an answer gives away.

pub mod auth;
pub mod body;
pub mod chat;
pub mod events;
pub mod follow;
pub mod history;
pub mod intake;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod openapi;
pub mod problem;
pub mod range;
pub mod rates;
pub mod runs;
pub mod start;
pub mod table;
pub mod tls;

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use clap::Args;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper_util::rt::TokioTimer;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tokio::{
    sync::{Mutex, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tower_http::{CompressionLevel, catch_panic::CatchPanicLayer, compression::CompressionLayer};
use tracing::Instrument as _;

use self::{
    auth::{Auth, Identity},
    follow::{Configured, Runs},
    limits::Places,
    metrics::Metrics,
    problem::Problem,
    rates::{Kind, Rates},
    tls::Tls,
};
use crate::{
    archive::{self, Archive, record::Record, settings::ArchiveArgs},
    history::{Condition, History, settings::HistoryArgs},
    shelf::Shelf,
    telemetry,
};

/// Bytes of a record at most: 1,000 hosts with everything that is kept about each.
const MAX_RECORD: usize = 8 << 20;
/// How long an answer may take, logs in either direction excepted.
const ANSWER: Duration = Duration::from_secs(30);
/// How long downloads may go on after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(20);
/// How long what `/ready` found out is believed.
const READY_TTL: Duration = Duration::from_secs(5);
/// How long the head of a request may take, and a connection may wait for the next one.
const HEAD: Duration = Duration::from_secs(10);
/// How long the start may wait for the history.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Records that may wait for the history; more are found in the archive later.
const RECORDS: usize = 64;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How `fettle server` runs.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Address to listen on.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// The archive.
    #[command(flatten)]
    pub archive: ArchiveArgs,
    /// The history.
    #[command(flatten)]
    pub history: HistoryArgs,
    /// Days that logs are kept.
    #[arg(long, env = "LOG_RETENTION_DAYS", default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=36_500))]
    pub log_retention_days: i64,
    /// Days that records (results and host tables) are kept.
    #[arg(long, env = "RECORD_RETENTION_DAYS", default_value_t = 365, value_parser = clap::value_parser!(i64).range(1..=36_500))]
    pub record_retention_days: i64,
    /// Certificate chain (PEM); read again when it changes. Without it the server makes its own CA and certificate.
    #[arg(long, env = "TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    #[arg(long, env = "TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Directory of the self-made CA and certificate; must outlive restarts.
    #[arg(long, env = "TLS_DIR", default_value = "/var/lib/fettle/tls")]
    pub tls_dir: PathBuf,
    /// Further names and addresses in the self-made certificate, besides those of the Service `fettle-server`.
    #[arg(long = "tls-name", env = "TLS_NAMES", value_delimiter = ',')]
    pub tls_names: Vec<String>,
    /// ConfigMap in the server's namespace to which the self-made CA (key `ca.crt`) and the address of the server (key `url`) are written, for the manager and for users.
    #[arg(long, env = "TLS_CA_CONFIG_MAP")]
    pub tls_ca_config_map: Option<String>,
    /// The server's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "fettle-system")]
    pub namespace: String,
    /// User that may send logs and records. Default: the ServiceAccount `fettle-manager` of the server's namespace.
    #[arg(long, env = "MANAGER_ACCOUNT")]
    pub manager_account: Option<String>,
    /// A connection or a log that does not move for this long is cut off.
    #[arg(long, env = "IDLE_TIMEOUT", default_value = "30s")]
    pub idle_timeout: SignedDuration,
    /// How long a request may wait for the end of a run.
    #[arg(long, env = "MAX_WAIT", default_value = "15m")]
    pub max_wait: SignedDuration,
    /// Reads of one user a minute; half of them may come at once.
    #[arg(long, env = "READS_PER_MINUTE", default_value = "120")]
    pub reads_per_minute: NonZeroU32,
    /// Requests of one user a minute that create or change something; all of them may come at once.
    #[arg(long, env = "WRITES_PER_MINUTE", default_value = "10")]
    pub writes_per_minute: NonZeroU32,
    /// How often those who follow a run hear that nothing happened.
    #[arg(long, default_value = "15s", hide = true)]
    pub heartbeat: SignedDuration,
    /// How often the certificate files are looked at.
    #[arg(long, default_value = "10s", hide = true)]
    pub tls_reload: SignedDuration,
}

impl ServerArgs {
    /// Every name and address under which the server is called.
    fn names(&self) -> Vec<String> {
        let service =
            ["", ".{}", ".{}.svc", ".{}.svc.cluster.local"].map(|rest| format!("fettle-server{}", rest.replace("{}", &self.namespace)));
        let local = ["localhost", "127.0.0.1"].map(str::to_owned);
        service.into_iter().chain(local).chain(self.tls_names.iter().cloned()).collect()
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive cannot be opened.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The history's address cannot be used.
    #[error(transparent)]
    History(#[from] crate::history::Error),
    /// There is no usable certificate.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The address cannot be listened on, or listening failed.
    #[error("{address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// What every request may use.
pub struct App {
    archive: Archive,
    shelf: Arc<Shelf>,
    history: History,
    /// Records on their way from the archive into the history.
    records: mpsc::Sender<Record>,
    client: Client,
    auth: Auth,
    rates: Rates,
    runs: Runs,
    configuration: Configured,
    downloads: Places,
    waiting: Places,
    followers: Places,
    max_wait: Duration,
    heartbeat: Duration,
    /// Cancelled when the server shall stop: nobody waits for a run any longer.
    stopping: CancellationToken,
    /// Held while the run of a request is found or created.
    starting: Mutex<()>,
    metrics: Metrics,
    manager_account: String,
    idle: Duration,
    /// When the server last looked whether it is ready, and what is missing.
    ready: Mutex<Option<(Instant, Option<&'static str>)>>,
}

impl App {
    /// The caller, when they did not ask too often. 401 without a valid token, 429 with `Retry-After` after too many requests.
    pub async fn caller(&self, headers: &HeaderMap, kind: Kind) -> Result<Identity, Problem> {
        let who = self.auth.authenticate(headers).await?;
        self.rates.admit(&who.username, kind)?;
        Ok(who)
    }
}

/// Runs the server until `shutdown`. `client` needs the rights of `config/rbac/server.yaml`, and must repeat no request by itself.
pub async fn serve(args: ServerArgs, client: Client, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    Server::bind(args, client).await?.run(shutdown).await
}

/// A server that listens and does not answer yet.
pub struct Server {
    args: ServerArgs,
    app: Arc<App>,
    shelf: Arc<Shelf>,
    arriving: mpsc::Receiver<Record>,
    tls: Tls,
    ca: Option<PathBuf>,
    listener: TcpListener,
    address: SocketAddr,
    /// Keeps what is followed of the cluster current.
    following: BoxFuture<'static, ()>,
}

impl Server {
    /// Opens the archive, reads or makes the certificate, and listens.
    pub async fn bind(args: ServerArgs, client: Client) -> Result<Self, Error> {
        let source = match (args.tls_cert.clone(), args.tls_key.clone()) {
            (Some(cert), Some(key)) => tls::Source::Files { cert, key },
            (None | Some(_), None | Some(_)) => tls::Source::SelfMade { directory: args.tls_dir.clone(), names: args.names() },
        };
        let ca = source.ca();
        let tls = Tls::load(source, crate::clock::now())?;
        if let Some(ca) = &ca {
            tracing::info!(ca = %ca.display(), "clients must trust this CA");
        }
        let shelf = Shelf::new(&args.namespace);
        let archive = args.archive.open()?.with_runbooks(shelf.clone());
        // an archive that is away for a while is a matter of /ready
        if let Err(error) = archive.probe().await {
            tracing::error!(%error, "the archive cannot be written to now");
        }
        let history = History::new(&args.history)?;
        // as a rule it is complete before the first question; when it is not, that is a matter of /ready as well
        let cutoff = crate::clock::now().checked_sub(days(args.record_retention_days)).unwrap_or(Timestamp::MIN);
        let _ = tokio::time::timeout(FIRST_LOOK, history.catch_up(&archive, cutoff)).await;
        let (records, arriving) = mpsc::channel(RECORDS);
        let failed = |source| Error::Listen { address: args.listen, source };
        let listener = TcpListener::bind(args.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let metrics = Metrics::default();
        let (runs, follow_runs) = Runs::follow(client.clone());
        let (configuration, follow_configuration) = follow::configuration(client.clone(), &args.namespace);
        let following = futures::future::join(follow_runs, follow_configuration).map(drop).boxed();
        let app = Arc::new(App {
            archive,
            shelf: shelf.clone(),
            history,
            records,
            auth: Auth::new(client.clone(), metrics.clone()),
            client,
            rates: Rates::new(args.reads_per_minute, args.writes_per_minute),
            runs,
            configuration,
            downloads: Places::new(50, 4, "downloading logs", metrics.log_streams.clone()),
            waiting: Places::new(256, 16, "waiting for runs", metrics.waiting.clone()),
            followers: Places::new(128, 8, "following runs", metrics.event_streams.clone()),
            heartbeat: args.heartbeat.unsigned_abs(),
            stopping: CancellationToken::new(),
            max_wait: args.max_wait.unsigned_abs(),
            starting: Mutex::default(),
            metrics,
            manager_account: args
                .manager_account
                .clone()
                .unwrap_or_else(|| format!("system:serviceaccount:{}:fettle-manager", args.namespace)),
            idle: args.idle_timeout.unsigned_abs(),
            ready: Mutex::default(),
        });
        Ok(Self { args, app, shelf, arriving, tls, ca, listener, address, following })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file with the CA that clients must trust, when it is self-made.
    pub fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    /// Answers until `shutdown`, then lets what is being answered end, for [`GRACE`] at most.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let Self { args, app, shelf, arriving, tls, ca, listener, address, following } = self;
        let failed = |source| Error::Listen { address, source };
        let handle = axum_server::Handle::new();
        let mut server = axum_server::from_tcp_rustls(listener, tls.config.clone())
            .map_err(failed)?
            .map(|tls| limits::Gate::new(tls, app.idle))
            .handle(handle.clone());
        configure(server.http_builder(), app.idle);
        tracing::info!(%address, "listening");
        let background = futures::future::join_all([
            following,
            shelf.follow(app.client.clone()).boxed(),
            tls.watch(args.tls_reload.unsigned_abs()).boxed(),
            sweep_daily(Arc::clone(&app), args.log_retention_days, args.record_retention_days).boxed(),
            follow(Arc::clone(&app), arriving, args.history.history_catch_up, args.record_retention_days).boxed(),
            publish_place(app.client.clone(), args.tls_ca_config_map.map(|name| (args.namespace, name)), ca, app.configuration.clone())
                .boxed(),
        ]);
        let stopping = async {
            shutdown.await;
            app.stopping.cancel();
            handle.graceful_shutdown(Some(GRACE));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = server.serve(router(Arc::clone(&app)).into_make_service()) => ended.map_err(failed),
            _ = background => Ok(()),
            () = stopping => Ok(()),
        }
    }
}

/// Limits of the protocol: slow heads, large heads, many streams, dead peers.
fn configure(builder: &mut hyper_util::server::conn::auto::Builder<hyper_util::rt::TokioExecutor>, idle: Duration) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle.min(HEAD)).max_headers(64).max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(64)
        .max_header_list_size(16 << 10)
        .max_send_buf_size(256 << 10);
}

/// Every route.
pub fn router(app: Arc<App>) -> Router {
    let logs = Router::new()
        .route("/api/logs/{id}", get(logs::get))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .layer(middleware::map_response(logs::weaken_tag))
        // to the head of the answer; a log then streams in its own time
        .layer(middleware::from_fn(in_time));
    // who it is comes before what it sends
    let manager_only = || middleware::from_fn_with_state(Arc::clone(&app), intake::manager_only);
    let intake = Router::new()
        .route("/internal/logs/{key}", get(intake::log_meta).put(intake::put_log))
        .layer(DefaultBodyLimit::disable())
        .layer(manager_only());
    let records = Router::new()
        .route("/internal/records/{key}", get(intake::record).put(intake::put_record))
        .route("/internal/started/{key}", get(intake::started).put(intake::create_started).delete(intake::remove_started))
        .layer(DefaultBodyLimit::max(MAX_RECORD))
        .layer(manager_only());
    // each bounds its own time
    let long = Router::new().route("/api/run/{phase}", post(start::post)).layer(DefaultBodyLimit::max(body::MAX_BODY));
    let quick = Router::new()
        .route("/health", get(async || "ok\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/openapi.json", get(openapi::get))
        .route("/api/runs/{namespace}/{name}", get(runs::get))
        .route("/api/history", get(history::list))
        .route("/api/host/{hostname}", get(history::host))
        .route("/api/runs/{namespace}/{name}/events", get(events::get))
        .route("/api/chat", post(chat::post))
        .merge(records)
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::new(StatusCode::METHOD_NOT_ALLOWED, "that cannot be done here"))
        .layer(middleware::from_fn(in_time));
    quick
        .merge(logs)
        .merge(long)
        .merge(intake)
        .layer(CatchPanicLayer::custom(|_| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "this is a fault of the server").into_response()
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), envelope))
        .with_state(app)
}

/// Ends what takes too long.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("that took too long").into_response(),
    }
}

/// What all answers have in common: an id, problems as JSON, a line in our log, a count.
async fn envelope(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request_id = %id, %method, route);
    telemetry::follow(&span, request.headers());
    let mut response = next.run(request).instrument(span.clone()).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        let problem = response.extensions_mut().remove::<Problem>();
        response = problem.unwrap_or_else(|| Problem::new(response.status(), "the request cannot be understood")).render(&id);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    let (code, took) = (response.status().as_u16(), started.elapsed());
    app.metrics.request(&method, &route, code, took);
    let _entered = span.enter();
    match route.as_str() {
        "/health" | "/ready" | "/metrics" => tracing::debug!(code, ?took, "answered"),
        _ => tracing::info!(code, ?took, "answered"),
    }
    response
}

/// The id a caller gave, when it is harmless, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let harmless = |id: &&str| (8..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let given = headers.get(&REQUEST_ID).and_then(|v| v.to_str().ok()).filter(harmless);
    given.map_or_else(archive::random_name, str::to_owned)
}

async fn metrics_text(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    app.metrics.history_degraded.set(i64::from(app.history.condition() != Condition::Complete));
    let text = app.metrics.text().map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Whether the archive can be written to and the API server tells who is who. A history that is degraded is said, and keeps nobody out.
async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    let mut known = app.ready.lock().await;
    let missing = match *known {
        Some((at, missing)) if at.elapsed() < READY_TTL => missing,
        Some(_) | None => {
            let (archive, reviews) = futures::join!(app.archive.probe(), app.auth.probe());
            if let Err(error) = &archive {
                tracing::error!(%error, "not ready");
            }
            let missing = match (archive.is_ok(), reviews) {
                (true, true) => None,
                (false, _) => Some("the archive cannot be written to"),
                (true, false) => Some("the Kubernetes API server does not answer"),
            };
            *known = Some((Instant::now(), missing));
            missing
        }
    };
    let well = match app.history.condition() {
        Condition::Starting | Condition::Complete => "ok\n",
        Condition::Degraded(_) => "ok, degraded: the history is not available\n",
    };
    missing.map_or(Ok(well), |missing| Err(Problem::unavailable(missing)))
}

/// Keeps the history beside the archive, for ever.
async fn follow(app: Arc<App>, arriving: mpsc::Receiver<Record>, every: SignedDuration, record_days: i64) {
    app.history.follow(&app.archive, arriving, every.unsigned_abs(), days(record_days), |caught| app.metrics.caught(caught)).await;
}

const fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(days * 24)
}

/// Applies the retention once a day, for ever; the first time a minute after the start.
async fn sweep_daily(app: Arc<App>, log_days: i64, record_days: i64) {
    let mut wait = Duration::from_mins(1);
    loop {
        tokio::time::sleep(wait).await;
        let now = crate::clock::now();
        wait = match app.archive.sweep(now, days(log_days), days(record_days)).await {
            Ok(swept) => {
                app.metrics.swept(swept, now);
                tracing::info!(logs = swept.logs, records = swept.records, leftovers = swept.leftovers, "retention applied");
                Duration::from_hours(24)
            }
            Err(error) => {
                tracing::error!(%error, "the retention could not be applied");
                Duration::from_mins(10)
            }
        };
    }
}

/// Writes where people and the manager can read it: the server's address as it is configured, and the self-made CA. Again when the former changes.
async fn publish_place(client: Client, map: Option<(String, String)>, ca: Option<PathBuf>, mut configured: Configured) {
    if let Some((namespace, name)) = map {
        let api = Api::<ConfigMap>::namespaced(client, &namespace);
        loop {
            let url = configured.borrow_and_update().as_ref().map(|c| c.server_url.clone()).unwrap_or_default();
            while let Err(error) = publish(&api, &name, ca.as_ref(), &url).await {
                tracing::error!(%error, config_map = name, "the server's address and CA could not be published");
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            tracing::info!(config_map = name, url, "the server's address and CA are published");
            if configured.changed().await.is_err() {
                break;
            }
        }
    }
    std::future::pending::<()>().await;
}

async fn publish(
    api: &Api<ConfigMap>,
    name: &str,
    ca: Option<&PathBuf>,
    url: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut data = serde_json::Map::new();
    if let Some(ca) = ca {
        data.insert("ca.crt".into(), tokio::fs::read_to_string(ca).await?.into());
    }
    if !url.is_empty() {
        data.insert("url".into(), url.into());
    }
    let map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": crate::names::MANAGER}},
        "data": data,
    });
    api.patch(name, &PatchParams::apply("fettle-server").force(), &Patch::Apply(map)).await?;
    Ok(())
}
