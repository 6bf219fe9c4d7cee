//! What is shown of runs, and how it fails.

use serde_json::{Value, json};

use crate::bed::{Bed, RUNS, failed, ok, pending, run_path, running, spec, succeeded};

#[tokio::test]
async fn runs_are_listed_as_kubectl_lists_them() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), ok());
    bed.put_run("db", spec(), failed());
    let said = bed.fettle("get").await.expect(0);
    let lines: Vec<Vec<&str>> = said.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "GROUP", "PHASE", "STATE", "HOSTS", "RESULT", "ERROR", "AGE"]);
    assert_eq!(lines[1][..7], ["db", "5", "stage", "Completed", "2/3", "ERROR", "E-DISK-BOOT"]);
    assert_eq!(lines[2][..6], ["web", "5", "precheck", "Completed", "3/3", "OK"]);
    assert!(!said.out.contains('\u{1b}'), "no colours in a pipe");
    let wide = bed.fettle("get web -o wide").await.expect(0).out;
    assert!(wide.contains("REASON") && wide.contains("6.1.0-53-cloud-amd64") && wide.contains("prod"), "{wide}");
    assert_eq!(bed.fettle("get -o name").await.expect(0).out, "patchrun.fettle.dev/db\npatchrun.fettle.dev/web\n");
    let one: Value = serde_json::from_str(&bed.fettle("get patchrun/web -o json").await.expect(0).out).unwrap();
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&json!("PatchRun"), &json!("web")));
    let all: Value = serde_json::from_str(&bed.fettle("get -A -o json").await.expect(0).out).unwrap();
    assert_eq!((&all["kind"], all["items"].as_array().unwrap().len()), (&json!("List"), 2));
    assert!(bed.fettle("get web -o yaml").await.expect(0).out.starts_with("apiVersion: fettle.dev/v1alpha1\nkind: PatchRun\n"));
    assert!(bed.fettle("get -A").await.expect(0).out.starts_with("NAMESPACE   NAME"));
    assert!(bed.seen().iter().all(|seen| seen.authorization == "Bearer alice-token"));
}

#[tokio::test]
async fn nothing_there_is_said() {
    let bed = Bed::new().await;
    let said = bed.fettle("get").await.expect(0);
    assert_eq!(said.out, "");
    assert!(said.err.contains("no PatchRun in namespace patching"), "{}", said.err);
    let said = bed.fettle("get web").await.expect(1);
    assert!(said.err.contains("there is no PatchRun web in namespace patching"), "{}", said.err);
    let said = bed.fettle("get ../web").await.expect(2);
    assert!(said.err.contains("is not a PatchRun"), "{}", said.err);
}

#[tokio::test]
async fn who_may_not_is_told_what_is_needed() {
    let bed = Bed::new().await;
    bed.forbid("GET", RUNS);
    bed.forbid("GET", &run_path("web"));
    for line in ["get", "get web", "describe web", "logs web", "watch web", "cancel web", "retry web", "suspend web"] {
        let said = bed.fettle(line).await.expect(1);
        assert!(said.err.contains("is forbidden") && said.err.contains("ClusterRole"), "{line}: {}", said.err);
        assert_eq!(said.out, "", "{line}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there_has_its_exit_code() {
    let bed = Bed::new().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bed.kubeconfig(&format!("http://{free}"), json!({"token": "t0p-secret"}));
    let said = bed.fettle("get").await.expect(3);
    assert!(said.err.contains("cannot reach the API server") && said.err.contains(&free.to_string()), "{}", said.err);
    assert!(!said.all().contains("t0p-secret"));
    let said = bed.fettle("get --context nowhere").await.expect(1);
    assert!(said.err.contains("the kubeconfig cannot be used") && said.err.contains("nowhere"), "{}", said.err);
    let said = bed.fettle("get --kubeconfig /nonexistent/config").await.expect(1);
    assert!(said.err.contains("/nonexistent/config"), "{}", said.err);
    assert!(bed.seen().is_empty());
}

#[tokio::test]
async fn a_cluster_without_fettle_is_told_apart() {
    let bed = Bed::new().await;
    bed.instead("GET", RUNS, 404, json!("404 page not found"));
    let said = bed.fettle("get").await.expect(1);
    assert!(said.err.contains("Is Fettle installed?"), "{}", said.err);
}

#[tokio::test]
async fn a_wrong_command_line_has_its_exit_code() {
    let bed = Bed::new().await;
    for line in [
        "frobnicate",
        "get -o nonsense",
        "run",
        "run precheck",
        "run nonsense --group 5",
        "run precheck --group 5 --hosts a",
        "run stage --group 5 --kernel 6.1",
        "run stage --group 5 --start-by 4h",
        "run stage --group 5 --kernel 6.1 --start-by soon",
        "run stage --group 5 --kernel 6.1 --start-by 2020-01-01T00:00:00Z",
        "get --timeout soon",
    ] {
        let said = bed.fettle(line).await.expect(2);
        assert!(said.err.contains("error"), "{line}: {}", said.err);
    }
    assert_eq!(bed.writes(), [""; 0]);
}

#[tokio::test]
async fn help_has_examples_and_exit_codes() {
    let bed = Bed::new().await;
    let help = bed.fettle("--help").await.expect(0).out;
    assert!(help.contains("Exit codes:") && help.contains("Usage: kubectl fettle"), "{help}");
    let commands = [
        "run",
        "get",
        "describe",
        "logs",
        "watch",
        "cancel",
        "retry",
        "suspend",
        "resume",
        "history",
        "host",
        "explain",
        "classify",
        "doctor",
        "completion",
    ];
    for command in commands {
        let help = bed.fettle(&format!("{command} --help")).await.expect(0).out;
        assert!(help.contains("Examples:\n  ") && help.contains(&format!("fettle {command}")), "{help}");
    }
    assert!(bed.fettle("version").await.expect(0).out.contains(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_run_is_described_with_what_to_do_next() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), failed());
    let said = bed.fettle("describe web").await.expect(0);
    for part in [
        "Error code:  E-DISK-BOOT",
        "HostsFailed: At least one host did not end well.",
        "stage      ERROR",
        "2m05s",
        "web-2   failed",
        "No space left on device",
        "kubectl fettle logs web --phase stage",
        "kubectl fettle retry web --failed-hosts",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.all());
    }
    assert!(said.err.contains("Hosts and evidence are left out: it is not known where fettle-server is"), "{}", said.err);
}

#[tokio::test]
async fn hostile_text_does_not_reach_the_terminal() {
    let bed = Bed::new().await;
    let mut status = failed();
    status["conditions"] = succeeded("False", "HostsFailed", "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}evil\nNAME forged");
    status["errorCode"] = json!("E-\u{1b}[31mX");
    status["phases"][0]["failedHosts"][0]["message"] = json!("\u{1b}[1A\rok");
    bed.put_run("web", spec(), status);
    for line in ["get", "get -o wide", "describe web", "watch web"] {
        let said = bed.fettle(line).await;
        let text = said.all();
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{7}') && !text.contains('\u{202e}') && !text.contains('\r'),
            "{line}: {text:?}"
        );
        assert!(!text.contains("\nNAME forged"), "{line}: {text}");
    }
}

#[tokio::test]
async fn watching_prints_a_line_for_each_change() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), pending());
    let command = bed.command("watch web").spawn().unwrap();
    crate::server::until(async || bed.seen().iter().any(|seen| seen.path.contains("watch=true"))).await;
    bed.api.edit(&run_path("web"), |run| run["status"] = running());
    // the program sees each version only when it comes in time
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    bed.api.edit(&run_path("web"), |run| run["status"] = ok());
    let output = command.wait_with_output().await.unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "Pending precheck: HostsBusy: web-1 is in another run");
    assert_eq!(lines[lines.len() - 2..], ["precheck: OK 3/3 in 2m05s", "Completed OK precheck: Succeeded: every host is proven"]);
    assert_eq!(output.status.code(), Some(0));
    bed.put_run("bad", spec(), failed());
    let said = bed.fettle("watch bad").await.expect(1);
    assert!(said.out.contains("stage: ERROR 2/3 in 2m05s") && said.err.contains("Next:"), "{}", said.all());
}

#[tokio::test]
async fn a_time_limit_ends_following() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), running());
    for line in ["watch web --timeout 1s", "--timeout 1s logs web --phase stage -f"] {
        let said = bed.fettle(line).await.expect(4);
        assert!(said.err.contains("--timeout of 1s is over"), "{line}: {}", said.err);
    }
    bed.instead("GET", RUNS, 0, json!(null));
    bed.fettle("get --timeout 500ms").await.expect(4);
}

#[tokio::test]
async fn a_run_that_vanishes_ends_watching() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), running());
    let command = bed.command("watch web").spawn().unwrap();
    crate::server::until(async || bed.seen().iter().any(|seen| seen.path.contains("watch=true"))).await;
    bed.api.delete(&run_path("web"));
    let output = command.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("was deleted"));
}

#[tokio::test]
async fn completion_knows_commands_phases_and_runs() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), ok());
    bed.put_run("db", spec(), ok());
    for (line, expected) in [
        ("__complete -- des", "describe\n:4\n"),
        ("__complete -- describe w", "web\n:4\n"),
        ("__complete -- run po", "postcheck\n:4\n"),
        ("__complete -- run --ker", "--kernel\n:4\n"),
        ("__complete -- run --kube", "--kubeconfig\n:4\n"),
        ("__complete -- -n other cancel w", ":4\n"),
    ] {
        assert_eq!(bed.fettle(line).await.expect(0).out, expected, "{line}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = bed.fettle(&format!("completion {shell}")).await.expect(0).out;
        assert!(script.contains("kubectl-fettle") && script.contains("describe"), "{shell}");
    }
}

/// Runs the program on a terminal of its own.
async fn on_terminal(bed: &Bed, line: &str) -> crate::bed::Said {
    let program = bed.command(line);
    let program = program.as_std();
    let words: Vec<&str> = std::iter::once(program.get_program()).chain(program.get_args()).map(|word| word.to_str().unwrap()).collect();
    let mut script = tokio::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    script.env("KUBECONFIG", bed.file("config")).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_mins(1), script.output()).await.expect("it ends").unwrap();
    crate::bed::Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::new(),
    }
}

const HIDE: &str = "\u{1b}[?25l";
const SHOW: &str = "\u{1b}[?25h";

#[tokio::test]
async fn a_terminal_has_a_view_and_gets_its_cursor_back() {
    let bed = Bed::new().await;
    let mut status = running();
    status["conditions"] = succeeded("Unknown", "Running", "\u{1b}]0;owned\u{7}");
    bed.put_run("web", spec(), status);
    bed.put_run("bad", spec(), failed());
    for (line, code) in [("watch web --timeout 2s", 4), ("watch bad", 1)] {
        let said = on_terminal(&bed, line).await.expect(code);
        let (hidden, shown) = (said.out.find(HIDE), said.out.rfind(SHOW));
        assert!(hidden.is_some() && hidden < shown && said.out.rfind(HIDE) < shown, "{:?}", said.out);
        assert!(said.out.contains("PHASE") && !said.out.contains("\u{1b}]0;owned"), "{:?}", said.out);
    }
    let bad = on_terminal(&bed, "watch bad").await.out;
    assert!(bad.contains("web-2") && bad.contains("E-DISK-BOOT"), "{bad:?}");
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), ok());
    assert!(on_terminal(&bed, "get").await.expect(0).out.contains("\u{1b}["));
    let mut plain = bed.command("get");
    let plain = plain.env("NO_COLOR", "1").output().await.unwrap();
    assert!(!plain.stdout.contains(&0x1b));
}

#[tokio::test]
async fn ctrl_c_ends_following_and_a_closed_pipe_is_no_error() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), running());
    let command = bed.command("watch web").spawn().unwrap();
    crate::server::until(async || bed.seen().iter().any(|seen| seen.path.contains("watch=true"))).await;
    let id = command.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = command.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(130), &b""[..]));
    let mut command = bed.command("get web -o yaml").spawn().unwrap();
    drop(command.stdout.take());
    assert_eq!(command.wait().await.unwrap().code(), Some(0));
}
