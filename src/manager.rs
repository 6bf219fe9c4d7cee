//! `fettle manager`: wiring of the operator. Leads or stands by, runs the controllers, and stops without cutting a launch in half.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, http::header, routing::get};
use kube::{
    Api, Client,
    runtime::events::{Recorder, Reporter},
};
use tokio_util::sync::CancellationToken;

use crate::{
    archive::{self, remote, settings::ArchiveArgs},
    clients::http::{Denied, UrlPolicy},
    controllers::{
        Context, api_addresses, automation_connection, janitor, patch_run, reference_watch::ReferenceWatch, runbook, sessions::Sessions,
        settings_watch, tekton_watch::TektonWatch,
    },
    lease,
    metrics::{CONTENT_TYPE, Metrics},
    names,
    shelf::Shelf,
};

/// How long launches that are under way may take to end after a stop was asked for.
const LAST_ORDERS: Duration = Duration::from_secs(45);

/// Options of `fettle manager`.
#[derive(clap::Args, Clone, Debug)]
pub struct ManagerArgs {
    /// Namespace of the operator: its configuration, lease and ledger are there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "fettle-system")]
    pub namespace: String,
    /// Name of this replica, for the lease.
    #[arg(long, env = "POD_NAME", default_value = "fettle-manager")]
    pub identity: String,
    /// Names and addresses of the node this replica runs on, separated by commas: a run whose scope holds one is refused.
    #[arg(long, env = "NODE_NAMES", value_delimiter = ',')]
    pub node_names: Vec<String>,
    /// Address for health and metrics.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Address of fettle server, as this pod reaches it. Default: the Service `fettle-server` in the operator's namespace.
    #[arg(long, env = "FETTLE_SERVER")]
    pub server: Option<String>,
    /// Certificate authority of fettle server, PEM; read again when it changes.
    #[arg(long, env = "FETTLE_SERVER_CA", default_value = "/var/run/fettle/server-ca/ca.crt")]
    pub server_ca: PathBuf,
    /// Token for fettle server (audience "fettle"); read again every minute.
    #[arg(long, env = "FETTLE_TOKEN", default_value = "/var/run/fettle/token/token")]
    pub token: PathBuf,
    /// The archive, as fettle server has it. When it is S3 the manager writes it itself; a directory belongs to fettle server.
    #[command(flatten)]
    pub archive: ArchiveArgs,
}

impl ManagerArgs {
    /// The address of fettle server, with the default applied.
    pub fn server(&self) -> String {
        self.server.clone().unwrap_or_else(|| format!("https://fettle-server.{}.svc:8443", self.namespace))
    }

    /// Where logs and records go: S3, else to fettle server, who reads logs with its own shelf of Runbooks.
    pub fn store(&self, runbooks: Arc<Shelf>) -> Result<remote::Store, archive::Error> {
        if self.archive.is_shared() {
            return Ok(remote::Store::Direct(self.archive.open()?.with_runbooks(runbooks)));
        }
        remote::Store::server(&self.server(), Some(self.server_ca.clone()), self.token.clone())
    }
}

/// The manager could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The health and metrics address cannot be used.
    #[error("listening on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Where logs and records go cannot be used.
    #[error("reaching the archive")]
    Archive(#[source] archive::Error),
}

/// Runs the operator until `stop`. `client` must not repeat requests by itself.
pub async fn run(
    args: ManagerArgs,
    client: Client,
    api_server: Vec<Denied>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind(args.listen).await.map_err(|source| Error::Listen { address: args.listen, source })?;
    let health = health(&metrics);
    let health_stop = stop.clone();
    tokio::spawn(async move {
        let served = axum::serve(listener, health).with_graceful_shutdown(health_stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "serving health and metrics");
        }
    });
    let shelf = Shelf::new(&args.namespace);
    let store = args.store(shelf.clone()).map_err(Error::Archive)?;
    let leases = Api::namespaced(client.clone(), &args.namespace);
    let lease_stop = CancellationToken::new();
    let (mut leads, lease_task) = lease::compete(leases, args.identity.clone().into(), lease_stop.clone());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity = args.identity, "standing by for leadership");
    tokio::select! {
        led = leads.wait_for(|leads| *leads) => drop(led),
        () = stop.cancelled() => {
            lease_stop.cancel();
            let _ = lease_task.await;
            return Ok(());
        }
    }
    metrics.leader.set(1);
    tracing::info!("leading");

    let work = CancellationToken::new();
    let (connections, connection_store) = automation_connection::start(&client);
    let (runs, run_store) = patch_run::start(&client);
    let mut denied = api_server;
    denied.extend(own_service(&args.server()).await);
    let policy = UrlPolicy { denied: api_addresses::start(client.clone(), denied, work.clone()).await, ..UrlPolicy::default() };
    let (tidy, launching) = tokio::sync::mpsc::channel(4);
    let (references, changes) = ReferenceWatch::new(client.clone());
    let ctx = Arc::new(Context {
        client: client.clone(),
        namespace: args.namespace.clone(),
        settings: settings_watch::start(client.clone(), &args.namespace, work.clone()),
        store,
        tekton: TektonWatch::start(client.clone(), work.clone()),
        runs: run_store,
        connections: connection_store,
        sessions: Sessions::new(client.clone(), args.namespace.clone(), policy, metrics.clone()),
        references,
        recorder: Recorder::new(client, Reporter { controller: names::MANAGER.into(), instance: Some(args.identity) }),
        metrics: metrics.clone(),
        own_nodes: args.node_names.iter().map(|n| n.trim().to_lowercase()).filter(|n| !n.is_empty()).collect::<BTreeSet<_>>(),
        scopes: patch_run::scope::Cache::default(),
        tidy,
        followed: patch_run::follow::Followed::default(),
        backoff: crate::controllers::backoff::Backoff::default(),
    });
    let mut controllers = tokio::spawn({
        let (ctx, work) = (ctx.clone(), work.clone());
        async move {
            futures::join!(
                automation_connection::run(connections, changes, ctx.clone(), work.clone()),
                patch_run::run(runs, ctx.clone(), work.clone()),
                runbook::run(ctx.client.clone(), ctx.clone(), work.clone()),
                follow(shelf, ctx.clone(), work.clone()),
                janitor::run(ctx, launching, work),
            );
        }
    });
    tokio::select! {
        () = stop.cancelled() => tracing::info!("stopping: what is under way is ended first"),
        _ = leads.wait_for(|leads| !*leads) => tracing::error!("stopping: another replica leads"),
        _ = &mut controllers => tracing::error!("stopping: the controllers ended"),
    }
    work.cancel();
    if tokio::time::timeout(LAST_ORDERS, controllers).await.is_err() {
        tracing::warn!("some work did not end in time; its intent is on record and it is found again");
    }
    metrics.leader.set(0);
    lease_stop.cancel();
    let _ = lease_task.await;
    Ok(())
}

/// Keeps the Runbooks at hand when this process reads logs itself, until `stop`.
async fn follow(shelf: Arc<Shelf>, ctx: Arc<Context>, stop: CancellationToken) {
    if matches!(ctx.store, remote::Store::Direct(_)) {
        stop.run_until_cancelled(shelf.follow(ctx.client.clone())).await;
    }
}

/// Where our own server is: a connection must not lead there.
async fn own_service(url: &str) -> Vec<Denied> {
    let Some(host) = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)) else { return vec![] };
    match tokio::net::lookup_host((host.trim_matches(['[', ']']), 0)).await {
        Ok(addresses) => addresses.map(|a| Denied { address: a.ip(), port: None }).collect(),
        Err(error) => {
            tracing::warn!(%error, host, "looking up fettle server");
            vec![]
        }
    }
}

fn health(metrics: &Metrics) -> Router {
    let metrics = metrics.clone();
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(|| async { "ok\n" }))
        .route("/metrics", get(move || async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.render()) }))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        manager: ManagerArgs,
    }

    fn args(line: &[&str]) -> ManagerArgs {
        Line::parse_from(["manager"].iter().chain(line)).manager
    }

    #[test]
    fn the_server_is_looked_for_in_the_namespace_of_the_operator() {
        assert_eq!(args(&["--namespace", "patch-tools"]).server(), "https://fettle-server.patch-tools.svc:8443");
        assert_eq!(args(&["--server", "https://fettle.example.com"]).server(), "https://fettle.example.com");
    }

    #[test]
    fn a_directory_belongs_to_the_server() {
        let store = args(&["--archive-dir", "/proc/cannot-be-made"]).store(Shelf::new("fettle-system"));
        assert!(matches!(store, Ok(remote::Store::Server(_))), "{store:?}");
    }
}
