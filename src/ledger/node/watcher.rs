//! Waits for confirmations, polling all awaited blocks together.
//!
//! Each node has one ticker. It asks the node for all blocks that are due, in calls of up to
//! [`BATCH`] hashes, however many payments wait. Tickers run only while a block is awaited. A message
//! from a WebSocket is a hint to ask at once; while a WebSocket is subscribed, polling is rare.

mod awaited_block;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Notify, broadcast, watch};

use super::contents::check_contents;
use super::reads::{block_info_call, blocks_info_call, sum_up};
use super::transport::{Node, TransportFault};
use super::{BlockInfo, NodeClient, NodeEvent, answer};
use crate::clock::Stopwatch;
use crate::ledger::{LedgerError, Sighting};
use crate::nano::{Account, BlockHash, StateBlock};
use awaited_block::AwaitedBlock;

/// The most hashes in one call.
const BATCH: usize = 256;
/// The most concurrent calls to a node that refuses `blocks_info`, each for one block.
const SINGLES: usize = 16;

/// Interval between two polls of a block in its first second, unless configured.
const FIRST_TICK: Duration = Duration::from_millis(100);

/// Reported sends that receivers have not read yet. Beyond this number the oldest are dropped.
const HEARD: usize = 4096;

/// Blocks whose predecessor is remembered, so that one call asks for both.
const MAX_EXPECTED: usize = 1024;

/// Polls the nodes for every awaited block.
#[derive(Debug)]
pub(super) struct Watcher {
    client: NodeClient,
    tick: Duration,
    started: Stopwatch,
    /// Locked for one pass over the blocks, never across an await.
    state: Mutex<WatchedBlocks>,
    /// Wakes every ticker.
    woken: Notify,
    /// Sends that a WebSocket reported as confirmed, with their destination.
    sends: broadcast::Sender<(BlockHash, Account)>,
}

#[derive(Debug, Default)]
struct WatchedBlocks {
    waiting: BTreeMap<BlockHash, AwaitedBlock>,
    /// The nodes whose tickers run, by index.
    running: BTreeSet<usize>,
    /// Blocks that are likely to be awaited, each with its predecessor.
    expected: VecDeque<(BlockHash, BlockHash)>,
    /// How many WebSockets are subscribed.
    subscribed: usize,
}

/// The blocks that one node is to be asked for.
struct DueBlocks {
    hashes: Vec<BlockHash>,
    /// Their predecessors, which give the balance before them.
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

    fn state(&self) -> MutexGuard<'_, WatchedBlocks> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the predecessor of a block that is about to be awaited.
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

    /// Waits until a block is confirmed, for at most `wait`; then returns what was last seen of it.
    pub(super) async fn wait(
        self: Arc<Self>,
        hash: BlockHash,
        wait: Duration,
    ) -> Result<Sighting, LedgerError> {
        let mut result = self.join(hash);
        let _leave = LeaveOnDrop { watcher: &self, hash };
        for index in self.to_start() {
            let watcher = Arc::clone(&self);
            tokio::spawn(async move { watcher.ticker(index).await });
        }
        self.woken.notify_waiters();
        let confirmed = result.wait_for(|it| matches!(it, Ok(Sighting::Confirmed(_))));
        if let Ok(Ok(sighting)) = tokio::time::timeout(wait, confirmed).await {
            return sighting.clone();
        }
        result.borrow().clone()
    }

    fn join(&self, hash: BlockHash) -> watch::Receiver<Result<Sighting, LedgerError>> {
        let now = self.started.elapsed();
        let mut state = self.state();
        let previous = state.expected.iter().find(|(block, _)| *block == hash).map(|(_, it)| *it);
        let waiting = state.waiting.entry(hash).or_insert_with(|| AwaitedBlock::new(now, previous));
        waiting.waiters = waiting.waiters.saturating_add(1);
        waiting.result.subscribe()
    }

    /// The nodes whose tickers do not run. They are marked as running; the caller starts them.
    fn to_start(&self) -> Vec<usize> {
        let mut state = self.state();
        (0..self.client.nodes.len()).filter(|index| state.running.insert(*index)).collect()
    }

    /// A WebSocket reports that the block is confirmed. The block is polled at once if it is awaited.
    pub(super) fn hint(&self, hash: BlockHash) {
        let now = self.started.elapsed();
        let known = self.state().waiting.get_mut(&hash).map(|waiting| waiting.make_due(now, true));
        if known.is_some() {
            self.woken.notify_waiters();
        }
    }

    /// A WebSocket reports that this send to `destination` is confirmed.
    pub(super) fn report_send(&self, send: BlockHash, destination: Account) {
        // An error means that there is no receiver, which is fine.
        let _receivers = self.sends.send((send, destination));
    }

    /// The sends that are reported from now on.
    pub(super) fn sends(&self) -> broadcast::Receiver<(BlockHash, Account)> {
        self.sends.subscribe()
    }

    /// A WebSocket was subscribed or lost. Every awaited block becomes due, since a confirmation may
    /// have gone unreported in between.
    pub(super) fn set_subscribed(&self, subscribed: bool) {
        let now = self.started.elapsed();
        {
            let mut state = self.state();
            let change = if subscribed { usize::saturating_add } else { usize::saturating_sub };
            state.subscribed = change(state.subscribed, 1);
            for waiting in state.waiting.values_mut() {
                waiting.make_due(now, false);
            }
        }
        self.woken.notify_waiters();
    }

    /// Polls one node for the due blocks, as long as any block is awaited.
    async fn ticker(self: Arc<Self>, index: usize) {
        let Some(node) = self.client.nodes.get(index).cloned() else { return };
        loop {
            let woken = self.woken.notified();
            tokio::pin!(woken);
            // From here on no notification is missed, although the await comes later.
            woken.as_mut().enable();
            let due = {
                let mut state = self.state();
                if state.waiting.is_empty() {
                    state.running.remove(&index);
                    return;
                }
                self.due(&mut state, index)
            };
            if due.hashes.is_empty() {
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep(self.tick) => {}
                }
                continue;
            }
            self.poll(index, &node, due).await;
            // Blocks that become due during this pause are asked for together.
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(self.tick) => {}
            }
        }
    }

    /// Whether the node is one of those whose reports decide; `None` if it must not be asked.
    fn rank(&self, index: usize) -> Option<bool> {
        let nodes = &self.client.nodes;
        let node = nodes.get(index).filter(|node| node.health.would_admit())?;
        let may_confirm = |node: &&Arc<Node>| node.health.would_admit() && !node.health.is_behind();
        if node.health.is_behind() && nodes.iter().any(|it| may_confirm(&it)) {
            return None;
        }
        // Trusted nodes first, and no more nodes than a quorum needs.
        let mut order: Vec<&Arc<Node>> = nodes.iter().filter(may_confirm).collect();
        order.sort_by_key(|node| !node.is_trusted());
        let mut enough = 0_usize;
        while enough < order.len() && !self.client.is_quorum(order.iter().take(enough).copied()) {
            enough = enough.saturating_add(1);
        }
        Some(order.is_empty() || order.iter().take(enough).any(|it| Arc::ptr_eq(it, node)))
    }

    /// The blocks that this node is to be asked for now. They are marked as asked.
    fn due(&self, state: &mut WatchedBlocks, index: usize) -> DueBlocks {
        let now = self.started.elapsed();
        let mut due = DueBlocks { hashes: Vec::new(), previous: BTreeSet::new() };
        let Some(decides) = self.rank(index) else { return due };
        let quiet = state.subscribed > 0;
        for (hash, waiting) in &mut state.waiting {
            let pause = waiting.pause(now, self.tick, quiet, decides);
            let at = match waiting.asked.get(&index) {
                Some(asked) => asked.saturating_add(pause),
                None if decides => now,
                None => waiting.since.saturating_add(pause),
            };
            // A block may be asked for half a tick early, so that it joins the others in one call.
            if at > now.saturating_add(self.tick.checked_div(2).unwrap_or_default()) {
                continue;
            }
            waiting.asked.insert(index, now);
            due.hashes.push(*hash);
            if let (Some(previous), None) = (waiting.previous, waiting.before) {
                due.previous.insert(previous);
            }
        }
        due
    }

    /// Asks one node for blocks and their predecessors, and publishes the outcome to the waiters.
    async fn poll(&self, index: usize, node: &Arc<Node>, due: DueBlocks) {
        let asked = due.previous.iter().chain(&due.hashes).copied().collect::<BTreeSet<_>>();
        let asked: Vec<_> = asked.into_iter().collect();
        let mut found = BTreeMap::new();
        for batch in asked.chunks(BATCH) {
            if !self.ask(index, node, batch, &due, &mut found).await {
                return;
            }
        }
        let missing: Vec<_> = self.keep_contents(index, &due, &found).into_iter().collect();
        let mut previous = BTreeMap::new();
        for batch in missing.chunks(BATCH) {
            if !self.ask(index, node, batch, &due, &mut previous).await {
                return;
            }
        }
        found.append(&mut previous);
        self.decide(index, node, &due, &found);
    }

    /// Makes one call. Returns false if it failed; the waiters then have the error.
    async fn ask(
        &self,
        index: usize,
        node: &Arc<Node>,
        batch: &[BlockHash],
        due: &DueBlocks,
        found: &mut BTreeMap<BlockHash, BlockInfo>,
    ) -> bool {
        if !node.health.admit() {
            return false;
        }
        let call = blocks_info_call(batch);
        let answer = match self.client.call(node, &call, answer::blocks_info).await {
            // Some public nodes allow only certain calls, and `blocks_info` may not be among them.
            Err(TransportFault::Refused(_)) => self.ask_singly(node, batch).await,
            other => other,
        };
        match answer {
            Ok(mut blocks) => {
                found.append(&mut blocks);
                true
            }
            Err(fault) => {
                tracing::debug!(node = node.label(), %fault, blocks = batch.len(), "blocks could not be looked up");
                self.failed(index, node, &due.hashes, &fault);
                false
            }
        }
    }

    async fn ask_singly(
        &self,
        node: &Node,
        batch: &[BlockHash],
    ) -> Result<BTreeMap<BlockHash, BlockInfo>, TransportFault> {
        let look = |hash: BlockHash| async move {
            let info = self.client.look_up(node, &block_info_call(hash), answer::block_info).await?;
            Ok(info.map(|info| (hash, info)))
        };
        let looks = stream::iter(batch.iter().copied().map(look)).buffer_unordered(SINGLES);
        let found: Vec<_> = looks.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Publishes the error to those waiters that have seen nothing of their block yet.
    fn failed(&self, index: usize, node: &Node, hashes: &[BlockHash], fault: &TransportFault) {
        let error = sum_up(&[(node.label().to_owned(), fault.clone())]);
        let mut state = self.state();
        for hash in hashes {
            if let Some(waiting) = state.waiting.get_mut(hash) {
                waiting.reports.remove(&index);
                waiting.result.send_if_modified(|result| {
                    let nothing_seen = result.is_err();
                    if nothing_seen {
                        *result = Err(error.clone());
                    }
                    nothing_seen
                });
            }
        }
    }

    /// Keeps contents that hash to their block. Returns the predecessors that still have to be asked
    /// for.
    fn keep_contents(
        &self,
        index: usize,
        due: &DueBlocks,
        found: &BTreeMap<BlockHash, BlockInfo>,
    ) -> BTreeSet<BlockHash> {
        let mut missing = BTreeSet::new();
        let mut state = self.state();
        for hash in &due.hashes {
            let (Some(waiting), Some(info)) = (state.waiting.get_mut(hash), found.get(hash)) else {
                continue;
            };
            if check_contents(*hash, info).is_ok() {
                waiting.keep_contents(&info.contents);
            }
            // Every node that has the block is asked for its predecessor while the balance is not
            // known: a node that was not asked for it must not be taken for one that lacks it.
            if let (Some(previous), None) = (waiting.previous, waiting.before)
                && !found.contains_key(&previous)
            {
                missing.insert(previous);
            }
        }
        tracing::trace!(node = index, missing = missing.len(), "blocks looked up");
        missing
    }

    /// Records a node's report on each block, and publishes to the waiters what the reports mean.
    fn decide(
        &self,
        index: usize,
        node: &Arc<Node>,
        due: &DueBlocks,
        found: &BTreeMap<BlockHash, BlockInfo>,
    ) {
        let now = self.started.elapsed();
        let mut state = self.state();
        let (mut lies, mut odd) = (Vec::new(), Vec::new());
        for hash in &due.hashes {
            let Some(waiting) = state.waiting.get_mut(hash) else { continue };
            if let Err(fault) = waiting.record(index, *hash, found, now) {
                lies.push((*hash, fault));
                continue;
            }
            waiting.conclude(*hash, &self.client);
            odd.extend(waiting.odd_ones(&self.client, now));
        }
        drop(state);
        for (hash, fault) in lies {
            node.complain(&fault);
            node.health.trip();
            self.failed(index, node, &[hash], &fault);
        }
        for (odd, outvoted) in odd {
            tracing::warn!(
                node = odd.label(),
                outvoted,
                "a node calls a block confirmed that the others do not"
            );
            self.client.notify(NodeEvent::Disagreed { node: odd.label() });
            if outvoted {
                odd.health.trip();
            }
        }
    }
}

/// Ends one wait when it is dropped.
struct LeaveOnDrop<'a> {
    watcher: &'a Watcher,
    hash: BlockHash,
}

impl Drop for LeaveOnDrop<'_> {
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
