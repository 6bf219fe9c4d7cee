//! What the stories see and touch: the cluster, the controller, the hosts.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::{Duration, Instant},
};

use fettle::api::{
    automation_connection::AutomationConnection,
    patch_run::{PatchRun, PhaseStatus, State},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::process::Command;

/// Names of the hosts.
pub const HOSTS: [&str; 3] = ["db-1", "web-1", "web-2"];

/// Where `fettle server` is.
const SERVER: &str = "https://fettle-server.fettle-system.svc:8443";

/// The bed.
pub struct World {
    /// Cluster, as its administrator.
    pub client: Client,
    /// Kernel the hosts run.
    pub old_kernel: String,
    /// Kernel in the repository.
    pub new_kernel: String,
    /// Seed of what is random.
    pub seed: u64,
    bed: PathBuf,
    e2e: PathBuf,
    http: reqwest::Client,
    /// Namespaces of the story that is being told.
    namespaces: Mutex<Vec<String>>,
    /// Packet filter rules that the story that is being told has inserted: table, chain, and the rest.
    pub rules: Mutex<Vec<Vec<String>>>,
}

impl World {
    /// Finds the bed that this process runs in.
    pub async fn new(seed: u64) -> Self {
        let bed = PathBuf::from(std::env::var("FETTLE_BED").expect("run inside a bed: tests/e2e/run"));
        let e2e = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let ca = std::fs::read(bed.join("e2e/aap/ca.crt")).expect("the controller's CA");
        let http = reqwest::Client::builder()
            .tls_certs_merge(reqwest::Certificate::from_pem_bundle(&ca).expect("a certificate"))
            .timeout(Duration::from_mins(1))
            .build()
            .expect("a client");
        let env = std::fs::read_to_string(bed.join("hosts/env")).expect("the hosts' kernels");
        let value =
            |name: &str| env.lines().find_map(|l| l.strip_prefix(&format!("{name}="))).expect("a kernel").trim_matches('"').to_owned();
        let config = kube::Config::infer().await.expect("a kubeconfig");
        Self {
            client: Client::try_from(config).expect("a client"),
            old_kernel: value("OLD_KERNEL"),
            new_kernel: value("NEW_KERNEL"),
            seed,
            bed,
            e2e,
            http,
            namespaces: Mutex::default(),
            rules: Mutex::default(),
        }
    }

    /// The bed's state directory.
    pub fn bed(&self) -> &Path {
        &self.bed
    }

    /// A file of this level's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.e2e.join(name)
    }

    /// Runs a program; its output, or a panic with it.
    pub async fn run(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> String {
        let (ok, text) = self.try_run(program, args).await;
        assert!(ok, "{args:?}: {text}");
        text
    }

    /// Runs a program; whether it ended well, and its output.
    pub async fn try_run(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> (bool, String) {
        let output = Command::new(program).args(args).env("IN_BED", "1").stdin(Stdio::null()).output().await.expect("a program");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    }

    /// Fresh hosts.
    pub async fn fresh_hosts(&self) {
        self.run(self.file("hosts/hosts"), &["reset"]).await;
    }

    /// What a command says on a host.
    pub async fn on(&self, host: &str, command: &str) -> String {
        let output = self.run(self.file("hosts/hosts"), &["ssh", host, command]).await;
        output.trim().to_owned()
    }

    /// How often each phase was carried out on a host: the run keys of its marks.
    pub async fn marks(&self, host: &str) -> Vec<String> {
        let text = self.on(host, "cat /var/lib/fettle/marks 2>/dev/null || true").await;
        text.lines().map(str::to_owned).collect()
    }

    /// What the controller holds.
    pub async fn aap(&self) -> Value {
        self.http.get("https://aap.bed.test:8443/_standin/state").send().await.expect("the controller").json().await.expect("JSON")
    }

    /// Jobs of a template, newest last.
    pub async fn jobs(&self, template: &str) -> Vec<Value> {
        let state = self.aap().await;
        let jobs = state["jobs"].as_array().cloned().unwrap_or_default();
        jobs.into_iter().filter(|job| job["name"] == template).collect()
    }

    /// Jobs that carry a phase key of that run key.
    pub async fn jobs_of(&self, run_key: &str) -> Vec<Value> {
        let state = self.aap().await;
        let jobs = state["jobs"].as_array().cloned().unwrap_or_default();
        jobs.into_iter().filter(|job| job.to_string().contains(run_key)).collect()
    }

    /// What the controller was asked, oldest first.
    pub async fn requests(&self) -> Vec<Value> {
        let answer = self.http.get("https://aap.bed.test:8443/_standin/requests").send().await.expect("the controller");
        answer.json::<Value>().await.expect("JSON")["requests"].as_array().cloned().unwrap_or_default()
    }

    /// What of it was asked to be done for a run key: launches and schedules.
    pub async fn posts_of(&self, run_key: &str) -> Vec<Value> {
        let mut posts = self.requests().await;
        posts.retain(|request| request["method"] == "POST" && request["body"].to_string().contains(run_key));
        posts
    }

    /// Switches the controller's faults off.
    pub async fn no_faults(&self) {
        let answer = self.http.delete("https://aap.bed.test:8443/_standin/faults").send().await.expect("the controller");
        assert!(answer.status().is_success(), "{}", answer.status());
    }

    /// Switches a fault of the controller on.
    pub async fn fault(&self, fault: Value) {
        let answer = self.http.post("https://aap.bed.test:8443/_standin/faults").json(&fault).send().await.expect("the controller");
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        assert!(status.is_success(), "{fault}: {text}");
    }

    /// Any request to the controller, as its administrator.
    pub async fn as_admin(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Vec<u8>) {
        let mut request = self.http.request(method, format!("https://aap.bed.test:8443{path}")).bearer_auth("admin-token");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("the controller");
        (answer.status().as_u16(), answer.bytes().await.expect("a body").to_vec())
    }

    /// Kills the manager without warning; the kubelet starts another.
    pub async fn kill_manager(&self) {
        self.run("pkill", &["-KILL", "-f", "^/usr/local/bin/fettle manager"]).await;
    }

    /// A namespace prepared as a team would, with a connection `prod` whose templates leave marks.
    pub async fn tenant(&self, number: usize) -> Tenant<'_> {
        let namespace = format!("story-{number}");
        self.tenant_named(&namespace).await
    }

    /// See [`Self::tenant`].
    pub async fn tenant_named(&self, namespace: &str) -> Tenant<'_> {
        let templates = json!({"stage": "mark-stage", "apply": "mark-apply", "reboot": "mark-reboot"});
        self.tenant_of(namespace, "https://aap.bed.test:8443", json!({"templates": templates})).await
    }

    /// A namespace prepared as a team would, with a connection `prod` to the controller at `url`, whose spec has `connection` besides.
    pub async fn tenant_of(&self, namespace: &str, url: &str, connection: Value) -> Tenant<'_> {
        self.namespaces.lock().unwrap().push(namespace.to_owned());
        self.run(self.file("tenant"), &[namespace, url]).await;
        let tenant = Tenant { world: self, namespace: namespace.to_owned() };
        tenant.connection(connection).await;
        tenant.wait_for_connection("prod").await;
        tenant
    }

    /// Shows what is known after a failure.
    pub async fn dump(&self) {
        let namespaces = self.namespaces.lock().unwrap().clone();
        let mut commands: Vec<Vec<&str>> = vec![
            vec!["-n", "fettle-system", "get", "pods,leases", "-o", "wide"],
            vec!["-n", "fettle-system", "logs", "deployment/fettle-manager", "--tail=60"],
            vec!["-n", "fettle-system", "logs", "deployment/fettle-server", "--tail=20"],
        ];
        for namespace in &namespaces {
            commands.push(vec!["-n", namespace, "get", "patchruns,pipelineruns,pods", "-o", "wide"]);
            commands.push(vec!["-n", namespace, "get", "patchruns", "-o", "yaml"]);
        }
        for args in commands {
            let (_, text) = self.try_run("kubectl", &args).await;
            let tail = text.len().saturating_sub(30_000);
            println!("--- kubectl {}\n{}", args.join(" "), text.get(tail..).unwrap_or(&text));
        }
    }

    /// Removes the story's namespaces and what it switched on.
    pub async fn tidy(&self) {
        let _ = self.http.delete("https://aap.bed.test:8443/_standin/faults").send().await;
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let mine = std::mem::take(&mut *self.namespaces.lock().unwrap());
        for name in mine {
            let _ = namespaces.delete(&name, &DeleteParams::default()).await;
        }
        self.mend().await;
    }
}

/// A tenant's namespace.
pub struct Tenant<'w> {
    /// The bed.
    pub world: &'w World,
    /// Its name.
    pub namespace: String,
}

impl Tenant<'_> {
    /// Its runs.
    pub fn runs(&self) -> Api<PatchRun> {
        Api::namespaced(self.world.client.clone(), &self.namespace)
    }

    /// Changes the spec of the connection.
    pub async fn connection(&self, spec: Value) {
        let api = Api::<AutomationConnection>::namespaced(self.world.client.clone(), &self.namespace);
        api.patch("prod", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.expect("a connection");
    }

    /// Another connection, like `prod` but for `spec`.
    pub async fn another_connection(&self, name: &str, spec: Value) {
        let api = Api::<AutomationConnection>::namespaced(self.world.client.clone(), &self.namespace);
        let prod = api.get("prod").await.expect("a connection");
        api.create(&PostParams::default(), &AutomationConnection::new(name, prod.spec)).await.expect("a connection");
        api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.expect("a connection");
        self.wait_for_connection(name).await;
    }

    async fn wait_for_connection(&self, name: &str) {
        let api = Api::<AutomationConnection>::namespaced(self.world.client.clone(), &self.namespace);
        eventually("the connection is ready", Duration::from_secs(90), async || {
            let found = api.get(name).await.ok()?;
            let status = found.status?;
            let current = status.observed_generation == found.metadata.generation;
            (current && fettle::conditions::is_true(&status.conditions, "Ready")).then_some(())
        })
        .await;
    }

    /// Applies a PatchRun for the whole group: `spec` on top of connection, group, kernel and a `startBy` in an hour.
    pub async fn apply(&self, name: &str, spec: Value) -> PatchRun {
        let start_by = fettle::clock::now() + jiff::SignedDuration::from_hours(1);
        let mut whole = json!({"connection": {"name": "prod"}, "group": 5, "desiredKernel": self.world.new_kernel, "startBy": start_by});
        if spec.get("hosts").is_some() {
            whole.as_object_mut().unwrap().remove("group");
        }
        whole.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap_or_default());
        let object = json!({"apiVersion": "fettle.dev/v1alpha1", "kind": "PatchRun", "metadata": {"name": name, "namespace": self.namespace}, "spec": whole});
        let run: PatchRun = serde_json::from_value(object).expect("a PatchRun");
        self.runs().create(&PostParams::default(), &run).await.expect("an accepted PatchRun")
    }

    /// Creates the same object again, as Git would.
    pub async fn reapply(&self, run: &PatchRun) {
        let mut fresh = PatchRun::new(run.metadata.name.as_deref().unwrap(), run.spec.clone());
        fresh.metadata.namespace = Some(self.namespace.clone());
        self.runs().create(&PostParams::default(), &fresh).await.expect("an accepted PatchRun");
    }

    /// Changes a spec.
    pub async fn change(&self, name: &str, spec: Value) {
        self.runs().patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.expect("an accepted change");
    }

    /// Deletes a run and waits until it is gone.
    pub async fn delete(&self, name: &str) {
        self.delete_without_waiting(name).await;
        eventually("the run is gone", Duration::from_mins(5), async || self.runs().get_opt(name).await.ok()?.is_none().then_some(())).await;
    }

    /// Asks for the deletion of a run.
    pub async fn delete_without_waiting(&self, name: &str) {
        let _ = self.runs().delete(name, &DeleteParams::default()).await.expect("a run");
    }

    /// The run as it is.
    pub async fn get(&self, name: &str) -> PatchRun {
        self.runs().get(name).await.expect("a run")
    }

    /// Waits until the run is so.
    pub async fn until(&self, name: &str, what: &str, seconds: u64, so: impl Fn(&PatchRun) -> bool) -> PatchRun {
        let runs = self.runs();
        eventually(&format!("{name}: {what}"), Duration::from_secs(seconds), async || runs.get(name).await.ok().filter(|run| so(run))).await
    }

    /// Waits for the end of a run.
    pub async fn completed(&self, name: &str, seconds: u64) -> PatchRun {
        self.until(name, "Completed", seconds, |run| run.status.as_ref().is_some_and(|s| s.state == State::Completed)).await
    }

    /// Puts a Secret away, and gives it back to be put there again.
    pub async fn take_secret(&self, name: &str) -> Secret {
        let secrets = Api::<Secret>::namespaced(self.world.client.clone(), &self.namespace);
        let mut secret = secrets.get(name).await.expect("a secret");
        let _ = secrets.delete(name, &DeleteParams::default()).await.expect("a secret");
        secret.metadata = kube::api::ObjectMeta {
            name: secret.metadata.name,
            annotations: secret.metadata.annotations,
            ..kube::api::ObjectMeta::default()
        };
        secret
    }

    /// Puts a Secret there.
    pub async fn put_secret(&self, secret: &Secret) {
        let secrets = Api::<Secret>::namespaced(self.world.client.clone(), &self.namespace);
        secrets.create(&PostParams::default(), secret).await.expect("a secret");
    }

    /// Makes the ServiceAccount `asker` of this namespace, who may read and create PatchRuns here, and whose requests concern this namespace.
    pub async fn asker(&self) {
        let kubectl = |args: &[&str]| {
            let args: Vec<String> = ["-n", &self.namespace].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
            async move { self.world.run("kubectl", &args.iter().map(String::as_str).collect::<Vec<_>>()).await }
        };
        kubectl(&["create", "serviceaccount", "asker"]).await;
        let account = format!("--serviceaccount={}:asker", self.namespace);
        for role in ["fettle-viewer", "fettle-editor"] {
            kubectl(&["create", "rolebinding", &format!("asker-{role}"), &format!("--clusterrole={role}"), &account]).await;
        }
        let defaults = format!(
            "- users: [\"system:serviceaccount:{0}:asker\"]\n  namespace: {0}\n  connection: prod\n  startWithin: 1h\n",
            self.namespace
        );
        let maps = Api::<ConfigMap>::namespaced(self.world.client.clone(), "fettle-system");
        let patch = Patch::Merge(json!({"data": {"RUN_DEFAULTS": defaults}}));
        maps.patch("fettle-config", &PatchParams::default(), &patch).await.expect("the configuration");
    }

    /// A request to `fettle server` as [`Self::asker`]: the status and the answer.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (String, Value) {
        let token = self.world.run("kubectl", &["-n", &self.namespace, "create", "token", "asker", "--audience=fettle"]).await;
        let (authorization, url) = (format!("Authorization: Bearer {}", token.trim()), format!("{SERVER}{path}"));
        let ca = self.server_ca().await;
        let body = body.map(|body| body.to_string());
        let mut args = vec!["-sS", "--max-time", "600", "--cacert", &ca, "-H", &authorization, "-w", "\n%{http_code}", "-X", method];
        if let Some(body) = &body {
            args.extend(["-H", "Content-Type: application/json", "-d", body]);
        }
        args.push(&url);
        let text = self.world.run("curl", &args).await;
        let (answer, status) = text.trim_end().rsplit_once('\n').expect("an answer and its status");
        (status.to_owned(), serde_json::from_str(answer).unwrap_or_else(|_| Value::String(answer.to_owned())))
    }

    /// `kubectl fettle …` in this namespace, with the bed's kubeconfig: exit code and output.
    pub async fn fettle(&self, args: &[&str]) -> (i32, String) {
        let program = std::env::current_exe().expect("this program").with_file_name("kubectl-fettle");
        let output = Command::new(program)
            .args(["-n", &self.namespace, "--service-account", "asker"])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("kubectl-fettle");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap_or(-1), text)
    }

    /// The file with the certificate authority of `fettle server`.
    async fn server_ca(&self) -> String {
        let ca = self.world.bed().join("e2e/server-ca.crt");
        let text = self
            .world
            .run("kubectl", &["-n", "fettle-system", "get", "configmap", "fettle-server-ca", "-o", "jsonpath={.data.ca\\.crt}"])
            .await;
        std::fs::write(&ca, text).expect("a file");
        ca.display().to_string()
    }

    /// A GET of `fettle server` with the token of a ServiceAccount of this namespace (made with the right to read its PatchRuns), or without one.
    pub async fn fetch(&self, url: &str, with_token: bool) -> (String, Vec<u8>) {
        let out = self.world.bed().join("e2e/fetched");
        let _ = std::fs::remove_file(&out);
        let mut args = vec![
            "-s".to_owned(),
            "--cacert".into(),
            self.server_ca().await,
            "-o".into(),
            out.display().to_string(),
            "-w".into(),
            "%{http_code}".into(),
        ];
        if with_token {
            self.world.try_run("kubectl", &["-n", &self.namespace, "create", "serviceaccount", "reader"]).await;
            self.world
                .try_run(
                    "kubectl",
                    &[
                        "-n",
                        &self.namespace,
                        "create",
                        "rolebinding",
                        "reader",
                        "--clusterrole=fettle-viewer",
                        &format!("--serviceaccount={}:reader", self.namespace),
                    ],
                )
                .await;
            let token = self.world.run("kubectl", &["-n", &self.namespace, "create", "token", "reader", "--audience=fettle"]).await;
            args.extend(["-H".into(), format!("Authorization: Bearer {}", token.trim())]);
        }
        args.push(url.to_owned());
        let status = self.world.run("curl", &args.iter().map(String::as_str).collect::<Vec<_>>()).await;
        (status, std::fs::read(&out).unwrap_or_default())
    }
}

/// What is on record about a phase.
pub fn phase(run: &PatchRun, name: fettle::api::patch_run::Phase) -> PhaseStatus {
    run.status.as_ref().and_then(|s| s.of(name)).cloned().unwrap_or_else(|| panic!("nothing on record about {name}: {:?}", run.status))
}

/// Reason and message of the condition `Succeeded`.
pub fn reason(run: &PatchRun) -> (String, String) {
    let conditions = run.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    fettle::conditions::find(&conditions, "Succeeded").map(|c| (c.reason.clone(), c.message.clone())).unwrap_or_default()
}

/// Asks until there is an answer; panics with `what` when there is none in time.
pub async fn eventually<T>(what: &str, limit: Duration, ask: impl AsyncFn() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begin.elapsed() < limit, "not within {} s: {what}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
