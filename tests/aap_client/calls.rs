//! Single calls: what is sent, on how many connections, and what is made of answers that are late, broken, hostile or missing.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use ::http::HeaderMap;
use bytes::Bytes;
use fettle::{
    api::shared::NameOrId,
    clients::{
        aap::{
            Aap, Cancel, CreateSchedule, Credentials, DoubtCause, Error, ErrorKind, Flavour, Gate, JobKind, LaunchRequest, NotSentStage,
            Observation, RUN_KEY, ScheduleRequest, Secret, Settings,
        },
        http::{self, Client, Denied, Failure, Loss, Stage, UrlPolicy},
    },
};
use futures::StreamExt as _;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::wire::{self, Do, Wire, answer, json_answer};

const TOKEN: &str = "tok-3f2a9c";

fn tests_policy() -> UrlPolicy {
    UrlPolicy { allow_plain_http: true, allow_loopback: true, ..UrlPolicy::default() }
}

fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        api_prefix: Some("/api/v2".into()),
        credentials: Credentials::Token(Secret::new(TOKEN)),
        policy: tests_policy(),
        ca_bundle: None,
        gate: Gate::default(),
        observer: None,
    }
}

fn aap(url: &str) -> Aap {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Aap::new(settings(url)).expect("client")
}

fn variables(key: &str) -> Map<String, Value> {
    Map::from_iter([(RUN_KEY.to_owned(), key.into())])
}

fn request() -> LaunchRequest {
    LaunchRequest { limit: "web-1,web-2".into(), extra_vars: variables("v1-abc-apply") }
}

fn schedule() -> ScheduleRequest {
    ScheduleRequest {
        name: "fettle-v1-abc-apply".into(),
        description: "patching".into(),
        dtstart: "2026-11-21T09:14:27Z".parse().unwrap(),
        limit: "web-1".into(),
        extra_data: variables("v1-abc-apply"),
    }
}

fn launched() -> Value {
    json!({"job": 7, "ignored_fields": {}, "id": 7, "type": "job", "url": "/api/v2/jobs/7/", "status": "pending"})
}

// ---- one launch is one request on one connection ------------------------------------------------------------------------

/// Ways a server can fail to give an answer to a launch.
fn disasters() -> Vec<(&'static str, Do)> {
    vec![
        ("closes after reading", Do::Close),
        ("resets after reading", Do::Reset),
        ("closes inside the status line", Do::Bytes(b"HTTP/1.1 20".to_vec())),
        ("closes inside the headers", Do::Bytes(b"HTTP/1.1 201 Created\r\nContent-".to_vec())),
        ("closes inside the body", Do::Bytes(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{\"id\": 7".to_vec())),
        ("is not HTTP", Do::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
        ("answers with a page", answer(201, "text/html", "<html>Created</html>")),
        ("answers with another success", json_answer(200, &launched())),
        ("answers without an id", json_answer(201, &json!({"ignored_fields": {}}))),
        ("answers with two ids", json_answer(201, &json!({"job": 8, "id": 7, "type": "job", "url": "/x/"}))),
        ("redirects", Do::Bytes(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere/\r\nContent-Length: 0\r\n\r\n".to_vec())),
        ("redirects away", Do::Bytes(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n".to_vec())),
        ("is too slow", json_answer(408, &json!({}))),
        ("conflicts", json_answer(409, &json!({}))),
        ("has had too many", json_answer(429, &json!({}))),
        ("breaks", answer(500, "text/html", "<h1>Server Error (500)</h1>")),
        ("is not there", answer(502, "text/html", "<h1>Bad Gateway</h1>")),
        ("is not ready", answer(503, "text/html", "<h1>Unavailable</h1>")),
        ("waited for another", answer(504, "text/html", "<h1>Gateway Timeout</h1>")),
    ]
}

#[tokio::test]
async fn a_launch_is_one_request_on_one_connection_whatever_happens() {
    let mut servers = vec![("closes before reading", Wire::hang_up(false).await), ("resets before reading", Wire::hang_up(true).await)];
    for (what, disaster) in disasters() {
        servers.push((what, Wire::start(move |_| disaster.clone()).await));
    }
    for (what, wire) in servers {
        let error = aap(&wire.url()).launch(9, &request()).await.expect_err(what);
        assert!(error.is_ambiguous() && !error.is_definite(), "{what}: {error:?}");
        // anything that came too late would be seen now
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(wire.connections(), 1, "{what}: {error}");
        assert!(wire.requests().len() <= 1, "{what}: {:?}", wire.requests());
    }
}

#[tokio::test]
async fn refusals_of_the_controller_are_definite() {
    for status in [400, 401, 403, 404, 405, 413, 415] {
        let wire = Wire::start(move |_| json_answer(status, &json!({"detail": "No."}))).await;
        let error = aap(&wire.url()).launch(9, &request()).await.expect_err("refused");
        assert!(error.is_definite() && error.is_answer() && !error.is_temporary(), "{status}: {error:?}");
        assert_eq!((wire.connections(), wire.requests().len()), (1, 1), "{status}");
        assert!(error.to_string().starts_with("launching job template 9: "), "{error}");
        let told = error.request_id.map(|id| id.to_string());
        assert_eq!(told.as_deref(), wire.requests()[0].header("x-api-request-id"), "by it the request is found in the controller's log");
    }
}

#[tokio::test]
async fn launches_never_use_a_pooled_connection() {
    let wire = Wire::start(|request| match request.method.as_str() {
        "POST" => json_answer(201, &launched()),
        _ => json_answer(200, &json!({"results": [{"id": 1, "username": "op"}]})),
    })
    .await;
    let aap = aap(&wire.url());
    aap.me().await.unwrap();
    aap.me().await.unwrap();
    assert_eq!(wire.connections(), 1, "reads share a connection");
    aap.launch(9, &request()).await.unwrap();
    aap.launch(9, &request()).await.unwrap();
    aap.me().await.unwrap();
    assert_eq!(wire.connections(), 3, "each launch has its own");
}

#[tokio::test]
async fn a_launch_sends_what_was_asked_for_and_nothing_else() {
    let wire = Wire::start(|_| json_answer(201, &launched())).await;
    let launched = aap(&wire.url()).launch(9, &request()).await.unwrap();
    assert_eq!((launched.value.id, launched.value.url.as_str(), launched.value.is_one_job()), (7, "/api/v2/jobs/7/", true));
    assert_eq!(launched.date, Some("2026-11-21T08:00:00Z".parse().unwrap()));
    let sent = wire.requests().remove(0);
    assert_eq!((sent.method.as_str(), sent.target.as_str()), ("POST", "/api/v2/job_templates/9/launch/"));
    assert_eq!(sent.json(), json!({"limit": "web-1,web-2", "extra_vars": {RUN_KEY: "v1-abc-apply"}}));
    assert_eq!(sent.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    assert_eq!(sent.header("accept"), Some("application/json"));
    assert_eq!(sent.header("content-type"), Some("application/json"));
    let id = sent.header("x-api-request-id").expect("request id");
    assert!(id.len() == 36 && id.chars().filter(|c| *c == '-').count() == 4, "{id}");
}

#[tokio::test]
async fn ignored_fields_and_slices_are_told() {
    let wire = Wire::start(|_| {
        json_answer(201, &json!({"workflow_job": 73, "ignored_fields": {"limit": "web-1"}, "id": 73, "type": "workflow_job", "url": "/api/v2/workflow_jobs/73/"}))
    })
    .await;
    let launched = aap(&wire.url()).launch(9, &request()).await.unwrap().value;
    assert!(!launched.is_one_job());
    assert_eq!(launched.ignored_fields["limit"], "web-1");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Wherever an answer is cut off, a launch is either reported with the id the server gave, or in doubt: never as definitely not launched, and
    /// never sent twice.
    #[test]
    fn an_answer_cut_anywhere_is_never_a_definite_no(cut in 0_usize..400) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Do::Bytes(whole) = json_answer(201, &launched()) else { unreachable!() };
            let cut = cut.min(whole.len());
            let part = whole[..cut].to_vec();
            let wire = Wire::start(move |_| Do::Bytes(part.clone())).await;
            match aap(&wire.url()).launch(9, &request()).await {
                Ok(answer) => prop_assert_eq!((answer.value.id, cut), (7, whole.len())),
                Err(error) => prop_assert!(error.is_ambiguous(), "{cut}: {error:?}"),
            }
            prop_assert_eq!((wire.connections(), wire.requests().len()), (1, 1));
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_launch_before_which_the_api_cannot_be_found_is_definite() {
    let wire = Wire::start(|_| answer(503, "text/html", "<h1>Unavailable</h1>")).await;
    let aap = Aap::new(Settings { api_prefix: None, ..settings(&wire.url()) }).unwrap();
    let error = aap.launch(9, &request()).await.expect_err("not found");
    assert!(error.is_definite() && error.is_temporary(), "{error:?}");
    assert!(matches!(&error.kind, ErrorKind::Unreachable(n) if n.stage == NotSentStage::Discovery), "{error:?}");
    assert!(error.to_string().contains("launching") && error.to_string().contains("503"), "{error}");
    assert!(wire.requests().iter().all(|r| r.method == "GET"));
    assert!(aap.me().await.expect_err("not found").is_ambiguous());
}

// ---- what never leaves ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn nothing_listens_is_definite() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = aap(&format!("http://{closed}")).launch(9, &request()).await.expect_err("closed");
    assert!(matches!(&error.kind, ErrorKind::Unreachable(n) if n.stage == NotSentStage::Connect), "{error:?}");
    assert!(error.is_definite() && error.is_temporary() && !error.is_answer());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_name_without_address_is_definite() {
    let error = aap("http://no-such-name.invalid").launch(9, &request()).await.expect_err("no such name");
    assert!(matches!(&error.kind, ErrorKind::Unreachable(n) if n.stage == NotSentStage::Dns), "{error:?}");
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_refused() {
    let wire = Wire::start(|_| json_answer(201, &launched())).await;
    let strict = UrlPolicy { allow_loopback: false, ..tests_policy() };
    let url = format!("http://localhost:{}", wire.port());
    let aap = Aap::new(Settings { policy: strict, ..settings(&url) }).unwrap();
    let error = aap.launch(9, &request()).await.expect_err("refused");
    assert!(matches!(&error.kind, ErrorKind::Unreachable(n) if n.stage == NotSentStage::Address), "{error:?}");
    assert_eq!(wire.connections(), 0);
    assert!(error.to_string().contains("loopback"), "{error}");
}

#[tokio::test]
async fn a_denied_address_is_refused_behind_any_name() {
    let wire = Wire::start(|_| json_answer(201, &launched())).await;
    let own = |port| Denied { address: "127.0.0.1".parse().unwrap(), port };
    let url = format!("http://localhost:{}", wire.port());
    for (port, reached) in [(None, false), (Some(wire.port()), false), (Some(1), true)] {
        let denied = vec![own(port), Denied { address: "::1".parse().unwrap(), port: None }].into();
        let aap = Aap::new(Settings { policy: UrlPolicy { denied, ..tests_policy() }, ..settings(&url) }).unwrap();
        assert_eq!(aap.launch(9, &request()).await.is_ok(), reached, "{port:?}");
    }
    assert_eq!(wire.connections(), 1);
}

/// Rebinding: what a name leads to is judged when a connection is opened, not when the client was made.
#[tokio::test]
async fn a_name_that_leads_elsewhere_later_is_refused_then() {
    let wire = Wire::start(|_| json_answer(201, &launched())).await;
    let policy = tests_policy();
    let url = format!("http://localhost:{}", wire.port());
    let aap = Aap::new(Settings { policy: policy.clone(), ..settings(&url) }).unwrap();
    aap.launch(9, &request()).await.unwrap();
    policy.denied.set(["127.0.0.1", "::1"].map(|own| Denied { address: own.parse().unwrap(), port: None }).into());
    let error = aap.launch(9, &request()).await.expect_err("refused");
    assert!(matches!(&error.kind, ErrorKind::Unreachable(n) if n.stage == NotSentStage::Address), "{error:?}");
    assert_eq!(wire.connections(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_not_told_in_full() {
    let elsewhere = Wire::start(|_| json_answer(200, &json!({"results": [{"id": 1, "username": "op"}]}))).await;
    for status in [301, 302, 303, 307, 308] {
        let target = elsewhere.url().replace("http://", "http://user:s3cret-1@");
        let moved = format!("HTTP/1.1 {status} Moved\r\nLocation: {target}/sso/?token=s3cret-2#s3cret-3\r\nContent-Length: 0\r\n\r\n");
        let wire = Wire::start(move |_| Do::Bytes(moved.clone().into_bytes())).await;
        let aap = aap(&wire.url());
        let errors = [
            aap.me().await.expect_err("moved"),
            aap.launch(9, &request()).await.expect_err("moved"),
            aap.stdout(7, 100).await.err().expect("moved"),
        ];
        for error in errors {
            let text = format!("{error} {error:?}");
            assert!(text.contains(&format!("not followed (to {}/sso/)", elsewhere.url())) && !text.contains("s3cret"), "{text}");
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_busy_controller_gets_no_more_than_four_requests_at_a_time() {
    let wire = Wire::start(|_| {
        Do::Later(Duration::from_millis(400), Box::new(json_answer(200, &json!({"results": [{"id": 1, "username": "op"}]}))))
    })
    .await;
    let aap = aap(&wire.url());
    let all = futures::future::join_all((0..12).map(|_| aap.me())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(wire.most_at_once(), 4);
}

#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let proxy = Wire::start(|_| json_answer(200, &json!({"results": [{"id": 1, "username": "op"}]}))).await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "calls::a_name_without_address_is_definite"]).env_remove("NO_PROXY").env_remove("no_proxy");
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        child.env(name, proxy.url());
    }
    let output = child.output().await.unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    assert_eq!(proxy.connections(), 0);
}

// ---- deadlines, sizes, hostile texts ----------------------------------------------------------------------------------------

fn raw(url: &str) -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::new(&http::Settings { base: url.to_owned(), policy: tests_policy(), ca_bundle: None }).unwrap()
}

fn post(client: &Client, deadline: Duration, limit: usize) -> http::Request {
    http::Request {
        method: "POST".parse().unwrap(),
        url: client.base().clone(),
        headers: HeaderMap::default(),
        body: Some(Bytes::from_static(b"{}")),
        deadline,
        limit,
    }
}

#[tokio::test]
async fn a_silent_server_is_doubt_after_the_deadline() {
    let wire = Wire::start(|_| Do::Later(Duration::from_mins(1), Box::new(Do::Close))).await;
    let client = raw(&wire.url());
    let failure = client.send(post(&client, Duration::from_secs(2), 1000)).await.expect_err("silent");
    assert!(matches!(failure, Failure::NoAnswer { loss: Loss::Timeout, .. }), "{failure:?}");
    assert_eq!((wire.connections(), wire.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_server_that_never_stops_is_cut_off() {
    let wire = Wire::start(|_| Do::Endless).await;
    let client = raw(&wire.url());
    let failure = client.send(post(&client, Duration::from_mins(2), 1 << 20)).await.expect_err("endless");
    assert!(matches!(failure, Failure::NoAnswer { loss: Loss::TooLarge, .. }), "{failure:?}");
}

#[tokio::test]
async fn an_answer_may_be_as_large_as_its_limit() {
    let wire = Wire::start(|_| answer(200, "text/plain", "0123456789")).await;
    let client = raw(&wire.url());
    assert_eq!(client.send(post(&client, Duration::from_mins(1), 10)).await.unwrap().body.len(), 10);
    for limit in [9, 0] {
        let failure = client.send(post(&client, Duration::from_mins(1), limit)).await.expect_err("too large");
        assert!(matches!(failure, Failure::NoAnswer { loss: Loss::TooLarge, .. }), "{failure:?}");
    }
}

#[tokio::test]
async fn another_origin_is_never_asked() {
    let wire = Wire::start(|_| json_answer(200, &json!({}))).await;
    let client = raw(&wire.url());
    let mut request = post(&client, Duration::from_secs(1), 1000);
    request.url = "http://127.0.0.1:1/".parse().unwrap();
    let failure = client.send(request).await.expect_err("other origin");
    assert!(matches!(failure, Failure::NotSent { stage: Stage::Address, .. }), "{failure:?}");
}

#[tokio::test]
async fn a_server_that_sends_the_token_back_does_not_get_it_into_messages() {
    let long = format!("{}Bearer {TOKEN} and {TOKEN}", "x".repeat(390));
    for text in [format!("you sent {TOKEN}"), long] {
        let wire = Wire::start(move |_| json_answer(400, &json!({"detail": text.clone(), "other": ["\u{1b}[31mred\r\nline"]}))).await;
        let error = aap(&wire.url()).launch(9, &request()).await.expect_err("refused");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("tok-") && !shown.contains('\u{1b}') && !shown.contains('\n'), "{shown}");
    }
    let client = aap("http://127.0.0.1:1");
    assert!(!format!("{client:?}").contains(TOKEN));
}

#[tokio::test]
async fn gateways_say_when_to_come_back() {
    let wire = Wire::start(|_| Do::Bytes(b"HTTP/1.1 503 Unavailable\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n".to_vec())).await;
    let error = aap(&wire.url()).me().await.expect_err("unavailable");
    assert_eq!(error.retry_after, Some(Duration::from_secs(17)));
    assert!(matches!(&error.kind, ErrorKind::Ambiguous(d) if d.cause == DoubtCause::Status(503)), "{error:?}");
}

// ---- TLS ------------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn certificates_are_checked_and_the_bundle_is_added() {
    let authority = wire::Authority::new();
    for (name, until, bundle, reached, advice) in [
        ("localhost", 4096, true, true, ""),
        ("localhost", 4096, false, false, "caBundle"),
        ("other.example", 4096, true, false, "subject alternative"),
        ("localhost", 2020, true, false, "expired at 2020-01-01T00:00:00Z; renew it"),
    ] {
        let (server, address) = wire::tls_server(authority.issue(name, until)).await;
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Aap::new(Settings {
            ca_bundle: bundle.then(|| authority.pem().into_bytes()),
            ..settings(&format!("https://localhost:{}", address.port()))
        });
        let client = match client {
            Ok(client) => client,
            // a machine without any authority cannot make a client that trusts none
            Err(e) => {
                assert!(!bundle, "{e}");
                continue;
            }
        };
        match client.launch(9, &request()).await {
            Ok(answer) => assert!(reached && answer.value.id == 7, "{name}"),
            Err(error) => {
                assert!(!reached, "{name}: {error}");
                assert!(matches!(&error.kind, ErrorKind::Unreachable(n) if n.stage == NotSentStage::Tls), "{name}: {error:?}");
                assert!(error.is_definite() && error.to_string().contains(advice), "{error}");
            }
        }
        server.shutdown();
    }
}

#[tokio::test]
async fn plain_text_behind_https_is_not_sent() {
    let wire = Wire::start(|_| json_answer(201, &launched())).await;
    let authority = wire::Authority::new();
    let aap =
        Aap::new(Settings { ca_bundle: Some(authority.pem().into_bytes()), ..settings(&format!("https://127.0.0.1:{}", wire.port())) })
            .unwrap();
    let error = aap.launch(9, &request()).await.expect_err("no TLS there");
    assert!(error.is_definite(), "{error:?}");
    assert!(wire.requests().iter().all(|r| !r.target.contains("launch")), "{:?}", wire.requests());
}

#[test]
fn bundles_without_certificates_are_refused() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    for pem in ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let made = Aap::new(Settings { ca_bundle: Some(pem.into()), ..settings("https://aap.example.com") });
        assert!(made.is_err(), "{pem:?}");
    }
}

// ---- calls -----------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_api_is_found_behind_a_gateway_and_without_one() {
    for (gateway, prefix) in [(true, "/api/controller/v2"), (false, "/api/v2")] {
        let wire = Wire::start(move |request| {
            let root = |p: &str| json_answer(200, &json!({"available_versions": {"v2": p}}));
            match request.target.as_str() {
                "/api/controller/" if gateway => root("/api/controller/v2/"),
                "/api/" if gateway => json_answer(200, &json!({"apis": {"controller": "/api/controller/"}})),
                "/api/" => root("/api/v2/"),
                t if t == format!("{prefix}/ping/") => json_answer(
                    200,
                    &json!({"version": "4.6.2", "install_uuid": "u", "instances": [{"heartbeat": "2026-11-21T07:39:55.280742Z", "capacity": 220}]}),
                ),
                _ => answer(404, "text/html", "<h1>Not Found</h1>"),
            }
        })
        .await;
        let aap = Aap::new(Settings { api_prefix: None, credentials: Credentials::Anonymous, ..settings(&wire.url()) }).unwrap();
        let controller = aap.discover().await.unwrap().value;
        assert_eq!((controller.api_prefix.as_str(), controller.version.as_str(), controller.capacity), (prefix, "4.6.2", 220));
        assert_eq!(controller.flavour, if gateway { Flavour::Aap } else { Flavour::Awx });
        assert_eq!(controller.flavour.to_string(), if gateway { "AAP" } else { "AWX" });
        assert!(wire.requests().iter().all(|r| r.header("authorization").is_none()));
        let asked = wire.requests().len();
        aap.discover().await.unwrap();
        assert_eq!(wire.requests().len(), asked + 1, "the prefix is remembered");
    }
}

#[tokio::test]
async fn something_else_at_the_address_is_told_from_a_controller_in_trouble() {
    for other in [answer(200, "text/html", "<h1>Welcome</h1>"), json_answer(200, &json!({"available_versions": {"v1": "/api/v1/"}}))] {
        let wire = Wire::start(move |_| other.clone()).await;
        let error = Aap::new(Settings { api_prefix: None, ..settings(&wire.url()) }).unwrap().discover().await.expect_err("no controller");
        assert!(error.is_not_found() && error.to_string().contains("apiPrefix"), "{error}");
        assert!(error.to_string().starts_with("looking for the API of the controller: "), "{error}");
    }

    let wire = Wire::start(|_| json_answer(401, &json!({"detail": "Who?"}))).await;
    let error = Aap::new(Settings { api_prefix: None, ..settings(&wire.url()) }).unwrap().discover().await.expect_err("401");
    assert_eq!(error.kind, ErrorKind::Unauthorized);

    let wire = Wire::start(|_| answer(500, "text/html", "<h1>Server Error (500)</h1>")).await;
    let error = Aap::new(Settings { api_prefix: None, ..settings(&wire.url()) }).unwrap().discover().await.expect_err("broken");
    assert!(error.is_temporary() && !error.is_not_found(), "{error}");
}

#[tokio::test]
async fn names_cannot_bend_messages() {
    let wire = Wire::start(|_| json_answer(200, &json!({"results": []}))).await;
    for name in ["a\nb\u{1b}[2J".to_owned(), "x".repeat(5000)] {
        let error = aap(&wire.url()).template(&NameOrId::Name(name)).await.expect_err("none");
        let text = error.to_string();
        assert!(error.is_not_found() && text.len() < 1000 && !text.contains(char::is_control), "{text}");
        assert!(text.ends_with("may not see it"), "{text}");
    }
}

#[tokio::test]
async fn a_name_in_two_organizations_is_an_error_that_names_them() {
    let wire = Wire::start(|_| {
        let row = |id: i64, organization: &str| {
            json!({"id": id, "name": "apply", "ask_limit_on_launch": true, "ask_variables_on_launch": true, "summary_fields": {"organization": {"id": id, "name": organization}}})
        };
        json_answer(200, &json!({"count": 2, "next": null, "results": [row(9, "Ops"), row(12, "Dev")]}))
    })
    .await;
    let error = aap(&wire.url()).template(&NameOrId::Name("apply".into())).await.expect_err("two");
    assert!(matches!(error.kind, ErrorKind::NotUnique { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("looking for job template \"apply\": "), "{text}");
    assert_eq!(error.date, Some("2026-11-21T08:00:00Z".parse().unwrap()));
    assert!(text.contains("9 in organization \"Ops\"") && text.contains("12 in organization \"Dev\"") && text.contains("number"), "{text}");
}

#[tokio::test]
async fn schedules_are_created_once_by_either_text_of_the_controller() {
    for (body, expected) in [
        (json!({"__all__": ["Schedule with this Unified job template and Name already exists."]}), true),
        (
            json!({"detail": "duplicate key value violates unique constraint \"main_schedule_unified_job_template_id_name_uniq\"\nDETAIL: …"}),
            true,
        ),
        (json!({"limit": ["Field is not configured to prompt on launch."]}), false),
    ] {
        let wire = Wire::start(move |_| json_answer(400, &body)).await;
        let outcome = aap(&wire.url()).create_schedule(9, &schedule()).await;
        match outcome {
            Ok(answer) => assert!(expected && answer.value == CreateSchedule::AlreadyExists),
            Err(error) => assert!(!expected && error.is_definite() && error.to_string().contains("prompt on launch"), "{error}"),
        }
        assert_eq!((wire.connections(), wire.requests().len()), (1, 1));
        let sent = wire.requests().remove(0);
        assert_eq!(sent.target, "/api/v2/schedules/");
        assert_eq!(
            sent.json(),
            json!({
                "name": "fettle-v1-abc-apply", "description": "patching", "unified_job_template": 9, "enabled": true, "limit": "web-1",
                "rrule": "DTSTART:20261121T091427Z RRULE:FREQ=MINUTELY;INTERVAL=1;COUNT=1", "extra_data": {RUN_KEY: "v1-abc-apply"},
            })
        );
    }
}

#[tokio::test]
async fn cancelling_asks_for_the_right_kind_of_job() {
    for (job, workflow, expected, asked) in [
        (202, 0, Ok(Cancel::Requested), 1),
        (405, 0, Ok(Cancel::AlreadyOver), 1),
        (409, 0, Ok(Cancel::AlreadyOver), 1),
        (404, 202, Ok(Cancel::Requested), 2),
        (404, 404, Err("not_found"), 2),
        (404, 500, Err("ambiguous"), 2),
        (403, 0, Err("forbidden"), 1),
        (500, 0, Err("ambiguous"), 1),
    ] {
        let wire = Wire::start(move |request| {
            let status = if request.target.contains("workflow") { workflow } else { job };
            if status == 202 {
                Do::Bytes(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_vec())
            } else {
                json_answer(status, &json!({"detail": "No."}))
            }
        })
        .await;
        let outcome = aap(&wire.url()).cancel(7).await.map(|a| a.value).map_err(|e| e.class());
        assert_eq!((outcome, wire.requests().len()), (expected, asked), "{job}");
    }
}

#[tokio::test]
async fn a_job_is_looked_for_among_workflows_only_when_there_is_none() {
    for (job, asked) in [(404, 2), (403, 1), (500, 1)] {
        let wire = Wire::start(move |request| {
            let status = if request.target.contains("workflow") { 200 } else { job };
            json_answer(status, &json!({"id": 7, "type": "workflow_job", "status": "running"}))
        })
        .await;
        let read = aap(&wire.url()).job(7).await;
        assert_eq!((read.is_ok(), wire.requests().len()), (job == 404, asked), "{job}");
    }
}

#[tokio::test]
async fn a_schedule_that_is_gone_counts_as_deleted_and_one_that_stays_does_not() {
    for (status, deleted) in [(404, true), (403, false), (500, false)] {
        let wire = Wire::start(move |_| json_answer(status, &json!({"detail": "No."}))).await;
        assert_eq!(aap(&wire.url()).delete_schedule(4).await.is_ok(), deleted, "{status}");
    }
}

#[tokio::test]
async fn many_jobs_are_read_in_few_requests() {
    let wire = Wire::start(|request| {
        let ids = request.query("id__in");
        let rows: Vec<Value> = ids.split(',').filter(|id| *id != "13").map(|id| json!({"id": id.parse::<i64>().unwrap(), "type": "job", "status": "running", "extra_vars": "{\"fettle_run_key\": \"k\"}"})).collect();
        let page = request.query("page");
        let (rows, next) = if page.is_empty() { (&rows[..rows.len() / 2], Some(format!("{}&page=2", request.target))) } else { (&rows[rows.len() / 2..], None) };
        json_answer(200, &json!({"next": next, "results": rows}))
    })
    .await;
    let ids: Vec<i64> = (1..=120).collect();
    let jobs = aap(&wire.url()).jobs(&ids).await.unwrap().value;
    assert_eq!(jobs.len(), 119);
    assert!(!jobs.contains_key(&13) && jobs[&120].variable(RUN_KEY) == Some("k"));
    assert_eq!(wire.requests().len(), 6, "three lists of two pages");
    assert!(aap(&wire.url()).jobs(&[]).await.unwrap().value.is_empty());
    assert_eq!(wire.requests().len(), 6);
}

#[tokio::test]
async fn lists_that_never_end_or_lead_away_are_given_up() {
    let endless = Wire::start(|request| {
        let page: usize = request.query("page").parse().unwrap_or(1);
        json_answer(200, &json!({"next": format!("/api/v2/jobs/7/job_host_summaries/?page={}", page + 1), "results": []}))
    })
    .await;
    let error = aap(&endless.url()).host_summaries(7).await.expect_err("endless");
    assert!(error.is_ambiguous() && endless.requests().len() < 100, "{error}");

    let other = Wire::start(|_| json_answer(200, &json!({"results": []}))).await;
    let next = format!("{}/api/v2/jobs/7/job_host_summaries/?page=2", other.url());
    let away = Wire::start(move |_| json_answer(200, &json!({"next": next.clone(), "results": []}))).await;
    let error = aap(&away.url()).host_summaries(7).await.expect_err("away");
    assert!(error.to_string().contains("leaves the controller"), "{error}");
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn links_to_the_next_page_choose_the_page_and_nothing_else() {
    let other = Wire::start(|_| json_answer(200, &json!({"results": []}))).await;
    let there = other.url().replace("http://", "");
    for link in [
        format!("http://{there}/api/v2/jobs/7/job_host_summaries/?page=2"),
        format!("//{there}/api/v2/jobs/7/job_host_summaries/?page=2"),
        format!("\\\\{there}/?page=2"),
        format!("https://{there}/?page=2"),
        format!("http://user:password@{there}/?page=2"),
        "http://169.254.169.254/latest/meta-data/?page=2".to_owned(),
        "file:///etc/passwd?page=2".to_owned(),
        "javascript:alert(1)?page=2".to_owned(),
        "/api/v2/job_templates/9/launch/?page=2".to_owned(),
        "../../../../_debug/?page=2".to_owned(),
        "?page=2".to_owned(),
        "http://[::1".to_owned(),
        String::new(),
    ] {
        let told = link.clone();
        let wire = Wire::start(move |request| match request.query("page").as_str() {
            "2" => json_answer(200, &json!({"next": null, "results": []})),
            _ => json_answer(200, &json!({"next": told, "results": []})),
        })
        .await;
        let _ = aap(&wire.url()).host_summaries(7).await;
        let asked = wire.requests();
        assert!((1..=2).contains(&asked.len()), "{link}: {asked:?}");
        assert!(asked.iter().all(|r| r.target.starts_with("/api/v2/jobs/7/job_host_summaries/?")), "{link}: {asked:?}");
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn a_list_is_not_read_beyond_its_limit() {
    let wire = Wire::start(|request| {
        let page: usize = request.query("page").parse().unwrap_or(1);
        json_answer(200, &json!({"next": format!("?page={}", page + 1), "results": [{"host_name": "a", "padding": "x".repeat(7 << 20)}]}))
    })
    .await;
    let error = aap(&wire.url()).host_summaries(7).await.expect_err("too large");
    assert!(matches!(&error.kind, ErrorKind::Ambiguous(doubt) if doubt.cause == DoubtCause::TooLarge), "{error:?}");
    assert_eq!(wire.requests().len(), 3, "of 7 MiB each, and 16 MiB are enough");
    assert!(error.to_string().starts_with("reading the hosts of job 7: "), "{error}");
    assert_eq!(error.date, Some("2026-11-21T08:00:00Z".parse().unwrap()));
}

#[tokio::test]
async fn a_page_of_jobs_may_be_as_large_as_what_their_playbooks_reported() {
    let padding = "x".repeat(17 << 20);
    let wire = Wire::start(move |_| {
        json_answer(200, &json!({"results": [{"id": 1, "type": "job", "status": "running", "artifacts": {"padding": padding}}]}))
    })
    .await;
    assert_eq!(aap(&wire.url()).jobs(&[1]).await.unwrap().value.len(), 1);
}

#[test]
fn a_job_has_a_page_for_people_behind_a_gateway_and_without_one() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    for (prefix, page) in [("/api/v2", "#"), ("/api/controller/v2", "execution")] {
        let aap = Aap::new(Settings { api_prefix: Some(prefix.into()), ..settings("http://aap.example.com/base/") }).unwrap();
        for (kind, word) in [(JobKind::Job, "playbook"), (JobKind::WorkflowJob, "workflow")] {
            assert_eq!(aap.job_page(&kind, 7), format!("http://aap.example.com/base/{page}/jobs/{word}/7/output"));
        }
    }
}

#[tokio::test]
async fn marked_jobs_are_found_among_others() {
    let wire = Wire::start(|request| {
        assert_eq!((request.query("unified_job_template").as_str(), request.query("id__gt").as_str()), ("9", "40"));
        let row = |id: i64, extra_vars: Value| json!({"id": id, "type": "job", "status": "pending", "extra_vars": extra_vars});
        json_answer(
            200,
            &json!({"results": [
                row(41, json!("{\"fettle_run_key\": \"v1-other-apply\"}")),
                row(42, json!("{\"fettle_run_key\": \"v1-abc-apply\"}")),
                row(43, json!("{\"note\": \"v1-abc-apply\"}")),
                row(44, json!("not json: [")),
                row(45, json!(null)),
            ]}),
        )
    })
    .await;
    let found = aap(&wire.url()).find_marked(9, 40, "v1-abc-apply").await.unwrap().value;
    assert_eq!(found.iter().map(|j| j.id).collect::<Vec<_>>(), [42]);
}

#[tokio::test]
async fn output_is_streamed_and_cut_at_the_cap() {
    let text = "0123456789".repeat(100_000);
    let served = text.clone();
    let wire = Wire::start(move |request| {
        assert_eq!((request.query("format").as_str(), request.header("accept")), ("txt_download", Some("text/plain, */*")));
        answer(200, "text/plain", &served)
    })
    .await;
    for (cap, size, truncated) in
        [(u64::MAX, 1_000_000, false), (1_000_000, 1_000_000, false), (999_999, 999_999, true), (5, 5, true), (0, 0, true)]
    {
        let mut stdout = aap(&wire.url()).stdout(7, cap).await.unwrap().value;
        let mut all = vec![];
        while let Some(chunk) = stdout.next().await {
            all.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!((all.len(), stdout.is_truncated()), (size, truncated), "{cap}");
        assert_eq!(stdout.truncation().load(Ordering::Acquire), truncated, "{cap}");
        assert_eq!(all, text.as_bytes()[..size]);
    }
    let wire = Wire::start(|_| Do::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec())).await;
    let mut stdout = aap(&wire.url()).stdout(7, 1000).await.unwrap().value;
    assert_eq!(stdout.next().await.unwrap().unwrap().as_ref(), b"half");
    assert!(stdout.next().await.unwrap().is_err(), "a broken output is not a short one");
    assert!(stdout.next().await.is_none());
}

#[tokio::test]
async fn every_request_is_observed_by_route_not_by_number() {
    let seen = Arc::new(Mutex::new(vec![]));
    let heard = Arc::clone(&seen);
    let wire = Wire::start(|request| if request.target.contains("launch") { json_answer(503, &json!({})) } else { Do::Close }).await;
    let observer = Arc::new(move |o: &Observation| heard.lock().unwrap().push((o.method, o.route, o.code)));
    let aap = Aap::new(Settings { observer: Some(observer), ..settings(&wire.url()) }).unwrap();
    let _: Result<_, Error> = aap.launch(9, &request()).await;
    let _ = aap.disable_schedule(4711).await;
    let _ = aap.job(4711).await;
    let expected =
        [("POST", "job_templates/{id}/launch/", "5xx"), ("PATCH", "schedules/{id}/", "no_answer"), ("GET", "jobs/{id}/", "no_answer")];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_schedule_that_stays_enabled_is_not_taken_for_disabled() {
    for enabled in [true, false] {
        let wire =
            Wire::start(move |_| json_answer(200, &json!({"id": 4, "name": "n", "unified_job_template": 9, "enabled": enabled}))).await;
        assert_eq!(aap(&wire.url()).disable_schedule(4).await.is_ok(), !enabled);
        let sent = wire.requests().remove(0);
        assert_eq!((sent.method.as_str(), sent.json()), ("PATCH", json!({"enabled": false})));
    }
}
