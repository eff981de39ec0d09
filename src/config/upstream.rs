//! Upstreams: where admitted requests are forwarded.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_yaml::Value;

use super::document::below;
use super::judge::{Judge, Judged, all};
use super::mirror::{AuthFile, HealthFile, Piece, UpstreamFile};
use super::nodes;
use super::web_address::{self, HTTP};
use crate::routes::{CanonicalTarget, UpstreamName, is_of_the_connection, is_own_header};

/// One service, on one server or on several that take turns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamConfig {
    /// At least one, none twice.
    pub urls: Vec<UpstreamUrl>,
    /// The Unix socket at which the one server listens. `None`: it is at its URL's host and port.
    pub socket: Option<PathBuf>,
    /// How long the upstream may take until its answer begins, or to take a part of a body.
    pub timeout: Duration,
    /// How long its answer may pause, at least `timeout`. `None`: five minutes, and for ever where pauses are
    /// usual.
    pub idle_timeout: Option<Duration>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    pub protocol: Protocol,
    pub health: HealthRules,
    pub host_header: HostHeader,
    pub redirects: Redirects,
    pub after_body: AfterBody,
    /// Certificate authorities that vouch for its servers, in place of the system's. Empty: the system's.
    pub authorities: Vec<CertificateDer<'static>>,
    /// What the gateway shows its servers.
    pub identity: Option<ClientIdentity>,
    /// The name that its servers' certificates are for, if it is not the URL's host.
    pub server_name: Option<String>,
    /// The header by which its servers know the gateway's operator.
    pub auth: Option<UpstreamAuth>,
}

/// A header that each request to an upstream has, with a secret value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamAuth {
    pub header: HeaderName,
    /// The file with the value, or with what follows `prefix`.
    pub file: PathBuf,
    /// What the value begins with, such as `Bearer `.
    pub prefix: String,
}

/// The PEM files of a client's certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientIdentity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// One server.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct UpstreamUrl {
    pub tls: bool,
    /// A name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// The prefix of each path; canonical, without a slash at its end, so empty if there is none.
    pub base_path: String,
}

/// How it is found out whether a server works.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthRules {
    /// `None`: it is not asked.
    pub check: Option<HealthCheck>,
    /// So many connections to an address that fail one after another, and it counts as down. 0: never.
    pub failures: u32,
    /// After this time the gateway connects to such an address itself, then after twice the time.
    pub back_off: Duration,
}

/// How a server is asked whether it works.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// Canonical; asked with `GET`, below the server's `base_path`.
    pub path: String,
    pub every: Duration,
}

vocabulary! {
    /// Which version of HTTP its servers are spoken to in.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum Protocol {
        /// HTTP/1.1.
        #[default]
        Http1 = "http1",
        /// HTTP/2 over TLS.
        H2 = "h2",
        /// HTTP/2 without TLS.
        H2c = "h2c",
        /// What the server chooses in the handshake of TLS.
        Auto = "auto",
    }
    fn as_str;
}

vocabulary! {
    /// What the upstream sees as `Host`.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum HostHeader {
        /// The upstream's own host and port.
        #[default]
        Upstream = "upstream",
        /// What the client sent.
        Preserve = "preserve",
    }
    fn as_str;
}

vocabulary! {
    /// What becomes of a redirect of the upstream to itself.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum Redirects {
        /// It leads to the gateway.
        #[default]
        Rewrite = "rewrite",
        /// It stays as the upstream wrote it.
        Keep = "keep",
    }
    fn as_str;
}

vocabulary! {
    /// What becomes of the connection to the upstream after a request with a body.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum AfterBody {
        /// It is closed: what a server left unread of the body would be the next client's request.
        #[default]
        Close = "close",
        /// It is used again, for a server that reads every body to its end, whatever it answers.
        Keep = "keep",
    }
    fn as_str;
}

const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const MAX_IDLE: Duration = Duration::from_secs(7 * 24 * 3600);
const HEALTH_EVERY: Duration = Duration::from_secs(5);
const MIN_HEALTH_EVERY: Duration = Duration::from_millis(100);
const FAILURES: u32 = 3;
const MAX_FAILURES: u32 = 1000;
const BACK_OFF: Duration = Duration::from_secs(1);
const MIN_BACK_OFF: Duration = Duration::from_millis(10);
/// The longest time between two connections that the gateway tries to an address that is down.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(30);

const URL_HINT: &str = "write `http://HOST:PORT` or `https://HOST`";

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{}", self.host, self.port, self.base_path)
        } else {
            write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.base_path)
        }
    }
}

/// The upstreams of the file. One with a fault keeps its name here, so that the routes that name it
/// are not faults too.
pub(super) type Upstreams = BTreeMap<UpstreamName, Judged<UpstreamConfig>>;

/// The longest path of a Unix socket, in bytes (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// The longest name of an upstream, in bytes; it is a label in metrics.
const MAX_NAME: usize = 64;

pub(super) fn upstreams(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<Upstreams> {
    let hint = "write `upstreams: { NAME: { url: \"http://127.0.0.1:3000\" } }`";
    let Value::Mapping(map) = judge.need(piece, hint)? else {
        return Err(judge.fault("upstreams", "names of upstreams are expected here", hint));
    };
    if map.is_empty() {
        judge.fault("upstreams", "no upstream: there is nothing to sell", hint);
    }
    let mut upstreams = BTreeMap::new();
    for (name, value) in map {
        let name = name.as_str().unwrap_or_default();
        let path = below("upstreams", name);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_name) {
            let hint = format!("at most {MAX_NAME} letters, digits, `_` and `-`");
            judge.fault(&path, "an upstream cannot have this name", &hint);
        }
        let file = judge.open(&path, value);
        let upstream = file.and_then(|it| upstream(judge, &path, it));
        upstreams.insert(UpstreamName::new(name), upstream);
    }
    Ok(upstreams)
}

fn upstream(judge: &mut Judge<'_>, path: &str, file: UpstreamFile) -> Judged<UpstreamConfig> {
    let range = MIN_TIMEOUT..=MAX_TIMEOUT;
    let urls = urls(judge, path, file.url, file.urls);
    let socket = socket(judge, file.socket, urls.as_deref().unwrap_or_default());
    let given = [&file.ca_file, &file.certificate, &file.server_name].into_iter().find(|it| it.is_given());
    if let (Some(piece), Ok(urls)) = (given, &urls)
        && !urls.iter().any(|it| it.tls)
    {
        judge.fault(
            &piece.path,
            "no server of this upstream is asked over TLS",
            "write `https://` in its URL",
        );
    }
    let place = file.protocol.path.clone();
    let protocol =
        judge.choice(file.protocol, Protocol::ALL, Protocol::as_str).map(Option::unwrap_or_default);
    let asks = file.health.path.clone();
    let health = judge.section(file.health).and_then(|it| health(judge, it));
    if let (Ok(protocol), Ok(urls)) = (protocol, &urls) {
        agree(judge, &place, protocol, urls);
        if let (Protocol::H2 | Protocol::H2c, Ok(HealthRules { check: Some(_), .. })) = (protocol, &health) {
            let hint = "leave `path` out: whether it takes connections is found out without it";
            judge.fault(&asks, "a path is asked for in HTTP/1, which this upstream does not speak", hint);
        }
    }
    let timeout = judge.duration(file.timeout, range.clone(), TIMEOUT);
    let idle_timeout = idle(judge, file.idle_timeout, timeout);
    all!(UpstreamConfig {
        urls,
        socket,
        timeout,
        idle_timeout,
        connect_timeout: judge.duration(file.connect_timeout, range, CONNECT_TIMEOUT),
        after_body: judge
            .choice(file.after_body, AfterBody::ALL, AfterBody::as_str)
            .map(Option::unwrap_or_default),
        protocol,
        health,
        host_header: judge
            .choice(file.host_header, HostHeader::ALL, HostHeader::as_str)
            .map(Option::unwrap_or_default),
        authorities: nodes::authorities(judge, file.ca_file),
        identity: identity(judge, path, file.certificate, file.key),
        auth: judge.optional(file.auth, auth),
        server_name: judge.text(file.server_name, "write a name such as `api.internal`", server_name),
        redirects: judge
            .choice(file.redirects, Redirects::ALL, Redirects::as_str)
            .map(Option::unwrap_or_default),
    })
}

const AUTH_HINT: &str = "write `auth: { header: Authorization, prefix: \"Bearer \", value_file: api.key }`";

fn auth(judge: &mut Judge<'_>, file: AuthFile) -> Judged<UpstreamAuth> {
    let prefix = judge.text(file.prefix, "write what comes before the key, such as `Bearer `", prefix);
    all!(UpstreamAuth {
        header: judge.need_text(file.header, AUTH_HINT, auth_header),
        file: judge.need_file(file.value_file, AUTH_HINT),
        prefix: prefix.map(Option::unwrap_or_default),
    })
}

fn auth_header(text: &str) -> Result<HeaderName, &'static str> {
    let name = HeaderName::try_from(text).map_err(|_| "not the name of a header")?;
    if is_own_header(&name.as_str().replace('_', "-")) || is_of_the_connection(name.as_str()) {
        return Err("the gateway itself says what is in this header");
    }
    Ok(name)
}

fn prefix(text: &str) -> Result<String, &'static str> {
    let is_visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if text.bytes().all(is_visible) { Ok(text.to_owned()) } else { Err("not visible characters on one line") }
}

/// HTTP/2 without TLS has no handshake in which it could be chosen.
fn agree(judge: &mut Judge<'_>, place: &str, protocol: Protocol, urls: &[UpstreamUrl]) {
    match protocol {
        Protocol::Http1 => {}
        Protocol::H2 | Protocol::Auto if urls.iter().all(|it| it.tls) => {}
        Protocol::H2c if urls.iter().all(|it| !it.tls) => {}
        Protocol::H2 | Protocol::Auto => {
            judge.fault(place, "this is for `https://`", "write `h2c` or `http1` for `http://`");
        }
        Protocol::H2c => {
            judge.fault(place, "this is for `http://`", "write `h2` or `auto` for `https://`");
        }
    }
}

fn idle(judge: &mut Judge<'_>, piece: Piece<String>, timeout: Judged<Duration>) -> Judged<Option<Duration>> {
    let Some(path) = piece.given_path() else { return Ok(None) };
    let idle = judge.duration(piece, MIN_TIMEOUT..=MAX_IDLE, MAX_IDLE)?;
    if idle < timeout? {
        let message = "shorter than `timeout`: a pause before the answer is one too";
        return Err(judge.fault(&path, message, "make `timeout` as short, or this longer"));
    }
    Ok(Some(idle))
}

fn identity(
    judge: &mut Judge<'_>,
    path: &str,
    certificate: Piece<String>,
    key: Piece<String>,
) -> Judged<Option<ClientIdentity>> {
    let both = certificate.is_given() == key.is_given();
    let (certificate, key) = (judge.file(certificate), judge.file(key));
    if !both {
        let message = "a client certificate needs both `certificate` and `key`";
        return Err(judge.fault(path, message, "name the PEM files of both"));
    }
    Ok(certificate?.zip(key?).map(|(certificate, key)| ClientIdentity { certificate, key }))
}

fn server_name(text: &str) -> Result<String, &'static str> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("not a name that a certificate can be for"),
    }
}

fn urls(
    judge: &mut Judge<'_>,
    path: &str,
    one: Piece<String>,
    many: Piece<Vec<Value>>,
) -> Judged<Vec<UpstreamUrl>> {
    let url = |judge: &mut Judge<'_>, it| judge.need_text(it, URL_HINT, upstream_url);
    match (one.is_given(), many.is_given()) {
        (true, false) => url(judge, one).map(|it| vec![it]),
        (false, true) => {
            let items = judge.items(many, "the list is empty", URL_HINT)?;
            judge.each(items, "server", Clone::clone, url)
        }
        (true, true) | (false, false) => {
            Err(judge.fault(path, "an upstream has either `url` or `urls`", URL_HINT))
        }
    }
}

fn socket(judge: &mut Judge<'_>, piece: Piece<String>, urls: &[UpstreamUrl]) -> Judged<Option<PathBuf>> {
    let place = piece.path.clone();
    let socket = judge.file(piece)?;
    let Some(path) = &socket else { return Ok(None) };
    if urls.len() > 1 {
        let hint = "write `url`, or an upstream for each socket";
        return Err(judge.fault(&place, "one socket, and several servers", hint));
    }
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(judge.fault(&place, "the path of a Unix socket has at most 107 bytes", "shorten it"));
    }
    Ok(socket)
}

fn upstream_url(text: &str) -> Result<UpstreamUrl, String> {
    let url = web_address::parse(text, HTTP)?;
    if url.query().is_some() {
        return Err("a query has no meaning here".to_owned());
    }
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err("it has no host".to_owned());
    };
    let base = CanonicalTarget::parse(url.path()).map_err(|error| format!("its path: {error}"))?;
    Ok(UpstreamUrl {
        tls: url.scheme() == "https",
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        base_path: base.path().trim_end_matches('/').to_owned(),
    })
}

fn health(judge: &mut Judge<'_>, file: HealthFile) -> Judged<HealthRules> {
    let hint = "write `health: { path: /healthz, every: 5s }`";
    let idle = file.every.given_path().filter(|_| !file.path.is_given());
    let path = judge.text(file.path, hint, CanonicalTarget::parse);
    let every = judge.duration(file.every, MIN_HEALTH_EVERY..=MAX_TIMEOUT, HEALTH_EVERY);
    if let Some(every) = idle {
        return Err(judge.fault(&every, "there is no `path` to ask for", hint));
    }
    let check = path.and_then(|path| Ok((path, every?)));
    all!(HealthRules {
        check: check.map(|(path, every)| path.map(|it| HealthCheck { path: it.as_str().to_owned(), every })),
        failures: judge.count(file.failures, 0..=MAX_FAILURES, FAILURES),
        back_off: judge.duration(file.back_off, MIN_BACK_OFF..=MAX_BACK_OFF, BACK_OFF),
    })
}
