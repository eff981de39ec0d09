//! The gateway's ledger, made of nodes that are not taken at their word.
//!
//! A block's contents count only if they hash to what was asked for, and its amount comes from two
//! such blocks. What a node could still lie about is whether a block is confirmed, and the balance
//! of a block from before state blocks, which carries none.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::transport::{Fault, Node};
use super::{BlockInfo, Contents, NodeClient, NodeStatus, ProcessError, Subtype, answer, block_info_call};
use crate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use crate::nano::{Account, BlockHash, Raw, StateBlock};
use crate::payment::{AccountFacts, BlockFacts};

/// The first pause between two looks at a block, half again as long after each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The Nano network, seen through one or more nodes. Clones share connections and health.
#[derive(Clone, Debug)]
pub struct NodeLedger {
    client: NodeClient,
}

impl NodeLedger {
    /// The ledger that `client`'s nodes know.
    #[must_use]
    pub const fn new(client: NodeClient) -> Self {
        Self { client }
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

    /// As [`Ledger::block`]; `before` is the balance before the block, where an earlier look has
    /// found it. It cannot change: the hash covers it.
    async fn look(
        &self,
        hash: BlockHash,
        before: Option<Raw>,
        turn: usize,
    ) -> Result<Option<Seen>, LedgerError> {
        self.client
            .read(turn, |node| {
                let client = self.client.clone();
                async move { seen_by(&client, &node, hash, before).await }
            })
            .await
    }

    /// As [`Ledger::await_confirmation`], for a block of one's own: the balance `before` it is known
    /// and the block before it need not be asked for.
    ///
    /// # Errors
    /// [`LedgerError`], when no look worked.
    pub async fn await_own(
        &self,
        hash: BlockHash,
        before: Raw,
        wait: Duration,
    ) -> Result<Sighting, LedgerError> {
        self.await_with(hash, Some(before), wait).await
    }

    async fn await_with(
        &self,
        hash: BlockHash,
        before: Option<Raw>,
        wait: Duration,
    ) -> Result<Sighting, LedgerError> {
        let mut last = Err(LedgerError::TimedOut);
        match tokio::time::timeout(wait, self.look_until_confirmed(hash, before, &mut last)).await {
            Ok(facts) => Ok(Sighting::Confirmed(facts)),
            Err(_elapsed) => last,
        }
    }

    /// Looks until the block is confirmed; `last` keeps what the latest look that worked has shown.
    async fn look_until_confirmed(
        &self,
        hash: BlockHash,
        mut before: Option<Raw>,
        last: &mut Result<Sighting, LedgerError>,
    ) -> BlockFacts {
        let mut pause = FIRST_PAUSE;
        let mut turn = 0_usize;
        loop {
            match self.look(hash, before, turn).await {
                Ok(Some(seen)) if seen.facts.confirmed() => return seen.facts,
                Ok(Some(seen)) => {
                    before = seen.before;
                    *last = Ok(Sighting::Unconfirmed(seen.facts));
                }
                Ok(None) => *last = Ok(Sighting::Unknown),
                Err(error) => {
                    tracing::debug!(block = %hash, %error, "a look at a block failed");
                    if last.is_err() {
                        *last = Err(error);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(3).checked_div(2).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
            turn = turn.wrapping_add(1);
        }
    }
}

/// A block's facts, and the balance they were made with.
struct Seen {
    facts: BlockFacts,
    before: Option<Raw>,
}

/// What one node shows of a block, held against the hashes.
async fn seen_by(
    client: &NodeClient,
    node: &Node,
    hash: BlockHash,
    before: Option<Raw>,
) -> Result<Option<Seen>, Fault> {
    let Some(info) = block_info(client, node, hash).await? else { return Ok(None) };
    let block = match &info.contents {
        Contents::State(block) => block,
        Contents::Legacy(_) => {
            let facts = BlockFacts::of_legacy_block(hash, info.confirmed);
            return Ok(Some(Seen { facts, before: None }));
        }
    };
    // Checked before anything is asked about what the contents name.
    believe(hash, block)?;
    let before = match before {
        Some(before) => before,
        None => balance_after(client, node, block.previous).await?,
    };
    let facts = BlockFacts::of_state_block(hash, block, before, info.confirmed)
        .map_err(|wrong| Fault::NotBelieved(wrong.to_string()))?;
    Ok(Some(Seen { facts, before: Some(before) }))
}

/// The account's balance after `previous`, which is zero before its first block.
async fn balance_after(client: &NodeClient, node: &Node, previous: BlockHash) -> Result<Raw, Fault> {
    if previous == BlockHash::ZERO {
        return Ok(Raw::ZERO);
    }
    let info = block_info(client, node, previous)
        .await?
        .ok_or_else(|| Fault::NotBelieved(format!("it has a block and not the one before, {previous}")))?;
    match &info.contents {
        Contents::State(block) => {
            believe(previous, block)?;
            Ok(block.balance)
        }
        Contents::Legacy(_) => Ok(info.balance),
    }
}

fn believe(asked: BlockHash, block: &StateBlock) -> Result<(), Fault> {
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

impl Ledger for NodeLedger {
    async fn account(&self, account: Account) -> Result<Option<AccountFacts>, LedgerError> {
        let info = self.client.account_info(account).await?;
        Ok(info.map(|info| AccountFacts {
            frontier: info.frontier,
            confirmed_frontier: info.confirmed_frontier,
            confirmed_balance: info.confirmed_balance,
        }))
    }

    async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, LedgerError> {
        Ok(self.look(hash, None, 0).await?.map(|seen| seen.facts))
    }

    async fn successor(&self, hash: BlockHash) -> Result<Option<BlockHash>, LedgerError> {
        Ok(self.client.block_info(hash).await?.and_then(|info| info.successor))
    }

    async fn publish_send(&self, block: &StateBlock) -> Result<(), PublishError> {
        self.client.process(block, Subtype::Send).await.map_err(|error| match error {
            ProcessError::Refused(text) => PublishError::Refused(text),
            ProcessError::NoAnswer(error) => PublishError::Unknown(error),
        })
    }

    async fn await_confirmation(&self, hash: BlockHash, wait: Duration) -> Result<Sighting, LedgerError> {
        self.await_with(hash, None, wait).await
    }

    fn is_healthy(&self) -> bool {
        self.client.is_healthy()
    }
}
