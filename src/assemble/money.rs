//! The sweeper, and the addresses of the pool.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::reach::reach;
use crate::config::{Config, Nano, Pool, can_sweep};
use crate::ledger::node::{NodeClient, NodeLedger, NodeSetupError};
use crate::ledger::work::WorkSource;
use crate::metrics::Metrics;
use crate::nano::{Account, Representative};
use crate::payment::Mechanism;
use crate::payment::address_pool::seed_indexes;
use crate::shutdown::StopSignal;
use crate::sweep::{Action, Rules, Step};
use crate::sweeper::{Journal, Settings, Sweeper, TreasuryInPool};
use crate::vault::{Vault, VaultError};

/// How long one block of a sweep may take to be confirmed.
const CONFIRM_WAIT: Duration = Duration::from_secs(60);

/// Accounts that are swept side by side: enough that waits for confirmation overlap.
const AT_ONCE: usize = 16;

/// Why a pool cannot be swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepSetupError {
    #[error("{message}; {hint}")]
    NotHere { message: &'static str, hint: &'static str },
    #[error("`nano.pool.seed_file`: {0}")]
    Seed(#[from] VaultError),
    #[error("`sweep.work_server`: {0}")]
    WorkServer(#[from] NodeSetupError),
    #[error("`nano.treasury`: {0}")]
    Treasury(#[from] TreasuryInPool),
}

/// The sweeper of a configuration's pool, and the seed's file. Every mechanism's range is swept,
/// those that are not offered any more too, as far as it ever reached. The seed must be there: none is
/// made.
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
    let work = match &sweep.work_server {
        Some(server) => work.served_by(NodeClient::new(vec![super::endpoint(&config.nano, server)])?),
        None => work,
    };
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
    let ranges = Mechanism::ALL.map(|mechanism| seed_indexes(mechanism, reach(file, *size)));
    let sweeper = Sweeper::new(ledger, Vault::open(file)?, ranges, work, settings)?;
    Ok((sweeper, file.clone()))
}

/// Every address of a pool, of mechanisms that are not offered any more too, and those beyond its
/// size that were in use once. A seed is not made.
///
/// # Errors
/// [`VaultError`], when the seed cannot be read.
pub fn pool_accounts(nano: &Nano) -> Result<Vec<Account>, VaultError> {
    Ok(match &nano.pool {
        Pool::Seed { file, size } => {
            let (vault, size) = (Vault::open(file)?, reach(file, *size));
            Mechanism::ALL.into_iter().flat_map(|it| vault.accounts(seed_indexes(it, size))).collect()
        }
        Pool::Addresses(addresses) => addresses.clone(),
        Pool::Address(address) => vec![*address],
    })
}

/// The sweeper as it runs beside a gateway; nothing where the configuration has none.
pub(super) fn sweep_in_background(
    config: &Config,
    ledger: &NodeLedger,
    journal: Journal,
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
        let sent = (step.action == Action::Send).then_some(step.amount);
        metrics.sweep_block(step.action.as_str(), sent);
    }));
    let sweeper = sweeper.journalled_in(journal);
    Ok(Some(sweeper.run(seed_file, sweep.every, shutdown)))
}
