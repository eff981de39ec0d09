//! The cashier for other servers: challenges for what they sell, and their payments by the same
//! rules, into the same pool, through the same journal (PROTOCOL section 7).
//!
//! What another server sells is a foreign route. Its address in the pool is picked by its name and
//! not at random: a middleware makes its entries anew with each request and compares `payTo`, and a
//! payment that comes too late can be presented under the next challenge.

use std::num::NonZeroU32;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use super::flights::Landing;
use super::proof::Checked;
use super::{Admitted, Cashier, Denied, PendingReason, Proof, Wait};
use crate::ledger::{Ledger, LedgerError, Sighting};
use crate::nano::{Account, BlockHash, Raw};
use crate::payment::challenge::Challenge;
use crate::payment::nano_session::Unfit;
use crate::payment::{BlockFacts, Mechanism, Refusal, Seen, nano_txn};
use crate::routes::{Grants, Metering, RouteName, Terms};
use crate::store::{PaymentRecord, PaymentState, Store};
use crate::x402::PaymentRequirements;

/// Seconds for which a settled payment can still be handed out as settled, where the answer that said
/// so never arrived.
const REPEATABLE_FOR: u64 = 24 * 3600;

/// What another server wants to be paid for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The identity of what it sells ([`RouteName::of_foreign`]).
    pub route: RouteName,
    pub amount: Raw,
    /// Only these of the mechanisms that are on; where it is empty, all of them but `nanoSession`,
    /// which is for those who name it.
    pub mechanisms: Vec<Mechanism>,
    /// How long the payer may take, in seconds; as long as the gateway's own payers where it is
    /// nothing.
    pub seconds: Option<u64>,
}

/// What must have been paid for.
#[derive(Clone, Debug)]
pub struct Demand {
    pub route: RouteName,
    /// The least that is enough, in raw.
    pub amount: Raw,
    /// Where the server wants to be paid, if it says so.
    pub pay_to: Option<Account>,
}

/// Why a payment cannot be taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unpaid {
    Refused(Refusal),
    /// Not yet: the same proof may come again.
    Wait(Wait),
}

impl From<Refusal> for Unpaid {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Unfit> for Unpaid {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::Refused(refusal) => Self::Refused(refusal),
            Unfit::Amount { .. } => Self::Refused(Refusal::InsufficientAmount),
        }
    }
}

impl From<Denied> for Unpaid {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Refused(refused, _) => Self::Refused(refused.refusal),
            Denied::Wait(wait) => Self::Wait(wait),
            // No id is looked at here.
            Denied::Identifier(_) => Self::Wait(Wait::SameId),
        }
    }
}

impl<L: Ledger, S: Store> Cashier<L, S> {
    /// The mechanisms that are on, in the order in which they are offered.
    #[must_use]
    pub fn mechanisms(&self) -> Vec<Mechanism> {
        self.0.settings.load().mechanisms.clone()
    }

    /// Whether the pool takes payments at `account`.
    #[must_use]
    pub fn receives_at(&self, account: Account) -> bool {
        self.mechanisms().into_iter().any(|it| self.0.pool.of(it).contains(&account))
    }

    /// Entries of `accepts` for one payment of an order: one for each mechanism that is wanted and on.
    /// Minting keeps nothing.
    ///
    /// # Errors
    /// [`Wait`], where a payment could not be settled now.
    pub fn quote(&self, order: &Order) -> Result<Vec<PaymentRequirements>, Wait> {
        self.readiness()?;
        let settings = self.0.settings.load();
        let seconds = order.seconds.unwrap_or(settings.lifetime);
        let valid_before = self.0.clock.now().plus(seconds);
        let grants = Grants { requests: NonZeroU32::MIN, seconds: REPEATABLE_FOR };
        let terms = Terms { amount: order.amount, grants };
        let mut entries = Vec::new();
        for &mechanism in &settings.mechanisms {
            let wanted = if order.mechanisms.is_empty() {
                mechanism != Mechanism::NanoSession
            } else {
                order.mechanisms.contains(&mechanism)
            };
            if !wanted {
                continue;
            }
            match self.mint(mechanism, &order.route, terms, None, valid_before) {
                Ok(Some(challenge)) => {
                    entries.push(challenge.requirements(seconds, self.0.work.terms()));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "no challenge can be made");
                    return Err(Wait::Overloaded);
                }
            }
        }
        self.0.metrics.challenge(order.route.label());
        Ok(entries)
    }

    /// Whether [`Cashier::settle`] would take the payment, as far as can be known without taking it.
    /// Asks the store and the ledger, waits for the confirmation of a block that is on the ledger, and
    /// changes nothing. Gives the payer.
    ///
    /// # Errors
    /// [`Unpaid`].
    pub async fn verify(&self, proof: Proof, demand: &Demand) -> Result<Account, Unpaid> {
        let mechanism = proof.offer.mechanism;
        let verified = self.judge(proof, demand).await;
        self.count(mechanism, &verified);
        verified
    }

    /// Settles a payment and takes its one use, which is spent once it is committed. A settlement that
    /// was begun goes on without the caller.
    ///
    /// # Errors
    /// [`Unpaid`]; [`Refusal::DuplicateBlockHash`] also where the use is taken already.
    pub async fn settle(&self, proof: Proof, demand: &Demand) -> Result<Admitted, Unpaid> {
        let mechanism = proof.offer.mechanism;
        let settled = match self.recognised(&proof, demand) {
            Ok(_) => self.redeem(proof, &demand.route, Metering::Strict, None).await.map_err(Unpaid::from),
            Err(refusal) => Err(refusal.into()),
        };
        self.count(mechanism, &settled);
        settled
    }

    fn count<T>(&self, mechanism: Mechanism, outcome: &Result<T, Unpaid>) {
        if let Err(Unpaid::Refused(refusal)) = outcome {
            self.0.metrics.refusal(*refusal, Some(mechanism));
        }
    }

    /// The challenge that a proof answers, if it is for what is demanded: a foreign resource, this
    /// one, at no lower price.
    fn recognised(&self, proof: &Proof, demand: &Demand) -> Result<Challenge, Refusal> {
        let challenge = Challenge::recognise(&self.0.keys, proof.nonce, proof.offer.clone())?;
        let offer = challenge.offer();
        if offer.route != demand.route || !offer.route.is_foreign() {
            return Err(Refusal::WrongResource);
        }
        if challenge.due() < demand.amount {
            return Err(Refusal::InsufficientAmount);
        }
        let elsewhere = |it| it != offer.pay_to && !self.receives_at(it);
        if demand.pay_to.is_some_and(elsewhere) {
            return Err(Refusal::WrongDestination);
        }
        Ok(challenge)
    }

    async fn judge(&self, proof: Proof, demand: &Demand) -> Result<Account, Unpaid> {
        let block = proof.block();
        let challenge = self.recognised(&proof, demand)?;
        if challenge.has_expired(self.0.clock.now()) && !self.was_in_time(&challenge, block).await? {
            return Err(Refusal::PaymentExpired.into());
        }
        let nonce = challenge.nonce();
        let known = self.0.store.payment(block).await.map_err(|error| {
            tracing::warn!(%error, "a payment could not be looked up");
            Unpaid::Wait(Wait::NoStore)
        })?;
        if known.as_ref().is_some_and(|it| it.intent.challenge != nonce) {
            return Err(Refusal::DuplicateBlockHash.into());
        }
        let checked = proof.evidence.check(challenge, self.0.work.terms())?;
        match (known, checked) {
            (Some(payment), _) => self.judge_known(payment).await,
            (None, Checked::Txn(checked)) => self.judge_txn(checked).await,
            (None, Checked::Signature(checked)) => {
                self.judge_sent(block, |facts| checked.judge(facts).map_err(Unpaid::from)).await
            }
            (None, Checked::Session(checked)) => {
                self.judge_sent(block, |facts| checked.judge(facts).map_err(Unpaid::from)).await
            }
        }
    }

    /// A payment that the journal has under the same challenge: on its way, or settled with its use
    /// left.
    async fn judge_known(&self, payment: PaymentRecord) -> Result<Account, Unpaid> {
        let payer = payment.intent.payer;
        match payment.state {
            PaymentState::Intent | PaymentState::Parked => Ok(payer),
            PaymentState::Failed => Err(Refusal::FrontierChanged.into()),
            PaymentState::Granted => match self.0.find_granted(payment).await {
                Landing::Granted(held) if held.remaining() > 0 => Ok(payer),
                Landing::Granted(_) => Err(Refusal::DuplicateBlockHash.into()),
                Landing::Refused(refusal) => Err(refusal.into()),
                Landing::WrongAmount { .. } => Err(Refusal::InsufficientAmount.into()),
                Landing::Identified => Err(Unpaid::Wait(Wait::SameId)),
                Landing::Pending(_) => Err(Unpaid::Wait(Wait::NoStore)),
                Landing::Unavailable(wait) => Err(Unpaid::Wait(wait)),
            },
        }
    }

    async fn judge_txn(&self, checked: nano_txn::Checked) -> Result<Account, Unpaid> {
        let payer = checked.payer();
        if self.0.flights.holds_frontier(checked.frontier(), checked.hash()) {
            return Err(Refusal::DuplicateFrontier.into());
        }
        let facts = self.0.ledger.account_at(payer, checked.previous()).await.map_err(no_node)?;
        Ok(checked.judge(facts.as_ref()).map(|_| payer)?)
    }

    /// A payment that its client has sent, which `judge` holds against the ledger's facts.
    async fn judge_sent(
        &self,
        block: BlockHash,
        judge: impl FnOnce(BlockFacts) -> Result<Seen, Unpaid>,
    ) -> Result<Account, Unpaid> {
        let Some(facts) = self.0.ledger.block(block).await.map_err(no_node)? else {
            return Err(not_found(block));
        };
        let seen = judge(facts)?;
        let payer = seen.intent().payer;
        let mut later = None;
        if !seen.is_confirmed() {
            let wait = self.0.settings.load().wait;
            match self.0.ledger.await_confirmation(block, wait).await.map_err(no_node)? {
                Sighting::Confirmed(facts) => later = Some(facts),
                Sighting::Unconfirmed(_) | Sighting::Unknown => {}
            }
        }
        Ok(seen.confirm(later.as_ref()).map(|_| payer)?)
    }
}

/// The pool's slot for a foreign resource; nothing for a route of the price table.
pub(super) fn slot(route: &RouteName) -> Option<[u8; 8]> {
    route.is_foreign().then(|| Blake2b::<U8>::digest(route.as_str()).into())
}

fn not_found(block: BlockHash) -> Unpaid {
    Unpaid::Wait(Wait::Pending { block, reason: PendingReason::BlockNotFound })
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn no_node(error: LedgerError) -> Unpaid {
    tracing::warn!(%error, "a payment could not be verified");
    Unpaid::Wait(Wait::NoNode)
}
