//! One running gateway of the simulation: the real cashier over the shared store, through a store
//! connection that breaks before and after effects, until it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faregate::cashier::{Cashier, ClientLimits, IdentifierSettings, Parts, Settings, WorkRules};
use faregate::clock::Clock;
use faregate::entropy::Entropy;
use faregate::metrics::Metrics;
use faregate::nano::{BlockHash, Threshold, UnixSeconds};
use faregate::payment::address_pool::AddressPool;
use faregate::payment::{IdentifierKey, MacKey, MacKeys, Mechanism};
use faregate::store::{
    Answer, Answers, Begin, CapabilityId, CapabilityRecord, Claims, Filter, Forget, Grant, Grantee, Health,
    Holder, Intent, Lease, LeaseRequest, Meters, PaymentJournal, PaymentRecord, PaymentState, StoreError,
    StoreHealth,
};
use tokio::sync::watch;

use super::world::{Ablation, Life, Nodes, World, store_fault};

pub(super) type Till = Cashier<Nodes, Connection>;

/// A gateway that runs.
pub(super) struct Instance {
    pub(super) till: Till,
    pub(super) life: Arc<Life>,
    stop: watch::Sender<bool>,
    /// Uses that this instance delivered and has not durably reported, by payment.
    pub(super) unreported: Arc<Mutex<BTreeMap<CapabilityId, i64>>>,
}

/// What may be under way at a gateway, and be looked up in vain for one client.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) pending: usize,
    pub(super) per_client: usize,
    pub(super) lookups: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pending: 64, per_client: 64, lookups: 1000 }
    }
}

impl Instance {
    pub(super) fn start(world: &Arc<World>, addresses: u32) -> Self {
        Self::with_limits(world, addresses, Limits::default())
    }

    /// As [`Instance::start`], within these limits.
    pub(super) fn with_limits(world: &Arc<World>, addresses: u32, limits: Limits) -> Self {
        let life = Arc::new(Life::default());
        let unreported = Arc::default();
        let connection = Connection {
            world: Arc::clone(world),
            life: Arc::clone(&life),
            unreported: Arc::clone(&unreported),
            reported: Mutex::default(),
        };
        let seed = faregate::nano::Seed::from_bytes([9; 32]);
        let pool = |first: u32| (first..first + addresses).map(|index| seed.key(index).account()).collect();
        let (shown, dice) = (Arc::clone(world), Arc::clone(world));
        let till = Cashier::new(Parts {
            keys: MacKeys::new(MacKey::from_bytes([3; 32]), None),
            pool: AddressPool::new(pool(0), pool(1000)).with_sessions(pool(2000)),
            work: WorkRules { threshold: Threshold(0), server: None },
            ledger: Arc::new(Nodes { world: Arc::clone(world), life: Arc::clone(&life) }),
            store: Arc::new(connection),
            clock: Clock::from_fn(move || shown.now()),
            entropy: Entropy::from_fn(move |bytes| {
                dice.fill(bytes);
                Ok(())
            }),
            metrics: Arc::new(Metrics::new().unwrap()),
            settings: Settings {
                mechanisms: Mechanism::ALL.to_vec(),
                by_route: BTreeMap::new(),
                routes: super::people::wares().map(|it| it.0).into_iter().collect(),
                lifetime: 20,
                wait: Duration::from_secs(3),
                without_extra: false,
                pending_settlements: limits.pending,
                per_client: ClientLimits { settlements: limits.per_client, lookups: limits.lookups },
                per_caller: ClientLimits { settlements: limits.per_client, lookups: limits.lookups },
                identifiers: IdentifierSettings { ids: 3600, answers: 60, largest_answer: 1024 },
            },
            holder: Holder(std::array::from_fn(|_| world.below(256) as u8)),
            capabilities_cached: 1000,
            runtime: tokio::runtime::Handle::current(),
        });
        let (stop, shutdown) = watch::channel(false);
        let (recovering, until) = (till.clone(), shutdown.clone());
        tokio::spawn(async move { recovering.recover(until).await });
        let metering = till.clone();
        tokio::spawn(async move { metering.capabilities().run(shutdown).await });
        Self { till, life, stop, unreported }
    }

    /// As `kill -9` does: nothing it waits for ever comes.
    pub(super) fn kill(&self) {
        self.life.end();
        self.stop.send_replace(true);
    }
}

/// An instance's connection to the shared store.
pub(super) struct Connection {
    world: Arc<World>,
    life: Arc<Life>,
    unreported: Arc<Mutex<BTreeMap<CapabilityId, i64>>>,
    /// The numbers of the lease calls that took effect: a repeat reports nothing again.
    reported: Mutex<BTreeSet<u64>>,
}

impl Connection {
    /// A call: late, lost before it has an effect, lost after it, or answered.
    async fn call<T>(&self, effect: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.life.alive().await;
        tokio::time::sleep(Duration::from_millis(1 + self.world.below(5))).await;
        self.life.alive().await;
        if self.world.store_is_down() {
            return Err(StoreError::Unavailable("the store is away".to_owned()));
        }
        if self.world.fault(3) {
            return Err(store_fault(&self.world, false));
        }
        let answer = effect.await;
        if self.world.fault(3) {
            return Err(store_fault(&self.world, true));
        }
        tokio::time::sleep(Duration::from_millis(1 + self.world.below(5))).await;
        self.life.alive().await;
        answer
    }

    /// The intent as the ablated journal would keep it.
    fn as_journalled(&self, intent: &Intent) -> Intent {
        let forgets = self.world.ablation == Ablation::ForgetIds;
        Intent { identified: intent.identified.filter(|_| !forgets), ..intent.clone() }
    }

    /// The payment as the ablated journal would show it to whoever presents it now.
    fn as_shown(&self, payment: Option<PaymentRecord>) -> Option<PaymentRecord> {
        match (self.world.ablation, payment) {
            (Ablation::UnboundRetry, Some(mut payment)) => {
                payment.intent.challenge =
                    self.world.last_presented(payment.intent.block).unwrap_or(payment.intent.challenge);
                Some(payment)
            }
            (Ablation::ForgetSpent, _) => None,
            (_, payment) => payment,
        }
    }
}

impl Claims for Connection {
    async fn begin(&self, intent: &Intent, now: UnixSeconds) -> Result<Begin, StoreError> {
        self.call(async {
            if self.world.ablation == Ablation::ForgetIntents {
                let state = PaymentState::Intent;
                let payment = PaymentRecord {
                    sequence: 1,
                    intent: intent.clone(),
                    state,
                    created_at: now,
                    updated_at: now,
                };
                return Ok(Begin::Fresh(payment));
            }
            self.world.store.begin(&self.as_journalled(intent), now).await
        })
        .await
    }

    async fn advance(
        &self,
        block: BlockHash,
        from: &[PaymentState],
        to: PaymentState,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        if to == PaymentState::Failed {
            // The rule itself: failed means that the block is not on the ledger and never will be.
            self.world
                .hold(self.world.truth(block) != Some(true), || format!("{block} failed and is confirmed"));
        }
        self.call(self.world.store.advance(block, from, to, now)).await
    }

    async fn mark_spent(&self, block: BlockHash, now: UnixSeconds) -> Result<bool, StoreError> {
        self.call(self.world.store.mark_spent(block, now)).await
    }
}

impl PaymentJournal for Connection {
    async fn payment(&self, block: BlockHash) -> Result<Option<PaymentRecord>, StoreError> {
        self.call(async { Ok(self.as_shown(self.world.store.payment(block).await?)) }).await
    }

    async fn identified(&self, id: IdentifierKey) -> Result<Option<PaymentRecord>, StoreError> {
        self.call(self.world.store.identified(id)).await
    }

    async fn scan(&self, after: u64, filter: Filter, limit: usize) -> Result<Vec<PaymentRecord>, StoreError> {
        self.call(self.world.store.scan(after, filter, limit)).await
    }
}

impl Meters for Connection {
    async fn grant(&self, intent: &Intent, grantee: Grantee, now: UnixSeconds) -> Result<Grant, StoreError> {
        let confirmed = self.world.truth(intent.block) == Some(true);
        self.world.hold(confirmed, || format!("{} is granted and not confirmed", intent.block));
        self.call(async {
            let mut intent = self.as_journalled(intent);
            let mut grantee = grantee;
            match self.world.ablation {
                Ablation::UnboundRetry => {
                    if let Some(payment) = self.world.store.payment(intent.block).await? {
                        intent = payment.intent;
                    }
                }
                Ablation::ForgetSpent => {
                    // Each grant a thing of its own: what a store without a spent set would do.
                    let mut hash = intent.block;
                    self.world.fill(&mut hash.0[16..]);
                    self.world.fill(&mut grantee.id.0);
                    intent.block = hash;
                }
                Ablation::LeaseForEver => grantee.ttl = 1_000_000,
                Ablation::Nothing
                | Ablation::ForgetIntents
                | Ablation::ForgetIds
                | Ablation::ForgetBreaks
                | Ablation::TrustBroadcast
                | Ablation::TrustRivals
                | Ablation::LeakedChallenges
                | Ablation::GullibleNodes
                | Ablation::OneClient
                | Ablation::NoShares
                | Ablation::OpenDoor => {}
            }
            let granted = self.world.store.grant(&intent, grantee, now).await;
            self.world.linger("grant").await;
            granted
        })
        .await
    }

    async fn capability(&self, id: CapabilityId) -> Result<Option<CapabilityRecord>, StoreError> {
        self.call(self.world.store.capability(id)).await
    }

    async fn lease(&self, request: LeaseRequest, now: UnixSeconds) -> Result<Lease, StoreError> {
        let id = request.capability;
        self.call(async {
            let mut asked = request;
            if self.world.ablation == Ablation::LeaseForEver {
                asked.ttl = 1_000_000;
            }
            if self.world.ablation == Ablation::ForgetBreaks {
                asked.broken = 0;
            }
            let lease = self.world.store.lease(asked, now).await?;
            if self.reported.lock().unwrap().insert(request.sequence) {
                *self.unreported.lock().unwrap().entry(id).or_default() -=
                    i64::try_from(request.used).unwrap();
            }
            Ok(lease)
        })
        .await
    }

    async fn revoke(&self, id: CapabilityId, now: UnixSeconds) -> Result<bool, StoreError> {
        self.call(self.world.store.revoke(id, now)).await
    }
}

impl Answers for Connection {
    async fn keep(&self, block: BlockHash, answer: &Answer, now: UnixSeconds) -> Result<bool, StoreError> {
        self.call(self.world.store.keep(block, answer, now)).await
    }

    async fn kept(&self, block: BlockHash) -> Result<Option<Answer>, StoreError> {
        self.call(async {
            let kept = self.world.store.kept(block).await;
            self.world.linger("kept").await;
            kept
        })
        .await
    }

    async fn forget(&self, what: Forget) -> Result<u32, StoreError> {
        self.call(self.world.store.forget(what)).await
    }
}

impl StoreHealth for Connection {
    fn is_writable(&self) -> bool {
        !self.world.store_is_down()
    }

    fn health(&self) -> Health {
        Health { writable: self.is_writable(), ..self.world.store.health() }
    }
}
