//! What is created and changed, and that nothing else is.

use serde_json::{Value, json};

use crate::bed::{Bed, CONNECTIONS, RUNS, failed, ok, pending, run_path, running, spec, staging};

#[tokio::test]
async fn a_run_is_created_as_the_command_line_says() {
    let bed = Bed::new().await;
    let said = bed
        .fettle("run apply stage precheck --group 5 --kernel 6.1.0-53-cloud-amd64 --start-by 2126-01-01T00:00:00Z --name web")
        .await
        .expect(0);
    assert_eq!(said.out, "patchrun.fettle.dev/web created\n");
    assert!(said.err.contains("kubectl fettle watch web -n patching"), "{}", said.err);
    let made = bed.api.get(&run_path("web")).unwrap();
    let expected = json!({"connection": {"name": "prod"}, "group": 5, "desiredKernel": "6.1.0-53-cloud-amd64",
        "phases": ["precheck", "stage", "apply"], "startBy": "2126-01-01T00:00:00Z"});
    assert_eq!(made["spec"], expected);
    let said = bed.fettle("run precheck --hosts a,b --name web").await.expect(1);
    assert!(said.err.contains("cannot create PatchRun web in namespace patching: it exists"), "{}", said.err);
    let name = bed.fettle("run precheck --hosts a,b -o name").await.expect(0).out;
    let name = name.trim().strip_prefix("patchrun.fettle.dev/").unwrap().to_owned();
    assert!(name.starts_with("precheck-2-hosts-"), "{name}");
    assert_eq!(bed.api.get(&run_path(&name)).unwrap()["spec"]["hosts"], json!(["a", "b"]));
}

#[tokio::test]
async fn a_dry_run_creates_nothing() {
    let bed = Bed::new().await;
    let line = "run precheck --group web --name web -o yaml";
    let client = bed.fettle(&format!("{line} --dry-run=client --connection prod")).await.expect(0).out;
    assert!(client.contains("group: web") && client.contains("namespace: patching"), "{client}");
    assert!(bed.seen().is_empty(), "nothing is sent");
    let server = bed.fettle("run precheck --group web --name web --dry-run=server").await.expect(0);
    assert_eq!(server.out, "patchrun.fettle.dev/web created (server dry run)\n");
    assert_eq!(bed.writes(), [format!("POST /{RUNS}?&dryRun=All")]);
    assert_eq!(bed.api.get(&run_path("web")), None);
}

#[tokio::test]
async fn the_connection_is_the_only_one_or_must_be_named() {
    let bed = Bed::new().await;
    bed.api.put(&format!("{CONNECTIONS}/test"), json!({"spec": {"url": "https://aap.example.com", "inventory": "all", "templates": {}}}));
    let said = bed.fettle("run precheck --group 5").await.expect(2);
    assert!(said.err.contains("--connection is needed: namespace patching has prod, test"), "{}", said.err);
    let said = bed.fettle("run precheck --group 5 -n empty").await.expect(1);
    assert!(said.err.contains("there is no AutomationConnection in namespace empty"), "{}", said.err);
    assert_eq!(bed.writes(), [""; 0]);
}

#[tokio::test]
async fn the_words_of_the_api_server_are_passed_on() {
    let bed = Bed::new().await;
    let message = "PatchRun.fettle.dev \"web\" is invalid: spec.group: group must not be negative";
    bed.instead(
        "POST",
        RUNS,
        422,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422, "message": message}),
    );
    let said = bed.fettle("run precheck --group=-1 --name web").await.expect(1);
    assert!(said.err.contains("group must not be negative"), "{}", said.err);
    bed.forbid("POST", RUNS);
    let said = bed.fettle("run precheck --group 5 --name web").await.expect(1);
    assert!(said.err.contains("cannot create PatchRun web") && said.err.contains("fettle-editor"), "{}", said.err);
}

#[tokio::test]
async fn running_and_watching_ends_as_the_run_ends() {
    for (end, code) in [(ok(), 0), (failed(), 1)] {
        let bed = Bed::new().await;
        let command = bed.command("run precheck --group 5 --name web --watch").spawn().unwrap();
        crate::server::until(async || bed.seen().iter().any(|seen| seen.path.contains("watch=true"))).await;
        bed.api.edit(&run_path("web"), |run| run["status"] = end.clone());
        let output = command.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().starts_with("patchrun.fettle.dev/web created\n"));
    }
}

/// The patches that were sent.
fn patches(bed: &Bed) -> Vec<Value> {
    bed.seen().into_iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.body).collect()
}

#[tokio::test]
async fn a_change_is_of_the_object_that_was_read() {
    let bed = Bed::new().await;
    for (line, field, expected) in [("cancel web", "cancel", json!(true)), ("suspend web", "suspend", json!(true))] {
        bed.put_run("web", spec(), staging());
        let before = bed.api.get(&run_path("web")).unwrap();
        bed.fettle(line).await.expect(0);
        let patch = patches(&bed).pop().unwrap();
        assert_eq!(patch["metadata"]["uid"], before["metadata"]["uid"]);
        assert_eq!(patch["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
        assert_eq!(patch["spec"], json!({field: expected}), "nothing else changes");
        assert_eq!(bed.api.get(&run_path("web")).unwrap()["spec"][field], expected);
    }
}

#[tokio::test]
async fn a_conflict_is_read_again_and_given_up_in_the_end() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), staging());
    bed.instead(
        "PATCH",
        &run_path("web"),
        409,
        json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409, "message": "no"}),
    );
    let said = bed.fettle("suspend web").await.expect(1);
    assert!(said.err.contains("nothing was changed"), "{}", said.err);
    assert_eq!(patches(&bed).len(), 5);
    assert_eq!(bed.api.get(&run_path("web")).unwrap()["spec"]["suspend"], Value::Null);
}

#[tokio::test]
async fn cancelling_says_what_will_happen_and_may_be_repeated() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), staging());
    let said = bed.fettle("cancel web").await.expect(0);
    assert_eq!(said.out, "patchrun.fettle.dev/web cancelled\n");
    assert!(said.err.contains("What runs is being stopped"), "{}", said.err);
    let said = bed.fettle("cancel web").await.expect(0);
    assert_eq!(said.out, "patchrun.fettle.dev/web is being cancelled already\n");
    bed.put_run("idle", spec(), pending());
    assert!(bed.fettle("cancel idle").await.expect(0).err.contains("Nothing runs now"));
    bed.put_run("over", spec(), ok());
    let said = bed.fettle("cancel over").await.expect(0);
    assert_eq!(said.out, "patchrun.fettle.dev/over is over already (OK); nothing to cancel\n");
    assert_eq!(patches(&bed).len(), 2);
}

#[tokio::test]
async fn suspending_and_resuming_may_be_repeated() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), staging());
    let said = bed.fettle("suspend web").await.expect(0);
    assert!(said.out.ends_with("web suspended\n") && said.err.contains("stage goes on to its end"), "{}", said.all());
    assert!(bed.fettle("suspend web").await.expect(0).out.ends_with("is suspended already\n"));
    assert!(bed.fettle("get web").await.expect(0).out.contains("Running (suspended)"));
    assert!(bed.fettle("resume web").await.expect(0).out.ends_with("web resumed\n"));
    assert!(bed.fettle("resume web").await.expect(0).out.ends_with("is not suspended\n"));
    bed.put_run("over", spec(), ok());
    assert!(bed.fettle("suspend over").await.expect(0).out.contains("is over already"));
    assert_eq!(patches(&bed).len(), 2);
}

#[tokio::test]
async fn a_retry_waits_for_the_end() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), running());
    for line in ["retry web", "retry web --failed-hosts"] {
        let said = bed.fettle(line).await.expect(1);
        assert!(said.err.contains("PatchRun web is not over; nothing was changed"), "{}", said.err);
    }
    assert_eq!(bed.writes(), [""; 0]);
}

#[tokio::test]
async fn a_retry_is_the_next_attempt() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), failed());
    let said = bed.fettle("retry web").await.expect(0);
    assert_eq!(said.out, "patchrun.fettle.dev/web attempt 2\n");
    assert_eq!(bed.api.get(&run_path("web")).unwrap()["spec"]["attempt"], json!(2));
    let said = bed.fettle("retry web").await.expect(1);
    assert!(said.err.contains("is not over"), "the second attempt has not begun: {}", said.err);
    let mut late = spec();
    late["startBy"] = json!("2020-01-01T00:00:00Z");
    bed.put_run("late", late, failed());
    let said = bed.fettle("retry late").await.expect(1);
    assert!(said.err.contains("has passed") && said.err.contains("--start-by 4h"), "{}", said.err);
    let said = bed.fettle("retry late --failed-hosts").await.expect(2);
    assert!(said.err.contains("--start-by is needed"), "{}", said.err);
    assert_eq!(bed.writes().len(), 1);
}

#[tokio::test]
async fn failed_hosts_get_a_run_of_their_own_once() {
    let bed = Bed::new().await;
    bed.put_run("web", spec(), failed());
    let said = bed.fettle("retry web --failed-hosts --start-by 2126-05-01T00:00:00Z").await.expect(0);
    assert_eq!(said.out, "patchrun.fettle.dev/web-failed-1 created\n");
    assert!(said.err.contains("web-2"), "{}", said.err);
    let made = bed.api.get(&run_path("web-failed-1")).unwrap();
    let expected = json!({"connection": {"name": "prod"}, "hosts": ["web-2"], "desiredKernel": "6.1.0-53-cloud-amd64",
        "phases": ["precheck", "stage"], "startBy": "2126-05-01T00:00:00Z"});
    assert_eq!(made["spec"], expected);
    let again = bed.fettle("retry web --failed-hosts").await.expect(0);
    assert!(again.out.contains("web-failed-1 exists already"), "{}", again.out);
    assert_eq!(bed.writes().len(), 1);
    bed.put_run("fine", spec(), ok());
    let said = bed.fettle("retry fine --failed-hosts").await.expect(1);
    assert!(said.err.contains("no host of PatchRun fine is known to have ended badly"), "{}", said.err);
}
