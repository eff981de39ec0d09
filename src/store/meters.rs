//! Capabilities: what a payment is settled into, and who has leased how much of it.
//!
//! Amounts of a capability are in its unit: uses, or the raw of a purse.

use std::future::Future;

use super::StoreError;
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::Intent;
use crate::payment::capability::CapabilityId;
use crate::routes::{RouteName, Unit};

/// A capability as it is stored. The token is not in it: it is computed from this and a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CapabilityRecord {
    pub id: CapabilityId,
    pub block: BlockHash,
    pub route: RouteName,
    pub unit: Unit,
    /// How much was bought.
    pub stock: u128,
    /// The first instant at which it is no longer good.
    pub expires_at: UnixSeconds,
    pub revoked: bool,
    /// The purse that all of it was added to when it was bought. Then its stock is 0.
    pub added_to: Option<CapabilityId>,
}

impl CapabilityRecord {
    /// The uses that were bought, as they stand in its token: 0 for a purse.
    #[must_use]
    pub fn uses(&self) -> u32 {
        match self.unit {
            Unit::Use => u32::try_from(self.stock).unwrap_or(u32::MAX),
            Unit::Raw => 0,
        }
    }
}

/// One instance of the gateway, for as long as it runs: random, never used again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Holder(pub [u8; 16]);

/// The instance that a grant is made for, and what it gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grantee {
    /// The id of the capability, if the grant makes it.
    pub id: CapabilityId,
    pub holder: Holder,
    /// How much to lease at most.
    pub want: u128,
    /// Seconds until the lease lapses.
    pub ttl: u64,
}

/// The result of [`Meters::grant`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Grant {
    /// The payment is granted, by this call or by an earlier one under the same challenge.
    Granted {
        record: CapabilityRecord,
        /// What is leased to the caller in the same step.
        lease: Lease,
        /// Whether this call made the grant.
        fresh: bool,
    },
    /// The hash was spent under another challenge, or is marked as spent.
    Taken,
    /// This payment holds the intent's id.
    IdHeld(BlockHash),
}

/// What of one capability is set aside for one instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Handed out by this call.
    pub granted: u128,
    /// Still in the store after it: neither spent nor leased to anyone.
    pub remaining: u128,
    /// Leased to other instances. It may come back.
    pub elsewhere: u128,
    /// Answers that broke off since something was last spent, those of this call among them.
    pub broken: u32,
    /// When what this holder did not report goes back to the capability.
    pub expires_at: UnixSeconds,
    /// Whether the capability is revoked at the time of the call, also of a repeated call.
    pub revoked: bool,
}

/// One report and request of an instance about one capability.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeaseRequest {
    pub capability: CapabilityId,
    pub holder: Holder,
    /// Counts this holder's calls for this capability, from 1 ([`Meters::grant`] is number 0). A call
    /// that repeats the last number changes nothing and gets the same numbers.
    pub sequence: u64,
    /// Spent since the last report, out of what is leased.
    pub used: u128,
    /// Handed back unspent.
    pub returned: u128,
    /// Answers that broke off. They are counted after what was `used`, which sets the count to 0.
    pub broken: u32,
    /// Wanted.
    pub want: u128,
    /// Seconds until the lease lapses. Each call renews it.
    pub ttl: u64,
}

/// Makes capabilities and counts their uses.
pub trait Meters: Send + Sync + 'static {
    /// In one step: claims the hash and the intent's id if nobody has (as
    /// [`Claims::begin`](super::Claims::begin)), marks the payment granted, makes its capability
    /// (uses and expiry from the terms and `now`), and leases uses of it to the grantee. A repeat under the same challenge gets the record of the first call. A parked or
    /// failed intent under the same challenge is granted too: its block is on the ledger after all.
    fn grant(
        &self,
        intent: &Intent,
        grantee: Grantee,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Grant, StoreError>> + Send;

    /// The capability `id`, if any.
    fn capability(
        &self,
        id: CapabilityId,
    ) -> impl Future<Output = Result<Option<CapabilityRecord>, StoreError>> + Send;

    /// Reports and requests uses. First, leases that lapsed at `now` or before go back to the
    /// capability. An expired or revoked capability hands out nothing.
    fn lease(
        &self,
        request: LeaseRequest,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Ends a capability. False if there is none. A holder of leased uses learns it from its next
    /// [`Lease`].
    fn revoke(
        &self,
        id: CapabilityId,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}
