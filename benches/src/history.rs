//! Writing records into the history and reading pages of it, beside the statements that any program would need.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use axum::{Json, Router};
use clap::Parser as _;
use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use fettle::{
    api::patch_run::{HostCounts, Outcome, Phase, RunResult},
    archive::{
        Archive,
        record::{HostRecord, Record},
    },
    history::{Filter, History, Visible, settings::HistoryArgs},
    http::{Server, ServerArgs},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::Connection as _;

const HOSTS: usize = 20;
const RUNS: usize = 1_000;

/// Records of the runs from `first` on, in time order.
fn records(first: usize, runs: usize) -> Vec<Record> {
    let letters: Vec<char> = ('a'..='z').collect();
    let key = |n: usize| (0..5).map(|digit| letters[n / 26usize.pow(digit) % 26]).collect::<String>();
    let one = |n: usize, phase: Phase| Record {
        run_key: format!("v1-abcdefghijklmno{}-{phase}", key(n)),
        namespace: format!("team-{}", n % 10),
        name: format!("web-{n}"),
        attempt: 1,
        connection: "prod".into(),
        group: Some(fettle::api::shared::NameOrId::Id(i64::try_from(n % 50).unwrap())),
        desired_kernel: Some("6.1.0-53-cloud-amd64".into()),
        phase,
        result: if n.is_multiple_of(7) { RunResult::Error } else { RunResult::Ok },
        reason: "Succeeded".into(),
        message: format!("{HOSTS} of {HOSTS} hosts ended well"),
        executor: None,
        started_at: Some(Timestamp::from_second(1_800_000_000 + i64::try_from(n).unwrap() * 600).unwrap()),
        finished_at: Some(Timestamp::from_second(1_800_000_060 + i64::try_from(n).unwrap() * 600 + phase as i64 * 60).unwrap()),
        counts: HostCounts { total: 20, ok: 20, ..HostCounts::default() },
        hosts: (0..HOSTS)
            .map(|host| HostRecord {
                name: format!("web-{}-{host}.example.com", n % 50),
                outcome: Outcome::Changed,
                message: Some("1 of 1 checks passed".into()),
                error_code: None,
                guard: Some("executed".into()),
                kernel_before: Some("6.1.0-52-cloud-amd64".into()),
                kernel_after: Some("6.1.0-53-cloud-amd64".into()),
                boot_id_before: Some("c6a5c3b8-3a0e-4b1c-9d57-9a3c4f0a5f10".into()),
                boot_id_after: Some("0b7a2f0e-5b44-4a0c-8a35-0f1f1f0e2f77".into()),
                facts: None,
            })
            .collect(),
        log: None,
        classification: None,
    };
    (first..first + runs).flat_map(|n| Phase::ALL.map(|phase| one(n, phase))).collect()
}

#[derive(clap::Parser)]
struct Line<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

fn history(directory: &Path) -> History {
    let url = format!("sqlite://{}/history.db", directory.display());
    History::new(&Line::<HistoryArgs>::parse_from(["bench", "--database-url", &url]).args).unwrap()
}

/// The same rows into tables without keys or indices, one statement a row.
async fn plain(connection: &mut sqlx::SqliteConnection, records: &[Record]) {
    let mut tx = connection.begin().await.unwrap();
    for record in records {
        sqlx::query("INSERT INTO phases VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(&record.run_key)
            .bind(&record.namespace)
            .bind(&record.name)
            .bind(&record.connection)
            .bind(record.phase.as_str())
            .bind(&record.reason)
            .bind(&record.message)
            .bind(record.finished_at.unwrap().as_microsecond())
            .execute(&mut *tx)
            .await
            .unwrap();
        for host in &record.hosts {
            sqlx::query("INSERT INTO hosts VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
                .bind(&record.run_key)
                .bind(&host.name)
                .bind(&host.message)
                .bind(&host.guard)
                .bind(&host.kernel_before)
                .bind(&host.kernel_after)
                .bind(&host.boot_id_before)
                .bind(&host.boot_id_after)
                .execute(&mut *tx)
                .await
                .unwrap();
        }
    }
    tx.commit().await.unwrap();
}

async fn plain_tables(directory: &Path) -> sqlx::SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(directory.join("plain.db"))
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Normal);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE phases (a, b, c, d, e, f, g, h); CREATE TABLE hosts (a, b, c, d, e, f, g, h);")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

fn write(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let history = history(directory.path());
    let plainly = tokio::sync::Mutex::new(runtime.block_on(plain_tables(directory.path())));
    let next = AtomicUsize::new(0);
    let batch = || records(next.fetch_add(10, Ordering::Relaxed), 10);
    let mut group = c.benchmark_group("history: 50 phases of 20 hosts are added");
    group.sample_size(20).throughput(Throughput::Elements(50 * (HOSTS as u64 + 1)));
    group.bench_function("fettle", |b| {
        b.to_async(&runtime).iter_batched(
            batch,
            async |records| {
                for record in records {
                    history.index(&[record]).await.unwrap();
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("one INSERT a row, no keys, no index, a transaction a phase", |b| {
        b.to_async(&runtime).iter_batched(
            batch,
            async |records| {
                for record in records {
                    plain(&mut *plainly.lock().await, &[record]).await;
                }
            },
            BatchSize::PerIteration,
        );
    });
}

/// An API server that knows one person, who may do everything.
async fn kubernetes() -> kube::Client {
    let answer = async |Json(mut review): Json<Value>| {
        review["status"] = if review["kind"] == "TokenReview" {
            json!({"authenticated": true, "user": {"username": "alice"}, "audiences": ["fettle"]})
        } else {
            json!({"allowed": true})
        };
        Json(review)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let nothing =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"});
    let router = Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", axum::routing::post(answer))
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", axum::routing::post(answer))
        .fallback(async move || (axum::http::StatusCode::NOT_FOUND, Json(nothing.clone())));
    tokio::spawn(async move { axum::serve(listener, router).await });
    kube::Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

fn read(c: &mut Criterion) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let archive = Archive::directory(directory.path().join("archive")).unwrap();
    let (history, mut plainly) = (history(directory.path()), runtime.block_on(plain_tables(directory.path())));
    runtime.block_on(async {
        for some in records(0, RUNS).chunks(50) {
            history.index(some).await.unwrap();
            plain(&mut plainly, some).await;
        }
        history.catch_up(&archive, Timestamp::UNIX_EPOCH).await.unwrap();
    });
    let filter = Filter { group: Some("5".into()), ..Filter::default() };
    let mut group = c.benchmark_group("history: the last 20 phases of a group, of 1,000 runs");
    group.bench_function("fettle", |b| {
        b.to_async(&runtime).iter(async || {
            assert_eq!(history.page(&Visible::All, &filter, 20, None).await.unwrap().items.len(), 20);
        });
    });
    let plainly = tokio::sync::Mutex::new(plainly);
    group.bench_function("SELECT … ORDER BY … LIMIT 20 without an index", |b| {
        b.to_async(&runtime).iter(async || {
            let query = sqlx::query("SELECT * FROM phases WHERE b = 'team-5' ORDER BY h DESC LIMIT 20");
            assert_eq!(query.fetch_all(&mut *plainly.lock().await).await.unwrap().len(), 20);
        });
    });
    group.finish();

    let (archive, tls, database) = (path("archive"), path("tls"), format!("sqlite://{}", path("history.db")));
    let line = ["bench", "--listen", "127.0.0.1:0", "--archive-dir", &archive, "--tls-dir", &tls, "--database-url", &database];
    let (base, http) = runtime.block_on(async {
        let server = Server::bind(Line::<ServerArgs>::parse_from(line).args, kubernetes().await).await.unwrap();
        let ca = reqwest::Certificate::from_pem_bundle(&std::fs::read(server.ca().unwrap()).unwrap()).unwrap();
        let base = format!("https://{}", server.address());
        tokio::spawn(server.run(std::future::pending()));
        (base, reqwest::Client::builder().tls_certs_only(ca).build().unwrap())
    });
    let ask = async |path: &str| {
        let answer = http.get(format!("{base}{path}")).bearer_auth("token").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap()
    };
    let mut group = c.benchmark_group("history: GET /api/history?group=5 over TLS, of 1,000 runs");
    group.bench_function("fettle", |b| b.to_async(&runtime).iter(async || ask("/api/history?group=5").await));
    group.bench_function("GET /health of the same server", |b| b.to_async(&runtime).iter(async || ask("/health").await));
    group.finish();
    for path in ["/api/history?group=5", "/api/history?limit=200", "/api/host/web-5-3.example.com", "/health"] {
        let mut took: Vec<Duration> = (0..500)
            .map(|_| {
                let started = Instant::now();
                runtime.block_on(ask(path));
                started.elapsed()
            })
            .collect();
        took.sort();
        println!("GET {path} of {RUNS} runs: p50 {:?}, p99 {:?}", took[took.len() / 2], took[took.len() * 99 / 100]);
    }
}

criterion_group!(benches, write, read);
