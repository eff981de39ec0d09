//! The part of the journal that has no proof: what the pool was sent, and the blocks of its sweeps.
//!
//! Whether a deposit is claimed is not kept beside it: it is, where its hash is. So a late proof
//! takes a deposit off the list by what it does anyway.

use std::future::Future;
use std::time::Duration;

use super::StoreError;
use crate::nano::{Account, BlockHash, Raw, UnixSeconds};
use crate::sweep::{Action, Step};

/// Unclaimed deposits that are kept. Each costs its sender the work of a send and a confirmation,
/// but nothing else, so there has to be an end; a deposit beyond it takes the place of the smallest,
/// which keeps dust from driving out money. What is not kept is on the ledger all the same.
pub const DEPOSITS_KEPT: u32 = 100_000;

/// Deposits of one call.
pub const DEPOSITS_PER_CALL: usize = 500;

/// How often a call whose outcome is not known is made, and the pause before the next time.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// A confirmed send to an address of the pool.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Deposit {
    /// The send.
    pub block: BlockHash,
    /// The address of the pool.
    pub account: Account,
    /// Where it is known.
    pub sender: Option<Account>,
    pub amount: Raw,
}

/// A deposit as it is journalled.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SeenDeposit {
    /// When it was journalled first.
    pub seen_at: UnixSeconds,
    pub deposit: Deposit,
}

/// What became of [`DepositJournal::note_deposits`]; for metrics, a repeated call counts anew.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Noted {
    /// Deposits that were not in the journal.
    pub fresh: u64,
    /// The smallest ones, given up for want of room.
    pub dropped: u64,
}

/// A block of a sweep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SweepBlock {
    pub block: BlockHash,
    /// The account of the pool.
    pub account: Account,
    pub action: Action,
    /// What the block moves.
    pub amount: Raw,
    /// The block before it on the account's chain; zero for an opening one.
    pub previous: BlockHash,
    /// What a receiving block receives; where a send goes, as its key.
    pub link: [u8; 32],
}

impl SweepBlock {
    /// The journal's view of a step of a plan.
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

/// How far a block of a sweep has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SweepState {
    /// Journalled before it is published; whether it is on the ledger, the ledger says.
    Planned,
    Confirmed,
    /// Another block is confirmed in its place.
    Superseded,
}

/// A block of a sweep as it is journalled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SweepRecord {
    pub block: SweepBlock,
    pub state: SweepState,
    pub planned_at: UnixSeconds,
    /// When it was seen to be confirmed, or superseded.
    pub ended_at: Option<UnixSeconds>,
}

/// A place in a list that is ordered by time and, within a second, by hash.
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

/// What is kept of the pool. The contract is that of [`Store`](super::Store): an operation returns
/// only when its effect is durable, is atomic, and is idempotent on its arguments.
pub trait DepositJournal: Send + Sync + 'static {
    /// Journals deposits, those that nobody has claimed and that are not there yet; of all that are
    /// there then, the `keep` largest unclaimed ones stay.
    fn note_deposits(
        &self,
        deposits: &[Deposit],
        keep: u32,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<Noted, StoreError>> + Send;

    /// The deposits whose hash nobody has claimed, the oldest first, from the first after `after`,
    /// at most `limit`.
    fn unclaimed(
        &self,
        after: Option<Mark>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SeenDeposit>, StoreError>> + Send;

    /// Journals a block of a sweep before it is published. One that is there already stays as it is.
    fn plan_sweep(
        &self,
        block: &SweepBlock,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Notes what became of a planned block. False where it is not there, or has ended: what is
    /// confirmed stays so, and what was superseded can only turn out to be confirmed after all.
    fn end_sweep(
        &self,
        block: BlockHash,
        confirmed: bool,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Blocks of sweeps in this state, or in any, the first planned first, from the first after
    /// `after`, at most `limit`.
    fn sweeps(
        &self,
        state: Option<SweepState>,
        after: Option<Mark>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SweepRecord>, StoreError>> + Send;
}

/// Journals any number of deposits, a group at a time.
///
/// # Errors
/// [`StoreError`] of the first group that cannot be written; those before it are.
pub async fn note_all(
    journal: &impl DepositJournal,
    deposits: &[Deposit],
    now: UnixSeconds,
) -> Result<Noted, StoreError> {
    let mut all = Noted::default();
    for group in deposits.chunks(DEPOSITS_PER_CALL) {
        let Noted { fresh, dropped } =
            until_known(|| journal.note_deposits(group, DEPOSITS_KEPT, now)).await?;
        all.fresh = all.fresh.saturating_add(fresh);
        all.dropped = all.dropped.saturating_add(dropped);
    }
    Ok(all)
}

/// Makes a call again whose outcome is not known, a few times.
///
/// # Errors
/// What the last call failed with.
pub async fn until_known<T, F>(call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(StoreError::Unknown(_)) => tokio::time::sleep(PAUSE).await,
            known => return known,
        }
    }
    call().await
}
