//! A run as it goes on, as server-sent events.

use std::time::Duration;

use fettle::api::patch_run::{LogRef, Phase};
use serde_json::{Value, json};

use crate::{
    bed::{Bed, host, noise, record, sha256, until},
    cluster::run_path,
};

const RUN: &str = "v1-abcdefghijklmnopq234";
const PATH: &str = "/api/runs/patching/web/events";

/// One event, or a comment without a name.
#[derive(Clone, Debug, Default, PartialEq)]
struct Event {
    name: String,
    id: Option<String>,
    data: Value,
}

/// A stream of events as a client reads it.
struct Reader {
    answer: reqwest::Response,
    buffer: String,
}

impl Reader {
    async fn new(bed: &Bed, last: Option<&str>) -> Self {
        let mut request = bed.get(PATH, "alice-token").header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (200, &"text/event-stream".parse().unwrap()));
        Self { answer, buffer: String::new() }
    }

    /// The next event or comment; `None` at the end.
    async fn any(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(": ").unwrap_or((line.trim_end_matches(':'), "")) {
                        ("event", name) => name.clone_into(&mut event.name),
                        ("id", id) => event.id = Some(id.to_owned()),
                        ("data", data) => event.data = serde_json::from_str(data).unwrap(),
                        ("retry" | "", _) => {}
                        (other, _) => panic!("{other}: {block}"),
                    }
                }
                self.buffer = String::from(rest);
                return Some(event);
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.answer.chunk()).await.expect("nothing comes").unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.any().await?;
            if !event.name.is_empty() {
                return Some(event);
            }
        }
    }

    async fn rest(&mut self) -> Vec<Event> {
        let mut events = vec![];
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn phase(phase: Phase, result: Option<&str>, log: Option<&LogRef>) -> Value {
    let mut status = json!({"name": phase, "runKey": format!("{RUN}-{phase}"), "hosts": {"total": 1, "ok": 1, "changed": 0, "failed": 0, "unreachable": 0, "unknown": 0, "missing": 0}});
    if let Some(result) = result {
        status["result"] = json!(result);
    }
    if let Some(log) = log {
        status["log"] = json!(log);
    }
    status
}

fn run(state: &str, phases: &[Value]) -> Value {
    json!({
        "spec": {"connection": {"name": "prod"}, "group": 5, "desiredKernel": "6.1.0-53-cloud-amd64", "phases": ["precheck", "postcheck"]},
        "status": {"state": state, "phase": "precheck", "runKey": RUN, "phases": phases,
            "conditions": [{"type": "Succeeded", "status": "Unknown", "reason": "Running", "message": "precheck runs", "lastTransitionTime": "2026-11-21T10:00:00Z"}]},
    })
}

/// A log in the archive, sealed.
async fn sealed(bed: &Bed, of: Phase, bytes: &[u8]) -> LogRef {
    let key = format!("{RUN}-{of}");
    let log = bed.put_log(&key, bytes).await;
    bed.store().put_record(&record(&key, of, Some(log.clone()), vec![host("web-1", fettle::api::patch_run::Outcome::Ok)])).await.unwrap();
    log
}

#[tokio::test]
async fn every_change_is_told_and_the_end() {
    let bed = Bed::new().await;
    let path = run_path("patching", "web");
    bed.cluster.put(&path, run("Running", &[]));
    let mut reader = Reader::new(&bed, None).await;
    let first = reader.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data["state"], &first.data["reason"]), ("state", &json!("Running"), &json!("Running")));
    let log = sealed(&bed, Phase::Precheck, b"all is well\n").await;
    bed.cluster.put(&path, run("Running", &[phase(Phase::Precheck, Some("OK"), Some(&log))]));
    let hosts = reader.next().await.unwrap();
    assert_eq!((hosts.name.as_str(), &hosts.data["phase"], &hosts.data["counts"]["ok"]), ("hosts", &json!("precheck"), &json!(1)));
    let line = reader.next().await.unwrap();
    assert_eq!((line.name.as_str(), &line.data["text"], &line.data["offset"]), ("log", &json!("all is well\n"), &json!(0)));
    assert_eq!(line.id, Some(format!("{RUN}-precheck:12")));
    let mut over = run("Completed", &[phase(Phase::Precheck, Some("OK"), Some(&log))]);
    (over["status"]["result"], over["status"]["logURL"]) = (json!("OK"), json!("https://fettle.example.com/api/logs/x"));
    bed.cluster.put(&path, over);
    let rest = reader.rest().await;
    let names: Vec<&str> = rest.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["state", "end"], "what was told is not told again");
    assert_eq!(rest[1].data, json!({"result": "OK", "logURL": "https://fettle.example.com/api/logs/x", "gone": false}));
    // who comes back after the end has nothing more to hear
    let back = bed.get(PATH, "alice-token").header("last-event-id", rest[1].id.as_deref().unwrap()).send().await.unwrap();
    assert_eq!(back.status(), 204);
    until(async || bed.metric("fettle_server_event_streams").await < 0.5).await;
}

#[tokio::test]
async fn one_who_comes_back_gets_what_follows_and_nothing_twice() {
    let bed = Bed::new().await;
    let lines: Vec<String> = (0..6000).map(|n| format!("line {n} of the precheck\n")).collect();
    let (first, second) = (lines.concat(), "line of the postcheck\n".repeat(2000));
    let logs = [sealed(&bed, Phase::Precheck, first.as_bytes()).await, sealed(&bed, Phase::Postcheck, second.as_bytes()).await];
    let phases = [phase(Phase::Precheck, Some("OK"), Some(&logs[0])), phase(Phase::Postcheck, Some("OK"), Some(&logs[1]))];
    bed.cluster.put(&run_path("patching", "web"), run("Completed", &phases));
    let whole = Reader::new(&bed, None).await.rest().await;
    let pieces: Vec<&Event> = whole.iter().filter(|event| event.name == "log").collect();
    let text = |events: &[&Event]| events.iter().map(|event| event.data["text"].as_str().unwrap()).collect::<String>();
    assert_eq!(text(&pieces), format!("{first}{second}"));
    assert!(pieces.len() > 8 && pieces.iter().all(|piece| piece.data["text"].as_str().unwrap().len() <= 16 << 10));
    assert!(pieces.iter().all(|piece| piece.data["text"].as_str().unwrap().ends_with('\n')), "whole lines");
    for at in [0, 3, pieces.len() - 2, pieces.len() - 1] {
        let rest = Reader::new(&bed, pieces[at].id.as_deref()).await.rest().await;
        let follow: Vec<&Event> = rest.iter().filter(|event| event.name == "log").collect();
        assert_eq!(text(&follow), text(&pieces[at + 1..]), "after piece {at}");
        assert_eq!(rest.last().unwrap().name, "end");
    }
    // what is not ours begins at the beginning
    for odd in ["nonsense", "v1-zzzzzzzzzzzzzzzzzzzz-precheck:7"] {
        let again = Reader::new(&bed, Some(odd)).await.rest().await;
        assert_eq!(again, whole, "{odd}");
    }
}

#[tokio::test]
async fn silence_is_broken_by_a_comment() {
    let bed = Bed::with(&["--heartbeat", "50ms"]).await;
    bed.cluster.put(&run_path("patching", "web"), run("Running", &[]));
    let mut reader = Reader::new(&bed, None).await;
    assert_eq!(reader.any().await.unwrap().name, "state");
    assert_eq!(reader.any().await.unwrap(), Event::default());
    bed.cluster.delete(&run_path("patching", "web"));
    let end = reader.next().await.unwrap();
    assert_eq!((end.name.as_str(), end.data), ("end", json!({"gone": true})));
}

#[tokio::test]
async fn who_may_not_get_the_run_hears_nothing() {
    let bed = Bed::new().await;
    bed.cluster.put(&run_path("patching", "web"), run("Running", &[]));
    for (path, token, code) in [
        (PATH, "", 401),
        (PATH, "mallory-token", 403),
        ("/api/runs/patching/nothing/events", "mallory-token", 403),
        ("/api/runs/patching/nothing/events", "alice-token", 404),
    ] {
        assert_eq!(bed.status(path, token).await, code, "{path} {token}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_follows_eight_runs_at_a_time_with_one_watch() {
    let bed = Bed::new().await;
    bed.cluster.put(&run_path("patching", "web"), run("Running", &[]));
    let mut readers = vec![];
    for _ in 0..8 {
        readers.push(Reader::new(&bed, None).await);
    }
    let ninth = bed.get(PATH, "alice-token").send().await.unwrap();
    assert_eq!((ninth.status().as_u16(), &ninth.headers()["retry-after"]), (429, &"10".parse().unwrap()));
    assert_eq!(bed.get(PATH, "admin-token").send().await.unwrap().status(), 200, "others are not in the way");
    assert_eq!(bed.cluster.watches("apis/fettle.dev/v1alpha1/patchruns"), 1);
    drop(readers);
    until(async || bed.status(PATH, "alice-token").await == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_takes_nothing_is_cut_off() {
    let bed = Bed::with(&["--idle-timeout", "1s"]).await;
    let big = noise(24 << 20);
    let log = sealed(&bed, Phase::Precheck, &big).await;
    assert_eq!(log.sha256, sha256(&big));
    bed.cluster.put(&run_path("patching", "web"), run("Running", &[phase(Phase::Precheck, Some("OK"), Some(&log))]));
    let held = bed.get(PATH, "alice-token").send().await.unwrap();
    until(async || bed.metric("fettle_server_event_streams").await > 0.5).await;
    until(async || bed.metric("fettle_server_event_streams").await < 0.5).await;
    drop(held);
}

#[tokio::test]
async fn streams_and_waits_end_when_the_server_stops() {
    let mut bed = Bed::new().await;
    bed.cluster.put(&run_path("patching", "web"), run("Running", &[]));
    let mut reader = Reader::new(&bed, None).await;
    assert_eq!(reader.next().await.unwrap().name, "state");
    let waiting = tokio::spawn(bed.ask("precheck", &json!({"group": 5, "namespace": "patching", "connection": "prod"})).send());
    until(async || bed.metric("fettle_server_waiting").await > 0.5).await;
    bed.stop.take().unwrap().send(()).unwrap();
    assert_eq!(reader.next().await, None);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 202);
}
