//! The cached capabilities: a moka cache in front of the store.
//!
//! A use is taken from those that this instance has leased, under a lock that is never held across an
//! await: no store and no node on the path. A crash gives back what was under way and what was not reported
//! yet, the uses of a fifth of a second and some 128 of one capability at most. So it favours the payer by a
//! bounded amount ([money guide](crate::guide::money)).
//! [`meter`] counts the uses of one capability. [`leases`] moves uses between the store and this instance.

// Paths are written out because `tests/interleavings` compiles this file by its path too.
#[path = "capabilities/counts.rs"]
mod counts;
#[path = "capabilities/failures.rs"]
mod failures;
#[path = "capabilities/leases.rs"]
mod leases;
#[path = "capabilities/meter.rs"]
mod meter;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;

use self::leases::Leases;
use super::settle::Settled;
use super::{CapabilityId, Grant, Grantee, Holder, Lease, Meters, PaymentJournal, StoreError, StoreHealth};
use crate::clock::Clock;
use crate::payment::Purchase;
use crate::shutdown::StopSignal;

pub use leases::{LEASE_SECONDS, NoUse, REVOKED_WITHIN, Wish, chunk};
pub use meter::{BrokenAnswer, CachedCapability, Use};

/// All cached capabilities, over the store `S`.
#[derive(Debug)]
pub struct Capabilities<S> {
    leases: Leases<S>,
    cache: moka::sync::Cache<CapabilityId, Arc<CachedCapability>>,
    evicted: Arc<AtomicU64>,
}

/// Drops an entry from the cache when its capability has expired. At each use the gateway's own clock
/// decides whether it has.
#[derive(Debug)]
struct Expiry(Clock);

impl moka::Expiry<CapabilityId, Arc<CachedCapability>> for Expiry {
    fn expire_after_create(
        &self,
        _: &CapabilityId,
        held: &Arc<CachedCapability>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(Duration::from_secs(held.expires_at().since(self.0.now()).saturating_add(1)))
    }
}

impl<S: PaymentJournal + Meters + StoreHealth> Capabilities<S> {
    /// An empty cache of at most `capacity` capabilities for the instance `holder`.
    #[must_use]
    pub fn new(store: Arc<S>, clock: Clock, holder: Holder, capacity: u64) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&evicted);
        let cache = moka::sync::Cache::builder()
            .max_capacity(capacity)
            // The default policy refuses new entries when the cache is full. Here a client has just paid
            // for the new entry.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Expiry(clock.clone()))
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self { leases: Leases::new(store, clock, holder), cache, evicted }
    }

    #[must_use]
    pub const fn holder(&self) -> Holder {
        self.leases.holder
    }

    /// Capabilities in the cache, and how many were evicted because it was full.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.cache.entry_count(), self.evicted.load(Ordering::Relaxed))
    }

    /// Caches the capability of a settled payment.
    #[must_use]
    pub fn admit(&self, settled: Settled) -> Arc<CachedCapability> {
        let (intent, record, lease) = settled.into_parts();
        self.take_in(
            CachedCapability::new(record, Purchase::from(&intent), lease, self.leases.clock.now()),
            lease,
        )
    }

    fn take_in(&self, held: CachedCapability, lease: Lease) -> Arc<CachedCapability> {
        let held = self.insert(held);
        if lease.granted == 0 {
            return held;
        }
        // Another request may have looked it up since the grant.
        self.leases.take_in_first(&held, lease)
    }

    fn insert(&self, held: CachedCapability) -> Arc<CachedCapability> {
        let id = held.record().id;
        self.known(id).unwrap_or_else(|| self.cache.get_with(id, || Arc::new(held)))
    }

    /// The capability, if it is in the cache. Takes no lock, so a claim to have it may be looked up before
    /// it is shown.
    #[must_use]
    pub fn cached(&self, id: CapabilityId) -> Option<Arc<CachedCapability>> {
        self.cache.get(&id)
    }

    /// The capability, if it is cached or uses of it are out.
    #[must_use]
    pub fn known(&self, id: CapabilityId) -> Option<Arc<CachedCapability>> {
        self.cache.get(&id).or_else(|| {
            let held = self.leases.find(id)?;
            Some(self.cache.get_with(id, || held))
        })
    }

    /// The capability, from the cache or else from the store. `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the store was needed and did not answer.
    pub async fn find(&self, id: CapabilityId) -> Result<Option<Arc<CachedCapability>>, StoreError> {
        if let Some(held) = self.known(id) {
            return Ok(Some(held));
        }
        let Leases { store, clock, .. } = &self.leases;
        let Some(record) = store.capability(id).await? else { return Ok(None) };
        let Some(payment) = store.payment(record.block).await? else { return Ok(None) };
        // The repeated grant gives the uses that were leased to this instance with the first one. If that
        // answer was lost, nothing else gives them.
        let (holder, now) = (self.holder(), clock.now());
        match store.grant(&payment.intent, Grantee { id, holder, want: 0, ttl: 0 }, now).await? {
            Grant::Granted { record, lease, .. } => {
                Ok(Some(self.take_in(
                    CachedCapability::new(record, Purchase::from(&payment.intent), lease, now),
                    lease,
                )))
            }
            Grant::Taken | Grant::IdHeld(_) => Ok(None),
        }
    }

    /// The purse that a payment was added to, as it is now. `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the store did not answer.
    pub async fn topped_up(&self, id: CapabilityId) -> Result<Option<Arc<CachedCapability>>, StoreError> {
        let Some(record) = self.leases.store.capability(id).await? else { return Ok(None) };
        let held = self.find(id).await?;
        if let Some(held) = &held {
            held.is_good_until(record.expires_at);
            held.was_topped_up();
        }
        Ok(held)
    }

    /// Takes what a request wants. Asks the store only when what is leased is used up or has lapsed.
    ///
    /// # Errors
    /// [`NoUse`].
    pub async fn reserve(&self, held: &Arc<CachedCapability>, wish: Wish) -> Result<Use, NoUse> {
        let taken = self.leases.reserve(held, wish).await?;
        let pause = taken.held().meter().pause(self.leases.clock.now());
        match pause {
            None => Ok(taken),
            Some(pause) => {
                taken.give_back();
                Err(NoUse::Failing(pause))
            }
        }
    }

    /// The upstream failed: gives the use back, and counts the failure. After five in a row the
    /// capability's requests wait ([`NoUse::Failing`]).
    pub fn fail(&self, taken: Use) {
        taken.held().meter().fail(self.leases.clock.now());
        taken.give_back();
    }

    /// The answer to a use broke off, or its client was gone before there was one. The use is given back
    /// at most twice before one is spent, counted in the store.
    pub async fn broke(&self, taken: Use) -> BrokenAnswer {
        self.leases.broke(taken).await
    }

    /// Spends a use and returns when that is durable. Then it cannot be given back.
    ///
    /// # Errors
    /// [`StoreError`]. The use is spent here, and its report is repeated in the background.
    pub async fn commit_durably(&self, taken: &mut Use) -> Result<(), StoreError> {
        self.leases.commit_durably(taken).await
    }

    /// Takes as much of `amount` more of a purse as is leased and free, for an answer that costs more than was set
    /// aside. Gives how much.
    pub fn extend(&self, taken: &mut Use, amount: u128) -> u128 {
        self.leases.extend(taken, amount)
    }

    /// As [`Capabilities::extend`], but asks the store if need be.
    pub async fn take_more(&self, taken: &mut Use, amount: u128) -> u128 {
        self.leases.take_more(taken, amount).await
    }

    /// Reports what was spent of a capability, and returns when that is durable.
    ///
    /// # Errors
    /// [`StoreError`]. The report is repeated in the background.
    pub async fn report_now(&self, held: &Arc<CachedCapability>) -> Result<(), StoreError> {
        self.leases.report_now(held).await
    }

    /// Ends a capability at once, here and in the store. False if there is none.
    ///
    /// # Errors
    /// [`StoreError`]. It still ends here.
    pub async fn revoke(&self, id: CapabilityId) -> Result<bool, StoreError> {
        self.end_here(id);
        self.leases.store.revoke(id, self.leases.clock.now()).await
    }

    /// Ends a capability in this instance: one that the store has ended. Other instances learn it with their
    /// next report, which is made at least every [`LEASE_SECONDS`] / 2 while uses are out, within
    /// [`REVOKED_WITHIN`].
    pub fn end_here(&self, id: CapabilityId) {
        for held in self.cache.get(&id).into_iter().chain(self.leases.find(id)) {
            held.meter().revoke();
        }
    }

    /// Reports what this instance has spent of a capability, and hands back what no request under way has.
    ///
    /// # Errors
    /// [`StoreError`]. It is repeated in the background.
    pub async fn hand_back(&self, id: CapabilityId) -> Result<(), StoreError> {
        self.leases.hand_back(id).await
    }

    /// Until `shutdown` turns true: reports uses as they are spent, renews leases, hands back idle uses.
    /// Then reports and hands back everything.
    pub async fn run(&self, shutdown: StopSignal) {
        self.leases.run(shutdown).await;
    }
}
