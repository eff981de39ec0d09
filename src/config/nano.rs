//! Nano: which nodes are asked, where payments go, how they are proven.

use rustls::pki_types::CertificateDer;

use super::judge::{Judge, Judged, all};
use super::mechanisms::{self, ByRoute, Offered};
use super::mirror::{NanoFile, Piece, WorkFile};
use super::nodes::{self, NodeUrl, SocketUrl};
use super::pool::{self, POOL_HINT, PoolSource};
use super::work_server::{self, WorkMaker};
use crate::nano::{Account, Threshold, Thresholds};
use crate::payment::Mechanism;

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nano {
    /// In order of preference; at least one.
    pub nodes: Vec<NodeUrl>,
    /// How many nodes that are not trusted have to agree that a block is confirmed.
    pub quorum: usize,
    /// Sockets that report confirmations as they happen.
    pub websockets: Vec<SocketUrl>,
    /// Certificate authorities that may vouch for a node, beside those that browsers trust.
    pub authorities: Vec<CertificateDer<'static>>,
    pub pool: PoolSource,
    /// The account that sweeps send to.
    pub treasury: Option<Account>,
    /// In the order of `accepts`; at least one, none twice.
    pub mechanisms: Vec<Mechanism>,
    /// Those, and what routes offer beside them: each has addresses of its own.
    pub in_use: Vec<Mechanism>,
    pub work: BlockWork,
}

/// The work of blocks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockWork {
    /// What the network requires.
    pub thresholds: Thresholds,
    /// Who computes the work of a payment's block that has none; `None` if clients have to.
    pub server: Option<WorkMaker>,
}

pub(super) fn nano(judge: &mut Judge<'_>, file: NanoFile) -> Judged<Nano> {
    let nodes = nodes::nodes(judge, file.nodes);
    let quorum = nodes::quorum(judge, file.quorum, nodes.as_deref().ok());
    let treasury = pool::account(judge, file.treasury);
    let pool = judge.need_section(file.pool, POOL_HINT);
    let pool = pool.and_then(|it| pool::pool(judge, it, treasury.ok().flatten()));
    let mechanisms = mechanisms::list(judge, file.mechanisms);
    let mechanisms = mechanisms.map(|it| it.unwrap_or_else(|| Mechanism::DEFAULT.to_vec()));
    all!(Nano {
        nodes,
        quorum,
        websockets: nodes::websockets(judge, file.websocket),
        authorities: nodes::authorities(judge, file.ca_file),
        pool,
        treasury,
        in_use: mechanisms.clone(),
        mechanisms,
        work: judge.section(file.work).and_then(|it| work(judge, it)),
    })
}

fn work(judge: &mut Judge<'_>, file: WorkFile) -> Judged<BlockWork> {
    let mut threshold = |piece: Piece<String>, default: Threshold| {
        let hint = "write 16 hexadecimal digits in quotes: \"fffffff800000000\"";
        judge.text(piece, hint, str::parse::<Threshold>).map(|it| it.unwrap_or(default))
    };
    let send = threshold(file.send, Thresholds::MAINNET.send);
    let receive = threshold(file.receive, Thresholds::MAINNET.receive);
    let server = judge.optional(file.optional, work_server::work_server);
    Ok(BlockWork { thresholds: Thresholds { send: send?, receive: receive? }, server: server? })
}

/// Notes in `nano` which mechanisms are in use anywhere, and whether the pool is enough for them. A
/// block sent to an address of one mechanism must be useless for another, so each has its own.
pub(super) fn share_pool(judge: &mut Judge<'_>, nano: &mut Nano, by_route: &ByRoute) {
    let has_list = judge.line("nano.mechanisms").is_some();
    let default_place = if has_list { "nano.mechanisms" } else { "nano.pool" };
    let mut place = default_place;
    for Offered { mechanisms, path } in by_route.values() {
        for mechanism in mechanisms {
            if !nano.in_use.contains(mechanism) {
                nano.in_use.push(*mechanism);
                // If the file is good without the route, the fault is at the route.
                place = if nano.mechanisms.len() > 1 { default_place } else { path };
            }
        }
    }
    let count = nano.in_use.len();
    match &nano.pool {
        PoolSource::Address(_) if count > 1 => {
            judge.fault(
                place,
                "with one address only one mechanism can be on",
                "write `nano: { mechanisms: [nanoTxn] }` and no list on any route, or give the pool a \
                 `seed_file` or an `addresses_file`",
            );
        }
        PoolSource::Addresses { accounts, .. } if accounts.len() < count && !judge.offline => {
            judge.fault(
                "nano.pool.addresses_file",
                format_args!(
                    "too few addresses ({}) for {count} mechanisms: each needs its own",
                    accounts.len()
                ),
                "add addresses to the file, or turn a mechanism off",
            );
        }
        PoolSource::Address(_) | PoolSource::Addresses { .. } | PoolSource::Seed { .. } => {}
    }
}
