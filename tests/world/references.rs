//! What becomes of a connection when something it refers to changes.

use std::{sync::Arc, time::Duration};

use fettle::{
    api::automation_connection::AutomationConnection,
    controllers::reference_watch::{Kind, Reference, ReferenceWatch, references},
};
use futures::StreamExt as _;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    apiserver::ApiServer,
    bed::{Bed, NAMESPACE, connection_path},
    tekton::Tekton,
};

/// Shorter than the time after which a connection that is ready is looked at anyway.
const LIMIT: Duration = Duration::from_secs(30);

fn config_map(name: &str) -> String {
    format!("api/v1/namespaces/{NAMESPACE}/configmaps/{name}")
}

fn secret(name: &str) -> String {
    format!("api/v1/namespaces/{NAMESPACE}/secrets/{name}")
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to be: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

impl Bed {
    /// Reason of the connection's condition `Ready`.
    fn ready(&self) -> String {
        let connection: AutomationConnection = serde_json::from_value(self.api.get(&connection_path(NAMESPACE)).unwrap()).unwrap();
        let conditions = connection.status.unwrap_or_default().conditions;
        conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.reason).unwrap_or_default()
    }

    fn pings(&self) -> usize {
        self.aap.count("GET", "/ping/")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_credentials_that_are_replaced_are_tried_at_once() {
    let bed = Bed::new().await;
    let _manager = bed.controllers();
    until("ready", || bed.ready() == "Ready").await;
    until("a watch", || bed.api.watches_of(&secret("aap-read")) == 1).await;
    bed.secret(NAMESPACE, "aap-read", "no-token");
    until("rejected", || bed.ready() == "CredentialsRejected").await;
    assert_eq!(bed.api.watches_of(&secret("aap-change")), 0, "credentials of changes are never watched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_bundle_that_is_replaced_is_used_at_once() {
    let bed = Bed::new().await;
    let pem = rcgen::generate_simple_self_signed(["aap.example.com".to_owned()]).unwrap().cert.pem();
    bed.api.put(&config_map("ca"), json!({"data": {"ca.crt": pem}}));
    bed.api.edit(&connection_path(NAMESPACE), |connection| {
        connection["spec"]["caBundle"] = json!({"configMapKeyRef": {"name": "ca", "key": "ca.crt"}});
    });
    let _manager = bed.controllers();
    until("ready", || bed.ready() == "Ready").await;
    until("a watch", || bed.api.watches_of(&config_map("ca")) == 1).await;
    bed.api.edit(&config_map("ca"), |map| map["data"]["ca.crt"] = json!("nothing"));
    until("refused", || bed.ready() == "ConnectionInvalid").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_changes_nothing_costs_a_look_and_no_write() {
    let bed = Bed::new().await;
    let _manager = bed.controllers();
    until("ready", || bed.ready() == "Ready").await;
    // what was there already is announced once
    until("a watch", || bed.api.watches_of(&secret("aap-read")) == 1).await;
    until("a second look", || bed.pings() >= 2).await;
    sleep(Duration::from_secs(3)).await;
    bed.api.forget();
    let before = bed.pings();
    bed.api.edit(&secret("aap-read"), |secret| secret["metadata"]["labels"] = json!({"rotated": "no"}));
    until("a look", || bed.pings() > before).await;
    assert_eq!(bed.writes(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_shared_and_ends_with_the_last_connection_that_wants_it() {
    let bed = Bed::new().await;
    let other = connection_path(NAMESPACE).replace("prod", "other");
    let spec = bed.api.get(&connection_path(NAMESPACE)).unwrap()["spec"].clone();
    bed.api.put(&other, json!({"spec": spec}));
    let _manager = bed.controllers();
    until("both", || bed.api.get(&other).unwrap()["status"].is_object() && bed.ready() == "Ready").await;
    until("a watch", || bed.api.watches_of(&config_map("known-hosts")) == 1).await;
    bed.api.edit(&connection_path(NAMESPACE), |connection| {
        connection["spec"].as_object_mut().unwrap().remove("checks");
    });
    until("noticed", || bed.api.get(&connection_path(NAMESPACE)).unwrap()["status"]["observedGeneration"] == 2).await;
    assert_eq!(bed.api.watches_of(&config_map("known-hosts")), 1, "the other one wants it still");
    bed.api.delete(&other);
    // a look at what is gone
    bed.api.put(&config_map("known-hosts"), json!({"data": {}}));
    until("no watch", || bed.api.watches_of(&config_map("known-hosts")) == 0).await;
    assert_eq!(bed.api.watches_of(&secret("aap-read")), 1);
}

fn connection(spec: serde_json::Value) -> AutomationConnection {
    let mut all = json!({"url": "https://aap.example.com", "inventory": "fleet"});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let mut connection = AutomationConnection::new("prod", serde_json::from_value(all).unwrap());
    connection.metadata.namespace = Some(NAMESPACE.into());
    connection
}

#[test]
fn the_secret_of_the_changes_is_never_watched_whatever_else_it_is_used_for() {
    let both = connection(json!({
        "credentials": {"secretRef": {"name": "aap"}}, "readCredentials": {"secretRef": {"name": "aap"}},
        "caBundle": {"secretKeyRef": {"name": "aap", "key": "ca.crt"}},
        "checks": {"sshKeySecretRef": {"name": "ssh"}, "knownHostsRef": {"name": "known"}, "inventory": {"name": "hosts"}},
    }));
    let found: Vec<_> = references(&both).into_iter().map(|r| (r.kind, r.name)).collect();
    assert_eq!(found, [(Kind::ConfigMap, "hosts".to_owned()), (Kind::ConfigMap, "known".to_owned())]);
}

/// A missing right is asked about every ten minutes, and a right that is given is used.
#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_allowed_is_seldom_asked_for() {
    let api = ApiServer::new(Tekton::default());
    let secrets = format!("api/v1/namespaces/{NAMESPACE}/secrets");
    api.forbid(&secrets, true);
    api.put(&secret("aap-read"), json!({"data": {}}));
    let (watch, mut changes) = ReferenceWatch::new(api.client(Arc::default()));
    let connection = connection(json!({"readCredentials": {"secretRef": {"name": "aap-read"}}}));
    let asked = || api.asked().iter().map(|asked| asked.code).collect::<Vec<_>>();
    for _ in 0..9 {
        watch.follow(&connection);
        sleep(Duration::from_mins(1)).await;
        assert_eq!(asked(), [403]);
    }
    sleep(Duration::from_mins(2)).await;
    assert_eq!(asked(), [403, 403]);
    api.forbid(&secrets, false);
    let announced = changes.next().await.unwrap();
    assert_eq!(announced, Reference { kind: Kind::Secret, namespace: NAMESPACE.into(), name: "aap-read".into() });
    assert_eq!(asked(), [403, 403, 200]);
    watch.leave(NAMESPACE, "prod");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(api.watches_of(&secret("aap-read")), 0);
}
