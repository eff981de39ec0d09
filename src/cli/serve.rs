//! `faregate serve`: runs the gateway. SIGTERM and SIGINT drain it, SIGHUP reloads its configuration.
//!
//! It ends in this order. It drains: it says that it is not ready, and accepts connections all the same until
//! balancers have seen that. The listeners for clients close. What is under way gets its time: answers, then
//! settlements. The operator's listener closes, and then the store.

mod socket_file;
mod sockets;
mod systemd;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pingora::apps::http_app::HttpServer;
use pingora::server::configuration::ServerConf;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::arguments::ConfigArgs;
use super::failure::Failure;
use super::process;
use crate::admin::{Order, ReloadRefused, Reloaded};
use crate::assemble::{self, Services, listener_tls, shared_names};
use crate::clock::{Clock, Stopwatch};
use crate::config::{AcmeConfig, Config, Drain, Faults, TlsListener};
use crate::listen::{self, Challenges, ListenAddress, Listener, Tls};
use crate::shutdown::{Shutdown, StopSignal};
use socket_file::SocketFile;
use sockets::{HandedOver, Name, Others, Socket};

/// How long after its begin a connection is waited for whose first request has not come when the listeners close:
/// as long as the delay, within these bounds.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
const MOST_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// The signals that the process obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// The listeners of a configuration; each is a [`Socket`] first and then a [`Listener`].
struct Listeners<T> {
    http: Vec<T>,
    tls: Vec<T>,
    redirect: Vec<T>,
    admin: Vec<T>,
    facilitator: Vec<T>,
}

/// The files of Unix sockets, which go when the listeners close.
#[derive(Default)]
struct SocketFiles {
    for_clients: Vec<SocketFile>,
    for_operator: Vec<SocketFile>,
}

impl Listeners<Socket> {
    /// Binds what systemd has not handed over.
    async fn bind(config: &Config, mut handed_over: HandedOver) -> Result<Self, Failure> {
        let mut bind = async |name, addresses: &[ListenAddress]| {
            sockets::of(name, addresses, config.listen.reuse_port, &mut handed_over).await
        };
        let tls = config.listen.tls.as_ref().map(|it| it.addresses.as_slice());
        let facilitator = config.facilitator.as_ref().map(|it| it.addresses.as_slice());
        let bound = Self {
            http: bind(Name::Http, &config.listen.http).await?,
            tls: bind(Name::Tls, tls.unwrap_or_default()).await?,
            redirect: bind(Name::Redirect, &config.listen.redirect).await?,
            admin: bind(Name::Admin, &config.admin).await?,
            facilitator: bind(Name::Facilitator, facilitator.unwrap_or_default()).await?,
        };
        handed_over.all_taken()?;
        Ok(bound)
    }

    /// From where new connections can be led to another process.
    fn others(&self) -> Others {
        let Self { http, tls, redirect, admin, facilitator } = self;
        let all = [http, tls, redirect, admin, facilitator];
        Others(all.into_iter().flatten().filter_map(Socket::for_others).collect())
    }

    /// Listens. Clients may connect from here on, and wait until they are served.
    async fn listen(self) -> Result<(Listeners<Listener>, SocketFiles), Failure> {
        let mut files = SocketFiles::default();
        let listeners = Listeners {
            http: listen_all(self.http, &mut files.for_clients).await?,
            tls: listen_all(self.tls, &mut files.for_clients).await?,
            redirect: listen_all(self.redirect, &mut files.for_clients).await?,
            admin: listen_all(self.admin, &mut files.for_operator).await?,
            facilitator: listen_all(self.facilitator, &mut files.for_clients).await?,
        };
        Ok((listeners, files))
    }
}

async fn listen_all(sockets: Vec<Socket>, files: &mut Vec<SocketFile>) -> Result<Vec<Listener>, Failure> {
    let mut listeners = Vec::new();
    for socket in sockets {
        let (listener, file) = socket.listen().await?;
        listeners.push(listener);
        files.extend(file);
    }
    Ok(listeners)
}

/// What the listener that speaks TLS shows, and what it is told of an authority.
struct Secured {
    tls: Tls,
    challenges: Challenges,
    /// The authority, as the configuration has it. Sent again with each reload.
    authority: watch::Sender<Option<AcmeConfig>>,
}

impl Secured {
    fn load(listener: &TlsListener, challenges: &Challenges) -> Result<Self, Failure> {
        let tls = load_tls(listener, challenges).map_err(Failure::Config)?;
        Ok(Self { tls, challenges: challenges.clone(), authority: watch::Sender::new(listener.acme.clone()) })
    }
}

/// Reads the certificates, and logs what is odd about them.
fn load_tls(listener: &TlsListener, challenges: &Challenges) -> Result<Tls, String> {
    let (tls, unusable) = listener_tls(listener, challenges).map_err(|error| error.to_string())?;
    for shared in shared_names(listener, &tls) {
        tracing::warn!("{shared}");
    }
    if let Some(error) = unusable {
        tracing::warn!(%error, "the certificate of `listen.tls.acme` cannot be used; another is ordered");
    } else if listener.acme.is_some() && tls.managed().is_none() {
        tracing::warn!("there is no certificate of `listen.tls.acme` yet; one is ordered");
    }
    Ok(tls)
}

/// Runs the gateway until SIGTERM or SIGINT, on as many threads as its configuration says.
///
/// # Errors
/// [`Failure`]: the configuration has faults, an address is in use, or something that the gateway
/// needs cannot be opened.
pub fn run(args: &ServeArgs) -> Result<ExitCode, Failure> {
    let config = load(&args.config)?;
    // Before there are threads.
    let handed_over = HandedOver::take()?;
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    if let Some(count) = config.limits.threads {
        threads.worker_threads(count);
    }
    let runtime = threads.enable_all().build().map_err(Failure::Threads)?;
    runtime.block_on(serve(&args.config, config, handed_over))
}

async fn serve(file: &ConfigArgs, config: Config, handed_over: HandedOver) -> Result<ExitCode, Failure> {
    // First, so that a signal during the start is not missed.
    let mut signals = Signals::catch().map_err(Failure::Signals)?;
    match process::raise_descriptors() {
        Ok(descriptors) => {
            let threads = tokio::runtime::Handle::current().metrics().num_workers();
            tracing::info!(descriptors, threads, "file descriptors and threads");
        }
        Err(error) => tracing::warn!(%error, "the limit of file descriptors cannot be raised"),
    }
    let challenges = Challenges::default();
    let secured = config.listen.tls.as_ref().map(|it| Secured::load(it, &challenges)).transpose()?;
    let bound = Listeners::bind(&config, handed_over).await?;
    let drain = config.drain;
    let mut services = assemble::assemble(config, Clock::system()).await?;
    services.log_requests_to(standard_output()?).map_err(Failure::Threads)?;
    let ((close, closes), (end, ends)) = (watch::channel(false), watch::channel(false));
    let patience = drain.delay.clamp(LEAST_PATIENCE, MOST_PATIENCE);
    let shutdown = Shutdown { drains: services.drains(), closes, patience, grace: drain.grace };
    let others = bound.others();
    let mut orders = services.take_orders();
    let (listeners, files) = bound.listen().await?;
    let (mut for_clients, mut for_operator) =
        listen(&services, listeners, secured.as_ref(), &challenges, &shutdown, ends);
    if let Some(secured) = &secured {
        services.metrics().certificate_expires(secured.tls.expires_at());
        let keeper = services.certificate_keeper(secured.tls.clone(), challenges);
        for_clients.spawn(keeper.keep(secured.authority.subscribe(), shutdown.closes.clone()));
    }
    systemd::ready();
    let watchdog = systemd::feed_watchdog();
    loop {
        tokio::select! {
            () = either(&mut signals.terminate, &mut signals.interrupt) => break,
            _ = signals.hangup.recv() => {
                systemd::reloading();
                let _logged = reload(file, &services, secured.as_ref(), false).await.is_ok();
                systemd::ready();
            }
            order = next(&mut orders) => {
                if obey(order, file, &services, secured.as_ref()).await {
                    break;
                }
            }
        }
    }
    // Whoever orders something from here on is told that it is ending.
    drop(orders);
    systemd::stopping();
    services.drain();
    others.take_over();
    delay(drain, &mut signals).await;
    drop(files.for_clients);
    close.send_replace(true);
    let closed = Stopwatch::start();
    while for_clients.join_next().await.is_some() {}
    services.finish(drain.grace.saturating_sub(closed.elapsed())).await;
    drop(files.for_operator);
    end.send_replace(true);
    while for_operator.join_next().await.is_some() {}
    services.close().await;
    drop(watchdog);
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

/// Returns with the next of either signal.
async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Returns when the listeners are to close: once balancers have had their time, or somebody is in a hurry.
async fn delay(drain: Drain, signals: &mut Signals) {
    let (delay_ms, grace_ms) = (drain.delay.as_millis(), drain.grace.as_millis());
    tracing::info!(
        delay_ms,
        grace_ms,
        "draining: not ready, and connections are accepted until the delay is over"
    );
    let over = sleep(drain.delay);
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            () = &mut over => break,
            () = either(&mut signals.terminate, &mut signals.interrupt) => {
                tracing::info!("a second signal ends the delay");
                break;
            }
            _ = signals.hangup.recv() => tracing::warn!("not reloaded: the gateway is ending"),
        }
    }
    tracing::info!("ending: no new connections are accepted, requests under way are finished");
}

/// Standard output, for whole lines that nothing holds back.
fn standard_output() -> Result<File, Failure> {
    let copied = io::stdout().as_fd().try_clone_to_owned();
    let failed = |error| Failure::Unavailable(format!("standard output cannot be opened: {error}"));
    copied.map(File::from).map_err(failed)
}

fn load(file: &ConfigArgs) -> Result<Config, Faults> {
    let config = file.load()?;
    for warning in &config.warnings {
        tracing::warn!("{}", warning.about(&file.path().display().to_string()));
    }
    Ok(config)
}

/// Serves every listener that is bound: those for clients, and the operator's, which `ends` ends.
fn listen(
    services: &Services,
    bound: Listeners<Listener>,
    secured: Option<&Secured>,
    challenges: &Challenges,
    shutdown: &Shutdown,
    ends: StopSignal,
) -> (JoinSet<()>, JoinSet<()>) {
    let (mut for_clients, mut for_operator) = (JoinSet::new(), JoinSet::new());
    let mut conf = ServerConf::default();
    // Idle connections to upstreams are among the descriptors that are kept from clients.
    let most = listen::descriptors().and_then(|all| usize::try_from(all.div_euclid(16)).ok());
    conf.upstream_keepalive_pool_size = conf.upstream_keepalive_pool_size.min(most.unwrap_or(usize::MAX));
    let conf = Arc::new(conf);
    let proxy = Arc::new(pingora::proxy::http_proxy(&conf, services.gateway()));
    let at = |listener: &Listener| listener.address().map_or_else(|_| "?".to_owned(), |it| it.to_string());
    let behind = |listener, tls| {
        listen::serve_behind(services.door(), listener, tls, Arc::clone(&proxy), shutdown.clone())
    };
    for listener in bound.http {
        tracing::info!(address = at(&listener), "listening");
        for_clients.spawn(behind(listener, None));
    }
    for listener in bound.tls {
        tracing::info!(address = at(&listener), "listening, TLS");
        for_clients.spawn(behind(listener, secured.map(|it| it.tls.clone())));
    }
    let to_https = Arc::new(HttpServer::new_app(services.to_https(challenges.clone())));
    for listener in bound.redirect {
        tracing::info!(address = at(&listener), "listening, redirects to https");
        let (door, app) = (services.door(), Arc::clone(&to_https));
        for_clients.spawn(listen::serve_behind(door, listener, None, app, shutdown.clone()));
    }
    let admin = Arc::new(HttpServer::new_app(services.admin()));
    for listener in bound.admin {
        tracing::info!(address = at(&listener), "listening, admin");
        for_operator.spawn(listen::serve(listener, Arc::clone(&admin), ends.clone()));
    }
    if let Some(facilitator) = services.facilitator().map(Arc::new) {
        let door = services.facilitator_door();
        for listener in bound.facilitator {
            tracing::info!(address = at(&listener), "listening, facilitator");
            let (door, app) = (door.clone(), Arc::clone(&facilitator));
            for_clients.spawn(listen::serve_behind(door, listener, None, app, shutdown.clone()));
        }
    }
    (for_clients, for_operator)
}

/// Obeys an order of the admin API. Gives whether the gateway is to end.
async fn obey(order: Order, file: &ConfigArgs, services: &Services, secured: Option<&Secured>) -> bool {
    match order {
        Order::Drain => true,
        Order::Reload { dry_run, outcome } => {
            systemd::reloading();
            let reloaded = reload(file, services, secured, dry_run).await;
            systemd::ready();
            // Who asked may have gone. It is logged.
            let _told = outcome.send(reloaded).is_ok();
            false
        }
    }
}

/// The next order; never, if there are none.
async fn next(orders: &mut Option<mpsc::Receiver<Order>>) -> Order {
    match orders {
        Some(orders) => match orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Applies the file as it is now, or leaves everything as it was and logs why. If this is a `dry_run`, nothing is
/// applied.
async fn reload(
    file: &ConfigArgs,
    services: &Services,
    secured: Option<&Secured>,
    dry_run: bool,
) -> Result<Reloaded, ReloadRefused> {
    let reloaded = if dry_run {
        prepare(file, services, secured).map(|prepared| prepared.reloaded)
    } else {
        apply(file, services, secured).await
    };
    match &reloaded {
        _ if dry_run => {}
        Err(refused) => {
            services.metrics().reload_failed();
            tracing::error!("not reloaded, the old configuration stays in use:\n{}", refused.reason);
        }
        Ok(Reloaded { needs_restart, .. }) if needs_restart.is_empty() => {
            tracing::info!("configuration reloaded");
        }
        Ok(Reloaded { needs_restart, .. }) => {
            tracing::warn!(?needs_restart, "configuration reloaded, except for what needs a restart");
        }
    }
    reloaded
}

/// A configuration that can be applied.
struct Prepared<'a> {
    config: Config,
    renewed: Option<Renewed<'a>>,
    reloaded: Reloaded,
}

/// What a listener shows, and what takes its place.
struct Renewed<'a> {
    own: &'a Secured,
    tls: Tls,
    authority: Option<AcmeConfig>,
}

fn prepare<'a>(
    file: &ConfigArgs,
    services: &Services,
    secured: Option<&'a Secured>,
) -> Result<Prepared<'a>, ReloadRefused> {
    let because = |reason: String| ReloadRefused { reason, faults: Vec::new() };
    let config = load(file)
        .map_err(|error| ReloadRefused { faults: error.faults.clone(), ..because(error.to_string()) })?;
    let listener = secured.zip(config.listen.tls.as_ref());
    let renewed = listener.map(|(own, it)| {
        let tls = load_tls(it, &own.challenges)?;
        Ok(Renewed { own, tls, authority: it.acme.clone() })
    });
    let renewed = renewed.transpose().map_err(because)?;
    let reloaded = services.preview(&config).map_err(|error| because(error.to_string()))?;
    Ok(Prepared { config, renewed, reloaded })
}

async fn apply(
    file: &ConfigArgs,
    services: &Services,
    secured: Option<&Secured>,
) -> Result<Reloaded, ReloadRefused> {
    let Prepared { config, renewed, mut reloaded } = prepare(file, services, secured)?;
    let applied = services.reload(&config).await;
    reloaded.needs_restart =
        applied.map_err(|error| ReloadRefused { reason: error.to_string(), faults: Vec::new() })?;
    if let Some(Renewed { own, tls, authority }) = renewed {
        if let Err(error) = own.tls.replace(&tls) {
            tracing::error!(%error, "the certificates stay as they were");
        }
        services.metrics().certificate_expires(own.tls.expires_at());
        own.authority.send_replace(authority);
    }
    Ok(reloaded)
}
