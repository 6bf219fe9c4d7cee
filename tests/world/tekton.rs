//! Tekton, as far as Fettle sees it: a PipelineRun is taken up, has one TaskRun with a pod, and ends as a script says.

use std::{collections::BTreeMap, sync::Mutex};

use serde_json::{Value, json};

use crate::apiserver::ApiServer;

/// What a check finds.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Exit code of the run step.
    pub exit: i64,
    /// Hosts that fail, with their message.
    pub failed: BTreeMap<String, String>,
    /// Hosts that cannot be reached.
    pub unreachable: Vec<String>,
    /// It never ends by itself.
    pub held: bool,
}

/// The script, by phase.
#[derive(Default)]
pub struct Tekton {
    script: BTreeMap<String, Found>,
    /// How often each PipelineRun was started.
    pub started: Mutex<BTreeMap<String, u32>>,
}

impl Tekton {
    pub fn with(mut self, phase: &str, found: Found) -> Self {
        self.script.insert(phase.to_owned(), found);
        self
    }

    /// Carries on whatever is there to carry on.
    pub fn go_on(&self, api: &ApiServer) {
        for path in api.paths("/pipelineruns/") {
            let Some(run) = api.get(&path) else { continue };
            if run["status"]["completionTime"].is_string() {
                continue;
            }
            let phase = run["metadata"]["labels"]["fettle.dev/phase"].as_str().unwrap_or_default().to_owned();
            let found = self.script.get(&phase).cloned().unwrap_or_default();
            if run["status"].is_null() {
                *self.started.lock().unwrap().entry(path.clone()).or_default() += 1;
                self.start(api, &path, &run);
            }
            let cancelled = run["spec"]["status"] == "Cancelled";
            if !found.held || cancelled {
                self.end(api, &path, &phase, &found, cancelled);
            }
        }
    }

    fn start(&self, api: &ApiServer, path: &str, run: &Value) {
        let name = run["metadata"]["name"].as_str().unwrap();
        let task = format!("{name}-check");
        let base = path.split("/pipelineruns/").next().unwrap();
        let namespace = run["metadata"]["namespace"].as_str().unwrap();
        let labels = run["metadata"]["labels"].clone();
        let step = |name: &str| json!({"name": name, "container": format!("step-{name}")});
        api.put(
            &format!("{base}/taskruns/{task}"),
            json!({"metadata": {"labels": labels}, "spec": {}, "status": {"podName": format!("{task}-pod"), "steps": [step("run"), step("report")],
                "conditions": [{"type": "Succeeded", "status": "Unknown", "reason": "Running"}]}}),
        );
        let pod = format!("api/v1/namespaces/{namespace}/pods/{task}-pod");
        api.put(&pod, json!({"spec": {"containers": []}, "status": {"phase": "Running"}}));
        api.set_log(&pod, "step-run", "PLAY [check]\n");
        api.edit(path, |run| {
            run["status"] = json!({"startTime": now(), "childReferences": [{"name": task, "pipelineTaskName": "check"}],
                "conditions": [{"type": "Succeeded", "status": "Unknown", "reason": "Running"}]});
        });
    }

    fn end(&self, api: &ApiServer, path: &str, phase: &str, found: &Found, cancelled: bool) {
        let Some(run) = api.get(path) else { return };
        let (base, name) = path.split_once("/pipelineruns/").unwrap();
        let namespace = run["metadata"]["namespace"].as_str().unwrap();
        let pod = format!("api/v1/namespaces/{namespace}/pods/{name}-check-pod");
        if cancelled {
            api.delete(&pod);
        } else {
            let scope = run["spec"]["workspaces"][0]["configMap"]["name"].as_str().unwrap_or_default();
            let map = api.get(&format!("api/v1/namespaces/{namespace}/configmaps/{scope}")).unwrap_or_default();
            let inventory: Value = serde_json::from_str(map["data"]["inventory.json"].as_str().unwrap_or("{}")).unwrap();
            let mut lines = String::new();
            for host in inventory["all"]["hosts"].as_object().into_iter().flatten().map(|(name, _)| name) {
                let (failed, unreachable) = (found.failed.get(host), found.unreachable.contains(host));
                let report = json!({"phase": phase, "ok": failed.is_none(), "message": failed, "kernel_before": "5", "kernel_after": "6"});
                let line = json!({"host": host, "ok": 3, "changed": 0, "failures": u8::from(failed.is_some()), "unreachable": u8::from(unreachable),
                    "report": if unreachable { Value::Null } else { report }});
                lines.push_str(&format!("{line}\n"));
            }
            api.set_log(&pod, "step-report", &lines);
            api.edit(&pod, |pod| pod["status"]["phase"] = json!("Succeeded"));
        }
        let condition = if cancelled {
            json!([{"type": "Succeeded", "status": "False", "reason": "Cancelled", "message": "cancelled"}])
        } else {
            json!([{"type": "Succeeded", "status": "True", "reason": "Succeeded", "message": "done"}])
        };
        api.edit(&format!("{base}/taskruns/{name}-check"), |task| {
            task["status"]["conditions"] = condition.clone();
            if !cancelled {
                task["status"]["steps"][0]["terminated"] = json!({"exitCode": found.exit});
            }
        });
        api.edit(path, |run| {
            run["status"]["conditions"] = condition.clone();
            run["status"]["completionTime"] = json!(now());
        });
    }
}

fn now() -> String {
    fettle::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
