//! Sessions with controllers: which credentials go where, and one batched poll for all jobs of a controller.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client};
use tokio::time::Instant;

use super::reference_watch::{Kind, Reference};
use crate::{
    api::{
        automation_connection::{AutomationConnection, CaBundle},
        reason::Reason,
    },
    clients::{
        aap::{self, Aap, Credentials, Job},
        http::{UrlPolicy, origin_of},
    },
    metrics::{CallLabels, Metrics},
    names,
};

/// How long a Secret or CA bundle is used before it is fetched again. Credentials are never watched.
const FRESH: Duration = Duration::from_secs(15);
/// How old a row of the job board may be.
const ROW_AGE: Duration = Duration::from_millis(1500);
/// How long a job nobody asks about stays on the board.
const FORGET: Duration = Duration::from_mins(10);

/// Which credentials a call is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// `spec.credentials`: inside a change phase only.
    Change,
    /// `spec.readCredentials`.
    Read,
    /// None: whether the controller is there.
    Ping,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSession {
    /// For the condition.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// One controller with one credential; cheap to clone.
#[derive(Clone)]
pub struct Session {
    /// The client.
    pub aap: Aap,
    /// All jobs that are watched with these credentials.
    pub board: Arc<Board>,
}

/// All sessions of this process.
pub struct Sessions {
    client: Client,
    own_namespace: String,
    policy: UrlPolicy,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    gates: BTreeMap<String, aap::Gate>,
    open: BTreeMap<String, Session>,
    fetched: BTreeMap<Reference, (Instant, Option<Fetched>)>,
    /// How often something fetched was forgotten: what was asked for before then is not kept.
    forgotten: u64,
}

/// A Secret or ConfigMap as far as it is used.
#[derive(Clone)]
struct Fetched {
    origin: Option<String>,
    data: BTreeMap<String, Vec<u8>>,
}

impl Sessions {
    /// No session yet. `own_namespace` is the operator's, `policy` says which addresses are never talked to.
    pub fn new(client: Client, own_namespace: String, policy: UrlPolicy, metrics: Metrics) -> Self {
        Self { client, own_namespace, policy, metrics, state: Mutex::default() }
    }

    /// A session with the controller of `connection`. `allowed` are the origins the operator's configuration allows; empty means any.
    pub async fn open(&self, connection: &AutomationConnection, purpose: Purpose, allowed: &[String]) -> Result<Session, NoSession> {
        let namespace = connection.metadata.namespace.as_deref().unwrap_or_default();
        let spec = &connection.spec;
        let no = |reason, message: String| Err(NoSession { reason, message });
        let Some(origin) = origin_of(&spec.url) else {
            return no(Reason::ConnectionInvalid, "url has no host".into());
        };
        if !allowed.is_empty() && !allowed.iter().any(|a| origin_of(a).as_deref() == Some(origin.as_str())) {
            return no(Reason::ConnectionInvalid, format!("{origin} is not among the controllers that AAP_URL in fettle-config allows"));
        }
        let policy = UrlPolicy { allow_plain_http: spec.allow_plain_http(), ..self.policy.clone() };
        // each time: what is refused changes while sessions last
        if let Err(refused) = policy.check_url(&spec.url) {
            return no(Reason::ConnectionInvalid, refused.to_string());
        }
        let source = match purpose {
            Purpose::Change => spec.credentials.as_ref(),
            Purpose::Read => spec.read_credentials.as_ref(),
            Purpose::Ping => None,
        };
        let credentials = match (purpose, source) {
            (Purpose::Ping, _) => Credentials::Anonymous,
            (Purpose::Change, None) => {
                return no(Reason::AwaitingCredentials, "the connection names no credentials: set spec.credentials.secretRef".into());
            }
            (Purpose::Read, None) => return no(Reason::AwaitingCredentials, "the connection names no readCredentials".into()),
            (Purpose::Change | Purpose::Read, Some(source)) => self.credentials(namespace, &source.secret_ref.name, &origin).await?,
        };
        let ca_bundle = match &spec.ca_bundle {
            Some(bundle) => Some(self.ca_bundle(namespace, bundle).await?),
            None => None,
        };
        let digest = names::sha256_hex(
            format!("{:?}", (&spec.url, &spec.api_prefix, spec.allow_plain_http(), &ca_bundle, credentials.fingerprint())).as_bytes(),
        );
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = state.open.get(&digest) {
            return Ok(session.clone());
        }
        let gate = state.gates.entry(origin).or_default().clone();
        let metrics = self.metrics.clone();
        let made = Aap::new(aap::Settings {
            url: spec.url.clone(),
            api_prefix: spec.api_prefix.clone(),
            credentials,
            policy,
            ca_bundle,
            gate,
            observer: Some(Arc::new(move |o: &aap::Observation| {
                let labels = CallLabels { method: o.method.to_owned(), route: o.route.to_owned(), code: o.code.to_owned() };
                metrics.aap_calls.get_or_create(&labels).inc();
                metrics.aap_call_seconds.observe(o.elapsed.as_secs_f64());
            })),
        });
        match made {
            Ok(aap) => {
                // rotated credentials leave their session behind
                if state.open.len() > 256 {
                    state.open.clear();
                }
                let session = Session { aap, board: Arc::default() };
                state.open.insert(digest, session.clone());
                Ok(session)
            }
            Err(error) => no(Reason::ConnectionInvalid, error.to_string()),
        }
    }

    async fn credentials(&self, namespace: &str, secret: &str, origin: &str) -> Result<Credentials, NoSession> {
        let no = |reason, message: String| Err(NoSession { reason, message });
        let Some(found) = self.fetch(namespace, secret, Kind::Secret).await? else {
            return no(
                Reason::AwaitingCredentials,
                format!(
                    "Secret {secret} is not there; create it: kubectl -n {namespace} create secret generic {secret} --from-literal=token=… \
                     && kubectl -n {namespace} annotate secret {secret} {}={origin}",
                    names::ORIGIN
                ),
            );
        };
        let annotated = found.origin.as_deref().and_then(origin_of);
        if annotated.as_deref() != Some(origin) {
            return no(
                Reason::AwaitingCredentials,
                format!(
                    "Secret {secret} does not say that it is for {origin}; when it is: kubectl -n {namespace} annotate --overwrite secret {secret} {}={origin}",
                    names::ORIGIN
                ),
            );
        }
        Credentials::from_secret(|key| found.data.get(key).cloned())
            .or_else(|error| no(Reason::AwaitingCredentials, format!("Secret {secret}: {error}")))
    }

    async fn ca_bundle(&self, namespace: &str, bundle: &CaBundle) -> Result<Vec<u8>, NoSession> {
        let (key, kind) = match (&bundle.config_map_key_ref, &bundle.secret_key_ref) {
            (Some(key), _) => (key, Kind::ConfigMap),
            (None, Some(key)) => (key, Kind::Secret),
            (None, None) => return Err(NoSession { reason: Reason::ConnectionInvalid, message: "caBundle names nothing".into() }),
        };
        let found = self.fetch(namespace, &key.name, kind).await?;
        found.and_then(|f| f.data.get(&key.key).cloned()).ok_or_else(|| NoSession {
            reason: Reason::ConnectionInvalid,
            message: format!("caBundle: {kind:?} {} has no key {}", key.name, key.key),
        })
    }

    /// Forgets what was fetched of an object that changed.
    pub fn forget(&self, reference: &Reference) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.fetched.remove(reference);
        state.forgotten += 1;
    }

    /// Fetches one object, at most every fifteen seconds.
    async fn fetch(&self, namespace: &str, name: &str, kind: Kind) -> Result<Option<Fetched>, NoSession> {
        let key = Reference { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        let forgotten = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, found)) = state.fetched.get(&key)
                && at.elapsed() < FRESH
                && found.is_some()
            {
                return Ok(found.clone());
            }
            state.forgotten
        };
        let found = match kind {
            Kind::Secret => Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await.map(|found| {
                found.map(|s| Fetched {
                    origin: s.metadata.annotations.and_then(|a| a.get(names::ORIGIN).cloned()),
                    data: s.data.unwrap_or_default().into_iter().map(|(k, ByteString(v))| (k, v)).collect(),
                })
            }),
            Kind::ConfigMap => Api::<ConfigMap>::namespaced(self.client.clone(), namespace).get_opt(name).await.map(|found| {
                found.map(|c| Fetched {
                    origin: None,
                    data: c.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).collect(),
                })
            }),
        };
        let found = found.map_err(|error| {
            if matches!(&error, kube::Error::Api(status) if status.is_forbidden()) {
                self.missing_right(namespace, (kind == Kind::Secret).then_some(name))
            } else {
                NoSession { reason: Reason::ConnectionInvalid, message: format!("reading {name}: {}", super::brief(&error)) }
            }
        })?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.fetched.retain(|_, (at, _)| at.elapsed() < FRESH);
        if state.forgotten == forgotten {
            state.fetched.insert(key, (Instant::now(), found.clone()));
        }
        Ok(found)
    }

    /// What to do about a missing right in a tenant's namespace.
    pub fn missing_right(&self, namespace: &str, secret: Option<&str>) -> NoSession {
        let account = format!("--serviceaccount={}:fettle-manager", self.own_namespace);
        let message = match secret {
            Some(name) => format!(
                "Fettle may not read Secret {name}; allow it: kubectl -n {namespace} create role fettle-secret-{name} --verb=get --resource=secrets --resource-name={name} \
                 && kubectl -n {namespace} create rolebinding fettle-secret-{name} --role=fettle-secret-{name} {account}"
            ),
            None => format!(
                "Fettle may not work in this namespace; allow it: kubectl -n {namespace} create rolebinding fettle-tenant --clusterrole=fettle-tenant {account}"
            ),
        };
        NoSession { reason: Reason::RightsMissing, message }
    }
}

/// One poll for all jobs of a session.
#[derive(Default)]
pub struct Board {
    inner: tokio::sync::Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    asked: BTreeMap<i64, Instant>,
    found: BTreeMap<i64, Job>,
    fetched: Option<Instant>,
}

impl Board {
    /// The row of a job, at most a moment old; `None` when the controller does not know it. One request refreshes every watched job.
    pub async fn job(&self, aap: &Aap, id: i64) -> Result<Option<Job>, aap::Error> {
        let mut rows = self.inner.lock().await;
        let known = rows.asked.insert(id, Instant::now()).is_some();
        if !known || rows.fetched.is_none_or(|at| at.elapsed() >= ROW_AGE) {
            rows.asked.retain(|_, at| at.elapsed() < FORGET);
            let ids: Vec<i64> = rows.asked.keys().copied().collect();
            let answer = aap.jobs(&ids).await?;
            rows.found = answer.value;
            rows.fetched = Some(Instant::now());
        }
        Ok(rows.found.get(&id).cloned())
    }
}
