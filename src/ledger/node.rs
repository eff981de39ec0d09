//! Nano nodes, asked over their JSON RPC.
//!
//! [`NodeClient`] speaks to one or more nodes in order and reads both implementations' dialects
//! (the C++ node and RsNano); [`NodeLedger`] makes of it the gateway's [`Ledger`](super::Ledger).
//! `endpoint` says where a node is, `transport` carries one exchange with one node, `answer` reads
//! what came back. `reads` chooses whom to ask, with `breaker` and `pace`; `ledger` decides what is
//! believed, `watcher` waits for confirmations and `socket` hears of them.
//! `many` asks about a whole pool.

mod answer;
mod breaker;
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
pub use endpoint::{Authorities, NodeEndpoint, NodeSetupError};
pub use ledger::NodeLedger;
pub use many::{Balance, MOST_RECEIVABLE, Received};
pub use socket::{SocketEndpoint, SocketStatus};

use pace::HedgeBudget;
use reads::{Call, block_info_call, nothing_said, sum_up};
use transport::{Fault, Node};

/// A node that has this many confirmed blocks fewer than it should is behind. Between two answers
/// of one round the network adds a few dozen at most.
const BEHIND: u64 = 100;

/// One finished call to one node, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct RpcEvent<'a> {
    /// The node's label.
    pub node: &'a str,
    pub action: &'static str,
    pub elapsed: Duration,
    /// Whether the node answered as nodes do; its refusal of a block is an answer too.
    pub ok: bool,
}

/// What is told of nodes as it happens.
#[derive(Clone, Copy, Debug)]
pub enum NodeEvent<'a> {
    /// A call ended.
    Called(RpcEvent<'a>),
    /// The node was slow, so another was asked as well.
    Hedged { node: &'a str },
    /// The node says of a block what the others deny.
    Disagreed { node: &'a str },
}

/// Is told of each event.
pub type NodeObserver = Arc<dyn Fn(NodeEvent<'_>) + Send + Sync>;

/// How one node is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeStatus {
    pub label: String,
    pub up: bool,
    pub breaker: BreakerState,
    /// Whether it knows far fewer confirmed blocks than the others, or than its own peers; it is
    /// not asked to confirm.
    pub behind: bool,
    /// Whether there was anything to hold it against; else `behind` is false for want of knowledge.
    pub compared: bool,
    pub trusted: bool,
}

/// What a block does, as `process` wants it said. Always said: without it a node keeps a block that
/// it refuses and may apply it later (NODE trap 2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subtype {
    Send,
    Receive,
    Open,
}

impl Subtype {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Open => "open",
        }
    }
}

/// What came of `process` on all nodes. What became of the block, only `block_info` tells.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProcessError {
    /// Every node that answered refused it; the text is for people.
    #[error("refused: {0}")]
    Refused(String),
    #[error(transparent)]
    NoAnswer(#[from] LedgerError),
}

/// A client for one or more nodes.
///
/// A read asks the nodes in order and goes on to the next when one is late, cannot be reached,
/// answers nonsense or says that it does not know the thing: a node can be behind. One that is
/// slower than it usually is gets a rival, within a budget. A node whose breaker is open is not
/// asked. `process` goes to all nodes at once.
///
/// Call it from one tokio runtime only: its idle connections are driven by the runtime that opened
/// them and end with it. Clones share connections and health.
#[derive(Clone)]
pub struct NodeClient {
    nodes: Arc<[Arc<Node>]>,
    observer: Option<NodeObserver>,
    hedges: Arc<HedgeBudget>,
    /// How many voices it takes where none of them is trusted.
    quorum: usize,
    /// Between two looks at a node's peers.
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
    /// [`NodeSetupError`], when there are none, one is not HTTP, or TLS cannot be set up.
    pub fn new(endpoints: Vec<NodeEndpoint>) -> Result<Self, NodeSetupError> {
        if endpoints.is_empty() {
            return Err(NodeSetupError::NoNodes);
        }
        let mut nodes: Vec<Arc<Node>> = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let plain = endpoint.label();
            // Two accounts with one provider are two nodes; their metrics must not share a name.
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

    /// This client, believing nodes that are not trusted when `quorum` of them say the same; one
    /// is the least.
    #[must_use]
    pub fn with_quorum(mut self, quorum: usize) -> Self {
        self.quorum = quorum.max(1);
        self
    }

    /// This client, asking a node for its peers as often as that, at a probe.
    #[must_use]
    pub fn looking_at_peers_every(mut self, pause: Duration) -> Self {
        self.peers_every = pause;
        self
    }

    /// This client, telling `observer` of each call.
    #[must_use]
    pub fn observed_by(mut self, observer: NodeObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// How each node is, in their order.
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

    /// Whether the nodes that answered lately are enough to see a payment confirmed. False before
    /// any was asked: [`NodeClient::probe`] at start.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.suffice(self.nodes.iter().filter(|node| node.health.is_up() && !node.health.is_behind()))
    }

    /// Whether these nodes' word together is believed: one of them is trusted, or there are
    /// [`NodeClient::with_quorum`] of them, each with a voice of its own.
    fn suffice<'a>(&self, nodes: impl Iterator<Item = &'a Arc<Node>>) -> bool {
        let mut voices = BTreeSet::new();
        for node in nodes {
            if node.is_trusted() {
                return true;
            }
            voices.insert(node.voice());
        }
        voices.len() >= self.quorum
    }

    /// Asks each node for its block count and, now and then, for that of its peers; one that does not
    /// answer is down, one that has far fewer confirmed blocks than it should is behind.
    pub async fn probe(&self) {
        let mut probes = JoinSet::new();
        for node in self.nodes.iter() {
            if !node.health.admit() {
                continue;
            }
            let (client, node) = (self.clone(), Arc::clone(node));
            probes.spawn(async move {
                let call = Call::new("block_count", []);
                match client.call(&node, &call, answer::block_count).await {
                    Ok(count) => {
                        node.health.set_cemented(count.cemented);
                        client.hold_against_peers(&node).await;
                    }
                    Err(fault) => {
                        node.health.down();
                        tracing::warn!(node = node.label(), %fault, "a node does not answer");
                    }
                }
            });
        }
        while probes.join_next().await.is_some() {}
        self.compare();
    }

    /// Asks a node how its peers are.
    async fn hold_against_peers(&self, node: &Node) {
        if !node.health.lag().is_due(node.health.now(), self.peers_every) {
            return;
        }
        match self.call(node, &Call::new("telemetry", []), answer::telemetry).await {
            Ok(peers) => node.health.lag().look(node.health.cemented(), peers.cemented_count),
            Err(Fault::TimedOut | Fault::Unreachable(_)) => {}
            Err(fault) => {
                tracing::debug!(node = node.label(), %fault, "a node does not tell of its peers");
                node.health.lag().unsaid(node.health.now());
            }
        }
    }

    /// Finds who is behind: held against the highest count that is believed, so that one node
    /// which boasts puts no other in the wrong.
    fn compare(&self) {
        let mut counts: Vec<u64> = self.nodes.iter().map(|node| node.health.cemented()).collect();
        counts.sort_unstable();
        let believed = counts
            .into_iter()
            .rev()
            .find(|&count| self.suffice(self.nodes.iter().filter(|node| node.health.cemented() >= count)));
        for node in self.nodes.iter() {
            let of_others = believed.is_some_and(|it| node.health.cemented().saturating_add(BEHIND) < it);
            let behind = of_others || node.health.lag().is_behind();
            if behind != node.health.is_behind() {
                tracing::warn!(node = node.label(), behind, "a node falls behind or catches up");
                node.health.set_behind(behind);
            }
        }
    }

    /// `account_info`, confirmed state and representative included; nothing where no node that
    /// answered knows the account: it has no block yet.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn account_info(&self, account: Account) -> Result<Option<AccountInfo>, LedgerError> {
        self.find(account_info_call(account), answer::account_info).await
    }

    /// `block_info`, its contents as the node gave them: whether they are the block that was asked
    /// for is for the caller to check. Nothing where no node that answered knows the block.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn block_info(&self, hash: BlockHash) -> Result<Option<BlockInfo>, LedgerError> {
        self.find(block_info_call(hash), answer::block_info).await
    }

    /// What can be received on `account`: at most `count` confirmed blocks of at least `threshold`
    /// raw, the largest first. Empty where nothing can.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn receivable(
        &self,
        account: Account,
        count: u32,
        threshold: Raw,
    ) -> Result<Vec<Receivable>, LedgerError> {
        let call = Call::new(
            "receivable",
            [
                ("account", account.to_string().into()),
                ("count", count.to_string().into()),
                // A threshold of at least 1 makes both dialects answer with a map.
                ("threshold", threshold.max(Raw::new(1)).to_string().into()),
                ("source", "true".into()),
                ("include_only_confirmed", "true".into()),
            ],
        );
        self.first(call, answer::receivable).await
    }

    /// What is asked of a block's work, from the node that knows its network (`active_difficulty`).
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn thresholds(&self) -> Result<Thresholds, LedgerError> {
        self.first(Call::new("active_difficulty", []), answer::thresholds).await
    }

    /// Lets a node compute work for `root` that reaches `threshold`. The result is checked: a node
    /// that gives too little is not believed.
    ///
    /// # Errors
    /// [`LedgerError`], when no node gave work; most nodes do not.
    pub async fn work_generate(&self, root: [u8; 32], threshold: Threshold) -> Result<Work, LedgerError> {
        let read = move |value: &Value| answer::work(value, &root, threshold);
        let call = |difficulty: String| {
            let hash = BlockHash(root).to_string();
            Call::new("work_generate", [("hash", hash.into()), ("difficulty", difficulty.into())])
        };
        // The C++ node reads the difficulty in hexadecimal only, RsNano in decimal only (trap 12).
        let (hexadecimal, decimal) = (call(threshold.to_string()), call(threshold.0.to_string()));
        let work = self.read(|node| {
            let (client, hexadecimal, decimal) = (self.clone(), hexadecimal.clone(), decimal.clone());
            async move {
                match client.call(&node, &hexadecimal, read).await {
                    Err(Fault::Refused(_)) => client.call(&node, &decimal, read).await.map(Some),
                    other => other.map(Some),
                }
            }
        });
        work.await?.ok_or_else(nothing_said)
    }

    /// Which software the first node that answers is.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn version(&self) -> Result<Version, LedgerError> {
        self.first(Call::new("version", []), answer::version).await
    }

    /// How many blocks the first node that answers has.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn block_count(&self) -> Result<BlockCount, LedgerError> {
        self.first(Call::new("block_count", []), answer::block_count).await
    }

    /// How the first node that answers sees the network.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn telemetry(&self) -> Result<Telemetry, LedgerError> {
        self.first(Call::new("telemetry", []), answer::telemetry).await
    }

    /// Hands `block` to every node at once and returns when one has accepted it; the others are
    /// still told. Repeating it is harmless.
    ///
    /// # Errors
    /// [`ProcessError`], when none accepted it. Neither that nor success says what becomes of the
    /// block.
    pub async fn process(&self, block: &StateBlock, subtype: Subtype) -> Result<(), ProcessError> {
        let hash = block.hash();
        let contents = serde_json::to_value(block)
            .map_err(|error| LedgerError::Unreachable(format!("the block cannot be written: {error}")))?;
        let call = Call::new(
            "process",
            [
                ("json_block", "true".into()),
                ("subtype", subtype.as_str().into()),
                ("watch_work", "false".into()),
                ("block", contents),
            ],
        );
        let mut told = JoinSet::new();
        for node in self.nodes.iter() {
            let (client, node, call) = (self.clone(), Arc::clone(node), call.clone());
            told.spawn(async move {
                let answer = client.call(&node, &call, |value| answer::processed(value, hash)).await;
                (node.label().to_owned(), answer)
            });
        }
        let mut faults = Vec::new();
        while let Some(answer) = told.join_next().await {
            match answer {
                Ok((_, Ok(()))) => {
                    told.detach_all();
                    return Ok(());
                }
                Ok((label, Err(fault))) => faults.push((label, fault)),
                Err(stopped) => faults.push(("?".to_owned(), Fault::Unreachable(stopped.to_string()))),
            }
        }
        let refusals: Vec<_> = faults.iter().filter_map(|(label, fault)| fault.refusal(label)).collect();
        if refusals.is_empty() {
            Err(ProcessError::NoAnswer(sum_up(&faults)))
        } else {
            Err(ProcessError::Refused(refusals.join("; ")))
        }
    }
}

fn account_info_call(account: Account) -> Call {
    Call::new(
        "account_info",
        [
            ("account", account.to_string().into()),
            ("include_confirmed", "true".into()),
            ("representative", "true".into()),
            ("receivable", "true".into()),
        ],
    )
}
