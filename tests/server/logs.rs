//! Downloading a log.

use std::{io::Read as _, time::Duration};

use http::header;
use serde_json::Value;

use crate::bed::{Bed, KEY, UNKNOWN, noise, sha256};

#[tokio::test]
async fn the_owner_downloads_the_very_bytes() {
    let bed = Bed::new().await;
    let bytes = noise(300_000);
    let log = bed.put_log(KEY, &bytes).await;
    assert_eq!((log.id.as_str(), log.size, log.sha256.as_str()), (KEY, 300_000, sha256(&bytes).as_str()));
    let answer = bed.get(&format!("/api/logs/{KEY}"), "alice-token").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "300000"),
        ("accept-ranges", "bytes"),
        ("etag", &format!("\"{}\"", sha256(&bytes))),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", &format!("attachment; filename=\"{KEY}.log\"")),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("cache-control", "private, no-cache"),
    ] {
        assert_eq!(headers.get(name).map(|v| v.to_str().unwrap()), Some(value), "{name}");
    }
    assert!(headers.get("server").is_none(), "no banner");
    assert_eq!(sha256(&answer.bytes().await.unwrap()), log.sha256);
}

#[tokio::test]
async fn head_tells_all_but_the_bytes_and_a_known_log_is_not_sent_again() {
    let bed = Bed::new().await;
    let log = bed.put_log(KEY, b"PLAY RECAP\n").await;
    let path = format!("/api/logs/{KEY}");
    let head = bed.http.head(bed.url(&path)).bearer_auth("alice-token").send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"], head.headers().contains_key("etag")),
        (200, &"11".parse().unwrap(), true)
    );
    assert_eq!(head.bytes().await.unwrap().len(), 0);
    for tag in [format!("\"{}\"", log.sha256), format!("W/\"{}\"", log.sha256), "*".into()] {
        let answer = bed.get(&path, "alice-token").header(header::IF_NONE_MATCH, tag).send().await.unwrap();
        assert_eq!(answer.status(), 304);
        assert!(answer.headers().contains_key("etag"));
    }
    let answer = bed.get(&path, "alice-token").header(header::IF_NONE_MATCH, "\"other\"").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(bed.get(&path, "").header(header::IF_NONE_MATCH, "*").send().await.unwrap().status(), 401, "who asks comes first");
}

#[tokio::test]
async fn a_part_of_a_log_can_be_had() {
    let bed = Bed::new().await;
    let bytes = noise(200_000);
    let log = bed.put_log(KEY, &bytes).await;
    let ask = |range: &str| bed.get(&format!("/api/logs/{KEY}"), "alice-token").header(header::RANGE, range.to_owned());
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=1000-1999", 1000..2000),
        ("bytes=150000-", 150_000..200_000),
        ("bytes=-5", 199_995..200_000),
        ("bytes=199999-400000", 199_999..200_000),
    ] {
        let answer = ask(range).header(header::ACCEPT_ENCODING, "gzip").send().await.unwrap();
        assert_eq!(answer.status(), 206, "{range}");
        assert_eq!(answer.headers()["content-range"].to_str().unwrap(), format!("bytes {}-{}/200000", expected.start, expected.end - 1));
        assert!(!answer.headers().contains_key("content-encoding"), "offsets are those of the log");
        assert_eq!(answer.bytes().await.unwrap(), bytes[expected]);
    }
    for range in ["bytes=200000-", "bytes=-0"] {
        let answer = ask(range).send().await.unwrap();
        assert_eq!(answer.status(), 416, "{range}");
        assert_eq!(answer.headers()["content-range"], "bytes */200000");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    for range in ["bytes=0-1,5-6", "lines=1-2", "bytes=5-1"] {
        let answer = ask(range).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(200_000)), "{range} is ignored");
    }
    let changed = ask("bytes=0-9").header(header::IF_RANGE, "\"an older log\"").send().await.unwrap();
    assert_eq!(changed.status(), 200, "a part of another log is of no use");
    let same = ask("bytes=0-9").header(header::IF_RANGE, format!("\"{}\"", log.sha256)).send().await.unwrap();
    assert_eq!(same.status(), 206);
}

#[tokio::test]
async fn a_log_is_compressed_when_asked() {
    let bed = Bed::new().await;
    let bytes = b"TASK [kernel : install] ok: [web-1]\n".repeat(20_000);
    bed.put_log(KEY, &bytes).await;
    let answer = bed.get(&format!("/api/logs/{KEY}"), "alice-token").header(header::ACCEPT_ENCODING, "gzip").send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert_eq!(answer.headers()["etag"].to_str().unwrap(), format!("W/\"{}\"", sha256(&bytes)), "other bytes, so a weak tag");
    let vary: Vec<_> = answer.headers().get_all("vary").iter().map(|v| v.to_str().unwrap().to_lowercase()).collect();
    assert!(vary.concat().contains("accept-encoding") && vary.concat().contains("authorization"), "{vary:?}");
    let sent = answer.bytes().await.unwrap();
    assert!(sent.len() < bytes.len() / 10, "{} bytes", sent.len());
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&sent[..]).read_to_end(&mut plain).unwrap();
    assert_eq!(sha256(&plain), sha256(&bytes));
    let plain = bed.get(&format!("/api/logs/{KEY}"), "alice-token").send().await.unwrap();
    assert!(!plain.headers().contains_key("content-encoding"), "not unless asked");
}

#[tokio::test]
async fn what_one_may_not_see_looks_like_what_does_not_exist() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"secret host names").await;
    let mut answers = Vec::new();
    for (path, token) in [(KEY, "mallory-token"), (UNKNOWN, "mallory-token"), (UNKNOWN, "alice-token")] {
        let answer = bed.get(&format!("/api/logs/{path}"), token).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{path} {token}");
        let headers: Vec<_> = answer
            .headers()
            .iter()
            .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        let mut body: Value = answer.json().await.unwrap();
        body["requestId"] = Value::Null;
        answers.push((headers, body));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    assert!(!answers[0].1.to_string().contains("patching"), "the owner is not named");
    assert_eq!(bed.status(&format!("/api/logs/{UNKNOWN}"), "admin-token").await, 404, "who may see all may know");
    assert_eq!(bed.status(&format!("/api/logs/{KEY}"), "admin-token").await, 200);
}

#[tokio::test]
async fn no_path_leads_out_of_the_archive() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"log").await;
    std::fs::write(bed.directory.path().join("archive/secret"), "secret").unwrap();
    for id in [
        "../secret",
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "..%252fsecret",
        "....//secret",
        "%00",
        "v1-abcdefghijklmnopq234-apply%00",
        "v1-abcdefghijklmnopq234-apply%2f..%2f..%2fsecret",
        "v1-abcdefghijklmnopq234-apply/log.json",
        "V1-ABCDEFGHIJKLMNOPQ234-APPLY",
        "%ff%fe",
        "..%5csecret",
        "v1-abcdefghijklmnopq234-apply%0d%0aX:%20y",
        "",
    ] {
        for token in ["admin-token", "alice-token"] {
            let request =
                format!("GET /api/logs/{id} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
            let answer = String::from_utf8_lossy(&bed.raw(request.as_bytes(), Duration::from_secs(5)).await).into_owned();
            let status: u16 = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default();
            assert!(status == 404 || status == 400, "{id}: {answer}");
            assert!(answer.contains("application/problem+json") && !answer.contains("x: y"), "{id}: {answer}");
        }
        let request = format!("GET /api/logs/{id} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = String::from_utf8_lossy(&bed.raw(request.as_bytes(), Duration::from_secs(5)).await).into_owned();
        assert!(["HTTP/1.1 401", "HTTP/1.1 404", "HTTP/1.1 400"].iter().any(|s| answer.starts_with(s)), "{id}: {answer}");
    }
}

#[tokio::test]
async fn a_log_whose_retention_is_over_is_gone_and_its_record_stays() {
    let bed = Bed::new().await;
    let log = bed.put_log(KEY, b"log").await;
    let record = crate::bed::record(KEY, fettle::api::patch_run::Phase::Apply, Some(log), vec![]);
    bed.store().put_record(&record).await.unwrap();
    let archive = fettle::archive::Archive::directory(bed.directory.path().join("archive")).unwrap();
    let day = jiff::SignedDuration::from_hours(24);
    let swept = archive.sweep(fettle::clock::now() + day * 31, day * 30, day * 365).await.unwrap();
    assert_eq!((swept.logs, swept.records), (1, 0));
    assert_eq!(bed.status(&format!("/api/logs/{KEY}"), "alice-token").await, 404, "its owner may know that it is gone");
    assert_eq!(bed.status(&format!("/api/logs/{KEY}"), "mallory-token").await, 403);
    assert_eq!(bed.status("/api/runs/patching/web", "alice-token").await, 200);
    assert_eq!(bed.store().record(KEY).await.unwrap(), Some(record));
}

#[tokio::test]
async fn an_empty_log_is_a_log() {
    let bed = Bed::new().await;
    bed.put_log(KEY, b"").await;
    let answer = bed.get(&format!("/api/logs/{KEY}"), "alice-token").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, 0));
    let part = bed.get(&format!("/api/logs/{KEY}"), "alice-token").header(header::RANGE, "bytes=0-").send().await.unwrap();
    assert_eq!(part.status(), 416);
}
