//! From a checked proof to a capability: the steps that need the ledger and the store.
//!
//! "Not yet" never becomes "no". A refusal is given only if the ledger or the store says so;
//! everything else leaves the payment in the journal and is answered "pending".

use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::flights::Frontier;
use super::look_ups::LookUp;
use super::proof::Checked;
use super::reasons::{PendingReason, Wait};
use super::unsettled::{SettlementResult, Unsettled};
use super::{Core, PATIENCE, troubles};
use crate::clock::Stopwatch;
use crate::ledger::work::NoWork;
use crate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use crate::nano::{BlockHash, StateBlock};
use crate::payment::capability::CapabilityId;
use crate::payment::nano_session::Unfit;
use crate::payment::nano_txn::{Approved, Judged, Workless};
use crate::payment::{
    BlockFacts, Confirmed, IdentifiedRequest, Intent, Nonce, Particular, Purchase, Refusal, Seen, nano_txn,
};
use crate::repeats::Repeats;
use crate::routes::Unit;
use crate::store::capabilities::{self, LEASE_SECONDS};
use crate::store::settle::{self, Claim, Claimed, SettleError};
use crate::store::{Grantee, PaymentRecord, PaymentState, Store, StoreError};

/// How long a broadcast block is waited for before it is broadcast again, at least.
const SLICE: Duration = Duration::from_secs(3);
/// So many calls to the ledger fit into that time, however slow it is: to broadcast, and to look more than once.
const CALLS: u32 = 4;
/// So many of these times fit into the time of a settlement.
const SLICES: u32 = 4;
/// The pause between two looks when the ledger has nothing to say.
const PAUSE: Duration = Duration::from_millis(250);

impl<L: Ledger, S: Store> Core<L, S> {
    /// Settles a checked payment, made under a payment identifier or without one. Work that is made for
    /// it counts against `client`, and `look_up` is given back unless it was in vain. Runs to its end even
    /// if no request waits for it.
    pub(super) async fn settle(
        self: Arc<Self>,
        checked: Checked,
        identified: Option<IdentifiedRequest>,
        client: Option<Client>,
        mut look_up: LookUp,
    ) -> SettlementResult {
        let (watch, mechanism) = (Stopwatch::start(), checked.challenge().offer().mechanism);
        let (block, nonce) = (checked.hash(), checked.challenge().nonce());
        let settled = match checked {
            Checked::Txn(checked) => self.settle_txn(checked, identified, client, &mut look_up, watch).await,
            Checked::Signature(checked) => {
                let judge = |facts| Ok(checked.judge(facts)?);
                self.settle_sent((block, nonce), identified, judge, &mut look_up, watch).await
            }
            Checked::Session(checked) => {
                let judge = |facts| Ok(checked.judge(facts)?);
                self.settle_sent((block, nonce), identified, judge, &mut look_up, watch).await
            }
        };
        look_up.ends_with(&settled);
        let duration_ms = watch.elapsed().as_millis();
        match &settled {
            Ok(held) => {
                let Purchase { amount, payer, .. } = held.purchase();
                let route = held.record().route.label();
                let purse = held.record().added_to;
                let purse = purse.as_ref().map(tracing::field::display);
                tracing::info!(%block, %mechanism, route, amount_raw = %amount, %payer, purse, duration_ms, "payment granted");
                if let Some(spell) = self.troubles.settlement.over() {
                    let (after_s, times) = (spell.lasted.as_secs(), spell.times);
                    tracing::info!(after_s, times, "payments are settled again");
                }
            }
            Err(Unsettled::Refused(_, Some(Particular::Amount { came, asked }))) => {
                tracing::info!(%block, %mechanism, amount_raw = %came, %asked, "payment of another amount refused");
            }
            Err(Unsettled::Refused(reason, _)) => {
                tracing::info!(%block, %mechanism, %reason, "payment refused");
            }
            Err(Unsettled::IdHeld) => tracing::info!(%block, %mechanism, "another payment holds the id"),
            Err(Unsettled::Wait(Wait::Pending { reason, .. })) => {
                tracing::info!(%block, %mechanism, ?reason, "payment pending");
            }
            Err(Unsettled::Wait(why)) => {
                if let Some(held_back) = self.troubles.settlement.again() {
                    tracing::warn!(%block, %mechanism, ?why, held_back, "payment not settled");
                }
            }
        }
        settled
    }

    async fn settle_txn(
        &self,
        checked: nano_txn::Checked,
        identified: Option<IdentifiedRequest>,
        client: Option<Client>,
        look_up: &mut LookUp,
        watch: Stopwatch,
    ) -> SettlementResult {
        let (hash, nonce) = (checked.hash(), checked.challenge().nonce());
        if let Some(payment) = self.journalled(hash).await? {
            return self.take_up(payment, nonce, Some(look_up), watch).await;
        }
        // Only the account's key can sign a block that is not in the journal. For all instances the claim
        // holds the frontier, once the ledger has shown it as the account's.
        let frontier = Frontier::under(&checked);
        let _held = self.flights.hold_frontier(frontier, hash).ok_or(Refusal::DuplicateFrontier)?;
        let facts = self.ledger.account_at(checked.payer(), checked.previous()).await;
        let facts = facts.map_err(|it| self.no_node(&it, "the payer's account could not be looked up"))?;
        let judged = match checked.judge(facts.as_ref()) {
            Ok(judged) => judged,
            // Unless another instance has taken up this very payment since the journal was asked: then its
            // broadcast is what moved the account.
            Err(refusal) => match self.journalled(hash).await? {
                Some(payment) => return self.take_up(payment, nonce, Some(look_up), watch).await,
                None => return Err(refusal.into()),
            },
        };
        look_up.bear_out();
        let approved = match judged {
            Judged::Approved(approved) => approved,
            Judged::Workless(workless) => self.work_for(workless, client).await?,
        };
        fail::fail_point!("payment-checked", |_| std::process::abort());
        match settle::claim(&*self.store, approved.under(identified), self.clock.now()).await? {
            Claim::Mine(claimed) => self.carry_out(*claimed, watch).await,
            Claim::Existing(payment) => self.take_up(*payment, nonce, None, watch).await,
            Claim::FrontierHeld => Err(Refusal::DuplicateFrontier.into()),
            Claim::IdHeld => Err(Unsettled::IdHeld),
            Claim::Spent => Err(Refusal::DuplicateBlockHash.into()),
        }
    }

    fn no_node(&self, error: &LedgerError, what: &str) -> Unsettled {
        self.troubles.no_node(error, what);
        Unsettled::Wait(Wait::NoNode)
    }

    async fn journalled(&self, block: BlockHash) -> Result<Option<PaymentRecord>, Unsettled> {
        Ok(self.store.payment(block).await?)
    }

    /// Has work made for a payment that is good in everything else: it is broadcast next.
    async fn work_for(&self, workless: Workless, client: Option<Client>) -> Result<Approved, Unsettled> {
        let server = self.work.server.as_ref().ok_or(Refusal::InvalidWork)?;
        let (watch, threshold) = (Stopwatch::start(), self.work.threshold);
        let work = server.work(workless.root(), threshold, client.map(Client::network)).await;
        self.metrics.work_made(
            match &work {
                Ok(_) => "made",
                Err(NoWork::Share | NoWork::Crowded) => "turned_away",
                Err(NoWork::Server(_)) => "failed",
            },
            watch.elapsed(),
        );
        match work {
            Ok(work) => Ok(workless.with(work, threshold)?),
            Err(error @ NoWork::Server(_)) => {
                tracing::warn!(%error, "a payment without work cannot be broadcast");
                Err(Unsettled::Wait(Wait::NoWork))
            }
            Err(error @ (NoWork::Share | NoWork::Crowded)) => {
                tracing::info!(%error, "a payment without work is turned away");
                Err(Unsettled::Wait(Wait::Overloaded))
            }
        }
    }

    /// Goes on with a payment that is in the journal.
    pub(super) async fn take_up(
        &self,
        payment: PaymentRecord,
        nonce: Nonce,
        look_up: Option<&mut LookUp>,
        watch: Stopwatch,
    ) -> SettlementResult {
        let block = payment.intent.block;
        if payment.intent.challenge != nonce {
            return Err(self.is_anothers(&payment));
        }
        if let Some(look_up) = look_up {
            look_up.bear_out();
        }
        if payment.state == PaymentState::Granted {
            return self.find_granted(payment).await;
        }
        match settle::resume(&*self.store, payment, self.clock.now()).await? {
            Claim::Mine(claimed) => self.carry_out(*claimed, watch).await,
            Claim::FrontierHeld => Err(Refusal::DuplicateFrontier.into()),
            Claim::IdHeld => Err(Unsettled::IdHeld),
            Claim::Spent => Err(Refusal::DuplicateBlockHash.into()),
            Claim::Existing(payment) => match payment.state {
                PaymentState::Granted => self.find_granted(*payment).await,
                PaymentState::Failed => Err(Refusal::FrontierChanged.into()),
                PaymentState::Intent | PaymentState::Parked => Err(Unsettled::pending(block)),
            },
        }
    }

    /// Why a proof gets nothing for a block that was journalled under another challenge. While it is being
    /// settled under that one, nothing is decided.
    fn is_anothers(&self, payment: &PaymentRecord) -> Unsettled {
        let Intent { block, challenge, .. } = payment.intent;
        if payment.state != PaymentState::Granted && self.flights.is_under_way(block, challenge) {
            return Unsettled::pending(block);
        }
        Refusal::DuplicateBlockHash.into()
    }

    /// The capability of a granted payment, from the store.
    pub(super) async fn find_granted(&self, payment: PaymentRecord) -> SettlementResult {
        let block = payment.intent.block;
        let holder = self.capabilities.holder();
        let found = settle::find_granted(&*self.store, payment, holder, self.clock.now()).await;
        Ok(self.capabilities.admit(found.map_err(|it| unsettled(&it, block))?))
    }

    /// [`SLICE`], or longer over a slow ledger.
    fn slice(&self) -> Duration {
        self.ledger.pace().saturating_mul(CALLS).max(SLICE)
    }

    /// How long a settlement's own task waits for a confirmation: [`PATIENCE`], or longer over a slow ledger.
    pub(super) fn patience(&self) -> Duration {
        self.slice().saturating_mul(SLICES).max(PATIENCE)
    }

    /// Broadcasts a claimed payment and follows it until it is granted, fails, or its time ends.
    /// `process` is repeated while the block is not seen: a node can drop a block it accepted.
    async fn carry_out(&self, claimed: Claimed, watch: Stopwatch) -> SettlementResult {
        let pending = Err(Unsettled::pending(claimed.intent().block));
        let frontier = Frontier::of(claimed.intent());
        let _held = frontier.and_then(|it| self.flights.hold_frontier(it, claimed.intent().block));
        let Some(block) = claimed.intent().signed else {
            tracing::error!(block = %claimed.intent().block, "a claimed payment without its block");
            return pending;
        };
        fail::fail_point!("payment-claimed", |_| std::process::abort());
        let follow = Stopwatch::start();
        // Even after a refusal the block is looked up: the node may have it already.
        let refusals = Repeats::new();
        let mut accepted = self.publish(&block, &refusals).await;
        fail::fail_point!("payment-broadcast", |_| std::process::abort());
        while follow.elapsed() < self.patience() {
            let seen = self.look_for(block.hash(), accepted).await;
            self.note_look(&block, &seen);
            match seen {
                Ok(Sighting::Confirmed(facts)) => {
                    self.metrics.confirmed(follow.elapsed());
                    let confirmed = Confirmed::by_ledger(claimed.into_intent(), &facts);
                    if let Err(refusal) = &confirmed {
                        self.contradicted(&block, *refusal).await;
                    }
                    return self.grant(confirmed, watch).await;
                }
                Ok(Sighting::Unconfirmed(_)) => {
                    accepted = true;
                    self.publish(&block, &refusals).await;
                }
                Ok(Sighting::Unknown) => {
                    self.unseen(&block, accepted).await?;
                    tokio::time::sleep(PAUSE).await;
                    accepted = self.publish(&block, &refusals).await;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        pending
    }

    /// Parks a payment that the ledger confirmed as something else than it was judged to be: a node lied
    /// about the account. Its money has moved and buys nothing. An operator has to look at it.
    async fn contradicted(&self, block: &StateBlock, refusal: Refusal) {
        let hash = block.hash();
        tracing::error!(block = %hash, reason = %refusal, "a node lied: the ledger contradicts a payment");
        let live = [PaymentState::Intent];
        if let Err(error) = self.store.advance(hash, &live, PaymentState::Parked, self.clock.now()).await {
            tracing::warn!(block = %hash, %error, "not set aside");
        }
    }

    /// Waits for a block that a node took; looks once for a block that all nodes refused.
    async fn look_for(&self, hash: BlockHash, accepted: bool) -> Result<Sighting, LedgerError> {
        if accepted {
            return self.ledger.await_confirmation(hash, self.slice()).await;
        }
        Ok(match self.ledger.block(hash).await? {
            Some(facts) if facts.confirmed() => Sighting::Confirmed(facts),
            Some(facts) => Sighting::Unconfirmed(facts),
            None => Sighting::Unknown,
        })
    }

    /// Logs that a block could not be looked at, or that blocks can be again.
    fn note_look(&self, block: &StateBlock, seen: &Result<Sighting, LedgerError>) {
        let look = &self.troubles.look;
        if let Err(error) = seen {
            if let Some(held_back) = look.again() {
                tracing::warn!(block = %block.hash(), %error, held_back, "confirmation not seen");
            }
        } else if let Some(spell) = look.over() {
            let (after_s, times) = (spell.lasted.as_secs(), spell.times);
            tracing::info!(after_s, times, "confirmations are looked at again");
        }
    }

    /// Broadcasts a block; false if every node that answered refused it. `refusals` are those of this block.
    async fn publish(&self, block: &StateBlock, refusals: &Repeats) -> bool {
        let broadcast = &self.troubles.broadcast;
        match self.ledger.publish_send(block).await {
            Ok(()) => {
                if let Some(spell) = broadcast.over() {
                    let (after_s, times) = (spell.lasted.as_secs(), spell.times);
                    tracing::info!(after_s, times, "broadcasts are answered again");
                }
                true
            }
            Err(PublishError::Unknown(error)) => {
                if let Some(held_back) = broadcast.again() {
                    tracing::warn!(block = %block.hash(), %error, held_back, "broadcast without an answer");
                }
                true
            }
            Err(PublishError::Refused(reason)) => {
                if let Some(held_back) = refusals.again() {
                    tracing::info!(block = %block.hash(), %reason, held_back, "broadcast refused");
                }
                false
            }
        }
    }

    /// What an unseen block means. Another block that is confirmed in its place ends the payment. A
    /// refusal without that parks it, because anyone may still publish the block. Otherwise it is still
    /// waited for.
    async fn unseen(&self, block: &StateBlock, accepted: bool) -> Result<(), Unsettled> {
        use PaymentState::{Failed, Intent, Parked};
        let (live, end, refusal): (&[_], _, _) = match self.was_overtaken(block).await {
            Some(true) => (&[Intent, Parked], Failed, Refusal::FrontierChanged),
            Some(false) if !accepted => (&[Intent], Parked, Refusal::BroadcastFailed),
            Some(false) | None => return Ok(()),
        };
        self.store.advance(block.hash(), live, end, self.clock.now()).await?;
        Err(refusal.into())
    }

    /// Whether another block is confirmed in this one's place; `None` if no node can say. A node that
    /// does not know this block proves nothing, because it may be behind. The other block is the proof.
    pub(super) async fn was_overtaken(&self, block: &StateBlock) -> Option<bool> {
        let Some(next) = self.ledger.successor(block.previous).await.ok()? else { return Some(false) };
        if next == block.hash() {
            return Some(false);
        }
        let rival = self.ledger.block(next).await.ok()?;
        Some(rival.is_some_and(|facts| facts.confirmed() && facts.previous() == block.previous))
    }

    /// Spends a confirmed payment and grants what it bought, in one durable step.
    pub(super) async fn grant(
        &self,
        confirmed: Result<Confirmed, Refusal>,
        watch: Stopwatch,
    ) -> SettlementResult {
        let confirmed = confirmed?;
        let Intent { block, terms, .. } = *confirmed.intent();
        let id = CapabilityId::of_payment(block);
        let (unit, stock) = terms.stock();
        let want = match unit {
            // It is added to a purse.
            Unit::Raw if confirmed.intent().adds_to().is_some() => 0,
            Unit::Use => capabilities::chunk(stock, 1),
            // What a request takes of a purse is not known here. The first one finds half of it leased.
            Unit::Raw => stock.div_euclid(2),
        };
        let grantee = Grantee { id, holder: self.capabilities.holder(), want, ttl: LEASE_SECONDS };
        fail::fail_point!("payment-confirmed", |_| std::process::abort());
        let settled = settle::settle(&*self.store, confirmed, grantee, self.clock.now()).await;
        let settled = settled.map_err(|it| unsettled(&it, block))?;
        fail::fail_point!("payment-granted", |_| std::process::abort());
        if settled.is_fresh() {
            let Intent { route, mechanism, amount, .. } = settled.intent();
            self.metrics.settled(route.label(), *mechanism, *amount, watch.elapsed());
        }
        Ok(self.capabilities.admit(settled))
    }

    /// Settles a payment that its client has sent. `judge` compares it with what the ledger shows.
    async fn settle_sent(
        &self,
        (block, nonce): (BlockHash, Nonce),
        identified: Option<IdentifiedRequest>,
        judge: impl FnOnce(BlockFacts) -> Result<Seen, Unsettled>,
        look_up: &mut LookUp,
        watch: Stopwatch,
    ) -> SettlementResult {
        let identified = match self.journalled(block).await? {
            Some(payment) if payment.intent.challenge != nonce => return Err(self.is_anothers(&payment)),
            Some(payment) if payment.state == PaymentState::Granted => {
                return self.find_granted(payment).await;
            }
            // The id it was first seen under stays, also if there was none.
            Some(payment) => payment.intent.identified,
            None => identified,
        };
        let facts = self.ledger.block(block).await;
        let facts = facts.map_err(|it| self.no_node(&it, "the payment's block could not be looked up"))?;
        let not_found = Unsettled::Wait(Wait::Pending { block, reason: PendingReason::BlockNotFound });
        let seen = judge(facts.ok_or(not_found)?)?.under(identified);
        look_up.bear_out();
        let mut later = None;
        if !seen.is_confirmed() {
            fail::fail_point!("payment-checked", |_| std::process::abort());
            // Journalled, so that the proof stays good if its challenge expires meanwhile.
            if !settle::note(&*self.store, &seen, self.clock.now()).await? {
                return Err(Refusal::DuplicateBlockHash.into());
            }
            fail::fail_point!("payment-claimed", |_| std::process::abort());
            let follow = Stopwatch::start();
            match self.ledger.await_confirmation(block, self.patience()).await {
                Ok(Sighting::Confirmed(facts)) => later = Some(facts),
                Ok(Sighting::Unconfirmed(_) | Sighting::Unknown) | Err(_) => {
                    return Err(Unsettled::pending(block));
                }
            }
            self.metrics.confirmed(follow.elapsed());
        }
        self.grant(seen.confirm(later.as_ref()), watch).await
    }
}

impl From<Unfit> for Unsettled {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::Refused(refusal) => refusal.into(),
            Unfit::Amount { came, asked } => {
                Self::Refused(Refusal::InsufficientAmount, Some(Particular::Amount { came, asked }))
            }
        }
    }
}

impl From<StoreError> for Unsettled {
    fn from(error: StoreError) -> Self {
        troubles::no_store(&error, "a payment could not be recorded");
        Self::Wait(Wait::NoStore)
    }
}

/// Why the payment of `block` was not granted.
fn unsettled(error: &SettleError, block: BlockHash) -> Unsettled {
    match error {
        SettleError::Taken => Refusal::DuplicateBlockHash.into(),
        SettleError::IdHeld => Unsettled::IdHeld,
        // The payment is on the ledger. Only the record is missing, and the same proof brings it.
        SettleError::Store(error) => {
            tracing::error!(%error, "a confirmed payment could not be recorded yet");
            Unsettled::pending(block)
        }
    }
}
