//! The nodes and the work server of a configuration.

use std::sync::Arc;

use crate::cashier;
use crate::config::{Config, Nano, NodeUrl, SocketUrl};
use crate::ledger::node::{
    Authorities, NodeClient, NodeEndpoint, NodeEvent, NodeLedger, NodeSetupError, SocketEndpoint,
};
use crate::ledger::work::{WorkLimits, WorkServer};
use crate::metrics::Metrics;
use crate::x402::{WorkPolicy, WorkTerms};

pub(super) fn node_ledger(config: &Config, metrics: &Arc<Metrics>) -> Result<NodeLedger, NodeSetupError> {
    let nano = &config.nano;
    let metrics = Arc::clone(metrics);
    let observe = move |event: NodeEvent<'_>| match event {
        NodeEvent::Called(call) => metrics.node_rpc(call.node, call.action, call.elapsed, call.ok),
        NodeEvent::Hedged { node } => metrics.hedged(node),
        NodeEvent::Disagreed { node } => metrics.disagreement(node),
    };
    let client = node_client(nano)?.observed_by(Arc::new(observe));
    let ledger = NodeLedger::new(client).polling_every(config.settlement.poll);
    Ok(ledger.hearing(sockets(nano)?))
}

/// The WebSockets of `nano`.
///
/// # Errors
/// [`NodeSetupError`], if one is none.
pub fn sockets(nano: &Nano) -> Result<Vec<SocketEndpoint>, NodeSetupError> {
    let authorities = || Authorities::from(nano.authorities.as_slice());
    let socket = |it: &SocketUrl| Ok(SocketEndpoint::from_url(it.0.clone())?.believing(authorities()));
    nano.websockets.iter().map(socket).collect()
}

/// The nodes of `nano`.
#[must_use]
pub fn endpoints(nano: &Nano) -> Vec<NodeEndpoint> {
    nano.nodes.iter().map(|node| endpoint(nano, node)).collect()
}

pub(super) fn endpoint(nano: &Nano, node: &NodeUrl) -> NodeEndpoint {
    NodeEndpoint {
        url: node.url.clone(),
        parameters: node.parameters.clone(),
        timeout: node.timeout,
        trusted: node.trusted,
        authorities: Authorities::from(nano.authorities.as_slice()),
    }
}

/// The servers of a configuration that are asked for work, each with its key.
#[must_use]
pub fn work_servers(config: &Config) -> Vec<(&'static str, NodeEndpoint)> {
    let payments = config.nano.work.server.as_ref().map(|it| ("nano.work.optional", &it.server));
    let sweeps = config.sweep.as_ref().and_then(|it| it.work_server.as_ref());
    let sweeps = sweeps.map(|it| ("sweep.work_server", it));
    payments.into_iter().chain(sweeps).map(|(key, it)| (key, endpoint(&config.nano, it))).collect()
}

/// What work a payment's block needs, and who computes it if the client does not.
pub(super) fn work(nano: &Nano) -> Result<cashier::WorkRules, NodeSetupError> {
    let server = match &nano.work.server {
        Some(maker) => {
            let limits = WorkLimits {
                at_once: maker.at_once,
                waiting: maker.waiting,
                per_client: maker.per_client,
                patience: maker.server.timeout,
            };
            Some(WorkServer::new(NodeClient::new(vec![endpoint(nano, &maker.server)])?, limits))
        }
        None => None,
    };
    Ok(cashier::WorkRules { threshold: nano.work.thresholds.send, server })
}

pub(super) fn work_terms(nano: &Nano) -> WorkTerms {
    let policy = if nano.work.server.is_some() { WorkPolicy::Optional } else { WorkPolicy::Required };
    WorkTerms { policy, threshold: nano.work.thresholds.send }
}

/// A client for the nodes of a configuration.
///
/// # Errors
/// [`NodeSetupError`], if one is not HTTP, or TLS cannot be set up.
pub fn node_client(nano: &Nano) -> Result<NodeClient, NodeSetupError> {
    Ok(NodeClient::new(endpoints(nano))?.with_quorum(nano.quorum))
}
