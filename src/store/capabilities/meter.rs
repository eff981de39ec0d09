//! The meter of one cached capability: what of it is leased here, taken, spent, reported. In its unit: uses, or the
//! raw of a purse.
//!
//! Arithmetic under a lock that is never held across an await. [`super::leases`] decides what to ask the
//! store, and when.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::super::{CapabilityRecord, Lease, LeaseRequest};
use super::counts::{Counts, KeptCounts};
use super::failures::Failures;
use crate::nano::UnixSeconds;
use crate::payment::Purchase;
use crate::payment::capability::CapabilityText;
use crate::routes::{Left, Metering, Unit};
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// How often one use is given back because its answer broke off.
const BREAKS_FORGIVEN: u32 = 2;
/// So many requests that spent of one capability are reported soon: a crash gives back what was not.
const REPORT_AT: u32 = 128;
/// How many redirects in a row are not charged for.
const REDIRECTS_FORGIVEN: u32 = 5;

/// A capability in the cache, with its meter.
#[derive(Debug)]
pub struct CachedCapability {
    record: CapabilityRecord,
    purchase: Purchase,
    /// In Unix seconds: the record's, or later since a payment was added.
    expires_at: AtomicU64,
    text: Mutex<Option<CapabilityText>>,
    meter: Mutex<Meter>,
    /// Lease calls are made one after the other. Holds the call whose outcome is unknown.
    pub(super) calls: tokio::sync::Mutex<Option<Box<LeaseRequest>>>,
}

/// The turn to make a capability's lease calls.
pub(super) type Calls<'a> = tokio::sync::MutexGuard<'a, Option<Box<LeaseRequest>>>;

impl CachedCapability {
    /// A capability of which `lease` was received. The lease's time is 0 if the store was not asked.
    pub(super) fn new(record: CapabilityRecord, purchase: Purchase, lease: Lease, now: UnixSeconds) -> Self {
        let meter = Meter::new(record.unit, lease, record.revoked, now);
        Self {
            expires_at: AtomicU64::new(record.expires_at.0),
            record,
            purchase,
            text: Mutex::new(None),
            meter: Mutex::new(meter),
            calls: tokio::sync::Mutex::new(None),
        }
    }

    #[must_use]
    pub const fn record(&self) -> &CapabilityRecord {
        &self.record
    }

    /// The payment that bought it.
    #[must_use]
    pub const fn purchase(&self) -> &Purchase {
        &self.purchase
    }

    /// The first instant at which it is no longer good, as far as is known here.
    #[must_use]
    pub fn expires_at(&self) -> UnixSeconds {
        UnixSeconds(self.expires_at.load(Ordering::Relaxed))
    }

    /// A payment was added to it, so that it is good until `until` at least. What is said of it is made again.
    pub fn is_good_until(&self, until: UnixSeconds) {
        if self.expires_at.fetch_max(until.0, Ordering::Relaxed) < until.0 {
            *self.text() = None;
        }
    }

    /// There is more in it than was known.
    pub fn was_topped_up(&self) {
        self.meter().asked_at = UnixSeconds(0);
    }

    /// Whether a client presents the token that was said with [`CachedCapability::said_as`].
    #[must_use]
    pub fn is_presented(&self, token: &str) -> bool {
        self.text().as_ref().is_some_and(|it| it.is_presented(token))
    }

    /// What is said of it with each request, which `make` writes once.
    pub fn said_as(&self, make: impl FnOnce() -> CapabilityText) -> CapabilityText {
        self.text().get_or_insert_with(make).clone()
    }

    /// What is left without what is under way, as far as is known here.
    #[must_use]
    pub fn remaining(&self) -> u128 {
        self.meter().remaining()
    }

    /// As [`CachedCapability::remaining`], with what it is counted in.
    #[must_use]
    pub fn left(&self) -> Left {
        Left::new(self.record.unit, self.remaining())
    }

    /// Whether the operator has ended it, as far as is known here.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.meter().revoked
    }

    // Held while it is compared, copied or made: no await while it is locked.
    fn text(&self) -> MutexGuard<'_, Option<CapabilityText>> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // A few additions: no await and no panic while it is locked.
    pub(super) fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the uses of one capability are, as far as this instance knows.
#[derive(Debug)]
pub(super) struct Meter {
    counts: KeptCounts,
    /// By so many requests was spent what is not reported.
    unreported_requests: u32,
    lapses_at: UnixSeconds,
    last_taken: UnixSeconds,
    /// Answers that broke off since a use was last spent, as far as the store knows or is being asked.
    broken: u32,
    /// More of them, of which it was not told yet.
    unreported_breaks: u32,
    failures: Failures,
    /// Redirects since a use was last spent that were not charged for.
    redirects: u32,
    revoked: bool,
    /// Whether this capability is in the list of those to report.
    queued: bool,
    /// When the store last said how much is left; 0 if it has not.
    asked_at: UnixSeconds,
    /// Whether more can be bought: what the store said is then true for the second in which it said it.
    grows: bool,
    /// Whether the uses leased with the grant were added.
    has_first: bool,
}

/// The uses that a lease call takes out of the meter.
#[derive(Clone, Copy, Debug)]
pub(super) struct UseTally {
    pub(super) used: u128,
    pub(super) returned: u128,
    pub(super) broken: u32,
}

impl Meter {
    /// Of a capability of which `lease` was received.
    fn new(unit: Unit, lease: Lease, revoked: bool, now: UnixSeconds) -> Self {
        let Lease { granted: available, remaining: stored, elsewhere, .. } = lease;
        Self {
            counts: KeptCounts::new(unit, Counts { available, stored, elsewhere, ..Counts::default() }),
            unreported_requests: 0,
            lapses_at: lease.expires_at,
            last_taken: now,
            broken: lease.broken,
            unreported_breaks: 0,
            failures: Failures::default(),
            redirects: 0,
            revoked: revoked || lease.revoked,
            queued: false,
            asked_at: if lease.expires_at > UnixSeconds(0) { now } else { UnixSeconds(0) },
            grows: unit == Unit::Raw,
            has_first: lease.granted > 0,
        }
    }

    /// Uses left, without those under way.
    fn remaining(&self) -> u128 {
        self.counts.read().remaining()
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Counts) -> T) -> T {
        let mut counts = self.counts.read();
        let result = change(&mut counts);
        self.counts.write(counts);
        result
    }

    /// Whether `amount` is not left anywhere and cannot come back.
    pub(super) fn is_spent(&self, amount: u128, now: UnixSeconds) -> bool {
        let counts = self.counts.read();
        let is_known = self.asked_at > UnixSeconds(0) && (!self.grows || self.asked_at == now);
        self.revoked || (is_known && counts.remaining().saturating_add(counts.reserved) < amount)
    }

    pub(super) const fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Whether the store must still get uses back or reported.
    pub(super) fn is_out(&self) -> bool {
        let counts = self.counts.read();
        counts.available > 0 || counts.returning > 0 || counts.reserved > 0 || self.has_unreported()
    }

    /// Whether `amount` may become free that cannot be taken at this moment. What the store has and does not hand out
    /// does not: the capability has expired.
    pub(super) fn may_come_back(&self, amount: u128) -> bool {
        let counts = self.counts.read();
        counts.available.saturating_add(counts.reserved).saturating_add(counts.elsewhere) >= amount
    }

    /// What other answers under way leave to the one that owes `own`: without limit if they have used nothing, since
    /// the store may have more than is known here.
    fn left_to(&self, own: u128) -> u128 {
        let counts = self.counts.read();
        let others = counts.owed.saturating_sub(own);
        if others == 0 { u128::MAX } else { counts.untaken().saturating_sub(others) }
    }

    /// Whether `amount` is left beside what answers under way have used.
    pub(super) fn covers(&self, amount: u128) -> bool {
        let counts = self.counts.read();
        counts.owed == 0 || counts.remaining() >= amount
    }

    /// What is to be leased for answers under way that have used it.
    pub(super) fn lacks_for_answers(&self) -> u128 {
        let counts = self.counts.read();
        counts.owed.saturating_sub(counts.available).min(counts.stored)
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.unreported_requests > 0 || self.unreported_breaks > 0
    }

    /// Whether its spent uses are reported soon: there are many, or no leased one is left here. Other
    /// instances then know exactly whether the last are spent.
    fn should_be_reported(&self) -> bool {
        let counts = self.counts.read();
        self.unreported_requests == REPORT_AT || (counts.available == 0 && counts.reserved == 0)
    }

    /// Left in the store when it was last asked.
    pub(super) fn stored(&self) -> u128 {
        self.counts.read().stored
    }

    /// Whether free uses are here and none was taken for `seconds`, or none can be any more.
    pub(super) fn is_idle(&self, seconds: u64, now: UnixSeconds) -> bool {
        let counts = self.counts.read();
        counts.available > counts.owed && (self.revoked || self.last_taken.plus(seconds) <= now)
    }

    /// Whether the lease lapses within `seconds`.
    pub(super) fn is_ageing(&self, seconds: u64, now: UnixSeconds) -> bool {
        self.lapses_at <= now.plus(seconds)
    }

    pub(super) fn revoke(&mut self) {
        self.revoked = true;
    }

    /// Takes `amount` of what is leased and free. Another instance may have leased what was of a lapsed lease. But while
    /// the store takes no writes (`alone`) no instance can, so it is served.
    pub(super) fn take(&mut self, amount: u128, now: UnixSeconds, alone: bool) -> bool {
        !self.revoked && self.take_on(amount, now, alone)
    }

    /// Takes `amount` more for a request under way, which goes on although the capability has ended meanwhile.
    fn take_on(&mut self, amount: u128, now: UnixSeconds, alone: bool) -> bool {
        if self.lapses_at <= now && !alone {
            return false;
        }
        let mut counts = self.counts.read();
        let Some(left) = counts.available.checked_sub(amount) else { return false };
        counts.available = left;
        counts.reserved = counts.reserved.saturating_add(amount);
        self.counts.write(counts);
        self.last_taken = now;
        true
    }

    /// Spends `charge` of what was `taken`, and puts the rest back. True if the capability must be added to the list
    /// of those to report.
    fn spend(&mut self, taken: u128, charge: u128) -> bool {
        let charge = charge.min(taken);
        self.put_back(taken);
        self.change(|counts| {
            counts.available = counts.available.saturating_sub(charge);
            counts.unreported = counts.unreported.saturating_add(charge);
        });
        self.unreported_requests = self.unreported_requests.saturating_add(1);
        (self.broken, self.unreported_breaks) = (0, 0);
        self.redirects = 0;
        !std::mem::replace(&mut self.queued, true)
    }

    /// Puts back what was taken.
    fn put_back(&mut self, taken: u128) {
        self.change(|counts| {
            counts.reserved = counts.reserved.saturating_sub(taken);
            counts.available = counts.available.saturating_add(taken);
        });
    }

    /// An answer broke off.
    pub(super) fn note_break(&mut self) {
        self.unreported_breaks = self.unreported_breaks.saturating_add(1);
    }

    /// Whether the use of the answer that broke off last is given back.
    pub(super) fn forgives(&self) -> bool {
        self.broken.saturating_add(self.unreported_breaks) <= BREAKS_FORGIVEN
    }

    /// The upstream redirects the client. Returns whether that is not charged for.
    fn forgives_redirect(&mut self) -> bool {
        let forgives = self.redirects < REDIRECTS_FORGIVEN;
        if forgives {
            self.redirects = self.redirects.saturating_add(1);
        }
        self.failures = Failures::default();
        forgives
    }

    /// The upstream failed at `now`, for a request of this capability.
    pub(super) fn fail(&mut self, now: UnixSeconds) {
        self.failures.fail(now);
    }

    /// How many seconds the capability waits before the upstream is asked again; `None` if this request
    /// may ask it.
    pub(super) fn pause(&mut self, now: UnixSeconds) -> Option<NonZeroU64> {
        self.failures.pause(now)
    }

    /// Takes out what a lease call reports: all spent uses, all free ones if they lapsed, and if `hand_back` those that
    /// no answer under way has used.
    pub(super) fn draw_up(&mut self, hand_back: bool, now: UnixSeconds) -> UseTally {
        self.queued = false;
        self.unreported_requests = 0;
        let lapsed = self.lapses_at <= now;
        let (used, returned) = self.change(|counts| {
            let kept = if lapsed {
                0
            } else if hand_back {
                counts.available.min(counts.owed)
            } else {
                counts.available
            };
            let returned = counts.available.saturating_sub(kept);
            counts.available = kept;
            counts.returning = counts.returning.saturating_add(returned);
            (std::mem::take(&mut counts.unreported), returned)
        });
        let broken = std::mem::take(&mut self.unreported_breaks);
        self.broken = self.broken.saturating_add(broken);
        UseTally { used, returned, broken }
    }

    /// Puts back a tally that the store did not apply.
    pub(super) fn take_back(&mut self, tally: UseTally) {
        self.change(|counts| {
            counts.unreported = counts.unreported.saturating_add(tally.used);
            counts.available = counts.available.saturating_add(tally.returned);
            counts.returning = counts.returning.saturating_sub(tally.returned);
        });
        if tally.used > 0 {
            self.unreported_requests = self.unreported_requests.saturating_add(1);
        }
        self.unreported_breaks = self.unreported_breaks.saturating_add(tally.broken);
        self.broken = self.broken.saturating_sub(tally.broken);
    }

    /// Adds the uses leased with the grant, unless they were added: a repeated grant gets the same answer
    /// again.
    pub(super) fn take_in_first(&mut self, lease: Lease, now: UnixSeconds) {
        if std::mem::replace(&mut self.has_first, true) {
            return;
        }
        self.take_in(lease, UseTally { used: 0, returned: 0, broken: 0 }, now);
    }

    /// Adds the store's answer to a tally, of `now`.
    pub(super) fn take_in(&mut self, lease: Lease, tally: UseTally, now: UnixSeconds) {
        self.change(|counts| {
            counts.available = counts.available.saturating_add(lease.granted);
            counts.returning = counts.returning.saturating_sub(tally.returned);
            counts.stored = lease.remaining;
            counts.elsewhere = lease.elsewhere;
        });
        self.broken = lease.broken;
        self.lapses_at = lease.expires_at;
        // A revocation by another instance takes effect here with the first answer that shows it.
        self.revoked |= lease.revoked;
        self.asked_at = now;
    }
}

/// The capabilities with uses to report, and the bell for it. Separate, so that a [`Use`] does not depend
/// on the store.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: Mutex<Vec<Arc<CachedCapability>>>,
    pub(super) bell: Notify,
    /// Rings when one of them should not wait.
    pub(super) hurry: Notify,
}

impl Reports {
    fn push(&self, held: &Arc<CachedCapability>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(held));
        self.bell.notify_one();
    }

    pub(super) fn take(&self) -> Vec<Arc<CachedCapability>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a request takes of a capability, not yet spent: one use, or of a purse what it may cost. If it is dropped, it
/// goes back.
#[derive(Debug)]
#[must_use = "a use is committed or given back"]
pub struct Use {
    held: Arc<CachedCapability>,
    reports: Arc<Reports>,
    metering: Metering,
    /// In the capability's unit.
    reserved: u128,
    /// What of the meter's `owed` is this answer's.
    owed: u128,
    open: bool,
}

/// What became of a use whose answer broke off, or whose client was gone before it had one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BrokenAnswer {
    GivenBack,
    /// Given back too often before: half an answer is no way to read for free.
    Committed,
}

impl Use {
    /// What [`Meter::take`] took.
    pub(super) const fn taken(
        held: Arc<CachedCapability>,
        reports: Arc<Reports>,
        (metering, reserved): (Metering, u128),
    ) -> Self {
        Self { held, reports, metering, reserved, owed: 0, open: true }
    }

    /// How much it is, in the capability's unit.
    #[must_use]
    pub const fn reserved(&self) -> u128 {
        self.reserved
    }

    /// Takes more of a purse, as much of `amount` as is leased and free. Gives how much that was.
    pub(super) fn extend(&mut self, amount: u128, now: UnixSeconds, alone: bool) -> u128 {
        if !self.open {
            return 0;
        }
        let mut meter = self.held.meter();
        let more = amount.min(meter.left_to(self.owed)).min(meter.counts.read().available);
        if !meter.take_on(more, now, alone) {
            return 0;
        }
        let paid = self.owed.min(more);
        meter.change(|counts| counts.owed = counts.owed.saturating_sub(paid));
        drop(meter);
        self.owed = self.owed.saturating_sub(paid);
        self.reserved = self.reserved.saturating_add(more);
        more
    }

    /// The answer has used `amount` more than is taken for it, and no more than that. What of it is there nothing else
    /// can have from now on. Gives how much of it is not there, after what other answers have used.
    pub fn owe(&mut self, amount: u128) -> u128 {
        if amount == 0 && self.owed == 0 {
            return 0;
        }
        let mut meter = self.held.meter();
        let own = self.owed;
        let there = meter.change(|counts| {
            let others = counts.owed.saturating_sub(own);
            let there = amount.min(counts.untaken().saturating_sub(others));
            counts.owed = others.saturating_add(there);
            there
        });
        self.owed = there;
        let lacking = amount.saturating_sub(there);
        let asks = meter.lacks_for_answers() > 0 && !std::mem::replace(&mut meter.queued, true);
        drop(meter);
        if asks {
            self.reports.push(&self.held);
        }
        lacking
    }

    /// How much of `amount` other answers have left to this one.
    pub(super) fn within_reach(&self, amount: u128) -> u128 {
        amount.min(self.held.meter().left_to(self.owed))
    }

    /// The most that the answer can be charged, as far as is known here.
    #[must_use]
    pub fn most(&self) -> u128 {
        let counts = self.held.meter().counts.read();
        self.reserved.saturating_add(counts.untaken().saturating_sub(counts.owed.saturating_sub(self.owed)))
    }

    fn owe_nothing(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if owed > 0 {
            self.held.meter().change(|counts| counts.owed = counts.owed.saturating_sub(owed));
        }
    }

    /// Spends `amount` of a purse, and gives the rest back: the client has its answer. Gives what was spent: what was
    /// reserved at most.
    pub fn charge(mut self, amount: u128) -> u128 {
        self.held.meter().failures = Failures::default();
        self.spend_some(amount);
        amount.min(self.reserved)
    }

    #[must_use]
    pub const fn held(&self) -> &Arc<CachedCapability> {
        &self.held
    }

    #[must_use]
    pub const fn metering(&self) -> Metering {
        self.metering
    }

    /// Spends the use: the client has its answer, so the upstream's failures in a row are over.
    pub fn commit(mut self) {
        self.held.meter().failures = Failures::default();
        self.spend();
    }

    /// Gives the use back without counting a failure: the upstream never saw the request, or says
    /// itself that its answer is not charged for.
    pub fn give_back(self) {
        drop(self);
    }

    /// The answer is a redirect to what is charged for in its turn. Returns whether the redirect itself is
    /// not: that holds for five in a row, so that going round in a circle ends.
    #[must_use]
    pub fn forgives_redirect(&self) -> bool {
        self.held.meter().forgives_redirect()
    }

    /// Whether it is spent already.
    pub(super) const fn is_spent(&self) -> bool {
        !self.open
    }

    pub(super) fn spend(&mut self) {
        self.spend_some(self.reserved);
    }

    pub(super) fn spend_some(&mut self, charge: u128) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        self.owe_nothing();
        let mut meter = self.held.meter();
        let report = meter.spend(self.reserved, charge);
        let hurries = meter.should_be_reported();
        drop(meter);
        if report {
            self.reports.push(&self.held);
        }
        if hurries {
            self.reports.hurry.notify_one();
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if self.open {
            self.owe_nothing();
            self.held.meter().put_back(self.reserved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
    const NOTHING: Lease =
        Lease { granted: 0, remaining: 0, elsewhere: 0, broken: 0, expires_at: NOW.plus(10), revoked: false };
    const NOTHING_REPORTED: UseTally = UseTally { used: 0, returned: 0, broken: 0 };

    /// A meter with `granted` uses here, leased for 10 seconds.
    fn with(granted: u128) -> Meter {
        Meter::new(Unit::Use, Lease { granted, ..NOTHING }, false, NOW)
    }

    fn without() -> Meter {
        with(0)
    }

    #[test]
    fn a_meter_is_out_until_nothing_of_it_is_here_or_unreported() {
        assert!(!without().is_out(), "nothing was leased");
        let mut meter = with(1);
        assert!(meter.is_out(), "a use is free");
        assert!(meter.take(1, NOW, false));
        assert!(meter.is_out(), "it is taken");
        meter.spend(1, 1);
        assert!(meter.is_out() && meter.has_unreported(), "it is spent and not reported");
        let tally = meter.draw_up(false, NOW);
        assert_eq!((tally.used, tally.returned), (1, 0));
        assert!(!meter.is_out() && !meter.has_unreported(), "it is reported");

        let mut meter = with(2);
        let tally = meter.draw_up(true, NOW);
        assert_eq!((tally.used, tally.returned), (0, 2));
        assert!(meter.is_out(), "uses are on their way back");
        meter.take_in(NOTHING, tally, NOW);
        assert!(!meter.is_out(), "they are back");

        let mut meter = without();
        meter.note_break();
        assert!(meter.is_out() && meter.has_unreported(), "a break is not reported");
        meter.draw_up(false, NOW);
        assert!(!meter.is_out() && !meter.has_unreported(), "it is reported");
    }

    #[test]
    fn a_use_may_come_back_from_another_instance_from_a_request_and_to_the_next_attempt() {
        assert!(!without().may_come_back(1));
        assert!(
            Meter::new(Unit::Use, Lease { elsewhere: 1, ..NOTHING }, false, NOW).may_come_back(1),
            "another instance"
        );
        let mut meter = with(1);
        assert!(meter.may_come_back(1), "it was put back meanwhile");
        assert!(meter.take(1, NOW, false));
        assert!(meter.may_come_back(1), "the request that has it may give it back");
        meter.spend(1, 1);
        assert!(!meter.may_come_back(1), "it is spent");
    }

    #[test]
    fn a_capability_is_spent_when_no_use_is_left_anywhere() {
        assert!(without().is_spent(1, NOW));
        assert!(!with(1).is_spent(1, NOW), "one is here");
        for left in [Lease { remaining: 1, ..NOTHING }, Lease { elsewhere: 1, ..NOTHING }] {
            assert!(!Meter::new(Unit::Use, left, false, NOW).is_spent(1, NOW), "{left:?}");
        }
        let unasked = Lease { expires_at: UnixSeconds(0), ..NOTHING };
        assert!(!Meter::new(Unit::Use, unasked, false, NOW).is_spent(1, NOW), "the store was not asked");
        assert!(Meter::new(Unit::Use, unasked, true, NOW).is_spent(1, NOW), "it is revoked");
        assert!(
            Meter::new(Unit::Use, Lease { remaining: 1, revoked: true, ..NOTHING }, false, NOW)
                .is_spent(1, NOW)
        );
        let mut meter = with(1);
        assert!(meter.take(1, NOW, false));
        assert!(!meter.is_spent(1, NOW), "a request has it");
        let mut meter = with(1);
        meter.draw_up(true, NOW);
        assert!(!meter.is_spent(1, NOW), "it is on its way back");
    }

    #[test]
    fn many_spent_uses_and_the_last_leased_one_are_reported_soon() {
        let mut meter = with(u128::from(REPORT_AT) + 2);
        for spent in 1..=REPORT_AT + 2 {
            assert!(meter.take(1, NOW, false));
            meter.spend(1, 1);
            assert_eq!(meter.should_be_reported(), spent == REPORT_AT || spent == REPORT_AT + 2, "{spent}");
        }
    }

    #[test]
    fn free_uses_are_idle_so_long_after_the_last_one_was_taken() {
        assert!(!without().is_idle(2, NOW.plus(5)), "there is none");
        let mut meter = with(2);
        assert!(!meter.is_idle(2, NOW.plus(1)) && meter.is_idle(2, NOW.plus(2)), "since it came");
        assert!(meter.take(1, NOW.plus(2), false));
        assert!(!meter.is_idle(2, NOW.plus(3)) && meter.is_idle(2, NOW.plus(4)), "since one was taken");
    }

    #[test]
    fn a_report_that_was_not_applied_is_made_again() {
        let mut meter = with(3);
        for _ in 0..2 {
            assert!(meter.take(1, NOW, false));
        }
        assert!(meter.spend(1, 1), "to be reported");
        assert!(!meter.spend(1, 1), "it is in the list already");
        for _ in 0..=BREAKS_FORGIVEN {
            meter.note_break();
        }
        let tally = meter.draw_up(true, NOW);
        assert_eq!((tally.used, tally.returned, tally.broken), (2, 1, 3));
        assert!(!meter.forgives() && !meter.take(1, NOW, false), "all was taken out");
        meter.take_back(tally);
        assert!(!meter.forgives(), "the breaks still count");
        assert!(meter.take(1, NOW, false), "the free use is here again");
        meter.put_back(1);
        let again = meter.draw_up(true, NOW);
        assert_eq!((again.used, again.returned, again.broken), (2, 1, 3));
        meter.take_in(NOTHING, again, NOW);
        assert_eq!(meter.remaining(), 0);
    }

    #[test]
    fn the_stores_answer_replaces_what_was_known() {
        let mut meter = with(1);
        let answer = Lease { granted: 2, remaining: 3, elsewhere: 4, broken: 3, ..NOTHING };
        meter.take_in(Lease { expires_at: NOW.plus(20), ..answer }, NOTHING_REPORTED, NOW);
        assert_eq!((meter.remaining(), meter.stored()), (10, 3));
        assert!(!meter.forgives(), "three answers broke off");
        assert!(!meter.is_ageing(9, NOW.plus(10)) && meter.is_ageing(10, NOW.plus(10)));
        meter.take_in(Lease { revoked: true, ..answer }, NOTHING_REPORTED, NOW);
        meter.take_in(answer, NOTHING_REPORTED, NOW);
        assert!(meter.is_spent(1, NOW) && !meter.take(1, NOW, false), "revoked for ever");
    }

    #[test]
    fn five_redirects_in_a_row_are_not_charged_for() {
        let mut meter = with(3);
        assert!((0..5).all(|_| meter.forgives_redirect()));
        assert!(!meter.forgives_redirect());
        assert!(!meter.forgives_redirect());
        assert!(meter.take(1, NOW, false));
        meter.spend(1, 1);
        assert!(meter.forgives_redirect(), "a use was spent in between");
    }

    #[test]
    fn the_uses_of_a_grant_are_added_once() {
        let mut meter = without();
        let lease = Lease { granted: 2, remaining: 3, ..NOTHING };
        meter.take_in_first(lease, NOW);
        meter.take_in_first(lease, NOW);
        assert_eq!(meter.remaining(), 5);
    }
}
