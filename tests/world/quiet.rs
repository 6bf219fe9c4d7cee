//! What Fettle costs others: nothing when nothing changes, and never more than a bound. Time is simulated.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fettle::{
    api::patch_run::{Outcome, Phase, RunResult, State},
    clients::aap::Gate,
};
use fettle_standins::aap::{Action, Assignment, Config, Fault, HostConfig, HostResult, Script};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    bed::{Bed, NAMESPACE, connection_path, run_path},
    tekton::Tekton,
};

async fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to be: {what}");
        sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_runs_that_are_over_cost_nothing() {
    let mut bed = Bed::new().await;
    bed.apply("web", json!({}));
    bed.drive("web", 600, |bed| bed.settled("web")).await;
    let over = bed.api.get(&run_path(NAMESPACE, "web")).unwrap();
    bed.kill();
    for n in 0..1000 {
        bed.api.put(&run_path(NAMESPACE, &format!("web-{n}")), over.clone());
    }
    let _manager = bed.controllers();
    // the caches fill, and everything is looked at once
    sleep(Duration::from_mins(1)).await;
    bed.api.forget();
    let version = bed.api.version();
    sleep(Duration::from_mins(10)).await;
    let asked = bed.api.asked();
    assert_eq!(bed.api.version(), version, "something was written");
    // the connection is looked at every minute, with the credentials as they are then
    let secret = format!("api/v1/namespaces/{NAMESPACE}/secrets/aap-read");
    let other: Vec<_> = asked.iter().filter(|asked| asked.method != "WATCH" && (asked.method != "GET" || asked.path != secret)).collect();
    assert!(other.is_empty(), "{other:?}");
    println!(
        "idle: {} requests in ten minutes, of which {} begin a watch again",
        asked.len(),
        asked.iter().filter(|a| a.method == "WATCH").count()
    );
    assert!(asked.len() <= 30, "{} requests", asked.len());
}

/// Hosts and runs of the burst (`FETTLE_BURST=1000` for more).
fn burst() -> usize {
    std::env::var("FETTLE_BURST").map_or(300, |runs| runs.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_runs_is_launched_once_each_within_the_bounds_and_halts_when_paused() {
    let burst = burst();
    let mut config = Config::example();
    config.inventories[0].hosts = (0..burst).map(|n| host(&format!("host-{n}"))).collect();
    config.inventories[0].groups.clear();
    // looking at 300 schedules twenty times a second takes longer than everything else
    config.timing.schedule_tick = 0.5;
    for template in &mut config.job_templates {
        template.allow_simultaneous = true;
    }
    let bed = Bed::with(Tekton::default(), config, Script::new).await;
    lead_straight_to_the_controller(&bed);
    bed.aap.fault(Fault::from(Action::Delay { seconds: 0.1 }).always());
    let _manager = bed.controllers();
    until("the connection is ready", Duration::from_mins(1), || bed.api.get(&connection_path(NAMESPACE)).unwrap()["status"].is_object())
        .await;
    bed.aap.forget_requests();
    for n in 0..burst {
        bed.apply(
            &format!("run-{n}"),
            json!({"phases": ["apply"], "group": null, "hosts": [format!("host-{n}")], "startBy": "2036-11-22T04:00:00Z"}),
        );
    }
    let launches = |bed: &Bed| bed.aap.schedules().len();
    until("a third is launched", Duration::from_mins(30), || launches(&bed) >= burst / 3).await;

    bed.configure(&[("PAUSE", "true")]);
    let paused = bed.aap.now();
    let names: Vec<String> = (0..burst).map(|n| format!("run-{n}")).collect();
    let told = |bed: &Bed| {
        let scheduled: BTreeSet<String> = bed.aap.schedules().into_iter().map(|schedule| schedule.name).collect();
        names.iter().all(|name| {
            let status = bed.status(name);
            let key = status.run_key.as_deref().unwrap_or_default();
            scheduled.contains(&format!("fettle-{key}-apply")) || bed.reason(name) == "Paused"
        })
    };
    until("every run that waits says that it is paused", Duration::from_mins(10), || told(&bed)).await;
    println!("burst: told of the pause after {} s", bed.aap.now().duration_since(paused).as_secs());
    sleep(Duration::from_mins(1)).await;
    let late: Vec<Timestamp> = times(&bed, |method, path| method == "POST" && path.ends_with("/schedules/"))
        .into_iter()
        .filter(|at| at.duration_since(paused).as_secs_f64() > 5.0)
        .collect();
    assert_eq!(late, [], "launched although paused at {paused}");
    assert!(launches(&bed) < burst, "nobody waited");

    bed.configure(&[]);
    until("all end", Duration::from_hours(2), || names.iter().all(|name| bed.settled(name))).await;
    let mut jobs = BTreeMap::<String, usize>::new();
    for job in bed.aap.jobs() {
        *jobs.entry(job.options["limit"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(jobs, (0..burst).map(|n| (format!("host-{n}"), 1)).collect(), "jobs by limit");
    assert!(names.iter().all(|name| bed.status(name).result == Some(RunResult::Ok)));
    let all = times(&bed, |_, _| true);
    // every call takes a tenth of a second
    let within = |calls: usize| all.windows(calls).filter(|calls| calls[calls.len() - 1].duration_since(calls[0]).as_millis() < 99).count();
    assert_eq!(within(Gate::AT_ONCE + 1), 0, "more calls at once than there are places");
    assert!(within(Gate::AT_ONCE) > 0, "there were never {} calls at once", Gate::AT_ONCE);
    for seconds in [1, 10, 60] {
        let bound = Gate::A_SECOND * (seconds + 1) + 1;
        let window = |from: usize| all[from..].iter().take_while(|at| at.duration_since(all[from]).as_secs() < i64::from(seconds)).count();
        let most = (0..all.len()).map(window).max().unwrap();
        assert!(most <= bound as usize, "{most} calls in {seconds} s");
    }
    let process = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = process.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("burst: {} calls to the controller for {burst} launches", all.len());
    println!("burst: highest memory of manager, API server and controller in this one process:{memory}");
}

/// Nobody between manager and controller whose own work would blur when calls arrive.
fn lead_straight_to_the_controller(bed: &Bed) {
    bed.api.edit(&connection_path(NAMESPACE), |connection| connection["spec"]["url"] = json!(bed.aap.url));
    for name in ["aap-change", "aap-read"] {
        let secret = format!("api/v1/namespaces/{NAMESPACE}/secrets/{name}");
        bed.api.edit(&secret, |secret| secret["metadata"]["annotations"]["fettle.dev/origin"] = json!(bed.aap.url));
    }
}

/// When calls arrived, in order.
fn times(bed: &Bed, of: impl Fn(&str, &str) -> bool) -> Vec<Timestamp> {
    let requests = bed.aap.requests().into_iter().filter(|request| of(&request.method, &request.path));
    let mut times: Vec<Timestamp> = requests.map(|request| request.time.parse().unwrap()).collect();
    times.sort_unstable();
    times
}

fn host(name: &str) -> HostConfig {
    let variables = json!({"patch_group": "5"}).as_object().unwrap().clone();
    HostConfig { name: name.to_owned(), variables, ..HostConfig::default() }
}

/// As long as the names of a thousand hosts can be.
fn long_name(n: usize) -> String {
    format!("{n:04}-{}", "h".repeat(96))
}

#[tokio::test(start_paused = true)]
async fn a_status_stays_small() {
    let mut config = Config::example();
    let disabled = |n| HostConfig { enabled: false, ..host(&format!("{n:03}{}", "x".repeat(250))) };
    config.inventories[0].hosts = (0..1000).map(|n| host(&long_name(n))).chain((0..20).map(disabled)).collect();
    config.inventories[0].groups.clear();
    // four bytes each
    let message = "\u{1f525}".repeat(4000);
    let mut bed = Bed::with(Tekton::default(), config, move |job: &Assignment| {
        let fails = job.template == "apply";
        (0..1000).fold(
            Script::new(job),
            |script, n| if fails { script.host(&long_name(n), HostResult::Failed(message.clone())) } else { script },
        )
    })
    .await;
    bed.slowest = Duration::from_secs(2);
    bed.apply("web", json!({"phases": ["precheck", "stage", "apply", "reboot", "postcheck"]}));
    bed.drive("web", 3600, |bed| bed.settled("web")).await;
    let status = bed.status("web");
    assert_eq!((status.state, status.result, bed.reason("web").as_str()), (State::Completed, Some(RunResult::Error), "HostsFailed"));
    let apply = status.of(Phase::Apply).unwrap();
    assert_eq!((apply.hosts.unwrap().failed, apply.failed_hosts.len(), status.scope.as_ref().unwrap().excluded.len()), (1000, 20, 10));
    assert!(apply.failed_hosts.iter().all(|host| host.outcome == Outcome::Failed && host.message.as_ref().unwrap().len() == 1024));
    let largest = bed.states("web").iter().map(|run| serde_json::to_vec(&run.status).unwrap().len()).max().unwrap();
    println!("status: {largest} bytes at most with 1,000 hosts that fail");
    assert!(largest <= 64 << 10, "{largest} bytes");
    for map in bed.api.paths("/configmaps/") {
        let size: usize = bed.api.get(&map).unwrap()["data"].as_object().unwrap().values().map(|text| text.as_str().unwrap().len()).sum();
        assert!(size < 1 << 20, "{map} has {size} bytes");
    }
    let record = bed.archive.record(&fettle::archive::Key::parse(&apply.run_key).unwrap()).await.unwrap().unwrap();
    assert_eq!(record.hosts.len(), 1000, "the record has all of them");
}
