//! The gateway's ledger: nodes whose answers are checked.
//!
//! A block's contents count only if they hash to the block that was asked for, and its amount comes
//! from two such blocks. A node can still lie about two things: whether a block is confirmed, and
//! whether a block is a legacy one, with which balance after it. Both are therefore accepted from a
//! trusted node, or from as many other nodes as the quorum requires.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::contents::{BalanceAfter, balance_of, check_contents, check_hash, facts_of, without_previous};
use super::reads::sum_up;
use super::socket::Socket;
use super::transport::{Node, TransportFault};
use super::watcher::Watcher;
use super::{
    AccountInfo, BlockInfo, Contents, NodeClient, NodeStatus, ProcessError, SocketEndpoint, SocketStatus,
    Subtype, account_info_call, answer, block_info_call,
};
use crate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use crate::nano::{Account, BlockHash, Raw, StateBlock};
use crate::payment::{AccountFacts, BlockFacts};

/// The Nano network, seen through one or more nodes. Clones share connections, node health and the
/// blocks that are waited for.
#[derive(Clone, Debug)]
pub struct NodeLedger {
    client: NodeClient,
    watcher: Arc<Watcher>,
    sockets: Arc<[Arc<Socket>]>,
}

impl NodeLedger {
    /// The ledger as `client`'s nodes show it.
    #[must_use]
    pub fn new(client: NodeClient) -> Self {
        let watcher = Arc::new(Watcher::new(client.clone()));
        Self { client, watcher, sockets: Arc::new([]) }
    }

    /// Makes the ledger poll a new block every `tick` at first, and less often as time goes by.
    #[must_use]
    pub fn polling_every(self, tick: Duration) -> Self {
        let watcher = Arc::new(Watcher::new(self.client.clone()).with_tick(tick));
        Self { watcher, ..self }
    }

    /// Makes the ledger take confirmations from these WebSockets while [`NodeLedger::listen`] runs.
    #[must_use]
    pub fn hearing(self, sockets: Vec<SocketEndpoint>) -> Self {
        let sockets = sockets.into_iter().map(|endpoint| Arc::new(Socket::new(endpoint))).collect();
        Self { sockets, ..self }
    }

    /// The client, for calls that decide no payment.
    #[must_use]
    pub const fn client(&self) -> &NodeClient {
        &self.client
    }

    /// The status of each node, in configured order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.client.nodes()
    }

    /// The status of each WebSocket, in configured order.
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketStatus> {
        self.sockets.iter().map(|socket| socket.status()).collect()
    }

    /// Asks each node once whether it answers. Before the first probe or call, no node is up.
    pub async fn probe(&self) {
        self.client.probe().await;
    }

    /// Probes the nodes at once and then every `every`, until `shutdown` turns true or its sender is
    /// dropped. A probe waits for no earlier one: while that hangs, the node, or another, may be back. Each ends by the
    /// node's timeout, so their number is bounded.
    pub async fn watch(self: Arc<Self>, every: Duration, mut shutdown: watch::Receiver<bool>) {
        let rounds = async {
            let (mut under_way, mut ticks) = (JoinSet::new(), tokio::time::interval(every));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        let ledger = Arc::clone(&self);
                        drop(under_way.spawn(async move { ledger.probe().await }));
                    }
                    Some(_) = under_way.join_next() => {}
                }
            }
        };
        tokio::select! {
            () = rounds => {}
            // An error means that the sender was dropped, which is also a reason to stop.
            _stop = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    /// Keeps the WebSockets subscribed to sends from and to `accounts`, until `shutdown` turns true or
    /// its sender is dropped. Returns at once if there is no WebSocket.
    pub async fn listen(self: Arc<Self>, accounts: Arc<[Account]>, mut shutdown: watch::Receiver<bool>) {
        let mut running = JoinSet::new();
        for socket in self.sockets.iter() {
            let (socket, watcher) = (Arc::clone(socket), Arc::clone(&self.watcher));
            let accounts = Arc::clone(&accounts);
            running.spawn(async move { socket.run(&watcher, &accounts).await });
        }
        tokio::select! {
            () = async { while running.join_next().await.is_some() {} } => {}
            _stop = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    /// Sends from and to the accounts of [`NodeLedger::listen`] with their destination, as a WebSocket
    /// reports their confirmation. They are hints and have to be looked up. Nothing is reported if the
    /// accounts are too many to subscribe to by name, and a slow receiver misses the oldest.
    #[must_use]
    pub fn sends_heard(&self) -> broadcast::Receiver<(BlockHash, Account)> {
        self.watcher.sends()
    }

    /// Whether a block that the node `by` calls confirmed is confirmed: other nodes are asked if this
    /// one alone is not enough.
    async fn is_confirmed(&self, hash: BlockHash, by: &Arc<Node>) -> bool {
        if self.client.is_quorum(std::iter::once(by)) {
            return true;
        }
        let others = self.client.ask_all(&block_info_call(hash), answer::block_info).await;
        let agree = others
            .iter()
            .filter(|(_, answer)| matches!(answer, Ok(Some(info)) if info.confirmed))
            .map(|(node, _)| node);
        self.client.is_quorum(agree.chain(std::iter::once(by)))
    }

    /// The block `hash` as a node shows it that proves it is a state block, if `seen` was a legacy block by
    /// the word of too few nodes.
    async fn proven_or(&self, hash: BlockHash, seen: ShownBlock) -> Result<ShownBlock, LedgerError> {
        let is_proven = matches!(seen.contents, Contents::State(_));
        if is_proven || self.client.is_quorum(std::iter::once(&seen.node)) {
            return Ok(seen);
        }
        let answers = self.client.ask_all(&block_info_call(hash), answer::block_info).await;
        let proves = |info: &BlockInfo| {
            matches!(info.contents, Contents::State(_)) && check_contents(hash, info).is_ok()
        };
        for (node, answer) in answers {
            if matches!(&answer, Ok(Some(info)) if proves(info)) {
                let shown = shown_by(&self.client, Arc::clone(&node), hash).await;
                let shown = shown.map_err(|fault| sum_up(&[(node.label().to_owned(), fault)]))?;
                return Ok(shown.unwrap_or(seen));
            }
        }
        Ok(seen)
    }

    /// The balance before the block that `seen` is, in raw; `None` for a legacy block.
    ///
    /// # Errors
    /// The block before is a legacy block, so that only nodes can say the balance, and too few say the same.
    async fn balance_before(&self, seen: &ShownBlock) -> Result<Option<Raw>, LedgerError> {
        let (Contents::State(block), Some(before)) = (&seen.contents, seen.before) else { return Ok(None) };
        let claimed = match before {
            BalanceAfter::Proven(balance) => return Ok(Some(balance)),
            BalanceAfter::Claimed(balance) => balance,
        };
        if self.client.is_quorum(std::iter::once(&seen.node)) {
            return Ok(Some(claimed));
        }
        let answers = self.client.ask_all(&block_info_call(block.previous), answer::block_info).await;
        let balance = |info: &BlockInfo| balance_of(block.previous, info).ok();
        let mut agreeing = vec![Arc::clone(&seen.node)];
        for (node, answer) in answers {
            match answer.ok().flatten().as_ref().and_then(balance) {
                Some(BalanceAfter::Proven(balance)) => return Ok(Some(balance)),
                Some(BalanceAfter::Claimed(balance)) if balance == claimed => agreeing.push(node),
                Some(BalanceAfter::Claimed(_)) | None => {}
            }
        }
        if self.client.is_quorum(agreeing.iter()) {
            return Ok(Some(claimed));
        }
        let why =
            format!("the balance after the legacy block {} is the word of too few nodes", block.previous);
        Err(LedgerError::NotBelieved(why))
    }

    /// The account as shown by those nodes that are furthest along and form a quorum.
    async fn newest(&self, account: Account) -> Result<Option<AccountInfo>, LedgerError> {
        let call = account_info_call(account);
        let mut answers = Vec::new();
        let mut faults = Vec::new();
        for (node, answer) in self.client.ask_all(&call, answer::account_info).await {
            match answer {
                Ok(info) => answers.push((node, info)),
                Err(fault) => faults.push((node.label().to_owned(), fault)),
            }
        }
        let height = |info: &Option<AccountInfo>| info.and_then(|info| info.confirmed_height).unwrap_or(0);
        answers.sort_by_key(|(_, info)| Reverse(height(info)));
        // A height that only one node claims is not accepted unless that node alone is a quorum.
        let believed = answers.iter().find(|(_, info)| {
            let as_far = answers.iter().filter(|(_, other)| height(other) >= height(info));
            self.client.is_quorum(as_far.map(|(node, _)| node))
        });
        match believed {
            Some((_, info)) => Ok(*info),
            None if answers.is_empty() => Err(sum_up(&faults)),
            None => Err(LedgerError::Unreachable("too few nodes answered to be believed".to_owned())),
        }
    }
}

fn facts(info: &AccountInfo) -> AccountFacts {
    AccountFacts {
        frontier: info.frontier,
        confirmed_frontier: info.confirmed_frontier,
        confirmed_balance: info.confirmed_balance,
    }
}

/// A block as one node shows it, its contents checked against its hash.
struct ShownBlock {
    node: Arc<Node>,
    contents: Contents,
    /// The account's balance before it; `None` for a legacy block.
    before: Option<BalanceAfter>,
    confirmed: bool,
}

/// Asks one node for a block and checks the answer; `None` if the node does not know the block.
async fn shown_by(
    client: &NodeClient,
    node: Arc<Node>,
    hash: BlockHash,
) -> Result<Option<ShownBlock>, TransportFault> {
    let Some(info) = block_info(client, &node, hash).await? else { return Ok(None) };
    let before = match &info.contents {
        Contents::State(block) => {
            // Checked first, so that no call is made for a block that false contents name.
            check_hash(hash, block)?;
            Some(balance_after(client, &node, block.previous).await?)
        }
        Contents::Legacy(_) => None,
    };
    Ok(Some(ShownBlock { node, contents: info.contents, before, confirmed: info.confirmed }))
}

/// The account's balance after `previous`, in raw; zero if the account has no block before.
async fn balance_after(
    client: &NodeClient,
    node: &Node,
    previous: BlockHash,
) -> Result<BalanceAfter, TransportFault> {
    if previous == BlockHash::ZERO {
        return Ok(BalanceAfter::Proven(Raw::ZERO));
    }
    let info = block_info(client, node, previous).await?.ok_or_else(|| without_previous(previous))?;
    balance_of(previous, &info)
}

async fn block_info(
    client: &NodeClient,
    node: &Node,
    hash: BlockHash,
) -> Result<Option<BlockInfo>, TransportFault> {
    client.look_up(node, &block_info_call(hash), answer::block_info).await
}

impl Ledger for NodeLedger {
    async fn account(&self, account: Account) -> Result<Option<AccountFacts>, LedgerError> {
        Ok(self.newest(account).await?.as_ref().map(facts))
    }

    /// One node that shows `previous` as the frontier is enough. If it is behind, the block will be
    /// refused or lose to a fork, and nothing is granted for it.
    async fn account_at(
        &self,
        account: Account,
        previous: BlockHash,
    ) -> Result<Option<AccountFacts>, LedgerError> {
        let found = self.client.account_info(account).await?.as_ref().map(facts);
        let fits = |facts: AccountFacts| facts.frontier == previous && facts.confirmed_frontier == previous;
        if self.client.nodes.len() == 1 || found.is_some_and(fits) {
            return Ok(found);
        }
        self.account(account).await
    }

    async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, LedgerError> {
        let look = |node: Arc<Node>| {
            let client = self.client.clone();
            async move { shown_by(&client, node, hash).await }
        };
        let Some(seen) = self.client.read(look).await? else { return Ok(None) };
        let seen = self.proven_or(hash, seen).await?;
        if let (Contents::State(block), false) = (&seen.contents, seen.confirmed) {
            // The caller is likely to wait for it next.
            self.watcher.expect(block);
        }
        let before = self.balance_before(&seen).await?;
        let confirmed = seen.confirmed && self.is_confirmed(hash, &seen.node).await;
        facts_of(hash, &seen.contents, before, confirmed).map(Some)
    }

    async fn successor(&self, hash: BlockHash) -> Result<Option<BlockHash>, LedgerError> {
        Ok(self.client.block_info(hash).await?.and_then(|info| info.successor))
    }

    async fn publish_send(&self, block: &StateBlock) -> Result<(), PublishError> {
        self.watcher.expect(block);
        self.client.process(block, Subtype::Send).await.map_err(|error| match error {
            ProcessError::Refused(text) => PublishError::Refused(text),
            ProcessError::NoAnswer(error) => PublishError::Unknown(error),
        })
    }

    async fn await_confirmation(&self, hash: BlockHash, wait: Duration) -> Result<Sighting, LedgerError> {
        Arc::clone(&self.watcher).wait(hash, wait).await
    }

    fn is_healthy(&self) -> bool {
        self.client.is_healthy()
    }

    fn pace(&self) -> Duration {
        self.client.pace()
    }
}
