//! Where the gateway is reached: its public origin, its listeners, who may call it from a page.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_yaml::Value;
use url::{Origin, Url};

use super::judge::Judge;
use super::mirror::{AdminFile, CorsFile, FacilitatorFile, ListenFile, Piece, TlsFile};

/// The origin under which clients know the gateway. Links and challenges are built from it, never
/// from a request's `Host`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Scheme and authority, without a slash at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Host and, where it is not the scheme's own, port.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, authority)| authority)
    }

    /// Whether clients speak TLS to it.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.starts_with("https://")
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
    pub http: Option<SocketAddr>,
    pub tls: Option<TlsListener>,
}

/// A listener that speaks TLS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsListener {
    pub address: SocketAddr,
    /// PEM, the chain.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Where other servers have payments verified and settled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FacilitatorConfig {
    pub address: SocketAddr,
    /// Holds the token that callers must show; made where there is none. Nothing: anyone who can
    /// reach the address may call.
    pub token_file: Option<PathBuf>,
}

/// Pages of which origins may call the gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CorsConfig {
    pub origins: Origins,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origins {
    Any,
    /// As browsers send them: scheme, host and port, nothing after.
    These(Vec<String>),
}

const SOCKET_HINT: &str = "write an IP address and a port: `0.0.0.0:8402` or `[::1]:8402`";

pub(super) fn public_url(judge: &mut Judge<'_>, piece: Piece<String>) -> Option<PublicUrl> {
    let hint = "write scheme and host: `https://api.example.com`";
    let text = judge.need("", "public_url", piece, hint)?;
    judge.read("public_url", &text, hint, origin).map(PublicUrl)
}

/// Scheme and authority of a text that holds nothing else.
fn origin(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("the scheme must be http or https".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password has no place in it".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("only scheme, host and port: no path, query or fragment".to_owned());
    }
    match url.origin() {
        origin @ Origin::Tuple(..) => Ok(origin.ascii_serialization()),
        Origin::Opaque(_) => Err("it has no host".to_owned()),
    }
}

pub(super) fn listen(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Listen> {
    let hint = "write `listen: { http: 127.0.0.1:8402 }`";
    let value = judge.need("", "listen", piece, hint)?;
    let file: ListenFile = judge.open("listen", value)?;
    if !file.http.is_given() && !file.tls.is_given() {
        judge.fault("listen", "no listener: `http` or `tls` is needed", hint);
        return None;
    }
    let (wants_http, wants_tls) = (file.http.is_given(), file.tls.is_given());
    let http = judge.text("listen.http", file.http, SOCKET_HINT, str::parse::<SocketAddr>);
    let tls = tls(judge, file.tls);
    if let (Some(http), Some(tls)) = (http, &tls)
        && http == tls.address
        && http.port() != 0
    {
        judge.fault("listen.tls.address", "`http` listens there already", "give each listener its own port");
    }
    (wants_http == http.is_some() && wants_tls == tls.is_some()).then_some(Listen { http, tls })
}

fn tls(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<TlsListener> {
    let file: TlsFile = judge.section("listen.tls", piece)?;
    let address = judge.need("listen.tls", "address", file.address, SOCKET_HINT);
    let address = address
        .and_then(|text| judge.read("listen.tls.address", &text, SOCKET_HINT, str::parse::<SocketAddr>));
    for (key, piece) in [("certificate", &file.certificate), ("key", &file.key)] {
        if !piece.is_given() {
            judge.missing("listen.tls", key, "name a PEM file");
        }
    }
    let certificate = judge.file("listen.tls.certificate", file.certificate);
    let key = judge.file("listen.tls.key", file.key);
    Some(TlsListener { address: address?, certificate: certificate?, key: key? })
}

/// The admin listener; the outer nothing is a fault.
pub(super) fn admin(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Option<SocketAddr>> {
    if !piece.is_given() {
        return Some(None);
    }
    let file: AdminFile = judge.section("admin", piece)?;
    let text = judge.need("admin", "listen", file.listen, SOCKET_HINT)?;
    let address = judge.read("admin.listen", &text, SOCKET_HINT, str::parse::<SocketAddr>)?;
    if !address.ip().is_loopback() {
        judge.warn(
            "admin.listen",
            "the admin listener can be reached from other machines",
            "use 127.0.0.1, or see that only those who may can reach it",
        );
    }
    Some(Some(address))
}

/// The facilitator's listener; the outer nothing is a fault.
pub(super) fn facilitator(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Option<FacilitatorConfig>> {
    if !piece.is_given() {
        return Some(None);
    }
    let file: FacilitatorFile = judge.section("facilitator", piece)?;
    let text = judge.need("facilitator", "listen", file.listen, SOCKET_HINT);
    let address =
        text.and_then(|text| judge.read("facilitator.listen", &text, SOCKET_HINT, str::parse::<SocketAddr>));
    let guarded = file.token_file.is_given();
    let token_file = judge.file("facilitator.token_file", file.token_file);
    let address = address?;
    if !guarded && !address.ip().is_loopback() {
        judge.fault(
            "facilitator.listen",
            "other machines can reach it, and no token is asked for",
            "write `token_file: facilitator.token`, or listen on 127.0.0.1",
        );
        return None;
    }
    (guarded == token_file.is_some()).then_some(Some(FacilitatorConfig { address, token_file }))
}

/// Cross-origin calls; the outer nothing is a fault.
pub(super) fn cors(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Option<CorsConfig>> {
    if !piece.is_given() {
        return Some(None);
    }
    let hint = "write `origins: any`, or a list such as `[https://app.example.com]`";
    let file: CorsFile = judge.section("cors", piece)?;
    let origins = match judge.need("cors", "origins", file.origins, hint)? {
        Value::String(word) if word == "any" => Origins::Any,
        Value::Sequence(items) if !items.is_empty() => {
            let count = items.len();
            let mut these = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let path = super::document::item("cors.origins", index);
                let text = item.as_str().unwrap_or_default();
                these.extend(judge.read(
                    &path,
                    text,
                    "write scheme and host, and a port where needed",
                    origin,
                ));
            }
            if these.len() != count {
                return None;
            }
            Origins::These(these)
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Sequence(_)
        | Value::Mapping(_)
        | Value::Tagged(_) => {
            judge.fault("cors.origins", "expected `any` or a list of origins", hint);
            return None;
        }
    };
    Some(Some(CorsConfig { origins }))
}
