//! Makes blocks of the pool's accounts: reads what they are made of, signs, records, publishes, and waits.

use std::fmt;
use std::time::Duration;

use super::{PoolPlace, SweepError, SweepJournal, SweepObserver, facts};
use crate::ledger::node::{NodeLedger, ProcessError, Subtype};
use crate::ledger::work::{WorkError, WorkSource};
use crate::ledger::{Ledger, Sighting};
use crate::nano::{StateBlock, Thresholds, UnsignedBlock};
use crate::store::StoreError;
use crate::store::deposits::Deposit;
use crate::sweep::{Action, PoolAccount, Step};
use crate::vault::Vault;

/// What blocks of a pool are made with.
#[derive(Clone)]
pub struct Hand {
    ledger: NodeLedger,
    vault: Vault,
    work: WorkSource,
    thresholds: Thresholds,
    /// How long one block is waited for.
    confirm_wait: Duration,
    observer: Option<SweepObserver>,
    journal: Option<SweepJournal>,
}

impl fmt::Debug for Hand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hand").field("confirm_wait", &self.confirm_wait).finish_non_exhaustive()
    }
}

impl Hand {
    #[must_use]
    pub const fn new(
        ledger: NodeLedger,
        vault: Vault,
        work: WorkSource,
        thresholds: Thresholds,
        confirm_wait: Duration,
    ) -> Self {
        Self { ledger, vault, work, thresholds, confirm_wait, observer: None, journal: None }
    }

    /// Has `observer` called for each block of a plan that is confirmed.
    #[must_use]
    pub fn observed_by(mut self, observer: SweepObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Has all steps of plans recorded in `journal`. What cannot be recorded is not done.
    #[must_use]
    pub fn journalled_in(mut self, journal: SweepJournal) -> Self {
        self.journal = Some(journal);
        self
    }

    #[must_use]
    pub const fn ledger(&self) -> &NodeLedger {
        &self.ledger
    }

    /// How long one block is waited for.
    #[must_use]
    pub const fn confirm_wait(&self) -> Duration {
        self.confirm_wait
    }

    /// An account once its newest block is confirmed, with the deposits that it can receive.
    ///
    /// # Errors
    /// [`SweepError`] if it cannot be read, or its newest block is not confirmed.
    pub async fn read(&self, place: PoolPlace) -> Result<(PoolAccount, Vec<Deposit>), SweepError> {
        facts::read(&self.ledger, place.account, self.confirm_wait).await
    }

    /// Records deposits that are about to be received.
    ///
    /// # Errors
    /// [`StoreError`]. Then they must not be received.
    pub async fn came_in(&self, deposits: &[Deposit]) -> Result<(), StoreError> {
        match &self.journal {
            Some(journal) => journal.came_in(deposits).await,
            None => Ok(()),
        }
    }

    /// Finds and records what became of earlier blocks.
    pub(super) async fn resolve(&self) {
        if let Some(journal) = &self.journal
            && let Err(error) = journal.resolve(&self.ledger).await
        {
            tracing::warn!(%error, "the outcome of an earlier sweep is not known yet");
        }
    }

    /// A send, signed and with its work. It is neither recorded nor published.
    ///
    /// # Errors
    /// [`WorkError`].
    pub async fn sign_send(&self, place: PoolPlace, block: &UnsignedBlock) -> Result<StateBlock, WorkError> {
        let work = self.work.work(block.work_root(), self.thresholds.send).await?;
        Ok(self.vault.sign(place.index, block, work))
    }

    /// Signs and publishes one block of a plan and waits until it is confirmed.
    ///
    /// # Errors
    /// [`SweepError`]. Whatever the error, read the ledger again to see what became of the block.
    pub async fn take(&self, place: PoolPlace, step: &Step) -> Result<(), SweepError> {
        let (subtype, threshold) = match step.action {
            Action::Open => (Subtype::Open, self.thresholds.receive),
            Action::Receive => (Subtype::Receive, self.thresholds.receive),
            Action::Send => (Subtype::Send, self.thresholds.send),
        };
        let work = self.work.work(step.block.work_root(), threshold).await?;
        let block = self.vault.sign(place.index, &step.block, work);
        let hash = block.hash();
        fail::fail_point!("sweep-signed", |_| std::process::abort());
        if let Some(journal) = &self.journal {
            journal.planned(step).await?;
        }
        fail::fail_point!("sweep-planned", |_| std::process::abort());
        if let Err(ProcessError::Refused(why)) = self.ledger.client().process(&block, subtype).await {
            // A block that the ledger already has is refused too; the text does not show which.
            if self.ledger.block(hash).await?.is_none() {
                return Err(SweepError::Refused { hash, why });
            }
        }
        fail::fail_point!("sweep-published", |_| std::process::abort());
        // If no node answered, the block may have been published all the same.
        match self.ledger.await_confirmation(hash, self.confirm_wait).await? {
            Sighting::Confirmed(_) => {}
            Sighting::Unconfirmed(_) => return Err(SweepError::Unconfirmed(hash)),
            Sighting::Unknown => return Err(SweepError::Lost(hash)),
        }
        tracing::info!(
            account = %place.account, block = %hash, action = ?step.action, amount_raw = %step.amount,
            "a block of a sweep is confirmed"
        );
        fail::fail_point!("sweep-confirmed", |_| std::process::abort());
        if let Some(journal) = &self.journal {
            journal.confirmed(hash).await;
        }
        if let Some(observer) = &self.observer {
            observer(step);
        }
        Ok(())
    }
}
