//! `nanoTxn`, track A: the client signs a send and the gateway broadcasts it.
//!
//! [`check`] → [`Checked`] → [`Checked::judge`] → [`Approved`], in the order of the
//! [protocol guide](crate::guide::protocol), "Verification". If the gateway supplies work, a block
//! without it is [`Workless`] in between, so that work is made only for a block that passed all other
//! checks. The cashier does what comes after: journal, broadcast, confirmation.

use super::challenge::Challenge;
use super::intent::Intent;
use super::{AccountFacts, IdentifiedRequest, Refusal};
use crate::nano::{Account, BlockHash, StateBlock, Threshold, Work};
use crate::x402::{WorkPolicy, WorkTerms};

/// A well-formed, correctly signed payment to the right address. Making one needs no ledger.
#[derive(Clone, Debug)]
pub struct Checked {
    challenge: Challenge,
    block: StateBlock,
    hash: BlockHash,
    /// Whether its work is there and reaches the threshold.
    worked: bool,
}

/// The result of [`Checked::judge`].
#[derive(Debug)]
pub enum Judged {
    Approved(Approved),
    Workless(Workless),
}

/// A payment that the facts of the ledger allow, but whose block has no work.
#[derive(Debug)]
#[must_use = "a payment without work must be given work"]
pub struct Workless {
    intent: Intent,
    /// The input of the work.
    root: [u8; 32],
}

/// A payment that the facts of the ledger allow. It is not broadcast yet.
#[derive(Debug)]
#[must_use = "an approved payment must be journalled and broadcast"]
pub struct Approved {
    intent: Intent,
}

/// The checks that need no ledger: destination, signature, and work if the client must supply it.
///
/// # Errors
/// [`Refusal::WrongDestination`], [`Refusal::InvalidSignature`], [`Refusal::InvalidWork`].
pub fn check(challenge: Challenge, block: StateBlock, work: WorkTerms) -> Result<Checked, Refusal> {
    if block.destination() != challenge.offer().pay_to {
        return Err(Refusal::WrongDestination);
    }
    let hash = block.hash();
    block.verify().map_err(|_| Refusal::InvalidSignature)?;
    let worked = block.work.is_some_and(|it| it.reaches(&block.work_root(), work.threshold));
    if !worked && work.policy == WorkPolicy::Required {
        return Err(Refusal::InvalidWork);
    }
    Ok(Checked { challenge, block, hash, worked })
}

impl Checked {
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    #[must_use]
    pub const fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// The account whose facts [`Checked::judge`] needs.
    #[must_use]
    pub const fn payer(&self) -> Account {
        self.block.account
    }

    /// The block that this one builds on: the ledger accepts only one block on it.
    #[must_use]
    pub const fn previous(&self) -> BlockHash {
        self.block.previous
    }

    /// Compares the block with the state of its account: it must build on the confirmed frontier
    /// and move the price, to the raw. An account without a block has nothing to send.
    ///
    /// # Errors
    /// [`Refusal::StaleFrontier`], [`Refusal::InsufficientAmount`].
    pub fn judge(self, facts: Option<&AccountFacts>) -> Result<Judged, Refusal> {
        let facts = facts.ok_or(Refusal::StaleFrontier)?;
        let previous = self.block.previous;
        if previous != facts.frontier || previous != facts.confirmed_frontier {
            return Err(Refusal::StaleFrontier);
        }
        let amount = facts.confirmed_balance.checked_sub(self.block.balance);
        if amount != Some(self.challenge.offer().terms.amount) {
            return Err(Refusal::InsufficientAmount);
        }
        let (worked, block) = (self.worked, self.block);
        let intent = self.into_intent();
        Ok(if worked {
            Judged::Approved(Approved { intent })
        } else {
            Judged::Workless(Workless { intent, root: block.work_root() })
        })
    }

    /// The intent for the journal.
    fn into_intent(self) -> Intent {
        let amount = self.challenge.offer().terms.amount;
        Intent::new(&self.challenge, self.hash, Some(self.block), self.block.account, amount)
    }
}

impl Workless {
    /// The input of the work: the root of the block.
    #[must_use]
    pub const fn root(&self) -> [u8; 32] {
        self.root
    }

    /// The payment with `work` added. Work is not part of the hash of a block, so the payment is the
    /// same.
    ///
    /// # Errors
    /// [`Refusal::InvalidWork`], if `work` does not reach `threshold`.
    pub fn with(self, work: Work, threshold: Threshold) -> Result<Approved, Refusal> {
        if !work.reaches(&self.root, threshold) {
            return Err(Refusal::InvalidWork);
        }
        let signed = self.intent.signed.map(|block| StateBlock { work: Some(work), ..block });
        Ok(Approved { intent: Intent { signed, ..self.intent } })
    }
}

impl Approved {
    /// The same payment, with the id that the client gave.
    pub const fn under(mut self, identified: Option<IdentifiedRequest>) -> Self {
        self.intent.identified = identified;
        self
    }

    #[must_use]
    pub const fn intent(&self) -> &Intent {
        &self.intent
    }
}
