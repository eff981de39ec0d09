//! Where requests go that may pass.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_yaml::Value;
use url::Url;

use super::document::{below, item};
use super::judge::Judge;
use super::mirror::{HealthFile, Piece, UpstreamFile};
use crate::routes::{CanonicalTarget, UpstreamName};

/// One service, on one or several servers that are taken in turn.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamConfig {
    /// At least one, none twice.
    pub urls: Vec<UpstreamUrl>,
    /// How long it may take until the answer begins.
    pub timeout: Duration,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    pub health: Option<HealthCheck>,
    pub host_header: HostHeader,
}

/// One server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamUrl {
    pub tls: bool,
    /// A name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// Put before each path; canonical, without a slash at its end, so empty for none.
    pub base_path: String,
}

/// How a server is asked whether it is well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// Canonical; asked with `GET`, below the server's `base_path`.
    pub path: String,
    pub every: Duration,
}

/// What the upstream sees as `Host`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HostHeader {
    /// The upstream's own host and port.
    #[default]
    Upstream,
    /// What the client sent.
    Preserve,
}

const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const HEALTH_EVERY: Duration = Duration::from_secs(5);
const MIN_HEALTH_EVERY: Duration = Duration::from_millis(100);

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

/// The upstreams of the file. A faulty one keeps its place with nothing in it, so that the routes
/// that name it are not faulty too.
pub(super) fn upstreams(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
) -> Option<BTreeMap<UpstreamName, Option<UpstreamConfig>>> {
    let hint = "write `upstreams: { NAME: { url: \"http://127.0.0.1:3000\" } }`";
    let value = judge.need("", "upstreams", piece, hint)?;
    let Value::Mapping(map) = value else {
        judge.fault("upstreams", "names and what stands behind them are expected here", hint);
        return None;
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
            judge.fault(&path, "this is no name for an upstream", &hint);
        }
        let upstream = upstream(judge, &path, value);
        upstreams.insert(UpstreamName::new(name), upstream);
    }
    Some(upstreams)
}

/// Bytes of an upstream's name; it is a label in metrics.
const MAX_NAME: usize = 64;

fn upstream(judge: &mut Judge<'_>, path: &str, value: Value) -> Option<UpstreamConfig> {
    let file: UpstreamFile = judge.open(path, value)?;
    let urls = urls(judge, path, file.url, file.urls);
    let range = MIN_TIMEOUT..=MAX_TIMEOUT;
    let timeout = judge.duration(&below(path, "timeout"), file.timeout, range.clone(), TIMEOUT);
    let connect = below(path, "connect_timeout");
    let connect_timeout = judge.duration(&connect, file.connect_timeout, range, CONNECT_TIMEOUT);
    let health = health(judge, &below(path, "health"), file.health);
    let hint = "write `upstream` or `preserve`";
    let host_header = if file.host_header.is_given() {
        judge.text(&below(path, "host_header"), file.host_header, hint, |text| match text {
            "upstream" => Ok(HostHeader::Upstream),
            "preserve" => Ok(HostHeader::Preserve),
            other => Err(format!("unknown choice {other:?}")),
        })
    } else {
        Some(HostHeader::default())
    };
    Some(UpstreamConfig {
        urls: urls?,
        timeout: timeout?,
        connect_timeout: connect_timeout?,
        health: health?,
        host_header: host_header?,
    })
}

fn urls(
    judge: &mut Judge<'_>,
    path: &str,
    one: Piece<String>,
    many: Piece<Vec<Value>>,
) -> Option<Vec<UpstreamUrl>> {
    if one.is_given() == many.is_given() {
        judge.fault(path, "an upstream has either `url` or `urls`", URL_HINT);
        return None;
    }
    if one.is_given() {
        return judge.text(&below(path, "url"), one, URL_HINT, upstream_url).map(|url| vec![url]);
    }
    let path = below(path, "urls");
    let items = judge.get(&path, many, URL_HINT)?;
    if items.is_empty() {
        judge.fault(&path, "the list is empty", URL_HINT);
        return None;
    }
    let mut urls = Vec::new();
    for (index, value) in items.iter().enumerate() {
        let path = item(&path, index);
        let text = value.as_str().unwrap_or_default();
        let Some(url) = judge.read(&path, text, URL_HINT, upstream_url) else { continue };
        if urls.contains(&url) {
            judge.fault(&path, "this server is named twice", "name each server once");
        } else {
            urls.push(url);
        }
    }
    (urls.len() == items.len()).then_some(urls)
}

fn upstream_url(text: &str) -> Result<UpstreamUrl, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err("the scheme must be http or https".to_owned()),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password in the URL is not read".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a query or fragment has no meaning here".to_owned());
    }
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err("it has no host".to_owned());
    };
    let base = CanonicalTarget::parse(url.path()).map_err(|error| format!("its path: {error}"))?;
    Ok(UpstreamUrl {
        tls,
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        base_path: base.path().trim_end_matches('/').to_owned(),
    })
}

/// The health check; the outer nothing is a fault.
fn health(judge: &mut Judge<'_>, path: &str, piece: Piece<Value>) -> Option<Option<HealthCheck>> {
    if !piece.is_given() {
        return Some(None);
    }
    let hint = "write `health: { path: /healthz, every: 5s }`";
    let file: HealthFile = judge.section(path, piece)?;
    let target = judge.need(path, "path", file.path, hint);
    let target =
        target.and_then(|text| judge.read(&below(path, "path"), &text, hint, CanonicalTarget::parse));
    let every = below(path, "every");
    let every = judge.duration(&every, file.every, MIN_HEALTH_EVERY..=MAX_TIMEOUT, HEALTH_EVERY);
    Some(Some(HealthCheck { path: target?.as_str().to_owned(), every: every? }))
}
