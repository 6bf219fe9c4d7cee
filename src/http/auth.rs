//! Who is asking (TokenReview), and may they (SubjectAccessReview). Fails closed: without the API server nobody gets anything.
//!
//! Identity: a bearer token in the header, never in the address. Tokens of audience `fettle` are accepted from everybody; tokens of the API
//! server's own audience only from people, because a ServiceAccount's could be replayed by whoever receives it.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use http::{HeaderMap, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, time::Instant};

use super::{metrics::Metrics, problem::Problem};
use crate::archive::Owner;

/// The audience of tokens that are made for Fettle.
pub const AUDIENCE: &str = "fettle";
/// How long a token is believed.
const TOKEN_TTL: Duration = Duration::from_mins(1);
/// How long a permission is believed.
const ALLOWED_TTL: Duration = Duration::from_secs(30);
/// How long a refusal (of a token or of a permission) is believed.
const REFUSED_TTL: Duration = Duration::from_secs(10);
/// Entries of each cache.
const CAPACITY: usize = 10_000;
/// Calls to the API server at a time.
const CALLS: usize = 32;
/// How long one call to the API server may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A caller whose token is valid.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Never empty.
    pub username: String,
    uid: Option<String>,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
    /// Whether the token was made for Fettle.
    pub for_fettle: bool,
}

impl Identity {
    /// The groups of users they are in.
    pub fn groups(&self) -> &[String] {
        self.groups.as_deref().unwrap_or_default()
    }
}

/// Asks the API server, and remembers its answers for a short while.
pub struct Auth {
    client: Client,
    metrics: Metrics,
    calls: Semaphore,
    tokens: Mutex<Cache<Option<Identity>>>,
    decisions: Mutex<Cache<bool>>,
}

impl Auth {
    /// Uses `client`, which must be allowed to create a TokenReview and a SubjectAccessReview.
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self {
            client,
            metrics,
            calls: Semaphore::new(CALLS),
            tokens: Mutex::new(Cache::new(CAPACITY)),
            decisions: Mutex::new(Cache::new(CAPACITY)),
        }
    }

    /// The caller. 401 without a valid token, 503 when the API server does not tell.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Problem> {
        let Some(token) = bearer(headers) else {
            return Err(Problem::unauthenticated(
                "send a bearer token in the header Authorization, for example that of `kubectl create token NAME --audience fettle`",
            ));
        };
        let key: Hash = Sha256::digest(token.as_bytes()).into();
        let now = Instant::now();
        let known = lock(&self.tokens).get(now, &key);
        let found = if let Some(found) = known {
            found
        } else {
            let found = self.identify(token).await?;
            let ttl = if found.is_some() { TOKEN_TTL } else { REFUSED_TTL };
            lock(&self.tokens).put(now + ttl, key, found.clone());
            found
        };
        found.ok_or_else(|| {
            Problem::unauthenticated(
                "the token is not valid here: it has expired, or it is a ServiceAccount's and not of audience `fettle`",
            )
        })
    }

    async fn identify(&self, token: &str) -> Result<Option<Identity>, Problem> {
        if let Some((user, audiences)) = self.review(token, Some(AUDIENCE)).await? {
            let for_fettle = audiences.iter().any(|audience| audience == AUDIENCE);
            // an authenticator that knows no audiences vouches for the API server's only
            return Ok(identity(user, for_fettle).filter(|who| for_fettle || is_person(who)));
        }
        let found = self.review(token, None).await?;
        Ok(found.and_then(|(user, _)| identity(user, false)).filter(is_person))
    }

    /// One TokenReview: the user and the audiences the token is good for; `None` when it is not.
    async fn review(&self, token: &str, audience: Option<&str>) -> Result<Option<(UserInfo, Vec<String>)>, Problem> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: audience.map(|a| vec![a.to_owned()]) },
            ..TokenReview::default()
        };
        let status = self.ask("tokenreviews", &review).await?.status.unwrap_or_default();
        let valid = status.authenticated == Some(true);
        Ok(status.user.filter(|_| valid).map(|user| (user, status.audiences.unwrap_or_default())))
    }

    /// Whether `who` may get PatchRuns: that of `owner`, or, with `None`, all of them everywhere.
    pub async fn may_get(&self, who: &Identity, owner: Option<&Owner>) -> Result<bool, Problem> {
        self.may(who, "get", owner.map(|o| o.namespace.as_str()), owner.map(|o| o.name.as_str())).await
    }

    /// Whether `who` may do `verb` with PatchRuns: the one of that name, all of a namespace, or all of them everywhere.
    pub async fn may(&self, who: &Identity, verb: &str, namespace: Option<&str>, name: Option<&str>) -> Result<bool, Problem> {
        let key: Hash = Sha256::digest(serde_json::to_vec(&(who, verb, namespace, name)).unwrap_or_default()).into();
        let now = Instant::now();
        let known = lock(&self.decisions).get(now, &key);
        if let Some(allowed) = known {
            return Ok(allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(who.username.clone()),
                uid: who.uid.clone(),
                groups: who.groups.clone(),
                extra: who.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(crate::api::GROUP.into()),
                    resource: Some("patchruns".into()),
                    namespace: namespace.map(str::to_owned),
                    name: name.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let status = self.ask("subjectaccessreviews", &review).await?.status.unwrap_or_default();
        let allowed = status.allowed && status.denied != Some(true);
        lock(&self.decisions).put(now + if allowed { ALLOWED_TTL } else { REFUSED_TTL }, key, allowed);
        Ok(allowed)
    }

    /// Whether the API server answers a TokenReview.
    pub async fn probe(&self) -> bool {
        self.review("fettle-probe", Some(AUDIENCE)).await.is_ok()
    }

    async fn ask<K>(&self, what: &'static str, question: &K) -> Result<K, Problem>
    where
        K: kube::Resource<DynamicType = ()> + Serialize + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        let call = async {
            let _place = self.calls.acquire().await.ok()?;
            Some(Api::<K>::all(self.client.clone()).create(&PostParams::default(), question).await)
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
        // the error text of an API server may quote the question: it holds a token
        let outcome = match &answer {
            Ok(Some(Ok(_))) => "answered",
            Ok(Some(Err(kube::Error::Api(status)))) => {
                tracing::error!(what, code = status.code, reason = %status.reason, "the API server refuses a review");
                "refused"
            }
            Ok(Some(Err(_)) | None) => "failed",
            Err(_) => "timed out",
        };
        self.metrics.review(what, outcome);
        match answer {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(_)) | None) | Err(_) => {
                Err(Problem::unavailable("the Kubernetes API server does not tell who you are or what you may do"))
            }
        }
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A user with a name; nobody acts under an empty one.
fn identity(user: UserInfo, for_fettle: bool) -> Option<Identity> {
    let username = user.username.filter(|name| !name.is_empty() && name != "system:anonymous")?;
    Some(Identity { username, uid: user.uid, groups: user.groups, extra: user.extra, for_fettle })
}

fn is_person(who: &Identity) -> bool {
    !who.username.starts_with("system:serviceaccount:")
}

type Hash = [u8; 32];

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Answers that expire; the oldest make room. Keys are hashes, so that no token lies in it.
struct Cache<V> {
    capacity: usize,
    next: u64,
    entries: BTreeMap<Hash, (u64, Instant, V)>,
    by_age: BTreeMap<u64, Hash>,
}

impl<V: Clone> Cache<V> {
    fn new(capacity: usize) -> Self {
        Self { capacity, next: 0, entries: BTreeMap::new(), by_age: BTreeMap::new() }
    }

    fn get(&self, now: Instant, key: &Hash) -> Option<V> {
        self.entries.get(key).filter(|(_, until, _)| *until > now).map(|(_, _, value)| value.clone())
    }

    fn put(&mut self, until: Instant, key: Hash, value: V) {
        self.next += 1;
        if let Some((age, ..)) = self.entries.insert(key, (self.next, until, value)) {
            self.by_age.remove(&age);
        }
        self.by_age.insert(self.next, key);
        while self.entries.len() > self.capacity
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|v| (header::AUTHORIZATION, v.parse().unwrap())).collect()
    }

    #[test]
    fn only_one_bearer_token_counts() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc"])), Some("abc"));
        for bad in [&[][..], &["Basic abc"], &["Bearer"], &["Bearer "], &["abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(bearer(&headers(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn nobody_acts_under_an_empty_name() {
        for name in [None, Some(""), Some("system:anonymous")] {
            assert_eq!(identity(UserInfo { username: name.map(str::to_owned), ..UserInfo::default() }, true), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_expires_and_stays_bounded() {
        let mut cache = Cache::new(3);
        let now = Instant::now();
        for (n, key) in [1u8, 2, 3, 1, 4].into_iter().enumerate() {
            cache.put(now + Duration::from_secs(1), [key; 32], n);
        }
        assert_eq!((cache.entries.len(), cache.by_age.len()), (3, 3));
        assert_eq!(cache.get(now, &[2; 32]), None, "the oldest made room");
        assert_eq!(cache.get(now, &[1; 32]), Some(3), "the newest answer counts");
        assert_eq!(cache.get(now + Duration::from_secs(1), &[1; 32]), None, "an answer expires");
    }
}
