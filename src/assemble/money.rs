//! What looks after the pool: the sweeper, and a look at what waits there unclaimed.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::config::{Config, Nano, Pool, can_sweep};
use crate::ledger::node::NodeLedger;
use crate::ledger::work::WorkSource;
use crate::metrics::Metrics;
use crate::nano::{Account, BlockHash, Raw, Representative};
use crate::payment::Mechanism;
use crate::payment::pool::seed_indexes;
use crate::reconcile::{Books, Discrepancy, ReconcileError};
use crate::shutdown::{self, StopSignal};
use crate::store::Engine;
use crate::sweep::{Action, Rules, Step};
use crate::sweeper::{Settings, Sweeper, TreasuryInPool};
use crate::vault::{Vault, VaultError};

/// How long one block of a sweep may take to be confirmed.
const CONFIRM_WAIT: Duration = Duration::from_secs(60);

/// Accounts that are swept side by side: enough that waits for confirmation overlap.
const AT_ONCE: usize = 16;

/// The pause between two looks at what waits at the pool, where it is not swept.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// Unclaimed sends that are remembered as reported. Beyond it they are reported again.
const REPORTED: usize = 100_000;

/// Why a pool cannot be swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepSetupError {
    #[error("{message}; {hint}")]
    NotHere { message: &'static str, hint: &'static str },
    #[error("`nano.pool.seed_file`: {0}")]
    Seed(#[from] VaultError),
    #[error("`nano.treasury`: {0}")]
    Treasury(#[from] TreasuryInPool),
}

/// The sweeper of a configuration's pool, and the seed's file. Every mechanism's range is swept,
/// those that are not offered any more too. The seed must be there: none is made.
///
/// # Errors
/// [`SweepSetupError`], which says what is missing.
pub fn sweeper(
    config: &Config,
    ledger: NodeLedger,
    work: WorkSource,
) -> Result<(Sweeper, PathBuf), SweepSetupError> {
    let treasury =
        can_sweep(&config.nano).map_err(|(message, hint)| SweepSetupError::NotHere { message, hint })?;
    let Pool::Seed { file, size } = &config.nano.pool else {
        return Err(SweepSetupError::NotHere { message: "this gateway holds no key of its pool", hint: "" });
    };
    let sweep = config.sweep.clone().unwrap_or_default();
    let settings = Settings {
        rules: Rules {
            treasury,
            minimum: sweep.minimum,
            representative: sweep.representative.map(Representative),
        },
        thresholds: config.nano.work,
        confirm_wait: CONFIRM_WAIT,
        at_once: AT_ONCE,
    };
    let ranges = Mechanism::ALL.map(|mechanism| seed_indexes(mechanism, *size));
    let sweeper = Sweeper::new(ledger, Vault::open(file)?, ranges, work, settings)?;
    Ok((sweeper, file.clone()))
}

/// Every address of a pool, of mechanisms that are not offered any more too. A seed is not made.
///
/// # Errors
/// [`VaultError`], when the seed cannot be read.
pub fn pool_accounts(nano: &Nano) -> Result<Vec<Account>, VaultError> {
    Ok(match &nano.pool {
        Pool::Seed { file, size } => {
            let vault = Vault::open(file)?;
            Mechanism::ALL.into_iter().flat_map(|it| vault.accounts(seed_indexes(it, *size))).collect()
        }
        Pool::Addresses(addresses) => addresses.clone(),
        Pool::Address(address) => vec![*address],
    })
}

/// The sweeper as it runs beside a gateway; nothing where the configuration has none.
pub(super) fn sweep_in_background(
    config: &Config,
    ledger: &NodeLedger,
    metrics: &Arc<Metrics>,
    shutdown: StopSignal,
) -> Result<Option<impl Future<Output = ()> + use<>>, SweepSetupError> {
    let Some(sweep) = &config.sweep else { return Ok(None) };
    // Half the cores: requests are served meanwhile.
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = NonZeroUsize::new(cores.div_ceil(2)).unwrap_or(NonZeroUsize::MIN);
    let work = WorkSource::node_first(ledger.client().clone()).on_threads(threads);
    let (sweeper, seed_file) = sweeper(config, ledger.clone(), work)?;
    let metrics = Arc::clone(metrics);
    let sweeper = sweeper.observed_by(Arc::new(move |step: &Step| {
        if step.action == Action::Send {
            metrics.swept(step.amount);
        }
    }));
    Ok(Some(sweeper.run(seed_file, sweep.every, shutdown)))
}

/// Looks at what waits at the pool, for the metrics and the log: at once, and then as often as it is
/// swept, or every ten minutes.
pub(super) async fn watch_pool(
    config: Config,
    ledger: NodeLedger,
    store: Arc<Engine>,
    metrics: Arc<Metrics>,
    mut shutdown: StopSignal,
) {
    let every = config.sweep.as_ref().map_or(LOOK_EVERY, |it| it.every);
    let looks = async {
        // Seconds for a pool of a million accounts: the start does not wait for it.
        let pool = match tokio::task::spawn_blocking(move || pool_accounts(&config.nano)).await {
            Ok(Ok(pool)) => pool,
            Ok(Err(error)) => return tracing::error!(%error, "the pool is not looked at"),
            Err(error) => return tracing::error!(%error, "the pool is not looked at"),
        };
        let books = Books::new(ledger, store, pool);
        let mut reported = BTreeSet::new();
        loop {
            if let Err(error) = look(&books, &metrics, &mut reported).await {
                tracing::debug!(%error, "what waits at the pool cannot be looked at");
            }
            tokio::time::sleep(every).await;
        }
    };
    tokio::select! {
        () = looks => {}
        () = shutdown::asked_for(&mut shutdown) => {}
    }
}

async fn look(
    books: &Books<Engine>,
    metrics: &Metrics,
    reported: &mut BTreeSet<BlockHash>,
) -> Result<(), ReconcileError> {
    let waiting = books.waiting().await?;
    let receivable = waiting.iter().fold(Raw::ZERO, |sum, it| sum.checked_add(it.amount).unwrap_or(Raw::MAX));
    let found = books.without_grant(waiting).await?;
    metrics.pool_waits(receivable, found.len());
    for discrepancy in found {
        let (Discrepancy::Unclaimed(arrival) | Discrepancy::NotGranted { arrival, .. }) = discrepancy else {
            continue;
        };
        if reported.len() >= REPORTED {
            reported.clear();
        }
        if reported.insert(arrival.send) {
            let sender = arrival.sender.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
            tracing::info!(
                block = %arrival.send, account = %arrival.account, amount_raw = %arrival.amount, sender,
                "a send to the pool that no payment claims; a late proof may still redeem it"
            );
        }
    }
    Ok(())
}
