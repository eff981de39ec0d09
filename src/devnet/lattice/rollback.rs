//! Forks: the block that was accepted first loses to another (NODE trap 3).

use super::{Kind, Lattice, Now, Receivable, Refusal};
use crate::nano::{BlockHash, StateBlock};

/// Why a block cannot take the place of another.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ForkError {
    /// No block on the ledger has the same account and predecessor.
    #[error("no block on the ledger has this one's account and predecessor")]
    NoRival,
    /// What is confirmed stays.
    #[error("{0} stands in the way and is confirmed")]
    Confirmed(BlockHash),
    /// The rival is gone, and this block is refused all the same.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Lattice {
    /// Lets `block` win the election against the block that has its account and predecessor: that
    /// one and all that stand on it are rolled back, `block` is applied and confirmed.
    ///
    /// # Errors
    /// [`ForkError`]. Nothing is changed, except on [`ForkError::Refused`].
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

    /// Takes an unconfirmed block off the ledger, and before it all that stand on it, whose
    /// confirmation would have needed its own.
    fn roll_back(&mut self, hash: BlockHash) {
        let mut doomed = vec![hash];
        while let Some(&top) = doomed.last() {
            let Some(&entry) = self.entry(top) else {
                doomed.pop();
                continue;
            };
            let received = (entry.kind == Kind::Send).then(|| self.received_by(top)).flatten();
            match entry.successor.or(received) {
                Some(dependent) => doomed.push(dependent),
                None => {
                    self.undo(top);
                    doomed.pop();
                }
            }
        }
    }

    /// Takes off a block that nothing stands on.
    fn undo(&mut self, hash: BlockHash) {
        let Some(entry) = self.blocks.remove(&hash) else { return };
        let (block, link) = (entry.block, BlockHash(entry.block.link));
        self.unschedule(hash);
        match entry.kind {
            Kind::Send => {
                self.receivable.remove(&(block.destination(), hash));
            }
            Kind::Receive => {
                self.received.remove(&link);
                if let Some(send) = self.blocks.get(&link) {
                    let receivable = Receivable { source: send.block.account, amount: entry.amount };
                    self.receivable.insert((block.account, link), receivable);
                }
            }
            Kind::Change => {}
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
