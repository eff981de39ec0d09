//! What trusted proxies (`listen.trusted_proxies`) say about the clients they speak for, in
//! `X-Forwarded-For` or `Forwarded` (RFC 7239).
//!
//! Both lists grow to the right, and anybody can begin one. So they are read from the right, past trusted
//! addresses; the first that is not trusted is the client.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::proxies::TrustedProxies;

/// The list of the clients and proxies that a request came through.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a proxy forwards is not believed: the two headers name two clients, or one has a quote that does not
/// end. A proxy that sets one header passes the other on as the client wrote it. A proxy that adds to a quote
/// that a client left open writes its own part into the client's text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotBelieved;

/// The client that a trusted proxy at `peer` names in the headers of a request; `peer` itself if it names
/// none. `None` is a process of this machine that connects over a Unix socket.
///
/// # Errors
/// [`NotBelieved`].
pub fn client_named(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    proxies: &TrustedProxies,
) -> Result<Option<IpAddr>, NotBelieved> {
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
fn client_of(peer: Option<IpAddr>, hops: Vec<Option<IpAddr>>, proxies: &TrustedProxies) -> Option<IpAddr> {
    let mut last = peer;
    for hop in hops.into_iter().rev() {
        let Some(address) = hop else { return last };
        last = Some(address);
        if !proxies.contains(address) {
            return last;
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
pub fn parts(value: &str, separator: char) -> impl Iterator<Item = &str> {
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

/// The lines of a list header as one; `None` if it did not come, or a line is not text.
#[must_use]
pub fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
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
        client_named(PEER.parse().ok(), &map, &proxies).ok().flatten().map(|it| it.to_string())
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
