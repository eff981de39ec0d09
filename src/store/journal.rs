//! The journal of payments, and the claims on blocks' hashes, frontiers and clients' ids.

use std::future::Future;

use super::StoreError;
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::{IdentifierKey, Intent};

vocabulary! {
    /// How far a payment has come.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum PaymentState {
        /// Journalled before the broadcast. It holds its frontier: no other live intent may build on it.
        Intent = "intent",
        /// An intent that no node knew when last asked. Anyone may still publish its block, so it is never
        /// closed by time. It holds no frontier.
        Parked = "parked",
        /// The hash is spent and the capability is made.
        Granted = "granted",
        /// The block is not on the ledger and never will be: another block is confirmed in its place.
        Failed = "failed",
    }
    /// The name for people and programs.
    pub fn as_str;
}

/// A row of the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PaymentRecord {
    /// Its place in the journal, from 1. Never used again.
    pub sequence: u64,
    pub intent: Intent,
    pub state: PaymentState,
    pub created_at: UnixSeconds,
    pub updated_at: UnixSeconds,
}

/// The result of [`Claims::begin`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Begin {
    /// The intent is journalled, or was parked and is an intent again. It holds its frontier.
    Fresh(PaymentRecord),
    /// The hash is claimed already. The caller compares the challenges.
    Existing(PaymentRecord),
    /// This live intent builds on the same frontier.
    FrontierHeld(BlockHash),
    /// This payment holds the intent's id.
    IdHeld(BlockHash),
    /// The hash is marked as spent ([`Claims::mark_spent`]). The journal has no payment of it.
    Spent,
}

/// Which payments [`PaymentJournal::scan`] gives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Only payments in this state.
    pub state: Option<PaymentState>,
}

/// Claims on hashes, frontiers and ids.
pub trait Claims: Send + Sync + 'static {
    /// Journals an intent before its block is broadcast. Claims the block's hash for ever, and the
    /// intent's id if it has one. A payment gives its id up to another payment if it failed, or if it is
    /// parked and both build on one frontier, so that the ledger takes only one of them.
    fn begin(
        &self,
        intent: &Intent,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Begin, StoreError>> + Send;

    /// Moves a payment from one of the states `from` to the state `to`. False if it is in none of
    /// `from`: another caller moved it. A granted payment is never moved.
    fn advance(
        &self,
        block: BlockHash,
        from: &[PaymentState],
        to: PaymentState,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Claims `block` for ever without a payment, so that it can never be redeemed: a block that the
    /// ledger shows and a restored journal lost. False if the hash is claimed already.
    fn mark_spent(
        &self,
        block: BlockHash,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// Reads of the journal.
pub trait PaymentJournal: Send + Sync + 'static {
    /// The payment made with `block`, if any.
    fn payment(
        &self,
        block: BlockHash,
    ) -> impl Future<Output = Result<Option<PaymentRecord>, StoreError>> + Send;

    /// The payment that holds the client's id `id`, if any.
    fn identified(
        &self,
        id: IdentifierKey,
    ) -> impl Future<Output = Result<Option<PaymentRecord>, StoreError>> + Send;

    /// Payments in the order of the journal: at most `limit`, from the first one after `after`.
    fn scan(
        &self,
        after: u64,
        filter: Filter,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<PaymentRecord>, StoreError>> + Send;
}
