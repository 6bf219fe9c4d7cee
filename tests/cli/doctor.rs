//! `kubectl fettle doctor`: what is in order, what is not, and what mends it.

use fettle::api;
use serde_json::{Value, json};

use crate::{
    bed::{Bed, CONNECTIONS, Said},
    server,
};

fn resources(group: &str, names: &[&str]) -> Value {
    let resources: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "kind": "X", "namespaced": true, "singularName": "", "verbs": ["list"]})).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources})
}

fn deployment(name: &str, available: i32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "status": {"availableReplicas": available}})
}

const BINDINGS: &str = "apis/rbac.authorization.k8s.io/v1/namespaces/patching/rolebindings";

/// A cluster in which a first run would work.
async fn ready() -> (Bed, server::Bed) {
    let (bed, server) = (Bed::new().await, server::Bed::new().await);
    let me = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "status": {"userInfo": {"username": "alice@example.com"}}});
    bed.instead("POST", "apis/authentication.k8s.io/v1/selfsubjectreviews", 201, me);
    let version = json!({"major": "1", "minor": "34", "gitVersion": "v1.34.1", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
        "compiler": "", "platform": ""});
    bed.instead("GET", "version", 200, version);
    let all = api::all();
    let plurals: Vec<&str> = all.iter().map(|crd| crd.spec.names.plural.as_str()).collect();
    bed.instead("GET", "apis/fettle.dev/v1alpha1", 200, resources("fettle.dev/v1alpha1", &plurals));
    for crd in &all {
        let name = crd.metadata.name.as_ref().unwrap();
        bed.instead(
            "GET",
            &format!("apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"),
            200,
            serde_json::to_value(crd).unwrap(),
        );
    }
    for name in ["fettle-manager", "fettle-server"] {
        bed.instead("GET", &format!("apis/apps/v1/namespaces/fettle-system/deployments/{name}"), 200, deployment(name, 1));
    }
    let config = json!({"INSTALLATION": "east", "SERVER_URL": "https://fettle.example.com", "CHECKS_IMAGE": "checks:1"});
    bed.api.put("api/v1/namespaces/fettle-system/configmaps/fettle-config", json!({"data": config}));
    let condition =
        json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-11-21T10:00:00Z"}]);
    bed.api.edit(&format!("{CONNECTIONS}/prod"), |connection| {
        connection["status"] = json!({"flavour": "AWX", "version": "24.6.1", "conditions": condition});
    });
    let binding = json!({"metadata": {"name": "fettle-tenant"}, "roleRef": {"apiGroup": "", "kind": "ClusterRole", "name": "fettle-tenant"},
        "subjects": [{"kind": "ServiceAccount", "name": "fettle-manager", "namespace": "fettle-system"}]});
    bed.instead(
        "GET",
        BINDINGS,
        200,
        json!({"kind": "RoleBindingList", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {}, "items": [binding]}),
    );
    let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "fettle-checks"}});
    bed.instead("GET", "api/v1/namespaces/patching/serviceaccounts/fettle-checks", 200, account);
    let ca = std::fs::read_to_string(server.directory.path().join("tls/ca.crt")).unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    bed.api.put("api/v1/namespaces/fettle-system/configmaps/fettle-server-ca", json!({"data": {"ca.crt": ca, "url": url}}));
    (bed, server)
}

/// The line that has this text, and that it mends.
#[track_caller]
fn line<'s>(said: &'s Said, text: &str) -> &'s str {
    said.out.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {}", said.all()))
}

#[tokio::test]
async fn what_is_in_order_is_said_to_be() {
    let (bed, _server) = ready().await;
    let said = bed.fettle("doctor").await.expect(0);
    assert!(said.out.lines().all(|line| line.starts_with("ok ")), "{}", said.all());
    for part in [
        "v1.34.1",
        "PatchRun is there",
        "Tekton Pipelines is there",
        "installation east",
        "prod is ready (AWX 24.6.1)",
        "it knows you",
        "the history can be read",
    ] {
        line(&said, part);
    }
    let findings: Value = serde_json::from_str(&bed.fettle("doctor -o json").await.expect(0).out).unwrap();
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["level"] == "ok"));
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_mends_it() {
    let (bed, _server) = ready().await;
    bed.instead("GET", "apis/tekton.dev/v1", 404, json!("404 page not found"));
    bed.instead("GET", "apis/apps/v1/namespaces/fettle-system/deployments/fettle-server", 200, deployment("fettle-server", 0));
    bed.instead(
        "GET",
        BINDINGS,
        200,
        json!({"kind": "RoleBindingList", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {}, "items": []}),
    );
    bed.forbid("GET", "api/v1/namespaces/patching/serviceaccounts/fettle-checks");
    bed.instead("POST", "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 201, json!({"spec": {}, "status": {"allowed": false}}));
    bed.api.edit(&format!("{CONNECTIONS}/prod"), |connection| {
        connection["status"]["conditions"][0]["status"] = json!("False");
        connection["status"]["conditions"][0]["message"] = json!("no route to \u{1b}[2Jhost");
    });
    let said = bed.fettle("doctor").await.expect(1);
    for (level, part) in [
        ("warn", "Tekton Pipelines is not there"),
        ("FAIL", "Deployment fettle-server in namespace fettle-system has no pod that is ready"),
        ("FAIL", "the manager may not work in namespace patching"),
        ("warn", "the ServiceAccount of the checks cannot be looked at"),
        ("FAIL", "you may not look at runs and connections in namespace patching (get patchruns,"),
        ("FAIL", "you may not create and change runs in namespace patching (create patchruns, patch patchruns)"),
        ("FAIL", "prod is not ready: Ready: no route to \u{fffd}[2Jhost"),
    ] {
        assert!(line(&said, part).starts_with(level), "{}", said.all());
    }
    line(&said, "kubectl -n patching apply -k config/tenant");
    line(&said, "create rolebinding fettle-editor-alice_example.com --clusterrole=fettle-editor --user='alice@example.com'");
}

#[tokio::test]
async fn a_cluster_without_fettle_fails() {
    let (bed, _server) = ready().await;
    bed.instead("GET", "apis/fettle.dev/v1alpha1", 404, json!("404 page not found"));
    let said = bed.fettle("doctor").await.expect(1);
    assert!(line(&said, "the cluster does not serve PatchRun").starts_with("FAIL"));
    line(&said, "kubectl apply --server-side -k config/crd");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_fails() {
    let (bed, _server) = ready().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = bed.fettle(&format!("doctor --server https://{free}")).await.expect(1);
    assert!(line(&said, "cannot reach fettle-server").starts_with("FAIL"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bed.kubeconfig(&format!("http://{free}"), json!({}));
    bed.fettle("doctor").await.expect(3);
}

#[tokio::test]
async fn a_kubeconfig_without_a_token_is_warned_of() {
    let (bed, _server) = ready().await;
    bed.kubeconfig(&format!("http://{}", bed.address), json!({}));
    let said = bed.fettle("doctor").await.expect(0);
    assert!(line(&said, "your kubeconfig has none").starts_with("warn"), "{}", said.all());
    line(&said, "--service-account fettle-reader");
}
