//! Nano nodes and their JSON RPC.
//!
//! [`NodeClient`] calls one or more nodes and reads both dialects (the C++ node and RsNano).
//! [`NodeLedger`] builds the gateway's [`Ledger`](super::Ledger) on it. `endpoint` is the address of
//! a node, `transport` is one exchange with one node, `answer` parses the JSON that came back and
//! `contents` checks blocks against their hash. `reads` chooses the node to ask, with `breaker`;
//! `ledger` decides which answers are accepted, `watcher` waits for confirmations and `socket`
//! receives hints about them. `many` has the calls about many accounts. What real nodes answer is in
//! the [nodes guide](crate::guide::nodes).

mod answer;
mod breaker;
mod contents;
mod endpoint;
mod lag;
mod ledger;
mod many;
mod pace;
mod proven;
mod reads;
mod socket;
mod transport;
mod watcher;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::LedgerError;
use crate::nano::{Account, BlockHash, Raw, StateBlock, Threshold, Thresholds, Work};

pub use answer::{AccountInfo, BlockCount, BlockInfo, Contents, Receivable, Telemetry, Version};
pub use breaker::BreakerState;
pub use endpoint::{Authorities, NodeEndpoint, NodeSetupError, is_near, provider, read_authorities};
pub use ledger::NodeLedger;
pub use many::{Balance, MOST_RECEIVABLE, ReceivedSend};
pub use socket::{SocketEndpoint, SocketStatus};

use pace::HedgeBudget;
use reads::{RpcCall, block_info_call, no_answer, sum_up};
use transport::{Node, TransportFault};

/// A node with more than this many confirmed blocks fewer than the others is behind. Between two
/// answers of one probe the network confirms a few dozen blocks at most.
const BEHIND: u64 = 100;

/// One finished call to one node, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct RpcEvent<'a> {
    /// The node's label.
    pub node: &'a str,
    pub action: &'static str,
    pub elapsed: Duration,
    /// Whether the node gave an answer. A refusal is an answer too.
    pub ok: bool,
}

/// An event about a node.
#[derive(Clone, Copy, Debug)]
pub enum NodeEvent<'a> {
    /// A call ended.
    Called(RpcEvent<'a>),
    /// The node was slow, so another node was asked as well.
    Hedged { node: &'a str },
    /// The node calls a block confirmed that the other nodes do not.
    Disagreed { node: &'a str },
}

/// Called for each event.
pub type NodeObserver = Arc<dyn Fn(NodeEvent<'_>) + Send + Sync>;

/// The status of one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeStatus {
    pub label: String,
    pub up: bool,
    pub breaker: BreakerState,
    /// Whether it has far fewer confirmed blocks than the other nodes or than its own peers. Such a
    /// node is not asked to confirm a payment.
    pub behind: bool,
    /// Whether it could be compared with any other node or its peers. If not, `behind` is false
    /// because nothing is known.
    pub compared: bool,
    pub trusted: bool,
}

vocabulary! {
    /// The `subtype` field of `process`. It is always sent: without it a node keeps a block that it
    /// refuses and may apply it later (see the [nodes guide](crate::guide::nodes)).
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum Subtype {
        Send = "send",
        Receive = "receive",
        Open = "open",
    }
    fn as_str;
}

/// Why `process` succeeded on no node. Only `block_info` shows what became of the block.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProcessError {
    /// At least one node refused the block and none accepted it. The text is for people.
    #[error("refused: {0}")]
    Refused(String),
    #[error(transparent)]
    NoAnswer(#[from] LedgerError),
}

/// A client for one or more nodes.
///
/// A read asks the nodes in order. It goes on to the next node if one times out, cannot be reached,
/// gives no proper answer, or does not know the block or account: that node may be behind. If a node
/// is slower than usual, the next one is asked as well, within a budget. A node whose breaker is open
/// is not asked. `process` goes to all nodes at once.
///
/// Use it from one tokio runtime only: idle connections belong to the runtime that opened them and
/// end with it. Clones share connections and node health.
#[derive(Clone)]
pub struct NodeClient {
    nodes: Arc<[Arc<Node>]>,
    observer: Option<NodeObserver>,
    hedges: Arc<HedgeBudget>,
    /// How many providers have to agree if no trusted node does.
    quorum: usize,
    /// Interval between two comparisons of a node with its peers.
    peers_every: Duration,
}

impl fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.nodes()).finish()
    }
}

impl NodeClient {
    /// A client for `endpoints`, the preferred one first.
    ///
    /// # Errors
    /// [`NodeSetupError`] if there are no endpoints, one is not HTTP, or TLS cannot be set up.
    pub fn new(endpoints: Vec<NodeEndpoint>) -> Result<Self, NodeSetupError> {
        if endpoints.is_empty() {
            return Err(NodeSetupError::NoNodes);
        }
        let mut nodes: Vec<Arc<Node>> = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let plain = endpoint.label();
            // Two keys at one provider are two nodes, and their metrics need different names.
            let taken = |label: &String| nodes.iter().any(|node| node.label() == label);
            let numbered = (2_u32..).map(|number| format!("{plain}#{number}"));
            let label = std::iter::once(plain.clone()).chain(numbered).find(|label| !taken(label));
            let label = label.unwrap_or(plain);
            nodes.push(Arc::new(Node::new(endpoint, label)?));
        }
        Ok(Self {
            nodes: nodes.into(),
            observer: None,
            hedges: Arc::new(HedgeBudget::new()),
            quorum: 1,
            peers_every: lag::LOOK_EVERY,
        })
    }

    /// Makes the client accept what nodes of `quorum` different providers say, if none of them is
    /// trusted. At least 1.
    #[must_use]
    pub fn with_quorum(mut self, quorum: usize) -> Self {
        self.quorum = quorum.max(1);
        self
    }

    /// Makes a probe compare each node with its peers, but not more often than every `pause`.
    #[must_use]
    pub fn looking_at_peers_every(mut self, pause: Duration) -> Self {
        self.peers_every = pause;
        self
    }

    /// Makes the client call `observer` for each event.
    #[must_use]
    pub fn observed_by(mut self, observer: NodeObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The status of each node, in configured order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let counted = self.nodes.iter().filter(|node| node.health.cemented() > 0);
        let status = |node: &Arc<Node>| NodeStatus {
            label: node.label().to_owned(),
            up: node.health.is_up(),
            breaker: node.health.breaker(),
            behind: node.health.is_behind(),
            compared: node.health.lag().is_known() || counted.clone().any(|other| !Arc::ptr_eq(other, node)),
            trusted: node.is_trusted(),
        };
        self.nodes.iter().map(status).collect()
    }

    /// Whether the nodes that answered recently are enough to confirm a payment. False until the first
    /// call, so call [`NodeClient::probe`] at the start.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_quorum(self.nodes.iter().filter(|node| node.health.is_up() && !node.health.is_behind()))
    }

    /// Whether what these nodes say together is accepted: one of them is trusted, or they belong to at
    /// least [`NodeClient::with_quorum`] different providers.
    fn is_quorum<'a>(&self, nodes: impl Iterator<Item = &'a Arc<Node>>) -> bool {
        let mut providers = BTreeSet::new();
        for node in nodes {
            if node.is_trusted() {
                return true;
            }
            providers.insert(node.provider());
        }
        providers.len() >= self.quorum
    }

    /// How long the slowest of the nodes that are up takes for a call at present. Zero while none has answered.
    #[must_use]
    pub fn pace(&self) -> Duration {
        let up = self.nodes.iter().filter(|node| node.health.is_up());
        up.map(|node| node.health.pace.typical()).max().unwrap_or_default()
    }

    /// Asks each node for its block count and, less often, for that of its peers. A node that does not
    /// answer is marked down; a node with far too few confirmed blocks is marked behind. A node that is left alone for a
    /// while is asked all the same if the others are not enough.
    pub async fn probe(&self) {
        let mut probes = JoinSet::new();
        let urgent = !self.is_healthy();
        for node in self.nodes.iter() {
            if !node.health.admit_probe(urgent) {
                continue;
            }
            let (client, node) = (self.clone(), Arc::clone(node));
            probes.spawn(async move {
                let call = RpcCall::new("block_count", []);
                match client.call(&node, &call, answer::block_count).await {
                    Ok(count) => {
                        node.health.recovered();
                        node.health.set_cemented(count.cemented);
                        client.compare_with_peers(&node).await;
                    }
                    Err(fault) => {
                        node.health.down();
                        tracing::warn!(node = node.label(), %fault, "a node does not answer");
                    }
                }
            });
        }
        while probes.join_next().await.is_some() {}
        self.mark_laggards();
    }

    /// Compares a node with its own peers, if that is due.
    async fn compare_with_peers(&self, node: &Node) {
        if !node.health.lag().is_due(node.health.now(), self.peers_every) {
            return;
        }
        match self.call(node, &RpcCall::new("telemetry", []), answer::telemetry).await {
            Ok(peers) => node.health.lag().look(node.health.cemented(), peers.cemented_count),
            Err(TransportFault::TimedOut | TransportFault::Unreachable(_)) => {}
            Err(fault) => {
                tracing::debug!(node = node.label(), %fault, "a node gives no telemetry of its peers");
                node.health.lag().no_answer(node.health.now());
            }
        }
    }

    /// Marks the nodes that are behind. Each is compared with the highest count that a quorum has
    /// reached, so that a single node with a false count does not mark the others.
    fn mark_laggards(&self) {
        let mut counts: Vec<u64> = self.nodes.iter().map(|node| node.health.cemented()).collect();
        counts.sort_unstable();
        let believed = counts
            .into_iter()
            .rev()
            .find(|&count| self.is_quorum(self.nodes.iter().filter(|node| node.health.cemented() >= count)));
        for node in self.nodes.iter() {
            let of_others = believed.is_some_and(|it| node.health.cemented().saturating_add(BEHIND) < it);
            let behind = of_others || node.health.lag().is_behind();
            if behind != node.health.is_behind() {
                tracing::warn!(node = node.label(), behind, "a node fell behind or caught up");
                node.health.set_behind(behind);
            }
        }
    }

    /// `account_info` with confirmed state and representative; `None` if no node that answered knows
    /// the account, so that it has no block yet.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn account_info(&self, account: Account) -> Result<Option<AccountInfo>, LedgerError> {
        self.find(account_info_call(account), answer::account_info).await
    }

    /// `block_info`; `None` if no node that answered knows the block. The contents are as the node
    /// sent them. The caller checks that they hash to `hash`.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn block_info(&self, hash: BlockHash) -> Result<Option<BlockInfo>, LedgerError> {
        self.find(block_info_call(hash), answer::block_info).await
    }

    /// `receivable`: at most `count` confirmed sends to `account` of at least `threshold` raw that it
    /// has not received, the largest first.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn receivable(
        &self,
        account: Account,
        count: u32,
        threshold: Raw,
    ) -> Result<Vec<Receivable>, LedgerError> {
        let call = RpcCall::new(
            "receivable",
            [
                ("account", account.to_string().into()),
                ("count", count.to_string().into()),
                // With a threshold of at least 1 both dialects answer with a map.
                ("threshold", threshold.max(Raw::new(1)).to_string().into()),
                ("source", "true".into()),
                ("include_only_confirmed", "true".into()),
            ],
        );
        self.first(call, answer::receivable).await
    }

    /// `active_difficulty`: the work thresholds of the node's network.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn thresholds(&self) -> Result<Thresholds, LedgerError> {
        self.first(RpcCall::new("active_difficulty", []), answer::thresholds).await
    }

    /// `work_generate`: work for `root` that reaches `threshold`. The result is checked here.
    ///
    /// # Errors
    /// [`LedgerError`] if no node gave work. Most nodes do not.
    pub async fn work_generate(&self, root: [u8; 32], threshold: Threshold) -> Result<Work, LedgerError> {
        let read = move |value: &Value| answer::work(value, &root, threshold);
        let call = |difficulty: String| {
            let hash = BlockHash(root).to_string();
            RpcCall::new("work_generate", [("hash", hash.into()), ("difficulty", difficulty.into())])
        };
        // The C++ node reads the difficulty in hexadecimal only, RsNano in decimal only.
        let (hexadecimal, decimal) = (call(threshold.to_string()), call(threshold.0.to_string()));
        let work = self.read(|node| {
            let (client, hexadecimal, decimal) = (self.clone(), hexadecimal.clone(), decimal.clone());
            async move {
                match client.call(&node, &hexadecimal, read).await {
                    Err(TransportFault::Refused(_)) => client.call(&node, &decimal, read).await.map(Some),
                    other => other.map(Some),
                }
            }
        });
        work.await?.ok_or_else(no_answer)
    }

    /// `version` of the first node that answers.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn version(&self) -> Result<Version, LedgerError> {
        self.first(RpcCall::new("version", []), answer::version).await
    }

    /// `block_count` of the first node that answers.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn block_count(&self) -> Result<BlockCount, LedgerError> {
        self.first(RpcCall::new("block_count", []), answer::block_count).await
    }

    /// `telemetry` of the first node that answers: what it knows of its peers.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn telemetry(&self) -> Result<Telemetry, LedgerError> {
        self.first(RpcCall::new("telemetry", []), answer::telemetry).await
    }

    /// `process`: sends `block` to every node at once and returns when one has accepted it. The calls
    /// to the other nodes go on. It is safe to repeat.
    ///
    /// # Errors
    /// [`ProcessError`] if no node accepted the block. Neither an error nor success shows what becomes
    /// of the block.
    pub async fn process(&self, block: &StateBlock, subtype: Subtype) -> Result<(), ProcessError> {
        let hash = block.hash();
        let contents = serde_json::to_value(block)
            .map_err(|error| LedgerError::Unreachable(format!("the block cannot be written: {error}")))?;
        let call = RpcCall::new(
            "process",
            [
                ("json_block", "true".into()),
                ("subtype", subtype.as_str().into()),
                ("watch_work", "false".into()),
                ("block", contents),
            ],
        );
        let mut calls = JoinSet::new();
        for node in self.nodes.iter() {
            let (client, node, call) = (self.clone(), Arc::clone(node), call.clone());
            calls.spawn(async move {
                let answer = client.call(&node, &call, |value| answer::processed(value, hash)).await;
                (node.label().to_owned(), answer)
            });
        }
        let mut faults = Vec::new();
        while let Some(answer) = calls.join_next().await {
            match answer {
                Ok((_, Ok(()))) => {
                    calls.detach_all();
                    return Ok(());
                }
                Ok((label, Err(fault))) => faults.push((label, fault)),
                Err(stopped) => {
                    faults.push(("?".to_owned(), TransportFault::Unreachable(stopped.to_string())))
                }
            }
        }
        let refusal = |(label, fault): &(String, TransportFault)| match fault {
            TransportFault::Refused(text) => answer::refuses_block(text).then(|| format!("{label}: {text}")),
            TransportFault::TimedOut
            | TransportFault::Unreachable(_)
            | TransportFault::Nonsense(_)
            | TransportFault::NotBelieved(_) => None,
        };
        let refusals: Vec<_> = faults.iter().filter_map(refusal).collect();
        if refusals.is_empty() {
            Err(ProcessError::NoAnswer(sum_up(&faults)))
        } else {
            Err(ProcessError::Refused(refusals.join("; ")))
        }
    }
}

fn account_info_call(account: Account) -> RpcCall {
    RpcCall::new(
        "account_info",
        [
            ("account", account.to_string().into()),
            ("include_confirmed", "true".into()),
            ("representative", "true".into()),
            ("receivable", "true".into()),
        ],
    )
}
