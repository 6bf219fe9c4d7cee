//! Logs, and the traces they belong to. A line is one JSON object (or text for people), UTC, with the fields of the current span.
//!
//! Every reconcile and every request to the server is a span with a trace id and a span id (W3C Trace Context): JSON lines inside it say `trace_id` and
//! `span_id`, and the header `traceparent` takes them to the next process. Nothing is exported, so no trace is marked as sampled.

use std::fmt;

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context,
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Event, Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::filter_fn,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer, layer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// Sets the process's logging up. `filter` as in `RUST_LOG`, for example `info,fettle=debug`.
pub fn init(format: LogFormat, filter: &str) {
    subscriber(format, filter, std::io::stderr).init();
}

/// What [`init`] sets up, writing to `writer`.
pub fn subscriber<W>(format: LogFormat, filter: &str, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // short of errors, this module of the library writes down answers of the API server as they are, Secrets and tokens included
    let discreet = filter_fn(|line| line.target() != "kube_client::client" || *line.level() <= Level::ERROR);
    let tracer = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build().tracer("fettle");
    let lines = match format {
        LogFormat::Json => {
            let json = layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.map_event_format(Traced).with_writer(writer).boxed()
        }
        LogFormat::Text => layer().with_writer(writer).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(discreet).with(tracing_opentelemetry::layer().with_tracer(tracer)).with(lines)
}

/// Makes `span`, which nobody entered yet, part of the trace that a request with these headers belongs to. A `traceparent` that is not valid is ignored.
pub fn follow(span: &Span, headers: &HeaderMap) {
    let parent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // the library takes ids of any length
    if !parent.split('-').map(str::len).take(4).eq([2, 32, 16, 2]) {
        return;
    }
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
    if context.span().span_context().is_valid() {
        // fails only where no logging was set up
        let _ = span.set_parent(context);
    }
}

/// Adds the current trace to the headers of a request.
pub fn inject(headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&Context::current(), &mut HeaderInjector(headers));
    if headers.get(TRACESTATE).is_some_and(HeaderValue::is_empty) {
        headers.remove(TRACESTATE);
    }
}

/// A JSON format with the ids of the trace added to each object.
struct Traced<F>(F);

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let context = Context::current();
        let span = context.span();
        let ids = span.span_context();
        if !ids.is_valid() {
            return self.0.format_event(ctx, writer, event);
        }
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        match line.trim_end().strip_suffix('}') {
            Some(open) => writeln!(writer, r#"{open},"trace_id":"{}","span_id":"{}"}}"#, ids.trace_id(), ids.span_id()),
            None => writer.write_str(&line),
        }
    }
}
