//! The stages that all mechanisms end in: a payment as the journal keeps it, one that was seen on the
//! ledger, and one that the ledger has confirmed.

use super::challenge::Challenge;
use super::{BlockFacts, BlockKind, IdentifiedRequest, Mechanism, Nonce, Refusal, tag};
use crate::nano::{Account, BlockHash, Raw, StateBlock, UnixSeconds};
use crate::routes::{RouteName, Terms};

/// One payment on its way: what the journal needs to finish it after a crash, knowing nothing else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Intent {
    /// The payment's identity, claimed for ever by the first that uses it.
    pub block: BlockHash,
    /// `nanoTxn`: the signed block, to broadcast again; it also names the frontier it builds on.
    pub signed: Option<StateBlock>,
    pub mechanism: Mechanism,
    /// The challenge the payment answers. A retry must show the same one: the block is public, the
    /// challenge is not.
    pub challenge: Nonce,
    pub route: RouteName,
    pub terms: Terms,
    pub payer: Account,
    /// What the block moves, in raw; not less than the price.
    pub amount: Raw,
    pub pay_to: Account,
    pub valid_before: UnixSeconds,
    /// The id under which the client made it, and for which request. No other payment is made under
    /// that id.
    pub identified: Option<IdentifiedRequest>,
}

impl Intent {
    pub(super) fn new(
        challenge: &Challenge,
        block: BlockHash,
        signed: Option<StateBlock>,
        payer: Account,
        amount: Raw,
    ) -> Self {
        let offer = challenge.offer();
        Self {
            block,
            signed,
            mechanism: offer.mechanism,
            challenge: challenge.nonce(),
            route: offer.route.clone(),
            terms: offer.terms,
            payer,
            amount,
            pay_to: offer.pay_to,
            valid_before: offer.valid_before,
            identified: None,
        }
    }
}

/// A payment that its client has sent and the ledger bears out, in a block that may not be confirmed
/// yet.
#[derive(Debug)]
#[must_use = "a payment that was seen is to be confirmed"]
pub struct Seen {
    intent: Intent,
    facts: BlockFacts,
}

impl Seen {
    /// The same payment, made under a client's id.
    pub const fn under(mut self, identified: Option<IdentifiedRequest>) -> Self {
        self.intent.identified = identified;
        self
    }

    pub(super) const fn new(intent: Intent, facts: BlockFacts) -> Self {
        Self { intent, facts }
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
    /// [`Refusal::UnconfirmedBlock`]; another where `later` contradicts what was seen before.
    pub fn confirm(self, later: Option<&BlockFacts>) -> Result<Confirmed, Refusal> {
        let facts = later.copied().unwrap_or(self.facts);
        Confirmed::by_ledger(self.intent, &facts)
    }
}

/// A payment that the ledger has cemented, not yet counted against replays. Nothing but the
/// ledger's facts makes one.
#[derive(Debug)]
#[must_use = "a confirmed payment that is dropped is a customer robbed"]
pub struct Confirmed {
    intent: Intent,
}

impl Confirmed {
    /// Holds an intent against what the ledger says of its block. A block the ledger contradicts is
    /// no payment, whatever was judged before it was broadcast.
    pub(crate) fn by_ledger(intent: Intent, facts: &BlockFacts) -> Result<Self, Refusal> {
        let BlockKind::Send { account, destination, amount } = facts.kind() else {
            return Err(Refusal::WrongBlockType);
        };
        if facts.hash() != intent.block {
            return Err(Refusal::BlockNotFound);
        }
        if account != intent.payer {
            return Err(Refusal::SenderMismatch);
        }
        if destination != intent.pay_to {
            return Err(Refusal::WrongDestination);
        }
        let enough = match intent.mechanism {
            Mechanism::NanoTxn => amount == intent.terms.amount,
            Mechanism::NanoSignature => amount >= intent.terms.amount,
            Mechanism::NanoSession => amount == tag::due(intent.challenge, intent.terms.amount),
        };
        if !enough || amount != intent.amount {
            return Err(Refusal::InsufficientAmount);
        }
        if !facts.confirmed() {
            return Err(Refusal::UnconfirmedBlock);
        }
        Ok(Self { intent })
    }

    #[must_use]
    pub const fn intent(&self) -> &Intent {
        &self.intent
    }
}
