//! Counts the confirmed blocks of sweeps as the journal has them, so that a sweep by hand, which is another process,
//! is counted too.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::nano::BlockHash;
use crate::store::deposits::{DepositJournal, Mark, SweepState};
use crate::store::{Engine, StoreError};
use crate::sweep::Action;

/// Blocks that are read at a time.
const PAGE: usize = 1000;

/// Seconds after which no block is journalled any more that was planned before: processes with clocks that differ
/// may plan out of order.
const SETTLED_AFTER: u64 = 60;

/// Counts the blocks that are confirmed after its first look.
#[derive(Debug)]
pub(super) struct SweptCount {
    store: Arc<Engine>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Everything up to here has been counted, and is over.
    over: Option<Mark>,
    /// What has been counted after that.
    counted: BTreeSet<BlockHash>,
    has_looked: bool,
}

impl SweptCount {
    pub(super) const fn new(store: Arc<Engine>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { store, metrics, clock, over: None, counted: BTreeSet::new(), has_looked: false }
    }

    /// Counts what was confirmed since the last look. Returns whether there was something.
    pub(super) async fn look(&mut self) -> Result<bool, StoreError> {
        let settled = self.clock.now().0.saturating_sub(SETTLED_AFTER);
        let (mut after, mut is_over, mut has_news) = (self.over, true, false);
        loop {
            let page = self.store.sweeps(None, after, PAGE).await?;
            for record in &page {
                let block = record.block;
                after = Some(record.mark());
                if record.state == SweepState::Confirmed
                    && self.counted.insert(block.block)
                    && self.has_looked
                {
                    let sent = (block.action == Action::Send).then_some(block.amount);
                    self.metrics.sweep_block(block.action.as_str(), sent);
                    has_news = true;
                }
                is_over &= record.state != SweepState::Planned && record.planned_at.0 <= settled;
                if is_over {
                    self.over = after;
                    let _was_counted = self.counted.remove(&block.block);
                }
            }
            if page.len() < PAGE {
                self.has_looked = true;
                return Ok(has_news);
            }
        }
    }
}
