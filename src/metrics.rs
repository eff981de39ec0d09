//! Every metric, declared once: its name, its labels and, as its doc comment, its help text.
//!
//! Names begin with `faregate_` and use base units. The values of labels come from the
//! configuration or from this crate, never from a client, so that their number is bounded.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::money::{Currency, Decimal};
use crate::nano::Raw;
use crate::payment::Mechanism;

vocabulary! {
    /// How a request ended, for `requests_total` and `request_duration_seconds`.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub enum Outcome {
        /// Served on a free route.
        Free = "free",
        /// Served free on a priced route: one of the client's free requests of the day.
        Allowance = "allowance",
        /// Served free on a priced route whose price is not enforced for the client.
        Shadow = "shadow",
        /// Answered 402; it carried no payment.
        Challenged = "challenged",
        /// Served with the payment that it carried.
        Paid = "paid",
        /// Served with a capability.
        Unlocked = "unlocked",
        /// Repeated under a payment identifier and answered from the store.
        Replayed = "replayed",
        /// A payment or capability was refused, or the request could not be read.
        Refused = "refused",
        /// The payment is not confirmed yet.
        Pending = "pending",
        /// No node or no store was healthy, or a limit was reached.
        Unavailable = "unavailable",
        /// The upstream gave no answer that counts; the use was given back.
        UpstreamFailed = "upstream_failed",
    }
    /// The `outcome` label.
    pub fn as_str;
}

vocabulary! {
    /// How a call to the facilitator ended, for `facilitator_requests_total`.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub enum FacilitatorOutcome {
        /// The supported kinds of payment were listed.
        Told = "told",
        /// Challenges were minted.
        Minted = "minted",
        /// The payment is valid.
        Valid = "valid",
        /// The payment is settled.
        Settled = "settled",
        /// The payment is not valid, or it could not be read.
        Refused = "refused",
        /// The payment is not confirmed yet; the call must be repeated.
        Pending = "pending",
        /// No node or no store was healthy, or a limit was reached.
        Unavailable = "unavailable",
        /// The call itself is wrong, or it carried no token.
        Faulty = "faulty",
    }
    /// The `outcome` label.
    pub fn as_str;
}

vocabulary! {
    /// What became of an order for a certificate, for `certificate_orders_total`.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum CertificateOrder {
        Done = "done",
        Failed = "failed",
    }
    /// The `outcome` label.
    pub fn as_str;
}

vocabulary! {
    /// What became of a use, for `capability_uses_total`.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub enum UseResult {
        Committed = "committed",
        GivenBack = "given_back",
    }
    /// The `result` label.
    pub fn as_str;
}

vocabulary! {
    /// A limit that a client can reach, for `limits_reached_total`.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub enum ReachedLimit {
        /// Connections of one listener.
        Connections = "connections",
        /// File descriptors of the process.
        Descriptors = "descriptors",
        /// Connections of one client.
        ClientConnections = "per_client.connections",
        /// The time for a request's head.
        HeadTime = "head_time",
        /// Requests without a paid use, of one client.
        ClientUnpaid = "per_client.unpaid",
        /// Free requests at upstreams.
        FreeForwards = "free_forwards",
        /// Free requests at upstreams, of one client.
        ClientFreeForwards = "per_client.free_forwards",
        /// Answers a second that sell nothing, to one client. It counts those that had to wait.
        ClientBills = "per_client.bills",
        /// Requests to a route that has a `limit`, of one client or payer.
        RouteLimit = "limit",
        /// Settlements under way, of one client.
        ClientSettlements = "per_client.settlements",
        /// Look-ups for proofs, of one client.
        ClientLookups = "per_client.lookups",
        /// Settlements under way, of one caller of the facilitator.
        CallerSettlements = "per_caller.settlements",
        /// Look-ups for proofs, of one caller of the facilitator.
        CallerLookups = "per_caller.lookups",
        /// Memory for bodies.
        Bodies = "bodies",
        /// Memory for bodies, of one client.
        ClientBodies = "per_client.bodies",
    }
    /// The `limit` label: the key of the configuration, if it has one.
    pub fn as_str;
}

/// A metric as the documentation lists it.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// Without the prefix `faregate_`.
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

/// Buckets of a duration, in seconds, that is usually short.
const FAST: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Buckets of a duration, in seconds, that includes a wait for the network or for work: about the second that a
/// confirmation takes, and up to what a recovery after an outage takes.
const SLOW: &[f64] =
    &[0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0];
/// Buckets of a number of things.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Makes [`Metrics`] of declarations: `/// help` above `name: Type[labels] in BUCKETS;`.
macro_rules! declare {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ident $([$($label:ident),+])? $(in $buckets:ident)?;)+) => {
        /// All metrics of one gateway, with the registry that shows them.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            /// What the system says of the process, under the names that everybody uses.
            process: Registry,
            $($(#[doc = $help])+ $name: $kind,)+
        }

        impl Metrics {
            /// Every metric there is, in the order of its declaration.
            pub const DECLARED: &[Declared] = &[$(Declared {
                name: stringify!($name),
                help: concat!($($help),+).trim_ascii_start(),
                labels: &[$($(stringify!($label)),+)?],
            }),+];

            /// All metrics, at zero, in a registry of their own.
            ///
            /// # Errors
            /// If two metrics share a name, which a test would have shown.
            pub fn new() -> prometheus::Result<Self> {
                let registry = Registry::new_custom(Some("faregate".to_owned()), None)?;
                $(
                    let help = concat!($($help),+).trim_ascii_start();
                    let options = declare!(@options stringify!($name), help $(, $buckets)?);
                    let $name = declare!(@make $kind, options $(, $($label),+)?)?;
                    registry.register(Box::new($name.clone()))?;
                )+
                let process = Registry::new();
                process.register(Box::new(ProcessCollector::for_self()))?;
                let metrics = Self { registry, process, $($name),+ };
                for limit in ReachedLimit::ALL {
                    let _at_zero = metrics.limits_reached_total.with_label_values(&[limit.as_str()]);
                }
                metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
                Ok(metrics)
            }
        }
    };
    (@options $name:expr, $help:expr) => { Opts::new($name, $help) };
    (@options $name:expr, $help:expr, $buckets:expr) => {
        HistogramOpts::new($name, $help).buckets($buckets.to_vec())
    };
    (@make $kind:ident, $options:expr) => { $kind::with_opts($options) };
    (@make $kind:ident, $options:expr, $($label:ident),+) => {
        $kind::new($options, &[$(stringify!($label)),+])
    };
}

declare! {
    /// Requests, by route and by how they ended.
    requests_total: IntCounterVec[route, outcome];
    /// Time from the head of the request to the end of the answer.
    request_duration_seconds: HistogramVec[route, outcome] in FAST;
    /// Answers, by route and by the class of their status.
    responses_total: IntCounterVec[route, class];
    /// Connections of clients and callers that are open.
    connections_open: IntGauge;
    /// When the first of the certificates of listen.tls expires, in seconds since 1970; 0 without one.
    certificate_expires_timestamp_seconds: IntGauge;
    /// Orders for a certificate of listen.tls.acme, by how they ended.
    certificate_orders_total: IntCounterVec[outcome];
    /// Calls to the facilitator, by endpoint and by how they ended.
    facilitator_requests_total: IntCounterVec[endpoint, outcome];
    /// Bills sent: 402 answers, those to a refused payment included.
    challenges_issued_total: IntCounterVec[route];
    /// Payments and capabilities that were refused, by code, and requests that a limit turned away, by limit.
    refusals_total: IntCounterVec[route, reason, mechanism];
    /// Connections closed and requests turned away because a limit was reached, by limit.
    limits_reached_total: IntCounterVec[limit];
    /// Payments that were settled, each into one capability.
    payments_settled_total: IntCounterVec[route, mechanism];
    /// Revenue from settled payments, in XNO.
    revenue_xno_total: CounterVec[route, mechanism];
    /// Time from a checked proof to its capability.
    settlement_duration_seconds: HistogramVec[mechanism] in SLOW;
    /// Time from the broadcast of a block, or the first look at it, to its confirmation.
    confirmation_duration_seconds: Histogram in SLOW;
    /// Capabilities in the cache.
    capabilities_active: IntGauge;
    /// Uses of capabilities, by whether they were committed or given back.
    capability_uses_total: IntCounterVec[route, result];
    /// What requests were charged that purses paid for, in XNO.
    purse_charged_xno_total: CounterVec[route];
    /// Refunds that this instance has sent and seen confirmed.
    refunds_total: IntCounter;
    /// What was sent back with them, in XNO.
    refunded_xno_total: Counter;
    /// Refunds that are not confirmed yet, whoever sends them, at the last look; at most 1000 are counted.
    refunds_waiting: IntGauge;
    /// What is owed with them, in XNO.
    refunds_waiting_xno: Gauge;
    /// Capabilities removed from the cache because it was full.
    capability_evictions_total: IntCounter;
    /// Whether the node answers.
    node_up: IntGaugeVec[node];
    /// Time of one call to a node.
    node_rpc_duration_seconds: HistogramVec[node, action] in FAST;
    /// Calls to a node that gave no usable answer.
    node_rpc_errors_total: IntCounterVec[node, action];
    /// Whether the node knows far fewer confirmed blocks than the others.
    node_behind: IntGaugeVec[node];
    /// Whether the node is called: 0 yes (closed), 1 to test it (half-open), 2 no (open).
    breaker_state: IntGaugeVec[node];
    /// Times that this node alone called a block confirmed, for longer than it can be ahead of the others.
    rpc_disagreement_total: IntCounterVec[node];
    /// Calls that were slow, so that another node was called as well.
    hedge_total: IntCounterVec[node];
    /// WebSockets that are subscribed to confirmations.
    websocket_connected: IntGauge;
    /// Whether payments can be settled and the gateway does not drain, as /readyz says.
    ready: IntGauge;
    /// Whether the store accepts writes.
    store_writable: IntGauge;
    /// Free bytes on the disk of the store; 0 if that is not known.
    store_free_bytes: IntGauge;
    /// Whether the clock is behind the newest payment; while it is, nothing is sold.
    clock_behind_journal: IntGauge;
    /// Whether some address of the upstream takes connections and is healthy; while none does, nothing is sold.
    upstream_up: IntGaugeVec[upstream];
    /// Units of the currency for one XNO, as last read.
    exchange_rate: GaugeVec[currency];
    /// How long ago the exchange rate was true, in seconds.
    exchange_rate_age_seconds: IntGaugeVec[currency];
    /// Whether the exchange rate is known and not too old; while it is not, nothing priced in the currency is sold.
    exchange_rate_fresh: IntGaugeVec[currency];
    /// Time of one call to the store.
    store_duration_seconds: HistogramVec[operation] in FAST;
    /// Calls to the store that failed, or whose result is not known.
    store_errors_total: IntCounterVec[operation];
    /// Time of one commit to the disk.
    store_commit_seconds: Histogram in FAST;
    /// Operations in one commit.
    store_batch_size: Histogram in COUNTS;
    /// Configurations loaded, counted from 1.
    config_generation: IntGauge;
    /// Reloads refused because the file was wrong; the old configuration stayed.
    config_reload_failures_total: IntCounter;
    /// Capabilities with uses left that open no route, as of the last reload.
    stranded_capabilities: IntGauge;
    /// Sent to the pool and not received yet, in XNO, at the last look.
    pool_receivable_xno: Gauge;
    /// Sends to the pool that no payment claims, received or not, at the last look.
    unclaimed_payments: IntGauge;
    /// Sent from the pool to the treasury since the start, in XNO, as the journal has it, whoever sweeps.
    swept_xno_total: Counter;
    /// Confirmed blocks of sweeps since the start, by action, as the journal has them.
    sweep_blocks_total: IntCounterVec[action];
    /// Time that a work server took for one block, by whether it made the work.
    work_duration_seconds: HistogramVec[outcome] in SLOW;
    /// Sends to the pool that were journalled because no payment claimed them.
    unclaimed_journalled_total: IntCounter;
    /// Unclaimed sends, the smallest, that were dropped because the journal was full.
    unclaimed_dropped_total: IntCounter;
    /// Lines of the access log that were dropped: they could not be written, or too many waited.
    access_log_dropped_total: IntCounter;
    /// Spans of requests that were dropped: the collector did not take them, or too many waited.
    trace_spans_dropped_total: IntCounter;
    /// Always 1; the labels say which build this is.
    build_info: IntGaugeVec[version];
}

/// The series of one route's requests. Each is looked up once, with the first request that it counts, so
/// that a request costs no look-up by its labels.
#[derive(Debug)]
pub struct RouteSeries {
    label: Arc<str>,
    requests: [OnceLock<(IntCounter, Histogram)>; Outcome::ALL.len()],
    uses: [OnceLock<IntCounter>; UseResult::ALL.len()],
    responses: [OnceLock<IntCounter>; CLASSES.len()],
}

/// The `class` label of a status, by its first digit.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts a connection as open while it lives.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RouteSeries {
    /// Of the route that `label` names in metrics.
    #[must_use]
    pub fn new(label: &str) -> Self {
        Self {
            label: label.into(),
            requests: Default::default(),
            uses: Default::default(),
            responses: Default::default(),
        }
    }

    /// The `route` label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The same, to be kept.
    #[must_use]
    pub fn shared_label(&self) -> Arc<str> {
        Arc::clone(&self.label)
    }
}

/// What belongs to `value` among `places`, which are in the order of `all`.
fn place<'p, V: Copy + PartialEq, P>(all: &[V], value: V, places: &'p [P]) -> Option<&'p P> {
    all.iter().zip(places).find(|(it, _)| **it == value).map(|(_, place)| place)
}

impl Metrics {
    /// Counts one request of `route` that ended as `outcome`.
    pub fn request(&self, route: &RouteSeries, outcome: Outcome, took: Duration) {
        let Some(place) = place(&Outcome::ALL, outcome, &route.requests) else { return };
        let (count, duration) = place.get_or_init(|| {
            let labels = [route.label(), outcome.as_str()];
            let duration = self.request_duration_seconds.with_label_values(&labels);
            (self.requests_total.with_label_values(&labels), duration)
        });
        count.inc();
        duration.observe(took.as_secs_f64());
    }

    /// Counts one call to the facilitator's `endpoint`.
    pub fn facilitator_request(&self, endpoint: &str, outcome: FacilitatorOutcome) {
        self.facilitator_requests_total.with_label_values(&[endpoint, outcome.as_str()]).inc();
    }

    /// Counts one bill: a 402 answer.
    pub fn challenge(&self, route: &str) {
        self.challenges_issued_total.with_label_values(&[route]).inc();
    }

    /// Counts a refusal at `route`. `reason` is a word of this crate: the code of a [`Refusal`](crate::payment::Refusal),
    /// a limit, or the `error` of an answer. `mechanism` is `None` for a capability and for a proof that could not be
    /// read.
    pub fn refusal(&self, route: &str, reason: &'static str, mechanism: Option<Mechanism>) {
        let mechanism = mechanism.map_or("none", Mechanism::as_str);
        self.refusals_total.with_label_values(&[route, reason, mechanism]).inc();
    }

    /// Counts an answer with `status`, 0 if none began.
    pub fn response(&self, route: &RouteSeries, status: u16) {
        let index = usize::from(status / 100);
        let (Some(place), Some(class)) = (route.responses.get(index), CLASSES.get(index).copied()) else {
            return;
        };
        place.get_or_init(|| self.responses_total.with_label_values(&[route.label(), class])).inc();
    }

    /// A connection is open until what this returns is dropped.
    #[must_use]
    pub fn connection_opened(&self) -> OpenConnection {
        self.connections_open.inc();
        OpenConnection(self.connections_open.clone())
    }

    /// Shows when the first of the listener's certificates expires, in seconds since 1970.
    pub fn certificate_expires(&self, at: i64) {
        self.certificate_expires_timestamp_seconds.set(at);
    }

    /// Counts an order for a certificate.
    pub fn certificate_order(&self, outcome: CertificateOrder) {
        self.certificate_orders_total.with_label_values(&[outcome.as_str()]).inc();
    }

    /// Shows the orders for certificates at 0, so that the first is seen as a step.
    pub fn begin_certificate_orders(&self) {
        for outcome in CertificateOrder::ALL {
            let _at_zero = self.certificate_orders_total.with_label_values(&[outcome.as_str()]);
        }
    }

    /// Shows the counters of a route at 0, so that what happens first is seen as a step.
    pub fn begin_route(&self, route: &str) {
        for outcome in Outcome::ALL {
            let _at_zero = self.requests_total.with_label_values(&[route, outcome.as_str()]);
        }
        for class in CLASSES {
            let _at_zero = self.responses_total.with_label_values(&[route, class]);
        }
    }

    /// Shows the counters of what a route sells at 0. `sold_by` is how its payments may be proven.
    pub fn begin_sales(&self, route: &str, sold_by: &[Mechanism]) {
        let _at_zero = self.challenges_issued_total.with_label_values(&[route]);
        for result in UseResult::ALL {
            let _at_zero = self.capability_uses_total.with_label_values(&[route, result.as_str()]);
        }
        for mechanism in sold_by {
            let labels = [route, mechanism.as_str()];
            let _at_zero = self.payments_settled_total.with_label_values(&labels);
            let _at_zero = self.revenue_xno_total.with_label_values(&labels);
            let _at_zero = self.settlement_duration_seconds.with_label_values(&[mechanism.as_str()]);
        }
    }

    /// Shows the counters of an action of sweeps at 0.
    pub fn begin_sweep(&self, action: &str) {
        let _at_zero = self.sweep_blocks_total.with_label_values(&[action]);
    }

    /// Shows the counters of an endpoint of the facilitator at 0.
    pub fn begin_endpoint(&self, endpoint: &str) {
        for outcome in FacilitatorOutcome::ALL {
            let labels = [endpoint, outcome.as_str()];
            let _at_zero = self.facilitator_requests_total.with_label_values(&labels);
        }
    }

    /// Counts a connection or a request that was turned away because `limit` was reached.
    pub fn limit_reached(&self, limit: ReachedLimit) {
        self.limits_reached_total.with_label_values(&[limit.as_str()]).inc();
    }

    /// Counts a payment of `amount`, settled `took` after its proof was checked.
    pub fn settled(&self, route: &str, mechanism: Mechanism, amount: Raw, took: Duration) {
        let labels = [route, mechanism.as_str()];
        self.payments_settled_total.with_label_values(&labels).inc();
        self.revenue_xno_total.with_label_values(&labels).inc_by(xno(amount));
        self.settlement_duration_seconds.with_label_values(&[mechanism.as_str()]).observe(took.as_secs_f64());
    }

    /// Records how long a block took to be confirmed.
    pub fn confirmed(&self, took: Duration) {
        self.confirmation_duration_seconds.observe(took.as_secs_f64());
    }

    /// Shows the counter of what a metered route charges at 0.
    pub fn begin_meter(&self, route: &str) {
        let _at_zero = self.purse_charged_xno_total.with_label_values(&[route]);
    }

    /// Counts what a request to `route` was charged that a purse paid for.
    pub fn charged(&self, route: &str, amount: Raw) {
        self.purse_charged_xno_total.with_label_values(&[route]).inc_by(xno(amount));
    }

    /// Counts a refund of `amount` that was sent from here and is confirmed.
    pub fn refunded(&self, amount: Raw) {
        self.refunds_total.inc();
        self.refunded_xno_total.inc_by(xno(amount));
    }

    /// Shows how many refunds are not confirmed, and what is owed with them.
    pub fn refunds_wait(&self, count: usize, owed: Raw) {
        self.refunds_waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.refunds_waiting_xno.set(xno(owed));
    }

    /// Counts one use of a capability for `route`.
    pub fn capability_use(&self, route: &RouteSeries, result: UseResult) {
        let Some(place) = place(&UseResult::ALL, result, &route.uses) else { return };
        let labels = [route.label(), result.as_str()];
        place.get_or_init(|| self.capability_uses_total.with_label_values(&labels)).inc();
    }

    /// Shows how many capabilities are in the cache, and how many were removed so far because it was full.
    pub fn capabilities(&self, active: u64, evicted: u64) {
        self.capabilities_active.set(i64::try_from(active).unwrap_or(i64::MAX));
        self.capability_evictions_total.inc_by(evicted.saturating_sub(self.capability_evictions_total.get()));
    }

    /// Shows whether a node answers, and the counters that it has at 0.
    pub fn node_up(&self, node: &str, up: bool) {
        for counter in [&self.rpc_disagreement_total, &self.hedge_total] {
            let _at_zero = counter.with_label_values(&[node]);
        }
        self.node_up.with_label_values(&[node]).set(i64::from(up));
    }

    /// Shows whether a node is behind, and the state of its breaker: 0 closed, 1 half-open, 2 open.
    pub fn node_standing(&self, node: &str, behind: bool, breaker: i64) {
        self.node_behind.with_label_values(&[node]).set(i64::from(behind));
        self.breaker_state.with_label_values(&[node]).set(breaker);
    }

    /// Counts a confirmation that only `node` claims.
    pub fn disagreement(&self, node: &str) {
        self.rpc_disagreement_total.with_label_values(&[node]).inc();
    }

    /// Counts a slow call to `node`.
    pub fn hedged(&self, node: &str) {
        self.hedge_total.with_label_values(&[node]).inc();
    }

    /// Shows whether the gateway is ready to sell.
    pub fn ready(&self, is_ready: bool) {
        self.ready.set(i64::from(is_ready));
    }

    /// Shows each exchange rate with its age in seconds, and whether it is used; others are shown no more.
    pub fn rates(&self, all: impl Iterator<Item = (Currency, Option<(Decimal, u64)>, bool)>) {
        self.exchange_rate.reset();
        self.exchange_rate_age_seconds.reset();
        self.exchange_rate_fresh.reset();
        for (currency, rate, fresh) in all {
            let label = [currency.as_str()];
            if let Some((rate, age)) = rate {
                // To be looked at: what is sold is reckoned by its digits.
                let shown = rate.to_string().parse().unwrap_or(f64::NAN);
                self.exchange_rate.with_label_values(&label).set(shown);
                let age = i64::try_from(age).unwrap_or(i64::MAX);
                self.exchange_rate_age_seconds.with_label_values(&label).set(age);
            }
            self.exchange_rate_fresh.with_label_values(&label).set(i64::from(fresh));
        }
    }

    /// Shows how many WebSockets are subscribed to confirmations.
    pub fn websockets(&self, connected: usize) {
        self.websocket_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
    }

    /// Shows whether each upstream is up; others are shown no more.
    pub fn upstreams<'a>(&self, all: impl Iterator<Item = (&'a str, bool)>) {
        self.upstream_up.reset();
        for (name, up) in all {
            self.upstream_up.with_label_values(&[name]).set(i64::from(up));
        }
    }

    /// Records one call to a node; `ok` says whether its answer was usable.
    pub fn node_rpc(&self, node: &str, action: &str, took: Duration, ok: bool) {
        self.node_rpc_duration_seconds.with_label_values(&[node, action]).observe(took.as_secs_f64());
        // It is there with the first call, so that the first error is seen as a step.
        self.node_rpc_errors_total.with_label_values(&[node, action]).inc_by(u64::from(!ok));
    }

    /// Shows the state of the store: its `free` bytes, if known, and whether the clock is behind it.
    pub fn store(&self, writable: bool, free: Option<u64>, clock_behind: bool) {
        self.store_writable.set(i64::from(writable));
        self.store_free_bytes.set(i64::try_from(free.unwrap_or(0)).unwrap_or(i64::MAX));
        self.clock_behind_journal.set(i64::from(clock_behind));
    }

    /// Records one call to the store; `ok` says whether it succeeded.
    pub fn store_call(&self, operation: &str, took: Duration, ok: bool) {
        self.store_duration_seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
        self.store_errors_total.with_label_values(&[operation]).inc_by(u64::from(!ok));
    }

    /// Records one commit of this number of operations.
    pub fn store_commit(&self, operations: usize, took: Duration) {
        self.store_commit_seconds.observe(took.as_secs_f64());
        self.store_batch_size.observe(f64::from(u32::try_from(operations).unwrap_or(u32::MAX)));
    }

    /// Counts a configuration that was loaded; the first is generation 1.
    pub fn configured(&self) {
        self.config_generation.inc();
    }

    /// Shows how many capabilities open no route.
    pub fn stranded(&self, capabilities: u64) {
        self.stranded_capabilities.set(i64::try_from(capabilities).unwrap_or(i64::MAX));
    }

    /// Counts a reload that was refused.
    pub fn reload_failed(&self) {
        self.config_reload_failures_total.inc();
    }

    /// Shows how much was sent to the pool and not received, and how many sends to it no payment claims.
    pub fn pool_waits(&self, receivable: Raw, unclaimed: usize) {
        self.pool_receivable_xno.set(xno(receivable));
        self.unclaimed(unclaimed);
    }

    /// Shows how many sends to the pool no payment claims.
    pub fn unclaimed(&self, count: usize) {
        self.unclaimed_payments.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Records a request to the work server. `outcome` is `made`, `turned_away` or `failed`.
    pub fn work_made(&self, outcome: &str, took: Duration) {
        self.work_duration_seconds.with_label_values(&[outcome]).observe(took.as_secs_f64());
    }

    /// Counts sends that were journalled as unclaimed, and those dropped because the journal was full.
    pub fn unclaimed_noted(&self, fresh: u64, dropped: u64) {
        self.unclaimed_journalled_total.inc_by(fresh);
        self.unclaimed_dropped_total.inc_by(dropped);
    }

    /// Counts lines of the access log that were dropped.
    pub fn log_lines_dropped(&self, lines: u64) {
        self.access_log_dropped_total.inc_by(lines);
    }

    /// Counts spans of requests that were dropped.
    pub fn spans_dropped(&self, spans: u64) {
        self.trace_spans_dropped_total.inc_by(spans);
    }

    /// Counts a confirmed block of a sweep. `sent` is the amount that it sent to the treasury.
    pub fn sweep_block(&self, action: &str, sent: Option<Raw>) {
        self.sweep_blocks_total.with_label_values(&[action]).inc();
        if let Some(amount) = sent {
            self.swept_xno_total.inc_by(xno(amount));
        }
    }

    /// The metrics in Prometheus' text format.
    ///
    /// # Errors
    /// If a metric cannot be written, which its declaration rules out.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        TextEncoder::new().encode(&self.process.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The amount in XNO as a floating-point number: for metrics only, never for money.
fn xno(amount: Raw) -> f64 {
    amount.xno().number().parse().unwrap_or(0.0)
}
