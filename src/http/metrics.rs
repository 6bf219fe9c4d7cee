//! What the server counts.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{archive::Swept, history::Caught};

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// The server's metrics. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    reviews: Family<ReviewLabels, Counter>,
    swept: Family<KindLabels, Counter>,
    /// Logs that are being downloaded.
    pub log_streams: Gauge,
    /// Requests that wait for the end of a run.
    pub waiting: Gauge,
    /// Event streams that are open.
    pub event_streams: Gauge,
    /// Bytes of logs that were read from the archive and not yet handed to a connection.
    pub log_bytes_in_flight: Gauge,
    /// Bytes of logs read from the archive.
    pub log_bytes_read: Counter,
    /// Bytes of logs taken in.
    pub log_bytes_received: Counter,
    /// When the sweep last ended well, Unix time.
    pub last_sweep: Gauge,
    /// 1 while the history lacks records.
    pub history_degraded: Gauge,
    history_phases: Gauge,
    history_open_incidents: Gauge,
    history_repair: Gauge,
    history_skipped: Gauge,
    history_caught_up: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]);
        let mut metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            reviews: Family::default(),
            swept: Family::default(),
            log_streams: Gauge::default(),
            waiting: Gauge::default(),
            event_streams: Gauge::default(),
            log_bytes_in_flight: Gauge::default(),
            log_bytes_read: Counter::default(),
            log_bytes_received: Counter::default(),
            last_sweep: Gauge::default(),
            history_degraded: Gauge::default(),
            history_phases: Gauge::default(),
            history_open_incidents: Gauge::default(),
            history_repair: Gauge::default(),
            history_skipped: Gauge::default(),
            history_caught_up: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("fettle_server");
        registry.register("requests", "Requests answered, by route and code", metrics.requests.clone());
        registry.register_with_unit("request_duration", "Time to the head of the answer", Unit::Seconds, metrics.seconds.clone());
        registry.register("reviews", "Questions to the API server: who is it, may they", metrics.reviews.clone());
        registry.register("swept", "Objects of the archive removed after their retention", metrics.swept.clone());
        registry.register("log_streams", "Logs that are being downloaded", metrics.log_streams.clone());
        registry.register("waiting", "Requests that wait for the end of a run", metrics.waiting.clone());
        registry.register("event_streams", "Event streams that are open", metrics.event_streams.clone());
        registry.register_with_unit(
            "log_in_flight",
            "Read from the archive and not yet handed to a connection",
            Unit::Bytes,
            metrics.log_bytes_in_flight.clone(),
        );
        registry.register_with_unit("log_read", "Read from logs in the archive", Unit::Bytes, metrics.log_bytes_read.clone());
        registry.register_with_unit("log_received", "Logs taken in", Unit::Bytes, metrics.log_bytes_received.clone());
        registry.register_with_unit(
            "last_sweep_timestamp",
            "When the retention was last applied",
            Unit::Seconds,
            metrics.last_sweep.clone(),
        );
        registry.register("history_degraded", "1 while the history lacks records", metrics.history_degraded.clone());
        registry.register("history_phases", "Phases in the history", metrics.history_phases.clone());
        registry.register(
            "history_open_incidents",
            "Phases of a group that failed and did not end well since",
            metrics.history_open_incidents.clone(),
        );
        registry.register_with_unit(
            "history_mean_repair",
            "Mean time from a failure to the next good end, over 30 days",
            Unit::Seconds,
            metrics.history_repair.clone(),
        );
        registry.register(
            "history_skipped_records",
            "Records that cannot be read, and are not in the history",
            metrics.history_skipped.clone(),
        );
        registry.register_with_unit(
            "history_catch_up_timestamp",
            "When the history was last compared with the archive",
            Unit::Seconds,
            metrics.history_caught_up.clone(),
        );
        metrics.registry = Arc::new(registry);
        metrics
    }
}

impl Metrics {
    /// Everything, in the text format of `OpenMetrics`.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts an answer.
    pub fn request(&self, method: &http::Method, route: &str, code: u16, took: Duration) {
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "PUT" => "PUT",
            // callers do not get to make series
            _ => "other",
        };
        self.requests.get_or_create(&RequestLabels { method, route: route.to_owned(), code }).inc();
        self.seconds.get_or_create(&RouteLabels { route: route.to_owned() }).observe(took.as_secs_f64());
    }

    pub(super) fn review(&self, kind: &'static str, outcome: &'static str) {
        self.reviews.get_or_create(&ReviewLabels { kind, outcome }).inc();
    }

    pub(super) fn swept(&self, swept: Swept, now: jiff::Timestamp) {
        for (kind, number) in [("log", swept.logs), ("record", swept.records), ("leftover", swept.leftovers)] {
            self.swept.get_or_create(&KindLabels { kind }).inc_by(number);
        }
        self.last_sweep.set(now.as_second());
    }

    pub(super) fn caught(&self, caught: Caught) {
        self.history_phases.set(caught.phases);
        self.history_open_incidents.set(caught.open_incidents);
        self.history_repair.set(caught.repair_seconds);
        self.history_skipped.set(i64::try_from(caught.skipped).unwrap_or(i64::MAX));
        self.history_caught_up.set(caught.at);
    }
}
