//! Payments under a payment identifier, an id that the client chose. A request that comes again under
//! the id, from the same payer and for the same thing, gets what the first payment bought and is not
//! charged.
//!
//! The id is claimed in the step that claims the block ([`Claims::begin`](crate::store::Claims::begin),
//! [`Meters::grant`](crate::store::Meters::grant)), so that
//! no crash comes between the two and no two instances settle two payments under one id. A second
//! proof is never settled. It must show that it is the payer's: blocks are public once they are
//! broadcast, so a block counts only while nobody but its signer can know it. A `nanoSignature` signs
//! a challenge of this gateway.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::denied::Denied;
use super::flights::{FlightKey, Frontier, SettlementLimit};
use super::lanes::{Lane, LaneKey};
use super::look_ups::LookUp;
use super::proof::{Checked, Proof};
use super::reasons::{IdentifierRefusal, Wait};
use super::unsettled::{SettlementResult, Unsettled};
use super::verdict::{Admitted, How, Keeping, Replay, Verdict};
use super::{Cashier, Core, Opened, Wanted};
use crate::clock::Stopwatch;
use crate::ledger::Ledger;
use crate::nano::{Account, UnixSeconds};
use crate::payment::capability::CapabilityId;
use crate::payment::{IdentifiedRequest, IdentifierKey};
use crate::shutdown::{self, StopSignal};
use crate::store::capabilities::{CachedCapability, NoUse};
use crate::store::{Answer, Forget, PaymentRecord, PaymentState, Store, StoreError, repeat_unknown};

/// How often old ids and answers are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(30);
/// Rows of each kind that are forgotten in one step, and the pause before the next step. Other writers
/// wait for a step.
const BATCH: u32 = 128;
const BETWEEN_BATCHES: Duration = Duration::from_millis(50);

/// How long payment identifiers and answers are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IdentifierSettings {
    /// Seconds for which an id stands for its payment.
    pub ids: u64,
    /// Seconds for which an answer is kept.
    pub answers: u64,
    /// Bytes of the largest body that is kept.
    pub largest_answer: usize,
}

/// What a proof came with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Under {
    pub(super) identified: IdentifiedRequest,
    /// The account that claims to have paid.
    pub(super) payer: Account,
    pub(super) client: Option<Client>,
    /// As in [`Ask`](super::Ask).
    pub(super) down: Option<NonZeroU64>,
}

impl<L: Ledger, S: Store> Cashier<L, S> {
    /// Redeems a proof that came under an id.
    pub(super) async fn redeem_identified(
        &self,
        proof: Proof,
        wanted: Wanted<'_>,
        under: Under,
    ) -> Result<Verdict, Denied> {
        let Under { identified, payer, client, down } = under;
        let block = proof.block();
        let Proof { nonce, offer, evidence, .. } = proof;
        let challenge = self.challenge(nonce, offer, wanted)?;
        self.refuse_moved(&challenge, block, wanted)?;
        wanted.refuse_too_small(&challenge)?;
        // Always, even if this very proof was seen before: its signature is what names the payer.
        let (checked, look_up) =
            self.admissible(challenge, evidence, wanted, Some(identified), client).await?;
        // Before the lane is entered: what takes long for a proof that anybody could have made must not keep
        // the payer's own waiting.
        let is_payers = self.shows_payer(&checked, client, look_up).await?;
        let unproven = (!is_payers).then(|| (block, checked.challenge().nonce()));
        let wait = self.0.settings.load().wait;
        let lane = self.0.lanes.enter(LaneKey { id: identified.id, payer, unproven }, wait).await;
        let lane = lane.ok_or(Denied::Wait(Wait::SameId))?;
        let look_up = self.look_up(client).await?;
        let held = match self.payment_under(identified.id).await? {
            Some(first) => self.join(first, (checked, is_payers), under, look_up).await?,
            None => match self.fly(checked.clone(), (Some(identified), client), down, Some(look_up)).await {
                // Another instance may have been quicker.
                Err(why @ (Unsettled::Refused(..) | Unsettled::IdHeld)) => {
                    match self.payment_under(identified.id).await? {
                        Some(first) if first.intent.block != block => {
                            let look_up = self.look_up(client).await?;
                            self.join(first, (checked, is_payers), under, look_up).await?
                        }
                        Some(_) | None => return Err(why.into()),
                    }
                }
                settled @ (Ok(_) | Err(Unsettled::Wait(_))) => settled?,
            },
        };
        self.serve(&held, identified, lane, wanted).await
    }

    /// Whether a payment is granted under the id. Then nothing is settled for a proof that comes late,
    /// and asking its payer for another payment would be wrong.
    pub(super) async fn is_bought(&self, identified: Option<IdentifiedRequest>) -> Result<bool, Denied> {
        let Some(identified) = identified else { return Ok(false) };
        let first = self.payment_under(identified.id).await?;
        Ok(first.is_some_and(|it| it.state == PaymentState::Granted))
    }

    async fn payment_under(&self, id: IdentifierKey) -> Result<Option<PaymentRecord>, Denied> {
        self.0.store.identified(id).await.map_err(|error| no_store(&error))
    }

    /// What the `first` payment under an id bought, for another proof under the same id, which
    /// [`Cashier::is_the_payers`] or not.
    async fn join(
        &self,
        first: PaymentRecord,
        (checked, is_payers): (Checked, bool),
        under: Under,
        mut look_up: LookUp,
    ) -> Result<Arc<CachedCapability>, Denied> {
        let Under { identified, payer, client, down } = under;
        let same_proof =
            first.intent.block == checked.hash() && first.intent.challenge == checked.challenge().nonce();
        let may_join = first.intent.payer == payer && (same_proof || is_payers);
        if !may_join || first.intent.identified != Some(identified) {
            look_up.was_in_vain();
            return Err(Denied::Identifier(IdentifierRefusal::Conflict));
        }
        if same_proof || first.state == PaymentState::Failed {
            return Ok(self.fly(checked, (Some(identified), client), down, Some(look_up)).await?);
        }
        look_up.bear_out();
        // From the cache: the store's copy would lack the uses that came with the grant while the grant's
        // answer is on its way here.
        if first.state == PaymentState::Granted
            && let Some(held) = self.0.capabilities.known(CapabilityId::of_payment(first.intent.block))
        {
            return Ok(held);
        }
        let block = first.intent.block;
        match self.finish(first).await {
            // It came to nothing, as far as can be said. The store decides whether this payment may take
            // its place.
            Err(Unsettled::Refused(..) | Unsettled::IdHeld) => {
                match self.fly(checked, (Some(identified), client), down, Some(look_up)).await {
                    Err(Unsettled::IdHeld) => Err(Unsettled::pending(block).into()),
                    settled @ (Ok(_) | Err(Unsettled::Refused(..) | Unsettled::Wait(_))) => Ok(settled?),
                }
            }
            settled @ (Ok(_) | Err(Unsettled::Wait(_))) => Ok(settled?),
        }
    }

    /// As [`Cashier::is_the_payers`], with a look-up that is given back before the lane is entered: those
    /// that wait in it hold none.
    async fn shows_payer(
        &self,
        checked: &Checked,
        client: Option<Client>,
        look_up: Option<LookUp>,
    ) -> Result<bool, Denied> {
        let look_up = match look_up {
            Some(look_up) => look_up,
            None => self.look_up(client).await?,
        };
        let shown = self.is_the_payers(checked).await;
        if shown.is_err() {
            look_up.was_in_vain();
        }
        shown
    }

    /// Whether only the payer can have made this proof. A `nanoSignature` is over a challenge. A signed
    /// block proves nothing once it is public, except under the challenge it was journalled with.
    async fn is_the_payers(&self, checked: &Checked) -> Result<bool, Denied> {
        if matches!(checked, Checked::Signature(_)) {
            return Ok(true);
        }
        if let Some(is_under) = self.is_journalled_under(checked).await? {
            return Ok(is_under);
        }
        match self.0.ledger.block(checked.hash()).await {
            Ok(None) => Ok(true),
            // Since the journal was asked, a copy of this proof may have been noted there, and then broadcast.
            Ok(Some(_)) => Ok(self.is_journalled_under(checked).await?.unwrap_or(false)),
            Err(error) => {
                tracing::warn!(%error, "a second proof under an id could not be looked up");
                Err(Denied::Wait(Wait::NoNode))
            }
        }
    }

    /// Whether the journal has the payment under the proof's own challenge; `None` if it does not have it.
    async fn is_journalled_under(&self, checked: &Checked) -> Result<Option<bool>, Denied> {
        let journalled = self.0.store.payment(checked.hash()).await.map_err(|error| no_store(&error))?;
        Ok(journalled.map(|it| it.intent.challenge == checked.challenge().nonce()))
    }

    /// Settles a payment that the journal knows, or joins its settlement, and waits for it. A granted
    /// one is taken into the cache.
    async fn finish(&self, first: PaymentRecord) -> SettlementResult {
        let settings = self.0.settings.load_full();
        let key = FlightKey {
            block: first.intent.block,
            nonce: first.intent.challenge,
            frontier: Frontier::of(&first.intent),
        };
        let core = Arc::clone(&self.0);
        let (limit, wait) =
            (SettlementLimit { all: settings.pending_settlements, client: None }, settings.wait);
        self.0.flights.join_or_start(key, limit, wait, &self.0.runtime, || core.finish(first)).await
    }

    /// What the payment bought: the answer that is kept, or a use.
    async fn serve(
        &self,
        held: &Arc<CachedCapability>,
        identified: IdentifiedRequest,
        lane: Lane,
        wanted: Wanted<'_>,
    ) -> Result<Verdict, Denied> {
        let own = held.purchase().identifier.as_deref();
        if own.is_some_and(|id| *id != identified.id) {
            return Err(Denied::Identifier(IdentifierRefusal::OtherId));
        }
        let gone = || Denied::Identifier(IdentifierRefusal::Gone);
        let opened = self.opened(Arc::clone(held), wanted).await?;
        if let Some(answer) = self.kept(held).await? {
            return self.replay(&opened, answer).ok_or_else(gone);
        }
        let admitted = match self.take(&opened, How::Paid, wanted).await {
            Ok(admitted) => admitted,
            // Another instance may have answered in between. It keeps an answer before it spends the use.
            Err(NoUse::Exhausted) => {
                let answer = self.kept(held).await?;
                return answer.and_then(|it| self.replay(&opened, it)).ok_or_else(gone);
            }
            Err(why) => return Err(Denied::no_use(&why, gone())),
        };
        // The answer to a payment without an id could not be found again. A payment that gave its id up may
        // have it back.
        let block = held.record().block;
        let holds = |it: PaymentRecord| it.intent.block == block;
        let named = own.is_some() || self.payment_under(identified.id).await?.is_some_and(holds);
        let largest = self.0.settings.load().identifiers.largest_answer;
        let keeping = named.then_some(Keeping { _lane: lane, largest });
        Ok(Verdict::Admit(Admitted { keeping, ..admitted }))
    }

    async fn kept(&self, held: &CachedCapability) -> Result<Option<Answer>, Denied> {
        self.0.store.kept(held.record().block).await.map_err(|error| no_store(&error))
    }

    /// A kept answer, given again; `None` if only the fact that there was one is kept.
    fn replay(&self, opened: &Opened, answer: Answer) -> Option<Verdict> {
        let whole = answer.body.is_some();
        let Opened { held, added } = opened.clone();
        let said = self.said(opened);
        whole.then(|| Verdict::Replay(Box::new(Replay { answer, held, added, said })))
    }

    /// Keeps the answer to an admitted request, before its use is spent: a crash between the two favours
    /// the payer. False if it could not be kept.
    pub async fn keep(&self, admitted: &Admitted, answer: &Answer) -> bool {
        let block = admitted.purchase().block;
        let now = self.0.clock.now();
        match repeat_unknown(|| self.0.store.keep(block, answer, now)).await {
            Ok(_first) => true,
            Err(error) => {
                tracing::warn!(%block, %error, "an answer could not be kept");
                false
            }
        }
    }

    /// Forgets old ids and answers until `shutdown` turns true.
    pub async fn forget(&self, mut shutdown: StopSignal) {
        loop {
            let pause = match self.forget_some().await {
                Ok(0) => FORGET_EVERY,
                Ok(_) => BETWEEN_BATCHES,
                Err(error) => {
                    tracing::warn!(%error, "old payment identifiers could not be forgotten");
                    FORGET_EVERY
                }
            };
            tokio::select! {
                biased;
                () = shutdown::asked_for(&mut shutdown) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Forgets one batch; returns how many rows it changed.
    async fn forget_some(&self) -> Result<u32, StoreError> {
        let now = self.0.clock.now();
        let ago = |seconds: u64| UnixSeconds(now.0.saturating_sub(seconds));
        let settings = self.0.settings.load().identifiers;
        let (ids_until, answers_until) = (ago(settings.ids), ago(settings.answers));
        self.0.store.forget(Forget { ids_until, answers_until, limit: BATCH }).await
    }
}

impl<L: Ledger, S: Store> Core<L, S> {
    /// Goes on with a payment because a client asks for what it buys. A signed block is broadcast again;
    /// a block that the client sent is waited for.
    async fn finish(self: Arc<Self>, payment: PaymentRecord) -> SettlementResult {
        if payment.state == PaymentState::Granted {
            return self.find_granted(payment).await;
        }
        if payment.intent.signed.is_none() {
            return self.resolve(payment).await;
        }
        let nonce = payment.intent.challenge;
        self.take_up(payment, nonce, None, Stopwatch::start()).await
    }
}

fn no_store(error: &StoreError) -> Denied {
    Denied::no_store(error, "a payment identifier could not be looked up")
}
