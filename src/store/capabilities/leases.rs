//! The calls that move uses between this instance and the store: leasing, reporting, handing back.
//!
//! A use is taken from the leased ones. The store is asked only when they are used up or have lapsed.
//! Leases are taken in chunks, renewed while uses are out, and handed back when idle. Spent uses are
//! reported soon after; no request waits for that.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::super::{CapabilityId, Holder, Lease, LeaseRequest, Meters, StoreError, StoreHealth};
use super::meter::{BrokenAnswer, CachedCapability, Calls, Meter, Reports, Use, UseTally};
use crate::clock::Clock;
use crate::repeats::Repeats;
use crate::routes::Metering;
use crate::shutdown::{self, StopSignal};
use crate::sync::{self, MissedTickBehavior, Mutex, MutexGuard, PoisonError};

/// How long a lease lasts unless it is renewed, in seconds. For this time a crashed instance keeps its
/// leased uses from the others.
pub const LEASE_SECONDS: u64 = 10;
/// Seconds within which an instance that reaches the store learns that a capability is revoked. It asks for what
/// it has leased each 5 s, counted in whole seconds, looks after that each half second, and the store has its time.
pub const REVOKED_WITHIN: u64 = 7;
/// What so many requests take is leased at once at most.
const LARGEST_CHUNK: u128 = 256;
/// How long spent uses wait, to be reported together.
const REPORT_AFTER: Duration = Duration::from_millis(200);
/// How long they wait once those of one capability should not.
const REPORT_SOON: Duration = Duration::from_millis(5);
/// How often all leases are checked.
const LOOK_OVER_EVERY: Duration = Duration::from_millis(500);
/// Seconds after its last use at which a capability's leased uses go back to the store.
const IDLE_SECONDS: u64 = 2;

/// Why no use could be taken.
#[derive(Debug, thiserror::Error)]
pub enum NoUse {
    /// All is spent, or less is left than the request may cost.
    #[error("the capability is used up")]
    Exhausted,
    /// The operator ended it.
    #[error("the capability is revoked")]
    Revoked,
    /// All that are left are under way or leased by another instance. Some may come back.
    #[error("the last uses are under way")]
    Busy,
    /// The upstream failed again and again; it may be asked again after this many seconds.
    #[error("the upstream fails: it may be asked again after {0} s")]
    Failing(NonZeroU64),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How much to lease of a capability of which `left` is left, for requests that take `each`: half, so that another
/// instance finds some and the last are counted exactly.
#[must_use]
pub fn chunk(left: u128, each: u128) -> u128 {
    left.div_euclid(2).clamp(each, each.saturating_mul(LARGEST_CHUNK))
}

/// What a request wants to take of a capability.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// In its unit: 1 of uses.
    pub amount: u128,
    pub metering: Metering,
}

impl Wish {
    /// One use.
    #[must_use]
    pub const fn one(metering: Metering) -> Self {
        Self { amount: 1, metering }
    }
}

/// The leases of one instance, over the store `S`.
#[derive(Debug)]
pub(super) struct Leases<S> {
    pub(super) store: Arc<S>,
    pub(super) clock: Clock,
    pub(super) holder: Holder,
    /// The capabilities with uses leased, reserved or unreported, or about to be leased. They are kept even
    /// if the cache drops them, so that one instance never meters one capability twice.
    out: Mutex<BTreeMap<CapabilityId, Arc<CachedCapability>>>,
    reports: Arc<Reports>,
    /// Numbers the lease calls of this holder.
    sequence: AtomicU64,
    /// Uses cannot be reported.
    trouble: Repeats,
}

impl<S: Meters + StoreHealth> Leases<S> {
    /// No leases yet, for the instance `holder`.
    pub(super) fn new(store: Arc<S>, clock: Clock, holder: Holder) -> Self {
        let sequence = AtomicU64::new(0);
        let (out, reports, trouble) = (Mutex::default(), Arc::default(), Repeats::new());
        Self { store, clock, holder, out, reports, sequence, trouble }
    }

    fn out(&self) -> MutexGuard<'_, BTreeMap<CapabilityId, Arc<CachedCapability>>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Capabilities::reserve`](super::Capabilities::reserve).
    pub(super) async fn reserve(&self, held: &Arc<CachedCapability>, wish: Wish) -> Result<Use, NoUse> {
        if self.try_take(held, wish) {
            return Ok(self.taken(held, wish));
        }
        if held.meter().is_spent(wish.amount, self.clock.now()) {
            return Err(used_up(&held.meter()));
        }
        // Boxed: what a future may hold is copied with each request.
        Box::pin(self.lease_first(Arc::clone(held), wish)).await
    }

    /// Takes one use once it is this request's turn to lease some.
    async fn lease_first(&self, mut held: Arc<CachedCapability>, wish: Wish) -> Result<Use, NoUse> {
        loop {
            let unresolved = held.calls.lock().await;
            let out = self.enlist(&held);
            if Arc::ptr_eq(&out, &held) {
                return self.lease(&held, unresolved, wish).await;
            }
            // While this request waited, the cache dropped the capability and another request loaded it
            // again.
            drop(unresolved);
            held = out;
        }
    }

    /// The one meter through which the capability's uses go out: this one, unless there is another.
    fn enlist(&self, held: &Arc<CachedCapability>) -> Arc<CachedCapability> {
        Arc::clone(self.out().entry(held.record().id).or_insert_with(|| Arc::clone(held)))
    }

    /// Adds the uses leased with the grant to the meter through which the capability's uses go out.
    pub(super) fn take_in_first(&self, held: &Arc<CachedCapability>, lease: Lease) -> Arc<CachedCapability> {
        let mut out = self.out();
        let held = Arc::clone(out.entry(held.record().id).or_insert_with(|| Arc::clone(held)));
        held.meter().take_in_first(lease, self.clock.now());
        held
    }

    /// The capability, if uses of it are out.
    pub(super) fn find(&self, id: CapabilityId) -> Option<Arc<CachedCapability>> {
        self.out().get(&id).cloned()
    }

    /// Takes one use. Leases more as long as there are some. The caller holds the turn for this
    /// capability's calls.
    async fn lease(
        &self,
        held: &Arc<CachedCapability>,
        mut unresolved: Calls<'_>,
        wish: Wish,
    ) -> Result<Use, NoUse> {
        let Wish { amount, metering } = wish;
        if self.try_take(held, wish) {
            return Ok(self.taken(held, wish));
        }
        loop {
            // Never less than the request takes: what is free here now may be another's before the answer comes, and
            // if nothing was asked for, nothing being granted says nothing.
            let want = match metering {
                Metering::Leased => chunk(held.meter().stored(), amount),
                Metering::Strict => amount,
            };
            let granted = self.call(held, &mut unresolved, want, false).await?;
            if self.try_take(held, wish) {
                return Ok(self.taken(held, wish));
            }
            let meter = held.meter();
            if meter.is_spent(amount, self.clock.now()) {
                return Err(used_up(&meter));
            }
            // Other requests took what was leased. There may be more, and what was given back
            // meanwhile is free at the next attempt.
            if granted == 0 {
                return Err(if meter.may_come_back(amount) { NoUse::Busy } else { NoUse::Exhausted });
            }
        }
    }

    fn try_take(&self, held: &CachedCapability, wish: Wish) -> bool {
        let mut meter = held.meter();
        meter.covers(wish.amount) && meter.take(wish.amount, self.clock.now(), !self.store.is_writable())
    }

    fn taken(&self, held: &Arc<CachedCapability>, wish: Wish) -> Use {
        Use::taken(Arc::clone(held), Arc::clone(&self.reports), (wish.metering, wish.amount))
    }

    /// [`Capabilities::commit_durably`](super::Capabilities::commit_durably).
    pub(super) async fn commit_durably(&self, taken: &mut Use) -> Result<(), StoreError> {
        taken.spend();
        let held = Arc::clone(taken.held());
        self.report_now(&held).await
    }

    /// Takes as much of `amount` more for a request under way as is left, and asks the store if need be. Gives how much.
    pub(super) async fn take_more(&self, taken: &mut Use, amount: u128) -> u128 {
        let held = Arc::clone(taken.held());
        let amount = taken.within_reach(amount);
        let mut got = self.extend(taken, amount);
        let mut unresolved = held.calls.lock().await;
        while got < amount {
            let want = amount.saturating_sub(got);
            match self.call(&held, &mut unresolved, want, false).await {
                Ok(granted) if granted > 0 => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(capability = %held.record().id, %error, "an answer that cost more than was set aside was charged less");
                    break;
                }
            }
            let more = self.extend(taken, want);
            if more == 0 {
                break;
            }
            got = got.saturating_add(more);
        }
        got
    }

    /// Takes as much of `amount` more as is leased and free. Gives how much.
    pub(super) fn extend(&self, taken: &mut Use, amount: u128) -> u128 {
        taken.extend(amount, self.clock.now(), !self.store.is_writable())
    }

    /// Reports what was spent, and returns when that is durable.
    pub(super) async fn report_now(&self, held: &Arc<CachedCapability>) -> Result<(), StoreError> {
        let mut unresolved = held.calls.lock().await;
        // Another request's report may have included it.
        let reported = !held.meter().has_unreported() && unresolved.is_none();
        if reported { Ok(()) } else { self.call(held, &mut unresolved, 0, false).await.map(drop) }
    }

    /// The answer to a use broke off, or its client was gone before there was one. The break is counted
    /// in the store before the use is given back, so that it counts at every instance. While the store is
    /// away, what is known here decides.
    pub(super) async fn broke(&self, mut taken: Use) -> BrokenAnswer {
        let held = Arc::clone(taken.held());
        held.meter().fail(self.clock.now());
        if taken.is_spent() {
            return BrokenAnswer::Committed;
        }
        let mut unresolved = held.calls.lock().await;
        held.meter().note_break();
        if let Err(error) = self.call(&held, &mut unresolved, 0, false).await {
            // It stays unreported and is reported again at the next look.
            tracing::warn!(capability = %held.record().id, %error, "a broken answer was not counted in the store");
        }
        drop(unresolved);
        let forgiven = held.meter().forgives();
        if forgiven {
            return BrokenAnswer::GivenBack;
        }
        taken.spend();
        BrokenAnswer::Committed
    }

    /// One lease call: reports spent uses, hands back lapsed ones (all free ones if `hand_back`), and asks
    /// for `want`. Gives the number it got. A call whose outcome is unknown is repeated first, unchanged.
    async fn call(
        &self,
        held: &Arc<CachedCapability>,
        unresolved: &mut Option<Box<LeaseRequest>>,
        want: u128,
        hand_back: bool,
    ) -> Result<u128, StoreError> {
        if let Some(request) = unresolved.as_deref().copied() {
            match self.complete(held, request).await {
                // It was not applied the first time either: the same call gets the same answer.
                Err(StoreError::NotApplied(_)) => held.meter().take_back(tally(&request)),
                outcome => drop(outcome?),
            }
            *unresolved = None;
        }
        let request = self.request(held, want, hand_back);
        *unresolved = Some(Box::new(request));
        let outcome = self.complete(held, request).await;
        if !matches!(outcome, Err(StoreError::Unknown(_))) {
            *unresolved = None;
        }
        if outcome.is_err() && unresolved.is_none() {
            // It had no effect: what the request took out of the meter goes back in.
            held.meter().take_back(tally(&request));
        }
        outcome
    }

    fn request(&self, held: &CachedCapability, want: u128, hand_back: bool) -> LeaseRequest {
        let UseTally { used, returned, broken } = held.meter().draw_up(hand_back, self.clock.now());
        LeaseRequest {
            capability: held.record().id,
            holder: self.holder,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed).saturating_add(1),
            used,
            returned,
            broken,
            want,
            ttl: LEASE_SECONDS,
        }
    }

    async fn complete(
        &self,
        held: &Arc<CachedCapability>,
        request: LeaseRequest,
    ) -> Result<u128, StoreError> {
        let now = self.clock.now();
        let lease = self.store.lease(request, now).await?;
        held.meter().take_in(lease, tally(&request), now);
        Ok(lease.granted)
    }

    /// [`Capabilities::hand_back`](super::Capabilities::hand_back).
    pub(super) async fn hand_back(&self, id: CapabilityId) -> Result<(), StoreError> {
        let Some(held) = self.find(id) else { return Ok(()) };
        match self.settle_up(&held, true).await {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// [`Capabilities::run`](super::Capabilities::run).
    pub(super) async fn run(&self, mut shutdown: StopSignal) {
        let mut ticks = sync::interval(LOOK_OVER_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown::asked_for(&mut shutdown) => break,
                () = self.reports.bell.notified() => {
                    tokio::select! {
                        () = sync::sleep(REPORT_AFTER) => {}
                        () = self.reports.hurry.notified() => sync::sleep(REPORT_SOON).await,
                    }
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
        // All at once, so that the store commits them in one group.
        let calls = waiting.iter().map(|held| self.settle_up(held, false));
        let reports = join_all(calls).await;
        self.complain(&reports);
    }

    async fn look_over(&self, hand_back_all: bool) {
        let now = self.clock.now();
        let mut due = Vec::new();
        self.out().retain(|_, held| {
            let meter = held.meter();
            let hand_back = hand_back_all || meter.is_idle(IDLE_SECONDS, now);
            let ageing = meter.is_ageing(LEASE_SECONDS.div_euclid(2), now);
            // While a call is under way or its outcome is unknown, it may bring uses.
            let calls = held.calls.try_lock();
            let unresolved = calls.as_ref().is_ok_and(|call| call.is_some());
            let due_anyway = meter.is_out() && (hand_back || ageing || meter.has_unreported());
            if due_anyway || unresolved {
                due.push((Arc::clone(held), hand_back));
            }
            meter.is_out() || unresolved || calls.is_err()
        });
        let reports = join_all(due.iter().map(|(held, hand_back)| self.settle_up(held, *hand_back))).await;
        self.complain(&reports);
    }

    /// Logs if uses could not be reported, or can be again. A store that is away fails all calls alike.
    fn complain(&self, reports: &[Option<(CapabilityId, StoreError)>]) {
        match reports.iter().flatten().next() {
            Some((capability, error)) => {
                if let Some(held_back) = self.trouble.again() {
                    tracing::warn!(%capability, %error, held_back, "uses not reported");
                }
            }
            None if reports.is_empty() => {}
            None => {
                if let Some(spell) = self.trouble.over() {
                    tracing::info!(after_s = spell.lasted.as_secs(), "uses are reported again");
                }
            }
        }
    }

    /// Reports the uses of a capability. Gives why it could not: then they stay unreported, and the next check reports
    /// them again.
    async fn settle_up(
        &self,
        held: &Arc<CachedCapability>,
        hand_back: bool,
    ) -> Option<(CapabilityId, StoreError)> {
        let mut unresolved = held.calls.lock().await;
        let want = if hand_back { 0 } else { held.meter().lacks_for_answers() };
        let reported = self.call(held, &mut unresolved, want, hand_back).await;
        reported.err().map(|error| (held.record().id, error))
    }
}

/// Why nothing is left of a capability.
const fn used_up(meter: &Meter) -> NoUse {
    if meter.is_revoked() { NoUse::Revoked } else { NoUse::Exhausted }
}

const fn tally(request: &LeaseRequest) -> UseTally {
    UseTally { used: request.used, returned: request.returned, broken: request.broken }
}
