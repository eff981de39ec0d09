//! `nanoSession`, NanoSession's revisions 5 to 7: the client sends an amount that tells its payment
//! from others and shows the block's hash under the session it was sent.
//!
//! [`check`] → [`Checked`] → [`Checked::judge`] → [`Seen`], in the order of PROTOCOL section 4.
//!
//! A session is a challenge like the others; what its amount adds to the price is in [`tag`](super::tag).

use super::challenge::Challenge;
use super::intent::{Intent, Seen};
use super::{BlockFacts, BlockKind, Refusal};
use crate::nano::{BlockHash, Raw};

/// A claim to have paid, as the client makes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionEvidence {
    pub block: BlockHash,
    /// What the client says it was asked for; nothing where it echoed no entry.
    pub asked: Option<Raw>,
}

/// A claim under a session that this gateway made. Costs no question to the ledger.
#[derive(Clone, Debug)]
pub struct Checked {
    challenge: Challenge,
    block: BlockHash,
}

/// Why a block does not pay for a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unfit {
    Refused(Refusal),
    /// [`Refusal::InsufficientAmount`]: more or less than was asked for, in raw.
    Amount {
        came: Raw,
        asked: Raw,
    },
}

/// The check that needs no ledger: that an echoed entry asks for what it asked for when it was sent.
///
/// # Errors
/// [`Refusal::ChallengeUnknown`].
pub fn check(challenge: Challenge, claim: SessionEvidence) -> Result<Checked, Refusal> {
    match claim.asked {
        Some(asked) if asked != challenge.due() => Err(Refusal::ChallengeUnknown),
        Some(_) | None => Ok(Checked { challenge, block: claim.block }),
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

    /// Holds the claim against the block: a send to the session's address of its amount, to the raw.
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
