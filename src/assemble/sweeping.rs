//! The sweeper of a configuration.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::nodes::endpoint;
use super::reach::reach;
use crate::config::{Config, PoolSource, can_sweep};
use crate::ledger::node::{NodeClient, NodeLedger, NodeSetupError};
use crate::ledger::work::WorkSource;
use crate::nano::Representative;
use crate::payment::Mechanism;
use crate::payment::address_pool::seed_indexes;
use crate::shutdown::StopSignal;
use crate::sweep::Rules;
use crate::sweeper::{SweepJournal, SweepSettings, Sweeper, TreasuryInPool};
use crate::vault::{Vault, VaultError};

/// How long one block of a sweep may take to be confirmed.
const CONFIRM_WAIT: Duration = Duration::from_secs(60);

/// Accounts that are swept at one time: enough that waits for confirmation overlap.
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

/// The sweeper of a configuration's pool, and the seed's file. It sweeps every mechanism's range, even
/// of mechanisms that are no longer offered, up to the largest size that the pool ever had. The seed
/// must exist.
///
/// # Errors
/// [`SweepSetupError`]: what is missing.
pub fn sweeper(
    config: &Config,
    ledger: NodeLedger,
    work: WorkSource,
) -> Result<(Sweeper, PathBuf), SweepSetupError> {
    let treasury =
        can_sweep(&config.nano).map_err(|(message, hint)| SweepSetupError::NotHere { message, hint })?;
    let PoolSource::Seed { file, size } = &config.nano.pool else {
        return Err(SweepSetupError::NotHere { message: "this gateway holds no key of its pool", hint: "" });
    };
    let sweep = config.sweep.clone().unwrap_or_default();
    let work = match &sweep.work_server {
        Some(server) => work.served_by(NodeClient::new(vec![endpoint(&config.nano, server)])?),
        None => work,
    };
    let settings = SweepSettings {
        rules: Rules {
            treasury,
            minimum: sweep.minimum,
            representative: sweep.representative.map(Representative),
        },
        thresholds: config.nano.work.thresholds,
        confirm_wait: CONFIRM_WAIT,
        at_once: AT_ONCE,
    };
    let ranges = Mechanism::ALL.map(|mechanism| seed_indexes(mechanism, reach(file, *size)));
    let sweeper = Sweeper::new(ledger, Vault::open(file)?, ranges, work, settings)?;
    Ok((sweeper, file.clone()))
}

/// The sweeper that runs beside a gateway; `None` if the configuration has none.
pub(super) fn sweep_in_background(
    config: &Config,
    ledger: &NodeLedger,
    journal: SweepJournal,
    shutdown: StopSignal,
) -> Result<Option<impl Future<Output = ()> + use<>>, SweepSetupError> {
    let Some(sweep) = &config.sweep else { return Ok(None) };
    // Half the cores: requests are served at the same time.
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = NonZeroUsize::new(cores.div_ceil(2)).unwrap_or(NonZeroUsize::MIN);
    let work = WorkSource::node_first(ledger.client().clone()).on_threads(threads);
    let (sweeper, seed_file) = sweeper(config, ledger.clone(), work)?;
    let sweeper = sweeper.journalled_in(journal);
    Ok(Some(sweeper.run(seed_file, sweep.every, shutdown)))
}
