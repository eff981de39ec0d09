//! Who asks: the one place where the gateway takes a client's address from.
//!
//! It is the address of the connection. A trusted proxy (`listen.trusted_proxies`) is believed about the
//! client it speaks for, by `X-Forwarded-For` or `Forwarded` (RFC 7239). Both lists grow to the right,
//! and anybody can begin one. So they are read from the right, past trusted addresses; the first that is
//! not trusted is the client.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use pingora::prelude::Session;

use crate::cashier::Client;
use crate::listen::TrustedProxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
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
        let named = believed.map(|it| named_by(it, &session.req_header().headers, proxies));
        match named {
            Some(Ok(address)) => Self { peer, address: Some(address), is_believed: true, is_secure },
            Some(Err(NotBelieved)) | None => Self { peer, address: peer, is_believed: false, is_secure },
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

/// What a proxy forwards is not believed: the two headers name two clients, or one has a quote that does not
/// end. A proxy that sets one header passes the other on as the client wrote it. A proxy that adds to a quote
/// that a client left open writes its own part into the client's text.
pub(super) struct NotBelieved;

/// The client that a trusted proxy at `peer` names; `peer` itself if it names none.
pub(super) fn named_by(
    peer: IpAddr,
    headers: &HeaderMap,
    proxies: &TrustedProxies,
) -> Result<IpAddr, NotBelieved> {
    let listed = list(headers, &X_FORWARDED_FOR).map(|it| {
        let hops: Vec<_> = it.split(',').map(address).collect();
        client_of(peer, hops, proxies)
    });
    let forwarded = list(headers, &FORWARDED);
    if forwarded.as_deref().is_some_and(has_open_quote) {
        return Err(NotBelieved);
    }
    let forwarded = forwarded.map(|it| {
        let hops: Vec<_> = parts(&it, ',').map(forwarded_for).collect();
        client_of(peer, hops, proxies)
    });
    match (listed, forwarded) {
        (Some(one), Some(other)) if one != other => Err(NotBelieved),
        (Some(named), _) | (None, Some(named)) => Ok(named),
        (None, None) => Ok(peer),
    }
}

/// The first address from the right that is not trusted. What is no address ends the search: the hop
/// before it is the last that is known.
fn client_of(peer: IpAddr, hops: Vec<Option<IpAddr>>, proxies: &TrustedProxies) -> IpAddr {
    let mut last = peer;
    for hop in hops.into_iter().rev() {
        let Some(address) = hop else { return last };
        last = address;
        if !proxies.contains(address) {
            return address;
        }
    }
    last
}

/// An address as these headers write it: with or without a port, IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|it: SocketAddr| it.ip()));
    address.map(|it| it.to_canonical())
}

/// The address after `for=` in one element of `Forwarded` (RFC 7239, section 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let value = parts(element, ';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    })?;
    address(value.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(value))
}

/// The parts between separators that are not in quotes, without empty ones.
pub(super) fn parts(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quote = Quote::default();
    let parts = value.split(move |character| {
        quote.pass(character);
        character == separator && !quote.is_open
    });
    parts.map(str::trim).filter(|it| !it.is_empty())
}

/// Whether a quote in `value` does not end.
fn has_open_quote(value: &str) -> bool {
    let mut quote = Quote::default();
    value.chars().for_each(|character| quote.pass(character));
    quote.is_open
}

/// Whether a place in a header is within a quoted string (RFC 9110, section 5.6.4).
#[derive(Clone, Copy, Debug, Default)]
struct Quote {
    is_open: bool,
    /// The next character stands for itself.
    is_escaped: bool,
}

impl Quote {
    fn pass(&mut self, character: char) {
        let escaped = std::mem::take(&mut self.is_escaped);
        self.is_open ^= character == '"' && !escaped;
        self.is_escaped = self.is_open && character == '\\' && !escaped;
    }
}

/// The value of a header that came once, as text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

/// The lines of a list header as one; `None` if it did not come, or a line is not text.
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Result<Vec<_>, _> = headers.get_all(name).iter().map(HeaderValue::to_str).collect();
    lines.ok().filter(|it| !it.is_empty()).map(|it| it.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1";

    /// The client that a proxy at [`PEER`] names by these headers; 10.0.0.0/8 is trusted.
    fn named(headers: &[(&HeaderName, &str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        named_by(PEER.parse().unwrap(), &map, &proxies).ok().map(|it| it.to_string())
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_not_trusted() {
        let list = &X_FORWARDED_FOR;
        for (value, client) in [
            ("192.0.2.1", "192.0.2.1"),
            ("198.51.100.9, 192.0.2.1", "192.0.2.1"),
            ("198.51.100.9, 192.0.2.1, 10.1.1.1", "192.0.2.1"),
            ("10.9.9.9, 10.1.1.1", "10.9.9.9"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, unknown", PEER),
            ("192.0.2.1, nonsense, 10.1.1.1", "10.1.1.1"),
            ("", PEER),
        ] {
            assert_eq!(named(&[(list, value)]).as_deref(), Some(client), "{value}");
        }
        let lines = [(list, "198.51.100.9"), (list, "192.0.2.1"), (list, "10.1.1.1")];
        assert_eq!(named(&lines).as_deref(), Some("192.0.2.1"));
        assert_eq!(named(&[]).as_deref(), Some(PEER));
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_writes_it() {
        for (value, client) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:80\"; proto=http;by=203.0.113.43", "192.0.2.1"),
            ("for=198.51.100.9, For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.1, for=10.1.1.1", "192.0.2.1"),
            ("for=192.0.2.1, for=unknown", PEER),
            ("for=192.0.2.1, for=_hidden", PEER),
            ("for=192.0.2.1, proto=http", PEER),
            ("for=192.0.2.1;ext=\"a, for=198.51.100.9\"", "192.0.2.1"),
            ("for=192.0.2.1;ext=\"a\\\", for=198.51.100.9\"", "192.0.2.1"),
        ] {
            assert_eq!(named(&[(&FORWARDED, value)]).as_deref(), Some(client), "{value}");
        }
    }

    /// A client that left a quote open made what the proxy added a part of its own text: it was whoever it
    /// said, and no limit for one client held for it.
    #[test]
    fn a_quote_that_a_client_leaves_open_hides_nothing() {
        for begun in ["for=198.51.100.9;x=\"", "for=198.51.100.9;x=\"\\", "for=\"198.51.100.9", "\""] {
            for added in ["for=192.0.2.1", "for=\"[2001:db8::1]:4711\"", "proto=https;for=\"192.0.2.1:80\""] {
                let joined = format!("{begun}, {added}");
                assert_eq!(named(&[(&FORWARDED, &joined)]), None, "{joined}");
                assert_eq!(named(&[(&FORWARDED, begun), (&FORWARDED, added)]), None, "{joined}");
            }
        }
        let ended = "for=198.51.100.9;x=\"\\\"\", for=192.0.2.1";
        assert_eq!(named(&[(&FORWARDED, ended)]).as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn two_headers_that_disagree_are_both_not_believed() {
        let both = |other| named(&[(&X_FORWARDED_FOR, "192.0.2.1"), (&FORWARDED, other)]);
        assert_eq!(both("for=192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(both("for=198.51.100.9"), None);
    }
}
