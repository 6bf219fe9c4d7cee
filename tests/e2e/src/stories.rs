//! The stories, one function each.

use std::time::Duration;

use fettle::api::{
    patch_run::{Outcome, Phase, RunResult, State},
    runbook::Runbook,
};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::{
    story::stories,
    world::{HOSTS, Tenant, World, eventually, phase, reason},
};

stories! {
    1 five_phases: "five phases on three hosts end OK, with the new kernel, one reboot and one job a phase";
    2 one_host_down: "a host that is down is named, the others' results are right, the log can be downloaded";
    3 boot_full: "a full /boot found by precheck: ERROR, and nothing is ever launched";
    4 no_secret: "without the AAP secret precheck runs and the run waits; no read phase touches the secret";
    5 refused: "templates that cannot be limited, sliced templates and empty groups are refused with what to change";
    6 lost_answer: "the launch is committed, its answer lost and the operator killed: one job, adopted";
    7 recreated: "a run that Git creates again adopts its result; a higher attempt runs once more";
    8 cancelled: "cancel during apply: the job is really over, its log is there";
    9 logs: "the owner downloads the bytes AAP shows; others 403, 401; still there when everything else is gone";
    10 controller_down: "AAP is down mid-job and the operator restarts: the job's true end is reported";
    11 shared_host: "two runs that share a host are never both active; a job by hand with the same key does nothing";
    12 invalid: "every wrong sample is refused by the API server with the field and the remedy";
    13 explained: "a full /boot, a held lock, a broken repository, a stopped service and a lost host each end with their own code and line";
    14 asked: "the seed's scenario over HTTP, in sentences and with kubectl fettle: OK, what is missing, OK once it is given, ERROR with its log";
}

/// `OK`, with every host good in every phase.
fn assert_ok(run: &fettle::api::patch_run::PatchRun) {
    let status = run.status.as_ref().unwrap();
    assert_eq!((status.state, status.result), (State::Completed, Some(RunResult::Ok)), "{status:#?}");
    assert_eq!(status.hosts.as_deref(), Some("3/3"));
    for phase in &status.phases {
        let counts = phase.hosts.unwrap();
        assert_eq!(counts.ok + counts.changed, 3, "{phase:#?}");
    }
}

async fn five_phases(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(1).await;
    tenant.connection(json!({"templates": {"stage": "fettle-stage", "apply": "fettle-apply", "reboot": "fettle-reboot"}})).await;
    let mut boot_ids = vec![];
    for host in HOSTS {
        assert_eq!(world.on(host, "uname -r").await, world.old_kernel);
        boot_ids.push(world.on(host, "cat /proc/sys/kernel/random/boot_id").await);
    }
    tenant.apply("web-kernel", json!({"phases": Phase::ALL, "reboot": {"serial": 3}})).await;
    let run = tenant.completed("web-kernel", 800).await;
    assert_ok(&run);
    let key = run.status.as_ref().unwrap().run_key.clone().unwrap();
    for (host, before) in HOSTS.iter().zip(&boot_ids) {
        assert_eq!(world.on(host, "uname -r").await, world.new_kernel, "{host}");
        let after = world.on(host, "cat /proc/sys/kernel/random/boot_id").await;
        assert_ne!(&after, before, "{host} was not rebooted");
        // the host's own record of its boots: exactly one since the claim of the reboot
        let claimed = world.on(host, &format!("cat /var/lib/fettle/runs/{key}-reboot/boot_id")).await;
        assert_eq!(&claimed, before, "{host}: the boot id changed more than once");
    }
    for phase in ["stage", "apply", "reboot"] {
        let template = format!("fettle-{phase}");
        let jobs: Vec<Value> = world.jobs(&template).await.into_iter().filter(|j| j.to_string().contains(&key)).collect();
        assert_eq!(jobs.len(), 1, "{template}: {jobs:#?}");
    }
    let (status, body) =
        tenant.fetch(&format!("https://fettle-server.fettle-system.svc:8443/api/runs/{}/web-kernel", tenant.namespace), true).await;
    assert_eq!(status, "200");
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains(&world.new_kernel) && text.contains("web-1"), "{text}");
}

async fn one_host_down(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(2).await;
    world.run(world.file("hosts/hosts"), &["down", "web-2"]).await;
    tenant.apply("down", json!({"phases": ["apply"]})).await;
    let run = tenant.completed("down", 300).await;
    let apply = phase(&run, Phase::Apply);
    assert_eq!(run.status.as_ref().unwrap().result, Some(RunResult::Error));
    assert_eq!(reason(&run).0, "HostsUnreachable");
    assert_eq!(apply.failed_hosts.len(), 1);
    assert_eq!((apply.failed_hosts[0].name.as_str(), apply.failed_hosts[0].outcome), ("web-2", Outcome::Unreachable));
    let counts = apply.hosts.unwrap();
    assert_eq!((counts.ok + counts.changed, counts.unreachable), (2, 1));
    assert_eq!((world.marks("web-1").await.len(), world.marks("db-1").await.len()), (1, 1));
    let (status, log) = tenant.fetch(run.status.as_ref().unwrap().log_url.as_ref().unwrap(), true).await;
    assert_eq!(status, "200");
    assert!(String::from_utf8_lossy(&log).contains("UNREACHABLE"), "{}", String::from_utf8_lossy(&log));
}

async fn boot_full(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(3).await;
    world.run(world.file("hosts/hosts"), &["fill-boot", "web-1"]).await;
    tenant.apply("full", json!({"phases": ["precheck", "apply"]})).await;
    let run = tenant.completed("full", 300).await;
    let precheck = phase(&run, Phase::Precheck);
    assert_eq!((precheck.result, reason(&run).0.as_str()), (Some(RunResult::Error), "HostsFailed"), "{run:#?}");
    assert_eq!(precheck.failed_hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["web-1"]);
    assert!(precheck.failed_hosts[0].message.as_ref().unwrap().contains("boot"), "{precheck:#?}");
    let key = run.status.as_ref().unwrap().run_key.clone().unwrap();
    let state = world.aap().await;
    assert!(!state["schedules"].to_string().contains(&key), "a schedule was created");
    assert_eq!(world.jobs_of(&key).await.len(), 0);
}

/// What is broken on a host, and what its run must say.
struct Break {
    run: &'static str,
    host: &'static str,
    phase: Phase,
    code: &'static str,
    /// In the line of the log that is the evidence.
    word: &'static str,
}

async fn explained(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(13).await;
    let hosts = world.file("hosts/hosts");
    world.run(&hosts, &["fill-boot", "web-1"]).await;
    world.run(&hosts, &["hold-lock", "web-2"]).await;
    world.on("db-1", "sed -i s,:8081,:8081/gone, /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null; true").await;
    let precheck = Phase::Precheck;
    told(
        world,
        &tenant,
        &[
            Break { run: "boot", host: "web-1", phase: precheck, code: "E-DISK-BOOT", word: "/boot" },
            Break { run: "lock", host: "web-2", phase: precheck, code: "E-LOCK-DNF", word: "lock" },
            Break { run: "repo", host: "db-1", phase: precheck, code: "E-REPO-EMPTY", word: "404" },
        ],
    )
    .await;
    world.on("web-1", "systemctl stop nginx").await;
    world.run(&hosts, &["down", "web-2"]).await;
    told(
        world,
        &tenant,
        &[
            Break { run: "service", host: "web-1", phase: Phase::Postcheck, code: "E-POST-SERVICE", word: "nginx" },
            Break { run: "gone", host: "web-2", phase: precheck, code: "E-HOST-UNREACHABLE", word: "port 22" },
        ],
    )
    .await;
    // the Runbooks of the operator's namespace counted what they explained
    let runbooks = Api::<Runbook>::namespaced(world.client.clone(), "fettle-system");
    eventually("the Runbook counts its hit", Duration::from_mins(2), async || {
        let all = runbooks.list(&ListParams::default()).await.ok()?.items;
        let of = |code: &str| all.iter().filter(|r| r.spec.error_code == code).filter_map(|r| r.status.as_ref()?.hits).sum::<i64>();
        (of("E-DISK-BOOT") > 0 && of("E-POST-SERVICE") > 0).then_some(())
    })
    .await;
    for runbook in runbooks.list(&ListParams::default()).await.expect("Runbooks") {
        let conditions = runbook.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
        assert!(fettle::conditions::is_true(&conditions, "Ready"), "{runbook:#?}");
    }
}

/// Runs one phase on each of these hosts, at the same time, and asserts what it is said to have failed for.
async fn told(world: &World, tenant: &Tenant<'_>, breaks: &[Break]) {
    for each in breaks {
        let spec = json!({"phases": [each.phase], "hosts": [each.host], "desiredKernel": world.old_kernel});
        tenant.apply(each.run, spec).await;
    }
    for each in breaks {
        let run = tenant.completed(each.run, 400).await;
        let status = run.status.as_ref().unwrap();
        assert_eq!((status.result, status.error_code.as_deref()), (Some(RunResult::Error), Some(each.code)), "{run:#?}");
        let ended = phase(&run, each.phase);
        assert_eq!(ended.failed_hosts[0].error_code.as_deref(), Some(each.code), "{ended:#?}");
        let evidence = ended.classification.and_then(|cause| cause.evidence).unwrap_or_else(|| panic!("{}: no evidence", each.run));
        let (answer, log) = tenant.fetch(status.log_url.as_ref().unwrap(), true).await;
        assert_eq!(answer, "200");
        let log = String::from_utf8(log).unwrap();
        let line = log.lines().nth(usize::try_from(evidence.line).unwrap() - 1).unwrap_or_default();
        assert!(line.contains(each.word) && evidence.excerpt.contains(each.word), "{}: {line:?}, {evidence:?}\n{log}", each.run);
        let (_, message) = reason(&run);
        assert!(message.contains(each.code) && message.contains(&format!("line {}", evidence.line)), "{message}");
    }
}

async fn asked(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(14).await;
    tenant.connection(json!({"templates": {"stage": null, "apply": "mark-apply", "reboot": null}})).await;
    tenant.asker().await;
    let secret = tenant.take_secret("aap-change").await;

    // over HTTP
    let (status, answer) = tenant.ask("POST", "/api/run/precheck", Some(json!({"group": "5"}))).await;
    assert_eq!((status.as_str(), answer), ("200", json!({"status": "OK"})));
    let apply = json!({"group": 5, "desired_kernel": world.old_kernel});
    let (status, answer) = tenant.ask("POST", "/api/run/apply?wait=60", Some(apply.clone())).await;
    assert_eq!((status.as_str(), answer["state"].as_str()), ("202", Some("AwaitingCredentials")), "{answer}");
    assert!(answer["message"].as_str().is_some_and(|m| m.contains("aap-change")), "{answer}");
    let name = answer["name"].as_str().expect("a name").to_owned();
    assert_eq!(
        tenant.get(&name).await.metadata.annotations.unwrap_or_default()["fettle.dev/requested-by"],
        format!("system:serviceaccount:{}:asker", tenant.namespace)
    );
    tenant.put_secret(&secret).await;
    let (status, answer) = tenant.ask("POST", "/api/run/apply", Some(apply)).await;
    assert_eq!((status.as_str(), answer), ("200", json!({"status": "OK"})), "the retry joins the run that waits");
    assert_eq!(tenant.runs().list(&ListParams::default()).await.expect("runs").items.len(), 2);
    assert_eq!(world.marks("web-1").await.len(), 1);

    // a failure, in sentences
    world.run(world.file("hosts/hosts"), &["fill-boot", "web-1"]).await;
    let say = async |sentence: &str| {
        let (status, answer) = tenant.ask("POST", "/api/chat", Some(json!({"message": sentence}))).await;
        assert_eq!((status.as_str(), &answer["understood"]), ("200", &json!(true)), "{sentence}: {answer}");
        answer
    };
    let answer = say("Precheck group 5").await;
    let name = answer["run"]["name"].as_str().expect("a name").to_owned();
    let run = tenant.completed(&name, 300).await;
    assert_eq!(run.status.as_ref().unwrap().error_code.as_deref(), Some("E-DISK-BOOT"), "{run:#?}");
    let why = say("why did group 5 fail").await;
    assert!(why["reply"].as_str().is_some_and(|reply| reply.contains("E-DISK-BOOT") && reply.contains("web-1")), "{why}");
    let (status, log) = tenant.fetch(why["log_url"].as_str().expect("a log"), true).await;
    assert!(status == "200" && String::from_utf8_lossy(&log).contains("/boot"), "{status}");
    let (_, answer) = tenant.ask("POST", "/api/chat", Some(json!({"message": "Reboot everything now"}))).await;
    assert_eq!(answer["understood"], json!(false));

    // something else than was meant
    let secret = tenant.take_secret("aap-change").await;
    let answer = say(&format!("Apply patch to group 5 kernel {}", world.old_kernel)).await;
    let unwanted = answer["run"]["name"].as_str().expect("a name").to_owned();
    assert!(answer["reply"].as_str().is_some_and(|reply| reply.contains("aap-change")), "{answer}");
    say("cancel group 5").await;
    assert_eq!(reason(&tenant.completed(&unwanted, 120).await).0, "Cancelled");
    tenant.put_secret(&secret).await;

    // what is remembered
    let (status, history) = eventually("the history has it", Duration::from_mins(1), async || {
        let (status, history) = tenant.ask("GET", "/api/history?group=5&error_code=E-DISK-BOOT", None).await;
        history["items"].as_array().is_some_and(|items| items.len() == 1).then_some((status, history))
    })
    .await;
    assert_eq!((status.as_str(), history["items"][0]["name"].as_str()), ("200", Some(name.as_str())), "{history}");
    let (status, host) = tenant.ask("GET", "/api/host/web-1", None).await;
    assert!(status == "200" && host.to_string().contains(&world.old_kernel), "{host}");

    // with the command line
    let (code, text) = tenant.fettle(&["describe", &name]).await;
    assert!(code == 0 && text.contains("E-DISK-BOOT"), "{code}: {text}");
    let (code, text) = tenant.fettle(&["explain", "E-DISK-BOOT"]).await;
    assert!(code == 0 && text.contains("/boot"), "{code}: {text}");
    let (code, text) = tenant.fettle(&["run", "precheck", "--group", "5", "--name", "typed", "--watch"]).await;
    assert!(code == 1 && text.contains("E-DISK-BOOT"), "{code}: {text}");
    world.on("web-1", "rm /boot/filler").await;
    let (code, text) = tenant.fettle(&["retry", "typed"]).await;
    assert_eq!(code, 0, "{text}");
    let (code, text) = tenant.fettle(&["watch", "typed"]).await;
    assert!(code == 0 && text.contains("OK"), "{code}: {text}");
    for args in [&["get"][..], &["logs", "typed"], &["history", "--group", "5"], &["host", "web-1"]] {
        let (code, text) = tenant.fettle(args).await;
        assert!(code == 0 && !text.is_empty(), "{args:?}: {code}: {text}");
    }
    let (code, text) = tenant.fettle(&["doctor"]).await;
    assert!(code == 0 && !text.contains("FAIL"), "{code}: {text}");
}

async fn no_secret(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(4).await;
    let secret = tenant.take_secret("aap-change").await;
    tenant.apply("waits", json!({"phases": ["precheck", "apply", "postcheck"], "desiredKernel": world.old_kernel})).await;
    let run = tenant
        .until("waits", "AwaitingCredentials", 300, |run| {
            run.status.as_ref().is_some_and(|s| s.state == State::AwaitingCredentials && s.phase == Some(Phase::Apply))
        })
        .await;
    assert_eq!(phase(&run, Phase::Precheck).result, Some(RunResult::Ok));
    let (why, message) = reason(&run);
    assert!(why == "AwaitingCredentials" && message.contains("aap-change"), "{why}: {message}");
    let key = run.status.as_ref().unwrap().run_key.clone().unwrap();
    assert_eq!(world.jobs_of(&key).await.len(), 0);
    let touched_before = touches(world, &tenant, "aap-change");
    tenant.put_secret(&secret).await;
    let run = tenant
        .until("waits", "the change phase is over", 300, |run| {
            run.status.as_ref().and_then(|s| s.of(Phase::Apply)).is_some_and(|p| p.result.is_some())
        })
        .await;
    assert_eq!(phase(&run, Phase::Apply).result, Some(RunResult::Ok), "{run:#?}");
    let touched_during = touches(world, &tenant, "aap-change");
    assert!(touched_during.len() > touched_before.len(), "the change phase reads its credentials");
    assert_ok(&tenant.completed("waits", 300).await);
    let times = phase(&run, Phase::Precheck);
    let (start, end) = (times.started_at.unwrap(), times.finished_at.unwrap());
    let during_precheck: Vec<_> = touches(world, &tenant, "aap-change").into_iter().filter(|at| *at >= start && *at <= end).collect();
    assert!(during_precheck.is_empty(), "the secret was read during precheck: {during_precheck:?}");
}

/// When the manager asked for a secret, from the API server's audit log.
fn touches(world: &World, tenant: &Tenant<'_>, secret: &str) -> Vec<jiff::Timestamp> {
    let text = std::fs::read_to_string(world.bed().join("log/audit.log")).expect("the audit log");
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|e| e["user"]["username"] == "system:serviceaccount:fettle-system:fettle-manager")
        .filter(|e| {
            e["objectRef"]["resource"] == "secrets"
                && e["objectRef"]["name"] == secret
                && e["objectRef"]["namespace"] == tenant.namespace.as_str()
        })
        .filter_map(|e| e["requestReceivedTimestamp"].as_str()?.parse().ok())
        .collect()
}

async fn refused(world: &World) {
    let tenant = world.tenant(5).await;
    let cases = [
        ("unprompted", json!({"templates": {"apply": "unprompted"}}), json!({}), "Prompt on launch"),
        ("sliced", json!({"templates": {"apply": "sliced"}}), json!({}), "slic"),
        ("empty", json!({"templates": {"apply": "mark-apply"}}), json!({"group": "no-such-group"}), "no-such-group"),
    ];
    let before = world.aap().await["jobs"].as_array().map_or(0, Vec::len);
    for (name, connection, spec, remedy) in cases {
        tenant.connection(connection).await;
        let mut spec = spec;
        spec["phases"] = json!(["apply"]);
        tenant.apply(name, spec).await;
        let run = tenant.until(name, "refused", 120, |run| ["TemplateNotReady", "ScopeEmpty"].contains(&reason(run).0.as_str())).await;
        let (why, message) = reason(&run);
        assert!(message.contains(remedy), "{name}: {why}: {message}");
        let key = run.status.as_ref().unwrap().run_key.clone().unwrap();
        assert!(!world.aap().await["schedules"].to_string().contains(&key), "{name}: a schedule was created");
        tenant.change(name, json!({"cancel": true})).await;
        assert_eq!(tenant.completed(name, 60).await.status.unwrap().result, Some(RunResult::Error));
    }
    assert_eq!(world.aap().await["jobs"].as_array().map_or(0, Vec::len), before, "something was launched");
}

async fn lost_answer(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(6).await;
    world.fault(json!({"action": "drop_response", "method": "POST", "path": "/schedules/", "count": 1})).await;
    tenant.apply("lost", json!({"phases": ["apply"]})).await;
    eventually("the launch is committed", Duration::from_mins(1), async || {
        let run = tenant.get("lost").await;
        let key = run.status?.run_key?;
        world.aap().await["schedules"].to_string().contains(&key).then_some(())
    })
    .await;
    world.kill_manager().await;
    let run = tenant.completed("lost", 300).await;
    assert_ok(&run);
    let key = run.status.as_ref().unwrap().run_key.clone().unwrap();
    assert_eq!(world.posts_of(&key).await[0]["fault"]["action"], "drop_response", "the answer was not lost");
    assert_eq!(world.jobs_of(&key).await.len(), 1);
    for host in HOSTS {
        assert_eq!(world.marks(host).await, [format!("{key}-apply")], "{host}");
    }
}

async fn recreated(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(7).await;
    let made = tenant.apply("again", json!({"phases": ["apply"]})).await;
    let first = tenant.completed("again", 300).await;
    assert_ok(&first);
    tenant.delete("again").await;
    tenant.reapply(&made).await;
    let second = tenant.completed("again", 120).await;
    assert_ok(&second);
    assert_eq!(phase(&second, Phase::Apply).adopted, Some(true));
    assert_eq!(phase(&second, Phase::Apply).log, phase(&first, Phase::Apply).log);
    let key = first.status.as_ref().unwrap().run_key.clone().unwrap();
    assert_eq!(world.jobs_of(&key).await.len(), 1);
    tenant.change("again", json!({"attempt": 2})).await;
    let third = tenant
        .until("again", "attempt 2", 300, |run| run.status.as_ref().is_some_and(|s| s.attempt == Some(2) && s.state == State::Completed))
        .await;
    assert_ok(&third);
    let next = third.status.as_ref().unwrap().run_key.clone().unwrap();
    assert_ne!(key, next);
    assert_eq!(world.marks("web-1").await, [format!("{key}-apply"), format!("{next}-apply")]);

    // deleted while apply runs, and applied again at once
    for host in HOSTS {
        world.on(host, "echo 15 >/var/lib/fettle/slow").await;
    }
    let made = tenant.apply("midway", json!({"phases": ["apply", "reboot"]})).await;
    tenant
        .until("midway", "apply runs", 120, |run| {
            run.status.as_ref().and_then(|s| s.of(Phase::Apply)).is_some_and(|p| p.executor.is_some())
        })
        .await;
    tenant.delete("midway").await;
    tenant.reapply(&made).await;
    let run = tenant.completed("midway", 300).await;
    assert_ok(&run);
    assert_eq!(phase(&run, Phase::Apply).adopted, Some(true));
    let key = run.status.as_ref().unwrap().run_key.clone().unwrap();
    assert_eq!(world.jobs_of(&key).await.len(), 2, "one for apply, one for reboot");
}

async fn cancelled(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(8).await;
    for host in HOSTS {
        world.on(host, "mkdir -p /var/lib/fettle && echo 300 >/var/lib/fettle/slow").await;
    }
    tenant.apply("stop", json!({"phases": ["apply", "reboot"]})).await;
    eventually("the hosts are at work", Duration::from_mins(2), async || (!world.marks("web-1").await.is_empty()).then_some(())).await;
    tenant.change("stop", json!({"cancel": true})).await;
    let run = tenant.completed("stop", 120).await;
    assert_eq!(run.status.as_ref().unwrap().result, Some(RunResult::Error));
    assert_eq!(reason(&run).0, "Cancelled");
    let key = run.status.as_ref().unwrap().run_key.clone().unwrap();
    let jobs = world.jobs_of(&key).await;
    assert_eq!(jobs.len(), 1, "nothing after apply");
    assert_eq!(jobs[0]["status"], "canceled", "{jobs:#?}");
    let apply = phase(&run, Phase::Apply);
    assert!(apply.log.as_ref().is_some_and(|log| log.size > 0), "{apply:#?}");
    assert!(apply.failed_hosts.iter().all(|h| h.outcome == Outcome::Unknown), "{apply:#?}");
    let (status, log) = tenant.fetch(run.status.as_ref().unwrap().log_url.as_ref().unwrap(), true).await;
    assert_eq!((status.as_str(), log.is_empty()), ("200", false));
}

async fn logs(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(9).await;
    let other = world.tenant_named("story-9-b").await;
    tenant.apply("log", json!({"phases": ["precheck", "apply"]})).await;
    let run = tenant.completed("log", 300).await;
    assert_ok(&run);
    let apply = phase(&run, Phase::Apply);
    let url = run.status.as_ref().unwrap().log_url.clone().unwrap();
    let id: i64 = apply.executor.as_ref().unwrap().id.parse().unwrap();
    let (status, shown) = world.as_admin(reqwest::Method::GET, &format!("/api/v2/jobs/{id}/stdout/?format=txt_download"), None).await;
    assert_eq!(status, 200);
    let hash = |bytes: &[u8]| sha2::Sha256::digest(bytes).iter().fold(String::new(), |text, b| text + &format!("{b:02x}"));
    let (status, mine) = tenant.fetch(&url, true).await;
    assert_eq!(status, "200");
    assert_eq!(hash(&mine), hash(&shown), "the bytes AAP shows");
    assert_eq!(hash(&mine), apply.log.as_ref().unwrap().sha256);
    assert_eq!(other.fetch(&url, true).await.0, "403");
    assert_eq!(tenant.fetch(&url, false).await.0, "401");
    // everything the logs came from goes
    world.fault(json!({"action": "purge", "job": id})).await;
    let precheck = phase(&run, Phase::Precheck);
    world
        .run(
            "kubectl",
            &["-n", &tenant.namespace, "delete", "pipelinerun", &precheck.executor.as_ref().unwrap().id, "--wait=true", "--timeout=60s"],
        )
        .await;
    assert_eq!(world.as_admin(reqwest::Method::GET, &format!("/api/v2/jobs/{id}/"), None).await.0, 404);
    let (status, still) = tenant.fetch(&url, true).await;
    assert_eq!((status.as_str(), hash(&still)), ("200", hash(&mine)));
    let log = precheck.log.as_ref().unwrap();
    let (status, checked) = tenant.fetch(&url.replace(&apply.run_key, &precheck.run_key), true).await;
    assert_eq!((status.as_str(), hash(&checked)), ("200", log.sha256.clone()));
}

async fn controller_down(world: &World) {
    world.fresh_hosts().await;
    let tenant = world.tenant(10).await;
    for host in HOSTS {
        world.on(host, "mkdir -p /var/lib/fettle && echo 20 >/var/lib/fettle/slow").await;
    }
    tenant.apply("away", json!({"phases": ["apply"]})).await;
    eventually("the hosts are at work", Duration::from_mins(2), async || (!world.marks("web-1").await.is_empty()).then_some(())).await;
    world.fault(json!({"action": "down", "seconds": 40})).await;
    world.kill_manager().await;
    tenant.until("away", "noticed", 60, |run| reason(run).0 == "ControllerUnreachable").await;
    let run = tenant.completed("away", 300).await;
    assert_ok(&run);
    let key = run.status.as_ref().unwrap().run_key.clone().unwrap();
    assert_eq!(world.jobs_of(&key).await.len(), 1);
    assert_eq!(world.marks("web-1").await.len(), 1);
}

async fn shared_host(world: &World) {
    world.fresh_hosts().await;
    let (one, two) = (world.tenant(11).await, world.tenant_named("story-11-b").await);
    for host in HOSTS {
        world.on(host, "mkdir -p /var/lib/fettle && echo 15 >/var/lib/fettle/slow").await;
    }
    one.apply("first", json!({"phases": ["apply"], "hosts": ["web-1", "db-1"]})).await;
    one.until("first", "apply runs", 120, |run| run.status.as_ref().and_then(|s| s.of(Phase::Apply)).is_some()).await;
    two.apply("second", json!({"phases": ["apply"], "hosts": ["web-1", "web-2"]})).await;
    let waiting = two.until("second", "waits", 60, |run| reason(run).0 == "HostsBusy").await;
    let message = reason(&waiting).1;
    assert!(message.contains("web-1") && !message.contains("first") && !message.contains("story-11 "), "{message}");
    let first = one.completed("first", 300).await;
    assert_eq!(first.status.as_ref().unwrap().result, Some(RunResult::Ok));
    let second = two.completed("second", 300).await;
    assert_eq!(second.status.as_ref().unwrap().result, Some(RunResult::Ok), "{second:#?}");
    let (ended, began) = (phase(&first, Phase::Apply).finished_at.unwrap(), phase(&second, Phase::Apply).started_at.unwrap());
    assert!(ended <= began, "both were active: {ended} {began}");

    // by hand, from the same template, with the same key
    let key = first.status.as_ref().unwrap().run_key.clone().unwrap();
    let marks = world.marks("db-1").await.len();
    let job = &world.jobs_of(&key).await[0];
    let id = job["id"].as_i64().unwrap();
    let (status, detail) = world.as_admin(reqwest::Method::GET, &format!("/api/v2/jobs/{id}/"), None).await;
    assert_eq!(status, 200);
    let detail: Value = serde_json::from_slice(&detail).unwrap();
    let variables: Value = serde_json::from_str(detail["extra_vars"].as_str().unwrap()).unwrap();
    let launch = format!("/api/v2/job_templates/{}/launch/", detail["job_template"]);
    let (status, launched) =
        world.as_admin(reqwest::Method::POST, &launch, Some(json!({"limit": detail["limit"], "extra_vars": variables}))).await;
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&launched));
    let by_hand = serde_json::from_slice::<Value>(&launched).unwrap()["job"].as_i64().unwrap();
    eventually("the job by hand is over", Duration::from_mins(2), async || {
        let (_, body) = world.as_admin(reqwest::Method::GET, &format!("/api/v2/jobs/{by_hand}/"), None).await;
        let job: Value = serde_json::from_slice(&body).ok()?;
        ["successful", "failed", "error"].contains(&job["status"].as_str()?).then_some(())
    })
    .await;
    assert_eq!(world.marks("db-1").await.len(), marks, "a claimed run did something again");
    let after = one.get("first").await;
    assert_eq!(after.status, first.status, "a job by hand changes nothing");
}

async fn invalid(world: &World) {
    let tenant = world.tenant(12).await;
    let folder = world.file("invalid");
    let mut samples: Vec<_> = std::fs::read_dir(folder).expect("samples").map(|e| e.unwrap().path()).collect();
    samples.sort();
    assert!(samples.len() >= 12, "too few samples");
    for sample in samples {
        let text = std::fs::read_to_string(&sample).unwrap();
        let expected: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# refused: ")).collect();
        assert!(!expected.is_empty(), "{} does not say how it is refused", sample.display());
        // a sample of two documents is an object and a wrong change of it
        let documents: Vec<&str> = text.split("\n---\n").collect();
        for (i, document) in documents.iter().enumerate() {
            let file = world.bed().join("e2e/sample.yaml");
            std::fs::write(&file, document).unwrap();
            let (ok, said) = world.try_run("kubectl", &["-n", &tenant.namespace, "apply", "-f", file.to_str().unwrap()]).await;
            if i + 1 < documents.len() {
                assert!(ok, "{}: {said}", sample.display());
            } else {
                assert!(!ok, "{} was accepted", sample.display());
                for part in &expected {
                    assert!(said.contains(part), "{}: {said:?} does not say {part:?}", sample.display());
                }
            }
        }
    }
}
