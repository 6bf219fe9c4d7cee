//! Tekton PipelineRuns, through small typed structs: only what Fettle writes and reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What to run. Source: `tekton.dev/v1`, `PipelineRunSpec`.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, JsonSchema)]
#[kube(
    group = "tekton.dev",
    version = "v1",
    kind = "PipelineRun",
    plural = "pipelineruns",
    namespaced,
    schema = "disabled",
    status = "PipelineRunStatus"
)]
#[serde(rename_all = "camelCase")]
pub struct PipelineRunSpec {
    /// A pipeline in line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_spec: Option<Value>,
    /// A pipeline by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline_ref: Option<Value>,
    /// Parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<Value>,
    /// Workspaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<Value>,
    /// Time limits of the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Value>,
    /// ServiceAccount and pod settings of every task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_run_template: Option<Value>,
    /// `Cancelled` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// How it goes. Source: `tekton.dev/v1`, `PipelineRunStatus`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineRunStatus {
    /// One condition, `Succeeded`.
    #[serde(default)]
    pub conditions: Vec<TektonCondition>,
    /// When it started.
    #[serde(default)]
    #[schemars(skip)]
    pub start_time: Option<Time>,
    /// When it ended; set exactly when the condition is True or False.
    #[serde(default)]
    #[schemars(skip)]
    pub completion_time: Option<Time>,
    /// Its TaskRuns.
    #[serde(default)]
    pub child_references: Vec<ChildReference>,
    /// Tasks that did not run.
    #[serde(default)]
    pub skipped_tasks: Vec<SkippedTask>,
}

/// Knative's condition: `lastTransitionTime` may be absent, unlike `metav1.Condition`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TektonCondition {
    /// `Succeeded`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `Unknown` while it runs, then `True` or `False`.
    pub status: String,
    /// Open-ended text; nothing is decided on it but infrastructure failures.
    #[serde(default)]
    pub reason: Option<String>,
    /// For people.
    #[serde(default)]
    pub message: Option<String>,
}

/// A TaskRun of a PipelineRun.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChildReference {
    /// Name of the TaskRun.
    pub name: String,
    /// Task in the pipeline.
    #[serde(default)]
    pub pipeline_task_name: Option<String>,
}

/// A task that did not run.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedTask {
    /// Task in the pipeline.
    pub name: String,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A part of a PipelineRun. Never created by Fettle.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, JsonSchema)]
#[kube(
    group = "tekton.dev",
    version = "v1",
    kind = "TaskRun",
    plural = "taskruns",
    namespaced,
    schema = "disabled",
    status = "TaskRunStatus"
)]
pub struct TaskRunSpec {}

/// A pipeline of a team's own; only its metadata is read.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, JsonSchema)]
#[kube(group = "tekton.dev", version = "v1", kind = "Pipeline", plural = "pipelines", namespaced, schema = "disabled")]
pub struct PipelineSpec {}

/// How a part goes. Source: `tekton.dev/v1`, `TaskRunStatus`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskRunStatus {
    /// One condition, `Succeeded`.
    #[serde(default)]
    pub conditions: Vec<TektonCondition>,
    /// Its pod.
    #[serde(default)]
    pub pod_name: Option<String>,
    /// Its steps.
    #[serde(default)]
    pub steps: Vec<StepState>,
}

/// How a step goes.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepState {
    /// Name in the task.
    #[serde(default)]
    pub name: Option<String>,
    /// Container in the pod; names the log.
    #[serde(default)]
    pub container: Option<String>,
    /// Set when the step is over.
    #[serde(default)]
    #[schemars(skip)]
    pub terminated: Option<Value>,
}

impl PipelineRunStatus {
    /// The condition `Succeeded`.
    pub fn succeeded(&self) -> Option<&TektonCondition> {
        self.conditions.iter().find(|c| c.type_ == "Succeeded")
    }
}

impl TaskRunStatus {
    /// The condition `Succeeded`.
    pub fn succeeded(&self) -> Option<&TektonCondition> {
        self.conditions.iter().find(|c| c.type_ == "Succeeded")
    }
}

impl TektonCondition {
    /// Whether the condition is final.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "True" | "False")
    }
}
