//! An upstream: its addresses, which of them are healthy, and how it is spoken to.

mod http2;
mod inquiry;
mod reasons;
mod trials;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Version};
use pingora::connectors::TransportConnector;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::{HealthCheck, HttpHealthCheck};
use pingora::lb::{Backend, Backends};
use pingora::prelude::{Error, ErrorType, HttpPeer, Result};
use pingora::protocols::TcpKeepalive;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::tls::{ALPN, CaType};
use pingora::utils::tls::CertKey;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::clock::Stopwatch;
use crate::config::{self, AfterBody, HostHeader, Protocol, UpstreamUrl};
use crate::repeats::Repeats;
use crate::routes::UpstreamName;
use crate::shutdown::{self, StopSignal};

use http2::{NO_HTTP2, no_http2, speaks_http2};
use reasons::in_words;
use trials::Trials;
use tunnel::TunnelConnector;

pub use inquiry::Inquiry;
pub(super) use reasons::cause;

/// How often host names are looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How long a start waits for the first connection to each address.
const FIRST_TRIAL: Duration = Duration::from_secs(1);
/// How long an answer may pause if nothing else is configured.
const PAUSE: Duration = Duration::from_secs(300);
/// Finds out that the other side of a quiet connection is gone.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(15),
    count: 4,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};
/// Addresses of which it is known why they failed their last health check.
const MOST_FAILURES: usize = 1024;
/// Requests at one time on a connection of HTTP/2.
const STREAMS: usize = 100;
/// What stands in for the address of a peer until it has its own, which may be that of a Unix socket.
const NO_ADDRESS: std::net::SocketAddr =
    std::net::SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
/// How long an idle connection to the upstream is kept.
const IDLE: Duration = Duration::from_secs(30);
/// The same, of one on which no tunnel began.
const TUNNEL_IDLE: Duration = Duration::from_millis(1);

/// How its servers are known, and the gateway to them.
#[derive(Clone, Debug, Default)]
pub struct PeerSecurity {
    /// Those who vouch for servers. `None`: the authorities that the system trusts.
    pub authorities: Option<Arc<CaType>>,
    /// The client's certificate and its key.
    pub identity: Option<Arc<CertKey>>,
    /// The name that a server's certificate is for. `None`: its URL's host.
    pub server_name: Option<String>,
    /// The header that each request has, by which the gateway's operator is known. Its value is secret.
    pub auth: Option<(HeaderName, HeaderValue)>,
}

impl PeerSecurity {
    fn apply(&self, peer: &mut HttpPeer) {
        peer.options.ca.clone_from(&self.authorities);
        peer.client_cert_key.clone_from(&self.identity);
        if let Some(name) = &self.server_name {
            peer.sni.clone_from(name);
        }
    }
}

/// One upstream of the configuration, ready to be spoken to.
pub struct Upstream {
    name: UpstreamName,
    backends: Backends,
    /// How many servers were chosen: each is the next one's turn.
    chosen: AtomicUsize,
    rules: Arc<Rules>,
    trials: Trials,
    /// When a request's failure last had an address tried. Changes only; no await while it is held.
    doubted: Mutex<Option<Stopwatch>>,
    /// Free requests that fail, which strangers can repeat as they like.
    pub(super) free_failures: Repeats,
    /// Tries servers over TLS. It reads the system's certificates, so it is made only if it is needed.
    connector: OnceLock<TransportConnector>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.name)
            .field("settings", &self.rules.settings)
            .finish_non_exhaustive()
    }
}

/// How an upstream's servers are spoken to.
struct Rules {
    settings: config::UpstreamConfig,
    security: PeerSecurity,
    /// Which connections requests of this upstream may share: those that were made by its rules.
    group: u64,
}

/// A server of an upstream: an address that was looked up for a URL.
#[derive(Debug)]
pub struct Server {
    /// How to connect to it.
    pub peer: HttpPeer,
    pub url: UpstreamUrl,
    /// The `Host` to send. `None`: the client's.
    pub host: Option<HeaderValue>,
}

/// Looks up the hosts of the URLs.
struct HostNames {
    urls: Vec<UpstreamUrl>,
    rules: Arc<Rules>,
    /// The hosts that the last look-up did not find: each is complained about once.
    unknown: Mutex<BTreeSet<String>>,
}

impl HostNames {
    /// Notes whether `host` was found; returns whether that is news.
    fn is_news(&self, host: &str, found: bool) -> bool {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if found { unknown.remove(host) } else { unknown.insert(host.to_owned()) }
    }
}

#[async_trait]
impl ServiceDiscovery for HostNames {
    async fn discover(&self) -> Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut found = BTreeSet::new();
        if let Some(path) = &self.rules.settings.socket {
            let address = of_socket(path)?;
            found.extend(self.urls.iter().map(|url| self.rules.backend(address.clone(), url)));
            return Ok((found, HashMap::new()));
        }
        for url in &self.urls {
            let name = (url.host.as_str(), url.port);
            match tokio::net::lookup_host(name).await {
                Ok(addresses) => {
                    found.extend(addresses.map(|it| self.rules.backend(SocketAddr::Inet(it), url)));
                    if self.is_news(&url.host, true) {
                        tracing::info!(host = %url.host, "the upstream's name is known again");
                    }
                }
                Err(error) => {
                    if self.is_news(&url.host, false) {
                        tracing::warn!(host = %url.host, %error, "the upstream's name is not known");
                    }
                }
            }
        }
        if found.is_empty() {
            return Error::e_explain(ErrorType::ConnectError, "no upstream name could be looked up");
        }
        Ok((found, HashMap::new()))
    }
}

impl Rules {
    fn backend(&self, addr: SocketAddr, url: &UpstreamUrl) -> Backend {
        let mut backend = Backend { addr: addr.clone(), weight: 1, ext: http::Extensions::new() };
        drop(backend.ext.insert(Arc::new(self.server(addr, url.clone()))));
        backend
    }

    fn server(&self, address: SocketAddr, url: UpstreamUrl) -> Server {
        let inet = address.as_inet().copied().unwrap_or(NO_ADDRESS);
        let mut peer = HttpPeer::new(inet, url.tls, url.host.clone());
        peer._address = address;
        self.security.apply(&mut peer);
        peer.group_key = self.group;
        let options = &mut peer.options;
        // Pingora's own defaults wait for ever.
        options.connection_timeout = Some(self.settings.connect_timeout);
        options.total_connection_timeout = Some(self.settings.connect_timeout.saturating_mul(2));
        options.read_timeout = self.idle(false);
        options.tcp_keepalive = Some(KEEPALIVE);
        match self.settings.protocol {
            Protocol::Http1 => {}
            Protocol::Auto => options.set_http_version(2, 1),
            Protocol::H2 | Protocol::H2c => options.set_http_version(2, 2),
        }
        options.max_h2_streams = STREAMS;
        options.write_timeout = Some(self.settings.timeout);
        options.idle_timeout = Some(IDLE);
        let host = match self.settings.host_header {
            HostHeader::Preserve => None,
            HostHeader::Upstream => HeaderValue::try_from(authority(&url)).ok(),
        };
        Server { peer, url, host }
    }

    /// How long an answer may pause; `None`: for ever, unless it is configured, as what is `quiet` by nature.
    fn idle(&self, quiet: bool) -> Option<Duration> {
        let usual = (!quiet).then(|| self.settings.timeout.max(PAUSE));
        self.settings.idle_timeout.or(usual)
    }
}

impl Upstream {
    /// The upstream as configured. It has no address until [`Upstream::begin`] finds some.
    #[must_use]
    pub fn new(name: UpstreamName, settings: &config::UpstreamConfig, security: PeerSecurity) -> Self {
        let group = group(&name, settings);
        let rules = Arc::new(Rules { settings: settings.clone(), security, group });
        let urls = settings.urls.clone();
        let names = HostNames { urls, rules: Arc::clone(&rules), unknown: Mutex::default() };
        let mut backends = Backends::new(Box::new(names));
        if let Some(health) = &settings.health.check {
            backends.set_health_check(Box::new(Checks::new(&name, health, &settings.urls, &rules.security)));
        }
        Self {
            name,
            backends,
            chosen: AtomicUsize::new(0),
            rules,
            trials: Trials::new(&settings.health),
            doubted: Mutex::default(),
            free_failures: Repeats::new(),
            connector: OnceLock::new(),
        }
    }

    /// The header that each request has, by which the gateway's operator is known.
    pub(super) fn auth(&self) -> Option<&(HeaderName, HeaderValue)> {
        self.rules.security.auth.as_ref()
    }

    /// Looks the host names up and connects to each address once, for [`FIRST_TRIAL`] at most: nothing is
    /// billed for an upstream that is not there, or that has not shown the version of HTTP it is to speak.
    pub async fn begin(&self) {
        self.refresh().await;
        let found: Vec<_> = std::iter::from_fn(|| self.trials.next()).collect();
        join_all(found.iter().map(async |address| {
            match tokio::time::timeout(FIRST_TRIAL, self.try_address(address)).await {
                Ok(Ok(())) => drop(self.trials.clear(address)),
                Ok(Err(error)) => {
                    self.complain(address, &error);
                    self.trials.leave(address, true);
                }
                Err(_elapsed) => {
                    let speaks_first = matches!(self.rules.settings.protocol, Protocol::H2 | Protocol::H2c);
                    if speaks_first {
                        self.complain(address, &Error::explain(ErrorType::ConnectTimedout, NO_HTTP2));
                    }
                    self.trials.leave(address, speaks_first);
                }
            }
        }))
        .await;
    }

    /// Looks the host names up. Without an answer the known addresses stay. New ones are tried.
    async fn refresh(&self) {
        let known = self.backends.get_backend();
        if let Err(error) = self.backends.update(drop).await {
            tracing::debug!(upstream = %self.name, %error, "the addresses were not refreshed");
        }
        for new in self.backends.get_backend().difference(&known) {
            self.trials.doubt(new.addr.clone());
        }
    }

    /// Looks names up again, checks health and tries what is in doubt until `shutdown` turns true.
    pub async fn watch(self: Arc<Self>, mut shutdown: StopSignal) {
        let mut names = tokio::time::interval(RESOLVE_EVERY);
        let mut lost = tokio::time::interval(self.rules.settings.health.back_off);
        let every = self.rules.settings.health.check.as_ref().map_or(RESOLVE_EVERY, |it| it.every);
        let mut checks = tokio::time::interval(every);
        lost.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trials = JoinSet::new();
        loop {
            tokio::select! {
                _ = names.tick() => self.refresh().await,
                _ = lost.tick(), if self.addresses() == 0 => self.refresh().await,
                _ = checks.tick() => self.backends.run_health_check(true).await,
                () = self.trials.untried() => while let Some(address) = self.trials.next() {
                    trials.spawn(Arc::clone(&self).try_until_it_connects(address));
                },
                Some(_) = trials.join_next() => {}
                () = shutdown::asked_for(&mut shutdown) => return,
            }
        }
    }

    /// Tries an address in doubt until it takes a connection or is not this upstream's any more.
    async fn try_until_it_connects(self: Arc<Self>, address: SocketAddr) {
        while self.backends.get_backend().iter().any(|it| it.addr == address) {
            let Err(error) = self.try_address(&address).await else { break };
            let Some((pause, is_down)) = self.trials.trial_failed(&address) else { return };
            if is_down {
                self.complain(&address, &error);
            }
            tokio::time::sleep(pause).await;
        }
        if self.trials.clear(&address) {
            tracing::info!(upstream = %self.name, %address, "the address takes connections again");
        }
    }

    /// Connects to an address, over TLS if its URL says so.
    async fn try_address(&self, address: &SocketAddr) -> Result<()> {
        let known = self.backends.get_backend();
        let Some(server) = known.iter().find(|it| it.addr == *address).and_then(server) else {
            return Error::e_explain(ErrorType::InternalError, "an address that is not known");
        };
        self.connect(address, server).await
    }

    /// Connects to `address` as to a server of `url`, over TLS if the URL says so, and hangs up.
    ///
    /// # Errors
    /// Why it takes no connections, in words for people.
    pub async fn reach(&self, address: SocketAddr, url: &UpstreamUrl) -> Result<(), String> {
        let server = self.rules.server(address.clone(), url.clone());
        self.connect(&address, &server).await.map_err(|error| in_words(&error))
    }

    async fn connect(&self, address: &SocketAddr, server: &Server) -> Result<()> {
        let settings = &self.rules.settings;
        if server.url.tls {
            let connector = self.connector.get_or_init(|| TransportConnector::new(None));
            let stream = connector.new_stream(&server.peer).await?;
            return match stream.selected_alpn_proto() {
                Some(ALPN::H2) => speaks_http2(stream, settings.connect_timeout).await,
                _ if settings.protocol == Protocol::H2 => no_http2(),
                _ => Ok(()),
            };
        }
        let within = settings.connect_timeout;
        let is_http2 = settings.protocol == Protocol::H2c;
        match address {
            SocketAddr::Inet(address) => {
                let tcp = in_time(within, tokio::net::TcpStream::connect(address)).await?;
                if is_http2 { speaks_http2(tcp, within).await } else { Ok(()) }
            }
            SocketAddr::Unix(address) => {
                let path = address.as_pathname().unwrap_or(Path::new(""));
                let unix = in_time(within, tokio::net::UnixStream::connect(path)).await?;
                if is_http2 { speaks_http2(unix, within).await } else { Ok(()) }
            }
        }
    }

    fn complain(&self, address: &SocketAddr, error: &Error) {
        tracing::warn!(upstream = %self.name, %address, %error, "the address takes no connections");
    }

    /// Notes that a request could not connect to `address`.
    pub(super) fn failed(&self, address: &SocketAddr, error: &Error) {
        if self.trials.failed(address) {
            self.complain(address, error);
        }
    }

    /// Notes that a request connected to `address`. That a server speaks HTTP/2, only its answer shows.
    pub(super) fn connected(&self, address: &SocketAddr) {
        if self.rules.settings.protocol == Protocol::Http1 {
            self.trials.connected(address);
        }
    }

    /// Has `address` tried, because a request to it failed after it had connected: perhaps the server there does
    /// not speak HTTP/2 any more. Once in the time of `health.back_off`, however many requests fail.
    pub(super) fn doubt(&self, address: &SocketAddr) {
        let config::UpstreamConfig { protocol, health, .. } = &self.rules.settings;
        if *protocol == Protocol::Http1 {
            return;
        }
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        if doubted.is_none_or(|it| it.elapsed() >= health.back_off) {
            *doubted = Some(Stopwatch::start());
            self.trials.doubt(address.clone());
        }
    }

    /// How long an answer may take to begin.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.rules.settings.timeout
    }

    /// How long an answer may pause; `None`: for ever, unless it is configured, as what is `quiet` by nature.
    #[must_use]
    pub fn idle(&self, quiet: bool) -> Option<Duration> {
        self.rules.idle(quiet)
    }

    /// Checks the version of HTTP in which a server is about to be spoken to. Pingora speaks HTTP/1.1 to one
    /// over TLS that does not choose a version, whatever it was asked.
    pub(super) fn check_version(&self, version: Version) -> Result<()> {
        match self.rules.settings.protocol {
            Protocol::H2 | Protocol::H2c if version != Version::HTTP_2 => no_http2(),
            Protocol::H2 | Protocol::H2c | Protocol::Http1 | Protocol::Auto => Ok(()),
        }
    }

    /// Has `peer` connected to in a way in which a tunnel can begin: by HTTP/1.1, and on a connection that
    /// other requests do not use.
    pub(super) fn prepare_tunnel(&self, peer: &mut HttpPeer) {
        match self.rules.settings.protocol {
            Protocol::H2 | Protocol::H2c => return,
            Protocol::Auto => peer.options.set_http_version(1, 1),
            Protocol::Http1 => {}
        }
        peer.group_key = self.rules.group.rotate_left(1);
        peer.options.idle_timeout = Some(TUNNEL_IDLE);
        peer.options.custom_l4 =
            Some(Arc::new(TunnelConnector { within: self.rules.settings.connect_timeout }));
    }

    /// As it is configured.
    pub(super) fn settings(&self) -> &config::UpstreamConfig {
        &self.rules.settings
    }

    /// Whether the connection is used again after a request with a body.
    #[must_use]
    pub fn keeps_after_body(&self) -> bool {
        self.rules.settings.after_body == AfterBody::Keep
    }

    /// How many addresses there are to try.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.backends.get_backend().len()
    }

    /// The addresses that were looked up for its URLs, and whether each is healthy as far as is known.
    #[must_use]
    pub fn servers(&self) -> Vec<(String, bool)> {
        let known = self.backends.get_backend();
        let is_checked = self.rules.settings.health.check.is_some();
        let is_healthy =
            |it: &Backend| (!is_checked || self.backends.ready(it)) && self.trials.pause(&it.addr).is_none();
        known.iter().map(|it| (it.addr.to_string(), is_healthy(it))).collect()
    }

    /// Whether no address is known and healthy: seconds after which that may be over. `None`: it is up.
    #[must_use]
    pub fn down(&self) -> Option<NonZeroU64> {
        let (known, health) = (self.backends.get_backend(), &self.rules.settings.health);
        let mut pause = health.back_off;
        for backend in known.iter() {
            let every = health.check.as_ref().map(|it| it.every).filter(|_| !self.backends.ready(backend));
            match self.trials.pause(&backend.addr).max(every) {
                None => return None,
                Some(longer) => pause = pause.max(longer),
            }
        }
        let seconds = pause.as_secs().saturating_add(u64::from(pause.subsec_nanos() > 0));
        Some(NonZeroU64::new(seconds).unwrap_or(NonZeroU64::MIN))
    }

    /// The next healthy server whose address is not among those `tried`.
    #[must_use]
    pub fn choose(&self, tried: &[SocketAddr]) -> Option<Arc<Server>> {
        let known = self.backends.get_backend();
        // Without health checks all are healthy.
        let is_checked = self.rules.settings.health.check.is_some();
        let takes = |it: &&Backend| {
            let is_healthy = !is_checked || self.backends.ready(it);
            is_healthy && !tried.contains(&it.addr) && self.trials.pause(&it.addr).is_none()
        };
        let turn = self.chosen.fetch_add(1, Ordering::Relaxed).checked_rem(known.len())?;
        let mut in_turn = known.iter().skip(turn).chain(known.iter().take(turn));
        in_turn.find(takes).and_then(server).map(Arc::clone)
    }
}

fn server(backend: &Backend) -> Option<&Arc<Server>> {
    backend.ext.get()
}

/// A connection that is made within a time.
async fn in_time<S>(within: Duration, connected: impl Future<Output = std::io::Result<S>>) -> Result<S> {
    match tokio::time::timeout(within, connected).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Error::e_because(ErrorType::ConnectError, "no connection", error),
        Err(error) => Error::e_because(ErrorType::ConnectTimedout, "no connection in time", error),
    }
}

/// The address of a Unix socket.
///
/// # Errors
/// Its path is longer than the system allows.
pub fn of_socket(path: &Path) -> Result<SocketAddr> {
    match std::os::unix::net::SocketAddr::from_pathname(path) {
        Ok(address) => Ok(SocketAddr::Unix(address)),
        Err(error) => Error::e_because(ErrorType::ConnectError, "not the path of a Unix socket", error),
    }
}

/// Tells connections apart that were made for another upstream, trusting other authorities, or in another
/// version of HTTP.
fn group(name: &UpstreamName, settings: &config::UpstreamConfig) -> u64 {
    let mut hasher = DefaultHasher::new();
    let authorities: Vec<_> = settings.authorities.iter().map(AsRef::<[u8]>::as_ref).collect();
    (name.as_str(), authorities, std::mem::discriminant(&settings.protocol)).hash(&mut hasher);
    hasher.finish()
}

/// The host, with the port if it is not the scheme's own.
fn authority(url: &UpstreamUrl) -> String {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let usual = if url.tls { 443 } else { 80 };
    if url.port == usual { host } else { format!("{host}:{}", url.port) }
}

/// Checks each server's health under its own name and below its own base path.
struct Checks {
    upstream: UpstreamName,
    by_url: Vec<(UpstreamUrl, HttpHealthCheck)>,
    /// Why addresses failed their last check, for the log.
    failures: Mutex<BTreeMap<SocketAddr, String>>,
}

impl Checks {
    fn new(
        upstream: &UpstreamName,
        health: &config::HealthCheck,
        urls: &[UpstreamUrl],
        security: &PeerSecurity,
    ) -> Self {
        let by_url = urls.iter().map(|url| (url.clone(), health_check(health, url, security))).collect();
        Self { upstream: upstream.clone(), by_url, failures: Mutex::default() }
    }

    // Changes only; no await while it is held.
    fn failures(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, target: &Backend) -> Result<()> {
        let asked = server(target).and_then(|server| self.by_url.iter().find(|(it, _)| *it == server.url));
        match asked {
            Some((_, check)) => check.check(target).await,
            None => Error::e_explain(ErrorType::InternalError, "a server that is not configured"),
        }
    }
}

#[async_trait]
impl HealthCheck for Checks {
    async fn check(&self, target: &Backend) -> Result<()> {
        let outcome = self.ask(target).await;
        if let Err(error) = &outcome {
            let mut failures = self.failures();
            // Names may come to mean ever other addresses.
            if failures.len() >= MOST_FAILURES {
                failures.clear();
            }
            drop(failures.insert(target.addr.clone(), in_words(error)));
        }
        outcome
    }

    async fn health_status_change(&self, target: &Backend, healthy: bool) {
        let (upstream, address) = (&self.upstream, &target.addr);
        let why = self.failures().remove(address).unwrap_or_default();
        if healthy {
            tracing::info!(%upstream, %address, "the address passes its health check again");
        } else {
            tracing::warn!(%upstream, %address, why, "the address fails its health check");
        }
    }

    fn health_threshold(&self, _: bool) -> usize {
        1
    }
}

fn health_check(health: &config::HealthCheck, url: &UpstreamUrl, security: &PeerSecurity) -> HttpHealthCheck {
    let mut check = HttpHealthCheck::new(&url.host, url.tls);
    security.apply(&mut check.peer_template);
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

#[cfg(test)]
mod tests {
    use pingora::upstreams::peer::Peer;
    use tokio::net::TcpListener;

    use super::super::scenes::upstream;
    use super::*;

    fn url(tls: bool, host: &str, port: u16) -> UpstreamUrl {
        UpstreamUrl { tls, host: host.to_owned(), port, base_path: String::new() }
    }

    #[test]
    fn an_answer_may_pause_for_minutes_and_one_that_is_quiet_by_nature_for_ever() {
        let seconds = |it: Option<Duration>| it.map(|it| it.as_secs());
        for (settings, usual, quiet) in [
            ("url: http://a", Some(300), None),
            ("url: http://a, timeout: 400s", Some(400), None),
            ("url: http://a, timeout: 1s, idle_timeout: 20s", Some(20), Some(20)),
        ] {
            let upstream = upstream(settings);
            assert_eq!(seconds(upstream.idle(false)), usual, "{settings}");
            assert_eq!(seconds(upstream.idle(true)), quiet, "{settings}");
        }
        assert_eq!(upstream("url: http://a, timeout: 7s").timeout(), Duration::from_secs(7));
    }

    #[test]
    fn a_connection_is_kept_after_a_body_only_where_that_is_said() {
        assert!(!upstream("url: http://a").keeps_after_body());
        assert!(upstream("url: http://a, after_body: keep").keeps_after_body());
    }

    #[tokio::test]
    async fn an_upstream_is_up_while_one_address_takes_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let there = upstream(&format!(
            "url: \"http://{address}\", host_header: upstream, health: {{ failures: 2, back_off: 3s }}"
        ));
        assert_eq!(
            (there.addresses(), there.down().map(NonZeroU64::get)),
            (0, Some(3)),
            "nothing is known yet"
        );
        assert!(there.choose(&[]).is_none());
        there.begin().await;
        assert_eq!((there.addresses(), there.down()), (1, None));
        let chosen = there.choose(&[]).unwrap();
        let server = SocketAddr::Inet(address);
        let host = chosen.host.as_ref().map(HeaderValue::as_bytes);
        assert_eq!((chosen.peer.address(), host), (&server, Some(address.to_string().as_bytes())));
        assert!(there.choose(std::slice::from_ref(&server)).is_none(), "it was tried");
        let error = Error::explain(ErrorType::ConnectRefused, "refused");
        there.failed(&server, &error);
        assert!(there.choose(&[]).is_some(), "one failure is not enough");
        there.connected(&server);
        there.failed(&server, &error);
        assert!(there.down().is_none(), "the count began again");
        there.failed(&server, &error);
        assert_eq!(there.down().map(NonZeroU64::get), Some(3));
        assert!(there.choose(&[]).is_none());
    }

    #[tokio::test]
    async fn an_address_that_takes_no_connection_at_the_start_is_down() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let gone =
            upstream(&format!("url: \"http://{address}\", health: {{ failures: 5, back_off: 1500ms }}"));
        gone.begin().await;
        assert_eq!((gone.addresses(), gone.down().map(NonZeroU64::get)), (1, Some(2)), "rounded up");
        let never = upstream(&format!("url: \"http://{address}\", health: {{ failures: 0 }}"));
        never.begin().await;
        assert!(never.down().is_none() && never.choose(&[]).is_some(), "it is never left out");
    }

    #[test]
    fn a_host_that_is_not_found_is_news_once() {
        let rules = Arc::clone(&upstream("url: \"http://127.0.0.1:1\"").rules);
        let names = HostNames { urls: Vec::new(), rules, unknown: Mutex::default() };
        let news = [false, false, true, true, false].map(|found| names.is_news("a", found));
        assert_eq!(news, [true, false, true, false, true]);
    }

    #[test]
    fn a_server_is_asked_for_by_its_own_name() {
        for (url, expected) in [
            (url(false, "a.example", 80), "a.example"),
            (url(false, "a.example", 443), "a.example:443"),
            (url(true, "a.example", 443), "a.example"),
            (url(true, "a.example", 80), "a.example:80"),
            (url(false, "::1", 3000), "[::1]:3000"),
        ] {
            assert_eq!(authority(&url), expected);
        }
        let mut peer = HttpPeer::new(("127.0.0.1", 443), true, "a.example".to_owned());
        PeerSecurity { server_name: Some("b.example".to_owned()), ..PeerSecurity::default() }
            .apply(&mut peer);
        assert_eq!(peer.sni, "b.example");
        PeerSecurity::default().apply(&mut peer);
        assert_eq!(peer.sni, "b.example", "as the URL says");
    }

    #[test]
    fn connections_are_shared_under_the_same_rules_only() {
        let (one, other) = (UpstreamName::new("one"), UpstreamName::new("other"));
        let usual = upstream("url: \"https://a.example\"").rules.settings.clone();
        let trusting = config::UpstreamConfig { authorities: vec![vec![1].into()], ..usual.clone() };
        let newer = config::UpstreamConfig { protocol: Protocol::H2, ..usual.clone() };
        assert_eq!(group(&one, &usual), group(&one, &usual));
        assert_ne!(group(&one, &usual), group(&other, &usual));
        assert_ne!(group(&one, &usual), group(&one, &trusting));
        assert_ne!(group(&one, &usual), group(&one, &newer));
    }

    /// A name may come to mean ever other addresses.
    #[tokio::test]
    async fn why_checks_failed_is_kept_of_so_many_addresses_only() {
        let checks =
            Checks { upstream: UpstreamName::new("a"), by_url: Vec::new(), failures: Mutex::default() };
        for number in 0..=MOST_FAILURES {
            let kept = if number < MOST_FAILURES { number } else { MOST_FAILURES };
            assert_eq!(checks.failures().len(), kept);
            let address = format!("127.0.0.1:{}", number.saturating_add(1));
            assert!(checks.check(&Backend::new(&address).unwrap()).await.is_err());
        }
        assert_eq!(checks.failures().len(), 1);
        let why = checks.failures().values().next().cloned();
        assert!(why.is_some_and(|it| it.contains("a server that is not configured")));
    }

    #[test]
    fn a_tunnel_begins_by_http_1_on_a_connection_of_its_own() {
        let prepared = |protocol: &str| {
            let upstream = upstream(&format!("url: \"https://a.example\", protocol: {protocol}"));
            let mut peer = HttpPeer::new(("127.0.0.1", 443), true, "a.example".to_owned());
            peer.group_key = upstream.rules.group;
            peer.options.set_http_version(2, 1);
            upstream.prepare_tunnel(&mut peer);
            (peer.group_key == upstream.rules.group, peer.options.idle_timeout, peer.options.alpn)
        };
        assert!(matches!(prepared("auto"), (false, Some(TUNNEL_IDLE), ALPN::H1)));
        assert!(matches!(prepared("http1"), (false, Some(TUNNEL_IDLE), _)));
        assert!(matches!(prepared("h2"), (true, None, ALPN::H2H1)), "there is none over HTTP/2");
    }
}
