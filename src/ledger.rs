//! The interface to the Nano network: what the gateway reads from the ledger and publishes to it.

pub mod node;
pub mod work;

use std::future::Future;
use std::time::Duration;

use crate::nano::{Account, BlockHash, NotProven, StateBlock};
use crate::payment::{AccountFacts, BlockFacts};

/// No usable answer came from the network. This says nothing about any payment: "not yet" is not
/// "no".
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LedgerError {
    /// No node answered in time.
    #[error("no node answered in time")]
    TimedOut,
    /// No node could be reached, or none gave an answer that a node gives.
    #[error("no node could be asked: {0}")]
    Unreachable(String),
    /// A node's answer cannot be true.
    #[error("a node's answer is not believed: {0}")]
    NotBelieved(String),
    /// A block has no state, so that its balance cannot be proven.
    #[error("block {0} is from before state blocks: move the money with another wallet first")]
    Legacy(BlockHash),
}

impl From<NotProven> for LedgerError {
    fn from(why: NotProven) -> Self {
        Self::NotBelieved(why.to_string())
    }
}

/// Why a broadcast did not succeed. Neither variant says whether the block is on the ledger. A
/// refused block may be known already or be applied later, and an accepted block may lose to a
/// fork; only [`Ledger::block`] shows which (see the [nodes guide](crate::guide::nodes)).
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PublishError {
    /// Every node that answered refused the block. The reason is for people; no code branches on it.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer came back, so the outcome is not known.
    #[error(transparent)]
    Unknown(#[from] LedgerError),
}

/// How a wait for confirmation ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sighting {
    /// The block is cemented.
    Confirmed(BlockFacts),
    /// The ledger had the block, but it was not cemented when the wait ended.
    Unconfirmed(BlockFacts),
    /// No node knew the block when the wait ended.
    Unknown,
}

/// The network's ledger.
pub trait Ledger: Send + Sync + 'static {
    /// The account's state; `None` if it has no block yet.
    fn account(
        &self,
        account: Account,
    ) -> impl Future<Output = Result<Option<AccountFacts>, LedgerError>> + Send;

    /// Like [`Ledger::account`], for a block that builds on `previous`. An answer that shows another
    /// frontier is not accepted from one node alone, because that node may be behind. A ledger with
    /// a single view has no other node to ask.
    fn account_at(
        &self,
        account: Account,
        _previous: BlockHash,
    ) -> impl Future<Output = Result<Option<AccountFacts>, LedgerError>> + Send {
        self.account(account)
    }

    /// The block; `None` if no node knows it.
    fn block(&self, hash: BlockHash) -> impl Future<Output = Result<Option<BlockFacts>, LedgerError>> + Send;

    /// The block that follows `hash` on its account's chain, confirmed or not; `None` if there is no
    /// such block or no node knows `hash`.
    fn successor(
        &self,
        hash: BlockHash,
    ) -> impl Future<Output = Result<Option<BlockHash>, LedgerError>> + Send;

    /// Broadcasts a send (`process` with `subtype` `send`). It is safe to repeat.
    fn publish_send(&self, block: &StateBlock) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Waits until the block is confirmed, for at most `wait`. The block may be unknown at first.
    fn await_confirmation(
        &self,
        hash: BlockHash,
        wait: Duration,
    ) -> impl Future<Output = Result<Sighting, LedgerError>> + Send;

    /// Whether enough nodes answered recently. While they do not, the gateway sells nothing.
    fn is_healthy(&self) -> bool;

    /// How long a call to it takes at present. Whoever waits for something to show on the ledger waits for several of
    /// these.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}
