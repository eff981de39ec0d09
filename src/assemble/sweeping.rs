//! The sweeper of a configuration, and what sends its refunds.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::nodes::endpoint;
use super::reach::reach;
use crate::clock::Clock;
use crate::config::{Config, PoolSource, RefundPayer, can_sweep};
use crate::ledger::node::{NodeClient, NodeLedger, NodeSetupError};
use crate::ledger::work::WorkSource;
use crate::metrics::Metrics;
use crate::nano::Representative;
use crate::payment::Mechanism;
use crate::payment::address_pool::seed_indexes;
use crate::refunder::Refunder;
use crate::shutdown::StopSignal;
use crate::store::Engine;
use crate::sweep::Rules;
use crate::sweeper::{Hand, SweepJournal, SweepSettings, Sweeper, TreasuryInPool, places};
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
    let work = served(config, work)?;
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
    let sweeper = Sweeper::new(ledger, Vault::open(file)?, ranges(file, *size), work, settings)?;
    Ok((sweeper.keeping(config.refunds.keep), file.clone()))
}

/// The source of work, with the configured server before all others.
fn served(config: &Config, work: WorkSource) -> Result<WorkSource, NodeSetupError> {
    Ok(match config.sweep.as_ref().and_then(|it| it.work_server.as_ref()) {
        Some(server) => work.served_by(NodeClient::new(vec![endpoint(&config.nano, server)])?),
        None => work,
    })
}

/// Every mechanism's indexes in the seed of `file`, up to the largest size that the pool ever had.
fn ranges(file: &Path, size: u32) -> [Range<u32>; Mechanism::ALL.len()] {
    let reached = reach(file, size);
    Mechanism::ALL.map(|mechanism| seed_indexes(mechanism, reached))
}

/// Half the cores: requests are served at the same time.
fn half_the_cores() -> NonZeroUsize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores.div_ceil(2)).unwrap_or(NonZeroUsize::MIN)
}

/// What sends refunds from a configuration's pool, and the seed's file. Receives are recorded in `store`, as those of a
/// sweep. The seed must exist.
///
/// # Errors
/// [`SweepSetupError`]: what is missing.
pub fn refunder(
    config: &Config,
    ledger: NodeLedger,
    work: WorkSource,
    store: &Arc<Engine>,
    clock: &Clock,
) -> Result<(Refunder, PathBuf), SweepSetupError> {
    let PoolSource::Seed { file, size } = &config.nano.pool else {
        let message = "this gateway holds no key of its pool: it cannot send";
        let hint = "pay refunds on the machine with the seed: `faregate refunds pay` with `--seed-file`";
        return Err(SweepSetupError::NotHere { message, hint });
    };
    let (vault, work) = (Vault::open(file)?, served(config, work)?);
    let places = places(&vault, ranges(file, *size));
    let hand = Hand::new(ledger, vault, work, config.nano.work.thresholds, CONFIRM_WAIT);
    let hand = hand.journalled_in(SweepJournal::new(Arc::clone(store), clock.clone()));
    Ok((Refunder::new(hand, places, Arc::clone(store), clock.clone()), file.clone()))
}

/// What sends refunds beside a gateway; `None` if it is done elsewhere.
pub(super) fn refunds_in_background(
    config: &Config,
    ledger: &NodeLedger,
    (store, clock): (&Arc<Engine>, &Clock),
    metrics: &Arc<Metrics>,
    shutdown: StopSignal,
) -> Option<impl Future<Output = ()> + use<>> {
    if config.refunds.pay == RefundPayer::Queue {
        return None;
    }
    let work = WorkSource::node_first(ledger.client().clone()).on_threads(half_the_cores());
    let (config, ledger, store, clock) = (config.clone(), ledger.clone(), Arc::clone(store), clock.clone());
    let metrics = Arc::clone(metrics);
    Some(async move {
        if !Refunder::is_needed(&store, shutdown.clone()).await {
            return;
        }
        // The keys of a large pool take seconds and memory. Most gateways owe nothing.
        let make = move || refunder(&config, ledger, work, &store, &clock);
        match tokio::task::spawn_blocking(make).await {
            Ok(Ok((refunder, seed_file))) => {
                let counted = refunder.observed_by(Arc::new(move |it| metrics.refunded(it.amount)));
                counted.run(seed_file, shutdown).await;
            }
            Ok(Err(error)) => tracing::error!(%error, "refunds cannot be sent"),
            Err(error) => tracing::error!(%error, "refunds cannot be sent"),
        }
    })
}

/// The sweeper that runs beside a gateway; `None` if the configuration has none.
pub(super) fn sweep_in_background(
    config: &Config,
    ledger: &NodeLedger,
    journal: SweepJournal,
    shutdown: StopSignal,
) -> Result<Option<impl Future<Output = ()> + use<>>, SweepSetupError> {
    let Some(sweep) = &config.sweep else { return Ok(None) };
    let work = WorkSource::node_first(ledger.client().clone()).on_threads(half_the_cores());
    let (sweeper, seed_file) = sweeper(config, ledger.clone(), work)?;
    let sweeper = sweeper.journalled_in(journal);
    Ok(Some(sweeper.run(seed_file, sweep.every, shutdown)))
}
