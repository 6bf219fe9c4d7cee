//! Metrics of the manager, in one table. Cardinality is bounded: no name of a run, host or namespace is a label.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// Content type of what [`Metrics::render`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels of a reconcile.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReconcileLabels {
    /// Kind of the object, in lower case.
    pub controller: String,
    /// `success` or `error`.
    pub result: &'static str,
}

/// Labels of a finished phase.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PhaseLabels {
    /// The phase.
    pub phase: &'static str,
    /// `OK` or `ERROR`.
    pub result: &'static str,
    /// From the closed set of reasons.
    pub reason: String,
}

/// Labels of a failure that was classified.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct FailureLabels {
    /// The phase.
    pub phase: &'static str,
    /// A code of the shipped Runbooks; `custom` for those of teams.
    pub error_code: String,
}

/// Labels of what is told by phase only.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct PhaseLabel {
    /// The phase.
    pub phase: &'static str,
}

/// Labels of a finished run.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RunLabels {
    /// `OK` or `ERROR`.
    pub result: &'static str,
}

/// Labels of runs that are not over.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WaitingLabels {
    /// From the closed set of reasons.
    pub reason: &'static str,
}

/// Labels of a launch.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct LaunchLabels {
    /// The phase.
    pub phase: &'static str,
    /// `Fenced`, `Direct` or `Tekton`.
    pub mode: &'static str,
}

/// Labels of a call to a controller.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CallLabels {
    /// HTTP method.
    pub method: String,
    /// Route, without ids.
    pub route: String,
    /// `2xx`, … or a word for what kept an answer from coming.
    pub code: String,
}

/// Labels of a request to the Kubernetes API server.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ApiCallLabels {
    /// HTTP method, or `WATCH`.
    pub verb: &'static str,
    /// Resource and subresource, without names: `patchruns/status`.
    pub resource: String,
    /// Status code, or `none` when no answer came.
    pub code: String,
}

/// The manager's metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Reconciles.
    pub reconciles: Family<ReconcileLabels, Counter>,
    /// Seconds a reconcile took.
    pub reconcile_seconds: Histogram,
    /// Launches asked for (a repeated request of the same launch counts again).
    pub launches: Family<LaunchLabels, Counter>,
    /// Phases whose result was found in the records.
    pub adoptions: Counter,
    /// Finished phases.
    pub phases: Family<PhaseLabels, Counter>,
    /// Phases that failed for a cause that was found in their log, or for none that was.
    pub failures: Family<FailureLabels, Counter>,
    /// Seconds from the start of a phase's executor to its end.
    pub phase_seconds: Family<PhaseLabel, Histogram, fn() -> Histogram>,
    /// Runs that are not over, by what they do or wait for.
    pub unfinished: Family<WaitingLabels, Gauge>,
    /// Finished runs.
    pub runs: Family<RunLabels, Counter>,
    /// Requests to the Kubernetes API server.
    pub api_calls: Family<ApiCallLabels, Counter>,
    /// Calls to AAP controllers.
    pub aap_calls: Family<CallLabels, Counter>,
    /// Seconds from a call to an AAP controller to its answer.
    pub aap_call_seconds: Histogram,
    /// Status writes.
    pub status_writes: Counter,
    /// 1 on the replica that works.
    pub leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("fettle");
        let reconciles = Family::default();
        registry.register("reconciles", "Reconciles by kind and result", reconciles.clone());
        let reconcile_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        registry.register_with_unit("reconcile", "Duration of reconciles", Unit::Seconds, reconcile_seconds.clone());
        let launches = Family::default();
        registry.register("launches", "Launches asked for; a repeated request of the same launch counts again", launches.clone());
        let adoptions = Counter::default();
        registry.register("adoptions", "Phases whose result was found in the records", adoptions.clone());
        let phases = Family::default();
        registry.register("phases", "Finished phases by result and reason", phases.clone());
        let failures = Family::default();
        registry.register("failures", "Failed phases by the cause found in their log", failures.clone());
        let seconds: fn() -> Histogram = || Histogram::new([15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 2400.0, 4800.0, 9600.0]);
        let phase_seconds = Family::new_with_constructor(seconds);
        registry.register_with_unit(
            "phase",
            "Duration of phases, from the start of the executor to its end",
            Unit::Seconds,
            phase_seconds.clone(),
        );
        let runs = Family::<RunLabels, Counter>::default();
        // a rate needs a zero to begin with
        drop(["OK", "ERROR"].map(|result| runs.get_or_create_owned(&RunLabels { result })));
        registry.register("runs", "Finished runs by result", runs.clone());
        let unfinished = Family::default();
        registry.register("unfinished_runs", "Runs that are not over, by what they do or wait for", unfinished.clone());
        let api_calls = Family::default();
        registry.register("api_calls", "Requests to the Kubernetes API server by resource and code", api_calls.clone());
        let aap_calls = Family::default();
        registry.register("aap_calls", "Calls to AAP controllers by route and outcome", aap_calls.clone());
        let aap_call_seconds = Histogram::new(exponential_buckets(0.005, 2.0, 14));
        registry.register_with_unit("aap_call", "Duration of calls to AAP controllers", Unit::Seconds, aap_call_seconds.clone());
        let status_writes = Counter::default();
        registry.register("status_writes", "Status writes", status_writes.clone());
        let leader = Gauge::default();
        registry.register("leader", "1 on the replica that works", leader.clone());
        Self {
            registry: Arc::new(registry),
            reconciles,
            reconcile_seconds,
            launches,
            adoptions,
            phases,
            failures,
            phase_seconds,
            unfinished,
            runs,
            api_calls,
            aap_calls,
            aap_call_seconds,
            status_writes,
            leader,
        }
    }
}

impl Metrics {
    /// The metrics as `OpenMetrics` text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // writing to a String does not fail
        let _ = encode(&mut text, &self.registry);
        text
    }
}
