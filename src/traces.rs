//! Traces: a span for each request, sent to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! A request hands its span over and goes on: a task of its own sends them, many at once. What waits for it is bounded.
//! If the collector is away or slow, spans are dropped and counted (`trace_spans_dropped_total`), and nothing else
//! happens: no request waits.
//!
//! A trace of a trusted proxy goes on here: its parent is kept, and so is its decision whether it is recorded. Nobody
//! else decides that, or to which trace a request belongs: with it a new trace begins, which has a link to what was
//! said (W3C Trace Context, section 4.3, "restart the trace").

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample, SpanData, SpanEvents,
    SpanExporter as _, SpanLinks,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use url::Url;

use crate::access_log::Entry;
use crate::metrics::Metrics;
use crate::outbound;
use crate::repeats::Repeats;

/// The headers of W3C Trace Context, as they are written.
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";

/// How many spans may wait to be sent. Beyond, they are dropped.
const WAITING: usize = 2048;
/// Spans that are sent at once, if so many wait.
const BATCH: usize = 512;
/// How long a span may wait for others.
const GATHER: Duration = Duration::from_secs(2);
/// How long a collector may take for one batch, with what is tried again.
const EXPORT: Duration = Duration::from_secs(10);
/// How long the last spans may take when the process ends.
const LAST_SPANS: Duration = Duration::from_secs(3);
/// The methods that have names of their own in spans ("HTTP request method" of the semantic conventions).
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// Why there can be no traces.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Client(#[from] reqwest::Error),
    #[error("{0}")]
    Exporter(#[from] ExporterBuildError),
}

/// Where requests hand their spans over. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Tracer>>);

#[derive(Debug)]
struct Tracer {
    queue: mpsc::Sender<Message>,
    sampler: Sampler,
    ids: RandomIdGenerator,
    propagator: TraceContextPropagator,
    scope: InstrumentationScope,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Message {
    Span(Box<SpanData>),
    /// Everything before is sent, or dropped.
    End(oneshot::Sender<()>),
}

/// The place of one request in a trace.
#[derive(Debug)]
pub struct Trace {
    own: SpanContext,
    /// The span of a trusted proxy.
    parent: Option<SpanId>,
    /// What somebody else said.
    stranger: Option<SpanContext>,
}

impl Traces {
    /// Nothing is traced.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Traces that are sent to the collector at `otlp` by a task of the current runtime. `sample` is the share of
    /// requests, from 0 to 1, that are recorded if a trace begins with them. What cannot be sent is counted in `metrics`.
    ///
    /// # Errors
    /// [`TracesError`].
    pub fn to(otlp: &Url, sample: f64, metrics: Arc<Metrics>) -> Result<Self, TracesError> {
        let client = outbound::http(&[])?.timeout(EXPORT).build()?;
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(otlp.as_str())
            .with_timeout(EXPORT)
            .build()?;
        exporter.set_resource(&resource());
        let (traces, waiting) = Self::waiting(WAITING, sample, Arc::clone(&metrics));
        let _runs_until_the_last_sender_is_gone = tokio::spawn(send(exporter, waiting, metrics));
        Ok(traces)
    }

    /// Traces of which so many spans wait, and from where they are taken.
    fn waiting(most: usize, sample: f64, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Message>) {
        let (queue, waiting) = mpsc::channel(most);
        let tracer = Tracer {
            queue,
            sampler: Sampler::TraceIdRatioBased(sample),
            ids: RandomIdGenerator::default(),
            propagator: TraceContextPropagator::new(),
            scope: InstrumentationScope::builder("faregate").with_version(env!("CARGO_PKG_VERSION")).build(),
            metrics,
        };
        (Self(Some(Arc::new(tracer))), waiting)
    }

    /// The place of a request that came with these headers; `None` if nothing is traced. `is_believed` says whether
    /// its sender may say to which trace it belongs.
    #[must_use]
    pub fn begin(&self, headers: &HeaderMap, is_believed: bool) -> Option<Box<Trace>> {
        let tracer = self.0.as_ref()?;
        let said = tracer.propagator.extract_with_context(&Context::new(), &Once(headers));
        let said = Some(said.span().span_context().clone()).filter(SpanContext::is_valid);
        let own = tracer.ids.new_span_id();
        let place = |trace, flags, state| SpanContext::new(trace, own, flags, false, state);
        Some(Box::new(match said {
            Some(said) if is_believed => Trace {
                own: place(said.trace_id(), said.trace_flags(), said.trace_state().clone()),
                parent: Some(said.span_id()),
                stranger: None,
            },
            stranger => {
                let trace = tracer.ids.new_trace_id();
                let decided = tracer.sampler.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
                let is_sampled = decided.decision == SamplingDecision::RecordAndSample;
                let flags = if is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
                Trace { own: place(trace, flags, TraceState::default()), parent: None, stranger }
            }
        }))
    }

    /// Hands over the span of a request that has ended as the access log says it. `is_secure` says whether its client
    /// used https. Never waits: with too many before it, it is dropped.
    pub fn end(&self, trace: &Trace, entry: &Entry, is_secure: bool) {
        let Some(tracer) = self.0.as_ref().filter(|_| trace.is_recorded()) else { return };
        let span = Box::new(trace.span(entry, is_secure, tracer.scope.clone()));
        match tracer.queue.try_send(Message::Span(span)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => tracer.metrics.spans_dropped(1),
        }
    }

    /// Waits until what was handed over is sent, for a while.
    pub async fn flush(&self) {
        let Some(tracer) = &self.0 else { return };
        let (done, sent) = oneshot::channel();
        let flushed = async {
            if tracer.queue.send(Message::End(done)).await.is_ok() {
                // Whether or not, the process ends.
                let _sent = sent.await.is_ok();
            }
        };
        let _in_time = tokio::time::timeout(LAST_SPANS, flushed).await.is_ok();
    }
}

impl Trace {
    /// Whether its span is sent.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.own.is_sampled()
    }

    /// Whether the trace began before this request, so that its `tracestate` is of this trace.
    #[must_use]
    pub const fn goes_on(&self) -> bool {
        self.parent.is_some()
    }

    /// The `traceparent` that the upstream is told: the request's own span is the parent of what happens there.
    #[must_use]
    pub fn traceparent(&self) -> HeaderValue {
        let flags = u8::from(self.own.is_sampled());
        let text = format!("00-{}-{}-{flags:02x}", self.own.trace_id(), self.own.span_id());
        // Hexadecimal digits and dashes.
        HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
    }

    /// Nothing in a span is worth money: it has what the access log has, without the payment.
    fn span(&self, entry: &Entry, is_secure: bool, instrumentation_scope: InstrumentationScope) -> SpanData {
        let method = METHODS.iter().find(|it| **it == entry.line.method()).copied();
        let mut links = SpanLinks::default();
        links.links.extend(self.stranger.clone().map(Link::with_context));
        let has_failed = entry.status == 0 || entry.status >= 500;
        SpanData {
            span_context: self.own.clone(),
            parent_span_id: self.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: SpanKind::Server,
            name: format!("{} {}", method.unwrap_or("HTTP"), entry.route).into(),
            start_time: entry.time.checked_sub(entry.duration_ms).unwrap_or(entry.time),
            end_time: entry.time,
            attributes: attributes(entry, method, is_secure),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: if has_failed { Status::error("") } else { Status::Unset },
            instrumentation_scope,
        }
    }
}

/// What a span says of a request: by the semantic conventions for HTTP servers, and `faregate.*` for the rest.
fn attributes(entry: &Entry, method: Option<&'static str>, is_secure: bool) -> Vec<KeyValue> {
    let status = i64::from(entry.status);
    let version = entry.line.protocol().trim_start_matches("HTTP/");
    let mut all = vec![
        KeyValue::new("http.request.method", method.unwrap_or("_OTHER")),
        KeyValue::new("url.path", entry.line.path().to_owned()),
        KeyValue::new("url.scheme", if is_secure { "https" } else { "http" }),
        KeyValue::new("http.route", Arc::clone(&entry.route)),
        KeyValue::new("network.protocol.version", version),
        KeyValue::new("faregate.outcome", entry.outcome.as_str()),
        KeyValue::new("faregate.request_id", entry.request_id.to_str().unwrap_or_default().to_owned()),
    ];
    if method.is_none() {
        all.push(KeyValue::new("http.request.method_original", entry.line.method().to_owned()));
    }
    match entry.status {
        0 => all.push(KeyValue::new("error.type", "_OTHER")),
        500.. => all.push(KeyValue::new("error.type", entry.status.to_string())),
        _ => {}
    }
    if entry.status > 0 {
        all.push(KeyValue::new("http.response.status_code", status));
    }
    let upstream = entry.upstream.as_ref().map(SocketAddr::to_string);
    let took = entry.upstream_ms.and_then(|it| i64::try_from(it.as_micros()).ok());
    all.extend(entry.client.map(|it| KeyValue::new("client.address", it.to_string())));
    all.extend(entry.reason.map(|it| KeyValue::new("faregate.reason", it)));
    all.extend(upstream.map(|it| KeyValue::new("faregate.upstream.address", it)));
    all.extend(took.map(|it| KeyValue::new("faregate.upstream.duration_us", it)));
    all
}

/// What all spans of this process say of it.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_service_name("faregate").with_attribute(version).build()
}

/// Headers of which only those count that came once: several `traceparent` are none (W3C Trace Context, section 3.2).
struct Once<'a>(&'a HeaderMap);

impl Extractor for Once<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        value.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Sends what waits, until nobody is left who could hand over more.
async fn send(exporter: SpanExporter, mut waiting: mpsc::Receiver<Message>, metrics: Arc<Metrics>) {
    let trouble = Repeats::new();
    while let Some(first) = waiting.recv().await {
        let (mut batch, mut ends) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        let gather = async {
            while let Some(message) = next {
                match message {
                    Message::Span(span) => batch.push(*span),
                    Message::End(done) => ends.push(done),
                }
                next = if batch.len() < BATCH && ends.is_empty() { waiting.recv().await } else { None };
            }
        };
        // Full or not, it leaves.
        let _is_full = tokio::time::timeout(GATHER, gather).await.is_ok();
        if !batch.is_empty() {
            let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            if let Err(error) = exporter.export(batch).await {
                metrics.spans_dropped(count);
                if let Some(held_back) = trouble.again() {
                    tracing::warn!(%error, held_back, "spans cannot be sent: they are dropped");
                }
            } else if let Some(spell) = trouble.over() {
                tracing::info!(after_s = spell.lasted.as_secs(), "spans can be sent again");
            }
        }
        for done in ends {
            // Who waited may have given up.
            let _heard = done.send(()).is_ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traces(sample: f64) -> Traces {
        Traces::waiting(1, sample, Arc::new(Metrics::new().unwrap())).0
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn nothing_is_made_if_nothing_is_traced() {
        assert!(Traces::none().begin(&headers(&[SAID]), true).is_none());
    }

    #[test]
    fn what_cannot_be_read_begins_a_new_trace() {
        let unreadable: [&[&str]; 7] = [
            &[],
            &[""],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"],
            &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"],
            &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
            &[SAID, SAID],
        ];
        for said in unreadable {
            let trace = traces(1.0).begin(&headers(said), true).unwrap();
            assert!(!trace.goes_on() && trace.stranger.is_none(), "{said:?}");
            assert!(trace.is_recorded() && trace.own.is_valid(), "{said:?}");
        }
    }

    #[test]
    fn a_trusted_sender_decides_and_a_stranger_does_not() {
        let not_recorded = SAID.replace("-01", "-00");
        for (said, is_believed, sample, recorded) in [
            (SAID, true, 0.0, true),
            (&*not_recorded, true, 1.0, false),
            (SAID, false, 0.0, false),
            (&*not_recorded, false, 1.0, true),
        ] {
            let trace = traces(sample).begin(&headers(&[said]), is_believed).unwrap();
            assert_eq!(
                (trace.is_recorded(), trace.goes_on()),
                (recorded, is_believed),
                "{said} {is_believed}"
            );
            let told = trace.traceparent();
            let told: Vec<_> = told.to_str().unwrap().split('-').collect();
            assert_eq!(told[1] == "4bf92f3577b34da6a3ce929d0e0e4736", is_believed);
            assert_ne!(told[2], "00f067aa0ba902b7", "a span of its own");
            assert_eq!((told[0], told[3]), ("00", if recorded { "01" } else { "00" }));
            assert_eq!(trace.stranger.is_some(), !is_believed);
        }
    }

    #[test]
    fn a_share_of_traces_is_recorded() {
        let traces = traces(0.1);
        let recorded =
            (0..2000).filter(|_| traces.begin(&HeaderMap::new(), false).unwrap().is_recorded()).count();
        // 200 are expected, with a deviation of 13.
        assert!((100..300).contains(&recorded), "{recorded}");
    }
}
