//! Turns a checked configuration into running services.
//!
//! Everything that has a file, a key, a thread or a background task is opened here, in one order,
//! and closed in the reverse order. Nothing listens yet: the caller binds and serves.

mod deposit_watch;
mod listener_tls;
mod nodes;
mod pool;
mod reach;
mod refund_watch;
mod reload;
mod stranded;
mod swept;
mod sweeping;
mod upstreams;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::access_log::AccessLog;
use crate::acme::Keeper;
use crate::admin::{Admin, Api, LastPoolLook, Order, Reloaded};
use crate::cashier::{self, Cashier, ClientLimits};
use crate::clock::Clock;
use crate::config::{Config, StoreLocation};
use crate::entropy::{self, Entropy, NoEntropy};
use crate::facilitator::Facilitator;
use crate::gateway::Gateway;
use crate::gateway::bill_text::AddressTexts;
use crate::gateway::body::BodyBudget;
use crate::gateway::discovery::Documents;
use crate::gateway::request_id::RequestIds;
use crate::gateway::rulebook::Rulebook;
use crate::gateway::tariff::{AtRoute, CorsPolicy, EdgeLimits, Tariff};
use crate::gateway::to_https::ToHttps;
use crate::gateway::unpaid::Unpaid;
use crate::gateway::upstream::{PeerSecurity, Upstream};
use crate::ledger::node::{NodeLedger, NodeSetupError};
use crate::listen::{self, Challenges, Door, DoorRules, Tls};
use crate::metrics::Metrics;
use crate::nano::Account;
use crate::payment::{MacKeys, Mechanism};
use crate::rates::Rates;
use crate::routes::{Access, RouteName, UpstreamName};
use crate::shutdown::{self, StopSignal};
use crate::store::capabilities::Capabilities;
use crate::store::refunds::ExpiryMark;
use crate::store::{
    Engine, Holder, OpenError, PostgresFault, PostgresStore, SqliteOptions, SqliteStore, StoreEvent,
    StoreObserver, Unsound,
};
use crate::sweep::Action;
use crate::sweeper::SweepJournal;
use crate::traces::{Traces, TracesError};
use crate::vault::{self, AdminToken, BearerToken, VaultError};

use deposit_watch::DepositWatch;
use refund_watch::RefundWatch;
use swept::SweptCount;

pub use listener_tls::{ListenerTlsError, listener_tls, shared_names};
pub use nodes::{endpoints, node_client, sockets, work_servers};
pub use pool::{PoolError, address_pool, pool_accounts};
pub use stranded::{Stranded, stranded};
pub use sweeping::{SweepSetupError, refunder, sweeper};
pub use upstreams::{UpstreamTlsError, UpstreamTlsFault, upstreams_tls};

/// The gateway as it is run: over Nano nodes and the configured store.
pub type RunningGateway = Gateway<NodeLedger, Engine>;

/// How often nodes are probed.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How often the store's readiness is checked.
const CHECK_STORE_EVERY: Duration = Duration::from_secs(1);
/// How long background tasks may take to end, and settlements where nothing else is said.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Why a gateway cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("`challenge.key_file`: {0}")]
    Key(VaultError),
    #[error("`challenge.previous_key_file`: {0}")]
    PreviousKey(VaultError),
    #[error("`facilitator.token_file`: {0}")]
    Token(VaultError),
    #[error("`admin.token_file`: {0}")]
    AdminToken(VaultError),
    #[error("`nano.nodes`: {0}")]
    Nodes(#[from] NodeSetupError),
    #[error("`store.path`: {0}")]
    Sqlite(#[from] Box<OpenError>),
    #[error("`store.postgres`: {0}")]
    Postgres(#[from] PostgresFault),
    #[error(transparent)]
    Upstream(#[from] UpstreamTlsError),
    #[error(transparent)]
    Sweep(#[from] SweepSetupError),
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    #[error("`tracing.otlp`: {0}")]
    Traces(#[from] TracesError),
    #[error("the metrics cannot be declared: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The running services of one gateway. [`Services::stop`] ends them; if they are dropped, the last
/// uses of capabilities are not reported.
#[derive(Debug)]
pub struct Services {
    cashier: Cashier<NodeLedger, Engine>,
    rates: Arc<Rates>,
    tariff: Arc<ArcSwap<Tariff>>,
    metrics: Arc<Metrics>,
    door: Door,
    /// What unpaid requests take.
    unpaid: Unpaid,
    request_ids: Arc<RequestIds>,
    access_log: AccessLog,
    traces: Traces,
    /// What the rules of routes count.
    rulebook: Rulebook,
    ledger: Arc<NodeLedger>,
    store: Arc<Engine>,
    clock: Clock,
    token: Option<BearerToken>,
    admin_token: Option<AdminToken>,
    /// What the admin API asks of the process, until somebody takes it.
    orders: (mpsc::Sender<Order>, Option<mpsc::Receiver<Order>>),
    last_look: LastPoolLook,
    fixed: Config,
    /// The configuration in use, with what needs a restart as the file last had it.
    applied: ArcSwap<Config>,
    drains: watch::Sender<bool>,
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
    let (token, admin_token) = tokens(&config)?;
    let pool = address_pool(&config.nano)?;
    let ledger = Arc::new(nodes::node_ledger(&config, &metrics)?);
    let paid: Arc<[_]> = Mechanism::ALL.into_iter().flat_map(|it| pool.of(it)).copied().collect();
    let store = Arc::new(open_store(&config.store, Some(observer(&metrics))).await?);
    let cashier = Cashier::new(cashier::Parts {
        keys,
        pool,
        work: nodes::work(&config.nano)?,
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
    let rates = Arc::new(Rates::new(config.rates.clone(), clock.clone()));
    // Until the first reading nothing could be sold that is priced in another currency.
    rates.refresh().await;
    let tariff = Arc::new(tariff(&config, upstreams_tls(&config)?, &rates).await);
    begin_series(&metrics, &config, &tariff);
    let tariff = Arc::new(ArcSwap::new(tariff));
    metrics.configured();
    let (stop, shutdown) = watch::channel(false);
    let mut tasks = JoinSet::new();
    ledgers_work(&mut tasks, &ledger, paid, &shutdown).await;
    tasks.spawn(Arc::clone(&rates).watch(shutdown.clone()));
    cashiers_work(&mut tasks, &cashier, &shutdown);
    let last_look = LastPoolLook::default();
    let watch = deposit_watch(&ledger, &store, &metrics, &clock, &last_look).await;
    tasks.spawn(watch.run(config.clone(), shutdown.clone()));
    let journal = SweepJournal::new(Arc::clone(&store), clock.clone());
    if let Some(sweep) = sweeping::sweep_in_background(&config, &ledger, journal, shutdown.clone())? {
        tasks.spawn(sweep);
    }
    let sold = Sold { cashier: &cashier, ledger: &ledger, store: &store, tariff: &tariff };
    give_back(&mut tasks, &config, &sold, (&metrics, &clock), &shutdown);
    let (order, orders) = mpsc::channel(1);
    let traces = traces(&config, &metrics)?;
    let (door, unpaid) = (Door::for_clients(door_rules(&config), Arc::clone(&metrics)), Unpaid::default());
    Ok(Services {
        cashier,
        rates,
        tariff,
        metrics,
        door,
        unpaid,
        request_ids: Arc::new(RequestIds::new(entropy::bytes()?)),
        access_log: AccessLog::none(),
        traces,
        rulebook: Rulebook::new(clock.clone()),
        ledger,
        store,
        clock,
        token,
        admin_token,
        orders: (order, Some(orders)),
        last_look,
        applied: ArcSwap::from_pointee(config.clone()),
        fixed: config,
        drains: watch::Sender::new(false),
        stop,
        tasks,
    })
}

/// The tokens of the facilitator and of the admin API, where they are configured.
fn tokens(config: &Config) -> Result<(Option<BearerToken>, Option<AdminToken>), AssembleError> {
    let file = config.facilitator.as_ref().and_then(|it| it.token_file.as_ref());
    let callers = file.map(|it| vault::bearer_token(it)).transpose().map_err(AssembleError::Token)?;
    let admin = config.admin_token_file.as_ref().map(|it| vault::admin_token(it)).transpose();
    Ok((callers, admin.map_err(AssembleError::AdminToken)?))
}

/// Begins what the ledger does beside requests. Until the first probe no node counts as up, and nothing would be sold.
async fn ledgers_work(
    tasks: &mut JoinSet<()>,
    ledger: &Arc<NodeLedger>,
    paid: Arc<[Account]>,
    shutdown: &StopSignal,
) {
    ledger.probe().await;
    tasks.spawn(Arc::clone(ledger).watch(PROBE_EVERY, shutdown.clone()));
    tasks.spawn(Arc::clone(ledger).listen(paid, shutdown.clone()));
}

/// Begins what the cashier does beside requests.
fn cashiers_work(tasks: &mut JoinSet<()>, cashier: &Cashier<NodeLedger, Engine>, shutdown: &StopSignal) {
    let (recovering, until) = (cashier.clone(), shutdown.clone());
    tasks.spawn(async move { recovering.recover(until).await });
    let (forgetting, until) = (cashier.clone(), shutdown.clone());
    tasks.spawn(async move { forgetting.forget(until).await });
    let (watching, until) = (cashier.clone(), shutdown.clone());
    tasks.spawn(async move { log_store_readiness(&watching, until).await });
    let (metering, until) = (cashier.clone(), shutdown.clone());
    tasks.spawn(async move { metering.capabilities().run(until).await });
}

/// What is sold, and by whom.
struct Sold<'a> {
    cashier: &'a Cashier<NodeLedger, Engine>,
    ledger: &'a NodeLedger,
    store: &'a Arc<Engine>,
    tariff: &'a Arc<ArcSwap<Tariff>>,
}

/// Begins what sends back what is left.
fn give_back(
    tasks: &mut JoinSet<()>,
    config: &Config,
    &Sold { cashier, ledger, store, tariff }: &Sold<'_>,
    (metrics, clock): (&Arc<Metrics>, &Clock),
    shutdown: &StopSignal,
) {
    let watch = RefundWatch {
        cashier: cashier.clone(),
        store: Arc::clone(store),
        tariff: Arc::clone(tariff),
        metrics: Arc::clone(metrics),
        seen: ExpiryMark::default(),
    };
    tasks.spawn(watch.run(shutdown.clone()));
    let paying = sweeping::refunds_in_background(config, ledger, (store, clock), metrics, shutdown.clone());
    if let Some(paying) = paying {
        tasks.spawn(paying);
    }
}

/// Where spans of requests go.
fn traces(config: &Config, metrics: &Arc<Metrics>) -> Result<Traces, TracesError> {
    config
        .tracing
        .as_ref()
        .map_or_else(|| Ok(Traces::none()), |it| Traces::to(&it.otlp, it.sample.share(), Arc::clone(metrics)))
}

/// The watch over deposits and sweeps. Make it before anything is swept here.
async fn deposit_watch(
    ledger: &NodeLedger,
    store: &Arc<Engine>,
    metrics: &Arc<Metrics>,
    clock: &Clock,
    last_look: &LastPoolLook,
) -> DepositWatch {
    let mut swept = SweptCount::new(Arc::clone(store), Arc::clone(metrics), clock.clone());
    // If it fails, what is in the journal counts as swept from now on.
    if let Err(error) = swept.look().await {
        tracing::warn!(%error, "the journal of sweeps cannot be read");
    }
    let (store, metrics, clock) = (Arc::clone(store), Arc::clone(metrics), clock.clone());
    let last_look = Arc::clone(last_look);
    DepositWatch { ledger: ledger.clone(), store, metrics, clock, swept, last_look }
}

/// Opens the store; `observer` is called for each operation.
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

/// Logs when the store stops and starts to accept payments.
async fn log_store_readiness(cashier: &Cashier<NodeLedger, Engine>, mut shutdown: StopSignal) {
    let mut last: Result<(), Unsound> = Ok(());
    loop {
        let state = cashier.store_readiness();
        if state != last {
            match state {
                Ok(()) => tracing::info!("the store is ready again: payments are accepted"),
                Err(fault) => tracing::error!(%fault, "the store is not ready: no new payments are accepted"),
            }
            last = state;
        }
        cashier.say_if_store_is_back();
        tokio::select! {
            () = tokio::time::sleep(CHECK_STORE_EVERY) => {}
            () = shutdown::asked_for(&mut shutdown) => return,
        }
    }
}

/// Shows every counter whose labels the configuration decides at 0, before anything happens.
fn begin_series(metrics: &Metrics, config: &Config, tariff: &Tariff) {
    for route in config.table.routes() {
        let label = route.name.label();
        metrics.begin_route(label);
        if !matches!(route.access, Access::Free) {
            metrics.begin_sales(label, config.mechanisms.get(&route.name).unwrap_or(&config.nano.mechanisms));
        }
        if route.meter.is_some() {
            metrics.begin_meter(label);
        }
    }
    metrics.begin_route(tariff.documents.label.label());
    metrics.begin_route(tariff.by_no_route.label());
    if config.facilitator.is_some() {
        metrics.begin_sales(RouteName::of_foreign("").label(), &config.nano.in_use);
    }
    if config.listen.tls.as_ref().is_some_and(|it| it.acme.is_some()) {
        metrics.begin_certificate_orders();
    }
    for action in Action::ALL {
        metrics.begin_sweep(action.as_str());
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

fn settings(config: &Config) -> cashier::Settings {
    let per_caller = config.facilitator.as_ref().map(|it| it.per_caller).unwrap_or_default();
    cashier::Settings {
        mechanisms: config.nano.mechanisms.clone(),
        by_route: config.mechanisms.clone(),
        lifetime: config.challenge.lifetime,
        wait: config.settlement.wait,
        without_extra: config.x402.without_extra,
        pending_settlements: usize::try_from(config.limits.pending_settlements).unwrap_or(usize::MAX),
        per_client: ClientLimits {
            settlements: config.limits.per_client.settlements,
            lookups: config.limits.per_client.lookups,
        },
        per_caller: ClientLimits { settlements: per_caller.settlements, lookups: per_caller.lookups },
        routes: config.table.names().cloned().collect(),
        identifiers: cashier::IdentifierSettings {
            ids: config.payment_identifiers.keep,
            answers: config.payment_identifiers.keep_answers,
            largest_answer: usize::try_from(config.payment_identifiers.largest_answer).unwrap_or(usize::MAX),
        },
    }
}

/// What the listeners for clients ask of a connection.
fn door_rules(config: &Config) -> DoorRules {
    DoorRules {
        per_client: config.limits.per_client.connections,
        head_time: config.limits.head_time,
        idle: config.limits.idle_connection,
        proxies: config.listen.trusted_proxies.clone(),
        proxy_protocol: config.listen.proxy_protocol,
        h2c: config.listen.h2c,
    }
}

/// How many free requests may be at upstreams if the file does not say it: an eighth of the file
/// descriptors. Clients can take three quarters, and the rest is for what is paid, nodes and the operator.
fn free_forwards() -> usize {
    let eighth = listen::descriptors().map_or(u64::MAX, |all| all.div_euclid(8).max(1));
    usize::try_from(eighth).unwrap_or(usize::MAX)
}

/// What the gateway needs of `config`. Its upstreams are resolved, and watched while it is in use.
async fn tariff(
    config: &Config,
    mut tls: BTreeMap<UpstreamName, PeerSecurity>,
    rates: &Arc<Rates>,
) -> Tariff {
    let (watched, shutdown) = watch::channel(false);
    let mut upstreams = BTreeMap::new();
    for (name, settings) in &config.upstreams {
        upstreams.insert(
            name.clone(),
            Arc::new(Upstream::new(name.clone(), settings, tls.remove(name).unwrap_or_default())),
        );
    }
    join_all(upstreams.values().map(|it| it.begin())).await;
    for upstream in upstreams.values() {
        tokio::spawn(Arc::clone(upstream).watch(shutdown.clone()));
    }
    let documents = Documents::of(config);
    let names = config.table.routes().iter().map(|it| &it.name).chain([&documents.label]);
    Tariff {
        by_route: names.map(|it| (it.clone(), AtRoute::new(it.as_str()))).collect(),
        by_no_route: AtRoute::unmatched(),
        addresses: AddressTexts::default(),
        table: config.table.clone(),
        rates: Arc::clone(rates),
        unmatched: config.unmatched.clone(),
        public_url: config.public_url.clone(),
        upstreams,
        cors: config.cors.clone().map(|it| CorsPolicy { origins: it.origins, credentials: it.credentials }),
        preflight: config.preflight,
        refunds_at_least: config.refunds.at_least,
        challenge_lifetime: config.challenge.lifetime,
        rail_hint: config.x402.rail_hint.clone(),
        work: nodes::work_terms(&config.nano),
        limits: EdgeLimits {
            idle_connection: config.limits.idle_connection,
            body_idle: config.limits.body_idle,
            drained_body: config.limits.drained_body,
            unpaid_per_client: config.limits.per_client.unpaid,
            settlements_per_client: config.limits.per_client.settlements,
            free_forwards_per_client: config.limits.per_client.free_forwards,
            free_forwards: config.limits.free_forwards.unwrap_or_else(free_forwards),
            bills_per_client: config.limits.per_client.bills,
        },
        logged: config.logged_requests,
        proxies: config.listen.trusted_proxies.clone(),
        documents,
        bodies: BodyBudget::new(
            config.limits.bodies,
            config.limits.per_client.bodies,
            config.limits.body_time,
        ),
        watched,
    }
}

impl Services {
    /// Has the requests of gateways that are made after this logged to `out`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn log_requests_to(&mut self, out: impl io::Write + Send + 'static) -> io::Result<()> {
        self.access_log = AccessLog::to(out, Arc::clone(&self.metrics))?;
        Ok(())
    }

    /// The gateway, to serve on one listener or several.
    #[must_use]
    pub fn gateway(&self) -> RunningGateway {
        let (tariff, metrics) = (Arc::clone(&self.tariff), Arc::clone(&self.metrics));
        let (unpaid, rulebook) = (self.unpaid.clone(), self.rulebook.clone());
        let logs = (Arc::clone(&self.request_ids), self.access_log.clone(), self.traces.clone());
        Gateway::new(self.cashier.clone(), tariff, metrics, unpaid, rulebook, self.drains(), logs)
    }

    /// The keeper of the certificate that an authority gives, for a listener that shows `tls`.
    #[must_use]
    pub fn certificate_keeper(&self, tls: Tls, challenges: Challenges) -> Keeper {
        Keeper::new(tls, challenges, Arc::clone(&self.metrics), self.clock.clone(), Entropy::system())
    }

    /// The listener that sends clients to https and answers `challenges`.
    #[must_use]
    pub fn to_https(&self, challenges: Challenges) -> ToHttps {
        ToHttps::new(Arc::clone(&self.tariff), challenges, self.drains())
    }

    /// The door of the gateway's listeners.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// The door of the facilitator's listener. Its callers come without the PROXY protocol.
    #[must_use]
    pub fn facilitator_door(&self) -> Door {
        let rules = DoorRules { proxy_protocol: false, ..door_rules(&self.fixed) };
        Door::for_clients(rules, Arc::clone(&self.metrics))
    }

    /// The operator's listener.
    #[must_use]
    pub fn admin(&self) -> Admin<Engine> {
        let (cashier, ledger, store) =
            (self.cashier.clone(), Arc::clone(&self.ledger), Arc::clone(&self.store));
        let (metrics, tariff) = (Arc::clone(&self.metrics), Arc::clone(&self.tariff));
        let api = self.admin_token.clone().map(|token| {
            Api::new(token, self.orders.0.clone(), Arc::clone(&self.last_look), self.fixed.drain)
        });
        Admin::new(cashier, ledger, store, metrics, tariff, self.drains(), api)
    }

    /// What the admin API asks of the process. `None` if somebody has taken it.
    pub const fn take_orders(&mut self) -> Option<mpsc::Receiver<Order>> {
        self.orders.1.take()
    }

    /// From here on the operator's listener says that the gateway is not ready, and each answer ends its
    /// connection.
    pub fn drain(&self) {
        self.drains.send_replace(true);
    }

    /// Turns true with [`Services::drain`].
    #[must_use]
    pub fn drains(&self) -> StopSignal {
        self.drains.subscribe()
    }

    /// The listener for other servers; `None` if the configuration has none.
    #[must_use]
    pub fn facilitator(&self) -> Option<Facilitator<NodeLedger, Engine>> {
        self.fixed.facilitator.as_ref()?;
        let proxies = self.fixed.listen.trusted_proxies.clone();
        let (metrics, rates) = (Arc::clone(&self.metrics), Arc::clone(&self.rates));
        Some(Facilitator::new(self.cashier.clone(), metrics, rates, self.token.clone(), proxies))
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

    /// The capabilities; an operator can revoke one here.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities<Engine> {
        self.cashier.capabilities()
    }

    /// What [`Services::reload`] would do with `config`.
    ///
    /// # Errors
    /// [`UpstreamTlsError`].
    pub fn preview(&self, config: &Config) -> Result<Reloaded, UpstreamTlsError> {
        upstreams_tls(config)?;
        let mut needs_restart = reload::need_restart(&self.fixed, config);
        if reload::without_addresses(&mut config.mechanisms.clone(), &self.fixed.nano.in_use) {
            needs_restart.push("routes[].mechanisms");
        }
        Ok(Reloaded { changed: reload::changes(&self.applied.load(), config), needs_restart })
    }

    /// Applies a changed configuration: prices, upstreams, origins, mechanisms' order, times and limits.
    /// Gives the keys that changed and need a restart; those stay as they were.
    ///
    /// # Errors
    /// [`UpstreamTlsError`]; then everything stays as it was.
    pub async fn reload(&self, config: &Config) -> Result<Vec<&'static str>, UpstreamTlsError> {
        let tls = upstreams_tls(config)?;
        self.applied.store(Arc::new(config.clone()));
        let mut config = config.clone();
        let mut held_back = reload::need_restart(&self.fixed, &config);
        config.nano = self.fixed.nano.clone();
        config.facilitator = self.fixed.facilitator.clone();
        config.refunds = self.fixed.refunds;
        if reload::without_addresses(&mut config.mechanisms, &config.nano.in_use) {
            held_back.push("routes[].mechanisms");
        }
        self.cashier.configure(settings(&config));
        self.door.change(door_rules(&config));
        let tariff = tariff(&config, tls, &self.rates).await;
        begin_series(&self.metrics, &config, &tariff);
        // The source is read again in any case: an operator who has mended it does not want to wait.
        self.rates.configure(config.rates.clone()).await;
        self.tariff.store(Arc::new(tariff));
        self.metrics.configured();
        self.report_stranded(&config).await;
        Ok(held_back)
    }

    /// Logs and counts the grants that open no route of `config`.
    async fn report_stranded(&self, config: &Config) {
        match stranded(&self.store, &config.table, self.clock.now()).await {
            Ok(all) => {
                self.metrics.stranded(all.iter().fold(0, |sum, it| it.capabilities.saturating_add(sum)));
                for one in all {
                    tracing::warn!("{one}");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the grants that are out could not be compared with the routes")
            }
        }
    }

    /// Waits for settlements under way, `within` this time, and ends the background tasks. Call it after the
    /// listeners for clients have ended; the operator's may go on.
    pub async fn finish(&mut self, within: Duration) {
        let settled = async {
            while self.cashier.settling() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(within, settled).await.is_err() {
            let left = self.cashier.settling();
            tracing::warn!(left, "settlements cut off; the next start continues them from the journal");
        }
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("background tasks cut off");
        }
    }

    /// Closes the store. Call it after [`Services::finish`], and after all listeners have ended.
    pub async fn close(self) {
        self.store.close().await;
        tokio::join!(self.access_log.flush(), self.traces.flush());
    }

    /// Both, for callers that have no listener left.
    pub async fn stop(mut self) {
        self.finish(STOP_WITHIN).await;
        self.close().await;
    }
}
