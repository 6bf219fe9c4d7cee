//! Slow, greedy and silent callers.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use http::header;

use crate::bed::{Bed, KEY, noise, sha256, tls, until};

const BIG: usize = 64 << 20;
/// More than any buffer on the way takes.
const LARGE: usize = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_log_goes_in_and_out_in_small_pieces() {
    let bed = Bed::new().await;
    let bytes = noise(BIG);
    let log = bed.put_log(KEY, &bytes).await;
    assert_eq!(log.sha256, sha256(&bytes));
    let mut answer = bed.get(&format!("/api/logs/{KEY}"), "alice-token").send().await.unwrap();
    let (mut size, mut most) = (0, 0f64);
    while let Some(chunk) = answer.chunk().await.unwrap() {
        assert_eq!(chunk, bytes[size..size + chunk.len()]);
        if size / (8 << 20) != (size + chunk.len()) / (8 << 20) {
            most = most.max(bed.metric("fettle_server_log_in_flight_bytes").await);
        }
        size += chunk.len();
    }
    assert_eq!(size, BIG);
    assert!(most <= f64::from(256 << 10), "{most} bytes were in flight");
    assert!((bed.metric("fettle_server_log_in_flight_bytes").await).abs() < 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_does_not_read_holds_the_archive_back_and_is_cut_off() {
    let bed = Bed::with(&["--idle-timeout", "1s"]).await;
    bed.put_log(KEY, &noise(LARGE)).await;
    let ca = bed.directory.path().join("tls/ca.crt");
    let address = bed.address;
    // HTTP/1.1: the socket fills up
    let connection = tokio::task::spawn_blocking(move || {
        let mut connection = tls(address, &ca, Duration::from_secs(20));
        write!(connection, "GET /api/logs/{KEY} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer alice-token\r\n\r\n").unwrap();
        connection.flush().unwrap();
        connection
    })
    .await
    .unwrap();
    // HTTP/2: the window of the stream fills up, while the connection lives
    let answer = bed.get(&format!("/api/logs/{KEY}"), "alice-token").send().await.unwrap();
    until(async || bed.metric("fettle_server_log_read_bytes_total").await > 0.0).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let read = bed.metric("fettle_server_log_read_bytes_total").await;
    assert!(read < f64::from(24 << 20), "{read} bytes were read for two readers who take nothing");
    until(async || bed.metric("fettle_server_log_streams").await < 0.5).await;
    // both see that this was not the end of the log
    let mut connection = connection;
    let got = tokio::task::spawn_blocking(move || {
        let mut sink = Vec::new();
        let ended = connection.read_to_end(&mut sink);
        (sink.len(), ended.is_err())
    })
    .await
    .unwrap();
    assert!(got.0 < LARGE, "{got:?}");
    assert!(answer.bytes().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_downloads_four_logs_at_a_time() {
    let bed = Bed::new().await;
    bed.put_log(KEY, &noise(LARGE)).await;
    let path = format!("/api/logs/{KEY}");
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(bed.get(&path, "alice-token").send().await.unwrap());
    }
    let fifth = bed.get(&path, "alice-token").send().await.unwrap();
    assert_eq!(fifth.status(), 429);
    assert_eq!(fifth.headers()[header::RETRY_AFTER], "10");
    assert_eq!(fifth.headers()["content-type"], "application/problem+json");
    let look = bed.http.head(bed.url(&path)).bearer_auth("alice-token").send().await.unwrap();
    assert_eq!(look.status(), 200, "a look costs no place");
    assert_eq!(bed.get(&path, "admin-token").send().await.unwrap().status(), 200, "others are not in the way");
    drop(held);
    until(async || bed.status(&path, "alice-token").await == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_logs_are_downloaded_at_a_time() {
    let bed = Bed::new().await;
    bed.put_log(KEY, &noise(8 << 20)).await;
    {
        let mut world = bed.world.lock().unwrap();
        for n in 0..13 {
            let account =
                crate::bed::Account { user: serde_json::json!({"username": format!("user-{n}")}), audiences: vec!["fettle".into()] };
            world.tokens.insert(format!("token-{n}"), account);
            world.grants.insert((format!("user-{n}"), "patching".into(), "*".into()));
        }
    }
    let mut held = Vec::new();
    let mut codes = Vec::new();
    for n in 0..52 {
        let answer = bed.get(&format!("/api/logs/{KEY}"), &format!("token-{}", n % 13)).send().await.unwrap();
        codes.push(answer.status().as_u16());
        held.push(answer);
    }
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 50);
    assert_eq!(codes[50..], [429, 429]);
}

#[tokio::test]
async fn a_caller_who_does_not_finish_asking_is_dropped() {
    let bed = Bed::with(&["--idle-timeout", "500ms"]).await;
    for beginning in
        ["", "P", "PRI * HTTP/2.0\r\n", "GET /health HTTP/1.1\r\nhost: local", "GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: "]
    {
        let started = Instant::now();
        bed.raw(beginning.as_bytes(), Duration::from_secs(20)).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{beginning:?} held a connection for {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let bed = Bed::new().await;
    let large = format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx-large: {}\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x-many: a\r\n".repeat(100));
    for head in [large, many] {
        let answer = bed.raw(head.as_bytes(), Duration::from_secs(5)).await;
        assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn a_log_that_stops_arriving_is_given_up() {
    let bed = Bed::with(&["--idle-timeout", "500ms"]).await;
    let head = format!(
        "PUT /internal/logs/{KEY}?namespace=patching&name=web HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer manager-token\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    );
    let answer = bed.raw(head.as_bytes(), Duration::from_secs(20)).await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(bed.store().log_meta(KEY).await.unwrap(), None);
    assert_eq!(bed.phase_files(KEY), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_may_end_while_the_server_stops() {
    let mut bed = Bed::new().await;
    let bytes = noise(8 << 20);
    bed.put_log(KEY, &bytes).await;
    let answer = bed.get(&format!("/api/logs/{KEY}"), "alice-token").send().await.unwrap();
    bed.stop.take().unwrap().send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(std::net::TcpStream::connect(bed.address).is_err(), "nobody new is let in");
    assert_eq!(sha256(&answer.bytes().await.unwrap()), sha256(&bytes));
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut bed.task).await.expect("then it ends").unwrap();
    assert!(ended.is_ok());
}
