//! An upstream: its addresses, which of them are healthy, and how it is spoken to.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::{HealthCheck, HttpHealthCheck};
use pingora::lb::selection::RoundRobin;
use pingora::lb::{Backend, Backends, LoadBalancer};
use pingora::prelude::{Error, ErrorType, HttpPeer, Result};
use pingora::protocols::l4::socket::SocketAddr;

use crate::config::{self, HostHeader, UpstreamUrl};
use crate::shutdown::{self, StopSignal};

/// Addresses tried for one selection before all count as unhealthy.
const SELECT_TRIES: usize = 64;
/// How often host names are looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How long an idle connection to the upstream is kept.
const IDLE: Duration = Duration::from_secs(30);

/// One upstream of the configuration, ready to be spoken to.
pub struct Upstream {
    balancer: LoadBalancer<RoundRobin>,
    settings: config::UpstreamConfig,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The URL that an address was looked up for.
#[derive(Clone, Debug)]
struct Of(UpstreamUrl);

/// Looks up the hosts of the URLs.
struct HostNames(Vec<UpstreamUrl>);

#[async_trait]
impl ServiceDiscovery for HostNames {
    async fn discover(&self) -> Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut found = BTreeSet::new();
        for url in &self.0 {
            let name = (url.host.as_str(), url.port);
            match tokio::net::lookup_host(name).await {
                Ok(addresses) => found.extend(addresses.map(|address| backend(address, url))),
                Err(error) => tracing::warn!(host = %url.host, %error, "the upstream's name is not known"),
            }
        }
        if found.is_empty() {
            return Error::e_explain(ErrorType::ConnectError, "no upstream name could be looked up");
        }
        Ok((found, HashMap::new()))
    }
}

fn backend(address: std::net::SocketAddr, url: &UpstreamUrl) -> Backend {
    let mut backend = Backend { addr: SocketAddr::Inet(address), weight: 1, ext: http::Extensions::new() };
    drop(backend.ext.insert(Of(url.clone())));
    backend
}

impl Upstream {
    /// The upstream as configured. It has no address until [`Upstream::refresh`] finds some.
    #[must_use]
    pub fn new(settings: &config::UpstreamConfig) -> Self {
        let mut backends = Backends::new(Box::new(HostNames(settings.urls.clone())));
        if let Some(health) = &settings.health {
            backends.set_health_check(Box::new(Checks::new(health, &settings.urls)));
        }
        Self { balancer: LoadBalancer::from_backends(backends), settings: settings.clone() }
    }

    /// Looks the host names up. Without an answer the known addresses stay.
    pub async fn refresh(&self) {
        if let Err(error) = self.balancer.update().await {
            tracing::warn!(%error, "the upstream's addresses were not refreshed");
        }
    }

    /// Looks names up again and checks health until `shutdown` turns true.
    pub async fn watch(&self, mut shutdown: StopSignal) {
        let mut names = tokio::time::interval(RESOLVE_EVERY);
        let every = self.settings.health.as_ref().map_or(RESOLVE_EVERY, |it| it.every);
        let mut checks = tokio::time::interval(every);
        loop {
            tokio::select! {
                _ = names.tick() => self.refresh().await,
                _ = checks.tick() => self.balancer.backends().run_health_check(true).await,
                () = shutdown::asked_for(&mut shutdown) => return,
            }
        }
    }

    /// As it is configured.
    pub(super) const fn settings(&self) -> &config::UpstreamConfig {
        &self.settings
    }

    /// How many addresses there are to try.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.balancer.backends().get_backend().len()
    }

    /// The next healthy address that is not among those `tried`, with this upstream's timeouts.
    #[must_use]
    pub fn choose(&self, tried: &[SocketAddr]) -> Option<Chosen> {
        let backend = self
            .balancer
            .select_with(b"", SELECT_TRIES, |it, healthy| healthy && !tried.contains(&it.addr))?;
        let Of(url) = backend.ext.get::<Of>()?.clone();
        let mut peer = HttpPeer::new(backend.addr, url.tls, url.host.clone());
        let options = &mut peer.options;
        // Pingora's own defaults wait for ever.
        options.connection_timeout = Some(self.settings.connect_timeout);
        options.total_connection_timeout = Some(self.settings.connect_timeout.saturating_mul(2));
        options.read_timeout = Some(self.settings.timeout);
        options.write_timeout = Some(self.settings.timeout);
        options.idle_timeout = Some(IDLE);
        let host = match self.settings.host_header {
            HostHeader::Preserve => None,
            HostHeader::Upstream => Some(authority(&url)),
        };
        Some(Chosen { peer, base_path: url.base_path, host })
    }
}

/// The server that a request goes to.
#[derive(Debug)]
pub struct Chosen {
    pub peer: HttpPeer,
    /// Put before the path.
    pub base_path: String,
    /// The `Host` to send. `None`: the client's.
    pub host: Option<String>,
}

/// The host, with the port if it is not the scheme's own.
fn authority(url: &UpstreamUrl) -> String {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let usual = if url.tls { 443 } else { 80 };
    if url.port == usual { host } else { format!("{host}:{}", url.port) }
}

/// Checks each server's health under its own name and below its own base path.
struct Checks(Vec<(UpstreamUrl, HttpHealthCheck)>);

impl Checks {
    fn new(health: &config::HealthCheck, urls: &[UpstreamUrl]) -> Self {
        Self(urls.iter().map(|url| (url.clone(), health_check(health, url))).collect())
    }
}

#[async_trait]
impl HealthCheck for Checks {
    async fn check(&self, target: &Backend) -> Result<()> {
        let asked = target.ext.get::<Of>().and_then(|Of(url)| self.0.iter().find(|(it, _)| it == url));
        match asked {
            Some((_, check)) => check.check(target).await,
            None => Error::e_explain(ErrorType::InternalError, "a server that is not configured"),
        }
    }

    fn health_threshold(&self, _: bool) -> usize {
        1
    }
}

fn health_check(health: &config::HealthCheck, url: &UpstreamUrl) -> HttpHealthCheck {
    let mut check = HttpHealthCheck::new(&url.host, url.tls);
    let path = format!("{}{}", url.base_path, health.path);
    let made = check
        .req
        .set_raw_path(path.as_bytes())
        .and_then(|()| check.req.insert_header(http::header::HOST, authority(url)));
    if let Err(error) = made {
        tracing::warn!(path, %error, "not a path for health checks");
    }
    check
}
