//! The client of the cluster Fettle runs in: repeats nothing by itself, and counts what it asks.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Method, Request, Response};
use kube::client::ClientBuilder;
use tower::{Layer, Service};

use super::http::Denied;
use crate::metrics::{ApiCallLabels, Metrics};

/// No client could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is neither a service account nor a kubeconfig that can be used.
    #[error("finding the cluster")]
    Config(#[from] kube::config::InferConfigError),
    /// What was found cannot be used.
    #[error("preparing the client of the cluster")]
    Client(#[from] kube::Error),
    /// The API server's name leads nowhere.
    #[error("looking up the API server")]
    Address(#[from] std::io::Error),
}

/// The cluster, by service account or kubeconfig, and where its API server is reached, which no connection must lead to.
///
/// Repeats no request by itself: some of ours create things.
pub async fn connect(metrics: &Metrics) -> Result<(kube::Client, Vec<Denied>), Error> {
    let mut config = kube::Config::infer().await?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(Duration::from_secs(30));
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = config.cluster_url.port_u16().unwrap_or(443);
    let addresses = tokio::net::lookup_host((host, port)).await?.map(|a| Denied { address: a.ip(), port: Some(a.port()) }).collect();
    let client = ClientBuilder::try_from(config)?.with_layer(&Count(metrics.clone())).build();
    Ok((client, addresses))
}

/// Counts requests by verb, resource and code.
#[derive(Clone)]
struct Count(Metrics);

impl<S> Layer<S> for Count {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.0.clone() }
    }
}

#[derive(Clone)]
struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let watches = request.uri().query().is_some_and(|query| query.split('&').any(|p| p == "watch=true"));
        let verb = if watches { "WATCH" } else { verb(request.method()) };
        let resource = resource(request.uri().path());
        let calls = self.metrics.api_calls.clone();
        self.inner
            .call(request)
            .inspect(move |answer| {
                let code = answer.as_ref().map_or_else(|_| "none".to_owned(), |answer| answer.status().as_u16().to_string());
                calls.get_or_create(&ApiCallLabels { verb, resource, code }).inc();
            })
            .boxed()
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

/// Resource and subresource of a path, without names: `patchruns/status`. Source: the URL scheme of the Kubernetes API.
fn resource(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let known = match parts.next() {
        Some("api") => parts.next().is_some(),
        Some("apis") => parts.nth(1).is_some(),
        _ => false,
    };
    if !known {
        return "none".into();
    }
    let parts: Vec<&str> = parts.collect();
    // namespaces/NAMESPACE/RESOURCE/NAME/SUBRESOURCE, or without the namespace
    let parts = match parts.as_slice() {
        ["namespaces", _, inside @ ..] if !inside.is_empty() => inside,
        all => all,
    };
    match parts {
        [] => "none".into(),
        [resource] | [resource, _] => (*resource).to_owned(),
        [resource, _, sub, ..] => format!("{resource}/{sub}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_named_without_names() {
        for (path, expected) in [
            ("/apis/fettle.dev/v1alpha1/namespaces/patching/patchruns/web/status", "patchruns/status"),
            ("/apis/fettle.dev/v1alpha1/namespaces/patching/patchruns/web", "patchruns"),
            ("/apis/fettle.dev/v1alpha1/patchruns", "patchruns"),
            ("/api/v1/namespaces/patching/pods/a/log", "pods/log"),
            ("/api/v1/namespaces/patching", "namespaces"),
            ("/apis/tekton.dev/v1", "none"),
            ("/version", "none"),
        ] {
            assert_eq!(resource(path), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn every_request_is_counted_once() {
        let metrics = Metrics::default();
        let inner = tower::service_fn(|request: Request<()>| async move {
            if request.uri().path().ends_with("lost") {
                return Err(std::io::Error::other("reset"));
            }
            Ok(Response::builder().status(404).body(()).unwrap_or_default())
        });
        let mut service = Count(metrics.clone()).layer(inner);
        for path in
            ["/api/v1/namespaces/a/configmaps/b", "/api/v1/namespaces/a/configmaps/lost", "/api/v1/namespaces/a/configmaps?watch=true"]
        {
            let _ = service.call(Request::builder().uri(path).body(()).unwrap()).await;
        }
        let text = metrics.render();
        for (verb, code) in [("GET", "404"), ("GET", "none"), ("WATCH", "404")] {
            let line = format!("fettle_api_calls_total{{verb=\"{verb}\",resource=\"configmaps\",code=\"{code}\"}} 1");
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}
