//! The operator's listener: metrics, liveness, readiness, and the admin API for callers with its token. Bind it where
//! only operators can reach it.
//!
//! The API is one table ([`operations`]): its router, its document ([`openapi`]), the client of `faregate admin` and
//! the tools for agents are made of it.

mod api;
mod arguments;
pub mod openapi;
pub mod operations;
mod orders;
mod pool;
mod problem;
pub mod shapes;
pub mod views;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};

use crate::cashier::Cashier;
use crate::gateway::tariff::Tariff;
use crate::ledger::Ledger;
use crate::ledger::node::{BreakerState, NodeLedger, NodeStatus, SocketStatus};
use crate::metrics::Metrics;
use crate::shutdown::StopSignal;
use crate::store::operator::OperatorJournal;
use crate::store::refunds::RefundJournal;
use crate::store::{Store, Unsound};

pub use api::Api;
pub use arguments::instant;
pub use orders::{Order, ReloadRefused, Reloaded};
pub use pool::{LastPoolLook, PoolLook};

/// What a gateway is asked to be ready for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ReadyFor {
    /// To sell: payments can be settled.
    Sales,
    /// To serve what was bought, whether a node answers or not.
    Bought,
}

impl ReadyFor {
    /// What the query of `/readyz` asks; `None` if that is unknown.
    fn of_query(query: Option<&str>) -> Option<Self> {
        match query {
            None | Some("" | "for=sales") => Some(Self::Sales),
            Some("for=bought") => Some(Self::Bought),
            Some(_) => None,
        }
    }
}

/// Answers `/metrics`, `/livez`, `/healthz` and `/readyz`, and `/v1/…` if there is an API.
#[derive(Debug)]
pub struct Admin<S> {
    cashier: Cashier<NodeLedger, S>,
    ledger: Arc<NodeLedger>,
    store: Arc<S>,
    metrics: Arc<Metrics>,
    tariff: Arc<ArcSwap<Tariff>>,
    drains: StopSignal,
    api: Option<Api>,
}

impl<S: Store + OperatorJournal + RefundJournal> Admin<S> {
    /// Without an API, `/v1/…` is not there.
    #[must_use]
    pub const fn new(
        cashier: Cashier<NodeLedger, S>,
        ledger: Arc<NodeLedger>,
        store: Arc<S>,
        metrics: Arc<Metrics>,
        tariff: Arc<ArcSwap<Tariff>>,
        drains: StopSignal,
        api: Option<Api>,
    ) -> Self {
        Self { cashier, ledger, store, metrics, tariff, drains, api }
    }

    fn metrics(&self) -> Response<Vec<u8>> {
        let (active, evicted) = self.cashier.capabilities().counts();
        self.metrics.capabilities(active, evicted);
        let health = self.store.health();
        let behind = self.cashier.store_readiness() == Err(Unsound::ClockBehind);
        self.metrics.store(health.writable, health.free_bytes, behind);
        self.metrics.ready(self.unready(ReadyFor::Sales).is_none());
        for node in self.ledger.nodes() {
            self.metrics.node_up(&node.label, node.up);
            let breaker = match node.breaker {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            };
            self.metrics.node_standing(&node.label, node.behind, breaker);
        }
        let upstreams = &self.tariff.load().upstreams;
        self.metrics.upstreams(upstreams.iter().map(|(name, it)| (name.as_str(), it.down().is_none())));
        let rates = self.tariff.load().rates.status();
        self.metrics.rates(rates.into_iter().map(|it| (it.currency, it.rate, it.fresh)));
        self.metrics.websockets(self.ledger.sockets().iter().filter(|it| it.connected).count());
        match self.metrics.text() {
            Ok(text) => answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "metrics failed\n".to_owned())
            }
        }
    }

    /// Why the gateway is not ready, in one word; `None` if it is.
    fn unready(&self, wanted: ReadyFor) -> Option<&'static str> {
        let lacks_store = match wanted {
            ReadyFor::Sales => self.cashier.store_readiness().is_err(),
            // Uses are recorded there. Whatever else keeps it from recording sales does not matter.
            ReadyFor::Bought => !self.store.health().writable,
        };
        if *self.drains.borrow() {
            Some("draining")
        } else if wanted == ReadyFor::Sales && !self.ledger.is_healthy() {
            Some("no_node")
        } else if lacks_store {
            Some("no_store")
        } else if wanted == ReadyFor::Sales && self.tariff.load().rates.missing().is_some() {
            Some("no_rate")
        } else {
            None
        }
    }

    /// The nodes, and their WebSockets.
    fn nodes(&self) -> (Vec<Value>, Vec<Value>) {
        let node = |it: NodeStatus| {
            json!({
                "node": it.label, "up": it.up, "breaker": it.breaker.as_str(),
                // `null` if there is nothing to compare it with.
                "behind": it.compared.then_some(it.behind),
                "trusted": it.trusted,
            })
        };
        let nodes: Vec<_> = self.ledger.nodes().into_iter().map(node).collect();
        let socket = |it: SocketStatus| json!({ "node": it.label, "connected": it.connected });
        let sockets: Vec<_> = self.ledger.sockets().into_iter().map(socket).collect();
        (nodes, sockets)
    }

    /// What is known of the exchange rates.
    fn rates(&self) -> Vec<Value> {
        self.tariff.load().rates.status().iter().map(views::rate).collect()
    }

    fn readiness(&self, wanted: ReadyFor) -> Response<Vec<u8>> {
        let health = self.store.health();
        let (nodes, sockets) = self.nodes();
        let reason = self.unready(wanted);
        let fault = self.cashier.store_readiness().err().map(|why| why.to_string());
        let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = json!({
            "ready": reason.is_none(),
            "reason": reason,
            "nodes": nodes,
            "websockets": sockets,
            "rates": self.rates(),
            "store": { "writable": health.writable, "freeBytes": health.free_bytes, "fault": fault },
            "settling": self.cashier.settling(),
        });
        answer(status, "application/json", format!("{body}\n"))
    }
}

#[async_trait]
impl<S: Store + OperatorJournal + RefundJournal> ServeHttp for Admin<S> {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        // One request per connection: an idle connection would delay a shutdown.
        session.set_keepalive(None);
        let path = session.req_header().uri.path();
        if path == "/v1" || path.starts_with("/v1/") {
            return self.api(session).await;
        }
        let asked = &session.req_header().uri;
        match (asked.path(), ReadyFor::of_query(asked.query())) {
            ("/metrics", _) => self.metrics(),
            ("/livez" | "/healthz", _) => answer(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            ("/readyz", Some(wanted)) => self.readiness(wanted),
            ("/readyz", None) => {
                let known = "ready for what? try ?for=sales or ?for=bought\n".to_owned();
                answer(StatusCode::BAD_REQUEST, "text/plain", known)
            }
            _ => {
                let known = "not here; try /metrics, /livez, /healthz or /readyz\n".to_owned();
                answer(StatusCode::NOT_FOUND, "text/plain", known)
            }
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body.into_bytes());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
