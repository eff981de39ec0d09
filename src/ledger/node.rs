//! Nano nodes, asked over their JSON RPC.
//!
//! [`NodeClient`] speaks to one or more nodes in order and reads both implementations' dialects
//! (the C++ node and RsNano); [`NodeLedger`] makes of it the gateway's [`Ledger`](super::Ledger).
//! `endpoint` says where a node is, `transport` carries one exchange with one node, `answer` reads what came back, `ledger` decides
//! what of it is believed, `many` asks about a whole pool.

mod answer;
mod endpoint;
mod ledger;
mod many;
mod transport;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::LedgerError;
use crate::clock::Stopwatch;
use crate::nano::{Account, BlockHash, Raw, StateBlock, Threshold, Thresholds, Work};

pub use answer::{AccountInfo, BlockCount, BlockInfo, Contents, Receivable, Telemetry, Version};
pub use endpoint::{NodeEndpoint, NodeSetupError};
pub use ledger::NodeLedger;
pub use many::{Balance, MOST_RECEIVABLE, Received};

use transport::{Fault, Node};

/// How long a node may compute work before it is computed here; the other calls are far quicker.
const WORK_GENERATE_TIMEOUT: Duration = Duration::from_secs(30);

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

/// Is told of each call as it ends.
pub type RpcObserver = Arc<dyn Fn(RpcEvent<'_>) + Send + Sync>;

/// How one node is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeStatus {
    pub label: String,
    pub up: bool,
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
/// A read asks the nodes in order, those that are down last, and goes on to the next when one is
/// late, cannot be reached, answers nonsense or says that it does not know the thing: a node can
/// be behind. Only when no node that answered knows it, it is not there; nodes that are down are
/// not waited for to learn that. `process` goes to all nodes at once.
///
/// Call it from one tokio runtime only: its idle connections are driven by the runtime that opened
/// them and end with it. Making it needs no runtime. Clones share connections and health.
#[derive(Clone)]
pub struct NodeClient {
    nodes: Arc<[Arc<Node>]>,
    observer: Option<RpcObserver>,
}

impl fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.nodes()).finish()
    }
}

/// One call: the action, its fields, and how long it may take if not the node's usual time.
#[derive(Clone)]
struct Call {
    action: &'static str,
    fields: Vec<(&'static str, Value)>,
    timeout: Option<Duration>,
}

impl Call {
    fn new<const N: usize>(action: &'static str, fields: [(&'static str, Value); N]) -> Self {
        Self { action, fields: fields.into(), timeout: None }
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
        Ok(Self { nodes: nodes.into(), observer: None })
    }

    /// This client, telling `observer` of each call.
    #[must_use]
    pub fn observed_by(mut self, observer: RpcObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// How each node is, in their order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let status =
            |node: &Arc<Node>| NodeStatus { label: node.label().to_owned(), up: node.health.is_up() };
        self.nodes.iter().map(status).collect()
    }

    /// Whether some node answered lately. False before any was asked: [`NodeClient::probe`] at start.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.nodes.iter().any(|node| node.health.is_up())
    }

    /// Asks each node for its block count; one that does not answer is down.
    pub async fn probe(&self) {
        let mut probes = JoinSet::new();
        for node in self.nodes.iter() {
            let (client, node) = (self.clone(), Arc::clone(node));
            probes.spawn(async move {
                let call = Call::new("block_count", []);
                if let Err(fault) = client.call(&node, &call, answer::block_count).await {
                    node.health.down();
                    tracing::warn!(node = node.label(), %fault, "a node does not answer");
                }
            });
        }
        while probes.join_next().await.is_some() {}
    }

    /// `account_info`, confirmed state and representative included; nothing where no node that
    /// answered knows the account: it has no block yet.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn account_info(&self, account: Account) -> Result<Option<AccountInfo>, LedgerError> {
        let call = Call::new(
            "account_info",
            [
                ("account", account.to_string().into()),
                ("include_confirmed", "true".into()),
                ("representative", "true".into()),
                ("receivable", "true".into()),
            ],
        );
        self.find(call, answer::account_info).await
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
        let call = |difficulty: String| Call {
            timeout: Some(WORK_GENERATE_TIMEOUT),
            ..Call::new(
                "work_generate",
                [("hash", BlockHash(root).to_string().into()), ("difficulty", difficulty.into())],
            )
        };
        // The C++ node reads the difficulty in hexadecimal only, RsNano in decimal only (trap 12).
        let (hexadecimal, decimal) = (call(threshold.to_string()), call(threshold.0.to_string()));
        let work = self.read(0, |node| {
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

    /// One call to one node, its answer read by `read`; its health and the observer learn how it
    /// went.
    async fn call<T>(
        &self,
        node: &Node,
        call: &Call,
        read: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let watch = Stopwatch::start();
        let fields: Map<String, Value> =
            call.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let answer = node.ask(call.action, fields, call.timeout).await.and_then(|value| read(&value));
        let ok = answer.as_ref().err().is_none_or(Fault::is_answer);
        if ok {
            node.health.answered();
        } else if call.timeout.is_none() {
            // Work is no measure of health: it takes as long as luck has it.
            node.health.failed();
        }
        if let Some(observer) = &self.observer {
            observer(RpcEvent { node: node.label(), action: call.action, elapsed: watch.elapsed(), ok });
        }
        answer
    }

    /// As [`NodeClient::call`]; nothing where the node says that it does not know the thing.
    async fn look_up<T>(
        &self,
        node: &Node,
        call: &Call,
        read: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        match self.call(node, call, read).await {
            Err(Fault::Refused(text)) if answer::says_not_found(&text) => Ok(None),
            other => other.map(Some),
        }
    }

    /// As [`NodeClient::read`], for a call that is answered with the thing or an error that says
    /// there is none.
    async fn find<T: Send>(
        &self,
        call: Call,
        read: fn(&Value) -> Result<T, Fault>,
    ) -> Result<Option<T>, LedgerError> {
        self.read(0, |node| {
            let (client, call) = (self.clone(), call.clone());
            async move { client.look_up(&node, &call, read).await }
        })
        .await
    }

    /// As [`NodeClient::find`], for what every node has.
    async fn first<T: Send>(
        &self,
        call: Call,
        read: fn(&Value) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        self.find(call, read).await?.ok_or_else(nothing_said)
    }

    /// Asks one node after the other until one has the thing. `turn` moves the start, so that
    /// repeated looks do not all depend on the first node.
    async fn read<T, F>(&self, turn: usize, ask: impl Fn(Arc<Node>) -> F) -> Result<Option<T>, LedgerError>
    where
        F: Future<Output = Result<Option<T>, Fault>>,
    {
        let mut faults = Vec::new();
        let mut absent = false;
        for node in self.in_order(turn) {
            // A node that is down could only make a likely answer late.
            if absent && node.health.is_down() {
                continue;
            }
            match ask(Arc::clone(&node)).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => absent = true,
                Err(fault) => {
                    if matches!(fault, Fault::NotBelieved(_) | Fault::Nonsense(_)) {
                        tracing::warn!(node = node.label(), %fault, "a node's answer is put aside");
                    }
                    faults.push((node.label().to_owned(), fault));
                }
            }
        }
        if absent {
            if !faults.is_empty() {
                tracing::debug!(unasked = faults.len(), "not found, though not every node could be asked");
            }
            return Ok(None);
        }
        Err(sum_up(&faults))
    }

    /// The nodes in their order from the `turn`-th on, those that are down last.
    fn in_order(&self, turn: usize) -> Vec<Arc<Node>> {
        let start = turn.checked_rem(self.nodes.len()).unwrap_or(0);
        let (before, from) = self.nodes.split_at_checked(start).unwrap_or((&[], &self.nodes));
        let mut order: Vec<_> = from.iter().chain(before).cloned().collect();
        order.sort_by_key(|node| node.health.is_down());
        order
    }
}

fn block_info_call(hash: BlockHash) -> Call {
    Call::new("block_info", [("json_block", "true".into()), ("hash", hash.to_string().into())])
}

/// A node that says "not found" of what is not looked up by name.
fn nothing_said() -> LedgerError {
    LedgerError::Unreachable("no node gave an answer that fits the question".to_owned())
}

/// One error for what went wrong on every node.
fn sum_up(faults: &[(String, Fault)]) -> LedgerError {
    if !faults.is_empty() && faults.iter().all(|(_, fault)| matches!(fault, Fault::TimedOut)) {
        return LedgerError::TimedOut;
    }
    let said: Vec<_> = faults.iter().map(|(label, fault)| format!("{label}: {fault}")).collect();
    if faults.iter().any(|(_, fault)| matches!(fault, Fault::NotBelieved(_))) {
        LedgerError::NotBelieved(said.join("; "))
    } else {
        LedgerError::Unreachable(said.join("; "))
    }
}
