//! The journal of sweeps: deposits are recorded before they are received, and each block before it is
//! published.
//!
//! A received send is no longer receivable, so a deposit that no proof has claimed would be lost from
//! sight if it were not recorded first. If a published block's outcome was not recorded (the process
//! was killed or the store failed), the next sweep looks it up.

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::ledger::node::NodeLedger;
use crate::ledger::{Ledger, LedgerError};
use crate::nano::BlockHash;
use crate::store::deposits::{Deposit, DepositJournal, SweepBlock, SweepRecord, SweepState, note_all};
use crate::store::{Engine, StoreError, repeat_unknown};
use crate::sweep::Step;

/// The most blocks without an outcome that one sweep looks up. The next sweep takes the rest.
const LOOKED_UP: usize = 1000;

/// Records sweeps in the store.
#[derive(Clone)]
pub struct SweepJournal {
    store: Arc<Engine>,
    clock: Clock,
}

impl fmt::Debug for SweepJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SweepJournal").finish_non_exhaustive()
    }
}

/// Why the outcomes of earlier blocks could not be found.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SweepJournal {
    #[must_use]
    pub const fn new(store: Arc<Engine>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Records deposits that are about to be received.
    pub(super) async fn came_in(&self, deposits: &[Deposit]) -> Result<(), StoreError> {
        note_all(&*self.store, deposits, self.clock.now()).await.map(drop)
    }

    /// Records a block that is about to be published.
    pub(super) async fn planned(&self, step: &Step) -> Result<(), StoreError> {
        let (block, now) = (SweepBlock::of_step(step), self.clock.now());
        repeat_unknown(|| self.store.plan_sweep(&block, now)).await
    }

    /// Records that a block is confirmed. If that fails, the next sweep finds the outcome.
    pub(super) async fn confirmed(&self, block: BlockHash) {
        let now = self.clock.now();
        if let Err(error) = repeat_unknown(|| self.store.end_sweep(block, true, now)).await {
            tracing::warn!(%block, %error, "a confirmed block of a sweep is not recorded as confirmed yet");
        }
    }

    /// Finds and records the outcome of blocks that have none in the journal.
    pub(super) async fn resolve(&self, ledger: &NodeLedger) -> Result<(), ResolveError> {
        for record in self.store.sweeps(Some(SweepState::Planned), None, LOOKED_UP).await? {
            let Some(confirmed) = end(ledger, &record).await? else { continue };
            let (block, now) = (record.block.block, self.clock.now());
            if repeat_unknown(|| self.store.end_sweep(block, confirmed, now)).await? {
                tracing::info!(%block, account = %record.block.account, confirmed, "the outcome of an earlier sweep's block is known");
            }
        }
        Ok(())
    }
}

/// `true` if the block is confirmed, `false` if another block is confirmed in its place, `None` while
/// neither is.
async fn end(ledger: &NodeLedger, record: &SweepRecord) -> Result<Option<bool>, LedgerError> {
    let SweepBlock { block, account, previous, .. } = record.block;
    if let Some(facts) = ledger.block(block).await? {
        return Ok(facts.confirmed().then_some(true));
    }
    // No node has the block. Only a confirmed rival proves that no node ever will.
    if previous == BlockHash::ZERO {
        let opened =
            ledger.account(account).await?.is_some_and(|it| it.confirmed_frontier != BlockHash::ZERO);
        return Ok(opened.then_some(false));
    }
    let Some(rival) = ledger.successor(previous).await?.filter(|it| *it != block) else { return Ok(None) };
    let won = ledger.block(rival).await?.is_some_and(|it| it.confirmed());
    Ok(won.then_some(false))
}
