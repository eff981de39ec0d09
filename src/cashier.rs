//! Carries one request through the payment rules: ask, decide, settle, unlock.
//!
//! Knows no HTTP. What it decides is a [`Verdict`]; the gateway renders it. Settlement runs in a
//! task of its own on the core runtime, so that a client that hangs up, or a listener that shuts
//! down, cannot cancel it.

mod denied;
pub mod facilitate;
mod flights;
mod identified;
mod lanes;
mod proof;
mod recovery;
mod settlement;
mod verdict;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::entropy::{Entropy, NoEntropy};
use crate::ledger::Ledger;
use crate::ledger::work::WorkServer;
use crate::metrics::Metrics;
use crate::nano::{BlockHash, Threshold};
use crate::payment::address_pool::AddressPool;
use crate::payment::capability::{self, Capability, CapabilityId, Token};
use crate::payment::challenge::{Challenge, Offer};
use crate::payment::{IdentifiedRequest, MacKeys, Mechanism, Particular, Refusal};
use crate::routes::{Metering, RouteName, Terms};
use crate::store::capabilities::{CachedCapability, Capabilities, NoUse};
use crate::store::{Holder, Store, Unsound};
use crate::x402::{WorkPolicy, WorkTerms};

use denied::Denied;
use flights::{Flights, Landing};
use identified::Under;
use lanes::Lanes;
use verdict::Passed;

pub use identified::{IdentifierRefusal, IdentifierSettings, Keeping, Replay};
pub use proof::{Evidence, Proof};
pub use verdict::{Admitted, Ask, Bill, How, PendingReason, Presented, Refused, Verdict, Wait};

/// How long a settlement is followed in the foreground of its own task before the background takes
/// it over.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long look-ups of blocks that nobody knows count against a client.
const LOOKUP_WINDOW: Duration = Duration::from_secs(60);
/// Clients whose look-ups are counted at once; beyond, the oldest are forgotten.
const LOOKUP_CLIENTS: u64 = 100_000;

/// What can change while the gateway runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In the order in which a bill offers them.
    pub mechanisms: Vec<Mechanism>,
    /// What is offered instead of them on routes that say so themselves.
    pub by_route: BTreeMap<RouteName, Vec<Mechanism>>,
    /// How long a challenge stands, in seconds.
    pub lifetime: u64,
    /// How long a request waits for its payment's confirmation before it is answered "pending".
    pub wait: Duration,
    /// Settlements under way at once; beyond, new ones are shed.
    pub pending_settlements: usize,
    /// Look-ups of unknown blocks that one client may cause within [`LOOKUP_WINDOW`].
    pub lookups_per_client: u32,
    pub identifiers: IdentifierSettings,
}

/// Everything the cashier is made of.
#[derive(Debug)]
pub struct Parts<L, S> {
    pub keys: MacKeys,
    pub pool: AddressPool,
    /// What is asked of a block's work, and who makes it where the client does not.
    pub work: Work,
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

/// What is asked of the work of a block that the gateway broadcasts.
#[derive(Clone, Debug)]
pub struct Work {
    pub threshold: Threshold,
    /// Makes it for a block that comes without; nobody does where there is none.
    pub server: Option<WorkServer>,
}

impl Work {
    /// As a bill says it.
    #[must_use]
    pub const fn terms(&self) -> WorkTerms {
        let policy = if self.server.is_some() { WorkPolicy::Optional } else { WorkPolicy::Required };
        WorkTerms { policy, threshold: self.threshold }
    }
}

/// Carries requests through the rules. Cheap to clone.
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
    work: Work,
    ledger: Arc<L>,
    store: Arc<S>,
    clock: Clock,
    entropy: Entropy,
    metrics: Arc<Metrics>,
    settings: ArcSwap<Settings>,
    capabilities: Capabilities<S>,
    flights: Flights,
    lanes: Lanes,
    lookups: moka::sync::Cache<IpAddr, Arc<AtomicU32>>,
    runtime: tokio::runtime::Handle,
}

impl<L: Ledger, S: Store> Cashier<L, S> {
    #[must_use]
    pub fn new(parts: Parts<L, S>) -> Self {
        let Parts { keys, pool, work, ledger, store, clock, entropy, metrics, settings, holder, .. } = parts;
        let capabilities =
            Capabilities::new(Arc::clone(&store), clock.clone(), holder, parts.capabilities_cached);
        let lookups =
            moka::sync::Cache::builder().max_capacity(LOOKUP_CLIENTS).time_to_live(LOOKUP_WINDOW).build();
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
            lookups,
            runtime: parts.runtime,
        }))
    }

    /// Takes over changed settings; requests under way keep what they started with.
    pub fn configure(&self, settings: Settings) {
        self.0.settings.store(Arc::new(settings));
    }

    #[must_use]
    pub fn capabilities(&self) -> &Capabilities<S> {
        &self.0.capabilities
    }

    /// How many settlements are under way.
    #[must_use]
    pub fn settling(&self) -> usize {
        self.0.flights.count()
    }

    /// Whether a payment could be settled now, as far as is known; why not otherwise.
    ///
    /// # Errors
    /// [`Wait::NoNode`], [`Wait::NoStore`].
    pub fn readiness(&self) -> Result<(), Wait> {
        if !self.0.ledger.is_healthy() {
            return Err(Wait::NoNode);
        }
        self.store_readiness().map_err(|_| Wait::NoStore)
    }

    /// Whether the store could record a sale now; why not otherwise.
    ///
    /// # Errors
    /// [`Unsound`].
    pub fn store_readiness(&self) -> Result<(), Unsound> {
        self.0.store.health().sells(self.0.clock.now())
    }

    /// Decides one request to a priced route.
    pub async fn decide(&self, ask: Ask) -> Verdict {
        let Ask { route, terms, metering, presented, identified, client } = ask;
        let decided = match presented {
            Presented::Nothing => return self.bill(&route, terms, None),
            Presented::Token(token) => self.unlock(&token, &route, metering).await.map(Passed::Admit),
            // A session's proof names no payer whose the answer would be; it is bound to its session.
            Presented::Proof(proof) => match identified.zip(proof.payer()) {
                Some((identified, payer)) => {
                    let under = Under { identified, payer, client };
                    self.redeem_identified(*proof, &route, under, metering).await
                }
                None => self.redeem(*proof, &route, metering, client).await.map(Passed::Admit),
            },
            Presented::Refused(refusal) => Err(Denied::refused(refusal, None, None)),
        };
        match decided {
            Ok(Passed::Admit(admitted)) => Verdict::Admit(admitted),
            Ok(Passed::Replay(replay)) => Verdict::Replay(replay),
            Err(Denied::Identifier(refusal)) => Verdict::Conflict(refusal),
            Err(Denied::Wait(wait)) => Verdict::Wait(wait),
            Err(Denied::Refused(refused, late)) => {
                self.0.metrics.refusal(refused.refusal, refused.mechanism);
                let bill = self.bill(&route, terms, late.as_deref());
                match bill {
                    Verdict::Bill(bill) => Verdict::Bill(Bill { refused: Some(refused), ..bill }),
                    Verdict::Admit(_) | Verdict::Wait(_) | Verdict::Replay(_) | Verdict::Conflict(_) => bill,
                }
            }
        }
    }

    /// A bill for one payment of `terms` on `route`; for a payment that came `late`, to the same
    /// address. Minting keeps nothing.
    fn bill(&self, route: &RouteName, terms: Terms, late: Option<&Challenge>) -> Verdict {
        if let Err(wait) = self.readiness() {
            return Verdict::Wait(wait);
        }
        let settings = self.0.settings.load();
        let valid_before = self.0.clock.now().plus(settings.lifetime);
        let mechanisms = settings.by_route.get(route.configured()).unwrap_or(&settings.mechanisms);
        let mut challenges = Vec::with_capacity(mechanisms.len());
        for &mechanism in mechanisms {
            match self.mint(mechanism, route, terms, late, valid_before) {
                Ok(Some(challenge)) => challenges.push(challenge),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "no challenge can be made");
                    return Verdict::Wait(Wait::Overloaded);
                }
            }
        }
        self.0.metrics.challenge(route.label());
        Verdict::Bill(Bill { challenges, refused: None })
    }

    fn mint(
        &self,
        mechanism: Mechanism,
        route: &RouteName,
        terms: Terms,
        late: Option<&Challenge>,
        valid_before: crate::nano::UnixSeconds,
    ) -> Result<Option<Challenge>, NoEntropy> {
        let random: [u8; 16] = self.0.entropy.bytes()?;
        let [a, b, c, d, e, f, g, h, ..] = random;
        let slot = facilitate::slot(route).unwrap_or([a, b, c, d, e, f, g, h]);
        let again = late.map(Challenge::offer).filter(|offer| offer.mechanism == mechanism);
        let pay_to = again.map(|offer| offer.pay_to).or_else(|| self.0.pool.pick(mechanism, slot));
        Ok(pay_to.map(|pay_to| {
            let offer = Offer { mechanism, route: route.clone(), terms, pay_to, valid_before };
            Challenge::mint(&self.0.keys, random, offer)
        }))
    }

    /// The hot path: a token, a cache hit, a use.
    async fn unlock(&self, token: &str, route: &RouteName, metering: Metering) -> Result<Admitted, Denied> {
        let refuse = |refusal| Denied::refused(refusal, None, None);
        let claimed =
            capability::recognise(&self.0.keys, token, route, self.0.clock.now()).map_err(refuse)?;
        let found = self.0.capabilities.find(claimed.id).await.map_err(|error| {
            tracing::warn!(%error, "a capability could not be looked up");
            Denied::Wait(Wait::NoStore)
        })?;
        let held = found.ok_or_else(|| refuse(Refusal::CapabilityUnknown))?;
        let exhausted = refuse(Refusal::CapabilityExhausted);
        self.take(&held, How::Unlocked, metering).await.map_err(|why| Denied::of(&why, exhausted))
    }

    async fn take(
        &self,
        held: &Arc<CachedCapability>,
        how: How,
        metering: Metering,
    ) -> Result<Admitted, NoUse> {
        let taken = self.0.capabilities.reserve(held, metering).await?;
        Ok(Admitted { taken, token: self.token(held), how, keeping: None })
    }

    /// The token of what a payment bought.
    fn token(&self, held: &CachedCapability) -> Token {
        let record = held.record();
        let capability = Capability {
            id: record.id,
            route: record.route.clone(),
            uses: record.uses,
            expires_at: record.expires_at,
        };
        Token::issue(&self.0.keys, &capability)
    }

    /// Redeems a proof of payment for one use.
    async fn redeem(
        &self,
        proof: Proof,
        route: &RouteName,
        metering: Metering,
        client: Option<IpAddr>,
    ) -> Result<Admitted, Denied> {
        let (mechanism, block) = (proof.offer.mechanism, proof.block());
        let refuse = |refusal| Denied::refused(refusal, Some(mechanism), Some(block));
        let (challenge, evidence) = self.admissible(proof, route, None).await?;
        let landing = match self.in_hand(block, &challenge) {
            Some(held) => Landing::Granted(held),
            None => {
                let checked = evidence.check(challenge, self.0.work.terms()).map_err(refuse)?;
                self.fly(checked, None, client).await
            }
        };
        match landing {
            Landing::Granted(held) => {
                let exhausted = refuse(Refusal::DuplicateBlockHash);
                let taken = self.take(&held, How::Paid, metering).await;
                taken.map_err(|why| Denied::of(&why, exhausted))
            }
            Landing::Refused(refusal) => Err(refuse(refusal)),
            Landing::Identified => Err(Denied::Wait(Wait::SameId)),
            Landing::WrongAmount { came, asked } => {
                let particular = Particular::Amount { came, asked };
                Err(refuse(Refusal::InsufficientAmount).because(particular))
            }
            Landing::Pending(reason) => Err(Denied::Wait(Wait::Pending { block, reason })),
            Landing::Unavailable(wait) => Err(Denied::Wait(wait)),
        }
    }

    /// A proof's evidence and the challenge that it answers: one of this gateway's, for this route, and
    /// in time, unless what it asks for is bought already.
    async fn admissible(
        &self,
        proof: Proof,
        route: &RouteName,
        identified: Option<IdentifiedRequest>,
    ) -> Result<(Challenge, Evidence), Denied> {
        let (mechanism, block) = (proof.offer.mechanism, proof.block());
        let refuse = |refusal| Denied::refused(refusal, Some(mechanism), Some(block));
        let Proof { nonce, offer, evidence } = proof;
        let challenge = Challenge::recognise(&self.0.keys, nonce, offer).map_err(refuse)?;
        if challenge.has_expired(self.0.clock.now())
            && !self.was_in_time(&challenge, block).await?
            && !self.is_bought(identified).await?
        {
            let expired = refuse(Refusal::PaymentExpired);
            return Err(match mechanism {
                Mechanism::NanoTxn | Mechanism::NanoSignature => expired.late(challenge),
                Mechanism::NanoSession => expired.because(Particular::SessionOver),
            });
        }
        if challenge.offer().route != *route {
            return Err(refuse(Refusal::WrongResource));
        }
        Ok((challenge, evidence))
    }

    /// Whether a proof that comes after its challenge's time belongs to a payment that was taken up
    /// within it.
    async fn was_in_time(&self, challenge: &Challenge, block: BlockHash) -> Result<bool, Denied> {
        if self.0.flights.is_under_way(block, challenge.nonce()) {
            return Ok(true);
        }
        match self.0.store.payment(block).await {
            Ok(payment) => Ok(payment.is_some_and(|it| it.intent.challenge == challenge.nonce())),
            Err(error) => {
                tracing::warn!(%error, "a late payment could not be looked up");
                Err(Denied::Wait(Wait::NoStore))
            }
        }
    }

    /// The capability that this very payment bought, if it is in hand.
    fn in_hand(&self, block: BlockHash, challenge: &Challenge) -> Option<Arc<CachedCapability>> {
        let held = self.0.capabilities.known(CapabilityId::of_payment(block))?;
        (held.intent().challenge == challenge.nonce()).then_some(held)
    }

    /// Settles a checked payment, or joins the settlement that is under way, and waits for it.
    async fn fly(
        &self,
        checked: proof::Checked,
        identified: Option<IdentifiedRequest>,
        client: Option<IpAddr>,
    ) -> Landing {
        let settings = self.0.settings.load_full();
        let searches = match checked {
            proof::Checked::Txn(_) => false,
            proof::Checked::Signature(_) | proof::Checked::Session(_) => true,
        };
        let count = client.filter(|_| searches).map(|it| self.lookups_of(it));
        if count.as_ref().is_some_and(|it| it.load(Ordering::Relaxed) >= settings.lookups_per_client) {
            return Landing::Unavailable(Wait::Overloaded);
        }
        let core = Arc::clone(&self.0);
        let landing = self
            .0
            .flights
            .join_or_start(
                checked.passage(),
                settings.pending_settlements,
                settings.wait,
                &self.0.runtime,
                || core.settle(checked, identified, client.map(network_of)),
            )
            .await;
        // Anyone can name the block of another, so what is found not to fit counts as well.
        let in_vain = matches!(
            landing,
            Landing::Pending(PendingReason::BlockNotFound)
                | Landing::WrongAmount { .. }
                | Landing::Refused(Refusal::WrongDestination)
        );
        if let Some(count) = count.filter(|_| in_vain) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        landing
    }

    fn lookups_of(&self, client: IpAddr) -> Arc<AtomicU32> {
        self.0.lookups.get_with(network_of(client), Arc::default)
    }
}

/// Whom an address stands for: an IPv4 address itself, an IPv6 network of 64 bits, which one host
/// commonly owns.
fn network_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}
