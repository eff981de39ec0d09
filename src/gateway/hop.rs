//! What is said for one connection only, and what each version of HTTP may be sent (RFC 9110 sections 7.6
//! and 15.2, RFC 9112 sections 6, 7 and 9, RFC 9113 section 8.2).
//!
//! Pingora takes the hop-by-hop fields out of requests; this takes them out of answers, and puts right
//! what else Pingora hands on as it came from the other side's version.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS,
    PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, Result, Session};

/// Fields of an answer that are about the connection to the upstream, beside those that `Connection` names.
static OF_THE_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHENTICATE,
    TE,
    UPGRADE,
];
/// What `Connection` cannot take away: without it the end of the body is lost.
const OF_THE_BODY: [HeaderName; 2] = [CONTENT_LENGTH, TRANSFER_ENCODING];

/// Treats a request of HTTP/1.0 as that version's: it knows no answer before the answer, and so expects
/// none (RFC 9110 sections 10.1.1 and 15.2).
pub(super) fn old_client(session: &mut Session) {
    if session.req_header().version == Version::HTTP_10 {
        session.set_ignore_info_resp(true);
        let _removed = session.req_header_mut().remove_header(&EXPECT).is_some();
    }
}

/// Leaves an `Upgrade` out that is to be ignored, so that the request is an ordinary one: in HTTP/1.0, and if
/// `Connection` does not name it. Then it is meant for somebody before the gateway (RFC 9110 section 7.8).
pub(super) fn upgrade(session: &mut Session) {
    let request = session.req_header();
    let is_ignored = request.headers.contains_key(UPGRADE)
        && (request.version != Version::HTTP_11 || !named(&request.headers).contains(&UPGRADE));
    if is_ignored {
        let _removed = session.req_header_mut().remove_header(&UPGRADE).is_some();
    }
}

/// Whether the client says that it closes its connection after the answer, in whichever line (RFC 9112
/// section 9.6).
pub(super) fn closes(request: &RequestHeader) -> bool {
    named(&request.headers).contains(&HeaderName::from_static("close"))
}

/// Whether an `OPTIONS` request is to go no further than here (RFC 9110 section 7.6.2).
pub(super) fn ends_here(request: &RequestHeader) -> bool {
    request.method == Method::OPTIONS && forwards_left(request) == Some(0)
}

fn forwards_left(request: &RequestHeader) -> Option<u64> {
    request.headers.get(MAX_FORWARDS).and_then(|it| it.to_str().ok()).and_then(|it| it.parse().ok())
}

/// Makes the client's request one of the version that the upstream is spoken to in.
pub(super) fn request(session: &Session, request: &mut RequestHeader, has_body: bool) -> Result<()> {
    let received = session.req_header().version;
    if received == Version::HTTP_2 && request.version != Version::HTTP_2 {
        join_cookies(request)?;
    }
    let is_sized = request.headers.contains_key(CONTENT_LENGTH);
    let expects_body = [Method::POST, Method::PUT, Method::PATCH].contains(&request.method);
    if expects_body && !has_body && !is_sized {
        // Some servers wait for a body otherwise, or answer 411 (RFC 9110 section 8.6).
        request.insert_header(CONTENT_LENGTH, 0)?;
    }
    if request.method == Method::OPTIONS
        && let Some(left) = forwards_left(request)
    {
        request.insert_header(MAX_FORWARDS, left.saturating_sub(1))?;
    }
    let via = match received {
        Version::HTTP_10 => "1.0 faregate",
        Version::HTTP_2 => "2 faregate",
        _ => "1.1 faregate",
    };
    request.append_header("via", HeaderValue::from_static(via))?;
    Ok(())
}

/// HTTP/2 may cut `Cookie` into pieces that no other version knows (RFC 9113 section 8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let pieces: Vec<_> = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() < 2 {
        return Ok(());
    }
    let whole = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
        .map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "the cookies are no field", error))?;
    request.insert_header(COOKIE, whole)
}

/// Makes the upstream's answer, also one before the answer, one of the client's version.
///
/// # Errors
/// A transfer coding that no client has asked for, and whose end only a client that knows it would see.
pub(super) fn answer(session: &mut Session, response: &mut ResponseHeader) -> Result<()> {
    check_coding(&response.headers)?;
    let is_tunnel = response.status == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = response.headers.get(UPGRADE).filter(|_| is_tunnel).cloned();
    let mut stopped = named(&response.headers);
    stopped.extend(response.headers.keys().filter(|it| OF_THE_CONNECTION.contains(it)).cloned());
    for name in &stopped {
        let _removed = response.remove_header(name).is_some();
    }
    if let Some(upgrade) = upgrade {
        response.insert_header(UPGRADE, upgrade)?;
        response.insert_header(CONNECTION, "upgrade")?;
    }
    if response.status.is_informational() || response.status == StatusCode::NO_CONTENT {
        for name in &OF_THE_BODY {
            let _removed = response.remove_header(name).is_some();
        }
    }
    if session.as_http1().is_some() || response.version != Version::HTTP_2 {
        // Pingora forwards no trailers from or to HTTP/1, so none is announced.
        let _removed = response.remove_header(&TRAILER).is_some();
    }
    if session.as_http1().is_none() {
        return Ok(());
    }
    if session.req_header().version == Version::HTTP_10
        && response.remove_header(&TRANSFER_ENCODING).is_some()
    {
        // A client that does not know chunks sees the end of the body by the end of the connection.
        session.set_keepalive(None);
    }
    // The version is that of who speaks, not of who spoke before (RFC 9110 section 6.2).
    response.set_version(Version::HTTP_11);
    Ok(())
}

fn check_coding(headers: &HeaderMap) -> Result<()> {
    let chunked = |it: &HeaderValue| it.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if codings.next().is_none_or(chunked) && codings.next().is_none() {
        return Ok(());
    }
    let why = "the upstream's answer has a transfer coding that was not asked for";
    Error::e_explain(ErrorType::InvalidHTTPHeader, why).map_err(|it: Box<Error>| it.into_up())
}

/// The fields that `Connection` names, but those that a body needs.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let tokens = values.flat_map(|it| it.as_bytes().split(|&byte| byte == b','));
    let names = tokens.filter_map(|it| HeaderName::from_bytes(it.trim_ascii()).ok());
    names.filter(|it| !OF_THE_BODY.contains(it)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::scenes::session;
    use super::*;

    /// The fields of what goes to an upstream of HTTP/1 for a request.
    fn forwarded(head: &str, has_body: bool) -> HeaderMap {
        let session = session(head);
        let mut to_upstream = session.req_header().clone();
        request(&session, &mut to_upstream, has_body).unwrap();
        to_upstream.headers.clone()
    }

    fn upstreams(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    /// The fields that a client of this version of HTTP/1 gets.
    fn answered(version: &str, mut head: ResponseHeader) -> Vec<String> {
        let mut session = session(&format!("GET / {version}\r\nHost: a\r\n\r\n"));
        answer(&mut session, &mut head).unwrap();
        assert_eq!(head.version, Version::HTTP_11);
        let mut names: Vec<_> = head.headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn a_client_says_in_any_line_that_it_closes() {
        let says = |fields: &str| {
            let session = session(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            closes(session.req_header())
        };
        assert!(says("Connection: close\r\n"));
        assert!(says("Connection: keep-alive\r\nConnection: x, Close\r\n"));
        assert!(!says("Connection: keep-alive\r\n") && !says(""));
    }

    #[test]
    fn options_that_may_go_no_further_end_here() {
        let ends = |line: &str, fields: &str| {
            ends_here(session(&format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).req_header())
        };
        assert!(ends("OPTIONS /", "Max-Forwards: 0\r\n"));
        assert!(!ends("OPTIONS /", "Max-Forwards: 1\r\n"));
        assert!(!ends("OPTIONS /", ""));
        assert!(!ends("GET /", "Max-Forwards: 0\r\n"), "it is for `OPTIONS` and `TRACE`");
    }

    #[test]
    fn each_forward_is_counted_and_named() {
        let options = forwarded("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 5\r\n\r\n", false);
        assert_eq!(options["max-forwards"], "4");
        assert_eq!(options["via"], "1.1 faregate");
        let get = forwarded("GET / HTTP/1.0\r\nMax-Forwards: 5\r\nVia: 1.1 other\r\n\r\n", false);
        assert_eq!(get["max-forwards"], "5");
        let via: Vec<_> = get.get_all("via").iter().collect();
        assert_eq!(via, ["1.1 other", "1.0 faregate"]);
    }

    #[test]
    fn a_method_with_a_meaning_for_a_body_says_that_there_is_none() {
        let length = |method: &str, fields: &str, has_body| {
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            forwarded(&head, has_body).get("content-length").map(|it| it.to_str().unwrap().to_owned())
        };
        for method in ["POST", "PUT", "PATCH"] {
            assert_eq!(length(method, "", false).as_deref(), Some("0"), "{method}");
        }
        assert_eq!(length("POST", "Transfer-Encoding: chunked\r\n", true), None);
        assert_eq!(length("POST", "Content-Length: 00\r\n", false).as_deref(), Some("00"));
        assert_eq!(length("GET", "", false), None);
    }

    #[test]
    fn pieces_of_a_cookie_are_joined() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        join_cookies(&mut request).unwrap();
        assert!(!request.headers.contains_key(COOKIE));
        for piece in ["a=1", "b=2; c=3", "d=4"] {
            request.append_header(COOKIE, piece).unwrap();
        }
        join_cookies(&mut request).unwrap();
        let cookies: Vec<_> = request.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn an_old_client_expects_no_answer_before_the_answer() {
        for (version, stays) in [("HTTP/1.0", false), ("HTTP/1.1", true)] {
            let mut session = session(&format!("PUT / {version}\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"));
            old_client(&mut session);
            assert_eq!(session.req_header().headers.contains_key(EXPECT), stays, "{version}");
        }
    }

    #[test]
    fn an_upgrade_is_asked_for_by_the_connection_and_in_http_1_1() {
        let asks = |version: &str, options: &str| {
            let fields = format!("Host: a\r\n{options}Upgrade: websocket\r\n");
            let mut session = session(&format!("GET / {version}\r\n{fields}\r\n"));
            upgrade(&mut session);
            session.req_header().headers.contains_key(UPGRADE)
        };
        assert!(asks("HTTP/1.1", "Connection: Upgrade\r\n"));
        assert!(asks("HTTP/1.1", "Connection: keep-alive\r\nConnection: x, upgrade\r\n"));
        assert!(!asks("HTTP/1.1", "") && !asks("HTTP/1.1", "Connection: upgrades\r\n"));
        assert!(!asks("HTTP/1.0", "Connection: Upgrade\r\n"));
    }

    #[test]
    fn what_is_about_the_upstreams_connection_stays_there() {
        let fields = [
            ("connection", "x-own, content-length"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("trailer", "x-sum"),
            ("content-length", "3"),
            ("content-type", "text/plain"),
        ];
        assert_eq!(answered("HTTP/1.1", upstreams(200, &fields)), ["content-length", "content-type"]);
    }

    #[test]
    fn a_tunnel_is_agreed_with_the_client_too() {
        let fields = [("connection", "Upgrade, x-own"), ("upgrade", "websocket"), ("x-own", "1")];
        assert_eq!(answered("HTTP/1.1", upstreams(101, &fields)), ["connection", "upgrade"]);
    }

    #[test]
    fn an_answer_that_can_have_no_body_announces_none() {
        for status in [103, 204] {
            for fields in [[("content-length", "3")], [("transfer-encoding", "chunked")]] {
                assert_eq!(answered("HTTP/1.1", upstreams(status, &fields)), [""; 0], "{status}");
            }
        }
        assert_eq!(answered("HTTP/1.1", upstreams(304, &[("content-length", "3")])), ["content-length"]);
    }

    #[test]
    fn chunks_are_for_clients_that_know_them() {
        let chunked = || upstreams(200, &[("transfer-encoding", "chunked")]);
        assert_eq!(answered("HTTP/1.1", chunked()), ["transfer-encoding"]);
        assert_eq!(answered("HTTP/1.0", chunked()), [""; 0]);
        for codings in [&[("transfer-encoding", "gzip, chunked")][..], &[("transfer-encoding", "chunked"); 2]]
        {
            assert!(check_coding(&upstreams(200, codings).headers).is_err(), "{codings:?}");
        }
        assert!(check_coding(&upstreams(200, &[("transfer-encoding", " Chunked")]).headers).is_ok());
        assert!(check_coding(&HeaderMap::new()).is_ok());
    }

    /// Only HTTP/2 cuts it: what a client of HTTP/1 sends in two lines is not known to be one cookie list.
    #[test]
    fn the_cookies_of_a_client_of_http_1_stay_as_they_are() {
        let cookies = forwarded("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n", false);
        let lines: Vec<_> = cookies.get_all(COOKIE).iter().collect();
        assert_eq!(lines, ["a=1", "b=2"]);
    }

    /// Pingora forwards no trailers to a client of HTTP/1, whatever the upstream speaks.
    #[test]
    fn no_trailers_are_announced_to_a_client_of_http_1() {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut head = upstreams(200, &[("trailer", "x-sum"), ("content-type", "text/plain")]);
            head.set_version(version);
            assert_eq!(answered("HTTP/1.1", head), ["content-type"], "{version:?}");
        }
    }
}
