//! The door of a listener: which connections come in, and in whose name.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, getrlimit};

use super::proxies::TrustedProxies;
use super::socket::{Peer, Socket};
use crate::cashier::{Share, Shares};
use crate::clock::Stopwatch;
use crate::metrics::{Metrics, OpenConnection, ReachedLimit};

/// The most connections of one listener at the same time. One more is closed as soon as it is accepted;
/// the others go on.
pub const MAX_CONNECTIONS: usize = 16_384;

/// How often the log says that connections are turned away.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What a door asks of a connection.
#[derive(Clone, Debug)]
pub struct DoorRules {
    /// Connections of one client at the same time. Those of trusted proxies are not counted, unless they
    /// say whose they are.
    pub per_client: usize,
    /// How long the head of a request may take from its first byte to its last.
    pub head_time: Duration,
    /// How long a connection may say nothing before its first request; over HTTP/2, how long it may have none
    /// under way.
    pub idle: Duration,
    pub proxies: TrustedProxies,
    /// Whether connections of trusted proxies begin with the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether HTTP/2 is spoken without TLS to a client that begins with its preface.
    pub h2c: bool,
}

impl Default for DoorRules {
    /// For listeners that only known callers can reach.
    fn default() -> Self {
        Self {
            per_client: usize::MAX,
            head_time: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            proxies: TrustedProxies::default(),
            proxy_protocol: false,
            h2c: false,
        }
    }
}

/// A door that several listeners can share. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Door(Arc<DoorState>);

#[derive(Debug, Default)]
struct DoorState {
    rules: ArcSwap<DoorRules>,
    connections: Shares,
    /// `None` for a listener that keeps no descriptors free and counts nothing.
    metrics: Option<Arc<Metrics>>,
}

/// A connection that came in.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) rules: Arc<DoorRules>,
    /// Where it comes from: its client, or the proxy that speaks for it.
    pub(super) peer: Peer,
    /// What counts it as its client's.
    pub(super) share: Option<Share>,
    /// Whether it has to begin with the PROXY protocol.
    pub(super) is_proxied: bool,
}

impl Door {
    /// A door for clients, who may be anybody: what it turns away is counted in `metrics`, and a quarter
    /// of the process's file descriptors stays free for everything else.
    #[must_use]
    pub fn for_clients(rules: DoorRules, metrics: Arc<Metrics>) -> Self {
        let (rules, connections) = (ArcSwap::from_pointee(rules), Shares::default());
        Self(Arc::new(DoorState { rules, connections, metrics: Some(metrics) }))
    }

    /// Changes the rules. Connections that are open keep those they began with.
    pub fn change(&self, rules: DoorRules) {
        self.0.rules.store(Arc::new(rules));
    }

    /// Lets a new connection in, beside `open` others of its listener.
    pub(super) fn enter(&self, socket: &Socket, peer: Peer, open: usize) -> Result<Entered, ReachedLimit> {
        let rules = self.0.rules.load_full();
        if open >= MAX_CONNECTIONS {
            return Err(self.reached(ReachedLimit::Connections));
        }
        if self.0.metrics.is_some() && is_scarce(socket) {
            return Err(self.reached(ReachedLimit::Descriptors));
        }
        let is_trusted = rules.proxies.trusts(peer);
        let share = if is_trusted { None } else { Some(self.share(peer, &rules)?) };
        Ok(Entered { peer, share, is_proxied: is_trusted && rules.proxy_protocol, rules })
    }

    /// The share that counts a connection as that of `client`.
    pub(super) fn share(&self, client: Peer, rules: &DoorRules) -> Result<Share, ReachedLimit> {
        let share = self.0.connections.take(client.client(), 1, rules.per_client);
        share.ok_or_else(|| self.reached(ReachedLimit::ClientConnections))
    }

    /// Counts a connection as open until this is dropped.
    pub(super) fn opened(&self) -> Option<OpenConnection> {
        self.0.metrics.as_ref().map(|it| it.connection_opened())
    }

    /// Counts that a limit was reached.
    pub(super) fn reached(&self, limit: ReachedLimit) -> ReachedLimit {
        if let Some(metrics) = &self.0.metrics {
            metrics.limit_reached(limit);
        }
        limit
    }
}

/// How many file descriptors the process may have; `None` if there is no limit.
#[must_use]
pub fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Whether a connection took one of the last descriptors. The system always gives the lowest number that
/// is free.
fn is_scarce(socket: &Socket) -> bool {
    let Some(limit) = descriptors() else { return false };
    let for_clients = limit.saturating_sub(limit / 4);
    u64::try_from(socket.as_raw_fd()).is_ok_and(|number| number >= for_clients)
}

/// Keeps a flood out of the log: the first is logged at once, and the others are counted.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Stopwatch>,
    unlogged: u64,
}

impl Complaints {
    /// How many others were not logged, if this one is to be.
    pub(super) fn due(&mut self) -> Option<u64> {
        if self.last.is_some_and(|it| it.elapsed() < COMPLAIN_EVERY) {
            self.unlogged = self.unlogged.saturating_add(1);
            return None;
        }
        self.last = Some(Stopwatch::start());
        Some(std::mem::take(&mut self.unlogged))
    }
}
