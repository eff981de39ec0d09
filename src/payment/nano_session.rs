//! `nanoSession`, NanoSession's revisions 5 to 7: the client sends an amount that identifies its
//! payment, then presents the hash of the block with its session.
//!
//! [`check`] → [`Checked`] → [`Checked::judge`] → [`Seen`], in the order of the
//! [protocol guide](crate::guide::protocol), "Verification". A session is a challenge like the others;
//! [`tag`](super::tag) is what its amount adds to the price.

use super::challenge::Challenge;
use super::intent::{Intent, Seen};
use super::{BlockFacts, BlockKind, Refusal};
use crate::nano::{BlockHash, Raw};

/// What a client presents as its payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionEvidence {
    pub block: BlockHash,
    /// The amount in the entry that the client sent back; `None` if it sent none.
    pub asked: Option<Raw>,
}

/// Evidence for a session of this gateway. Making one needs no ledger.
#[derive(Clone, Debug)]
pub struct Checked {
    challenge: Challenge,
    block: BlockHash,
}

/// Why a block does not pay for a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unfit {
    Refused(Refusal),
    /// [`Refusal::InsufficientAmount`]: more or less than the amount of the session, in raw.
    Amount {
        came: Raw,
        asked: Raw,
    },
}

/// The check that needs no ledger: an entry that was sent back has its original amount.
///
/// # Errors
/// [`Refusal::ChallengeUnknown`].
pub fn check(challenge: Challenge, evidence: SessionEvidence) -> Result<Checked, Refusal> {
    match evidence.asked {
        Some(asked) if asked != challenge.due() => Err(Refusal::ChallengeUnknown),
        Some(_) | None => Ok(Checked { challenge, block: evidence.block }),
    }
}

impl Checked {
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.block
    }

    #[must_use]
    pub const fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Checks the block: a send to the address of the session, of exactly its amount.
    ///
    /// # Errors
    /// [`Refusal::WrongBlockType`], [`Refusal::WrongDestination`], [`Unfit::Amount`], in this order;
    /// [`Refusal::BlockNotFound`] for the facts of another block.
    pub fn judge(self, facts: BlockFacts) -> Result<Seen, Unfit> {
        if facts.hash() != self.block {
            return Err(Unfit::Refused(Refusal::BlockNotFound));
        }
        let BlockKind::Send { account, destination, amount } = facts.kind() else {
            return Err(Unfit::Refused(Refusal::WrongBlockType));
        };
        if destination != self.challenge.offer().pay_to {
            return Err(Unfit::Refused(Refusal::WrongDestination));
        }
        let asked = self.challenge.due();
        if amount != asked {
            return Err(Unfit::Amount { came: amount, asked });
        }
        Ok(Seen::new(Intent::new(&self.challenge, self.block, None, account, amount), facts))
    }
}
