//! The metrics: what moves them, by how much and under which labels, and that the documentation
//! lists every one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use faregate::listen;
use faregate::metrics::{FacilitatorOutcome, Metrics, Outcome, ReachedLimit, RouteSeries, UseResult};
use faregate::nano::Raw;
use faregate::payment::{Mechanism, Refusal};
use pingora::apps::http_app::HttpServer;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::patience::{eventually, soon};
use crate::rig::{PLENTY, Plan, Rig, capability, signature};
use crate::scripted::Reply;
use crate::upstream_down::operators;

/// The samples of an exposition, by name and labels as they stand in it, without the prefix.
/// Buckets are left out: where they begin is a matter of taste. So is what the system says of the process.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let own = |line: &&str| line.starts_with("faregate_") && !line.contains("_bucket{");
    let lines = text.lines().filter(own);
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.strip_prefix("faregate_").unwrap().to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// What one sample stands at, such as `requests_total{outcome="paid",route="search"}`; 0 if it is not
/// there yet.
pub(crate) fn sample(rig: &Rig, series: &str) -> f64 {
    let text = rig.services.metrics().text().unwrap();
    samples(&text).get(series).copied().unwrap_or_default()
}

/// Uses of a route's capabilities, as the metrics count them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Uses {
    pub(crate) committed: u64,
    pub(crate) given_back: u64,
}

impl Uses {
    pub(crate) fn of(rig: &Rig, route: &str) -> Self {
        let counted = |result| {
            sample(rig, &format!("capability_uses_total{{result=\"{result}\",route=\"{route}\"}}")) as u64
        };
        Self { committed: counted("committed"), given_back: counted("given_back") }
    }
}

/// Asserts that a text is what Prometheus reads, and that each metric in it has the kind, the help and
/// the labels that it was declared with.
pub(crate) fn assert_well_formed(text: &str) {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helps: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
            assert!(helps.insert(name, help).is_none(), "{name} is there twice");
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) {
            assert!(kinds.insert(name, kind).is_none(), "{name} is there twice");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = base.filter(|it| kinds.get(it) == Some(&"histogram")).unwrap_or(name);
            if family.starts_with("process_") {
                // Named by everybody alike, and declared where they are collected.
                assert!(helps.contains_key(family) && value.parse::<f64>().unwrap().is_finite(), "{line}");
                continue;
            }
            let declared = Metrics::DECLARED.iter().find(|it| family == format!("faregate_{}", it.name));
            let declared = declared.unwrap_or_else(|| panic!("{family} is not declared"));
            assert_eq!(helps.get(family), Some(&declared.help), "{line}");
            assert_eq!(kinds[family] == "counter", family.ends_with("_total"), "{line}");
            // No value of a label here has a comma in it.
            let names = labels.split(',').filter_map(|it| it.split_once('=')).map(|(name, _)| name);
            let names: BTreeSet<_> = names.filter(|it| *it != "le").collect();
            assert_eq!(names, declared.labels.iter().copied().collect(), "{line}");
            assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
        }
    }
}

/// Asserts that `act` changes these samples to these values, and no other.
#[track_caller]
fn assert_moves(act: impl Fn(&Metrics), expected: &[(&str, f64)]) {
    let metrics = Metrics::new().unwrap();
    let before = samples(&metrics.text().unwrap());
    act(&metrics);
    let text = metrics.text().unwrap();
    assert_well_formed(&text);
    let mut moved = samples(&text);
    // A series that is there at 0 before anything happened has not moved.
    moved.retain(|series, value| before.get(series).copied().unwrap_or_default() != *value);
    let expected = expected.iter().map(|(series, value)| ((*series).to_owned(), *value)).collect();
    assert_eq!(moved, expected);
}

const TWO_SECONDS: Duration = Duration::from_secs(2);

#[test]
fn requests_are_counted_by_route_and_outcome() {
    for (outcome, label) in [
        (Outcome::Free, "free"),
        (Outcome::Allowance, "allowance"),
        (Outcome::Shadow, "shadow"),
        (Outcome::Challenged, "challenged"),
        (Outcome::Paid, "paid"),
        (Outcome::Unlocked, "unlocked"),
        (Outcome::Replayed, "replayed"),
        (Outcome::Refused, "refused"),
        (Outcome::Pending, "pending"),
        (Outcome::Unavailable, "unavailable"),
        (Outcome::UpstreamFailed, "upstream_failed"),
    ] {
        let labels = format!("{{outcome=\"{label}\",route=\"a\"}}");
        let expected = [
            (&*format!("requests_total{labels}"), 1.0),
            (&format!("request_duration_seconds_count{labels}"), 1.0),
            (&format!("request_duration_seconds_sum{labels}"), 2.0),
        ];
        assert_moves(|it| it.request(&RouteSeries::new("a"), outcome, TWO_SECONDS), &expected);
    }
    for (outcome, label) in [
        (FacilitatorOutcome::Told, "told"),
        (FacilitatorOutcome::Minted, "minted"),
        (FacilitatorOutcome::Valid, "valid"),
        (FacilitatorOutcome::Settled, "settled"),
        (FacilitatorOutcome::Refused, "refused"),
        (FacilitatorOutcome::Pending, "pending"),
        (FacilitatorOutcome::Unavailable, "unavailable"),
        (FacilitatorOutcome::Faulty, "faulty"),
    ] {
        let series = format!("facilitator_requests_total{{endpoint=\"settle\",outcome=\"{label}\"}}");
        assert_moves(|it| it.facilitator_request("settle", outcome), &[(&series, 1.0)]);
    }
}

#[test]
fn money_is_counted_by_route_and_mechanism() {
    assert_moves(|it| it.challenge("a"), &[("challenges_issued_total{route=\"a\"}", 1.0)]);
    assert_moves(
        |it| it.refusal("a", Refusal::InvalidWork.code(), Some(Mechanism::NanoTxn)),
        &[("refusals_total{mechanism=\"nanoTxn\",reason=\"INVALID_WORK\",route=\"a\"}", 1.0)],
    );
    assert_moves(
        |it| it.refusal("a", Refusal::CapabilityExhausted.code(), None),
        &[("refusals_total{mechanism=\"none\",reason=\"CAPABILITY_EXHAUSTED\",route=\"a\"}", 1.0)],
    );
    let half_a_nano = Raw::new(500_000_000_000_000_000_000_000_000_000);
    assert_moves(
        |it| it.settled("a", Mechanism::NanoSignature, half_a_nano, TWO_SECONDS),
        &[
            ("payments_settled_total{mechanism=\"nanoSignature\",route=\"a\"}", 1.0),
            ("revenue_xno_total{mechanism=\"nanoSignature\",route=\"a\"}", 0.5),
            ("settlement_duration_seconds_count{mechanism=\"nanoSignature\"}", 1.0),
            ("settlement_duration_seconds_sum{mechanism=\"nanoSignature\"}", 2.0),
        ],
    );
    assert_moves(
        |it| it.confirmed(TWO_SECONDS),
        &[("confirmation_duration_seconds_count", 1.0), ("confirmation_duration_seconds_sum", 2.0)],
    );
    assert_moves(
        |it| it.limit_reached(ReachedLimit::HeadTime),
        &[("limits_reached_total{limit=\"head_time\"}", 1.0)],
    );
    for (result, label) in [(UseResult::Committed, "committed"), (UseResult::GivenBack, "given_back")] {
        let series = format!("capability_uses_total{{result=\"{label}\",route=\"a\"}}");
        assert_moves(|it| it.capability_use(&RouteSeries::new("a"), result), &[(&series, 1.0)]);
    }
    // The cache says how many it removed in all, so the second report adds the difference.
    assert_moves(
        |it| {
            it.capabilities(5, 2);
            it.capabilities(7, 3);
        },
        &[("capabilities_active", 7.0), ("capability_evictions_total", 3.0)],
    );
    assert_moves(
        |it| it.pool_waits(half_a_nano, 3),
        &[("pool_receivable_xno", 0.5), ("unclaimed_payments", 3.0)],
    );
    assert_moves(|it| it.unclaimed(4), &[("unclaimed_payments", 4.0)]);
    assert_moves(
        |it| it.unclaimed_noted(5, 2),
        &[("unclaimed_journalled_total", 5.0), ("unclaimed_dropped_total", 2.0)],
    );
    assert_moves(
        |it| it.sweep_block("send", Some(half_a_nano)),
        &[("sweep_blocks_total{action=\"send\"}", 1.0), ("swept_xno_total", 0.5)],
    );
    assert_moves(|it| it.sweep_block("open", None), &[("sweep_blocks_total{action=\"open\"}", 1.0)]);
}

#[test]
fn answers_connections_and_the_certificate_are_shown() {
    for (status, class) in [(0, "none"), (101, "1xx"), (204, "2xx"), (304, "3xx"), (402, "4xx"), (599, "5xx")]
    {
        let series = format!("responses_total{{class=\"{class}\",route=\"a\"}}");
        assert_moves(|it| it.response(&RouteSeries::new("a"), status), &[(&series, 1.0)]);
    }
    assert_moves(|it| it.response(&RouteSeries::new("a"), 999), &[]);
    assert_moves(
        |it| {
            let (first, _second) = (it.connection_opened(), it.connection_opened());
            std::mem::forget(first);
        },
        &[("connections_open", 1.0)],
    );
    assert_moves(|it| it.certificate_expires(7), &[("certificate_expires_timestamp_seconds", 7.0)]);
    assert_moves(|it| it.log_lines_dropped(2), &[("access_log_dropped_total", 2.0)]);
    assert_moves(|it| it.spans_dropped(3), &[("trace_spans_dropped_total", 3.0)]);
    let text = Metrics::new().unwrap().text().unwrap();
    for name in ["process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes"] {
        assert!(text.contains(&format!("\n{name} ")), "{name} is not in {text}");
    }
}

/// `increase()` does not see the step from nothing to the first value: the first payment of a route was lost.
#[tokio::test]
async fn counters_are_there_before_anything_happens_also_after_a_reload() {
    let rig = Rig::start().await;
    let text = rig.services.metrics().text().unwrap();
    let shown = |text: &str, route: &str| {
        let sold = [
            format!("challenges_issued_total{{route=\"{route}\"}}"),
            format!("payments_settled_total{{mechanism=\"nanoTxn\",route=\"{route}\"}}"),
            format!("revenue_xno_total{{mechanism=\"nanoSignature\",route=\"{route}\"}}"),
            format!("capability_uses_total{{result=\"given_back\",route=\"{route}\"}}"),
        ];
        let any = [
            format!("requests_total{{outcome=\"paid\",route=\"{route}\"}}"),
            format!("responses_total{{class=\"5xx\",route=\"{route}\"}}"),
        ];
        let samples = samples(text);
        let at_zero = |it: &String| samples.get(it) == Some(&0.0);
        (any.iter().all(at_zero), sold.iter().filter(|it| at_zero(it)).count())
    };
    assert_eq!(shown(&text, "search"), (true, 4));
    for free in ["/free/**", "unmatched", "discovery"] {
        assert_eq!(shown(&text, free), (true, 0), "{free}");
    }
    for series in ["limits_reached_total{limit=\"per_client.bills\"}", "sweep_blocks_total{action=\"send\"}"]
    {
        assert_eq!(samples(&text).get(series), Some(&0.0), "{series}");
    }
    assert_eq!(shown(&text, "fresh"), (false, 0));
    let routes = "  - { name: fresh, match: /fresh, upstream: api, price: 1 raw, mechanisms: [nanoTxn] }\n";
    assert!(rig.services.reload(&rig.config("", routes)).await.unwrap().is_empty());
    assert_eq!(shown(&rig.services.metrics().text().unwrap(), "fresh"), (true, 3), "of one mechanism");
    rig.end().await;
}

/// What clients are refused for is seen by route: also what cannot be read, and a client's own limits.
#[tokio::test]
async fn refusals_have_their_route_and_their_limit() {
    let more = "limits: { per_client: { unpaid: 3 } }\n".to_owned();
    let plan = Plan { more, answer: Box::new(|_| Reply::Hang), ..Plan::default() };
    let rig = Rig::with(plan).await;
    assert_eq!(rig.get("/paid", &[("PAYMENT-SIGNATURE", "?")]).await.status(), 400);
    let twice = [("PAYMENT-SIGNATURE", "a"), ("PAYMENT-SIGNATURE", "b")];
    assert_eq!(rig.get("/paid", &twice).await.status(), 400);
    let refused = |reason: &str, route: &str| {
        let labels = format!("mechanism=\"none\",reason=\"{reason}\",route=\"{route}\"");
        sample(&rig, &format!("refusals_total{{{labels}}}"))
    };
    assert_eq!(refused("bad_request", "paid"), 2.0);
    let hanging = [1, 2, 3].map(|it| tokio::spawn(rig.http.get(format!("{}/free/{it}", rig.url)).send()));
    eventually("three requests are under way", async || rig.upstream.seen().len() == 3).await;
    assert_eq!(rig.get("/paid", &[]).await.status(), 503);
    assert_eq!(refused("per_client.unpaid", "unmatched"), 1.0, "its route was not looked for");
    eventually("answers are counted", async || {
        sample(&rig, "responses_total{class=\"4xx\",route=\"paid\"}") == 2.0
    })
    .await;
    assert!(sample(&rig, "connections_open") >= 3.0);
    hanging.iter().for_each(|it| it.abort());
    rig.end().await;
}

#[test]
fn nodes_and_store_are_shown_as_they_are() {
    let called = [
        ("node_rpc_duration_seconds_count{action=\"process\",node=\"n\"}", 1.0),
        ("node_rpc_duration_seconds_sum{action=\"process\",node=\"n\"}", 2.0),
    ];
    assert_moves(|it| it.node_rpc("n", "process", TWO_SECONDS, true), &called);
    let error = ("node_rpc_errors_total{action=\"process\",node=\"n\"}", 1.0);
    let failed = [called[0], called[1], error];
    assert_moves(|it| it.node_rpc("n", "process", TWO_SECONDS, false), &failed);
    assert_moves(|it| it.node_up("n", true), &[("node_up{node=\"n\"}", 1.0)]);
    assert_moves(
        |it| {
            it.node_up("n", true);
            it.node_up("n", false);
        },
        &[],
    );
    assert_moves(
        |it| it.node_standing("n", true, 2),
        &[("node_behind{node=\"n\"}", 1.0), ("breaker_state{node=\"n\"}", 2.0)],
    );
    assert_moves(|it| it.disagreement("n"), &[("rpc_disagreement_total{node=\"n\"}", 1.0)]);
    assert_moves(|it| it.websockets(2), &[("websocket_connected", 2.0)]);
    assert_moves(
        |it| it.work_made("failed", TWO_SECONDS),
        &[
            ("work_duration_seconds_count{outcome=\"failed\"}", 1.0),
            ("work_duration_seconds_sum{outcome=\"failed\"}", 2.0),
        ],
    );

    let called = [
        ("store_duration_seconds_count{operation=\"grant\"}", 1.0),
        ("store_duration_seconds_sum{operation=\"grant\"}", 2.0),
    ];
    assert_moves(|it| it.store_call("grant", TWO_SECONDS, true), &called);
    let failed = [called[0], called[1], ("store_errors_total{operation=\"grant\"}", 1.0)];
    assert_moves(|it| it.store_call("grant", TWO_SECONDS, false), &failed);
    assert_moves(
        |it| it.store_commit(3, TWO_SECONDS),
        &[
            ("store_commit_seconds_count", 1.0),
            ("store_commit_seconds_sum", 2.0),
            ("store_batch_size_count", 1.0),
            ("store_batch_size_sum", 3.0),
        ],
    );
    assert_moves(
        |it| it.store(true, Some(77), false),
        &[("store_writable", 1.0), ("store_free_bytes", 77.0)],
    );
    assert_moves(|it| it.store(false, None, true), &[("clock_behind_journal", 1.0)]);
    assert_moves(|it| it.configured(), &[("config_generation", 1.0)]);
    assert_moves(|it| it.stranded(3), &[("stranded_capabilities", 3.0)]);
    assert_moves(|it| it.reload_failed(), &[("config_reload_failures_total", 1.0)]);
}

/// What a gateway counts while it sells: the figures of every counter that a purchase moves. Before
/// this test the names alone were looked at, so that a wrong label or a wrong value went unnoticed.
#[tokio::test]
async fn a_gateway_counts_what_it_sells() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = capability(&rig.pay(&key, "/v1/search/a").await);
    assert_eq!(rig.get("/v1/search/b", &[("PAYMENT-CAPABILITY", &token)]).await.status(), 200);
    let [_, offer] = rig.bill("/paid").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let proof = signature(&key, &block, &offer);
    assert_eq!(rig.get("/paid", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 200);
    assert_eq!(rig.get("/paid", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 402);
    assert_eq!(rig.get("/free/x", &[]).await.status(), 200);
    assert_eq!(rig.get("/nowhere", &[]).await.status(), 404);
    let refused = rig.get("/v1/search/c", &[("PAYMENT-CAPABILITY", "bm9uZQ")]).await;
    assert_eq!(refused.status(), 402);

    // A request is counted once its answer has left.
    let requests = async || {
        let samples = samples(&rig.services.metrics().text().unwrap());
        samples
            .iter()
            .filter(|(series, _)| series.starts_with("requests_total"))
            .map(|(_, it)| it)
            .sum::<f64>()
    };
    eventually("nine requests are counted", async || requests().await == 9.0).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    let (stop, shutdown) = watch::channel(false);
    let admin = Arc::new(HttpServer::new_app(rig.services.admin()));
    let serving = tokio::spawn(listen::serve(listener, admin, shutdown));
    let text = rig.http.get(url).send().await.unwrap().text().await.unwrap();
    stop.send_replace(true);
    soon("the operator's listener ends", serving).await.unwrap();
    assert_well_formed(&text);
    let mut counted = samples(&text);
    // Times differ from run to run, and so does how often a node and the store are asked. The cache
    // counts its entries late.
    let sold = ["request", "challenges", "refusals", "payments", "revenue", "settlement", "confirmation"];
    let state = ["capability", "node_up", "config", "build_info", "store_writable", "clock_behind"];
    counted.retain(|series, _| {
        let starts = sold.iter().chain(&state).any(|it| series.starts_with(it));
        starts && !series.contains("_seconds_sum")
    });
    // What is shown before it happens is another test's matter.
    counted.retain(|_, value| *value != 0.0);
    let node = rig.devnet.rpc_url();
    let node = node.trim_start_matches("http://").trim_end_matches('/');
    let expected = format!(
        r#"build_info{{version="{version}"}} 1
capability_uses_total{{result="committed",route="paid"}} 1
capability_uses_total{{result="committed",route="search"}} 2
challenges_issued_total{{route="paid"}} 2
challenges_issued_total{{route="search"}} 2
config_generation 1
confirmation_duration_seconds_count 1
node_up{{node="{node}"}} 1
payments_settled_total{{mechanism="nanoSignature",route="paid"}} 1
payments_settled_total{{mechanism="nanoTxn",route="search"}} 1
refusals_total{{mechanism="nanoSignature",reason="DUPLICATE_BLOCK_HASH",route="paid"}} 1
refusals_total{{mechanism="none",reason="CAPABILITY_UNKNOWN",route="search"}} 1
request_duration_seconds_count{{outcome="challenged",route="paid"}} 1
request_duration_seconds_count{{outcome="challenged",route="search"}} 1
request_duration_seconds_count{{outcome="free",route="/free/**"}} 1
request_duration_seconds_count{{outcome="paid",route="paid"}} 1
request_duration_seconds_count{{outcome="paid",route="search"}} 1
request_duration_seconds_count{{outcome="refused",route="paid"}} 1
request_duration_seconds_count{{outcome="refused",route="search"}} 1
request_duration_seconds_count{{outcome="refused",route="unmatched"}} 1
request_duration_seconds_count{{outcome="unlocked",route="search"}} 1
requests_total{{outcome="challenged",route="paid"}} 1
requests_total{{outcome="challenged",route="search"}} 1
requests_total{{outcome="free",route="/free/**"}} 1
requests_total{{outcome="paid",route="paid"}} 1
requests_total{{outcome="paid",route="search"}} 1
requests_total{{outcome="refused",route="paid"}} 1
requests_total{{outcome="refused",route="search"}} 1
requests_total{{outcome="refused",route="unmatched"}} 1
requests_total{{outcome="unlocked",route="search"}} 1
revenue_xno_total{{mechanism="nanoSignature",route="paid"}} 0.000000000000000000000000000001
revenue_xno_total{{mechanism="nanoTxn",route="search"}} 0.001
settlement_duration_seconds_count{{mechanism="nanoSignature"}} 1
settlement_duration_seconds_count{{mechanism="nanoTxn"}} 1
store_writable 1
"#,
        version = env!("CARGO_PKG_VERSION"),
    );
    let expected: BTreeMap<String, f64> = expected
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect();
    assert_eq!(counted, expected);
    rig.end().await;
}

/// An operator who stops a gateway sees what it waits for.
#[tokio::test]
async fn settlements_under_way_are_told() {
    let rig = Rig::with(crate::attacks::unhurried()).await;
    let key = rig.payer(1, PLENTY);
    let settling = async || {
        let told: serde_json::Value = serde_json::from_str(&operators(&rig, "/readyz").await).unwrap();
        assert_eq!(told["ready"], true);
        told["settling"].as_u64().unwrap()
    };
    assert_eq!(settling().await, 0);
    let [offer, _] = rig.bill("/paid").await;
    let (proof, block) = rig.txn(&key, &offer);
    assert_eq!(rig.get("/paid", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 503);
    assert_eq!(settling().await, 1);
    rig.confirm(block.hash()).await;
    eventually("it is settled", async || settling().await == 0).await;
    rig.end().await;
}

/// The table of metrics for operators: a row names metrics and their labels, each between backticks.
#[test]
fn the_documentation_lists_every_metric_with_its_labels() {
    let quoted =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut listed = BTreeMap::new();
    for page in ["README.md", "deploy/README.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page));
        let text = text.unwrap_or_default();
        let table = text.lines().skip_while(|line| !line.starts_with("| metric | labels |")).skip(2);
        for row in table.take_while(|line| line.starts_with('|')) {
            let cells: Vec<_> = row.split('|').collect();
            for name in quoted(cells[1]) {
                assert!(listed.insert(name.clone(), quoted(cells[2])).is_none(), "{name} is there twice");
            }
        }
    }
    for metric in Metrics::DECLARED {
        let labels = listed.remove(metric.name).unwrap_or_else(|| panic!("{} is not listed", metric.name));
        for label in metric.labels {
            assert!(labels.iter().any(|it| it == label), "{}: `{label}` is not listed", metric.name);
        }
        assert!(metric.help.ends_with('.') && metric.help.is_ascii(), "{}", metric.help);
    }
    assert!(listed.is_empty(), "listed and not declared: {listed:?}");
}
