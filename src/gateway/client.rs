//! Who asks: the one place where the gateway takes a client's address from.
//!
//! It is the address of the connection, or what a trusted proxy says
//! ([`crate::listen::forwarded`]).

use std::net::IpAddr;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName};
use pingora::http::RequestHeader;
use pingora::prelude::{Result, Session};

use crate::cashier::Client;
use crate::listen::forwarded::{self, X_FORWARDED_FOR, list};
use crate::listen::{Peer, TrustedProxies};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static(FORWARDED_HOST);
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static(FORWARDED_PROTO);
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The sender of a request, and what is believed of what was forwarded with it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caller {
    /// The other end of the connection; `None` if it does not connect by IP.
    peer: Option<IpAddr>,
    /// Whether it connects over a Unix socket.
    is_local: bool,
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
        let end = session.client_addr();
        let peer = end.and_then(|it| it.as_inet()).map(|it| it.ip().to_canonical());
        let is_local = end.is_some_and(|it| it.as_unix().is_some());
        let is_secure = session.digest().is_some_and(|it| it.ssl_digest.is_some());
        let is_trusted =
            if is_local { proxies.trusts(Peer::Unix) } else { peer.is_some_and(|it| proxies.contains(it)) };
        let named = is_trusted.then(|| forwarded::client_named(peer, &session.req_header().headers, proxies));
        match named {
            Some(Ok(address)) => Self { peer, is_local, address, is_believed: true, is_secure },
            Some(Err(forwarded::NotBelieved)) | None => {
                Self { peer, is_local, address: peer, is_believed: false, is_secure }
            }
        }
    }

    /// The client's address, as far as it is known.
    pub(super) const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The client's address, if it is certain: not that of one of `proxies` whose headers disagree about its client.
    pub(super) fn certain_address(&self, proxies: &TrustedProxies) -> Option<IpAddr> {
        self.address.filter(|it| self.is_believed || !proxies.contains(*it))
    }

    /// What the limits for each client count by.
    pub(super) fn client(&self) -> Option<Client> {
        self.address.map(Client::at).or_else(|| self.is_local.then(Client::local))
    }

    /// The host that the upstream is told that `request` asked for: what came with it, or what the sender
    /// says if it is believed.
    pub(super) fn host<'r>(&self, request: &'r RequestHeader) -> Option<&'r str> {
        // Of HTTP/2, the host is part of the target.
        let host = one(&request.headers, &HOST).or_else(|| request.uri.authority().map(|it| it.as_str()));
        self.believed(request).and_then(|it| one(it, &X_FORWARDED_HOST)).or(host)
    }

    /// The headers of `request`, if its sender is believed about them.
    pub(super) fn believed<'r>(&self, request: &'r RequestHeader) -> Option<&'r HeaderMap> {
        self.is_believed.then_some(&request.headers)
    }

    /// Tells `say` what the upstream is told about the sender of `request`: in place of what came with it, or
    /// added to it if the sender is believed.
    pub(super) fn state(
        &self,
        request: &RequestHeader,
        mut say: impl FnMut(&'static str, &str) -> Result<()>,
    ) -> Result<()> {
        let believed = self.believed(request);
        let scheme = if self.is_secure { "https" } else { "http" };
        if let Some(host) = self.host(request) {
            say(FORWARDED_HOST, host)?;
        }
        let is_scheme = |it: &&str| it.split(',').all(|it| ["http", "https"].contains(&it.trim()));
        let proto = believed.and_then(|it| one(it, &X_FORWARDED_PROTO)).filter(is_scheme).unwrap_or(scheme);
        say(FORWARDED_PROTO, proto)?;
        let before = believed.and_then(|it| list(it, &X_FORWARDED_FOR));
        let Some(peer) = self.peer else {
            // A proxy without an address. What it says of its client is all there is to say.
            let listed = before.map_or(Ok(()), |it| say("x-forwarded-for", &it));
            let forwarded = believed.and_then(|it| list(it, &FORWARDED));
            return listed.and_then(|()| forwarded.map_or(Ok(()), |it| say("forwarded", &it)));
        };
        match before {
            Some(before) => say("x-forwarded-for", &format!("{before}, {peer}"))?,
            None => say("x-forwarded-for", &text(peer))?,
        }
        if let Some(before) = believed.and_then(|it| list(it, &FORWARDED)) {
            let node = if peer.is_ipv6() { format!("\"[{peer}]\"") } else { peer.to_string() };
            say("forwarded", &format!("{before}, for={node};proto={scheme}"))?;
        }
        Ok(())
    }
}

/// An address as text. The standard library's way takes ten times as long, for its padding.
fn text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (index, number) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(number));
    }
    text
}

/// The value of a header that came once, as text.
pub(super) fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::super::scenes::session;
    use super::*;

    const FIELDS: &str = "Host: a.example\r\nX-Forwarded-Host: b.example\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\n";

    /// What the upstream is told.
    fn told(caller: Caller, fields: &str) -> Vec<(&'static str, String)> {
        let session = session(&format!("GET / HTTP/1.1\r\n{fields}\r\n"));
        let mut said = Vec::new();
        let stated = caller.state(session.req_header(), |name, value| {
            said.push((name, value.to_owned()));
            Ok(())
        });
        stated.unwrap();
        said
    }

    fn caller(peer: &str, is_believed: bool) -> Caller {
        let peer = Some(peer.parse().unwrap());
        Caller { peer, address: peer, is_believed, ..Caller::default() }
    }

    #[test]
    fn what_a_stranger_says_of_itself_is_not_handed_on() {
        let said = told(caller("203.0.113.5", false), FIELDS);
        let expected = [
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-for", "203.0.113.5"),
        ];
        assert_eq!(said, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn what_a_trusted_proxy_says_is_handed_on_with_its_own_address() {
        let said = told(caller("2001:db8::5", true), FIELDS);
        let expected = [
            ("x-forwarded-host", "b.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "192.0.2.7, 2001:db8::5"),
            ("forwarded", "for=192.0.2.7, for=\"[2001:db8::5]\";proto=http"),
        ];
        assert_eq!(said, expected.map(|(name, value)| (name, value.to_owned())));
        let twice =
            "Host: a.example\r\nX-Forwarded-Host: b\r\nX-Forwarded-Host: c\r\nX-Forwarded-Proto: gopher\r\n";
        let secure = Caller { is_secure: true, ..caller("192.0.2.1", true) };
        let expected = [
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        assert_eq!(told(secure, twice), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn of_a_proxy_without_an_address_only_what_it_says_is_handed_on() {
        let local = Caller { is_local: true, ..Caller::default() };
        let expected = [("x-forwarded-host", "a.example"), ("x-forwarded-proto", "http")];
        assert_eq!(told(local, FIELDS), expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(local.client(), Some(Client::local()));
        let believed = Caller { is_believed: true, ..local };
        let expected = [
            ("x-forwarded-host", "b.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "192.0.2.7"),
            ("forwarded", "for=192.0.2.7"),
        ];
        assert_eq!(told(believed, FIELDS), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn an_address_is_written_as_the_standard_library_does() {
        for address in ["0.0.0.0", "192.0.2.255", "2001:db8::1", "::"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(text(address), address.to_string());
        }
    }
}
