//! `nanoSession`, NanoSession's revisions 5 to 7: the client sends an amount that tells its payment
//! from others and shows the block's hash under the session it was sent.
//!
//! [`check`] → [`Checked`] → [`Checked::judge`] → [`Seen`], in the order of PROTOCOL section 4.
//!
//! A session is a challenge like the others, known by its MAC and remembered by nobody, so that it
//! holds for every instance with the key and over a restart, and none can be filled up. Its amount
//! is the price and a tag, which is a hash of the identifier: 64 bits, at most 2·10^-11 XNO. Two
//! sessions on one address ask for the same amount with a chance of 2^-64, whoever mints them: a
//! million active on one address have any two alike with 3·10^-8. A registry could rule that out and
//! would be worse: finite, to be filled by whoever asks for bills, and one for each instance.
//!
//! Two alike are no harm between honest payers, for a payment is known by its block and not by its
//! amount. They are what a thief needs, who sees the block on the ledger and never the session that
//! it was sent for: he has to hold a session of the same address, route and amount. With 10^9 of
//! his own on that one address against a thousand blocks that are not redeemed yet, that is 5·10^-8.

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use super::challenge::Challenge;
use super::intent::{Intent, Seen};
use super::{BlockFacts, BlockKind, Nonce, Refusal};
use crate::nano::{BlockHash, Raw};

/// For how long after its end a session is still redeemed, in seconds. Others who come late sign
/// their block anew for a fresh challenge; a block with a tag fits no session but its own, and
/// refused it would be lost. Revision 5 (section 4.3) would refuse it; what is at stake is only that
/// a price of up to an hour ago is still taken.
pub const GRACE: u64 = 3600;

/// A claim to have paid, as the client makes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
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

/// What the session named by `nonce` asks for beside the price.
#[must_use]
pub fn tag_amount(nonce: Nonce) -> Raw {
    let mut hash = Blake2b::<U8>::new();
    // The identifier cannot be found from the tag, which the whole world sees.
    hash.update(b"faregate nanoSession tag");
    hash.update(nonce.0);
    Raw::new(u128::from(u64::from_be_bytes(hash.finalize().into())))
}

/// What is to be sent for `price` in the session named by `nonce`. No price that can be paid is so
/// high that the two do not add up.
#[must_use]
pub fn due(nonce: Nonce, price: Raw) -> Raw {
    price.checked_add(tag_amount(nonce)).unwrap_or(Raw::MAX)
}

/// The check that needs no ledger: that an echoed entry asks for what it asked for when it was sent.
///
/// # Errors
/// [`Refusal::ChallengeUnknown`].
pub fn check(challenge: Challenge, claim: Claim) -> Result<Checked, Refusal> {
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
