//! Databases for the tests: a file, or a PostgreSQL of our own.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clap::Parser as _;
use fettle::{
    api::{
        classification::{Classification, Tier},
        patch_run::{HostCounts, Outcome, Phase, RunResult},
        shared::NameOrId,
    },
    archive::{
        Key,
        record::{HostRecord, Record},
    },
    history::{History, settings::HistoryArgs},
};
use sqlx::{Column as _, Connection as _, Row as _};
use tempfile::TempDir;

/// Of the user `fettle` of every cluster here.
pub const PASSWORD: &str = "c4n4ry-right";
const TABLES: [&str; 6] = ["incidents", "facts", "host_results", "phases", "runs", "questions"];

/// Key of the n-th run's phase.
pub fn key(n: usize, phase: Phase) -> String {
    let letters: Vec<char> = ('a'..='z').collect();
    let end: String = [n / 676, n / 26, n].map(|n| letters[n % 26]).iter().collect();
    format!("v1-abcdefghijklmnopq{end}-{phase}")
}

pub fn host(name: &str, outcome: Outcome) -> HostRecord {
    HostRecord {
        name: name.into(),
        outcome,
        message: None,
        error_code: None,
        guard: None,
        kernel_before: None,
        kernel_after: None,
        boot_id_before: None,
        boot_id_after: None,
        facts: None,
    }
}

/// A phase of group 5 that ended well.
pub fn record(key: &str) -> Record {
    Record {
        run_key: key.into(),
        namespace: "patching".into(),
        name: "web".into(),
        attempt: 1,
        connection: "prod".into(),
        group: Some(NameOrId::Id(5)),
        desired_kernel: Some("6.1.0-53-cloud-amd64".into()),
        phase: Key::parse(key).unwrap().phase(),
        result: RunResult::Ok,
        reason: "Succeeded".into(),
        message: "every host is proven".into(),
        executor: None,
        started_at: Some("2026-11-21T10:00:00Z".parse().unwrap()),
        finished_at: Some("2026-11-21T10:02:05.123456Z".parse().unwrap()),
        counts: HostCounts { total: 1, ok: 1, ..HostCounts::default() },
        hosts: vec![host("web-1", Outcome::Ok)],
        log: None,
        classification: None,
    }
}

/// The same, failed with that code.
pub fn classified(record: Record, code: &str) -> Record {
    let classification = Classification { error_code: code.into(), also: vec![], tier: Tier::Decisive, evidence: None };
    Record { result: RunResult::Error, reason: "HostsFailed".into(), classification: Some(classification), ..record }
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: HistoryArgs,
}

pub fn args(url: &str, more: &[&str]) -> HistoryArgs {
    Line::parse_from(["history", "--database-url", url].iter().chain(more)).args
}

/// A database of its own, with a directory beside it.
pub struct Place {
    url: String,
    directory: TempDir,
}

impl Place {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { url: format!("sqlite://{}/history/history.db", directory.path().display()), directory }
    }

    pub async fn postgres() -> Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Cluster::start).place().await
    }

    /// One more, of the same kind.
    pub async fn another(&self) -> Self {
        if self.is_file() { Self::sqlite() } else { Self::postgres().await }
    }

    /// How often something random is tried.
    pub fn cases(&self) -> usize {
        if self.is_file() { 60 } else { 12 }
    }

    pub fn history(&self) -> History {
        self.history_with(&[])
    }

    pub fn history_with(&self, more: &[&str]) -> History {
        History::new(&args(&self.url, more)).unwrap()
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self) -> PathBuf {
        self.url.strip_prefix("sqlite://").unwrap().into()
    }

    fn is_file(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    async fn connect(&self) -> sqlx::AnyConnection {
        sqlx::any::install_default_drivers();
        sqlx::AnyConnection::connect(&self.url).await.unwrap()
    }

    pub async fn execute(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut self.connect().await).await.unwrap();
    }

    /// Removes every row.
    pub async fn empty(&self) {
        self.history().namespaces().await.unwrap();
        for table in TABLES {
            self.execute(&format!("DELETE FROM {table}")).await;
        }
    }

    /// Every table, sorted, but for what differs from time to time.
    pub async fn tables(&self) -> BTreeMap<&'static str, Vec<BTreeMap<String, Option<String>>>> {
        let mut connection = self.connect().await;
        let mut found = BTreeMap::new();
        for table in TABLES {
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT * FROM {table}"))).fetch_all(&mut connection).await.unwrap();
            let text = |row: &sqlx::any::AnyRow, name: &str| {
                row.try_get::<Option<String>, _>(name)
                    .or_else(|_| row.try_get::<Option<i64>, _>(name).map(|number| number.map(|n| n.to_string())))
                    .unwrap()
            };
            let row = |row: &sqlx::any::AnyRow| row.columns().iter().map(|c| (c.name().to_owned(), text(row, c.name()))).collect();
            let mut rows: Vec<BTreeMap<String, Option<String>>> = rows.iter().map(row).collect();
            rows.sort();
            found.insert(table, rows);
        }
        found
    }
}

/// A PostgreSQL of Debian's package. It ends, and its files go, with this process, however that ends.
pub struct Cluster {
    directory: PathBuf,
    port: u16,
    /// Lives as long as its standard input is open.
    keeper: Option<Child>,
}

/// Where Debian puts the programs, the newest version last.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.map(|entry| entry.unwrap().path().join("bin")).filter(|bin| bin.join("initdb").exists()).collect())
        .unwrap_or_default();
    found.sort();
    found.pop().expect("the package postgresql must be installed (tests/run world does it)")
}

/// PostgreSQL does not run as root.
fn unprivileged(script: &str) -> Command {
    let root = std::fs::metadata("/proc/self").map(|about| std::os::unix::fs::MetadataExt::uid(&about) == 0).unwrap();
    let mut command = Command::new(if root { "runuser" } else { "sh" });
    if root {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    command.args(["-c", script, "sh"]).env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs().display())).current_dir("/");
    command
}

impl Cluster {
    pub fn start() -> Self {
        // a path for the socket must be short
        let script = r#"set -e; d=$(mktemp -d /tmp/fettle-pg.XXXXXX); echo "$1" >"$d/password"
            initdb --pgdata "$d/data" --username fettle --pwfile "$d/password" --auth scram-sha-256 --no-sync --encoding UTF8 >&2
            echo "$d""#;
        let made = unprivileged(script).arg(PASSWORD).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let directory = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut cluster = Self { directory, port, keeper: None };
        cluster.run();
        cluster
    }

    fn run(&mut self) {
        let script = r#"postgres -D "$1/data" -p "$2" -h 127.0.0.1 -k "$1" -c fsync=off >>"$1/log" 2>&1 </dev/null & pid=$!
            trap '' INT TERM; read -r end; kill -INT $pid; wait $pid; [ "$end" = keep ] || rm -rf "$1""#;
        let keeper = unprivileged(script).arg(&self.directory).arg(self.port.to_string()).stdin(Stdio::piped()).spawn().unwrap();
        self.keeper = Some(keeper);
    }

    /// Stops the server and keeps its files.
    pub fn stop(&mut self) {
        use std::io::Write as _;
        let mut keeper = self.keeper.take().unwrap();
        keeper.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        keeper.wait().unwrap();
    }

    /// Starts it again.
    pub async fn resume(&mut self) {
        self.run();
        self.connection().await;
    }

    /// A connection, as soon as the server accepts one.
    async fn connection(&self) -> sqlx::AnyConnection {
        sqlx::any::install_default_drivers();
        let url = format!("postgres://fettle:{PASSWORD}@127.0.0.1:{}/postgres", self.port);
        let mut last = None;
        for _ in 0..600 {
            match sqlx::AnyConnection::connect(&url).await {
                Ok(connection) => return connection,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{last:?}: {}", std::fs::read_to_string(self.directory.join("log")).unwrap_or_default());
    }

    /// A new database.
    pub async fn place(&self) -> Place {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create).execute(&mut self.connection().await).await.unwrap();
        let url = format!("postgres://fettle:{PASSWORD}@127.0.0.1:{}/{name}", self.port);
        Place { url, directory: tempfile::tempdir().unwrap() }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}
