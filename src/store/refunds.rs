//! Refunds: what is left of a capability that was closed, on its way back to the account that paid.
//!
//! A capability is closed once, for ever. From then on nothing more of it is handed out. When no instance has any of
//! it leased, what is left becomes the refund's amount and is gone from the capability in the same step, so that it is
//! spent by requests or sent back, never both. The block that sends it is journalled before it is published, and there
//! is one at most: another takes its place only where the caller has seen that it can never be confirmed.

use std::future::Future;

use super::{CapabilityId, CapabilityRecord, StoreError};
use crate::nano::{Account, BlockHash, Raw, StateBlock, UnixSeconds};
use crate::payment::Intent;
use crate::routes::{RouteName, Unit};

vocabulary! {
    /// How far a refund has come.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum RefundState {
        /// Requests under way may still spend of it.
        Closing = "closing",
        /// It is to be sent.
        Owed = "owed",
        /// The block that sends it is journalled. Only the ledger shows whether it was published.
        Signed = "signed",
        /// The block is confirmed.
        Confirmed = "confirmed",
        /// Less was left than is sent.
        Nothing = "nothing",
    }
    /// The name for people and programs.
    pub fn as_str;
}

impl RefundState {
    /// Whether nothing more will happen to it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Closing | Self::Owed | Self::Signed => false,
            Self::Confirmed | Self::Nothing => true,
        }
    }
}

/// A refund in the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RefundRecord {
    /// The place in the journal of the payment that is refunded.
    pub sequence: u64,
    pub capability: CapabilityId,
    pub route: RouteName,
    /// The payment's block.
    pub payment: BlockHash,
    /// The account that paid.
    pub account: Account,
    /// The address of the pool that it paid to.
    pub paid_to: Account,
    /// What was left, in raw: zero while it is closing.
    pub amount: Raw,
    pub state: RefundState,
    /// The block that sends it.
    pub block: Option<StateBlock>,
    pub closed_at: UnixSeconds,
    pub updated_at: UnixSeconds,
}

/// What became of a [`RefundJournal::close_capability`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Closing {
    /// It is closed, by this call or an earlier one.
    Refund(Box<RefundRecord>),
    /// There is no such capability.
    Unknown,
    /// The operator has ended it, and nothing is paid back.
    Revoked,
    /// Nobody has shown to hold the key of the account that paid, which may be an exchange's. It stays open.
    NotProven,
}

/// Which refunds are wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RefundSearch {
    pub state: Option<RefundState>,
    /// Only those that wait for something.
    pub unfinished: bool,
    /// Behind this place in the journal.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// Where a list of purses that have run out begins: behind the purse of this expiry and place in the journal.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct ExpiryMark {
    pub expires_at: UnixSeconds,
    pub sequence: u64,
}

/// A purse that has run out with something left in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExpiredPurse {
    pub mark: ExpiryMark,
    pub capability: CapabilityId,
    pub route: RouteName,
}

/// Refunds. The contract is that of [`store`](super).
pub trait RefundJournal: Send + Sync + 'static {
    /// Closes a capability for ever, expired or not: it hands out nothing more. If nothing of it is leased, what is left
    /// is taken out of it and owed to the account that paid, unless it is zero or less than `at_least`. Otherwise
    /// it is closing, and the same call later finds out.
    fn close_capability(
        &self,
        id: CapabilityId,
        at_least: Raw,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Closing, StoreError>> + Send;

    /// The refund of what is left of this capability, if it is closed.
    fn refund(
        &self,
        id: CapabilityId,
    ) -> impl Future<Output = Result<Option<RefundRecord>, StoreError>> + Send;

    /// Refunds, in the order of their payments.
    fn refunds(
        &self,
        search: &RefundSearch,
    ) -> impl Future<Output = Result<Vec<RefundRecord>, StoreError>> + Send;

    /// Takes refunds that are to be sent and that nobody has taken at `now`, those first that nobody has tried for
    /// longest. They are the caller's until `until`. That keeps instances out of each other's way; what is sent is
    /// decided by [`RefundJournal::sign_refund`] alone. A repeated call takes others.
    fn take_refunds(
        &self,
        until: UnixSeconds,
        most: usize,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Vec<RefundRecord>, StoreError>> + Send;

    /// Journals the block that sends a refund, before it is published. If the refund has no block, `instead_of` is
    /// `None`; otherwise it is the refund's block, of which the caller has seen that it can never be confirmed. The
    /// refund as it is afterwards: if its block is another, another caller was faster, and only that one may be
    /// published.
    ///
    /// # Errors
    /// [`StoreError::NotApplied`] if there is no such refund, or the block does not go to its account.
    fn sign_refund(
        &self,
        id: CapabilityId,
        instead_of: Option<BlockHash>,
        block: &StateBlock,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<RefundRecord, StoreError>> + Send;

    /// Notes that the refund's block is confirmed. False if it has no such block, or that is known.
    fn confirm_refund(
        &self,
        id: CapabilityId,
        block: BlockHash,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Purses that have run out at `now` with something left, and that nobody has closed or ended, in the order of their
    /// expiry.
    fn expired_purses(
        &self,
        after: ExpiryMark,
        limit: usize,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Vec<ExpiredPurse>, StoreError>> + Send;
}

/// Why a capability that is not closed yet cannot be; `None` if it can.
pub(super) const fn objection(record: &CapabilityRecord, intent: &Intent) -> Option<Closing> {
    if record.revoked {
        Some(Closing::Revoked)
    } else if !intent.mechanism.proves_payer() {
        Some(Closing::NotProven)
    } else {
        None
    }
}

/// What of `left` of a capability goes back, and in which state its refund begins.
pub(super) fn due(
    record: &CapabilityRecord,
    left: u128,
    intent: &Intent,
    at_least: Raw,
) -> (RefundState, Raw) {
    let amount = match record.unit {
        Unit::Raw => left,
        // What is paid beyond the price buys no uses. A capability that is given away was not paid for.
        Unit::Use => {
            let paid = intent.terms.amount.min(intent.amount).get();
            share(paid, left.min(record.stock), record.stock)
        }
    };
    let amount = Raw::new(amount);
    let is_sent = !amount.is_zero() && amount >= at_least;
    (if is_sent { RefundState::Owed } else { RefundState::Nothing }, amount)
}

/// `paid · part / whole`, rounded down. `part` is at most `whole`, which 32 bits count.
fn share(paid: u128, part: u128, whole: u128) -> u128 {
    let (Some(each), Some(rest)) = (paid.checked_div(whole), paid.checked_rem(whole)) else { return 0 };
    let of_rest = rest.saturating_mul(part).checked_div(whole).unwrap_or_default();
    each.saturating_mul(part).saturating_add(of_rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_uses_are_worth_their_part_of_the_price_rounded_down() {
        assert_eq!([0, 1, 2, 3].map(|part| share(100, part, 3)), [0, 33, 66, 100]);
        let most = u128::from(u32::MAX);
        assert_eq!(share(u128::MAX, most, most), u128::MAX);
        assert_eq!(share(u128::MAX, 1, most), u128::MAX / most);
        assert_eq!(share(7, 0, 0), 0);
    }
}
