//! The port to what must outlive the process: spent hashes, payments, capabilities.
//!
//! Every operation returns only when its effect is durable, is atomic, takes the time as an
//! argument, and is idempotent on its arguments: after [`StoreError::Unknown`] the caller repeats
//! the same call. No engine shows through.

pub mod answers;
pub mod capabilities;
mod encoding;
mod engine;
mod escrow;
mod inspection;
pub mod deposits;
mod postgres;
mod free_space;
pub mod settle;
mod sqlite;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::IdentifierKey;
use crate::routes::RouteName;

pub use crate::payment::Intent;
pub use crate::payment::capability::CapabilityId;
pub use answers::{Answer, Forget};
pub use engine::Engine;
pub use inspection::Inspection;
pub use postgres::{PostgresFault, PostgresOptions, PostgresStore, Replication, server as postgres_server};
pub use sqlite::{BackupError, OpenError, OpenFault, SqliteOptions, SqliteStore, backup_sqlite};

/// What became of a call that failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// Certainly without effect, and no use repeating: the arguments do not fit what is stored.
    #[error("not applied: {0}")]
    NotApplied(String),
    /// Perhaps applied. Repeat the same call to find out.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Certainly without effect: the store cannot be reached or written (down, full, read-only).
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

/// How far a payment has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PaymentState {
    /// Journalled before the broadcast; holds its frontier: no other live intent may build on it.
    Intent,
    /// An intent that no node knew when last asked. Anyone may still publish its block, so it is
    /// never closed by time; it holds no frontier.
    Parked,
    /// The hash is spent and the capability made.
    Granted,
    /// Certainly not on the ledger and never will be: another block is confirmed in its place.
    Failed,
}

/// A row of the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PaymentRecord {
    /// Position in the journal, from 1, without reuse.
    pub sequence: u64,
    pub intent: Intent,
    pub state: PaymentState,
    pub created_at: UnixSeconds,
    pub updated_at: UnixSeconds,
}

/// A capability as the store keeps it. The token is not in it: it is computed from this and a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CapabilityRecord {
    pub id: CapabilityId,
    pub block: BlockHash,
    pub route: RouteName,
    /// How many uses were bought.
    pub uses: u32,
    /// The first instant at which it is no longer good.
    pub expires_at: UnixSeconds,
    pub revoked: bool,
}

/// One instance of the gateway, for as long as it runs: random, never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Holder(pub [u8; 16]);

/// What became of [`Store::begin`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Begin {
    /// The intent is journalled (or was parked and lives again); its frontier is held.
    Fresh(PaymentRecord),
    /// The hash is claimed already. Whether by the same challenge the caller compares.
    Existing(PaymentRecord),
    /// Another live intent builds on the same frontier.
    FrontierHeld(BlockHash),
    /// Another payment holds the intent's id.
    IdHeld(BlockHash),
    /// The hash was marked as spent ([`Store::mark_spent`]); the journal has no payment of it.
    Spent,
}

/// What became of [`Store::grant`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Grant {
    /// The payment is granted, by this call or by an earlier one under the same challenge.
    Granted {
        record: CapabilityRecord,
        /// Uses leased to the caller in the same step.
        lease: Lease,
        /// Whether this call made the grant.
        fresh: bool,
    },
    /// The hash was spent under another challenge, or marked as spent.
    Taken,
    /// Another payment holds the intent's id.
    IdHeld(BlockHash),
}

/// Uses of one capability set aside for one instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Uses handed out by this call.
    pub granted: u32,
    /// Uses still in the store after it: neither spent nor leased to anyone.
    pub remaining: u32,
    /// Uses leased to other instances; they may come back.
    pub elsewhere: u32,
    /// Answers that broke off since a use was last spent, those of this call among them.
    pub broken: u32,
    /// When what this holder has not reported goes back to the capability.
    pub expires_at: UnixSeconds,
    /// Whether the capability is revoked at the time of the call, a repeated one too.
    pub revoked: bool,
}

/// One report and request of an instance about one capability.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeaseRequest {
    pub capability: CapabilityId,
    pub holder: Holder,
    /// Counts this holder's calls for this capability, from 1 ([`Store::grant`] is number 0). A
    /// call that repeats the last number changes nothing and gets the same numbers.
    pub sequence: u64,
    /// Uses spent since the last report, out of what was leased.
    pub used: u32,
    /// Uses handed back unspent.
    pub returned: u32,
    /// Answers that broke off. They are counted after what was `used`, which sets the count to 0.
    pub broken: u32,
    /// Uses wanted.
    pub want: u32,
    /// Seconds until the lease lapses unless renewed; each call renews it.
    pub ttl: u64,
}

/// Which payments [`Store::scan`] is to give.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Only payments in this state.
    pub state: Option<PaymentState>,
}

/// How the store is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// Whether a write would succeed as far as is known.
    pub writable: bool,
    /// Bytes free where the store writes; nothing where it cannot know.
    pub free_bytes: Option<u64>,
    /// With fewer bytes free than this, nothing new is sold.
    pub floor: u64,
    /// The latest time known to be in the journal; 0 where there is none.
    pub newest: UnixSeconds,
}

/// Why nothing new is sold.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Unsound {
    #[error("the store takes no writes")]
    Unwritable,
    #[error("less space is free where the store writes than `store.free_space` asks for")]
    NoRoom,
    #[error("the clock is behind the journal")]
    ClockBehind,
}

/// How far the clock may be behind the newest entry of the journal, in seconds: as far as the
/// clocks of two instances may be apart.
pub const CLOCK_GRACE: u64 = 5;

impl Health {
    /// Whether a sale at `now` could be recorded, and its times would mean something.
    ///
    /// # Errors
    /// [`Unsound`].
    pub fn sells(&self, now: UnixSeconds) -> Result<(), Unsound> {
        if !self.writable {
            return Err(Unsound::Unwritable);
        }
        if self.free_bytes.is_some_and(|free| free < self.floor) {
            return Err(Unsound::NoRoom);
        }
        if now.plus(CLOCK_GRACE) < self.newest {
            return Err(Unsound::ClockBehind);
        }
        Ok(())
    }
}

/// What a store did, for metrics.
#[derive(Clone, Copy, Debug)]
pub enum StoreEvent {
    /// A call has its answer.
    Call {
        operation: &'static str,
        elapsed: Duration,
        /// Whether the answer is an answer; a refusal of the arguments is one.
        ok: bool,
    },
    /// A group of operations was committed together.
    Commit { operations: usize, elapsed: Duration },
}

/// Is told of each event as it ends.
pub type StoreObserver = Arc<dyn Fn(StoreEvent) + Send + Sync>;

/// The durable store.
pub trait Store: Send + Sync + 'static {
    /// Journals an intent before its block is broadcast and claims the block's hash for ever, and with
    /// it the intent's id, if it has one. A payment gives its id up to another where it failed, or
    /// where it is parked and both build on one frontier, so that the ledger takes one of the two.
    fn begin(
        &self,
        intent: &Intent,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Begin, StoreError>> + Send;

    /// Moves a payment that is in one of `from` to `to`. False where it is in another state: then
    /// somebody else moved it. A granted payment is never moved.
    fn advance(
        &self,
        block: BlockHash,
        from: &[PaymentState],
        to: PaymentState,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// In one step: claims the hash (and the intent's id, as [`Store::begin`]) where nobody has, marks the payment granted, makes its
    /// capability `id` (its uses and expiry from the terms and `now`), and leases up to `want` uses
    /// of it to `holder` for `ttl` seconds. A repeat under the same challenge gets the record that the first one
    /// made; a parked or failed intent under the same challenge is granted too, since its block is
    /// on the ledger after all.
    fn grant(
        &self,
        intent: &Intent,
        id: CapabilityId,
        holder: Holder,
        want: u32,
        ttl: u64,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Grant, StoreError>> + Send;

    /// The payment made with `block`, if any.
    fn payment(
        &self,
        block: BlockHash,
    ) -> impl Future<Output = Result<Option<PaymentRecord>, StoreError>> + Send;

    /// The payment that holds `id`, if any.
    fn identified(
        &self,
        id: IdentifierKey,
    ) -> impl Future<Output = Result<Option<PaymentRecord>, StoreError>> + Send;

    /// Keeps what was answered to the request that the granted payment with `block` was made for.
    /// The first answer stands: false where there is one, or no such payment.
    fn keep(
        &self,
        block: BlockHash,
        answer: &Answer,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// What was answered to the request that the payment with `block` was made for.
    fn kept(&self, block: BlockHash) -> impl Future<Output = Result<Option<Answer>, StoreError>> + Send;

    /// Lets go of ids and answers; gives how many rows it changed. Called again and again until it
    /// gives 0, in small bites, since writers wait meanwhile.
    fn forget(&self, what: Forget) -> impl Future<Output = Result<u32, StoreError>> + Send;

    /// The capability `id`, if any.
    fn capability(
        &self,
        id: CapabilityId,
    ) -> impl Future<Output = Result<Option<CapabilityRecord>, StoreError>> + Send;

    /// Reports and requests uses. Leases that lapsed before `now` go back to the capability first.
    /// An expired or revoked capability hands out nothing.
    fn lease(
        &self,
        request: LeaseRequest,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Ends a capability. False where there is none. Whoever has leased uses of it is told by its
    /// next [`Lease`].
    fn revoke(
        &self,
        id: CapabilityId,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Claims `block` for ever without a payment, so that it can never be redeemed: what the ledger
    /// shows as spent and a restored journal has forgotten. False where the hash is claimed already,
    /// by a payment or by an earlier mark.
    fn mark_spent(
        &self,
        block: BlockHash,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Payments in the order of the journal, from the first after `after`, at most `limit`.
    fn scan(
        &self,
        after: u64,
        filter: Filter,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<PaymentRecord>, StoreError>> + Send;

    /// Whether a write would succeed as far as is known. Asked with every bill: reads a flag.
    fn is_writable(&self) -> bool;

    /// How the store is, without waiting for it.
    fn health(&self) -> Health;
}
