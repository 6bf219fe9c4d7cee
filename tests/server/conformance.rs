//! The server answers as its own document says, whatever it is sent: schemathesis from `PyPI` makes the requests.
//!
//! Needs Python 3.11 and `PyPI` once; the environment is kept under `~/.cache/fettle/venv`.

use std::path::Path;

use fettle::api::patch_run::{Outcome, Phase};
use serde_json::json;

use crate::{
    bed::{Bed, KEY, host, record},
    cluster::run_path,
};

/// Python, quietly: its environment, then the tool with these arguments. What it printed, and whether it was content.
async fn schemathesis(arguments: Vec<String>) -> (String, bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let requirements = root.join("tests/server/schemathesis.txt");
    let made = tokio::process::Command::new(root.join("ansible/venv.sh")).arg(requirements).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let environment = String::from_utf8(made.stdout).unwrap();
    let tool = Path::new(environment.trim()).join("bin/schemathesis");
    let directory = tempfile::tempdir().unwrap();
    let ran = tokio::process::Command::new(tool).args(arguments).current_dir(directory.path()).output().await.unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), ran.status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "level contract: needs PyPI once"]
async fn the_server_answers_as_its_document_says() {
    let bed = Bed::with(&["--max-wait", "100ms", "--idle-timeout", "5s"]).await;
    let settings = json!({"data": {"RUN_DEFAULTS": "- {namespace: patching, connection: prod}"}});
    bed.cluster.put("api/v1/namespaces/fettle-system/configmaps/fettle-config", settings);
    let log = bed.put_log(KEY, b"TASK [apply]\nok: [web-1]\n").await;
    bed.store().put_record(&record(KEY, Phase::Apply, Some(log.clone()), vec![host("web-1", Outcome::Ok)])).await.unwrap();
    let phase = json!({"name": "apply", "runKey": KEY, "result": "OK", "log": log});
    let status = json!({"state": "Completed", "result": "OK", "runKey": "v1-abcdefghijklmnopq234", "logURL": "https://fettle.example.com/api/logs/x", "phases": [phase]});
    let spec = json!({"connection": {"name": "prod"}, "group": 5, "desiredKernel": "6.1.0-53-cloud-amd64", "phases": ["apply"], "startBy": "2099-01-01T00:00:00Z"});
    bed.cluster.put(&run_path("patching", "web"), json!({"spec": spec, "status": status}));

    let ca = bed.directory.path().join("tls/ca.crt");
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance,\
                  negative_data_rejection,unsupported_method,allow_header_conformance,ignored_auth";
    let examples = std::env::var("EXAMPLES").unwrap_or_else(|_| "40".into());
    let arguments = [
        "run",
        &bed.url("/openapi.json"),
        "--tls-verify",
        ca.to_str().unwrap(),
        "--header",
        "Authorization: Bearer alice-token",
        "--checks",
        checks,
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        &examples,
        "--seed",
        "1",
        "--generation-database",
        "none",
        "--request-timeout",
        "60",
        "--continue-on-failure",
        "--no-color",
    ];
    let (said, content) = schemathesis(arguments.map(str::to_owned).to_vec()).await;
    assert!(content, "{said}");
    assert!(said.contains("7 selected"), "every operation was tried: {said}");
    assert!(bed.cluster.runs().len() > 1, "runs were created: {:?}", bed.cluster.runs());
    println!("{said}");
}
