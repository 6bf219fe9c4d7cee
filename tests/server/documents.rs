//! The examples of docs/api.md, as they stand there.

use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{
    bed::{Bed, until},
    cluster::run_path,
};

/// The blocks of commands.
fn examples() -> Vec<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md")).unwrap();
    text.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_work_as_they_stand_there() {
    let bed = Bed::with(&["--max-wait", "1s"]).await;
    let settings = json!({"data": {"RUN_DEFAULTS": "- {groups: [team], namespace: patching, connection: prod}"}});
    bed.cluster.put("api/v1/namespaces/fettle-system/configmaps/fettle-config", settings);
    until(async || bed.ask("precheck?wait=0", &json!({"group": 9})).send().await.unwrap().status() == 202).await;
    let spec = json!({"connection": {"name": "prod"}, "group": 5, "phases": ["precheck"]});
    bed.cluster.put(&run_path("patching", "web"), json!({"spec": spec, "status": {"state": "Completed", "result": "OK"}}));
    let examples = examples();
    assert!(examples.len() >= 8, "{examples:?}");
    let (functions, examples) = examples.split_first().unwrap();
    for example in examples.iter().flat_map(|block| block.lines()) {
        let mut shell = tokio::process::Command::new("bash")
            .arg("-eu")
            .env("SERVER", bed.url(""))
            .env("CA", bed.directory.path().join("tls/ca.crt"))
            .env("TOKEN", "alice-token")
            .env("NAMESPACE", "patching")
            .env("NAME", "web")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let script = format!("{functions}\n{example} --write-out '\\n%{{http_code}}\\n'\n");
        shell.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
        let ran = shell.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        let code = said.lines().last().unwrap_or_default();
        assert!(["200", "202"].contains(&code), "{example}\n{said}{}", String::from_utf8_lossy(&ran.stderr));
    }
    assert!(bed.cluster.runs().iter().any(|name| name.starts_with("stage-5-")), "{:?}", bed.cluster.runs());
}
