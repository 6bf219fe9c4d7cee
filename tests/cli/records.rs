//! What comes from fettle-server, a real one, and from the pods of checks.

use fettle::{
    api::{
        classification::{Classification, Evidence, Tier},
        patch_run::{LogRef, Outcome, Phase, RunResult},
    },
    archive::record::{HostRecord, Record},
};
use serde_json::json;

use crate::{
    bed::{Bed, failed, ok, pending, run_path, running, spec, staging},
    server::{self, host, record},
    tekton::{Found, Tekton},
};

const PRECHECK: &str = "v1-abcdefghijklmnopq234-precheck";
const STAGE: &str = "v1-abcdefghijklmnopq234-stage";

/// A cluster and the server of its archive.
struct Both {
    cluster: Bed,
    server: server::Bed,
}

impl Both {
    async fn new() -> Self {
        let both = Self { cluster: Bed::new().await, server: server::Bed::new().await };
        both.publish();
        both
    }

    /// As the server and the configuration say where it is, and whom to trust.
    fn publish(&self) {
        let ca = std::fs::read_to_string(self.server.directory.path().join("tls/ca.crt")).unwrap();
        let url = format!("https://localhost:{}", self.server.address.port());
        self.cluster.api.put("api/v1/namespaces/fettle-system/configmaps/fettle-server-ca", json!({"data": {"ca.crt": ca, "url": url}}));
    }

    async fn put(&self, key: &str, phase: Phase, text: &str, hosts: Vec<HostRecord>) -> LogRef {
        let log = self.server.put_log(key, text.as_bytes()).await;
        let mut record = record(key, phase, Some(log.clone()), hosts);
        if record.hosts.iter().any(|host| !host.outcome.is_good()) {
            let evidence =
                Evidence { line: 312, excerpt: "No space left on /boot".into(), captures: [("fileSystem".into(), "/boot".into())].into() };
            let cause = Classification {
                error_code: "E-DISK-BOOT".into(),
                also: vec!["E-PKG-LOCK".into()],
                tier: Tier::Decisive,
                evidence: Some(evidence),
            };
            record = Record { result: RunResult::Error, reason: "HostsFailed".into(), classification: Some(cause), ..record };
        }
        self.server.store().put_record(&record).await.unwrap();
        log
    }

    /// Says in the status that a phase has a log.
    fn point(&self, phase: usize, log: &LogRef) {
        let log = serde_json::to_value(log).unwrap();
        self.cluster.api.edit(&run_path("web"), |run| run["status"]["phases"][phase]["log"] = log);
    }
}

#[tokio::test]
async fn archived_logs_come_byte_by_byte() {
    let both = Both::new().await;
    let text = "PLAY [check]\n\u{1b}[0;32mok: [web-1]\u{1b}[0m\nno end of line";
    let log = both.put(PRECHECK, Phase::Precheck, text, vec![host("web-1", Outcome::Ok)]).await;
    both.cluster.put_run("web", spec(), ok());
    both.point(0, &log);
    let said = both.cluster.fettle("logs web").await.expect(0);
    assert_eq!(said.out, text);
    let stage = both.cluster.fettle("logs web --phase stage").await.expect(1);
    assert!(stage.err.contains("stage has no log yet"), "{}", stage.err);
}

#[tokio::test]
async fn logs_of_several_phases_have_heads_and_may_be_of_one_host() {
    let both = Both::new().await;
    let (a, b) = ("TASK [a] **\nok: [web-1]\nok: [web-2]\n", "TASK [b] **\nok: [web-1]\nfatal: [web-2]: FAILED! => {}\n");
    let first = both.put(PRECHECK, Phase::Precheck, a, vec![]).await;
    let second = both.put(STAGE, Phase::Stage, b, vec![]).await;
    let mut status = failed();
    let phase = ok()["phases"][0].clone();
    status["phases"].as_array_mut().unwrap().insert(0, phase);
    both.cluster.put_run("web", spec(), status);
    both.point(0, &first);
    both.point(1, &second);
    let said = both.cluster.fettle("logs web").await.expect(0);
    assert_eq!(said.out, format!("==> precheck <==\n{a}==> stage <==\n{b}"));
    let said = both.cluster.fettle("logs web --phase stage --host web-2").await.expect(0);
    assert_eq!(said.out, "TASK [b] **\nfatal: [web-2]: FAILED! => {}\n");
    let followed = both.cluster.fettle("logs web -f").await.expect(1);
    assert_eq!(followed.out, format!("==> precheck <==\n{a}==> stage <==\n{b}"), "it is over, with ERROR");
}

#[tokio::test]
async fn hosts_and_evidence_come_from_the_records() {
    let both = Both::new().await;
    let mut bad = host("web-2", Outcome::Failed);
    (bad.error_code, bad.message) = (Some("E-DISK-BOOT".into()), Some("No space left".into()));
    let log = both.put(STAGE, Phase::Stage, "x", vec![host("web-1", Outcome::Changed), bad]).await;
    both.cluster.put_run("web", spec(), failed());
    both.point(0, &log);
    both.server.cluster.put(&run_path("web"), both.cluster.api.get(&run_path("web")).unwrap());
    let said = both.cluster.fettle("describe web").await.expect(0);
    let hosts: Vec<Vec<&str>> = said.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(hosts.contains(&vec!["web-1", "changed"]), "{}", said.all());
    assert!(hosts.contains(&vec!["web-2", "failed", "E-DISK-BOOT", "No", "space", "left"]), "{}", said.all());
    for part in
        ["Why stage failed:", "Error code:  E-DISK-BOOT", "decisive", "Line:        312", "No space left on /boot", "fileSystem=/boot"]
    {
        assert!(said.out.contains(part), "{part}: {}", said.all());
    }
    assert_eq!(said.err, "");
}

#[tokio::test]
async fn the_history_is_listed_by_what_is_asked_for() {
    let both = Both::new().await;
    both.put(PRECHECK, Phase::Precheck, "x", vec![host("web-1", Outcome::Ok)]).await;
    both.put(STAGE, Phase::Stage, "x", vec![host("web-1", Outcome::Failed)]).await;
    server::until(async || both.cluster.fettle("history -o name").await.out.lines().count() == 2).await;
    let said = both.cluster.fettle("history --group 5 --result ERROR --since 2026-01-01T00:00:00Z").await.expect(0);
    let rows: Vec<Vec<&str>> = said.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["FINISHED", "NAMESPACE", "NAME", "GROUP", "PHASE", "RESULT", "ERROR", "HOSTS", "TOOK"]);
    assert_eq!(rows[1][2..], ["patching", "web", "5", "stage", "ERROR", "E-DISK-BOOT", "1/1", "2m05s"], "{}", said.out);
    assert_eq!(rows.len(), 2);
    let page = both.cluster.fettle("history --limit 1").await.expect(0);
    assert!(page.err.contains("There is more: --cursor "), "{}", page.err);
    let answer: serde_json::Value =
        serde_json::from_str(&both.cluster.fettle("history --phase precheck -o json").await.expect(0).out).unwrap();
    assert_eq!(answer["items"][0]["phase"], "precheck");
    let none = both.cluster.fettle("history --group 77").await.expect(0);
    assert!(none.out.is_empty() && none.err.contains("Nothing is on record"), "{}", none.all());
    let elsewhere = both.cluster.fettle("history -n elsewhere").await.expect(1);
    assert!(elsewhere.err.contains("cannot read the history"), "{}", elsewhere.err);
    both.cluster.fettle("history --limit 0").await.expect(2);
    both.cluster.fettle("history --since yesterday").await.expect(2);
}

#[tokio::test]
async fn a_host_is_shown_as_it_was_last_seen() {
    let both = Both::new().await;
    let mut seen = host("web-1", Outcome::Failed);
    seen.kernel_after = Some("6.1.0-53-cloud-amd64".into());
    both.put(STAGE, Phase::Stage, "x", vec![seen]).await;
    server::until(async || both.cluster.fettle("host web-1").await.code == 0).await;
    let said = both.cluster.fettle("host web-1").await.expect(0);
    for part in ["Host:        web-1", "Kernel:      6.1.0-53-cloud-amd64", "stage   failed"] {
        assert!(said.out.contains(part), "{part}: {}", said.all());
    }
    let said = both.cluster.fettle("host web-9").await.expect(1);
    assert!(said.err.contains("host web-9 was in no run of namespace patching"), "{}", said.err);
}

#[tokio::test]
async fn a_run_that_is_gone_is_known_from_its_records() {
    let both = Both::new().await;
    both.put(STAGE, Phase::Stage, "the log\n", vec![host("web-1", Outcome::Failed)]).await;
    let said = both.cluster.fettle("describe web").await.expect(0);
    assert!(said.out.contains("the object is gone") && said.out.contains("ERROR") && said.out.contains("web-1"), "{}", said.all());
    let said = both.cluster.fettle("logs web").await.expect(0);
    assert_eq!(said.out, "the log\n");
    let said = both.cluster.fettle("logs other").await.expect(1);
    assert!(said.err.contains("there is no PatchRun other"), "{}", said.err);
}

#[tokio::test]
async fn who_the_server_does_not_know_is_told_what_to_do() {
    let both = Both::new().await;
    let log = both.put(PRECHECK, Phase::Precheck, "x", vec![]).await;
    both.cluster.put_run("web", spec(), ok());
    both.point(0, &log);
    let server = format!("http://{}", both.cluster.address);
    for (user, words) in [
        (json!({"token": "mallory-token"}), "ask for the ClusterRole `view`"),
        (json!({"token": "expired"}), "does not accept your token"),
        (json!({}), "your kubeconfig has none"),
        (json!({"username": "alice", "password": "x"}), "your kubeconfig has none"),
    ] {
        both.cluster.kubeconfig(&server, user);
        let said = both.cluster.fettle("logs web").await.expect(1);
        assert!(said.err.contains(words), "{words}: {}", said.err);
        assert!(!said.err.contains("mallory-token"));
    }
    both.cluster.fettle("get").await.expect(0);
}

#[tokio::test]
async fn a_service_account_may_be_asked_as() {
    let both = Both::new().await;
    let log = both.put(PRECHECK, Phase::Precheck, "the log\n", vec![]).await;
    both.cluster.put_run("web", spec(), ok());
    both.point(0, &log);
    both.cluster.kubeconfig(&format!("http://{}", both.cluster.address), json!({}));
    let path = "api/v1/namespaces/patching/serviceaccounts/robot/token";
    let made = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {"audiences": ["fettle"]},
        "status": {"token": "robot-token", "expirationTimestamp": "2126-01-01T00:00:00Z"}});
    both.cluster.instead("POST", path, 201, made);
    assert_eq!(both.cluster.fettle("logs web --service-account robot").await.expect(0).out, "the log\n");
    let asked = both.cluster.seen().into_iter().find(|seen| seen.method == "POST").unwrap();
    assert_eq!(asked.body["spec"]["audiences"], json!(["fettle"]));
    both.cluster.forbid("POST", path);
    let said = both.cluster.fettle("logs web --service-account robot").await.expect(1);
    assert!(said.err.contains("cannot get a token for ServiceAccount robot"), "{}", said.err);
}

#[tokio::test]
async fn a_token_goes_to_a_trusted_server_only() {
    let both = Both::new().await;
    let log = both.put(PRECHECK, Phase::Precheck, "x", vec![]).await;
    both.cluster.put_run("web", spec(), ok());
    both.point(0, &log);
    let said = both.cluster.fettle("logs web --server http://localhost:1").await.expect(1);
    assert!(said.err.contains("is not an https address"), "{}", said.err);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = both.cluster.fettle(&format!("logs web --server https://{free}")).await.expect(3);
    assert!(said.err.contains("cannot reach fettle-server"), "{}", said.err);
    let url = both.server.url("");
    both.cluster.api.put("api/v1/namespaces/fettle-system/configmaps/fettle-server-ca", json!({"data": {}}));
    let said = both.cluster.fettle(&format!("logs web --server {url}")).await.expect(3);
    assert!(said.err.contains("is not trusted") && said.err.contains("--server-ca"), "{}", said.err);
    let ca = both.server.directory.path().join("tls/ca.crt");
    both.cluster.fettle(&format!("logs web --server {url} --server-ca {}", ca.display())).await.expect(0);
    both.cluster.fettle(&format!("logs web --server {url} --server-ca /nonexistent")).await.expect(2);
}

#[tokio::test]
async fn a_check_that_runs_is_read_from_its_pod() {
    let found = Found { held: true, ..Found::default() };
    let bed = Bed::with(Tekton::default().with("precheck", found)).await;
    bed.put_run("web", spec(), running());
    let base = "apis/tekton.dev/v1/namespaces/patching";
    bed.api.put(
        &format!("{base}/pipelineruns/fettle-{PRECHECK}"),
        json!({"metadata": {"labels": {"fettle.dev/phase": "precheck"}}, "spec": {}}),
    );
    // Tekton takes it up with the first call
    bed.fettle("get").await.expect(0);
    let said = bed.fettle("logs web").await.expect(0);
    assert_eq!(said.out, "PLAY [check]\n", "{}", said.all());
    let pod = format!("api/v1/namespaces/patching/pods/fettle-{PRECHECK}-check-pod/log");
    bed.forbid("GET", &pod);
    let said = bed.fettle("logs web").await.expect(1);
    assert!(said.err.contains("cannot read the log of pod"), "{}", said.err);
}

#[tokio::test]
async fn a_change_that_runs_has_its_log_when_it_is_over() {
    let both = Both::new().await;
    both.cluster.put_run("web", spec(), staging());
    let said = both.cluster.fettle("logs web").await.expect(0);
    assert_eq!(said.out, "");
    assert!(
        said.err.contains("its log comes when the phase is over") && said.err.contains("https://aap.example.com/#/jobs/7"),
        "{}",
        said.err
    );
    let command = both.cluster.command("logs web -f --phase stage").spawn().unwrap();
    server::until(async || both.cluster.seen().iter().any(|seen| seen.path.contains("watch=true"))).await;
    let log = both.put(STAGE, Phase::Stage, "done\n", vec![]).await;
    both.cluster.api.edit(&run_path("web"), |run| {
        run["status"] = failed();
        run["status"]["phases"][0]["log"] = serde_json::to_value(&log).unwrap();
    });
    let output = command.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "done\n");
    assert_eq!(output.status.code(), Some(1));
    both.cluster.put_run("idle", spec(), pending());
    let said = both.cluster.fettle("logs idle").await.expect(1);
    assert!(said.err.contains("has no log yet") && said.err.contains("HostsBusy"), "{}", said.err);
}

#[tokio::test]
async fn a_log_whose_retention_is_over_is_said_to_be_gone() {
    let both = Both::new().await;
    let log = both.put(PRECHECK, Phase::Precheck, "x", vec![]).await;
    both.cluster.put_run("web", spec(), ok());
    both.point(0, &LogRef { id: "v1-zzzzzzzzzzzzzzzzzzzz-precheck".into(), ..log });
    let said = both.cluster.fettle("logs web").await.expect(1);
    assert!(
        said.err.contains("cannot read log v1-zzzzzzzzzzzzzzzzzzzz-precheck"),
        "who may not see all may not know that it is gone: {}",
        said.err
    );
    both.cluster.kubeconfig(&format!("http://{}", both.cluster.address), json!({"token": "admin-token"}));
    let said = both.cluster.fettle("logs web").await.expect(0);
    assert!(said.err.contains("is not in the archive any more"), "{}", said.err);
}

#[tokio::test]
async fn following_reads_a_check_from_its_pod_and_not_once_more_from_the_archive() {
    let found = Found { held: true, ..Found::default() };
    let bed = Bed::with(Tekton::default().with("precheck", found)).await;
    let mut only = spec();
    only["phases"] = json!(["precheck"]);
    bed.put_run("web", only, running());
    let base = "apis/tekton.dev/v1/namespaces/patching";
    bed.api.put(
        &format!("{base}/pipelineruns/fettle-{PRECHECK}"),
        json!({"metadata": {"labels": {"fettle.dev/phase": "precheck"}}, "spec": {}}),
    );
    // Tekton takes it up with the first call
    bed.fettle("get").await.expect(0);
    let command = bed.command("logs web -f").spawn().unwrap();
    server::until(async || bed.seen().iter().any(|seen| seen.path.contains("watch=true") && seen.path.contains("patchruns"))).await;
    bed.api.edit(&run_path("web"), |run| {
        run["status"] = ok();
        run["status"]["phases"][0]["executor"] = json!({"kind": "PipelineRun", "id": format!("fettle-{PRECHECK}")});
        run["status"]["phases"][0]["log"] = json!({"id": PRECHECK, "size": 13, "sha256": "00"});
    });
    let output = command.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "PLAY [check]\n");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
