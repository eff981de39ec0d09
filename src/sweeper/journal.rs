//! Writes a sweep down: what is to be received before it is, each block before it is published.
//!
//! A block that is received is not receivable any more, so a deposit that no proof has claimed would
//! be forgotten by the sweep if it were not in the journal first. A block that is published and
//! whose end was not written down (the process was killed, the store failed) is looked up by the
//! next sweep.

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::ledger::node::NodeLedger;
use crate::ledger::{Ledger, LedgerError};
use crate::nano::BlockHash;
use crate::store::deposits::{Deposit, DepositJournal, SweepBlock, SweepRecord, SweepState, note_all};
use crate::store::{Engine, StoreError, repeat_unknown};
use crate::sweep::Step;

/// Blocks without an end that one sweep looks up; the next one goes on with the rest.
const LOOKED_UP: usize = 1000;

/// Where sweeps are written down.
#[derive(Clone)]
pub struct Journal {
    store: Arc<Engine>,
    clock: Clock,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}

/// Why the ends of earlier blocks are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Journal {
    #[must_use]
    pub const fn new(store: Arc<Engine>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// What waits for an account and is about to be received.
    pub(super) async fn came_in(&self, deposits: &[Deposit]) -> Result<(), StoreError> {
        note_all(&*self.store, deposits, self.clock.now()).await.map(drop)
    }

    /// A block that is about to be published.
    pub(super) async fn planned(&self, step: &Step) -> Result<(), StoreError> {
        let (block, now) = (SweepBlock::of_step(step), self.clock.now());
        repeat_unknown(|| self.store.plan_sweep(&block, now)).await
    }

    /// A block that is confirmed. Where that cannot be written, the next sweep finds it.
    pub(super) async fn confirmed(&self, block: BlockHash) {
        let now = self.clock.now();
        if let Err(error) = repeat_unknown(|| self.store.end_sweep(block, true, now)).await {
            tracing::warn!(%block, %error, "a confirmed block of a sweep is not written down as such yet");
        }
    }

    /// Finds what became of the blocks whose end was not written down.
    pub(super) async fn resolve(&self, ledger: &NodeLedger) -> Result<(), ResolveError> {
        for record in self.store.sweeps(Some(SweepState::Planned), None, LOOKED_UP).await? {
            let Some(confirmed) = end(ledger, &record).await? else { continue };
            let (block, now) = (record.block.block, self.clock.now());
            if repeat_unknown(|| self.store.end_sweep(block, confirmed, now)).await? {
                tracing::info!(%block, account = %record.block.account, confirmed, "a block of an earlier sweep has ended");
            }
        }
        Ok(())
    }
}

/// Whether a block is confirmed, or another in its place; nothing while neither is.
async fn end(ledger: &NodeLedger, record: &SweepRecord) -> Result<Option<bool>, LedgerError> {
    let SweepBlock { block, account, previous, .. } = record.block;
    if let Some(facts) = ledger.block(block).await? {
        return Ok(facts.confirmed().then_some(true));
    }
    // No node has it. Only a rival that is confirmed proves that none ever will.
    if previous == BlockHash::ZERO {
        let opened =
            ledger.account(account).await?.is_some_and(|it| it.confirmed_frontier != BlockHash::ZERO);
        return Ok(opened.then_some(false));
    }
    let Some(rival) = ledger.successor(previous).await?.filter(|it| *it != block) else { return Ok(None) };
    let won = ledger.block(rival).await?.is_some_and(|it| it.confirmed());
    Ok(won.then_some(false))
}
