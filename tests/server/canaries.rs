//! Tokens are planted wherever one can be, and what the server and its client say and write is searched for them.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use fettle::{api::patch_run::Phase, archive::Store};
use http::{StatusCode, header};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use crate::{
    bed::{Bed, KEY, MANAGER, owner, record, stream},
    logged::{alone_at, canaries},
};

const PERSON: &str = "c4n4ry-person-Qz7";
const ROBOT: &str = "c4n4ry-robot-Qz7";
const SENDER: &str = "c4n4ry-manager-Qz7";

fn status(token: &str, code: StatusCode) -> Response {
    let text = format!("admission webhook denied {token}");
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": text, "reason": "Forbidden", "code": code.as_u16()});
    (code, axum::Json(status)).into_response()
}

/// What an API server, or somebody before it, can make of a TokenReview.
const NONSENSE: [fn(&str) -> Response; 6] = [
    |token| format!("{{\"kind\": \"TokenReview\", \"spec\": {{\"token\": \"{token}\"").into_response(),
    |token| axum::Json(json!({"kind": "TokenReview", "spec": {"token": token}, "status": {"authenticated": token}})).into_response(),
    |token| format!("<html>{token}</html>").into_response(),
    |token| status(token, StatusCode::FORBIDDEN),
    |token| status(token, StatusCode::UNPROCESSABLE_ENTITY),
    |token| (StatusCode::BAD_GATEWAY, format!("<html>Bearer {token}</html>")).into_response(),
];

#[test]
fn no_token_leaves_the_server() {
    alone_at("trace", "canaries::no_token_leaves_the_server", nothing_leaves);
}

async fn nothing_leaves(log: &Path) {
    let bed = Bed::new().await;
    {
        let mut world = bed.world.lock().unwrap();
        world.person("alice", PERSON);
        world.account("system:serviceaccount:patching:robot", ROBOT, "https://kubernetes.default.svc");
        world.account(MANAGER, SENDER, "fettle");
    }
    std::fs::write(bed.directory.path().join("token"), SENDER).unwrap();
    bed.put_log(KEY, b"log").await;
    let _ = bed.store().put_record(&record(KEY, Phase::Apply, None, vec![])).await;

    let mut outputs = vec![];
    let path = format!("/api/logs/{KEY}");
    let mut keep = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        let (place, head) = (answer.url().path().to_owned(), format!("{} {:?}", answer.status(), answer.headers()));
        outputs.push((place, format!("{head} {}", answer.text().await.unwrap())));
    };
    let paths = [
        path.clone(),
        "/api/runs/patching/web".into(),
        "/api/runs/patching/web/events".into(),
        "/api/chat".into(),
        "/api/run/precheck".into(),
        format!("/internal/records/{KEY}"),
        "/nothing".into(),
    ];
    for token in [PERSON, ROBOT, SENDER, "c4n4ry-nobody-Qz7"] {
        for path in &paths {
            keep(bed.get(path, token)).await;
            keep(bed.http.put(bed.url(path)).bearer_auth(token).header("content-type", "application/json").body(token)).await;
            keep(bed.http.post(bed.url(path)).bearer_auth(token).header("content-type", "application/json").body(token)).await;
            keep(bed.http.post(bed.url(path)).bearer_auth(token).json(&json!({"message": "help"}))).await;
            let asked = json!({"group": 5, "namespace": "patching", "connection": "prod"});
            keep(bed.http.post(bed.url(&format!("{path}?wait=0"))).bearer_auth(token).header("idempotency-key", "key").json(&asked)).await;
            // where tokens have no business
            keep(bed.get(&format!("{path}?token={token}&namespace={token}&name={token}"), "")).await;
            keep(bed.get(path, "").basic_auth("alice", Some(token))).await;
            keep(bed.get(path, "").header(header::COOKIE, format!("session={token}")).header("x-forwarded-user", token)).await;
            keep(bed.get(path, token).header(header::AUTHORIZATION, format!("Bearer {token}"))).await;
        }
    }
    for (number, nonsense) in NONSENSE.into_iter().enumerate() {
        bed.world.lock().unwrap().nonsense = Some(nonsense);
        for path in &paths {
            // another token each time: answers are remembered
            keep(bed.get(path, &format!("c4n4ry-{number}-Qz7"))).await;
            keep(bed.http.put(bed.url(path)).bearer_auth(format!("c4n4ry-{number}-Qz7-put")).body("{}")).await;
        }
    }
    keep(bed.get("/ready", "")).await;
    keep(bed.get("/metrics", "")).await;
    assert!(outputs.iter().any(|(_, text)| text.starts_with("200")) && outputs.iter().any(|(_, text)| text.starts_with("503")));
    assert!(bed.world.lock().unwrap().token_reviews.iter().any(|review| review["token"] == "c4n4ry-3-Qz7"));
    outputs.push(("cluster".into(), bed.cluster.everything()));
    outputs.push(("log".into(), std::fs::read_to_string(log).unwrap()));
    outputs.extend(canaries::files(&bed.directory.path().join("archive")));
    canaries::none_in("c4n4ry-", &outputs);
}

type Mood = Arc<Mutex<usize>>;

const MOODS: usize = 7;

/// Tells the header back, in one of the ways of strangers.
async fn stranger(State(mood): State<Mood>, request: Request) -> Response {
    let said = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
    let problem = json!({"type": "about:blank", "title": said, "detail": format!("who sends {said}?"), "status": 409}).to_string();
    let typed = |code: StatusCode, kind: &str, body: String| (code, [(header::CONTENT_TYPE, kind.to_owned())], body).into_response();
    match *mood.lock().unwrap() {
        0 => typed(StatusCode::CONFLICT, "application/problem+json", problem),
        1 => typed(StatusCode::UNPROCESSABLE_ENTITY, "application/problem+json", problem),
        2 => typed(StatusCode::SERVICE_UNAVAILABLE, "application/problem+json", problem),
        3 => typed(StatusCode::FORBIDDEN, "application/json", problem),
        4 => typed(StatusCode::BAD_GATEWAY, "text/html", format!("<html>{said}</html>")),
        5 => (StatusCode::FOUND, [(header::LOCATION, format!("/login?token={}", said.replace(' ', "+")))]).into_response(),
        _ => typed(StatusCode::OK, "application/json", json!({"runKey": said, "sha256": said}).to_string()),
    }
}

/// A server with a certificate of its own; also the file it is in.
async fn strange_server(mood: Mood, directory: &Path) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(directory.join("ca.crt"), cert.pem()).unwrap();
    let tls = axum_server::tls_rustls::RustlsConfig::from_pem(cert.pem().into_bytes(), key.serialize_pem().into_bytes()).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(stranger).with_state(mood);
    let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
    tokio::spawn(async move { server.serve(app.into_make_service()).await });
    address
}

#[test]
fn the_managers_token_is_not_in_what_it_says_of_the_server() {
    alone_at("trace", "canaries::the_managers_token_is_not_in_what_it_says_of_the_server", says_nothing);
}

async fn says_nothing(log: &Path) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (directory, mood) = (tempfile::tempdir().unwrap(), Mood::default());
    let address = strange_server(mood.clone(), directory.path()).await;
    let token = directory.path().join("token");
    std::fs::write(&token, SENDER).unwrap();
    let store = Store::server(&format!("https://{address}/"), Some(directory.path().join("ca.crt")), token).unwrap();
    let mut outputs = vec![("store".to_owned(), format!("{store:?}"))];
    for number in 0..MOODS {
        *mood.lock().unwrap() = number;
        let errors = [
            store.record(KEY).await.map(|_| ()).unwrap_err(),
            store
                .put_record(&record(KEY, Phase::Apply, None, vec![]))
                .await
                .err()
                .unwrap_or_else(|| fettle::archive::Error::Source("none".into())),
            store.put_log(KEY, &owner(), "", stream(b"x".to_vec())).await.unwrap_err(),
        ];
        outputs.extend(errors.into_iter().map(|error| (format!("mood {number}"), format!("{error} {error:?}"))));
    }
    outputs.push(("log".into(), std::fs::read_to_string(log).unwrap()));
    canaries::none_in("c4n4ry-", &outputs);
}
