//! `nanoSignature`, track B: the client has sent on its own and signs the block's hash together
//! with the challenge.
//!
//! [`check`] → [`Checked`] → [`Checked::judge`] → [`Seen`], in the order of PROTOCOL section 4.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

use super::challenge::Challenge;
use super::intent::{Intent, Seen};
use super::{BlockFacts, BlockKind, Refusal};
use crate::nano::{Account, BlockHash, Signature, noms_digest};

/// A claim to have paid, as the client makes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SignatureEvidence {
    pub block: BlockHash,
    pub account: Account,
    pub signature: Signature,
}

/// A claim signed by the account it names, for this challenge. Costs no question to the ledger.
#[derive(Clone, Debug)]
pub struct Checked {
    challenge: Challenge,
    claim: SignatureEvidence,
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
pub fn check(challenge: Challenge, claim: SignatureEvidence) -> Result<Checked, Refusal> {
    let digest = noms_digest(&message(claim.block, &challenge)).ok_or(Refusal::InvalidSignature)?;
    claim.signature.verify(&claim.account, &digest).map_err(|_| Refusal::InvalidSignature)?;
    Ok(Checked { challenge, claim })
}

/// Whether a claim that is not signed for its challenge is signed as revision 7 of NanoSession has
/// it: the block's hash followed by the `url`, hashed plainly or as an ORIS-001 message. It is
/// refused either way, since it says nothing of a challenge and so would hold for ever; this is for
/// telling its sender.
#[must_use]
pub fn is_url_bound(claim: &SignatureEvidence, url: &str) -> bool {
    [claim.block.to_string(), claim.block.lower_hex()].into_iter().any(|hash| {
        let message = format!("{hash}{url}");
        let plain = Blake2b::<U32>::digest(&message).into();
        [Some(plain), noms_digest(&message)]
            .into_iter()
            .flatten()
            .any(|digest| claim.signature.verify(&claim.account, &digest).is_ok())
    })
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
        Ok(Seen::new(Intent::new(&self.challenge, self.claim.block, None, account, amount), facts))
    }
}
