//! `fettle server`, as a caller with a bearer token sees it: where it is, which certificates it may show, who asks.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, ServiceAccount},
};
use kube::{Api, api::PostParams};
use reqwest::{Certificate, Response, StatusCode, Url, header, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    cluster::Cluster,
    failure::{Failure, chain},
    output::plain_lines,
};
use crate::http::auth::AUDIENCE;

/// ConfigMap in the operator's namespace that everybody may read: keys `ca.crt` and `url`.
pub const CONFIG_MAP: &str = "fettle-server-ca";
/// The longest answer that is not a log, in bytes.
const LONGEST: usize = 32 << 20;
/// The longest text of a server that is shown, in characters.
const MESSAGE: usize = 400;

/// How to reach it, and how it may be trusted.
pub struct Place {
    /// Its address, https.
    pub url: Url,
    /// Certificates to trust besides the system's, PEM.
    ca: Option<Vec<u8>>,
}

/// A server and who asks.
pub struct Server {
    http: reqwest::Client,
    /// Its address.
    pub url: Url,
    token: String,
}

/// The server's address in the address of a log: `https://host/api/logs/ID` without the end.
fn base(log_url: &str) -> Option<&str> {
    log_url.rsplit_once("/api/logs/").map(|(base, _)| base)
}

impl Place {
    /// Looks in this order: `--server`, the address of a log in the status of a run (`log_url`, or any in the namespace), the ConfigMap.
    pub async fn find(cluster: &Cluster, log_url: Option<&str>) -> Result<Self, Failure> {
        let options = &cluster.options;
        let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), &options.operator_namespace);
        // whoever may not read it can still give the address and the certificates himself
        let map = match cluster.ask("read", maps.get_opt(CONFIG_MAP)).await {
            Ok(map) => map.and_then(|map| map.data).unwrap_or_default(),
            Err(Failure::Error(_)) => std::collections::BTreeMap::default(),
            Err(other) => return Err(other),
        };
        let known = |text: &&str| !text.is_empty();
        let address = match (&options.server, log_url.and_then(base)) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(base)) => Some(base.to_owned()),
            (None, None) => match any_log_url(cluster).await.as_deref().and_then(base) {
                Some(base) => Some(base.to_owned()),
                None => map.get("url").map(String::as_str).filter(known).map(str::to_owned),
            },
        };
        let Some(address) = address else {
            return Err(Failure::Error(format!(
                "it is not known where fettle-server is: give --server https://… or set FETTLE_SERVER. \
                 (No run here has a log yet, and the ConfigMap {CONFIG_MAP} in namespace {} has no key `url`, or you may not read it.)",
                options.operator_namespace
            )));
        };
        let url = Url::parse(&address).ok().filter(|url| url.scheme() == "https" && url.host().is_some());
        let Some(url) = url else {
            return Err(Failure::Error(format!(
                "{address} is not an https address: your token goes nowhere else. Give --server https://…"
            )));
        };
        let ca = match &options.server_ca {
            Some(file) => Some(std::fs::read(file).map_err(|e| Failure::Usage(format!("--server-ca {}: {e}", file.display())))?),
            None => map.get("ca.crt").map(String::as_str).filter(known).map(|text| text.as_bytes().to_vec()),
        };
        Ok(Self { url, ca })
    }

    /// A client that trusts what may be trusted, and follows no redirect.
    pub fn client(&self) -> Result<reqwest::Client, Failure> {
        let unusable =
            |e: reqwest::Error| Failure::Error(format!("the certificates to trust for {} cannot be used: {}", self.url, chain(&e)));
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_secs(30))
            .user_agent(concat!("kubectl-fettle/", env!("CARGO_PKG_VERSION")));
        if let Some(ca) = &self.ca {
            builder = builder.tls_certs_merge(Certificate::from_pem_bundle(ca).map_err(unusable)?);
        }
        builder.build().map_err(unusable)
    }

    /// What is said when it does not answer.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = chain(error);
        let hint = if why.contains("certificate") || why.contains("UnknownIssuer") {
            "Its certificate is not trusted: give its authority with --server-ca FILE (kubectl -n fettle-system get configmap fettle-server-ca -o jsonpath='{.data.ca\\.crt}')"
        } else if self.url.host_str().is_some_and(|host| host.split('.').any(|label| label == "svc")) {
            "That address holds inside the cluster only. From here: kubectl -n fettle-system port-forward service/fettle-server 8443 & and --server https://localhost:8443"
        } else {
            "Is it up (kubectl -n fettle-system get pods), and is the address right (--server)?"
        };
        Failure::Unreachable(format!("cannot reach fettle-server {}: {why}\n{hint}", self.url))
    }
}

/// The address of any log in the namespace.
async fn any_log_url(cluster: &Cluster) -> Option<String> {
    let runs = cluster.ask("list PatchRuns", cluster.runs().list(&kube::api::ListParams::default().limit(50))).await.ok()?;
    runs.items.into_iter().rev().find_map(|run| run.status?.log_url)
}

/// Whose word counts there: the kubeconfig's token, else one for the ServiceAccount that was named.
async fn token(cluster: &Cluster) -> Result<String, Failure> {
    let namespace = &cluster.namespace;
    if let Some(account) = &cluster.options.service_account {
        let wanted = TokenRequest {
            spec: TokenRequestSpec { audiences: vec![AUDIENCE.into()], expiration_seconds: Some(600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), namespace);
        let what = format!("get a token for ServiceAccount {account} in namespace {namespace}");
        let made = cluster.ask(&what, accounts.create_token_request(account, &PostParams::default(), &wanted)).await?;
        return made.status.map(|status| status.token).ok_or_else(|| Failure::Error(format!("cannot {what}: the answer holds none")));
    }
    cluster.token().await?.ok_or_else(|| {
        Failure::Error(format!(
            "fettle-server wants a token, and your kubeconfig has none (a client certificate, as kubeadm and kind make it, does not help there). \
             Ask as a ServiceAccount that may look:\n  \
             kubectl -n {namespace} create serviceaccount fettle-reader\n  \
             kubectl -n {namespace} create rolebinding fettle-reader --clusterrole=fettle-viewer --serviceaccount={namespace}:fettle-reader\n  \
             and give --service-account fettle-reader (or FETTLE_SERVICE_ACCOUNT)"
        ))
    })
}

impl Server {
    /// Finds it and the token to show. `log_url` is that of a run, when there is one. Asks it nothing yet.
    pub async fn find(cluster: &Cluster, log_url: Option<&str>) -> Result<Self, Failure> {
        let place = Place::find(cluster, log_url).await?;
        Ok(Self { http: place.client()?, token: token(cluster).await?, url: place.url })
    }

    /// Asks; `None` when it is not there. `what` continues "cannot …".
    async fn get(&self, what: &str, path: &[&str], query: &[(&str, String)]) -> Result<Option<Response>, Failure> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query.iter().map(|(key, value)| (*key, value.as_str())));
        }
        let place = Place { url: self.url.clone(), ca: None };
        let answer = self.http.get(url).bearer_auth(&self.token).header(header::ACCEPT, "application/json").send().await;
        let answer = answer.map_err(|error| place.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Some(answer));
        }
        let after = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).map(plain_lines);
        let body = bounded(answer, 64 << 10).await.unwrap_or_default();
        let problem = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let detail: String =
            problem["detail"].as_str().or(problem["title"].as_str()).unwrap_or("it does not say why").chars().take(MESSAGE).collect();
        Err(match status {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::UNAUTHORIZED => Failure::Error(format!(
                "cannot {what}: fettle-server does not accept your token: {detail}\nLog in again; a ServiceAccount needs --service-account NAME"
            )),
            StatusCode::FORBIDDEN => Failure::Error(format!(
                "cannot {what}: {detail}\nWhoever may get the PatchRun may read this: ask for the ClusterRole `view` there"
            )),
            StatusCode::TOO_MANY_REQUESTS => {
                Failure::Error(format!("cannot {what}: {detail}: try again in {} s", after.as_deref().unwrap_or("some")))
            }
            status if status.is_server_error() => {
                Failure::Unreachable(format!("cannot {what}: fettle-server says {status}: {detail}: try again in a moment"))
            }
            status => Failure::Error(format!("cannot {what}: fettle-server says {status}: {detail}")),
        })
    }

    /// An answer in JSON; `None` when it is not there.
    pub async fn json<T: DeserializeOwned>(&self, what: &str, path: &[&str], query: &[(&str, String)]) -> Result<Option<T>, Failure> {
        let Some(answer) = self.get(what, path, query).await? else { return Ok(None) };
        let odd = |why: String| Failure::Error(format!("cannot {what}: fettle-server's answer is not understood: {why}"));
        let body = bounded(answer, LONGEST).await.map_err(odd)?;
        serde_json::from_slice(&body).map(Some).map_err(|e| odd(e.to_string()))
    }

    /// The log of a phase as it comes; `None` when there is none of that id.
    pub async fn log(&self, id: &str) -> Result<Option<Response>, Failure> {
        self.get(&format!("read log {id}"), &["api", "logs", id], &[]).await
    }
}

/// The body, unless it is longer.
async fn bounded(mut answer: Response, longest: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| chain(&e))? {
        if body.len() + chunk.len() > longest {
            return Err(format!("it has more than {longest} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_log_tells_where_the_server_is() {
        assert_eq!(base("https://f.example.com/x/api/logs/v1-a-apply"), Some("https://f.example.com/x"));
        assert_eq!(base("https://f.example.com"), None);
    }
}
