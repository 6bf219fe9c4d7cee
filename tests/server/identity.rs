//! Who is who, what everybody may see, and what all answers have in common.

use http::header;
use serde_json::{Value, json};

use crate::bed::{Bed, KEY};

#[tokio::test]
async fn probes_and_metrics_are_open_and_hold_no_names() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"log").await;
    assert_eq!(bed.status("/health", "").await, 200);
    assert_eq!(bed.status("/ready", "").await, 200);
    let answer = bed.get("/metrics", "").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(text.contains("fettle_server_requests_total{method=\"PUT\",route=\"/internal/logs/{key}\",code=\"200\"} 1"), "{text}");
    assert!(!text.contains("patching") && !text.contains(KEY) && !text.contains("alice"), "{text}");
}

#[tokio::test]
async fn tokens_are_judged_by_audience_and_kind() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"log").await;
    let path = format!("/api/logs/{KEY}");
    for (token, expected, why) in [
        ("", 401, "no token"),
        ("nonsense", 401, "a token nobody knows"),
        ("alice-token", 200, "a person's token for the API server"),
        ("robot-token", 200, "a ServiceAccount's token made for us"),
        ("robot-api-token", 401, "a ServiceAccount's token made for the API server: we must not be able to replay it"),
    ] {
        let answer = bed.get(&path, token).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{why}");
        if expected == 401 {
            assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"fettle\"");
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
        }
    }
    let world = bed.world.lock().unwrap();
    let review = world.access_reviews.iter().find(|review| review["user"] == "alice").unwrap();
    assert_eq!(review["groups"], json!(["system:authenticated", "team"]));
    assert_eq!((&review["uid"], &review["extra"]), (&json!("uid-alice"), &json!({"scopes": ["user:full"]})));
    assert_eq!(
        review["resourceAttributes"],
        json!({"verb": "get", "group": "fettle.dev", "resource": "patchruns", "namespace": "patching", "name": "web"})
    );
    assert!(world.token_reviews.iter().any(|review| review["token"] == "robot-api-token" && review["audiences"] == json!(["fettle"])));
}

#[tokio::test]
async fn an_authenticator_without_audiences_vouches_for_people_only() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"log").await;
    bed.world.lock().unwrap().no_audiences = true;
    assert_eq!(bed.status(&format!("/api/logs/{KEY}"), "alice-token").await, 200);
    assert_eq!(bed.status(&format!("/api/logs/{KEY}"), "robot-token").await, 401);
}

#[tokio::test]
async fn users_without_a_name_are_nobody() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"log").await;
    {
        let mut world = bed.world.lock().unwrap();
        for (token, user) in [
            ("empty", json!({"username": "", "groups": ["system:masters"]})),
            ("anonymous", json!({"username": "system:anonymous"})),
            ("absent", json!({})),
        ] {
            let account = crate::bed::Account { user, audiences: vec!["fettle".into()] };
            world.tokens.insert(token.into(), account);
        }
        for user in ["", "system:anonymous", "*"] {
            world.grants.insert((user.into(), "*".into(), "*".into()));
        }
    }
    for token in ["empty", "anonymous", "absent"] {
        assert_eq!(bed.status(&format!("/api/logs/{KEY}"), token).await, 401, "{token}");
    }
}

#[tokio::test]
async fn a_token_counts_in_the_header_only() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"log").await;
    for query in ["?token=alice-token", "?access_token=alice-token"] {
        assert_eq!(bed.status(&format!("/api/logs/{KEY}{query}"), "").await, 401);
    }
    let basic = bed.http.get(bed.url(&format!("/api/logs/{KEY}"))).basic_auth("alice", Some("alice-token")).send().await.unwrap();
    assert_eq!(basic.status(), 401);
}

#[tokio::test]
async fn without_the_api_server_nobody_gets_anything() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"log").await;
    bed.world.lock().unwrap().down = true;
    for path in [format!("/api/logs/{KEY}"), "/api/runs/patching/web".into(), format!("/internal/records/{KEY}")] {
        let answer = bed.get(&path, "alice-token").send().await.unwrap();
        assert_eq!(answer.status(), 503, "{path}");
        assert!(answer.headers().contains_key(header::RETRY_AFTER));
        assert!(!answer.text().await.unwrap().contains("etcd"), "what the API server says is not passed on");
    }
    assert_eq!(bed.status("/ready", "").await, 503);
    assert_eq!(bed.status("/health", "").await, 200, "the process lives");
    bed.world.lock().unwrap().down = false;
    assert_eq!(bed.status(&format!("/api/logs/{KEY}"), "alice-token").await, 200, "a failure is not remembered");
}

#[tokio::test]
async fn an_unwritable_archive_is_not_ready() {
    let bed = Bed::new().await;
    assert_eq!(bed.status("/ready", "").await, 200);
    std::fs::remove_dir_all(bed.directory.path().join("archive")).unwrap();
    std::fs::write(bed.directory.path().join("archive"), "no directory").unwrap();
    crate::bed::until(async || bed.status("/ready", "").await == 503).await;
    let body = bed.get("/ready", "").send().await.unwrap().text().await.unwrap();
    assert!(body.contains("the archive cannot be written to") && !body.contains("/tmp"), "{body}");
}

#[tokio::test]
async fn answers_of_the_api_server_are_remembered_for_a_while() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"log").await;
    let asked = || {
        let world = bed.world.lock().unwrap();
        (world.token_reviews.len(), world.access_reviews.len())
    };
    let path = format!("/api/logs/{KEY}");
    for token in ["alice-token", "mallory-token", "nonsense"] {
        bed.status(&path, token).await;
        let before = asked();
        for _ in 0..5 {
            bed.status(&path, token).await;
        }
        assert_eq!(asked(), before, "{token}");
    }
}

#[tokio::test]
async fn every_problem_is_one_document_with_the_id_of_the_request() {
    let bed = Bed::new().await;
    let put = bed.http.put(bed.url("/api/runs/a/b")).send().await.unwrap();
    assert_eq!(put.status(), 405);
    for (answer, expected) in [
        (put, 405),
        (bed.get("/nothing/here", "").send().await.unwrap(), 404),
        (bed.get("/api/logs/x", "").header("x-request-id", "ticket-4711").send().await.unwrap(), 401),
        (bed.get("/api/runs/UPPER/..", "alice-token").send().await.unwrap(), 404),
        (bed.get("/api/runs/%2e%2e%2f/x", "alice-token").send().await.unwrap(), 404),
        (
            bed.http
                .put(bed.url("/internal/records/x"))
                .bearer_auth("manager-token")
                .body("{")
                .header("content-type", "application/json")
                .send()
                .await
                .unwrap(),
            400,
        ),
    ] {
        assert_eq!(answer.status(), expected);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((&problem["status"], &problem["requestId"], &problem["type"]), (&json!(expected), &json!(id), &json!("about:blank")));
        assert!(!problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty());
    }
    let given = bed.get("/health", "").header("x-request-id", "ticket-4711").send().await.unwrap();
    assert_eq!(given.headers()["x-request-id"], "ticket-4711");
    let harmful = bed.get("/health", "").header("x-request-id", "a\"b {} forged").send().await.unwrap();
    assert_ne!(harmful.headers()["x-request-id"], "a\"b {} forged");
}

#[tokio::test]
async fn both_versions_of_http_are_spoken() {
    let bed = Bed::new().await;
    let two = bed.get("/health", "").send().await.unwrap();
    assert_eq!(two.version(), http::Version::HTTP_2);
    let one = String::from_utf8(
        bed.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", std::time::Duration::from_secs(5)).await,
    )
    .unwrap();
    assert!(one.starts_with("HTTP/1.1 200 OK\r\n") && one.ends_with("ok\n"), "{one}");
    assert!(!one.to_lowercase().contains("server:"), "{one}");
}
