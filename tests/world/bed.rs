//! One cluster, one controller, one archive, and a manager that can be killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fettle::{
    api::{
        automation_connection::AutomationConnection,
        patch_run::{PatchRun, PatchRunStatus, State},
    },
    archive::{Archive, remote::Store},
    clients::{aap::Aap, http::UrlPolicy},
    clock,
    controllers::{
        Context, automation_connection,
        backoff::Backoff,
        patch_run,
        reference_watch::ReferenceWatch,
        sessions::{Purpose, Sessions},
        settings_watch,
        tekton_watch::TektonWatch,
    },
    metrics::Metrics,
    settings::{self, Invalid, Settings},
};
use fettle_standins::aap::{Assignment, Config, Job, Running, Script, Standin};
use jiff::SignedDuration;
use kube::{
    Client,
    core::DeserializeGuard,
    runtime::{
        events::{Recorder, Reporter},
        reflector, watcher,
    },
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    apiserver::{ApiServer, Asked},
    calls::{Call, Calls},
    proxy::Proxy,
    tekton::Tekton,
};

/// A world for one story.
pub struct Bed {
    pub api: ApiServer,
    pub aap: Running,
    pub proxy: Proxy,
    pub archive: Archive,
    pub directory: tempfile::TempDir,
    manager: Option<Manager>,
    /// Whether launches are paused, for managers that are started from now on.
    pub pause: bool,
    /// Names of the node the operator runs on.
    pub nodes: BTreeSet<String>,
    /// Time between two reconciles while something changes.
    pub poll: Duration,
    /// The longest time between two reconciles.
    pub slowest: Duration,
    /// Whether a manager was struck as planned.
    pub struck: bool,
    /// The calls of the managers before the one that works.
    past: Vec<Call>,
}

struct Manager {
    ctx: Context,
    calls: Arc<Calls>,
    _stop: DropGuard,
}

/// What the operator's configuration needs.
const CONFIG: [(&str, &str); 3] = [("INSTALLATION", "east"), ("SERVER_URL", "https://fettle.example.com"), ("CHECKS_IMAGE", "checks:1")];
pub const NAMESPACE: &str = "patching";
/// Where the operator is: a name nobody would guess.
pub const OPERATOR: &str = "patch-tools";
pub const KERNEL: &str = "6.1.0-53-cloud-amd64";

pub fn run_path(namespace: &str, name: &str) -> String {
    format!("apis/fettle.dev/v1alpha1/namespaces/{namespace}/patchruns/{name}")
}

pub fn connection_path(namespace: &str) -> String {
    format!("apis/fettle.dev/v1alpha1/namespaces/{namespace}/automationconnections/prod")
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(Tekton::default(), Config::example(), Script::new).await
    }

    pub async fn with(tekton: Tekton, config: Config, script: impl Fn(&Assignment) -> Script + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let aap = Standin::builder().config(config).script(script).start().await.unwrap();
        let proxy = Proxy::start(&aap.url).await;
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::directory(directory.path().to_owned()).unwrap();
        let bed = Self {
            api: ApiServer::new(tekton),
            aap,
            proxy,
            archive,
            directory,
            manager: None,
            pause: false,
            nodes: BTreeSet::new(),
            poll: Duration::from_millis(25),
            slowest: Duration::from_millis(25),
            struck: false,
            past: vec![],
        };
        bed.configure(&[]);
        bed.tenant(NAMESPACE);
        bed
    }

    /// Writes the operator's configuration; `more` is laid over what it needs.
    pub fn configure(&self, more: &[(&str, &str)]) {
        let data: BTreeMap<&str, &str> = CONFIG.iter().chain(more).copied().collect();
        self.api.put(&format!("api/v1/namespaces/{OPERATOR}/configmaps/{}", settings::NAME), json!({"data": data}));
    }

    /// A namespace with connection and secrets.
    pub fn tenant(&self, namespace: &str) {
        self.api.put(&format!("api/v1/namespaces/{namespace}"), json!({}));
        self.secret(namespace, "aap-change", "execute-token");
        self.secret(namespace, "aap-read", "read-token");
        self.api.put(
            &connection_path(namespace),
            json!({"spec": {
                "url": self.proxy.url, "allowPlainHTTP": true, "inventory": "fleet",
                "credentials": {"secretRef": {"name": "aap-change"}}, "readCredentials": {"secretRef": {"name": "aap-read"}},
                "templates": {"stage": "stage", "apply": "apply", "reboot": "reboot"},
                "checks": {"sshKeySecretRef": {"name": "ssh"}, "knownHostsRef": {"name": "known-hosts"}},
            }}),
        );
    }

    pub fn secret(&self, namespace: &str, name: &str, token: &str) {
        self.api.put(
            &format!("api/v1/namespaces/{namespace}/secrets/{name}"),
            json!({"metadata": {"annotations": {"fettle.dev/origin": self.proxy.url}}, "data": {"token": base64(token)}}),
        );
    }

    /// Creates a PatchRun over the whole group; `more` overrides its spec.
    pub fn apply(&self, name: &str, more: Value) {
        self.apply_in(NAMESPACE, name, more);
    }

    pub fn apply_in(&self, namespace: &str, name: &str, more: Value) {
        let by = clock::now() + SignedDuration::from_hours(1);
        let mut spec = json!({"connection": {"name": "prod"}, "group": 5, "desiredKernel": KERNEL,
            "phases": ["precheck", "stage", "apply", "reboot", "postcheck"], "startBy": by});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.api.put(&run_path(namespace, name), json!({"spec": spec}));
    }

    pub fn run(&self, name: &str) -> Option<PatchRun> {
        self.run_in(NAMESPACE, name)
    }

    pub fn run_in(&self, namespace: &str, name: &str) -> Option<PatchRun> {
        self.api.get(&run_path(namespace, name)).map(|run| serde_json::from_value(run).unwrap())
    }

    pub fn status(&self, name: &str) -> PatchRunStatus {
        self.run(name).and_then(|run| run.status).unwrap_or_default()
    }

    /// What the reconciles of a manager work with.
    fn context(
        &self,
        client: Client,
        (connections, runs): (reflector::Store<DeserializeGuard<AutomationConnection>>, reflector::Store<DeserializeGuard<PatchRun>>),
        references: ReferenceWatch,
        settings: watch::Receiver<Result<Arc<Settings>, Invalid>>,
        stop: &CancellationToken,
    ) -> Context {
        let metrics = Metrics::default();
        let policy = UrlPolicy { allow_loopback: true, ..UrlPolicy::default() };
        Context {
            client: client.clone(),
            namespace: OPERATOR.into(),
            settings,
            store: Store::Direct(self.archive.clone()),
            tekton: TektonWatch::start(client.clone(), stop.clone()),
            connections,
            runs,
            sessions: Sessions::new(client.clone(), OPERATOR.into(), policy, metrics.clone()),
            references,
            recorder: Recorder::new(client, Reporter { controller: "fettle".into(), instance: None }),
            metrics,
            own_nodes: self.nodes.clone(),
            scopes: patch_run::scope::Cache::default(),
            tidy: tokio::sync::mpsc::channel(1).0,
            followed: patch_run::follow::Followed::default(),
            backoff: Backoff::default(),
        }
    }

    /// Runs the controllers as the manager does, until what is returned is dropped.
    pub fn controllers(&self) -> DropGuard {
        self.controllers_with(Arc::default()).0
    }

    /// As [`Self::controllers`], with the calls to the API server going through `calls`; also its metrics.
    pub fn controllers_with(&self, calls: Arc<Calls>) -> (DropGuard, Metrics) {
        let client = self.api.client(calls);
        let stop = CancellationToken::new();
        let (controller, store) = automation_connection::start(&client);
        let (references, changes) = ReferenceWatch::new(client.clone());
        let settings = settings_watch::start(client.clone(), OPERATOR, stop.clone());
        let (runs, run_store) = patch_run::start(&client);
        let ctx = Arc::new(self.context(client, (store, run_store), references, settings, &stop));
        let metrics = ctx.metrics.clone();
        tokio::spawn(automation_connection::run(controller, changes, ctx.clone(), stop.clone()));
        tokio::spawn(patch_run::run(runs, ctx, stop.clone()));
        (stop.drop_guard(), metrics)
    }

    /// Starts a manager whose calls are counted by `calls`.
    pub async fn start(&mut self, calls: Calls) {
        let calls = Arc::new(calls);
        self.proxy.count_for(calls.clone());
        let client = self.api.client(calls.clone());
        let stop = CancellationToken::new();
        let (store, mut writer) = reflector::store();
        let (references, _) = ReferenceWatch::new(client.clone());
        let pause = ("PAUSE", if self.pause { "true" } else { "false" });
        let data = CONFIG.into_iter().chain([pause]).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let (_, settings) = watch::channel(Settings::parse(&data).map(Arc::new));
        let ctx = self.context(client, (store, reflector::store().0), references, settings, &stop);
        for path in self.api.paths("/automationconnections/") {
            let read = || serde_json::from_value::<AutomationConnection>(self.api.get(&path).unwrap()).unwrap();
            for _ in 0..20 {
                let connection = read();
                let dead = tokio::select! {
                    biased;
                    () = calls.death.notified() => true,
                    _ = automation_connection::reconcile(&connection, &ctx) => false,
                };
                if dead {
                    // the first reconcile of a run finds the manager dead
                    calls.death.notify_one();
                }
                if dead || read().status.is_some_and(|status| status.install_uuid.is_some()) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let fresh = read();
            writer.apply_watcher_event(&watcher::Event::Apply(DeserializeGuard(Ok(fresh))));
        }
        // the store lives as long as its writer
        std::mem::forget(writer);
        let limit = Instant::now() + Duration::from_secs(20);
        while !ctx.tekton.is_installed() && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.manager = Some(Manager { ctx, calls, _stop: stop.drop_guard() });
    }

    /// Kills the manager.
    pub fn kill(&mut self) {
        if let Some(manager) = self.manager.take() {
            self.struck |= manager.calls.struck();
            self.past.extend(manager.calls.numbered());
        }
    }

    /// Reconciles until `until` holds of the run. A manager that dies is started again. Panics when it takes longer than `limit` seconds.
    pub async fn drive(&mut self, name: &str, limit: u64, until: impl Fn(&Self) -> bool) {
        self.drive_all(&[(NAMESPACE, name)], limit, until).await;
    }

    pub async fn drive_all(&mut self, names: &[(&str, &str)], limit: u64, until: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(limit);
        let mut pause = self.poll;
        while !until(self) {
            assert!(Instant::now() < deadline, "it never came to be: {}", self.story(names));
            if self.manager.is_none() {
                self.start(Calls::default()).await;
            }
            let before = self.api.version();
            for (namespace, name) in names {
                self.reconcile(namespace, name).await;
            }
            // as a controller does: at once after a change, else less and less often
            pause = if self.api.version() == before { (pause * 2).min(self.slowest) } else { self.poll };
            tokio::time::sleep(pause).await;
        }
    }

    fn story(&self, names: &[(&str, &str)]) -> String {
        let mut text = String::new();
        for (namespace, name) in names {
            text += &format!("{:#?}\n", self.run_in(namespace, name).and_then(|r| r.status));
        }
        if let Some(manager) = &self.manager {
            let seen = manager.calls.seen();
            text += &seen[seen.len().saturating_sub(30)..].join("\n");
        }
        text
    }

    /// One reconcile; errors are tried again by the caller, as the controller does.
    pub async fn reconcile(&mut self, namespace: &str, name: &str) {
        let Some(run) = self.run_in(namespace, name) else { return };
        self.reconcile_as_read(&run).await;
    }

    /// One reconcile of an object as it was read, perhaps long ago.
    pub async fn reconcile_as_read(&mut self, run: &PatchRun) {
        let Some(manager) = &self.manager else { return };
        let dead = tokio::select! {
            biased;
            () = manager.calls.death.notified() => true,
            result = patch_run::reconcile(run, &manager.ctx) => {
                if let Err(error) = result {
                    tracing::info!(%error, "reconcile");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                false
            }
        };
        if dead {
            self.kill();
        } else {
            self.struck |= self.manager.as_ref().is_some_and(|manager| manager.calls.struck());
        }
    }

    /// The controller, with the credentials of changes.
    pub async fn controller(&mut self) -> Aap {
        if self.manager.is_none() {
            self.start(Calls::default()).await;
        }
        let connection: AutomationConnection = serde_json::from_value(self.api.get(&connection_path(NAMESPACE)).unwrap()).unwrap();
        let sessions = &self.manager.as_ref().unwrap().ctx.sessions;
        sessions.open(&connection, Purpose::Change, &[]).await.unwrap().aap
    }

    /// The numbered calls of all managers.
    pub fn calls(&self) -> Vec<Call> {
        let now = self.manager.iter().flat_map(|manager| manager.calls.numbered());
        self.past.iter().cloned().chain(now).collect()
    }

    /// Whether the run is over and holds nothing.
    pub fn settled(&self, name: &str) -> bool {
        self.settled_in(NAMESPACE, name)
    }

    pub fn settled_in(&self, namespace: &str, name: &str) -> bool {
        self.run_in(namespace, name).is_some_and(|run| {
            run.metadata.finalizers.unwrap_or_default().is_empty() && run.status.is_some_and(|s| s.state == State::Completed)
        })
    }

    /// Reason of the condition `Succeeded`.
    pub fn reason(&self, name: &str) -> String {
        let status = self.status(name);
        status.conditions.iter().find(|c| c.type_ == "Succeeded").map(|c| c.reason.clone()).unwrap_or_default()
    }

    pub fn message(&self, name: &str) -> String {
        let status = self.status(name);
        status.conditions.iter().find(|c| c.type_ == "Succeeded").map(|c| c.message.clone()).unwrap_or_default()
    }

    /// Jobs by template.
    pub fn launched(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for job in self.aap.jobs() {
            *counts.entry(job.name).or_default() += 1;
        }
        counts
    }

    pub fn job(&self, template: &str) -> Job {
        self.aap.jobs_of(template).into_iter().next().expect("a job")
    }

    /// Writes since the last time they were forgotten.
    pub fn writes(&self) -> Vec<Asked> {
        self.api.asked().into_iter().filter(Asked::is_write).collect()
    }

    /// Every state of a run that was ever stored, oldest first.
    pub fn states(&self, name: &str) -> Vec<PatchRun> {
        self.api.versions(&run_path(NAMESPACE, name)).into_iter().map(|run| serde_json::from_value(run).unwrap()).collect()
    }

    /// The statuses of a run as they were written: state, phase and reason.
    pub fn statuses_written(&self, name: &str) -> Vec<String> {
        self.api
            .versions(&run_path(NAMESPACE, name))
            .iter()
            .map(|run| {
                let entry = run["status"]["phases"].as_array().and_then(|p| p.last()).cloned().unwrap_or_default();
                format!("{} {} {}", run["status"]["state"], run["status"]["conditions"][0]["message"], entry["result"])
            })
            .fold(vec![], |mut all, text| {
                if all.last() != Some(&text) {
                    all.push(text);
                }
                all
            })
    }

    /// Hosts that are in the ledger.
    pub fn locked(&self) -> usize {
        let maps = self.api.paths("fettle-ledger").into_iter().filter_map(|path| self.api.get(&path));
        maps.map(|map| map["data"].as_object().map_or(0, serde_json::Map::len)).sum()
    }
}

pub fn base64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}
