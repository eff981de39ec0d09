//! `nanoSignature`, track B: the client has sent on its own and signs the block's hash together
//! with the challenge.
//!
//! [`check`] → [`Checked`] → [`Checked::judge`] → [`Seen`], in the order of PROTOCOL section 4.

use super::challenge::Challenge;
use super::intent::{Confirmed, Intent};
use super::{BlockFacts, BlockKind, Identified, Refusal};
use crate::nano::{Account, BlockHash, Signature, noms_digest};

/// A claim to have paid, as the client makes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    pub block: BlockHash,
    pub account: Account,
    pub signature: Signature,
}

/// A claim signed by the account it names, for this challenge. Costs no question to the ledger.
#[derive(Clone, Debug)]
pub struct Checked {
    challenge: Challenge,
    claim: Claim,
}

/// A claim that the ledger bears out, in a block that may not be confirmed yet.
#[derive(Debug)]
#[must_use = "a payment that was seen is to be confirmed"]
pub struct Seen {
    intent: Intent,
    facts: BlockFacts,
}

/// What the client signs for `block` under `challenge`.
#[must_use]
pub fn message(block: BlockHash, challenge: &Challenge) -> String {
    let (nonce, valid_before) = (challenge.nonce().lower_hex(), challenge.offer().valid_before);
    format!("{}:{nonce}:{valid_before}", block.lower_hex())
}

/// The check that needs no ledger: the signature over hash, nonce and expiry.
///
/// # Errors
/// [`Refusal::InvalidSignature`].
pub fn check(challenge: Challenge, claim: Claim) -> Result<Checked, Refusal> {
    let digest = noms_digest(&message(claim.block, &challenge)).ok_or(Refusal::InvalidSignature)?;
    claim.signature.verify(&claim.account, &digest).map_err(|_| Refusal::InvalidSignature)?;
    Ok(Checked { challenge, claim })
}

impl Checked {
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.claim.block
    }

    #[must_use]
    pub const fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Who claims to have paid.
    #[must_use]
    pub const fn payer(&self) -> Account {
        self.claim.account
    }

    /// Holds the claim against the block: a send, by that account, to the challenge's address, of
    /// at least the price.
    ///
    /// # Errors
    /// [`Refusal::WrongBlockType`], [`Refusal::SenderMismatch`], [`Refusal::WrongDestination`],
    /// [`Refusal::InsufficientAmount`], in this order; [`Refusal::BlockNotFound`] for the facts of
    /// another block.
    pub fn judge(self, facts: BlockFacts) -> Result<Seen, Refusal> {
        if facts.hash() != self.claim.block {
            return Err(Refusal::BlockNotFound);
        }
        let BlockKind::Send { account, destination, amount } = facts.kind() else {
            return Err(Refusal::WrongBlockType);
        };
        if account != self.claim.account {
            return Err(Refusal::SenderMismatch);
        }
        if destination != self.challenge.offer().pay_to {
            return Err(Refusal::WrongDestination);
        }
        if amount < self.challenge.offer().terms.amount {
            return Err(Refusal::InsufficientAmount);
        }
        Ok(Seen { intent: Intent::new(&self.challenge, self.claim.block, None, account, amount), facts })
    }
}

impl Seen {
    /// The same payment, made under a client's id.
    pub const fn under(mut self, identified: Option<Identified>) -> Self {
        self.intent.identified = identified;
        self
    }

    #[must_use]
    pub const fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Whether the block was confirmed when it was looked up; where it was not, it is waited for.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        self.facts.confirmed()
    }

    /// The payment, if it was confirmed when looked up or `later`.
    ///
    /// # Errors
    /// [`Refusal::UnconfirmedBlock`]; the others of [`Checked::judge`] if `later` contradicts what
    /// was seen before.
    pub fn confirm(self, later: Option<&BlockFacts>) -> Result<Confirmed, Refusal> {
        let facts = later.copied().unwrap_or(self.facts);
        Confirmed::by_ledger(self.intent, &facts)
    }
}
