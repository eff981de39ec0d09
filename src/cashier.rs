//! Decides requests to priced routes: checks payments, settles them, takes uses.
//!
//! It knows no HTTP. [`Cashier::decide`] answers an [`Ask`] with a [`Verdict`], which the gateway
//! carries out. A settlement runs in a task of its own on the core runtime, so that neither a client
//! that hangs up nor a listener that shuts down can cancel it.
//!
//! Three outcomes follow one another, and each becomes the next in one place. A settlement ends with a
//! capability or is [`Unsettled`]; a request that is not admitted is [`Denied`];
//! the caller gets a [`Verdict`].

mod client;
mod closing;
mod denied;
pub mod facilitate;
mod flights;
mod free;
mod handed_on;
mod idempotency;
mod lanes;
mod look_ups;
mod mint;
mod proof;
mod reasons;
mod recovery;
mod settlement;
mod troubles;
mod unsettled;
mod used_proofs;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::ledger::Ledger;
use crate::ledger::work::WorkServer;
use crate::metrics::{Metrics, ReachedLimit};
use crate::nano::{BlockHash, Raw, Threshold, UnixSeconds};
use crate::payment::address_pool::AddressPool;
use crate::payment::capability::{self, Capability, CapabilityId, CapabilityText, Token};
use crate::payment::challenge::{Challenge, Offer};
use crate::payment::{IdentifiedRequest, MacKeys, Mechanism, Nonce, Refusal};
use crate::routes::{Bearing, Bought, Listed, Metering, RouteName, Standing, Terms, Unit};
use crate::store::capabilities::{CachedCapability, Capabilities, NoUse, Wish};
use crate::store::{Holder, Store, Unsound};
use crate::sync::{Mutex, PoisonError};
use crate::x402::{WorkPolicy, WorkTerms};

use denied::Denied;
use flights::{Flights, SettlementLimit};
use idempotency::Under;
use lanes::Lanes;
use look_ups::{LookUp, LookUps};
use proof::Checked;
use troubles::Troubles;
use unsettled::{SettlementResult, Unsettled};
use used_proofs::UsedProofs;

pub use client::{Client, Share, Shares};
pub use closing::Closed;
pub use free::{FreeGrant, FreeGrantError, Given};
pub use handed_on::{HandedOn, Holding, NotHeld};
pub use idempotency::IdentifierSettings;
pub use proof::{Evidence, Proof};
pub use reasons::{IdentifierRefusal, Moved, PendingReason, Wait};
pub use verdict::{Admitted, Ask, Bill, How, Keeping, Presented, Refused, Replay, Verdict};

/// How long a settlement's own task waits for a confirmation, at least. After that, the recovery in the
/// background takes over.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many refusals a second are explained by more than the checks that found them.
const EXPLANATIONS: u32 = 8;

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    route: &'a RouteName,
    standing: &'a Standing,
    /// As in [`Ask`].
    listed: Listed,
    /// `None` while they are not known.
    terms: Option<Terms>,
    metering: Metering,
    /// As in [`Ask`].
    hold: Option<Raw>,
    /// As in [`Ask`].
    down: Option<NonZeroU64>,
    /// How long the request waits for its payment's confirmation.
    wait: Duration,
    /// The purse whose token came beside a proof for it.
    purse: Option<CapabilityId>,
}

/// What a payment opens.
#[derive(Clone, Debug)]
struct Opened {
    /// What requests take from.
    held: Arc<CachedCapability>,
    /// The payment, if it was added to that purse.
    added: Option<Arc<CachedCapability>>,
}

impl Wanted<'_> {
    /// What the request takes of a capability of this unit: of a purse what it may cost by the meter, or where the
    /// route has none the price of a request. `None` if that is not known.
    fn takes_of(&self, unit: Unit) -> Option<u128> {
        match unit {
            Unit::Use => Some(1),
            Unit::Raw => {
                let each = || self.terms.map(|it| it.each().unwrap_or(it.amount));
                self.hold.or_else(each).map(Raw::get)
            }
        }
    }

    /// What is taken of `held`.
    ///
    /// # Errors
    /// [`Wait::NoRate`], if it is a purse and the price is not known.
    fn wish(&self, held: &CachedCapability) -> Result<Wish, Denied> {
        let amount = self.takes_of(held.record().unit).ok_or(Denied::Wait(Wait::NoRate))?;
        Ok(Wish { amount, metering: self.metering })
    }

    /// Why nothing can be taken of a capability that is used up, or of a purse with less than the request may cost.
    fn exhausted(&self, held: &CachedCapability, used_up: Refusal) -> Denied {
        let used = |purse| Denied::Refused { refusal: used_up, explanation: None, late: None, purse };
        if held.record().unit == Unit::Use {
            return used(None);
        }
        let sells_purses = self.terms.is_some_and(|it| it.stock().0 == Unit::Raw);
        let purse = Some(held.record().id).filter(|_| sells_purses);
        let left = held.remaining();
        let needed = self.takes_of(Unit::Raw).filter(|_| left > 0);
        let Some(needed) = needed else { return used(purse) };
        let advice = match purse {
            Some(_) => {
                "ask for less, or pay and send this token with the payment, which is added to the purse"
            }
            None => "ask for less, or pay",
        };
        let explanation = Some(format!(
            "the purse has {left} raw left, and the request may cost {needed} raw: nothing was charged; {advice}"
        ));
        Denied::Refused { refusal: Refusal::CapabilityExhausted, explanation, late: None, purse }
    }

    /// Refuses the payment for a purse that is smaller than what the request may cost, or while that is not known. It
    /// stays good for others.
    fn refuse_too_small(&self, challenge: &Challenge) -> Result<(), Denied> {
        let (unit, stock) = challenge.offer().terms.stock();
        let needed = self.takes_of(unit).ok_or(Denied::Wait(Wait::NoRate))?;
        if unit == Unit::Use || stock >= needed {
            return Ok(());
        }
        let explanation = format!(
            "the payment buys a purse of {stock} raw, and the request may cost {needed} raw: nothing was charged; \
             send it with the request that it was made for, or with one that asks for less"
        );
        Err(Denied::explained(Refusal::InsufficientAmount, explanation))
    }

    /// How what a challenge offers stands to it.
    fn bearing(&self, challenge: &Challenge) -> Bearing {
        let route = challenge.offer().route.without_purse();
        let bought = Bought { route: &route, ..challenge.bought() };
        self.standing.bearing(self.route, self.listed, self.terms, bought)
    }
}

/// What can change while the gateway runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In the order in which a bill offers them.
    pub mechanisms: Vec<Mechanism>,
    /// What routes with mechanisms of their own offer instead.
    pub by_route: BTreeMap<RouteName, Vec<Mechanism>>,
    /// How long a challenge is good, in seconds.
    pub lifetime: u64,
    /// How long a request waits for its payment's confirmation before it is answered "pending".
    pub wait: Duration,
    /// Whether a signed block is taken without the `extra` of the bill that it answers.
    pub without_extra: bool,
    /// Settlements under way at once. Beyond that, new ones are shed.
    pub pending_settlements: usize,
    pub per_client: ClientLimits,
    /// The same of one caller of the facilitator.
    pub per_caller: ClientLimits,
    pub identifiers: IdentifierSettings,
    /// The names that routes have or had.
    pub routes: BTreeSet<RouteName>,
}

/// What one client may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientLimits {
    /// Settlements under way at once.
    pub settlements: usize,
    /// Look-ups in the store and at nodes in vain within a minute, and under way at once.
    pub lookups: u32,
}

impl Settings {
    const fn limits_of(&self, client: Client) -> ClientLimits {
        if client.is_caller() { self.per_caller } else { self.per_client }
    }
}

/// What a cashier is made of.
#[derive(Debug)]
pub struct Parts<L, S> {
    pub keys: MacKeys,
    pub pool: AddressPool,
    /// What work a block needs, and who makes it if the client does not.
    pub work: WorkRules,
    pub ledger: Arc<L>,
    pub store: Arc<S>,
    pub clock: Clock,
    pub entropy: Entropy,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    pub holder: Holder,
    pub capabilities_cached: u64,
    /// Where settlements run.
    pub runtime: tokio::runtime::Handle,
}

/// What work a block needs that the gateway broadcasts.
#[derive(Clone, Debug)]
pub struct WorkRules {
    pub threshold: Threshold,
    /// Makes it for a block that comes without. `None`: such a block is refused.
    pub server: Option<WorkServer>,
}

impl WorkRules {
    /// What a bill says about it.
    #[must_use]
    pub const fn terms(&self) -> WorkTerms {
        let policy = if self.server.is_some() { WorkPolicy::Optional } else { WorkPolicy::Required };
        WorkTerms { policy, threshold: self.threshold }
    }
}

/// Decides requests. Cheap to clone.
#[derive(Debug)]
pub struct Cashier<L, S>(Arc<Core<L, S>>);

impl<L, S> Clone for Cashier<L, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Core<L, S> {
    keys: MacKeys,
    pool: AddressPool,
    work: WorkRules,
    ledger: Arc<L>,
    store: Arc<S>,
    clock: Clock,
    entropy: Entropy,
    metrics: Arc<Metrics>,
    settings: ArcSwap<Settings>,
    capabilities: Capabilities<S>,
    flights: Flights,
    lanes: Lanes,
    look_ups: LookUps,
    used_proofs: UsedProofs,
    troubles: Troubles,
    runtime: tokio::runtime::Handle,
    /// How many refusals were explained at some cost, and in which second.
    explained: Mutex<(UnixSeconds, u32)>,
}

impl<L: Ledger, S: Store> Cashier<L, S> {
    #[must_use]
    pub fn new(parts: Parts<L, S>) -> Self {
        let Parts { keys, pool, work, ledger, store, clock, entropy, metrics, settings, holder, .. } = parts;
        let capabilities =
            Capabilities::new(Arc::clone(&store), clock.clone(), holder, parts.capabilities_cached);
        Self(Arc::new(Core {
            keys,
            pool,
            work,
            ledger,
            store,
            clock,
            entropy,
            metrics,
            settings: ArcSwap::from_pointee(settings),
            capabilities,
            flights: Flights::default(),
            lanes: Lanes::default(),
            look_ups: LookUps::default(),
            used_proofs: UsedProofs::default(),
            troubles: Troubles::default(),
            runtime: parts.runtime,
            explained: Mutex::new((UnixSeconds(0), 0)),
        }))
    }

    /// Changes the settings. Requests under way keep those they started with.
    pub fn configure(&self, settings: Settings) {
        self.0.settings.store(Arc::new(settings));
    }

    #[must_use]
    pub fn capabilities(&self) -> &Capabilities<S> {
        &self.0.capabilities
    }

    /// The addresses that payments are sent to.
    #[must_use]
    pub fn pool(&self) -> &AddressPool {
        &self.0.pool
    }

    /// What routes offer to pay with, in the order of a bill.
    #[must_use]
    pub fn offered(&self, route: &RouteName) -> Vec<Mechanism> {
        let settings = self.0.settings.load();
        settings.by_route.get(route.configured()).unwrap_or(&settings.mechanisms).clone()
    }

    /// The time by which the cashier decides.
    #[must_use]
    pub fn now(&self) -> UnixSeconds {
        self.0.clock.now()
    }

    /// How many settlements are under way.
    #[must_use]
    pub fn settling(&self) -> usize {
        self.0.flights.count()
    }

    /// Says whether a payment could be settled now, as far as is known.
    ///
    /// # Errors
    /// [`Wait::NoNode`], [`Wait::NoStore`].
    pub fn readiness(&self) -> Result<(), Wait> {
        if !self.0.ledger.is_healthy() {
            return Err(Wait::NoNode);
        }
        self.store_readiness().map_err(|_| Wait::NoStore)
    }

    /// Says whether the store could record a sale now.
    ///
    /// # Errors
    /// [`Unsound`].
    pub fn store_readiness(&self) -> Result<(), Unsound> {
        self.0.store.health().sells(self.0.clock.now())
    }

    /// Says in the log that the store can be asked again, if it could not be and has been for a minute. Call it now
    /// and then.
    pub fn say_if_store_is_back(&self) {
        troubles::store_may_be_back();
    }

    /// Decides one request to a priced route.
    pub async fn decide(&self, ask: Ask) -> Verdict {
        let Ask { route, standing, listed, quoted, metering, hold, presented, identified, client, down, url } =
            ask;
        let terms = quoted.map(|it| it.terms);
        let wait = self.0.settings.load().wait;
        let (standing, purse) = (&standing, None);
        let mut wanted = Wanted { route: &route, standing, listed, terms, metering, hold, down, wait, purse };
        let place = standing.place();
        // What cannot be served is not sold.
        let bill = |purse: Option<CapabilityId>, late: Option<&Challenge>, refused| {
            if let Some(pause) = down {
                return Verdict::Wait(Wait::UpstreamDown(pause));
            }
            let Some(quoted) = quoted else { return Verdict::Wait(Wait::NoRate) };
            match purse {
                None => self.bill(&route, quoted, place, late, refused),
                Some(id) => self.bill(&route.adding_to(id.0), quoted, place, late, refused),
            }
        };
        let mut payment = None;
        let decided = match presented {
            Presented::Nothing => return bill(None, None, None),
            Presented::Token(token) => self.unlock(&token, wanted).await.map(Verdict::Admit),
            Presented::Derived(derived) => {
                Box::pin(self.unlock_derived(*derived, wanted)).await.map(Verdict::Admit)
            }
            Presented::Proof(proof) => {
                payment = Some((proof.offer.mechanism, proof.block()));
                wanted.purse = self.purse_beside(&proof, wanted);
                // Boxed: what a future may hold is copied with each request.
                Box::pin(self.accept(*proof, wanted, (identified, client), url)).await
            }
            Presented::Plain(plain) => match self.plain_proof(&plain, wanted, quoted) {
                Ok(proof) => {
                    payment = Some((proof.offer.mechanism, proof.block()));
                    // It cannot be shown again: who sees the block on the network could show it too.
                    wanted.wait = wait.max(PATIENCE);
                    Box::pin(self.accept(proof, wanted, (identified, client), url)).await
                }
                Err(denied) => Err(denied),
            },
            Presented::Malformed(why) => Err(Denied::explained(Refusal::MalformedPayload, why)),
            Presented::Refused(refusal) => Err(refusal.into()),
        };
        match decided {
            Ok(verdict) => verdict,
            Err(Denied::Identifier(refusal)) => Verdict::Conflict(refusal),
            Err(Denied::Moved(moved)) => Verdict::Moved(moved),
            Err(Denied::Wait(wait)) => {
                if matches!(wait, Wait::Overloaded) {
                    let mechanism = payment.map(|(mechanism, _)| mechanism);
                    self.0.metrics.refusal(route.label(), "overloaded", mechanism);
                }
                Verdict::Wait(wait)
            }
            Err(Denied::Refused { refusal, explanation, late, purse }) => {
                let (mechanism, block) = payment.unzip();
                self.0.metrics.refusal(route.label(), refusal.code(), mechanism);
                let message = explanation.unwrap_or_else(|| refusal.advice().to_owned());
                let refused = Refused { refusal, mechanism, block, message };
                let purse = purse.or_else(|| late.as_ref()?.adds_to());
                bill(purse, late.as_deref(), Some(refused))
            }
        }
    }

    /// Decides a request that came with a proof of payment.
    async fn accept(
        &self,
        proof: Proof,
        wanted: Wanted<'_>,
        (identified, client): (Option<IdentifiedRequest>, Option<Client>),
        url: Option<String>,
    ) -> Result<Verdict, Denied> {
        let explained = proof.explain(url, || self.may_explain());
        // A session's proof names no payer who could own an answer. It is bound to its session.
        let decided = match identified.zip(proof.payer()) {
            Some((identified, payer)) => {
                let under = Under { identified, payer, client, down: wanted.down, wait: wanted.wait };
                self.redeem_identified(proof, wanted, under).await
            }
            None => self.redeem(proof, wanted, client).await.map(Verdict::Admit),
        };
        decided.map_err(explained)
    }

    /// Whether a refusal may be explained at some cost, which strangers decide about.
    fn may_explain(&self) -> bool {
        let now = self.0.clock.now();
        let mut explained = self.0.explained.lock().unwrap_or_else(PoisonError::into_inner);
        let (second, count) = *explained;
        let before = if second == now { count } else { 0 };
        *explained = (now, before.saturating_add(1));
        before < EXPLANATIONS
    }

    /// The hot path: a token, a cache hit, a use.
    async fn unlock(&self, token: &str, wanted: Wanted<'_>) -> Result<Admitted, Denied> {
        let Wanted { route, standing, .. } = wanted;
        let now = self.0.clock.now();
        let (held, elsewhere) = match self.recognised_before(token) {
            Some(held) => {
                let bought = &held.record().route;
                let elsewhere = bought != route && !standing.names(route).any(|it| it == *bought);
                if !elsewhere && held.expires_at() <= now {
                    return Err(Refusal::CapabilityExpired.into());
                }
                (held, elsewhere)
            }
            None => Box::pin(self.recognise(token, wanted)).await?,
        };
        self.open(held, elsewhere, wanted).await
    }

    /// Takes a use of a capability that was shown, if it is for what is wanted; `elsewhere` if it was bought for
    /// something else.
    async fn open(
        &self,
        held: Arc<CachedCapability>,
        elsewhere: bool,
        wanted: Wanted<'_>,
    ) -> Result<Admitted, Denied> {
        let Wanted { route, standing, listed, terms, down, .. } = wanted;
        let now = self.0.clock.now();
        let (record, purchase) = (held.record(), held.purchase());
        let bought = Bought {
            route: &record.route,
            terms: purchase.terms,
            price: purchase.price(),
            place: purchase.challenge.place(),
        };
        let bearing = standing.bearing(route, listed, terms, bought);
        if bearing == Bearing::Unpriced {
            return Err(Denied::Wait(Wait::NoRate));
        }
        let dearer = bearing == Bearing::Dearer;
        let gone = elsewhere && !self.is_route(&record.route);
        if (gone || dearer) && held.expires_at() > now && held.remaining() > 0 {
            let left = Some((held.left(), held.expires_at()));
            let route = record.route.clone();
            return Err(Denied::Moved(Box::new(Moved { route, dearer, block: record.block, left })));
        }
        if elsewhere || dearer {
            return Err(Refusal::WrongResource.into());
        }
        if let Some(pause) = down {
            return Err(Denied::Wait(Wait::UpstreamDown(pause)));
        }
        let opened = Opened { held, added: None };
        let taken = self.take(&opened, How::Unlocked, wanted.wish(&opened.held)?).await;
        taken
            .map_err(|why| Denied::no_use(&why, wanted.exhausted(&opened.held, Refusal::CapabilityExhausted)))
    }

    /// The cached capability whose token this is. Its text is compared, so that no MAC is computed for a
    /// token that was recognised before.
    fn recognised_before(&self, token: &str) -> Option<Arc<CachedCapability>> {
        let held = self.0.capabilities.cached(capability::id_in(token)?)?;
        held.is_presented(token).then_some(held)
    }

    /// The capability of a token that is real, and whether it was bought for something else.
    async fn recognise(
        &self,
        token: &str,
        wanted: Wanted<'_>,
    ) -> Result<(Arc<CachedCapability>, bool), Denied> {
        let Wanted { route, standing, .. } = wanted;
        let now = self.0.clock.now();
        let recognised = standing
            .names(route)
            .map(|name| capability::recognise(&self.0.keys, token, &name, now))
            .find(|it| !matches!(it, Err(Refusal::WrongResource)));
        let (id, until, elsewhere) = match recognised.transpose()? {
            Some(claimed) => (claimed.id, claimed.expires_at, false),
            None => (capability::id_in(token).ok_or(Refusal::WrongResource)?, UnixSeconds(0), true),
        };
        Ok((self.find(id, until, elsewhere).await?, elsewhere))
    }

    /// The capability of a token that is real and says that it is good `until` then; `elsewhere` if it was bought for
    /// something else.
    async fn find(
        &self,
        id: CapabilityId,
        until: UnixSeconds,
        elsewhere: bool,
    ) -> Result<Arc<CachedCapability>, Denied> {
        let found = self.0.capabilities.find(id).await;
        let found = found.map_err(|it| Denied::no_store(&it, "a capability could not be looked up"))?;
        let held =
            found.ok_or(if elsewhere { Refusal::WrongResource } else { Refusal::CapabilityUnknown })?;
        // A payment may have been added at another instance.
        held.is_good_until(until);
        Ok(held)
    }

    /// Whether some route has this name or had it, or it names a resource of the facilitator's callers,
    /// which no reload takes away.
    fn is_route(&self, name: &RouteName) -> bool {
        name.is_foreign() || self.0.settings.load().routes.contains(name.configured())
    }

    async fn take(&self, opened: &Opened, how: How, wish: Wish) -> Result<Admitted, NoUse> {
        let Opened { held, added } = opened;
        let taken = self.0.capabilities.reserve(held, wish).await?;
        Ok(Admitted { taken, said: self.said(opened), how, keeping: None, added: added.clone() })
    }

    /// What is said of what a payment opens, with its token.
    fn said(&self, opened: &Opened) -> CapabilityText {
        let Opened { held, added } = opened;
        let token = || {
            let record = held.record();
            let capability = Capability {
                id: record.id,
                route: record.route.clone(),
                uses: record.uses(),
                expires_at: held.expires_at(),
            };
            Token::issue(&self.0.keys, &capability)
        };
        match added {
            None => held.said_as(|| CapabilityText::new(&token(), held.purchase())),
            // Of the payment that came with this request, which the next ones do not have.
            Some(added) => CapabilityText::new(&token(), added.purchase()),
        }
    }

    /// The purse whose token came beside a proof of a payment for it. An expired one shows who may add to it, too.
    fn purse_beside(&self, proof: &Proof, wanted: Wanted<'_>) -> Option<CapabilityId> {
        let token = proof.beside.as_deref()?;
        let id = proof.offer.route.adds_to().map(CapabilityId)?;
        let now = self.0.clock.now();
        let is_real = |name: RouteName| {
            let recognised = capability::recognise(&self.0.keys, token, &name, now);
            matches!(recognised, Ok(_) | Err(Refusal::CapabilityExpired))
        };
        let is_real =
            capability::id_in(token) == Some(id) && wanted.standing.names(wanted.route).any(is_real);
        is_real.then_some(id)
    }

    /// The challenge that a proof answers: for a purse if that one's token came with it, else for one of its own.
    fn challenge(&self, nonce: Nonce, offer: Offer, wanted: Wanted<'_>) -> Result<Challenge, Refusal> {
        let challenge = Challenge::recognise(&self.0.keys, &self.0.pool, nonce, offer)?;
        let stands = challenge.adds_to().is_none() || challenge.adds_to() == wanted.purse;
        Ok(if stands { challenge } else { challenge.apart() })
    }

    /// What requests take from that bring the payment which bought `held`.
    async fn opened(&self, held: Arc<CachedCapability>, wanted: Wanted<'_>) -> Result<Opened, Denied> {
        let Some(id) = held.record().added_to else { return Ok(Opened { held, added: None }) };
        if wanted.purse != Some(id) {
            let explanation = format!("the payment was added to purse {id}: send that purse's token with it");
            return Err(Denied::explained(Refusal::WrongResource, explanation));
        }
        let found = self.0.capabilities.topped_up(id).await;
        let found = found.map_err(|it| Denied::no_store(&it, "a purse could not be looked up"))?;
        let purse = found.ok_or(Refusal::CapabilityUnknown)?;
        if purse.expires_at() <= self.0.clock.now() {
            return Err(Refusal::CapabilityExpired.into());
        }
        Ok(Opened { held: purse, added: Some(held) })
    }

    /// Redeems a proof of payment for one use.
    async fn redeem(
        &self,
        proof: Proof,
        wanted: Wanted<'_>,
        client: Option<Client>,
    ) -> Result<Admitted, Denied> {
        let block = proof.block();
        let Proof { nonce, offer, evidence, .. } = proof;
        let challenge = self.challenge(nonce, offer, wanted)?;
        self.refuse_moved(&challenge, block, wanted)?;
        wanted.refuse_too_small(&challenge)?;
        let opens = wanted.bearing(&challenge) == Bearing::Opens;
        let held = match self.in_hand(block, &challenge).filter(|_| opens) {
            Some(held) => held,
            None => {
                let (checked, look_up) = self.admissible(challenge, evidence, wanted, None, client).await?;
                self.fly(checked, (None, client), (wanted.down, wanted.wait), look_up).await?
            }
        };
        let opened = self.opened(held, wanted).await?;
        let taken = self.take(&opened, How::Paid, wanted.wish(&opened.held)?).await;
        taken.map_err(|why| Denied::no_use(&why, wanted.exhausted(&opened.held, Refusal::DuplicateBlockHash)))
    }

    /// The proof, checked as far as arithmetic can: for this route, good, and in time, unless what it
    /// asks for is bought already. To find that out for a late one takes a look-up, which comes with it.
    async fn admissible(
        &self,
        challenge: Challenge,
        evidence: Evidence,
        wanted: Wanted<'_>,
        identified: Option<IdentifiedRequest>,
        client: Option<Client>,
    ) -> Result<(Checked, Option<LookUp>), Denied> {
        let (nonce, block) = (challenge.nonce(), evidence.block());
        let check = |challenge: Challenge| {
            if wanted.bearing(&challenge) != Bearing::Opens {
                return Err(Refusal::WrongResource);
            }
            evidence.check(challenge, self.0.work.terms())
        };
        if !challenge.has_expired(self.0.clock.now()) {
            return Ok((check(challenge)?, None));
        }
        let Ok(checked) = check(challenge.clone()) else { return Err(Denied::expired(challenge)) };
        if self.0.flights.is_under_way(block, nonce) {
            return Ok((checked, None));
        }
        let look_up = self.look_up(client).await?;
        if self.was_in_time(nonce, block).await? || self.is_bought(identified).await? {
            return Ok((checked, Some(look_up)));
        }
        look_up.was_in_vain();
        Err(Denied::expired(challenge))
    }

    /// # Errors
    /// [`Denied::Moved`] for a challenge whose route is gone, or whose name was moved to something dearer. Whether it
    /// is dearer may not be known: [`Wait::NoRate`].
    fn refuse_moved(
        &self,
        challenge: &Challenge,
        block: BlockHash,
        wanted: Wanted<'_>,
    ) -> Result<(), Denied> {
        let bearing = wanted.bearing(challenge);
        if bearing == Bearing::Unpriced {
            return Err(Denied::Wait(Wait::NoRate));
        }
        let route = &challenge.offer().route;
        let dearer = bearing == Bearing::Dearer;
        if dearer || (bearing == Bearing::Elsewhere && !self.is_route(route)) {
            let route = route.clone();
            return Err(Denied::Moved(Box::new(Moved { route, dearer, block, left: None })));
        }
        Ok(())
    }

    /// Whether a proof of an expired challenge belongs to a payment that was taken up in time.
    async fn was_in_time(&self, nonce: Nonce, block: BlockHash) -> Result<bool, Denied> {
        let payment = self.0.store.payment(block).await;
        let payment = payment.map_err(|it| Denied::no_store(&it, "a late payment could not be looked up"))?;
        Ok(payment.is_some_and(|it| it.intent.challenge == nonce))
    }

    /// The capability that this very payment bought, if it is in the cache.
    fn in_hand(&self, block: BlockHash, challenge: &Challenge) -> Option<Arc<CachedCapability>> {
        let held = self.0.capabilities.known(CapabilityId::of_payment(block))?;
        (held.purchase().challenge == challenge.nonce()).then_some(held)
    }

    /// Settles a checked payment, or joins the settlement that is under way, and waits for it. To start one
    /// takes a look-up. While the upstream is `down`, no settlement is started that would broadcast a block.
    async fn fly(
        &self,
        checked: Checked,
        (identified, client): (Option<IdentifiedRequest>, Option<Client>),
        (down, wait): (Option<NonZeroU64>, Duration),
        look_up: Option<LookUp>,
    ) -> SettlementResult {
        let settings = self.0.settings.load_full();
        let key = checked.flight();
        if let Some(settled) = self.0.flights.join(key, wait).await {
            return settled;
        }
        // One that is journalled loses nothing by this: it is settled in the background.
        if let (Some(pause), Checked::Txn(_)) = (down, &checked) {
            return Err(Unsettled::Wait(Wait::UpstreamDown(pause)));
        }
        let look_up = match look_up {
            Some(look_up) => look_up,
            None => self.look_up(client).await?,
        };
        let limit = SettlementLimit {
            all: settings.pending_settlements,
            client: client.map(|it| (it, settings.limits_of(it).settlements)),
        };
        let core = Arc::clone(&self.0);
        let settle = || core.settle(checked, identified, client, look_up);
        let (flights, runtime) = (&self.0.flights, &self.0.runtime);
        let settled = flights.join_or_start(key, limit, wait, runtime, settle).await;
        if matches!(settled, Err(Unsettled::Wait(Wait::Overloaded)))
            && limit.client.is_some_and(|it| flights.has_its_share(it))
        {
            let is_caller = client.is_some_and(Client::is_caller);
            self.0.metrics.limit_reached(if is_caller {
                ReachedLimit::CallerSettlements
            } else {
                ReachedLimit::ClientSettlements
            });
        }
        settled
    }

    /// Reserves a look-up for `client`.
    async fn look_up(&self, client: Option<Client>) -> Result<LookUp, Unsettled> {
        let settings = self.0.settings.load_full();
        let limit = client.map_or(u32::MAX, |it| settings.limits_of(it).lookups);
        let reserved = self.0.look_ups.reserve(client, limit, settings.wait).await;
        if reserved.is_none() {
            let is_caller = client.is_some_and(Client::is_caller);
            self.0.metrics.limit_reached(if is_caller {
                ReachedLimit::CallerLookups
            } else {
                ReachedLimit::ClientLookups
            });
        }
        reserved.ok_or(Unsettled::Wait(Wait::Overloaded))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::sync::oneshot;

    use super::flights::{FlightKey, Frontier};
    use super::*;
    use crate::nano::Account;
    use crate::sync::Handle;

    const SOON: Duration = Duration::from_secs(9);

    fn key(number: u8) -> FlightKey {
        FlightKey { block: BlockHash([number; 32]), nonce: Nonce([number; 32]), frontier: None }
    }

    /// Starts a settlement that goes on until what is returned is dropped.
    fn begin(flights: &Flights, number: u8, limit: SettlementLimit) -> oneshot::Sender<()> {
        let (end, ended) = oneshot::channel();
        flights.start(key(number), limit, &Handle::current(), || async move {
            drop(ended.await);
            Err(Unsettled::pending(key(number).block))
        });
        end
    }

    #[tokio::test]
    async fn a_client_and_all_together_have_so_many_settlements_under_way_and_no_more() {
        let (flights, client) = (Flights::default(), Client::at(IpAddr::from([192, 0, 2, 1])));
        let of_client = SettlementLimit { all: 3, client: Some((client, 2)) };
        let of_nobody = SettlementLimit { all: 3, client: None };
        let is_under_way = |number| flights.is_under_way(key(number).block, key(number).nonce);
        let has_share = || flights.has_its_share((client, 2));
        let first = begin(&flights, 1, of_client);
        assert!(is_under_way(1) && !has_share());
        let _second = begin(&flights, 2, of_client);
        assert!(is_under_way(2) && has_share());
        drop(begin(&flights, 3, of_client));
        assert!(!is_under_way(3), "the client has its share");

        drop(first);
        let ended = flights.join(key(1), SOON).await;
        assert!(matches!(ended, Some(Err(Unsettled::Wait(Wait::Pending { .. })))), "a copy waits for it");
        assert!(flights.join(key(1), SOON).await.is_none(), "it has ended");
        assert!(!is_under_way(1) && !has_share());
        let _third = begin(&flights, 3, of_client);
        assert!(is_under_way(3) && has_share(), "the other one still counts");

        let _fourth = begin(&flights, 4, of_nobody);
        drop(begin(&flights, 5, of_nobody));
        assert_eq!((flights.count(), is_under_way(4), is_under_way(5)), (3, true, false));
    }

    #[test]
    fn a_frontier_is_held_for_one_block_until_the_last_that_holds_it_lets_go() {
        let flights = Flights::default();
        let [one, other] = [1, 2].map(|it| BlockHash([it; 32]));
        let frontier = Frontier { account: Account([7; 32]), previous: BlockHash([8; 32]) };
        assert!(!flights.holds_frontier(frontier, other));
        let first = flights.hold_frontier(frontier, one).unwrap();
        let second = flights.hold_frontier(frontier, one).unwrap();
        for holder in [first, second] {
            assert!(flights.holds_frontier(frontier, other) && !flights.holds_frontier(frontier, one));
            assert!(flights.hold_frontier(frontier, other).is_none());
            drop(holder);
        }
        assert!(!flights.holds_frontier(frontier, other));
        assert!(flights.hold_frontier(frontier, other).is_some());
    }

    #[test]
    fn a_client_is_a_caller_if_it_was_let_in_as_one() {
        let address = IpAddr::from([192, 0, 2, 1]);
        assert!(!Client::at(address).is_caller());
        assert!(Client::calling(address).is_caller());
    }
}
