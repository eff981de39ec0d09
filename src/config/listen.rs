//! Addresses of the gateway: its public origin, its listeners, and the web pages that may call it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_yaml::Value;
use url::Origin;

use super::judge::{Judge, Judged, all};
use super::limits::{self, PerCaller};
use super::mirror::{AdminFile, CorsFile, DrainFile, FacilitatorFile, ListenFile, Piece};
use super::tls::TlsListener;
use super::web_address::{self, HTTP};
use super::{listen_address, tls};
use crate::listen::{ListenAddress, TrustedProxies};

/// The origin that clients use for the gateway. Links and challenges are built from it, never from a
/// request's `Host`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Scheme and authority, without a slash at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, and the port if it is not the scheme's own.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, authority)| authority)
    }

    /// Whether clients speak TLS to it.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The same scheme and port at another host.
    #[must_use]
    pub fn at(&self, host: &str) -> Self {
        let scheme = self.0.split_once("://").map_or("", |(scheme, _)| scheme);
        let port = self.authority().rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        Self(
            port.map_or_else(
                || format!("{scheme}://{host}"),
                |(_, port)| format!("{scheme}://{host}:{port}"),
            ),
        )
    }

    /// The whole URL of a canonical path and query.
    #[must_use]
    pub fn join(&self, target: &str) -> String {
        format!("{}{target}", self.0)
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The listeners for clients; at least one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listen {
    pub http: Vec<ListenAddress>,
    pub tls: Option<TlsListener>,
    /// Where nothing is served but redirects to https, and an authority's look at challenges.
    pub redirect: Vec<ListenAddress>,
    /// The proxies that are believed about the clients they speak for.
    pub trusted_proxies: TrustedProxies,
    /// Whether connections of these proxies begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whether clients may speak HTTP/2 without TLS, if they know beforehand that they may.
    pub h2c: bool,
    /// Whether other processes of the same user may listen at the addresses of this gateway, also the operator's and
    /// the facilitator's: a second gateway that takes over.
    pub reuse_port: bool,
}

/// How the gateway ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drain {
    /// How long connections are accepted on although the gateway says that it is not ready.
    pub delay: Duration,
    /// How long what is under way may go on after that.
    pub grace: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), grace: Duration::from_secs(60) }
    }
}

/// The listener for other servers that let this gateway verify and settle their payments.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FacilitatorConfig {
    /// At least one.
    pub addresses: Vec<ListenAddress>,
    /// The file of the token that callers must send; created if it is missing. `None`: anybody who
    /// can reach the address may call.
    pub token_file: Option<PathBuf>,
    pub per_caller: PerCaller,
}

/// Cross-origin calls by web pages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CorsConfig {
    pub origins: Origins,
    /// Whether pages may send cookies and the like, and read the answers.
    pub credentials: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origins {
    Any,
    /// As browsers send them: scheme, host and port, nothing else.
    These(Vec<String>),
}

const MAX_DELAY: Duration = Duration::from_secs(600);
const MAX_GRACE: Duration = Duration::from_secs(24 * 3600);

const PROXIES_HINT: &str =
    "write a list of networks or addresses: `[10.0.0.0/8, 192.0.2.7]`; `unix` for those at Unix sockets";
/// What stands in `trusted_proxies` for whoever connects over a Unix socket.
const UNIX: &str = "unix";
pub(super) const LISTEN_HINT: &str = "write `listen: { http: 127.0.0.1:8402 }`";

pub(super) fn public_url(judge: &mut Judge<'_>, piece: Piece<String>) -> Judged<PublicUrl> {
    judge.need_text(piece, "write scheme and host: `https://api.example.com`", origin).map(PublicUrl)
}

/// The scheme and authority of a URL that has nothing else.
fn origin(text: &str) -> Result<String, String> {
    let url = web_address::parse(text, HTTP)?;
    if url.path() != "/" || url.query().is_some() {
        return Err("only scheme, host and port: no path, query or fragment".to_owned());
    }
    match url.origin() {
        origin @ Origin::Tuple(..) => Ok(origin.ascii_serialization()),
        Origin::Opaque(_) => Err("it has no host".to_owned()),
    }
}

pub(super) fn listen(
    judge: &mut Judge<'_>,
    file: ListenFile,
    public_url: Option<&PublicUrl>,
) -> Judged<Listen> {
    if !file.http.is_given() && !file.tls.is_given() {
        return Err(judge.fault("listen", "no listener: `http` or `tls` is needed", LISTEN_HINT));
    }
    let http = listen_address::optional(judge, file.http);
    let redirects = file.redirect.is_given();
    let tls = judge.optional(file.tls, |judge, it| tls::tls(judge, it, redirects));
    if redirects && public_url.is_some_and(|it| !it.is_secure()) {
        let message = "clients would be sent to https, and `public_url` is not https";
        judge.fault(&file.redirect.path, message, "write `public_url: https://…`, or listen with `http`");
    }
    let redirect = listen_address::optional(judge, file.redirect);
    let (list, wanted) = (file.trusted_proxies.path.clone(), file.proxy_protocol.path.clone());
    let trusted_proxies = trusted_proxies(judge, file.trusted_proxies);
    let proxy_protocol = judge.flag(file.proxy_protocol, false);
    let h2c = judge.flag(file.h2c, false);
    let reuse_port = judge.flag(file.reuse_port, false);
    if let (Ok(true), Ok(trusted)) = (proxy_protocol, &trusted_proxies)
        && trusted.is_empty()
    {
        let message = "no proxy is trusted, so nobody may send the PROXY protocol";
        judge.fault(&wanted, message, "name the proxies in `trusted_proxies`");
    }
    if let Ok(trusted) = &trusted_proxies
        && trusted.is_everybody()
    {
        let message = "everybody is trusted: any client can pretend to be any other";
        judge.warn(&list, message, "name only the networks of your own proxies");
    }
    all!(Listen { http, tls, redirect, trusted_proxies, proxy_protocol, h2c, reuse_port })
}

fn trusted_proxies(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<TrustedProxies> {
    let place = piece.path.clone();
    let Some(value) = judge.get(piece, PROXIES_HINT)? else { return Ok(TrustedProxies::default()) };
    let Some(items) = value.as_sequence() else {
        return Err(judge.fault(&place, "expected a list", PROXIES_HINT));
    };
    // `None` stands for Unix sockets.
    let trusted = |text: &str| if text == UNIX { Ok(None) } else { network(text).map(Some) };
    let trusted = |judge: &mut Judge<'_>, it| judge.need_text(it, PROXIES_HINT, trusted);
    let all = judge.each(Piece::items(&place, items.clone()), "network", |it| *it, trusted)?;
    let unix = all.contains(&None);
    let proxies = TrustedProxies::new(all.into_iter().flatten().collect());
    Ok(if unix { proxies.and_unix() } else { proxies })
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| format!("{text:?} is not a network of IP addresses"))
}

pub(super) fn drain(judge: &mut Judge<'_>, file: DrainFile) -> Judged<Drain> {
    let default = Drain::default();
    all!(Drain {
        delay: judge.duration(file.delay, Duration::ZERO..=MAX_DELAY, default.delay),
        grace: judge.duration(file.grace, Duration::ZERO..=MAX_GRACE, default.grace),
    })
}

pub(super) fn admin(judge: &mut Judge<'_>, file: AdminFile) -> Judged<Vec<ListenAddress>> {
    let place = file.listen.path.clone();
    let addresses = listen_address::needed(judge, file.listen)?;
    if !addresses.iter().all(ListenAddress::is_local) {
        judge.warn(
            &place,
            "the admin listener can be reached from other machines",
            "use 127.0.0.1, or make sure that only the right machines can reach it",
        );
    }
    Ok(addresses)
}

pub(super) fn facilitator(judge: &mut Judge<'_>, file: FacilitatorFile) -> Judged<FacilitatorConfig> {
    let (place, is_guarded) = (file.listen.path.clone(), file.token_file.is_given());
    let facilitator = all!(FacilitatorConfig {
        addresses: listen_address::needed(judge, file.listen),
        token_file: judge.file(file.token_file),
        per_caller: judge.section(file.per_caller).and_then(|it| limits::per_caller(judge, it)),
    })?;
    if !is_guarded && !facilitator.addresses.iter().all(ListenAddress::is_local) {
        return Err(judge.fault(
            &place,
            "other machines can reach it, and no token is required",
            "write `token_file: facilitator.token`, or listen on 127.0.0.1",
        ));
    }
    Ok(facilitator)
}

pub(super) fn cors(judge: &mut Judge<'_>, file: CorsFile) -> Judged<CorsConfig> {
    let hint = "write `origins: any`, or a list such as `[https://app.example.com]`";
    let (place, credentials_place) = (file.origins.path.clone(), file.credentials.path.clone());
    let credentials = judge.flag(file.credentials, false)?;
    let value = judge.need(file.origins, hint)?;
    if value.as_str() == Some("any") {
        if credentials {
            return Err(judge.fault(
                &credentials_place,
                "credentials for pages of any origin: each of them could act for its visitors",
                "list the origins that are trusted, or remove `credentials`",
            ));
        }
        return Ok(CorsConfig { origins: Origins::Any, credentials });
    }
    let Some(items) = value.as_sequence().filter(|it| !it.is_empty()) else {
        return Err(judge.fault(&place, "expected `any` or a list of origins", hint));
    };
    let hint = "write scheme and host, and a port if needed";
    let origin = |judge: &mut Judge<'_>, it| judge.need_text(it, hint, origin);
    let origins: Vec<_> =
        Piece::items(&place, items.clone()).into_iter().map(|it| origin(judge, it)).collect();
    let origins = origins.into_iter().collect::<Judged<_>>()?;
    Ok(CorsConfig { origins: Origins::These(origins), credentials })
}
