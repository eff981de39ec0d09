//! `nanoSignature`, track B: the client sends by itself, then signs the hash of the block together with
//! the challenge.
//!
//! [`check`] → [`Checked`] → [`Checked::judge`] → [`Seen`], in the order of the
//! [protocol guide](crate::guide::protocol), "Verification".

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

use super::challenge::Challenge;
use super::intent::{Intent, Seen};
use super::{BlockFacts, BlockKind, Refusal};
use crate::nano::{Account, BlockHash, Signature, noms_digest};

/// What a client presents as its payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SignatureEvidence {
    pub block: BlockHash,
    pub account: Account,
    pub signature: Signature,
}

/// Evidence that its account signed for this challenge. Making one needs no ledger.
#[derive(Clone, Debug)]
pub struct Checked {
    challenge: Challenge,
    evidence: SignatureEvidence,
}

/// The message that the client signs for `block` and `challenge`.
#[must_use]
pub fn message(block: BlockHash, challenge: &Challenge) -> String {
    let (nonce, valid_before) = (challenge.nonce().lower_hex(), challenge.offer().valid_before);
    format!("{}:{nonce}:{valid_before}", block.lower_hex())
}

/// The check that needs no ledger: the signature over hash, nonce and expiry.
///
/// # Errors
/// [`Refusal::InvalidSignature`].
pub fn check(challenge: Challenge, evidence: SignatureEvidence) -> Result<Checked, Refusal> {
    let digest = noms_digest(&message(evidence.block, &challenge)).ok_or(Refusal::InvalidSignature)?;
    evidence.signature.verify(&evidence.account, &digest).map_err(|_| Refusal::InvalidSignature)?;
    Ok(Checked { challenge, evidence })
}

/// Whether the signature is one of NanoSession revision 7: over the hash of the block followed by the
/// `url`, hashed directly or as an ORIS-001 message. Such a signature is refused, because it names no
/// challenge and so would be valid for ever. This function serves the message to its sender.
#[must_use]
pub fn is_url_bound(evidence: &SignatureEvidence, url: &str) -> bool {
    [evidence.block.to_string(), evidence.block.lower_hex()].into_iter().any(|hash| {
        let message = format!("{hash}{url}");
        let plain = Blake2b::<U32>::digest(&message).into();
        [Some(plain), noms_digest(&message)]
            .into_iter()
            .flatten()
            .any(|digest| evidence.signature.verify(&evidence.account, &digest).is_ok())
    })
}

impl Checked {
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.evidence.block
    }

    #[must_use]
    pub const fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Checks the block: a send by that account to the address of the challenge, of at least the price.
    ///
    /// # Errors
    /// [`Refusal::WrongBlockType`], [`Refusal::SenderMismatch`], [`Refusal::WrongDestination`],
    /// [`Refusal::InsufficientAmount`], in this order; [`Refusal::BlockNotFound`] for the facts of
    /// another block.
    pub fn judge(self, facts: BlockFacts) -> Result<Seen, Refusal> {
        if facts.hash() != self.evidence.block {
            return Err(Refusal::BlockNotFound);
        }
        let BlockKind::Send { account, destination, amount } = facts.kind() else {
            return Err(Refusal::WrongBlockType);
        };
        if account != self.evidence.account {
            return Err(Refusal::SenderMismatch);
        }
        if destination != self.challenge.offer().pay_to {
            return Err(Refusal::WrongDestination);
        }
        if amount < self.challenge.offer().terms.amount {
            return Err(Refusal::InsufficientAmount);
        }
        Ok(Seen::new(Intent::new(&self.challenge, self.evidence.block, None, account, amount), facts))
    }
}
