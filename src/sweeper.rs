//! Brings the money home: carries out the plan for each pool account, block by block.
//!
//! Nothing is remembered between two blocks but what the ledger says, so a sweep may be killed at
//! any instant and started again; what it does is written down ([`Journal`]) and not read from there. A block is made only on a confirmed frontier whose balance the
//! frontier block itself proves, and what a refusal means is found out by reading the ledger again:
//! two sweepers that meet waste work and lose nothing. [`Turn`] keeps those of one
//! machine from meeting.

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
use crate::nano::{Account, BlockHash, Raw, StateBlock, Thresholds};
use crate::shutdown::{self, StopSignal};
use crate::store::StoreError;
use crate::store::deposits::Deposit;
use crate::sweep::{self, Action, MoreThanExists, PoolAccount, Rules, Step};
use crate::vault::{Turn, Vault};

pub use journal::Journal;

/// How often the ledger is read again for one account after a block of its plan came to nothing.
const SETBACKS: u32 = 3;

/// A pool account and its place in the seed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    pub index: u32,
    pub account: Account,
}

/// How to sweep.
#[derive(Clone, Debug)]
pub struct Settings {
    pub rules: Rules,
    pub thresholds: Thresholds,
    /// How long one block may take to be confirmed.
    pub confirm_wait: Duration,
    /// Accounts that are swept side by side.
    pub at_once: usize,
}

/// Is told of each block that is confirmed.
pub type SweepObserver = Arc<dyn Fn(&Step) + Send + Sync>;

/// Why one account was not swept to the end. The next sweep takes it up where the ledger stands.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    MoreThanExists(#[from] MoreThanExists),
    #[error(transparent)]
    Work(#[from] WorkError),
    #[error("the account's newest block {0} is from before state blocks: move its money by a wallet")]
    Legacy(BlockHash),
    #[error("its newest block {0} is not confirmed yet")]
    Unsettled(BlockHash),
    #[error("block {hash} was refused: {why}")]
    Refused { hash: BlockHash, why: String },
    #[error("block {0} is published and was not confirmed in time")]
    Unconfirmed(BlockHash),
    #[error("block {0} was published and no node knows it")]
    Lost(BlockHash),
    #[error("the node shows the account as it was before block {0}, which is confirmed")]
    Behind(BlockHash),
    #[error("the sweep cannot be written down: {0}")]
    Journal(#[from] StoreError),
}

impl SweepError {
    /// Whether reading the ledger again may show another way.
    const fn may_pass(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Lost(_) | Self::Behind(_) => true,
            Self::Ledger(_)
            | Self::MoreThanExists(_)
            | Self::Work(_)
            | Self::Legacy(_)
            | Self::Unsettled(_)
            | Self::Unconfirmed(_)
            | Self::Journal(_) => false,
        }
    }
}

/// The treasury is an account of the pool: what is swept would stay where it was.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the treasury {0} is an account of the pool itself: what is swept would stay where it was")]
pub struct TreasuryInPool(pub Account);

/// What was done to one account.
#[derive(Clone, Debug)]
pub struct Swept {
    pub place: Place,
    /// Received from senders, in raw.
    pub received: Raw,
    /// Sent to the treasury, in raw.
    pub sent: Raw,
    /// Every confirmed block, in order.
    pub blocks: Vec<Step>,
    /// Why it did not come to the end.
    pub error: Option<SweepError>,
}

/// What was done to the pool, by account; those with nothing to do are left out.
#[derive(Clone, Debug, Default)]
pub struct Round {
    pub accounts: Vec<Swept>,
}

impl Round {
    /// What reached the treasury, in raw.
    #[must_use]
    pub fn sent(&self) -> Raw {
        sum(self.accounts.iter().map(|it| it.sent))
    }

    /// Confirmed blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.accounts.iter().map(|it| it.blocks.len()).fold(0, usize::saturating_add)
    }

    /// Accounts that were not swept to the end.
    pub fn failed(&self) -> impl Iterator<Item = (&Place, &SweepError)> {
        self.accounts.iter().filter_map(|it| Some((&it.place, it.error.as_ref()?)))
    }
}

/// Amounts of one ledger cannot overflow; of a node that lies they might.
fn sum(amounts: impl Iterator<Item = Raw>) -> Raw {
    amounts.fold(Raw::ZERO, |sum, it| sum.checked_add(it).unwrap_or(Raw::MAX))
}

/// Sweeps one pool.
#[derive(Clone)]
pub struct Sweeper {
    ledger: NodeLedger,
    vault: Vault,
    places: Arc<[Place]>,
    work: WorkSource,
    settings: Settings,
    observer: Option<SweepObserver>,
    journal: Option<Journal>,
}

impl fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweeper").field("accounts", &self.places.len()).finish_non_exhaustive()
    }
}

impl Sweeper {
    /// A sweeper of the accounts at `indexes` of the vault's seed.
    ///
    /// # Errors
    /// [`TreasuryInPool`].
    pub fn new(
        ledger: NodeLedger,
        vault: Vault,
        indexes: impl IntoIterator<Item = std::ops::Range<u32>>,
        work: WorkSource,
        settings: Settings,
    ) -> Result<Self, TreasuryInPool> {
        let places: Arc<[Place]> = indexes
            .into_iter()
            .flat_map(|range| {
                let accounts = vault.accounts(range.clone());
                range.zip(accounts).map(|(index, account)| Place { index, account })
            })
            .collect();
        let treasury = settings.rules.treasury;
        if places.iter().any(|it| it.account == treasury) {
            return Err(TreasuryInPool(treasury));
        }
        Ok(Self { ledger, vault, places, work, settings, observer: None, journal: None })
    }

    /// This sweeper, telling `observer` of each block that is confirmed.
    #[must_use]
    pub fn observed_by(mut self, observer: SweepObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// This sweeper, writing down what it does. What cannot be written down is not done.
    #[must_use]
    pub fn journalled_in(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Every account of the pool.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The accounts that have at least the minimum, received or not. A few calls for a whole pool.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn worth_sweeping(&self) -> Result<Vec<Place>, LedgerError> {
        let accounts: Vec<Account> = self.places.iter().map(|it| it.account).collect();
        let balances = self.ledger.client().balances(&accounts).await?;
        let worth = self.places.iter().zip(balances).filter(|(_, has)| {
            let total = has.balance.checked_add(has.receivable).unwrap_or(Raw::MAX);
            !total.is_zero() && total >= self.settings.rules.minimum
        });
        Ok(worth.map(|(place, _)| *place).collect())
    }

    /// The blocks that would empty an account as the ledger stands. Nothing is done.
    ///
    /// # Errors
    /// [`SweepError`], when the account cannot be read or its newest block is not confirmed.
    pub async fn plan(&self, place: Place) -> Result<Vec<Step>, SweepError> {
        Ok(self.read(place).await?.0)
    }

    /// A plan, and the deposits that it receives.
    async fn read(&self, place: Place) -> Result<(Vec<Step>, Vec<Deposit>), SweepError> {
        let (facts, deposits): (PoolAccount, _) =
            facts::read(&self.ledger, place.account, self.settings.confirm_wait).await?;
        Ok((sweep::plan(&facts, &self.settings.rules)?, deposits))
    }

    /// Makes, publishes and waits for one block of a plan.
    ///
    /// # Errors
    /// [`SweepError`]; whatever it says, the ledger decides, and is to be read again.
    pub async fn take(&self, place: Place, step: &Step) -> Result<(), SweepError> {
        let thresholds = self.settings.thresholds;
        let (subtype, threshold) = match step.action {
            Action::Open => (Subtype::Open, thresholds.receive),
            Action::Receive => (Subtype::Receive, thresholds.receive),
            Action::Send => (Subtype::Send, thresholds.send),
        };
        let work = self.work.work(step.block.work_root(), threshold).await?;
        let block = self.vault.sign(place.index, &StateBlock { work: Some(work), ..step.block });
        let hash = block.hash();
        fail::fail_point!("sweep-signed", |_| std::process::abort());
        if let Some(journal) = &self.journal {
            journal.planned(step).await?;
        }
        fail::fail_point!("sweep-planned", |_| std::process::abort());
        if let Err(ProcessError::Refused(why)) = self.ledger.client().process(&block, subtype).await {
            // A block that is there already is refused too; the text says nothing (NODE trap 1).
            if self.ledger.block(hash).await?.is_none() {
                return Err(SweepError::Refused { hash, why });
            }
        }
        fail::fail_point!("sweep-published", |_| std::process::abort());
        // Without any answer the block may be out all the same.
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

    /// Sweeps one account to the end.
    pub async fn sweep_account(&self, place: Place) -> Swept {
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
                    tracing::warn!(account = %place.account, %error, "an account is not swept to the end");
                    swept.error = Some(error);
                    return swept;
                }
            }
        }
    }

    /// Plans and carries the plan out; whether there was anything to do.
    async fn carry_out(
        &self,
        place: Place,
        swept: &mut Swept,
        done: &mut BTreeSet<BlockHash>,
    ) -> Result<bool, SweepError> {
        let (steps, deposits) = self.read(place).await?;
        if let (Some(journal), false) = (&self.journal, steps.is_empty()) {
            journal.came_in(&deposits).await?;
        }
        for step in &steps {
            let hash = step.block.hash();
            // A node that is behind asks for what is done already, for ever.
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

    /// Sweeps every account that is worth it.
    ///
    /// # Errors
    /// [`LedgerError`], when the pool cannot be looked at; what befalls one account stands with it.
    pub async fn sweep(&self) -> Result<Round, LedgerError> {
        if let Some(journal) = &self.journal
            && let Err(error) = journal.resolve(&self.ledger).await
        {
            tracing::warn!(%error, "what became of an earlier sweep is not known yet");
        }
        let places = self.worth_sweeping().await?;
        let mut accounts: Vec<Swept> = stream::iter(places)
            .map(|place| self.sweep_account(place))
            .buffer_unordered(self.settings.at_once.max(1))
            .collect()
            .await;
        accounts.retain(|it| !it.blocks.is_empty() || it.error.is_some());
        accounts.sort_by_key(|it| it.place.index);
        Ok(Round { accounts })
    }

    /// Sweeps at once and then every `every`, while it has the turn of the seed in `seed_file`,
    /// until `shutdown`. A sweep under way is broken off: the next one goes on from there.
    pub async fn run(self, seed_file: PathBuf, every: Duration, mut shutdown: StopSignal) {
        let rounds = async {
            loop {
                match Turn::take(&seed_file) {
                    Ok(Some(_turn)) => self.report(self.sweep().await),
                    Ok(None) => tracing::info!("another process is sweeping this pool, this one skips"),
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

    fn report(&self, outcome: Result<Round, LedgerError>) {
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
            Err(error) => tracing::warn!(%error, "the pool cannot be looked at, the next round tries again"),
        }
    }
}
