//! Deposits to the pool's addresses, and the blocks of sweeps: the part of the journal without proofs.
//!
//! A deposit has no `claimed` flag; it is claimed when its hash is in `claims`. So a late proof takes it
//! off the list.

use std::future::Future;

use super::StoreError;
use super::repeat::repeat_unknown;
use crate::nano::{Account, BlockHash, Raw, UnixSeconds};
use crate::sweep::{Action, Step};

/// Unclaimed deposits that are kept. A deposit costs its sender little, so there must be a limit. At the
/// limit a deposit replaces the smallest one, so that dust does not push out money. The ledger still has
/// what is not kept.
pub const DEPOSITS_KEPT: u32 = 100_000;

/// Deposits in one call.
pub const DEPOSITS_PER_CALL: usize = 500;

/// A confirmed send to a pool address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Deposit {
    /// The send.
    pub block: BlockHash,
    /// The pool address.
    pub account: Account,
    /// If it is known.
    pub sender: Option<Account>,
    pub amount: Raw,
}

/// A deposit in the journal.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SeenDeposit {
    /// When it was first journalled.
    pub seen_at: UnixSeconds,
    pub deposit: Deposit,
}

/// The result of [`DepositJournal::note_deposits`], for metrics: a repeated call counts again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Noted {
    /// Deposits that were not in the journal.
    pub fresh: u64,
    /// The smallest ones, dropped at the limit.
    pub dropped: u64,
}

/// A block of a sweep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SweepBlock {
    pub block: BlockHash,
    /// The pool account.
    pub account: Account,
    pub action: Action,
    /// The amount that the block moves.
    pub amount: Raw,
    /// The block before it on the account's chain. Zero if it opens the account.
    pub previous: BlockHash,
    /// The block that a receive receives, or the public key that a send goes to.
    pub link: [u8; 32],
}

impl SweepBlock {
    /// The journal's entry for a step of a plan.
    #[must_use]
    pub fn of_step(step: &Step) -> Self {
        let Step { action, amount, block, .. } = step;
        Self {
            block: block.hash(),
            account: block.account,
            action: *action,
            amount: *amount,
            previous: block.previous,
            link: block.link,
        }
    }
}

vocabulary! {
    /// The state of a sweep's block.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum SweepState {
        /// Journalled before it is published. Only the ledger shows whether it was.
        Planned = "planned",
        Confirmed = "confirmed",
        /// Another block is confirmed in its place.
        Superseded = "superseded",
    }
    /// The name for people and programs.
    pub fn as_str;
}

/// A sweep's block in the journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SweepRecord {
    pub block: SweepBlock,
    pub state: SweepState,
    pub planned_at: UnixSeconds,
    /// When it was seen confirmed or superseded.
    pub ended_at: Option<UnixSeconds>,
}

/// A place in a list ordered by time, and within a second by hash.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Mark {
    pub at: UnixSeconds,
    pub block: BlockHash,
}

impl SeenDeposit {
    /// Where the next page begins.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { at: self.seen_at, block: self.deposit.block }
    }
}

impl SweepRecord {
    /// Where the next page begins.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { at: self.planned_at, block: self.block.block }
    }
}

/// Deposits and sweeps. The contract is that of [`store`](super).
pub trait DepositJournal: Send + Sync + 'static {
    /// Journals the deposits that nobody has claimed and that are not in the journal. Then keeps the `keep`
    /// largest unclaimed ones.
    fn note_deposits(
        &self,
        deposits: &[Deposit],
        keep: u32,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Noted, StoreError>> + Send;

    /// The deposits whose hash nobody has claimed, oldest first: at most `limit`, from the first one after
    /// `after`.
    fn unclaimed(
        &self,
        after: Option<Mark>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SeenDeposit>, StoreError>> + Send;

    /// Journals a sweep's block before it is published. A block that is in the journal stays as it is.
    fn plan_sweep(
        &self,
        block: &SweepBlock,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Notes that a planned block is confirmed or superseded. False if it is not in the journal or has
    /// ended already: a confirmed block stays so, a superseded one can only become confirmed.
    fn end_sweep(
        &self,
        block: BlockHash,
        confirmed: bool,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Blocks of sweeps in this state, or in any, in the order of their planning: at most `limit`, from the
    /// first one after `after`.
    fn sweeps(
        &self,
        state: Option<SweepState>,
        after: Option<Mark>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SweepRecord>, StoreError>> + Send;
}

/// Journals any number of deposits, in groups.
///
/// # Errors
/// [`StoreError`] of the first group that cannot be written. The groups before it are written.
pub async fn note_all(
    journal: &impl DepositJournal,
    deposits: &[Deposit],
    now: UnixSeconds,
) -> Result<Noted, StoreError> {
    let mut all = Noted::default();
    for group in deposits.chunks(DEPOSITS_PER_CALL) {
        let Noted { fresh, dropped } =
            repeat_unknown(|| journal.note_deposits(group, DEPOSITS_KEPT, now)).await?;
        all.fresh = all.fresh.saturating_add(fresh);
        all.dropped = all.dropped.saturating_add(dropped);
    }
    Ok(all)
}
