//! The manager's side: `Store` over the intake.

use std::{io, time::Duration};

use bytes::Bytes;
use fettle::{
    api::patch_run::{Outcome, Phase},
    archive::{Error, Owner, Store, record::Record, started::Started},
};
use futures::StreamExt as _;

use crate::bed::{Bed, KEY, UNKNOWN, host, noise, owner, record, sha256, stream, until};

#[tokio::test]
async fn what_the_manager_writes_it_reads_back() {
    let bed = Bed::new().await;
    let store = bed.store();
    assert_eq!(store.record(KEY).await.unwrap(), None);
    assert_eq!(store.log_meta(KEY).await.unwrap(), None);
    let bytes = noise(1 << 20);
    let log = store.put_log(KEY, &owner(), "Job 4711 / \"x\"&y", stream(bytes.clone())).await.unwrap();
    assert_eq!(log.sha256, sha256(&bytes));
    assert_eq!(store.log_meta(KEY).await.unwrap().map(|(found, _)| found), Some(log.clone()));
    let record = record(KEY, Phase::Apply, Some(log), vec![host("web-1", Outcome::Changed)]);
    store.put_record(&record).await.unwrap();
    store.put_record(&record).await.expect("the same again is fine");
    assert_eq!(store.record(KEY).await.unwrap(), Some(record));
    let meta = std::fs::read_to_string(bed.directory.path().join(format!("archive/phases/{KEY}/log.json"))).unwrap();
    assert!(meta.contains("Job 4711 / \\\"x\\\"&y"), "{meta}");
    assert!(bed.directory.path().join(format!("archive/runs/patching/web/{KEY}")).exists());
}

#[tokio::test]
async fn records_are_final_and_seal_their_logs() {
    let bed = Bed::new().await;
    let store = bed.store();
    let first = bed.put_log(KEY, b"first").await;
    let second = bed.put_log(KEY, b"second").await;
    let good = record(KEY, Phase::Apply, Some(second), vec![]);
    let stale = Record { log: Some(first), ..good.clone() };
    assert!(matches!(store.put_record(&stale).await, Err(Error::Rejected(_))), "it names a log that is gone");
    store.put_record(&good).await.unwrap();
    let other = Record { message: "something else".into(), ..good.clone() };
    assert!(matches!(store.put_record(&other).await, Err(Error::Conflict(_))));
    let sealed = store.put_log(KEY, &owner(), "", stream(b"third".to_vec())).await;
    assert!(matches!(sealed, Err(Error::Conflict(_))), "{sealed:?}");
    let large = store.put_log(KEY, &owner(), "", stream(noise(32 << 20))).await;
    assert!(matches!(large, Err(Error::Conflict(_))), "also when it answers before the log was sent: {large:?}");
    let foreign = store.put_log(UNKNOWN, &Owner::new("patching", "web").unwrap(), "", stream(b"x".to_vec())).await;
    assert!(foreign.is_ok());
    let taken = store.put_log(UNKNOWN, &Owner::new("elsewhere", "web").unwrap(), "", stream(b"x".to_vec())).await;
    assert!(matches!(taken, Err(Error::Conflict(_))), "{taken:?}");
    assert!(matches!(store.record("../../etc/passwd").await, Err(Error::Rejected(_))));
}

#[tokio::test]
async fn a_direct_launch_is_begun_by_one_only() {
    let bed = Bed::new().await;
    let store = bed.store();
    assert_eq!(store.started(KEY).await.unwrap(), None);
    let started = Started {
        run_key: KEY.into(),
        namespace: "patching".into(),
        name: "web".into(),
        install_uuid: "uuid".into(),
        template: 7,
        baseline: 4710,
        at: "2026-11-21T10:00:00Z".parse().unwrap(),
    };
    store.create_started(&started).await.unwrap();
    let again = store.create_started(&started).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "the same again could be somebody who was paused: {again:?}");
    assert_eq!(store.started(KEY).await.unwrap(), Some(started.clone()));
    store.remove_started(KEY).await.unwrap();
    store.remove_started(KEY).await.expect("gone is gone");
    assert_eq!(store.started(KEY).await.unwrap(), None);
    store.create_started(&started).await.unwrap();
}

#[tokio::test]
async fn only_the_manager_may_send() {
    let bed = Bed::new().await;
    for (token, expected) in
        [("", 401), ("nonsense", 401), ("manager-api-token", 401), ("alice-token", 403), ("admin-token", 403), ("robot-token", 403)]
    {
        for (method, path) in [
            ("PUT", format!("/internal/logs/{KEY}?namespace=patching&name=web")),
            ("GET", format!("/internal/logs/{KEY}")),
            ("HEAD", format!("/internal/logs/{KEY}")),
            ("PUT", format!("/internal/records/{KEY}")),
            ("GET", format!("/internal/records/{KEY}")),
            ("PUT", format!("/internal/started/{KEY}")),
            ("GET", format!("/internal/started/{KEY}")),
            ("DELETE", format!("/internal/started/{KEY}")),
        ] {
            let mut request = bed.http.request(method.parse().unwrap(), bed.url(&path)).body("log");
            if !token.is_empty() {
                request = request.bearer_auth(token);
            }
            assert_eq!(request.send().await.unwrap().status(), expected, "{token} {method} {path}");
        }
    }
    assert_eq!(bed.phase_files(KEY), [""; 0]);
}

#[tokio::test]
async fn the_intake_checks_what_it_is_told() {
    let bed = Bed::new().await;
    let put = async |path: &str, body: String| {
        let request = bed.http.put(bed.url(path)).bearer_auth("manager-token").header("content-type", "application/json").body(body);
        request.send().await.unwrap().status().as_u16()
    };
    let good = serde_json::to_string(&record(KEY, Phase::Apply, None, vec![])).unwrap();
    assert_eq!(put(&format!("/internal/logs/{KEY}?namespace=..&name=web"), "x".into()).await, 422);
    assert_eq!(put(&format!("/internal/logs/{KEY}?namespace=patching&name=..%2f..%2fx"), "x".into()).await, 422);
    assert_eq!(put(&format!("/internal/logs/{KEY}"), "x".into()).await, 400, "whose is it?");
    assert_eq!(put("/internal/logs/..%2f..%2fx?namespace=a&name=b", "x".into()).await, 422);
    assert_eq!(put(&format!("/internal/records/{UNKNOWN}"), good.clone()).await, 422, "another key than the record's");
    assert_eq!(put(&format!("/internal/records/{KEY}"), "{}".into()).await, 422);
    assert_eq!(put(&format!("/internal/records/{KEY}"), format!("{good}{}", " ".repeat(9 << 20))).await, 413);
    assert_eq!(put(&format!("/internal/records/{KEY}"), good).await, 204);
}

#[tokio::test]
async fn a_log_of_more_than_the_maximum_is_refused() {
    let bed = Bed::with(&["--max-log-bytes", "100000"]).await;
    let store = bed.store();
    store.put_log(KEY, &owner(), "", stream(noise(100_000))).await.expect("the maximum itself");
    let more = store.put_log(UNKNOWN, &owner(), "", stream(noise(100_001))).await;
    assert!(matches!(more, Err(Error::Rejected(_))), "{more:?}");
    assert_eq!(bed.phase_files(UNKNOWN), [""; 0]);
}

#[tokio::test]
async fn a_source_that_breaks_or_a_manager_that_dies_leaves_no_log() {
    let bed = Bed::new().await;
    let store = bed.store();
    bed.put_log(KEY, b"the one before").await;
    let broken = stream(noise(500_000)).chain(futures::stream::once(async { Err(io::Error::other("AAP went away")) })).boxed();
    let error = store.put_log(KEY, &owner(), "", broken).await.unwrap_err();
    assert!(matches!(&error, Error::Source(why) if why.contains("AAP went away")), "{error:?}");
    let (sender, receiver) = futures::channel::mpsc::unbounded::<io::Result<Bytes>>();
    sender.unbounded_send(Ok(Bytes::from(noise(500_000)))).unwrap();
    let whose = owner();
    let put = store.put_log(KEY, &whose, "", receiver.boxed());
    assert!(tokio::time::timeout(Duration::from_millis(500), put).await.is_err(), "it is still streaming");
    drop(sender);
    until(async || bed.phase_files(KEY).len() == 2).await;
    let bytes = bed.get(&format!("/api/logs/{KEY}"), "alice-token").send().await.unwrap().bytes().await.unwrap();
    assert_eq!(bytes, "the one before");
}

#[tokio::test]
async fn an_unreachable_or_unwilling_server_is_unavailable_not_an_answer() {
    let bed = Bed::new().await;
    let store = bed.store();
    bed.world.lock().unwrap().down = true;
    assert!(matches!(store.record(KEY).await, Err(Error::Unavailable(_))), "the server cannot tell who asks");
    bed.world.lock().unwrap().down = false;
    assert_eq!(store.record(KEY).await.unwrap(), None);
    let missing = bed.directory.path().join("nothing");
    let no_token = Store::server(&bed.url("/"), Some(bed.directory.path().join("tls/ca.crt")), missing.clone()).unwrap();
    assert!(matches!(no_token.record(KEY).await, Err(Error::Unavailable(_))));
    let no_ca = Store::server(&bed.url("/"), Some(missing), bed.directory.path().join("token")).unwrap();
    assert!(matches!(no_ca.record(KEY).await, Err(Error::Unavailable(_))));
    let untrusted = Store::server(&bed.url("/"), None, bed.directory.path().join("token")).unwrap();
    assert!(matches!(untrusted.record(KEY).await, Err(Error::Unavailable(_))), "a CA of its own making is not trusted unasked");
    assert!(
        matches!(Store::server("http://plain.example.com", None, "token".into()), Err(Error::Rejected(_))),
        "the token goes over TLS only"
    );
    let elsewhere = Store::server("https://127.0.0.1:9/", None, bed.directory.path().join("token")).unwrap();
    assert!(matches!(elsewhere.record(KEY).await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_again_after_a_refusal() {
    let bed = Bed::new().await;
    let token = bed.directory.path().join("token");
    std::fs::write(&token, "expired").unwrap();
    let store = bed.store();
    assert!(matches!(store.record(KEY).await, Err(Error::Unavailable(_))));
    std::fs::write(&token, "manager-token").unwrap();
    assert_eq!(store.record(KEY).await.unwrap(), None);
}
