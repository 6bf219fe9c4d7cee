//! The cluster of the user's kubeconfig, asked with the user's own rights.

use std::{future::Future, time::Duration};

use http::{HeaderValue, Request, Response, header};
use kube::{
    Api, Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::{Layer as _, ServiceExt as _};

use super::{
    Options,
    failure::{Failure, chain, of_cluster},
};
use crate::api::patch_run::PatchRun;

/// How long one answer of the API server may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A cluster and a namespace in it.
pub struct Cluster {
    /// The client, with the user's rights.
    pub client: Client,
    /// The namespace that is meant.
    pub namespace: String,
    /// Address of the API server.
    pub url: String,
    /// What holds for every command.
    pub options: Options,
    config: Config,
}

impl Cluster {
    /// Reads the kubeconfig as kubectl does. Asks the API server nothing yet.
    pub async fn connect(options: &Options) -> Result<Self, Failure> {
        let wrong = |error: &dyn std::error::Error| Failure::Error(format!("the kubeconfig cannot be used: {}", chain(error)));
        let wanted = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match (&options.kubeconfig, &options.context) {
            (Some(file), _) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(|e| wrong(&e))?;
                Config::from_custom_kubeconfig(kubeconfig, &wanted).await.map_err(|e| wrong(&e))?
            }
            (None, Some(_)) => Config::from_kubeconfig(&wanted).await.map_err(|e| wrong(&e))?,
            (None, None) => Config::infer().await.map_err(|e| wrong(&e))?,
        };
        // some of our requests create things
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.write_timeout = Some(ANSWER);
        let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config.clone()).map_err(|e| wrong(&e))?;
        Ok(Self { client, namespace, url, options: options.clone(), config })
    }

    /// Asks the API server, for a bounded time. `what` continues "cannot …".
    pub async fn ask<T>(&self, what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        match tokio::time::timeout(ANSWER, call).await {
            Ok(answer) => answer.map_err(|error| of_cluster(what, &self.url, &error)),
            Err(_) => Err(Failure::Unreachable(format!("cannot {what}: the API server {} does not answer", self.url))),
        }
    }

    /// PatchRuns of the namespace.
    pub fn runs(&self) -> Api<PatchRun> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One PatchRun; `None` when there is none of that name.
    pub async fn run_if_any(&self, name: &str) -> Result<Option<PatchRun>, Failure> {
        let what = format!("read PatchRun {name} in namespace {}", self.namespace);
        self.ask(&what, async {
            match self.runs().get(name).await {
                // that the kind is not served is another matter
                Err(kube::Error::Api(status)) if status.code == 404 && status.reason == "NotFound" => Ok(None),
                answer => answer.map(Some),
            }
        })
        .await
    }

    /// One PatchRun.
    pub async fn run(&self, name: &str) -> Result<PatchRun, Failure> {
        self.run_if_any(name).await?.ok_or_else(|| self.no_run(name))
    }

    /// What is said when there is no such PatchRun.
    pub fn no_run(&self, name: &str) -> Failure {
        let namespace = &self.namespace;
        Failure::Error(format!(
            "there is no PatchRun {name} in namespace {namespace}: `kubectl fettle get -n {namespace}` lists them, -n chooses another namespace"
        ))
    }

    /// The bearer token of the kubeconfig, whatever it comes from (text, file, command); `None` when it has none, as with a client certificate.
    pub async fn token(&self) -> Result<Option<String>, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::Error(format!("the kubeconfig gives no token: {}", chain(error)));
        let Some(layer) = self.config.auth_layer().map_err(|e| failed(&e))? else { return Ok(None) };
        // what the client would send as a header is the token
        let echo = tower::service_fn(|request: Request<Body>| async move {
            let mut answer = Response::new(());
            if let Some(value) = request.headers().get(header::AUTHORIZATION) {
                answer.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            Ok::<_, tower::BoxError>(answer)
        });
        let answer = layer.layer(echo).oneshot(Request::new(Body::empty())).await.map_err(|e| failed(e.as_ref()))?;
        let value = answer.headers().get(header::AUTHORIZATION).map(HeaderValue::to_str).and_then(Result::ok);
        Ok(value.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned))
    }
}

/// The name of a PatchRun, as people write it: `web`, or `patchrun/web` as `-o name` prints it.
pub fn run_name(text: &str) -> Result<String, String> {
    let name = match text.rsplit_once('/') {
        Some((kind, name)) => match kind.split('.').next().unwrap_or_default() {
            "patchrun" | "patchruns" | "prun" => name,
            _ => return Err(format!("{kind} is not a PatchRun")),
        },
        None => text,
    };
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(fits) {
        return Err("a name has lower-case letters, digits, dots and dashes".into());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_as_kubectl_names_them() {
        for text in ["web", "patchrun/web", "patchrun.fettle.dev/web", "prun/web"] {
            assert_eq!(run_name(text), Ok("web".into()), "{text}");
        }
        for bad in ["", "pod/web", "Web", "../x", "a b", "patchrun/"] {
            assert!(run_name(bad).is_err(), "{bad}");
        }
    }
}
