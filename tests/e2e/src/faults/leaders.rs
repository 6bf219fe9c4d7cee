//! More than one replica, and replicas that end at a bad moment.

use std::{path::PathBuf, pin::pin, time::Duration};

use fettle_standins::aap::{Action, Fault};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{DeleteParams, WatchEvent, WatchParams},
};
use serde_json::json;

use super::{assert_once, change, run_key};
use crate::{
    fleet::Fleet,
    processes::{self, OPERATOR},
    world::{Tenant, World, eventually},
};

const SCHEDULES: &str = "/schedules/";

/// The key of a run, when a request to launch it is on its way.
async fn posting(tenant: &Tenant<'_>, run: &str) -> String {
    eventually("a POST is on its way", Duration::from_mins(1), async || {
        let key = tenant.get(run).await.status?.run_key?;
        (!tenant.world.posts_of(&key).await.is_empty()).then_some(key)
    })
    .await
}

pub async fn paused(world: &World) {
    let tenant = world.fault_tenant("f06").await;
    // the kubelet must not end what the story stops
    world.managers_wanted(2, 60).await;
    let first = world.leader().await.expect("a leader");
    let restarts = world.restarts(&first.pod).await;
    world.fault(json!({"action": "late_commit", "seconds": 90, "method": "POST", "path": SCHEDULES, "count": 1})).await;
    tenant.apply("run", change("web-1")).await;
    let key = posting(&tenant, "run").await;
    world.signal(first.pid, "STOP").await;
    let second = world.another_leader(&[&first], 120).await;
    let run = tenant.completed("run", 180).await;
    assert_once(world, &run).await;
    let posts = eventually("the first POST has arrived", Duration::from_mins(3), async || {
        let posts = world.posts_of(&key).await;
        (!posts[0]["status"].is_null()).then_some(posts)
    })
    .await;
    let answers: Vec<_> = posts.iter().map(|post| post["status"].as_u64()).collect();
    assert_eq!(answers, [Some(400), Some(201)], "the fence rejects the first: {posts:#?}");
    world.signal(first.pid, "CONT").await;
    eventually("the one that slept ends itself, and is started again", Duration::from_mins(3), async || {
        (world.restarts(&first.pod).await > restarts).then_some(())
    })
    .await;
    assert_eq!(world.leader().await.map(|leader| leader.pod), Some(second.pod));
    let (_, log) = world.try_run("kubectl", &["-n", OPERATOR, "logs", &first.pod, "--previous"]).await;
    assert!(log.contains("another replica leads"), "{log}");
    assert_once(world, &tenant.get("run").await).await;
    assert_eq!(world.posts_of(&key).await.len(), 2, "the one that slept sent something");
}

pub async fn two_leaders(world: &World) {
    const HOSTS: usize = 100;
    let fleet = Fleet::start(world, HOSTS, Duration::from_secs(2)).await;
    let tenant = fleet.tenant(world, &world.fault_namespace("f27")).await;
    world.managers_wanted(2, 3).await;
    // without a Lease, each look of each replica makes it a leader
    let thief = tokio::spawn(steal_leases(Api::namespaced(world.client.clone(), OPERATOR)));
    let managers = processes::managers();
    let both = async |series: &str| [world.metric(&managers[0].pod, series).await, world.metric(&managers[1].pod, series).await];
    eventually("both lead", Duration::from_mins(1), async || (both("fettle_leader").await == [1, 1]).then_some(())).await;
    tenant.burst(HOSTS, 2).await;
    let runs = tenant.all_completed(700).await;
    assert_eq!(both("fettle_leader").await, [1, 1], "one stopped leading");
    let worked = both("fettle_status_writes_total").await;
    thief.abort();
    println!("        status writes of the two: {worked:?}; requests to the controller: {}", fleet.aap.requests().len());
    assert!(worked.iter().all(|writes| *writes > 20), "one did nothing: {worked:?}");
    // whoever saw the Lease of the other, before it was stolen, ended itself
    for gone in managers.iter().filter(|manager| !processes::managers().contains(manager)) {
        let (_, log) = world.try_run("kubectl", &["-n", OPERATOR, "logs", &gone.pod, "--previous"]).await;
        assert!(log.contains("another replica leads"), "{log}");
    }
    fleet.assert_once(&runs);
    // no host was in two jobs at a time
    let mut jobs: Vec<_> = fleet.jobs().into_values().flatten().collect();
    jobs.sort_by_key(|job| (job.options["limit"].to_string(), job.created));
    for pair in jobs.windows(2).filter(|pair| pair[0].options["limit"] == pair[1].options["limit"]) {
        assert!(pair[0].finished.is_some_and(|end| end <= pair[1].created), "both at once: {pair:#?}");
    }
}

/// Deletes the Lease the moment it is there.
async fn steal_leases(leases: Api<Lease>) {
    let only = WatchParams::default().fields(&format!("metadata.name={}", fettle::lease::NAME));
    loop {
        let Ok(events) = leases.watch(&only, "0").await else { continue };
        let mut events = pin!(events);
        while let Some(Ok(event)) = events.next().await {
            if matches!(event, WatchEvent::Added(_) | WatchEvent::Modified(_)) {
                let _ = leases.delete(fettle::lease::NAME, &DeleteParams::default()).await;
            }
        }
    }
}

pub async fn out_of_memory(world: &World) {
    const HOSTS: usize = 200;
    let fleet = Fleet::start(world, HOSTS, Duration::from_secs(5)).await;
    let tenant = fleet.tenant(world, &world.fault_namespace("f46")).await;
    let manager = world.leader().await.expect("a leader");
    tenant.burst(HOSTS, 1).await;
    eventually("some are launched", Duration::from_mins(3), async || (fleet.aap.schedules().len() >= HOSTS / 8).then_some(())).await;
    let memory = memory_of(manager.pid);
    let number = |name: &str| std::fs::read_to_string(memory.join(name)).ok()?.trim().parse::<u64>().ok();
    eventually("the kernel ends the operator", Duration::from_mins(2), async || {
        if let Some(used) = number("memory.usage_in_bytes") {
            // the first is refused when too little can be reclaimed; the second leaves no room to grow
            let limit = |bytes: u64| std::fs::write(memory.join("memory.limit_in_bytes"), bytes.to_string());
            let _ = limit(used - used / 8).or_else(|_| limit(used));
        }
        (!processes::managers().contains(&manager)).then_some(())
    })
    .await;
    let launched = fleet.aap.schedules().len();
    let pod = world.pod(&manager.pod).await;
    assert!(launched < HOSTS, "all were launched before");
    eventually("the operator leads again", Duration::from_mins(2), async || {
        world.leader().await.filter(|leader| leader.pid != manager.pid)
    })
    .await;
    println!("        killed after {launched} of {HOSTS} launches");
    let runs = tenant.all_completed(700).await;
    fleet.assert_once(&runs);
    let terminated = eventually("the kubelet says why", Duration::from_mins(1), async || {
        let status = world.pod(pod.metadata.name.as_deref()?).await.status?;
        status.container_statuses?.into_iter().find_map(|container| container.last_state?.terminated?.reason)
    })
    .await;
    assert_eq!(terminated, "OOMKilled");
}

/// Directory of the memory controller of a process.
fn memory_of(pid: u32) -> PathBuf {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its control groups");
    let path = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path.to_owned()));
    PathBuf::from(format!("/sys/fs/cgroup/memory{}", path.expect("a memory controller of cgroup version 1")))
}

pub async fn rolling_update(world: &World) {
    const HOSTS: usize = 50;
    let fleet = Fleet::start(world, HOSTS, Duration::from_secs(5)).await;
    let tenant = fleet.tenant(world, &world.fault_namespace("f47")).await;
    fleet.aap.fault(Fault::on("POST", SCHEDULES, Action::Delay { seconds: 4.0 }).always());
    let mut before = processes::managers();
    tenant.burst(HOSTS, 1).await;
    for (launched, strategy) in [(HOSTS / 10, json!({"type": "Recreate"})), (HOSTS / 2, json!({"type": "RollingUpdate"}))] {
        eventually("some are launched", Duration::from_mins(5), async || (fleet.aap.schedules().len() >= launched).then_some(())).await;
        world.patch_deployment("fettle-manager", "merge", &json!({"spec": {"strategy": strategy}})).await;
        world.restart(OPERATOR, "fettle-manager").await;
        println!("        restarted after {} of {HOSTS} launches", fleet.aap.schedules().len());
        world.rolled_out(OPERATOR, "fettle-manager").await;
        let now = eventually("the new one leads", Duration::from_mins(2), async || {
            world.leader().await.filter(|leader| !before.contains(leader))
        })
        .await;
        before.push(now);
    }
    let runs = tenant.all_completed(600).await;
    fleet.assert_once(&runs);
}

pub async fn partitioned(world: &World) {
    let tenant = world.fault_tenant("f50").await;
    world.managers_wanted(2, 60).await;
    let first = world.leader().await.expect("a leader");
    let restarts = world.restarts(&first.pod).await;
    world.fault(json!({"action": "delay", "seconds": 10, "method": "POST", "path": SCHEDULES, "count": 1})).await;
    tenant.apply("under-way", change("web-1")).await;
    let key = posting(&tenant, "under-way").await;
    world.cut_off(&world.address(&first.pod).await).await;
    tenant.apply("later", change("db-1")).await;
    let second = world.another_leader(&[&first], 120).await;
    let lease = world.lease().await.and_then(|lease| lease.spec).expect("a lease");
    let acquired = lease.acquire_time.expect("when it was acquired").0;
    let (under_way, later) = tokio::join!(tenant.completed("under-way", 300), tenant.completed("later", 300));
    assert_once(world, &under_way).await;
    assert_once(world, &later).await;
    let accepted = world.posts_of(&key).await.iter().filter(|post| post["status"] == 201).count();
    assert_eq!(accepted, 1, "what was under way was launched again");
    for post in world.posts_of(&run_key(&later)).await {
        let at: Timestamp = post["time"].as_str().and_then(|time| time.parse().ok()).expect("a time");
        assert!(at >= acquired, "launched at {at}, before the lease was acquired at {acquired}");
    }
    // it gives up by itself, and is started again; it cannot say so to the API server
    eventually("the one that was cut off ends itself", Duration::from_mins(3), async || {
        (!processes::managers().contains(&first)).then_some(())
    })
    .await;
    world.no_rules().await;
    eventually("it stands by", Duration::from_mins(3), async || (world.restarts(&first.pod).await > restarts).then_some(())).await;
    let (_, log) = world.try_run("kubectl", &["-n", OPERATOR, "logs", &first.pod, "--previous"]).await;
    assert!(log.contains("leadership lost"), "{log}");
    assert_eq!(world.leader().await.map(|leader| leader.pod), Some(second.pod));
}
