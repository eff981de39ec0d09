//! Checks a block's contents against its hash.
//!
//! What a node says about a block proves nothing. Contents that hash to the block that was asked for
//! do: they give the account, the destination and the balance.

use super::transport::TransportFault;
use super::{BlockInfo, Contents};
use crate::ledger::LedgerError;
use crate::nano::{BlockHash, Raw, StateBlock};
use crate::payment::BlockFacts;

/// Checks that a block that a node sent is the block that was asked for.
pub(super) fn check_hash(asked: BlockHash, block: &StateBlock) -> Result<(), TransportFault> {
    let came = block.hash();
    if came == asked {
        Ok(())
    } else {
        let text = format!("asked for block {asked}, the contents that came hash to {came}");
        Err(TransportFault::NotBelieved(text))
    }
}

/// Checks the contents of `info` against `hash`. A legacy block's contents are not read, so they
/// cannot be checked; such a block is never a payment.
pub(super) fn check_contents(hash: BlockHash, info: &BlockInfo) -> Result<(), TransportFault> {
    match &info.contents {
        Contents::State(block) => check_hash(hash, block),
        Contents::Legacy(_) => Ok(()),
    }
}

/// An account's balance after a block, in raw.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum BalanceAfter {
    /// The block contains it, and has the hash that was asked for.
    Proven(Raw),
    /// A node says so, and that the block is from before state blocks. It is believed if a quorum says so.
    Claimed(Raw),
}

/// The account's balance after a block: from the block itself if it is a state block, else as the node
/// reports it.
pub(super) fn balance_of(hash: BlockHash, info: &BlockInfo) -> Result<BalanceAfter, TransportFault> {
    match &info.contents {
        Contents::State(block) => check_hash(hash, block).map(|()| BalanceAfter::Proven(block.balance)),
        Contents::Legacy(_) => Ok(BalanceAfter::Claimed(info.balance)),
    }
}

/// The fault of a node that has a block but not its predecessor.
pub(super) fn without_previous(previous: BlockHash) -> TransportFault {
    TransportFault::NotBelieved(format!("it has a block and not the one before, {previous}"))
}

/// The facts about a block whose contents were checked against its hash; `before` is the account's
/// balance before it.
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
