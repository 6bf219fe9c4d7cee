//! Secrets are planted wherever one can be, and what the manager says and writes is searched for them.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::Body,
    http::{StatusCode, header, request::Parts},
    response::Response,
};
use fettle::{api::patch_run::RunResult, metrics::Metrics};
use fettle_standins::aap::{Config, HostConfig, Script};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    bed::{Bed, base64, connection_path, run_path},
    calls::{Call, Calls, Fault, Plan, Point},
    logged::{alone_at, canaries},
    tekton::Tekton,
};

/// What somebody between answers to a request that carries credentials; `None` lets it pass.
type Answer = fn(&Parts, &Echo) -> Option<(StatusCode, String)>;

/// What an answer can repeat.
struct Echo {
    case: String,
    /// The header as it came.
    authorization: String,
    /// Token or password.
    secret: String,
}

/// One way to be told a secret back. Each has a namespace of its own.
struct Case {
    name: &'static str,
    basic: bool,
    direct: bool,
    answer: Answer,
    /// What is seen somewhere when the answer was met.
    evidence: &'static str,
}

impl Case {
    const fn token(name: &'static str, answer: Answer, evidence: &'static str) -> Self {
        Self { name, basic: false, direct: false, answer, evidence }
    }
}

fn documented(echo: &Echo) -> String {
    let Echo { case, authorization, secret } = echo;
    json!({"detail": format!("{case}: no header {authorization} is wanted"), "headers": {"Authorization": [authorization]}, "decoded": secret})
        .to_string()
}

fn page(echo: &Echo) -> String {
    format!("<html><title>Error</title><pre>{}\nAuthorization: {}\n{}</pre></html>", echo.case, echo.authorization, echo.secret)
}

/// To every request with credentials.
const CASES: &[Case] = &[
    Case::token("json400", |_, echo| Some((StatusCode::BAD_REQUEST, documented(echo))), "json400: no header"),
    Case::token("json401", |_, echo| Some((StatusCode::UNAUTHORIZED, documented(echo))), "does not accept the credentials"),
    Case::token("json403", |_, echo| Some((StatusCode::FORBIDDEN, documented(echo))), "json403: no header"),
    Case::token("json404", |_, echo| Some((StatusCode::NOT_FOUND, documented(echo))), "json404: no header"),
    Case::token("json500", |_, echo| Some((StatusCode::INTERNAL_SERVER_ERROR, documented(echo))), "json500: no header"),
    Case { basic: true, ..Case::token("basic400", |_, echo| Some((StatusCode::BAD_REQUEST, documented(echo))), "basic400: no header") },
    Case::token("html502", |_, echo| Some((StatusCode::BAD_GATEWAY, page(echo))), "status 502"),
    Case::token("html400", |_, echo| Some((StatusCode::BAD_REQUEST, page(echo))), "the answer is not JSON"),
    Case::token("html200", |_, echo| Some((StatusCode::OK, page(echo))), "is not JSON (line"),
    Case::token("shape200", |_, echo| Some((StatusCode::OK, json!({"results": echo.authorization}).to_string())), "lacks a field"),
    Case::token("cut200", |_, echo| Some((StatusCode::OK, format!("{{\"results\": [{{\"id\": \"{}", echo.secret))), "ends too early"),
    Case::token(
        "redirect302",
        |_, echo| Some((StatusCode::FOUND, String::new())).filter(|_| !echo.case.is_empty()),
        "redirects are not followed",
    ),
    Case::token(
        "redirect307",
        |_, echo| Some((StatusCode::TEMPORARY_REDIRECT, String::new())).filter(|_| !echo.case.is_empty()),
        "redirects are not followed",
    ),
    Case::token("post400", |parts, echo| writes(parts).then(|| (StatusCode::BAD_REQUEST, documented(echo))), "post400: no header"),
    Case::token("post503", |parts, echo| writes(parts).then(|| (StatusCode::SERVICE_UNAVAILABLE, documented(echo))), "post503: no header"),
    Case {
        direct: true,
        ..Case::token("direct400", |parts, echo| writes(parts).then(|| (StatusCode::BAD_REQUEST, documented(echo))), "direct400: no header")
    },
    Case {
        direct: true,
        ..Case::token("direct504", |parts, echo| writes(parts).then(|| (StatusCode::GATEWAY_TIMEOUT, documented(echo))), "direct504")
    },
    Case::token("whole", |_, _| None, "of 3 hosts ended well"),
];

fn writes(parts: &Parts) -> bool {
    parts.method == http::Method::POST
}

/// The secret planted in `place`.
fn canary(place: &str) -> String {
    format!("c4n4ry-{place}-Qz7")
}

/// The case a request belongs to, and what of it can be told back.
fn echo_of(parts: &Parts) -> Option<(&'static Case, Echo)> {
    let authorization = parts.headers.get(header::AUTHORIZATION)?.to_str().unwrap().to_owned();
    let secret = match authorization.strip_prefix("Basic ") {
        Some(encoded) => {
            let pair = String::from_utf8(data_encoding::BASE64.decode(encoded.as_bytes()).unwrap()).unwrap();
            pair.split_once(':').unwrap().1.to_owned()
        }
        None => authorization.strip_prefix("Bearer ").unwrap().to_owned(),
    };
    let case = CASES.iter().find(|case| secret.starts_with(&format!("c4n4ry-{}-", case.name)))?;
    Some((case, Echo { case: case.name.to_owned(), authorization, secret }))
}

fn intercept(parts: &Parts) -> Option<Response> {
    let (case, echo) = echo_of(parts)?;
    let (status, body) = (case.answer)(parts, &echo)?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status.is_redirection() {
        let secret = &echo.secret;
        headers.insert(header::LOCATION, format!("https://u:{secret}@sso.test/login/?next=1&token={secret}#{secret}").parse().unwrap());
    }
    for name in ["www-authenticate", "retry-after", "x-api-product-name", "x-api-request-id", "date"] {
        headers.insert(name, echo.authorization.parse().unwrap());
    }
    Some(response)
}

/// A controller at which the canaries are credentials, and whose hosts and templates have passwords among their variables.
fn controller() -> Config {
    let mut config = Config::example();
    for (user, kind) in [("execute", "change"), ("read", "read")] {
        let user = config.users.iter_mut().find(|found| found.username == user).unwrap();
        let template = user.tokens[0].clone();
        user.tokens = CASES
            .iter()
            .map(|case| {
                let mut token = template.clone();
                token.token = canary(&format!("{}-{kind}", case.name));
                token
            })
            .collect();
    }
    for inventory in &mut config.inventories {
        // hosts of their own, so that nobody waits for another's
        inventory.hosts.extend(CASES.iter().map(|case| case.name).chain(["cut"]).map(|case| HostConfig {
            name: format!("{case}-1"),
            variables: [("patch_group".to_owned(), json!(case))].into_iter().collect(),
            ..HostConfig::default()
        }));
        inventory.variables.insert("ansible_password".into(), canary("inventory-variable").into());
        for host in &mut inventory.hosts {
            host.variables.insert("ansible_become_pass".into(), canary("host-variable").into());
            host.variables.insert("vault_token".into(), json!({"deep": canary("host-variable-deep")}));
        }
    }
    for template in &mut config.job_templates {
        template.extra_vars.insert("db_password".into(), canary("template-variable").into());
    }
    config
}

/// A namespace with a connection over which nothing but `spec` differs from the usual.
fn tenant(bed: &Bed, case: &str, spec: Value) {
    bed.tenant(case);
    for (name, kind) in [("aap-change", "change"), ("aap-read", "read")] {
        bed.secret(case, name, &canary(&format!("{case}-{kind}")));
    }
    bed.api.put(
        &format!("api/v1/namespaces/{case}/secrets/ssh"),
        json!({"data": {"ssh-privatekey": base64(&format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}", canary("ssh")))}}),
    );
    bed.api.edit(&connection_path(case), |connection| {
        for (key, value) in spec.as_object().unwrap() {
            connection["spec"][key] = value.clone();
        }
    });
}

fn secret(bed: &Bed, namespace: &str, name: &str, data: &[(&str, &str)]) {
    let data: Value = data.iter().map(|(key, value)| ((*key).to_owned(), json!(base64(value)))).collect::<serde_json::Map<_, _>>().into();
    bed.api.put(
        &format!("api/v1/namespaces/{namespace}/secrets/{name}"),
        json!({"metadata": {"annotations": {"fettle.dev/origin": bed.proxy.url}}, "data": data}),
    );
}

/// What is wrong before anything is sent, and what is seen of it.
fn plant_misuse(bed: &Bed) -> Vec<&'static str> {
    let bundles = [
        ("ca-one-line", format!("-----BEGIN CERTIFICATE-----{}-----END CERTIFICATE-----\n", canary("ca-one-line"))),
        ("ca-text", canary("ca-text")),
        ("ca-private-key", format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", canary("ca-private-key"))),
        ("ca-no-base64", format!("-----BEGIN CERTIFICATE-----\n{}!\n-----END CERTIFICATE-----\n", canary("ca-no-base64"))),
        ("ca-no-end", format!("-----BEGIN CERTIFICATE-----\n{}\n", canary("ca-no-end"))),
    ];
    for (case, pem) in bundles {
        tenant(bed, case, json!({"caBundle": {"secretKeyRef": {"name": "ca", "key": "ca.crt"}}}));
        secret(bed, case, "ca", &[("ca.crt", &pem)]);
        bed.apply_in(case, "web", json!({"phases": ["apply"]}));
    }
    let host = bed.proxy.url.strip_prefix("http://").unwrap();
    for (case, url) in [
        ("userinfo", format!("http://{0}:{0}@{host}", canary("userinfo"))),
        ("bare-userinfo", format!("{0}:{0}@{host}", canary("bare-userinfo"))),
        ("query", format!("http://{host}/?token={}", canary("query"))),
    ] {
        tenant(bed, case, json!({"url": url}));
        bed.apply_in(case, "web", json!({"phases": ["apply"]}));
    }
    tenant(bed, "control", json!({}));
    for name in ["aap-change", "aap-read"] {
        secret(bed, "control", name, &[("token", &format!("{}\u{1}", canary("control")))]);
    }
    bed.apply_in("control", "web", json!({"phases": ["apply"]}));
    for (case, text) in [
        ("yaml", format!("all:\n  hosts:\n    web-1: {{ansible_password: {}\n    web-2: [\n", canary("yaml"))),
        ("yaml-type", format!("all:\n  hosts:\n    web-1: {}\n", canary("yaml-type"))),
        ("yaml-neighbour", format!("all:\n  vars: {{ansible_password: {}}}\n  hosts: 5\n", canary("yaml-neighbour"))),
    ] {
        tenant(
            bed,
            case,
            json!({"readCredentials": null, "checks": {"sshKeySecretRef": {"name": "ssh"}, "knownHostsRef": {"name": "known-hosts"},
                "inventory": {"name": "inventory"}}}),
        );
        bed.api.put(&format!("api/v1/namespaces/{case}/configmaps/inventory"), json!({"data": {"inventory": text}}));
        bed.apply_in(case, "web", json!({"phases": ["precheck"], "startBy": null}));
    }
    vec![
        "the CA bundle is not usable",
        "it holds no PEM certificate",
        "it must not hold a user or password",
        "it must not have a query",
        "must be printable ASCII text",
        "ConfigMap inventory: key inventory: ",
    ]
}

/// Everything that leaves the manager, piece by piece: where, and what.
fn outputs(bed: &Bed, metrics: &Metrics, log: &Path) -> Vec<(String, String)> {
    let mut all = vec![("log".to_owned(), std::fs::read_to_string(log).unwrap()), ("metrics".to_owned(), metrics.render())];
    for (path, mut object) in bed.api.everything() {
        // what people wrote themselves is theirs
        match object["kind"].as_str().unwrap() {
            "Secret" => continue,
            "PatchRun" | "AutomationConnection" => object["spec"] = Value::Null,
            "ConfigMap" if path.ends_with("/inventory") => continue,
            _ => {}
        }
        all.push((path, object.to_string()));
    }
    all.extend(canaries::files(bed.directory.path()));
    all
}

#[test]
fn no_secret_leaves_the_manager() {
    alone_at("trace", "canaries::no_secret_leaves_the_manager", nothing_leaves);
}

async fn nothing_leaves(log: &Path) {
    let bed = Bed::with(Tekton::default(), controller(), Script::new).await;
    // cases that told something back
    let met = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = met.clone();
    bed.proxy.intercept(Some(Arc::new(move |parts| {
        let answer = intercept(parts);
        if let Some((case, _)) = echo_of(parts).filter(|(case, _)| answer.is_some() || case.name == "whole") {
            seen.lock().unwrap().insert(case.name);
        }
        answer
    })));
    let mut evidence: Vec<&str> = CASES.iter().map(|case| case.evidence).collect();
    evidence.extend(plant_misuse(&bed));
    for case in CASES {
        let mode = if case.direct { "Direct" } else { "Fenced" };
        // where the API lies is known: looking for it takes whatever answers for another page
        tenant(&bed, case.name, json!({"launchMode": mode, "apiPrefix": "/api/v2"}));
        if case.basic {
            for (name, kind) in [("aap-change", "change"), ("aap-read", "read")] {
                let password = canary(&format!("{}-{kind}", case.name));
                secret(&bed, case.name, name, &[("username", "execute"), ("password", &password)]);
            }
        }
        let spec = match case.name {
            "whole" => json!({}),
            name => json!({"phases": ["apply"], "group": name}),
        };
        bed.apply_in(case.name, "web", spec);
    }
    // an answer of the API server that breaks off in the middle of a secret
    tenant(&bed, "cut", json!({}));
    bed.apply_in("cut", "web", json!({"phases": ["apply"], "group": "cut"}));
    let call = Call { what: "GET api/v1/namespaces/cut/secrets/aap-read".into(), nth: 0 };
    let calls = Arc::new(Calls::with(Plan { call, point: Point::Answered, fault: Fault::Corrupt }));

    let (_manager, metrics) = bed.controllers_with(calls.clone());
    let deadline = Instant::now() + Duration::from_mins(3);
    let all = loop {
        let all = outputs(&bed, &metrics, log);
        let missing: Vec<&&str> = evidence.iter().filter(|text| !all.iter().any(|(_, output)| output.contains(**text))).collect();
        let over = bed.run_in("whole", "web").and_then(|run| run.status).and_then(|status| status.result);
        let met = met.lock().unwrap().clone();
        if missing.is_empty() && met.len() == CASES.len() && over == Some(RunResult::Ok) && calls.struck() {
            break all;
        }
        assert!(Instant::now() < deadline, "seen: {met:?}, not seen: {missing:?}, {over:?}, struck {}", calls.struck());
        sleep(Duration::from_secs(1)).await;
    };
    let asked = bed.api.asked();
    assert!(!asked.iter().any(|asked| asked.path.ends_with("/secrets/ssh")), "the key of the checks is none of the manager's business");
    assert!(bed.api.get(&run_path("whole", "web")).is_some() && all.len() > 50, "{} outputs", all.len());
    canaries::none_in("c4n4ry-", &all);
}
