//! A proof of payment as the client presents it, and its cheap checks.

use super::flights::Passage;
use crate::nano::{Account, BlockHash, StateBlock, Thresholds};
use crate::payment::challenge::{Challenge, Offer};
use crate::payment::{Mechanism, Nonce, Refusal, nano_signature, nano_txn};
use crate::routes::{Grants, RouteName, Terms};
use crate::x402;

/// What a client claims: that it was made this offer under this nonce, and paid.
#[derive(Clone, Debug)]
pub struct Proof {
    pub nonce: Nonce,
    pub offer: Offer,
    pub evidence: Evidence,
}

/// How it shows that it paid; agrees with the offer's mechanism.
#[derive(Clone, Debug)]
pub enum Evidence {
    Txn(StateBlock),
    Signature(nano_signature::Claim),
}

impl Proof {
    /// The payment's identity.
    #[must_use]
    pub fn block(&self) -> BlockHash {
        self.evidence.block()
    }
}

impl From<x402::Payment> for Proof {
    /// Takes the claim out of its envelope, which has held the shape of the proof against the echoed
    /// entry.
    fn from(payment: x402::Payment) -> Self {
        let x402::Payment { accepted, proof } = payment;
        let extra = accepted.extra;
        let grants = Grants { requests: extra.grants.requests, seconds: extra.grants.seconds };
        let (mechanism, evidence) = match proof {
            x402::Proof::NanoTxn { block } => (Mechanism::NanoTxn, Evidence::Txn(block)),
            x402::Proof::NanoSignature { block_hash, account, signature } => {
                let claim = nano_signature::Claim { block: block_hash, account, signature };
                (Mechanism::NanoSignature, Evidence::Signature(claim))
            }
        };
        let offer = Offer {
            mechanism,
            route: RouteName::new(&extra.route),
            terms: Terms { amount: accepted.amount, grants },
            pay_to: accepted.pay_to,
            valid_before: extra.valid_before,
        };
        Self { nonce: Nonce(extra.challenge), offer, evidence }
    }
}

/// A proof that passed every check that needs no ledger.
#[derive(Clone, Debug)]
pub(super) enum Checked {
    Txn(nano_txn::Checked),
    Signature(nano_signature::Checked),
}

impl Evidence {
    pub(super) fn block(&self) -> BlockHash {
        match self {
            Self::Txn(block) => block.hash(),
            Self::Signature(claim) => claim.block,
        }
    }

    pub(super) fn check(self, challenge: Challenge, thresholds: &Thresholds) -> Result<Checked, Refusal> {
        match self {
            Self::Txn(block) => nano_txn::check(challenge, block, thresholds.send).map(Checked::Txn),
            Self::Signature(claim) => nano_signature::check(challenge, claim).map(Checked::Signature),
        }
    }
}

impl Checked {
    pub(super) const fn hash(&self) -> BlockHash {
        match self {
            Self::Txn(checked) => checked.hash(),
            Self::Signature(checked) => checked.hash(),
        }
    }

    /// Whose signature it carries.
    pub(super) const fn payer(&self) -> Account {
        match self {
            Self::Txn(checked) => checked.payer(),
            Self::Signature(checked) => checked.payer(),
        }
    }

    /// What is to be settled.
    pub(super) const fn passage(&self) -> Passage {
        let frontier = match self {
            Self::Txn(checked) => Some(checked.frontier()),
            Self::Signature(_) => None,
        };
        Passage { block: self.hash(), nonce: self.challenge().nonce(), frontier }
    }

    pub(super) const fn challenge(&self) -> &Challenge {
        match self {
            Self::Txn(checked) => checked.challenge(),
            Self::Signature(checked) => checked.challenge(),
        }
    }
}
