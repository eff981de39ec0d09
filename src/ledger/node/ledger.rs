//! The gateway's ledger, made of nodes that are not taken at their word.
//!
//! A block's contents count only if they hash to what was asked for, and its amount comes from two
//! such blocks. What a node could still lie about is whether a block is confirmed, and the balance
//! of a block from before state blocks, which carries none. "Confirmed" is therefore believed of a
//! trusted node, or of as many others as the quorum says.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::reads::sum_up;
use super::socket::Socket;
use super::transport::{Fault, Node};
use super::watcher::Watcher;
use super::{
    AccountInfo, BlockInfo, Contents, NodeClient, NodeStatus, ProcessError, SocketEndpoint, SocketStatus,
    Subtype, account_info_call, answer, block_info_call,
};
use crate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use crate::nano::{Account, BlockHash, Raw, StateBlock};
use crate::payment::{AccountFacts, BlockFacts};

/// The Nano network, seen through one or more nodes. Clones share connections, health and what is
/// waited for.
#[derive(Clone, Debug)]
pub struct NodeLedger {
    client: NodeClient,
    watcher: Arc<Watcher>,
    sockets: Arc<[Arc<Socket>]>,
}

impl NodeLedger {
    /// The ledger that `client`'s nodes know.
    #[must_use]
    pub fn new(client: NodeClient) -> Self {
        let watcher = Arc::new(Watcher::new(client.clone()));
        Self { client, watcher, sockets: Arc::new([]) }
    }

    /// This ledger, looking at a new block every `tick` at first; less often as time goes by.
    #[must_use]
    pub fn polling_every(self, tick: Duration) -> Self {
        let watcher = Arc::new(Watcher::new(self.client.clone()).with_tick(tick));
        Self { watcher, ..self }
    }

    /// This ledger, hearing of confirmations from these WebSockets once [`NodeLedger::listen`]
    /// runs.
    #[must_use]
    pub fn hearing(self, sockets: Vec<SocketEndpoint>) -> Self {
        let sockets = sockets.into_iter().map(|endpoint| Arc::new(Socket::new(endpoint))).collect();
        Self { sockets, ..self }
    }

    /// The client, for what is no question of payments.
    #[must_use]
    pub const fn client(&self) -> &NodeClient {
        &self.client
    }

    /// How each node is, in their order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.client.nodes()
    }

    /// How each WebSocket is, in their order.
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketStatus> {
        self.sockets.iter().map(|socket| socket.status()).collect()
    }

    /// Asks each node once whether it is there. Before the first probe or call, no node is up.
    pub async fn probe(&self) {
        self.client.probe().await;
    }

    /// Probes the nodes, at once and then with a pause of `every`, until `shutdown` says true or
    /// its sender is gone.
    pub async fn watch(self: Arc<Self>, every: Duration, mut shutdown: watch::Receiver<bool>) {
        let rounds = async {
            loop {
                self.probe().await;
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            () = rounds => {}
            // An error is the sender's end, and as good a reason to stop.
            _stop = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    /// Keeps the WebSockets subscribed to sends from and to `accounts`, until `shutdown` says true
    /// or its sender is gone. Returns at once where there is none.
    pub async fn listen(self: Arc<Self>, accounts: Arc<[Account]>, mut shutdown: watch::Receiver<bool>) {
        let mut running = tokio::task::JoinSet::new();
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

    /// Sends from and to the accounts of [`NodeLedger::listen`] as a WebSocket tells of their
    /// confirmation, and their destination: hints, to be looked up. Nothing is told where the
    /// accounts are too many to subscribe to by name; who listens late misses the oldest.
    #[must_use]
    pub fn sends_heard(&self) -> broadcast::Receiver<(BlockHash, Account)> {
        self.watcher.sends()
    }

    /// Whether this node's word, with that of others where it takes them, makes a block confirmed.
    async fn is_confirmed(&self, hash: BlockHash, by: &Arc<Node>) -> bool {
        if self.client.suffice(std::iter::once(by)) {
            return true;
        }
        let others = self.client.ask_all(&block_info_call(hash), answer::block_info).await;
        let agree = others
            .iter()
            .filter(|(_, answer)| matches!(answer, Ok(Some(info)) if info.confirmed))
            .map(|(node, _)| node);
        // Counted with itself: two of one provider have one voice.
        self.client.suffice(agree.chain(std::iter::once(by)))
    }

    /// The account as the nodes that are furthest along and believed show it.
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
        // One node that boasts of a height is not the last word on what others have not seen.
        let believed = answers.iter().find(|(_, info)| {
            let as_far = answers.iter().filter(|(_, other)| height(other) >= height(info));
            self.client.suffice(as_far.map(|(node, _)| node))
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

/// A block as one node shows it.
struct Seen {
    node: Arc<Node>,
    contents: Contents,
    /// The account's balance before it; nothing for a legacy block.
    before: Option<Raw>,
    confirmed: bool,
}

/// What one node shows of a block, held against the hashes.
async fn seen_by(client: &NodeClient, node: Arc<Node>, hash: BlockHash) -> Result<Option<Seen>, Fault> {
    let Some(info) = block_info(client, &node, hash).await? else { return Ok(None) };
    let before = match &info.contents {
        Contents::State(block) => {
            // Checked before anything is asked about what the contents name.
            believe(hash, block)?;
            Some(balance_after(client, &node, block.previous).await?)
        }
        Contents::Legacy(_) => None,
    };
    Ok(Some(Seen { node, contents: info.contents, before, confirmed: info.confirmed }))
}

/// The account's balance after `previous`, which is zero before its first block.
async fn balance_after(client: &NodeClient, node: &Node, previous: BlockHash) -> Result<Raw, Fault> {
    if previous == BlockHash::ZERO {
        return Ok(Raw::ZERO);
    }
    let info = block_info(client, node, previous)
        .await?
        .ok_or_else(|| Fault::NotBelieved(format!("it has a block and not the one before, {previous}")))?;
    balance_of(previous, &info)
}

/// The balance after a block, from contents that hash to it; a legacy block carries none, and the
/// node's word stands in.
pub(super) fn balance_of(hash: BlockHash, info: &BlockInfo) -> Result<Raw, Fault> {
    match &info.contents {
        Contents::State(block) => {
            believe(hash, block)?;
            Ok(block.balance)
        }
        Contents::Legacy(_) => Ok(info.balance),
    }
}

pub(super) fn believe(asked: BlockHash, block: &StateBlock) -> Result<(), Fault> {
    let came = block.hash();
    if came == asked {
        Ok(())
    } else {
        Err(Fault::NotBelieved(format!("asked for block {asked}, the contents that came hash to {came}")))
    }
}

async fn block_info(client: &NodeClient, node: &Node, hash: BlockHash) -> Result<Option<BlockInfo>, Fault> {
    client.look_up(node, &block_info_call(hash), answer::block_info).await
}

/// The facts of a block whose contents have been held against its hash.
pub(super) fn facts_of(
    hash: BlockHash,
    contents: &Contents,
    before: Option<Raw>,
    confirmed: bool,
) -> Result<BlockFacts, LedgerError> {
    match contents {
        Contents::Legacy(_) => Ok(BlockFacts::of_legacy_block(hash, confirmed)),
        Contents::State(block) => {
            BlockFacts::of_state_block(hash, block, before.unwrap_or(Raw::ZERO), confirmed)
                .map_err(|wrong| LedgerError::NotBelieved(wrong.to_string()))
        }
    }
}

impl Ledger for NodeLedger {
    async fn account(&self, account: Account) -> Result<Option<AccountFacts>, LedgerError> {
        Ok(self.newest(account).await?.as_ref().map(facts))
    }

    /// One node that shows the account at `previous` is enough: if it is behind, the block is
    /// refused or loses, and nothing is granted for it.
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
            async move { seen_by(&client, node, hash).await }
        };
        let Some(seen) = self.client.read(look).await? else { return Ok(None) };
        if let (Contents::State(block), false) = (&seen.contents, seen.confirmed) {
            // It is likely to be waited for next.
            self.watcher.expect(block);
        }
        let confirmed = seen.confirmed && self.is_confirmed(hash, &seen.node).await;
        facts_of(hash, &seen.contents, seen.before, confirmed).map(Some)
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
}
