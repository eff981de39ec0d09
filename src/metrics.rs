//! Every metric, declared once. Prefix `faregate_`, base units, labels bounded by the
//! configuration: no label ever comes from a client.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::nano::Raw;
use crate::payment::{Mechanism, Refusal};

/// How a request ended, for `requests_total` and `request_duration_seconds`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// Served on a free route.
    Free,
    /// Answered 402 without a payment on it.
    Challenged,
    /// Served with the payment that came along.
    Paid,
    /// Served with a capability.
    Unlocked,
    /// Answered from the store: it came again under a payment identifier.
    Replayed,
    /// A payment or capability refused, or a request that cannot be read.
    Refused,
    /// A payment that is not confirmed yet.
    Pending,
    /// No healthy node or store, or a limit reached.
    Unavailable,
    /// The upstream gave no answer that counts; the use was given back.
    UpstreamFailed,
}

impl Outcome {
    /// The `outcome` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Challenged => "challenged",
            Self::Paid => "paid",
            Self::Unlocked => "unlocked",
            Self::Replayed => "replayed",
            Self::Refused => "refused",
            Self::Pending => "pending",
            Self::Unavailable => "unavailable",
            Self::UpstreamFailed => "upstream_failed",
        }
    }
}

/// How a call of the facilitator ended, for `facilitator_requests_total`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FacilitatorOutcome {
    /// What is supported was told.
    Told,
    /// Challenges were made.
    Minted,
    /// A payment is good.
    Valid,
    /// A payment is settled.
    Settled,
    /// A payment is not good, or cannot be read.
    Refused,
    /// A payment has to come again.
    Pending,
    /// No healthy node or store, or a limit reached.
    Unavailable,
    /// The call is at fault, or came without the token.
    Faulty,
}

impl FacilitatorOutcome {
    /// The `outcome` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Minted => "minted",
            Self::Valid => "valid",
            Self::Settled => "settled",
            Self::Refused => "refused",
            Self::Pending => "pending",
            Self::Unavailable => "unavailable",
            Self::Faulty => "faulty",
        }
    }
}

/// What became of a use, for `capability_uses_total`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum UseResult {
    Committed,
    GivenBack,
}

/// A limit that a client can reach, for `limits_reached_total`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ReachedLimit {
    /// Connections of one listener.
    Connections,
    /// File descriptors of the process.
    Descriptors,
    /// Connections of one client.
    ClientConnections,
    /// The time for a request's head.
    HeadTime,
    /// Requests without a paid use, of one client.
    ClientUnpaid,
    /// Settlements under way, of one client.
    ClientSettlements,
    /// Look-ups of blocks that no node knows, of one client.
    ClientLookups,
    /// Memory for bodies.
    Bodies,
    /// Memory for bodies, of one client.
    ClientBodies,
}

impl ReachedLimit {
    /// The `limit` label: the key of the configuration, if it has one.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Descriptors => "descriptors",
            Self::ClientConnections => "per_client.connections",
            Self::HeadTime => "head_time",
            Self::ClientUnpaid => "per_client.unpaid",
            Self::ClientSettlements => "per_client.settlements",
            Self::ClientLookups => "per_client.lookups",
            Self::Bodies => "bodies",
            Self::ClientBodies => "per_client.bodies",
        }
    }
}

/// All metrics of one gateway, with the registry that shows them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    facilitator_requests: IntCounterVec,
    challenges_issued: IntCounterVec,
    refusals: IntCounterVec,
    limits_reached: IntCounterVec,
    payments_settled: IntCounterVec,
    revenue: CounterVec,
    settlement_duration: HistogramVec,
    confirmation_duration: Histogram,
    capabilities_active: IntGauge,
    capability_uses: IntCounterVec,
    capability_evictions: IntCounter,
    node_up: IntGaugeVec,
    node_rpc_duration: HistogramVec,
    node_rpc_errors: IntCounterVec,
    node_behind: IntGaugeVec,
    breaker_state: IntGaugeVec,
    rpc_disagreement: IntCounterVec,
    hedges: IntCounterVec,
    websocket_connected: IntGauge,
    store_writable: IntGauge,
    store_free: IntGauge,
    clock_behind: IntGauge,
    store_duration: HistogramVec,
    store_errors: IntCounterVec,
    store_commit: Histogram,
    store_batch: Histogram,
    config_generation: IntGauge,
    config_reload_failures: IntCounter,
    pool_receivable: Gauge,
    unclaimed_payments: IntGauge,
    swept: Counter,
    sweep_blocks: IntCounterVec,
    work_made: HistogramVec,
    deposits: IntCounter,
    deposits_dropped: IntCounter,
}

const FAST: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
const SLOW: &[f64] = &[0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0];

/// Registers each metric as it is made; the first fault is kept.
struct Declare<'a> {
    registry: &'a Registry,
}

impl Declare<'_> {
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let metric = made?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

impl Metrics {
    /// All metrics, at zero, in a registry of their own.
    ///
    /// # Errors
    /// When two metrics share a name, which a test would have shown.
    #[expect(clippy::too_many_lines, reason = "one declaration a metric, all in one place")]
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("faregate".to_owned()), None)?;
        let declare = Declare { registry: &registry };
        let revenue = Opts::new("revenue_xno_total", "Revenue from settled payments, in XNO.");
        let confirmation = HistogramOpts::new(
            "confirmation_duration_seconds",
            "Time from broadcast or first look to confirmation.",
        );
        let commit = HistogramOpts::new("store_commit_seconds", "Time of one commit to the disk.");
        let batch = HistogramOpts::new("store_batch_size", "Operations that were committed together.");
        let built = Opts::new("build_info", "Always 1; the labels say which build this is.");
        let build_info = declare.register(IntGaugeVec::new(built, &["version"]))?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: declare.counters(
                "requests_total",
                "Requests by route and how they ended.",
                &["route", "outcome"],
            )?,
            request_duration: declare.histograms(
                "request_duration_seconds",
                "Time from the request's head to the end of the answer.",
                &["route", "outcome"],
                FAST,
            )?,
            facilitator_requests: declare.counters(
                "facilitator_requests_total",
                "Calls of the facilitator by endpoint and how they ended.",
                &["endpoint", "outcome"],
            )?,
            challenges_issued: declare.counters(
                "challenges_issued_total",
                "Bills sent: 402 answers.",
                &["route"],
            )?,
            refusals: declare.counters(
                "refusals_total",
                "Payments and capabilities refused, by code.",
                &["reason", "mechanism"],
            )?,
            limits_reached: declare.counters(
                "limits_reached_total",
                "Connections closed and requests turned away because a limit was reached.",
                &["limit"],
            )?,
            payments_settled: declare.counters(
                "payments_settled_total",
                "Payments settled into a capability.",
                &["route", "mechanism"],
            )?,
            revenue: declare.register(CounterVec::new(revenue, &["route", "mechanism"]))?,
            settlement_duration: declare.histograms(
                "settlement_duration_seconds",
                "Time from a checked proof to its capability.",
                &["mechanism"],
                SLOW,
            )?,
            confirmation_duration: declare
                .register(Histogram::with_opts(confirmation.buckets(SLOW.to_vec())))?,
            capabilities_active: declare.gauge("capabilities_active", "Capabilities in the cache.")?,
            capability_uses: declare.counters(
                "capability_uses_total",
                "Uses of capabilities, committed or given back.",
                &["route", "result"],
            )?,
            capability_evictions: declare.counter(
                "capability_evictions_total",
                "Capabilities pushed out of the cache for want of room.",
            )?,
            node_up: declare
                .register(IntGaugeVec::new(Opts::new("node_up", "Whether the node answers."), &["node"]))?,
            node_rpc_duration: declare.histograms(
                "node_rpc_duration_seconds",
                "Time of calls to a node.",
                &["node", "action"],
                FAST,
            )?,
            node_rpc_errors: declare.counters(
                "node_rpc_errors_total",
                "Calls to a node that gave no usable answer.",
                &["node", "action"],
            )?,
            node_behind: declare.gauges(
                "node_behind",
                "Whether the node knows far fewer confirmed blocks than the others.",
                &["node"],
            )?,
            breaker_state: declare.gauges(
                "breaker_state",
                "Whether the node is asked: 0 yes (closed), 1 to see (half-open), 2 no (open).",
                &["node"],
            )?,
            rpc_disagreement: declare.counters(
                "rpc_disagreement_total",
                "Times the node called a block confirmed that others did not, for longer than it could be ahead.",
                &["node"],
            )?,
            hedges: declare.counters(
                "hedge_total",
                "Calls that were slow, so that another node was asked as well.",
                &["node"],
            )?,
            websocket_connected: declare.gauge(
                "websocket_connected",
                "How many WebSockets are subscribed to confirmations.",
            )?,
            store_writable: declare.gauge("store_writable", "Whether the store takes writes.")?,
            store_free: declare
                .gauge("store_free_bytes", "Bytes free where the store writes; 0 where it cannot know.")?,
            clock_behind: declare.gauge(
                "clock_behind_journal",
                "Whether the clock is behind the newest payment, so that nothing is sold.",
            )?,
            store_duration: declare.histograms(
                "store_duration_seconds",
                "Time of calls to the store.",
                &["operation"],
                FAST,
            )?,
            store_errors: declare.counters(
                "store_errors_total",
                "Calls to the store that came to nothing or to an unknown end.",
                &["operation"],
            )?,
            store_commit: declare.register(Histogram::with_opts(commit.buckets(FAST.to_vec())))?,
            store_batch: declare.register(Histogram::with_opts(batch.buckets(COUNTS.to_vec())))?,
            config_generation: declare
                .gauge("config_generation", "Counts the configurations loaded, from 1.")?,
            config_reload_failures: declare.counter(
                "config_reload_failures_total",
                "Reloads refused because of a fault in the file; the old configuration stayed.",
            )?,
            pool_receivable: declare.register(Gauge::new(
                "pool_receivable_xno",
                "Sent to the pool and not received yet, in XNO, when last looked.",
            ))?,
            unclaimed_payments: declare.gauge(
                "unclaimed_payments",
                "Sends to the pool that no payment claims, received or not, when last looked.",
            )?,
            swept: declare
                .register(Counter::new("swept_xno_total", "Sent from the pool to the treasury, in XNO."))?,
            sweep_blocks: declare.counters("sweep_blocks_total", "Confirmed blocks of sweeps.", &["action"])?,
            work_made: declare.histograms(
                "work_duration_seconds",
                "How long a work server took for a block that came without work, or to be of no help.",
                &["outcome"],
                SLOW,
            )?,
            deposits: declare.counter(
                "unclaimed_journalled_total",
                "Sends to the pool that were journalled because no payment claimed them.",
            )?,
            deposits_dropped: declare.counter(
                "unclaimed_dropped_total",
                "Unclaimed sends, the smallest, that the journal had no room for.",
            )?,
            registry,
        })
    }

    /// Counts one request of `route` that ended as `outcome`.
    pub fn request(&self, route: &str, outcome: Outcome, took: Duration) {
        let labels = [route, outcome.as_str()];
        self.requests.with_label_values(&labels).inc();
        self.request_duration.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// Counts one call of the facilitator's `endpoint`.
    pub fn facilitator_request(&self, endpoint: &str, outcome: FacilitatorOutcome) {
        self.facilitator_requests.with_label_values(&[endpoint, outcome.as_str()]).inc();
    }

    pub fn challenge(&self, route: &str) {
        self.challenges_issued.with_label_values(&[route]).inc();
    }

    /// Counts a refusal; `mechanism` is nothing for a capability or a proof that could not be read.
    pub fn refusal(&self, reason: Refusal, mechanism: Option<Mechanism>) {
        self.refusals.with_label_values(&[reason.code(), mechanism.map_or("none", Mechanism::as_str)]).inc();
    }

    /// Counts a connection or a request that was turned away because `limit` was reached.
    pub fn limit_reached(&self, limit: ReachedLimit) {
        self.limits_reached.with_label_values(&[limit.as_str()]).inc();
    }

    /// Counts a payment of `amount` that was settled `took` after its proof was checked.
    pub fn settled(&self, route: &str, mechanism: Mechanism, amount: Raw, took: Duration) {
        let labels = [route, mechanism.as_str()];
        self.payments_settled.with_label_values(&labels).inc();
        self.revenue.with_label_values(&labels).inc_by(xno(amount));
        self.settlement_duration.with_label_values(&[mechanism.as_str()]).observe(took.as_secs_f64());
    }

    pub fn confirmed(&self, took: Duration) {
        self.confirmation_duration.observe(took.as_secs_f64());
    }

    pub fn capability_use(&self, route: &str, result: UseResult) {
        let result = match result {
            UseResult::Committed => "committed",
            UseResult::GivenBack => "given_back",
        };
        self.capability_uses.with_label_values(&[route, result]).inc();
    }

    /// Shows how many capabilities are in the cache and how many were pushed out of it so far.
    pub fn capabilities(&self, active: u64, evicted: u64) {
        self.capabilities_active.set(i64::try_from(active).unwrap_or(i64::MAX));
        self.capability_evictions.inc_by(evicted.saturating_sub(self.capability_evictions.get()));
    }

    pub fn node_up(&self, node: &str, up: bool) {
        self.node_up.with_label_values(&[node]).set(i64::from(up));
    }

    /// Shows whether a node is behind, and how its breaker stands: 0 closed, 1 half-open, 2 open.
    pub fn node_standing(&self, node: &str, behind: bool, breaker: i64) {
        self.node_behind.with_label_values(&[node]).set(i64::from(behind));
        self.breaker_state.with_label_values(&[node]).set(breaker);
    }

    pub fn disagreement(&self, node: &str) {
        self.rpc_disagreement.with_label_values(&[node]).inc();
    }

    pub fn hedged(&self, node: &str) {
        self.hedges.with_label_values(&[node]).inc();
    }

    pub fn websockets(&self, connected: usize) {
        self.websocket_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
    }

    /// Counts one call to a node.
    pub fn node_rpc(&self, node: &str, action: &str, took: Duration, ok: bool) {
        self.node_rpc_duration.with_label_values(&[node, action]).observe(took.as_secs_f64());
        if !ok {
            self.node_rpc_errors.with_label_values(&[node, action]).inc();
        }
    }

    /// Shows how the store is: `free` bytes where that is known, and whether the clock is behind it.
    pub fn store(&self, writable: bool, free: Option<u64>, clock_behind: bool) {
        self.store_writable.set(i64::from(writable));
        self.store_free.set(i64::try_from(free.unwrap_or(0)).unwrap_or(i64::MAX));
        self.clock_behind.set(i64::from(clock_behind));
    }

    /// Counts one call to the store.
    pub fn store_call(&self, operation: &str, took: Duration, ok: bool) {
        self.store_duration.with_label_values(&[operation]).observe(took.as_secs_f64());
        if !ok {
            self.store_errors.with_label_values(&[operation]).inc();
        }
    }

    /// Counts one commit of so many operations.
    pub fn store_commit(&self, operations: usize, took: Duration) {
        self.store_commit.observe(took.as_secs_f64());
        self.store_batch.observe(f64::from(u32::try_from(operations).unwrap_or(u32::MAX)));
    }

    /// A configuration was loaded; the first is generation 1.
    pub fn configured(&self) {
        self.config_generation.inc();
    }

    pub fn reload_failed(&self) {
        self.config_reload_failures.inc();
    }

    /// Shows how much waits at the pool, and how many sends to it no payment claims.
    pub fn pool_waits(&self, receivable: Raw, unclaimed: usize) {
        self.pool_receivable.set(xno(receivable));
        self.unclaimed(unclaimed);
    }

    /// Shows how many sends to the pool no payment claims.
    pub fn unclaimed(&self, count: usize) {
        self.unclaimed_payments.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Measures a request for the work of a block that came without: made, turned_away, failed.
    pub fn work_made(&self, outcome: &str, took: Duration) {
        self.work_made.with_label_values(&[outcome]).observe(took.as_secs_f64());
    }

    /// Counts sends that were journalled as unclaimed, and the smallest, for which there is no room.
    pub fn unclaimed_noted(&self, fresh: u64, dropped: u64) {
        self.deposits.inc_by(fresh);
        self.deposits_dropped.inc_by(dropped);
    }

    /// Counts a confirmed block of a sweep; `sent` is what it brought to the treasury.
    pub fn sweep_block(&self, action: &str, sent: Option<Raw>) {
        self.sweep_blocks.with_label_values(&[action]).inc();
        if let Some(amount) = sent {
            self.swept.inc_by(xno(amount));
        }
    }

    /// The metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be written, which its declaration rules out.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The amount in XNO as a floating-point number: for metrics only, never for money.
fn xno(amount: Raw) -> f64 {
    amount.xno().to_string().trim_end_matches(" XNO").parse().unwrap_or(0.0)
}
