//! Forks: the block that arrived first loses to another ([nodes guide](crate::guide::nodes)).

use super::{BlockKind, BlockRefusal, Lattice, Now, UnreceivedSend};
use crate::nano::{BlockHash, StateBlock};

/// Why a block cannot take the place of another.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ForkError {
    #[error("no block on the ledger has the same account and predecessor")]
    NoRival,
    #[error("{0} has the same account and predecessor, and it is confirmed")]
    Confirmed(BlockHash),
    /// The rival was rolled back, and this block was refused.
    #[error(transparent)]
    Refused(#[from] BlockRefusal),
}

impl Lattice {
    /// Lets `block` win the election against the block with the same account and predecessor. The rival
    /// and everything that depends on it are rolled back; `block` is applied and confirmed.
    ///
    /// # Errors
    /// [`ForkError`]. Only [`ForkError::Refused`] leaves the ledger changed.
    pub fn replace(&mut self, block: StateBlock, now: Now) -> Result<BlockHash, ForkError> {
        let rival = if block.previous == BlockHash::ZERO {
            self.chain(block.account).map(|chain| chain.open)
        } else {
            self.entry(block.previous)
                .filter(|previous| previous.block.account == block.account)
                .and_then(|previous| previous.successor)
        };
        let rival = rival.filter(|&rival| rival != block.hash()).ok_or(ForkError::NoRival)?;
        if self.is_confirmed(rival) {
            return Err(ForkError::Confirmed(rival));
        }
        self.roll_back(rival);
        let hash = self.process(block, now)?;
        self.confirm_now(hash);
        Ok(hash)
    }

    /// Removes an unconfirmed block, after the blocks that depend on it.
    fn roll_back(&mut self, hash: BlockHash) {
        let mut doomed = vec![hash];
        while let Some(&top) = doomed.last() {
            let Some(&entry) = self.entry(top) else {
                doomed.pop();
                continue;
            };
            let received = (entry.kind == BlockKind::Send).then(|| self.received_by(top)).flatten();
            match entry.successor.or(received) {
                Some(dependent) => doomed.push(dependent),
                None => {
                    self.undo(top);
                    doomed.pop();
                }
            }
        }
    }

    /// Removes a block that no other depends on.
    fn undo(&mut self, hash: BlockHash) {
        let Some(entry) = self.blocks.remove(&hash) else { return };
        let (block, link) = (entry.block, BlockHash(entry.block.link));
        self.unschedule(hash);
        match entry.kind {
            BlockKind::Send => {
                self.receivable.remove(&(block.destination(), hash));
            }
            BlockKind::Receive => {
                self.received.remove(&link);
                if let Some(send) = self.blocks.get(&link) {
                    let receivable = UnreceivedSend { source: send.block.account, amount: entry.amount };
                    self.receivable.insert((block.account, link), receivable);
                }
            }
            BlockKind::Change => {}
        }
        if let Some(previous) = self.blocks.get_mut(&block.previous) {
            previous.successor = None;
            let previous = *previous;
            if let Some(chain) = self.chains.get_mut(&block.account) {
                chain.frontier = block.previous;
                chain.height = previous.height;
                chain.balance = previous.block.balance;
                chain.representative = previous.block.representative;
                chain.modified = previous.arrived;
            }
        } else {
            self.chains.remove(&block.account);
        }
    }
}
