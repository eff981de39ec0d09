//! The head of a request, and what proxies say about their client: read as other parsers read it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use faregate::gateway::fuzzing::{ReadHead, client_named_by, read_head};
use faregate::listen::TrustedProxies;
use faregate::listen::fuzzing::{head_length, proxied};
use faregate::routes::AbsoluteTarget;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::target;

/// A proxy that is trusted, as is all of its network.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => length(rest),
        1 => head(rest),
        2 => proxy_protocol(rest),
        _ => forwarded(rest),
    }
}

/// The watch over the time of a head ends where `httparse` finds the end of the head.
fn length(data: &[u8]) {
    let own = head_length(data);
    // In pieces it is the same: the place is all that is kept.
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(data) {
        Ok(httparse::Status::Complete(length)) => assert_eq!(own, Some(length)),
        Ok(httparse::Status::Partial) => assert_eq!(own, None, "{:?}", data.escape_ascii().to_string()),
        Err(_) => {}
    }
}

/// What the gateway reads of a head is what `httparse` reads, and what it matches is what it forwards.
fn head(data: &[u8]) {
    let Some(read) = read_head(data) else { return };
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(length)) = request.parse(data) else { return repaired(&read) };
    let (path, method) = (request.path.unwrap_or_default(), request.method.unwrap_or_default());
    assert_eq!(read.request.method.as_str(), method);
    let values = |name: &str| -> Vec<&[u8]> {
        let is_named = |it: &&httparse::Header<'_>| it.name.eq_ignore_ascii_case(name);
        request.headers.iter().filter(is_named).map(|it| it.value).collect()
    };
    let (lengths, encodings) = (values("content-length"), values("transfer-encoding"));
    if let Some(has_body) = read.has_body {
        let is_zero = |it: &[u8]| it.iter().all(|it| *it == b'0');
        assert!(encodings.is_empty() || lengths.is_empty(), "two ends of the body");
        assert!(encodings.len() <= 1 && lengths.len() <= 1);
        assert!(encodings.iter().all(|it| it.eq_ignore_ascii_case(b"chunked")));
        assert!(lengths.iter().all(|it| !it.is_empty() && it.iter().all(u8::is_ascii_digit)), "{lengths:?}");
        assert_eq!(has_body, !encodings.is_empty() || lengths.iter().any(|it| !is_zero(it)));
        let head = data[..length].trim_ascii_start();
        let bare = head.iter().enumerate().any(|(at, it)| match it {
            b'\n' => at == 0 || head[at - 1] != b'\r',
            b'\r' => head.get(at + 1) != Some(&b'\n'),
            _ => false,
        });
        assert!(!bare, "a bare CR or LF");
    }
    let Ok(matched) = read.target else { return assert!(read.forwarded.is_none()) };
    assert_eq!(read.forwarded.as_deref(), Some(matched.as_str().as_bytes()), "forwarded as something else");
    let hosts = values("host");
    assert!(hosts.len() <= 1, "more than one host");
    assert!(!path.contains('#'), "a fragment");
    let absolute = AbsoluteTarget::split(path);
    if let (Some(absolute), [host]) = (&absolute, hosts.as_slice()) {
        assert!(host.eq_ignore_ascii_case(absolute.authority.as_bytes()), "two hosts");
    }
    target::check(absolute.as_ref().map_or(path, |it| &it.target), &matched);
}

/// Pingora encodes what a target must not have and reads the head again. That is what is matched, then.
fn repaired(read: &ReadHead) {
    let Ok(matched) = &read.target else { return };
    let path = std::str::from_utf8(read.request.raw_path()).expect("ASCII");
    assert_eq!(read.forwarded.as_deref(), Some(matched.as_str().as_bytes()), "forwarded as something else");
    let absolute = AbsoluteTarget::split(path);
    target::check(absolute.as_ref().map_or(path, |it| &it.target), matched);
}

/// The header is read as `ppp` reads it, and nothing after it is.
fn proxy_protocol(data: &[u8]) {
    let peer = SocketAddr::new(PEER, 1);
    let own = proxied(data, peer);
    let (version_1, version_2) = (data.first() == Some(&b'P'), data.first() == Some(&b'\r'));
    let other = if version_1 { by_text(data, peer) } else { by_bytes(data, peer) };
    match (&own, other) {
        (Ok((client, rest)), Some((named, length))) => {
            assert_eq!((*client, rest.len()), (named, data.len() - length));
        }
        (Ok((client, _)), None) => {
            // Numbers and spaces of version 1 may be written more freely; there is a header in any case. Of a
            // proxy that speaks for itself only the length is read.
            assert!(version_1 || *client == peer, "{client} by one parser only");
        }
        (Err(_), Some((_, length))) => {
            assert!(version_2 && (length > 4096 || is_half_a_kind(data)), "not read: {own:?}");
        }
        (Err(_), None) => {}
    }
}

/// Whether version 2 names a family of addresses without a transport, or a transport without a family. Section 2.2
/// of its description allows a receiver to refuse all but seven combinations, and these are not among them.
fn is_half_a_kind(data: &[u8]) -> bool {
    matches!(data.get(13), Some(0x01 | 0x02 | 0x10 | 0x20 | 0x30))
}

fn by_text(data: &[u8], peer: SocketAddr) -> Option<(SocketAddr, usize)> {
    use ppp::v1::{Addresses, Header};
    // `ppp` also takes a line that LF alone ends, or nothing. Section 2.1 of the description wants CR LF.
    let header = Header::try_from(data).ok().filter(|it| it.header.ends_with("\r\n"))?;
    let client = match header.addresses {
        Addresses::Unknown => peer,
        Addresses::Tcp4(it) => SocketAddr::new(it.source_address.into(), it.source_port),
        Addresses::Tcp6(it) => SocketAddr::new(it.source_address.into(), it.source_port),
    };
    Some((client, header.header.len()))
}

fn by_bytes(data: &[u8], peer: SocketAddr) -> Option<(SocketAddr, usize)> {
    use ppp::v2::{Addresses, Command, Header, Protocol};
    let header = Header::try_from(data).ok()?;
    let client = match header.addresses {
        // A health check of the proxy itself names nobody, nor does what is no connection over IP.
        _ if header.command == Command::Local || header.protocol == Protocol::Unspecified => peer,
        Addresses::IPv4(it) => SocketAddr::new(it.source_address.into(), it.source_port),
        Addresses::IPv6(it) => SocketAddr::new(it.source_address.into(), it.source_port),
        Addresses::Unspecified | Addresses::Unix(_) => peer,
    };
    Some((client, header.header.len()))
}

/// What a client writes into the list that a proxy adds to does not change who the client is.
fn forwarded(data: &[u8]) {
    let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a network")]);
    let Some((seen, text)) = data.split_first_chunk::<4>() else { return };
    let client = IpAddr::V4(Ipv4Addr::from(*seen));
    let named = |name: &'static str, values: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).ok()?);
        }
        Some(client_named_by(PEER, &headers, &proxies))
    };
    // As it stands, the client is the proxy or an address that is there.
    for name in ["x-forwarded-for", "forwarded"] {
        let Some(found) = named(name, &[text]) else { return };
        let there = String::from_utf8_lossy(text);
        assert!(found.is_none_or(|it| it == PEER || is_written(it, &there)), "{found:?} in {there:?}");
    }
    // The proxy writes the address that it sees behind it, on the same line or on its own.
    let joined = |element: &str| [text, b", ", element.as_bytes()].concat();
    let v6 = IpAddr::V6(Ipv4Addr::from(*seen).to_ipv6_compatible());
    let is_quoted_v6 = !v6.is_loopback() && !v6.is_unspecified();
    let elements = [
        ("x-forwarded-for", client.to_string(), client),
        ("forwarded", format!("for={client}"), client),
        ("forwarded", format!("for=\"{client}:4711\";proto=https"), client),
        ("forwarded", format!("proto=https;for=\"[{v6}]\""), v6),
    ];
    for (name, element, client) in elements {
        if proxies.contains(client) || (client == v6 && !is_quoted_v6) {
            continue;
        }
        for values in [vec![joined(&element)], vec![text.to_vec(), element.clone().into_bytes()]] {
            let values: Vec<_> = values.iter().map(Vec::as_slice).collect();
            let found = named(name, &values).flatten();
            // A list that cannot be read is not believed: then the client is the proxy.
            assert!(found.is_none_or(|it| it == client || it == PEER), "{found:?} for {client}");
            let is_ordinary = text.iter().all(|it| it.is_ascii_alphanumeric() || b".:,= ".contains(it));
            assert!(!is_ordinary || found == Some(client), "{found:?} for {client}");
        }
    }
}

/// Whether an address stands in a text, in some spelling.
fn is_written(address: IpAddr, text: &str) -> bool {
    let words = text.split(|it: char| !it.is_ascii_hexdigit() && !".:".contains(it));
    let is_it = |word: &str| {
        let parsed = |it: &str| it.parse::<IpAddr>().is_ok_and(|it| it.to_canonical() == address);
        let before_port = word.rsplit_once(':').map_or(word, |(before, _)| before);
        parsed(word) || parsed(before_port) || parsed(word.trim_end_matches(':'))
    };
    words.into_iter().any(is_it)
        || matches!(address, IpAddr::V6(it) if it != Ipv6Addr::UNSPECIFIED && text.contains('%'))
}
