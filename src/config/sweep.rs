//! When and how what was earned is brought from the pool to the treasury.

use std::time::Duration;

use serde_yaml::Value;

use super::judge::Judge;
use super::mirror::{Piece, SweepFile};
use super::nano::{Nano, Pool};
use super::nodes::{NodeUrl, node_url};
use crate::ledger::node::is_near;
use crate::nano::{Account, Raw};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sweep {
    /// The pause between two sweeps.
    pub every: Duration,
    /// An account with less than this, received or not, is left as it is.
    pub minimum: Raw,
    /// Who votes with what lies in the pool.
    pub representative: Option<Account>,
    /// Who is asked for the work of a sweep's blocks before the nodes are.
    pub work_server: Option<NodeUrl>,
}

impl Default for Sweep {
    /// What a sweep by hand does where the section is missing.
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

/// Off where the section is missing; the outer nothing is a fault.
pub(super) fn sweep(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
    nano: Option<&Nano>,
) -> Option<Option<Sweep>> {
    const PATH: &str = "sweep";
    if !piece.is_given() {
        return Some(None);
    }
    let default = Sweep::default();
    let file: SweepFile = judge.section(PATH, piece)?;
    let every = judge.duration("sweep.every", file.every, LEAST_PAUSE..=LONGEST_PAUSE, default.every);
    let minimum = if file.minimum.is_given() {
        let hint = "an amount with its unit: `0.001 XNO`";
        judge.text("sweep.minimum", file.minimum, hint, Raw::with_unit)
    } else {
        Some(default.minimum)
    };
    let representative = super::nano::account(judge, "sweep.representative", file.representative);
    let work_server = work_server(judge, file.work_server);
    // A fault in `nano` has been noted there.
    let nano = nano?;
    if let Err((message, hint)) = can_sweep(nano) {
        judge.fault(PATH, message, hint);
        return None;
    }
    Some(Some(Sweep {
        every: every?,
        minimum: minimum?,
        representative: representative?,
        work_server: work_server?,
    }))
}

/// Where work is asked for; the outer nothing is a fault.
fn work_server(judge: &mut Judge<'_>, piece: Piece<String>) -> Option<Option<NodeUrl>> {
    const PATH: &str = "sweep.work_server";
    if !piece.is_given() {
        return Some(None);
    }
    let hint = "the address of a node or server that answers `work_generate`: `http://127.0.0.1:7000`";
    let (url, parameters) = judge.text(PATH, piece, hint, node_url)?;
    let trusted = is_near(&url);
    Some(Some(NodeUrl { url, parameters, timeout: WORK_TIMEOUT, trusted }))
}

/// Whether there is a key to sweep with and a place to sweep to.
///
/// # Errors
/// What is missing, and what to do about it.
pub fn can_sweep(nano: &Nano) -> Result<Account, (&'static str, &'static str)> {
    match &nano.pool {
        Pool::Seed { .. } => {}
        Pool::Addresses(_) | Pool::Address(_) => {
            return Err((
                "this gateway holds no key of its pool: it cannot sweep",
                "sweep on the machine with the seed: `faregate sweep` with `pool: { seed_file: … }`",
            ));
        }
    }
    nano.treasury.ok_or((
        "there is no treasury to sweep to",
        "name an account of your own in `nano: { treasury: nano_… }`",
    ))
}
