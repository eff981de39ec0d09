//! The capabilities in hand: a moka cache in front of the store, and the metering of their uses.
//!
//! A use is taken from what this instance has leased, under a lock that no await is held across: no
//! store and no node on the path. Leases are taken in chunks, renewed while anything is out, and
//! handed back when idle. What was used is reported soon after, never waited for; so a crash gives
//! back what was in flight and no more than [`REPORT_AFTER`] of traffic (PROTOCOL section 5: a crash
//! favours the payer, by a bounded amount).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use tokio::sync::Notify;

use super::settle::Settled;
use super::{CapabilityId, CapabilityRecord, Holder, Intent, Lease, LeaseRequest, Store, StoreError};
use crate::clock::Clock;
use crate::nano::UnixSeconds;
use crate::routes::Metering;
use crate::shutdown::{self, StopSignal};
use crate::sync::{self, MissedTickBehavior, Mutex, MutexGuard, PoisonError};

/// How long a lease lasts without being renewed, in seconds: for as long a crashed instance keeps
/// what it had leased from the others.
pub const LEASE_SECONDS: u64 = 10;
/// Uses leased at once at most.
const LARGEST_CHUNK: u32 = 256;
/// How long uses wait to be reported together.
const REPORT_AFTER: Duration = Duration::from_millis(5);
/// How often leases are looked over.
const LOOK_OVER_EVERY: Duration = Duration::from_millis(500);
/// Seconds after its last use at which a capability's leased uses go back to the store.
const IDLE_SECONDS: u64 = 2;
/// How often one use is given back because the client was gone before it had its answer.
const HANGUPS_FORGIVEN: u8 = 2;

/// A capability in hand.
#[derive(Debug)]
pub struct Held {
    record: CapabilityRecord,
    intent: Intent,
    meter: Mutex<Meter>,
    /// Lease calls go one after the other; what is in it is the call whose outcome is unknown.
    calls: tokio::sync::Mutex<Option<LeaseRequest>>,
}

/// Where the uses of one capability are, as far as this instance knows.
#[derive(Debug)]
struct Meter {
    /// Leased and free to be taken.
    available: u32,
    /// Taken by requests under way.
    reserved: u32,
    /// On their way back to the store.
    returning: u32,
    /// Spent and not reported.
    unreported: u32,
    /// Left in the store when it was last asked.
    stored: u32,
    /// Leased by other instances when it was last asked.
    elsewhere: u32,
    lapses_at: UnixSeconds,
    last_taken: UnixSeconds,
    hangups: u8,
    revoked: bool,
    /// Whether this capability waits in the list of those to be reported.
    queued: bool,
    /// Whether the store has said what is left.
    asked: bool,
}

impl Meter {
    /// Uses that are left beside those under way.
    fn remaining(&self) -> u32 {
        let here = self.available.saturating_add(self.returning);
        here.saturating_add(self.stored).saturating_add(self.elsewhere)
    }

    /// Whether nothing is left anywhere, and nothing can come back.
    fn is_spent(&self) -> bool {
        self.revoked || (self.asked && self.remaining() == 0 && self.reserved == 0)
    }

    fn is_out(&self) -> bool {
        self.available > 0 || self.returning > 0 || self.reserved > 0 || self.unreported > 0
    }
}

impl Held {
    fn new(record: CapabilityRecord, intent: Intent, lease: Lease, now: UnixSeconds) -> Self {
        let meter = Meter {
            available: lease.granted,
            reserved: 0,
            returning: 0,
            unreported: 0,
            stored: lease.remaining,
            elsewhere: lease.elsewhere,
            lapses_at: lease.expires_at,
            last_taken: now,
            hangups: 0,
            revoked: record.revoked || lease.revoked,
            queued: false,
            asked: lease.expires_at > UnixSeconds(0),
        };
        Self { record, intent, meter: Mutex::new(meter), calls: tokio::sync::Mutex::new(None) }
    }

    #[must_use]
    pub const fn record(&self) -> &CapabilityRecord {
        &self.record
    }

    /// The payment that bought it.
    #[must_use]
    pub const fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Uses left beside those under way, as far as is known here.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.meter().remaining()
    }

    // A few additions; nobody awaits or panics while holding it.
    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a use that is leased and free. A lease that has lapsed may be with another instance, but
    /// while the store is away (`alone`) nobody can take it: what is in hand is served on.
    fn try_take(&self, now: UnixSeconds, alone: bool) -> bool {
        let mut meter = self.meter();
        if meter.revoked || (meter.lapses_at <= now && !alone) {
            return false;
        }
        let Some(left) = meter.available.checked_sub(1) else { return false };
        meter.available = left;
        meter.reserved = meter.reserved.saturating_add(1);
        meter.last_taken = now;
        true
    }
}

/// What is to be reported, and the bell for it. Apart from the rest so that a [`Use`] need not know
/// the store.
#[derive(Debug, Default)]
struct Reports {
    waiting: Mutex<Vec<Arc<Held>>>,
    bell: Notify,
}

impl Reports {
    fn push(&self, held: &Arc<Held>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(held));
        self.bell.notify_one();
    }

    fn take(&self) -> Vec<Arc<Held>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One use of a capability, taken and not yet spent. Dropped, it goes back.
#[derive(Debug)]
#[must_use = "a use is committed or given back"]
pub struct Use {
    held: Arc<Held>,
    reports: Arc<Reports>,
    metering: Metering,
    open: bool,
}

/// What became of a use whose client was gone before it had its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HangUp {
    GivenBack,
    /// Given back too often before: hanging up is no way to read for free.
    Committed,
}

impl Use {
    #[must_use]
    pub const fn held(&self) -> &Arc<Held> {
        &self.held
    }

    #[must_use]
    pub const fn metering(&self) -> Metering {
        self.metering
    }

    /// Spends the use: the client has its answer.
    pub fn commit(mut self) {
        self.spend();
    }

    /// Gives the use back: the upstream failed, or never saw the request.
    pub fn give_back(self) {
        drop(self);
    }

    /// Gives the use back because the client was gone before the answer was whole, at most
    /// [`HANGUPS_FORGIVEN`] times between two uses that are spent.
    pub fn hang_up(mut self) -> HangUp {
        if !self.open {
            return HangUp::Committed;
        }
        let forgiven = {
            let mut meter = self.held.meter();
            let forgiven = meter.hangups < HANGUPS_FORGIVEN;
            if forgiven {
                meter.hangups = meter.hangups.saturating_add(1);
            }
            forgiven
        };
        if forgiven {
            return HangUp::GivenBack;
        }
        self.spend();
        HangUp::Committed
    }

    fn spend(&mut self) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let report = {
            let mut meter = self.held.meter();
            meter.reserved = meter.reserved.saturating_sub(1);
            meter.unreported = meter.unreported.saturating_add(1);
            meter.hangups = 0;
            !std::mem::replace(&mut meter.queued, true)
        };
        if report {
            self.reports.push(&self.held);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if self.open {
            let mut meter = self.held.meter();
            meter.reserved = meter.reserved.saturating_sub(1);
            meter.available = meter.available.saturating_add(1);
        }
    }
}

/// Why no use could be taken.
#[derive(Debug, thiserror::Error)]
pub enum NoUse {
    /// All are spent, or the capability was revoked.
    #[error("the capability is used up")]
    Exhausted,
    /// All that are left are under way or leased by another instance; some may come back.
    #[error("the last uses are under way")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All capabilities in hand, over the store `S`.
#[derive(Debug)]
pub struct Capabilities<S> {
    store: Arc<S>,
    clock: Clock,
    holder: Holder,
    cache: moka::sync::Cache<CapabilityId, Arc<Held>>,
    /// Those with uses leased, reserved or unreported: kept whatever the cache forgets, so that one
    /// instance never meters one capability twice.
    out: Mutex<BTreeMap<CapabilityId, Arc<Held>>>,
    reports: Arc<Reports>,
    /// Numbers the lease calls of this holder.
    sequence: AtomicU64,
    evicted: Arc<AtomicU64>,
}

/// Drops an entry from the cache when its capability has expired; whether it *has* expired is
/// decided by the gateway's own clock, at each use.
#[derive(Debug)]
struct Expiry(Clock);

impl moka::Expiry<CapabilityId, Arc<Held>> for Expiry {
    fn expire_after_create(
        &self,
        _: &CapabilityId,
        held: &Arc<Held>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(Duration::from_secs(held.record.expires_at.since(self.0.now()).saturating_add(1)))
    }
}

impl<S: Store> Capabilities<S> {
    /// An empty cache of at most `capacity` capabilities for the instance `holder`.
    #[must_use]
    pub fn new(store: Arc<S>, clock: Clock, holder: Holder, capacity: u64) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&evicted);
        let cache = moka::sync::Cache::builder()
            .max_capacity(capacity)
            // The default policy refuses new entries when full and warm; here a new entry is what a
            // customer has just paid for.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Expiry(clock.clone()))
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        let sequence = AtomicU64::new(0);
        let (out, reports) = (Mutex::default(), Arc::default());
        Self { store, clock, holder, cache, out, reports, sequence, evicted }
    }

    #[must_use]
    pub const fn holder(&self) -> Holder {
        self.holder
    }

    /// Capabilities in the cache, and how many were pushed out of it for want of room.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.cache.entry_count(), self.evicted.load(Ordering::Relaxed))
    }

    /// How many uses to lease of a capability that has `left`: half, so that another instance finds
    /// some and the tail is exact.
    #[must_use]
    pub fn chunk(left: u32) -> u32 {
        left.div_euclid(2).clamp(1, LARGEST_CHUNK)
    }

    /// Takes in what a payment was settled into.
    #[must_use]
    pub fn admit(&self, settled: Settled) -> Arc<Held> {
        let (intent, record, lease) = settled.into_parts();
        self.insert(Held::new(record, intent, lease, self.clock.now()))
    }

    fn insert(&self, held: Held) -> Arc<Held> {
        let id = held.record.id;
        let leased = held.meter().available > 0;
        let fresh = Arc::new(held);
        let held = self.known(id).unwrap_or_else(|| self.cache.get_with(id, || Arc::clone(&fresh)));
        if leased && Arc::ptr_eq(&held, &fresh) {
            self.out().insert(id, Arc::clone(&held));
        }
        held
    }

    fn out(&self) -> MutexGuard<'_, BTreeMap<CapabilityId, Arc<Held>>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The capability, if it is in hand.
    #[must_use]
    pub fn known(&self, id: CapabilityId) -> Option<Arc<Held>> {
        self.cache.get(&id).or_else(|| {
            let held = self.out().get(&id).cloned()?;
            Some(self.cache.get_with(id, || held))
        })
    }

    /// The capability, from the cache or else from the store; nothing where there is none.
    ///
    /// # Errors
    /// [`StoreError`], when the store had to be asked and did not answer.
    pub async fn find(&self, id: CapabilityId) -> Result<Option<Arc<Held>>, StoreError> {
        if let Some(held) = self.known(id) {
            return Ok(Some(held));
        }
        let Some(record) = self.store.capability(id).await? else { return Ok(None) };
        let Some(payment) = self.store.payment(record.block).await? else { return Ok(None) };
        let revoked = record.revoked;
        let nothing = Lease { granted: 0, remaining: 0, elsewhere: 0, expires_at: UnixSeconds(0), revoked };
        Ok(Some(self.insert(Held::new(record, payment.intent, nothing, self.clock.now()))))
    }

    /// Takes one use. Asks the store only when what is leased is used up or has lapsed.
    ///
    /// # Errors
    /// [`NoUse`].
    pub async fn reserve(&self, held: &Arc<Held>, metering: Metering) -> Result<Use, NoUse> {
        if self.try_take(held) {
            return Ok(self.taken(held, metering));
        }
        if held.meter().is_spent() {
            return Err(NoUse::Exhausted);
        }
        let mut unresolved = held.calls.lock().await;
        if self.try_take(held) {
            return Ok(self.taken(held, metering));
        }
        loop {
            let want = match metering {
                Metering::Leased => Self::chunk(held.meter().stored),
                Metering::Strict => 1,
            };
            let granted = self.call(held, &mut unresolved, want, false).await?;
            if self.try_take(held) {
                return Ok(self.taken(held, metering));
            }
            let meter = held.meter();
            if meter.is_spent() {
                return Err(NoUse::Exhausted);
            }
            // What was leased is gone to others already: there may be more.
            if granted == 0 {
                // One that was given back meanwhile is free at the next try.
                let comes_back = meter.elsewhere > 0 || meter.reserved > 0 || meter.available > 0;
                return Err(if comes_back { NoUse::Busy } else { NoUse::Exhausted });
            }
        }
    }

    fn try_take(&self, held: &Held) -> bool {
        held.try_take(self.clock.now(), !self.store.is_writable())
    }

    fn taken(&self, held: &Arc<Held>, metering: Metering) -> Use {
        Use { held: Arc::clone(held), reports: Arc::clone(&self.reports), metering, open: true }
    }

    /// Spends a use and returns when that is durable. It cannot be given back after that.
    ///
    /// # Errors
    /// [`StoreError`]; the use is spent here, and its report is tried again in the background.
    pub async fn commit_durably(&self, taken: &mut Use) -> Result<(), StoreError> {
        taken.spend();
        let held = Arc::clone(&taken.held);
        let mut unresolved = held.calls.lock().await;
        // Another request's report may have taken this one along.
        let reported = held.meter().unreported == 0 && unresolved.is_none();
        if reported { Ok(()) } else { self.call(&held, &mut unresolved, 0, false).await.map(drop) }
    }

    /// Ends a capability at once, here and in the store. False where there is none.
    ///
    /// # Errors
    /// [`StoreError`]; it then still ends here.
    pub async fn revoke(&self, id: CapabilityId) -> Result<bool, StoreError> {
        if let Some(held) = self.known(id) {
            held.meter().revoked = true;
        }
        self.store.revoke(id, self.clock.now()).await
    }

    /// One lease call: reports what was used, hands back what lapsed or, if `hand_back`, all that is
    /// free, asks for `want`; gives how many it got. A call whose outcome stayed unknown is made again
    /// first, word for word.
    async fn call(
        &self,
        held: &Arc<Held>,
        unresolved: &mut Option<LeaseRequest>,
        want: u32,
        hand_back: bool,
    ) -> Result<u32, StoreError> {
        if let Some(request) = *unresolved {
            self.complete(held, request).await?;
            *unresolved = None;
        }
        let request = self.request(held, want, hand_back);
        *unresolved = Some(request);
        let outcome = self.complete(held, request).await;
        if !matches!(outcome, Err(StoreError::Unknown(_))) {
            *unresolved = None;
        }
        if outcome.is_err() && unresolved.is_none() {
            // Certainly without effect: what the request took out of the meter goes back in.
            let mut meter = held.meter();
            meter.unreported = meter.unreported.saturating_add(request.used);
            meter.available = meter.available.saturating_add(request.returned);
            meter.returning = meter.returning.saturating_sub(request.returned);
        }
        outcome
    }

    fn request(&self, held: &Held, want: u32, hand_back: bool) -> LeaseRequest {
        let now = self.clock.now();
        let mut meter = held.meter();
        meter.queued = false;
        let returned =
            if hand_back || meter.lapses_at <= now { std::mem::take(&mut meter.available) } else { 0 };
        meter.returning = meter.returning.saturating_add(returned);
        LeaseRequest {
            capability: held.record.id,
            holder: self.holder,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed).saturating_add(1),
            used: std::mem::take(&mut meter.unreported),
            returned,
            want,
            ttl: LEASE_SECONDS,
        }
    }

    async fn complete(&self, held: &Arc<Held>, request: LeaseRequest) -> Result<u32, StoreError> {
        let lease = self.store.lease(request, self.clock.now()).await?;
        let out = {
            let mut meter = held.meter();
            meter.available = meter.available.saturating_add(lease.granted);
            meter.returning = meter.returning.saturating_sub(request.returned);
            meter.stored = lease.remaining;
            meter.elsewhere = lease.elsewhere;
            meter.lapses_at = lease.expires_at;
            // What another instance revoked ends here with the first answer that says so.
            meter.revoked |= lease.revoked;
            meter.asked = true;
            meter.is_out()
        };
        if out {
            self.out().insert(held.record.id, Arc::clone(held));
        }
        Ok(lease.granted)
    }

    /// Reports uses as they are spent, renews what is out and hands back what is idle, until
    /// `shutdown` turns true; then reports and hands back everything once more.
    pub async fn run(&self, mut shutdown: StopSignal) {
        let mut ticks = sync::interval(LOOK_OVER_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown::asked_for(&mut shutdown) => break,
                () = self.reports.bell.notified() => {
                    sync::sleep(REPORT_AFTER).await;
                    self.report().await;
                }
                _ = ticks.tick() => self.look_over(false).await,
            }
        }
        self.report().await;
        self.look_over(true).await;
    }

    async fn report(&self) {
        fail::fail_point!("use-committed", |_| std::process::abort());
        let waiting = self.reports.take();
        // All at once, so that the store commits them together.
        let calls = waiting.iter().map(|held| self.settle_up(held, false));
        join_all(calls).await;
    }

    async fn look_over(&self, hand_back_all: bool) {
        let now = self.clock.now();
        let mut due = Vec::new();
        self.out().retain(|_, held| {
            let meter = held.meter();
            let idle = meter.last_taken.plus(IDLE_SECONDS) <= now && meter.available > 0;
            let ageing = meter.lapses_at <= now.plus(LEASE_SECONDS.div_euclid(2));
            let hand_back = hand_back_all || idle;
            if meter.is_out() && (hand_back || ageing || meter.unreported > 0) {
                due.push((Arc::clone(held), hand_back));
            }
            meter.is_out()
        });
        join_all(due.iter().map(|(held, hand_back)| self.settle_up(held, *hand_back))).await;
    }

    async fn settle_up(&self, held: &Arc<Held>, hand_back: bool) {
        let mut unresolved = held.calls.lock().await;
        if let Err(error) = self.call(held, &mut unresolved, 0, hand_back).await {
            // The uses stay unreported and are reported again at the next look.
            tracing::warn!(capability = %held.record.id, %error, "uses not reported");
        }
    }
}
