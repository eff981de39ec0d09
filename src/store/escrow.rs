//! The arithmetic of one capability: bought, spent, or set aside for instances. In its unit: uses, or the raw of a
//! purse.
//!
//! Pure. An engine loads an [`Escrow`], applies one call, and writes the [`Changes`]. At every moment
//! `spent` + what all shares have out + what remains = `stock`.

use crate::nano::UnixSeconds;
use crate::payment::Mechanism;
use crate::routes::Unit;
use crate::store::encoding::amounts;
use crate::store::{CapabilityId, CapabilityRecord, Grantee, Holder, Intent, Lease, LeaseRequest};

/// A row of the capabilities.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct StoredCapability {
    /// The place of its payment in the journal.
    pub(super) payment: u64,
    pub(super) record: CapabilityRecord,
    /// How much of it is gone.
    pub(super) spent: u128,
    /// Answers that broke off since a use was last spent.
    pub(super) broken: u32,
}

impl CapabilityRecord {
    /// The capability `id`, as `intent` buys it at `now`. A purse has what was paid, which may be more than the price;
    /// the tag of a session is none of it.
    pub(super) fn bought(intent: &Intent, id: CapabilityId, now: UnixSeconds) -> Self {
        let (unit, stock) = match (intent.terms.stock(), intent.mechanism) {
            ((Unit::Raw, _), Mechanism::NanoTxn | Mechanism::NanoSignature) => {
                (Unit::Raw, intent.amount.get())
            }
            (bought, _) => bought,
        };
        Self {
            id,
            block: intent.block,
            route: intent.route.without_purse(),
            unit,
            stock,
            expires_at: now.plus(intent.terms.grants.seconds),
            revoked: false,
            added_to: None,
        }
    }
}

/// A purse to which a payment was added.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ToppedUp {
    pub(super) counts: Counts,
    /// It is good at least as long as one that is bought now.
    pub(super) expires_at: UnixSeconds,
}

impl StoredCapability {
    /// Adds what was `bought` at `now` to this purse, so that nothing is left in a purse of its own. `None`, and
    /// `bought` is left as it is, if this one is not open: what was paid is not lost then.
    pub(super) fn top_up(&self, bought: &mut CapabilityRecord, now: UnixSeconds) -> Option<ToppedUp> {
        let own = &self.record;
        let open = !own.revoked && now < own.expires_at && own.added_to.is_none();
        if !open || (own.unit, bought.unit) != (Unit::Raw, Unit::Raw) || own.id == bought.id {
            return None;
        }
        let stock = own.stock.checked_add(bought.stock)?;
        bought.stock = 0;
        bought.added_to = Some(own.id);
        Some(ToppedUp {
            counts: Counts { stock, spent: self.spent, broken: self.broken },
            expires_at: own.expires_at.max(bought.expires_at),
        })
    }
}

/// What is counted of a capability.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Counts {
    /// What was bought.
    pub(super) stock: u128,
    /// What is gone.
    pub(super) spent: u128,
    /// Answers that broke off since a use was last spent.
    pub(super) broken: u32,
}

/// The result of one call: its answer, and what to write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Changes<A = Lease> {
    /// What the amounts are in.
    pub(super) unit: Unit,
    pub(super) answer: A,
    /// The capability's new counts, if one changed.
    pub(super) counts: Option<Counts>,
    /// The shares that changed.
    pub(super) shares: Vec<Share>,
}

/// One capability's uses and who has some of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Escrow {
    unit: Unit,
    /// How much was bought.
    stock: u128,
    /// How much of it is gone.
    spent: u128,
    /// Answers that broke off since a use was last spent.
    broken: u32,
    /// Whether uses may be handed out: neither expired nor revoked.
    open: bool,
    revoked: bool,
    shares: Vec<Share>,
}

/// What one instance has of a capability, and the last answer it got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Share {
    pub(super) holder: Holder,
    /// The number of its last call.
    pub(super) sequence: u64,
    /// Uses it has out, live.
    pub(super) outstanding: u128,
    /// Uses it had out when a lease lapsed and has not accounted for since. They are back in the
    /// capability; a request that was under way at that moment may still report one of them.
    pub(super) late: u128,
    /// The answer to its last call; `answer.expires_at` is when `outstanding` lapses.
    pub(super) answer: Lease,
}

/// A call that does not fit what the holder has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Misfit {
    #[error("call {came} of this holder comes after its call {last}")]
    OutOfOrder { came: u64, last: u64 },
    #[error("a holder's calls count from 1; 0 is the grant")]
    NoNumber,
    #[error("{used} spent and {returned} returned are more than the {out} the holder had")]
    MoreThanOut { used: u128, returned: u128, out: u128 },
}

impl Escrow {
    /// The uses of a capability of which `shares` are out, at `now`.
    pub(super) fn new(capability: &StoredCapability, shares: Vec<Share>, now: UnixSeconds) -> Self {
        let record = &capability.record;
        Self {
            unit: record.unit,
            stock: record.stock,
            spent: capability.spent,
            broken: capability.broken,
            open: !record.revoked && now < record.expires_at,
            revoked: record.revoked,
            shares,
        }
    }

    /// Leases uses to the holder of a grant.
    pub(super) fn apply_grant(&self, grantee: Grantee, now: UnixSeconds) -> Changes {
        let mut after = self.clone();
        let answer = after.grant(grantee, now);
        self.changes(after, answer)
    }

    /// Takes a report and a request.
    ///
    /// # Errors
    /// [`Misfit`].
    pub(super) fn apply_lease(&self, request: &LeaseRequest, now: UnixSeconds) -> Result<Changes, Misfit> {
        let mut after = self.clone();
        let answer = after.lease(request, now)?;
        Ok(self.changes(after, answer))
    }

    /// Takes out all that is left of a capability that is closed, once nothing of it is leased. The answer is how much
    /// that is; `None` while something is.
    pub(super) fn apply_close(&self, now: UnixSeconds) -> Changes<Option<u128>> {
        let mut after = self.clone();
        after.lapse(now);
        let is_out = after.shares.iter().any(|share| share.outstanding > 0);
        let left = (!is_out).then(|| after.remaining());
        after.spent = after.spent.saturating_add(left.unwrap_or_default());
        self.changes(after, left)
    }

    fn changes<A>(&self, mut after: Self, answer: A) -> Changes<A> {
        after.shares.retain(|share| !self.shares.contains(share));
        let [before, now] =
            [self, &after].map(|it| Counts { stock: it.stock, spent: it.spent, broken: it.broken });
        Changes { unit: self.unit, answer, counts: (now != before).then_some(now), shares: after.shares }
    }

    /// Uses neither spent nor leased to anyone.
    fn remaining(&self) -> u128 {
        let out = self.shares.iter().fold(0_u128, |sum, share| sum.saturating_add(share.outstanding));
        debug_assert!(self.spent.saturating_add(out) <= self.stock, "more is out than was bought: {self:?}");
        self.stock.saturating_sub(self.spent).saturating_sub(out)
    }

    /// Opens a share for the holder of a grant (its call number 0) with up to `want` uses. A holder that
    /// has made no other call since gets the same answer again; any other gets no more uses.
    fn grant(&mut self, Grantee { holder, want, ttl, .. }: Grantee, now: UnixSeconds) -> Lease {
        if let Some(own) = self.shares.iter().find(|share| share.holder == holder) {
            if own.sequence == 0 {
                return Lease { revoked: self.revoked, ..own.answer };
            }
            return self.answer(own, 0, own.answer.expires_at);
        }
        self.lapse(now);
        self.hand_out(Share::new(holder), 0, want, now.plus(ttl))
    }

    fn lease(&mut self, request: &LeaseRequest, now: UnixSeconds) -> Result<Lease, Misfit> {
        let known = self.shares.iter().find(|share| share.holder == request.holder);
        match known {
            Some(own) if own.sequence == request.sequence => {
                return Ok(Lease { revoked: self.revoked, ..own.answer });
            }
            Some(own) if own.sequence > request.sequence => {
                return Err(Misfit::OutOfOrder { came: request.sequence, last: own.sequence });
            }
            None if request.sequence == 0 => return Err(Misfit::NoNumber),
            Some(_) | None => {}
        }
        self.lapse(now);
        let mut own = self
            .shares
            .iter()
            .position(|share| share.holder == request.holder)
            .map_or_else(|| Share::new(request.holder), |place| self.shares.swap_remove(place));
        let late = own.report(request.used, request.returned)?;
        // Live uses first: they are spent whatever else is left of the capability.
        let before = self.spent;
        self.spent = self.spent.saturating_add(request.used.saturating_sub(late));
        let free = self.remaining().saturating_sub(own.outstanding);
        self.spent = self.spent.saturating_add(late.min(free));
        let broken = if self.spent > before { 0 } else { self.broken };
        self.broken = broken.saturating_add(request.broken);
        Ok(self.hand_out(own, request.sequence, request.want, now.plus(request.ttl)))
    }

    /// Takes back what is out on leases that are over.
    fn lapse(&mut self, now: UnixSeconds) {
        for share in &mut self.shares {
            if share.answer.expires_at <= now {
                share.late = share.late.saturating_add(share.outstanding);
                share.outstanding = 0;
            }
        }
    }

    /// Gives `own`, which is not among the shares, up to `want` uses and puts it there.
    fn hand_out(&mut self, mut own: Share, sequence: u64, want: u128, expires_at: UnixSeconds) -> Lease {
        let free = self.remaining().saturating_sub(own.outstanding);
        let granted = if self.open { want.min(free) } else { 0 };
        own.sequence = sequence;
        own.outstanding = own.outstanding.saturating_add(granted);
        self.shares.push(own);
        let answer = self.answer(&own, granted, expires_at);
        if let Some(own) = self.shares.last_mut() {
            own.answer = answer;
        }
        answer
    }

    fn answer(&self, own: &Share, granted: u128, expires_at: UnixSeconds) -> Lease {
        let elsewhere = self
            .shares
            .iter()
            .filter(|share| share.holder != own.holder)
            .fold(0_u128, |sum, share| sum.saturating_add(share.outstanding));
        Lease {
            granted,
            remaining: self.remaining(),
            elsewhere,
            broken: self.broken,
            expires_at,
            revoked: self.revoked,
        }
    }
}

impl Share {
    /// What it has, as it is stored: outstanding, late, and what its last answer said was granted, remained and was
    /// elsewhere.
    pub(super) fn amounts(&self, unit: Unit) -> ([i64; 5], Option<Vec<u8>>) {
        let Lease { granted, remaining, elsewhere, .. } = self.answer;
        amounts(unit, [self.outstanding, self.late, granted, remaining, elsewhere])
    }

    const fn new(holder: Holder) -> Self {
        let answer = Lease {
            granted: 0,
            remaining: 0,
            elsewhere: 0,
            broken: 0,
            expires_at: UnixSeconds(0),
            revoked: false,
        };
        Self { holder, sequence: 0, outstanding: 0, late: 0, answer }
    }

    /// Accounts for `used` and `returned`: out of what is live, then out of what lapsed. Gives how
    /// many of `used` were late.
    fn report(&mut self, used: u128, returned: u128) -> Result<u128, Misfit> {
        let out = self.outstanding.saturating_add(self.late);
        if used.saturating_add(returned) > out {
            return Err(Misfit::MoreThanOut { used, returned, out });
        }
        let late = self.take(used);
        self.take(returned);
        Ok(late)
    }

    /// Takes `count` off what is out, live ones first. Gives how many were not live.
    fn take(&mut self, count: u128) -> u128 {
        let live = count.min(self.outstanding);
        let late = count.saturating_sub(live);
        self.outstanding = self.outstanding.saturating_sub(live);
        self.late = self.late.saturating_sub(late);
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nano::BlockHash;
    use crate::routes::{RouteName, Unit};

    const ID: CapabilityId = CapabilityId([1; 16]);
    const ONE: Holder = Holder([1; 16]);
    const OTHER: Holder = Holder([2; 16]);
    /// Every lease lasts for 10 seconds.
    const TTL: u64 = 10;

    /// A capability of 10 uses, its shares, and the time.
    struct Book {
        capability: StoredCapability,
        shares: Vec<Share>,
        now: UnixSeconds,
    }

    impl Book {
        fn new() -> Self {
            let record = CapabilityRecord {
                id: ID,
                block: BlockHash([1; 32]),
                route: RouteName::new("GET /"),
                unit: Unit::Use,
                stock: 10,
                expires_at: UnixSeconds(500),
                revoked: false,
                added_to: None,
            };
            let capability = StoredCapability { payment: 1, record, spent: 0, broken: 0 };
            Self { capability, shares: Vec::new(), now: UnixSeconds(100) }
        }

        fn escrow(&self) -> Escrow {
            Escrow::new(&self.capability, self.shares.clone(), self.now)
        }

        /// Writes what an engine would write.
        fn write(&mut self, changes: Changes) -> Lease {
            if let Some(Counts { spent, broken, .. }) = changes.counts {
                (self.capability.spent, self.capability.broken) = (spent, broken);
            }
            for share in changes.shares {
                self.shares.retain(|it| it.holder != share.holder);
                self.shares.push(share);
            }
            changes.answer
        }

        fn grant(&mut self, holder: Holder, want: u128) -> Lease {
            let changes = self.escrow().apply_grant(Grantee { id: ID, holder, want, ttl: TTL }, self.now);
            self.write(changes)
        }

        fn lease(&mut self, request: LeaseRequest) -> Result<Lease, Misfit> {
            let changes = self.escrow().apply_lease(&request, self.now)?;
            Ok(self.write(changes))
        }
    }

    /// Reports nothing and wants nothing.
    fn call(holder: Holder, sequence: u64) -> LeaseRequest {
        LeaseRequest { capability: ID, holder, sequence, used: 0, returned: 0, broken: 0, want: 0, ttl: TTL }
    }

    /// Granted, remaining and elsewhere.
    fn numbers(lease: Lease) -> [u128; 3] {
        [lease.granted, lease.remaining, lease.elsewhere]
    }

    #[test]
    fn uses_are_handed_out_once_and_never_more_than_were_bought() {
        let mut book = Book::new();
        let first = book.grant(ONE, 4);
        assert_eq!((numbers(first), first.expires_at), ([4, 6, 0], UnixSeconds(110)));
        let other = book.lease(LeaseRequest { want: 9, ..call(OTHER, 1) }).unwrap();
        assert_eq!(numbers(other), [6, 0, 4]);
        assert_eq!(numbers(book.lease(LeaseRequest { want: 1, ..call(ONE, 1) }).unwrap()), [0, 0, 6]);
        let spent = book.lease(LeaseRequest { used: 3, returned: 1, ..call(ONE, 2) }).unwrap();
        assert_eq!((numbers(spent), book.capability.spent), ([0, 1, 6], 3));
        assert_eq!(numbers(book.grant(OTHER, 9)), [0, 1, 0], "a grant after other calls leases nothing");
    }

    /// An answer may be lost, so a call is made again. It must count once.
    #[test]
    fn a_call_that_is_repeated_changes_nothing_and_gets_the_same_answer() {
        let mut book = Book::new();
        let first = book.grant(ONE, 4);
        assert_eq!((book.grant(ONE, 4), book.grant(ONE, 9)), (first, first));
        let request = LeaseRequest { used: 2, want: 3, broken: 1, ..call(ONE, 1) };
        let answer = book.lease(request).unwrap();
        assert_eq!((numbers(answer), answer.broken), ([3, 3, 0], 1));
        assert_eq!(book.lease(request).unwrap(), answer);
        assert_eq!((book.capability.spent, book.capability.broken), (2, 1));
        book.capability.record.revoked = true;
        assert_eq!(book.lease(request).unwrap(), Lease { revoked: true, ..answer }, "but it says what ended");
    }

    #[test]
    fn a_call_out_of_order_or_of_more_than_is_out_is_refused() {
        let mut book = Book::new();
        assert_eq!(book.lease(call(ONE, 0)), Err(Misfit::NoNumber));
        book.grant(ONE, 4);
        book.lease(call(ONE, 5)).unwrap();
        assert_eq!(book.lease(call(ONE, 4)), Err(Misfit::OutOfOrder { came: 4, last: 5 }));
        for (used, returned) in [(5, 0), (0, 5), (2, 3)] {
            let refused = book.lease(LeaseRequest { used, returned, ..call(ONE, 6) });
            assert_eq!(refused, Err(Misfit::MoreThanOut { used, returned, out: 4 }));
        }
        assert_eq!(book.capability.spent, 0);
    }

    #[test]
    fn what_lapses_goes_back_and_may_be_reported_late_while_it_is_there() {
        let mut book = Book::new();
        book.grant(ONE, 4);
        book.now = UnixSeconds(109);
        assert_eq!(numbers(book.lease(LeaseRequest { want: 9, ..call(OTHER, 1) }).unwrap()), [6, 0, 4]);
        book.now = UnixSeconds(110);
        assert_eq!(numbers(book.lease(LeaseRequest { want: 3, ..call(OTHER, 2) }).unwrap()), [3, 1, 0]);
        // Two of the four were used all the same, and one is left to spend.
        let late = book.lease(LeaseRequest { used: 2, ..call(ONE, 1) }).unwrap();
        assert_eq!((numbers(late), book.capability.spent), ([0, 0, 9], 1));
        assert_eq!(
            book.lease(LeaseRequest { used: 3, ..call(ONE, 2) }),
            Err(Misfit::MoreThanOut { used: 3, returned: 0, out: 2 }),
            "they are reported once"
        );
    }

    #[test]
    fn what_is_left_is_taken_out_when_nothing_is_leased_and_then_nothing_can_be_spent() {
        let mut book = Book::new();
        book.grant(ONE, 4);
        let close = |book: &mut Book| {
            let Changes { answer, counts, shares, unit } = book.escrow().apply_close(book.now);
            let lease = Share::new(ONE).answer;
            book.write(Changes { unit, answer: lease, counts, shares });
            answer
        };
        book.capability.record.revoked = true;
        assert_eq!((close(&mut book), book.capability.spent), (None, 0), "a request may spend of it");
        book.lease(LeaseRequest { used: 3, ..call(ONE, 1) }).unwrap();
        assert_eq!((close(&mut book), book.capability.spent), (None, 3));
        book.now = UnixSeconds(110);
        assert_eq!((close(&mut book), book.capability.spent), (Some(7), 10));
        let late = book.lease(LeaseRequest { used: 1, want: 1, ..call(ONE, 2) }).unwrap();
        assert_eq!((numbers(late), book.capability.spent), ([0, 0, 0], 10), "what is late comes too late");
        assert_eq!(close(&mut book), Some(0));
    }

    #[test]
    fn a_spent_use_begins_the_count_of_broken_answers_again() {
        let mut book = Book::new();
        book.grant(ONE, 9);
        let broken = |book: &mut Book, sequence, used, broken| {
            book.lease(LeaseRequest { used, broken, ..call(ONE, sequence) }).unwrap().broken
        };
        assert_eq!(broken(&mut book, 1, 0, 1), 1);
        assert_eq!(broken(&mut book, 2, 0, 1), 2);
        assert_eq!(broken(&mut book, 3, 1, 1), 1, "counted after what was used");
        assert_eq!(broken(&mut book, 4, 1, 0), 0);
    }

    #[test]
    fn nothing_is_handed_out_after_the_end() {
        for is_revoked in [false, true] {
            let mut book = Book::new();
            book.now = UnixSeconds(499);
            assert_eq!(numbers(book.grant(ONE, 4)), [4, 6, 0]);
            if is_revoked {
                book.capability.record.revoked = true;
            } else {
                book.now = UnixSeconds(500);
            }
            let after = book.lease(LeaseRequest { used: 1, want: 2, ..call(ONE, 1) }).unwrap();
            assert_eq!((numbers(after), after.revoked), ([0, 6, 0], is_revoked));
            assert_eq!(numbers(book.lease(LeaseRequest { want: 2, ..call(OTHER, 1) }).unwrap()), [0, 6, 3]);
        }
    }
}
