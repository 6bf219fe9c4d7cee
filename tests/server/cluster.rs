//! PatchRuns and `ConfigMaps` as an API server keeps them: versions, watches, labels, and the rules of the schema.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::rules::refusals;

#[derive(Clone)]
pub struct Cluster(Arc<Mutex<Inner>>);

struct Inner {
    version: u64,
    /// By path without the leading slash: `apis/fettle.dev/v1alpha1/namespaces/patching/patchruns/web`.
    objects: BTreeMap<String, Value>,
    /// Version, path and event.
    history: Vec<(u64, String, Value)>,
    news: broadcast::Sender<(String, Value)>,
    /// Method and path of every call.
    asked: Vec<String>,
    /// Collections that were watched.
    watched: Vec<String>,
    /// What the next creations are answered with.
    moods: VecDeque<Mood>,
}

/// How a creation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// The object is made, and the answer is lost.
    AnswerLost,
    /// Somebody created the same a moment before.
    Beaten,
    /// Refused, as by a quota.
    Refused,
}

impl Default for Cluster {
    fn default() -> Self {
        let inner = Inner {
            version: 1,
            objects: BTreeMap::new(),
            history: vec![],
            news: broadcast::channel(10_000).0,
            asked: vec![],
            watched: vec![],
            moods: VecDeque::new(),
        };
        Self(Arc::new(Mutex::new(inner)))
    }
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code}),
    )
}

pub fn run_path(namespace: &str, name: &str) -> String {
    format!("apis/fettle.dev/v1alpha1/namespaces/{namespace}/patchruns/{name}")
}

/// Whether a collection, of a namespace or of all, holds the object of that path.
fn holds(collection: &str, path: &str) -> bool {
    let (of, _) = path.rsplit_once('/').unwrap();
    let everywhere = of.split_once("namespaces/").map(|(head, rest)| format!("{head}{}", rest.split_once('/').unwrap().1));
    collection == of || everywhere.as_deref() == Some(collection)
}

impl Cluster {
    pub fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().store(path, object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    pub fn run(&self, namespace: &str, name: &str) -> Value {
        self.get(&run_path(namespace, name)).unwrap_or_else(|| panic!("no {namespace}/{name}"))
    }

    pub fn delete(&self, path: &str) {
        let mut inner = self.0.lock().unwrap();
        let object = inner.objects.remove(path).unwrap();
        inner.tell(path, "DELETED", object);
    }

    /// Lays `change` over the status of a run.
    pub fn status(&self, namespace: &str, name: &str, change: &Value) {
        let mut run = self.run(namespace, name);
        for (key, value) in change.as_object().unwrap() {
            run["status"][key] = value.clone();
        }
        self.put(&run_path(namespace, name), run);
    }

    /// The names of the runs, in the order of their creation.
    pub fn runs(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap();
        let mut runs: Vec<_> = inner.objects.iter().filter(|(path, _)| path.contains("/patchruns/")).map(|(_, run)| run.clone()).collect();
        runs.sort_by_key(|run| run["metadata"]["uid"].as_str().unwrap_or_default().trim_start_matches("uid-").parse::<u64>().unwrap_or(0));
        runs.iter().map(|run| run["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    pub fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    /// How often a collection was watched.
    pub fn watches(&self, collection: &str) -> usize {
        self.0.lock().unwrap().watched.iter().filter(|path| *path == collection).count()
    }

    /// Every version of every object.
    pub fn everything(&self) -> String {
        format!("{:?}", self.0.lock().unwrap().history)
    }

    pub fn next_creation(&self, mood: Mood) {
        self.0.lock().unwrap().moods.push_back(mood);
    }
}

impl Inner {
    fn tell(&mut self, path: &str, word: &str, object: Value) {
        self.version += 1;
        let event = json!({"type": word, "object": object});
        self.history.push((self.version, path.to_owned(), event.clone()));
        let _ = self.news.send((path.to_owned(), event));
    }

    fn store(&mut self, path: &str, mut object: Value) {
        let next = self.version + 1;
        let word = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        let (collection, name) = path.rsplit_once('/').unwrap();
        let namespace = collection.split_once("namespaces/").unwrap().1.split('/').next().unwrap();
        let meta = &mut object["metadata"];
        (meta["name"], meta["namespace"], meta["resourceVersion"]) = (json!(name), json!(namespace), json!(next.to_string()));
        if word == "ADDED" {
            meta["uid"] = json!(format!("uid-{next}"));
            if meta["creationTimestamp"].is_null() {
                meta["creationTimestamp"] = json!(fettle::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            }
        }
        let patch_run = collection.ends_with("patchruns");
        object["kind"] = json!(if patch_run { "PatchRun" } else { "ConfigMap" });
        object["apiVersion"] = json!(if patch_run { "fettle.dev/v1alpha1" } else { "v1" });
        self.objects.insert(path.to_owned(), object.clone());
        self.tell(path, word, object);
    }

    fn create(&mut self, collection: &str, object: Value) -> (u16, Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let path = format!("{collection}/{name}");
        let mood = self.moods.pop_front();
        if mood == Some(Mood::Refused) {
            return failure(403, "Forbidden", "exceeded quota: patchruns");
        }
        if mood == Some(Mood::Beaten) {
            self.store(&path, object.clone());
        }
        if self.objects.contains_key(&path) {
            return failure(409, "AlreadyExists", "it exists");
        }
        if let Some(message) = refusals("PatchRun", &object, None).into_iter().next() {
            return failure(422, "Invalid", &format!("PatchRun.fettle.dev \"{name}\" is invalid: {message}"));
        }
        self.store(&path, object);
        if mood == Some(Mood::AnswerLost) {
            return failure(500, "InternalError", "the answer was lost");
        }
        (201, self.objects[&path].clone())
    }

    fn patch(&mut self, path: &str, kind: &str, body: &Bytes) -> (u16, Value) {
        let change: Value = serde_json::from_slice(body).unwrap();
        let Some(mut object) = self.objects.get(path).cloned() else {
            if kind.contains("apply") {
                self.store(path, change);
                return (200, self.objects[path].clone());
            }
            return failure(404, "NotFound", "not found");
        };
        if kind.contains("json-patch") {
            for step in change.as_array().unwrap() {
                let pointer = step["path"].as_str().unwrap();
                match step["op"].as_str().unwrap() {
                    "test" if object.pointer(pointer) != Some(&step["value"]) => {
                        return failure(422, "Invalid", "the server rejected our request due to an error in our request");
                    }
                    "test" => {}
                    _ => {
                        let (parent, key) = pointer.rsplit_once('/').unwrap();
                        object.pointer_mut(parent).unwrap()[key] = step["value"].clone();
                    }
                }
            }
        } else {
            object["data"] = change["data"].clone();
        }
        self.store(path, object);
        (200, self.objects[path].clone())
    }

    fn list(&self, collection: &str, query: &BTreeMap<String, String>) -> Value {
        let (label, value) = query.get("labelSelector").and_then(|s| s.split_once('=')).unwrap_or_default();
        let field = query.get("fieldSelector").and_then(|s| s.strip_prefix("metadata.name="));
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, _)| holds(collection, path))
            .map(|(_, object)| object)
            .filter(|object| label.is_empty() || object["metadata"]["labels"][label] == value)
            .filter(|object| field.is_none_or(|name| object["metadata"]["name"] == name))
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items})
    }
}

pub async fn serve(State(cluster): State<Cluster>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let query: BTreeMap<String, String> =
        reqwest::Url::parse(&format!("http://x/?{}", parts.uri.query().unwrap_or_default())).unwrap().query_pairs().into_owned().collect();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut inner = cluster.0.lock().unwrap();
    if query.contains_key("watch") {
        inner.watched.push(path.clone());
        return watch(&inner, path, &query);
    }
    inner.asked.push(format!("{} {path}", parts.method));
    let collection = path.ends_with("patchruns") || path.ends_with("configmaps");
    let (code, answer) = match parts.method {
        Method::GET if collection => (200, inner.list(&path, &query)),
        Method::GET => inner.objects.get(&path).map_or_else(|| failure(404, "NotFound", "not found"), |object| (200, object.clone())),
        Method::POST => inner.create(&path, serde_json::from_slice(&body).unwrap()),
        Method::PATCH => inner.patch(&path, parts.headers["content-type"].to_str().unwrap(), &body),
        other => panic!("nobody serves {other}"),
    };
    (StatusCode::from_u16(code).unwrap(), axum::Json(answer)).into_response()
}

fn watch(inner: &Inner, collection: String, query: &BTreeMap<String, String>) -> Response {
    let since: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or_default();
    let field = query.get("fieldSelector").and_then(|s| s.strip_prefix("metadata.name=")).map(str::to_owned);
    let fits = move |path: &str| holds(&collection, path) && field.as_ref().is_none_or(|name| path.ends_with(&format!("/{name}")));
    let missed: Vec<Value> =
        inner.history.iter().filter(|(version, path, _)| *version > since && fits(path)).map(|(.., event)| event.clone()).collect();
    let line = |event: &Value| Ok::<_, Infallible>(Bytes::from(format!("{event}\n")));
    let begin = futures::stream::iter(missed.iter().map(line).collect::<Vec<_>>());
    let news = futures::stream::unfold((inner.news.subscribe(), fits), move |(mut news, fits)| async move {
        loop {
            let (path, event) = news.recv().await.ok()?;
            if fits(&path) {
                return Some((line(&event), (news, fits)));
            }
        }
    });
    Body::from_stream(futures::StreamExt::chain(begin, news)).into_response()
}
