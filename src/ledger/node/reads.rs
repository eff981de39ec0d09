//! Reading from nodes: one call, the next node, a rival for a slow one, all of them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Map, Value};

use super::transport::{Fault, Node};
use super::{NodeClient, NodeEvent, RpcEvent, answer};
use crate::clock::Stopwatch;
use crate::entropy;
use crate::ledger::LedgerError;
use crate::nano::BlockHash;

/// Once one node has answered what all are asked, how long the others are waited for.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// How often all nodes are gone through before a read gives up.
const ROUNDS: u32 = 2;
/// Between two rounds; as much again at most is added by chance, so that gateways that lost a node
/// together do not come back together.
const PAUSE_MILLIS: u64 = 30;

/// One call: the action and its fields.
#[derive(Clone)]
pub(super) struct Call {
    action: &'static str,
    fields: Vec<(&'static str, Value)>,
}

impl Call {
    pub(super) fn new<const N: usize>(action: &'static str, fields: [(&'static str, Value); N]) -> Self {
        Self { action, fields: fields.into() }
    }

    /// The same call with one field more.
    pub(super) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }

    /// How long the action may take, whatever a node's configured time; that can only be shorter.
    /// Work alone takes as long as it takes.
    fn patience(&self, node: &Node) -> Duration {
        let (least, most) = (Duration::from_secs, |seconds| node.timeout().min(Duration::from_secs(seconds)));
        match self.action {
            "work_generate" => least(30),
            // Asked again and again: a late answer is no better than the next.
            "blocks_info" | "block_count" | "telemetry" => most(2),
            "account_info" | "block_info" => most(5),
            _ => node.timeout(),
        }
    }

    /// Whether how it went says something about the node. Work takes as long as luck has it, and
    /// what a node tells of its peers is more than it owes.
    fn is_measure(&self) -> bool {
        !matches!(self.action, "work_generate" | "telemetry")
    }
}

pub(super) fn block_info_call(hash: BlockHash) -> Call {
    Call::new("block_info", [("json_block", "true".into()), ("hash", hash.to_string().into())])
}

/// A call for many blocks at once; the ones that the node does not have are left out.
pub(super) fn blocks_info_call(hashes: &[BlockHash]) -> Call {
    let hashes: Vec<Value> = hashes.iter().map(|hash| hash.to_string().into()).collect();
    Call::new(
        "blocks_info",
        [("json_block", "true".into()), ("include_not_found", "true".into()), ("hashes", hashes.into())],
    )
}

/// One node's answer, with the node.
type Answered<T> = (Arc<Node>, Result<Option<T>, Fault>);

/// What a round of questions has brought so far.
#[derive(Default)]
struct Heard {
    faults: Vec<(String, Fault)>,
    /// A node said that there is no such thing.
    absent: bool,
}

impl NodeClient {
    /// One call to one node, its answer read by `read`; its health and the observer learn how it
    /// went.
    pub(super) async fn call<T>(
        &self,
        node: &Node,
        call: &Call,
        read: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let watch = Stopwatch::start();
        let fields: Map<String, Value> =
            call.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let answer = node.ask(call.action, fields, call.patience(node)).await.and_then(|value| read(&value));
        let ok = answer.as_ref().err().is_none_or(Fault::is_answer);
        let elapsed = watch.elapsed();
        if ok {
            node.health.answered();
            node.health.pace.took(elapsed);
        } else if call.is_measure() {
            node.health.failed();
        }
        self.tell(NodeEvent::Called(RpcEvent { node: node.label(), action: call.action, elapsed, ok }));
        answer
    }

    pub(super) fn tell(&self, event: NodeEvent<'_>) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    /// As [`NodeClient::call`]; nothing where the node says that it does not know the thing.
    pub(super) async fn look_up<T>(
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
    pub(super) async fn find<T: Send>(
        &self,
        call: Call,
        read: fn(&Value) -> Result<T, Fault>,
    ) -> Result<Option<T>, LedgerError> {
        self.read(|node| {
            let (client, call) = (self.clone(), call.clone());
            async move { client.look_up(&node, &call, read).await }
        })
        .await
    }

    /// As [`NodeClient::find`], for what every node has.
    pub(super) async fn first<T: Send>(
        &self,
        call: Call,
        read: fn(&Value) -> Result<T, Fault>,
    ) -> Result<T, LedgerError> {
        self.find(call, read).await?.ok_or_else(nothing_said)
    }

    /// Asks one node after the other until one has the thing; a slow one gets a rival. Where none
    /// could be reached, all are tried once more.
    pub(super) async fn read<T, F>(&self, ask: impl Fn(Arc<Node>) -> F) -> Result<Option<T>, LedgerError>
    where
        F: Future<Output = Result<Option<T>, Fault>>,
    {
        let mut round = 1;
        loop {
            let mut heard = Heard::default();
            if let Some(found) = self.round(&ask, &mut heard).await {
                return Ok(Some(found));
            }
            if heard.absent {
                if !heard.faults.is_empty() {
                    let unasked = heard.faults.len();
                    tracing::debug!(unasked, "not found, though not every node could be asked");
                }
                return Ok(None);
            }
            let unreachable = |(_, fault): &(String, Fault)| matches!(fault, Fault::Unreachable(_));
            if round >= ROUNDS || heard.faults.is_empty() || !heard.faults.iter().all(unreachable) {
                return Err(sum_up(&heard.faults));
            }
            round = round.saturating_add(1);
            tokio::time::sleep(jittered(Duration::from_millis(PAUSE_MILLIS))).await;
        }
    }

    /// Goes through the nodes once.
    async fn round<T, F>(&self, ask: &impl Fn(Arc<Node>) -> F, heard: &mut Heard) -> Option<T>
    where
        F: Future<Output = Result<Option<T>, Fault>>,
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
                    if let Some(found) = heard.take(&node, answer) {
                        // Those that are given up have no answer to be measured by.
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
                    // Without a budget the others stay for when this one has failed.
                    let rival = if self.hedges.spend() { order.next() } else { None };
                    may_hedge = rival.is_some();
                    if let Some(rival) = rival {
                        self.tell(NodeEvent::Hedged { node: latest.0.label() });
                        running.push(start(Arc::clone(&rival)));
                        overtaken.push(std::mem::replace(&mut latest, (rival, Stopwatch::start())));
                    }
                }
                else => return None,
            }
        }
    }

    /// Asks every node that may be asked at once. Waits for all of them, for [`STRAGGLERS`] once
    /// one has answered.
    pub(super) async fn ask_all<T>(
        &self,
        call: &Call,
        read: fn(&Value) -> Result<T, Fault>,
    ) -> Vec<Answered<T>> {
        let mut running: FuturesUnordered<_> = self
            .in_order()
            .into_iter()
            .filter(|node| node.health.admit())
            .map(|node| async move {
                let answer = self.look_up(&node, call, read).await;
                (node, answer)
            })
            .collect();
        let mut answers = Vec::new();
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
                        if answer.is_ok() && answered.is_none() {
                            answered = Some(Stopwatch::start());
                        }
                        answers.push((node, answer));
                    }
                    None => return answers,
                },
                () = late => return answers,
            }
        }
    }

    /// The nodes that may be asked, in their order; those that are behind last.
    pub(super) fn in_order(&self) -> Vec<Arc<Node>> {
        let mut order: Vec<_> = self.nodes.iter().filter(|node| node.health.would_admit()).cloned().collect();
        order.sort_by_key(|node| node.health.is_behind());
        order
    }
}

impl Heard {
    /// The thing, if the node had it.
    fn take<T>(&mut self, node: &Node, answer: Result<Option<T>, Fault>) -> Option<T> {
        match answer {
            Ok(Some(found)) => return Some(found),
            Ok(None) => self.absent = true,
            Err(fault) => {
                if matches!(fault, Fault::NotBelieved(_) | Fault::Nonsense(_)) {
                    tracing::warn!(node = node.label(), %fault, "a node's answer is put aside");
                }
                self.faults.push((node.label().to_owned(), fault));
            }
        }
        None
    }
}

/// `pause`, and up to as much again.
pub(super) fn jittered(pause: Duration) -> Duration {
    // Without chance the pause is merely the same for all.
    let chance = entropy::bytes::<2>().map_or(0, u16::from_le_bytes);
    let part = pause.saturating_mul(u32::from(chance)).checked_div(u32::from(u16::MAX));
    pause.saturating_add(part.unwrap_or_default())
}

/// A node that says "not found" of what is not looked up by name.
pub(super) fn nothing_said() -> LedgerError {
    LedgerError::Unreachable("no node gave an answer that fits the question".to_owned())
}

/// One error for what went wrong on every node.
pub(super) fn sum_up(faults: &[(String, Fault)]) -> LedgerError {
    if faults.is_empty() {
        return LedgerError::Unreachable("every node rests after its failures".to_owned());
    }
    if faults.iter().all(|(_, fault)| matches!(fault, Fault::TimedOut)) {
        return LedgerError::TimedOut;
    }
    let said: Vec<_> = faults.iter().map(|(label, fault)| format!("{label}: {fault}")).collect();
    if faults.iter().any(|(_, fault)| matches!(fault, Fault::NotBelieved(_))) {
        LedgerError::NotBelieved(said.join("; "))
    } else {
        LedgerError::Unreachable(said.join("; "))
    }
}
