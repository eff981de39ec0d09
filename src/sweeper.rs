//! Sweeps the pool: carries out the plan for each pool account, block by block.
//!
//! Between two blocks a sweep relies only on the ledger, so it may be killed at any time and started
//! again. It records what it does in the [`SweepJournal`], but takes no decision from there. A block is
//! built only on a confirmed frontier whose balance the frontier block itself proves. What a refusal
//! means is found by reading the ledger again, so two sweepers at once waste work but lose nothing.
//! [`Turn`] prevents that on one machine.

mod facts;
mod journal;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::ledger::node::{NodeLedger, ProcessError, Subtype};
use crate::ledger::work::{WorkError, WorkSource};
use crate::ledger::{Ledger, LedgerError, Sighting};
use crate::nano::{Account, BlockHash, NotProven, Raw, Thresholds};
use crate::shutdown::{self, StopSignal};
use crate::store::StoreError;
use crate::store::deposits::Deposit;
use crate::sweep::{self, Action, PoolAccount, Rules, Step};
use crate::vault::{Turn, Vault};

pub use journal::SweepJournal;

/// How many times in a row one account is planned again after a block of its plan failed.
const SETBACKS: u32 = 3;

/// A pool account and its index in the seed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolPlace {
    pub index: u32,
    pub account: Account,
}

/// How to sweep.
#[derive(Clone, Debug)]
pub struct SweepSettings {
    pub rules: Rules,
    pub thresholds: Thresholds,
    /// How long one block is waited for.
    pub confirm_wait: Duration,
    /// How many accounts are swept at the same time.
    pub at_once: usize,
}

/// Called for each block that is confirmed.
pub type SweepObserver = Arc<dyn Fn(&Step) + Send + Sync>;

/// Why one account was not swept completely. The next sweep continues from the ledger's state.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    NotProven(#[from] NotProven),
    #[error(transparent)]
    Work(#[from] WorkError),
    #[error("its newest block {0} is not confirmed yet")]
    Unsettled(BlockHash),
    #[error("block {hash} was refused: {why}")]
    Refused { hash: BlockHash, why: String },
    #[error("block {0} was published but not confirmed in time")]
    Unconfirmed(BlockHash),
    #[error("block {0} was published but no node knows it")]
    Lost(BlockHash),
    #[error("the node shows the account as it was before block {0}, which is confirmed")]
    Behind(BlockHash),
    #[error("the sweep cannot be recorded: {0}")]
    Journal(#[from] StoreError),
}

impl SweepError {
    /// Whether a new plan from the ledger may succeed.
    const fn may_pass(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Lost(_) | Self::Behind(_) => true,
            Self::Ledger(_)
            | Self::NotProven(_)
            | Self::Work(_)
            | Self::Unsettled(_)
            | Self::Unconfirmed(_)
            | Self::Journal(_) => false,
        }
    }
}

/// The treasury is an account of the pool, so a sweep would move nothing out of the pool.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the treasury {0} is an account of the pool itself: a sweep would move nothing out of the pool")]
pub struct TreasuryInPool(pub Account);

/// The outcome of a sweep for one account.
#[derive(Clone, Debug)]
pub struct Swept {
    pub place: PoolPlace,
    /// Received from senders, in raw.
    pub received: Raw,
    /// Sent to the treasury, in raw.
    pub sent: Raw,
    /// Every confirmed block, in order.
    pub blocks: Vec<Step>,
    /// Why the account was not swept completely.
    pub error: Option<SweepError>,
}

/// The outcome of one sweep of the pool, by account. Accounts with nothing to do are left out.
#[derive(Clone, Debug, Default)]
pub struct SweepRound {
    pub accounts: Vec<Swept>,
}

impl SweepRound {
    /// The amount that reached the treasury, in raw.
    #[must_use]
    pub fn sent(&self) -> Raw {
        sum(self.accounts.iter().map(|it| it.sent))
    }

    /// The number of confirmed blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.accounts.iter().map(|it| it.blocks.len()).fold(0, usize::saturating_add)
    }

    /// The accounts that were not swept completely.
    pub fn failed(&self) -> impl Iterator<Item = (&PoolPlace, &SweepError)> {
        self.accounts.iter().filter_map(|it| Some((&it.place, it.error.as_ref()?)))
    }
}

/// The sum, at most [`Raw::MAX`]. Only false amounts from a node could exceed it.
fn sum(amounts: impl Iterator<Item = Raw>) -> Raw {
    amounts.fold(Raw::ZERO, |sum, it| sum.checked_add(it).unwrap_or(Raw::MAX))
}

/// Sweeps one pool.
#[derive(Clone)]
pub struct Sweeper {
    ledger: NodeLedger,
    vault: Vault,
    places: Arc<[PoolPlace]>,
    work: WorkSource,
    settings: SweepSettings,
    observer: Option<SweepObserver>,
    journal: Option<SweepJournal>,
}

impl fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweeper").field("accounts", &self.places.len()).finish_non_exhaustive()
    }
}

impl Sweeper {
    /// A sweeper for the accounts at `indexes` of the vault's seed.
    ///
    /// # Errors
    /// [`TreasuryInPool`].
    pub fn new(
        ledger: NodeLedger,
        vault: Vault,
        indexes: impl IntoIterator<Item = std::ops::Range<u32>>,
        work: WorkSource,
        settings: SweepSettings,
    ) -> Result<Self, TreasuryInPool> {
        let places: Arc<[PoolPlace]> = indexes
            .into_iter()
            .flat_map(|range| {
                let accounts = vault.accounts(range.clone());
                range.zip(accounts).map(|(index, account)| PoolPlace { index, account })
            })
            .collect();
        let treasury = settings.rules.treasury;
        if places.iter().any(|it| it.account == treasury) {
            return Err(TreasuryInPool(treasury));
        }
        Ok(Self { ledger, vault, places, work, settings, observer: None, journal: None })
    }

    /// Makes the sweeper call `observer` for each block that is confirmed.
    #[must_use]
    pub fn observed_by(mut self, observer: SweepObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Makes the sweeper record in `journal` what it does. It does nothing that cannot be recorded.
    #[must_use]
    pub fn journalled_in(mut self, journal: SweepJournal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Every account of the pool.
    #[must_use]
    pub fn places(&self) -> &[PoolPlace] {
        &self.places
    }

    /// The accounts that have at least the minimum, received or not. This takes a few calls for a whole
    /// pool.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn worth_sweeping(&self) -> Result<Vec<PoolPlace>, LedgerError> {
        let accounts: Vec<Account> = self.places.iter().map(|it| it.account).collect();
        let balances = self.ledger.client().balances(&accounts).await?;
        let worth = self.places.iter().zip(balances).filter(|(_, has)| {
            let total = has.balance.checked_add(has.receivable).unwrap_or(Raw::MAX);
            !total.is_zero() && total >= self.settings.rules.minimum
        });
        Ok(worth.map(|(place, _)| *place).collect())
    }

    /// The blocks that would empty an account in its present state. Changes nothing.
    ///
    /// # Errors
    /// [`SweepError`] if the account cannot be read or its newest block is not confirmed.
    pub async fn plan(&self, place: PoolPlace) -> Result<Vec<Step>, SweepError> {
        Ok(self.read(place).await?.0)
    }

    /// A plan, and the deposits that it receives.
    async fn read(&self, place: PoolPlace) -> Result<(Vec<Step>, Vec<Deposit>), SweepError> {
        let (facts, deposits): (PoolAccount, _) =
            facts::read(&self.ledger, place.account, self.settings.confirm_wait).await?;
        Ok((sweep::plan(&facts, &self.settings.rules)?, deposits))
    }

    /// Signs and publishes one block of a plan and waits until it is confirmed.
    ///
    /// # Errors
    /// [`SweepError`]. Whatever the error, read the ledger again to see what became of the block.
    pub async fn take(&self, place: PoolPlace, step: &Step) -> Result<(), SweepError> {
        let thresholds = self.settings.thresholds;
        let (subtype, threshold) = match step.action {
            Action::Open => (Subtype::Open, thresholds.receive),
            Action::Receive => (Subtype::Receive, thresholds.receive),
            Action::Send => (Subtype::Send, thresholds.send),
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
        match self.ledger.await_confirmation(hash, self.settings.confirm_wait).await? {
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

    /// Sweeps one account completely, if possible.
    pub async fn sweep_account(&self, place: PoolPlace) -> Swept {
        let mut swept =
            Swept { place, received: Raw::ZERO, sent: Raw::ZERO, blocks: Vec::new(), error: None };
        let mut done = BTreeSet::new();
        let mut setbacks = 0_u32;
        loop {
            match self.carry_out(place, &mut swept, &mut done).await {
                Ok(false) => return swept,
                Ok(true) => setbacks = 0,
                Err(error) if error.may_pass() && setbacks < SETBACKS => {
                    setbacks = setbacks.saturating_add(1);
                    tracing::debug!(account = %place.account, %error, "planned again");
                }
                Err(error) => {
                    tracing::warn!(account = %place.account, %error, "an account was not swept completely");
                    swept.error = Some(error);
                    return swept;
                }
            }
        }
    }

    /// Makes a plan and carries it out. Returns false if there was nothing to do.
    async fn carry_out(
        &self,
        place: PoolPlace,
        swept: &mut Swept,
        done: &mut BTreeSet<BlockHash>,
    ) -> Result<bool, SweepError> {
        let (steps, deposits) = self.read(place).await?;
        if let (Some(journal), false) = (&self.journal, steps.is_empty()) {
            journal.came_in(&deposits).await?;
        }
        for step in &steps {
            let hash = step.block.hash();
            // A node that is behind would lead to the same block for ever.
            if done.contains(&hash) {
                return Err(SweepError::Behind(hash));
            }
            self.take(place, step).await?;
            done.insert(hash);
            let total = match step.action {
                Action::Open | Action::Receive => &mut swept.received,
                Action::Send => &mut swept.sent,
            };
            *total = sum([*total, step.amount].into_iter());
            swept.blocks.push(*step);
        }
        Ok(!steps.is_empty())
    }

    /// Sweeps every account that has at least the minimum.
    ///
    /// # Errors
    /// [`LedgerError`] if the pool's balances cannot be read. The error of one account is in its
    /// [`Swept`].
    pub async fn sweep(&self) -> Result<SweepRound, LedgerError> {
        if let Some(journal) = &self.journal
            && let Err(error) = journal.resolve(&self.ledger).await
        {
            tracing::warn!(%error, "the outcome of an earlier sweep is not known yet");
        }
        let places = self.worth_sweeping().await?;
        let mut accounts: Vec<Swept> = stream::iter(places)
            .map(|place| self.sweep_account(place))
            .buffer_unordered(self.settings.at_once.max(1))
            .collect()
            .await;
        accounts.retain(|it| !it.blocks.is_empty() || it.error.is_some());
        accounts.sort_by_key(|it| it.place.index);
        Ok(SweepRound { accounts })
    }

    /// Sweeps at once and then every `every`, until `shutdown`. A round is skipped while another process
    /// has the [`Turn`] of `seed_file`. A sweep under way is aborted by `shutdown`; the next one
    /// continues from there.
    pub async fn run(self, seed_file: PathBuf, every: Duration, mut shutdown: StopSignal) {
        let rounds = async {
            loop {
                match Turn::take(&seed_file) {
                    Ok(Some(_turn)) => self.report(self.sweep().await),
                    Ok(None) => {
                        tracing::info!("another process is sweeping this pool, so this round is skipped")
                    }
                    Err(error) => tracing::error!(%error, "the pool cannot be swept"),
                }
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            () = rounds => {}
            () = shutdown::asked_for(&mut shutdown) => {}
        }
    }

    fn report(&self, outcome: Result<SweepRound, LedgerError>) {
        match outcome {
            Ok(round) if round.accounts.is_empty() => tracing::debug!("nothing to sweep"),
            Ok(round) => tracing::info!(
                amount_raw = %round.sent(),
                treasury = %self.settings.rules.treasury,
                accounts = round.accounts.len(),
                blocks = round.blocks(),
                failed = round.failed().count(),
                "swept"
            ),
            Err(error) => {
                tracing::warn!(%error, "the pool's balances cannot be read; the next round tries again")
            }
        }
    }
}
