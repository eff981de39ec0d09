//! `faregate serve`: the gateway. SIGTERM and SIGINT drain it, SIGHUP reloads its configuration.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use pingora::apps::http_app::HttpServer;
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{EX_CONFIG, EX_UNAVAILABLE, complain};
use crate::assemble::{self, AssembleError, Services};
use crate::clock::Clock;
use crate::config::{Config, Faults};
use crate::listen::{self, Tls, TlsError};
use crate::shutdown::StopSignal;

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Faults(Faults),
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(
        "`{key}`: cannot listen on {address}: {error}; is it in use, or are ports below 1024 not allowed to this user?"
    )]
    Bind { key: &'static str, address: SocketAddr, error: io::Error },
    #[error("`listen.tls`: {0}")]
    Tls(#[from] TlsError),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

/// Runs the gateway until it is told to end.
pub async fn run(args: ServeArgs) -> ExitCode {
    match serve(&args.config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(match error {
                ServeError::Faults(_) | ServeError::Assemble(_) | ServeError::Tls(_) => EX_CONFIG,
                ServeError::Bind { .. } | ServeError::Signals(_) => EX_UNAVAILABLE,
            })
        }
    }
}

/// What the process is told by signals.
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
struct Bound {
    http: Option<TcpListener>,
    tls: Option<(TcpListener, Tls)>,
    admin: Option<TcpListener>,
    facilitator: Option<TcpListener>,
}

impl Bound {
    async fn bind(config: &Config) -> Result<Self, ServeError> {
        let http = match config.listen.http {
            Some(address) => Some(bind("listen.http", address).await?),
            None => None,
        };
        let tls = match &config.listen.tls {
            Some(it) => {
                let tls = Tls::load(&it.certificate, &it.key)?;
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

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Bind { key, address, error })
}

async fn serve(path: &Path) -> Result<(), ServeError> {
    // First, so that a signal during the start is not missed.
    let mut signals = Signals::catch().map_err(ServeError::Signals)?;
    let config = load(path)?;
    let bound = Bound::bind(&config).await?;
    let tls = bound.tls.as_ref().map(|(_, tls)| tls.clone());
    let services = assemble::assemble(config, Clock::system()).await?;
    let (stop, shutdown) = watch::channel(false);
    let mut listeners = listen(&services, bound, &shutdown);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => reload(path, &services, tls.as_ref()).await,
        }
    }
    tracing::info!("ending: no new connections, requests under way are finished");
    stop.send_replace(true);
    while listeners.join_next().await.is_some() {}
    services.stop().await;
    tracing::info!("ended");
    Ok(())
}

fn load(path: &Path) -> Result<Config, ServeError> {
    let config = Config::load(path).map_err(ServeError::Faults)?;
    for warning in &config.warnings {
        tracing::warn!("{}", warning.about(&path.display().to_string()));
    }
    Ok(config)
}

/// Serves every listener that is bound.
fn listen(services: &Services, bound: Bound, shutdown: &StopSignal) -> JoinSet<()> {
    let mut listeners = JoinSet::new();
    let conf = Arc::new(ServerConf::default());
    let proxy = Arc::new(pingora::proxy::http_proxy(&conf, services.gateway()));
    let at =
        |listener: &TcpListener| listener.local_addr().map_or_else(|_| "?".to_owned(), |it| it.to_string());
    if let Some(listener) = bound.http {
        tracing::info!(address = at(&listener), "listening");
        listeners.spawn(listen::serve(listener, Arc::clone(&proxy), shutdown.clone()));
    }
    if let Some((listener, tls)) = bound.tls {
        tracing::info!(address = at(&listener), "listening, TLS");
        listeners.spawn(listen::serve_tls(listener, tls, proxy, shutdown.clone()));
    }
    if let Some(listener) = bound.admin {
        tracing::info!(address = at(&listener), "listening, admin");
        let admin = Arc::new(HttpServer::new_app(services.admin()));
        listeners.spawn(listen::serve(listener, admin, shutdown.clone()));
    }
    if let (Some(listener), Some(facilitator)) = (bound.facilitator, services.facilitator()) {
        tracing::info!(address = at(&listener), "listening, facilitator");
        listeners.spawn(listen::serve(listener, Arc::new(facilitator), shutdown.clone()));
    }
    listeners
}

/// Takes over the file as it is now, or leaves everything as it was and says why.
async fn reload(path: &Path, services: &Services, tls: Option<&Tls>) {
    let config = match load(path) {
        Ok(config) => config,
        Err(error) => {
            services.metrics().reload_failed();
            tracing::error!("not reloaded, the old configuration stays:\n{error}");
            return;
        }
    };
    if let (Some(tls), Some(files)) = (tls, &config.listen.tls)
        && let Err(error) = tls.reload(&files.certificate, &files.key)
    {
        services.metrics().reload_failed();
        tracing::error!(%error, "the certificate was not reloaded, the old one stays");
    }
    let held_back = services.reload(&config).await;
    if held_back.is_empty() {
        tracing::info!("configuration reloaded");
    } else {
        tracing::warn!(needs_restart = ?held_back, "configuration reloaded but for what needs a restart");
    }
}
