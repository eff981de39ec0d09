//! A proof of payment as the client presents it, and the checks that need no ledger.

use super::denied::Denied;
use super::flights::{FlightKey, Frontier};
use crate::nano::{Account, BlockHash, StateBlock};
use crate::payment::challenge::{Challenge, Offer};
use crate::payment::{Intent, Mechanism, Nonce, Particular, Refusal, nano_session, nano_signature, nano_txn};
use crate::routes::{RouteName, Terms};
use crate::x402::{self, WorkTerms};

/// What a client claims: that it got this offer under this nonce, and paid.
#[derive(Clone, Debug)]
pub struct Proof {
    pub nonce: Nonce,
    pub offer: Offer,
    pub evidence: Evidence,
    /// The token of a capability that came beside it.
    pub beside: Option<String>,
}

/// What shows that it paid. It agrees with the offer's mechanism.
#[derive(Clone, Debug)]
pub enum Evidence {
    Txn(StateBlock),
    Signature(nano_signature::SignatureEvidence),
    Session(nano_session::SessionEvidence),
}

impl Proof {
    /// The payment's identity.
    #[must_use]
    pub fn block(&self) -> BlockHash {
        self.evidence.block()
    }

    /// The claim to have paid for `session` with `block`. The session claims to be for `route`.
    #[must_use]
    pub const fn of_session(session: &x402::SessionId, block: BlockHash, route: RouteName) -> Self {
        let offer = Offer {
            mechanism: Mechanism::NanoSession,
            route,
            terms: Terms { amount: session.price, grants: session.grants },
            pay_to: session.pay_to,
            valid_before: session.valid_before,
        };
        let evidence = Evidence::Session(nano_session::SessionEvidence { block, asked: None });
        Self { nonce: Nonce(session.nonce), offer, evidence, beside: None }
    }

    /// The account that claims to have paid, if the proof names one. It is proven once the evidence is
    /// checked.
    #[must_use]
    pub const fn payer(&self) -> Option<Account> {
        match &self.evidence {
            Evidence::Txn(block) => Some(block.account),
            Evidence::Signature(claim) => Some(claim.account),
            Evidence::Session(_) => None,
        }
    }

    /// Explains why this proof is denied, if more is to be said than its refusal does: that it is
    /// signed over the block and the requested `url`, as revision 7 of NanoSession has it. To find that out
    /// costs more than the refusal: it is done only if it `may` be.
    pub(super) fn explain<M: FnOnce() -> bool>(
        &self,
        url: Option<String>,
        may: M,
    ) -> impl FnOnce(Denied) -> Denied + use<M> {
        let claim = match self.evidence {
            Evidence::Signature(claim) => Some(claim),
            Evidence::Txn(_) | Evidence::Session(_) => None,
        };
        move |denied| match (denied, claim.zip(url)) {
            (Denied::Refused { refusal: refusal @ Refusal::InvalidSignature, .. }, Some((claim, url)))
                if may() && nano_signature::is_url_bound(&claim, &url) =>
            {
                Denied::explained(refusal, Particular::UrlBound.to_string())
            }
            (denied, _) => denied,
        }
    }
}

impl From<x402::PresentedPayment> for Proof {
    /// Takes the claim out of its envelope, where the proof's shape was compared with the echoed entry.
    fn from(payment: x402::PresentedPayment) -> Self {
        let x402::PresentedPayment { accepted, proof } = payment;
        let extra = accepted.extra;
        let (mechanism, evidence) = match proof {
            x402::PaymentProof::NanoTxn { block } => (Mechanism::NanoTxn, Evidence::Txn(block)),
            x402::PaymentProof::NanoSignature { block_hash, account, signature } => {
                let claim = nano_signature::SignatureEvidence { block: block_hash, account, signature };
                (Mechanism::NanoSignature, Evidence::Signature(claim))
            }
            x402::PaymentProof::NanoSession { block_hash } => {
                let claim = nano_session::SessionEvidence { block: block_hash, asked: Some(accepted.amount) };
                (Mechanism::NanoSession, Evidence::Session(claim))
            }
        };
        let price = match extra.track {
            x402::Track::NanoTxn { .. } | x402::Track::NanoSignature => accepted.amount,
            x402::Track::NanoSession(terms) => terms.price,
        };
        let offer = Offer {
            mechanism,
            route: RouteName::new(&extra.route),
            terms: Terms { amount: price, grants: extra.grants },
            pay_to: accepted.pay_to,
            valid_before: extra.valid_before,
        };
        Self { nonce: Nonce(extra.challenge), offer, evidence, beside: None }
    }
}

/// A proof that has passed every check that needs no ledger.
#[derive(Clone, Debug)]
pub(super) enum Checked {
    Txn(nano_txn::Checked),
    Signature(nano_signature::Checked),
    Session(nano_session::Checked),
}

impl Evidence {
    pub(super) fn block(&self) -> BlockHash {
        match self {
            Self::Txn(block) => block.hash(),
            Self::Signature(claim) => claim.block,
            Self::Session(claim) => claim.block,
        }
    }

    pub(super) fn check(self, challenge: Challenge, work: WorkTerms) -> Result<Checked, Refusal> {
        match self {
            Self::Txn(block) => nano_txn::check(challenge, block, work).map(Checked::Txn),
            Self::Signature(claim) => nano_signature::check(challenge, claim).map(Checked::Signature),
            Self::Session(claim) => nano_session::check(challenge, claim).map(Checked::Session),
        }
    }
}

impl Checked {
    pub(super) const fn hash(&self) -> BlockHash {
        match self {
            Self::Txn(checked) => checked.hash(),
            Self::Signature(checked) => checked.hash(),
            Self::Session(checked) => checked.hash(),
        }
    }

    /// What its settlement excludes others from.
    pub(super) const fn flight(&self) -> FlightKey {
        let frontier = match self {
            Self::Txn(checked) => Some(Frontier::under(checked)),
            Self::Signature(_) | Self::Session(_) => None,
        };
        FlightKey { block: self.hash(), nonce: self.challenge().nonce(), frontier }
    }

    pub(super) const fn challenge(&self) -> &Challenge {
        match self {
            Self::Txn(checked) => checked.challenge(),
            Self::Signature(checked) => checked.challenge(),
            Self::Session(checked) => checked.challenge(),
        }
    }
}

impl Frontier {
    /// What a checked block builds on. Its account has signed it.
    pub(super) const fn under(checked: &nano_txn::Checked) -> Self {
        Self { account: checked.payer(), previous: checked.previous() }
    }

    /// What a journalled block builds on.
    pub(super) fn of(intent: &Intent) -> Option<Self> {
        intent.signed.map(|it| Self { account: it.account, previous: it.previous })
    }
}
