//! From a checked proof to a capability: the steps that need the ledger and the store.
//!
//! Not yet is never turned into no. A refusal is given only where the ledger or the store says so;
//! everything else leaves the payment in the journal and is answered "pending".

use std::net::IpAddr;
use std::time::Duration;

use super::flights::Landing;
use super::proof::Checked;
use super::{Core, PATIENCE, PendingReason, Wait};
use crate::clock::Stopwatch;
use crate::ledger::work::NoWork;
use crate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use crate::nano::{BlockHash, StateBlock};
use crate::payment::capability::CapabilityId;
use crate::payment::nano_session::Unfit;
use crate::payment::nano_txn::{Approved, Judged, Workless};
use crate::payment::{BlockFacts, Confirmed, Identified, Intent, Nonce, Refusal, Seen, nano_txn};
use crate::store::capabilities::{self, LEASE_SECONDS};
use crate::store::settle::{self, Claim, Claimed, SettleError};
use crate::store::{Grantee, PaymentRecord, PaymentState, Store, StoreError};

/// How long a broadcast block is waited for before it is looked at again as a whole.
const SLICE: Duration = Duration::from_secs(3);
/// Between two looks where the ledger has nothing to say.
const PAUSE: Duration = Duration::from_millis(250);

const PENDING: Landing = Landing::Pending(PendingReason::Settlement);

impl<L: Ledger, S: Store> Core<L, S> {
    /// Settles a checked payment, made under an id or none; work that is made for it counts against
    /// `client`. Runs to its end whoever waits for it.
    pub(super) async fn settle(
        self: std::sync::Arc<Self>,
        checked: Checked,
        identified: Option<Identified>,
        client: Option<IpAddr>,
    ) -> Landing {
        let (watch, mechanism) = (Stopwatch::start(), checked.challenge().offer().mechanism);
        let block = checked.hash();
        let landing = match checked {
            Checked::Txn(checked) => self.settle_txn(checked, identified, client, watch).await,
            Checked::Signature(checked) => {
                let (hash, nonce) = (checked.hash(), checked.challenge().nonce());
                let judge = |facts| checked.judge(facts).map_err(Landing::Refused);
                self.settle_sent((hash, nonce), identified, judge, watch).await
            }
            Checked::Session(checked) => {
                let (hash, nonce) = (checked.hash(), checked.challenge().nonce());
                let judge = |facts| checked.judge(facts).map_err(Landing::from);
                self.settle_sent((hash, nonce), identified, judge, watch).await
            }
        };
        let duration_ms = watch.elapsed().as_millis();
        match &landing {
            Landing::Granted(_) => tracing::info!(%block, %mechanism, duration_ms, "payment granted"),
            Landing::Refused(reason) => tracing::info!(%block, %mechanism, %reason, "payment refused"),
            Landing::Identified => tracing::info!(%block, %mechanism, "another payment holds the id"),
            Landing::WrongAmount { came, asked } => {
                tracing::info!(%block, %mechanism, amount_raw = %came, %asked, "payment of another amount refused");
            }
            Landing::Pending(reason) => tracing::info!(%block, %mechanism, ?reason, "payment pending"),
            Landing::Unavailable(why) => tracing::warn!(%block, %mechanism, ?why, "payment not settled"),
        }
        landing
    }

    async fn settle_txn(
        &self,
        checked: nano_txn::Checked,
        identified: Option<Identified>,
        client: Option<IpAddr>,
        watch: Stopwatch,
    ) -> Landing {
        let nonce = checked.challenge().nonce();
        match self.store.payment(checked.hash()).await {
            Err(error) => return no_store(&error),
            Ok(Some(payment)) => return self.take_up(payment, nonce, watch).await,
            Ok(None) => {}
        }
        let facts = match self.ledger.account_at(checked.payer(), checked.previous()).await {
            Ok(facts) => facts,
            Err(error) => {
                tracing::warn!(%error, "the payer's account could not be looked up");
                return Landing::Unavailable(Wait::NoNode);
            }
        };
        let hash = checked.hash();
        let approved = match checked.judge(facts.as_ref()) {
            Ok(Judged::Approved(approved)) => approved.under(identified),
            Ok(Judged::Workless(workless)) => match self.work_for(workless, client).await {
                Ok(approved) => approved.under(identified),
                Err(landing) => return landing,
            },
            Err(refusal) => return self.refuse_unless_known(hash, nonce, refusal, watch).await,
        };
        fail::fail_point!("payment-checked", |_| std::process::abort());
        match settle::claim(&*self.store, approved, self.clock.now()).await {
            Err(error) => no_store(&error),
            Ok(Claim::Mine(claimed)) => self.carry_out(*claimed, watch).await,
            Ok(Claim::Existing(payment)) => self.take_up(*payment, nonce, watch).await,
            Ok(Claim::FrontierHeld) => Landing::Refused(Refusal::DuplicateFrontier),
            Ok(Claim::IdHeld) => Landing::Identified,
            Ok(Claim::Spent) => Landing::Refused(Refusal::DuplicateBlockHash),
        }
    }

    /// Refuses a block that does not fit its account, unless another instance has taken up this very
    /// payment since the journal was asked: then it is that one's broadcast that moved the account.
    async fn refuse_unless_known(
        &self,
        hash: BlockHash,
        nonce: Nonce,
        refusal: Refusal,
        watch: Stopwatch,
    ) -> Landing {
        match self.store.payment(hash).await {
            Err(error) => no_store(&error),
            Ok(Some(payment)) => self.take_up(payment, nonce, watch).await,
            Ok(None) => Landing::Refused(refusal),
        }
    }

    /// Has work made for a payment that everything else speaks for: it is broadcast next.
    async fn work_for(&self, workless: Workless, client: Option<IpAddr>) -> Result<Approved, Landing> {
        let Some(server) = &self.work.server else { return Err(Landing::Refused(Refusal::InvalidWork)) };
        let (watch, threshold) = (Stopwatch::start(), self.work.threshold);
        let work = server.work(workless.root(), threshold, client).await;
        self.metrics.work_made(
            match &work {
                Ok(_) => "made",
                Err(NoWork::Share | NoWork::Crowded) => "turned_away",
                Err(NoWork::Server(_)) => "failed",
            },
            watch.elapsed(),
        );
        match work {
            Ok(work) => workless.with(work, threshold).map_err(Landing::Refused),
            Err(error @ NoWork::Server(_)) => {
                tracing::warn!(%error, "a payment without work cannot be broadcast");
                Err(Landing::Unavailable(Wait::NoWork))
            }
            Err(error @ (NoWork::Share | NoWork::Crowded)) => {
                tracing::info!(%error, "a payment without work is turned away");
                Err(Landing::Unavailable(Wait::Overloaded))
            }
        }
    }

    /// Goes on with a payment that the journal knows already.
    pub(super) async fn take_up(&self, payment: PaymentRecord, nonce: Nonce, watch: Stopwatch) -> Landing {
        if payment.intent.challenge != nonce {
            return Landing::Refused(Refusal::DuplicateBlockHash);
        }
        if payment.state == PaymentState::Granted {
            return self.find_granted(payment).await;
        }
        match settle::resume(&*self.store, payment, self.clock.now()).await {
            Err(error) => no_store(&error),
            Ok(Claim::Mine(claimed)) => self.carry_out(*claimed, watch).await,
            Ok(Claim::IdHeld) => Landing::Identified,
            Ok(Claim::FrontierHeld) => Landing::Refused(Refusal::DuplicateFrontier),
            Ok(Claim::Spent) => Landing::Refused(Refusal::DuplicateBlockHash),
            Ok(Claim::Existing(payment)) => match payment.state {
                PaymentState::Granted => self.find_granted(*payment).await,
                PaymentState::Failed => Landing::Refused(Refusal::FrontierChanged),
                PaymentState::Intent | PaymentState::Parked => PENDING,
            },
        }
    }

    pub(super) async fn find_granted(&self, payment: PaymentRecord) -> Landing {
        let holder = self.capabilities.holder();
        match settle::find_granted(&*self.store, payment, holder, self.clock.now()).await {
            Ok(settled) => Landing::Granted(self.capabilities.admit(settled)),
            Err(error) => unsettled(&error),
        }
    }

    /// Broadcasts a claimed payment and follows it until it is granted, fails, or [`PATIENCE`] ends.
    /// `process` is repeated while the block is not seen: a node can drop a block it accepted.
    async fn carry_out(&self, claimed: Claimed, watch: Stopwatch) -> Landing {
        let Some(block) = claimed.intent().signed else {
            tracing::error!(block = %claimed.intent().block, "a claimed payment without its block");
            return PENDING;
        };
        fail::fail_point!("payment-claimed", |_| std::process::abort());
        let follow = Stopwatch::start();
        // Refused is not "unknown": the node may have it already, so it is looked up.
        let mut accepted = self.publish(&block).await;
        fail::fail_point!("payment-broadcast", |_| std::process::abort());
        while follow.elapsed() < PATIENCE {
            match self.look_for(block.hash(), accepted).await {
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
                    self.publish(&block).await;
                }
                Ok(Sighting::Unknown) => {
                    if let Some(landing) = self.unseen(&block, accepted).await {
                        return landing;
                    }
                    tokio::time::sleep(PAUSE).await;
                    accepted = self.publish(&block).await;
                }
                Err(error) => {
                    tracing::warn!(block = %block.hash(), %error, "confirmation not seen");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        PENDING
    }

    /// Sets a payment aside that the ledger confirmed as something else than it was judged to be: a
    /// node lied about the account. Its money has moved and buys nothing; it is for people to see.
    async fn contradicted(&self, block: &StateBlock, refusal: Refusal) {
        let hash = block.hash();
        tracing::error!(block = %hash, reason = %refusal, "a node lied: the ledger contradicts a payment");
        let live = [PaymentState::Intent];
        if let Err(error) = self.store.advance(hash, &live, PaymentState::Parked, self.clock.now()).await {
            tracing::warn!(block = %hash, %error, "not set aside");
        }
    }

    /// Waits for a block that a node took; looks once for one that all refused.
    async fn look_for(&self, hash: BlockHash, accepted: bool) -> Result<Sighting, LedgerError> {
        if accepted {
            return self.ledger.await_confirmation(hash, SLICE).await;
        }
        Ok(match self.ledger.block(hash).await? {
            Some(facts) if facts.confirmed() => Sighting::Confirmed(facts),
            Some(facts) => Sighting::Unconfirmed(facts),
            None => Sighting::Unknown,
        })
    }

    /// Broadcasts a block; false where every node that answered refused it.
    async fn publish(&self, block: &StateBlock) -> bool {
        match self.ledger.publish_send(block).await {
            Ok(()) => true,
            Err(PublishError::Unknown(error)) => {
                tracing::warn!(block = %block.hash(), %error, "broadcast without an answer");
                true
            }
            Err(PublishError::Refused(reason)) => {
                tracing::info!(block = %block.hash(), %reason, "broadcast refused");
                false
            }
        }
    }

    /// What an unseen block means: another block confirmed in its place ends the payment; a refusal
    /// without that parks it, since anyone may still publish the block. Nothing: wait on.
    async fn unseen(&self, block: &StateBlock, accepted: bool) -> Option<Landing> {
        let hash = block.hash();
        match self.was_overtaken(block).await {
            Some(true) => {
                let live = [PaymentState::Intent, PaymentState::Parked];
                match self.store.advance(hash, &live, PaymentState::Failed, self.clock.now()).await {
                    Ok(_) => Some(Landing::Refused(Refusal::FrontierChanged)),
                    Err(error) => Some(no_store(&error)),
                }
            }
            Some(false) if !accepted => {
                let live = [PaymentState::Intent];
                match self.store.advance(hash, &live, PaymentState::Parked, self.clock.now()).await {
                    Ok(_) => Some(Landing::Refused(Refusal::BroadcastFailed)),
                    Err(error) => Some(no_store(&error)),
                }
            }
            Some(false) | None => None,
        }
    }

    /// Whether another block is confirmed in this one's place; nothing where no node can say. That a
    /// node does not know this block proves nothing: it may be behind. What proves it is the other
    /// block.
    pub(super) async fn was_overtaken(&self, block: &StateBlock) -> Option<bool> {
        let Some(next) = self.ledger.successor(block.previous).await.ok()? else { return Some(false) };
        if next == block.hash() {
            return Some(false);
        }
        let rival = self.ledger.block(next).await.ok()?;
        Some(rival.is_some_and(|facts| facts.confirmed() && facts.previous() == block.previous))
    }

    pub(super) async fn grant(&self, confirmed: Result<Confirmed, Refusal>, watch: Stopwatch) -> Landing {
        let confirmed = match confirmed {
            Ok(confirmed) => confirmed,
            Err(refusal) => return Landing::Refused(refusal),
        };
        let Intent { block, terms, .. } = *confirmed.intent();
        let id = CapabilityId::of_payment(block);
        let want = capabilities::chunk(terms.grants.requests.get());
        let grantee = Grantee { id, holder: self.capabilities.holder(), want, ttl: LEASE_SECONDS };
        fail::fail_point!("payment-confirmed", |_| std::process::abort());
        match settle::settle(&*self.store, confirmed, grantee, self.clock.now()).await {
            Ok(settled) => {
                fail::fail_point!("payment-granted", |_| std::process::abort());
                if settled.is_fresh() {
                    let Intent { route, mechanism, amount, .. } = settled.intent();
                    self.metrics.settled(route.label(), *mechanism, *amount, watch.elapsed());
                }
                Landing::Granted(self.capabilities.admit(settled))
            }
            Err(error) => unsettled(&error),
        }
    }

    /// Settles a payment that its client has sent: `judge` holds it against what the ledger shows.
    async fn settle_sent(
        &self,
        (hash, nonce): (BlockHash, Nonce),
        identified: Option<Identified>,
        judge: impl FnOnce(BlockFacts) -> Result<Seen, Landing>,
        watch: Stopwatch,
    ) -> Landing {
        let identified = match self.store.payment(hash).await {
            Err(error) => return no_store(&error),
            Ok(Some(payment)) if payment.intent.challenge != nonce => {
                return Landing::Refused(Refusal::DuplicateBlockHash);
            }
            Ok(Some(payment)) if payment.state == PaymentState::Granted => {
                return self.find_granted(payment).await;
            }
            // The id that it was first seen under stands, none too.
            Ok(Some(payment)) => payment.intent.identified,
            Ok(None) => identified,
        };
        let facts = match self.ledger.block(hash).await {
            Ok(Some(facts)) => facts,
            Ok(None) => return Landing::Pending(PendingReason::BlockNotFound),
            Err(error) => {
                tracing::warn!(block = %hash, %error, "the payment's block could not be looked up");
                return Landing::Unavailable(Wait::NoNode);
            }
        };
        let seen = match judge(facts) {
            Ok(seen) => seen.under(identified),
            Err(landing) => return landing,
        };
        let mut later = None;
        if !seen.is_confirmed() {
            fail::fail_point!("payment-checked", |_| std::process::abort());
            // Journalled, so that the proof stays good when its challenge runs out meanwhile.
            match settle::note(&*self.store, &seen, self.clock.now()).await {
                Ok(true) => {}
                Ok(false) => return Landing::Refused(Refusal::DuplicateBlockHash),
                Err(error) => return no_store(&error),
            }
            fail::fail_point!("payment-claimed", |_| std::process::abort());
            let follow = Stopwatch::start();
            match self.ledger.await_confirmation(hash, PATIENCE).await {
                Ok(Sighting::Confirmed(facts)) => later = Some(facts),
                Ok(Sighting::Unconfirmed(_) | Sighting::Unknown) | Err(_) => return PENDING,
            }
            self.metrics.confirmed(follow.elapsed());
        }
        self.grant(seen.confirm(later.as_ref()), watch).await
    }
}

impl From<Unfit> for Landing {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::Refused(refusal) => Self::Refused(refusal),
            Unfit::Amount { came, asked } => Self::WrongAmount { came, asked },
        }
    }
}

fn no_store(error: &StoreError) -> Landing {
    tracing::warn!(%error, "a payment could not be recorded");
    Landing::Unavailable(Wait::NoStore)
}

fn unsettled(error: &SettleError) -> Landing {
    match error {
        SettleError::Taken => Landing::Refused(Refusal::DuplicateBlockHash),
        SettleError::IdHeld => Landing::Identified,
        // The payment is on the ledger; only the record is missing, and the same proof brings it.
        SettleError::Store(error) => {
            tracing::error!(%error, "a confirmed payment could not be recorded yet");
            PENDING
        }
    }
}
