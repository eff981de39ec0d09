//! The Nano side: which nodes are asked, where payments go, how they are proven.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use serde_yaml::Value;

use super::judge::Judge;
use super::mechanisms;
use super::mirror::{NanoFile, Piece, PoolFile, WorkFile};
use super::nodes::{self, NodeUrl, SocketUrl};
use super::work_server::{self, WorkMaker};
use crate::nano::{Account, Threshold, Thresholds};
use crate::payment::Mechanism;

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nano {
    /// In order of preference; at least one.
    pub nodes: Vec<NodeUrl>,
    /// How many nodes that are not trusted have to agree that a block is confirmed.
    pub quorum: usize,
    /// Where confirmations are heard of as they happen.
    pub websockets: Vec<SocketUrl>,
    /// Authorities that are believed about who a node is, beside those that browsers believe.
    pub authorities: Vec<CertificateDer<'static>>,
    pub pool: PoolSource,
    /// Where what was earned is swept to.
    pub treasury: Option<Account>,
    /// In the order of `accepts`; at least one, none twice.
    pub mechanisms: Vec<Mechanism>,
    /// Those and what routes offer beside them: each has addresses of its own.
    pub in_use: Vec<Mechanism>,
    /// What the network asks of a block's work.
    pub work: Thresholds,
    /// Who makes the work of a payment's block that comes without; clients have to where there is
    /// none.
    pub work_server: Option<WorkMaker>,
}

/// Where payments are sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PoolSource {
    /// `size` accounts, derived from the seed in `file`.
    Seed { file: PathBuf, size: u32 },
    /// Accounts whose keys are elsewhere; none twice.
    Addresses(Vec<Account>),
    /// One account, for one mechanism.
    Address(Account),
}

/// Accounts of one pool.
pub const MAX_POOL: u32 = 1_000_000;
/// A pool is cut into one range for each mechanism, none of them empty.
pub const MIN_POOL: u32 = 2;
const DEFAULT_POOL: u32 = 1024;

const ACCOUNT_HINT: &str = "copy the whole address: `nano_` and 60 characters";

pub(super) fn nano(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Nano> {
    let value = judge.need("", "nano", piece, "`nodes` and `pool` belong there")?;
    let file: NanoFile = judge.open("nano", value)?;
    let nodes = nodes::nodes(judge, file.nodes);
    let quorum = nodes::quorum(judge, file.quorum, nodes.as_deref());
    let websockets = nodes::websockets(judge, file.websocket);
    let authorities = nodes::authorities(judge, file.ca_file);
    let treasury = account(judge, "nano.treasury", file.treasury);
    let pool = pool(judge, file.pool, treasury.flatten());
    let mechanisms = mechanisms::everywhere(judge, file.mechanisms);
    let work = work(judge, file.work);
    let (work, work_server) = work?;
    Some(Nano {
        nodes: nodes?,
        quorum: quorum?,
        websockets: websockets?,
        authorities: authorities?,
        pool: pool?,
        treasury: treasury?,
        in_use: mechanisms.clone()?,
        mechanisms: mechanisms?,
        work,
        work_server,
    })
}

/// An account somebody holds a key of; the outer nothing is a fault.
pub(super) fn account(judge: &mut Judge<'_>, path: &str, piece: Piece<String>) -> Option<Option<Account>> {
    if !piece.is_given() {
        return Some(None);
    }
    let account = judge.text(path, piece, ACCOUNT_HINT, str::parse::<Account>)?;
    if account == Account::BURN {
        judge.fault(path, BURN, "use an account of your own");
        return None;
    }
    Some(Some(account))
}

const BURN: &str = "this is the burn account: what is sent there is gone";

fn pool(judge: &mut Judge<'_>, piece: Piece<Value>, treasury: Option<Account>) -> Option<PoolSource> {
    const PATH: &str = "nano.pool";
    let hint = "write one of `seed_file`, `addresses_file`, `address`";
    let value = judge.need("nano", "pool", piece, hint)?;
    let file: PoolFile = judge.open(PATH, value)?;
    let given = [file.seed_file.is_given(), file.addresses_file.is_given(), file.address.is_given()];
    if given.iter().filter(|it| **it).count() != 1 {
        judge.fault(PATH, "a pool has exactly one source of addresses", hint);
        return None;
    }
    if file.size.is_given() && !file.seed_file.is_given() {
        judge.fault("nano.pool.size", "only a pool with a `seed_file` has a size", "leave `size` out");
    }
    if file.seed_file.is_given() {
        let size = judge.count("nano.pool.size", file.size, MIN_POOL..=MAX_POOL, DEFAULT_POOL);
        let seed = judge.file("nano.pool.seed_file", file.seed_file);
        return Some(PoolSource::Seed { file: seed?, size: size? });
    }
    if file.address.is_given() {
        let account = account(judge, "nano.pool.address", file.address)??;
        if treasury == Some(account) {
            judge.fault("nano.pool.address", TREASURY_IN_POOL, "use another account for one of the two");
        }
        return Some(PoolSource::Address(account));
    }
    let path = judge.file("nano.pool.addresses_file", file.addresses_file)?;
    addresses(judge, &path, treasury).map(PoolSource::Addresses)
}

const TREASURY_IN_POOL: &str = "the treasury is in the pool: what is swept would stay where it was";

/// The accounts of a file, one a line; `#` begins a comment.
fn addresses(judge: &mut Judge<'_>, path: &Path, treasury: Option<Account>) -> Option<Vec<Account>> {
    const PLACE: &str = "nano.pool.addresses_file";
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            judge.refuse(PLACE, format_args!("{}: {error}", path.display()), "one address a line");
            return None;
        }
    };
    let before = judge.faults.len();
    let mut accounts = Vec::new();
    let mut lines = BTreeMap::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let at = format!("{} line {number}", path.display());
        let account = match line.parse::<Account>() {
            Ok(account) => account,
            Err(error) => {
                judge.refuse(PLACE, format_args!("{at}: {error}"), ACCOUNT_HINT);
                continue;
            }
        };
        let first = *lines.entry(account).or_insert(number);
        if first != number {
            judge.refuse(PLACE, format_args!("{at}: the same address as in line {first}"), "keep one");
        } else if account == Account::BURN {
            judge.refuse(PLACE, format_args!("{at}: {BURN}"), "take it out");
        } else if treasury == Some(account) {
            judge.refuse(PLACE, format_args!("{at}: {TREASURY_IN_POOL}"), "take it out");
        }
        accounts.push(account);
    }
    if accounts.is_empty() && judge.faults.len() == before {
        judge.refuse(PLACE, format_args!("{}: no address in it", path.display()), "one address a line");
    }
    if u32::try_from(accounts.len()).map_or(true, |count| count > MAX_POOL) {
        judge.refuse(PLACE, format_args!("more than {MAX_POOL} addresses"), "use fewer");
    }
    (judge.faults.len() == before).then_some(accounts)
}

fn work(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<(Thresholds, Option<WorkMaker>)> {
    let hint = "write 16 hexadecimal digits in quotes: \"fffffff800000000\"";
    let file: WorkFile = judge.section_or_default("nano.work", piece)?;
    let mut threshold = |path: &str, piece: Piece<String>, default: Threshold| {
        if !piece.is_given() {
            return Some(default);
        }
        judge.text(path, piece, hint, str::parse::<Threshold>)
    };
    let send = threshold("nano.work.send", file.send, Thresholds::MAINNET.send);
    let receive = threshold("nano.work.receive", file.receive, Thresholds::MAINNET.receive);
    let server = work_server::optional(judge, file.optional);
    Some((Thresholds { send: send?, receive: receive? }, server?))
}
