//! Sweeps the pool: carries out the plan for each pool account, block by block.
//!
//! Between two blocks a sweep relies only on the ledger, so it may be killed at any time and started
//! again. It records what it does in the [`SweepJournal`], but takes no decision from there. A block is
//! built only on a confirmed frontier whose balance the frontier block itself proves. What a refusal
//! means is found by reading the ledger again, so two sweepers at once waste work but lose nothing.
//! [`Turn`] prevents that on one machine.

mod facts;
mod hand;
mod journal;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::ledger::LedgerError;
use crate::ledger::node::{Balance, NodeLedger};
use crate::ledger::work::{WorkError, WorkSource};
use crate::nano::{Account, BlockHash, NotProven, Raw, Thresholds};
use crate::shutdown::{self, StopSignal};
use crate::store::StoreError;
use crate::store::deposits::Deposit;
use crate::sweep::{self, Action, Rules, Step};
use crate::vault::{Turn, Vault};

pub use hand::Hand;
pub use journal::SweepJournal;

/// How many times in a row one account is planned again after a block of its plan failed.
const SETBACKS: u32 = 3;

/// When a sweep that waited for its turn asks for it again.
const TURN_PAUSE: Duration = Duration::from_secs(5);

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

/// The accounts at `indexes` of the vault's seed.
pub fn places(vault: &Vault, indexes: impl IntoIterator<Item = std::ops::Range<u32>>) -> Arc<[PoolPlace]> {
    let of_range = |range: std::ops::Range<u32>| {
        let accounts = vault.accounts(range.clone());
        range.zip(accounts).map(|(index, account)| PoolPlace { index, account })
    };
    indexes.into_iter().flat_map(of_range).collect()
}

/// The sum, at most [`Raw::MAX`]. Only false amounts from a node could exceed it.
fn sum(amounts: impl Iterator<Item = Raw>) -> Raw {
    amounts.fold(Raw::ZERO, |sum, it| sum.checked_add(it).unwrap_or(Raw::MAX))
}

/// Sweeps one pool.
#[derive(Clone)]
pub struct Sweeper {
    hand: Hand,
    places: Arc<[PoolPlace]>,
    rules: Rules,
    at_once: usize,
    /// What is left in the pool.
    keep: Raw,
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
        let places = places(&vault, indexes);
        let SweepSettings { rules, thresholds, confirm_wait, at_once } = settings;
        let treasury = rules.treasury;
        if places.iter().any(|it| it.account == treasury) {
            return Err(TreasuryInPool(treasury));
        }
        let hand = Hand::new(ledger, vault, work, thresholds, confirm_wait);
        Ok(Self { hand, places, rules, at_once, keep: Raw::ZERO })
    }

    /// Makes the sweeper call `observer` for each block that is confirmed.
    #[must_use]
    pub fn observed_by(mut self, observer: SweepObserver) -> Self {
        self.hand = self.hand.observed_by(observer);
        self
    }

    /// Makes the sweeper record in `journal` what it does. It does nothing that cannot be recorded.
    #[must_use]
    pub fn journalled_in(mut self, journal: SweepJournal) -> Self {
        self.hand = self.hand.journalled_in(journal);
        self
    }

    /// Makes the sweeper leave at least so much in the pool, if there is as much: in as few accounts as possible.
    #[must_use]
    pub const fn keeping(mut self, keep: Raw) -> Self {
        self.keep = keep;
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
        let balances = self.hand.ledger().client().balances(&accounts).await?;
        let total = |has: Balance| has.balance.checked_add(has.receivable).unwrap_or(Raw::MAX);
        let mut worth: Vec<_> = self.places.iter().copied().zip(balances.into_iter().map(total)).collect();
        if !self.keep.is_zero() {
            worth.sort_by_key(|(place, total)| (Reverse(*total), place.index));
            let mut kept = Raw::ZERO;
            worth.retain(|(_, total)| {
                let is_kept = kept < self.keep;
                kept = sum([kept, *total].into_iter());
                !is_kept
            });
            worth.sort_by_key(|(place, _)| place.index);
        }
        worth.retain(|(_, total)| !total.is_zero() && *total >= self.rules.minimum);
        Ok(worth.into_iter().map(|(place, _)| place).collect())
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
        let (facts, deposits) = self.hand.read(place).await?;
        Ok((sweep::plan(&facts, &self.rules)?, deposits))
    }

    /// Signs and publishes one block of a plan and waits until it is confirmed.
    ///
    /// # Errors
    /// As [`Hand::take`].
    pub async fn take(&self, place: PoolPlace, step: &Step) -> Result<(), SweepError> {
        self.hand.take(place, step).await
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
        if !steps.is_empty() {
            self.hand.came_in(&deposits).await?;
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
        self.hand.resolve().await;
        let places = self.worth_sweeping().await?;
        let mut accounts: Vec<Swept> = stream::iter(places)
            .map(|place| self.sweep_account(place))
            .buffer_unordered(self.at_once.max(1))
            .collect()
            .await;
        accounts.retain(|it| !it.blocks.is_empty() || it.error.is_some());
        accounts.sort_by_key(|it| it.place.index);
        Ok(SweepRound { accounts })
    }

    /// Sweeps at once and then every `every`, until `shutdown`. A round waits while another process, or the payment of
    /// refunds, has the [`Turn`] of `seed_file`. A sweep under way is aborted by `shutdown`; the next one
    /// continues from there.
    pub async fn run(self, seed_file: PathBuf, every: Duration, mut shutdown: StopSignal) {
        let rounds = async {
            loop {
                let pause = match Turn::take(&seed_file) {
                    Ok(Some(_turn)) => {
                        self.report(self.sweep().await);
                        every
                    }
                    Ok(None) => {
                        tracing::debug!("blocks of this pool are being made elsewhere: the sweep waits");
                        every.min(TURN_PAUSE)
                    }
                    Err(error) => {
                        tracing::error!(%error, "the pool cannot be swept");
                        every
                    }
                };
                tokio::time::sleep(pause).await;
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
                treasury = %self.rules.treasury,
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
