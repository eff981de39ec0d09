//! From a checked configuration to running services.
//!
//! Everything that has a file, a key, a thread or a background task is opened here, in one order,
//! and closed in the other. Nothing listens yet: the caller binds and serves. `money` is what looks
//! after the pool.

mod money;
mod pool_watch;
mod reach;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::cashier::{self, Cashier};
use crate::clock::Clock;
use crate::config::{Config, Nano, NodeUrl, Pool, SocketUrl, StoreLocation};
use crate::entropy::{self, Entropy, NoEntropy};
use crate::facilitator::Facilitator;
use crate::gateway::Gateway;
use crate::gateway::body::Room;
use crate::gateway::discovery::Documents;
use crate::gateway::tariff::{Cors, EdgeLimits, Tariff};
use crate::gateway::upstream::Upstream;
use crate::ledger::node::{
    Authorities, NodeClient, NodeEndpoint, NodeEvent, NodeLedger, NodeSetupError, SocketEndpoint,
};
use crate::ledger::work::{WorkLimits, WorkServer};
use crate::metrics::Metrics;
use crate::payment::address_pool::{AddressPool, seed_indexes};
use crate::payment::{MacKeys, Mechanism};
use crate::routes::RouteName;
use crate::shutdown::{self, StopSignal};
use crate::store::capabilities::Capabilities;
use crate::store::{
    Engine, Holder, OpenError, PostgresFault, PostgresStore, SqliteOptions, SqliteStore, StoreEvent,
    StoreObserver, Unsound,
};
use crate::sweeper::Journal;
use crate::vault::{self, BearerToken, Vault, VaultError};
use crate::x402::{WorkPolicy, WorkTerms};

use pool_watch::PoolWatch;

pub use money::{SweepSetupError, pool_accounts, sweeper};

/// The gateway as it is run: over Nano nodes and the configured store.
pub type RunningGateway = Gateway<NodeLedger, Engine>;

/// How often nodes are asked whether they are there.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether the store is sound.
const LOOK_AT_STORE_EVERY: Duration = Duration::from_secs(1);
/// How long background tasks may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Why a gateway cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error("`nano.pool.seed_file`: {0}")]
    Seed(VaultError),
    #[error("`challenge.key_file`: {0}")]
    Key(VaultError),
    #[error("`challenge.previous_key_file`: {0}")]
    PreviousKey(VaultError),
    #[error("`facilitator.token_file`: {0}")]
    Token(VaultError),
    #[error("`nano.nodes`: {0}")]
    Nodes(#[from] NodeSetupError),
    #[error("`store.path`: {0}")]
    Sqlite(#[from] Box<OpenError>),
    #[error("`store.postgres`: {0}")]
    Postgres(#[from] PostgresFault),
    #[error(transparent)]
    Sweep(#[from] SweepSetupError),
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    #[error("the metrics cannot be declared: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the pool has no address for {0}: give it more addresses, or take {0} out of `nano.mechanisms`")]
    NoAddress(Mechanism),
}

/// Running services of one gateway. [`Services::stop`] ends them; dropped, they end without
/// reporting the last uses.
#[derive(Debug)]
pub struct Services {
    cashier: Cashier<NodeLedger, Engine>,
    tariff: Arc<ArcSwap<Tariff>>,
    metrics: Arc<Metrics>,
    ledger: Arc<NodeLedger>,
    store: Arc<Engine>,
    token: Option<BearerToken>,
    fixed: Config,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Opens everything `config` names and starts the background tasks on the current runtime.
///
/// # Errors
/// [`AssembleError`], which names the configuration's key.
pub async fn assemble(config: Config, clock: Clock) -> Result<Services, AssembleError> {
    let metrics = Arc::new(Metrics::new()?);
    let keys = mac_keys(&config)?;
    let token_file = config.facilitator.as_ref().and_then(|it| it.token_file.as_ref());
    let token = token_file.map(|it| vault::bearer_token(it)).transpose().map_err(AssembleError::Token)?;
    let pool = address_pool(&config.nano)?;
    let ledger = Arc::new(node_ledger(&config, &metrics)?);
    let paid: Arc<[_]> = Mechanism::ALL.into_iter().flat_map(|it| pool.of(it)).copied().collect();
    let store = Arc::new(open_store(&config.store, Some(observer(&metrics))).await?);
    let cashier = Cashier::new(cashier::Parts {
        keys,
        pool,
        work: work(&config.nano)?,
        ledger: Arc::clone(&ledger),
        store: Arc::clone(&store),
        clock: clock.clone(),
        entropy: Entropy::system(),
        metrics: Arc::clone(&metrics),
        settings: settings(&config),
        holder: Holder(entropy::bytes()?),
        capabilities_cached: config.limits.capabilities_cached,
        runtime: tokio::runtime::Handle::current(),
    });
    let tariff = Arc::new(ArcSwap::new(Arc::new(tariff(&config).await)));
    metrics.configured();
    let (stop, shutdown) = watch::channel(false);
    let mut tasks = JoinSet::new();
    // Before the first probe no node counts as up, and nothing would be sold.
    ledger.probe().await;
    tasks.spawn(Arc::clone(&ledger).watch(PROBE_EVERY, shutdown.clone()));
    tasks.spawn(Arc::clone(&ledger).listen(paid, shutdown.clone()));
    let (recovering, until) = (cashier.clone(), shutdown.clone());
    tasks.spawn(async move { recovering.recover(until).await });
    let (forgetting, until) = (cashier.clone(), shutdown.clone());
    tasks.spawn(async move { forgetting.forget(until).await });
    let (watching, until) = (cashier.clone(), shutdown.clone());
    tasks.spawn(async move { tell_of_store(&watching, until).await });
    let metering = cashier.clone();
    let until = shutdown.clone();
    tasks.spawn(async move { metering.capabilities().run(until).await });
    let watch = PoolWatch {
        ledger: NodeLedger::clone(&ledger),
        store: Arc::clone(&store),
        metrics: Arc::clone(&metrics),
        clock: clock.clone(),
    };
    tasks.spawn(watch.run(config.clone(), shutdown.clone()));
    let journal = Journal::new(Arc::clone(&store), clock);
    if let Some(sweep) = money::sweep_in_background(&config, &ledger, journal, &metrics, shutdown)? {
        tasks.spawn(sweep);
    }
    Ok(Services { cashier, tariff, metrics, ledger, store, token, fixed: config, stop, tasks })
}

/// Opens the store where it is; `observer` is told what it does.
///
/// # Errors
/// [`AssembleError::Sqlite`], [`AssembleError::Postgres`].
pub async fn open_store(
    location: &StoreLocation,
    observer: Option<StoreObserver>,
) -> Result<Engine, AssembleError> {
    let engine = match location {
        StoreLocation::Sqlite { path, free_space } => {
            let options = SqliteOptions { free_space: *free_space, ..SqliteOptions::default() };
            Engine::from(SqliteStore::open_observed(path, options, observer.clone()).map_err(Box::new)?)
        }
        StoreLocation::Postgres(options) => Engine::from(PostgresStore::open(options).await?),
    };
    Ok(match observer {
        Some(observer) => engine.observed_by(observer),
        None => engine,
    })
}

fn observer(metrics: &Arc<Metrics>) -> StoreObserver {
    let metrics = Arc::clone(metrics);
    Arc::new(move |event| match event {
        StoreEvent::Call { operation, elapsed, ok } => metrics.store_call(operation, elapsed, ok),
        StoreEvent::Commit { operations, elapsed } => metrics.store_commit(operations, elapsed),
    })
}

/// Says in the log when the store stops and starts to take sales.
async fn tell_of_store(cashier: &Cashier<NodeLedger, Engine>, mut shutdown: StopSignal) {
    let mut last: Result<(), Unsound> = Ok(());
    loop {
        let state = cashier.store_readiness();
        if state != last {
            match state {
                Ok(()) => tracing::info!("the store is sound again: selling goes on"),
                Err(fault) => tracing::error!(%fault, "nothing new is sold"),
            }
            last = state;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AT_STORE_EVERY) => {}
            () = shutdown::asked_for(&mut shutdown) => return,
        }
    }
}

fn mac_keys(config: &Config) -> Result<MacKeys, AssembleError> {
    let active = vault::mac_key(&config.challenge.key_file).map_err(AssembleError::Key)?;
    let previous = match &config.challenge.previous_key_file {
        Some(path) => Some(vault::existing_mac_key(path).map_err(AssembleError::PreviousKey)?),
        None => None,
    };
    Ok(MacKeys::new(active, previous))
}

/// The pool's addresses, derived once. A seed file that is not there is made: what the gateway
/// earns is then under a key that only this file holds.
///
/// # Errors
/// [`AssembleError::Seed`], [`AssembleError::NoAddress`].
pub fn address_pool(nano: &Nano) -> Result<AddressPool, AssembleError> {
    let pool = match &nano.pool {
        Pool::Seed { file, size } => {
            if !file.exists() {
                tracing::warn!(
                    file = %file.display(),
                    "made a new seed for the address pool: back it up, what is earned can only be spent with it"
                );
            }
            let vault = Vault::open_or_create(file).map_err(AssembleError::Seed)?;
            reach::remember(file, *size);
            let accounts = |mechanism| {
                if nano.in_use.contains(&mechanism) {
                    vault.accounts(seed_indexes(mechanism, *size))
                } else {
                    Vec::new()
                }
            };
            AddressPool::new(accounts(Mechanism::NanoTxn), accounts(Mechanism::NanoSignature))
                .with_sessions(accounts(Mechanism::NanoSession))
        }
        Pool::Addresses(addresses) => AddressPool::of_list(addresses, &nano.in_use),
        Pool::Address(address) => AddressPool::of_list(&[*address], &nano.in_use),
    };
    match nano.in_use.iter().find(|it| pool.of(**it).is_empty()) {
        Some(mechanism) => Err(AssembleError::NoAddress(*mechanism)),
        None => Ok(pool),
    }
}

fn node_ledger(config: &Config, metrics: &Arc<Metrics>) -> Result<NodeLedger, NodeSetupError> {
    let nano = &config.nano;
    let authorities = || Authorities::from(nano.authorities.as_slice());
    let socket = |it: &SocketUrl| Ok(SocketEndpoint::from_url(it.0.clone())?.believing(authorities()));
    let sockets = nano.websockets.iter().map(socket);
    let metrics = Arc::clone(metrics);
    let observe = move |event: NodeEvent<'_>| match event {
        NodeEvent::Called(call) => metrics.node_rpc(call.node, call.action, call.elapsed, call.ok),
        NodeEvent::Hedged { node } => metrics.hedged(node),
        NodeEvent::Disagreed { node } => metrics.disagreement(node),
    };
    let client = node_client(nano)?.observed_by(Arc::new(observe));
    let ledger = NodeLedger::new(client).polling_every(config.settlement.poll);
    Ok(ledger.hearing(sockets.collect::<Result<_, NodeSetupError>>()?))
}

/// Where the nodes of `nano` are.
#[must_use]
pub fn endpoints(nano: &Nano) -> Vec<NodeEndpoint> {
    nano.nodes.iter().map(|node| endpoint(nano, node)).collect()
}

fn endpoint(nano: &Nano, node: &NodeUrl) -> NodeEndpoint {
    NodeEndpoint {
        url: node.url.clone(),
        parameters: node.parameters.clone(),
        timeout: node.timeout,
        trusted: node.trusted,
        authorities: Authorities::from(nano.authorities.as_slice()),
    }
}

/// What is asked of a payment's block, and who makes its work where the client does not.
fn work(nano: &Nano) -> Result<cashier::Work, NodeSetupError> {
    let server = match &nano.work_server {
        Some(maker) => {
            let limits = WorkLimits {
                at_once: maker.at_once,
                waiting: maker.waiting,
                per_client: maker.per_client,
                patience: maker.server.timeout,
            };
            Some(WorkServer::new(NodeClient::new(vec![endpoint(nano, &maker.server)])?, limits))
        }
        None => None,
    };
    Ok(cashier::Work { threshold: nano.work.send, server })
}

fn work_terms(nano: &Nano) -> WorkTerms {
    let policy = if nano.work_server.is_some() { WorkPolicy::Optional } else { WorkPolicy::Required };
    WorkTerms { policy, threshold: nano.work.send }
}

/// A client for the nodes of a configuration.
///
/// # Errors
/// [`NodeSetupError`], when one is not HTTP, or TLS cannot be set up.
pub fn node_client(nano: &Nano) -> Result<NodeClient, NodeSetupError> {
    Ok(NodeClient::new(endpoints(nano))?.with_quorum(nano.quorum))
}

fn settings(config: &Config) -> cashier::Settings {
    cashier::Settings {
        mechanisms: config.nano.mechanisms.clone(),
        by_route: config.mechanisms.clone(),
        lifetime: config.challenge.lifetime,
        wait: config.settlement.wait,
        pending_settlements: usize::try_from(config.limits.pending_settlements).unwrap_or(usize::MAX),
        lookups_per_client: config.limits.lookups_per_client,
        identifiers: cashier::IdentifierSettings {
            ids: config.payment_identifiers.keep,
            answers: config.payment_identifiers.keep_answers,
            largest_answer: usize::try_from(config.payment_identifiers.largest_answer).unwrap_or(usize::MAX),
        },
    }
}

/// The edge's view of `config`, its upstreams looked up and watched for as long as it is in use.
async fn tariff(config: &Config) -> Tariff {
    let (watched, shutdown) = watch::channel(false);
    let mut upstreams = BTreeMap::new();
    for (name, settings) in &config.upstreams {
        let upstream = Arc::new(Upstream::new(settings));
        upstream.refresh().await;
        let (watching, until) = (Arc::clone(&upstream), shutdown.clone());
        tokio::spawn(async move { watching.watch(until).await });
        upstreams.insert(name.clone(), upstream);
    }
    Tariff {
        table: config.table.clone(),
        unmatched: config.unmatched.clone(),
        public_url: config.public_url.clone(),
        upstreams,
        cors: config.cors.clone().map(|it| Cors(it.origins)),
        challenge_lifetime: config.challenge.lifetime,
        work: work_terms(&config.nano),
        limits: EdgeLimits {
            idle_connection: config.limits.idle_connection,
            drained_body: config.limits.drained_body,
        },
        documents: Documents::of(config),
        room: Room::new(config.limits.bodies, config.limits.body_time),
        watched,
    }
}

/// Takes out of `by_route` the mechanisms for which the running pool has no address; whether there was
/// one. A route that is left with none offers what the others do.
fn without_addresses(by_route: &mut BTreeMap<RouteName, Vec<Mechanism>>, addressed: &[Mechanism]) -> bool {
    let count = |it: &BTreeMap<_, Vec<_>>| it.values().map(Vec::len).sum::<usize>();
    let before = count(by_route);
    by_route.values_mut().for_each(|list| list.retain(|it| addressed.contains(it)));
    by_route.retain(|_, list| !list.is_empty());
    count(by_route) != before
}

impl Services {
    /// The gateway, to be served on one listener or several.
    #[must_use]
    pub fn gateway(&self) -> RunningGateway {
        Gateway::new(self.cashier.clone(), Arc::clone(&self.tariff), Arc::clone(&self.metrics))
    }

    /// The operator's listener.
    #[must_use]
    pub fn admin(&self) -> Admin<Engine> {
        let (cashier, ledger, store) =
            (self.cashier.clone(), Arc::clone(&self.ledger), Arc::clone(&self.store));
        Admin::new(cashier, ledger, store, Arc::clone(&self.metrics))
    }

    /// The listener for other servers, where the configuration names one.
    #[must_use]
    pub fn facilitator(&self) -> Option<Facilitator<NodeLedger, Engine>> {
        self.fixed.facilitator.as_ref()?;
        Some(Facilitator::new(self.cashier.clone(), Arc::clone(&self.metrics), self.token.clone()))
    }

    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The gateway's view of the Nano network.
    #[must_use]
    pub const fn ledger(&self) -> &Arc<NodeLedger> {
        &self.ledger
    }

    #[must_use]
    pub const fn store(&self) -> &Arc<Engine> {
        &self.store
    }

    /// What was bought and is in hand; here one is revoked.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities<Engine> {
        self.cashier.capabilities()
    }

    /// Takes over a changed configuration: prices, upstreams, origins, mechanisms' order, times and
    /// limits. Gives the keys that changed and need a restart; those stay as they were.
    pub async fn reload(&self, config: &Config) -> Vec<&'static str> {
        let fixed = &self.fixed;
        let mut config = config.clone();
        let mut held_back = Vec::new();
        let mut hold = |key, changed: bool| {
            if changed {
                held_back.push(key);
            }
        };
        hold("listen", config.listen != fixed.listen);
        hold("admin", config.admin != fixed.admin);
        hold("facilitator", config.facilitator != fixed.facilitator);
        hold("store", config.store != fixed.store);
        hold("nano.nodes", config.nano.nodes != fixed.nano.nodes);
        hold("nano.quorum", config.nano.quorum != fixed.nano.quorum);
        hold("nano.websocket", config.nano.websockets != fixed.nano.websockets);
        hold("settlement.poll", config.settlement.poll != fixed.settlement.poll);
        hold("nano.ca_file", config.nano.authorities != fixed.nano.authorities);
        hold("nano.pool", config.nano.pool != fixed.nano.pool);
        hold("nano.mechanisms", config.nano.mechanisms != fixed.nano.mechanisms);
        let work = |it: &Config| (it.nano.work, it.nano.work_server.clone());
        hold("nano.work", work(&config) != work(fixed));
        hold("nano.treasury", config.nano.treasury != fixed.nano.treasury);
        hold("sweep", config.sweep != fixed.sweep);
        let keys = |it: &Config| (it.challenge.key_file.clone(), it.challenge.previous_key_file.clone());
        hold("challenge.key_file", keys(&config) != keys(fixed));
        let cached = |it: &Config| it.limits.capabilities_cached;
        hold("limits.capabilities_cached", cached(&config) != cached(fixed));
        config.nano = fixed.nano.clone();
        let addressed = config.nano.in_use.clone();
        hold("routes[].mechanisms", without_addresses(&mut config.mechanisms, &addressed));
        self.cashier.configure(settings(&config));
        self.tariff.store(Arc::new(tariff(&config).await));
        self.metrics.configured();
        held_back
    }

    /// Ends the background tasks, settlements under way first, reports the last uses and closes the
    /// store. Call it when nothing is served any more.
    pub async fn stop(mut self) {
        let settled = async {
            while self.cashier.settling() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(STOP_WITHIN, settled).await.is_err() {
            let left = self.cashier.settling();
            tracing::warn!(left, "settlements cut off; the next start takes them up from the journal");
        }
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("background tasks cut off");
        }
        self.store.close().await;
    }
}
