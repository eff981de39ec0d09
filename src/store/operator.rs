//! What the operator asks of the store: pages of payments and capabilities, the newest first, and a record of
//! what was done by hand.
//!
//! A capability that the operator gives away is granted for a payment of nothing. No block sends nothing, so
//! a payment of amount zero is a free grant. It is no payment of [`PaymentJournal`](super::PaymentJournal)'s
//! scans, and so of no sum.

use std::future::Future;

use super::{CapabilityId, CapabilityRecord, PaymentRecord, PaymentState, StoreError};
use crate::nano::{Account, Raw, UnixSeconds};
use crate::routes::RouteName;

/// Who did something by hand, and why.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Remark {
    pub who: String,
    pub why: String,
}

/// Something that was done by hand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ManualAct {
    pub at: UnixSeconds,
    pub remark: Remark,
}

/// Which payments are wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PaymentSearch {
    /// Also the parts of this route that are sold separately.
    pub route: Option<RouteName>,
    pub payer: Option<Account>,
    pub state: Option<PaymentState>,
    /// Begun at this time or later.
    pub since: Option<UnixSeconds>,
    /// Begun before this time.
    pub until: Option<UnixSeconds>,
    /// Before this place in the journal.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// Which capabilities are wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CapabilitySearch {
    /// As in [`PaymentSearch`].
    pub route: Option<RouteName>,
    pub payer: Option<Account>,
    /// Only those that open something: neither used up, expired nor revoked.
    pub open: bool,
    /// Only those that were given away.
    pub free: bool,
    /// Before this place of its payment in the journal.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// A capability as the operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CapabilityEntry {
    /// The place of its payment in the journal.
    pub sequence: u64,
    pub record: CapabilityRecord,
    /// Uses that are gone.
    pub spent: u128,
    /// What instances have leased.
    pub leased: u128,
    pub payer: Account,
    /// What was paid, in raw. Zero: it was given away.
    pub amount: Raw,
    pub granted_at: UnixSeconds,
    pub revoked_at: Option<UnixSeconds>,
    /// Who gave it away.
    pub given: Option<ManualAct>,
    /// Who revoked it, if they said so.
    pub revoked_by: Option<ManualAct>,
}

impl CapabilityEntry {
    /// Whether it was given away.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.amount.is_zero()
    }
}

/// What the operator's tools need of a store.
pub trait OperatorJournal: Send + Sync + 'static {
    /// The payments that are searched for, the newest first. Free grants are none.
    fn search_payments(
        &self,
        search: &PaymentSearch,
    ) -> impl Future<Output = Result<Vec<PaymentRecord>, StoreError>> + Send;

    /// The capabilities that are searched for at `now`, the newest first.
    fn search_capabilities(
        &self,
        search: &CapabilitySearch,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Vec<CapabilityEntry>, StoreError>> + Send;

    /// The capability `id` at `now`, if any.
    fn capability_entry(
        &self,
        id: CapabilityId,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Option<CapabilityEntry>, StoreError>> + Send;

    /// Ends a capability as [`Meters::revoke`](super::Meters::revoke) does, and notes in the same step who did
    /// it and why. The first remark is kept. False if there is no such capability.
    fn revoke_by(
        &self,
        id: CapabilityId,
        remark: &Remark,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Notes who gave a capability away, and why. The first remark is kept. False if there is no such
    /// capability.
    fn note_given(
        &self,
        id: CapabilityId,
        remark: &Remark,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}
