//! What stories about faults do to the processes and the network of the bed, and how it is undone.

use std::time::Duration;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::Api;
use serde_json::{Value, json};

use crate::world::{World, eventually};

/// The operator's namespace.
pub const OPERATOR: &str = "fettle-system";

/// A running manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// Its process, as the bed sees it.
    pub pid: u32,
    /// Its pod.
    pub pod: String,
}

/// The managers that run.
pub fn managers() -> Vec<Manager> {
    let processes = std::fs::read_dir("/proc").expect("the processes").filter_map(Result::ok);
    let mut managers: Vec<Manager> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            if !command.starts_with(b"/usr/local/bin/fettle\0manager\0") {
                return None;
            }
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            let pod = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"POD_NAME="))?;
            Some(Manager { pid, pod: String::from_utf8_lossy(pod).into_owned() })
        })
        .collect();
    managers.sort_by_key(|manager| manager.pid);
    managers
}

impl World {
    /// The Lease of the managers.
    pub async fn lease(&self) -> Option<Lease> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), OPERATOR);
        leases.get_opt(fettle::lease::NAME).await.ok().flatten()
    }

    /// The manager that holds the Lease.
    pub async fn leader(&self) -> Option<Manager> {
        let holder = self.lease().await?.spec?.holder_identity?;
        managers().into_iter().find(|manager| manager.pod == holder)
    }

    /// Waits for a leader that is none of `others`.
    pub async fn another_leader(&self, others: &[&Manager], seconds: u64) -> Manager {
        eventually("another leader", Duration::from_secs(seconds), async || {
            self.leader().await.filter(|leader| others.iter().all(|other| other.pod != leader.pod))
        })
        .await
    }

    /// Sends a signal to a process: `STOP`, `CONT`, `KILL`.
    pub async fn signal(&self, pid: u32, signal: &str) {
        self.run("kill", &[&format!("-{signal}"), &pid.to_string()]).await;
    }

    /// Has so many managers run, each ended by the kubelet after so many probes that failed, and waits for a leader among them.
    pub async fn managers_wanted(&self, replicas: usize, patience: u32) {
        let counts = json!({"spec": {"replicas": replicas, "strategy": {"type": "Recreate", "rollingUpdate": null}}});
        let probe = json!({"name": "manager", "livenessProbe": {"failureThreshold": patience}});
        let template = json!({"spec": {"template": {"spec": {"containers": [probe]}}}});
        self.patch_deployment("fettle-manager", "merge", &counts).await;
        self.patch_deployment("fettle-manager", "strategic", &template).await;
        self.rolled_out(OPERATOR, "fettle-manager").await;
        eventually("the managers run and one leads", Duration::from_mins(2), async || {
            (managers().len() == replicas && self.leader().await.is_some()).then_some(())
        })
        .await;
    }

    /// Patches a deployment of the operator.
    pub async fn patch_deployment(&self, name: &str, kind: &str, patch: &Value) {
        self.run("kubectl", &["-n", OPERATOR, "patch", "deployment", name, &format!("--type={kind}"), "-p", &patch.to_string()]).await;
    }

    /// Waits until a deployment is as it should be.
    pub async fn rolled_out(&self, namespace: &str, deployment: &str) {
        self.run("kubectl", &["-n", namespace, "rollout", "status", &format!("deployment/{deployment}"), "--timeout=180s"]).await;
    }

    /// Starts the pods of a deployment anew.
    pub async fn restart(&self, namespace: &str, deployment: &str) {
        self.run("kubectl", &["-n", namespace, "rollout", "restart", &format!("deployment/{deployment}")]).await;
    }

    /// A pod of the operator.
    pub async fn pod(&self, name: &str) -> Pod {
        Api::<Pod>::namespaced(self.client.clone(), OPERATOR).get(name).await.expect("a pod")
    }

    /// A pod's address.
    pub async fn address(&self, pod: &str) -> String {
        self.pod(pod).await.status.and_then(|status| status.pod_ip).expect("an address")
    }

    /// How often the container of a pod was started again.
    pub async fn restarts(&self, pod: &str) -> i32 {
        self.pod(pod).await.status.and_then(|s| s.container_statuses).into_iter().flatten().map(|c| c.restart_count).sum()
    }

    /// What a manager's metrics say of a series; 0 when it is not there.
    pub async fn metric(&self, pod: &str, series: &str) -> u64 {
        let url = format!("http://{}:8080/metrics", self.address(pod).await);
        let text = self.run("curl", &["-s", "--max-time", "10", &url]).await;
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_default()
    }

    /// Inserts a packet filter rule, until the story is over.
    pub async fn rule(&self, table: &str, chain: &str, rule: &[&str]) {
        let words: Vec<String> = [table, chain].iter().chain(rule).map(|word| (*word).to_owned()).collect();
        self.packet_filter("-I", &words).await;
        self.rules.lock().unwrap().push(words);
    }

    async fn packet_filter(&self, verb: &str, words: &[String]) {
        let mut args = vec!["-w", "-t", &words[0], verb];
        args.extend(words[1..].iter().map(String::as_str));
        self.run("iptables", &args).await;
    }

    /// Takes the packet filter rules out.
    pub async fn no_rules(&self) {
        let rules = std::mem::take(&mut *self.rules.lock().unwrap());
        for words in rules {
            self.packet_filter("-D", &words).await;
        }
    }

    /// Cuts a pod off from the API server, both ways, and from nothing else.
    pub async fn cut_off(&self, address: &str) {
        self.rule("filter", "INPUT", &["-s", address, "-p", "tcp", "--dport", "6443", "-j", "DROP"]).await;
        self.rule("filter", "OUTPUT", &["-d", address, "-p", "tcp", "--sport", "6443", "-j", "DROP"]).await;
    }

    /// A command in the cluster's view of the files.
    pub async fn node(&self, args: &[&str]) -> String {
        self.run(self.file("bed/node"), args).await
    }

    /// Kills a program of the cluster, such as `etcd`; its command line, to start it again.
    pub async fn stop_program(&self, name: &str) -> Vec<String> {
        let file = self.bed().join("pids").join(name);
        let pid: u32 = std::fs::read_to_string(file).expect("a program of the cluster").trim().parse().expect("a process");
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).expect("a running program");
        self.signal(pid, "KILL").await;
        eventually("the program is gone", Duration::from_secs(20), async || {
            std::fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty()).then_some(())
        })
        .await;
        let words = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// Starts a program of the cluster.
    pub async fn start_program(&self, name: &str, command: &[String]) {
        let mut args = vec!["start", name];
        args.extend(command.iter().map(String::as_str));
        self.node(&args).await;
    }

    /// An answer of kubectl.
    pub async fn kubectl(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        serde_json::from_str(&self.run("kubectl", &args).await).expect("JSON")
    }

    /// Undoes whatever a story has left: stopped managers, packet filter rules, more than one manager.
    pub async fn mend(&self) {
        for manager in managers() {
            let _ = self.try_run("kill", &["-CONT", &manager.pid.to_string()]).await;
        }
        self.no_rules().await;
        let deployment = self.kubectl(&["-n", OPERATOR, "get", "deployment", "fettle-manager"]).await;
        let patience = &deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["failureThreshold"];
        if deployment["spec"]["replicas"] != 1 || *patience != 3 || deployment["spec"]["strategy"]["type"] != "Recreate" {
            self.managers_wanted(1, 3).await;
        }
    }
}
