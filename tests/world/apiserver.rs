//! A Kubernetes API server in this process: objects with versions, status apart from spec, finalizers, watches, and every call counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::body::Body as Answer;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    calls::{Calls, Outcome},
    tekton::Tekton,
};

/// A server; clones are one server.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Mutex<Inner>>,
    pub tekton: Arc<Tekton>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    /// By path: `apis/fettle.dev/v1alpha1/namespaces/patching/patchruns/web`.
    objects: BTreeMap<String, Value>,
    logs: BTreeMap<String, String>,
    watchers: Vec<Watcher>,
    /// Whether watchers hear nothing.
    silent: bool,
    /// The version before which the history is gone.
    compacted: u64,
    /// Version, path and event.
    history: Vec<(u64, String, Value)>,
    asked: Vec<Asked>,
    /// Paths that may not be read or watched.
    forbidden: BTreeSet<String>,
}

/// Who watches a collection, or one object of it.
struct Watcher {
    /// Of one namespace or of all.
    collection: String,
    name: Option<String>,
    metadata_only: bool,
    send: mpsc::UnboundedSender<Value>,
}

impl Watcher {
    /// Whether it is told of what happens at that path.
    fn sees(&self, path: &str) -> bool {
        let (namespaced, name) = path.rsplit_once('/').unwrap();
        let everywhere = match namespaced.split_once("namespaces/") {
            Some((head, rest)) => format!("{head}{}", rest.split_once('/').unwrap().1),
            None => namespaced.to_owned(),
        };
        (self.collection == namespaced || self.collection == everywhere) && self.name.as_deref().is_none_or(|n| n == name)
    }

    fn tell(&self, event: &Value) -> bool {
        let mut event = event.clone();
        if self.metadata_only {
            let metadata = event["object"]["metadata"].clone();
            event["object"] = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
        }
        self.send.send(event).is_ok()
    }
}

/// A call as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// Path without the leading slash.
    pub path: String,
    pub code: u16,
}

impl Asked {
    /// Whether the call changed, or could have changed, what is stored.
    pub fn is_write(&self) -> bool {
        !["GET", "WATCH"].contains(&self.method.as_str())
            && !self.path.contains("selfsubjectaccessreviews")
            && !self.path.contains("/events")
    }
}

impl ApiServer {
    pub fn new(tekton: Tekton) -> Self {
        Self { inner: Arc::default(), tekton: Arc::new(tekton) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// A client whose calls go through `calls`.
    pub fn client(&self, calls: Arc<Calls>) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (this, calls) = (this.clone(), calls.clone());
            async move { this.take(request, &calls).await }
        });
        Client::new(service, "default")
    }

    async fn take(&self, request: Request<Body>, calls: &Calls) -> io::Result<Response<Answer>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_start_matches('/').to_owned();
        let query: BTreeMap<String, String> = reqwest::Url::parse(&format!("http://cluster/?{}", parts.uri.query().unwrap_or_default()))
            .unwrap()
            .query_pairs()
            .into_owned()
            .collect();
        if query.contains_key("watch") {
            let accept = parts.headers.get("accept").and_then(|v| v.to_str().ok()).unwrap_or_default();
            return Ok(self.watch(&path, &query, accept.contains("PartialObjectMetadata")));
        }
        let body = body.collect_bytes().await.unwrap_or_default();
        // what the caches do, and what follows logs, goes on beside the reconciles
        let cached = path.ends_with("pipelineruns") || path.ends_with("taskruns") || path == "apis/tekton.dev/v1";
        let background = parts.method == Method::GET && (cached || query.contains_key("follow"));
        let what = format!("{} {}", parts.method, named_alike(&path));
        let kind = parts.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let this = self.clone();
        let call = async move {
            let answer = this.serve(&parts.method, &path, &query, &body, &kind);
            this.tekton.clone().go_on(&this);
            answer
        };
        let outcome = if background { Outcome::Answer(call.await) } else { calls.pass(&what, call).await };
        let (code, answer) = match outcome {
            Outcome::Answer(answer) => answer,
            Outcome::Half((code, mut answer)) => {
                answer.truncate(answer.len() / 2);
                (code, answer)
            }
            Outcome::Status(code) => {
                let (code, status) = failure(code, "Unknown", "somebody between answers");
                (StatusCode::from_u16(code).unwrap(), status.to_string().into_bytes())
            }
            Outcome::Broken => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        };
        Ok(Response::builder().status(code).header("content-type", "application/json").body(Answer::from(answer)).unwrap())
    }

    fn serve(&self, method: &Method, path: &str, query: &BTreeMap<String, String>, body: &Bytes, kind: &str) -> (StatusCode, Vec<u8>) {
        let mut inner = self.lock();
        let (code, answer) = if let Some(pod) = path.strip_suffix("/log") {
            let container = query.get("container").cloned().unwrap_or_default();
            match inner.logs.get(&format!("{pod}/{container}")).cloned() {
                Some(text) => {
                    inner.asked.push(Asked { method: "GET".into(), path: path.into(), code: 200 });
                    return (StatusCode::OK, text.into_bytes());
                }
                None => failure(404, "NotFound", "no such pod"),
            }
        } else {
            let (code, mut answer) = inner.serve(method, path, body, kind);
            let name = query.get("fieldSelector").and_then(|fields| fields.strip_prefix("metadata.name="));
            if let (Some(name), Some(items)) = (name, answer["items"].as_array_mut()) {
                items.retain(|item| item["metadata"]["name"] == name);
            }
            (code, answer)
        };
        inner.asked.push(Asked { method: method.to_string(), path: path.to_owned(), code });
        (StatusCode::from_u16(code).unwrap(), answer.to_string().into_bytes())
    }

    fn watch(&self, path: &str, query: &BTreeMap<String, String>, metadata_only: bool) -> Response<Answer> {
        let (send, receive) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        let name = query.get("fieldSelector").map(|fields| fields.strip_prefix("metadata.name=").expect("one object").to_owned());
        let forbidden = inner.forbidden.contains(path);
        if let Some(name) = &name {
            let code = if forbidden { 403 } else { 200 };
            inner.asked.push(Asked { method: "WATCH".into(), path: format!("{path}/{name}"), code });
        }
        if forbidden {
            let (code, answer) = failure(403, "Forbidden", "that is forbidden");
            return Response::builder().status(code).body(Answer::from(answer.to_string())).unwrap();
        }
        let since: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or_default();
        if since > 0 && since < inner.compacted {
            let gone = json!({"type": "ERROR", "object": failure(410, "Expired", "too old resource version").1});
            return Response::builder().status(200).body(Answer::from(format!("{gone}\n").into_bytes())).unwrap();
        }
        let watcher = Watcher { collection: path.to_owned(), name, metadata_only, send };
        if since == 0 {
            for (_, object) in inner.objects.iter().filter(|(path, _)| watcher.sees(path)) {
                watcher.tell(&json!({"type": "ADDED", "object": object}));
            }
        } else {
            for (_, _, event) in inner.history.iter().filter(|(version, of, _)| *version > since && watcher.sees(of)) {
                watcher.tell(event);
            }
        }
        inner.watchers.push(watcher);
        let lines = futures::stream::unfold(receive, |mut receive| async move {
            let event = receive.recv().await?;
            Some((Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))), receive))
        });
        Response::builder().status(200).body(Answer::from_stream(lines.boxed())).unwrap()
    }

    /// From now on nobody may watch that collection, or everybody may.
    pub fn forbid(&self, collection: &str, forbidden: bool) {
        let mut inner = self.lock();
        if forbidden {
            inner.forbidden.insert(collection.to_owned())
        } else {
            inner.forbidden.remove(collection)
        };
    }

    /// How many watches there are now of the object alone; each must be of metadata only.
    pub fn watches_of(&self, path: &str) -> usize {
        let inner = self.lock();
        let alone: Vec<_> = inner.watchers.iter().filter(|w| w.name.is_some() && w.sees(path) && !w.send.is_closed()).collect();
        assert!(alone.iter().all(|w| w.metadata_only), "the contents of {path} are watched");
        alone.len()
    }

    /// Stores an object as its path says.
    pub fn put(&self, path: &str, object: Value) {
        let mut inner = self.lock();
        let object = inner.dressed(path, object);
        inner.store(path, object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// Changes an object as a person would: a changed spec counts as a generation.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut inner = self.lock();
        let Some(old) = inner.objects.get(path).cloned() else { return };
        let mut new = old.clone();
        change(&mut new);
        inner.replace(path, &old, new);
    }

    /// Deletes an object: at once, or when its finalizers are gone.
    pub fn delete(&self, path: &str) {
        let _ = self.lock().serve(&Method::DELETE, path, &Bytes::new(), "");
    }

    /// Deletes a pod with its logs, as the loss of a node does.
    pub fn lose_pod(&self, path: &str) {
        self.delete(path);
        self.lock().logs.retain(|log, _| !log.starts_with(path));
    }

    /// From now on watchers hear nothing.
    pub fn silence(&self) {
        self.lock().silent = true;
    }

    /// Breaks every watch off; new ones hear what they missed, or, when the history is `gone`, that they must list again.
    pub fn resume(&self, gone: bool) {
        let mut inner = self.lock();
        inner.silent = false;
        inner.watchers.clear();
        if gone {
            inner.version += 1;
            inner.compacted = inner.version;
        }
    }

    pub fn set_log(&self, pod: &str, container: &str, text: &str) {
        self.lock().logs.insert(format!("{pod}/{container}"), text.to_owned());
    }

    /// Paths of the objects whose path holds `part`.
    pub fn paths(&self, part: &str) -> Vec<String> {
        self.lock().objects.keys().filter(|path| path.contains(part)).cloned().collect()
    }

    /// Every version of an object that was ever stored.
    pub fn versions(&self, path: &str) -> Vec<Value> {
        let (name, inner) = (path.rsplit('/').next().unwrap(), self.lock());
        let events = inner.history.iter().map(|(_, _, event)| &event["object"]);
        events.filter(|o| o["metadata"]["name"] == name && path.contains("/patchruns/") && o["kind"] == "PatchRun").cloned().collect()
    }

    /// Path and content of every version of every object that was ever stored.
    pub fn everything(&self) -> Vec<(String, Value)> {
        self.lock().history.iter().map(|(_, path, event)| (path.clone(), event["object"].clone())).collect()
    }

    /// Whether an object of that path was ever deleted.
    pub fn was_deleted(&self, path: &str) -> bool {
        let (_, name) = path.rsplit_once('/').unwrap();
        self.lock().history.iter().any(|(_, _, event)| event["type"] == "DELETED" && event["object"]["metadata"]["name"] == name)
    }

    /// Grows with every write.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    pub fn forget(&self) {
        self.lock().asked.clear();
    }
}

impl Inner {
    fn dressed(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let (collection, name) = path.rsplit_once('/').unwrap();
        let namespace = path.split_once("namespaces/").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
        let meta = &mut object["metadata"];
        meta["name"] = json!(name);
        meta["namespace"] = json!(namespace);
        meta["uid"] = json!(format!("uid-{}", self.version));
        meta["generation"] = json!(1);
        meta["creationTimestamp"] = json!("2026-11-21T00:00:00Z");
        meta["resourceVersion"] = json!(self.version.to_string());
        let (kind, version) = match collection.rsplit('/').next().unwrap() {
            "patchruns" => ("PatchRun", "fettle.dev/v1alpha1"),
            "automationconnections" => ("AutomationConnection", "fettle.dev/v1alpha1"),
            "pipelineruns" => ("PipelineRun", "tekton.dev/v1"),
            "pipelines" => ("Pipeline", "tekton.dev/v1"),
            "taskruns" => ("TaskRun", "tekton.dev/v1"),
            "configmaps" => ("ConfigMap", "v1"),
            "secrets" => ("Secret", "v1"),
            "pods" => ("Pod", "v1"),
            "namespaces" => ("Namespace", "v1"),
            "services" => ("Service", "v1"),
            "endpointslices" => ("EndpointSlice", "discovery.k8s.io/v1"),
            "events" => ("Event", "events.k8s.io/v1"),
            other => panic!("nobody serves {other}"),
        };
        (object["kind"], object["apiVersion"]) = (json!(kind), json!(version));
        object
    }

    /// Stores what is complete, and tells the watchers.
    fn store(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let word = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.to_owned(), object.clone());
        self.tell(path, word, &object);
    }

    fn tell(&mut self, path: &str, word: &str, object: &Value) {
        let event = json!({"type": word, "object": object});
        let heard = !self.silent;
        self.watchers.retain(|watcher| !heard || !watcher.sees(path) || watcher.tell(&event));
        self.history.push((self.version, path.to_owned(), event));
    }

    fn replace(&mut self, path: &str, old: &Value, mut new: Value) {
        if new["spec"] != old["spec"] {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let finalizers = new["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
        if new["metadata"]["deletionTimestamp"].is_string() && finalizers == 0 {
            self.objects.remove(path);
            self.version += 1;
            self.tell(path, "DELETED", &new);
        } else if new != *old {
            self.store(path, new);
        }
    }

    fn serve(&mut self, method: &Method, path: &str, body: &Bytes, kind: &str) -> (u16, Value) {
        if path == "apis/tekton.dev/v1" {
            let resource =
                json!({"name": "pipelineruns", "kind": "PipelineRun", "namespaced": true, "singularName": "", "verbs": ["list"]});
            return (200, json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "tekton.dev/v1", "resources": [resource]}));
        }
        if path.contains("selfsubjectaccessreviews") {
            let mut review: Value = serde_json::from_slice(body).unwrap();
            review["status"] = json!({"allowed": true});
            return (201, review);
        }
        if self.forbidden.contains(path) {
            return failure(403, "Forbidden", "that is forbidden");
        }
        let status = path.ends_with("/status");
        let at = path.trim_end_matches("/status");
        let parsed = || serde_json::from_slice::<Value>(body).unwrap();
        let found = self.objects.get(at).cloned();
        match (method.as_str(), found) {
            ("GET", Some(found)) => (200, found),
            ("GET", None) if is_collection(at) => (200, self.list(at)),
            ("POST", _) => {
                let new = parsed();
                let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let name = if name.is_empty() { format!("generated-{}", self.version) } else { name };
                let at = format!("{at}/{name}");
                if self.objects.contains_key(&at) {
                    return failure(409, "AlreadyExists", "it exists");
                }
                let new = self.dressed(&at, new);
                self.store(&at, new);
                (201, self.objects[&at].clone())
            }
            (_, None) => failure(404, "NotFound", "it is not there"),
            ("PUT", Some(old)) => {
                let new = parsed();
                if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
                    || new["metadata"]["uid"] != old["metadata"]["uid"]
                {
                    return failure(409, "Conflict", "somebody wrote it");
                }
                let mut next = if status { old.clone() } else { new.clone() };
                next["status"] = if status { new["status"].clone() } else { old["status"].clone() };
                self.replace(at, &old, next);
                (200, self.objects.get(at).cloned().unwrap_or(old))
            }
            ("PATCH", Some(old)) => {
                let mut next = old.clone();
                if kind.contains("json-patch") {
                    for op in parsed().as_array().unwrap() {
                        let pointer = op["path"].as_str().unwrap();
                        let there = next.pointer(pointer).cloned().unwrap_or(Value::Null);
                        match op["op"].as_str().unwrap() {
                            "test" if there != op["value"] => return failure(422, "Invalid", "a test of the patch failed"),
                            "test" => {}
                            _ => {
                                let (parent, key) = pointer.rsplit_once('/').unwrap();
                                next.pointer_mut(parent).unwrap()[key] = op["value"].clone();
                            }
                        }
                    }
                } else {
                    let change = parsed();
                    // what a patch says about the identity of the object is a condition
                    let differs = |field: &str| !change["metadata"][field].is_null() && change["metadata"][field] != old["metadata"][field];
                    if differs("uid") || differs("resourceVersion") {
                        return failure(409, "Conflict", "somebody wrote it");
                    }
                    merge(&mut next, &change);
                }
                let grew = next["metadata"]["finalizers"].as_array().map_or(0, Vec::len)
                    > old["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
                if grew && old["metadata"]["deletionTimestamp"].is_string() {
                    return failure(422, "Invalid", "no new finalizers can be added if the object is being deleted");
                }
                self.replace(at, &old, next);
                (200, self.objects.get(at).cloned().unwrap_or(old))
            }
            ("DELETE", Some(old)) => {
                let mut next = old.clone();
                next["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
                self.replace(at, &old, next);
                (200, old)
            }
            (other, Some(_)) => panic!("nobody serves {other}"),
        }
    }

    fn list(&self, collection: &str) -> Value {
        let (head, plural) = collection.rsplit_once('/').unwrap();
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, _)| path.starts_with(head) && path.rsplit('/').nth(1) == Some(plural))
            .map(|(_, object)| object)
            .collect();
        let (version, kind) = items
            .first()
            .map_or((json!("tekton.dev/v1"), "X".to_owned()), |i| (i["apiVersion"].clone(), i["kind"].as_str().unwrap().to_owned()));
        json!({"apiVersion": version, "kind": format!("{kind}List"), "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }
}

/// The path with a shard of the ledger by its number: the rest of its name is that of the controller, which is another in each world.
fn named_alike(path: &str) -> String {
    match path.split_once("fettle-ledger-") {
        Some((head, name)) => format!("{head}fettle-ledger-{}", name.rsplit('-').next().unwrap_or_default()),
        None => path.to_owned(),
    }
}

fn is_collection(path: &str) -> bool {
    ["pipelineruns", "taskruns", "patchruns", "automationconnections", "configmaps"].iter().any(|plural| path.ends_with(plural))
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}))
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}
