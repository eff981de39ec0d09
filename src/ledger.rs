//! The port through which the Nano network is asked and told things.

pub mod node;
pub mod work;

use std::future::Future;
use std::time::Duration;

use crate::nano::{Account, BlockHash, NotProven, StateBlock};
use crate::payment::{AccountFacts, BlockFacts};

/// The network gave no answer that can be used. It says nothing about any payment: not yet is not
/// no.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LedgerError {
    /// No node answered within its time.
    #[error("no node answered in time")]
    TimedOut,
    /// No node could be reached, or each answered with what is not an answer.
    #[error("no node could be asked: {0}")]
    Unreachable(String),
    /// A node answered what cannot be true.
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

/// What came of broadcasting a block. Neither variant says whether the block is on the ledger: a
/// refused one may be known already or be applied later (NODE traps 1 and 2), and an accepted one
/// may lose to a fork (trap 3). Only [`Ledger::block`] tells.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PublishError {
    /// Every node that answered refused it; the reason is for people, not for branching on.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer came back, so nothing is known.
    #[error(transparent)]
    Unknown(#[from] LedgerError),
}

/// What a wait for confirmation ended with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sighting {
    /// The block is cemented.
    Confirmed(BlockFacts),
    /// The ledger has the block, not cemented when the wait was over.
    Unconfirmed(BlockFacts),
    /// No node knew the block when the wait was over.
    Unknown,
}

/// The network's ledger.
pub trait Ledger: Send + Sync + 'static {
    /// The account's state, or nothing where it has no block yet.
    fn account(
        &self,
        account: Account,
    ) -> impl Future<Output = Result<Option<AccountFacts>, LedgerError>> + Send;

    /// As [`Ledger::account`], for a block that builds on `previous`: an answer that shows the
    /// account elsewhere is not taken from one node alone, which may be behind. For a ledger with
    /// one view there is no other to ask.
    fn account_at(
        &self,
        account: Account,
        _previous: BlockHash,
    ) -> impl Future<Output = Result<Option<AccountFacts>, LedgerError>> + Send {
        self.account(account)
    }

    /// The block, or nothing where no node knows it.
    fn block(&self, hash: BlockHash) -> impl Future<Output = Result<Option<BlockFacts>, LedgerError>> + Send;

    /// The block that follows `hash` on its account's chain, confirmed or not; nothing where none
    /// does or no node knows `hash`.
    fn successor(
        &self,
        hash: BlockHash,
    ) -> impl Future<Output = Result<Option<BlockHash>, LedgerError>> + Send;

    /// Broadcasts a send (`process` with `subtype` `send`). Repeating it is harmless.
    fn publish_send(&self, block: &StateBlock) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Waits, at most `wait`, until the block is confirmed. A block that is unknown at first is
    /// waited for too.
    fn await_confirmation(
        &self,
        hash: BlockHash,
        wait: Duration,
    ) -> impl Future<Output = Result<Sighting, LedgerError>> + Send;

    /// Whether some node answered lately. While none does, nothing is sold.
    fn is_healthy(&self) -> bool;
}
