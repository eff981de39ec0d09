//! The request's target in its one canonical form, which is matched and forwarded, and its one host.

use http::Version;
use http::header::HOST;
use http::uri::Authority;
use pingora::prelude::Session;

use crate::routes::{AbsoluteTarget, CanonicalTarget, NotCanonical, RequestHost};

/// The canonical target of a request, and its host; `None` if it names none.
///
/// # Errors
/// What makes the target or its host ambiguous.
pub(super) fn canonical(session: &Session) -> Result<(CanonicalTarget, Option<RequestHost>), String> {
    let request = session.req_header();
    if had_fragment(session) {
        return Err(NotCanonical::Fragment.to_string());
    }
    let raw = std::str::from_utf8(request.raw_path())
        .map_err(|_| "the request target is not UTF-8: percent-encode it".to_owned())?;
    let absolute = AbsoluteTarget::split(raw);
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => request.uri.authority().map(Authority::as_str),
        (Some(host), None) => Some(host.to_str().map_err(|_| "the Host header is not ASCII".to_owned())?),
        (Some(_), Some(_)) => return Err("more than one Host header".to_owned()),
    };
    if host.is_some_and(|it| !is_host(it)) {
        return Err("the Host header is not a host, or a host and a port".to_owned());
    }
    if host.is_none() && request.version == Version::HTTP_11 {
        return Err("the Host header is missing".to_owned());
    }
    let named =
        absolute.as_ref().map(|it| it.authority).or_else(|| request.uri.authority().map(|it| it.as_str()));
    if let (Some(host), Some(named)) = (host, named)
        && !host.eq_ignore_ascii_case(named)
    {
        return Err(format!("the target is for {named:?}, the Host header says {host:?}"));
    }
    let host = host.or(named).and_then(RequestHost::read);
    let target = absolute.as_ref().map_or(raw, |it| it.target.as_ref());
    let target = CanonicalTarget::parse(target).map_err(|error| error.to_string())?;
    Ok((target, host))
}

/// Whether a `Host` can be read in one way only (RFC 9110 section 7.2). It may be empty.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        Some(_) | None => (text, ""),
    };
    let is_number = port.bytes().all(|it| it.is_ascii_digit());
    // The usual ones need no closer look.
    let is_usual = |it: u8| it.is_ascii_alphanumeric() || it == b'.' || it == b'-';
    let ends_in_colon = port.is_empty() && name.len() < text.len();
    if !name.is_empty() && name.bytes().all(is_usual) && is_number && !ends_in_colon {
        return true;
    }
    let is_plain = !text.contains(['@', ',', ';']) && is_number;
    let is_closed = name.starts_with('[') == name.ends_with(']');
    text.is_empty() || (is_plain && is_closed && !name.is_empty() && Authority::try_from(text).is_ok())
}

/// Whether the target as received had a fragment. Pingora cuts it off silently; a proxy before it may
/// have matched the whole.
fn had_fragment(session: &Session) -> bool {
    session.as_http1().is_some_and(|session| {
        let line = session.get_headers_raw_bytes();
        let line = line.trim_ascii_start();
        let line = memchr::memchr(b'\n', line).and_then(|end| line.get(..end)).unwrap_or(line);
        let target = memchr::memchr(b' ', line).and_then(|start| line.get(start..)).unwrap_or_default();
        memchr::memchr(b'#', target).is_some()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::scenes::session;
    use super::*;

    proptest! {
        /// The short way takes nothing that the long way refuses.
        #[test]
        fn a_host_is_an_authority(text in "[a-zA-Z0-9.:@,;\\[\\]_%/-]{0,12}") {
            if is_host(&text) && !text.is_empty() {
                prop_assert!(Authority::try_from(text.as_str()).is_ok(), "{text}");
                prop_assert!(!text.contains(['@', ',', ';']));
            }
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_a_port() {
        for good in ["", "a", "a.example", "a-b", "a_b", "a:80", "a_b:80", "192.0.2.1:1", "[::1]", "[::1]:80"]
        {
            assert!(is_host(good), "{good:?}");
        }
        for bad in [
            ":", ":80", "a:b", "a_b:b", "a,b", "a_,b", "a;b", "u@a", "a:80@b", "[::1", "::1]", "a]", "[a",
            "[::1]:x", "[::1:80", "a/b", "a b",
        ] {
            assert!(!is_host(bad), "{bad:?}");
        }
    }

    #[test]
    fn only_the_target_can_have_a_fragment() {
        let read = |head: &str| canonical(&session(head)).map(|(target, _)| target.as_str().to_owned());
        assert_eq!(read("M#THOD /a HTTP/1.1\r\nHost: a\r\nX-Own: #\r\n\r\n").as_deref(), Ok("/a"));
        assert!(read("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    }
}
