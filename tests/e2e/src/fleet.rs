//! Hundreds of hosts, and a controller whose jobs only last: for what real hosts are too few for. It is the stand-in again, inside this process.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use fettle::api::patch_run::{PatchRun, RunResult, State};
use fettle_standins::aap::{Config, Job, Running, Script, Standin, Tls};
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::world::{Tenant, World, eventually};

/// Where it listens; the name is in the certificate of the bed's own controller.
const LISTEN: ([u8; 4], u16) = ([10, 88, 0, 2], 8444);
const URL: &str = "https://aap.bed.test:8444";

/// The controller of a fleet.
pub struct Fleet {
    /// The stand-in.
    pub aap: Running,
}

impl Fleet {
    /// Starts a controller of so many hosts, `h-000` and up; every job takes `time`.
    pub async fn start(world: &World, hosts: usize, time: Duration) -> Self {
        let hosts: Vec<Value> = (0..hosts).map(|i| json!({"name": host(i), "variables": {"patch_group": "5"}})).collect();
        let user =
            |name: &str| json!({"username": name, "role": name, "inventories": ["fleet"], "tokens": [{"token": format!("{name}-token")}]});
        let config: Config = serde_json::from_value(json!({
            "timing": {"schedule_tick": 1.0},
            "organizations": [{"name": "Ops"}],
            "users": [user("admin"), user("execute"), user("read")],
            "inventories": [{"name": "fleet", "hosts": hosts}],
            "projects": [{"name": "none", "path": "."}],
            "job_templates": [{
                "name": "mark-apply", "inventory": "fleet", "playbook": "mark.yml", "ask": ["limit", "variables"], "allow_simultaneous": true,
            }],
        }))
        .expect("a configuration");
        let own = world.bed().join("e2e/aap");
        let aap = Standin::builder()
            .config(config)
            .listen(SocketAddr::from(LISTEN))
            .tls(Tls::load(&own.join("tls.crt"), &own.join("tls.key")).expect("a certificate"))
            .script(move |job| Script::new(job).taking(time))
            .start()
            .await
            .expect("a controller");
        Self { aap }
    }

    /// A tenant whose connection leads to it.
    pub async fn tenant<'w>(&self, world: &'w World, namespace: &str) -> Tenant<'w> {
        world.tenant_of(namespace, URL, json!({"templates": {"stage": null, "apply": "mark-apply", "reboot": null}})).await
    }

    /// Its jobs, by what they carry in `fettle_run_key`.
    pub fn jobs(&self) -> BTreeMap<String, Vec<Job>> {
        let mut jobs = BTreeMap::<String, Vec<Job>>::new();
        for job in self.aap.jobs() {
            let key = job.extra_vars.get("fettle_run_key").and_then(Value::as_str).unwrap_or_default();
            jobs.entry(key.to_owned()).or_default().push(job);
        }
        jobs
    }

    /// Every run ended `OK`, and each had one job.
    pub fn assert_once(&self, runs: &[PatchRun]) {
        let jobs = self.jobs();
        for run in runs {
            let status = run.status.as_ref().expect("a status");
            assert_eq!((status.state, status.result), (State::Completed, Some(RunResult::Ok)), "{status:#?}");
            let key = format!("{}-apply", status.run_key.as_deref().expect("a run key"));
            assert_eq!(jobs.get(&key).map(Vec::len), Some(1), "{key}");
        }
        assert_eq!(jobs.len(), runs.len(), "jobs that nobody asked for");
    }
}

/// Name of a host.
pub fn host(i: usize) -> String {
    format!("h-{i:03}")
}

impl Tenant<'_> {
    /// Runs that change one host each: `each` of them for every host, in turn.
    pub async fn burst(&self, hosts: usize, each: usize) {
        for turn in 0..each {
            for i in 0..hosts {
                self.apply(&format!("{}-{turn}", host(i)), json!({"phases": ["apply"], "hosts": [host(i)]})).await;
            }
        }
    }

    /// All runs of the namespace, when they are over.
    pub async fn all_completed(&self, seconds: u64) -> Vec<PatchRun> {
        eventually("all runs are over", Duration::from_secs(seconds), async || {
            // hundreds of objects at a time are work for everybody
            tokio::time::sleep(Duration::from_secs(3)).await;
            let runs = self.runs().list(&ListParams::default()).await.ok()?.items;
            runs.iter().all(|run| run.status.as_ref().is_some_and(|s| s.state == State::Completed)).then_some(runs)
        })
        .await
    }
}
