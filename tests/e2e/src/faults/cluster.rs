//! Objects, namespaces, disks and databases that go away under a run.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    time::Duration,
};

use fettle::api::patch_run::{PatchRun, Phase, RunResult, State};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{assert_once, assert_one_job, change, result, run_key, runs_as};
use crate::{
    processes::OPERATOR,
    world::{Tenant, World, eventually, phase, reason},
};

/// The job of a run's only phase, once it runs on the host.
async fn job_at_work(world: &World, tenant: &Tenant<'_>, name: &str, host: &str) -> String {
    let run = tenant.until(name, "the job runs", 120, |run| runs_as(run, Phase::Apply).is_some()).await;
    let key = run_key(&run);
    eventually("the host is at work", Duration::from_mins(2), async || {
        world.marks(host).await.iter().any(|mark| mark.starts_with(&key)).then_some(())
    })
    .await;
    runs_as(&run, Phase::Apply).unwrap()
}

pub async fn recreated(world: &World) {
    let tenant = world.fault_tenant("f32").await;
    world.marks_take(&["web-1"], 30).await;
    let made = tenant.apply("run", change("web-1")).await;
    let job = job_at_work(world, &tenant, "run", "web-1").await;
    let uid = tenant.get("run").await.uid();
    tenant.delete_without_waiting("run").await;
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let _ = tenant.runs().patch("run", &PatchParams::default(), &none).await;
    eventually("the object is gone", Duration::from_secs(30), async || tenant.runs().get_opt("run").await.ok()?.is_none().then_some(()))
        .await;
    tenant.reapply(&made).await;
    let run = tenant.completed("run", 180).await;
    assert_ne!(run.uid(), uid);
    assert_once(world, &run).await;
    assert_eq!(runs_as(&run, Phase::Apply), Some(job));
    world.marks_take(&["web-1"], 0).await;
}

pub async fn namespace_deleted(world: &World) {
    let tenant = world.fault_tenant("f36").await;
    let manager = world.leader().await.expect("a leader");
    world.marks_take(&["web-1"], 60).await;
    let made = tenant.apply("run", change("web-1")).await;
    job_at_work(world, &tenant, "run", "web-1").await;
    let key = run_key(&tenant.get("run").await);
    let namespaces = Api::<Namespace>::all(world.client.clone());
    let _ = namespaces.delete(&tenant.namespace, &DeleteParams::default()).await.expect("a namespace");
    eventually("the namespace is gone", Duration::from_mins(5), async || {
        namespaces.get_opt(&tenant.namespace).await.ok()?.is_none().then_some(())
    })
    .await;
    assert_eq!(world.leader().await, Some(manager), "the operator was started again");
    let maps = Api::<ConfigMap>::namespaced(world.client.clone(), OPERATOR).list(&ListParams::default()).await.expect("the ledger");
    let entered = maps.iter().filter(|map| map.name_any().starts_with("fettle-ledger-")).flat_map(|map| map.data.iter().flatten());
    assert!(!entered.into_iter().any(|(_, entry)| entry.contains(&key)), "a host is locked for ever");
    let tenant = world.tenant_named(&tenant.namespace).await;
    tenant.reapply(&made).await;
    let run = tenant.completed("run", 180).await;
    assert_eq!((result(&run), reason(&run).0.as_str()), (Some(RunResult::Error), "Detached"));
    assert_eq!(phase(&run, Phase::Apply).adopted, Some(true));
    eventually("the job ends well without Fettle", Duration::from_mins(3), async || {
        (world.jobs_of(&key).await[0]["status"] == "successful").then_some(())
    })
    .await;
    assert_one_job(world, &run).await;
    assert_eq!(world.marks("web-1").await.iter().filter(|mark| mark.starts_with(&key)).count(), 1);
    world.marks_take(&["web-1"], 0).await;
}

pub async fn disk_full(world: &World) {
    let tenant = world.fault_tenant("f64").await;
    let volume = volume(world).await;
    // the archive moves to a small disk, and back in the end
    let kept = "/tmp/archive-kept";
    world.node(&["enter", "mkdir", "-p", kept]).await;
    world.node(&["enter", "mount", "--bind", &volume, kept]).await;
    world.node(&["enter", "mount", "-t", "tmpfs", "-o", "size=64m,mode=777", "archive", &volume]).await;
    world.node(&["enter", "cp", "-a", &format!("{kept}/."), &volume]).await;
    world.restart(OPERATOR, "fettle-server").await;
    world.rolled_out(OPERATOR, "fettle-server").await;
    let told = AssertUnwindSafe(on_a_full_disk(world, &tenant, &format!("{volume}/filler"))).catch_unwind().await;
    world.node(&["enter", "cp", "-a", &format!("{volume}/."), kept]).await;
    world.node(&["enter", "umount", "--lazy", &volume]).await;
    world.node(&["enter", "umount", kept]).await;
    world.restart(OPERATOR, "fettle-server").await;
    world.rolled_out(OPERATOR, "fettle-server").await;
    if let Err(panic) = told {
        resume_unwind(panic);
    }
}

async fn on_a_full_disk(world: &World, tenant: &Tenant<'_>, filler: &str) {
    let (_, said) = world.try_run(world.file("bed/node"), &["enter", "dd", "if=/dev/zero", &format!("of={filler}"), "bs=64k"]).await;
    assert!(said.contains("No space left"), "{said}");
    tenant.apply("run", change("web-1")).await;
    let waiting = tenant.until("run", "Archiving", 300, |run| reason(run).0 == "Archiving").await;
    println!("        it says: {}", reason(&waiting).1);
    assert_eq!(world.jobs_of(&run_key(&waiting)).await[0]["status"], "successful", "the launch was not affected");
    assert_eq!(waiting.status.as_ref().map(|status| status.state), Some(State::Running));
    world.node(&["enter", "rm", filler]).await;
    let run = tenant.completed("run", 180).await;
    assert_once(world, &run).await;
    let (status, log) = tenant.fetch(run.status.as_ref().unwrap().log_url.as_ref().unwrap(), true).await;
    assert_eq!((status.as_str(), log.is_empty()), ("200", false));
}

/// Directory of the archive's volume, in the cluster's view of the files.
async fn volume(world: &World) -> String {
    let claim = world.kubectl(&["-n", OPERATOR, "get", "pvc", "fettle-archive"]).await;
    let volume = world.kubectl(&["get", "pv", claim["spec"]["volumeName"].as_str().expect("a volume")]).await;
    volume["spec"]["hostPath"]["path"].as_str().expect("a directory").to_owned()
}

pub async fn restored(world: &World) {
    let tenant = world.fault_tenant("f31").await;
    for (name, host) in [("ends-before", "db-1"), ("runs", "web-1")] {
        tenant.apply(name, json!({"phases": ["apply"], "hosts": [host], "suspend": true})).await;
        tenant.until(name, "Suspended", 60, |run| reason(run).0 == "Suspended").await;
    }
    save_database(world).await;

    tenant.change("ends-before", json!({"suspend": false})).await;
    let ended = tenant.completed("ends-before", 180).await;
    assert_once(world, &ended).await;
    world.marks_take(&["web-1"], 90).await;
    tenant.change("runs", json!({"suspend": false})).await;
    let job = job_at_work(world, &tenant, "runs", "web-1").await;
    restore_database(world).await;

    for name in ["ends-before", "runs"] {
        let run = tenant.get(name).await;
        assert_eq!(run.spec.suspend, Some(true), "{name}: the database is not the old one");
    }
    // Git says so again
    for name in ["ends-before", "runs"] {
        tenant.change(name, json!({"suspend": false})).await;
    }
    let adopted = tenant.completed("ends-before", 300).await;
    assert_once(world, &adopted).await;
    assert_eq!(phase(&adopted, Phase::Apply).adopted, Some(true));
    assert_eq!(phase(&adopted, Phase::Apply).log, phase(&ended, Phase::Apply).log);
    let run: PatchRun = tenant.completed("runs", 300).await;
    assert_once(world, &run).await;
    assert_eq!(runs_as(&run, Phase::Apply), Some(job));
    world.marks_take(&["web-1"], 0).await;
}

/// Copies the database as it is at this moment.
async fn save_database(world: &World) {
    let pid: u32 = std::fs::read_to_string(world.bed().join("pids/etcd")).expect("etcd").trim().parse().expect("a process");
    world.signal(pid, "STOP").await;
    world.node(&["enter", "cp", "-a", "/var/lib/etcd", "/var/lib/etcd-saved"]).await;
    world.signal(pid, "CONT").await;
}

/// Goes back to the copy, and starts everything that remembers more than that anew.
async fn restore_database(world: &World) {
    const PROGRAMS: [&str; 6] = ["kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"];
    let mut commands = vec![];
    for name in PROGRAMS {
        commands.push((name, world.stop_program(name).await));
    }
    world.node(&["enter", "rm", "-rf", "/var/lib/etcd"]).await;
    world.node(&["enter", "mv", "/var/lib/etcd-saved", "/var/lib/etcd"]).await;
    for (name, command) in commands.iter().rev() {
        world.start_program(name, command).await;
        if *name == "kube-apiserver" {
            eventually("the API server is ready", Duration::from_mins(2), async || {
                world.try_run("kubectl", &["get", "--raw", "/readyz"]).await.0.then_some(())
            })
            .await;
        }
    }
    let deployments = [
        ("kube-system", "coredns"),
        ("tekton-pipelines", "tekton-pipelines-webhook"),
        ("tekton-pipelines", "tekton-pipelines-controller"),
        (OPERATOR, "fettle-server"),
        (OPERATOR, "fettle-manager"),
    ];
    for (namespace, name) in deployments {
        world.restart(namespace, name).await;
    }
    for (namespace, name) in deployments {
        world.rolled_out(namespace, name).await;
    }
}
