//! Traces: what a collector gets of a request, who decides to which trace it belongs, and that a collector hurts nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use faregate::clock::Stopwatch;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::patience::wait_for;
use crate::rig::{PLENTY, Plan, Rig, capability, header, offers};
use crate::scripted::{Reply, Scripted, Seen};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector, which keeps what it gets.
struct Collector(Scripted);

impl Collector {
    async fn start() -> Self {
        Self(Scripted::start(|_| Reply::text(200, "").with("Content-Type", "application/x-protobuf")).await)
    }

    /// What a gateway is told of it.
    fn section(&self, sample: &str) -> String {
        let url = self.0.url.origin().ascii_serialization();
        format!("tracing: {{ otlp: \"{url}\", sample: {sample} }}\n")
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let read = |seen: &Seen| {
            assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v1/traces"));
            assert_eq!(seen.header("content-type"), Some("application/x-protobuf"));
            ExportTraceServiceRequest::decode(seen.body.as_slice()).unwrap()
        };
        self.0.seen().iter().map(read).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|it| it.resource_spans);
        resources.flat_map(|it| it.scope_spans).flat_map(|it| it.spans).collect()
    }
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|it| it.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn attributes(of: Vec<KeyValue>) -> BTreeMap<String, String> {
    of.into_iter().map(|it| (it.key, text(it.value))).collect()
}

async fn rig(collector: &Collector, sample: &str, listen: Option<&'static str>) -> Rig {
    Rig::with(Plan { more: collector.section(sample), listen, ..Plan::default() }).await
}

/// `traceparent` as the upstream was told it with its last request: trace, span, flags.
fn told(rig: &Rig) -> [String; 3] {
    let seen = rig.upstream.seen().pop().unwrap();
    let told: Vec<_> = seen.header("traceparent").unwrap().split('-').map(str::to_owned).collect();
    let [version, trace, span, flags] = told.try_into().unwrap();
    assert_eq!(version, "00");
    [trace, span, flags]
}

#[tokio::test]
async fn a_request_is_a_span_that_its_route_names() {
    let collector = Collector::start().await;
    let rig = rig(&collector, "1", None).await;
    let answer = rig.get("/v1/search/a?query=hidden", &[]).await;
    assert_eq!(answer.status(), 402);
    let id = header(&answer, "x-request-id").to_owned();
    let paid = rig.pay(&rig.payer(1, PLENTY), "/v1/search/b").await;
    assert_eq!(paid.status(), 200);
    let [trace, span, flags] = told(&rig);
    let missing =
        rig.http.request("BREW".parse().unwrap(), format!("{}/nowhere", rig.url)).send().await.unwrap();
    assert_eq!(missing.status(), 404);
    let upstream = rig.upstream.url.authority().to_owned();
    rig.end().await;

    let requests = collector.requests();
    let resource = attributes(requests[0].resource_spans[0].resource.clone().unwrap().attributes);
    assert_eq!(resource["service.name"], "faregate");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    let spans = collector.spans();
    let names: Vec<_> = spans.iter().map(|it| it.name.as_str()).collect();
    // A bill that is asked for, the bill of the payment, and the payment.
    assert_eq!(names, ["GET search", "GET search", "GET search", "HTTP unmatched"]);
    let all: Vec<_> = spans.iter().map(|it| attributes(it.attributes.clone())).collect();
    let common = |method: &str, path: &str, route: &str, status: u16, outcome: &str| {
        let status = status.to_string();
        let pairs = [
            ("http.request.method", method),
            ("url.path", path),
            ("url.scheme", "http"),
            ("http.route", route),
            ("http.response.status_code", &status),
            ("network.protocol.version", "1.1"),
            ("client.address", "127.0.0.1"),
            ("faregate.outcome", outcome),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect::<BTreeMap<_, _>>()
    };
    let without = |of: &BTreeMap<String, String>, names: &[&str]| {
        let mut of = of.clone();
        for name in names {
            assert!(of.remove(*name).is_some(), "{name} is not in {of:?}");
        }
        of
    };
    assert_eq!(all[0]["faregate.request_id"], id);
    assert_eq!(
        without(&all[0], &["faregate.request_id"]),
        common("GET", "/v1/search/a", "search", 402, "challenged")
    );
    assert_eq!(all[2]["faregate.upstream.address"], upstream);
    let of_upstream = ["faregate.request_id", "faregate.upstream.address", "faregate.upstream.duration_us"];
    assert_eq!(without(&all[2], &of_upstream), common("GET", "/v1/search/b", "search", 200, "paid"));
    assert_eq!(all[3]["http.request.method_original"], "BREW");
    assert_eq!(
        without(&all[3], &["faregate.request_id", "http.request.method_original"]),
        common("_OTHER", "/nowhere", "unmatched", 404, "refused")
    );
    let (paid, kind) = (&spans[2], opentelemetry_proto::tonic::trace::v1::span::SpanKind::Server);
    assert_eq!(
        (hex::encode(&paid.trace_id), hex::encode(&paid.span_id), flags),
        (trace, span, "01".to_owned())
    );
    assert_eq!((paid.kind, paid.parent_span_id.len(), paid.links.len()), (kind as i32, 0, 0));
    let took = Duration::from_nanos(paid.end_time_unix_nano - paid.start_time_unix_nano);
    assert!(took > Duration::ZERO && took < Duration::from_secs(60), "{took:?}");
    let traces: std::collections::BTreeSet<_> = spans.iter().map(|it| &it.trace_id).collect();
    assert_eq!(traces.len(), spans.len(), "each is a trace of its own");
}

#[tokio::test]
async fn an_upstream_that_fails_is_an_error_of_the_span() {
    let collector = Collector::start().await;
    let more = collector.section("1");
    let rig = Rig::with(Plan { more, answer: Box::new(|_| Reply::Drop), ..Plan::default() }).await;
    assert_eq!(rig.get("/free/x", &[]).await.status(), 502);
    assert_eq!(rig.get("/nowhere", &[]).await.status(), 404);
    rig.end().await;
    let errors: Vec<_> = collector
        .spans()
        .into_iter()
        .map(|it| (it.status.unwrap_or_default().code, attributes(it.attributes).remove("error.type")))
        .collect();
    assert_eq!(errors, [(2, Some("502".to_owned())), (0, None)], "4xx are the client's");
}

/// What a trusted proxy began goes on; what anybody else says is a link, and neither names the trace nor has it recorded.
#[tokio::test]
async fn only_a_trusted_proxy_says_to_which_trace_a_request_belongs() {
    let parent = |flags: &str| format!("00-{TRACE}-{PARENT}-{flags}");
    for (listen, sample, flags, goes_on, recorded) in [
        (Some("trusted_proxies: [127.0.0.1]"), "0", "01", true, true),
        (Some("trusted_proxies: [127.0.0.1]"), "1", "00", true, false),
        (None, "0", "01", false, false),
        (None, "1", "00", false, true),
    ] {
        let collector = Collector::start().await;
        let rig = rig(&collector, sample, listen).await;
        let said = parent(flags);
        let headers = [("traceparent", &*said), ("tracestate", "vendor=1"), ("X-Forwarded-For", "192.0.2.7")];
        assert_eq!(rig.get("/free/x", &headers).await.status(), 200);
        let [trace, span, told_flags] = told(&rig);
        let state = rig.upstream.seen().pop().unwrap().header("tracestate").map(str::to_owned);
        rig.end().await;
        assert_eq!(trace == TRACE, goes_on, "{listen:?} {flags}");
        assert_ne!(span, PARENT, "the upstream's parent is the gateway's span");
        assert_eq!(told_flags, if recorded { "01" } else { "00" });
        assert_eq!(state.as_deref(), goes_on.then_some("vendor=1"), "the state is of its trace");
        let spans = collector.spans();
        assert_eq!(spans.len(), usize::from(recorded), "{listen:?} {sample} {flags}");
        let Some(sent) = spans.first() else { continue };
        assert_eq!((hex::encode(&sent.trace_id), hex::encode(&sent.span_id)), (trace, span));
        assert_eq!(hex::encode(&sent.parent_span_id), if goes_on { PARENT } else { "" });
        let links: Vec<_> =
            sent.links.iter().map(|it| (hex::encode(&it.trace_id), hex::encode(&it.span_id))).collect();
        let stranger = (TRACE.to_owned(), PARENT.to_owned());
        assert_eq!(links, if goes_on { vec![] } else { vec![stranger] });
    }
}

/// Everything a client may send or get that is worth money, or nobody's business, is looked for in what is sent.
#[tokio::test]
async fn no_secret_is_in_any_span() {
    let collector = Collector::start().await;
    let rig = rig(&collector, "1", None).await;
    let key = rig.payer(1, PLENTY);
    let path = "/v1/search/a?query=hidden-query";
    let bill = rig.get(path, &[]).await;
    let [txn, _] = offers(&bill).offers.try_into().unwrap();
    let (proof, block) = rig.txn(&key, &txn);
    let paid =
        rig.get(path, &[("PAYMENT-SIGNATURE", &proof), ("Authorization", "Bearer hidden-bearer")]).await;
    let (token, _) = capability(&paid);
    let said = header(&paid, "payment-response").to_owned();
    let unlocked =
        [("PAYMENT-CAPABILITY", &*token), ("Cookie", "hidden-cookie"), ("User-Agent", "hidden-agent")];
    assert_eq!(rig.get(path, &unlocked).await.status(), 200);
    assert_eq!(rig.get("/paid?hidden-query", &[("PAYMENT-SIGNATURE", "hidden-garbage")]).await.status(), 400);
    rig.end().await;
    assert_eq!(collector.spans().len(), 4);
    let sent: Vec<_> = collector.0.seen().into_iter().flat_map(|it| it.body).collect();
    let sent = String::from_utf8_lossy(&sent).to_lowercase();
    let signature = serde_json::to_value(block).unwrap()["signature"].as_str().unwrap().to_owned();
    for secret in [&proof, &token, &said, &signature, "hidden-"] {
        assert!(!sent.contains(&secret.to_lowercase()), "{secret} is in a span");
    }
    assert!(sent.contains("/v1/search/a"));
}

/// Requests do not wait for a collector that is away or stands still, nor does the end for long; what it does not get is
/// counted.
#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let away = "tracing: { otlp: \"http://127.0.0.1:1\", sample: 1 }\n".to_owned();
    let rig = Rig::with(Plan { more: away, ..Plan::default() }).await;
    for _ in 0..3 {
        assert_eq!(rig.get("/free/x", &[]).await.status(), 200);
    }
    let dropped = "\nfaregate_trace_spans_dropped_total 3\n";
    wait_for("three are counted", async || {
        rig.services.metrics().text().unwrap().contains(dropped).then_some(())
    })
    .await;
    rig.end().await;
    let stuck = Collector(Scripted::start(|_| Reply::Hang).await);
    let rig = self::rig(&stuck, "1", None).await;
    assert_eq!(rig.get("/free/x", &[]).await.status(), 200);
    let ending = Stopwatch::start();
    rig.end().await;
    assert!(ending.elapsed() < Duration::from_secs(20), "{:?}", ending.elapsed());
}
