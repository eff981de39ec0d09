//! Who asks: the one place where the gateway takes a client's address from.
//!
//! It is the address of the connection, or what a trusted proxy says
//! ([`crate::listen::forwarded`]).

use std::net::IpAddr;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName};
use pingora::http::RequestHeader;
use pingora::prelude::Session;

use crate::cashier::Client;
use crate::listen::TrustedProxies;
use crate::listen::forwarded::{self, X_FORWARDED_FOR, list};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The sender of a request, and what is believed of what was forwarded with it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caller {
    /// The other end of the connection; `None` if it does not connect by IP.
    peer: Option<IpAddr>,
    /// The client, as far as it is known.
    address: Option<IpAddr>,
    /// Whether the peer is a trusted proxy whose headers agree.
    is_believed: bool,
    /// Whether the connection is over TLS.
    is_secure: bool,
}

impl Caller {
    /// The sender of a request that `proxies` may have forwarded.
    pub(super) fn of(session: &Session, proxies: &TrustedProxies) -> Self {
        let peer = session.client_addr().and_then(|it| it.as_inet()).map(|it| it.ip().to_canonical());
        let is_secure = session.digest().is_some_and(|it| it.ssl_digest.is_some());
        let believed = peer.filter(|it| proxies.contains(*it));
        let named = believed.map(|it| forwarded::client_named(it, &session.req_header().headers, proxies));
        match named {
            Some(Ok(address)) => Self { peer, address: Some(address), is_believed: true, is_secure },
            Some(Err(forwarded::NotBelieved)) | None => {
                Self { peer, address: peer, is_believed: false, is_secure }
            }
        }
    }

    /// What the limits for each client count by.
    pub(super) fn client(&self) -> Option<Client> {
        self.address.map(Client::at)
    }

    /// What the upstream is told about the sender of `request`: in place of what came with it, or added to
    /// it if the sender is believed.
    pub(super) fn statements(&self, request: &RequestHeader) -> Vec<(HeaderName, String)> {
        // Of HTTP/2, the host is part of the target.
        let host = one(&request.headers, &HOST).or_else(|| request.uri.authority().map(|it| it.as_str()));
        let believed = self.is_believed.then_some(&request.headers);
        let scheme = if self.is_secure { "https" } else { "http" };
        let mut statements = Vec::new();
        if let Some(host) = believed.and_then(|it| one(it, &X_FORWARDED_HOST)).or(host) {
            statements.push((X_FORWARDED_HOST, host.to_owned()));
        }
        let is_scheme = |it: &&str| it.split(',').all(|it| ["http", "https"].contains(&it.trim()));
        let proto = believed.and_then(|it| one(it, &X_FORWARDED_PROTO)).filter(is_scheme).unwrap_or(scheme);
        statements.push((X_FORWARDED_PROTO, proto.to_owned()));
        let Some(peer) = self.peer else { return statements };
        let before = believed.and_then(|it| list(it, &X_FORWARDED_FOR));
        let listed = before.map_or_else(|| peer.to_string(), |it| format!("{it}, {peer}"));
        statements.push((X_FORWARDED_FOR, listed));
        if let Some(before) = believed.and_then(|it| list(it, &FORWARDED)) {
            let node = if peer.is_ipv6() { format!("\"[{peer}]\"") } else { peer.to_string() };
            statements.push((FORWARDED, format!("{before}, for={node};proto={scheme}")));
        }
        statements
    }
}

/// The value of a header that came once, as text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}
