//! The meter of one capability in hand: which of its uses are leased here, taken, spent, reported.
//!
//! Arithmetic under a lock that nobody awaits under. What is asked of the store, and when, is
//! [`super::leases`]'.

use std::num::NonZeroU64;
use std::sync::Arc;

use tokio::sync::Notify;

use super::super::{CapabilityRecord, Intent, Lease, LeaseRequest};
use super::failures::Failures;
use crate::nano::UnixSeconds;
use crate::routes::Metering;
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// How often one use is given back because its answer broke off.
const BREAKS_FORGIVEN: u32 = 2;

/// A capability in hand.
#[derive(Debug)]
pub struct CachedCapability {
    record: CapabilityRecord,
    intent: Intent,
    meter: Mutex<Meter>,
    /// Lease calls go one after the other; what is in it is the call whose outcome is unknown.
    pub(super) calls: tokio::sync::Mutex<Option<LeaseRequest>>,
}

/// The turn to make a capability's lease calls.
pub(super) type Calls<'a> = tokio::sync::MutexGuard<'a, Option<LeaseRequest>>;

impl CachedCapability {
    /// A capability of which `lease` is in hand; its time is 0 where the store was not asked.
    pub(super) fn new(record: CapabilityRecord, intent: Intent, lease: Lease, now: UnixSeconds) -> Self {
        let meter = Meter {
            available: lease.granted,
            reserved: 0,
            returning: 0,
            unreported: 0,
            stored: lease.remaining,
            elsewhere: lease.elsewhere,
            lapses_at: lease.expires_at,
            last_taken: now,
            broken: lease.broken,
            unreported_breaks: 0,
            failures: Failures::default(),
            revoked: record.revoked || lease.revoked,
            queued: false,
            asked: lease.expires_at > UnixSeconds(0),
            has_first: lease.granted > 0,
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
    pub(super) fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the uses of one capability are, as far as this instance knows.
#[derive(Debug)]
pub(super) struct Meter {
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
    /// Answers that broke off since a use was last spent, as far as the store knows or is being asked.
    broken: u32,
    /// More of them, of which it was not told yet.
    unreported_breaks: u32,
    failures: Failures,
    revoked: bool,
    /// Whether this capability waits in the list of those to be reported.
    queued: bool,
    /// Whether the store has said what is left.
    asked: bool,
    /// Whether the uses that were leased with the grant are in it, or were.
    has_first: bool,
}

/// What a lease call takes out of the meter.
#[derive(Clone, Copy, Debug)]
pub(super) struct UseTally {
    pub(super) used: u32,
    pub(super) returned: u32,
    pub(super) broken: u32,
}

impl Meter {
    /// Uses that are left beside those under way.
    fn remaining(&self) -> u32 {
        let here = self.available.saturating_add(self.returning);
        here.saturating_add(self.stored).saturating_add(self.elsewhere)
    }

    /// Whether nothing is left anywhere, and nothing can come back.
    pub(super) fn is_spent(&self) -> bool {
        self.revoked || (self.asked && self.remaining() == 0 && self.reserved == 0)
    }

    /// Whether the store is owed something: uses, or word of them.
    pub(super) fn is_out(&self) -> bool {
        self.available > 0 || self.returning > 0 || self.reserved > 0 || self.has_unreported()
    }

    /// Whether uses may come free that are not to be had at this moment.
    pub(super) fn may_come_back(&self) -> bool {
        self.elsewhere > 0 || self.reserved > 0 || self.available > 0
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.unreported > 0 || self.unreported_breaks > 0
    }

    /// Left in the store when it was last asked.
    pub(super) fn stored(&self) -> u32 {
        self.stored
    }

    /// Whether uses lie here that nobody has taken one of for `seconds`.
    pub(super) fn is_idle(&self, seconds: u64, now: UnixSeconds) -> bool {
        self.available > 0 && self.last_taken.plus(seconds) <= now
    }

    /// Whether the lease lapses within `seconds`.
    pub(super) fn is_ageing(&self, seconds: u64, now: UnixSeconds) -> bool {
        self.lapses_at <= now.plus(seconds)
    }

    pub(super) fn revoke(&mut self) {
        self.revoked = true;
    }

    /// Takes a use that is leased and free. A lease that has lapsed may be with another instance, but
    /// while the store is away (`alone`) nobody can take it: what is in hand is served on.
    pub(super) fn take(&mut self, now: UnixSeconds, alone: bool) -> bool {
        if self.revoked || (self.lapses_at <= now && !alone) {
            return false;
        }
        let Some(left) = self.available.checked_sub(1) else { return false };
        self.available = left;
        self.reserved = self.reserved.saturating_add(1);
        self.last_taken = now;
        true
    }

    /// Spends a use that was taken; whether its report is yet to be asked for.
    fn spend(&mut self) -> bool {
        self.reserved = self.reserved.saturating_sub(1);
        self.unreported = self.unreported.saturating_add(1);
        (self.broken, self.unreported_breaks) = (0, 0);
        !std::mem::replace(&mut self.queued, true)
    }

    /// Puts a use back that was taken.
    fn put_back(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
        self.available = self.available.saturating_add(1);
    }

    /// An answer broke off.
    pub(super) fn note_break(&mut self) {
        self.unreported_breaks = self.unreported_breaks.saturating_add(1);
    }

    /// Whether the use of the answer that broke off last is given back.
    pub(super) fn forgives(&self) -> bool {
        self.broken.saturating_add(self.unreported_breaks) <= BREAKS_FORGIVEN
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

    /// Draws up what is to be told to the store: all that was spent, and what lapsed or, if
    /// `hand_back`, all that is free.
    pub(super) fn draw_up(&mut self, hand_back: bool, now: UnixSeconds) -> UseTally {
        self.queued = false;
        let returned =
            if hand_back || self.lapses_at <= now { std::mem::take(&mut self.available) } else { 0 };
        self.returning = self.returning.saturating_add(returned);
        let broken = std::mem::take(&mut self.unreported_breaks);
        self.broken = self.broken.saturating_add(broken);
        UseTally { used: std::mem::take(&mut self.unreported), returned, broken }
    }

    /// Takes an account back that certainly did not arrive.
    pub(super) fn take_back(&mut self, account: UseTally) {
        self.unreported = self.unreported.saturating_add(account.used);
        self.available = self.available.saturating_add(account.returned);
        self.returning = self.returning.saturating_sub(account.returned);
        self.unreported_breaks = self.unreported_breaks.saturating_add(account.broken);
        self.broken = self.broken.saturating_sub(account.broken);
    }

    /// Takes in the uses that were leased with the grant, unless they are in already: a grant that is
    /// repeated gets the same answer again.
    pub(super) fn take_in_first(&mut self, lease: Lease) {
        if self.has_first || lease.granted == 0 {
            return;
        }
        self.has_first = true;
        self.take_in(lease, UseTally { used: 0, returned: 0, broken: 0 });
    }

    /// Takes in the store's answer to an account.
    pub(super) fn take_in(&mut self, lease: Lease, account: UseTally) {
        self.available = self.available.saturating_add(lease.granted);
        self.returning = self.returning.saturating_sub(account.returned);
        self.stored = lease.remaining;
        self.elsewhere = lease.elsewhere;
        self.broken = lease.broken;
        self.lapses_at = lease.expires_at;
        // What another instance revoked ends here with the first answer that says so.
        self.revoked |= lease.revoked;
        self.asked = true;
    }
}

/// What is to be reported, and the bell for it. Apart from the rest so that a [`Use`] need not know
/// the store.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: Mutex<Vec<Arc<CachedCapability>>>,
    pub(super) bell: Notify,
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

/// One use of a capability, taken and not yet spent. Dropped, it goes back.
#[derive(Debug)]
#[must_use = "a use is committed or given back"]
pub struct Use {
    held: Arc<CachedCapability>,
    reports: Arc<Reports>,
    metering: Metering,
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
    /// A use that [`Meter::take`] took.
    pub(super) const fn taken(
        held: Arc<CachedCapability>,
        reports: Arc<Reports>,
        metering: Metering,
    ) -> Self {
        Self { held, reports, metering, open: true }
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

    /// Whether it is spent already.
    pub(super) const fn is_spent(&self) -> bool {
        !self.open
    }

    pub(super) fn spend(&mut self) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let report = self.held.meter().spend();
        if report {
            self.reports.push(&self.held);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if self.open {
            self.held.meter().put_back();
        }
    }
}
