//! `faregate serve`: runs the gateway. SIGTERM and SIGINT drain it, SIGHUP reloads its configuration.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use pingora::apps::http_app::HttpServer;
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::arguments::ConfigArgs;
use super::failure::Failure;
use super::process;
use crate::assemble::{self, Services};
use crate::clock::Clock;
use crate::config::{Config, Faults};
use crate::listen::{self, Tls};
use crate::shutdown::StopSignal;

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

/// The listeners of a configuration, bound.
struct BoundListeners {
    http: Option<TcpListener>,
    tls: Option<(TcpListener, Tls)>,
    admin: Option<TcpListener>,
    facilitator: Option<TcpListener>,
}

impl BoundListeners {
    async fn bind(config: &Config) -> Result<Self, Failure> {
        let http = match config.listen.http {
            Some(address) => Some(bind("listen.http", address).await?),
            None => None,
        };
        let tls = match &config.listen.tls {
            Some(it) => {
                let tls = Tls::load(&it.certificate, &it.key)
                    .map_err(|error| Failure::Config(format!("`listen.tls.{}`: {error}", error.key())))?;
                Some((bind("listen.tls.address", it.address).await?, tls))
            }
            None => None,
        };
        let admin = match config.admin {
            Some(address) => Some(bind("admin.listen", address).await?),
            None => None,
        };
        let facilitator = match &config.facilitator {
            Some(it) => Some(bind("facilitator.listen", it.address).await?),
            None => None,
        };
        Ok(Self { http, tls, admin, facilitator })
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::Unavailable(format!(
            "`{key}`: cannot listen on {address}: {error}; is it in use, or may this user not use ports \
             below 1024?"
        ))
    })
}

/// Runs the gateway until SIGTERM or SIGINT, on as many threads as its configuration says.
///
/// # Errors
/// [`Failure`]: the configuration has faults, an address is in use, or something that the gateway
/// needs cannot be opened.
pub fn run(args: &ServeArgs) -> Result<ExitCode, Failure> {
    let config = load(&args.config)?;
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    if let Some(count) = config.limits.threads {
        threads.worker_threads(count);
    }
    let runtime = threads.enable_all().build().map_err(Failure::Threads)?;
    runtime.block_on(serve(&args.config, config))
}

async fn serve(file: &ConfigArgs, config: Config) -> Result<ExitCode, Failure> {
    // First, so that a signal during the start is not missed.
    let mut signals = Signals::catch().map_err(Failure::Signals)?;
    match process::raise_descriptors() {
        Ok(descriptors) => {
            let threads = tokio::runtime::Handle::current().metrics().num_workers();
            tracing::info!(descriptors, threads, "file descriptors and threads");
        }
        Err(error) => tracing::warn!(%error, "the limit of file descriptors cannot be raised"),
    }
    let bound = BoundListeners::bind(&config).await?;
    let tls = bound.tls.as_ref().map(|(_, tls)| tls.clone());
    let mut services = assemble::assemble(config, Clock::system()).await?;
    services.log_requests_to(standard_output()?).map_err(Failure::Threads)?;
    if let Some(tls) = &tls {
        services.metrics().certificate_expires(tls.expires_at());
    }
    let (stop, shutdown) = watch::channel(false);
    let mut listeners = listen(&services, bound, &shutdown);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => reload(file, &services, tls.as_ref()).await,
        }
    }
    tracing::info!("ending: no new connections are accepted, requests under way are finished");
    stop.send_replace(true);
    while listeners.join_next().await.is_some() {}
    services.stop().await;
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
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

/// Serves every listener that is bound.
fn listen(services: &Services, bound: BoundListeners, shutdown: &StopSignal) -> JoinSet<()> {
    let mut listeners = JoinSet::new();
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
        listeners.spawn(behind(listener, None));
    }
    if let Some((listener, tls)) = bound.tls {
        tracing::info!(address = at(&listener), "listening, TLS");
        listeners.spawn(behind(listener, Some(tls)));
    }
    if let Some(listener) = bound.admin {
        tracing::info!(address = at(&listener), "listening, admin");
        let admin = Arc::new(HttpServer::new_app(services.admin()));
        listeners.spawn(listen::serve(listener, admin, shutdown.clone()));
    }
    if let (Some(listener), Some(facilitator)) = (bound.facilitator, services.facilitator()) {
        tracing::info!(address = at(&listener), "listening, facilitator");
        let (door, app) = (services.facilitator_door(), Arc::new(facilitator));
        listeners.spawn(listen::serve_behind(door, listener, None, app, shutdown.clone()));
    }
    listeners
}

/// Applies the file as it is now, or leaves everything as it was and logs why.
async fn reload(file: &ConfigArgs, services: &Services, tls: Option<&Tls>) {
    let config = match load(file) {
        Ok(config) => config,
        Err(error) => {
            services.metrics().reload_failed();
            tracing::error!("not reloaded, the old configuration stays in use:\n{error}");
            return;
        }
    };
    let files = tls.zip(config.listen.tls.as_ref());
    let renewed = files.map(|(tls, files)| Tls::load(&files.certificate, &files.key).map(|it| (tls, it)));
    let renewed = match renewed.transpose() {
        Ok(renewed) => renewed,
        Err(error) => {
            services.metrics().reload_failed();
            tracing::error!(%error, "not reloaded, the old configuration stays in use");
            return;
        }
    };
    let held_back = match services.reload(&config).await {
        Ok(held_back) => held_back,
        Err(error) => {
            services.metrics().reload_failed();
            tracing::error!(%error, "not reloaded, the old configuration stays in use");
            return;
        }
    };
    if let Some((tls, renewed)) = renewed {
        tls.replace(&renewed);
        services.metrics().certificate_expires(tls.expires_at());
    }
    if held_back.is_empty() {
        tracing::info!("configuration reloaded");
    } else {
        tracing::warn!(needs_restart = ?held_back, "configuration reloaded, except for what needs a restart");
    }
}
