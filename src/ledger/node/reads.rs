//! Reads from nodes: one call to one node, a read that tries the nodes in turn, and a call to all.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Map, Value};

use super::transport::{Node, TransportFault};
use super::{NodeClient, NodeEvent, RpcEvent, answer};
use crate::clock::Stopwatch;
use crate::entropy;
use crate::ledger::LedgerError;
use crate::nano::BlockHash;

/// When all nodes are asked, how long the others are waited for once enough have answered.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// Work may take at least so long, whatever else the node is given.
const WORK: Duration = Duration::from_secs(30);
/// How many times a read tries all nodes before it gives up.
const ROUNDS: u32 = 2;
/// The pause between two rounds. A random part is added, so that gateways that lost a node together
/// do not retry together.
const ROUND_PAUSE: Duration = Duration::from_millis(30);

/// One call: the action and its fields.
#[derive(Clone)]
pub(super) struct RpcCall {
    action: &'static str,
    fields: Vec<(&'static str, Value)>,
}

impl RpcCall {
    pub(super) fn new<const N: usize>(action: &'static str, fields: [(&'static str, Value); N]) -> Self {
        Self { action, fields: fields.into() }
    }

    /// Adds a field to the call.
    pub(super) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }

    /// How long this action may take: the node's configured timeout. A shorter time of our own would make a node that is
    /// slow, as its operator knows, one that never answers.
    fn patience(&self, node: &Node) -> Duration {
        if self.action == "work_generate" { node.timeout().max(WORK) } else { node.timeout() }
    }

    /// Whether a failure counts against the node. Work can take any time, and a node need not answer
    /// `telemetry`.
    fn counts(&self) -> bool {
        !matches!(self.action, "work_generate" | "telemetry")
    }
}

pub(super) fn block_info_call(hash: BlockHash) -> RpcCall {
    RpcCall::new("block_info", [("json_block", "true".into()), ("hash", hash.to_string().into())])
}

/// A call for many blocks at once; the ones that the node does not have are left out.
pub(super) fn blocks_info_call(hashes: &[BlockHash]) -> RpcCall {
    let hashes: Vec<Value> = hashes.iter().map(|hash| hash.to_string().into()).collect();
    RpcCall::new(
        "blocks_info",
        [("json_block", "true".into()), ("include_not_found", "true".into()), ("hashes", hashes.into())],
    )
}

/// A node with its answer.
type NodeAnswer<T> = (Arc<Node>, Result<Option<T>, TransportFault>);

/// What the nodes asked so far answered, other than the block or account itself.
#[derive(Default)]
struct RoundFindings {
    faults: Vec<(String, TransportFault)>,
    /// A node answered that there is no such block or account.
    absent: bool,
}

impl NodeClient {
    /// Makes one call to one node and parses the answer with `read`. The node's health and the
    /// observer get the outcome.
    pub(super) async fn call<T>(
        &self,
        node: &Node,
        call: &RpcCall,
        read: impl FnOnce(&Value) -> Result<T, TransportFault>,
    ) -> Result<T, TransportFault> {
        let watch = Stopwatch::start();
        let fields: Map<String, Value> =
            call.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let answer = node.ask(call.action, fields, call.patience(node)).await.and_then(|value| read(&value));
        let ok = answer.as_ref().err().is_none_or(TransportFault::is_answer);
        let elapsed = watch.elapsed();
        if ok {
            node.health.answered();
            node.health.pace.took(elapsed);
        } else if call.counts() {
            node.health.failed();
        }
        self.notify(NodeEvent::Called(RpcEvent { node: node.label(), action: call.action, elapsed, ok }));
        answer
    }

    pub(super) fn notify(&self, event: NodeEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    /// Like [`NodeClient::call`]; `None` if the node answers that there is no such block or account.
    pub(super) async fn look_up<T>(
        &self,
        node: &Node,
        call: &RpcCall,
        read: impl FnOnce(&Value) -> Result<T, TransportFault>,
    ) -> Result<Option<T>, TransportFault> {
        match self.call(node, call, read).await {
            Err(TransportFault::Refused(text)) if answer::says_not_found(&text) => Ok(None),
            other => other.map(Some),
        }
    }

    /// [`NodeClient::read`] for one call about a block or account.
    pub(super) async fn find<T: Send>(
        &self,
        call: RpcCall,
        read: fn(&Value) -> Result<T, TransportFault>,
    ) -> Result<Option<T>, LedgerError> {
        self.read(|node| {
            let (client, call) = (self.clone(), call.clone());
            async move { client.look_up(&node, &call, read).await }
        })
        .await
    }

    /// [`NodeClient::find`] for a call that every node can answer.
    pub(super) async fn first<T: Send>(
        &self,
        call: RpcCall,
        read: fn(&Value) -> Result<T, TransportFault>,
    ) -> Result<T, LedgerError> {
        self.find(call, read).await?.ok_or_else(no_answer)
    }

    /// Asks the nodes in turn until one has the block or account. If no node could be reached, all are
    /// tried once more. `None` if a node answered and none has it.
    pub(super) async fn read<T, F>(&self, ask: impl Fn(Arc<Node>) -> F) -> Result<Option<T>, LedgerError>
    where
        F: Future<Output = Result<Option<T>, TransportFault>>,
    {
        let mut round = 1;
        loop {
            let mut findings = RoundFindings::default();
            if let Some(found) = self.round(&ask, &mut findings).await {
                return Ok(Some(found));
            }
            let RoundFindings { faults, absent } = findings;
            if absent {
                if !faults.is_empty() {
                    tracing::debug!(
                        unasked = faults.len(),
                        "not found, though not every node could be asked"
                    );
                }
                return Ok(None);
            }
            let unreachable =
                |(_, fault): &(String, TransportFault)| matches!(fault, TransportFault::Unreachable(_));
            if round >= ROUNDS || faults.is_empty() || !faults.iter().all(unreachable) {
                return Err(sum_up(&faults));
            }
            round = round.saturating_add(1);
            tokio::time::sleep(jittered(ROUND_PAUSE)).await;
        }
    }

    /// Asks each node once, in turn. If a node is slow, the next one is asked beside it, as far as the
    /// budget allows.
    async fn round<T, F>(&self, ask: &impl Fn(Arc<Node>) -> F, findings: &mut RoundFindings) -> Option<T>
    where
        F: Future<Output = Result<Option<T>, TransportFault>>,
    {
        let mut order = self.in_order().into_iter().filter(|node| node.health.admit());
        let mut running = FuturesUnordered::new();
        let start = |node: Arc<Node>| {
            let answer = ask(Arc::clone(&node));
            async move { (node, answer.await) }
        };
        self.hedges.earn();
        let mut latest = (order.next()?, Stopwatch::start());
        let mut overtaken: Vec<(Arc<Node>, Stopwatch)> = Vec::new();
        running.push(start(Arc::clone(&latest.0)));
        let mut may_hedge = true;
        loop {
            let slow = latest.0.health.pace.hedge_after().saturating_sub(latest.1.elapsed());
            tokio::select! {
                Some((node, answer)) = running.next() => {
                    overtaken.retain(|(other, _)| !Arc::ptr_eq(other, &node));
                    if let Some(found) = findings.take(&node, answer) {
                        // A call that is given up counts with the time that it was waited for.
                        for (slow, watch) in overtaken {
                            slow.health.pace.took(watch.elapsed());
                        }
                        return Some(found);
                    }
                    if running.is_empty() {
                        latest = (order.next()?, Stopwatch::start());
                        running.push(start(Arc::clone(&latest.0)));
                    }
                }
                () = tokio::time::sleep(slow), if may_hedge => {
                    // Without a budget the other nodes are kept for the case that this one fails.
                    let rival = if self.hedges.spend() { order.next() } else { None };
                    may_hedge = rival.is_some();
                    if let Some(rival) = rival {
                        self.notify(NodeEvent::Hedged { node: latest.0.label() });
                        running.push(start(Arc::clone(&rival)));
                        overtaken.push(std::mem::replace(&mut latest, (rival, Stopwatch::start())));
                    }
                }
                else => return None,
            }
        }
    }

    /// Asks every node at once, except those whose breaker is open. Once a quorum has answered, the others are waited for
    /// [`STRAGGLERS`].
    pub(super) async fn ask_all<T>(
        &self,
        call: &RpcCall,
        read: fn(&Value) -> Result<T, TransportFault>,
    ) -> Vec<NodeAnswer<T>> {
        let mut running: FuturesUnordered<_> = self
            .in_order()
            .into_iter()
            .filter(|node| node.health.admit())
            .map(|node| async move {
                let answer = self.look_up(&node, call, read).await;
                (node, answer)
            })
            .collect();
        let mut answers: Vec<NodeAnswer<T>> = Vec::new();
        let mut answered: Option<Stopwatch> = None;
        loop {
            let left = answered.map(|since| STRAGGLERS.saturating_sub(since.elapsed()));
            let late = async {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                next = running.next() => match next {
                    Some((node, answer)) => {
                        answers.push((node, answer));
                        let good = answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(node, _)| node);
                        if answered.is_none() && self.is_quorum(good) {
                            answered = Some(Stopwatch::start());
                        }
                    }
                    None => return answers,
                },
                () = late => return answers,
            }
        }
    }

    /// The nodes that may be asked, in configured order; those that are behind come last.
    pub(super) fn in_order(&self) -> Vec<Arc<Node>> {
        let mut order: Vec<_> = self.nodes.iter().filter(|node| node.health.would_admit()).cloned().collect();
        order.sort_by_key(|node| node.health.is_behind());
        order
    }
}

impl RoundFindings {
    /// Returns the block or account if the node has it, else keeps the answer.
    fn take<T>(&mut self, node: &Node, answer: Result<Option<T>, TransportFault>) -> Option<T> {
        match answer {
            Ok(Some(found)) => return Some(found),
            Ok(None) => self.absent = true,
            Err(fault) => {
                if matches!(fault, TransportFault::NotBelieved(_) | TransportFault::Nonsense(_)) {
                    tracing::warn!(node = node.label(), %fault, "a node's answer is ignored");
                }
                self.faults.push((node.label().to_owned(), fault));
            }
        }
        None
    }
}

/// `pause` plus a random part of up to the same length.
pub(super) fn jittered(pause: Duration) -> Duration {
    // Without random bytes the pause is merely the same for all.
    let random = entropy::bytes::<2>().map_or(0, u16::from_le_bytes);
    let part = pause.saturating_mul(u32::from(random)).checked_div(u32::from(u16::MAX));
    pause.saturating_add(part.unwrap_or_default())
}

/// The error when nodes answer "not found" to a call that names no block or account.
pub(super) fn no_answer() -> LedgerError {
    LedgerError::Unreachable("no node gave an answer that fits the question".to_owned())
}

/// One error that sums up the faults of all nodes.
pub(super) fn sum_up(faults: &[(String, TransportFault)]) -> LedgerError {
    if faults.is_empty() {
        return LedgerError::Unreachable("every node failed lately and is left alone for a while".to_owned());
    }
    if faults.iter().all(|(_, fault)| matches!(fault, TransportFault::TimedOut)) {
        return LedgerError::TimedOut;
    }
    let said: Vec<_> = faults.iter().map(|(label, fault)| format!("{label}: {fault}")).collect();
    if faults.iter().any(|(_, fault)| matches!(fault, TransportFault::NotBelieved(_))) {
        LedgerError::NotBelieved(said.join("; "))
    } else {
        LedgerError::Unreachable(said.join("; "))
    }
}
