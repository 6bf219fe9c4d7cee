//! What the server refuses.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;

use crate::{
    By, Row,
    server::{Bed, KEY, UNKNOWN},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// One `GET`: class, what it is in words, path, headers, the status that comes back.
struct Asked {
    id: &'static str,
    sent: String,
    path: String,
    headers: Vec<(&'static str, String)>,
    status: u16,
}

fn get(id: &'static str, path: String, token: &str, status: u16, sent: &str) -> Asked {
    let headers = if token.is_empty() { vec![] } else { vec![("authorization", format!("Bearer {token}"))] };
    Asked { id, sent: sent.into(), path, headers, status }
}

impl Asked {
    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// As it goes over the wire: a library would tidy the path up.
    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("GET {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n", self.path);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        (head + "\r\n").into_bytes()
    }
}

fn all() -> Vec<Asked> {
    let log = || format!("/api/logs/{KEY}");
    let mut all = vec![];
    for id in ["../secret", "%2e%2e%2fsecret", "..%252fsecret", "/secret", "..%5csecret", "%00", "%ff%fe"] {
        let status = if id == "%ff%fe" { 400 } else { 404 };
        all.push(get("B44", format!("/api/logs/{id}"), "admin-token", status, &format!("`GET /api/logs/{id}`")));
    }
    all.push(get("B44", format!("/api/logs/{}", "a".repeat(8 << 10)), "admin-token", 404, "a path of 8 KiB"));
    all.push(get("B45", log(), "mallory-token", 403, "a log of another team's run"));
    all.push(get("B45", format!("/api/logs/{UNKNOWN}"), "mallory-token", 403, "a log that does not exist"));
    all.push(get("B45", format!("/api/logs/{UNKNOWN}"), "admin-token", 404, "the same, by who may read everything"));
    for (range, status) in [("bytes=5-2", 200), ("bytes=999999999-", 416), ("lines=1-2", 200)] {
        all.push(get("B48", log(), "alice-token", status, &format!("`Range: {range}`")).header("range", range));
    }
    let many = format!("bytes={}", (0..1000).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(","));
    all.push(get("B48", log(), "alice-token", 200, "a thousand ranges").header("range", &many));
    all.push(get("B49", log(), "", 401, "no token"));
    all.push(get("B49", log(), "", 401, "`Authorization: Basic …`").header("authorization", "Basic YWxpY2U6YWxpY2UtdG9rZW4="));
    all.push(get("B49", log(), "alice-token", 401, "two `Authorization` headers").header("authorization", "Bearer admin-token"));
    all.push(get("B49", log(), &"a".repeat(64 << 10), 431, "a token of 64 KiB"));
    all.push(get("B49", log(), "robot-api-token", 401, "a ServiceAccount's token for another audience"));
    all.push(get("B49", log(), "expired-token", 401, "a token that nobody knows, or that expired"));
    all.push(get("B49", log(), "nameless-token", 401, "a token of a user without a name"));
    all.push(get("B49", format!("{}?token=alice-token", log()), "", 401, "a token in the address"));
    all
}

/// Little that unfolds to 16 MiB.
fn bomb() -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(&vec![b' '; 16 << 20]).unwrap();
    gzip.finish().unwrap()
}

/// Bodies that are too much: what they are, the request, the status that comes back.
fn bodies(bed: &Bed) -> [(&'static str, reqwest::RequestBuilder, u16); 3] {
    let put = || {
        let request = bed.http.put(bed.url(&format!("/internal/records/{UNKNOWN}"))).bearer_auth("manager-token");
        request.header("content-type", "application/json")
    };
    let endless = futures::stream::repeat(bytes::Bytes::from(vec![b' '; 64 << 10])).map(Ok::<_, std::io::Error>);
    [
        ("a record of 9 MiB", put().body(vec![b' '; 9 << 20]), 413),
        ("a record without end", put().body(reqwest::Body::wrap_stream(endless)), 413),
        ("a record as gzip that would unfold to 16 MiB", put().header("content-encoding", "gzip").body(bomb()), 400),
    ]
}

/// Sends all of them; one row each.
pub async fn rows() -> Vec<Row> {
    let bed = Bed::with(&["--idle-timeout", "500ms"]).await;
    let account = crate::server::Account {
        user: serde_json::json!({"username": "", "groups": ["system:masters"]}),
        audiences: vec!["fettle".into()],
    };
    bed.world.lock().unwrap().tokens.insert("nameless-token".into(), account);
    let bytes = b"PLAY RECAP\n";
    bed.put_log(KEY, bytes).await;
    std::fs::write(bed.directory.path().join("archive/secret"), "secret").unwrap();
    let before = (bed.phase_files(KEY), bed.phase_files(UNKNOWN));
    let (mut rows, mut wrong) = (vec![], vec![]);
    for asked in all() {
        let answer = bed.raw(&asked.bytes(), PATIENCE).await;
        let (status, says) = told(&answer);
        if status != asked.status {
            wrong.push(format!("{}: {}", asked.sent, String::from_utf8_lossy(&answer)));
        }
        let by = if status < 400 { By::Nobody } else { By::Http };
        rows.push(Row { id: asked.id, sent: asked.sent, by, says });
    }
    for (sent, request, expected) in bodies(&bed) {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let problem: Value = answer.json().await.unwrap_or_default();
        if status != expected {
            wrong.push(format!("{sent}: {status} {problem}"));
        }
        rows.push(Row {
            id: "B50",
            sent: sent.into(),
            by: By::Http,
            says: format!("{status}: {}", problem["detail"].as_str().unwrap_or_default()),
        });
    }
    let slow = bed.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ", PATIENCE).await;
    assert_eq!(told(&slow), (0, "the connection is closed".to_owned()));
    rows.push(Row { id: "B50", sent: "a head that never ends".into(), by: By::Http, says: told(&slow).1 });
    assert!(wrong.is_empty(), "other answers: {}", wrong.join("\n"));
    assert_eq!((bed.phase_files(KEY), bed.phase_files(UNKNOWN)), before, "nothing was written");
    let log = bed.get(&format!("/api/logs/{KEY}"), "alice-token").send().await.unwrap();
    assert_eq!((log.status().as_u16(), &log.bytes().await.unwrap()[..]), (200, &bytes[..]));
    rows
}

/// Status of an answer, and what it says; 0 for a connection that is closed.
fn told(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return (0, "the connection is closed".into()) };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let says = match (problem["detail"].as_str(), status) {
        (Some(detail), _) => format!("{status}: {detail}"),
        (None, 200) => "200: the whole log".into(),
        (None, _) => status.to_string(),
    };
    (status, says)
}
