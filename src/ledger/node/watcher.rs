//! Waiting for confirmations: every block that is waited for, looked at together.
//!
//! One ticker for each node asks for all blocks that are due in calls of up to [`BATCH`] hashes,
//! however many payments wait. Tickers run while something is waited for. A WebSocket's message is
//! a hint to look at once; while one is connected, the looks in between are few.

mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Notify, broadcast, watch};

use super::reads::{block_info_call, blocks_info_call, sum_up};
use super::transport::{Fault, Node};
use super::{BlockInfo, Contents, NodeClient, NodeEvent, answer};
use crate::clock::Stopwatch;
use crate::ledger::{LedgerError, Sighting};
use crate::nano::{Account, BlockHash, Raw, StateBlock};
use waiting::{Waiting, honest};

/// Hashes in one call.
const BATCH: usize = 256;
/// A node that does not take `blocks_info` is asked for so many blocks at a time, each by itself.
const SINGLES: usize = 16;

/// Between two looks at a block in its first second, unless configured.
const FIRST_TICK: Duration = Duration::from_millis(100);

/// Sends that were heard of and that nobody has taken note of yet; of more, the oldest are forgotten.
const HEARD: usize = 4096;

/// Blocks whose predecessor is remembered, so that both are asked for in one call.
const MAX_EXPECTED: usize = 1024;

/// Everything that is waited for.
#[derive(Debug)]
pub(super) struct Watcher {
    client: NodeClient,
    tick: Duration,
    started: Stopwatch,
    /// Held for a pass over what is due, never across an await.
    state: Mutex<State>,
    /// Tells every ticker that something is to be looked at.
    woken: Notify,
    /// Sends that a WebSocket said are confirmed, and to whom.
    sends: broadcast::Sender<(BlockHash, Account)>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<BlockHash, Waiting>,
    /// Which nodes' tickers run.
    running: BTreeSet<usize>,
    expected: VecDeque<(BlockHash, BlockHash)>,
    /// WebSockets that are subscribed.
    hearing: usize,
}

/// What one call is about.
struct Question {
    hashes: Vec<BlockHash>,
    /// Blocks before those, for their balance.
    previous: BTreeSet<BlockHash>,
}

impl Watcher {
    pub(super) fn new(client: NodeClient) -> Self {
        Self {
            client,
            tick: FIRST_TICK,
            started: Stopwatch::start(),
            state: Mutex::default(),
            woken: Notify::new(),
            sends: broadcast::Sender::new(HEARD),
        }
    }

    pub(super) fn with_tick(self, tick: Duration) -> Self {
        Self { tick, ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a block builds on that is broadcast or was seen.
    pub(super) fn expect(&self, block: &StateBlock) {
        let pair = (block.hash(), block.previous);
        let mut state = self.state();
        if !state.expected.contains(&pair) {
            if state.expected.len() >= MAX_EXPECTED {
                state.expected.pop_front();
            }
            state.expected.push_back(pair);
        }
    }

    /// Waits for a block, at most `wait`; gives what was seen last.
    pub(super) async fn wait(
        self: Arc<Self>,
        hash: BlockHash,
        wait: Duration,
    ) -> Result<Sighting, LedgerError> {
        let mut told = self.join(hash);
        let _leave = Leave { watcher: &self, hash };
        for index in self.to_start() {
            let watcher = Arc::clone(&self);
            tokio::spawn(async move { watcher.ticker(index).await });
        }
        self.woken.notify_waiters();
        let confirmed = told.wait_for(|it| matches!(it, Ok(Sighting::Confirmed(_))));
        if let Ok(Ok(sighting)) = tokio::time::timeout(wait, confirmed).await {
            return sighting.clone();
        }
        told.borrow().clone()
    }

    fn join(&self, hash: BlockHash) -> watch::Receiver<Result<Sighting, LedgerError>> {
        let now = self.started.elapsed();
        let mut state = self.state();
        let previous = state.expected.iter().find(|(block, _)| *block == hash).map(|(_, it)| *it);
        let waiting = state.waiting.entry(hash).or_insert_with(|| Waiting::new(now, previous));
        waiting.waiters = waiting.waiters.saturating_add(1);
        waiting.told.subscribe()
    }

    /// The nodes whose tickers do not run; they are taken to run from here on.
    fn to_start(&self) -> Vec<usize> {
        let mut state = self.state();
        (0..self.client.nodes.len()).filter(|index| state.running.insert(*index)).collect()
    }

    /// A WebSocket says that the block is confirmed. It is looked at, if it is waited for.
    pub(super) fn hint(&self, hash: BlockHash) {
        let now = self.started.elapsed();
        let known = self.state().waiting.get_mut(&hash).map(|waiting| waiting.look_anew(now, true));
        if known.is_some() {
            self.woken.notify_waiters();
        }
    }

    /// A WebSocket says that this send to `destination` is confirmed.
    pub(super) fn heard(&self, send: BlockHash, destination: Account) {
        // Without anybody who listens there is nobody to tell.
        let _listeners = self.sends.send((send, destination));
    }

    /// What is heard from here on.
    pub(super) fn sends(&self) -> broadcast::Receiver<(BlockHash, Account)> {
        self.sends.subscribe()
    }

    /// A WebSocket is subscribed, or was lost: what it did not tell in between is looked for.
    pub(super) fn hearing(&self, subscribed: bool) {
        let now = self.started.elapsed();
        {
            let mut state = self.state();
            state.hearing =
                if subscribed { state.hearing.saturating_add(1) } else { state.hearing.saturating_sub(1) };
            for waiting in state.waiting.values_mut() {
                waiting.look_anew(now, false);
            }
        }
        self.woken.notify_waiters();
    }

    /// Looks at what is due with one node, for as long as something is waited for.
    async fn ticker(self: Arc<Self>, index: usize) {
        let Some(node) = self.client.nodes.get(index).cloned() else { return };
        loop {
            let woken = self.woken.notified();
            tokio::pin!(woken);
            // Told from here on, whatever happens before it is waited for.
            woken.as_mut().enable();
            let question = {
                let mut state = self.state();
                if state.waiting.is_empty() {
                    state.running.remove(&index);
                    return;
                }
                self.due(&mut state, index)
            };
            if question.hashes.is_empty() {
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep(self.tick) => {}
                }
                continue;
            }
            self.look(index, &node, question).await;
            // What comes meanwhile is asked for together.
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(self.tick) => {}
            }
        }
    }

    /// Whether the node is among those whose word decides, nothing where it is not to be asked.
    fn rank(&self, index: usize) -> Option<bool> {
        let nodes = &self.client.nodes;
        let node = nodes.get(index).filter(|node| node.health.would_admit())?;
        let may_confirm = |node: &&Arc<Node>| node.health.would_admit() && !node.health.is_behind();
        if node.health.is_behind() && nodes.iter().any(|it| may_confirm(&it)) {
            return None;
        }
        // Those that are trusted first; no more than it takes.
        let mut order: Vec<&Arc<Node>> = nodes.iter().filter(may_confirm).collect();
        order.sort_by_key(|node| !node.is_trusted());
        let mut enough = 0_usize;
        while enough < order.len() && !self.client.suffice(order.iter().take(enough).copied()) {
            enough = enough.saturating_add(1);
        }
        Some(order.is_empty() || order.iter().take(enough).any(|it| Arc::ptr_eq(it, node)))
    }

    /// The blocks that this node is to be asked for, marked as asked.
    fn due(&self, state: &mut State, index: usize) -> Question {
        let now = self.started.elapsed();
        let mut question = Question { hashes: Vec::new(), previous: BTreeSet::new() };
        let Some(decides) = self.rank(index) else { return question };
        let quiet = state.hearing > 0;
        for (hash, waiting) in &mut state.waiting {
            let pause = waiting.pause(now, self.tick, quiet, decides);
            let at = match waiting.asked.get(&index) {
                Some(asked) => asked.saturating_add(pause),
                None if decides => now,
                None => waiting.since.saturating_add(pause),
            };
            // Half a tick early rather than a whole one late: what is due together goes together.
            if at > now.saturating_add(self.tick.checked_div(2).unwrap_or_default()) {
                continue;
            }
            waiting.asked.insert(index, now);
            question.hashes.push(*hash);
            if let (Some(previous), None) = (waiting.previous, waiting.before) {
                question.previous.insert(previous);
            }
        }
        question
    }

    /// Asks one node for blocks and for the ones before them, and tells those who wait.
    async fn look(&self, index: usize, node: &Arc<Node>, question: Question) {
        let asked = question.previous.iter().chain(&question.hashes).copied().collect::<BTreeSet<_>>();
        let asked: Vec<_> = asked.into_iter().collect();
        let mut found = BTreeMap::new();
        for batch in asked.chunks(BATCH) {
            if !self.ask(index, node, batch, &question, &mut found).await {
                return;
            }
        }
        let missing: Vec<_> = self.take(index, &question, &found).into_iter().collect();
        let mut previous = BTreeMap::new();
        for batch in missing.chunks(BATCH) {
            if !self.ask(index, node, batch, &question, &mut previous).await {
                return;
            }
        }
        found.append(&mut previous);
        self.decide(index, node, &question, &found);
    }

    /// One call; false where it failed, which those who wait are told.
    async fn ask(
        &self,
        index: usize,
        node: &Arc<Node>,
        batch: &[BlockHash],
        question: &Question,
        found: &mut BTreeMap<BlockHash, BlockInfo>,
    ) -> bool {
        if !node.health.admit() {
            return false;
        }
        let call = blocks_info_call(batch);
        let answer = match self.client.call(node, &call, answer::blocks_info).await {
            // Some nodes are fronted by a list of calls that are let through.
            Err(Fault::Refused(_)) => self.ask_singly(node, batch).await,
            other => other,
        };
        match answer {
            Ok(mut blocks) => {
                found.append(&mut blocks);
                true
            }
            Err(fault) => {
                tracing::debug!(node = node.label(), %fault, blocks = batch.len(), "a look at blocks failed");
                self.failed(index, node, &question.hashes, &fault);
                false
            }
        }
    }

    async fn ask_singly(
        &self,
        node: &Node,
        batch: &[BlockHash],
    ) -> Result<BTreeMap<BlockHash, BlockInfo>, Fault> {
        let look = |hash: BlockHash| async move {
            let info = self.client.look_up(node, &block_info_call(hash), answer::block_info).await?;
            Ok(info.map(|info| (hash, info)))
        };
        let looks = stream::iter(batch.iter().copied().map(look)).buffer_unordered(SINGLES);
        let found: Vec<_> = looks.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Those who have seen nothing yet learn what went wrong.
    fn failed(&self, index: usize, node: &Node, hashes: &[BlockHash], fault: &Fault) {
        let error = sum_up(&[(node.label().to_owned(), fault.clone())]);
        let mut state = self.state();
        for hash in hashes {
            if let Some(waiting) = state.waiting.get_mut(hash) {
                waiting.words.remove(&index);
                waiting.told.send_if_modified(|told| {
                    let nothing_seen = told.is_err();
                    if nothing_seen {
                        *told = Err(error.clone());
                    }
                    nothing_seen
                });
            }
        }
    }

    /// Notes contents that hash to their block. Gives the blocks before, where they are unknown.
    fn take(
        &self,
        index: usize,
        question: &Question,
        found: &BTreeMap<BlockHash, BlockInfo>,
    ) -> BTreeSet<BlockHash> {
        let mut missing = BTreeSet::new();
        let mut state = self.state();
        for hash in &question.hashes {
            let (Some(waiting), Some(info)) = (state.waiting.get_mut(hash), found.get(hash)) else {
                continue;
            };
            if waiting.contents.is_some() || !matches!(honest(*hash, info), Ok(())) {
                continue;
            }
            waiting.contents = Some(info.contents.clone());
            if let Contents::State(block) = &info.contents {
                waiting.previous = Some(block.previous);
                if block.previous == BlockHash::ZERO {
                    waiting.before = Some(Raw::ZERO);
                } else if waiting.before.is_none() && !found.contains_key(&block.previous) {
                    missing.insert(block.previous);
                }
            }
        }
        tracing::trace!(node = index, missing = missing.len(), "blocks looked at");
        missing
    }

    /// Takes a node's word for each block, and tells those who wait what it comes to.
    fn decide(
        &self,
        index: usize,
        node: &Arc<Node>,
        question: &Question,
        found: &BTreeMap<BlockHash, BlockInfo>,
    ) {
        let now = self.started.elapsed();
        let mut state = self.state();
        let (mut lies, mut odd) = (Vec::new(), Vec::new());
        for hash in &question.hashes {
            let Some(waiting) = state.waiting.get_mut(hash) else { continue };
            if let Err(fault) = waiting.hear(index, *hash, found, now) {
                lies.push((*hash, fault));
                continue;
            }
            waiting.conclude(*hash, &self.client);
            odd.extend(waiting.odd_ones(&self.client, now));
        }
        drop(state);
        for (hash, fault) in lies {
            tracing::warn!(node = node.label(), %fault, "a node's answer is put aside");
            node.health.trip();
            self.failed(index, node, &[hash], &fault);
        }
        for (odd, outvoted) in odd {
            tracing::warn!(node = odd.label(), outvoted, "a node calls confirmed what the others do not");
            self.client.tell(NodeEvent::Disagreed { node: odd.label() });
            if outvoted {
                odd.health.trip();
            }
        }
    }
}

/// Ends one wait, however it ended.
struct Leave<'a> {
    watcher: &'a Watcher,
    hash: BlockHash,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.watcher.state();
        if let Some(waiting) = state.waiting.get_mut(&self.hash) {
            waiting.waiters = waiting.waiters.saturating_sub(1);
            if waiting.waiters == 0 {
                state.waiting.remove(&self.hash);
                state.expected.retain(|(block, _)| *block != self.hash);
            }
        }
    }
}
