//! A connection does not lead to the cluster's own API server, wherever that is at the time.

use std::{sync::Arc, time::Duration};

use fettle::{
    clients::http::{Denied, UrlPolicy},
    controllers::api_addresses,
};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    apiserver::ApiServer,
    bed::{Bed, NAMESPACE, base64, connection_path},
    tekton::Tekton,
};

const SERVICE: &str = "api/v1/namespaces/default/services/kubernetes";
const SLICE: &str = "apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

fn cluster() -> ApiServer {
    let api = ApiServer::new(Tekton::default());
    api.put(SERVICE, json!({"spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 443}]}}));
    api.put(SLICE, json!({"addressType": "IPv4", "ports": [{"port": 6443}], "endpoints": [{"addresses": ["192.168.1.10"]}]}));
    api
}

/// Which of these addresses are refused.
fn refused<'a>(policy: &UrlPolicy, urls: &[&'a str]) -> Vec<&'a str> {
    urls.iter().copied().filter(|url| policy.check_url(url).is_err()).collect()
}

const URLS: [&str; 5] =
    ["https://10.0.0.1", "https://10.96.0.1", "https://192.168.1.10:6443", "https://192.168.1.10", "https://192.168.1.11:6443"];

fn fixed() -> Vec<Denied> {
    vec![Denied { address: "10.0.0.1".parse().unwrap(), port: None }]
}

#[tokio::test(start_paused = true)]
async fn api_servers_are_refused_as_they_come_and_go() {
    let (api, stop) = (cluster(), CancellationToken::new());
    let denied = api_addresses::start(api.client(Arc::default()), fixed(), stop.clone()).await;
    let policy = UrlPolicy { denied, ..UrlPolicy::default() };
    assert_eq!(refused(&policy, &URLS), ["https://10.0.0.1", "https://10.96.0.1", "https://192.168.1.10:6443"]);
    api.edit(SLICE, |slice| slice["endpoints"][0]["addresses"][0] = json!("192.168.1.11"));
    sleep(Duration::from_mins(2)).await;
    let now = ["https://10.0.0.1", "https://10.96.0.1", "https://192.168.1.11:6443"];
    assert_eq!(refused(&policy, &URLS), now);
    // what was known stays
    api.forbid(SLICE, true);
    sleep(Duration::from_mins(2)).await;
    assert_eq!(refused(&policy, &URLS), now);
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_no_failure_and_is_asked_for_again() {
    let (api, stop) = (cluster(), CancellationToken::new());
    api.forbid(SERVICE, true);
    let denied = api_addresses::start(api.client(Arc::default()), fixed(), stop.clone()).await;
    let policy = UrlPolicy { denied, ..UrlPolicy::default() };
    assert_eq!(refused(&policy, &URLS), ["https://10.0.0.1"]);
    api.forbid(SERVICE, false);
    sleep(Duration::from_mins(2)).await;
    assert_eq!(refused(&policy, &URLS).len(), 3);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_go_only_to_the_origin_they_name() {
    let mut bed = Bed::new().await;
    let path = format!("api/v1/namespaces/{NAMESPACE}/secrets/aap-read");
    let other = |bed: &Bed, origin: Option<&str>| {
        let annotations = origin.map_or(json!({}), |origin| json!({"fettle.dev/origin": origin}));
        bed.api.put(&path, json!({"metadata": {"annotations": annotations}, "data": {"token": base64("read-token")}}));
    };
    let near = format!("{}0", bed.proxy.url);
    let origins = [None, Some(""), Some("https://aap.example.com"), Some("http://127.0.0.1"), Some(near.as_str())];
    for (number, origin) in origins.into_iter().enumerate() {
        other(&bed, origin);
        let name = format!("web-{number}");
        bed.apply(&name, json!({"phases": ["precheck"], "startBy": null}));
        bed.drive(&name, 60, |bed| bed.reason(&name) == "AwaitingCredentials").await;
        assert!(bed.message(&name).contains("does not say that it is for"), "{origin:?}: {}", bed.message(&name));
        bed.kill();
    }
    assert_eq!(bed.aap.count("GET", "/me/"), 0, "credentials were sent");
    // a connection that is changed to lead elsewhere leaves them behind
    bed.secret(NAMESPACE, "aap-read", "read-token");
    bed.api.edit(&connection_path(NAMESPACE), |connection| connection["spec"]["url"] = json!(bed.aap.url));
    bed.apply("moved", json!({"phases": ["precheck"], "startBy": null}));
    bed.drive("moved", 60, |bed| bed.reason("moved") == "AwaitingCredentials").await;
    assert!(bed.message("moved").contains("does not say that it is for"), "{}", bed.message("moved"));
}
