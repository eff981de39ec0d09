//! When and how earnings are moved from the pool to the treasury.

use std::time::Duration;

use super::judge::{Judge, Judged, all};
use super::mirror::SweepFile;
use super::nano::Nano;
use super::nodes::{NodeUrl, node_url};
use super::pool::{self, PoolSource};
use crate::nano::{Account, Raw};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sweep {
    /// The pause between two sweeps.
    pub every: Duration,
    /// An account with less than this, received or not, is left as it is.
    pub minimum: Raw,
    /// Who votes with the pool's balance.
    pub representative: Option<Account>,
    /// Who is asked for the work of a sweep's blocks before the nodes are.
    pub work_server: Option<NodeUrl>,
}

impl Default for Sweep {
    /// What `faregate sweep` does if the section is missing.
    fn default() -> Self {
        Self { every: Duration::from_secs(600), minimum: MINIMUM, representative: None, work_server: None }
    }
}

/// 0.001 XNO.
const MINIMUM: Raw = Raw::new(1_000_000_000_000_000_000_000_000_000);

/// How long a server may take for one block's work.
const WORK_TIMEOUT: Duration = Duration::from_secs(30);

const LEAST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 24 * 3600);

/// `nano` is `None` if a fault was found in it.
pub(super) fn sweep(judge: &mut Judge<'_>, file: SweepFile, nano: Option<&Nano>) -> Judged<Sweep> {
    let default = Sweep::default();
    let minimum = judge.text(file.minimum, "write an amount with its unit: `0.001 XNO`", Raw::with_unit);
    let hint = "the address of a node or server that answers `work_generate`: `http://127.0.0.1:7000`";
    let work_server = judge.text(file.work_server, hint, node_url);
    let sweep = all!(Sweep {
        every: judge.duration(file.every, LEAST_PAUSE..=LONGEST_PAUSE, default.every),
        minimum: minimum.map(|it| it.unwrap_or(default.minimum)),
        representative: pool::account(judge, file.representative),
        work_server: work_server.map(|it| it.map(|it| NodeUrl { timeout: WORK_TIMEOUT, ..it })),
    });
    if let Some(Err((message, hint))) = nano.map(can_sweep) {
        return Err(judge.fault("sweep", message, hint));
    }
    sweep
}

/// Whether there is a key to sweep with and an account to sweep to. Gives the account.
///
/// # Errors
/// What is missing, and what to do about it.
pub fn can_sweep(nano: &Nano) -> Result<Account, (&'static str, &'static str)> {
    match &nano.pool {
        PoolSource::Seed { .. } => nano.treasury.ok_or((
            "there is no treasury to sweep to",
            "name an account of your own in `nano: { treasury: nano_… }`",
        )),
        PoolSource::Addresses { .. } | PoolSource::Address(_) => Err((
            "this gateway holds no key of its pool: it cannot sweep",
            "sweep on the machine with the seed: `faregate sweep` with `pool: { seed_file: … }`",
        )),
    }
}
