//! `faregate serve`: runs the gateway. SIGTERM and SIGINT drain it, SIGHUP reloads its configuration.
//!
//! It ends in this order. It drains: it says that it is not ready, and accepts connections all the same until
//! balancers have seen that. The listeners for clients close. What is under way gets its time: answers, then
//! settlements. The operator's listener closes, and then the store.

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
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::arguments::ConfigArgs;
use super::failure::Failure;
use super::process;
use crate::admin::{Order, ReloadRefused, Reloaded};
use crate::assemble::{self, Services};
use crate::clock::{Clock, Stopwatch};
use crate::config::{Config, Drain, Faults};
use crate::listen::{self, Tls};
use crate::shutdown::{Shutdown, StopSignal};
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

/// The listeners of a configuration; each is a [`Socket`] first and then a [`TcpListener`].
struct Listeners<T> {
    http: Option<T>,
    tls: Option<(T, Tls)>,
    admin: Option<T>,
    facilitator: Option<T>,
}

impl Listeners<Socket> {
    /// Binds what systemd has not handed over.
    async fn bind(config: &Config, mut handed_over: HandedOver) -> Result<Self, Failure> {
        let tls = config.listen.tls.as_ref().map(|it| {
            let tls = Tls::load(&it.certificate, &it.key);
            tls.map_err(|error| Failure::Config(format!("`listen.tls.{}`: {error}", error.key())))
        });
        let tls = tls.transpose()?;
        let mut socket = async |name, address| match address {
            None => Ok(None),
            Some(address) => {
                Socket::of(name, address, config.listen.reuse_port, &mut handed_over).await.map(Some)
            }
        };
        let http = socket(Name::Http, config.listen.http).await?;
        let secured = socket(Name::Tls, config.listen.tls.as_ref().map(|it| it.address)).await?;
        let admin = socket(Name::Admin, config.admin).await?;
        let facilitator = socket(Name::Facilitator, config.facilitator.as_ref().map(|it| it.address)).await?;
        handed_over.all_taken()?;
        Ok(Self { http, tls: secured.zip(tls), admin, facilitator })
    }

    /// From where new connections can be led to another process.
    fn others(&self) -> Others {
        let secured = self.tls.as_ref().map(|(socket, _)| socket);
        let all = [self.http.as_ref(), secured, self.admin.as_ref(), self.facilitator.as_ref()];
        Others(all.into_iter().flatten().filter_map(Socket::for_others).collect())
    }

    /// Listens. Clients may connect from here on, and wait until they are served.
    fn listen(self) -> Result<Listeners<TcpListener>, Failure> {
        Ok(Listeners {
            http: self.http.map(Socket::listen).transpose()?,
            tls: self.tls.map(|(socket, tls)| Ok::<_, Failure>((socket.listen()?, tls))).transpose()?,
            admin: self.admin.map(Socket::listen).transpose()?,
            facilitator: self.facilitator.map(Socket::listen).transpose()?,
        })
    }
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
    let bound = Listeners::bind(&config, handed_over).await?;
    let tls = bound.tls.as_ref().map(|(_, tls)| tls.clone());
    let drain = config.drain;
    let mut services = assemble::assemble(config, Clock::system()).await?;
    services.log_requests_to(standard_output()?).map_err(Failure::Threads)?;
    if let Some(tls) = &tls {
        services.metrics().certificate_expires(tls.expires_at());
    }
    let ((close, closes), (end, ends)) = (watch::channel(false), watch::channel(false));
    let patience = drain.delay.clamp(LEAST_PATIENCE, MOST_PATIENCE);
    let shutdown = Shutdown { drains: services.drains(), closes, patience, grace: drain.grace };
    let others = bound.others();
    let mut orders = services.take_orders();
    let (mut for_clients, mut for_operator) = listen(&services, bound.listen()?, &shutdown, ends);
    systemd::ready();
    let watchdog = systemd::feed_watchdog();
    loop {
        tokio::select! {
            () = either(&mut signals.terminate, &mut signals.interrupt) => break,
            _ = signals.hangup.recv() => {
                systemd::reloading();
                let _logged = reload(file, &services, tls.as_ref(), false).await.is_ok();
                systemd::ready();
            }
            order = next(&mut orders) => {
                if obey(order, file, &services, tls.as_ref()).await {
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
    close.send_replace(true);
    let closed = Stopwatch::start();
    while for_clients.join_next().await.is_some() {}
    services.finish(drain.grace.saturating_sub(closed.elapsed())).await;
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
    bound: Listeners<TcpListener>,
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
    let at =
        |listener: &TcpListener| listener.local_addr().map_or_else(|_| "?".to_owned(), |it| it.to_string());
    let behind = |listener, tls| {
        listen::serve_behind(services.door(), listener, tls, Arc::clone(&proxy), shutdown.clone())
    };
    if let Some(listener) = bound.http {
        tracing::info!(address = at(&listener), "listening");
        for_clients.spawn(behind(listener, None));
    }
    if let Some((listener, tls)) = bound.tls {
        tracing::info!(address = at(&listener), "listening, TLS");
        for_clients.spawn(behind(listener, Some(tls)));
    }
    if let Some(listener) = bound.admin {
        tracing::info!(address = at(&listener), "listening, admin");
        let admin = Arc::new(HttpServer::new_app(services.admin()));
        for_operator.spawn(listen::serve(listener, admin, ends));
    }
    if let (Some(listener), Some(facilitator)) = (bound.facilitator, services.facilitator()) {
        tracing::info!(address = at(&listener), "listening, facilitator");
        let (door, app) = (services.facilitator_door(), Arc::new(facilitator));
        for_clients.spawn(listen::serve_behind(door, listener, None, app, shutdown.clone()));
    }
    (for_clients, for_operator)
}

/// Obeys an order of the admin API. Gives whether the gateway is to end.
async fn obey(order: Order, file: &ConfigArgs, services: &Services, tls: Option<&Tls>) -> bool {
    match order {
        Order::Drain => true,
        Order::Reload { dry_run, outcome } => {
            systemd::reloading();
            let reloaded = reload(file, services, tls, dry_run).await;
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
    tls: Option<&Tls>,
    dry_run: bool,
) -> Result<Reloaded, ReloadRefused> {
    let reloaded = if dry_run {
        prepare(file, services, tls).map(|prepared| prepared.reloaded)
    } else {
        apply(file, services, tls).await
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
    /// The certificate in use, and the one that takes its place.
    renewed: Option<(&'a Tls, Tls)>,
    reloaded: Reloaded,
}

fn prepare<'a>(
    file: &ConfigArgs,
    services: &Services,
    tls: Option<&'a Tls>,
) -> Result<Prepared<'a>, ReloadRefused> {
    let because = |reason: String| ReloadRefused { reason, faults: Vec::new() };
    let config = load(file)
        .map_err(|error| ReloadRefused { faults: error.faults.clone(), ..because(error.to_string()) })?;
    let files = tls.zip(config.listen.tls.as_ref());
    let renewed = files.map(|(tls, files)| Tls::load(&files.certificate, &files.key).map(|it| (tls, it)));
    let renewed = renewed.transpose().map_err(|error| because(error.to_string()))?;
    let reloaded = services.preview(&config).map_err(|error| because(error.to_string()))?;
    Ok(Prepared { config, renewed, reloaded })
}

async fn apply(file: &ConfigArgs, services: &Services, tls: Option<&Tls>) -> Result<Reloaded, ReloadRefused> {
    let Prepared { config, renewed, mut reloaded } = prepare(file, services, tls)?;
    let applied = services.reload(&config).await;
    reloaded.needs_restart =
        applied.map_err(|error| ReloadRefused { reason: error.to_string(), faults: Vec::new() })?;
    if let Some((tls, renewed)) = renewed {
        tls.replace(&renewed);
        services.metrics().certificate_expires(tls.expires_at());
    }
    Ok(reloaded)
}
