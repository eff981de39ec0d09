//! The stages that all mechanisms share: a payment as the journal stores it, one that was seen on the
//! ledger, and one that the ledger has confirmed.

use super::capability::CapabilityId;
use super::challenge::{self, Challenge};
use super::{BlockFacts, BlockKind, IdentifiedRequest, IdentifierKey, Mechanism, Nonce, Refusal, tag};
use crate::nano::{Account, BlockHash, Raw, StateBlock, UnixSeconds};
use crate::routes::{RouteName, Terms};

/// A payment under way: all that is needed to finish it after a crash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Intent {
    /// The identity of the payment. The first payment that claims it holds it for ever.
    pub block: BlockHash,
    /// `nanoTxn`: the signed block, to broadcast it again. It also names the frontier that it builds on.
    pub signed: Option<StateBlock>,
    pub mechanism: Mechanism,
    /// The challenge that the payment answers. A retry must present the same one: the block is public,
    /// the challenge is not.
    pub challenge: Nonce,
    /// With the purse that it adds to, if it does.
    pub route: RouteName,
    pub terms: Terms,
    pub payer: Account,
    /// The amount that the block sends, in raw; at least the price.
    pub amount: Raw,
    pub pay_to: Account,
    pub valid_before: UnixSeconds,
    /// The id that the client gave, with its request. No other payment can have this id.
    pub identified: Option<IdentifiedRequest>,
}

/// What is kept of a payment for as long as what it bought is cached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Purchase {
    /// See [`Intent::block`].
    pub block: BlockHash,
    /// See [`Intent::challenge`].
    pub challenge: Nonce,
    pub terms: Terms,
    pub payer: Account,
    /// The amount that the block sends, in raw.
    pub amount: Raw,
    /// The id that the client gave. Few payments have one, so it has its own place.
    pub identifier: Option<Box<IdentifierKey>>,
}

impl From<&Intent> for Purchase {
    fn from(intent: &Intent) -> Self {
        let Intent { block, challenge, terms, payer, amount, identified, .. } = *intent;
        Self { block, challenge, terms, payer, amount, identifier: identified.map(|it| Box::new(it.id)) }
    }
}

impl Intent {
    /// The purse that the payment adds to, if that is still open when it is granted.
    #[must_use]
    pub fn adds_to(&self) -> Option<CapabilityId> {
        challenge::adds_to(&self.route, self.terms)
    }

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

/// A payment whose block is on the ledger and has the right contents. It may not be confirmed yet.
#[derive(Debug)]
#[must_use = "a payment that was seen must be confirmed"]
pub struct Seen {
    intent: Intent,
    facts: BlockFacts,
}

impl Seen {
    /// The same payment, with the id that the client gave.
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

    /// Whether the block was confirmed when it was looked up. If not, wait for it.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        self.facts.confirmed()
    }

    /// The payment, if it was confirmed when it was looked up, or is in `later`.
    ///
    /// # Errors
    /// [`Refusal::UnconfirmedBlock`]; another refusal if `later` contradicts what was seen before.
    pub fn confirm(self, later: Option<&BlockFacts>) -> Result<Confirmed, Refusal> {
        let facts = later.copied().unwrap_or(self.facts);
        Confirmed::by_ledger(self.intent, &facts)
    }
}

/// A payment that the ledger has cemented and that the store has not recorded yet. Only the facts of
/// the ledger make one.
#[derive(Debug)]
#[must_use = "a confirmed payment must not be dropped: the payer would lose it"]
pub struct Confirmed {
    intent: Intent,
}

impl Confirmed {
    /// Compares an intent with what the ledger says of its block. If they differ it is not a payment,
    /// whatever was decided before the block was broadcast.
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
