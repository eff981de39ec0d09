//! The cashier for other servers: challenges for what they sell, and their payments by the same
//! rules, into the same pool, through the same journal
//! ([facilitator guide](crate::guide::facilitator)).

use std::num::NonZeroU32;

use super::client::Client;
use super::denied::Denied;
use super::flights::Frontier;
use super::look_ups::LookUp;
use super::proof::{Checked, Proof};
use super::reasons::{PendingReason, Wait};
use super::unsettled::Unsettled;
use super::verdict::Admitted;
use super::{Cashier, Wanted};
use crate::ledger::{Ledger, LedgerError, Sighting};
use crate::nano::{Account, BlockHash, Raw};
use crate::payment::challenge::Challenge;
use crate::payment::{BlockFacts, Mechanism, Nonce, Refusal, Seen, nano_txn};
use crate::routes::{Grants, Metering, Place, RouteName, Standing, Terms};
use crate::store::{PaymentRecord, PaymentState, Store};
use crate::x402::PaymentRequirements;

/// Seconds for which a settled payment is still reported as settled, if the first answer never arrived.
const REPEATABLE_FOR: u64 = 24 * 3600;

/// What another server wants to be paid for.
#[derive(Clone, Debug)]
pub struct Order {
    /// The identity of what it sells ([`RouteName::of_foreign`]).
    pub route: RouteName,
    pub amount: Raw,
    /// Only these of the mechanisms that are on. Empty: all but `nanoSession`, which has to be named.
    pub mechanisms: Vec<Mechanism>,
    /// How long the payer may take, in seconds. `None`: as long as the gateway's own clients.
    pub seconds: Option<u64>,
}

impl Order {
    fn wants(&self, mechanism: Mechanism) -> bool {
        match self.mechanisms.as_slice() {
            [] => mechanism != Mechanism::NanoSession,
            these => these.contains(&mechanism),
        }
    }
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

impl From<Denied> for Unpaid {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Refused { refusal, .. } => Self::Refused(refusal),
            Denied::Wait(wait) => Self::Wait(wait),
            // No payment identifier is read here.
            Denied::Identifier(_) => Self::Wait(Wait::SameId),
            Denied::Moved(_) => Self::Refused(Refusal::WrongResource),
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

    /// Entries of `accepts` for one payment of an order, one for each mechanism that is wanted and on.
    ///
    /// # Errors
    /// [`Wait`], if a payment could not be settled now.
    pub fn quote(&self, order: &Order) -> Result<Vec<PaymentRequirements>, Wait> {
        let settings = self.0.settings.load();
        let seconds = order.seconds.unwrap_or(settings.lifetime);
        let grants = Grants::of_requests(NonZeroU32::MIN, REPEATABLE_FOR);
        let terms = Terms { amount: order.amount, grants };
        let wanted = settings.mechanisms.iter().copied().filter(|it| order.wants(*it));
        let challenges = self.challenges(wanted, (&order.route, Place::default()), terms, seconds, None)?;
        Ok(challenges.iter().map(|it| it.requirements(seconds, self.0.work.terms())).collect())
    }

    /// Whether [`Cashier::settle`] would take the payment, as far as can be known without taking it.
    /// Asks the store and the ledger, waits for the confirmation of a block that is on the ledger, and
    /// changes nothing. That takes a look-up of the `caller`, if it counts. Returns the payer.
    ///
    /// # Errors
    /// [`Unpaid`].
    pub async fn verify(
        &self,
        proof: Proof,
        demand: &Demand,
        caller: Option<Client>,
    ) -> Result<Account, Unpaid> {
        let mechanism = proof.offer.mechanism;
        let verified = self.judge(proof, demand, caller).await.map_err(Unpaid::from);
        self.count(demand, mechanism, &verified);
        verified
    }

    /// Settles a payment and takes its one use, which is spent once it is committed. A settlement that
    /// has begun goes on without the caller, and counts as the `caller`'s while it is under way.
    ///
    /// # Errors
    /// [`Unpaid`]; [`Refusal::DuplicateBlockHash`] also if the use is taken already.
    pub async fn settle(
        &self,
        proof: Proof,
        demand: &Demand,
        caller: Option<Client>,
    ) -> Result<Admitted, Unpaid> {
        let mechanism = proof.offer.mechanism;
        let settled = match self.recognised(&proof, demand) {
            Ok(challenge) => {
                let standing = Standing::default();
                let (route, terms) = (&demand.route, challenge.offer().terms);
                // The upstream is the caller's own.
                let (metering, down) = (Metering::Strict, None);
                let wanted =
                    Wanted { route, standing: &standing, terms, metering, hold: None, down, purse: None };
                self.redeem(proof, wanted, caller).await.map_err(Unpaid::from)
            }
            Err(refusal) => Err(Unpaid::Refused(refusal)),
        };
        self.count(demand, mechanism, &settled);
        settled
    }

    fn count<T>(&self, demand: &Demand, mechanism: Mechanism, outcome: &Result<T, Unpaid>) {
        if let Err(Unpaid::Refused(refusal)) = outcome {
            self.0.metrics.refusal(demand.route.label(), refusal.code(), Some(mechanism));
        }
    }

    /// The challenge that a proof answers, if it is for what is demanded: this foreign resource, at no
    /// lower price.
    fn recognised(&self, proof: &Proof, demand: &Demand) -> Result<Challenge, Refusal> {
        let challenge = Challenge::recognise(&self.0.keys, &self.0.pool, proof.nonce, proof.offer.clone())?;
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

    async fn judge(&self, proof: Proof, demand: &Demand, caller: Option<Client>) -> Result<Account, Denied> {
        let block = proof.block();
        let challenge = self.recognised(&proof, demand)?;
        let (nonce, late) = (challenge.nonce(), challenge.has_expired(self.0.clock.now()));
        // First what arithmetic can refuse: nobody is asked about it.
        let checked = proof.evidence.check(challenge, self.0.work.terms());
        let checked = checked.map_err(|it| if late { Refusal::PaymentExpired } else { it })?;
        let mut look_up = self.look_up(caller).await?;
        let judged = self.look(block, (nonce, late), checked, &mut look_up).await;
        let in_vain = match &judged {
            Ok(_) => false,
            Err(Denied::Wait(Wait::Pending { .. } | Wait::NoNode)) => look_up.is_asking(),
            Err(Denied::Wait(_)) => false,
            Err(Denied::Refused { .. } | Denied::Identifier(_) | Denied::Moved(_)) => true,
        };
        if in_vain {
            look_up.was_in_vain();
        }
        judged
    }

    /// What the store and the ledger say about a checked payment, `late` or not.
    async fn look(
        &self,
        block: BlockHash,
        (nonce, late): (Nonce, bool),
        checked: Checked,
        look_up: &mut LookUp,
    ) -> Result<Account, Denied> {
        let known = self.0.store.payment(block).await;
        let known = known.map_err(|it| Denied::no_store(&it, "a payment could not be looked up"))?;
        let is_other = known.as_ref().map(|it| it.intent.challenge != nonce);
        if late && is_other != Some(false) && !self.0.flights.is_under_way(block, nonce) {
            return Err(Refusal::PaymentExpired.into());
        }
        if is_other == Some(true) {
            return Err(Refusal::DuplicateBlockHash.into());
        }
        match (known, checked) {
            (Some(payment), _) => self.judge_known(payment).await,
            (None, Checked::Txn(checked)) => self.judge_txn(checked).await,
            (None, Checked::Signature(checked)) => {
                self.judge_sent(block, |facts| Ok(checked.judge(facts)?), look_up).await
            }
            (None, Checked::Session(checked)) => {
                self.judge_sent(block, |facts| Ok(checked.judge(facts)?), look_up).await
            }
        }
    }

    /// A payment that the journal has under the same challenge: under way, or settled with its use left.
    async fn judge_known(&self, payment: PaymentRecord) -> Result<Account, Denied> {
        let payer = payment.intent.payer;
        match payment.state {
            PaymentState::Intent | PaymentState::Parked => Ok(payer),
            PaymentState::Failed => Err(Refusal::FrontierChanged.into()),
            PaymentState::Granted => match self.0.find_granted(payment).await {
                Ok(held) if held.remaining() > 0 => Ok(payer),
                Ok(_) => Err(Refusal::DuplicateBlockHash.into()),
                // It is settled: what is missing is the store's word.
                Err(Unsettled::Wait(Wait::Pending { .. })) => Err(Denied::Wait(Wait::NoStore)),
                Err(why) => Err(why.into()),
            },
        }
    }

    fn no_node(&self, error: &LedgerError) -> Denied {
        self.0.troubles.no_node(error, "a payment could not be verified");
        Denied::Wait(Wait::NoNode)
    }

    async fn judge_txn(&self, checked: nano_txn::Checked) -> Result<Account, Denied> {
        let payer = checked.payer();
        if self.0.flights.holds_frontier(Frontier::under(&checked), checked.hash()) {
            return Err(Refusal::DuplicateFrontier.into());
        }
        let facts =
            self.0.ledger.account_at(payer, checked.previous()).await.map_err(|it| self.no_node(&it))?;
        Ok(checked.judge(facts.as_ref()).map(|_| payer)?)
    }

    /// A payment that its client has sent, which `judge` compares with the ledger's facts.
    async fn judge_sent(
        &self,
        block: BlockHash,
        judge: impl FnOnce(BlockFacts) -> Result<Seen, Unsettled>,
        look_up: &mut LookUp,
    ) -> Result<Account, Denied> {
        let Some(facts) = self.0.ledger.block(block).await.map_err(|it| self.no_node(&it))? else {
            return Err(Denied::Wait(Wait::Pending { block, reason: PendingReason::BlockNotFound }));
        };
        let seen = judge(facts)?;
        look_up.bear_out();
        let payer = seen.intent().payer;
        let mut later = None;
        if !seen.is_confirmed() {
            let wait = self.0.settings.load().wait;
            match self.0.ledger.await_confirmation(block, wait).await.map_err(|it| self.no_node(&it))? {
                Sighting::Confirmed(facts) => later = Some(facts),
                Sighting::Unconfirmed(_) | Sighting::Unknown => {}
            }
        }
        Ok(seen.confirm(later.as_ref()).map(|_| payer)?)
    }
}
